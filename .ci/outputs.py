"""Execute notebooks with their defaults and commit their outputs: ``python .ci/outputs.py [NOTEBOOK ...]``.

``--extras`` also runs those in notebooks/extras. ``--real-cases FOLDER`` gives them real patients and ``--real-session FOLDER``
one real examination as scanned, which add figures and change no number.
"""

from __future__ import annotations

import argparse
import base64
import copy
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode

from brats_cohort.files import DataError, write_atomically
from helpers.cli import main as helpers
from helpers.running import VIEWERS, find_notebooks
from helpers.workspace import REPOSITORY, open_workspace
from slice_viewer.slices import to_palette

LARGE_PICTURE = 60_000
"""Characters of an encoded picture above which a palette makes it smaller; small ones are plots with few colours anyway."""
SIZE_LIMIT = 1_000_000
"""Bytes of a committed notebook; GitHub shows larger ones slowly or not at all."""

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
CELL_METADATA = ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled", "vscode", "id")
TITLE = re.compile(r"<title>(.*?)</title>")
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
MACHINE_PATH = re.compile(r"(?:/home/|/Users/|/root/|/tmp/|[A-Za-z]:\\Users\\)[^\s'\"<>)]*")


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
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    result.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for cell in result.cells:
        for key in CELL_METADATA if cell.metadata.get("tags") else (*CELL_METADATA, "tags"):  # papermill's are an empty list
            cell.metadata.pop(key, None)
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
    """Take the outputs of an executed copy into the notebook itself, and the pages of its viewers into a folder beside it.

    A page holds whole volumes, so it is taken only if its title says that it shows a phantom.

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
    viewers = target.parent / VIEWERS / target.stem
    shutil.rmtree(viewers, ignore_errors=True)
    for page in (executed.parent / VIEWERS / executed.stem).glob("*.html"):
        if shows_phantom(page):
            viewers.mkdir(parents=True, exist_ok=True)
            shutil.copy(page, viewers)


def shows_phantom(page: Path) -> bool:
    """Whether the page of a viewer says in its title that it shows a phantom."""
    return "phantom" in TITLE.search(page.read_text(encoding="utf-8"))[1].lower()


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


def main() -> int:
    """Execute, and take the outputs in if nothing failed; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python .ci/outputs.py", description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", help="start of a name (03) or a path; all numbered ones if none is given")
    parser.add_argument("--extras", action="store_true", help="also run those in notebooks/extras")
    parser.add_argument("--real-cases", help="folder of real cases for the figures that need them")
    parser.add_argument("--real-session", help="folder of a real session with the skull on, for the notebook your_own_scan")
    chosen = parser.parse_args()
    words = ["run", *chosen.notebooks, *["--extras"] * chosen.extras]
    words += ["-p", f"REAL_CASES={chosen.real_cases}"] if chosen.real_cases else []
    words += ["-p", f"REAL_SESSION={chosen.real_session}"] if chosen.real_session else []
    if status := helpers(words):
        return status
    folder = open_workspace("phantom").root / "run"
    paths = find_notebooks(chosen.notebooks, REPOSITORY / "notebooks", extras=chosen.extras)
    for path in paths:
        update_notebook(folder / path.name, path, REPOSITORY)
    print(f"{len(paths)} notebooks carry these outputs now")
    return 0


if __name__ == "__main__":
    sys.exit(main())
