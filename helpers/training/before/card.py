"""The model card of a training before its first step, after a look at the cases."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helpers.data.prepared import PreparedFile, PreprocessSettings, open_prepared
from helpers.models.checkpoints import ModelCard
from helpers.models.networks import GLIOMA, Task
from helpers.training.before.settings import TrainSettings
from helpers.training.before.source import PatchSource, ValidationSource
from helpers.workspace import DataError


def model_card(
    settings: TrainSettings,
    training: Sequence[Path] | PatchSource,
    validation: Sequence[Path] | ValidationSource,
    split_hash: str,
    *,
    task: Task = GLIOMA,
) -> ModelCard:
    """The model card before the first step, after a look at what the cases were prepared with."""
    if not len(training) or not len(validation):
        part = "validation" if len(training) else "training"
        raise DataError(f"the {part} part has no prepared case", "look at the faults that preprocessing listed")
    of_cases = _of_sources if isinstance(validation, ValidationSource) else _of_files
    return ModelCard(
        network=settings.network,
        arguments=dict(settings.arguments),
        patch=tuple(settings.patch),
        activation=task.activation,
        modalities=task.modalities,
        regions=task.regions,
        split_hash=split_hash,
        training=asdict(settings),
        **of_cases(settings, training, validation),
    )


def _of_sources(settings: TrainSettings, training: PatchSource, validation: ValidationSource) -> dict[str, Any]:
    """What the card says of cases that are not prepared files."""
    identifiers = tuple(getattr(training, "identifiers", ()))
    shared = sorted(set(identifiers) & set(validation.identifiers))
    if shared:
        raise DataError(f"{shared[0]} is in both the training and the validation part", "make the split again")
    members = "\n".join([training.fingerprint, validation.fingerprint])
    return {
        "preprocessing": dict(training.preprocessing),
        "postprocessing": {},
        "cohort_hash": hashlib.sha256(members.encode()).hexdigest(),
        "training_cases": tuple(sorted(identifiers)),
    }


def _of_files(settings: TrainSettings, training: Sequence[Path] | PatchSource, validation: Sequence[Path]) -> dict[str, Any]:
    """What the card says of prepared files, at least those of validation."""
    source = training if isinstance(training, PatchSource) else None
    paths = [Path(path) for path in (*(() if source else training), *validation)]
    files = {path: open_prepared(path) for path in paths}
    if len({file.identifier for file in files.values()}) < len(paths):
        raise DataError("a case is in both the training and the validation part", "make the split again")
    preprocessing = _common_preprocessing(files, source)
    names = sorted(path.name for path in files)  # a prepared file's name carries the hash of its contents
    members = "\n".join([*([source.fingerprint] if source else []), *names])
    return {
        "preprocessing": preprocessing,
        "postprocessing": asdict(settings.cleanup),
        "cohort_hash": hashlib.sha256(members.encode()).hexdigest(),
        "training_cases": () if source else tuple(sorted(files[Path(path)].identifier for path in training)),
    }


def _common_preprocessing(files: Mapping[Path, PreparedFile], source: PatchSource | None) -> dict:
    """Settings that all prepared files share, and the source with them; `DataError` where one differs."""
    by_file = {path: asdict(file.settings) for path, file in files.items()}
    first = next(iter(by_file))
    for path, other in by_file.items():
        if other != by_file[first]:
            raise DataError(f"{path} was prepared with other settings than {first}", "prepare the cohort again")
    if source is not None:
        wanted = asdict(PreprocessSettings(**source.preprocessing))
        if wanted != by_file[first]:
            raise DataError(
                f"{first} was prepared with {by_file[first]}, the source of patches with {wanted}", "make them agree"
            )
    return by_file[first]
