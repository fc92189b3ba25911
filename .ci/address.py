"""Carry the repository's address from pyproject.toml to where it is needed: ``python .ci/address.py``.

That is the README (badges, site, clone), CITATION.cff, the set-up script of a SageMaker notebook instance, and the first cell
of each notebook, which installs the tutorial in Google Colab and does nothing anywhere else.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ADDRESS = PROJECT["urls"]["Repository"]
NAME = ADDRESS.removeprefix("https://github.com/")
OWNER, _, FOLDER = NAME.partition("/")
SITE = f"https://{OWNER}.github.io/{FOLDER}/"
"""Where .github/workflows/pages.yml publishes what ``make site`` builds."""
CLONE = f"git clone {ADDRESS} && cd {FOLDER}"
FIRST = "01_explore_data.ipynb"
TAG = "remove-cell"
"""With this tag the site leaves the cell out."""

BADGES = {
    "colab": ("Open in Colab", f"https://colab.research.google.com/github/{NAME}/blob/main/notebooks/{FIRST}"),
    "studio-lab": ("Open in Studio Lab", f"https://studiolab.sagemaker.aws/import/github/{NAME}/blob/main/notebooks/{FIRST}"),
}
BADGE = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{text}">
<title>{text}</title>
<rect width="{width}" height="20" rx="3" fill="#24425c"/>
<text x="{middle}" y="14" fill="#fff" text-anchor="middle" font-family="Verdana, sans-serif" font-size="11">{text}</text>
</svg>
"""
CELL = f"""# In Google Colab this cell installs the tutorial. Anywhere else it does nothing.
if "google.colab" in str(get_ipython()):
    !git clone --quiet --depth 1 {ADDRESS}
    !bash {FOLDER}/.ci/colab.sh
    import site

    site.addsitedir(site.getsitepackages()[0])"""


def replace(path: Path, pattern: str, text: str) -> None:
    """Replace the one place of a file that `pattern` describes."""
    old = path.read_text(encoding="utf-8")
    new, count = re.subn(pattern, lambda _: text, old, flags=re.MULTILINE)
    assert count == 1, f"{path.name} has {count} places for the address"
    if new != old:
        path.write_text(new, encoding="utf-8")


def put_first_cell(path: Path) -> None:
    """Write the first code cell of a notebook; when it is new, count the cells after it anew."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if TAG in cells[0].metadata.get("tags", []):
        if cells[0].source == CELL:
            return
        cells[0].source = CELL
    else:
        first = new_code_cell(CELL, id="install", metadata={"tags": [TAG]})
        notebook.cells.insert(notebook.cells.index(cells[0]), first)
        for count, cell in enumerate([first, *cells], start=1):
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    path.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf-8")


def main() -> None:
    """Write all of it; a second time changes nothing."""
    for name, (text, _) in BADGES.items():
        width = 7 * len(text) + 16
        badge = BADGE.format(text=text, width=width, middle=width // 2)
        (ROOT / "images" / f"{name}.svg").write_text(badge, encoding="utf-8")
    badges = " ".join(f"[![{text}](images/{name}.svg)]({link})" for name, (text, link) in BADGES.items())
    replace(ROOT / "README.md", r"^\[!\[Open in Colab.*$", badges)
    replace(ROOT / "README.md", r"https://[\w-]+\.github\.io/[^)]*", SITE)
    replace(ROOT / "README.md", r"^git clone .*$", CLONE)
    replace(ROOT / "CITATION.cff", r"^repository-code:.*$", f'repository-code: "{ADDRESS}"')
    replace(ROOT / "cloud" / "lifecycle" / "on-create.sh", r"^REPOSITORY=\S+", f"REPOSITORY={ADDRESS}.git")
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        if ".ipynb_checkpoints" not in path.parts:
            put_first_cell(path)


if __name__ == "__main__":
    main()
