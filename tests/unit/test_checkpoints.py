"""Weights and model card: what is written comes back, and what does not belong together is refused."""

import json
from dataclasses import replace

import pytest
import torch

from brats_cohort.files import DataError
from helpers.models.checkpoints import (
    ModelCard,
    card_path,
    load_card,
    load_checkpoint,
    save_checkpoint,
)
from helpers.models.networks import build_network

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
    assert (card.weights_sha256, card.spacing, card.patch) == (digest, (2.0, 2.0, 2.0), (16, 16, 16))
    assert (card.metrics, card.split_hash) == (CARD.metrics, "abc")
    assert {"torch", "monai", "python"} <= set(card.versions)
    assert sorted(file.name for file in path.parent.iterdir()) == ["best.json", "best.safetensors"]


def test_a_card_says_what_the_weights_were_trained_on(saved, tmp_path):
    path, network, _ = saved
    assert load_card(path).training_cases == ()
    save_checkpoint(tmp_path / "new.safetensors", network, replace(CARD, training_cases=("a", "b")))
    assert load_card(tmp_path / "new.safetensors").training_cases == ("a", "b")


def test_a_field_too_many_or_too_few_is_named(saved):
    path, content = card_path(saved[0]), json.loads(card_path(saved[0]).read_text())
    path.write_text(json.dumps({**content, "mirrors": [0]}))
    with pytest.raises(DataError, match=r"not a model card of this version.*mirrors"):
        load_card(saved[0])
    path.write_text(json.dumps({name: value for name, value in content.items() if name != "tta_axes"}))
    with pytest.raises(DataError, match=r"not a model card of this version.*tta_axes"):
        load_card(saved[0])


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
        ({"modalities": ["flair", "t1", "t1ce", "t2"]}, "orders its channels"),
        ({"regions": ["WT", "TC", "ET"]}, "orders its regions"),
        ({"activation": "softmax"}, "into probabilities by softmax"),
        ({"network": "vnet"}, "no network 'vnet'"),
        ({"patch": [0, 16, 16]}, "is not a model card of this version"),
        ({"preprocessing": {"spacing": "two"}}, "is not a model card of this version"),
        ({"arguments": {"channels": [4, 16], "num_res_units": 1}}, "does not fit unet"),
    ],
)
def test_cards_that_say_something_else_are_refused(saved, changes, words):
    rewrite_card(saved[0], **changes)
    with pytest.raises(DataError, match=words):
        load_checkpoint(saved[0])


def test_models_of_anything_else_than_glioma_are_refused(saved):
    with pytest.raises(DataError, match=r"the channels \['flair'\], not .*t1.* give one for glioma"):
        save_checkpoint(saved[0], saved[1], replace(CARD, modalities=("flair",)))
    rewrite_card(saved[0], regions=["background", "liver", "spleen"])
    with pytest.raises(DataError, match=r"the regions .*liver"):
        load_checkpoint(saved[0])
    rewrite_card(saved[0], regions=list(CARD.regions), arguments={**ARGUMENTS, "out_channels": 14})
    with pytest.raises(DataError, match=r"'out_channels': 14.* give one for glioma"):
        load_checkpoint(saved[0])


def test_missing_and_damaged_files_are_named(saved):
    path, _, _ = saved
    card_path(path).write_text("{")
    with pytest.raises(DataError, match=r"best\.json is not a model card"):
        load_checkpoint(path)
    card_path(path).write_text("{}", encoding="utf-16")
    with pytest.raises(DataError, match=r"best\.json is not a model card of this version \(UnicodeDecodeError: '.{10,80}\);"):
        load_checkpoint(path)
    card_path(path).unlink()
    with pytest.raises(DataError, match=r"best\.json does not exist"):
        load_checkpoint(path)
    with pytest.raises(DataError, match=r"is a folder; give a \.safetensors file in it"):
        load_checkpoint(path.parent)


def test_pickles_are_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"weights": Trap()}, tmp_path / "model.pt")
    with pytest.raises(DataError, match="never opened"):
        load_checkpoint(tmp_path / "model.pt")
    assert not (tmp_path / "executed").exists()
