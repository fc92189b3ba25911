"""pyproject.toml, environment.yml and requirements.lock describe one environment, and it is enough for the package."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires

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
        lines = PACKAGES[name]["dependencies"] if name in PACKAGES else requires(name) or []
        waiting += [one for one in map(Requirement, lines) if not one.marker or one.marker.evaluate({"extra": ""})]
    return found


def imported(folder: str) -> set[str]:
    """Top-level names of the packages outside the standard library that the modules below `folder` import."""
    found = set()
    for path in (REPOSITORY / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"helpers", "tests"}


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
    text = (REPOSITORY / "environment.yml").read_text()
    lines = [line for line in text.partition("dependencies:")[2].splitlines() if re.match(r" +- (?!pip:|--constraint)", line)]
    assert len(lines) == len(FROM_INDEX) + len(PACKAGES) + len(FOR_TESTS) + 3
    for line in lines:
        assert re.search(r"# (every notebook|none|\d\d)", line), line


@pytest.mark.parametrize(
    ("folder", "declared"), [("helpers", REQUIRED), ("benchmarks", REQUIRED + FOR_TESTS), ("tests", REQUIRED + FOR_TESTS)]
)
def test_what_is_imported_is_declared(folder, declared):
    distributions = packages_distributions()
    optional = names(Requirement(line) for extra in ("kaggle", "openvino") for line in PROJECT["optional-dependencies"][extra])
    for module in imported(folder):
        # A package may be spread over distributions that one of its own name asks for, as sagemaker is.
        candidates = {canonicalize_name(name) for name in [module, *distributions.get(module, [])]}
        assert candidates & (with_what_they_bring(declared) | optional), (
            f"{folder} imports {module}, which pyproject.toml does not ask for"
        )


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_package_stands_alone(folder):
    project = PACKAGES[folder.name]
    assert project["name"] == folder.name and (folder / "README.md").is_file() and list((folder / "tests").glob("test_*.py"))
    assert folder.name in {requirement.name for requirement in REQUIRED}
    own = folder.name.replace("-", "_")
    modules = imported(f"packages/{folder.name}/src") - {own}
    assert not {module for module in modules if (REPOSITORY / module).exists()}, "a package imports nothing of the repository"
    distributions, declared = packages_distributions(), names(Requirement(line) for line in project["dependencies"])
    for module in modules:
        candidates = {canonicalize_name(name) for name in [module, *distributions.get(module, [])]}
        assert candidates & declared, f"{folder.name} imports {module}, which its pyproject.toml does not ask for"


def test_versions_kept_beside_results_are_dependencies():
    assert set(VERSIONED) <= names(REQUIRED)
