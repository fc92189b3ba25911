"""Prepared scans on disk: a safetensors file each, of which a crop is read without reading the rest.

The file holds ``image`` float16 (1, X, Y, Z), ``labels`` uint8 (X, Y, Z) where there is a reference, and ``voxels``
int32 (n, 4): for the background inside the patient and for every organ up to `TABLE` voxels drawn from it, as number, x, y, z.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from helpers.extras.ct.cohort import CtCase
from helpers.extras.ct.preparation import (
    DEFAULTS,
    CtPreparation,
    PreparedCt,
    prepare_ct,
)
from helpers.workspace import DataError

VERSION = 1
"""Part of every file's hash: raise it when a change to preparation changes what is written."""

TABLE = 2048


class PreparedCtFile:
    """A prepared scan on disk; it is pickled as its path, and so travels to DataLoader workers.

    Attributes
    ----------
    path : Path
    identifier : str
    shape : tuple of 3 int
    tables : dict from int to int32 array (n, 3)
        Voxels by label number, 0 for the background inside the patient; empty without a reference.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self._handle = safe_open(self.path, framework="pt")
            self._facts: dict[str, Any] = json.loads((self._handle.metadata() or {})["facts"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"{path} is not a prepared scan ({error})", "remove it and prepare the cohort again") from error
        if self._facts["version"] != VERSION:
            raise DataError(f"{path} was prepared by another version", "remove it and prepare the cohort again")
        self.identifier: str = self._facts["identifier"]
        self.shape = tuple(self._handle.get_slice("image").get_shape()[1:])
        rows = self._handle.get_tensor("voxels").numpy().copy()
        self.tables = {int(number): rows[rows[:, 0] == number, 1:] for number in np.unique(rows[:, 0])}

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedCtFile, (self.path,)

    def patch(self, slices: Sequence[slice]) -> tuple[np.ndarray, np.ndarray]:
        """Part of image float16 (1, x, y, z) and of the labels uint8 (x, y, z), given a slice for each axis."""
        image = self._handle.get_slice("image")[(slice(None), *slices)].numpy().copy()
        return image, self._handle.get_slice("labels")[tuple(slices)].numpy().copy()

    def load(self) -> PreparedCt:
        """Read everything."""
        names = self._handle.keys()
        image, labels = (self._handle.get_tensor(n).numpy().copy() if n in names else None for n in ("image", "labels"))
        affines = {name: np.array(self._facts[name]) for name in ("affine", "native_affine")}
        return PreparedCt(self.identifier, image, labels, **affines, native_shape=tuple(self._facts["native_shape"]))


def prepare_ct_cohort(
    cases: Sequence[CtCase], folder: Path, settings: CtPreparation = DEFAULTS, *, workers: int = 2
) -> tuple[dict[str, Path], dict[str, str]]:
    """Prepare scans into a folder, one file each, named after a hash of contents and settings: a second run redoes nothing.

    Returns
    -------
    paths : dict from identifier to Path
    faults : dict from identifier to str
        One sentence for every scan that could not be prepared.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths, faults = {}, {}
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for case, found in zip(cases, pool.map(partial(_prepare, folder, settings), cases), strict=True):
            (paths if isinstance(found, Path) else faults)[case.identifier] = found
    return paths, faults


def save_prepared_ct(path: Path, prepared: PreparedCt) -> Path:
    """Write a prepared scan so that the file is either complete or absent."""
    tensors = {"image": torch.from_numpy(prepared.image)}
    if prepared.labels is not None:
        tensors["labels"] = torch.from_numpy(prepared.labels)
    tensors["voxels"] = torch.from_numpy(voxel_table(prepared))
    facts = {
        "version": VERSION,
        "identifier": prepared.identifier,
        "affine": prepared.affine.tolist(),
        "native_affine": prepared.native_affine.tolist(),
        "native_shape": list(prepared.native_shape),
    }
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})
        temporary.chmod(0o644)
        return temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def voxel_table(prepared: PreparedCt) -> np.ndarray:
    """Up to `TABLE` voxels of the background inside the patient and of every organ, int32 (n, 4): number, x, y, z."""
    rows = [np.zeros((0, 4), np.int64)]
    if prepared.labels is not None:
        generator = np.random.default_rng(0)
        labels = prepared.labels.ravel()
        inside = np.flatnonzero((labels > 0) | (prepared.image.ravel() > 0))
        found = labels[inside]
        for number in np.unique(found):
            voxels = inside[found == number]
            voxels = voxels if len(voxels) <= TABLE else generator.choice(voxels, TABLE, replace=False, shuffle=False)
            rows.append(np.column_stack([np.full(len(voxels), number), *np.unravel_index(voxels, prepared.shape)]))
    return np.concatenate(rows).astype(np.int32)


def _prepare(folder: Path, settings: CtPreparation, case: CtCase) -> Path | str:
    digest = hashlib.blake2b(json.dumps([VERSION, case.identifier, asdict(settings)]).encode(), digest_size=6)
    try:
        for file in filter(None, (case.image, case.label)):
            digest.update(hashlib.blake2b(file.read_bytes()).digest())
        path = folder / f"{case.identifier}-{digest.hexdigest()}.safetensors"
        return path if path.is_file() else save_prepared_ct(path, prepare_ct(case, settings))
    except (DataError, OSError) as error:
        return str(error)
