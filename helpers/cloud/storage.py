"""Data to and from S3: a private and encrypted bucket, and transfers of what has changed only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import ClientError

from helpers.workspace import DataError

PARALLEL = 8
"""Files that travel at a time."""


@dataclass(frozen=True)
class Transfer:
    """What an upload did: names sent, names that were there already, and the bytes of the former."""

    sent: tuple[str, ...]
    kept: tuple[str, ...]
    size: int

    def __str__(self) -> str:
        """In words."""
        return f"{len(self.sent)} files sent ({self.size / 1e6:.1f} MB), {len(self.kept)} were there already"


def open_bucket(s3, bucket: str, *, region: str) -> None:
    """Make a bucket where it is missing; in any case close it to the public and encrypt what comes.

    Parameters
    ----------
    s3 : boto3 client
    bucket : str
    region : str

    Raises
    ------
    DataError
        If the name belongs to somebody else.
    """
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"404", "NoSuchBucket"}:
            raise DataError("the bucket exists and is not yours", "choose another name with BUCKET") from error
        s3.create_bucket(Bucket=bucket, **place)
    closed = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=closed)
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``; raises `DataError` where it is not one."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise DataError(f"{uri!r} is not an S3 location", "write s3://bucket/key")
    return bucket, key


def list_objects(s3, uri: str) -> Iterator[Mapping]:
    """Every object below ``uri/``: ``Key``, ``Size``, ``ETag``."""
    bucket, prefix = split_uri(uri.rstrip("/") + "/")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Contents", [])


def upload_changed(s3, files: Mapping[str, Path], uri: str) -> Transfer:
    """Upload the files whose content is not there yet.

    The object's entity tag is the MD5 of what was sent in one piece, so one listing tells what has changed.

    Parameters
    ----------
    s3 : boto3 client
    files : mapping from str to Path
        File by its name below `uri`.
    uri : str
        Where they go, ``s3://bucket/prefix``.
    """
    bucket, prefix = split_uri(uri.rstrip("/") + "/")
    there = {item["Key"].removeprefix(prefix): item["ETag"].strip('"') for item in list_objects(s3, uri)}

    def send(name: str) -> bool:
        content = Path(files[name]).read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() == there.get(name):
            return False
        s3.put_object(Bucket=bucket, Key=prefix + name, Body=content)
        return True

    names = sorted(files)
    with ThreadPoolExecutor(PARALLEL) as pool:
        changed = dict(zip(names, pool.map(send, names), strict=True))
    sent = tuple(name for name in names if changed[name])
    return Transfer(sent, tuple(name for name in names if not changed[name]), sum(Path(files[n]).stat().st_size for n in sent))


def files_of(folder: Path) -> dict[str, Path]:
    """Every file of a folder by its name below it; hidden ones are left out."""
    found = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in found}
    return {name: path for name, path in names.items() if not any(part.startswith(".") for part in name.split("/"))}


def download(s3, uri: str, folder: Path) -> list[Path]:
    """Every object below `uri` into a folder; a file is complete or absent."""
    bucket, prefix = split_uri(uri.rstrip("/") + "/")
    paths = []
    for item in list_objects(s3, uri):
        path = Path(folder) / item["Key"].removeprefix(prefix)
        if not path.resolve().is_relative_to(Path(folder).resolve()):
            raise DataError(f"the object {item['Key']} would leave {folder}", "remove it from the bucket")
        path.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, item["Key"], str(path))
        paths.append(path)
    return paths


def delete_objects(s3, uri: str) -> int:
    """Delete everything below `uri`; returns the number of objects."""
    bucket, _ = split_uri(uri)
    keys = [item["Key"] for item in list_objects(s3, uri)]
    for start in range(0, len(keys), 1000):
        part = [{"Key": key} for key in keys[start : start + 1000]]
        s3.delete_objects(Bucket=bucket, Delete={"Objects": part, "Quiet": True})
    return len(keys)


def put_text(s3, uri: str, text: str) -> str:
    """Write one object; returns its location."""
    bucket, key = split_uri(uri)
    s3.put_object(Bucket=bucket, Key=key, Body=text.encode())
    return uri


def read_object(s3, uri: str) -> bytes:
    """Read one object."""
    bucket, key = split_uri(uri)
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def exists(s3, uris: Iterable[str]) -> str | None:
    """The first of several objects that is there."""
    for uri in uris:
        bucket, key = split_uri(uri)
        try:
            s3.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"404", "NoSuchKey"}:
                raise
        else:
            return uri
    return None
