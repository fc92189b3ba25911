"""Train segmentation networks with Lightning, within a budget, and resume after any interruption."""

EXIT_STATUS = 75
"""EX_TEMPFAIL of sysexits.h: not done, and worth trying again."""


class Interrupted(Exception):
    """The training was told to stop by SIGTERM; the same call resumes from its checkpoint."""

    exit_status = EXIT_STATUS
