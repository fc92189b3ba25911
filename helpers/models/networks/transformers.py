"""Networks with transformers as encoders: UNETR and Swin UNETR."""

from __future__ import annotations

import torch
from monai.networks.nets import UNETR, SwinUNETR
from torch import nn

from helpers.data.files import DataError
from helpers.models.networks.convolutional import IMAGE, LOGITS

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
        raise DataError(f"unetr needs an img_size that is a multiple of {TOKEN}, at least {2 * TOKEN}, not {img_size}")
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
        raise DataError(f"swin_unetr needs a feature_size that is a multiple of 12, not {feature_size}; take 12, 24 or 48")
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
