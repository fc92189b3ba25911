"""A test set goes through files, and is scored whole or not at all."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from brats_cohort.cases import read_classes, read_image
from brats_cohort.files import DataError
from brats_cohort.nifti import read_label_values
from brats_cohort.regions import CONVENTIONS, classes_to_regions, to_classes
from brats_cohort.testing import write_case
from helpers.data.preprocess import PreprocessSettings
from helpers.evaluation.cohort import score_cohort
from helpers.evaluation.metrics import METRICS, score_case
from helpers.evaluation.predict import predict_case
from helpers.evaluation.statistics import calibration_scores, reliability_table
from helpers.models.checkpoints import ModelCard
from helpers.models.networks import build_network

CARD = ModelCard("unet", {"channels": (4, 8)}, asdict(PreprocessSettings()), (16, 16, 16))


@pytest.fixture
def network():
    torch.manual_seed(1)
    return build_network("unet", channels=(4, 8)).eval()


@pytest.mark.parametrize("layout", ["brats2021", "brats2023"])
def test_scores_are_those_of_the_files(tmp_path, network, layout):
    cases = [write_case(tmp_path / "cohort", f"Case_00{number}", layout, seed=number) for number in (1, 2)]
    result = score_cohort(network, CARD, cases, folder=tmp_path / "predictions")
    scores, files = result.scores, result.files
    assert scores["case"].tolist() == ["Case_001"] * 3 + ["Case_002"] * 3
    assert set(files) == {"Case_001", "Case_002"}
    for case in cases:
        predicted = to_classes(read_label_values(files[case.identifier])[0], CONVENTIONS[case.labels])
        expected = score_case(predicted, read_classes(case)[0], (1.0, 1.0, 1.0))
        mine = scores.loc[scores["case"] == case.identifier, list(METRICS)]
        np.testing.assert_allclose(mine.astype(float), expected[list(METRICS)].astype(float))


def test_probabilities_are_scored_too_and_every_row_names_its_checkpoint(tmp_path, network):
    cases = [write_case(tmp_path / "cohort", f"Case_00{number}", seed=number) for number in (1, 2)]
    card = replace(CARD, weights_sha256="ab" * 32)
    result = score_cohort(network, card, cases, folder=tmp_path / "predictions")
    assert (result.scores["checkpoint"] == "ab" * 32).all()
    for case in cases:
        mine = result.reliability[result.reliability["case"] == case.identifier].drop(columns="case")
        probabilities = predict_case(network, card, case).probabilities
        regions = classes_to_regions(read_classes(case)[0])
        expected = reliability_table(probabilities, regions, read_image(case)[0].any(0))
        np.testing.assert_allclose(mine.drop(columns="region"), expected.drop(columns="region"))
        scores = result.scores[result.scores["case"] == case.identifier]
        np.testing.assert_allclose(scores[["ece", "brier"]], calibration_scores(expected)[["ece", "brier"]])


def test_a_case_without_reference_stops_the_test(tmp_path, network):
    case = replace(write_case(tmp_path / "cohort"), label=None)
    with pytest.raises(DataError, match="no reference"):
        score_cohort(network, CARD, [case], folder=tmp_path / "predictions")


def test_a_case_that_cannot_be_predicted_stops_the_test(tmp_path, network):
    case = write_case(tmp_path / "cohort")
    case.files[1].write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        score_cohort(network, CARD, [case], folder=tmp_path / "predictions")
