"""Stage the source code of a job, from an explicit list: no secret, notebook or image of a patient leaves the machine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from brats_cohort.files import DataError
from helpers.workspace import REPOSITORY

ROOTS = (".", "packages/brats-cohort/src", "packages/glioma-phantom/src")
"""Folders of the repository whose packages a job gets, beside each other."""
PACKAGES, SUFFIXES = ("helpers", "brats_cohort", "glioma_phantom"), (".py", ".json")
LEFT_OUT = ("helpers/running.py", "helpers/plots", "helpers/models/released")
"""Parts of the package that no job needs."""
ENTRY = "train.py"
ENTRY_CODE = """import sys

from helpers.cloud.jobs import main

sys.exit(main(sys.argv[1:]))
"""
NEEDED = "cloud/docker/requirements.txt"
"""What jobs and endpoints import, in the image too."""
IN_IMAGE = re.compile(r"torch|triton|nvidia-.*|cuda-.*|setuptools|pip")
"""Comes with AWS's image, built for its GPUs, and is neither replaced nor constrained."""


def source_files(repository: Path = REPOSITORY) -> dict[Path, Path]:
    """Find the files that a job gets, Python and JSON and nothing else: path in the job's folder, path in the repository."""
    roots = [repository / root for root in ROOTS]
    found = ((path.relative_to(root), path) for root in roots for name in PACKAGES for path in sorted((root / name).rglob("*")))
    return {
        target: path
        for target, path in found
        if path.suffix in SUFFIXES
        and not target.as_posix().startswith(LEFT_OUT)
        and not any(part.startswith((".", "__pycache__")) for part in target.parts)
    }


def stage_source(folder: Path, *, repository: Path = REPOSITORY) -> Path:
    """Copy the source into a folder of its own, with its entry point ``train.py`` and its requirements.

    The SDK packs whole folders, and not always without what its ignore patterns name: so the folder holds only what may go.
    ``constraints.txt`` gives pip the versions of the lock, also for what ``requirements.txt`` needs in turn.

    Raises `DataError` if the lock is missing.
    """
    folder, lock = Path(folder), repository / "requirements.lock"
    if not lock.is_file():
        raise DataError(f"{lock} does not exist", "work in a complete copy of the repository")
    shutil.rmtree(folder, ignore_errors=True)
    for target, path in source_files(repository).items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / target)
    (folder / ENTRY).write_text(ENTRY_CODE, encoding="utf-8")
    needed = (repository / NEEDED).read_text(encoding="utf-8")
    (folder / "requirements.txt").write_text(f"--constraint constraints.txt\n{needed}", encoding="utf-8")
    locked = [line for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line]
    pins = [line for line in locked if not IN_IMAGE.fullmatch(line.partition("==")[0])]
    (folder / "constraints.txt").write_text("\n".join(pins) + "\n", encoding="utf-8")
    return folder


def main(words: Sequence[str]) -> int:
    """Run ``python -m helpers train`` with the hyperparameters of a SageMaker job, ``--name value``; returns the exit status.

    Those that SageMaker adds for itself are left out.
    """
    from helpers.cli import main as run

    pairs = zip(words[::2], words[1::2], strict=True)
    return run(["train", *(word for pair in pairs if not pair[0].startswith(("--_", "--sagemaker_")) for word in pair)])
