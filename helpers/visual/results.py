"""Figures of training and results: learning curves, scores by region, and two models on the same cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.evaluation.statistics import paired_test, summarise
from helpers.regions import REGION_COLOURS, REGION_NAMES, REGIONS
from helpers.visual.style import FIRST, INK, MUTED, SECOND, new_axes

METRIC_LABELS: dict[str, str] = {
    "dice": "Dice",
    "lesion_dice": "lesion-wise Dice",
    "hd95": "HD95 (mm)",
    "sensitivity": "sensitivity",
    "precision": "precision",
    "volume_error_ml": "volume error (ml)",
    "volume_error_percent": "volume error (%)",
}
SHARES = ("dice", "lesion_dice", "sensitivity", "precision")
"""Metrics between 0 and 1."""


def show_history(history: pd.DataFrame, *, smooth: int = 1) -> Figure:
    """Draw the curves of a training run: loss on the left, validation Dice by region and its best mean on the right.

    Parameters
    ----------
    history : DataFrame
        `helpers.training.train.TrainResult.history`: columns ``step``, ``train_loss``, ``dice_TC``, ``dice_WT``, ``dice_ET``
        and ``dice_mean``, the last four NaN at steps without validation.
    smooth : int
        Steps over which the drawn loss is averaged; the raw loss stays visible behind it.
    """
    figure, (losses, scores) = plt.subplots(1, 2, figsize=(9.6, 3.2), layout="constrained")
    steps, loss = history["step"], history["train_loss"].astype(float)
    losses.plot(steps, loss, color=FIRST, linewidth=1, alpha=0.35, label="each step")
    losses.plot(steps, loss.rolling(smooth, min_periods=1).mean(), color=FIRST, label=f"mean of {smooth} steps")
    losses.set(title="Training loss", xlabel="step", ylim=(0, None))
    losses.legend()
    valid = history[history["dice_mean"].notna()]
    for region in REGIONS:
        scores.plot(
            valid["step"], valid[f"dice_{region}"], color=REGION_COLOURS[region], marker="o", markersize=4, label=region
        )
    scores.plot(valid["step"], valid["dice_mean"], color=INK, linestyle="--", label="mean")
    scores.set_title("Validation Dice")
    if not valid.empty:
        best = valid.loc[valid["dice_mean"].idxmax()]
        scores.plot(best["step"], best["dice_mean"], marker="*", markersize=13, color=INK, linestyle="none")
        scores.set_title(f"Validation Dice, best mean {best['dice_mean']:.3f} at step {best['step']:.0f}")
    scores.set(xlabel="step", ylim=(0, 1), xlim=losses.get_xlim())
    scores.legend(loc="lower right", ncols=2)
    for ax in (losses, scores):
        ax.grid(axis="y")
    return figure


def show_race(histories: Mapping[str, pd.DataFrame], *, ax: Axes | None = None) -> Axes:
    """Mean validation Dice of several trainings against the seconds since each began, with the number of steps at the end.

    Parameters
    ----------
    histories : mapping from name to DataFrame
        As `show_history` takes them, with the column ``seconds``.
    ax : Axes, optional
    """
    ax = new_axes(ax, (7.4, 3.4))
    for (name, history), colour in zip(histories.items(), (FIRST, SECOND, INK, MUTED), strict=False):
        valid = history[history["dice_mean"].notna()]
        steps = int(history["step"].iloc[-1])
        ax.plot(valid["seconds"], valid["dice_mean"], color=colour, marker="o", markersize=5, label=f"{name}, {steps} steps")
    ax.set(xlabel="seconds of training", ylabel="mean validation Dice", xlim=(0, None), ylim=(0, 1))
    ax.set_title("Equal time, unequal steps")
    ax.legend(loc="best")
    ax.grid(axis="y")
    return ax


def show_scores(scores: pd.DataFrame, *, metric: str = "dice", ax: Axes | None = None) -> Axes:
    """Scores by region, a dot a case, with the mean and its 95 % bootstrap interval beside the dots.

    Parameters
    ----------
    scores : DataFrame
        Rows of `helpers.evaluation.metrics.score_case`: ``region`` and the metric.
    metric : str
        Column to draw; HD95 on a logarithmic axis that is linear below 1 mm, since 0 and 373.13 mm occur.
    ax : Axes, optional
    """
    ax = new_axes(ax, (6, 3.4))
    summary = summarise(scores, metrics=[metric]).set_index("region")
    scatter = np.random.default_rng(0)
    for place, region in enumerate(REGIONS):
        values = scores.loc[scores["region"] == region, metric].to_numpy(float)
        spread = place - 0.12 + scatter.uniform(-0.1, 0.1, values.size)
        ax.scatter(spread, values, s=24, color=REGION_COLOURS[region], edgecolor=INK, linewidth=0.5, alpha=0.9)
        row = summary.loc[region]
        if np.isfinite(row["low"]):
            ax.plot([place + 0.16] * 2, [row["low"], row["high"]], color=INK, linewidth=2, solid_capstyle="butt")
        ax.plot(place + 0.16, row["mean"], marker="D", markersize=6, color="white", markeredgecolor=INK)
        form = f"{row['mean']:.3f}" if metric != "hd95" else f"{row['mean']:.1f}"
        ax.text(place + 0.22, row["mean"], form, va="center")
    ax.set_xticks(range(len(REGIONS)), [f"{REGION_NAMES[region]}\n{region}" for region in REGIONS])
    ax.set(xlim=(-0.5, len(REGIONS) - 0.4), ylabel=METRIC_LABELS.get(metric, metric))
    if metric == "hd95":
        ax.set_yscale("symlog", linthresh=1)
        ax.set_yticks([0, 1, 2, 5, 10, 20, 50, 100, 373], ["0", "1", "2", "5", "10", "20", "50", "100", "373"])
        ax.set_ylim(-0.1, 450)
    elif metric in SHARES:
        ax.set_ylim(-0.03, 1.03)
    ax.set_title(f"{METRIC_LABELS.get(metric, metric)} of {len(scores) // len(REGIONS)} cases, mean and 95 % interval")
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    ax.tick_params(axis="x", length=0)
    return ax


def show_paired(
    first: pd.DataFrame, second: pd.DataFrame, *, names: Sequence[str], metric: str = "dice", axes: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Two models on the same cases: a line a case from the first to the second, by region, with the mean difference.

    Parameters
    ----------
    first, second : DataFrame
        Scores with columns ``case``, ``region`` and the metric, of the same cases.
    names : two str
        What the models are called.
    metric : str
    axes : three Axes, optional

    Raises
    ------
    ValueError
        If the two do not hold the same cases.
    """
    if axes is None:
        _, axes = plt.subplots(1, 3, figsize=(9.6, 3.6), sharey=True, layout="constrained")
    tables = [scores.pivot(index="case", columns="region", values=metric) for scores in (first, second)]
    if set(tables[0].index) != set(tables[1].index):
        raise ValueError("the two tables of scores hold different cases; score both models on the same test set")
    for ax, region in zip(axes, REGIONS, strict=True):
        before, after = tables[0][region], tables[1][region].loc[tables[0].index]
        better = (after > before) if metric != "hd95" else (after < before)
        for x, y, up in zip(before, after, better, strict=True):
            colour = REGION_COLOURS[region] if up else "#AAAAAA"
            ax.plot([0, 1], [x, y], color=INK, linewidth=2.4, zorder=1 + up)
            ax.plot([0, 1], [x, y], color=colour, linewidth=1.6, marker="o", markeredgecolor=INK, zorder=2 + up)
        result = paired_test(after, before)
        interval = result.difference
        digits = 1 if metric == "hd95" else 3
        span = f" [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]" if np.isfinite(interval.low) else ""
        chance = f"p = {result.p_value:.3f}" if np.isfinite(result.p_value) else "n too small for a test"
        ax.set_title(f"{REGION_NAMES[region]} {region}")
        count = f"better in {int(better.sum())} of {len(before)} (coloured)"
        ax.set_xlabel(f"{names[1]} − {names[0]}: {interval.mean:+.{digits}f}{span}\n{count}\n{chance}", fontsize=9, color=MUTED)
        ax.set_xticks([0, 1], names)
        ax.set_xlim(-0.3, 1.3)
        ax.grid(axis="y")
    axes[0].set_ylabel(METRIC_LABELS.get(metric, metric))
    return axes
