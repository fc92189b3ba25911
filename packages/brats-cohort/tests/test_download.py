"""Downloads against a server on this machine that misbehaves, and against a stand-in for the package kaggle."""

import hashlib
import http.server
import io
import json
import sys
import tarfile
import threading
import types
import zipfile
from pathlib import Path

import pytest

from brats_cohort.command import main
from brats_cohort.download import (
    CHUNK,
    KAGGLE_ARCHIVE,
    KAGGLE_DATASET,
    MSD_TASK,
    download_msd,
    extract,
    fetch,
    tar_entries,
)
from brats_cohort.files import DataError
from brats_cohort.testing import write_case

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        status = server.statuses.pop(0) if server.statuses else 206 if start else 200
        if start >= len(server.content):
            status = 416
        rest = server.content[start:] if status < 300 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(rest)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(rest)
        self.wfile.write(rest[:cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.ranges, server.statuses, server.cuts, server.asked = CONTENT, True, [], [], []
        server.url = f"http://127.0.0.1:{server.server_address[1]}/file.tar"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server, target, *, md5=MD5, **arguments):
    return fetch(server.url, target, md5=md5, progress=False, pause=0, **arguments)


def test_a_download_that_breaks_off_continues_where_it_stopped(server, tmp_path):
    server.cuts = [4 * CHUNK + 100, 2 * CHUNK, 0]
    target = get(server, tmp_path / "new" / "file.tar")
    assert target.read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={4 * CHUNK}-", f"bytes={6 * CHUNK}-", f"bytes={6 * CHUNK}-"]
    assert list(target.parent.iterdir()) == [target]


def test_the_next_call_continues_too_and_a_third_asks_nothing(server, tmp_path):
    target = tmp_path / "file.tar"
    server.cuts = [CHUNK, 0, 0]
    with pytest.raises(DataError, match=r"cannot be downloaded .*run the same command again"):
        get(server, target, attempts=2)
    assert not target.exists()
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={CHUNK}-"
    count = len(server.asked)
    get(server, target)
    assert len(server.asked) == count


def test_a_server_that_ignores_ranges_makes_it_start_again(server, tmp_path):
    server.ranges = False
    server.cuts = [4 * CHUNK]
    assert get(server, tmp_path / "file.tar").read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={4 * CHUNK}-"]


def test_a_part_that_is_already_complete_is_only_verified(server, tmp_path):
    (tmp_path / "file.tar.part").write_bytes(CONTENT)
    assert get(server, tmp_path / "file.tar").read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize("part", [b"", b"x" * 1000, CONTENT + b"longer"], ids=["content", "start", "length"])
def test_what_has_the_wrong_checksum_is_deleted_and_reported(server, tmp_path, part):
    (tmp_path / "file.tar.part").write_bytes(part)
    with pytest.raises(DataError, match=r"file\.tar arrived with checksum \w+ instead of \w+ and was deleted"):
        get(server, tmp_path / "file.tar", md5=MD5 if part else "0" * 32)
    assert not list(tmp_path.iterdir())


def test_a_busy_server_is_asked_again_and_one_that_refuses_is_not(server, tmp_path):
    server.statuses = [503, 200]
    assert get(server, tmp_path / "busy").read_bytes() == CONTENT
    server.statuses = [404, 200]
    with pytest.raises(DataError, match="404"):
        get(server, tmp_path / "gone")
    assert server.statuses == [200]


def test_no_server_at_all_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="cannot be downloaded"):
        fetch("http://127.0.0.1:9/file", tmp_path / "file", md5=MD5, progress=False, attempts=1, pause=0)


def tar_of(entries: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in entries.items():
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = 0 if isinstance(content, tarfile.TarInfo) else len(content)
            archive.addfile(member, io.BytesIO(content) if member.size else None)
    return buffer.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


@pytest.mark.parametrize(
    "entries",
    [{"ok": b"1", "../outside": b"2"}, {"ok": b"1", "link": link("link", "/etc")}, {"ok": b"1", "l": link("l", "../../up")}],
    ids=["parent", "absolute-link", "relative-link"],
)
def test_archives_that_leave_the_folder_are_refused_and_nothing_is_left(tmp_path, entries):
    with pytest.raises(DataError, match="cannot be extracted"):
        extract(tar_entries(io.BytesIO(tar_of(entries))), tmp_path / "cohort", name="bad.tar")
    assert [path.name for path in tmp_path.rglob("*")] == ["cohort"]


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, tar_of({"a": b"1" * 50_000})[:20_000]])
def test_damaged_archives_are_one_sentence(tmp_path, content):
    with pytest.raises(DataError, match=r"bad\.tar cannot be extracted .*download it again"):
        extract(tar_entries(io.BytesIO(content)), tmp_path, name="bad.tar")
    assert not list(tmp_path.iterdir())


def test_extraction_replaces_leaves_out_resource_forks_and_keeps_other_files(tmp_path):
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "old").touch()
    (tmp_path / "notes.txt").touch()
    extract(tar_entries(io.BytesIO(tar_of({"case/new": b"1", "case/._new": b"2"}))), tmp_path, name="a.tar")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["case", "new", "notes.txt"]


def test_msd_comes_from_its_address_and_with_its_checksum(server, tmp_path, monkeypatch, capsys):
    write_case(tmp_path / MSD_TASK, "BRATS_001", "msd")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(tmp_path / MSD_TASK, MSD_TASK)
    server.content = buffer.getvalue()
    server.cuts = [5000]
    monkeypatch.setattr("brats_cohort.download.MSD_ADDRESS", server.url)
    monkeypatch.setattr("brats_cohort.download.MSD_MD5", hashlib.md5(server.content).hexdigest())
    monkeypatch.setattr("brats_cohort.download.time.sleep", lambda _: None)
    for _ in range(2):
        assert main(["download", "msd", "--out", str(tmp_path / "msd")]) == 0
        assert "1 cases of msd" in capsys.readouterr().out
    assert len(server.asked) == 2
    assert sorted(path.name for path in (tmp_path / "msd").iterdir()) == ["dataset.json", "imagesTr", "labelsTr"]


def test_msd_does_not_replace_the_images_of_another_cohort(tmp_path, monkeypatch):
    monkeypatch.setattr("brats_cohort.download.fetch", lambda *arguments, **options: pytest.fail("it was downloaded"))
    (tmp_path / "labelsTr").mkdir()
    with pytest.raises(DataError, match=r"labelsTr is there already, of another cohort .*give another folder to --out"):
        download_msd(tmp_path)


@pytest.fixture
def token(tmp_path, monkeypatch):
    monkeypatch.delenv("KAGGLE_CONFIG_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = tmp_path / "home" / ".kaggle" / "kaggle.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"username": "nobody", "key": "not a key"}))
    path.chmod(0o600)
    return path


def fake_kaggle(monkeypatch, archive: bytes | BaseException) -> list:
    """A module `kaggle` that writes `archive` as the dataset's zip, or raises it, and records how it is called."""
    calls = []

    def dataset_download_files(dataset, path=None, force=False, quiet=True, unzip=False):
        calls.append((dataset, path, force, quiet, unzip))
        if isinstance(archive, BaseException):
            raise archive
        (Path(path) / f"{dataset.split('/')[1]}.zip").write_bytes(archive)

    api = types.SimpleNamespace(
        authenticate=lambda: calls.append("authenticate"), dataset_download_files=dataset_download_files
    )
    monkeypatch.setitem(sys.modules, "kaggle", types.SimpleNamespace(api=api))
    return calls


def zip_of(name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def brats(out) -> int:
    return main(["download", "brats2021", "--out", str(out)])


@pytest.fixture
def brats_zip(tmp_path):
    write_case(tmp_path / "published", "BraTS2021_00000")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(tmp_path / "published", ".")
    return zip_of(KAGGLE_ARCHIVE, buffer.getvalue())


def test_brats2021_comes_through_the_kaggle_api(tmp_path, token, monkeypatch, capsys, brats_zip):
    calls = fake_kaggle(monkeypatch, brats_zip)
    for _ in range(2):
        assert brats(tmp_path / "out") == 0
        assert "1 cases of brats2021" in capsys.readouterr().out
    assert calls == ["authenticate", (KAGGLE_DATASET, str(tmp_path / "out"), False, False, False)]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["BraTS2021_00000"]


@pytest.mark.parametrize("damage", ["bytes", "compressed", "not-zip", "other-content"])
def test_a_damaged_archive_from_kaggle_is_deleted(tmp_path, token, monkeypatch, capsys, brats_zip, damage):
    middle = len(brats_zip) // 2
    flipped = brats_zip[:middle] + bytes(byte ^ 255 for byte in brats_zip[middle : middle + 8]) + brats_zip[middle + 8 :]
    packed = bytearray(zip_of(KAGGLE_ARCHIVE, b"0123" * 5000, zipfile.ZIP_DEFLATED))
    packed[30 + len(KAGGLE_ARCHIVE)] = 0xFF  # no kind of block that there is
    contents = {"bytes": flipped, "compressed": bytes(packed), "not-zip": b"<html>", "other-content": zip_of("x", b"y")}
    fake_kaggle(monkeypatch, contents[damage])
    assert brats(tmp_path / "out") == 1
    assert "was damaged" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_without_a_token_it_says_where_the_token_goes_and_how_to_get_it(tmp_path, token, monkeypatch, capsys):
    calls = fake_kaggle(monkeypatch, b"")
    token.unlink()
    assert brats(tmp_path / "out") == 1
    sentence = capsys.readouterr().err
    assert str(token) in sentence
    assert "https://www.kaggle.com/settings" in sentence
    assert "chmod 600" in sentence
    assert not calls
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_token_that_others_can_read_is_refused(tmp_path, token, monkeypatch, capsys, mode):
    calls = fake_kaggle(monkeypatch, b"")
    token.chmod(mode)
    assert brats(tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "can be read by other users" in error
    assert "not a key" not in error
    assert not calls


def test_a_missing_package_and_a_refusal_are_one_sentence(tmp_path, token, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "kaggle", None)
    assert brats(tmp_path / "out") == 1
    assert "pip install kaggle" in capsys.readouterr().err
    for refusal in (OSError("401 Unauthorized"), SystemExit(1)):
        fake_kaggle(monkeypatch, refusal)
        assert brats(tmp_path / "out") == 1
        assert "check token, network" in capsys.readouterr().err


@pytest.mark.parametrize("damaged", [False, True])
def test_slices_come_through_the_kaggle_api_once_though_the_archive_has_them_twice(
    tmp_path, token, monkeypatch, capsys, damaged
):
    picture, names = io.BytesIO(), ("TCGA_A/TCGA_A_1.tif", "TCGA_A/TCGA_A_1_mask.tif")
    with zipfile.ZipFile(picture, "w") as archive:
        for root in ("lgg-mri-segmentation/kaggle_3m", "elsewhere" if damaged else "kaggle_3m"):
            for name in names:
                archive.writestr(f"{root}/{name}", b"tiff")
    calls = fake_kaggle(monkeypatch, picture.getvalue())
    assert main(["download", "lgg", "--out", str(tmp_path / "lgg")]) == int(damaged)
    left = sorted(path.relative_to(tmp_path / "lgg").as_posix() for path in (tmp_path / "lgg").rglob("*") if path.is_file())
    assert left == ([] if damaged else [f"kaggle_3m/{name}" for name in names])
    assert ("damaged" in capsys.readouterr().err) == damaged
    before = len(calls)
    if not damaged:
        assert main(["download", "lgg", "--out", str(tmp_path / "lgg")]) == 0
        assert len(calls) == before
