"""What a network is asked: which channels it sees, what it answers, and whether its answers exclude each other."""

from __future__ import annotations

from dataclasses import dataclass

from helpers.data.files import DataError
from helpers.regions import MODALITIES, REGIONS

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
            raise DataError(f"activation is {self.activation!r}; choose one of {', '.join(ACTIVATIONS)}")


def scored_regions(regions: tuple[str, ...], activation: str) -> tuple[str, ...]:
    """Those of the channels of the logits that are scored: all but the background, which would flatter every mean."""
    return regions[1:] if activation == "softmax" else regions


GLIOMA = Task("glioma", MODALITIES, REGIONS)
"""The task of all numbered notebooks: four contrasts in; TC, WT and ET, which lie within each other, out."""
