"""Fit the post-processing of a model on phantoms: ``python -m benchmarks.fit_limits --checkpoint FILE --phantoms FOLDER``.

The phantoms, of every kind and on the grid of the network, take part in no training and no test, and no patient takes part.
How bright enhancing tumour must be at least is not fitted, since raters draw its outline by brightness and phantoms do not: it
stays at `OUTLINE`. The other rules are fitted one after the other, and one is left off unless it raises the mean Dice of the
three regions by `LEAST`. Last comes the decision whether a case has enhancing tumour at all: a logistic regression on
`helpers.evaluation.postprocess.FEATURES`, whose threshold is the highest that keeps 95 % of the cases with 1 ml or more, each
judged by a regression that has not seen it. It is kept if it raises the Dice of ET by `LEAST`. The model card beside the
weights gets everything.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from benchmarks.released_model import FITTED, PRESENT_ML, validation_phantoms
from brats_cohort.regions import REGIONS, classes_to_regions
from helpers.data.prepared import PreparedFile
from helpers.evaluation.metrics import dice
from helpers.evaluation.postprocess import FEATURES, PostProcessing, compare_contrasts, label_map, presence_features
from helpers.evaluation.predict import predict_prepared
from helpers.models.checkpoints import card_path, load_checkpoint

SENSITIVITY = 0.95
EACH = 24
"""Phantoms of every kind."""
LEAST = 0.002
"""Gain in mean Dice for which a rule is worth its while."""
OFF = PostProcessing(tumour_ml=0, enhancing_ml=0)
"""No rule, and a threshold of 0.5 for each region."""
OUTLINE = replace(OFF, contrast_enhancement=0.2)
"""Without a rule, but for the outline of what enhances."""
CHOICES: dict[str, Sequence[float]] = {
    "tumour_threshold": (0.3, 0.4),
    "tumour_ml": (0.5, 1, 2, 4),
    "enhancing_ml": (0.1, 0.2, 0.3, 0.5, 0.7, 1.0),
    "enhancing_share": (0.05, 0.1, 0.2),
    "surrounded": (4, 5, 6),
    "core_share": (0.05, 0.1, 0.2),
}
"""Limits to try, in this order. Those that are not named keep their defaults."""


@dataclass(frozen=True)
class Predicted:
    """A phantom and what the network says of it: image (4, X, Y, Z), probabilities and truth (3, X, Y, Z), spacing in mm."""

    image: np.ndarray
    probabilities: np.ndarray
    regions: np.ndarray
    spacing: tuple[float, ...]

    @property
    def enhancing_ml(self) -> float:
        """Volume of the true enhancing tumour."""
        return float(self.regions[2].sum() * np.prod(self.spacing) / 1000)


def predict_phantoms(network, card, paths: Sequence[Path]) -> list[Predicted]:
    """Predict prepared phantoms on the grid of the network."""
    found = []
    for case in (PreparedFile(path).load() for path in paths):
        image = np.asarray(case.image)
        probabilities = predict_prepared(network, card, image).astype(np.float16)
        found.append(Predicted(image, probabilities, classes_to_regions(np.asarray(case.classes)), tuple(card.spacing)))
    return found


def scores(cases: Sequence[Predicted], limits: PostProcessing) -> np.ndarray:
    """Mean Dice of TC, WT and ET with these limits."""
    found = []
    for case in cases:
        labels = label_map(case.probabilities.astype(np.float32), case.image, case.spacing, limits)
        found.append([dice(*pair) for pair in zip(classes_to_regions(labels), case.regions, strict=True)])
    return np.mean(found, axis=0)


def fit_rules(cases: Sequence[Predicted], choices: Mapping[str, Sequence[float]], best: PostProcessing) -> PostProcessing:
    """Choose one limit after the other, each with the best of those before."""
    reached = scores(cases, best).mean()
    for name, values in choices.items():
        tried = {value: float(scores(cases, replace(best, **{name: value})).mean()) for value in values}
        value = max(tried, key=tried.get)
        print(
            f"{name}: {reached:.3f} without", *(f"{each:g}: {mean:.3f}" for each, mean in tried.items()), sep=", ", flush=True
        )
        if tried[value] >= reached + LEAST:
            best, reached = replace(best, **{name: value}), tried[value]
    return best


def measure(cases: Sequence[Predicted], limits: PostProcessing) -> pd.DataFrame:
    """Return the features of every phantom, and the volume of its enhancing tumour in ml."""
    rows = []
    for case in cases:
        likely = compare_contrasts(case.probabilities, case.image, case.spacing, likely=limits.enhancing_threshold)
        rows.append({"ml": case.enhancing_ml, **presence_features(likely, case.spacing)})
    return pd.DataFrame(rows)


def fit_presence(table: pd.DataFrame) -> dict[str, float]:
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
    model = {"intercept": regression.intercept_[0], **named, "threshold": threshold}
    return {name: round(float(each), 4) for name, each in model.items()}


def main() -> None:
    """Predict, fit and write to the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--phantoms", type=Path, required=True, help="folder for the phantoms, which are written once")
    arguments = parser.parse_args()
    network, card = load_checkpoint(arguments.checkpoint)
    phantoms = validation_phantoms(arguments.phantoms, EACH, first=FITTED, spacing=int(card.spacing[0]))
    cases = predict_phantoms(network, card, [path for paths in phantoms.values() for path in paths])
    limits = fit_rules(cases, CHOICES, OUTLINE)
    decided = replace(limits, presence=fit_presence(measure(cases, limits)))
    before, after = (scores(cases, each) for each in (limits, decided))
    print(f"Dice of {', '.join(REGIONS)}: {before.round(3)}, with the decision on enhancement {after.round(3)}")
    if after[2] >= before[2] + LEAST:
        limits = decided
    path = card_path(arguments.checkpoint)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"postprocessing": asdict(limits)}, indent=2) + "\n")
    print(limits)


if __name__ == "__main__":
    main()
