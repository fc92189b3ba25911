"""Train the small network of the notebook on CT on phantoms of the abdomen: ``python benchmarks/train_abdomen.py --out FILE``.

One thread, one crop a step, a new phantom every few steps until there are enough; the learning rate falls along half a cosine,
and the exponential moving average (EMA) of the weights is kept in 8 bits, with a card. Cross-entropy weights each class
by the inverse square root of its volume: without that a thin organ's channel dies early, and a channel that
is 0 everywhere gets no gradient from the Dice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from monai import transforms as mt
from monai.data import MetaTensor, set_track_meta
from monai.inferers import sliding_window_inference
from monai.losses import DiceLoss
from monai.metrics import DiceMetric
from monai.networks.nets import SegResNet
from monai.networks.utils import one_hot
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from brats_cohort.files import require_writable
from glioma_phantom.abdomen import ORGANS, CtPhantomSettings, make_ct_phantom
from helpers.models.checkpoints import dequantise, quantise

KEYS = ("image", "label")
CLASSES = len(ORGANS) + 1
SPACING, ROI = (4.5, 4.0, 4.0), (80, 64, 32)
ARGUMENTS = {"init_filters": 8, "in_channels": 1, "out_channels": CLASSES, "blocks_down": (1, 1, 2, 2), "blocks_up": (1, 1, 1)}
HELD_OUT = (1001, 1002, 1003, 1004)
"""Phantoms that no training sees."""

PREPARE = mt.Compose(
    [
        mt.EnsureChannelFirstd(KEYS, channel_dim="no_channel"),
        mt.Orientationd(KEYS, "RAS", labels=None),
        mt.ScaleIntensityRanged("image", a_min=-175, a_max=250, b_min=0, b_max=1, clip=True),
        mt.CropForegroundd(KEYS, source_key="image"),
        mt.Spacingd(KEYS, SPACING, mode=("bilinear", "nearest")),
        mt.SpatialPadd(KEYS, ROI),
        mt.EnsureTyped(KEYS, dtype=(torch.float32, torch.uint8)),
    ]
)
CROP = mt.Compose(
    [
        mt.RandCropByLabelClassesd(KEYS, "label", ROI, ratios=[CLASSES - 1] + [1] * (CLASSES - 1), num_classes=CLASSES),
        mt.RandScaleIntensityd("image", factors=0.1, prob=0.5),
        mt.RandShiftIntensityd("image", offsets=0.05, prob=0.5),
        mt.RandGaussianNoised("image", prob=0.2, std=0.02),
    ]
)


def draw(number: int, settings: CtPhantomSettings) -> dict[str, MetaTensor]:
    """Draw and prepare one phantom."""
    phantom = make_ct_phantom(number, settings)
    affine = torch.as_tensor(phantom.affine)
    return PREPARE({"image": MetaTensor(phantom.image.astype(np.float32), affine), "label": MetaTensor(phantom.labels, affine)})


@torch.inference_mode()
def score(network: torch.nn.Module, scans: list[dict]) -> list[float]:
    """Mean Dice of every organ; 1 if an organ is absent from both sides, 0 if from one (`ignore_empty=False`)."""
    metric = DiceMetric(include_background=False, reduction="mean_batch", ignore_empty=False)
    for scan in scans:
        logits = sliding_window_inference(torch.as_tensor(scan["image"])[None], ROI, 1, network, mode="gaussian")
        found = logits.argmax(1, keepdim=True)
        metric(one_hot(found, CLASSES), one_hot(torch.as_tensor(scan["label"])[None], CLASSES))
    return [round(value, 4) for value in metric.aggregate().tolist()]


def save(path: Path, average: AveragedModel, card: dict, held_out: list[dict]) -> None:
    """Write the weights in 8 bits and their card."""
    network = average.module.eval()
    stored = quantise({name: value.contiguous() for name, value in network.state_dict().items()})
    save_file(stored, path)
    network.load_state_dict(dequantise(stored))
    dice = score(network, held_out)
    card |= {"dice": dict(zip(ORGANS, dice, strict=True)), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(f"{card['minutes']:.1f} minutes, {card['steps']} steps, Dice {np.mean(dice):.3f}: {dice}", flush=True)
    network.train()


def main() -> None:
    """Read the settings and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file for the weights, .safetensors; the card lies beside it")
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--phantoms", type=int, default=24, help="drawn one by one in the course of the training")
    parser.add_argument("--seed", type=int, default=99)
    arguments = parser.parse_args()
    require_writable(arguments.out.parent)  # before the training, not after it
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    CROP.set_random_state(arguments.seed)
    settings, order = CtPhantomSettings(spacing=(4, 4, 4), seed=arguments.seed), np.random.default_rng(arguments.seed)
    scans = [draw(1, settings)]
    set_track_meta(False)
    network = SegResNet(**ARGUMENTS)
    average = AveragedModel(network, avg_fn=lambda kept, new, n: kept + (new - kept) * max(0.005, 9 / (10 + n)))
    volumes = torch.bincount(torch.as_tensor(scans[0]["label"]).flatten(), minlength=CLASSES)
    cross_entropy = torch.nn.CrossEntropyLoss((volumes.sum() / volumes.clamp(min=1)).sqrt())
    dice = DiceLoss(include_background=False, to_onehot_y=True, softmax=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=arguments.learning_rate, weight_decay=1e-4)
    card = {"network": "SegResNet", "arguments": ARGUMENTS, "spacing_mm": SPACING, "roi": ROI, "window_hu": (-175, 250)}
    card |= {"organs": ORGANS, "trained_on": "phantoms of the abdomen only; not for patients", "seed": arguments.seed}
    began = time.time()
    for step in range(arguments.steps):
        rate = min(1, (step + 1) / 60) * (0.5 + 0.5 * math.cos(math.pi * step / arguments.steps) + 0.01)
        for group in optimiser.param_groups:
            group["lr"] = arguments.learning_rate * rate
        if step % 25 == 24 and len(scans) < arguments.phantoms:
            set_track_meta(True)
            scans.append(draw(len(scans) + 1, settings))
            set_track_meta(False)
        crop = CROP(scans[order.integers(len(scans))])[0]
        image, label = (torch.as_tensor(crop[key])[None] for key in KEYS)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(image)
        loss = dice(logits.float(), label) + cross_entropy(logits.float(), label[:, 0].long())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(network)
        minutes = (time.time() - began) / 60
        if step % 50 == 49:
            print(f"{minutes:.1f} minutes, {step + 1} steps, loss {loss.item():.3f}", flush=True)
    set_track_meta(True)
    held_out = [draw(number, settings) for number in HELD_OUT]
    set_track_meta(False)
    save(arguments.out, average, card | {"minutes": minutes, "steps": arguments.steps, "phantoms": len(scans)}, held_out)


if __name__ == "__main__":
    main()
