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
    badges = [link for _, link in ADDRESS["BADGES"].values()]
    links = [*badges, ADDRESS["SITE"], ADDRESS["CLONE"]] if name == "README.md" else [ADDRESS["ADDRESS"]]
    assert all(link in text for link in links), "run python .ci/address.py"


def test_another_address_reaches_every_place(tmp_path):
    places = [tmp_path / name for name in ("README.md", "CITATION.cff", "cloud/lifecycle/on-create.sh", "notebooks/one.ipynb")]
    script, project = tmp_path / ".ci" / "address.py", tmp_path / "pyproject.toml"
    for path in (*places, script, project):
        path.parent.mkdir(parents=True, exist_ok=True)
        source = NOTEBOOKS[0] if path.suffix == ".ipynb" else REPOSITORY / path.relative_to(tmp_path)
        path.write_bytes(source.read_bytes())
    (tmp_path / "images").mkdir()
    project.write_text(project.read_text().replace(ADDRESS["ADDRESS"], "https://github.com/some-one/tumours"))
    for _ in range(2):  # the second time over its own work
        runpy.run_path(str(script))["main"]()
        texts = [path.read_text(encoding="utf-8") for path in places]
        assert not [text for text in texts if ADDRESS["NAME"] in text or ADDRESS["SITE"] in text]
        assert all("github.com/some-one/tumours" in text for text in texts)
        assert "(https://some-one.github.io/tumours/)" in texts[0]
        assert "\ngit clone https://github.com/some-one/tumours && cd tumours\n" in texts[0]
