"""Training crops by number, several a scan, around organs and around what is none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandFlipd, RandGaussianNoised, RandScaleIntensityd, RandShiftIntensityd

from helpers.data.patches import KEYS, pad_patch, patch_slices
from helpers.extras.ct.prepared import PreparedCtFile
from helpers.workspace import DataError

CROP, ORDER = 5, 6
"""Streams of random numbers, beside those of `helpers.training.before`: everything about a crop, and the order of the scans."""


class CropSource:
    """Training crops: a `helpers.training.before.source.PatchSource`.

    Crop n is a pure function of the seed and n. `samples` crops in a row come from one scan, then the next scan has its turn,
    in an order that every pass over the cohort shuffles anew.

    Parameters
    ----------
    paths : sequence of Path
        Prepared scans with labels.
    classes : int
        Labels, the background among them.
    preprocessing : mapping
        For the model card; must have ``spacing``.
    randcrop : sequence of 3 int
        Edges of a crop in voxels.
    samples : int
        Crops a scan and turn.
    positive, negative : float
        Ratio of crops around a voxel of an organ, each organ equally often, to crops around another voxel of the patient.
    count : int
        Number of crops that the training takes.
    seed : int
    augment : bool
        Small random changes of gain and offset, and noise.
    flips : float
        Probability of mirroring along each axis; mirrored left to right a patient has the liver on the wrong side, which the
        published experiments (0.2) accepted.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        classes: int,
        preprocessing: Mapping[str, Any],
        randcrop: Sequence[int],
        samples: int = 4,
        positive: float = 1.0,
        negative: float = 1.0,
        count: int,
        seed: int,
        augment: bool = True,
        flips: float = 0.0,
    ) -> None:
        if not paths:
            raise DataError("there is no prepared scan to train on", "look at the faults that preparation listed")
        if samples < 1 or min(positive, negative) < 0 or positive + negative <= 0:
            raise DataError(f"samples {samples} and ratio {positive} to {negative} give no crops", "take positive numbers")
        self.files = [PreparedCtFile(path) for path in paths]
        for file in self.files:
            if not file.tables:
                raise DataError(f"{file.path} has no reference label map", "training needs scans with one")
        self.identifiers = tuple(file.identifier for file in self.files)
        self.preprocessing, self.spacing = dict(preprocessing), preprocessing["spacing"]
        self.classes, self.randcrop, self.samples = classes, tuple(randcrop), samples
        self.positive_share = positive / (positive + negative)
        self.count, self.seed, self.augment, self.flips = count, seed, augment, flips

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the names of the files, which carry the hash of their contents, and of all settings."""
        settings = (self.preprocessing, self.randcrop, self.samples, self.positive_share, self.seed, self.augment, self.flips)
        names = sorted(file.path.name for file in self.files)
        return hashlib.sha256(repr((settings, names)).encode()).hexdigest()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        generator = np.random.default_rng((self.seed, CROP, index))
        file = self.scan(index)
        image, labels = file.patch(patch_slices(file.shape, self.centre(file, generator), self.randcrop))
        image, labels = pad_patch(image, self.randcrop), pad_patch(labels[None], self.randcrop)
        sample = {"image": torch.from_numpy(image.astype(np.float32)), "label": torch.from_numpy(labels)}
        if self.augment:
            changes = ct_changes(flips=self.flips)
            changes.set_random_state(seed=int(generator.integers(2**32)))
            sample = changes(sample)
        numbers = torch.arange(self.classes, dtype=torch.uint8)[:, None, None, None]
        image, labels = (value.as_tensor() if isinstance(value, MetaTensor) else value for value in map(sample.get, KEYS))
        return {"image": image.contiguous(), "regions": labels == numbers}

    def scan(self, index: int) -> PreparedCtFile:
        """The scan that crop number `index` comes from."""
        turn, position = divmod(index // self.samples, len(self.files))
        order = np.random.default_rng((self.seed, ORDER, turn)).permutation(len(self.files))
        return self.files[order[position]]

    def centre(self, file: PreparedCtFile, generator: np.random.Generator) -> np.ndarray:
        """Draw the voxel (x, y, z) that a crop lies around."""
        organs = [number for number in file.tables if number]
        positive = bool(organs) and (generator.random() < self.positive_share or 0 not in file.tables)
        table = file.tables[organs[generator.integers(len(organs))] if positive else 0]
        return table[generator.integers(len(table))]


def ct_changes(*, flips: float = 0.0) -> Compose:
    """Random changes of a sample with ``image`` float32 (1, X, Y, Z), 0 to 1, and ``label`` uint8 (1, X, Y, Z)."""
    mirrors = [RandFlipd(KEYS, prob=flips, spatial_axis=axis) for axis in range(3)] if flips else []
    return Compose(
        [
            *mirrors,
            RandScaleIntensityd("image", factors=0.1, prob=0.5),
            RandShiftIntensityd("image", offsets=0.05, prob=0.5),
            RandGaussianNoised("image", prob=0.2, std=0.02),
        ]
    )
