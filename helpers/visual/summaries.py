"""What the cohort figures need of one case, so that a cohort of any size is looked at one case at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from helpers.data.layouts import Case, read_classes, read_image
from helpers.regions import CLASSES, REGIONS, classes_to_regions
from helpers.visual.slices import PLANES, to_ras

INTENSITY_EDGES = np.linspace(-4.0, 8.0, 121)
"""Bins of the histograms, in standard deviations from the mean of the case's own brain; the outermost take what lies beyond."""
LEVELS = 100
"""Steps from the bottom to the top of the brain."""
GRID = (72, 88, 72)
"""Steps across the brain's bounding box along right, anterior and superior in which places of different cases are compared."""


@dataclass(frozen=True)
class CaseSummary:
    """A case in a few kilobytes.

    Attributes
    ----------
    identifier : str
    voxels : dict from class to int
        Voxels of each class 0 to 3 in the whole volume; `brain_voxels` of them are not zero in the first modality.
    brain_voxels : int
    volumes_ml : dict from region to float
    intensities : int array (4, 2, 120)
        Histograms by modality, of the brain outside the tumour [0] and of the whole tumour [1], over `INTENSITY_EDGES`.
    areas_cm2 : float array (3, 100)
        Area of each region in axial slices, from the bottom to the top of the brain.
    shadows : dict from plane to (tumour, brain), bool arrays
        Whether the line of sight through each point of the plane meets the whole tumour, and the brain, on `GRID`.
    size_mm : tuple of three floats
        Extent of the brain's bounding box along right, anterior and superior.
    """

    identifier: str
    voxels: dict[int, int]
    brain_voxels: int
    volumes_ml: dict[str, float]
    intensities: np.ndarray
    areas_cm2: np.ndarray
    shadows: dict[str, tuple[np.ndarray, np.ndarray]]
    size_mm: tuple[float, float, float]


def summarise_case(identifier: str, image: np.ndarray, classes: np.ndarray, affine: np.ndarray) -> CaseSummary:
    """Summarise one case for the figures of `helpers.visual.cohort`.

    Parameters
    ----------
    identifier : str
    image : array (4, X, Y, Z)
        In the order of `helpers.regions.MODALITIES`, any units, zero outside the brain.
    classes : uint8 array (X, Y, Z)
        Classes 0 to 3.
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+.
    """
    turned, spacing = to_ras(classes, affine)
    image, _ = to_ras(image, affine)
    brain = image[0] != 0
    box = tuple(_used(brain, axis) for axis in range(3))
    inside = turned[box]
    regions = classes_to_regions(inside)
    millilitres = float(np.prod(spacing)) / 1000
    counts = np.bincount(turned.ravel(), minlength=len(CLASSES))
    areas = regions.sum(axis=(1, 2)) * spacing[0] * spacing[1] / 100
    return CaseSummary(
        identifier,
        voxels={value: int(counts[value]) for value in CLASSES},
        brain_voxels=int(brain.sum()),
        volumes_ml={name: float(region.sum() * millilitres) for name, region in zip(REGIONS, regions, strict=True)},
        intensities=np.stack([_histograms(volume[box], brain[box], inside > 0) for volume in image]),
        areas_cm2=areas[:, _steps(areas.shape[1], LEVELS)],
        shadows=_shadows(inside > 0, brain[box]),
        size_mm=tuple(float(n * size) for n, size in zip(inside.shape, spacing, strict=True)),
    )


def summarise_cases(cases: Sequence[Case], *, workers: int = 1) -> list[CaseSummary]:
    """Read and summarise cases with references, `workers` at a time in threads; memory is bounded by one case a worker."""

    def read(case: Case) -> CaseSummary:
        return summarise_case(case.identifier, read_image(case)[0], *read_classes(case))

    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(read, cases))


def _used(mask: np.ndarray, axis: int) -> slice:
    used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
    return slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, mask.shape[axis])


def _steps(length: int, steps: int) -> np.ndarray:
    """Index of the voxel at each of `steps` equal steps over `length` voxels."""
    return ((np.arange(steps) + 0.5) * length / steps).astype(int)


def _histograms(volume: np.ndarray, brain: np.ndarray, tumour: np.ndarray) -> np.ndarray:
    """Histograms of one modality outside and inside the tumour, in standard deviations from the brain's mean."""
    values, in_tumour = volume[brain].astype(np.float32), tumour[brain]
    scores = (values - values.mean()) / max(float(values.std()), 1e-6) if values.size else values
    scores = scores.clip(INTENSITY_EDGES[0], INTENSITY_EDGES[-1])
    return np.stack([np.histogram(scores[in_tumour == side], bins=INTENSITY_EDGES)[0] for side in (False, True)])


def _shadows(tumour: np.ndarray, brain: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    steps = [_steps(length, count) for length, count in zip(tumour.shape, GRID, strict=True)]
    shadows = {}
    for name, plane in PLANES.items():
        across = [steps[axis] for axis in range(3) if axis != plane.axis]
        shadows[name] = tuple(mask.any(axis=plane.axis)[np.ix_(*across)] for mask in (tumour, brain))
    return shadows
