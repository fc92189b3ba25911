"""Whether probabilities mean what they say: of all voxels given 0.8, eight in ten should be tumour.

Three looks at the probability of a region in the voxels of the brain (outside it everybody is right):

* The **reliability curve**: voxels sorted into bins by their probability, and for each bin the share that is tumour.
* The **expected calibration error**: the mean distance of that curve from the diagonal, each bin weighted by its voxels
  (Naeini et al. 2015). Most voxels of a brain are rightly given a probability near 0, so it is small for every network and
  only says something beside another one.
* The **Brier score**: the mean squared distance of the probability from the truth, 0 or 1 (Brier 1950). It also grows where
  a network is honest but knows little.

All three are per region, as the regions overlap and each has a sigmoid of its own.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from helpers.regions import REGIONS

BINS = 15
CALIBRATION: tuple[str, ...] = ("ece", "brier")
"""Columns of `calibration_scores` after the region."""


def reliability_table(probabilities: np.ndarray, regions: np.ndarray, brain: np.ndarray) -> pd.DataFrame:
    """Sort the voxels of one brain into bins by the probability of each region.

    Parameters
    ----------
    probabilities : float array (3, X, Y, Z)
        0 to 1, order TC, WT, ET.
    regions : bool array (3, X, Y, Z)
        The reference.
    brain : bool array (X, Y, Z)
        The voxels to look at; at least one.

    Returns
    -------
    DataFrame
        `BINS` rows of equal width a region: ``region, bin, voxels``, the sums over them of the ``probability`` and of its
        ``squared_error``, and ``tumour``, the voxels that are. Sums, so that the tables of several cases can be added.
    """
    tables = []
    for name, region_probabilities, truth in zip(REGIONS, probabilities, regions, strict=True):
        values, tumour = region_probabilities[brain].astype(np.float64), truth[brain]
        place = np.minimum((values * BINS).astype(np.intp), BINS - 1)
        sums = {
            "voxels": np.bincount(place, minlength=BINS),
            "probability": np.bincount(place, values, BINS),
            "tumour": np.bincount(place, tumour, BINS),
            "squared_error": np.bincount(place, (values - tumour) ** 2, BINS),
        }
        tables.append(pd.DataFrame({"region": name, "bin": np.arange(BINS), **sums}))
    return pd.concat(tables, ignore_index=True)


def calibration_scores(reliability: pd.DataFrame) -> pd.DataFrame:
    """Expected calibration error and Brier score, 0 to 1, of a `reliability_table`: ``region, ece, brier``, a row a region."""
    rows = []
    for region, bins in reliability.groupby("region", sort=False):
        voxels = bins["voxels"].sum()
        # |mean probability - share of tumour| times the share of voxels: the bin's own count cancels out.
        distance = (bins["probability"] - bins["tumour"]).abs().sum()
        rows.append({"region": region, "ece": distance / voxels, "brier": bins["squared_error"].sum() / voxels})
    return pd.DataFrame(rows)
