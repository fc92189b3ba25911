"""Fine-tuning on few real cases against training on them from scratch: ``python -m benchmarks.fine_tuning --cases FOLDER``.

Each complete case of the folder is the test case once; the others, in an order of their own, are what is learnt from. Nothing
is chosen by the test case: every training has the same number of steps and its last weights are scored, on the prepared grid.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.data.cases import discover
from helpers.data.preprocess import PreprocessSettings, prepare_cohort
from helpers.models.checkpoints import load_released
from helpers.regions import REGIONS
from helpers.training.before.transfer import transfer_scores


def main() -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, help="folder of cases with references")
    parser.add_argument("--format", default="auto", help="dataset format, such as brats2021, brats2023 or msd")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4], help="how many cases to learn from")
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps of every training")
    parser.add_argument("--patch", type=int, default=48, help="edge of a patch in voxels")
    arguments = parser.parse_args()
    network, card = load_released()
    cases = [case for case in discover(arguments.cases, arguments.format) if not case.missing and case.label]
    tables, start = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_cohort(cases, Path(folder), PreprocessSettings(**card.preprocessing)).paths
        for number, test in enumerate(prepared):
            others = [path for name, path in prepared.items() if name != test]
            order = np.random.default_rng(number).permutation(len(others))
            training = [others[place] for place in order]
            options = {"sizes": arguments.sizes, "steps": arguments.steps, "patch": (arguments.patch,) * 3}
            tables.append(transfer_scores(network, card, training, [prepared[test]], **options))
            print(f"{test} scored after {time.perf_counter() - start:.0f} s", flush=True)
    scores = pd.concat(tables, ignore_index=True)
    table = scores.pivot_table(index=["start", "cases"], columns="region", values="dice")[list(REGIONS)]
    table["mean"] = table.mean(axis=1)
    print(f"\nmean Dice over {len(prepared)} test cases, {arguments.steps} steps of 2 patches of {arguments.patch}^3\n")
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
