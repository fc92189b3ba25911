"""CT scans: found in two dataset formats, divided into folds, and checked one by one."""

import hashlib
import json

import numpy as np
import pytest
from monai.networks.nets import SegResNet
from safetensors.torch import load_file

from brats_cohort.files import DataError
from brats_cohort.nifti import read_volume, write_volume
from glioma_phantom.abdomen import CtPhantomSettings, write_ct_phantoms
from helpers.data.ct import ORGANS, check_scans, deal_folds, find_scans
from helpers.models.checkpoints import dequantise
from helpers.workspace import REPOSITORY
from tests.cases import REAL_CASES

BTCV = REAL_CASES / "btcv_layout"


def write_scans(folder, count=6, *, image="img{:04d}", label="label{:04d}"):
    """Scans of 8 x 8 x 8 voxels, one organ each."""
    for number in range(1, count + 1):
        values = np.full((8, 8, 8), -1000, np.int16)
        values[2:6, 2:6, 2:6] = 60
        values[3, 3, 3] = 400
        labels = (values > 0).astype(np.uint8)
        write_volume(folder / "imagesTr" / f"{image.format(number)}.nii.gz", values, np.eye(4))
        write_volume(folder / "labelsTr" / f"{label.format(number)}.nii.gz", labels, np.eye(4))
    return folder


def test_the_dataset_json_of_nnunet_names_the_organs_of_the_files_beside_it(tmp_path):
    write_scans(tmp_path, 2, image="case_{}_0000", label="case_{}")
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2}, "numTraining": 2}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    scans, organs = find_scans(tmp_path)
    assert len(scans) == 2 and all(scan.label for scan in scans) and organs == ("liver", "tumour")


@pytest.mark.parametrize("names", [("img{:04d}", "label{:04d}"), ("spleen_{}", "spleen_{}"), ("case_{}_0000", "case_{}")])
def test_files_are_paired_by_name_and_dealt_into_equal_folds(tmp_path, names):
    scans, organs = find_scans(write_scans(tmp_path, 7, image=names[0], label=names[1]))
    assert len(scans) == 7 and all(scan.label for scan in scans) and organs == ORGANS
    dealt = deal_folds(scans)
    assert sorted(np.bincount([scan.fold for scan in dealt]).tolist()) == [1, 1, 1, 2, 2]
    assert deal_folds(scans) == dealt == deal_folds(dealt, seed=99)


def test_phantoms_are_scans_without_a_fault(tmp_path):
    folder = write_ct_phantoms(tmp_path, 2, CtPhantomSettings(spacing=(6, 6, 6), seed=7))
    scans, organs = find_scans(folder)
    facts, faults = check_scans(scans, organs)
    assert organs == ORGANS
    assert not faults and list(facts) == ["img0001", "img0002"]
    fact = facts["img0001"]
    assert (fact.orientation, fact.spacing, fact.warning) == ("RAS", (6, 6, 6), "")
    assert 700 < fact.volumes_ml["liver"] < 2200
    assert fact.hounsfield[0] < -900


def test_dataset_json_names_organs_folds_and_the_validation_part(tmp_path):
    write_scans(tmp_path, 4, image="a{}", label="a{}")
    files = [{"image": f"./imagesTr/a{n}.nii.gz", "label": f"./labelsTr/a{n}.nii.gz"} for n in range(1, 5)]
    content = {"labels": {"0": "background", "1": "spleen"}, "training": files[:3], "validation": files[3:]}
    (tmp_path / "dataset_0.json").write_text(json.dumps(content))
    scans, organs = find_scans(tmp_path)
    assert organs == ("spleen",)
    assert [scan.identifier for scan in deal_folds(scans) if scan.fold == 0] == ["a4"]
    content["labels"] = {"background": 0, "liver": 1}
    content["training"][0]["label"] = "labelsTr/none.nii.gz"
    (tmp_path / "dataset_0.json").write_text(json.dumps(content))
    scans, organs = find_scans(tmp_path)
    facts, faults = check_scans(scans, organs)
    assert organs == ("liver",) and list(facts) == ["a2", "a3", "a4"]
    assert "none.nii.gz" in faults[0]


def test_volumes_of_a_scan_with_a_tilted_gantry(tmp_path):
    tilted = np.diag([2.0, 2.0, 5.0, 1.0])
    tilted[1:3, 2] = 5 * np.sin(np.radians(25)), 5 * np.cos(np.radians(25))
    for path in write_scans(tmp_path, 1).glob("*/*"):
        write_volume(path, read_volume(path)[0], tilted)
    facts, faults = check_scans(find_scans(tmp_path)[0], ("liver",))
    assert not faults
    assert facts["img0001"].volumes_ml["liver"] == pytest.approx(64 * 0.020 * np.cos(np.radians(25)))


@pytest.mark.parametrize("content", ["{", '{"training": [1]}', '{"training": [], "labels": {"1": "liver"}}'])
def test_a_damaged_dataset_json_is_named(tmp_path, content):
    write_scans(tmp_path, 1)
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=r"dataset\.json"):
        find_scans(tmp_path)


@pytest.mark.parametrize("name", ["", "missing"])
def test_a_folder_without_scans_is_named(tmp_path, name):
    with pytest.raises(DataError, match="give the folder"):
        find_scans(tmp_path / name)


def test_one_scan_twice_is_refused(tmp_path):
    write_scans(tmp_path, 1)
    (tmp_path / "imagesTr" / "img0001.nii").write_bytes(b"")
    with pytest.raises(DataError, match="twice"):
        find_scans(tmp_path)


def test_bad_scans_are_one_sentence_each_and_the_others_are_kept(tmp_path):
    write_scans(tmp_path, 8)
    images, labels = tmp_path / "imagesTr", tmp_path / "labelsTr"
    (images / "img0001.nii.gz").write_bytes((images / "img0001.nii.gz").read_bytes()[:90])
    values, affine = read_volume(images / "img0002.nii.gz")
    write_volume(images / "img0002.nii.gz", values + np.int16(1024), affine)
    write_volume(labels / "label0003.nii.gz", np.full((8, 8, 8), 40, np.uint8), affine)
    write_volume(labels / "label0004.nii.gz", np.zeros((8, 8, 7), np.uint8), affine)
    (labels / "label0005.nii.gz").unlink()
    write_volume(images / "img0007.nii.gz", np.where(values > 0, np.nan, values).astype(np.float32), affine)
    write_volume(labels / "label0008.nii.gz", (values > 0).astype(np.uint8), np.diag([2, 1, 1, 1.0]))
    facts, faults = check_scans(find_scans(tmp_path)[0], ("liver",))
    said = {"img0001": "0001.nii.gz", "img0002": "Hounsfield", "img0003": "labels 40", "img0004": "grid"}
    said |= {"img0007": "not finite", "img0008": "grid"}
    assert sorted(facts) == ["img0005", "img0006"]
    assert facts["img0005"].warning == "no reference" and facts["img0006"].warning == ""
    assert len(faults) == len(said)
    for (name, word), sentence in zip(said.items(), faults, strict=True):
        assert sentence.startswith(f"scan {name}") and word in sentence, sentence


def test_released_weights_are_small_and_those_of_their_card():
    weights = REPOSITORY / "helpers" / "models" / "released" / "abdomen.safetensors"
    card = json.loads(weights.with_suffix(".json").read_text())
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == card["sha256"]
    assert tuple(card["organs"]) == ORGANS
    SegResNet(**card["arguments"]).load_state_dict(dequantise(load_file(weights)))


@pytest.mark.skipif(not BTCV.is_dir(), reason="the real CT for development is not on this machine")
def test_a_real_scan_is_read_and_checked():
    scans, organs = find_scans(BTCV)
    facts, faults = check_scans(scans, organs)
    assert not faults
    assert facts["img0001"].warning == "no oesophagus"
    assert facts["img0001"].volumes_ml["liver"] > 700
