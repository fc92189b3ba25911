"""An analytic abdomen: drawn, bent, blurred and given noise; every seed and number is another patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from helpers.extras.ct.phantom.bowel import draw_bowel, draw_duodenum
from helpers.extras.ct.phantom.canvas import Canvas
from helpers.extras.ct.phantom.space import make_space
from helpers.extras.ct.phantom.torso import draw_torso
from helpers.extras.ct.phantom.viscera import draw_viscera
from helpers.workspace import DataError

FIELD: tuple[tuple[float, float], ...] = ((-186.0, 186.0), (-138.0, 126.0), (-92.0, 112.0))
"""What is drawn along x, y and z in mm: from below the kidneys to the base of the lungs."""


@dataclass(frozen=True)
class CtPhantomSettings:
    """How phantoms are drawn.

    Attributes
    ----------
    spacing : tuple of 3 float
        Voxel edges in mm; scanners have 0.6 to 1 mm within a slice and 1 to 5 mm between slices.
    noise : float
        Standard deviation in Hounsfield units.
    seed : int
        Same seed, settings and number, same patient.
    """

    spacing: tuple[float, float, float] = (1.5, 1.5, 3.0)
    noise: float = 13.0
    seed: int = 2021

    def __post_init__(self) -> None:
        """Refuse voxels that no organ would be seen with."""
        object.__setattr__(self, "spacing", tuple(float(edge) for edge in self.spacing))
        if len(self.spacing) != 3 or not all(0.5 <= edge <= 10 for edge in self.spacing):
            raise DataError(f"spacing is {self.spacing}", "give three voxel edges between 0.5 and 10 mm")


DEFAULTS = CtPhantomSettings()


@dataclass(frozen=True, eq=False)
class CtPhantom:
    """One patient who does not exist.

    Attributes
    ----------
    image : int16 array (X, Y, Z)
        Hounsfield units.
    labels : uint8 array (X, Y, Z)
        BTCV numbers 0 to 13 (`helpers.extras.ct.organs`).
    affine : float64 array (4, 4)
        From voxel indices to millimetres in RAS+.
    """

    image: np.ndarray
    labels: np.ndarray
    affine: np.ndarray


def make_ct_phantom(index: int, settings: CtPhantomSettings = DEFAULTS) -> CtPhantom:
    """Draw patient number `index`.

    The anatomy does not depend on the spacing: the same patient can be drawn coarse and fine. Organs are simple solids of
    plausible place, size and attenuation in the portal venous phase; they are drawn, not simulated from scanner physics.
    """
    generator = np.random.default_rng((settings.seed, index))
    axes = [np.arange(low + edge / 2, high, edge) for (low, high), edge in zip(FIELD, settings.spacing, strict=True)]
    scale = np.clip(generator.normal(1, 0.05, size=3), 0.9, 1.1) * np.clip(generator.normal(1, 0.03), 0.94, 1.06)
    space = make_space(axes, generator, scale=scale, bend=2.2)
    canvas = Canvas.blank(space, generator, edge=max(1.2, settings.spacing[0]))
    torso = draw_torso(canvas)
    draw_bowel(canvas, torso)
    draw_viscera(canvas, torso)
    draw_duodenum(canvas, torso)
    affine = np.diag([*settings.spacing, 1.0])
    affine[:3, 3] = [axis[0] for axis in axes]
    noisy = _scan(canvas.hounsfield, settings, np.random.default_rng((settings.seed, index, 1)))
    return CtPhantom(noisy, canvas.labels, affine)


def _scan(hounsfield: np.ndarray, settings: CtPhantomSettings, generator: np.random.Generator) -> np.ndarray:
    """Blur within the slice as a soft-tissue kernel does, and add noise that is grainy rather than white."""
    blurred = gaussian_filter(hounsfield, [0.8 / settings.spacing[0], 0.8 / settings.spacing[1], 0.3])
    grain = gaussian_filter(generator.standard_normal(hounsfield.shape, dtype=np.float32), [0.7, 0.7, 0])
    grain *= settings.noise / grain.std()
    return np.clip(np.rint(blurred + grain), -1024, 3071).astype(np.int16)
