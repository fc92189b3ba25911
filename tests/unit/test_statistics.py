"""Intervals and paired comparisons: known answers, coverage, and honesty where there are too few cases."""

import math

import numpy as np
import pandas as pd
import pytest

from helpers.evaluation.statistics import (
    bootstrap_interval,
    summarise,
)


def test_the_interval_is_the_same_every_time_and_holds_the_mean():
    values = np.random.default_rng(3).beta(8, 2, 30)
    first, second = bootstrap_interval(values), bootstrap_interval(values)
    assert first == second
    assert first.mean == pytest.approx(values.mean())
    assert first.low < first.mean < first.high
    assert first.n == 30


def test_the_interval_agrees_with_resampling_by_hand():
    values = np.random.default_rng(5).normal(0.8, 0.1, 25)
    draws = np.random.default_rng(0).choice(values, (20_000, values.size)).mean(axis=1)
    interval = bootstrap_interval(values)
    assert (interval.low, interval.high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=3e-3)


def test_the_interval_covers_the_truth_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr("helpers.evaluation.statistics.RESAMPLES", 400)
    generator = np.random.default_rng(11)
    intervals = [bootstrap_interval(generator.normal(0.5, 0.2, 40)) for _ in range(300)]
    covered = np.mean([interval.low <= 0.5 <= interval.high for interval in intervals])
    assert 0.89 <= covered <= 0.98


def test_few_or_equal_values():
    assert math.isnan(bootstrap_interval([0.4, 0.8]).low)
    equal = bootstrap_interval([0.7] * 5)
    assert (equal.mean, equal.low, equal.high) == (0.7, 0.7, 0.7)


@pytest.mark.parametrize("values", [[], [0.5, float("nan"), 0.2], [0.5, float("inf")]])
def test_undefined_scores_are_refused(values):
    with pytest.raises(ValueError, match="score"):
        bootstrap_interval(values)


def test_summary_is_tidy_and_keeps_the_order_of_regions():
    rows = [
        {"case": f"c{i}", "region": region, "dice": 0.5 + 0.1 * i, "hd95": 10.0 - i}
        for i in range(4)
        for region in ("TC", "WT", "ET")
    ]
    table = summarise(pd.DataFrame(rows))
    assert table.columns.tolist() == ["region", "metric", "n", "mean", "median", "low", "high"]
    assert table["region"].tolist() == ["TC", "TC", "WT", "WT", "ET", "ET"]
    core = table[(table.region == "TC") & (table.metric == "dice")].iloc[0]
    assert (core["n"], core["mean"], core["median"]) == (4, pytest.approx(0.65), pytest.approx(0.65))
    assert core["low"] < 0.65 < core["high"]
    assert summarise(pd.DataFrame(columns=["region", "dice", "hd95"])).empty


def scores_of(generator):
    rows = [
        {"case": f"c{number}", "region": region, "dice": dice, "volume_error_percent": np.nan if number < 3 else dice}
        for region in ("TC", "ET")
        for number, dice in enumerate(generator.uniform(0.5, 0.8, 9))
    ]
    return pd.DataFrame(rows)


def test_a_relative_volume_that_does_not_exist_is_left_out_and_counted():
    summary = summarise(scores_of(np.random.default_rng(4)), metrics=["dice", "volume_error_percent"])
    assert summary["n"].tolist() == [9, 6, 9, 6]
    with pytest.raises(ValueError, match="finite"):
        summarise(pd.DataFrame({"region": ["TC"], "dice": [np.nan]}), metrics=["dice"])
    none = summarise(pd.DataFrame({"region": ["TC"], "volume_error_percent": [np.nan]}), metrics=["volume_error_percent"])
    assert none.loc[0, "n"] == 0
    assert np.isnan(none.loc[0, "mean"])


def test_two_sessions_of_a_patient_count_once():
    """BraTS 2023 has patients with several sessions; taken for independent, they make an interval too narrow."""
    generator = np.random.default_rng(0)
    patients = pd.DataFrame({"case": [f"p{number}" for number in range(8)], "region": "WT", "dice": generator.random(8)})
    again = patients.assign(case=patients["case"] + "-001", dice=patients["dice"] + 0.02)
    sessions = pd.concat([patients, again]).assign(patient=lambda table: table["case"].str[:2])
    summary = summarise(sessions, metrics=["dice"]).iloc[0]
    assert summary["n"] == 8
    expected = bootstrap_interval(patients["dice"] + 0.01)
    assert (summary["low"], summary["high"]) == pytest.approx((expected.low, expected.high))
