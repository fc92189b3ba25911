"""Cases are found in every format as it is published, with its oddities, and read with the right channels and labels."""

import json
import shutil

import numpy as np
import pytest

from brats_cohort.cases import discover, read_classes, read_image
from brats_cohort.files import DataError
from brats_cohort.formats import ALIASES, FORMATS, format_key
from brats_cohort.nifti import write_volume
from brats_cohort.regions import MODALITIES
from brats_cohort.testing import LPS, case_arrays, write_case

each_format = pytest.mark.parametrize("format", list(FORMATS))


@each_format
@pytest.mark.parametrize("wanted", ["auto", None])
def test_every_format_is_found_and_read_the_same(tmp_path, format, wanted):
    image, classes = case_arrays(seed=3)
    name = "Case-003"
    write_case(tmp_path, name, format, image=image, classes=classes)
    (case,) = discover(tmp_path, wanted or format)
    assert (case.identifier, case.format, case.missing) == (name, format, ())
    found, affine = read_image(case)
    assert np.array_equal(found, image)
    assert np.allclose(affine, LPS)
    reference, affine = read_classes(case)
    assert np.array_equal(reference, classes)
    assert reference.dtype == np.uint8
    assert np.allclose(affine, LPS)


@pytest.mark.parametrize("alias", [*ALIASES, "BraTS2020", "MSD"])
def test_other_names_of_a_format(alias):
    assert format_key(alias) in FORMATS


def test_brats_2018_keeps_its_cases_below_hgg_and_lgg(tmp_path):
    write_case(tmp_path / "HGG", "Brats18_2013_2_1")
    write_case(tmp_path / "LGG", "Brats18_2013_0_1")
    cases = discover(tmp_path, "brats2018")
    assert [case.identifier for case in cases] == ["Brats18_2013_0_1", "Brats18_2013_2_1"]
    assert [case.identifier for case in discover(tmp_path / "HGG")] == ["Brats18_2013_2_1"]


def test_brats_2020_is_not_compressed_and_one_label_map_has_its_old_name(tmp_path):
    _, classes = case_arrays()
    case = write_case(tmp_path, "BraTS20_Training_355")
    for modality, volume in zip(MODALITIES, read_image(case)[0], strict=True):
        write_volume(case.images[modality].path.with_suffix(""), volume, LPS)
    write_volume(case.label.with_name("W39_1998.09.19_Segm.nii"), np.choose(classes, [0, 1, 2, 4]).astype(np.uint8), LPS)
    for path in case.files:
        path.unlink()
    (found,) = discover(tmp_path, "brats2020")
    assert found.label.name == "W39_1998.09.19_Segm.nii"
    assert all(path.suffix == ".nii" for path in found.files)
    assert np.array_equal(read_classes(found)[0], classes)


def test_sessions_of_one_patient_share_it_from_brats_2023_on(tmp_path):
    for name in ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00006-000"):
        write_case(tmp_path, name, "brats2023")
    patients = {case.identifier: case.patient for case in discover(tmp_path)}
    assert patients == {
        "BraTS-GLI-00005-000": "BraTS-GLI-00005",
        "BraTS-GLI-00005-001": "BraTS-GLI-00005",
        "BraTS-GLI-00006-000": "BraTS-GLI-00006",
    }


@pytest.mark.parametrize("given", ["auto", None])
@pytest.mark.parametrize("format", ["brats2021", "brats2023"])
def test_a_case_of_which_one_file_is_spelt_otherwise_stays_in_the_cohort(tmp_path, format, given):
    cases = [write_case(tmp_path, f"Case-{number:03}", format, seed=number) for number in range(3)]
    path = cases[1].images["t1ce"].path
    path.rename(path.with_name("Case-001_T1Gd.nii.gz" if format == "brats2021" else "Case-001-T1Gd.nii.gz"))
    found = discover(tmp_path, given or format)
    assert [(case.identifier, case.missing, case.labels) for case in found] == [(c.identifier, (), format) for c in cases]
    assert all(np.array_equal(read_image(case)[0], case_arrays(seed=number)[0]) for number, case in enumerate(found))


def test_cases_of_two_years_in_one_folder_are_all_found_with_their_own_numbers(tmp_path):
    write_case(tmp_path, "BraTS2021_00001")
    write_case(tmp_path, "BraTS-GLI-00002-000", "brats2023")
    assert {case.identifier: case.labels for case in discover(tmp_path)} == {
        "BraTS2021_00001": "brats2021",
        "BraTS-GLI-00002-000": "brats2023",
    }
    assert [case.identifier for case in discover(tmp_path, "brats2023")] == ["BraTS-GLI-00002-000"]


@pytest.mark.parametrize("name", ["../../escaped/x", "/escaped", "a\\b", ".hidden", ""])
def test_a_table_of_sessions_names_no_place_for_files(tmp_path, name):
    write_case(tmp_path, "Case-001", "bids")
    (table,) = tmp_path.glob("sub-*/*_sessions.tsv")
    table.write_text(f"session_id\tcase\nses-1\t{name}\n")
    assert [case.identifier for case in discover(tmp_path)] == ["sub-Case001_ses-1"]


def test_a_name_that_two_sessions_have_is_not_taken(tmp_path):
    for name in ("Case-001", "Case-002"):
        write_case(tmp_path, name, "bids")
        next(tmp_path.glob(f"sub-{name.replace('-', '')}/*_sessions.tsv")).write_text("session_id\tcase\nses-1\tsame\n")
    assert [case.identifier for case in discover(tmp_path)] == ["sub-Case001_ses-1", "sub-Case002_ses-1"]


@pytest.mark.parametrize("order", [("FLAIR", "T1w", "t1gd", "T2w"), ("T2", "t1ce", "T1", "flair")])
def test_msd_channels_follow_its_description(tmp_path, order):
    image, _ = case_arrays()
    case = write_case(tmp_path, "BRATS_001", "msd")
    names = {"flair": "flair", "t1w": "t1", "t1": "t1", "t1gd": "t1ce", "t1ce": "t1ce", "t2w": "t2", "t2": "t2"}
    stack = np.stack([image[MODALITIES.index(names[name.lower()])] for name in order], axis=-1)
    write_volume(case.images["t1"].path, stack, LPS)
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {str(i): name for i, name in enumerate(order)}}))
    (case,) = discover(tmp_path)
    assert np.array_equal(read_image(case)[0], image)
    assert len(case.files) == 2


def test_msd_labels_are_oedema_core_enhancing(tmp_path):
    """MONAI's own BraTS notebook takes 2 for the enhancing tumour; dataset.json says 3."""
    case = write_case(tmp_path, "BRATS_001", "msd")
    values = np.zeros((24, 28, 20), np.uint8)
    values[:4, 0, 0] = [0, 1, 2, 3]
    write_volume(case.label, values, LPS)
    assert read_classes(case)[0][:4, 0, 0].tolist() == [0, 2, 1, 3]


def test_msd_test_images_have_no_labels_and_resource_forks_are_no_cases(tmp_path):
    case = write_case(tmp_path, "BRATS_001", "msd")
    source = case.images["t1"].path
    (tmp_path / "imagesTs").mkdir()
    shutil.copy(source, tmp_path / "imagesTs" / "BRATS_485.nii.gz")
    for path in (source, case.label):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    training, test = discover(tmp_path, "msd")
    assert (training.identifier, test.identifier) == ("BRATS_001", "BRATS_485")
    assert (training.label, test.label) == (case.label, None)
    with pytest.raises(DataError, match="case BRATS_485 has no reference label map"):
        read_classes(test)


@pytest.mark.parametrize(
    "text",
    ["no json", "{}", '{"modality": {"0": "FLAIR", "1": "CT"}}', '{"modality": {"0": "FLAIR"}}', '{"modality": 4}', "[]"],
)
def test_a_description_of_other_channels_is_refused(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json .*(expected|describe)"):
        discover(tmp_path)


def test_resource_forks_are_no_cases_in_brats_either(tmp_path):
    case = write_case(tmp_path)
    for path in case.files:
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    assert [found.identifier for found in discover(tmp_path)] == [case.identifier]


@pytest.mark.parametrize("format", ["brats2021", "brats2023"])
def test_incomplete_cases_are_found_and_say_what_is_missing(tmp_path, format):
    case = write_case(tmp_path, format=format)
    case.images["t1"].path.unlink()
    case.images["t2"].path.unlink()
    case.label.unlink()
    (found,) = discover(tmp_path)
    assert found.missing == ("t1", "t2")
    assert found.label is None
    with pytest.raises(DataError, match="case Case_001: T1 is missing; leave the case out or add the file"):
        read_image(found)


def test_a_file_that_may_be_the_missing_one_is_named(tmp_path):
    path = write_case(tmp_path).images["t1ce"].path
    path.rename(path.with_name("Case_001_T1w_post.nii.gz"))
    (path.parent / "Case_0012_odd.nii.gz").touch()  # of another case
    with pytest.raises(DataError, match=r"T1ce is missing; .*, or rename it if it is Case_001_T1w_post\.nii\.gz$"):
        read_image(*discover(tmp_path))


def test_a_case_with_only_a_label_map_is_no_case(tmp_path):
    case = write_case(tmp_path)
    for source in case.images.values():
        source.path.unlink()
    with pytest.raises(DataError, match="holds no case"):
        discover(tmp_path)


def test_a_single_case_is_found_from_its_own_folder(tmp_path):
    write_case(tmp_path, "Case_001")
    write_case(tmp_path, "Case_002")
    assert [case.identifier for case in discover(tmp_path / "Case_002")] == ["Case_002"]


def test_the_series_beside_a_prepared_session_are_no_case(tmp_path):
    case = write_case(tmp_path, "CASE2")
    (tmp_path / "CASE2" / "session.json").write_text("{}")
    for modality, volume in zip(MODALITIES, read_image(case)[0], strict=True):
        write_volume(tmp_path / "CASE2" / "series" / f"{modality}_native.nii.gz", volume, LPS)
    for folder in (tmp_path, tmp_path / "CASE2"):
        (found,) = discover(folder)
        assert found.images == case.images and not found.faults


def test_of_two_files_for_one_modality_neither_is_taken(tmp_path):
    case = write_case(tmp_path)
    write_volume(case.images["t1"].path.with_suffix(""), read_image(case)[0][3], LPS)
    (found,) = discover(tmp_path)
    with pytest.raises(DataError, match=r"Case_001_t1.nii and Case_001_t1.nii.gz are both its t1; remove or rename"):
        read_image(found)


def test_only_the_case_that_is_there_twice_is_left_out(tmp_path):
    write_case(tmp_path / "HGG", "Case_001")
    write_case(tmp_path / "LGG", "Case_001")
    write_case(tmp_path / "LGG", "Case_002", seed=1)
    twice, once = discover(tmp_path)
    assert read_image(once)[0].any()
    with pytest.raises(DataError, match=r"there are 2 cases of this name, in .*HGG.* and .*LGG"):
        read_image(twice)


def test_folders_and_formats_that_do_not_exist_are_one_sentence(tmp_path):
    with pytest.raises(DataError, match="there is no dataset format 'dicom'; choose one of bids, brats2021"):
        discover(tmp_path, "dicom")
    with pytest.raises(DataError, match=r"no dataset format 'brats2O21'; did you mean brats2021\? choose one of bids"):
        discover(tmp_path, "brats2O21")
    with pytest.raises(DataError, match="does not exist; give the folder that holds the cases"):
        discover(tmp_path / "nowhere")
    for format in ("auto", *FORMATS):
        with pytest.raises(DataError, match=r"holds no case in .*: it is empty; give the folder"):
            discover(tmp_path, format)


def test_modalities_on_other_grids_are_not_stacked(tmp_path):
    case = write_case(tmp_path)
    image, _ = case_arrays()
    moved = LPS.copy()
    moved[0, 3] = 1
    write_volume(case.images["flair"].path, image[3], moved)
    with pytest.raises(DataError, match=r"Case_001_flair\.nii\.gz has another affine than Case_001_t1\.nii\.gz"):
        read_image(case)
    write_volume(case.images["flair"].path, image[3, 1:], LPS)
    with pytest.raises(DataError, match=r"has shape \(23, 28, 20\), Case_001_t1\.nii\.gz has \(24, 28, 20\)"):
        read_image(case)


def test_a_reference_on_another_grid_is_to_be_written_again(tmp_path):
    case = write_case(tmp_path)
    moved = LPS.copy()
    moved[0, 3] = 1
    write_volume(case.label, case_arrays()[1], moved)
    with pytest.raises(DataError, match=r"has another affine than .*; write the reference in the grid of the images$"):
        read_classes(case)


def test_labels_of_another_source_name_the_file(tmp_path):
    case = write_case(tmp_path)
    write_volume(case.label, case_arrays()[1], LPS)
    with pytest.raises(
        DataError, match=r"Case_001_seg\.nii\.gz: labels \[3\] do not exist .*3 is enhancing tumour in brats2023"
    ):
        read_classes(case)


def test_ucsf_pdgm_is_read_beside_its_other_maps(tmp_path):
    image, classes = case_arrays()
    folder = tmp_path / "UCSF-PDGM-0004_nifti"
    for ending, volume in zip(("T1", "T1c", "T2", "FLAIR"), image, strict=True):
        write_volume(folder / f"UCSF-PDGM-0004_{ending}.nii.gz", volume, LPS)
        write_volume(folder / f"UCSF-PDGM-0004_{ending}_bias.nii.gz", volume, LPS)
    for ending in ("tumor_segmentation", "brain_segmentation", "brain_parenchyma_segmentation", "ADC"):
        values = np.choose(classes, [0, 1, 2, 4]) if ending.startswith("tumor") else image[0] > 0
        write_volume(folder / f"UCSF-PDGM-0004_{ending}.nii.gz", values.astype(np.uint8), LPS)
    (case,) = discover(tmp_path)
    assert (case.identifier, case.labels, case.faults) == ("UCSF-PDGM-0004", "ucsf-pdgm", ())
    assert np.array_equal(read_image(case)[0], image) and np.array_equal(read_classes(case)[0], classes)


def test_upenn_gbm_has_its_references_in_folders_of_their_own_and_the_experts_come_first(tmp_path):
    image, classes = case_arrays()
    for name in ("UPENN-GBM-00001_11", "UPENN-GBM-00002_11", "UPENN-GBM-00002_21"):
        for ending, volume in zip(("T1", "T1GD", "T2", "FLAIR"), image, strict=True):
            write_volume(tmp_path / "images_structural" / name / f"{name}_{ending}.nii.gz", volume, LPS)
            unstripped = tmp_path / "images_structural_unstripped" / name / f"{name}_{ending}_unstripped.nii.gz"
            write_volume(unstripped, volume, LPS)
    expert = np.choose(classes, [0, 1, 2, 4]).astype(np.uint8)
    write_volume(tmp_path / "images_segm" / "UPENN-GBM-00001_11_segm.nii.gz", expert, LPS)
    for name in ("UPENN-GBM-00001_11", "UPENN-GBM-00002_11"):
        write_volume(tmp_path / "automated_segm" / f"{name}_automated_approx_segm.nii.gz", np.minimum(expert, 2), LPS)
    both, automated, follow_up = discover(tmp_path)
    assert [case.labels for case in (both, automated)] == ["upenn-gbm"] * 2
    assert np.array_equal(read_classes(both)[0], classes)
    assert read_classes(automated)[0].max() == 2
    assert follow_up.label is None and follow_up.patient == automated.patient == "UPENN-GBM-00002"
    assert not any(case.faults for case in (both, automated, follow_up))


@pytest.mark.parametrize("format", ["msd", "nnunet"])
@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_a_listed_file_that_is_there_twice_is_never_chosen_silently(tmp_path, format, part):
    case = write_case(tmp_path, "BRATS_001", format)
    path = min((tmp_path / part).iterdir())
    write_volume(path.with_suffix(""), case_arrays()[1], LPS)
    (found,) = discover(tmp_path)
    assert f"{path.with_suffix('').name} and {path.name} are both its" in found.faults[0].problem
    path.unlink()  # the other one is read, whatever the ending of the rest
    assert discover(tmp_path)[0].faults == () and case.label


def test_one_case_in_the_training_and_the_test_images_is_left_out(tmp_path):
    case = write_case(tmp_path, "BRATS_001", "msd")
    (tmp_path / "imagesTs").mkdir()
    shutil.copy(case.images["t1"].path, tmp_path / "imagesTs")
    (found,) = discover(tmp_path)
    assert "imagesTs/BRATS_001.nii.gz are both its image" in found.faults[0].problem


def test_the_references_of_two_raters_in_bids_are_not_chosen_from_and_an_undescribed_one_is_said(tmp_path):
    write_case(tmp_path, "Case-001", "bids")
    shutil.copytree(tmp_path / "derivatives" / "raters", tmp_path / "derivatives" / "second")
    assert "are both its reference" in discover(tmp_path)[0].faults[0].problem
    for table in tmp_path.rglob("second/**/*_dseg.tsv"):
        table.unlink()
    (found,) = discover(tmp_path)
    assert found.label.is_relative_to(tmp_path / "derivatives" / "raters")
    assert "_dseg.nii.gz was left out, for no sub-Case001_ses-1_dseg.tsv beside it gives numbers" in found.faults[0].problem


@pytest.mark.parametrize("text", [b"index,name\n1,core\n", b"index\tname\nx\tcore\n", b"index\tname\n1\t\xf6dem\n"])
def test_a_table_of_labels_that_cannot_be_read_leaves_the_reference_out(tmp_path, text):
    case = write_case(tmp_path, "Case-001", "bids")
    case.label.with_name(case.label.name.replace(".nii.gz", ".tsv")).write_bytes(text)
    (found,) = discover(tmp_path)
    assert found.label is None and "was left out, for no sub-Case001_ses-1_dseg.tsv" in found.faults[0].problem


def test_odd_tables_of_sessions_are_no_obstacle_or_one_sentence(tmp_path):
    write_case(tmp_path, "Case-001", "bids")
    table = tmp_path / "sub-Case001" / "sub-Case001_sessions.tsv"
    table.write_text("session\tcase\nses-1\tCase-001\n")
    assert [case.identifier for case in discover(tmp_path)] == ["sub-Case001_ses-1"]
    table.write_bytes(b"session_id\tcase\nses-1\tM\xfcller\n")
    with pytest.raises(DataError, match=r"sub-Case001_sessions\.tsv is not a table .*save it as text in UTF-8"):
        discover(tmp_path)


def test_a_reference_of_which_there_are_two_is_not_read(tmp_path):
    case = write_case(tmp_path, "Case_001")
    shutil.copy(case.label, case.label.with_name("Case_001_segmentation.nii.gz"))
    with pytest.raises(DataError, match=r"case Case_001: .* are both its reference; remove or rename all but one"):
        read_classes(discover(tmp_path)[0])


@pytest.mark.parametrize("names", [("T1", "T1-Gd", "T2", "T2-FLAIR"), ("t1", "T1_ce", "T2", "FLAIR")])
def test_channels_of_nnunet_may_be_spelt_as_files_are(tmp_path, names):
    write_case(tmp_path, format="nnunet")
    facts = json.loads((tmp_path / "dataset.json").read_text())
    facts["channel_names"] = dict(zip("0123", names, strict=True))
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    assert np.array_equal(read_image(discover(tmp_path)[0])[0], case_arrays()[0])


def test_an_archive_alone_is_to_be_unpacked(tmp_path):
    (tmp_path / "BraTS.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"no NIfTI file, but 1 \.zip; unpack it first"):
        discover(tmp_path)


def test_a_made_case_has_the_arrays_and_the_numbers_that_it_is_asked_for(tmp_path):
    image, classes = case_arrays((20, 22, 18))
    case = write_case(tmp_path / "image", image=2 * image)
    assert np.array_equal(read_image(case)[0], 2 * image)
    assert write_case(tmp_path / "bids", format="bids").identifier == "Case_001"
    case = write_case(tmp_path / "children", "BraTS-PED-00001-000", "brats2023", classes=classes)
    assert case.labels == "brats-peds" and np.array_equal(read_classes(case)[0], classes)
