"""One picture of how phantoms compare with real examinations."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.regions import MODALITIES, MODALITY_NAMES

TISSUES = ("GM", "CSF", "NCR", "ED", "ET")
PHANTOM_COLOUR, REAL_COLOUR = "#56B4E9", "#000000"


def show_calibration(phantoms: pd.DataFrame, real: pd.DataFrame) -> Figure:
    """Draw phantoms as ranges and real cases as points, for contrasts, noise and volumes.

    Parameters
    ----------
    phantoms, real : DataFrame
        One row a case, with the columns of `helpers.data.calibration.measure`.

    Returns
    -------
    Figure
        A panel for each modality's contrasts relative to normal white matter, one for noise, one for volumes.
    """
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.6), layout="constrained")
    for modality, axis in zip(MODALITIES, axes.flat, strict=False):
        columns = {tissue: f"{modality}_{tissue}" for tissue in TISSUES}
        _ranges(phantoms, real, columns, axis)
        axis.axvline(1, color="0.6", linewidth=0.8, linestyle=":")
        axis.set(title=MODALITY_NAMES[modality], xlabel="intensity / white matter")
    noise = {MODALITY_NAMES[modality]: f"{modality}_noise" for modality in MODALITIES}
    _ranges(phantoms, real, noise, axes.flat[4])
    axes.flat[4].set(title="Noise", xlabel="standard deviation / white matter")
    _ranges(phantoms, real, {"brain": "brain_ml", "NCR": "NCR_ml", "ED": "ED_ml", "ET": "ET_ml"}, axes.flat[5])
    axes.flat[5].set(title="Volumes", xlabel="ml (0 drawn at 0.1)", xscale="log")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _ranges(phantoms: pd.DataFrame, real: pd.DataFrame, columns: dict[str, str], axis: Axes) -> None:
    for row, column in enumerate(columns.values()):
        made = phantoms[column].dropna().clip(lower=0.1 if column.endswith("_ml") else None)
        measured = real[column].dropna().clip(lower=0.1 if column.endswith("_ml") else None)
        low, middle, high = np.percentile(made, [5, 50, 95])
        first = row == 0
        axis.plot(
            [low, high],
            [row, row],
            color=PHANTOM_COLOUR,
            linewidth=7,
            solid_capstyle="butt",
            label=_label("phantoms, 5-95 %", first),
        )
        axis.plot(middle, row, "|", color="white", markersize=9, markeredgewidth=2)
        axis.plot(
            measured,
            np.full(len(measured), row),
            "o",
            color=REAL_COLOUR,
            markersize=4,
            alpha=0.8,
            label=_label("real cases", first),
        )
    axis.set_yticks(range(len(columns)), list(columns))
    axis.invert_yaxis()


def _label(text: str, first: bool) -> str:
    """A label for the legend, once."""
    return text if first else "_nolegend_"
