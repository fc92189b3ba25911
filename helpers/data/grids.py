"""Moving arrays between two grids whose axes are parallel: the native grid of a case and its prepared grid.

Preparation reorders, flips, crops and rescales axes but never turns the patient, so that one index of one grid depends on
one index of the other only. Resampling is then one small step along each axis, and where no spacing changes it is plain
slicing, which loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch

from helpers.regions import classes_to_regions, regions_to_classes

EXACT = 1e-3
"""Voxel sizes and positions that differ by less than this share of a voxel are the same; NIfTI stores them as float32."""


@dataclass(frozen=True)
class _Axis:
    """Where the samples of one target axis lie on the axis `source`: at `positions`, `step` source voxels apart."""

    source: int
    length: int
    step: float
    positions: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """Which positions lie in the source volume; towards larger voxels, also those half a source voxel of which does."""
        reach = 0.5 + max(abs(self.step) - 1, 0) / 2 + EXACT
        return (self.positions > -reach) & (self.positions < self.length - 1 + reach)

    @property
    def exact(self) -> bool:
        """Whether every position is the centre of a voxel and neighbours come from neighbours."""
        return abs(abs(self.step) - 1) < EXACT and bool(np.abs(self.positions - np.rint(self.positions)).max() < 10 * EXACT)


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Edges of a voxel in millimetres, float64 (3,)."""
    return np.sqrt((np.asarray(affine, dtype=np.float64)[:3, :3] ** 2).sum(0))


def cropped_affine(affine: np.ndarray, start: Sequence[int]) -> np.ndarray:
    """Affine of the part of a volume that begins at voxel `start`."""
    moved = np.array(affine, dtype=np.float64)
    moved[:3, 3] += moved[:3, :3] @ np.asarray(start, dtype=np.float64)
    return moved


def ras_grid(shape: Sequence[int], affine: np.ndarray, spacing: Sequence[float]) -> tuple[tuple[int, int, int], np.ndarray]:
    """Grid in orientation RAS with the given spacing that covers the same box.

    The axes are those of the input, taken in the order and direction nearest to right, anterior, superior: an oblique volume
    stays oblique, since turning it would resample every voxel for no gain.

    Parameters
    ----------
    shape : sequence of 3 int
        Of the input.
    affine : array (4, 4)
        Of the input.
    spacing : sequence of 3 float
        Wanted voxel edges in millimetres along right, anterior, superior. An axis that has it already is kept as it is.

    Returns
    -------
    shape : tuple of 3 int
    affine : float64 array (4, 4)
    """
    orientation = nib.io_orientation(affine)
    ras = np.asarray(affine, dtype=np.float64) @ nib.orientations.inv_ornt_aff(orientation, tuple(shape))
    lengths = np.array(shape)[np.argsort(orientation[:, 0])]
    steps = np.asarray(spacing, dtype=np.float64) / spacing_of(ras)
    steps[np.abs(steps - 1) < EXACT] = 1.0
    counts = np.maximum(np.ceil(lengths / steps - 0.01), 1).astype(int)
    first = (steps - 1) / 2  # the outer faces of the two grids' first voxels coincide: two voxels of 1 mm fill one of 2 mm
    return tuple(int(count) for count in counts), cropped_affine(ras, first) @ np.diag([*steps, 1.0])


def regrid(
    array: np.ndarray, affine: np.ndarray, *, to_shape: Sequence[int], to_affine: np.ndarray, mode: str = "nearest"
) -> np.ndarray:
    """Take an array from one grid to another whose axes are parallel to its own.

    Parameters
    ----------
    array : array (..., X, Y, Z)
        Any number of leading axes.
    affine : array (4, 4)
        Of the array's grid.
    to_shape, to_affine
        The other grid. What the array does not cover becomes 0.
    mode : str
        "nearest", for label maps, or "linear". Towards larger voxels, linear averages with a triangle as wide as two of the
        larger voxels, so that fine detail does not come back as false coarse detail (aliasing).

    Returns
    -------
    array (..., *to_shape)
        Of the same number type for "nearest" and wherever positions coincide, else float32. May share memory with the input.

    Raises
    ------
    ValueError
        If the axes are not parallel or the mode is unknown.
    """
    if mode not in ("nearest", "linear"):
        raise ValueError(f"mode is {mode!r}, not 'nearest' or 'linear'")
    axes = _match(array.shape[-3:], affine, to_shape, to_affine)
    lead = array.ndim - 3
    result = array.transpose(*range(lead), *(lead + axis.source for axis in axes))
    exact = [axis.exact for axis in axes]
    for number in sorted(range(3), key=lambda n: len(axes[n].positions) / axes[n].length):  # shrink first, grow last
        axis = axes[number]
        if exact[number] or mode == "nearest":
            result = _pick(result, axis, lead + number)
        else:
            result = _blend(result, axis, lead + number)
    return result


def regrid_classes(classes: np.ndarray, affine: np.ndarray, *, to_shape: Sequence[int], to_affine: np.ndarray) -> np.ndarray:
    """Take a label map to another grid without inventing a class.

    Towards equal or smaller voxels every voxel takes its nearest neighbour. Towards larger ones the nearest neighbour would
    be one of eight voxels at equal distance (1 to 2 mm), always the same: a shift by half a voxel. There each region, TC, WT
    and ET, takes the voxels of which it fills at least half; since the average keeps regions nested, they become classes
    again without conflict.

    Parameters and return value are those of `regrid`, for uint8 (X, Y, Z).
    """
    axes = _match(classes.shape, affine, to_shape, to_affine)
    if max(abs(axis.step) for axis in axes) < 1 + EXACT:
        return regrid(classes, affine, to_shape=to_shape, to_affine=to_affine)
    regions = classes_to_regions(classes).astype(np.float32)
    shares = regrid(regions, affine, to_shape=to_shape, to_affine=to_affine, mode="linear")
    return regions_to_classes(shares >= 0.5 - EXACT)


def coincide(shape: Sequence[int], affine: np.ndarray, to_shape: Sequence[int], to_affine: np.ndarray) -> bool:
    """Whether the voxels of the two grids lie on each other, so that `regrid` is only slicing."""
    return all(axis.exact for axis in _match(shape, affine, to_shape, to_affine))


def _match(shape: Sequence[int], affine: np.ndarray, to_shape: Sequence[int], to_affine: np.ndarray) -> list[_Axis]:
    """For each axis of the target grid, the axis of the source that it runs along and where its samples lie."""
    transform = np.linalg.inv(np.asarray(affine, dtype=np.float64)) @ to_affine
    sources = np.abs(transform[:3, :3]).argmax(0)
    steps = transform[sources, range(3)]
    rest = transform[:3, :3].copy()
    rest[sources, range(3)] = 0
    if sorted(sources) != [0, 1, 2] or (np.abs(rest) * np.asarray(to_shape) > 0.05).any():
        raise ValueError("the axes of the two grids are not parallel; a prepared grid belongs to one case")
    return [
        _Axis(int(source), int(shape[source]), float(step), step * np.arange(count) + transform[source, 3])
        for source, step, count in zip(sources, steps, to_shape, strict=True)
    ]


def _pick(array: np.ndarray, axis: _Axis, number: int) -> np.ndarray:
    """Nearest samples along one axis; a view where neighbours come from neighbours and none is missing."""
    inside = axis.inside
    index = np.clip(np.rint(axis.positions[inside]).astype(int), 0, axis.length - 1)
    lead = (slice(None),) * number
    if not len(index):
        found = array[(*lead, slice(0, 0))]
    elif (np.diff(index) == np.sign(axis.step)).all():
        end = index[-1] + int(np.sign(axis.step))
        found = array[(*lead, slice(index[0], end if end >= 0 else None, int(np.sign(axis.step))))]
    else:
        found = array.take(index, axis=number)
    if inside.all():
        return found
    whole = np.zeros((*array.shape[:number], len(inside), *array.shape[number + 1 :]), dtype=array.dtype)
    first = int(inside.argmax())
    whole[(*lead, slice(first, first + len(index)))] = found
    return whole


def _blend(array: np.ndarray, axis: _Axis, number: int) -> np.ndarray:
    """Linear interpolation along one axis, or the average over a triangle where the step is more than a voxel."""
    positions = np.clip(axis.positions, 0, axis.length - 1)
    distance = np.abs(np.arange(axis.length) - positions[:, None])
    weights = np.clip(1 - distance / max(abs(axis.step), 1.0), 0, None)
    weights *= axis.inside[:, None] / weights.sum(1, keepdims=True)
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if number == array.ndim - 1:
        return torch.nn.functional.linear(values, torch.from_numpy(weights.astype(np.float32))).numpy()
    # Few weights of a row are not 0: adding up shifted copies is several times as fast as the matrix product.
    taps = int((weights > 0).sum(1).max())
    first = np.minimum((weights > 0).argmax(1), axis.length - taps)
    blended = torch.zeros(*array.shape[:number], len(first), *array.shape[number + 1 :])
    shape = (-1, *[1] * (array.ndim - 1 - number))
    for source in (first + tap for tap in range(taps)):
        weight = torch.from_numpy(weights[np.arange(len(first)), source].astype(np.float32)).view(shape)
        blended.addcmul_(values.index_select(number, torch.from_numpy(source)), weight)
    return blended.numpy()
