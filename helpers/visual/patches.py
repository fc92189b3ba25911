"""Figures of what a network is fed: where patches and windows lie, and what augmentation does to a patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers.visual.slices import best_slice, cut, draw_labels, robust_window, show_slice
from helpers.visual.style import add_legend


def show_boxes(
    volume: np.ndarray,
    affine: np.ndarray,
    boxes: Sequence[Sequence[slice]],
    *,
    classes: np.ndarray | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Outline patches or windows on the axial slice with the most tumour; those that miss that slice are dotted.

    Parameters
    ----------
    volume : array (X, Y, Z)
        One modality of a prepared case (orientation RAS).
    affine : array (4, 4)
    boxes : sequence of three slices each
        In voxels, as `helpers.training.datamodule.patch_slices` gives them.
    classes : uint8 array (X, Y, Z), optional
        Label map to draw, which also chooses the slice.
    title : str
    ax : Axes, optional
    """
    index = best_slice(classes if classes is not None else volume != 0, affine)
    ax = show_slice(volume, affine, index=index, classes=classes, title=title, ax=ax)
    _, (height, width) = cut(volume, affine, plane="axial", index=index)
    across, down = (length * size for length, size in zip(volume.shape, (width, height), strict=False))
    for x, y, z in boxes:
        corner = (across - x.stop * width, down - y.stop * height)
        style = "-" if z.start <= index < z.stop else ":"
        size = ((x.stop - x.start) * width, (y.stop - y.start) * height)
        outline = Rectangle(corner, *size, facecolor="none", edgecolor="white", linewidth=1.5, linestyle=style)
        outline.set_path_effects([effects.withStroke(linewidth=3, foreground="black", alpha=0.7)])
        ax.add_patch(outline)
    return ax


def show_augmentations(samples: Mapping[str, tuple[np.ndarray, np.ndarray]], affine: np.ndarray, *, columns: int = 3) -> Figure:
    """Show the axial slice with the most tumour of several versions of a patch, all in the grey scale of the first.

    Labels are contours only: a fill would hide noise and contrast.

    Parameters
    ----------
    samples : mapping from heading to (volume, classes)
        One modality (X, Y, Z) and its label map, the unchanged patch first.
    affine : array (4, 4)
        Of the patch.
    columns : int
        Panes in a row.
    """
    window, rows = robust_window(next(iter(samples.values()))[0]), -(-len(samples) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(9.4, 3.1 * rows + 0.4), squeeze=False, layout="compressed")
    for ax in axes.flat[len(samples) :]:
        ax.set_axis_off()
    for ax, (name, (volume, classes)) in zip(axes.flat, samples.items(), strict=False):
        index = best_slice(classes, affine)
        title = f"{name}, slice {index}"
        show_slice(volume, affine, index=index, window=window, crop=False, marks=False, title=title, ax=ax)
        draw_labels(ax, *cut(classes, affine, plane="axial", index=index), fill=0.0, line=1.4)
    add_legend(figure)
    return figure
