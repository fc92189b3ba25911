"""Voxel sizes, and volumes whose voxels are the same in another order of axes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

EXACT = 1e-3
"""Voxel sizes and positions that differ by less than this share of a voxel are the same; NIfTI stores them as float32."""

SNAP = 0.25
"""Voxels of two grids that lie closer than this, in voxels, are the same."""


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Edges of a voxel in millimetres, float64 (3,)."""
    return np.sqrt((np.asarray(affine, dtype=np.float64)[:3, :3] ** 2).sum(0))


def bounding_box(mask: np.ndarray, margin: int = 0) -> tuple[slice, ...] | None:
    """Find the smallest box around what is not 0, grown by `margin` voxels within the array; None if all is 0."""
    box = []
    for axis, length in enumerate(mask.shape):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not len(found):
            return None
        box.append(slice(max(int(found[0]) - margin, 0), min(int(found[-1]) + 1 + margin, length)))
    return tuple(box)


def turn_to_grid(
    volume: np.ndarray, affine: np.ndarray, shape: Sequence[int], to_affine: np.ndarray
) -> tuple[np.ndarray, str] | None:
    """Take a volume to a grid that has the same voxels, in whatever order and direction of axes.

    Returns the volume, a view if possible, and what is different in words, empty if nothing is; None if the grids differ.
    Affines of different tools agree to a few decimals only, so voxels that lie within `SNAP` of those of the grid are taken
    for the same.
    """
    transform = np.linalg.inv(affine) @ to_affine
    axes = np.abs(transform[:3, :3]).argmax(0)
    if sorted(axes) != [0, 1, 2] or tuple(volume.shape[axis] for axis in axes) != tuple(shape):
        return None
    signs = np.sign(transform[axes, range(3)]).astype(int)
    corners = np.array(list(itertools.product(*((0, length - 1) for length in shape))), dtype=float)
    wanted = np.empty_like(corners)
    wanted[:, axes] = np.where(signs > 0, corners, np.array(shape) - 1 - corners)
    offset = np.abs(corners @ transform[:3, :3].T + transform[:3, 3] - wanted).max()
    if offset > SNAP:
        return None
    turned = volume.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    if list(axes) != [0, 1, 2] or (signs < 0).any():
        return turned, "has its axes in another order or direction and was turned to the grid of"
    return volume, f"lies {offset:.2g} voxels off and was taken to be in the grid of" if offset > 10 * EXACT else ""
