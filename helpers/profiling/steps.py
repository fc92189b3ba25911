"""One training step cut into named phases, visible to torch.profiler and, on a GPU, to Nsight Systems."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from helpers.models.networks import channels_last
from helpers.profiling.clock import synchronise
from helpers.training.before.loss import segmentation_loss

PHASES: tuple[str, ...] = ("load", "transfer", "forward", "loss", "backward", "optimizer")
"""In their order within a step."""

CLIP = 1.0
"""Largest norm of the gradient, as in `helpers.training.before.settings.TrainSettings`."""


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Mark what happens inside for torch.profiler, and where there is a GPU with an NVTX range for Nsight Systems."""
    nvtx = torch.cuda.nvtx.range(name) if torch.cuda.is_available() else contextlib.nullcontext()
    with torch.profiler.record_function(name), nvtx:
        yield


@dataclass
class TrainingStep:
    """Steps of one training: a batch from the loader, both passes, clipping, the optimiser.

    Attributes
    ----------
    network : Module
    optimiser : Optimizer
        Over its weights.
    batches : iterator of mapping
        Gives ``image`` (B, 4, X, Y, Z) and ``regions`` (B, 3, X, Y, Z).
    device : str
    bf16 : bool
        Forward pass in bfloat16 where PyTorch holds that to be safe (autocast).
    last : bool
        Images channels last in memory.
    loss : Module
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    batches: Iterator[Mapping[str, torch.Tensor]]
    device: str = "cpu"
    bf16: bool = False
    last: bool = True
    loss: nn.Module | None = None

    def __post_init__(self) -> None:
        self.loss = self.loss or segmentation_loss()

    def __call__(self) -> float:
        """Make one step and return its loss."""
        with phase("load"):
            batch = next(self.batches)
        with phase("transfer"):
            image = batch["image"].to(self.device, non_blocking=True)
            regions = batch["regions"].to(self.device, non_blocking=True)
            image = channels_last(image) if self.last else image.contiguous()
        with phase("forward"), torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
            logits = self.network(image)
        with phase("loss"):
            value = self.loss(logits, regions)
        with phase("backward"):
            value.backward()
        with phase("optimizer"):
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
        synchronise(self.device)
        return float(value.detach())
