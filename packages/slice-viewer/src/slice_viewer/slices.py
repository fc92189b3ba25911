"""One slice of a volume as a radiologist expects it, with the label map on it.

Every volume is first turned so that its axes run to the patient's right, front and top (RAS), whatever its affine says;
slice indices count in that turned volume. Slices are then shown in the radiological convention: one looks at the patient
from the feet (axial) or from the front (coronal), so the patient's right is on the image's left; sagittal slices face left.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

PALETTE = ("#0072B2", "#F0E442", "#D55E00", "#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#999999")
"""Colours of labels 1, 2, 3 and so on that were given none; the first three stay apart for colour-blind readers (Okabe-Ito)."""

MARGIN = 6.0
"""Background in mm that a cropped slice keeps around what it shows."""

SHARE_OF_BACKGROUND = 0.1
"""From this share of voxels on, zero means background; in a CT scan, where it means water, it is rarer."""


def label_colour(value: int) -> str:
    """Colour of a label that was given none: of `PALETTE`, then its tints, then its shades, so that 24 labels differ."""
    turn, place = divmod(int(value) - 1, len(PALETTE))  # nibabel reads label maps as floats
    share, end = ((0.0, 0.0), (0.55, 1.0), (0.5, 0.0))[turn % 3]
    return to_hex([(1 - share) * part + share * end for part in to_rgb(PALETTE[place])]).upper()


@dataclass(frozen=True)
class Plane:
    """How a plane is cut from a RAS volume: `axis` it is perpendicular to, letters at left, right, top and bottom."""

    axis: int
    marks: tuple[str, str, str, str]


PLANES: dict[str, Plane] = {
    "axial": Plane(2, ("R", "L", "A", "P")),
    "coronal": Plane(1, ("R", "L", "S", "I")),
    "sagittal": Plane(0, ("A", "P", "S", "I")),
}


def to_ras(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Turn a volume so that its axes run nearest to right, anterior and superior.

    Parameters
    ----------
    volume : array (..., X, Y, Z)
        With any number of leading axes (channels).
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+. An oblique volume is turned to the nearest axes, not resampled.

    Returns
    -------
    volume : array, a view of the input
    spacing : tuple of three floats
        Size of a voxel along the turned axes in mm.
    """
    turn = nib.orientations.io_orientation(affine)
    spatial = np.moveaxis(volume, (-3, -2, -1), (0, 1, 2))
    turned = nib.orientations.apply_orientation(spatial, turn)
    sizes = np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)
    spacing = tuple(float(sizes[np.flatnonzero(turn[:, 0] == axis)[0]]) for axis in range(3))
    return np.moveaxis(turned, (0, 1, 2), (-3, -2, -1)), spacing


def cut(volume: np.ndarray, affine: np.ndarray, *, plane: str, index: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Cut a slice from a volume (X, Y, Z): pixels (rows, columns) as on the screen, and a pixel's (height, width) in mm."""
    turned, spacing = to_ras(volume, affine)
    axis = PLANES[plane].axis
    if not 0 <= index < turned.shape[axis]:
        raise ValueError(f"there is no {plane} slice {index}; this volume has 0 to {turned.shape[axis] - 1}")
    pixels = turned.take(index, axis=axis)[::-1, ::-1].T
    horizontal, vertical = (size for other, size in enumerate(spacing) if other != axis)
    return pixels, (vertical, horizontal)


def best_slice(classes: np.ndarray, affine: np.ndarray, *, plane: str = "axial") -> int:
    """Index of the slice with the largest tumour area, counted in RAS; the middle slice where there is no tumour."""
    turned, _ = to_ras(classes, affine)
    axis = PLANES[plane].axis
    areas = np.count_nonzero(turned, axis=tuple(other for other in range(3) if other != axis))
    return int(areas.argmax()) if areas.any() else turned.shape[axis] // 2


def robust_window(volume: np.ndarray) -> tuple[float, float]:
    """Darkest and brightest value to show: percentiles 1 and 99.5 of the finite, non-zero voxels: no vessel sets the scale."""
    values = volume[np.isfinite(volume) & (volume != 0)]
    if values.size == 0 or values.dtype == bool:
        return 0.0, 1.0
    low, high = np.percentile(values[:: max(1, values.size // 200_000)], [1, 99.5])
    if high > low:  # what many voxels have, such as label 1, must not be as black as the background
        return 0.0 if low > 0 and low == values.min() else float(low), float(high)
    return (0.0, float(low)) if low > 0 else (2 * float(low), float(low))  # of a mask: what is in it is white


def show_slice(
    volume: np.ndarray,
    affine: np.ndarray,
    *,
    plane: str = "axial",
    index: int | None = None,
    classes: np.ndarray | None = None,
    colours: Mapping[int, str] | None = None,
    window: tuple[float, float] | None = None,
    crop: bool = True,
    focus: np.ndarray | None = None,
    marks: bool = True,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Show one slice in radiological orientation, with orientation letters and a scale bar.

    Parameters
    ----------
    volume : array (X, Y, Z)
        One modality, in any units; zero is background, but where it is rare among whole numbers (water in CT).
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+.
    plane : {"axial", "coronal", "sagittal"}
    index : int, optional
        Slice, counted in RAS from the left, back or bottom; by default the one with the largest tumour area. Without
        `classes` it is the one with the least background (0, NaN), or the middle one where there is hardly any.
    classes : array (X, Y, Z) of whole numbers, optional
        Label map to draw over it: translucent fill and contour.
    colours : mapping from value to colour, optional
        Which values of `classes` to draw, in which colours; by default all, in those of `label_colour`.
    window : (float, float), optional
        Values shown black and white (`robust_window`).
    crop : bool
        Whether to fill the pane with what is not background, plus a margin of 6 mm.
    focus : array (X, Y, Z), optional
        Fill the pane with what is not 0 in this instead, such as a label map.
    marks : bool
        Whether to draw orientation letters and scale bar.
    title : str
    ax : Axes, optional

    Returns
    -------
    Axes
        In millimetres.

    Raises
    ------
    ValueError
        If the volume is not three-dimensional, it has no such slice, or `classes` or `focus` has another shape.
    """
    for name, other in (("classes", classes), ("focus", focus)):
        if other is not None and other.shape != volume.shape:
            raise ValueError(f"{name} has shape {other.shape}, the volume {volume.shape}; bring both to one grid")
    if plane not in PLANES:
        raise ValueError(f"there is no plane {plane!r}; choose one of {', '.join(PLANES)}")
    if volume.ndim != 3:
        raise ValueError(f"the volume has shape {tuple(volume.shape)}; give one of shape (X, Y, Z)")
    if ax is None:
        ax = plt.subplots(figsize=(4.2, 4.6), layout="constrained")[1]
    if index is None:
        content = (volume != 0) & ~np.isnan(volume)
        index = best_slice(content & (content.mean() < 0.9) if classes is None else classes, affine, plane=plane)
    low, high = robust_window(volume) if window is None else window
    pixels, size = cut(volume, affine, plane=plane, index=index)
    if (volume == 0).mean() > SHARE_OF_BACKGROUND or not np.array_equal(pixels, np.rint(pixels)):
        pixels = np.where(pixels == 0, low, pixels)  # background stays black where normalised intensities are negative
    extent = (0, pixels.shape[1] * size[1], pixels.shape[0] * size[0], 0)
    ax.imshow(pixels, cmap="gray", vmin=low, vmax=high, extent=extent, aspect="equal")
    if classes is not None:
        draw_labels(ax, cut(classes, affine, plane=plane, index=index)[0], size, colours=colours)
    left, right, bottom, top = frame(volume if focus is None else focus, affine, plane) if crop else extent
    ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], facecolor="black")
    ax.spines[:].set_visible(False)
    ax.set_title(title)
    if marks:
        _draw_marks(ax, plane)
        _draw_scale(ax)
    return ax


def draw_labels(
    ax: Axes,
    labels: np.ndarray,
    size: tuple[float, float],
    *,
    colours: Mapping[int, str] | None = None,
    fill: float = 0.45,
    line: float = 1.0,
) -> Axes:
    """Draw a 2-D label map (rows, columns), pixels of `size` (height, width) mm, as fill and as contour with a dark halo.

    `fill` is the opacity of the fill and `line` the width of the contour in points, 0 for none.
    """
    height, width = labels.shape[0] * size[0], labels.shape[1] * size[1]
    padded = np.pad(labels, 1)
    x = (np.arange(padded.shape[1]) - 0.5) * size[1]
    y = (np.arange(padded.shape[0]) - 0.5) * size[0]
    if colours is None:
        colours = {value: label_colour(value) for value in np.unique(labels).tolist() if value}
    for value, colour in colours.items():
        mask = labels == value
        if not mask.any():
            continue
        paint = np.zeros((*mask.shape, 4))
        paint[mask] = (*to_rgb(colour), fill)
        ax.imshow(paint, extent=(0, width, height, 0), interpolation="nearest", aspect="equal")
        if not line:
            continue
        contour = ax.contour(x, y, padded == value, levels=[0.5], colors=[colour], linewidths=line)
        contour.set_path_effects([effects.withStroke(linewidth=line + 1.0, foreground="black", alpha=0.6)])
    return ax


def frame(volume: np.ndarray, affine: np.ndarray, plane: str) -> tuple[float, float, float, float]:
    """Find left, right, bottom and top in mm of what is not background anywhere in a volume, so that slices of a case match."""
    turned, spacing = to_ras((volume != 0) & ~np.isnan(volume), affine)
    limits = []
    for axis in (other for other in range(3) if other != PLANES[plane].axis):
        used = np.flatnonzero(turned.any(axis=tuple(other for other in range(3) if other != axis)))
        length = turned.shape[axis]
        first, last = (length - 1 - used[-1], length - used[0]) if used.size else (0, length)
        limits += [max(first * spacing[axis] - MARGIN, 0), min(last * spacing[axis] + MARGIN, length * spacing[axis])]
    left, right, top, bottom = limits
    return left, right, bottom, top


def _draw_marks(ax: Axes, plane: str) -> None:
    places = [(0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center")]
    places += [(0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom")]
    for letter, (x, y, horizontal, vertical) in zip(PLANES[plane].marks, places, strict=True):
        ax.text(x, y, letter, transform=ax.transAxes, ha=horizontal, va=vertical, color="white", fontsize=8, path_effects=_HALO)


def _draw_scale(ax: Axes) -> None:
    """Scale bar at the lower right, the longest of 1 to 50 mm that takes no more than a quarter of the width."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    width, height = right - left, bottom - top
    length = next((mm for mm in (50, 20, 10, 5, 2, 1) if mm <= width / 4), 1)
    end, level = right - 0.04 * width, bottom - 0.04 * height
    ax.plot([end - length, end], [level, level], color="white", linewidth=2, solid_capstyle="butt", path_effects=_OUTLINE)
    text = (end - length / 2, level - 0.015 * height)
    ax.text(*text, f"{length} mm", ha="center", va="bottom", color="white", fontsize=7, path_effects=_HALO)


# White on a black halo. Without snap=False the renderer moves straight strokes to whole pixels and the stem of an L is lost.
_HALO = [effects.Stroke(linewidth=w, foreground=colour, snap=False) for w, colour in ((2.2, "black"), (0.2, "white"))]
_OUTLINE = [effects.withStroke(linewidth=3.5, foreground="black")]


def to_palette(png: bytes) -> bytes:
    """Re-encode a PNG in 256 colours chosen for it; returns the original where that is not smaller."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    # Greys fill most of a picture: a palette by frequency would leave no place for the colours of the labels.
    palette = image.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    palette.save(stream, format="png", optimize=True)
    return min(stream.getvalue(), png, key=len)
