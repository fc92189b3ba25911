"""Weights of other trainings: what fits is taken, what does not is named, and nothing is ever unpickled."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from brats_cohort.files import DataError
from helpers.models.checkpoints import ModelCard, load_checkpoint, load_pretrained, save_checkpoint
from helpers.models.networks import build_network

CHANNELS = {"channels": (4, 8, 16), "spatial_dims": 2}


def unet(**arguments):
    return build_network("unet", **{**CHANNELS, **arguments})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
        lambda state: {"model": {f"_orig_mod.network.{key}": value for key, value in state.items()}},
        lambda state: {"state_dict": {f"network.model.{key}": value for key, value in state.items()}},
    ],
    ids=["plain", "data parallel", "compiled", "Lightning"],
)
def test_wrapped_weights_arrive(tmp_path, wrap):
    source, target = unet(), unet()
    torch.save(wrap(source.state_dict()), tmp_path / "weights.pt")
    assert set(load_pretrained(target, tmp_path / "weights.pt")) == set(target.state_dict())
    image = torch.randn(1, 4, 16, 16)
    torch.testing.assert_close(target(image), source(image))


def test_released_weights_of_8_bits_arrive_as_numbers(tmp_path):
    source, target = unet(), unet()
    save_checkpoint(tmp_path / "best.safetensors", source, ModelCard("unet", CHANNELS, {}, (16, 16)), compact=True)
    load_pretrained(target, tmp_path / "best.safetensors")
    restored, _ = load_checkpoint(tmp_path / "best.safetensors")
    image = torch.randn(1, 4, 16, 16)
    torch.testing.assert_close(target.eval()(image), restored(image))


def as_self_supervised(encoder):
    """What ``model_swinvit.pt`` holds: the encoder's names with a prefix, timm's names in the perceptron, and heads."""
    state = {f"module.{key.replace('mlp.linear', 'mlp.fc')}": value for key, value in encoder.state_dict().items()}
    return {"state_dict": {**state, "module.rotation_head.weight": torch.zeros(4, 8)}, "optimizer": {"lr": 0.1}}


def test_a_self_supervised_encoder_of_one_channel(tmp_path):
    source = build_network("swin_unetr", spatial_dims=2, in_channels=1).swinViT
    torch.save(as_self_supervised(source), tmp_path / "model_swinvit.pt")
    target = build_network("swin_unetr", spatial_dims=2)
    taken = load_pretrained(target, tmp_path / "model_swinvit.pt")
    embedding = "swinViT.patch_embed.proj.weight"  # of four channels here, of one there
    assert {*taken, embedding} == {name for name in target.state_dict() if name.startswith("swinViT.")}
    assert all(torch.equal(target.state_dict()[name], source.state_dict()[name.removeprefix("swinViT.")]) for name in taken)


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    state = unet(channels=(8, 16, 32)).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "wide.safetensors")
    target = unet()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(DataError, match=r"wide.safetensors does not fit UNet: \d+ of its \d+ tensors match"):
        load_pretrained(target, tmp_path / "wide.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_the_card_beside_weights_that_do_not_fit_names_what_does(tmp_path):
    wide = {**CHANNELS, "channels": [8, 16, 32]}
    save_checkpoint(tmp_path / "best.safetensors", unet(**wide), ModelCard("unet", wide, {}, (16, 16)))
    with pytest.raises(DataError, match=r'its card names --network unet --arguments \'{"channels": \[8, 16, 32\]'):
        load_pretrained(unet(), tmp_path / "best.safetensors")


class Trap:
    def __reduce__(self):
        return print, ("code from a file ran",)


def test_files_that_hold_code_or_nothing_are_refused(tmp_path, capsys):
    (tmp_path / "trap.pt").write_bytes(pickle.dumps({"state_dict": Trap()}, protocol=2))
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("no weights")
    for name, content in {"other": {"epoch": 3}, "tensor": torch.zeros(3), "list": [1], "numbers": {0: torch.zeros(3)}}.items():
        torch.save(content, tmp_path / f"{name}.pt")
    for name in ("trap.pt", "empty.pt", "text.safetensors", "other.pt", "tensor.pt", "list.pt", "numbers.pt"):
        with pytest.raises(DataError, match=name):
            load_pretrained(unet(), tmp_path / name)
    with pytest.raises(DataError, match=r"absent.pt do not exist; check the path"):
        load_pretrained(unet(), tmp_path / "absent.pt")
    assert capsys.readouterr().out == ""
