"""Trainings in processes of their own that can be killed: forked from a server that has imported everything once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# What a training imports late is imported by the server.
import torch.utils.tensorboard
from safetensors.torch import load_file

from brats_cohort.testing import write_case
from helpers.data.preprocess import prepare_cohort
from helpers.training import EXIT_STATUS, Interrupted
from helpers.training.callbacks import DurableIO
from helpers.training.module import SegmentationModule
from helpers.training.settings import TrainSettings
from helpers.training.train import CHECKPOINT, train

SMALL: dict[str, Any] = {
    "arguments": {"channels": (4, 8, 16), "num_res_units": 1, "dropout": 0.2},
    "patch": (16, 16, 16),
    "batch": 4,
    "steps": 24,
    "validate_every": 6,
    "save_every": 2,
    "device": "cpu",
    "minimum_tumour_ml": 0.0,
    "minimum_enhancing_ml": 0.0,
}


def context() -> Any:
    """Start methods of a server that forks children with everything imported."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    return server


def prepared_cases(folder: Path, count: int) -> list[Path]:
    """Small cases, prepared."""
    cases = [write_case(folder / "cohort", f"Case_{number:03}", seed=number) for number in range(count)]
    return list(prepare_cohort(cases, folder / "prepared", workers=1, progress=False).paths.values())


def run(paths: list[Path], out: Path, changes: dict[str, Any], trap: Callable[[], None] | None = None) -> None:
    """Train on all but the last three cases; exits with `EXIT_STATUS` when told to stop. `trap` is called before.

    What the training says goes to a ``.log`` file beside `out`.
    """
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for the workers; inherited would be the way of the server
    sys.stdout = sys.stderr = out.with_suffix(".log").open("a")  # what it said, should it fail
    if trap:
        trap()
    settings = TrainSettings(**{**SMALL, **changes})
    try:
        train(settings, paths[:-3], paths[-3:], out=out, resume="auto")
    except Interrupted:
        sys.exit(EXIT_STATUS)


def run_rank(rank: int, world: int, port: int, *arguments: Any) -> None:
    """`run` as process `rank` of `world`, told so by the environment as ``torchrun`` does."""
    facts = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    facts |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in facts.items()})
    run(*arguments)


@dataclass(frozen=True)
class SignalAfter:
    """Send a signal to the own process, from outside its training: some time after part number `part` of a batch began."""

    number: int
    part: int
    seconds: float

    def __call__(self) -> None:
        seen, original = [], SegmentationModule.on_train_batch_start

        def watched(module, batch, batch_idx):
            seen.append(batch_idx)
            if len(seen) == self.part:
                threading.Timer(self.seconds, os.kill, (os.getpid(), self.number)).start()
            original(module, batch, batch_idx)

        SegmentationModule.on_train_batch_start = watched


@dataclass(frozen=True)
class CountCases:
    """Write down the number of every case that this process scores."""

    path: Path

    def __call__(self) -> None:
        original = SegmentationModule.validation_step

        def counted(module, case, batch_idx):
            if case:
                with self.path.open("a") as stream:
                    stream.write(f"{case['index']}\n")
            return original(module, case, batch_idx)

        SegmentationModule.validation_step = counted


@dataclass(frozen=True)
class KillAt:
    """Kill the own process at the call number `count` of a function, before or half-way through it.

    Attributes
    ----------
    place : str
        "write" (half of a checkpoint is written), "best" (best weights written, the checkpoint that holds them not yet) or
        "validation".
    """

    place: str
    count: int
    number: int = signal.SIGKILL

    def __call__(self) -> None:
        owner, name = {
            "write": (os, "fsync"),
            "best": (DurableIO, "save_checkpoint"),
            "validation": (SegmentationModule, "validation_step"),
        }[self.place]
        calls, original = [], getattr(owner, name)

        def deadly(*arguments, **options):
            calls.append(name)
            if len(calls) == self.count:
                if self.place == "write":
                    os.truncate(f"/proc/self/fd/{arguments[0]}", os.fstat(arguments[0]).st_size // 2)
                os.kill(os.getpid(), self.number)
            return original(*arguments, **options)

        setattr(owner, name, deadly)


def read_checkpoint(out: Path) -> dict[str, Any] | None:
    """The checkpoint below a folder of results, if there is one."""
    path = out / "checkpoints" / CHECKPOINT
    return torch.load(path, weights_only=True) if path.is_file() else None


def finished(state: dict[str, Any] | None) -> bool:
    """Whether a checkpoint is that of a training that came to its end."""
    return bool(state) and state["callbacks"]["ResumableCheckpoint"]["finished"]


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Places at which two checkpoints differ, apart from times."""
    if isinstance(one, dict):
        names = [name for name in one.keys() | other.keys() if name not in ("seconds", "time_elapsed")]
        return [place for name in names for place in differences(one.get(name), other.get(name), f"{path}/{name}")]
    if isinstance(one, list | tuple):
        pairs = enumerate(zip(one, other, strict=True))
        return [place for number, (a, b) in pairs for place in differences(a, b, f"{path}/{number}")]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same else [path]


def assert_same_end(one: Path, other: Path) -> None:
    """Weights, optimiser, averages, history, best weights and their card: equal to the bit."""
    states = [read_checkpoint(folder) for folder in (one, other)]
    assert all(finished(state) for state in states)
    assert differences(*states) == []
    tables = [[line.split(",") for line in (folder / "history.csv").read_text().splitlines()] for folder in (one, other)]
    without = [[row[:1] + row[2:] for row in table] for table in tables]
    assert without[0] == without[1] and tables[0][0][1] == "seconds"
    weights = [load_file(folder / "best.safetensors") for folder in (one, other)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert (one / "best.json").read_text() == (other / "best.json").read_text()
