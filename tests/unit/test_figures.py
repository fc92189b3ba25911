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
from helpers.plots.cohort import summarise_case
from helpers.regions import CLASS_COLOURS, REGIONS
from tests.cases import LPS, case_arrays


@pytest.fixture(autouse=True)
def _close_figures():
    matplotlib.use("Agg")
    figures.apply_style()
    yield
    plt.close("all")


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
