"""The loss: Dice plus binary cross-entropy over three overlapping regions, either of the two, or Dice plus another term."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import FocalLoss
from torch import autograd, distributed, nn
from torch.nn.functional import cross_entropy, interpolate

from helpers.workspace import DataError

SMOOTH = 1e-5
"""Added above and below the fraction bar of Dice: keeps it finite, and 1 where prediction and target are both empty."""

LOSSES: dict[str, tuple[str, ...]] = {
    "dice+bce": ("dice", "bce"),
    "dice": ("dice",),
    "bce": ("bce",),
    "dice+focal": ("dice", "focal"),
    "dice+ce": ("dice", "ce"),
}
"""Losses by name and what they add up. Dice alone and cross-entropy alone are there to be compared with their sum; focal loss
(Lin et al. 2017, gamma 2) turns away from voxels that are easy; ce is for classes that exclude each other."""

ONLY: dict[str, str] = {"bce": "sigmoid", "focal": "sigmoid", "ce": "softmax"}
"""Terms that fit only one activation of `helpers.models.networks`."""


class RegionLoss(nn.Module):
    """Sum of two losses, each the mean over TC, WT and ET.

    TC, WT and ET overlap, so each is a yes-or-no question of its own: a sigmoid and binary cross-entropy for every channel.
    (`monai.losses.DiceCELoss(sigmoid=True)` would use a softmax over the channels, which cannot say yes twice.)

    The soft Dice loss (Milletari et al. 2016) is taken over the whole batch, so a patch without, say, enhancing tumour is
    weighed together with one that has it. Where a region is empty in all of the batch, Dice is 1 whatever is predicted and
    its gradient vanishes; there the cross-entropy, averaged over all voxels, still pulls false positives down.

    Where several processes train together, the sums of Dice run over the patches of all of them: the loss, averaged over
    equal shares, is that of one process with the whole batch. (`monai.losses.DiceLoss(batch=True)`, which this equals in one
    process, would see the own share only.)

    A network with deep supervision gives several logits, the full size first. Each is compared with the target at its own
    size (nearest neighbour), weighed 1, 1/2, 1/4 and so on, in all 1 (Isensee et al. 2021).

    Parameters
    ----------
    name : str
        Key of `LOSSES`.
    activation : str
        Of `helpers.models.networks`. "softmax" is for classes that exclude each other, one channel each, the background first,
        of which the target marks exactly one a voxel.

    Raises
    ------
    DataError
        If a term does not fit the activation.
    """

    def __init__(self, name: str = "dice+bce", activation: str = "sigmoid") -> None:
        super().__init__()
        self.parts, self.activation = LOSSES[name], activation
        unfit = [part for part in self.parts if ONLY.get(part, activation) != activation]
        if unfit:
            raise DataError(f"loss {name} does not fit a network with {activation}", f"{unfit[0]} needs {ONLY[unfit[0]]}")
        self.cross_entropy, self.focal = nn.BCEWithLogitsLoss(), FocalLoss(gamma=2.0)

    def forward(self, logits: torch.Tensor | Sequence[torch.Tensor], regions: torch.Tensor) -> torch.Tensor:
        """Loss of logits (B, 3, X, Y, Z), or several of them, against a region map of 0 and 1 of any number type: a scalar.

        Any number of channels will do, and (X, Y) in place of (X, Y, Z).
        """
        levels = [logits] if isinstance(logits, torch.Tensor) else list(logits)
        weights = [0.5**level for level in range(len(levels))]
        losses = [weight * self._level(level, regions) for weight, level in zip(weights, levels, strict=True)]
        return torch.stack(losses).sum() / sum(weights)

    def _level(self, logits: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        logits = logits.float()  # bfloat16 sums over a million voxels would lose the small terms
        target = regions.to(logits.dtype)
        if target.shape[2:] != logits.shape[2:]:
            target = interpolate(target, size=logits.shape[2:], mode="nearest-exact")
        losses = {
            "dice": lambda: soft_dice_loss(logits.softmax(1) if self.activation == "softmax" else logits.sigmoid(), target),
            "bce": lambda: self.cross_entropy(logits, target),
            "focal": lambda: self.focal(logits, target),
            "ce": lambda: cross_entropy(logits, target),
        }
        return sum(losses[part]() for part in self.parts)


def soft_dice_loss(probabilities: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - 2 |P T| / (|P| + |T|) for every channel of (B, C, ...), summed over the batch of all processes; their mean."""
    axes = [axis for axis in range(target.ndim) if axis != 1]
    sums = torch.stack([(probabilities * target).sum(axes), probabilities.sum(axes) + target.sum(axes)])
    if distributed.is_available() and distributed.is_initialized():
        sums = _SumOverProcesses.apply(sums)
    return (1 - (2 * sums[0] + SMOOTH) / (sums[1] + SMOOTH)).mean()


class _SumOverProcesses(autograd.Function):
    """A sum over all processes that gradients flow through: each process's share has a part in every process's loss."""

    @staticmethod
    def forward(context: autograd.function.FunctionCtx, share: torch.Tensor) -> torch.Tensor:
        total = share.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: autograd.function.FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def segmentation_loss(name: str = "dice+bce", activation: str = "sigmoid") -> RegionLoss:
    """The loss that every network of this package is trained with, unless another of `LOSSES` is asked for."""
    return RegionLoss(name, activation)
