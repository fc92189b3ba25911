"""Learning curves of fine-tuning on few patients: ``python -m benchmarks.fine_tuning --cases FOLDER --out CSV``.

Each usable case of the folder is the test case once; one, two or four cases of other patients, in an order of their own, are
learnt from: alone, or with as many phantoms beside the patients. With ``--pseudo-labels`` their references are not used: the
network learns from what it predicted itself. Nothing is chosen by the test case: the learning rate is constant, an exponential
moving average (EMA) of the weights is kept, and it is scored after every number of steps, on the prepared grid.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn
from torch.utils.data import Dataset

from benchmarks.train_released import RECIPES
from brats_cohort.cases import discover
from brats_cohort.checks import check_cohort
from brats_cohort.files import DataError, require_writable, write_atomically
from brats_cohort.regions import REGIONS, classes_to_regions
from helpers.data.patches import training_transforms
from helpers.data.phantoms import PhantomStream, StreamSettings
from helpers.data.prepared import PreparedFile, PreprocessSettings, save_prepared
from helpers.data.preprocess import prepare_cohort
from helpers.evaluation.metrics import dice
from helpers.evaluation.predict import segment_prepared
from helpers.evaluation.statistics import bootstrap_interval
from helpers.models.checkpoints import ModelCard, load_checkpoint, load_released
from helpers.models.networks import channels_last
from helpers.training.data import PatchDataset
from helpers.training.loss import RegionLoss

WHOLE = RECIPES["unet"].whole
"""Voxels that hold any adult brain."""
RATE, SEED, DECAY = 2e-4, 2021, 0.98
"""Learning rate: what has been learnt is to be moved, not to be overwritten; seed of the patches; decay of the EMA."""


def phantoms_for(card: ModelCard, **options: Any) -> PhantomStream:
    """Return the phantoms to mix in; raises `DataError` if they are not prepared as the model's images are."""
    stream = PhantomStream(StreamSettings(math.ceil(card.spacing[0]), SEED), **options)
    if PreprocessSettings(**stream.preprocessing) != PreprocessSettings(**card.preprocessing):
        raise DataError("phantoms are prepared otherwise than this model's images", "give --alone")
    return stream


class Batches(Dataset):
    """Image and regions of every step: two patches and one whole brain in turn, as in `benchmarks.train_released`.

    `mixed` puts a patch of a phantom beside every patch of a patient, and makes every other brain a phantom's.
    """

    def __init__(self, card: ModelCard, training: Sequence[Path], *, steps: int, mixed: bool) -> None:
        changes = training_transforms(card.patch, flip_axes=card.tta_axes)
        self.steps, self.mixed = steps, mixed
        self.pairs = [
            (
                PatchDataset(training, patch=patch, count=2 * steps, seed=SEED, transforms=changes),
                phantoms_for(card, patch=patch, count=2 * steps, batch=1, transforms=changes) if mixed else None,
            )
            for patch in (card.patch, WHOLE)
        ]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        turn, whole = divmod(step, 2)
        patients, phantoms = self.pairs[whole]
        if whole:
            samples = [(phantoms if self.mixed and turn % 2 else patients)[turn]]
        else:
            samples = [patients[2 * turn], phantoms[turn] if self.mixed else patients[2 * turn + 1]]
        return torch.stack([sample["image"] for sample in samples]), torch.stack([sample["regions"] for sample in samples])


def fine_tune(
    network: nn.Module, card: ModelCard, training: Sequence[Path], *, marks: Sequence[int], mixed: bool
) -> Iterator[tuple[int, nn.Module]]:
    """Train a copy of a network on prepared cases and yield its averaged weights after each number of steps in `marks`."""
    learner = copy.deepcopy(network).train()
    batches = Batches(card, training, steps=max(marks), mixed=mixed)
    optimiser, loss = torch.optim.AdamW(learner.parameters(), lr=RATE), RegionLoss()
    ema = AveragedModel(learner, avg_fn=get_ema_avg_fn(DECAY))
    for step in range(len(batches)):
        image, regions = batches[step]
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = learner(channels_last(image))
        loss(logits, regions).backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimiser.step()
        ema.update_parameters(learner)
        if step + 1 in marks:
            yield step + 1, ema.module.eval()


def label_by_prediction(network: nn.Module, card: ModelCard, path: Path, folder: Path) -> Path:
    """Write a prepared case again, with the label map that the network predicts in place of its own."""
    case = PreparedFile(path).load()
    return save_prepared(folder / path.name, replace(case, classes=segment_prepared(network, card, case.image)))


def score(network: nn.Module, card: ModelCard, path: Path) -> dict[str, float]:
    """Dice by region of one prepared case, after the post-processing of the card."""
    case = PreparedFile(path).load()
    masks, truths = (classes_to_regions(each) for each in (segment_prepared(network, card, case.image), case.classes))
    return {region: dice(*pair) for region, *pair in zip(REGIONS, masks, truths, strict=True)}


def others(test: str, patients: Mapping[str, str]) -> list[str]:
    """Names of the cases of other patients in an order of their own; `patients` has the patient of every case by its name."""
    names = [name for name, patient in patients.items() if patient != patients[test]]
    return [names[place] for place in np.random.default_rng(list(patients).index(test)).permutation(len(names))]


def gains(table: pd.DataFrame, patients: Mapping[str, str]) -> pd.DataFrame:
    """Mean gain in Dice after every training, with the interval over patients; the sessions of a patient count as one."""
    rows, before = [], table[table["step"] == 0].set_index("case")[list(REGIONS)]
    for (size, mixed, step), part in table[table["step"] > 0].groupby(["cases", "mixed", "step"]):
        gain = (part.set_index("case")[list(REGIONS)] - before).groupby(patients).mean()
        row = {"cases": size, "mixed": mixed, "step": step}
        for region in REGIONS:
            found = bootstrap_interval(list(gain[region]))
            row[region] = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, help="folder of cases with references")
    parser.add_argument("--out", type=Path, required=True, help="table of every score, written after every training")
    parser.add_argument("--checkpoint", type=Path, help="another model than the released one")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4], help="how many cases to learn from")
    parser.add_argument("--marks", type=int, nargs="+", default=[25, 50, 100, 200, 400], help="steps after which to score")
    parser.add_argument("--alone", action="store_true", help="leave out the trainings with phantoms beside the patients")
    parser.add_argument("--pseudo-labels", action="store_true", help="learn from predictions in place of references")
    arguments = parser.parse_args()
    require_writable(arguments.out.parent)  # before the first training, not after it
    network, card = load_checkpoint(arguments.checkpoint) if arguments.checkpoint else load_released()
    if not arguments.alone:
        phantoms_for(card, patch=card.patch, count=1)  # before anything is trained
    report = check_cohort(discover(arguments.cases), progress=False)
    for fault in report.faults:
        print(f"{fault.severity}: {fault}")
    cases = report.usable
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_cohort(cases, Path(folder), PreprocessSettings(**card.preprocessing)).paths
        patients = {case.identifier: case.patient for case in cases if case.identifier in prepared}
        fewest = min((len(others(test, patients)) for test in patients), default=0)
        if fewest < max(arguments.sizes):
            raise SystemExit(f"a case has only {fewest} of other patients to learn from; give smaller --sizes")
        learnt = dict(prepared)
        if arguments.pseudo_labels:
            unread = Path(folder) / "predicted"
            learnt = {name: label_by_prediction(network, card, path, unread) for name, path in prepared.items()}
        for test in prepared:
            training = [learnt[name] for name in others(test, patients)]
            rows.append({"cases": 0, "mixed": False, "step": 0, "case": test, **score(network, card, prepared[test])})
            for size, mixed in itertools.product(arguments.sizes, (False,) if arguments.alone else (False, True)):
                for step, learner in fine_tune(network, card, training[:size], marks=arguments.marks, mixed=mixed):
                    found = score(learner, card, prepared[test])
                    rows.append({"cases": size, "mixed": mixed, "step": step, "case": test, **found})
                with write_atomically(arguments.out) as temporary:
                    pd.DataFrame(rows).to_csv(temporary, index=False)
    table = pd.DataFrame(rows)
    before = table[table["step"] == 0].set_index("case")[list(REGIONS)].groupby(patients).mean()
    print(before.mean().round(3).to_dict(), "before; gain in Dice after:")
    print(gains(table, patients).to_string(index=False))


if __name__ == "__main__":
    main()
