"""One rehearsal for all tests with real AWS calls."""

from __future__ import annotations

import os

import pytest

from helpers.cloud.rehearsal import Rehearsal, RehearsalSettings, start_rehearsal
from helpers.cloud.rehearsal.guard import CREDENTIALS


@pytest.fixture(scope="session")
def rehearsal():
    """A running local AWS, whose variables this process has; no account of the developer's comes near it."""
    hidden = {name: os.environ.pop(name) for name in CREDENTIALS if name in os.environ}
    with start_rehearsal(RehearsalSettings(grace=2.0)) as started:
        yield started.apply()
    os.environ.update(hidden)


@pytest.fixture(scope="session")
def bucket(rehearsal: Rehearsal) -> str:
    """An empty bucket."""
    import boto3

    boto3.client("s3").create_bucket(Bucket="tests-of-jobs")
    return "tests-of-jobs"
