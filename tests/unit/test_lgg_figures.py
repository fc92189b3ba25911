"""Pictures of slices say what is in the arrays."""

import io

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from helpers.extras.lgg.figures import (
    FALSE,
    FOUND,
    MISSED,
    SEARCH_PICTURES,
    animate_patient,
    mark_errors,
    show_gallery,
    show_patient,
    show_search,
)
from helpers.extras.lgg.scores import ScoredPatient, score_slices
from helpers.extras.lgg.search import SearchSpace
from helpers.plots.case import apply_style


@pytest.fixture(autouse=True)
def _style():
    apply_style()
    yield
    plt.close("all")


@pytest.fixture
def patient():
    images = np.random.default_rng(0).integers(0, 255, (5, 3, 256, 256), dtype=np.uint8)
    reference, prediction = np.zeros((2, 5, 256, 256), bool)
    reference[2, 50:80, 50:80] = prediction[2, 60:90, 50:80] = True
    return ScoredPatient("TCGA_AA_1", images, reference, prediction, 2 / 3)


def test_every_kind_of_pixel_has_its_colour(patient):
    marked = mark_errors(np.zeros((256, 256)), patient.prediction[2], patient.reference[2])
    for place, colour in (((70, 60), FOUND), ((55, 60), MISSED), ((85, 60), FALSE)):
        assert marked[place] == pytest.approx(0.65 * np.array(to_rgb(colour)))
    assert (marked[0] == 0).all()


def test_a_film_has_a_picture_for_every_slice(patient):
    with Image.open(io.BytesIO(animate_patient(patient.images, patient.reference, edge=64))) as film:
        assert (film.n_frames, film.size) == (5, (128, 64))


def test_all_slices_are_there_and_the_gallery_names_them(patient):
    shown = show_patient(patient.images, patient.reference, columns=3)
    assert [ax.get_title(loc="left") for ax in shown.axes] == ["1", "2", "3", "4", "5", ""]
    gallery = show_gallery([patient], score_slices([patient]).iloc[[2]])
    assert gallery.axes[0].get_title(loc="left") == "Dice 0.67\nGA_AA_1, slice 3"


@pytest.mark.filterwarnings("ignore")
def test_a_search_is_drawn_without_changing_the_style_of_what_follows():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
    assert show_search(study, "history") is None
    before = dict(plt.rcParams)
    study.optimize(lambda trial: SearchSpace().suggest(trial)["dropout"], n_trials=4)
    assert all(show_search(study, kind).axes for kind in SEARCH_PICTURES)
    assert dict(plt.rcParams) == before
