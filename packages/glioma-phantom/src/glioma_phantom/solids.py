"""Drawing in millimetres: a grid bent a little at random, solids on it, and a canvas of Hounsfield units and labels.

The frame is RAS with its origin in front of the first lumbar vertebra: x grows to the patient's right, y to the front and
z upwards. A solid is a level, positive inside and about as many millimetres deep as its value says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import make_interp_spline

OUTSIDE = -60.0
"""Level far away from a solid."""

REACH = 10.0
"""Millimetres around a tube within which its level is computed."""


@dataclass(frozen=True, eq=False)
class Space:
    """Where every voxel lies in the anatomy.

    Attributes
    ----------
    x, y, z : float32 arrays (X, Y, Z)
        Bent coordinates in mm.
    axes : tuple of three float arrays
        Straight coordinates along each axis, which `box` searches.
    ripple : float32 array (X, Y, Z)
        Millimetres, mean 0: added to levels it makes outlines uneven.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    axes: tuple[np.ndarray, ...]
    ripple: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.x.shape

    def box(self, centre: Sequence[float], reach: Sequence[float]) -> tuple[slice, ...]:
        """Voxels that can lie within `reach` mm of a point, with some to spare for the bending."""
        low = np.subtract(centre, reach) - REACH
        high = np.add(centre, reach) + REACH
        return tuple(slice(*np.searchsorted(axis, (a, b))) for axis, a, b in zip(self.axes, low, high, strict=True))

    def nothing(self) -> np.ndarray:
        """A level that is outside everywhere."""
        return np.full(self.shape, OUTSIDE, dtype=np.float32)


def make_space(axes: Sequence[np.ndarray], generator: np.random.Generator, *, scale: Sequence[float], bend: float) -> Space:
    """Grid of a patient.

    Parameters
    ----------
    axes : three arrays
        Coordinates of the voxels along x, y and z in mm.
    generator : Generator
        Draws the bending.
    scale : three floats
        Size of the patient along each axis, 1 for the average.
    bend : float
        Standard deviation of the bending in mm.
    """
    straight = tuple(np.asarray(axis / factor, dtype=np.float32) for axis, factor in zip(axes, scale, strict=True))
    x, y, z = np.meshgrid(*straight, indexing="ij", copy=False)
    moved = [axis + waves(straight, generator, length=(90, 180), size=bend) for axis in (x, y, z)]
    return Space(*moved, straight, waves(straight, generator, length=(22, 45), size=1.0))


def waves(
    axes: Sequence[np.ndarray], generator: np.random.Generator, *, length: tuple[float, float], size: float, count: int = 4
) -> np.ndarray:
    """A smooth random field (X, Y, Z) of standard deviation `size`: plane waves of random directions, `length` mm long."""
    total = np.zeros([len(axis) for axis in axes], dtype=np.float32)
    for _ in range(count):
        direction = generator.normal(size=3)
        direction *= 2 * np.pi / generator.uniform(*length) / np.linalg.norm(direction)
        phases = [axis * factor for axis, factor in zip(axes, direction, strict=True)]
        phases[0] = phases[0] + generator.uniform(0, 2 * np.pi)
        total += np.sin(phases[0][:, None, None] + phases[1][:, None] + phases[2], dtype=np.float32)
    return total * np.float32(size / np.sqrt(count / 2))


def ellipsoid(space: Space, centre: Sequence[float], radii: Sequence[float], *, turn: float = 0.0) -> np.ndarray:
    """Level of an ellipsoid.

    Parameters
    ----------
    space : Space
    centre, radii : three floats
        In mm.
    turn : float
        Degrees by which it is turned in the axial plane, from x towards y.
    """
    level = space.nothing()
    box = space.box(centre, (max(radii[:2]),) * 2 + (radii[2],) if turn else radii)
    dx, dy, dz = (axis[box] - offset for axis, offset in zip((space.x, space.y, space.z), centre, strict=True))
    if turn:
        cosine, sine = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        dx, dy = cosine * dx + sine * dy, cosine * dy - sine * dx
    scaled = [d / r for d, r in zip((dx, dy, dz), radii, strict=True)]
    inner = np.sqrt(sum(s * s for s in scaled))
    slope = np.sqrt(sum((s / r) ** 2 for s, r in zip(scaled, radii, strict=True)))
    level[box] = inner * (1 - inner) / np.maximum(slope, 1e-4)
    return level


def tube(space: Space, points: Sequence[Sequence[float]], radii: float | Sequence[float]) -> np.ndarray:
    """Level of a tube along a smooth curve.

    Parameters
    ----------
    space : Space
    points : (n, 3) floats
        Through which the curve goes, in mm.
    radii : float or (n,) floats
        In mm, at these points.
    """
    level = space.nothing()
    for centre, radius in zip(*curve(points, radii), strict=True):
        box = space.box(centre, (radius,) * 3)
        squares = (space.x[box] - centre[0]) ** 2 + (space.y[box] - centre[1]) ** 2 + (space.z[box] - centre[2]) ** 2
        np.maximum(level[box], radius - np.sqrt(squares), out=level[box])
    return level


def curve(points: Sequence[Sequence[float]], radii: float | Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Centres (m, 3) and radii (m,) of spheres so close along a smooth curve that they make a tube."""
    points = np.asarray(points, dtype=float)
    radii = np.broadcast_to(np.asarray(radii, dtype=float), len(points))
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(steps)])
    places = np.linspace(0, along[-1], max(2, int(np.ceil(along[-1] / (0.5 * radii.min())))))
    order = min(3, len(points) - 1)
    line = make_interp_spline(along, points, k=order)(places)
    return line.astype(np.float32), np.interp(places, along, radii).astype(np.float32)


def union(first: np.ndarray, second: np.ndarray, *, blend: float = 8.0) -> np.ndarray:
    """Level of two solids that flow into each other over `blend` mm (polynomial smooth maximum, Quilez 2013)."""
    nearness = np.clip(blend - np.abs(first - second), 0, None) / blend
    return np.maximum(first, second) + nearness * nearness * (blend / 4)


ORGANS = (
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "oesophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal and splenic veins",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)
"""The thirteen organs of BTCV (Landman et al. 2015, doi:10.7303/syn3193805), whose label numbers begin with 1."""
NUMBERS = {name: number for number, name in enumerate(ORGANS, start=1)}
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
