"""What a training step must do at least: operations and bytes, counted without executing it, and the time that they take."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from helpers.models.networks import IMAGE, channels_last
from helpers.profiling.machine import Machine


@dataclass(frozen=True)
class Budget:
    """What one training step of a network computes and moves.

    Attributes
    ----------
    parameters : int
        That are trained.
    forward_gflop, backward_gflop : float
        10^9 operations; a multiplication and an addition count as two.
    gbytes : float
        10^9 bytes that all operations of both passes together read and write in 32 bits, if each goes to memory by itself.
    """

    parameters: int
    forward_gflop: float
    backward_gflop: float
    gbytes: float

    @property
    def gflop(self) -> float:
        """Operations of both passes, 10^9."""
        return self.forward_gflop + self.backward_gflop

    @property
    def intensity(self) -> float:
        """Operations a byte: how much is computed with what was fetched."""
        return self.gflop / self.gbytes

    def floor(self, machine: Machine, number_format: str = "fp32") -> float:
        """Seconds below which no step can be on this machine: its operations at the measured peak."""
        return self.gflop / machine.gflops[number_format]

    def utilisation(self, seconds: float, machine: Machine, number_format: str = "fp32") -> float:
        """Model FLOP utilisation (Chowdhery et al. 2022): share of the measured peak that a step of `seconds` reaches."""
        return self.floor(machine, number_format) / seconds


def training_budget(network: nn.Module, size: Sequence[int], *, batch: int = 1, in_channels: int = IMAGE) -> Budget:
    """Count a training step without executing it, on tensors without data.

    Parameters
    ----------
    network : Module
    size : sequence of 2 or 3 int
        Edges of a patch in voxels.
    batch : int
        Patches a step.
    in_channels : int
        Channels of the input.
    """
    shadow = copy.deepcopy(network).to("meta").train()
    image = channels_last(torch.empty(batch, in_channels, *size, device="meta"))
    with _ByteCounter() as counted:
        with FlopCounterMode(display=False) as forward:
            outputs = shadow(image)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        with FlopCounterMode(display=False) as backward:
            torch.stack([output.sum() for output in outputs]).sum().backward()
    parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    flops = (forward.get_total_flops() / 1e9, backward.get_total_flops() / 1e9)
    return Budget(parameters, *flops, counted.bytes / 1e9)


def roofline(intensity: float, machine: Machine, number_format: str = "fp32") -> float:
    """Most 10^9 operations a second at this many operations a byte (Williams et al. 2009): the lower of the two roofs."""
    return min(machine.gflops[number_format], intensity * machine.copy_gbs)


class _ByteCounter(TorchDispatchMode):
    """Adds up the sizes of what every operation takes and gives; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            tensors = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs, result)) if torch.is_tensor(leaf)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result
