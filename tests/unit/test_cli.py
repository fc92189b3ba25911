"""The command line: options from signatures, and one sentence in place of a traceback."""

import errno
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from brats_cohort.command import COMMANDS, OptionError, Target
from brats_cohort.files import DataError
from helpers import cli
from helpers.cli.options import call
from helpers.workspace import REPOSITORY, pick_device


@dataclass(frozen=True)
class Settings:
    """Settings of a training.

    Attributes
    ----------
    network : str
        Which network.
    learning_rate : float
        Highest rate of the schedule.
    patch : tuple of 3 int
        Edges in voxels.
    augment : bool
        Random changes.
    arguments : mapping
        Of the network.
    weights : Path or None
        To start from.
    """

    network: Literal["unet", "segresnet"] = "unet"
    learning_rate: float = 1e-3
    patch: tuple[int, int, int] = (64, 64, 64)
    augment: bool = True
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None


def run_settings(words: list[str]) -> tuple[Path, bool, Settings]:
    """What a command with an argument, a flag and settings is given."""
    seen = []

    def run(cohort: Path, /, *, tta: bool = False, settings: Settings = Settings()) -> int:
        """Train a network.

        Parameters
        ----------
        cohort
            Folder of the cohort.
        """
        seen.extend((cohort, tta, settings))
        return 0

    assert call(run, words, prog="python -m helpers train") == 0
    return tuple(seen)


def test_settings_are_options_with_dashes():
    words = ["here", "--tta", "--network", "segresnet", "--learning-rate", "0.1", "--arguments", '{"init_filters": 4}']
    assert run_settings(words) == (Path("here"), True, Settings("segresnet", 0.1, arguments={"init_filters": 4}))
    assert run_settings(["here"]) == (Path("here"), False, Settings())


def test_hyperparameters_of_a_job_are_read_as_sagemaker_spells_them():
    found = run_settings(["here", "--learning_rate", "0.1", "--augment", "false", "--tta", "true"])
    assert found == (Path("here"), True, Settings(learning_rate=0.1, augment=False))


@pytest.mark.parametrize(
    ("words", "edges"), [(["32"], (32,) * 3), (["32,32,64"], (32, 32, 64)), (["32", "64", "32"], (32, 64, 32))]
)
def test_a_patch_is_one_number_or_three(words, edges):
    assert run_settings(["here", "--patch", *words])[2].patch == edges


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["here", "--patch", "1", "2"], "one number or three, not 2"),
        (["here", "--arguments", "{1"], "is not JSON"),
        (["here", "--network", "vgg"], "unet"),
        (["here", "--learning_rat", "1"], "--learning-rate"),
        ([], "required"),
    ],
)
def test_wrong_options_end_with_status_2_and_what_is_wrong(words, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        run_settings(words)
    assert ended.value.code == 2
    assert sentence in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_help_describes_every_option(capsys):
    with pytest.raises(SystemExit):
        run_settings(["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in (
        "Train a network.",
        "Folder of the cohort.",
        "Highest rate of the schedule.",
        "--learning-rate",
        "default: 0.001",
        "--weights PATH",
    ):
        assert part in text


def test_help_and_wrong_commands_import_nothing_heavy():
    code = "import sys; from helpers.cli import main; main(['--help']); print({'torch', 'numpy', 'tyro'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert all(name in done.stdout for name in cli.COMMANDS)


def test_every_command_has_a_module():
    folder = Path(cli.__file__).parent
    modules = {name for name in cli.COMMANDS if (folder / f"{name.replace('-', '_')}.py").is_file()}
    assert modules | {name for name in cli.OF_COHORTS if callable(COMMANDS[name])} == set(cli.COMMANDS)


def test_a_wrong_command_says_which_is_meant(capsys):
    assert cli.main(["predikt"]) == 2
    assert "there is no command predikt; did you mean predict?" in capsys.readouterr().err


class Stopped(Exception):
    """As a training that was told to stop."""

    exit_status = 75


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (DataError("t1.nii is damaged", "fetch it again"), 1, "t1.nii is damaged; fetch it again"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/seg.nii"), 1, "/x/seg.nii: the disk is full; make room"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "/x: permission denied; change the permissions or"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), 1, "/x: the file system is read-only"),
        (OSError("Cannot save file into a non-existent directory: 'no'"), 1, "non-existent directory: 'no'"),
        (MemoryError(), 1, "there is not enough memory; take a smaller case"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "there is not enough memory;"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Stopped("state kept at step 4"), 75, "state kept at step 4"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(error, status, sentence, monkeypatch, capsys):
    def fail(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr("helpers.cli.options.call", fail)
    assert cli.main(["run"]) == status
    message = capsys.readouterr().err
    assert message.startswith("python -m helpers run: ")
    assert sentence in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("name", ["cuda", "gpu", "CUDA:3", "0", "mps", "cpu:1x", "tpu"])
def test_a_device_that_is_not_there_is_named(name, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(DataError, match=f"--device is {name}.*take auto"):
        pick_device(name)


@pytest.mark.parametrize(
    ("name", "gpus", "found"),
    [
        ("auto", 0, "cpu"),
        ("auto", 1, "cuda"),
        ("CPU", 1, "cpu"),
        ("gpu", 1, "cuda"),
        ("1", 2, "cuda:1"),
        ("cuda:0", 1, "cuda:0"),
    ],
)
def test_a_device_is_found(name, gpus, found, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert pick_device(name) == found


@pytest.mark.parametrize(("free", "path"), [(10, "out.nii.gz"), (2**30, "file/out")])
def test_a_target_is_tried_before_the_work(free, path, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": free}))

    def run(*, out: Target) -> int:
        raise AssertionError("the work began")

    with pytest.raises(OptionError, match=r"cannot be (written|made), for"):
        call(run, ["--out", str(tmp_path / path)], prog="x")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


GLIBC = platform.libc_ver()[0] == "glibc" and tuple(map(int, platform.libc_ver()[1].split("."))) >= (2, 35)


@pytest.mark.skipif(not GLIBC, reason="only glibc from 2.35 on keeps arrays of more than 32 MB")
@pytest.mark.parametrize("where", ["allocate()", "ThreadPoolExecutor(1).submit(allocate).result()"])
@pytest.mark.parametrize(("first", "kept"), [("", "False"), ("keep_freed_memory()", "True")])
def test_freed_memory_is_kept_for_the_next_array(where, first, kept):
    """Of the main thread, and of another one, as `helpers.serve.app` runs its model in."""
    program = f"""
import os
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from helpers.cli import keep_freed_memory

def allocate():
    np.ones(100_000_000, np.uint8)

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

{first}
before = resident()
{where}
print(resident() - before > 90_000_000)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == kept


def test_an_older_glibc_gets_the_highest_threshold_that_it_takes(monkeypatch):
    """Otherwise it would keep the lowest, as setting the other limits ends its own adaptation."""
    taken = {}

    class Older:
        def __init__(self, name):
            assert name == "libc.so.6"

        def mallopt(self, limit, value):
            if limit == -3 and value > 2**25:
                return 0
            taken[limit] = value
            return 1

    monkeypatch.setattr("ctypes.CDLL", Older)
    cli.keep_freed_memory()
    assert taken == {-1: 2**31 - 1, -3: 2**25, -8: 1}
