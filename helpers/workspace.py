"""Where a run of the notebooks reads and writes: one folder a cohort, the same names in every notebook."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from safetensors import SafetensorError

REPOSITORY = Path(__file__).resolve().parents[1]
"""Folder that holds the package, the notebooks and, by default, ``data`` and ``outputs``."""

VERSIONED = ("torch", "monai", "lightning", "numpy", "nibabel")
"""Packages whose versions are kept beside every result."""


class DataError(ValueError):
    """An input is wrong: `problem` says what, with the case and the file, `remedy` what to do about it."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem, self.remedy = printable(problem), printable(remedy)

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}"


def printable(text: str) -> str:
    """Replace what came from a file name that is not UTF-8 by its bytes as %e4, so that the text can be printed and saved."""
    return "".join(f"%{ord(sign) - 0xDC00:02x}" if 0xDC80 <= ord(sign) <= 0xDCFF else sign for sign in text)


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Let an import find modules absent that are optional to it and would take long; afterwards they can be imported."""
    absent = {name: None for name in names if name not in sys.modules}
    sys.modules.update(absent)  # None is what Python itself takes for a module that cannot be imported
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextmanager
def write_atomically(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Write a file so that it is either complete or absent, also after a crash or when several processes write it.

    Yields a file beside the target to write to; it is renamed at the end of the block and removed after an error. The
    folder is made, and what is there already stays until the new file is complete. With `durable` the disk has the file at
    the end, so that it survives a power cut. Raises `DataError` if the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be written ({reason})", "make room or choose another folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def require_writable(folder: Path) -> Path:
    """Make a folder for results and try to write there, before any work is done; raises `DataError`."""
    with write_atomically(Path(folder) / ".writable") as probe:
        probe.touch()
    (Path(folder) / ".writable").unlink(missing_ok=True)
    return Path(folder)


@dataclass(frozen=True)
class Workspace:
    """Folders of one cohort.

    Attributes
    ----------
    root : Path
        Everything that the notebooks write.
    cohort : str
        "phantom", "brats2021" or another name; results of different cohorts never mix.
    data : Path
        The cohort itself. Only read, except for the phantoms, which the first notebook makes there.
    """

    root: Path
    cohort: str
    data: Path

    @property
    def splits(self) -> Path:
        """The split manifest."""
        return self.root / "splits.json"

    @property
    def prepared(self) -> Path:
        """Prepared cases, one file a case."""
        return self.root / "prepared"

    @property
    def models(self) -> Path:
        """Checkpoints and their model cards."""
        return self.root / "models"

    @property
    def predictions(self) -> Path:
        """Predicted label maps in native space."""
        return self.root / "predictions"


def open_workspace(cohort: str, *, data: str | Path = "", out: str | Path = "") -> Workspace:
    """Find the folders of a cohort, as absolute paths, and make the one for results.

    Parameters
    ----------
    cohort : str
        "phantom", or the name of a dataset format that `helpers.data.cases` knows.
    data, out : str or Path
        The cohort's folder and that for results; empty for ``data/<cohort>`` and ``outputs/<cohort>`` in the repository.

    Raises
    ------
    DataError
        If the cohort's folder does not exist (only that of the phantoms is made), or results cannot be written.
    """
    cohort = cohort.lower()
    folder = Path(data).expanduser().absolute() if data else REPOSITORY / "data" / cohort
    if cohort != "phantom" and not folder.is_dir():
        given = "does not exist" if data else "was not given"
        problem = f"the folder of cohort {cohort} {given} (looked at {folder})"
        raise DataError(problem, "set DATA to the folder that holds the cases")
    root = Path(out).expanduser().absolute() if out else REPOSITORY / "outputs" / cohort
    try:
        return Workspace(require_writable(root), cohort, folder)
    except DataError as error:
        raise DataError(error.problem, "set OUT to a folder of yours") from error


def save_metrics(
    workspace: Workspace, notebook: str, numbers: Mapping[str, float | int | str], *, checkpoint: str | None
) -> Path:
    """Write the numbers of one notebook, such as "03_train_unet", to ``<root>/<notebook>/metrics.json`` and return that path.

    `numbers` maps names (with unit) to values, the most telling first; one that is not finite is kept as null. `checkpoint`
    is the SHA-256 of the checkpoint that gave them, None if none was involved.
    """
    record = {
        "notebook": notebook,
        "cohort": workspace.cohort,
        "numbers": {name: _plain(value) for name, value in numbers.items()},
        "checkpoint_sha256": checkpoint,
        "versions": versions(),
    }
    path = metrics_path(workspace, notebook)
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def load_metrics(workspace: Workspace, notebook: str) -> dict:
    """Read what `save_metrics` wrote."""
    return json.loads(metrics_path(workspace, notebook).read_text(encoding="utf-8"))


def metrics_path(workspace: Workspace, notebook: str) -> Path:
    """Where the numbers of a notebook are kept."""
    return workspace.root / notebook / "metrics.json"


def versions() -> dict[str, str]:
    """Versions of Python, this package and those of `VERSIONED`, read without importing any of them."""
    from helpers import __version__

    return {"python": platform.python_version(), "helpers": __version__, **{name: metadata.version(name) for name in VERSIONED}}


def _plain(value: object) -> float | int | str | None:
    """A number as JSON knows it: out of its NumPy or torch scalar, null where it is not finite."""
    plain = value.item() if hasattr(value, "item") else value
    if not isinstance(plain, (bool, int, float, str)):
        raise TypeError(f"metrics hold numbers and text, not {type(value).__name__}")
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
