"""Crops, scores and trainings on CT: what a crop consists of, windows over a scan, the engine with fourteen classes."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from glioma_phantom.abdomen import CtPhantomSettings
from helpers.data.cases import read_volume
from helpers.extras.ct.crops import CropSource
from helpers.extras.ct.organs import NUMBERS, ORGANS
from helpers.extras.ct.phantom import write_ct_phantoms
from helpers.extras.ct.preparation import CtPreparation
from helpers.extras.ct.prepared import PreparedCtFile, prepare_ct_cohort
from helpers.extras.ct.scores import (
    count_windows,
    organ_table,
    predict_ct,
    predict_scan,
    score_organs,
    write_scan,
)
from helpers.extras.ct.training import CtSettings, swin_settings, train_ct
from helpers.models.checkpoints import load_checkpoint
from helpers.models.networks import build_network
from helpers.workspace import DataError

COARSE = CtPreparation(spacing=(8, 8, 10))
OWN = CtSettings(roi=(64, 32, 32), randcrop=(64, 32, 32), randcrop_samples=2, preparation=COARSE)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct")
    cohort = write_ct_phantoms(folder / "data", 3, CtPhantomSettings(spacing=(6, 6, 6), seed=3))
    paths, _ = prepare_ct_cohort(cohort.cases, folder / "prepared", COARSE)
    return cohort, list(paths.values())


def source(paths, **changes):
    options = {"classes": 14, "preprocessing": OWN.preprocessing, "randcrop": (32, 16, 16), "count": 60, "seed": 1}
    return CropSource(paths, **{**options, **changes})


def test_a_crop_is_a_pure_function_of_its_number(scans):
    crops = source(scans[1])
    again = pickle.loads(pickle.dumps(source(scans[1], count=1000)))
    for number in (0, 7, 59):
        assert all(torch.equal(crops[number][key], again[number][key]) for key in ("image", "regions"))
    assert crops.fingerprint == again.fingerprint != source(scans[1], seed=2).fingerprint
    assert crops[3]["image"].shape == (1, 32, 16, 16)
    assert (crops[3]["regions"].sum(0) == 1).all()  # every voxel has exactly one class


def test_several_crops_come_from_a_scan_before_the_next_has_its_turn(scans):
    crops = source(scans[1], samples=4)
    turns = [crops.scan(number).identifier for number in range(12)]
    assert turns == [turns[0]] * 4 + [turns[4]] * 4 + [turns[8]] * 4
    assert len(set(turns)) == 3


@pytest.mark.parametrize(("positive", "negative", "share"), [(1, 0, 1.0), (0, 1, 0.0), (3, 1, 0.75)])
def test_crops_lie_around_organs_in_the_ratio_asked_for(scans, positive, negative, share):
    crops, file = source(scans[1], positive=positive, negative=negative), PreparedCtFile(scans[1][0])
    labels = file.load().labels
    found = [labels[tuple(crops.centre(file, np.random.default_rng(number)))] for number in range(400)]
    assert np.mean(np.array(found) > 0) == pytest.approx(share, abs=0.08)
    if share == 1:
        assert np.unique(found, return_counts=True)[1].min() > 10  # small organs as often as the liver


@pytest.mark.parametrize("changes", [{"samples": 0}, {"positive": 0, "negative": 0}, {"paths": []}])
def test_crops_that_cannot_be_are_refused(scans, changes):
    with pytest.raises(DataError):
        source(changes.pop("paths", scans[1]), **changes)


def test_window_and_crop_are_set_apart_and_checked():
    assert CtSettings(roi=(96, 96, 64), randcrop=(64, 64, 64)).roi == (96, 96, 64)
    for wrong in ({"roi": (48, 96, 96)}, {"randcrop": (32, 32, 32)}, {"overlap": 1.0}, {"flips": 2}):
        with pytest.raises(DataError):
            CtSettings(**wrong)
    assert CtSettings.of_card(CtSettings(roi=(64, 64, 32)).preprocessing).roi == (64, 64, 32)


def test_swin_unetr_in_three_sizes_with_and_without_what_saves_memory():
    sizes = [
        sum(p.numel() for p in build_network("swin_unetr", **swin_settings(OWN, feature_size=size).arguments).parameters())
        for size in (12, 24)
    ]
    assert [round(size / 1e6) for size in sizes] == [4, 16]
    settings = swin_settings(OWN, feature_size=48, checkpointing=True, amp=False, window_size=7)
    assert settings.arguments["use_checkpoint"]
    assert settings.precision == "32-true"
    assert settings.arguments["window_size"] == 7
    with pytest.raises(DataError, match="feature_size"):
        swin_settings(OWN, feature_size=36)


class Threshold(nn.Module):
    """Calls bright voxels liver and all else background."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.windows = 0

    def forward(self, image):
        self.windows += len(image)
        logits = image.new_zeros(len(image), 14, *image.shape[2:])
        logits[:, NUMBERS["liver"]] = image[:, 0] * self.weight - 0.6
        return logits


@pytest.mark.parametrize("overlap", [0.5, 0.7])
def test_windows_of_any_overlap_answer_as_the_whole_scan_would(scans, overlap):
    image, network, roi = PreparedCtFile(scans[1][0]).load().image, Threshold().eval(), (32, 16, 16)
    found = predict_ct(network, image, roi=roi, overlap=overlap)
    assert network.windows == count_windows(image.shape[1:], roi=roi, overlap=overlap)
    clear = np.abs(image[0].astype(float) - 0.6) > 0.001
    assert np.array_equal((found == NUMBERS["liver"])[clear], image[0][clear] > 0.6)


def test_prediction_comes_back_on_the_grid_of_the_file(scans, tmp_path):
    image = scans[0].cases[0].image
    labels, affine = predict_scan(Threshold().eval(), image, COARSE, roi=(32, 32, 32))
    written, own = read_volume(write_scan(tmp_path / "prediction.nii.gz", labels, affine, like=image))
    volume, wanted = read_volume(image)
    assert written.shape == volume.shape
    assert np.allclose(own, wanted)
    assert volume[written > 0].mean() > volume[written == 0].mean() + 100


def test_scores_by_organ_with_the_rule_for_absent_ones():
    reference, prediction = (np.zeros((20, 20, 20), np.uint8) for _ in range(2))
    reference[2:8, 2:8, 2:8], prediction[3:9, 2:8, 2:8] = NUMBERS["spleen"], NUMBERS["spleen"]
    reference[12:15, 12:15, 12:15] = NUMBERS["aorta"]
    scores = score_organs(prediction, reference, ORGANS, np.diag([2.0, 1, 1, 1])).set_index("organ")
    assert scores.loc["spleen", "dice"] == pytest.approx(5 / 6)
    assert scores.loc["spleen", "hd95"] == 2.0
    assert scores.loc["aorta", "dice"] == 0
    assert math.isnan(scores.loc["aorta", "hd95"])
    assert scores.loc["pancreas", "dice"] == 1
    table = organ_table(scores.reset_index())
    assert table.loc["aorta", "missing"] == table.loc["mean", "missing"] == 1
    assert table.loc["mean", "dice"] == pytest.approx((11 + 5 / 6) / 13)


def test_the_engine_trains_fourteen_classes_and_goes_on_from_its_checkpoint(scans, tmp_path):
    _, paths = scans
    settings = replace(swin_settings(OWN, steps=2, batch=1, validate_every=2), network="unet", warmup=0.5)
    settings = replace(settings, arguments={"in_channels": 1, "out_channels": 14, "channels": (4, 8)})
    result = train_ct(settings, OWN, training=paths[:2], validation=paths[2:], out=tmp_path / "first")
    assert {f"dice_{organ}" for organ in ORGANS} <= set(result.history)
    assert "dice_background" not in result.history
    network, card = load_checkpoint(result.checkpoint, glioma=False)
    assert card.activation == "softmax"
    assert CtSettings.of_card(card.preprocessing).preparation == COARSE
    assert card.training_cases == tuple(sorted(PreparedCtFile(path).identifier for path in paths[:2]))
    further = replace(settings, pretrained=str(result.checkpoint), steps=1, learning_rate=1e-12, warmup=0.0, weight_decay=0.0)
    second = train_ct(further, OWN, training=paths[:2], validation=paths[2:], out=tmp_path / "second")
    tuned, _ = load_checkpoint(second.checkpoint, glioma=False)
    assert all(torch.allclose(a, b) for a, b in zip(network.parameters(), tuned.parameters(), strict=True))
    with pytest.raises(DataError, match="abdominal CT"):
        load_checkpoint(result.checkpoint)


def test_self_supervised_weights_of_the_encoder_are_taken(scans, tmp_path):
    settings = swin_settings(OWN, steps=1, batch=1, learning_rate=1e-12)
    encoder = {
        name.removeprefix("swinViT."): torch.randn_like(weight)
        for name, weight in build_network("swin_unetr", **settings.arguments).state_dict().items()
        if name.startswith("swinViT.") and weight.is_floating_point()
    }
    torch.save({"state_dict": encoder}, tmp_path / "model_swinvit.pt")
    settings = replace(settings, pretrained=str(tmp_path / "model_swinvit.pt"), weight_decay=0.0)
    result = train_ct(settings, OWN, training=scans[1][:2], validation=scans[1][2:], out=tmp_path / "model")
    network, _ = load_checkpoint(result.checkpoint, glioma=False)
    weights = network.state_dict()
    assert all(torch.allclose(weights[f"swinViT.{name}"], value, atol=1e-6) for name, value in encoder.items())
