"""Slices cut from the 3-D phantom, written in the dataset format of Kaggle LGG."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from glioma_phantom.contrast import MODALITIES
from glioma_phantom.generator import PhantomSettings, make_phantom

CHANNELS = ("t1", "flair", "t1ce")
"""Order of the channels of a slice."""
EDGE = 256
"""Pixels along either edge of a slice."""
WITHOUT: tuple[tuple[str, ...], ...] = ((), (), (), ("t1ce",), (), (), (), ("t1",))
"""Channels that patient n, n + 8, ... lacks; as published, a copy of FLAIR stands in their place."""


def write_phantom_slices(
    folder: Path, count: int, settings: PhantomSettings | None = None, *, every: float = 8.0
) -> list[Path]:
    """Write phantom patients to ``<folder>/kaggle_3m``; patients that are there already are kept.

    Parameters
    ----------
    folder : Path
        Where the cohort goes.
    count : int
        Number of patients.
    settings : PhantomSettings
        Spacing and seed of the phantoms; 2 mm by default.
    every : float
        Millimetres between slices, on average if no multiple of the spacing; the published ones lie 1 to 7 mm apart.

    Returns
    -------
    list of Path
        Folder of every patient.
    """
    settings = settings or PhantomSettings(spacing=2.0)
    root = Path(folder) / "kaggle_3m"
    return [_write_patient(root, index, settings, every) for index in range(count)]


def _write_patient(root: Path, index: int, settings: PhantomSettings, every: float) -> Path:
    """One patient, complete or absent."""
    name = f"TCGA_PH_{settings.seed}{settings.spacing:g}{every:g}_{index:04d}"
    target, aside = root / name, root / f".{name}"
    if target.is_dir():
        return target
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    phantom = make_phantom(index, settings)
    image = np.stack([_to_bytes(phantom.image[MODALITIES.index(name)]) for name in CHANNELS], axis=-1)
    for channel in WITHOUT[index % len(WITHOUT)]:
        image[..., CHANNELS.index(channel)] = image[..., CHANNELS.index("flair")]
    places = np.arange(0, image.shape[2], max(1, every / settings.spacing)).astype(int)
    depths = [z for z in places if image[:, :, z].any()]
    for number, depth in enumerate(depths, start=1):
        picture = Image.fromarray(np.ascontiguousarray(image[:, :, depth].swapaxes(0, 1)))
        mask = Image.fromarray((phantom.classes[:, :, depth] > 0).T.astype(np.uint8) * 255)
        picture.resize((EDGE, EDGE), Image.Resampling.BILINEAR).save(aside / f"{name}_{number}.tif")
        mask.resize((EDGE, EDGE), Image.Resampling.NEAREST).save(aside / f"{name}_{number}_mask.tif")
    return aside.replace(target)


def _to_bytes(volume: np.ndarray) -> np.ndarray:
    """A volume as uint8: 0 stays 0, the 99.5th percentile of the rest becomes 255."""
    inside = volume[volume > 0]
    top = float(np.percentile(inside, 99.5)) if inside.size else 1.0
    return (volume / top * 255).clip(0, 255).astype(np.uint8)
