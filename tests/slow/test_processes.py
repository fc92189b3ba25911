"""Two processes train like one: the same losses, every validation case once, one writer, and the same resume."""

import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from brats_cohort.testing import write_case
from helpers.cli import main
from helpers.training import EXIT_STATUS
from tests.slow.trainings import (
    CountCases,
    KillAt,
    SignalAfter,
    assert_same_end,
    context,
    prepared_cases,
    read_checkpoint,
    run,
    run_rank,
)

PLAIN = {"steps": 12, "validate_every": 6, "arguments": {"channels": (4, 8, 16), "num_res_units": 1}, "precision": "32-true"}
"""Without dropout, whose random numbers belong to a process, and without the coarse rounding of bf16."""

TOLERANCE = 1e-5
"""Of the loss. The two differ in the order in which gradients and the sums of Dice are added up, so by the rounding of 32-bit
numbers (6e-8), which a dozen steps carry on. The weights may differ more where they do not matter: a bias before an instance
normalisation has no effect, its gradient is rounding alone, and AdamW makes steps of full size of it."""


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Four cases to train on and three to validate on: two processes cannot share them evenly."""
    return prepared_cases(tmp_path_factory.mktemp("cases"), 7)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(paths, outs, changes, trap=None) -> list[int]:
    """Train in two processes; `trap` is set in the first. Once one was killed, the other is too, as torchrun does."""
    port, server = free_port(), context()
    ranks = [
        server.Process(target=run_rank, args=(rank, 2, port, paths, outs[rank], changes, None if rank else trap))
        for rank in (0, 1)
    ]
    for process in ranks:
        process.start()
    ranks[0].join(60)
    if ranks[0].exitcode == -signal.SIGKILL:
        ranks[1].kill()
    ranks[1].join(60)
    return [process.exitcode for process in ranks]


def test_two_processes_train_like_one_and_only_the_first_writes(paths, tmp_path):
    alone = context().Process(target=run, args=(paths, tmp_path / "one", PLAIN))
    alone.start()
    alone.join(60)
    counted = CountCases(tmp_path / "scored.txt")
    assert together(paths, [tmp_path / "two", tmp_path / "none"], {**PLAIN, "workers": 1}, counted) == [0, 0]
    one, two = (pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "two"))
    np.testing.assert_allclose(two["train_loss"], one["train_loss"], rtol=TOLERANCE)
    pd.testing.assert_frame_equal(two.filter(like="dice"), one.filter(like="dice"), atol=1e-3)
    assert two["learning_rate"].equals(one["learning_rate"])
    assert not (tmp_path / "none").exists(), "the second process wrote something"
    scored = (tmp_path / "scored.txt").read_text().split()
    assert scored == ["0", "2"] * 2, "cases 0 and 2 of 3 are the first process's"


def test_two_processes_go_on_as_one_does(paths, tmp_path):
    assert together(paths, [tmp_path / "whole"] * 2, PLAIN) == [0, 0]
    cut = [tmp_path / "cut"] * 2
    assert together(paths, cut, PLAIN, SignalAfter(signal.SIGTERM, 5, 0.01)) == [EXIT_STATUS] * 2
    assert 0 < read_checkpoint(tmp_path / "cut")["global_step"] < 12
    first, second = together(paths, cut, PLAIN, KillAt("validation", 1))
    assert first == -signal.SIGKILL and second != 0, "the other one cannot go on alone"
    assert together(paths, cut, PLAIN) == [0, 0]
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


def test_torchrun_starts_the_same_command(tmp_path, capsys):
    for number in range(5):
        write_case(tmp_path / "cohort", f"Case_{number:03}", seed=number)
    small = {"--arguments": '{"channels": [4, 8]}', "--patch": "16", "--steps": "4", "--validate-every": "4", "--spacing": "1"}
    small["--precision"] = "32-true"
    words = ["train", "--cohort", str(tmp_path / "cohort"), *(word for pair in small.items() for word in pair)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launch, "-m", "helpers", *words, "--out", str(tmp_path / "two")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("step     4 of 4") == 1 and ended.stdout.count("4 steps in") == 1
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    one, two = (pd.read_csv(tmp_path / name / "models" / "unet" / "history.csv") for name in ("one", "two"))
    np.testing.assert_allclose(two["train_loss"], one["train_loss"], rtol=TOLERANCE)


def test_what_is_wrong_on_the_second_machine_is_said_on_both(tmp_path):
    for number in range(5):
        write_case(tmp_path / "cohort", f"Case_{number:03}", seed=number)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launch += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    words = ["-m", "helpers", "train", "--steps", "4", "--out", str(tmp_path / "out"), "--cohort"]
    machines = [
        subprocess.Popen(
            [*launch, "--node-rank", str(number), *words, str(tmp_path / folder)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, folder in enumerate(("cohort", "absent"))
    ]
    for machine in machines:
        _, said = machine.communicate(timeout=120)
        assert machine.returncode != 0 and f"{tmp_path / 'absent'} does not exist" in said
