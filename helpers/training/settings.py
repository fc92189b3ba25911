"""Everything that decides a training, apart from the cases."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args, get_type_hints

import torch

from brats_cohort.files import DataError
from helpers.evaluation.postprocess import PostProcessing
from helpers.models.networks import GRID, NETWORKS, check_patch
from helpers.workspace import pick_device

FREE = frozenset({"workers", "save_every", "logger"})
"""Settings that do not change the result, so a training may resume with other values."""


@dataclass(frozen=True)
class TrainSettings:
    """Decide one training.

    Attributes
    ----------
    network : str
        unet, segresnet, dynunet or swin_unetr.
    arguments : mapping
        Arguments of the network, such as {"feature_size": 24}; the others keep their defaults.
    pretrained : str
        Weights to start from: a best.safetensors or a file of another training; the tensors that fit are taken, if they are
        at least half.
    patch : tuple of 3 int
        Edges of a training patch in voxels.
    batch : int
        Patches a step, in all processes together.
    accumulate : int
        Equal parts of a batch that go through the network one after the other (gradient accumulation), to save memory.
    steps : int
        Optimiser steps in all.
    minutes : float
        Time limit, validation and earlier parts of an interrupted training included; 0 for none.
    learning_rate : float
        Highest learning rate of AdamW.
    weight_decay : float
        Weight decay of AdamW.
    warmup : float
        Share of the training during which the learning rate rises; then it falls along half a cosine.
    loss : str
        Dice plus binary cross-entropy, or one of the two for comparison.
    clip : float
        Largest norm of the gradient.
    ema : float
        Decay of an exponential moving average of the weights, such as 0.999, which is validated and kept; 0 for none.
    foreground_probability : float
        Probability that a patch is centred on a voxel of TC, WT or ET, each equally often.
    augment : bool
        Change patches at random: flips, rotations, noise and intensity.
    validate_every : int
        Steps between validations; the last step is always validated.
    patience : int
        Validations in a row without a better Dice that end the training (early stopping); 0 for no such end.
    minimum_tumour_ml : float
        Predicted components of tumour below this volume in ml are removed; 0 keeps all.
    minimum_enhancing_ml : float
        Predicted enhancing tumour below this total volume in ml becomes tumour core without enhancement; 0 keeps all.
    seed : int
        Seed of weights and patches, and of the split if there is none yet.
    precision : str
        auto is bf16-mixed if this hardware is made for it, else 32-true; 16-mixed needs a GPU.
    device : str
        auto takes a GPU if there is one.
    workers : int
        Processes that load patches ahead; 0 loads them between the steps. As many cases of a cohort are checked and prepared
        at a time; with 0, one for each core.
    save_every : int
        Steps between checkpoints to resume from, besides those around validations and at SIGTERM or Ctrl-C.
    logger : str
        Logger besides TensorBoard and history.csv; none needs an account.
    """

    network: str = "unet"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pretrained: str = ""
    patch: tuple[int, int, int] = (64, 64, 64)
    batch: int = 2
    accumulate: int = 1
    steps: int = 600
    minutes: float = 0.0
    learning_rate: float = 3e-3
    weight_decay: float = 1e-5
    warmup: float = 0.05
    loss: Literal["dice+bce", "dice", "bce"] = "dice+bce"
    clip: float = 1.0
    ema: float = 0.0
    foreground_probability: float = 2 / 3
    augment: bool = True
    validate_every: int = 100
    patience: int = 0
    minimum_tumour_ml: float = PostProcessing.tumour_ml
    minimum_enhancing_ml: float = PostProcessing.enhancing_ml
    seed: int = 2021
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 0
    save_every: int = 100
    logger: Literal["none", "wandb", "mlflow"] = "none"

    def __post_init__(self) -> None:
        """Raise `DataError` for the first setting that is not possible."""
        choices = {name: get_args(hint) for name, hint in get_type_hints(TrainSettings).items()} | {"network": tuple(NETWORKS)}
        for name in ("network", "loss", "precision", "device", "logger"):
            if getattr(self, name) not in choices[name]:
                raise DataError(f"{name} is {getattr(self, name)!r}", f"choose one of {', '.join(choices[name])}")
        for name in ("batch", "accumulate", "steps", "validate_every", "save_every", "learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise DataError(f"{name} is {getattr(self, name)}", "give a number greater than 0")
        for name in ("minutes", "workers", "patience", "weight_decay", "minimum_tumour_ml", "minimum_enhancing_ml"):
            if not 0 <= getattr(self, name) < math.inf:
                raise DataError(f"{name} is {getattr(self, name)}", "give 0 or more")
        for name in ("warmup", "foreground_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} is {getattr(self, name)}", "give a number between 0 and 1")
        if not 0 <= self.ema < 1:
            raise DataError(f"ema is {self.ema}", "give 0, or a number between 0 and 1 such as 0.999")
        if not 0 <= self.seed < 2**32:
            raise DataError(f"seed is {self.seed}", f"give a whole number from 0 to {2**32 - 1}")
        if self.batch % self.accumulate:
            problem = f"a batch of {self.batch} patches has no {self.accumulate} equal parts"
            raise DataError(problem, "change batch or accumulate")
        for name, usual in GRID.items():
            if self.arguments.get(name, usual) != usual:
                problem = f"{self.network} cannot train with {name} {self.arguments[name]}, as cases have {usual}"
                raise DataError(problem, f"leave {name} out of the arguments")
        if isinstance(self.patch, int):
            object.__setattr__(self, "patch", (self.patch,) * 3)
        check_patch(self.patch, self.network, **self.arguments)

    @property
    def postprocessing(self) -> PostProcessing:
        """Post-processing of predictions in validation and after it."""
        return PostProcessing(tumour_ml=self.minimum_tumour_ml, enhancing_ml=self.minimum_enhancing_ml)

    @property
    def decisive(self) -> dict[str, Any]:
        """Settings that must be equal for a training to resume, as JSON knows them."""
        return json.loads(json.dumps({name: value for name, value in asdict(self).items() if name not in FREE}))


def choose_precision(settings: TrainSettings) -> str:
    """Return the precision in Lightning's words.

    "auto" is bf16-mixed if there are instructions for it and they make this network faster: on a GPU from Ampere on (a T4, V100
    or P100 has none), and for most networks on a CPU with AVX512-BF16 or AMX. Weights, optimiser and loss stay in 32 bits.
    """
    gpu = pick_device(settings.device) == "cuda"
    if settings.precision == "16-mixed" and not gpu:
        raise DataError("precision 16-mixed needs a GPU", "take bf16-mixed or 32-true")
    if settings.precision != "auto":
        return settings.precision
    if gpu:
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities()
        fast = NETWORKS[settings.network].cpu_bf16 and (able.get("avx512_bf16") or able.get("amx_bf16"))
    return "bf16-mixed" if fast else "32-true"
