"""Several networks that answer as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


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
