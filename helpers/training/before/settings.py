"""Everything that decides a training, apart from the cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from helpers.evaluation.postprocess import PostProcessing
from helpers.models.networks import NETWORKS, check_patch
from helpers.training.before.cache import CACHES
from helpers.training.before.guard import NONFINITE
from helpers.training.before.loggers import LOGGERS
from helpers.training.before.loss import LOSSES
from helpers.workspace import DataError

PRECISIONS: tuple[str, ...] = ("auto", "32-true", "bf16-mixed", "16-mixed")
DEVICES: tuple[str, ...] = ("auto", "cpu", "cuda")
CHOICES: dict[str, tuple[str, ...]] = {
    "loss": tuple(LOSSES),
    "nonfinite": NONFINITE,
    "precision": PRECISIONS,
    "device": DEVICES,
    "cache": CACHES,
    "logger": LOGGERS,
}
"""What a setting can be, where that is a list of words."""


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
    pretrained : str
        Weights to start from: a checkpoint of this package with the same network, or a file without a card, of which
        `helpers.models.checkpoints.load_pretrained` takes what fits; empty for none.
    batch : int
        Patches a step, in all processes together.
    accumulate : int
        Equal parts of a batch that go through the network one after the other: less memory, the same patches a step. The
        Dice of the loss is then taken over each part.
    steps : int
        Optimiser steps in all.
    learning_rate, weight_decay : float
        Of AdamW; the learning rate is the highest of the schedule.
    warmup : float
        Share of the training during which the learning rate rises, 0 to 1.
    loss : str
        Key of `helpers.training.before.loss.LOSSES`.
    clip : float
        Largest norm of the gradient.
    averaging : float
        Decay of an exponential moving average of the weights, such as 0.999, which is then validated and kept; 0 for none.
    nonfinite : str
        When a loss or gradient is not finite: "stop", or "skip" the step. A weight that is not finite always stops.
    tumour_share : float
        Share of patches around a tumour voxel, 0 to 1.
    augment : bool
        Random flips, rotations, noise and intensity changes.
    validate_every : int
        Steps between validations; the last step is always validated.
    patience : int
        Validations in a row without a better Dice that end the training; 0 for no such end.
    minutes : float
        Time limit, validation included; 0 means none. Two networks with the same limit have equal budgets.
    seed : int
        Same seed, same weights, on one CPU with the same number of threads.
    clean_tumour_ml, clean_enhancing_ml : float
        Limits of `helpers.evaluation.postprocess.PostProcessing` in validation and prediction; 0 switches a rule off.
    precision : str
        "auto" (bf16 where it is faster: `helpers.training.before.trainer.number_format`), "32-true", "bf16-mixed" or, on a GPU
        only, "16-mixed".
    device : str
        "auto" (a GPU where there is one), "cpu" or "cuda".
    workers : int
        Processes that read patches ahead; 0 reads in between the steps.
    cache : str
        "memory", "mapped" or "auto", as in `helpers.training.before.cache.open_cases`.
    save_every : int
        Steps between states to go on from, besides those at every validation and at SIGTERM.
    logger : str
        "none", "wandb" or "mlflow", besides TensorBoard and ``history.csv``.
    """

    network: str = "unet"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pretrained: str = ""
    patch: tuple[int, int, int] = (64, 64, 64)
    batch: int = 2
    accumulate: int = 1
    steps: int = 600
    learning_rate: float = 3e-3
    weight_decay: float = 1e-5
    warmup: float = 0.05
    loss: str = "dice+bce"
    clip: float = 1.0
    averaging: float = 0.0
    nonfinite: str = "stop"
    tumour_share: float = 2 / 3
    augment: bool = True
    validate_every: int = 100
    patience: int = 0
    minutes: float = 0.0
    seed: int = 2021
    clean_tumour_ml: float = PostProcessing.tumour_ml
    clean_enhancing_ml: float = PostProcessing.enhancing_ml
    precision: str = "auto"
    device: str = "auto"
    workers: int = 0
    cache: str = "auto"
    save_every: int = 100
    logger: str = "none"

    @property
    def cleanup(self) -> PostProcessing:
        """Limits of the clean-up."""
        return PostProcessing(tumour_ml=self.clean_tumour_ml, enhancing_ml=self.clean_enhancing_ml)

    def __post_init__(self) -> None:
        """Raise `DataError` with the first setting that cannot be."""
        if self.network not in NETWORKS:
            raise DataError(f"there is no network {self.network!r}", f"choose one of {', '.join(NETWORKS)}")
        for name in ("batch", "accumulate", "steps", "validate_every", "save_every", "learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise DataError(f"{name} is {getattr(self, name)}", "it must be greater than 0")
        for name in ("warmup", "tumour_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} is {getattr(self, name)}", "it must lie between 0 and 1")
        if not 0 <= self.averaging < 1:
            raise DataError(f"averaging is {self.averaging}", "it must be 0 or lie between 0 and 1, such as 0.999")
        for name in ("minutes", "workers", "patience", "weight_decay", "clean_tumour_ml", "clean_enhancing_ml"):
            if getattr(self, name) < 0:
                raise DataError(f"{name} is {getattr(self, name)}", "it must not be negative")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise DataError(f"{name} is {getattr(self, name)!r}", f"choose one of {', '.join(choices)}")
        if self.batch % self.accumulate:
            raise DataError(
                f"a batch of {self.batch} patches has no {self.accumulate} equal parts", "change batch or accumulate"
            )
        check_patch(self.patch, self.network, **self.arguments)
