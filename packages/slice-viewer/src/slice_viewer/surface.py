"""Surfaces of masks in three dimensions: a still with matplotlib, and one HTML file that turns, without a library or a network.

`surface_of` finds a surface by marching cubes, `draw_surfaces` draws several into matplotlib axes, and `write_surfaces` writes
the page. Lengths are millimetres in RAS+, so seen from the front the patient's right is on the left.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from scipy import ndimage
from skimage.measure import marching_cubes

LIGHT = np.array([0.35, 0.75, 0.55])
"""Direction towards the light for the still."""
TRIANGLES = 60_000
"""A surface with more is drawn on a coarser grid."""


@dataclass(frozen=True)
class Surface:
    """Triangles in millimetres.

    Attributes
    ----------
    name : str
    vertices : float32 array (N, 3)
        In RAS+ mm.
    faces : int32 array (M, 3)
        Indices of vertices, counter-clockwise seen from outside.
    colour : str
        As matplotlib knows it.
    opacity : float
        0 to 1.
    """

    name: str
    vertices: np.ndarray
    faces: np.ndarray
    colour: str
    opacity: float = 1.0

    @property
    def normals(self) -> np.ndarray:
        """Unit normal of every triangle, (M, 3), outwards."""
        first, second, third = np.moveaxis(self.vertices[self.faces], 1, 0)
        across = np.cross(second - first, third - first)
        return across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)


def surface_of(
    mask: np.ndarray, affine: np.ndarray, name: str, colour: str, *, opacity: float = 1.0, smooth: float = 1.0
) -> Surface:
    """Find the surface of a mask (X, Y, Z) by marching cubes.

    Parameters
    ----------
    mask : bool array (X, Y, Z)
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+.
    name, colour : str
        For the legend.
    opacity : float
        0 to 1.
    smooth : float
        Standard deviation in mm of the Gaussian that rounds the steps between voxels off; 0 keeps them.

    Raises
    ------
    ValueError
        If the mask is empty.
    """
    mask, affine = np.asarray(mask) > 0, np.asarray(affine, dtype=float)
    if not mask.any():
        raise ValueError(f"there is no voxel of {name}: an empty mask has no surface")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    inside = tuple(slice(max(0, low - 1), high + 2) for low, high in zip(*_corners(mask), strict=True))
    start = np.array([part.start for part in inside]) - 4
    volume = np.pad(mask[inside].astype(np.float32), 4)
    # A small structure would shrink away under the Gaussian, so the surface lies where it holds as many voxels as before.
    soft = ndimage.gaussian_filter(volume, smooth / spacing)
    count = int(mask.sum())
    level = float(np.partition(soft, (-count - 1, -count), axis=None)[[-count - 1, -count]].mean())
    level = np.clip(level, 1e-3, 0.999 * soft.max())
    step = 1
    vertices, faces, *_ = marching_cubes(soft, level)
    while len(faces) > TRIANGLES:
        step += 1
        vertices, faces, *_ = marching_cubes(soft, level, step_size=step)
    vertices = (vertices + start) @ affine[:3, :3].T + affine[:3, 3]
    if np.linalg.det(affine[:3, :3]) > 0:  # marching cubes winds its triangles the other way round
        faces = faces[:, ::-1]
    return Surface(name, vertices.astype(np.float32), faces.astype(np.int32), colour, opacity)


def _corners(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    voxels = np.argwhere(mask)
    return voxels.min(axis=0), voxels.max(axis=0)


def draw_surfaces(ax: Axes, surfaces: Sequence[Surface], *, azimuth: float = 130.0, elevation: float = 20.0) -> None:
    """Draw surfaces into 3-D axes, seen from `azimuth` (90 is the front, 0 the patient's right) and `elevation` in degrees."""
    ax.set_axis_off()
    ax.computed_zorder = False
    # matplotlib sorts triangles by depth within a collection only, so opaque surfaces, which hide each other, share one.
    for order, (_, group) in enumerate(groupby(sorted(surfaces, key=lambda one: -one.opacity), key=lambda one: one.opacity)):
        triangles, colours = [], []
        for surface in group:
            shade = 0.8 + 0.2 * np.clip(surface.normals @ (LIGHT / np.linalg.norm(LIGHT)), 0, 1)
            colours.append(np.c_[np.outer(shade, to_rgb(surface.colour)), np.full(len(shade), surface.opacity)])
            triangles.append(surface.vertices[surface.faces])
            ax.plot([], [], [], "s", color=surface.colour, alpha=max(0.4, surface.opacity), label=surface.name)
        drawn = {"facecolors": np.concatenate(colours), "linewidths": 0, "zorder": order}
        ax.add_collection3d(Poly3DCollection(np.concatenate(triangles), **drawn))
    points = np.concatenate([surface.vertices for surface in surfaces])
    middle, reach = (points.max(0) + points.min(0)) / 2, np.ptp(points, axis=0).max() / 2
    around, up = np.deg2rad([azimuth, elevation])
    towards_eye = np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)])
    for axis, letters in enumerate(("LR", "PA", "IS")):
        getattr(ax, f"set_{'xyz'[axis]}lim")(middle[axis] - reach, middle[axis] + reach)
        for side, letter in zip((-1, 1), letters, strict=True):
            place = middle + side * reach * np.eye(3)[axis]
            if abs(towards_eye[axis]) < 0.7:
                ax.text(*place, letter, color="0.4", ha="center", va="center", zorder=len(surfaces))
    ax.set_box_aspect((1, 1, 1), zoom=1.6)
    ax.view_init(elev=elevation, azim=azimuth)


def write_surfaces(path: Path | str, surfaces: Sequence[Surface], *, title: str = "Surfaces", note: str = "") -> Path:
    """Write surfaces as one HTML file that turns by itself, under the mouse and with the arrow keys; `note` stands below it."""
    points = np.concatenate([surface.vertices for surface in surfaces])
    middle, reach = (points.max(0) + points.min(0)) / 2, float(np.ptp(points, axis=0).max() / 2)
    scene = [
        {
            "name": surface.name,
            "colour": to_rgb(surface.colour),
            "opacity": surface.opacity,
            # 16 bits over the whole scene are a few micrometres.
            "vertices": _packed(np.rint((surface.vertices - middle) / reach * 32767), "<i2"),
            "faces": _packed(surface.faces, "<u4"),
        }
        for surface in sorted(surfaces, key=lambda one: -one.opacity)
    ]
    parts = {
        "title": html.escape(title),
        "note": html.escape(note),
        "scene": json.dumps(scene, allow_nan=False).replace("<", "\\u003c"),
    }
    template = Path(__file__).with_name("surface.html").read_text(encoding="utf-8")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(re.sub(r"\{\{ (\w+) \}\}", lambda match: parts[match[1]], template), encoding="utf-8")
    return path


def _packed(numbers: np.ndarray, kind: str) -> str:
    return base64.b64encode(numbers.astype(kind).tobytes()).decode()
