"""What scores of a few patients say about the patients one has not seen: intervals, a paired test, a summary table.

What the interval means
-----------------------
Patients are drawn again from the patients at hand, with replacement, thousands of times; the interval holds the middle 95 %
of the means so obtained (percentile bootstrap, Efron 1979). It shows how much the mean would move with *other patients of the
same kind*, for this one trained network. It knows nothing of another random seed in training, another hospital or another
scanner, and below about ten patients it is too narrow: with five, it covers the truth in some 80 to 85 % of trials, not 95.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from helpers.regions import REGIONS

RESAMPLES = 9999
SEED = 2021
SMALLEST_INTERVAL = 3
"""Below this many cases no interval is given."""
SMALLEST_TEST = 6
"""With fewer cases that differ, the Wilcoxon test cannot fall below p = 0.05 whatever the scores are (2 / 2^5 = 0.0625)."""

UNDEFINED = ("volume_error_percent", "volume_error_percent_1", "volume_error_percent_2")
"""Metrics that not every case has; NaN in any other is a fault."""


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval; `low` and `high` are NaN where `n` is too small for one."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.mean:.3f} (n = {self.n}, too few for an interval)"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class PairedResult:
    """Two systems on the same cases.

    Attributes
    ----------
    difference : Interval
        Mean of first minus second over cases, with its bootstrap interval.
    p_value : float
        Two-sided Wilcoxon signed-rank test; NaN where too few cases differ for the test to be able to say anything.
    higher, lower, equal : int
        Number of cases in which the first is higher than, lower than and equal to the second.
    verdict : str
        One sentence for a reader.
    """

    difference: Interval
    p_value: float
    higher: int
    lower: int
    equal: int
    verdict: str


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """Mean over cases with its percentile bootstrap interval (see the top of this module for what it means).

    Parameters
    ----------
    values : sequence of float
        One score a patient; finite. Several sessions of one patient must be averaged first.
    confidence : float
        Share of resampled means inside the interval.
    resamples, seed : int
        Number of resamples, and the seed that makes them the same every time.

    Raises
    ------
    ValueError
        If there is no value or one is not finite.
    """
    values = _finite(values)
    mean = float(values.mean())
    if values.size < SMALLEST_INTERVAL:
        return Interval(mean, math.nan, math.nan, values.size)
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean, values.size)
    result = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
        batch=max(1, 2_000_000 // values.size),
    )
    return Interval(mean, float(result.confidence_interval.low), float(result.confidence_interval.high), values.size)


def paired_test(
    first: Sequence[float],
    second: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> PairedResult:
    """Compare two systems that were scored on the same cases, in the same order.

    The Wilcoxon signed-rank test (Wilcoxon 1945) asks whether the differences are symmetric about zero; cases that are equal to
    rounding (1e-9) are counted and left out of it. The interval of the mean difference is bootstrapped over cases.

    Raises
    ------
    ValueError
        If the lengths differ, there is no case, or a score is not finite.
    """
    first, second = _finite(first), _finite(second)
    if first.size != second.size:
        raise ValueError(f"a paired comparison needs the same cases on both sides, got {first.size} and {second.size}")
    differences = first - second
    differences[np.abs(differences) < 1e-9] = 0.0
    differing = differences[differences != 0]
    interval = bootstrap_interval(differences, confidence=confidence, resamples=resamples, seed=seed)
    p_value = float(stats.wilcoxon(differing).pvalue) if differing.size >= SMALLEST_TEST else math.nan
    counts = int((differences > 0).sum()), int((differences < 0).sum()), int((differences == 0).sum())
    return PairedResult(interval, p_value, *counts, _verdict(interval, p_value, differing.size))


def average_sessions(scores: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Average the sessions of every patient, region by region.

    Intervals and tests take their values for independent, and two sessions of one patient are not.

    Parameters
    ----------
    scores : DataFrame
        Rows of one case and region each; sessions of one patient share a value in ``patient``. Without that column, every case
        is a patient of its own.
    metrics : sequence of str
        Columns to average. A value that is missing stays missing, except in `UNDEFINED`, where the other sessions speak for it.

    Returns
    -------
    DataFrame
        One row a patient and region, in the order met: ``patient``, ``region`` and the metrics.
    """
    named = scores.get("patient", scores.get("case", pd.Series(range(len(scores)), index=scores.index)))
    table = pd.DataFrame({"patient": named, "region": scores["region"], **{name: scores[name] for name in metrics}})
    mean = table.groupby(["patient", "region"], sort=False)
    gaps = mean[list(metrics)].agg(lambda values: values.isna().any())
    averaged = mean[list(metrics)].mean()
    strict = [name for name in metrics if name not in UNDEFINED]
    averaged[strict] = averaged[strict].mask(gaps[strict].astype(bool))
    return averaged.reset_index()


def summarise(scores: pd.DataFrame, *, metrics: Sequence[str] = ("dice", "hd95"), **options: float) -> pd.DataFrame:
    """Summarise the scores of a cohort.

    Parameters
    ----------
    scores : DataFrame
        Rows of `helpers.evaluation.metrics.score_case` over all cases: ``case``, ``region``, the metrics and, if some patients
        have several sessions, ``patient``.
    metrics : sequence of str
        Columns to summarise.
    **options
        Passed to `bootstrap_interval`.

    Returns
    -------
    DataFrame
        One row for each region and metric, in the order met: ``region, metric, n, mean, median, low, high``, over n patients;
        low and high bound the 95 % interval of the mean (NaN if n is too small for one). Patients of whom a metric has no
        value, such as the relative volume error of a region that is not there, are left out of it.
    """
    rows = []
    for region, group in average_sessions(scores, metrics).groupby("region", sort=False):
        for metric in metrics:
            values = group[metric].to_numpy(dtype=float)
            values = values[~np.isnan(values)] if metric in UNDEFINED else values
            if not values.size:
                rows.append({"region": region, "metric": metric, "n": 0})
                continue
            interval = bootstrap_interval(values, **options)
            spread = {"mean": interval.mean, "median": float(np.median(values)), "low": interval.low, "high": interval.high}
            rows.append({"region": region, "metric": metric, "n": interval.n, **spread})
    return pd.DataFrame(rows, columns=["region", "metric", "n", "mean", "median", "low", "high"])


def compare_scores(
    first: pd.DataFrame, second: pd.DataFrame, *, metrics: Sequence[str] = ("dice", "hd95"), **options: float
) -> pd.DataFrame:
    """Compare two systems patient by patient for every region and metric; sessions of one patient are averaged first.

    Many tests at once find something by chance: of twenty on equal systems, one on average falls below 0.05. ``p_holm`` is
    corrected for the number of tests in the table (Holm 1979), and is the one to read where a single small p would be told.

    Parameters
    ----------
    first, second : DataFrame
        Scores as `summarise` takes them, of the same cases.
    metrics : sequence of str
    **options
        Passed to `paired_test`.

    Returns
    -------
    DataFrame
        One row for each region and metric: ``region, metric, n, first, second`` (means), ``difference, low, high`` (first minus
        second with its interval), ``p, p_holm``; patients who lack a metric on one side are left out of it.

    Raises
    ------
    ValueError
        If the two do not hold the same cases.
    """
    if set(first["case"]) != set(second["case"]):
        raise ValueError("the two tables of scores hold different cases; score both systems on the same test set")
    merged = first.merge(second, on=["case", "region"], suffixes=("_1", "_2")).rename(columns={"patient_1": "patient"})
    averaged = average_sessions(merged, [f"{metric}_{side}" for metric in metrics for side in (1, 2)])
    rows = []
    for region, group in averaged.groupby("region", sort=False):
        for metric in metrics:
            pair = group[[f"{metric}_1", f"{metric}_2"]].to_numpy(float)
            pair = pair[~np.isnan(pair).any(1)] if metric in UNDEFINED else pair
            row = {"region": region, "metric": metric, "n": len(pair)}
            if len(pair):
                result = paired_test(*pair.T, **options)
                low, high = result.difference.low, result.difference.high
                row |= {"first": pair[:, 0].mean(), "second": pair[:, 1].mean(), "difference": result.difference.mean}
                row |= {"low": low, "high": high, "p": result.p_value}
            rows.append(row)
    table = pd.DataFrame(rows, columns=["region", "metric", "n", "first", "second", "difference", "low", "high", "p"])
    return table.assign(p_holm=holm(table["p"]))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Correct p-values for being several (Holm 1979): the smallest times their number, the next times one less, and so on.

    NaN stands for a test that could not be made; it stays NaN and does not count.
    """
    from statsmodels.stats.multitest import multipletests  # a second to import, and few need it

    p_values = np.array(p_values, dtype=float)
    made = np.isfinite(p_values)
    if made.any():
        p_values[made] = multipletests(p_values[made], method="holm")[1]
    return p_values


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.array(values, dtype=float).ravel()
    if array.size == 0:
        raise ValueError("there is no score to summarise; score at least one case")
    if not np.isfinite(array).all():
        raise ValueError("a score is not a finite number; helpers.evaluation.metrics gives one even where a region is empty")
    return array


def _verdict(interval: Interval, p_value: float, differing: int) -> str:
    if differing == 0:
        return f"the two are equal in all {interval.n} cases"
    if math.isnan(p_value):
        return f"n too small: {differing} cases differ, the test needs at least {SMALLEST_TEST} to be able to find anything"
    side = "higher" if interval.mean > 0 else "lower"
    span = f"by {abs(interval.mean):.3f} on average (interval {interval.low:+.3f} to {interval.high:+.3f})"
    chance = f"p = {p_value:.3f}" if p_value >= 0.001 else "p < 0.001"
    return f"{'' if p_value < 0.05 else 'no difference could be shown: '}the first is {side} {span}, {chance}"


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
