"""What is taken out of a predicted label map before it is written or scored: specks too small to be believed.

A few false voxels cost little Dice in a region that exists and all of it in one that does not: by the BraTS rule a patient
without enhancing tumour scores 0 as soon as a single voxel is called enhancing. Both rules below are usual among BraTS
entries (for example Isensee et al. 2020, nnU-Net for Brain Tumor Segmentation). Their limits are settings, kept in the model
card, so that validation during training, prediction and serving all do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from helpers.regions import BACKGROUND, ET, NCR


@dataclass(frozen=True)
class CleanUp:
    """Limits in ml; 0 switches a rule off.

    Attributes
    ----------
    tumour_ml : float
        A connected piece of whole tumour smaller than this becomes background. The largest piece always stays.
    enhancing_ml : float
        If all enhancing tumour together is smaller than this, it becomes necrotic core.
    """

    tumour_ml: float = 0.5
    enhancing_ml: float = 0.3

    def __post_init__(self) -> None:
        """Refuse limits that are not volumes."""
        if min(self.tumour_ml, self.enhancing_ml) < 0:
            raise ValueError(f"a limit in ml cannot be negative: {self}")


def clean_up(classes: np.ndarray, spacing: Sequence[float], settings: CleanUp) -> np.ndarray:
    """Apply both rules to a label map.

    Parameters
    ----------
    classes : uint8 array (X, Y, Z)
        Classes 0 to 3.
    spacing : three floats
        Voxel edges in mm.
    settings : CleanUp
        The limits.

    Returns
    -------
    uint8 array (X, Y, Z)
        A new array; pieces touch across faces, edges and corners.
    """
    cleaned = classes.copy()
    if not cleaned.any():
        return cleaned
    box = ndimage.find_objects((classes > 0).astype(np.uint8))[0]  # most of a volume is empty, and labelling is slow
    tumour = cleaned[box]
    voxel_ml = float(np.prod(spacing)) / 1000
    pieces, count = ndimage.label(tumour > 0, structure=np.ones((3, 3, 3)))
    if count > 1:
        sizes = np.bincount(pieces.ravel())
        kept = sizes * voxel_ml >= settings.tumour_ml
        kept[1 + sizes[1:].argmax()] = True
        kept[0] = True
        tumour[~kept[pieces]] = BACKGROUND
    enhancing = tumour == ET
    if enhancing.sum() * voxel_ml < settings.enhancing_ml:
        tumour[enhancing] = NCR
    return cleaned
