"""Fetch public cohorts: BraTS 2021 and the slices of LGG through the Kaggle API, MSD Task01 from MONAI's mirror.

A download that broke off continues where it stopped, and what arrives is extracted aside and then renamed, so that a cohort's
folder never holds half a file. MONAI's own `download_and_extract` starts again from nothing, which hurts with 7 GB. Tested
against a local server and a stand-in for the package kaggle (whose calls were compared with the source of kaggle 2.2.5); the
real services were out of reach when this was written.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import requests
from tqdm.auto import tqdm

from brats_cohort.files import DataError

KAGGLE_DATASET, KAGGLE_ARCHIVE = "dschettler8845/brats-2021-task1", "BraTS2021_Training_Data.tar"
LGG_DATASET, LGG_ROOT = "mateuszbuda/lgg-mri-segmentation", "kaggle_3m/"
MSD_TASK = "Task01_BrainTumour"
MSD_ADDRESS, MSD_MD5 = f"https://msd-for-monai.s3-us-west-2.amazonaws.com/{MSD_TASK}.tar", "240a19d752f0d9e9101544901065d872"
"""As `monai.apps.DecathlonDataset` has them."""
CHUNK = 2**16
"""Bytes read at a time; when a download breaks off, at most as many are received in vain."""


def download_msd(folder: Path, *, progress: bool = True) -> Path:
    """Fetch MSD Task01 (484 cases with reference, 7 GB) so that `folder` holds dataset.json, imagesTr and labelsTr.

    A cohort that is already there is left as it is. Raises `DataError` if the folder holds images of another cohort, which
    would be replaced, the server cannot be reached, or what arrived is damaged or unsafe to extract.
    """
    folder, archive = Path(folder), Path(folder) / f"{MSD_TASK}.tar"
    if (folder / "dataset.json").is_file() and not archive.exists():
        return folder
    old = next((folder / part for part in ("imagesTr", "imagesTs", "labelsTr") if (folder / part).exists()), None)
    if old and not archive.exists():  # with it, an extraction was interrupted
        raise DataError(f"{old} is there already, of another cohort as it has no dataset.json", "give another folder to --out")
    fetch(MSD_ADDRESS, archive, md5=MSD_MD5, progress=progress)
    with archive.open("rb") as stream:
        extract(tar_entries(stream), folder, name=archive.name, base=MSD_TASK)
    archive.unlink()
    return folder


def download_brats2021(folder: Path, *, progress: bool = True) -> Path:
    """Fetch the BraTS 2021 training cases (1251 cases, 13 GB) from Kaggle into `folder`, one folder a case.

    A cohort that is already there is left as it is. Raises `DataError` if there is no Kaggle token, it is readable by
    others, the package kaggle is absent, or the download fails.
    """

    def entries(zipped: zipfile.ZipFile) -> Iterator[tuple[str, BinaryIO]]:
        with zipped.open(KAGGLE_ARCHIVE) as stream:
            yield from tar_entries(stream)

    return _from_kaggle(KAGGLE_DATASET, Path(folder), "BraTS2021_*/*.nii*", entries, progress)


def download_lgg(folder: Path, *, progress: bool = True) -> Path:
    """Fetch the slices of Buda et al. (110 patients, 1 GB) from Kaggle, so that `folder` holds ``kaggle_3m``.

    The archive holds them twice. Otherwise as `download_brats2021`.
    """

    def entries(zipped: zipfile.ZipFile) -> Iterator[tuple[str, BinaryIO]]:
        for name in zipped.namelist():
            if name.startswith(LGG_ROOT) and not name.endswith("/"):
                yield name, zipped.open(name)

    return _from_kaggle(LGG_DATASET, Path(folder), f"{LGG_ROOT}*/*.tif", entries, progress)


def _from_kaggle(dataset: str, folder: Path, sign: str, entries: Callable, progress: bool) -> Path:
    """Fetch the zip archive of a Kaggle data set and extract some of its entries; `sign` is a pattern of what they hold."""
    archive = folder / f"{dataset.rpartition('/')[2]}.zip"
    if next(folder.glob(sign), None) and not archive.exists():
        return folder
    require_kaggle_token()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import kaggle  # reads the token while it is imported, hence after the check

        kaggle.api.authenticate()
        kaggle.api.dataset_download_files(dataset, path=str(folder), quiet=not progress, unzip=False)
    except ImportError as error:
        raise DataError("the package kaggle is not installed", "run `pip install kaggle` and try again") from error
    except (OSError, ValueError, SystemExit) as error:  # older versions of kaggle end the process on a wrong token
        problem = f"Kaggle did not hand out {dataset} ({error})"
        raise DataError(problem, "check token, network and disk, run the same command again") from error
    try:
        with zipfile.ZipFile(archive) as zipped:
            extract(entries(zipped), folder, name=archive.name)
        if next(folder.glob(sign), None) is None:
            raise KeyError(sign)
    except (zipfile.BadZipFile, zlib.error, KeyError, FileNotFoundError) as error:
        archive.unlink(missing_ok=True)
        problem = f"{archive.name} from Kaggle was damaged ({error}) and is deleted"
        raise DataError(problem, "run the same command again") from error
    archive.unlink()
    return folder


def require_kaggle_token() -> Path:
    """Path of the user's Kaggle token, after making sure that it exists and that nobody else can read it."""
    token = Path(os.environ.get("KAGGLE_CONFIG_DIR") or Path.home() / ".kaggle") / "kaggle.json"
    closed = f"`chmod 600 {token}`"
    if not token.is_file():
        remedy = f"create an API key of the kind kaggle.json at https://www.kaggle.com/settings, save it there and run {closed}"
        raise DataError(f"there is no Kaggle token at {token}", remedy)
    if os.name == "posix" and token.stat().st_mode & 0o077:
        raise DataError(f"the Kaggle token {token} can be read by other users of this machine", f"run {closed}")
    return token


def fetch(url: str, target: Path, *, md5: str, progress: bool = True, attempts: int = 5, pause: float = 2.0) -> Path:
    """Download a file so that `target` is either complete and right or absent.

    Until it is complete it grows as ``<target>.part`` beside it, from which the next call continues. `md5` is the checksum that
    the publisher states, in hexadecimal; `attempts` says how often in a row to try without receiving anything, with `pause`
    seconds between. Raises `DataError` if the server refuses or keeps breaking off, or the checksum differs, in which case the
    file is deleted.
    """
    target = Path(target)
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    failures = 0
    while True:
        before = _size(part)
        try:
            _receive(url, part, progress)
            break
        except requests.RequestException as error:
            failures = 0 if _size(part) > before else failures + 1
            refused = error.response is not None and 400 <= error.response.status_code < 500  # wrong or closed address
            if failures >= attempts or refused:
                remedy = f"check the network and run the same command again, it continues after {_size(part) / 1e9:.2f} GB"
                raise DataError(f"{url} cannot be downloaded ({error})", remedy) from error
            time.sleep(pause)
        except OSError as error:
            raise DataError(f"{part} cannot be written ({error})", "make room and run the same command again") from error
    with part.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        part.unlink()
        raise DataError(f"{target.name} arrived with checksum {found} instead of {md5} and was deleted", "download it again")
    return part.replace(target)


def tar_entries(stream: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    """Names and contents of the files in a tar archive, compressed or not, read from front to back."""
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            if not (member.isfile() or member.isdir()):
                raise tarfile.TarError(f"{member.name} is no plain file")
            if member.isfile():
                yield member.name, archive.extractfile(member)
    while stream.read(CHUNK):  # a zip compares its checksum at the end of a member
        pass


def extract(entries: Iterable[tuple[str, BinaryIO]], folder: Path, *, name: str, base: str = "") -> None:
    """Extract the entries of an archive into `folder`, which they reach only after all of them were read.

    `name` is that of the archive for errors; with `base` only the entries of that folder inside the archive go to `folder`.
    Raises `DataError` if the archive is damaged, or an entry is no plain file or would leave the folder.
    """
    aside = Path(folder) / ".extracting"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        for entry, stream in entries:
            parts = PurePosixPath(entry).parts
            if parts[0] == "/" or ".." in parts:
                raise tarfile.TarError(f"{entry} leads out of the folder")
            if parts[-1].startswith("._"):  # left by macOS in the published archive of MSD
                continue
            target = aside.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as copy:
                shutil.copyfileobj(stream, copy)
        # dataset.json comes after the folders it describes, so that it marks a complete cohort
        for entry in sorted((aside / base).iterdir(), key=Path.is_file):
            target = Path(folder) / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            entry.replace(target)
    except (tarfile.TarError, EOFError, FileNotFoundError) as error:
        raise DataError(f"{name} cannot be extracted ({error})", "delete it and download it again") from error
    except OSError as error:
        raise DataError(f"{name} cannot be extracted ({error})", "make room and run the same command again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _receive(url: str, part: Path, progress: bool) -> None:
    """Append to `part` what the server still has; start again where it cannot continue."""
    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=60) as response:
        if have and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is left to send; whether that is because all of it is here, the checksum tells
        response.raise_for_status()
        continues = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if continues else 0
        total = have + int(response.headers.get("Content-Length", 0)) or None
        bar = tqdm(desc=part.stem, total=total, initial=have, unit="B", unit_scale=True, disable=not progress)
        with part.open("ab" if continues else "wb") as stream, bar:
            for chunk in response.iter_content(CHUNK):
                stream.write(chunk)
                bar.update(len(chunk))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
