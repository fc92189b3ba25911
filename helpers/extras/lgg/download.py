"""Fetching the Kaggle LGG cohort. Tested against a stand-in for the package kaggle: the real service was out of reach."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from helpers.data.download import fetch_from_kaggle, kaggle_archive
from helpers.workspace import DataError

DATASET = "mateuszbuda/lgg-mri-segmentation"
ROOT = "kaggle_3m/"
"""Folder of the patients in the archive, which holds everything a second time below a folder of its own name."""


def download_lgg(folder: Path, *, progress: bool = True) -> Path:
    """Fetch the cohort of Buda et al. (110 patients, 1 GB) from Kaggle, so that `folder` holds ``kaggle_3m``.

    Returns
    -------
    Path
        `folder`. A cohort that is already there is left as it is.

    Raises
    ------
    DataError
        If there is no Kaggle token, it is readable by others, the package kaggle is absent, or the download fails.
    """
    folder, archive = Path(folder), kaggle_archive(folder, DATASET)
    if (folder / ROOT).is_dir():
        return folder
    fetch_from_kaggle(DATASET, folder, progress=progress)
    aside = folder / ".unpacked"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(aside, [name for name in zipped.namelist() if name.startswith(ROOT)])
        (aside / ROOT).replace(folder / ROOT)
    except (zipfile.BadZipFile, FileNotFoundError) as error:
        archive.unlink(missing_ok=True)
        raise DataError(
            f"{archive.name} from Kaggle was damaged ({error}) and is deleted", "run the same command again"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    archive.unlink()
    return folder
