"""Loss, schedule, sampling and whole small trainings, with everything that a training does when it is told to."""

import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Callback
from monai.losses import DiceLoss
from monai.transforms import Resize
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Dataset

from brats_cohort.files import DataError
from brats_cohort.regions import REGIONS, classes_to_regions
from brats_cohort.splits import load_splits
from brats_cohort.testing import case_arrays, write_case
from helpers.cli import main
from helpers.cli.options import call
from helpers.cli.train import CohortOptions, choose_folders, open_cohort
from helpers.data.patches import draw_centre, pad_patch, patch_slices
from helpers.data.prepared import PreparedFile, PreprocessSettings, save_prepared
from helpers.data.preprocess import prepare_cohort
from helpers.models.checkpoints import load_card, load_checkpoint
from helpers.models.networks import build_network
from helpers.training import Interrupted, module
from helpers.training.callbacks import EMA, DurableIO, PrintValidation
from helpers.training.data import CaseDataModule, CaseDataset, PatchDataset, StepBatches
from helpers.training.loss import RegionLoss
from helpers.training.module import END, START, NonFiniteError, learning_rate_share, non_finite
from helpers.training.settings import TrainSettings, choose_precision
from helpers.training.train import CHECKPOINT, train

SMALL = {"channels": (8, 16, 32), "num_res_units": 1}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Three small cases, prepared on a 1 mm grid."""
    folder = tmp_path_factory.mktemp("cohort")
    cases = [write_case(folder, f"Case_{number:03}", seed=number) for number in range(3)]
    return list(prepare_cohort(cases, folder / "prepared", workers=1, progress=False).paths.values())


def batches_of(patches, settings, step=0):
    """Batches of a training from a step on, as its trainer asks for them."""
    data = CaseDataModule(patches, [], settings)
    data.trainer = SimpleNamespace(global_step=step, global_rank=0, world_size=1)
    return list(data.train_dataloader())


def small_settings(**changes) -> TrainSettings:
    """A training of a second on test cases, whose tumours are smaller than what clean-up takes for specks."""
    small = {"arguments": SMALL, "patch": (16, 16, 16), "steps": 6, "validate_every": 4, "device": "cpu"}
    return TrainSettings(**{**small, "minimum_tumour_ml": 0.0, "minimum_enhancing_ml": 0.0, **changes})


def test_loss_agrees_with_its_formula():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, 6, generator=generator)
    target = torch.rand(2, 3, 4, 5, 6, generator=generator) > 0.6
    p, t = logits.sigmoid(), target.float()
    axes = (0, 2, 3, 4)
    dice = 1 - (2 * (p * t).sum(axes) / (p.sum(axes) + t.sum(axes))).mean()
    cross_entropy = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    for name, expected in {"dice+bce": dice + cross_entropy, "dice": dice, "bce": cross_entropy}.items():
        assert RegionLoss(name)(logits, target).item() == pytest.approx(expected.item(), abs=1e-4)


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
    assert RegionLoss()(levels, target).item() == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("logit", [-30.0, 0.0, 30.0])
def test_an_empty_target_is_finite_and_pulls_false_positives_down(logit):
    logits = torch.full((2, 3, 8, 8, 8), logit, requires_grad=True)
    loss = RegionLoss()(logits, torch.zeros(2, 3, 8, 8, 8, dtype=torch.bool))
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
    file = PreparedFile(prepared[0])
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
    file = PreparedFile(prepare_cohort([case], tmp_path / "prepared", workers=1, progress=False).paths[case.identifier])
    present = np.asarray(file.load().classes)
    assert all(present[draw_centre(file, np.random.default_rng(seed), 1.0)] == 2 for seed in range(30))


def test_patches_do_not_depend_on_workers_or_on_where_one_starts(prepared):
    patches = PatchDataset(prepared, patch=(16, 16, 16), count=8, seed=7)
    batches = [batches_of(patches, small_settings(steps=4, workers=workers)) for workers in (0, 2)]
    assert len(batches[0]) == 4
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["regions"], other["regions"])
    (last,) = batches_of(patches, small_settings(steps=4), step=3)
    assert torch.equal(last["image"], batches[0][3]["image"])
    assert not torch.equal(batches[0][0]["image"], batches[0][1]["image"])


def test_every_pass_sees_every_case_once_in_a_new_order(prepared):
    patches = PatchDataset(prepared, patch=(16, 16, 16), count=30, seed=1)
    passes = [[patches.file(index).path for index in range(start, start + 3)] for start in range(0, 30, 3)]
    assert all(sorted(one) == sorted(prepared) for one in passes)
    assert len({tuple(one) for one in passes}) > 1
    with pytest.raises(IndexError):
        patches[30]


def test_without_changes_a_patch_is_the_prepared_file(prepared):
    patches = PatchDataset(prepared, patch=(64, 64, 64), count=1, seed=1)
    item, whole = patches[0], patches.file(0).load()
    slices = tuple(slice((64 - n) // 2, (64 - n) // 2 + n) for n in whole.classes.shape)
    np.testing.assert_array_equal(item["image"][(slice(None), *slices)], np.asarray(whole.image, np.float32))
    np.testing.assert_array_equal(item["regions"][(slice(None), *slices)], classes_to_regions(np.asarray(whole.classes)))
    assert item["image"].shape == (4, 64, 64, 64) and item["image"].dtype == torch.float32
    assert type(next(iter(DataLoader(patches)))["image"]) is torch.Tensor


def test_one_case_can_be_learnt_by_heart(prepared, tmp_path):
    """On one case, without changes, loss and Dice must reach what a correct set-up reaches."""
    settings = small_settings(steps=60, validate_every=60, learning_rate=1e-2, augment=False, patch=(24, 24, 24))
    twin = write_case(tmp_path, "Twin_000", seed=0)  # the same images, as if they were somebody else's
    validation = prepare_cohort([twin], tmp_path / "prepared", workers=1, progress=False).paths.values()
    result = train(settings, prepared[:1], list(validation), out=tmp_path / "model")
    assert result.best_dice > 0.9
    assert result.history["train_loss"].iloc[-5:].mean() < 0.3 * result.history["train_loss"].iloc[:5].mean()


def test_same_seed_same_weights_and_the_callers_random_state_is_kept(prepared, tmp_path):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    results = {
        name: train(small_settings(seed=seed), prepared[:2], prepared[2:], out=tmp_path / name)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    }
    assert torch.equal(before, torch.get_rng_state())
    weights = {name: load_file(result.checkpoint) for name, result in results.items()}
    assert all(torch.equal(weights["a"][key], weights["b"][key]) for key in weights["a"])
    assert not all(torch.equal(weights["a"][key], weights["c"][key]) for key in weights["a"])


def test_a_training_on_the_cpu_leaves_the_gpus_of_the_machine_alone(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert run(prepared, tmp_path, device="cpu").steps == 4


def test_history_and_card_tell_what_happened(prepared, tmp_path, capsys):
    options = {"split_hash": "abc", "callbacks": [PrintValidation()]}
    result = train(small_settings(), prepared[:2], prepared[2:], out=tmp_path, **options)
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
    printed, errors = capsys.readouterr()
    lines = printed.splitlines()
    assert len(lines) == 2 and "step     6 of 6" in lines[1] and not errors
    expected = ["best.json", "best.safetensors", "checkpoints", "history.csv", "tensorboard"]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected


def test_the_train_loss_is_that_of_the_batch(prepared, tmp_path):
    """The first step's loss, computed by hand from the same seed."""
    settings = small_settings(steps=1, validate_every=1, augment=False)
    result = train(settings, prepared[:2], prepared[2:], out=tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = build_network("unet", **SMALL)
    (batch,) = batches_of(PatchDataset(prepared[:2], patch=(16, 16, 16), count=2, seed=settings.seed), settings)
    loss = RegionLoss()(network(batch["image"]), batch["regions"])
    assert result.history["train_loss"][0] == pytest.approx(loss.item(), rel=1e-4)
    assert load_card(result.checkpoint).tta_axes == (), "it saw no mirrored image, so it is shown none"


def test_a_time_limit_ends_the_training_with_a_validation(prepared, tmp_path):
    settings = small_settings(steps=100_000, validate_every=100_000, minutes=1 / 60)
    result = train(settings, prepared[:2], prepared[2:], out=tmp_path)
    assert 0 < result.steps < 100_000
    assert result.best_step == result.steps
    shares = result.history["learning_rate"] / settings.learning_rate
    by_clock = [learning_rate_share(min(seconds, 1.0), settings.warmup) for seconds in [0, *result.history["seconds"][:-1]]]
    np.testing.assert_allclose(shares, by_clock, atol=0.05, err_msg="the schedule follows the clock")


class Source(Dataset):
    """Patches that are a function of their number, as if they were made on the spot."""

    fingerprint = "made of nothing"
    preprocessing = asdict(PreprocessSettings())

    def __len__(self):
        return 100

    def __getitem__(self, index):
        image = torch.full((4, 16, 16, 16), float(index))
        return {"image": image, "regions": image[:3] > 0}


def test_patches_may_come_from_a_source(prepared, tmp_path):
    result = train(small_settings(), Source(), prepared[:1], out=tmp_path / "a")
    _, card = load_checkpoint(result.checkpoint)
    assert result.steps == 6 and card.spacing == (1, 1, 1)
    batches = batches_of(Source(), small_settings(steps=3))
    assert [batch["image"][:, 0, 0, 0, 0].tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(DataError, match="100 patches"):
        train(small_settings(steps=51), Source(), prepared[:1], out=tmp_path / "b")
    coarse = Source()
    coarse.preprocessing = {"spacing": 2.0}
    with pytest.raises(DataError, match="make them agree"):
        train(small_settings(), coarse, prepared[:1], out=tmp_path / "b")


def test_mistakes_in_the_parts_are_refused(prepared, tmp_path):
    with pytest.raises(DataError, match="both the training and the validation"):
        train(small_settings(), prepared[:2], prepared[1:], out=tmp_path)
    with pytest.raises(DataError, match="validation part has no prepared case"):
        train(small_settings(), prepared, [], out=tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "vnet"}, "choose one of unet"),
        ({"steps": 0}, "steps"),
        ({"loss": "focal"}, "loss"),
        ({"foreground_probability": 1.5}, "foreground_probability"),
        ({"minutes": -1.0}, "minutes"),
        ({"minutes": math.nan}, "minutes"),
        ({"minutes": math.inf}, "minutes"),
        ({"precision": "16"}, "precision"),
        ({"patch": (20, 20, 20)}, "multiples of"),
        ({"seed": -1}, "seed is -1"),
        ({"arguments": {"in_channels": 3}}, "in_channels 3, as cases have 4; leave in_channels out"),
        ({"arguments": {"out_channels": 4}}, "out_channels 4, as cases have 3"),
        ({"arguments": {"spatial_dims": 2}, "patch": (64, 64)}, "spatial_dims 2, as cases have 3"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
    with pytest.raises(DataError, match=words):
        TrainSettings(**changes)


def parse(*words):
    """The settings that options say."""
    found = []

    def run(*, settings: TrainSettings) -> int:
        found.append(settings)
        return 0

    call(run, words, prog="test")
    return found[0]


def test_every_setting_is_an_option(capsys):
    assert parse() == TrainSettings()
    assert TrainSettings(patch=32) == TrainSettings(patch=(32, 32, 32)), "one edge for all three, as for --patch"
    assert parse("--augment", "false").augment is False
    assert parse("--patch", "32").patch == (32, 32, 32)
    changed = parse("--network", "swin_unetr", "--arguments", '{"feature_size": 24}', "--patch", "64", "64", "32")
    assert (changed.network, changed.arguments, changed.patch) == ("swin_unetr", {"feature_size": 24}, (64, 64, 32))
    for words in (("--arguments", "[1]"), ("--loss", "focal"), ("--learn", "1"), ("--steps", "1.5")):
        with pytest.raises(SystemExit):
            parse(*words)
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"--{item.name.replace('_', '-')}" in text for item in fields(TrainSettings))


def test_hyperparameters_are_read_from_strings():
    """As SageMaker gives them: every value a string, names with dashes or underscores."""
    words = {"learning_rate": "0.01", "validate-every": "7", "augment": "False", "patch": "[64, 64, 32]", "minutes": "2"}
    changed = parse(*(word for name, value in words.items() for word in (f"--{name}", value)))
    assert (changed.learning_rate, changed.validate_every, changed.augment) == (0.01, 7, False)
    assert changed.patch == (64, 64, 32) and parse("--patch", "64,64,32").patch == (64, 64, 32)


def test_a_seed_below_0_is_a_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--cohort", str(tmp_path), "--out", str(tmp_path / "out"), "--seed", "-1"])
    assert "seed is -1" in capsys.readouterr().err


def test_on_sagemaker_the_model_alone_goes_to_the_model_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path / "model"))
    monkeypatch.setattr("helpers.cli.train.SAGEMAKER_CHECKPOINTS", tmp_path)
    folders = choose_folders(tmp_path / "model", "unet")
    assert folders.model == tmp_path / "model"
    assert folders.checkpoints == tmp_path and tmp_path / "model" not in folders.work.parents
    folders = choose_folders(tmp_path / "out", "unet")
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
    assert not list((out / "models").rglob("*.png")), "no image of a case goes with a model"
    assert main([*words, *small]) == 0
    printed = capsys.readouterr().out
    assert "step     4 of 4" not in printed and "finished already; --resume never trains anew" in printed
    assert main([*words, *small, "--steps", "8"]) == 1
    assert "steps 4 there, 8 here" in capsys.readouterr().err
    write_case(tmp_path / "cohort", "Case_007", seed=7)
    assert main([*words, *small]) == 1
    assert "does not know case Case_007" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_prepare_the_cohort_too(workers, tmp_path, monkeypatch):
    for number in range(5):
        write_case(tmp_path / "cohort", f"Case_{number:03}", seed=number)
    given = []

    def watched(*arguments, workers, **options):
        given.append(workers)
        return prepare_cohort(*arguments, workers=workers, **options)

    monkeypatch.setattr("helpers.cli.train.prepare_cohort", watched)
    open_cohort(CohortOptions(tmp_path / "cohort"), small_settings(workers=workers), work=tmp_path / "out")
    assert given == [workers or None], "one for each core unless told"


@pytest.mark.parametrize("command", ["train", "tune", "crossvalidate"])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--arguments", '{"widths": [4, 8]}'), "unet has no argument widths"),
        (("--pretrained", "missing.safetensors"), "missing.safetensors do not exist"),
        (("--spacing", "0"), "spacing is (0.0, 0.0, 0.0)"),
        (("--fold", "9"), "there is no fold 9"),
    ],
)
def test_a_wrong_setting_is_found_before_the_cohort_is_opened(command, words, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(f"helpers.cli.{command}.open_cohort", lambda *_, **__: pytest.fail("minutes went by"))
    name = "--only" if command == "crossvalidate" and words[0] == "--fold" else words[0]
    assert main([command, "--cohort", str(tmp_path), "--out", str(tmp_path / "out"), name, *words[1:]]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("command", ["tune", "crossvalidate"])
def test_a_stream_has_no_folds(command, tmp_path, capsys):
    assert main([command, "--cohort", "phantom-stream", "--out", str(tmp_path)]) == 1
    assert "phantom-stream has no cases to split; give the folder of a cohort" in capsys.readouterr().err


TINY = {"arguments": {"channels": (4, 8), "num_res_units": 1}, "patch": (8, 8, 8), "batch": 4, "steps": 4, "validate_every": 2}


def run(prepared, out, **changes):
    """A training of half a second."""
    options = {name: changes.pop(name) for name in ("resume", "callbacks") if name in changes}
    return train(small_settings(**{**TINY, **changes}), prepared[:2], prepared[2:], out=out, **options)


def checkpoint(out):
    return torch.load(out / "checkpoints" / CHECKPOINT, weights_only=True)


class Spoil(Callback):
    """Put a number into the images of every step."""

    def __init__(self, value: float) -> None:
        self.value = value

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        batch["image"][0, 0, 0, 0, 0] = self.value


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_consists_of_the_same_patches_in_any_number_of_parts_and_processes(world, accumulate):
    shares = [list(StepBatches(8, 5, first=2, accumulate=accumulate, rank=rank, world=world)) for rank in range(world)]
    assert all(len(share) == 3 * accumulate for share in shares)
    for step in range(3):
        parts = [numbers for share in shares for numbers in share[step * accumulate : (step + 1) * accumulate]]
        assert sorted(number for part in parts for number in part) == list(range((step + 2) * 8, (step + 3) * 8))
    with pytest.raises(DataError, match="multiple of 6"):
        StepBatches(8, 5, accumulate=3, world=2)


def test_the_loss_of_an_accumulated_step_is_the_mean_of_its_parts(prepared, tmp_path):
    result = run(prepared, tmp_path, steps=1, validate_every=1, accumulate=2, augment=False, precision="32-true")
    seed = small_settings().seed
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network("unet", **TINY["arguments"])
    patches = PatchDataset(prepared[:2], patch=(8, 8, 8), count=4, seed=seed)
    batch = next(iter(DataLoader(patches, batch_size=4)))
    parts = [(batch["image"][half], batch["regions"][half]) for half in (slice(0, 2), slice(2, 4))]
    losses = [RegionLoss()(network(image), regions).item() for image, regions in parts]
    assert result.history["train_loss"][0] == pytest.approx(np.mean(losses), rel=1e-4)


def test_averaged_weights_are_the_ones_validated_and_kept(prepared, tmp_path):
    result = run(prepared, tmp_path, ema=0.9, learning_rate=0.03)
    state, kept = checkpoint(tmp_path), load_file(result.checkpoint)
    averaged = {name.removeprefix("network."): tensor for name, tensor in state["state_dict"].items()}
    if result.best_step == 4:
        assert all(torch.equal(kept[name], averaged[name]) for name in kept)
    current = {name.removeprefix("network."): tensor for name, tensor in state["current_model_state"].items()}
    assert not any(torch.equal(averaged[name], tensor) for name, tensor in current.items())
    assert all(torch.equal(kept[name], tensor) for name, tensor in state["callbacks"]["History"]["weights"].items())


def test_the_average_remembers_more_and_more_up_to_its_decay():
    average = EMA(0.5)._kwargs["avg_fn"]
    for count, decay in ((1, 2 / 11), (4, 5 / 14), (100, 0.5)):
        assert float(average(torch.tensor(1.0), torch.tensor(0.0), count)) == pytest.approx(decay)


@pytest.mark.parametrize("spoilt", ["weight", "loss", "gradient"])
def test_the_guard_names_what_is_not_finite(spoilt):
    network = build_network("unet", **TINY["arguments"])
    loss = RegionLoss()(network(torch.randn(2, 4, 8, 8, 8)), torch.zeros(2, 3, 8, 8, 8))
    loss.backward()
    assert non_finite(network, loss.item()) == ""
    name, tensor = list(network.named_parameters())[3]
    with torch.no_grad():
        (tensor if spoilt == "weight" else tensor.grad)[(0,) * tensor.ndim] = math.inf
    expected = {"weight": f"the weight {name}", "loss": "the loss (nan)", "gradient": f"the gradient of {name}"}
    assert non_finite(network, math.nan if spoilt == "loss" else loss.item()) == expected[spoilt]


def test_a_number_that_is_not_finite_stops_the_training(prepared, tmp_path):
    with pytest.raises(NonFiniteError, match=r"step 1: the loss \(nan\) is not finite"):
        run(prepared, tmp_path, callbacks=[Spoil(math.nan)])


def test_a_gradient_that_is_not_finite_stops_it_whatever_it_belongs_to(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "get_total_norm", lambda gradients: torch.tensor(math.inf))
    with pytest.raises(NonFiniteError, match="step 1: the norm of the gradient is not finite"):
        run(prepared, tmp_path, steps=2)


def test_a_training_ends_early_when_it_no_longer_improves(prepared, tmp_path):
    result = run(prepared, tmp_path, steps=40, validate_every=1, patience=2, learning_rate=1e-12)
    assert result.steps == result.best_step + 2 < 40
    assert (
        run(prepared, tmp_path, steps=40, validate_every=1, patience=2, learning_rate=1e-12, resume="auto").steps
        == result.steps
    )


def test_a_checkpoint_of_another_training_is_refused(prepared, tmp_path):
    run(prepared, tmp_path, steps=2)
    with pytest.raises(DataError, match=r"batch 4 there, 2 here; learning_rate 0.003 there, 0.1 here"):
        run(prepared, tmp_path, steps=2, batch=2, learning_rate=0.1, resume="auto")
    with pytest.raises(DataError, match="the training part"):
        train(small_settings(**{**TINY, "steps": 2}), prepared[1:], prepared[:1], out=tmp_path, resume="auto")
    (tmp_path / "checkpoints" / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match="not a checkpoint of a training"):
        run(prepared, tmp_path, steps=2, resume="auto")


def test_weights_that_another_training_left_are_not_replaced_unless_asked(prepared, tmp_path):
    weights = run(prepared, tmp_path, steps=2).checkpoint
    (tmp_path / "checkpoints" / CHECKPOINT).unlink()
    before = weights.read_bytes()
    with pytest.raises(DataError, match="holds weights of another training"):
        run(prepared, tmp_path, steps=2, learning_rate=0.1, resume="auto")
    with pytest.raises(DataError, match="holds weights of another training"):
        train(small_settings(**{**TINY, "steps": 2}), prepared[1:], prepared[:1], out=tmp_path, resume="auto")
    assert weights.read_bytes() == before
    assert run(prepared, tmp_path, steps=2, workers=1, resume="auto").steps == 2, "its own weights are made again"
    assert run(prepared, tmp_path, steps=2, learning_rate=0.1).checkpoint.read_bytes() != before


def test_a_finished_training_is_not_done_again_and_other_workers_are_no_other_training(prepared, tmp_path, capsys):
    first = run(prepared, tmp_path)
    (tmp_path / "best.safetensors").unlink()
    again = run(prepared, tmp_path, workers=1, resume="auto", callbacks=[PrintValidation()])
    assert not capsys.readouterr().out
    assert again.history.equals(first.history) and again.best_dice == first.best_dice and again.checkpoint.is_file()


@pytest.mark.parametrize("part", [0, 2])
def test_a_case_without_a_reference_is_named_before_the_first_step(part, prepared, tmp_path):
    case = replace(PreparedFile(prepared[part]).load(), identifier="Bare_000", classes=None)
    files = list(prepared)
    files[part] = save_prepared(tmp_path / "bare.safetensors", case)
    with pytest.raises(DataError, match=r"bare\.safetensors has no reference label map"):
        run(files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Send(Callback):
    """Send signals to the own process at a step, or during the validation after it."""

    def __init__(self, *numbers: int, step: int, place: str = "on_train_batch_start") -> None:
        self.numbers, self.step = numbers, step
        setattr(self, place, self.send)

    def send(self, trainer, *_):
        if trainer.global_step == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_told_to_stop_it_finishes_the_step_and_resumes_after_it(number, status, prepared, tmp_path):
    whole = run(prepared, tmp_path / "whole", steps=6, validate_every=6)
    changes = {"steps": 6, "validate_every": 6, "resume": "auto"}
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"stopped after step 3 as told; .* resumes from .*last.ckpt") as caught:
        run(prepared, tmp_path / "cut", **changes, callbacks=[Send(number, step=2)])
    assert caught.value.exit_status == status and signal.getsignal(number) == handler
    assert checkpoint(tmp_path / "cut")["global_step"] == 3
    after = run(prepared, tmp_path / "cut", **changes)
    assert after.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_does_not_wait_for_the_step(prepared, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(prepared, tmp_path, callbacks=[Send(signal.SIGINT, signal.SIGINT, step=1)])
    assert checkpoint(tmp_path)["global_step"] == 1


def test_told_to_stop_after_the_last_validation_it_lets_nothing_else_begin(prepared, tmp_path):
    with pytest.raises(Interrupted):
        run(prepared, tmp_path, callbacks=[Send(signal.SIGTERM, step=2, place="on_validation_end")], steps=2, validate_every=2)
    assert run(prepared, tmp_path, steps=2, validate_every=2, resume="auto").again


@pytest.mark.parametrize("steps", [5, 6])
def test_told_to_stop_in_the_last_validation_it_loses_one_step(steps, prepared, tmp_path):
    changes = {"steps": steps, "validate_every": 3}
    with pytest.raises(Interrupted):
        run(prepared, tmp_path, **changes, callbacks=[Send(signal.SIGTERM, step=steps, place="on_validation_batch_start")])
    assert checkpoint(tmp_path)["global_step"] == steps - 1


def test_workers_leave_ctrl_c_to_the_training(prepared):
    class Handler(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return int(signal.getsignal(signal.SIGINT))

    assert [batch.tolist() for batch in batches_of(Handler(), small_settings(steps=1, workers=1))] == [[signal.SIG_IGN] * 2]


def test_starting_afresh_removes_only_what_a_training_wrote(prepared, tmp_path):
    foreign = [tmp_path / name for name in ("my-best-idea.txt", "tensorboard/notes.txt", "checkpoints/best-man.safetensors")]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    run(prepared, tmp_path)
    run(prepared, tmp_path)
    assert all(path.read_text() == "mine" for path in foreign)
    assert len(list((tmp_path / "tensorboard").glob("events.*"))) == 1


def test_two_trainings_in_one_folder_are_a_sentence(prepared, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    path = str(tmp_path / "checkpoints" / "training.lock")
    hold = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", hold, path], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="another process is training"):
            run(prepared, tmp_path)
        other.communicate("\n")
    assert run(prepared, tmp_path).steps == 4


def test_the_variables_of_slurm_do_not_end_a_training(prepared, tmp_path, monkeypatch):
    for name, value in {
        "SLURM_NTASKS": "4",
        "SLURM_JOB_NAME": "train",
        "SLURM_JOB_ID": "1",
        "SLURM_NTASKS_PER_NODE": "4",
    }.items():
        monkeypatch.setenv(name, value)
    assert run(prepared, tmp_path).steps == 4


def test_a_device_that_is_not_there_is_a_sentence(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DataError, match="no CUDA GPU"):
        run(prepared, tmp_path, device="cuda")
    with pytest.raises(DataError, match="16-mixed needs a GPU"):
        run(prepared, tmp_path, precision="16-mixed")


def test_a_training_may_start_from_the_weights_of_another(prepared, tmp_path):
    before = run(prepared, tmp_path / "before")
    changes = {"pretrained": str(before.checkpoint), "steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
    after = run(prepared, tmp_path / "after", **changes)
    assert after.best_dice == pytest.approx(before.best_dice)
    with pytest.raises(DataError, match=r"best.safetensors does not fit UNet: \d+ of its"):
        run(prepared, tmp_path / "other", **changes, arguments={"channels": (8, 16)})
    foreign = before.checkpoint.rename(tmp_path / "foreign.safetensors")
    changes["pretrained"] = str(foreign)
    assert run(prepared, tmp_path / "again", **changes).best_dice == after.best_dice
    with pytest.raises(Interrupted):
        run(prepared, tmp_path / "cut", **{**changes, "steps": 4}, callbacks=[Send(signal.SIGTERM, step=2)])
    foreign.unlink()
    assert run(prepared, tmp_path / "again", **changes, resume="auto").best_dice == after.best_dice
    assert run(prepared, tmp_path / "cut", **{**changes, "steps": 4}, resume="auto").steps == 4, "the file was needed once"


def test_a_retraining_that_cannot_begin_leaves_the_earlier_model(prepared, tmp_path):
    weights = run(prepared, tmp_path, steps=2).checkpoint
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="do not exist"):
        run(prepared, tmp_path, pretrained=str(tmp_path / "bset.safetensors"))
    with pytest.raises(DataError, match="does not fit"):
        run(prepared, tmp_path, pretrained=str(weights), arguments={"channels": (8, 16)})
    with pytest.raises(DataError, match="no argument widths"):
        run(prepared, tmp_path, arguments={"channels": (4, 8), "widths": (4, 8)})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert run(prepared, tmp_path, pretrained=str(weights), steps=2).checkpoint == weights, "it may start from its own"


def test_tensorboard_shows_every_step(prepared, tmp_path):
    result = run(prepared, tmp_path)
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in curves.Scalars("train_loss")]
    np.testing.assert_allclose(losses, result.history[["step", "train_loss"]], rtol=1e-6)
    assert [event.step for event in curves.Scalars("dice_mean")] == [2, 4]


def test_a_checkpoint_for_which_the_disk_has_no_room_is_a_sentence(tmp_path, full_disk):
    path = tmp_path / "last.ckpt"
    DurableIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(DataError, match=r"last\.ckpt cannot be written .*make room"):
        DurableIO().save_checkpoint({"step": 2, "weights": torch.zeros(100_000)}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("able", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_computes_in_bf16_only_if_it_has_instructions_for_it(monkeypatch, able, precision):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: able or including_emulation)
    assert choose_precision(TrainSettings(device="cuda")) == precision


def test_bf16_trains(prepared, tmp_path):
    assert run(prepared, tmp_path, precision="bf16-mixed").history["train_loss"].notna().all()


def test_past_the_last_case_come_empty_ones(prepared):
    cases = CaseDataset(prepared)
    assert len(cases) == 3 and cases[3] == {} and cases[2]["regions"].shape == (3, *PreparedFile(prepared[2]).shape)
