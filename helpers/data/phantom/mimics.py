"""What looks like tumour and is none, and what a skull strip leaves behind or takes away.

A network that never saw these calls them tumour: bright spots of ageing white matter, vessels, venous sinus, choroid plexus,
dura, pineal gland and pituitary stalk after contrast agent, and remains of skull and scalp at the brain's rim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from helpers.data.phantom.anatomy import Anatomy
from helpers.data.phantom.contrast import draw_vessels
from helpers.data.phantom.draws import Box, Draws, Range

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


@dataclass(frozen=True)
class Stuff:
    """One such tissue: the share of it in every voxel, and its intensity relative to white matter by modality."""

    share: torch.Tensor  # (X, Y, Z), 0 to 1
    look: dict[str, float]


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


def draw_mimics(draws: Draws, anatomy: Anatomy, shell: torch.Tensor, box: Box, ranges: MimicRanges) -> list[Stuff]:
    """Draw everything this module knows, in the order in which it covers what was there."""
    return [
        *_lesions(draws, anatomy, box, ranges),
        *_enhancing(draws, anatomy, box),
        *_remains(draws, anatomy, shell, box, ranges),
    ]


def _lesions(draws: Draws, anatomy: Anatomy, box: Box, ranges: MimicRanges) -> list[Stuff]:
    uniform = draws.uniform
    look = {"t1": uniform(0.75, 0.98), "t2": uniform(1.3, 2.2), "flair": uniform(1.2, 1.8)}
    look["t1ce"] = look["t1"] + draws.normal(0, 0.02)
    caps = anatomy.ventricles * anatomy.white * draws.within(ranges.caps)
    if draws.chance(ranges.lesions):
        spots = draws.field(box, uniform(4.5, 9.0))[0] - draws.within(ranges.lesion_threshold)
        caps = torch.maximum(caps, torch.sigmoid(spots * 5) * anatomy.white * (anatomy.depth > 0.6))
    return [Stuff(caps, look)]


def _enhancing(draws: Draws, anatomy: Anatomy, box: Box) -> list[Stuff]:
    uniform = draws.uniform
    vessels, sinus, choroid = draw_vessels(draws, anatomy, box)
    dark, bright = uniform(0.3, 1.1), uniform(1.2, 2.8)
    blood = {"t1": uniform(0.5, 1.1), "t1ce": bright, "t2": dark, "flair": uniform(0.4, 1.2)}
    plexus = {"t1": uniform(0.6, 1.0), "t1ce": uniform(1.0, 2.0), "t2": uniform(1.3, 3.0), "flair": uniform(0.7, 1.8)}
    dura = {"t1": uniform(0.5, 1.0), "t1ce": uniform(0.8, 2.2), "t2": uniform(0.4, 1.6), "flair": uniform(0.6, 1.6)}
    return [
        Stuff(choroid.clamp(max=1), plexus),
        Stuff((vessels * uniform(0.3, 1.5)).clamp_(max=1), blood),
        Stuff((sinus * uniform(0.5, 1.5)).clamp_(max=1), blood),
        Stuff(_folds(draws, anatomy, box), dura),
        Stuff(_glands(draws, anatomy), {**blood, "t2": uniform(0.8, 2.0), "flair": uniform(0.8, 1.6)}),
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


def _remains(draws: Draws, anatomy: Anatomy, shell: torch.Tensor, box: Box, ranges: MimicRanges) -> list[Stuff]:
    """Bone and air, dark on everything, and fat, muscle and veins, of any brightness, in the shell outside the brain."""
    bone, soft = draws.field(box, 9.0, 2)
    bone = torch.sigmoid((bone - draws.within(ranges.remains)) * 4) * shell
    soft = torch.sigmoid((soft - draws.within(ranges.remains)) * 4) * shell
    grey = draws.uniform(0.05, 0.5)
    names = ("t1", "t1ce", "t2", "flair")
    brightest = 2.2 if draws.chance(0.6) else 4.5  # near the receive coil, or where air distorts the field
    any_brightness = {name: draws.uniform(0.2, brightest) for name in names}
    return [Stuff(bone, dict.fromkeys(names, grey)), Stuff(soft, any_brightness)]


def _soften(mask: torch.Tensor, box: Box) -> torch.Tensor:
    """Average over 10 mm, twice."""
    width = 2 * round(4 / box.spacing) + 1
    soft = mask[None, None]
    for _ in range(2):
        soft = F.avg_pool3d(soft, width, stride=1, padding=width // 2)
    return soft[0, 0]
