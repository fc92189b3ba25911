"""The ladder of speed-ups from the naive recipe, as in notebook 06: ``python -m benchmarks.ladder``.

Phantoms are made in a temporary folder unless a cohort is given. Every rung trains the released model, or a fresh network,
on the same patches, in turns with the others.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import pandas as pd
import torch

from glioma_phantom import PhantomSettings
from helpers.data.cases import discover
from helpers.data.phantoms import write_cohort
from helpers.data.preprocess import PreprocessSettings, prepare_cohort
from helpers.models.checkpoints import load_released
from helpers.models.networks import NETWORKS, build_network
from helpers.profiling.compiling import missing_compiler
from helpers.profiling.ladder import measure_ladder
from helpers.profiling.machine import processor_name
from helpers.profiling.recipes import Recipe, patches_of
from helpers.profiling.rungs import kept_rungs, tried_rungs
from helpers.training.before.settings import TrainSettings
from helpers.training.before.trainer import number_format


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", type=Path, help="folder of cases with references, one file a modality")
    parser.add_argument("--network", choices=tuple(NETWORKS), help="a fresh network in place of the released model's first")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which takes minutes on a CPU")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    released, card = load_released()
    kind = arguments.network or card.arguments["members"][0]["network"]
    network = build_network(kind) if arguments.network else released.members[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.cohort:
            cases = discover(arguments.cohort)[:4]
        else:
            cases = write_cohort(folder / "cohort", 4, PhantomSettings(), progress=False)
        prepared = prepare_cohort(cases, folder / "prepared", PreprocessSettings(**card.preprocessing), progress=False).paths
        files = {prepared[case.identifier]: case for case in cases}
        train, rest = (dict(list(files.items())[part]) for part in (slice(2), slice(2, None)))
        patch = (arguments.patch,) * 3
        held_out = patches_of(Recipe("mapped"), rest, patch=patch, count=4, seed=1)
        options = {"patch": patch, "held_out": held_out, "rounds": arguments.rounds, "device": arguments.device}
        kept = kept_rungs()
        settings = TrainSettings(network=kind, device=arguments.device)
        missing = missing_compiler(arguments.device) if arguments.compile else "ask for it with --compile"
        bf16 = number_format(settings) == "bf16-mixed"
        tried = tried_rungs(kept[-1].recipe, bf16=bf16, device=arguments.device, not_compiled=missing)
        table = measure_ladder([*kept, *tried], network, train, **options)
    name = kind if arguments.network else f"released {kind}"
    print(f"{name}, patches of {arguments.patch}³ on {processor_name()}, {arguments.threads} threads")
    with pd.option_context("display.width", 250):
        print(table.round(4).to_string(na_rep=""))


if __name__ == "__main__":
    main()
