"""A folder becomes a case: on one grid, with a record and a page that know nobody's name, or a sentence that says why not."""

import json
import re
import resource
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import TIMING, save, slices

from scan_session import SessionError, brain, choose_series, find_series, load_session, prepare_session, to_native, write_native
from scan_session.grid import array_of, image_of, write_nifti
from scan_session.recognise import choose, one_session

SHIFT = np.array([12.0, -9.0, 7.0])


@pytest.fixture(autouse=True)
def rough(monkeypatch):
    """What is not 0 is brain in these heads: deepbet's network knows nothing of ellipsoids."""
    monkeypatch.setattr(brain, "rough_brain", lambda image: image > 100)


def moved(headers):
    for header in headers:
        header.ImagePositionPatient = (np.array(header.ImagePositionPatient) + SHIFT).tolist()
    return headers


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared session, its folder, what was said, and the mask: the FLAIR lies elsewhere by its header."""
    folder, said = tmp_path_factory.mktemp("scanner"), []
    for number, kind in enumerate(TIMING, 2):
        headers = slices(kind, number=number, SeriesDescription=f"Doe {kind}", PatientBirthDate="19500101", PatientID="ID-4711")
        save(moved(headers) if kind == "flair" else headers, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brain, "rough_brain", lambda image: image > 100)
        session = prepare_session(folder, tmp_path_factory.mktemp("out") / "case", say=said.append)
    return session, folder, said


def test_the_case_has_one_grid_of_1_mm_and_is_0_outside_the_brain(prepared):
    session, _, _ = prepared
    assert session.reference == "t1ce" and list(session.images) == list(TIMING)
    images = {name: nib.load(path) for name, path in session.images.items()}
    mask = nib.load(session.mask)
    assert mask.header.get_zooms() == pytest.approx((1, 1, 1))
    assert all(one.shape == mask.shape and np.allclose(one.affine, mask.affine) for one in images.values())
    assert all(not np.any(one.get_fdata()[mask.get_fdata() == 0]) for one in images.values())
    assert mask.get_fdata().sum() == pytest.approx(4 / 3 * np.pi * 80 * 65 * 36, rel=0.06)
    assert np.corrcoef(*(images[name].get_fdata()[mask.get_fdata() > 0] for name in ("t1ce", "flair")))[0, 1] > 0.98


def test_a_series_that_lies_elsewhere_is_registered_and_the_others_are_left_alone(prepared):
    session, _, _ = prepared
    measures = session.measures
    assert [measures[name]["role"] for name in TIMING] == [
        "registered already",
        "reference",
        "registered already",
        "registered",
    ]
    assert measures["flair"]["shift_mm"] == pytest.approx(np.linalg.norm(SHIFT), abs=1)
    assert measures["flair"]["information_after"] > measures["flair"]["information_before"]
    assert session.matrices["flair"][:3, 3] == pytest.approx(SHIFT * [-1, -1, 1], abs=4)


def test_a_label_map_outside_the_brain_is_not_taken_to_the_series(prepared, tmp_path):
    session, _, _ = prepared
    mask = nib.load(session.mask)
    nib.Nifti1Image(np.asarray(mask.dataobj), np.eye(4)).to_filename(tmp_path / "label_map.nii.gz")
    assert array_of(to_native(session.mask, session, "flair")).any()
    with pytest.raises(SessionError, match="% of the tumour in the label map lies outside the brain of case; write it with"):
        to_native(tmp_path / "label_map.nii.gz", session, "flair")


def test_nobodys_name_reaches_record_page_or_message(prepared):
    session, folder, said = prepared
    page = re.sub(r"base64,[^\"]+", "", session.page.read_text())
    texts = [(session.folder / "session.json").read_text(), page, *said]
    for word in ("Doe", "4711", "19500101", "19991231", "1.2.3", str(folder)):
        assert not any(word in text for text in texts), word
    for path in session.folder.rglob("*.nii.gz"):
        header = bytes(nib.load(path).header.binaryblock)
        assert b"Doe" not in header and b"4711" not in header
    assert "This page contains" in session.page.read_text()


def test_a_session_is_loaded_again_with_its_source(prepared, tmp_path):
    session, folder, _ = prepared
    again = load_session(session.folder)
    assert not again.series and again.reference == "t1ce"
    assert all(np.allclose(again.matrices[name], session.matrices[name], atol=1e-6) for name in TIMING)
    assert len(load_session(session.folder, folder).series["flair"].files) == 16
    save(slices("t1", number=2), tmp_path)
    with pytest.raises(SessionError, match="is not the folder that"):
        load_session(session.folder, tmp_path)


def test_a_case_whose_folder_was_copied_under_another_name_has_its_images(prepared, tmp_path):
    shutil.copytree(prepared[0].folder, tmp_path / "patient_7")
    assert all(path.is_file() for path in load_session(tmp_path / "patient_7").images.values())


def test_what_was_left_out_is_loaded_again(tmp_path):
    folder = heads(tmp_path / "raw", ["p_t1", "p_t1ce", "p_seg"])
    session = prepare_session(folder, tmp_path / "case", require=("t1", "t1ce"), say=lambda text: None)
    (one,), (again,) = session.left_out, load_session(tmp_path / "case").left_out
    assert (again.label, again.reason) == (one.label, one.fault)
    (tmp_path / "case" / "session.json").write_text('{"series": {}}')
    with pytest.raises(SessionError, match="is no prepared session"):
        load_session(tmp_path / "case")


def test_of_two_echoes_with_one_identifier_that_of_the_record_is_loaded(tmp_path):
    late, early = slices("t2", number=5), slices("t2", number=5, EchoTime=20)
    for header in early:
        header.SeriesInstanceUID = late[0].SeriesInstanceUID
    save(late, tmp_path / "raw" / "a")
    save(early, tmp_path / "raw" / "b")
    t2, other = find_series(tmp_path / "raw")
    assert t2.modality == "t2" and other.modality is None and t2.fingerprint == other.fingerprint
    kept = {"fingerprint": t2.fingerprint, "label": t2.label, "matrix": np.eye(4).tolist()}
    kept |= {"shape": t2.shape, "affine": np.eye(4).tolist(), "measures": {}}
    (tmp_path / "session.json").write_text(json.dumps({"series": {"t2": kept}, "reference": "t2", "notes": []}))
    assert load_session(tmp_path, tmp_path / "raw").series["t2"].files == t2.files


def test_what_is_missing_is_said_with_what_was_found(tmp_path):
    for number, kind in enumerate(("t1", "t1ce", "flair"), 1):
        save(slices(kind, number=number), tmp_path / "raw")
    save(slices("t2", number=9, SeriesDescription="ADC"), tmp_path / "raw")
    with pytest.raises(SessionError) as caught:
        prepare_session(tmp_path / "raw", tmp_path / "case", say=lambda text: None)
    assert "T2 is missing (found: T1 is series 1" in str(caught.value)
    assert "series 9 (ADC) is diffusion by its description" in str(caught.value) and "--t2 NUMBER" in str(caught.value)
    with pytest.raises(SessionError, match="give --out another folder"):
        prepare_session(tmp_path / "raw", tmp_path / "raw" / "case")


def test_several_that_are_missing_are_one_sentence_and_what_nobody_can_use_is_not_asked_for(tmp_path):
    save(slices("t1", number=1), tmp_path / "one")
    save(slices("t2", number=2, SeriesDescription="ADC"), tmp_path / "one")
    with pytest.raises(SessionError, match=r"T1 with contrast agent, T2 and FLAIR are missing \(.*--t2 NUMBER"):
        prepare_session(tmp_path / "one", tmp_path / "case", say=lambda text: None)
    save(slices("t1", number=1)[:1], tmp_path / "none")
    with pytest.raises(SessionError, match=r"^T1, T1 with .* has one slice\); add them to the folder$"):
        prepare_session(tmp_path / "none", tmp_path / "case", say=lambda text: None)


def test_a_t1_that_is_said_to_have_no_contrast_agent_gets_none(tmp_path):
    for number, (kind, text) in enumerate((("t1", "T1 ohne KM"), ("t1", "T1 sag pre contrast"), ("t2", ""), ("flair", "")), 1):
        save(slices(kind, number=number, SeriesDescription=text), tmp_path / "raw")
    with pytest.raises(SessionError, match="T1 with contrast agent is missing"):
        prepare_session(tmp_path / "raw", tmp_path / "case", say=lambda text: None)


def niftis(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.ones((40, 40, 30), np.float32), np.diag([4.0, 4, 4, 1])), folder / f"{name}.nii.gz")
    return folder


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([f"{who}_{kind}" for who in "AB" for kind in TIMING], "of 2 sessions, such as A_flair.nii.gz and B_flair.nii.gz"),
        ([f"{kind}_{who}" for who in "AB" for kind in TIMING], "of 2 sessions, such as flair_A.nii.gz and flair_B.nii.gz"),
        ([f"all/{who}/{kind}" for who in "AB" for kind in TIMING], "of 2 sessions, such as all/A/flair.nii.gz and all/B/flair"),
        ([*(f"A_{kind}" for kind in TIMING), "B_t1", "B_t2", "B_flair"], "of 2 sessions, such as A_flair.nii.gz and B_flair"),
        ([f"C_{who}/C_{who}_{kind}" for who in "123" for kind in TIMING], "of 3 sessions, such as C_1/C_1_flair.nii.gz and"),
    ],
)
def test_nifti_files_of_several_sessions_are_refused(tmp_path, names, sentence):
    with pytest.raises(SessionError, match=sentence):
        prepare_session(niftis(tmp_path / "raw", names), tmp_path / "case", say=lambda text: None)


@pytest.mark.parametrize(
    "names",
    [
        [*TIMING, "derived/t1_brain", "derived/t2_brain"],
        ["p7_t1", "p7_t2", "p7_brain_t1", "p7_brain_t2"],
        ["T1/a_t1", "T1/a_t1ce", "T2/b_t2", "T2/b_flair"],
        ["p_AX_T1", "p_AX_T2", "p_SAG_T1", "p_SAG_3D_T2", "p_3D_FLAIR"],
        ["4_t1", "5_t1ce", "6_t2", "7_flair", "8_t2"],
        ["pre/t1", "pre/t2", "pre/flair", "post/t1ce", "post/flair"],
        [*(f"axial/{kind}" for kind in TIMING), "sagittal/t1", "sagittal/t2"],
    ],
)
def test_files_of_one_session_may_have_several_names_and_folders(tmp_path, names):
    one_session(find_series(niftis(tmp_path, names)), tmp_path)


def test_two_files_of_another_name_that_repeat_contrasts_are_said_to_be_doubtful(tmp_path):
    names = [*(f"A_{kind}" for kind in TIMING), "B_t2", "B_flair"]
    assert not one_session(find_series(niftis(tmp_path / "raw", names)), tmp_path / "raw")
    said = []
    with pytest.raises(SessionError):  # these images show no head
        prepare_session(tmp_path / "raw", tmp_path / "case", say=said.append)
    assert any("may be of two sessions" in text for text in said)
    assert one_session(find_series(niftis(tmp_path / "one", names[: len(TIMING)])), tmp_path / "one")


def test_what_is_said_names_nifti_files_and_the_record_does_not(tmp_path):
    niftis(tmp_path / "raw", ["Doe_t1", "Doe_t2"])
    with pytest.raises(SessionError, match=r"T1 is file 1 \(Doe_t1.nii.gz\), T2 is file 2 \(Doe_t2.nii.gz\)"):
        prepare_session(tmp_path / "raw", tmp_path / "case", say=lambda text: None)
    assert [one.label for one in find_series(tmp_path / "raw")] == ["file 1", "file 2"]


def test_a_failed_registration_is_an_error_with_a_picture_and_no_case(tmp_path):
    save(slices("t1ce", number=1), tmp_path / "raw")
    save(slices("t2", number=2, PixelSpacing=[2.6, 2.6]), tmp_path / "raw")
    with pytest.raises(SessionError, match=r"the T2 .*registration_of_t2.png.*same head") as caught:
        prepare_session(tmp_path / "raw", tmp_path / "case", require=("t1ce", "t2"), say=lambda text: None)
    assert [path.name for path in (tmp_path / "case").iterdir()] == ["registration_of_t2.png"]
    assert caught.value.exit_status == 1 and caught.value.picture.stat().st_size > 5000


def test_three_slices_that_the_user_names_are_too_short(tmp_path):
    folder = heads(tmp_path / "raw", ["p_t1ce", "p_t2"])
    thin = np.diag([4.0, 4, 1.5, 1])
    thin[2, 3] = 70
    values = nib.load(folder / "p_t2.nii.gz").get_fdata(dtype=np.float32)[:, :, 17:20]
    nib.save(nib.Nifti1Image(values, thin), folder / "p_t2.nii.gz")
    with pytest.raises(SessionError, match=r"the T2 shows only \d+% of the brain of the reference"):
        prepare_session(folder, tmp_path / "case", t2="p_t2.nii.gz", require=("t1ce", "t2"), say=lambda text: None)


def test_a_series_without_a_brain_is_named(tmp_path, monkeypatch):
    """Such as a knee whose header does not say so: neither network finds a voxel of a brain."""
    for number, kind in enumerate(TIMING, 1):
        save(slices(kind, number=number), tmp_path / "raw")
    monkeypatch.setattr(brain, "rough_brain", lambda image: image > 1e9)
    monkeypatch.setattr(brain, "_deepbet", lambda image: array_of(image) > 1e9)
    with pytest.raises(SessionError, match=r"series 2: what looks like the brain has 0.00 litres.*give a mask with --mask"):
        prepare_session(tmp_path / "raw", tmp_path / "case", say=lambda text: None)


def test_a_stripped_image_is_recognised_by_its_background():
    x, y, z = np.indices((40, 40, 40)) - 19.5
    radius = np.sqrt(x**2 + y**2 + z**2)
    inside = image_of((radius < 12).astype(np.uint8), np.diag([4.0, 4, 4, 1]))
    stripped = image_of(np.where(radius < 12, 300 + x, 0.02).astype(np.float32), np.diag([4.0, 4, 4, 1]))
    head = image_of(np.where(radius < 17, 300 + x, 0).astype(np.float32), np.diag([4.0, 4, 4, 1]))
    assert sitk.GetArrayFromImage(brain.stripped_mask(stripped, inside)).sum() == (radius < 12).sum()
    assert brain.stripped_mask(head, inside) is None


def test_a_mask_of_ones_own_must_lie_on_the_reference(tmp_path):
    image = image_of(np.ones((20, 20, 20), np.float32), np.diag([4.0, 4, 4, 1]))
    far = np.diag([4.0, 4, 4, 1])
    far[:3, 3] = 900
    path = write_nifti(tmp_path / "mask.nii.gz", image_of(np.ones((20, 20, 20), np.uint8), far))
    with pytest.raises(SessionError, match="lies outside the reference image"):
        brain.read_mask(path, image)


def heads(folder, names):
    """Stripped heads on one grid, as registered images are."""
    x, y, z = np.indices((40, 40, 36)) * 4.0 - np.reshape([78, 78, 70], (3, 1, 1, 1))
    inside = (x / 70) ** 2 + (y / 70) ** 2 + (z / 60) ** 2 < 1
    for number, name in enumerate(names, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        values = np.where(inside, 300 * number + x + 2 * y + 3 * z, 0).astype(np.float32)
        nib.save(nib.Nifti1Image(values, np.diag([4.0, 4, 4, 1])), folder / f"{name}.nii.gz")
    return folder


def test_a_case_that_is_made_again_keeps_no_image_of_the_case_before(tmp_path, monkeypatch):
    wanted = {"require": ("t1", "t1ce"), "say": lambda text: None}
    prepare_session(heads(tmp_path / "one", ["p_t1", "p_t1ce", "p_flair"]), tmp_path / "case", **wanted)
    two = heads(tmp_path / "two", ["q_t1", "q_t1ce"])
    derived = {"label_map.nii.gz", "label_map_on_t1ce_grid.nii.gz", "segmentation_on_t1ce_grid.dcm"}
    for name in (*derived, "label_map_corrected.nii.gz"):
        (tmp_path / "case" / name).touch()
    with monkeypatch.context() as patch:
        patch.setattr("scan_session.prepare.write_nifti", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare_session(two, tmp_path / "case", **wanted)
    with pytest.raises(SessionError, match="is no prepared session"):
        load_session(tmp_path / "case")
    left = {path.name for path in (tmp_path / "case").iterdir()}
    assert not derived & left and "label_map_corrected.nii.gz" in left, "no label map of the first head lies beside the second"
    prepare_session(heads(tmp_path / "one", ["p_t1", "p_t1ce", "p_flair"]), tmp_path / "case", **wanted)
    prepare_session(two, tmp_path / "case", **wanted)
    assert sorted(path.name for path in (tmp_path / "case").glob("case_*")) == ["case_t1.nii.gz", "case_t1ce.nii.gz"]
    monkeypatch.chdir(tmp_path / "case")
    assert all(path.exists() for path in load_session(".").images.values())


def test_no_scan_of_the_head_before_is_left_not_even_after_a_crash(tmp_path, monkeypatch):
    wanted = {"require": ("t1", "t1ce"), "say": lambda text: None}
    one, two = heads(tmp_path / "one", ["p_t1", "p_t1ce", "p_flair"]), heads(tmp_path / "two", ["q_t1", "q_t1ce"])
    prepare_session(one, tmp_path / "case", **wanted)
    with monkeypatch.context() as patch:
        patch.setattr("scan_session.page.write", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare_session(one, tmp_path / "case", **wanted)
    prepare_session(two, tmp_path / "case", **wanted)
    assert not [path.name for path in (tmp_path / "case").rglob("*flair*")]


@pytest.mark.parametrize("record", ["{}", "[]", "no JSON"])
def test_another_record_is_no_prepared_session(tmp_path, record):
    (tmp_path / "session.json").write_text(record)
    with pytest.raises(SessionError, match=r"is no prepared session .*make it with prepare_session"):
        load_session(tmp_path)


def test_a_label_map_has_the_affine_of_its_series_to_the_last_digit(tmp_path):
    folder = heads(tmp_path / "raw", ["p_t1", "p_t1ce"])
    for path in folder.iterdir():
        affine = np.diag([4.0, 4, 4, 1])
        affine[0, 1] = 0.04
        nib.save(nib.Nifti1Image(nib.load(path).get_fdata(dtype=np.float32), affine), path)
    session = prepare_session(folder, tmp_path / "case", require=("t1", "t1ce"), say=lambda text: None)
    path = write_native(tmp_path / "labels.nii.gz", session.mask, session, "t1ce")
    for written in (path, session.native("t1ce")):
        assert np.allclose(nib.load(written).affine, affine, rtol=0, atol=1e-6)


def test_what_is_recognised_beside_named_files_may_not_be_of_another_session(tmp_path):
    names = ["A_t1", "A_t1ce", "A_flair", "B_t1", "B_t2", "B_flair"]
    chosen = {"t1ce": "A_t1ce.nii.gz", "flair": "A_flair.nii.gz", "require": ("t1ce", "flair"), "say": lambda text: None}
    with pytest.raises(SessionError, match="of 2 sessions"):
        prepare_session(niftis(tmp_path / "raw", names), tmp_path / "case", **chosen)
    with pytest.raises(SessionError, match="of 2 sessions"):
        prepare_session(tmp_path / "raw", tmp_path / "case", require=(), say=lambda text: None)


def test_a_name_that_two_files_have_is_not_taken_and_a_longer_path_is(tmp_path):
    folder = niftis(tmp_path / "raw", [f"{visit}/{kind}" for visit in ("first", "second") for kind in TIMING])
    found = find_series(folder)
    with pytest.raises(SessionError, match=r"2 files are called t1\.nii\.gz; say --t1 with a number \(2, 6\) or a path"):
        choose(found, {"t1": "t1.nii.gz"})
    taken, _, _ = choose(found, {"t1": "second/t1.nii.gz"})
    assert taken["t1"].files == (folder / "second" / "t1.nii.gz",)


def test_a_file_may_be_named_by_another_path_than_the_folder(tmp_path, monkeypatch):
    folder = niftis(tmp_path / "raw", TIMING)
    monkeypatch.chdir(folder)
    for path in (str(folder / "t2.nii.gz"), "../raw/t2.nii.gz"):
        taken, _, _ = choose(find_series(Path()), {"t1": path})
        assert taken["t1"].files == (Path("t2.nii.gz"),)


@pytest.mark.parametrize(
    ("slices_of", "sentence"),
    [
        ({"t1ce": 25}, "the T1 with contrast agent shows only .* of the brain of the reference"),
        ({"t1": 27, "t1ce": 27}, "the T2 shows more of the brain than the reference.*take another --t1ce or --t1"),
    ],
)
def test_no_part_of_the_brain_is_lost_because_the_reference_does_not_show_it(tmp_path, slices_of, sentence):
    folder = heads(tmp_path / "raw", TIMING)
    for name, count in slices_of.items():
        image = nib.load(folder / f"{name}.nii.gz").slicer[:, :count]
        nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine).to_filename(folder / f"{name}.nii.gz")
    with pytest.raises(SessionError, match=sentence):
        prepare_session(folder, tmp_path / "case", say=lambda text: None)


def test_wrong_arguments_are_said_before_the_work(tmp_path):
    folder = niftis(tmp_path / "raw", TIMING)
    for require in (("T1CE",), "T1CE"):
        with pytest.raises(SessionError, match="there is no modality T1CE to require; choose from t1, t1ce, t2, flair"):
            prepare_session(folder, tmp_path / "case", require=require)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "case"):
        with pytest.raises(SessionError, match="cannot be made or written; give --out another folder"):
            prepare_session(folder, out)


def test_the_series_that_will_be_taken_can_be_asked_for(tmp_path, monkeypatch):
    folder = heads(tmp_path / "raw", ["t1", "t1ce", "t2", "flair", "flair_cor"])
    taken = choose_series(find_series(folder))
    assert {name: one.files[0].name for name, one in taken.items()} == {name: f"{name}.nii.gz" for name in TIMING}
    (folder / "t1ce.nii.gz").rename(folder / "t1_tra.nii.gz")
    monkeypatch.setattr("scan_session.prepare.which_enhances", lambda *voxels: 1)
    said = []
    assert choose_series(find_series(folder), say=said.append)["t1ce"].files[0].name == "t1_tra.nii.gz" and said
    (folder / "t2.nii.gz").unlink()
    with pytest.raises(SessionError, match="T2 is missing"):
        choose_series(find_series(folder))


def test_a_disk_that_is_full_leaves_the_earlier_file_and_no_half_one(tmp_path):
    image = image_of(np.random.default_rng(0).normal(size=(20, 20, 20)), np.eye(4))
    path = write_nifti(tmp_path / "t1.nii.gz", image)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_nifti(path, image)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
