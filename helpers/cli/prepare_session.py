"""``python -m helpers prepare-session``: turn raw series of one session, skull on, into a case."""

from __future__ import annotations

import shlex
from pathlib import Path

from brats_cohort.command import Target
from scan_session import prepare_session


def run(
    folder: Path,
    /,
    *,
    out: Target,
    t1: str | None = None,
    t1ce: str | None = None,
    t2: str | None = None,
    flair: str | None = None,
    mask: Path | None = None,
    study: int | None = None,
) -> int:
    """Recognise, register and skull-strip the series of one session; CASE/session.html shows what was done.

    Parameters
    ----------
    folder
        DICOM files as the scanner gave them, or NIfTI files.
    out
        Folder of the case; its name becomes the case's.
    t1
        Number of the series, or name of the NIfTI file, that is T1, if it is recognised wrongly.
    t1ce
        The same for T1ce.
    t2
        The same for T2.
    flair
        The same for FLAIR.
    mask
        Brain mask of your own, drawn on T1ce or T1, whichever has the smaller voxels.
    study
        Which of several sessions in the folder, counted from the oldest: 1, 2, ...
    """
    session = prepare_session(folder, out, t1=t1, t1ce=t1ce, t2=t2, flair=flair, mask=mask, study=study)
    print(f"{session.page} shows what was done; segment it with: python -m helpers predict {shlex.quote(str(out))} --out OUT")
    return 0
