"""One rehearsal for all tests that make AWS calls."""

from __future__ import annotations

import boto3
import pytest

from sagemaker_rehearsal import Rehearsal, start_rehearsal


@pytest.fixture(scope="session")
def rehearsal():
    """A running local AWS, whose variables this process has."""
    with start_rehearsal(grace=2.0) as started:
        yield started.apply()


@pytest.fixture(scope="session")
def bucket(rehearsal: Rehearsal) -> str:
    """An empty bucket."""
    boto3.client("s3").create_bucket(Bucket="tests-of-jobs")
    return "tests-of-jobs"
