"""The one error of this package: what is wrong with a session, and what to do about it."""

from __future__ import annotations

from pathlib import Path


class SessionError(ValueError):
    """A session cannot be used: `problem` and `remedy` are half a sentence each, `picture` a file that shows why, if any."""

    exit_status = 1

    def __init__(self, problem: str, remedy: str, picture: Path | None = None) -> None:
        super().__init__(problem, remedy)
        self.problem, self.remedy, self.picture = problem, remedy, picture

    def __str__(self) -> str:
        shown = f" (see {self.picture})" if self.picture else ""
        return f"{self.problem}{shown}; {self.remedy}"
