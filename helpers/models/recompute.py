"""Gradient checkpointing: blocks of a network compute their forward pass twice rather than keep its results."""

from __future__ import annotations

import functools

import torch
from monai.networks.blocks import UnetBasicBlock, UnetResBlock
from monai.networks.blocks.convolutions import ResidualUnit
from monai.networks.blocks.segresnet_block import ResBlock
from monai.networks.nets.swin_unetr import SwinTransformerBlock
from torch import nn
from torch.utils.checkpoint import checkpoint

from helpers.data.files import DataError

BLOCKS: tuple[type[nn.Module], ...] = (ResidualUnit, ResBlock, UnetBasicBlock, UnetResBlock, SwinTransformerBlock)
"""Blocks of several layers, of which nothing but the input is kept until the backward pass."""


def recompute_blocks(network: nn.Module) -> nn.Module:
    """Let every block of a network give up its intermediate results after the forward pass (Chen et al. 2016).

    The backward pass computes them again, one block at a time: less memory for about one more forward pass. Outputs,
    gradients, weights and their names stay, and prediction is not touched.

    Parameters
    ----------
    network : Module
        Changed in place.

    Returns
    -------
    Module
        The same network.

    Raises
    ------
    DataError
        If it has none of the `BLOCKS`.
    """
    found = [module for module in network.modules() if isinstance(module, BLOCKS)]
    if not found:
        raise DataError(f"{type(network).__name__} has no block that could be computed twice; train it without checkpointing")
    for module in found:
        module.__class__ = _recomputing(type(module))
    return network


def has_blocks(network: nn.Module) -> bool:
    """Whether `recompute_blocks` finds anything in this network."""
    return any(isinstance(module, BLOCKS) for module in network.modules())


@functools.cache
def _recomputing(kind: type[nn.Module]) -> type[nn.Module]:
    """A block of this kind that keeps its input only."""

    def forward(self: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return kind.forward(self, *inputs)
        return checkpoint(functools.partial(kind.forward, self), *inputs, use_reentrant=False)

    return type(f"Recomputed{kind.__name__}", (kind,), {"forward": forward})
