"""Pages for the browser: every executed notebook as static HTML, and an index with key figures and numbers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import jinja2
import nbformat
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from helpers.running.execute import NotebookRun
from helpers.running.normalise import WIDGET_VIEW
from helpers.workspace import (
    Workspace,
    load_metrics,
    metrics_path,
    versions,
)

RECORD = "run.json"
PLAIN_TEMPLATE = """{% extends "lab/index.html.j2" %}
{% block html_head_js %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_js_mathjax %}{% if resources.formulas %}{{ super() }}{% endif %}{% endblock %}
"""
"""nbconvert's own template without the scripts that it loads from elsewhere; MathJax stays where there is a formula."""

FORMULA = re.compile(r"\$[^$\n]+\$|\$\$|\\\(|\\begin\{")


def write_html(notebook: NotebookNode, target: Path, *, sources: Path) -> Path:
    """Write an executed notebook as one static HTML page.

    Pictures are inside the page; links to other notebooks lead to their pages. Widgets, which a static page cannot
    show, are left out.

    Parameters
    ----------
    notebook : NotebookNode
        As executed.
    target : Path
        The page.
    sources : Path
        Folder of the notebook, from which its relative pictures are read.
    """
    pages = notebook.copy()
    pages.metadata = NotebookNode({key: value for key, value in notebook.metadata.items() if key != "widgets"})
    pages.cells = [_without_widgets(cell) for cell in notebook.cells]
    formulas = any(FORMULA.search(cell.source) for cell in pages.cells if cell.cell_type == "markdown")
    exporter = HTMLExporter(raw_template=PLAIN_TEMPLATE, embed_images=True)
    resources = {"metadata": {"name": target.stem, "path": str(sources)}, "formulas": formulas}
    body, _ = exporter.from_notebook_node(pages, resources=resources)
    target.write_text(re.sub(r'(href="[\w./-]+)\.ipynb(["#])', r"\1.html\2", body), encoding="utf-8")
    return target


def key_figure(notebook: NotebookNode) -> str:
    """First PNG picture, base64, in the outputs of the cell tagged ``key-figure``; empty where there is none."""
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
    entries = []
    for name, run in sorted(records.items()):
        executed = folder / f"{name}.ipynb"
        entry = {"run": run, "title": name, "figure": "", "numbers": {}, "page": run.status != "not run" and executed.is_file()}
        if entry["page"]:
            notebook = nbformat.read(executed, as_version=4)
            if name in sources:
                write_html(notebook, folder / f"{name}.html", sources=sources[name])
            numbers = {label: show_number(value) for label, value in numbers_of(run, workspace).items()}
            entry |= {"title": title_of(notebook, name), "figure": key_figure(notebook), "numbers": numbers}
        entries.append(entry)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    environment.filters["minutes"] = show_seconds
    page = environment.get_template("index.html").render(
        entries=entries, cohort=workspace.cohort, date=time.strftime("%d %B %Y, %H:%M"), versions=versions()
    )
    (folder / RECORD).write_text(json.dumps([asdict(run) for run in records.values()], indent=2, default=str) + "\n")
    target = folder / "index.html"
    target.write_text(page, encoding="utf-8")
    return target


def show_seconds(seconds: float) -> str:
    """A duration as people say it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def _earlier(folder: Path) -> dict[str, NotebookRun]:
    try:
        return {record["name"]: NotebookRun(**record) for record in json.loads((folder / RECORD).read_text())}
    except (OSError, ValueError, TypeError, KeyError):
        return {}  # the first call, or a record of another version: the index then shows this call alone


def _without_widgets(cell: NotebookNode) -> NotebookNode:
    if not cell.get("outputs"):
        return cell
    kept = cell.copy()
    kept.outputs = [output for output in cell.outputs if WIDGET_VIEW not in output.get("data", {})]
    return kept
