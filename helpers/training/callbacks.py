"""What happens around the steps: the history, the best checkpoint and the end of the budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lightning
import pandas as pd
import torch

from helpers.models.checkpoints import ModelCard, save_checkpoint
from helpers.regions import REGIONS

DICE_COLUMNS = (*(f"dice_{region}" for region in REGIONS), "dice_mean")
COLUMNS = ("step", "seconds", "learning_rate", "train_loss", *DICE_COLUMNS)
"""Columns of a history. Dice is NaN at steps without validation."""


class Recorder(lightning.Callback):
    """Keep one row for every optimiser step, and the weights with the best mean validation Dice.

    Parameters
    ----------
    folder : Path
        Gets ``best.safetensors`` with its card, and ``history.csv``, both brought up to date at every validation.
    card : ModelCard
        Of the network in training, without metrics.
    report : callable, optional
        Called with one line of text after every validation.
    """

    def __init__(self, folder: Path, card: ModelCard, *, report: Callable[[str], None] | None = None) -> None:
        self.folder, self.card, self.report = Path(folder), card, report
        self.rows: list[dict] = []
        self.best: dict | None = None
        self.validation_seconds = 0.0
        self._validated = 0
        self._started = self._validation_started = self._rate = 0.0

    @property
    def checkpoint(self) -> Path:
        """Weights of the best step."""
        return self.folder / "best.safetensors"

    @property
    def history(self) -> pd.DataFrame:
        """One row a step with `COLUMNS`."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS))

    def on_train_start(self, trainer, module) -> None:
        self._started = time.perf_counter()

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]  # after the step it is already that of the next one

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        row = {"step": trainer.global_step, "seconds": time.perf_counter() - self._started, "learning_rate": self._rate}
        self.rows.append({**row, "train_loss": outputs["loss"].detach()})

    def on_validation_start(self, trainer, module) -> None:
        self._validation_started = time.perf_counter()
        for row in self.rows[self._validated :]:  # reading a loss waits for the GPU, so not at every step
            row["train_loss"] = float(row["train_loss"])

    def on_validation_end(self, trainer, module) -> None:
        scores = {name: float(trainer.callback_metrics[name]) for name in DICE_COLUMNS}
        row = self.rows[-1]
        row.update(scores)
        if self.best is None or scores["dice_mean"] > self.best["dice_mean"]:
            self.best = row
            metrics = {"step": row["step"], **{name: round(value, 6) for name, value in scores.items()}}
            save_checkpoint(self.checkpoint, module.network, replace(self.card, metrics=metrics))
        self.history.to_csv(self.folder / "history.csv", index=False)
        if self.report:
            self.report(self._line(module.steps))
        self._validated = len(self.rows)
        self.validation_seconds += time.perf_counter() - self._validation_started

    def _line(self, steps: int) -> str:
        recent = self.rows[self._validated :]
        loss = sum(row["train_loss"] for row in recent) / len(recent)
        row = recent[-1]
        dice = "  ".join(f"{name.removeprefix('dice_')} {row[name]:.3f}" for name in DICE_COLUMNS)
        best = "  best so far" if row is self.best else ""
        return f"step {row['step']:>5} of {steps}  {row['seconds']:5.0f} s  train loss {loss:.3f}  validation Dice {dice}{best}"


class Budget(lightning.Callback):
    """Stop after the last step or when the time is up, always with a validation as the last act."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        stop = torch.tensor(module.progress >= 1.0, device=module.device)
        trainer.should_stop = bool(trainer.strategy.reduce(stop.float(), reduce_op="max"))
