"""Scores of a released model, the tables of MODEL_CARD.md: ``python -m benchmarks.released_model --phantoms FOLDER``.

The protocol is fixed: ten phantoms of every kind that no training has seen, on the grid of the network, by kind and all
together. A folder of patients (``--cases``) is a table apart: each is segmented from its files and scored in its own grid.
By the rule of BraTS a case without enhancing tumour scores ET 1 or 0, so ET is also given without such cases.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from brats_cohort.case import Case
from brats_cohort.cases import discover
from brats_cohort.regions import REGIONS
from glioma_phantom import Randomisation
from glioma_phantom.generator import RANDOMISED_VERSION, WIDE
from glioma_phantom.variants import EXAMINATIONS, NO_VARIANTS, TUMOURS
from helpers.data.phantoms import HELD_OUT_SEED, prepare_phantom
from helpers.data.prepared import VERSION, PreparedFile, PreprocessSettings, save_prepared
from helpers.evaluation.cohort import score_cohort
from helpers.evaluation.metrics import score_case
from helpers.evaluation.postprocess import PostProcessing, label_map
from helpers.evaluation.predict import predict_prepared
from helpers.evaluation.statistics import average_sessions, bootstrap_interval
from helpers.models.checkpoints import load_ensemble, released_files
from helpers.workspace import pick_device

EACH, FIRST = 10, 10_000
"""Phantoms of every kind, and the number of the first. Those from `FITTED` on fit the limits of the post-processing."""
FITTED = 20_000
KINDS = {
    "usual": NO_VARIANTS,
    **{name: replace(NO_VARIANTS, **{name: 1.0}) for name in TUMOURS},
    "mismatch": replace(NO_VARIANTS, low_grade=1.0, mismatch=1.0),
    **{name: replace(NO_VARIANTS, **{name: 1.0}) for name in EXAMINATIONS},
}
"""The usual phantom, and one variant at a time."""
PRESENT_ML = 1.0
"""Enhancing tumour from this volume on must be noticed; below it, some scanners and raters do not."""


def complete_cases(folder: Path) -> list[Case]:
    """Find the cases of a folder that can be predicted and scored, and name the others."""
    found = discover(folder)
    cases = [case for case in found if not case.missing and case.label]
    if left_out := [case.identifier for case in found if case.missing or not case.label]:
        print(f"left out, for want of an image or the reference: {', '.join(left_out)}", file=sys.stderr)
    if not cases:
        raise SystemExit(f"{folder} has no case with four images and a reference; give a folder that has some")
    return cases


def validation_phantoms(
    folder: Path, preprocessing: Mapping[str, Any], each: int = EACH, *, first: int = FIRST
) -> dict[str, list[Path]]:
    """Write phantoms of every kind, prepared as a model card says, keep those that are there; return their files by kind."""
    settings = PreprocessSettings(**preprocessing)
    recipe = json.dumps([VERSION, asdict(settings)])
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:8]  # models that want other images share no file
    found: dict[str, list[Path]] = {}
    missing = []
    for number, (kind, variants) in enumerate(KINDS.items()):
        for index in range(first + number, first + number + each * len(KINDS), len(KINDS)):
            path = folder / f"{kind}-{index}-{digest}-v{RANDOMISED_VERSION}.safetensors"
            found.setdefault(kind, []).append(path)
            if not path.exists():
                missing.append(joblib.delayed(_write_phantom)(path, index, settings, replace(WIDE, variants=variants)))
    joblib.Parallel(-1)(missing)
    return found


def _write_phantom(path: Path, index: int, settings: PreprocessSettings, ranges: Randomisation) -> None:
    save_prepared(path, prepare_phantom(HELD_OUT_SEED, index, settings, ranges))


def phantom_scores(network, card, phantoms: dict[str, list[Path]], *, tta: bool = False) -> pd.DataFrame:
    """Score prepared phantoms on the grid of the network: the columns of `score_case`, ``case`` and ``kind``."""
    tables, rules = [], PostProcessing.of(card.postprocessing)
    for kind, paths in phantoms.items():
        for path in paths:
            case = PreparedFile(path).load()
            classes = label_map(predict_prepared(network, card, case.image, tta=tta), case.image, card.spacing, rules)
            table = score_case(classes, case.classes, card.spacing)
            tables.append(table.assign(case=path.stem, kind=kind))
    return pd.concat(tables, ignore_index=True)


def by_kind(scores: pd.DataFrame) -> str:
    """Mean and median Dice by kind, and the mean of all with its interval."""
    heads = [f"{name} {what}" for name in (*REGIONS, "ET if present,") for what in ("mean", "median")]
    lines = [f"| Kind | cases | {' | '.join(heads)} | cases with ET |", "|" + " --- |" * (len(heads) + 3)]
    for kind, part in (*scores.groupby("kind", sort=False), ("all", scores)):
        present = part[(part["region"] == "ET") & (part["reference_ml"] > 0)]["dice"]
        values = [*(part[part["region"] == region]["dice"] for region in REGIONS), present]
        cells = [cell for each in values for cell in _cells(each, interval=kind == "all")]
        lines.append(f"| {kind} | {part['case'].nunique()} | {' | '.join(cells)} | {len(present)} |")
    return "\n".join(lines)


def by_case(scores: pd.DataFrame) -> str:
    """Dice and HD95 by case and region, and their means over patients with intervals; sessions of a patient count as one."""
    heads = [f"Dice {region}" for region in REGIONS] + [f"HD95 {region}, mm" for region in REGIONS]
    lines = ["| Case | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    wide = scores.pivot(index="case", columns="region", values=["dice", "hd95"])
    for case, row in wide.iterrows():
        cells = [f"{row['dice', region]:.3f}" for region in REGIONS] + [f"{row['hd95', region]:.1f}" for region in REGIONS]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    patients = average_sessions(scores, ["dice", "hd95"]).pivot(index="patient", columns="region")
    enhancing = scores[(scores["region"] == "ET") & (scores["reference_ml"] > 0)]
    present = average_sessions(enhancing, ["dice"])["dice"]
    columns = [(patients[metric, region], digits) for metric, digits in (("dice", 3), ("hd95", 1)) for region in REGIONS]
    means, medians = zip(*(_cells(each, interval=True, digits=digits) for each, digits in columns), strict=True)
    lines += [f"| mean of {len(patients)} [95 %] | {' | '.join(means)} |"]
    lines += [f"| median of {len(patients)} | {' | '.join(medians)} |"]
    lines += [f"| mean of {len(present)} with enhancing tumour | | | {_cells(present, interval=True)[0]} | | | |"]
    return "\n".join(lines)


def presence(scores: pd.DataFrame) -> str:
    """Sensitivity and specificity for the presence of enhancing tumour, with Wilson intervals."""
    enhancing = scores[scores["region"] == "ET"]
    found, volume = enhancing["prediction_ml"] > 0, enhancing["reference_ml"]
    lines = []
    for name, chosen, right in (
        (f"sensitivity for at least {PRESENT_ML:g} ml", volume >= PRESENT_ML, found),
        ("specificity", volume == 0, ~found),
    ):
        count, total = int((chosen & right).sum()), int(chosen.sum())
        low, high = proportion_confint(count, total, method="wilson") if total else (np.nan, np.nan)
        lines.append(f"{name}: {count} of {total}, {count / max(total, 1):.2f} [{low:.2f}, {high:.2f}]")
    return "\n".join(lines)


def _cells(values: pd.Series, *, interval: bool, digits: int = 3) -> list[str]:
    """Mean, with its interval if wanted and there are enough values, and median."""
    if values.empty:
        return ["", ""]
    mean, median = (f"{value:.{digits}f}" for value in (values.mean(), values.median()))
    bounds = bootstrap_interval(list(values))
    known = interval and np.isfinite(bounds.low)
    return [mean + (f" [{bounds.low:.{digits}f}, {bounds.high:.{digits}f}]" if known else ""), median]


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=Path, help="folder for the phantoms, which are written once")
    parser.add_argument("--cases", type=Path, help="folder of patients with references")
    parser.add_argument("--checkpoint", type=Path, nargs="+", help="another model, or the members of an ensemble")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    arguments = parser.parse_args()
    if not (arguments.phantoms or arguments.cases):
        parser.error("give --phantoms, --cases or both")
    cases = complete_cases(arguments.cases) if arguments.cases else []
    network, card = load_ensemble(arguments.checkpoint or released_files(), device=pick_device("auto"))
    print(f"weights {card.weights_sha256[:12]}, {card.network} at {card.spacing[0]:g} mm")
    if arguments.phantoms:
        phantoms = validation_phantoms(arguments.phantoms, card.preprocessing)
        scores = phantom_scores(network, card, phantoms, tta=arguments.tta)
        print(f"\nPhantoms never seen in training, Dice\n\n{by_kind(scores)}\n\n{presence(scores)}")
    if arguments.cases:
        with tempfile.TemporaryDirectory() as folder:
            scores = score_cohort(network, card, cases, folder=Path(folder), tta=arguments.tta).scores
        print(f"\n{len(cases)} cases of {arguments.cases.name}\n\n{by_case(scores)}\n\n{presence(scores)}")


if __name__ == "__main__":
    main()
