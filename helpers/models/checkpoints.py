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

from brats_cohort.files import DataError, named, write_atomically
from brats_cohort.regions import MODALITIES, REGIONS
from helpers.data.prepared import PreprocessSettings
from helpers.models.networks import ENSEMBLE, Ensemble, build_network
from helpers.workspace import versions

RELEASED = Path(__file__).parent / "released"
"""Folder of the networks that come with the package, each with its card."""
SEGMENTER = ("segresnet_1", "segresnet_2", "unet")
"""Those that are the released segmenter together."""
SCALE = ":scale"
"""What a compact file adds to the name of a weight for its scales."""


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
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    weights_sha256: str = ""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Spacing in mm of the grid that the network works on."""
        return tuple(self.preprocessing["spacing"])


def card_path(path: Path) -> Path:
    """Name the model card that belongs to a weights file."""
    return Path(path).with_suffix(".json")


def save_checkpoint(
    path: Path, network: nn.Module | Mapping[str, torch.Tensor], card: ModelCard, *, compact: bool = False
) -> str:
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
    compact : bool
        Write weights with two axes or more as 8-bit integers with a scale for each entry of the first axis (about a quarter of
        the size), the others in half precision. They are loaded as 32 bit.

    Raises
    ------
    DataError
        If a weight is too large for that, or the card names another number of channels than the network has.
    """
    path = _weights_path(path)
    _check_channels(card, path)
    state = network if isinstance(network, Mapping) else network.state_dict()
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    if compact:
        tensors = quantise(tensors)
        large = [key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
        if large:
            raise DataError(f"{large[0]} has weights that half precision cannot hold", "save them in full")
    payload = save(tensors)
    digest = hashlib.sha256(payload).hexdigest()
    complete = replace(card, weights_sha256=digest, versions=dict(card.versions) or versions())
    for file, content in ((path, payload), (card_path(path), (json.dumps(asdict(complete), indent=2) + "\n").encode())):
        with write_atomically(file) as temporary:
            temporary.write_bytes(content)
    return digest


def load_checkpoint(path: Path, *, device: str | torch.device = "cpu") -> tuple[nn.Module, ModelCard]:
    """Rebuild a network from its weights and card, in evaluation mode, on a device.

    Raises
    ------
    DataError
        If a file is missing or damaged, weights and card do not belong together, the network has other channels than the four
        modalities in and TC, WT, ET out, or the weights do not fit it.
    """
    path, card = _weights_path(path), load_card(path)
    payload = path.read_bytes()
    if hashlib.sha256(payload).hexdigest() != card.weights_sha256:
        problem = f"{path} is not the file that {card_path(path).name} describes (SHA-256 differs)"
        raise DataError(problem, "copy both files again")
    network = build_network(card.network, **card.arguments)
    try:
        network.load_state_dict(dequantise(load(payload)))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split("\n", 2)[-1].split())[:200]
        problem = f"{path} does not fit {card.network} with {dict(card.arguments)} ({reason})"
        raise DataError(problem, "use the card that was written with it") from error
    return network.to(device).eval(), card


def quantise(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Round weights to 8-bit integers with a scale for each output channel, other floating-point numbers to half precision."""
    stored: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.ndim >= 2:
            scale = (tensor.flatten(1).abs().amax(1).clamp(min=1e-4) / 127).half()
            stored[key + SCALE] = scale
            tensor = (tensor / scale.float().view(-1, *[1] * (tensor.ndim - 1))).round().clamp(-127, 127).to(torch.int8)
        stored[key] = tensor.half() if tensor.is_floating_point() else tensor
    return stored


def dequantise(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights that `quantise` stored; others are as they were."""
    tensors = {key: tensor for key, tensor in stored.items() if not key.endswith(SCALE)}
    for key in tensors.keys() & {key.removesuffix(SCALE) for key in stored if key.endswith(SCALE)}:
        tensors[key] = tensors[key] * stored[key + SCALE].float().view(-1, *[1] * (tensors[key].ndim - 1))
    return tensors


def read_card(path: Path | str) -> ModelCard:
    """Read a model card as it stands in a JSON file."""
    content = dict(json.loads(Path(path).read_text()))
    if content.pop("ensemble_weights", ()):  # of earlier versions; empty if all networks counted alike, as they do now
        raise ValueError("it has weights in an ensemble")
    tuples = [item.name for item in fields(ModelCard) if isinstance(item.default, tuple)]
    return ModelCard(**content | {name: tuple(content[name]) for name in ("patch", *tuples)})


def load_card(path: Path) -> ModelCard:
    """Read and check the card of a weights file; errors as in `load_checkpoint`."""
    path = _weights_path(path)
    for file in (path, card_path(path)):
        if not file.is_file():
            raise DataError(f"{file} does not exist", "a checkpoint is a .safetensors file and a .json card beside it")
    try:
        card = read_card(card_path(path))
        PreprocessSettings(**card.preprocessing)
        if min(card.patch) < 1:
            raise ValueError(f"the patch is {card.patch}")
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{card_path(path)} is not a model card of this version ({named(error)})"
        raise DataError(problem, "copy it again, or train the model again") from error
    _check_channels(card, path)
    return card


def _check_channels(card: ModelCard, path: Path) -> None:
    """Raise `DataError` unless card and network have the channels and regions of glioma, in the order of this package."""
    if card.activation != "sigmoid":
        raise DataError(f"{path} turns logits into probabilities by {card.activation}", "give one whose regions may overlap")
    for what, argument, found, usual in (
        ("channels", "in_channels", card.modalities, MODALITIES),
        ("regions", "out_channels", card.regions, REGIONS),
    ):
        if sorted(found) != sorted(usual) or card.arguments.get(argument, len(usual)) != len(usual):
            problem = f"{path} is a {card.network} with {dict(card.arguments)} and the {what} {list(found)}, not {list(usual)}"
            raise DataError(problem, "give one for glioma")
        if found != usual:
            raise DataError(f"{path} orders its {what} {list(found)}, this package {list(usual)}", "train it again")


def load_ensemble(paths: Sequence[Path], *, device: str | torch.device = "cpu") -> tuple[nn.Module, ModelCard]:
    """Load one or several checkpoints as one network in evaluation mode: the mean of their probabilities.

    What only one of five networks gets wrong is outvoted; everything takes five times as long.

    Returns
    -------
    network : Module
    card : ModelCard
        From it `build_network` builds all members. `weights_sha256` is the SHA-256 of theirs, sorted, one a line, and so are
        the other hashes; `tta_axes` are those of all, `training_cases` those of any, and `metrics` the mean of theirs.

    Raises
    ------
    DataError
        If one of them cannot be loaded, the members expect different input, or two are the same.
    """
    if not paths:
        raise DataError("an ensemble needs at least one checkpoint", "give the paths of its .safetensors files")
    loaded = [load_checkpoint(path, device=device) for path in paths]
    if len(loaded) == 1:
        return loaded[0]
    networks, cards = zip(*loaded, strict=True)
    for path, card in zip(paths[1:], cards[1:], strict=True):
        shared = ("preprocessing", "patch", "postprocessing")
        if differing := [name for name in shared if getattr(card, name) != getattr(cards[0], name)]:
            problem = f"{path} differs from {paths[0]} in {', '.join(differing)}"
            raise DataError(problem, "an ensemble needs members of one kind")
    if len({card.weights_sha256 for card in cards}) < len(cards):
        raise DataError("an ensemble was given the same weights twice", "name every checkpoint once")
    return Ensemble(networks).to(device).eval(), _shared_card(cards)


def _shared_card(cards: Sequence[ModelCard]) -> ModelCard:
    names = set.intersection(*(set(card.metrics) for card in cards))
    return replace(
        cards[0],
        network=ENSEMBLE,
        arguments={"members": [{"network": card.network, "arguments": dict(card.arguments)} for card in cards]},
        tta_axes=tuple(sorted(set.intersection(*(set(card.tta_axes) for card in cards)))),
        training_cases=tuple(sorted({case for card in cards for case in card.training_cases})),
        training={"members": [dict(card.training) for card in cards]},
        metrics={name: sum(card.metrics[name] for card in cards) / len(cards) for name in sorted(names)},
        **{name: _joint(getattr(card, name) for card in cards) for name in ("cohort_hash", "split_hash", "weights_sha256")},
    )


def _joint(hashes: Iterable[str]) -> str:
    """Return one hash for several: that of all of them, or the one that they all are."""
    hashes = sorted(hashes)
    return hashes[0] if len(set(hashes)) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def released_files() -> list[Path]:
    """Weights of the members of the released segmenter.

    Raises `DataError` if this copy of the package came without one of them.
    """
    paths = [RELEASED / f"{name}.safetensors" for name in SEGMENTER]
    if missing := [path.stem for path in paths if not path.is_file()]:
        problem = f"this copy of the package came without the released {' and '.join(missing)}"
        raise DataError(problem, "name a checkpoint instead")
    return paths


def load_released(*, device: str | torch.device = "cpu") -> tuple[nn.Module, ModelCard]:
    """Load the segmenter that comes with the package, which ``MODEL_CARD.md`` describes; not for clinical use."""
    return load_ensemble(released_files(), device=device)


CONTAINERS = ("state_dict", "model_state_dict", "model", "network")
"""Names under which training scripts store the weights among other things."""
PREFIXES = ("module.", "_orig_mod.", "model.", "network.")
"""What data parallelism, torch.compile and Lightning put before every name."""
ENCODER = "swinViT."
"""Where SwinUNETR keeps what self-supervised training stores without a prefix (``model_swinvit.pt``)."""


def load_pretrained(network: nn.Module, path: Path) -> list[str]:
    """Copy every tensor of a foreign file that fits into a network, in place, and return their names; the others stay.

    Names may be wrapped by containers and prefixes of common training scripts, or be those of a Swin encoder alone
    (``mlp.fc1`` is MONAI's ``mlp.linear1``). The file is ``.safetensors`` or one of `torch.save` with nothing but tensors and
    plain values in it.

    Raises
    ------
    DataError
        If there is no such file, it cannot be read without unpickling code, or less than half of its tensors fit; nothing is
        changed then.
    """
    if not path.is_file():
        raise DataError(f"the pretrained weights {path} do not exist", "check the path")
    own = network.state_dict()
    try:
        if path.suffix == ".safetensors":
            content = dequantise(load_file(path))
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = next(iter(str(error).splitlines()), "it ends early")
        raise DataError(f"{path} holds no plain weights ({reason})", "save its state_dict alone") from error
    content = content if isinstance(content, Mapping) else {}  # such as a lone tensor
    while inner := [content[name] for name in CONTAINERS if isinstance(content.get(name), Mapping)]:
        content = inner[0]
    tensors = {_own_name(str(key), own): value for key, value in content.items() if torch.is_tensor(value)}
    taken = {name: tensor for name, tensor in tensors.items() if name in own and tensor.shape == own[name].shape}
    if len(taken) < max(1, len(tensors) / 2):
        problem = f"{path} does not fit {type(network).__name__}: {len(taken)} of its {len(tensors)} tensors match"
        remedy = "build the network that it was saved from, and save its state_dict"
        if card_path(path).is_file():
            card = load_card(path)
            remedy = f"its card names --network {card.network} --arguments '{json.dumps(card.arguments)}'"
        raise DataError(problem, remedy)
    network.load_state_dict(taken, strict=False)
    return [*taken]


def _own_name(key: str, own: Mapping[str, torch.Tensor]) -> str:
    """Return the network's name of a tensor that a file calls `key`, or `key` without prefixes if it has none."""
    while key not in own:
        if (encoder := ENCODER + key.replace("mlp.fc", "mlp.linear")) in own:
            return encoder
        prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), None)
        if prefix is None:
            break
        key = key.removeprefix(prefix)
    return key


def _weights_path(path: Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder", "give a .safetensors file in it, such as best.safetensors")
    if path.suffix != ".safetensors":
        raise DataError(f"{path} is not a .safetensors file", "pickled checkpoints can run code and are never opened")
    return path
