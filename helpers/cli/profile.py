"""``python -m helpers profile``: where the time of a network's training goes, as a report."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from pathlib import Path

import torch

from helpers.cli.before import mapping, whole_numbers
from helpers.models.networks import NETWORKS
from helpers.profiling.report import profile_network
from helpers.profiling.settings import ProfileSettings
from helpers.workspace import DataError

NSIGHT = "nsys profile --trace=cuda,nvtx,cudnn,cublas --output={out}/nsight python -m helpers {words}"
"""The phases are NVTX ranges, so that Nsight Systems shows them above the kernels."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--network", choices=tuple(NETWORKS), default="unet", help="which network")
    parser.add_argument(
        "--arguments", type=mapping, default="{}", help="arguments of the network as JSON, such as '{\"feature_size\": 24}'"
    )
    parser.add_argument("--patch", type=whole_numbers, default="64", help="edges of a patch in voxels, such as 96 or 64,96,64")
    parser.add_argument("--batch", type=int, default=2, help="patches a step")
    parser.add_argument("--steps", type=int, default=5, help="measured steps")
    parser.add_argument("--workers", type=int, default=0, help="processes that read patches ahead")
    parser.add_argument("--bf16", action="store_true", help="compute the forward pass in bfloat16")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help="measure the peak memory too")
    parser.add_argument(
        "--ladder",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="try bf16, prefetching, random changes in the loader or on the device, gradient checkpointing",
    )
    parser.add_argument("--compile", action="store_true", help="try torch.compile too, which takes minutes on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, or a CUDA device")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch on the CPU; 0 leaves its choice")
    parser.add_argument("--prepared", type=Path, help="folder of prepared cases to draw patches from; else noise")
    parser.add_argument("--out", type=Path, required=True, help="folder for report.md, report.json, CSV files and trace.json")


def run(arguments: argparse.Namespace) -> int:
    """Measure, write and print the report; 0."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = ProfileSettings(
        network=arguments.network,
        arguments=arguments.arguments,
        patch=tuple(arguments.patch * 3 if len(arguments.patch) == 1 else arguments.patch),
        batch=_positive("--batch", arguments.batch),
        steps=_positive("--steps", arguments.steps),
        workers=arguments.workers,
        bf16=arguments.bf16,
        device=_device(arguments.device),
        ladder=arguments.ladder,
        compiled=arguments.compile,
    )
    report = profile_network(settings, arguments.out, prepared=_prepared(arguments.prepared), memory=arguments.memory)
    path = report.write(arguments.out)
    print(report.markdown())
    print(f"written to {path.parent}: {', '.join(sorted(file.name for file in path.parent.iterdir() if file.is_file()))}")
    if torch.device(arguments.device).type == "cuda":
        where = "" if shutil.which("nsys") else " (nsys is not installed here)"
        print(f"in Nsight Systems{where}: {NSIGHT.format(out=arguments.out, words=shlex.join(sys.argv[1:]))}")
    return 0


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise DataError(f"{name} is {value}", "it must be at least 1")
    return value


def _device(name: str) -> str:
    if torch.device(name).type == "cuda" and not torch.cuda.is_available():
        raise DataError(f"--device is {name}, but there is no CUDA GPU here", "take cpu")
    return name


def _prepared(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise DataError(f"{folder} holds no prepared case", "make them with: python -m helpers preprocess")
    return paths
