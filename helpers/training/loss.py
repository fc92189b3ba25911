"""The loss: Dice plus binary cross-entropy over three overlapping regions, or either of the two."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import nn

LOSSES: dict[str, tuple[str, ...]] = {"dice+bce": ("dice", "bce"), "dice": ("dice",), "bce": ("bce",)}
"""Losses by name and what they add up. Dice alone and cross-entropy alone are there to be compared with their sum."""


class RegionLoss(nn.Module):
    """Sum of two losses, each the mean over TC, WT and ET.

    TC, WT and ET overlap, so each is a yes-or-no question of its own: a sigmoid and binary cross-entropy for every channel.
    (`monai.losses.DiceCELoss(sigmoid=True)` would use a softmax over the channels, which cannot say yes twice.)

    The soft Dice loss (Milletari et al. 2016) is taken over the whole batch, so a patch without, say, enhancing tumour is
    weighed together with one that has it. Where a region is empty in all of the batch, Dice is 1 whatever is predicted and
    its gradient vanishes; there the cross-entropy, averaged over all voxels, still pulls false positives down. The smoothing
    terms keep the quotient finite.

    Parameters
    ----------
    name : str
        Key of `LOSSES`.
    """

    def __init__(self, name: str = "dice+bce") -> None:
        super().__init__()
        self.parts = LOSSES[name]
        self.dice = DiceLoss(sigmoid=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)
        self.cross_entropy = nn.BCEWithLogitsLoss()

    def forward(self, logits: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Loss of `logits` (B, 3, X, Y, Z) against a region map of 0 and 1 of the same shape and any number type: a scalar."""
        logits = logits.float()  # bfloat16 sums over a million voxels would lose the small terms
        target = regions.to(logits.dtype)
        losses = {"dice": self.dice, "bce": self.cross_entropy}
        return sum(losses[part](logits, target) for part in self.parts)


def segmentation_loss(name: str = "dice+bce") -> RegionLoss:
    """The loss that every network of this package is trained with, unless another of `LOSSES` is asked for."""
    return RegionLoss(name)
