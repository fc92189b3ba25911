"""The slice viewer for a case: its four modalities with its reference in `slice_viewer.SliceViewer`."""

from __future__ import annotations

from typing import Any

import numpy as np

from brats_cohort.cases import Case, read_classes, read_image
from brats_cohort.regions import CLASS_COLOURS, CLASS_NAMES, MODALITIES, MODALITY_NAMES, regions_to_classes
from slice_viewer import SliceViewer


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
