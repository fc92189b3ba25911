"""Figures of training and results: learning curves, scores by region, models compared, calibration, validation cases."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.data.prepared import Prepared
from helpers.evaluation.statistics import bootstrap_interval, calibration_scores, paired_test, summarise
from helpers.plots.case import FIRST, INK, MUTED, SECOND, Comparison, new_axes, show_gallery
from helpers.regions import REGION_COLOURS, REGION_NAMES, REGIONS
from helpers.workspace import write_atomically
from slice_viewer.slices import to_palette

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


MODEL_COLOURS = (FIRST, SECOND, "#009E73", "#CC79A7")
"""Of the models in the order given (Okabe-Ito palette)."""
SIZES_ML = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
FEW_VOXELS = 200
"""Points of a reliability curve that rest on fewer voxels than this are not drawn."""


def show_effects(effects: pd.DataFrame, *, metric: str = "dice", ax: Axes | None = None) -> Axes:
    """What each choice changes against the baseline: the mean difference with its 95 % interval, a row a variant.

    Parameters
    ----------
    effects : DataFrame
        As `helpers.training.ablation.ablation_table` returns it; rows whose interval excludes 0 are filled.
    metric : str
        What was compared, for the label.
    ax : Axes, optional
    """
    compared = effects[effects["difference"].notna()]
    ax = new_axes(ax, (7.6, 0.42 * len(compared) + 1.3))
    ax.axvline(0, color=MUTED, linewidth=1)
    for place, (name, row) in enumerate(compared.iterrows()):
        sure = row["low"] > 0 or row["high"] < 0
        colour = INK if not sure else FIRST if row["difference"] > 0 else SECOND
        if np.isfinite(row["low"]):
            ax.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        ax.plot(row["difference"], place, "o", color=colour if sure else "white", markeredgecolor=colour, markersize=7)
        ax.text(1.02, place, f"{row['difference']:+.3f}", transform=ax.get_yaxis_transform(), va="center")
        compared = compared.rename(index={name: f"{row['question']}: {name}"})
    ax.set_yticks(range(len(compared)), compared.index)
    ax.set(ylim=(len(compared) - 0.5, -0.5), xlabel=f"mean {METRIC_LABELS.get(metric, metric)}, variant minus baseline")
    ax.set_title(f"Change one thing: {effects['n'].iloc[0]} patients, 95 % intervals")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    return ax


def show_models(
    tables: Mapping[str, pd.DataFrame], *, metrics: Sequence[str] = ("dice", "lesion_dice", "hd95", "volume_error_percent")
) -> Figure:
    """Several models on the same cases: mean and 95 % interval by region, a pane a metric.

    Parameters
    ----------
    tables : mapping from name to DataFrame
        Scores with ``region`` and the metrics; up to four models.
    metrics : sequence of str
        HD95 is drawn on a logarithmic axis that is linear below 1 mm, volume errors on one that is linear within 20.
    """
    figure, axes = plt.subplots(1, len(metrics), figsize=(2.7 * len(metrics), 3.4), layout="constrained", squeeze=False)
    gap = 0.7 / len(tables)
    for ax, metric in zip(axes[0], metrics, strict=True):
        for number, (name, scores) in enumerate(tables.items()):
            summary = summarise(scores, metrics=[metric]).set_index("region").reindex(REGIONS)
            places = np.arange(len(REGIONS)) + (number - (len(tables) - 1) / 2) * gap
            colour = MODEL_COLOURS[number]
            ax.vlines(places, summary["low"], summary["high"], color=colour, linewidth=2.5)
            ax.plot(places, summary["mean"], "o", color=colour, markeredgecolor="white", markersize=7, label=name)
        ax.set_xticks(range(len(REGIONS)), REGIONS)
        ax.set_title(METRIC_LABELS.get(metric, metric))
        ax.set_xlim(-0.6, len(REGIONS) - 0.4)
        if metric == "hd95":
            _symlog(ax, linear=1, ticks=(0, 1, 2, 5, 10, 20, 50, 100, 373))
            ax.set_ylim(-0.1, 450)
        elif metric in SHARES:
            ax.set_ylim(-0.03, 1.03)
        else:
            ax.axhline(0, color=MUTED, linewidth=1)
            _symlog(ax, linear=20, ticks=(-1000, -300, -100, -50, -20, -10, 0, 10, 20, 50, 100, 300, 1000, 3000))
        ax.grid(axis="y")
        ax.set_axisbelow(True)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(tables))
    return figure


def show_reliability(reliability: Mapping[str, pd.DataFrame]) -> Figure:
    """Reliability curves of one or several models, a pane a region: of the voxels given this probability, how many are tumour?

    Parameters
    ----------
    reliability : mapping from name to DataFrame
        As `helpers.evaluation.cohort.CohortScores.reliability` holds it. The curve is over the voxels of all cases; the
        expected calibration error in the legend is the mean over cases with its 95 % interval.
    """
    figure, axes = plt.subplots(1, len(REGIONS), figsize=(10.4, 4.4), sharey=True, layout="compressed")
    for ax, region in zip(axes, REGIONS, strict=True):
        ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
        for (name, table), colour in zip(reliability.items(), MODEL_COLOURS, strict=False):
            rows = table[table["region"] == region]
            bins = rows.groupby("bin")[["voxels", "probability", "tumour"]].sum()
            bins = bins[bins["voxels"] >= FEW_VOXELS]
            errors = [calibration_scores(case)["ece"].item() for _, case in rows.groupby("case")]
            label = f"{name}, ECE {_interval(errors)}"
            x, y = bins["probability"] / bins["voxels"], bins["tumour"] / bins["voxels"]
            ax.plot(x, y, color=colour, marker="o", markersize=4, label=label)
        ax.set_title(f"{REGION_NAMES[region]} {region}")
        ax.set(xlabel="predicted probability", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=9)
        ax.grid()
        ax.set_axisbelow(True)
    axes[0].set_ylabel("share that is tumour")
    return figure


def show_failures(tables: Mapping[str, pd.DataFrame], *, metric: str = "dice") -> Figure:
    """Where models fail: the metric of every case against how large its region is, a pane a region.

    Parameters
    ----------
    tables : mapping from name to DataFrame
        Scores with ``case``, ``region``, ``reference_ml`` and the metric. The same case is joined by a grey line. A case
        without the region stands at the left edge.
    metric : str
    """
    figure, axes = plt.subplots(1, len(REGIONS), figsize=(10.4, 3.5), sharey=True, layout="constrained")
    for ax, region in zip(axes, REGIONS, strict=True):
        parts = [scores[scores["region"] == region].set_index("case") for scores in tables.values()]
        sizes = parts[0]["reference_ml"]
        left = sizes[sizes > 0].min() / 3 if (sizes > 0).any() else 1.0
        x = sizes.where(sizes > 0, left)
        lines = pd.concat([part[metric] for part in parts], axis=1)
        ax.vlines(x, lines.min(axis=1), lines.max(axis=1), color="#CCCCCC", linewidth=1)
        for (name, part), colour in zip(zip(tables, parts, strict=True), MODEL_COLOURS, strict=False):
            ax.scatter(x, part.loc[x.index, metric], s=32, color=colour, edgecolor=INK, linewidth=0.5, label=name, zorder=3)
        ax.set_xscale("log")
        ticks = [tick for tick in SIZES_ML if x.min() / 1.5 <= tick <= x.max() * 1.5 and (sizes.min() > 0 or tick > 2 * left)]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        if (sizes == 0).any():
            ax.axvspan(left / 1.5, left * 1.5, color="#EEEEEE", zorder=0)
            ax.text(left, 0.5, "none", transform=ax.get_xaxis_transform(), rotation=90, ha="center", va="center", color=MUTED)
        ax.set_title(f"{REGION_NAMES[region]} {region}", color=INK)
        ax.set_xlabel("size in the reference (ml)")
        ax.grid(axis="y")
        ax.set_axisbelow(True)
    if metric in SHARES:
        axes[0].set_ylim(-0.03, 1.03)
    axes[0].set_ylabel(METRIC_LABELS.get(metric, metric))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(tables))
    return figure


def _symlog(ax: Axes, *, linear: float, ticks: Sequence[float]) -> None:
    """A logarithmic axis that is linear around 0, with those of `ticks` that lie within what is drawn."""
    low, high = ax.get_ylim()
    ax.set_yscale("symlog", linthresh=linear)
    shown = [tick for tick in ticks if min(low, 0) <= tick <= max(high, 0)]
    ax.set_yticks(shown, [f"{tick:g}" for tick in shown])
    ax.minorticks_off()


def _interval(values: Sequence[float]) -> str:
    """Mean in per cent of a list of shares, with its interval where there are enough."""
    interval = bootstrap_interval(values)
    span = f" [{100 * interval.low:.2f}, {100 * interval.high:.2f}]" if np.isfinite(interval.low) else ""
    return f"{100 * interval.mean:.2f}{span} %"


def save_validation(path: Path, cases: Sequence[tuple[Prepared, np.ndarray, float]]) -> None:
    """Draw reference, prediction and errors of a few validation cases into a PNG file.

    Parameters
    ----------
    path : Path
    cases : sequence of (Prepared, uint8 array (X, Y, Z), float)
        A case with its reference, the predicted classes on its grid, and their mean Dice.
    """
    comparisons = [
        Comparison(
            np.asarray(case.image, np.float32), case.affine, case.classes, classes, f"{case.identifier}, Dice {dice:.2f}"
        )
        for case, classes, dice in cases
    ]
    figure = show_gallery(comparisons)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    plt.close(figure)
    with write_atomically(path) as temporary:
        temporary.write_bytes(to_palette(stream.getvalue()))
