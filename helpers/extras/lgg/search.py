"""The search for settings of a network of slices: what is drawn, and how one trial is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from helpers.extras.lgg.cohort import CHANNELS, SliceFile
from helpers.extras.lgg.scores import SlicePatients
from helpers.extras.lgg.slices import LGG, SlicePreparation, SliceSource
from helpers.training.before.settings import TrainSettings
from helpers.training.before.train import TrainResult, train
from helpers.training.before.tune import Attempt

LEVELS = 4
"""Levels of the U-Net, each with twice the filters of the one above; 5 is usual at 256 pixels."""


@dataclass(frozen=True)
class SearchSpace:
    """What a search draws from.

    Attributes
    ----------
    dropout : tuple of 2 float
        Least and greatest, drawn uniformly.
    learning_rate : tuple of 2 float
        Least and greatest, drawn uniformly in the logarithm.
    batch, filters : tuple of int
        Slices a step, and filters of the first level.
    """

    dropout: tuple[float, float] = (0.0, 0.5)
    learning_rate: tuple[float, float] = (1e-6, 1e-1)
    batch: tuple[int, ...] = (16, 32)
    filters: tuple[int, ...] = (8, 16, 32)

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Draw the parameters of a trial."""
        return {
            "dropout": trial.suggest_float("dropout", *self.dropout),
            "learning_rate": trial.suggest_float("learning_rate", *self.learning_rate, log=True),
            "batch": trial.suggest_categorical("batch", self.batch),
            "filters": trial.suggest_categorical("filters", self.filters),
        }


def slice_settings(
    *, filters: int = 16, dropout: float = 0.0, levels: int = LEVELS, patch: int = 224, **settings: Any
) -> TrainSettings:
    """Settings of a training of slices; what is left out takes the defaults of `TrainSettings`, the loss is Dice plus focal."""
    arguments = {
        "spatial_dims": 2,
        "in_channels": len(CHANNELS),
        "out_channels": len(LGG.regions),
        "channels": tuple(filters * 2**level for level in range(levels)),
        "dropout": dropout,
    }
    return TrainSettings(
        **{"loss": "dice+focal", "tumour_share": 0.5, **settings, "arguments": arguments, "patch": (patch, patch)}
    )


def train_slices(
    settings: TrainSettings,
    preparation: SlicePreparation,
    *,
    training: Mapping[str, Sequence[SliceFile]],
    validation: Mapping[str, Sequence[SliceFile]],
    out: Path,
    **options: Any,
) -> TrainResult:
    """Train on the slices of some patients, validate on others; `options` are those of `helpers.training.train.train`."""
    source = SliceSource(
        training,
        preparation,
        patch=settings.patch[0],
        count=settings.batch * settings.steps,
        seed=settings.seed,
        tumour_share=settings.tumour_share,
        augment=settings.augment,
    )
    return train(settings, source, validation=SlicePatients(validation, preparation), out=out, task=LGG, **options)


@dataclass(frozen=True, eq=False)
class SliceTrial:
    """Carries out trials: trains with the drawn parameters in place of some settings, going on where a worker before stopped.

    Attributes
    ----------
    settings : TrainSettings
        As `slice_settings` makes them.
    preparation : SlicePreparation
    training, validation : mapping from str to sequence of SliceFile
    split_hash : str
        For the model cards.
    """

    settings: TrainSettings
    preparation: SlicePreparation
    training: Mapping[str, Sequence[SliceFile]]
    validation: Mapping[str, Sequence[SliceFile]]
    split_hash: str = ""

    def settings_of(self, parameters: Mapping[str, Any]) -> TrainSettings:
        """Settings with the parameters of a trial."""
        given, levels = dict(self.settings.arguments), len(self.settings.arguments["channels"])
        given["dropout"] = parameters["dropout"]
        given["channels"] = tuple(parameters["filters"] * 2**level for level in range(levels))
        drawn = {name: parameters[name] for name in ("learning_rate", "batch")}
        return replace(self.settings, arguments=given, **drawn)

    def __call__(self, attempt: Attempt) -> float | None:
        """Best validation Dice; None where the trial was ended early."""
        settings = self.settings_of(attempt.parameters)
        result = train_slices(
            settings,
            self.preparation,
            training=self.training,
            validation=self.validation,
            out=attempt.folder,
            split_hash=self.split_hash,
            resume="auto",
            watch=attempt.watch,
        )
        return result.best_dice if result.steps == settings.steps else None
