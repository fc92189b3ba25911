"""What takes up contrast agent: enhancing tumour outlined by its brightness on T1ce, as raters outline it.

Enhancing tumour is defined by what a rater sees: brighter on T1ce than on T1 and than normal white matter (protocol of BraTS,
Baid et al. 2021, arXiv:2107.02314). A network on a grid of 2 mm finds such a place but blurs its outline. So its sure voxels
are where to begin, and the image says how far it goes: a region grows from them over every voxel that is bright enough and not
held for impossible, in the image's own voxels (growing from sure voxels over likely ones is hysteresis, Canny 1986).

Bright is what exceeds normal white matter nearby, so that a bias field does not matter, as a share of what white matter exceeds
fluid, so that neither units nor normalisation do: scanned and prepared images give the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

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
