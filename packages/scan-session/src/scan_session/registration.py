"""Rigid registration by mutual information, from several starts, and how well the result fits.

Two series of one head differ by a rigid movement. The search is repeated from several positions and angles on a coarse grid, so
that one that was laid differently on the scanner's table, or lost its position in a conversion, is found as well.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

COARSE_MM = 5.0
"""Grid of the search for a start."""
ANGLES = np.deg2rad(15)
"""Start rotations, each way about each axis; the coarse search covers what lies between and beyond."""
KEPT = 3
"""Starts that are followed."""
FINE_MM = 2.0
"""Grid of the fixed image in the last search, which the moving image meets at its own resolution, to 1 mm."""
NEAR_MM = 25.0
"""The last search looks at the brain and this far around it: skull and scalp move with the brain and have the sharpest edges,
jaw and neck move by themselves."""
SAMPLES = 60_000
"""Voxels that one step of the optimiser looks at."""


@dataclass(frozen=True)
class Registration:
    """A rigid movement and its measures.

    Attributes
    ----------
    transform : Transform
        From points of the fixed image to points of the moving one (LPS mm), as `SimpleITK.Resample` wants it.
    information_before, information_after : float
        Mutual information (in nats) of the two images in the fixed brain, at the scanner's positions and registered.
    shift_mm : float
        Mean movement of a point in the brain.
    rotation_degrees : float
    """

    transform: sitk.Transform
    information_before: float
    information_after: float
    shift_mm: float
    rotation_degrees: float


def register(fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image | None = None) -> Registration:
    """Find the rigid movement between two series of one head.

    Parameters
    ----------
    fixed, moving : Image
        Skull on or off, each in its own grid.
    mask : Image, optional
        The brain in the fixed image: the last search looks only there and around it (`NEAR_MM`).
    """
    fixed, moving = sitk.Cast(fixed, sitk.sitkFloat32), sitk.Cast(moving, sitk.sitkFloat32)
    fine_fixed, fine_moving = _reduced(fixed, FINE_MM), _reduced(moving, 1)
    start = _coarse(_reduced(fine_fixed, COARSE_MM), _reduced(moving, COARSE_MM))
    method = _method(fine_fixed, None if mask is None else _near(_like(mask, fine_fixed)), SAMPLES)
    method.SetOptimizerAsRegularStepGradientDescent(0.5, 1e-3, 150, relaxationFactor=0.6)
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1, 0])
    method.SetInitialTransform(start, inPlace=False)
    try:
        found = sitk.Euler3DTransform(method.Execute(fine_fixed, fine_moving).GetBackTransform())
    except RuntimeError:  # fewer slices than ITK's filters need, or no overlap: the measures tell
        found = start
    shift, rotation = movement(found, mask if mask is not None else fixed > 0)
    before, after = (information(fine_fixed, moving, each, mask) for each in (sitk.Euler3DTransform(), found))
    return Registration(found, before, after, shift, rotation)


def information(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform, mask: sitk.Image | None = None) -> float:
    """Mutual information in nats of two images under a transform, from their joint histogram of 48 x 48 on a 2 mm grid.

    It is 0 if they share too few voxels, or less than half of the mask: the fewer voxels, the larger the information of noise.
    """
    grid = _reduced(fixed, 2)
    moved = sitk.GetArrayFromImage(sitk.Resample(moving, grid, transform, sitk.sitkLinear, np.nan, sitk.sitkFloat32))
    inside, least = np.isfinite(moved), 1000.0
    if mask is not None:
        brain = sitk.GetArrayFromImage(_like(mask, grid)) > 0
        inside, least = inside & brain, max(least, brain.sum() / 2)
    if inside.sum() < least:
        return 0.0
    pair = [_ranked(values[inside]) for values in (sitk.GetArrayViewFromImage(grid), moved)]
    joint = np.histogram2d(*pair, bins=48)[0] / inside.sum()
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return float((joint[joint > 0] * np.log(joint[joint > 0] / apart[joint > 0])).sum())


def movement(transform: sitk.Transform, mask: sitk.Image) -> tuple[float, float]:
    """Mean distance in mm by which a transform moves the voxels of a mask, and its rotation in degrees."""
    voxels = np.argwhere(sitk.GetArrayViewFromImage(mask))
    some = voxels[:: max(1, len(voxels) // 200)]
    points = [mask.TransformIndexToPhysicalPoint(index[::-1].tolist()) for index in some]
    steps = [np.subtract(transform.TransformPoint(point), point) for point in points]
    matrix = np.reshape(sitk.Euler3DTransform(transform).GetMatrix(), (3, 3))
    angle = np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1))
    return float(np.linalg.norm(steps, axis=1).mean()) if steps else 0.0, float(np.rad2deg(angle))


def _coarse(fixed: sitk.Image, moving: sitk.Image) -> sitk.Euler3DTransform:
    """The best of several searches on coarse images: the scanner's positions, both centres, and turned each way."""
    method = _method(fixed, None, 8000)
    method.SetOptimizerAsRegularStepGradientDescent(4.0, 0.05, 60, relaxationFactor=0.6)
    initializer = sitk.CenteredTransformInitializerFilter
    middle = fixed.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in fixed.GetSize()])
    still = sitk.Euler3DTransform()
    still.SetCenter(middle)
    starts = [still]
    for kind in (initializer.MOMENTS, initializer.GEOMETRY):
        starts.append(sitk.Euler3DTransform(sitk.CenteredTransformInitializer(fixed, moving, sitk.Euler3DTransform(), kind)))
    turned = [still, *starts[1:2]]
    for start, axis, angle in itertools.product(turned, range(3), (-ANGLES, ANGLES)):
        angles = [0.0, 0.0, 0.0]
        angles[axis] = float(angle)
        copy = sitk.Euler3DTransform(start)
        copy.SetRotation(*angles)
        starts.append(copy)

    def cost(transform: sitk.Transform) -> float:
        method.SetInitialTransform(transform, inPlace=False)
        try:
            return method.MetricEvaluate(fixed, moving)
        except RuntimeError:  # the two do not overlap
            return 0.0

    def search(start: sitk.Transform) -> sitk.Euler3DTransform:
        method.SetInitialTransform(start, inPlace=False)
        try:
            return sitk.Euler3DTransform(method.Execute(fixed, moving).GetBackTransform())
        except RuntimeError:
            return sitk.Euler3DTransform(start)

    return min((search(start) for start in sorted(starts, key=cost)[:KEPT]), key=cost)


def _method(fixed: sitk.Image, mask: sitk.Image | None, samples: int) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(min(1.0, samples / np.prod(fixed.GetSize())), seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerScalesFromPhysicalShift()
    if mask is not None:
        method.SetMetricFixedMask(mask)
    return method


def _reduced(image: sitk.Image, edge: float) -> sitk.Image:
    """An image smoothed and resampled, axis by axis, to voxels of at least `edge` mm; larger or few ones stay as they are."""
    for axis, spacing in enumerate(image.GetSpacing()):
        if spacing >= edge * 0.99 or image.GetSize()[axis] < 4:  # of which ITK's Gaussian needs four
            continue
        smooth = sitk.RecursiveGaussian(image, sigma=edge / 2.5, direction=axis) if edge > spacing * 1.01 else image
        size, edges, first = list(image.GetSize()), list(image.GetSpacing()), [0.0, 0.0, 0.0]
        size[axis] = max(1, round(size[axis] * spacing / edge))
        edges[axis] = edge
        first[axis] = (edge / spacing - 1) / 2
        origin = image.TransformContinuousIndexToPhysicalPoint(first)
        image = sitk.Resample(smooth, size, sitk.Transform(), sitk.sitkLinear, origin, edges, image.GetDirection(), 0.0)
    return image


def _like(mask: sitk.Image, grid: sitk.Image) -> sitk.Image:
    return sitk.Resample(mask, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)


def _near(mask: sitk.Image) -> sitk.Image:
    return sitk.SignedMaurerDistanceMap(mask, insideIsPositive=False, squaredDistance=False, useImageSpacing=True) < NEAR_MM


def _ranked(values: np.ndarray) -> np.ndarray:
    return np.clip(values, *np.percentile(values, (0.5, 99.5)))
