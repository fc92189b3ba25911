"""Callbacks of Lightning: time limit, moving average, history with the best weights, checkpoints and text."""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, Timer, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tqdm import tqdm

from brats_cohort.files import write_atomically
from helpers.models.checkpoints import save_checkpoint
from helpers.training.module import SCORES, SegmentationModule

COLUMNS = ("step", "seconds", "learning_rate", "train_loss")
"""First columns of a history; then come `SCORES`, NaN at steps without validation."""


class StepTimer(Timer):
    """Stop the training when the time is over, but only after a whole step."""

    def on_train_batch_end(self, trainer: Trainer, module: SegmentationModule, *_: Any) -> None:
        if module.whole_step:
            super().on_train_batch_end(trainer)


class EMA(WeightAveraging):
    """Keep an exponential moving average of the weights, whose memory grows up to `decay`, and validate it in their place.

    Lightning puts the weights back before callbacks see the end of a validation; here the average stays until
    `on_validation_end`, so that the weights that were scored can be kept.
    """

    def __init__(self, decay: float) -> None:
        def average(mean: torch.Tensor, weight: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
            return torch.lerp(weight, mean, min(decay, (1 + int(count)) / (10 + int(count))))

        super().__init__(use_buffers=False, avg_fn=average)

    def on_validation_epoch_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        """Leave the average in place."""

    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        super().on_validation_epoch_end(trainer, module)


class History(Callback):
    """Write ``history.csv``, one row a step, and the weights with the best mean Dice as ``best.safetensors`` with their card.

    The checkpoint holds both, so that a training that resumes restores the two files. (`ModelCheckpoint` keeps Lightning's
    checkpoints, and `CSVLogger` deletes its file when it resumes.) Comes before `EMA` in the list of callbacks. `best` is the
    row of the best validation, empty before the first.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.rows, self.best, self._weights = Path(out), [], {}, {}

    @staticmethod
    def of(trainer: Trainer) -> History:
        """Return the history of a training."""
        return next(callback for callback in trainer.callbacks if isinstance(callback, History))

    @property
    def table(self) -> pd.DataFrame:
        """Return one row a step with `COLUMNS` and `SCORES`."""
        return pd.DataFrame(self.rows, columns=[*COLUMNS, *SCORES])

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "best": self.best, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.best, self._weights = state["rows"], state["best"], state["weights"]

    def on_fit_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        if trainer.is_global_zero and self.best:
            self.write(module)

    def on_train_batch_end(self, trainer: Trainer, module: SegmentationModule, *_: Any) -> None:
        if module.whole_step:
            row = (trainer.global_step, module.timer.time_elapsed(), module.step_rate, module.step_loss.item())
            self.rows.append(dict(zip(COLUMNS, row, strict=True)))

    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        row = self.rows[-1]
        row.update({name: trainer.callback_metrics[name].item() for name in SCORES})
        if not self.best or row["dice_mean"] > self.best["dice_mean"]:
            self.best = row
            self._weights = {name: tensor.detach().cpu().clone() for name, tensor in module.network.state_dict().items()}
        if trainer.is_global_zero:
            self.write(module)

    def write(self, module: SegmentationModule) -> None:
        """Write the table and the best weights."""
        kept = {"step": self.best["step"], **{name: round(self.best[name], 6) for name in SCORES}}
        save_checkpoint(self.out / "best.safetensors", self._weights, replace(module.card, metrics=kept))
        with write_atomically(self.out / "history.csv") as temporary:
            self.table.to_csv(temporary, index=False)


class ResumableCheckpoint(Checkpoint):
    """Save ``last.ckpt`` every few steps, around validations, and at SIGTERM or Ctrl-C, if Lightning can resume exactly.

    That is after a whole step, and if a validation follows, after it: Lightning would leave it out. (`ModelCheckpoint` saves in
    the middle of an accumulation after a restart, and with `monitor` saves the last state only on improvement; Lightning's own
    answers to SIGTERM and Ctrl-C save nothing.) `asked` is the signal that came, 0 before; a second Ctrl-C does not wait for
    the step.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every, self.finished, self.asked = Path(path), every, False, 0

    def state_dict(self) -> dict[str, Any]:
        return {"finished": self.finished}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.finished = state["finished"]

    def on_train_start(self, trainer: Trainer, module: SegmentationModule) -> None:
        if threading.current_thread() is threading.main_thread():  # Lightning puts all handlers back at the end
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    def on_train_batch_end(self, trainer: Trainer, module: SegmentationModule, *_: Any) -> None:
        if not module.whole_step:
            return
        step, interval = trainer.global_step, module.settings.validate_every
        trainer.should_stop |= step >= trainer.max_steps  # so that Lightning validates the last step
        validates = trainer.should_stop or step % interval == 0
        ahead = (step + 1) % interval == 0 or step + 1 >= trainer.max_steps  # a signal in a validation costs one step
        asked = self._asked(trainer)
        if not validates and (asked or ahead or step % self.every == 0):
            trainer.save_checkpoint(self.path)
        if asked:
            raise SIGTERMException

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._asked(trainer):
            raise SIGTERMException

    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        self.finished = trainer.should_stop
        trainer.save_checkpoint(self.path)

    def _asked(self, trainer: Trainer) -> bool:
        """Whether any process was told to stop."""
        return trainer.strategy.reduce_boolean_decision(bool(self.asked), all=False)


class DurableIO(TorchCheckpointIO):
    """Write a checkpoint so that at every moment the file is the one before or this one, also when power fails.

    Lightning writes to the temporary folder and moves the file, which may be a copy. To a file of its own, torch would write
    until the disk is full and then raise a RuntimeError.
    """

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with write_atomically(Path(path), durable=True) as temporary:
            temporary.write_bytes(content.getbuffer())


class PrintValidation(Callback):
    """Print a line after every validation; the rules of SageMaker's metrics read it."""

    def on_validation_end(self, trainer: Trainer, module: SegmentationModule) -> None:
        history = History.of(trainer)
        row, recent = history.rows[-1], pd.DataFrame(history.rows[-module.settings.validate_every :])
        dice = "  ".join(f"{name.removeprefix('dice_')} {row[name]:.3f}" for name in SCORES)
        if trainer.is_global_zero:
            tqdm.write(
                f"step {row['step']:>5} of {module.settings.steps}  {row['seconds']:5.0f} s  "
                f"train loss {recent['train_loss'].mean():.3f}  validation Dice {dice}"
                + ("  best so far" if row is history.best else "")
            )
