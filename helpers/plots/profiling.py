"""Figures of how networks are built: the U, the windows that a transformer attends within, and its hierarchy of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers.plots.case import FIRST, INK, MUTED, SECOND, new_axes
from slice_viewer.slices import best_slice, cut, robust_window, show_slice

ENCODER, DECODER, SKIP = "#9CC3DE", "#F2CD8A", "#D9D9D9"
TOKEN = 2
"""Voxels along the edge of a token of the first level."""


def show_unet(
    channels: Sequence[int] = (16, 32, 64, 128),
    *,
    edge: int = 64,
    channels_in: int = 4,
    channels_out: int = 3,
    ax: Axes | None = None,
) -> Axes:
    """Draw MONAI's UNet as boxes: a row a grid, finest at the top; a box a feature map, as wide as it has channels.

    Parameters
    ----------
    channels : sequence of int
        Channels of the levels. The grid halves at each, but for the last, which stays on the coarsest.
    edge : int
        Voxels along the edge of the patch that goes in.
    channels_in, channels_out : int
        Contrasts and regions.
    ax : Axes, optional
    """
    ax = new_axes(ax, (10.4, 4.4))
    last, centre = len(channels) - 1, 5.0
    _box(ax, 0.6, 0, channels_in, 0, SKIP, f"image {channels_in} × {edge}³", side=-1)
    _box(ax, 9.4, 0, channels_out, 0, DECODER, f"regions {channels_out} × {edge}³", side=1)
    for level in range(1, last + 1):
        grid, count, column = edge // 2**level, channels[level - 1], 0.6 + 0.6 * level
        below, mirror = channels[level] if level == last else count, 2 * centre - column
        _box(ax, column, level, count, level, ENCODER, f"{count} × {grid}³", side=-1)
        _box(ax, mirror - _width(count) / 2, level, count, level, SKIP, "")
        _box(ax, mirror + _width(below) / 2, level, below, level, DECODER, f"({count} + {below}) × {grid}³", side=1)
        _arrow(ax, (column + _width(count) / 2, -level), (mirror - _width(count), -level), MUTED)
        ax.text(centre, -level + 0.06, "skip connection: the detail" if level == 1 else "skip", ha="center", color=MUTED)
        top, bottom = -level + _height(level) / 2, -level + 1 - _height(level - 1) / 2
        _arrow(ax, (column - 0.6, bottom), (column, top), FIRST)
        _arrow(ax, (mirror, top), (mirror + 0.6, bottom), SECOND)
    row, side = -last - 0.8, _width(channels[-1]) / 2
    _box(ax, centre, -row, channels[-1], last, ENCODER, f"{channels[-1]} × {edge // 2**last}³", side=1)
    _arrow(ax, (column, -last - _height(last) / 2), (centre - side, row), FIRST)
    _arrow(ax, (centre + side + 1.0, row), (mirror, -last - _height(last) / 2), SECOND)
    ax.text(0.6, row, "down: convolve,\nhalve the grid", color=FIRST, ha="center", va="center")
    ax.text(9.4, row, "up: double the\ngrid, convolve", color="#9A6A00", ha="center", va="center")
    ax.set(xlim=(-0.9, 10.9), ylim=(row - 0.3, 0.42), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def window_range(token: int, window: int, *, shifted: bool) -> range:
    """Tokens along one axis that `token` attends to, in windows that start at 0 or are shifted by half a window.

    A shifted window may begin before 0; what lies outside the grid does not exist and is masked.
    """
    shift = window // 2 if shifted else 0
    start = (token - shift) // window * window + shift
    return range(start, start + window)


def reach(token: int, window: int) -> range:
    """Tokens along one axis that can influence `token` after one block with windows and one with shifted windows."""
    seen = window_range(token, window, shifted=True)
    first, last = (window_range(max(end, 0), window, shifted=False) for end in (seen[0], seen[-1]))
    return range(first[0], last[-1] + 1)


def show_windows(
    volume: np.ndarray, affine: np.ndarray, *, classes: np.ndarray | None = None, window: int = 4, index: int | None = None
) -> Figure:
    """Show on one slice what a token attends to: within its window, within its shifted window, and after both.

    Parameters
    ----------
    volume : array (X, Y, Z)
        One modality of a prepared case (orientation RAS).
    affine : array (4, 4)
    classes : uint8 array (X, Y, Z), optional
        The chosen token lies near the middle of their tumour on this slice, else of the brain, in a corner of its window.
    window : int
        Edge of a window in tokens of `TOKEN` voxels.
    index : int, optional
        Axial slice; by default the one with the largest tumour area.
    """
    if index is None:
        index = best_slice(classes if classes is not None else volume != 0, affine)
    mask = classes[:, :, index] > 0 if classes is not None and classes[:, :, index].any() else volume[:, :, index] != 0
    places = np.argwhere(mask)
    centre = places[np.abs(places - places.mean(0)).sum(1).argmin()] / (TOKEN * window)
    last = (np.array(mask.shape) - 1) // (TOKEN * window)
    middle = np.minimum(np.rint(centre).astype(int), last) * window
    figure, axes = plt.subplots(1, 3, figsize=(10.4, 4.4), layout="compressed")
    panes = (
        ("one block: windows", False, [window_range(token, window, shifted=False) for token in middle]),
        ("the next: shifted windows", True, [window_range(token, window, shifted=True) for token in middle]),
        ("reached after both", None, [reach(token, window) for token in middle]),
    )
    for ax, (title, shifted, tokens) in zip(axes, panes, strict=True):
        show_slice(volume, affine, index=index, title=title, ax=ax)
        grid = _Grid(ax, volume, affine)
        if shifted is not None:
            grid.lines(window * TOKEN, window // 2 * TOKEN if shifted else 0)
        grid.fill([range(t[0] * TOKEN, (t[-1] + 1) * TOKEN) for t in tokens], SECOND, 0.55)
        grid.fill([range(t * TOKEN, (t + 1) * TOKEN) for t in middle], "#D55E00", 1.0)
    return figure


def show_swin_hierarchy(
    volume: np.ndarray,
    affine: np.ndarray,
    *,
    classes: np.ndarray | None = None,
    feature_size: int = 12,
    window: int = 4,
    edge: int = 64,
) -> Figure:
    """Show the four levels of a Swin encoder on one slice: ever larger tokens, ever more numbers in each, and their windows.

    Parameters
    ----------
    volume : array (X, Y, Z)
        One modality of a prepared case (orientation RAS).
    affine : array (4, 4)
    classes : uint8 array (X, Y, Z), optional
        Chooses the slice: that with the largest tumour area.
    feature_size : int
        Numbers a token at the first level.
    window : int
        Edge of a window in tokens.
    edge : int
        Voxels along the edge of a patch, for the number of tokens in the headings.
    """
    index = best_slice(classes if classes is not None else volume != 0, affine)
    figure, axes = plt.subplots(1, 4, figsize=(10.8, 4.2), layout="compressed")
    for level, ax in enumerate(axes):
        voxels = TOKEN * 2**level
        show_slice(_blocks(volume, voxels), affine, index=index, window=robust_window(volume), marks=level == 0, ax=ax)
        grid = _Grid(ax, volume, affine)
        grid.lines(voxels * window, 0)
        millimetres = grid.size * voxels
        tokens, numbers = max(edge // voxels, 1), feature_size * 2**level
        ax.set_title(f"level {level + 1}: {tokens}³ tokens", fontsize=10)
        caption = f"a token: {millimetres:.0f} mm, {numbers} numbers\na window: {millimetres * window:.0f} mm"
        ax.set_xlabel(caption, fontsize=9, color=MUTED)
    return figure


class _Grid:
    """Draws on a pane of `show_slice` (axial, a RAS volume) in voxel indices."""

    def __init__(self, ax: Axes, volume: np.ndarray, affine: np.ndarray) -> None:
        _, (self.height, self.width) = cut(volume, affine, plane="axial", index=0)
        self.ax, self.shape = ax, volume.shape
        self.size = self.width

    def lines(self, step: int, start: int) -> None:
        """Lines every `step` voxels along both axes."""
        width, height = self.shape[0] * self.width, self.shape[1] * self.height
        across = [width - voxel * self.width for voxel in range(start, self.shape[0] + 1, step)]
        down = [height - voxel * self.height for voxel in range(start, self.shape[1] + 1, step)]
        self.ax.vlines(across, 0, height, color="white", linewidth=0.6, alpha=0.75)
        self.ax.hlines(down, 0, width, color="white", linewidth=0.6, alpha=0.75)

    def fill(self, voxels: Sequence[range], colour: str, alpha: float) -> None:
        """A rectangle over ranges of voxels, as far as they lie in the volume."""
        (x0, x1), (y0, y1) = (
            (max(used[0], 0), min(used[-1] + 1, length)) for used, length in zip(voxels, self.shape, strict=False)
        )
        corner = ((self.shape[0] - x1) * self.width, (self.shape[1] - y1) * self.height)
        size = ((x1 - x0) * self.width, (y1 - y0) * self.height)
        self.ax.add_patch(Rectangle(corner, *size, facecolor=colour, alpha=alpha, edgecolor=INK, linewidth=1))


def _blocks(volume: np.ndarray, edge: int) -> np.ndarray:
    """The volume with every block of `edge` voxels replaced by its mean in the axial plane; air stays air."""
    gaps = [(0, -length % edge) for length in volume.shape[:2]]
    padded = np.pad(volume.astype(np.float32), [*gaps, (0, 0)])
    x, y, z = padded.shape
    means = padded.reshape(x // edge, edge, y // edge, edge, z).mean((1, 3))
    return np.repeat(np.repeat(means, edge, 0), edge, 1)[: volume.shape[0], : volume.shape[1]]


def _width(channels: int) -> float:
    return 0.09 + 0.11 * np.log2(max(channels, 2))


def _height(level: int) -> float:
    return 0.72 * 0.8**level


def _box(ax: Axes, x: float, row: float, channels: int, level: int, colour: str, text: str, *, side: int = 1) -> None:
    """A feature map centred at `x` on a row, with its size written to the left (`side` -1) or to the right of it."""
    width, height = _width(channels), _height(level)
    ax.add_patch(Rectangle((x - width / 2, -row - height / 2), width, height, facecolor=colour, edgecolor=INK, linewidth=0.8))
    ax.text(x + side * (width / 2 + 0.08), -row, text, ha="left" if side > 0 else "right", va="center", fontsize=9)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "shrinkA": 2, "shrinkB": 2})
