"""Patches for training, from prepared files or another source.

Patch number n of a training is a pure function of the seed and n: which case, which voxel, which random changes. It does
not depend on the number of workers, and a training that starts again at patch n goes on exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from helpers.data.patches import (
    draw_centre,
    draw_patch,
    pad_patch,
    patch_slices,
    training_transforms,
)
from helpers.training.before.cache import open_cases
from helpers.training.before.processes import Processes
from helpers.training.before.sampling import StepBatches
from helpers.training.before.source import PatchSource
from helpers.workspace import DataError

__all__ = ["CaseDataModule", "PatchDataset", "draw_centre", "pad_patch", "patch_slices"]

ORDER, PATCH = 0, 1
"""Streams of random numbers drawn from one seed: the order of cases, and everything about a patch."""


class PatchDataset(Dataset):
    """A fixed number of training patches, drawn by `helpers.data.patches.draw_patch`.

    Every pass over the cases is a fresh permutation.

    Parameters
    ----------
    paths : sequence of Path
        Prepared files with labels.
    patch : sequence of 3 int
        Edges in voxels.
    count : int
        Number of patches.
    seed : int
    tumour_share, transforms
        As in `draw_patch`.
    cache, sharers
        As in `helpers.training.before.cache.open_cases`.

    Items are dictionaries of ``image`` float32 (4, X, Y, Z) and ``regions`` bool (3, X, Y, Z).
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        patch: Sequence[int],
        count: int,
        seed: int,
        tumour_share: float = 2 / 3,
        transforms: Callable | None = None,
        cache: str = "mapped",
        sharers: int = 1,
    ) -> None:
        if not paths:
            raise DataError("there is no prepared case to train on", "look at the faults that preprocessing listed")
        self.paths, self.patch, self.count, self.seed = tuple(map(Path, paths)), tuple(patch), count, seed
        self.tumour_share, self.transforms = tumour_share, transforms
        self.files = open_cases(self.paths, cache, sharers=sharers)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        generator = np.random.default_rng((self.seed, PATCH, index))
        return draw_patch(
            self.files[self.path(index)],
            generator,
            patch=self.patch,
            foreground_probability=self.tumour_share,
            transforms=self.transforms,
        )

    def path(self, index: int) -> Path:
        """Prepared file that patch number `index` comes from."""
        turn, position = divmod(index, len(self.paths))
        order = np.random.default_rng((self.seed, ORDER, turn)).permutation(len(self.paths))
        return self.paths[order[position]]


class CaseDataModule(lightning.LightningDataModule):
    """Patches of the training cases. (Validation cases are read whole by `helpers.training.before.validation.Validation`.)

    Parameters
    ----------
    training : sequence of Path, or PatchSource
        Prepared files with labels, or what gives patches ready for the network: `tumour_share`, `transforms`, `augment` and
        `cache` do not apply to it.
    patch : sequence of 3 int
        Edges in voxels.
    batch, steps, first, accumulate
        As in `helpers.training.before.sampling.StepBatches`: the loader is exactly one training long, from step `first` on.
    seed, tumour_share, cache
        As in `PatchDataset`.
    workers : int
        Processes that read patches ahead; 0 reads in between the steps.
    transforms : callable, optional
        Random changes to a patch; `helpers.data.patches.training_transforms` if left out.
    augment : bool
        False leaves the patches as they are.
    processes : Processes
        Which share of every step is this process's.
    """

    def __init__(
        self,
        training: Sequence[Path] | PatchSource,
        *,
        patch: Sequence[int],
        batch: int,
        steps: int,
        seed: int,
        first: int = 0,
        accumulate: int = 1,
        tumour_share: float = 2 / 3,
        cache: str = "mapped",
        workers: int = 0,
        transforms: Callable | None = None,
        augment: bool = True,
        processes: Processes | None = None,
    ) -> None:
        super().__init__()
        processes = processes or Processes()
        self.workers, self.patches = workers, training
        self.batches = StepBatches(batch, steps, first=first, accumulate=accumulate, rank=processes.rank, world=processes.world)
        count = batch * steps
        if not isinstance(training, PatchSource):
            self.patches = PatchDataset(
                training,
                patch=patch,
                count=count,
                seed=seed,
                tumour_share=tumour_share,
                transforms=(transforms or training_transforms(patch)) if augment else None,
                cache=cache,
                sharers=processes.local_world,
            )
        elif len(training) < count:
            raise DataError(f"the source has {len(training)} patches", f"{steps} steps of {batch} take {count}")

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.patches, batch_sampler=self.batches, num_workers=self.workers, pin_memory=torch.cuda.is_available()
        )
