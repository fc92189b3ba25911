"""Where a run of the notebooks reads and writes: one folder a cohort, the same names in every notebook."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from brats_cohort.files import DataError, require_writable, write_atomically

REPOSITORY = Path(__file__).resolve().parents[1]
"""Folder that holds the package, the notebooks and, by default, ``data`` and ``outputs``."""

VERSIONED = ("torch", "monai", "lightning", "numpy", "nibabel")
"""Packages whose versions are kept beside every result."""


@dataclass(frozen=True)
class Workspace:
    """Folders of one cohort, such as "phantom" or "brats2021": what the notebooks write is below `root`.

    The cohort itself, `data`, is only read, except for the phantoms, which the first notebook makes there.
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
        "phantom", or the name of a dataset format that `brats_cohort.formats` knows.
    data, out : str or Path
        The cohort's folder and that for results; empty for ``data/<cohort>`` and ``outputs/<cohort>`` in the repository.

    Raises
    ------
    DataError
        If the cohort's folder does not exist (only that of the phantoms is made) or holds `out`, or results cannot be written.
    """
    cohort = cohort.lower()
    folder = Path(data).expanduser().absolute() if data else REPOSITORY / "data" / cohort
    if cohort != "phantom" and not folder.is_dir():
        problem = f"the folder of cohort {cohort} {'does not exist' if data else 'was not given'} (looked at {folder})"
        raise DataError(problem, "set DATA to the folder that holds the cases")
    root = Path(out).expanduser().absolute() if out else REPOSITORY / "outputs" / cohort
    if root.resolve().is_relative_to(folder.resolve()):  # the phantoms of notebook 03, for example
        raise DataError(f"results in {root} would be read as cases of {folder}", "set OUT to a folder outside DATA")
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
    with write_atomically(path := metrics_path(workspace, notebook)) as temporary:
        temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def load_metrics(workspace: Workspace, notebook: str) -> dict:
    """Read what `save_metrics` wrote."""
    return json.loads(metrics_path(workspace, notebook).read_text(encoding="utf-8"))


def metrics_path(workspace: Workspace, notebook: str) -> Path:
    """Name the file that keeps the numbers of a notebook."""
    return workspace.root / notebook / "metrics.json"


def pick_device(name: str) -> str:
    """Return the device that PyTorch can use under this name; "auto" takes a GPU if there is one. Raises `DataError`."""
    import torch

    gpus = torch.cuda.device_count()
    wanted = name.strip().lower().replace("gpu", "cuda")
    wanted = f"cuda:{wanted}" if wanted.isdecimal() else wanted
    if wanted == "auto":
        return "cuda" if gpus else "cpu"
    kind, _, number = wanted.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise DataError(f"--device is {name}, which does not work here", "take auto, cpu, cuda or cuda:1")
    if kind == "cuda" and int(number or 0) >= gpus:
        raise DataError(f"--device is {name}, but PyTorch sees {gpus or 'no'} CUDA GPU here", "take auto or cpu")
    return "cpu" if kind == "cpu" else wanted


def versions() -> dict[str, str]:
    """Find the versions of Python, this package and those of `VERSIONED`, read without importing any of them."""
    from helpers import __version__

    return {"python": platform.python_version(), "helpers": __version__, **{name: metadata.version(name) for name in VERSIONED}}


def _plain(value: object) -> float | int | str | None:
    """A number as JSON knows it: out of its NumPy or torch scalar, null where it is not finite."""
    plain = value.item() if hasattr(value, "item") else value
    if not isinstance(plain, (bool, int, float, str)):
        raise TypeError(f"metrics hold numbers and text, not {type(value).__name__}")
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
