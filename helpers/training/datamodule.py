"""Patches for training and whole cases for validation, read from prepared files without loading them.

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

from helpers.data.augment import training_transforms
from helpers.data.files import DataError
from helpers.data.patches import draw_centre, draw_patch, pad_patch, patch_slices
from helpers.data.prepared import open_prepared
from helpers.training.source import PatchSource

__all__ = ["CaseDataModule", "CaseDataset", "PatchDataset", "draw_centre", "pad_patch", "patch_slices"]

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
    ) -> None:
        if not paths:
            raise DataError("there is no prepared case to train on; look at the faults that preprocessing listed")
        self.paths, self.patch, self.count, self.seed = tuple(paths), tuple(patch), count, seed
        self.tumour_share, self.transforms = tumour_share, transforms

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        generator = np.random.default_rng((self.seed, PATCH, index))
        return draw_patch(
            open_prepared(self.path(index)),
            generator,
            patch=self.patch,
            tumour_share=self.tumour_share,
            transforms=self.transforms,
        )

    def path(self, index: int) -> Path:
        """Prepared file that patch number `index` comes from."""
        turn, position = divmod(index, len(self.paths))
        order = np.random.default_rng((self.seed, ORDER, turn)).permutation(len(self.paths))
        return self.paths[order[position]]


class CaseDataset(Dataset):
    """Whole prepared cases: ``image`` float32 (4, X, Y, Z) and ``classes`` uint8 (X, Y, Z)."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        prepared = open_prepared(self.paths[index]).load()
        image = np.asarray(prepared.image, dtype=np.float32)
        return {"image": torch.from_numpy(image), "classes": torch.from_numpy(np.asarray(prepared.classes))}


class CaseDataModule(lightning.LightningDataModule):
    """Patches of the training cases, and the validation cases whole.

    Parameters
    ----------
    training : sequence of Path, or PatchSource
        Prepared files with labels, or what gives patches ready for the network: `tumour_share`, `transforms` and `augment`
        do not apply to it.
    validation : sequence of Path
        Prepared files with labels.
    patch : sequence of 3 int
        Edges in voxels.
    batch, steps : int
        Patches a step, and steps in all: the training loader is exactly one training long.
    seed, tumour_share
        As `PatchDataset`.
    workers : int
        Processes that read patches ahead; 0 reads in between the steps.
    transforms : callable, optional
        Random changes to a patch; `helpers.data.augment.training_transforms` if left out.
    augment : bool
        False leaves the patches as they are.
    """

    def __init__(
        self,
        training: Sequence[Path] | PatchSource,
        validation: Sequence[Path],
        *,
        patch: Sequence[int],
        batch: int,
        steps: int,
        seed: int,
        tumour_share: float = 2 / 3,
        workers: int = 0,
        transforms: Callable | None = None,
        augment: bool = True,
    ) -> None:
        super().__init__()
        self.patches: Dataset | PatchSource
        if isinstance(training, PatchSource):
            if len(training) < batch * steps:
                raise DataError(f"the source has {len(training)} patches; {steps} steps of {batch} take {batch * steps}")
            self.patches = training
        else:
            changes = (transforms or training_transforms(patch)) if augment else None
            self.patches = PatchDataset(
                training, patch=patch, count=batch * steps, seed=seed, tumour_share=tumour_share, transforms=changes
            )
        self.count = batch * steps
        self.cases, self.batch, self.workers = CaseDataset(validation), batch, workers

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.patches,
            batch_size=self.batch,
            sampler=range(self.count),
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.cases, batch_size=None)
