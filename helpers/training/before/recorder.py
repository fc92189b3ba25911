"""What a training leaves: the history, the best weights with their card, lines of text and the loggers' curves."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from lightning.pytorch.loggers import Logger
from torch import nn

from helpers.models.checkpoints import ModelCard, card_path, save_checkpoint
from helpers.models.networks import scored_regions
from helpers.training.before.state import write_durably
from helpers.training.before.validation import dice_columns
from helpers.workspace import DataError

COLUMNS = ("step", "seconds", "learning_rate", "train_loss")
"""First columns of a history; then come those of `dice_columns`, of the validation part, NaN at steps without validation."""


class Recorder:
    """Keep one row for every optimiser step, and the weights with the best mean validation Dice.

    The best weights are first written beside the state, under a name with their step, and copied to `out` only when the
    state says so: whenever the training is killed, the state and the best weights that it names are both there.

    Parameters
    ----------
    out : Path
        Gets ``best.safetensors`` with its card, and ``history.csv``, both brought up to date at every validation.
    checkpoints : Path
        Folder of the state.
    card : ModelCard
        Of the network in training, without metrics.
    loggers : sequence of Logger
        Of Lightning; they get every row.
    report : callable, optional
        Called with one line of text after every validation.
    writes : bool
        False in all processes but the first: nothing is written.
    """

    def __init__(
        self,
        out: Path,
        checkpoints: Path,
        card: ModelCard,
        *,
        loggers: Sequence[Logger] = (),
        report: Callable[[str], None] | None = None,
        writes: bool = True,
    ) -> None:
        self.regions = scored_regions(card.regions, card.activation)
        self.out, self.checkpoints, self.card = Path(out), Path(checkpoints), card
        self.loggers, self.report, self.writes = loggers, report, writes
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None
        self.validation_seconds = 0.0

    @property
    def checkpoint(self) -> Path:
        """Weights of the best step."""
        return self.out / "best.safetensors"

    @property
    def history(self) -> pd.DataFrame:
        """One row a step with `COLUMNS` and the Dice of every region."""
        return pd.DataFrame(self.rows, columns=[*COLUMNS, *dice_columns(self.regions)])

    @property
    def validations_since_best(self) -> int:
        """How many validations in a row have not been better than the best."""
        return sum("dice_mean" in row and row["step"] > self.best["step"] for row in self.rows) if self.best else 0

    def state(self) -> dict:
        """Everything kept here, as plain numbers."""
        best = self.best["step"] if self.best else 0
        return {"rows": [dict(row) for row in self.rows], "best": best, "validation_seconds": self.validation_seconds}

    def restore(self, state: dict) -> None:
        """Take over what `state` gave, and bring the files of `out` up to it."""
        self.rows, self.validation_seconds = state["rows"], state["validation_seconds"]
        self.best = next((row for row in self.rows if row["step"] == state["best"]), None)
        self.publish()

    def add(self, row: dict[str, float]) -> None:
        """Keep the row of a step."""
        self.rows.append(row)
        self._log({name: row[name] for name in ("train_loss", "learning_rate")}, row["step"])

    def validated(self, scores: dict[str, float], network: nn.Module) -> bool:
        """Add scores to the row of the last step; returns whether they are the best so far, whose weights are then kept."""
        since, row = self._last_validated(), self.rows[-1]
        row.update(scores)
        improved = self.best is None or scores["dice_mean"] > self.best["dice_mean"]
        if improved:
            self.best = row
            if self.writes:
                metrics = {"step": row["step"], **{name: round(value, 6) for name, value in scores.items()}}
                save_checkpoint(self._kept(), network, replace(self.card, metrics=metrics))
        self._log(scores, row["step"])
        if self.report:
            self.report(self._line(since))
        return improved

    def publish(self) -> None:
        """Bring ``best.safetensors``, its card and ``history.csv`` up to date, and drop weights that were best before."""
        if not self.writes:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        if self.best:
            if not self._kept().is_file():
                raise DataError(
                    f"{self._kept()} is missing, which the state beside it names", "start afresh with --resume never"
                )
            for source, target in ((self._kept(), self.checkpoint), (card_path(self._kept()), card_path(self.checkpoint))):
                write_durably(target, source.read_bytes())
            for file in self.checkpoints.glob("best-*"):
                if file.stem != self._kept().stem:
                    file.unlink()
        write_durably(self.out / "history.csv", self.history.to_csv(index=False).encode())

    def clear(self) -> None:
        """Remove what an earlier training left beside its state, and its TensorBoard curves."""
        for file in (*self.checkpoints.glob("*best-*"), *self.checkpoints.glob("*state.pt*")):
            file.unlink()
        shutil.rmtree(self.out / "tensorboard", ignore_errors=True)

    def _kept(self) -> Path:
        return self.checkpoints / f"best-{self.best['step']}.safetensors"

    def _last_validated(self) -> int:
        """Number of rows up to the last validation."""
        return max((number for number, row in enumerate(self.rows, 1) if "dice_mean" in row), default=0)

    def _log(self, numbers: dict[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics(numbers, step)

    def _line(self, since: int) -> str:
        recent = self.rows[since:]
        loss = sum(row["train_loss"] for row in recent) / len(recent)
        row, steps = recent[-1], self.card.training["steps"]
        dice = "  ".join(f"{name.removeprefix('dice_')} {row[name]:.3f}" for name in dice_columns(self.regions))
        best = "  best so far" if row is self.best else ""
        return f"step {row['step']:>5} of {steps}  {row['seconds']:5.0f} s  train loss {loss:.3f}  validation Dice {dice}{best}"
