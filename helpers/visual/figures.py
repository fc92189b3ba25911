"""Figures of one case: its four modalities, a prediction beside the reference, and best to worst of a test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.data.layouts import Case, read_classes, read_image
from helpers.evaluation.compare import LabelFile, read_label_file
from helpers.regions import CLASS_COLOURS, CLASS_NAMES, MODALITIES, MODALITY_NAMES, REGION_NAMES, REGIONS, classes_to_regions
from helpers.visual.slices import PLANES, best_slice, robust_window, show_slice, to_ras
from helpers.visual.style import MUTED, add_legend, apply_style

__all__ = [
    "Comparison",
    "add_legend",
    "apply_style",
    "show_gallery",
    "show_modalities",
    "show_planes",
    "show_prediction",
    "show_slice",
]

MODALITY_HINTS: dict[str, str] = {
    "t1": "anatomy",
    "t1ce": "contrast agent lights up the rim",
    "t2": "water is bright",
    "flair": "oedema bright, fluid dark",
}
"""What a newcomer should look for in each modality."""

MISSED, FALSE = 1, 2
ERROR_COLOURS: dict[int, str] = {MISSED: "#009E73", FALSE: "#CC79A7"}


@dataclass(frozen=True)
class Comparison:
    """One predicted case as `show_gallery` draws it.

    Attributes
    ----------
    image : array (X, Y, Z)
        The modality to draw on.
    affine : array (4, 4)
    reference, prediction : uint8 arrays (X, Y, Z)
        Classes 0 to 3.
    title : str
        Such as "worst: BraTS2021_01476, Dice 0.61".
    """

    image: np.ndarray
    affine: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    title: str

    @classmethod
    def read(cls, case: Case, prediction: Path, *, title: str, modality: str = "flair") -> Comparison:
        """Read a case with a reference, and its prediction as this package writes it; raises `DataError`."""
        image, affine = read_image(case)
        predicted, _ = read_label_file(LabelFile(prediction, "brats2021"))
        return cls(image[MODALITIES.index(modality)], affine, read_classes(case)[0], predicted, title)


def show_modalities(
    image: np.ndarray,
    affine: np.ndarray,
    *,
    classes: np.ndarray | None = None,
    plane: str = "axial",
    index: int | None = None,
    title: str = "",
) -> Figure:
    """Show one slice of the four modalities side by side, and again below with the label map where there is one.

    Parameters
    ----------
    image : array (4, X, Y, Z)
        In the order of `helpers.regions.MODALITIES`.
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+.
    classes : uint8 array (X, Y, Z), optional
        Classes 0 to 3.
    plane, index
        As `helpers.visual.slices.show_slice`; by default the slice with the largest tumour area.
    title : str
    """
    if index is None:
        index = best_slice(classes if classes is not None else image[0] != 0, affine, plane=plane)
    rows = 1 if classes is None else 2
    size = (10.4, _row_height(image[0], affine, plane) * rows + 0.9)
    figure, axes = plt.subplots(rows, 4, figsize=size, squeeze=False, layout="compressed")
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
    if title:
        figure.suptitle(f"{title}\n")  # the empty line keeps it clear of the panes' own headings
    return figure


def show_planes(volume: np.ndarray, affine: np.ndarray, *, classes: np.ndarray | None = None, title: str = "") -> Figure:
    """Show a modality (X, Y, Z) in the three planes, each through the largest tumour area."""
    figure, axes = plt.subplots(1, 3, figsize=(9.4, 3.6), layout="compressed")
    for ax, plane in zip(axes, PLANES, strict=True):
        show_slice(volume, affine, plane=plane, classes=classes, title=plane, ax=ax)
    if classes is not None:
        add_legend(figure)
    if title:
        figure.suptitle(title)
    return figure


def show_prediction(
    volume: np.ndarray,
    affine: np.ndarray,
    *,
    reference: np.ndarray,
    prediction: np.ndarray,
    region: str = "WT",
    plane: str = "axial",
    index: int | None = None,
    focus: np.ndarray | None = None,
    axes: Sequence[Axes] | None = None,
    headings: bool = True,
) -> Sequence[Axes]:
    """Show the reference, the prediction, and where they disagree on `region`: missed and falsely marked voxels.

    Parameters
    ----------
    volume : array (X, Y, Z)
        The modality to draw on.
    affine : array (4, 4)
    reference, prediction : uint8 arrays (X, Y, Z)
        Classes 0 to 3.
    region : {"TC", "WT", "ET"}
        Region whose errors the third pane shows.
    plane, index
        As `show_slice`; by default the slice with the largest reference area (the prediction's where there is no reference).
    focus : array (X, Y, Z), optional
        As `show_slice`: fill the panes with what is not 0 in it.
    axes : three Axes, optional
    headings : bool
        Whether to write above the panes what they show.
    """
    if axes is None:
        figure, axes = plt.subplots(1, 3, figsize=(9.4, 3.9), layout="compressed")
        add_prediction_legend(figure)
    if index is None:
        index = best_slice(reference if reference.any() else prediction, affine, plane=plane)
    expected, predicted = (classes_to_regions(classes)[REGIONS.index(region)] for classes in (reference, prediction))
    errors = (expected & ~predicted) * np.uint8(MISSED) + (predicted & ~expected) * np.uint8(FALSE)
    panes = (
        ("reference", reference, CLASS_COLOURS),
        ("prediction", prediction, CLASS_COLOURS),
        (f"errors, {REGION_NAMES[region]}", errors, ERROR_COLOURS),
    )
    window = robust_window(volume)
    for ax, (heading, labels, colours) in zip(axes, panes, strict=True):
        drawn = {"plane": plane, "index": index, "classes": labels, "colours": colours, "window": window, "focus": focus}
        show_slice(volume, affine, **drawn, title=heading if headings else "", ax=ax)
    return axes


def show_gallery(cases: Sequence[Comparison], *, region: str = "WT", plane: str = "axial") -> Figure:
    """Show several predicted cases below each other, such as the best, the median and the worst of a test set."""
    height = _row_height(cases[0].image, cases[0].affine, plane, width=2.85)
    figure, axes = plt.subplots(len(cases), 3, figsize=(9, height * len(cases) + 0.8), squeeze=False, layout="compressed")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.02)
    for number, (row, case) in enumerate(zip(axes, cases, strict=True)):
        maps = {"reference": case.reference, "prediction": case.prediction}
        show_prediction(case.image, case.affine, **maps, region=region, plane=plane, axes=row, headings=number == 0)
        row[0].set_ylabel(case.title, fontsize=9)
    add_prediction_legend(figure)
    return figure


def add_prediction_legend(figure: Figure) -> None:
    """Add the legend of `show_prediction`: the classes, then the two kinds of error."""
    entries = {CLASS_NAMES[value]: colour for value, colour in CLASS_COLOURS.items()}
    add_legend(figure, entries | {"missed": ERROR_COLOURS[MISSED], "falsely marked": ERROR_COLOURS[FALSE]})


def _row_height(volume: np.ndarray, affine: np.ndarray, plane: str, *, width: float = 2.55) -> float:
    """Height in inches of a pane of `width` inches that shows what is not background."""
    turned, spacing = to_ras(volume != 0, affine)
    sides = []
    for axis in (other for other in range(3) if other != PLANES[plane].axis):
        used = np.flatnonzero(turned.any(axis=tuple(other for other in range(3) if other != axis)))
        sides.append((np.ptp(used) + 1 if used.size else turned.shape[axis]) * spacing[axis] + 12)
    return width * sides[1] / sides[0]
