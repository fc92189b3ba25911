"""Where patches come from when not from prepared files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class PatchSource(Protocol):
    """Training patches by number, such as phantoms that are made on the spot.

    Item n is a dictionary of ``image`` float32 (4, X, Y, Z) and ``regions`` bool (3, X, Y, Z), cut, changed and normalised
    ready for the network. It must be a pure function of n: a training that goes on after an interruption, or in another
    number of processes, asks for the same numbers again.

    Attributes
    ----------
    fingerprint : str
        Changes whenever any item does; becomes part of the cohort's hash on the model card.
    spacing : sequence of 3 float
        Voxel edges in mm.
    preprocessing : mapping
        Fields of `helpers.data.prepared.PreprocessSettings` that the patches are equal to; those of the validation files.
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
