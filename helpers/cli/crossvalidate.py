"""``python -m helpers crossvalidate``: train on every fold, choose the post-processing, score the ensemble."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from brats_cohort.case import Case
from brats_cohort.command import Target
from brats_cohort.files import DataError, write_atomically
from brats_cohort.splits import SplitManifest
from helpers.cli.train import CohortOptions, check_settings, open_cohort, parts_of
from helpers.evaluation.cohort import choose_postprocessing, predict_out_of_fold, score_cohort
from helpers.evaluation.postprocess import PostProcessing
from helpers.evaluation.statistics import summarise
from helpers.models.checkpoints import load_card, load_checkpoint, load_ensemble, save_checkpoint
from helpers.training.callbacks import PrintValidation
from helpers.training.settings import TrainSettings
from helpers.training.train import CHECKPOINT, train
from helpers.workspace import pick_device

METRICS = ("dice", "lesion_dice", "hd95", "volume_error_percent", "ece", "brier")


def run(*, source: CohortOptions, out: Target, only: tuple[int, ...] = (), test: bool = True, settings: TrainSettings) -> int:
    """Train what is not trained yet, then print and write the tables; an interrupted run goes on where it stopped.

    Parameters
    ----------
    source : CohortOptions
        Cases to train on.
    out : Path
        Folder for the split, the prepared cases and, below crossvalidation/NETWORK, models and tables.
    only : tuple of int
        Train only these folds and stop, to share the work between machines.
    test : bool
        Score the test part; --no-test stops after the cross-validation.
    settings : TrainSettings
        Of every training.
    """
    folder = out / "crossvalidation" / settings.network
    begun = any(folder.glob(f"fold_*/checkpoints/{CHECKPOINT}"))
    check_settings(source, settings, work=out, folds=only, begun=begun)
    cases, manifest, prepared = open_cohort(source, settings, work=out)
    checkpoints = train_folds(settings, manifest, prepared, out=folder, folds=only or range(len(manifest.folds)))
    if only:
        print(f"trained; leave out --only when folds 0 to {len(manifest.folds) - 1} are done, for the tables")
        return 0
    report_folds(checkpoints, manifest, cases, folder=folder, device=pick_device(settings.device), test=test)
    return 0


def train_folds(
    settings: TrainSettings, manifest: SplitManifest, prepared: dict[str, Path], *, out: Path, folds: Sequence[int]
) -> list[Path]:
    """Train on all folds but one, for each fold in turn, and return the checkpoints; what is finished is not made again."""
    checkpoints = []
    for fold in folds:
        training, validation = parts_of(manifest, prepared, fold)
        print(f"fold {fold}: {len(training)} training and {len(validation)} validation cases")
        options = {"split_hash": manifest.sha256, "resume": "auto", "callbacks": [PrintValidation()]}
        checkpoints.append(train(settings, training, validation, out=out / f"fold_{fold}", **options).checkpoint)
    return checkpoints


def report_folds(
    checkpoints: Sequence[Path], manifest: SplitManifest, cases: dict[str, Case], *, folder: Path, device: str, test: bool
) -> None:
    """Predict out of fold, choose the post-processing on these predictions, and score the ensemble on the test part."""
    folds: dict[str, int] = {}
    for fold, path in enumerate(checkpoints):
        if (twin := folds.setdefault(load_card(path).weights_sha256, fold)) != fold:
            problem = f"folds {twin} and {fold} ended with the same weights, so they are no ensemble"
            raise DataError(problem, "train more steps, into another --out")
    result = predict_out_of_fold(checkpoints, manifest, cases, folder=folder / "out_of_fold", device=device, report=print)
    chosen, tried = choose_postprocessing(result.files, cases)
    _write(folder / "out_of_fold.csv", result.scores)
    _write(folder / "out_of_fold_reliability.csv", result.reliability)
    _write(folder / "postprocessing.csv", tried)
    with write_atomically(folder / "postprocessing.json") as temporary:
        temporary.write_text(json.dumps(asdict(chosen), indent=1) + "\n", encoding="utf-8")
    _show(f"\nOut of fold, {len(result.files)} cases, TTA, before post-processing", result.scores)
    limits = f"{chosen.tumour_ml:g} ml of tumour, {chosen.enhancing_ml:g} ml of enhancing tumour"
    print(f"\nPost-processing chosen on these: {limits}")
    members = _write_members(folder / "ensemble", checkpoints, chosen)
    if test:
        part = [cases[name] for name in manifest.test if name in cases]
        if len(part) < len(manifest.test):
            raise DataError(
                f"{len(manifest.test) - len(part)} cases of the test part are faulty", "mend them and run this again"
            )
        network, card = load_ensemble(members, device=device)
        tested = score_cohort(network, card, part, folder=folder / "test", tta=True)
        _write(folder / "test.csv", tested.scores)
        _show(f"\nTest part, {len(part)} cases, the ensemble with TTA and post-processing", tested.scores)
    print(f"\n{folder}\npredict --tta --checkpoint {members[0].parent}/*.safetensors does the same")


def _write_members(folder: Path, checkpoints: Sequence[Path], settings: PostProcessing) -> list[Path]:
    """Write the networks of the folds with the chosen post-processing in their cards."""
    paths = [folder / f"fold_{fold}.safetensors" for fold in range(len(checkpoints))]
    for path, target in zip(checkpoints, paths, strict=True):
        network, card = load_checkpoint(path)
        save_checkpoint(target, network, replace(card, postprocessing=asdict(settings)))
    return paths


def _show(title: str, scores: pd.DataFrame) -> None:
    print(title)
    print(summarise(scores, metrics=METRICS).to_string(index=False, float_format="{:.4f}".format, na_rep=""))


def _write(path: Path, table: pd.DataFrame) -> None:
    with write_atomically(path) as temporary:
        table.to_csv(temporary, index=False)
