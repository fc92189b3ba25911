"""Swin UNETR's attention through PyTorch's fused kernels, in training too.

MONAI's own ``use_flash_attention`` fuses only while no gradients are recorded: training runs through the plain products all
the same, and keeps the weights of every pair of tokens for the backward pass. It also repeats the bias for every image of a
batch.
"""

from __future__ import annotations

import torch
from monai.networks.nets.swin_unetr import WindowAttention
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from helpers.workspace import DataError


class FusedWindowAttention(WindowAttention):
    """`monai.networks.nets.swin_unetr.WindowAttention` with the same weights, through `scaled_dot_product_attention`."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Attend within windows.

        Relative position bias and shift mask are one additive bias, shared by the images of a batch.

        Parameters
        ----------
        x : tensor (images * windows, tokens, channels)
        mask : tensor (windows, tokens, tokens), optional
            0 where two tokens may attend to each other, -100 where the shift brought them together.

        Returns
        -------
        tensor (images * windows, tokens, channels)
        """
        count, tokens, channels = x.shape
        windows = 1 if mask is None else mask.shape[0]
        index = self.relative_position_index[:tokens, :tokens].reshape(-1)
        bias = self.relative_position_bias_table[index].view(tokens, tokens, self.num_heads).permute(2, 0, 1)
        parts = self.qkv(x).view(count // windows, windows, tokens, 3, self.num_heads, -1).permute(3, 0, 1, 4, 2, 5)
        if x.device.type == "cpu" and torch.is_grad_enabled():
            out = self._products(*parts.unbind(0), bias, mask)
        else:
            out = self._fused(*parts.flatten(2, 3).unbind(0), bias, mask).unflatten(1, (windows, self.num_heads))
        return self.proj_drop(self.proj(out.transpose(2, 3).reshape(count, tokens, channels)))

    def _fused(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention (images, windows * heads, tokens, channels of a head) in one kernel."""
        if mask is not None:
            bias = (bias[None] + mask[:, None]).flatten(0, 1)  # (windows * heads, tokens, tokens)
        dropout = self.attn_drop.p if self.training else 0.0
        return scaled_dot_product_attention(
            query, key, value, attn_mask=bias[None].to(query.dtype), dropout_p=dropout, scale=self.scale
        )

    def _products(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention (images, windows, heads, tokens, channels of a head) as two products.

        On a CPU no fused kernel gives the gradient of the bias; PyTorch then falls back to products of its own, which search
        every row for one that is masked altogether. There is none here, and a matrix can be changed in place.
        """
        scores = (query * self.scale) @ key.transpose(-2, -1)
        scores += bias
        if mask is not None:
            scores += mask[:, None]
        return self.attn_drop(scores.softmax(-1)).to(value.dtype) @ value


def fuse_attention(network: nn.Module) -> nn.Module:
    """Let every window attention of a Swin UNETR run through the fused kernels; weights and their names stay.

    Parameters
    ----------
    network : Module
        Holds `monai.networks.nets.swin_unetr.WindowAttention` modules; changed in place.

    Returns
    -------
    Module
        The same network.

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
