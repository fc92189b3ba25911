"""``python -m helpers train``: check a cohort, split it, prepare it, train a network and report.

The same command under ``torchrun`` trains in several processes, and is what SageMaker starts: the cohort is then
SM_CHANNEL_TRAINING, and ``best.safetensors`` and ``best.json`` go to SM_MODEL_DIR itself. After SIGTERM it ends with status 75,
after Ctrl-C with status 130, its checkpoint written.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import distributed

from brats_cohort.case import Case
from brats_cohort.cases import discover
from brats_cohort.checks import check_cohort
from brats_cohort.command import Target
from brats_cohort.files import DataError
from brats_cohort.splits import FOLDS, SplitManifest, load_splits, make_splits, save_splits
from helpers.data.patches import training_transforms
from helpers.data.phantoms import PhantomStream, StreamSettings, held_out_phantoms
from helpers.data.preprocess import PreprocessSettings, prepare_cohort
from helpers.training.callbacks import PrintValidation
from helpers.training.settings import TrainSettings
from helpers.training.train import CHECKPOINT, initial_network, train
from helpers.workspace import pick_device

STREAM = "phantom-stream"
"""In place of a cohort's folder: endless new phantoms."""

SAGEMAKER_CHECKPOINTS = Path("/opt/ml/checkpoints")
"""Where SageMaker keeps up a copy in S3, if the job asks for it; the folder exists only then."""

PATIENCE = timedelta(hours=6)
"""How long processes wait for the first one, which prepares the cohort."""


@dataclass(frozen=True)
class CohortOptions:
    """Say which cases to train on.

    Attributes
    ----------
    cohort : Path
        Folder of the cohort; train also takes phantom-stream, endless new phantoms. On SageMaker SM_CHANNEL_TRAINING.
    format : str
        Dataset format of the cohort, such as brats2021, brats2023 or msd.
    labels : str
        Label numbers of the references, such as brats2023; by default those that the names of the cases tell.
    patients : Path
        CSV with the columns case and patient, if names do not tell patients apart.
    spacing : float
        Spacing in mm of the grid to train on.
    """

    cohort: Path | None = None
    format: str = "auto"
    labels: str = "auto"
    patients: Path | None = None
    spacing: float = 2.0


def run(
    *,
    source: CohortOptions,
    out: Target | None = None,
    fold: int = 0,
    held_out: int = 12,
    resume: Literal["auto", "never"] = "auto",
    settings: TrainSettings,
) -> int:
    """Train a network and say how good it is on the validation part; the same command resumes after any interruption.

    Parameters
    ----------
    source : CohortOptions
        Cases to train on.
    out : Path
        Folder for the split, prepared cases and, below models/NETWORK, the model; on SageMaker SM_MODEL_DIR, for the model
        alone.
    fold : int
        Which fold is the validation part.
    held_out : int
        Phantoms that validate a training on phantom-stream.
    resume : str
        auto resumes if there is a checkpoint; never starts afresh.
    settings : TrainSettings
        Of the training.
    """
    out = out or _from_environment("out", "SM_MODEL_DIR")
    folders = choose_folders(out, settings.network)
    begun = resume == "auto" and (folders.checkpoints / CHECKPOINT).is_file()
    check_settings(source, settings, work=folders.work, folds=(fold,), begun=begun)
    with join_processes(gpu=pick_device(settings.device) == "cuda"):
        if str(source.cohort) == STREAM:
            training, validation, split_hash = _open_stream(source.spacing, held_out, settings, folders.work)
        else:
            _, manifest, prepared = from_first(lambda: open_cohort(source, settings, work=folders.work))
            (training, validation), split_hash = parts_of(manifest, prepared, fold), manifest.sha256
            say(f"{len(training)} training and {len(validation)} validation cases; the test part stays untouched")
        options = {"out": folders.model, "checkpoints": folders.checkpoints, "split_hash": split_hash, "resume": resume}
        result = train(settings, training, validation, **options, callbacks=[PrintValidation()])
        if result.again:
            say("this training was finished already; --resume never trains anew")
        say(f"{result.steps} steps in {result.seconds:.0f} s")
        say(f"best mean validation Dice {result.best_dice:.4f} at step {result.best_step}: {result.checkpoint}")
    return 0


@dataclass(frozen=True)
class Folders:
    """Where a training writes: split and prepared cases to `work`, the model to `model`, checkpoints to `checkpoints`."""

    work: Path
    model: Path
    checkpoints: Path


def choose_folders(out: Path, network: str) -> Folders:
    """Return the folders below `out`; SageMaker's SM_MODEL_DIR, all of which is uploaded, gets the model alone."""
    if os.environ.get("SM_MODEL_DIR") != str(out):
        model = out / "models" / network
        return Folders(out, model, model / "checkpoints")
    work = Path(tempfile.gettempdir()) / "brain-tumour-segmentation"
    return Folders(work, out, SAGEMAKER_CHECKPOINTS if SAGEMAKER_CHECKPOINTS.is_dir() else work / "checkpoints")


def check_settings(source: CohortOptions, settings: TrainSettings, *, work: Path, folds: Sequence[int], begun: bool) -> None:
    """Raise `DataError` for what would only be found after the cohort was checked and prepared.

    `work` is the folder of the split; trainings of which one has `begun` may do without the pretrained weights.
    """
    PreprocessSettings(spacing=(source.spacing,) * 3)
    initial_network(replace(settings, pretrained="") if begun else settings)
    path = work / "splits.json"
    _check_folds(folds, len(load_splits(path).folds) if path.is_file() else FOLDS)


def _check_folds(folds: Sequence[int], count: int) -> None:
    for fold in folds:
        if not 0 <= fold < count:
            raise DataError(f"there is no fold {fold}", f"this split has folds 0 to {count - 1}")


def open_cohort(
    source: CohortOptions, settings: TrainSettings, *, work: Path
) -> tuple[dict[str, Case], SplitManifest, dict[str, Path]]:
    """Check a cohort, make or read its split, and prepare what is not its test part.

    Returns
    -------
    cases : dict from identifier to Case
        All usable ones, the test part included.
    manifest : SplitManifest
    prepared : dict from identifier to Path
        Prepared files of the cases outside the test part.
    """
    cohort = source.cohort or _from_environment("cohort", "SM_CHANNEL_TRAINING")
    if str(cohort) == STREAM:
        raise DataError(f"{STREAM} has no cases to split", "give the folder of a cohort; only train takes the stream")
    cases = discover(cohort, source.format, labels=source.labels, patients=source.patients)
    workers = settings.workers or None
    report = check_cohort(cases, workers=workers)
    for line in (*(f"{fault.severity}: {fault}" for fault in report.faults), *report.notes):
        print(line)
    usable, path = report.usable, work / "splits.json"
    if path.is_file():
        manifest = load_splits(path)
        _check_manifest(manifest, path, cases, usable, cohort)
    else:
        manifest = make_splits(usable, report.facts, seed=settings.seed)
        save_splits(path, manifest)
    outside = {name for fold in manifest.folds for name in fold}
    wanted = [case for case in usable if case.identifier in outside]
    prepared = prepare_cohort(wanted, work / "prepared", PreprocessSettings(spacing=(source.spacing,) * 3), workers=workers)
    for sentence in prepared.faults.values():
        print(f"not prepared: {sentence}")
    return {case.identifier: case for case in usable}, manifest, prepared.paths


def parts_of(manifest: SplitManifest, prepared: dict[str, Path], fold: int) -> tuple[list[Path], list[Path]]:
    """Return the prepared files of the training and the validation part."""
    _check_folds((fold,), len(manifest.folds))
    return tuple([prepared[name] for name in manifest.part(part, fold=fold) if name in prepared] for part in ("train", "val"))


@contextlib.contextmanager
def join_processes(*, gpu: bool) -> Iterator[None]:
    """Meet the other processes that ``torchrun`` started, and leave them at the end."""
    if not distributed.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield
        return
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def from_first(function: Callable[[], Any]) -> Any:
    """Return what the first process gets from `function`; a `DataError` is everybody's, on whichever machine.

    The others do not call it, except the first of every machine, since it writes files that each machine needs.
    """
    if not distributed.is_initialized():
        return function()
    outcome: Any = None
    if int(os.environ["LOCAL_RANK"]) == 0:
        try:
            outcome = function()
        except DataError as error:
            outcome = error
    outcomes: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(outcomes, outcome)
    for error in outcomes:
        if isinstance(error, DataError):
            raise error
    return outcomes[0]


def say(text: str) -> None:
    """Print in the first process only."""
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        print(text)


def _from_environment(option: str, name: str) -> Path:
    if name not in os.environ:
        raise DataError(f"--{option} was not given", f"give a folder; on SageMaker {name} names it")
    return Path(os.environ[name])


def _check_manifest(manifest: SplitManifest, path: Path, cases: list[Case], usable: list[Case], cohort: Path) -> None:
    """Raise `DataError` if a split was made for other cases than those of the cohort."""
    there = {case.identifier: case.patient for case in (*cases, *usable)}  # the check may have merged patients
    absent = [name for name in manifest.patients if name not in there]
    moved = [name for name, patient in manifest.patients.items() if there.get(name, patient) != patient]
    unknown = [case.identifier for case in usable if case.identifier not in manifest.patients]
    if absent or moved or unknown:
        if absent:
            what = f"names case {absent[0]}, which is not there"
        elif moved:
            what = f"gives case {moved[0]} to patient {manifest.patients[moved[0]]}, and it belongs to {there[moved[0]]} now"
        else:
            what = f"does not know case {unknown[0]}"
        raise DataError(f"the split {path} was not made for {cohort}: it {what}", "take another --out or remove the split")


def _open_stream(spacing: float, held_out: int, settings: TrainSettings, work: Path) -> tuple[PhantomStream, list[Path], str]:
    """Make phantoms while the network learns, and others that it never sees to validate on."""
    if held_out < 1:
        raise DataError(f"--held-out is {held_out}", "give 1 or more")
    spacing = int(spacing) if float(spacing).is_integer() else spacing
    drawn = StreamSettings(spacing=spacing, seed=settings.seed, foreground_probability=settings.foreground_probability)
    options = {"patch": settings.patch, "count": settings.batch * settings.steps, "batch": settings.batch}
    stream = PhantomStream(drawn, **options, transforms=training_transforms(settings.patch) if settings.augment else None)
    say(f"Making {held_out} held-out phantoms ...")
    return stream, from_first(partial(held_out_phantoms, work / "held_out", held_out, spacing=spacing)), ""
