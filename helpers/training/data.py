"""Patches for training and whole cases for validation, from prepared files.

Patch number n is a pure function of the seed and n, and step k takes the patches k * batch and following: what a step consists
of depends neither on the number of workers or processes nor on where a training resumes.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from brats_cohort.files import DataError
from brats_cohort.regions import classes_to_regions
from helpers.data.patches import draw_patch
from helpers.data.prepared import PreparedFile
from helpers.training.settings import TrainSettings

ORDER, PATCH = 0, 1
"""Streams of random numbers drawn from one seed: the order of cases, and everything about a patch."""


class PatchDataset(Dataset):
    """Draw `count` training patches by number; every pass over the cases is a new permutation.

    `paths` are prepared files with labels; `patch` (edges in voxels), `foreground_probability` and `transforms` are those of
    `helpers.data.patches.draw_patch`. Items are dictionaries: ``image`` float32 (4, X, Y, Z), ``regions`` bool (3, X, Y, Z).
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        patch: Sequence[int],
        count: int,
        seed: int,
        foreground_probability: float = 2 / 3,
        transforms: Callable | None = None,
    ) -> None:
        if not paths:
            raise DataError("there is no prepared case to train on", "look at the faults that preprocessing listed")
        self.files, self.patch, self.count, self.seed = [PreparedFile(path) for path in paths], tuple(patch), count, seed
        self.foreground_probability, self.transforms = foreground_probability, transforms

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        options = {"foreground_probability": self.foreground_probability, "transforms": self.transforms}
        return draw_patch(self.file(index), np.random.default_rng((self.seed, PATCH, index)), patch=self.patch, **options)

    def file(self, index: int) -> PreparedFile:
        """Return the case that patch number `index` comes from."""
        turn, position = divmod(index, len(self.files))
        return self.files[np.random.default_rng((self.seed, ORDER, turn)).permutation(len(self.files))[position]]


class CaseDataset(Dataset):
    """Whole prepared cases: dictionaries of ``index``, ``image`` float32 (4, X, Y, Z) and ``regions`` bool (3, X, Y, Z).

    Past the last case come empty dictionaries, so that every process has equally many.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files = [PreparedFile(path) for path in paths]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        if index >= len(self):
            return {}
        case = self.files[index].load()
        image, regions = case.image.astype(np.float32), classes_to_regions(case.classes)
        return {"index": index, "image": torch.from_numpy(image), "regions": torch.from_numpy(regions)}


class StepBatches(Sampler[list[int]]):
    """List the patches of every part of every step from `first` on, of which process `rank` takes each `world`-th.

    Its length is that of the whole training: Lightning counts the batches before `first` as done. (A plain DataLoader would
    start again at batch 0.)
    """

    def __init__(self, batch: int, steps: int, *, first: int = 0, accumulate: int = 1, rank: int = 0, world: int = 1) -> None:
        if batch % (accumulate * world):
            problem = f"a batch of {batch} patches cannot be divided into {accumulate} parts for {world} processes"
            raise DataError(problem, f"take a multiple of {accumulate * world}")
        self.batch, self.steps, self.first, self.accumulate = batch, steps, first, accumulate
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        part = self.batch // self.accumulate
        for start in range(self.first * self.batch, self.steps * self.batch, part):
            yield list(range(start + self.rank, start + part, self.world))


def ignore_ctrl_c(worker: int) -> None:
    """Leave Ctrl-C, which every process of a terminal gets, to the training: it needs its workers up to the end of the step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class CaseDataModule(LightningDataModule):
    """Load patches for training, of a `PatchDataset` or another whose items depend on their number only, and whole cases."""

    def __init__(self, patches: Dataset, cases: CaseDataset, settings: TrainSettings) -> None:
        super().__init__()
        self.patches, self.cases, self.settings = patches, cases, settings
        self.options = {"num_workers": settings.workers, "pin_memory": torch.cuda.is_available()}
        self.options["worker_init_fn"] = ignore_ctrl_c

    def train_dataloader(self) -> DataLoader:
        """Return one epoch that is the whole training, without the steps made before an interruption."""
        settings, trainer = self.settings, self.trainer
        process = {"rank": trainer.global_rank, "world": trainer.world_size, "accumulate": settings.accumulate}
        batches = StepBatches(settings.batch, settings.steps, first=trainer.global_step, **process)
        return DataLoader(self.patches, batch_sampler=batches, **self.options)

    def val_dataloader(self) -> DataLoader:
        """Return the whole cases of this process, one at a time."""
        world = self.trainer.world_size
        share = range(self.trainer.global_rank, -(-len(self.cases) // world) * world, world)
        return DataLoader(self.cases, batch_size=None, sampler=share, **self.options)
