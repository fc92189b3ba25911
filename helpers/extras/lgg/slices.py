"""Slices for a network: from 256 x 256 bytes to the grid that it works on, changed at random, and back.

Intensities are scaled with numbers of the cohort, not of the slice: mean and standard deviation of every channel are those of
the training part, over tissue (`helpers.extras.lgg.air`). A statistic of the single slice would make a slice full of tumour
look like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    RandFlipd,
    RandGaussianNoised,
    RandRotated,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
    Transform,
)
from torch.nn.functional import interpolate

from helpers.data.patches import KEYS, InsideBrain
from helpers.extras.lgg.air import air_floor, count_values, tissue
from helpers.extras.lgg.cohort import (
    CHANNELS,
    EDGE,
    SliceFile,
    read_patient,
)
from helpers.models.networks import Task
from helpers.workspace import DataError

LGG = Task("lgg", CHANNELS, ("tumour",))
"""Three channels in, one mask out: the abnormality that FLAIR shows."""

SLICE = 3
"""Stream of random numbers of the slices of a training, beside those of `helpers.training.before`."""


@dataclass(frozen=True)
class SlicePreparation:
    """How slices become input of a network.

    Attributes
    ----------
    edge : int
        Pixels along either edge of the grid that the network works on; files have 256.
    mean, std : tuple of 3 float
        Of every channel over tissue, in units of the files (0 to 255).
    floor : tuple of 3 float
        Value of every channel that is still air.
    """

    edge: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    floor: tuple[float, ...] = (0.0,) * len(CHANNELS)

    def __post_init__(self) -> None:
        """Refuse what is no grid; take lists for tuples, as they come from a model card."""
        for name in ("mean", "std", "floor"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not 0 < self.edge <= EDGE:
            raise DataError(f"edge is {self.edge} pixels", f"give 1 to {EDGE}")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """For the model card; `of_card` reads it."""
        return {**asdict(self), "normalise": "cohort", "spacing": (EDGE / self.edge,) * 2}

    @classmethod
    def of_card(cls, preprocessing: Mapping[str, Any]) -> SlicePreparation:
        """The preparation that a model card names."""
        return cls(*(preprocessing[name] for name in ("edge", "mean", "std", "floor")))

    def __call__(self, images: np.ndarray) -> torch.Tensor:
        """From uint8 (N, 3, 256, 256) to float32 (N, 3, edge, edge); air becomes exactly 0."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).float()
        mean, std = (torch.tensor(each)[:, None, None] for each in (self.mean, self.std))
        inside = torch.from_numpy(tissue(images, self.floor))[:, None]
        scaled = torch.where(inside, (pixels - mean) / std, 0.0)  # before the grid: air would darken the rim of the head
        return self._resize(scaled, "bilinear", antialias=True)

    def masks(self, masks: np.ndarray) -> torch.Tensor:
        """From bool (N, 256, 256) to uint8 (N, 1, edge, edge), nearest neighbour."""
        return self._resize(torch.from_numpy(masks)[:, None].to(torch.uint8), "nearest-exact")

    def back(self, probabilities: torch.Tensor) -> np.ndarray:
        """From (N, 1, edge, edge) to float32 (N, 256, 256): probabilities are resized, a mask cut at 0.5 only then."""
        return interpolate(probabilities.float(), size=(EDGE, EDGE), mode="bilinear", align_corners=False)[:, 0].numpy()

    def _resize(self, pixels: torch.Tensor, mode: str, **options: bool) -> torch.Tensor:
        return pixels if self.edge == EDGE else interpolate(pixels, size=(self.edge, self.edge), mode=mode, **options)


def channel_statistics(
    patients: Iterable[Sequence[SliceFile]],
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel over the tissue in all slices, and the value that is still air: 0 to 255.

    From histograms, so that a cohort of any size needs the memory of one patient. What is bright in a channel, and so what is
    air, is known after all patients were read: each is read twice.
    """
    patients = list(patients)
    floor = air_floor(sum(count_values(read_patient(slices)[0]) for slices in patients))
    counts = _tissue_counts(patients, floor).sum(axis=1)
    values, total = np.arange(256), np.maximum(counts.sum(1), 1)
    mean = counts @ values / total
    spread = np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 0))
    return tuple(mean.tolist()), tuple(np.maximum(spread, 1.0).tolist()), floor


def contrast_histograms(
    patients: Iterable[Sequence[SliceFile]], floor: Sequence[float], *, bins: int = 64
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By channel, histograms over 0 to 256 of tissue outside and inside the mask; `bins` divides 256."""
    counts = _tissue_counts(patients, floor).reshape(len(CHANNELS), 2, bins, -1).sum(-1)
    return {name: tuple(pair) for name, pair in zip(CHANNELS, counts, strict=True)}


def _tissue_counts(patients: Iterable[Sequence[SliceFile]], floor: Sequence[float]) -> np.ndarray:
    """How often every channel has each value in tissue, outside and inside the mask: int64 (3, 2, 256)."""
    counts = np.zeros((len(CHANNELS), 2, 256), np.int64)
    for slices in patients:
        images, masks = read_patient(slices)
        inside = tissue(images, floor)
        for number in range(len(CHANNELS)):
            for part, chosen in enumerate((inside & ~masks, inside & masks)):
                counts[number, part] += np.bincount(images[:, number][chosen], minlength=256)
    return counts


def slice_changes(*, always: bool = False) -> dict[str, Transform]:
    """Random changes by name, each usable alone; with `always` each is applied whenever it is called, for a preview.

    Samples are ``image`` float32 (3, X, Y) and ``label`` uint8 (1, X, Y). Masks are turned with nearest neighbour, so that no
    value between tumour and none appears. Intensities change inside the brain only, see `helpers.data.patches`.
    """
    often, rarely = (1.0, 1.0) if always else (0.5, 0.2)
    turn = {"range_x": np.deg2rad(15), "mode": ("bilinear", "nearest"), "padding_mode": "zeros"}
    return {
        "left-right flip": RandFlipd(KEYS, prob=often, spatial_axis=1),
        "up-down flip": RandFlipd(KEYS, prob=often, spatial_axis=0),
        "rotation": RandRotated(KEYS, prob=often, **turn),
        "intensity scale": InsideBrain([RandScaleIntensityd("image", factors=0.2, prob=often, channel_wise=True)]),
        "intensity shift": InsideBrain([RandShiftIntensityd("image", offsets=0.2, prob=often, channel_wise=True)]),
        "Gaussian noise": InsideBrain([RandGaussianNoised("image", prob=rarely, std=0.15)]),
    }


def slice_transforms(patch: int) -> Compose:
    """All of `slice_changes`, after a crop of `patch` pixels somewhere; seed it with ``set_random_state``."""
    return Compose([RandSpatialCropd(KEYS, roi_size=(patch, patch), random_size=False), *slice_changes().values()])


class SliceSource:
    """Training slices by number: a `helpers.training.before.source.PatchSource`.

    Slice n is a pure function of the seed and n. A share of them is drawn among slices with tumour, the others among those
    without: in a patient about two slices of three have none.

    Parameters
    ----------
    patients : mapping from str to sequence of SliceFile
        The training part. All slices are kept in memory as the network takes them, in half precision: 0.5 MB each at 256
        pixels, a quarter of that at 128.
    preparation : SlicePreparation
    patch : int
        Pixels along either edge of a crop.
    count : int
        Number of slices that the training takes; slice n does not depend on it.
    seed : int
    tumour_share : float
        Share of slices with tumour, 0 to 1.
    augment : bool
        False leaves the slices as they are, cropped in the middle.
    """

    def __init__(
        self,
        patients: Mapping[str, Sequence[SliceFile]],
        preparation: SlicePreparation,
        *,
        patch: int,
        count: int,
        seed: int,
        tumour_share: float = 0.5,
        augment: bool = True,
    ) -> None:
        if patch > preparation.edge:
            raise DataError(
                f"crops of {patch} pixels do not fit into slices of {preparation.edge}", "lower patch or raise edge"
            )
        self.identifiers, self.preprocessing = tuple(patients), preparation.preprocessing
        self.spacing = self.preprocessing["spacing"]
        self.patch, self.count, self.seed, self.tumour_share, self.augment = patch, count, seed, tumour_share, augment
        self.transforms = slice_transforms(patch) if augment else CenterSpatialCropd(KEYS, roi_size=(patch, patch))
        parts = [self._prepare(slices, preparation) for slices in patients.values()]
        self._images, self._masks = (torch.cat(part) for part in zip(*parts, strict=True))
        has_tumour = (self._masks > 0).flatten(1).any(1).numpy()
        self._pools = [np.flatnonzero(~has_tumour), np.flatnonzero(has_tumour)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the slices and of all settings."""
        settings = (self.preprocessing, self.patch, self.seed, self.tumour_share, self.augment)
        digest = hashlib.sha256(repr(settings).encode())
        for array in (self._images, self._masks):
            digest.update(array.numpy())
        return digest.hexdigest()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        generator = np.random.default_rng((self.seed, SLICE, index))
        number = self.draw(generator)
        sample = {"image": self._images[number].float(), "label": self._masks[number]}
        if self.augment:
            self.transforms.set_random_state(seed=int(generator.integers(2**32)))
        sample = self.transforms(sample)
        return {"image": sample["image"].as_tensor(), "regions": sample["label"].as_tensor() > 0}

    def draw(self, generator: np.random.Generator) -> int:
        """Number of a slice: with tumour in `tumour_share` of all cases, as far as there are both kinds."""
        pool = self._pools[int(generator.random() < self.tumour_share)]
        pool = pool if len(pool) else np.arange(len(self._images))
        return int(pool[generator.integers(len(pool))])

    @staticmethod
    def _prepare(slices: Sequence[SliceFile], preparation: SlicePreparation) -> tuple[torch.Tensor, torch.Tensor]:
        images, masks = read_patient(slices)
        return preparation(images).half(), preparation.masks(masks)
