"""The forms in which an answer may be asked for."""

from __future__ import annotations

from collections.abc import Sequence

from helpers.cloud.limits import BadRequest

NIFTI, NPZ, JSON, TIFF = "application/x-nifti", "application/x-npz", "application/json", "image/tiff"
KINDS: tuple[str, ...] = (NIFTI, NPZ, JSON, TIFF)
"""Of any request; which of them one kind of request has, and which comes unasked, its encoder says."""


def output_type(accept: str | None, kinds: Sequence[str] = (NIFTI, NPZ, JSON)) -> str:
    """The content type of the answer to an Accept header; the first of `kinds` where the caller does not care.

    Raises
    ------
    BadRequest
        With status 406 for types that there are not.
    """
    wanted = [part.partition(";")[0].strip().lower() for part in (accept or "*/*").split(",")]
    for word in wanted:
        if word in kinds:
            return word
        fitting = [kind for kind in kinds if word in ("*/*", "", f"{kind.partition('/')[0]}/*")]
        if fitting:
            return fitting[0]
    raise BadRequest(406, f"an answer as {(accept or '')[:80]!a} is not possible; accept one of {', '.join(kinds)}")
