"""From a case to arrays: the one way in which images and label maps are read."""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from helpers.regions import (
    BRATS2021,
    BRATS2023,
    MODALITIES,
    MSD,
    LabelConvention,
    to_classes,
)
from helpers.workspace import DataError, write_atomically

LABEL_TOLERANCE = 1e-3
"""How far a stored label may lie from a whole number: scale factors turn 1 into 0.99999997."""


def read_volume(path: Path, *, channel: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read one 3-D volume from a NIfTI file.

    Parameters
    ----------
    path : Path
        A ``.nii`` or ``.nii.gz`` file.
    channel : int, optional
        Which volume to take from a 4-D file, counted from 0. Without it the file must be 3-D.

    Returns
    -------
    volume : array (X, Y, Z)
        In the file's own axes and number type; float32 where the header carries a scale factor.
    affine : float64 array (4, 4)
        From voxel indices to millimetres in RAS+.

    Raises
    ------
    DataError
        If the file is missing, a Git LFS pointer, not NIfTI, truncated or of the wrong dimension.
    """
    (volume,), affine = read_volumes(path, (channel,))
    return volume, affine


def read_volumes(path: Path, channels: Sequence[int | None]) -> tuple[list[np.ndarray], np.ndarray]:
    """Read several volumes of a file that is read and decompressed once; else as `read_volume`.

    A compressed file is decompressed to its end, because only there its checksum tells a damaged file from a right one; ISA-L
    does that about twice as fast as zlib, and compresses what `write_volume` writes many times as fast.
    """
    path = Path(path)
    kind = type(open_volume(path))
    try:
        content = path.read_bytes()
        image = kind.from_bytes(igzip.decompress(content) if path.suffix == ".gz" else content)
        volumes = [_read_data(image, channel, path) for channel in channels]
    except (EOFError, OSError, isal_zlib.error, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is truncated or damaged ({_one_line(error)})", "copy or download it again") from error
    return volumes, np.asarray(image.affine, dtype=np.float64)


def open_volume(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file and read its header only; raises `DataError` like `read_volume`."""
    path = Path(path)
    _reject_what_is_not_nifti(path)
    try:
        image = nib.load(path)
    except (ImageFileError, HeaderDataError, EOFError, OSError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read as NIfTI ({_one_line(error)})", "copy or download it again") from error
    if not isinstance(image, nib.Nifti1Image):
        raise DataError(f"{path} is {type(image).__name__}, not NIfTI", "convert it to .nii.gz first")
    return image


def read_label_values(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a label map as integers in the file's own numbers, with its affine.

    Values within `LABEL_TOLERANCE` of a whole number are rounded (never truncated, which would turn 0.99999997 into 0).

    Raises
    ------
    DataError
        As `read_volume`, and if a value is not a whole number.
    """
    values, affine = read_volume(path)
    if values.dtype.kind in "iu":
        return values, affine
    rounded = np.rint(values)
    wrong = ~np.isclose(values, rounded, rtol=0, atol=LABEL_TOLERANCE) | ~np.isfinite(values)
    if wrong.any():
        example = values[wrong].flat[0]
        raise DataError(
            f"{path} is not a label map: {int(wrong.sum())} voxels are not whole numbers (such as {example:.4g})",
            "resample label maps with nearest neighbour",
        )
    return rounded.astype(np.int16), affine


def write_volume(path: Path, volume: np.ndarray, affine: np.ndarray, *, like: nib.Nifti1Image | None = None) -> Path:
    """Write a 3-D volume as NIfTI so that the file is either complete or absent.

    Parameters
    ----------
    path : Path
        Target, ``.nii`` or ``.nii.gz``; folders are made.
    volume : array (X, Y, Z)
        Written in its own number type, without scaling.
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+.
    like : Nifti1Image, optional
        An image in the same grid whose header (units, qform and sform codes) is taken over, so that other viewers
        align the two files.
    """
    path = Path(path)
    header = like.header.copy() if like is not None else None
    image = nib.Nifti1Image(volume, affine, header)
    image.set_data_dtype(volume.dtype)
    image.header.set_slope_inter(1, 0)
    image.header.set_xyzt_units("mm")
    if like is None:
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=1)
    payload = image.to_bytes()
    with write_atomically(path) as temporary:
        temporary.write_bytes(igzip.compress(payload, compresslevel=1, mtime=0) if path.suffix == ".gz" else payload)
    return path


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _reject_what_is_not_nifti(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} does not exist", "check the folder and the file's name")
    with path.open("rb") as stream:
        start = stream.read(40)
    if not start:
        raise DataError(f"{path} is empty", "copy or download it again")
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"{path} is a Git LFS pointer, not the image", "run `git lfs pull` where it came from")
    gzipped = start.startswith(b"\x1f\x8b")
    if path.suffix == ".gz" and not gzipped:
        raise DataError(f"{path} is named .gz but is not gzip-compressed", "rename it to .nii or download it again")
    if path.suffix == ".nii" and gzipped:
        raise DataError(f"{path} is gzip-compressed", f"rename it to {path.name}.gz")


def _read_data(image: nib.Nifti1Image, channel: int | None, path: Path) -> np.ndarray:
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1 and channel is None:
        shape = shape[:-1]
    if channel is None and len(shape) != 3:
        raise DataError(f"{path} has shape {image.shape}, one 3-D volume was expected", "split it or choose the right layout")
    if channel is not None and (len(image.shape) != 4 or channel >= image.shape[3]):
        raise DataError(
            f"{path} has shape {image.shape}, four 3-D volumes stacked as (X, Y, Z, 4) were expected",
            "compare it with dataset.json",
        )
    proxy = image.dataobj
    plain = proxy.slope == 1 and proxy.inter == 0
    if channel is not None:
        data = proxy[..., channel]
    else:
        data = (proxy.get_unscaled() if plain else np.asarray(proxy, dtype=np.float32)).reshape(shape)
    if not plain:
        data = np.asarray(data, dtype=np.float32)
    return data.astype(data.dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True)
class Source:
    """Where one modality of a case is: a file, and for a 4-D file which of its volumes."""

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class Case:
    """One patient's imaging session.

    Attributes
    ----------
    identifier : str
        Name of the session, unique in its cohort.
    patient : str
        Name of the patient. Sessions of one patient share it, and must stay in one part of a split.
    layout : str
        Key of `LAYOUTS`.
    images : mapping from modality to Source
        The modalities that were found, keyed by `helpers.regions.MODALITIES`; a missing one has no key.
    label : Path or None
        The reference label map, where there is one.
    """

    identifier: str
    patient: str
    layout: str
    images: Mapping[str, Source]
    label: Path | None

    @property
    def missing(self) -> tuple[str, ...]:
        """Modalities for which no file was found."""
        return tuple(modality for modality in MODALITIES if modality not in self.images)

    @property
    def channels(self) -> dict[Path, dict[str, int | None]]:
        """Every image file once, with the modalities it holds and the channel of each, so that it is read once."""
        files: dict[Path, dict[str, int | None]] = {}
        for modality in (modality for modality in MODALITIES if modality in self.images):
            files.setdefault(self.images[modality].path, {})[modality] = self.images[modality].channel
        return files

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the case once, images first."""
        paths = [self.images[modality].path for modality in MODALITIES if modality in self.images]
        return tuple(dict.fromkeys(paths + ([self.label] if self.label else [])))


@dataclass(frozen=True)
class Layout:
    """A way in which cohorts are laid out on disk: its label convention and how its cases are found."""

    name: str
    convention: LabelConvention
    find: Callable[[Path], list[Case]]


def discover(folder: Path, layout: str = "auto") -> list[Case]:
    """Find the cases of a cohort.

    Parameters
    ----------
    folder : Path
        The cohort, or a single case's own folder.
    layout : str
        Key of `LAYOUTS` or of `ALIASES`, or "auto" to take the first layout of which the folder has any case.

    Returns
    -------
    list of Case
        Sorted by identifier; incomplete cases included, so that `helpers.data.checks` can report them.

    Raises
    ------
    DataError
        If the folder or the layout does not exist or the folder has no case in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"the cohort folder {folder} does not exist", "give the folder that holds the cases")
    for key in list(LAYOUTS) if layout == "auto" else [layout_key(layout)]:
        cases = LAYOUTS[key].find(folder)
        if cases:
            return _unique(sorted(cases, key=lambda case: case.identifier), folder)
    wanted = "any known layout" if layout == "auto" else LAYOUTS[layout_key(layout)].name
    raise DataError(
        f"{folder} holds no case in {wanted}", f"known layouts are {', '.join(LAYOUTS)} (see the README, your own data)"
    )


def layout_key(name: str) -> str:
    """Resolve a layout's name or alias ("brats2020", "phantom") to its key in `LAYOUTS`."""
    key = ALIASES.get(name.lower(), name.lower())
    if key not in LAYOUTS:
        raise DataError(f"there is no layout {name!r}", f"choose one of {', '.join([*LAYOUTS, *ALIASES])}")
    return key


def convention_of(case: Case) -> LabelConvention:
    """Label convention of the case's layout."""
    return LAYOUTS[case.layout].convention


def _unique(cases: list[Case], folder: Path) -> list[Case]:
    for before, after in itertools.pairwise(cases):
        if before.identifier == after.identifier:
            raise DataError(
                f"{folder} holds two cases named {after.identifier} ({after.files[0].parent})", "rename or remove one"
            )
    return cases


def _find_by_suffix(layout: str, suffixes: Mapping[str, str], separator: str, patient: Callable[[str], str]) -> Callable:
    """Finder for layouts with one folder a case and one file a modality, named <case><separator><suffix>.nii[.gz]."""
    endings = {f"{separator}{suffix}{ending}": key for key, suffix in suffixes.items() for ending in (".nii.gz", ".nii")}

    def find(folder: Path) -> list[Case]:
        found: dict[Path, dict[str, Path]] = {}
        for path in sorted(folder.rglob("*.nii*")):
            ending = next((e for e in endings if path.name.endswith(e)), None)
            if ending and not path.name.startswith("."):
                found.setdefault(path.parent / path.name.removesuffix(ending), {}).setdefault(endings[ending], path)
        cases = []
        for stem, files in found.items():
            images = {modality: Source(files[modality]) for modality in MODALITIES if modality in files}
            label = files.get("seg") or _odd_label(stem)
            if images:
                cases.append(Case(stem.name, patient(stem.name), layout, images, label))
        return cases

    return find


def _odd_label(stem: Path) -> Path | None:
    """BraTS20_Training_355 keeps its label map under the name it had before the release, W39_1998.09.19_Segm.nii."""
    return next(iter(sorted(stem.parent.glob("*_Segm.nii*"))), None)


def _find_msd(folder: Path) -> list[Case]:
    """Finder for MSD Task01: dataset.json, 4-D imagesTr (and imagesTs, without labels), labelsTr."""
    description = folder / "dataset.json"
    if not description.is_file():
        return []
    order = _msd_channels(description)
    cases = []
    for path in sorted([*folder.glob("imagesTr/*.nii*"), *folder.glob("imagesTs/*.nii*")]):
        if path.name.startswith("."):
            continue  # macOS leaves ._BRATS_001.nii.gz beside the real files in the published archive
        name = path.name.split(".nii")[0]
        label = folder / "labelsTr" / path.name
        images = {modality: Source(path, channel) for modality, channel in order.items()}
        cases.append(Case(name, name, "msd", images, label if label.is_file() else None))
    return cases


def _msd_channels(description: Path) -> dict[str, int]:
    try:
        names = json.loads(description.read_text())["modality"]
        channels = {_MSD_NAMES[name.lower()]: int(number) for number, name in names.items()}
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{description} does not describe the channels of MSD Task01 ({error!r})", "expected FLAIR, T1w, t1gd, T2w"
        ) from error
    if set(channels) != set(MODALITIES):
        raise DataError(f"{description} names the channels {sorted(channels)}", f"expected all of {list(MODALITIES)}")
    return channels


_MSD_NAMES = {"flair": "flair", "t1w": "t1", "t1": "t1", "t1gd": "t1ce", "t1ce": "t1ce", "t2w": "t2", "t2": "t2"}

LAYOUTS: dict[str, Layout] = {
    "brats2021": Layout(
        "BraTS 2018-2021 (<case>/<case>_t1.nii.gz, _t1ce, _t2, _flair, _seg)",
        BRATS2021,
        _find_by_suffix("brats2021", {**{m: m for m in MODALITIES}, "seg": "seg"}, "_", lambda name: name),
    ),
    "brats2023": Layout(
        "BraTS 2023 and later (<case>/<case>-t1n.nii.gz, -t1c, -t2w, -t2f, -seg)",
        BRATS2023,
        _find_by_suffix(
            "brats2023",
            {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"},
            "-",
            # BraTS-GLI-00005-001 is the second session of patient BraTS-GLI-00005
            lambda name: re.sub(r"-\d{3}$", "", name),
        ),
    ),
    "msd": Layout("MSD Task01 (dataset.json, imagesTr/BRATS_001.nii.gz with four channels, labelsTr)", MSD, _find_msd),
}

ALIASES: dict[str, str] = {
    "phantom": "brats2021",
    "brats2018": "brats2021",
    "brats2019": "brats2021",
    "brats2020": "brats2021",
    "brats2024": "brats2023",
    "task01": "msd",
}


def read_image(case: Case, *, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Read the four modalities of a case in the order of `MODALITIES`.

    Parameters
    ----------
    case : Case
    threads : int
        How many files to read and decompress at a time: more than one where nothing else is to be done meanwhile.

    Returns
    -------
    image : array (4, X, Y, Z)
        In the files' own grid, units and, where all four agree, number type.
    affine : float64 array (4, 4)
        From voxel indices to millimetres in RAS+.

    Raises
    ------
    DataError
        If a modality is missing, a file cannot be read, or shapes or affines differ.
    """
    volumes, affine = read_modalities(case, threads=threads)
    return np.stack(volumes), affine


def read_modalities(case: Case, *, threads: int = 1) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """As `read_image`, but four separate arrays (X, Y, Z), which spares a copy of 70 MB a case."""
    if case.missing:
        raise DataError(
            f"case {case.identifier} has no {' and no '.join(case.missing)} file", "leave the case out or add the file"
        )
    found: dict[str, np.ndarray] = {}
    grid = None
    channels = case.channels
    with ThreadPoolExecutor(threads) as pool:
        contents = pool.map(lambda path: read_volumes(path, list(channels[path].values())), channels)
        for path, (volumes, affine) in zip(channels, contents, strict=True):
            grid = grid or (path, volumes[0].shape, affine)
            _same_grid(case, path, volumes[0].shape, affine, grid)
            found.update(zip(channels[path], volumes, strict=True))
    return tuple(found[modality] for modality in MODALITIES), grid[2]


def read_classes(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Read the reference label map as classes 0 to 3, uint8 (X, Y, Z), with its affine; raises `DataError`."""
    if case.label is None:
        raise DataError(f"case {case.identifier} has no reference label map", "add one, or only predict the case")
    values, affine = read_label_values(case.label)
    try:
        return to_classes(values, convention_of(case)), affine
    except ValueError as error:
        raise DataError(f"{case.label}: {error}", "choose the layout that the labels follow") from error


def same_affine(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two affines agree to a thousandth of a voxel and of a millimetre."""
    return bool(np.allclose(first, second, rtol=0, atol=1e-3))


def _same_grid(case: Case, path: Path, shape: tuple[int, ...], affine: np.ndarray, grid: tuple) -> None:
    first, first_shape, first_affine = grid
    if shape != first_shape:
        raise DataError(
            f"case {case.identifier}: {path.name} has shape {shape}, {first.name} has {first_shape}", "resample one"
        )
    if not same_affine(affine, first_affine):
        raise DataError(
            f"case {case.identifier}: {path.name} has another affine than {first.name}", "register the modalities first"
        )
