"""Fit the post-processing of a model on phantoms: ``python -m benchmarks.fit_limits --checkpoint FILE --phantoms FOLDER``.

The phantoms, of every kind and on the grid of the network, take part in no training and no test, and no patient takes part.
How bright enhancing tumour must be at least is not fitted, since raters draw its outline by brightness and phantoms do not: it
stays at `OUTLINE`. The other rules are fitted one after the other, and one is left off unless it raises the mean Dice of the
three regions by `LEAST`. The model card beside the weights gets them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.released_model import FITTED, validation_phantoms
from brats_cohort.regions import REGIONS, classes_to_regions
from helpers.data.prepared import PreparedFile
from helpers.evaluation.metrics import dice
from helpers.evaluation.postprocess import PostProcessing, label_map
from helpers.evaluation.predict import predict_prepared
from helpers.models.checkpoints import card_path, load_checkpoint

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
    print(f"Dice of {', '.join(REGIONS)}: {scores(cases, limits).round(3)}")
    path = card_path(arguments.checkpoint)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"postprocessing": asdict(limits)}, indent=2) + "\n")
    print(limits)


if __name__ == "__main__":
    main()
