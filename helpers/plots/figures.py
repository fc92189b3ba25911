"""Figures of cases (four modalities, predictions beside references) and of a U-Net; and one look for every figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch

from brats_cohort.case import Case
from brats_cohort.cases import read_classes, read_image
from brats_cohort.regions import (
    CLASS_COLOURS,
    CLASS_NAMES,
    MODALITIES,
    MODALITY_NAMES,
    REGION_NAMES,
    REGIONS,
    classes_to_regions,
)
from helpers.evaluation.cohort import LabelFile, read_label_file
from slice_viewer.slices import best_slice, frame, robust_window, show_slice

INK, MUTED = "#222222", "#6B6B6B"
FIRST, SECOND = "#0072B2", "#E69F00"
"""Colours of two things that are compared and are neither classes nor regions (Okabe-Ito palette)."""


def add_legend(where: Axes | Figure, names: Mapping[str, str] | None = None, **options) -> Legend:
    """Add a legend of colour patches: `names` with their colours, by default the three tumour classes.

    A figure gets the legend below its panes, an Axes inside; `options` go to matplotlib's ``legend``.
    """
    entries = names or {CLASS_NAMES[value]: colour for value, colour in CLASS_COLOURS.items()}
    patches = [Patch(facecolor=colour, edgecolor=INK, linewidth=0.5, label=text) for text, colour in entries.items()]
    if isinstance(where, Figure):
        options = {"loc": "outside lower center", "ncols": len(patches)} | options
    return where.legend(handles=patches, **options)


MODALITY_HINTS: dict[str, str] = {
    "t1": "anatomy",
    "t1ce": "contrast agent lights up the rim",
    "t2": "water is bright",
    "flair": "oedema bright, fluid dark",
}
"""What a newcomer should look for in each modality."""

REGION_MODALITY: dict[str, str] = {"TC": "t1ce", "WT": "flair", "ET": "t1ce"}
"""The modality on which a reader judges each region, so that errors are drawn where they can be understood."""

MISSED, FALSE = 1, 2
ERROR_COLOURS: dict[int, str] = {MISSED: "#E69F00", FALSE: "#CC79A7"}


@dataclass(frozen=True)
class Comparison:
    """One predicted case as `show_gallery` draws it: image (4, X, Y, Z), affine (4, 4) and two label maps (X, Y, Z).

    The label maps hold classes 0 to 3; `title` is such as "worst: BraTS2021_01476, Dice 0.61".
    """

    image: np.ndarray
    affine: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    title: str

    @classmethod
    def read(cls, case: Case, prediction: Path, *, title: str) -> Comparison:
        """Read a case with a reference, and its prediction as this package writes it; raises `DataError`."""
        image, affine = read_image(case)
        predicted, _ = read_label_file(LabelFile(prediction, case.labels))
        return cls(image, affine, read_classes(case)[0], predicted, title)


def show_modalities(
    image: np.ndarray, affine: np.ndarray, *, classes: np.ndarray | None = None, plane: str = "axial"
) -> Figure:
    """Show one slice of the four modalities (4, X, Y, Z) side by side, and again below with the label map if there is one.

    `affine` (4, 4) leads from voxel indices to millimetres in RAS+; `classes` are 0 to 3. The slice has the largest tumour
    area, or the most brain if there is no label map.
    """
    index = best_slice(classes if classes is not None else image[0] != 0, affine, plane=plane)
    rows = 1 if classes is None else 2
    left, right, bottom, top = frame(image[0], affine, plane)
    height = 2.55 * (bottom - top) / (right - left)
    figure, axes = plt.subplots(rows, 4, figsize=(10.4, height * rows + 0.9), squeeze=False, layout="compressed")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.04, wspace=0.01, hspace=0.01)
    for column, (modality, volume) in enumerate(zip(MODALITIES, image, strict=True)):
        window = robust_window(volume)
        for row in range(rows):
            labels = classes if row else None
            show_slice(volume, affine, plane=plane, index=index, classes=labels, window=window, ax=axes[row, column])
        axes[0, column].set_title(MODALITY_NAMES[modality], pad=18)
        axes[0, column].text(0, 1.02, MODALITY_HINTS[modality], transform=axes[0, column].transAxes, fontsize=9, color=MUTED)
    if classes is not None:
        add_legend(figure)
    return figure


def show_gallery(cases: Sequence[Comparison], *, region: str = "WT") -> Figure:
    """Show the reference, the prediction and the errors on a region of several cases, a row each.

    Parameters
    ----------
    cases : sequence of Comparison
        Such as the best, the median and the worst of a test set.
    region : {"TC", "WT", "ET"}
        Region whose missed and falsely marked voxels the third pane shows, on its modality (`REGION_MODALITY`). The slice is
        that with the largest reference area, or the prediction's if there is no reference.
    """
    modality = REGION_MODALITY[region]
    volumes = [case.image[MODALITIES.index(modality)] for case in cases]
    left, right, bottom, top = frame(volumes[0], cases[0].affine, "axial")
    height = 2.85 * (bottom - top) / (right - left)
    figure, axes = plt.subplots(len(cases), 3, figsize=(9, height * len(cases) + 0.8), squeeze=False, layout="compressed")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.02)
    for row, case, volume in zip(axes, cases, volumes, strict=True):
        expected, found = (classes_to_regions(each)[REGIONS.index(region)] for each in (case.reference, case.prediction))
        errors = (expected & ~found) * np.uint8(MISSED) + (found & ~expected) * np.uint8(FALSE)
        index = best_slice(case.reference if case.reference.any() else case.prediction, case.affine)
        for ax, labels in zip(row, (case.reference, case.prediction, errors), strict=True):
            colours = ERROR_COLOURS if labels is errors else CLASS_COLOURS
            show_slice(volume, case.affine, index=index, classes=labels, colours=colours, ax=ax)
        row[0].set_ylabel(f"{case.title}\non {MODALITY_NAMES[modality]}", fontsize=min(9, 360 / max(len(case.title), 1)))
    for ax, title in zip(axes[0], ("reference", "prediction", f"errors, {REGION_NAMES[region]}"), strict=True):
        ax.set_title(title)
    classes = {CLASS_NAMES[value]: colour for value, colour in CLASS_COLOURS.items()}
    add_legend(figure, classes | {"missed": ERROR_COLOURS[MISSED], "falsely marked": ERROR_COLOURS[FALSE]})
    return figure


def draw_unet(channels: Sequence[int], patch: int) -> Figure:
    """Draw a 3-D U-Net from four contrasts to three regions: `channels` by level, patches of `patch` voxels along an edge."""
    size = 1.8 / 2.0 ** np.arange(len(channels))  # of the cubes, by level
    down = np.cumsum([0, *(0.5 * size[:-1] + 0.7 * size[1:] + 0.85)])
    figure, ax = plt.subplots(figsize=(10, 5.2))
    pairs = zip((4, *channels[:-1]), (3, *channels[:-2], channels[-1]), strict=True)
    for k, (y, pair) in enumerate(zip(-down, pairs, strict=True)):
        left, right = 1.7 * k, 3.4 * len(channels) + 1 - 1.7 * k
        for x, maps in zip((left, right), pair, strict=True):
            _cube(ax, x, y, size[k], f"{maps} × {patch // 2**k}³")
        if k:
            above, under = y + 0.7 * size[k] + 0.05, -down[k - 1] - size[k] - 0.45
            _arrow(ax, (left - 1.5, under), (left, above))
            _arrow(ax, (right, above), (right + 1.5, under))
            _arrow(ax, (left + size[k], y), (right - 0.7 * size[k], y), "skip connection", "--")
    _arrow(ax, (left + 0.8, y - 0.6), (right - 0.8, y - 0.6), "convolve")
    far = right + 1.7 * k
    for x, heading, arm in ((0, "image", "halve the grid"), (far, "logits", "double the grid")):
        ax.text(x, 1.4, heading, ha="center", weight="bold")
        ax.text(x, -down[-2], arm, ha="center", va="center")
    ax.set(xlim=(-1.2, far + 1.6), ylim=(y - 1, 1.8), aspect="equal")
    ax.axis("off")
    return figure


def _cube(ax: Axes, x: float, y: float, size: float, text: str) -> None:
    """Draw a cube, its front centred at x, y, with its text below."""
    front = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / 2
    behind = np.add(front, (0.3, 0.2))
    top, side = [*front[2:], *behind[[3, 2]]], [*front[1:3], *behind[[2, 1]]]
    for face, colour in ((front, "#56B4E9"), (top, "#B5DDF5"), (side, "#0072B2")):
        ax.add_patch(plt.Polygon((x, y) + size * np.array(face), fc=colour, ec="white"))
    ax.text(x, y - size / 2 - 0.1, text, ha="center", va="top")


def _arrow(ax: Axes, start: Sequence[float], end: Sequence[float], text: str = "", style: str = "-") -> None:
    """Draw an arrow with its text above the middle."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#444444", "ls": style})
    x, y = np.mean([start, end], axis=0)
    ax.text(x, y + 0.1, text, ha="center", va="bottom")
