"""``python -m helpers run``: execute the notebooks and write an index page."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from brats_cohort.formats import format_key
from helpers.running import (
    NotebookRun,
    assign,
    execute_notebooks,
    find_notebooks,
    numbers_of,
    parse_assignments,
    read_parameters,
    show_seconds,
    write_pages,
)
from helpers.workspace import REPOSITORY, Workspace, open_workspace

NUMBERS_SHOWN = 3
"""Numbers of each notebook in the table on the terminal; the index page has all."""
PHANTOM_SETTINGS = ("CASES", "PHANTOM_SPACING", "SEED")
"""Parameters that make another cohort of phantoms, which gets folders of its own."""
OTHER_COHORTS = ("auto", "lgg", "ct")
"""Cohorts that are no dataset format of `brats_cohort`: whichever fits, and those of the extras."""

Parameters = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(aliases=("-p",), metavar="NAME=VALUE")]


def run(
    notebooks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NOTEBOOK ...]")] = (),
    /,
    *,
    cohort: str = "",
    data: str = "",
    out: str = "",
    parameter: Parameters = (),
    extras: bool = False,
) -> int:
    """Execute the notebooks, write a page of each and an index, and print a table.

    Parameters
    ----------
    notebooks
        Start of a name (03) or a path; all numbered ones if none is given.
    cohort
        phantom if none is given; else a dataset format of docs/data.md, such as brats2021 or msd; lgg or ct for the extras.
    data
        Folder that holds the cases, else data/COHORT.
    out
        Folder for results, else outputs/COHORT.
    parameter
        Any parameter of the notebooks; can be given several times.
    extras
        Also run those in notebooks/extras.
    """
    paths = find_notebooks(notebooks, REPOSITORY / "notebooks", extras=extras)
    own = {"COHORT": cohort, "DATA": data, "OUT": out}
    given = parse_assignments(parameter) | {name: text for name, text in own.items() if text}
    folders = (name for name, text in given.items() if text and name in ("DATA", "OUT", "REAL_CASES", "REAL_SESSION"))
    given |= {name: str(Path(given[name]).expanduser().absolute()) for name in folders}  # a kernel has a folder of its own
    own_data = "DATA" in given
    given = phantom_folders(paths, given)
    cohort = given.get("COHORT", "phantom")
    if cohort.lower() not in OTHER_COHORTS:
        format_key(cohort)
    workspace = open_workspace(cohort, data=given.get("DATA", ""), out=given.get("OUT", ""))
    parameters = assign(paths, given)
    for path in paths:
        if path.parent.name == "extras" and not own_data:  # theirs is real data only; they draw phantoms in memory
            parameters[path].pop("DATA", None)
    hide_account(given)
    folder = workspace.root / "run"
    runs = []
    for done in execute_notebooks(paths, folder, parameters=parameters):
        print(f"{done.name}  {done.status}" + (f": {done.error}" if done.status == "not run" else ""), flush=True)
        runs.append(done)
    index = write_pages(runs, workspace, folder)
    print_table(runs, workspace)
    print(f"\n{index}")
    return int(any(done.status != "ok" for done in runs))


def hide_account(given: Mapping[str, str], environment: MutableMapping[str, str] = os.environ) -> None:
    """Take the variables of an AWS account away from the kernels, unless a notebook is to use that account.

    The SageMaker SDK looks at them when it is imported, before notebook 05 can start its rehearsal.
    """
    if given.get("REHEARSE") != "no":
        for name in [name for name in environment if name.startswith("AWS_")]:
            del environment[name]


def phantom_folders(paths: Sequence[Path], given: Mapping[str, str]) -> dict[str, str]:
    """Give phantoms of other settings than the defaults folders of their own, such as data/phantom_cases12_seed7."""
    values = assign(paths, given).values()
    changed = {name: value for each in values for name, value in each.items() if name in PHANTOM_SETTINGS}
    if given.get("COHORT", "phantom") != "phantom" or not changed:
        return dict(given)
    cohort = "_".join(["phantom", *(f"{name.split('_')[-1].lower()}{changed[name]}" for name in sorted(changed))])
    known = {name for path in paths for name in read_parameters(path)}
    own = {"DATA": REPOSITORY / "data" / cohort, "OUT": REPOSITORY / "outputs" / cohort}
    return {name: str(folder) for name, folder in own.items() if name in known} | dict(given)


def print_table(runs: Sequence[NotebookRun], workspace: Workspace) -> None:
    """One line a notebook: name, status, time and its first numbers; below, why something failed."""
    width = max(len(done.name) for done in runs)
    print()
    for done in runs:
        numbers = list(numbers_of(done, workspace).items())[:NUMBERS_SHOWN]
        seconds = show_seconds(done.seconds) if done.status != "not run" else ""
        shown = ", ".join(f"{name} {text}" for name, text in numbers)
        print(f"{done.name:{width}}  {done.status:7}  {seconds:>10}  {shown}".rstrip())
    for done in runs:
        if done.status == "failed":
            print(f"\n{done.name} failed in {done.error}")
