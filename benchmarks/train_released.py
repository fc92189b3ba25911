"""Train the released model on randomised phantoms on every core: ``python benchmarks/train_released.py --out DIR``.

Each core runs a process of one thread with a stream of its own; all of them update the same weights, without waiting for each
other (Hogwild: Niu et al. 2011). On a busy machine that is about twice as fast as two threads that wait after every layer. The
learning rate falls along half a cosine over the time limit, and what is kept is a moving average of the weights. The network
computes in bfloat16, which cores with AVX-512 BF16 do in two thirds of the time of float32.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import torch.multiprocessing as multiprocessing

from helpers.data.augment import training_transforms
from helpers.data.phantom.stream import PhantomStream, StreamSettings
from helpers.evaluation.cleanup import CleanUp
from helpers.models.checkpoints import ModelCard, load_checkpoint, save_checkpoint
from helpers.models.networks import build_network
from helpers.training.loss import segmentation_loss

NETWORK, ARGUMENTS = "unet", {"channels": (20, 40, 80, 104, 104)}
"""Its first layer halves the grid, so a step costs half of one of a SegResNet that works at full resolution."""
WARMUP = 60
CLEANUP = CleanUp(tumour_ml=0.5, enhancing_ml=0.1, enhancing_share=0.1, near_mm=4.0, surrounded=4)
"""The share and the distance were chosen on phantoms that no training saw."""
SAVE_EVERY = 180.0
"""Seconds."""


def phantom_stream(arguments: argparse.Namespace) -> PhantomStream:
    """What all processes train on."""
    settings = StreamSettings(seed=arguments.seed, patches_per_case=12, tumour_share=0.6)
    patch = (arguments.patch,) * 3
    return PhantomStream(settings, patch=patch, count=10**9, batch=2, transforms=training_transforms(patch))


def batches(arguments: argparse.Namespace, rank: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Image and regions of every batch that this process trains on; the processes take turns in one stream."""
    stream, step = phantom_stream(arguments), rank
    while True:
        samples = [stream[2 * step + place] for place in range(2)]
        image = torch.stack([sample["image"] for sample in samples])
        yield image.contiguous(memory_format=torch.channels_last_3d), torch.stack([sample["regions"] for sample in samples])
        step += arguments.processes


def work(rank: int, network: torch.nn.Module, arguments: argparse.Namespace, began: float) -> None:
    """Train the shared network until the time is over; the first process averages and saves."""
    torch.set_num_threads(1)
    loss = segmentation_loss()
    optimiser = torch.optim.AdamW(network.parameters(), lr=arguments.learning_rate, weight_decay=1e-4)
    average = copy.deepcopy(network)
    recent, saved = 0.0, began
    for step, (image, regions) in enumerate(batches(arguments, rank)):
        share = (time.time() - began) / (60 * arguments.minutes)
        if share >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = arguments.learning_rate * min(1, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * share) + 0.01)
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(image)
        value = loss(logits.float(), regions)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        recent += (float(value.detach()) - recent) * max(0.02, 1 / (step + 1))
        if rank == 0:
            with torch.no_grad():
                for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                    kept.lerp_(new, 1 - min(arguments.average, (1 + step) / (10 + step)))
            if time.time() - saved > SAVE_EVERY:
                saved = time.time()
                save(average, arguments, step, saved - began, recent)
    if rank == 0:
        save(average, arguments, step, time.time() - began, recent)


def save(network: torch.nn.Module, arguments: argparse.Namespace, step: int, seconds: float, loss: float) -> None:
    """Write the averaged weights as they are now, with their card."""
    stream = phantom_stream(arguments)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    card = ModelCard(
        NETWORK,
        ARGUMENTS,
        dict(stream.preprocessing),
        stream.patch,
        cleanup=asdict(CLEANUP),
        cohort_hash=stream.fingerprint,
        training={**settings, "batch": stream.batch, "steps": (step + 1) * arguments.processes, "seconds": round(seconds)},
        metrics={"loss": round(loss, 4)},
    )
    save_checkpoint(arguments.out / "best.safetensors", network, card)
    print(f"{seconds:.0f} s, {step + 1} steps of the first process, loss {loss:.3f}", flush=True)


def main() -> None:
    """Read the settings and start the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="checkpoint whose weights to begin with")
    parser.add_argument("--minutes", type=float, default=55.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--patch", type=int, default=64, help="edge of a patch in voxels of 2 mm")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--average", type=float, default=0.998, help="decay of the moving average")
    parser.add_argument("--seed", type=int, default=2021)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    network = build_network(NETWORK, **ARGUMENTS).to(memory_format=torch.channels_last_3d).share_memory()
    if arguments.init:
        network.load_state_dict(load_checkpoint(arguments.init)[0].state_dict())
    began = time.time()
    multiprocessing.start_processes(work, (network, arguments, began), nprocs=arguments.processes, start_method="spawn")


if __name__ == "__main__":
    main()
