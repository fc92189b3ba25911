"""Requests to the serving application: the answers are those of `predict`, the refusals one sentence each."""

import contextlib
import gzip
import io
import json
import pickle
import struct
import tarfile
import threading
import time
import zipfile

import boto3
import nibabel as nib
import numpy as np
import pytest
from botocore.exceptions import ClientError
from fastapi.testclient import TestClient

from helpers.cli import main
from helpers.cloud import handler, serve
from helpers.cloud.limits import BadRequest, Limits, limits_from
from helpers.data.cases import DataError
from helpers.regions import MODALITIES, REGIONS, classes_to_regions
from tests.cases import write_case
from tests.requests import arrays_of, bodies_of, files_of, npz_of, save_model, tar_of, zip_of

LAS = np.diag([-1.0, 1.0, 2.0, 1.0]) + np.eye(4, k=3) * 12
NPZ, ZIP, TAR, GZIP, JSON = (f"application/{name}" for name in ("x-npz", "zip", "x-tar", "gzip", "json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def model_dir(folder):
    return save_model(folder / "model")


@pytest.fixture(scope="module")
def case(folder):
    return write_case(folder / "cohort", affine=LAS)


@pytest.fixture(scope="module")
def expected(folder, model_dir, case):
    """What the command line writes for the same files."""
    out = folder / "expected.nii.gz"
    words = ["predict", str(case.label.parent), "--checkpoint", str(model_dir / "best.safetensors"), "--out", str(out)]
    assert main(words) == 0
    return nib.load(out)


@pytest.fixture(scope="module")
def client(model_dir):
    with started(model_dir, Limits()) as client:
        yield client


@contextlib.contextmanager
def started(model_dir, limits):
    with TestClient(serve.make_app(model_dir, limits)) as client:
        while client.get("/ping").status_code == 503:
            time.sleep(0.02)
        yield client


def ask(client, body, content_type=NPZ, **headers):
    return client.post("/invocations", content=body, headers={"content-type": content_type, **headers})


def refused(answer, status, *words):
    assert answer.status_code == status, answer.text
    assert answer.text.count("\n") == 1 and answer.text.endswith("\n") and len(answer.text) < 500
    assert all(word in answer.text for word in words), answer.text
    assert "/tmp" not in answer.text and "Traceback" not in answer.text


@pytest.mark.parametrize("content_type", [NPZ, ZIP, TAR, GZIP])
def test_every_kind_of_request_gives_what_the_command_line_writes(client, case, expected, content_type):
    answer = ask(client, bodies_of(case)[content_type], content_type)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-nifti"), answer.text
    image = nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))
    wanted = np.asarray(expected.dataobj)
    assert set(np.unique(wanted)) > {0}
    np.testing.assert_array_equal(np.asarray(image.dataobj), wanted)
    np.testing.assert_allclose(image.affine, expected.affine, atol=1e-6)
    if content_type != NPZ:
        assert image.header["qform_code"] == expected.header["qform_code"]


def test_answers_as_npz_and_as_volumes(client, case, expected):
    body = bodies_of(case)[ZIP]
    with np.load(io.BytesIO(ask(client, body, ZIP, accept=NPZ).content), allow_pickle=False) as answer:
        np.testing.assert_array_equal(answer["labels"], np.asarray(expected.dataobj))
        np.testing.assert_allclose(answer["affine"], LAS)
    found = ask(client, body, ZIP, accept=f"text/html, {JSON};q=0.5").json()
    labels = np.asarray(expected.dataobj)
    voxels = classes_to_regions(np.where(labels == 4, 3, labels)).sum((1, 2, 3))
    assert found["volumes_ml"] == pytest.approx({n: v * 2 / 1000 for n, v in zip(REGIONS, voxels, strict=True)}, abs=1e-3)
    assert found["case"] == "Case_001" and len(found["checkpoint_sha256"]) == 64
    refused(ask(client, body, ZIP, accept="image/png"), 406, "image/png", NPZ)


def test_the_caller_recognises_the_answer(client, case):
    names = {serve.ATTRIBUTES: "patient=7", serve.INFERENCE: "id-7"}
    answer = ask(client, bodies_of(case)[NPZ], NPZ, **names)
    assert answer.headers[serve.INFERENCE] == "id-7"
    parts = answer.headers[serve.ATTRIBUTES].split(";")
    assert parts[0] == "patient=7" and [part.split("_ml=")[0] for part in parts[1:]] == list(REGIONS)
    long = "x" * 1020
    assert ask(client, bodies_of(case)[NPZ], NPZ, **{serve.ATTRIBUTES: long}).headers[serve.ATTRIBUTES] == long


def test_plain_names_and_float_volumes_and_other_names_of_the_year_2023(client, case, expected):
    files = {f"{modality}.nii.gz": content for modality, content in zip(MODALITIES, files_of(case).values(), strict=True)}
    names = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
    newer = {f"a/BraTS-GLI-1-000-{names[name.split('.')[0]]}.nii.gz": content for name, content in files.items()}
    floats = npz_of({name: array.astype(np.float64) for name, array in arrays_of(case).items()})
    for body, kind in ((zip_of(files), ZIP), (tar_of({**newer, "a/notes.txt": b"x", "a/._b.nii": b"x"}), GZIP), (floats, NPZ)):
        answer = ask(client, body, kind, accept=NPZ)
        assert answer.status_code == 200, answer.text
        np.testing.assert_array_equal(np.load(io.BytesIO(answer.content))["labels"], np.asarray(expected.dataobj))


def changed(case, **arrays):
    return npz_of({**arrays_of(case), **arrays})


def without(mapping, key):
    return {name: value for name, value in mapping.items() if key not in name}


def special_tar(kind, name="case_t1.nii.gz", target="/etc/passwd"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)
    return stream.getvalue()


def linked_zip():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        member = zipfile.ZipInfo("case_t1.nii.gz")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    return stream.getvalue()


def test_bad_arrays_are_refused(client, case):
    arrays = arrays_of(case)
    t1 = arrays["t1"]
    nan = t1.astype(np.float32)
    nan[3, 4, 5] = np.nan
    pickled = zip_of({"t1.npy": pickle.dumps(print), **{f"{name}.npy": b"" for name in (*MODALITIES[1:], "affine")}})
    refused(ask(client, b""), 400, "no body")
    refused(ask(client, npz_of(without(arrays, "t2"))), 422, "no array t2")
    refused(ask(client, npz_of(without(arrays, "affine"))), 422, "affine")
    refused(ask(client, changed(case, t1=nan)), 422, "t1", "1 voxels that are NaN")
    refused(ask(client, changed(case, t2=t1[:-1])), 422, "differ in shape")
    refused(ask(client, changed(case, t1=t1[None, None])), 422, "3-D")
    refused(ask(client, changed(case, t1=np.zeros((2000, 1, 1), np.int16))), 422, "1024")
    refused(ask(client, changed(case, t1=t1.astype(complex))), 422, "complex")
    refused(ask(client, changed(case, t1=np.array([object()], dtype=object))), 400, "never opened")
    refused(ask(client, pickled), 400)
    refused(ask(client, pickle.dumps(print)), 400, "not a zip archive")
    refused(ask(client, npz_of(arrays)[:-100]), 400, "truncated")
    refused(ask(client, changed(case, **{m: np.zeros((4, 4, 4), np.int16) for m in MODALITIES})), 422, "different from 0")
    for affine in (np.zeros((4, 4)), np.diag([1, 1, 500, 1.0]), np.diag([1, 1, np.nan, 1]), np.eye(3), np.ones((4, 4))):
        refused(ask(client, changed(case, affine=affine)), 422, "affine")
    far = np.eye(4)
    far[0, 1] = 0.999999
    far[1, 1] = 0.001
    refused(ask(client, changed(case, affine=far)), 422)


def test_bad_archives_are_refused(client, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = files_of(case)
    first = next(iter(files))
    image = nib.Nifti1Image(np.zeros((4, 4, 4, 2, 2), np.int16), np.eye(4)).to_bytes()
    huge = bytearray(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).to_bytes())
    struct.pack_into("<8h", huge, 40, 3, 1000, 1000, 30, 1, 1, 1, 1)
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    refused(ask(client, zip_of(without(files, "_t2.")), ZIP), 422, "no t2 file")
    refused(ask(client, zip_of({**files, first: lfs}), ZIP), 422, "Git LFS pointer")
    refused(ask(client, zip_of({**files, first: b""}), ZIP), 422, "is empty")
    refused(ask(client, zip_of({**files, first: files[first][:-40]}), ZIP), 400, "truncated or damaged")
    refused(ask(client, zip_of({**without(files, "_t1."), "Case_001_t1.nii": image}), ZIP), 422, "(4, 4, 4, 2, 2)")
    refused(
        ask(client, zip_of({**without(files, "_t1."), "Case_001_t1.nii": bytes(huge)}), ZIP), 422, "shorter than its header"
    )
    refused(ask(client, zip_of({**files, **{f"b{name}": files[name] for name in files}}), ZIP), 422, "2 cases")
    refused(ask(client, zip_of({**files, "x/" + first: files[first]}), ZIP), 400, "twice")
    refused(ask(client, zip_of({"readme.txt": b"x"}), ZIP), 422, "no NIfTI file")
    refused(ask(client, tar_of(files)[:500], GZIP), 400, "cannot be read")
    for name in (
        "../escaped_t1.nii.gz",
        "/escaped_t1.nii.gz",
        "a/../../escaped_t1.nii.gz",
        "C:\\escaped_t1.nii.gz",
        "..\\e_t1.nii",
    ):
        refused(ask(client, zip_of({**files, name: b"x"}), ZIP), 400, "leads out")
        refused(ask(client, tar_of({**files, name: b"x"}), GZIP), 400, "leads out")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        refused(ask(client, special_tar(kind), TAR), 400, "link, a device")
    refused(ask(client, linked_zip(), ZIP), 400, "link, a device")
    refused(ask(client, zip_of({f"{n}.txt": b"" for n in range(100)}), ZIP), 413, "64 entries")
    assert list(tmp_path.iterdir()) == []


def test_bombs_do_not_go_off(case, model_dir):
    files = files_of(case)
    zeros = bytes(3 * 1024 * 1024)
    packed = gzip.compress(zeros)
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2 * 1024 * 1024
    limits = Limits(unpacked_mb=2, body_mb=1)
    with started(model_dir, limits) as client:
        refused(ask(client, zip_of({**files, "big_t1.nii": zeros}), ZIP), 413, "unpacks to more than 2 MB")
        refused(ask(client, zip_of({**files, "big_t1.nii.gz": packed}), ZIP), 413, "unpacks to more than 2 MB")
        refused(ask(client, tar_of({**files, "big_t1.nii": zeros}), GZIP), 413, "unpacks to more than 2 MB")
        refused(ask(client, header.tobuf() + bytes(1024), TAR), 400, "header larger than 1 MB")
        refused(ask(client, bytes(1024 * 1024 + 1), NPZ), 413, "larger than 1 MB")
        assert ask(client, zip_of(files), ZIP).status_code == 200


def test_content_types_are_named_where_one_is_unknown(client, case):
    for kind in ("application/octet-stream", "text/csv; charset=utf-8", ""):
        refused(ask(client, bodies_of(case)[NPZ], kind), 415, NPZ, ZIP, TAR, GZIP, JSON)
    assert ask(client, bodies_of(case)[NPZ], "Application/X-NPZ; version=1").status_code == 200


class Bucket:
    """Objects by key, with the one call of the S3 client that is used."""

    def __init__(self, objects):
        self.objects = objects

    def get_object(self, Bucket, Key):
        if Key not in self.objects:
            raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        return {"ContentLength": len(self.objects[Key]), "Body": io.BytesIO(self.objects[Key])}


def test_locations_in_s3(client, case, expected, monkeypatch):
    objects = dict(zip((f"in/{m}.nii.gz" for m in MODALITIES), files_of(case).values(), strict=True))
    monkeypatch.setattr(boto3, "client", lambda service: Bucket(objects))
    places = {modality: f"s3://bucket/in/{modality}.nii.gz" for modality in MODALITIES}
    answer = ask(client, json.dumps(places), JSON, accept=NPZ)
    assert answer.status_code == 200, answer.text
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content))["labels"], np.asarray(expected.dataobj))
    refused(ask(client, json.dumps({**places, "t2": "s3://bucket/in/none.nii.gz"}), JSON), 422, "none.nii.gz", "NoSuchKey")
    for wrong in ("file:///etc/passwd", "http://169.254.169.254/x.nii", "s3://bucket", "s3://bucket/etc/passwd"):
        refused(ask(client, json.dumps({**places, "t2": wrong}), JSON), 422, "s3://bucket/key")
    for body in ("{", "[]", '{"t1": 1}', "[" * 100_000):
        assert ask(client, body, JSON).status_code in (400, 422)


def test_ping_tells_the_truth(model_dir, tmp_path, monkeypatch, case):
    release = threading.Event()

    def slow(folder):
        release.wait(20)
        return handler.model_fn(folder)

    monkeypatch.setattr(serve, "model_fn", slow)
    with TestClient(serve.make_app(model_dir, Limits())) as client:
        refused(client.get("/ping"), 503, "being loaded")
        refused(ask(client, b"x"), 503, "being loaded")
        release.set()
        while client.get("/ping").status_code == 503:
            time.sleep(0.02)
        assert client.get("/ping").status_code == 200
    with TestClient(serve.make_app(tmp_path / "empty", Limits())) as client:
        while (answer := client.get("/ping")).status_code == 503:
            time.sleep(0.02)
        assert answer.status_code == 500 and "best.safetensors does not exist" in answer.text


def test_a_full_queue_sends_the_next_away_and_an_inner_error_is_no_crash(model_dir, case, monkeypatch):
    body, release, entered = bodies_of(case)[NPZ], threading.Event(), threading.Event()

    def slow(data, model):
        entered.set()
        release.wait(20)
        raise RuntimeError("of no concern to the caller")

    monkeypatch.setattr(serve, "predict_fn", slow)
    with started(model_dir, Limits(waiting=1)) as client:
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(ask(client, body))) for _ in range(2)]
        threads[0].start()
        entered.wait(20)
        threads[1].start()
        while client.app.state.server._inside < 2:
            time.sleep(0.01)
        full = ask(client, body)
        refused(full, 503, "ask again")
        assert int(full.headers["retry-after"]) > 0
        assert client.get("/ping").status_code == 200
        release.set()
        for thread in threads:
            thread.join()
        for answer in answers:
            refused(answer, 500, "the model failed")
            assert "no concern" not in answer.text


def test_the_functions_work_alone(model_dir, case, expected):
    model = handler.model_fn(model_dir)
    prediction = handler.predict_fn(handler.input_fn(bodies_of(case)[TAR], TAR), model)
    content, kind = handler.output_fn(prediction, NPZ)
    assert kind == NPZ
    np.testing.assert_array_equal(np.load(io.BytesIO(content))["labels"], np.asarray(expected.dataobj))
    with pytest.raises(BadRequest, match="image/png"):
        handler.input_fn(b"x", "image/png")


def test_another_kind_of_request_is_one_decoder_and_two_registrations(client, monkeypatch):
    class Text(str):
        pass

    monkeypatch.setitem(
        handler.decode.__globals__["DECODERS"], "text/plain", lambda stream, folder, limits: Text(stream.read(), "utf-8")
    )
    handler.predict_fn.register(Text, lambda data, model: Text(data[::-1]))
    handler.output_fn.register(Text, lambda prediction, accept: (prediction.encode(), "text/plain"))
    assert ask(client, "abc", "text/plain").text == "cba"


def test_limits_come_from_the_environment():
    assert limits_from({"SERVE_BODY_MB": "1024", "SERVE_WAITING": "2"}) == Limits(body_mb=1024, waiting=2)
    with pytest.raises(DataError, match="SERVE_BODY_MB is '25 MB'"):
        limits_from({"SERVE_BODY_MB": "25 MB"})
