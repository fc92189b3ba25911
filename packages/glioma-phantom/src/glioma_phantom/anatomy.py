"""One individual brain: the ICBM152 2009a template moved, bent, and pushed aside by the tumour.

nilearn carries the template's maps in its package. Source: Fonov et al., NeuroImage 54 (2011) 313-327; the maps are averages of
152 healthy adults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from glioma_phantom.draws import Box, Draws, Range

CHANNELS = ("grey", "white", "brain", "depth", "ventricles", "detail")
"""Maps of the template: grey and white matter and brain (0-1), depth below the brain's surface (cm),
closeness to the ventricles (0-1), and what T1 shows beyond the tissue classes."""


MIDDLE = (118.0, 128.0, 70.0)
"""Voxel of a 1 mm BraTS volume in which the brain's middle lies (median of the development cases)."""
COARSE = 4
"""Spacing in mm at which displacements are computed; they are smooth, so nothing is lost, and it is 64 times less work."""
COARSE_SHAPE = (61, 61, 40)
FIELD_OF_VIEW = (240, 240, 155)
"""Millimetres covered by a BraTS volume."""


@dataclass(frozen=True)
class Template:
    """Maps on the template's 1 mm grid, RAS.

    Attributes
    ----------
    maps : float32 tensor (6, X, Y, Z)
        In the order of `CHANNELS`, which lie side by side in memory: `sample` takes less than half of the time then.
    centre : float32 tensor (3,)
        Voxel in the middle of the brain.
    seeds : float32 tensor (N, 3)
        Voxels in white matter deep enough for a tumour to start in.
    """

    maps: torch.Tensor
    centre: torch.Tensor
    seeds: torch.Tensor


@lru_cache(maxsize=4)
def load_template(device: str = "cpu") -> Template:
    """Load the maps onto a device; takes about a second, later calls in the same process take none."""
    from nilearn import datasets  # it imports scikit-learn and pandas: for seconds, also where nothing is drawn

    loaders = (
        datasets.load_mni152_gm_template,
        datasets.load_mni152_wm_template,
        datasets.load_mni152_brain_mask,
        datasets.load_mni152_template,
    )
    grey, white, brain, t1 = (np.asarray(load(resolution=1).dataobj, dtype=np.float32) for load in loaders)
    low, high = _bounds(brain > 0.5, margin=4)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grey, white, brain, t1 = (volume[box] for volume in (grey, white, brain, t1))
    depth = _distance(brain > 0.5) / 10
    ventricles = _ventricles(brain - grey - white, depth)
    detail = (t1 - (0.55 * grey + 0.8 * white + 0.25 * (brain - grey - white))) * (brain > 0.5)
    stacked = np.stack([grey, white, brain, depth, ventricles, detail], axis=-1).astype(np.float32)
    maps = torch.from_numpy(stacked).movedim(-1, 0)
    seeds = np.argwhere((white[::2, ::2, ::2] > 0.5) & (depth[::2, ::2, ::2] > 1.0)) * 2
    corners = np.argwhere(brain > 0.5)
    centre = (corners.min(axis=0) + corners.max(axis=0)) / 2
    return Template(maps.to(device), torch.tensor(centre, dtype=torch.float32), torch.from_numpy(seeds.astype(np.float32)))


def _bounds(mask: np.ndarray, *, margin: int) -> tuple[np.ndarray, np.ndarray]:
    corners = np.argwhere(mask)
    return np.maximum(corners.min(axis=0) - margin, 0), np.minimum(corners.max(axis=0) + 1 + margin, mask.shape)


def _distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the outside in mm, computed on every second voxel: four times as coarse, eight times as fast."""
    # One ring of padding, because the cerebellum touches the template's lowest slice.
    coarse = ndimage.distance_transform_edt(np.pad(mask[::2, ::2, ::2], 1), sampling=2)[1:-1, 1:-1, 1:-1]
    return _resize(coarse, mask.shape)


def _ventricles(fluid: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Closeness to the ventricles: fluid deep inside the brain, smoothed over some 4 mm."""
    deep = ((fluid > 0.5) & (depth > 2.0)).astype(np.float32)
    labels, count = ndimage.label(deep[::2, ::2, ::2])
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    kept = np.isin(labels, np.flatnonzero(sizes > 150)[1:]).astype(np.float32)
    return np.clip(_resize(ndimage.gaussian_filter(kept, 2.0), fluid.shape) * 2, 0, 1)


def _resize(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None]
    return F.interpolate(tensor, size=tuple(shape), mode="trilinear", align_corners=False)[0, 0].numpy()


@dataclass(frozen=True)
class AnatomyRanges:
    """How much brains differ; the defaults are the calibrated cohort's.

    Attributes
    ----------
    size, turn : float
        Standard deviations of the head's size along each axis (share of the average) and of its rotations (radian).
    bend, ripple : range
        Strength in mm of smooth displacements over 45 mm and over 22 mm.
    sharpness, gyri : range
        How strongly averaged tissue maps are sharpened, and how much of the sharpened border is random.
    ventricles, atrophy : range
        Extra fluid in the ventricles and in every fluid space, in units of a logit.
    """

    size: float = 0.03
    turn: float = 0.04
    bend: Range = (1.5, 3.5)
    ripple: Range = (0.3, 1.2)
    sharpness: Range = (2.2, 2.2)
    gyri: Range = (0.55, 0.55)
    ventricles: Range = (-0.3, 2.2)
    atrophy: Range = (0.0, 0.0)


CALIBRATED = AnatomyRanges()


@dataclass(frozen=True)
class Pose:
    """Where an individual's brain lies relative to the template: scale, rotation and side."""

    matrix: torch.Tensor  # (3, 3), from millimetres around MIDDLE (BraTS axes) to template voxels around its centre
    inverse: torch.Tensor


@dataclass(frozen=True)
class Mass:
    """What pushes tissue aside: a ball at `centre` (mm of the volume) of `radius` mm that displaces by `push` mm."""

    centre: torch.Tensor  # (3,)
    radius: float
    push: float


@dataclass(frozen=True)
class Anatomy:
    """Tissue of one brain in the drawing box; every tensor is (X, Y, Z)."""

    grey: torch.Tensor
    white: torch.Tensor
    fluid: torch.Tensor
    brain: torch.Tensor  # bool
    depth: torch.Tensor  # cm below the surface
    ventricles: torch.Tensor  # closeness 0-1
    detail: torch.Tensor
    midline: torch.Tensor  # distance from the midsagittal plane in mm
    height: torch.Tensor  # template axis towards superior, mm from the brain's middle
    front: torch.Tensor  # template axis towards anterior, mm from the brain's middle


def draw_pose(draws: Draws, ranges: AnatomyRanges = CALIBRATED) -> Pose:
    """Draw head size, small rotations and side. Adult brains in BraTS are about 0.9 of the ICBM152 average."""
    scale = torch.tensor([1 / (0.905 * draws.normal(1.0, ranges.size)) for _ in range(3)])
    turn = torch.zeros(3, 3)
    for (a, b), angle in zip(((0, 1), (0, 2), (1, 2)), (draws.normal(0, ranges.turn) for _ in range(3)), strict=True):
        turn[a, b], turn[b, a] = angle, -angle
    # BraTS volumes count voxels towards the patient's left and back, the template towards right and front.
    axes = torch.tensor([1.0 if draws.chance(0.5) else -1.0, -1.0, 1.0])
    matrix = torch.linalg.matrix_exp(turn) @ torch.diag(scale * axes)
    return Pose(matrix, torch.linalg.inv(matrix))


@dataclass(frozen=True)
class Warp:
    """Template voxel for every point of a coarse grid over the whole field of view, and what the brain covers of it."""

    source: torch.Tensor  # (3, X, Y, Z)
    box: Box  # the smallest drawing box around the brain


def draw_warp(
    draws: Draws,
    template: Template,
    pose: Pose,
    masses: list[Mass],
    spacing: float,
    ranges: AnatomyRanges = CALIBRATED,
) -> Warp:
    """Bend the template smoothly and push it aside where a mass grows, less so towards the skull, which holds it."""
    device = template.maps.device
    whole = Box((0, 0, 0), COARSE_SHAPE, COARSE)
    points = whole.points(device) + (spacing - COARSE) / 2  # where the first voxel of each 4 mm block has its centre
    bend = draws.field(whole, 45.0, 3, strength=draws.within(ranges.bend))
    bend += draws.field(whole, 22.0, 3, strength=draws.within(ranges.ripple))
    matrix, middle = pose.matrix.to(device), torch.tensor(MIDDLE, device=device).view(3, 1, 1, 1)
    bend += template.centre.to(device).view(3, 1, 1, 1)

    def to_template(moved: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ij,jxyz->ixyz", matrix, moved - middle) + bend

    held = (sample(template.maps[3:4], to_template(points))[0] / 1.5).clamp_(0, 1)
    for mass in masses:
        away = points - mass.centre.to(device).view(3, 1, 1, 1)
        distance = away.norm(dim=0).clamp_(min=1e-3)
        decay = torch.exp(-(distance - mass.radius).clamp_(min=0) / (1.2 * mass.radius))
        points = points - away / distance * (mass.push * held * decay * (distance / mass.radius).clamp(max=1))
    source = to_template(points)
    brain = sample(template.maps[2:3], source)
    return Warp(source, box_around(F.max_pool3d(brain[None], 3, stride=1, padding=1)[0, 0] > 0.05, spacing))


def draw_anatomy(draws: Draws, template: Template, warp: Warp, ranges: AnatomyRanges = CALIBRATED) -> Anatomy:
    """Take the tissue of the drawing box from the warped template and give it gyri and ventricles of its own."""
    box = warp.box
    source = _upsample(warp.source, box)
    grey, white, brain, depth, ventricles, detail = sample(template.maps, source)
    wiggle = draws.field(box, 7.0, 3, strength=draws.within(ranges.gyri))
    size = draws.within(ranges.ventricles)
    # Averaged maps are blurred; sharpening them, with a random tilt, gives each brain gyri and sulci of its own.
    tissue = torch.stack([grey, white, brain - grey - white]).clamp_(min=1e-3).log_()
    tissue.mul_(draws.within(ranges.sharpness)).add_(wiggle)
    tissue[2] += size * ventricles + draws.within(ranges.atrophy)
    grey, white, fluid = torch.softmax(tissue, dim=0)
    brain = brain.add_(wiggle[0], alpha=0.15) > 0.5
    right, front, up = (axis - centre for axis, centre in zip(source, template.centre.tolist(), strict=True))
    return Anatomy(grey, white, fluid, brain, depth, ventricles, detail, right.abs_(), up, front)


def place(template_voxel: torch.Tensor, template: Template, pose: Pose) -> torch.Tensor:
    """Where a template voxel comes to lie, in mm of the volume (bending left out)."""
    return pose.inverse @ (template_voxel - template.centre) + torch.tensor(MIDDLE)


def box_around(coarse_mask: torch.Tensor, spacing: float) -> Box:
    """The smallest box at `spacing` around a mask on the coarse grid."""
    start, shape = [], []
    for axis, length in enumerate(FIELD_OF_VIEW):
        others = tuple(a for a in range(3) if a != axis)
        hits = coarse_mask.any(dim=others[1]).any(dim=others[0]).nonzero().flatten().tolist()
        start.append(hits[0] * COARSE)
        shape.append(min(round((hits[-1] - hits[0]) * COARSE / spacing), math.ceil((length - start[-1]) / spacing)))
    return Box(tuple(start), tuple(shape), spacing)


def _upsample(coarse: torch.Tensor, box: Box) -> torch.Tensor:
    """Linear interpolation of a coarse field (C, ...) at the voxels of a box."""
    first = [start // COARSE for start in box.start]
    size = [math.ceil(n * box.spacing / COARSE) + 1 for n in box.shape]
    piece = coarse[(slice(None), *(slice(a, a + n) for a, n in zip(first, size, strict=True)))]
    fine = [round((n - 1) * COARSE / box.spacing) + 1 for n in piece.shape[1:]]
    values = F.interpolate(piece[None], size=fine, mode="trilinear", align_corners=True)[0]
    return values[(slice(None), *(slice(0, n) for n in box.shape))]


def sample(maps: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Linear interpolation of maps (C, X, Y, Z) at template voxels (3, ...); zero outside."""
    size = torch.tensor(maps.shape[1:], device=maps.device, dtype=torch.float32).view(3, 1, 1, 1)
    where = (source / (size - 1) * 2 - 1).flip(0).permute(1, 2, 3, 0)[None]
    return F.grid_sample(maps[None], where, align_corners=True)[0]


def box_mean(maps: torch.Tensor, width: int) -> torch.Tensor:
    """Average maps (..., X, Y, Z), zero outside, over a cube of `width` voxels (odd) around every voxel.

    `torch.nn.functional.avg_pool3d`, with the same result, adds up the whole cube for each voxel, 27 or more of them; the
    three axes one after the other are 7 to 100 times as fast.
    """
    for axis in (-3, -2, -1):
        length, edges = maps.shape[axis], [0] * (2 * (-1 - axis)) + [width // 2] * 2
        padded = F.pad(maps, edges)
        maps = padded.narrow(axis, 0, length).clone()
        for place in range(1, width):
            maps += padded.narrow(axis, place, length)
    return maps / width**3
