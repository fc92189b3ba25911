"""The pages that ``make run`` leaves: an index with numbers and the executed notebooks, built with the settings of the site."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import nbformat

from helpers.running.execute import NotebookRun
from helpers.workspace import REPOSITORY, Workspace, load_metrics, metrics_path

RECORD = "run.json"


def write_pages(runs: Sequence[NotebookRun], workspace: Workspace, folder: Path) -> Path:
    """Build pages of the executed notebooks in `folder`; return their index, in Markdown where Sphinx is not installed.

    Notebooks that an earlier call executed and this one did not stay in the index.
    """
    record, index = folder / RECORD, folder / "index.md"
    earlier = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else []
    earlier = [run for run in earlier if run.keys() == {field.name for field in fields(NotebookRun)}]  # of this version
    every = sorted({run["name"]: run for run in [*earlier, *map(asdict, runs)]}.values(), key=lambda run: run["name"])
    record.write_text(json.dumps(every, indent=2, default=str) + "\n", encoding="utf-8")
    lines = [f"# Results: {workspace.cohort}", "For research and teaching only, not for clinical use."]
    lines += [_entry(NotebookRun(**run), workspace, folder) for run in every]
    names = [run["name"] for run in every if run["status"] != "not run"]
    index.write_text("\n\n".join([*lines, "```{toctree}\n:hidden:\n", *names, "```\n"]), encoding="utf-8")
    try:
        from sphinx.application import Sphinx
    except ImportError:
        return index
    settings = {
        "extensions": ["myst_nb"],
        "root_doc": "index",
        "include_patterns": ["index.md", *(f"{name}.ipynb" for name in names)],
    }
    Sphinx(
        folder, REPOSITORY / "docs", folder / "pages", folder / ".doctrees", "html", settings, status=None, warning=None
    ).build()
    return folder / "pages" / "index.html"


def key_figure(path: Path) -> bytes:
    """Read the first PNG picture in the outputs of the cell tagged ``key-figure``; empty if there is none."""
    for cell in nbformat.read(path, as_version=4).cells if path.is_file() else []:
        if "key-figure" in cell.metadata.get("tags", []):
            return next(
                (base64.b64decode(one.data["image/png"]) for one in cell.outputs if "image/png" in one.get("data", {})), b""
            )
    return b""


def numbers_of(run: NotebookRun, workspace: Workspace) -> dict[str, str]:
    """Numbers that this run of the notebook left, as a reader sees them; those of an earlier run are not shown as its own."""
    path = metrics_path(workspace, run.name)
    fresh = path.is_file() and path.stat().st_mtime >= run.started - 1  # some file systems keep whole seconds
    numbers = load_metrics(workspace, run.name)["numbers"] if fresh and run.status == "ok" else {}
    return {name: show_number(value) for name, value in numbers.items()}


def show_number(value: float | int | str | None) -> str:
    """A number as a table shows it: three decimals at most, thousands apart."""
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"
    return "undefined" if value is None else f"{value:,}" if type(value) is int else str(value)


def show_seconds(seconds: float) -> str:
    """A duration as people say it."""
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
