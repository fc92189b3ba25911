"""Networks by name, in two and three dimensions, as MONAI has them.

Every network takes an image (B, in_channels, X, Y, Z), or (B, in_channels, X, Y) with ``spatial_dims=2``, and returns logits
(B, out_channels, ...) on the same grid; by default four contrasts in and TC, WT, ET out. The defaults suit a laptop;
`PUBLISHED` holds the settings of the papers.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.blocks import UnetBasicBlock, UnetResBlock
from monai.networks.blocks.convolutions import ResidualUnit
from monai.networks.blocks.segresnet_block import ResBlock
from monai.networks.nets import UNETR, AttentionUnet, DynUNet, SegResNet, SwinUNETR, UNet
from monai.networks.nets.swin_unetr import SwinTransformerBlock
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from helpers.regions import MODALITIES, REGIONS
from helpers.workspace import DataError

IMAGE, LOGITS = len(MODALITIES), len(REGIONS)
CHANNELS: dict[int, tuple[int, ...]] = {2: (16, 32, 64, 128, 256), 3: (16, 32, 64, 128)}
"""Channels of the levels by number of dimensions. Slices are longer than patches and so have one level more."""
MEMORY_FORMATS: dict[int, torch.memory_format] = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the number of axes of an image with batch and channels."""
BLOCKS: tuple[type[nn.Module], ...] = (ResidualUnit, ResBlock, UnetBasicBlock, UnetResBlock, SwinTransformerBlock)
"""Blocks of several layers, to which gradient checkpointing applies."""


def unet(
    *,
    channels: Sequence[int] | None = None,
    num_res_units: int = 2,
    dropout: float = 0.0,
    spatial_dims: int = 3,
    in_channels: int = IMAGE,
    out_channels: int = LOGITS,
) -> nn.Module:
    """Build a U-Net with residual units and instance normalisation (Kerfoot et al. 2019).

    The default in 3-D, ``channels=(16, 32, 64, 128)``, has 1.2 million parameters; the grid is halved between levels.
    """
    channels = tuple(channels or CHANNELS[spatial_dims])
    return UNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=channels,
        strides=(2,) * (len(channels) - 1),
        num_res_units=num_res_units,
        norm="INSTANCE",
        dropout=dropout,
    )


def attention_unet(
    *,
    channels: Sequence[int] | None = None,
    dropout: float = 0.0,
    spatial_dims: int = 3,
    in_channels: int = IMAGE,
    out_channels: int = LOGITS,
) -> nn.Module:
    """Build a U-Net whose skip connections pass through attention gates (Oktay et al. 2018).

    The published batch normalisation is replaced by instance normalisation: over one or two volumes its statistics mean little.
    """
    channels = tuple(channels or CHANNELS[spatial_dims])
    if len(channels) < 2:
        raise ValueError(f"channels {channels} must name at least two levels")
    network = AttentionUnet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=channels,
        strides=(2,) * (len(channels) - 1),
        dropout=dropout,
    )
    _normalise_instances(network, {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[spatial_dims])
    return network


def _normalise_instances(module: nn.Module, kind: type[nn.Module]) -> None:
    """Replace every batch normalisation below `module` by instance normalisation with scale and offset."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
            setattr(module, name, kind(child.num_features, affine=True))
        else:
            _normalise_instances(child, kind)


def segresnet(
    *,
    init_filters: int = 8,
    blocks_down: Sequence[int] = (1, 2, 2, 4),
    blocks_up: Sequence[int] = (1, 1, 1),
    dropout: float = 0.0,
    spatial_dims: int = 3,
    in_channels: int = IMAGE,
    out_channels: int = LOGITS,
) -> nn.Module:
    """Build the residual encoder and decoder of Myronenko (2018), which won BraTS 2018."""
    return SegResNet(
        spatial_dims=spatial_dims,
        init_filters=init_filters,
        in_channels=in_channels,
        out_channels=out_channels,
        dropout_prob=dropout or None,
        blocks_down=tuple(blocks_down),
        blocks_up=tuple(blocks_up),
    )


class SupervisedDynUNet(DynUNet):
    """MONAI's DynUNet with an output of every level at that level's own size, as nnU-Net trains it.

    MONAI enlarges them all to full size and stacks them, which costs memory and compares blurred outputs with a full target;
    it also lists every weight twice in its state. Weights of the remaining names are the same.
    """

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        del self.skip_layers  # a second path to the same modules
        self.heads.clear()

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Compute logits; in training with deep supervision a list, full size first, each half the size of the one before."""
        skips = [self.input_block(image)]
        for block in self.downsamples:
            skips.append(block(skips[-1]))
        features = [self.bottleneck(skips[-1])]
        for block, skip in zip(self.upsamples, reversed(skips), strict=True):
            features.append(block(features[-1], skip))
        logits = self.output_block(features[-1])
        if not (self.training and self.deep_supervision):
            return logits
        return [logits, *(head(features[-2 - level]) for level, head in enumerate(self.deep_supervision_heads))]


def dynunet(
    *,
    filters: Sequence[int] | None = None,
    deep_supervision: bool = True,
    dropout: float = 0.0,
    spatial_dims: int = 3,
    in_channels: int = IMAGE,
    out_channels: int = LOGITS,
) -> nn.Module:
    """Build nnU-Net's U-Net (Isensee et al. 2021): two plain convolutions a level, strided down, transposed up.

    With `deep_supervision` it returns, in training, an output of every level but the two coarsest.
    """
    filters = tuple(filters or CHANNELS[spatial_dims])
    if len(filters) < 3:
        raise ValueError(f"filters {filters} must name at least three levels")
    strides = (1, *(2,) * (len(filters) - 1))
    return SupervisedDynUNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=(3,) * len(filters),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=filters,
        dropout=dropout or None,
        deep_supervision=deep_supervision,
        deep_supr_num=len(filters) - 2,
    )


def unetr(
    *,
    img_size: int = 64,
    feature_size: int = 8,
    hidden_size: int = 192,
    num_heads: int = 6,
    dropout: float = 0.0,
    spatial_dims: int = 3,
    in_channels: int = IMAGE,
    out_channels: int = LOGITS,
) -> nn.Module:
    """Build UNETR (Hatamizadeh et al. 2022): every token of 16^3 voxels attends to every other, with a U-Net decoder.

    Its position embedding fits cubes (squares) of `img_size`, a multiple of 16, and no other patch or window.
    """
    if img_size % 16 or img_size < 32:
        raise DataError(f"unetr cannot have img_size {img_size}", "give a multiple of 16, at least 32")
    network = UNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        img_size=img_size,
        feature_size=feature_size,
        hidden_size=hidden_size,
        mlp_dim=4 * hidden_size,
        num_heads=num_heads,
        dropout_rate=dropout,
        spatial_dims=spatial_dims,
    )
    for block in network.vit.blocks:
        block.norm_cross_attn.requires_grad_(False)  # never used; several processes would wait for its gradient
    return network


def swin_unetr(
    *,
    feature_size: int = 12,
    window_size: int | None = None,
    use_v2: bool = False,
    use_flash_attention: bool | None = None,
    dropout: float = 0.0,
    spatial_dims: int = 3,
    in_channels: int = IMAGE,
    out_channels: int = LOGITS,
) -> nn.Module:
    """Build Swin UNETR (Hatamizadeh et al. 2022): attention within shifted windows, and a U-Net decoder.

    Parameters
    ----------
    feature_size : int
        Channels of the first level, a multiple of 12: 12, 24 or 48 (published).
    window_size : int, optional
        Edge of an attention window in tokens, each of 2^3 voxels. The default in 3-D is 4 (published: 7), which costs about a
        quarter of the time on a CPU and divides the grids of a 64^3 patch without padding; in 2-D it is 8.
    use_v2 : bool
        A residual convolution before every level (SwinUNETR-V2, He et al. 2023).
    use_flash_attention : bool, optional
        Fused attention in prediction, with the same weights and result; by default on a GPU.
    """
    if feature_size % 12:
        raise DataError(f"swin_unetr cannot have feature_size {feature_size}", "give a multiple of 12, such as 12, 24 or 48")
    return SwinUNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        feature_size=feature_size,
        window_size=window_size or {2: 8, 3: 4}[spatial_dims],
        use_v2=use_v2,
        use_flash_attention=torch.cuda.is_available() if use_flash_attention is None else use_flash_attention,
        drop_rate=dropout,
        spatial_dims=spatial_dims,
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
    one_size : bool
        Whether every edge of an input must be exactly that number.
    cpu_bf16 : bool
        Whether training in bf16 is faster than in 32 bit on a CPU with instructions for it. Group normalisation is not, as it
        leaves the channels-last layout.
    """

    build: Callable[..., nn.Module]
    multiple: Callable[..., int]
    one_size: bool = False
    cpu_bf16: bool = True


def _levels_multiple(argument: str) -> Callable[..., int]:
    """Multiple of a network that halves the grid between the levels whose channels this argument lists."""

    def multiple(*, spatial_dims: int = 3, **arguments) -> int:
        return 2 ** (len(arguments.get(argument) or CHANNELS[spatial_dims]) - 1)

    return multiple


NETWORKS: dict[str, NetworkKind] = {
    "unet": NetworkKind(unet, _levels_multiple("channels")),
    "attention_unet": NetworkKind(attention_unet, _levels_multiple("channels")),
    "segresnet": NetworkKind(segresnet, lambda *, blocks_down=(1, 2, 2, 4), **_: 2 ** (len(blocks_down) - 1), cpu_bf16=False),
    "dynunet": NetworkKind(dynunet, _levels_multiple("filters")),
    "unetr": NetworkKind(unetr, lambda *, img_size=64, **_: img_size, one_size=True),
    "swin_unetr": NetworkKind(swin_unetr, lambda **_: 32),
}
"""Every network that can be trained by name; another one is added by adding its builder here."""

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "unet": {"channels": (32, 64, 128, 256, 512)},
    "attention_unet": {"channels": (64, 128, 256, 512)},
    "segresnet": {"init_filters": 32, "dropout": 0.2},
    "dynunet": {"filters": (32, 64, 128, 256, 320, 320)},
    "unetr": {"feature_size": 16, "hidden_size": 768, "num_heads": 12},
    "swin_unetr": {"feature_size": 48, "window_size": 7},
}
"""Arguments as the networks were published or are commonly trained on a GPU."""

ENSEMBLE = "ensemble"
"""Several networks as one: ``build_network(ENSEMBLE, members=[{"network": name, "arguments": {...}}, ...])``.

A member may have ``"ensemble_weights": [...]``, how much each of its outputs counts; then all members must.
"""


class Ensemble(nn.Module):
    """Networks that predict together: the logits of the weighted mean of their probabilities.

    As it returns logits like any network, everything that takes a network takes an ensemble. (If a volume needs several
    sliding windows, their logits are blended after the mean, not before.)

    Parameters
    ----------
    members : sequence of Module
    weights : sequence of sequences of float, optional
        For each member how much each of its outputs counts, 0 or more; by default all count alike.
    """

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[Sequence[float]] | None = None) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        counts = torch.ones(len(members), 1) if weights is None else torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("shares", counts / counts.sum(dim=0), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, 3, X, Y, Z) of an image (B, 4, X, Y, Z)."""
        shares = self.shares.view(*self.shares.shape, *[1] * (image.ndim - 2))
        mean = sum(member(image).float().sigmoid() * share for member, share in zip(self.members, shares, strict=True))
        return torch.logit(mean, eps=1e-7)


def build_network(name: str, **arguments) -> nn.Module:
    """Build a network with fresh weights from torch's current random state.

    Its weights lie channels last in memory, which convolutions on a CPU run on about a third faster, and its convolutions stay
    in 32 bit where bfloat16 would spoil their gradients (`keep_small_grids_exact`).

    Parameters
    ----------
    name : str
        Key of `NETWORKS`, or `ENSEMBLE`.
    **arguments
        ``spatial_dims`` (3, or 2), ``in_channels`` (4) and ``out_channels`` (3) of every network, and those of its builder.

    Raises
    ------
    DataError
        If the name or an argument does not exist, or the network refuses a value.
    """
    if name == ENSEMBLE:
        members = [build_network(kind, **settings) for kind, settings in _members(**arguments)]
        return Ensemble(members, ensemble_weights(arguments["members"]))
    if name not in NETWORKS:
        raise DataError(f"there is no network {name!r}", f"choose one of {', '.join(NETWORKS)}")
    known = inspect.signature(NETWORKS[name].build).parameters
    unknown = [argument for argument in arguments if argument not in known]
    if unknown:
        raise DataError(f"{name} has no argument {', '.join(unknown)}", f"it takes {', '.join(known)}")
    if arguments.get("spatial_dims", 3) not in (2, 3):
        raise DataError(f"{name} cannot be built with {arguments['spatial_dims']} dimensions", "take 2 or 3")
    try:
        network = NETWORKS[name].build(**arguments)
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} cannot be built with {arguments}: {error}", "change the arguments") from error
    return keep_small_grids_exact(network).to(memory_format=MEMORY_FORMATS[arguments.get("spatial_dims", 3) + 2])


def _members(members: Sequence[Mapping[str, Any]] = (), **unknown) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and arguments of the networks in an ensemble."""
    try:
        found = [(member["network"], member["arguments"]) for member in members]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{members!r} are not members of an ensemble", "give a network and its arguments for every member"
        ) from error
    if unknown or not found:
        raise DataError(
            f"{ENSEMBLE} was given no members, or more than members", "give one argument, members, with at least one network"
        )
    return found


def ensemble_weights(members: Sequence[Mapping[str, Any]]) -> list[Sequence[float]] | None:
    """Read how much each output of each member counts; None if all count alike."""
    weights = [member["ensemble_weights"] for member in members if member.get("ensemble_weights")]
    if not weights:
        return None
    alike = len(weights) == len(members) and len(set(map(len, weights))) == 1
    if not alike or min(map(min, weights)) < 0 or not all(map(any, zip(*weights, strict=True))):
        raise DataError(
            f"{ENSEMBLE} cannot have the weights {weights}",
            "give every member as many, none below 0, and for every output one above 0",
        )
    return weights


def channels_last(image: torch.Tensor) -> torch.Tensor:
    """Return the same values (B, C, X, Y) or (B, C, X, Y, Z) with the channels of a voxel side by side in memory."""
    return image.contiguous(memory_format=MEMORY_FORMATS[image.ndim])


def input_multiple(name: str, **arguments) -> int:
    """Number of voxels of which every edge of an input to this network must be a multiple."""
    if name == ENSEMBLE:
        return math.lcm(*(input_multiple(kind, **settings) for kind, settings in _members(**arguments)))
    return NETWORKS[name].multiple(**arguments)


def check_patch(patch: Sequence[int], name: str, **arguments) -> None:
    """Raise `DataError` unless the network can be trained on patches of this size.

    Edges must be multiples of `input_multiple`, and more than one voxel must be left at the deepest level, as the
    normalisation there has no spread to divide by otherwise. A network of one size takes no other.
    """
    multiple, dimensions = input_multiple(name, **arguments), arguments.get("spatial_dims", 3)
    size = "x".join(map(str, patch))
    if len(patch) != dimensions:
        raise DataError(
            f"{name} with {dimensions} dimensions cannot train on patches of {size} voxels", f"give {dimensions} edges"
        )
    if NETWORKS[name].one_size:
        if any(edge != multiple for edge in patch):
            raise DataError(f"{name} was built for edges of {multiple} voxels, not {size}", "set patch and img_size alike")
    elif any(edge % multiple or edge <= 0 for edge in patch) or math.prod(edge // multiple for edge in patch) < 2:
        raise DataError(
            f"{name} cannot train on patches of {size} voxels",
            f"take multiples of {multiple}, at least one edge of {2 * multiple} or more",
        )


@dataclass(frozen=True)
class NetworkDescription:
    """Size of a network: trainable parameters, and 10^9 operations of one forward pass over one input."""

    parameters: int
    gflop: float


def describe_network(network: nn.Module, *, size: Sequence[int] = (64, 64, 64), in_channels: int = IMAGE) -> NetworkDescription:
    """Count parameters and operations of one forward pass over an input of `size` voxels, without executing it.

    A multiplication and an addition count as two operations; only convolutions, matrix products and attention count
    (`torch.utils.flop_counter`).
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, in_channels, *size, device="meta"))
    parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return NetworkDescription(parameters, counter.get_total_flops() / 1e9)


def keep_small_grids_exact(network: nn.Module) -> nn.Module:
    """Let convolutions leave autocast on a CPU if an edge of their input is at most that of their kernel; changes in place.

    There PyTorch 2.13 adds numbers that nobody wrote, up to 1e34 and NaN, to the gradient of a bfloat16 convolution's weights.
    So small a grid, as at the bottom of a deep network, costs next to nothing in 32 bit. Weights and their names stay.
    """
    for module in network.modules():
        if type(module) in (nn.Conv2d, nn.Conv3d):
            module.__class__ = _exact(type(module))
    return network


@functools.cache
def _exact(kind: type[nn.Conv2d] | type[nn.Conv3d]) -> type[nn.Module]:
    """A convolution of this kind that computes small grids in 32 bit."""

    def forward(self: nn.Module, image: torch.Tensor) -> torch.Tensor:
        small = any(edge <= kernel for edge, kernel in zip(image.shape[2:], self.kernel_size, strict=True) if kernel > 1)
        if not (small and image.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return kind.forward(self, image)
        with torch.autocast("cpu", enabled=False):
            return kind.forward(self, image.float())

    return type(f"Exact{kind.__name__}", (kind,), {"forward": forward})


def checkpoint_activations(network: nn.Module) -> nn.Module:
    """Apply gradient (activation) checkpointing to every one of the network's `BLOCKS`, in place (Chen et al. 2016).

    A block keeps its input only, and the backward pass computes its activations again: less memory for about one more forward
    pass. Outputs, gradients, weights and their names stay, and prediction is not touched.

    Raises
    ------
    DataError
        If it has none of the `BLOCKS`.
    """
    found = [module for module in network.modules() if isinstance(module, BLOCKS)]
    if not found:
        raise DataError(f"{type(network).__name__} has no block to checkpoint", "train it without gradient checkpointing")
    for module in found:
        module.__class__ = _checkpointed(type(module))
    return network


@functools.cache
def _checkpointed(kind: type[nn.Module]) -> type[nn.Module]:
    """A block of this kind that keeps its input only."""

    def forward(self: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return kind.forward(self, *inputs)
        return checkpoint(functools.partial(kind.forward, self), *inputs, use_reentrant=False)

    return type(f"Checkpointed{kind.__name__}", (kind,), {"forward": forward})
