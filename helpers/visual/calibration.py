"""One picture of how a cohort, such as one of phantoms, compares with real examinations."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from helpers.regions import MODALITIES, MODALITY_NAMES

TISSUES = ("GM", "CSF", "NCR", "ED", "ET")
COHORT_COLOUR, REAL_COLOUR = "#56B4E9", "#000000"
SMALLEST_ML = 0.1
"""Where a logarithmic axis of volumes begins; regions that a case does not have are drawn there."""


def show_calibration(cohort: pd.DataFrame, real: pd.DataFrame, *, name: str = "phantoms") -> Figure:
    """Draw a cohort as ranges and the real examinations as points, for contrasts, noise and volumes.

    Parameters
    ----------
    cohort, real : DataFrame
        One row a case, with the columns of `helpers.data.calibration.measure`.
    name : str
        What the legend calls the cohort.

    Returns
    -------
    Figure
        A panel for each modality's contrasts relative to normal white matter, one for noise, one for volumes.
    """
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.6), layout="constrained")
    for modality, axis in zip(MODALITIES, axes.flat, strict=False):
        _ranges(cohort, real, {tissue: f"{modality}_{tissue}" for tissue in TISSUES}, axis)
        axis.axvline(1, color="0.6", linewidth=0.8, linestyle=":")
        axis.set(title=MODALITY_NAMES[modality], xlabel="intensity / white matter")
    _ranges(cohort, real, {MODALITY_NAMES[modality]: f"{modality}_noise" for modality in MODALITIES}, axes.flat[4])
    axes.flat[4].set(title="Noise", xlabel="standard deviation / white matter")
    _ranges(cohort, real, {"brain": "brain_ml", "NCR": "NCR_ml", "ED": "ED_ml", "ET": "ET_ml"}, axes.flat[5])
    axes.flat[5].set(title="Volumes", xlabel=f"ml ({SMALLEST_ML:g} or less drawn at {SMALLEST_ML:g})", xscale="log")
    bar, dot = Patch(color=COHORT_COLOUR), Line2D([], [], color=REAL_COLOUR, marker="o", markersize=4, linestyle="")
    texts = [f"{name}: 5th to 95th percentile, median", "real examinations, one dot each"]
    figure.legend([bar, dot], texts, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _ranges(cohort: pd.DataFrame, real: pd.DataFrame, columns: dict[str, str], axis: Axes) -> None:
    for row, column in enumerate(columns.values()):
        least = SMALLEST_ML if column.endswith("_ml") else None
        values, points = cohort[column].dropna().clip(lower=least), real[column].dropna().clip(lower=least)
        if len(values):
            low, middle, high = np.percentile(values, [5, 50, 95])
            axis.plot([low, high], [row, row], color=COHORT_COLOUR, linewidth=7, solid_capstyle="butt")
            axis.plot(middle, row, "|", color="white", markersize=9, markeredgewidth=2)
        axis.plot(points, np.full(len(points), row), "o", color=REAL_COLOUR, markersize=4, alpha=0.8)
    axis.set_yticks(range(len(columns)), list(columns))
    axis.invert_yaxis()
