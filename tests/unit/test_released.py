"""The released model: it agrees with its card and with this package, and it segments what it has never seen."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import release
from benchmarks.release import release_checkpoints
from brats_cohort.files import DataError
from brats_cohort.regions import MODALITIES, REGIONS
from brats_cohort.testing import write_case
from glioma_phantom import PhantomSettings, make_phantom
from helpers.cli import main
from helpers.data.preprocess import PreprocessSettings, preprocess_image
from helpers.evaluation.metrics import score_case
from helpers.evaluation.predict import segment_prepared
from helpers.models import checkpoints as released
from helpers.models.checkpoints import ModelCard, load_checkpoint, load_released, save_checkpoint
from helpers.models.networks import build_network
from helpers.workspace import REPOSITORY
from tests.cases import REAL_CASES

TINY = {"channels": (4, 8), "num_res_units": 1}
CARD = ModelCard("unet", TINY, {"spacing": (1.0, 1.0, 1.0), "normalise": "zscore"}, (16, 16, 16))
WEIGHTS = released.RELEASED / "phantom.safetensors"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="this copy of the package has no released weights")
FIRST = 2000
"""Number of the first phantom of these tests."""


def test_compact_weights_take_a_third_of_the_space_and_differ_by_half_a_step_at_most(tmp_path):
    network = build_network("unet", **TINY)
    for name, compact in (("full", False), ("compact", True)):
        save_checkpoint(tmp_path / f"{name}.safetensors", network, CARD, compact=compact)
    loaded, card = load_checkpoint(tmp_path / "compact.safetensors")
    for found, wanted in zip(loaded.parameters(), network.parameters(), strict=True):
        largest = wanted.abs().flatten(1).amax(1) if wanted.ndim > 1 else wanted.abs()
        step = (largest / 127).view(-1, *[1] * (wanted.ndim - 1))
        assert found.dtype == torch.float32 and ((found - wanted).abs() <= 0.52 * step + 1e-6).all()
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "compact")]
    assert sizes[1] < 0.4 * sizes[0]
    save_checkpoint(tmp_path / "again.safetensors", loaded, card, compact=True)
    again, _ = load_checkpoint(tmp_path / "again.safetensors")
    assert all(torch.equal(*pair) for pair in zip(again.parameters(), loaded.parameters(), strict=True)), "no second loss"


def test_weights_beyond_half_precision_are_refused(tmp_path):
    network = build_network("unet", **TINY)
    torch.nn.init.constant_(next(network.parameters()), 1e8)
    with pytest.raises(DataError, match="half precision"):
        save_checkpoint(tmp_path / "compact.safetensors", network, CARD, compact=True)


def test_releasing_a_checkpoint_keeps_its_card_and_refuses_large_ones(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "best.safetensors", build_network("unet", **TINY), replace(CARD, metrics={"dice_mean": 0.5}))
    folder = tmp_path / "released"
    monkeypatch.setattr(released, "RELEASED", folder)
    release_checkpoints([tmp_path / "best.safetensors"], name="small")
    network, card = load_released("small")
    assert card.metrics == {"dice_mean": 0.5} and not network.training
    assert len(list(folder.iterdir())) == 2
    monkeypatch.setattr(release, "LIMIT", 100)
    with pytest.raises(DataError, match="at most 100"):
        release_checkpoints([tmp_path / "best.safetensors"], name="small")
    assert len(list(folder.iterdir())) == 2 and load_released("small")


def test_networks_of_different_kinds_are_released_as_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(released, "RELEASED", tmp_path / "released")
    paths, image = [], torch.rand(1, 4, 16, 16, 16)
    for name, arguments in (("unet", TINY), ("segresnet", {"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)})):
        paths.append(tmp_path / f"{name}.safetensors")
        card = replace(CARD, network=name, arguments=arguments)
        save_checkpoint(paths[-1], build_network(name, **arguments), card, compact=True)
    network, card = load_checkpoint(release_checkpoints(paths))
    with torch.no_grad():
        members = [load_checkpoint(path)[0](image).sigmoid() for path in paths]
        assert torch.allclose(network(image).sigmoid(), sum(members) / 2, atol=1e-5)
    assert [member["network"] for member in card.arguments["members"]] == ["unet", "segresnet"]


def test_prediction_without_a_checkpoint_takes_the_released_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(released, "RELEASED", tmp_path)
    case = write_case(tmp_path / "cohort")
    words = ["predict", str(tmp_path / "cohort"), "--out", str(tmp_path / "seg.nii.gz"), "--device", "cpu"]
    assert main(words) == 1 and "without the released model phantom" in capsys.readouterr().err
    save_checkpoint(tmp_path / "phantom.safetensors", build_network("unet", **TINY), CARD)
    assert main(words) == 0
    assert main(["evaluate", str(tmp_path / "seg.nii.gz"), str(case.label)]) == 0


@needs_weights
def test_weights_card_and_code_agree():
    network, card = load_released()
    assert sum(path.stat().st_size for path in WEIGHTS.parent.glob("*.safetensors")) <= 10_000_000
    assert (card.modalities, card.regions) == (MODALITIES, REGIONS)
    assert json.loads(WEIGHTS.with_suffix(".json").read_text())["weights_sha256"] == card.weights_sha256
    assert not card.training_cases  # phantoms that nobody kept: no case of any cohort was among them
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values() if tensor.is_floating_point())


@needs_weights
def test_the_page_for_people_speaks_of_these_weights():
    _, card = load_released()
    page = (REPOSITORY / "MODEL_CARD.md").read_text()
    assert card.weights_sha256 in page
    assert "not for clinical use" in page


@needs_weights
def test_phantoms_never_seen_are_segmented():
    network, card = load_released()
    settings = PhantomSettings(spacing=card.spacing[0])
    preprocessing = PreprocessSettings(**card.preprocessing)
    scores = []
    for index in range(FIRST, FIRST + 3):  # of the notebooks' cohort, which shares no random number with the stream
        phantom = make_phantom(index, settings)
        prepared = preprocess_image(phantom.image, phantom.affine, preprocessing, classes=phantom.classes)
        classes = segment_prepared(network, card, prepared.image)
        scores.append(score_case(classes, prepared.classes, card.spacing)["dice"].mean())
    assert np.mean(scores) >= 0.8


@needs_weights
@pytest.mark.skipif(not REAL_CASES.is_dir(), reason="there are no real cases beside this checkout")
def test_a_real_case_is_segmented_by_two_commands(tmp_path, capsys):
    folder = REAL_CASES / "brats2021" / "BraTS2021_01476"
    out = tmp_path / "seg.nii.gz"
    assert main(["predict", str(folder), "--out", str(out)]) == 0
    assert main(["evaluate", str(out), str(folder / f"{folder.name}_seg.nii.gz")]) == 0
    assert "Dice WT" in capsys.readouterr().out
