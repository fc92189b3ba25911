"""Dice, 95th percentile Hausdorff distance, lesion-wise Dice, volumes and more of one case, with one rule for empty regions.

Not every glioma has every region, so both masks, or one of them, may be empty. Everything in this package follows BraTS:

=====================  ====  ===========  ================  ======================
prediction, reference  Dice  lesion-wise  HD95              sensitivity, precision
=====================  ====  ===========  ================  ======================
both empty             1     1            0 mm              1
exactly one empty      0     0            373.13 mm         0
=====================  ====  ===========  ================  ======================

373.13 mm is the diagonal of the BraTS volume (240 x 240 x 155 mm), a penalty larger than any distance that can occur in it.
MONAI's classes leave such cases out by default, which rewards a network that invents tumour where there is none. The relative
volume error alone has no value if the reference is empty: it is NaN then, and left out of means.

Dice and distances are MONAI's, on masks cropped to the bounding box of their union plus one voxel, which changes no result.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from brats_cohort.grid import bounding_box
from brats_cohort.regions import REGIONS, classes_to_regions

GROWTH_MM, SMALLEST_MM3 = 3.0, 50.0
"""Numbers of the lesion-wise rule for adult glioma; meningioma grows by 1 mm, metastases count from 2 cubic millimetres."""
NEAR, TOUCHING = ndimage.generate_binary_structure(3, 2), np.ones((3, 3, 3), bool)
EMPTY_DISTANCE = math.hypot(240.0, 240.0, 155.0)
"""HD95 in mm if exactly one of the two masks is empty."""

METRICS: tuple[str, ...] = (
    *("dice", "hd95", "lesion_dice", "lesions_found", "lesions_missed", "lesions_false", "sensitivity", "precision"),
    *("reference_ml", "prediction_ml", "volume_error_ml", "volume_error_percent"),
)
"""Columns of `score_case` after the region."""


class LesionScore(NamedTuple):
    """Lesion-wise result of one region of one case: the mean Dice over lesions and false lesions, 0 to 1, and their numbers.

    Lesions of the reference are `found` or `missed`; predicted components without a lesion are `false`.
    """

    dice: float
    found: int
    missed: int
    false: int


def score_lesions(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> LesionScore:
    """Score one region lesion by lesion, as BraTS does since 2023: a small second tumour counts as much as the large first one.

    The rule of the challenge's own program (Saluja et al. 2023, github.com/rachitsaluja/BraTS-2023-Metrics, adult glioma):

    1. A lesion of the reference is what is connected (26 neighbours) after dilating it by 3 voxels of 1 mm, each step to the
       18 neighbours across faces and edges. Dilation only decides what belongs together.
    2. A connected component of the prediction belongs to every lesion whose dilated extent it touches; a lesion's Dice is that
       of the lesion against all of its components together. Without one the lesion is missed, with Dice 0.
    3. A component that belongs to no lesion is a false lesion, with Dice 0.
    4. The score is the mean over lesions and false lesions. Lesions of at most 50 cubic millimetres do not count, though a
       component that touches one is not false. With nothing left to count the score is 1.

    `prediction` and `reference` are bool arrays (X, Y, Z) in one grid, `spacing` its voxel edges in mm. On a grid other than
    1 mm the dilation is as many whole steps of a voxel as come closest to 3 mm, at least one.
    """
    edge_mm3 = math.prod(float(edge) for edge in spacing)
    steps = max(1, round(GROWTH_MM / edge_mm3 ** (1 / 3)))
    prediction, reference = (np.pad(mask, steps) for mask in _crop(prediction, reference))
    # Each lesion dilated by itself is one component of the dilated reference, so one dilation is enough.
    dilated, lesions = ndimage.label(ndimage.binary_dilation(reference, NEAR, iterations=steps), TOUCHING)
    components, count = ndimage.label(prediction, TOUCHING)
    touches = np.zeros((lesions + 1, count + 1), bool)
    touches[dilated[prediction], components[prediction]] = True
    sizes = np.bincount(dilated[reference], minlength=lesions + 1)[1:]
    hits = np.bincount(dilated[reference & prediction], minlength=lesions + 1)[1:]
    answers = touches[1:, 1:] @ np.bincount(components[prediction], minlength=count + 1)[1:]
    counted, found = sizes * edge_mm3 > SMALLEST_MM3, touches[1:, 1:].any(1)
    false = int(count - touches[1:, 1:].any(0).sum())
    total = int(counted.sum()) + false
    mean = float((2 * hits / (sizes + answers))[counted].sum() / total) if total else 1.0
    return LesionScore(mean, int((counted & found).sum()), int((counted & ~found).sum()), false)


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Compute 2 |P and R| / (|P| + |R|) of two binary masks of equal shape, 0 to 1 (Dice 1945); empty masks as above."""
    from monai.metrics import compute_dice  # here, since it takes seconds and who looks at images needs none of it

    pair = map(_tensor, _crop(*_masks(prediction, reference)))
    return float(compute_dice(*pair, include_background=True, ignore_empty=False))


def hausdorff95(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> float:
    """Compute the distance in mm below which 95 % of the surface of either mask lies from the surface of the other.

    The surface of a mask is the mask minus its binary erosion (6 neighbours in 3-D; voxels outside the volume count as
    background). Each surface voxel has its Euclidean distance in mm, between voxel centres, to the nearest surface voxel
    of the other mask; HD95 is the larger of the two directions' 95th percentiles (linear interpolation). This is
    MONAI's definition. Others pool both directions before the percentile, or weigh voxels by surface area, and differ a little.

    `prediction` and `reference` are binary arrays (X, Y, Z) or (X, Y) in one grid, `spacing` its voxel edges in mm. Empty masks
    as at the top of this module.
    """
    from monai.metrics import compute_hausdorff_distance  # as in `dice`

    prediction, reference = _crop(*_masks(prediction, reference))
    if not prediction.any() or not reference.any():
        return 0.0 if prediction.any() == reference.any() else EMPTY_DISTANCE
    options = {"include_background": True, "percentile": 95, "spacing": [float(edge) for edge in spacing]}
    with warnings.catch_warnings():  # MONAI 1.6 calls an argument of its own that it has deprecated
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        return float(compute_hausdorff_distance(_tensor(prediction), _tensor(reference), **options))


def score_case(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> pd.DataFrame:
    """Score one case by region.

    Parameters
    ----------
    prediction, reference : uint8 arrays (X, Y, Z)
        Label maps of *classes* 0 to 3 (`brats_cohort.regions`) in one grid.
    spacing : sequence of three floats
        Size of a voxel in mm.

    Returns
    -------
    DataFrame
        One row for each of TC, WT, ET; columns ``region`` and `METRICS`: ``dice``, ``lesion_dice``, ``sensitivity`` (the share
        of the reference that was found) and ``precision`` (the share of the prediction that is right) 0 to 1, ``hd95`` in mm,
        numbers of lesions, ``reference_ml``, ``prediction_ml``, and ``volume_error_ml`` = prediction minus reference, also in
        percent of the reference.

    Raises
    ------
    ValueError
        If the shapes differ, or a label map holds anything but 0, 1, 2, 3.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    _masks(prediction, reference)
    for name, classes in (("prediction", prediction), ("reference", reference)):
        if classes.size and (classes.dtype.kind not in "iub" or classes.min() < 0 or classes.max() > 3):
            raise ValueError(f"the {name} must hold the classes 0, 1, 2, 3; convert it with brats_cohort.regions.to_classes")
    pair = [classes_to_regions(classes) for classes in _crop(prediction, reference)]
    return pd.DataFrame([{"region": name, **_score(p, r, spacing)} for name, p, r in zip(REGIONS, *pair, strict=True)])


def _score(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    lesions, voxel_ml = score_lesions(prediction, reference, spacing), math.prod(map(float, spacing)) / 1000
    right, wanted, found = (np.count_nonzero(mask) for mask in (prediction & reference, reference, prediction))
    sensitivity, precision = (right / whole if wanted and found else float(wanted == found) for whole in (wanted, found))
    scores = dice(prediction, reference), hausdorff95(prediction, reference, spacing), *lesions, sensitivity, precision
    error = 100 * (found - wanted) / wanted if wanted else math.nan
    values = *scores, wanted * voxel_ml, found * voxel_ml, (found - wanted) * voxel_ml, error
    return dict(zip(METRICS, values, strict=True))


def _masks(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(prediction) != np.shape(reference):
        shapes = f"shape {np.shape(prediction)}, the reference {np.shape(reference)}"
        raise ValueError(f"the prediction has {shapes}; they need one grid")
    return np.asarray(prediction) > 0, np.asarray(reference) > 0


def _crop(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop both arrays to the bounding box of what is non-zero in either, plus one voxel; an arbitrary voxel if nothing is."""
    box = bounding_box((prediction > 0) | (reference > 0), 1) or (slice(0, 1),) * prediction.ndim
    return prediction[box], reference[box]


def _tensor(mask: np.ndarray) -> torch.Tensor:
    """Shape a mask as MONAI takes it: (1, 1, X, Y, Z)."""
    return torch.from_numpy(np.ascontiguousarray(mask))[None, None].to(torch.uint8)
