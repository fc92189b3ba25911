"""Learning curves of fine-tuning on few patients: ``python -m benchmarks.fine_tuning --cases FOLDER --out CSV``.

Each usable case of the folder is the test case once; one, two or four of the others, in an order of their own, are learnt
from: alone, or with a patch of a phantom beside every patch of a patient. Nothing is chosen by the test case: the learning
rate is constant, an exponential moving average (EMA) of the weights is kept, and it is scored after every number of steps, on
the prepared grid.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from brats_cohort.cases import discover
from brats_cohort.checks import check_cohort
from brats_cohort.regions import REGIONS, classes_to_regions
from helpers.data.patches import training_transforms
from helpers.data.phantoms import PhantomStream, StreamSettings
from helpers.data.prepared import PreparedFile, PreprocessSettings
from helpers.data.preprocess import prepare_cohort
from helpers.evaluation.metrics import dice
from helpers.evaluation.predict import segment_prepared
from helpers.evaluation.statistics import bootstrap_interval
from helpers.models.checkpoints import ModelCard, load_checkpoint, load_released
from helpers.models.networks import channels_last
from helpers.training.data import PatchDataset
from helpers.training.loss import RegionLoss

RATE, SEED, DECAY = 2e-4, 2021, 0.98
"""Learning rate: what has been learnt is to be moved, not to be overwritten; seed of the patches; decay of the EMA."""


def fine_tune(
    network: nn.Module, card: ModelCard, training: Sequence[Path], *, marks: Sequence[int], mixed: bool
) -> Iterator[tuple[int, nn.Module]]:
    """Train a copy of a network on prepared cases and yield its averaged weights after each number of steps in `marks`."""
    learner, steps = copy.deepcopy(network).train(), max(marks)
    changes = training_transforms(card.patch, flip_axes=card.tta_axes)
    sources = [PatchDataset(training, patch=card.patch, count=2 * steps, seed=SEED, transforms=changes)]
    if mixed:
        settings = StreamSettings(int(card.spacing[0]), SEED)
        sources.append(PhantomStream(settings, patch=card.patch, count=steps, batch=1, transforms=changes))
    optimiser, loss = torch.optim.AdamW(learner.parameters(), lr=RATE), RegionLoss()
    ema = AveragedModel(learner, avg_fn=get_ema_avg_fn(DECAY))
    for step in range(steps):
        samples = [source[step] for source in sources] if mixed else [sources[0][2 * step], sources[0][2 * step + 1]]
        image, regions = (torch.stack([sample[name] for sample in samples]) for name in ("image", "regions"))
        optimiser.zero_grad()
        loss(learner(channels_last(image)), regions).backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimiser.step()
        ema.update_parameters(learner)
        if step + 1 in marks:
            yield step + 1, ema.module.eval()


def score(network: nn.Module, card: ModelCard, path: Path) -> dict[str, float]:
    """Dice by region of one prepared case, after the post-processing of the card."""
    case = PreparedFile(path).load()
    masks, truths = (classes_to_regions(each) for each in (segment_prepared(network, card, case.image), case.classes))
    return {region: dice(*pair) for region, *pair in zip(REGIONS, masks, truths, strict=True)}


def main() -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, help="folder of cases with references")
    parser.add_argument("--out", type=Path, required=True, help="table of every score, written after every training")
    parser.add_argument("--checkpoint", type=Path, help="another model than the released one")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4], help="how many cases to learn from")
    parser.add_argument("--marks", type=int, nargs="+", default=[25, 50, 100, 200, 400], help="steps after which to score")
    parser.add_argument("--alone", action="store_true", help="leave out the trainings with phantoms beside the patients")
    arguments = parser.parse_args()
    network, card = load_checkpoint(arguments.checkpoint) if arguments.checkpoint else load_released()
    cases = check_cohort(discover(arguments.cases), progress=False).usable
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_cohort(cases, Path(folder), PreprocessSettings(**card.preprocessing)).paths
        for number, test in enumerate(prepared):
            others = [path for name, path in prepared.items() if name != test]
            training = [others[place] for place in np.random.default_rng(number).permutation(len(others))]
            rows.append({"cases": 0, "mixed": False, "step": 0, "case": test, **score(network, card, prepared[test])})
            for size, mixed in itertools.product(arguments.sizes, (False,) if arguments.alone else (False, True)):
                for step, learner in fine_tune(network, card, training[:size], marks=arguments.marks, mixed=mixed):
                    found = score(learner, card, prepared[test])
                    rows.append({"cases": size, "mixed": mixed, "step": step, "case": test, **found})
                pd.DataFrame(rows).to_csv(arguments.out, index=False)
    table, gains = pd.DataFrame(rows), []
    before = table[table["step"] == 0].set_index("case")
    for (size, mixed, step), part in table[table["step"] > 0].groupby(["cases", "mixed", "step"]):
        gain = part.set_index("case")[list(REGIONS)] - before[list(REGIONS)]
        row = {"cases": size, "mixed": mixed, "step": step}
        for region in REGIONS:
            found = bootstrap_interval(list(gain[region]))
            row[region] = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
        gains.append(row)
    print(before[list(REGIONS)].mean().round(3).to_dict(), "before; gain in Dice after:")
    print(pd.DataFrame(gains).to_string(index=False))


if __name__ == "__main__":
    main()
