"""Several networks that answer as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Ensemble(nn.Module):
    """Networks that answer together: the logits of the mean of their probabilities.

    As it gives logits like any network, everything that takes a network takes an ensemble. (Where a volume needs several
    sliding windows, their logits are blended after the mean, not before.)

    Parameters
    ----------
    members : sequence of Module
        At least one.
    votes : sequence of sequences of float, optional
        For each member how much each of its outputs counts, 0 or more; by default all count alike.
    """

    def __init__(self, members: Sequence[nn.Module], votes: Sequence[Sequence[float]] | None = None) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        counts = torch.ones(len(members), 1) if votes is None else torch.tensor(votes, dtype=torch.float32)
        self.register_buffer("shares", counts / counts.sum(dim=0), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """From image (B, 4, X, Y, Z) to logits (B, 3, X, Y, Z)."""
        shares = self.shares.view(*self.shares.shape, *[1] * (image.ndim - 2))
        mean = sum(member(image).float().sigmoid() * share for member, share in zip(self.members, shares, strict=True))
        return torch.logit(mean, eps=1e-7)
