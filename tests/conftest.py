"""Fixtures for every test: no more threads than processors, no window, nothing written outside pytest's own folders."""

import os
import signal

import matplotlib
import pytest
import torch

matplotlib.use("Agg")


def pytest_configure(config):
    """One thread a worker, two where there are no workers; what the caller chose stays.

    The process that starts the workers decides for them, since they inherit its environment: several threads in each of
    them would wait for each other's processor most of the time.
    """
    threads = "1" if getattr(config.option, "numprocesses", None) or "PYTEST_XDIST_WORKER" in os.environ else "2"
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", threads)))


OWN_FOLDERS = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")


@pytest.fixture(autouse=True, scope="session")
def _own_folders(tmp_path_factory):
    """Caches of libraries, and of the kernels that tests start, go to pytest's folder: the tester's own stay as they are."""
    caches = tmp_path_factory.getbasetemp() / "caches"
    with pytest.MonkeyPatch.context() as patch:
        for name in OWN_FOLDERS:
            folder = caches / name.lower()
            folder.mkdir(parents=True, exist_ok=True)
            patch.setenv(name, str(folder))
        patch.delenv("MPLBACKEND", raising=False)
        yield


@pytest.fixture
def ctrl_c():
    """Let Ctrl-C interrupt, as in a terminal; what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def full_disk():
    """No file can grow beyond 200 kB, as if the disk were full then."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(autouse=True)
def _close_figures():
    """Figures that a test leaves open do not pile up."""
    yield
    import matplotlib.pyplot as plt

    plt.close("all")
