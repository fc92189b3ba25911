"""What happens around the steps: averaging, validation, saving, and the end of it all."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from helpers.training.before.module import SegmentationModule
from helpers.training.before.processes import Processes
from helpers.training.before.recorder import Recorder
from helpers.training.before.settings import TrainSettings
from helpers.training.before.state import write_state
from helpers.training.before.validation import ScoredCase, Validation

NOISE = 2
"""Stream of random numbers for dropout and the like, beside those of `helpers.training.before.datamodule`."""

Picture = Callable[[Path, list[ScoredCase]], None]
Watch = Callable[[int, float], bool]


class Session(lightning.Callback):
    """Lead a training from step to step so that it can end at any of them and go on.

    Parameters
    ----------
    settings : TrainSettings
    recorder : Recorder
    validation : Validation
    path : Path
        Of the state.
    identity : mapping
        Goes into the state, see `helpers.training.before.state.identity`.
    processes : Processes
    state : mapping, optional
        To go on from; the network and the recorder have theirs already.
    picture : callable, optional
        Draws a file of a few validation cases; called whenever the best score improves.
    watch : callable, optional
        Told the step and the mean Dice after every validation; where it returns True, the training ends there.

    Attributes
    ----------
    interrupted : bool
        Whether SIGTERM ended the training; its state is then on the disk.
    """

    def __init__(
        self,
        settings: TrainSettings,
        *,
        recorder: Recorder,
        validation: Validation,
        path: Path,
        identity: dict[str, Any],
        processes: Processes,
        state: dict[str, Any] | None = None,
        picture: Picture | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.settings, self.recorder, self.validation = settings, recorder, validation
        self.path, self.identity, self.processes, self.given, self.picture = path, identity, processes, state, picture
        self.watch = watch
        self.average: AveragedModel | None = None
        self.interrupted = self.finished = self._asked = False
        self._rate = 0.0
        self._handler: Any = None
        self._bar = tqdm(disable=True)

    def on_fit_start(self, trainer: lightning.Trainer, module: SegmentationModule) -> None:
        self._began = time.perf_counter() - module.elapsed
        self._listen()
        if self.settings.averaging:
            self.average = AveragedModel(module.network, multi_avg_fn=self._mean)
        if self.given:
            trainer.optimizers[0].load_state_dict(self.given["optimiser"])
            trainer.precision_plugin.load_state_dict(self.given["scaler"])
            if self.average:
                self.average.load_state_dict(self.given["average"])
        hidden = None if self.processes.first else True  # None: shown on a terminal only
        self._bar = tqdm(total=self.settings.steps, initial=module.step, disable=hidden, unit="step", dynamic_ncols=True)
        if self.given and not self.given["validated"]:
            self._conclude(trainer, module)

    def on_train_start(self, trainer: lightning.Trainer, module: SegmentationModule) -> None:
        self._listen()  # Lightning has just put its own handler in the place, which would end the process in the next step

    def on_train_batch_start(self, trainer, module: SegmentationModule, batch, batch_idx: int) -> None:
        part = module.first * self.settings.accumulate + batch_idx
        seed = np.random.SeedSequence((self.settings.seed, NOISE, part, self.processes.rank)).generate_state(1)
        torch.manual_seed(int(seed[0]))  # dropout of a step does not depend on the steps before
        self._rate = module.set_learning_rate()

    def on_train_batch_end(self, trainer, module: SegmentationModule, outputs, batch, batch_idx: int) -> None:
        if (batch_idx + 1) % self.settings.accumulate:
            return
        self._agree(module)
        row = {"step": module.step, "seconds": module.elapsed, "learning_rate": self._rate, "train_loss": module.step_loss}
        self.recorder.add(row)
        if self.average:
            self.average.update_parameters(module.network)
        self._bar.update()
        self._bar.set_postfix(loss=f"{module.step_loss:.3f}", refresh=False)
        if module.step % self.settings.validate_every == 0 or module.progress >= 1:
            self._conclude(trainer, module)
        elif self.interrupted or module.step % self.settings.save_every == 0:
            self._save(trainer, module, validated=True)
        trainer.should_stop |= self.interrupted

    def close(self) -> None:
        """Give the signal and the terminal back."""
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
        self._bar.close()

    def _conclude(self, trainer: lightning.Trainer, module: SegmentationModule) -> None:
        """Validate, keep what is best, and decide whether this is the end; or save for later if there is no time for it."""
        self._agree(module)
        began = time.perf_counter()
        results = None if self.interrupted else self._validate(module)
        if results is None:
            self._save(trainer, module, validated=False)
            trainer.should_stop = True
            return
        scores, shown = results
        improved = self.recorder.validated(scores, self._scored(module))
        self.recorder.validation_seconds += time.perf_counter() - began
        patient = not self.settings.patience or self.recorder.validations_since_best < self.settings.patience
        ended = bool(self.processes.first and self.watch and self.watch(module.step, scores["dice_mean"]))
        self._agree(module)
        self.finished = module.progress >= 1 or not patient or bool(self.processes.largest([ended])[0])
        self._save(trainer, module, validated=True)
        self.recorder.publish()
        if improved and self.picture and self.processes.first:
            self.picture(self.recorder.out / "validation.png", shown)
        best = self.recorder.best["dice_mean"]
        self._bar.set_postfix(loss=f"{module.step_loss:.3f}", dice=f"{scores['dice_mean']:.3f}", best=f"{best:.3f}")
        trainer.should_stop |= self.finished or self.interrupted

    def _validate(self, module: SegmentationModule) -> tuple[dict[str, float], list[ScoredCase]] | None:
        network = self._scored(module)
        network.eval()
        results = self.validation.run(network, lambda: self._agree(module))
        module.network.train()
        return results

    def _scored(self, module: SegmentationModule) -> torch.nn.Module:
        """The network that is validated and kept: the averaged one where weights are averaged."""
        return self.average.module if self.average else module.network

    def _save(self, trainer: lightning.Trainer, module: SegmentationModule, *, validated: bool) -> None:
        if not self.recorder.writes:
            return
        content = {
            "identity": self.identity,
            "step": module.step,
            "elapsed": module.elapsed,
            "validated": validated,
            "finished": self.finished,
            "network": module.network.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimiser": trainer.optimizers[0].state_dict(),
            "scaler": trainer.precision_plugin.state_dict(),
            "recorder": self.recorder.state(),
        }
        write_state(self.path, content)

    def _agree(self, module: SegmentationModule) -> bool:
        """Let all processes know of a signal to any of them, and of one time; returns whether the training is to end."""
        asked, elapsed = self.processes.largest([self._asked, time.perf_counter() - self._began])
        self.interrupted, module.elapsed = bool(asked), elapsed
        return self.interrupted

    def _listen(self) -> None:
        """Take note of SIGTERM instead of dying of it."""
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, self._on_signal)
            self._handler = before if self._handler is None else self._handler

    def _on_signal(self, number: int, frame: Any) -> None:
        self._asked = True

    def _mean(self, averaged: list[torch.Tensor], current: list[torch.Tensor], count: torch.Tensor | int) -> None:
        """Exponential moving average whose memory grows up to the decay that was asked for, so that it starts well."""
        decay = min(self.settings.averaging, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(decay)(averaged, current, count)
