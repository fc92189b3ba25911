"""An analytic abdomen: drawn, bent, blurred and given noise; every seed and number is another patient."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from glioma_phantom.draws import check_seed
from glioma_phantom.files import claim_folder, write_json, write_nifti
from glioma_phantom.organs import draw_bowel, draw_duodenum, draw_torso, draw_viscera
from glioma_phantom.solids import ORGANS, Canvas, make_space

__all__ = ["ORGANS", "CtPhantom", "CtPhantomSettings", "make_ct_phantom", "write_ct_phantoms"]

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
        """Refuse voxels that no organ would be seen with, and seeds below 0."""
        object.__setattr__(self, "seed", check_seed(self.seed))
        object.__setattr__(self, "spacing", tuple(float(edge) for edge in np.atleast_1d(self.spacing)))
        if len(self.spacing) != 3 or not all(0.5 <= edge <= 10 for edge in self.spacing):
            raise ValueError(f"spacing is {self.spacing}; give three voxel edges between 0.5 and 10 mm")


DEFAULTS = CtPhantomSettings()


@dataclass(frozen=True, eq=False)
class CtPhantom:
    """One patient who does not exist.

    Attributes
    ----------
    image : int16 array (X, Y, Z)
        Hounsfield units.
    labels : uint8 array (X, Y, Z)
        BTCV numbers 0 to 13 (`ORGANS`).
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
    cavity = draw_torso(canvas)
    draw_bowel(canvas, cavity)
    draw_viscera(canvas, cavity)
    draw_duodenum(canvas, cavity)
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


MANIFEST, LISTED = ".phantom.json", "dataset.json"


def write_ct_phantoms(folder: Path, count: int, settings: CtPhantomSettings = DEFAULTS, *, workers: int = 2) -> Path:
    """Write phantoms 1 to `count` as BTCV has its scans: imagesTr/img0001.nii.gz, labelsTr/label0001.nii.gz, dataset.json.

    Scans that exist are kept, so a second call costs nothing. `workers` phantoms are drawn at a time. Returns the folder.

    Raises `ValueError` if the folder holds phantoms of other settings.
    """
    folder = Path(folder)
    claim_folder(folder / MANIFEST, asdict(settings))
    with ThreadPoolExecutor(max(1, workers)) as pool:  # NumPy and the compression leave Python's lock
        listed = list(pool.map(partial(_write, folder, settings), range(1, count + 1)))
    labels = {str(number): name for number, name in enumerate(("background", *ORGANS))}
    write_json(folder / LISTED, {"labels": labels, "training": listed})
    return folder


def _write(folder: Path, settings: CtPhantomSettings, number: int) -> dict[str, str]:
    """Write one scan, its label map last: if that is there, the scan is complete. Returns its entry of the dataset JSON."""
    entry = {"image": f"imagesTr/img{number:04d}.nii.gz", "label": f"labelsTr/label{number:04d}.nii.gz"}
    if not (folder / entry["label"]).is_file():
        phantom = make_ct_phantom(number, settings)
        write_nifti(folder / entry["image"], phantom.image, phantom.affine)
        write_nifti(folder / entry["label"], phantom.labels, phantom.affine)
    return entry
