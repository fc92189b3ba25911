"""``python -m helpers check``: look at every file of a cohort and say what is wrong."""

from __future__ import annotations

from pathlib import Path

from helpers.cli.options import Target
from helpers.data.cases import ERROR, discover, refuse_to_overwrite
from helpers.data.checks import check_cohort
from helpers.workspace import write_atomically


def run(
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
    if csv:
        refuse_to_overwrite(csv, [patients] if patients else [])
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
