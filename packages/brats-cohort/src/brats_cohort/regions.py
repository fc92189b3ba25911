"""Label conventions of every source, the regions TC, WT and ET, their names and colours: the only place that knows them.

Every source writes its label maps in numbers of its own. In memory a label map always holds the *classes* 0 background,
1 non-enhancing core (NCR), 2 oedema (ED), 3 enhancing tumour (ET); files are converted on reading and writing.
"Non-enhancing core" is short for the necrotic and non-enhancing tumour core, which need not be necrotic everywhere.
"""

from __future__ import annotations

import re
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
CLASS_NAMES: dict[int, str] = {NCR: "non-enhancing core", ED: "oedema", ET: "enhancing tumour"}
CLASS_COLOURS: dict[int, str] = {NCR: "#0072B2", ED: "#F0E442", ET: "#D55E00"}
"""Colours that stay apart under the three common colour-vision deficiencies (from the Okabe-Ito palette)."""

REGIONS: tuple[str, ...] = ("TC", "WT", "ET")
"""Tumour core, whole tumour, enhancing tumour: the order of channels in every region map."""

REGION_NAMES: dict[str, str] = {"TC": "tumour core", "WT": "whole tumour", "ET": "enhancing tumour"}
REGION_CLASSES: dict[str, tuple[int, ...]] = {"TC": (NCR, ET), "WT": (NCR, ED, ET), "ET": (ET,)}
REGION_COLOURS: dict[str, str] = {"TC": "#0072B2", "WT": "#009E73", "ET": "#D55E00"}

MOST_NAMED = 5
"""Unknown numbers of a label map that an error names."""


@dataclass(frozen=True)
class LabelConvention:
    """Label numbers of one data set; background is always 0.

    Attributes
    ----------
    name, source : str
        The data set, as a reader knows it, and where its numbers are published.
    ncr, ed, et : int
        Numbers in a file of necrotic and non-enhancing core, oedema and enhancing tumour.
    others : tuple of (int, int, str)
        Further numbers: the number, the class that it is read as, and its name. They are read but never written.
    """

    name: str
    ncr: int
    ed: int
    et: int
    source: str
    others: tuple[tuple[int, int, str], ...] = ()

    @property
    def numbers(self) -> dict[int, int]:
        """Class of each number that may be in a file."""
        return {0: BACKGROUND, self.ncr: NCR, self.ed: ED, self.et: ET, **{number: kind for number, kind, _ in self.others}}

    @property
    def values(self) -> tuple[int, int, int, int]:
        """Number of each class, as it is written."""
        return (0, self.ncr, self.ed, self.et)

    @property
    def regions(self) -> dict[str, list[int]]:
        """Numbers of WT, TC and ET, and each number but 0 that belongs to none of them, by name: the labels of nnU-Net."""
        numbers = {name: [n for n, kind in self.numbers.items() if kind in REGION_CLASSES[name]] for name in ("WT", "TC", "ET")}
        outside = {name: [number] for number, kind, name in self.others if kind == BACKGROUND}
        return {**{REGION_NAMES[name]: found for name, found in numbers.items()}, **outside}

    @property
    def meanings(self) -> dict[int, str]:
        """What each number but 0 means, in ascending order."""
        own = {number: CLASS_NAMES[kind] for kind, number in enumerate(self.values) if kind}
        return dict(sorted({**own, **{number: name for number, _, name in self.others}}.items()))

    def __str__(self) -> str:
        names = {0: "background", **CLASS_NAMES}
        read_as = {number: f" (read as {names[kind]})" for number, kind, _ in self.others}
        meanings = [f"{number} {meaning}{read_as.get(number, '')}" for number, meaning in self.meanings.items()]
        return f"{self.name}: {', '.join(meanings)}"


CONVENTIONS: dict[str, LabelConvention] = {
    "brats2021": LabelConvention("BraTS 2018-2021", 1, 2, 4, "Baid et al. 2021, arXiv:2107.02314"),
    "brats2023": LabelConvention("BraTS 2023", 1, 2, 3, "Baid et al. 2021 with ET renumbered; synapse.org, syn51156910"),
    "brats2024": LabelConvention(  # the cavity is part of neither TC, WT nor ET
        "BraTS 2024 post-treatment", 1, 2, 3, "de Verdier et al. 2024, arXiv:2405.18368", ((4, BACKGROUND, "resection cavity"),)
    ),
    "brats-peds": LabelConvention(  # the cyst is part of TC
        "BraTS-PEDs 2024 (files of 2023 have the same names and the numbers of brats2023)",
        2,
        4,
        1,
        "Kazerooni et al. 2024, arXiv:2404.15009",
        ((3, NCR, "cyst"),),
    ),
    "brats-met": LabelConvention("BraTS-METS 2023", 1, 2, 3, "Moawad et al. 2023, arXiv:2306.00838"),
    "brats-men": LabelConvention("BraTS-MEN 2023", 1, 2, 3, "LaBella et al. 2023, arXiv:2305.07642"),
    "brats-africa": LabelConvention("BraTS-Africa", 1, 2, 3, "Adewole et al. 2023, arXiv:2305.19369"),
    "ucsf-pdgm": LabelConvention("UCSF-PDGM", 1, 2, 4, "Calabrese et al. 2022, doi 10.1148/ryai.220058"),
    "upenn-gbm": LabelConvention("UPENN-GBM", 1, 2, 4, "Bakas et al. 2022, doi 10.1038/s41597-022-01560-7"),
    "msd": LabelConvention("MSD Task01", 2, 1, 3, "dataset.json of the Medical Segmentation Decathlon"),
    "nnunet": LabelConvention("nnU-Net", 2, 1, 3, "nnU-Net's dataset conversion Dataset137_BraTS21.py"),
}
"""Label numbers of every data set that this package knows."""

BRATS2021, BRATS2023, MSD = CONVENTIONS["brats2021"], CONVENTIONS["brats2023"], CONVENTIONS["msd"]

CASE_NAMES: tuple[tuple[str, str], ...] = (
    (r"BraTS-PED", "brats-peds"),
    (r"BraTS-MET", "brats-met"),
    (r"BraTS-MEN", "brats-men"),
    (r"BraTS-(SSA|Africa)", "brats-africa"),
    (r"BraTS-GLI-\d+-[1-9]\d\d", "brats2024"),  # post-treatment sessions count from 100, those of 2023 from 000
    (r"BraTS-GLI", "brats2023"),
    (r"BraTS(20)?(18|19|20|21)_", "brats2021"),
    (r"UCSF-PDGM", "ucsf-pdgm"),
    (r"UPENN-GBM", "upenn-gbm"),
)
"""Beginning of a case's name, as a regular expression, and the convention that its data set uses."""


def convention_by_name(identifier: str, default: str) -> str:
    """Find the key of `CONVENTIONS` that a case's name stands for: ``BraTS-PED-00001-000`` is "brats-peds"."""
    return next((key for pattern, key in CASE_NAMES if re.match(pattern, identifier, re.IGNORECASE)), default)


def renumber(values: np.ndarray, convention: LabelConvention, to: LabelConvention) -> np.ndarray:
    """Convert a label map from one convention's numbers to another's, uint8; `ValueError` if a number would be lost."""
    others = {name: number for number, _, name in to.others}
    table = dict(zip(convention.values, to.values, strict=True))
    table |= {number: others[name] for number, _, name in convention.others if name in others}
    for number, _, name in convention.others:
        if number not in table and (values == number).any():
            raise ValueError(f"{number} is {name}, for which {to.name} has no number")
    return _map_values(values, table, convention)


def to_classes(values: np.ndarray, convention: LabelConvention) -> np.ndarray:
    """Convert a label map of integers from the numbers of `convention` to classes 0 to 3, uint8 of the same shape.

    Raises `ValueError` if a value is none of the convention's; the sentence names it and, where known, what it usually means.
    """
    return _map_values(values, convention.numbers, convention)


def from_classes(classes: np.ndarray, convention: LabelConvention) -> np.ndarray:
    """Convert classes to the numbers that `convention` writes into files; the inverse of `to_classes`."""
    return _map_values(classes, dict(zip(CLASSES, convention.values, strict=True)), None)


def classes_to_regions(classes: Array) -> Array:
    """Turn classes (X, Y, Z), an array or a tensor, into a boolean region map (3, X, Y, Z) of its kind: TC, WT, ET."""
    core = (classes == NCR) | (classes == ET)
    regions = [core, core | (classes == ED), classes == ET]
    if isinstance(classes, np.ndarray):
        return np.stack(regions)
    import torch

    return torch.stack(regions)


def regions_to_classes(regions: Array) -> Array:
    """Turn a region map (3, X, Y, Z), an array or a tensor, into classes (X, Y, Z) of its kind, uint8.

    Regions of a prediction need not be nested. A voxel takes the innermost region that claims it: ET, else TC without
    ET is NCR, else WT alone is ED. On nested regions this is the exact inverse of `classes_to_regions`.
    """
    core, whole, enhancing = (channel > 0 for channel in regions)
    classes = (whole.astype(np.uint8) if isinstance(whole, np.ndarray) else whole.byte()) * ED
    classes[core] = NCR
    classes[enhancing] = ET
    return classes


def _map_values(values: np.ndarray, table: dict[int, int], convention: LabelConvention | None) -> np.ndarray:
    if values.dtype.kind not in "iub":
        raise ValueError(f"a label map must hold integers, this one is {values.dtype}; round it before converting")
    known = np.zeros_like(values, dtype=bool)
    result = np.zeros_like(values, dtype=np.uint8)
    for source, target in table.items():
        here = values == source
        known |= here
        result |= here.view(np.uint8) * np.uint8(target)
    if not known.all():
        raise ValueError(_unknown_sentence(np.unique(values[~known]).tolist(), convention))
    return result


def _unknown_sentence(unknown: list[int], convention: LabelConvention | None) -> str:
    found = f"{unknown[:MOST_NAMED]}" + (f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else "")
    if convention is None:
        return f"a label map of classes holds 0, 1, 2, 3 only, this one also holds {found}"
    elsewhere: dict[str, list[str]] = {}
    for number in unknown[:MOST_NAMED]:
        for key, other in CONVENTIONS.items():
            if number in other.meanings:
                elsewhere.setdefault(f"{number} is {other.meanings[number]} in", []).append(key)
    hints = ", ".join(f"{meaning} {'/'.join(keys)}" for meaning, keys in elsewhere.items())
    return f"labels {found} do not exist in {convention.name}, which has {sorted(convention.numbers)}" + (
        f" ({hints})" if hints else ""
    )
