"""``python -m helpers crossvalidate``: train on every fold, choose the post-processing, score the ensemble."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch

from helpers.cli import train as train_command
from helpers.evaluation.cohort import (
    choose_postprocessing,
    gains_table,
    predict_out_of_fold,
    score_steps,
)
from helpers.evaluation.postprocess import PostProcessing
from helpers.evaluation.statistics import summarise
from helpers.models.checkpoints import load_checkpoint, save_checkpoint
from helpers.training.before.folds import train_folds
from helpers.workspace import DataError

METRICS = ("dice", "lesion_dice", "hd95", "volume_error_percent", "ece", "brier")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb: those of `train`, without the choice of one fold, and what happens afterwards."""
    train_command.add_cohort_and_settings(parser)
    parser.add_argument("--only", type=int, nargs="+", metavar="FOLD", help="train these folds and stop, to share out the work")
    parser.add_argument("--no-test", action="store_true", help="leave the test part untouched: cross-validation only")


def run(arguments: argparse.Namespace) -> int:
    """Train what is not trained yet, then print and write the tables; an interrupted run goes on where it stopped."""
    settings = train_command.settings_of(arguments)
    cases, manifest, prepared = train_command.open_cohort(arguments, settings)
    out = arguments.out / "crossvalidation" / settings.network
    checkpoints = train_folds(settings, manifest, prepared, out=out, folds=arguments.only, report=print)
    if arguments.only:
        print(f"trained; leave out --only when folds 0 to {len(manifest.folds) - 1} are done, for the tables")
        return 0
    device = ("cuda" if torch.cuda.is_available() else "cpu") if settings.device == "auto" else settings.device
    result = predict_out_of_fold(checkpoints, manifest, cases, folder=out / "out_of_fold", device=device, report=print)
    chosen, tried = choose_postprocessing(result.files, cases)
    _write(out / "out_of_fold.csv", result.scores)
    _write(out / "out_of_fold_reliability.csv", result.reliability)
    _write(out / "postprocessing.csv", tried)
    _write_text(out / "postprocessing.json", json.dumps(asdict(chosen), indent=1) + "\n")
    _show(f"\nOut of fold, {len(result.files)} cases, TTA, before post-processing", summarise(result.scores, metrics=METRICS))
    print(
        f"\nPost-processing chosen on these: {chosen.tumour_ml:g} ml of tumour, {chosen.enhancing_ml:g} ml of enhancing tumour"
    )
    members = _write_members(out / "ensemble", checkpoints, chosen)
    if not arguments.no_test:
        test = [cases[name] for name in manifest.test if name in cases]
        if len(test) < len(manifest.test):
            raise DataError(
                f"{len(manifest.test) - len(test)} cases of the test part are faulty", "mend them and run this again"
            )
        scores = score_steps(checkpoints, test, settings=chosen, folder=out / "test", device=device, report=print)
        _write(out / "steps.csv", scores)
        gains = gains_table(scores)
        _write(out / "gains.csv", gains)
        _show(f"\nTest part, {len(test)} cases, each step against the one before", gains)
    print(f"\n{out}\npredict --tta --checkpoint {members}/*.safetensors does the same as the last step")
    return 0


def _write_members(folder: Path, checkpoints: Sequence[Path], settings: PostProcessing) -> Path:
    """The networks of the folds with the chosen post-processing in their cards."""
    for fold, path in enumerate(checkpoints):
        network, card = load_checkpoint(path)
        save_checkpoint(folder / f"fold_{fold}.safetensors", network, replace(card, postprocessing=asdict(settings)))
    return folder


def _show(title: str, table: pd.DataFrame) -> None:
    shown = table.assign(checkpoint=table["checkpoint"].str[:12]) if "checkpoint" in table else table
    print(title)
    print(shown.to_string(index=False, float_format="{:.4f}".format, na_rep=""))


def _write(path: Path, table: pd.DataFrame) -> None:
    _write_text(path, table.to_csv(index=False))


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
