"""What a machine can do at most, measured: matrix products in each number format, copying, decompression."""

from __future__ import annotations

import platform
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from isal import igzip

from helpers.profiling.clock import interleave

FORMATS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
LEVEL = 6
"""Of gzip, as most files are written."""


@dataclass(frozen=True)
class Machine:
    """Measured peaks of one device.

    Attributes
    ----------
    name : str
        Of the processor or GPU.
    threads : int
        That PyTorch computes with on the CPU.
    gflops : mapping from str to float
        10^9 operations a second of a large matrix product, by number format.
    copy_gbs : float
        10^9 bytes a second, read and written, of a copy much larger than the caches.
    decompress_mbs : float
        10^6 bytes a second that come out of gzip, one thread.
    """

    name: str
    threads: int
    gflops: Mapping[str, float]
    copy_gbs: float
    decompress_mbs: float


def measure_machine(device: str = "cpu", *, edge: int = 0, megabytes: int = 0, rounds: int = 5) -> Machine:
    """Measure the peaks of a device, the fastest of a few rounds each: a peak is what it can do undisturbed.

    Parameters
    ----------
    device : str
        "cpu" or a CUDA device.
    edge : int
        Of the square matrices; 0 takes 1024 on a CPU and 8192 on a GPU.
    megabytes : int
        Size of the copied array; 0 takes 128 on a CPU and 2048 on a GPU.
    rounds : int
    """
    gpu = torch.device(device).type == "cuda"
    edge, megabytes = edge or (8192 if gpu else 1024), megabytes or (2048 if gpu else 128)
    factors = {name: torch.randn(edge, edge, device=device).to(dtype) for name, dtype in FORMATS.items()}
    source = torch.ones(megabytes * 2**20 // 4, device=device)
    target = torch.empty_like(source)
    packed = zlib.compress(_voxels(), LEVEL, wbits=31)
    works = {name: lambda matrix=matrix: matrix @ matrix for name, matrix in factors.items()}
    works |= {"copy": lambda: target.copy_(source), "gzip": lambda: igzip.decompress(packed)}
    best = {name: min(timing.seconds) for name, timing in interleave(works, rounds=rounds, device=device).items()}
    return Machine(
        name=torch.cuda.get_device_name(device) if gpu else processor_name(),
        threads=torch.get_num_threads(),
        gflops={name: 2 * edge**3 / best[name] / 1e9 for name in FORMATS},
        copy_gbs=2 * source.numel() * 4 / best["copy"] / 1e9,
        decompress_mbs=len(_voxels()) / best["gzip"] / 1e6,
    )


def processor_name() -> str:
    """Model of the CPU as the system knows it."""
    table = Path("/proc/cpuinfo")
    if table.exists():
        names = [line.split(":", 1)[1].strip() for line in table.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _voxels() -> bytes:
    """Bytes like those of an image: noise inside a brain, 0 around it; 8 MB."""
    grid = np.zeros((256, 128, 128), np.int16)
    inside = grid[64:192, 32:96, 32:96]
    inside[:] = np.random.default_rng(0).normal(500, 80, inside.shape)
    return grid.tobytes()
