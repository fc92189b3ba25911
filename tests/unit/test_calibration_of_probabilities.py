"""Calibration against probabilities whose error is known, and against a plain loop."""

import numpy as np
import pytest

from brats_cohort.regions import REGIONS
from helpers.evaluation.statistics import BINS, calibration_scores, reliability_table

BRAIN = np.ones((40, 40, 40), bool)


def drawn(probabilities, seed=0):
    """A truth in which every voxel is tumour with its probability."""
    return np.random.default_rng(seed).random(probabilities.shape) < probabilities


def test_honest_probabilities_lie_on_the_diagonal():
    probabilities = np.random.default_rng(1).random((3, *BRAIN.shape))
    table = reliability_table(probabilities, drawn(probabilities), BRAIN)
    assert len(table) == 3 * BINS
    assert np.abs(table["probability"] - table["tumour"]).max() / table["voxels"].min() < 0.05
    scores = calibration_scores(table)
    assert scores["region"].tolist() == list(REGIONS)
    assert scores["ece"].max() < 0.01
    assert scores["brier"].to_numpy() == pytest.approx(np.full(3, 1 / 6), abs=0.005)  # the mean of p (1 - p)


def test_overconfidence_is_measured():
    said = np.full((3, *BRAIN.shape), 0.95)
    truth = drawn(np.full((3, *BRAIN.shape), 0.7))
    scores = calibration_scores(reliability_table(said, truth, BRAIN))
    assert scores["ece"].to_numpy() == pytest.approx(np.full(3, 0.25), abs=0.01)
    assert scores["brier"].to_numpy() == pytest.approx(np.full(3, 0.25**2 + 0.7 * 0.3), abs=0.01)


def test_agrees_with_a_loop_over_bins_and_looks_at_the_brain_only():
    generator = np.random.default_rng(2)
    probabilities = generator.random((3, 9, 8, 7)).astype(np.float32) ** 3
    truth, brain = generator.random((3, 9, 8, 7)) < 0.3, generator.random((9, 8, 7)) < 0.6
    scores = calibration_scores(reliability_table(probabilities, truth, brain)).set_index("region")
    for name, values, regions in zip(REGIONS, probabilities, truth, strict=True):
        inside, tumour = values[brain], regions[brain]
        expected = 0.0
        for low in np.arange(BINS) / BINS:
            here = (inside >= low) & (inside < low + 1 / BINS)
            if here.any():
                expected += here.mean() * abs(inside[here].mean() - tumour[here].mean())
        assert scores.loc[name, "ece"] == pytest.approx(expected, abs=1e-6)
        assert scores.loc[name, "brier"] == pytest.approx(np.mean((inside - tumour) ** 2), abs=1e-6)


def test_tables_of_cases_add_up_and_certainty_has_a_bin():
    probabilities = np.ones((3, 4, 4, 4))
    table = reliability_table(probabilities, np.ones((3, 4, 4, 4), bool), np.ones((4, 4, 4), bool))
    assert table.loc[table["bin"] == BINS - 1, "tumour"].tolist() == [64.0] * 3
    half = [reliability_table(probabilities, np.full((3, 4, 4, 4), value), np.ones((4, 4, 4), bool)) for value in (True, False)]
    both = half[0].set_index(["region", "bin"]).add(half[1].set_index(["region", "bin"])).reset_index()
    assert calibration_scores(both)["ece"].tolist() == [0.5] * 3
