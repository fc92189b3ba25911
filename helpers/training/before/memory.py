"""How much memory the training of a network takes at its peak, measured by training it."""

from __future__ import annotations

import math
import multiprocessing
import resource
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from helpers.models.networks import build_network, channels_last, check_patch
from helpers.regions import MODALITIES, REGIONS
from helpers.training.before.loss import segmentation_loss
from helpers.workspace import DataError

STEPS = 2
"""Steps that are made: the first allocates what the optimiser keeps, the second has it all at once."""


def peak_training_memory(
    network: str, *, patch: Sequence[int], batch: int = 2, arguments: Mapping[str, Any] | None = None, device: str = "cpu"
) -> int:
    """Bytes that two steps of training add at their peak: weights, gradients, AdamW, activations and work space.

    They are made in a fresh process. On a CPU its greatest resident memory is compared with that from before the network was
    built, in 32 bits; on a GPU it is what torch allocated at most (`torch.cuda.max_memory_allocated`), in bfloat16.

    Parameters
    ----------
    network : str
        Key of `helpers.models.networks.NETWORKS`.
    patch : sequence of 2 or 3 int
        Edges in voxels.
    batch : int
        Patches a step.
    arguments : mapping, optional
        Of the network.
    device : str
        "cpu" or a CUDA device.

    Raises
    ------
    DataError
        If the network cannot be built or does not take the patch, or the memory does not suffice.
    """
    arguments = dict(arguments or {})
    check_patch(patch, network, **arguments)
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_train, network, tuple(patch), batch, arguments, device).result()
    except (BrokenProcessPool, torch.OutOfMemoryError) as error:
        size = "x".join(map(str, patch))
        raise DataError(
            f"{network} could not be trained on {batch} patches of {size} voxels on {device}", "take less"
        ) from error


def _train(network: str, patch: tuple[int, ...], batch: int, arguments: dict[str, Any], device: str) -> int:
    """What `peak_training_memory` promises, in the process that it started."""
    gpu = torch.device(device).type == "cuda"
    before = _greatest_resident()
    channels, regions = arguments.get("in_channels", len(MODALITIES)), arguments.get("out_channels", len(REGIONS))
    image = channels_last(torch.randn(batch, channels, *patch, device=device))
    target = torch.zeros(batch, regions, *patch, device=device)
    target[(..., *(slice(math.ceil(edge / 2)) for edge in patch))] = 1
    model = build_network(network, **arguments).to(device).train()
    optimiser, loss = torch.optim.AdamW(model.parameters()), segmentation_loss()
    for _ in range(STEPS):
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=gpu):
            logits = model(image)
        loss(logits, target).backward()
        optimiser.step()
        optimiser.zero_grad()
    return torch.cuda.max_memory_allocated(device) if gpu else _greatest_resident() - before


def _greatest_resident() -> int:
    """Greatest resident memory of this process so far in bytes.

    Linux hands the greatest of the parent down in `getrusage`, so there the process's own record is read.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
