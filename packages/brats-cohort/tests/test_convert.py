"""A cohort goes into the format of every other tool and comes back without loss."""

import json

import numpy as np
import pytest

from brats_cohort.cases import discover, read_classes, read_image, read_numbers
from brats_cohort.command import main
from brats_cohort.convert import ENDINGS, convert_cohort
from brats_cohort.files import DataError
from brats_cohort.nifti import write_volume
from brats_cohort.testing import LPS, case_arrays, write_case

OBLIQUE = LPS @ np.array([[0.9, 0.1, 0, 5], [-0.1, 0.9, 0, -7], [0, 0, 1.5, 3], [0, 0, 0, 1]])
NAMES = ("BraTS-GLI-02060-100", "BraTS-GLI-02060-101", "BraTS-GLI-02061-100")
CAVITY = 4


@pytest.fixture
def cohort(tmp_path):
    """Two patients after treatment, one with two sessions; the first has a resection cavity, the last no reference."""
    for number, name in enumerate(NAMES):
        case = write_case(tmp_path / "cohort", name, "brats2023", affine=OBLIQUE, seed=number)
    case.label.unlink()
    first = discover(tmp_path / "cohort")[0]
    values, affine = read_numbers(first)
    values[2, 2, 2] = CAVITY
    write_volume(first.label, values, affine)
    return tmp_path / "cohort"


def read(folder, **options):
    cases = discover(folder, **options)
    references = [None if case.label is None else read_numbers(case)[0] for case in cases]
    return [(case.identifier, case.patient, *read_image(case)) for case in cases], references


@pytest.mark.parametrize("format", list(ENDINGS))
def test_there_and_back_nothing_is_lost(cohort, tmp_path, format):
    if format == "msd":  # which has no number for a cavity
        first = discover(cohort)[0]
        values, affine = read_numbers(first)
        write_volume(first.label, np.where(values == CAVITY, 0, values).astype(np.uint8), affine)
    wanted, numbers = read(cohort)
    there, back = tmp_path / "Dataset501_Gliomas", tmp_path / "back"
    assert main(["convert", str(cohort), "--to", format, "--out", str(there)]) == 0
    assert main(["convert", str(there), "--to", "brats2023", "--out", str(back)]) == 0
    for folder in (there, back):
        found, references = read(folder)
        for one, other in zip(found, wanted, strict=True):
            assert one[:2] == other[:2]
            assert one[2].dtype == other[2].dtype and np.array_equal(one[2], other[2])
            assert np.allclose(one[3], other[3], atol=1e-6)
        if folder == back or format != "msd":  # whose references have numbers of its own
            assert [None if each is None else each.tolist() for each in references] == [
                None if each is None else each.tolist() for each in numbers
            ]


@pytest.mark.parametrize("format", list(ENDINGS))
@pytest.mark.parametrize("source", ["brats2021", "msd"])
def test_classes_stay_in_the_numbers_of_every_format(tmp_path, source, format):
    image, classes = case_arrays()
    write_case(tmp_path / "cohort", "Case-001", source)
    assert main(["convert", str(tmp_path / "cohort"), "--to", format, "--out", str(tmp_path / "Dataset501_Gliomas")]) == 0
    (case,) = discover(tmp_path / "Dataset501_Gliomas")
    assert np.array_equal(read_image(case)[0], image) and np.array_equal(read_classes(case)[0], classes)


def test_a_case_whose_labels_a_format_has_no_number_for_is_left_out(cohort, tmp_path, capsys):
    assert main(["convert", str(cohort), "--to", "msd", "--out", str(tmp_path / "msd")]) == 1
    said = capsys.readouterr().out
    assert "left out: BraTS-GLI-02060-100" in said and "4 is resection cavity, for which MSD Task01 has no number" in said
    assert [case.identifier for case in discover(tmp_path / "msd")] == list(NAMES[1:])


@pytest.mark.parametrize("format", ["msd", "nnunet"])
def test_descriptions_count_what_is_there(cohort, tmp_path, format):
    next(discover(cohort)[0].label.parent.glob("*-seg.nii.gz")).unlink()
    folder = tmp_path / "Dataset501_Gliomas"
    assert main(["convert", str(cohort), "--to", format, "--out", str(folder)]) == 0
    facts = json.loads((folder / "dataset.json").read_text())
    assert facts["numTraining"] == len(list(folder.glob("labelsTr/*.nii.gz"))) == 1
    assert len({path.name[:19] for path in folder.glob("imagesTs/*.nii.gz")}) == 2


def test_folders_that_would_not_do_are_refused(cohort, tmp_path, capsys):
    assert main(["convert", str(cohort), "--to", "nnunet", "--out", str(tmp_path / "mine")]) == 1
    assert "Dataset501_Gliomas" in capsys.readouterr().err
    assert main(["convert", str(cohort), "--to", "msd", "--out", str(cohort.parent)]) == 1
    assert "is not empty" in capsys.readouterr().err
    for out in (cohort, cohort / "copy", cohort / NAMES[0] / ".." / "copy"):
        assert main(["convert", str(cohort), "--to", "msd", "--out", str(out)]) == 1
        assert "written into the cohort that is read; give --out another folder" in capsys.readouterr().err
    assert len(discover(cohort)) == len(NAMES)


def test_a_format_that_is_not_written_is_refused(tmp_path):
    with pytest.raises(DataError, match="no cohort can be written as 'nifti'; choose one of nnunet, msd, bids"):
        convert_cohort([], "nifti", tmp_path / "out")


def test_no_cases_are_refused(tmp_path):
    with pytest.raises(DataError, match="there are no cases to convert; give at least one"):
        convert_cohort([], "msd", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_of_a_foreign_nnunet_dataset_are_never_guessed(tmp_path):
    write_case(tmp_path, "Case-001", "nnunet")
    facts = json.loads((tmp_path / "dataset.json").read_text())
    for labels, key in (
        ({"background": 0, "whole tumour": [1, 2, 3], "core": [1, 3], "enhancing": 3}, "brats2023"),
        ({"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": 3, "cavity": 4}, "brats2024"),
        ({"background": 0, "ED": 1, "NCR": 2, "ET": 3}, None),
        ({"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": 3, "ignore": 4}, None),
    ):
        (tmp_path / "dataset.json").write_text(json.dumps({**facts, "labels": labels}))
        if key:
            assert discover(tmp_path)[0].labels == key
        else:
            with pytest.raises(DataError, match="does not say whose label numbers it uses; name them with --labels"):
                discover(tmp_path)
            assert discover(tmp_path, labels="msd")[0].labels == "msd"


def test_an_unlabelled_nnunet_dataset_needs_no_label_numbers(tmp_path):
    write_case(tmp_path / "from", "Case-001", "nnunet").label.unlink()
    facts = json.loads((tmp_path / "from" / "dataset.json").read_text())
    plain = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
    (tmp_path / "from" / "dataset.json").write_text(json.dumps({**facts, "labels": plain}))
    assert main(["convert", str(tmp_path / "from"), "--to", "brats2021", "--out", str(tmp_path / "to")]) == 0
    assert np.array_equal(read_image(discover(tmp_path / "to")[0])[0], case_arrays()[0])


def test_whole_numbers_of_64_bits_are_converted(tmp_path):
    image, _ = case_arrays()
    path = write_case(tmp_path / "from").images["t1"].path
    write_volume(path, image[0].astype(np.int64), LPS)
    assert main(["convert", str(tmp_path / "from"), "--to", "msd", "--out", str(tmp_path / "to")]) == 0
    assert np.array_equal(read_image(discover(tmp_path / "to")[0])[0], image)


def test_names_in_other_letters_stay_apart_in_bids(tmp_path):
    for number, name in enumerate(("患者", "Müller_1", "Möller_1")):
        write_case(tmp_path / "from", name, seed=number)
    assert main(["convert", str(tmp_path / "from"), "--to", "bids", "--out", str(tmp_path / "to")]) == 0
    assert sorted(path.name for path in (tmp_path / "to").glob("sub-*")) == ["sub-60a38005", "sub-Mf6ller1", "sub-Mfcller1"]
    assert {case.identifier for case in discover(tmp_path / "to")} == {"患者", "Müller_1", "Möller_1"}


def test_a_segmentation_of_tissue_in_a_bids_dataset_is_no_reference(tmp_path):
    case = write_case(tmp_path, "Case-001", "bids")
    table = next(case.label.parent.glob("*_dseg.tsv"))
    table.write_text("index\tname\n1\tgrey matter\n2\twhite matter\n3\tfluid\n")
    assert discover(tmp_path)[0].label is None
