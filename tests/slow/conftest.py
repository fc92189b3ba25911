"""One rehearsal for all tests with real AWS calls."""

from __future__ import annotations

import pytest

from sagemaker_rehearsal import start_rehearsal


@pytest.fixture(scope="session")
def rehearsal():
    """A running local AWS, whose variables this process has; no account of the developer's comes near it."""
    with start_rehearsal(grace=2.0) as started:
        yield started.apply()
