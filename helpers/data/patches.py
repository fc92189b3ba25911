"""One training patch out of a case: where it lies, what is in it and how it is changed at random."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
import torch

from brats_cohort.regions import REGIONS, classes_to_regions
from helpers.data.monai_first import transforms as mt
from helpers.data.prepared import Prepared, PreparedFile


def draw_patch(
    case: Prepared | PreparedFile,
    generator: np.random.Generator,
    *,
    patch: Sequence[int],
    foreground_probability: float,
    transforms: Callable | None = None,
) -> dict[str, torch.Tensor]:
    """Draw one patch of a case: ``image`` float32 (4, X, Y, Z) and ``regions`` bool (3, X, Y, Z).

    `generator` decides the place (`draw_centre`) and seeds `transforms`, such as `training_transforms`; `patch` are edges in
    voxels.
    """
    slices = patch_slices(case.shape, draw_centre(case, generator, foreground_probability), patch)
    image = pad_patch(case.image_patch(slices), patch)
    classes = pad_patch(case.classes_patch(slices)[None], patch)
    sample = {"image": torch.from_numpy(image.astype(np.float32)), "label": torch.from_numpy(classes)}
    if transforms is not None:
        transforms.set_random_state(seed=int(generator.integers(2**32)))
        sample = transforms(sample)
    image, classes = (torch.as_tensor(sample[key]) for key in ("image", "label"))
    image, classes = (tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor for tensor in (image, classes))
    return {"image": image, "regions": classes_to_regions(classes[0])}


def draw_centre(
    case: Prepared | PreparedFile, generator: np.random.Generator, foreground_probability: float
) -> tuple[int, int, int]:
    """Draw the voxel that a patch is to lie around.

    With probability `foreground_probability` it is one of TC, WT or ET, each equally often (of those that the case has), so
    that the small enhancing tumour is not drowned by oedema; otherwise any voxel of the brain.
    """
    if generator.random() < foreground_probability:
        present = [voxels for region in REGIONS if len(voxels := case.voxels_of(region))]
        voxels = present[generator.integers(len(present))] if present else case.voxels_of("brain")
    else:
        voxels = case.voxels_of("brain")
    return tuple(voxels[generator.integers(len(voxels))].tolist())


def patch_slices(shape: Sequence[int], centre: Sequence[int], patch: Sequence[int]) -> tuple[slice, slice, slice]:
    """Place a patch around a voxel and push it inside the volume; along an axis shorter than the patch, take all of it."""
    slices = []
    for length, middle, edge in zip(shape, centre, patch, strict=True):
        start = min(max(middle - edge // 2, 0), max(length - edge, 0))
        slices.append(slice(start, min(start + edge, length)))
    return tuple(slices)


def pad_patch(array: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """Pad the last three axes with 0 to the size of the patch, equally on both sides, as prediction pads small volumes."""
    missing = [edge - length for edge, length in zip(patch, array.shape[-3:], strict=True)]
    if not any(missing):
        return array
    return np.pad(array, [(0, 0)] * (array.ndim - 3) + [(gap // 2, gap - gap // 2) for gap in missing])


KEYS = ("image", "label")


class InsideBrain(mt.Compose):
    """Apply transforms to ``image`` and set every voxel back to 0 that was 0 before, channel by channel."""

    def __call__(self, data: Mapping[Hashable, torch.Tensor], *arguments, **options) -> dict:
        background = data["image"] == 0
        changed = super().__call__(data, *arguments, **options)
        return {**changed, "image": changed["image"].masked_fill(background, 0)}


def training_transforms(patch: Sequence[int], *, flip_axes: Sequence[int] = (0, 1, 2)) -> mt.Compose:
    """Compose the random changes of training; seed them with ``set_random_state``.

    Gains, offsets and noise are in units of a z-scored image. Patches are flipped along `flip_axes` and rotated within the
    axial plane, unless the first two edges of `patch` differ, or there are no flips along the first two axes: a network that
    is to rely on how the patient lies must not be turned.
    """
    movements = [mt.RandFlipd(KEYS, prob=0.5, spatial_axis=axis) for axis in flip_axes]
    if patch[0] == patch[1] and {0, 1} <= set(flip_axes):
        movements.append(mt.RandRotate90d(KEYS, prob=0.3, max_k=3, spatial_axes=(0, 1)))
    intensities = [
        mt.RandGaussianNoised("image", prob=0.15, std=0.15),
        mt.RandScaleIntensityd("image", factors=0.1, prob=0.5, channel_wise=True),
        mt.RandShiftIntensityd("image", offsets=0.1, prob=0.5, channel_wise=True),
        mt.RandAdjustContrastd("image", prob=0.15, gamma=(0.7, 1.5)),
    ]
    return mt.Compose([*movements, InsideBrain(intensities)])
