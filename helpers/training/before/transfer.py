"""Few patients: a network that has learnt elsewhere goes on with them, or a fresh one starts from them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from helpers.data.patches import training_transforms
from helpers.data.prepared import open_prepared
from helpers.evaluation.metrics import dice
from helpers.evaluation.predict import segment_prepared
from helpers.models.checkpoints import ModelCard
from helpers.models.networks import build_network
from helpers.regions import REGIONS, classes_to_regions
from helpers.training.before.datamodule import PatchDataset
from helpers.training.before.loss import segmentation_loss

RATES: dict[str, float] = {"released": 2e-4, "scratch": 3e-3}
"""Highest learning rate by where the training starts: what has been learnt is to be moved, not to be overwritten."""


def fine_tune(
    network: nn.Module,
    training: Sequence[Path],
    *,
    patch: Sequence[int],
    steps: int,
    rate: float,
    batch: int = 2,
    seed: int = 2021,
    mirrors: Sequence[int] = (0, 1, 2),
) -> list[float]:
    """Train a network in place on patches of prepared cases; the learning rate falls in a straight line to 0.

    Parameters
    ----------
    network : Module
        On the device that is to compute.
    training : sequence of Path
        Prepared files with labels.
    patch : sequence of 3 int
        Edges in voxels.
    steps, batch, seed : int
    rate : float
        First learning rate of AdamW.
    mirrors : sequence of int
        As in `helpers.data.patches.training_transforms`.

    Returns
    -------
    list of float
        The loss of every step.
    """
    device = next(network.parameters()).device
    transforms = training_transforms(patch, flip_axes=mirrors)
    patches = PatchDataset(training, patch=patch, count=batch * steps, seed=seed, transforms=transforms)
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate)
    loss, course = segmentation_loss(), []
    network.train()
    for step, sample in enumerate(DataLoader(patches, batch_size=batch)):
        optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimiser.zero_grad()
        image = sample["image"].to(device).contiguous(memory_format=torch.channels_last_3d)
        value = loss(network(image), sample["regions"].to(device))
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        course.append(value.item())
    network.eval()
    return course


def score_prepared(network: nn.Module, card: ModelCard, paths: Sequence[Path]) -> pd.DataFrame:
    """Dice by ``case`` and ``region`` on the prepared grid, after the clean-up of the card."""
    rows = []
    for path in paths:
        case = open_prepared(path).load()
        found = segment_prepared(network, card, case.image)
        for region, mask, truth in zip(REGIONS, classes_to_regions(found), classes_to_regions(case.classes), strict=True):
            rows.append({"case": case.identifier, "region": region, "dice": dice(mask, truth)})
    return pd.DataFrame(rows)


def transfer_scores(
    network: nn.Module,
    card: ModelCard,
    training: Sequence[Path],
    test: Sequence[Path],
    *,
    sizes: Sequence[int] = (1, 2, 4),
    steps: int = 30,
    patch: Sequence[int] | None = None,
    batch: int = 2,
    seed: int = 2021,
) -> pd.DataFrame:
    """Score a network as it is, gone on with the first few training cases, and a fresh one trained on the same.

    Parameters
    ----------
    network, card
        As `helpers.models.checkpoints.load_released` returns them; the network is not changed.
    training, test : sequence of Path
        Prepared files with labels, on the grid of the card. Test cases are only scored.
    sizes : sequence of int
        How many of the training cases to take.
    steps, batch, seed : int
        Of every training.
    patch : sequence of 3 int, optional
        Edges in voxels; those of the card if left out.

    Returns
    -------
    DataFrame
        ``start`` ("released" or "scratch"), ``cases`` (0 for the network as it is), ``case``, ``region``, ``dice``.
    """
    tables = [score_prepared(network, card, test).assign(start="released", cases=0)]
    for size in sizes:
        for start, rate in RATES.items():
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                fresh = build_network(card.network, **card.arguments).to(next(network.parameters()).device)
            learner = copy.deepcopy(network) if start == "released" else fresh
            options = {"patch": patch or card.patch, "steps": steps, "batch": batch, "seed": seed, "mirrors": card.tta_axes}
            fine_tune(learner, training[:size], rate=rate, **options)
            tables.append(score_prepared(learner, card, test).assign(start=start, cases=size))
    return pd.concat(tables, ignore_index=True)
