"""The anatomy that every phantom starts from: ICBM152 2009a tissue maps, as nilearn carries them in its package.

Source: Fonov et al., NeuroImage 54 (2011) 313-327; the maps are averages of 152 healthy adults.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from nilearn import datasets
from scipy import ndimage

CHANNELS = ("grey", "white", "brain", "depth", "ventricles", "detail")
"""Maps of the template: grey and white matter and brain (0-1), depth below the brain's surface (cm),
closeness to the ventricles (0-1), and what T1 shows beyond the tissue classes."""


@dataclass(frozen=True)
class Template:
    """Maps on the template's 1 mm grid, RAS.

    Attributes
    ----------
    maps : float32 tensor (6, X, Y, Z)
        In the order of `CHANNELS`.
    centre : float32 tensor (3,)
        Voxel in the middle of the brain.
    seeds : float32 tensor (N, 3)
        Voxels in white matter deep enough for a tumour to start in.
    """

    maps: torch.Tensor
    centre: torch.Tensor
    seeds: torch.Tensor


@lru_cache(maxsize=4)
def load_template(device: str = "cpu") -> Template:
    """Load the maps onto a device; takes about a second, later calls in the same process take none."""
    loaders = (
        datasets.load_mni152_gm_template,
        datasets.load_mni152_wm_template,
        datasets.load_mni152_brain_mask,
        datasets.load_mni152_template,
    )
    grey, white, brain, t1 = (np.asarray(load(resolution=1).dataobj, dtype=np.float32) for load in loaders)
    low, high = _bounds(brain > 0.5, margin=4)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grey, white, brain, t1 = (volume[box] for volume in (grey, white, brain, t1))
    depth = _distance(brain > 0.5) / 10
    ventricles = _ventricles(brain - grey - white, depth)
    detail = (t1 - (0.55 * grey + 0.8 * white + 0.25 * (brain - grey - white))) * (brain > 0.5)
    maps = torch.from_numpy(np.stack([grey, white, brain, depth, ventricles, detail]).astype(np.float32))
    seeds = np.argwhere((white[::2, ::2, ::2] > 0.5) & (depth[::2, ::2, ::2] > 1.0)) * 2
    corners = np.argwhere(brain > 0.5)
    centre = (corners.min(axis=0) + corners.max(axis=0)) / 2
    return Template(maps.to(device), torch.tensor(centre, dtype=torch.float32), torch.from_numpy(seeds.astype(np.float32)))


def _bounds(mask: np.ndarray, *, margin: int) -> tuple[np.ndarray, np.ndarray]:
    corners = np.argwhere(mask)
    return np.maximum(corners.min(axis=0) - margin, 0), np.minimum(corners.max(axis=0) + 1 + margin, mask.shape)


def _distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the outside in mm, computed on every second voxel: four times as coarse, eight times as fast."""
    # One ring of padding, because the cerebellum touches the template's lowest slice.
    coarse = ndimage.distance_transform_edt(np.pad(mask[::2, ::2, ::2], 1), sampling=2)[1:-1, 1:-1, 1:-1]
    return _resize(coarse, mask.shape)


def _ventricles(fluid: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Closeness to the ventricles: fluid deep inside the brain, smoothed over some 4 mm."""
    deep = ((fluid > 0.5) & (depth > 2.0)).astype(np.float32)
    labels, count = ndimage.label(deep[::2, ::2, ::2])
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    kept = np.isin(labels, np.flatnonzero(sizes > 150)[1:]).astype(np.float32)
    return np.clip(_resize(ndimage.gaussian_filter(kept, 2.0), fluid.shape) * 2, 0, 1)


def _resize(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None]
    return F.interpolate(tensor, size=tuple(shape), mode="trilinear", align_corners=False)[0, 0].numpy()
