"""Whether the four contrasts of a case look like what their file names say.

What fluid, white matter and contrast agent do to the four intensities is compared over the brain, in standard deviations:

* enhancement and vessels make T1ce minus T1 skewed to the bright side;
* fluid makes T2 more skewed to the bright side than T1;
* where T2 is brightest there is fluid, some of which is dark on FLAIR.

The limits were chosen on the five complete BraTS 2021 development cases and eight phantoms, on which no right case fails and
every exchange of T1 with T1ce, T1 with T2 and T2 with FLAIR does. Other exchanges, unusual protocols and operated brains
can escape or be suspected wrongly; hence a suspicion is a warning, never a reason to leave a case out.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import skew

SAMPLE = 200_000
"""Brain voxels that are looked at; more change nothing."""


def suspicions(image: np.ndarray, brain: np.ndarray) -> list[str]:
    """Sentences on modalities that seem exchanged; empty where everything looks right.

    Parameters
    ----------
    image : array (4, X, Y, Z)
        In the order of `helpers.regions.MODALITIES`.
    brain : bool array (X, Y, Z)
        Voxels in which all modalities have a signal.
    """
    voxels = np.flatnonzero(brain)
    if voxels.size < 1000:
        return []
    voxels = voxels[:: max(1, voxels.size // SAMPLE)]
    values = image.reshape(4, -1)[:, voxels].astype(np.float32)
    spread = values.std(axis=1, keepdims=True)
    if not (spread > 0).all():
        return []
    t1, t1ce, t2, flair = (values - values.mean(axis=1, keepdims=True)) / spread
    found = []
    if skew(t1) > skew(t2):
        found.append("T1 and T2 seem exchanged: fluid is brighter on the file named T1")
    elif skew(t1ce - t1) < -0.1:
        found.append("T1 and T1ce seem exchanged: contrast agent shows on the file named T1")
    elif np.percentile(flair[t2 >= np.percentile(t2, 98)], 10) > -0.5:
        found.append("T2 and FLAIR seem exchanged: nothing that is brightest on T2 is dark on FLAIR")
    return found
