"""Trained weights with their model card: two files that say everything prediction needs, and that never unpickle.

``best.safetensors`` holds the tensors, ``best.json`` beside it the card. The card carries the SHA-256 of the weights, so
that a number in a report can be tied to the weights that gave it and neither file can be exchanged unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from helpers.data.files import DataError
from helpers.models.networks import build_network
from helpers.models.tasks import GLIOMA, Task
from helpers.workspace import versions

NOT_ON_OLDER_CARDS = ("mirrors", "task", "activation", "training_cases", "votes")
"""Fields of `ModelCard` that a card may lack."""


@dataclass(frozen=True)
class ModelCard:
    """What a set of weights is and where it comes from.

    Attributes
    ----------
    network : str
        Key of `helpers.models.networks.NETWORKS`, or `helpers.models.networks.ENSEMBLE`.
    arguments : mapping
        Arguments that the network was built with.
    preprocessing : mapping
        Settings of `helpers.data.preprocess.PreprocessSettings` as a mapping: spacing in mm, normalisation and the rest.
    patch : tuple of 2 or 3 int
        Edges in voxels of the patches that the network was trained on; the least window of prediction.
    cleanup : mapping
        Settings of `helpers.evaluation.cleanup.CleanUp`, which its predictions are to be treated with; none by default.
    mirrors : tuple of int
        Axes along which the network knows mirrored images from training, so that prediction may average over such copies.
    task, activation : str
        Name of the `helpers.models.tasks.Task`, and how its logits become probabilities.
    modalities, regions : tuple of str
        Order of the channels in and out.
    cohort_hash, split_hash : str
        SHA-256 of what the network was trained on and of the split manifest; empty where unknown.
    training_cases : tuple of str
        Identifiers of the cases whose patches changed the weights: what must not be scored with them. Empty where unknown.
    votes : tuple of float
        How much each of its outputs counts in an ensemble; empty: as much as any other network's.
    training : mapping
        Settings of the training.
    metrics : mapping from str to float
        Results on the *validation* part, and the step that gave them.
    versions : mapping from str to str
        Versions of the packages that wrote the weights.
    weights_sha256 : str
        Of the weights file; set by `save_checkpoint`.
    """

    network: str
    arguments: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    patch: tuple[int, ...]
    cleanup: Mapping[str, float] = field(default_factory=lambda: {"tumour_ml": 0.0, "enhancing_ml": 0.0})
    mirrors: tuple[int, ...] = (0, 1, 2)
    task: str = GLIOMA.name
    activation: str = GLIOMA.activation
    modalities: tuple[str, ...] = GLIOMA.modalities
    regions: tuple[str, ...] = GLIOMA.regions
    cohort_hash: str = ""
    split_hash: str = ""
    training_cases: tuple[str, ...] = ()
    votes: tuple[float, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    weights_sha256: str = ""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Spacing in mm of the grid that the network works on."""
        return tuple(self.preprocessing["spacing"])

    @property
    def spatial_dims(self) -> int:
        """2 for a network of slices, 3 for one of volumes."""
        return len(self.patch)

    @property
    def normalise(self) -> str:
        """Intensity normalisation that the network expects."""
        return self.preprocessing["normalise"]


def card_path(path: Path) -> Path:
    """Path of the model card that belongs to a weights file."""
    return Path(path).with_suffix(".json")


def save_checkpoint(path: Path, network: nn.Module, card: ModelCard, *, half: bool = False) -> str:
    """Write weights and card, each complete or not at all.

    A crash between the two leaves weights that the old card does not match, which `load_checkpoint` refuses.

    Parameters
    ----------
    path : Path
        Of the weights, ending in ``.safetensors``; folders are made.
    network : Module
        As `build_network` returns it, on any device.
    card : ModelCard
        Its `weights_sha256` and, where empty, `versions` are filled in.
    half : bool
        Write floating-point tensors in half precision: half the size, three significant digits. They are loaded as 32 bit.

    Returns
    -------
    str
        SHA-256 of the weights file.

    Raises
    ------
    DataError
        If a weight is too large for half precision, the card names another number of channels than the network has, or the
        path does not end in ``.safetensors``.
    """
    path = _weights_path(path)
    _check_counts(card, path)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    payload = save({key: _half(key, tensor) for key, tensor in tensors.items()} if half else tensors)
    digest = hashlib.sha256(payload).hexdigest()
    complete = replace(card, weights_sha256=digest, versions=dict(card.versions) or versions())
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, payload)
    _write(card_path(path), (json.dumps(asdict(complete), indent=2) + "\n").encode())
    return digest


def load_checkpoint(
    path: Path, *, device: str | torch.device = "cpu", task: Task | None = GLIOMA
) -> tuple[nn.Module, ModelCard]:
    """Rebuild a network from its weights and card.

    Parameters
    ----------
    path : Path
        Of the weights.
    device : str or torch.device
        Where the network is to be.
    task : Task or None
        What the network must have been trained for; None takes any.

    Returns
    -------
    network : Module
        In evaluation mode on `device`.
    card : ModelCard

    Raises
    ------
    DataError
        If a file is missing or damaged, weights and card do not belong together, the card is of another task or in another
        order of channels or regions than the task's, or the weights do not fit the network that the card names.
    """
    path = _weights_path(path)
    card = load_card(path, task=task)
    payload = path.read_bytes()
    if hashlib.sha256(payload).hexdigest() != card.weights_sha256:
        raise DataError(
            f"{path} is not the file that {card_path(path).name} describes (SHA-256 differs); copy both files again"
        )
    try:
        tensors = load(payload)
    except SafetensorError as error:
        raise DataError(f"{path} is not a safetensors file ({error}); copy it again") from error
    network = build_network(card.network, **card.arguments)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[1:2] or [str(error)]
        raise DataError(f"{path} does not fit {card.network} with {dict(card.arguments)} ({reason[0].strip()})") from error
    return network.to(device).eval(), card


def load_card(path: Path, *, task: Task | None = GLIOMA) -> ModelCard:
    """Read and check the card of a weights file; raises `DataError` like `load_checkpoint`."""
    path = _weights_path(path)
    for file in (path, card_path(path)):
        if not file.is_file():
            raise DataError(f"{file} does not exist; a checkpoint is a .safetensors file and a .json card beside it")
    try:
        content = json.loads(card_path(path).read_text())
        for item in fields(ModelCard):
            if item.name in NOT_ON_OLDER_CARDS:
                content.setdefault(item.name, item.default)
            if item.name in ("patch", "mirrors", "modalities", "regions", "training_cases", "votes"):
                content[item.name] = tuple(content[item.name])
        card = ModelCard(**{item.name: content[item.name] for item in fields(ModelCard)})
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{card_path(path)} is not a model card of this package ({error!r}); copy it again") from error
    _check_task(card, card_path(path), task)
    _check_counts(card, path)
    return card


def _check_task(card: ModelCard, path: Path, task: Task | None) -> None:
    """Raise `DataError` unless the card is of this task; one of glioma must keep the package's order in any case."""
    if task is None and card.task != GLIOMA.name:
        return
    task = task or GLIOMA
    if card.task != task.name:
        raise DataError(f"{path} is of a model for {card.task}, not for {task.name}; give one of the right kind")
    orders = (("channels", card.modalities, task.modalities), ("regions", card.regions, task.regions))
    for name, found, wanted in orders:
        if found != wanted:
            raise DataError(f"{path} orders its {name} {list(found)}, this package {list(wanted)}; train it again")


def _check_counts(card: ModelCard, path: Path) -> None:
    """Raise `DataError` if a card names more or fewer channels than its network has."""
    for argument, names, usual in (
        ("in_channels", card.modalities, GLIOMA.modalities),
        ("out_channels", card.regions, GLIOMA.regions),
    ):
        count = card.arguments.get(argument, len(usual))
        if count != len(names):
            raise DataError(
                f"the card of {path} names {list(names)}, but {card.network} has {argument} {count}; make them agree"
            )


def _half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    smaller = tensor.half()
    if not torch.isfinite(smaller).all():
        raise DataError(f"{name} has weights that half precision cannot hold; save them in full")
    return smaller


def _weights_path(path: Path) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise DataError(f"{path} is not a .safetensors file; pickled checkpoints can run code and are never opened")
    return path


def _write(path: Path, payload: bytes) -> None:
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        temporary.write_bytes(payload)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
