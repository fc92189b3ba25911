"""The loss: Dice plus binary cross-entropy over three overlapping regions, or one of the two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import autograd, distributed, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

SMOOTH = 1e-5
"""Added above and below the fraction bar of Dice: keeps it finite, and 1 if prediction and target are both empty."""


class RegionLoss(nn.Module):
    """Add soft Dice loss and binary cross-entropy ("dice+bce"), each the mean over TC, WT and ET, or take one of the two.

    TC, WT and ET overlap, so each is a yes-or-no question: a sigmoid and binary cross-entropy for every channel.
    (`monai.losses.DiceCELoss(sigmoid=True)` uses a softmax over the channels, which cannot say yes twice.)

    The soft Dice loss (Milletari et al. 2016) is taken over the whole batch, so a patch without, say, enhancing tumour is
    weighed together with one that has it; under DDP over the patches of all processes. (`monai.losses.DiceLoss(batch=True)`,
    which this equals in one process, sees its own share only.) If a region is empty in all of the batch, the gradient of Dice
    vanishes; there the cross-entropy still pulls false positives down.

    A network with deep supervision returns several logits, the full size first; each is compared with the target at its own
    size, with weights 1, 1/2, 1/4 and so on, in all 1 (Isensee et al. 2021).
    """

    def __init__(self, name: str = "dice+bce") -> None:
        super().__init__()
        self.terms = [{"dice": soft_dice_loss, "bce": binary_cross_entropy_with_logits}[term] for term in name.split("+")]

    def forward(self, logits: torch.Tensor | Sequence[torch.Tensor], regions: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits (B, 3, X, Y, Z), or several of them, against a region map of 0 and 1: a scalar."""
        levels = [logits] if isinstance(logits, torch.Tensor) else logits
        losses = [0.5**level * self._level(each.float(), regions.float()) for level, each in enumerate(levels)]
        return torch.stack(losses).sum() / sum(0.5**level for level in range(len(levels)))

    def _level(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if target.shape[2:] != logits.shape[2:]:
            target = interpolate(target, size=logits.shape[2:], mode="nearest-exact")
        return sum(term(logits, target) for term in self.terms)


def soft_dice_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute 1 - 2 |P T| / (|P| + |T|) for every channel of (B, C, ...), summed over the batch of all processes; the mean."""
    axes = [axis for axis in range(target.ndim) if axis != 1]
    probabilities = logits.sigmoid()
    sums = torch.stack([(probabilities * target).sum(axes), probabilities.sum(axes) + target.sum(axes)])
    if distributed.is_available() and distributed.is_initialized():
        sums = _SumOverProcesses.apply(sums)
    return (1 - (2 * sums[0] + SMOOTH) / (sums[1] + SMOOTH)).mean()


class _SumOverProcesses(autograd.Function):
    """Sum over all processes and let gradients through: the share of each process is part of the loss of every process.

    (PyTorch has deprecated its own, `torch.distributed.nn.functional.all_reduce`.)
    """

    @staticmethod
    def forward(context: autograd.function.FunctionCtx, share: torch.Tensor) -> torch.Tensor:
        total = share.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: autograd.function.FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        return _SumOverProcesses.apply(gradient)
