"""From four images to a label map in the patient's own grid.

The image is prepared as the model card says (orientation, spacing, normalisation, crop), the network predicts a probability for
every region, and the probabilities return to the native grid by linear interpolation. Only there they become a label map and
are post-processed: a label map resampled itself would be ragged, and linear interpolation of labels would invent classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import torch
from torch import nn

from brats_cohort.case import Case, Fault, fault_of
from brats_cohort.cases import refuse_to_overwrite
from brats_cohort.grid import spacing_of
from brats_cohort.nifti import open_volume, write_volume
from brats_cohort.regions import CONVENTIONS, MODALITIES, from_classes
from brats_cohort.session import Session, read_session
from helpers.data.preprocess import PreprocessSettings, preprocess_image, to_native
from helpers.evaluation.postprocess import PostProcessing, label_map, warnings_of
from helpers.models.checkpoints import ModelCard
from helpers.models.networks import channels_last, input_multiple

WHOLE = 1.5
"""A window may grow to this many times the training patch to cover an axis at once. Instance normalisation takes its
statistics over the window, so one very much larger than the patch, or smaller, would change what the network sees."""
WINDOWS = 2
"""Windows a batch. On a CPU, PyTorch has a slower kernel for transposed convolutions of one alone."""


@dataclass(frozen=True)
class Prediction:
    """A prediction on the native grid, which is that of the image file `like`.

    Attributes
    ----------
    classes : uint8 array (X, Y, Z)
        The post-processed label map.
    probabilities : float32 array (3, X, Y, Z)
        0 to 1, order TC, WT, ET.
    image : array (4, X, Y, Z)
        The images, 0 outside the brain.
    labels : str
        Key of the `brats_cohort.regions.CONVENTIONS` in whose numbers the label map is written.
    warnings : tuple of str
        What is odd about the images, or doubtful about the label map.
    """

    identifier: str
    classes: np.ndarray
    affine: np.ndarray
    like: Path
    probabilities: np.ndarray
    image: np.ndarray
    labels: str
    warnings: tuple[str, ...]


def window_size(shape: Sequence[int], patch: Sequence[int], multiple: int) -> tuple[int, int, int]:
    """Choose the edges of the sliding window for a volume of `shape`: along each axis the volume if it fits, else the patch.

    It fits up to `WHOLE` times the patch, after rounding up to what the network can halve (`multiple`); to the patch a smaller
    one is padded, as in training. One window over a brain costs about a tenth of eight overlapping ones.
    """
    whole = [math.ceil(length / multiple) * multiple for length in shape]
    return tuple(edge if length > WHOLE * edge else max(length, edge) for length, edge in zip(whole, patch, strict=True))


@torch.inference_mode()
def predict_prepared(network: nn.Module, card: ModelCard, image: np.ndarray, *, tta: bool = False) -> np.ndarray:
    """Predict region probabilities of a prepared image, by a sliding window with Gaussian weights.

    Parameters
    ----------
    network : Module
        In evaluation mode, on the device that is to compute.
    card : ModelCard
        Says the size of the training patches, the smallest window.
    image : array (4, X, Y, Z)
        Prepared as in training.
    tta : bool
        Test-time augmentation: the mean over all combinations of mirroring along the axes that the card names.

    Returns
    -------
    float32 array (3, X, Y, Z)
        0 to 1, order TC, WT, ET.
    """
    from monai.inferers import sliding_window_inference  # after `helpers.models`, which imports MONAI in half the time

    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    batch = torch.as_tensor(np.asarray(image, dtype=np.float32))[None].to(device)
    window = window_size(image.shape[1:], card.patch, input_multiple(card.network, **card.arguments))
    tta_axes = card.tta_axes if tta else ()
    mirrored = [axes for count in range(len(tta_axes) + 1) for axes in itertools.combinations(tta_axes, count)]
    total = torch.zeros(())
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    for axes in ([2 + axis for axis in axes] for axes in mirrored):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = sliding_window_inference(
                batch.flip(axes), window, WINDOWS, lambda part: network(channels_last(part)), overlap=0.5, mode="gaussian"
            )
        total = total + logits.float().sigmoid().flip(axes).cpu()
    return (total / len(mirrored))[0].numpy()


def segment_prepared(network: nn.Module, card: ModelCard, image: np.ndarray) -> np.ndarray:
    """Predict the classes (X, Y, Z) of a prepared image (4, X, Y, Z) on its own grid, post-processed as the card says."""
    return label_map(predict_prepared(network, card, image), image, card.spacing, PostProcessing.of(card.postprocessing))


def predict_native(
    network: nn.Module, card: ModelCard, image: np.ndarray, affine: np.ndarray, *, identifier: str = "", tta: bool = False
) -> np.ndarray:
    """Predict region probabilities, float32 (3, X, Y, Z), of an image in memory, on its own grid.

    The image (4, X, Y, Z) has the order of `MODALITIES`, any grid and units, and 0 outside the brain; its affine (4, 4) leads
    from voxel indices to millimetres in RAS+. `identifier` is its name in errors.
    """
    prepared = preprocess_image(image, affine, PreprocessSettings(**card.preprocessing), identifier=identifier)
    return to_native(predict_prepared(network, card, prepared.image, tta=tta), prepared, mode="linear")


def segment_native(
    network: nn.Module, card: ModelCard, image: np.ndarray, affine: np.ndarray, *, identifier: str = "", tta: bool = False
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return classes (X, Y, Z), post-processed as the card says, the probabilities of `predict_native`, and warnings."""
    rules = PostProcessing.of(card.postprocessing)
    probabilities = predict_native(network, card, image, affine, identifier=identifier, tta=tta)
    classes = label_map(probabilities, image, spacing_of(affine), rules)
    return classes, probabilities, warnings_of(classes, probabilities, image, spacing_of(affine), rules)


def predict_case(
    network: nn.Module, card: ModelCard, case: Case, *, tta: bool = False, session: Session | None = None
) -> Prediction:
    """Segment one case on its own grid, with the post-processing of the model card.

    `session` is what `read_session` returned, whose errors are raised here if it was not called before.
    """
    session = session or read_session(case, threads=joblib.cpu_count())
    image, affine = np.stack(session.image), session.affine
    classes, probabilities, warnings = segment_native(network, card, image, affine, identifier=case.identifier, tta=tta)
    like = case.images[MODALITIES[0]].path
    return Prediction(case.identifier, classes, affine, like, probabilities, image, case.labels, session.warnings + warnings)


def write_prediction(path: Path, prediction: Prediction) -> Path:
    """Write a label map in the numbers of its cohort, on the grid of the first image file."""
    numbers = from_classes(prediction.classes, CONVENTIONS[prediction.labels])
    return write_volume(path, numbers, prediction.affine, like=open_volume(prediction.like))


def predict_cases(
    network: nn.Module, card: ModelCard, cases: Iterable[Case], *, folder: Path, tta: bool = False
) -> Iterable[tuple[Case, Prediction | Fault]]:
    """Segment cases one by one into ``<folder>/<identifier>.nii.gz``; a bad case yields its fault and the others go on."""
    for case in cases:
        try:
            prediction = predict_case(network, card, case, tta=tta)
            write_prediction(refuse_to_overwrite(Path(folder) / f"{case.identifier}.nii.gz", case.files), prediction)
        except Exception as error:  # of whatever kind: one bad case stops no other
            yield case, fault_of(case.identifier, error)
        else:
            yield case, prediction
