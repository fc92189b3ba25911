"""How bright and how even each tissue is, beside normal white matter: the yardstick that holds a phantom against patients.

The same estimator is applied to real and to synthetic cases, so its own errors cancel in the comparison. Normal tissue is
found without an atlas: a voxel with neither tumour nor background within 4 mm along the axes counts as white matter where T1
is bright and T2 dark, as cerebrospinal fluid where T2 is brightest and T1 dark, and as grey matter in between.
"""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pandas as pd
from scipy import ndimage

from glioma_phantom.contrast import MODALITIES
from glioma_phantom.tumour import ED, ET, NCR

CLASSES = {NCR: "NCR", ED: "ED", ET: "ET"}
MARGIN_MM = 4.0


def measure(image: np.ndarray, classes: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> dict:
    """Measure volumes, contrasts and noise of one case.

    Parameters
    ----------
    image : array (4, X, Y, Z)
        Raw intensities, zero outside the brain, channels in the order of `MODALITIES`.
    classes : uint8 array (X, Y, Z)
        0 background, 1 NCR, 2 ED, 3 ET.
    spacing : three floats
        Voxel edges in mm.

    Returns
    -------
    dict
        ``brain_ml``, ``NCR_ml``, ``ED_ml``, ``ET_ml``; for each modality and each of WM, GM, CSF, NCR, ED, ET
        ``<modality>_<tissue>``, the mean intensity divided by the white matter's, and ``<modality>_<tissue>_sd``, the
        standard deviation within the tissue divided by the same (NaN where the case has 20 voxels of it or fewer); and
        ``<modality>_noise``, the standard deviation of noise in white matter divided by its mean.

    Raises
    ------
    ValueError
        If a modality is empty.
    """
    absent = [modality for modality, volume in zip(MODALITIES, image, strict=True) if not volume.any()]
    if absent:
        raise ValueError(f"{', '.join(absent)} is empty; measure a case that has all four")
    corners = np.argwhere(image[0] > 0)
    box = tuple(slice(a, b + 1) for a, b in zip(corners.min(axis=0), corners.max(axis=0), strict=True))
    image, classes = image[(slice(None), *box)], classes[box]
    brain = (image > 0).all(axis=0)
    ml = float(np.prod(spacing)) / 1000
    facts = {"brain_ml": brain.sum() * ml}
    masks = normal_tissue(image, classes, brain, spacing)
    for number, name in CLASSES.items():
        masks[name] = classes == number
        facts[f"{name}_ml"] = masks[name].sum() * ml
    for modality, volume in zip(MODALITIES, image, strict=True):
        white = volume[masks["WM"]].mean()
        for name, mask in masks.items():
            values = volume[mask] / white
            enough = len(values) > 20
            facts[f"{modality}_{name}"] = float(values.mean()) if enough else float("nan")
            facts[f"{modality}_{name}_sd"] = float(values.std()) if enough else float("nan")
        facts[f"{modality}_noise"] = float(_noise(volume, masks["WM"]) / white)
    return facts


def normal_tissue(image: np.ndarray, classes: np.ndarray, brain: np.ndarray, spacing: tuple[float, float, float]) -> dict:
    """Boolean masks "WM", "GM" and "CSF" of normal white matter, grey matter and fluid, found as the module's text says."""
    widths = [2 * max(1, round(MARGIN_MM / edge)) + 1 for edge in spacing]
    abnormal = (~brain | (classes > 0)).astype(np.uint8)
    inside = ndimage.maximum_filter(abnormal, size=widths, mode="nearest") == 0
    t1, t2 = image[0], image[2]
    low1, mid1, high1 = np.percentile(t1[inside], [20, 45, 60])
    dark2, mid2, bright2 = np.percentile(t2[inside], [45, 75, 96])
    return {
        "WM": inside & (t1 > high1) & (t2 < dark2),
        "GM": inside & (t1 > low1) & (t1 < mid1) & (t2 > dark2) & (t2 < mid2),
        "CSF": inside & (t1 < low1) & (t2 > bright2),
    }


def reference_statistics() -> pd.DataFrame:
    """`measure` of the five complete BraTS 2021 development cases, one row a case: numbers only, no image ships with them."""
    text = resources.files("glioma_phantom").joinpath("reference_statistics.json").read_text()
    return pd.DataFrame(json.loads(text)["cases"]).set_index("identifier")


def _noise(volume: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation of the noise from differences of neighbours along the first axis, robust to edges.

    Interpolation to 1 mm has smoothed the noise of registered images, so this underestimates the scanner's own.
    """
    both = mask[1:] & mask[:-1]
    difference = (volume[1:].astype(np.float32) - volume[:-1])[both]
    return float(1.4826 * np.median(np.abs(difference - np.median(difference))) / np.sqrt(2))
