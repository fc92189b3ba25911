"""Settings of the networks as they were published or are commonly trained on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from helpers.data.files import DataError
from helpers.models.networks.registry import NETWORKS

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
        raise DataError(f"there is no network {name!r}; choose one of {', '.join(NETWORKS)}")
    arguments = {"spatial_dims": spatial_dims, **(PUBLISHED[spatial_dims][name] if published else {})}
    return {**arguments, "img_size": edge} if NETWORKS[name].one_size else arguments
