"""Scores of the released model, the tables of MODEL_CARD.md: ``python -m benchmarks.released_model --cases FOLDER``.

Every case of the folder that has all four images and a reference is segmented from its files and scored in its own grid.
Besides, phantoms that no training has seen, calibrated and randomised ones, are segmented on the network's grid.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pandas as pd
from torch import nn

from glioma_phantom import PhantomSettings, draw_random_phantom, make_phantom
from helpers.data.cases import discover
from helpers.data.phantoms import HELD_OUT_SEED
from helpers.data.preprocess import PreprocessSettings, preprocess_image
from helpers.evaluation.cohort import score_cohort
from helpers.evaluation.metrics import score_case
from helpers.evaluation.predict import segment_prepared
from helpers.evaluation.statistics import summarise
from helpers.models.checkpoints import ModelCard, load_checkpoint, load_released
from helpers.regions import REGIONS

FIRST = 1000
"""Number of the first phantom scored; those from 0 on choose checkpoints."""


def phantom_scores(network: nn.Module, card: ModelCard, count: int, *, randomised: bool) -> pd.DataFrame:
    """Scores of phantoms that no training has seen, on the grid of the network."""
    spacing, recipe, tables = int(card.spacing[0]), PreprocessSettings(**card.preprocessing), []
    for index in range(FIRST, FIRST + count):
        if randomised:
            phantom = draw_random_phantom(HELD_OUT_SEED, index, spacing=spacing)
        else:
            phantom = make_phantom(index, PhantomSettings(spacing=spacing, seed=HELD_OUT_SEED))
        prepared = preprocess_image(phantom.image, phantom.affine, recipe, classes=phantom.classes)
        classes = segment_prepared(network, card, prepared.image)
        table = score_case(classes, prepared.classes, card.spacing)
        table.insert(0, "case", f"phantom {index}")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def markdown(scores: pd.DataFrame, *, each: bool) -> str:
    """Dice and HD95 by region, a line for each case if wanted and one for the mean with its interval.

    By the rule of BraTS a case without enhancing tumour scores ET 1 or 0; the last line gives ET without such cases.
    """
    heads = [f"Dice {region}" for region in REGIONS] + [f"HD95 {region}, mm" for region in REGIONS]
    lines = ["| Case | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    wide = scores.pivot(index="case", columns="region", values=["dice", "hd95"])
    order = [(metric, region) for metric in ("dice", "hd95") for region in REGIONS]
    if each:
        for case, row in wide.iterrows():
            cells = [f"{row[key]:.{3 if key[0] == 'dice' else 1}f}" for key in order]
            lines.append(f"| {case} | " + " | ".join(cells) + " |")
    present = scores[(scores["region"] == "ET") & (scores["reference_ml"] > 0)]
    lines.append(f"| mean of {scores['case'].nunique()} [95 %] | " + " | ".join(_means(scores, order)) + " |")
    dice, hd95 = _means(present, [("dice", "ET"), ("hd95", "ET")])
    lines.append(f"| of {len(present)} with enhancing tumour | | | {dice} | | | {hd95} |")
    return "\n".join(lines)


def _means(scores: pd.DataFrame, order: list[tuple[str, str]]) -> list[str]:
    """Mean with its interval for each metric and region."""
    summary, cells = summarise(scores).set_index(["metric", "region"]), []
    for key in order:
        row, digits = summary.loc[key], 3 if key[0] == "dice" else 1
        interval = f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]" if pd.notna(row["low"]) else ""
        cells.append(f"{row['mean']:.{digits}f}{interval}")
    return cells


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, help="folder of cases with references")
    parser.add_argument("--format", default="auto", help="dataset format, such as brats2021, brats2023 or msd")
    parser.add_argument("--phantoms", type=int, default=24, help="how many unseen phantoms to score; 0 for none")
    parser.add_argument("--checkpoint", type=Path, help="another model than the released one")
    parser.add_argument("--tta", action="store_true", help="mean over mirrored copies")
    arguments = parser.parse_args()
    network, card = load_checkpoint(arguments.checkpoint) if arguments.checkpoint else load_released()
    print(f"weights {card.weights_sha256[:12]}, {card.network} at {card.spacing[0]:g} mm")
    if arguments.cases:
        found = discover(arguments.cases, arguments.format)
        cases = [case for case in found if not case.missing and case.label]
        print(f"\n{len(cases)} cases of {arguments.cases.name} ({len(found) - len(cases)} incomplete ones left out)\n")
        with tempfile.TemporaryDirectory() as folder:
            scores = score_cohort(network, card, cases, folder=Path(folder), tta=arguments.tta).scores
        print(markdown(scores, each=True))
    for randomised in (False, True) if arguments.phantoms else ():
        print(f"\n{arguments.phantoms} {'randomised' if randomised else 'calibrated'} phantoms never seen in training\n")
        print(markdown(phantom_scores(network, card, arguments.phantoms, randomised=randomised), each=False))


if __name__ == "__main__":
    main()
