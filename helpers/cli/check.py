"""``python -m helpers check``: look at every file of a cohort and say what is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path

from helpers.data.cases import ALIASES, FORMATS, discover
from helpers.data.checks import ERROR, check_cohort
from helpers.regions import CONVENTIONS
from helpers.workspace import write_atomically


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("cohort", type=Path, help="folder of the cohort, or of one case")
    parser.add_argument("--format", default="auto", help=f"one of auto, {', '.join([*FORMATS, *ALIASES])}")
    parser.add_argument("--labels", default="auto", help=f"numbers of the references: auto, {', '.join(CONVENTIONS)}")
    parser.add_argument("--patients", type=Path, help="CSV with the columns case and patient, instead of telling by name")
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    parser.add_argument("--workers", type=int, help="threads; None means one for each core")


def run(arguments: argparse.Namespace) -> int:
    """Print the table and every fault; status 1 where a case has an error."""
    cases = discover(arguments.cohort, arguments.format, labels=arguments.labels, patients=arguments.patients)
    report = check_cohort(cases, workers=arguments.workers)
    table = report.table()
    print(table.drop(columns=["first fault"]).to_string())
    if report.faults:
        print()
    for fault in report.faults:
        print(f"{fault.severity}: {fault}")
    for note in report.notes:
        print(f"note: {note}")
    if arguments.csv:
        with write_atomically(arguments.csv) as temporary:
            table.to_csv(temporary, errors="backslashreplace")
    left_out = len(report.checks) - len(report.usable)
    print(f"\n{len(report.usable)} of {len(report.checks)} cases are usable" + (f", {left_out} left out" if left_out else ""))
    return int(any(fault.severity == ERROR for fault in report.faults))
