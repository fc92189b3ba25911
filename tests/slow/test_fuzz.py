"""Thousands of damaged and malicious requests to the real application: each gets a 4xx with one sentence, or an answer.

Seeded, so that a failure can be repeated. About 10 s on a calm core.
"""

import collections
import random
import tempfile
import threading
import time

import psutil
import pytest
from fastapi.testclient import TestClient

from brats_cohort.nifti import write_volume
from brats_cohort.regions import MODALITIES
from brats_cohort.testing import LPS, case_arrays
from helpers.serve.app import make_app
from helpers.serve.decode import Limits
from tests.mutations import MUTATIONS, ZIP, stored_zip
from tests.requests import save_model

COUNT = 1500
ALLOWED = {200, 400, 406, 413, 415, 422}
GROWTH_MB = 300
LIMITS = Limits(body_mb=2, unpacked_mb=16, voxels=200_000)


@pytest.fixture(scope="module")
def arrays():
    image, _ = case_arrays((12, 14, 10))
    return {**dict(zip(MODALITIES, image, strict=True)), "affine": LPS}


@pytest.fixture(scope="module")
def files(arrays, tmp_path_factory):
    """Four NIfTI files, uncompressed so that a change of a byte reaches the image and not only a checksum."""
    folder = tmp_path_factory.mktemp("files")
    paths = {m: write_volume(folder / f"case_{m}.nii", arrays[m], LPS) for m in MODALITIES}
    return {path.name: path.read_bytes() for path in paths.values()}


class Watch:
    """Peak of this process's memory over a block, sampled every 5 ms."""

    def __enter__(self):
        self.process, self.running = psutil.Process(), True
        self.start = self.peak = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()
        return self

    def _sample(self):
        while self.running:
            self.peak = max(self.peak, self.process.memory_info().rss)
            time.sleep(0.005)

    def __exit__(self, *_):
        self.running = False
        self.thread.join()

    @property
    def growth_mb(self):
        return (self.peak - self.start) / 2**20


def test_no_body_harms_the_process(arrays, files, tmp_path, monkeypatch):
    inside, beside = tmp_path / "requests", tmp_path / "beside"
    inside.mkdir()
    beside.mkdir()
    model_dir = save_model(tmp_path / "model")
    monkeypatch.chdir(beside)
    monkeypatch.setattr(tempfile, "tempdir", str(inside))
    statuses, failures = collections.Counter(), []
    with TestClient(make_app(model_dir, LIMITS)) as client:
        while client.get("/ping").status_code != 200:
            time.sleep(0.05)
        good = client.post("/invocations", content=stored_zip(files), headers={"content-type": ZIP})
        assert good.status_code == 200, good.text
        with Watch() as memory:
            for number in range(COUNT):
                mutate = MUTATIONS[number % len(MUTATIONS)]
                kind, body = mutate(random.Random(number), arrays, files)
                answer = client.post("/invocations", content=body, headers={"content-type": kind.encode()})
                statuses[answer.status_code] += 1
                if wrong := fault(answer, tmp_path):
                    failures.append(f"{mutate.__name__} {number}: {answer.status_code} {wrong} {answer.text[:300]!r}")
        again = client.post("/invocations", content=stored_zip(files), headers={"content-type": ZIP})
    assert not failures, "\n".join([f"{len(failures)} failures", *failures[:20]])
    assert again.content == good.content
    assert statuses[200] > COUNT * 0.02 and statuses[400] > COUNT * 0.2 and statuses[422] > COUNT * 0.1, statuses
    assert list(inside.iterdir()) == list(beside.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside", "model", "requests"]
    assert memory.growth_mb < GROWTH_MB


def fault(answer, folder) -> str:
    """What is wrong with an answer; empty where it is an answer or a refusal in one sentence."""
    if answer.status_code not in ALLOWED:
        return "is no refusal"
    if answer.status_code != 200 and not (answer.text.count("\n") == 1 and 20 < len(answer.text) < 600):
        return "is not one sentence"
    return "names the folder" if answer.status_code != 200 and str(folder) in answer.text else ""
