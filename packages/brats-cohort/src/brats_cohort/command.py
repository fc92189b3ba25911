"""The commands ``check``, ``convert`` and ``download``: a function each, whose signature and docstring are the options."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from brats_cohort.case import ERROR
from brats_cohort.cases import discover, refuse_to_overwrite
from brats_cohort.checks import check_cohort
from brats_cohort.convert import ENDINGS, convert_cohort
from brats_cohort.files import DataError, require_writable, write_atomically

LEAST_FREE = 2**20
"""Bytes that must be free where a command writes: less than any result takes."""


class OptionError(Exception):
    """What is wrong with an option in one sentence; a `ValueError` would be printed by tyro, with much around it."""

    exit_status = 1


def path_of(text: str) -> Path:
    """Read a path; a variable of the shell that is not set would otherwise mean the current folder."""
    if not text.strip():
        raise DataError("a path is empty", "give it, or leave the option out; a variable may not be set")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise DataError(f"{text} begins with the home folder of nobody here", "write the whole path") from error


def target(text: str) -> Path:
    """Read the path of something to write, and try to write there before the work begins."""
    path = path_of(text)
    if link := next((each for each in (path, *path.parents) if each.is_symlink() and not each.exists()), None):
        raise DataError(f"{link} is a link to {link.readlink()}, which does not exist", "make that, or choose another folder")
    folder = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.is_dir())
    require_writable(folder)
    if shutil.disk_usage(folder).free < LEAST_FREE:
        raise DataError(f"{path} cannot be written, for the disk is full", "make room or choose another folder")
    if not path.exists() and path.parent.is_file():
        raise DataError(f"{path} cannot be made, for {path.parent} is a file", "choose another folder")
    return path


def check_tables(tables: Iterable[Path | None], reading: Iterable[Path]) -> None:
    """Raise `DataError` if a table would replace a folder, a file that is read or another table."""
    paths = [*reading]
    for table in filter(None, tables):
        if table.is_dir():
            raise DataError(f"{table} is a folder", "give the name of a file")
        refuse_to_overwrite(table, paths)
        if table in paths:
            raise DataError(f"{table} would hold two tables", "give each a name of its own")
        paths.append(table)


def _spec(read: Callable[[str], Path]) -> PrimitiveConstructorSpec:
    """How tyro reads a path."""

    def instance(words: list[str]) -> Path:
        try:
            return read(words[0])
        except DataError as error:
            raise OptionError(str(error)) from error

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=instance,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


Target = Annotated[Path, _spec(target)]
"""Type of an option that names what is written."""
REGISTRY = ConstructorRegistry()
"""How the options of every command are read."""


@REGISTRY.primitive_rule
def _paths(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    return _spec(path_of) if info.type is Path else None


def check(
    cohort: Path,
    /,
    *,
    format: str = "auto",
    labels: str = "auto",
    patients: Path | None = None,
    csv: Target | None = None,
    workers: int | None = None,
) -> int:
    """Look at every file of every case and print what is wrong; status 1 if a case has an error.

    Parameters
    ----------
    cohort
        Folder of the cohort, or of one case.
    format
        Dataset format, such as brats2021, brats2023, named or msd.
    labels
        Numbers of the references, such as brats2024, brats-peds or nnunet; auto as the cohort's names say.
    patients
        CSV with the columns case and patient; without it, names tell.
    csv
        Also write the table to this file.
    workers
        Threads; one for each core by default.
    """
    cases = discover(cohort, format, labels=labels, patients=patients)
    check_tables([csv], [*filter(None, [patients]), *(path for case in cases for path in case.files)])
    report = check_cohort(cases, workers=workers)
    table = report.table()
    print(table.drop(columns=["first fault"]).to_string())
    if report.faults:
        print()
    for fault in report.faults:
        print(f"{fault.severity}: {fault}")
    for note in report.notes:
        print(f"note: {note}")
    if csv:
        with write_atomically(csv) as temporary:
            table.to_csv(temporary)
    left_out = len(report.checks) - len(report.usable)
    print(f"\n{len(report.usable)} of {len(report.checks)} cases are usable" + (f", {left_out} left out" if left_out else ""))
    return int(any(fault.severity == ERROR for fault in report.faults))


def convert(
    cohort: Path,
    /,
    *,
    to: Literal[*ENDINGS],
    out: Target,
    format: str = "auto",
    labels: str = "auto",
    patients: Path | None = None,
    workers: int | None = None,
) -> int:
    """Write a cohort in another dataset format; status 1 if a case could not be converted.

    Parameters
    ----------
    cohort
        Folder that holds the cases.
    to
        nnunet, msd, bids, brats2023 or brats2021.
    out
        New folder; for nnU-Net called Dataset501_Gliomas or alike.
    format
        Dataset format of the cohort.
    labels
        Numbers of its references; auto as the cohort says.
    patients
        CSV with the columns case and patient; without it, names tell.
    workers
        Cases at a time; one for each core by default.
    """
    if cohort.resolve() in (out.resolve(), *out.resolve().parents):
        raise DataError("the copy would be written into the cohort that is read", "give --out another folder")
    cases = discover(cohort, format, labels=labels, patients=patients)
    converted, faults = convert_cohort(cases, to, out, workers=workers)
    for fault in faults:
        print(f"left out: {fault}")
    print(f"{len(converted)} of {len(cases)} cases in {out}")
    return int(bool(faults))


def download(cohort: Literal["brats2021", "msd", "lgg"], /, *, out: Target | None = None) -> int:
    """Fetch a public cohort and say what is there.

    Parameters
    ----------
    cohort
        brats2021 and lgg (slices) need a Kaggle token; msd is MSD Task01.
    out
        Folder of the cohort; data/COHORT by default.
    """
    from brats_cohort import download  # here, as it takes a tenth of a second to import

    fetch, licence = {
        "brats2021": (download.download_brats2021, "CC BY 4.0; cite doi:10.7937/jc8x-9874"),
        "msd": (download.download_msd, "CC BY-SA 4.0; cite doi:10.1038/s41467-022-30695-9"),
        "lgg": (download.download_lgg, "CC BY-NC-SA 4.0; cite doi:10.1016/j.compbiomed.2019.05.002"),
    }[cohort]
    folder = fetch(out or Path("data") / cohort)
    if cohort == "lgg":
        print(f"{len(list(folder.glob(f'{download.LGG_ROOT}*/')))} patients of lgg in {folder} ({licence})")
    else:
        print(f"{len(discover(folder, cohort))} cases of {cohort} in {folder} ({licence})")
    return 0


COMMANDS = {"check": check, "convert": convert, "download": download}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; wrong input is one sentence on standard error, and status 1."""
    prog = "python -m brats_cohort"
    try:
        config = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
        return tyro.extras.subcommand_cli_from_dict(COMMANDS, prog=prog, args=words, config=config, registry=REGISTRY)
    except (DataError, OptionError, OSError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
