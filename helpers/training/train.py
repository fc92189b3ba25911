"""Train a network within a budget of steps or minutes, and resume after any interruption."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import pickle
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils.data import Dataset

from brats_cohort.files import DataError
from helpers.data.patches import training_transforms
from helpers.data.prepared import PreparedFile
from helpers.models.checkpoints import ModelCard, card_path, load_card, load_pretrained
from helpers.models.networks import build_network
from helpers.training import Interrupted
from helpers.training.callbacks import EMA, DurableIO, History, ResumableCheckpoint, StepTimer
from helpers.training.data import CaseDataModule, CaseDataset, PatchDataset
from helpers.training.module import SCORES, SegmentationModule, identity
from helpers.training.settings import TrainSettings, choose_precision
from helpers.workspace import pick_device

CHECKPOINT = "last.ckpt"
"""Name of the file that an interrupted training resumes from."""

PROJECT = "brain-tumour-segmentation"
"""Name under which Weights & Biases and MLflow list the runs."""


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves: weights of the best step, and the table that ``history.csv`` holds, one row a step.

    `best_dice` is the mean validation Dice at `best_step`; it chose the checkpoint and so flatters it. `seconds` include the
    validations. `again` says that the training had been finished before.
    """

    checkpoint: Path
    history: pd.DataFrame
    best_step: int
    best_dice: float
    seconds: float
    again: bool = False

    @property
    def steps(self) -> int:
        """Number of steps made."""
        return len(self.history)


def train(
    settings: TrainSettings,
    training: Sequence[Path] | Dataset,
    validation: Sequence[Path],
    *,
    out: Path,
    checkpoints: Path | None = None,
    split_hash: str = "",
    resume: str = "never",
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """Train a network and keep the weights with the best mean validation Dice.

    Under ``torchrun`` each process calls this alike; the first one alone writes.

    Parameters
    ----------
    settings : TrainSettings
    training : sequence of Path, or Dataset
        Prepared files with labels, or at least ``batch * steps`` patches that are made on the spot: each a pure function of its
        number, with attributes ``fingerprint`` (changes whenever a patch does) and ``preprocessing``, such as
        `PhantomStream`.
    validation : sequence of Path
        Prepared files with labels.
    out, checkpoints : Path
        Folders for ``best.safetensors``, ``best.json``, ``history.csv`` and TensorBoard's curves, and for ``last.ckpt``
        (``<out>/checkpoints`` if left out).
    split_hash : str
        SHA-256 of the split manifest, for the model card.
    resume : str
        "never" starts afresh and replaces what is there; "auto" resumes if there is a checkpoint. The end is the same as
        without the interruption: to the bit on a CPU with the same number of threads, apart from rounding on a GPU or with
        another number of processes.
    callbacks : sequence of Callback
        Of Lightning, such as those that print and draw.

    Raises
    ------
    DataError
        If the parts do not fit together, the checkpoint or the weights in the folder are of another training, another process
        trains in it, or a number is not finite.
    Interrupted
        After SIGTERM or Ctrl-C; the same call then resumes.
    """
    out, folder = Path(out), Path(checkpoints or Path(out) / "checkpoints")
    patches = _patches(settings, training)
    card = model_card(settings, patches, validation, split_hash)
    options = {"accelerator": pick_device(settings.device), "precision": choose_precision(settings)}
    gpus = [torch.cuda.current_device()] if options["accelerator"] == "cuda" else []
    with _locked(folder), _quiet(), torch.random.fork_rng(gpus):  # the caller's random state stays as it was
        torch.manual_seed(settings.seed)
        state = _read_checkpoint(folder / CHECKPOINT, identity(settings, card)) if resume == "auto" else {}
        if resume == "auto" and not state:
            _refuse_other_weights(out / "best.safetensors", identity(settings, card))
        timer = StepTimer(timedelta(minutes=settings.minutes) if settings.minutes else None, verbose=False)
        history, last = History(out), ResumableCheckpoint(folder / CHECKPOINT, settings.save_every)
        network = initial_network(replace(settings, pretrained="") if state else settings)
        module = SegmentationModule(network, settings, card, timer)
        if state and state["callbacks"]["ResumableCheckpoint"]["finished"]:
            history.load_state_dict(state["callbacks"]["History"])
            if not _rank():
                history.write(module)
            return replace(_result(history), again=True)
        every: list[Callback] = [timer, history, *callbacks, last]
        every += [EMA(settings.ema)] if settings.ema else []
        every += [EarlyStopping(SCORES[-1], patience=settings.patience, mode="max")] if settings.patience else []
        loggers = _loggers(settings.logger, out, first=state.get("global_step", 0))
        trainer = _trainer(settings, callbacks=every, logger=loggers, default_root_dir=out, **options)
        data = CaseDataModule(patches, CaseDataset(validation), settings)
        if not state:  # the last thing before the first step: until then an error leaves the folder as it was
            _remove_own_files(out, folder)
        stopped = False
        try:
            trainer.fit(module, datamodule=data, ckpt_path=folder / CHECKPOINT if state else None, weights_only=True)
        except SIGTERMException:
            stopped = True
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning ends the process at a Ctrl-C that does not wait
                raise KeyboardInterrupt from None
            raise
        finally:
            if settings.logger == "wandb" and trainer.is_global_zero:
                loggers[-1].experiment.finish()  # else the next training would continue its run
        if stopped or last.asked:  # also at the end of the last validation: no other fold or trial may begin
            text = f"stopped after step {trainer.global_step} as told; the same command resumes from {folder / CHECKPOINT}"
            raise Interrupted(text, last.asked)
    return _result(history)


def initial_network(settings: TrainSettings) -> nn.Module:
    """Build the network that a training starts from, with its pretrained weights; errors as in the two functions called."""
    network = build_network(settings.network, **settings.arguments)
    if settings.pretrained:
        load_pretrained(network, Path(settings.pretrained))
    return network


def _trainer(settings: TrainSettings, **options: Any) -> Trainer:
    """Return a trainer whose only epoch is the whole training.

    Validations are counted in batches over the whole training; the environment is that of torchrun or of one process, since
    Slurm's variables are also set in an interactive job.
    """
    world, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    together = TorchElasticEnvironment.detect()
    return Trainer(
        devices=local if together else 1,
        num_nodes=world // local if together else 1,
        strategy="ddp" if together and world > 1 else "auto",
        use_distributed_sampler=False,
        max_epochs=1,
        max_steps=settings.steps,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip,
        val_check_interval=settings.validate_every * settings.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        plugins=[DurableIO(), TorchElasticEnvironment() if together else LightningEnvironment()],
        **options,
    )


def _loggers(name: str, out: Path, *, first: int) -> list[Logger]:
    """Return TensorBoard's logger, which hides what was logged after step `first`, and the one called `name`.

    Neither needs an account: without WANDB_MODE, WANDB_API_KEY or MLFLOW_TRACKING_URI all stays in `out`.
    """
    if _rank() == 0:
        out.mkdir(parents=True, exist_ok=True)
    options = {"name": "", "version": "tensorboard", "default_hp_metric": False}
    loggers: list[Logger] = [TensorBoardLogger(out, purge_step=first + 1, **options)]
    try:
        if name == "wandb":
            mode = os.environ.get("WANDB_MODE", "" if os.environ.get("WANDB_API_KEY") else "offline")
            loggers.append(WandbLogger(project=PROJECT, save_dir=out, offline=mode == "offline"))
        if name == "mlflow":
            store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(out / 'mlflow.db').absolute()}"
            loggers.append(MLFlowLogger(PROJECT, tracking_uri=store, artifact_location=(out / "mlflow").absolute().as_uri()))
    except ModuleNotFoundError as error:
        raise DataError(f"logger {name} needs a package that is not installed", f"pip install {name}") from error
    return loggers


def _patches(settings: TrainSettings, training: Sequence[Path] | Dataset) -> Dataset:
    count = settings.batch * settings.steps
    if not isinstance(training, Dataset):
        options = {"seed": settings.seed, "foreground_probability": settings.foreground_probability}
        transforms = training_transforms(settings.patch) if settings.augment else None
        return PatchDataset(training, patch=settings.patch, count=count, transforms=transforms, **options)
    if len(training) < count:
        remedy = f"{settings.steps} steps of {settings.batch} take {count}; make as many"
        raise DataError(f"the source has {len(training)} patches", remedy)
    return training


def model_card(settings: TrainSettings, patches: Dataset, validation: Sequence[Path], split_hash: str) -> ModelCard:
    """Return the model card before the first step, after a look at what the cases were prepared with."""
    if not validation:
        raise DataError("the validation part has no prepared case", "look at the faults that preprocessing listed")
    own = getattr(patches, "files", [])
    files = [*own, *map(PreparedFile, validation)]
    if len({file.identifier for file in files}) < len(files):
        raise DataError("a case is in both the training and the validation part", "make the split again")
    wanted = asdict(files[0].settings)
    for file in files:
        file.need_classes()
        if asdict(file.settings) != wanted:
            raise DataError(f"{file.path} was prepared with other settings than {files[0].path}", "prepare the cohort again")
    if not own and {**wanted, **patches.preprocessing} != wanted:
        problem = f"{files[0].path} was prepared with {wanted}, the patches with {patches.preprocessing}"
        raise DataError(problem, "make them agree")
    members = [*([] if own else [patches.fingerprint]), *sorted(file.path.name for file in files)]  # names carry a hash
    return ModelCard(
        network=settings.network,
        arguments=dict(settings.arguments),
        patch=tuple(settings.patch),
        preprocessing=wanted,
        postprocessing=asdict(settings.postprocessing),
        tta_axes=(0, 1, 2) if settings.augment else (),
        cohort_hash=hashlib.sha256("\n".join(members).encode()).hexdigest(),
        split_hash=split_hash,
        training_cases=tuple(sorted(file.identifier for file in own)),
        training=asdict(settings),
    )


def _read_checkpoint(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint to resume from; empty if there is none. Raises `DataError` if it is of another training."""
    if not path.is_file():
        return {}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        found = state["hyper_parameters"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path} is not a checkpoint of a training ({error})", "remove it to start afresh") from error
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        words = {"cohort_hash": "the cases", "split_hash": "the split", "training_cases": "the training part"}
        what = "; ".join(words.get(name) or f"{name} {found.get(name)} there, {wanted[name]} here" for name in differing)
        remedy = "give the settings of then or another folder, or start afresh (train --resume never)"
        raise DataError(f"{path} is of another training ({what})", remedy)
    return state


def _refuse_other_weights(path: Path, wanted: dict[str, Any]) -> None:
    """Raise `DataError` if a folder without a checkpoint holds weights of another training, such as those of notebook 03."""
    if _rank() or not (path.is_file() and card_path(path).is_file()):
        return
    card = load_card(path)
    found = {**card.training, **{name: getattr(card, name) for name in ("cohort_hash", "split_hash", "training_cases")}}
    if json.dumps([found.get(name) for name in wanted]) != json.dumps([*wanted.values()]):
        raise DataError(f"{path} holds weights of another training", "give another folder, or replace them with --resume never")


def _remove_own_files(out: Path, folder: Path) -> None:
    """Remove what an earlier training left, and nothing else."""
    if _rank() == 0:
        curves = (out / "tensorboard").glob("events.out.tfevents.*")
        names = ("best.safetensors", "best.json", "history.csv")
        for path in (folder / CHECKPOINT, *(out / name for name in names), *curves):
            path.unlink(missing_ok=True)


def _rank() -> int:
    """Number of this process among those of torchrun."""
    return int(os.environ.get("RANK", 0)) if TorchElasticEnvironment.detect() else 0


def _result(history: History) -> TrainResult:
    best, seconds = history.best, history.rows[-1]["seconds"]
    return TrainResult(history.out / "best.safetensors", history.table, best["step"], best["dice_mean"], seconds)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder of a training; the system drops the lock when the process dies."""
    if _rank():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "training.lock").open("a") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not inherited by workers that outlive it
        except (BlockingIOError, PermissionError):
            raise DataError(f"another process is training in {folder}", "wait for its end, or take another folder") from None
        for half in folder.glob(f".*-{CHECKPOINT}"):  # written when the process was killed
            half.unlink()
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back Lightning's tips and its warnings about choices that are made on purpose here."""
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message="Grad strides do not match")  # of 1x1x1 convolutions, channels last
        yield
