"""Networks by name, with the arguments that suit four contrasts in and three region logits out.

Every network takes an image (B, 4, X, Y, Z) and returns logits (B, 3, X, Y, Z) in the order TC, WT, ET. The defaults are
those of a laptop; the documentation of each builder names the published setting.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from monai.networks.nets import SegResNet, SwinUNETR, UNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.data.files import DataError
from helpers.regions import MODALITIES, REGIONS


def unet(*, channels: Sequence[int] = (16, 32, 64, 128), num_res_units: int = 2, dropout: float = 0.0) -> nn.Module:
    """U-Net with residual units and instance normalisation (Kerfoot et al. 2019), halving the grid between levels.

    The default has 1.2 million parameters. ``channels=(32, 64, 128, 256, 512)`` is a common setting on a GPU.
    """
    return UNet(
        spatial_dims=3,
        in_channels=len(MODALITIES),
        out_channels=len(REGIONS),
        channels=tuple(channels),
        strides=(2,) * (len(channels) - 1),
        num_res_units=num_res_units,
        norm="INSTANCE",
        dropout=dropout,
    )


def segresnet(
    *, init_filters: int = 8, blocks_down: Sequence[int] = (1, 2, 2, 4), blocks_up: Sequence[int] = (1, 1, 1)
) -> nn.Module:
    """Residual encoder and decoder of Myronenko (2018), which won BraTS 2018; there ``init_filters=32``."""
    return SegResNet(
        spatial_dims=3,
        init_filters=init_filters,
        in_channels=len(MODALITIES),
        out_channels=len(REGIONS),
        blocks_down=tuple(blocks_down),
        blocks_up=tuple(blocks_up),
    )


def swin_unetr(
    *, feature_size: int = 12, window_size: int = 4, use_v2: bool = False, use_flash_attention: bool | None = None
) -> nn.Module:
    """Swin UNETR (Hatamizadeh et al. 2022): attention within windows that shift from block to block, and a U-Net decoder.

    Parameters
    ----------
    feature_size : int
        Channels of the first level, a multiple of 12: 12, 24 or 48 (published).
    window_size : int
        Edge of an attention window in tokens, each of 2^3 voxels. The published 7 attends to 343 tokens at once; 4 costs
        about a quarter of the time on a CPU and divides the grids of a 64^3 patch without padding.
    use_v2 : bool
        A residual convolution before every level (SwinUNETR-V2, He et al. 2023).
    use_flash_attention : bool, optional
        Fused attention: same weights, same result, less memory on a GPU. Left out, it is on where a GPU is.
    """
    if feature_size % 12:
        raise DataError(f"swin_unetr needs a feature_size that is a multiple of 12, not {feature_size}; take 12, 24 or 48")
    return SwinUNETR(
        in_channels=len(MODALITIES),
        out_channels=len(REGIONS),
        feature_size=feature_size,
        window_size=window_size,
        use_v2=use_v2,
        use_flash_attention=torch.cuda.is_available() if use_flash_attention is None else use_flash_attention,
    )


@dataclass(frozen=True)
class NetworkKind:
    """A network that can be built by name.

    Attributes
    ----------
    build : callable
        Takes keyword arguments only, all with defaults, and returns the network.
    multiple : callable
        From the same arguments to the number of voxels of which every edge of an input must be a multiple.
    """

    build: Callable[..., nn.Module]
    multiple: Callable[..., int]


def _unet_multiple(*, channels: Sequence[int] = (16, 32, 64, 128), **_) -> int:
    return 2 ** (len(channels) - 1)


def _segresnet_multiple(*, blocks_down: Sequence[int] = (1, 2, 2, 4), **_) -> int:
    return 2 ** (len(blocks_down) - 1)


NETWORKS: dict[str, NetworkKind] = {
    "unet": NetworkKind(unet, _unet_multiple),
    "segresnet": NetworkKind(segresnet, _segresnet_multiple),
    "swin_unetr": NetworkKind(swin_unetr, lambda **_: 32),
}
"""Every network that `build_network` knows; another one is added by adding its builder here."""


def build_network(name: str, **arguments) -> nn.Module:
    """Build a network with fresh weights from torch's current random state.

    Its weights lie channels last in memory, which convolutions on a CPU run on about a third faster.

    Parameters
    ----------
    name : str
        Key of `NETWORKS`.
    **arguments
        Arguments of that network's builder; what is left out takes the builder's default.

    Raises
    ------
    DataError
        If the name or an argument does not exist, or the network refuses a value.
    """
    if name not in NETWORKS:
        raise DataError(f"there is no network {name!r}; choose one of {', '.join(NETWORKS)}")
    known = inspect.signature(NETWORKS[name].build).parameters
    unknown = [argument for argument in arguments if argument not in known]
    if unknown:
        raise DataError(f"{name} has no argument {', '.join(unknown)}; it takes {', '.join(known)}")
    try:
        return NETWORKS[name].build(**arguments).to(memory_format=torch.channels_last_3d)
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} cannot be built with {arguments}: {error}") from error


def input_multiple(name: str, **arguments) -> int:
    """Number of voxels of which every edge of an input to this network must be a multiple."""
    return NETWORKS[name].multiple(**arguments)


def check_patch(patch: Sequence[int], name: str, **arguments) -> None:
    """Raise `DataError` unless the network can be trained on patches of this size.

    Edges must be multiples of `input_multiple`, and more than one voxel must be left at the deepest level: the
    normalisation there has no spread to divide by otherwise.
    """
    multiple = input_multiple(name, **arguments)
    if any(edge % multiple or edge <= 0 for edge in patch) or math.prod(edge // multiple for edge in patch) < 2:
        raise DataError(
            f"{name} cannot train on patches of {'x'.join(map(str, patch))} voxels; take multiples of {multiple}, "
            f"at least one edge of {2 * multiple} or more"
        )


@dataclass(frozen=True)
class NetworkDescription:
    """Size of a network: trainable parameters, and 10^9 operations of one forward pass over one input of `size` voxels."""

    parameters: int
    gflop: float
    size: tuple[int, int, int]


def describe_network(network: nn.Module, *, size: Sequence[int] = (64, 64, 64)) -> NetworkDescription:
    """Count a network's parameters and the floating-point operations of one forward pass, without executing it.

    A multiplication and an addition count as two operations; only convolutions, matrix products and attention count
    (the rule of `torch.utils.flop_counter`).
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, len(MODALITIES), *size, device="meta"))
    parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return NetworkDescription(parameters, counter.get_total_flops() / 1e9, tuple(size))
