"""The recipe of the released networks: the same weights every time, with or without an interruption."""

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.train_released import Recipe, train
from brats_cohort.files import DataError
from helpers.models.checkpoints import load_checkpoint

TINY = Recipe("unet", 3, 1e-3, (40, 48, 40), {"channels": (4, 8), "num_res_units": 1}, patch=16, spacing=4)


def test_a_training_that_was_interrupted_ends_with_the_weights_of_one_that_was_not(tmp_path):
    whole = load_file(train(TINY, tmp_path / "whole", name="unet"))
    stopped = load_file(train(TINY, tmp_path / "parts", name="unet", stop=1))
    resumed = train(TINY, tmp_path / "parts", name="unet")
    assert all(torch.equal(tensor, whole[key]) for key, tensor in load_file(resumed).items())
    assert not all(torch.equal(tensor, whole[key]) for key, tensor in stopped.items())
    _, card = load_checkpoint(resumed)
    assert card.training["steps"] == 3 and not card.training_cases


def test_another_recipe_does_not_resume_it(tmp_path):
    (tmp_path / "unet.ckpt").parent.mkdir(exist_ok=True)
    torch.save({"identity": {"steps": 4}}, tmp_path / "unet.ckpt")
    with pytest.raises(DataError, match="another training"):
        train(TINY, tmp_path, name="unet")
