"""What the scanner, the patient's movement and the registration do to an image, modality by modality."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from helpers.data.phantom.contrast import rician
from helpers.data.phantom.draws import Box, Draws, Range


@dataclass(frozen=True)
class ScannerRanges:
    """How much examinations differ.

    Attributes
    ----------
    thick : float
        Probability of thick slices.
    thickness : range
        Of those slices in mm.
    axial : float
        Share of them that are axial; the others are sagittal or coronal.
    blur : range
        Share of every voxel that comes from its 26 neighbours.
    misplaced : float
        Probability that a modality is badly registered.
    shift : float
        Largest registration error along an axis in mm.
    ghost : float
        Probability of ghosts from movement.
    ghosts : range
        Strength of those ghosts, as a share of the image.
    bias : range
        Standard deviation of the logarithm of the receive field.
    slope : float
        Standard deviation of the slope of that logarithm along each axis, over the length of the volume.
    gamma : float
        Standard deviation of the logarithm of the power that intensities are raised to.
    noise : range
        Standard deviation of the noise relative to white matter, drawn uniformly in the square root.
    """

    thick: float = 0.5
    thickness: Range = (3.0, 6.5)
    axial: float = 0.75
    blur: Range = (0.0, 0.6)
    misplaced: float = 0.25
    shift: float = 1.2
    ghost: float = 0.12
    ghosts: Range = (0.02, 0.12)
    bias: Range = (0.02, 0.22)
    slope: float = 0.28
    gamma: float = 0.15
    noise: Range = (0.0, 0.07)


def scan(draws: Draws, image: torch.Tensor, box: Box, ranges: ScannerRanges, *, noise: float = 1.0) -> torch.Tensor:
    """One modality (X, Y, Z), relative to white matter, as an examination would show it.

    The noise comes last; `noise` multiplies it.
    """
    image = image.clamp(min=0.0)
    if draws.chance(ranges.thick):
        axis = 2 if draws.chance(ranges.axial) else draws.integer(2)
        image = thick_slices(image, axis, draws.within(ranges.thickness) / box.spacing)
    blur = draws.within(ranges.blur)
    image = torch.lerp(image, F.avg_pool3d(image[None, None], 3, stride=1, padding=1, count_include_pad=False)[0, 0], blur)
    if draws.chance(ranges.misplaced):
        for axis in range(3):
            image = shifted(image, axis, draws.uniform(-1, 1) * ranges.shift / box.spacing)
    if draws.chance(ranges.ghost):
        axis, distance = draws.integer(2), round(draws.uniform(0.15, 0.5) * min(image.shape[:2]))
        ghost = image.roll(distance, axis) + image.roll(-distance, axis)
        image = image + ghost * (draws.within(ranges.ghosts) / 2)
    image = image ** (2.0 ** draws.normal(0, ranges.gamma / 0.693))
    image = image * draws.field(box, draws.uniform(50.0, 110.0), strength=draws.within(ranges.bias), exponential=True)[0]
    for axis, length in enumerate(image.shape):
        ramp = torch.linspace(-0.5, 0.5, length, device=image.device) * draws.normal(0, ranges.slope)
        image = image * ramp.exp().view([-1 if axis == number else 1 for number in range(3)])
    low, high = ranges.noise
    return rician(draws, image, noise * draws.uniform(low**0.5, high**0.5) ** 2)


def thick_slices(image: torch.Tensor, axis: int, voxels: float) -> torch.Tensor:
    """Average along an axis over slices that many voxels thick, and interpolate back to the grid."""
    if voxels <= 1:
        return image
    length = image.shape[axis]
    lines = image.movedim(axis, -1)
    flat = lines.reshape(1, -1, length)
    slices = F.interpolate(flat, size=max(2, round(length / voxels)), mode="area")
    return F.interpolate(slices, size=length, mode="linear").reshape(lines.shape).movedim(-1, axis)


def shifted(image: torch.Tensor, axis: int, voxels: float) -> torch.Tensor:
    """Move an image along an axis by a distance below one voxel or above, interpolating linearly."""
    whole = int(voxels // 1)
    return torch.lerp(image.roll(whole, axis), image.roll(whole + 1, axis), voxels - whole)
