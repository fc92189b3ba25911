"""Swin UNETR's window attention through PyTorch's fused kernels, in training too."""

from __future__ import annotations

import torch
from monai.networks.nets.swin_unetr import WindowAttention
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from helpers.workspace import DataError


class FusedWindowAttention(WindowAttention):
    """MONAI's `WindowAttention` with the same weights, computed by `scaled_dot_product_attention`.

    MONAI's own ``use_flash_attention`` fuses only while no gradients are recorded, so that training keeps the attention
    weights of every pair of tokens for the backward pass, and it repeats the bias for every image of a batch. On a CPU no
    fused kernel gives the gradient of the bias: MONAI's products are used there.
    """

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Attend within windows.

        Parameters
        ----------
        x : tensor (images * windows, tokens, channels)
        mask : tensor (windows, tokens, tokens), optional
            0 where two tokens may attend to each other, -100 where the shift brought them together.

        Returns
        -------
        tensor (images * windows, tokens, channels)
        """
        if x.device.type == "cpu" and torch.is_grad_enabled():
            return super().forward(x, mask)
        count, tokens, channels = x.shape
        windows = 1 if mask is None else mask.shape[0]
        index = self.relative_position_index[:tokens, :tokens].reshape(-1)
        bias = self.relative_position_bias_table[index].view(tokens, tokens, self.num_heads).permute(2, 0, 1)
        if mask is not None:
            bias = (bias[None] + mask[:, None]).flatten(0, 1)  # (windows * heads, tokens, tokens)
        parts = self.qkv(x).view(count // windows, windows, tokens, 3, self.num_heads, -1).permute(3, 0, 1, 4, 2, 5)
        query, key, value = parts.flatten(2, 3)  # each (images, windows * heads, tokens, channels of a head)
        dropout = self.attn_drop.p if self.training else 0.0
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=bias[None].to(query.dtype), dropout_p=dropout, scale=self.scale
        )
        out = out.unflatten(1, (windows, self.num_heads)).transpose(2, 3).reshape(count, tokens, channels)
        return self.proj_drop(self.proj(out))


def fuse_attention(network: nn.Module) -> nn.Module:
    """Let every window attention of a Swin UNETR run through the fused kernels, in place; weights and their names stay.

    Raises
    ------
    DataError
        If it has no window attention.
    """
    attentions = [module for module in network.modules() if isinstance(module, WindowAttention)]
    if not attentions:
        raise DataError(f"{type(network).__name__} has no window attention to fuse", "give a SwinUNETR")
    for attention in attentions:
        attention.__class__ = FusedWindowAttention  # the same state, another forward: nothing is built or copied
    return network
