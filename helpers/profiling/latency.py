"""From the files of a case to its label map, phase by phase and by different routes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from helpers.data.cases import Case, read_image
from helpers.data.preprocess import PreprocessSettings, preprocess_image, to_native
from helpers.data.resample import spacing_of
from helpers.evaluation.postprocess import PostProcessing, label_map
from helpers.evaluation.predict import (
    WINDOWS,
    Prediction,
    predict_image,
    write_prediction,
)
from helpers.models.checkpoints import ModelCard
from helpers.models.networks import input_multiple
from helpers.profiling.clock import synchronise
from helpers.regions import MODALITIES

STAGES: tuple[str, ...] = ("read", "prepare", "network", "native", "label map", "write")
UNCROPPED = 10_000
"""Voxels of margin around the brain: more than any volume has."""


@dataclass(frozen=True)
class Route:
    """A way from files to a label map; the defaults are those of `helpers.evaluation.predict`.

    Attributes
    ----------
    crop : bool
        To the brain, before anything that costs time.
    few : bool
        As few windows as the network takes, rather than windows of the size of a training patch.
    overlap : float
        Share by which windows overlap, where there are several.
    bf16 : bool
        Network in bfloat16 by autocast.
    threads : int
        Files that are read at a time; 0 for one a core.
    """

    crop: bool = True
    few: bool = True
    overlap: float = 0.5
    bf16: bool = False
    threads: int = 0


DEFAULT = Route()


def predict_by_route(
    network: nn.Module, card: ModelCard, case: Case, out: Path, *, route: Route = DEFAULT, device: str = "cpu"
) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Predict one case and time every stage.

    Returns
    -------
    times : dict
        Seconds by name, see `STAGES`.
    classes : uint8 array (X, Y, Z)
        Label map in native space, as written to `out`.
    probabilities : float32 array (3, X, Y, Z)
        On the prepared grid.
    """
    times: dict[str, float] = {}

    def timed(stage: str, work: Callable) -> object:
        start = time.perf_counter()
        result = work()
        synchronise(device)
        times[stage] = time.perf_counter() - start
        return result

    settings = PreprocessSettings(**card.preprocessing)
    settings = settings if route.crop else replace(settings, margin=UNCROPPED)
    image, affine = timed("read", lambda: read_image(case, threads=route.threads or joblib.cpu_count()))
    prepared = timed("prepare", lambda: preprocess_image(image, affine, settings, identifier=case.identifier))
    tensor = torch.from_numpy(prepared.image.astype(np.float32))
    found = timed("network", lambda: _probabilities(network, card, tensor, route))
    native = timed("native", lambda: to_native(found, prepared, mode="linear"))
    classes = timed("label map", lambda: label_map(native, image, spacing_of(affine), PostProcessing(**card.postprocessing)))
    prediction = Prediction(case.identifier, classes, affine, case.images[MODALITIES[0]].path, native, image)
    timed("write", lambda: write_prediction(out, prediction))
    return times, classes, found


def _probabilities(network: nn.Module, card: ModelCard, image: torch.Tensor, route: Route) -> np.ndarray:
    run = _Autocast(network) if route.bf16 else network
    if route.few:
        multiple = input_multiple(card.network, **card.arguments)
        return predict_image(run, image, patch=card.patch, multiple=multiple, overlap=route.overlap).numpy()
    with torch.inference_mode():
        logits = sliding_window_inference(image[None], card.patch, WINDOWS, run, overlap=route.overlap, mode="gaussian")
    return logits[0].float().sigmoid().cpu().numpy()


class _Autocast(nn.Module):
    """A network in bfloat16 where PyTorch holds that to be safe, with float32 logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        with torch.autocast(image.device.type, torch.bfloat16):
            return self.network(image).float()
