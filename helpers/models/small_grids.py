"""Convolutions that stay in 32 bit where bfloat16 would spoil their gradients.

On a CPU, the gradient of the weights of a bfloat16 convolution is wrong where its grid has fewer voxels along an axis than its
kernel, as at the bottom of a deep network: PyTorch 2.13 adds numbers there that nobody wrote, up to 1e34 and NaN. Clipped,
such a gradient is hardly seen in the loss. So small a grid costs next to nothing in 32 bit.
"""

from __future__ import annotations

import functools

import torch
from torch import nn


def keep_small_grids_exact(network: nn.Module) -> nn.Module:
    """Let the convolutions of a network leave autocast on a CPU where an edge of their input is at most that of their kernel.

    Weights and their names stay, and without autocast nothing changes.

    Parameters
    ----------
    network : Module
        Changed in place.

    Returns
    -------
    Module
        The same network.
    """
    for module in network.modules():
        if type(module) in (nn.Conv2d, nn.Conv3d):
            module.__class__ = _exact(type(module))
    return network


@functools.cache
def _exact(kind: type[nn.Conv2d] | type[nn.Conv3d]) -> type[nn.Module]:
    """A convolution of this kind that computes small grids in 32 bit."""

    def forward(self: nn.Module, image: torch.Tensor) -> torch.Tensor:
        small = any(edge <= kernel for edge, kernel in zip(image.shape[2:], self.kernel_size, strict=True) if kernel > 1)
        if not (small and image.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return kind.forward(self, image)
        with torch.autocast("cpu", enabled=False):
            return kind.forward(self, image.float())

    return type(f"Exact{kind.__name__}", (kind,), {"forward": forward})
