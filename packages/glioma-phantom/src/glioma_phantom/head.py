"""Draw a head around a phantom's brain: fluid, skull, fat, muscle, eyes and air, so that a skull strip has work to do.

The skull follows the brain at a distance that varies smoothly; face, neck and spinal cord are ellipsoids and tubes. It is a
head for tools and for teaching, not anatomy to measure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from glioma_phantom.contrast import MODALITIES
from glioma_phantom.draws import Box, Draws
from glioma_phantom.generator import Phantom

TISSUES = ("air", "fluid", "bone", "marrow", "fat", "muscle", "eye", "cord")
BRIGHTNESS = {
    "t1": (0.03, 0.45, 0.10, 0.80, 1.60, 0.65, 0.40, 1.00),
    "t1ce": (0.03, 0.45, 0.10, 0.90, 1.65, 0.80, 0.42, 1.00),
    "t2": (0.03, 1.90, 0.12, 0.55, 1.00, 0.45, 2.10, 0.80),
    "flair": (0.03, 0.40, 0.12, 0.55, 0.80, 0.60, 0.40, 0.95),
}
"""Brightness of each tissue, relative to the median of the brain."""
BELOW, ABOVE = 56, 20
"""Millimetres by which the field of view of BraTS grows downwards and upwards to hold the neck and the vertex."""
STEP = 2.0
"""Spacing in mm at which shapes are drawn."""


@dataclass(frozen=True)
class Head:
    """A head in the axes of its phantom.

    Attributes
    ----------
    tissue : uint8 array (X, Y, Z)
        Index into `TISSUES`; 0 in air and in the brain.
    phantom : Phantom
        The brain.
    affine : float64 array (4, 4)
        From voxel indices to millimetres in RAS+, the millimetres of the phantom.
    middle : float64 array (3,)
        Middle of the brain in those millimetres.
    """

    tissue: np.ndarray
    phantom: Phantom
    affine: np.ndarray
    middle: np.ndarray

    def volume(self, modality: str) -> np.ndarray:
        """Brain and head as one float32 volume (X, Y, Z), about 1 in white matter."""
        image = self.phantom.image[MODALITIES.index(modality)]
        below = round(BELOW / self.affine[2, 2])
        brain = np.zeros(self.tissue.shape, np.float32)
        brain[:, :, below : below + image.shape[2]] = image
        brain /= np.median(image[image > 0]).astype(np.float32)
        return np.where(brain > 0, brain, np.float32(BRIGHTNESS[modality])[self.tissue])


def draw_head(phantom: Phantom, draws: Draws) -> Head:
    """Draw skull, scalp, face and neck around a phantom's brain."""
    spacing = float(phantom.affine[2, 2])
    below, above = round(BELOW / spacing), round(ABOVE / spacing)
    brain = np.pad(phantom.image[0] > 0, ((0, 0), (0, 0), (below, above)))
    affine = phantom.affine.copy()
    affine[2, 3] -= below * spacing
    skip = max(1, round(STEP / spacing))
    coarse = brain[::skip, ::skip, ::skip]
    step = skip * spacing
    shapes = _shapes(coarse, step, draws)
    whole = [n * skip for n in coarse.shape]
    fields = {name: _refine(field, whole)[tuple(slice(n) for n in brain.shape)] for name, field in shapes.items()}
    tissue = _tissues(fields)
    tissue[brain] = 0
    middle = affine[:3, :3] @ np.mean([np.argwhere(coarse).min(0), np.argwhere(coarse).max(0)], axis=0) * skip + affine[:3, 3]
    return Head(tissue, phantom, affine, middle)


def _shapes(brain: np.ndarray, step: float, draws: Draws) -> dict[str, np.ndarray]:
    """Signed distances in mm, negative inside: from the brain without its sulci, and from what lies around it."""
    closed = ndimage.binary_closing(np.pad(brain, 8), iterations=round(8 / step))[8:-8, 8:-8, 8:-8]
    depth = ndimage.distance_transform_edt(~closed, sampling=step).astype(np.float32)
    box = Box((0, 0, 0), brain.shape, step)
    depth *= 1 + 0.12 * draws.field(box, 45.0)[0].numpy()
    low, high = (np.array(edge(np.argwhere(brain), axis=0)) * step for edge in (np.min, np.max))
    x, y, z = (axis * step for axis in np.ogrid[tuple(slice(n) for n in brain.shape)])
    middle, bottom = (low[0] + high[0]) / 2, low[2]

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        scaled = sum(((axis - c) / r) ** 2 for axis, c, r in zip((x, y, z), centre, radii, strict=True))
        return ((np.sqrt(scaled) - 1) * min(radii)).astype(np.float32)

    def tube(y_centre: float, top: float, radii: tuple[float, float]) -> np.ndarray:
        side = (np.sqrt(((x - middle) / radii[0]) ** 2 + ((y - y_centre) / radii[1]) ** 2) - 1) * min(radii)
        return np.maximum(side, z - top).astype(np.float32)

    front, stem = low[1], _stem(brain, step)
    face = ellipsoid((middle, front + 28, bottom - 12), (62, 52, 74))
    nose = ellipsoid((middle, front - 18, bottom - 18), (13, 16, 22))
    neck = tube(stem + 8, bottom + 25, (56, 62))
    eyes = [ellipsoid((middle + side, front - 2, bottom + 12), (12, 12, 12)) for side in (-32, 32)]
    return {
        "depth": depth,
        "skin": np.minimum.reduce([depth - 13, face, nose, neck]),
        "cavity": np.minimum(
            ellipsoid((middle, front + 22, bottom - 22), (16, 30, 26)), tube(front + 62, bottom - 30, (11, 8))
        ),
        "eyes": np.minimum(*eyes),
        "cord": tube(stem, bottom + 1, (6.5, 6.5)),
    }


def _stem(brain: np.ndarray, step: float) -> float:
    """Where the brain stem leaves the brain, in mm along the axis towards the back."""
    lowest = np.flatnonzero(brain.any(axis=(0, 1)))[0]
    return float(np.argwhere(brain[:, :, lowest])[:, 1].mean() * step)


def _refine(field: np.ndarray, shape: list[int]) -> np.ndarray:
    if list(field.shape) == shape:
        return field
    return F.interpolate(torch.from_numpy(field)[None, None], size=shape, mode="trilinear")[0, 0].numpy()


def _tissues(fields: dict[str, np.ndarray]) -> np.ndarray:
    """Tissue of every voxel, drawn from the outside inwards."""
    depth, skin, cord = fields["depth"], fields["skin"], fields["cord"]
    names = {name: number for number, name in enumerate(TISSUES)}
    tissue = np.zeros(depth.shape, np.uint8)
    tissue[skin < 0] = names["fat"]
    tissue[skin < -4.5] = names["muscle"]
    tissue[fields["cavity"] < 0] = names["air"]
    tissue[fields["eyes"] < 0] = names["eye"]
    layers = (("fat", 12), ("bone", 8.5), ("marrow", 6.5), ("bone", 4.5), ("fluid", 2.5))
    for name, outside in layers:
        tissue[depth < outside if name != "fat" else (depth < outside) & (skin > -4.5)] = names[name]
    for name, outside in (("bone", 10), ("fluid", 4)):
        tissue[(cord < outside) & (depth > 2.5)] = names[name]
    tissue[cord < 0] = names["cord"]
    return tissue
