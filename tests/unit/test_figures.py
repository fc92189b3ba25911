"""Figures: left and right on the screen by pixels, colours and scale, and every figure drawn from data of every shape."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from helpers.evaluation.metrics import score_case
from helpers.plots import (
    case as figures,
)
from helpers.plots import (
    cohort,
    readme,
    results,
)
from helpers.plots.case import (
    best_slice,
    cut,
    robust_window,
    show_slice,
    to_ras,
)
from helpers.plots.cohort import summarise_case
from helpers.regions import CLASS_COLOURS, REGIONS
from tests.cases import LPS, case_arrays

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
    figures.apply_style()
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


def test_background_is_black_for_normalised_intensities_too():
    volume = np.zeros((20, 20, 20))
    volume[5:15, 5:15, 5:15] = np.random.default_rng(0).normal(0, 1, (10, 10, 10))
    pixels = drawn_pixels(show_slice(volume, LPS, index=10, marks=False, crop=False))
    assert pixels[3, 3].max() == 0


def test_labels_are_drawn_in_the_colours_of_their_classes():
    volume = np.full((30, 30, 30), 100.0)
    classes = np.zeros(volume.shape, np.uint8)
    classes[5:25, 5:25, 10:20] = 3
    ax = show_slice(volume, LPS, classes=classes, window=(0, 200), marks=False)
    red, green, blue = drawn_pixels(ax)[tuple(n // 2 for n in drawn_pixels(ax).shape[:2])]
    assert red > green > blue
    outline = [tuple(colour[:3]) for line in ax.collections for colour in line.get_edgecolor()]
    assert to_rgb(CLASS_COLOURS[3]) in outline


def summaries(count=6):
    made = []
    for seed in range(count):
        image, classes = case_arrays(seed=seed)
        made.append(summarise_case(f"Case_{seed}", image, np.roll(classes, seed - 3, axis=0) * (image[0] != 0), LPS))
    return made


def test_a_summary_holds_counts_volumes_and_sides_of_the_patient():
    image, classes = case_arrays()
    summary = summarise_case("Case", image, classes, np.diag([-2.0, -1.0, 3.0, 1.0]))
    assert summary.voxels == {value: int((classes == value).sum()) for value in range(4)}
    assert summary.volumes_ml["WT"] == pytest.approx((classes > 0).sum() * 6 / 1000)
    assert summary.intensities[:, 1].sum(-1).tolist() == [int((classes > 0).sum())] * 4
    assert summary.areas_cm2[REGIONS.index("WT")].max() == pytest.approx((classes > 0).sum((0, 1)).max() * 2 / 100)
    tumour, brain = summary.shadows["axial"]
    # The tumour of `case_arrays` lies at high x, which this affine makes the patient's left: low x once turned to RAS.
    assert np.argwhere(tumour)[:, 0].mean() < np.argwhere(brain)[:, 0].mean()
    assert (brain | ~tumour).all()


@pytest.mark.parametrize("count", [1, 6])
def test_cohort_figures_draw_for_one_case_and_for_several(count, tmp_path):
    cases = summaries(count)
    drawn = [cohort.show_class_balance(cases).figure, cohort.show_volumes(cases).figure, cohort.show_intensities(cases)]
    drawn += [cohort.show_locations(cases), cohort.show_tumour_by_slice(cases).figure]
    for number, figure in enumerate(drawn):
        figure.savefig(tmp_path / f"{number}.png")


def test_cohort_figures_draw_without_any_tumour():
    image, classes = case_arrays()
    cases = [summarise_case("healthy", image, np.zeros_like(classes), LPS)]
    assert "absent in 1 of 1" in "".join(text.get_text() for text in cohort.show_volumes(cases).texts)
    cohort.show_class_balance(cases)
    cohort.show_intensities(cases)
    cohort.show_locations(cases)
    assert "100 %" in cohort.show_tumour_by_slice(cases).get_title(loc="left")


def test_the_four_panes_have_labels_below_only_where_there_are_labels():
    image, classes = case_arrays()
    panes = figures.show_modalities(image, LPS, classes=classes, title="Case").axes
    assert len(panes) == 8
    assert [ax.get_title(loc="left") for ax in panes[:4]] == ["T1", "T1ce", "T2", "FLAIR"]
    assert len(figures.show_modalities(image, LPS).axes) == 4
    assert len(figures.show_planes(image[3], LPS, classes=classes).axes) == 3


def test_missed_and_falsely_marked_voxels_are_drawn_apart():
    image, classes = case_arrays()
    shifted = np.roll(classes, 2, axis=0)
    axes = figures.show_prediction(image[3], LPS, reference=classes, prediction=shifted)
    colours = {tuple(colour[:3]) for line in axes[2].collections for colour in line.get_edgecolor()}
    assert {to_rgb(colour) for colour in figures.ERROR_COLOURS.values()} <= colours
    assert not figures.show_prediction(image[3], LPS, reference=classes, prediction=classes)[2].collections
    case = figures.Comparison(image[3], LPS, classes, shifted, "worst: Case, Dice 0.70")
    assert len(figures.show_gallery([case, case]).axes) == 6


def score_tables():
    tables = []
    for shift in (1, 2):
        rows = []
        for seed in range(7):
            _, classes = case_arrays(seed=seed)
            rows.append(score_case(np.roll(classes, shift + seed % 2, axis=1), classes, (1, 1, 1)).assign(case=f"c{seed}"))
        tables.append(pd.concat(rows))
    return tables


def test_scores_show_every_case_and_the_mean():
    scores, _ = score_tables()
    for metric in ("dice", "hd95"):
        ax = results.show_scores(scores, metric=metric)
        assert [len(dots.get_offsets()) for dots in ax.collections] == [7, 7, 7]
        ax.figure.canvas.draw()
    results.show_scores(scores[scores["case"] == "c0"])


def test_a_paired_figure_says_the_difference_and_needs_the_same_cases():
    first, second = score_tables()
    axes = results.show_paired(first, second, names=("A", "B"))
    assert "B − A: -" in axes[1].get_xlabel()
    assert "better in 0 of 7" in axes[1].get_xlabel()
    with pytest.raises(ValueError, match="same test set"):
        results.show_paired(first, second[second["case"] != "c1"], names=("A", "B"))


def test_the_learning_curves_mark_the_best_validation():
    dice = [np.nan, 0.5, np.nan, 0.7, np.nan, 0.6]
    history = pd.DataFrame({"step": range(1, 7), "train_loss": np.linspace(2, 1, 6), "dice_mean": dice})
    history = history.assign(**{f"dice_{region}": dice for region in REGIONS})
    _, scores = results.show_history(history, smooth=2).axes
    assert "0.700 at step 4" in scores.get_title(loc="left")
    results.show_history(history.assign(dice_mean=np.nan))


def test_the_readme_figure_is_small_and_keeps_the_colours(tmp_path):
    image, classes = case_arrays((60, 70, 50))
    path = readme.save_small(figures.show_modalities(image, LPS, classes=classes), tmp_path / "images" / "panes.png")
    assert path.stat().st_size < 300_000
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).astype(int)
    for colour in CLASS_COLOURS.values():
        assert np.abs(pixels - 255 * np.array(to_rgb(colour))).max(1).min() < 16
