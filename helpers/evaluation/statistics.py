"""What the scores of a few patients say about patients one has not seen: intervals, a summary, calibration.

The interval: patients are drawn again from those at hand, with replacement, thousands of times, and it holds the middle 95 % of
the means (percentile bootstrap, Efron 1979). It shows how much the mean would move with *other patients of the same kind*, for
this one trained network. It knows nothing of another random seed, hospital or scanner, and below about ten patients it is too
narrow: with five, it covers the truth in some 80 to 85 % of trials, not 95.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from brats_cohort.regions import REGIONS

RESAMPLES, SEED = 9999, 2021
SMALLEST_INTERVAL = 3
"""Below this many cases no interval is given."""
UNDEFINED = "volume_error_percent"
"""The metric that not every case has; NaN in any other is a fault."""
BINS = 15
"""Bins of a reliability table."""


@dataclass(frozen=True)
class Interval:
    """A mean over `n` values with its bootstrap interval; `low` and `high` are NaN if `n` is too small for one."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap_interval(values: Sequence[float]) -> Interval:
    """Compute the mean of one score a patient with its 95 % percentile bootstrap interval (see the top of this module).

    Several sessions of one patient must be averaged first. Raises `ValueError` if there is no value or one is not finite.
    """
    values = _finite(values)
    mean = float(values.mean())
    if values.size < SMALLEST_INTERVAL:
        return Interval(mean, math.nan, math.nan, values.size)
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean, values.size)
    options = {"n_resamples": RESAMPLES, "method": "percentile", "batch": max(1, 2_000_000 // values.size)}
    low, high = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(SEED), **options).confidence_interval
    return Interval(mean, float(low), float(high), values.size)


def average_sessions(scores: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Average the sessions of every patient, region by region: intervals and tests take their values for independent.

    Sessions of one patient share a value in the column ``patient``; without it, every case is a patient of its own. A missing
    value stays missing, except `UNDEFINED`, for which the other sessions speak. Returns one row a patient and region.
    """
    named = scores.get("patient", scores.get("case", pd.Series(range(len(scores)), index=scores.index)))
    groups = scores.assign(patient=named).groupby(["patient", "region"], sort=False)
    means = {name: groups[name].agg(lambda values, skip=name == UNDEFINED: values.mean(skipna=skip)) for name in metrics}
    return pd.DataFrame(means).reset_index()


def summarise(scores: pd.DataFrame, *, metrics: Sequence[str] = ("dice", "hd95")) -> pd.DataFrame:
    """Summarise the scores of a cohort, patient by patient.

    Parameters
    ----------
    scores : DataFrame
        Rows of `helpers.evaluation.metrics.score_case` over all cases: ``case``, ``region``, the metrics and, if some patients
        have several sessions, ``patient``.
    metrics : sequence of str
        Columns to summarise.

    Returns
    -------
    DataFrame
        One row for each region and metric, in the order met: ``region, metric, n, mean, median, low, high``, over n patients;
        low and high bound the 95 % interval of the mean (NaN if n is too small for one). Patients without a relative volume
        error, as the region is not there, are left out of it.
    """
    rows = []
    for region, group in average_sessions(scores, metrics).groupby("region", sort=False):
        for metric in metrics:
            values = group[metric].dropna() if metric == UNDEFINED else group[metric]
            rows.append({"region": region, "metric": metric, "n": len(values)})
            if len(values):
                rows[-1] |= {"median": values.median(), **vars(bootstrap_interval(values))}
    return pd.DataFrame(rows, columns=["region", "metric", "n", "mean", "median", "low", "high"])


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.array(values, dtype=float).ravel()
    if array.size == 0:
        raise ValueError("there is no score to summarise; score at least one case")
    if not np.isfinite(array).all():
        raise ValueError("a score is not a finite number; helpers.evaluation.metrics gives one even if a region is empty")
    return array


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
    """Compute expected calibration error and Brier score, 0 to 1, of a `reliability_table`: ``region, ece, brier``."""
    rows = []
    for region, bins in reliability.groupby("region", sort=False):
        voxels = bins["voxels"].sum()
        # |mean probability - share of tumour| times the share of voxels: the bin's own count cancels out.
        distance = (bins["probability"] - bins["tumour"]).abs().sum()
        rows.append({"region": region, "ece": distance / voxels, "brier": bins["squared_error"].sum() / voxels})
    return pd.DataFrame(rows)
