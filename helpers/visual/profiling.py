"""Figures of time: the roofline of a machine, what a step spends, memory over time, and a ladder of speed-ups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.profiling.budget import Budget, roofline
from helpers.profiling.machine import Machine
from helpers.profiling.trace import Profile
from helpers.visual.style import FIRST, INK, MUTED, SECOND, new_axes

WAIT = "#D55E00"
"""Colour of waiting for data (Okabe-Ito palette)."""


def show_roofline(machine: Machine, steps: Mapping[str, tuple[Budget, float]], *, ax: Axes | None = None) -> Axes:
    """Draw the measured roofs of a machine in each number format, and where training steps lie below them.

    Parameters
    ----------
    machine : Machine
    steps : mapping from name to (Budget, seconds)
        Measured in 32 bits.
    ax : Axes, optional
    """
    ax = new_axes(ax, (7.4, 3.8))
    intensities = np.logspace(-0.5, 2.5, 200)
    for name, colour in zip(machine.gflops, (FIRST, SECOND), strict=False):
        roof = [roofline(value, machine, name) for value in intensities]
        ax.loglog(intensities, roof, color=colour)
        ax.annotate(
            f"{name} {machine.gflops[name]:.0f}",
            (intensities[-1], roof[-1]),
            (0, 4),
            textcoords="offset points",
            ha="right",
            color=colour,
        )
    for place, ((name, (budget, seconds)), marker) in enumerate(zip(steps.items(), "osD^", strict=False)):
        reached = budget.gflop / seconds
        ax.loglog(
            [budget.intensity] * 2, [reached, roofline(budget.intensity, machine)], color=MUTED, linestyle=":", linewidth=1
        )
        ax.loglog(budget.intensity, reached, marker, color=INK, markersize=8)
        text = f"{name}: {reached:.0f}, {budget.utilisation(seconds, machine):.0%} of the fp32 peak"
        ax.annotate(text, (budget.intensity, reached), (8, -14 if place else 6), textcoords="offset points")
    ax.set(xlabel="operations a byte", ylabel="10⁹ operations a second")
    ax.set_ylim(bottom=ax.get_ylim()[0] / 2)  # room for the name below the lowest point
    ax.set_title(f"Roofline: what this machine could do ({machine.copy_gbs:.0f} GB/s) and what it does")
    ax.grid(which="both", alpha=0.4)
    return ax


def show_step(profile: Profile, *, top: int = 10) -> Figure:
    """Draw what a profiled step spends: its phases on the left, the most costly operations on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.4), layout="constrained")
    phases = profile.phases["share"][::-1]
    left.barh(phases.index, 100 * phases, color=[WAIT if name == "load" else FIRST for name in phases.index])
    left.set(title="Phases of a step", xlabel="% of the step")
    kernels = profile.kernels.head(top)["share"][::-1]
    right.barh([name.split("::")[-1][:34] for name in kernels.index], 100 * kernels, color=SECOND)
    right.set(title="Operations by themselves", xlabel="% of all operations")
    for ax, values in ((left, phases), (right, kernels)):
        _label_bars(ax, 100 * values, "{:.1f}")
    return figure


def show_memory(profile: Profile, *, ax: Axes | None = None) -> Axes:
    """Draw the memory that PyTorch allocated during the profiled steps, above what it held before."""
    ax = new_axes(ax, (8.6, 2.4))
    ax.fill_between(profile.memory["seconds"], profile.memory["mib"], step="post", color=FIRST, alpha=0.35, linewidth=0)
    ax.step(profile.memory["seconds"], profile.memory["mib"], where="post", color=FIRST, linewidth=0.8)
    ax.axhline(profile.peak_mib, color=INK, linestyle="--", linewidth=0.8)
    ax.set(title=f"Memory during the steps, at most {profile.peak_mib:.0f} MiB", xlabel="seconds, profiler on", ylabel="MiB")
    ax.set(xlim=(0, None), ylim=(0, None))
    return ax


def show_ladder(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw a ladder: seconds a patch of every measured rung, the part that waits for data, and the cumulative speed-up.

    Parameters
    ----------
    table : DataFrame
        As `helpers.profiling.ladder.measure_ladder` returns it.
    ax : Axes, optional
    """
    shown = table[table["s a patch"].notna()][::-1]
    ax = new_axes(ax, (8.6, 0.6 + 0.38 * len(shown)))
    waits = shown["s a patch"] * shown["data wait"]
    colours = [FIRST if state == "kept" else MUTED for state in shown["measured"]]
    ax.barh(shown.index, waits, color=WAIT)
    ax.barh(shown.index, shown["s a patch"] - waits, left=waits, color=colours)
    for place, (seconds, ratio) in enumerate(zip(shown["s a patch"], shown["cumulative"], strict=True)):
        ax.annotate(f"{seconds:.3f} s, {ratio:.1f} x", (seconds, place), (4, 0), textcoords="offset points", va="center")
    ax.set(xlabel="seconds a patch: waiting for data, then computing", xlim=(0, 1.2 * shown["s a patch"].max()))
    ax.set_title("One change at a time")
    for colour, text in ((WAIT, "waits for data"), (FIRST, "computes"), (MUTED, "computes, change not kept")):
        ax.plot([], [], color=colour, linewidth=6, label=text)
    ax.legend(loc="lower right")
    return ax


def show_latency(times: Mapping[str, Mapping[str, float]], stages: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Draw seconds of every stage of a prediction as one bar for each route.

    Parameters
    ----------
    times : mapping from route to mapping from stage to seconds
    stages : sequence of str
        In their order.
    ax : Axes, optional
    """
    ax = new_axes(ax, (8.6, 0.9 + 0.42 * len(times)))
    names, left = list(times)[::-1], np.zeros(len(times))
    colours = ("#0072B2", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#999999")
    for stage, colour in zip(stages, colours, strict=False):
        seconds = np.array([times[name][stage] for name in names])
        ax.barh(names, seconds, left=left, color=colour, label=stage)
        left += seconds
    _label_bars(ax, pd.Series(left, index=names), "{:.2f} s")
    ax.set(xlabel="seconds", title="From four files to a label map", xlim=(0, 1.15 * left.max()))
    ax.legend(loc="lower right", ncols=3)
    return ax


def _label_bars(ax: Axes, values: pd.Series, text: str) -> None:
    for place, value in enumerate(values):
        ax.annotate(
            text.format(value), (value, place), (3, 0), textcoords="offset points", va="center", color=MUTED, fontsize=9
        )
    ax.margins(x=0.15)
