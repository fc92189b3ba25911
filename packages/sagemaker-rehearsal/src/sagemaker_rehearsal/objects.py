"""Move files between S3 and folders: fetch channels, upload results, mirror checkpoints."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from sagemaker_rehearsal.limits import invalid


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``."""
    if not uri.startswith("s3://"):
        raise invalid(f"{uri} is not an S3 location")
    bucket, _, key = uri[5:].partition("/")
    return bucket, key


class Objects:
    """S3 as the jobs of a rehearsal use it.

    Parameters
    ----------
    client : boto3 client
        Of S3, at the rehearsal's own address.
    """

    def __init__(self, client) -> None:
        self.client = client

    def list(self, uri: str) -> list[tuple[str, str]]:
        """Key and name below the prefix of every object at `uri`: one object, or a folder.

        To AWS a location is a prefix: ``uri`` without a slash at its end also names its neighbour ``uri-old/``. That is hardly
        ever meant, and is refused here.
        """
        bucket, prefix = split_uri(uri)
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        if prefix and not prefix.endswith("/"):
            inside = () if prefix in keys else f"{prefix}/"  # an object and a folder of one name are neighbours, too
            if strays := [key for key in keys if key != prefix and not key.startswith(inside)]:
                raise invalid(f"{uri} is a prefix, and {strays[0]} begins with it too: end the location with a slash.")
            if prefix in keys:
                return [(prefix, prefix.rpartition("/")[2])]
            prefix += "/"
        return [(key, key[len(prefix) :]) for key in keys if key.startswith(prefix) and not key.endswith("/")]

    def manifest(self, uri: str) -> list[tuple[str, str]]:
        """Key (with its bucket's location) and name of what a manifest lists: ``[{"prefix": "s3://b/p/"}, "name", ...]``."""
        head, *names = json.loads(self.read(uri))
        return [(head["prefix"] + name, name) for name in names]

    def fetch(self, source: dict, folder: Path, *, host: int = 0, hosts: int = 1) -> int:
        """Download what an ``S3DataSource`` or ``S3Input`` names into `folder`; returns the number of files.

        Parameters
        ----------
        source : dict
            ``S3Uri``, ``S3DataType`` (S3Prefix or ManifestFile) and ``S3DataDistributionType``.
        folder : Path
            Made if it is missing.
        host, hosts : int
            Which of how many machines asks: sharded by key, each gets every `hosts`-th object.
        """
        folder.mkdir(parents=True, exist_ok=True)
        uri = source["S3Uri"]
        if source.get("S3DataType") == "ManifestFile":
            found = self.manifest(uri)
        else:
            bucket, _ = split_uri(uri)
            found = [(f"s3://{bucket}/{key}", name) for key, name in self.list(uri)]
        if source.get("S3DataDistributionType") == "ShardedByS3Key":
            found = sorted(found)[host::hosts]
        for location, name in found:
            target = folder.joinpath(*_safe_parts(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            self.client.download_file(*split_uri(location), str(target))
        return len(found)

    def read(self, uri: str) -> bytes:
        """One object."""
        bucket, key = split_uri(uri)
        try:
            return self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except self.client.exceptions.ClientError as error:
            raise invalid(f"Could not read {uri}: {error}") from error

    def write(self, uri: str, content: bytes, **more: str) -> None:
        """One object."""
        bucket, key = split_uri(uri)
        self.client.put_object(Bucket=bucket, Key=key, Body=content, **more)

    def bring(self, folder: Path, uri: str) -> int:
        """Upload every file of a folder; returns their number."""
        bucket, prefix = split_uri(uri.rstrip("/") + "/")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        for path in files:
            self.client.upload_file(str(path), bucket, prefix + path.relative_to(folder).as_posix())
        return len(files)

    def pack(self, folders: Iterable[Path], uri: str) -> bool:
        """Upload what several folders hold as one tar.gz; returns False, and uploads nothing, if they are empty."""
        buffer = io.BytesIO()
        empty = True
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
            for folder in folders:
                for path in sorted(folder.iterdir()):
                    archive.add(path, arcname=path.name)
                    empty = False
        if not empty:
            self.write(uri, buffer.getvalue())
        return not empty

    def unpack(self, uri: str, folder: Path) -> None:
        """The files of a tar.gz; nothing of it gets out of `folder`."""
        extract(self.read(uri), folder)


def extract(content: bytes, folder: Path) -> None:
    """Write the files of a tar.gz into a folder: plain files only, none outside it.

    `tarfile`'s own filter for this came with Python 3.11.4.
    """
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in archive:
            if member.isdir():
                continue
            if not member.isfile():
                raise invalid(f"{member.name!r} in the archive is a link or a device; pack the files themselves.")
            target = folder.joinpath(*_safe_parts(member.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.extractfile(member).read())
            target.chmod(0o644 | member.mode & 0o111)


class Mirror:
    """Mirror a folder to a prefix, as SageMaker does with checkpoints: what is new or changed is uploaded."""

    def __init__(self, objects: Objects, folder: Path, uri: str) -> None:
        self.objects, self.folder, self.uri = objects, folder, uri
        self._known: dict[Path, tuple[int, int, int]] = {}

    def down(self) -> int:
        """Fetch everything; returns the number of files."""
        count = self.objects.fetch({"S3Uri": self.uri}, self.folder)
        self._known = {path: _state(path) for path in self.folder.rglob("*") if path.is_file()}
        return count

    def up(self) -> int:
        """Upload what has changed; returns the number of files. A file that vanishes meanwhile is skipped."""
        sent = 0
        for path in sorted(self.folder.rglob("*")):
            try:
                if not path.is_file() or (state := _state(path)) == self._known.get(path):
                    continue
                self.objects.write(f"{self.uri.rstrip('/')}/{path.relative_to(self.folder).as_posix()}", path.read_bytes())
            except FileNotFoundError:
                continue
            self._known[path] = state
            sent += 1
        return sent


def _state(path: Path) -> tuple[int, int, int]:
    """Tell two contents of a file apart without reading it."""
    state = path.stat()
    return state.st_mtime_ns, state.st_size, state.st_ino


def _safe_parts(name: str) -> tuple[str, ...]:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise invalid(f"An object named {name!r} would leave its folder.")
    return parts
