"""From a seed and a number to a complete phantom case on the BraTS grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from helpers.data.phantom.anatomy import (
    FIELD_OF_VIEW,
    draw_anatomy,
    draw_pose,
    draw_warp,
)
from helpers.data.phantom.contrast import draw_image
from helpers.data.phantom.draws import Draws
from helpers.data.phantom.template import load_template
from helpers.data.phantom.tumour import draw_foci, draw_tumour


@dataclass(frozen=True)
class PhantomSettings:
    """What a cohort of phantoms shares.

    Attributes
    ----------
    spacing : float
        Voxel edge in mm: 1 gives the BraTS grid 240x240x155, 2 gives 120x120x78, 4 gives 60x60x39.
    seed : int
        Seed of the cohort; a case is named by it and the case's index alone.
    """

    spacing: float = 1.0
    seed: int = 2021

    def __post_init__(self):
        if self.spacing not in (1, 2, 4):
            raise ValueError(f"a phantom's spacing must be 1, 2 or 4 mm, not {self.spacing}")


DEFAULTS = PhantomSettings()


@dataclass(frozen=True)
class Phantom:
    """A synthetic case in BraTS 2021 orientation (LPS) and units.

    Attributes
    ----------
    image : int16 array (4, X, Y, Z)
        T1, T1ce, T2, FLAIR; arbitrary units, zero outside the brain. Float32 where it is made for training only.
    classes : uint8 array (X, Y, Z)
        0 background, 1 NCR, 2 ED, 3 ET.
    affine : float64 array (4, 4)
        From voxel indices to millimetres in RAS+.
    """

    image: np.ndarray
    classes: np.ndarray
    affine: np.ndarray


def make_phantom(index: int, settings: PhantomSettings = DEFAULTS, *, device: str = "cpu") -> Phantom:
    """Make one case; the same index and settings give the same case, alone or in a cohort.

    On another kind of device the anatomy and the tumour are the same and the noise of single voxels differs.

    Parameters
    ----------
    index : int
        Number of the case, from 0.
    settings : PhantomSettings
        What the cohort shares.
    device : str
        "cpu" or a CUDA device.
    """
    draws = Draws(settings.seed, index, device=device)
    template = load_template(device)
    with torch.inference_mode():
        pose = draw_pose(draws)
        foci = draw_foci(draws, template, pose)
        warp = draw_warp(draws, template, pose, [focus.mass for focus in foci], settings.spacing)
        anatomy = draw_anatomy(draws, template, warp)
        tumour = draw_tumour(draws, foci, anatomy, warp.box)
        image = draw_image(draws, anatomy, tumour, warp.box)
        gain = torch.tensor([draws.uniform(150, 900) for _ in range(4)], device=device).view(4, 1, 1, 1)
        # Inside the brain an intensity is at least 1, because 0 means background to every BraTS reader.
        image = image.mul_(gain).round_().clamp_(1, 32767).mul_(anatomy.brain).to(torch.int16)
    spacing = settings.spacing
    grid = tuple(math.ceil(length / spacing) for length in FIELD_OF_VIEW)
    inner = warp.box.inside
    full = np.zeros((4, *grid), dtype=np.int16)
    full[(slice(None), *inner)] = image.cpu().numpy()
    classes = np.zeros(grid, dtype=np.uint8)
    classes[inner][tumour.part] = tumour.classes.cpu().numpy()
    return Phantom(full, classes, brats_affine(spacing))


def brats_affine(spacing: float) -> np.ndarray:
    """Affine of a BraTS volume at the given spacing: axes towards left, posterior, superior, as the released files have."""
    half = (spacing - 1) / 2
    affine = np.diag([-spacing, -spacing, spacing, 1.0])
    affine[:3, 3] = [-half, 239 - half, half]
    return affine
