"""Networks of convolutions: U-Net, attention U-Net, SegResNet and nnU-Net's U-Net."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import AttentionUnet, DynUNet, SegResNet, UNet
from torch import nn

from helpers.data.files import DataError
from helpers.regions import MODALITIES, REGIONS

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
        raise DataError(f"attention_unet knows no norm {norm!r}; choose one of {', '.join(NORMS)}")
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
