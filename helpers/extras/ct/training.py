"""Settings of a training on CT, and the training itself, which is that of the whole package with other crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helpers.extras.ct.crops import CropSource
from helpers.extras.ct.organs import ORGANS, ct_task
from helpers.extras.ct.preparation import CtPreparation
from helpers.extras.ct.scores import ScanValidation
from helpers.models.networks import check_patch
from helpers.training.before.settings import TrainSettings
from helpers.training.before.train import TrainResult, train
from helpers.workspace import DataError

NETWORK = "swin_unetr"
FEATURE_SIZES = (12, 24, 48)

GENERAL: dict[str, str] = {
    "pretrained": "checkpoint to fine-tune, or self-supervised weights such as model_swinvit.pt",
    "batch": "crops a step, in all processes together",
    "accumulate": "parts of a batch that go through the network one after the other",
    "steps": "optimiser steps in all",
    "learning_rate": "highest learning rate of AdamW; after the warm-up it falls along half a cosine",
    "weight_decay": "weight decay of AdamW",
    "warmup": "share of the training during which the learning rate rises",
    "validate_every": "steps between validations",
    "minutes": "time limit; 0 means none",
    "workers": "processes that read crops ahead",
    "seed": "seed of weights and crops",
}
"""Fields of `TrainSettings` that a job may set, each an option of ``python -m helpers ct``, and what they are."""


@dataclass(frozen=True)
class CtSettings:
    """What is particular to CT, beside the settings of every training.

    Attributes
    ----------
    roi : tuple of 3 int
        Edges of the sliding window of validation and prediction in voxels: what the network sees at a time.
    randcrop : tuple of 3 int
        Edges of the training crops in voxels, independent of `roi`; equal edges show the network in training what it will see.
    randcrop_samples : int
        Crops from one scan before the next has its turn.
    positive, negative : float
        Ratio of crops around an organ to crops around something else.
    overlap : float
        Of the windows in validation.
    flips : float
        Probability of mirroring a crop along each axis.
    preparation : CtPreparation
    """

    roi: tuple[int, int, int] = (96, 96, 96)
    randcrop: tuple[int, int, int] = (96, 96, 96)
    randcrop_samples: int = 4
    positive: float = 1.0
    negative: float = 1.0
    overlap: float = 0.5
    flips: float = 0.0
    preparation: CtPreparation = field(default_factory=CtPreparation)

    def __post_init__(self) -> None:
        """Refuse a window that the network cannot take, and an overlap that never ends."""
        for name in ("roi", "randcrop"):
            object.__setattr__(self, name, tuple(int(edge) for edge in getattr(self, name)))
            check_patch(getattr(self, name), NETWORK)
        if not 0 <= self.overlap < 1:
            raise DataError(f"overlap is {self.overlap}", "it must lie between 0 and 1, such as 0.5 or 0.7")
        if not 0 <= self.flips <= 1:
            raise DataError(f"flips is {self.flips}", "it must lie between 0 and 1")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """For the model card; `of_card` reads it."""
        return {**asdict(self.preparation), "roi": self.roi, "overlap": self.overlap}

    @classmethod
    def of_card(cls, preprocessing: dict[str, Any]) -> CtSettings:
        """The window and preparation that a model card names."""
        preparation = CtPreparation(spacing=preprocessing["spacing"], window=preprocessing["window"])
        roi = tuple(preprocessing["roi"])
        return cls(roi=roi, randcrop=roi, overlap=preprocessing["overlap"], preparation=preparation)


def swin_settings(
    settings: CtSettings,
    *,
    feature_size: int = 12,
    organs: Sequence[str] = ORGANS,
    checkpointing: bool = False,
    amp: bool = True,
    window_size: int | None = None,
    **others: Any,
) -> TrainSettings:
    """Settings of a training of Swin UNETR.

    Parameters
    ----------
    settings : CtSettings
    feature_size : int
        12 (4 million parameters), 24 (16) or 48 (62).
    organs : sequence of str
        Of the cohort; the network answers with one class more.
    checkpointing : bool
        Gradient checkpointing: keep less for the backward pass and compute it again.
    amp : bool
        Mixed precision, bf16, on a GPU and on a CPU that has instructions for it; else 32 bit.
    window_size : int, optional
        Of the attention; 7 as published, and what published weights need, 4 where left out.
    **others
        Fields of `TrainSettings`. ``pretrained`` is a checkpoint to fine-tune, or a file of self-supervised weights.
    """
    if feature_size not in FEATURE_SIZES:
        raise DataError(f"feature_size is {feature_size}", f"choose one of {FEATURE_SIZES}")
    arguments = {
        "in_channels": 1,
        "out_channels": len(organs) + 1,
        "feature_size": feature_size,
        "use_checkpoint": checkpointing,
        **({"window_size": window_size} if window_size else {}),
    }
    defaults = {"loss": "dice+ce", "learning_rate": 1e-3, "precision": "auto" if amp else "32-true"}
    return TrainSettings(**{**defaults, **others, "network": NETWORK, "arguments": arguments, "patch": settings.randcrop})


def train_ct(
    settings: TrainSettings,
    own: CtSettings,
    *,
    training: Sequence[Path],
    validation: Sequence[Path],
    out: Path,
    organs: Sequence[str] = ORGANS,
    **options: Any,
) -> TrainResult:
    """Train on prepared scans, validate on others.

    Parameters
    ----------
    settings : TrainSettings
        As `swin_settings` makes them.
    own : CtSettings
    training, validation : sequence of Path
        Files of `helpers.extras.ct.prepared.prepare_ct_cohort`, with labels.
    out : Path
    organs : sequence of str
    **options
        Those of `helpers.training.before.train.train`, such as ``report`` and ``resume``.
    """
    task = ct_task(organs)
    source = CropSource(
        training,
        classes=len(task.regions),
        preprocessing=own.preprocessing,
        randcrop=own.randcrop,
        samples=own.randcrop_samples,
        positive=own.positive,
        negative=own.negative,
        count=settings.batch * settings.steps,
        seed=settings.seed,
        augment=settings.augment,
        flips=own.flips,
    )
    scans = ScanValidation(tuple(validation), len(task.regions), own.roi, own.overlap)
    return train(settings, source, validation=scans, out=out, task=task, **options)
