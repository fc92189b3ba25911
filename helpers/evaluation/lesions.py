"""Dice lesion by lesion, as BraTS has scored since 2023: a small second tumour counts as much as the large first one.

The rule, from the challenge's own program (Saluja et al. 2023, github.com/rachitsaluja/BraTS-2023-Metrics, for adult glioma):

1. **Lesions** of the reference: what hangs together (26 neighbours) after growing it by 3 voxels of 1 mm, each step to the 18
   neighbours across faces and edges. Growing only decides what belongs together; the lesion itself stays as it is.
2. **Pieces** of the prediction: what hangs together (26 neighbours). A piece belongs to every lesion whose grown extent it
   touches, and the Dice of a lesion is that of the lesion against all of its pieces together. No piece: the lesion is
   **missed** and its Dice 0.
3. A piece that belongs to no lesion is a **false lesion**, with Dice 0, however small it is.
4. The score is the mean over lesions and false lesions. Lesions of at most 50 cubic millimetres do not count, though a piece
   that touches one is not false. With nothing left to count the score is 1.

So a prediction without a region that the reference has gives 0, one with a region that the reference does not have gives 0,
and neither gives 1: the rule for empty regions of `helpers.evaluation.metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

GROWTH_MM = 3.0
SMALLEST_MM3 = 50.0
"""Numbers of the rule for adult glioma; meningioma grows by 1 mm, metastases count from 2 cubic millimetres."""

NEAR, TOUCHING = ndimage.generate_binary_structure(3, 2), np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class LesionScore:
    """Lesion-wise result of one region of one case.

    Attributes
    ----------
    dice : float
        Mean over lesions and false lesions, 0 to 1.
    found, missed, false : int
        Lesions of the reference with and without a predicted piece, and predicted pieces without a lesion.
    """

    dice: float
    found: int
    missed: int
    false: int


def score_lesions(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> LesionScore:
    """Score one region lesion by lesion, by the rule at the top of this module.

    Parameters
    ----------
    prediction, reference : bool arrays (X, Y, Z)
        Of equal shape, in one grid; what lies outside counts as background.
    spacing : three floats
        Voxel edges in mm. On a grid other than 1 mm the growth is as many whole steps of a voxel as come closest to 3 mm, at
        least one.
    """
    edge_mm3 = math.prod(float(edge) for edge in spacing)
    steps = max(1, round(GROWTH_MM / edge_mm3 ** (1 / 3)))
    box = _box(prediction | reference)
    prediction, reference = (np.pad(mask[box], steps) for mask in (prediction, reference))
    # A lesion grown by itself is exactly one connected part of the whole reference grown, so growing once is enough.
    grown, lesions = ndimage.label(ndimage.binary_dilation(reference, NEAR, iterations=steps), TOUCHING)
    pieces, count = ndimage.label(prediction, TOUCHING)
    touches = np.zeros((lesions + 1, count + 1), bool)
    touches[grown[prediction], pieces[prediction]] = True
    sizes = np.bincount(grown[reference], minlength=lesions + 1)[1:]
    hits = np.bincount(grown[reference & prediction], minlength=lesions + 1)[1:]
    answers = touches[1:, 1:] @ np.bincount(pieces[prediction], minlength=count + 1)[1:]
    counted = sizes * edge_mm3 > SMALLEST_MM3
    found = touches[1:, 1:].any(1)
    false = int(count - touches[1:, 1:].any(0).sum())
    total = int(counted.sum()) + false
    scores = 2 * hits / (sizes + answers)
    return LesionScore(
        dice=float(scores[counted].sum() / total) if total else 1.0,
        found=int((counted & found).sum()),
        missed=int((counted & ~found).sum()),
        false=false,
    )


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Bounding box of what is set; a single voxel where nothing is."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    return found[0] if found else (slice(0, 1),) * mask.ndim
