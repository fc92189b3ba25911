"""A rehearsal never runs where a real account is within reach: what there is of one, by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from helpers.data.files import DataError

CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Variables through which AWS credentials reach a program."""

KEY = "rehearsal"
"""Access key, and secret, of every rehearsal."""

ENDPOINT = "AWS_ENDPOINT_URL"
"""Start of the variables that send calls to another place than AWS."""

FILES = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
MACHINE = Path("/opt/ml/metadata/resource-metadata.json")
"""Present on SageMaker notebook instances and in Studio, whose role gives credentials without any variable or file."""


def find_account(environment: Mapping[str, str] | None = None, *, home: Path | None = None) -> tuple[str, ...]:
    """Names of the variables and files through which a real AWS account, or another endpoint, is set up.

    Values are neither read further than needed nor shown.

    Parameters
    ----------
    environment : mapping, optional
        In place of the process's own.
    home : Path, optional
        Home folder in place of the user's.

    Returns
    -------
    tuple of str
        Empty where there is none.
    """
    environment = os.environ if environment is None else environment
    found = [name for name in CREDENTIALS if environment.get(name)]
    found += sorted(name for name, value in environment.items() if name.startswith(ENDPOINT) and value)
    for variable, usual in FILES.items():
        given = environment.get(variable) or usual
        path = home / given[2:] if home and given.startswith("~/") else Path(given).expanduser()
        if path.is_file() and path.stat().st_size:
            found.append(f"{variable} ({path.name})" if environment.get(variable) else usual)
    if MACHINE.is_file():
        found.append(str(MACHINE))
    return tuple(found)


def refuse_real_account(environment: Mapping[str, str] | None = None, *, home: Path | None = None) -> None:
    """Raise `DataError`, with the names, where a real account or another endpoint is set up."""
    if (os.environ if environment is None else environment).get("AWS_ACCESS_KEY_ID") == KEY:
        raise DataError("a rehearsal is running here already; end it first, with the close() or stop() of what started it")
    if found := find_account(environment, home=home):
        raise DataError(
            f"a rehearsal does not start where an AWS account or endpoint is set up ({', '.join(found)}), so that no call can "
            "reach it by mistake; unset or move that away, or work with the account (REHEARSE='no' in the notebook)"
        )
