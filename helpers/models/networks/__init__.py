"""Networks by name, in two and three dimensions.

Every network takes an image (B, in_channels, X, Y, Z), or (B, in_channels, X, Y) with ``spatial_dims=2``, and returns logits
(B, out_channels, ...) of the same grid, by default four contrasts in and TC, WT, ET out. The defaults are those of a laptop;
the documentation of each builder names the published setting.
"""

from helpers.models.networks.convolutional import attention_unet, dynunet, segresnet, unet
from helpers.models.networks.description import NetworkDescription, describe_network
from helpers.models.networks.ensemble import Ensemble
from helpers.models.networks.registry import (
    ENSEMBLE,
    NETWORKS,
    NetworkKind,
    build_network,
    channels_last,
    check_patch,
    ensemble_votes,
    input_multiple,
)
from helpers.models.networks.transformers import swin_unetr, unetr

__all__ = [
    "ENSEMBLE",
    "NETWORKS",
    "Ensemble",
    "NetworkDescription",
    "NetworkKind",
    "attention_unet",
    "build_network",
    "channels_last",
    "check_patch",
    "describe_network",
    "dynunet",
    "ensemble_votes",
    "input_multiple",
    "segresnet",
    "swin_unetr",
    "unet",
    "unetr",
]
