"""Figures of preparation: arrays as a network meets them, the crop, and intensity scales.

`show_array` and `show_steps` draw an array *without* its affine, every voxel as a square of one size: that is all that a
convolution sees. Everything else in this package draws the patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers.regions import CLASS_COLOURS
from helpers.visual.slices import PLANES, draw_labels, robust_window, show_slice
from helpers.visual.style import SECOND, new_axes

DIRECTIONS: dict[str, str] = {"R": "right", "L": "left", "A": "front", "P": "back", "S": "top", "I": "bottom"}
"""Where an axis runs to in the patient, by nibabel's letter."""


@dataclass(frozen=True)
class Step:
    """A volume after one step of preparation, as `show_steps` draws it.

    Attributes
    ----------
    title : str
    volume : array (X, Y, Z)
        One modality.
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+; only named below the pane.
    classes : uint8 array (X, Y, Z), optional
        Classes 0 to 3 in the same grid.
    """

    title: str
    volume: np.ndarray
    affine: np.ndarray
    classes: np.ndarray | None = None


def show_array(volume: np.ndarray, affine: np.ndarray, *, classes: np.ndarray | None = None, title: str = "") -> Figure:
    """Show three cuts through an array, one across each of its axes, index 0 at the lower left.

    Parameters
    ----------
    volume : array (X, Y, Z)
        One modality; zero is background.
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+; only the names of the axes come from it.
    classes : uint8 array (X, Y, Z), optional
        Label map to draw over it. Cuts then go through the most tumour, else through the most of what is not background.
    title : str
    """
    widths, heights = (1, 0, 0), (2, 2, 1)  # which axes run across and up in the cut across axis 0, 1 and 2
    columns, rows = [volume.shape[axis] for axis in widths], [volume.shape[axis] for axis in heights]
    inch = min(8.4 / sum(columns), 3.4 / max(rows))
    columns = [max(count, 1.1 / inch) for count in columns]  # room for the words below a narrow pane
    size = (inch * sum(columns) + 1.6, inch * max(rows) + 0.9)
    figure, axes = plt.subplots(1, 3, figsize=size, width_ratios=columns, layout="constrained")
    for axis, ax in enumerate(axes):
        show_cut(volume, affine, axis=axis, classes=classes, ax=ax)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def show_cut(
    volume: np.ndarray,
    affine: np.ndarray,
    *,
    axis: int,
    classes: np.ndarray | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Show one cut across `axis` of an array (X, Y, Z) in voxels, index 0 at the lower left, axes named by the affine."""
    ax = new_axes(ax, (3.4, 3.6))
    index = _fullest(classes if classes is not None and classes.any() else volume != 0, axis)
    low, high = robust_window(volume)
    pixels = volume.take(index, axis=axis).T[::-1]
    extent = (0, pixels.shape[1], pixels.shape[0], 0)
    ax.imshow(np.where(pixels == 0, low, pixels), cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="nearest")
    if classes is not None:
        draw_labels(ax, classes.take(index, axis=axis).T[::-1], (1, 1), colours=CLASS_COLOURS)
    letters = nib.aff2axcodes(affine)
    across, up = (f"axis {other} → {DIRECTIONS[letters[other]]}" for other in range(3) if other != axis)
    ax.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[], title=title)
    ax.set_xlabel(across, fontsize=8)
    ax.set_ylabel(up, fontsize=8)
    ax.spines[:].set_visible(False)
    return ax


def show_steps(steps: Sequence[Step], *, axis: int = 1, height: float = 3.2) -> Figure:
    """Show the same cut after every step of preparation, a voxel of every step drawn equally large.

    Parameters
    ----------
    steps : sequence of Step
    axis : int
        Of the arrays; the panes show the cut across it with the most tumour, or the most of what is not background.
    height : float
        Of the tallest pane in inches.
    """
    across, up = (other for other in range(3) if other != axis)
    inch = height / max(step.volume.shape[up] for step in steps)
    rooms = [max(inch * step.volume.shape[across], 1.35) + 0.3 for step in steps]  # for the words with a narrow pane
    figure = plt.figure(figsize=(sum(rooms), height + 1.05), layout="none")
    size = np.tile(figure.get_size_inches(), 2)
    for number, (step, room) in enumerate(zip(steps, rooms, strict=True)):
        width, tall = inch * step.volume.shape[across], inch * step.volume.shape[up]
        centre = sum(rooms[:number]) + room / 2
        ax = figure.add_axes(np.array([centre - width / 2, 0.7 + (height - tall) / 2, width, tall]) / size)
        show_cut(step.volume, step.affine, axis=axis, classes=step.classes, ax=ax)
        ax.set_title(step.title, loc="center")
        edges = " x ".join(f"{edge:.3g}" for edge in np.linalg.norm(np.asarray(step.affine)[:3, :3], axis=0))
        shape = " x ".join(str(count) for count in step.volume.shape)
        ax.set_xlabel(f"{ax.get_xlabel()}\n{shape}\n{edges} mm", fontsize=8)
    return figure


def show_box(
    volume: np.ndarray, affine: np.ndarray, start: Sequence[int], stop: Sequence[int], *, planes: Sequence[str] = tuple(PLANES)
) -> Figure:
    """Show a whole volume (X, Y, Z) in RAS orientation with a box from voxel `start` to before `stop` drawn on it."""
    spacing = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    widths = [volume.shape[0 if PLANES[plane].axis else 1] * spacing[0 if PLANES[plane].axis else 1] for plane in planes]
    figure, axes = plt.subplots(1, len(planes), figsize=(9.6, 3.5), width_ratios=widths, layout="constrained")
    for ax, plane in zip(np.atleast_1d(axes), planes, strict=True):
        axis = PLANES[plane].axis
        index = (int(start[axis]) + int(stop[axis])) // 2
        show_slice(volume, affine, plane=plane, index=index, crop=False, title=plane, ax=ax)
        across, up = (other for other in range(3) if other != axis)
        corner = [(volume.shape[other] - stop[other]) * spacing[other] for other in (across, up)]
        edges = [(stop[other] - start[other]) * spacing[other] for other in (across, up)]
        ax.add_patch(Rectangle(corner, *edges, fill=False, edgecolor=SECOND, linewidth=1.6))
    return figure


def show_scales(scales: Mapping[str, Mapping[str, np.ndarray]], *, bins: int = 80) -> Figure:
    """Show how values are distributed under several intensity scales: a pane for each scale, a curve for each volume.

    Parameters
    ----------
    scales : mapping from title to mapping from name to array
        Values of the brain's voxels, whatever the shape. The horizontal axis of a pane ends at the 99.8th percentile of all.
    bins : int
    """
    figure, axes = plt.subplots(1, len(scales), figsize=(3.3 * len(scales), 2.7), layout="constrained")
    for ax, (title, volumes) in zip(np.atleast_1d(axes), scales.items(), strict=True):
        pooled = np.concatenate([np.ravel(values)[:: max(1, np.size(values) // 50_000)] for values in volumes.values()])
        low, high = np.percentile(pooled, [0.2, 99.8])
        edges = np.linspace(low, high, bins + 1)
        shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(volumes)))
        for (name, values), colour in zip(volumes.items(), shades, strict=True):
            density, _ = np.histogram(values, bins=edges, density=True)
            ax.plot((edges[1:] + edges[:-1]) / 2, density, color=colour, linewidth=1.3, label=name)
        ax.set(title=title, xlabel="value", yticks=[], ylim=(0, None))
        ax.spines["left"].set_visible(False)
    np.atleast_1d(axes)[0].set_ylabel("share of the brain")
    return figure


def _fullest(mask: np.ndarray, axis: int) -> int:
    """Index along `axis` of the cut with the most that is not 0."""
    return int(np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis)).argmax())
