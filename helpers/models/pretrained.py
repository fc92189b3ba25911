"""Weights of other trainings into a network, with a report of what fitted."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from helpers.data.files import DataError

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
        raise DataError(_refusal(path, network, report, least))
    network.load_state_dict(taken, strict=False)
    return report


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a weights file by its name there, on the CPU; raises `DataError` like `load_pretrained`."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a .safetensors file or one of torch.save")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "it ends early")
        raise DataError(f"{path} holds no plain weights ({reason}); save its state_dict alone") from error
    while isinstance(content, Mapping):
        inner = next((content[name] for name in CONTAINERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {key: value for key, value in content.items() if torch.is_tensor(value)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise DataError(f"{path} holds no tensors by name; save the state_dict of a network")
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
