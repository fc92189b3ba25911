"""Every rung of the ladder trains on the same patches, and every route of a prediction gives the label map of predict."""

import numpy as np
import pytest
import torch

from glioma_phantom import PhantomSettings
from helpers.data.phantoms import write_cohort
from helpers.data.preprocess import PreprocessSettings, prepare_cohort
from helpers.evaluation.predict import predict_case
from helpers.models.checkpoints import load_released
from helpers.models.networks import build_network
from helpers.profiling.ladder import Rung, measure_ladder, peak_memory
from helpers.profiling.latency import STAGES, Route, predict_by_route
from helpers.profiling.recipes import (
    SOURCES,
    Recipe,
    patches_of,
    training_of,
)
from helpers.workspace import DataError

PATCH = (32, 32, 32)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ladder")
    cases = write_cohort(folder / "cohort", 2, PhantomSettings(spacing=4.0), workers=0, progress=False)
    paths = prepare_cohort(cases, folder / "prepared", PreprocessSettings(spacing=(4.0,) * 3), progress=False).paths
    return {paths[case.identifier]: case for case in cases}


def patches(source, cohort):
    found = patches_of(Recipe(source), cohort, patch=PATCH, count=3, seed=5)
    return [found[index] for index in range(3)]


@pytest.mark.parametrize("source", ["files", "prepared"])
def test_every_source_of_this_package_gives_the_same_patches(cohort, source):
    for expected, found in zip(patches("mapped", cohort), patches(source, cohort), strict=True):
        torch.testing.assert_close(found["image"], expected["image"])
        assert torch.equal(found["regions"], expected["regions"])


def test_monais_transforms_show_the_same_place(cohort):
    for expected, found in zip(patches("mapped", cohort), patches("monai", cohort), strict=True):
        assert found["image"].shape == expected["image"].shape
        same = (found["regions"] == expected["regions"]).float().mean()
        assert same > 0.99, "nothing is interpolated at the cohort's own spacing"
        for channel, other in zip(found["image"], expected["image"], strict=True):
            assert np.corrcoef(channel.flatten(), other.flatten())[0, 1] > 0.95


def test_an_unknown_source_is_refused(cohort):
    with pytest.raises(DataError, match="no source 'tape'"):
        patches_of(Recipe("tape"), cohort, patch=PATCH, count=1, seed=0)
    assert next(iter(SOURCES)) == Recipe().source, "the naive way comes first"


@pytest.mark.parametrize(
    "change",
    [{"channels_last": True}, {"fused_optimiser": True}, {"channels_last": True, "fused_optimiser": True}],
    ids=["layout", "optimiser", "both"],
)
def test_a_tuned_training_is_the_naive_one(cohort, change):
    torch.manual_seed(0)
    network = build_network("unet", channels=(4, 8))
    steps = [
        training_of(recipe, network, patches_of(recipe, cohort, patch=PATCH, count=3, seed=5), learning_rate=1e-2)
        for recipe in (Recipe("mapped"), Recipe("mapped", **change))
    ]
    naive, tuned = ([step() for _ in range(3)] for step in steps)
    assert tuned == pytest.approx(naive, abs=1e-3)
    assert naive[0] != naive[2]


def test_bf16_and_own_attention_train_alike(cohort):
    torch.manual_seed(0)
    network = build_network("swin_unetr", use_flash_attention=False)
    recipes = [Recipe("mapped"), Recipe("mapped", channels_last=True, own_attention=True)]
    recipes.append(Recipe("mapped", channels_last=True, own_attention=True, bf16=True))
    size = (32, 32, 64)
    losses = [training_of(each, network, patches_of(each, cohort, patch=size, count=1, seed=5))() for each in recipes]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] == pytest.approx(losses[0], abs=0.02)


def test_the_ladder_compares_with_its_first_rung(cohort):
    torch.manual_seed(0)
    network = build_network("unet", channels=(4, 8))
    rungs = [
        Rung("naive", Recipe("prepared")),
        Rung("mapped", Recipe("mapped")),
        Rung("aside", Recipe("mapped", batch=2), kept=False),
        Rung("graphs", reason="no GPU"),
    ]
    held_out = patches_of(Recipe("mapped"), cohort, patch=PATCH, count=1, seed=9)
    table = measure_ladder(rungs, network, cohort, patch=PATCH, held_out=held_out, rounds=2)
    assert list(table.index) == ["naive", "mapped", "aside", "graphs"]
    assert table.loc["naive", ["step", "cumulative", "loss difference", "Dice difference"]].tolist() == [1, 1, 0, 0]
    assert table.loc["mapped", "loss difference"] == pytest.approx(0, abs=1e-6)
    assert table.loc["graphs", "measured"] == "not measured here: no GPU"
    assert table.loc["graphs"].drop("measured").isna().all()
    assert table["data wait"].dropna().between(0, 1).all()
    assert all(parameter.grad is None for parameter in network.parameters()), "the network itself is left alone"


def test_memory_of_some_work_is_seen():
    peak = peak_memory(lambda: np.ones(2**24))
    assert peak is None or peak > 2**24 * 8 * 0.9


def test_every_route_gives_a_label_map_and_the_default_is_predict(cohort, tmp_path):
    network, card = load_released()
    case = next(iter(cohort.values()))
    expected = predict_case(network, card, case).classes
    routes = {"default": Route(), "naive": Route(crop=False, few=False), "bf16": Route(bf16=True)}
    found = {}
    for name, route in routes.items():
        times, found[name], _ = predict_by_route(network, card, case, tmp_path / "seg.nii.gz", route=route)
        assert tuple(times) == STAGES
    assert np.array_equal(found["default"], expected)
    tumour = expected > 0
    for name in ("naive", "bf16"):
        assert (tumour & (found[name] > 0)).sum() * 2 > 0.8 * (tumour.sum() + (found[name] > 0).sum()), name
