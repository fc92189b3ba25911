"""Options of the verbs that train: the cohort, and every field of `TrainSettings`, in groups, readable from strings."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from helpers.models.networks import NETWORKS
from helpers.training.before.settings import CHOICES, TrainSettings
from helpers.workspace import DataError

STREAM = "phantom-stream"
"""In place of a cohort's folder."""

HELP: dict[str, dict[str, str]] = {
    "network": {
        "network": "which network",
        "arguments": "arguments of the network as JSON, such as '{\"feature_size\": 24}'",
        "pretrained": "weights to start from: best.safetensors of the same network, or a foreign file",
    },
    "optimisation": {
        "batch": "patches a step, in all processes together",
        "accumulate": "parts of a batch that go through the network one after the other, to save memory",
        "steps": "optimiser steps in all",
        "learning_rate": "highest learning rate of AdamW",
        "weight_decay": "weight decay of AdamW",
        "warmup": "share of the training during which the learning rate rises; then it falls along half a cosine",
        "loss": "what is made small; the parts of the sum alone are for comparison",
        "clip": "largest norm of the gradient",
        "averaging": "decay of a moving average of the weights, such as 0.999, which is validated and kept; 0 for none",
        "nonfinite": "stop when a loss or gradient is not finite, or skip the step",
        "seed": "seed of weights, patches and split",
    },
    "patches": {
        "patch": "edges of a patch in voxels; one number means a cube",
        "tumour_share": "share of patches around a voxel of TC, WT or ET, each equally often",
        "augment": "random flips, rotations, noise and intensity changes: true or false",
    },
    "validation": {
        "validate_every": "steps between validations; the last step is always validated",
        "clean_tumour_ml": "smaller pieces of predicted tumour, in ml, are taken out; 0 keeps all",
        "clean_enhancing_ml": "less enhancing tumour than this in all, in ml, becomes necrotic core; 0 keeps all",
        "patience": "validations in a row without a better Dice that end the training; 0 for no such end",
        "minutes": "time limit, validation and earlier parts of an interrupted training included; 0 means none",
    },
    "machine": {
        "precision": "number format; auto is bf16 on a GPU or a CPU made for it, else 32 bit; 16-mixed is fp16, on a GPU only",
        "device": "auto takes a GPU where there is one",
        "workers": "processes that read patches ahead; 0 reads in between the steps",
        "cache": "training cases in memory, mapped from the disk, or (auto) in memory if half of what is free holds them",
        "save_every": "steps between states to go on from, besides those at validations and at SIGTERM",
        "logger": "logger besides TensorBoard and history.csv; none needs a key",
    },
}


def add_cohort_and_settings(parser: argparse.ArgumentParser) -> None:
    """Declare what every verb that trains needs: the cohort, and every field of `TrainSettings`.

    SageMaker says through its environment where the cohort lies and where the model is to go.
    """
    cohort, out = (os.environ.get(name) for name in ("SM_CHANNEL_TRAINING", "SM_MODEL_DIR"))
    group = parser.add_argument_group("cohort and folders")
    group.add_argument(
        "--cohort",
        type=Path,
        default=cohort,
        required=not cohort,
        help=f"folder of the cohort; for train also {STREAM}: endless new phantoms; on SageMaker SM_CHANNEL_TRAINING",
    )
    group.add_argument(
        "--out",
        type=Path,
        default=out,
        required=not out,
        help="folder for the split, prepared cases and, below models/<network>, the model; on SageMaker SM_MODEL_DIR, for "
        "the model alone",
    )
    group.add_argument("--format", default="auto", help="dataset format, such as brats2021, brats2023 or msd")
    group.add_argument("--spacing", type=float, default=2.0, help="spacing in mm of the grid to train on")
    for title, texts in HELP.items():
        _add_settings(parser.add_argument_group(title), texts)


def settings_of(arguments: argparse.Namespace) -> TrainSettings:
    """The settings that the options say; raises `DataError` for what cannot be."""
    values = {item.name: getattr(arguments, item.name) for item in fields(TrainSettings)}
    patch = tuple(edge for edges in values["patch"] for edge in (edges if isinstance(edges, list) else [edges]))
    if len(patch) not in (1, 3):
        raise DataError(f"--patch has {len(patch)} numbers", "give one or three")
    return TrainSettings(**{**values, "patch": patch * 3 if len(patch) == 1 else patch})


def _add_settings(group: argparse._ArgumentGroup, texts: dict[str, str]) -> None:
    """Declare settings with dashes in their names and, unseen, with underscores, as hyperparameters are often spelt."""
    choices = {**CHOICES, "network": tuple(NETWORKS)}
    settings = TrainSettings()
    for name, text in texts.items():
        default = getattr(settings, name)
        options = {"choices": choices[name]} if name in choices else {"metavar": "X"}
        options |= {"nargs": "+"} if name == "patch" else {}
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, type=_reader(default), default=default, help=text, **options)
        if "_" in name:
            group.add_argument(f"--{name}", type=_reader(default), default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options)


def _reader(default: object) -> Callable[[str], object]:
    """Reader of one option, after the type of its default."""
    if isinstance(default, bool):
        return boolean
    if isinstance(default, tuple):
        return whole_numbers
    return mapping if isinstance(default, dict) else type(default)


def boolean(text: str) -> bool:
    """Truth by its word: ``bool("false")`` is True."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return words[text.lower()]


def whole_numbers(text: str) -> list[int]:
    """One or several whole numbers: ``64``, ``64,64,32`` or ``[64, 64, 32]``."""
    try:
        return [int(word) for word in text.strip("[]() ").split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number or a list of them such as 64,64,32") from error


def mapping(text: str) -> dict:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not a JSON object such as {{"feature_size": 24}}')
    return value
