"""A real raw session, from its four series to label map and page: ``python -m benchmarks.raw_session FOLDER``.

FOLDER holds ``*_t1.nii.gz``, ``*_t1c.nii.gz``, ``*_t2.nii.gz`` and ``*_fla.nii.gz`` with the skull on, HD-BET's masks in
``brain_masks_hdbet/`` and, in ``atlas/``, the T1c in another space with a label map there (BraTS-Toolkit's example
TCGA-FG-6692). The brain mask is compared with HD-BET's on the grid of the T1c, the regions with that label map, a consensus of
five networks and no expert, in its space: a rigid registration of the two T1c, made here, carries them over.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from brats_cohort.cases import case_of_files
from helpers.evaluation.metrics import dice
from helpers.evaluation.predict import predict_case, write_prediction
from helpers.models.checkpoints import load_released
from scan_session import Session, prepare_session, register, write_native
from scan_session.grid import array_of, read_nifti
from scan_session.native import REGIONS


def brain_dice(session: Session, folder: Path) -> float:
    """Dice of the brain mask and HD-BET's, on the grid of the reference series."""
    theirs = read_nifti(next((folder / "brain_masks_hdbet").glob("*_t1c_mask.nii.gz")))
    ours = sitk.Resample(read_nifti(session.mask), theirs, sitk.Transform(), sitk.sitkLinear, 0.0)
    return dice(array_of(ours) > 0.5, array_of(theirs) > 0.5)


def region_dices(session: Session, label_map: Path, folder: Path) -> dict[str, float]:
    """Dice of every region in the space of the consensus."""
    atlas = read_nifti(next((folder / "atlas").glob("*_t1c.nii.gz")))
    consensus = array_of(read_nifti(next((folder / "atlas").glob("*_fusion*.nii.gz"))))
    found = register(atlas, read_nifti(session.images["t1ce"]), atlas > 0)
    labels = sitk.Cast(read_nifti(label_map), sitk.sitkUInt8)
    moved = array_of(sitk.Resample(labels, atlas, found.transform, sitk.sitkLabelLinear, 0))
    return {name: dice(np.isin(moved, numbers), np.isin(consensus, numbers)) for name, numbers in REGIONS.items()}


def main() -> None:
    """Measure and print; status 1 below a Dice of .97 for the brain or .80 for a region."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        session = prepare_session(folder, Path(name) / "case")
        prepared = time.perf_counter() - began
        network, card = load_released()
        label_map = write_prediction(
            Path(name) / "label_map.nii.gz", predict_case(network, card, case_of_files(session.images))
        )
        write_native(Path(name) / "native.nii.gz", label_map, session, "t1ce")
        seconds = time.perf_counter() - began
        gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        brain, regions = brain_dice(session, folder), region_dices(session, label_map, folder)
    print(f"{seconds:.0f} s, of which {prepared:.0f} s to prepare; at most {gigabytes:.1f} GB")
    print(f"brain mask against HD-BET: Dice {brain:.3f}")
    print("regions against the consensus:", ", ".join(f"{region} {value:.3f}" for region, value in regions.items()))
    sys.exit(brain < 0.97 or min(regions.values()) < 0.8)


if __name__ == "__main__":
    main()
