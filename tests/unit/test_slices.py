"""Slices in training: what a network is given, what comes back, and how it is scored."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from helpers.extras.lgg.air import air_floor, count_values, tissue
from helpers.extras.lgg.cohort import find_slices, read_patient
from helpers.extras.lgg.scores import (
    SlicePatients,
    predict_slices,
    score_patient,
    score_slices,
    summarise_scores,
)
from helpers.extras.lgg.search import slice_settings, train_slices
from helpers.extras.lgg.slices import (
    SlicePreparation,
    SliceSource,
    channel_statistics,
    slice_changes,
)
from helpers.models.checkpoints import load_checkpoint
from helpers.training.before.source import PatchSource, ValidationSource
from helpers.workspace import DataError
from tests.unit.test_lgg import REAL, write_patient


class Bright(nn.Module):
    """Says tumour where the second channel is above a limit, in units of the preparation."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = nn.Parameter(torch.tensor(limit))

    def forward(self, image):
        return (image[:, 1:2] - self.limit) * 100


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Three patients whose middle slice has a square of tumour."""
    folder = tmp_path_factory.mktemp("slices")
    for number in range(3):
        write_patient(folder, f"TCGA_AA_{number}", tumour=900, count=4)
    return find_slices(folder)


@pytest.fixture(scope="module")
def preparation(patients):
    return SlicePreparation(64, *channel_statistics(patients.values()))


def head(*, noise, seed=0):
    """Slices uint8 (2, 3, 256, 256) of a bright disc with a dark core, and where the disc is; air has noise up to a value."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:256, :256] - 128
    radius = np.hypot(rows, columns)
    images = generator.integers(0, noise + 1, (2, 3, 256, 256))
    images[..., (radius < 80) & (radius > 15)] = 0
    disc = generator.integers(110, 150, images.shape) * ((radius < 80) & (radius > 15))
    return (images + disc).astype(np.uint8), radius < 80


@pytest.mark.parametrize("noise", [0, 9])
def test_noise_in_the_air_is_no_tissue_and_fluid_is(noise):
    images, disc = head(noise=noise)
    images[:, :, 5:200:15, 5] = 90  # single bright pixels
    found = tissue(images, air_floor(count_values(images)))
    assert (found != disc).mean() < 0.002
    assert found[:, 128, 128].all()


def test_statistics_and_preparation_do_not_depend_on_noise_in_the_air(tmp_path):
    made = {}
    for noise in (0, 9):
        write_patient(tmp_path / str(noise), "TCGA_AA_1", images=head(noise=noise)[0])
        made[noise] = SlicePreparation(256, *channel_statistics(find_slices(tmp_path / str(noise)).values()))
    quiet, noisy = (made[noise](head(noise=noise)[0]) for noise in made)
    assert np.allclose(made[0].mean, made[9].mean, rtol=0.01) and np.allclose(made[0].std, made[9].std, rtol=0.05)
    assert (noisy[:, :, :40] == 0).all()
    assert ((quiet == 0) == (noisy == 0)).float().mean() > 0.998


def test_statistics_are_those_of_all_tissue(patients):
    images = np.concatenate([read_patient(slices)[0] for slices in patients.values()])
    mean, std, floor = channel_statistics(patients.values())
    inside = tissue(images, floor)
    for channel in range(3):
        pixels = images[:, channel][inside].astype(float)
        assert (mean[channel], std[channel]) == (pytest.approx(pixels.mean()), pytest.approx(pixels.std()))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real cases for development are not on this machine")
def test_real_slices_have_air_that_is_not_black_and_heads_that_are_whole():
    for slices in find_slices(REAL).values():
        images, masks = read_patient(slices)
        middle = slice(len(images) // 2 - 1, len(images) // 2 + 1)
        found = tissue(images[middle], air_floor(count_values(images)))
        assert 0.25 < found.mean() < 0.6
        assert not found[:, :8, :8].any()
        assert found[masks[middle]].all()


def test_air_stays_zero_and_the_way_back_is_the_grid_of_the_files(preparation):
    images = np.zeros((2, 3, 256, 256), np.uint8)
    images[:, :, 64:192, 64:192] = 130
    pixels = preparation(images)
    assert pixels.shape == (2, 3, 64, 64)
    assert (pixels[:, :, :14] == 0).all() and (pixels[:, :, 20:40, 20:40] != 0).all()
    masks = np.zeros((1, 256, 256), bool)
    masks[0, 64:192, 64:192] = True
    back = preparation.back(preparation.masks(masks).float()) >= 0.5
    assert back.shape == (1, 256, 256)
    assert (back != masks).mean() < 0.01


def test_a_preparation_survives_the_card(preparation):
    assert SlicePreparation.of_card(preparation.preprocessing) == preparation
    assert preparation.preprocessing["spacing"] == (4.0, 4.0)


def test_slice_n_is_a_function_of_the_seed_and_n(patients, preparation):
    source, again = (SliceSource(patients, preparation, patch=48, count=count, seed=3) for count in (50, 40))
    assert isinstance(source, PatchSource) and isinstance(SlicePatients(patients, preparation), ValidationSource)
    items = [source[number] for number in range(6)]
    for number in (5, 0, 3):
        for key in ("image", "regions"):
            assert torch.equal(items[number][key], again[number][key])
    assert items[0]["image"].shape == (3, 48, 48) and items[0]["regions"].shape == (1, 48, 48)
    assert source.fingerprint == again.fingerprint != SliceSource(patients, preparation, patch=48, count=50, seed=4).fingerprint


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_slices_with_tumour_are_drawn_as_often_as_asked(patients, preparation, share):
    source = SliceSource(patients, preparation, patch=64, count=400, seed=1, tumour_share=share, augment=False)
    drawn = np.mean([source[number]["regions"].any().item() for number in range(400)])
    assert drawn == pytest.approx(share, abs=0.08)


def test_masks_stay_masks_and_lie_on_the_tumour(preparation):
    image, label = torch.full((3, 64, 64), 0.1), torch.zeros(1, 64, 64, dtype=torch.uint8)
    label[0, 20:40, 10:30] = 1
    image[:, label[0] > 0] = 5.0
    for name, change in slice_changes(always=True).items():
        change.set_random_state(seed=1)
        changed = change({"image": image.clone(), "label": label.clone()})
        assert set(torch.unique(torch.as_tensor(changed["label"])).tolist()) == {0, 1}, name
        tumour = torch.as_tensor(changed["label"])[0] > 0
        assert ((torch.as_tensor(changed["image"])[0] > 2.5) == tumour).float().mean() > 0.97, name


def test_a_crop_larger_than_the_slice_is_refused(patients, preparation):
    with pytest.raises(DataError, match="crops of 96"):
        SliceSource(patients, preparation, patch=96, count=1, seed=1)


def test_empty_slices_and_patients_are_scored_by_the_rule(patients, preparation):
    slices = patients["TCGA_AA_0"]
    silent = score_patient(Bright(1e3).eval(), preparation, slices)
    assert not silent.prediction.any() and silent.dice == 0
    table = score_slices([silent])
    assert table["dice"].tolist() == [1, 0, 1, 1]
    noisy = replace(silent, prediction=np.ones_like(silent.reference))
    assert score_slices([noisy])["dice"].tolist()[0] == 0
    assert score_slices([noisy])["false"].sum() == 4 * 65536 - 900
    summary = summarise_scores([silent])
    assert (summary["Dice by slice"], summary["Dice by slice with tumour"]) == (0.75, 0.0)
    assert summary["empty slices with a false alarm"] == 0


def test_a_patient_is_more_than_the_mean_of_slices():
    from helpers.extras.lgg.scores import ScoredPatient

    reference, prediction = np.zeros((2, 4, 256, 256), bool)
    reference[1, :10, :10] = prediction[1, :10, :5] = prediction[3, 0, :10] = True
    one = ScoredPatient("A", np.zeros((4, 3, 256, 256), np.uint8), reference, prediction, 2 * 50 / (100 + 60))
    assert summarise_scores([one])["Dice by slice"] == pytest.approx((1 + 2 * 50 / 150 + 1 + 0) / 4)


def test_prediction_is_on_the_grid_of_the_files(preparation):
    images = np.full((20, 3, 256, 256), 60, np.uint8)
    images[:, :, 100:180, 40:120] = 250
    probabilities = predict_slices(Bright(0.5).eval(), preparation, images)
    assert probabilities.shape == (20, 256, 256) and probabilities.dtype == np.float32
    assert ((probabilities >= 0.5) == (images[:, 1] > 200)).mean() > 0.99


def test_a_network_of_slices_is_trained_by_the_engine_and_scores_what_it_says(patients, preparation, tmp_path):
    settings = slice_settings(filters=4, levels=3, patch=48, steps=4, validate_every=2, batch=4)
    names = list(patients)
    parts = [{name: patients[name] for name in chosen} for chosen in (names[:2], names[2:])]
    result = train_slices(settings, preparation, training=parts[0], validation=parts[1], out=tmp_path)
    network, card = load_checkpoint(result.checkpoint, glioma=False)
    assert (card.task, card.modalities, card.training_cases) == ("lgg", ("t1", "flair", "t1ce"), tuple(names[:2]))
    scored = score_patient(network, SlicePreparation.of_card(card.preprocessing), patients[names[2]])
    assert scored.dice == pytest.approx(result.best_dice)
    with pytest.raises(DataError, match="is in both"):
        train_slices(settings, preparation, training=parts[0], validation=parts[0], out=tmp_path)
