"""Tumours and examinations that wide ranges alone seldom draw, each with a probability of its own.

A variant narrows the ranges of a randomised phantom, or moves its contrasts. Whether a phantom is one is drawn from random
numbers apart, so that with every probability at 0 the other draws are as they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from glioma_phantom.contrast import MODALITIES, T1_WEIGHTED, Look
from glioma_phantom.draws import Draws, Range

TUMOURS = ("low_grade", "small_core", "diffuse", "cystic", "haemorrhagic")
"""At most one of these is drawn for a phantom."""
EXAMINATIONS = ("faint_enhancement", "thick_slices", "badly_stripped", "misregistered", "missing")
"""These combine with each other and with every tumour."""
MISSING = (0.3, 0.2, 0.25, 0.25)
"""How often each modality is the one that is missing."""
GAIN: Range = (0.12, 0.35)
"""By how much T1 brightens with contrast agent where enhancement is faint, relative to white matter."""


@dataclass(frozen=True)
class VariantRanges:
    """Probabilities of the variants; 0 switches one off. Those of tumours may add up to 1, because at most one is drawn.

    With these numbers about a third of all phantoms have no enhancement at all and a tenth has a faint one. Patients have
    less: in UCSF-PDGM 20 % of adults with a diffuse glioma have one of grade 2 or 3 (Calabrese et al., Radiology: Artificial
    Intelligence 4, 2022), of which a part enhances. What a network gets wrong is drawn more often than it occurs.

    Attributes
    ----------
    low_grade : float
        Homogeneous tumours, bright on T2, with little oedema and, but for one in fifty, without enhancement.
    mismatch : float
        Probability that such a tumour is dark on FLAIR but for its edge (T2-FLAIR mismatch).
    small_core : float
        Enhancing cores of 3 to 8 mm radius in large oedema.
    diffuse : float
        Tumours over several lobes with faint borders, most without enhancement.
    cystic : float
        A large cyst, in one case of five with smaller ones, with a thin, interrupted rim.
    haemorrhagic : float
        Large clots that are bright on T1 before contrast agent.
    faint_enhancement : float
        Contrast enhancement that is little brighter than white matter.
    thick_slices : float
        All modalities, or in one case of five most, scanned in axial slices of about 5 mm and resampled.
    badly_stripped : float
        A rim of skull, scalp and dura left by brain extraction.
    misregistered : float
        Most modalities shifted, each by up to 2.5 mm along each axis in its own direction.
    missing : float
        One modality without any signal: 0 everywhere.
    """

    low_grade: float = 0.10
    mismatch: float = 0.4
    small_core: float = 0.09
    diffuse: float = 0.08
    cystic: float = 0.05
    haemorrhagic: float = 0.05
    faint_enhancement: float = 0.10
    thick_slices: float = 0.15
    badly_stripped: float = 0.08
    misregistered: float = 0.08
    missing: float = 0.06

    def __post_init__(self) -> None:
        """Refuse numbers that are no probabilities, and tumours that would be drawn less often than their probabilities say."""
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; a probability lies between 0 and 1")
        total = math.fsum(getattr(self, name) for name in TUMOURS)
        if total > 1 + 1e-9:
            names = ", ".join(TUMOURS)
            raise ValueError(f"{names} add up to {total:.4g}, and at most one is drawn; lower them to a sum of 1 or less")


SOME_VARIANTS = VariantRanges()
NO_VARIANTS = VariantRanges(**dict.fromkeys((*TUMOURS, "mismatch", *EXAMINATIONS), 0.0))
RANGES: dict[str, dict[str, dict]] = {
    "low_grade": {
        "tumour": {
            "kinds": (0.0, 0.0, 1.0),
            "multifocal": 0.03,
            "reach": ((1.0, 4.0),) * 3,
            "radius": ((10.0, 34.0),) * 3,
            "specks": 0.0,
            "rough": (0.3, 1.3),
            "fade": (0.0, 0.2),
            "resected": 0.0,
        },
        "core": {"alike": 0.0, "faint": 0.0, "bloody": 0.0, "uneven": 0.2},
    },
    "small_core": {
        "tumour": {
            "kinds": (0.5, 0.5, 0.0),
            "multifocal": 0.15,
            "radius": ((3.5, 8.5),) * 3,
            "reach": ((14.0, 34.0),) * 3,
            "resected": 0.0,
        },
    },
    "diffuse": {
        "tumour": {
            "kinds": (0.1, 0.05, 0.85),
            "multifocal": 0.6,
            "radius": ((6.0, 20.0),) * 3,
            "reach": ((20.0, 44.0),) * 3,
            "specks": 0.3,
            "crossing": 0.05,
            "fade": (0.3, 0.9),
            "sharp": (0.0, 0.3),
            "resected": 0.0,
        },
        "core": {"alike": 0.7, "faint": 0.7},
    },
    "cystic": {
        "tumour": {
            "kinds": (0.8, 0.0, 0.2),
            "radius": ((11.0, 30.0),) * 3,
            "rough": (0.2, 1.0),
            "rim": (0.78, 0.94),
            "gaps": (-1.2, 0.6),
            "enclosed": 0.3,
            "resected": 0.0,
        },
        "core": {"mixed": 0.1, "alike": 0.0, "faint": 0.0},
    },
    "haemorrhagic": {"core": {"bloody": 1.0, "patches": (8.0, 22.0), "clots": (-0.4, 1.0), "blood": (1.1, 2.0)}},
    "thick_slices": {"scanner": {"thick": 0.95, "thickness": (4.5, 6.5), "axial": 1.0}},
    "badly_stripped": {"mimics": {"rim": (2.0, 6.5), "rim_variation": (1.0, 3.0), "remains": (-1.5, 0.8)}},
    "misregistered": {"scanner": {"misplaced": 0.7, "shift": 2.5}},
}
"""The ranges that a variant narrows, by field of `Randomisation`."""


def draw_variants(draws: Draws, ranges: VariantRanges) -> tuple[str, ...]:
    """Draw the names of a phantom's variants."""
    weights = [getattr(ranges, name) for name in TUMOURS]
    tumour = draws.choice([*weights, max(0.0, 1 - sum(weights))])
    names = list(TUMOURS[tumour : tumour + 1])
    if names == ["low_grade"] and draws.chance(ranges.mismatch):
        names.append("mismatch")
    return (*names, *(name for name in EXAMINATIONS if draws.chance(getattr(ranges, name))))


def narrow_ranges(names: tuple[str, ...], ranges):
    """Return a `Randomisation` with the ranges of these variants; what is switched off in it, by 0, stays off."""
    for name in names:
        for field, changes in RANGES.get(name, {}).items():
            old = getattr(ranges, field)
            kept = {key: value for key, value in changes.items() if getattr(old, key) not in (0, (0, 0))}
            ranges = replace(ranges, **{field: replace(old, **kept)})
    return ranges


def move_looks(draws: Draws, names: tuple[str, ...], looks: dict[str, Look]) -> dict[str, Look]:
    """Return the contrasts of an examination as these variants show them."""
    if "low_grade" in names:
        looks = _low_grade(draws, looks, mismatch="mismatch" in names)
    if "cystic" in names:
        looks = _cystic(draws, looks)
    if "faint_enhancement" in names:
        after = looks["t1"].enhancing + draws.within(GAIN)
        looks = looks | {"t1ce": replace(looks["t1ce"], enhancing=min(after, looks["t1ce"].enhancing))}
    return looks


def drop_modality(draws: Draws, names: tuple[str, ...], image: torch.Tensor) -> torch.Tensor:
    """Set one modality of an image (4, X, Y, Z) to 0 if it is missing."""
    if "missing" in names:
        image[draws.choice(MISSING)] = 0
    return image


def _low_grade(draws: Draws, looks: dict[str, Look], *, mismatch: bool) -> dict[str, Look]:
    """Much water, evenly spread: T2 nearly as bright as fluid, T1 dark, and on FLAIR bright or suppressed."""
    wet, dark, edge = draws.uniform(0.45, 0.95), draws.uniform(0.1, 0.7), draws.uniform(0.5, 1.0)
    bright = draws.uniform(1.3, 2.0)
    core = {"flair": draws.uniform(0.7, 1.15) if mismatch else bright}
    for name in T1_WEIGHTED:
        core[name] = looks[name].grey - dark * max(0.0, looks[name].grey - looks[name].fluid)
    core["t2"] = looks["t2"].grey + wet * (looks["t2"].fluid - looks["t2"].grey)
    rim = {name: 1 + edge * (core[name] - 1) for name in MODALITIES} | ({"flair": bright} if mismatch else {})
    return {name: replace(look, necrosis=core[name], oedema=rim[name]) for name, look in looks.items()}


def _cystic(draws: Draws, looks: dict[str, Look]) -> dict[str, Look]:
    """Fluid with protein in it: between necrosis and the fluid of the ventricles, and anything on FLAIR."""
    share = draws.uniform(0.4, 1.0)
    cyst = {name: look.necrosis + share * (look.fluid - look.necrosis) for name, look in looks.items()}
    cyst["flair"] = draws.uniform(0.4, 1.5)
    return {name: replace(look, necrosis=cyst[name]) for name, look in looks.items()}
