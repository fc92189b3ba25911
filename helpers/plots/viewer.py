"""The slice viewer for tumours: a case, or a reference beside a prediction, as panes of `slice_viewer.SliceViewer`."""

from __future__ import annotations

from typing import Any

import numpy as np

from helpers.data.cases import Case, read_classes, read_image
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
from slice_viewer import Pane, SliceViewer

ERROR_NAMES: dict[int, str] = {MISSED: "missed", FALSE: "falsely marked"}


def view_case(
    case: Case | np.ndarray, affine: np.ndarray | None = None, *, labels: np.ndarray | None = None, **options: Any
) -> SliceViewer:
    """Show the four modalities of a case, with its reference, in the names and colours of the tumour classes.

    Parameters
    ----------
    case : Case or array (4, X, Y, Z)
        Of an array, `affine` (4, 4) leads from voxel indices to millimetres in RAS+, and `labels` is a label map (X, Y, Z) or a
        region map (3, X, Y, Z).
    **options
        Further arguments of `slice_viewer.SliceViewer`, such as ``plane="coronal"``.
    """
    if isinstance(case, Case):
        labels = read_classes(case)[0] if case.label else None
        options = {"title": case.identifier} | options
        case, affine = read_image(case)
    if labels is not None and labels.ndim == 4:
        labels = regions_to_classes(labels)
    titles = [MODALITY_NAMES[name] for name in MODALITIES]
    return SliceViewer(case, affine, labels=labels, titles=titles, names=CLASS_NAMES, colours=CLASS_COLOURS, **options)


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
    names, colours = CLASS_NAMES, CLASS_COLOURS
    return [
        Pane(volume, reference, title, names=names, colours=colours),
        Pane(volume, prediction, "prediction", names=names, colours=colours),
        Pane(volume, errors, f"errors, {REGION_NAMES[region]}", names=ERROR_NAMES, colours=ERROR_COLOURS),
    ]
