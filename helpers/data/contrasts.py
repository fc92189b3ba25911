"""Whether the four contrasts of a case look like what their file names say.

What fluid, white matter and contrast agent do to the four intensities is compared over the brain, in standard deviations:

* T1ce is T1 with brighter vessels and lesions, so T1 resembles T1ce much more than it resembles T2;
* fluid makes T2 more skewed to the bright side than T1;
* enhancement and vessels make T1ce minus T1 skewed to the bright side;
* where T2 is brightest there is fluid, some of which is dark on FLAIR.

The limits were chosen on the five complete BraTS 2021 development cases and eight phantoms, on which no right case fails and
every exchange of T1 with T1ce, T1 with T2, T2 with T1ce and T2 with FLAIR does. An exchange of FLAIR with T1 or T1ce goes
unseen in most cases, and unusual protocols and operated brains can escape or be suspected wrongly; hence a suspicion is a
warning, never a reason to leave a case out, and the pair it names is the likeliest, not the only one possible.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import skew

SAMPLE, FEWEST = 200_000, 10_000
"""Brain voxels that are looked at (more change nothing), and below which nothing can be said."""


def suspicions(image: Sequence[np.ndarray]) -> list[str]:
    """Sentences on modalities that seem exchanged; empty where everything looks right.

    Parameters
    ----------
    image : array (4, X, Y, Z) or four arrays (X, Y, Z)
        In the order of `helpers.regions.MODALITIES`, 0 outside the brain.
    """
    flat = [volume.ravel(order="F") for volume in image]  # files lie in memory in this order, so nothing is copied
    voxels = np.flatnonzero(np.logical_and.reduce(flat))
    if voxels.size < FEWEST:
        return []
    voxels = voxels[:: max(1, voxels.size // SAMPLE)]
    values = np.stack([volume[voxels] for volume in flat]).astype(np.float32)
    spread = values.std(axis=1, keepdims=True)
    if not (spread > 0).all():
        return []
    t1, t1ce, t2, flair = (values - values.mean(axis=1, keepdims=True)) / spread
    found = []
    if np.mean(t1 * t1ce) < np.mean(t1 * t2) - 0.2:
        found.append("T1ce and T2 seem exchanged: T1 resembles the file named T2 more than the one named T1ce")
    elif skew(t1) > skew(t2):
        found.append("T1 and T2 seem exchanged: fluid is brighter on the file named T1")
    elif skew(t1ce - t1) < -0.1:
        found.append("T1 and T1ce seem exchanged: contrast agent shows on the file named T1")
    elif np.percentile(flair[t2 >= np.percentile(t2, 98)], 10) > -0.5:
        found.append("T2 and FLAIR seem exchanged: nothing that is brightest on T2 is dark on FLAIR")
    return found
