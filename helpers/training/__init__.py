"""Train segmentation networks with Lightning, within a budget, and resume after any interruption."""

import signal

EXIT_STATUS = 75
"""EX_TEMPFAIL of sysexits.h: not done, and worth trying again."""


class Interrupted(Exception):
    """The training was told to stop by signal `number`, SIGTERM or Ctrl-C; the same call resumes from its checkpoint."""

    def __init__(self, sentence: str, number: int = signal.SIGTERM) -> None:
        super().__init__(sentence)
        self.exit_status = 128 + number if number == signal.SIGINT else EXIT_STATUS
