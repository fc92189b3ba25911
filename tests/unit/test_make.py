"""The Makefile hands over what a user gives, and an environment belongs to the clone that it was set up for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.workspace import REPOSITORY

PRINT = f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], os.environ.get('MPLBACKEND')]))\n"


@pytest.fixture
def environment(tmp_path) -> Path:
    """An environment set up for this clone whose Python prints its arguments and MPLBACKEND."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PRINT)
    python.chmod(0o755)
    (tmp_path / "venv" / ".ready").write_text(f"{REPOSITORY}\n")
    return tmp_path / "venv"


def make(environment: Path, *words: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", f"VENV={environment}", *words]
    done = subprocess.run(command, cwd=REPOSITORY, env=clean | {"MPLBACKEND": "Agg"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "folder", ["/data/O'Brien", "/data/$HOME/x", "/my data/a b", '/data/"quoted"', "/data/a;b&c", "/data/`id`"]
)
def test_a_folder_reaches_the_program_as_it_is(environment, folder):
    arguments, backend = json.loads(make(environment, "run", "NOTEBOOKS=01 02", f"DATA={folder}", f"OUT={folder}/out"))
    assert arguments == ["-m", "helpers", "run", "01", "02", "--data", folder, "--out", f"{folder}/out"]
    assert backend is None, "MPLBACKEND of the shell hides figures"


def test_parameters_reach_the_program_together(environment):
    arguments, _ = json.loads(make(environment, "run", "COHORT=msd", "EXTRAS=1", "PARAMS=CASES=12 SIZE=[32, 64]"))
    assert arguments == ["-m", "helpers", "run", "--cohort", "msd", "--extras", "-p", "CASES=12 SIZE=[32, 64]"]


def test_an_environment_of_another_folder_is_set_up_again(environment):
    assert "Setting up" not in make(environment, "--dry-run", "run")
    (environment / ".ready").write_text("/home/somebody/clone\n")
    assert "Setting up" in make(environment, "--dry-run", "run")


def test_a_copied_environment_starts_its_own_python(tmp_path):
    folder = tmp_path / "clone 2" / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    body = "# -*- coding: utf-8 -*-\nimport sys\nprint(sys.prefix)\n"
    (folder / "bin" / "plain").write_text(f"#!/home/somebody/clone/.venv/bin/python3\n{body}")
    spaces = '\'\'\'exec\' "/home/some body/.venv/bin/python" "$0" "$@"'
    (folder / "bin" / "spaces").write_text(f"#!/bin/sh\n{spaces}\n' '''\n{body}")
    subprocess.run([folder / "bin" / "python", REPOSITORY / ".ci" / "environment.py"], check=True)
    for name in ("plain", "spaces"):
        (folder / "bin" / name).chmod(0o755)
        assert subprocess.run([folder / "bin" / name], capture_output=True, text=True, check=True).stdout.strip() == str(folder)


def test_a_file_named_helpers_does_not_shadow_the_package(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, REPOSITORY / ".ci" / "environment.py"], check=True)
    library = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (library / "a.pth").write_text(f"{REPOSITORY}\n")  # what an editable installation writes
    (tmp_path / "helpers.py").write_text("X = 1\n")
    done = subprocess.run([python, "-m", "helpers", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "usage: python -m helpers COMMAND" in done.stdout
    own = subprocess.run([python, "-c", "import helpers; print(helpers.X)"], cwd=tmp_path, capture_output=True, text=True)
    assert own.stdout == "1\n", "in a user's own program their file is the one that is imported"
