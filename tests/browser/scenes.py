"""Volumes whose every pixel is known, for the tests that look at what the viewer draws; the test notebooks import them."""

from __future__ import annotations

import numpy as np

from brats_cohort.case import Case
from brats_cohort.cases import read_classes, read_image
from brats_cohort.regions import CLASS_COLOURS, CLASS_NAMES, MODALITY_NAMES
from brats_cohort.testing import LPS
from slice_viewer import Pane, SliceViewer

SHAPE = (40, 48, 30)
WINDOW = (0.0, 500.0)
MARK = 450
"""Value of the block on the patient's left, front and top; elsewhere a voxel's value tells its axial slice."""


def view_case(case: Case) -> SliceViewer:
    """The four modalities of a case with its reference, in the names and colours of the tumour classes."""
    options = {"titles": list(MODALITY_NAMES.values()), "names": CLASS_NAMES, "colours": CLASS_COLOURS}
    labels = read_classes(case)[0] if case.label else None
    return SliceViewer(*read_image(case), labels=labels, title=case.identifier, **options)


def value_at(z: int) -> int:
    """Value of the unmarked voxels of an axial slice."""
    return 100 + 5 * z


def marked_volume() -> np.ndarray:
    """Volume in LPS order: x rises to the patient's left, y to the back, z to the head."""
    volume = np.empty(SHAPE, np.int16)
    volume[:] = value_at(np.arange(SHAPE[2]))
    volume[30:36, 4:12, 20:28] = MARK
    return volume


def marked_labels() -> np.ndarray:
    """Class 2 on the patient's right, class 3 at the back, on slices 5 to 24."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:12, 20:28, 5:25] = 2
    labels[18:24, 36:44, 5:25] = 3
    return labels


def marked_panes() -> list[Pane]:
    """Two panes, one with labels."""
    volume = marked_volume()
    return [Pane(volume, title="plain", window=WINDOW), Pane(volume, marked_labels(), "labelled", window=WINDOW)]


def marked_viewer() -> SliceViewer:
    """The two panes, begun at voxel (20, 24, 10)."""
    return SliceViewer(marked_panes(), LPS, names=CLASS_NAMES, cursor=(20, 24, 10), opacity=1.0, outline=False)
