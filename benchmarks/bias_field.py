"""The bias field of each modality, and what SimpleITK's N4 makes of the same image: ``python -m benchmarks.bias_field``.

Both begin with the prepared grid of 2 mm. SimpleITK gets every third voxel, which are the 6 mm that `helpers.data.preprocess`
averages over, and the same pieces and iterations.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import SimpleITK as sitk

from brats_cohort.case import Case
from brats_cohort.cases import discover
from brats_cohort.regions import MODALITIES
from glioma_phantom import PhantomSettings, write_cohort
from helpers.data import preprocess
from helpers.data.preprocess import CONVERGED, ITERATIONS, PIECES, PreprocessSettings, correct_bias, preprocess_case

SPACING = (2.0, 2.0, 2.0)
STRIDE = 3


def volumes_of(case: Case) -> list[np.ndarray]:
    """The modalities of a case on the prepared grid, not yet normalised."""
    volumes = []
    with patch.object(preprocess, "normalise", lambda values, settings: volumes.append(values.copy())):
        preprocess_case(case, PreprocessSettings(SPACING))
    return volumes


def simple_itk(volume: np.ndarray) -> np.ndarray:
    """The image as SimpleITK corrects it."""
    image, mask = (sitk.GetImageFromArray(array) for array in (volume, (volume > 0).astype(np.uint8)))
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([ITERATIONS] * len(PIECES))
    n4.SetConvergenceThreshold(CONVERGED)
    n4.Execute(*(sitk.Shrink(each, [STRIDE] * 3) for each in (image, mask)))
    return volume / np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, help="folder of cases; without it a phantom of 240x240x155 is made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.cases:
            write_cohort(Path(folder), 1, PhantomSettings(), progress=False)
        print(f"{'case':>16} {'':>6} {'field':>7} {'seconds':>8} {'SimpleITK':>10} {'correlation':>12}")
        for case in (case for case in discover(arguments.cases or Path(folder)) if not case.missing):
            for modality, volume in zip(MODALITIES, volumes_of(case), strict=True):
                brain, corrected = volume > 0, volume.copy()
                start = time.perf_counter()
                field = correct_bias(corrected, SPACING)
                middle = time.perf_counter()
                reference = simple_itk(volume)
                end = time.perf_counter()
                spread, alike = field[brain].std() / field[brain].mean(), np.corrcoef(corrected[brain], reference[brain])[0, 1]
                print(
                    f"{case.identifier:>16} {modality:>6} {100 * spread:>6.1f}% {middle - start:>8.3f}"
                    f" {end - middle:>10.3f} {alike:>12.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
