"""What is drawn on: Hounsfield units and labels, painted solid over solid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from helpers.extras.ct.organs import NUMBERS
from helpers.extras.ct.phantom.space import Space

AIR, FAT, MUSCLE, GAS = -1000.0, -100.0, 58.0, -960.0
"""Hounsfield units."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """A CT in the making.

    Attributes
    ----------
    space : Space
    generator : Generator
        Of everything that differs between patients.
    edge : float
        Millimetres over which one tissue passes into the next: about a voxel, as a scanner averages it.
    hounsfield : float32 array (X, Y, Z)
    labels : uint8 array (X, Y, Z)
        BTCV numbers.
    """

    space: Space
    generator: np.random.Generator
    edge: float
    hounsfield: np.ndarray
    labels: np.ndarray

    @classmethod
    def blank(cls, space: Space, generator: np.random.Generator, *, edge: float) -> Canvas:
        """Air everywhere."""
        return cls(space, generator, edge, np.full(space.shape, AIR, np.float32), np.zeros(space.shape, np.uint8))

    def paint(self, level: np.ndarray, value: float | np.ndarray, *, organ: str = "", halo: float = 0.0) -> None:
        """Fill a solid.

        Parameters
        ----------
        level : float32 array (X, Y, Z)
            Of the solid.
        value : float or array (X, Y, Z)
            Hounsfield units.
        organ : str
            Name for the label; without one the voxels become background.
        halo : float
            Millimetres of fat around it, which part it from its neighbours.
        """
        if halo:
            self.paint(level + halo, FAT)
        touched = np.nonzero(level > -self.edge / 2)
        depth = level[touched]
        share = np.clip(depth / self.edge + 0.5, 0, 1)
        filling = value[touched] if isinstance(value, np.ndarray) else value
        self.hounsfield[touched] += share * (filling - self.hounsfield[touched])
        inside = tuple(axis[depth > 0] for axis in touched)
        self.labels[inside] = NUMBERS.get(organ, 0)

    def vary(self, value: float, spread: float) -> float:
        """A value drawn around another, within two standard deviations."""
        return float(value + spread * np.clip(self.generator.normal(), -2, 2))

    def shift(self, point: tuple[float, float, float], spread: float = 3.0) -> tuple[float, float, float]:
        """A point drawn around another, in mm."""
        return tuple(self.vary(part, spread) for part in point)
