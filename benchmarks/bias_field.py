"""The bias field of each modality, and what SimpleITK's N4 makes of the same image: ``python -m benchmarks.bias_field``.

Both begin with the prepared grid of 2 mm. SimpleITK, where it is installed (``pip install SimpleITK``), gets every third voxel,
which are the 6 mm that `helpers.data.preprocess` averages over, and the same pieces and iterations.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import numpy as np

from brats_cohort.case import Case
from brats_cohort.cases import discover
from brats_cohort.regions import MODALITIES
from glioma_phantom import PhantomSettings, write_cohort
from helpers.data import preprocess
from helpers.data.preprocess import (
    CONVERGED,
    ITERATIONS,
    PIECES,
    PreprocessSettings,
    correct_bias,
    preprocess_case,
)

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
    itk = import_module("SimpleITK")
    image, mask = (itk.GetImageFromArray(array) for array in (volume, (volume > 0).astype(np.uint8)))
    n4 = itk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([ITERATIONS] * len(PIECES))
    n4.SetConvergenceThreshold(CONVERGED)
    n4.Execute(*(itk.Shrink(each, [STRIDE] * 3) for each in (image, mask)))
    return volume / np.exp(itk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, help="folder of cases; without it a phantom of 240x240x155 is made")
    arguments = parser.parse_args()
    other = find_spec("SimpleITK") is not None
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.cases:
            write_cohort(Path(folder), 1, PhantomSettings(), progress=False)
        print(
            f"{'case':>16} {'':>6} {'field':>7} {'seconds':>8}" + (f" {'SimpleITK':>10} {'correlation':>12}" if other else "")
        )
        for case in (case for case in discover(arguments.cases or Path(folder)) if not case.missing):
            for modality, volume in zip(MODALITIES, volumes_of(case), strict=True):
                brain, corrected = volume > 0, volume.copy()
                start = time.perf_counter()
                field = correct_bias(corrected, SPACING)
                middle = time.perf_counter()
                spread = 100 * field[brain].std() / field[brain].mean()
                line = f"{case.identifier:>16} {modality:>6} {spread:>6.1f}% {middle - start:>8.3f}"
                if other:
                    reference = simple_itk(volume)
                    end = time.perf_counter()
                    line += f" {end - middle:>10.3f} {np.corrcoef(corrected[brain], reference[brain])[0, 1]:>12.4f}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
