"""Pictures of slices, of what a network makes of them, and of a search."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import optuna
import optuna.visualization.matplotlib as pictures
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from optuna.trial import TrialState
from PIL import Image

from helpers.extras.lgg.cohort import CHANNELS
from helpers.extras.lgg.scores import ScoredPatient
from helpers.plots.case import FIRST, SECOND, add_legend
from helpers.regions import MODALITY_NAMES

FLAIR = CHANNELS.index("flair")
REFERENCE, FOUND, MISSED, FALSE = "#56B4E9", "#009E73", "#E69F00", "#CC79A7"
"""Colours that stay apart under the three common colour-vision deficiencies (from the Okabe-Ito palette)."""

SEARCH_PICTURES = {
    "history": pictures.plot_optimization_history,
    "importance": pictures.plot_param_importances,
    "slices": pictures.plot_slice,
    "parallel": pictures.plot_parallel_coordinate,
}


def outline(mask: np.ndarray, *, ax: Axes, colour: str = REFERENCE) -> None:
    """Draw the outline of a mask (256, 256), where it has any pixel."""
    if mask.any():
        ax.contour(mask, levels=[0.5], colors=[colour], linewidths=1.2)


def show_patient(images: np.ndarray, masks: np.ndarray, *, columns: int = 8, title: str = "") -> Figure:
    """All slices of a patient in FLAIR, from the lowest to the highest, the mask outlined."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.25 * columns, 1.4 * rows), squeeze=False, layout="compressed")
    for ax in axes.flat:
        ax.axis("off")
    for number, (ax, image, mask) in enumerate(zip(axes.flat, images, masks, strict=False), start=1):
        ax.imshow(image[FLAIR], cmap="gray", vmin=0, vmax=255)
        outline(mask, ax=ax)
        ax.set_title(str(number), fontsize=8, pad=2)
    figure.suptitle(title)
    return figure


def animate_patient(images: np.ndarray, masks: np.ndarray, *, edge: int = 192, milliseconds: int = 180) -> bytes:
    """A GIF that runs through the slices of a patient, FLAIR beside FLAIR with the mask tinted: its bytes."""
    colour = np.array(to_rgb(REFERENCE)) * 255
    frames = []
    for image, mask in zip(images, masks, strict=True):
        plain = np.repeat(image[FLAIR][..., None], 3, axis=-1).astype(float)
        tinted = np.where(mask[..., None], 0.55 * plain + 0.45 * colour, plain)
        frame = Image.fromarray(np.concatenate([plain, tinted], axis=1).astype(np.uint8))
        frames.append(frame.resize((2 * edge, edge)).quantize(64))
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    return stream.getvalue()


def show_channels(image: np.ndarray, mask: np.ndarray) -> Figure:
    """The three channels of one slice, the mask outlined in each."""
    figure, axes = plt.subplots(1, len(CHANNELS), figsize=(9, 3.3), layout="compressed")
    for ax, name, channel in zip(axes, CHANNELS, image, strict=True):
        ax.imshow(channel, cmap="gray", vmin=0, vmax=255)
        outline(mask, ax=ax)
        ax.set_title(MODALITY_NAMES[name])
        ax.axis("off")
    return figure


def show_contrast(histograms: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Intensities inside the brain by channel: a histogram of healthy pixels and one of tumour, both of area 1."""
    figure, axes = plt.subplots(1, len(histograms), figsize=(9, 2.5), sharey=True, layout="constrained")
    for ax, (name, counts) in zip(axes, histograms.items(), strict=True):
        for values, colour in zip(counts, (FIRST, SECOND), strict=True):
            ax.stairs(values / max(values.sum(), 1), np.linspace(0, 256, len(values) + 1), fill=True, alpha=0.55, color=colour)
            ax.set(title=MODALITY_NAMES[name], xlabel="value in the file", yticks=[])
    add_legend(axes[-1], {"brain": FIRST, "tumour": SECOND})
    return figure


def show_balance(parts: pd.DataFrame) -> Figure:
    """Slices without and with tumour, and the share of brain that is tumour, by part (index train, val, test)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
    left.barh(parts.index, parts["slices"] - parts["with tumour"], color="#BBBBBB")
    left.barh(parts.index, parts["with tumour"], left=parts["slices"] - parts["with tumour"], color=SECOND)
    add_legend(left, {"without tumour": "#BBBBBB", "with tumour": SECOND}, loc="lower right")
    left.set(title="Slices", xlabel="number of slices")
    right.barh(parts.index, 100 * parts["tumour share"], color=SECOND)
    right.set(title="Pixels", xlabel="tumour in % of the brain", xlim=(0, None))
    for ax in (left, right):
        ax.invert_yaxis()
    return figure


def show_changes(samples: Mapping[str, tuple[np.ndarray, np.ndarray]], *, columns: int = 4) -> Figure:
    """FLAIR of changed slices by name: pairs of image (3, X, Y), normalised, and mask (X, Y)."""
    rows = -(-len(samples) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.4 * columns, 2.6 * rows), squeeze=False, layout="compressed")
    low, high = np.percentile(np.concatenate([image[FLAIR].ravel() for image, _ in samples.values()]), (0.5, 99.5))
    for ax in axes.flat:
        ax.axis("off")
    for ax, (name, (image, mask)) in zip(axes.flat, samples.items(), strict=False):
        ax.imshow(image[FLAIR], cmap="gray", vmin=low, vmax=high)
        outline(mask, ax=ax)
        ax.set_title(name)
    return figure


def show_gallery(patients: Sequence[ScoredPatient], slices: pd.DataFrame) -> Figure:
    """Slices in columns, FLAIR above, below it what was found, missed and said falsely.

    Parameters
    ----------
    patients : sequence of ScoredPatient
    slices : DataFrame
        Rows of `helpers.extras.lgg.scores.score_slices`, those that are to be shown.
    """
    by_name = {patient.identifier: patient for patient in patients}
    figure, axes = plt.subplots(2, len(slices), figsize=(2.1 * len(slices), 4.7), squeeze=False, layout="compressed")
    for (above, below), row in zip(axes.T, slices.itertuples(), strict=True):
        patient = by_name[row.patient]
        image = patient.images[row.slice][FLAIR]
        marked = mark_errors(image, patient.prediction[row.slice], patient.reference[row.slice])
        above.imshow(image, cmap="gray", vmin=0, vmax=255)
        outline(patient.reference[row.slice], ax=above)
        below.imshow(marked)
        above.set_title(f"Dice {row.dice:.2f}\n{row.patient[-7:]}, slice {row.slice + 1}", fontsize=8)
    for ax in axes.flat:
        ax.axis("off")
    add_legend(figure, {"outline: reference": REFERENCE, "found": FOUND, "missed": MISSED, "false positive": FALSE})
    return figure


def mark_errors(image: np.ndarray, prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """A slice of one channel (X, Y), 0 to 255, as colours 0 to 1 (X, Y, 3) with each kind of pixel tinted."""
    picture = np.repeat(image[..., None] / 255, 3, axis=-1)
    kinds = {FOUND: prediction & reference, MISSED: reference & ~prediction, FALSE: prediction & ~reference}
    for colour, where in kinds.items():
        picture[where] = 0.35 * picture[where] + 0.65 * np.array(to_rgb(colour))
    return picture


def show_search(study: optuna.Study, kind: str) -> Figure | None:
    """One of Optuna's own pictures of a search by name, a key of `SEARCH_PICTURES`; None where there are too few trials for it.

    An importance needs two complete trials of different scores.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete or (kind == "importance" and len({trial.value for trial in complete}) < 2):
        return None
    before = plt.get_fignums()
    with warnings.catch_warnings(), plt.rc_context():
        warnings.simplefilter("ignore")  # Optuna calls its matplotlib pictures experimental
        SEARCH_PICTURES[kind](study)
        figure = plt.figure(next(number for number in plt.get_fignums() if number not in before))
        figure.set_size_inches(9, 3.2)
    return figure
