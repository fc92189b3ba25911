"""Rebuild the README's figure, one phantom in its four modalities: ``python images/rebuild.py``."""

import io
from pathlib import Path

import matplotlib.pyplot as plt

from glioma_phantom import make_phantom
from helpers.plots.case import show_modalities
from slice_viewer.slices import to_palette

CASE = 2
"""One focus with core, rim and oedema."""

if __name__ == "__main__":
    plt.style.use("helpers.plots.figures")
    phantom = make_phantom(CASE)
    stream = io.BytesIO()
    show_modalities(phantom.image, phantom.affine, classes=phantom.classes).savefig(stream, format="png", dpi=96)
    (Path(__file__).parent / "four_panes.png").write_bytes(to_palette(stream.getvalue()))
