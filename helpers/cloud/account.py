"""Where the jobs run: a real AWS account where there is one, otherwise a rehearsal; the same calls work in both."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from dataclasses import dataclass

import boto3

from helpers.cloud.storage import open_bucket
from helpers.workspace import DataError
from sagemaker_rehearsal import Rehearsal, start_rehearsal

CHOICES = ("yes", "no")
SERVE = f"{shlex.quote(sys.executable)} -m helpers.serve.app"
"""What serves a model in a rehearsal, as the image does in AWS."""
ROLE = "brain-tumour-segmentation"
IMAGE = {"framework": "pytorch-amzn2023", "version": "2.13", "image_scope": "training"}
"""AWS's training image: it trains, tunes and prepares; the image that serves is built from it."""

SECRET = re.compile(r"(?<![0-9.])\d{12}(?![0-9.])|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.ASCII)


@dataclass(frozen=True)
class Account:
    """What every job needs to know.

    Attributes
    ----------
    region : str
    bucket : str
        Encrypted and private.
    role : str
        ARN of the role that jobs and endpoints act as.
    rehearsal : Rehearsal or None
        The local AWS; None in a real account.
    """

    region: str
    bucket: str
    role: str
    rehearsal: Rehearsal | None = None

    @property
    def place(self) -> str:
        """In words: where this is."""
        if self.rehearsal is None:
            return f"AWS, region {self.region}: what follows costs money"
        return f"a rehearsal on this machine ({self.rehearsal.isolation}): it costs nothing"

    def client(self, service: str):
        """A boto3 client of an AWS service."""
        return boto3.client(service, region_name=self.region)

    def uri(self, *parts: str) -> str:
        """An S3 location in the bucket."""
        return "/".join((f"s3://{self.bucket}", *parts))

    def close(self) -> None:
        """End the rehearsal; a real account is left as it is."""
        if self.rehearsal is not None:
            self.rehearsal.stop()


def open_account(
    rehearse: str = "yes", *, region: str = "us-east-1", role: str = "", bucket: str = "", grace: float = 0.0
) -> Account:
    """Find the account, or start a rehearsal in its place.

    Parameters
    ----------
    rehearse : str
        "yes" rehearses, whatever account is set up on this machine; "no" takes that account.
    region : str
    role : str
        ARN of the execution role in a real account; a rehearsal makes its own.
    bucket : str
        Name of the bucket; empty for ``brain-tumour-segmentation-<account>-<region>``. It is made where it is missing.
    grace : float
        Seconds that a rehearsal gives a job to end after SIGTERM; AWS gives 120.

    Raises
    ------
    DataError
        If there is no such choice, or a real account lacks its role.
    """
    if rehearse not in CHOICES:
        raise DataError(f"REHEARSE is {rehearse!r}", f"choose one of {', '.join(CHOICES)}")
    real = rehearse == "no"
    rehearsal = None if real else start_rehearsal(region, serve=SERVE, grace=grace).apply()
    try:
        if real and not role:
            raise DataError(
                "a real account needs ROLE, the ARN of the execution role", "the policies folder says what it may do"
            )
        os.environ.setdefault("SAGEMAKER_VALIDATE_ROLE", "false")  # the SDK's own check refuses roles of least privilege
        number = boto3.client("sts", region_name=region).get_caller_identity()["Account"]
        name = bucket or f"{ROLE}-{number}-{region}"
        open_bucket(boto3.client("s3", region_name=region), name, region=region)
        return Account(region, name, role or _make_role(), rehearsal)
    except BaseException:
        if rehearsal is not None:
            rehearsal.stop()
        raise


def training_image(account: Account, instance_type: str) -> str:
    """Location of AWS's PyTorch training image for a type of instance."""
    from sagemaker.core import image_uris

    return image_uris.retrieve(region=account.region, instance_type=instance_type, **IMAGE)


def mask(text: object) -> str:
    """A text without account numbers, access keys and e-mail addresses, as it may be shown."""
    return SECRET.sub("...", str(text))


def _make_role() -> str:
    """A role in the rehearsal, where nobody checks what it may do."""
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }
    made = boto3.client("iam").create_role(RoleName=ROLE, AssumeRolePolicyDocument=json.dumps(trust))
    return made["Role"]["Arn"]
