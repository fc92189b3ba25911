"""Budgets add up, comparisons are fair, and the report of a profile holds what was measured."""

import itertools
import json

import pandas as pd
import pytest
import torch
from torch import nn

from helpers.cli import main
from helpers.models.networks import build_network, describe_network
from helpers.profiling import (
    Machine,
    Timing,
    TrainingStep,
    interleave,
    measure_machine,
    profile_steps,
    roofline,
    training_budget,
)
from helpers.profiling.clock import paired_ratio

MACHINE = Machine("a machine", 2, {"fp32": 100.0, "bf16": 200.0}, 10.0, 500.0)
SIZE = (16, 16, 32)


def test_things_are_timed_in_turns_and_warm():
    calls = []
    timings = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, warmup=1)
    assert calls == ["a", "b"] * 3
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 2, "b": 2}
    with pytest.raises(ValueError, match="at least one"):
        interleave({}, rounds=0)


def test_a_disturbance_moves_neither_median_nor_ratio():
    slow, fast = Timing((2.0, 2.0, 20.0, 2.0, 2.0)), Timing((1.0, 1.0, 10.0, 1.0, 1.0))
    assert slow.median == 2.0
    assert paired_ratio(slow, fast) == 2.0
    assert str(Timing((1.0, 2.0, 3.0))) == "2.000 s [1.500, 2.500]"


def test_forward_operations_are_those_of_the_table_of_networks():
    network = build_network("unet")
    budget = training_budget(network, SIZE, batch=2)
    assert budget.forward_gflop == pytest.approx(2 * describe_network(network, size=SIZE).gflop)
    assert budget.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert all(not parameter.is_meta and parameter.grad is None for parameter in network.parameters())


def test_operations_and_bytes_of_a_linear_layer_are_counted_by_hand():
    layer = nn.Conv3d(4, 5, 1, bias=False)
    budget = training_budget(layer, (3, 2, 2), batch=1)
    products = 2 * 4 * 5 * 12
    assert budget.forward_gflop * 1e9 == pytest.approx(products)
    assert budget.backward_gflop * 1e9 == pytest.approx(products), "the image wants no gradient, the weights do"
    assert budget.gbytes * 1e9 >= 4 * (4 * 12 + 4 * 5 + 5 * 12), "image and weights in, output out"


def test_several_outputs_are_all_counted():
    network = build_network("dynunet")
    budget = training_budget(network, (32, 32, 32))
    assert budget.backward_gflop > budget.forward_gflop


def test_the_roof_is_the_lower_of_memory_and_arithmetic():
    assert roofline(1.0, MACHINE) == 10.0
    assert roofline(50.0, MACHINE) == 100.0
    assert roofline(50.0, MACHINE, "bf16") == 200.0


def test_utilisation_is_the_floor_over_the_seconds():
    budget = training_budget(build_network("unet"), SIZE)
    assert budget.utilisation(2 * budget.floor(MACHINE), MACHINE) == pytest.approx(0.5)
    assert budget.floor(MACHINE, "bf16") == pytest.approx(budget.floor(MACHINE) / 2)


def test_the_peaks_of_this_machine_are_measured():
    machine = measure_machine(edge=64, megabytes=1, rounds=1)
    assert machine.name
    assert min(*machine.gflops.values(), machine.copy_gbs, machine.decompress_mbs) > 0


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    torch.manual_seed(0)
    network = build_network("unet", channels=(4, 8))
    image = torch.randn(1, 4, *SIZE)
    batches = itertools.repeat({"image": image, "regions": torch.zeros(1, 3, *SIZE)})
    step = TrainingStep(network, torch.optim.AdamW(network.parameters()), batches)
    return profile_steps(step, tmp_path_factory.mktemp("profile"), steps=2)


def test_every_phase_takes_a_share(seen):
    assert list(seen.phases.index) == ["load", "transfer", "forward", "loss", "backward", "optimizer"]
    assert (seen.phases["seconds"] > 0).all()
    assert seen.phases["share"].sum() == pytest.approx(1)
    assert seen.data_wait == seen.phases.loc["load", "share"]


def test_operations_are_sorted_and_counted_once_a_step(seen):
    assert seen.kernels["share"].sum() == pytest.approx(1)
    assert seen.kernels["seconds"].is_monotonic_decreasing
    convolutions = sum(
        isinstance(module, nn.Conv3d | nn.ConvTranspose3d) for module in build_network("unet", channels=(4, 8)).modules()
    )
    assert seen.kernels.loc["convolution_backward", "calls"] == convolutions
    assert not set(seen.phases.index) & set(seen.kernels.index)


def test_memory_is_followed_and_the_trace_can_be_opened(seen):
    assert seen.memory["seconds"].is_monotonic_increasing
    assert seen.peak_mib * 2**20 > 4 * 4 * 16 * 16 * 32, "more than the first activation"
    assert {"forward", "backward"} <= {event.get("name") for event in json.loads(seen.trace.read_text())["traceEvents"]}
    assert seen.snapshot is None


def test_a_step_learns(seen):
    torch.manual_seed(0)
    network = build_network("unet", channels=(4, 8))
    batch = {"image": torch.randn(1, 4, *SIZE), "regions": torch.zeros(1, 3, *SIZE)}
    step = TrainingStep(network, torch.optim.AdamW(network.parameters(), lr=0.01), itertools.repeat(batch))
    losses = [step() for _ in range(4)]
    assert losses[-1] < losses[0]


def test_the_report_holds_what_was_measured(tmp_path, capsys):
    words = [
        "--arguments",
        '{"channels": [4, 8]}',
        "--patch",
        "16,16,32",
        "--batch",
        "1",
        "--steps",
        "2",
        "--device",
        "cpu",
        "--no-memory",
    ]
    assert main(["profile", *words, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    report = (tmp_path / "report.md").read_text()
    assert report in printed
    assert "# unet, 1 patches of 16x16x32, fp32 on cpu" in report
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["settings"]["patch"] == [16, 16, 32]
    assert len(record["seconds"]) == 2
    assert record["numbers"]["s a step"] >= min(record["seconds"])
    assert record["numbers"]["peak training memory GiB"] == "not measured"
    assert list(pd.read_csv(tmp_path / "phases.csv")["phase"])[2] == "forward"
    assert (tmp_path / "trace.json").is_file()
    ladder = pd.read_csv(tmp_path / "ladder.csv", index_col="change")
    assert ladder.loc["a thread that prefetches", "loss difference"] == 0
    assert ladder.loc["gradient checkpointing", "loss difference"] == pytest.approx(0, abs=1e-5)
    assert ladder.loc["random changes on the device", "measured"] == "not measured here: patches are noise"
    assert "| torch.compile |" in report


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--patch", "20"], "cannot train on patches of 20x20x20"),
        (["--steps", "0"], "--steps is 0"),
        (["--prepared", "."], "holds no prepared case"),
    ],
)
def test_what_cannot_be_profiled_is_refused(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["profile", *words, "--device", "cpu", "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_named(tmp_path, capsys):
    assert main(["profile", "--device", "cuda:0", "--out", str(tmp_path)]) == 1
    assert "there is no CUDA GPU here" in capsys.readouterr().err
