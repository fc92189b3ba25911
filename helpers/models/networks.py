"""Settings of the networks as they were published or are commonly trained on a GPU."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
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

ACTIVATIONS: tuple[str, ...] = ("sigmoid", "softmax")


@dataclass(frozen=True)
class Task:
    """A question for a network.

    Attributes
    ----------
    name : str
        Short, such as "glioma"; goes onto the model card.
    modalities : tuple of str
        Channels of the image, in order.
    regions : tuple of str
        Channels of the logits, in order. With "softmax" all classes, the background first.
    activation : str
        "sigmoid" where regions may overlap, each a yes-or-no question; "softmax" where every voxel has exactly one class.
    """

    name: str
    modalities: tuple[str, ...]
    regions: tuple[str, ...]
    activation: str = "sigmoid"

    def __post_init__(self) -> None:
        """Refuse an activation that there is not."""
        if self.activation not in ACTIVATIONS:
            raise DataError(f"activation is {self.activation!r}", f"choose one of {', '.join(ACTIVATIONS)}")


def scored_regions(regions: tuple[str, ...], activation: str) -> tuple[str, ...]:
    """Those of the channels of the logits that are scored: all but the background, which would flatter every mean."""
    return regions[1:] if activation == "softmax" else regions


GLIOMA = Task("glioma", MODALITIES, REGIONS)
"""The task of all numbered notebooks: four contrasts in; TC, WT and ET, which lie within each other, out."""


def keep_small_grids_exact(network: nn.Module) -> nn.Module:
    """Let the convolutions of a network leave autocast on a CPU where an edge of their input is at most that of their kernel.

    Weights and their names stay, and without autocast nothing changes.

    Parameters
    ----------
    network : Module
        Changed in place.

    Returns
    -------
    Module
        The same network.
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


BLOCKS: tuple[type[nn.Module], ...] = (ResidualUnit, ResBlock, UnetBasicBlock, UnetResBlock, SwinTransformerBlock)
"""Blocks of several layers, of which nothing but the input is kept until the backward pass."""


def recompute_blocks(network: nn.Module) -> nn.Module:
    """Let every block of a network give up its intermediate results after the forward pass (Chen et al. 2016).

    The backward pass computes them again, one block at a time: less memory for about one more forward pass. Outputs,
    gradients, weights and their names stay, and prediction is not touched.

    Parameters
    ----------
    network : Module
        Changed in place.

    Returns
    -------
    Module
        The same network.

    Raises
    ------
    DataError
        If it has none of the `BLOCKS`.
    """
    found = [module for module in network.modules() if isinstance(module, BLOCKS)]
    if not found:
        raise DataError(f"{type(network).__name__} has no block that could be computed twice", "train it without checkpointing")
    for module in found:
        module.__class__ = _recomputing(type(module))
    return network


def has_blocks(network: nn.Module) -> bool:
    """Whether `recompute_blocks` finds anything in this network."""
    return any(isinstance(module, BLOCKS) for module in network.modules())


@functools.cache
def _recomputing(kind: type[nn.Module]) -> type[nn.Module]:
    """A block of this kind that keeps its input only."""

    def forward(self: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return kind.forward(self, *inputs)
        return checkpoint(functools.partial(kind.forward, self), *inputs, use_reentrant=False)

    return type(f"Recomputed{kind.__name__}", (kind,), {"forward": forward})


IMAGE, LOGITS = len(MODALITIES), len(REGIONS)
CHANNELS: dict[int, tuple[int, ...]] = {2: (16, 32, 64, 128, 256), 3: (16, 32, 64, 128)}
"""Channels of the levels on a laptop by number of dimensions. Slices are longer than patches and so carry a level more."""

NORMS: tuple[str, ...] = ("instance", "batch")


def unet(
    *,
    channels: Sequence[int] | None = None,
    num_res_units: int = 2,
    dropout: float = 0.0,
    spatial_dims: int = 3,
    in_channels: int = IMAGE,
    out_channels: int = LOGITS,
) -> nn.Module:
    """U-Net with residual units and instance normalisation (Kerfoot et al. 2019), halving the grid between levels.

    The default in 3-D is ``channels=(16, 32, 64, 128)`` with 1.2 million parameters, in 2-D one level of 256 more.
    ``channels=(32, 64, 128, 256, 512)`` is a common setting on a GPU.
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
    norm: str = "instance",
    dropout: float = 0.0,
    spatial_dims: int = 3,
    in_channels: int = IMAGE,
    out_channels: int = LOGITS,
) -> nn.Module:
    """U-Net whose skip connections pass through gates that weigh every position (Oktay et al. 2018).

    Parameters
    ----------
    channels : sequence of int, optional
        Of the levels, as in `unet`. ``(64, 128, 256, 512)`` is the published order of size on a GPU.
    norm : {"instance", "batch"}
        The published one is "batch", whose statistics mean little over batches of one or two volumes.
    dropout : float
        0 to 1, after every convolution.
    """
    if norm not in NORMS:
        raise DataError(f"attention_unet knows no norm {norm!r}", f"choose one of {', '.join(NORMS)}")
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
    if norm == "instance":
        _normalise_instances(network, {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[spatial_dims])
    return network


def _normalise_instances(module: nn.Module, kind: type[nn.Module]) -> None:
    """Put instance normalisation with scale and offset in the place of every batch normalisation below `module`."""
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
    """Residual encoder and decoder of Myronenko (2018), which won BraTS 2018; there ``init_filters=32, dropout=0.2``."""
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
    it also keeps them on the network between steps and lists every weight twice in its state. Weights of the remaining names
    are the same.
    """

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        del self.skip_layers  # a second road to the same modules
        self.heads.clear()

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits; in training with deep supervision a list of them, full size first, each half the size of the one before."""
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
    res_block: bool = False,
    dropout: float = 0.0,
    spatial_dims: int = 3,
    in_channels: int = IMAGE,
    out_channels: int = LOGITS,
) -> nn.Module:
    """nnU-Net's U-Net (Isensee et al. 2021): two plain convolutions a level, strided down, transposed up.

    Parameters
    ----------
    filters : sequence of int, optional
        Channels of the levels, at least three. Published: ``(32, 64, 128, 256, 320, 320)`` in 3-D, and in 2-D
        ``(32, 64, 128, 256, 512, 512, 512)``; the winner of BraTS 2021 took ``(64, 96, 128, 192, 256, 384, 512)``.
    deep_supervision : bool
        In training, an output at every level but the two coarsest; the loss weighs them 1, 1/2, 1/4 and so on.
    res_block : bool
        Residual convolutions.
    dropout : float
        0 to 1, in every convolution.
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
        res_block=res_block,
    )


TOKEN = 16
"""Voxels along the edge of a token of UNETR."""

WINDOWS: dict[int, int] = {2: 8, 3: 4}
"""Edge of Swin UNETR's windows in tokens by number of dimensions, on a laptop."""


def unetr(
    *,
    img_size: int = 64,
    feature_size: int = 8,
    hidden_size: int = 192,
    mlp_dim: int | None = None,
    num_heads: int = 6,
    dropout: float = 0.0,
    spatial_dims: int = 3,
    in_channels: int = IMAGE,
    out_channels: int = LOGITS,
) -> nn.Module:
    """UNETR (Hatamizadeh et al. 2022): every token of 16^3 voxels attends to every other, and a U-Net decoder.

    Parameters
    ----------
    img_size : int
        Edge of the patch in voxels, a multiple of 16. Its position embedding fits this size and no other, so patches and
        windows of prediction are cubes (squares) of this edge.
    feature_size, hidden_size, num_heads : int
        Channels of the decoder's first level, of a token, and the heads that share them. Published: 16, 768 and 12 with
        ``img_size=128``, 102 million parameters.
    mlp_dim : int, optional
        Width within the transformer's perceptrons; four times `hidden_size` (published) where left out.
    dropout : float
        0 to 1, in the transformer.
    """
    if img_size % TOKEN or img_size < 2 * TOKEN:
        raise DataError(f"unetr cannot have img_size {img_size}", f"give a multiple of {TOKEN}, at least {2 * TOKEN}")
    network = UNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        img_size=img_size,
        feature_size=feature_size,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim or 4 * hidden_size,
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
    use_checkpoint: bool = False,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    path_dropout: float = 0.0,
    spatial_dims: int = 3,
    in_channels: int = IMAGE,
    out_channels: int = LOGITS,
) -> nn.Module:
    """Swin UNETR (Hatamizadeh et al. 2022): attention within windows that shift from block to block, and a U-Net decoder.

    Parameters
    ----------
    feature_size : int
        Channels of the first level, a multiple of 12: 12, 24 or 48 (published).
    window_size : int, optional
        Edge of an attention window in tokens, each of 2^3 voxels. The published 7 attends to 343 tokens at once; 4, the
        default in 3-D, costs about a quarter of the time on a CPU and divides the grids of a 64^3 patch without padding.
        In 2-D the default is 8.
    use_v2 : bool
        A residual convolution before every level (SwinUNETR-V2, He et al. 2023).
    use_flash_attention : bool, optional
        Fused attention: same weights, same result, less memory on a GPU. Left out, it is on where a GPU is.
    use_checkpoint : bool
        Keep less for the backward pass and compute it again: less memory, more time.
    dropout, attention_dropout, path_dropout : float
        0 to 1: of features, of attention weights, and of whole residual branches (stochastic depth).
    """
    if feature_size % 12:
        raise DataError(f"swin_unetr needs a feature_size that is a multiple of 12, not {feature_size}", "take 12, 24 or 48")
    return SwinUNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        feature_size=feature_size,
        window_size=window_size or WINDOWS[spatial_dims],
        use_v2=use_v2,
        use_flash_attention=torch.cuda.is_available() if use_flash_attention is None else use_flash_attention,
        use_checkpoint=use_checkpoint,
        drop_rate=dropout,
        attn_drop_rate=attention_dropout,
        dropout_path_rate=path_dropout,
        spatial_dims=spatial_dims,
    )


class Ensemble(nn.Module):
    """Networks that answer together: the logits of the mean of their probabilities.

    As it gives logits like any network, everything that takes a network takes an ensemble. (Where a volume needs several
    sliding windows, their logits are blended after the mean, not before.)

    Parameters
    ----------
    members : sequence of Module
        At least one.
    votes : sequence of sequences of float, optional
        For each member how much each of its outputs counts, 0 or more; by default all count alike.
    """

    def __init__(self, members: Sequence[nn.Module], votes: Sequence[Sequence[float]] | None = None) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        counts = torch.ones(len(members), 1) if votes is None else torch.tensor(votes, dtype=torch.float32)
        self.register_buffer("shares", counts / counts.sum(dim=0), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """From image (B, 4, X, Y, Z) to logits (B, 3, X, Y, Z)."""
        shares = self.shares.view(*self.shares.shape, *[1] * (image.ndim - 2))
        mean = sum(member(image).float().sigmoid() * share for member, share in zip(self.members, shares, strict=True))
        return torch.logit(mean, eps=1e-7)


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
        raise DataError(f"{ENSEMBLE} has the members {members!r}", "give a network and its arguments for each") from error
    if unknown or not found:
        raise DataError(f"the arguments of {ENSEMBLE} are wrong", "give one, members, which names at least one network")
    return found


def ensemble_votes(members: Sequence[Mapping[str, Any]]) -> list[Sequence[float]] | None:
    """How much each output of each member counts; None where all count alike."""
    votes = [member["votes"] for member in members if member.get("votes")]
    if not votes:
        return None
    alike = len(votes) == len(members) and len(set(map(len, votes))) == 1
    if not alike or min(map(min, votes)) < 0 or not all(map(any, zip(*votes, strict=True))):
        raise DataError(
            f"{ENSEMBLE} cannot have the votes {votes}", "give every member as many, none below 0, one for every output"
        )
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
        raise DataError(
            f"{name} with {dimensions} dimensions cannot train on patches of {size} voxels", "choose larger patches"
        )
    if NETWORKS[name].one_size:
        if any(edge != multiple for edge in patch):
            raise DataError(f"{name} was built for edges of {multiple} voxels, not {size}", "set patch and img_size alike")
    elif any(edge % multiple or edge <= 0 for edge in patch) or math.prod(edge // multiple for edge in patch) < 2:
        raise DataError(
            f"{name} cannot train on patches of {size} voxels",
            "choose larger patches",
            f"take multiples of {multiple}, at least one edge of {2 * multiple} or more",
        )


@dataclass(frozen=True)
class NetworkDescription:
    """Size of a network: trainable parameters, and 10^9 operations of one forward pass over one input of `size` voxels."""

    parameters: int
    gflop: float
    size: tuple[int, ...]


def describe_network(network: nn.Module, *, size: Sequence[int] = (64, 64, 64), in_channels: int = IMAGE) -> NetworkDescription:
    """Count a network's parameters and the floating-point operations of one forward pass, without executing it.

    A multiplication and an addition count as two operations; only convolutions, matrix products and attention count
    (the rule of `torch.utils.flop_counter`).

    Parameters
    ----------
    network : Module
    size : sequence of 2 or 3 int
        Edges of the input in voxels, as many as the network has dimensions.
    in_channels : int
        Channels of the input.
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, in_channels, *size, device="meta"))
    parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return NetworkDescription(parameters, counter.get_total_flops() / 1e9, tuple(size))


_BOTH: dict[str, dict[str, Any]] = {
    "unet": {"channels": (32, 64, 128, 256, 512)},
    "attention_unet": {"channels": (64, 128, 256, 512)},
    "segresnet": {"init_filters": 32, "dropout": 0.2},
    "unetr": {"feature_size": 16, "hidden_size": 768, "num_heads": 12},
    "swin_unetr": {"feature_size": 48, "window_size": 7},
}
PUBLISHED: Mapping[int, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        2: {**_BOTH, "dynunet": {"filters": (32, 64, 128, 256, 512, 512, 512)}},
        3: {**_BOTH, "dynunet": {"filters": (32, 64, 128, 256, 320, 320)}},
    }
)
"""Arguments by number of dimensions and network."""


def arguments_for(name: str, *, spatial_dims: int, edge: int, published: bool) -> dict[str, Any]:
    """Arguments of a network for square or cubic inputs of `edge` voxels, of a laptop or published.

    Raises
    ------
    DataError
        If there is no such network.
    """
    if name not in NETWORKS:
        raise DataError(f"there is no network {name!r}", f"choose one of {', '.join(NETWORKS)}")
    arguments = {"spatial_dims": spatial_dims, **(PUBLISHED[spatial_dims][name] if published else {})}
    return {**arguments, "img_size": edge} if NETWORKS[name].one_size else arguments
