"""The released model: it agrees with its card and with this package, and it segments what it has never seen."""

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
from helpers.models.checkpoints import SEGMENTER, ModelCard, load_card, load_checkpoint, load_released, save_checkpoint
from helpers.models.networks import build_network
from helpers.workspace import REPOSITORY
from tests.cases import REAL_CASES

TINY = {"channels": (4, 8), "num_res_units": 1}
CARD = ModelCard("unet", TINY, {"spacing": (1.0, 1.0, 1.0), "normalise": "zscore"}, (16, 16, 16))
WEIGHTS = sorted(released.RELEASED.glob("*.safetensors"))
needs_weights = pytest.mark.skipif(not WEIGHTS, reason="this copy of the package has no released weights")
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


def test_releasing_checkpoints_keeps_their_cards_and_refuses_large_ones(tmp_path, monkeypatch):
    paths = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for dice, path in enumerate(paths):
        save_checkpoint(path, build_network("unet", **TINY), replace(CARD, metrics={"dice_mean": dice}))
    folder = tmp_path / "released"
    monkeypatch.setattr(released, "RELEASED", folder)
    files = release_checkpoints(paths)
    assert [load_checkpoint(path)[1].metrics["dice_mean"] for path in files] == [0, 1]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(before) == 4
    monkeypatch.setattr(release, "LIMIT", sum(path.stat().st_size for path in files) + 100)
    release_checkpoints(paths[:1])  # in place of the one that is there
    save_checkpoint(tmp_path / "third.safetensors", build_network("unet", **TINY), CARD)
    with pytest.raises(DataError, match="at most"):
        release_checkpoints([tmp_path / "third.safetensors"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_segmenter_is_the_mean_of_the_released_networks(tmp_path, monkeypatch):
    monkeypatch.setattr(released, "RELEASED", tmp_path)
    segresnet = "segresnet", {"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)}
    for name, (kind, arguments) in zip(SEGMENTER, (segresnet, segresnet, ("unet", TINY)), strict=True):
        network, card = build_network(kind, **arguments), replace(CARD, network=kind, arguments=arguments)
        save_checkpoint(tmp_path / f"{name}.safetensors", network, card, compact=True)
    image = torch.rand(1, 4, 16, 16, 16)
    network, card = load_released()
    with torch.no_grad():
        members = [load_checkpoint(tmp_path / f"{name}.safetensors")[0](image).sigmoid() for name in SEGMENTER]
        assert torch.allclose(network(image).sigmoid(), sum(members) / 3, atol=1e-5)
    assert [member["network"] for member in card.arguments["members"]] == ["segresnet", "segresnet", "unet"]
    other = replace(CARD, postprocessing={"tumour_ml": 1.0, "enhancing_ml": 0.0})
    save_checkpoint(tmp_path / "new" / "unet.safetensors", build_network("unet", **TINY), other)
    with pytest.raises(DataError, match="in postprocessing"):
        release_checkpoints([tmp_path / "new" / "unet.safetensors"])
    assert load_released()[1].weights_sha256 == card.weights_sha256


def test_prediction_without_a_checkpoint_takes_the_released_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(released, "RELEASED", tmp_path)
    case = write_case(tmp_path / "cohort")
    words = ["predict", str(tmp_path / "cohort"), "--out", str(tmp_path / "seg.nii.gz"), "--device", "cpu"]
    for name in SEGMENTER:
        assert main(words) == 1 and f"{name}" in capsys.readouterr().err
        save_checkpoint(tmp_path / f"{name}.safetensors", build_network("unet", **TINY), CARD)
    assert main(words) == 0
    assert main(["evaluate", str(tmp_path / "seg.nii.gz"), str(case.label)]) == 0


@needs_weights
def test_weights_card_and_code_agree():
    network, card = load_released()
    assert sum(path.stat().st_size for path in WEIGHTS) <= 10_000_000
    assert (card.modalities, card.regions) == (MODALITIES, REGIONS)
    assert not card.training_cases  # phantoms that nobody kept: no case of any cohort was among them
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values() if tensor.is_floating_point())


@needs_weights
def test_the_page_for_people_speaks_of_these_weights():
    page = (REPOSITORY / "MODEL_CARD.md").read_text()
    for path in WEIGHTS:
        if path.stem != "abdomen":  # whose card is checked where it is used
            assert load_card(path).weights_sha256 in page
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
