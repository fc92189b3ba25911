"""``python -m helpers preprocess``: turn a cohort into prepared cases."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from helpers.data.cases import discover
from helpers.data.preprocess import PreprocessSettings, estimate_size, prepare_cohort
from helpers.regions import CONVENTIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    defaults = PreprocessSettings()
    parser.add_argument("cohort", type=Path, help="folder that holds the cases")
    parser.add_argument("--out", type=Path, required=True, help="folder for the prepared cases")
    parser.add_argument("--format", default="auto", help="dataset format, such as brats2021, brats2023 or msd")
    parser.add_argument(
        "--labels", default="auto", help="numbers of the references, such as brats2024; auto: as the cohort says"
    )
    parser.add_argument("--spacing", type=float, nargs="+", default=[1.0], help="voxel edge in mm, or three of them")
    parser.add_argument("--normalise", choices=("zscore", "minmax"), default=defaults.normalise, help="scale of intensities")
    parser.add_argument("--margin", type=int, default=defaults.margin, help="voxels kept around the brain")
    parser.add_argument("--correct-bias", action="store_true", help="take the bias field out first")
    parser.add_argument("--workers", type=int, default=None, help="cases at a time; None means one for each core")
    parser.add_argument("--prune", action="store_true", help="remove files made from other inputs or settings")


def run(arguments: argparse.Namespace) -> int:
    """Prepare the cohort and say what is there; status 1 if a case could not be prepared."""
    start = time.perf_counter()
    spacing = arguments.spacing * 3 if len(arguments.spacing) == 1 else arguments.spacing
    settings = PreprocessSettings(
        tuple(spacing), normalise=arguments.normalise, margin=arguments.margin, correct_bias=arguments.correct_bias
    )
    cases = discover(arguments.cohort, arguments.format, labels=arguments.labels)
    for key in dict.fromkeys(case.labels for case in cases if case.label):
        print(f"references are read with the numbers of {CONVENTIONS[key]}")
    print(f"{len(cases)} cases, about {estimate_size(cases, settings) / 1e6:.0f} MB when prepared")
    result = prepare_cohort(cases, arguments.out, settings, workers=arguments.workers, prune=arguments.prune)
    size = sum(path.stat().st_size for path in result.paths.values())
    for sentence in result.faults.values():
        print(f"left out: {sentence}")
    if result.pruned:
        print(f"removed {len(result.pruned)} files of other inputs or settings")
    print(
        f"{len(result.paths)} of {len(cases)} cases in {arguments.out} ({size / 1e6:.0f} MB): {len(result.made)} prepared, "
        f"{len(result.paths) - len(result.made)} there already ({time.perf_counter() - start:.1f} s)"
    )
    return 1 if result.faults else 0
