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
from helpers.data.prepared import PreparedFile, open_prepared
from helpers.regions import REGIONS, classes_to_regions
from helpers.training.source import PatchSource

ORDER, PATCH = 0, 1
"""Streams of random numbers drawn from one seed: the order of cases, and everything about a patch."""


class PatchDataset(Dataset):
    """A fixed number of training patches.

    Every pass over the cases is a fresh permutation. With probability `tumour_share` the patch lies around a voxel of TC,
    WT or ET, each equally often (of those that the case has), so that the small enhancing tumour is not drowned by oedema;
    otherwise around any voxel of the brain.

    Parameters
    ----------
    paths : sequence of Path
        Prepared files with labels.
    patch : sequence of 3 int
        Edges in voxels.
    count : int
        Number of patches.
    seed : int
    tumour_share : float
        0 to 1.
    transforms : callable, optional
        From sample to sample as in `helpers.data.augment`, with a method ``set_random_state(seed=)``. None changes nothing.

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
        file = open_prepared(self.path(index))
        slices = patch_slices(file.shape, draw_centre(file, generator, self.tumour_share), self.patch)
        image = pad_patch(file.image_patch(slices), self.patch)
        classes = pad_patch(file.classes_patch(slices)[None], self.patch)
        sample = {"image": torch.from_numpy(image.astype(np.float32)), "label": torch.from_numpy(classes)}
        if self.transforms is not None:
            self.transforms.set_random_state(seed=int(generator.integers(2**32)))
            sample = self.transforms(sample)
        image, classes = (torch.as_tensor(sample[key]) for key in ("image", "label"))
        image, classes = (tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor for tensor in (image, classes))
        return {"image": image, "regions": classes_to_regions(classes[0])}

    def path(self, index: int) -> Path:
        """Prepared file that patch number `index` comes from."""
        turn, position = divmod(index, len(self.paths))
        order = np.random.default_rng((self.seed, ORDER, turn)).permutation(len(self.paths))
        return self.paths[order[position]]


def draw_centre(file: PreparedFile, generator: np.random.Generator, tumour_share: float) -> tuple[int, int, int]:
    """Draw the voxel that a patch is to lie around; see `PatchDataset`."""
    if generator.random() < tumour_share:
        present = [region for region in REGIONS if file.voxel_count(region)]
        if present:
            region = present[generator.integers(len(present))]
            return file.voxel(region, int(generator.integers(file.voxel_count(region))))
    return file.voxel("brain", int(generator.integers(file.voxel_count("brain"))))


def patch_slices(shape: Sequence[int], centre: Sequence[int], patch: Sequence[int]) -> tuple[slice, slice, slice]:
    """Place a patch around a voxel and push it inside the volume; along an axis shorter than the patch, take all of it."""
    slices = []
    for length, middle, edge in zip(shape, centre, patch, strict=True):
        start = min(max(middle - edge // 2, 0), max(length - edge, 0))
        slices.append(slice(start, min(start + edge, length)))
    return tuple(slices)


def pad_patch(array: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """Pad the last three axes with 0 to the size of the patch, equally on both sides, as prediction pads small volumes."""
    missing = [edge - length for edge, length in zip(patch, array.shape[-3:], strict=True)]
    if not any(missing):
        return array
    return np.pad(array, [(0, 0)] * (array.ndim - 3) + [(gap // 2, gap - gap // 2) for gap in missing])


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
