"""Train a network from prepared cases and a split, within a budget of steps or minutes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import lightning
import pandas as pd
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from helpers.models.checkpoints import ModelCard, card_path, load_checkpoint, load_pretrained
from helpers.models.networks import GLIOMA, Task, build_network, input_multiple, scored_regions
from helpers.training.before.card import model_card
from helpers.training.before.datamodule import CaseDataModule
from helpers.training.before.interruption import Interrupted
from helpers.training.before.loggers import close_loggers, make_loggers
from helpers.training.before.module import SegmentationModule
from helpers.training.before.processes import Processes, join_processes
from helpers.training.before.recorder import Recorder
from helpers.training.before.session import Picture, Session, Watch
from helpers.training.before.settings import TrainSettings
from helpers.training.before.source import PatchSource, ValidationSource
from helpers.training.before.state import check_identity, identity, read_state
from helpers.training.before.trainer import (
    make_trainer,
    on_gpu,
    own_random_state,
    quiet,
)
from helpers.training.before.validation import PreparedCases, Validation
from helpers.workspace import DataError

STATE = "state.pt"
"""Name of the file that an interrupted training goes on from."""


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves.

    Attributes
    ----------
    checkpoint : Path
        Weights of the best step, with their card beside them.
    history : DataFrame
        One row a step: ``step``, ``seconds``, ``learning_rate``, ``train_loss``, and after a validation ``dice_TC``,
        ``dice_WT``, ``dice_ET`` (or the task's regions) and ``dice_mean``, else NaN. Also in ``history.csv``.
    steps, best_step : int
        Steps made, and the one with the best mean validation Dice.
    best_dice : float
        That Dice. It chose the checkpoint and so flatters it; the test part gives the number to report.
    seconds : float
        Whole training, validation included.
    seconds_per_step : float
        Without validation.
    """

    checkpoint: Path
    history: pd.DataFrame
    steps: int
    best_step: int
    best_dice: float
    seconds: float
    seconds_per_step: float


def train(
    settings: TrainSettings,
    training: Sequence[Path] | PatchSource,
    *,
    validation: Sequence[Path] | ValidationSource,
    out: Path,
    task: Task = GLIOMA,
    split_hash: str = "",
    transforms: Callable | None = None,
    report: Callable[[str], None] | None = None,
    resume: str | Path = "never",
    checkpoints: Path | None = None,
    picture: Picture | None = None,
    watch: Watch | None = None,
) -> TrainResult:
    """Train a network and keep the weights with the best mean validation Dice.

    Under ``torchrun`` each process calls this alike; the first one alone writes and reports.

    Parameters
    ----------
    settings : TrainSettings
    training, validation : sequence of Path
        Prepared files with labels (`helpers.data.preprocess.prepare_cohort`) of these two parts of a split. `training` may
        also be a `helpers.training.before.source.PatchSource`, and then `validation` a `ValidationSource`.
    out : Path
        Folder for ``best.safetensors``, ``best.json``, ``history.csv`` and the curves.
    task : Task
        Channels in and out; another than glioma needs both sources.
    split_hash : str
        SHA-256 of the split manifest, for the model card.
    transforms : callable, optional
        Random changes in place of `helpers.data.patches.training_transforms`.
    report : callable, optional
        Called with a line of text after every validation, such as `print`.
    resume : str or Path
        "never" starts afresh; "auto" goes on from the state in `checkpoints` where there is one; a path goes on from that
        state. The end is the same as without the interruption: to the bit on a CPU with the same number of threads, and
        apart from rounding on a GPU or in another number of processes.
    checkpoints : Path, optional
        Folder of the state; ``<out>/checkpoints`` if left out.
    picture : callable, optional
        Called with a path and a few scored cases whenever the best Dice improves, to draw them.
    watch : callable, optional
        Told the step and the mean Dice after every validation; where it returns True, the training ends there.

    Raises
    ------
    DataError
        If a part is empty, both parts share a case, a file has no label, the files were prepared with different settings,
        the state is of another training, or a number is not finite and the settings say to stop.
    Interrupted
        After SIGTERM: the state is then on the disk.
    """
    out, checkpoints = Path(out), Path(checkpoints or Path(out) / "checkpoints")
    card = model_card(settings, training, validation, split_hash, task=task)
    named = Path(resume) if str(resume) not in ("auto", "never") else checkpoints / STATE
    with join_processes(gpu=on_gpu(settings)) as processes, own_random_state(settings.seed), quiet():
        report = report if processes.first else None
        read = partial(_state, named, settings, card, needed=resume != "auto")
        state = None if resume == "never" else processes.from_first(read)
        first = state["step"] if state else 0
        loggers = make_loggers(settings.logger, out, settings=asdict(settings), first=first) if processes.first else []
        recorder = Recorder(out, checkpoints, card, loggers=loggers, report=report, writes=processes.first)
        module = _module(settings, processes, activation=task.activation, state=state, report=report)
        _begin(recorder, state, report)
        if not (state and state["finished"]):
            data = _data(settings, training, transforms, first=first, processes=processes)
            session = Session(
                settings,
                recorder=recorder,
                validation=_validation(settings, card, validation, processes),
                path=checkpoints / STATE,
                identity=identity(settings, card),
                processes=processes,
                state=state,
                picture=picture,
                watch=watch,
            )
            _fit(make_trainer(settings, out, session, processes), module, data, session)
    return _result(recorder, module)


def _state(path: Path, settings: TrainSettings, card: ModelCard, *, needed: bool) -> dict | None:
    """The state to go on from, after a look at whether it is of this training."""
    state = read_state(path)
    if state:
        check_identity(state["identity"], identity(settings, card), path)
    elif needed:
        raise DataError(f"there is no state {path} to go on from", f"give the path of a {STATE}, or --resume auto")
    return state


def _begin(recorder: Recorder, state: dict | None, report: Callable[[str], None] | None) -> None:
    if state is None:
        if recorder.writes:
            recorder.clear()
        return
    recorder.restore(state["recorder"])
    if report:
        report(f"goes on after step {state['step']}" if not state["finished"] else "this training is complete already")


def _fit(trainer: lightning.Trainer, module: SegmentationModule, data: CaseDataModule, session: Session) -> None:
    """Train; whatever happens, give the signal and the terminal back and close the loggers."""
    status = "failed"
    try:
        trainer.fit(module, datamodule=data)
        status = "success"
    except SIGTERMException:  # the signal came before the session listened to it
        session.interrupted = True
    finally:
        session.close()
        close_loggers(session.recorder.loggers, status)
    if session.interrupted and not session.finished:
        raise Interrupted(f"stopped after step {module.step} as told; the same command goes on from {session.path}")


def _result(recorder: Recorder, module: SegmentationModule) -> TrainResult:
    steps, seconds = len(recorder.rows), module.elapsed
    return TrainResult(
        checkpoint=recorder.checkpoint,
        history=recorder.history,
        steps=steps,
        best_step=recorder.best["step"],
        best_dice=recorder.best["dice_mean"],
        seconds=seconds,
        seconds_per_step=(seconds - recorder.validation_seconds) / steps,
    )


def _module(
    settings: TrainSettings,
    processes: Processes,
    *,
    activation: str,
    state: dict | None,
    report: Callable[[str], None] | None,
) -> SegmentationModule:
    network = build_network(settings.network, **settings.arguments)
    if state:
        network.load_state_dict(state["network"])
    elif settings.pretrained:
        _start_from(Path(settings.pretrained), network, settings)
    made = {"first": state["step"], "elapsed": state["elapsed"]} if state else {}
    return SegmentationModule(network, settings, activation=activation, processes=processes, report=report, **made)


def _start_from(path: Path, network: nn.Module, settings: TrainSettings) -> None:
    """Give a network the weights of a checkpoint, or of a file without a card; raises `DataError` if they do not fit."""
    if path.is_file() and not card_path(path).is_file():
        load_pretrained(network, path)
        return
    trained, card = load_checkpoint(path, glioma=False)
    try:
        network.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        own = f"{settings.network} with {dict(settings.arguments)}"
        raise DataError(
            f"{path} is a {card.network} with {dict(card.arguments)} and does not fit {own}",
            "start from weights of the same network",
        ) from error


def _data(
    settings: TrainSettings,
    training: Sequence[Path] | PatchSource,
    transforms: Callable | None,
    *,
    first: int,
    processes: Processes,
) -> CaseDataModule:
    return CaseDataModule(
        training,
        patch=settings.patch,
        batch=settings.batch,
        steps=settings.steps,
        seed=settings.seed,
        first=first,
        accumulate=settings.accumulate,
        tumour_share=settings.tumour_share,
        cache=settings.cache,
        workers=settings.workers,
        transforms=transforms,
        augment=settings.augment,
        processes=processes,
    )


def _validation(
    settings: TrainSettings, card: ModelCard, cases: Sequence[Path] | ValidationSource, processes: Processes
) -> Validation:
    if not isinstance(cases, ValidationSource):
        multiple = input_multiple(settings.network, **settings.arguments)
        cases = PreparedCases(tuple(cases), settings.patch, multiple, card.spacing, settings.cleanup)
    return Validation(cases, scored_regions(card.regions, card.activation), processes)
