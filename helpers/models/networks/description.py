"""How large a network is and how much it computes, counted without executing it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.models.networks.convolutional import IMAGE


@dataclass(frozen=True)
class NetworkDescription:
    """Size of a network: trainable parameters, and 10^9 operations of one forward pass over one input of `size` voxels."""

    parameters: int
    gflop: float
    size: tuple[int, ...]


def describe_network(network: nn.Module, *, size: Sequence[int] = (64, 64, 64), in_channels: int = IMAGE) -> NetworkDescription:
    """Count a network's parameters and the floating-point operations of one forward pass, without executing it.

    A multiplication and an addition count as two operations; only convolutions, matrix products and attention count
    (the rule of `torch.utils.flop_counter`).

    Parameters
    ----------
    network : Module
    size : sequence of 2 or 3 int
        Edges of the input in voxels, as many as the network has dimensions.
    in_channels : int
        Channels of the input.
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, in_channels, *size, device="meta"))
    parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return NetworkDescription(parameters, counter.get_total_flops() / 1e9, tuple(size))
