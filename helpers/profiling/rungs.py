"""The rungs of the ladder in their order: what is kept, one change on top of the other, and what is tried beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from helpers.profiling.ladder import Rung
from helpers.profiling.recipes import Recipe

NAIVE = "naive recipe"
CHANGES: dict[str, dict[str, object]] = {
    "faster reading and resampling": {"source": "files"},
    "prepared once": {"source": "prepared"},
    "only the patch, memory-mapped": {"source": "mapped"},
    "batch of 2": {"batch": 2},
    "fused optimiser": {"fused_optimiser": True},
    "channels last": {"channels_last": True},
}
"""Each on top of those before it."""

TRIED: dict[str, dict[str, object]] = {
    "a thread that prefetches": {"prefetch": True},
    "a process that reads ahead": {"workers": 1},
    "random changes in the loader": {"changes": "loader"},
    "random changes on the device": {"changes": "device"},
    "gradient checkpointing": {"recompute": True},
}
"""Each by itself, beside the recipe that is kept."""


def kept_rungs() -> list[Rung]:
    """The naive recipe and every change of `CHANGES` on top of those before it."""
    ladder = [Rung(NAIVE)]
    for name, change in CHANGES.items():
        ladder.append(Rung(name, replace(ladder[-1].recipe, **change)))
    return ladder


def tried_rungs(
    best: Recipe, *, bf16: bool, device: str, not_compiled: str = "", reasons: Mapping[str, str] | None = None
) -> list[Rung]:
    """What is measured beside the best recipe.

    Parameters
    ----------
    best : Recipe
        That is kept so far.
    bf16 : bool
        Whether bfloat16 is kept: the rungs after it then have it too.
    device : str
    not_compiled : str
        Why torch.compile is not measured; empty measures it, and on a GPU CUDA graphs too.
    reasons : mapping from str to str, optional
        Why those of `TRIED` are not measured that make no sense here, by name.
    """
    half = Rung("bf16", replace(best, bf16=True), kept=bf16)
    best, reasons = (half.recipe if bf16 else best), reasons or {}
    graphs = not_compiled if device.startswith("cuda") else "no CUDA GPU here"
    return [
        half,
        *(Rung(name, replace(best, **change), reason=reasons.get(name, ""), kept=False) for name, change in TRIED.items()),
        Rung("torch.compile", replace(best, compiled="default"), reason=not_compiled, kept=False),
        Rung("CUDA graphs", replace(best, compiled="reduce-overhead"), reason=graphs, kept=False),
    ]
