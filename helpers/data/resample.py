"""Move arrays between two grids whose axes are parallel: the native grid of a case and its prepared grid.

Preparation reorders, flips, crops and rescales axes but never turns the patient. Resampling is then one small step along each
axis, and if no spacing changes it is plain slicing, which loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch

from brats_cohort.grid import EXACT, bounding_box, spacing_of
from brats_cohort.regions import classes_to_regions, regions_to_classes


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


def cropped_affine(affine: np.ndarray, start: Sequence[int]) -> np.ndarray:
    """Compute the affine of the part of a volume that begins at voxel `start`."""
    moved = np.array(affine, dtype=np.float64)
    moved[:3, 3] += moved[:3, :3] @ np.asarray(start, dtype=np.float64)
    return moved


def ras_grid(shape: Sequence[int], affine: np.ndarray, spacing: Sequence[float]) -> tuple[tuple[int, int, int], np.ndarray]:
    """Compute shape and affine of a grid in orientation RAS with the given spacing in mm that covers the same box.

    The axes are those of the input in the order and direction nearest to right, anterior, superior: an oblique volume stays
    oblique, since turning it would resample every voxel for no gain. An axis that has its spacing already is kept as it is.
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
    """Take an array (..., X, Y, Z) from one grid to another whose axes are parallel to its own.

    Mode "nearest" is for label maps. Mode "linear", towards larger voxels, averages with a triangle as wide as two of the
    larger voxels, so that fine detail does not come back as false coarse detail (aliasing). MONAI's `Spacing` takes one sample
    instead. Mode "overlap", for masks, averages over a larger voxel alone: the share of it that is filled.

    The result (..., *to_shape) is 0 where the array does not cover it. It has the array's data type for "nearest" and
    wherever positions coincide, else float32, and may share memory with it. Raises `ValueError` if the axes are not
    parallel or the mode is unknown.
    """
    if mode not in ("nearest", "linear", "overlap"):
        raise ValueError(f"mode is {mode!r}, not 'nearest', 'linear' or 'overlap'")
    axes = _match(array.shape[-3:], affine, to_shape, to_affine)
    covered = [np.flatnonzero(axis.inside) for axis in axes]
    if any(len(hits) < n for hits, n in zip(covered, to_shape, strict=True)):
        part = tuple(slice(int(hits[0]), int(hits[-1]) + 1) if len(hits) else slice(0, 0) for hits in covered)
        found = array[..., :0, :0, :0]
        if all(cut.stop for cut in part):
            inner = cropped_affine(to_affine, [cut.start for cut in part])
            found = regrid(array, affine, to_shape=[cut.stop - cut.start for cut in part], to_affine=inner, mode=mode)
        whole = np.zeros((*array.shape[:-3], *to_shape), dtype=found.dtype)  # memory that is not touched costs nothing
        if found.size:
            whole[(..., *part)] = found
        return whole
    lead = array.ndim - 3
    result = array.transpose(*range(lead), *(lead + axis.source for axis in axes))
    # Shrink first, grow last; of about equals, first the axis along which neighbours lie furthest apart in memory.
    cost = {n: (round(len(axes[n].positions) / axes[n].length, 1), -abs(result.strides[lead + n])) for n in range(3)}
    for number in sorted(cost, key=cost.get):
        axis, place = axes[number], lead + number
        pick = axis.exact or mode == "nearest"
        result = _pick(result, axis, place) if pick else _blend(result, axis, place, overlap=mode == "overlap")
    return result


def regrid_classes(classes: np.ndarray, affine: np.ndarray, *, to_shape: Sequence[int], to_affine: np.ndarray) -> np.ndarray:
    """Take a label map, uint8 (X, Y, Z), to another grid without inventing a class; otherwise as `regrid`.

    Towards equal or smaller voxels every voxel takes its nearest neighbour. Towards larger ones the nearest neighbour would
    be one of eight voxels at equal distance (1 to 2 mm), always the same: a shift by half a voxel. There each region, TC, WT
    and ET, takes the voxels of which it fills at least half; the average keeps regions nested.
    """
    axes = _match(classes.shape, affine, to_shape, to_affine)
    if max(abs(axis.step) for axis in axes) < 1 + EXACT:
        return regrid(classes, affine, to_shape=to_shape, to_affine=to_affine)
    whole = np.zeros(tuple(to_shape), dtype=classes.dtype)
    if not classes.any():
        return whole
    part, target = _around_labels(classes, axes)
    regions = classes_to_regions(classes[part]).astype(np.float32)
    grid = {"to_shape": [there.stop - there.start for there in target]}
    grid["to_affine"] = cropped_affine(to_affine, [there.start for there in target])
    shares = regrid(regions, cropped_affine(affine, [here.start for here in part]), **grid, mode="overlap")
    whole[target] = regions_to_classes(shares >= 0.5 - EXACT)
    return whole


def _around_labels(classes: np.ndarray, axes: list[_Axis]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Part of a label map outside which it is empty, and the part of the target that it reaches: the rest is not computed.

    The part is so much larger than what is labelled that no average at its edge touches a label.
    """
    part: list[slice] = [slice(0, 0)] * 3
    box, target = bounding_box(classes), []
    for axis in axes:
        reach = math.ceil(max(abs(axis.step), 1.0)) + 1
        low, high = box[axis.source].start - reach, box[axis.source].stop - 1 + reach
        hit = np.flatnonzero((axis.positions >= low) & (axis.positions <= high))
        target.append(slice(int(hit[0]), int(hit[-1]) + 1) if len(hit) else slice(0, 0))
        part[axis.source] = slice(max(low - reach, 0), min(high + reach + 1, axis.length))
    return tuple(part), tuple(target)


def coincide(shape: Sequence[int], affine: np.ndarray, to_shape: Sequence[int], to_affine: np.ndarray) -> bool:
    """Check whether the voxels of the two grids coincide, so that `regrid` is only slicing."""
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
    """Nearest samples along one axis; a view if neighbours come from neighbours."""
    index = np.clip(np.rint(axis.positions).astype(int), 0, axis.length - 1)
    direction = int(np.sign(axis.step))
    if (np.diff(index) != direction).any():
        return array.take(index, axis=number)
    end = index[-1] + direction
    return array[(*(slice(None),) * number, slice(index[0], end if end >= 0 else None, direction))]


def _blend(array: np.ndarray, axis: _Axis, number: int, *, overlap: bool) -> np.ndarray:
    """Linear interpolation along one axis, or the average over a triangle, or the step, if that is more than a voxel."""
    positions, step = axis.positions if overlap else np.clip(axis.positions, 0, axis.length - 1), max(abs(axis.step), 1.0)
    distance = np.abs(np.arange(axis.length) - positions[:, None])
    weights = np.clip((1 + step) / 2 - distance if overlap else 1 - distance / step, 0, 1)
    weights *= 1 / weights.sum(1, keepdims=True)
    # Work in the order in which the array lies in memory: files count X fastest, and turning a volume around is slow.
    order = sorted(range(array.ndim), key=lambda n: -abs(array.strides[n]))
    values = np.ascontiguousarray(array.transpose(order), dtype=np.float32)
    values = torch.from_numpy(values.ravel()).view(values.shape)  # torch refuses the negative stride of an axis of one voxel
    blended = _weigh(values, torch.from_numpy(weights.astype(np.float32)), order.index(number))
    return blended.numpy().transpose(np.argsort(order))


def _weigh(values: torch.Tensor, weights: torch.Tensor, axis: int) -> torch.Tensor:
    """Matrix product of weights (n, length) with one axis of an array."""
    if axis == values.ndim - 1:
        return torch.nn.functional.linear(values, weights)
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    flat = values.reshape(math.prod(before), values.shape[axis], math.prod(after))
    return torch.matmul(weights, flat).view(*before, len(weights), *after)
