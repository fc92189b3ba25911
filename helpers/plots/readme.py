"""Rebuild the README's figure: ``python -m helpers.plots.readme [FOLDER]``."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from glioma_phantom import PhantomSettings, make_phantom
from helpers.plots.case import apply_style, show_modalities
from slice_viewer.slices import to_palette

CASE = 2
"""The phantom of the README: one focus with core, rim and oedema."""


def make_four_panes(path: Path, *, case: int = CASE, settings: PhantomSettings | None = None) -> Path:
    """Write the four modalities of a phantom, with and without labels, as PNG to `path`."""
    phantom = make_phantom(case, settings or PhantomSettings())
    apply_style()
    return save_small(show_modalities(phantom.image, phantom.affine, classes=phantom.classes), path)


def save_small(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG in a palette of 256 colours, half the size and hardly different to the eye; closes it."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=96)
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_palette(stream.getvalue()))
    return path


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "images"
    make_four_panes(folder / "four_panes.png")
