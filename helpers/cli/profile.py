"""``python -m helpers profile``: where the time of a network's training step goes."""

from __future__ import annotations

import json
import os
import timeit
from collections.abc import Mapping
from typing import Any, Literal

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch.profiler prints lines of its own

import numpy as np
import pandas as pd
import torch
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode

from brats_cohort.command import Target
from brats_cohort.files import DataError
from brats_cohort.regions import MODALITIES, REGIONS
from helpers.models.networks import NETWORKS, build_network, channels_last, check_patch
from helpers.training.loss import RegionLoss
from helpers.workspace import pick_device

TOP = 12
"""Operations that are printed; operations.csv has all."""


def run(
    *,
    out: Target,
    network: Literal[*NETWORKS] = "unet",
    arguments: Mapping[str, Any] = {},
    patch: tuple[int, int, int] = (64, 64, 64),
    batch: int = 2,
    steps: int = 10,
    bf16: bool = False,
    device: str = "auto",
) -> int:
    """Count, time and profile training steps on random patches.

    Parameters
    ----------
    out
        Folder for trace.json (open it at https://ui.perfetto.dev), operations.csv and summary.json.
    network
        Which network.
    arguments
        Of the network, as JSON such as '{"feature_size": 24}'.
    patch
        Edges of a patch in voxels.
    batch
        Patches a step.
    steps
        Measured steps, after two that warm up.
    bf16
        Compute the forward pass in bfloat16.
    device
        auto, cpu, cuda or cuda:1.
    """
    if min(batch, steps) < 1:
        raise DataError(f"--batch is {batch} and --steps is {steps}", "give at least 1 for both")
    check_patch(patch, network, **arguments)
    device = pick_device(device)
    model = build_network(network, **arguments).to(device).train()
    loss, optimiser = RegionLoss(), torch.optim.AdamW(model.parameters(), fused=True)
    image = channels_last(torch.randn(batch, len(MODALITIES), *patch, device=device))
    regions = (torch.rand(batch, len(REGIONS), *patch, device=device) > 0.9).float()

    def step() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            logits = model(image)
        loss(logits, regions).backward()
        optimiser.step()
        optimiser.zero_grad()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    seconds = timeit.repeat(step, number=1, repeat=steps)
    with torch.profiler.profile(profile_memory=True) as profiler:
        step()
    out.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(out / "trace.json"))
    table = _operations(profiler, "device" if device.startswith("cuda") else "cpu")
    table.to_csv(out / "operations.csv")
    gflop = counter.get_total_flops() / 1e9
    summary = {
        "seconds a step, median": float(np.median(seconds)),
        "seconds a step, lowest": min(seconds),
        "seconds a step, highest": max(seconds),
        "GFLOP a step": gflop,
        "GFLOP a second": gflop / float(np.median(seconds)),
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(pd.Series(summary).map("{:,.4g}".format).to_string())
    print(f"\nThe {TOP} most costly operations by themselves, of {len(table)}; take shares from here, seconds from above:")
    print(table.head(TOP).to_string(float_format="{:.3f}".format))
    print(f"\n{out / 'trace.json'}")
    return 0


def _operations(profiler: torch.profiler.profile, where: str) -> pd.DataFrame:
    """Share of the time and number of calls of every operation, the most costly first."""
    events = [event for event in profiler.key_averages() if event.key != "[memory]"]
    events = [event for event in events if event.device_type == DeviceType.CPU]  # which counts the kernels that it starts
    rows = [(event.key, getattr(event, f"self_{where}_time_total"), event.count) for event in events]
    table = pd.DataFrame(rows, columns=["operation", "share", "calls"]).set_index("operation")
    return table.assign(share=table["share"] / table["share"].sum()).sort_values("share", ascending=False)
