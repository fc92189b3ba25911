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

from glioma_phantom.abdomen import ORGANS
from helpers.data.cases import onto_grid
from helpers.data.nifti import ENDINGS, read_label_values, read_volume
from helpers.workspace import DataError

LEAST_AIR, LEAST_BONE = -300.0, 150.0
"""A CT of the trunk holds voxels below the one (air, lungs) and above the other (bone), in Hounsfield units."""

_BTCV = re.compile(r"(?:img|label)(\d+)")


@dataclass(frozen=True)
class Scan:
    """One CT: its identifier, image in Hounsfield units, label map (None without a reference) and fold (None if not dealt)."""

    identifier: str
    image: Path
    label: Path | None
    fold: int | None = None


@dataclass(frozen=True)
class ScanFacts:
    """Facts about one usable scan.

    Attributes
    ----------
    shape, spacing, orientation : tuple of 3 int, tuple of 3 float, str
        Voxels along each axis, their edges in mm, and the directions of the axes, such as "RAS".
    hounsfield : tuple of 2 float
        Smallest and largest value.
    volumes_ml : dict from str to float
        By organ; empty without a reference.
    warning : str
        What is odd but usable; empty if nothing is.
    """

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
    listed = _dataset_json(folder)
    scans, organs = _from_json(folder, *listed) if listed else (_from_names(folder), ORGANS)
    if not scans:
        raise DataError(f"{folder} holds no scan imagesTr/img0001.nii.gz and no dataset JSON", "give the folder that does")
    scans.sort(key=lambda scan: scan.identifier)
    for first, second in pairwise(scans):
        if first.identifier == second.identifier:
            raise DataError(f"{folder} names scan {first.identifier} twice", "keep one of the two")
    return scans, organs


def deal_folds(scans: Sequence[Scan], *, folds: int = 5, seed: int = 2021) -> list[Scan]:
    """Give every labelled scan without a fold one, in equal shares; scans that have one keep it.

    Scans that a dataset JSON sets apart for validation are fold 0; the others then share the remaining folds.
    """
    waiting = [scan for scan in scans if scan.fold is None and scan.label]
    count = max(1, min(folds, len(scans)))
    numbers = list(range(count))
    if any(scan.fold == 0 for scan in scans) and count > 1:
        numbers = numbers[1:]
    shuffled = np.random.default_rng(seed).permutation(len(waiting))
    dealt = {waiting[place].identifier: numbers[turn % len(numbers)] for turn, place in enumerate(shuffled)}
    return [replace(scan, fold=dealt.get(scan.identifier, scan.fold)) for scan in scans]


def check_scans(scans: Sequence[Scan], organs: Sequence[str] = ORGANS) -> tuple[dict[str, ScanFacts], list[str]]:
    """Open every file: facts of the scans that can be used, and one sentence for each that cannot."""
    facts, faults = {}, []
    for scan in scans:
        try:
            facts[scan.identifier] = check_scan(scan, organs)
        except (DataError, OSError) as error:
            faults.append(f"scan {scan.identifier}: {error}")
    return facts, faults


def check_scan(scan: Scan, organs: Sequence[str] = ORGANS) -> ScanFacts:
    """Open the files of one scan and measure what they hold.

    Raises `DataError` if a file cannot be read, the label map lies in another grid or has numbers without a name, or the values
    are not Hounsfield units of a trunk.
    """
    image, affine = read_volume(scan.image)
    name = scan.image.name
    if image.dtype.kind not in "iuf" or not np.isfinite(image).all():
        raise DataError(f"{name} holds voxels that are not finite numbers", "export it again")
    low, high = float(image.min()), float(image.max())
    if low > LEAST_AIR or high < LEAST_BONE:
        problem = f"{name} holds values from {low:.4g} to {high:.4g}, which are not Hounsfield units of a trunk"
        raise DataError(problem, "export it with the rescale slope and intercept applied")
    volumes = _organ_volumes(scan, organs, image.shape, affine)
    absent = [organ for organ, volume in volumes.items() if not volume]
    warning = f"no {', no '.join(absent)}" if absent else "" if scan.label else "no reference"
    spacing = tuple(nib.affines.voxel_sizes(affine).tolist())
    return ScanFacts(image.shape, spacing, "".join(nib.aff2axcodes(affine)), (low, high), volumes, warning)


def _organ_volumes(scan: Scan, organs: Sequence[str], shape: tuple[int, ...], affine: np.ndarray) -> dict[str, float]:
    if scan.label is None:
        return {}
    values, own = read_label_values(scan.label)
    name = scan.label.name
    values, _ = onto_grid(values, own, (scan.image.name, shape, affine), scan.identifier, name)
    if values is None:
        raise DataError(f"{name} lies in another grid than {scan.image.name}", "resample it with nearest neighbour")
    numbers, counts = np.unique(values, return_counts=True)
    found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    unknown = [number for number in found if not 0 <= number <= len(organs)]
    if unknown:
        listed = ", ".join(map(str, unknown[:5])) + (" and others" if len(unknown) > 5 else "")
        problem = f"{name} holds the labels {listed}, but only 0 to {len(organs)} have a name"
        raise DataError(problem, "name them in dataset.json")
    voxel = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    return {organ: found.get(number, 0) * voxel for number, organ in enumerate(organs, start=1)}


def _dataset_json(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """Read the JSON file of the folder that lists scans, ``dataset.json`` before any other."""
    for path in sorted(folder.glob("*.json"), key=lambda path: (path.name != "dataset.json", path.name)):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not JSON ({error})", "repair it, or remove it to deal folds anew") from error
        if isinstance(content, dict) and isinstance(content.get("training"), list):
            return path, content
    return None


def _from_json(folder: Path, path: Path, content: Mapping[str, Any]) -> tuple[list[Scan], tuple[str, ...]]:
    parts = (("training", None), ("validation", 0), ("test", None))
    try:
        scans = [_entry(folder, entry, fold) for part, fold in parts for entry in content.get(part) or []]
        return scans, _organs(content.get("labels"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"{path} has an entry that cannot be read ({error!r})"
        raise DataError(problem, "give image, label and fold as MSD does") from error


def _entry(folder: Path, entry: str | Mapping[str, Any], fold: int | None) -> Scan:
    entry = {"image": entry} if isinstance(entry, str) else entry
    image, label = folder / entry["image"], entry.get("label")
    given = entry.get("fold")
    return Scan(_identifier(image), image, folder / label if label else None, fold if given is None else int(given))


def _organs(labels: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Read the names of the labels 1, 2, ... from either direction: number to name (MSD) or name to number (nnU-Net)."""
    if not labels:
        return ORGANS
    by_number = all(str(key).isdigit() for key in labels)
    numbered = {int(key if by_number else value): str(value if by_number else key) for key, value in labels.items()}
    if sorted(numbered) != list(range(len(numbered))) or len(numbered) < 2:
        raise ValueError(f"labels {sorted(numbered)} are not 0, 1, 2 and so on")
    return tuple(numbered[number] for number in range(1, len(numbered)))


def _from_names(folder: Path) -> list[Scan]:
    files = sorted(path for path in folder.glob("*/*") if path.name.endswith(ENDINGS) and not path.name.startswith("."))
    labels = {_identifier(path): path for path in files if path.parent.name == "labelsTr"}
    images = {path: _identifier(path) for path in files if path.parent.name == "imagesTr"}
    return [Scan(name, path, labels.get(name) or labels.get(name.removesuffix("_0000"))) for path, name in images.items()]


def _identifier(path: Path) -> str:
    """Return img0001 for img0001.nii.gz and label0001.nii.gz alike, otherwise the name without its ending."""
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    match = _BTCV.fullmatch(stem)
    return f"img{match[1]}" if match else stem
