"""The Lightning module: one training step, the optimiser with its schedule, clipping and the guard."""

from __future__ import annotations

import math
from collections.abc import Callable

import lightning
import torch
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from helpers.models.attention import fuse_attention
from helpers.training.before.guard import NonFiniteError, non_finite
from helpers.training.before.loss import segmentation_loss
from helpers.training.before.processes import Processes
from helpers.training.before.settings import TrainSettings

START, END = 0.1, 0.01
"""Learning rate at the first and at the last step, as shares of the highest. Neither is 0: such a step would be wasted."""


def learning_rate_share(progress: float, warmup: float) -> float:
    """Share of the highest learning rate after `progress` (0 to 1) of the training.

    Rises in a straight line from `START` to 1 during the share `warmup`, then falls to `END` along half a cosine
    (Loshchilov and Hutter 2017).
    """
    if progress < warmup:
        return START + (1 - START) * progress / warmup
    fallen = min((progress - warmup) / (1 - warmup), 1.0) if warmup < 1 else 1.0
    return END + (1 - END) * (1 + math.cos(math.pi * fallen)) / 2


class SegmentationModule(lightning.LightningModule):
    """A network in training.

    Parameters
    ----------
    network : Module
        From image (B, 4, X, Y, Z) to logits (B, 3, X, Y, Z), or to several of them (deep supervision); of another task in its
        channels and dimensions. A Swin UNETR gets `helpers.models.attention.fuse_attention`.
    settings : TrainSettings
    activation : str
        Of the network's task, see `helpers.models.networks`.
    first : int
        Steps that were made before, by the training that this one goes on with.
    elapsed : float
        Seconds that they took.
    processes : Processes
    report : callable, optional
        Told when a step is left out.

    Attributes
    ----------
    step_loss : float
        Loss of the last step: the mean over all its patches, in all parts and processes.
    elapsed : float
        Seconds of training before the step, as all processes agree on it.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: TrainSettings,
        *,
        activation: str = "sigmoid",
        first: int = 0,
        elapsed: float = 0.0,
        processes: Processes | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        if settings.network == "swin_unetr":
            fuse_attention(network)  # the same weights and results; fewer matrices are kept for the backward pass
        self.network, self.loss = network, segmentation_loss(settings.loss, activation)
        self.settings, self.first, self.elapsed = settings, first, elapsed
        self.processes, self.report = processes or Processes(), report
        self.step_loss = math.nan
        self._losses: list[torch.Tensor] = []

    @property
    def step(self) -> int:
        """Steps made so far, also before an interruption."""
        return self.first + self.global_step

    @property
    def progress(self) -> float:
        """How much of the training is done, 0 to 1, by steps or by the clock, whichever is further."""
        by_steps = self.step / self.settings.steps
        by_clock = self.elapsed / 60 / self.settings.minutes if self.settings.minutes else 0.0
        return min(max(by_steps, by_clock), 1.0)

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        layout = torch.channels_last_3d if image.ndim == 5 else torch.channels_last
        return self.network(image.contiguous(memory_format=layout))

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        loss = self.loss(self(batch["image"]), batch["regions"])
        self._losses.append(loss.detach())  # Lightning divides what it is given by the number of parts
        return loss

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_, **__) -> None:
        """Clip the gradient, or do what the settings say if a number is not finite. Waits for the device, once a step."""
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        norm = get_total_norm(gradients)
        loss, size = torch.stack([torch.stack(self._losses).mean().float(), norm.float()]).tolist()
        self._losses.clear()
        self.step_loss = float(self.processes.total([loss])[0]) / self.processes.world
        if math.isfinite(self.step_loss) and math.isfinite(size):
            clip_grads_with_norm_(self.network.parameters(), self.settings.clip, norm)
        elif not (math.isfinite(self.step_loss) and self._scale_too_large()):
            self._leave_out(optimizer)

    def _scale_too_large(self) -> bool:
        """Whether fp16 overflowed under a loss scale that the scaler will lower by itself, leaving this step out."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return scaler is not None and scaler.get_scale() > 1

    def _leave_out(self, optimizer: torch.optim.Optimizer) -> None:
        culprit = non_finite(self.network, self.step_loss) or "the norm of the gradient"
        sentence = f"step {self.step + 1}: {culprit} is not finite"
        if self.settings.nonfinite == "stop" or culprit.startswith("the weight"):
            raise NonFiniteError(
                f"{sentence}",
                f"lower learning_rate (now {self.settings.learning_rate}), take precision 32-true, or leave out "
                "single steps with --nonfinite skip",
            )
        optimizer.zero_grad(set_to_none=True)  # without gradients the optimiser changes nothing
        if self.report:
            self.report(f"{sentence}; the step was left out")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=self.trainer.precision != "16-mixed",  # the scaler and clipping need the unfused one
        )

    def set_learning_rate(self) -> float:
        """Give the optimiser the learning rate for the progress made so far, and return it."""
        rate = self.settings.learning_rate * learning_rate_share(self.progress, self.settings.warmup)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        return rate
