"""Seconds and memory of Swin UNETR's window attention, and of a whole training step: ``python -m benchmarks.window_attention``.

Stock MONAI, MONAI's own use_flash_attention and this package's forward have the same weights and inputs and are measured
in turns, with the largest difference of outputs and gradients from stock beside them. FlexAttention is compiled where it
can be (``--flex``).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
from monai.networks.nets.swin_unetr import WindowAttention, compute_mask
from torch import nn
from torch.nn.attention.flex_attention import flex_attention

from helpers.models.attention import fuse_attention
from helpers.models.networks import build_network, channels_last
from helpers.profiling.clock import interleave, paired_ratio
from helpers.profiling.ladder import peak_memory
from helpers.training.before.loss import segmentation_loss

HEADER = f"{'':34} {'s':>8} {'quartiles':>17} {'faster':>7} {'MiB':>7} {'output':>9} {'gradient':>9}"


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=int, default=4, help="tokens along the edge of a window")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--patch", type=int, default=64, help="voxels along the edge of a patch, a multiple of 64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--flex", action="store_true", help="compile FlexAttention too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    attention(arguments)
    whole_step(arguments)


def attention(arguments: argparse.Namespace) -> None:
    """One shifted window attention, forward and backward."""
    window, grid = (arguments.window,) * 3, (arguments.patch // 2,) * 3
    plain = WindowAttention(12, num_heads=3, window_size=window, qkv_bias=True).to(arguments.device)
    nn.init.normal_(plain.relative_position_bias_table)
    flash = copy.deepcopy(plain)
    flash.use_flash_attention = True
    modules = {"stock MONAI": plain, "MONAI use_flash_attention": flash, "this package": fuse_attention(copy.deepcopy(plain))}
    if arguments.flex:
        modules["FlexAttention, compiled"] = _flex(copy.deepcopy(plain))
    mask = compute_mask(grid, window, tuple(edge // 2 for edge in window), arguments.device)
    tokens = torch.randn(arguments.batch * mask.shape[0], arguments.window**3, 12, device=arguments.device, requires_grad=True)
    works, reasons = {}, {}
    for name, module in modules.items():
        try:
            _backward(module(tokens, mask), tokens, module)
            works[name] = lambda module=module: _backward(module(tokens, mask), tokens, module)
        except (RuntimeError, NotImplementedError, torch._dynamo.exc.TorchDynamoException) as error:
            reasons[name] = str(error).splitlines()[0]
    print(f"window attention, {tokens.shape[0]} windows of {tokens.shape[1]} tokens, shifted, forward and backward, fp32")
    _table(works, arguments)
    for name, reason in reasons.items():
        print(f"{name:34} not measured here: {reason[:80]}")
    if not arguments.flex:
        print(f"{'FlexAttention, compiled':34} not measured: ask for it with --flex")


def whole_step(arguments: argparse.Namespace) -> None:
    """Forward, loss and backward of a whole Swin UNETR."""
    stock = build_network("swin_unetr", use_flash_attention=False, window_size=arguments.window).to(arguments.device)
    last = copy.deepcopy(stock)
    stock = stock.to(memory_format=torch.contiguous_format)
    flash = build_network("swin_unetr", use_flash_attention=True, window_size=arguments.window).to(arguments.device)
    flash.load_state_dict(stock.state_dict())
    own, loss = fuse_attention(copy.deepcopy(last)), segmentation_loss()
    image = torch.randn(arguments.batch, 4, *(arguments.patch,) * 3, device=arguments.device)
    regions = (torch.rand(arguments.batch, 3, *(arguments.patch,) * 3, device=arguments.device) > 0.8).float()

    def work(network: nn.Module, *, layout: bool, bf16: bool) -> Callable[[], tuple]:
        def run() -> tuple:
            given = channels_last(image) if layout else image
            with torch.autocast(torch.device(arguments.device).type, torch.bfloat16, enabled=bf16):
                logits = network(given)
            network.zero_grad()
            loss(logits, regions).backward()
            gradients = [parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]
            return logits.detach(), torch.cat(gradients)

        return run

    works = {
        "stock MONAI": work(stock, layout=False, bf16=False),
        "MONAI use_flash_attention": work(flash, layout=True, bf16=False),
        "channels last": work(last, layout=True, bf16=False),
        "channels last, own attention": work(own, layout=True, bf16=False),
        "stock MONAI, bf16": work(stock, layout=False, bf16=True),
        "channels last, bf16": work(last, layout=True, bf16=True),
        "channels last, own attention, bf16": work(own, layout=True, bf16=True),
    }
    print(f"\nSwin UNETR, {arguments.batch} patches of {arguments.patch}³, forward, loss and backward")
    _table(works, arguments)


def _backward(output: torch.Tensor, tokens: torch.Tensor, module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Output, and gradients of tokens and weights as one vector."""
    wanted = [tokens, *module.parameters()]
    gradients = torch.autograd.grad(output.square().sum(), wanted)
    return output.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def _table(works: dict[str, Callable[[], tuple]], arguments: argparse.Namespace) -> None:
    print(HEADER)
    expected, slope = next(iter(works.values()))()
    checks = {}
    for name, work in works.items():
        found, gradient = work()
        checks[name] = [
            float((a.float() - b.float()).abs().max() / b.float().abs().max())
            for a, b in ((found, expected), (gradient, slope))
        ]
    peaks = {name: peak_memory(work, arguments.device) for name, work in works.items()}
    timings = interleave(works, rounds=arguments.rounds, device=arguments.device)
    first = next(iter(timings.values()))
    for name, timing in timings.items():
        peak = "" if peaks[name] is None else f"{peaks[name] / 2**20:.0f}"
        ratio = paired_ratio(first, timing)
        spread = f"{timing.low:.3f} to {timing.high:.3f}"
        print(
            f"{name:34} {timing.median:8.3f} {spread:>17} {ratio:6.2f}x {peak:>7} {checks[name][0]:9.1e} {checks[name][1]:9.1e}"
        )
    print("output, gradient: largest difference from the first row over its largest value")


def _flex(module: WindowAttention) -> nn.Module:
    """The same attention with bias and mask added by FlexAttention's score_mod."""
    compiled = torch.compile(flex_attention)

    def forward(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        count, length, channels = tokens.shape
        parts = module.qkv(tokens).view(count, length, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = module.relative_position_bias_table[module.relative_position_index.reshape(-1)].view(length, length, -1)
        windows = mask.shape[0]

        def score(value, image, head, query, key):
            return value + bias[query, key, head] + mask[image % windows, query, key]

        out = compiled(*parts.unbind(0), score_mod=score, scale=module.scale)
        return module.proj(out.transpose(1, 2).reshape(count, length, channels))

    module.forward = forward
    return module


if __name__ == "__main__":
    main()
