"""Loss, schedule, sampling and whole small trainings."""

import argparse
import math
from dataclasses import asdict, fields

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from monai.transforms import Resize
from safetensors.torch import load_file
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from helpers.cli import main
from helpers.cli.train import add_arguments, folders_of, settings_of
from helpers.data.prepared import PreprocessSettings, open_prepared
from helpers.data.preprocess import prepare_cohort
from helpers.data.splits import load_splits
from helpers.models.checkpoints import load_checkpoint
from helpers.models.networks import build_network
from helpers.regions import REGIONS, classes_to_regions
from helpers.training.before.datamodule import (
    CaseDataModule,
    PatchDataset,
    draw_centre,
    pad_patch,
    patch_slices,
)
from helpers.training.before.loss import segmentation_loss
from helpers.training.before.module import END, START, learning_rate_share
from helpers.training.before.train import TrainSettings, train
from helpers.workspace import DataError
from tests.cases import case_arrays, write_case

SMALL = {"channels": (8, 16, 32), "num_res_units": 1}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Three small cases, prepared on a 1 mm grid."""
    folder = tmp_path_factory.mktemp("cohort")
    cases = [write_case(folder, f"Case_{number:03}", seed=number) for number in range(3)]
    return list(prepare_cohort(cases, folder / "prepared", workers=1, progress=False).paths.values())


def small_settings(**changes) -> TrainSettings:
    """A training of a second on test cases, whose tumours are smaller than what clean-up takes for specks."""
    small = {"arguments": SMALL, "patch": (16, 16, 16), "steps": 6, "validate_every": 4, "device": "cpu"}
    return TrainSettings(**{**small, "clean_tumour_ml": 0.0, "clean_enhancing_ml": 0.0, **changes})


def test_loss_agrees_with_its_formula():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, 6, generator=generator)
    target = torch.rand(2, 3, 4, 5, 6, generator=generator) > 0.6
    p, t = logits.sigmoid(), target.float()
    axes = (0, 2, 3, 4)
    dice = 1 - (2 * (p * t).sum(axes) / (p.sum(axes) + t.sum(axes))).mean()
    cross_entropy = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    for name, expected in {"dice+bce": dice + cross_entropy, "dice": dice, "bce": cross_entropy}.items():
        assert segmentation_loss(name)(logits, target).item() == pytest.approx(expected.item(), abs=1e-4)


def test_deep_supervision_weighs_the_levels_against_a_smaller_target():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 8, 8, 8, generator=generator) > 0.6
    levels = [torch.randn(2, 3, edge, edge, edge, generator=generator) for edge in (8, 4, 2)]
    losses = [
        DiceLoss(sigmoid=True, batch=True)(logits, truth) + binary_cross_entropy_with_logits(logits, truth)
        for logits in levels
        for truth in [Resize(logits.shape[2:], mode="nearest-exact")(target.float().flatten(0, 1)).reshape(logits.shape)]
    ]
    expected = (losses[0] + losses[1] / 2 + losses[2] / 4) / 1.75
    assert segmentation_loss()(levels, target).item() == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("logit", [-30.0, 0.0, 30.0])
def test_an_empty_target_is_finite_and_pulls_false_positives_down(logit):
    logits = torch.full((2, 3, 8, 8, 8), logit, requires_grad=True)
    loss = segmentation_loss()(logits, torch.zeros(2, 3, 8, 8, 8, dtype=torch.bool))
    loss.backward()
    assert torch.isfinite(loss)
    assert (logits.grad >= 0).all()
    assert (logits.grad > 0).all() or logit == -30.0


def test_learning_rate_rises_falls_and_never_is_zero():
    shares = np.array([learning_rate_share(progress, 0.1) for progress in np.linspace(0, 1, 101)])
    assert shares[0] == pytest.approx(START) and shares[10] == pytest.approx(1) and shares[-1] == pytest.approx(END)
    assert (np.diff(shares[:11]) > 0).all() and (np.diff(shares[10:]) < 0).all()
    assert learning_rate_share(0.0, 0.0) == 1.0


@pytest.mark.parametrize("centre", [(0, 0, 0), (29, 9, 19), (15, 5, 10)])
def test_a_patch_contains_its_centre_and_is_padded_only_where_the_volume_is_shorter(centre):
    volume = np.zeros((30, 10, 20), np.float32)
    volume[centre] = 1
    patch = pad_patch(volume[patch_slices(volume.shape, centre, (16, 16, 16))], (16, 16, 16))
    assert patch.shape == (16, 16, 16) and patch.sum() == 1
    assert not patch[:, :3].any() and not patch[:, 13:].any()


def test_centres_are_balanced_over_the_regions(prepared):
    file = open_prepared(prepared[0])
    regions = classes_to_regions(np.asarray(file.load().classes))
    brain = np.asarray(file.load().image).any(0)
    generator = np.random.default_rng(0)
    draws = 3000
    within = {share: np.zeros(3) for share in (1.0, 2 / 3)}
    for share, counts in within.items():
        for _ in range(draws):
            centre = draw_centre(file, generator, share)
            assert brain[centre] or regions[1][centre]
            counts += regions[(slice(None), *centre)]
    share_of = {name: mask.sum() / regions[1].sum() for name, mask in zip(REGIONS, regions, strict=True)}
    et_in_tc = share_of["ET"] / share_of["TC"]
    expected = np.array(
        [(1 + share_of["TC"] + 1) / 3, 1.0, (et_in_tc + share_of["ET"] + 1) / 3]  # TC, WT, ET centres in turn
    )
    tolerance = 4 * 0.5 / math.sqrt(draws)
    np.testing.assert_allclose(within[1.0] / draws, expected, atol=tolerance)
    anywhere = regions.sum((1, 2, 3)) / brain.sum()
    np.testing.assert_allclose(within[2 / 3] / draws, 2 / 3 * expected + anywhere / 3, atol=tolerance)


def test_a_region_that_a_case_lacks_is_not_drawn(tmp_path):
    image, classes = case_arrays()
    classes[classes != 2] = 0  # oedema alone: neither TC nor ET
    case = write_case(tmp_path, image=image, classes=classes)
    file = open_prepared(prepare_cohort([case], tmp_path / "prepared", workers=1, progress=False).paths[case.identifier])
    present = np.asarray(file.load().classes)
    assert all(present[draw_centre(file, np.random.default_rng(seed), 1.0)] == 2 for seed in range(30))


def test_patches_do_not_depend_on_workers_or_on_where_one_starts(prepared):
    options = {"patch": (16, 16, 16), "batch": 2, "steps": 4, "seed": 7}
    batches = [list(CaseDataModule(prepared, workers=n, **options).train_dataloader()) for n in (0, 2)]
    assert len(batches[0]) == 4
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["regions"], other["regions"])
    later = CaseDataModule(prepared, **options).patches[5]
    assert torch.equal(later["image"], batches[0][2]["image"][1])
    assert not torch.equal(batches[0][0]["image"], batches[0][1]["image"])


def test_every_pass_sees_every_case_once_in_a_new_order(prepared):
    patches = PatchDataset(prepared, patch=(16, 16, 16), count=30, seed=1)
    passes = [[patches.path(index) for index in range(start, start + 3)] for start in range(0, 30, 3)]
    assert all(sorted(one) == sorted(prepared) for one in passes)
    assert len({tuple(one) for one in passes}) > 1
    with pytest.raises(IndexError):
        patches[30]


def test_without_changes_a_patch_is_the_prepared_file(prepared):
    data = CaseDataModule(prepared, patch=(64, 64, 64), batch=1, steps=1, seed=1, augment=False)
    item, whole = data.patches[0], open_prepared(data.patches.path(0)).load()
    slices = tuple(slice((64 - n) // 2, (64 - n) // 2 + n) for n in whole.classes.shape)
    np.testing.assert_array_equal(item["image"][(slice(None), *slices)], np.asarray(whole.image, np.float32))
    np.testing.assert_array_equal(item["regions"][(slice(None), *slices)], classes_to_regions(np.asarray(whole.classes)))
    assert item["image"].shape == (4, 64, 64, 64) and item["image"].dtype == torch.float32
    assert type(next(iter(DataLoader(data.patches)))["image"]) is torch.Tensor


def test_one_case_can_be_learnt_by_heart(prepared, tmp_path):
    """On one case, without changes, loss and Dice must reach what a correct set-up reaches."""
    settings = small_settings(steps=60, validate_every=60, learning_rate=1e-2, augment=False, patch=(24, 24, 24))
    twin = write_case(tmp_path, "Twin_000", seed=0)  # the same images, as if they were somebody else's
    validation = prepare_cohort([twin], tmp_path / "prepared", workers=1, progress=False).paths.values()
    result = train(settings, prepared[:1], validation=list(validation), out=tmp_path / "model")
    assert result.best_dice > 0.9
    assert result.history["train_loss"].iloc[-5:].mean() < 0.3 * result.history["train_loss"].iloc[:5].mean()


def test_same_seed_same_weights_and_the_callers_random_state_is_kept(prepared, tmp_path):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    results = {
        name: train(small_settings(seed=seed), prepared[:2], validation=prepared[2:], out=tmp_path / name)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    }
    assert torch.equal(before, torch.get_rng_state())
    weights = {name: load_file(result.checkpoint) for name, result in results.items()}
    assert all(torch.equal(weights["a"][key], weights["b"][key]) for key in weights["a"])
    assert not all(torch.equal(weights["a"][key], weights["c"][key]) for key in weights["a"])


def test_history_and_card_tell_what_happened(prepared, tmp_path, capsys):
    lines = []
    result = train(small_settings(), prepared[:2], validation=prepared[2:], out=tmp_path, split_hash="abc", report=lines.append)
    history = result.history
    assert history["step"].tolist() == [1, 2, 3, 4, 5, 6] and result.steps == 6
    validated = history.dropna()
    assert validated["step"].tolist() == [4, 6], "the last step must be validated too"
    np.testing.assert_allclose(validated["dice_mean"], validated[[f"dice_{region}" for region in REGIONS]].mean(axis=1))
    shares = [learning_rate_share(step / 6, 0.05) for step in range(6)]
    np.testing.assert_allclose(history["learning_rate"], np.array(shares) * small_settings().learning_rate)
    assert history["train_loss"].gt(0).all() and history["seconds"].is_monotonic_increasing
    _, card = load_checkpoint(result.checkpoint)
    assert card.metrics["dice_mean"] == pytest.approx(validated["dice_mean"].max(), abs=1e-6)
    assert (card.metrics["step"], card.split_hash, card.patch) == (result.best_step, "abc", (16, 16, 16))
    assert card.training["steps"] == 6 and card.spacing == (1, 1, 1) and len(card.cohort_hash) == 64
    assert len(lines) == 2 and "step     6 of 6" in lines[1]
    expected = ["best.json", "best.safetensors", "checkpoints", "history.csv", "tensorboard"]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
    assert capsys.readouterr() == ("", "")


def test_the_train_loss_is_that_of_the_batch(prepared, tmp_path):
    """The first step's loss, computed by hand from the same seed."""
    settings = small_settings(steps=1, validate_every=1, augment=False)
    result = train(settings, prepared[:2], validation=prepared[2:], out=tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = build_network("unet", **SMALL)
    data = CaseDataModule(prepared[:2], patch=(16, 16, 16), batch=2, steps=1, seed=settings.seed, augment=False)
    batch = next(iter(data.train_dataloader()))
    loss = segmentation_loss()(network(batch["image"]), batch["regions"])
    assert result.history["train_loss"][0] == pytest.approx(loss.item(), rel=1e-4)


def test_a_time_limit_ends_the_training_with_a_validation(prepared, tmp_path):
    settings = small_settings(steps=100_000, validate_every=100_000, minutes=1 / 60)
    result = train(settings, prepared[:2], validation=prepared[2:], out=tmp_path)
    assert 0 < result.steps < 100_000
    assert result.best_step == result.steps
    shares = result.history["learning_rate"] / settings.learning_rate
    by_clock = [learning_rate_share(min(seconds, 1.0), settings.warmup) for seconds in [0, *result.history["seconds"][:-1]]]
    np.testing.assert_allclose(shares, by_clock, err_msg="the schedule follows the clock")


class Source:
    """Patches that are a function of their number, as if they were made on the spot."""

    fingerprint, spacing = "made of nothing", (1.0, 1.0, 1.0)
    preprocessing = asdict(PreprocessSettings())

    def __len__(self):
        return 100

    def __getitem__(self, index):
        image = torch.full((4, 16, 16, 16), float(index))
        return {"image": image, "regions": image[:3] > 0}


def test_patches_may_come_from_a_source(prepared, tmp_path):
    result = train(small_settings(), Source(), validation=prepared[:1], out=tmp_path / "a")
    _, card = load_checkpoint(result.checkpoint)
    assert result.steps == 6 and card.spacing == (1, 1, 1)
    data = CaseDataModule(Source(), patch=(16,) * 3, batch=2, steps=3, seed=0)
    assert [batch["image"][:, 0, 0, 0, 0].tolist() for batch in data.train_dataloader()] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(DataError, match="100 patches"):
        train(small_settings(steps=51), Source(), validation=prepared[:1], out=tmp_path / "b")
    coarse = Source()
    coarse.preprocessing = {"spacing": 2.0}
    with pytest.raises(DataError, match="make them agree"):
        train(small_settings(), coarse, validation=prepared[:1], out=tmp_path / "b")


def test_mistakes_in_the_parts_are_refused(prepared, tmp_path):
    with pytest.raises(DataError, match="both the training and the validation"):
        train(small_settings(), prepared[:2], validation=prepared[1:], out=tmp_path)
    with pytest.raises(DataError, match="validation part has no prepared case"):
        train(small_settings(), prepared, validation=[], out=tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "vnet"}, "no network"),
        ({"steps": 0}, "steps"),
        ({"loss": "focal"}, "loss"),
        ({"tumour_share": 1.5}, "tumour_share"),
        ({"minutes": -1.0}, "minutes"),
        ({"precision": "16"}, "precision"),
        ({"patch": (20, 20, 20)}, "multiples of"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
    with pytest.raises(DataError, match=words):
        TrainSettings(**changes)


def parse(*words):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return settings_of(parser.parse_args(["--cohort", "c", "--out", "o", *words]))


def test_every_setting_is_an_option():
    assert parse() == TrainSettings()
    assert parse("--augment", "false").augment is False
    assert parse("--augment", "True").augment is True
    assert parse("--patch", "32").patch == (32, 32, 32)
    changed = parse("--network", "swin_unetr", "--arguments", '{"feature_size": 24}', "--patch", "64", "64", "32")
    assert (changed.network, changed.arguments, changed.patch) == ("swin_unetr", {"feature_size": 24}, (64, 64, 32))
    for words in (("--augment", "maybe"), ("--arguments", "[1]"), ("--network", "vnet")):
        with pytest.raises(SystemExit):
            parse(*words)


def test_hyperparameters_are_read_from_strings():
    """As SageMaker gives them: every value a string, names with dashes or underscores."""
    words = {"learning_rate": "0.01", "validate-every": "7", "augment": "False", "patch": "[64, 64, 32]", "minutes": "2"}
    changed = parse(*(word for name, value in words.items() for word in (f"--{name}", value)))
    assert (changed.learning_rate, changed.validate_every, changed.augment) == (0.01, 7, False)
    assert changed.patch == (64, 64, 32) and parse("--patch", "64,64,32").patch == (64, 64, 32)
    for wrong in (("--learningrate", "1"), ("--learn", "1"), ("--patch", "big"), ("--steps", "1.5")):
        with pytest.raises(SystemExit):
            parse(*wrong)


def test_help_names_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for item in fields(TrainSettings):
        assert f"--{item.name.replace('_', '-')} " in text
        assert item.name in ("arguments", "patch") or f"(default: {getattr(TrainSettings(), item.name)})" in text


def test_on_sagemaker_the_model_alone_goes_to_the_model_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SM_CHANNEL_TRAINING", str(tmp_path / "cohort"))
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path / "model"))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args(["--checkpoints", str(tmp_path / "kept")])
    folders = folders_of(arguments, "unet")
    assert (arguments.cohort, folders.model) == (tmp_path / "cohort", tmp_path / "model")
    assert folders.checkpoints == tmp_path / "kept" and tmp_path / "model" not in folders.work.parents
    folders = folders_of(parser.parse_args(["--out", str(tmp_path / "out")]), "unet")
    assert (folders.work, folders.model) == (tmp_path / "out", tmp_path / "out" / "models" / "unet")
    assert folders.checkpoints == folders.model / "checkpoints"


def test_command_from_files_to_a_checkpoint(tmp_path, capsys):
    for number in range(5):
        write_case(tmp_path / "cohort", f"Case_{number:03}", seed=number)
    words = ["train", "--cohort", str(tmp_path / "cohort"), "--out", str(tmp_path / "out"), "--spacing", "1", "--device", "cpu"]
    small = [
        "--arguments",
        '{"channels": [8, 16, 32], "num_res_units": 1}',
        "--patch",
        "16",
        "--steps",
        "4",
        "--validate-every",
        "2",
    ]
    assert main([*words, *small]) == 0
    assert "step     4 of 4" in capsys.readouterr().out
    out = tmp_path / "out"
    _, card = load_checkpoint(out / "models" / "unet" / "best.safetensors")
    assert card.split_hash == load_splits(out / "splits.json").sha256
    assert (out / "models" / "unet" / "validation.png").read_bytes().startswith(b"\x89PNG")
    assert main([*words, *small]) == 0
    assert "complete already" in capsys.readouterr().out
    assert main([*words, *small, "--steps", "8"]) == 1
    assert "steps 4 there, 8 here" in capsys.readouterr().err
    write_case(tmp_path / "cohort", "Case_007", seed=7)
    assert main([*words, *small]) == 1
    assert "does not know case Case_007" in capsys.readouterr().err
