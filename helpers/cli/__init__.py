"""The command line: ``python -m helpers COMMAND``.

A command is a module of this folder with a function ``run``, whose signature and docstring are its options
(`helpers.cli.options`) and whose result is the exit status. Those on cohorts are functions of `brats_cohort.command`.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import errno
import gc
import importlib
import os
import sys
from collections.abc import Iterator, Sequence

COMMANDS: dict[str, str] = {
    "phantom": "make a cohort of digital glioma phantoms",
    "check": "look at every file of every case and print what is wrong",
    "download": "fetch a public cohort",
    "convert": "write a cohort in the dataset format of another tool",
    "prepare-session": "turn raw series of one session, DICOM or NIfTI, into a case",
    "preprocess": "turn a cohort into prepared cases",
    "train": "train a network",
    "crossvalidate": "train a network on every fold, choose the post-processing out of fold, score the ensemble",
    "tune": "search the settings of a training, in several workers and across interruptions",
    "predict": "segment one case or a folder of cases",
    "evaluate": "score predictions against references",
    "export": "write a trained model for ONNX Runtime, PyTorch, MONAI or MONAI Label",
    "serve": "answer segmentation requests over HTTP, as an endpoint does",
    "run": "execute the notebooks and write an index page",
}
"""Command and what it does; each is imported only when it is called."""

OF_COHORTS = ("check", "convert", "download")
"""Commands of the package brats-cohort, which has them under ``python -m brats_cohort`` too."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of a shell."""

CAUSES: dict[int, str] = {
    errno.ENOSPC: "the disk is full; make room or choose another folder",
    errno.EDQUOT: "your disk quota is used up; make room or choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; change the permissions or choose another",
    errno.EPERM: "permission denied; change the permissions or choose another",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, and a file is needed",
    errno.ENOENT: "no such file or folder",
    errno.ENAMETOOLONG: "the name is too long",
}
"""What an error of the operating system means for the user."""


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed arrays for new ones, up to 2 GB, if its C library is glibc.

    By default glibc returns large arrays to the system at once and has each new one mapped page by page, which takes a tenth
    of the time of a prediction on a CPU.
    """
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # of malloc.h
    with contextlib.suppress(OSError):
        glibc = ctypes.CDLL("libc.so.6")
        glibc.mallopt(trim_threshold, 2**31 - 1)
        if not glibc.mallopt(mmap_threshold, 2**30):  # before 2.35 no more than 32 MB, its own highest choice, is taken
            glibc.mallopt(mmap_threshold, 2**25)
        glibc.mallopt(arena_max, 1)  # the arena of a thread holds no large arrays


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import without garbage collection, which would look through PyTorch's objects for half a second and find none."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    What a user can mend is one sentence on standard error: wrong input, too little memory, a file that cannot be read or
    written (status 1), Ctrl-C (130), and errors with an `exit_status` of their own, as of a training told to stop (75).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in COMMANDS:
        return _explain(words)
    prog = f"python -m helpers {words[0]}"
    try:
        with importing():
            from helpers.cli.options import call

            if words[0] in OF_COHORTS:
                run = importlib.import_module("brats_cohort.command").COMMANDS[words[0]]
            else:
                run = importlib.import_module(f"helpers.cli.{words[0].replace('-', '_')}").run
        return call(run, words[1:], prog=prog)
    except KeyboardInterrupt:
        message, status = "interrupted", INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        message, status = describe_os_error(error), 1
    except Exception as error:
        from brats_cohort.files import DataError, out_of_memory

        if out_of_memory(error):
            error = DataError("there is not enough memory", "take a smaller case, patch or batch, or more memory")
        if not isinstance(error, DataError) and not hasattr(error, "exit_status"):
            raise
        message, status = str(error), getattr(error, "exit_status", 1)
    print(f"{prog}: {message}", file=sys.stderr)
    return status


def _explain(words: Sequence[str]) -> int:
    """Print what there is: the answer to --help, and to a command that does not exist."""
    wrong = words and words[0] not in ("-h", "--help")
    lines = ["usage: python -m helpers COMMAND [--help] ...", ""]
    lines += [f"  {name:15} {purpose}" for name, purpose in COMMANDS.items()]
    if wrong:
        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        lines += ["", f"python -m helpers: there is no command {words[0]}{hint}"]
    print("\n".join(lines), file=sys.stderr if wrong else sys.stdout)
    return 2 if wrong or not words else 0


def describe_os_error(error: OSError) -> str:
    """Say which file could not be read or written and why."""
    cause = CAUSES.get(error.errno or 0) or error.strerror or str(error)
    return f"{error.filename}: {cause}" if error.filename else cause
