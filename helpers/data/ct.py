"""Find and check CT scans with their label maps, and divide them into folds.

Two dataset formats are read. If the folder holds a dataset JSON, as MSD and the published BTCV experiments do, its lists
``training`` and ``validation`` name the files, ``labels`` the organs, and ``fold`` of an entry its fold. Otherwise files are
paired by name: ``imagesTr/img0001.nii.gz`` with ``labelsTr/label0001.nii.gz`` (BTCV), or equal names (MSD).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from brats_cohort.cases import onto_grid
from brats_cohort.files import DataError, named
from brats_cohort.grid import spacing_of
from brats_cohort.nifti import ENDINGS, read_label_values, read_volume
from glioma_phantom.abdomen import ORGANS

LEAST_AIR, LEAST_BONE = -300.0, 150.0
"""A CT of the trunk holds voxels below the one (air, lungs) and above the other (bone), in Hounsfield units."""


@dataclass(frozen=True)
class Scan:
    """One CT: its identifier, image in Hounsfield units, label map (None without a reference) and fold (None if not dealt)."""

    identifier: str
    image: Path
    label: Path | None
    fold: int | None = None


@dataclass(frozen=True)
class ScanFacts:
    """Grid of one usable scan, smallest and largest value, volumes by organ in ml, and what is odd about it in words."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    hounsfield: tuple[float, float]
    volumes_ml: dict[str, float]
    warning: str


def find_scans(folder: Path | str) -> tuple[list[Scan], tuple[str, ...]]:
    """Find the scans of a folder in the order of their identifiers, and the organs' names for the labels 1, 2, ...

    Raises `DataError` if the folder does not exist, holds no scan or one scan twice, or its dataset JSON is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"the cohort folder {folder} does not exist", "give the folder that holds imagesTr and labelsTr")
    scans, organs = _from_names(folder), ORGANS
    for path in sorted(folder.glob("*.json"), key=lambda path: path.name == "dataset.json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict) and isinstance(content.get("training"), list):
                scans, organs = _from_json(folder, content)
            elif isinstance(content, dict) and "channel_names" in content:  # nnU-Net names organs and lists no scan
                organs = _from_json(folder, content)[1]
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            problem = f"{path} cannot be read as a list of scans ({named(error)})"
            raise DataError(problem, "give image, label and fold as MSD does, or remove it to deal folds anew") from error
    if not scans:
        raise DataError(f"{folder} holds no scan imagesTr/img0001.nii.gz and no dataset JSON", "give the folder that does")
    scans.sort(key=lambda scan: scan.identifier)
    for first, second in pairwise(scans):
        if first.identifier == second.identifier:
            raise DataError(f"{folder} names scan {first.identifier} twice", "keep one of the two")
    return scans, organs


def deal_folds(scans: Sequence[Scan], *, seed: int = 2021) -> list[Scan]:
    """Give every labelled scan without a fold one of five, in equal shares; scans that have one keep it.

    Scans that a dataset JSON sets apart for validation are fold 0; the others then share the remaining folds.
    """
    waiting = [scan for scan in scans if scan.fold is None and scan.label]
    numbers = list(range(max(1, min(5, len(scans)))))
    if any(scan.fold == 0 for scan in scans) and len(numbers) > 1:
        numbers = numbers[1:]
    shuffled = np.random.default_rng(seed).permutation(len(waiting))
    dealt = {waiting[place].identifier: numbers[turn % len(numbers)] for turn, place in enumerate(shuffled)}
    return [replace(scan, fold=dealt.get(scan.identifier, scan.fold)) for scan in scans]


def check_scans(scans: Sequence[Scan], organs: Sequence[str] = ORGANS) -> tuple[dict[str, ScanFacts], list[str]]:
    """Open every file: facts of the scans that can be used, and one sentence for each that cannot.

    A scan cannot be used if a file cannot be read, the label map lies in another grid or has numbers without a name, or the
    values are not Hounsfield units of a trunk.
    """
    facts, faults = {}, []
    for scan in scans:
        try:
            facts[scan.identifier] = _check_scan(scan, organs)
        except (DataError, OSError) as error:
            faults.append(f"scan {scan.identifier}: {error}")
    return facts, faults


def _check_scan(scan: Scan, organs: Sequence[str]) -> ScanFacts:
    image, affine = read_volume(scan.image)
    name = scan.image.name
    if image.dtype.kind not in "iuf" or not np.isfinite(image).all():
        raise DataError(f"{name} holds voxels that are not finite numbers", "export it again")
    low, high = float(image.min()), float(image.max())
    if low > LEAST_AIR or high < LEAST_BONE:
        problem = f"{name} holds values from {low:.4g} to {high:.4g}, which are not Hounsfield units of a trunk"
        raise DataError(problem, "export it with the rescale slope and intercept applied")
    volumes = _organ_volumes(scan, organs, image.shape, affine) if scan.label else {}
    absent = [organ for organ, volume in volumes.items() if not volume]
    warning = f"no {', no '.join(absent)}" if absent else "" if scan.label else "no reference"
    spacing = tuple(spacing_of(affine).tolist())
    return ScanFacts(image.shape, spacing, "".join(nib.aff2axcodes(affine)), (low, high), volumes, warning)


def _organ_volumes(scan: Scan, organs: Sequence[str], shape: tuple[int, ...], affine: np.ndarray) -> dict[str, float]:
    values, own = read_label_values(scan.label)
    name = scan.label.name
    values, _ = onto_grid(values, own, (scan.image.name, shape, affine), scan.identifier, name)
    if values is None:
        raise DataError(f"{name} lies in another grid than {scan.image.name}", "resample it with nearest neighbour")
    found = dict(zip(*(each.tolist() for each in np.unique(values, return_counts=True)), strict=True))
    unknown = [number for number in found if not 0 <= number <= len(organs)]
    if unknown:
        listed = ", ".join(map(str, unknown[:5])) + (" and others" if len(unknown) > 5 else "")
        problem = f"{name} holds the labels {listed}, but only 0 to {len(organs)} have a name"
        raise DataError(problem, "name them in dataset.json")
    voxel = abs(float(np.linalg.det(affine[:3, :3]))) / 1000  # not the product of the edges, as a gantry may be tilted
    return {organ: found.get(number, 0) * voxel for number, organ in enumerate(organs, start=1)}


def _from_json(folder: Path, content: Mapping[str, Any]) -> tuple[list[Scan], tuple[str, ...]]:
    """Scans that a dataset JSON lists, and organs, named from number to name (MSD) or from name to number (nnU-Net)."""
    scans = []
    for part, fold in (("training", None), ("validation", 0), ("test", None)):
        for entry in content.get(part) or []:
            entry = {"image": entry} if isinstance(entry, str) else entry
            image, label, given = folder / entry["image"], entry.get("label"), entry.get("fold", fold)
            scans.append(
                Scan(_identifier(image), image, folder / label if label else None, None if given is None else int(given))
            )
    labels = content.get("labels")
    if not labels:
        return scans, ORGANS
    by_number = all(str(key).isdigit() for key in labels)
    numbered = {int(key if by_number else value): str(value if by_number else key) for key, value in labels.items()}
    if sorted(numbered) != list(range(len(numbered))) or len(numbered) < 2:
        raise ValueError(f"labels {sorted(numbered)} are not 0, 1, 2 and so on")
    return scans, tuple(numbered[number] for number in range(1, len(numbered)))


def _from_names(folder: Path) -> list[Scan]:
    files = sorted(path for path in folder.glob("*/*") if path.name.endswith(ENDINGS) and not path.name.startswith("."))
    labels = {_identifier(path): path for path in files if path.parent.name == "labelsTr"}
    images = {path: _identifier(path) for path in files if path.parent.name == "imagesTr"}
    return [Scan(name, path, labels.get(name) or labels.get(name.removesuffix("_0000"))) for path, name in images.items()]


def _identifier(path: Path) -> str:
    """Return img0001 for img0001.nii.gz and label0001.nii.gz alike, otherwise the name without its ending."""
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    match = re.fullmatch(r"(?:img|label)(\d+)", stem)
    return f"img{match[1]}" if match else stem
