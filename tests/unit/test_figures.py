"""Figures: left and right on the screen by pixels, colours and scale, and every figure drawn from data of every shape."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from brats_cohort.regions import CLASS_COLOURS
from brats_cohort.testing import LPS, case_arrays
from helpers.plots import figures
from slice_viewer.slices import to_palette


@pytest.fixture(autouse=True)
def _close_figures():
    matplotlib.use("Agg")
    plt.style.use("helpers.plots.figures")
    yield
    plt.close("all")


def test_the_four_panes_have_labels_below_only_where_there_are_labels():
    image, classes = case_arrays()
    panes = figures.show_modalities(image, LPS, classes=classes).axes
    assert len(panes) == 8
    assert [ax.get_title(loc="left") for ax in panes[:4]] == ["T1", "T1ce", "T2", "FLAIR"]
    assert len(figures.show_modalities(image, LPS).axes) == 4


def test_missed_and_falsely_marked_voxels_are_drawn_apart():
    image, classes = case_arrays()
    shifted = np.roll(classes, 2, axis=0)
    errors = figures.show_gallery([figures.Comparison(image, LPS, classes, shifted, "")]).axes[2]
    colours = {tuple(colour[:3]) for line in errors.collections for colour in line.get_edgecolor()}
    assert {to_rgb(colour) for colour in figures.ERROR_COLOURS.values()} <= colours
    assert not figures.show_gallery([figures.Comparison(image, LPS, classes, classes, "")]).axes[2].collections


def test_a_gallery_draws_errors_on_the_modality_that_shows_the_region():
    image, classes = case_arrays()
    case = figures.Comparison(image, LPS, classes, np.roll(classes, 2, axis=0), "worst: Case, Dice 0.70")
    for region, modality in {"TC": "T1ce", "WT": "FLAIR", "ET": "T1ce"}.items():
        axes = figures.show_gallery([case, case], region=region).axes
        assert len(axes) == 6
        assert axes[0].get_ylabel().endswith(f"on {modality}")
        expected = figures.robust_window(image[1 if modality == "T1ce" else 3])
        assert axes[2].images[0].get_clim() == pytest.approx(expected)


def test_a_long_name_stays_beside_its_row():
    image, classes = case_arrays()
    name = "worst: BraTS-GLI-2021_01476_preoperative_session_2_after_motion, Dice 0.61"
    figure = figures.show_gallery([figures.Comparison(image, LPS, classes, classes, name)] * 2)
    figure.canvas.draw()
    above, below = (figure.axes[number].yaxis.label.get_window_extent() for number in (0, 3))
    assert above.y0 > below.y1


def test_a_figure_in_a_palette_is_small_and_keeps_the_colours_of_labels():
    image, classes = case_arrays((60, 70, 50))
    stream = io.BytesIO()
    figures.show_modalities(image, LPS, classes=classes).savefig(stream, format="png", dpi=96)
    small = to_palette(stream.getvalue())
    assert len(small) < 0.7 * len(stream.getvalue())
    pixels = np.asarray(Image.open(io.BytesIO(small)).convert("RGB")).reshape(-1, 3).astype(int)
    for colour in CLASS_COLOURS.values():
        assert np.abs(pixels - 255 * np.array(to_rgb(colour))).max(1).min() < 16
