"""What is patient and what is air around the patient, on slices whose background is not black.

Air in an MRI has noise, a few per cent of what tissue has, and the published slices keep it: in some patients hardly a pixel is
exactly 0. A pixel is tissue where any channel is above a share of what is bright in that channel. Fluid and bone, dark in every
channel, are tissue all the same where tissue encloses them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_fill_holes, binary_opening

BRIGHT, SHARE = 0.99, 0.1
"""Quantile of all pixels of a channel that counts as bright, and the share of it that air stays below."""


def count_values(images: np.ndarray) -> np.ndarray:
    """How often every channel of slices uint8 (N, C, X, Y) has each value: int64 (C, 256)."""
    return np.stack([np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])])


def air_floor(counts: np.ndarray) -> tuple[float, ...]:
    """Value of every channel, 0 to 255, that is still air, from how often each value occurs: (C, 256)."""
    reached = np.cumsum(counts, axis=1) >= BRIGHT * counts.sum(axis=1, keepdims=True)
    return tuple((SHARE * reached.argmax(axis=1)).tolist())


def tissue(images: np.ndarray, floor: Sequence[float]) -> np.ndarray:
    """Where slices uint8 (N, C, X, Y) show the patient, bool (N, X, Y); single bright pixels of noise are left out."""
    bright = (images > np.asarray(floor)[:, None, None]).any(axis=1)
    opened = binary_opening(bright, structure=np.ones((1, 3, 3), bool))
    return np.stack([binary_fill_holes(mask) for mask in opened]) if len(opened) else opened
