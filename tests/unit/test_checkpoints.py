"""Weights and model card: what is written comes back, and what does not belong together is refused."""

import json
from dataclasses import astuple, replace

import pytest
import torch

from helpers.models.checkpoints import (
    ModelCard,
    card_path,
    load_card,
    load_checkpoint,
    save_checkpoint,
)
from helpers.models.networks import GLIOMA, Task, build_network
from helpers.workspace import DataError

ARGUMENTS = {"channels": (4, 8), "num_res_units": 1}
CARD = ModelCard(
    network="unet",
    arguments=ARGUMENTS,
    preprocessing={"spacing": (2.0, 2.0, 2.0), "normalise": "zscore"},
    patch=(16, 16, 16),
    metrics={"dice_mean": 0.5},
    split_hash="abc",
)


@pytest.fixture
def saved(tmp_path):
    network = build_network("unet", **ARGUMENTS)
    path = tmp_path / "deep" / "best.safetensors"
    return path, network, save_checkpoint(path, network, CARD)


def rewrite_card(path, **changes):
    content = json.loads(card_path(path).read_text())
    card_path(path).write_text(json.dumps({**content, **changes}))


def test_round_trip(saved):
    path, network, digest = saved
    loaded, card = load_checkpoint(path)
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), loaded.state_dict().values(), strict=True))
    assert not loaded.training
    assert (card.weights_sha256, card.spacing, card.normalise, card.patch) == (digest, (2.0, 2.0, 2.0), "zscore", (16, 16, 16))
    assert (card.metrics, card.split_hash) == (CARD.metrics, "abc")
    assert {"torch", "monai", "python"} <= set(card.versions)
    assert sorted(file.name for file in path.parent.iterdir()) == ["best.json", "best.safetensors"]


def test_a_card_says_what_the_weights_were_trained_on_and_older_cards_do_not_know(saved, tmp_path):
    path, network, _ = saved
    assert load_card(path).training_cases == ()
    save_checkpoint(tmp_path / "new.safetensors", network, replace(CARD, training_cases=("a", "b")))
    assert load_card(tmp_path / "new.safetensors").training_cases == ("a", "b")
    content = json.loads(card_path(path).read_text())
    del content["training_cases"]
    card_path(path).write_text(json.dumps(content))
    assert load_card(path).training_cases == ()


def test_tampered_weights_are_refused(saved):
    path, _, _ = saved
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="SHA-256"):
        load_checkpoint(path)


def test_exchanged_weights_are_refused_although_they_would_fit(saved, tmp_path):
    path, _, _ = saved
    save_checkpoint(tmp_path / "other.safetensors", build_network("unet", **ARGUMENTS), CARD)
    (tmp_path / "other.safetensors").replace(path)
    with pytest.raises(DataError, match="SHA-256"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modalities": ["flair", "t1", "t1ce", "t2"]}, "channels"),
        ({"regions": ["WT", "TC", "ET"]}, "regions"),
        ({"network": "vnet"}, "no network 'vnet'"),
        ({"arguments": {"channels": [4, 16], "num_res_units": 1}}, "does not fit unet"),
    ],
)
def test_cards_that_say_something_else_are_refused(saved, changes, words):
    rewrite_card(saved[0], **changes)
    with pytest.raises(DataError, match=words):
        load_checkpoint(saved[0])


ORGANS = Task("organs", ("ct",), ("background", "liver", "spleen"), "softmax")
"""A task that differs from glioma in everything."""


@pytest.fixture
def of_organs(tmp_path):
    arguments = {"channels": (4, 8), "in_channels": 1, "out_channels": 3}
    card = replace(
        CARD,
        arguments=arguments,
        task=ORGANS.name,
        modalities=ORGANS.modalities,
        regions=ORGANS.regions,
        activation=ORGANS.activation,
    )
    save_checkpoint(tmp_path / "organs.safetensors", build_network("unet", **arguments), card)
    return tmp_path / "organs.safetensors"


@pytest.mark.parametrize("task", [ORGANS, None])
def test_a_model_of_another_task_comes_back_with_its_channels(of_organs, task):
    network, card = load_checkpoint(of_organs, task=task)
    assert (card.task, card.modalities, card.regions, card.activation) == ("organs", *astuple(ORGANS)[1:])
    assert network(torch.zeros(1, 1, 16, 16, 16)).shape[1] == 3


def test_a_model_of_another_task_is_refused_where_one_of_glioma_is_needed(of_organs, saved):
    with pytest.raises(DataError, match="for organs, not for glioma"):
        load_checkpoint(of_organs)
    with pytest.raises(DataError, match="for glioma, not for organs"):
        load_checkpoint(saved[0], task=ORGANS)
    rewrite_card(saved[0], modalities=["flair", "t1", "t1ce", "t2"])
    with pytest.raises(DataError, match="orders its channels"):
        load_checkpoint(saved[0], task=None)


def test_a_card_names_as_many_channels_as_the_network_has(of_organs, saved):
    with pytest.raises(DataError, match="has in_channels 4"):
        save_checkpoint(saved[0], saved[1], replace(CARD, modalities=("flair",)))
    rewrite_card(of_organs, regions=["background", "liver"])
    with pytest.raises(DataError, match="has out_channels 3"):
        load_checkpoint(of_organs, task=None)


def test_cards_of_before_there_were_tasks_are_of_glioma(saved):
    content = json.loads(card_path(saved[0]).read_text())
    del content["task"], content["activation"]
    card_path(saved[0]).write_text(json.dumps(content))
    assert load_card(saved[0]).task == GLIOMA.name


def test_missing_and_damaged_files_are_named(saved):
    path, _, _ = saved
    card_path(path).write_text("{")
    with pytest.raises(DataError, match=r"best\.json is not a model card"):
        load_checkpoint(path)
    card_path(path).unlink()
    with pytest.raises(DataError, match=r"best\.json does not exist"):
        load_checkpoint(path)


def test_pickles_are_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"weights": Trap()}, tmp_path / "model.pt")
    with pytest.raises(DataError, match="never opened"):
        load_checkpoint(tmp_path / "model.pt")
    assert not (tmp_path / "executed").exists()
