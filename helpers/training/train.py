"""Train a network from prepared cases and a split, within a budget of steps or minutes."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning
import pandas as pd
import torch

from helpers.data.files import DataError
from helpers.data.prepared import PreparedFile, PreprocessSettings, open_prepared
from helpers.models.checkpoints import ModelCard
from helpers.models.networks import build_network, input_multiple
from helpers.training.callbacks import Budget, Recorder
from helpers.training.datamodule import CaseDataModule
from helpers.training.module import SegmentationModule
from helpers.training.settings import TrainSettings
from helpers.training.source import PatchSource


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves.

    Attributes
    ----------
    checkpoint : Path
        Weights of the best step, with their card beside them.
    history : DataFrame
        One row a step: ``step``, ``seconds``, ``learning_rate``, ``train_loss``, and after a validation ``dice_TC``,
        ``dice_WT``, ``dice_ET``, ``dice_mean`` (else NaN). Also written as ``history.csv`` beside the checkpoint.
    steps, best_step : int
        Steps made, and the one with the best mean validation Dice.
    best_dice : float
        That Dice. It chose the checkpoint and so flatters it; the test part gives the number to report.
    seconds : float
        Whole training, validation included.
    seconds_per_step : float
        Without validation.
    """

    checkpoint: Path
    history: pd.DataFrame
    steps: int
    best_step: int
    best_dice: float
    seconds: float
    seconds_per_step: float


def train(
    settings: TrainSettings,
    training: Sequence[Path] | PatchSource,
    *,
    validation: Sequence[Path],
    out: Path,
    split_hash: str = "",
    transforms: Callable | None = None,
    report: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train a network and keep the weights with the best mean validation Dice.

    Parameters
    ----------
    settings : TrainSettings
    training, validation : sequence of Path
        Prepared files with labels (`helpers.data.preprocess.prepare_cohort`) of these two parts of a split. `training` may
        also be a `helpers.training.source.PatchSource`.
    out : Path
        Folder for ``best.safetensors``, ``best.json`` and ``history.csv``.
    split_hash : str
        SHA-256 of the split manifest, for the model card.
    transforms : callable, optional
        Random changes in place of `helpers.data.augment.training_transforms`.
    report : callable, optional
        Called with a line of text after every validation, such as `print`.

    Raises
    ------
    DataError
        If a part is empty, both parts share a case, a file has no label, or the files were prepared with different settings.
    """
    out = Path(out)
    card = _card(settings, training, validation, split_hash)
    out.mkdir(parents=True, exist_ok=True)
    with _own_random_state(settings.seed), _quiet():
        module = _module(settings, card)
        data = _data(settings, training, validation, transforms)
        recorder = Recorder(out, card, report=report)
        start = time.perf_counter()
        _trainer(settings, out, [recorder, Budget()]).fit(module, datamodule=data)
        seconds = time.perf_counter() - start
    steps = len(recorder.rows)
    return TrainResult(
        checkpoint=recorder.checkpoint,
        history=recorder.history,
        steps=steps,
        best_step=recorder.best["step"],
        best_dice=recorder.best["dice_mean"],
        seconds=seconds,
        seconds_per_step=(seconds - recorder.validation_seconds) / steps,
    )


def _module(settings: TrainSettings, card: ModelCard) -> SegmentationModule:
    return SegmentationModule(
        build_network(settings.network, **settings.arguments),
        patch=settings.patch,
        multiple=input_multiple(settings.network, **settings.arguments),
        spacing=card.spacing,
        cleanup=settings.cleanup,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
        loss=settings.loss,
        minutes=settings.minutes or None,
    )


def _data(
    settings: TrainSettings, training: Sequence[Path] | PatchSource, validation: Sequence[Path], transforms: Callable | None
) -> CaseDataModule:
    return CaseDataModule(
        training,
        validation,
        patch=settings.patch,
        batch=settings.batch,
        steps=settings.steps,
        seed=settings.seed,
        tumour_share=settings.tumour_share,
        workers=settings.workers,
        transforms=transforms,
        augment=settings.augment,
    )


def _trainer(settings: TrainSettings, out: Path, callbacks: list[lightning.Callback]) -> lightning.Trainer:
    """A trainer that makes one pass over exactly the planned steps and leaves no file of its own."""
    gpu = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
    return lightning.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=1,
        precision=("bf16-mixed" if gpu else "32-true") if settings.precision == "auto" else settings.precision,
        max_epochs=1,
        val_check_interval=min(settings.validate_every, settings.steps),
        num_sanity_val_steps=0,
        gradient_clip_val=settings.clip,
        default_root_dir=out,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _card(
    settings: TrainSettings, training: Sequence[Path] | PatchSource, validation: Sequence[Path], split_hash: str
) -> ModelCard:
    """The model card before the first step, after a look at what the cases were prepared with."""
    source = training if isinstance(training, PatchSource) else None
    paths = [Path(path) for path in (*(() if source else training), *validation)]
    if not len(training) or not validation:
        part = "validation" if len(training) else "training"
        raise DataError(f"the {part} part has no prepared case; look at the faults that preprocessing listed")
    files = {path: open_prepared(path) for path in paths}
    if len({file.identifier for file in files.values()}) < len(paths):
        raise DataError("a case is in both the training and the validation part; make the split again")
    preprocessing = _common_preprocessing(files, source)
    names = sorted(path.name for path in files)  # a prepared file's name carries the hash of its contents
    members = "\n".join([*([source.fingerprint] if source else []), *names])
    return ModelCard(
        network=settings.network,
        arguments=dict(settings.arguments),
        preprocessing=preprocessing,
        cleanup=asdict(settings.cleanup),
        patch=tuple(settings.patch),
        cohort_hash=hashlib.sha256(members.encode()).hexdigest(),
        split_hash=split_hash,
        training_cases=() if source else tuple(sorted(files[Path(path)].identifier for path in training)),
        training=asdict(settings),
    )


def _common_preprocessing(files: Mapping[Path, PreparedFile], source: PatchSource | None) -> dict:
    """Settings that all prepared files share, and the source with them; `DataError` where one differs."""
    by_file = {path: asdict(file.settings) for path, file in files.items()}
    first = next(iter(by_file))
    for path, other in by_file.items():
        if other != by_file[first]:
            raise DataError(f"{path} was prepared with other settings than {first}; prepare the cohort again")
    if source is not None:
        wanted = asdict(PreprocessSettings(**source.preprocessing))
        if wanted != by_file[first]:
            raise DataError(f"{first} was prepared with {by_file[first]}, the source of patches with {wanted}; make them agree")
    return by_file[first]


@contextlib.contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Seed torch for what happens inside and leave the caller's random state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back Lightning's tips and its warnings about choices that are made on purpose here."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
