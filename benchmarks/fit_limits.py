"""Fit the decision on enhancement of a model: ``python -m benchmarks.fit_presence --checkpoint FILE --phantoms FOLDER``.

A logistic regression learns on phantoms of every kind, which take part in no training and no test, whether a case has
enhancing tumour. Its features are `helpers.evaluation.postprocess.FEATURES`, and its threshold is the highest that keeps 95 %
of the cases with 1 ml or more, each judged by a regression that has not seen it. The model card beside the weights gets both.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from benchmarks.released_model import FITTED, PRESENT_ML, validation_phantoms
from brats_cohort.regions import ET
from helpers.data.prepared import PreparedFile
from helpers.evaluation.postprocess import FEATURES, PostProcessing, compare_contrasts, presence_features
from helpers.evaluation.predict import predict_prepared
from helpers.models.checkpoints import card_path, load_checkpoint

SENSITIVITY = 0.95
EACH = 8
"""Phantoms of every kind."""


def measure(network, card, phantoms: dict[str, list[Path]]) -> pd.DataFrame:
    """Return the features of every phantom, and the volume of its enhancing tumour in ml."""
    limit, rows = PostProcessing(**card.postprocessing).enhancing_threshold, []
    for kind, paths in phantoms.items():
        for path in paths:
            case = PreparedFile(path).load()
            image = np.asarray(case.image)
            likely = compare_contrasts(predict_prepared(network, card, image), image, card.spacing, likely=limit)
            volume = float((np.asarray(case.classes) == ET).sum() * np.prod(card.spacing) / 1000)
            rows.append({"kind": kind, "case": path.stem, "ml": volume, **presence_features(likely, card.spacing)})
    return pd.DataFrame(rows)


def fit(table: pd.DataFrame) -> dict[str, float]:
    """Fit the regression on what surely has enhancing tumour and what has none, and choose its threshold."""
    sure = table[(table["ml"] == 0) | (table["ml"] >= PRESENT_ML)]
    features, present = sure[list(FEATURES)].to_numpy(), (sure["ml"] > 0).to_numpy()
    regression = LogisticRegression(class_weight="balanced")
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    unseen = cross_val_predict(regression, features, present, cv=folds, method="predict_proba")[:, 1]
    threshold = float(np.quantile(unseen[present], 1 - SENSITIVITY, method="lower"))
    print(f"{present.sum()} with, {(~present).sum()} without: specificity {(unseen[~present] < threshold).mean():.2f} in folds")
    regression.fit(features, present)
    named = dict(zip(FEATURES, regression.coef_[0], strict=True))
    return {"intercept": float(regression.intercept_[0]), **{name: float(each) for name, each in named.items()}} | {
        "threshold": threshold
    }


def main() -> None:
    """Measure, fit and write to the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--phantoms", type=Path, required=True, help="folder for the phantoms, which are written once")
    arguments = parser.parse_args()
    network, card = load_checkpoint(arguments.checkpoint)
    table = measure(network, card, validation_phantoms(arguments.phantoms, EACH, first=FITTED, spacing=int(card.spacing[0])))
    presence = {name: round(value, 4) for name, value in fit(table).items()}
    limits = asdict(PostProcessing(**{**card.postprocessing, "presence": presence}))
    path = card_path(arguments.checkpoint)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"postprocessing": limits}, indent=2) + "\n")
    print(presence)


if __name__ == "__main__":
    main()
