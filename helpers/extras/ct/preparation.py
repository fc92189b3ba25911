"""From a scan to an array for a network, and back: RAS, a Hounsfield window, foreground crop, one spacing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from helpers.data.cases import read_label_values, read_volume, same_affine
from helpers.data.resample import cropped_affine, ras_grid, regrid
from helpers.extras.ct.cohort import CtCase
from helpers.workspace import DataError


@dataclass(frozen=True)
class CtPreparation:
    """How scans are prepared; the defaults are those of the published BTCV experiments.

    Attributes
    ----------
    spacing : tuple of 3 float
        Voxel edges in mm along right, anterior, superior.
    window : tuple of 2 float
        Hounsfield units that become 0 and 1; what lies beyond is clipped.
    """

    spacing: tuple[float, float, float] = (1.5, 1.5, 2.0)
    window: tuple[float, float] = (-175.0, 250.0)

    def __post_init__(self) -> None:
        """Take lists for tuples, as a model card has them, and refuse what is no window or no grid."""
        for name, length in (("spacing", 3), ("window", 2)):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
            if len(getattr(self, name)) != length:
                raise DataError(f"{name} is {getattr(self, name)}", f"give {length} numbers")
        if not all(0 < edge < np.inf for edge in self.spacing):
            raise DataError(f"spacing is {self.spacing}", "give three positive numbers of millimetres")
        if not self.window[0] < self.window[1]:
            raise DataError(f"window is {self.window}", "give two Hounsfield units, the lower one first")


DEFAULTS = CtPreparation()


@dataclass(frozen=True, eq=False)
class PreparedCt:
    """A scan ready for a network.

    Attributes
    ----------
    identifier : str
    image : float16 array (1, X, Y, Z)
        0 to 1, orientation RAS.
    labels : uint8 array (X, Y, Z) or None
    affine, native_affine : float64 arrays (4, 4)
        Of this grid and of the files', from voxel indices to millimetres in RAS+.
    native_shape : tuple of 3 int
    """

    identifier: str
    image: np.ndarray
    labels: np.ndarray | None
    affine: np.ndarray
    native_affine: np.ndarray
    native_shape: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along X, Y and Z."""
        return self.image.shape[1:]

    def to_native(self, labels: np.ndarray) -> np.ndarray:
        """Take a label map on this grid to the grid of the files, by nearest neighbour; 0 outside the crop."""
        grid = {"to_shape": self.native_shape, "to_affine": self.native_affine}
        return np.ascontiguousarray(regrid(labels, self.affine, **grid))


def prepare_ct(case: CtCase, settings: CtPreparation = DEFAULTS) -> PreparedCt:
    """Read and prepare one scan; raises `DataError` if a file cannot be read or the labels lie in another grid."""
    image, affine = read_volume(case.image)
    labels = None
    if case.label is not None:
        labels, own = read_label_values(case.label)
        if labels.shape != image.shape or not same_affine(own, affine):
            raise DataError(f"case {case.identifier}: {case.label.name} has another grid than the image", "resample it to that")
    return prepare_arrays(image, affine, settings, labels=labels, identifier=case.identifier)


def prepare_arrays(
    image: np.ndarray,
    affine: np.ndarray,
    settings: CtPreparation = DEFAULTS,
    *,
    labels: np.ndarray | None = None,
    identifier: str = "",
) -> PreparedCt:
    """Prepare a scan in memory.

    The crop keeps what is brighter than the lower end of the window: the patient, without the air around. The image is
    interpolated linearly, labels take their nearest neighbour: between liver (6) and background (0) there is no stomach (7).

    Parameters
    ----------
    image : array (X, Y, Z)
        Hounsfield units, any grid; NaN counts as air.
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+.
    settings : CtPreparation
    labels : array (X, Y, Z), optional
        Whole numbers in the same grid.
    identifier : str
        Name for the errors and the result.

    Raises
    ------
    DataError
        If nothing is brighter than the lower end of the window.
    """
    low, high = settings.window
    image = np.nan_to_num(image, nan=low) if image.dtype.kind == "f" else image
    affine = np.asarray(affine, dtype=np.float64)
    box = _foreground(image > low, identifier, low)
    source = cropped_affine(affine, [part.start for part in box])
    shape, to_affine = ras_grid([part.stop - part.start for part in box], source, settings.spacing)
    grid = {"to_shape": shape, "to_affine": to_affine}
    values = regrid(image[box].astype(np.float32), source, **grid, mode="linear")
    scaled = np.clip((values - low) / (high - low), 0, 1).astype(np.float16)
    if labels is not None:
        labels = np.ascontiguousarray(regrid(labels[box].astype(np.uint8), source, **grid))
    return PreparedCt(identifier, np.ascontiguousarray(scaled)[None], labels, to_affine, affine, tuple(image.shape))


def _foreground(mask: np.ndarray, identifier: str, low: float) -> tuple[slice, ...]:
    """Box around the voxels of a mask."""
    box = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not len(used):
            raise DataError(f"case {identifier}: no voxel is above {low:g} Hounsfield units", "give a CT in Hounsfield units")
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)
