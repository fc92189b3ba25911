"""The steps of prediction as transforms of MONAI: what a bundle of `helpers.models.export` is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform

from brats_cohort.case import Case, Source
from brats_cohort.cases import case_of_files, discover
from brats_cohort.grid import spacing_of
from brats_cohort.regions import CONVENTIONS, MODALITIES, from_classes
from brats_cohort.session import read_session
from helpers.data.prepared import Prepared, PreprocessSettings
from helpers.data.preprocess import preprocess_image, to_native
from helpers.evaluation.postprocess import PostProcessing, label_map
from helpers.evaluation.predict import predict_prepared
from helpers.models.checkpoints import read_card
from helpers.models.networks import build_network


def build(card: str) -> torch.nn.Module:
    """Build the network of a bundle, without its weights."""
    return build_network(read_card(card).network, **read_card(card).arguments)


def list_sessions(folder: Path) -> list[dict[str, Any]]:
    """List the cases of a cohort in any dataset format as items of a MONAI dataset."""
    cases = [case for case in discover(folder) if not case.missing]
    return [{"image": _sources(case), "case": case.identifier, "labels": case.labels} for case in cases]


def _sources(case: Case) -> dict[str, tuple[str, int | None]]:
    return {modality: (str(case.images[modality].path), case.images[modality].channel) for modality in MODALITIES}


class PrepareSessiond(MapTransform):
    """Read a session and prepare it as in training; the scan itself is kept under "scan".

    A session is an item of `list_sessions`, four files, T1, T1ce, T2 and FLAIR, or one file with these four as channels.
    """

    def __init__(self, keys: Any, card: str) -> None:
        super().__init__(keys)
        self.settings = PreprocessSettings(**read_card(card).preprocessing)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item with a prepared image (4, X, Y, Z) in place of file names."""
        item = dict(data)
        for key in self.key_iterator(item):
            case = _case(item[key], item.get("case"))
            session = read_session(case)
            prepared = preprocess_image(session.image, session.affine, self.settings, identifier=case.identifier)
            scan = np.stack(session.image).astype(np.float32)
            # What SaveImaged, and MONAI Label's Restored and Writer, look for.
            meta = {"filename_or_obj": f"{case.identifier}.nii.gz", "spatial_shape": np.array(scan.shape[1:])}
            meta["original_affine"] = session.affine
            meta["labels"] = item.get("labels", case.labels)
            item["scan"] = MetaTensor(torch.from_numpy(scan), affine=torch.from_numpy(session.affine))
            affine = torch.from_numpy(prepared.affine)
            item[key] = MetaTensor(torch.from_numpy(prepared.image.astype(np.float32)), affine=affine, meta=meta)
        return item


def _case(files: Mapping[str, tuple[str, int | None]] | str | PathLike | Sequence[str], name: str | None) -> Case:
    if isinstance(files, Mapping):
        images = {modality: Source(Path(path), channel) for modality, (path, channel) in files.items()}
        return Case(name, name, "named", images, None)
    paths = [Path(files)] if isinstance(files, str | PathLike) else [Path(path) for path in files]
    if len(paths) > 1:
        return case_of_files(dict(zip(MODALITIES, paths, strict=True)))
    name = paths[0].name.split(".nii")[0]
    return Case(name, name, "msd", {modality: Source(paths[0], n) for n, modality in enumerate(MODALITIES)}, None)


class WindowInferer(Inferer):
    """Predict region probabilities by the sliding window of `helpers.evaluation.predict`."""

    def __init__(self, card: str) -> None:
        super().__init__()
        self.card = read_card(card)

    def __call__(self, inputs: torch.Tensor, network: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        """Return probabilities (1, 3, X, Y, Z) of a prepared image (1, 4, X, Y, Z)."""
        return torch.from_numpy(predict_prepared(network, self.card, np.asarray(inputs[0].cpu())))[None]


class ToLabelMapd(MapTransform):
    """Take region probabilities to the scan's grid and post-process them to a label map (1, X, Y, Z).

    Its numbers are those of a key of `brats_cohort.regions.CONVENTIONS`; with "auto", as `predict` has it, of the cohort.
    """

    def __init__(self, keys: Any, card: str, labels: str = "auto") -> None:
        super().__init__(keys)
        model = read_card(card)
        self.settings, self.limits = PreprocessSettings(**model.preprocessing), PostProcessing.of(model.postprocessing)
        self.labels = labels

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item with a label map in the numbers of a convention in place of probabilities."""
        item = dict(data)
        image, scan = item["image"], item["scan"]
        affine = scan.affine.cpu().numpy()
        native = Prepared("", image, None, image.affine.cpu().numpy(), tuple(scan.shape[1:]), affine, self.settings)
        for key in self.key_iterator(item):
            probabilities = to_native(np.asarray(item[key].cpu()), native, mode="linear")
            classes = label_map(probabilities, np.asarray(scan.cpu()), spacing_of(affine), self.limits)
            convention = CONVENTIONS[image.meta["labels"] if self.labels == "auto" else self.labels]
            numbers = torch.from_numpy(from_classes(classes, convention))
            # Without the shape SaveImaged counts one axis too few, and cannot write a sagittal volume.
            meta = {"filename_or_obj": image.meta["filename_or_obj"], "spatial_shape": np.array(numbers.shape)}
            item[key] = MetaTensor(numbers[None], affine=scan.affine, meta=meta)
        return item
