"""``python -m helpers run``: execute the notebooks and write an index page."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from helpers.running.execute import NotebookRun, Progress, execute_notebooks
from helpers.running.normalise import update_notebook
from helpers.running.pages import (
    numbers_of,
    show_number,
    show_seconds,
    write_pages,
)
from helpers.running.parameters import assign, find_notebooks, parse_assignments
from helpers.workspace import REPOSITORY, DataError, Workspace, open_workspace

NUMBERS_SHOWN = 3
"""Numbers of each notebook in the table on the terminal; the index page has all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    absent = argparse.SUPPRESS
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", default=absent, help="start of a name (03) or a path")
    parser.add_argument("--cohort", default=absent, help="phantom (where none is said), brats2018 to brats2024, msd; lgg, ct")
    parser.add_argument("--data", default=absent, help="folder that holds the cases, else data/COHORT")
    parser.add_argument("--out", default=absent, help="folder for results, else outputs/COHORT")
    parser.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=absent,
        metavar="NAME=VALUE",
        help="any parameter of the notebooks; can be given several times",
    )
    parser.add_argument("--extras", action="store_true", help="also those in notebooks/extras")
    parser.add_argument(
        "--update-notebooks", action="store_true", help="take the outputs into the notebooks, as they are committed"
    )


def run(arguments: argparse.Namespace) -> int:
    """Execute, write the pages, print the table; 1 if a notebook failed, 130 if interrupted."""
    paths = find_notebooks(getattr(arguments, "notebooks", []), REPOSITORY / "notebooks", extras=arguments.extras)
    given = parse_assignments(getattr(arguments, "parameter", []))
    given |= {name: text for name in ("COHORT", "DATA", "OUT") if (text := getattr(arguments, name.lower(), ""))}
    given |= {name: str(Path(given[name]).expanduser().absolute()) for name in ("DATA", "OUT") if given.get(name)}
    workspace = open_workspace(given.get("COHORT", "phantom"), data=given.get("DATA", ""), out=given.get("OUT", ""))
    parameters = assign(paths, given)
    if arguments.update_notebooks and any(parameters.values()):
        raise DataError("committed notebooks carry the outputs of their defaults", "leave out parameters, cohort and folders")
    folder = workspace.root / "run"
    terminal = _Terminal()
    try:
        runs = execute_notebooks(paths, folder, parameters=parameters, report=terminal.report, finished=terminal.finished)
    except KeyboardInterrupt:
        print(f"\ninterrupted; what was executed is in {folder}", file=sys.stderr)
        return 130
    index = write_pages(runs, workspace, folder, sources={path.stem: path.parent for path in paths})
    print_table(runs, workspace)
    print(f"\n{index}")
    failed = any(run.status != "ok" for run in runs)
    if arguments.update_notebooks and not failed:
        for path in paths:
            update_notebook(folder / path.name, path, REPOSITORY)
        print(f"{len(paths)} notebooks carry these outputs now")
    return int(failed)


def print_table(runs: Sequence[NotebookRun], workspace: Workspace) -> None:
    """One line a notebook: name, status, time, memory and its first numbers; below, why something failed."""
    rows = [("notebook", "status", "time", "memory", "")]
    for done in runs:
        numbers = list(numbers_of(done, workspace).items())[:NUMBERS_SHOWN]
        ran = done.status != "not run"
        rows.append(
            (
                done.name,
                done.status,
                show_seconds(done.seconds) if ran else "",
                f"{done.memory / 1e9:.1f} GB" if done.memory else "",
                ", ".join(f"{name} {show_number(value)}" for name, value in numbers),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    print()
    for name, status, seconds, memory, numbers in rows:
        line = f"{name:{widths[0]}}  {status:{widths[1]}}  {seconds:>{widths[2]}}  {memory:>{widths[3]}}  {numbers}"
        print(line.rstrip())
    for done in runs:
        if done.status == "failed":
            print(f"\n{done.name} failed in {done.error}")


class _Terminal:
    """Progress of the notebook that runs: one line kept up to date on a terminal, two plain lines in a log."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._name = ""
        self._lock = threading.Lock()

    def report(self, progress: Progress) -> None:
        with self._lock:
            if self._live:
                place = f"cell {progress.cell}/{progress.cells}"
                print(f"\r\x1b[K{progress.name}  {place}  {show_seconds(progress.seconds)}", end="", flush=True)
            elif progress.name != self._name:
                self._name = progress.name
                print(f"{progress.name}  started, {progress.cells} code cells", flush=True)

    def finished(self, run: NotebookRun) -> None:
        after = f"  {show_seconds(run.seconds)}" if run.status != "not run" else f": {run.error}"
        print(f"{chr(13)}\x1b[K" * self._live + f"{run.name}  {run.status}{after}", flush=True)
