"""Volumes and label maps as the browser gets them: turned to the screen's order, cropped, one byte a voxel, compressed."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import nibabel as nib
import numpy as np

from slice_viewer.slices import SHARE_OF_BACKGROUND, robust_window, to_ras

MISSING, BACKGROUND, FIRST = 0, 1, 2
"""Code of a voxel without a number, code of a background voxel, and the first code of a value."""

MARGIN = 6.0
"""Millimetres kept around what is not background."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A voxel grid and the box of it that is shown.

    The *screen* order of its voxels is left, posterior, inferior: x runs to the patient's left, y to the back, z to the feet.

    Attributes
    ----------
    shape : (int, int, int)
        Of the caller's arrays.
    affine : array (4, 4)
        From the caller's voxel indices to millimetres in RAS+.
    start, stop : tuples of three ints
        The box shown, in screen order.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    start: tuple[int, int, int] = (0, 0, 0)
    stop: tuple[int, int, int] = (0, 0, 0)

    def turn(self, volume: np.ndarray) -> np.ndarray:
        """View of an array (X, Y, Z) in screen order, uncropped."""
        return to_ras(volume, self.affine)[0][::-1, ::-1, ::-1]

    def cut(self, volume: np.ndarray) -> np.ndarray:
        """The box shown of an array (X, Y, Z), as a contiguous array (z, y, x) in screen order: x fastest."""
        box = tuple(slice(first, last) for first, last in zip(self.start, self.stop, strict=True))
        return np.ascontiguousarray(self.turn(volume)[box].T)

    def cropped(self, arrays: Iterable[np.ndarray]) -> Grid:
        """The same grid with the box that holds all that is not background in `arrays` and a margin around it."""
        boxes = [box for array in arrays if (box := _content_box(self.turn(array))) is not None]
        turned = self.full_shape
        if not boxes:
            return replace(self, start=(0, 0, 0), stop=turned)
        margin = np.ceil(MARGIN / np.array(self.spacing)).astype(int)
        start = np.maximum(np.min([box[0] for box in boxes], axis=0) - margin, 0)
        stop = np.minimum(np.max([box[1] for box in boxes], axis=0) + margin, turned)
        return replace(self, start=tuple(start.tolist()), stop=tuple(stop.tolist()))

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel along the axes of the screen in mm."""
        return to_ras(np.empty((1, 1, 1)), self.affine)[1]

    @cached_property
    def full_shape(self) -> tuple[int, int, int]:
        """Shape of the whole grid in screen order."""
        return self.turn(np.broadcast_to(np.uint8(0), self.shape)).shape

    @cached_property
    def to_voxel(self) -> np.ndarray:
        """Matrix (4, 4) from screen indices within the box to the caller's voxel indices."""
        flip = np.diag([-1.0, -1.0, -1.0, 1.0])
        flip[:3, 3] = np.array(self.full_shape) - 1 - np.array(self.start)
        return nib.orientations.inv_ornt_aff(nib.orientations.io_orientation(self.affine), self.shape) @ flip

    def clip(self, voxel: Iterable[float]) -> tuple[int, int, int]:
        """The nearest of the caller's voxels within the box."""
        screen = np.linalg.inv(self.to_voxel) @ [*voxel, 1]
        inside = np.clip(np.rint(screen[:3]), 0, np.array(self.stop) - np.array(self.start) - 1)
        return self.voxel_at(inside)

    def voxel_at(self, screen: Iterable[float]) -> tuple[int, int, int]:
        """The caller's voxel at screen indices within the box."""
        return tuple(np.rint(self.to_voxel @ [*screen, 1])[:3].astype(int).tolist())

    def slice_of(self, voxel: Iterable[float], axis: int) -> int:
        """Slice through the caller's voxel, counted along `axis` from the patient's left, back or feet."""
        screen = np.linalg.inv(self.to_voxel) @ [*voxel, 1]
        return self.full_shape[axis] - 1 - self.start[axis] - round(float(screen[axis]))

    def with_slice(self, voxel: Iterable[float], axis: int, index: int) -> tuple[int, int, int]:
        """The caller's voxel moved along `axis` to a slice counted as by `slice_of`, and into the box."""
        screen = (np.linalg.inv(self.to_voxel) @ [*voxel, 1])[:3]
        screen[axis] = self.full_shape[axis] - 1 - self.start[axis] - index
        return self.clip((self.to_voxel @ [*screen, 1])[:3])


@dataclass(frozen=True, eq=False)
class PackedVolume:
    """A volume in codes of 8 bits: `data` compressed, `levels` the value that each of the 256 codes stands for.

    `window` holds the values shown black and white, `background` whether zero means background.
    """

    data: bytes
    levels: tuple[float, ...]
    window: tuple[float, float]
    background: bool


@dataclass(frozen=True, eq=False)
class PackedLabels:
    """A label map: `data` compressed, `values` that occur, and in `areas` labelled voxels a slice along each screen axis."""

    data: bytes
    values: np.ndarray
    areas: tuple[np.ndarray, np.ndarray, np.ndarray]


def pack_volume(volume: np.ndarray, grid: Grid, *, window: tuple[float, float] | None = None) -> PackedVolume:
    """Encode a volume (X, Y, Z).

    Whole numbers of a narrow range stay exact. Otherwise most of the 254 codes are spent on the window and a little around
    it, and the rest on what is darker and brighter, so that a wide range (a CT scan) does not coarsen what is looked at.

    Parameters
    ----------
    volume : array (X, Y, Z)
        Any integer or floating type; NaN and infinities become `MISSING`.
    grid : Grid
        Where it lies, and the box to encode.
    window : (float, float), optional
        Values that will be shown black and white; by default `robust_window`.
    """
    box = grid.cut(volume)
    if box.dtype.kind == "b":
        box = box.astype(np.uint8)
    missing = ~np.isfinite(box) if box.dtype.kind == "f" else None
    values = box if missing is None or not missing.any() else box[~missing]
    if values.size == 0:
        return PackedVolume(_compress(np.zeros(box.shape, np.uint8)), (0.0,) * 256, window or (0.0, 1.0), True)
    low, high = float(values.min()), float(values.max())
    window = tuple(map(float, window)) if window else robust_window(values)
    codes, levels = _knots(low, high, window, whole=box.dtype.kind != "f")
    coded = _encode(box, low, high, codes, levels)
    if missing is not None:
        coded[missing] = MISSING
    background = bool((values == 0).mean() > SHARE_OF_BACKGROUND)
    if background:
        coded[box == 0] = BACKGROUND
    table = np.interp(np.arange(256), codes, levels)
    table[:FIRST] = 0
    return PackedVolume(_compress(coded), tuple(float(f"{value:.10g}") for value in table), window, background)


def pack_labels(labels: np.ndarray, grid: Grid) -> PackedLabels:
    """Encode a label map (X, Y, Z), uint8."""
    box = grid.cut(labels)
    present = np.flatnonzero(np.bincount(box.ravel(), minlength=256))
    marked = box != 0
    columns = np.count_nonzero(marked, axis=0)
    areas = (columns.sum(axis=0), columns.sum(axis=1), np.count_nonzero(marked, axis=(1, 2)))
    return PackedLabels(_compress(box), present, areas)


def _content_box(turned: np.ndarray) -> tuple[list[int], list[int]] | None:
    """First and one past the last index with content along each axis; None where there is none at all."""
    content = turned != 0
    if turned.dtype.kind == "f":
        content &= np.isfinite(turned)
    flat = content.any(axis=2)
    used = [np.flatnonzero(line) for line in (flat.any(axis=1), flat.any(axis=0), content.any(axis=(0, 1)))]
    if not used[0].size:
        return None
    return [int(line[0]) for line in used], [int(line[-1]) + 1 for line in used]


def _knots(low: float, high: float, window: tuple[float, float], *, whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """Codes and the values they stand for, linear in between; both rise."""
    last = 255
    if high <= low or (whole and high - low <= last - FIRST):
        return np.array([FIRST, last]), np.array([low, low + last - FIRST])
    reach = 0.15 * (window[1] - window[0])
    dark, bright = max(window[0] - reach, low), min(window[1] + reach, high)
    if not low <= dark < bright <= high:
        return np.array([FIRST, last]), np.array([low, high])
    below, above = (24 if dark > low else 0), (24 if bright < high else 0)
    knots = [(FIRST, low), (FIRST + below, dark), (last - above, bright), (last, high)]
    kept = [knot for number, knot in enumerate(knots) if number == 0 or knot[1] > knots[number - 1][1]]
    return np.array([code for code, _ in kept]), np.array([value for _, value in kept])


def _encode(box: np.ndarray, low: float, high: float, codes: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Codes of the values of `box`; integers of 16 bits go through a table, which is faster."""
    if box.dtype.kind != "f" and high - low < 2**16:
        table = np.rint(np.interp(np.arange(low, high + 1), levels, codes)).astype(np.uint8)
        return table[box.astype(np.int64) - int(low)] if box.dtype.itemsize > 2 else table[box - np.int32(low)]
    finite = np.nan_to_num(box, nan=low, posinf=low, neginf=low) if box.dtype.kind == "f" else box
    return np.rint(np.interp(finite, levels, codes)).astype(np.uint8)


def _compress(box: np.ndarray) -> bytes:
    return gzip.compress(box.tobytes(), compresslevel=1, mtime=0)
