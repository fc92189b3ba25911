"""What becomes of executed notebooks: the form in which they are committed, and pages for the browser."""

from __future__ import annotations

import base64
import copy
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook
from nbstripout import strip_output

from helpers.running.execute import NotebookRun
from helpers.workspace import DataError, Workspace, load_metrics, metrics_path, versions, write_atomically
from slice_viewer.slices import to_palette

LARGE_PICTURE = 60_000
"""Characters of an encoded picture above which a palette makes it smaller; small ones are plots with few colours anyway."""
SIZE_LIMIT = 1_000_000
"""Bytes of a committed notebook; GitHub shows larger ones slowly or not at all."""

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
METADATA = ("papermill", "widgets", "toc", "vscode", "colab")
CELL_METADATA = ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled", "vscode", "id")
EXTRA_KEYS = [f"metadata.{key}" for key in METADATA] + [f"cell.metadata.{key}" for key in CELL_METADATA]
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
MACHINE_PATH = re.compile(r"(?:/home/|/Users/|/root/|/tmp/|[A-Za-z]:\\Users\\)[^\s'\"<>)]*")

RECORD = "run.json"
TEMPLATE = """{% extends "lab/index.html.j2" %}
{% block html_head_js %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_js_mathjax %}{% if resources.formulas %}{{ super() }}{% endif %}{% endblock %}
"""
"""nbconvert's own template without the scripts that it loads from elsewhere; MathJax stays where there is a formula."""
FORMULA = re.compile(r"\$[^$\n]+\$|\$\$|\\\(|\\begin\{")


def normalise(notebook: NotebookNode, root: Path, *, name: str = "notebook") -> NotebookNode:
    """Reduce an executed notebook to what is committed; applied twice it changes nothing more.

    Parameters
    ----------
    notebook : NotebookNode
        Executed from the first cell to the last; it is not changed.
    root : Path
        The repository; paths below it become relative to it.
    name : str
        What error sentences call the notebook.

    Returns
    -------
    NotebookNode
        Without run times, injected parameters, standard error, widgets, memory addresses and paths of this machine.

    Raises
    ------
    DataError
        If it was not run once from top to bottom, has an error in it, names a path of this machine or is too large.
    """
    result = copy.deepcopy(notebook)
    _check_one_clean_run(result, name)
    result.cells = [cell for cell in result.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    result = strip_output(result, keep_output=True, keep_count=True, keep_id=True, extra_keys=EXTRA_KEYS)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    result.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for cell in result.cells:
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)  # papermill gives every cell an empty list
    for count, cell in enumerate(_code_cells(result), start=1):
        cell.execution_count = count
        cell.outputs = [kept for output in cell.outputs if (kept := _reduce(output, count, root)) is not None]
        CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)
        for text in _texts(cell):
            if found := MACHINE_PATH.search(text):
                raise DataError(f"{name}: the output of In [{count}] shows {found[0]}", "print a relative path instead")
    if (size := len(nbformat.writes(result))) > SIZE_LIMIT:
        raise DataError(f"{name} has {size / 1e6:.1f} MB, 1 MB is the limit", "show fewer or smaller figures")
    return result


def update_notebook(executed: Path, target: Path, root: Path) -> None:
    """Take the outputs of an executed copy into the notebook itself.

    Raises
    ------
    DataError
        As `normalise`, and if the notebook was edited while its copy ran.
    """
    notebook = nbformat.read(executed, as_version=4)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if len(encoded := output.get("data", {}).get("image/png", "")) > LARGE_PICTURE:
            output.data["image/png"] = base64.b64encode(to_palette(base64.b64decode(encoded))).decode()
    result = normalise(notebook, root, name=target.stem)
    if [cell.source for cell in result.cells] != [cell.source for cell in nbformat.read(target, as_version=4).cells]:
        raise DataError(f"{target.name} was edited while it ran", "run it again")
    nbformat.validate(result)
    with write_atomically(target) as file:
        file.write_text(nbformat.writes(result).rstrip("\n") + "\n", encoding="utf-8")


def write_html(notebook: NotebookNode, target: Path, *, sources: Path) -> Path:
    """Write a notebook as one static HTML page that needs nothing from elsewhere, except MathJax for formulas.

    Parameters
    ----------
    notebook : NotebookNode
        As executed. Links to other notebooks lead to their pages; widgets, which a static page cannot show, are left out.
    target : Path
        The page.
    sources : Path
        Folder of the notebook, from which its relative pictures are read.
    """
    page = copy.deepcopy(notebook)
    page.metadata.pop("widgets", None)
    for cell in page.cells:
        if cell.get("outputs"):
            cell.outputs = [output for output in cell.outputs if WIDGET_VIEW not in output.get("data", {})]
    formulas = any(FORMULA.search(cell.source) for cell in page.cells if cell.cell_type == "markdown")
    resources = {"metadata": {"name": target.stem, "path": str(sources)}, "formulas": formulas}
    body, _ = HTMLExporter(raw_template=TEMPLATE, embed_images=True).from_notebook_node(page, resources=resources)
    target.write_text(re.sub(r'(href="[\w./-]+)\.ipynb(["#])', r"\1.html\2", body), encoding="utf-8")
    return target


def write_pages(runs: Sequence[NotebookRun], workspace: Workspace, folder: Path, *, sources: dict[str, Path]) -> Path:
    """Write the page of every executed notebook and the index that links them.

    Notebooks that an earlier call executed and this one did not stay in the index.

    Parameters
    ----------
    runs : sequence of NotebookRun
        What was executed now.
    workspace : Workspace
        Where the notebooks left their numbers.
    folder : Path
        Where the executed notebooks are and the pages go.
    sources : dict from str to Path
        By notebook name, the folder it came from.

    Returns
    -------
    Path
        The index.
    """
    records = _earlier(folder) | {run.name: run for run in runs}
    title = f"# Brain-tumour segmentation: {workspace.cohort}\n\n{time.strftime('%d %B %Y, %H:%M')}. "
    texts = [title + "For research and teaching only, not for clinical use."]
    for name, run in sorted(records.items()):
        executed = folder / f"{name}.ipynb"
        notebook = nbformat.read(executed, as_version=4) if run.status != "not run" and executed.is_file() else None
        if notebook and name in sources:
            write_html(notebook, folder / f"{name}.html", sources=sources[name])
        texts.append(_entry(run, notebook, workspace))
    texts.append(", ".join(f"{name} {version}" for name, version in versions().items()))
    record = json.dumps([asdict(run) for run in records.values()], indent=2, default=str)
    (folder / RECORD).write_text(record + "\n", encoding="utf-8")
    index = new_notebook(cells=[new_markdown_cell(text) for text in texts])
    return write_html(index, folder / "index.html", sources=folder)


def _entry(run: NotebookRun, notebook: NotebookNode | None, workspace: Workspace) -> str:
    """One notebook in the index: what became of it, its key figure, its numbers."""
    title = title_of(notebook, run.name) if notebook else run.name
    lines = [f"## [{title}]({run.name}.html)" if notebook else f"## {title}"]
    done = f"{run.status}, {show_seconds(run.seconds)}" if run.status != "not run" else f"not run: {run.error}"
    done += f", at most {run.memory / 1e9:.1f} GB of memory" if run.memory else ""
    lines.append(
        done + ", with " * bool(run.parameters) + ", ".join(f"`{key}={run.parameters[key]}`" for key in run.parameters)
    )
    lines += [f"```\n{run.error}\n```"] * (run.status == "failed")
    if notebook and (figure := key_figure(notebook)):
        lines.append(f"![Key figure of {title}](data:image/png;base64,{figure})")
    rows = [f"| {label} | {show_number(value)} |" for label, value in numbers_of(run, workspace).items()]
    return "\n\n".join([*lines, *(["| | |\n|---|---|\n" + "\n".join(rows)] if rows else [])])


def key_figure(notebook: NotebookNode) -> str:
    """First PNG picture, base64, in the outputs of the cell tagged ``key-figure``; empty if there is none."""
    for cell in notebook.cells:
        if "key-figure" in cell.metadata.get("tags", []):
            for output in cell.get("outputs", []):
                if picture := output.get("data", {}).get("image/png"):
                    return "".join(picture.split())
    return ""


def title_of(notebook: NotebookNode, default: str) -> str:
    """Text of the first heading."""
    text = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    heading = re.search(r"^#\s+(.+)$", text, re.MULTILINE)
    return heading[1].strip() if heading else default


def numbers_of(run: NotebookRun, workspace: Workspace) -> dict[str, float | int | str | None]:
    """The numbers that this run of the notebook left; those of an earlier run are not shown as its own."""
    path = metrics_path(workspace, run.name)
    fresh = path.is_file() and path.stat().st_mtime >= run.started - 1  # some file systems keep whole seconds
    return load_metrics(workspace, run.name)["numbers"] if fresh and run.status == "ok" else {}


def show_number(value: float | int | str | None) -> str:
    """A number as a table shows it: three decimals at most, thousands apart."""
    if value is None:
        return "undefined"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"


def show_seconds(seconds: float) -> str:
    """A duration as people say it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def _code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def _check_one_clean_run(notebook: NotebookNode, name: str) -> None:
    cells = _code_cells(notebook)
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        raise DataError(f"{name} was not run once from the first cell to the last", "restart the kernel and run all")
    for cell in cells:
        if any(output.output_type == "error" for output in cell.outputs):
            raise DataError(f"{name}: In [{cell.execution_count}] ended in an error", "mend it and run all")


def _reduce(output: NotebookNode, count: int, root: Path) -> NotebookNode | None:
    """One output as it is committed, None if nothing of it is."""
    if output.output_type == "stream":
        output.text = _clean(output.text, root)
        return output if output.name != "stderr" else None
    output.metadata = NotebookNode()
    if output.output_type == "execute_result":
        output.execution_count = count
    had_widget = output.data.pop(WIDGET_VIEW, None) is not None
    for kind in filter(_is_text, output.data):
        output.data[kind] = _clean(output.data[kind], root)
    return None if not output.data or (had_widget and set(output.data) <= {"text/plain"}) else output


def _is_text(kind: str) -> bool:
    return kind.startswith("text/") or kind == "image/svg+xml"


def _clean(text: str, root: Path) -> str:
    for folder in dict.fromkeys((str(root), str(root.resolve()))):
        text = text.replace(folder + "/", "").replace(folder, ".")
    return ADDRESS.sub("at 0x...", text)


def _texts(cell: NotebookNode) -> Iterator[str]:
    """Every text in the outputs of a cell; pictures are left out, for their letters may spell anything."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        yield from (value for kind, value in output.get("data", {}).items() if _is_text(kind))


def _earlier(folder: Path) -> dict[str, NotebookRun]:
    try:
        return {record["name"]: NotebookRun(**record) for record in json.loads((folder / RECORD).read_text())}
    except (OSError, ValueError, TypeError, KeyError):
        return {}  # the first call, or a record of another version: the index then shows this call alone
