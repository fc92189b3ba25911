"""Figures of preparation: what is drawn is the array, voxel by voxel, and the box lies where it was given."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Rectangle

from helpers.plots.case import Step, apply_style, show_array, show_box, show_cut, show_prediction, show_scales, show_steps
from slice_viewer.slices import show_slice
from tests.cases import LPS, case_arrays

SQUASHED = np.array([[0, 0, -1.0, 5], [0, -1.0, 0, 7], [5.0, 0, 0, 9], [0, 0, 0, 1]])
"""Axes towards the top, the back and the left; slices 5 mm apart along the first."""


@pytest.fixture(autouse=True)
def _style():
    matplotlib.use("Agg")
    apply_style()


@pytest.fixture(scope="module")
def case():
    image, classes = case_arrays()
    return image.astype(np.float32), classes


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_cut_shows_the_array_without_its_affine(axis):
    volume = np.ones((6, 8, 10), np.float32)
    volume[1, 2, 3] = 5
    bright = np.zeros_like(volume, np.uint8)
    bright[1, 2, 3] = 1
    ax = show_cut(volume, SQUASHED, axis=axis, classes=bright)
    row, column = np.argwhere(np.asarray(ax.images[0].get_array()) == 5)[0]
    across, up = (other for other in range(3) if other != axis)
    assert (column, volume.shape[up] - 1 - row) == ((1, 2, 3)[across], (1, 2, 3)[up])  # index 0 at the lower left
    assert ax.get_aspect() == 1


def test_axes_are_named_after_where_they_run_in_the_patient(case):
    ax = show_cut(case[0][0], SQUASHED, axis=1, classes=case[1])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("axis 0 → top", "axis 2 → left")


def test_cuts_go_through_the_most_tumour():
    classes = np.zeros((6, 8, 10), np.uint8)
    classes[4, 2:6, 2:6] = 2
    volume = np.broadcast_to(np.arange(1, 7, dtype=np.float32)[:, None, None], classes.shape)
    assert (np.asarray(show_cut(volume, np.eye(4), axis=0, classes=classes).images[0].get_array()) == 5).all()


def test_three_cuts_and_a_title(case):
    figure = show_array(case[0][0], LPS, classes=case[1], title="as stored")
    assert len(figure.axes) == 3
    assert figure.get_suptitle() == "as stored"
    show_array(np.zeros((4, 5, 6)), LPS)


def test_a_voxel_of_every_step_is_equally_large(case):
    volume, classes = case[0][0], case[1]
    steps = [Step("whole", volume, LPS, classes), Step("half", volume[::2, ::2, ::2], np.diag([-2.0, -2, 2, 1]))]
    figure = show_steps(steps, axis=2)
    figure.canvas.draw()
    boxes = [ax.get_window_extent() for ax in figure.axes]
    assert boxes[0].width / volume.shape[0] == pytest.approx(boxes[1].width / len(volume[::2]), rel=1e-3)
    assert boxes[0].height / volume.shape[1] == pytest.approx(boxes[1].height / volume[:, ::2].shape[1], rel=1e-3)
    assert "2 x 2 x 2 mm" in figure.axes[1].get_xlabel()


def test_the_box_surrounds_what_it_was_made_for():
    volume = np.ones((20, 30, 10), np.float32)
    volume[2:5, 20:28, 1:3] = 7
    figure = show_box(volume, np.diag([1.0, 2.0, 3.0, 1.0]), (2, 20, 1), (5, 28, 3))
    for ax in figure.axes:
        rectangle = next(patch for patch in ax.patches if isinstance(patch, Rectangle))
        pixels = np.asarray(ax.images[0].get_array())
        left, right, bottom, top = ax.images[0].get_extent()
        rows, columns = np.nonzero(pixels == 7)
        wide, high = (right - left) / pixels.shape[1], (bottom - top) / pixels.shape[0]
        assert rectangle.get_xy() == pytest.approx((columns.min() * wide, rows.min() * high))
        assert rectangle.get_width() == pytest.approx((np.ptp(columns) + 1) * wide)
        assert rectangle.get_height() == pytest.approx((np.ptp(rows) + 1) * high)


def test_a_pane_for_each_scale_and_a_curve_for_each_volume():
    generator = np.random.default_rng(0)
    volumes = {name: generator.normal(size=1000) for name in "abc"}
    figure = show_scales({"as stored": volumes, "z-score": volumes})
    assert [len(ax.lines) for ax in figure.axes] == [3, 3]


def test_a_focus_sets_the_frame(case):
    volume, classes = case[0][0], case[1]
    whole = show_slice(volume, LPS, classes=classes)
    near = show_slice(volume, LPS, classes=classes, focus=classes)
    assert np.ptp(near.get_xlim()) < np.ptp(whole.get_xlim())
    panes = show_prediction(volume, LPS, reference=classes, prediction=classes, focus=classes)
    assert panes[0].get_xlim() == near.get_xlim()
    plt.close("all")
