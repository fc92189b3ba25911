"""What ``pip install`` is inside a rehearsal: a look at what is there, never an installation.

The image of a rehearsal is the environment at hand, which no job may change. A missing package fails the job; another version
than the one asked for is reported and accepted.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

WITH_VALUE = {"-c", "--constraint", "-f", "--find-links", "-i", "--index-url", "--extra-index-url", "-t", "--target"}
"""Options whose next word is no requirement."""


def wanted(words: Sequence[str]) -> Iterator[Requirement]:
    """Requirements for this machine that the arguments of ``pip install`` name, in files or by themselves."""
    lines, words = [], iter(words)
    for word in words:
        if word in {"-r", "--requirement"}:
            text = Path(next(words)).read_text(encoding="utf-8")
            lines += [line.partition("#")[0].strip(" \t\\") for line in text.splitlines()]
        elif word in WITH_VALUE:
            next(words)
        else:
            lines.append(word)
    for line in lines:
        if line and not line.startswith("-"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement


def main(words: Sequence[str]) -> int:
    """Compare; returns 1 if something is missing."""
    missing = []
    try:
        requirements = list(wanted(words[1:] if words[:1] == ["install"] else []))
    except InvalidRequirement as error:
        what = str(error).splitlines()[-2].strip()  # the last line marks a place in it
        print(f"rehearsal: pip only compares versions here, and can't tell what this installs: {what}")
        return 1
    for requirement in requirements:
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
