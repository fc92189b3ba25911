"""Find the brain: deepbet's networks, a mask of one's own, or what a stripped image leaves.

deepbet (MIT) ships its weights inside its PyPI package: nothing is downloaded, and `torch.jit.load` reads them as TorchScript
from that package's own folder, never from a path that a user gives.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from scan_session.errors import SessionError
from scan_session.grid import affine_of, array_of, image_of, read_nifti

LITRES = (0.5, 2.3)
"""Volumes that a brain, with its ventricles, may have."""


def extract_brain(image: sitk.Image) -> sitk.Image:
    """Find the brain in a T1 or T1ce image, skull on: a mask on its grid; `SessionError` if what is found is no brain."""
    mask = _deepbet(image)
    litres = float(mask.sum()) * np.prod(image.GetSpacing()) * 1e-6
    if not LITRES[0] <= litres <= LITRES[1]:
        problem = f"what looks like the brain has {litres:.2f} litres, which no whole brain has"
        raise SessionError(problem, "check that the series shows the whole head, or give a mask with --mask FILE")
    return image_of(mask.astype(np.uint8), affine_of(image))


def rough_brain(image: sitk.Image) -> sitk.Image:
    """Find the brain roughly, in an image of any contrast, by deepbet's first network on a grid of 128 x 128 x 128."""
    file = nib.as_closest_canonical(_nifti(image))
    volume = torch.from_numpy(np.ascontiguousarray(file.get_fdata(dtype=np.float32)))[None, None]
    small = torch.nn.functional.interpolate(volume, (128, 128, 128), mode="nearest-exact")
    low, high = small.quantile(0.005), small.quantile(0.995)
    small = ((small - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    small = 0.226 * (small - small.mean()) / small.std().clamp(min=1e-6) + 0.449  # as deepbet was trained
    with torch.inference_mode():
        probability = _networks().bbox_model(small)[:, 1:]
    found = torch.nn.functional.interpolate(probability, volume.shape[2:], mode="trilinear")[0, 0].numpy() > 0.5
    labels, count = ndimage.label(found)
    if count:
        found = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return sitk.Resample(image_of(found.astype(np.uint8), file.affine), image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)


def stripped_mask(image: sitk.Image, brain: sitk.Image) -> sitk.Image | None:
    """The mask of an image that is skull-stripped already; None if there is a skull, that is, much more head than `brain`.

    Background is the value of most of the border, which is 0 after most tools and a small constant after some.
    """
    values = array_of(image)
    border = np.concatenate([values.take(index, axis).ravel() for axis in range(3) for index in (0, -1)])
    numbers, counts = np.unique(border, return_counts=True)
    inside = ndimage.binary_fill_holes(values != numbers[counts.argmax()])
    known = max(1, int(array_of(brain).sum()))
    if counts.max() < 0.9 * border.size or not 0.7 < inside.sum() / known < 1.3:
        return None
    return image_of(inside.astype(np.uint8), affine_of(image))


def read_mask(path: Path, image: sitk.Image) -> sitk.Image:
    """Read a brain mask of one's own and put it on the grid of an image."""
    mask = read_nifti(path) > 0.5
    placed = sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
    if not array_of(placed).any():
        raise SessionError(f"the mask {path.name} lies outside the reference image", "give a mask drawn on that image")
    return placed


def overlap(one: sitk.Image, other: sitk.Image, transform: sitk.Transform) -> float:
    """Dice of two masks after one is moved, where both images have voxels."""
    moved = sitk.Resample(other, one, transform, sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
    seen = sitk.Resample(other * 0 + 1, one, transform, sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
    first, second = (array_of(mask) > 0 for mask in (one, moved))
    first = first & (array_of(seen) > 0)
    return float(2 * (first & second).sum() / max(1, first.sum() + second.sum()))


@functools.cache
def _networks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit
        from deepbet import BrainExtraction

        return BrainExtraction(no_gpu=True)


def _nifti(image: sitk.Image) -> nib.Nifti1Image:
    return nib.Nifti1Image(array_of(sitk.Cast(image, sitk.sitkFloat32)), affine_of(image))


def _deepbet(image: sitk.Image) -> np.ndarray:
    try:
        _, mask, _ = _networks().run(_nifti(image))
    except (AssertionError, ValueError):  # deepbet found no voxel of a brain
        return np.zeros(image.GetSize(), bool)
    return np.asarray(mask.dataobj) > 0
