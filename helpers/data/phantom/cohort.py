"""Write cohorts of phantoms as BraTS 2021 folders."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from pathlib import Path

import joblib
import torch
from tqdm.auto import tqdm

from helpers.data.cases import Case, discover, write_volume
from helpers.data.phantom.generator import DEFAULTS, PhantomSettings, make_phantom
from helpers.regions import BRATS2021, MODALITIES, from_classes
from helpers.workspace import DataError

MANIFEST = "phantom.json"
VERSION = 1
"""Raise it when a change of the generator makes other cases from the same seed."""


def write_cohort(
    folder: Path,
    count: int,
    settings: PhantomSettings = DEFAULTS,
    *,
    workers: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> list[Case]:
    """Write phantoms 0 to `count` - 1 into a folder and return them as cases; those that exist are kept.

    Each worker is a process with one thread, which on a CPU is faster than several threads on one case. A case's folder
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
    DataError
        If the folder holds phantoms with other settings.
    """
    folder = Path(folder)
    _claim(folder, settings)
    names = {index: phantom_name(index) for index in range(count)}
    missing = [index for index, name in names.items() if not (folder / name).is_dir()]
    job = partial(write_phantom, folder, settings=settings, device=device)
    bar = tqdm(
        _run(job, missing, workers), total=len(missing), desc="phantoms", unit="case", disable=not progress or not missing
    )
    for _ in bar:
        pass
    wanted = set(names.values())
    return [case for case in discover(folder, "phantom") if case.identifier in wanted]


def write_phantom(folder: Path, index: int, *, settings: PhantomSettings = DEFAULTS, device: str = "cpu") -> Path:
    """Write one phantom as a folder of five NIfTI files, which appears only when it is complete; returns that folder."""
    folder = Path(folder)
    name = phantom_name(index)
    phantom = make_phantom(index, settings, device=device)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    try:
        unfinished.chmod(0o755)
        for modality, volume in zip(MODALITIES, phantom.image, strict=True):
            write_volume(unfinished / f"{name}_{modality}.nii.gz", volume, phantom.affine)
        write_volume(unfinished / f"{name}_seg.nii.gz", from_classes(phantom.classes, BRATS2021), phantom.affine)
        if not (folder / name).exists():
            unfinished.rename(folder / name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder / name


def phantom_name(index: int) -> str:
    """Identifier of a phantom, such as Phantom_00017."""
    return f"Phantom_{index:05d}"


def _claim(folder: Path, settings: PhantomSettings) -> None:
    """Remember the cohort's settings in it, or refuse a folder that remembers others."""
    wanted = {"version": VERSION, **asdict(settings)}
    manifest = folder / MANIFEST
    if not manifest.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{os.getpid()}-{MANIFEST}"
        temporary.write_text(json.dumps(wanted))
        temporary.replace(manifest)
        return
    found = json.loads(manifest.read_text())
    if found != wanted:
        raise DataError(f"{folder} holds phantoms made with {found}, not {wanted}", "choose another folder or remove that one")


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
