"""Make trained weights the released model: ``python -m benchmarks.release best.safetensors [another.safetensors ...]``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from brats_cohort.files import DataError
from helpers.models import checkpoints
from helpers.models.checkpoints import card_path, load_ensemble, save_checkpoint

LIMIT = 10_000_000
"""Most bytes that released weights may have: every clone of the repository carries them."""


def release_checkpoints(paths: Sequence[Path], *, name: str = "phantom") -> Path:
    """Write a trained checkpoint, or several as an ensemble, as 8-bit weights to the released models.

    Raises
    ------
    DataError
        If a checkpoint cannot be loaded, they do not fit together, or they have more than `LIMIT` bytes.
        Nothing is changed then.
    """
    network, card = load_ensemble(paths)
    checkpoints.RELEASED.mkdir(exist_ok=True)
    target = checkpoints.RELEASED / f"{name}.safetensors"
    with tempfile.TemporaryDirectory(dir=checkpoints.RELEASED) as folder:
        unfinished = Path(folder) / target.name
        save_checkpoint(unfinished, network, card, compact=True)
        size = unfinished.stat().st_size
        if size > LIMIT:
            names = " and ".join(map(str, paths))
            raise DataError(f"{names}: {size:,} bytes, at most {LIMIT:,} can be released", "train smaller")
        card_path(unfinished).replace(card_path(target))
        return unfinished.replace(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.release", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--name", default="phantom")
    arguments = parser.parse_args()
    print(release_checkpoints(arguments.checkpoints, name=arguments.name))
