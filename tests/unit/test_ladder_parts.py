"""Prefetching, computing blocks twice and changing patches on the device leave a training what it was."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers.data.preprocess import PreprocessSettings, prepare_cohort
from helpers.models.networks import build_network, checkpoint_activations
from helpers.profiling.preparation import (
    ISAL,
    PARALLEL,
    PREPARE,
    ZLIB,
    measure_preparation,
)
from helpers.profiling.recipes import Recipe, patches_of, training_of
from helpers.profiling.rungs import TRIED, tried_rungs
from helpers.profiling.trace import profile_steps
from helpers.training.before.prefetch import Prefetch
from helpers.workspace import DataError
from tests.cases import write_case

PATCH = (16, 16, 16)
TRIED_FIRST = next(iter(TRIED))
SMALL = {
    "unet": {"channels": (4, 8, 16)},
    "segresnet": {"blocks_down": (1, 1, 2), "blocks_up": (1, 1)},
    "dynunet": {"filters": (4, 8, 16)},
    "swin_unetr": {},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    cases = [write_case(folder / "cohort", f"Case_{number:03}", seed=number) for number in range(2)]
    paths = prepare_cohort(cases, folder / "prepared", workers=1, progress=False).paths
    return {paths[case.identifier]: case for case in cases}


def training(cohort, **changes):
    torch.manual_seed(0)
    recipe = Recipe("mapped", batch=2, **changes)
    patches = patches_of(recipe, cohort, patch=PATCH, count=6, seed=3)
    return training_of(recipe, build_network("unet", **SMALL["unet"]), patches, learning_rate=1e-2)


def test_prefetching_gives_every_batch_once_and_in_order():
    batches = [{"image": torch.full((1, 2), float(number))} for number in range(5)]
    ahead = Prefetch(batches)
    assert [int(batch["image"][0, 0]) for batch in ahead] == list(range(5))
    with pytest.raises(StopIteration):
        next(ahead)


def test_prefetching_reads_one_batch_ahead_and_no_more():
    read = []
    ahead = Prefetch({"number": read.append(number) or torch.tensor(number)} for number in range(9))
    assert int(next(ahead)["number"]) == 0
    ahead._coming.result()
    assert read == [0, 1]


def test_an_error_in_the_thread_reaches_the_step():
    def batches():
        yield {"image": torch.zeros(1)}
        raise DataError("case A is damaged", "leave it out")

    ahead = Prefetch(batches())
    next(ahead)
    with pytest.raises(DataError, match="case A"):
        next(ahead)


def test_a_prefetched_training_is_the_same(cohort):
    plain, ahead = ([step() for _ in range(3)] for step in (training(cohort), training(cohort, prefetch=True)))
    assert ahead == plain


@pytest.mark.parametrize("name", SMALL)
def test_computing_blocks_twice_changes_neither_output_nor_gradient(name):
    torch.manual_seed(0)
    plain = build_network(name, **SMALL[name]).train()
    twice = checkpoint_activations(copy.deepcopy(plain))
    image = torch.randn(1, 4, *((32, 32, 64) if name == "swin_unetr" else PATCH))
    for network in (plain, twice):
        outputs = network(image)
        (outputs[0] if isinstance(outputs, list) else outputs).square().mean().backward()
    assert list(plain.state_dict()) == list(twice.state_dict())
    for (label, expected), found in zip(plain.named_parameters(), twice.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, msg=label)
    with torch.no_grad():
        torch.testing.assert_close(twice.eval()(image), plain.eval()(image))


def test_computing_blocks_twice_holds_less(cohort, tmp_path):
    plain, twice = (profile_steps(training(cohort, recompute=on), tmp_path / str(on), steps=1) for on in (False, True))
    assert twice.peak_mib < plain.peak_mib


def test_a_network_without_such_blocks_is_refused():
    with pytest.raises(DataError, match="Conv3d has no block"):
        checkpoint_activations(nn.Conv3d(1, 1, 1))


def test_random_changes_on_the_device_are_those_of_the_loader(cohort):
    plain, loader, device = (training(cohort, changes=where).batches for where in ("", "loader", "device"))
    changed = False
    for before, expected, found in zip(plain, loader, device, strict=True):
        assert set(found) == {"image", "regions"}
        torch.testing.assert_close(found["image"], expected["image"])
        assert torch.equal(found["regions"], expected["regions"])
        changed |= not torch.equal(before["image"], expected["image"])
    assert changed


def test_reading_and_preparing_a_case_are_timed(cohort):
    timings = measure_preparation(list(cohort.values())[:1], PreprocessSettings(), rounds=2)
    assert list(timings) == [ZLIB, ISAL, PARALLEL, PREPARE]
    assert all(len(timing.seconds) == 2 and timing.low > 0 for timing in timings.values())


def test_what_is_tried_stands_on_bf16_where_that_is_kept():
    best = Recipe("mapped")
    for kept in (True, False):
        rungs = {rung.name: rung for rung in tried_rungs(best, bf16=kept, device="cpu", reasons={TRIED_FIRST: "why"})}
        assert rungs["bf16"].recipe.bf16
        assert rungs["gradient checkpointing"].recipe == replace(best, bf16=kept, recompute=True)
        assert rungs["CUDA graphs"].reason == "no CUDA GPU here"
        assert rungs[TRIED_FIRST].reason == "why"
