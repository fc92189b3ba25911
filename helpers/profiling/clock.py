"""Seconds that can be compared: synchronised with the device, in turns, medians with their spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one thing, measured several times.

    Attributes
    ----------
    seconds : tuple of float
        In the order of the measurements.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median: what a disturbance now and then does not move."""
        return float(np.median(self.seconds))

    @property
    def low(self) -> float:
        """Lower quartile."""
        return float(np.percentile(self.seconds, 25))

    @property
    def high(self) -> float:
        """Upper quartile."""
        return float(np.percentile(self.seconds, 75))

    def __str__(self) -> str:
        return f"{self.median:.3f} s [{self.low:.3f}, {self.high:.3f}]"


def synchronise(device: str | torch.device = "cpu") -> None:
    """Wait until a GPU has done all that it was given; without this a clock measures how fast work is handed over."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def interleave(
    works: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1, device: str | torch.device = "cpu"
) -> dict[str, Timing]:
    """Time several things in turns: A, B, A, B, so that a machine which slows down slows all of them.

    Parameters
    ----------
    works : mapping from name to callable
    rounds : int
        Measurements of each.
    warmup : int
        Rounds before them that do not count: first calls choose kernels and fill caches.
    device : str or device
        To wait for before and after each.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least one measurement is needed")
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(warmup + rounds):
        for name, work in works.items():
            synchronise(device)
            start = time.perf_counter()
            work()
            synchronise(device)
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def paired_ratio(slow: Timing, fast: Timing) -> float:
    """How many times faster the second is: the median over the rounds of the ratio within each round."""
    return ratio_of(slow.seconds, fast.seconds)


def ratio_of(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median of the ratios of two sequences, element by element."""
    return float(np.median([first / second for first, second in zip(slow, fast, strict=True)]))
