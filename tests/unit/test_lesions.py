"""Lesion-wise Dice against hand-made lesions and against the challenge's rule written out step by step."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import ndimage

from helpers.evaluation.metrics import LesionScore, score_lesions

MILLIMETRE = (1.0, 1.0, 1.0)
TOUCHING = np.ones((3, 3, 3))


def volume(*boxes, shape=(40, 40, 40)):
    """Boxes given by their first voxel and their edge."""
    mask = np.zeros(shape, bool)
    for *start, edge in boxes:
        mask[tuple(slice(s, s + edge) for s in start)] = True
    return mask


def step_by_step(prediction, reference, spacing):
    """The challenge's rule, lesion after lesion with a dilation of each, on whole volumes."""
    structure = ndimage.generate_binary_structure(3, 2)
    joined = ndimage.label(ndimage.binary_dilation(reference, structure, iterations=3), TOUCHING)[0] * reference
    pieces = ndimage.label(prediction, TOUCHING)[0]
    scores, touched = [], set()
    for lesion in (joined == number for number in np.unique(joined[joined > 0])):
        near = set(np.unique(pieces[ndimage.binary_dilation(lesion, structure, iterations=3)])) - {0}
        touched |= near
        answer = np.isin(pieces, list(near))
        if lesion.sum() * np.prod(spacing) > 50:
            scores.append(2 * (lesion & answer).sum() / (lesion.sum() + answer.sum()))
    false = len(set(np.unique(pieces)) - {0} - touched)
    return sum(scores) / (len(scores) + false) if scores or false else 1.0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(*[st.integers(12, 30)] * 3),
    smooth=st.sampled_from([1.0, 1.5, 2.5]),
    share=st.sampled_from([0.75, 0.9, 0.97]),
)
def test_agrees_with_the_rule_written_out(seed, shape, smooth, share):
    generator = np.random.default_rng(seed)
    noise = [ndimage.gaussian_filter(generator.normal(size=shape), smooth) for _ in range(2)]
    reference, prediction = (each > np.quantile(each, share) for each in (noise[0], noise[0] + 0.5 * noise[1]))
    assert score_lesions(prediction, reference, MILLIMETRE).dice == pytest.approx(
        step_by_step(prediction, reference, MILLIMETRE)
    )


def test_a_missed_small_lesion_costs_half_though_dice_hardly_moves():
    reference, prediction = volume((2, 2, 2, 12), (30, 30, 30, 4)), volume((2, 2, 2, 12))
    assert score_lesions(prediction, reference, MILLIMETRE) == LesionScore(0.5, found=1, missed=1, false=0)


def test_a_speck_far_away_counts_as_a_false_lesion_of_its_own():
    reference, prediction = volume((2, 2, 2, 12)), volume((2, 2, 2, 12), (30, 30, 30, 1))
    assert score_lesions(prediction, reference, MILLIMETRE) == LesionScore(0.5, found=1, missed=0, false=1)


def test_parts_close_together_are_one_lesion_and_near_pieces_belong_to_it():
    reference = volume((5, 5, 5, 6), (16, 5, 5, 6))  # five empty voxels between them: 3 + 3 steps meet
    prediction = volume((5, 5, 5, 6), (16, 5, 5, 6), (5, 5, 13, 1))  # and a crumb two voxels off
    assert score_lesions(prediction, reference, MILLIMETRE) == LesionScore(2 * 432 / 865, found=1, missed=0, false=0)
    apart = volume((5, 5, 5, 6), (19, 5, 5, 6))
    assert score_lesions(apart, apart, MILLIMETRE).found == 2


def test_lesions_of_fifty_cubic_millimetres_do_not_count_but_what_touches_them_is_not_false():
    reference, prediction = volume((2, 2, 2, 12), (30, 30, 30, 3)), volume((2, 2, 2, 12), (31, 31, 31, 2))
    assert score_lesions(prediction, reference, MILLIMETRE) == LesionScore(1.0, found=1, missed=0, false=0)
    assert score_lesions(prediction, reference, (2.0, 2.0, 2.0)).found == 2  # the same voxels are 216 cubic millimetres here


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (volume(), volume(), LesionScore(1.0, 0, 0, 0)),
        (volume((5, 5, 5, 2)), volume(), LesionScore(0.0, 0, 0, 1)),
        (volume(), volume((5, 5, 5, 6)), LesionScore(0.0, 0, 1, 0)),
        (volume((5, 5, 5, 6)), volume((5, 5, 5, 6)), LesionScore(1.0, 1, 0, 0)),
    ],
)
def test_empty_regions_follow_the_rule_all_four_ways(prediction, reference, expected):
    assert score_lesions(prediction, reference, MILLIMETRE) == expected


def test_growth_is_in_millimetres_on_a_coarser_grid():
    pair = volume((5, 5, 5, 6), (14, 5, 5, 6))  # three empty voxels between them
    assert score_lesions(pair, pair, MILLIMETRE).found == 1
    assert score_lesions(pair, pair, (3.0, 3.0, 3.0)).found == 2  # one step of 3 mm from either side does not bridge 9 mm
