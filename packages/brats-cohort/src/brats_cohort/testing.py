"""Small cases written as real files in any dataset format, for tests: of this package and of what is built on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from brats_cohort.case import Case
from brats_cohort.cases import discover
from brats_cohort.formats import DESCRIBED, FORMATS, labels_by_name
from brats_cohort.nifti import write_volume
from brats_cohort.regions import CONVENTIONS, MODALITIES, from_classes

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def case_arrays(shape=(24, 28, 20), seed=0) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid "brain" with four different contrasts (int16, zero outside) and nested tumour classes in it."""
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    brain = (grid**2).sum(0) < 0.85
    distance = np.sqrt(((grid - np.array([0.25, 0.1, 0.0]).reshape(3, 1, 1, 1)) ** 2).sum(0))
    classes = np.zeros(shape, np.uint8)
    classes[distance < 0.5] = 2
    classes[distance < 0.35] = 3
    classes[distance < 0.2] = 1
    means = np.array([[300, 200, 220, 260], [300, 180, 220, 600], [200, 500, 450, 400], [250, 300, 520, 420]])
    image = means[:, classes] + generator.normal(0, 20, (4, *shape)) + 30 * grid[0]
    return np.where(brain, image.clip(1), 0).astype(np.int16), np.where(brain, classes, 0).astype(np.uint8)


def write_case(
    folder: Path, identifier: str = "Case_001", format: str = "brats2021", *, image=None, classes=None, affine=LPS, seed=0
) -> Case:
    """Write one case as files of a dataset format below `folder` and return it as `discover` finds it."""
    given = next((each.shape[-3:] for each in (image, classes) if each is not None), None)
    made = case_arrays(seed=seed) if given is None else case_arrays(given, seed)
    image, classes = (own if each is None else each for each, own in zip((image, classes), made, strict=True))
    key = (FORMATS[format].labels or "brats2021") if format in DESCRIBED else labels_by_name(identifier, format)
    values = from_classes(classes, CONVENTIONS[key])
    if format == "bids":
        name = f"sub-{''.join(filter(str.isalnum, identifier))}_ses-1"
        subject, session = name.split("_")
        (folder / subject).mkdir(parents=True, exist_ok=True)
        (folder / "dataset_description.json").write_text('{"Name": "made", "BIDSVersion": "1.10.0"}')
        (folder / subject / f"{subject}_sessions.tsv").write_text(f"session_id\tcase\n{session}\t{identifier}\n")
        for ending, volume in zip(("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR"), image, strict=True):
            write_volume(folder / subject / session / "anat" / f"{name}_{ending}.nii.gz", volume, affine)
        reference = folder / "derivatives" / "raters" / subject / session / "anat" / f"{name}_dseg.nii.gz"
        write_volume(reference, values, affine)
        rows = "".join(f"{number}\t{meaning}\n" for number, meaning in CONVENTIONS[key].meanings.items())
        reference.with_name(f"{name}_dseg.tsv").write_text(f"index\tname\n{rows}")
    elif format == "nnunet":
        labels = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}  # Dataset137_BraTS21
        channels = {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dataset.json").write_text(json.dumps({"channel_names": channels, "labels": labels}))
        for number, volume in enumerate(image):
            write_volume(folder / "imagesTr" / f"{identifier}_{number:04}.nii.gz", volume, affine)
        write_volume(folder / "labelsTr" / f"{identifier}.nii.gz", values, affine)
    elif format == "msd":
        description = {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dataset.json").write_text(json.dumps(description))
        order = [MODALITIES.index(modality) for modality in ("flair", "t1", "t1ce", "t2")]
        write_volume(folder / "imagesTr" / f"{identifier}.nii.gz", np.moveaxis(image[order], 0, -1), affine)
        write_volume(folder / "labelsTr" / f"{identifier}.nii.gz", values, affine)
    else:
        names = {"brats2021": "_{}", "brats2023": "-{}", "named": ".{}"}[format]
        suffixes = dict(zip(MODALITIES, ("t1n", "t1c", "t2w", "t2f") if format == "brats2023" else MODALITIES, strict=True))
        for modality, volume in zip(MODALITIES, image, strict=True):
            name = identifier + names.format(suffixes[modality])
            write_volume(folder / identifier / f"{name}.nii.gz", volume, affine)
        write_volume(folder / identifier / f"{identifier}{names.format('seg')}.nii.gz", values, affine)
    return next(case for case in discover(folder, format) if case.identifier == identifier)
