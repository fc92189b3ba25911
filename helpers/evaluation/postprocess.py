"""From region probabilities to a label map: thresholds, contrast enhancement, small components, and where a core must lie.

A few false voxels cost little Dice in a region that exists and all of it in one that does not: by the BraTS rule a patient
without enhancing tumour scores 0 as soon as one voxel is called enhancing. Removing small components and small enhancing
tumours is common among BraTS entries (Isensee et al. 2020, nnU-Net for Brain Tumor Segmentation). The other rules say how
gliomas grow: where a tumour enhances, core lies inside of what enhances, oedema lies around a core, and no glioma is without
one. All limits are kept in the model card, so that validation, prediction and serving apply the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from brats_cohort.files import DataError, named
from brats_cohort.grid import bounding_box
from brats_cohort.regions import BACKGROUND, ED, ET, NCR, regions_to_classes

THRESHOLD = 0.5
"""Probability from which a voxel belongs to a region, unless a setting says otherwise."""
ENCLOSED_BY = 3
"""Enclosed core meets enhancing tumour in at least this many of the six directions along the axes."""
TOUCHING = np.ones((3, 3, 3))
"""Components are connected across faces, edges and corners (26 neighbours)."""
LEAST_CORE = 0.02
"""Share of a tumour below which its core counts as missing."""

NORMAL = 0.1
"""Below this probability of whole tumour a voxel counts as normal brain."""
WHITE_MATTER = (60, 95)
"""Percentiles of T1 in normal brain between which white matter lies: above is fat or blood, below grey matter or fluid."""
FLUID = 5
"""Percentile of an image in normal brain that stands for fluid."""
NEARBY_MM, COARSE_MM = 15.0, 4.0
"""Standard deviation of the Gaussian average over white matter, and the grid on which it is computed."""
SMOOTH_MM = 0.7
"""Standard deviation of the Gaussian that removes the noise of single voxels; finer than a grid of 2 mm shows."""
T1_GAIN = 0.1
"""By how much enhancing tumour is brighter on T1ce than on T1: blood and fat are bright on both."""


@dataclass(frozen=True)
class PostProcessing:
    """Limits of the rules of `label_map`; 0 switches a rule off.

    Attributes
    ----------
    tumour_ml : float
        A connected component of whole tumour smaller than this becomes background; the largest one always stays.
    enhancing_ml : float
        If all enhancing tumour together is smaller than this, it becomes NCR.
    enhancing_share : float
        If enhancing tumour is at least this share of the core, then core that does not enhance, is not enclosed by enhancing
        tumour and lies farther than `near_mm` from it becomes oedema.
    near_mm : float
        In mm.
    surrounded : int
        Oedema that meets core in at least this many of the six directions along the axes becomes NCR.
    core_depth : float
        If nothing enhances and less than `LEAST_CORE` of the tumour is core, voxels become NCR that are at least this share as
        deep in the tumour as its deepest voxel, at most 1.
    tumour_threshold : float
        Probability of WT from which a voxel is whole tumour, above 0 and at most 0.5; lower if raters draw wider outlines than
        the labels that a network learnt from.
    contrast_enhancement : float
        Enhancing tumour grows from its sure voxels over connected ones that are brighter than white matter by this much on
        T1ce, in the measure of `outline_enhancement`.
    enhancing_threshold : float
        Probability of ET from which such a voxel may belong to it, above 0 and at most 0.5.
    core_threshold : float
        Probability of TC from which a voxel is tumour core, above 0 and at most 0.5; lower if a network misses more core
        than it invents.
    """

    tumour_ml: float = 0.5
    enhancing_ml: float = 0.3
    enhancing_share: float = 0.0
    near_mm: float = 4.0
    surrounded: int = 0
    core_depth: float = 0.0
    tumour_threshold: float = 0.5
    contrast_enhancement: float = 0.0
    enhancing_threshold: float = 0.05
    core_threshold: float = 0.5

    def __post_init__(self) -> None:
        """Refuse limits outside their range."""
        if min(vars(self).values()) < 0:
            raise ValueError(f"a limit cannot be negative: {self}")
        if self.core_depth > 1:
            raise ValueError(f"core_depth is a share, at most 1: {self}")
        if not all(0 < limit <= THRESHOLD for limit in (self.core_threshold, self.tumour_threshold, self.enhancing_threshold)):
            raise ValueError(f"the thresholds must lie above 0 and at most at {THRESHOLD}: {self}")

    @classmethod
    def of(cls, settings: Mapping[str, float]) -> PostProcessing:
        """Read the limits from a model card; raises `DataError` if it has others."""
        try:
            return cls(**settings)
        except (TypeError, ValueError) as error:
            problem = f"the model card has a post-processing that is not known here ({named(error)})"
            raise DataError(problem, "use the version that wrote it, or train the model again") from error


def label_map(probabilities: np.ndarray, image: np.ndarray, spacing: Sequence[float], settings: PostProcessing) -> np.ndarray:
    """Turn region probabilities into a post-processed label map.

    Parameters
    ----------
    probabilities : float32 array (3, X, Y, Z)
        Of TC, WT and ET.
    image : array (4, X, Y, Z)
        In the same grid, scanned or prepared. Where all four are 0, NaN or infinite there is no brain, and so no tumour.
    spacing : three floats
        Voxel edges in mm.

    Returns
    -------
    uint8 array (X, Y, Z)
        Classes 0 to 3.
    """
    limits = np.array([settings.core_threshold, settings.tumour_threshold, THRESHOLD], dtype=np.float32)
    claimed = probabilities >= limits[:, None, None, None]
    classes, box = np.zeros(claimed.shape[1:], dtype=np.uint8), bounding_box(claimed.any(0))
    if box is None:
        return classes
    part = (slice(None), *box)  # a tumour fills little of a volume
    inside = np.asarray(image)[part]
    regions = claimed[part] & (np.isfinite(inside) & (inside != 0)).any(0)  # probabilities of a coarser grid reach beyond
    if settings.contrast_enhancement:
        limits = {"likely": settings.enhancing_threshold, "brighter": settings.contrast_enhancement}
        regions[2] = outline_enhancement(probabilities, image, spacing, **limits)[box] & regions[1]
        regions[0] |= regions[2]
    classes[box] = regions_to_classes(regions)
    return postprocess(classes, spacing, settings)


def postprocess(classes: np.ndarray, spacing: Sequence[float], settings: PostProcessing) -> np.ndarray:
    """Remove small components from a label map (X, Y, Z) of classes and apply the rules about core; returns a new one."""
    result, box = classes.copy(), bounding_box(classes > 0)  # most of a volume is empty, and labelling is slow
    if box is None:
        return result
    tumour = result[box]
    voxel_ml = float(np.prod(spacing)) / 1000
    components, count = ndimage.label(tumour > 0, structure=TOUCHING)
    if count > 1:
        sizes = np.bincount(components.ravel())
        kept = sizes * voxel_ml >= settings.tumour_ml
        kept[1 + sizes[1:].argmax()] = True
        kept[0] = True
        tumour[~kept[components]] = BACKGROUND
    enhancing = tumour == ET
    if enhancing.sum() * voxel_ml < settings.enhancing_ml:
        tumour[enhancing] = NCR
    elif settings.enhancing_share and enhancing.sum() >= settings.enhancing_share * (enhancing.sum() + (tumour == NCR).sum()):
        far = ndimage.distance_transform_edt(~enhancing, sampling=spacing) > settings.near_mm
        tumour[(tumour == NCR) & far & (_directions(enhancing) < ENCLOSED_BY)] = ED
    if settings.surrounded:
        tumour[(tumour == ED) & (_directions((tumour == NCR) | (tumour == ET)) >= settings.surrounded)] = NCR
    missing = not (tumour == ET).any() and np.count_nonzero(tumour == NCR) < LEAST_CORE * np.count_nonzero(tumour)
    if settings.core_depth and missing:
        depth = ndimage.distance_transform_edt(np.pad(tumour > 0, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
        tumour[depth >= settings.core_depth * depth.max()] = NCR
    return result


def warnings_of(
    classes: np.ndarray, probabilities: np.ndarray, image: np.ndarray, spacing: Sequence[float], settings: PostProcessing
) -> tuple[str, ...]:
    """Say what of a label map (X, Y, Z) the network did not see; the other arguments are those that `label_map` made it of."""
    if not settings.core_depth or (classes == ET).any():
        return ()
    if np.array_equal(classes, label_map(probabilities, image, spacing, replace(settings, core_depth=0.0))):
        return ()
    return ("no tumour core is visible; the deepest part of the tumour is labelled core, since every glioma has one",)


def outline_enhancement(
    probabilities: np.ndarray, image: np.ndarray, spacing: Sequence[float], *, likely: float, brighter: float
) -> np.ndarray:
    """Outline enhancing tumour by its brightness on T1ce, from the voxels of which the network is sure.

    A rater calls enhancing what is brighter on T1ce than on T1 and than normal white matter (Baid et al. 2021,
    arXiv:2107.02314). A network on a grid of 2 mm finds the place but blurs the outline, so the region grows from its sure
    voxels over bright and likely ones (hysteresis thresholding, Canny 1986) at the image's own resolution.

    Brightness is relative to white matter nearby, which cancels a bias field, and in units of the contrast between white matter
    and fluid, which cancels the scanner's scale: scanned and prepared images give the same result.

    Parameters
    ----------
    probabilities, image, spacing
        As in `label_map`.
    likely : float
        Probability of ET from which a voxel may belong to it, at most `THRESHOLD`.
    brighter : float
        By how much T1ce must exceed nearby white matter, as a share of what white matter exceeds fluid.

    Returns
    -------
    bool array (X, Y, Z)
        The sure voxels as they are if there is no normal white matter to compare with.
    """
    certain, candidates = (probabilities[2] >= limit for limit in (THRESHOLD, likely))
    if not certain.any():
        return certain
    box = bounding_box(candidates)
    voxels = np.nonzero(candidates[box])
    before, after = (_brightness(image, channel, probabilities[1], spacing, box, voxels) for channel in (0, 1))
    if before is None or after is None:
        return certain
    bright = np.zeros(certain[box].shape, bool)
    bright[voxels] = (after > brighter) & (after - before > T1_GAIN)
    grown = np.zeros_like(certain)
    grown[box] = ndimage.binary_propagation(bright & certain[box], structure=TOUCHING, mask=bright)
    return grown


def _brightness(
    image: np.ndarray,
    channel: int,
    tumour: np.ndarray,
    spacing: Sequence[float],
    box: tuple[slice, slice, slice],
    voxels: tuple[np.ndarray, ...],
) -> np.ndarray | None:
    """Brightness of voxels (N,) of a box relative to white matter nearby; None if no white matter is brighter than fluid."""
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
    nearby = middle + differences / (weights + 0.02)  # deep in a large tumour the volume's own median takes over
    on_coarse = [(part.start + place) / step for part, place, step in zip(box, voxels, steps, strict=True)]
    reference = ndimage.map_coordinates(nearby, on_coarse, order=1, mode="nearest")
    smooth = ndimage.gaussian_filter(_finite(image[channel][box]), [SMOOTH_MM / edge for edge in spacing])
    return (smooth[voxels] - reference) / contrast


def _finite(values: np.ndarray) -> np.ndarray:
    """Cast to float32 with 0 in place of NaN and infinity, as preparation does."""
    return np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)


def _directions(mask: np.ndarray) -> np.ndarray:
    """Count the directions along the axes, 0 to 6, in which a voxel meets the mask, itself included."""
    met = np.zeros(mask.shape, np.uint8)
    for axis in range(mask.ndim):
        met += np.maximum.accumulate(mask, axis=axis)
        met += np.flip(np.maximum.accumulate(np.flip(mask, axis), axis=axis), axis)
    return met
