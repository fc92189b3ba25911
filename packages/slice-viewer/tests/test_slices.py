"""One slice on the screen: left and right by pixels, colours, scale, and small pictures."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from slice_viewer.slices import PALETTE, best_slice, cut, draw_labels, robust_window, show_slice, to_palette, to_ras

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
AFFINES = {
    "RAS": np.diag([1.0, 1.0, 1.0, 1.0]),
    "LPS": LPS,
    "LAS": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "anisotropic": np.diag([-1.0, -2.0, 3.0, 1.0]),
    "axes in another order": np.array([[0, 0, -1.0, 5], [2.0, 0, 0, 7], [0, -1.5, 0, 9], [0, 0, 0, 1]]),
}


@pytest.fixture(autouse=True)
def _close_figures():
    matplotlib.use("Agg")
    yield
    plt.close("all")


def patient(affine, bright_at, shape=(20, 20, 20)):
    """A grey patient with one bright block of 5 mm radius around a point given in mm from the centre, in RAS."""
    centre = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    places = indices @ affine[:3, :3].T + affine[:3, 3] - centre
    return np.where(np.abs(places - np.array(bright_at)).max(-1) < 5, 1000, 200).astype(np.int16)


def drawn_pixels(ax):
    """What is on the screen inside the Axes, as (rows, columns, RGB) from 0 to 255."""
    ax.figure.canvas.draw()
    screen = np.asarray(ax.figure.canvas.buffer_rgba())[..., :3].astype(int)
    box = ax.get_window_extent()
    height = screen.shape[0]
    return screen[round(height - box.y1) + 2 : round(height - box.y0) - 2, round(box.x0) + 2 : round(box.x1) - 2]


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize(
    ("plane", "bright_at", "expected"),
    [
        ("axial", (-7, 0, 0), "right"),  # the patient's left
        ("axial", (7, 0, 0), "left"),
        ("axial", (0, 7, 0), "top"),  # the front
        ("coronal", (-7, 0, 0), "right"),
        ("coronal", (0, 0, 7), "top"),
        ("sagittal", (0, 7, 0), "left"),
        ("sagittal", (0, 0, -7), "bottom"),
    ],
)
def test_sides_of_the_patient_appear_where_a_radiologist_looks_for_them(name, plane, bright_at, expected):
    volume = patient(AFFINES[name], bright_at)
    ax = show_slice(volume, AFFINES[name], plane=plane, index=10, marks=False, crop=False, window=(0, 1000))
    bright = np.argwhere(drawn_pixels(ax)[..., 0] > 230).mean(0) / drawn_pixels(ax).shape[:2]
    vertical, horizontal = bright
    found = {"left": horizontal < 0.45, "right": horizontal > 0.55, "top": vertical < 0.45, "bottom": vertical > 0.55}
    assert [side for side, there in found.items() if there] == [expected]


def test_the_letters_stand_on_the_sides_they_name():
    volume = patient(LPS, (0, 0, 0))
    for plane, letters in {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}.items():
        places = {text.get_text(): text.get_position() for text in show_slice(volume, LPS, plane=plane).texts}
        left, right, top, bottom = (places[letter] for letter in letters)
        assert left[0] < 0.5 < right[0]
        assert bottom[1] < 0.5 < top[1]


def test_turning_agrees_with_the_affine_and_copies_nothing():
    affine = AFFINES["axes in another order"]
    volume = np.arange(2 * 4 * 5 * 6).reshape(2, 4, 5, 6)
    turned, spacing = to_ras(volume, affine)
    assert turned.shape == (2, 6, 4, 5)
    assert spacing == (1.0, 2.0, 1.5)
    assert np.shares_memory(turned, volume)


def test_voxels_keep_their_proportions_and_the_scale_is_in_millimetres():
    affine = AFFINES["anisotropic"]
    pixels, size = cut(np.ones((20, 30, 10)), affine, plane="coronal", index=3)
    assert pixels.shape == (10, 20)
    assert size == (3.0, 1.0)
    ax = show_slice(np.ones((40, 30, 20)), affine, plane="coronal", index=3, crop=False)
    ax.figure.canvas.draw()
    box = ax.get_window_extent()
    assert box.width / box.height == pytest.approx(40 / 60, rel=0.02)
    bar = ax.lines[0].get_xdata()
    assert f"{bar[1] - bar[0]:.0f} mm" in [text.get_text() for text in ax.texts]


def test_the_scale_bar_of_a_small_picture_is_short():
    ax = show_slice(np.ones((60, 60, 10)), np.diag([-0.2, -0.2, 1.0, 1.0]))  # 12 mm, such as a mouse's brain
    assert np.ptp(ax.lines[-1].get_xdata()) == 2 and ax.texts[-1].get_text() == "2 mm"


def test_the_best_slice_has_the_largest_tumour_area_counted_from_below():
    classes = np.zeros((10, 10, 10), np.uint8)
    classes[2:8, 2:8, 3], classes[4, 4, 6] = 2, 3
    assert best_slice(classes, np.eye(4)) == 3
    assert best_slice(classes, np.diag([1.0, 1.0, -1.0, 1.0])) == 6
    assert best_slice(np.zeros_like(classes), np.eye(4)) == 5


def test_the_window_ignores_background_and_single_bright_voxels():
    volume = np.zeros((30, 30, 30))
    volume[5:25, 5:25, 5:25] = np.random.default_rng(0).normal(100, 5, (20, 20, 20))
    volume[10, 10, 10] = 1e6
    low, high = robust_window(volume)
    assert 80 < low < 100 < high < 120
    assert robust_window(np.zeros((3, 3, 3))) == (0.0, 1.0)
    missing = np.where(np.arange(30) < 4, np.nan, volume)
    missing[11, 11, 11] = np.inf
    assert robust_window(missing) == pytest.approx((low, high), abs=1)


def test_the_first_label_is_not_as_black_as_the_background():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[4:16, 4:16, 4:16], labels[6:10, 6:10, 6:10] = 1, 4
    assert robust_window(labels) == (0, 4)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
def test_a_mask_is_white_where_it_is_set(kind):
    mask = np.zeros((6, 7, 8), kind)
    mask[2:4, 2:5, 2:6] = 1
    picture = show_slice(mask, np.eye(4), index=3).images[0]
    assert picture.norm(picture.get_array().max()) == 1


def test_without_an_index_the_slice_shows_something():
    scan, brain = np.full((20, 24, 10), -1000.0), np.full((20, 24, 10), np.nan)
    scan[5:15, 5:15, 2:8] = np.arange(600).reshape(10, 10, 6) - 60  # one voxel is 0
    brain[5:15, 5:15, 3:5] = 7
    for volume in (scan, brain):
        drawn = show_slice(volume, LPS, window=(-100, 100), marks=False).images[0].get_array()
        assert np.count_nonzero(np.ma.filled(drawn, np.nan) > -1000) == 100


def test_background_is_black_for_normalised_intensities_too():
    volume = np.zeros((20, 20, 20))
    volume[5:15, 5:15, 5:15] = np.random.default_rng(0).normal(0, 1, (10, 10, 10))
    pixels = drawn_pixels(show_slice(volume, LPS, index=10, marks=False, crop=False))
    assert pixels[3, 3].max() == 0


def test_water_in_a_ct_slice_is_grey():
    scan = np.random.default_rng(0).integers(-150, 200, (20, 24, 10)).astype(float)  # as get_fdata returns it
    drawn = show_slice(scan, LPS, index=4, window=(-175, 250), marks=False).images[0].get_array()
    np.testing.assert_array_equal(drawn, cut(scan, LPS, plane="axial", index=4)[0])


def test_labels_are_drawn_in_the_colours_of_their_numbers():
    volume = np.full((30, 30, 30), 100.0)
    classes = np.zeros(volume.shape, np.uint8)
    classes[5:25, 5:25, 10:20] = 3
    ax = show_slice(volume, LPS, classes=classes, window=(0, 200), marks=False)
    red, green, blue = drawn_pixels(ax)[tuple(n // 2 for n in drawn_pixels(ax).shape[:2])]
    assert red > green > blue
    outline = [tuple(colour[:3]) for line in ax.collections for colour in line.get_edgecolor()]
    assert to_rgb(PALETTE[2]) in outline


def test_without_a_line_labels_have_no_contour():
    ax = plt.subplots()[1]
    draw_labels(ax, np.pad(np.ones((4, 4), np.uint8), 3), (1.0, 1.0), fill=0.5, line=0.0)
    assert len(ax.images) == 1 and not ax.collections


@pytest.mark.parametrize(
    ("shape", "wanted", "sentence"),
    [
        ((20, 20, 20), {"plane": "x"}, "there is no plane 'x'; choose one of axial"),
        ((20, 20, 10), {"index": 10}, "there is no axial slice 10; this volume has 0 to 9"),
        ((4, 20, 20, 20), {}, r"the volume has shape \(4, 20, 20, 20\); give one of shape \(X, Y, Z\)"),
    ],
)
def test_a_slice_that_does_not_exist_is_one_sentence(shape, wanted, sentence):
    with pytest.raises(ValueError, match=sentence):
        show_slice(np.ones(shape), LPS, **wanted)


def test_labels_of_another_grid_are_not_drawn():
    with pytest.raises(ValueError, match=r"classes has shape \(20, 20, 10\), the volume \(20, 20, 20\)"):
        show_slice(np.ones((20, 20, 20)), LPS, classes=np.ones((20, 20, 10), np.uint8))


def test_a_window_may_be_an_array():
    volume = patient(LPS, (0, 0, 0))
    picture = show_slice(volume, LPS, window=np.percentile(volume, [0, 100])).images[0]
    assert (picture.norm.vmin, picture.norm.vmax) == (200, 1000)


def test_a_focus_sets_the_frame():
    volume, labels = np.ones((40, 40, 20)), np.zeros((40, 40, 20), np.uint8)
    labels[18:24, 10:16, 8:12] = 2
    whole, near = (show_slice(volume, LPS, classes=labels, focus=focus) for focus in (None, labels))
    assert np.ptp(near.get_xlim()) < np.ptp(whole.get_xlim())


def test_labels_may_be_floats_as_nibabel_reads_them():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:9, 5:9, 10], labels[7:9, 7:9, 10] = 1, 4
    whole, read = (show_slice(patient(LPS, (0, 0, 0)), LPS, classes=each) for each in (labels, labels.astype(float)))
    assert np.array_equal(drawn_pixels(whole), drawn_pixels(read))


def test_a_background_that_is_no_number_is_cropped_as_one_of_0_is():
    volume = np.zeros((60, 60, 40))
    volume[25:35, 25:35, 15:25] = 100
    black, absent = (show_slice(each, LPS) for each in (volume, np.where(volume == 0, np.nan, volume)))
    assert (absent.get_xlim(), absent.get_ylim()) == (black.get_xlim(), black.get_ylim())
    assert np.ptp(black.get_xlim()) < 25


def test_a_picture_in_a_palette_is_smaller_and_looks_the_same():
    ax = show_slice(patient(LPS, (0, 0, 0)), LPS)
    stream = io.BytesIO()
    ax.figure.savefig(stream, format="png")
    small = to_palette(stream.getvalue())
    assert len(small) < len(stream.getvalue())
    before, after = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int) for png in (stream.getvalue(), small))
    assert np.abs(before - after).mean() < 3
