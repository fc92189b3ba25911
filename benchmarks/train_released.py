"""Train the released networks on randomised phantoms: ``python -m benchmarks.train_released --out DIR``.

Four networks learn from scratch, one a core, each for about the same core time: two SegResNets and a U-Net, which are the
segmenter together, and a SwinUNETR, which notebook 04 compares with the U-Net. In the end the post-processing of the segmenter
is fitted on other phantoms (`benchmarks.fit_limits`), and all four cards get it. ``--networks`` trains some of them only; the
fit follows once the three of the segmenter are there. `benchmarks.release` then packs the files.

A CUDA GPU is used if there is one, and all cores draw phantoms for it. ``--spacing 1`` is meant for such a machine: larger
networks on a grid of 1 mm (`finer`).

Each network takes a fixed number of steps; the learning rate falls at the end, and what is kept is an exponential moving
average (EMA) of the weights. Steps alternate between two patches around a tumour and one whole brain, which is what prediction
shows: in a patch, a network that normalises each instance sees other statistics. Nothing is flipped or rotated, so that a
network can tell the cerebellum by its place.

The command resumes from DIR after any interruption, and ends with the same weights as without it.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import joblib
import torch
import torch.multiprocessing as multiprocessing
from safetensors.torch import save
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from benchmarks.fit_limits import BEFORE, fit_limits, write_limits
from brats_cohort.files import DataError
from glioma_phantom import Randomisation
from glioma_phantom.generator import WIDE
from helpers.data.patches import training_transforms
from helpers.data.phantoms import PhantomStream, StreamSettings
from helpers.models.checkpoints import SEGMENTER, ModelCard, save_checkpoint
from helpers.models.networks import build_network, channels_last
from helpers.training.callbacks import DurableIO
from helpers.training.loss import RegionLoss

SAVE_EVERY = 180.0
"""Seconds between two checkpoints to resume from."""
WARMUP = 60
"""Steps in which the learning rate rises."""


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    Attributes
    ----------
    network, arguments
        As in `helpers.models.networks.build_network`.
    steps : int
        Of the optimiser.
    falling : float
        Share of the steps, at the end, in which the learning rate falls along half a cosine; before it is held.
    learning_rate, ema : float
        The highest rate, and the decay of the moving average.
    muon : bool
        Train the matrices among the weights with Muon (`Muon`); AdamW trains the rest, or else all.
    whole : three ints
        Voxels that hold any adult brain, multiples of what the network can halve.
    patch, spacing : int
        Edge of a patch in voxels and of a voxel in mm.
    per_patches, per_brain : int
        Patches that each phantom gives, and how often each brain is shown whole, with other changes of intensity.
    bf16 : bool
        Compute in bfloat16 where it is safe. On a CPU with AMX that takes about half of the time.
    seed : int
    """

    network: str
    steps: int
    learning_rate: float
    whole: tuple[int, int, int]
    arguments: dict[str, Any] = field(default_factory=dict)
    ema: float = 0.998
    patch: int = 64
    spacing: int = 2
    per_patches: int = 12
    per_brain: int = 4
    falling: float = 1.0
    muon: bool = False
    bf16: bool = True
    seed: int = 2026


SEGRESNET = Recipe(
    "segresnet",
    6400,
    2e-3,
    (80, 96, 80),
    {"init_filters": 8, "blocks_down": (1, 1, 2, 2), "blocks_up": (1, 1, 0), "norm": "instance"},
    per_patches=24,
    per_brain=8,
    falling=0.25,
)
RECIPES = {
    "segresnet_1": replace(SEGRESNET, seed=3026),
    "segresnet_2": replace(SEGRESNET, seed=4026),  # other first weights and other phantoms
    "swin_unetr": Recipe("swin_unetr", 1800, 1e-2, (96, 96, 96), {"feature_size": 12, "window_size": 4}, muon=True),
    "unet": Recipe("unet", 5400, 1e-2, (80, 96, 80), {"channels": (24, 48, 96, 144)}, muon=True),
}
"""Each core takes every second one on a machine of two, so that both end at about the same time."""
LARGER: dict[str, dict[str, Any]] = {
    "segresnet": {"init_filters": 16, "blocks_down": (1, 2, 2, 4), "blocks_up": (1, 1, 1), "norm": "instance"},
    "unet": {"channels": (32, 64, 128, 256, 320)},
    "swin_unetr": {"feature_size": 24, "window_size": 7},
}
"""Arguments of the networks for 1 mm, by name."""


def finer(recipe: Recipe) -> Recipe:
    """Return the recipe of a larger network at 1 mm, for a GPU: patches and brains as large in mm, half of the steps.

    A phantom takes seven times as long to draw at 1 mm as at 2 mm, so each is shown more often.
    """
    grid = {"spacing": 1, "patch": 2 * recipe.patch, "whole": (160, 192, 160), "per_patches": 24, "per_brain": 8}
    return replace(recipe, steps=recipe.steps // 2, arguments=LARGER[recipe.network], **grid)


class Batches(Dataset):
    """Image and regions of every step, by its number alone: patches by two and whole brains one by one, in turn."""

    def __init__(self, recipe: Recipe, ranges: Randomisation = WIDE) -> None:
        def stream(seed: int, patch: Sequence[int], batch: int, **settings) -> PhantomStream:
            chosen = StreamSettings(recipe.spacing, seed, ranges=ranges, **settings)
            changes = training_transforms(patch, flip_axes=())
            return PhantomStream(chosen, patch=patch, count=batch * recipe.steps, batch=batch, transforms=changes)

        self.steps = recipe.steps
        self.streams = (
            stream(recipe.seed, (recipe.patch,) * 3, 2, patches_per_case=recipe.per_patches, foreground_probability=0.6),
            stream(recipe.seed + 1, recipe.whole, 1, patches_per_case=recipe.per_brain),
        )

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        turn, which = divmod(step, len(self.streams))
        stream = self.streams[which]
        samples = [stream[stream.batch * turn + place] for place in range(stream.batch)]
        return torch.stack([sample["image"] for sample in samples]), torch.stack([sample["regions"] for sample in samples])


class Muon(torch.optim.Muon):
    """PyTorch's Muon (Jordan et al. 2024; Liu et al. 2025), for the kernels of convolutions, too.

    PyTorch's takes matrices only, so each kernel becomes one, with a row for each output channel, or for each input channel of
    a transposed convolution. Steps are as long as AdamW's at the same `lr`.
    """

    def __init__(self, weights: Sequence[torch.nn.Parameter], *, lr: float, weight_decay: float) -> None:
        self.weights = weights
        matrices = [torch.nn.Parameter(weight.detach().flatten(1).clone()) for weight in weights]
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self) -> None:
        """Take one step with the gradients of `weights`, which change in place."""
        pairs = [*zip(self.weights, self.param_groups[0]["params"], strict=True)]
        for weight, matrix in pairs:
            matrix.copy_(weight.flatten(1))
            matrix.grad = weight.grad.flatten(1)
        super().step()
        for weight, matrix in pairs:
            weight.copy_(matrix.view_as(weight))


def make_optimisers(recipe: Recipe, network: torch.nn.Module) -> dict[str, torch.optim.Optimizer]:
    """Return AdamW for all weights, or Muon for those of linear layers and convolutions and AdamW for the rest.

    Matrices with fewer than 8 rows or columns, such as that of the last layer, stay with AdamW.
    """
    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    weights = [layer.weight for layer in network.modules() if recipe.muon and isinstance(layer, kinds)]
    matrices = [weight for weight in weights if min(weight.flatten(1).shape) >= 8]
    others = [weight for weight in network.parameters() if all(weight is not each for each in matrices)]
    options = {"lr": recipe.learning_rate, "weight_decay": 1e-4}
    optimisers = {"adamw": torch.optim.AdamW(others, **options)}
    return optimisers | ({"muon": Muon(matrices, **options)} if matrices else {})


def train(
    recipe: Recipe,
    out: Path,
    *,
    name: str,
    stop: int | None = None,
    ranges: Randomisation = WIDE,
    start: Mapping[str, torch.Tensor] | None = None,
    workers: int = 0,
) -> Path:
    """Train one network and return its checkpoint, ``<out>/<name>.safetensors``.

    `stop` ends after that step, to be resumed; `start` is the state of a network to begin with, in place of random weights.
    `workers` processes draw the phantoms, or this one; the weights are the same.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(recipe.seed)
    network = build_network(recipe.network, **recipe.arguments).to(device)
    if start:
        network.load_state_dict(start)
    optimisers = make_optimisers(recipe, network)
    ema = AveragedModel(
        network, avg_fn=lambda kept, new, count: kept.lerp(new, 1 - min(recipe.ema, (1 + count) / (10 + count)))
    )
    parts = {"network": network, "ema": ema, **optimisers}
    path, batches, loss, recent = out / f"{name}.ckpt", Batches(recipe, ranges), RegionLoss(), 0.0
    identity = {**asdict(recipe), "streams": [stream.fingerprint for stream in batches.streams]}
    if start:
        identity["start"] = hashlib.sha256(save({name: each.contiguous() for name, each in start.items()})).hexdigest()
    first, seconds = 0, 0.0
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        if state["identity"] != identity:
            raise DataError(f"{path} is of another training", "choose another folder or remove it")
        for key, part in parts.items():
            part.load_state_dict(state[key])
        first, seconds, recent = state["step"], state["seconds"], state["loss"]
    began, last = time.time() - seconds, min(recipe.steps, stop or recipe.steps)
    loader = DataLoader(batches, batch_size=None, sampler=range(first, last), num_workers=workers)
    saved = time.time()
    for step, (image, regions) in enumerate(loader, first):
        held = 1 - recipe.falling
        fallen = max(0, step / recipe.steps - held) / recipe.falling
        rate = recipe.learning_rate * min(1, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * fallen))
        for group in (group for each in optimisers.values() for group in each.param_groups):
            group["lr"] = rate
        network.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=recipe.bf16):
            logits = network(channels_last(image.to(device)))
        value = loss(logits, regions.to(device))
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for each in optimisers.values():
            each.step()
        ema.update_parameters(network)
        recent += (float(value.detach()) - recent) * max(0.01, 1 / (step + 1))
        if time.time() - saved > SAVE_EVERY or step + 1 == last:
            saved, seconds = time.time(), time.time() - began
            state = {key: part.state_dict() for key, part in parts.items()}
            state |= {"identity": identity, "step": step + 1, "seconds": seconds, "loss": recent}
            DurableIO().save_checkpoint(state, path)
            print(f"{name}: step {step + 1} of {recipe.steps}, {seconds:.0f} s, loss {recent:.3f}", flush=True)
    facts = {**asdict(recipe), "minutes": round(seconds / 60, 1), "whole_cohort_hash": batches.streams[1].fingerprint}
    if start:
        facts["began_with"] = identity["start"]
    card = ModelCard(
        recipe.network,
        recipe.arguments,
        dict(batches.streams[0].preprocessing),
        (recipe.patch,) * 3,
        postprocessing=asdict(BEFORE),
        tta_axes=(0,),  # phantoms are left-right mirrored at random
        cohort_hash=batches.streams[0].fingerprint,
        training=facts,
        metrics={"loss": round(recent, 4)},
    )
    save_checkpoint(out / f"{name}.safetensors", ema.module, card)
    return out / f"{name}.safetensors"


def work(rank: int, recipes: Mapping[str, Recipe], out: Path, processes: int) -> None:
    """Train every network of one process, one after the other."""
    torch.set_num_threads(1)
    cores = joblib.cpu_count() // processes
    workers = max(count for count in (0, 1, 2, 4, 8) if count <= cores) if torch.cuda.is_available() else 0
    for name in [*recipes][rank::processes]:
        train(recipes[name], out, name=name, workers=workers)


def main() -> None:
    """Read the settings, train the networks in a process for each core, and fit the rules of the segmenter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=RECIPES, default=tuple(RECIPES))
    parser.add_argument("--spacing", type=int, choices=(1, 2), default=2, help="of the grid in mm; 1 is meant for a GPU")
    arguments = parser.parse_args()
    recipes = {name: RECIPES[name] if arguments.spacing == 2 else finer(RECIPES[name]) for name in arguments.networks}
    processes = min(len(recipes), joblib.cpu_count())
    options = (recipes, arguments.out, processes)
    multiprocessing.start_processes(work, options, nprocs=processes, start_method="spawn")
    members = [arguments.out / f"{name}.safetensors" for name in SEGMENTER]
    if all(path.is_file() for path in members):
        trained = sorted(arguments.out.glob("*.safetensors"))
        for path in trained:  # those of an earlier call have its limits
            write_limits(path, BEFORE)
        limits = fit_limits(members, arguments.out / "phantoms")
        for path in trained:
            write_limits(path, limits)


if __name__ == "__main__":
    main()
