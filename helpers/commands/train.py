"""``python -m helpers train``: check a cohort, split it, prepare it, train a network and report."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from helpers.data.augment import training_transforms
from helpers.data.checks import check_cohort
from helpers.data.files import DataError
from helpers.data.layouts import Case, discover
from helpers.data.phantom.stream import PhantomStream, StreamSettings, held_out_phantoms
from helpers.data.preprocess import PreprocessSettings, prepare_cohort
from helpers.data.splits import SplitManifest, load_splits, make_splits, save_splits
from helpers.models.networks import NETWORKS
from helpers.training.loss import LOSSES
from helpers.training.settings import DEVICES, PRECISIONS, TrainSettings
from helpers.training.train import TrainResult, train

STREAM = "phantom-stream"
"""In place of a cohort's folder."""

HELP: dict[str, str] = {
    "network": "which network",
    "arguments": "arguments of the network as JSON, such as '{\"feature_size\": 24}'",
    "patch": "edges of a patch in voxels; one number means a cube",
    "batch": "patches a step",
    "steps": "optimiser steps in all",
    "learning_rate": "highest learning rate",
    "weight_decay": "weight decay of AdamW",
    "warmup": "share of the training during which the learning rate rises",
    "loss": "what is made small; the parts of the sum alone are for comparison",
    "clip": "largest norm of the gradient",
    "tumour_share": "share of patches around a tumour voxel",
    "augment": "random flips, rotations, noise and intensity changes: true or false",
    "validate_every": "steps between validations",
    "minutes": "time limit, validation included; 0 means none",
    "seed": "seed of weights, patches and split",
    "clean_tumour_ml": "smaller pieces of predicted tumour, in ml, are taken out; 0 keeps all",
    "clean_enhancing_ml": "less enhancing tumour than this in all, in ml, becomes necrotic core; 0 keeps all",
    "precision": "number format; auto is bf16 on a GPU, else 32 bit",
    "device": "auto takes a GPU where there is one",
    "workers": "processes that read patches ahead; 0 reads in between the steps",
}
CHOICES: dict[str, tuple[str, ...]] = {
    "network": tuple(NETWORKS),
    "loss": tuple(LOSSES),
    "precision": PRECISIONS,
    "device": DEVICES,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb: the cohort, the fold, and every field of `TrainSettings`."""
    add_cohort_and_settings(parser)
    parser.add_argument("--fold", type=int, default=0, help="which fold is the validation part")
    parser.add_argument("--held-out", type=int, default=12, help=f"phantoms that validate a training on --cohort {STREAM}")


def add_cohort_and_settings(parser: argparse.ArgumentParser) -> None:
    """Declare what every command that trains needs: the cohort, and every field of `TrainSettings`."""
    parser.add_argument(
        "--cohort", type=Path, required=True, help=f"folder of the cohort; for train also {STREAM}: endless new phantoms"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the split, prepared cases and the model")
    parser.add_argument("--layout", default="auto", help="layout of the cohort, such as brats2021, brats2023 or msd")
    parser.add_argument("--spacing", type=float, default=2.0, help="spacing in mm of the grid to train on")
    settings = TrainSettings()
    for item in fields(TrainSettings):
        default = getattr(settings, item.name)
        options = {"choices": CHOICES[item.name]} if item.name in CHOICES else {"metavar": "X"}
        if item.name == "patch":
            options["nargs"] = "+"
        parser.add_argument(
            f"--{item.name.replace('_', '-')}", type=_parser(default), default=default, help=HELP[item.name], **options
        )


def settings_of(arguments: argparse.Namespace) -> TrainSettings:
    """The settings that the options say; raises `DataError` for what cannot be."""
    values = {item.name: getattr(arguments, item.name) for item in fields(TrainSettings)}
    patch = tuple(values["patch"])
    if len(patch) not in (1, 3):
        raise DataError(f"--patch takes one number or three, not {len(patch)}")
    return TrainSettings(**{**values, "patch": patch * 3 if len(patch) == 1 else patch})


def run(arguments: argparse.Namespace) -> int:
    """Train and say how good the network is on the validation part."""
    settings = settings_of(arguments)
    if str(arguments.cohort) == STREAM:
        return _run_stream(arguments, settings)
    _, manifest, prepared = open_cohort(arguments, settings)
    if not 0 <= arguments.fold < len(manifest.folds):
        raise DataError(f"--fold is {arguments.fold}; the split of {arguments.out} has folds 0 to {len(manifest.folds) - 1}")
    training, validation = (set(manifest.part(part, fold=arguments.fold)) for part in ("train", "val"))
    print(f"{len(training)} training and {len(validation)} validation cases; the test part stays untouched")
    result = train(
        settings,
        [path for name, path in prepared.items() if name in training],
        validation=[path for name, path in prepared.items() if name in validation],
        out=arguments.out / "models" / settings.network,
        split_hash=manifest.sha256,
        report=print,
    )
    _print(result)
    return 0


def open_cohort(
    arguments: argparse.Namespace, settings: TrainSettings
) -> tuple[dict[str, Case], SplitManifest, dict[str, Path]]:
    """Check the cohort that the options name, make or read its split, and prepare what is not its test part.

    Returns
    -------
    cases : dict from identifier to Case
        All usable ones, the test part included.
    manifest : SplitManifest
    prepared : dict from identifier to Path
        Prepared files of the cases outside the test part.
    """
    report = check_cohort(discover(arguments.cohort, arguments.layout), workers=settings.workers or None)
    for fault in report.faults:
        print(f"{fault.severity}: {fault}")
    usable = report.usable
    if len(usable) < 3:
        raise DataError(f"{arguments.cohort} has {len(usable)} usable cases with a label map; a split needs at least 3")
    manifest_path = arguments.out / "splits.json"
    if manifest_path.is_file():
        manifest = load_splits(manifest_path)
    else:
        manifest = make_splits(usable, report.facts, seed=settings.seed)
        save_splits(manifest_path, manifest)
    outside = {name for fold in manifest.folds for name in fold}
    preprocessing = PreprocessSettings(spacing=(arguments.spacing,) * 3)
    wanted = [case for case in usable if case.identifier in outside]
    prepared = prepare_cohort(wanted, arguments.out / "prepared", preprocessing)
    for sentence in prepared.faults.values():
        print(f"not prepared: {sentence}")
    return {case.identifier: case for case in usable}, manifest, prepared.paths


def _run_stream(arguments: argparse.Namespace, settings: TrainSettings) -> int:
    """Train on phantoms that are made while the network learns, and validate on others that it never sees."""
    spacing = int(arguments.spacing) if float(arguments.spacing).is_integer() else arguments.spacing
    stream = PhantomStream(
        StreamSettings(spacing=spacing, seed=settings.seed, tumour_share=settings.tumour_share),
        patch=settings.patch,
        count=settings.batch * settings.steps,
        batch=settings.batch,
        transforms=training_transforms(settings.patch) if settings.augment else None,
    )
    print(f"Making {arguments.held_out} held-out phantoms ...")
    validation = held_out_phantoms(arguments.out / "held_out", arguments.held_out, spacing=spacing)
    out = arguments.out / "models" / settings.network
    _print(train(settings, stream, validation=validation, out=out, report=print))
    return 0


def _print(result: TrainResult) -> None:
    print(
        f"{result.steps} steps in {result.seconds:.0f} s ({result.seconds_per_step:.3f} s a step); best mean validation Dice "
        f"{result.best_dice:.4f} at step {result.best_step}\n{result.checkpoint}"
    )


def _parser(default: object) -> Callable[[str], object]:
    """Reader of one option, after the type of its default."""
    if isinstance(default, bool):
        return _boolean
    if isinstance(default, tuple):
        return int
    return _mapping if isinstance(default, dict) else type(default)


def _boolean(text: str) -> bool:
    """``bool("false")`` is True, so the words are compared."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return words[text.lower()]


def _mapping(text: str) -> dict:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not a JSON object such as {{"feature_size": 24}}')
    return value
