"""Networks by name, in two and three dimensions, as MONAI has them.

Every network takes an image (B, in_channels, X, Y, Z), or (B, in_channels, X, Y) with ``spatial_dims=2``, and returns logits
(B, out_channels, ...) on the same grid; by default four contrasts in and TC, WT, ET out. The defaults suit a laptop;
the builders name the settings of the papers.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.nets import DynUNet, SegResNet, SwinUNETR, UNet
from torch import nn
from torch.nn.functional import batch_norm, group_norm

from brats_cohort.files import DataError
from brats_cohort.regions import MODALITIES, REGIONS

GRID = {"spatial_dims": 3, "in_channels": len(MODALITIES), "out_channels": len(REGIONS)}
"""Arguments that every network takes, with their defaults."""
CHANNELS: dict[int, tuple[int, ...]] = {2: (16, 32, 64, 128, 256), 3: (16, 32, 64, 128)}
"""Channels of the levels by number of dimensions. Slices are longer than patches and so have one level more."""
MEMORY_FORMATS: dict[int, torch.memory_format] = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the number of axes of an image with batch and channels."""


def unet(grid: Mapping[str, int], *, channels: Sequence[int] = (), num_res_units: int = 2, dropout: float = 0.0) -> nn.Module:
    """Build a U-Net with residual units and instance normalisation (Kerfoot et al. 2019).

    The default in 3-D, ``channels=(16, 32, 64, 128)``, has 1.2 million parameters; the grid is halved between levels. On a GPU
    ``channels=(32, 64, 128, 256, 512)`` is common.
    """
    levels = levels_of(channels or CHANNELS[grid["spatial_dims"]], least=1)
    return UNet(**grid, **levels, num_res_units=num_res_units, norm="INSTANCE", dropout=dropout)


def levels_of(channels: Sequence[int], *, least: int) -> dict[str, tuple[int, ...]]:
    """Return MONAI's arguments for levels of so many channels, each of half the grid of the one before."""
    if len(channels) < least:
        raise ValueError(f"{tuple(channels)} must name at least {least} levels")
    return {"channels": tuple(channels), "strides": (2,) * (len(channels) - 1)}


def segresnet(
    grid: Mapping[str, int],
    *,
    init_filters: int = 8,
    blocks_down: Sequence[int] = (1, 2, 2, 4),
    blocks_up: Sequence[int] = (1, 1, 1),
    norm: str = "group",
    dropout: float = 0.0,
) -> nn.Module:
    """Build the residual encoder and decoder of Myronenko (2018), which won BraTS 2018.

    Its normalisation is over groups of channels; ``norm="instance"``, over each channel, trains faster on a CPU. Published with
    ``init_filters=32, dropout=0.2``.
    """
    if norm not in ("group", "instance"):
        raise DataError(f"segresnet cannot have the normalisation {norm!r}", "take group or instance")
    kind = {"group": ("GROUP", {"num_groups": 8}), "instance": ("INSTANCE", {"affine": True})}[norm]
    blocks = {"blocks_down": tuple(blocks_down), "blocks_up": tuple(blocks_up)}
    return SegResNet(**grid, **blocks, init_filters=init_filters, norm=kind, dropout_prob=dropout or None)


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
    grid: Mapping[str, int], *, filters: Sequence[int] = (), deep_supervision: bool = True, dropout: float = 0.0
) -> nn.Module:
    """Build nnU-Net's U-Net (Isensee et al. 2021): two plain convolutions a level, strided down, transposed up.

    With `deep_supervision` it returns, in training, an output of every level but the two coarsest. Published with
    ``filters=(32, 64, 128, 256, 320, 320)``.
    """
    levels = levels_of(filters or CHANNELS[grid["spatial_dims"]], least=3)
    count, strides = len(levels["channels"]), levels["strides"]
    return SupervisedDynUNet(
        **grid,
        kernel_size=(3,) * count,
        strides=(1, *strides),
        upsample_kernel_size=strides,
        filters=levels["channels"],
        dropout=dropout or None,
        deep_supervision=deep_supervision,
        deep_supr_num=count - 2,
    )


def swin_unetr(
    grid: Mapping[str, int], *, feature_size: int = 12, window_size: int = 0, use_v2: bool = False, dropout: float = 0.0
) -> nn.Module:
    """Build Swin UNETR (Hatamizadeh et al. 2022): attention within shifted windows, and a U-Net decoder.

    Parameters
    ----------
    feature_size : int
        Channels of the first level, a multiple of 12: 12, 24 or 48 (published).
    window_size : int
        Edge of an attention window in tokens, each of 2^3 voxels. The default in 3-D is 4 (published: 7), which costs about a
        quarter of the time on a CPU and divides the grids of a 64^3 patch without padding; in 2-D it is 8.
    use_v2 : bool
        A residual convolution before every level (SwinUNETR-V2, He et al. 2023).
    """
    if feature_size % 12:
        raise DataError(f"swin_unetr cannot have feature_size {feature_size}", "give a multiple of 12, such as 12, 24 or 48")
    return SwinUNETR(
        **grid,
        feature_size=feature_size,
        window_size=window_size or {2: 8, 3: 4}[grid["spatial_dims"]],
        use_v2=use_v2,
        use_flash_attention=torch.cuda.is_available(),  # the same weights and result, fused while no gradient is recorded
        drop_rate=dropout,
    )


@dataclass(frozen=True)
class NetworkKind:
    """A network that can be built by name.

    `build` takes ``{"spatial_dims": 3, "in_channels": 4, "out_channels": 3}`` and keyword arguments, all with defaults; from
    these `multiple` tells of how many voxels every edge of an input must be a multiple. `cpu_bf16` is false if training in bf16
    is slower than in 32 bit on a CPU with instructions for it: group normalisation leaves the channels-last layout.
    """

    build: Callable[..., nn.Module]
    multiple: Callable[..., int]
    cpu_bf16: bool = True


def halvings(*, spatial_dims: int = 3, channels: Sequence[int] = (), filters: Sequence[int] = (), **_: Any) -> int:
    """Multiple of a network that halves the grid between its levels."""
    return 2 ** (len(channels or filters or CHANNELS[spatial_dims]) - 1)


NETWORKS: dict[str, NetworkKind] = {
    "unet": NetworkKind(unet, halvings),
    "segresnet": NetworkKind(segresnet, lambda *, blocks_down=(1, 2, 2, 4), **_: 2 ** (len(blocks_down) - 1), cpu_bf16=False),
    "dynunet": NetworkKind(dynunet, halvings),
    "swin_unetr": NetworkKind(swin_unetr, lambda **_: 32),
}
"""Every network that can be trained by name; another one is added by adding its builder here."""

ENSEMBLE = "ensemble"
"""Several networks as one: ``build_network(ENSEMBLE, members=[{"network": name, "arguments": {...}}, ...])``."""


class Ensemble(nn.Module):
    """Networks that predict together: the logits of the mean of their probabilities.

    (If a volume needs several sliding windows, their logits are blended after the mean, not before.)
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, 3, X, Y, Z) of an image (B, 4, X, Y, Z)."""
        share = 1 / len(self.members)
        return torch.logit(sum(member(image).float().sigmoid() * share for member in self.members), eps=1e-7)


def build_network(name: str, **arguments) -> nn.Module:
    """Build a network with fresh weights from torch's current random state.

    Its weights lie channels last in memory, which convolutions on a CPU run on about a third faster, and faults of
    PyTorch's layers are mended (`mend_layers`).

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
        return Ensemble([build_network(kind, **settings) for kind, settings in _members(**arguments)])
    if name not in NETWORKS:
        raise DataError(f"there is no network {name!r}", f"choose one of {', '.join(NETWORKS)}")
    known = [*inspect.signature(NETWORKS[name].build).parameters][1:] + list(GRID)
    if unknown := [argument for argument in arguments if argument not in known]:
        raise DataError(f"{name} has no argument {', '.join(unknown)}", f"it takes {', '.join(known)}")
    grid = {key: arguments.pop(key, default) for key, default in GRID.items()}
    if grid["spatial_dims"] not in (2, 3):
        raise DataError(f"{name} cannot be built with {grid['spatial_dims']} dimensions", "take 2 or 3")
    try:
        network = NETWORKS[name].build(grid, **arguments)
    except DataError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise DataError(f"{name} cannot be built with {arguments}: {error}", "change the arguments") from error
    if not all(weights.numel() for weights in network.parameters()):
        raise DataError(f"{name} cannot be built with {arguments}: a layer would have no weights", "change the arguments")
    return mend_layers(network).to(memory_format=MEMORY_FORMATS[grid["spatial_dims"] + 2])


def _members(members: Sequence[Mapping[str, Any]] = (), **unknown) -> list[tuple[str, Mapping[str, Any]]]:
    """Return names and arguments of the networks in an ensemble."""
    try:
        found = [(member["network"], member["arguments"]) for member in members]
    except (KeyError, TypeError) as error:
        remedy = "give a network and its arguments for every member"
        raise DataError(f"{members!r} are not members of an ensemble", remedy) from error
    if unknown or not found or any(len(member) > 2 for member in members):
        remedy = "give one argument, members, with at least one network"
        raise DataError(f"{ENSEMBLE} was given no members, or more than networks and their arguments", remedy)
    return found


def channels_last(image: torch.Tensor) -> torch.Tensor:
    """Return the same values (B, C, X, Y) or (B, C, X, Y, Z) with the channels of a voxel side by side in memory."""
    return image.contiguous(memory_format=MEMORY_FORMATS[image.ndim])


def input_multiple(name: str, **arguments) -> int:
    """Return the number of voxels of which every edge of an input to this network must be a multiple."""
    if name == ENSEMBLE:
        return math.lcm(*(input_multiple(kind, **settings) for kind, settings in _members(**arguments)))
    try:
        return NETWORKS[name].multiple(**arguments)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} cannot be built with {arguments}: {error}", "change the arguments") from error


def check_patch(patch: Sequence[int], name: str, **arguments) -> None:
    """Raise `DataError` unless the network can be trained on patches of this size.

    Edges must be multiples of `input_multiple`, and more than one voxel must be left at the deepest level, as the
    normalisation there has no spread to divide by otherwise.
    """
    multiple, dimensions = input_multiple(name, **arguments), arguments.get("spatial_dims", 3)
    problem = f"{name} cannot train on patches of {'x'.join(map(str, patch))} voxels"
    if len(patch) != dimensions:
        raise DataError(f"{problem} with {dimensions} dimensions", f"give {dimensions} edges")
    if any(edge % multiple or edge <= 0 for edge in patch) or math.prod(edge // multiple for edge in patch) < 2:
        raise DataError(problem, f"take multiples of {multiple}, at least one edge of {2 * multiple} or more")


def mend_layers(network: nn.Module) -> nn.Module:
    """Work around faults that layers of PyTorch 2.13 have on a CPU; changes in place, weights and names stay.

    Convolutions under autocast: if an edge of the input is at most that of the kernel, numbers that nobody wrote, up to 1e34
    and NaN, are added to the gradient of the weights in bfloat16. So small a grid, as at the bottom of a deep network, is
    computed in 32 bit, which costs next to nothing.

    3-D convolutions in inference: a small grid alone in its batch does not get oneDNN's convolution, which larger grids and
    batches get, but one that takes several times as long (``slow_conv3d``). Here oneDNN is called directly.

    Instance normalisation in bfloat16: it rearranges a channels-last image to channels first, and the next convolution
    rearranges it back. Over one image it is the same as batch normalisation, which has a kernel for channels last. That
    kernel's sums are exact enough for bfloat16, not for 32 bit (0.0004 off at 96^3 voxels of mean 3). Group normalisation with
    as many groups as channels is the same too; its own backward pass takes ten times as long. In 32-bit inference it
    is used, on an image centred on the mean of every fourth voxel, so that its sums are exact to about 0.0002.
    """
    for module in network.modules():
        if type(module) in MENDED:
            module.__class__ = _mended(type(module))
    return network


MENDED = (nn.Conv2d, nn.Conv3d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm)
"""The layers of `mend_layers`."""


@functools.cache
def _mended(kind: type[nn.Module]) -> type[nn.Module]:
    """A layer of this kind without the faults."""

    def convolve(self: nn.Module, image: torch.Tensor) -> torch.Tensor:
        if image.device.type != "cpu":
            return kind.forward(self, image)
        if torch.is_autocast_enabled("cpu"):
            edges = zip(image.shape[2:], self.kernel_size, strict=True)
            if not any(edge <= kernel for edge, kernel in edges if kernel > 1):
                return kind.forward(self, image)
            with torch.autocast("cpu", enabled=False):
                return kind.forward(self, image.float())
        alone = kind is nn.Conv3d and len(image) == 1 and image.dtype == torch.float32
        padded = self.padding_mode == "zeros" and not isinstance(self.padding, str)  # oneDNN knows no padding="same"
        plain = torch.is_inference_mode_enabled() and not torch.compiler.is_compiling()
        if alone and padded and plain and torch.backends.mkldnn.is_available():
            layout = self.padding, self.stride, self.dilation, self.groups
            return torch.mkldnn_convolution(image, self.weight, self.bias, *layout)
        return kind.forward(self, image)

    def normalise(self: nn.Module, image: torch.Tensor) -> torch.Tensor:
        if kind is nn.GroupNorm:
            alike = image.ndim > 3 and self.num_groups == self.num_channels
        else:
            alike = not self.track_running_stats
        if not alike or image.device.type != "cpu" or torch.compiler.is_compiling():
            return kind.forward(self, image)
        if image.dtype == torch.float32 and torch.is_inference_mode_enabled():
            sparse = image[(..., *[slice(None, None, 4)] * (image.ndim - 2))]
            centred = image - sparse.mean(tuple(range(2, image.ndim)), keepdim=True)
            return group_norm(centred, image.shape[1], self.weight, self.bias, self.eps)
        if image.dtype != torch.bfloat16:
            return kind.forward(self, image)
        each = [batch_norm(one, None, None, self.weight, self.bias, training=True, eps=self.eps) for one in image.split(1)]
        return torch.cat(each)

    forward = convolve if kind in (nn.Conv2d, nn.Conv3d) else normalise
    return type(f"Mended{kind.__name__}", (kind,), {"forward": forward})
