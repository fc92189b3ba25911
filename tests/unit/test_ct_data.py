"""CT cohorts: the phantom, finding and checking scans, folds, and preparing them without harm to labels."""

import json

import nibabel as nib
import numpy as np
import pytest

from glioma_phantom.abdomen import CtPhantomSettings, make_ct_phantom
from helpers.data.cases import read_volume, write_volume
from helpers.extras.ct.checks import check_ct_cohort, check_table
from helpers.extras.ct.cohort import (
    CtCase,
    CtCohort,
    deal_folds,
    find_ct_cohort,
    write_dataset_json,
)
from helpers.extras.ct.organs import NUMBERS, ORGANS
from helpers.extras.ct.phantom import write_ct_phantoms
from helpers.extras.ct.preparation import CtPreparation, prepare_arrays, prepare_ct
from helpers.extras.ct.prepared import PreparedCtFile, prepare_ct_cohort
from helpers.workspace import DataError
from tests.cases import REAL_CASES

COARSE = CtPhantomSettings(spacing=(5, 5, 6), seed=7)
BTCV = REAL_CASES / "btcv_layout"


@pytest.fixture(scope="module")
def phantom():
    return make_ct_phantom(1, COARSE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("btcv")
    write_ct_phantoms(folder, 2, COARSE, workers=0)
    return folder


def small_cohort(folder, count=6, *, image="img{:04d}", label="label{:04d}"):
    """Scans of 8 x 8 x 8 voxels, one organ each."""
    for number in range(1, count + 1):
        values = np.full((8, 8, 8), -1000, np.int16)
        values[2:6, 2:6, 2:6] = 60
        values[3, 3, 3] = 400
        labels = (values > 0).astype(np.uint8)
        write_volume(folder / "imagesTr" / f"{image.format(number)}.nii.gz", values, np.eye(4))
        write_volume(folder / "labelsTr" / f"{label.format(number)}.nii.gz", labels, np.eye(4))
    return folder


def test_phantom_has_all_organs_with_plausible_attenuation_and_size(phantom):
    voxel = np.prod(COARSE.spacing) / 1000
    ml = {organ: np.count_nonzero(phantom.labels == number) * voxel for organ, number in NUMBERS.items()}
    assert min(ml.values()) > 0
    assert 700 < ml["liver"] < 2200
    assert 60 < ml["spleen"] < 400
    assert ml["left adrenal gland"] < ml["pancreas"] < ml["liver"]
    median = {organ: np.median(phantom.image[phantom.labels == number]) for organ, number in NUMBERS.items()}
    assert 70 < median["liver"] < 150
    assert median["gallbladder"] < 60 < median["aorta"]
    assert phantom.image.min() < -900
    assert phantom.image.max() > 250


def test_phantom_lies_as_a_patient_does(phantom):
    def centre(organ):
        voxels = np.argwhere(phantom.labels == NUMBERS[organ]).mean(0)
        return nib.affines.apply_affine(phantom.affine, voxels)

    assert nib.aff2axcodes(phantom.affine) == ("R", "A", "S")
    assert centre("liver")[0] > 0 > centre("spleen")[0]  # RAS: x grows to the patient's right side
    assert centre("right kidney")[0] > centre("inferior vena cava")[0] > centre("aorta")[0] > centre("left kidney")[0]
    assert centre("stomach")[1] > centre("left kidney")[1]
    assert centre("right adrenal gland")[2] > centre("right kidney")[2]


def test_phantoms_repeat_themselves_and_differ_from_each_other(phantom):
    again, other = make_ct_phantom(1, COARSE), make_ct_phantom(2, COARSE)
    assert np.array_equal(phantom.image, again.image)
    assert np.mean(phantom.labels != other.labels) > 0.02


def test_phantoms_are_a_btcv_cohort_without_a_fault(folder):
    cohort = find_ct_cohort(folder)
    checks = check_ct_cohort(cohort)
    assert [case.identifier for case in cohort.cases] == ["img0001", "img0002"]
    assert cohort.organs == ORGANS
    assert all(check.usable and not check.faults for check in checks)
    assert (check_table(checks)["organs"] == 13).all()
    times = [path.stat().st_mtime_ns for path in sorted(folder.rglob("*.nii.gz"))]
    write_ct_phantoms(folder, 2, COARSE, workers=0)
    assert [path.stat().st_mtime_ns for path in sorted(folder.rglob("*.nii.gz"))] == times
    with pytest.raises(DataError, match="other"):
        write_ct_phantoms(folder, 2, CtPhantomSettings(spacing=(6, 6, 6)), workers=0)


@pytest.mark.parametrize("names", [("img{:04d}", "label{:04d}"), ("spleen_{}", "spleen_{}"), ("case_{}_0000", "case_{}")])
def test_files_are_paired_by_name_and_dealt_into_folds(tmp_path, names):
    cohort = find_ct_cohort(small_cohort(tmp_path, 7, image=names[0], label=names[1]))
    assert len(cohort.cases) == 7
    assert all(case.label for case in cohort.cases)
    sizes = [len(cohort.part("val", fold=fold)) for fold in range(5)]
    assert sorted(sizes) == [1, 1, 1, 2, 2]
    for fold in range(5):
        assert {*cohort.part("train", fold=fold), *cohort.part("val", fold=fold)} == set(cohort.cases)


def test_dataset_json_is_written_and_read_back(tmp_path):
    cohort = find_ct_cohort(small_cohort(tmp_path))
    write_dataset_json(tmp_path / "dataset.json", cohort)
    again = find_ct_cohort(tmp_path, seed=99)
    assert [(case.identifier, case.fold) for case in again.cases] == [(case.identifier, case.fold) for case in cohort.cases]


def test_dataset_json_names_organs_folds_and_the_published_validation_part(tmp_path):
    small_cohort(tmp_path, 4, image="a{}", label="a{}")
    files = [{"image": f"./imagesTr/a{n}.nii.gz", "label": f"./labelsTr/a{n}.nii.gz"} for n in range(1, 5)]
    content = {"labels": {"0": "background", "1": "spleen"}, "training": files[:3], "validation": files[3:]}
    (tmp_path / "dataset_0.json").write_text(json.dumps(content))
    cohort = find_ct_cohort(tmp_path)
    assert cohort.organs == ("spleen",)
    assert [case.identifier for case in cohort.part("val", fold=0)] == ["a4"]
    content["training"][0]["label"] = "labelsTr/none.nii.gz"
    (tmp_path / "dataset_0.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"none\.nii\.gz"):
        find_ct_cohort(tmp_path)


def test_a_cohort_of_ones_own_needs_one_function(tmp_path):
    small_cohort(tmp_path)
    cases = [CtCase(p.stem, p, tmp_path / "labelsTr" / f"label{p.name[3:]}") for p in (tmp_path / "imagesTr").glob("*")]
    cohort = deal_folds(CtCohort(tmp_path, tuple(cases), organs=("liver",)))
    assert {case.fold for case in cohort.cases} == {0, 1, 2, 3, 4}
    assert all(check.usable for check in check_ct_cohort(cohort))


@pytest.mark.parametrize("folder_name", ["", "missing"])
def test_a_folder_without_scans_is_named(tmp_path, folder_name):
    with pytest.raises(DataError, match=r"give the folder"):
        find_ct_cohort(tmp_path / folder_name)


def test_faults_name_file_and_remedy_and_spare_the_others(tmp_path):
    small_cohort(tmp_path, 6)
    images, labels = tmp_path / "imagesTr", tmp_path / "labelsTr"
    (images / "img0001.nii.gz").write_bytes((images / "img0001.nii.gz").read_bytes()[:90])
    values, affine = read_volume(images / "img0002.nii.gz")
    write_volume(images / "img0002.nii.gz", values + np.int16(1024), affine)
    write_volume(labels / "label0003.nii.gz", np.full((8, 8, 8), 40, np.uint8), affine)
    write_volume(labels / "label0004.nii.gz", np.zeros((8, 8, 7), np.uint8), affine)
    (labels / "label0005.nii.gz").unlink()
    checks = {check.case.identifier: check for check in check_ct_cohort(find_ct_cohort(tmp_path))}
    wanted = {
        "img0001": "cannot be read",
        "img0002": "Hounsfield",
        "img0003": "labels",
        "img0004": "shape",
        "img0005": "no reference",
    }
    for name, word in wanted.items():
        assert any(word in fault.problem for fault in checks[name].faults), (name, checks[name].faults)
    assert [name for name, check in checks.items() if check.usable] == ["img0005", "img0006"]


def test_window_becomes_0_to_1_and_the_crop_leaves_the_air_out(phantom):
    prepared = prepare_arrays(phantom.image, phantom.affine, CtPreparation(spacing=COARSE.spacing), labels=phantom.labels)
    assert prepared.image.min() == 0
    assert prepared.image.max() == 1
    assert np.prod(prepared.shape) < phantom.image.size
    liver = prepared.labels == NUMBERS["liver"]
    middle = np.median(phantom.image[phantom.labels == NUMBERS["liver"]])
    assert np.median(prepared.image[0][liver]) == pytest.approx((middle + 175) / 425, abs=0.01)


@pytest.mark.parametrize("spacing", [(3.0, 4.0, 5.0), (7.0, 7.0, 9.0)])
def test_labels_take_their_nearest_neighbour_and_images_are_interpolated(spacing):
    values = np.linspace(-100, 200, 24, dtype=np.float32)[:, None, None] * np.ones((1, 20, 20), np.float32)
    labels = np.where(np.arange(24) < 12, 6, 11).astype(np.uint8)[:, None, None] * np.ones((1, 20, 20), np.uint8)
    prepared = prepare_arrays(values, np.diag([5, 5, 5, 1.0]), CtPreparation(spacing=spacing), labels=labels)
    assert set(np.unique(prepared.labels)) - {0} == {6, 11}  # no stomach (7) between liver and pancreas
    assert len(np.unique(prepared.image)) > 10
    assert np.allclose(np.abs(np.diag(prepared.affine)[:3]), spacing)


def test_any_orientation_gives_the_same_and_goes_back(phantom):
    settings = CtPreparation(spacing=COARSE.spacing)
    first = prepare_arrays(phantom.image, phantom.affine, settings, labels=phantom.labels)
    turn = nib.orientations.ornt_transform(nib.io_orientation(phantom.affine), nib.orientations.axcodes2ornt("PLI"))
    files = [nib.Nifti1Image(volume, phantom.affine).as_reoriented(turn) for volume in (phantom.image, phantom.labels)]
    image, labels = (np.asarray(file.dataobj) for file in files)
    second = prepare_arrays(image, files[0].affine, settings, labels=labels)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.labels, second.labels)
    assert np.array_equal(second.to_native(second.labels), labels)


def test_prepared_files_are_kept_and_a_bad_scan_spares_the_others(folder, tmp_path):
    cohort, settings = find_ct_cohort(folder), CtPreparation(spacing=(6, 6, 8))
    lost = CtCase("lost", tmp_path / "none.nii.gz", None)
    paths, faults = prepare_ct_cohort([*cohort.cases, lost], tmp_path / "prepared", settings)
    assert list(paths) == ["img0001", "img0002"]
    assert "none.nii.gz" in faults["lost"]
    times = [path.stat().st_mtime_ns for path in paths.values()]
    again, _ = prepare_ct_cohort(cohort.cases, tmp_path / "prepared", settings)
    assert [path.stat().st_mtime_ns for path in again.values()] == times
    loaded, made = PreparedCtFile(paths["img0001"]).load(), prepare_ct(cohort.cases[0], settings)
    assert np.array_equal(loaded.image, made.image)
    assert np.array_equal(loaded.labels, made.labels)
    assert np.allclose(loaded.affine, made.affine)


@pytest.mark.skipif(not BTCV.is_dir(), reason="the real CT for development is not on this machine")
def test_a_real_scan_is_read_checked_and_prepared():
    cohort = find_ct_cohort(BTCV)
    (check,) = check_ct_cohort(cohort)
    assert check.usable
    assert "oesophagus" in check.faults[0].problem
    prepared = prepare_ct(cohort.cases[0], CtPreparation(spacing=(4, 4, 4)))
    assert set(np.unique(prepared.labels)) == set(range(14)) - {NUMBERS["oesophagus"]}
