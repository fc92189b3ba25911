"""Networks by name: shapes, arguments, sizes."""

import json

import pytest
import torch
from monai.networks.nets import DynUNet
from torch.utils.flop_counter import FlopCounterMode

from brats_cohort.files import DataError
from helpers.models.checkpoints import ModelCard, load_checkpoint, save_checkpoint
from helpers.models.networks import (
    NETWORKS,
    build_network,
    channels_last,
    check_patch,
    input_multiple,
)
from helpers.training.loss import RegionLoss

SMALL = {
    "unet": {"channels": (4, 8, 16)},
    "segresnet": {"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)},
    "dynunet": {"filters": (4, 8, 16)},
    "swin_unetr": {},
}


def shape_for(name, spatial_dims):
    edge = input_multiple(name, **SMALL[name])
    return (2 * edge, *(edge,) * (spatial_dims - 1))


@pytest.mark.parametrize("spatial_dims", [3, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_grid_comes_back_and_every_weight_learns(name, spatial_dims):
    arguments = {**SMALL[name], "spatial_dims": spatial_dims, "in_channels": 2, "out_channels": 5}
    network, shape = build_network(name, **arguments), shape_for(name, spatial_dims)
    check_patch(shape, name, **arguments)
    image = channels_last(torch.randn(2, 2, *shape))
    loss = RegionLoss()(network.train()(image), torch.rand(2, 5, *shape) > 0.5)
    loss.backward()
    for key, parameter in network.named_parameters():
        assert not parameter.requires_grad or torch.isfinite(parameter.grad).all(), key
    with torch.no_grad():
        assert network.eval()(image).shape == (2, 5, *shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_card_rebuilds_the_network_in_any_dimension(name, tmp_path):
    arguments = {**SMALL[name], "spatial_dims": 2}
    network = build_network(name, **arguments).eval()
    card = ModelCard(
        network=name,
        arguments=arguments,
        preprocessing={"spacing": [1, 1, 1]},
        patch=shape_for(name, 2),
    )
    save_checkpoint(tmp_path / "best.safetensors", network, card)
    assert json.loads((tmp_path / "best.json").read_text())["arguments"]["spatial_dims"] == 2
    again, loaded = load_checkpoint(tmp_path / "best.safetensors")
    assert loaded.patch == shape_for(name, 2)
    image = torch.randn(1, 4, *shape_for(name, 2))
    with torch.no_grad():
        torch.testing.assert_close(again(image), network(image))


def test_multiple_follows_the_depth():
    assert input_multiple("unet") == 8
    assert input_multiple("unet", spatial_dims=2) == 16
    assert input_multiple("unet", channels=[4, 8, 16, 32, 64]) == 16
    assert input_multiple("swin_unetr") == 32
    both = [{"network": "unet", "arguments": {"channels": (4, 8)}}, {"network": "segresnet", "arguments": {}}]
    assert input_multiple("ensemble", members=both) == 8


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("vnet", {}, "unet, segresnet, dynunet, swin_unetr"),
        ("unet", {"filters": 8}, "no argument filters; it takes channels"),
        ("swin_unetr", {"feature_size": 20}, "multiple of 12"),
        ("unet", {"channels": (16,)}, "unet cannot be built"),
        ("unet", {"channels": (0, 8)}, "a layer would have no weights"),
        ("unet", {"channels": (-4, 8)}, "unet cannot be built"),
        ("dynunet", {"filters": (16, 32)}, "at least 3 levels"),
        ("unet", {"spatial_dims": 4}, "take 2 or 3"),
        ("unet", {"dropout": 2.0}, "unet cannot be built"),
    ],
)
def test_wrong_requests_are_explained(name, arguments, words):
    with pytest.raises(DataError, match=words):
        build_network(name, **arguments)


def test_same_random_state_same_weights():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_network("unet", channels=(4, 8)).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_patches_that_cannot_be_trained_on():
    check_patch((64, 32, 32), "swin_unetr")
    check_patch((64, 32), "swin_unetr", spatial_dims=2)
    for name, patch in (("swin_unetr", (32, 32, 32)), ("unet", (8, 8, 8)), ("unet", (60, 64, 64)), ("unet", (0, 64, 64))):
        with pytest.raises(DataError, match="multiples of"):
            check_patch(patch, name)
    with pytest.raises(DataError, match="patches of 64x64x64 voxels with 2 dimensions"):
        check_patch((64, 64, 64), "unet", spatial_dims=2)
    with pytest.raises(ValueError):  # what the rule protects from
        build_network("unet", channels=(4, 8, 16)).train()(torch.zeros(1, 4, 4, 4, 4))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, {"dropout": 0.5}) for name in NETWORKS],
)
def test_dropout_acts_in_training_only(name, arguments):
    torch.manual_seed(0)
    network = build_network(name, spatial_dims=2, **SMALL[name], **arguments)
    image = torch.randn(2, 4, *shape_for(name, 2))
    runs = [network.train(mode)(image) for mode in (True, True, False, False)]
    runs = [run[0] if isinstance(run, list) else run for run in runs]
    assert not torch.equal(runs[0], runs[1]) and torch.equal(runs[2], runs[3])


def test_dynunet_supervises_every_level_and_is_monais_in_full_size():
    network = build_network("dynunet", filters=(4, 8, 16, 16))
    stock = DynUNet(3, 4, 3, (3,) * 4, (1, 2, 2, 2), (2, 2, 2), filters=(4, 8, 16, 16), deep_supervision=True, deep_supr_num=2)
    missing, unexpected = network.load_state_dict(stock.state_dict(), strict=False)
    assert not missing and all(key.startswith("skip_layers.") for key in unexpected)
    image = torch.randn(1, 4, 16, 16, 16)
    with torch.no_grad():
        ours, theirs = network.train()(image), stock.train()(image)
        torch.testing.assert_close(network.eval()(image), stock.eval()(image))
    assert [level.shape[2:] for level in ours] == [(16,) * 3, (8,) * 3, (4,) * 3]
    for level, enlarged in zip(ours, theirs.unbind(1), strict=True):
        torch.testing.assert_close(torch.nn.functional.interpolate(level, 16), enlarged)


@pytest.mark.parametrize(
    ("name", "arguments", "gflop"),
    [
        ("unet", {"channels": (32, 64, 128, 256, 512)}, 97),
        ("dynunet", {"filters": (32, 64, 128, 256, 320, 320)}, 966),
    ],
)
def test_operations_of_a_published_network_agree_with_an_independent_count(name, arguments, gflop):
    network = build_network(name, **arguments).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 4, 128, 128, 128, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=0.005)


@pytest.mark.parametrize("members", [(), [{"network": "unet"}], ["unet"], [{"network": "nothing", "arguments": {}}]])
def test_an_ensemble_without_proper_members_is_refused(members):
    with pytest.raises(DataError, match=r"member|no network"):
        build_network("ensemble", members=members)
    with pytest.raises(DataError, match="one argument"):
        build_network("ensemble", members=[{"network": "unet", "arguments": {}}], channels=(4, 8))
