"""Fitting the post-processing: a limit is changed if that helps on phantoms, and stays otherwise."""

from dataclasses import replace

import numpy as np

from benchmarks.fit_limits import Predicted, fit_rules
from helpers.evaluation.postprocess import PostProcessing

OFF = PostProcessing(tumour_ml=0, enhancing_ml=0)
CHOICES = {"tumour_ml": (0.5, 1, 2, 4), "enhancing_ml": (0.1, 0.5), "core_depth": (0.3, 0.5)}


def case(*, speck: bool) -> Predicted:
    """A ball with core and enhancing rim that the network segments exactly, but for a speck far away from it."""
    distance = np.linalg.norm(np.indices((32, 32, 32)) - 14, axis=0)
    regions = np.stack([distance < 6, distance < 10, (distance < 6) & (distance > 4)])
    probabilities = regions.astype(np.float32)
    if speck:
        probabilities[1, -5:, -5:, -5:] = 1
    return Predicted(np.ones((4, 32, 32, 32), np.float32), probabilities, regions, (2.0, 2.0, 2.0))


def test_no_limit_changes_for_a_network_that_makes_no_mistake():
    for limits in (OFF, replace(OFF, tumour_ml=1, enhancing_ml=0.1)):
        assert fit_rules([case(speck=False)] * 2, CHOICES, limits) == limits


def test_a_rule_that_costs_a_region_is_switched_off():
    limits = fit_rules([case(speck=False)] * 2, {"enhancing_ml": (0, 1)}, replace(OFF, enhancing_ml=1000))
    assert limits.enhancing_ml == 0


def test_specks_are_removed_by_the_smallest_volume_that_is_enough():
    limits = fit_rules([case(speck=True), case(speck=False)], CHOICES, OFF)
    assert limits.tumour_ml == 2  # the speck has exactly 1 ml, which a limit of 1 keeps
