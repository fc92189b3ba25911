"""Stage the source code of a job, from an explicit list: no secret, notebook or image of a patient leaves the machine."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
"""What jobs and endpoints import, in the image too; what these packages need in turn, `closure` finds out."""
IN_IMAGE = re.compile(r"torch|triton|nvidia-.*|cuda-.*|setuptools|pip")
"""Comes with AWS's image, built for its GPUs, and must not be replaced."""


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
    """Copy the source into a folder of its own, with its entry point ``train.py`` and ``requirements.txt``.

    The SDK packs whole folders, and not always without what its ignore patterns name: so the folder holds only what may go.

    Raises `DataError` if the lock is missing.
    """
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    for target, path in source_files(repository).items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / target)
    (folder / ENTRY).write_text(ENTRY_CODE, encoding="utf-8")
    needed = (repository / NEEDED).read_text(encoding="utf-8").splitlines()
    pins = pinned_requirements(repository / "requirements.lock", [line for line in needed if not line.startswith("#")])
    (folder / "requirements.txt").write_text(pins, encoding="utf-8")
    return folder


def pinned_requirements(lock: Path, needed: Iterable[str]) -> str:
    """Pin what the jobs import and all that it needs, as lines ``name==version``.

    As the lock has them; what it does not name yet is pinned to what is installed here. Raises `DataError` without a lock.
    """
    if not lock.is_file():
        raise DataError(f"{lock} does not exist", "work in a complete copy of the repository")
    lines = [line.strip() for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line]
    versions = {canonicalize_name(line.partition("==")[0]): line for line in lines}
    found = {name: versions.get(name) or f"{name}=={importlib.metadata.version(name)}" for name in closure(needed)}
    return "".join(f"{found[name]}\n" for name in sorted(found))


def closure(needed: Iterable[str]) -> set[str]:
    """Collect packages and everything installed that they require, by canonical name, without what the image brings."""
    waiting, found = [canonicalize_name(name) for name in needed], set()
    while waiting:
        name = waiting.pop()
        if name in found or IN_IMAGE.fullmatch(name):
            continue
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        parsed = map(Requirement, required)
        waiting += [canonicalize_name(one.name) for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def main(words: Sequence[str]) -> int:
    """Run ``python -m helpers train`` with the hyperparameters of a SageMaker job, ``--name value``; returns the exit status.

    Those that SageMaker adds for itself are left out.
    """
    from helpers.cli import main as run

    pairs = zip(words[::2], words[1::2], strict=True)
    return run(["train", *(word for pair in pairs if not pair[0].startswith(("--_", "--sagemaker_")) for word in pair)])
