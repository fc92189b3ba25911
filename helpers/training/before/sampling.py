"""Which patches make up a step, and which of them this process takes."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from helpers.workspace import DataError


class StepBatches(Sampler[list[int]]):
    """Numbers of the patches of every step from `first` on.

    Step k (from 0) consists of the patches k * `batch` to (k + 1) * `batch` - 1, in `accumulate` equal parts that go through
    the network one after the other. Of each part, process `rank` of `world` takes the numbers n with n mod world = rank.
    Neither the number of processes nor where one starts changes what a step consists of.
    """

    def __init__(self, batch: int, steps: int, *, first: int = 0, accumulate: int = 1, rank: int = 0, world: int = 1) -> None:
        if batch % (accumulate * world):
            raise DataError(
                f"a batch of {batch} patches cannot be divided into {accumulate} parts for {world} processes",
                f"take a multiple of {accumulate * world}",
            )
        self.batch, self.steps, self.first, self.accumulate = batch, steps, first, accumulate
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return (self.steps - self.first) * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        part = self.batch // self.accumulate
        for start in range(self.first * self.batch, self.steps * self.batch, part):
            yield list(range(start + self.rank, start + part, self.world))
