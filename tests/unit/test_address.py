"""The repository's address and the first cell of the notebooks, which installs the tutorial in Colab and does nothing here."""

import runpy
import site

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from helpers.workspace import REPOSITORY

ADDRESS = runpy.run_path(str(REPOSITORY / ".ci" / "address.py"))
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb")) + sorted((REPOSITORY / "notebooks").glob("extras/*.ipynb"))


class Shell:
    """Stands in for IPython's shell and remembers the commands that it is given."""

    def __init__(self, name: str) -> None:
        self.name, self.commands = name, []

    def __str__(self) -> str:
        return f"<{self.name} object at 0x7f>"

    def system(self, command: str) -> None:
        self.commands.append(command)


def commands_in(shell: Shell) -> list[str]:
    """What the first cell gives to the shell that it runs in."""
    exec(TransformerManager().transform_cell(ADDRESS["CELL"]), {"get_ipython": lambda: shell})
    return shell.commands


def test_the_first_cell_does_nothing_here_and_installs_the_tutorial_in_colab(monkeypatch):
    added = []
    monkeypatch.setattr(site, "addsitedir", added.append)
    assert commands_in(Shell("ipykernel.zmqshell.ZMQInteractiveShell")) == added == []
    clone, install = commands_in(Shell("google.colab._shell.Shell"))
    assert clone == f"git clone --quiet --depth 1 {ADDRESS['ADDRESS']}"  # of the branch that the badge opens
    folder, _, script = install.removeprefix("bash ").partition("/")
    assert folder == ADDRESS["FOLDER"] and (REPOSITORY / script).is_file()
    assert len(added) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_with_the_cell_for_colab(path):
    first = next(cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    assert first.source == ADDRESS["CELL"], "run python .ci/address.py"


@pytest.mark.parametrize("name", ["README.md", "CITATION.cff", "cloud/lifecycle/on-create.sh"])
def test_the_address_is_that_of_the_project(name):
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    links = [link for _, link in ADDRESS["BADGES"].values()] if name == "README.md" else [ADDRESS["ADDRESS"]]
    assert all(link in text for link in links), "run python .ci/address.py"
