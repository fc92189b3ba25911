"""A prepared session on disk: what was decided, and how to read it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scan_session.errors import SessionError
from scan_session.find import find_series
from scan_session.series import Series


@dataclass(frozen=True)
class Session:
    """A prepared session: `load_session` reads it again.

    Attributes
    ----------
    folder : Path
        The case. ``<folder name>_<modality>.nii.gz`` are the four images.
    reference : str
        Modality whose grid, made 1 mm wide, is the case's.
    matrices : mapping from modality to array (4, 4)
        From millimetres (RAS) of the case to millimetres of the series.
    grids : mapping from modality to (shape, affine)
        The grid of the series as it came.
    measures : mapping from modality to mapping
        How well it was registered.
    series : mapping from modality to Series
        What was taken; empty files if the session was loaded without its source.
    left_out : tuple of Series
    notes : tuple of str
        What has to be said aloud.
    called : str
        How the names of its images begin, if its folder was renamed or copied since.
    """

    folder: Path
    reference: str
    matrices: Mapping[str, np.ndarray]
    grids: Mapping[str, tuple[tuple[int, ...], np.ndarray]]
    measures: Mapping[str, Mapping[str, float | str]]
    series: Mapping[str, Series] = field(default_factory=dict)
    left_out: tuple[Series, ...] = ()
    notes: tuple[str, ...] = ()
    called: str = ""

    @property
    def name(self) -> str:
        """Name of the case: that of its folder, also if the folder is given as "." or by a link."""
        return self.folder.resolve().name

    @property
    def images(self) -> dict[str, Path]:
        """Files of the case by modality: 1 mm, registered, 0 outside the brain."""
        return {modality: self.image(modality) for modality in self.grids}

    @property
    def mask(self) -> Path:
        """The brain mask."""
        return self.folder / "brain_mask.nii.gz"

    @property
    def page(self) -> Path:
        """The page that shows what was done."""
        return self.folder / "session.html"

    def image(self, modality: str) -> Path:
        """Where the case has one modality."""
        return self.folder / f"{self.called or self.name}_{modality}.nii.gz"

    def native(self, modality: str) -> Path:
        """One series as it came, skull on, in its own grid."""
        return self.folder / "series" / f"{modality}_native.nii.gz"


def load_session(folder: Path, source: Path | None = None, *, study: int | None = None) -> Session:
    """Read a prepared session again.

    `source` is the folder that it was made from: paths and identifiers are not kept in the case, and a DICOM SEG needs the
    original files.
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / "session.json").read_text(encoding="utf-8"))
        used, reference, notes = record["series"], record["reference"], tuple(record["notes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise SessionError(f"{folder} is no prepared session ({reason})", "make it with prepare_session") from error
    found = [one for one in find_series(source, study=study) if one.files and one.shape] if source else []
    series = {}
    for key, one in used.items():
        same = [each for each in found if each.fingerprint == one["fingerprint"]]
        same.sort(key=lambda each: (each.label != one["label"], each.modality != key))  # two echoes share one identifier
        series |= {key: same[0]} if same else {}
    if source and len(series) < len(used):
        raise SessionError(f"{source} is not the folder that {folder} was made from", "give that folder")
    end = f"_{reference}.nii.gz"
    own = sorted(path.name.removesuffix(end) for path in folder.glob(f"*{end}"))
    called = own[0] if len(own) == 1 else ""
    return Session(
        folder, reference, {key: np.array(one["matrix"]) for key, one in used.items()},
        {key: (tuple(one["shape"]), np.array(one["affine"])) for key, one in used.items()},
        {key: one["measures"] for key, one in used.items()}, series,
        tuple(Series("", one["label"], (), reason=one["reason"]) for one in record.get("left_out", ())), notes,
        called,
    )  # fmt: skip
