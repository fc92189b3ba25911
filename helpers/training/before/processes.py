"""One training in several processes: who this one is, and what all of them agree on.

``torchrun`` tells each process its number through the environment. Alone, everything here is a formality.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from torch import distributed

from helpers.workspace import DataError

PATIENCE = timedelta(hours=6)
"""How long processes wait for the first one, which prepares the cohort."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Processes:
    """Number of this process among all (`rank` of `world`) and among those of its machine (`local_rank` of `local_world`)."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all processes."""
        return self._reduce(np.asarray(values, np.float64), "MAX").tolist()

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sum of an array of numbers over all processes."""
        return self._reduce(np.asarray(values, np.float64), "SUM")

    def from_first(self, function: Callable[[], Result], *, on_each_machine: bool = False) -> Result:
        """What the first process gets from `function`; its `DataError` is everybody's.

        The others do not call it, except, where it writes files that each machine needs, the first of every machine.
        """
        if self.world == 1:
            return function()
        answer: list = [None, None]
        if self.first or (on_each_machine and self.local_rank == 0):
            try:
                answer[0] = function()
            except DataError as error:
                answer[1] = (error.problem, error.remedy)
        distributed.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise DataError(*answer[1])
        return answer[0]

    def _reduce(self, values: np.ndarray, operation: str) -> np.ndarray:
        if self.world == 1:
            return values
        tensor = torch.from_numpy(values.copy())
        distributed.all_reduce(tensor, getattr(distributed.ReduceOp, operation))
        return tensor.numpy()


@contextlib.contextmanager
def join_processes(*, gpu: bool) -> Iterator[Processes]:
    """Meet the other processes that ``torchrun`` started; leave them at the end if they were not met before.

    Numbers travel between CPUs through gloo, gradients between GPUs through NCCL.
    """
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" not in environment or int(environment["WORLD_SIZE"]) == 1:
        yield Processes()
        return
    processes = Processes(*(int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
    met = distributed.is_initialized()
    if not met:
        if gpu:
            torch.cuda.set_device(processes.local_rank)
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
    try:
        yield processes
    finally:
        if not met:
            distributed.destroy_process_group()
