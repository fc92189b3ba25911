"""Validation on whole cases, shared out among the processes, each case scored exactly once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from helpers.data.prepared import Prepared, open_prepared
from helpers.evaluation.cleanup import CleanUp
from helpers.evaluation.inference import label_map, predict_image
from helpers.evaluation.metrics import dice
from helpers.regions import REGIONS, classes_to_regions
from helpers.training.processes import Processes

DICE_COLUMNS = (*(f"dice_{region}" for region in REGIONS), "dice_mean")
SHOWN = 3


@dataclass(frozen=True, eq=False)
class ScoredCase:
    """A validation case as a picture of it needs it: the case, the predicted classes (X, Y, Z) and the mean Dice."""

    case: Prepared
    prediction: np.ndarray
    dice: float


@dataclass(frozen=True)
class Validation:
    """Scores a network on prepared cases.

    Lightning's own loop is not used: between processes it would repeat cases to give each the same number, and it cannot
    be left in between, as a training that is told to end must.

    Attributes
    ----------
    paths : sequence of Path
        Prepared files with labels.
    patch, multiple
        As in `helpers.evaluation.inference.predict_image`.
    spacing : sequence of 3 float
        Voxel edges of the prepared grid in mm.
    cleanup : CleanUp
        What predicted label maps are treated with before they are scored.
    processes : Processes
    """

    paths: Sequence[Path]
    patch: Sequence[int]
    multiple: int
    spacing: Sequence[float]
    cleanup: CleanUp
    processes: Processes

    def run(self, network: nn.Module, interrupted: Callable[[], bool]) -> tuple[dict[str, float], list[ScoredCase]] | None:
        """Score every case with a network in evaluation mode, or return None where the training is to end.

        `interrupted` is asked in all processes after each case.

        Returns
        -------
        scores : dict
            ``dice_TC``, ``dice_WT``, ``dice_ET`` and their mean ``dice_mean``: means over the cases of the Dice on the
            prepared grid, with the rule for empty regions of `helpers.evaluation.metrics`.
        shown : list of ScoredCase
            A few cases, in the first process.
        """
        scores, shown = np.zeros((len(self.paths), len(REGIONS))), []
        for start in range(0, len(self.paths), self.processes.world):
            number = start + self.processes.rank
            if number < len(self.paths):
                scores[number], scored = self._score(network, self.paths[number])
                shown += [scored] if len(shown) < SHOWN else []
            if interrupted():
                return None
        means = self.processes.total(scores).mean(axis=0)
        return dict(zip(DICE_COLUMNS, [*means.tolist(), float(means.mean())], strict=True)), shown

    def _score(self, network: nn.Module, path: Path) -> tuple[list[float], ScoredCase]:
        case = open_prepared(path).load()
        image = torch.from_numpy(np.asarray(case.image, dtype=np.float32))
        probabilities = predict_image(network, image, patch=self.patch, multiple=self.multiple)
        classes = label_map(probabilities.numpy(), self.spacing, self.cleanup)
        pairs = zip(classes_to_regions(classes), classes_to_regions(np.asarray(case.classes)), strict=True)
        scores = [dice(mask, truth) for mask, truth in pairs]
        return scores, ScoredCase(case, classes, float(np.mean(scores)))
