"""What each part of the randomised phantom brings on patients: ``python -m benchmarks.phantom_ablation --cases FOLDER``.

One small U-Net is trained for the same number of updates at each step of the ablation, with everything else equal, and scored
on the real cases of a folder, none of which it ever saw. Each step adds to the one before it.

`phantom_ablation.csv` beside this file holds what was measured while the released model was made, on a busy machine and with
unequal numbers of updates, mean Dice of the five BraTS 2021 development cases (ET of the four that have it): not this ablation.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from glioma_phantom import Randomisation
from glioma_phantom.anatomy import AnatomyRanges
from glioma_phantom.artefacts import MimicRanges, ScannerRanges
from glioma_phantom.contrast import CoreRanges
from glioma_phantom.generator import ContrastRanges
from glioma_phantom.tumour import TumourRanges
from helpers.data.cases import discover
from helpers.data.patches import training_transforms
from helpers.data.phantoms import PhantomStream, StreamSettings, held_out_phantoms
from helpers.evaluation.cohort import score_cohort
from helpers.models.checkpoints import load_checkpoint
from helpers.regions import REGIONS
from helpers.training.settings import TrainSettings
from helpers.training.train import train

PLAIN_CONTRAST = ContrastRanges(
    free=0.0,
    looseness=(1.0, 1.0),
    enhancement=(1.0, 1.0),
    swelling=(1.0, 1.0),
    through=(0.15, 0.15),
    texture=(0.012, 0.012),
    grain=(1.0, 1.0),
    patchiness=(0.0, 0.0),
)
PLAIN_CORE = CoreRanges(
    mixed=0.0, bloody=0.0, uneven=0.0, mottled=0.0, pale_edge=(0.0, 0.0), dark_oedema=0.0, alike=0.0, faint=0.0
)
PLAIN_MIMICS = MimicRanges(rim=(0.0, 0.0), rim_variation=(0.0, 0.0), remains=(9.0, 9.0), lesions=0.0, caps=(0.0, 0.3))
PLAIN_SCANNER = ScannerRanges(
    thick=0.0, blur=(0.0, 0.0), misplaced=0.0, ghost=0.0, bias=(0.03, 0.12), gamma=0.0, slope=0.0, noise=(0.03, 0.05)
)


def ablation() -> dict[str, Randomisation]:
    """Ranges of every step, from the ranges of the calibrated cohort to those of the released model."""
    full = Randomisation()
    steps = {
        "calibrated": Randomisation(AnatomyRanges(), TumourRanges(), PLAIN_CONTRAST, PLAIN_CORE, PLAIN_MIMICS, PLAIN_SCANNER)
    }
    for name, field in (
        ("+ other brains and tumours", "anatomy"),
        ("+ any contrast", "contrast"),
        ("+ cores of several tissues, oedema like core", "core"),
        ("+ mimics and skull-strip errors", "mimics"),
        ("+ any scanner", "scanner"),
    ):
        changed = {field: getattr(full, field)} | ({"tumour": full.tumour} if field == "anatomy" else {})
        steps[name] = replace(list(steps.values())[-1], **changed)
    return steps


def train_and_score(
    ranges: Randomisation, settings: TrainSettings, arguments: argparse.Namespace, folder: Path
) -> pd.DataFrame:
    """Train on one step's phantoms and score every case: the scores of `score_cohort`."""
    stream = PhantomStream(
        StreamSettings(
            seed=settings.seed, patches_per_case=8, foreground_probability=settings.foreground_probability, ranges=ranges
        ),
        patch=settings.patch,
        count=settings.batch * settings.steps,
        batch=settings.batch,
        transforms=training_transforms(settings.patch),
    )
    result = train(settings, stream, validation=held_out_phantoms(folder / "held_out", 4, ranges=ranges), out=folder)
    network, card = load_checkpoint(result.checkpoint)
    cases = [case for case in discover(arguments.cases, "brats2021") if not case.missing]
    return score_cohort(network, card, cases, folder=folder / "predictions").scores


def main() -> None:
    """Train, score and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, required=True, help="folder of real cases with references")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", type=Path, help="also write the table as CSV")
    arguments = parser.parse_args()
    settings = TrainSettings(steps=arguments.steps, validate_every=arguments.steps)
    rows = []
    for name, ranges in ablation().items():
        with tempfile.TemporaryDirectory() as folder:
            scores = train_and_score(ranges, settings, arguments, Path(folder))
        # By the BraTS rule a case without enhancing tumour scores 1 or 0, which would hide how well it is outlined.
        scores.loc[(scores["region"] == "ET") & (scores["reference_ml"] == 0), "dice"] = np.nan
        means = scores.groupby("region")["dice"].mean()
        rows.append({"step": name, "updates": arguments.steps, **{region: round(means[region], 3) for region in REGIONS}})
        print(pd.DataFrame(rows).to_string(index=False), flush=True)
        if arguments.out:
            pd.DataFrame(rows).to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
