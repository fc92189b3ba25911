"""The real serving process under load, over loopback."""

import threading
import time

import httpx
import numpy as np
import psutil
import pytest

from brats_cohort.testing import write_case
from helpers.serve import handler
from tests.requests import arrays_of, bodies_of, npz_of, save_model, serving

NPZ = "application/x-npz"
CLIENTS = 50
GROWTH_MB = 150
"""More than one request takes, far less than fifty: their bodies alone are 400 MB."""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("serve") / "model")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return write_case(tmp_path_factory.mktemp("cohort"))


def test_the_process_serves_on_loopback_and_ends_on_request(model_dir, case, capfd):
    body = bodies_of(case)["application/gzip"]
    expected = handler.predict_fn(handler.input_fn(body, "application/gzip"), handler.model_fn(model_dir)).volumes
    with serving(model_dir) as (client, process):
        headers = {"content-type": "application/gzip", "accept": "application/json"}
        assert client.post("/invocations", content=body, headers=headers).json()["volumes_ml"] == expected
        large = client.post("/invocations", content=bytes(26 * 1024 * 1024), headers=headers)
        assert large.status_code == 413 and "25 MB" in large.text
        listening = [c.laddr.ip for c in psutil.Process(process.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert listening == ["127.0.0.1"]
    assert process.returncode == 0
    assert "Traceback" not in capfd.readouterr().err


def insist(client, body, deadline):
    """Ask until the answer is not 503, as long as Retry-After says; the answer and how often the process sent us away."""
    away = 0
    while True:
        answer = client.post("/invocations", content=body, headers={"content-type": NPZ, "accept": "application/json"})
        if answer.status_code != 503:
            return answer, away
        assert answer.text.count("\n") == 1 and int(answer.headers["retry-after"]) > 0
        assert time.monotonic() < deadline, "sent away for a minute"
        time.sleep(0.2)
        away += 1


def test_fifty_at_once_are_all_answered_in_bounded_memory(model_dir, case):
    body = incompressible(case)
    assert 5 < len(body) / 2**20 < 25
    with serving(model_dir) as (client, process):
        first, _ = insist(client, body, time.monotonic() + 60)
        before = psutil.Process(process.pid).memory_info().rss
        results, peaks = [], [before]

        def ask():
            with httpx.Client(base_url=client.base_url, timeout=60) as own:
                results.append(insist(own, body, time.monotonic() + 60))

        threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            peaks.append(psutil.Process(process.pid).memory_info().rss)
            assert client.get("/ping").status_code == 200
            time.sleep(0.05)
    assert [answer.status_code for answer, _ in results] == [200] * CLIENTS
    assert {answer.text for answer, _ in results} == {first.text}
    assert sum(away for _, away in results) > 0, "the queue never filled: this test shows nothing"
    assert max(peaks) - before < GROWTH_MB * 2**20


def incompressible(case):
    """A request of several megabytes about a small case: what it carries besides the volumes is noise that is not read."""
    arrays = arrays_of(case)
    noise = np.random.default_rng(0).integers(0, 2**16, 4 * 2**20, np.uint16)
    return npz_of({**arrays, "noise": noise})
