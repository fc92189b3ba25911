"""The real serving process under load, over loopback."""

import psutil
import pytest

from helpers.cloud import handler
from tests.cases import write_case
from tests.requests import bodies_of, save_model, serving


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
