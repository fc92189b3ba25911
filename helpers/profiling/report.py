"""The profile of any network and patch size as a report: Markdown to read, CSV and JSON to compute with, a trace to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from helpers.models.networks import BLOCKS, build_network
from helpers.profiling.budget import Budget, training_budget
from helpers.profiling.clock import Timing, interleave
from helpers.profiling.compiling import missing_compiler
from helpers.profiling.ladder import Rung, measure_rungs
from helpers.profiling.machine import Machine, measure_machine
from helpers.profiling.recipes import Recipe, patches_of
from helpers.profiling.rungs import TRIED, tried_rungs
from helpers.profiling.settings import NoisePatches, ProfileSettings
from helpers.profiling.steps import TrainingStep
from helpers.profiling.trace import Profile, profile_steps
from helpers.regions import MODALITIES
from helpers.training.before.datamodule import CaseDataModule
from helpers.training.before.memory import peak_training_memory
from helpers.workspace import versions

LADDER = (
    "One change at a time beside the recipe of the table above, in turns with it on the same patches: `step` is how many times "
    "faster, and the loss says whether it is the same training."
)
TOP = 12
"""Operations that the Markdown lists; the CSV has all."""


@dataclass(frozen=True)
class Report:
    """Everything that was measured: see the parts. `peak_bytes` is that of a training in a process of its own, or None.

    `ladder` is what else was tried, as `helpers.profiling.ladder.measure_rungs` returns it, or None.
    """

    settings: ProfileSettings
    machine: Machine
    budget: Budget
    timing: Timing
    profile: Profile
    peak_bytes: int | None
    data: str
    ladder: pd.DataFrame | None = None

    def summary(self) -> dict[str, float | str]:
        """The numbers that matter, by name with unit."""
        chosen = self.settings.number_format
        floor, used = (measure(self.machine, chosen) for measure in (self.budget.floor, self._utilisation))
        return {
            "processor": self.machine.name,
            "threads": self.machine.threads,
            "parameters": self.budget.parameters,
            "GFLOP a step": self.budget.gflop,
            "FLOP a byte": self.budget.intensity,
            f"peak {chosen} GFLOP/s": self.machine.gflops[chosen],
            "copy GB/s": self.machine.copy_gbs,
            "decompression MB/s a thread": self.machine.decompress_mbs,
            "floor s a step": floor,
            "s a step": self.timing.median,
            "model FLOP utilisation": used,
            "data wait": self.profile.data_wait,
            "peak training memory GiB": "not measured" if self.peak_bytes is None else self.peak_bytes / 2**30,
        }

    def _utilisation(self, machine: Machine, number_format: str) -> float:
        return self.budget.utilisation(self.timing.median, machine, number_format)

    def write(self, folder: Path) -> Path:
        """Write ``report.md``, ``report.json``, ``phases.csv``, ``kernels.csv``, ``memory.csv`` and
        ``ladder.csv``; returns the first."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("phases", "kernels", "memory"):
            getattr(self.profile, name).to_csv(folder / f"{name}.csv", index=name != "memory")
        if self.ladder is not None:
            self.ladder.to_csv(folder / "ladder.csv")
        record = {"settings": asdict(self.settings), "data": self.data, "numbers": self.summary(), "versions": versions()}
        record["seconds"] = list(self.timing.seconds)
        (folder / "report.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        path = folder / "report.md"
        path.write_text(self.markdown(), encoding="utf-8")
        return path

    def markdown(self) -> str:
        """The report to read."""
        settings = self.settings
        size = "x".join(map(str, settings.patch))
        title = f"# {settings.network}, {settings.batch} patches of {size}, {settings.number_format} on {settings.device}"
        rows = [
            (name, str(value) if isinstance(value, str | int) else f"{value:.4g}") for name, value in self.summary().items()
        ]
        kernels = self.profile.kernels.head(TOP).reset_index()
        parts = [
            title,
            f"Patches: {self.data}. Seconds are medians of {len(self.timing.seconds)} steps: {self.timing}.",
            _table(("", "measured"), rows),
            "## Phases",
            _table(("phase", "s a step", "share"), _rows(self.profile.phases.reset_index(), "phase")),
            f"## The {len(kernels)} most costly operations",
            _table(("operation", "s a step", "share", "calls"), _rows(kernels, "operation")),
            f"The profiler slows every operation down: take shares from it, and seconds from the table above. "
            f"`{self.profile.trace.name}` opens at https://ui.perfetto.dev.",
        ]
        if self.ladder is not None:
            parts += ["## What else was tried", LADDER, _table(*_ladder_rows(self.ladder))]
        return "\n\n".join(parts) + "\n"


def try_rungs(network: nn.Module, settings: ProfileSettings, prepared: Sequence[Path] = ()) -> pd.DataFrame:
    """Measure the rungs of `helpers.profiling.rungs.tried_rungs` beside the recipe of these settings, in turns.

    Parameters
    ----------
    network : Module
        Left as it is.
    settings : ProfileSettings
    prepared : sequence of Path, optional
        Prepared cases to draw patches from; noise where there are none.
    """
    base = Recipe("mapped", batch=settings.batch, channels_last=True, fused_optimiser=True, bf16=settings.bf16)
    reasons = {} if prepared else {name: "patches are noise" for name, change in TRIED.items() if "changes" in change}
    if not any(isinstance(module, BLOCKS) for module in network.modules()):
        reasons["gradient checkpointing"] = "this network has no block that could be computed twice"
    missing = missing_compiler(settings.device) if settings.compiled else "ask for it with --compile"
    rungs = tried_rungs(base, bf16=settings.bf16, device=settings.device, not_compiled=missing, reasons=reasons)
    rungs = [Rung("this recipe", base), *(rung for rung in rungs if rung.recipe != base)]

    def draw(recipe: Recipe, count: int) -> Dataset:
        if not prepared:
            return NoisePatches(settings, count)
        return patches_of(recipe, dict.fromkeys(prepared), patch=settings.patch, count=count, seed=settings.seed)

    options = {"rounds": settings.steps, "device": settings.device, "patches": settings.batch}
    return measure_rungs(rungs, network, draw, **options).drop(columns=["Dice difference", "cumulative"])


def profile_network(settings: ProfileSettings, folder: Path, *, prepared: Sequence[Path] = (), memory: bool = True) -> Report:
    """Measure the training of a network: budget, machine, seconds, phases, operations, memory.

    Parameters
    ----------
    settings : ProfileSettings
    folder : Path
        For the trace; `Report.write` puts the rest there too.
    prepared : sequence of Path, optional
        Prepared cases to draw patches from; noise where there are none.
    memory : bool
        Whether to measure the peak memory, which takes a fresh process.
    """
    torch.manual_seed(settings.seed)
    network = build_network(settings.network, **settings.arguments)
    channels = settings.arguments.get("in_channels", len(MODALITIES))
    budget = training_budget(network, settings.patch, batch=settings.batch, in_channels=channels)
    machine = measure_machine(settings.device)
    size = {"patch": settings.patch, "batch": settings.batch, "arguments": settings.arguments, "device": settings.device}
    peak = peak_training_memory(settings.network, **size) if memory else None
    ladder = try_rungs(network, settings, prepared) if settings.ladder else None
    network = network.to(settings.device).train()
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    needed = 2 * settings.steps + 4
    step = TrainingStep(
        network, optimiser, iter(_loader(settings, prepared, needed)), device=settings.device, bf16=settings.bf16
    )
    timing = interleave({"step": step}, rounds=settings.steps, device=settings.device)["step"]
    profile = profile_steps(step, folder, steps=min(settings.steps, 3), device=settings.device)
    data = f"from {len(prepared)} prepared cases, {settings.workers} workers" if prepared else "noise, not read from files"
    return Report(settings, machine, budget, timing, profile, peak, data, ladder)


def _loader(settings: ProfileSettings, prepared: Sequence[Path], steps: int) -> DataLoader:
    if not prepared:
        patches = NoisePatches(settings, steps * settings.batch)
        return DataLoader(patches, batch_size=settings.batch, num_workers=settings.workers)
    module = CaseDataModule(
        prepared,
        patch=settings.patch,
        batch=settings.batch,
        steps=steps,
        seed=settings.seed,
        workers=settings.workers,
    )
    return module.train_dataloader()


def _rows(table: pd.DataFrame, first: str) -> list[tuple[str, ...]]:
    shown = [(row[first], f"{row['seconds']:.4f}", f"{row['share']:.1%}", row.get("calls")) for _, row in table.iterrows()]
    return [(*row[:3], f"{row[3]:g}") if row[3] is not None else row[:3] for row in shown]


def _ladder_rows(table: pd.DataFrame) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    rows = [
        (name, *("" if pd.isna(value) else value if isinstance(value, str) else f"{value:.3g}" for value in row))
        for name, row in zip(table.index, table.to_numpy(dtype=object), strict=True)
    ]
    return ("change", *table.columns), rows


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
