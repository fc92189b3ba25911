"""The Lightning module: a training step, a validation case, the optimiser with its schedule, clipping."""

from __future__ import annotations

import math

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Timer
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from brats_cohort.files import DataError
from brats_cohort.regions import REGIONS, classes_to_regions
from helpers.evaluation.metrics import dice
from helpers.evaluation.predict import segment_prepared
from helpers.models.checkpoints import ModelCard
from helpers.models.networks import channels_last
from helpers.training.loss import RegionLoss
from helpers.training.settings import TrainSettings

START, END = 0.1, 0.01
"""Learning rate at the first and at the last step, as shares of the highest. Neither is 0: such a step would be wasted."""

NOISE = 2
"""Stream of random numbers for dropout, beside those of `helpers.training.data`."""

SCORES: tuple[str, ...] = (*(f"dice_{region}" for region in REGIONS), "dice_mean")
"""What a validation measures; the last one chooses the weights that are kept."""


class NonFiniteError(DataError):
    """A loss, gradient or weight is infinite or not a number; the message names the first one and the step."""


def learning_rate_share(progress: float, warmup: float) -> float:
    """Return the share of the highest learning rate after `progress` (0 to 1) of the training.

    It rises in a straight line from `START` to 1 during the share `warmup`, then falls to `END` along half a cosine
    (Loshchilov and Hutter 2017).
    """
    if progress < warmup:
        return START + (1 - START) * progress / warmup
    return END + (1 - END) * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, 1e-9))) / 2


class SegmentationModule(LightningModule):
    """Train a network from image (B, 4, X, Y, Z) to logits (B, 3, X, Y, Z), or to several of them (deep supervision).

    With a time limit the learning rate follows Lightning's `timer`. `step_loss` is the loss of the last step, the mean over its
    patches in all parts and processes, `step_rate` its learning rate.
    """

    def __init__(self, network: nn.Module, settings: TrainSettings, card: ModelCard, timer: Timer) -> None:
        super().__init__()
        self.save_hyperparameters(identity(settings, card))
        self.network, self.loss = network, RegionLoss(settings.loss)
        self.settings, self.card, self.timer = settings, card, timer
        self.step_loss, self.step_rate = torch.tensor(math.nan), math.nan
        self._losses: list[torch.Tensor] = []

    @property
    def whole_step(self) -> bool:
        """Whether the last batch completed a step of the optimiser: it was the last part of an accumulation."""
        return not self._losses

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        return self.network(channels_last(image))

    def on_train_batch_start(self, batch: dict, batch_idx: int) -> None:
        seed = np.random.SeedSequence((self.settings.seed, NOISE, batch_idx, self.global_rank)).generate_state(1)
        torch.manual_seed(int(seed[0]))  # dropout of a step does not depend on the steps before

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = self.loss(self(batch["image"]), batch["regions"])
        self._losses.append(loss.detach().float())
        return loss

    def on_train_batch_end(self, outputs: dict, batch: dict, batch_idx: int) -> None:
        if self.whole_step:
            numbers = {"train_loss": self.step_loss, "learning_rate": self.step_rate}
            self.log_dict({**numbers, "step": float(self.global_step)}, prog_bar=True)

    def on_validation_epoch_start(self) -> None:
        self._scores = torch.zeros(len(self.trainer.datamodule.cases), len(REGIONS), device=self.device)

    def validation_step(self, case: dict, batch_idx: int) -> None:
        """Score a whole case on the prepared grid."""
        if not case:
            return
        image, truth = case["image"].cpu().numpy(), case["regions"].cpu().numpy()
        classes = segment_prepared(self.network, self.card, image)
        scores = [dice(mask, expected) for mask, expected in zip(classes_to_regions(classes), truth, strict=True)]
        self._scores[case["index"]] = torch.tensor(scores)

    def on_validation_epoch_end(self) -> None:
        scores = self.trainer.strategy.reduce(self._scores, reduce_op="sum")  # every case was scored in one process
        means = dict(zip(SCORES, [*scores.mean(0), scores.mean()], strict=True))
        self.log_dict({**means, "step": float(self.global_step)}, prog_bar=True)

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: object, **__: object) -> None:
        """Clip the gradient, or stop if a number is not finite; all processes decide alike."""
        self.step_loss = self.trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean")
        self.step_rate = optimizer.param_groups[0]["lr"]
        self._losses.clear()
        norm = get_total_norm([weight.grad for weight in self.network.parameters() if weight.grad is not None])
        loss, size = torch.stack([self.step_loss, norm.float()]).tolist()  # waits for the device, once a step
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if math.isfinite(loss) and math.isfinite(size):
            clip_grads_with_norm_(self.network.parameters(), self.settings.clip, norm)
        elif not (math.isfinite(loss) and scaler and scaler.get_scale() > 1):  # else fp16 overflowed: the scaler skips the step
            culprit = non_finite(self.network, loss) or "the norm of the gradient"
            remedy = f"lower learning_rate (now {self.settings.learning_rate}), or take precision 32-true"
            raise NonFiniteError(f"step {self.global_step + 1}: {culprit} is not finite", remedy)

    def configure_optimizers(self) -> dict:
        fused = self.trainer.precision != "16-mixed"  # the scaler and clipping need the unfused one
        options = {"lr": self.settings.learning_rate, "weight_decay": self.settings.weight_decay, "fused": fused}
        optimiser = torch.optim.AdamW(self.network.parameters(), **options)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._share)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _share(self, step: int) -> float:
        """Return the share of the learning rate by steps or by the clock of the first process, whichever is further."""
        progress, minutes = step / self.settings.steps, self.settings.minutes
        if minutes:
            progress = max(progress, self.trainer.strategy.broadcast(self.timer.time_elapsed() / 60 / minutes))
        return learning_rate_share(min(progress, 1.0), self.settings.warmup)


def identity(settings: TrainSettings, card: ModelCard) -> dict:
    """Return what must be equal for a training to resume."""
    cases = {"cohort_hash": card.cohort_hash, "split_hash": card.split_hash, "training_cases": list(card.training_cases)}
    return {**settings.decisive, **cases}


def non_finite(network: nn.Module, loss: float) -> str:
    """Name the first tensor that is not finite: a weight, else the loss, else a gradient; empty if all are finite.

    The order is that of cause and effect: a bad weight spoils every loss, a bad loss every gradient.
    """
    weights = dict(network.named_parameters())
    spoilt = [f"the weight {name}" for name, weight in weights.items() if not weight.isfinite().all()]
    spoilt += [] if math.isfinite(loss) else [f"the loss ({loss})"]
    gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    spoilt += [f"the gradient of {name}" for name, gradient in gradients.items() if not gradient.isfinite().all()]
    return spoilt[0] if spoilt else ""
