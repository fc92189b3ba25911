"""Lightning's trainer as this package uses it: the loop, devices, number formats and processes, and nothing on its own."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import lightning
import torch

from helpers.models.networks import NETWORKS
from helpers.training.before.processes import Processes
from helpers.training.before.session import Session
from helpers.training.before.settings import TrainSettings
from helpers.workspace import DataError


def on_gpu(settings: TrainSettings) -> bool:
    """Whether these settings take a GPU here."""
    return settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())


def number_format(settings: TrainSettings) -> str:
    """The precision that these settings mean on this machine, in Lightning's words.

    "auto" is bf16 where there are instructions for it and they make this network faster: on a GPU, and for most networks on a
    CPU with AVX512-BF16 or AMX. Weights, optimiser and loss stay 32 bit.
    """
    if settings.precision != "auto":
        return settings.precision
    return "bf16-mixed" if on_gpu(settings) or (NETWORKS[settings.network].cpu_bf16 and cpu_has_bf16()) else "32-true"


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies matrices of bfloat16; without, PyTorch only imitates it."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def make_trainer(settings: TrainSettings, out: Path, session: Session, processes: Processes) -> lightning.Trainer:
    """A trainer that makes one pass over exactly the steps that are left and leaves no file of its own."""
    gpu = on_gpu(settings)
    if settings.precision == "16-mixed" and not gpu:
        raise DataError("precision 16-mixed needs a GPU", "take bf16-mixed or 32-true")
    return lightning.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=processes.local_world,
        num_nodes=processes.world // processes.local_world,
        strategy="ddp" if processes.world > 1 else "auto",
        use_distributed_sampler=False,
        precision=number_format(settings),
        max_epochs=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        accumulate_grad_batches=settings.accumulate,
        default_root_dir=out,
        callbacks=[session],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@contextlib.contextmanager
def own_random_state(seed: int) -> Iterator[None]:
    """Seed torch for what happens inside and leave the caller's random state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back Lightning's tips and its warnings about choices that are made on purpose here."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message="Grad strides do not match")  # of 1x1x1 convolutions, channels last
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
