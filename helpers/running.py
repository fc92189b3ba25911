"""Execute notebooks in order with papermill: check the parameters that a user gives, and leave pages of the results."""

from __future__ import annotations

import ast
import base64
import difflib
import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from papermill.exceptions import PapermillExecutionError
from traitlets import Unicode
from traitlets.config import Config

from brats_cohort.files import DataError, write_atomically
from helpers.workspace import REPOSITORY, Workspace, load_metrics, metrics_path

NEEDS = {"03": "01", "04": "03", "05": "01"}
"""Whose results a notebook needs; every other one brings or makes what it needs."""
VIEWERS = "viewers"
"""Folder beside a notebook with the pages of its viewers: viewers/NOTEBOOK/1.html and so on."""
LAUNCH = """import sys
sys.path.remove("")
sys.modules |= dict.fromkeys(("ignite", "rfc3987_syntax"))
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""
"""As ipykernel_launcher, but without what MONAI would import, for seconds, and no notebook uses: Ignite, and a grammar that
jsonschema builds."""
ANSI = re.compile(r"\x1b\[[0-9;]*m")
NUMBER = r"-?\d+(?:\.\d+)?"
RANGE = re.compile(rf"(?<![\w.-])({NUMBER})(?: \([^)]*\))?(?: to (\w+(?:\.\d+)?)| or more)")
MULTIPLE = re.compile(r"\bmultiples? of (\d+)")


class Kernel(AsyncKernelManager):
    """A kernel of this Python with this checkout's packages.

    A kernel found by its name may belong to another clone, and MPLBACKEND=Agg in the shell would leave out every figure. What
    libraries write past the notebook goes to `output`; each viewer leaves a page in the folder `viewers`.
    """

    output = Unicode().tag(config=True)
    viewers = Unicode().tag(config=True)

    @property
    def kernel_spec(self) -> KernelSpec:
        """How the kernel is started."""
        packages = [REPOSITORY, *sorted(REPOSITORY.glob("packages/*/src"))]
        environment = {
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYTHONPATH": ":".join(map(str, packages)),
            "SLICE_VIEWER_PAGES": self.viewers,
            "KINETO_LOG_LEVEL": "99",  # else torch.profiler writes lines of its own into the notebook
        }
        command = [sys.executable, "-c", LAUNCH, "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python", env=environment)

    async def start_kernel(self, **options: object) -> None:
        """Start the kernel with its own output in a file."""
        with Path(self.output).open("wb") as log:
            await self._async_start_kernel(**options, stdout=log, stderr=log)


@dataclass(frozen=True)
class NotebookRun:
    """What became of one notebook: `status` is "ok", "failed" or "not run", `error` one sentence unless it is ok."""

    name: str
    status: str
    seconds: float = 0.0
    started: float = 0.0
    error: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)


def find_notebooks(names: Sequence[str], folder: Path, *, extras: bool = False) -> list[Path]:
    """Find notebooks by the start of their names ("03") or their paths, in the order in which they run.

    No name means every numbered notebook of `folder`, and with `extras` those in ``extras`` below it. Raises `DataError` if a
    name fits no notebook.
    """
    known = sorted(folder.glob("*.ipynb")) + sorted(folder.glob("extras/*.ipynb"))
    chosen = [path for path in known if not names and (extras or path.parent == folder)]
    for name in names:
        path = Path(name)
        fitting = [path.absolute()] if path.suffix == ".ipynb" else [each for each in known if each.stem.startswith(name)]
        if not fitting or not fitting[0].is_file():
            remedy = f"choose among {', '.join(each.stem for each in known) or 'none'}"
            raise DataError(f"there is no notebook {name!r}", remedy)
        chosen.extend(fitting)
    return sorted(dict.fromkeys(chosen), key=lambda path: known.index(path) if path in known else -1)


def read_parameters(path: Path) -> dict[str, tuple[object, str]]:
    """Read default and comment of every parameter in the cell tagged ``parameters``; empty without such a cell.

    (papermill's own inspection loses a parameter whose comment holds an equals sign.) Raises `DataError` if the cell holds
    anything but literals: a derived value would keep its default when a parameter changes.
    """
    cells = nbformat.read(path, as_version=4).cells
    source = next((cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), "")
    lines, found = source.splitlines(), {}
    for statement in ast.parse(source).body:
        try:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            value = ast.literal_eval(statement.value)
        except (AttributeError, ValueError) as error:
            problem = f"{path.name}: the parameters cell may hold literals only, not `{ast.unparse(statement)}`"
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
    """Hand every parameter to the notebooks that have it: by notebook, the values that differ from its defaults.

    Values have the type of the default, a tuple becomes a list. Raises `DataError` if no notebook has a parameter, or a value
    does not fit the type of a default or the range in its comment.
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
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "null": "None"}.get(text.lower(), text))
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
        if outside or (multiple and (number <= 0 or number % int(multiple[1]))):
            raise DataError(f"parameter {name} is {value!r}", f"notebook {notebook} takes: {limits.strip()}")


def execute_notebooks(
    notebooks: Sequence[Path], folder: Path, *, parameters: Mapping[Path, Mapping[str, object]]
) -> Iterator[NotebookRun]:
    """Execute notebooks one after the other, each in its own folder; yield what became of each as soon as it has ended.

    What needs a notebook that failed is not run; all others are. `folder` gets the executed copies, also the partial one of a
    notebook that fails; `parameters` are values by notebook, as `assign` gives them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters with an equals sign in their comment
    broken: dict[str, str] = {}
    for path in notebooks:
        needed = broken.get(NEEDS.get(path.stem[:2], ""))
        if needed:
            run = NotebookRun(path.stem, "not run", error=f"needs the results of {needed}")
        else:
            run = execute_notebook(path, folder / path.name, parameters=parameters.get(path, {}))
        if run.status != "ok":
            broken[path.stem[:2]] = run.name
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


def write_pages(runs: Sequence[NotebookRun], workspace: Workspace, folder: Path) -> Path:
    """Build pages of the executed notebooks in `folder`; return their index, in Markdown where Sphinx is not installed.

    Notebooks that an earlier call executed and this one did not stay in the index.
    """
    record, index = folder / "run.json", folder / "index.md"
    try:
        earlier = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # the first call, or what a crash left
        earlier = []
    earlier = [run for run in earlier if run.keys() == {field.name for field in fields(NotebookRun)}]  # of this version
    every = sorted({run["name"]: run for run in [*earlier, *map(asdict, runs)]}.values(), key=lambda run: run["name"])
    with write_atomically(record) as temporary:
        temporary.write_text(json.dumps(every, indent=2, default=str) + "\n", encoding="utf-8")
    lines = [f"# Results: {workspace.cohort}", "For research and teaching only, not for clinical use."]
    lines += [_entry(NotebookRun(**run), workspace, folder) for run in every]
    names = [run["name"] for run in every if run["status"] != "not run"]
    index.write_text("\n\n".join([*lines, "```{toctree}\n:hidden:\n", *names, "```\n"]), encoding="utf-8")
    try:
        from sphinx.application import Sphinx
    except ImportError:
        return index
    shown = ["index.md", *(f"{name}.ipynb" for name in names)]
    settings = {"extensions": ["myst_nb"], "root_doc": "index", "include_patterns": shown}
    folders = (folder, REPOSITORY / "docs", folder / "pages", folder / ".doctrees")  # source, settings, pages, cache
    Sphinx(*folders, "html", settings, status=None, warning=None).build()
    return folder / "pages" / "index.html"


def key_figure(path: Path) -> bytes:
    """Read the first PNG picture in the outputs of the cell tagged ``key-figure``; empty if there is none."""
    for cell in nbformat.read(path, as_version=4).cells if path.is_file() else []:
        if "key-figure" in cell.metadata.get("tags", []):
            pictures = (one.data["image/png"] for one in cell.outputs if "image/png" in one.get("data", {}))
            return base64.b64decode(next(pictures, ""))
    return b""


def numbers_of(run: NotebookRun, workspace: Workspace) -> dict[str, str]:
    """Read the numbers that this run left, as a reader sees them; those of an earlier run are not shown as its own."""
    path = metrics_path(workspace, run.name)
    fresh = path.is_file() and path.stat().st_mtime >= run.started - 1  # some file systems keep whole seconds
    numbers = load_metrics(workspace, run.name)["numbers"] if fresh and run.status == "ok" else {}
    return {name: show_number(value) for name, value in numbers.items()}


def show_number(value: float | int | str | None) -> str:
    """Format a number for a table: three decimals at most, thousands apart."""
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"
    return "undefined" if value is None else f"{value:,}" if type(value) is int else str(value)


def show_seconds(seconds: float) -> str:
    """Format a duration for people: 42 s, 3 min 05 s."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def _entry(run: NotebookRun, workspace: Workspace, folder: Path) -> str:
    """One notebook in the index: what became of it, its parameters, its key figure and its numbers."""
    if run.status == "not run":
        return f"## {run.name}\n\nnot run: {run.error}"
    parameters = ", ".join(f"`{name}={value}`" for name, value in run.parameters.items())
    lines = [f"## [{run.name}]({run.name}.ipynb)", ", ".join(filter(None, [run.status, show_seconds(run.seconds), parameters]))]
    lines += [f"```text\n{run.error}\n```"] * bool(run.error)
    if figure := key_figure(folder / f"{run.name}.ipynb"):
        (folder / f"{run.name}.png").write_bytes(figure)
        lines.append(f"![Key figure of {run.name}]({run.name}.png)")
    rows = [f"| {name} | {text} |" for name, text in numbers_of(run, workspace).items()]
    return "\n\n".join([*lines, "\n".join(["| Result | Value |", "| --- | --- |", *rows] * bool(rows))])
