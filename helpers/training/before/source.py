"""Where patches and validation cases come from when not from prepared files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class PatchSource(Protocol):
    """Training patches by number, such as phantoms that are made on the spot.

    Item n is a dictionary of ``image`` float32 (4, X, Y, Z) and ``regions`` bool (3, X, Y, Z), or the channels and dimensions
    of another task, cut, changed and normalised ready for the network. It must be a pure function of n: a training that goes
    on after an interruption, or in another number of processes, asks for the same numbers again.

    Attributes
    ----------
    fingerprint : str
        Changes whenever any item does; becomes part of the cohort's hash on the model card.
    spacing : sequence of 3 float
        Voxel edges in mm.
    preprocessing : mapping
        What was done to the patches, for the model card; fields of `helpers.data.prepared.PreprocessSettings` where validation
        is on prepared files.

    A source of patients also has ``identifiers``, a sequence of str, which go onto the model card.
    """

    fingerprint: str
    spacing: Sequence[float]
    preprocessing: Mapping[str, Any]

    def __len__(self) -> int:
        """Number of patches, at least as many as the training takes."""
        ...

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Patch number `index`."""
        ...


@runtime_checkable
class ValidationSource(Protocol):
    """Validation cases that are not prepared files; each is scored in one process and counts once.

    Attributes
    ----------
    fingerprint : str
        Changes whenever any case does; becomes part of the cohort's hash on the model card.
    identifiers : sequence of str
        Names of the cases.
    """

    fingerprint: str
    identifiers: Sequence[str]

    def __len__(self) -> int:
        """Number of cases."""
        ...

    def score(self, network: nn.Module, index: int) -> tuple[Sequence[float], Any]:
        """Dice of every region that counts, of a case segmented by a network in evaluation mode; and what a picture needs."""
        ...
