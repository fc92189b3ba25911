"""From a seed and a number to a complete case: calibrated on patients (`make_phantom`) or randomised (`draw_random_phantom`).

In a randomised phantom everything that a scanner, a protocol or a tumour can vary is drawn at random. It is the calibrated
generator with wider ranges, and with what can deceive a network drawn on top. A network trained on such cases meets a patient
as one more variation (domain randomisation: Tobin et al. 2017; Billot et al., SynthSeg, Medical Image Analysis 86, 2023). Most
cases keep to the calibrated contrasts, loosely; the rest are free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from glioma_phantom.anatomy import FIELD_OF_VIEW, Anatomy, AnatomyRanges, draw_anatomy, draw_pose, draw_warp, load_template
from glioma_phantom.artefacts import MimicRanges, ScannerRanges, draw_mimics, scan, strip_skull
from glioma_phantom.contrast import (
    MODALITIES,
    T1_WEIGHTED,
    CoreRanges,
    Look,
    Overlay,
    draw_core,
    draw_image,
    draw_looks,
    label_enhancement,
    mix_tumour,
    vary_looks,
)
from glioma_phantom.draws import Box, Draws, Range, check_seed
from glioma_phantom.tumour import NON_ENHANCING, Tumour, TumourRanges, draw_foci, draw_tumour, press_out
from glioma_phantom.variants import SOME_VARIANTS, VariantRanges, draw_variants, drop_modality, move_looks, narrow_ranges

CEREBELLUM = {"t2": (0.85, 1.25), "flair": (0.85, 1.4)}
"""Brightness of the cerebellum and what lies beside it, relative to the rest of the brain."""
FOLIA: Range = (0.0, 0.35)
"""Share of the cerebellum's cortex that is the fluid between its folia, too fine for any voxel to show."""
RANDOMISED_VERSION = 5
"""Raised when the same ranges, seed and number draw another case."""
SERIES, VARIANTS = 1, 2
"""Keep the random numbers of randomised phantoms and of their variants apart from the calibrated cohort's (`Draws`)."""


@dataclass(frozen=True)
class PhantomSettings:
    """What a cohort of phantoms shares.

    Attributes
    ----------
    spacing : float
        Voxel edge in mm: 1 gives the BraTS grid 240x240x155, 2 gives 120x120x78, 4 gives 60x60x39.
    seed : int
        Seed of the cohort, from 0; a case is named by it, the spacing and the case's index.
    """

    spacing: float = 1.0
    seed: int = 2021

    def __post_init__(self):
        check_spacing(self.spacing)
        object.__setattr__(self, "spacing", float(self.spacing))
        object.__setattr__(self, "seed", check_seed(self.seed))


def check_spacing(spacing: float) -> None:
    """Refuse voxels that do not divide the coarse grid on which anatomy is bent."""
    if spacing not in (1, 2, 4):
        raise ValueError(f"a phantom's spacing must be 1, 2 or 4 mm, not {spacing}")


CALIBRATED = PhantomSettings()


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


def make_phantom(index: int, settings: PhantomSettings = CALIBRATED, *, device: str = "cpu") -> Phantom:
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
    return _whole(image, tumour, warp.box)


def _whole(image: torch.Tensor, tumour: Tumour, box: Box) -> Phantom:
    """Put what was drawn in a box into the field of view of a BraTS volume."""
    grid = tuple(math.ceil(length / box.spacing) for length in FIELD_OF_VIEW)
    drawn = image.cpu().numpy()
    full, classes = np.zeros((4, *grid), drawn.dtype), np.zeros(grid, np.uint8)
    full[(slice(None), *box.inside)] = drawn
    classes[box.inside][tumour.part] = tumour.classes.cpu().numpy()
    return Phantom(full, classes, brats_affine(box.spacing))


def brats_affine(spacing: float) -> np.ndarray:
    """Affine of a BraTS volume at the given spacing: axes towards left, posterior, superior, as the released files have."""
    half = (spacing - 1) / 2
    affine = np.diag([-spacing, -spacing, spacing, 1.0])
    affine[:3, 3] = [-half, 239 - half, half]
    return affine


@dataclass(frozen=True)
class ContrastRanges:
    """How freely intensities are drawn.

    Attributes
    ----------
    free : float
        Probability of a case whose contrasts are drawn without regard to the calibrated ones.
    looseness : range
        By how much the spread around the calibrated intensities is multiplied in the other cases.
    reversed : float
        Probability, in a free case and for each of T1, T1ce and FLAIR, that grey matter is as bright as white or brighter.
    unsuppressed : float
        Probability that fluid is bright on FLAIR.
    enhancement : range
        Factor on how much brighter enhancing tumour is on T1ce than on T1.
    swelling : range
        Factor on how much brighter than white matter oedema and necrosis are on T2.
    through : range
        Share of the contrast between grey and white matter that is left in oedema.
    texture : range
        Standard deviation of the texture of healthy tissue.
    grain : range
        Factor on the calibrated texture of the tumour.
    patchiness : range
        Standard deviation of smooth variation in each tissue over 25 mm.
    """

    free: float = 0.4
    looseness: Range = (1.0, 2.2)
    reversed: float = 0.15
    unsuppressed: float = 0.2
    enhancement: Range = (0.8, 2.0)
    swelling: Range = (1.0, 1.7)
    through: Range = (0.0, 0.8)
    texture: Range = (0.0, 0.04)
    grain: Range = (0.3, 3.0)
    patchiness: Range = (0.0, 0.10)


WIDE_ANATOMY = AnatomyRanges(
    size=0.05,
    turn=0.08,
    bend=(1.0, 4.5),
    ripple=(0.2, 1.5),
    sharpness=(0.9, 2.4),
    gyri=(0.2, 0.7),
    ventricles=(-0.8, 3.0),
    atrophy=(-0.6, 1.0),
)
WIDE_TUMOUR = TumourRanges(
    kinds=(0.48, 0.30, 0.22),
    multifocal=0.2,
    radius=((5.0, 31.0), (6.0, 36.0), (8.0, 39.0)),
    scatter=8.0,
    stretch=(0.65, 1.5),
    reach=((2.0, 34.0), (2.0, 34.0), (1.0, 18.0)),
    push=(0.0, 0.55),
    rough=(0.4, 2.2),
    rim=(0.35, 0.88),
    gaps=(-2.6, -0.4),
    islands=(-1.2, 0.6),
    enclosed=0.65,
    specks=0.45,
    spared=(0.0, 1.2),
    effaced=(0.0, 1.0),
    infratentorial=0.1,
    crossing=0.12,
    fade=(0.0, 0.8),
    sharp=(0.0, 0.8),
    resected=0.04,
)
CONTRAST, CORE, MIMICS, SCANNER = ContrastRanges(), CoreRanges(), MimicRanges(), ScannerRanges()


@dataclass(frozen=True)
class Randomisation:
    """All ranges of a randomised phantom: anatomy, tumour and its inside, contrast, mimics of tumour, scanner, variants."""

    anatomy: AnatomyRanges = WIDE_ANATOMY
    tumour: TumourRanges = WIDE_TUMOUR
    contrast: ContrastRanges = CONTRAST
    core: CoreRanges = CORE
    mimics: MimicRanges = MIMICS
    scanner: ScannerRanges = SCANNER
    variants: VariantRanges = SOME_VARIANTS


WIDE = Randomisation()


def draw_random_phantom(
    seed: int, index: int, *, spacing: float = 2.0, device: str = "cpu", ranges: Randomisation = WIDE
) -> Phantom:
    """Make one randomised case; the same arguments give the same case.

    Parameters
    ----------
    seed, index : int
        With the spacing they name the case.
    spacing : float
        Voxel edge in mm: 1, 2 or 4.
    device : str
        "cpu" or a CUDA device, which draws the same anatomy and tumour with other noise.
    ranges : Randomisation
        What is drawn, and how widely.

    Returns
    -------
    Phantom
        As `make_phantom` makes it, but its image is float32, relative to white matter; at least 0.001 inside the brain,
        except in a modality that is missing (`VariantRanges.missing`).

    Raises
    ------
    ValueError
        If the spacing is another.
    """
    check_spacing(spacing)
    draws, apart = (Draws(seed, index, device=device, series=series) for series in (SERIES, VARIANTS))
    variants = draw_variants(apart, ranges.variants)
    ranges = narrow_ranges(variants, ranges)
    template = load_template(device)
    with torch.inference_mode():
        pose = draw_pose(draws, ranges.anatomy)
        foci = draw_foci(draws, template, pose, ranges.tumour)
        warp = draw_warp(draws, template, pose, [focus.mass for focus in foci], spacing, ranges.anatomy)
        anatomy, shell = strip_skull(draws, draw_anatomy(draws, template, warp, ranges.anatomy), warp.box, ranges.mimics)
        anatomy = press_out(draws, foci, anatomy, warp.box, ranges.tumour)
        tumour = draw_tumour(draws, foci, replace(anatomy, brain=anatomy.brain & (shell == 0)), warp.box, ranges.tumour)
        mimics = draw_mimics(draws, anatomy, shell, warp.box, ranges.mimics)
        looks = vary_looks(draws, draw_random_looks(draws, tumour.kind, ranges.contrast), tumour.kind, ranges.core)
        looks = move_looks(apart, variants, looks)
        image, tumour = draw_random_image(draws, anatomy, tumour, looks, mimics, warp.box, ranges)
        image = drop_modality(apart, variants, image.clamp_(min=1e-3).mul_(anatomy.brain))
    return _whole(image, tumour, warp.box)


def draw_random_image(
    draws: Draws,
    anatomy: Anatomy,
    tumour: Tumour,
    looks: dict[str, Look],
    mimics: list[Overlay],
    box: Box,
    ranges: Randomisation,
) -> tuple[torch.Tensor, Tumour]:
    """Render the four modalities, float32 (4, X, Y, Z), relative to white matter, and label the tumour as it looks there."""
    core = draw_core(draws, tumour, looks, box.spacing, ranges.core)
    grain, through = draws.within(ranges.contrast.grain), draws.within(ranges.contrast.through)
    channels, tissue = [], {}
    texture = draws.field(box, 3.2) + draws.field(box, draws.uniform(7.0, 14.0), strength=draws.uniform(0.3, 1.0))
    below = torch.sigmoid(-(anatomy.height + 35) / 4)
    folia = anatomy.grey * below * torch.sigmoid(-(anatomy.front + 8) / 4) * draws.within(FOLIA) * (1 + 0.3 * texture[0])
    grey, fluid = anatomy.grey - folia, anatomy.fluid + folia
    for modality in MODALITIES:
        look = looks[modality]
        patches = 1 + draws.field(box, 25.0, 3, strength=draws.within(ranges.contrast.patchiness))
        cerebellum = 1 + (draws.uniform(*CEREBELLUM.get(modality, (0.9, 1.1))) - 1) * below
        solid = (anatomy.white * (0.5 + 0.5 * patches[2]) + look.grey * grey * patches[0]) * cerebellum
        image = solid + look.fluid * fluid * patches[1]
        image.add_(anatomy.detail * (anatomy.white + anatomy.grey), alpha=_detail(draws, modality))
        image.add_(texture[0], alpha=draws.within(ranges.contrast.texture))
        mix_tumour(image[tumour.part], look, tumour, anatomy, texture[0][tumour.part], grain=grain, through=through)
        for stuff in core:
            image[tumour.part] += stuff.share * (stuff.look[modality] - image[tumour.part])
        if tumour.cavity is not None:
            image[tumour.part] += tumour.cavity * (look.fluid - image[tumour.part])
        if modality in T1_WEIGHTED:
            tissue[modality] = image[tumour.part].clone()
        for stuff in mimics:
            image = torch.lerp(image, torch.full_like(image, stuff.look[modality]), stuff.share)
        noise = 1.0 if modality in ("t2", "flair") else 0.5  # T1 has less contrast for the same share of noise
        channels.append(scan(draws, image, box, ranges.scanner, noise=noise))
    classes = label_enhancement(draws, tumour, looks, tissue["t1"], tissue["t1ce"], box.spacing, ranges.core)
    return torch.stack(channels), replace(tumour, classes=classes)


def draw_random_looks(draws: Draws, kind: int, ranges: ContrastRanges) -> dict[str, Look]:
    """Draw one examination's contrasts: loosely around the calibrated ones, or freely."""
    looks = _free_looks(draws, kind, ranges) if draws.chance(ranges.free) else _loose_looks(draws, kind, ranges)
    t1ce, t2, before, swelling = looks["t1ce"], looks["t2"], looks["t1"].enhancing, draws.within(ranges.swelling)
    looks["t1ce"] = replace(t1ce, enhancing=before + draws.within(ranges.enhancement) * (t1ce.enhancing - before))
    looks["t2"] = replace(t2, **{name: 1 + swelling * (getattr(t2, name) - 1) for name in ("oedema", "necrosis")})
    return looks


def _loose_looks(draws: Draws, kind: int, ranges: ContrastRanges) -> dict[str, Look]:
    """The calibrated contrasts with more spread."""
    looks = draw_looks(draws, kind)
    looseness = draws.within(ranges.looseness) - 1
    for modality, look in looks.items():
        scale = 0.15 if modality in ("t2", "flair") else 0.06
        names = ("grey", "fluid", "necrosis", "oedema", "enhancing")
        moved = {name: getattr(look, name) * (1 + draws.normal(0, scale * looseness)) for name in names}
        looks[modality] = replace(look, **moved)
    return looks


def _free_looks(draws: Draws, kind: int, ranges: ContrastRanges) -> dict[str, Look]:
    """Contrasts that only keep to what defines the classes.

    Enhancing tumour takes up contrast agent, oedema and core hold more water than white matter and so are brighter on T2 and
    FLAIR and not brighter on T1; core that does not enhance holds most.
    """
    uniform = draws.uniform
    lesser = kind == NON_ENHANCING
    grey = uniform(0.62, 0.97)
    oedema = uniform(0.7, 1.0)
    necrosis = oedema * uniform(0.55, 0.98)
    t1 = [grey, uniform(0.15, 0.75), necrosis, oedema, uniform(0.75, 1.1)]
    t1ce = [value * (1 + draws.normal(0, 0.05)) for value in t1[:4]] + [max(t1[4], grey) * uniform(1.15, 2.2)]
    weight = 2.0 ** uniform(-1.5, 1.2)
    t2 = [1 + weight * value for value in (uniform(0.1, 0.6), uniform(1.5, 2.8), uniform(0.8, 2.2))]
    t2 += [1 + weight * uniform(0.4, 1.2), 1 + weight * uniform(0.4, 1.4)]
    bright = uniform(0.2, 1.1)
    core = bright * uniform(0.5, 1.6) if lesser or draws.chance(0.6) else uniform(-0.5, 0.6)
    flair = [1 + bright * uniform(0.0, 0.5), uniform(0.2, 0.9), 1 + core, 1 + bright, 1 + bright * uniform(0.3, 1.2)]
    if draws.chance(ranges.unsuppressed):
        flair[1] = uniform(0.8, 1.6)
    for values in (t1, t1ce, flair):
        if draws.chance(ranges.reversed):
            values[0] = uniform(1.0, 1.25)
    values = dict(zip(MODALITIES, (t1, t1ce, t2, flair), strict=True))
    return {name: Look(*levels, noise=0.0) for name, levels in values.items()}


def _detail(draws: Draws, modality: str) -> float:
    """How strongly the template's own detail (deep nuclei above all) shows."""
    return draws.uniform(0.0, 0.5) if modality in ("t1", "t1ce") else draws.uniform(-0.4, 0.1)
