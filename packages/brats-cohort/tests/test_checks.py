"""Every fault is found in a file that has it, and a right case stays without one."""

import gzip
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brats_cohort.case import Source
from brats_cohort.cases import discover, read_image
from brats_cohort.checks import ERROR, WARNING, check_case, check_cohort
from brats_cohort.command import main
from brats_cohort.files import DataError
from brats_cohort.formats import FORMATS
from brats_cohort.nifti import write_volume
from brats_cohort.session import check_session, suspicions
from brats_cohort.testing import LPS, case_arrays, write_case
from glioma_phantom import PhantomSettings, make_phantom

REAL_CASES = Path(__file__).resolve().parents[4] / "shared" / "real_cases"
"""Real images for development, beside the checkout on some machines."""
IMAGE, CLASSES = case_arrays()
NAMES = {"T1": 0, "T1ce": 1, "T2": 2, "FLAIR": 3}
EXCHANGES = [("T1", "T2"), ("T2", "FLAIR"), ("T1", "T1ce"), ("T1ce", "T2")]


@pytest.fixture
def case(tmp_path):
    return write_case(tmp_path)


@pytest.fixture(scope="module")
def phantoms():
    return [make_phantom(index, PhantomSettings(spacing=2.0)) for index in range(2)]


def path_of(case, modality):
    return case.images[modality].path


def rewrite(case, modality, volume, affine=LPS):
    write_volume(path_of(case, modality), volume, affine)


def relabel(case, values, affine=LPS):
    write_volume(case.label, values, affine)


def remove(case):
    path_of(case, "t2").unlink()


def other_shape(case):
    rewrite(case, "t2", IMAGE[2, :, :-1])


def other_affine(case):
    rewrite(case, "t2", IMAGE[2], np.diag([-1.0, -1.0, 1.1, 1.0]))


def same_twice(case):
    rewrite(case, "t2", IMAGE[3])


def truncated(case):
    path_of(case, "t2").write_bytes(path_of(case, "t2").read_bytes()[:-3000])


def not_gzip(case):
    nib.Nifti1Image(IMAGE[2], LPS).to_filename(path_of(case, "t2").with_suffix(""))
    path_of(case, "t2").with_suffix("").replace(path_of(case, "t2"))


def pointer(case):
    path_of(case, "t2").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def not_numbers(case):
    volume = IMAGE[2].astype(np.float32)
    volume[3, 4, 5:7] = np.nan, np.inf
    rewrite(case, "t2", volume)


def blank(case):
    rewrite(case, "t2", IMAGE[2] * 0)


def nearly_blank(case):
    volume = IMAGE[2] * 0
    volume[12, 14, 10] = 5
    rewrite(case, "t2", volume)


def complex_numbers(case):
    rewrite(case, "t2", IMAGE[2].astype(np.complex64))


def no_voxel_size(case):
    content = bytearray(gzip.decompress(path_of(case, "t2").read_bytes()))
    content[280:296] = bytes(16)  # srow_x of the header
    path_of(case, "t2").write_bytes(gzip.compress(content))


def damaged(case):
    content = bytearray(path_of(case, "t2").read_bytes())
    content[-6] ^= 0xFF  # in the checksum that ends the file
    path_of(case, "t2").write_bytes(content)


def stacked(case):
    rewrite(case, "t2", np.stack([IMAGE[2]] * 2, axis=-1))


def unknown_label(case):
    relabel(case, CLASSES)


def fractional_label(case):
    relabel(case, CLASSES * np.float32(0.9))


def damaged_label(case):
    case.label.write_bytes(case.label.read_bytes()[:-100])


def label_shape(case):
    relabel(case, (CLASSES > 0).astype(np.uint8)[:-1])


def label_affine(case):
    relabel(case, (CLASSES > 0).astype(np.uint8), np.diag([1.0, -1.0, 1.0, 1.0]))


def label_outside(case):
    relabel(case, (IMAGE[0] == 0).astype(np.uint8))


FAULTS = [
    (remove, "", "T2 is missing", "add the file"),
    (other_shape, "t2", "has shape (24, 27, 20), Case_001_t1.nii.gz has (24, 28, 20)", "resample"),
    (other_affine, "t2", "has another affine than Case_001_t1.nii.gz", "register"),
    (same_twice, "flair", "T2 and FLAIR hold the same image", "find the right file"),
    (truncated, "t2", "is truncated or damaged", "download it again"),
    (not_gzip, "t2", "not gzip-compressed", "rename it to .nii"),
    (pointer, "t2", "is a Git LFS pointer", "git lfs pull"),
    (not_numbers, "t2", "(T2) has 2 voxels that are not numbers", "export the image again"),
    (blank, "t2", "(T2) is blank: every voxel is 0", "export the image again"),
    (nearly_blank, "t2", "(T2) is nearly blank", "export the image again"),
    (complex_numbers, "t2", "holds complex64, not plain numbers", "one grey value a voxel"),
    (no_voxel_size, "t2", "affine that gives its voxels no size", "sform"),
    (damaged, "t2", "is truncated or damaged", "download it again"),
    (stacked, "t2", "one 3-D volume was expected", "choose the right dataset format"),
    (unknown_label, "seg", "labels [3] do not exist in BraTS 2018-2021", "--labels"),
    (fractional_label, "seg", "is not a label map", "nearest neighbour"),
    (damaged_label, "seg", "is truncated or damaged", "download it again"),
    (label_shape, "seg", "has shape (23, 28, 20)", "resample"),
    (label_affine, "seg", "has another affine", "write the reference in the grid of the images"),
    (label_outside, "seg", "100 % of the tumour in Case_001_seg.nii.gz lies outside the brain", "belongs to these images"),
]
each_fault = pytest.mark.parametrize(
    ("spoil", "file", "problem", "remedy"), FAULTS, ids=[spoil.__name__ for spoil, *_ in FAULTS]
)


@each_fault
def test_every_error_names_case_file_problem_and_remedy(tmp_path, case, spoil, file, problem, remedy):
    spoil(case)
    (found,) = discover(tmp_path)
    check = check_case(found)
    (fault,) = [fault for fault in check.faults if fault.severity == ERROR]
    assert fault.case == "Case_001"
    assert fault.file == (f"Case_001_{file}.nii.gz" if file else "")
    assert problem in fault.problem
    assert remedy in fault.remedy
    assert str(tmp_path) not in str(fault)
    assert not check.usable


@pytest.mark.parametrize("format", list(FORMATS))
def test_a_right_case_has_no_fault_and_its_volumes(tmp_path, format):
    affine = np.diag([-1.0, -2.0, 1.5, 1.0])
    check = check_case(write_case(tmp_path, "Case-001", format, affine=affine))
    assert check.faults == ()
    assert check.usable
    facts = check.facts
    assert (facts.shape, facts.spacing, facts.orientation) == ((24, 28, 20), (1.0, 2.0, 1.5), "LPS")
    counts = np.bincount(CLASSES.ravel(), minlength=4) * 0.003
    assert facts.tc_ml == pytest.approx(counts[1] + counts[3])
    assert facts.wt_ml == pytest.approx(counts[1:].sum())
    assert facts.et_ml == pytest.approx(counts[3])
    assert facts.et_ml
    assert facts.brain_ml == pytest.approx((IMAGE != 0).any(0).sum() * 0.003)


def no_label(case):
    case.label.unlink()


def no_tumour(case):
    relabel(case, CLASSES * 0)


def some_outside(case):
    values = (CLASSES > 0).astype(np.uint8)
    values[np.unravel_index(np.flatnonzero(IMAGE[0] == 0)[: int(values.sum() * 0.1)], values.shape)] = 1
    relabel(case, values)


@pytest.mark.parametrize(
    ("spoil", "problem", "usable"),
    [
        (no_label, "there is no reference", False),
        (no_tumour, "Case_001_seg.nii.gz marks no tumour: every voxel is background", True),
        (some_outside, "9 % of the tumour in Case_001_seg.nii.gz lies outside the brain", True),
    ],
)
def test_what_may_be_meant_is_a_warning(tmp_path, case, spoil, problem, usable):
    spoil(case)
    check = check_case(discover(tmp_path)[0])
    (fault,) = check.faults
    assert (fault.severity, fault.problem, check.usable) == (WARNING, problem, usable)


def test_several_faults_of_one_case_are_all_reported(tmp_path, case):
    remove(case)
    rewrite(case, "t1", IMAGE[0] * 0)
    unknown_label(case)
    problems = [fault.problem for fault in check_case(discover(tmp_path)[0]).faults]
    assert len(problems) == 3


def test_one_bad_case_stops_no_other(tmp_path):
    cases = [write_case(tmp_path, f"Case_{number:03d}", seed=number) for number in range(4)]
    truncated(cases[1])
    cases[2] = replace(cases[2], images={**cases[2].images, "t1": Source(None)})  # nothing that a check foresees
    report = check_cohort(cases, workers=2, progress=False)
    assert [check.case.identifier for check in report.checks] == [case.identifier for case in cases]
    assert report.usable == [cases[0], cases[3]]
    assert [fault.case for fault in report.faults] == ["Case_001", "Case_002"]
    assert "it cannot be read" in report.faults[1].problem
    assert report.facts["Case_003"].et_ml


def test_the_table_has_a_row_for_each_case_also_for_unreadable_ones(tmp_path):
    for number in range(2):
        write_case(tmp_path, f"Case_{number:03d}", seed=number)
    for path in (tmp_path / "Case_001").iterdir():
        path.write_bytes(b"")
    table = check_cohort(discover(tmp_path), progress=False).table()
    assert list(table.index) == ["Case_000", "Case_001"]
    assert list(table.status) == ["usable", "left out"]
    assert list(table.faults) == [0, 5]
    assert table["first fault"].tolist() == ["", "error: Case_001_t1.nii.gz is empty"]
    assert table["shape"].tolist() == ["24 x 28 x 20", ""]


def test_a_report_without_cases_has_an_empty_table():
    report = check_cohort([], progress=False)
    assert (report.usable, report.faults, len(report.table())) == ([], [], 0)


def exchanged(image: np.ndarray, pair: tuple[str, str]) -> np.ndarray:
    order = list(range(4))
    first, second = (NAMES[name] for name in pair)
    order[first], order[second] = order[second], order[first]
    return image[order]


@pytest.mark.parametrize("pair", EXCHANGES, ids="-".join)
def test_exchanged_contrasts_of_phantoms_are_suspected_and_right_ones_are_not(phantoms, pair):
    for phantom in phantoms:
        assert suspicions(phantom.image) == []
        (sentence,) = suspicions(exchanged(phantom.image, pair))
        assert sentence.startswith(f"{pair[0]} and {pair[1]} seem exchanged")


def test_coarse_phantoms_are_suspected_only_if_contrast_agent_shows_on_t1():
    """At 4 mm little enhances in the first, and in the second nothing but vessels."""
    for index in (12, 27):
        image = make_phantom(index, PhantomSettings(spacing=4.0)).image
        assert suspicions(image) == []
        assert suspicions(exchanged(image, ("T1", "T1ce")))[0].startswith("T1 and T1ce seem exchanged")


def test_a_tumour_that_is_brighter_than_fluid_on_t2_raises_no_suspicion():
    assert suspicions(make_phantom(2, PhantomSettings(spacing=2.0, seed=11)).image) == []


def test_fluid_on_a_t2_named_t1_is_not_said_to_be_the_scalp_for_certain(phantoms):
    with pytest.raises(DataError, match="as the scalp is, or fluid on T2; rename T1 and T2 if they are exchanged; otherwise"):
        check_session(exchanged(phantoms[0].image, ("T1", "T2")), phantoms[0].affine)


def test_exchanged_files_are_a_warning_of_the_check(tmp_path, phantoms):
    phantom = phantoms[0]
    image = exchanged(phantom.image, ("T2", "FLAIR"))
    check = check_case(write_case(tmp_path, image=image, classes=phantom.classes, affine=phantom.affine))
    (fault,) = check.faults
    assert fault.severity == WARNING
    assert "T2 and FLAIR seem exchanged" in fault.problem and "--t1 --t1ce --t2 --flair" in fault.remedy
    assert check.usable


@pytest.mark.skipif(not REAL_CASES.is_dir(), reason="the real cases for development are not on this machine")
def test_real_cases_are_not_suspected_but_their_exchanges_are():
    """Two of the five complete cases, one of them without enhancing tumour, and the incomplete one."""
    cases = {case.identifier: case for case in discover(REAL_CASES / "brats2021")}
    for name in ("BraTS2021_01476", "BraTS2021_01480"):
        image, _ = read_image(cases[name])
        assert suspicions(image) == []
        for pair in EXCHANGES:
            assert suspicions(exchanged(image, pair))[0].startswith(f"{pair[0]} and {pair[1]}")
    check = check_case(cases["BraTS2021_01480"])
    assert check.faults == ()
    assert not check.facts.et_ml
    assert [fault.problem for fault in check_case(cases["BraTS2021_01646"]).faults] == ["T1 is missing", "T2 is missing"]


@pytest.mark.parametrize("value", [0, 7])
def test_images_with_nothing_to_compare_are_not_suspected(value):
    assert suspicions(np.full((4, 30, 30, 30), value)) == []


def test_small_images_are_not_suspected():
    assert suspicions(exchanged(IMAGE, ("T1", "T2"))) == []


def test_help_names_only_what_can_be_typed(capsys):
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    text = capsys.readouterr().out
    assert "--csv PATH" in text and "{None}" not in text


def test_the_verb_prints_table_and_faults_and_fails_on_errors_only(tmp_path, capsys):
    good, bad = (write_case(tmp_path / "cohort", f"Case_{number:03d}", seed=number) for number in range(2))
    no_tumour(good)
    arguments = ["check", str(tmp_path / "cohort"), "--workers", "1", "--csv", str(tmp_path / "table.csv")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "warning: Case_000: Case_000_seg.nii.gz marks no tumour: every voxel is background; make sure that is meant" in out
    assert out.endswith("2 of 2 cases are usable\n")
    truncated(bad)
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "error: Case_001: Case_001_t2.nii.gz is truncated or damaged" in out
    assert out.endswith("1 of 2 cases are usable, 1 left out\n")
    table = pd.read_csv(tmp_path / "table.csv", index_col="case")
    assert table.status.to_dict() == {"Case_000": "usable", "Case_001": "left out"}


def test_the_verb_on_a_single_case_and_on_nothing(tmp_path, capsys):
    write_case(tmp_path, "Case_001")
    assert main(["check", str(tmp_path / "Case_001")]) == 0
    assert "1 of 1 cases are usable" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "nowhere")]) == 1
    assert "does not exist; give the folder" in capsys.readouterr().err
    assert main(["check", str(tmp_path), "--format", "msd"]) == 1
    assert "holds no case in MSD Task01" in capsys.readouterr().err
