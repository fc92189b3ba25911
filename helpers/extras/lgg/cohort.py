"""The Kaggle LGG layout: a folder a patient, a TIFF a slice, a mask beside it; and what may be wrong with them.

``kaggle_3m/<patient>/<patient>_<n>.tif`` holds 256 x 256 pixels of three channels: T1 before contrast agent, FLAIR, T1 after
contrast agent. Where a patient lacks one of the two T1 images, the publishers put FLAIR in its place (README of the data set,
Buda et al. 2019, doi:10.1016/j.compbiomed.2019.05.002), which a network would take for a T1 image. It is found here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from helpers.data.splits import SplitManifest, divide, thirds
from helpers.extras.lgg.air import air_floor, count_values, tissue
from helpers.workspace import DataError

CHANNELS: tuple[str, ...] = ("t1", "flair", "t1ce")
"""Order of the channels of a slice, in this package's names."""

EDGE = 256
"""Pixels along either edge of a slice."""

_SLICE = re.compile(r"(?P<patient>.+)_(?P<number>\d+)\.tif")


@dataclass(frozen=True)
class SliceFile:
    """One slice: its patient, its place in the head, its image and its mask."""

    patient: str
    number: int
    image: Path
    mask: Path


@dataclass(frozen=True)
class SliceFacts:
    """What the check of one patient found.

    Attributes
    ----------
    slices, with_tumour : int
        Number of slices, and of those whose mask is not empty.
    tumour_share : float
        Pixels of tumour as a share of those of tissue (`helpers.extras.lgg.air`), 0 to 1.
    missing : tuple of str
        Channels that are a copy of FLAIR in every slice.
    """

    slices: int
    with_tumour: int
    tumour_share: float
    missing: tuple[str, ...]


def find_slices(folder: Path) -> dict[str, list[SliceFile]]:
    """Slices by patient, both in order.

    Parameters
    ----------
    folder : Path
        The folder of the patients, or the one that holds it as ``kaggle_3m``.

    Raises
    ------
    DataError
        If the folder does not exist, holds no slice, or a slice has no mask.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"the cohort folder {folder} does not exist", "give the folder that holds kaggle_3m")
    root = folder / "kaggle_3m" if (folder / "kaggle_3m").is_dir() else folder
    found: dict[str, list[SliceFile]] = {}
    for path in sorted(root.glob("*/*.tif")):
        match = _SLICE.fullmatch(path.name)
        if not match:
            continue
        patient, mask = match["patient"], path.with_name(f"{path.stem}_mask.tif")
        if not mask.is_file():
            raise DataError(f"patient {patient}: {path.name} has no mask {mask.name}", "copy the patient again")
        found.setdefault(patient, []).append(SliceFile(patient, int(match["number"]), path, mask))
    if not found:
        raise DataError(f"{root} holds no slice <patient>/<patient>_<n>.tif", "give the folder that holds kaggle_3m")
    return {patient: sorted(slices, key=lambda each: each.number) for patient, slices in found.items()}


def read_slice(file: SliceFile) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (3, 256, 256), channels as in `CHANNELS`, and mask bool (256, 256); rows first.

    Raises
    ------
    DataError
        If a file is damaged, or has another size or number of channels.
    """
    image, mask = (_read(path, file.patient) for path in (file.image, file.mask))
    if image.shape != (EDGE, EDGE, len(CHANNELS)):
        raise DataError(
            f"patient {file.patient}: {file.image.name} has shape {image.shape}, not 256 x 256 x 3", "copy it again"
        )
    if mask.shape != (EDGE, EDGE):
        raise DataError(f"patient {file.patient}: {file.mask.name} has shape {mask.shape}, not 256 x 256", "copy it again")
    return np.ascontiguousarray(np.moveaxis(image, -1, 0)), mask > 0


def read_patient(slices: Sequence[SliceFile]) -> tuple[np.ndarray, np.ndarray]:
    """All slices of a patient: images uint8 (N, 3, 256, 256) and masks bool (N, 256, 256)."""
    images, masks = zip(*(read_slice(file) for file in slices), strict=True)
    return np.stack(images), np.stack(masks)


def check_patient(slices: Sequence[SliceFile]) -> SliceFacts:
    """Read every slice of a patient and say how much tumour there is and which channels are copies of FLAIR."""
    images, masks = read_patient(slices)
    channels = dict(zip(CHANNELS, images.swapaxes(0, 1), strict=True))
    missing = tuple(name for name in CHANNELS if name != "flair" and np.array_equal(channels[name], channels["flair"]))
    inside = int(tissue(images, air_floor(count_values(images))).sum())
    share = int(masks.sum()) / inside if inside else 0.0
    return SliceFacts(len(slices), int(masks.any((1, 2)).sum()), share, missing)


def check_slices(patients: Mapping[str, Sequence[SliceFile]]) -> tuple[dict[str, SliceFacts], list[str]]:
    """Facts of every patient that can be read, and one sentence for each that cannot; the others go on."""
    facts, faults = {}, []
    for patient, slices in patients.items():
        try:
            facts[patient] = check_patient(slices)
        except DataError as error:
            faults.append(str(error))
    return facts, faults


def split_patients(facts: Mapping[str, SliceFacts], *, seed: int) -> SplitManifest:
    """Divide by patient, stratified by third of the tumour share; all slices of a patient stay together.

    Raises
    ------
    DataError
        If there are fewer than three patients.
    """
    strata = thirds(pd.Series({patient: fact.tumour_share for patient, fact in facts.items()}, dtype=float))
    return divide("lgg", {name: name for name in facts}, strata, seed=seed)


def _read(path: Path, patient: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"patient {patient}: {path.name} cannot be read ({error})", "copy it again") from error
