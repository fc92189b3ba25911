"""The transforms of an exported bundle read every layout as `predict` does; an export that has no room is a sentence."""

import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from brats_cohort.cases import discover, read_image
from brats_cohort.files import DataError
from brats_cohort.nifti import read_volume, write_volume
from brats_cohort.testing import LPS, case_arrays, write_case
from helpers.evaluation.bundle import PrepareSessiond, ToLabelMapd, list_sessions
from helpers.models import export
from helpers.models.checkpoints import ModelCard
from helpers.models.export import export_bundle, export_onnx, export_program
from helpers.models.networks import build_network


@pytest.fixture
def prepare(tmp_path):
    card = ModelCard("unet", {}, {"spacing": (2.0, 2.0, 2.0), "normalise": "zscore"}, (32, 32, 32))
    (tmp_path / "card.json").write_text(json.dumps(asdict(card)))
    return PrepareSessiond("image", str(tmp_path / "card.json"))


def write_folders(folder, number):
    """A folder for each modality, with files of the same name in all."""
    for name, volume in zip(("T1", "T1ce", "T2", "FLAIR"), case_arrays(seed=number)[0], strict=True):
        write_volume(folder / f"P{number}" / name / "image.nii.gz", volume, LPS)


@pytest.mark.parametrize("layout", ["brats2023", "nnunet", "msd", "folders"])
def test_channels_and_names_are_those_of_the_cohort(prepare, tmp_path, layout):
    cohort = tmp_path / "cohort"
    for number in range(2):
        if layout == "folders":
            write_folders(cohort, number)
        else:
            write_case(cohort, f"Case-{number}", layout, seed=number)
    cases, items = discover(cohort), [prepare(item) for item in list_sessions(cohort)]
    assert [item["image"].meta["filename_or_obj"] for item in items] == [f"{case.identifier}.nii.gz" for case in cases]
    for case, item in zip(cases, items, strict=True):
        assert np.array_equal(item["scan"].numpy(), read_image(case)[0])


@pytest.mark.parametrize(("name", "layout", "oedema"), [("Case-0", "msd", 1), ("BraTS-PED-00001-000", "brats2023", 4)])
def test_label_maps_have_the_numbers_that_predict_writes(prepare, tmp_path, name, layout, oedema):
    case = write_case(tmp_path / "cohort", name, layout)
    item = prepare(*list_sessions(tmp_path / "cohort"))
    item["pred"] = torch.zeros(3, *item["image"].shape[1:])
    item["pred"][1] = 1
    card, bundle = str(tmp_path / "card.json"), Path(export.__file__).with_name("bundle")
    labels = json.loads((bundle / "inference.json").read_text())["labels"]
    for given, number in ((labels, oedema), ("brats2021", 2)):
        found = ToLabelMapd("pred", card, given)(item)["pred"].numpy()[0]
        assert np.array_equal(found, (read_image(case)[0] != 0).any(0) * number)


def test_a_label_map_is_saved_whichever_way_its_axes_run(prepare, tmp_path):
    sagittal = np.array([[0.0, 0.0, 1.0, 5.0], [-1.0, 0.0, 0.0, 6.0], [0.0, -1.0, 0.0, 7.0], [0.0, 0.0, 0.0, 1.0]])
    case = write_case(tmp_path / "cohort", "Case-0", affine=sagittal)
    item = prepare(*list_sessions(tmp_path / "cohort"))
    item["pred"] = torch.ones(3, *item["image"].shape[1:])
    config = ConfigParser()
    config.read_config(Path(export.__file__).with_name("bundle") / "inference.json")
    config.config |= {"card": str(tmp_path / "card.json"), "output_dir": str(tmp_path / "found")}
    config.get_parsed_content("postprocessing", instantiate=True)(item)
    found, affine = read_volume(tmp_path / "found" / "Case-0.nii.gz")
    assert np.allclose(affine, sagittal) and np.array_equal(found, (read_image(case)[0] != 0).any(0) * 4)


@pytest.mark.parametrize(("export", "name"), [(export_bundle, "bundle/models/model.pt"), (export_program, "model.pt2")])
def test_a_model_for_which_the_disk_has_no_room_is_a_sentence(tmp_path, full_disk, export, name):
    arguments = {"channels": (16, 128), "num_res_units": 0}
    card = ModelCard("unet", arguments, {"spacing": (2.0, 2.0, 2.0), "normalise": "zscore"}, (32, 32, 32))
    path = tmp_path / name
    with pytest.raises(DataError, match=rf"{path.name} cannot be written .*make room"):
        export(tmp_path / name.partition("/")[0], build_network("unet", **arguments), card)
    assert not path.exists()


@pytest.mark.parametrize(("export", "name"), [(export_onnx, "model.onnx"), (export_program, "model.pt2")])
def test_an_export_does_not_speak_of_what_it_does_not_need(tmp_path, recwarn, caplog, export, name):
    arguments = {"channels": (4, 8), "num_res_units": 0}
    card = ModelCard("unet", arguments, {"spacing": (2.0, 2.0, 2.0), "normalise": "zscore"}, (32, 32, 32))
    assert export(tmp_path / name, build_network("unet", **arguments), card).is_file()
    said = [*caplog.messages, *(str(warning.message) for warning in recwarn)]
    assert not [text for text in said if "torchvision" in text or "No complete tensor" in text]


def test_a_bundle_without_its_packages_is_a_sentence_and_leaves_no_folder(tmp_path, monkeypatch):
    def version(name):
        if name == "fire":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr("helpers.models.export.metadata.version", version)
    arguments = {"channels": (4, 8), "num_res_units": 0}
    card = ModelCard("unet", arguments, {"spacing": (2.0, 2.0, 2.0), "normalise": "zscore"}, (32, 32, 32))
    with pytest.raises(DataError, match=r"this needs fire, .*\[export\]"):
        export_bundle(tmp_path / "bundle", build_network("unet", **arguments), card)
    assert not (tmp_path / "bundle").exists()
