"""Prediction of slices and their scores: by slice and by patient, with one rule for empty slices.

The rule for empty slices
-------------------------
Most slices of a patient hold no tumour. As everywhere in this package, Dice is 1 where neither prediction nor reference has a
pixel, and 0 where only one of them has. So a mean over *all* slices mostly says how often a network keeps silent where it
should; the mean over slices *with tumour* leaves false alarms elsewhere out. The Dice of a *patient* counts the pixels of all
slices together and needs no rule: it is the number to compare, and the one that chooses a checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import nn

from helpers.evaluation.metrics import dice
from helpers.evaluation.postprocess import THRESHOLD
from helpers.extras.lgg.cohort import SliceFile, read_patient
from helpers.extras.lgg.slices import SlicePreparation
from helpers.models.networks import channels_last

BATCH = 16
"""Slices that go through the network together."""


@dataclass(frozen=True, eq=False)
class ScoredPatient:
    """All slices of a patient: images (N, 3, 256, 256), reference and prediction bool (N, 256, 256), and the patient's Dice."""

    identifier: str
    images: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    dice: float


@torch.inference_mode()
def predict_slices(network: nn.Module, preparation: SlicePreparation, images: np.ndarray) -> np.ndarray:
    """Probability of tumour, float32 (N, 256, 256), of slices uint8 (N, 3, 256, 256), with a network in evaluation mode."""
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(images), BATCH):
        batch = channels_last(preparation(images[start : start + BATCH])).to(device)
        parts.append(preparation.back(network(batch).float().sigmoid().cpu()))
    return np.concatenate(parts)


def score_patient(network: nn.Module, preparation: SlicePreparation, slices: Sequence[SliceFile]) -> ScoredPatient:
    """Segment all slices of a patient at 256 x 256 pixels and compare them with the masks."""
    images, reference = read_patient(slices)
    prediction = predict_slices(network, preparation, images) >= THRESHOLD
    return ScoredPatient(slices[0].patient, images, reference, prediction, dice(prediction, reference))


def score_slices(patients: Sequence[ScoredPatient]) -> pd.DataFrame:
    """One row a slice: patient, number in the patient (from 0), Dice, and pixels of reference, prediction and false alarm."""
    rows = [
        {
            "patient": patient.identifier,
            "slice": number,
            "dice": dice(prediction, reference),
            "reference": int(reference.sum()),
            "prediction": int(prediction.sum()),
            "false": int((prediction & ~reference).sum()),
        }
        for patient in patients
        for number, (prediction, reference) in enumerate(zip(patient.prediction, patient.reference, strict=True))
    ]
    return pd.DataFrame(rows)


def summarise_scores(patients: Sequence[ScoredPatient]) -> dict[str, float]:
    """The numbers of a report: Dice by patient and, for slices, over all and over those with tumour; share of false alarms."""
    slices = score_slices(patients)
    tumour, empty = slices[slices["reference"] > 0], slices[slices["reference"] == 0]
    return {
        "Dice by patient": float(np.mean([patient.dice for patient in patients])),
        "Dice by slice": float(slices["dice"].mean()),
        "Dice by slice with tumour": float(tumour["dice"].mean()) if len(tumour) else float("nan"),
        "empty slices with a false alarm": float((empty["prediction"] > 0).mean()) if len(empty) else float("nan"),
    }


class SlicePatients:
    """Patients for validation: a `helpers.training.source.ValidationSource` that scores by patient at 256 x 256 pixels."""

    def __init__(self, patients: Mapping[str, Sequence[SliceFile]], preparation: SlicePreparation) -> None:
        self.identifiers, self.preparation = tuple(patients), preparation
        self._patients = list(patients.values())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of names, sizes and the preparation; the files themselves are read at every validation."""
        files = [
            (file.image.name, file.image.stat().st_size, file.mask.stat().st_size) for each in self._patients for file in each
        ]
        return hashlib.sha256(repr((files, self.preparation)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._patients)

    def score(self, network: nn.Module, index: int) -> tuple[list[float], ScoredPatient]:
        """Dice of one patient."""
        scored = score_patient(network, self.preparation, self._patients[index])
        return [scored.dice], scored
