"""Figures of time show the numbers that they are given."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from helpers.plots.profiling import (
    show_ladder,
    show_latency,
    show_memory,
    show_roofline,
    show_step,
)
from helpers.profiling import Budget, Machine, Profile

MACHINE = Machine("a machine", 2, {"fp32": 100.0, "bf16": 200.0}, 10.0, 500.0)


@pytest.fixture
def profile(tmp_path):
    phases = pd.DataFrame({"seconds": [1.0, 3.0], "share": [0.25, 0.75]}, index=["load", "forward"])
    kernels = pd.DataFrame({"seconds": [3.0, 1.0], "share": [0.75, 0.25], "calls": [1, 2]}, index=["convolution", "copy_"])
    memory = pd.DataFrame({"seconds": [0.0, 1.0, 2.0], "mib": [1.0, 7.0, 0.0]})
    return Profile(phases, kernels, memory, tmp_path / "trace.json")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def title(ax):
    return ax.get_title() or ax.get_title(loc="left")  # left once a notebook's style was applied


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_the_roofline_has_a_roof_a_format_and_a_point_a_step():
    ax = show_roofline(MACHINE, {"unet": (Budget(1, 10.0, 20.0, 3.0), 1.5)})
    assert [max(line.get_ydata()) for line in ax.lines[:2]] == [100.0, 200.0]
    assert "unet: 20, 20% of the fp32 peak" in texts(ax)
    assert "10 GB/s" in title(ax)


def test_phases_stand_in_their_order_and_operations_by_cost(profile):
    left, right = show_step(profile).axes
    assert [bar.get_width() for bar in left.patches] == [75, 25]
    assert [bar.get_width() for bar in right.patches] == [25, 75]
    assert [label.get_text() for label in right.get_yticklabels()] == ["copy_", "convolution"]


def test_memory_says_its_peak(profile):
    assert "at most 7 MiB" in title(show_memory(profile))


def test_the_ladder_leaves_out_what_was_not_measured():
    rows = {
        "naive": {"s a patch": 2.0, "data wait": 0.5, "cumulative": 1.0, "measured": "kept"},
        "fast": {"s a patch": 0.5, "data wait": 0.0, "cumulative": 4.0, "measured": "kept"},
        "graphs": {"s a patch": None, "data wait": None, "cumulative": None, "measured": "not measured here: no GPU"},
    }
    ax = show_ladder(pd.DataFrame.from_dict(rows, orient="index").astype({"s a patch": float}))
    assert texts(ax) == ["0.500 s, 4.0 x", "2.000 s, 1.0 x"]


def test_every_route_is_one_bar_of_stages():
    ax = show_latency({"naive": {"read": 1.0, "network": 3.0}, "default": {"read": 1.0, "network": 0.5}}, ["read", "network"])
    assert texts(ax) == ["1.50 s", "4.00 s"]
    assert len(ax.patches) == 4
