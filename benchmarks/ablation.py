"""Which choices matter, with more patients, steps and folds than notebook 03 has time for.

python benchmarks/ablation.py --cohort FOLDER [--spacing 2] [--patch 48] [--steps 600] [--repeats 3] [--csv scores.csv]

Without --cohort, phantoms are made. Prints the table of effects on the mean Dice and by region: the mean difference to the
baseline on the same patients, its 95 % bootstrap interval, and the p of the Wilcoxon test corrected for the number of variants.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from statsmodels.stats.multitest import multipletests

from brats_cohort.cases import discover
from brats_cohort.checks import check_cohort
from brats_cohort.files import write_atomically
from brats_cohort.regions import REGIONS
from brats_cohort.splits import SplitManifest, make_splits
from glioma_phantom import PhantomSettings, write_cohort
from helpers.data.prepared import PreparedFile
from helpers.data.preprocess import PreprocessSettings, prepare_cohort
from helpers.evaluation.metrics import score_case
from helpers.evaluation.predict import segment_prepared
from helpers.evaluation.statistics import bootstrap_interval
from helpers.models.checkpoints import load_checkpoint
from helpers.training.settings import TrainSettings
from helpers.training.train import train

BASELINE = "as it is"
SMALLEST_TEST = 6
"""With fewer patients that differ, the Wilcoxon test cannot fall below p = 0.05 whatever the scores are (2 / 2^5 = 0.0625)."""


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
    "patches anywhere": Variant("patch sampling", {"foreground_probability": 0.0}),
    "patches around tumour only": Variant("patch sampling", {"foreground_probability": 1.0}),
    "without": Variant("augmentation", {"augment": False}),
}
"""What is compared: Dice plus cross-entropy, z-scores, two patches of three around tumour, augmented, and one change each."""


def run_ablation(
    settings: TrainSettings,
    manifest: SplitManifest,
    prepared: Mapping[str, Mapping[str, Path]],
    variants: Mapping[str, Variant],
) -> Iterator[pd.DataFrame]:
    """Train every variant on every fold and score each fold's cases on the prepared grid; yield the scores of each variant.

    Parameters
    ----------
    settings : TrainSettings
        Of the baseline; fold k adds k to the seed.
    manifest : SplitManifest
    prepared : mapping from normalisation to mapping from identifier to Path
        Prepared files of all cases outside the test part.
    variants : mapping from name to Variant

    Yields
    ------
    DataFrame
        ``variant, fold, patient, case, region``, the columns of `helpers.evaluation.metrics.score_case`, and
        ``checkpoint``, the SHA-256 of the weights, which are not kept.
    """
    first = ["variant", "fold", "patient", "case", "region"]
    for name, variant in variants.items():
        tables = []
        for fold in range(len(manifest.folds)):
            changed = replace(settings, **variant.changes, seed=settings.seed + fold)
            changed = replace(changed, validate_every=changed.steps)
            table = _train_and_score(changed, manifest, prepared[variant.normalise], fold)
            tables.append(table.assign(variant=name, fold=fold))
        scores = pd.concat(tables, ignore_index=True)
        print(f"{variant.question:15} {name:28} mean Dice {scores['dice'].mean():.3f}")
        yield scores[[*first, *scores.columns.difference(first, sort=False)]]


def ablation_table(scores: pd.DataFrame, variants: Mapping[str, Variant]) -> pd.DataFrame:
    """Mean over the regions of each variant, and what it gains or loses against the baseline on the same patients.

    Parameters
    ----------
    scores : DataFrame
        What `run_ablation` yields, of the baseline and other variants.
    variants : mapping from name to Variant

    Returns
    -------
    DataFrame
        One row a variant, its name as index: ``question, n`` (patients), ``mean``, ``difference, low, high`` (variant minus
        baseline, with the 95 % bootstrap interval over patients), ``p, p_holm`` (Wilcoxon, corrected for all rows).
    """
    sessions = scores.groupby(["variant", "patient", "case"])["dice"].mean()
    per_case = sessions.groupby(["variant", "patient"]).mean().unstack("variant")  # sessions of a patient count as one
    rows = {}
    for name in (name for name in variants if name in per_case):
        row = {"question": variants[name].question, "n": len(per_case), "mean": bootstrap_interval(per_case[name]).mean}
        if name != BASELINE:
            differences = (per_case[name] - per_case[BASELINE]).round(9)
            differing, spread = differences[differences != 0], bootstrap_interval(differences)
            p = stats.wilcoxon(differing).pvalue if len(differing) >= SMALLEST_TEST else np.nan
            row |= {"difference": spread.mean, "low": spread.low, "high": spread.high, "p": p}
        rows[name] = row
    columns = ["question", "n", "mean", "difference", "low", "high", "p"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    made = table["p"].dropna()  # NaN: too few patients differ for a test
    corrected = multipletests(made, method="holm")[1] if len(made) else []
    return table.assign(p_holm=pd.Series(corrected, made.index, dtype=float))


def _train_and_score(settings: TrainSettings, manifest: SplitManifest, files: Mapping[str, Path], fold: int) -> pd.DataFrame:
    parts = [[files[name] for name in manifest.part(part, fold=fold) if name in files] for part in ("train", "val")]
    with tempfile.TemporaryDirectory() as folder:
        result = train(settings, *parts, out=Path(folder), split_hash=manifest.sha256)
        network, card = load_checkpoint(result.checkpoint, device="cuda" if torch.cuda.is_available() else "cpu")
    tables = []
    for path in parts[1]:
        prepared = PreparedFile(path).load()
        classes = segment_prepared(network, card, prepared.image)
        patient = manifest.patients[prepared.identifier]
        table = score_case(classes, np.asarray(prepared.classes), card.spacing)
        tables.append(table.assign(case=prepared.identifier, patient=patient))
    return pd.concat(tables).assign(checkpoint=card.weights_sha256)


def main() -> None:
    """Prepare, train every variant on every fold, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", type=Path, help="folder of cases; phantoms are made where it is left out")
    parser.add_argument("--cases", type=int, default=60, help="phantoms to make")
    parser.add_argument("--spacing", type=float, default=4.0, help="mm")
    parser.add_argument("--patch", type=int, default=16, help="voxels along an edge")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--channels", type=int, nargs="+", default=(16, 32, 64))
    parser.add_argument("--repeats", type=int, default=1, help="seeds a fold; their scores are averaged patient by patient")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME",
                        help=f"besides the baseline: {', '.join(name for name in VARIANTS if name != BASELINE)}")  # fmt: skip
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=2021)
    parser.add_argument("--csv", type=Path, help="write one row for each variant, fold, case and region, after every variant")
    arguments = parser.parse_args()
    chosen = {name: VARIANTS[name] for name in (BASELINE, *arguments.variants)}
    torch.set_num_threads(max(1, arguments.workers))
    with tempfile.TemporaryDirectory() as folder:
        scores = measure(arguments, chosen, Path(folder))
    averaged = scores.groupby(["variant", "patient", "case", "region"], as_index=False)["dice"].mean()
    for title, part in {"mean of the regions": averaged, **{r: averaged[averaged["region"] == r] for r in REGIONS}}.items():
        print(f"\nDice, {title}\n{ablation_table(part, chosen).round(4).to_string(na_rep='')}")


def measure(arguments: argparse.Namespace, variants: Mapping[str, Variant], folder: Path) -> pd.DataFrame:
    """Scores of every variant, fold and repeat."""
    cohort = arguments.cohort or folder / "phantoms"
    if not arguments.cohort:
        phantoms = PhantomSettings(spacing=min(arguments.spacing, 2.0), seed=arguments.seed)
        write_cohort(cohort, arguments.cases, phantoms, workers=arguments.workers)
    report = check_cohort(discover(cohort), workers=arguments.workers)
    for fault in report.faults:
        print(f"{fault.severity}: {fault}")
    manifest = make_splits(report.usable, report.facts, seed=arguments.seed)
    outside = [case for case in report.usable if case.identifier not in manifest.test]
    prepared = {
        normalise: prepare_cohort(
            outside,
            folder / normalise,
            PreprocessSettings(spacing=(arguments.spacing,) * 3, normalise=normalise),
            workers=arguments.workers,
        ).paths
        for normalise in {variant.normalise for variant in variants.values()}
    }
    settings = TrainSettings(
        arguments={"channels": tuple(arguments.channels)},
        patch=(arguments.patch,) * 3,
        batch=arguments.batch,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    print(f"{len({case.patient for case in outside})} patients, {len(manifest.folds)} folds, {torch.get_num_threads()} threads")
    tables, start = [], time.perf_counter()
    for repeat in range(arguments.repeats):
        again = replace(settings, seed=arguments.seed + 1000 * repeat)
        for table in run_ablation(again, manifest, prepared, variants):
            tables.append(table.assign(repeat=repeat))
            scores = pd.concat(tables, ignore_index=True)
            if arguments.csv:
                with write_atomically(arguments.csv) as temporary:
                    scores.to_csv(temporary, index=False)
    print(f"{time.perf_counter() - start:.0f} s")
    return scores


if __name__ == "__main__":
    main()
