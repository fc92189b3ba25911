"""Settings of Sphinx: for ``make site``, and for the pages that ``make run`` leaves.

The source of the site is the whole repository, so that links between its files are links of the site too.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = [ROOT / "helpers", *(path.parent for path in sorted((ROOT / "packages").glob("*/src/*/__init__.py")))]
sys.path[:0] = [str(folder.parent) for folder in PACKAGES]

project = "Brain-tumour segmentation"
author = "The brain-tumour-segmentation contributors"
copyright = f"{author}, Apache-2.0. For research and teaching only, not for clinical use"
version = release = PROJECT["version"]
language = "en"  # the British catalogue of Sphinx 9 lacks a plural, on which the search stops
suppress_warnings = ["ref.python"]  # a type that several packages have, such as Session, links to the first

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.apidoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["*.md", "docs/**", "notebooks/*.ipynb", "notebooks/extras/*.ipynb", "cloud/*.md", "packages/*/*.md"]
exclude_patterns = ["docs/contents.md", "docs/reference/*/modules.rst", "**/.ipynb_checkpoints"]

nb_execution_mode = "off"
nb_output_stderr = "remove"
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

default_role = "code"
apidoc_modules = [
    {"path": str(folder), "destination": f"docs/reference/{folder.name}", "module_first": True} for folder in PACKAGES
]
autodoc_default_options = {"members": True, "member-order": "bysource", "ignore-module-all": True}
autodoc_inherit_docstrings = False
napoleon_google_docstring = False
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = project
html_copy_source = False
html_context = {"default_mode": "auto"}
html_static_path = ["static"]
html_favicon = "static/favicon.svg"
html_css_files = ["site.css"]
html_theme_options = {
    "repository_url": PROJECT["urls"]["Repository"],
    "path_to_docs": "",
    "use_repository_button": True,
    "use_download_button": False,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
}

GLOSSARY = re.findall(r"^### (.+)$", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
ORDINARY = {"Case", "Calibration", "Fold", "Patch", "Reference", "Registration", "Sensitivity"}
"""Terms that are ordinary words as well, and are not linked."""
PROTECTED = re.compile(
    r"(```.*?```|`[^`]*`|!?\[[^]]*\](?:\([^)]*\))?|\$\$.*?\$\$|\$[^$\n]+\$|^[#|][^\n]*$|<[^>]+>|https?://\S+)", re.S | re.M
)
WIDGET = "application/vnd.jupyter.widget-view+json"
FRAME = '<iframe class="slice-viewer-page" src="{source}" title="{title}" loading="lazy"></iframe>'


def prepare_source(app: Sphinx, name: str, source: list[str]) -> None:
    """Add the tree of pages to the README, where GitHub would show it as text, and bring the viewers of a notebook to life."""
    path, linked = app.env.doc2path(name), set()
    if app.srcdir == ROOT and path.suffix == ".md" and name != "docs/glossary":
        source[0] = link_terms(source[0], linked)
    if name == "README":
        source[0] += (Path(app.confdir) / "contents.md").read_text(encoding="utf-8")
    elif path.suffix == ".ipynb":
        notebook = json.loads(source[0])
        viewers = path.parent / "viewers" / path.stem
        if viewers.is_dir():
            shutil.copytree(viewers, Path(app.outdir) / Path(name).parent / "viewers" / path.stem, dirs_exist_ok=True)
        prepare_outputs(notebook, viewers)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown" and app.srcdir == ROOT:
                cell["source"] = link_terms("".join(cell["source"]), linked)
        source[0] = json.dumps(notebook)


def link_terms(text: str, linked: set[str]) -> str:
    """Link the first place of a page at which a term stands with the glossary; `linked` collects the terms of the page."""
    parts = PROTECTED.split(text)
    for term in sorted(set(GLOSSARY) - ORDINARY - linked, key=len, reverse=True):
        spelling = term if term[1:] != term[1:].lower() else f"(?i:{term})"
        for place in range(0, len(parts), 2):
            target = f"/docs/glossary.md#{term.lower().replace(' ', '-')}"
            parts[place], count = re.subn(rf"(?<![\w[-]){spelling}(?![\w\]-])", rf"[\g<0>]({target})", parts[place], count=1)
            if count:
                linked.add(term)
                parts = PROTECTED.split("".join(parts))
                break
    return "".join(parts)


def prepare_outputs(notebook: dict, viewers: Path) -> None:
    """Put the page of each viewer in the place of its picture, and give the other pictures the section as their text."""
    section, count = "", 0
    for cell in notebook["cells"]:
        headings = re.findall(r"^#+ (.+)$", "".join(cell["source"]), re.MULTILINE) if cell["cell_type"] == "markdown" else []
        section = headings[-1] if headings else section
        cell["metadata"]["mystnb"] = {"image": {"alt": f"Figure in the section: {section}"}}
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if data.pop(WIDGET, None) and list(data) == ["text/plain"]:
                data.clear()  # a progress bar, which only its kernel can draw
            if "".join(data.get("text/plain", "")).startswith("SliceViewer("):
                count += 1
                if (page := viewers / f"{count}.html").is_file():
                    source, title = (
                        f"viewers/{viewers.name}/{page.name}",
                        f"Slices to scroll through, in the section: {section}",
                    )
                    output["data"] = {"text/html": FRAME.format(source=source, title=title)}


def escape_signs(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Let a docstring say |P and R| and (C, *spatial), which reStructuredText would read as marks of its own."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``|`.*?`|\*\w[^*]*\w\*)", line)
        parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
        lines[number] = "".join(parts)


def write_math(self, node: nodes.math) -> None:
    """Write a formula as MathML, which browsers and screen readers know without a script."""
    self.body.append(convert(node.astext(), display="block" if isinstance(node, nodes.math_block) else "inline"))
    raise nodes.SkipNode


def write_front(app: Sphinx, error: Exception | None) -> None:
    """Make the README the page that a reader gets without naming one."""
    if (front := Path(app.outdir) / "README.html").is_file() and not error:
        shutil.copy(front, front.with_name("index.html"))


def setup(app: Sphinx) -> None:
    """Connect the functions of this file."""
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("source-read", prepare_source)
    if "sphinx.ext.autodoc" in app.config.extensions:
        app.connect("autodoc-process-docstring", escape_signs, priority=400)  # before napoleon
    app.connect("build-finished", write_front)
