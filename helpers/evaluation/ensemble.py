"""Several networks as one: the mean of their probabilities.

Networks that were trained on different patients or from different seeds make different mistakes, and a mistake that only one
of five makes is outvoted. The price is that everything takes five times as long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from helpers.data.files import DataError
from helpers.models.checkpoints import ModelCard, load_checkpoint

SHARED = ("network", "arguments", "preprocessing", "patch", "cleanup")
"""Fields of the card in which the members of an ensemble must agree."""


class Ensemble(nn.Module):
    """Networks that answer together: the logits of the mean of their probabilities.

    As it gives logits like any network, everything that takes a network takes an ensemble. (Where a volume needs several
    sliding windows, their logits are blended after the mean, not before.)
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """From image (B, 4, X, Y, Z) to logits (B, 3, X, Y, Z)."""
        mean = sum(member(image).float().sigmoid() for member in self.members) / len(self.members)
        return torch.logit(mean, eps=1e-7)


def load_ensemble(paths: Sequence[Path], *, device: str | torch.device = "cpu") -> tuple[nn.Module, ModelCard]:
    """Load one or several checkpoints as one network.

    Parameters
    ----------
    paths : sequence of Path
        Weights with their cards, such as those of the folds of a cross-validation. One is the same as `load_checkpoint`.
    device : str or device

    Returns
    -------
    network : Module
        In evaluation mode.
    card : ModelCard
        What the members have in common; `weights_sha256` is the SHA-256 of theirs, sorted, one a line, `training_cases` the
        cases that any of them was trained on, and `metrics` the mean of theirs.

    Raises
    ------
    DataError
        If no path is given, one of them cannot be loaded, or the members expect different input.
    """
    if not paths:
        raise DataError("an ensemble needs at least one checkpoint; give the paths of its .safetensors files")
    loaded = [load_checkpoint(path, device=device) for path in paths]
    if len(loaded) == 1:
        return loaded[0]
    networks, cards = zip(*loaded, strict=True)
    for path, card in zip(paths[1:], cards[1:], strict=True):
        differing = [name for name in SHARED if getattr(card, name) != getattr(cards[0], name)]
        if differing:
            raise DataError(f"{path} differs from {paths[0]} in {', '.join(differing)}; an ensemble needs members of one kind")
    hashes = [card.weights_sha256 for card in cards]
    if len(set(hashes)) < len(hashes):
        raise DataError("an ensemble was given the same weights twice; name every checkpoint once")
    return Ensemble(networks).eval(), _shared_card(cards)


def _shared_card(cards: Sequence[ModelCard]) -> ModelCard:
    names = set.intersection(*(set(card.metrics) for card in cards))
    hashes = sorted(card.weights_sha256 for card in cards)
    return replace(
        cards[0],
        training_cases=tuple(sorted({case for card in cards for case in card.training_cases})),
        metrics={name: sum(card.metrics[name] for card in cards) / len(cards) for name in sorted(names)},
        weights_sha256=hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
    )
