"""Pack trained weights to release them: ``python -m benchmarks.release DIR/unet.safetensors [another.safetensors ...]``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from brats_cohort.files import DataError
from helpers.models import checkpoints
from helpers.models.checkpoints import SEGMENTER, card_path, load_checkpoint, load_ensemble, save_checkpoint

LIMIT = 10_000_000
"""Most bytes that all released weights may have together: every clone of the repository carries them."""


def release_checkpoints(paths: Sequence[Path]) -> list[Path]:
    """Write trained checkpoints as 8-bit weights, under their own names, to the released networks.

    Raises
    ------
    DataError
        If a checkpoint cannot be loaded, two have one name, the segmenter would have members that do not fit together, or all
        released weights would have more than `LIMIT` bytes. Nothing is changed then.
    """
    folder = checkpoints.RELEASED
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        packed = [Path(name) / path.name for path in paths]
        for path, target in zip(paths, packed, strict=True):
            save_checkpoint(target, *load_checkpoint(path), compact=True)
        if len({target.name for target in packed}) < len(packed):
            raise DataError("two checkpoints have one name", "rename one of them")
        kept = [path for path in folder.glob("*.safetensors") if path.name not in {target.name for target in packed}]
        size = sum(path.stat().st_size for path in (*kept, *packed))
        if size > LIMIT:
            raise DataError(f"the released weights would have {size:,} bytes, at most {LIMIT:,}", "train smaller networks")
        now = {path.stem: path for path in (*kept, *packed)}
        if set(SEGMENTER) <= now.keys():
            load_ensemble([now[name] for name in SEGMENTER])  # refuses members that do not fit together
        for target in packed:
            card_path(target).replace(folder / card_path(target).name)
        return [target.replace(folder / target.name) for target in packed]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.release", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    print(*release_checkpoints(parser.parse_args().checkpoints), sep="\n")
