"""What a profile measures, and patches for it where no cohort is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import Dataset

from helpers.models.networks import check_patch
from helpers.regions import MODALITIES, REGIONS


@dataclass(frozen=True)
class ProfileSettings:
    """What is profiled.

    Attributes
    ----------
    network : str
        Key of `helpers.models.networks.NETWORKS`.
    arguments : mapping
        Of the network.
    patch : tuple of 3 int
        Edges in voxels.
    batch : int
        Patches a step.
    steps : int
        Measured steps.
    workers : int
        Processes that read ahead; 0 reads in between the steps.
    bf16 : bool
        Whether the forward pass computes in bfloat16.
    device : str
    seed : int
    """

    network: str = "unet"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    patch: tuple[int, int, int] = (64, 64, 64)
    batch: int = 2
    steps: int = 5
    workers: int = 0
    bf16: bool = False
    device: str = "cpu"
    seed: int = 2021
    ladder: bool = True
    compiled: bool = False

    def __post_init__(self) -> None:
        check_patch(self.patch, self.network, **self.arguments)

    @property
    def number_format(self) -> str:
        """Of the matrix products."""
        return "bf16" if self.bf16 else "fp32"


class NoisePatches(Dataset):
    """Patches of noise with a cube of tumour, where no cohort is given: the network computes the same, reading is not seen."""

    def __init__(self, settings: ProfileSettings, count: int) -> None:
        self.settings, self.count = settings, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.settings.seed + index)
        arguments = self.settings.arguments
        image = torch.randn(arguments.get("in_channels", len(MODALITIES)), *self.settings.patch, generator=generator)
        regions = torch.zeros(arguments.get("out_channels", len(REGIONS)), *self.settings.patch, dtype=torch.bool)
        regions[(slice(None), *(slice(edge // 2) for edge in self.settings.patch))] = True
        return {"image": image, "regions": regions}
