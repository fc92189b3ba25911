"""One look for every figure: white, readable at notebook width, without chart junk, apart for colour-blind readers."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch

from helpers.regions import CLASS_COLOURS, CLASS_NAMES

INK, MUTED = "#222222", "#6B6B6B"
FIRST, SECOND = "#0072B2", "#E69F00"
"""Colours of two things that are compared and are neither classes nor regions (Okabe-Ito palette)."""


def apply_style() -> None:
    """Set matplotlib's defaults for the figures of this package; call it once at the top of a notebook."""
    plt.rcParams.update(
        {
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 80,
            "savefig.dpi": 80,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 10,
            "axes.labelcolor": INK,
            "axes.edgecolor": MUTED,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "grid.color": "#DDDDDD",
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "text.color": INK,
            "lines.linewidth": 1.8,
        }
    )


def add_legend(where: Axes | Figure, names: Mapping[str, str] | None = None, **options) -> Legend:
    """Add a legend of colour patches, by default that of the three tumour classes.

    Parameters
    ----------
    where : Axes or Figure
        A figure gets the legend below its panes, an Axes inside.
    names : mapping from text to colour, optional
        Entries other than the tumour classes.
    **options
        Passed to matplotlib's ``legend``.
    """
    entries = names or {CLASS_NAMES[value]: colour for value, colour in CLASS_COLOURS.items()}
    patches = [Patch(facecolor=colour, edgecolor=INK, linewidth=0.5, label=text) for text, colour in entries.items()]
    if isinstance(where, Figure):
        options = {"loc": "outside lower center", "ncols": len(patches)} | options
    return where.legend(handles=patches, **options)


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return `ax`, or the Axes of a new figure of `size` inches where there is none."""
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax
