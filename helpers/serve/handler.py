"""The four functions that SageMaker's containers call: model, input, predict, output. Each works by itself.

`helpers.serve.app` calls them for every request. What they answer is, voxel for voxel, what ``python -m helpers predict``
writes for the same files.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from brats_cohort.files import DataError
from brats_cohort.grid import spacing_of
from brats_cohort.nifti import write_volume
from brats_cohort.regions import CONVENTIONS, REGIONS, classes_to_regions, from_classes
from helpers.evaluation.postprocess import PostProcessing
from helpers.evaluation.predict import segment_native
from helpers.models.checkpoints import ModelCard, load_ensemble
from helpers.serve.decode import BadRequest, Limits, Volumes, check_size, decode, limits_from

NIFTI, JSON = ANSWERS = ("application/x-nifti", "application/json")
"""Content types of an answer; the first is the default."""
log = logging.getLogger("helpers.serve")


@dataclass(frozen=True, eq=False)
class Model:
    """A network in evaluation mode on its device, its card, and what it takes from a request."""

    network: nn.Module
    card: ModelCard
    limits: Limits


@dataclass(frozen=True, eq=False)
class Answer:
    """The segmentation of a request.

    `classes` are uint8 (X, Y, Z), `warnings` say what is odd about images or label map, and `checkpoint` is the SHA-256 of the
    weights.
    """

    classes: np.ndarray
    request: Volumes
    warnings: tuple[str, ...]
    checkpoint: str

    @property
    def volumes(self) -> dict[str, float]:
        """Volume of each region in ml."""
        counts = classes_to_regions(self.classes).sum((1, 2, 3))
        voxel = float(np.prod(spacing_of(self.request.session.affine))) / 1000
        return {name: round(int(count) * voxel, 3) for name, count in zip(REGIONS, counts, strict=True)}

    @property
    def summary(self) -> str:
        """Volumes and the number of warnings, such as ``TC_ml=3.1;WT_ml=20.4;ET_ml=0;warnings=1``."""
        parts = [f"{name}_ml={volume:g}" for name, volume in self.volumes.items()]
        return ";".join([*parts, f"warnings={len(self.warnings)}"])


def model_fn(model_dir: str | Path) -> Model:
    """Load the model of a folder: ``best.safetensors`` and its card, or else all such pairs as an ensemble.

    Raises
    ------
    DataError
        If there is none, it is damaged, or it is no model of four MRI volumes.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    log.info("the model runs on %s", device)  # an endpoint without its GPU is only slow
    network, card = load_ensemble(weights_of(model_dir), device=device)
    PostProcessing.of(card.postprocessing)
    return Model(network, card, limits_from())


def weights_of(model_dir: str | Path) -> list[Path]:
    """Find the weights in a model's folder."""
    found, best = sorted(Path(model_dir).glob("*.safetensors")), Path(model_dir) / "best.safetensors"
    return found if found and best not in found else [best]


def input_fn(body: bytes, content_type: str) -> Volumes:
    """Decode and check a request (see `helpers.serve.decode`); raises `BadRequest`."""
    return decode(io.BytesIO(body), content_type, limits_from())


def predict_fn(data: Volumes, model: Model) -> Answer:
    """Segment the volumes of a case; raises `BadRequest` if they are no usable case."""
    card, session, image = model.card, data.session, np.stack(data.session.image)
    check_size(image.shape[1:], session.affine, card.spacing, model.limits)
    try:
        classes, _, warnings = segment_native(model.network, card, image, session.affine, identifier=session.identifier)
    except DataError as error:
        raise BadRequest(422, str(error)) from error
    return Answer(classes, data, session.warnings + warnings, card.weights_sha256)


def output_fn(prediction: Answer, accept: str | None) -> tuple[bytes, str]:
    """Encode a segmentation as NIfTI, or its volumes and warnings as JSON; returns the bytes and their content type."""
    kind, asked = answer_type(accept), prediction.request
    if kind == JSON:
        content = {
            "case": asked.session.identifier,
            "volumes_ml": prediction.volumes,
            "shape": list(prediction.classes.shape),
            "warnings": list(prediction.warnings),
            "checkpoint_sha256": prediction.checkpoint,
        }
        return (json.dumps(content) + "\n").encode(), kind
    labels = from_classes(prediction.classes, CONVENTIONS[asked.labels])
    with tempfile.TemporaryDirectory(prefix="answer-") as folder:
        path = write_volume(Path(folder) / "labels.nii.gz", labels, asked.session.affine, like=asked.like)
        return path.read_bytes(), kind


def answer_type(accept: str | None) -> str:
    """Choose the content type of an answer from the Accept header; raises `BadRequest` if none fits."""
    for word in ((accept or "").lower() or "*/*").split(","):
        wanted = word.partition(";")[0].strip()
        for kind in ANSWERS:
            if wanted in (kind, "*/*", "", "application/*"):
                return kind
    raise BadRequest(406, f"an answer as {(accept or '')[:80]!a} is not possible; accept one of {', '.join(ANSWERS)}")
