"""The end of a training that goes on later. This module imports nothing, so that the command line can know of it."""

EXIT_STATUS = 75
"""EX_TEMPFAIL of sysexits.h: not done, and worth trying again."""


class Interrupted(Exception):
    """The training was told to end by SIGTERM; its state is on the disk and the same call goes on from it."""
