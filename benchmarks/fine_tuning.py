"""Fine-tuning on few real cases against training on them from scratch: ``python -m benchmarks.fine_tuning --cases FOLDER``.

Each usable case of the folder is the test case once; the others, in an order of their own, are what is learnt from. Nothing is
chosen by the test case: every training has the same number of steps and its last weights are scored, on the prepared grid.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from helpers.data.cases import discover
from helpers.data.checks import check_cohort
from helpers.data.patches import training_transforms
from helpers.data.prepared import PreprocessSettings, open_prepared
from helpers.data.preprocess import prepare_cohort
from helpers.evaluation.metrics import dice
from helpers.evaluation.predict import segment_prepared
from helpers.models.checkpoints import ModelCard, load_released
from helpers.models.networks import build_network, channels_last
from helpers.regions import REGIONS, classes_to_regions
from helpers.training.data import PatchDataset
from helpers.training.loss import RegionLoss

RATES = {"released": 2e-4, "scratch": 3e-3}
"""Highest learning rate by where the training starts: what has been learnt is to be moved, not to be overwritten."""
SEED = 2021


def fine_tune(network: nn.Module, card: ModelCard, training: Sequence[Path], *, steps: int, patch: int, rate: float) -> None:
    """Train a network in place on patches of prepared cases; the learning rate falls in a straight line to 0."""
    edges = (patch,) * 3
    transforms = training_transforms(edges, mirrors=card.tta_axes)
    patches = PatchDataset(training, patch=edges, count=2 * steps, seed=SEED, transforms=transforms)
    optimiser, loss = torch.optim.AdamW(network.parameters(), lr=rate), RegionLoss()
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    network.train()
    for sample in DataLoader(patches, batch_size=2):
        optimiser.zero_grad()
        loss(network(channels_last(sample["image"])), sample["regions"]).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    network.eval()


def score(network: nn.Module, card: ModelCard, path: Path, start: str, count: int) -> list[dict]:
    """Dice by region of one prepared case, after the post-processing of the card."""
    case = open_prepared(path).load()
    masks, truths = (classes_to_regions(each) for each in (segment_prepared(network, card, case.image), case.classes))
    shared = {"start": start, "cases": count, "case": case.identifier}
    return [{**shared, "region": region, "dice": dice(*pair)} for region, *pair in zip(REGIONS, masks, truths, strict=True)]


def main() -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, help="folder of cases with references")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4], help="how many cases to learn from")
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps of every training")
    parser.add_argument("--patch", type=int, default=48, help="edge of a patch in voxels")
    arguments = parser.parse_args()
    network, card = load_released()
    cases = check_cohort(discover(arguments.cases), progress=False).usable
    rows, began = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_cohort(cases, Path(folder), PreprocessSettings(**card.preprocessing)).paths
        for number, test in enumerate(prepared):
            others = [path for name, path in prepared.items() if name != test]
            training = [others[place] for place in np.random.default_rng(number).permutation(len(others))]
            rows += score(network, card, prepared[test], "released", 0)
            for size in arguments.sizes:
                for start, rate in RATES.items():
                    torch.manual_seed(SEED)
                    learner = copy.deepcopy(network) if start == "released" else build_network(card.network, **card.arguments)
                    options = {"steps": arguments.steps, "patch": arguments.patch, "rate": rate}
                    fine_tune(learner, card, training[:size], **options)
                    rows += score(learner, card, prepared[test], start, size)
            print(f"{test} scored after {time.perf_counter() - began:.0f} s", flush=True)
    table = pd.DataFrame(rows).pivot_table(index=["start", "cases"], columns="region", values="dice")[list(REGIONS)]
    table["mean"] = table.mean(axis=1)
    print(f"\nmean Dice over {len(prepared)} test cases, {arguments.steps} steps of 2 patches of {arguments.patch}^3\n")
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
