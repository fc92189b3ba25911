"""Ways to feed and run the same training: from files that are read and transformed every time to patches mapped from a disk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    Spacingd,
)
from torch import nn
from torch.utils.data import DataLoader

from helpers.data.cases import Case, convention_of
from helpers.data.patches import pad_patch, training_transforms
from helpers.data.prepared import PreparedFile
from helpers.data.preprocess import preprocess_case
from helpers.models.attention import fuse_attention
from helpers.models.networks import checkpoint_activations
from helpers.profiling.random_changes import SeededPatches, change_batches
from helpers.profiling.steps import TrainingStep
from helpers.regions import MODALITIES, to_classes
from helpers.training.before.datamodule import PatchDataset
from helpers.training.before.prefetch import Prefetch
from helpers.workspace import DataError

IMAGE, LABEL = "image", "label"
RAS = "RAS"


@dataclass(frozen=True)
class Recipe:
    """How a training is fed and run; the defaults are the naive way.

    Attributes
    ----------
    source : str
        Key of `SOURCES`.
    batch : int
        Patches a step.
    channels_last : bool
        Weights and images with the channels of a voxel side by side in memory.
    bf16 : bool
        Forward pass in bfloat16 by autocast.
    fused_optimiser : bool
        AdamW over all weights in one kernel, rather than one weight after the other.
    own_attention : bool
        `helpers.models.attention.fuse_attention`.
    workers : int
        Processes that read ahead.
    prefetch : bool
        `helpers.training.before.prefetch.Prefetch`: a thread prepares the next batch and copies it to a GPU.
    recompute : bool
        `helpers.models.networks.checkpoint_activations`: gradient checkpointing.
    changes : str
        Where the random changes of `helpers.data.patches` are made: "loader", "device", or empty for none.
    compiled : str
        Mode of torch.compile: "default", "reduce-overhead" (CUDA graphs), or empty for none.
    """

    source: str = "monai"
    batch: int = 1
    channels_last: bool = False
    bf16: bool = False
    fused_optimiser: bool = False
    own_attention: bool = False
    workers: int = 0
    prefetch: bool = False
    recompute: bool = False
    changes: str = ""
    compiled: str = ""


class WholeVolume(PreparedFile):
    """A prepared case of which every patch reads all."""

    def image_patch(self, slices: Sequence[slice]) -> np.ndarray:
        """Part of the image (4, x, y, z)."""
        self._whole = self.load()
        return self._whole.image[(slice(None), *slices)]

    def classes_patch(self, slices: Sequence[slice]) -> np.ndarray:
        """Part of the label map that came with the image of the last patch."""
        return self._whole.classes[tuple(slices)].copy()


class FromFiles(WholeVolume):
    """A case that this package prepares anew for every patch; the prepared file only says where tumour is."""

    def __init__(self, path: Path, case: Case) -> None:
        super().__init__(path)
        self.case = case

    def load(self) -> object:
        """Read and prepare the case."""
        return preprocess_case(self.case, self.settings)


class FromMonai(FromFiles):
    """A case that MONAI's transforms load, turn, resample and normalise for every patch.

    Its grid begins elsewhere by a part of a voxel, so that the patch is the same place in mm to half a voxel.
    """

    def image_patch(self, slices: Sequence[slice]) -> np.ndarray:
        """Part of the image (4, x, y, z) around the same millimetres."""
        start = [part.start for part in slices]
        length = [part.stop - part.start for part in slices]
        loaded = monai_transforms(self.settings.spacing)({IMAGE: _image_files(self.case), LABEL: self.case.label})
        image = loaded[IMAGE]
        place = np.linalg.inv(image.affine.numpy()) @ self.affine @ [*start, 1.0]
        first = [min(max(round(at), 0), max(n - m, 0)) for at, n, m in zip(place[:3], image.shape[1:], length, strict=True)]
        part = tuple(slice(at, at + m) for at, m in zip(first, length, strict=True))
        self._classes = pad_patch(
            to_classes(loaded[LABEL].numpy()[0].round().astype(np.uint8), convention_of(self.case))[part], length
        )
        return pad_patch(image.numpy()[(slice(None), *part)], length)

    def classes_patch(self, slices: Sequence[slice]) -> np.ndarray:
        """Part of the label map of the last patch."""
        return self._classes


SOURCES: dict[str, Callable[[Path, Case], PreparedFile]] = {
    "monai": FromMonai,
    "files": FromFiles,
    "prepared": lambda path, case: WholeVolume(path),
    "mapped": lambda path, case: PreparedFile(path),
}
"""Where a patch comes from, the slowest first: files through MONAI's transforms, files through this package's, whole prepared
volumes, and only the patch out of a mapped file."""


def monai_transforms(spacing: Sequence[float]) -> Compose:
    """The usual chain of MONAI for BraTS: load, orientation, spacing, crop to the brain, z-score over its voxels."""
    keys = (IMAGE, LABEL)
    return Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes=RAS, labels=None),
            Spacingd(keys, pixdim=tuple(spacing), mode=("bilinear", "nearest")),
            CropForegroundd(keys, source_key=IMAGE, margin=1, allow_smaller=True),
            NormalizeIntensityd(IMAGE, nonzero=True, channel_wise=True),
        ]
    )


def patches_of(recipe: Recipe, cases: Mapping[Path, Case], *, patch: Sequence[int], count: int, seed: int) -> PatchDataset:
    """The same `count` patches whatever the source: the seed alone draws their places and, if any, their random changes.

    Parameters
    ----------
    recipe : Recipe
    cases : mapping from Path to Case
        By prepared file.
    patch : sequence of 3 int
        Edges in voxels.
    count, seed : int
    """
    if recipe.source not in SOURCES:
        raise DataError(f"there is no source {recipe.source!r} of patches", f"choose one of {', '.join(SOURCES)}")
    kind = SeededPatches if recipe.changes == "device" else PatchDataset
    transforms = training_transforms(patch) if recipe.changes == "loader" else None
    patches = kind(list(cases), patch=patch, count=count, seed=seed, transforms=transforms)
    patches.files = {path: SOURCES[recipe.source](path, case) for path, case in cases.items()}
    return patches


def training_of(
    recipe: Recipe, network: nn.Module, patches: PatchDataset, *, device: str = "cpu", learning_rate: float = 1e-4
) -> TrainingStep:
    """A training of a copy of `network` by this recipe; a step takes `recipe.batch` patches."""
    layout = torch.channels_last_3d if recipe.channels_last else torch.contiguous_format
    network = copy.deepcopy(network).to(device).to(memory_format=layout).train()
    if recipe.own_attention:
        fuse_attention(network)
    if recipe.recompute:
        checkpoint_activations(network)
    options = {"fused": True} if recipe.fused_optimiser else {"foreach": False}
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, **options)
    loader = DataLoader(patches, batch_size=recipe.batch, num_workers=recipe.workers, pin_memory=torch.cuda.is_available())
    batches = Prefetch(loader, device=device) if recipe.prefetch else iter(loader)
    if recipe.changes == "device":
        batches = change_batches(batches, training_transforms(patches.patch), device)
    run = torch.compile(network, mode=recipe.compiled) if recipe.compiled else network
    return TrainingStep(run, optimiser, batches, device=device, bf16=recipe.bf16, last=recipe.channels_last)


def _image_files(case: Case) -> list[Path]:
    files = [case.images[modality].path for modality in MODALITIES]
    if len(set(files)) != len(files):
        raise DataError(f"case {case.identifier} keeps its modalities in one file", "the ladder reads one file a modality")
    return files
