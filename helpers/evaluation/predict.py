"""From four images to a label map in the patient's own grid.

The image is prepared as the model card says (orientation, spacing, normalisation, crop), the network gives a probability for
every region, the probabilities go back to the native grid by linear interpolation, and only there they are cut at 0.5 and
cleaned up: a label map resampled itself would be ragged, and linear interpolation of label numbers would invent classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from helpers.data.cases import Case, Source, open_volume, read_image, write_volume
from helpers.data.preprocess import PreprocessSettings, preprocess_image, to_native
from helpers.data.resample import spacing_of
from helpers.evaluation.postprocess import CleanUp, clean_up, cut
from helpers.models.checkpoints import ModelCard
from helpers.models.networks import input_multiple
from helpers.regions import (
    BRATS2021,
    MODALITIES,
    from_classes,
    regions_to_classes,
)
from helpers.workspace import DataError

WHOLE = 1.5
"""A window may grow to this many times the training patch to cover an axis at once. Instance normalisation takes its
statistics over the window, so one very much larger than the patch would change what the network sees."""

WINDOWS = 2
"""Windows that go through the network together. On a CPU, PyTorch's convolutions take twice as long for one alone."""


@dataclass(frozen=True)
class Probabilities:
    """What a network says of a case, on the native grid, before it is cut and cleaned up.

    Attributes
    ----------
    identifier : str
    values : float32 array (3, X, Y, Z)
        Probabilities 0 to 1, order TC, WT, ET.
    image : array (4, X, Y, Z)
        The images as the files hold them, 0 outside the brain.
    affine : array (4, 4)
    like : Path
        Image file whose grid it is.
    """

    identifier: str
    values: np.ndarray
    image: np.ndarray
    affine: np.ndarray
    like: Path


@dataclass(frozen=True)
class Prediction:
    """A label map on the native grid: `classes` uint8 (X, Y, Z), `affine` (4, 4), and the image file whose grid it is."""

    identifier: str
    classes: np.ndarray
    affine: np.ndarray
    like: Path


def window_size(shape: Sequence[int], patch: Sequence[int], multiple: int) -> tuple[int, int, int]:
    """Edges of the sliding window for a volume of `shape`: along each axis the volume where it fits, else the patch.

    It fits up to `WHOLE` times the patch, after rounding up to what the network can halve (`multiple`). One window over a
    brain costs about a tenth of eight overlapping ones.
    """
    whole = [math.ceil(length / multiple) * multiple for length in shape]
    return tuple(edge if length > WHOLE * edge else max(length, multiple) for length, edge in zip(whole, patch, strict=True))


@torch.inference_mode()
def predict_image(
    network: nn.Module,
    image: torch.Tensor,
    *,
    patch: Sequence[int],
    multiple: int,
    mirrors: Sequence[int] = (),
    overlap: float = 0.5,
) -> torch.Tensor:
    """Probabilities of the three regions for a prepared image.

    Parameters
    ----------
    network : Module
        In evaluation mode, on the device that is to compute.
    image : float32 tensor (4, X, Y, Z)
        Prepared as in training.
    patch : sequence of 3 int
        Edges of the training patches in voxels.
    multiple : int
        Of which every edge of a window must be a multiple (`helpers.models.networks.input_multiple`).
    mirrors : sequence of int
        Axes of the grid, 0 to 2. The result is the mean over the combinations of these being mirrored (test-time augmentation):
        eight times the work for all three.
    overlap : float
        Share by which neighbouring windows overlap, where there are several; they are blended with Gaussian weights.

    Returns
    -------
    float32 tensor (3, X, Y, Z)
        0 to 1, order TC, WT, ET, on the CPU.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    batch = image[None].to(device, torch.float32)
    window = window_size(image.shape[1:], patch, multiple)
    total = torch.zeros(())
    spatial = [2 + axis for axis in mirrors]
    combinations = [axes for count in range(len(spatial) + 1) for axes in itertools.combinations(spatial, count)]
    for axes in combinations:
        flipped = batch.flip(axes) if axes else batch
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = sliding_window_inference(flipped, window, WINDOWS, _Contiguous(network), overlap=overlap, mode="gaussian")
        probabilities = logits.float().sigmoid()
        total = total + (probabilities.flip(axes) if axes else probabilities).cpu()
    return (total / len(combinations))[0]


def label_map(probabilities: np.ndarray, image: np.ndarray, spacing: Sequence[float], cleanup: CleanUp) -> np.ndarray:
    """From region probabilities (3, X, Y, Z) and the image (4, X, Y, Z) they belong to, to classes (X, Y, Z), cleaned up.

    The image may be scanned or prepared; it is looked at only where `cleanup.brighter` says so.
    """
    return clean_up(regions_to_classes(cut(np.asarray(probabilities), image, spacing, cleanup)), spacing, cleanup)


def predict_prepared(network: nn.Module, card: ModelCard, image: np.ndarray, *, flips: bool = False) -> np.ndarray:
    """`predict_image` with what the model card knows: float32 probabilities (3, X, Y, Z) on the prepared grid.

    With `flips`, mirrored copies are averaged along the axes that the card names.
    """
    multiple = input_multiple(card.network, **card.arguments)
    tensor = torch.as_tensor(np.asarray(image, dtype=np.float32))
    return predict_image(network, tensor, patch=card.patch, multiple=multiple, mirrors=card.mirrors if flips else ()).numpy()


def segment_prepared(network: nn.Module, card: ModelCard, image: np.ndarray) -> np.ndarray:
    """Classes (X, Y, Z) of a prepared image (4, X, Y, Z) on its own grid, cleaned up as the model card says."""
    return label_map(predict_prepared(network, card, image), image, card.spacing, CleanUp(**card.cleanup))


def predict_volumes(
    network: nn.Module, card: ModelCard, image: np.ndarray, affine: np.ndarray, *, identifier: str = "", flips: bool = False
) -> np.ndarray:
    """Region probabilities, float32 (3, X, Y, Z), of an image in memory, in its own grid.

    Parameters
    ----------
    network, card
        As `helpers.models.checkpoints.load_checkpoint` returns them.
    image : array (4, X, Y, Z)
        Order of `MODALITIES`, any grid and units, 0 outside the brain.
    affine : array (4, 4)
        From voxel indices to millimetres in RAS+.
    identifier : str
        Name for the errors.
    flips : bool
        As in `predict_prepared`.
    """
    prepared = preprocess_image(image, affine, PreprocessSettings(**card.preprocessing), identifier=identifier)
    return to_native(predict_prepared(network, card, prepared.image, flips=flips), prepared, mode="linear")


def predict_probabilities(network: nn.Module, card: ModelCard, case: Case, *, flips: bool = False) -> Probabilities:
    """Region probabilities of one case in its own grid.

    Parameters
    ----------
    network, card
        As `helpers.models.checkpoints.load_checkpoint` returns them.
    case : Case
        With all four modalities in one grid, of any spacing and orientation.
    flips : bool
        As in `predict_prepared`.

    Raises
    ------
    DataError
        If a modality is missing or unreadable, or the modalities do not share one grid.
    """
    image, affine = read_image(case, threads=joblib.cpu_count())
    native = predict_volumes(network, card, image, affine, identifier=case.identifier, flips=flips)
    return Probabilities(case.identifier, native, image, affine, case.images[MODALITIES[0]].path)


def segment(probabilities: Probabilities, cleanup: CleanUp) -> Prediction:
    """The label map that these probabilities mean; see `label_map`."""
    classes = label_map(probabilities.values, probabilities.image, spacing_of(probabilities.affine), cleanup)
    return Prediction(probabilities.identifier, classes, probabilities.affine, probabilities.like)


def predict_case(network: nn.Module, card: ModelCard, case: Case, *, flips: bool = False) -> Prediction:
    """Segment one case in its own grid, with the clean-up of the model card; otherwise as `predict_probabilities`."""
    return segment(predict_probabilities(network, card, case, flips=flips), CleanUp(**card.cleanup))


def write_prediction(path: Path, prediction: Prediction) -> Path:
    """Write a label map in BraTS 2021 numbers (1 NCR, 2 ED, 4 ET) with the header of the first image file."""
    return write_volume(path, from_classes(prediction.classes, BRATS2021), prediction.affine, like=open_volume(prediction.like))


def case_of_files(files: Mapping[str, Path]) -> Case:
    """A case from one file for each modality; raises `DataError` naming the modalities without a file."""
    missing = [modality for modality in MODALITIES if not files.get(modality)]
    if missing:
        raise DataError(f"no file was given for {' and '.join(missing)}", f"all of {', '.join(MODALITIES)} are needed")
    images = {modality: Source(Path(files[modality])) for modality in MODALITIES}
    name = images[MODALITIES[0]].path.name.split(".nii")[0]
    return Case(name, name, "brats2021", images, None)


def predict_cases(
    network: nn.Module, card: ModelCard, cases: Iterable[Case], *, folder: Path, flips: bool = False
) -> Iterable[tuple[Case, Path | DataError]]:
    """Segment cases one by one into ``<folder>/<identifier>.nii.gz``; a bad case yields its error and the others go on."""
    for case in cases:
        try:
            prediction = predict_case(network, card, case, flips=flips)
            yield case, write_prediction(Path(folder) / f"{case.identifier}.nii.gz", prediction)
        except DataError as error:
            yield case, error


class _Contiguous(nn.Module):
    """Hand windows to the network in the memory layout that its convolutions are fastest in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        return self.network(window.contiguous(memory_format=torch.channels_last_3d))
