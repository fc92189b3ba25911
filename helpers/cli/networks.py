"""``python -m helpers networks``: the size of every network."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from brats_cohort.files import DataError
from helpers.models.networks import NETWORKS, build_network, input_multiple

EDGES: dict[int, int] = {2: 256, 3: 128}
"""Edge of the input for which operations are counted, by number of dimensions, unless one is given."""
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "unet": {"channels": (32, 64, 128, 256, 512)},
    "segresnet": {"init_filters": 32, "dropout": 0.2},
    "dynunet": {"filters": (32, 64, 128, 256, 320, 320)},
    "swin_unetr": {"feature_size": 48, "window_size": 7},
}
"""Arguments as the networks were published or are commonly trained on a GPU."""


def run(
    *,
    network: tuple[Literal[*NETWORKS], ...] = tuple(NETWORKS),
    setting: tuple[Literal["laptop", "published"], ...] = ("laptop", "published"),
    spatial_dims: Literal[2, 3] = 3,
    edge: int = 0,
) -> int:
    """Print parameters and operations of networks.

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
    """
    edge, rows = edge or EDGES[spatial_dims], []
    for name in network:
        for kind in setting:
            if kind == "published" and name not in PUBLISHED:
                continue  # a network of your own
            arguments = {"spatial_dims": spatial_dims, **(PUBLISHED[name] if kind == "published" else {})}
            multiple = input_multiple(name, **arguments)
            if edge < 2 * multiple or edge % multiple:
                raise DataError(f"--edge is {edge}", f"{name} ({kind}) takes multiples of {multiple} from {2 * multiple} on")
            parameters, gflop = describe_network(build_network(name, **arguments), size=(edge,) * spatial_dims)
            row = {"network": name, "setting": kind, "parameters M": f"{parameters / 1e6:.2f}"}
            rows.append(row | {f"GFLOP {edge}{'²' if spatial_dims == 2 else '³'}": f"{gflop:.1f}"})
    print(pd.DataFrame(rows).to_string(index=False))
    print("\nGFLOP: one forward pass, a multiplication and an addition counted as two.")
    return 0


def describe_network(network: nn.Module, *, size: Sequence[int]) -> tuple[int, float]:
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
