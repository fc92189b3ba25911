"""What a case of a cohort is, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from brats_cohort.files import DataError, out_of_memory, printable
from brats_cohort.regions import MODALITIES

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a case: half a sentence for the problem and one for the remedy.

    `file` is a name, empty if the fault is not in one file. A case with a fault of severity "error" cannot be used.
    """

    case: str
    file: str
    problem: str
    remedy: str
    severity: str = ERROR

    def __str__(self) -> str:
        return printable(f"{self.case}: " * bool(self.case) + f"{self.problem}; {self.remedy}")


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
    identifier, patient : str
        Names of the session, unique in its cohort, and of the patient, whose sessions must stay in one part of a split.
    format, labels : str
        Keys of `brats_cohort.formats.FORMATS` (how the files are named) and `brats_cohort.regions.CONVENTIONS` (whose numbers
        the reference uses).
    images : mapping from modality to Source
        Those of `brats_cohort.regions.MODALITIES` that were found.
    label : Path or None
        The reference label map, if there is one.
    faults : tuple of Fault
        What is wrong with the names of the files.
    """

    identifier: str
    patient: str
    format: str
    images: Mapping[str, Source]
    label: Path | None
    labels: str = "brats2021"
    faults: tuple[Fault, ...] = ()

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
        return (*self.channels, *([self.label] if self.label else []))


def fault_of(identifier: str, error: Exception, path: Path | None = None) -> Fault:
    """Turn any exception that a case raised into its fault: the one place that does so, for every command on a cohort."""
    file = path.name if path else ""
    if isinstance(error, DataError):
        problem = error.problem.replace(str(path), file) if path else error.problem
        return Fault(identifier, file, problem.removeprefix(f"case {identifier}: "), error.remedy)
    if out_of_memory(error):
        remedy = "work on fewer cases at a time (workers), or on a device with more memory"
        return Fault(identifier, file, "there is not enough memory for it", remedy)
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return Fault(identifier, file, f"it cannot be read ({reason})", "look at the case's files, or leave the case out")
