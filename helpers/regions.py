"""Label conventions of every source, the regions TC, WT and ET, their names and colours: the only place that knows them.

Every source writes its label maps in numbers of its own. Inside this package a label map always holds the *classes*
0 background, 1 necrotic core (NCR), 2 oedema (ED), 3 enhancing tumour (ET); files are converted on reading and writing.
Functions take NumPy arrays and torch tensors alike and return the kind they were given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    Array = np.ndarray | torch.Tensor

MODALITIES: tuple[str, ...] = ("t1", "t1ce", "t2", "flair")
"""The four contrasts in the channel order that every image of this package has."""

MODALITY_NAMES: dict[str, str] = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}

BACKGROUND, NCR, ED, ET = 0, 1, 2, 3
CLASSES: tuple[int, ...] = (BACKGROUND, NCR, ED, ET)
CLASS_NAMES: dict[int, str] = {NCR: "necrotic core", ED: "oedema", ET: "enhancing tumour"}
CLASS_ABBREVIATIONS: dict[int, str] = {NCR: "NCR", ED: "ED", ET: "ET"}
CLASS_COLOURS: dict[int, str] = {NCR: "#0072B2", ED: "#F0E442", ET: "#D55E00"}
"""Colours that stay apart under the three common colour-vision deficiencies (from the Okabe-Ito palette)."""

REGIONS: tuple[str, ...] = ("TC", "WT", "ET")
"""Tumour core, whole tumour, enhancing tumour: the order of channels in every region map."""

REGION_NAMES: dict[str, str] = {"TC": "tumour core", "WT": "whole tumour", "ET": "enhancing tumour"}
REGION_CLASSES: dict[str, tuple[int, ...]] = {"TC": (NCR, ET), "WT": (NCR, ED, ET), "ET": (ET,)}
REGION_COLOURS: dict[str, str] = {"TC": "#0072B2", "WT": "#009E73", "ET": "#D55E00"}


@dataclass(frozen=True)
class LabelConvention:
    """Numbers that a source writes for the three tumour classes.

    Attributes
    ----------
    name : str
        The source, as a reader knows it.
    ncr, ed, et : int
        Values in the file for necrotic or non-enhancing core, oedema and enhancing tumour; background is always 0.
    hints : tuple of (int, str)
        Values that this source does not have but that are often met in its place, with what they mean.
    """

    name: str
    ncr: int
    ed: int
    et: int
    hints: tuple[tuple[int, str], ...] = ()

    @property
    def values(self) -> tuple[int, int, int, int]:
        """Values in the file, indexed by class number."""
        return (0, self.ncr, self.ed, self.et)


BRATS2021 = LabelConvention(
    "BraTS 2018-2021", ncr=1, ed=2, et=4, hints=((3, "the enhancing tumour of BraTS 2023 and later; use layout brats2023"),)
)
BRATS2023 = LabelConvention(
    "BraTS 2023 and later",
    ncr=1,
    ed=2,
    et=3,
    hints=((4, "the enhancing tumour of BraTS 2018-2021 (layout brats2021) or the resection cavity of BraTS 2024"),),
)
MSD = LabelConvention("MSD Task01", ncr=2, ed=1, et=3)


def to_classes(values: Array, convention: LabelConvention) -> Array:
    """Convert a label map from a source's numbers to classes.

    Parameters
    ----------
    values : integer array of any shape
        Label map in the numbers of `convention`.
    convention : LabelConvention
        Where the label map comes from.

    Returns
    -------
    uint8 array of the same shape
        Classes 0 background, 1 NCR, 2 ED, 3 ET.

    Raises
    ------
    ValueError
        If a value is none of the convention's; the sentence names it and, where known, what it usually means.
    """
    return _map_values(values, dict(zip(convention.values, CLASSES, strict=True)), convention)


def from_classes(classes: Array, convention: LabelConvention) -> Array:
    """Convert classes to the numbers that `convention` writes into files; the inverse of `to_classes`."""
    return _map_values(classes, dict(zip(CLASSES, convention.values, strict=True)), None)


def classes_to_regions(classes: Array) -> Array:
    """Turn a label map of classes, shape (X, Y, Z), into a boolean region map, shape (3, X, Y, Z), ordered TC, WT, ET."""
    core = (classes == NCR) | (classes == ET)
    return _stack([core, core | (classes == ED), classes == ET], classes)


def regions_to_classes(regions: Array) -> Array:
    """Turn a region map (3, X, Y, Z) into classes (X, Y, Z), uint8.

    Regions of a prediction need not be nested. A voxel takes the innermost region that claims it: ET, else TC without
    ET is NCR, else WT alone is ED. On nested regions this is the exact inverse of `classes_to_regions`.
    """
    core, whole, enhancing = (channel > 0 for channel in regions)
    classes = _as_uint8(whole) * ED
    classes[core] = NCR
    classes[enhancing] = ET
    return classes


def _map_values(values: Array, table: dict[int, int], convention: LabelConvention | None) -> Array:
    array = values if isinstance(values, np.ndarray) else values.cpu().numpy()
    if array.dtype.kind not in "iub":
        raise ValueError(f"a label map must hold integers, this one is {array.dtype}; round it before converting")
    known = np.zeros_like(array, dtype=bool)
    result = np.zeros_like(array, dtype=np.uint8)
    for source, target in table.items():
        here = array == source
        known |= here
        result |= here.view(np.uint8) * np.uint8(target)
    if not known.all():
        raise ValueError(_unknown_sentence(np.unique(array[~known]).tolist(), convention))
    if isinstance(values, np.ndarray):
        return result
    import torch

    return torch.from_numpy(result).to(values.device)


def _unknown_sentence(unknown: list[int], convention: LabelConvention | None) -> str:
    if convention is None:
        return f"a label map of classes holds 0, 1, 2, 3 only, this one also holds {unknown}"
    hints = "".join(f" ({value} is {meaning})" for value, meaning in convention.hints if value in unknown)
    return f"labels {unknown} do not exist in {convention.name}, which has {list(convention.values)}{hints}"


def _stack(channels: list[Array], like: Array) -> Array:
    if isinstance(like, np.ndarray):
        return np.stack(channels)
    import torch

    return torch.stack(channels)


def _as_uint8(array: Array) -> Array:
    if isinstance(array, np.ndarray):
        return array.astype(np.uint8)
    import torch

    return array.to(torch.uint8)
