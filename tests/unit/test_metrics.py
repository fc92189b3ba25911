"""Metrics against cases computed by hand and against a second implementation written with SciPy alone."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import ndimage

from brats_cohort.cases import discover, read_classes
from brats_cohort.grid import spacing_of
from brats_cohort.regions import classes_to_regions
from helpers.evaluation.metrics import (
    EMPTY_DISTANCE,
    METRICS,
    dice,
    hausdorff95,
    score_case,
)
from tests.cases import REAL_CASES


def cube(start, size=6, shape=(24, 24, 24)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(s, s + size) for s in start)] = True
    return mask


def blob(seed, shape, smooth):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    return noise > np.quantile(noise, 0.8)


def scipy_hausdorff95(prediction, reference, spacing):
    """The definition of the docstring by distance transforms of the whole, uncropped volume."""
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (prediction, reference)]
    to_prediction, to_reference = (ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces)
    return max(np.percentile(to_reference[surfaces[0]], 95), np.percentile(to_prediction[surfaces[1]], 95))


def plain_dice(prediction, reference):
    return 2 * (prediction & reference).sum() / (prediction.sum() + reference.sum())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(*[st.integers(8, 22)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.5, 1.0, 1.3, 5.0])] * 3),
    smooth=st.sampled_from([0.0, 1.0, 2.5]),
)
def test_agrees_with_scipy_on_random_blobs(seed, shape, spacing, smooth):
    prediction, reference = blob(seed, shape, smooth), blob(seed + 1, shape, smooth)
    assert hausdorff95(prediction, reference, spacing) == pytest.approx(
        scipy_hausdorff95(prediction, reference, spacing), abs=1e-4
    )
    assert hausdorff95(prediction, reference, spacing) == pytest.approx(hausdorff95(reference, prediction, spacing), abs=1e-5)
    assert dice(prediction, reference) == pytest.approx(plain_dice(prediction, reference), abs=1e-6)


@pytest.mark.parametrize(("shift", "expected"), [((2, 0, 0), 4 / 6), ((3, 0, 0), 3 / 6), ((3, 3, 0), 1 / 4), ((6, 0, 0), 0.0)])
def test_dice_of_shifted_cubes(shift, expected):
    first, second = cube((6, 6, 6)), cube(tuple(6 + s for s in shift))
    assert dice(first, second) == pytest.approx(expected)
    whole = score_case(first * np.uint8(2), second * np.uint8(2), (1, 1, 1)).set_index("region").loc["WT"]
    assert (whole["sensitivity"], whole["precision"]) == pytest.approx((expected, expected))


@pytest.mark.parametrize(("axis", "spacing"), [(0, (2.0, 1.0, 1.0)), (1, (1.0, 3.0, 0.5)), (2, (1.0, 1.0, 5.0))])
def test_hausdorff_of_two_voxels_is_their_distance_in_millimetres(axis, spacing):
    first, second = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    first[4, 4, 4] = True
    second[tuple(7 if a == axis else 4 for a in range(3))] = True
    assert hausdorff95(first, second, spacing) == pytest.approx(3 * spacing[axis])


def test_hausdorff_of_shifted_flat_plates_is_the_shift():
    first, second = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    first[2:18, 2:18, 5], second[2:18, 2:18, 9] = True, True
    assert hausdorff95(first, second, (1.0, 1.0, 2.5)) == pytest.approx(4 * 2.5)


def test_hausdorff_takes_the_worse_direction_and_the_95th_percentile():
    reference = np.zeros((110, 5, 5), bool)
    reference[:, 2, 2] = True
    prediction = reference.copy()
    prediction[11:, 2, 2] = False
    # The reference's voxels 11 to 109 lie 1 to 99 mm from the prediction's end; the prediction lies in the reference.
    expected = np.percentile(np.r_[np.zeros(11), np.arange(1, 100)], 95)
    assert hausdorff95(prediction, reference, (1, 1, 1)) == pytest.approx(expected, abs=1e-4)
    assert hausdorff95(reference, prediction, (1, 1, 1)) == pytest.approx(expected, abs=1e-4)


def test_empty_regions_follow_the_rule_all_four_ways():
    full, empty = cube((3, 3, 3)), np.zeros((24, 24, 24), bool)
    spacing = (1.0, 1.0, 1.0)
    assert round(EMPTY_DISTANCE, 2) == 373.13
    for prediction, reference, score, distance in (
        (empty, empty, 1.0, 0.0),
        (full, empty, 0.0, EMPTY_DISTANCE),
        (empty, full, 0.0, EMPTY_DISTANCE),
        (full, full, 1.0, 0.0),
    ):
        assert dice(prediction, reference) == score
        assert hausdorff95(prediction, reference, spacing) == distance
        row = score_case(prediction * np.uint8(2), reference * np.uint8(2), spacing).loc[1]
        assert (row["sensitivity"], row["precision"]) == (score, score)


def test_sensitivity_and_precision_differ_when_too_much_is_predicted():
    reference, prediction = cube((6, 6, 6), size=4), cube((4, 4, 4), size=8)
    whole = score_case(prediction * np.uint8(2), reference * np.uint8(2), (1, 1, 1)).loc[1]
    assert (whole["sensitivity"], whole["precision"]) == pytest.approx((1.0, 4**3 / 8**3))


def test_masks_at_the_border_of_the_volume_and_empty_space_around_change_nothing():
    first, second = blob(1, (12, 13, 14), 1.5), blob(2, (12, 13, 14), 1.5)
    first[0], second[:, -1] = True, True
    padded = [np.pad(mask, ((3, 9), (0, 4), (7, 1))) for mask in (first, second)]
    spacing = (1.0, 2.0, 0.7)
    assert hausdorff95(first, second, spacing) == pytest.approx(scipy_hausdorff95(first, second, spacing), abs=1e-4)
    assert hausdorff95(*padded, spacing) == pytest.approx(hausdorff95(first, second, spacing), abs=1e-6)
    assert dice(*padded) == dice(first, second)


def test_volumes_in_millilitres_with_an_oblique_affine():
    angle = math.radians(20)
    rotation = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-2.0, 1.0, 5.0])
    tumour = cube((1, 1, 1), size=10) * np.uint8(2)
    assert score_case(tumour, tumour, spacing_of(affine))["reference_ml"][1] == pytest.approx(10.0)


def test_score_case_has_the_regions_in_order_and_signed_volume_errors():
    reference, prediction = np.zeros((20, 20, 20), np.uint8), np.zeros((20, 20, 20), np.uint8)
    reference[2:12, 2:12, 2:12], reference[4:8, 4:8, 4:8] = 2, 1
    prediction[2:12, 2:12, 2:7] = 2
    table = score_case(prediction, reference, (1.0, 1.0, 1.0))
    assert table["region"].tolist() == ["TC", "WT", "ET"]
    assert tuple(table.columns) == ("region", *METRICS)
    core, whole, enhancing = table.to_dict("records")
    assert (core["dice"], core["hd95"], core["volume_error_ml"]) == (0.0, EMPTY_DISTANCE, pytest.approx(-0.064))
    assert whole["dice"] == pytest.approx(2 / 3)
    assert (whole["volume_error_ml"], whole["volume_error_percent"]) == (pytest.approx(-0.5), pytest.approx(-50.0))
    assert (whole["lesion_dice"], whole["lesions_found"]) == (pytest.approx(2 / 3), 1)
    assert (core["lesion_dice"], core["lesions_missed"]) == (0.0, 1)
    assert (enhancing["dice"], enhancing["hd95"], enhancing["lesion_dice"]) == (1.0, 0.0, 1.0)
    assert math.isnan(enhancing["volume_error_percent"])


def test_score_case_refuses_file_numbers_and_other_shapes():
    with pytest.raises(ValueError, match="to_classes"):
        score_case(np.full((4, 4, 4), 4, np.uint8), np.zeros((4, 4, 4), np.uint8), (1, 1, 1))
    with pytest.raises(ValueError, match="one grid"):
        score_case(np.zeros((4, 4, 5), np.uint8), np.zeros((4, 4, 4), np.uint8), (1, 1, 1))


@pytest.mark.skipif(not REAL_CASES.is_dir(), reason=f"no real cases in {REAL_CASES}")
def test_a_real_tumour_moved_by_some_voxels_scores_as_with_scipy():
    case = discover(REAL_CASES / "brats2021")[0]
    reference, affine = read_classes(case)
    prediction = np.roll(reference, (3, -2, 1), axis=(0, 1, 2))
    table = score_case(prediction, reference, spacing_of(affine))
    (tumours,) = ndimage.find_objects(((prediction > 0) | (reference > 0)).astype(int))
    near = tuple(slice(max(edge.start - 10, 0), edge.stop + 10) for edge in tumours)  # scipy takes seconds for the whole head
    for row, first, second in zip(
        table.to_dict("records"), classes_to_regions(prediction[near]), classes_to_regions(reference[near]), strict=True
    ):
        assert row["dice"] == pytest.approx(plain_dice(first, second), abs=1e-6)
        assert row["hd95"] == pytest.approx(scipy_hausdorff95(first, second, spacing_of(affine)), abs=1e-4)
