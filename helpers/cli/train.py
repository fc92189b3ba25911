"""``python -m helpers train``: check a cohort, split it, prepare it, train a network and report.

The same command under ``torchrun`` trains in several processes, and is what SageMaker starts: the cohort is then
SM_CHANNEL_TRAINING, ``best.safetensors`` and ``best.json`` go to SM_MODEL_DIR itself, and hyperparameters arrive as
``--name value``. ``--checkpoints DIR`` is where the state of an interrupted training lies: started again, the command goes on
from it. After SIGTERM it ends with status 75, its state written.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from helpers.cli.before import STREAM, add_cohort_and_settings, settings_of
from helpers.data.cases import Case, discover
from helpers.data.checks import check_cohort
from helpers.data.patches import training_transforms
from helpers.data.phantoms import PhantomStream, StreamSettings, held_out_phantoms
from helpers.data.preprocess import PreprocessSettings, prepare_cohort
from helpers.data.splits import (
    SplitManifest,
    load_splits,
    make_splits,
    save_splits,
)
from helpers.training.before.processes import Processes, join_processes
from helpers.training.before.settings import TrainSettings
from helpers.training.before.source import PatchSource
from helpers.training.before.train import TrainResult, train
from helpers.training.before.trainer import on_gpu
from helpers.workspace import DataError

__all__ = ["add_arguments", "add_cohort_and_settings", "open_cohort", "run", "settings_of"]

SAGEMAKER_CHECKPOINTS = Path("/opt/ml/checkpoints")
"""Where SageMaker keeps up a copy in S3, if the job asks for it; the folder exists only then."""


@dataclass(frozen=True)
class Folders:
    """Where a training writes: split and prepared cases to `work`, the model to `model`, states to `checkpoints`."""

    work: Path
    model: Path
    checkpoints: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb: the cohort, the fold, the folders, and every field of `TrainSettings`."""
    add_cohort_and_settings(parser)
    group = parser.add_argument_group("part of the cohort")
    group.add_argument("--fold", type=int, default=0, help="which fold is the validation part")
    group.add_argument("--held-out", type=int, default=12, help=f"phantoms that validate a training on --cohort {STREAM}")
    group = parser.add_argument_group("interruption")
    group.add_argument(
        "--checkpoints",
        type=Path,
        help="folder of the state to go on from; by default checkpoints beside the model, on SageMaker /opt/ml/checkpoints",
    )
    group.add_argument(
        "--resume", default="auto", metavar="X", help="auto goes on where there is a state; never starts afresh; or a state.pt"
    )
    group.add_argument("--work", type=Path, help="folder for split and prepared cases instead of --out")


def run(arguments: argparse.Namespace) -> int:
    """Train and say how good the network is on the validation part."""
    settings = settings_of(arguments)
    folders = folders_of(arguments, settings.network)
    with join_processes(gpu=on_gpu(settings)) as processes:
        open_parts = _open_stream if str(arguments.cohort) == STREAM else _open_parts
        training, validation, split_hash = open_parts(arguments, settings, folders.work, processes)
        result = train(
            settings,
            training,
            validation=validation,
            out=folders.model,
            split_hash=split_hash,
            report=tqdm.write,
            resume=arguments.resume,
            checkpoints=folders.checkpoints,
            picture=_draw,
        )
        if processes.first:
            _print(result)
    return 0


def folders_of(arguments: argparse.Namespace, network: str) -> Folders:
    """The folders that the options and SageMaker's environment say."""
    on_sagemaker = os.environ.get("SM_MODEL_DIR") == str(arguments.out)
    if not on_sagemaker:
        model = arguments.out / "models" / network
        return Folders(arguments.work or arguments.out, model, arguments.checkpoints or model / "checkpoints")
    work = arguments.work or Path(tempfile.gettempdir()) / "brain-tumour-segmentation"  # all of SM_MODEL_DIR is uploaded
    kept = SAGEMAKER_CHECKPOINTS if SAGEMAKER_CHECKPOINTS.is_dir() else work / "checkpoints"
    return Folders(work, arguments.out, arguments.checkpoints or kept)


def open_cohort(
    arguments: argparse.Namespace, settings: TrainSettings, *, work: Path | None = None
) -> tuple[dict[str, Case], SplitManifest, dict[str, Path]]:
    """Check the cohort that the options name, make or read its split, and prepare what is not its test part.

    Parameters
    ----------
    arguments, settings
        As the options say.
    work : Path, optional
        Folder for the split and the prepared cases; ``--out`` if left out.

    Returns
    -------
    cases : dict from identifier to Case
        All usable ones, the test part included.
    manifest : SplitManifest
    prepared : dict from identifier to Path
        Prepared files of the cases outside the test part.
    """
    work = work or arguments.out
    cases = discover(arguments.cohort, arguments.format)
    report = check_cohort(cases, workers=settings.workers or None)
    for fault in report.faults:
        print(f"{fault.severity}: {fault}")
    usable = report.usable
    if len(usable) < 3:
        raise DataError(f"{arguments.cohort} has {len(usable)} usable cases with a label map", "a split needs at least 3")
    path = work / "splits.json"
    if path.is_file():
        manifest = load_splits(path)
        _check_manifest(manifest, path, cases, usable, arguments.cohort)
    else:
        manifest = make_splits(usable, report.facts, seed=settings.seed)
        save_splits(path, manifest)
    outside = {name for fold in manifest.folds for name in fold}
    wanted = [case for case in usable if case.identifier in outside]
    prepared = prepare_cohort(wanted, work / "prepared", PreprocessSettings(spacing=(arguments.spacing,) * 3))
    for sentence in prepared.faults.values():
        print(f"not prepared: {sentence}")
    return {case.identifier: case for case in usable}, manifest, prepared.paths


def _check_manifest(manifest: SplitManifest, path: Path, cases: Sequence[Case], usable: Sequence[Case], cohort: Path) -> None:
    """Raise `DataError` if a split was made for other cases than those of the cohort."""
    there = {case.identifier: case.patient for case in cases}
    foreign = [name for name, patient in manifest.patients.items() if there.get(name) != patient]
    unknown = [case.identifier for case in usable if case.identifier not in manifest.patients]
    if foreign or unknown:
        what = f"names case {foreign[0]}, which is not there" if foreign else f"does not know case {unknown[0]}"
        raise DataError(f"the split {path} was not made for {cohort}: it {what}", "take another --out or remove the split")


def _open_parts(
    arguments: argparse.Namespace, settings: TrainSettings, work: Path, processes: Processes
) -> tuple[list[Path], list[Path], str]:
    """Training and validation files and the hash of the split; the first process prepares them for all."""
    _, manifest, prepared = processes.from_first(lambda: open_cohort(arguments, settings, work=work), on_each_machine=True)
    if not 0 <= arguments.fold < len(manifest.folds):
        raise DataError(f"--fold is {arguments.fold}", f"the split of {work} has folds 0 to {len(manifest.folds) - 1}")
    parts = [set(manifest.part(part, fold=arguments.fold)) for part in ("train", "val")]
    if processes.first:
        print(f"{len(parts[0])} training and {len(parts[1])} validation cases; the test part stays untouched")
    training, validation = ([path for name, path in prepared.items() if name in part] for part in parts)
    return training, validation, manifest.sha256


def _open_stream(
    arguments: argparse.Namespace, settings: TrainSettings, work: Path, processes: Processes
) -> tuple[PatchSource, list[Path], str]:
    """Phantoms that are made while the network learns, and others that it never sees to validate on."""
    spacing = int(arguments.spacing) if float(arguments.spacing).is_integer() else arguments.spacing
    stream = PhantomStream(
        StreamSettings(spacing=spacing, seed=settings.seed, foreground_probability=settings.tumour_share),
        patch=settings.patch,
        count=settings.batch * settings.steps,
        batch=settings.batch,
        transforms=training_transforms(settings.patch) if settings.augment else None,
    )
    if processes.first:
        print(f"Making {arguments.held_out} held-out phantoms ...")
    make = partial(held_out_phantoms, work / "held_out", arguments.held_out, spacing=spacing)
    return stream, processes.from_first(make, on_each_machine=True), ""


def _draw(path: Path, cases: list) -> None:
    from helpers.plots.results import save_validation

    save_validation(path, cases)


def _print(result: TrainResult) -> None:
    print(
        f"{result.steps} steps in {result.seconds:.0f} s ({result.seconds_per_step:.3f} s a step); best mean validation Dice "
        f"{result.best_dice:.4f} at step {result.best_step}\n{result.checkpoint}"
    )
