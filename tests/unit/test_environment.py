"""pyproject.toml, environment.yml and requirements.lock describe one environment, and it is enough for the package."""

import ast
import functools
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from helpers.workspace import REPOSITORY, VERSIONED

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
FOLDERS = sorted(path.parent for path in REPOSITORY.glob("packages/*/pyproject.toml"))
PACKAGES = {folder.name: tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in FOLDERS}
"""The packages that are developed here, installed from their folders."""
REQUIRED = [Requirement(line) for line in PROJECT["dependencies"]]
FROM_INDEX = [requirement for requirement in REQUIRED if requirement.name not in PACKAGES]
OF_PACKAGES = [Requirement(line) for package in PACKAGES.values() for line in package["dependencies"]]
FOR_TESTS = [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]]
LOCK_LINES = [line for line in (REPOSITORY / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
LOCKED = {canonicalize_name(name): Version(version) for name, _, version in (line.partition("==") for line in LOCK_LINES)}


DISTRIBUTIONS = functools.cache(packages_distributions)
"""Distributions by the package that they bring: seconds, so once."""


def names(requirements) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def with_what_they_bring(requirements) -> set[str]:
    """Names of `requirements` and of all that they require: a list of direct dependencies need not repeat those."""
    found, waiting = set(), [*requirements]
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        if name in found:
            continue
        found.add(name)
        waiting += required_by(name)
    return found


@functools.cache
def required_by(name: str) -> list[Requirement]:
    lines = PACKAGES[name]["dependencies"] if name in PACKAGES else requires(name) or []
    return [one for one in map(Requirement, lines) if not one.marker or one.marker.evaluate({"extra": ""})]


def imported(paths) -> set[str]:
    """Top-level names of the packages outside the standard library that some modules import."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"helpers", "tests", "benchmarks"}


def providers(module: str) -> set[str]:
    """Distributions that bring a package: one may be spread over some that one of its own name asks for, as sagemaker is."""
    return {canonicalize_name(name) for name in [module, *DISTRIBUTIONS().get(module, [])]}


@pytest.mark.parametrize("requirement", FROM_INDEX + OF_PACKAGES + FOR_TESTS, ids=str)
def test_the_lock_satisfies_every_dependency(requirement):
    name = canonicalize_name(requirement.name)
    assert name in LOCKED, f"{name} is not in requirements.lock; run make lock"
    assert LOCKED[name] in requirement.specifier, f"requirements.lock has {name} {LOCKED[name]}; run make lock"


def test_the_lock_holds_plain_exact_versions_in_order():
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line) for line in LOCK_LINES)
    assert len(LOCKED) == len(LOCK_LINES)
    assert sorted(LOCK_LINES, key=str.upper) == LOCK_LINES
    assert not {canonicalize_name(name) for name in (PROJECT["name"], *PACKAGES)} & set(LOCKED)


def test_conda_gets_the_same_environment():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    pip_lines = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    options = [line for line in pip_lines if line.startswith("-")]
    folders = [f"--editable packages/{name}" for name in PACKAGES]
    assert options == ["--constraint requirements.lock", "--editable .", *folders]
    listed = {str(Requirement(line)) for line in pip_lines if not line.startswith("-")}
    assert listed == {str(requirement) for requirement in FROM_INDEX + FOR_TESTS}
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    assert Version(python.removeprefix("python=")) == Version(PROJECT["requires-python"].removeprefix(">="))


def test_every_line_for_conda_says_which_notebook_needs_it():
    """Every notebook, if by way of `helpers`, or the numbered ones that import it; a process that one starts may need more."""
    text = (REPOSITORY / "environment.yml").read_text()
    lines = [line for line in text.partition("dependencies:")[2].splitlines() if re.match(r" +- (?!pip:|--constraint)", line)]
    assert len(lines) == len(FROM_INDEX) + len(PACKAGES) + len(FOR_TESTS) + 3
    importing = {}
    for path in sorted(REPOSITORY.glob("notebooks/*.ipynb")):
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        for module in set(re.findall(r"^ *(?:from|import) (\w+)", "\n".join(cells), re.MULTILINE)):
            for name in providers(module):
                importing.setdefault(name, []).append(path.stem[:2])
    for line in lines:
        found = re.match(r" +- (?:--editable (?:packages/)?)?([\w.-]+).*# (every notebook|none|\d\d(?:, \d\d)*)", line)
        assert found, line
        name, needed = found.groups()
        if name in importing and needed != "every notebook":
            assert needed == ", ".join(importing[name]), line


@pytest.mark.parametrize(
    ("folder", "declared"), [("helpers", REQUIRED), ("benchmarks", REQUIRED + FOR_TESTS), ("tests", REQUIRED + FOR_TESTS)]
)
def test_what_is_imported_is_declared(folder, declared):
    extras = {name: [*map(Requirement, lines)] for name, lines in PROJECT["optional-dependencies"].items()}
    enough = with_what_they_bring(declared + extras["docs"]) | names(extras["kaggle"] + extras["openvino"])
    for module in imported((REPOSITORY / folder).rglob("*.py")):
        assert providers(module) & enough, f"{folder} imports {module}, which pyproject.toml does not ask for"


def modules_behind(*waiting: str) -> set[Path]:
    """Files of the modules that are imported with these, of this repository."""
    found, waiting = set(), list(waiting)
    while waiting:
        name = waiting.pop().replace(".", "/")
        roots = [REPOSITORY, *REPOSITORY.glob("packages/*/src")]
        path = next(
            (path for root in roots for path in (root / f"{name}.py", root / name / "__init__.py") if path.is_file()), None
        )
        if path is None or path in found:
            continue
        found.add(path)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
    return found


def test_jobs_and_endpoints_get_what_their_commands_import():
    """In AWS nothing is installed but the base image and what this list brings; in a rehearsal everything is there."""
    lines = (REPOSITORY / "cloud" / "docker" / "requirements.txt").read_text().splitlines()
    enough = with_what_they_bring(Requirement(line) for line in lines if not line.startswith("#")) | {"torch", "setuptools"}
    commands = [f"helpers.cli.{name}" for name in ("options", "preprocess", "serve", "train")]
    files = modules_behind("helpers.__main__", *commands)
    assert {path.stem for path in files} >= {"decode", "generator", "settings"}
    for module in imported(files) - {folder.name.replace("-", "_") for folder in FOLDERS}:
        assert providers(module) & enough, f"a job imports {module}, which cloud/docker/requirements.txt does not ask for"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_package_stands_alone(folder):
    project = PACKAGES[folder.name]
    assert project["name"] == folder.name and (folder / "README.md").is_file() and list((folder / "tests").glob("test_*.py"))
    assert folder.name in {requirement.name for requirement in REQUIRED}
    own = folder.name.replace("-", "_")
    modules = imported((folder / "src").rglob("*.py")) - {own}
    assert not {module for module in modules if (REPOSITORY / module).exists()}, "a package imports nothing of the repository"
    lines = [*project["dependencies"], *(line for extra in project.get("optional-dependencies", {}).values() for line in extra)]
    declared = names(map(Requirement, lines))
    for module in modules:
        assert providers(module) & declared, f"{folder.name} imports {module}, which its pyproject.toml does not ask for"


def test_versions_kept_beside_results_are_dependencies():
    assert set(VERSIONED) <= names(REQUIRED)
