"""What is wrong with the files of a CT cohort, and what they hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
import pandas as pd

from helpers.data.cases import read_label_values, read_volume
from helpers.data.checks import (
    ERROR,
    WARNING,
    Fault,
    content_faults,
    from_error,
    grid_faults,
)
from helpers.data.resample import spacing_of
from helpers.extras.ct.cohort import CtCase, CtCohort
from helpers.workspace import DataError

LEAST_AIR, LEAST_BONE = -300.0, 150.0
"""A CT of the trunk holds voxels below the one (air, lungs) and above the other (bone), in Hounsfield units."""


@dataclass(frozen=True)
class CtCheck:
    """Facts and faults of one scan; volumes in ml by organ."""

    case: CtCase
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    hounsfield: tuple[float, float] = (0.0, 0.0)
    volumes_ml: dict[str, float] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether no fault is an error."""
        return all(fault.severity != ERROR for fault in self.faults)


def check_ct_cohort(cohort: CtCohort, *, workers: int = 2) -> tuple[CtCheck, ...]:
    """Open every file of every scan; a bad one never stops the others."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return tuple(pool.map(lambda case: check_ct_case(case, cohort.organs), cohort.cases))


def check_ct_case(case: CtCase, organs: Sequence[str]) -> CtCheck:
    """Open the files of one scan; what is wrong becomes a fault with a remedy.

    Errors: a file that cannot be read, another grid for the labels, values that are no Hounsfield units, labels without a name.
    Warnings: no reference, an organ that is not there.
    """
    try:
        image, affine = read_volume(case.image)
    except DataError as error:
        return CtCheck(case, faults=(from_error(case, case.image, error),))
    faults = list(grid_faults(case, case.image, image.shape, affine, (case.image.name, image.shape, affine)))
    faults += content_faults(case, case.image, "CT", image) or ()
    if not faults:
        faults += _hounsfield_faults(case, image)
    volumes, label_faults = _labels(case, organs, image.shape, affine)
    finite = np.isfinite(affine).all()
    return CtCheck(
        case,
        shape=tuple(image.shape),
        spacing=tuple(float(edge) for edge in spacing_of(affine)),
        orientation="".join(axis or "?" for axis in nib.aff2axcodes(affine)) if finite else "",
        hounsfield=(float(np.nanmin(image)), float(np.nanmax(image))),
        volumes_ml=volumes,
        faults=(*faults, *label_faults),
    )


def check_table(checks: Sequence[CtCheck]) -> pd.DataFrame:
    """One row a scan: status, grid, range of Hounsfield units, organs found, and the first fault."""
    rows = [
        {
            "status": "usable" if check.usable else "left out",
            "fold": check.case.fold,
            "shape": " x ".join(map(str, check.shape)),
            "mm": " x ".join(f"{edge:.3g}" for edge in check.spacing),
            "axes": check.orientation,
            "HU": "{:.0f} to {:.0f}".format(*check.hounsfield),
            "organs": sum(volume > 0 for volume in check.volumes_ml.values()),
            "first fault": f"{check.faults[0].severity}: {check.faults[0].problem}" if check.faults else "",
        }
        for check in checks
    ]
    return pd.DataFrame(rows, index=pd.Index([check.case.identifier for check in checks], name="case"))


def _hounsfield_faults(case: CtCase, image: np.ndarray) -> Iterator[Fault]:
    low, high = float(image.min()), float(image.max())
    if low > LEAST_AIR or high < LEAST_BONE:
        problem = f"{case.image.name} holds values from {low:.4g} to {high:.4g}, which are not Hounsfield units of a trunk"
        yield Fault(case.identifier, case.image.name, problem, "export it with the rescale slope and intercept applied")


def _labels(
    case: CtCase, organs: Sequence[str], shape: tuple[int, ...], affine: np.ndarray
) -> tuple[dict[str, float], list[Fault]]:
    """Volume of every organ in ml, and what is wrong with the label map."""
    if case.label is None:
        return {}, [Fault(case.identifier, "", "there is no reference", "predict it, but do not train on it", WARNING)]
    name = case.label.name
    try:
        values, own = read_label_values(case.label)
    except DataError as error:
        return {}, [from_error(case, case.label, error)]
    faults = list(grid_faults(case, case.label, values.shape, own, (case.image.name, shape, affine)))
    numbers, counts = np.unique(values, return_counts=True)
    found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    unknown = [number for number in found if not 0 <= number <= len(organs)]
    if unknown:
        problem = f"{name} holds the labels {unknown}, only 0 to {len(organs)} have a name"
        faults.append(Fault(case.identifier, name, problem, "name them in the dataset JSON or take the right files"))
    ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    volumes = {organ: found.get(number, 0) * ml for number, organ in enumerate(organs, start=1)}
    absent = [organ for organ, volume in volumes.items() if not volume]
    if absent:
        problem = f"{name} has no {', no '.join(absent)}"
        faults.append(Fault(case.identifier, name, problem, "make sure that is meant", WARNING))
    return volumes, faults
