"""A picture of validation predictions, drawn whenever they are the best so far."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from helpers.regions import MODALITIES
from helpers.training.state import write_durably
from helpers.training.validation import ScoredCase
from helpers.visual.figures import Comparison, show_gallery
from helpers.visual.pictures import to_palette


def save_validation(path: Path, cases: Sequence[ScoredCase]) -> None:
    """Draw reference, prediction and errors of a few validation cases over FLAIR into a PNG file."""
    comparisons = [
        Comparison(
            np.asarray(scored.case.image[MODALITIES.index("flair")], dtype=np.float32),
            scored.case.affine,
            scored.case.classes,
            scored.prediction,
            f"{scored.case.identifier}, Dice {scored.dice:.2f}",
        )
        for scored in cases
    ]
    figure = show_gallery(comparisons)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    plt.close(figure)
    write_durably(path, to_palette(stream.getvalue()))
