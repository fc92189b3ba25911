"""Committed notebooks are clean, taught in short cells and linked; so are the pages of the repository."""

import ast
import re
import runpy
import statistics
from pathlib import Path

import nbformat
import pytest

from helpers.running import read_parameters
from helpers.workspace import REPOSITORY

OUTPUTS = runpy.run_path(str(REPOSITORY / ".ci" / "outputs.py"))
FOLDER = REPOSITORY / "notebooks"
NUMBERED = sorted(FOLDER.glob("*.ipynb"))
NOTEBOOKS = NUMBERED + sorted(FOLDER.glob("extras/*.ipynb"))
PAGES = sorted(REPOSITORY.glob("*.md")) + sorted(REPOSITORY.glob("docs/*.md"))
LINK = re.compile(r"\]\(<?([^)\s>]+)[^)]*\)|<(?:a|img)[^>]+(?:href|src)=\"([^\"]+)\"")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|hf_[A-Za-z0-9]{30}|xox[bap]-[0-9A-Za-z-]{20}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|\"key\"\s*:\s*\"[0-9a-f]{32}\"|KGAT_[0-9a-f]{32}"
)
TEXT = {".py", ".md", ".ipynb", ".toml", ".yml", ".yaml", ".json", ".cff", ".lock", ".html", ".js", ".css"}
ACCOUNT = re.compile(r"(?<![0-9.])\d{12}(?![0-9.])|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.ASCII)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def python_of(cell: nbformat.NotebookNode) -> ast.Module:
    """The cell as Python, without the lines that are IPython's own; empty if it is the text of a file."""
    if cell.source.startswith("%%writefile"):
        return ast.parse("")
    return ast.parse(re.sub(r"^( *)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE))


def markdown_of(path: Path) -> str:
    if path.suffix == ".ipynb":
        return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    return path.read_text(encoding="utf-8")


def anchors_of(path: Path) -> set[str]:
    """Anchors of the headings, as GitHub and as Jupyter spell them."""
    headings = re.findall(r"^#+\s+(.+?)\s*$", CODE.sub(lambda m: m[0].strip("`"), markdown_of(path)), re.MULTILINE)
    github = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
    return github | {heading.replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> list[str]:
    broken = []
    for groups in LINK.findall(CODE.sub("", markdown_of(path))):
        target = groups[0] or groups[1]
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        missing_anchor = anchor and file.suffix in {".md", ".ipynb"} and file.is_file() and anchor not in anchors_of(file)
        if not file.exists() or missing_anchor:
            broken.append(target)
    return broken


@each_notebook
def test_notebooks_are_as_a_clean_run_leaves_them(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert any(cell.outputs for cell in code_cells(path)), f"{path.stem} shows nothing to a reader on the web: run make outputs"
    assert OUTPUTS["normalise"](notebook, REPOSITORY, name=path.stem) == notebook, (
        f"run make outputs: {path.stem} is not normalised"
    )


@each_notebook
def test_notebooks_show_nothing_of_the_machine_and_no_noise(path):
    outputs = [output for cell in code_cells(path) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not [output for output in outputs if OUTPUTS["WIDGET_VIEW"] in output.get("data", {})]
    assert "widgets" not in read(path).metadata
    assert not [cell.source for cell in read(path).cells if OUTPUTS["MACHINE_PATH"].search(cell.source)]
    assert path.stat().st_size < OUTPUTS["SIZE_LIMIT"]


@each_notebook
def test_notebooks_show_no_account_key_or_address(path):
    streams = [output.text for cell in code_cells(path) for output in cell.outputs if output.output_type == "stream"]
    texts = [
        text
        for cell in code_cells(path)
        for output in cell.outputs
        for kind, text in output.get("data", {}).items()
        if kind.startswith("text/")
    ]
    assert [found[0] for text in streams + texts for found in [ACCOUNT.search(text)] if found] == []


@each_notebook
def test_parameters_are_literals_in_capitals_with_a_comment_each(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    names = read_parameters(path)
    assert names
    assert all(name == name.upper() for name in names)
    for statement in ast.parse(tagged[0].source).body:
        lines = tagged[0].source.splitlines()[statement.lineno - 1 : statement.end_lineno]
        assert any("#" in line for line in lines), f"no comment with unit or range: {lines[0]}"


@each_notebook
def test_every_notebook_has_a_key_figure(path):
    assert [cell for cell in code_cells(path) if "key-figure" in cell.metadata.get("tags", [])]


@each_notebook
def test_first_cell_has_the_title_and_the_line_of_links(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    title, _, rest = first.source.partition("\n")
    links = {groups[0] for groups in LINK.findall(rest)}
    assert "../" * len(path.relative_to(REPOSITORY).parts[1:]) + "README.md" in {link.partition("#")[0] for link in links}
    if path in NUMBERED:
        assert re.fullmatch(rf"# {path.stem[:2]} · \S.+", title)
        place = NUMBERED.index(path)
        neighbours = NUMBERED[max(place - 1, 0) : place] + NUMBERED[place + 1 : place + 2]
        assert {neighbour.name for neighbour in neighbours} <= links


@each_notebook
def test_cells_are_short_and_plumbing_stays_in_the_package(path):
    lengths = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code_cells(path)]
    assert statistics.median(lengths) <= 8
    for cell in code_cells(path):
        for node in ast.walk(python_of(cell)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno - node.lineno < 15, f"{node.name} is plumbing: move it to helpers"


@each_notebook
def test_imports_come_in_one_cell_of_at_most_20_lines(path):
    kinds = (ast.Import, ast.ImportFrom)
    importing = [cell.source for cell in code_cells(path) if any(isinstance(node, kinds) for node in python_of(cell).body)]
    assert len(importing) == 1
    assert sum(bool(line.strip()) for line in importing[0].splitlines()) <= 20


@pytest.mark.parametrize("path", NOTEBOOKS + PAGES, ids=lambda path: path.name)
def test_links_inside_the_repository_resolve(path):
    assert broken_links(path) == []


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `b` title!\n[a](#a-b-title) [b](#nowhere) [c](page.md) ![d](none.png) [e](https://x.y) `[f](code)`")
    assert broken_links(page) == ["#nowhere", "none.png"]


def test_no_secret_is_committed():
    ours = [REPOSITORY / name for name in ("helpers", "notebooks", "tests", "benchmarks", ".github", ".ci")]
    files = [path for folder in ours for path in folder.rglob("*")] + list(REPOSITORY.glob("*"))
    suspicious = [
        path.name for path in files if path.suffix in TEXT and path.is_file() and SECRETS.search(path.read_text("utf-8"))
    ]
    assert suspicious == []


def test_pages_of_viewers_belong_to_a_notebook_and_say_that_they_show_phantoms():
    for page in FOLDER.rglob("viewers/*/*.html"):
        notebook = page.parents[2] / f"{page.parent.name}.ipynb"
        outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
        shown = sum("SliceViewer(" in output.get("data", {}).get("text/plain", "") for output in outputs)
        assert int(page.stem) <= shown, f"{page} belongs to no viewer: run make outputs"
        assert page.stat().st_size <= 1.1e6
        assert OUTPUTS["shows_phantom"](page), f"{page} does not say that it shows a phantom: give its viewer a title"
