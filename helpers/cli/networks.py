"""``python -m helpers networks``: the size of every network, and the memory that its training takes."""

from __future__ import annotations

import argparse
from typing import Any

import pandas as pd
import torch

from helpers.models.networks import NETWORKS, PUBLISHED, build_network, describe_network
from helpers.training.before.memory import peak_training_memory

SETTINGS = ("laptop", "published")
EDGES: dict[int, int] = {2: 256, 3: 128}
"""Edge of the input for which operations are counted, by number of dimensions, where none is given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--spatial-dims", type=int, choices=(2, 3), default=3, help="dimensions of the images")
    parser.add_argument("--network", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS), help="which networks")
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="the defaults, or as published")
    parser.add_argument(
        "--edge", type=int, help="voxels along the edge of the input that is counted; else 128 in 3-D, 256 in 2-D"
    )
    parser.add_argument("--measure", action="store_true", help="train each for two steps and report the peak memory")
    parser.add_argument("--patch", type=int, default=64, help="voxels along the edge of the measured patches")
    parser.add_argument("--batch", type=int, default=2, help="measured patches a step")
    parser.add_argument("--device", default="cpu", help="cpu, or a CUDA device such as cuda:0, to measure on")


def run(arguments: argparse.Namespace) -> int:
    """Count, measure if asked to, and print the table."""
    edge = arguments.edge or EDGES[arguments.spatial_dims]
    power = "²" if arguments.spatial_dims == 2 else "³"
    rows = []
    for name in arguments.network:
        for setting in arguments.setting:
            row = _row(arguments, name, edge, published=setting == "published")
            rows.append({"network": name, "setting": setting, **row})
    print(pd.DataFrame(rows).rename(columns={"GFLOP": f"GFLOP {edge}{power}"}).to_string(index=False))
    print("\nGFLOP: one forward pass, a multiplication and an addition counted as two.")
    if arguments.measure:
        how = "greatest resident memory of a fresh process, less that before the network was built"
        if torch.device(arguments.device).type == "cuda":
            how = f"torch.cuda.max_memory_allocated in bfloat16, {torch.cuda.get_device_name(arguments.device)}"
        print(f"peak GiB: two training steps with {arguments.batch} patches of {arguments.patch}{power} by AdamW; {how}.")
    return 0


def _row(arguments: argparse.Namespace, name: str, edge: int, *, published: bool) -> dict[str, str]:
    dimensions = arguments.spatial_dims
    settings = _arguments(name, dimensions, edge, published)
    description = describe_network(build_network(name, **settings), size=(edge,) * dimensions)
    row = {"parameters M": f"{description.parameters / 1e6:.2f}", "GFLOP": f"{description.gflop:.1f}"}
    if arguments.measure:
        settings = _arguments(name, dimensions, arguments.patch, published)
        patch = (arguments.patch,) * dimensions
        peak = peak_training_memory(name, patch=patch, batch=arguments.batch, arguments=settings, device=arguments.device)
        row["peak GiB"] = f"{peak / 2**30:.2f}"
    return row


def _arguments(name: str, dimensions: int, edge: int, published: bool) -> dict[str, Any]:
    """Arguments of a network for square or cubic inputs of `edge` voxels."""
    size = {"img_size": edge} if NETWORKS[name].one_size else {}
    return {"spatial_dims": dimensions, **(PUBLISHED[name] if published else {}), **size}
