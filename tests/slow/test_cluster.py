"""Work on more than one machine, on engines that run here: a Dask cluster, PostgreSQL, MySQL, and two nodes of a Slurm job."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import LocalCluster
from optuna.trial import TrialState

from brats_cohort.files import DataError
from brats_cohort.testing import write_case
from helpers.cli import main
from helpers.data.prepared import PreparedFile
from helpers.training import tune
from helpers.training.settings import TrainSettings
from helpers.training.tune import open_study, search
from helpers.workspace import REPOSITORY
from tests.slow.test_processes import TOLERANCE, free_port
from tests.unit.test_tune import Hill

SEARCH = {"space": {"foreground_probability": (0.0, 1.0)}, "trials": 3}


def test_a_dask_cluster_prepares_the_same_files_and_names_the_bad_case(tmp_path, capsys):
    for number in range(3):
        case = write_case(tmp_path / "cohort", f"Case_{number:03}", seed=number)
    case.images["t2"].path.write_bytes(b"")
    assert main(["preprocess", str(tmp_path / "cohort"), "--out", str(tmp_path / "here")]) == 1
    here = capsys.readouterr().out
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        words = ["preprocess", str(tmp_path / "cohort"), "--out", str(tmp_path / "there")]
        assert main([*words, "--dask", cluster.scheduler_address]) == 1
        assert cluster.scheduler.transition_log, "the cluster did nothing"
    there = capsys.readouterr().out
    assert [line for line in there.splitlines() if "left out" in line] == [
        line for line in here.splitlines() if "left out" in line
    ]
    names = [sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("here", "there")]
    assert len(names[0]) == 2 and names[0] == names[1]
    for name in names[0]:
        one, other = (PreparedFile(tmp_path / folder / name).load() for folder in ("here", "there"))
        assert np.array_equal(one.image, other.image) and np.array_equal(one.classes, other.classes)


def test_a_cluster_that_does_not_answer_is_one_sentence(tmp_path, capsys):
    write_case(tmp_path / "cohort")
    words = ["preprocess", str(tmp_path / "cohort"), "--out", str(tmp_path / "out"), "--dask", "nonsense"]
    assert main(words) == 1
    assert "no Dask scheduler answers at nonsense" in capsys.readouterr().err


@pytest.fixture
def postgresql():
    """URL of a PostgreSQL server of its own on a socket, which ends with the test."""
    folders = [Path(path).parent for path in [shutil.which("initdb")] if path]
    tools = next(
        (folder for folder in [*folders, *Path("/usr/lib/postgresql").glob("*/bin")] if (folder / "postgres").exists()), None
    )
    root = os.getuid() == 0
    if tools is None or (root and subprocess.run(["id", "postgres"], capture_output=True).returncode):
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # the path of a socket has at most 107 characters
    as_user = ["runuser", "-u", "postgres", "--"] if root else []  # PostgreSQL refuses to run as root
    if root:
        shutil.chown(folder, "postgres")
    data, options = str(folder / "data"), f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    run = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder}
    try:
        subprocess.run([*as_user, tools / "initdb", "-D", data, "-U", "me", "-A", "trust", "--no-sync"], **run)
        subprocess.run(
            [*as_user, tools / "pg_ctl", "-D", data, "-w", "-t", "300", "-o", options, "-l", folder / "log", "start"], **run
        )
        yield f"postgresql+psycopg://me@/postgres?host={folder}"
    finally:
        subprocess.run([*as_user, tools / "pg_ctl", "-D", data, "-m", "immediate", "stop"], stdout=subprocess.DEVNULL)
        shutil.rmtree(folder)


@pytest.fixture
def mysql():
    """URL of a MySQL server (MariaDB) of its own on a socket, which ends with the test."""
    server = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
    if server is None:
        pytest.skip("MariaDB is not installed (Debian: apt-get install mariadb-server-core)")
    folder = Path(tempfile.mkdtemp(prefix="my-", dir="/tmp"))
    (folder / "data").mkdir()
    (folder / "init.sql").write_text("CREATE DATABASE optuna;\n")
    command = [
        server,
        "--no-defaults",
        f"--datadir={folder}/data",
        f"--socket={folder}/socket",
        f"--init-file={folder}/init.sql",
    ]
    command += ["--skip-networking", "--skip-grant-tables", *(["--user=root"] if os.getuid() == 0 else [])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (folder / "socket").exists():
            assert process.poll() is None, "MariaDB did not start"
            time.sleep(0.1)
        yield f"mysql+pymysql://root@/optuna?unix_socket={folder}/socket"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


@pytest.fixture(params=["postgresql", "mysql"])
def database(request):
    """URL of each kind of database."""
    return request.getfixturevalue(request.param)


def test_a_search_goes_on_in_a_database_from_another_machine(database, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "train", Hill())
    monkeypatch.setattr(tune.History, "of", lambda trainer: trainer.callbacks[0])
    for machine, trials in (("one", 2), ("two", 3)):
        folder = tmp_path / machine / "search"
        study = search(TrainSettings(), [], [], out=folder, worker=trials, storage=database, **{**SEARCH, "trials": trials})
        assert not (folder / "study.db").exists()
    assert [len(list((tmp_path / machine / "search" / "trials").iterdir())) for machine in ("one", "two")] == [2, 1]
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(open_study(tmp_path / "other", database).trials) == 0, "another folder has a search of its own"


def test_a_database_that_does_not_answer_is_a_sentence_without_its_password(tmp_path):
    for url in (f"postgresql+psycopg://me:secret@/postgres?host={tmp_path}", "nonsense://me:secret@host/name"):
        with pytest.raises(DataError, match="the database in --storage cannot be opened") as caught:
            open_study(tmp_path, url)
        assert "secret" not in str(caught.value)


def test_the_slurm_script_trains_on_two_nodes_like_one_process(tmp_path):
    """Its two nodes are this machine twice: srun and scontrol are stood in for, torchrun and the training are real."""
    for number in range(5):
        write_case(tmp_path / "cohort", f"Case_{number:03}", seed=number)
    tools = tmp_path / "bin"
    tools.mkdir()
    srun = '#!/bin/bash\nshift\n"$@" & first=$!\n"$@" & second=$!\nwait $first && wait $second\n'
    python = f'#!/bin/bash\nexec {sys.executable} "$@"\n'
    for name, text in (("srun", srun), ("scontrol", "#!/bin/bash\necho 127.0.0.1\n"), ("python", python)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    words = ["--cohort", str(tmp_path / "cohort"), "--arguments", '{"channels": [4, 8]}', "--patch", "16", "--steps", "4"]
    words += ["--validate-every", "4", "--spacing", "1", "--precision", "32-true"]
    slurm = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7", "PORT": str(free_port())}
    environment = {**os.environ, **slurm, "OMP_NUM_THREADS": "1", "PATH": f"{tools}:{os.environ['PATH']}"}
    command = ["bash", str(REPOSITORY / "cloud" / "slurm" / "train.sbatch"), *words, "--out", str(tmp_path / "two")]
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("step     4 of 4") == 1 and ended.stdout.count("4 steps in") == 1
    assert main(["train", *words, "--out", str(tmp_path / "one")]) == 0
    one, two = (pd.read_csv(tmp_path / name / "models" / "unet" / "history.csv") for name in ("one", "two"))
    np.testing.assert_allclose(two["train_loss"], one["train_loss"], rtol=TOLERANCE)
