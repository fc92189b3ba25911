"""Figures of a whole cohort, drawn from the `CaseSummary` of each case (`helpers.plots.cohort.summarise_case`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.data.cases import Case, read_classes, read_image
from helpers.plots.case import INK, MUTED, new_axes
from helpers.regions import (
    CLASS_COLOURS,
    CLASS_NAMES,
    CLASSES,
    MODALITIES,
    MODALITY_NAMES,
    REGION_COLOURS,
    REGION_NAMES,
    REGIONS,
    classes_to_regions,
)
from slice_viewer.slices import PLANES, to_ras

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
    """Summarise one case for the figures of `helpers.plots.cohort`.

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


def show_class_balance(cases: Sequence[CaseSummary], *, ax: Axes | None = None) -> Axes:
    """Share of all voxels in each class and in the rest of the brain, mean over cases, on a logarithmic axis."""
    ax = new_axes(ax, (7, 2.6))
    shares = np.array([[case.voxels[value] for value in CLASSES] for case in cases], float)
    brain = np.array([case.brain_voxels for case in cases], float)
    total, tumour = shares.sum(1), shares[:, 1:].sum(1)
    rows = [("outside the brain", "#BBBBBB", (total - brain) / total), ("healthy brain", "#888888", (brain - tumour) / total)]
    rows += [(CLASS_NAMES[value], CLASS_COLOURS[value], shares[:, value] / total) for value in CLASSES[1:]]
    names, colours, values = zip(*rows, strict=True)
    means = 100 * np.array([np.clip(value, 0, None).mean() for value in values])
    ax.barh(names, means, color=colours, edgecolor=INK, linewidth=0.5)
    for row, mean in enumerate(means):
        ax.text(max(mean, 0.01) * 1.15, row, f"{mean:.1f} %" if mean >= 1 else f"{mean:.2g} %", va="center")
    ax.set(xscale="log", xlim=(0.01, 400), xlabel="share of all voxels (%, logarithmic)", title="Class balance")
    ax.set_xticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    return ax


def show_volumes(volumes: pd.DataFrame | Sequence[CaseSummary], *, ax: Axes | None = None) -> Axes:
    """Volume of each region in ml, a dot a case over a box, on a logarithmic axis.

    Parameters
    ----------
    volumes : DataFrame or sequence of CaseSummary
        A frame has one row a case and the columns TC, WT and ET in ml. Cases without a region are counted in the text.
    ax : Axes, optional
    """
    ax = new_axes(ax, (7, 2.8))
    frame = volumes if isinstance(volumes, pd.DataFrame) else pd.DataFrame([case.volumes_ml for case in volumes])
    scatter = np.random.default_rng(0)
    for row, region in enumerate(REGIONS):
        values = frame[region].to_numpy(float)
        present = values[values > 0]
        if present.size >= 5:
            ax.boxplot(present, positions=[row], orientation="horizontal", widths=0.55, **_BOX)
        level = row + scatter.uniform(-0.14, 0.14, present.size)
        ax.scatter(present, level, s=22, color=REGION_COLOURS[region], edgecolor=INK, linewidth=0.5, zorder=3)
        absent = f"\n(absent in {values.size - present.size} of {values.size})" if present.size < values.size else ""
        ax.text(
            -0.02, row, f"{REGION_NAMES[region]} {region}{absent}", transform=ax.get_yaxis_transform(), ha="right", va="center"
        )
    ax.set(xscale="log", xlabel="volume (ml, logarithmic)", yticks=[], ylim=(len(REGIONS) - 0.5, -0.5), title="Tumour volumes")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    return ax


def show_intensities(cases: Sequence[CaseSummary]) -> Figure:
    """Intensity histograms inside and outside the whole tumour, by modality, summed over cases.

    Each case is first put on the scale of its own brain (mean 0, standard deviation 1): MRI has no units.
    """
    figure, axes = plt.subplots(1, 4, figsize=(10.4, 2.7), sharex=True, layout="constrained")
    centres = (INTENSITY_EDGES[1:] + INTENSITY_EDGES[:-1]) / 2
    shares = np.stack([case.intensities / np.maximum(case.intensities.sum(-1, keepdims=True), 1) for case in cases])
    has_tumour = np.array([case.volumes_ml["WT"] > 0 for case in cases])
    outside = shares[:, :, 0].mean(0)
    inside = shares[has_tumour][:, :, 1].mean(0) if has_tumour.any() else np.zeros_like(outside)
    for ax, modality, healthy, tumour in zip(axes, MODALITIES, outside, inside, strict=True):
        ax.fill_between(centres, healthy, color="#AAAAAA", alpha=0.8, linewidth=0, label="brain outside the tumour")
        ax.plot(centres, tumour, color="#D55E00", label="inside the whole tumour")
        ax.set(title=MODALITY_NAMES[modality], xlim=(-4, 5), yticks=[], ylim=(0, None))
        ax.spines["left"].set_visible(False)
    figure.supxlabel("standard deviations from the mean of the case's brain", fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def show_locations(cases: Sequence[CaseSummary]) -> Figure:
    """Where tumours sit: share of cases whose whole tumour lies on the line of sight through each point of the three planes.

    Brains are laid over each other by their bounding boxes, not registered; the outline is where half of the brains lie.
    """
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.5), layout="constrained")
    size = np.mean([case.size_mm for case in cases], axis=0)
    maps = {name: [np.mean([case.shadows[name][which] for case in cases], axis=0) for which in (0, 1)] for name in PLANES}
    most = max(tumour.max() for tumour, _ in maps.values()) * 100 or 1
    for ax, (name, plane) in zip(axes, PLANES.items(), strict=True):
        tumour, brain = (values[::-1, ::-1].T for values in maps[name])
        width, height = (size[axis] for axis in range(3) if axis != plane.axis)
        extent = (0, width, height, 0)
        heat = np.ma.masked_equal(tumour * 100, 0)
        drawn = ax.imshow(heat, extent=extent, cmap="inferno_r", vmin=0, vmax=most, aspect="equal")
        edges = [(np.arange(-1, n + 1) + 0.5) * mm / n for n, mm in zip(brain.shape[::-1], (width, height), strict=True)]
        ax.contour(*edges, np.pad(brain, 1), levels=[0.5], colors=[MUTED], linewidths=1.2)
        left, right, top, bottom = plane.marks
        ax.set(title=name, xticks=[], yticks=[], xlabel=bottom, xlim=(-6, width + 6), ylim=(height + 14, -6))
        ax.spines[:].set_visible(False)
        ax.text(0.5, 1.0, top, transform=ax.transAxes, ha="center", va="bottom")
        ax.text(0, 0.5, left, transform=ax.transAxes, ha="right", va="center")
        ax.text(1, 0.5, right, transform=ax.transAxes, ha="left", va="center")
        ax.plot([width - 50, width], [height + 4, height + 4], color=INK, linewidth=2, solid_capstyle="butt")
        ax.text(width - 25, height + 6, "50 mm", ha="center", va="top", fontsize=7)
    figure.colorbar(drawn, ax=axes, shrink=0.75, label=f"share of {len(cases)} cases (%)")
    return figure


def show_tumour_by_slice(cases: Sequence[CaseSummary], *, ax: Axes | None = None) -> Axes:
    """Tumour area in axial slices from the bottom to the top of the brain: mean over cases, and each case as a thin line."""
    ax = new_axes(ax, (7, 3))
    areas = np.stack([case.areas_cm2 for case in cases])
    levels = (np.arange(areas.shape[-1]) + 0.5) * 100 / areas.shape[-1]
    ax.plot(levels, areas[:, REGIONS.index("WT")].T, color="#BBBBBB", linewidth=0.8, zorder=1)
    for region in ("WT", "TC", "ET"):
        mean = areas[:, REGIONS.index(region)].mean(0)
        ax.fill_between(levels, mean, color=REGION_COLOURS[region], linewidth=0)
        ax.plot(levels, mean, color=INK, linewidth=0.8)
    empty = 100 * (areas[:, REGIONS.index("WT")] == 0).mean()
    patches = [plt.Rectangle((0, 0), 1, 1, facecolor=REGION_COLOURS[name], edgecolor=INK, linewidth=0.5) for name in REGIONS]
    thin = plt.Line2D([], [], color="#BBBBBB", linewidth=0.9)
    ax.legend([*patches, thin], [*(f"mean {REGION_NAMES[name]}" for name in REGIONS), "whole tumour of each case"], fontsize=9)
    ax.set(xlabel="level in the brain (%, 0 is the lowest slice)", ylabel="area (cm²)", xlim=(0, 100), ylim=(0, None))
    ax.set_title(f"{empty:.0f} % of the brain's slices hold no tumour")
    return ax


_BOX: Mapping[str, object] = {
    "showfliers": False,
    "boxprops": {"color": MUTED},
    "whiskerprops": {"color": MUTED},
    "capprops": {"color": MUTED},
    "medianprops": {"color": INK, "linewidth": 1.6},
}
