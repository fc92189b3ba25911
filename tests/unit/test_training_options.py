"""Averaging, accumulation, the guard, caching, early stopping and refusals: what a training does when it is told to."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.data.prepared import open_prepared
from helpers.data.preprocess import prepare_cohort
from helpers.models.networks import build_network
from helpers.training.before import module
from helpers.training.before.cache import FileInMemory, open_cases
from helpers.training.before.datamodule import CaseDataModule
from helpers.training.before.guard import NonFiniteError, non_finite
from helpers.training.before.loss import segmentation_loss
from helpers.training.before.sampling import StepBatches
from helpers.training.before.session import Session
from helpers.training.before.settings import TrainSettings
from helpers.training.before.state import read_state
from helpers.training.before.train import train
from helpers.workspace import DataError
from tests.cases import write_case

SMALL = {"channels": (4, 8), "num_res_units": 1}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    cases = [write_case(folder, f"Case_{number:03}", seed=number) for number in range(3)]
    return list(prepare_cohort(cases, folder / "prepared", workers=1, progress=False).paths.values())


def settings_with(**changes) -> TrainSettings:
    small = {"arguments": SMALL, "patch": (8, 8, 8), "batch": 4, "steps": 4, "validate_every": 2, "device": "cpu"}
    return TrainSettings(**{**small, "clean_tumour_ml": 0.0, "clean_enhancing_ml": 0.0, **changes})


def run(prepared, out, **changes):
    options = {name: changes.pop(name) for name in ("resume", "report", "transforms") if name in changes}
    return train(settings_with(**changes), prepared[:2], validation=prepared[2:], out=out, **options)


class Spoil:
    """Put a number into every patch from one on."""

    def __init__(self, value: float, seldom: int = 1) -> None:
        self.value, self.seldom, self.seed = value, seldom, 0

    def set_random_state(self, seed):
        self.seed = seed

    def __call__(self, sample):
        image = sample["image"].clone()
        if self.seed % self.seldom == 0:
            image[0, 0, 0, 0] = self.value
        return {**sample, "image": image}


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
    result = run(prepared, tmp_path, steps=1, accumulate=2, augment=False)
    with torch.random.fork_rng():
        torch.manual_seed(settings_with().seed)
        network = build_network("unet", **SMALL)
    data = CaseDataModule(prepared[:2], patch=(8, 8, 8), batch=4, steps=1, seed=settings_with().seed, augment=False)
    batch = next(iter(data.train_dataloader()))
    parts = [(batch["image"][half], batch["regions"][half]) for half in (slice(0, 2), slice(2, 4))]
    losses = [segmentation_loss()(network(image), regions).item() for image, regions in parts]
    assert result.history["train_loss"][0] == pytest.approx(np.mean(losses), rel=1e-4)


def test_averaged_weights_are_the_ones_validated_and_kept(prepared, tmp_path):
    result = run(prepared, tmp_path, averaging=0.9, save_every=1)
    state = read_state(tmp_path / "checkpoints" / "state.pt")
    averaged = {name.removeprefix("module."): tensor for name, tensor in state["average"].items()}
    kept = load_file(result.checkpoint)
    if result.best_step == 4:
        assert all(torch.equal(kept[name], averaged[name]) for name in kept)
    assert not any(torch.equal(averaged[name], tensor) for name, tensor in state["network"].items())


def test_the_average_remembers_more_and_more_up_to_its_decay():
    session = Session.__new__(Session)
    session.settings = settings_with(averaging=0.5)
    for count, decay in ((1, 2 / 11), (4, 5 / 14), (100, 0.5)):
        averaged = [torch.tensor([1.0])]
        session._mean(averaged, [torch.tensor([0.0])], count)
        assert float(averaged[0]) == pytest.approx(decay)


@pytest.mark.parametrize("spoilt", ["weight", "loss", "gradient"])
def test_the_guard_names_what_is_not_finite(spoilt):
    network = build_network("unet", **SMALL)
    loss = segmentation_loss()(network(torch.randn(2, 4, 8, 8, 8)), torch.zeros(2, 3, 8, 8, 8))
    loss.backward()
    assert non_finite(network, loss.item()) == ""
    name, tensor = list(network.named_parameters())[3]
    with torch.no_grad():
        (tensor if spoilt == "weight" else tensor.grad)[(0,) * tensor.ndim] = math.inf
    expected = {"weight": f"the weight {name}", "loss": "the loss (nan)", "gradient": f"the gradient of {name}"}
    assert non_finite(network, math.nan if spoilt == "loss" else loss.item()) == expected[spoilt]


def test_a_number_that_is_not_finite_stops_the_training_or_only_its_step(prepared, tmp_path):
    with pytest.raises(NonFiniteError, match=r"step 1: the loss \(nan\) is not finite"):
        run(prepared, tmp_path / "stop", transforms=Spoil(math.nan))
    lines = []
    result = run(prepared, tmp_path / "skip", transforms=Spoil(math.nan, 5), nonfinite="skip", report=lines.append, steps=8)
    skipped = result.history["train_loss"].isna()
    assert 0 < skipped.sum() < 8 and sum("left out" in line for line in lines) == skipped.sum()
    assert all(torch.isfinite(tensor).all() for tensor in load_file(result.checkpoint).values())


@pytest.mark.parametrize(("found", "named"), [("", "the norm of the gradient"), ("the gradient of a.weight",) * 2])
def test_a_gradient_that_is_not_finite_costs_a_step_whatever_it_belongs_to(prepared, tmp_path, monkeypatch, found, named):
    norms = iter([torch.tensor(math.inf)])
    monkeypatch.setattr(module, "get_total_norm", lambda gradients: next(norms, torch.tensor(1.0)))
    monkeypatch.setattr(module, "non_finite", lambda network, loss: found)
    lines = []
    run(prepared, tmp_path, nonfinite="skip", report=lines.append, steps=2, validate_every=2)
    assert f"step 1: {named} is not finite; the step was left out" in lines


def test_cached_cases_give_the_same_patches(prepared):
    options = {"patch": (8, 8, 8), "batch": 4, "steps": 3, "seed": 3}
    batches = [list(CaseDataModule(prepared, cache=cache, **options).train_dataloader()) for cache in ("memory", "mapped")]
    assert all(torch.equal(one[key], other[key]) for one, other in zip(*batches, strict=True) for key in one)


def test_cases_are_kept_in_memory_only_if_they_fit(prepared, monkeypatch):
    kinds = {}
    for free in (1 << 30, 1 << 10):
        monkeypatch.setattr("psutil.virtual_memory", lambda free=free: type("Memory", (), {"available": free}))
        kinds[free] = {type(file) for file in open_cases(prepared, "auto").values()}
    assert kinds == {1 << 30: {FileInMemory}, 1 << 10: {type(open_prepared(prepared[0]))}}


def test_a_training_ends_early_when_it_no_longer_improves(prepared, tmp_path):
    result = run(prepared, tmp_path, steps=40, validate_every=1, patience=2, learning_rate=1e-12)
    assert result.steps == result.best_step + 2 < 40


def test_a_state_of_another_training_is_refused(prepared, tmp_path):
    run(prepared, tmp_path, steps=2)
    with pytest.raises(DataError, match=r"batch 4 there, 2 here; learning_rate 0.003 there, 0.1 here"):
        run(prepared, tmp_path, steps=2, batch=2, learning_rate=0.1, resume="auto")
    with pytest.raises(DataError, match="the training part"):
        train(settings_with(steps=2), prepared[1:], validation=prepared[:1], out=tmp_path, resume="auto")
    with pytest.raises(DataError, match="there is no state"):
        run(prepared, tmp_path, resume=tmp_path / "none.pt")
    (tmp_path / "checkpoints" / "state.pt").write_bytes(b"not a state")
    with pytest.raises(DataError, match="not a state of a training"):
        run(prepared, tmp_path, steps=2, resume="auto")


def test_a_finished_training_is_not_done_again_and_other_workers_are_no_other_training(prepared, tmp_path):
    lines, first = [], run(prepared, tmp_path)
    (tmp_path / "best.safetensors").unlink()
    again = run(prepared, tmp_path, workers=1, logger="none", resume="auto", report=lines.append)
    assert lines == ["this training is complete already"]
    assert again.history.equals(first.history) and again.best_dice == first.best_dice and again.checkpoint.is_file()


def test_a_training_may_start_from_the_weights_of_another(prepared, tmp_path):
    before = run(prepared, tmp_path / "before")
    changes = {"pretrained": str(before.checkpoint), "steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
    after = run(prepared, tmp_path / "after", **changes)
    assert after.best_dice == pytest.approx(before.best_dice)
    with pytest.raises(DataError, match=r"does not fit unet with .*16"):
        run(prepared, tmp_path / "other", **changes, arguments={"channels": (8, 16)})
    foreign = before.checkpoint.rename(tmp_path / "foreign.safetensors")
    assert run(prepared, tmp_path / "again", **{**changes, "pretrained": str(foreign)}).best_dice == after.best_dice


def test_tensorboard_shows_every_step(prepared, tmp_path):
    result = run(prepared, tmp_path)
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in curves.Scalars("train_loss")]
    np.testing.assert_allclose(losses, result.history[["step", "train_loss"]], rtol=1e-6)
    assert [event.step for event in curves.Scalars("dice_mean")] == [2, 4]


def test_fp16_without_a_gpu_is_refused(prepared, tmp_path):
    with pytest.raises(DataError, match="16-mixed needs a GPU"):
        run(prepared, tmp_path, precision="16-mixed")


def test_bf16_trains(prepared, tmp_path):
    assert run(prepared, tmp_path, precision="bf16-mixed").history["train_loss"].notna().all()
