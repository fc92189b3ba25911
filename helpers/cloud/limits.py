"""What a request may be, and the error that says what is wrong with one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from helpers.data.cases import DataError
from helpers.data.resample import spacing_of

MB = 1024 * 1024
SHEAR = 0.1
"""Least volume of a voxel, as a share of the product of its edges: below it the axes of the grid nearly coincide."""


class BadRequest(DataError):
    """A request that cannot be answered: an HTTP status from 400 to 499 and one sentence for the caller."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """Bounds that keep one request from taking the memory or the time of the others.

    Attributes
    ----------
    body_mb : int
        Of the request as it is sent. SageMaker passes 25 MB to a real-time endpoint and 1,024 to an asynchronous one.
    unpacked_mb : int
        Of everything that the request unpacks to.
    members : int
        Entries of an archive.
    edge : int
        Voxels along one axis of a volume.
    voxels : int
        Voxels of one volume, as sent and on the grid of the network. A BraTS volume has 9 million.
    spacing : tuple of 2 float
        Shortest and longest edge of a voxel in mm.
    waiting : int
        Requests that wait while one is answered; whoever comes after them is sent away with 503.
    receive_seconds : float
        In which a body must have arrived.
    """

    body_mb: int = 25
    unpacked_mb: int = 512
    members: int = 64
    edge: int = 1024
    voxels: int = 32_000_000
    spacing: tuple[float, float] = (0.1, 20.0)
    waiting: int = 8
    receive_seconds: float = 60.0

    @property
    def body(self) -> int:
        """Bytes that a body may have."""
        return self.body_mb * MB

    @property
    def unpacked(self) -> int:
        """Bytes that a request may unpack to."""
        return self.unpacked_mb * MB


def limits_from(environment: Mapping[str, str] = os.environ) -> Limits:
    """The limits of this process, with ``SERVE_BODY_MB``, ``SERVE_UNPACKED_MB`` and ``SERVE_WAITING`` where they are set.

    An endpoint is configured through its environment, so that real-time and asynchronous ones share one image.
    """
    names = ("body_mb", "unpacked_mb", "waiting")
    given = {name: environment[f"SERVE_{name.upper()}"] for name in names if f"SERVE_{name.upper()}" in environment}
    for name, text in given.items():
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 10_000):
            raise DataError(f"SERVE_{name.upper()} is {text!r}; set a whole number from 1 to 9999")
    return Limits(**{name: int(text) for name, text in given.items()})


def check_volume(name: str, dtype: np.dtype, shape: Sequence[int], limits: Limits) -> None:
    """Refuse a volume by its header alone, before any memory is taken for its voxels.

    Raises
    ------
    BadRequest
        If it is not three-dimensional, too large, or not of numbers.
    """
    if len(shape) != 3:
        raise BadRequest(422, f"{name} has shape {_plain(shape)}; send one 3-D volume (X, Y, Z) for each modality")
    if not all(1 <= edge <= limits.edge for edge in shape) or np.prod(shape, dtype=np.float64) > limits.voxels:
        raise BadRequest(
            422,
            f"{name} has shape {_plain(shape)}; edges from 1 to {limits.edge} and {limits.voxels} voxels at most are possible",
        )
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise BadRequest(422, f"{name} holds {dtype}; send volumes of int16, or of another integer or float type")


def check_values(name: str, volume: np.ndarray) -> None:
    """Refuse a volume with NaN or infinite voxels."""
    if volume.dtype.kind == "f" and not np.isfinite(volume).all():
        count = int(volume.size - np.isfinite(volume).sum())
        raise BadRequest(422, f"{name} has {count} voxels that are NaN or infinite; replace them, by 0 outside the brain")


def check_affine(affine: np.ndarray, shape: Sequence[int], spacing: Sequence[float], limits: Limits) -> None:
    """Refuse a grid that is none, or that would be too large after resampling.

    Parameters
    ----------
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+.
    shape : sequence of 3 int
        Of the volume.
    spacing : sequence of 3 float
        In mm, to which the network's preparation resamples.
    limits : Limits
    """
    edges = spacing_of(affine) if np.isfinite(affine).all() else np.zeros(3)
    low, high = limits.spacing
    if not all(low <= edge <= high for edge in edges) or not np.abs(affine).max() < 1e5:
        raise BadRequest(
            422, f"the affine has voxel edges {_edges(edges)} mm; from {low:g} to {high:g} mm are possible, so check the affine"
        )
    if abs(np.linalg.det(affine[:3, :3])) < SHEAR * np.prod(edges) or np.abs(affine[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise BadRequest(422, "the affine does not map voxels to millimetres: two axes coincide or its last row is not 0 0 0 1")
    resampled = np.prod(np.asarray(shape) * np.maximum(edges / np.min(spacing), 1))
    if resampled > 4 * limits.voxels:
        raise BadRequest(
            422,
            f"the volume measures {_edges(np.asarray(shape) * edges)} mm, too much at {np.min(spacing):g} mm; "
            "crop it to the head or check the affine",
        )


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(edge) for edge in shape[:8])


def _edges(lengths: np.ndarray) -> str:
    return " x ".join(f"{length:.3g}" for length in lengths)
