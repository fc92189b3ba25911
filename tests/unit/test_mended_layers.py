"""Mended layers on a CPU: results and gradients of bfloat16 are those of 32 bit, rounded, and an image alone gets the same."""

import pytest
import torch
from torch import nn

from helpers.models.networks import build_network, channels_last, mend_layers


def fill_memory():
    """Leave large numbers in the memory that is handed out next, to be found by who reads what nobody wrote."""
    for count in (10_000, 100_000, 1_000_000):
        torch.full((count,), 1e30)


def gradients(network, image, weights, *, bf16):
    network.zero_grad()
    fill_memory()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = network(image)
    fill_memory()
    (out.float() * weights).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 2, 2), (2, 4, 4), (1, 2, 2), (3, 3, 3), (6, 6, 6)])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_a_convolution_on_a_small_grid(shape, stride):
    torch.manual_seed(0)
    network = mend_layers(nn.Sequential(nn.Conv3d(16, 16, 3, stride=stride, padding=1)))
    image = torch.randn(2, 16, *shape)
    weights = torch.randn_like(network(image))
    exact, rounded = (gradients(network, image, weights, bf16=bf16) for bf16 in (False, True))
    assert (exact - rounded).norm() < 0.03 * exact.norm()


def test_gradients_of_a_swin_unetr_that_ends_in_two_voxels_along_an_edge():
    torch.manual_seed(0)
    network = build_network("swin_unetr", feature_size=12, window_size=4)
    image = torch.randn(2, 4, 64, 32, 32)
    weights = torch.randn(2, 3, 64, 32, 32) / 64**3
    exact, rounded = (gradients(network, image, weights, bf16=bf16) for bf16 in (False, True))
    assert (exact - rounded).norm() < 0.2 * exact.norm()


def test_weights_keep_their_names_and_large_grids_stay_in_bf16():
    plain = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.Conv3d(2, 2, 1))
    names = list(plain.state_dict())
    network = mend_layers(plain)
    assert list(network.state_dict()) == names
    with torch.autocast("cpu", torch.bfloat16):
        assert network[0](torch.ones(1, 1, 4, 4, 4)).dtype == torch.bfloat16
        assert network[0](torch.ones(1, 1, 3, 4, 4)).dtype == torch.float32
        assert network[1](torch.ones(1, 2, 1, 1, 1)).dtype == torch.bfloat16


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (1, "same")])
@pytest.mark.parametrize("shape", [(1, 2, 3), (9, 8, 7)])
def test_an_image_alone_in_inference_gets_what_it_gets_in_a_batch(shape, stride, padding):
    torch.manual_seed(0)
    plain = nn.Conv3d(16, 8, 3, stride=stride, padding=padding)
    image = torch.randn(2, 16, *shape)
    expected = plain(image).detach()
    network = mend_layers(nn.Sequential(plain))
    with torch.inference_mode():
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            alone = torch.cat([network(each[None].contiguous(memory_format=layout)) for each in image])
            torch.testing.assert_close(alone, expected)


@pytest.mark.parametrize("shape", [(12, 10, 8), (30, 20)])
@pytest.mark.parametrize("kind", ["instance", "affine", "group"])
def test_normalisation_of_each_channel(kind, shape):
    torch.manual_seed(0)
    instance = nn.InstanceNorm3d if len(shape) == 3 else nn.InstanceNorm2d
    plain = nn.GroupNorm(6, 6) if kind == "group" else instance(6, affine=kind == "affine")
    for parameter in plain.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    image = 3 + torch.arange(1, 4).view(3, 1, *[1] * len(shape)) * torch.randn(3, 6, *shape)
    weights = torch.randn_like(image)

    def compute(network, image):
        image = channels_last(image).requires_grad_()
        result = network(image)
        (result.float() * weights).sum().backward()
        return result.detach().float(), image.grad.float()

    expected, slope = compute(plain, image)
    network = mend_layers(nn.Sequential(plain))
    found, gradient = compute(network, image.bfloat16())
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.03)
    assert (gradient - slope).norm() < 0.02 * slope.norm()
    exact, _ = compute(network, image)
    assert torch.equal(exact, expected)


@pytest.mark.parametrize("shape", [(48, 40, 44), (3, 2, 1), (90, 70)])
def test_normalisation_in_inference_is_as_exact_as_matters(shape):
    torch.manual_seed(0)
    plain = (nn.InstanceNorm3d if len(shape) == 3 else nn.InstanceNorm2d)(6, affine=True)
    for parameter in plain.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    image = 30 + torch.arange(1, 3).view(2, 1, *[1] * len(shape)) * torch.randn(2, 6, *shape)
    expected = plain.double()(image.double()).detach().float()
    network = mend_layers(nn.Sequential(plain.float()))
    with torch.inference_mode():
        torch.testing.assert_close(network(channels_last(image)), expected, rtol=0, atol=5e-4)
