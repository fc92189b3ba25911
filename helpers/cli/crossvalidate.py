"""``python -m helpers crossvalidate``: train on every fold, choose the post-processing, score the ensemble.

Every case outside the test part is predicted by the one model that did not train on it (**out of fold**), as the model cards
say, and the limits of the post-processing are chosen on those predictions.
"""

from __future__ import annotations

import itertools
import json
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from brats_cohort.case import Case
from brats_cohort.cases import read_classes
from brats_cohort.command import Target
from brats_cohort.files import DataError, write_atomically
from brats_cohort.grid import spacing_of
from brats_cohort.regions import classes_to_regions
from brats_cohort.splits import SplitManifest
from helpers.cli.train import CohortOptions, check_settings, open_cohort, parts_of
from helpers.evaluation.cohort import CohortScores, LabelFile, read_label_file, score_cohort
from helpers.evaluation.metrics import dice
from helpers.evaluation.postprocess import PostProcessing, postprocess
from helpers.evaluation.statistics import summarise
from helpers.models.checkpoints import ModelCard, load_card, load_checkpoint, load_ensemble, save_checkpoint
from helpers.training.callbacks import PrintValidation
from helpers.training.settings import TrainSettings
from helpers.training.train import CHECKPOINT, train
from helpers.workspace import pick_device

KEEP_ALL = asdict(PostProcessing(tumour_ml=0.0, enhancing_ml=0.0))
TUMOUR_ML = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
ENHANCING_ML = (0.0, 0.1, 0.3, 0.5, 1.0)
"""Limits in ml that `choose_postprocessing` tries."""
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
    if test and (faulty := [name for name in manifest.test if name not in cases]):  # now, not after days of training
        raise DataError(f"case {faulty[0]} of the test part is faulty", "mend it and run this again, or give --no-test")
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
    result = predict_out_of_fold(checkpoints, manifest, cases, folder=folder / "out_of_fold", device=device)
    chosen, tried = choose_postprocessing(result.files, cases)
    _write(folder / "out_of_fold.csv", result.scores)
    _write(folder / "out_of_fold_reliability.csv", result.reliability)
    _write(folder / "postprocessing.csv", tried)
    with write_atomically(folder / "postprocessing.json") as temporary:
        temporary.write_text(json.dumps(asdict(chosen), indent=1) + "\n", encoding="utf-8")
    tta = "TTA" if load_card(checkpoints[0]).tta_axes else "no TTA"  # nothing to average over after a training without flips
    _show(f"\nOut of fold, {len(result.files)} cases, {tta}, before post-processing", result.scores)
    limits = f"{chosen.tumour_ml:g} ml of tumour, {chosen.enhancing_ml:g} ml of enhancing tumour"
    print(f"\nPost-processing chosen on these: {limits}")
    members = _write_members(folder / "ensemble", checkpoints, chosen)
    if test:
        part = [cases[name] for name in manifest.test]
        network, card = load_ensemble(members, device=device)
        tested = score_cohort(network, card, part, folder=folder / "test", tta=True)
        _write(folder / "test.csv", tested.scores)
        _show(f"\nTest part, {len(part)} cases, the ensemble with {tta} and post-processing", tested.scores)
    print(f"\n{folder}\npredict --tta --checkpoint {shlex.quote(str(members[0].parent))}/*.safetensors does the same")


def check_folds(checkpoints: Sequence[Path], manifest: SplitManifest) -> list[ModelCard]:
    """Return the cards of the checkpoints, one a fold, if checkpoint k knows no patient of fold k nor of the test part.

    Raises
    ------
    DataError
        If one does, is of another split, does not say what it was trained on, or the number of checkpoints is another.
    """
    if len(checkpoints) != len(manifest.folds):
        problem = f"the split has {len(manifest.folds)} folds, but {len(checkpoints)} checkpoints were given"
        raise DataError(problem, "give one a fold")
    cards = [load_card(path) for path in checkpoints]
    for fold, (path, card) in enumerate(zip(checkpoints, cards, strict=True)):
        if not card.training_cases:
            raise DataError(f"the card of {path} does not say which cases it was trained on", f"train fold {fold} again")
        if card.split_hash != manifest.sha256:
            raise DataError(f"{path} was trained on another split", f"train fold {fold} again")
        known = {manifest.patients.get(case, case) for case in card.training_cases}
        for case in (*manifest.part("val", fold=fold), *manifest.test):
            if manifest.patients[case] in known:
                raise DataError(f"{path} was trained on case {case}, which it is to be scored on", f"train fold {fold} again")
    return cards


def predict_out_of_fold(
    checkpoints: Sequence[Path], manifest: SplitManifest, cases: Mapping[str, Case], *, folder: Path, device: str
) -> CohortScores:
    """Predict every case outside the test part with the model that did not train on it, and score it without post-processing.

    Checkpoint k is that of fold k; cases of the split that are not among `cases` are left out. `folder` gets the label maps.
    Errors as in `check_folds` and `score_cohort`.
    """
    results = []
    for fold, card in enumerate(check_folds(checkpoints, manifest)):
        network, _ = load_checkpoint(checkpoints[fold], device=device)
        chosen = [cases[name] for name in manifest.part("val", fold=fold) if name in cases]
        results.append(score_cohort(network, replace(card, postprocessing=KEEP_ALL), chosen, folder=folder, tta=True))
        print(f"fold {fold}: {len(chosen)} cases, mean Dice {results[-1].scores['dice'].mean():.3f} before post-processing")
    files = {name: path for result in results for name, path in result.files.items()}
    scores = pd.concat([result.scores for result in results], ignore_index=True)
    return CohortScores(scores, files, pd.concat([result.reliability for result in results], ignore_index=True))


def choose_postprocessing(files: Mapping[str, Path], cases: Mapping[str, Case]) -> tuple[PostProcessing, pd.DataFrame]:
    """Choose the limits of the post-processing with the highest mean Dice on predictions out of fold; the smaller if equal.

    `files` are label maps in the numbers of their `cases`, not post-processed: validation data, never the test part. Returns
    also the mean over patients and regions for every combination: ``tumour_ml, enhancing_ml, dice``.
    """
    limits = [PostProcessing(*pair) for pair in itertools.product(TUMOUR_ML, ENHANCING_ML)]
    scores: dict[PostProcessing, dict[str, list[float]]] = {setting: defaultdict(list) for setting in limits}
    for name, path in files.items():
        predicted, affine = read_label_file(LabelFile(path, cases[name].labels))
        truth, spacing = classes_to_regions(read_classes(cases[name])[0]), spacing_of(affine)
        for setting in limits:
            regions = classes_to_regions(postprocess(predicted, spacing, setting))
            scores[setting][cases[name].patient] += [dice(*pair) for pair in zip(regions, truth, strict=True)]
    means = {setting: float(np.mean([np.mean(each) for each in found.values()])) for setting, found in scores.items()}
    table = pd.DataFrame([{**asdict(setting), "dice": mean} for setting, mean in means.items()])
    return max(limits, key=lambda setting: round(means[setting], 9)), table


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
