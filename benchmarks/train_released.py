"""Train the released model on randomised phantoms: ``python -m benchmarks.train_released --out DIR``.

Two networks that differ in their random numbers alone learn at a time, each on a core of its own and from phantoms of its
own. The released model is an ensemble of several such, which make different mistakes; MODEL_CARD.md says which. The learning
rate falls along half a cosine over the time limit, and what is kept is an exponential moving average (EMA) of the weights.
Steps take turns between two patches around a tumour and one whole brain, which is what prediction shows: in a patch, a network
that normalises each instance sees other statistics. Nothing is flipped or rotated, so that a network can tell the cerebellum by
where it lies.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import torch.multiprocessing as multiprocessing

from helpers.data.patches import training_transforms
from helpers.data.phantoms import PhantomStream, StreamSettings
from helpers.evaluation.postprocess import PostProcessing
from helpers.models.checkpoints import (
    ModelCard,
    load_card,
    load_checkpoint,
    save_checkpoint,
)
from helpers.models.networks import build_network, channels_last
from helpers.training.loss import RegionLoss

NETWORK, ARGUMENTS = "segresnet", {"blocks_down": (1, 1, 2, 2), "blocks_up": (1, 1, 0)}
MEMBERS = ("first", "second")
WARMUP = 60
POSTPROCESSING = PostProcessing(
    tumour_ml=0.5,
    enhancing_ml=0.1,
    enhancing_share=0.1,
    near_mm=4.0,
    surrounded=4,
    core_share=0.1,
    tumour_threshold=0.4,
    contrast_enhancement=0.2,
    enhancing_threshold=0.05,
)
"""Shares and distance were chosen on phantoms that no training saw, the limits of whole tumour and of enhancement on five
patients."""
SAVE_EVERY = 180.0
"""Seconds."""
WHOLE, PER_BRAIN = (80, 96, 80), 4
"""Voxels of 2 mm that hold any adult brain, and how often each brain is shown whole, with other changes of intensity."""


def phantom_streams(arguments: argparse.Namespace, rank: int) -> tuple[PhantomStream, PhantomStream]:
    """What one network trains on: patches by two, and whole brains one by one."""
    seed = arguments.seed + 2 * rank

    def stream(seed: int, patch: tuple[int, ...], batch: int, **settings) -> PhantomStream:
        changes = training_transforms(patch, flip_axes=())
        return PhantomStream(StreamSettings(seed=seed, **settings), patch=patch, count=10**9, batch=batch, transforms=changes)

    return (
        stream(seed, (arguments.patch,) * 3, 2, patches_per_case=12, foreground_probability=0.6),
        stream(seed + 1, WHOLE, 1, patches_per_case=PER_BRAIN),
    )


def batches(arguments: argparse.Namespace, rank: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Image and regions of every batch that a network trains on."""
    streams = phantom_streams(arguments, rank)
    for step in itertools.count():
        turn, which = divmod(step, len(streams))
        stream = streams[which]
        samples = [stream[stream.batch * turn + place] for place in range(stream.batch)]
        yield channels_last(torch.stack([sample["image"] for sample in samples])), torch.stack([s["regions"] for s in samples])


def work(rank: int, arguments: argparse.Namespace, began: float) -> None:
    """Train one network until the time is over and save its averaged weights."""
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed + rank)
    network = build_network(NETWORK, **ARGUMENTS)
    if arguments.init:
        network.load_state_dict(load_checkpoint(arguments.init / f"{MEMBERS[rank]}.safetensors")[0].state_dict())
    loss = RegionLoss()
    optimiser = torch.optim.AdamW(network.parameters(), lr=arguments.learning_rate, weight_decay=1e-4)
    ema = copy.deepcopy(network)
    recent, saved = 0.0, began
    for step, (image, regions) in enumerate(batches(arguments, rank)):
        share = (time.time() - began) / (60 * arguments.minutes)
        if share >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = arguments.learning_rate * min(1, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * share) + 0.01)
        optimiser.zero_grad()
        value = loss(network(image), regions)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        recent += (float(value.detach()) - recent) * max(0.02, 1 / (step + 1))
        with torch.no_grad():
            for kept, new in zip(ema.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1 - min(arguments.ema, (1 + step) / (10 + step)))
        if time.time() - saved > SAVE_EVERY:
            saved = time.time()
            save(ema, arguments, rank, step, saved - began, recent)
    save(ema, arguments, rank, step, time.time() - began, recent)


def save(network: torch.nn.Module, arguments: argparse.Namespace, rank: int, step: int, seconds: float, loss: float) -> None:
    """Write the averaged weights of one network as they are now, with their card."""
    stream, whole = phantom_streams(arguments, rank)
    settings = {name: value for name, value in vars(arguments).items() if name not in ("out", "init")}
    settings |= {"whole": WHOLE, "whole_cohort_hash": whole.fingerprint}
    if arguments.init:
        settings["began_with"] = load_card(arguments.init / f"{MEMBERS[rank]}.safetensors").weights_sha256
    card = ModelCard(
        NETWORK,
        ARGUMENTS,
        dict(stream.preprocessing),
        stream.patch,
        postprocessing=asdict(POSTPROCESSING),
        tta_axes=(0,),  # phantoms are left-right mirrored at random
        cohort_hash=stream.fingerprint,
        training={**settings, "batch": stream.batch, "steps": step + 1, "seconds": round(seconds)},
        metrics={"loss": round(loss, 4)},
    )
    save_checkpoint(arguments.out / f"{MEMBERS[rank]}.safetensors", network, card)
    print(f"{MEMBERS[rank]}: {seconds:.0f} s, {step + 1} steps, loss {loss:.3f}", flush=True)


def main() -> None:
    """Read the settings and start the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="folder of an earlier training, whose weights to begin with")
    parser.add_argument("--minutes", type=float, default=90.0)
    parser.add_argument("--patch", type=int, default=64, help="edge of a patch in voxels of 2 mm")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.998, help="decay of the exponential moving average of the weights")
    parser.add_argument("--seed", type=int, default=2021)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    multiprocessing.start_processes(work, (arguments, time.time()), nprocs=len(MEMBERS), start_method="spawn")


if __name__ == "__main__":
    main()
