"""Execute notebooks in order with papermill: find them, check the parameters that a user gives, say what became of each."""

from __future__ import annotations

import ast
import difflib
import logging
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from papermill.exceptions import PapermillExecutionError
from traitlets import Unicode
from traitlets.config import Config

from brats_cohort.files import DataError
from helpers.workspace import REPOSITORY

SERIES: tuple[str, ...] = ("01", "02", "03", "04")
"""Notebooks that need the results of those before them; every other one brings or makes what it needs."""

VIEWERS = "viewers"
"""Folder beside a notebook with the pages of its viewers: viewers/NOTEBOOK/1.html and so on."""

LAUNCH = """import sys
sys.path.remove("")
sys.modules["rfc3987_syntax"] = None
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""
"""As ipykernel_launcher, but without a grammar that jsonschema would build, for seconds, as soon as a cell imports MONAI."""
ANSI = re.compile(r"\x1b\[[0-9;]*m")
NUMBER = r"-?\d+(?:\.\d+)?"
RANGE = re.compile(rf"(?<![\w.-])({NUMBER})(?: \([^)]*\))?(?: to (\w+(?:\.\d+)?)| or more)")
MULTIPLE = re.compile(r"\bmultiples? of (\d+)")


class Kernel(AsyncKernelManager):
    """A kernel of this Python with this checkout's helpers, whatever kernels, clones and settings the machine has.

    A kernel found by its name may belong to another environment, for example to the clone that this one was copied from,
    and MPLBACKEND=Agg in the shell would leave out every figure. What a kernel's libraries write past the notebook goes
    to `output`, not to the terminal. Each viewer that the notebook shows leaves a page in the folder `viewers`.
    """

    output = Unicode().tag(config=True)
    viewers = Unicode().tag(config=True)

    @property
    def kernel_spec(self) -> KernelSpec:
        """How the kernel is started."""
        environment = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHONPATH": _python_path()}
        environment["SLICE_VIEWER_PAGES"] = self.viewers
        environment["KINETO_LOG_LEVEL"] = "99"  # else torch.profiler writes lines of its own into the notebook
        command = [sys.executable, "-c", LAUNCH, "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python", env=environment)

    async def start_kernel(self, **options: object) -> None:
        """Start the kernel with its own output in a file."""
        with Path(self.output).open("wb") as log:
            await self._async_start_kernel(**options, stdout=log, stderr=log)


@dataclass(frozen=True)
class NotebookRun:
    """What became of one notebook.

    Attributes
    ----------
    name : str
        Of the notebook, without ending.
    status : str
        "ok", "failed" or "not run".
    seconds : float
        Wall time, kernel start included.
    started : float
        Seconds since 1970.
    error : str
        For a failed notebook the cell, its first line and the error; for one that was not run the reason.
    parameters : mapping
        The values that differed from the notebook's defaults.
    """

    name: str
    status: str
    seconds: float = 0.0
    started: float = 0.0
    error: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)


def find_notebooks(names: Sequence[str], folder: Path, *, extras: bool = False) -> list[Path]:
    """Find notebooks and put them in the order in which they run.

    Parameters
    ----------
    names : sequence of str
        Each the start of a notebook's name ("03") or the path of an .ipynb file; empty for every numbered notebook.
    folder : Path
        Where the notebooks are; further ones in ``extras`` below it.
    extras : bool
        Whether an empty `names` also means those in ``extras``.

    Raises
    ------
    DataError
        If a name fits no notebook, or there is none at all.
    """
    known = sorted(folder.glob("*.ipynb")) + sorted(folder.glob("extras/*.ipynb"))
    chosen = [path for path in known if not names and (extras or path.parent == folder)]
    for name in names:
        path = Path(name)
        fitting = [path.absolute()] if path.suffix == ".ipynb" else [each for each in known if each.stem.startswith(name)]
        if not fitting or not fitting[0].is_file():
            raise DataError(
                f"there is no notebook {name!r}", f"choose among {', '.join(each.stem for each in known) or 'none'}"
            )
        chosen.extend(fitting)
    if not chosen:
        raise DataError(f"{folder} holds no notebook", "run this from a complete copy of the repository")
    return sorted(dict.fromkeys(chosen), key=lambda path: known.index(path) if path in known else -1)


def read_parameters(path: Path) -> dict[str, tuple[object, str]]:
    """Read default and comment of every parameter in the cell tagged ``parameters``; empty without such a cell.

    papermill's own inspection reads line by line and loses a parameter whose comment holds an equals sign.

    Raises
    ------
    DataError
        If the cell holds anything but literals: a derived value would keep its default when a parameter changes.
    """
    cells = nbformat.read(path, as_version=4).cells
    source = next((cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), "")
    lines, found = source.splitlines(), {}
    for statement in ast.parse(source).body:
        try:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            value = ast.literal_eval(statement.value)
        except (AttributeError, ValueError) as error:
            line = ast.unparse(statement)
            problem = f"{path.name}: the parameters cell may hold literals only, not `{line}`"
            raise DataError(problem, "move it below") from error
        found[target.id] = (value, lines[statement.end_lineno - 1][statement.end_col_offset :].partition("#")[2].strip())
    return found


def parse_assignments(texts: Iterable[str]) -> dict[str, str]:
    """Split texts such as ``CASES=8 SEED=7`` into names and values; raises `DataError` for one without an equals sign."""
    given = {}
    for word in (word for text in texts for word in re.split(r"\s+(?=[A-Za-z_]\w*\s*=)", text.strip()) if word):
        name, equals, value = word.partition("=")
        if not equals or not name.strip().isidentifier():
            raise DataError(f"{word!r} is not a parameter", "write NAME=value")
        given[name.strip()] = value.strip()
    return given


def assign(notebooks: Sequence[Path], given: Mapping[str, str]) -> dict[Path, dict[str, object]]:
    """Hand every parameter to the notebooks that have it, after checking it against the limits of all of them.

    Returns
    -------
    dict from Path to dict
        For every notebook the values that differ from its defaults, in the type of the default, a tuple as a list.

    Raises
    ------
    DataError
        If no notebook has the parameter, or a value does not fit the type of a default or the range in its comment.
    """
    defaults = {path: read_parameters(path) for path in notebooks}
    known = dict.fromkeys(name for values in defaults.values() for name in values)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise DataError(f"no notebook has a parameter {name}", f"{hint}known ones are {', '.join(sorted(known)) or 'none'}")
    values = {}
    for path, own in defaults.items():
        parsed = {name: parse_value(name, text, own[name][0]) for name, text in given.items() if name in own}
        for name, value in parsed.items():
            check_range(path.stem, name, value, own[name][1])
        changed = {name: value for name, value in parsed.items() if value != own[name][0]}
        # papermill writes lists into a notebook, and would write a tuple as text
        values[path] = {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}
    return values


def parse_value(name: str, text: str, default: object) -> object:
    """Read `text` as a value of the kind that `default` is: text as it is, anything else as a Python or JSON literal.

    A whole number serves for a fraction, and anything may replace None. Raises `DataError` for another kind.
    """
    if isinstance(default, str):
        return text
    spelled = {"true": "True", "false": "False", "null": "None"}.get(text.lower(), text)
    try:
        value = ast.literal_eval(spelled)
    except (ValueError, SyntaxError):
        value = text
    if default is None or value is None:
        return value
    if type(default) is float and type(value) is int:
        return float(value)
    if isinstance(default, (list, tuple)) and isinstance(value, (list, tuple)):
        return type(default)(value)
    if type(value) is not type(default):
        kinds = {bool: "True or False", int: "a whole number", float: "a number", list: "a list", tuple: "a tuple"}
        raise DataError(f"parameter {name} is {text!r}", f"give {kinds.get(type(default), 'a dict')} such as {default!r}")
    return value


def check_range(notebook: str, name: str, value: object, comment: str) -> None:
    """Raise `DataError` if a number, or one in a list, is outside the range that the parameter's comment states.

    Understood are "3 or more", "1 to 4" and "a multiple of 16", in any order; what stands in brackets after "full setting"
    is not a limit.
    """
    limits = comment.partition("(full setting")[0]
    within, multiple = RANGE.search(limits), MULTIPLE.search(limits)
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        highest = within and within[2] and re.fullmatch(NUMBER, within[2])
        outside = within and (number < float(within[1]) or (highest and number > float(within[2])))
        if outside or (multiple and number % int(multiple[1])):
            raise DataError(f"parameter {name} is {value!r}", f"notebook {notebook} takes: {limits.strip()}")


def execute_notebooks(
    notebooks: Sequence[Path], folder: Path, *, parameters: Mapping[Path, Mapping[str, object]]
) -> Iterator[NotebookRun]:
    """Execute notebooks one after the other, each in its own folder; yield what became of each as soon as it has ended.

    After a failure in the `SERIES` its later notebooks are not run; all others are.

    Parameters
    ----------
    notebooks : sequence of Path
        In their order.
    folder : Path
        Where the executed copies go, also the partial one of a notebook that fails.
    parameters : mapping from Path to mapping
        Values by notebook, as `assign` gives them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters with an equals sign in their comment
    broken = ""
    for path in notebooks:
        in_series = path.stem[:2] in SERIES
        if broken and in_series:
            run = NotebookRun(path.stem, "not run", error=f"needs the results of {broken}")
        else:
            run = execute_notebook(path, folder / path.name, parameters=parameters.get(path, {}))
        if in_series and run.status == "failed":
            broken = run.name
        yield run


def execute_notebook(path: Path, target: Path, *, parameters: Mapping[str, object]) -> NotebookRun:
    """Execute one notebook into `target`; an error in a cell is part of the result, not an exception."""
    started, error, log, running = time.time(), "", target.with_suffix(".log"), [""]
    viewers = target.parent / VIEWERS / path.stem
    shutil.rmtree(viewers, ignore_errors=True)
    client = {"kernel_manager_class": Kernel, "store_widget_state": False}  # a viewer leaves a still picture in the cell
    try:
        papermill.execute_notebook(
            path,
            target,
            parameters=dict(parameters),
            kernel_name="python3",
            cwd=path.parent,
            progress_bar={"desc": path.stem, "leave": False, "disable": None},  # None: only on a terminal
            config=Config({"NotebookClient": client, "Kernel": {"output": str(log), "viewers": str(viewers)}}),
            on_cell_execute=lambda cell, **_: running.append(cell.source),
        )
    except PapermillExecutionError as failure:
        reason = ANSI.sub("", failure.evalue).strip()
        reason = reason if len(reason) <= 400 else reason[:400] + " ..."
        error = f"cell In [{failure.exec_count}] `{_first_line(failure.source)}`: {failure.ename}: {reason}"
    except RuntimeError as failure:  # nbclient's DeadKernelError among them
        error = f"cell `{_first_line(running[-1])}`: the kernel died ({failure}); often the memory was used up"
    if not error:
        log.unlink(missing_ok=True)
    return NotebookRun(path.stem, "failed" if error else "ok", time.time() - started, started, error, dict(parameters))


def _first_line(source: str) -> str:
    """First line of code of a cell."""
    lines = (line.strip() for line in source.splitlines())
    return next((line for line in lines if line and not line.startswith(("#", "%"))), "")


def _python_path() -> str:
    """Folders from which a kernel imports this checkout's packages before any that are installed."""
    sources = sorted(str(path) for path in REPOSITORY.glob("packages/*/src"))
    return ":".join([str(REPOSITORY), *sources])
