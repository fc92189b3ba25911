"""Random numbers of one phantom: scalars and smooth fields, the same on every device and for any number of workers."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

Range = tuple[float, float]
"""Lowest and highest value of something that is drawn uniformly."""


@dataclass(frozen=True)
class Box:
    """A part of the full volume in which something is drawn.

    Positions are given in "millimetres of the volume": the index that a point has in a 1 mm BraTS volume.

    Attributes
    ----------
    start : three ints
        First millimetre, a multiple of 4, where a voxel begins at every spacing.
    shape : three ints
        Size in voxels.
    spacing : float
        Voxel edge in mm.
    """

    start: tuple[int, int, int]
    shape: tuple[int, int, int]
    spacing: float

    @property
    def first(self) -> tuple[float, ...]:
        """Position of the first voxel's centre."""
        return tuple(a + (self.spacing - 1) / 2 for a in self.start)

    @property
    def inside(self) -> tuple[slice, slice, slice]:
        """The box as a part of the full volume."""
        return tuple(
            slice(round(a / self.spacing), round(a / self.spacing) + n) for a, n in zip(self.start, self.shape, strict=True)
        )

    def points(self, device: str | torch.device) -> torch.Tensor:
        """Positions of all voxel centres, float32 (3, X, Y, Z)."""
        axes = [
            torch.arange(n, device=device, dtype=torch.float32) * self.spacing + a
            for n, a in zip(self.shape, self.first, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def check_seed(seed: int) -> int:
    """Return a seed as Python's own integer, or refuse it before a folder is claimed for it."""
    if operator.index(seed) < 0:
        raise ValueError(f"a seed must be 0 or more, not {seed}")
    return operator.index(seed)


class Draws:
    """A seeded source of random numbers for one case.

    Scalars and the coarse grids behind smooth fields are drawn with NumPy on the CPU, so that a phantom's anatomy and
    tumour do not depend on the device. Only the noise of single voxels is drawn on the device itself.

    Parameters
    ----------
    seed, index : int
        Together they name the case.
    device : str
        Where tensors live.
    series : int
        Other series share no random number: a randomised phantom has nothing of the cohort's case of the same number.
    """

    def __init__(self, seed: int, index: int, *, device: str = "cpu", series: int = 0):
        sequence = np.random.SeedSequence([seed, index, series] if series else [seed, index])
        self.device = device
        self._numpy = np.random.Generator(np.random.PCG64(sequence))
        self._torch = torch.Generator(device).manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))

    def uniform(self, low: float, high: float, size: int | None = None):
        """A float in [low, high), or a list of them."""
        return self._numpy.uniform(low, high, size).tolist() if size else float(self._numpy.uniform(low, high))

    def within(self, limits: Range) -> float:
        """A float between two limits; equal limits give their value and cost no draw."""
        low, high = limits
        if low > high:
            raise ValueError(f"a range goes from low to high, not from {low} to {high}")
        return low if low == high else self.uniform(low, high)

    def normal(self, mean: float, deviation: float) -> float:
        """A float from a normal distribution, cut at 2.5 standard deviations."""
        return mean + deviation * float(np.clip(self._numpy.standard_normal(), -2.5, 2.5))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self._numpy.random() < probability)

    def choice(self, weights: Sequence[float]) -> int:
        """An index drawn with the given weights."""
        return int(self._numpy.choice(len(weights), p=np.asarray(weights) / np.sum(weights)))

    def integer(self, high: int) -> int:
        """An integer in [0, high)."""
        return int(self._numpy.integers(high))

    def field(
        self, box: Box, scale: float, channels: int = 1, *, strength: float = 1.0, exponential: bool = False
    ) -> torch.Tensor:
        """Smooth random fields of mean about 0 and standard deviation about `strength`.

        Parameters
        ----------
        box : Box
            Where to evaluate the field.
        scale : float
            Length in mm over which it changes. The coarse grid follows from the size of the box in mm, which for most cases
            differs a little between spacings, and then so does all that is drawn later.
        channels : int
            How many independent fields.
        strength : float
            Standard deviation.
        exponential : bool
            Return the exponential of the field, a factor around 1.

        Returns
        -------
        float32 tensor (channels, X, Y, Z)
        """
        coarse = [max(3, round(n * box.spacing / scale) + 3) for n in box.shape]
        values = self._numpy.standard_normal((channels, *coarse), dtype=np.float32)
        values *= strength * _FIELD_GAIN / values.std(axis=(1, 2, 3), keepdims=True)
        grid = torch.from_numpy(values)[None].to(self.device)
        # Two passes, of which the first doubles the grid and smooths it: one trilinear pass leaves visible creases.
        fine = F.interpolate(grid, scale_factor=2, mode="trilinear", align_corners=True)
        fine = F.avg_pool3d(fine, 3, stride=1, padding=1, count_include_pad=False)
        if exponential:
            fine.exp_()
        return F.interpolate(fine, size=box.shape, mode="trilinear", align_corners=True)[0]

    def noise(self, shape: tuple[int, int, int]) -> torch.Tensor:
        """White noise of standard deviation 1 for every voxel, drawn on the device."""
        return torch.randn(shape, generator=self._torch, device=self.device)


_FIELD_GAIN = 2.2
"""Undoes the loss of standard deviation in `Draws.field`'s interpolation (measured: 0.42 to 0.48 is left)."""
