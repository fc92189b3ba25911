"""Figures of CT scans with their organs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.extras.ct.organs import COLOURS
from helpers.plots.case import add_legend, new_axes
from slice_viewer import Pane
from slice_viewer.slices import PLANES, show_slice, to_ras

SOFT_TISSUE: tuple[float, float] = (-175.0, 250.0)
"""Hounsfield units shown black and white."""


def organ_colours(organs: Sequence[str]) -> dict[int, str]:
    """Colour of every label number from 1."""
    return {number: COLOURS[(number - 1) % len(COLOURS)] for number in range(1, len(organs) + 1)}


def windowed(image: np.ndarray, window: tuple[float, float] = SOFT_TISSUE) -> np.ndarray:
    """Hounsfield units (X, Y, Z) as float32 0 to 1, as a display shows them; 0 is then black and nothing else is."""
    low, high = window
    return np.clip((np.asarray(image, dtype=np.float32) - low) / (high - low), 0, 1)


def show_scan(
    image: np.ndarray,
    affine: np.ndarray,
    organs: Sequence[str],
    *,
    rows: Mapping[str, np.ndarray | None],
    slices: int = 4,
    margin: float = 0.16,
) -> Figure:
    """Axial slices of a scan from above to below, one row for each label map.

    Parameters
    ----------
    image : array (X, Y, Z)
        Grey values 0 to 1, see `windowed`.
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+.
    organs : sequence of str
        Names of the labels 1, 2, ...
    rows : mapping from title to label map (X, Y, Z) or None
        None shows the scan alone.
    slices : int
        Columns.
    margin : float
        Share of the height that is left out above and below.
    """
    depth = to_ras(image, affine)[0].shape[PLANES["axial"].axis]
    places = np.linspace(depth * (1 - margin), depth * margin, slices).astype(int).clip(0, depth - 1)
    figure, axes = plt.subplots(len(rows), slices, figsize=(2.7 * slices, 2.15 * len(rows) + 0.5), squeeze=False)
    for row, (title, labels) in zip(axes, rows.items(), strict=True):
        for number, (ax, index) in enumerate(zip(row, places, strict=True)):
            options = {"classes": labels, "colours": organ_colours(organs), "window": (0.0, 1.0), "marks": number == 0}
            show_slice(image, affine, index=int(index), title=title if number == 0 else "", ax=ax, **options)
    if any(labels is not None for labels in rows.values()):
        add_legend(
            figure, dict(zip(organs, organ_colours(organs).values(), strict=True)), ncols=min(7, len(organs)), fontsize=8
        )
    return figure


def show_attenuation(image: np.ndarray, labels: np.ndarray, organs: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Middle half and middle 90 % of the Hounsfield units of every organ, and the window of soft tissue behind them."""
    ax = new_axes(ax, (7.2, 3.8))
    ax.axvspan(*SOFT_TISSUE, color="#EEEEEE", label="window")
    for number, colour in organ_colours(organs).items():
        values = image[labels == number]
        if values.size:
            low, first, middle, third, high = np.percentile(values, [5, 25, 50, 75, 95])
            ax.plot([low, high], [number, number], color=colour, linewidth=2)
            ax.plot([first, third], [number, number], color=colour, linewidth=7, solid_capstyle="butt")
            ax.plot(middle, number, "|", color="black", markersize=9)
    ax.set(xlabel="Hounsfield units", yticks=range(1, len(organs) + 1), yticklabels=organs, xlim=(-300, 300))
    ax.invert_yaxis()
    ax.legend(loc="lower left")
    return ax


def show_crops(crops: Sequence[Mapping[str, np.ndarray]], organs: Sequence[str]) -> Figure:
    """The middle axial slice of training crops with their labels: ``image`` (1, X, Y, Z) and ``regions`` (classes, X, Y, Z)."""
    figure, axes = plt.subplots(1, len(crops), figsize=(2.3 * len(crops), 2.2), squeeze=False)
    for ax, crop in zip(axes[0], crops, strict=True):
        labels = np.asarray(crop["regions"]).argmax(0).astype(np.uint8)
        index = labels.shape[2] // 2
        options = {"classes": labels, "colours": organ_colours(organs), "window": (0.0, 1.0), "marks": False, "crop": False}
        show_slice(np.asarray(crop["image"])[0], np.eye(4), index=index, ax=ax, **options)
    return figure


def show_organ_dice(tables: Mapping[str, pd.DataFrame], organs: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Mean Dice by organ as bars, for one or several tables of `helpers.extras.ct.scores.organ_table` by name."""
    ax = new_axes(ax, (7.6, 3.6))
    height = 0.8 / len(tables)
    for turn, (name, table) in enumerate(tables.items()):
        places = np.arange(len(organs)) + (turn - (len(tables) - 1) / 2) * height
        colours = list(organ_colours(organs).values())
        ax.barh(places, table.loc[list(organs), "dice"], height, color=colours, alpha=1 - 0.45 * turn, label=name)
    ax.set(yticks=range(len(organs)), yticklabels=organs, xlim=(0, 1), xlabel="mean Dice")
    ax.invert_yaxis()
    if len(tables) > 1:
        ax.legend(loc="lower right", title="solid and pale")
    return ax


def organ_panes(image: np.ndarray, labels: Mapping[str, np.ndarray], organs: Sequence[str]) -> list[Pane]:
    """Panes for `slice_viewer.SliceViewer`: the same scan (X, Y, Z), 0 to 1, with each of several label maps."""
    names = dict(enumerate(organs, start=1))
    style = {"names": names, "colours": organ_colours(organs), "window": (0.0, 1.0)}
    return [Pane(image, found, title, **style) for title, found in labels.items()]
