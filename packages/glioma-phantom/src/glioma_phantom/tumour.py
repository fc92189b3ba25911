"""One glioma: where it starts, how it grows, and the label map that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from glioma_phantom.anatomy import COARSE, MIDDLE, Anatomy, Mass, Pose, Template, box_mean, place, sample
from glioma_phantom.draws import Box, Draws, Range

NCR, ED, ET = 1, 2, 3
"""Label numbers: necrotic and non-enhancing tumour core, oedema, enhancing tumour; 0 is background."""
RING, SOLID, NON_ENHANCING = 0, 1, 2
TENTORIUM = (-15.0, -20.0)
"""What lies behind and below, in mm from the template's middle, is cerebellum and brain stem."""
SHALLOW = 0.3
"""Least depth in cm below the brain's surface at which a tumour begins."""


@dataclass(frozen=True)
class TumourRanges:
    """How much tumours differ; the defaults are the calibrated cohort's.

    Attributes
    ----------
    kinds : three floats
        Weights of a necrotic core in an enhancing rim, of solid enhancement with necrotic islands, and of no (or hardly any)
        enhancement.
    infratentorial : float
        Share that is kept of the tumours that would begin in the cerebellum or brain stem, where adults rarely have one.
    multifocal : float
        Probability of one or two satellites.
    radius : three ranges
        Of the core in mm, by kind.
    scatter : float
        Standard deviation in mm, along each axis, by which a tumour begins away from deep white matter, where it always begins
        otherwise.
    stretch : range
        Lengths of the core's axes relative to each other.
    reach : three ranges
        How far oedema reaches beyond the core in mm, by kind.
    push : range
        How far surrounding tissue is displaced, as a share of the radius.
    rough : range
        Strength of the core's irregularity.
    rim : range
        Share of the radius at which an enhancing rim begins.
    gaps : range
        Threshold below which a rim is interrupted, in standard deviations of a field.
    islands : range
        The same for the necrotic islands of solid enhancement.
    enclosed : float
        Probability that what enhances covers the whole surface of the core, so that nothing else of the core meets oedema.
    specks : float
        Probability of specks of enhancement in a tumour that hardly enhances.
    spared : range
        How much of oedema's reach grey matter uses up, as a share: 0 lets it into cortex as easily as into white matter.
    effaced : range
        Share of the fluid in sulci that a core presses out of itself and its surroundings.
    crossing : float
        By how much oedema's reach is used up for every mm beyond the middle between the hemispheres, as a share.
    fade : range
        By how much of its brightness oedema has faded at its edge.
    sharp : range
        How sharp the borders between classes are, from 0, where each voxel is mixed from its 27 neighbours, to 1, not at all.
    resected : float
        Probability that the middle of the core was taken out; the cavity fills with fluid and is labelled as background.
    """

    kinds: tuple[float, float, float] = (0.58, 0.22, 0.20)
    multifocal: float = 0.15
    radius: tuple[Range, Range, Range] = ((8.0, 27.0), (13.0, 33.0), (12.0, 32.0))
    scatter: float = 0.0
    stretch: Range = (0.75, 1.35)
    reach: tuple[Range, Range, Range] = ((3.0, 23.0), (3.0, 23.0), (1.5, 9.0))
    push: Range = (0.1, 0.4)
    rough: Range = (0.6, 1.4)
    rim: Range = (0.45, 0.82)
    gaps: Range = (-2.6, -1.1)
    islands: Range = (-1.0, 0.1)
    enclosed: float = 0.0
    specks: float = 0.5
    spared: Range = (1.1, 1.1)
    effaced: Range = (0.0, 0.0)
    crossing: float = 0.0
    infratentorial: float = 1.0
    fade: Range = (0.0, 0.0)
    sharp: Range = (0.0, 0.0)
    resected: float = 0.0


CALIBRATED = TumourRanges()


@dataclass(frozen=True)
class Focus:
    """One centre of growth: position in mm of the volume, core radius in mm, stretch, kind and oedema's reach in mm."""

    centre: torch.Tensor  # (3,)
    radius: float
    stretch: torch.Tensor  # (3, 3), volume preserving
    kind: int
    oedema: float
    push: float

    @property
    def mass(self) -> Mass:
        """What this focus pushes aside."""
        return Mass(self.centre, self.radius, self.push)


@dataclass(frozen=True)
class Tumour:
    """Label map and the share of each class in every voxel (partial volume), in a part of the drawing box.

    `cavity`, where there is one, is 1 in the voxels that a resection has emptied.
    """

    part: tuple[slice, slice, slice]
    classes: torch.Tensor  # uint8
    shares: torch.Tensor  # float32 (3, ...): NCR, ED, ET
    kind: int
    cavity: torch.Tensor | None = None  # float32 (X, Y, Z)


def draw_foci(draws: Draws, template: Template, pose: Pose, ranges: TumourRanges = CALIBRATED) -> list[Focus]:
    """Draw one focus, in some cases with one or two satellites near it or elsewhere in the brain."""
    kind = draws.choice(ranges.kinds)
    count = 1 + (1 + draws.integer(2) if draws.chance(ranges.multifocal) else 0)
    foci = []
    for number in range(count):
        seed = _draw_seed(draws, template, ranges)
        radius = draws.within(ranges.radius[kind]) * (1.0 if number == 0 else draws.uniform(0.25, 0.6))
        turn = torch.linalg.qr(torch.tensor(draws.uniform(-1, 1, 9)).view(3, 3))[0]
        axes = torch.tensor(draws.uniform(*ranges.stretch, 3))
        stretch = (turn @ torch.diag(axes / axes.prod() ** (1 / 3)) @ turn.T).float()
        reach = draws.within(ranges.reach[kind])
        centre = place(seed, template, pose)
        foci.append(Focus(centre, radius, stretch, kind, reach, push=radius * draws.within(ranges.push)))
    return foci


def draw_tumour(draws: Draws, foci: list[Focus], anatomy: Anatomy, box: Box, ranges: TumourRanges = CALIBRATED) -> Tumour:
    """Grow the foci in an anatomy.

    The core is a ball with an irregular surface that stops at the brain's. Oedema follows white matter, and neither core
    nor oedema enters ventricles or wide sulci. Each voxel's class is the majority of its 27 neighbours, as a rater's
    outline is smoother than tissue.
    """
    part, local = _part(foci, box)
    device = anatomy.grey.device
    white, fluid, brain, depth = (tissue[part] for tissue in (anatomy.white, anatomy.fluid, anatomy.brain, anatomy.depth))
    coarse, medium, fine = (draws.field(local, scale)[0] for scale in (26.0, 12.0, 6.0))
    points = local.points(device)
    core, beyond = None, None
    for focus in foci:
        relative = _relative_distance(focus, points)
        outside = (relative - 1) * focus.radius / focus.oedema
        core = relative if core is None else torch.minimum(core, relative)
        beyond = outside if beyond is None else torch.minimum(beyond, outside)
    rough = draws.within(ranges.rough)
    level = core + rough * (0.12 * coarse + 0.08 * medium + 0.04 * fine)
    open_fluid = fluid > 0.6
    inside = (level < 1) & brain & ~(open_fluid & (core > 0.6))
    beyond = beyond + ranges.crossing * _beyond_the_middle(points, foci[0])
    edge = beyond + 0.35 * coarse + 0.18 * medium + draws.within(ranges.spared) * (0.65 - white) + 2.5 * fluid
    oedema = (edge < 1) & brain & ~inside & ~open_fluid & (depth > 0.1)
    enhancing = inside & _enhancement(draws, foci[0].kind, level, medium, fine, ranges)
    shares, classes = _majority(torch.stack([inside & ~enhancing, oedema, enhancing]), brain, draws.within(ranges.sharp))
    fade = draws.within(ranges.fade)
    if fade:
        shares[1] *= 1 - fade * edge.clamp(0, 1)
    tumour = Tumour(part, classes, shares, foci[0].kind)
    # The calibrated cohort, which has none, must not spend a random number on the question.
    if ranges.resected and draws.chance(ranges.resected):
        return _resect(tumour, (level < draws.uniform(0.3, 0.75)) & brain)
    return tumour


def _resect(tumour: Tumour, cavity: torch.Tensor) -> Tumour:
    """Take the core's middle out, except where that would leave no tumour."""
    if not (tumour.classes * ~cavity).any():
        return tumour
    return replace(tumour, classes=tumour.classes * ~cavity, shares=tumour.shares * ~cavity, cavity=cavity.float())


def press_out(draws: Draws, foci: list[Focus], anatomy: Anatomy, box: Box, ranges: TumourRanges) -> Anatomy:
    """Close the sulci in and around the cores, as swelling does: what was fluid there becomes grey matter."""
    share, points = draws.within(ranges.effaced), box.points(anatomy.fluid.device)
    near = torch.stack([torch.sigmoid((1.4 - _relative_distance(focus, points)) / 0.12) for focus in foci]).amax(dim=0)
    pressed = share * near * anatomy.fluid * (1 - anatomy.ventricles)
    return replace(anatomy, fluid=anatomy.fluid - pressed, grey=anatomy.grey + pressed)


def _relative_distance(focus: Focus, points: torch.Tensor) -> torch.Tensor:
    """Distance of points (3, ...) from the centre of growth, stretched as the core is, in radii of it."""
    away = points - focus.centre.to(points.device).view(3, 1, 1, 1)
    return _length(torch.einsum("ij,jxyz->ixyz", focus.stretch.to(points.device), away)) / focus.radius


def _part(foci: list[Focus], box: Box) -> tuple[tuple[slice, slice, slice], Box]:
    """The part of the drawing box that the tumour can reach."""
    low, high = [], []
    for axis in range(3):
        reach = [f.radius * 1.9 + f.oedema * 2.0 + 8 for f in foci]
        starts = [float(f.centre[axis]) - r - box.start[axis] for f, r in zip(foci, reach, strict=True)]
        ends = [float(f.centre[axis]) + r - box.start[axis] for f, r in zip(foci, reach, strict=True)]
        low.append(max(0, int(min(starts) // COARSE) * COARSE))
        high.append(min(int(max(ends) // COARSE + 1) * COARSE, round(box.shape[axis] * box.spacing)))
    part = tuple(slice(round(a / box.spacing), round(b / box.spacing)) for a, b in zip(low, high, strict=True))
    start = tuple(a + b for a, b in zip(box.start, low, strict=True))
    return part, Box(start, tuple(s.stop - s.start for s in part), box.spacing)


def _draw_seed(draws: Draws, template: Template, ranges: TumourRanges) -> torch.Tensor:
    while True:
        seed = template.seeds[draws.integer(len(template.seeds))]
        if ranges.scatter:
            seed = seed + torch.tensor([draws.normal(0, ranges.scatter) for _ in range(3)])
            if sample(template.maps[3:4], seed.view(3, 1, 1, 1).to(template.maps.device)).item() < SHALLOW:
                continue
        _, front, height = (seed - template.centre).tolist()
        if ranges.infratentorial == 1 or height > TENTORIUM[1] or front > TENTORIUM[0] or draws.chance(ranges.infratentorial):
            return seed


def _beyond_the_middle(points: torch.Tensor, focus: Focus) -> torch.Tensor:
    """How far into the other hemisphere, seen from a focus, a point lies, in mm."""
    side = float(focus.centre[0]) - MIDDLE[0]
    return ((points[0] - MIDDLE[0]) * (-1.0 if side > 0 else 1.0)).clamp_(min=0)


def _length(vectors: torch.Tensor) -> torch.Tensor:
    """Euclidean norm over the first axis; torch's own is several times slower over a strided axis."""
    return sum(component.square() for component in vectors).sqrt_()


def _enhancement(
    draws: Draws, kind: int, level: torch.Tensor, medium: torch.Tensor, fine: torch.Tensor, ranges: TumourRanges
) -> torch.Tensor:
    # The calibrated cohort must not spend a random number on the question.
    enclosed = bool(ranges.enclosed) and kind != NON_ENHANCING and draws.chance(ranges.enclosed)
    if kind == RING:
        rim = level + 0.07 * medium > draws.within(ranges.rim)
        return rim if enclosed else rim & (medium + 0.5 * fine > draws.within(ranges.gaps))
    if kind == SOLID:
        solid = medium + 0.6 * fine > draws.within(ranges.islands)
        return solid | (level > draws.uniform(0.7, 0.9)) if enclosed else solid
    if draws.chance(1 - ranges.specks):
        return torch.zeros_like(level, dtype=torch.bool)
    return (fine + 0.5 * medium > draws.uniform(2.0, 2.6)) & (level < 0.9)


def _majority(masks: torch.Tensor, brain: torch.Tensor, sharp: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Share of NCR, ED and ET among 27 neighbours, or nearer to the voxel's own, and the class that has most of them."""
    own = masks.float()
    shares = box_mean(own, 3) * brain
    if sharp:
        shares.lerp_(own, sharp)
    best, number = shares.max(dim=0)
    classes = torch.where(best > 1 - shares.sum(dim=0), number.to(torch.uint8) + 1, 0) * brain
    necrosis, oedema, enhancing = shares
    # Oedema fades into its surroundings, the core does not.
    faded = F.avg_pool3d(oedema[None, None], 3, stride=1, padding=1)[0, 0]
    oedema = faded.lerp_(oedema, sharp) * (1 - necrosis - enhancing) * brain
    return torch.stack([necrosis, oedema, enhancing]), classes.to(torch.uint8)
