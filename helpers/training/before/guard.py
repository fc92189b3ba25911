"""What to do when a number is no longer finite: say which tensor it was, and stop or leave the step out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from helpers.workspace import DataError

NONFINITE: tuple[str, ...] = ("stop", "skip")


class NonFiniteError(DataError):
    """A loss, gradient or weight is infinite or not a number; the message names the first one and the step."""


def non_finite(network: nn.Module, loss: float) -> str:
    """Name the first tensor that is not finite: a weight, else the loss, else a gradient; empty where all are finite.

    The order is that of cause and effect: a bad weight spoils every loss, a bad loss every gradient.
    """
    weights = _names((name, parameter.detach()) for name, parameter in network.named_parameters())
    if weights:
        return f"the weight {weights}"
    if not torch.isfinite(torch.tensor(loss)):
        return f"the loss ({loss})"
    gradients = _names((name, weight.grad) for name, weight in network.named_parameters() if weight.grad is not None)
    return f"the gradient of {gradients}" if gradients else ""


def _names(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    found = [name for name, tensor in tensors if not torch.isfinite(tensor).all()]
    return found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "") if found else ""
