"""From the files of a case to an array a network can use, and from there back to the patient's own grid.

The recipe: orientation RAS, crop to the brain, one spacing for all cases, where wanted no bias field, intensities on one scale.
Cropping comes before everything that costs time: two thirds of a BraTS volume are air.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import joblib
import numpy as np
import torch
from joblib.parallel import get_active_backend
from tqdm.auto import tqdm

from brats_cohort.case import Case, fault_of
from brats_cohort.cases import naming_faults, raise_first, read_classes
from brats_cohort.files import DataError, require_writable
from brats_cohort.grid import bounding_box
from brats_cohort.session import read_session
from helpers.data.prepared import Prepared, PreparedFile, PreprocessSettings, is_intact, prepared_path, save_prepared
from helpers.data.resample import coincide, cropped_affine, ras_grid, regrid, regrid_classes

BLOCK_MM = 6.0  # edge of the blocks whose averages the field is fitted to
PIECES = (1, 2)  # polynomial pieces along each axis, coarse before fine; more would follow the tumour and take it for bias
ITERATIONS, CONVERGED = 30, 0.001  # at most so many for each of them, fewer once the field's relative change is below this
BINS, FWHM, NOISE = 200, 0.15, 0.01  # of the histogram, and of the Gaussian that a Wiener filter takes out: N4's defaults
DEFAULTS = PreprocessSettings()


def correct_bias(volume: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Divide one modality by its bias field in place, and return the field, float32 (X, Y, Z) about 1.

    SimpleITK's N4 leaves less of a field, but takes about four times as long, and its last digits depend on the number of
    threads; `benchmarks.bias_field` compares the two.

    `volume` is float32 (X, Y, Z) with intensities as scanned, 0 outside the brain; negative voxels are divided too, but do not
    count for the field. `spacing` gives its voxel edges in mm.
    """
    edges = [max(1, round(BLOCK_MM / edge)) for edge in spacing]
    averages = _block_averages(volume, edges)
    inside = averages > 0
    left = np.log(averages[inside])
    field = np.zeros(volume.shape, dtype=np.float32)
    if left.size and np.ptp(left) > 0:
        # Positions are shares of the volume's length, the middles of voxels and of blocks alike.
        voxels = [(np.arange(length) + 0.5) / length for length in volume.shape]
        blocks = [
            np.minimum((np.arange(n) + 0.5) * e / v, 1) for n, e, v in zip(averages.shape, edges, volume.shape, strict=True)
        ]
        for pieces in PIECES:
            coefficients, left = _fit(left, inside, [_basis(axis, pieces) for axis in blocks])
            field += _on_grid(coefficients.astype(np.float32), [_basis(axis, pieces).astype(np.float32) for axis in voxels])
    np.exp(field, out=field)
    volume /= field
    return field


def _block_averages(volume: np.ndarray, edges: Sequence[int]) -> np.ndarray:
    """Averages over the positive voxels of every block, 0 where those are less than half of it."""
    padded = np.pad(volume, [(0, -length % edge) for length, edge in zip(volume.shape, edges, strict=True)]).clip(min=0)
    count, total = _block_sums(padded > 0, edges), _block_sums(padded, edges)
    return np.where(2 * count >= np.prod(edges), total / np.maximum(count, 1), 0)


def _block_sums(volume: np.ndarray, edges: Sequence[int]) -> np.ndarray:
    """Sums over the voxels of every block, axis by axis: several times as fast as over three axes at once."""
    for axis, edge in enumerate(edges):
        volume = volume.reshape(*volume.shape[:axis], -1, edge, *volume.shape[axis + 1 :]).sum(axis + 1, dtype=np.float64)
    return volume


def _basis(positions: np.ndarray, pieces: int) -> np.ndarray:
    """Values (n, pieces + 3) of the cubic B-splines over [0, 1] at n positions."""
    from scipy.interpolate import BSpline  # 0.3 s of every prediction's start otherwise

    knots = np.arange(-3, pieces + 4) / pieces
    return BSpline.design_matrix(positions, knots, 3).toarray()


def _fit(logarithms: np.ndarray, inside: np.ndarray, bases: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of the logarithm of the field, and the logarithms without it, at the blocks inside the brain.

    A coefficient is the weighted mean of what each block asks of it (Lee, Wolberg and Shin, IEEE TVCG 3, 1997). Least squares
    would follow the rim of the brain and overshoot beyond it.
    """
    squares = [basis**2 for basis in bases]
    asked = [basis * square / square.sum(axis=1, keepdims=True) for basis, square in zip(bases, squares, strict=True)]
    support = _on_splines(inside.astype(float), squares)
    coefficients, left, wanted = np.zeros_like(support), logarithms, np.zeros(inside.shape)
    for _ in range(ITERATIONS):
        wanted[inside] = left - _sharpened(left)
        step = _on_splines(wanted, asked) / np.where(support > 0, support, 1)
        change = _on_grid(step, bases)[inside]
        coefficients, left = coefficients + step, left - change
        if np.exp(change).std() < CONVERGED * np.exp(change).mean():
            break
    return coefficients, left


def _on_grid(coefficients: np.ndarray, bases: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of all products of splines, one spline an axis, at the points of a grid; a basis is (points, splines)."""
    for basis in bases:  # each turn contracts the first axis and appends one of the grid
        coefficients = np.tensordot(coefficients, basis, axes=(0, 1))
    return coefficients


def _on_splines(values: np.ndarray, bases: Sequence[np.ndarray]) -> np.ndarray:
    """Sums over a grid, weighted with every product of splines: the transpose of `_on_grid`."""
    for basis in bases:
        values = np.tensordot(values, basis, axes=(0, 0))
    return values


def _sharpened(values: np.ndarray) -> np.ndarray:
    """What every value would be, on average, without the Gaussian that bias has widened the histogram by."""
    low, high = values.min(), values.max()
    width = (high - low) / (BINS - 1)
    if width == 0:
        return values
    place = (values - low) / width
    lower = np.minimum(place.astype(int), BINS - 2)
    share = place - lower
    padded = 2 ** int(np.ceil(np.log2(2 * BINS)))
    first = (padded - BINS) // 2
    histogram = np.bincount(lower + first, 1 - share, padded) + np.bincount(lower + first + 1, share, padded)
    distance = np.minimum(np.arange(padded), padded - np.arange(padded)) * width
    gaussian = np.exp(-4 * np.log(2) * (distance / FWHM) ** 2)
    blur = np.fft.rfft(gaussian / gaussian.sum())
    wiener = blur.conj() / (np.abs(blur) ** 2 + NOISE)
    sharp = np.fft.irfft(np.fft.rfft(histogram) * wiener, padded).clip(min=0)
    centres = low + (np.arange(padded) - first) * width
    blurred, weighted = (np.fft.irfft(np.fft.rfft(each) * blur, padded) for each in (sharp, sharp * centres))
    expected = np.where(blurred > 1e-9 * blurred.max(), weighted / np.maximum(blurred, 1e-12), centres)
    return expected[lower + first] * (1 - share) + expected[lower + first + 1] * share


def resample_brain(
    volumes: Sequence[np.ndarray], affine: np.ndarray, *, to_shape: Sequence[int], to_affine: np.ndarray
) -> list[np.ndarray]:
    """Resample the modalities of a case linearly within the brain: float32 (X, Y, Z) each.

    A plain average would mix the zeros outside into the border of the brain, and a little brain into the air around it. Each
    value is therefore divided by the share of brain in it, and is 0 where that share is less than half.
    """
    brain = reduce(np.logical_or, (volume != 0 for volume in volumes))
    share = regrid(brain, affine, to_shape=to_shape, to_affine=to_affine, mode="linear")
    weight = (share >= 0.5) / np.maximum(share, 0.5)
    return [regrid(volume, affine, to_shape=to_shape, to_affine=to_affine, mode="linear") * weight for volume in volumes]


def normalise(values: np.ndarray, settings: PreprocessSettings) -> None:
    """Bring one modality, float32, to the scale of the settings in place; 0, which is outside the brain, stays exactly 0."""
    tensor = torch.from_numpy(values)
    brain = tensor.clone().ne_(0)  # as float32, since a product of float32 with bool is ten times as slow
    count = max(int(brain.sum()), 1)
    if settings.normalise == "zscore":
        mean = float(tensor.sum()) / count
        tensor.sub_(mean).mul_(brain)
        deviation = float(torch.linalg.vector_norm(tensor)) / count**0.5
        tensor.mul_(1 / deviation if deviation > 1e-5 * abs(mean) else 0.0)  # less is the rounding of one and the same value
    else:
        inside = values[values != 0]
        low, high = np.percentile(inside, settings.percentiles) if len(inside) else (0.0, 0.0)
        tensor.sub_(low).mul_(1 / (high - low) if high > low else 0.0).clamp_(0, 1).mul_(brain)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread: the last digit of its sums over a volume depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class PrepareResult:
    """Prepared files by identifier, one sentence for every case without, and which were made now, not there already."""

    paths: dict[str, Path]
    faults: dict[str, str]
    made: tuple[str, ...]


def preprocess_case(case: Case, settings: PreprocessSettings = DEFAULTS) -> Prepared:
    """Read and prepare one case; raises `DataError` as `brats_cohort.session.read_session`."""
    session = read_session(case)
    classes = read_classes(case)[0] if case.label is not None else None
    return preprocess_image(session.image, session.affine, settings, classes=classes, identifier=case.identifier)


@one_thread()
def preprocess_image(
    image: np.ndarray | Sequence[np.ndarray],
    affine: np.ndarray,
    settings: PreprocessSettings = DEFAULTS,
    *,
    classes: np.ndarray | None = None,
    identifier: str = "",
) -> Prepared:
    """Prepare arrays that are in memory; the result is the same to the last bit whatever the number of threads.

    `image`, (4, X, Y, Z) or four arrays (X, Y, Z), may have any grid and units and is 0 outside the brain, as NaN and infinite
    values also count. `affine` (4, 4) leads to millimetres in RAS+; `classes`, uint8 (X, Y, Z), is a label map in the same
    grid. Raises `DataError` if no voxel of the image is different from 0.
    """
    volumes = [np.nan_to_num(volume, posinf=0.0, neginf=0.0) if volume.dtype.kind == "f" else volume for volume in image]
    affine = np.asarray(affine, dtype=np.float64)
    box = bounding_box(reduce(np.logical_or, volumes), settings.margin)
    if box is None:
        raise DataError(f"case {identifier or '(unnamed)'} has no voxel different from 0 in any modality", "check its files")
    source = cropped_affine(affine, [part.start for part in box])
    size = [part.stop - part.start for part in box]
    shape, to_affine = ras_grid(size, source, settings.spacing)
    grid = {"to_shape": shape, "to_affine": to_affine}
    if classes is not None:
        classes = regrid_classes(classes[box], source, **grid).copy()
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
    """Take an array (..., X, Y, Z) on the grid of a prepared case back to the grid of the case's files.

    If preparation only reordered, flipped and cropped axes, this is exact. Otherwise mode "nearest" is for label maps and
    "linear" for probabilities, which become float32. The result (..., *native_shape) is 0 outside the crop.
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
    progress: bool = True,
) -> PrepareResult:
    """Prepare every case of a cohort into a folder, one file each; a second run redoes nothing.

    A file is named ``<identifier>-<hash>.safetensors`` after the contents of the case's files, the settings and the version
    of this recipe, so that a file which exists is right. Workers, by default one for each core, are threads with a case each in
    memory, since decompression and arithmetic leave Python's lock; another backend of joblib, such as a Dask cluster
    (`joblib.parallel_config`), takes their place.
    """
    folder = require_writable(folder)
    tasks = (joblib.delayed(_prepare)(case, folder, settings) for case in cases)
    paths, faults, made = {}, {}, set()
    with one_thread():
        how = "generator_unordered" if get_active_backend()[0].supports_return_generator else "list"  # Dask only lists
        run = joblib.Parallel(-1 if workers is None else max(1, workers), prefer="threads", return_as=how)
        for name, outcome, fresh in tqdm(run(tasks), total=len(cases), desc="prepare", unit="case", disable=not progress):
            (paths if isinstance(outcome, Path) else faults)[name] = outcome
            made |= {name} if fresh else set()
    order = [case.identifier for case in cases]
    paths, faults = ({name: found[name] for name in order if name in found} for found in (paths, faults))
    return PrepareResult(paths, faults, tuple(name for name in order if name in made))


def _prepare(case: Case, folder: Path, settings: PreprocessSettings) -> tuple[str, Path | str, bool]:
    """Prepare one case unless its file exists; returns its name, the file or what is wrong, and whether it was made now."""
    try:
        raise_first(case.identifier, naming_faults(case))
        path = prepared_path(case, folder, settings)
        if is_intact(path):
            return case.identifier, path, False
        return case.identifier, save_prepared(path, preprocess_case(case, settings)), True
    except Exception as error:  # a bad case never stops the others
        return case.identifier, str(fault_of(case.identifier, error)), False
