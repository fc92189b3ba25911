"""Which choices matter: train with one choice changed at a time and compare on the same patients.

Every variant is trained once for each fold of the split and scored on that fold, so every patient outside the test part is
scored once by a network that did not train on it, and the test part is not touched. The folds also bring fresh starting
weights and patches, so that a difference which stands over all of them is not one lucky seed. A network is validated once,
after its last step: nothing is chosen, and so no score is flattered.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from helpers.data.prepared import open_prepared
from helpers.data.splits import SplitManifest
from helpers.evaluation.metrics import score_case
from helpers.evaluation.predict import segment_prepared
from helpers.evaluation.statistics import bootstrap_interval, holm, paired_test
from helpers.models.checkpoints import load_checkpoint
from helpers.training.before.settings import TrainSettings
from helpers.training.before.train import train

BASELINE = "as it is"


@dataclass(frozen=True)
class Variant:
    """One choice made differently.

    Attributes
    ----------
    question : str
        What is varied, such as "loss".
    changes : mapping
        Fields of `TrainSettings` that differ from the baseline.
    normalise : str
        Normalisation of the prepared cases.
    """

    question: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    normalise: str = "zscore"


VARIANTS: dict[str, Variant] = {
    BASELINE: Variant(),
    "Dice alone": Variant("loss", {"loss": "dice"}),
    "cross-entropy alone": Variant("loss", {"loss": "bce"}),
    "min-max": Variant("normalisation", normalise="minmax"),
    "patches anywhere": Variant("patch sampling", {"tumour_share": 0.0}),
    "patches around tumour only": Variant("patch sampling", {"tumour_share": 1.0}),
    "without": Variant("augmentation", {"augment": False}),
}
"""What `run_ablation` compares by default: Dice plus cross-entropy, z-scores, two patches of three around tumour, augmented."""


def run_ablation(
    settings: TrainSettings,
    manifest: SplitManifest,
    prepared: Mapping[str, Mapping[str, Path]],
    *,
    variants: Mapping[str, Variant] = VARIANTS,
    folds: Sequence[int] | None = None,
    report: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Train every variant on every fold and score each fold's cases on the prepared grid.

    Parameters
    ----------
    settings : TrainSettings
        Of the baseline; fold k adds k to the seed.
    manifest : SplitManifest
    prepared : mapping from normalisation to mapping from identifier to Path
        Prepared files of all cases outside the test part.
    variants : mapping from name to Variant
    folds : sequence of int, optional
        All folds if left out.
    report : callable, optional
        Called with a line of text after every variant.

    Returns
    -------
    DataFrame
        ``variant, fold, case, region``, the columns of `helpers.evaluation.metrics.score_case`, ``seconds_per_step``, and
        ``checkpoint``, the SHA-256 of the weights, which are not kept.
    """
    tables = []
    for name, variant in variants.items():
        files = prepared[variant.normalise]
        for fold in range(len(manifest.folds)) if folds is None else folds:
            changed = replace(settings, **variant.changes, seed=settings.seed + fold)
            table = _train_and_score(replace(changed, validate_every=changed.steps), manifest, files, fold)
            tables.append(table.assign(variant=name, fold=fold))
        if report:
            mean = pd.concat([table for table in tables if (table["variant"] == name).all()])["dice"].mean()
            report(f"{variant.question:15} {name:28} mean Dice {mean:.3f}")
    scores = pd.concat(tables, ignore_index=True)
    first = ["variant", "fold", "case", "region"]
    return scores[[*first, *scores.columns.difference(first, sort=False)]]


def ablation_table(
    scores: pd.DataFrame, *, metric: str = "dice", variants: Mapping[str, Variant] = VARIANTS, baseline: str = BASELINE
) -> pd.DataFrame:
    """Mean over the regions of each variant, and what it gains or loses against the baseline on the same patients.

    Parameters
    ----------
    scores : DataFrame
        As `run_ablation` returns it.
    metric : str
        Column to compare.

    Returns
    -------
    DataFrame
        One row a variant, its name as index: ``question, n`` (patients), ``mean``, ``difference, low, high`` (variant minus
        baseline, with the 95 % bootstrap interval over patients), ``p, p_holm`` (Wilcoxon, corrected for all rows).
    """
    per_case = scores.groupby(["variant", "case"])[metric].mean().unstack("variant")
    rows = {}
    for name in (name for name in variants if name in per_case):
        row = {"question": variants[name].question, "n": len(per_case), "mean": bootstrap_interval(per_case[name]).mean}
        if name != baseline:
            result = paired_test(per_case[name], per_case[baseline])
            spread = result.difference
            row |= {"difference": spread.mean, "low": spread.low, "high": spread.high, "p": result.p_value}
        rows[name] = row
    columns = ["question", "n", "mean", "difference", "low", "high", "p"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.assign(p_holm=holm(table["p"]))


def _train_and_score(settings: TrainSettings, manifest: SplitManifest, files: Mapping[str, Path], fold: int) -> pd.DataFrame:
    parts = [[files[name] for name in manifest.part(part, fold=fold) if name in files] for part in ("train", "val")]
    with tempfile.TemporaryDirectory() as folder:
        result = train(settings, parts[0], validation=parts[1], out=Path(folder), split_hash=manifest.sha256)
        network, card = load_checkpoint(result.checkpoint, device="cuda" if torch.cuda.is_available() else "cpu")
    tables = []
    for path in parts[1]:
        prepared = open_prepared(path).load()
        classes = segment_prepared(network, card, prepared.image)
        tables.append(score_case(classes, np.asarray(prepared.classes), card.spacing).assign(case=prepared.identifier))
    return pd.concat(tables).assign(seconds_per_step=result.seconds_per_step, checkpoint=card.weights_sha256)
