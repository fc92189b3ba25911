"""``python -m helpers networks``: the size of every network, and the memory that its training takes."""

from __future__ import annotations

import copy
import multiprocessing
import resource
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from monai.losses import DiceLoss
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.cli.options import pick_device
from helpers.models.networks import NETWORKS, build_network, channels_last, check_patch
from helpers.regions import MODALITIES, REGIONS
from helpers.workspace import DataError

EDGES: dict[int, int] = {2: 256, 3: 128}
"""Edge of the input for which operations are counted, by number of dimensions, unless one is given."""
STEPS = 2
"""Measured steps: the first allocates what the optimiser keeps, the second has it all at once."""
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "unet": {"channels": (32, 64, 128, 256, 512)},
    "attention_unet": {"channels": (64, 128, 256, 512)},
    "segresnet": {"init_filters": 32, "dropout": 0.2},
    "dynunet": {"filters": (32, 64, 128, 256, 320, 320)},
    "unetr": {"feature_size": 16, "hidden_size": 768, "num_heads": 12},
    "swin_unetr": {"feature_size": 48, "window_size": 7},
}
"""Arguments as the networks were published or are commonly trained on a GPU."""


def run(
    *,
    network: tuple[Literal[*NETWORKS], ...] = tuple(NETWORKS),
    setting: tuple[Literal["laptop", "published"], ...] = ("laptop", "published"),
    spatial_dims: Literal[2, 3] = 3,
    edge: int = 0,
    measure: bool = False,
    patch: int = 64,
    batch: int = 2,
    device: str = "cpu",
) -> int:
    """Print parameters, operations and, if asked to, peak training memory of networks.

    Parameters
    ----------
    network
        Which networks.
    setting
        The defaults, which suit a laptop, or as published.
    spatial_dims
        Dimensions of the images.
    edge
        Voxels along the edge of the input that is counted; 0 takes 128 in 3-D, 256 in 2-D.
    measure
        Train each for two steps and report the peak memory.
    patch
        Voxels along the edge of the measured patches.
    batch
        Measured patches a step.
    device
        cpu, or a CUDA device such as cuda:0, to measure on.
    """
    edge, power = edge or EDGES[spatial_dims], {2: "²", 3: "³"}[spatial_dims]
    device = pick_device(device)
    rows = []
    for name in network:
        for kind in setting:
            arguments = _arguments(name, spatial_dims, edge, kind)
            parameters, gflop = describe_network(build_network(name, **arguments), size=(edge,) * spatial_dims)
            row = {"network": name, "setting": kind, "parameters M": f"{parameters / 1e6:.2f}"}
            row[f"GFLOP {edge}{power}"] = f"{gflop:.1f}"
            if measure:
                options = {"patch": (patch,) * spatial_dims, "batch": batch, "device": device}
                peak = peak_training_memory(name, arguments=_arguments(name, spatial_dims, patch, kind), **options)
                row["peak GiB"] = f"{peak / 2**30:.2f}"
            rows.append(row)
    print(pd.DataFrame(rows).to_string(index=False))
    print("\nGFLOP: one forward pass, a multiplication and an addition counted as two.")
    if measure:
        how = "greatest resident memory of a fresh process, less that before the network was built"
        if device != "cpu":
            how = f"torch.cuda.max_memory_allocated in bfloat16, {torch.cuda.get_device_name(device)}"
        print(f"peak GiB: {STEPS} training steps with {batch} patches of {patch}{power} by AdamW; {how}.")
    return 0


def _arguments(name: str, dimensions: int, edge: int, setting: str) -> dict[str, Any]:
    """Arguments of a network for square or cubic inputs of `edge` voxels."""
    size = {"img_size": edge} if NETWORKS[name].one_size else {}
    return {"spatial_dims": dimensions, **(PUBLISHED[name] if setting == "published" else {}), **size}


def describe_network(network: nn.Module, *, size: Sequence[int] = (64, 64, 64)) -> tuple[int, float]:
    """Count trainable parameters, and 10^9 operations of one forward pass over an input of `size` voxels, not executed.

    A multiplication and an addition count as two operations; only convolutions, matrix products and attention count
    (`torch.utils.flop_counter`).
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    channels = next(module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, channels, *size, device="meta"))
    parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return parameters, counter.get_total_flops() / 1e9


def peak_training_memory(
    network: str, *, patch: Sequence[int], batch: int, arguments: Mapping[str, Any], device: str = "cpu"
) -> int:
    """Measure the bytes that two steps of training add at their peak: weights, gradients, AdamW, activations, work space.

    They are made in a fresh process. On a CPU its greatest resident memory is compared with that from before the network was
    built, in 32 bit; on a GPU it is what torch allocated at most, in bfloat16.

    Raises
    ------
    DataError
        If the network cannot be built or does not take the patch, or the memory does not suffice.
    """
    check_patch(patch, network, **arguments)
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_train, network, tuple(patch), batch, dict(arguments), device).result()
    except (BrokenProcessPool, torch.OutOfMemoryError) as error:
        size = "x".join(map(str, patch))
        problem = f"{network} could not be trained on {batch} patches of {size} voxels on {device}"
        raise DataError(problem, "take less") from error


def _train(network: str, patch: tuple[int, ...], batch: int, arguments: dict[str, Any], device: str) -> int:
    """Train in the process that `peak_training_memory` started, and return the peak."""
    gpu, before = device != "cpu", _greatest_resident()
    image = channels_last(torch.randn(batch, len(MODALITIES), *patch, device=device))
    target = (torch.rand(batch, len(REGIONS), *patch, device=device) > 0.9).float()
    model, loss = build_network(network, **arguments).to(device).train(), DiceLoss(sigmoid=True)
    optimiser = torch.optim.AdamW(model.parameters())
    for _ in range(STEPS):
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=gpu):
            logits = model(image)
        logits = logits[0] if isinstance(logits, list) else logits
        loss(logits.float(), target).backward()
        optimiser.step()
        optimiser.zero_grad()
    return torch.cuda.max_memory_allocated(device) if gpu else _greatest_resident() - before


def _greatest_resident() -> int:
    """Read the greatest resident memory of this process so far in bytes.

    Linux hands the greatest of the parent down in `getrusage`, so there the process's own record is read.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
