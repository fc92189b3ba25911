"""Specks are taken out of predictions, tumours are not."""

import numpy as np
import pytest
from scipy import ndimage

from brats_cohort.regions import ED, ET, NCR
from helpers.evaluation.postprocess import PostProcessing, label_map, postprocess, warnings_of

BRAIN = np.ones((4, 1, 1, 1))
"""Brain everywhere, which is all that the rules here look at."""


def tumour_with_specks():
    classes = np.zeros((40, 40, 40), np.uint8)
    classes[10:24, 10:24, 10:24] = ED
    classes[14:20, 14:20, 14:20] = ET
    classes[16:18, 16:18, 16:18] = NCR
    specks = classes.copy()
    specks[35:38, 35:38, 35:38] = ET
    specks[2, 2, 2] = ED
    return classes, specks


def test_small_pieces_vanish_and_the_tumour_stays():
    tumour, specks = tumour_with_specks()
    assert np.array_equal(postprocess(specks, (1, 1, 1), PostProcessing(tumour_ml=0.1, enhancing_ml=0.0)), tumour)
    assert specks[2, 2, 2] == ED, "the argument is left as it was"


def test_limits_are_volumes_not_voxels():
    _, specks = tumour_with_specks()
    cleaned = postprocess(specks, (2, 2, 2), PostProcessing(tumour_ml=0.1, enhancing_ml=0.0))
    assert (cleaned[35:38, 35:38, 35:38] == ET).all(), "27 voxels of 8 mm3 are 0.2 ml"
    assert cleaned[2, 2, 2] == 0


def test_the_largest_piece_stays_however_small():
    classes = np.zeros((10, 10, 10), np.uint8)
    classes[2:4, 2:4, 2:4] = ED
    classes[8, 8, 8] = ED
    cleaned = postprocess(classes, (1, 1, 1), PostProcessing(tumour_ml=5.0, enhancing_ml=0.0))
    assert (cleaned > 0).sum() == 8


def test_a_trace_of_enhancement_becomes_necrotic_core_and_more_does_not():
    tumour, _ = tumour_with_specks()
    enhancing_ml = (tumour == ET).sum() / 1000
    kept = postprocess(tumour, (1, 1, 1), PostProcessing(tumour_ml=0.0, enhancing_ml=enhancing_ml * 0.99))
    assert np.array_equal(kept, tumour)
    turned = postprocess(tumour, (1, 1, 1), PostProcessing(tumour_ml=0.0, enhancing_ml=enhancing_ml * 1.01))
    assert not (turned == ET).any()
    assert np.array_equal(turned > 0, tumour > 0)
    assert (turned[tumour == ET] == NCR).all()


@pytest.mark.parametrize("seed", range(5))
def test_both_limits_at_zero_change_nothing_and_pieces_agree_with_a_plain_count(seed):
    classes = (np.random.default_rng(seed).random((20, 20, 20)) > 0.97).astype(np.uint8) * ED
    assert np.array_equal(postprocess(classes, (1, 1, 1), PostProcessing(0.0, 0.0)), classes)
    cleaned = postprocess(classes, (1, 1, 1), PostProcessing(tumour_ml=0.002, enhancing_ml=0.0))
    pieces, count = ndimage.label(classes, structure=np.ones((3, 3, 3)))
    expected = sum((pieces == number).sum() for number in range(1, count + 1) if (pieces == number).sum() >= 2)
    assert (cleaned > 0).sum() == expected


def test_an_empty_map_stays_empty_and_a_negative_limit_is_refused():
    assert not postprocess(np.zeros((4, 4, 4), np.uint8), (1, 1, 1), PostProcessing()).any()
    with pytest.raises(ValueError, match="negative"):
        PostProcessing(tumour_ml=-1.0)


@pytest.mark.parametrize("name", ["core_threshold", "tumour_threshold", "enhancing_threshold"])
@pytest.mark.parametrize("limit", [0.0, 0.6])
def test_probabilities_that_would_make_everything_tumour_or_core_are_refused(name, limit):
    with pytest.raises(ValueError, match="above 0 and at most"):
        PostProcessing(**{name: limit})


def test_core_outside_an_enhancing_tumour_becomes_oedema_and_core_inside_it_stays():
    tumour, _ = tumour_with_specks()
    outside = tumour.copy()
    outside[10:24, 10:24, 22:24] = NCR
    cleaned = postprocess(outside, (2, 2, 2), PostProcessing(0.0, 0.0, enhancing_share=0.1, near_mm=2.0))
    assert np.array_equal(cleaned, tumour), "the inner core is enclosed by what enhances, the outer one is not"
    near = postprocess(outside, (2, 2, 2), PostProcessing(0.0, 0.0, enhancing_share=0.1, near_mm=100.0))
    assert np.array_equal(near, outside)


def test_core_stays_where_hardly_anything_enhances():
    classes, _ = tumour_with_specks()
    classes[classes == ED] = NCR
    share = (classes == ET).sum() / np.isin(classes, (NCR, ET)).sum()
    kept = postprocess(classes, (1, 1, 1), PostProcessing(0.0, 0.0, enhancing_share=share * 1.01, near_mm=1.0))
    assert np.array_equal(kept, classes)
    turned = postprocess(classes, (1, 1, 1), PostProcessing(0.0, 0.0, enhancing_share=share * 0.99, near_mm=1.0))
    assert (turned == ED).any() and np.array_equal(turned == ET, classes == ET)


def test_oedema_between_pieces_of_core_becomes_core_and_oedema_around_it_stays():
    classes = np.zeros((20, 20, 20), np.uint8)
    classes[2:18, 2:18, 2:18] = ED
    classes[5:15, 5:15, 5:8] = ET
    classes[5:15, 5:8, 5:15] = NCR
    classes[5:15, 12:15, 5:15] = ET
    filled = postprocess(classes, (1, 1, 1), PostProcessing(0.0, 0.0, surrounded=3))
    groove = np.zeros(classes.shape, bool)
    groove[5:15, 8:12, 8:15] = True
    assert (filled[groove] == NCR).all(), "it meets core on three sides"
    assert np.array_equal(filled[~groove], classes[~groove])
    assert np.array_equal(postprocess(classes, (1, 1, 1), PostProcessing(0.0, 0.0, surrounded=4)), classes)


def balls(*radii):
    """Distance in mm from the middle of each of several balls of oedema in a row, and the balls as classes."""
    places = np.indices((20, 20, 20 * len(radii)))
    distances = [
        np.linalg.norm(places - np.array([10, 10, 10 + 20 * each]).reshape(3, 1, 1, 1), axis=0) for each in range(len(radii))
    ]
    classes = np.any([distance < radius for distance, radius in zip(distances, radii, strict=True)], axis=0) * np.uint8(ED)
    return distances, classes


def test_a_tumour_without_core_gets_one_where_it_is_deepest():
    (first, second), classes = balls(8, 3)
    filled = postprocess(classes, (1, 1, 1), PostProcessing(0.0, 0.0, core_depth=0.5))
    assert np.array_equal(filled > 0, classes > 0), "the whole tumour stays as it is"
    assert (filled[first < 3] == NCR).all() and (filled[(first > 5) & (first < 8)] == ED).all()
    assert not (filled[second < 3] == NCR).any(), "the smaller one is less than half as deep"
    assert np.array_equal(postprocess(classes, (1, 1, 1), PostProcessing(0.0, 0.0)), classes), "0 switches it off"


def test_depth_is_measured_in_millimetres_and_up_to_the_edge_of_the_volume():
    slab = np.full((9, 9, 9), ED, np.uint8)
    filled = postprocess(slab, (1, 1, 10), PostProcessing(0.0, 0.0, core_depth=1.0))
    assert np.argwhere(filled == NCR)[:, :2].tolist() == [[4, 4]] * 9, "10 mm apart, no slice is near an end"


@pytest.mark.parametrize(("label", "changed"), [(ET, False), (NCR, False), (ED, True)])
def test_core_is_placed_only_if_there_is_none_and_nothing_enhances(label, changed):
    (distance,), classes = balls(8)
    classes[distance < 3] = label
    filled = postprocess(classes, (1, 1, 1), PostProcessing(0.0, 0.0, core_depth=0.3))
    assert (not np.array_equal(filled, classes)) == changed


def test_a_label_map_says_when_its_core_was_not_seen():
    (distance,), classes = balls(8)
    probabilities = np.zeros((3, *classes.shape), np.float32)
    probabilities[1][classes > 0] = 0.9
    made_of = (probabilities, np.ones((4, *classes.shape)), (1, 1, 1), PostProcessing(0.0, 0.0, core_depth=0.5))
    (sentence,) = warnings_of(label_map(*made_of), *made_of)
    assert "no tumour core is visible" in sentence
    probabilities[0][distance < 4] = 0.9
    seen = label_map(*made_of)
    assert np.array_equal(seen == NCR, distance < 4) and warnings_of(seen, *made_of) == ()
    probabilities[:] = 0.0
    assert warnings_of(label_map(*made_of), *made_of) == (), "without a tumour there is nothing to doubt"


def test_core_that_another_rule_adds_is_no_core_that_was_not_seen():
    (distance,), classes = balls(12)
    image, probabilities = np.ones((4, *classes.shape)), np.zeros((3, *classes.shape), np.float32)
    probabilities[1][classes > 0] = 0.9
    probabilities[0][(distance > 6) & (distance < 7)] = 0.9
    ring = (probabilities, image, (1, 1, 1), PostProcessing(0.0, 0.0, surrounded=6, core_depth=0.5))
    filled = label_map(*ring)
    core = np.count_nonzero(filled == NCR)
    assert core > 2 * np.count_nonzero(probabilities[0]), "most of the core was not seen as such"
    assert warnings_of(filled, *ring) == ()
    probabilities[0] = 0.4 * (distance < 3)
    probabilities[2] = 0.6 * (distance < 3)
    for depth, count in ((0.0, 0), (0.5, 1)):
        small = (probabilities, image, (1, 1, 1), PostProcessing(0.0, 1.0, core_depth=depth))
        assert len(warnings_of(label_map(*small), *small)) == count, depth


def test_whole_tumour_can_be_cut_lower_than_core():
    probabilities = np.full((3, 6, 6, 6), 0.3, np.float32)
    probabilities[1] = 0.45
    probabilities[0, 2:4, 2:4, 2:4] = 0.48
    assert not label_map(probabilities, BRAIN, (1, 1, 1), PostProcessing(0.0, 0.0)).any()
    assert (label_map(probabilities, BRAIN, (1, 1, 1), PostProcessing(0.0, 0.0, tumour_threshold=0.45)) == ED).all()


def test_core_can_be_cut_lower_than_whole_tumour():
    probabilities = np.zeros((3, 6, 6, 6), np.float32)
    probabilities[1, 1:5, 1:5, 1:5] = 0.9
    probabilities[0, 2:4, 2:4, 2:4] = 0.35
    plain, lower = (
        label_map(probabilities, np.ones((4, 6, 6, 6)), (1, 1, 1), PostProcessing(0.0, 0.0, core_threshold=each))
        for each in (0.5, 0.3)
    )
    assert not (plain == NCR).any()
    assert np.array_equal(lower == NCR, probabilities[0] > 0) and np.array_equal(lower > 0, plain > 0)


def test_nothing_outside_the_brain_is_tumour():
    tumour, image = np.zeros((3, 8, 8, 8), np.float32), np.zeros((4, 8, 8, 8), np.float32)
    tumour[:, 2:, 2:, 2:] = 0.9
    image[1, :6] = -1.0  # one of the four is enough
    for background in (0.0, np.nan, np.inf):
        shown = np.where(image == 0, np.float32(background), image)
        classes = label_map(tumour, shown, (1, 1, 1), PostProcessing(0.0, 0.0))
        assert np.array_equal(classes > 0, (tumour[1] > 0) & (image[1] != 0)), background
