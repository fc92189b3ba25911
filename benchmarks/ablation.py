"""Which choices matter, with more patients, steps and folds than notebook 03 has time for.

python benchmarks/ablation.py --cohort FOLDER [--spacing 2] [--patch 48] [--steps 600] [--repeats 3] [--csv scores.csv]

Without --cohort, phantoms are made. Prints the table of effects on the mean Dice and by region: the mean difference to the
baseline on the same patients, its 95 % bootstrap interval, and the p of the Wilcoxon test corrected for the number of variants.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from glioma_phantom import PhantomSettings
from helpers.data.cases import discover
from helpers.data.checks import check_cohort
from helpers.data.phantoms import write_cohort
from helpers.data.preprocess import PreprocessSettings, prepare_cohort
from helpers.data.splits import make_splits
from helpers.regions import REGIONS
from helpers.training.before.ablation import VARIANTS, ablation_table, run_ablation
from helpers.training.before.settings import TrainSettings


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
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=2021)
    parser.add_argument("--csv", type=Path, help="write one row for each variant, fold, case and region here")
    arguments = parser.parse_args()
    torch.set_num_threads(max(1, arguments.workers))
    with tempfile.TemporaryDirectory() as folder:
        scores = measure(arguments, Path(folder))
    if arguments.csv:
        scores.to_csv(arguments.csv, index=False)
    averaged = scores.groupby(["variant", "case", "region"], as_index=False)["dice"].mean()
    chosen = {name: VARIANTS[name] for name in arguments.variants}
    for title, part in {"mean of the regions": averaged, **{r: averaged[averaged["region"] == r] for r in REGIONS}}.items():
        print(f"\nDice, {title}\n{ablation_table(part, variants=chosen).round(4).to_string(na_rep='')}")


def measure(arguments: argparse.Namespace, folder: Path) -> pd.DataFrame:
    """Scores of every variant, fold and repeat."""
    cohort = arguments.cohort or folder / "phantoms"
    if not arguments.cohort:
        phantoms = PhantomSettings(spacing=min(arguments.spacing, 2.0), seed=arguments.seed)
        write_cohort(cohort, arguments.cases, phantoms, workers=arguments.workers)
    report = check_cohort(discover(cohort), workers=arguments.workers)
    manifest = make_splits(report.usable, report.facts, seed=arguments.seed)
    outside = [case for case in report.usable if case.identifier not in manifest.test]
    prepared = {
        normalise: prepare_cohort(
            outside,
            folder / normalise,
            PreprocessSettings(spacing=(arguments.spacing,) * 3, normalise=normalise),
            workers=arguments.workers,
        ).paths
        for normalise in {VARIANTS[name].normalise for name in arguments.variants}
    }
    settings = TrainSettings(
        arguments={"channels": tuple(arguments.channels)},
        patch=(arguments.patch,) * 3,
        batch=arguments.batch,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    print(f"{len(outside)} patients, {len(manifest.folds)} folds, {torch.get_num_threads()} threads")
    tables, start = [], time.perf_counter()
    for repeat in range(arguments.repeats):
        again = replace(settings, seed=arguments.seed + 1000 * repeat)
        chosen = {name: VARIANTS[name] for name in arguments.variants}
        tables.append(run_ablation(again, manifest, prepared, variants=chosen, report=print).assign(repeat=repeat))
    print(f"{time.perf_counter() - start:.0f} s")
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    main()
