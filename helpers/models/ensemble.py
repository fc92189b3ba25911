"""Several networks as one: the mean of their probabilities, each counting by its votes.

Networks that were trained on different patients or from different seeds make different mistakes, and a mistake that only one
of five makes is outvoted. The price is that everything takes five times as long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from helpers.data.files import DataError
from helpers.models.checkpoints import ModelCard, load_checkpoint
from helpers.models.networks import ENSEMBLE, Ensemble, ensemble_votes

SHARED = ("preprocessing", "patch", "cleanup")
"""Fields of the card in which the members of an ensemble must agree."""


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
        What the members have in common, with a network that `build_network` builds them all from; `weights_sha256` is the
        SHA-256 of theirs, sorted, one a line, and so are the other hashes; `mirrors` are the axes that all of them know,
        `training_cases` the cases that any of them was trained on, `training` lists each one's, and `metrics` is the mean of
        theirs.

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
    card = _shared_card(cards)
    return Ensemble(networks, ensemble_votes(card.arguments["members"])).eval(), card


def _shared_card(cards: Sequence[ModelCard]) -> ModelCard:
    names = set.intersection(*(set(card.metrics) for card in cards))
    members = [{"network": card.network, "arguments": dict(card.arguments)} for card in cards]
    if any(card.votes for card in cards):
        members = [
            each | {"votes": card.votes or (1.0,) * len(card.regions)} for each, card in zip(members, cards, strict=True)
        ]
    return replace(
        cards[0],
        network=ENSEMBLE,
        arguments={"members": members},
        votes=(),
        mirrors=tuple(sorted(set.intersection(*(set(card.mirrors) for card in cards)))),
        training_cases=tuple(sorted({case for card in cards for case in card.training_cases})),
        training={"members": [dict(card.training) for card in cards]},
        metrics={name: sum(card.metrics[name] for card in cards) / len(cards) for name in sorted(names)},
        **{name: _joint(getattr(card, name) for card in cards) for name in ("cohort_hash", "split_hash", "weights_sha256")},
    )


def _joint(hashes: Iterable[str]) -> str:
    """One hash for several: that of all of them, or the one that they all are."""
    hashes = sorted(hashes)
    return hashes[0] if len(set(hashes)) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
