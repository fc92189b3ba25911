"""The recipe of the released networks: the same weights every time, with or without an interruption."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.train_released import RECIPES, Batches, Muon, Recipe, finer, make_optimisers, train
from brats_cohort.files import DataError
from helpers.models.checkpoints import load_checkpoint
from helpers.models.networks import build_network, check_patch

TINY = Recipe("unet", 3, 1e-3, (40, 48, 40), {"channels": (4, 8), "num_res_units": 1}, patch=16, spacing=4)


@pytest.mark.parametrize("muon", [False, True])
def test_a_training_that_was_interrupted_ends_with_the_weights_of_one_that_was_not(tmp_path, muon):
    recipe = replace(TINY, muon=muon)
    whole = load_file(train(recipe, tmp_path / "whole", name="unet"))
    stopped = load_file(train(recipe, tmp_path / "parts", name="unet", stop=1))
    resumed = train(recipe, tmp_path / "parts", name="unet")
    assert all(torch.equal(tensor, whole[key]) for key, tensor in load_file(resumed).items())
    assert not all(torch.equal(tensor, whole[key]) for key, tensor in stopped.items())
    _, card = load_checkpoint(resumed)
    assert card.training["steps"] == 3 and not card.training_cases


@pytest.mark.parametrize("name", RECIPES)
def test_each_weight_has_one_optimiser(name):
    network = build_network(RECIPES[name].network, **RECIPES[name].arguments)
    optimisers = make_optimisers(RECIPES[name], network)
    matrices = optimisers["muon"].weights if RECIPES[name].muon else []
    others = [weight for group in optimisers["adamw"].param_groups for weight in group["params"]]
    assert sorted(map(id, [*matrices, *others])) == sorted(map(id, network.parameters()))
    assert all(weight.ndim > 1 for weight in matrices)
    assert not matrices or sum(weight.numel() for weight in others) < 0.02 * sum(p.numel() for p in network.parameters())


def test_muon_moves_the_kernel_of_a_convolution_as_pytorch_moves_the_same_matrix():
    kernel = torch.nn.Conv3d(4, 16, 3).weight
    matrix = torch.nn.Parameter(kernel.detach().flatten(1).clone())
    options = {"lr": 0.01, "weight_decay": 1e-4}
    ours, theirs = Muon([kernel], **options), torch.optim.Muon([matrix], adjust_lr_fn="match_rms_adamw", **options)
    for _ in range(3):
        gradient = torch.randn_like(kernel)
        kernel.grad, matrix.grad = gradient, gradient.flatten(1)
        ours.step()
        theirs.step()
    assert torch.equal(kernel.flatten(1), matrix)


def test_it_goes_on_from_other_weights_and_says_so_when_they_change(tmp_path):
    path = train(TINY, tmp_path / "first", name="unet")
    start, other = load_checkpoint(path)[0].state_dict(), replace(TINY, seed=1)
    gone_on = load_file(train(other, tmp_path / "second", name="unet", stop=1, start=start))
    fresh = load_file(train(other, tmp_path / "third", name="unet", stop=1))
    distances = [sum((start[key] - tensors[key]).abs().sum() for key in start) for tensors in (gone_on, fresh)]
    assert 0 < distances[0] < 0.2 * distances[1]
    with pytest.raises(DataError, match="another training"):
        train(other, tmp_path / "second", name="unet")


def test_another_recipe_does_not_resume_it(tmp_path):
    (tmp_path / "unet.ckpt").parent.mkdir(exist_ok=True)
    torch.save({"identity": {"steps": 4}}, tmp_path / "unet.ckpt")
    with pytest.raises(DataError, match="another training"):
        train(TINY, tmp_path, name="unet")


def test_weights_do_not_depend_on_how_many_processes_draw(tmp_path):
    alone, two = (load_file(train(TINY, tmp_path / str(count), name="unet", workers=count)) for count in (0, 2))
    assert all(torch.equal(tensor, alone[key]) for key, tensor in two.items())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_at_1_mm_has_a_larger_network_that_takes_its_patches_and_brains(name):
    recipe = finer(RECIPES[name])
    for edges in ((recipe.patch,) * 3, recipe.whole):
        check_patch(edges, recipe.network, **recipe.arguments)
    small, large = (build_network(each.network, **each.arguments) for each in (RECIPES[name], recipe))
    assert sum(p.numel() for p in large.parameters()) > 2 * sum(p.numel() for p in small.parameters())


def test_a_recipe_at_1_mm_shows_the_same_tumours():
    coarse, fine = (Batches(recipe).streams[1][0] for recipe in (RECIPES["unet"], finer(RECIPES["unet"])))
    assert fine["image"].shape == (4, *finer(RECIPES["unet"]).whole)
    assert int(fine["regions"].sum()) == pytest.approx(8 * int(coarse["regions"].sum()), rel=0.25)
