"""Segmenting a scan window by window, and the scores of the result by organ.

Absent organs: as everywhere in this package, Dice is 1 where neither prediction nor reference has a voxel of an organ, and 0
where only one of them has. A distance between surfaces of which one is missing does not exist: HD95 is then NaN, is left out
of means, and the number of scans in which it happened stands beside them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from helpers.data.cases import (
    open_volume,
    read_label_values,
    read_volume,
    write_volume,
)
from helpers.data.resample import spacing_of
from helpers.evaluation.metrics import dice, hausdorff95
from helpers.extras.ct.cohort import CtCase
from helpers.extras.ct.preparation import CtPreparation, PreparedCt, prepare_arrays
from helpers.extras.ct.prepared import PreparedCtFile
from helpers.models.networks import channels_last

WINDOWS = 2
"""Windows that go through the network together."""


@torch.inference_mode()
def predict_ct(network: nn.Module, image: np.ndarray, *, roi: Sequence[int], overlap: float = 0.5) -> np.ndarray:
    """Label map of a prepared scan.

    Parameters
    ----------
    network : Module
        In evaluation mode, with one channel in and a channel for every label out.
    image : array (1, X, Y, Z)
        0 to 1, as `helpers.extras.ct.preparation` makes it.
    roi : sequence of 3 int
        Edges of the sliding window in voxels.
    overlap : float
        Share by which neighbouring windows overlap, 0 to below 1; they are blended with Gaussian weights. From 0.5 to 0.7 the
        number of windows (`count_windows`) grows about (0.5 / 0.3)^3 = 4.6 times in a large volume.

    Returns
    -------
    uint8 array (X, Y, Z)
        The most probable label of every voxel.
    """
    device = next(network.parameters()).device
    batch = torch.from_numpy(np.asarray(image, dtype=np.float32))[None]

    def through(windows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return network(channels_last(windows)).float()

    # The volume with all its channels stays on the CPU, where it fits.
    logits = sliding_window_inference(
        batch, tuple(roi), WINDOWS, through, overlap=overlap, mode="gaussian", sw_device=device, device=torch.device("cpu")
    )
    return logits[0].argmax(0).to(torch.uint8).numpy()


def count_windows(shape: Sequence[int], *, roi: Sequence[int], overlap: float) -> int:
    """How many windows `predict_ct` puts over a prepared scan of this shape."""
    steps = [max(1, int(edge * (1 - overlap))) for edge in roi]
    return math.prod(math.ceil(max(n - edge, 0) / step) + 1 for n, edge, step in zip(shape, roi, steps, strict=True))


def predict_scan(
    network: nn.Module, image: Path, settings: CtPreparation, *, roi: Sequence[int], overlap: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Label map uint8 (X, Y, Z) of a NIfTI file in its own grid, and its affine; raises `DataError` like `prepare_arrays`."""
    values, affine = read_volume(image)
    prepared = prepare_arrays(values, affine, settings, identifier=image.name)
    return prepared.to_native(predict_ct(network, prepared.image, roi=roi, overlap=overlap)), affine


def write_scan(path: Path, labels: np.ndarray, affine: np.ndarray, *, like: Path) -> Path:
    """Write a label map with the header of the scan, so that both open on top of each other."""
    return write_volume(path, labels, affine, like=open_volume(like))


def score_organs(prediction: np.ndarray, reference: np.ndarray, organs: Sequence[str], affine: np.ndarray) -> pd.DataFrame:
    """Dice, 95 % Hausdorff distance in mm and volumes in ml by organ, of two label maps (X, Y, Z) in one grid.

    One row an organ: ``organ``, ``dice``, ``hd95``, ``reference_ml``, ``prediction_ml``; the rule for absent organs stands at
    the top of this module.
    """
    spacing = spacing_of(affine)
    voxel = math.prod(spacing) / 1000
    rows = []
    for number, organ in enumerate(organs, start=1):
        found, truth = prediction == number, reference == number
        box = _around(found | truth)
        both = found.any() and truth.any()
        rows.append(
            {
                "organ": organ,
                "dice": dice(found[box], truth[box]),
                "hd95": hausdorff95(found[box], truth[box], spacing) if both else math.nan,
                "reference_ml": np.count_nonzero(truth) * voxel,
                "prediction_ml": np.count_nonzero(found) * voxel,
            }
        )
    return pd.DataFrame(rows)


def score_case(
    network: nn.Module,
    case: CtCase,
    settings: CtPreparation,
    organs: Sequence[str],
    *,
    roi: Sequence[int],
    overlap: float = 0.5,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Scores of a labelled scan in its own grid (`score_organs`, with a column ``case``), and the prediction (X, Y, Z)."""
    prediction, affine = predict_scan(network, case.image, settings, roi=roi, overlap=overlap)
    reference, _ = read_label_values(case.label)
    return score_organs(prediction, reference, organs, affine).assign(case=case.identifier), prediction


def organ_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over scans by organ, and over the organs: Dice, HD95 in mm, and in how many scans one side lacked the organ."""
    by_organ = scores.assign(missing=(scores["reference_ml"] > 0) != (scores["prediction_ml"] > 0)).groupby("organ", sort=False)
    table = by_organ.agg(dice=("dice", "mean"), hd95=("hd95", "mean"), missing=("missing", "sum"))
    table.loc["mean"] = [table["dice"].mean(), table["hd95"].mean(), table["missing"].sum()]
    return table.astype({"missing": int})


@dataclass(frozen=True, eq=False)
class ScoredScan:
    """A prepared scan, its predicted label map (X, Y, Z), and the mean Dice of its organs."""

    scan: PreparedCt
    prediction: np.ndarray
    dice: float


@dataclass(frozen=True, eq=False)
class ScanValidation:
    """Prepared scans with labels, for validation: a `helpers.training.before.source.ValidationSource`.

    Attributes
    ----------
    paths : sequence of Path
    classes : int
        Labels, the background among them.
    roi : sequence of 3 int
        Edges of the sliding window in voxels.
    overlap : float
    """

    paths: Sequence[Path]
    classes: int
    roi: Sequence[int]
    overlap: float = 0.5

    @cached_property
    def identifiers(self) -> tuple[str, ...]:
        """Names of the scans."""
        return tuple(PreparedCtFile(path).identifier for path in self.paths)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the names of the files, which carry the hash of their contents, and of the window."""
        names = sorted(Path(path).name for path in self.paths)
        return hashlib.sha256(repr((names, tuple(self.roi), self.overlap)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def score(self, network: nn.Module, index: int) -> tuple[list[float], ScoredScan]:
        """Dice of every organ on the prepared grid."""
        scan = PreparedCtFile(self.paths[index]).load()
        found = predict_ct(network, scan.image, roi=self.roi, overlap=self.overlap)
        scores = [dice(found == number, scan.labels == number) for number in range(1, self.classes)]
        return scores, ScoredScan(scan, found, float(np.mean(scores)))


def _around(mask: np.ndarray) -> tuple[slice, ...]:
    """Box around a mask with a voxel to spare; a corner of the volume where it is empty."""
    box = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(max(used[0] - 1, 0), used[-1] + 2) if used.size else slice(0, 1))
    return tuple(box)
