"""Prepared files for patch sampling: kept in memory where they fit, else read from the disk patch by patch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from helpers.data.prepared import PreparedFile, open_prepared

CACHES: tuple[str, ...] = ("auto", "memory", "mapped")
SHARE = 0.5
"""Share of the free memory that "auto" may fill; the rest is for the network and the system's own cache."""


class FileInMemory(PreparedFile):
    """A prepared file whose volumes are held in memory; forked workers share it, others read from the disk."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._need_classes()
        self._volumes = self.load()

    def image_patch(self, slices: Sequence[slice]) -> np.ndarray:
        """Part of the image, a view of what is in memory: whoever draws patches turns it into float32."""
        return self._volumes.image[(slice(None), *slices)]

    def classes_patch(self, slices: Sequence[slice]) -> np.ndarray:
        """Part of the label map, a copy of what is in memory."""
        return self._volumes.classes[tuple(slices)].copy()  # random changes may write into it


def open_cases(paths: Sequence[Path], cache: str, *, sharers: int = 1) -> dict[Path, PreparedFile]:
    """Open prepared files, each once.

    Parameters
    ----------
    paths : sequence of Path
    cache : str
        "memory" loads them, "mapped" leaves them on the disk, "auto" loads them if all of them fill at most `SHARE` of the
        free memory.
    sharers : int
        Processes on this machine that each load them.
    """
    size = sum(Path(path).stat().st_size for path in paths) if cache == "auto" else 0
    fits = size * sharers <= SHARE * psutil.virtual_memory().available
    kind = FileInMemory if cache == "memory" or (cache == "auto" and fits) else open_prepared
    return {Path(path): kind(Path(path)) for path in paths}
