"""Executing notebooks in order through papermill, with progress, peak memory and an account of what failed."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import papermill
import psutil
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from helpers.running.parameters import for_papermill

# A kernel writes to the terminal, past the notebook: that what it says can be read on the wire, and, when a finished one is
# shut down, that it was interrupted. The first is mended, the second kept quiet; errors in cells are reported otherwise.
# The state of widgets, megabytes of image, is not stored: a viewer leaves a still picture in the cell.
KERNEL = Config(
    {
        "KernelManager": {"transport_encryption": "auto"},
        "NotebookClient": {"extra_arguments": ["--IPKernelApp.log_level=50"], "store_widget_state": False},
    }
)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Progress:
    """How far a notebook is: code cell `cell` of `cells` has started, `seconds` after the notebook did."""

    name: str
    cell: int
    cells: int
    seconds: float


@dataclass(frozen=True)
class NotebookRun:
    """What became of one notebook.

    Attributes
    ----------
    name : str
        The notebook's name without ending.
    status : str
        "ok", "failed" or "not run".
    seconds : float
        Wall time, kernel start included.
    memory : int
        Largest sum of memory, in bytes, of the kernel and its worker processes.
    started : float
        Seconds since 1970.
    error : str
        For a failed notebook the cell, its first line and the error; otherwise empty or why it did not run.
    parameters : mapping
        The values that differed from the notebook's defaults.
    """

    name: str
    status: str
    seconds: float = 0.0
    memory: int = 0
    started: float = 0.0
    error: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)


def execute_notebooks(
    notebooks: Sequence[Path],
    folder: Path,
    *,
    parameters: Mapping[Path, Mapping[str, object]],
    report: Callable[[Progress], None],
    finished: Callable[[NotebookRun], None],
) -> list[NotebookRun]:
    """Execute notebooks one after the other.

    Parameters
    ----------
    notebooks : sequence of Path
        In their order. Each runs in its own folder, with the kernel "python3".
    folder : Path
        Where the executed copies go, also the partial one of a notebook that fails.
    parameters : mapping from Path to mapping
        Values by notebook, as `helpers.running.parameters.assign` gives them.
    report : callable
        Called at every code cell and about every second.
    finished : callable
        Called with every notebook that ended or is left out.

    Returns
    -------
    list of NotebookRun
        One for each notebook. After a failure the later ones of the series are not run, for they need its results;
        those in ``extras`` are complete in themselves and are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs, broken = [], ""
    for path in notebooks:
        if broken and path.parent.name != "extras":
            run = NotebookRun(path.stem, "not run", error=f"needs the results of {broken}")
        else:
            run = execute_notebook(path, folder / path.name, parameters=parameters.get(path, {}), report=report)
            broken = broken or (run.name if run.status == "failed" and path.parent.name != "extras" else "")
        runs.append(run)
        finished(run)
    return runs


def execute_notebook(
    path: Path, target: Path, *, parameters: Mapping[str, object], report: Callable[[Progress], None]
) -> NotebookRun:
    """Execute one notebook into `target`; an error in a cell is part of the result, not an exception."""
    started = time.time()
    cells = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in nbformat.read(path, as_version=4).cells)
    watch = _Watch(path.stem, cells + bool(parameters), report)
    error = ""
    with watch:
        try:
            papermill.execute_notebook(
                path,
                target,
                parameters=for_papermill(parameters),
                kernel_name="python3",
                cwd=path.parent,
                progress_bar=False,
                config=KERNEL,
                on_cell_execute=watch.cell_started,
            )
        except PapermillExecutionError as failure:
            error = describe_failure(failure)
        except RuntimeError as failure:  # nbclient's DeadKernelError among them
            error = f"code cell {watch.cell} of {watch.cells}: the kernel died ({failure}); often the memory was used up"
    status = "failed" if error else "ok"
    return NotebookRun(path.stem, status, watch.seconds, watch.memory, started, error, dict(parameters))


def describe_failure(failure: PapermillExecutionError) -> str:
    """One line with the cell as the executed notebook numbers it, its first line of code, and the error."""
    lines = [line.strip() for line in failure.source.splitlines() if line.strip() and not line.strip().startswith(("#", "%"))]
    reason = ANSI.sub("", failure.evalue).strip()
    reason = reason if len(reason) <= 400 else reason[:400] + " ..."
    return f"cell In [{failure.exec_count}] `{lines[0] if lines else ''}`: {failure.ename}: {reason}"


class _Watch:
    """Follows a notebook from a thread: reports progress and keeps the largest memory of the processes below this one."""

    def __init__(self, name: str, cells: int, report: Callable[[Progress], None]) -> None:
        self.name, self.cells, self.report = name, cells, report
        self.cell, self.memory, self.seconds = 0, 0, 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> _Watch:
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.seconds = time.monotonic() - self._start

    def cell_started(self, **_: object) -> None:
        self.cell += 1
        self._tell()

    def _follow(self) -> None:
        while not self._stop.wait(0.5):
            self.memory = max(self.memory, _memory_below(psutil.Process()))
            self._tell()

    def _tell(self) -> None:
        self.report(Progress(self.name, self.cell, self.cells, time.monotonic() - self._start))


def _memory_below(process: psutil.Process) -> int:
    """Memory of all processes below `process`; pages that several share are counted once where the system tells (Linux)."""
    total = 0
    for child in process.children(recursive=True):
        try:
            memory = child.memory_full_info()
        except psutil.Error:
            continue  # ended meanwhile, or its memory may not be read
        total += getattr(memory, "pss", memory.rss)
    return total
