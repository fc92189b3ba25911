"""The still picture of a viewer, drawn by the same code as the figures."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from slice_viewer.pack import Grid
from slice_viewer.panes import label_map
from slice_viewer.slices import PLANES, cut, draw_labels, show_slice, to_palette

if TYPE_CHECKING:
    from slice_viewer.widget import SliceViewer

COLUMNS = 4
WIDTH = 10.4
"""Inches of a full row."""
LEGEND_LINE = 0.2
"""Inches of a line of the legend."""

SHORTEST_WITH_MARKS = 10.0
"""Millimetres; on less than that there is no place for a scale bar."""


def draw_still(viewer: SliceViewer) -> bytes:
    """PNG of a viewer's panes in its state of now: plane, slice, windows, labels and their opacity."""
    parts = viewer.scene.parts
    columns = min(viewer.scene.description["columns"], len(parts.panes), COLUMNS)
    rows = math.ceil(len(parts.panes) / columns)
    width = min(WIDTH / columns, 3.6)
    slices = [_slice_in(grid, viewer) for grid in parts.grids]
    aspect = max(height / breadth for breadth, height in (_side_lengths(grid, viewer.plane) for grid in parts.grids))
    names = _legend(viewer)
    entries = _entries_in_a_line(names, width * columns)
    height = (width * min(max(aspect, 0.3), 2) + 0.3) * rows + 0.1 + LEGEND_LINE * max(1, math.ceil(len(names) / entries))
    figure = Figure(figsize=(width * columns, height), layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, number in zip(axes, range(len(parts.panes)), strict=False):
        _draw_pane(ax, viewer, number, slices[parts.shown[number][0]])
    for ax in axes[len(parts.panes) :]:
        ax.set_axis_off()
    if names:
        patches = [Patch(facecolor=colour, edgecolor="#222222", linewidth=0.5, label=text) for text, colour in names.items()]
        figure.legend(handles=patches, loc="outside lower center", ncols=entries, fontsize=9, frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=80, facecolor="white")
    return to_palette(stream.getvalue())


def _draw_pane(ax: Axes, viewer: SliceViewer, number: int, index: int | None) -> None:
    parts, description = viewer.scene.parts, viewer.scene.description
    pane, (grid_number, volume_number, map_number) = parts.panes[number], parts.shown[number]
    grid = parts.grids[grid_number]
    affine = np.diag([*grid.spacing, 1.0])
    window = viewer.windows[volume_number]
    volume = _one_slice(pane.volume, grid, viewer.plane, index).astype(np.float64)
    # What zero means is known of the whole volume; show_slice would judge by this slice.
    volume[volume == 0] = window[0] if description["volumes"][volume_number]["background"] else np.nextafter(0, 1)
    marks = _side_lengths(grid, viewer.plane)[0] >= SHORTEST_WITH_MARKS
    show_slice(volume, affine, plane=viewer.plane, index=0, window=window, crop=False, marks=marks, ax=ax)
    room = ax.figure.get_figwidth() / ax.get_gridspec().ncols  # inches; at 11 points a letter takes a ninth at most
    fontsize = min(11, 100 * room / max(len(other.title) or 1 for other in parts.panes))
    ax.set_title(pane.title, fontsize=fontsize, fontweight="bold", loc="left", color="#222222")
    if map_number is None or not viewer.overlay:
        return
    entries = description["labels"][map_number]["entries"]
    colours = {entry["value"]: entry["colour"] for entry in entries if entry["name"] not in viewer.hidden}
    labels = _one_slice(label_map(pane.labels), grid, viewer.plane, index)
    pixels, size = cut(labels, affine, plane=viewer.plane, index=0)
    draw_labels(ax, pixels, size, colours=colours, fill=viewer.opacity, line=1.0 if viewer.outline else 0.0)


def _one_slice(volume: np.ndarray, grid: Grid, plane: str, index: int | None) -> np.ndarray:
    """The shown part of one slice, as a volume in RAS that is one voxel thick; zeros where `index` is None."""
    box = [slice(first, last) for first, last in zip(grid.start, grid.stop, strict=True)]
    axis = PLANES[plane].axis
    box[axis] = slice(index or 0, (index or 0) + 1)
    part = grid.turn(volume)[tuple(box)][::-1, ::-1, ::-1]
    return np.zeros_like(part) if index is None else part


def _slice_in(grid: Grid, viewer: SliceViewer) -> int | None:
    """Index, in screen order of the whole grid, of the slice through the cursor; None where it misses the box."""
    first, axis = viewer.scene.grid, PLANES[viewer.plane].axis
    place = np.linalg.inv(grid.affine @ grid.to_voxel) @ first.affine @ [*viewer.cursor, 1]
    index = int(np.floor(place[axis] + 0.5)) + grid.start[axis]  # halves upwards, as in the browser
    return index if grid.start[axis] <= index < grid.stop[axis] else None


def _side_lengths(grid: Grid, plane: str) -> tuple[float, float]:
    """Width and height of the box in mm."""
    sides = [(last - first) * mm for first, last, mm in zip(grid.start, grid.stop, grid.spacing, strict=True)]
    return tuple(length for axis, length in enumerate(sides) if axis != PLANES[plane].axis)


def _entries_in_a_line(names: Iterable[str], width: float) -> int:
    """How many entries of the legend fit beside each other in `width` inches: all of them, or as many as of the longest."""
    lengths = [0.6 + 0.07 * len(name) for name in names]
    return max(1, len(lengths) if sum(lengths) <= width else int(width / max(lengths)))


def _legend(viewer: SliceViewer) -> dict[str, str]:
    entries = [entry for legend in viewer.scene.description["labels"] for entry in legend["entries"]]
    return {entry["name"]: entry["colour"] for entry in entries if viewer.overlay and entry["name"] not in viewer.hidden}
