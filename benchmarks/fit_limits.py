"""Fit the post-processing of a model on phantoms: ``python -m benchmarks.fit_limits FILE [FILE ...] --phantoms FOLDER``.

The phantoms, of every kind and on the grid of the network, take part in no training and no test. The fit begins with the limits
of the released model (`BEFORE`), tries other values of three of them (`CHOICES`) one after the other, and keeps each limit
unless another raises the mean Dice of the three regions by `LEAST`. What the other rules say of outlines and of where a core
lies is not fitted, since raters draw by them and phantoms are not drawn that way. Several files are fitted as one ensemble. The
model cards beside the weights get the limits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.released_model import FITTED, validation_phantoms
from brats_cohort.files import write_atomically
from brats_cohort.regions import REGIONS, classes_to_regions
from helpers.data.prepared import PreparedFile
from helpers.evaluation.metrics import dice
from helpers.evaluation.postprocess import PostProcessing, label_map
from helpers.evaluation.predict import predict_prepared
from helpers.models.checkpoints import card_path, load_ensemble
from helpers.workspace import pick_device

EACH = 16
"""Phantoms of every kind."""
LEAST = 0.002
"""Gain in mean Dice for which another limit is worth the change."""
BEFORE = PostProcessing(
    enhancing_ml=0.5,
    enhancing_share=0.1,
    surrounded=4,
    core_depth=0.5,
    tumour_threshold=0.4,
    contrast_enhancement=0.2,
    core_threshold=0.3,
)
"""Limits that the fit begins with. Those not in `CHOICES` were chosen on the five development patients of the model card."""
CHOICES: dict[str, Sequence[float]] = {
    "enhancing_ml": (0, 0.1, 0.2, 0.3),  # with more than 0.5, too many tumours that enhance by 1 ml are lost
    "core_depth": (0, 0.3, 0.4, 0.6),
    "core_threshold": (0.2, 0.4, 0.5),
}
"""Limits to try, in this order; a rule with 0 is off."""


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
            f"{name} {getattr(best, name):g}: {reached:.4f}",
            *(f"{each:g}: {mean:.4f}" for each, mean in tried.items()),
            sep=", ",
            flush=True,
        )
        if tried[value] >= reached + LEAST:
            best, reached = replace(best, **{name: value}), tried[value]
    return best


def fit_limits(checkpoints: Sequence[Path], folder: Path) -> PostProcessing:
    """Fit the rules of a model, or of several as an ensemble, on phantoms, which are written to `folder` once."""
    network, card = load_ensemble(checkpoints, device=pick_device("auto"))
    phantoms = validation_phantoms(folder, card.preprocessing, EACH, first=FITTED)
    cases = predict_phantoms(network, card, [path for paths in phantoms.values() for path in paths])
    limits = fit_rules(cases, CHOICES, BEFORE)
    print(f"Dice of {', '.join(REGIONS)}: {scores(cases, limits).round(3)}")
    return limits


def write_limits(checkpoint: Path, limits: PostProcessing) -> None:
    """Put the limits into a model card."""
    path = card_path(checkpoint)
    content = json.loads(path.read_text()) | {"postprocessing": asdict(limits)}
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Read the settings, fit and write to the cards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--phantoms", type=Path, required=True, help="folder for the phantoms, which are written once")
    arguments = parser.parse_args()
    limits = fit_limits(arguments.checkpoints, arguments.phantoms)
    for checkpoint in arguments.checkpoints:
        write_limits(checkpoint, limits)
    print(limits)


if __name__ == "__main__":
    main()
