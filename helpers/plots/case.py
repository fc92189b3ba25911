"""Figures of one case: its four modalities, patches, a prediction beside the reference, best to worst of a test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch, Rectangle

from helpers.data.cases import Case, read_classes, read_image
from helpers.evaluation.cohort import LabelFile, read_label_file
from helpers.regions import (
    CLASS_COLOURS,
    CLASS_NAMES,
    MODALITIES,
    MODALITY_NAMES,
    REGION_NAMES,
    REGIONS,
    classes_to_regions,
)
from slice_viewer.slices import PLANES, best_slice, cut, draw_labels, robust_window, show_slice, to_ras

INK, MUTED = "#222222", "#6B6B6B"
FIRST, SECOND = "#0072B2", "#E69F00"
"""Colours of two things that are compared and are neither classes nor regions (Okabe-Ito palette)."""


def apply_style() -> None:
    """Set matplotlib's defaults for the figures of this package; call it once at the top of a notebook."""
    plt.rcParams.update(
        {
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 80,
            "savefig.dpi": 80,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 10,
            "axes.labelcolor": INK,
            "axes.edgecolor": MUTED,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "grid.color": "#DDDDDD",
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "text.color": INK,
            "lines.linewidth": 1.8,
        }
    )


def add_legend(where: Axes | Figure, names: Mapping[str, str] | None = None, **options) -> Legend:
    """Add a legend of colour patches, by default that of the three tumour classes.

    Parameters
    ----------
    where : Axes or Figure
        A figure gets the legend below its panes, an Axes inside.
    names : mapping from text to colour, optional
        Entries other than the tumour classes.
    **options
        Passed to matplotlib's ``legend``.
    """
    entries = names or {CLASS_NAMES[value]: colour for value, colour in CLASS_COLOURS.items()}
    patches = [Patch(facecolor=colour, edgecolor=INK, linewidth=0.5, label=text) for text, colour in entries.items()]
    if isinstance(where, Figure):
        options = {"loc": "outside lower center", "ncols": len(patches)} | options
    return where.legend(handles=patches, **options)


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return `ax`, or the Axes of a new figure of `size` inches where there is none."""
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


COLOURS = {"Training": FIRST, "Downloading": MUTED, "Uploading": SECOND}
ENDS = {"Interrupted": "machine taken away", "Completed": "completed", "Failed": "failed", "Stopped": "stopped"}


def show_stages(job: Mapping, *, ax: Axes | None = None) -> Axes:
    """Draw when a training job did what.

    Parameters
    ----------
    job : mapping
        What ``DescribeTrainingJob`` says of a job that has ended.
    ax : Axes, optional
    """
    stages = job["SecondaryStatusTransitions"]
    begin = stages[0]["StartTime"]
    ax = new_axes(ax, (8.0, 1.8))
    attempt, labelled = 1, set()
    for stage in stages:
        start = (stage["StartTime"] - begin).total_seconds()
        end = (stage.get("EndTime", stage["StartTime"]) - begin).total_seconds()
        if colour := COLOURS.get(stage["Status"]):
            label = None if stage["Status"] in labelled else stage["Status"]
            labelled.add(stage["Status"])
            ax.barh(attempt, end - start, left=start, height=0.5, color=colour, label=label)
        if words := ENDS.get(stage["Status"]):
            ax.annotate(words, (start, attempt), xytext=(6, 0), textcoords="offset points", va="center")
        attempt += stage["Status"] == "Interrupted"
    last = (stages[-1]["StartTime"] - begin).total_seconds()
    ax.set(
        xlabel="seconds since the job was sent", yticks=range(1, attempt + 1), ylim=(attempt + 0.6, 0.4), xlim=(0, 1.25 * last)
    )
    ax.set_yticklabels([f"attempt {number}" for number in range(1, attempt + 1)])
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.3), ncols=3)
    return ax


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
ERROR_COLOURS: dict[int, str] = {MISSED: "#009E73", FALSE: "#CC79A7"}


@dataclass(frozen=True)
class Comparison:
    """One predicted case as `show_gallery` draws it.

    Attributes
    ----------
    image : array (4, X, Y, Z)
        In the order of `helpers.regions.MODALITIES`.
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
    def read(cls, case: Case, prediction: Path, *, title: str) -> Comparison:
        """Read a case with a reference, and its prediction as this package writes it; raises `DataError`."""
        image, affine = read_image(case)
        predicted, _ = read_label_file(LabelFile(prediction, case.labels))
        return cls(image, affine, read_classes(case)[0], predicted, title)


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
        As `helpers.plots.case.show_slice`; by default the slice with the largest tumour area.
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


def show_gallery(cases: Sequence[Comparison], *, region: str = "WT") -> Figure:
    """Show several predicted cases below each other, such as the best, the median and the worst of a test set.

    Drawn on `REGION_MODALITY`: errors of the whole tumour on FLAIR, of the tumour core and enhancing tumour on T1ce.
    """
    channel = MODALITIES.index(REGION_MODALITY[region])
    height = _row_height(cases[0].image[channel], cases[0].affine, "axial", width=2.85)
    figure, axes = plt.subplots(len(cases), 3, figsize=(9, height * len(cases) + 0.8), squeeze=False, layout="compressed")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.02)
    for number, (row, case) in enumerate(zip(axes, cases, strict=True)):
        maps = {"reference": case.reference, "prediction": case.prediction}
        show_prediction(case.image[channel], case.affine, **maps, region=region, axes=row, headings=number == 0)
        row[0].set_ylabel(f"{case.title}\non {MODALITY_NAMES[REGION_MODALITY[region]]}", fontsize=9)
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
        In voxels, as `helpers.data.patches.patch_slices` gives them.
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
