"""Image and lifecycle scripts, as far as they can be checked without Docker and AWS."""

import fnmatch
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta

import pytest
from packaging.requirements import Requirement

from helpers.cloud.jobs import IN_IMAGE
from helpers.workspace import REPOSITORY

CLOUD = REPOSITORY / "cloud"
DOCKERFILE = (CLOUD / "docker" / "Dockerfile").read_text()
SCRIPTS = sorted([*CLOUD.glob("*/*.sh"), CLOUD / "docker" / "serve"])
LIFECYCLE = sorted(CLOUD.glob("lifecycle/*.sh"))
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def copied():
    """Sources of the Dockerfile's COPY lines."""
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE):
        yield from [word for word in line.split() if not word.startswith("--")][:-1]


def test_everything_that_is_copied_exists_and_reaches_the_builder():
    patterns = (CLOUD / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = [line[1:] for line in patterns if line.startswith("!")]
    assert patterns[1] == "*", "what is not named must stay outside"
    for source in copied():
        assert (REPOSITORY / source).exists(), source
        assert any(fnmatch.fnmatchcase(source, pattern) for pattern in let_in), source
    assert sorted(let_in) == sorted(set(copied()))


def test_the_image_is_on_the_base_that_is_given_and_holds_no_secret():
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BASE}"]
    text = "\n".join(path.read_text() for path in CLOUD.rglob("*") if path.is_file())
    assert not re.search(r"\d{12}|AKIA|ASIA|aws_secret|(?i:password *=)", text)
    assert not re.search(r"^(ARG|ENV).*(KEY|TOKEN|SECRET)", DOCKERFILE, re.MULTILINE)
    assert "SERVE_HOST=0.0.0.0" in DOCKERFILE


def test_the_commands_of_the_image_are_modules_that_exist():
    assert "exec python3 -m helpers serve" in (CLOUD / "docker" / "serve").read_text()
    compile((CLOUD / "docker" / "train").read_text(), "train", "exec")
    copied_to = re.search(r"docker/serve cloud/docker/train (\S+)/$", DOCKERFILE, re.MULTILINE)[1]
    assert f'ENV PATH="{copied_to}:${{PATH}}"' in DOCKERFILE, "the base image has a train of its own"
    assert re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE) == ["[]"], "a shell would keep SIGTERM from serve"
    for module in (
        "helpers.cli.serve",
        "helpers.cloud.jobs",
        *re.findall(r"import (helpers[\w.]+), (helpers[\w.]+)", DOCKERFILE)[0],
    ):
        assert importlib.util.find_spec(module), module


def test_the_image_installs_what_the_package_asks_for():
    projects = [REPOSITORY / "pyproject.toml", *REPOSITORY.glob("packages/*/pyproject.toml")]
    asked = [line for path in projects for line in tomllib.loads(path.read_text())["project"]["dependencies"]]
    known = {Requirement(line).name for line in asked}
    lines = [line for line in (CLOUD / "docker" / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(lines) and set(lines) <= known


def test_the_image_takes_every_version_of_the_lock_but_those_of_its_base():
    """torchmetrics is not torch: the base image does not bring it."""
    command = re.search(r"(grep -Ev '[^']+') /opt/program/requirements.lock", DOCKERFILE)[1]
    lock = (REPOSITORY / "requirements.lock").read_text()
    kept = subprocess.run(shlex.split(command), input=lock, capture_output=True, text=True, check=True).stdout.split()
    locked = [line for line in lock.splitlines() if not line.startswith("#")]
    assert kept == [line for line in locked if not IN_IMAGE.fullmatch(line.partition("==")[0])]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(path):
    shell = path.read_text().splitlines()[0].removeprefix("#!/bin/")
    subprocess.run([shell, "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--shell", shell, str(path)], check=True)


@pytest.mark.parametrize("path", LIFECYCLE, ids=lambda path: path.name)
def test_lifecycle_scripts_keep_the_limits(path):
    text = path.read_text()
    assert len(text) <= 16_384
    assert "set -euo pipefail" in text and "/home/$USER_NAME/SageMaker" in text


def tool(folder, name, body):
    """A command that runs a line of shell in place of the real one."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def test_the_set_up_runs_in_the_background(tmp_path):
    """The script itself, with commands that only say what they were given; the set-up would take minutes."""
    text = (CLOUD / "lifecycle" / "on-create.sh").read_text()
    home, tools = tmp_path / "home" / "SageMaker", tmp_path / "bin"
    home.mkdir(parents=True)
    waits = f"for _ in $(seq 200); do [ -f {tmp_path}/go ] && break; sleep 0.1; done; touch {tmp_path}/ended"
    for name, body in {"chown": "exit 0", "sudo": waits}.items():
        tool(tools, name, body)
    script = text.replace("HOME_FOLDER=/home/$USER_NAME/SageMaker", f"HOME_FOLDER={home}")
    subprocess.run(
        ["bash", "-c", script], env={"PATH": f"{tools}:/usr/bin:/bin"}, check=True, timeout=20, stdin=subprocess.DEVNULL
    )
    assert not (tmp_path / "ended").exists(), "the script waited for the set-up"
    (tmp_path / "go").touch()
    assert (home / "set-up.sh").stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(home / "set-up.sh")], check=True)


def test_only_a_committed_tree_becomes_an_image(tmp_path):
    """The script itself, in a repository of its own, with commands that only say what they were given."""
    root, tools = tmp_path / "repository", tmp_path / "bin"
    (root / "cloud/docker").mkdir(parents=True)
    (root / "helpers").mkdir()
    shutil.copy(CLOUD / "docker" / "build.sh", root / "cloud/docker")
    made, stored, notes = (tmp_path / name for name in ("made", "stored", "notes"))  # what Docker makes, and ECR then has
    docker = f'[ "$1" != login ] || cat > /dev/null; echo "$1" >> {notes}'  # a login reads the password
    docker += f'; [ "$1" != push ] || cp {made} {stored}'
    aws = f'[ "$2" != describe-images ] || exec cat {stored}; echo 1'
    for name, body in {"python3": "echo registry/base", "aws": aws, "docker": docker}.items():
        tool(tools, name, body)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path)}
    author = ("-c", "user.name=a", "-c", "user.email=a@example.com")

    def run(*words):
        return subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, check=False)

    for words in (("init", "-q"), ("add", "."), (*author, "commit", "-q", "-m", "first")):
        assert run("git", *words).returncode == 0
    (root / "helpers/new.py").touch()
    refused = run("bash", "cloud/docker/build.sh", "eu-central-1")
    assert refused.returncode == 1 and "commit your changes first" in refused.stderr and not notes.exists()
    (root / "helpers/new.py").unlink()
    for kind in ("oci.image.manifest.v1", "docker.distribution.manifest.v2"):
        made.write_text(f"application/vnd.{kind}+json\n")
        built = run("bash", "cloud/docker/build.sh", "eu-central-1", "cpu")
        assert notes.read_text().split() == ["login", "login", "build", "push"]
        if "oci" in kind:
            assert built.returncode == 1 and "SageMaker would refuse the manifest" in built.stderr and not built.stdout
            notes.unlink()
            stored.unlink()
    commit = run("git", "rev-parse", "--short", "HEAD").stdout.strip()
    assert built.stdout.endswith(f"1.dkr.ecr.eu-central-1.amazonaws.com/brain-tumour:{commit}-cpu\n"), built
    assert run("bash", "cloud/docker/build.sh", "eu-central-1", "cpu").stdout == built.stdout
    assert notes.read_text().split().count("push") == 1, "the registry takes no tag twice"


def start_instance(tmp_path, home):
    """Run on-start.sh with commands that note what they were given; returns its status and the notes."""
    for name in ("systemd-run", "dnf"):
        tool(tmp_path / "bin", name, f'echo {name} "$@" >> {tmp_path}/notes')
    tool(tmp_path / "bin", "sudo", f'echo sudo "$@" >> {tmp_path}/notes; shift 3; exec "$@"')
    script = (CLOUD / "lifecycle" / "on-start.sh").read_text().replace("=/home/$USER_NAME/SageMaker", f"={home}")
    done = subprocess.run(["bash", "-c", script], env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}, check=False)
    return done.returncode, (tmp_path / "notes").read_text().splitlines()


def test_an_instance_starts_and_stops_itself_while_its_set_up_still_runs(tmp_path):
    """AWS runs on-start.sh at the creation too, when .venv has a Python but no ipykernel yet."""
    (tmp_path / "home/brain-tumour/.venv/bin").mkdir(parents=True)
    tool(tmp_path / "home/brain-tumour/.venv/bin", "python", "exit 1")
    status, notes = start_instance(tmp_path, tmp_path / "home")
    assert status == 0 and [line.split()[0] for line in notes] == ["systemd-run"]


def test_a_later_start_brings_back_python_and_kernel(tmp_path):
    (tmp_path / "home/brain-tumour/.venv/bin").mkdir(parents=True)
    (tmp_path / "home/brain-tumour/.venv/bin/python").symlink_to(tmp_path / "gone")
    (tmp_path / "home/set-up.done").touch()
    status, notes = start_instance(tmp_path, tmp_path / "home")
    assert status == 0 and [line.split()[0] for line in notes] == ["systemd-run", "dnf", "sudo"]
    assert "ipykernel install" in notes[-1]


def test_an_idle_instance_stops_itself_with_the_python_of_al2023(tmp_path, monkeypatch):
    """/usr/bin/python3 is Python 3.9 there, and a timer of systemd sets no region."""
    monkeypatch.delattr("datetime.UTC")
    module = idle_stop()
    tool(tmp_path / "bin", "aws", f'echo "$@" > {tmp_path}/notes')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    arn = "arn:aws:sagemaker:eu-central-1:111122223333:notebook-instance/brain-tumour-a"
    for name, text in {"METADATA": json.dumps({"ResourceArn": arn}), "UPTIME": "3660.5 1"}.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(module, name, tmp_path / name)
    monkeypatch.setattr(module, "ask", lambda what: [])
    for minutes, stopped in (("62", False), ("60", True)):
        monkeypatch.setattr(sys, "argv", ["idle_stop.py", minutes])
        module.main()
        assert (tmp_path / "notes").exists() == stopped
    words = (tmp_path / "notes").read_text()
    assert "--region eu-central-1" in words and "--notebook-instance-name brain-tumour-a" in words


def idle_stop():
    found = importlib.util.spec_from_file_location("idle_stop", CLOUD / "lifecycle" / "idle_stop.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def used(minutes, state="idle"):
    return {"execution_state": state, "last_activity": (NOW - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")}


@pytest.mark.parametrize(
    ("kernels", "terminals", "up", "expected"),
    [
        ([], [], 30, 30),
        ([used(90)], [], 300, 90),
        ([used(90), used(20)], [], 300, 20),
        ([used(90, "busy")], [], 300, 0),
        ([used(90)], [used(5)], 300, 5),
        ([used(90)], [], 10, 10),
    ],
)
def test_idle_is_what_nobody_has_used(kernels, terminals, up, expected):
    assert idle_stop().idle_minutes(kernels, terminals, now=NOW, up_minutes=up) == pytest.approx(expected)
