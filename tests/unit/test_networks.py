"""Networks by name: shapes, arguments, sizes."""

import pytest
import torch

from helpers.data.files import DataError
from helpers.models.networks import NETWORKS, build_network, check_patch, describe_network, input_multiple

SMALL = {"unet": {"channels": (4, 8, 16)}, "segresnet": {"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)}}


@pytest.mark.parametrize("name", NETWORKS)
def test_four_contrasts_in_three_regions_out(name):
    network = build_network(name, **SMALL.get(name, {})).eval()
    edge = input_multiple(name, **SMALL.get(name, {}))
    with torch.no_grad():
        assert network(torch.zeros(1, 4, 2 * edge, edge, edge)).shape == (1, 3, 2 * edge, edge, edge)


def test_multiple_follows_the_depth():
    assert input_multiple("unet") == 8
    assert input_multiple("unet", channels=[4, 8, 16, 32, 64]) == 16
    assert input_multiple("swin_unetr") == 32


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("vnet", {}, "unet, segresnet, swin_unetr"),
        ("unet", {"filters": 8}, "no argument filters; it takes channels"),
        ("swin_unetr", {"feature_size": 20}, "multiple of 12"),
        ("unet", {"channels": (16,)}, "unet cannot be built"),
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
    for name, patch in (("swin_unetr", (32, 32, 32)), ("unet", (8, 8, 8)), ("unet", (60, 64, 64)), ("unet", (0, 64, 64))):
        with pytest.raises(DataError, match="multiples of"):
            check_patch(patch, name)
    with pytest.raises(ValueError):  # what the rule protects from
        build_network("unet", channels=(4, 8, 16)).train()(torch.zeros(1, 4, 4, 4, 4))


def test_description_counts_what_can_be_counted_by_hand():
    class Pointwise(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = torch.nn.Conv3d(4, 3, 1)

        def forward(self, image):
            return self.mix(image)

    network = Pointwise()
    description = describe_network(network, size=(10, 20, 30))
    assert description.parameters == 4 * 3 + 3
    assert description.gflop == pytest.approx(2 * 4 * 3 * 10 * 20 * 30 / 1e9)
    assert network.mix.weight.device.type == "cpu"


def test_fused_attention_has_the_same_weights_result_and_count():
    plain = build_network("swin_unetr", use_flash_attention=False).eval()
    fused = build_network("swin_unetr", use_flash_attention=True).eval()
    fused.load_state_dict(plain.state_dict())
    image = torch.randn(1, 4, 64, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain(image), fused(image), atol=1e-4, rtol=1e-4)
    assert describe_network(plain).gflop == pytest.approx(describe_network(fused).gflop, rel=0.02)
