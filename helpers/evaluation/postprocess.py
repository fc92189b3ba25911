"""What is changed in a predicted label map before it is written or scored: specks too small to be believed, core out of place.

A few false voxels cost little Dice in a region that exists and all of it in one that does not: by the BraTS rule a patient
without enhancing tumour scores 0 as soon as a single voxel is called enhancing. The two rules about volumes are usual among
BraTS entries (for example Isensee et al. 2020, nnU-Net for Brain Tumor Segmentation). The others know how gliomas grow: where
a tumour enhances, its necrosis lies inside what enhances, and what swells around it is oedema however dark it is on T1; oedema
lies around a core, so that what lies between pieces of core belongs to it; and there is no glioma without a core, so that where
none is sure the likeliest place is taken (`cut`). All limits are settings, kept in the model card, so that validation
during training, prediction and serving do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from helpers.regions import (
    BACKGROUND,
    ED,
    ET,
    NCR,
)

NORMAL = 0.1
"""Below this probability of tumour a voxel counts as normal brain."""
WHITE_MATTER = (60, 95)
"""Percentiles of T1 in normal brain between which white matter lies: more is fat or blood, less is grey matter or fluid."""
FLUID = 5
"""Percentile of an image in normal brain that stands for fluid."""
NEARBY_MM, COARSE_MM = 15.0, 4.0
"""Standard deviation of the weights with which white matter is averaged, and the grid that it is averaged on."""
SMOOTH_MM = 0.7
"""Standard deviation of a Gaussian that takes noise out of single voxels. Finer than a grid of 2 mm shows."""
TAKEN_UP = 0.1
"""What T1ce must exceed T1 by, in the same measure: blood and fat are bright on both."""


def outline_enhancement(
    probabilities: np.ndarray, image: np.ndarray, spacing: Sequence[float], *, sure: float, likely: float, brighter: float
) -> np.ndarray:
    """Grow enhancing tumour from its sure voxels over bright ones.

    Parameters
    ----------
    probabilities : float32 array (3, X, Y, Z)
        Of TC, WT and ET.
    image : array (4, X, Y, Z)
        The images in the same grid, order of `MODALITIES`, 0 outside the brain; scanned or prepared.
    spacing : sequence of 3 float
        Voxel edges in mm.
    sure, likely : float
        Probabilities of ET from which a bright voxel begins a region and may belong to one.
    brighter : float
        By how much T1ce must exceed white matter nearby, as a share of what white matter exceeds fluid.

    Returns
    -------
    bool array (X, Y, Z)
        Where no normal white matter is found to compare with: the sure voxels as they are.
    """
    certain = probabilities[2] >= sure
    candidates = probabilities[2] >= likely
    if not certain.any():
        return certain
    box = ndimage.find_objects(candidates.astype(np.uint8))[0]
    places = np.nonzero(candidates[box])
    before, after = (_brightness(image, channel, probabilities[1], spacing, box, places) for channel in (0, 1))
    if before is None or after is None:
        return certain
    bright = np.zeros_like(candidates[box])
    bright[places] = (after > brighter) & (after - before > TAKEN_UP)
    pieces, _ = ndimage.label(bright, structure=np.ones((3, 3, 3)))
    begun = np.unique(pieces[bright & certain[box]])
    grown = np.zeros_like(certain)
    grown[box] = np.isin(pieces, begun[begun > 0])
    return grown


def _brightness(
    image: np.ndarray,
    channel: int,
    tumour: np.ndarray,
    spacing: Sequence[float],
    box: tuple[slice, slice, slice],
    places: tuple[np.ndarray, ...],
) -> np.ndarray | None:
    """How much brighter voxels of a box are than white matter nearby, (N,); None without white matter brighter than fluid."""
    steps = [max(1, round(COARSE_MM / edge)) for edge in spacing]
    coarse = tuple(slice(None, None, step) for step in steps)
    t1, values = _finite(image[0][coarse]), _finite(image[channel][coarse])
    normal = (t1 != 0) & (tumour[coarse] < NORMAL)
    if not normal.any():
        return None
    low, high = np.percentile(t1[normal], WHITE_MATTER)
    white = normal & (t1 > low) & (t1 < high)
    if not white.any():
        return None
    middle = np.median(values[white])
    contrast = middle - np.percentile(values[normal], FLUID)
    if not contrast > 0:
        return None
    white &= np.abs(values - middle) < contrast / 2  # vessels and partial volume with fluid are not white matter
    scales = [NEARBY_MM / (edge * step) for edge, step in zip(spacing, steps, strict=True)]
    parts = (np.where(white, values - middle, 0), white.astype(np.float32))
    differences, weights = (ndimage.gaussian_filter(part, scales, truncate=3.0) for part in parts)
    # Deep in a large tumour no white matter is near, and the volume's own median stands for it.
    nearby = middle + differences / (weights + 0.02)
    on_coarse = [(part.start + place) / step for part, place, step in zip(box, places, steps, strict=True)]
    reference = ndimage.map_coordinates(nearby, on_coarse, order=1, mode="nearest")
    smooth = ndimage.gaussian_filter(_finite(image[channel][box]), [SMOOTH_MM / edge for edge in spacing])
    return (smooth[places] - reference) / contrast


def _finite(values: np.ndarray) -> np.ndarray:
    """As float32, with 0 for what is no number, as preparation reads an image too."""
    return np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)


THRESHOLD = 0.5
"""Probability from which a voxel belongs to a region, where nothing else is said."""

ENCLOSED_BY = 3
"""Of the six directions along the axes, those in which enclosed core must meet enhancing tumour."""


@dataclass(frozen=True)
class CleanUp:
    """Limits of six rules, of which `cut` applies those about `core_share` and `brighter`; 0 switches a rule off.

    Attributes
    ----------
    tumour_ml : float
        A connected piece of whole tumour smaller than this becomes background. The largest piece always stays.
    enhancing_ml : float
        If all enhancing tumour together is smaller than this, it becomes necrotic core.
    enhancing_share : float
        If enhancing tumour is at least this share of the core, then core that does not enhance, is not enclosed by what does
        and lies farther than `near_mm` from it becomes oedema.
    near_mm : float
        In mm.
    surrounded : int
        Oedema that meets core in at least so many of the six directions along the axes becomes necrotic core.
    core_share : float
        If nothing enhances and less than this share of the tumour is core, core begins at a probability of `core_from`.
    core_from : float
        Above 0, at most 0.5.
    tumour_from : float
        Probability from which a voxel is whole tumour, above 0 and at most 0.5; lower where raters draw wider
        than the labels that a network learnt from.
    brighter : float
        Enhancing tumour is what is connected with its sure voxels and by so much brighter on T1ce than white matter, in the
        measure of `helpers.evaluation.postprocess`.
    enhancing_from : float
        Probability of enhancing tumour from which such a voxel may belong to it, above 0 and at most 0.5.
    """

    tumour_ml: float = 0.5
    enhancing_ml: float = 0.3
    enhancing_share: float = 0.0
    near_mm: float = 4.0
    surrounded: int = 0
    core_share: float = 0.0
    core_from: float = 0.1
    tumour_from: float = 0.5
    brighter: float = 0.0
    enhancing_from: float = 0.05

    def __post_init__(self) -> None:
        """Refuse limits that are no volumes, shares, lengths, numbers of directions or probabilities."""
        if min(vars(self).values()) < 0:
            raise ValueError(f"a limit cannot be negative: {self}")
        if not all(0 < limit <= THRESHOLD for limit in (self.core_from, self.tumour_from, self.enhancing_from)):
            raise ValueError(f"core_from, tumour_from and enhancing_from must lie above 0 and at most at {THRESHOLD}: {self}")


def cut(probabilities: np.ndarray, image: np.ndarray, spacing: Sequence[float], settings: CleanUp) -> np.ndarray:
    """Regions TC, WT and ET, bool (3, X, Y, Z), where their probabilities of the same shape are high enough.

    The image (4, X, Y, Z), scanned or prepared, is looked at for what is `brighter`.
    """
    limits = np.array([THRESHOLD, settings.tumour_from, THRESHOLD], dtype=np.float32)
    regions = probabilities >= limits[:, None, None, None]
    if settings.brighter:
        likely, brighter = settings.enhancing_from, settings.brighter
        enhancing = outline_enhancement(probabilities, image, spacing, sure=THRESHOLD, likely=likely, brighter=brighter)
        regions[2] = enhancing & regions[1]
        regions[0] |= regions[2]
    core, whole, enhancing = (np.count_nonzero(region) for region in regions)
    enhances = enhancing > 0 and enhancing * np.prod(spacing) / 1000 >= settings.enhancing_ml
    if core < settings.core_share * whole and not enhances:
        regions[0] = regions[1] & (probabilities[0] >= settings.core_from)
    return regions


def clean_up(classes: np.ndarray, spacing: Sequence[float], settings: CleanUp) -> np.ndarray:
    """Apply the rules to a label map.

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
    elif settings.enhancing_share and enhancing.sum() >= settings.enhancing_share * (enhancing.sum() + (tumour == NCR).sum()):
        tumour[(tumour == NCR) & _far_outside(enhancing, spacing, settings.near_mm)] = ED
    if settings.surrounded:
        tumour[(tumour == ED) & (_directions((tumour == NCR) | (tumour == ET)) >= settings.surrounded)] = NCR
    return cleaned


def _far_outside(enhancing: np.ndarray, spacing: Sequence[float], near_mm: float) -> np.ndarray:
    """Voxels that are neither enclosed by enhancing tumour nor near it."""
    far = ndimage.distance_transform_edt(~enhancing, sampling=spacing) > near_mm
    return far & (_directions(enhancing) < ENCLOSED_BY)


def _directions(mask: np.ndarray) -> np.ndarray:
    """In how many of the six directions along the axes a voxel meets the mask, itself included: uint8, same shape."""
    met = np.zeros(mask.shape, np.uint8)
    for axis in range(mask.ndim):
        met += np.maximum.accumulate(mask, axis=axis)
        met += np.flip(np.maximum.accumulate(np.flip(mask, axis), axis=axis), axis)
    return met
