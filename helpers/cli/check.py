"""``python -m helpers check``: look at every file of a cohort and say what is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path

from helpers.data.cases import ALIASES, LAYOUTS, discover
from helpers.data.checks import ERROR, check_cohort


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("cohort", type=Path, help="folder of the cohort, or of one case")
    parser.add_argument("--layout", default="auto", help=f"one of auto, {', '.join([*LAYOUTS, *ALIASES])}")
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    parser.add_argument("--workers", type=int, help="threads; None means one for each core")


def run(arguments: argparse.Namespace) -> int:
    """Print the table and every fault; status 1 where a case has an error."""
    report = check_cohort(discover(arguments.cohort, arguments.layout), workers=arguments.workers)
    table = report.table()
    print(table.drop(columns=["first fault"]).to_string())
    if report.faults:
        print()
    for fault in report.faults:
        print(f"{fault.severity}: {fault}")
    if arguments.csv:
        table.to_csv(arguments.csv)
    left_out = len(report.checks) - len(report.usable)
    print(f"\n{len(report.usable)} of {len(report.checks)} cases are usable" + (f", {left_out} left out" if left_out else ""))
    return int(any(fault.severity == ERROR for fault in report.faults))
