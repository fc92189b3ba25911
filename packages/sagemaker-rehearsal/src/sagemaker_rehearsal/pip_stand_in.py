"""What ``pip install`` is inside a rehearsal: a look at what is there, never an installation.

The image of a rehearsal is the environment at hand, which no job may change. A missing package fails the job; another version
than the one asked for is reported and accepted.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

WITH_VALUE = {"-c", "--constraint", "-f", "--find-links", "-i", "--index-url", "--extra-index-url", "-t", "--target"}
WITH_VALUE |= {"--timeout", "--retries", "--trusted-host", "--proxy", "--cache-dir", "--progress-bar", "--upgrade-strategy"}
WITH_VALUE |= {"--root-user-action", "--no-binary", "--only-binary", "--prefix", "--root", "--src", "--report", "--log"}
WITH_VALUE |= {"--cert", "--platform", "--python-version", "--implementation", "--abi", "--use-feature", "--exists-action"}
"""Options whose next word is no requirement."""
FILE, EDITABLE = (re.compile(rf"(?:{names})[= ]?\s*(.*)") for names in ("-r|--requirement", "-e|--editable"))


class Unclear(ValueError):
    """A requirement that does not say by its name which package it is."""


def wanted(words: Iterable[str], folder: Path = Path()) -> Iterator[Requirement]:
    """Requirements for this machine that the arguments of ``pip install`` name, in files or by themselves.

    `folder` is where the file lies whose lines `words` are: the files that it names are beside it.
    """
    words = iter(words)
    for word in words:
        if named := FILE.fullmatch(word):
            path = folder / (named[1] or next(words))
            yield from wanted(map(_plain, _text(path).splitlines()), path.parent)
        elif named := EDITABLE.fullmatch(word):
            raise Unclear(named[1] or next(words))
        elif word in WITH_VALUE:
            next(words)
        elif word and not word.startswith("-"):
            try:
                requirement = Requirement(word)
            except InvalidRequirement as error:
                raise Unclear(word) from error
            if requirement.marker is None or requirement.marker.evaluate():
                if requirement.url:
                    raise Unclear(word)
                yield requirement


def _text(path: Path) -> str:
    """A requirements file in the encoding that its first bytes tell, as pip reads it: PowerShell writes UTF-16."""
    raw = path.read_bytes()
    return raw.decode("utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")


def _plain(line: str) -> str:
    """A line of a requirements file without comment, hashes and the sign that it goes on."""
    return re.sub(r"(^|\s)#.*|\s--.*", "", line).strip(" \t\\")


def main(words: Sequence[str]) -> int:
    """Compare; returns 1 if something is missing."""
    missing, words = [], list(words)
    asked = words[words.index("install") + 1 :] if "install" in words else []  # options of pip itself may come before
    try:
        requirements = list(wanted(asked))
    except Unclear as error:
        print(f"rehearsal: pip only compares versions here, and can't tell what this installs: {error}")
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
