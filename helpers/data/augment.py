"""Random changes to training patches, composed of MONAI transforms.

A sample is a dictionary: ``image`` float32 (4, X, Y, Z), normalised and exactly 0 outside the brain, and ``label`` uint8
(1, X, Y, Z) holding classes. Classes are moved rather than regions because one channel is cheaper than three.

Background: prediction always sees exactly 0 outside the brain, and so must training. Noise, gain, offset and contrast would
lift the background away from 0, and the network would learn a cue that real images do not have; hence these changes apply
inside the brain only (`InsideBrain`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandFlipd,
    RandGaussianNoised,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Transform,
)

KEYS = ("image", "label")

Sample = Mapping[Hashable, torch.Tensor]


class InsideBrain(Compose):
    """Apply transforms to ``image`` and set every voxel back to 0 that was 0 before, channel by channel."""

    def __call__(self, data: Sample, *arguments, **options) -> dict:
        background = data["image"] == 0
        changed = super().__call__(data, *arguments, **options)
        return {**changed, "image": changed["image"].masked_fill(background, 0)}


def augmentations(*, always: bool = False) -> dict[str, Transform]:
    """Every random change by name, each usable alone, in the order in which `training_transforms` applies them.

    Parameters
    ----------
    always : bool
        Apply each change with probability 1, for a preview of what it does alone; otherwise with the probabilities of
        training.
    """
    return {**_movements(always), **{name: InsideBrain([change]) for name, change in _intensity_changes(always).items()}}


def training_transforms(patch: Sequence[int], *, mirrors: Sequence[int] = (0, 1, 2)) -> Compose:
    """All of `augmentations` composed, masking the background once; seed it with ``set_random_state``.

    Parameters
    ----------
    patch : sequence of 3 int
        Edges of the patches in voxels. Rotation within the axial plane is left out where the first two differ, as it
        would change the shape.
    mirrors : sequence of int
        Axes along which patches are mirrored. Without the first two there is no rotation either: a network that is to rely on
        how the patient lies must not be turned.
    """
    *flips, rotation = _movements(always=False).values()
    movements = [flips[axis] for axis in mirrors]
    if patch[0] == patch[1] and {0, 1} <= set(mirrors):
        movements.append(rotation)
    return Compose([*movements, InsideBrain(list(_intensity_changes(always=False).values()))])


def _movements(always: bool) -> dict[str, Transform]:
    flips = {
        f"{direction} flip": RandFlipd(KEYS, prob=1.0 if always else 0.5, spatial_axis=axis)
        for axis, direction in enumerate(("left-right", "front-back", "up-down"))
    }
    rotation = RandRotate90d(KEYS, prob=1.0 if always else 0.3, max_k=3, spatial_axes=(0, 1))
    return {**flips, "rotation by 90 degrees": rotation}


def _intensity_changes(always: bool) -> dict[str, Transform]:
    """Gains, offsets and noise are in units of a z-scored image, where 1 is the standard deviation inside the brain."""
    often, rarely = (1.0, 1.0) if always else (0.5, 0.15)
    return {
        "Gaussian noise": RandGaussianNoised("image", prob=rarely, std=0.15),
        "intensity scale": RandScaleIntensityd("image", factors=0.1, prob=often, channel_wise=True),
        "intensity shift": RandShiftIntensityd("image", offsets=0.1, prob=often, channel_wise=True),
        "contrast": RandAdjustContrastd("image", prob=rarely, gamma=(0.7, 1.5)),
    }
