"""What a pane of the viewer shows: a volume, perhaps a label map over it, and a title."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.data.cases import Case, open_volume, read_classes, read_image, read_volume
from helpers.plots.case import ERROR_COLOURS, FALSE, MISSED
from helpers.regions import (
    CLASS_COLOURS,
    CLASS_NAMES,
    MODALITIES,
    MODALITY_NAMES,
    REGION_NAMES,
    REGIONS,
    classes_to_regions,
    regions_to_classes,
)
from helpers.workspace import DataError

ERROR_NAMES: dict[int, str] = {MISSED: "missed", FALSE: "falsely marked"}
OTHER_COLOURS: tuple[str, ...] = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2", "#999999")
"""Colours, from the Okabe-Ito palette, of labels that were given none."""


@dataclass(frozen=True, eq=False)
class Pane:
    """One pane of a `SliceViewer`.

    Attributes
    ----------
    volume : array (X, Y, Z)
        Any integer or floating type and unit; NaN is shown black, and so is zero where it is background.
    labels : array, optional
        A label map (X, Y, Z) of whole numbers from 0 (nothing) to 255, or a region map (3, X, Y, Z) in the order of
        `helpers.regions.REGIONS`, on the grid of `volume`.
    title : str
    affine : array (4, 4), optional
        From voxel indices to millimetres in RAS+; without it that of the viewer.
    names, colours : mappings from label to text and to "#RRGGBB"
        By default those of the tumour classes. Labels of the map that have neither get a number and a free colour.
    window : (float, float), optional
        Values shown black and white, in the volume's units (`helpers.plots.case.robust_window`).
    """

    volume: np.ndarray
    labels: np.ndarray | None = None
    title: str = ""
    affine: np.ndarray | None = None
    names: Mapping[int, str] | None = None
    colours: Mapping[int, str] | None = None
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class Entry:
    """A label with its name and colour, as the legend shows it."""

    value: int
    name: str
    colour: str


def modality_panes(image: np.ndarray, classes: np.ndarray | None = None) -> list[Pane]:
    """One pane for each of the four modalities of an image (4, X, Y, Z), with the label or region map on all of them."""
    if image.ndim != 4 or image.shape[0] != len(MODALITIES):
        raise DataError(
            f"an image of four modalities has shape (4, X, Y, Z), this one {image.shape}", "move the channels first"
        )
    return [Pane(volume, classes, MODALITY_NAMES[modality]) for modality, volume in zip(MODALITIES, image, strict=True)]


def comparison_panes(
    volume: np.ndarray, *, reference: np.ndarray, prediction: np.ndarray, region: str = "WT", title: str = "reference"
) -> list[Pane]:
    """Panes of the reference, of the prediction, and of where they disagree on `region`: missed and falsely marked voxels.

    Parameters
    ----------
    volume : array (X, Y, Z)
        The modality to draw on.
    reference, prediction : uint8 arrays (X, Y, Z)
        Classes 0 to 3.
    region : {"TC", "WT", "ET"}
    title : str
        Of the first pane.
    """
    for name, labels in (("reference", reference), ("prediction", prediction)):
        if labels.shape != volume.shape:
            raise DataError(f"the {name} has shape {labels.shape}, the volume {volume.shape}", "bring both to one grid first")
    expected, predicted = (classes_to_regions(classes)[REGIONS.index(region)] for classes in (reference, prediction))
    errors = (expected & ~predicted) * np.uint8(MISSED) + (predicted & ~expected) * np.uint8(FALSE)
    return [
        Pane(volume, reference, title),
        Pane(volume, prediction, "prediction"),
        Pane(volume, errors, f"errors, {REGION_NAMES[region]}", names=ERROR_NAMES, colours=ERROR_COLOURS),
    ]


def case_panes(case: Case) -> tuple[list[Pane], np.ndarray]:
    """The four modalities of a case with its reference, where it has one, and its affine; raises as `read_image`."""
    image, affine = read_image(case)
    return modality_panes(image, read_classes(case)[0] if case.label else None), affine


def file_panes(path: Path) -> tuple[list[Pane], np.ndarray]:
    """One pane for each volume of a 3-D or 4-D NIfTI file, and its affine; raises as `read_volume`."""
    shape = open_volume(path).shape
    if len(shape) != 4 or shape[3] == 1:
        volume, affine = read_volume(path)
        return [Pane(volume, title=path.name)], affine
    volumes, affines = zip(*(read_volume(path, channel=channel) for channel in range(shape[3])), strict=True)
    return [Pane(volume, title=f"volume {number}") for number, volume in enumerate(volumes)], affines[0]


def array_panes(image: np.ndarray, labels: np.ndarray | None) -> list[Pane]:
    """Panes of one volume (X, Y, Z) or of the four modalities (4, X, Y, Z)."""
    return [Pane(image, labels)] if image.ndim == 3 else modality_panes(image, labels)


def panes_of(
    source: Case | Path | str | np.ndarray | Sequence[Pane], affine: np.ndarray | None, *, labels: np.ndarray | None
) -> tuple[list[Pane], np.ndarray | None, str]:
    """Panes of whatever `SliceViewer` takes, with their affine and a name."""
    if isinstance(source, Case):
        return *case_panes(source), source.identifier
    if isinstance(source, (str, Path)):
        return *file_panes(Path(source)), Path(source).name
    if isinstance(source, np.ndarray):
        return array_panes(source, labels), affine, ""
    return list(source), affine, ""


def check_panes(panes: Sequence[Pane]) -> None:
    """Raise `DataError` with one sentence for the first pane that cannot be shown."""
    if not panes:
        raise DataError("a viewer needs at least one pane", "give a case, an array or a list of panes")
    for number, pane in enumerate(panes):
        name = f"pane {pane.title or number}"
        _check_volume(pane.volume, name)
        _check_affine(pane.affine, name)
        if pane.labels is not None:
            _check_labels(pane.labels, pane.volume.shape, name)


def label_map(labels: np.ndarray) -> np.ndarray:
    """Labels of a pane as uint8 (X, Y, Z), region maps as classes."""
    return regions_to_classes(labels) if labels.ndim == 4 else labels.astype(np.uint8, copy=False)


def legend_entries(pane: Pane, values: Sequence[int]) -> list[Entry]:
    """Entries of a pane's legend: the named labels, and those of `values` that have no name."""
    names = CLASS_NAMES if pane.names is None else pane.names
    colours = CLASS_COLOURS if pane.names is None and pane.colours is None else pane.colours or {}
    every = sorted({int(value) for value in (*names, *values)} - {0})
    return [
        Entry(value, names.get(value, f"label {value}"), colours.get(value, OTHER_COLOURS[number % len(OTHER_COLOURS)]))
        for number, value in enumerate(every)
    ]


def _check_volume(volume: np.ndarray, name: str) -> None:
    if volume.ndim != 3:
        raise DataError(f"{name}: a volume has shape (X, Y, Z), this one {volume.shape}", "give each channel a pane of its own")
    if 0 in volume.shape:
        raise DataError(f"{name}: the volume has shape {volume.shape} and no voxel", "check how it was cropped")
    if volume.dtype.kind not in "biuf":
        raise DataError(f"{name}: the volume holds {volume.dtype}", "convert it to integers or real numbers")


def _check_affine(affine: np.ndarray | None, name: str) -> None:
    if affine is None:
        raise DataError(f"{name} has no affine, without which left and right are unknown", "give the viewer one")
    wrong = affine.shape != (4, 4) or not np.isfinite(affine).all()
    if wrong or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(f"{name}: the affine is {affine.tolist()}", "give an invertible (4, 4) array")


def _check_labels(labels: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    if labels.shape not in (shape, (len(REGIONS), *shape)):
        raise DataError(
            f"{name}: labels have shape {labels.shape}, the volume {shape}", "bring both to one grid with nearest neighbour"
        )
    if labels.ndim == 4:
        return
    if labels.dtype.kind not in "biu":
        raise DataError(f"{name}: labels are {labels.dtype}, whole numbers were expected", "round or threshold them first")
    if labels.min() < 0 or labels.max() > 255:
        raise DataError(f"{name}: labels run from {labels.min()} to {labels.max()}, 0 to 255 can be shown", "renumber them")
