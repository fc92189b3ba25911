"""Fitting the post-processing: rules that help on phantoms are switched on, others stay off."""

import numpy as np
import pandas as pd

from benchmarks.fit_limits import CHOICES, OFF, Predicted, fit_presence, fit_rules
from helpers.evaluation.postprocess import FEATURES


def case(*, speck: bool) -> Predicted:
    """A ball with core and enhancing rim that the network segments exactly, but for a speck far away from it."""
    distance = np.linalg.norm(np.indices((32, 32, 32)) - 14, axis=0)
    regions = np.stack([distance < 6, distance < 10, (distance < 6) & (distance > 4)])
    probabilities = regions.astype(np.float32)
    if speck:
        probabilities[1, -5:, -5:, -5:] = 1
    return Predicted(np.ones((4, 32, 32, 32), np.float32), probabilities, regions, (2.0, 2.0, 2.0))


def test_no_rule_is_switched_on_for_a_network_that_makes_no_mistake():
    assert fit_rules([case(speck=False)] * 2, CHOICES, OFF) == OFF


def test_specks_are_removed_by_the_smallest_volume_that_is_enough():
    limits = fit_rules([case(speck=True), case(speck=False)], CHOICES, OFF)
    assert limits.tumour_ml == 2  # the speck has exactly 1 ml, which a limit of 1 keeps


def test_the_decision_on_enhancement_keeps_nineteen_of_twenty_and_tells_the_rest_apart():
    draws = np.random.default_rng(0)
    present = np.arange(200) < 120
    table = pd.DataFrame({name: draws.normal(4 * present, 1) for name in FEATURES}).assign(ml=5.0 * present)
    model = fit_presence(table)
    score = 1 / (1 + np.exp(-model["intercept"] - sum(model[name] * table[name] for name in FEATURES)))
    found = score >= model["threshold"]
    assert 0.93 <= found[present].mean() < 1 and found[~present].mean() < 0.05
