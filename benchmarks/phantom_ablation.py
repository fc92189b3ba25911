"""What each variant of the randomised phantom brings: ``python -m benchmarks.phantom_ablation --out DIR --phantoms FOLDER``.

The released U-Net's recipe, with fewer steps, trains one network on phantoms without variants. From its weights the training
goes on several times: without variants as before, with one of them at a time in a quarter of all phantoms, and with all as they
are released. Each network is scored on the same phantoms, which no training has seen: those of the variant's own kind, the
usual ones, and every kind. Trainings in DIR are resumed, and the table is written to DIR as well.

docs/benchmarks.md has such a table. `phantom_ablation.csv` is something else: what was measured on the five development
patients while the first released model was made, on a busy machine and with unequal numbers of updates.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

from benchmarks.released_model import KINDS, phantom_scores, validation_phantoms
from benchmarks.train_released import RECIPES, train
from brats_cohort.files import write_atomically
from glioma_phantom.generator import WIDE
from glioma_phantom.variants import EXAMINATIONS, NO_VARIANTS, SOME_VARIANTS, TUMOURS
from helpers.models.checkpoints import load_checkpoint

SHARE = 0.25
"""Of the phantoms that are of the variant under test."""


def main() -> None:
    """Train, score and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the trainings and the table")
    parser.add_argument("--phantoms", type=Path, required=True, help="folder for the phantoms, which are written once")
    parser.add_argument("--steps", type=int, default=640, help="of the training without variants")
    parser.add_argument("--more", type=int, default=120, help="steps of each training that goes on from there")
    parser.add_argument("--each", type=int, default=6, help="phantoms of every kind")
    arguments = parser.parse_args()
    variants = {"none": NO_VARIANTS}
    variants |= {name: replace(NO_VARIANTS, **{name: SHARE}) for name in (*TUMOURS, *EXAMINATIONS)}
    variants["all"] = SOME_VARIANTS
    recipe = replace(RECIPES["unet"], steps=arguments.steps)
    before = train(recipe, arguments.out / "before", name="unet", ranges=replace(WIDE, variants=NO_VARIANTS))
    network, card = load_checkpoint(before)
    start, phantoms = network.state_dict(), validation_phantoms(arguments.phantoms, card.preprocessing, arguments.each)
    recipe, dice = replace(recipe, steps=arguments.more, seed=recipe.seed + 2), {}
    for name, chosen in variants.items():
        path = train(recipe, arguments.out / name, name="unet", ranges=replace(WIDE, variants=chosen), start=start)
        scores = phantom_scores(*load_checkpoint(path), phantoms)
        dice[name] = {**scores.groupby("kind")["dice"].mean(), "every kind": scores["dice"].mean()}
        rows = [
            {"variant": each, "every kind": found["every kind"], "usual": found["usual"]}
            | ({"own kind": found[each], "own kind without it": dice["none"][each]} if each in KINDS else {})
            for each, found in dice.items()
        ]
        table = pd.DataFrame(rows).round(3)
        print(table.to_string(index=False), flush=True)
        with write_atomically(arguments.out / "table.csv") as temporary:
            table.to_csv(temporary, index=False)


if __name__ == "__main__":
    main()
