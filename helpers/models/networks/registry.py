"""Which networks there are, how one is built, and which inputs it takes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from helpers.data.files import DataError
from helpers.models.networks.convolutional import CHANNELS, attention_unet, dynunet, segresnet, unet
from helpers.models.networks.ensemble import Ensemble
from helpers.models.networks.transformers import swin_unetr, unetr
from helpers.models.small_grids import keep_small_grids_exact

MEMORY_FORMATS: dict[int, torch.memory_format] = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the number of axes of an image with batch and channels."""


@dataclass(frozen=True)
class NetworkKind:
    """A network that can be built by name.

    Attributes
    ----------
    build : callable
        Takes keyword arguments only, all with defaults, and returns the network.
    multiple : callable
        From the same arguments to the number of voxels of which every edge of an input must be a multiple.
    one_size : bool
        Whether every edge of an input must be exactly that number.
    cpu_bf16 : bool
        Whether a training step in bf16 is faster than in 32 bit on a CPU with instructions for it, as
        ``python -m helpers profile`` measures. Group normalisation is not, as it leaves the channels-last layout.
    """

    build: Callable[..., nn.Module]
    multiple: Callable[..., int]
    one_size: bool = False
    cpu_bf16: bool = True


def _levels_multiple(argument: str) -> Callable[..., int]:
    """The multiple of a network that halves the grid between the levels whose channels this argument lists."""

    def multiple(*, spatial_dims: int = 3, **arguments) -> int:
        return 2 ** (len(arguments.get(argument) or CHANNELS[spatial_dims]) - 1)

    return multiple


def _segresnet_multiple(*, blocks_down: Sequence[int] = (1, 2, 2, 4), **_) -> int:
    return 2 ** (len(blocks_down) - 1)


def _unetr_multiple(*, img_size: int = 64, **_) -> int:
    return img_size


NETWORKS: dict[str, NetworkKind] = {
    "unet": NetworkKind(unet, _levels_multiple("channels")),
    "attention_unet": NetworkKind(attention_unet, _levels_multiple("channels")),
    "segresnet": NetworkKind(segresnet, _segresnet_multiple, cpu_bf16=False),
    "dynunet": NetworkKind(dynunet, _levels_multiple("filters")),
    "unetr": NetworkKind(unetr, _unetr_multiple, one_size=True),
    "swin_unetr": NetworkKind(swin_unetr, lambda **_: 32),
}
"""Every network that can be trained by name; another one is added by adding its builder here."""

ENSEMBLE = "ensemble"
"""Several of them as one: ``build_network(ENSEMBLE, members=[{"network": name, "arguments": {...}}, ...])``.

A member may say with ``"votes": [...]`` how much each of its outputs counts; all of them must say so then.
"""


def build_network(name: str, **arguments) -> nn.Module:
    """Build a network with fresh weights from torch's current random state.

    Its weights lie channels last in memory, which convolutions on a CPU run on about a third faster.

    Parameters
    ----------
    name : str
        Key of `NETWORKS`, or `ENSEMBLE`.
    **arguments
        ``spatial_dims`` (3, or 2), ``in_channels`` (4) and ``out_channels`` (3) of every network, and those of that network's
        builder; what is left out takes the builder's default.

    Raises
    ------
    DataError
        If the name or an argument does not exist, or the network refuses a value.
    """
    if name == ENSEMBLE:
        members = [build_network(kind, **settings) for kind, settings in _members(**arguments)]
        return Ensemble(members, ensemble_votes(arguments["members"]))
    if name not in NETWORKS:
        raise DataError(f"there is no network {name!r}; choose one of {', '.join(NETWORKS)}")
    known = inspect.signature(NETWORKS[name].build).parameters
    unknown = [argument for argument in arguments if argument not in known]
    if unknown:
        raise DataError(f"{name} has no argument {', '.join(unknown)}; it takes {', '.join(known)}")
    if arguments.get("spatial_dims", 3) not in (2, 3):
        raise DataError(f"{name} cannot be built with {arguments['spatial_dims']} dimensions; take 2 or 3")
    try:
        network = NETWORKS[name].build(**arguments)
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} cannot be built with {arguments}: {error}") from error
    return keep_small_grids_exact(network).to(memory_format=MEMORY_FORMATS[arguments.get("spatial_dims", 3) + 2])


def _members(members: Sequence[Mapping[str, Any]] = (), **unknown) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and arguments of the networks in an ensemble."""
    try:
        found = [(member["network"], member["arguments"]) for member in members]
    except (KeyError, TypeError) as error:
        raise DataError(f"{ENSEMBLE} needs a network and its arguments for every member, not {members!r}") from error
    if unknown or not found:
        raise DataError(f"{ENSEMBLE} takes one argument, members, which names at least one network")
    return found


def ensemble_votes(members: Sequence[Mapping[str, Any]]) -> list[Sequence[float]] | None:
    """How much each output of each member counts; None where all count alike."""
    votes = [member["votes"] for member in members if member.get("votes")]
    if not votes:
        return None
    alike = len(votes) == len(members) and len(set(map(len, votes))) == 1
    if not alike or min(map(min, votes)) < 0 or not all(map(any, zip(*votes, strict=True))):
        raise DataError(f"{ENSEMBLE} needs as many votes of every member, none below 0, and one for every output, not {votes}")
    return votes


def channels_last(image: torch.Tensor) -> torch.Tensor:
    """The same values (B, C, X, Y) or (B, C, X, Y, Z) with the channels of a voxel side by side in memory."""
    return image.contiguous(memory_format=MEMORY_FORMATS[image.ndim])


def input_multiple(name: str, **arguments) -> int:
    """Number of voxels of which every edge of an input to this network must be a multiple."""
    if name == ENSEMBLE:
        return math.lcm(*(input_multiple(kind, **settings) for kind, settings in _members(**arguments)))
    return NETWORKS[name].multiple(**arguments)


def check_patch(patch: Sequence[int], name: str, **arguments) -> None:
    """Raise `DataError` unless the network can be trained on patches of this size.

    There must be as many edges as the network has dimensions, and edges must be multiples of `input_multiple`. More than one
    voxel must be left at the deepest level, as the normalisation there has no spread to divide by otherwise. A network of one
    size takes no other.
    """
    multiple, dimensions = input_multiple(name, **arguments), arguments.get("spatial_dims", 3)
    size = "x".join(map(str, patch))
    if len(patch) != dimensions:
        raise DataError(f"{name} with {dimensions} dimensions cannot train on patches of {size} voxels")
    if NETWORKS[name].one_size:
        if any(edge != multiple for edge in patch):
            raise DataError(f"{name} was built for edges of {multiple} voxels, not {size}; set patch and img_size alike")
    elif any(edge % multiple or edge <= 0 for edge in patch) or math.prod(edge // multiple for edge in patch) < 2:
        raise DataError(
            f"{name} cannot train on patches of {size} voxels; take multiples of {multiple}, "
            f"at least one edge of {2 * multiple} or more"
        )
