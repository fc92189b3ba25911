"""The profile of any network and patch size as a report: Markdown to read, CSV and JSON to compute with, a trace to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from helpers.models.networks import build_network, check_patch
from helpers.profiling.budget import Budget, training_budget
from helpers.profiling.clock import Timing, interleave
from helpers.profiling.machine import Machine, measure_machine
from helpers.profiling.steps import TrainingStep
from helpers.profiling.trace import Profile, profile_steps
from helpers.regions import MODALITIES, REGIONS
from helpers.training.datamodule import CaseDataModule
from helpers.training.memory import peak_training_memory
from helpers.workspace import versions

TOP = 12
"""Operations that the Markdown lists; the CSV has all."""


@dataclass(frozen=True)
class ProfileSettings:
    """What is profiled.

    Attributes
    ----------
    network : str
        Key of `helpers.models.networks.NETWORKS`.
    arguments : mapping
        Of the network.
    patch : tuple of 3 int
        Edges in voxels.
    batch : int
        Patches a step.
    steps : int
        Measured steps.
    workers : int
        Processes that read ahead; 0 reads in between the steps.
    bf16 : bool
        Whether the forward pass computes in bfloat16.
    device : str
    seed : int
    """

    network: str = "unet"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    patch: tuple[int, int, int] = (64, 64, 64)
    batch: int = 2
    steps: int = 5
    workers: int = 0
    bf16: bool = False
    device: str = "cpu"
    seed: int = 2021

    def __post_init__(self) -> None:
        check_patch(self.patch, self.network, **self.arguments)

    @property
    def number_format(self) -> str:
        """Of the matrix products."""
        return "bf16" if self.bf16 else "fp32"


@dataclass(frozen=True)
class Report:
    """Everything that was measured: see the parts. `peak_bytes` is that of a training in a process of its own, or None."""

    settings: ProfileSettings
    machine: Machine
    budget: Budget
    timing: Timing
    profile: Profile
    peak_bytes: int | None
    data: str

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
        """Write ``report.md``, ``report.json``, ``phases.csv``, ``kernels.csv`` and ``memory.csv``; returns the first."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("phases", "kernels", "memory"):
            getattr(self.profile, name).to_csv(folder / f"{name}.csv", index=name != "memory")
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
        return "\n\n".join(parts) + "\n"


class NoisePatches(Dataset):
    """Patches of noise with a cube of tumour, where no cohort is given: the network computes the same, reading is not seen."""

    def __init__(self, settings: ProfileSettings, count: int) -> None:
        self.settings, self.count = settings, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.settings.seed + index)
        arguments = self.settings.arguments
        image = torch.randn(arguments.get("in_channels", len(MODALITIES)), *self.settings.patch, generator=generator)
        regions = torch.zeros(arguments.get("out_channels", len(REGIONS)), *self.settings.patch, dtype=torch.bool)
        regions[(slice(None), *(slice(edge // 2) for edge in self.settings.patch))] = True
        return {"image": image, "regions": regions}


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
    network = network.to(settings.device).train()
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    needed = 2 * settings.steps + 4
    step = TrainingStep(
        network, optimiser, iter(_loader(settings, prepared, needed)), device=settings.device, bf16=settings.bf16
    )
    timing = interleave({"step": step}, rounds=settings.steps, device=settings.device)["step"]
    profile = profile_steps(step, folder, steps=min(settings.steps, 3), device=settings.device)
    data = f"from {len(prepared)} prepared cases, {settings.workers} workers" if prepared else "noise, not read from files"
    return Report(settings, machine, budget, timing, profile, peak, data)


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


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
