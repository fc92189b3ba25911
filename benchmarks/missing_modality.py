"""What the released model loses without one of its four images: ``python -m benchmarks.missing_modality --phantoms FOLDER``.

Each modality in turn is taken away from prepared images and replaced: by 0 (its mean in the brain), by the mean of the other
three, or by the one whose contrast is nearest (T1 and T1ce for each other, T2 and FLAIR for each other). One phantom of every
kind, never seen in training, is scored on the grid of the network, patients (``--cases``) in their own. Without T1 or T1ce
nothing can be compared before and after contrast agent, so what enhances is then what the network says, without an outline.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from benchmarks.released_model import complete_cases, validation_phantoms
from brats_cohort.case import Case
from brats_cohort.cases import read_classes
from brats_cohort.grid import spacing_of
from brats_cohort.regions import MODALITIES, REGION_CLASSES, REGIONS
from brats_cohort.session import read_session
from helpers.data.prepared import PreparedFile
from helpers.data.preprocess import PreprocessSettings, preprocess_image, to_native
from helpers.evaluation.metrics import dice
from helpers.evaluation.postprocess import PostProcessing, label_map
from helpers.evaluation.predict import predict_prepared
from helpers.models.checkpoints import ModelCard, load_released

NEAREST = {"t1": "t1ce", "t1ce": "t1", "t2": "flair", "flair": "t2"}
REPLACEMENTS = ("0", "mean of the others", "nearest contrast")


def replaced(image: np.ndarray, missing: str, by: str) -> np.ndarray:
    """A prepared image (4, X, Y, Z) without one modality."""
    result, channel = image.astype(np.float32), MODALITIES.index(missing)
    if by == "mean of the others":
        result[channel] = np.delete(result, channel, axis=0).mean(axis=0)
    else:
        result[channel] = 0 if by == "0" else result[MODALITIES.index(NEAREST[missing])]
    return result


def ways() -> Iterator[tuple[str, str]]:
    """What is missing, and what stands in its place; first nothing."""
    yield "nothing", ""
    yield from ((missing, by) for missing in MODALITIES for by in REPLACEMENTS)


def settings_without(card: ModelCard, missing: str) -> PostProcessing:
    """The card's post-processing; without T1 or T1ce, no comparison of the two."""
    settings = PostProcessing(**card.postprocessing)
    return replace(settings, contrast_enhancement=0.0) if missing in ("t1", "t1ce") else settings


def phantom_rows(network: nn.Module, card: ModelCard, paths: list[Path]) -> Iterator[dict[str, object]]:
    """Dice of prepared phantoms on their own grid, for every way."""
    for path in paths:
        case = PreparedFile(path).load()
        whole = np.asarray(case.image)
        for missing, by in ways():
            image = replaced(whole, missing, by) if by else whole
            classes = label_map(predict_prepared(network, card, image), image, card.spacing, settings_without(card, missing))
            yield {"patient": path.stem, "missing": missing, "by": by, **dices(classes, np.asarray(case.classes))}


def patient_rows(network: nn.Module, card: ModelCard, cases: list[Case]) -> Iterator[dict[str, object]]:
    """Dice of patients in their own grid, for every way."""
    for case in cases:
        session, reference = read_session(case), read_classes(case)[0]
        prepared = preprocess_image(session.image, session.affine, PreprocessSettings(**card.preprocessing))
        for missing, by in ways():
            image = replaced(prepared.image, missing, by) if by else prepared.image
            probabilities = to_native(predict_prepared(network, card, image), prepared, mode="linear")
            classes = label_map(
                probabilities, np.stack(session.image), spacing_of(session.affine), settings_without(card, missing)
            )
            yield {"patient": case.patient, "missing": missing, "by": by, **dices(classes, reference)}


def dices(classes: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Dice of every region; 1 if it is empty in both."""
    pairs = {region: [np.isin(each, REGION_CLASSES[region]) for each in (classes, reference)] for region in REGIONS}
    return {region: dice(*pair) for region, pair in pairs.items()}


def table(rows: list[dict[str, object]]) -> str:
    """Mean Dice by what is missing, and the difference to all four; sessions of a patient count as one."""
    patients = pd.DataFrame(rows).groupby(["missing", "by", "patient"], sort=False)[list(REGIONS)].mean()
    scores = patients.groupby(["missing", "by"], sort=False).mean()
    lines = ["| Missing | Replaced by | " + " | ".join(REGIONS) + " |", "| --- | --- |" + " --- |" * len(REGIONS)]
    for (missing, by), row in scores.iterrows():
        cells = [f"{row[region]:.3f} ({row[region] - scores.iloc[0][region]:+.3f})" if by else f"{row[region]:.3f}"
                 for region in REGIONS]  # fmt: skip
        lines.append(f"| {missing} | {by} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=Path, help="folder for the phantoms, which are written once")
    parser.add_argument("--cases", type=Path, help="folder of patients with references")
    arguments = parser.parse_args()
    if not (arguments.phantoms or arguments.cases):
        parser.error("give --phantoms, --cases or both")
    cases = complete_cases(arguments.cases) if arguments.cases else []  # a wrong folder costs no work on phantoms
    network, card = load_released()
    if arguments.phantoms:
        kinds = validation_phantoms(arguments.phantoms, card.preprocessing, each=1)
        paths = [path for kind, files in kinds.items() for path in files if kind != "missing"]
        print(
            f"\n{len(paths)} phantoms never seen in training\n\n{table(list(phantom_rows(network, card, paths)))}", flush=True
        )
    if arguments.cases:
        rows = list(patient_rows(network, card, cases))
        print(f"\n{len({row['patient'] for row in rows})} patients of {arguments.cases.name}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
