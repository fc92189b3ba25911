"""The four functions that SageMaker's containers call, each usable by itself: model, input, predict, output.

The process of `helpers.cloud.serve` calls them for every request, and so does a batch job. What they answer is, voxel for
voxel, what ``python -m helpers predict`` writes for the same files.
"""

from __future__ import annotations

import io
import json
import tempfile
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
import torch
from torch import nn

from helpers.cloud.answers import JSON, NPZ, output_type
from helpers.cloud.limits import (
    BadRequest,
    Limits,
    check_affine,
    limits_from,
)
from helpers.cloud.requests import Volumes, decode
from helpers.cloud.slices import (
    Slice,
    SliceAnswer,
    encode_slice,
    segment_slice,
)
from helpers.data.cases import DataError, write_volume
from helpers.data.resample import spacing_of
from helpers.evaluation.postprocess import CleanUp
from helpers.evaluation.predict import label_map, predict_volumes
from helpers.models.checkpoints import ModelCard, load_checkpoint
from helpers.models.networks import GLIOMA
from helpers.regions import (
    BRATS2021,
    REGIONS,
    classes_to_regions,
    from_classes,
)

WEIGHTS = "best.safetensors"


@dataclass(frozen=True, eq=False)
class Model:
    """A network in evaluation mode on its device, its card, and what it takes from a request."""

    network: nn.Module
    card: ModelCard
    limits: Limits


@dataclass(frozen=True, eq=False)
class Answer:
    """The segmentation of a request.

    Attributes
    ----------
    identifier : str
    classes : uint8 array (X, Y, Z)
        In the caller's grid.
    affine : array (4, 4)
    like : Nifti1Image or None
        Header to take over.
    checkpoint : str
        SHA-256 of the weights that gave it.
    """

    identifier: str
    classes: np.ndarray
    affine: np.ndarray
    like: nib.Nifti1Image | None
    checkpoint: str

    @property
    def volumes(self) -> dict[str, float]:
        """Volume of each region in ml."""
        counts = classes_to_regions(self.classes).sum((1, 2, 3))
        voxel = float(np.prod(spacing_of(self.affine))) / 1000
        return {name: round(int(count) * voxel, 3) for name, count in zip(REGIONS, counts, strict=True)}


def model_fn(model_dir: str | Path) -> Model:
    """Load the model of a folder: ``best.safetensors`` and its card, or the only such pair there is.

    Raises
    ------
    DataError
        If there is none, or it is damaged.
    """
    network, card = load_checkpoint(weights_of(model_dir), device="cuda" if torch.cuda.is_available() else "cpu", task=None)
    return Model(network, card, limits_from())


def weights_of(model_dir: str | Path) -> Path:
    """Path of the weights in a model's folder."""
    folder = Path(model_dir)
    found = sorted(folder.glob("*.safetensors"))
    return folder / WEIGHTS if (folder / WEIGHTS).is_file() or len(found) != 1 else found[0]


def input_fn(body: bytes | BinaryIO, content_type: str, *, limits: Limits | None = None) -> object:
    """Decode and check a request (see `helpers.cloud.requests`); raises `BadRequest`."""
    return decode(io.BytesIO(body) if isinstance(body, bytes) else body, content_type, limits or limits_from())


@singledispatch
def predict_fn(data: object, model: Model) -> object:
    """Segment what `input_fn` returned; register another type of data to answer another kind of request."""
    raise TypeError(f"nothing is registered that segments {type(data).__name__}")


@predict_fn.register
def _(data: Volumes, model: Model) -> Answer:
    card = model.card
    if card.task != GLIOMA.name:
        raise BadRequest(415, f"this model is for {card.task} and segments no four MRI volumes; send it what it was trained on")
    check_affine(data.affine, data.image.shape[1:], card.spacing, model.limits)
    try:
        native = predict_volumes(model.network, card, data.image, data.affine, identifier=data.identifier)
    except DataError as error:
        raise BadRequest(422, str(error)) from error
    classes = label_map(native, data.image, spacing_of(data.affine), CleanUp(**card.cleanup))
    return Answer(data.identifier, classes, data.affine, data.like, card.weights_sha256)


@singledispatch
def output_fn(prediction: object, accept: str | None) -> tuple[bytes, str]:
    """Encode what `predict_fn` returned: the bytes and their content type."""
    raise TypeError(f"nothing is registered that encodes {type(prediction).__name__}")


@output_fn.register
def _(prediction: Answer, accept: str | None) -> tuple[bytes, str]:
    kind = output_type(accept)
    if kind == JSON:
        content = {
            "case": prediction.identifier,
            "volumes_ml": prediction.volumes,
            "shape": list(prediction.classes.shape),
            "checkpoint_sha256": prediction.checkpoint,
        }
        return (json.dumps(content) + "\n").encode(), kind
    labels = from_classes(prediction.classes, BRATS2021)
    if kind == NPZ:
        stream = io.BytesIO()
        np.savez_compressed(stream, labels=labels, affine=prediction.affine)
        return stream.getvalue(), kind
    with tempfile.TemporaryDirectory(prefix="answer-") as folder:
        path = write_volume(Path(folder) / "labels.nii.gz", labels, prediction.affine, like=prediction.like)
        return path.read_bytes(), kind


predict_fn.register(Slice, segment_slice)
output_fn.register(SliceAnswer, encode_slice)
