"""Fused window attention gives what MONAI's gives: outputs and gradients, shifted, padded, at any batch size."""

import copy

import pytest
import torch
from monai.networks.nets.swin_unetr import WindowAttention, compute_mask

from helpers.models.checkpoints import ModelCard
from helpers.models.networks import FusedWindowAttention, build_network, fuse_attention
from helpers.training.callbacks import StepTimer
from helpers.training.module import SegmentationModule
from helpers.training.settings import TrainSettings

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def backward(module, *inputs):
    module.zero_grad()
    output = module(*inputs)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return output.detach(), {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("window", [(2, 3, 4), (4, 3)], ids=["3-D", "2-D"])
def test_outputs_and_gradients_are_monais(window, shifted, batch):
    torch.manual_seed(0)
    plain = WindowAttention(12, num_heads=3, window_size=window, qkv_bias=True)
    fused = fuse_attention(copy.deepcopy(plain))
    shift = tuple(edge // 2 for edge in window)
    mask = compute_mask([2 * edge for edge in window], window, shift, "cpu") if shifted else None
    tokens = torch.randn(batch * 2 ** len(window), torch.tensor(window).prod(), 12)
    (expected, slopes), (found, found_slopes) = backward(plain, tokens, mask), backward(fused, tokens, mask)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(found_slopes, slopes, **CLOSE)
    with torch.inference_mode():
        torch.testing.assert_close(fused.eval()(tokens, mask), expected, **CLOSE)


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [({"window_size": 7, "use_v2": True}, (1, 4, 64, 96)), ({"window_size": 5}, (3, 4, 32, 64))],
    ids=["v2, padded", "batch of three"],
)
def test_a_whole_network_keeps_its_names_and_answers(arguments, shape):
    torch.manual_seed(0)
    plain = build_network("swin_unetr", spatial_dims=2, use_flash_attention=False, **arguments)
    fused = fuse_attention(copy.deepcopy(plain))
    assert list(fused.state_dict()) == list(plain.state_dict())
    assert sum(isinstance(module, FusedWindowAttention) for module in fused.modules()) == 8
    image = torch.randn(shape)
    (expected, slopes), (found, found_slopes) = backward(plain, image), backward(fused, image)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    scale = max(slope.abs().max() for slope in slopes.values())
    for name, slope in slopes.items():
        torch.testing.assert_close(found_slopes[name], slope, atol=1e-5 * float(scale), rtol=1e-3, msg=name)


def test_dropout_of_attention_weights_acts_in_training_only():
    torch.manual_seed(0)
    fused = fuse_attention(WindowAttention(12, num_heads=3, window_size=(4, 4), attn_drop=0.5))
    tokens = torch.randn(4, 16, 12)
    assert not torch.equal(fused.train()(tokens, None), fused(tokens, None))
    assert torch.equal(fused.eval()(tokens, None), fused(tokens, None))


def test_bfloat16_gives_the_same_to_its_precision():
    torch.manual_seed(0)
    plain = WindowAttention(12, num_heads=3, window_size=(4, 4, 4), qkv_bias=True)
    fused = fuse_attention(copy.deepcopy(plain))
    tokens = torch.randn(16, 64, 12)
    with torch.autocast("cpu", torch.bfloat16):
        (expected, slopes), (found, found_slopes) = backward(plain, tokens, None), backward(fused, tokens, None)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.05)
    for name, slope in slopes.items():
        torch.testing.assert_close(found_slopes[name], slope, atol=0.05 * float(slope.abs().max()) + 0.05, rtol=0.1, msg=name)


def test_a_training_takes_it_and_its_weights_keep_their_names():
    network = build_network("swin_unetr")
    names, card = list(network.state_dict()), ModelCard("swin_unetr", {}, {}, (64, 64, 64))
    module = SegmentationModule(network, TrainSettings(network="swin_unetr"), card, StepTimer())
    attentions = [each for each in module.network.modules() if isinstance(each, WindowAttention)]
    assert attentions
    assert all(isinstance(each, FusedWindowAttention) for each in attentions)
    assert list(module.network.state_dict()) == names
