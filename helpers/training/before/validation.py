"""Validation on whole cases, shared out among the processes, each case scored exactly once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from helpers.data.prepared import Prepared, open_prepared
from helpers.evaluation.metrics import dice
from helpers.evaluation.postprocess import PostProcessing, label_map
from helpers.evaluation.predict import predict_image
from helpers.regions import classes_to_regions
from helpers.training.before.processes import Processes
from helpers.training.before.source import ValidationSource

SHOWN = 3


def dice_columns(regions: Sequence[str]) -> tuple[str, ...]:
    """Names of the scores of a validation: Dice of every region, then their mean."""
    return (*(f"dice_{region}" for region in regions), "dice_mean")


@dataclass(frozen=True, eq=False)
class ScoredCase:
    """A validation case as a picture of it needs it: the case, the predicted classes (X, Y, Z) and the mean Dice."""

    case: Prepared
    prediction: np.ndarray
    dice: float


@dataclass(frozen=True)
class PreparedCases:
    """Prepared files with labels, for validation.

    Attributes
    ----------
    paths : sequence of Path
    patch, multiple
        As in `helpers.evaluation.predict.predict_image`.
    spacing : sequence of 3 float
        Voxel edges of the prepared grid in mm.
    cleanup : PostProcessing
        What predicted label maps are treated with before they are scored.
    """

    paths: Sequence[Path]
    patch: Sequence[int]
    multiple: int
    spacing: Sequence[float]
    cleanup: PostProcessing

    def __len__(self) -> int:
        return len(self.paths)

    def score(self, network: nn.Module, index: int) -> tuple[list[float], ScoredCase]:
        """Dice of TC, WT and ET on the prepared grid, with the rule for empty regions of `helpers.evaluation.metrics`."""
        case = open_prepared(self.paths[index]).load()
        image = torch.from_numpy(np.asarray(case.image, dtype=np.float32))
        probabilities = predict_image(network, image, patch=self.patch, multiple=self.multiple)
        classes = label_map(probabilities.numpy(), case.image, self.spacing, self.cleanup)
        pairs = zip(classes_to_regions(classes), classes_to_regions(np.asarray(case.classes)), strict=True)
        scores = [dice(mask, truth) for mask, truth in pairs]
        return scores, ScoredCase(case, classes, float(np.mean(scores)))


@dataclass(frozen=True)
class Validation:
    """Scores a network on whole cases.

    Lightning's own loop is not used: between processes it would repeat cases to give each the same number, and it cannot
    be left in between, as a training that is told to end must.

    Attributes
    ----------
    cases : PreparedCases or ValidationSource
    regions : sequence of str
        Names of the scores of a case.
    processes : Processes
    """

    cases: PreparedCases | ValidationSource
    regions: Sequence[str]
    processes: Processes

    def run(self, network: nn.Module, interrupted: Callable[[], bool]) -> tuple[dict[str, float], list[Any]] | None:
        """Score every case with a network in evaluation mode, or return None where the training is to end.

        `interrupted` is asked in all processes after each case.

        Returns
        -------
        scores : dict
            By `dice_columns`: means over the cases, of every region and of them all.
        shown : list
            What a picture needs of a few cases, such as `ScoredCase`, in the first process.
        """
        scores, shown = np.zeros((len(self.cases), len(self.regions))), []
        for start in range(0, len(self.cases), self.processes.world):
            number = start + self.processes.rank
            if number < len(self.cases):
                scores[number], scored = self.cases.score(network, number)
                shown += [scored] if len(shown) < SHOWN else []
            if interrupted():
                return None
        means = self.processes.total(scores).mean(axis=0)
        return dict(zip(dice_columns(self.regions), [*means.tolist(), float(means.mean())], strict=True)), shown
