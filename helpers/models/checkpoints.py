"""Trained weights with their model card: two files that say everything prediction needs, and that never unpickle.

``best.safetensors`` holds the tensors, ``best.json`` beside it the card. The card carries the SHA-256 of the weights, so
that a number in a report can be tied to the weights that gave it and neither file can be exchanged unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import nn

from helpers.models.networks import ENSEMBLE, GLIOMA, Ensemble, Task, build_network, ensemble_votes
from helpers.workspace import DataError, versions, write_atomically

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
        Settings of `helpers.evaluation.postprocess.CleanUp`, which its predictions are to be treated with; none by default.
    mirrors : tuple of int
        Axes along which the network knows mirrored images from training, so that prediction may average over such copies.
    task, activation : str
        Name of the `helpers.models.networks.Task`, and how its logits become probabilities.
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


def load_card(path: Path, *, task: Task | None = GLIOMA) -> ModelCard:
    """Read and check the card of a weights file; raises `DataError` like `load_checkpoint`."""
    path = _weights_path(path)
    for file in (path, card_path(path)):
        if not file.is_file():
            raise DataError(f"{file} does not exist", "a checkpoint is a .safetensors file and a .json card beside it")
    try:
        content = json.loads(card_path(path).read_text())
        for item in fields(ModelCard):
            if item.name in NOT_ON_OLDER_CARDS:
                content.setdefault(item.name, item.default)
            if item.name in ("patch", "mirrors", "modalities", "regions", "training_cases", "votes"):
                content[item.name] = tuple(content[item.name])
        card = ModelCard(**{item.name: content[item.name] for item in fields(ModelCard)})
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{card_path(path)} is not a model card of this package ({error!r})", "copy it again") from error
    _check_task(card, card_path(path), task)
    _check_counts(card, path)
    return card


def _check_task(card: ModelCard, path: Path, task: Task | None) -> None:
    """Raise `DataError` unless the card is of this task; one of glioma must keep the package's order in any case."""
    if task is None and card.task != GLIOMA.name:
        return
    task = task or GLIOMA
    if card.task != task.name:
        raise DataError(f"{path} is of a model for {card.task}, not for {task.name}", "give one of the right kind")
    orders = (("channels", card.modalities, task.modalities), ("regions", card.regions, task.regions))
    for name, found, wanted in orders:
        if found != wanted:
            raise DataError(f"{path} orders its {name} {list(found)}, this package {list(wanted)}", "train it again")


def _check_counts(card: ModelCard, path: Path) -> None:
    """Raise `DataError` if a card names more or fewer channels than its network has."""
    for argument, names, usual in (
        ("in_channels", card.modalities, GLIOMA.modalities),
        ("out_channels", card.regions, GLIOMA.regions),
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


def _write(path: Path, payload: bytes) -> None:
    with write_atomically(path) as temporary:
        temporary.write_bytes(payload)


SHARED = ("preprocessing", "patch", "cleanup")
"""Fields of the card in which the members of an ensemble must agree."""


def load_ensemble(paths: Sequence[Path], *, device: str | torch.device = "cpu") -> tuple[nn.Module, ModelCard]:
    """Load one or several checkpoints as one network.

    Parameters
    ----------
    paths : sequence of Path
        Weights with their cards, such as those of the folds of a cross-validation. One is the same as `load_checkpoint`.
    device : str or device

    Returns
    -------
    network : Module
        In evaluation mode.
    card : ModelCard
        What the members have in common, with a network that `build_network` builds them all from; `weights_sha256` is the
        SHA-256 of theirs, sorted, one a line, and so are the other hashes; `mirrors` are the axes that all of them know,
        `training_cases` the cases that any of them was trained on, `training` lists each one's, and `metrics` is the mean of
        theirs.

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
        differing = [name for name in SHARED if getattr(card, name) != getattr(cards[0], name)]
        if differing:
            raise DataError(
                f"{path} differs from {paths[0]} in {', '.join(differing)}", "an ensemble needs members of one kind"
            )
    hashes = [card.weights_sha256 for card in cards]
    if len(set(hashes)) < len(hashes):
        raise DataError("an ensemble was given the same weights twice", "name every checkpoint once")
    card = _shared_card(cards)
    return Ensemble(networks, ensemble_votes(card.arguments["members"])).eval(), card


def _shared_card(cards: Sequence[ModelCard]) -> ModelCard:
    names = set.intersection(*(set(card.metrics) for card in cards))
    members = [{"network": card.network, "arguments": dict(card.arguments)} for card in cards]
    if any(card.votes for card in cards):
        members = [
            each | {"votes": card.votes or (1.0,) * len(card.regions)} for each, card in zip(members, cards, strict=True)
        ]
    return replace(
        cards[0],
        network=ENSEMBLE,
        arguments={"members": members},
        votes=(),
        mirrors=tuple(sorted(set.intersection(*(set(card.mirrors) for card in cards)))),
        training_cases=tuple(sorted({case for card in cards for case in card.training_cases})),
        training={"members": [dict(card.training) for card in cards]},
        metrics={name: sum(card.metrics[name] for card in cards) / len(cards) for name in sorted(names)},
        **{name: _joint(getattr(card, name) for card in cards) for name in ("cohort_hash", "split_hash", "weights_sha256")},
    )


def _joint(hashes: Iterable[str]) -> str:
    """One hash for several: that of all of them, or the one that they all are."""
    hashes = sorted(hashes)
    return hashes[0] if len(set(hashes)) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


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
    inflated : tuple of str
        Those of `matched` that were spread over another number of input channels.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    inflated: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the file's tensors that the network took, 0 to 1."""
        found = len(self.matched) + len(self.unexpected) + len(self.mismatched)
        return len(self.matched) / found if found else 0.0

    def table(self) -> pd.DataFrame:
        """One row a tensor: ``tensor``, ``outcome``, and ``shapes`` where they differ."""
        rows = [(name, "inflated" if name in self.inflated else "matched", "") for name in self.matched]
        rows += [(name, "mismatched", f"{file} in the file, {own} here") for name, (file, own) in self.mismatched.items()]
        rows += [(name, "missing", "") for name in self.missing] + [(name, "unexpected", "") for name in self.unexpected]
        return pd.DataFrame(rows, columns=["tensor", "outcome", "shapes"])


def load_pretrained(network: nn.Module, path: Path, *, least: float = 0.5, inflate: bool = False) -> LoadReport:
    """Take over every tensor of a file that fits a network; the others stay as they are.

    Names may be wrapped by containers and prefixes of common training scripts, or be those of a Swin encoder alone
    (``mlp.fc1`` is MONAI's ``mlp.linear1``).

    Parameters
    ----------
    network : Module
        Changed in place, unless an error is raised.
    path : Path
        ``.safetensors``, or a file of `torch.save` that holds nothing but tensors and plain values.
    least : float
        Share of the file's tensors, 0 to 1, below which the file is taken for that of another network.
    inflate : bool
        Spread convolution weights over another number of input channels, each with an equal part of their sum: the answer to
        equal channels stays what it was.

    Raises
    ------
    DataError
        If the file cannot be read without unpickling code, or fits too little; the network is then unchanged.
    """
    path, own = Path(path), network.state_dict()
    taken, inflated, mismatched, unexpected = {}, [], {}, []
    for key, tensor in read_weights(path).items():
        name = _own_name(key, own)
        if name is None or name in taken or name in mismatched:
            unexpected.append(key)
            continue
        wanted = own[name].shape
        if inflate and tensor.shape != wanted and _differ_in_channels_in(tensor.shape, wanted):
            tensor = (tensor.sum(1, keepdim=True) / wanted[1]).expand(wanted)
            inflated.append(name)
        if tensor.shape == wanted:
            taken[name] = tensor
        else:
            mismatched[name] = (tuple(tensor.shape), tuple(wanted))
    missing = tuple(name for name in own if name not in taken and name not in mismatched)
    report = LoadReport(tuple(taken), missing, tuple(unexpected), mismatched, tuple(inflated))
    if not taken or report.share < least:
        raise DataError(_refusal(path, network, report, least), "give weights of the same network")
    network.load_state_dict(taken, strict=False)
    return report


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a weights file by its name there, on the CPU; raises `DataError` like `load_pretrained`."""
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
    """The network's name of a tensor that a file calls `key`, None where it has none."""
    while key not in own:
        encoder = ENCODER + key.replace("mlp.fc", "mlp.linear")
        if encoder in own:
            return encoder
        prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), None)
        if prefix is None:
            return None
        key = key.removeprefix(prefix)
    return key


def _differ_in_channels_in(found: torch.Size, wanted: torch.Size) -> bool:
    """Whether these are shapes of convolution weights that differ in the number of input channels alone."""
    return len(found) == len(wanted) >= 4 and found[0] == wanted[0] and found[2:] == wanted[2:]


def _refusal(path: Path, network: nn.Module, report: LoadReport, least: float) -> str:
    example = ""
    if report.mismatched:
        name, (found, wanted) = next(iter(report.mismatched.items()))
        example = f", {len(report.mismatched)} have another shape (such as {name}, {found} instead of {wanted})"
    return (
        f"{path} does not fit {type(network).__name__}: {len(report.matched)} of its tensors match{example}, "
        f"{len(report.unexpected)} have no place; at least {least:.0%} must match, so build the network that it was saved from"
    )


RELEASED = Path(__file__).parent / "released" / "phantom.safetensors"
"""Weights in half precision, with their card beside them."""

LIMIT = 6_000_000
"""Most bytes that the weights may have: every clone of the repository carries them."""


def load_released(*, device: str | torch.device = "cpu") -> tuple[nn.Module, ModelCard]:
    """Load the released model as `helpers.models.checkpoints.load_checkpoint` loads any other.

    Raises
    ------
    DataError
        If this copy of the package came without the weights, or as `load_checkpoint`.
    """
    if not RELEASED.is_file():
        raise DataError("this copy of the package came without its released model", "name a checkpoint, or install it again")
    return load_checkpoint(RELEASED, device=device)


def release_checkpoints(paths: Sequence[Path], *, folder: Path = RELEASED.parent) -> Path:
    """Put a trained checkpoint, or several as an ensemble, in the place of the released model, in half precision.

    Parameters
    ----------
    paths : sequence of Path
        Weights with their cards beside them, as a training leaves them.
    folder : Path
        Where the released model lies.

    Raises
    ------
    DataError
        If a checkpoint cannot be loaded, they do not fit together, or in half precision they have more than `LIMIT` bytes.
        Nothing is changed then.
    """
    network, card = load_ensemble(paths)
    target = Path(folder) / RELEASED.name
    unfinished = target.with_name(f"unfinished-{target.name}")
    try:
        save_checkpoint(unfinished, network, card, half=True)
        size = unfinished.stat().st_size
        if size > LIMIT:
            names = " and ".join(map(str, paths))
            raise DataError(f"{names}: {size:,} bytes in half precision, at most {LIMIT:,} can be released", "train smaller")
        shutil.move(card_path(unfinished), card_path(target))
        shutil.move(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
        card_path(unfinished).unlink(missing_ok=True)
    return target
