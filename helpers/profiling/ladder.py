"""Speed-ups measured one change at a time, in turns, each with what it does to memory, loss and Dice."""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil
import torch
from torch import nn
from torch.utils.data import Dataset

from helpers.data.cases import Case
from helpers.profiling.clock import ratio_of, synchronise
from helpers.profiling.recipes import Recipe, patches_of, training_of
from helpers.profiling.steps import TrainingStep
from helpers.training.before.datamodule import PatchDataset

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(frozen=True)
class Rung:
    """One change.

    Attributes
    ----------
    name : str
        Of the change.
    recipe : Recipe
        With this change and all kept ones before it.
    reason : str
        Why it is not measured here; empty where it is.
    kept : bool
        Whether the rungs after it have it too: those that are not are compared with the last one that is.
    """

    name: str
    recipe: Recipe = field(default_factory=Recipe)
    reason: str = ""
    kept: bool = True


@dataclass
class _Measured:
    step: TrainingStep
    seconds: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak: float | None = None
    first: float = math.nan


def measure_ladder(
    rungs: Sequence[Rung],
    network: nn.Module,
    cases: Mapping[Path, Case],
    *,
    patch: Sequence[int],
    held_out: PatchDataset,
    rounds: int = 3,
    seed: int = 2021,
    device: str = "cpu",
    patches: int = 2,
) -> pd.DataFrame:
    """Train with every rung in turns, on the same patches from the same weights: `measure_rungs` with patches of cases.

    Parameters
    ----------
    rungs, network, held_out, rounds, device, patches
        As in `measure_rungs`.
    cases : mapping from Path to Case
        Training cases by prepared file.
    patch : sequence of 3 int
        Edges in voxels.
    seed : int
        Of the patches.
    """

    def draw(recipe: Recipe, count: int) -> PatchDataset:
        return patches_of(recipe, cases, patch=patch, count=count, seed=seed)

    return measure_rungs(rungs, network, draw, held_out=held_out, rounds=rounds, device=device, patches=patches)


def measure_rungs(
    rungs: Sequence[Rung],
    network: nn.Module,
    draw: Callable[[Recipe, int], Dataset],
    *,
    held_out: Dataset | None = None,
    rounds: int = 3,
    device: str = "cpu",
    patches: int = 2,
) -> pd.DataFrame:
    """Train with every rung in turns from the same weights.

    Parameters
    ----------
    rungs : sequence of Rung
        The first is what all are compared with.
    network : Module
        Copied for each rung; a trained one, so that a Dice means something.
    draw : callable
        From a recipe and a number to that many patches, which must be the same for every recipe.
    held_out : Dataset, optional
        For the Dice after the last round.
    rounds : int
        Measured rounds after one that warms up.
    device : str
    patches : int
        In a round; every batch must divide it.

    Returns
    -------
    DataFrame
        By rung: ``s a patch`` (median over rounds), ``data wait`` (share), ``peak MiB`` above what was held before, ``step``
        (speed-up over the kept rung before), ``cumulative`` (over the first), ``loss difference`` (mean over all rounds) and
        ``Dice difference`` from the first, ``first step s`` (with everything that happens once, such as compiling),
        ``measured``. Ratios are medians of those within a round.
    """
    measured = {}
    for rung in (each for each in rungs if not each.reason):
        measured[rung.name] = _Measured(
            training_of(rung.recipe, network, draw(rung.recipe, patches * (rounds + 1)), device=device)
        )
    for turn in range(rounds + 1):
        for rung in (each for each in rungs if each.name in measured):
            one = measured[rung.name]
            peak = _round(one, patches // rung.recipe.batch, count=turn > 0, device=device)
            one.peak = max(filter(None, (one.peak, peak)), default=None)
    dice = {name: math.nan if held_out is None else held_out_dice(one.step, held_out) for name, one in measured.items()}
    rows, before = {}, rungs[0]
    for rung in rungs:
        if rung.name not in measured:
            rows[rung.name] = {"measured": f"not measured here: {rung.reason}"}
            continue
        first, one = measured[rungs[0].name], measured[rung.name]
        rows[rung.name] = {
            "s a patch": statistics.median(one.seconds) / patches,
            "data wait": sum(one.waits) / sum(one.seconds),
            "peak MiB": None if one.peak is None else one.peak / 2**20,
            "step": ratio_of(measured[before.name].seconds, one.seconds),
            "cumulative": ratio_of(first.seconds, one.seconds),
            "loss difference": statistics.mean(one.losses) - statistics.mean(first.losses),
            "Dice difference": dice[rung.name] - dice[rungs[0].name],
            "first step s": one.first,
            "measured": "kept" if rung.kept else "not kept",
        }
        before = rung if rung.kept else before
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("change")


@torch.inference_mode()
def held_out_dice(step: TrainingStep, held_out: Dataset) -> float:
    """Mean Dice of the regions over all patches of a dataset taken together, each voxel cut at one half."""
    step.network.eval()
    both = total = torch.zeros(())
    for index in range(len(held_out)):
        image, regions = (held_out[index][key].to(step.device) for key in ("image", "regions"))
        with torch.autocast(torch.device(step.device).type, torch.bfloat16, enabled=step.bf16):
            found = step.network(image[None])[0].float() >= 0
        both = both + (found & regions).sum((1, 2, 3)).cpu()
        total = total + (found.sum((1, 2, 3)) + regions.sum((1, 2, 3))).cpu()
    step.network.train()
    return float((2 * both / total.clamp(min=1)).mean())


def _round(one: _Measured, steps: int, *, count: bool, device: str) -> float | None:
    """Some steps of a training; adds to what was measured and returns their peak memory in bytes."""
    waits: list[float] = []
    batches = one.step.batches

    def wait() -> object:
        begin = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - begin)
        return batch

    one.step.batches = iter(wait, None)
    start = time.perf_counter()
    with_peak = peak_memory(lambda: one.losses.extend(one.step() for _ in range(steps)), device)
    synchronise(device)
    seconds = time.perf_counter() - start
    one.first = seconds / steps if math.isnan(one.first) else one.first
    if count:
        one.seconds.append(seconds)
        one.waits.append(sum(waits))
    one.step.batches = batches
    return with_peak


def peak_memory(work: Callable[[], object], device: str = "cpu") -> float | None:
    """Do some work and return the bytes that it held at most above what was held before; None where it cannot be known.

    On a GPU that is what torch allocated, on Linux resident memory, whose record is set back before.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return float(torch.cuda.max_memory_allocated(device) - before)
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else memory that earlier work gave back to the process hides this one's
        CLEAR.write_text("5")
    except (OSError, AttributeError):
        work()
        return None
    before = psutil.Process().memory_info().rss
    work()
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return max(0.0, int(line.split()[1]) * 1024.0 - before)
