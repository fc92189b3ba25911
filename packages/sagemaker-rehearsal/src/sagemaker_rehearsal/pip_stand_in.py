"""What ``python -m pip install`` is inside a rehearsal: a look at what is there, never an installation.

The image of a rehearsal is the environment at hand, which no job may change. A missing package fails the job; another version
than the one asked for is reported and accepted.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement


def wanted(words: Sequence[str]) -> Iterator[Requirement]:
    """Requirements that the arguments of ``pip install`` name, in files or by themselves."""
    words = iter(words)
    for word in words:
        if word in {"-r", "--requirement"}:
            lines = Path(next(words)).read_text(encoding="utf-8").splitlines()
            plain = (line.partition("#")[0].strip() for line in lines)
            yield from (Requirement(line) for line in plain if line and not line.startswith("-"))
        elif not word.startswith("-"):
            yield Requirement(word)


def main(words: Sequence[str]) -> int:
    """Compare; returns 1 if something is missing."""
    missing = []
    for requirement in wanted(words[1:] if words[:1] == ["install"] else []):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(str(requirement))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            print(f"rehearsal: {requirement} is asked for, {version} is here; an instance would install it")
    if missing:
        print(f"rehearsal: not installed here: {', '.join(missing)}")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
