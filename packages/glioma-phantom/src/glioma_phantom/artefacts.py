"""What deceives a network: mimics of tumour, what a skull strip leaves behind or takes away, scanner, movement, registration.

A network that never saw these calls them tumour: bright spots of ageing white matter, vessels, venous sinus, choroid plexus,
dura, pineal gland and pituitary stalk after contrast agent, and remains of skull and scalp at the brain's rim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from glioma_phantom.anatomy import Anatomy, box_mean
from glioma_phantom.contrast import Overlay, draw_vessels, rician
from glioma_phantom.draws import Box, Draws, Range

GLANDS = ((-14.0, -4.0, 4.0), (22.0, -34.0, 2.5), (-38.0, -2.0, 3.0))
"""Pineal gland, pituitary stalk and the confluence of deep veins: mm in front of and above the brain's middle, radius in mm."""


@dataclass(frozen=True)
class MimicRanges:
    """How much of it there is.

    Attributes
    ----------
    rim : range
        Where the skull strip cuts, in mm beyond the brain's surface (below 0: into the brain).
    rim_variation : range
        Standard deviation in mm of that over the surface.
    remains : range
        Share of the rim filled with skull, scalp or meninges instead of fluid: threshold in standard deviations.
    lesions : float
        Probability of bright spots in white matter.
    lesion_threshold : range
        How rare they are, in standard deviations of a field.
    caps : range
        How bright the surroundings of the ventricles are on T2 and FLAIR, as a share of a spot's brightness.
    """

    rim: Range = (-1.0, 3.5)
    rim_variation: Range = (0.3, 2.0)
    remains: Range = (-0.5, 2.5)
    lesions: float = 0.5
    lesion_threshold: Range = (1.9, 3.0)
    caps: Range = (0.0, 0.6)


def strip_skull(draws: Draws, anatomy: Anatomy, box: Box, ranges: MimicRanges) -> tuple[Anatomy, torch.Tensor]:
    """Cut the brain out as a tool would, a little inside or outside of its surface; also the shell beyond it (0 or 1)."""
    soft = _soften(anatomy.brain.float(), box)
    variation = draws.within(ranges.rim_variation)
    # Averaged twice over 10 mm, the edge of the brain falls by about 0.09 a millimetre.
    limit = 0.5 - 0.09 * (draws.within(ranges.rim) + variation * draws.field(box, 28.0)[0])
    kept = soft > limit.clamp_(0.04, 0.8)
    shell = (kept & ~anatomy.brain).float()
    fluid = torch.where(anatomy.brain, anatomy.fluid, shell)
    inner = anatomy.brain.float()
    return replace(anatomy, brain=kept, fluid=fluid, grey=anatomy.grey * inner, white=anatomy.white * inner), shell


def draw_mimics(draws: Draws, anatomy: Anatomy, shell: torch.Tensor, box: Box, ranges: MimicRanges) -> list[Overlay]:
    """Draw everything this module knows, in the order in which it covers what was there."""
    return [
        *_lesions(draws, anatomy, box, ranges),
        *_enhancing(draws, anatomy, box),
        *_remains(draws, anatomy, shell, box, ranges),
    ]


def _lesions(draws: Draws, anatomy: Anatomy, box: Box, ranges: MimicRanges) -> list[Overlay]:
    uniform = draws.uniform
    look = {"t1": uniform(0.75, 0.98), "t2": uniform(1.3, 2.2), "flair": uniform(1.2, 1.8)}
    look["t1ce"] = look["t1"] + draws.normal(0, 0.02)
    caps = anatomy.ventricles * anatomy.white * draws.within(ranges.caps)
    if draws.chance(ranges.lesions):
        spots = draws.field(box, uniform(4.5, 9.0))[0] - draws.within(ranges.lesion_threshold)
        caps = torch.maximum(caps, torch.sigmoid(spots * 5) * anatomy.white * (anatomy.depth > 0.6))
    return [Overlay(caps, look)]


def _enhancing(draws: Draws, anatomy: Anatomy, box: Box) -> list[Overlay]:
    uniform = draws.uniform
    vessels, sinus, choroid = draw_vessels(draws, anatomy, box)
    dark, bright = uniform(0.3, 1.1), uniform(1.2, 2.8)
    blood = {"t1": uniform(0.5, 1.1), "t1ce": bright, "t2": dark, "flair": uniform(0.4, 1.2)}
    plexus = {"t1": uniform(0.6, 1.0), "t1ce": uniform(1.0, 2.0), "t2": uniform(1.3, 3.0), "flair": uniform(0.7, 1.8)}
    dura = {"t1": uniform(0.5, 1.0), "t1ce": uniform(0.8, 2.2), "t2": uniform(0.4, 1.6), "flair": uniform(0.6, 1.6)}
    return [
        Overlay(choroid.clamp(max=1), plexus),
        Overlay((vessels * uniform(0.3, 1.5)).clamp_(max=1), blood),
        Overlay((sinus * uniform(0.5, 1.5)).clamp_(max=1), blood),
        Overlay(_folds(draws, anatomy, box), dura),
        Overlay(_glands(draws, anatomy), {**blood, "t2": uniform(0.8, 2.0), "flair": uniform(0.8, 1.6)}),
    ]


def _folds(draws: Draws, anatomy: Anatomy, box: Box) -> torch.Tensor:
    """Dura between the hemispheres and on the surface, in patches."""
    patches = torch.sigmoid((draws.field(box, 18.0)[0] - draws.uniform(0.0, 2.0)) * 4)
    falx = torch.exp(-(anatomy.midline / 1.6).square()) * anatomy.fluid * (anatomy.height > -5)
    surface = torch.exp(-(anatomy.depth / 0.2).square()) * anatomy.fluid
    return (falx * draws.uniform(0, 1) + patches * surface * draws.uniform(0, 0.8)).clamp_(max=1)


def _glands(draws: Draws, anatomy: Anatomy) -> torch.Tensor:
    total = torch.zeros_like(anatomy.midline)
    for front, height, radius in GLANDS:
        if draws.chance(0.6):
            offset = (anatomy.front - front - draws.normal(0, 2)).square()
            offset += (anatomy.height - height - draws.normal(0, 2)).square() + anatomy.midline.square()
            total += torch.exp(-0.7 * offset / (radius * draws.uniform(0.5, 1.2)) ** 2) * draws.uniform(0.4, 1.0)
    return total.clamp_(max=1)


def _remains(draws: Draws, anatomy: Anatomy, shell: torch.Tensor, box: Box, ranges: MimicRanges) -> list[Overlay]:
    """Bone and air, dark on everything, and fat, muscle and veins, of any brightness, in the shell outside the brain."""
    bone, soft = draws.field(box, 9.0, 2)
    bone = torch.sigmoid((bone - draws.within(ranges.remains)) * 4) * shell
    soft = torch.sigmoid((soft - draws.within(ranges.remains)) * 4) * shell
    grey = draws.uniform(0.05, 0.5)
    names = ("t1", "t1ce", "t2", "flair")
    brightest = 2.2 if draws.chance(0.6) else 4.5  # near the receive coil, or where air distorts the field
    any_brightness = {name: draws.uniform(0.2, brightest) for name in names}
    return [Overlay(bone, dict.fromkeys(names, grey)), Overlay(soft, any_brightness)]


def _soften(mask: torch.Tensor, box: Box) -> torch.Tensor:
    """Average over 10 mm, twice."""
    width = 2 * round(4 / box.spacing) + 1
    return box_mean(box_mean(mask, width), width)


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
    image = torch.lerp(image, box_mean(image, 3) / box_mean(torch.ones_like(image), 3), blur)
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
