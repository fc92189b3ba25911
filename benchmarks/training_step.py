"""Seconds of one training step for each network, and the share that reading and changing patches takes.

python benchmarks/training_step.py [--patch 64] [--batch 2] [--steps 8] [--threads 2] [--device cpu]

The patches come from a prepared file of noise with the size of a brain at 2 mm, through the same data module as in training.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from helpers.data.cases import Case, discover, write_volume
from helpers.data.preprocess import PreprocessSettings, prepare_cohort
from helpers.models.networks import build_network, describe_network
from helpers.regions import MODALITIES
from helpers.training.before.datamodule import CaseDataModule
from helpers.training.before.loss import segmentation_loss

NETWORKS = (
    ("unet", {}),
    ("segresnet", {}),
    ("swin_unetr", {}),
    ("swin_unetr", {"window_size": 7}),
)
BRAIN = (70, 88, 70)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        settings = PreprocessSettings(spacing=(2, 2, 2))
        prepared = prepare_cohort([noise_case(Path(folder))], Path(folder) / "prepared", settings, progress=False)
        paths = list(prepared.paths.values())
        print(f"{'network':34} {'parameters':>10} {'GFLOP':>6} {'s a step':>9} {'patches s':>9} {'share':>6}")
        for name, extra in NETWORKS:
            network = build_network(name, **extra).to(arguments.device)
            size = describe_network(network, size=(arguments.patch,) * 3)
            data = CaseDataModule(paths, patch=(arguments.patch,) * 3, batch=arguments.batch, steps=arguments.steps, seed=1)
            reading, computing = measure(network, data, arguments.device)
            title = f"{name} {extra or ''}"
            total = reading + computing
            print(f"{title:34} {size.parameters:10,} {size.gflop:6.1f} {total:9.3f} {reading:9.3f} {reading / total:6.1%}")


def noise_case(folder: Path) -> Case:
    """A case at 2 mm whose every voxel is brain, with a cube of each class."""
    generator = np.random.default_rng(0)
    classes = np.zeros(BRAIN, np.uint8)
    for value, edge in ((2, 12), (4, 8), (1, 4)):
        classes[tuple(slice(n // 2 - edge, n // 2 + edge) for n in BRAIN)] = value
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    for modality in MODALITIES:
        volume = generator.normal(500, 100, BRAIN).clip(1).astype(np.int16)
        write_volume(folder / "noise" / f"noise_{modality}.nii.gz", volume, affine)
    write_volume(folder / "noise" / "noise_seg.nii.gz", classes, affine)
    return discover(folder / "noise")[0]


def measure(network: torch.nn.Module, data: CaseDataModule, device: str) -> tuple[float, float]:
    """Median seconds a step for the patches and for everything else, without the first two steps."""
    loss, optimiser = segmentation_loss(), torch.optim.AdamW(network.parameters(), fused=True)
    reading, computing = [], []
    batches = iter(data.train_dataloader())
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return statistics.median(reading[2:]), statistics.median(computing[2:])
        reading.append(time.perf_counter() - start)
        image = batch["image"].to(device).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=device != "cpu"):
            logits = network(image)
        loss(logits, batch["regions"].to(device)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if device != "cpu":
            torch.cuda.synchronize()
        computing.append(time.perf_counter() - start - reading[-1])


if __name__ == "__main__":
    main()
