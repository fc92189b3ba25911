"""Twenty raw phantom sessions, from DICOM to a label map, against the truth: ``python -m benchmarks.own_scan``.

The head turns by up to 20 degrees and moves by up to 40 mm between two series, and slices are 1 to 6 mm apart. In the last but
one session the T2 is of a head of another size, in the last one the FLAIR shows three fifths of the head: both have to fail.
Registration error is the mean distance, over the brain, from where a point is to where it was found. The Dice of the whole
tumour is compared with that of the same phantom as it was drawn, and as it is if one perfect interpolation takes the drawing to
the grid of the case: no skull, movement, thick slices or noise. Each session's row is written to --out when it is known.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from torch import nn

from brats_cohort.cases import case_of_files
from brats_cohort.files import write_atomically
from glioma_phantom import PhantomSettings
from glioma_phantom.contrast import MODALITIES
from glioma_phantom.files import write_nifti
from glioma_phantom.raw_session import RawSession, SeriesPlan, draw_plans, write_raw_session
from helpers.evaluation.predict import Prediction, predict_case
from helpers.models.checkpoints import ModelCard, load_released
from scan_session import Session, SessionError, prepare_session
from scan_session.grid import image_of, read_nifti, transform_of
from scan_session.grid import write_nifti as write_image

SEED = 1717
WRONG_MM = 1.5
"""A registration that is further off, and was not refused, is wrong without a word."""
FIELDS = ("session", "count", "spacing", "weights", "limits", "thickest_mm", "t1_mm", "t1ce_mm", "t2_mm", "flair_mm", "wt_raw",
          "wt_resampled", "wt_drawn", "seconds", "failed")  # fmt: skip


def plans_of(index: int, count: int) -> dict[str, SeriesPlan]:
    """How a session was taken; the last two have a fault."""
    plans = draw_plans(SEED, index)
    if index == count - 2:
        plans["t2"] = replace(plans["t2"], size=0.75)
    if index == count - 1:
        plans["flair"] = replace(plans["flair"], plane="axial", covers=(0.0, 0.6))
    return plans


def registration_error(raw: RawSession, session: Session, modality: str) -> float:
    """Mean distance in mm, over the brain, between where a series has a point and where the registration says it is."""
    inside = np.argwhere(raw.phantom.image[0] > 0)[::50]
    drawn = raw.phantom.affine @ np.c_[inside, np.ones(len(inside))].T
    reference = raw.matrix(session.reference) @ drawn
    apart = session.matrices[modality] @ reference - raw.matrix(modality) @ drawn
    return float(np.linalg.norm(apart[:3], axis=0).mean())


def dice(raw: RawSession, prediction: Prediction, to_case: np.ndarray) -> float:
    """Dice of the whole tumour on the phantom's grid; `to_case` leads from its millimetres to those of the prediction."""
    truth = raw.phantom.classes > 0
    voxels = np.c_[np.argwhere(np.ones_like(truth)), np.ones(truth.size)].T
    where = np.rint(np.linalg.inv(prediction.affine) @ to_case @ raw.phantom.affine @ voxels)[:3].astype(int)
    shape = np.array(prediction.classes.shape)[:, None]
    known = ((where >= 0) & (where < shape)).all(axis=0)
    found = np.zeros(truth.size, bool)
    found[known] = prediction.classes[tuple(where[:, known])] > 0
    return float(2 * (found & truth.ravel()).sum() / max(1, found.sum() + truth.sum()))


def resampled(raw: RawSession, session: Session, folder: Path) -> dict[str, Path]:
    """Write the drawn images where the head lay in the reference series, on the grid of the case."""
    grid, back = read_nifti(session.mask), transform_of(np.linalg.inv(raw.matrix(session.reference)))

    def placed(drawn: np.ndarray) -> sitk.Image:
        return sitk.Resample(image_of(drawn.astype(np.float32), raw.phantom.affine), grid, back, sitk.sitkLinear, 0.0)

    brain = placed(raw.phantom.image[0] > 0) > 0.5
    images = {name: sitk.Mask(placed(raw.phantom.image[channel]), brain) for channel, name in enumerate(MODALITIES)}
    return {name: write_image(folder / f"resampled_{name}.nii.gz", image) for name, image in images.items()}


def measure(index: int, count: int, folder: Path, network: nn.Module, card: ModelCard, spacing: float) -> dict[str, object]:
    """One session's row of the table."""
    plans = plans_of(index, count)
    raw = write_raw_session(folder / "raw", index, settings=PhantomSettings(spacing, SEED), plans=plans)
    row: dict[str, object] = {"session": index, "thickest_mm": max(plan.distance for plan in plans.values())}
    files = {name: write_nifti(folder / f"drawn_{name}.nii.gz", raw.phantom.image[channel], raw.phantom.affine)
             for channel, name in enumerate(MODALITIES)}  # fmt: skip
    row["wt_drawn"] = round(dice(raw, predict_case(network, card, case_of_files(files)), np.eye(4)), 3)
    began = time.perf_counter()
    try:
        session = prepare_session(raw.folder, folder / "case", say=lambda sentence: None)
    except SessionError as error:
        return row | {"failed": error.problem, "seconds": round(time.perf_counter() - began, 1)}
    prediction = predict_case(network, card, case_of_files(session.images))
    row["seconds"] = round(time.perf_counter() - began, 1)
    row["wt_raw"] = round(dice(raw, prediction, raw.matrix(session.reference)), 3)
    perfect = predict_case(network, card, case_of_files(resampled(raw, session, folder)))
    row["wt_resampled"] = round(dice(raw, perfect, raw.matrix(session.reference)), 3)
    return row | {f"{name}_mm": round(registration_error(raw, session, name), 2) for name in session.matrices}


def summary(rows: Sequence[Mapping[str, object]]) -> str:
    """How many sessions were prepared, how far off their series are, and what Dice the whole tumour lost."""
    good = [row for row in rows if not row.get("failed")]
    lines = [f"{len(good)} of {len(rows)} prepared"]
    if good:
        errors = [float(row[f"{name}_mm"]) for row in good for name in MODALITIES if float(row[f"{name}_mm"])]
        lines.append(f"registration {np.mean(errors):.2f} mm on average, {max(errors):.2f} at most, "
                     f"{sum(error > WRONG_MM for error in errors)} series further off than {WRONG_MM} mm")  # fmt: skip
        for against in ("wt_drawn", "wt_resampled"):
            lost = [float(row[against]) - float(row["wt_raw"]) for row in good]
            lines.append(f"whole tumour against {against}: {np.mean(lost):.3f} Dice lost on average, {max(lost):.3f} at most")
    return "\n".join(lines)


def main() -> None:
    """Measure every session that --out does not have yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="how many sessions; the last two are faulty")
    parser.add_argument("--spacing", type=float, default=2.0, choices=(1.0, 2.0), help="of the phantoms in mm")
    parser.add_argument("--out", type=Path, default=Path("outputs/own_scan.csv"))
    arguments = parser.parse_args()
    network, card = load_released()
    rows = list(csv.DictReader(arguments.out.open())) if arguments.out.is_file() else []
    limits = hashlib.sha256(repr(sorted(card.postprocessing.items())).encode()).hexdigest()
    run = {"count": str(arguments.count), "spacing": str(arguments.spacing)}
    run |= {"weights": card.weights_sha256[:12], "limits": limits[:12]}
    if any({name: row.get(name) for name in run} != run for row in rows):
        raise SystemExit(f"{arguments.out} is of another run; give another --out")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for index in range(len(rows), arguments.count):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(run | measure(index, arguments.count, Path(folder), network, card, arguments.spacing))
        with write_atomically(arguments.out) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
        print({name: rows[-1][name] for name in FIELDS if name in rows[-1]}, flush=True)
    print(summary(rows))


if __name__ == "__main__":
    main()
