"""Requests about one slice: a TIFF as the Kaggle LGG layout has it in, its mask out."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from helpers.cloud.answers import (
    JSON,
    NPZ,
    TIFF,
    output_type,
)
from helpers.cloud.limits import BadRequest, Limits
from helpers.evaluation.postprocess import THRESHOLD
from helpers.extras.lgg.cohort import CHANNELS, EDGE
from helpers.extras.lgg.scores import predict_slices
from helpers.extras.lgg.slices import LGG, SlicePreparation

if TYPE_CHECKING:
    from helpers.cloud.handler import Model


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice to be segmented: uint8 (3, 256, 256), channels as in `helpers.extras.lgg.cohort.CHANNELS`."""

    image: np.ndarray


@dataclass(frozen=True, eq=False)
class SliceAnswer:
    """Its mask, bool (256, 256), and the SHA-256 of the weights that gave it."""

    mask: np.ndarray
    checkpoint: str


def read_tiff(stream: BinaryIO, folder: Path, limits: Limits) -> Slice:
    """A slice from the bytes of a TIFF; its size is looked at before its pixels are read."""
    wanted = f"send a TIFF of {EDGE} x {EDGE} pixels with the three channels {', '.join(CHANNELS)}"
    try:
        with Image.open(stream, formats=["TIFF"]) as picture:
            if picture.size != (EDGE, EDGE) or picture.mode != "RGB":
                raise BadRequest(422, f"the picture has {picture.size} pixels in mode {picture.mode}; {wanted}")
            return Slice(np.ascontiguousarray(np.moveaxis(np.asarray(picture), -1, 0)))
    except BadRequest:
        raise
    except Exception as error:  # Pillow names no list of what it raises on a damaged file
        raise BadRequest(400, f"the body cannot be read as a TIFF ({type(error).__name__}); {wanted}") from error


def segment_slice(data: Slice, model: Model) -> SliceAnswer:
    """Segment a slice with a model of slices."""
    card = model.card
    if card.task != LGG.name:
        raise BadRequest(415, f"this model is for {card.task} and segments no single slices; send it what it was trained on")
    probabilities = predict_slices(model.network, SlicePreparation.of_card(card.preprocessing), data.image[None])
    return SliceAnswer(probabilities[0] >= THRESHOLD, card.weights_sha256)


def encode_slice(prediction: SliceAnswer, accept: str | None) -> tuple[bytes, str]:
    """The mask as TIFF (0 and 255) or npz, or the number of its pixels as JSON."""
    kind, stream = output_type(accept, (TIFF, NPZ, JSON)), io.BytesIO()
    if kind == JSON:
        content = {"tumour_pixels": int(prediction.mask.sum()), "shape": list(prediction.mask.shape)}
        return (json.dumps({**content, "checkpoint_sha256": prediction.checkpoint}) + "\n").encode(), kind
    if kind == NPZ:
        np.savez_compressed(stream, labels=prediction.mask.astype(np.uint8))
    else:
        Image.fromarray(prediction.mask.astype(np.uint8) * 255).save(stream, "TIFF", compression="tiff_lzw")
    return stream.getvalue(), kind
