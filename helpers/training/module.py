"""The Lightning module: one training step, one validation case, the optimiser and its schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import lightning
import numpy as np
import torch
from torch import nn

from helpers.evaluation.cleanup import CleanUp
from helpers.evaluation.inference import label_map, predict_image
from helpers.evaluation.metrics import dice
from helpers.regions import REGIONS, classes_to_regions
from helpers.training.loss import segmentation_loss

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

    Logs ``train_loss`` at every step, and after every validation ``dice_TC``, ``dice_WT``, ``dice_ET`` and their mean
    ``dice_mean``: means over the validation cases of the Dice on the prepared grid, with the rule for empty regions of
    `helpers.evaluation.metrics`, after the same steps as in prediction.

    Parameters
    ----------
    network : Module
        From image (B, 4, X, Y, Z) to logits (B, 3, X, Y, Z).
    patch : sequence of 3 int
        Edges of the training patches; the least window of validation.
    multiple : int
        As `helpers.models.networks.input_multiple`.
    spacing : sequence of 3 float
        Voxel edges of the prepared grid in mm.
    cleanup : CleanUp
        What predicted label maps are treated with before they are scored.
    steps : int
        Optimiser steps in all.
    learning_rate : float
        The highest.
    weight_decay : float
        Of AdamW (Loshchilov and Hutter 2019).
    warmup : float
        Share of the training during which the learning rate rises.
    loss : str
        Key of `helpers.training.loss.LOSSES`.
    minutes : float, optional
        Time limit. The schedule follows whichever of steps and time is further, so that it ends low either way.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        patch: Sequence[int],
        multiple: int,
        spacing: Sequence[float],
        cleanup: CleanUp,
        steps: int,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-5,
        warmup: float = 0.05,
        loss: str = "dice+bce",
        minutes: float | None = None,
    ) -> None:
        super().__init__()
        self.network, self.loss = network, segmentation_loss(loss)
        self.patch, self.multiple = tuple(patch), multiple
        self.spacing, self.cleanup = tuple(spacing), cleanup
        self.steps, self.minutes = steps, minutes
        self.learning_rate, self.weight_decay, self.warmup = learning_rate, weight_decay, warmup
        self.started: float | None = None
        self._scores: list[list[float]] = []

    @property
    def progress(self) -> float:
        """How much of the training is done, 0 to 1, by steps or by the clock, whichever is further."""
        by_steps = self.global_step / self.steps
        if self.minutes is None or self.started is None:
            return min(by_steps, 1.0)
        return min(max(by_steps, (time.perf_counter() - self.started) / 60 / self.minutes), 1.0)

    def on_fit_start(self) -> None:
        self.started = time.perf_counter()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image.contiguous(memory_format=torch.channels_last_3d))

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        loss = self.loss(self(batch["image"]), batch["regions"])
        self.log("train_loss", loss.detach(), batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], index: int) -> None:
        probabilities = predict_image(self.network, batch["image"], patch=self.patch, multiple=self.multiple)
        predicted = classes_to_regions(label_map(probabilities.numpy(), self.spacing, self.cleanup))
        reference = classes_to_regions(batch["classes"].cpu().numpy())
        self._scores.append([dice(mask, truth) for mask, truth in zip(predicted, reference, strict=True)])

    def on_validation_epoch_end(self) -> None:
        means = np.mean(self._scores, axis=0)
        self._scores.clear()
        self.log_dict({f"dice_{region}": float(value) for region, value in zip(REGIONS, means, strict=True)})
        self.log("dice_mean", float(means.mean()))

    def configure_optimizers(self) -> dict:
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda _: learning_rate_share(self.progress, self.warmup))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
