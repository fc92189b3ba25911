"""``python -m helpers tune``: search the settings of a 2-D network for a cohort of slices in the Kaggle LGG layout.

Stopped in any way and started again with the same options, it goes on. Started several times, or with ``--workers``, several
processes work on one study.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from helpers.data.splits import SplitManifest, load_splits, save_splits
from helpers.extras.lgg.cohort import (
    SliceFacts,
    SliceFile,
    check_slices,
    find_slices,
    split_patients,
)
from helpers.extras.lgg.search import (
    LEVELS,
    SearchSpace,
    SliceTrial,
    slice_settings,
)
from helpers.extras.lgg.slices import SlicePreparation, channel_statistics
from helpers.training.before.state import FREE
from helpers.training.before.study import export_best
from helpers.training.before.tune import TuneSettings, work
from helpers.workspace import DataError

NETWORKS = ("unet", "attention_unet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    search, space = TuneSettings(), SearchSpace()
    group = parser.add_argument_group("cohort and folders")
    group.add_argument("--cohort", type=Path, required=True, help="folder that holds kaggle_3m, or its patients")
    group.add_argument("--out", type=Path, required=True, help="folder for the study, its trials, the split and the best model")
    group = parser.add_argument_group("search")
    group.add_argument("--trials", type=int, default=search.trials, help="trials in all; more may be asked for later")
    group.add_argument("--startup", type=int, default=search.startup, help="trials drawn at random before TPE learns from them")
    group.add_argument("--workers", type=int, default=1, help="processes that work on the study here")
    group.add_argument("--seed", type=int, default=search.seed, help="of the split, the draws and every training")
    group.add_argument("--dropout", type=float, nargs=2, default=space.dropout, metavar="X", help="least and greatest")
    group.add_argument(
        "--learning-rate", type=float, nargs=2, default=space.learning_rate, metavar="X", help="least and greatest"
    )
    group.add_argument("--batch", type=int, nargs="+", default=space.batch, metavar="N", help="slices a step, to choose from")
    group.add_argument("--filters", type=int, nargs="+", default=space.filters, metavar="N", help="of level 1, to choose from")
    group = parser.add_argument_group("training of a trial")
    group.add_argument("--network", choices=NETWORKS, default=NETWORKS[0], help="which network")
    group.add_argument("--levels", type=int, default=LEVELS, help="levels of the network")
    group.add_argument("--edge", type=int, default=256, help="pixels along an edge of the grid that the network works on")
    group.add_argument("--patch", type=int, default=224, help="pixels along an edge of the crops that it is trained on")
    group.add_argument("--steps", type=int, default=600, help="optimiser steps of a trial")
    group.add_argument("--validate-every", type=int, default=100, help="steps between validations, after which a trial may end")
    group.add_argument("--tumour-share", type=float, default=0.5, help="share of slices with tumour in a training")


def run(arguments: argparse.Namespace) -> int:
    """Search, then say which trial was best and where its model is."""
    prepared = prepare(arguments)
    others = max(arguments.workers, 1) - 1
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=(arguments, *prepared), daemon=True) for _ in range(others)]
    for process in processes:
        process.start()
    study = _work(arguments, *prepared)
    for process in processes:
        process.join()
    best = export_best(study, arguments.out)
    drawn = ", ".join(f"{name} {value:.3g}" for name, value in study.best_params.items())
    print(f"best mean validation Dice {study.best_value:.4f} with {drawn}\n{best}")
    return 0


def prepare(arguments: argparse.Namespace) -> tuple[SplitManifest, dict[str, list[SliceFile]]]:
    """Check the cohort and divide it, or take the division that is there."""
    patients = find_slices(arguments.cohort)
    facts, faults = check_slices(patients)
    for sentence in faults:
        print(f"left out: {sentence}")
    manifest = _split(arguments.out / "splits.json", facts, arguments.seed)
    parts = {name: manifest.part(name) for name in ("train", "val")}
    print(f"{len(parts['train'])} training and {len(parts['val'])} validation patients; the test part stays untouched")
    return manifest, {name: patients[name] for part in parts.values() for name in part}


def _split(path: Path, facts: Mapping[str, SliceFacts], seed: int) -> SplitManifest:
    if not path.is_file():
        save_splits(path, split_patients(facts, seed=seed))
    manifest = load_splits(path)
    if set(manifest.patients) != set(facts):
        raise DataError(f"the split {path} was made for other patients", "take another --out or remove the split")
    return manifest


def _work(arguments: argparse.Namespace, manifest: SplitManifest, patients: Mapping[str, list[SliceFile]]) -> Any:
    """One worker; the threads of the machine are shared out among all."""
    torch.set_num_threads(max(1, torch.get_num_threads() // max(arguments.workers, 1)))
    training, validation = ({name: patients[name] for name in manifest.part(part)} for part in ("train", "val"))
    preparation = SlicePreparation(arguments.edge, *channel_statistics(training.values()))
    names = ("network", "levels", "patch", "steps", "validate_every", "tumour_share", "seed")
    settings = slice_settings(**{name: getattr(arguments, name) for name in names})
    space = SearchSpace(*(tuple(getattr(arguments, name)) for name in ("dropout", "learning_rate", "batch", "filters")))
    fixed = {name: value for name, value in asdict(settings).items() if name not in FREE}
    return work(
        arguments.out,
        TuneSettings(arguments.trials, arguments.startup, arguments.seed),
        suggest=space.suggest,
        train=SliceTrial(settings, preparation, training, validation, manifest.sha256),
        fixed={**fixed, "split": manifest.sha256, "edge": arguments.edge, "space": asdict(space)},
        report=tqdm.write,
    )
