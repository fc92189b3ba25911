"""Trained weights with their model card: two files that hold everything prediction needs and are never unpickled.

``best.safetensors`` holds the tensors, ``best.json`` beside it the card. The card carries the SHA-256 of the weights, so that
a number in a report is tied to the weights that gave it and neither file can be exchanged unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import nn

from helpers.models.networks import ENSEMBLE, Ensemble, build_network, ensemble_weights
from helpers.regions import MODALITIES, REGIONS
from helpers.workspace import DataError, versions, write_atomically

RELEASED = Path(__file__).parent / "released"
"""Folder of the models that come with the package, in half precision, each with its card."""
LIMIT = 6_000_000
"""Most bytes that released weights may have: every clone of the repository carries them."""


@dataclass(frozen=True)
class ModelCard:
    """What a set of weights is and where it comes from.

    Attributes
    ----------
    network, arguments
        Key of `helpers.models.networks.NETWORKS`, or `helpers.models.networks.ENSEMBLE`, and what it was built with.
    preprocessing : mapping
        Settings of `helpers.data.preprocess.PreprocessSettings`: spacing in mm, normalisation and the rest.
    patch : tuple of 2 or 3 int
        Edges in voxels of the training patches; the smallest window of prediction.
    postprocessing : mapping
        Settings of `helpers.evaluation.postprocess.PostProcessing` for its predictions; none by default.
    tta_axes : tuple of int
        Axes along which the network was trained on mirrored images, so that test-time augmentation may mirror along them.
    activation : str
        How logits become probabilities: "sigmoid" for overlapping regions, "softmax" for classes with the background first.
    modalities, regions : tuple of str
        Order of the channels in and out.
    cohort_hash, split_hash : str
        SHA-256 of what the network was trained on and of the split manifest; empty if unknown.
    training_cases : tuple of str
        Cases whose patches changed the weights: what must not be scored with them. Empty if unknown.
    ensemble_weights : tuple of float
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
    postprocessing: Mapping[str, float] = field(default_factory=lambda: {"tumour_ml": 0.0, "enhancing_ml": 0.0})
    tta_axes: tuple[int, ...] = (0, 1, 2)
    activation: str = "sigmoid"
    modalities: tuple[str, ...] = MODALITIES
    regions: tuple[str, ...] = REGIONS
    cohort_hash: str = ""
    split_hash: str = ""
    training_cases: tuple[str, ...] = ()
    ensemble_weights: tuple[float, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    weights_sha256: str = ""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Spacing in mm of the grid that the network works on."""
        return tuple(self.preprocessing["spacing"])


def card_path(path: Path) -> Path:
    """Path of the model card that belongs to a weights file."""
    return Path(path).with_suffix(".json")


def save_checkpoint(path: Path, network: nn.Module | Mapping[str, torch.Tensor], card: ModelCard, *, half: bool = False) -> str:
    """Write weights and card, each complete or not at all, and return the SHA-256 of the weights file.

    A crash between the two leaves weights that the old card does not match, which `load_checkpoint` refuses.

    Parameters
    ----------
    path : Path
        Of the weights, ending in ``.safetensors``; folders are made.
    network : Module or mapping from str to tensor
        As `build_network` returns it, on any device, or its state.
    card : ModelCard
        Its `weights_sha256` and, if empty, `versions` are filled in.
    half : bool
        Write floating-point tensors in half precision: half the size, three significant digits. They are loaded as 32 bit.

    Raises
    ------
    DataError
        If a weight is too large for half precision, the card names another number of channels than the network has, or the
        path does not end in ``.safetensors``.
    """
    path = _weights_path(path)
    _check_counts(card, path)
    state = network if isinstance(network, Mapping) else network.state_dict()
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    payload = save({key: _half(key, tensor) for key, tensor in tensors.items()} if half else tensors)
    digest = hashlib.sha256(payload).hexdigest()
    complete = replace(card, weights_sha256=digest, versions=dict(card.versions) or versions())
    for file, content in ((path, payload), (card_path(path), (json.dumps(asdict(complete), indent=2) + "\n").encode())):
        with write_atomically(file) as temporary:
            temporary.write_bytes(content)
    return digest


def load_checkpoint(path: Path, *, device: str | torch.device = "cpu", glioma: bool = True) -> tuple[nn.Module, ModelCard]:
    """Rebuild a network from its weights and card, in evaluation mode.

    Parameters
    ----------
    path : Path
        Of the weights.
    device : str or device
        Where the network is to be.
    glioma : bool
        Refuse a network that has not the four modalities in and TC, WT, ET out, in this order.

    Raises
    ------
    DataError
        If a file is missing or damaged, weights and card do not belong together, the card is of another kind of model, or the
        weights do not fit the network that the card names.
    """
    path = _weights_path(path)
    card = load_card(path, glioma=glioma)
    payload = path.read_bytes()
    if hashlib.sha256(payload).hexdigest() != card.weights_sha256:
        raise DataError(
            f"{path} is not the file that {card_path(path).name} describes (SHA-256 differs)", "copy both files again"
        )
    try:
        tensors = load(payload)
    except SafetensorError as error:
        raise DataError(f"{path} is not a safetensors file ({error})", "copy it again") from error
    network = build_network(card.network, **card.arguments)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[1:2] or [str(error)]
        raise DataError(
            f"{path} does not fit {card.network} with {dict(card.arguments)} ({reason[0].strip()})",
            "use the card that was written with it",
        ) from error
    return network.to(device).eval(), card


def load_card(path: Path, *, glioma: bool = True) -> ModelCard:
    """Read and check the card of a weights file; arguments and errors as in `load_checkpoint`."""
    path = _weights_path(path)
    for file in (path, card_path(path)):
        if not file.is_file():
            raise DataError(f"{file} does not exist", "a checkpoint is a .safetensors file and a .json card beside it")
    try:
        content = json.loads(card_path(path).read_text())
        tuples = [item.name for item in fields(ModelCard) if isinstance(item.default, tuple)]
        card = ModelCard(**content | {name: tuple(content[name]) for name in ("patch", *tuples)})
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DataError(
            f"{card_path(path)} is not a model card of this version ({error!r})", "copy it again, or train the model again"
        ) from error
    for name, found, wanted in (("channels", card.modalities, MODALITIES), ("regions", card.regions, REGIONS)):
        if glioma and sorted(found) != sorted(wanted):
            raise DataError(f"{path} is a model with the {name} {list(found)}, not {list(wanted)}", "give one for glioma")
        if glioma and found != wanted:
            raise DataError(f"{path} orders its {name} {list(found)}, this package {list(wanted)}", "train it again")
    _check_counts(card, path)
    return card


def load_ensemble(paths: Sequence[Path], *, device: str | torch.device = "cpu") -> tuple[nn.Module, ModelCard]:
    """Load one or several checkpoints as one network: the weighted mean of their probabilities.

    Networks trained on different patients or seeds make different mistakes, and what only one of five gets wrong is outvoted.
    Everything takes as many times as long.

    Returns
    -------
    network : Module
        In evaluation mode.
    card : ModelCard
        What the members have in common, with a network that `build_network` builds them all from. `weights_sha256` is the
        SHA-256 of theirs, sorted, one a line, and so are the other hashes; `tta_axes` are those of all, `training_cases` those
        of any, `training` lists each one's, and `metrics` is the mean of theirs.

    Raises
    ------
    DataError
        If no path is given, one of them cannot be loaded, or the members expect different input.
    """
    if not paths:
        raise DataError("an ensemble needs at least one checkpoint", "give the paths of its .safetensors files")
    loaded = [load_checkpoint(path, device=device) for path in paths]
    if len(loaded) == 1:
        return loaded[0]
    networks, cards = zip(*loaded, strict=True)
    for path, card in zip(paths[1:], cards[1:], strict=True):
        shared = ("preprocessing", "patch", "postprocessing")
        differing = [name for name in shared if getattr(card, name) != getattr(cards[0], name)]
        if differing:
            raise DataError(
                f"{path} differs from {paths[0]} in {', '.join(differing)}", "an ensemble needs members of one kind"
            )
    hashes = [card.weights_sha256 for card in cards]
    if len(set(hashes)) < len(hashes):
        raise DataError("an ensemble was given the same weights twice", "name every checkpoint once")
    card = _shared_card(cards)
    return Ensemble(networks, ensemble_weights(card.arguments["members"])).to(device).eval(), card


def _shared_card(cards: Sequence[ModelCard]) -> ModelCard:
    names = set.intersection(*(set(card.metrics) for card in cards))
    members = [{"network": card.network, "arguments": dict(card.arguments)} for card in cards]
    if any(card.ensemble_weights for card in cards):
        for member, card in zip(members, cards, strict=True):
            member["ensemble_weights"] = card.ensemble_weights or (1.0,) * len(card.regions)
    return replace(
        cards[0],
        network=ENSEMBLE,
        arguments={"members": members},
        ensemble_weights=(),
        tta_axes=tuple(sorted(set.intersection(*(set(card.tta_axes) for card in cards)))),
        training_cases=tuple(sorted({case for card in cards for case in card.training_cases})),
        training={"members": [dict(card.training) for card in cards]},
        metrics={name: sum(card.metrics[name] for card in cards) / len(cards) for name in sorted(names)},
        **{name: _joint(getattr(card, name) for card in cards) for name in ("cohort_hash", "split_hash", "weights_sha256")},
    )


def _joint(hashes: Iterable[str]) -> str:
    """One hash for several: that of all of them, or the one that they all are."""
    hashes = sorted(hashes)
    return hashes[0] if len(set(hashes)) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def load_released(name: str = "phantom", *, device: str | torch.device = "cpu") -> tuple[nn.Module, ModelCard]:
    """Load a model that comes with the package; "phantom" was trained on randomised phantoms only, never on a patient.

    For research and teaching, not for clinical use. ``MODEL_CARD.md`` says how it was made and what it scores.

    Raises
    ------
    DataError
        If this copy of the package came without it, or as `load_checkpoint`.
    """
    path = RELEASED / f"{name}.safetensors"
    if not path.is_file():
        raise DataError(f"this copy of the package came without the released model {name}", "name a checkpoint instead")
    return load_checkpoint(path, device=device)


def release_checkpoints(paths: Sequence[Path], *, name: str = "phantom") -> Path:
    """Write a trained checkpoint, or several as an ensemble, in half precision to the released models.

    Raises
    ------
    DataError
        If a checkpoint cannot be loaded, they do not fit together, or in half precision they have more than `LIMIT` bytes.
        Nothing is changed then.
    """
    network, card = load_ensemble(paths)
    target = RELEASED / f"{name}.safetensors"
    unfinished = target.with_name(f"unfinished-{target.name}")
    try:
        save_checkpoint(unfinished, network, card, half=True)
        size = unfinished.stat().st_size
        if size > LIMIT:
            names = " and ".join(map(str, paths))
            raise DataError(f"{names}: {size:,} bytes in half precision, at most {LIMIT:,} can be released", "train smaller")
        card_path(unfinished).replace(card_path(target))
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
        card_path(unfinished).unlink(missing_ok=True)
    return target


CONTAINERS: tuple[str, ...] = ("state_dict", "model_state_dict", "model", "network")
"""Names under which training scripts store the weights among other things."""
PREFIXES: tuple[str, ...] = ("module.", "_orig_mod.", "model.", "network.")
"""What data parallelism, torch.compile and Lightning put before every name."""
ENCODER = "swinViT."
"""Where SwinUNETR keeps what self-supervised training stores without a prefix (``model_swinvit.pt``)."""


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor, by the network's names, but `unexpected`, which has the file's.

    Attributes
    ----------
    matched : tuple of str
        Taken from the file.
    missing : tuple of str
        Not in the file; left as they were.
    unexpected : tuple of str
        In the file, without a place in the network.
    mismatched : mapping from str to pair of tuples
        In both with different shapes, the file's and the network's; left as they were.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


def load_pretrained(network: nn.Module, path: Path) -> LoadReport:
    """Copy every tensor of a file that fits into a network, in place; the others stay as they are.

    Names may be wrapped by containers and prefixes of common training scripts, or be those of a Swin encoder alone
    (``mlp.fc1`` is MONAI's ``mlp.linear1``). The file is ``.safetensors`` or one of `torch.save` with nothing but tensors and
    plain values in it.

    Raises
    ------
    DataError
        If the file cannot be read without unpickling code, or less than half of its tensors fit; nothing is changed then.
    """
    path, own = Path(path), network.state_dict()
    taken, mismatched, unexpected = {}, {}, []
    for key, tensor in _read_weights(path).items():
        name = _own_name(key, own)
        if name is None or name in taken or name in mismatched:
            unexpected.append(key)
        elif tensor.shape == own[name].shape:
            taken[name] = tensor
        else:
            mismatched[name] = (tuple(tensor.shape), tuple(own[name].shape))
    if not taken or len(taken) < len(unexpected) + len(mismatched):
        example = ""
        if mismatched:
            name, (found, wanted) = next(iter(mismatched.items()))
            example = f", {len(mismatched)} have another shape (such as {name}, {found} instead of {wanted})"
        raise DataError(
            f"{path} does not fit {type(network).__name__}: {len(taken)} of its tensors match{example}, "
            f"{len(unexpected)} have no place",
            "build the network that it was saved from",
        )
    network.load_state_dict(taken, strict=False)
    missing = tuple(name for name in own if name not in taken and name not in mismatched)
    return LoadReport(tuple(taken), missing, tuple(unexpected), mismatched)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a weights file by its name there, on the CPU."""
    if not path.is_file():
        raise DataError(f"{path} does not exist", "give a .safetensors file or one of torch.save")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "it ends early")
        raise DataError(f"{path} holds no plain weights ({reason})", "save its state_dict alone") from error
    while isinstance(content, Mapping):
        inner = next((content[name] for name in CONTAINERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {key: value for key, value in content.items() if torch.is_tensor(value)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise DataError(f"{path} holds no tensors by name", "save the state_dict of a network")
    return tensors


def _own_name(key: str, own: Mapping[str, torch.Tensor]) -> str | None:
    """The network's name of a tensor that a file calls `key`; None if it has none."""
    while key not in own:
        encoder = ENCODER + key.replace("mlp.fc", "mlp.linear")
        if encoder in own:
            return encoder
        prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), None)
        if prefix is None:
            return None
        key = key.removeprefix(prefix)
    return key


def _check_counts(card: ModelCard, path: Path) -> None:
    """Raise `DataError` if a card names more or fewer channels than its network has."""
    for argument, names, usual in (
        ("in_channels", card.modalities, MODALITIES),
        ("out_channels", card.regions, REGIONS),
    ):
        count = card.arguments.get(argument, len(usual))
        if count != len(names):
            raise DataError(
                f"the card of {path} names {list(names)}, but {card.network} has {argument} {count}", "make them agree"
            )


def _half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    smaller = tensor.half()
    if not torch.isfinite(smaller).all():
        raise DataError(f"{name} has weights that half precision cannot hold", "save them in full")
    return smaller


def _weights_path(path: Path) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise DataError(f"{path} is not a .safetensors file", "pickled checkpoints can run code and are never opened")
    return path
