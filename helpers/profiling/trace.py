"""A profile of a few steps by torch.profiler, as tables: phases, kernels, memory over time; and the trace to look at."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from helpers.profiling.clock import synchronise
from helpers.profiling.steps import PHASES

MICRO = 1e6
MEMORY_EVENT = "[memory]"


@dataclass(frozen=True)
class Profile:
    """What a few steps spent.

    Attributes
    ----------
    phases : DataFrame
        Per phase, in order: ``seconds`` a step (median) and ``share``.
    kernels : DataFrame
        Per operation, the most costly first: ``seconds`` a step by itself, ``share``, ``calls`` a step.
    memory : DataFrame
        ``seconds`` since the first event and ``mib`` allocated by PyTorch since then.
    trace : Path
        Chrome trace: open it at https://ui.perfetto.dev, or in ``chrome://tracing``.
    snapshot : Path or None
        Every allocation on a GPU with its stack, for https://pytorch.org/memory_viz; None on a CPU.
    """

    phases: pd.DataFrame
    kernels: pd.DataFrame
    memory: pd.DataFrame
    trace: Path
    snapshot: Path | None = None

    @property
    def data_wait(self) -> float:
        """Share of a step that computing waits for the next batch, 0 to 1."""
        return float(self.phases.loc["load", "share"])

    @property
    def peak_mib(self) -> float:
        """Greatest memory that PyTorch allocated during the steps above what it held before, MiB."""
        return float(self.memory["mib"].max()) if len(self.memory) else 0.0


def profile_steps(
    step: Callable[[], object],
    folder: Path,
    *,
    steps: int = 3,
    warmup: int = 1,
    device: str = "cpu",
    phases: Sequence[str] = PHASES,
) -> Profile:
    """Profile a few calls of a step whose parts are marked with `helpers.profiling.steps.phase`.

    Parameters
    ----------
    step : callable
    folder : Path
        For ``trace.json`` and, on a GPU, ``memory.pickle``, which is for PyTorch's viewer and is never read here.
    steps, warmup : int
        Profiled calls, and calls before them.
    device : str
        That computes.
    phases : sequence of str
        Names to look for; one that never appears takes no time.

    Notes
    -----
    The profiler itself slows every operation down; measure with `helpers.profiling.clock.interleave`, and look here only
    at shares.
    """
    gpu = torch.device(device).type == "cuda"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(warmup):
        step()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if gpu else [])
    history = _memory_history(folder / "memory.pickle" if gpu else None)
    with history as snapshot, profile(activities=activities, profile_memory=True) as seen:
        for _ in range(steps):
            step()
        synchronise(device)
    trace = folder / "trace.json"
    seen.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    return Profile(_phases(events, phases, steps), _kernels(seen, phases, steps, gpu=gpu), _memory(events), trace, snapshot)


@contextlib.contextmanager
def _memory_history(path: Path | None) -> Iterator[Path | None]:
    """Record every allocation on the GPU into a file; nothing without a file."""
    if path is None:
        yield None
        return
    torch.cuda.memory._record_memory_history(max_entries=100_000)
    try:
        yield path
        torch.cuda.memory._dump_snapshot(str(path))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)


def _phases(events: list[dict], names: Sequence[str], steps: int) -> pd.DataFrame:
    seconds = {}
    for name in names:
        spans = [e["dur"] / MICRO for e in events if e.get("cat") == "user_annotation" and e["name"] == name]
        per_step = pd.Series(spans, dtype=float).groupby([index * steps // max(len(spans), 1) for index in range(len(spans))])
        seconds[name] = float(per_step.sum().median()) if spans else 0.0
    table = pd.DataFrame({"seconds": seconds}).rename_axis("phase")
    return table.assign(share=table["seconds"] / max(table["seconds"].sum(), 1e-12))


def _kernels(seen: profile, phases: Sequence[str], steps: int, *, gpu: bool) -> pd.DataFrame:
    rows = [
        {
            "operation": event.key.removeprefix("aten::"),
            "seconds": (event.self_device_time_total if gpu else event.self_cpu_time_total) / MICRO / steps,
            "calls": event.count / steps,
        }
        for event in seen.key_averages()
        if event.key not in phases and event.key != MEMORY_EVENT
    ]
    table = pd.DataFrame(rows, columns=["operation", "seconds", "calls"]).groupby("operation").sum()
    table = table.sort_values("seconds", ascending=False)
    return table.assign(share=table["seconds"] / max(table["seconds"].sum(), 1e-12))[["seconds", "share", "calls"]]


def _memory(events: list[dict]) -> pd.DataFrame:
    """Bytes that PyTorch holds, summed up from every allocation and release in the trace."""
    seen = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == MEMORY_EVENT)
    table = pd.DataFrame(seen, columns=["seconds", "mib"]).astype(float)
    if len(table):
        table["seconds"] = (table["seconds"] - table["seconds"].iloc[0]) / MICRO
    return table.assign(mib=table["mib"].cumsum() / 2**20)
