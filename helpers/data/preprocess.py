"""From the files of a case to an array a network can use, and from there back to the patient's own grid.

The recipe: orientation RAS, crop to the brain, one spacing for all cases, where wanted no bias field, intensities on one scale.
Cropping comes before everything that costs time: two thirds of a BraTS volume are air.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import torch
from tqdm.auto import tqdm

from helpers.data.bias import correct_bias
from helpers.data.cache import prepared_path, prune_prepared
from helpers.data.files import DataError, open_volume
from helpers.data.grids import coincide, cropped_affine, ras_grid, regrid, regrid_classes, spacing_of
from helpers.data.intensity import brain_box, normalise, resample_brain
from helpers.data.layouts import Case
from helpers.data.prepared import Prepared, PreparedFile, PreprocessSettings, open_prepared, save_prepared
from helpers.data.reading import read_classes, read_modalities, same_affine
from helpers.regions import MODALITIES

__all__ = [
    "Prepared",
    "PreparedFile",
    "PrepareResult",
    "PreprocessSettings",
    "estimate_size",
    "open_prepared",
    "prepare_cohort",
    "preprocess_case",
    "preprocess_image",
    "to_native",
]

DEFAULTS = PreprocessSettings()


@dataclass(frozen=True)
class PrepareResult:
    """What `prepare_cohort` left behind.

    Attributes
    ----------
    paths : dict from identifier to Path
        A prepared file for every good case, in the order of the cases.
    faults : dict from identifier to str
        One sentence for every case that could not be prepared.
    made : tuple of str
        Identifiers prepared by this run; the others were there already.
    pruned : tuple of Path
        Files of other inputs or settings that were removed.
    """

    paths: dict[str, Path]
    faults: dict[str, str]
    made: tuple[str, ...]
    pruned: tuple[Path, ...]


def preprocess_case(case: Case, settings: PreprocessSettings = DEFAULTS) -> Prepared:
    """Read and prepare one case.

    Raises
    ------
    DataError
        If a file is missing or damaged, the grids of its files differ, or the image is empty.
    """
    image, affine = read_modalities(case)
    classes = None
    if case.label is not None:
        classes, label_affine = read_classes(case)
        if classes.shape != image[0].shape or not same_affine(label_affine, affine):
            raise DataError(
                f"case {case.identifier}: {case.label.name} has another grid than the images; resample it to theirs"
            )
    return preprocess_image(image, affine, settings, classes=classes, identifier=case.identifier)


def preprocess_image(
    image: np.ndarray | Sequence[np.ndarray],
    affine: np.ndarray,
    settings: PreprocessSettings = DEFAULTS,
    *,
    classes: np.ndarray | None = None,
    identifier: str = "",
) -> Prepared:
    """Prepare arrays that are in memory.

    Parameters
    ----------
    image : array (4, X, Y, Z) or four arrays (X, Y, Z)
        Any grid and units, 0 outside the brain; NaN and infinite values count as outside.
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+.
    settings : PreprocessSettings
    classes : uint8 array (X, Y, Z), optional
        Label map in the same grid.
    identifier : str
        Name for the errors and the result.

    Raises
    ------
    DataError
        If no voxel of the image is different from 0.
    """
    volumes = [np.nan_to_num(volume, posinf=0.0, neginf=0.0) if volume.dtype.kind == "f" else volume for volume in image]
    affine = np.asarray(affine, dtype=np.float64)
    box = brain_box(volumes, settings.margin, identifier)
    source = cropped_affine(affine, [part.start for part in box])
    size = [part.stop - part.start for part in box]
    shape, to_affine = ras_grid(size, source, settings.spacing)
    grid = {"to_shape": shape, "to_affine": to_affine}
    if classes is not None:
        classes = np.ascontiguousarray(regrid_classes(classes[box], source, **grid))
    volumes = [volume[box] for volume in volumes]
    if coincide(size, source, **grid):
        volumes = [regrid(volume, source, **grid) for volume in volumes]
    else:
        volumes = resample_brain(volumes, source, **grid)
    normalised = torch.empty(len(volumes), *shape, dtype=torch.float16)
    values = np.empty(shape, dtype=np.float32)
    for volume, channel in zip(volumes, normalised, strict=True):
        for plane in range(shape[1]):  # axes change places between file and array, and a plane fits the cache
            np.copyto(values[:, plane], volume[:, plane], casting="same_kind")
        if settings.correct_bias:
            correct_bias(values, settings.spacing)
        normalise(values, settings)
        channel.copy_(torch.from_numpy(values))
    native_shape = tuple(int(length) for length in image[0].shape)
    return Prepared(identifier, normalised.numpy(), classes, to_affine, native_shape, affine, settings)


def to_native(array: np.ndarray, prepared: Prepared | PreparedFile, *, mode: str = "nearest") -> np.ndarray:
    """Take an array on the grid of a prepared case back to the grid of the case's files.

    Where preparation only reordered, flipped and cropped axes, this is exact in both modes: nothing is interpolated.

    Parameters
    ----------
    array : array (..., X, Y, Z)
        On the prepared grid, such as a label map or region probabilities.
    prepared : Prepared or PreparedFile
        The case: only its grids are used.
    mode : str
        "nearest" for label maps, "linear" for probabilities.

    Returns
    -------
    array (..., *native_shape)
        0 outside the crop. In mode "linear" float32 where the spacing changes; else of the number type given.
    """
    if tuple(array.shape[-3:]) != tuple(prepared.shape):
        raise ValueError(f"the array has shape {array.shape[-3:]}, the prepared case {prepared.identifier} {prepared.shape}")
    grid = {"to_shape": prepared.native_shape, "to_affine": prepared.native_affine}
    return np.ascontiguousarray(regrid(array, prepared.affine, **grid, mode=mode))


def prepare_cohort(
    cases: Sequence[Case],
    folder: Path,
    settings: PreprocessSettings = DEFAULTS,
    *,
    workers: int | None = None,
    prune: bool = False,
    progress: bool = True,
) -> PrepareResult:
    """Prepare every case of a cohort into a folder, one file each; a second run redoes nothing.

    A file is named ``<identifier>-<hash>.safetensors`` after the contents of the case's files, the settings and the version
    of this recipe, so that a file which exists is right. Workers are threads of this process: decompression and arithmetic
    leave Python's lock, and nothing has to be started or copied. Memory is bounded by one case a worker.

    Parameters
    ----------
    cases : sequence of Case
    folder : Path
        It is made if needed.
    settings : PreprocessSettings
    workers : int, optional
        Cases at a time; by default one for each core that this process may use.
    prune : bool
        Remove files of these cases that have another hash: made from other inputs, settings or version.
    progress : bool
        Show a progress bar.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    count = max(1, joblib.cpu_count() if workers is None else workers)
    paths, faults, made = {}, {}, set()
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            futures = {pool.submit(_prepare, case, folder, settings): case.identifier for case in cases}
            for future in tqdm(as_completed(futures), total=len(futures), desc="prepare", unit="case", disable=not progress):
                try:
                    paths[futures[future]], fresh = future.result()
                    made |= {futures[future]} if fresh else set()
                except (DataError, OSError) as error:
                    faults[futures[future]] = str(error)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
    order = [case.identifier for case in cases]
    paths = {name: paths[name] for name in order if name in paths}
    pruned = prune_prepared(folder, paths) if prune else ()
    return PrepareResult(
        paths, {name: faults[name] for name in order if name in faults}, tuple(n for n in order if n in made), pruned
    )


def estimate_size(cases: Sequence[Case], settings: PreprocessSettings = DEFAULTS) -> int:
    """Bytes that the prepared cases will take, about: the grids from every header, the crop from the first readable case."""
    boxes, share = [], None
    for case in cases:
        try:
            header = open_volume(case.images[MODALITIES[0]].path)
            boxes.append(np.prod(header.shape[:3]) * np.prod(spacing_of(header.affine)))
            if share is None:
                first = preprocess_image(*read_modalities(case), settings)
                share = first.image[0].size / boxes[-1]
        except (DataError, KeyError):
            continue
    return round(sum(boxes) * (share or 0) * (2 * len(MODALITIES) + 1))


def _prepare(case: Case, folder: Path, settings: PreprocessSettings) -> tuple[Path, bool]:
    """Prepare one case unless its file exists; returns the file and whether it was made now."""
    if case.missing:
        raise DataError(
            f"case {case.identifier} has no {' and no '.join(case.missing)} file; leave the case out or add the file"
        )
    path = prepared_path(case, folder, settings)
    if path.is_file():
        return path, False
    return save_prepared(path, preprocess_case(case, settings)), True
