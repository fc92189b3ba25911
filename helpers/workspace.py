"""Where a run of the notebooks reads and writes: one folder a cohort, the same names in every notebook."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from helpers.data.cases import DataError, layout_key

REPOSITORY = Path(__file__).resolve().parents[1]
"""Folder that holds the package, the notebooks and, by default, ``data`` and ``outputs``."""

OTHER_COHORTS: tuple[str, ...] = ("lgg", "ct")
"""Cohorts of the extra notebooks, which bring readers of their own and no layout of `helpers.data.cases`."""

VERSIONED = ("torch", "monai", "lightning", "numpy", "nibabel")
"""Packages whose versions are kept beside every result."""


@dataclass(frozen=True)
class Workspace:
    """Folders of one cohort.

    Attributes
    ----------
    root : Path
        Everything that the notebooks write.
    cohort : str
        "phantom", "brats2021" or another name of `helpers.data.cases`, or one of `OTHER_COHORTS`.
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
    """Find the folders of a cohort and make the one for results.

    Parameters
    ----------
    cohort : str
        "phantom", the name of a layout or alias of `helpers.data.cases`, or one of `OTHER_COHORTS`.
    data : str or Path
        The cohort's folder; empty for ``data/<cohort>`` in the repository.
    out : str or Path
        Where results go; empty for ``outputs/<cohort>`` in the repository.

    Returns
    -------
    Workspace
        With absolute paths.

    Raises
    ------
    DataError
        If the cohort's name is unknown, or its folder does not exist and cannot be made because it holds real patients.
    """
    cohort = cohort.lower()
    if cohort not in OTHER_COHORTS:
        layout_key(cohort)
    folder = Path(data).expanduser().absolute() if data else REPOSITORY / "data" / cohort
    if cohort != "phantom" and not folder.is_dir():
        given = "does not exist" if data else "was not given"
        raise DataError(
            f"the folder of cohort {cohort} {given} (looked at {folder}); set DATA to the folder that holds the cases"
        )
    root = Path(out).expanduser().absolute() if out else REPOSITORY / "outputs" / cohort
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"results cannot be written to {root} ({error.strerror}); set OUT to a folder of yours") from error
    return Workspace(root, cohort, folder)


def save_metrics(
    workspace: Workspace, notebook: str, numbers: Mapping[str, float | int | str], *, checkpoint: str | None
) -> Path:
    """Write the numbers of one notebook to ``<root>/<notebook>/metrics.json``.

    Parameters
    ----------
    workspace : Workspace
        Where to.
    notebook : str
        Its name without ending, such as "03_train_unet".
    numbers : mapping from str to float, int or str
        Name (with unit) and value, the most telling first. A number that is not finite is kept as null.
    checkpoint : str or None
        SHA-256 of the checkpoint that gave the numbers; None where none was involved.

    Returns
    -------
    Path
        The file, complete or absent.
    """
    record = {
        "notebook": notebook,
        "cohort": workspace.cohort,
        "numbers": {name: _plain(value) for name, value in numbers.items()},
        "checkpoint_sha256": checkpoint,
        "versions": versions(),
    }
    path = metrics_path(workspace, notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return temporary.replace(path)


def load_metrics(workspace: Workspace, notebook: str) -> dict:
    """Read what `save_metrics` wrote; raises `DataError` where the notebook has not run in this workspace."""
    path = metrics_path(workspace, notebook)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run notebook {notebook} on cohort {workspace.cohort} first") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is damaged ({error}); run notebook {notebook} again") from error


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
