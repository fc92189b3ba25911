"""Read and check a cohort of slices in the Kaggle LGG format, and tell the patient from the air around.

``kaggle_3m/<patient>/<patient>_<n>.tif`` holds 256 x 256 pixels in three channels: T1 before contrast agent, FLAIR, T1 after
contrast agent; ``<patient>_<n>_mask.tif`` is 255 where FLAIR is abnormal. If a patient lacks one of the T1 images, the
publishers put FLAIR in its place (README of the data set; Buda et al. 2019, doi:10.1016/j.compbiomed.2019.05.002). Nothing in
a file says so; `check_slices` finds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import binary_fill_holes, binary_opening

from brats_cohort.case import fault_of
from brats_cohort.files import DataError
from glioma_phantom.slices import CHANNELS, EDGE

_SLICE = re.compile(r"(?P<patient>.+)_(?P<number>\d+)\.tiff?", re.IGNORECASE)


@dataclass(frozen=True)
class SliceFile:
    """One slice: its patient, its number in the head from below, its image and its mask."""

    patient: str
    number: int
    image: Path
    mask: Path


@dataclass(frozen=True)
class SliceFacts:
    """Slices of one patient, those with tumour, tumour's share of the pixels of tissue, and channels that repeat FLAIR."""

    slices: int
    with_tumour: int
    tumour_share: float
    missing: tuple[str, ...]


def find_slices(folder: Path | str) -> dict[str, list[SliceFile]]:
    """Find the slices of every patient, both in order, in the patients' folder or the one that holds it as ``kaggle_3m``.

    Raises `DataError` if the folder does not exist or holds no slice.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"the cohort folder {folder} does not exist", "give the folder that holds kaggle_3m")
    root = folder / "kaggle_3m" if (folder / "kaggle_3m").is_dir() else folder
    found: dict[str, list[SliceFile]] = {}
    for path in sorted(root.glob("*/*")):
        match = _SLICE.fullmatch(path.name)
        if match:
            mask = path.with_name(f"{path.stem}_mask{path.suffix}")
            found.setdefault(match["patient"], []).append(SliceFile(match["patient"], int(match["number"]), path, mask))
    if not found:
        raise DataError(f"{root} holds no slice <patient>/<patient>_<n>.tif", "give the folder that holds kaggle_3m")
    return {patient: sorted(slices, key=lambda each: each.number) for patient, slices in found.items()}


def read_patient(slices: Sequence[SliceFile]) -> tuple[np.ndarray, np.ndarray]:
    """Read all slices of a patient: images uint8 (N, 3, 256, 256), channels as in `CHANNELS`, and masks bool (N, 256, 256).

    Raises `DataError` if a file is missing or damaged, or has another size, data type or number of channels.
    """
    images = np.stack([_read(file.image, file.patient, (EDGE, EDGE, len(CHANNELS))) for file in slices])
    masks = np.stack([_read(file.mask, file.patient, (EDGE, EDGE)) for file in slices]) > 0
    return np.ascontiguousarray(np.moveaxis(images, -1, 1)), masks


def check_slices(patients: Mapping[str, Sequence[SliceFile]]) -> tuple[dict[str, SliceFacts], list[str]]:
    """Read every slice: facts of the patients that can be used, and one sentence for each that cannot.

    Raises `DataError` if no patient can be used.
    """
    facts, faults = {}, []
    for patient, slices in patients.items():
        try:
            facts[patient] = _check_patient(slices)
        except Exception as error:  # of whatever kind: one bad patient stops no other
            faults.append(str(fault_of(patient, error)))
    if faults and not facts:
        raise DataError(f"none of {len(faults)} patients can be used, for example {faults[0]}", "correct their files")
    return facts, faults


def find_air(images: np.ndarray) -> np.ndarray:
    """Estimate up to which value each channel of slices uint8 (N, C, Y, X) is air: float64 (C,).

    The air around a patient is not black in MRI: it holds noise, a few per cent of what tissue has, and the published slices
    keep it. A tenth of what 99 % of a channel's pixels stay below separates the two.
    """
    return 0.1 * np.quantile(images, 0.99, axis=(0, 2, 3))


def find_tissue(images: np.ndarray, air: np.ndarray) -> np.ndarray:
    """Find the patient on slices uint8 (N, C, Y, X): bool (N, Y, X).

    A pixel is tissue if any channel exceeds its value of `air` (`find_air`); single bright pixels of noise are left out, and
    dark pixels that tissue encloses, such as fluid and bone, are kept.
    """
    bright = (images > np.asarray(air)[:, None, None]).any(axis=1)
    opened = binary_opening(bright, structure=np.ones((1, 3, 3), bool))
    return np.stack([binary_fill_holes(mask) for mask in opened])


def _check_patient(slices: Sequence[SliceFile]) -> SliceFacts:
    images, masks = read_patient(slices)
    channels = dict(zip(CHANNELS, images.swapaxes(0, 1), strict=True))
    missing = tuple(name for name in CHANNELS if name != "flair" and np.array_equal(channels[name], channels["flair"]))
    inside = int(find_tissue(images, find_air(images)).sum())
    if not inside:
        raise DataError(f"case {slices[0].patient}: no slice shows anything but background", "copy it again")
    return SliceFacts(len(slices), int(masks.any((1, 2)).sum()), int(masks.sum()) / inside, missing)


def _read(path: Path, patient: str, shape: tuple[int, ...]) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"case {patient}: {path.name} does not exist", "copy the patient again")
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise DataError(f"case {patient}: {path.name} cannot be read ({error})", "copy it again") from error
    if pixels.shape != shape or pixels.dtype not in (np.uint8, bool):
        kind = f"{' x '.join(map(str, pixels.shape))} pixels of {pixels.dtype}"
        problem = f"case {patient}: {path.name} holds {kind}, not {' x '.join(map(str, shape))} of uint8"
        raise DataError(problem, "copy it again")
    return pixels
