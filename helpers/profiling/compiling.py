"""What torch.compile costs and gains on one block of a network, where compiling all of it would take minutes."""

from __future__ import annotations

import copy
import os
import shutil
import time
import warnings
from dataclasses import dataclass

import torch
from torch import nn

from helpers.models.networks import BLOCKS
from helpers.profiling.clock import Timing, interleave, synchronise
from helpers.workspace import DataError


@dataclass(frozen=True)
class CompiledBlock:
    """Forward and backward pass of one block, plain and compiled.

    Attributes
    ----------
    name : str
        Of the block within the network.
    blocks : int
        How many such blocks the network has.
    seconds : float
        To compile both passes, with no cache.
    plain, compiled : Timing
        Of both passes.
    difference : float
        Largest of an output, relative to the largest output.
    """

    name: str
    blocks: int
    seconds: float
    plain: Timing
    compiled: Timing
    difference: float


def missing_compiler(device: str = "cpu") -> str:
    """Why torch.compile cannot work here; empty where it should."""
    if device.startswith("cuda"):
        return "" if torch.utils._triton.has_triton_package() else "Triton is not installed"
    found = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++")), None)
    return "" if found else "torch.compile needs a C++ compiler on a CPU, and there is none here"


def measure_compiled_block(network: nn.Module, image: torch.Tensor, *, rounds: int = 3) -> CompiledBlock:
    """Compile the first residual block of a network and compare it with the plain one in turns.

    Parameters
    ----------
    network : Module
        Left as it is.
    image : tensor (B, C, X, Y, Z)
        That the network takes, on its device.
    rounds : int
    """
    plain = copy.deepcopy(network).train()
    named = [(name, module) for name, module in plain.named_modules() if isinstance(module, BLOCKS)]
    if not named:
        raise DataError(f"{type(network).__name__} has no block to compile by itself", "compile the whole network")
    name, block = named[0]
    seen: list[torch.Tensor] = []
    handle = block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        plain(image)
    handle.remove()
    compiled = torch.compile(block)
    with torch.compiler.config.patch(force_disable_caches=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is no cache
        start = time.perf_counter()
        found = _both_passes(compiled, seen[0])
        seconds = time.perf_counter() - start
        expected = _both_passes(block, seen[0])
        works = {"plain": lambda: _both_passes(block, seen[0]), "compiled": lambda: _both_passes(compiled, seen[0])}
        timings = interleave(works, rounds=rounds, device=image.device)
    difference = float((found - expected).abs().max() / expected.abs().max())
    return CompiledBlock(name, len(named), seconds, timings["plain"], timings["compiled"], difference)


def _both_passes(block: nn.Module, features: torch.Tensor) -> torch.Tensor:
    features = features.clone().requires_grad_()
    output = block(features)
    output.sum().backward()
    synchronise(features.device)
    return output.detach()
