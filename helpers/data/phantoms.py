"""Phantoms of `glioma_phantom` as an endless stream of patches to train on.

Patch number n is made when it is asked for, from the seed and n alone: nothing is read from a disk and nothing
repeats. Each phantom is prepared as prediction prepares a patient's images, and gives a few patches before it is forgotten.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from brats_cohort.files import DataError
from glioma_phantom import Randomisation, draw_random_phantom
from glioma_phantom.generator import RANDOMISED_VERSION, WIDE
from helpers.data.patches import draw_patch
from helpers.data.prepared import Prepared, PreprocessSettings, is_intact, save_prepared
from helpers.data.preprocess import one_thread, preprocess_image

PATCH = 1
"""Separates the random numbers of patches from those of cases, which share a seed."""

HELD_OUT_SEED = 1952
"""Seed of the phantoms that no training may see: those that choose a checkpoint and those that test it."""


@dataclass(frozen=True)
class StreamSettings:
    """What decides a stream of phantoms.

    Each phantom, on a grid of `spacing` mm (1, 2 or 4) and with what `ranges` draws at random, gives `patches_per_case` patches
    before it is forgotten; `pool` phantoms take turns, so that the patches of one step come from different cases. Steps that
    follow each other take theirs from `lanes` separate pools in turn: if the number of DataLoader workers divides it, no two
    workers make the same phantom. `foreground_probability` is that of `helpers.data.patches.draw_centre`.
    """

    spacing: int = 2
    seed: int = 2021
    patches_per_case: int = 4
    pool: int = 2
    lanes: int = 8
    foreground_probability: float = 2 / 3
    ranges: Randomisation = WIDE

    def __post_init__(self) -> None:
        if self.seed == HELD_OUT_SEED:
            raise DataError(f"seed {self.seed} is that of the phantoms held out for validation", "take another")
        if self.spacing not in (1, 2, 4):
            raise DataError(f"spacing is {self.spacing} mm", "phantoms are made at 1, 2 or 4 mm")
        for name in ("patches_per_case", "pool", "lanes"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}", "it must be at least 1")


class PhantomStream(Dataset):
    """Serve patches of phantoms that exist only while they are looked at: `count` patches of edges `patch`, `batch` a step.

    Items are dictionaries of ``image`` float32 (4, X, Y, Z) and ``regions`` bool (3, X, Y, Z), changed by `transforms` as in
    `helpers.data.patches.draw_patch`. What patch n holds does not depend on `count`.
    """

    def __init__(
        self, settings: StreamSettings, *, patch: Sequence[int], count: int, batch: int = 2, transforms: Callable | None = None
    ) -> None:
        self.settings, self.patch, self.count, self.batch, self.transforms = settings, tuple(patch), count, batch, transforms
        self._cases: OrderedDict[int, Prepared] = OrderedDict()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the patches; of the transforms it knows the kinds and the flipped axes, not the strengths."""
        facts = {**asdict(self.settings), "patch": self.patch, "batch": self.batch, "changes": _names(self.transforms)}
        return hashlib.sha256(json.dumps(facts | {"version": RANDOMISED_VERSION}, sort_keys=True).encode()).hexdigest()

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """Settings that the phantoms are prepared with, for the model card."""
        return asdict(_preprocessing(self.settings.spacing))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        generator = np.random.default_rng((self.settings.seed, PATCH, index))
        options = {"foreground_probability": self.settings.foreground_probability, "transforms": self.transforms}
        return draw_patch(self._case(self.case_of(index)), generator, patch=self.patch, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Workers make phantoms of their own."""
        return {**self.__dict__, "_cases": OrderedDict()}

    def case_of(self, index: int) -> int:
        """Number of the phantom that patch number `index` is taken from."""
        settings = self.settings
        step, place = divmod(index, self.batch)
        turn, lane = divmod(step, settings.lanes)
        pooled = settings.pool * settings.patches_per_case
        # Lanes begin at different places of a pool, so that not all of them need fresh phantoms at the same step.
        drawn, seat = divmod(turn * self.batch + place + lane * pooled // settings.lanes, pooled)
        return lane + settings.lanes * (drawn * settings.pool + seat % settings.pool)

    def _case(self, number: int) -> Prepared:
        settings = self.settings
        if number not in self._cases:
            while len(self._cases) >= settings.pool * settings.lanes:
                self._cases.popitem(last=False)
            self._cases[number] = prepare_phantom(settings.seed, number, _preprocessing(settings.spacing), settings.ranges)
        self._cases.move_to_end(number)
        return self._cases[number]


def held_out_phantoms(folder: Path, count: int, *, spacing: int = 2) -> list[Path]:
    """Write the first `count` of the prepared phantoms that no stream ever shows, keep those there, and return their files."""
    paths = [Path(folder) / f"HeldOut-{index:05d}-{spacing}mm-v{RANDOMISED_VERSION}.safetensors" for index in range(count)]
    for index, path in enumerate(paths):
        if not is_intact(path):
            save_prepared(path, prepare_phantom(HELD_OUT_SEED, index, _preprocessing(spacing)))
    return paths


@one_thread()
def prepare_phantom(seed: int, index: int, settings: PreprocessSettings, ranges: Randomisation = WIDE) -> Prepared:
    """Draw a randomised phantom, on the coarsest grid as fine as that of the settings, and prepare it as a patient's images."""
    name = f"{'HeldOut' if seed == HELD_OUT_SEED else 'Phantom'}-{index:05d}"
    spacing = max((each for each in (1, 2, 4) if each <= min(settings.spacing)), default=1)
    phantom = draw_random_phantom(seed, index, spacing=spacing, ranges=ranges)
    return preprocess_image(phantom.image, phantom.affine, settings, classes=phantom.classes, identifier=name)


def _preprocessing(spacing: int) -> PreprocessSettings:
    """A faint tumour is told from a strong bias field only once the field is taken out."""
    return PreprocessSettings((float(spacing),) * 3, correct_bias=True)


def _names(change: Callable | None) -> list:
    """The kinds of the transforms in a composition, with the axis of those that flip."""
    axis = getattr(getattr(change, "flipper", None), "spatial_axis", None)
    return [type(change).__name__, axis, [_names(each) for each in getattr(change, "transforms", ())]]
