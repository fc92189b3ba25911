"""Write phantoms as NIfTI files: a cohort in the folders and numbers of BraTS 2021."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import nibabel as nib
import numpy as np
import torch
from isal import igzip
from tqdm.auto import tqdm

from glioma_phantom.contrast import MODALITIES
from glioma_phantom.generator import CALIBRATED, PhantomSettings, make_phantom

MANIFEST = "phantom.json"
VERSION = 2
"""Raise it when a change of the generator makes other cases from the same seed."""
BRATS_LABELS = np.array([0, 1, 2, 4], np.uint8)
"""Number that BraTS 2018-2021 writes for background, NCR, ED and ET."""


def write_cohort(
    folder: Path,
    count: int,
    settings: PhantomSettings = CALIBRATED,
    *,
    workers: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> list[Path]:
    """Write phantoms 0 to `count` - 1 into a folder, keep those that exist, and return the cases' folders.

    Each worker is a process with one thread, which on a CPU is faster than several threads on one case. They are spawned, so
    that a script (not a notebook) calls this below ``if __name__ == "__main__":``, or with ``workers=0``. A case's folder
    appears only when all five of its files are complete. Memory is bounded by one case a worker.

    Parameters
    ----------
    folder : Path
        The cohort. It is made if needed, and remembers its settings in ``phantom.json``.
    count : int
        How many cases.
    workers : int, optional
        Processes; by default one for each core that this process may use. 0 writes in this process.
    device : str
        "cpu", or a CUDA device on which each worker makes its cases.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        If `count` is negative, or the folder holds phantoms with other settings or is a file.
    """
    folder = Path(folder)
    if count < 0:
        raise ValueError(f"a cohort cannot have {count} cases; give 0 or more")
    _claim(folder, settings)
    missing = [index for index in range(count) if not (folder / phantom_name(index)).is_dir()]
    job = partial(write_phantom, folder, settings=settings, device=device)
    made = _run(job, missing, workers)
    for _ in tqdm(made, total=len(missing), desc="phantoms", unit="case", disable=not progress or not missing):
        pass
    return [folder / phantom_name(index) for index in range(count)]


def write_phantom(folder: Path, index: int, *, settings: PhantomSettings = CALIBRATED, device: str = "cpu") -> Path:
    """Write one phantom as a folder of five NIfTI files, which appears only when it is complete; returns that folder.

    A phantom that exists is kept. Raises `ValueError` if `folder` holds phantoms with other settings (`write_cohort`).
    """
    folder, name = Path(folder), phantom_name(index)
    _claim(folder, settings)
    if (folder / name).is_dir():
        return folder / name
    phantom = make_phantom(index, settings, device=device)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    try:
        unfinished.chmod(0o755)
        for modality, volume in zip(MODALITIES, phantom.image, strict=True):
            write_nifti(unfinished / f"{name}_{modality}.nii.gz", volume, phantom.affine)
        write_nifti(unfinished / f"{name}_seg.nii.gz", BRATS_LABELS[phantom.classes], phantom.affine)
        if not (folder / name).exists():
            unfinished.rename(folder / name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder / name


def phantom_name(index: int) -> str:
    """Identifier of a phantom, such as Phantom_00017."""
    return f"Phantom_{index:05d}"


def write_nifti(path: Path, volume: np.ndarray, affine: np.ndarray) -> Path:
    """Write a volume (X, Y, Z) as ``.nii.gz``, complete or not at all; the folder is made."""
    image = nib.Nifti1Image(volume, affine, dtype=volume.dtype)
    image.header.set_slope_inter(1, 0)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        # ISA-L compresses many times as fast as zlib.
        temporary.write_bytes(igzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
        return temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """Name of an unfinished file: two threads that write the same file must not share it."""
    return path.with_name(f".{os.getpid()}-{threading.get_ident()}-{path.name}")


def _claim(folder: Path, settings: PhantomSettings) -> None:
    claim_folder(folder / MANIFEST, {"version": VERSION, **asdict(settings)})


def claim_folder(manifest: Path, settings: Mapping[str, Any]) -> None:
    """Remember the settings of a cohort in its folder, or refuse a folder that remembers others."""
    wanted = json.loads(json.dumps(settings))
    if manifest.parent.is_file():
        raise ValueError(f"{manifest.parent} is a file; give the name of a folder")
    if manifest.is_file():
        remedy = "choose another folder or remove that one"
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{manifest} is damaged ({error}); {remedy}") from error
        if found != wanted:
            raise ValueError(f"{manifest.parent} holds phantoms made with {found}, not {wanted}; {remedy}")
        return
    write_json(manifest, wanted)


def write_json(path: Path, content: Any) -> Path:
    """Write a JSON file, complete or not at all; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return temporary.replace(path)


def _run(job: partial, indices: list[int], workers: int | None) -> Iterable[Path]:
    count = min(len(indices), joblib.cpu_count() if workers is None else workers)
    if count <= 1:
        yield from map(job, indices)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(job, index) for index in indices]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
