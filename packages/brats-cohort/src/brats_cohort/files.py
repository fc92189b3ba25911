"""Files that are written whole or not at all, and the error that says what is wrong with one."""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class DataError(ValueError):
    """An input is wrong: `problem` says what, with the case and the file, `remedy` what to do about it."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = printable(problem), printable(remedy)
        super().__init__(f"{self.problem}; {self.remedy}")  # who prints only the first argument prints all

    def __reduce__(self) -> tuple[type[DataError], tuple[str, str]]:
        return type(self), (self.problem, self.remedy)


def printable(text: str) -> str:
    """Replace what is not UTF-8 in a file's name, and line breaks, by their bytes as %e4, so that the text is one line."""
    return re.sub("[\udc80-\udcff\x00-\x1f\x7f]", lambda match: f"%{ord(match[0]) & 0xFF:02x}", text)


def named(error: Exception) -> str:
    """Kind and words of an error of a library; its repr may hold a whole file."""
    return f"{type(error).__name__}: {error}"


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out; PyTorch raises a RuntimeError for it, on a CPU as on a GPU."""
    said = re.search("(out of|enough|allocate) memory", str(error))
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said is not None)


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Let an import find modules absent that are optional to it and would take long; afterwards they can be imported."""
    absent = {name: None for name in names if name not in sys.modules}
    sys.modules.update(absent)  # None is what Python itself takes for a module that cannot be imported
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextmanager
def write_atomically(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Write a file so that it is either complete or absent, also after a crash or when several processes write it.

    Yields a file beside the target to write to; it is renamed at the end of the block and removed after an error. The
    folder is made, and what is there already stays until the new file is complete. With `durable` the disk has the file at
    the end, so that it survives a power cut. Raises `DataError` if the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        remedy = "choose another folder" if error.errno == errno.EROFS else "make room or choose another folder"
        raise DataError(f"{path} cannot be written ({reason})", remedy) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def require_writable(folder: Path) -> Path:
    """Make a folder for results and try to write there, before any work is done; raises `DataError`."""
    if Path(folder).is_file():
        raise DataError(f"{folder} is a file, not a folder", "choose a folder")
    target = Path(folder) / ".writable"
    try:
        with write_atomically(target) as probe:
            probe.touch()
    except DataError as error:
        raise DataError(error.problem.replace(str(target), str(folder)), error.remedy) from error
    target.unlink(missing_ok=True)
    return Path(folder)
