"""The command line: ``python -m helpers VERB``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from helpers.training.before.interruption import EXIT_STATUS, Interrupted
from helpers.workspace import DataError

VERBS: dict[str, str] = {
    "phantom": "make a cohort of digital glioma phantoms",
    "check": "look at every file of every case and print what is wrong",
    "download": "fetch a public cohort",
    "preprocess": "turn a cohort into prepared cases",
    "networks": "print how large each network is, and measure the memory of its training",
    "profile": "measure where the time of a network's training goes, and write a report",
    "train": "train a network",
    "ct": "train Swin UNETR on abdominal CT, or plan that as a job in the cloud",
    "crossvalidate": "train a network on every fold, choose the clean-up on validation data, score the ensemble",
    "predict": "segment one case or a folder of cases",
    "tune": "search the settings of a 2-D network with several workers, and go on after any interruption",
    "evaluate": "score predictions against references",
    "serve": "answer segmentation requests over HTTP, as an endpoint does",
    "rehearse": "start a local AWS in which SageMaker jobs and endpoints really run",
    "run": "execute the notebooks and write an index page",
}
"""Verb and what it does; each lives in ``helpers.cli.<verb>``, imported only when it is called."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status.

    A `DataError` becomes one sentence on stderr and status 1, a training that was told to stop one and status 75.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = next((word for word in words if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, purpose in VERBS.items():
        child = verbs.add_parser(
            name,
            help=purpose,
            description=purpose[0].upper() + purpose[1:] + ".",
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        if name == verb:
            module = importlib.import_module(f"helpers.cli.{name}")
            module.add_arguments(child)
            child.set_defaults(run=module.run)
    parsed = parser.parse_args(words)
    try:
        return parsed.run(parsed)
    except DataError as error:
        print(f"{parser.prog} {parsed.verb}: {error}", file=sys.stderr)
        return 1
    except Interrupted as interruption:
        print(f"{parser.prog} {parsed.verb}: {interruption}", file=sys.stderr)
        return EXIT_STATUS
