"""Requests to the serving application: the answers are those of `predict`, the refusals one sentence each."""

import contextlib
import gzip
import io
import json
import pickle
import re
import struct
import tarfile
import threading
import time
import zipfile
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from brats_cohort.files import DataError
from brats_cohort.regions import MODALITIES, REGIONS, classes_to_regions
from brats_cohort.testing import write_case
from glioma_phantom import PhantomSettings, make_phantom
from helpers.cli import main
from helpers.evaluation.postprocess import PostProcessing
from helpers.models.checkpoints import load_checkpoint, save_checkpoint
from helpers.serve import app, handler
from helpers.serve.decode import BadRequest, Limits, limits_from
from tests.requests import arrays_of, bodies_of, files_of, npz_of, save_model, tar_of, zip_of

LAS = np.diag([-1.0, 1.0, 2.0, 1.0]) + np.eye(4, k=3) * 12
NPZ, ZIP, TAR, GZIP, JSON = (f"application/{name}" for name in ("x-npz", "zip", "x-tar", "gzip", "json"))
KINDS = (NPZ, ZIP, "application/x-zip-compressed", TAR, GZIP, "application/x-gzip")


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
    with TestClient(app.make_app(model_dir, limits)) as client:
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


def image_of(content):
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def same_labels(content, expected):
    np.testing.assert_array_equal(np.asarray(image_of(content).dataobj), np.asarray(expected.dataobj))


@pytest.mark.parametrize("content_type", KINDS)
def test_every_kind_of_request_gives_what_the_command_line_writes(client, case, expected, content_type):
    answer = ask(client, bodies_of(case)[content_type], content_type)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-nifti"), answer.text
    image = image_of(answer.content)
    wanted = np.asarray(expected.dataobj)
    assert set(np.unique(wanted)) > {0}
    np.testing.assert_array_equal(np.asarray(image.dataobj), wanted)
    np.testing.assert_allclose(image.affine, expected.affine, atol=1e-6)
    if content_type != NPZ:
        assert image.header["qform_code"] == expected.header["qform_code"]


def test_the_log_names_the_device_and_every_answer(model_dir, case, caplog):
    caplog.set_level("INFO", "helpers.serve")
    with started(model_dir, Limits()) as client:
        ask(client, bodies_of(case)[NPZ])
    assert f"the model runs on {'cuda' if torch.cuda.is_available() else 'cpu'}" in caplog.text
    assert re.search(r"answered with \d+ bytes of application/x-nifti after \d+\.\d s", caplog.text)


def test_answers_as_volumes(client, case, expected):
    body = bodies_of(case)[ZIP]
    found = ask(client, body, ZIP, accept=f"text/html, {JSON};q=0.5").json()
    labels = np.asarray(expected.dataobj)
    voxels = classes_to_regions(np.where(labels == 4, 3, labels)).sum((1, 2, 3))
    assert found["volumes_ml"] == pytest.approx({n: v * 2 / 1000 for n, v in zip(REGIONS, voxels, strict=True)}, abs=1e-3)
    assert found["case"] == "Case_001" and len(found["checkpoint_sha256"]) == 64
    refused(ask(client, body, ZIP, accept="image/png"), 406, "image/png", "application/x-nifti")


def test_a_label_map_comes_with_its_volumes(client, case):
    answer, volumes = (ask(client, bodies_of(case)[NPZ], NPZ, accept=kind) for kind in ("*/*", JSON))
    parts = dict(part.split("=") for part in answer.headers[app.ATTRIBUTES].split(";"))
    assert {name: float(parts[f"{name}_ml"]) for name in REGIONS} == pytest.approx(volumes.json()["volumes_ml"], rel=1e-4)
    assert parts["warnings"] == "0"


def test_plain_names_and_float_volumes_and_other_names_of_the_year_2023(client, case, expected):
    files = {f"{modality}.nii.gz": content for modality, content in zip(MODALITIES, files_of(case).values(), strict=True)}
    names = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
    newer = {f"a/BraTS-GLI-1-000-{names[name.split('.')[0]]}.nii.gz": content for name, content in files.items()}
    floats = npz_of({name: array.astype(np.float64) for name, array in arrays_of(case).items()})
    for body, kind in ((zip_of(files), ZIP), (tar_of({**newer, "a/notes.txt": b"x", "a/._b.nii": b"x"}), GZIP), (floats, NPZ)):
        answer = ask(client, body, kind)
        assert answer.status_code == 200, answer.text
        labels, wanted = np.asarray(image_of(answer.content).dataobj), np.asarray(expected.dataobj)
        if kind == GZIP:  # the convention of 2023 has other numbers, as `predict` would write
            wanted = np.where(wanted == 4, 3, wanted)
        np.testing.assert_array_equal(labels, wanted)


def renamed(case, pattern):
    return {pattern.format(name): content for name, content in zip(MODALITIES, files_of(case).values(), strict=True)}


class Unmarked(zipfile.ZipInfo):
    """A member whose name is in a code page that the archive does not name."""

    def _encodeFilenameFlags(self):
        return self.filename.encode(self.encoding), 0


def zip_in(files, encoding):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            member = Unmarked(name)
            member.encoding = encoding
            archive.writestr(member, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("pattern", "encoding"),
    [
        ("Müller, Jörg (2) [neu]_{}.nii.gz", "utf-8"),
        ("scans\\Müller\\Müller_{}.nii.gz", "cp1252"),
        ("Bär_{}.nii.gz", "cp437"),
        ("all/Bär_{}/image.nii.gz", "utf-8"),
        ("Bär_{}.nii/00001.nii.gz", "utf-8"),
    ],
)
def test_names_as_windows_and_people_write_them(client, case, expected, pattern, encoding):
    """Backslashes, spaces, brackets, umlauts in a code page that the archive does not name, and folders named as files are."""
    answer = ask(client, zip_in(renamed(case, pattern), encoding), ZIP)
    assert answer.status_code == 200, answer.text
    same_labels(answer.content, expected)
    name = re.search(r"[^\\/]+(?=_\{\})", pattern)[0]
    assert ask(client, zip_in(renamed(case, pattern), encoding), ZIP, accept=JSON).json()["case"] == name
    assert ask(client, tar_of(renamed(case, pattern)), GZIP, accept=JSON).json()["case"] == name


def test_a_tar_may_begin_with_its_folder_or_with_a_name_that_begins_as_a_zip_does(client, case, expected):
    body = tar_of(renamed(case, "PK_{}.nii.gz"), "w")
    for content in (body, special_tar(tarfile.DIRTYPE, "./")[:512] + body):
        answer = ask(client, content, TAR)
        assert answer.status_code == 200, answer.text
        same_labels(answer.content, expected)


def test_the_images_are_checked_as_a_set(client, case):
    """The same image twice is refused; exchanged contrasts are answered with a warning."""
    files, arrays = files_of(case), arrays_of(case)
    one = next(iter(files.values()))
    refused(ask(client, zip_of(dict.fromkeys(files, one)), ZIP), 422, "the same image")
    refused(ask(client, npz_of({**arrays, "t2": arrays["flair"]})), 422, "the same image")
    phantom = make_phantom(0, PhantomSettings(spacing=4.0))
    swapped = dict(zip(("t1", "t1ce", "flair", "t2"), phantom.image, strict=True))
    answer = ask(client, npz_of({**swapped, "affine": phantom.affine}), NPZ, accept=JSON)
    (warning,) = answer.json()["warnings"]
    assert "seem exchanged" in warning
    assert answer.headers[app.ATTRIBUTES].endswith("warnings=1")
    assert ask(client, bodies_of(case)[ZIP], ZIP, accept=JSON).json()["warnings"] == []


def test_an_answer_says_when_its_core_was_not_seen(folder, case):
    model = handler.model_fn(save_model(folder / "blind"))

    class Blind(torch.nn.Module):
        """Sees tumour everywhere, and nothing in it."""

        def forward(self, image):
            return torch.tensor([-9.0, 9.0, -9.0]).view(1, 3, 1, 1, 1).repeat(len(image), 1, *image.shape[2:])

    card = replace(model.card, postprocessing=asdict(PostProcessing(0.0, 0.0, core_depth=0.5)))
    answer = handler.predict_fn(handler.input_fn(bodies_of(case)[ZIP], ZIP), replace(model, network=Blind(), card=card))
    (warning,) = json.loads(handler.output_fn(answer, JSON)[0])["warnings"]
    assert "no tumour core is visible" in warning and answer.summary.endswith("warnings=1")


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
    refused(ask(client, changed(case, t1=nan)), 422, "T1 has 1 voxels that are not numbers")
    refused(ask(client, changed(case, t2=t1[:-1])), 422, "differ in shape")
    refused(ask(client, changed(case, t1=t1[None, None])), 422, "3-D")
    refused(ask(client, changed(case, t1=np.zeros((2000, 1, 1), np.int16))), 422, "1024")
    refused(ask(client, changed(case, t1=t1.astype(complex))), 422, "complex")
    refused(ask(client, changed(case, t1=np.array([object()], dtype=object))), 400, "Python objects")
    refused(ask(client, pickled), 400)
    refused(ask(client, pickle.dumps(print)), 400, "cannot be read")
    refused(ask(client, npz_of(arrays)[:-100]), 400, "not a zip file")
    refused(ask(client, changed(case, **{m: np.zeros((4, 4, 4), np.int16) for m in MODALITIES})), 422, "T1 is blank")
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
    refused(ask(client, zip_of(without(files, "_t2.")), ZIP), 422, "T2 is missing")
    refused(ask(client, zip_of({"a.nii.gz": files[first]}), ZIP), 422, "the request holds no case")
    refused(ask(client, zip_of({**files, first: lfs}), ZIP), 422, "Git LFS pointer")
    refused(ask(client, zip_of({**files, first: b""}), ZIP), 422, "is empty")
    refused(ask(client, zip_of({**files, first: files[first][:-40]}), ZIP), 400, f"'{first}' is truncated or damaged")
    refused(ask(client, zip_of({**without(files, "_t1."), "Case_001_t1.nii": image}), ZIP), 422, "(4, 4, 4, 2, 2)")
    refused(ask(client, zip_of({**without(files, "_t1."), "Case_001_t1.nii": bytes(huge)}), ZIP), 422, "truncated or damaged")
    refused(ask(client, zip_of({**files, **{f"b{name}": files[name] for name in files}}), ZIP), 422, "2 cases")
    refused(ask(client, zip_of({**files, "x/" + first: files[first]}), ZIP), 400, "twice")
    refused(ask(client, zip_of({"readme.txt": b"x"}), ZIP), 422, "no NIfTI file")
    refused(ask(client, tar_of(files)[:500], GZIP), 400, "cannot be read")
    refused(ask(client, gzip.compress(image), GZIP), 422, "is one NIfTI file; send an archive of the four")
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


def test_content_types_are_named_if_one_is_unknown(client, case):
    for kind in ("application/octet-stream", "text/csv; charset=utf-8", ""):
        refused(ask(client, bodies_of(case)[NPZ], kind), 415, NPZ, ZIP, TAR, GZIP)
    assert ask(client, bodies_of(case)[NPZ], "Application/X-NPZ; version=1").status_code == 200


def test_the_process_fetches_nothing_for_a_caller(client):
    """Objects in S3 would be read with the permissions of the process, and the answer would tell which exist."""
    places = "".join(f'"{modality}": "s3://bucket/{modality}.nii.gz",' for modality in MODALITIES)
    refused(ask(client, "{" + places[:-1] + "}", JSON), 415, JSON)


def test_ping_tells_the_truth(model_dir, tmp_path, monkeypatch, case):
    release, load = threading.Event(), handler.model_fn

    def slow(folder):
        release.wait(20)
        return load(folder)

    monkeypatch.setattr(handler, "model_fn", slow)
    with TestClient(app.make_app(model_dir, Limits())) as client:
        refused(client.get("/ping"), 503, "being loaded")
        refused(ask(client, b"x"), 503, "being loaded")
        release.set()
        while client.get("/ping").status_code == 503:
            time.sleep(0.02)
        assert client.get("/ping").status_code == 200
    with TestClient(app.make_app(tmp_path / "empty", Limits())) as client:
        while (answer := client.get("/ping")).status_code == 503:
            time.sleep(0.02)
        assert answer.status_code == 500 and "best.safetensors does not exist" in answer.text


def test_a_full_queue_sends_the_next_away_and_an_inner_error_is_no_crash(model_dir, case, monkeypatch):
    body, release, entered = bodies_of(case)[NPZ], threading.Event(), threading.Event()

    def slow(data, model):
        entered.set()
        release.wait(20)
        raise RuntimeError("of no concern to the caller")

    monkeypatch.setattr(handler, "predict_fn", slow)
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


def test_a_process_whose_gpu_has_failed_says_so_to_the_health_check(model_dir, case, monkeypatch):
    def failing(data, model):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(handler, "predict_fn", failing)
    with started(model_dir, Limits()) as client:
        refused(ask(client, bodies_of(case)[NPZ]), 500, "the model failed")
        refused(client.get("/ping"), 500, "the GPU has failed")
        refused(ask(client, bodies_of(case)[NPZ]), 500, "the GPU has failed")


def test_a_case_too_large_for_the_memory_at_the_moment_may_be_sent_again(model_dir, case, monkeypatch):
    monkeypatch.setattr(handler, "predict_fn", lambda data, model: torch.empty(2**55))
    with started(model_dir, Limits()) as client:
        answer = ask(client, bodies_of(case)[NPZ])
    refused(answer, 503, "not enough memory", "ask again")
    assert int(answer.headers["retry-after"]) > 0


def test_the_functions_work_alone(model_dir, case, expected):
    model = handler.model_fn(model_dir)
    prediction = handler.predict_fn(handler.input_fn(bodies_of(case)[TAR], TAR), model)
    content, kind = handler.output_fn(prediction, None)
    assert kind == "application/x-nifti"
    same_labels(content, expected)
    with pytest.raises(BadRequest, match="image/png"):
        handler.input_fn(b"x", "image/png")


PROGRAM = """
from __future__ import annotations
import threading
from dataclasses import dataclass
loader = threading.current_thread().name.partition("_")[0]  # the event loop answers /ping
@dataclass
class Text:
    content: str
def model_fn(folder): return f"{folder.rpartition('/')[2]} loaded by {loader}"
def input_fn(body, kind): return body.decode()
def predict_fn(text, model): return f"{model}: {Text(text).content[::-1]}"
def output_fn(prediction, accept): return prediction.encode(), "text/plain"
"""


def test_a_folder_without_best_weights_is_served_as_an_ensemble(model_dir, tmp_path):
    network, card = load_checkpoint(model_dir / "best.safetensors")
    for name in ("first", "second"):
        torch.nn.init.normal_(next(network.parameters()))
        save_checkpoint(tmp_path / f"{name}.safetensors", network, card)
    assert len(handler.model_fn(tmp_path).network.members) == 2
    save_checkpoint(tmp_path / "best.safetensors", network, card)
    assert handler.model_fn(tmp_path).card.network == card.network


def test_a_model_may_bring_functions_of_its_own_if_the_process_is_told(tmp_path, monkeypatch):
    folder = save_model(tmp_path / "model")
    (folder / "code").mkdir()
    (folder / "code" / "inference.py").write_text(PROGRAM)
    (folder / "code" / "bare.py").write_text("from inference import *\ndef output_fn(prediction, accept): return prediction")
    with started(folder, Limits()) as client:
        refused(ask(client, "abc", "text/plain"), 415)
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "inference.py")
    with started(folder, Limits()) as client:
        assert ask(client, "abc", "text/plain").text == "model loaded by model: cba"
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "bare.py")  # it imports the other, and returns a body alone
    with started(folder, Limits()) as client:
        assert ask(client, "abc", "text/plain").text == "model loaded by model: cba"
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "other.py")
    with started(folder, Limits()) as client:
        answer = client.get("/ping")
        assert answer.status_code == 500 and "no code/other.py" in answer.text


def test_a_program_gets_the_folder_as_text_and_its_model_may_be_anything(tmp_path, monkeypatch):
    folder = save_model(tmp_path / "model")
    (folder / "code").mkdir()
    program = "def model_fn(folder): print(folder + '/best.safetensors')\ndef predict_fn(data, model): return model is None\n"
    kinds = "def input_fn(body, kind): return body\ndef output_fn(prediction, accept): return str(prediction)"
    (folder / "code" / "inference.py").write_text(program + kinds)
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "inference.py")
    with started(folder, Limits()) as client:
        assert client.get("/ping").status_code == 200
        assert ask(client, "abc", "text/plain").text == "True"


def test_a_port_is_owned_before_the_model_is_loaded():
    with app.listen("127.0.0.1", 0) as listener, pytest.raises(DataError, match="choose another --port"):
        app.listen("127.0.0.1", listener.getsockname()[1])
    with pytest.raises(DataError, match="choose another --port"):
        app.listen("127.0.0.1", 99_999)


def test_a_port_that_is_no_number_is_one_sentence(capsys):
    assert main(["serve", "--port", "http"]) == 1
    assert "the port is 'http'; give a whole number to --port or SAGEMAKER_BIND_TO_PORT" in capsys.readouterr().err


def test_limits_come_from_the_environment():
    assert limits_from({"SERVE_BODY_MB": "1024", "SERVE_WAITING": "2"}) == Limits(body_mb=1024, waiting=2)
    with pytest.raises(DataError, match="SERVE_BODY_MB is '25 MB'"):
        limits_from({"SERVE_BODY_MB": "25 MB"})
