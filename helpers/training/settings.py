"""Everything that decides a training, apart from the cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from helpers.data.files import DataError
from helpers.evaluation.cleanup import CleanUp
from helpers.models.networks import NETWORKS, check_patch
from helpers.training.loss import LOSSES

PRECISIONS: tuple[str, ...] = ("auto", "32-true", "bf16-mixed")
DEVICES: tuple[str, ...] = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training.

    Attributes
    ----------
    network : str
        Key of `helpers.models.networks.NETWORKS`.
    arguments : mapping
        Arguments of the network; what is left out takes its default.
    patch : tuple of 3 int
        Edges of a patch in voxels.
    batch : int
        Patches a step.
    steps : int
        Optimiser steps in all.
    learning_rate, weight_decay : float
        Of AdamW; the learning rate is the highest of the schedule.
    warmup : float
        Share of the training during which the learning rate rises, 0 to 1.
    loss : str
        Key of `helpers.training.loss.LOSSES`.
    clip : float
        Largest norm of the gradient.
    tumour_share : float
        Share of patches around a tumour voxel, 0 to 1.
    augment : bool
        Random flips, rotations, noise and intensity changes.
    validate_every : int
        Steps between validations; the last step is always validated.
    minutes : float
        Time limit, validation included; 0 means none. Two networks with the same limit have equal budgets.
    seed : int
        Same seed, same weights, on one CPU with the same number of threads.
    clean_tumour_ml, clean_enhancing_ml : float
        Limits of `helpers.evaluation.cleanup.CleanUp` in validation and prediction; 0 switches a rule off.
    precision : str
        "auto" (bf16 on a GPU, else 32 bit), "32-true" or "bf16-mixed".
    device : str
        "auto" (a GPU where there is one), "cpu" or "cuda".
    workers : int
        Processes that read patches ahead; 0 reads in between the steps.
    """

    network: str = "unet"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    patch: tuple[int, int, int] = (64, 64, 64)
    batch: int = 2
    steps: int = 600
    learning_rate: float = 3e-3
    weight_decay: float = 1e-5
    warmup: float = 0.05
    loss: str = "dice+bce"
    clip: float = 1.0
    tumour_share: float = 2 / 3
    augment: bool = True
    validate_every: int = 100
    minutes: float = 0.0
    seed: int = 2021
    clean_tumour_ml: float = CleanUp.tumour_ml
    clean_enhancing_ml: float = CleanUp.enhancing_ml
    precision: str = "auto"
    device: str = "auto"
    workers: int = 0

    @property
    def cleanup(self) -> CleanUp:
        """Limits of the clean-up."""
        return CleanUp(tumour_ml=self.clean_tumour_ml, enhancing_ml=self.clean_enhancing_ml)

    def __post_init__(self) -> None:
        """Raise `DataError` with the first setting that cannot be."""
        if self.network not in NETWORKS:
            raise DataError(f"there is no network {self.network!r}; choose one of {', '.join(NETWORKS)}")
        for name in ("batch", "steps", "validate_every", "learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise DataError(f"{name} is {getattr(self, name)}; it must be greater than 0")
        for name in ("warmup", "tumour_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        for name in ("minutes", "workers", "weight_decay", "clean_tumour_ml", "clean_enhancing_ml"):
            if getattr(self, name) < 0:
                raise DataError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name, choices in (("loss", tuple(LOSSES)), ("precision", PRECISIONS), ("device", DEVICES)):
            if getattr(self, name) not in choices:
                raise DataError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        check_patch(self.patch, self.network, **self.arguments)
