"""Where the scans of a CT cohort are, what their labels mean, and which fold each belongs to.

Two layouts are read. With a dataset JSON in the folder, as MSD and the published BTCV experiments have one, its lists
``training`` and ``validation`` name the files, ``labels`` the organs, and ``fold`` of an entry, where given, its fold.
Without one, the files are paired by name: ``imagesTr/img0001.nii.gz`` with ``labelsTr/label0001.nii.gz`` (BTCV), or equal
names (MSD).

A cohort of another kind needs one function, which says where its scans are; everything else works from its result::

    def my_cohort(folder):
        scans = [
            CtCase(path.parent.name, path, path.with_name("organs.nii.gz"))
            for path in sorted(folder.glob("*/ct.nii.gz"))
        ]
        return deal_folds(CtCohort(folder, tuple(scans), organs=("liver", "spleen")))

The names in ``organs`` are those of the labels 1, 2, ... in the files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.extras.ct.organs import ORGANS
from helpers.workspace import DataError

DATASET_JSON = "dataset.json"
FOLDS = 5
_ENDINGS = (".nii.gz", ".nii")
_BTCV = re.compile(r"(?:img|label)(\d+)")


@dataclass(frozen=True)
class CtCase:
    """One scan.

    Attributes
    ----------
    identifier : str
        Unique in its cohort.
    image : Path
        Hounsfield units, NIfTI.
    label : Path or None
        The reference, where there is one.
    fold : int or None
        Of cross-validation; None where it was not dealt yet.
    """

    identifier: str
    image: Path
    label: Path | None
    fold: int | None = None


@dataclass(frozen=True)
class CtCohort:
    """Scans with the same labels.

    Attributes
    ----------
    folder : Path
    cases : tuple of CtCase
        In the order of their identifiers.
    organs : tuple of str
        Names of the labels 1, 2, ...
    """

    folder: Path
    cases: tuple[CtCase, ...]
    organs: tuple[str, ...] = ORGANS

    def part(self, name: str, *, fold: int = 0) -> tuple[CtCase, ...]:
        """Cases with a reference for "train" (all folds but one) or "val" (that one)."""
        return tuple(case for case in self.cases if case.label and (case.fold == fold) == (name == "val"))


def find_ct_cohort(folder: Path, *, seed: int = 2021) -> CtCohort:
    """Find the scans of a folder, with a fold for each: that of its dataset JSON, or one that is dealt now.

    Raises
    ------
    DataError
        If the folder does not exist or holds no scan, or its JSON is damaged or names a file that is not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"the cohort folder {folder} does not exist", "give the folder that holds imagesTr and labelsTr")
    listed = _dataset_json(folder)
    cohort = _from_json(folder, *listed) if listed else CtCohort(folder, tuple(_from_names(folder)))
    if not cohort.cases:
        raise DataError(f"{folder} holds no scan imagesTr/img0001.nii.gz and no dataset JSON", "give the folder that does")
    names = [case.identifier for case in cohort.cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{folder} names case {twice[0]} twice", "keep one of the two")
    return deal_folds(cohort, seed=seed)


def deal_folds(cohort: CtCohort, *, folds: int = FOLDS, seed: int = 2021) -> CtCohort:
    """Give every labelled case without a fold one, in equal shares; cases that have one keep it.

    Where the JSON set cases apart for validation, these are fold 0 and the others share the remaining folds.
    """
    open_ones = [case for case in cohort.cases if case.fold is None and case.label]
    count = max(1, min(folds, len(cohort.cases)))
    numbers = list(range(count))
    if any(case.fold == 0 for case in cohort.cases) and count > 1:
        numbers = numbers[1:]
    shuffled = np.random.default_rng(seed).permutation(len(open_ones))
    dealt = {open_ones[place].identifier: numbers[turn % len(numbers)] for turn, place in enumerate(shuffled)}
    return replace(cohort, cases=tuple(replace(case, fold=dealt.get(case.identifier, case.fold)) for case in cohort.cases))


def write_dataset_json(path: Path, cohort: CtCohort) -> Path:
    """Write the cohort as a dataset JSON with folds, complete or not at all; `find_ct_cohort` reads the same from it."""
    path = Path(path)

    def entry(case: CtCase) -> dict[str, Any]:
        files = {"image": _relative(case.image, path.parent)}
        return files | ({"label": _relative(case.label, path.parent), "fold": case.fold} if case.label else {})

    content = {
        "labels": {str(number): name for number, name in enumerate(("background", *cohort.organs))},
        "training": [entry(case) for case in cohort.cases if case.label],
        "test": [entry(case) for case in cohort.cases if not case.label],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return temporary.replace(path)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _dataset_json(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The JSON file of the folder that lists scans, ``dataset.json`` before any other."""
    for path in sorted(folder.glob("*.json"), key=lambda path: (path.name != DATASET_JSON, path.name)):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not JSON ({error})", "repair it or remove it, and folds are dealt anew") from error
        if isinstance(content, dict) and isinstance(content.get("training"), list):
            return path, content
    return None


def _from_json(folder: Path, path: Path, content: Mapping[str, Any]) -> CtCohort:
    validation = content.get("validation") or []
    rows = [(entry, None) for entry in content["training"]] + [(entry, 0) for entry in validation]
    rows += [(entry, None) for entry in content.get("test") or []]
    try:
        cases = [_entry(folder, entry, fold) for entry, fold in rows]
        organs = _organs(content.get("labels"))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} has an entry that is not read ({error!r})", "give image, label and fold as MSD does"
        ) from error
    for case in cases:
        for file in filter(None, (case.image, case.label)):
            if not file.is_file():
                raise DataError(f"{path} names {file}, which does not exist", "copy the cohort again or mend the list")
    return CtCohort(folder, tuple(sorted(cases, key=lambda case: case.identifier)), organs)


def _entry(folder: Path, entry: str | Mapping[str, Any], fold: int | None) -> CtCase:
    entry = {"image": entry} if isinstance(entry, str) else entry
    image, label = folder / entry["image"], entry.get("label")
    given = entry.get("fold")
    return CtCase(_identifier(image), image, folder / label if label else None, fold if given is None else int(given))


def _organs(labels: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Names of the labels 1, 2, ... from either way round: number to name (MSD) or name to number (nnU-Net)."""
    if not labels:
        return ORGANS
    numbered = (
        {int(key): str(value) for key, value in labels.items()}
        if _numeric(labels)
        else {int(value): key for key, value in labels.items()}
    )
    if sorted(numbered) != list(range(len(numbered))) or len(numbered) < 2:
        raise ValueError(f"labels {sorted(numbered)} are not 0, 1, 2 and so on")
    return tuple(numbered[number] for number in range(1, len(numbered)))


def _numeric(labels: Mapping[str, Any]) -> bool:
    return all(str(key).isdigit() for key in labels)


def _from_names(folder: Path) -> Iterator[CtCase]:
    """Scans below imagesTr, each with the file below labelsTr that carries its number or name."""
    labels = {_identifier(path): path for path in _scans(folder / "labelsTr")}
    for path in _scans(folder / "imagesTr"):
        name = _identifier(path)
        yield CtCase(name, path, labels.get(name) or labels.get(name.removesuffix("_0000")))


def _scans(folder: Path) -> Sequence[Path]:
    return sorted(path for path in folder.glob("*") if path.name.endswith(_ENDINGS) and not path.name.startswith("."))


def _identifier(path: Path) -> str:
    """img0001 for img0001.nii.gz and label0001.nii.gz alike; else the name without its ending."""
    stem = next((path.name.removesuffix(ending) for ending in _ENDINGS if path.name.endswith(ending)), path.stem)
    match = _BTCV.fullmatch(stem)
    return f"img{match[1]}" if match else stem
