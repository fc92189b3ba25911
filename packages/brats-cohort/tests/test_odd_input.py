"""Odd input of every kind, made here: it is read right, or refused with a sentence, and never silently wrong."""

import gzip
import os
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from brats_cohort.cases import case_of_files, discover, patients_of, read_classes, read_image
from brats_cohort.checks import check_case, check_cohort
from brats_cohort.command import main
from brats_cohort.files import DataError
from brats_cohort.nifti import read_volume, write_volume
from brats_cohort.regions import MODALITIES
from brats_cohort.session import check_session, read_session
from brats_cohort.splits import make_splits
from brats_cohort.testing import LPS, case_arrays, write_case

IMAGE, CLASSES = case_arrays((40, 44, 36))
BRAIN = (IMAGE != 0).any(0)
RANDOM = np.random.default_rng(0)


def problems(check):
    return " | ".join(fault.problem for fault in check.faults)


# What is brain


def test_noise_around_the_brain_is_refused_if_no_modality_shows_where_the_brain_ends():
    noise = np.where(BRAIN, IMAGE, RANDOM.integers(1, 9, IMAGE.shape))
    with pytest.raises(DataError, match=r"brain and background cannot be told apart .* remove skull and background"):
        check_session(noise, LPS, "A")


def test_noise_in_one_modality_is_set_to_0_where_the_others_show_no_brain():
    image = IMAGE.copy()
    image[3] = np.where(BRAIN, IMAGE[3], RANDOM.integers(1, 9, BRAIN.shape))
    session = check_session(image, LPS, "A")
    assert np.array_equal(session.image[3], IMAGE[3])
    assert "FLAIR has signal around the brain" in session.warnings[0]


@pytest.mark.parametrize("kind", ["noise", "text"])
def test_signal_away_from_the_brain_is_set_to_0(kind):
    marked = np.pad(BRAIN, 6)
    marks = RANDOM.random(marked.shape) < 0.06 if kind == "noise" else np.zeros_like(marked)
    if kind == "text":
        marks[1:4, 2:9, 10:12] = True
    image = [np.where(marks & ~marked, 50 + number, np.pad(IMAGE[number], 6)) for number in range(4)]
    session = check_session(image, LPS)
    assert "signal in the air, away from the brain" in session.warnings[0]
    left = np.count_nonzero(session.image[0]) - np.count_nonzero(BRAIN)
    assert 0 <= left < (0.03 * BRAIN.sum() if kind == "noise" else 1)
    assert np.array_equal(session.image[0][marked], IMAGE[0][BRAIN])


def test_a_skull_in_one_modality_is_set_to_0_where_the_others_show_no_brain():
    image = IMAGE.copy()
    image[0, 2:-2, 2:-2, 2:-2] += np.where(BRAIN, 0, RANDOM.integers(400, 600, BRAIN.shape))[2:-2, 2:-2, 2:-2]
    session = check_session(image, LPS, "A")
    assert np.array_equal(session.image[0], IMAGE[0])
    assert "T1 has signal around the brain" in session.warnings[0]


def test_more_brain_than_a_head_holds_is_refused():
    with pytest.raises(DataError, match="ml would be brain, more than any head holds"):
        check_session(IMAGE, LPS * np.array([6, 6, 6, 1])[:, None])


def test_a_rim_as_bright_as_the_scalp_is_refused():
    image = IMAGE.copy()
    affine = LPS * np.array([3.0, 3.0, 3.0, 1.0])[:, None]
    check_session(image, affine)
    inner = (
        sum((np.linspace(-1, 1, n).reshape([-1 if a == k else 1 for a in range(3)])) ** 2 for k, n in enumerate(BRAIN.shape))
        < 0.6
    )
    image[:, BRAIN & ~inner] *= 4
    with pytest.raises(DataError, match="times as bright as what lies deep, as the scalp is"):
        check_session(image, affine)


def test_ringing_of_a_spline_around_the_brain_is_removed():
    ringing = [ndimage.shift(np.pad(volume, 8).astype(np.float32), (0.4, 0.3, 0.5), order=3) for volume in IMAGE]
    session = check_session(ringing, LPS)
    assert "values ring around the brain, as after resampling with a spline" in session.warnings[0]
    assert np.count_nonzero(session.image[0]) == pytest.approx(np.count_nonzero(IMAGE[0]), rel=0.2)
    assert np.count_nonzero(ringing[0]) > 1.5 * np.count_nonzero(IMAGE[0])


@pytest.mark.parametrize(("outer", "inner"), [(-1024, 0), (0, -7), (0, 7), (np.nan, 0), (np.nan, -7), (5, 0)])
@pytest.mark.parametrize("sides", ["all", "one", "corners", "corner"])
def test_a_background_of_two_values_is_set_to_0(outer, inner, sides):
    """As after padding, or after resampling into a larger or a turned field of view."""
    image = np.where(BRAIN, IMAGE, inner).astype(np.float32 if np.isnan(outer) else np.int16)
    widths = {"all": [(0, 0), (3, 4), (2, 2), (5, 1)], "one": [(0, 0), (0, 0), (0, 0), (0, 6)]}.get(sides, [(0, 0)] * 4)
    padded = np.pad(image, widths, constant_values=outer)
    if "corner" in sides:
        x, y, _ = np.indices(BRAIN.shape)
        padded[:, (x - y > 28) if sides == "corners" else (x + y < 5)] = outer
    session = check_session(padded, LPS)
    assert np.array_equal(session.image, np.pad(np.where(BRAIN, IMAGE - inner, 0), widths))
    assert ("the background is not 0 (T1" in " ".join(session.warnings)) or (np.isnan(outer) and not inner)


def test_a_background_whose_two_values_were_mixed_by_interpolation_is_set_to_0():
    padded = np.pad(IMAGE.astype(np.float32), [(0, 0), *[(5, 5)] * 3])
    brain = (padded != 0).any(0)
    padded = np.pad(padded, [(0, 0), *[(4, 4)] * 3], constant_values=-1024)
    moved = [ndimage.shift(volume, (0.4, 0.3, 0.2), order=1, mode="nearest") for volume in padded]
    session = check_session(moved, LPS)
    assert np.count_nonzero(session.image[0]) == pytest.approx(np.count_nonzero(brain), rel=0.15)
    assert "the background is not 0 (T1 -1024 and 0" in session.warnings[0]


def test_a_brain_drawn_in_one_value_is_no_background():
    image = [np.where(BRAIN, 100, 0) + 50 * (CLASSES > 0) + 30 * (number + 1) * (CLASSES > 1) for number in range(4)]
    assert all(np.array_equal(found != 0, BRAIN) for found in check_session(image, LPS).image)


def test_infinite_values_around_the_brain_are_background_and_in_it_are_refused():
    image = np.where(BRAIN, IMAGE, -np.inf).astype(np.float32)
    assert np.array_equal(check_session(image, LPS).image, IMAGE)
    image[2, 20, 22, 18] = np.inf
    with pytest.raises(DataError, match="T2 has 1 voxels that are not numbers"):
        check_session(image, LPS)


def test_a_head_whose_scalp_is_dim_is_refused_for_its_bone():
    affine = LPS * np.array([4.0, 4.0, 4.0, 1.0])[:, None]
    check_session(IMAGE, affine)
    depth = ndimage.distance_transform_edt(np.pad(BRAIN, 1), sampling=4)[1:-1, 1:-1, 1:-1]
    head = np.where(depth > 14, IMAGE, np.where(depth > 8, IMAGE // 8, IMAGE * 2 // 5)).astype(np.int16)
    with pytest.raises(DataError, match="of what lies about 1 cm deep is dark on all images, as bone is; remove skull"):
        check_session(head, affine)


# Values, units and grids


@pytest.mark.parametrize(
    ("value", "dtype"), [(1e300, np.float64), (3.4e38, np.float32), (4e9, np.uint32), (-2e9, np.int32), (1e7, np.float32)]
)
def test_one_voxel_that_would_flatten_the_image_is_refused(value, dtype):
    image = [volume.astype(dtype if number == 2 else np.int16) for number, volume in enumerate(IMAGE)]
    image[2][20, 22, 18] = value
    with pytest.raises(DataError, match=r"T2 has a voxel of .*, far beyond all others"):
        check_session(image, LPS)


@pytest.mark.parametrize("factor", [1e-30, 1e25])
def test_a_scale_that_would_turn_the_image_into_zeros_is_refused(factor):
    with pytest.raises(DataError, match=r"T2 has values up to .*, which 32-bit numbers cannot be computed with"):
        check_session([*IMAGE[:2], (IMAGE[2] * factor).astype(np.float32), IMAGE[3]], LPS)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-3), ("micron", 1e3), ("mm", 1), ("unknown", 1), ("meter", 1)])
def test_the_unit_of_a_header_is_read(tmp_path, unit, factor):
    image = nib.Nifti1Image(IMAGE[0], np.diag([2.0, 2.0, 2.0, 1 / factor]) * factor)
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "a.nii.gz")
    assert np.allclose(read_volume(tmp_path / "a.nii.gz")[1], np.diag([2.0, 2.0, 2.0, 1.0]))


@pytest.mark.parametrize("edge", [0.002, 2000.0, 1e-30])
def test_voxels_of_no_possible_size_are_refused(tmp_path, edge):
    nib.Nifti1Image(IMAGE[0], np.diag([edge, edge, edge, 1])).to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="which no scan of a head has; set the spacing in millimetres"):
        read_volume(tmp_path / "a.nii.gz")


def test_a_spacing_in_centimetres_is_refused():
    with pytest.raises(DataError, match=r"the brain would be 16 mm long at voxels of 0\.4 mm; set the spacing in millimetres"):
        check_session(IMAGE, LPS * np.array([0.4, 0.4, 0.4, 1])[:, None])


def test_images_that_lie_apart_are_said():
    image = IMAGE.copy()
    image[3] = np.roll(IMAGE[3], 5, axis=0)
    assert "the images show the brain in different places (signal in T1 83 %, T1ce" in check_session(image, LPS).warnings[0]
    image[3] = IMAGE[3]
    image[3, :, :, 20:] = 0
    assert "different places (signal in T1 100 %, T1ce 100 %, T2 100 %, FLAIR 5" in check_session(image, LPS).warnings[0]


def test_affines_that_differ_by_little_are_one_grid_and_by_more_are_not(tmp_path):
    case = write_case(tmp_path, image=IMAGE, classes=CLASSES)
    moved = LPS.copy()
    moved[0, 3] += 0.1
    write_volume(case.images["flair"].path, IMAGE[3], moved)
    check = check_case(case)
    assert "Case_001_flair.nii.gz lies 0.1 voxels off" in problems(check) and check.usable
    assert np.array_equal(read_image(case)[0], IMAGE)
    moved[0, 3] += 0.4
    write_volume(case.images["flair"].path, IMAGE[3], moved)
    assert "another affine" in problems(check_case(case))


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_a_file_with_other_axes_is_turned_and_that_is_said(tmp_path, axes):
    case = write_case(tmp_path, image=IMAGE, classes=CLASSES)
    turn = np.eye(4)[:, [*axes, 3]]
    values = np.choose(CLASSES, [0, 1, 2, 4]).astype(np.uint8)
    flip = np.diag([1.0, -1.0, 1.0, 1.0])
    flip[1, 3] = CLASSES.transpose(axes).shape[1] - 1
    write_volume(case.label, values.transpose(axes)[:, ::-1], LPS @ turn @ flip)
    write_volume(case.images["t2"].path, IMAGE[2].transpose(axes)[:, ::-1], LPS @ turn @ flip)
    assert np.array_equal(read_image(case)[0], IMAGE)
    assert np.array_equal(read_classes(case)[0], CLASSES)
    check = check_case(case)
    assert problems(check).count("was turned to the grid of") == 2 and check.usable


PLAIN = nib.Nifti1Image(IMAGE[2], LPS).to_bytes()
SWAPPED = nib.Nifti1Image(IMAGE[2].astype(">i2"), LPS, header=nib.Nifti1Header(endianness=">"), dtype=np.int16)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (PLAIN, "is named .gz but is not gzip-compressed"),
        (b"<!DOCTYPE html><title>Log in</title>", "is no image: it begins with '<!DOCTYPE'"),
        (gzip.compress(gzip.compress(PLAIN)), "is gzip-compressed twice"),
        (gzip.compress(nib.Nifti1Image(IMAGE[2][:, :, 18], LPS).to_bytes()), "has shape (40, 44), one 3-D volume was expected"),
        (
            gzip.compress(nib.Nifti1Image((IMAGE[2] > 0) * np.uint8(9), LPS).to_bytes()),
            "holds two different values, as a mask",
        ),
        (
            gzip.compress(SWAPPED.to_bytes()[:352] + IMAGE[2].tobytes(order="F")),
            "was read in the wrong byte order: its values go from",
        ),
    ],
)
def test_a_file_that_holds_no_image_is_named_with_what_it_is(tmp_path, content, sentence):
    case = write_case(tmp_path, image=IMAGE, classes=CLASSES)
    case.images["t2"].path.write_bytes(content)
    assert sentence in problems(check_case(case))


def test_four_single_slices_are_no_session():
    with pytest.raises(DataError, match=r"T1 has shape \(40, 44, 1\), a single slice"):
        check_session(IMAGE[..., 18:19], LPS)


def test_a_file_in_the_other_byte_order_is_read_alike(tmp_path):
    (tmp_path / "a.nii").write_bytes(SWAPPED.to_bytes())
    assert np.array_equal(read_volume(tmp_path / "a.nii")[0], IMAGE[2])


def test_a_sform_and_a_qform_that_disagree_are_said(tmp_path):
    case = write_case(tmp_path, image=IMAGE, classes=CLASSES)
    image, moved = nib.Nifti1Image(IMAGE[2], LPS), LPS.copy()
    moved[0, 3] += 30
    image.set_sform(LPS, 1), image.set_qform(moved, 1)
    image.to_filename(case.images["t2"].path)
    check = check_case(case)
    assert check.usable
    assert "the sform and the qform of Case_001_t2.nii.gz put its voxels in different places" in problems(check)


@pytest.mark.parametrize("value", [0.9, np.nan])
def test_beside_a_sform_a_qform_that_is_no_rotation_is_said(tmp_path, value):
    case = write_case(tmp_path, image=IMAGE, classes=CLASSES)
    image = nib.Nifti1Image(IMAGE[2], LPS)
    image.set_sform(LPS, 1), image.set_qform(LPS, 1)
    for name in ("quatern_b", "quatern_c"):
        image.header[name] = value
    image.to_filename(case.images["t2"].path)
    assert "the sform and the qform of Case_001_t2.nii.gz put its voxels in different places" in problems(check_case(case))
    assert np.array_equal(read_session(case).image[2], IMAGE[2])


def test_a_label_map_without_a_number_outside_the_head_says_what_to_do(tmp_path):
    case = write_case(tmp_path, image=IMAGE, classes=CLASSES)
    write_volume(case.label, np.where(BRAIN, CLASSES, np.nan).astype(np.float32), LPS)
    assert check_case(case).faults[-1].remedy == "set what is not a number to 0, if it is background"


def test_a_header_that_is_repaired_in_passing_prints_nothing_beside_the_answer(tmp_path, capfd):
    case = write_case(tmp_path, image=IMAGE, classes=CLASSES)
    raw = bytearray(PLAIN)
    raw[80:84] = np.float32(-1).tobytes()  # pixdim[1]
    case.images["t2"].path.write_bytes(gzip.compress(raw))
    assert check_case(case).usable
    assert capfd.readouterr().err == ""


# Names


@pytest.mark.parametrize(
    "names",
    [
        ("t1", "t1ce", "t2", "flair"),
        ("P_T1w", "P_T1Gd", "P_T2w", "P_FLAIR"),
        ("P-t1n", "P_t1c", "P_t2w", "P_fla"),
        ("P.t1", "P.t1ce", "P.t2", "P.t2flair"),
        ("P_T1", "P_T1-GD", "P_T2", "P_T2_FLAIR"),
    ],
)
@pytest.mark.parametrize("ending", [".nii.gz", ".NII.GZ", ".nii"])
def test_plain_spellings_of_the_four_names_are_read(tmp_path, names, ending):
    folder = tmp_path / "P"
    folder.mkdir()
    for name, volume in zip(names, IMAGE, strict=True):
        payload = nib.Nifti1Image(volume, LPS).to_bytes()
        (folder / f"{name}{ending}").write_bytes(gzip.compress(payload) if ending.lower().endswith("gz") else payload)
    (case,) = discover(tmp_path)
    assert case.identifier == "P"
    assert np.array_equal(read_image(case)[0], IMAGE)
    assert np.array_equal(read_image(case_of_files({m: s.path for m, s in case.images.items()}))[0], IMAGE)


def test_four_files_whose_names_say_two_cases_are_a_case_with_a_warning(tmp_path):
    one, other = (write_case(tmp_path, name, image=IMAGE, classes=CLASSES) for name in ("A", "B"))
    files = {modality: source.path for modality, source in one.images.items()}
    before = read_session(case_of_files(files)).warnings
    mixed = read_session(case_of_files(files | {"t2": other.images["t2"].path})).warnings
    (warning,) = set(mixed) - set(before)
    assert len(mixed) == len(before) + 1
    assert warning.startswith("A: B_t2.nii.gz is of another case than a by its name")
    unnamed = other.images["t2"].path.rename(tmp_path / "scan.nii.gz")
    assert not case_of_files(files | {"t2": unnamed}).faults


@pytest.mark.parametrize(
    "names",
    [
        ("5_t1", "6_t1ce", "7_t2", "8_flair"),
        ("p1_pre_t1", "p1_post_t1ce", "p1_t2", "p1_flair"),
        ("a_t1", "A_t1ce", "A_t2", "a_flair"),
    ],
)
def test_names_of_one_session_are_no_warning(tmp_path, names):
    files = {}
    for modality, name in zip(MODALITIES, names, strict=True):
        files[modality] = tmp_path / f"{name}.nii.gz"
        files[modality].touch()
    assert not case_of_files(files).faults


def test_the_number_of_one_case_may_begin_that_of_another(tmp_path):
    names = ("case_1_t1", "case_1_t1ce", "case_1_t2", "case_10_flair")
    case = case_of_files({m: tmp_path / f"{name}.nii.gz" for m, name in zip(MODALITIES, names, strict=True)})
    assert "case_10_flair.nii.gz is of another case than case_1" in case.faults[0].problem


def test_folders_named_like_files_hold_the_file(tmp_path):
    case = write_case(tmp_path, "Case_001", image=IMAGE, classes=CLASSES)
    for number, path in enumerate(case.files):
        content = path.read_bytes()
        path.unlink()
        path.mkdir()
        (path / f"0000{number}_brain.nii.gz").write_bytes(content)
    (found,) = discover(tmp_path)
    assert np.array_equal(read_image(found)[0], IMAGE) and np.array_equal(read_classes(found)[0], CLASSES)


NAMELESS = {
    "T1/image.nii.gz": "P",  # one image in a folder that is named for it
    "T1/T1.nii.gz": "P",
    "x_T1/image.nii.gz": "x",
    "T1s/y.nii.gz T1s/z.nii.gz": "y z",
    "T1/y.b_t1.nii.gz": "y.b",
}


@pytest.mark.parametrize("names", NAMELESS)
def test_a_folder_named_for_a_modality_says_what_its_images_are(tmp_path, names):
    for role, values in zip((*MODALITIES, "seg"), [*IMAGE, np.choose(CLASSES, [0, 1, 2, 4]).astype(np.uint8)], strict=True):
        for name in names.split():
            spelt = name.replace("T1", role.upper()).replace("t1", role)
            write_volume(tmp_path / "P" / spelt, values, LPS)
    cases = discover(tmp_path)
    assert " ".join(case.identifier for case in cases) == NAMELESS[names]
    for case in cases:
        assert np.array_equal(read_image(case)[0], IMAGE) and np.array_equal(read_classes(case)[0], CLASSES)
        assert not case.faults


@pytest.mark.parametrize(
    ("names", "identifier"),
    [
        ("T1_to_SRI_brain T1CE_to_SRI_brain T2_to_SRI_brain FL_to_SRI_brain seg_to_SRI_brain", "to_SRI_brain"),
        ("P7_t1_bet P7_t1c_bet P7_t2_bet P7_flair_bet P7_seg_bet", "P7_bet"),
        ("t1-P7 t1ce-P7 t2-P7 flair-P7 seg-P7", "P7"),
        ("P7_T1_reg P7_T1_Gd_reg P7_T2_reg P7_T2_FLAIR_reg P7_label_reg", "P7_reg"),
    ],
)
def test_names_with_the_modality_within_are_read_and_that_is_said(tmp_path, names, identifier):
    for name, values in zip(names.split(), [*IMAGE, np.choose(CLASSES, [0, 1, 2, 4]).astype(np.uint8)], strict=True):
        write_volume(tmp_path / f"{name}.nii.gz", values, LPS)
    write_volume(tmp_path / "P7_mask.nii.gz", IMAGE[0], LPS)
    (case,) = discover(tmp_path)
    assert np.array_equal(read_image(case)[0], IMAGE) and np.array_equal(read_classes(case)[0], CLASSES)
    assert case.identifier == identifier
    assert "told by a word within their names, such as" in case.faults[0].problem


def test_names_alike_in_the_folders_of_their_cases_are_told_by_the_folder(tmp_path):
    for number in range(2):
        for modality, volume in zip(MODALITIES, case_arrays(seed=number)[0], strict=True):
            write_volume(tmp_path / f"P{number}" / f"{modality}_brain.nii.gz", volume, LPS)
    assert [case.identifier for case in discover(tmp_path)] == ["P0", "P1"]


def test_a_folder_of_intermediate_images_is_no_case(tmp_path):
    case = write_case(tmp_path, image=IMAGE, classes=CLASSES)
    write_volume(case.label.parent / "t1" / "brain.nii.gz", IMAGE[0], LPS)
    write_volume(case.label.parent / "seg" / "brain.nii.gz", IMAGE[0], LPS)
    assert discover(tmp_path) == [case]


def test_two_images_in_a_folder_named_for_a_case_and_a_modality_are_said(tmp_path):
    for modality in MODALITIES:
        write_volume(tmp_path / f"P_{modality}" / "image.nii.gz", IMAGE[0], LPS)
    write_volume(tmp_path / "P_t2" / "other.nii.gz", IMAGE[0], LPS)
    assert "image.nii.gz and other.nii.gz are both its t2" in problems(check_case(discover(tmp_path)[0]))


def test_a_line_break_or_a_colour_in_a_name_is_read_and_printed_as_its_byte(tmp_path, capsys):
    case = write_case(tmp_path, image=IMAGE, classes=CLASSES)
    for path in case.files:
        path.rename(path.with_name(path.name.replace("Case_", "Case\n\x1b[31m")))
    assert main(["check", str(tmp_path)]) == 0
    assert "\nCase%0a%1b[31m001 " in capsys.readouterr().out


def test_links_to_case_folders_are_followed_but_not_in_circles(tmp_path):
    case = write_case(tmp_path / "all", image=IMAGE, classes=CLASSES)
    (tmp_path / "fold").mkdir()
    (tmp_path / "fold" / "Case_001").symlink_to(case.label.parent)
    (tmp_path / "fold" / "loop").symlink_to(tmp_path / "fold")
    assert [found.identifier for found in discover(tmp_path / "fold")] == ["Case_001"]


def test_a_folder_that_cannot_be_read_is_said_as_its_cases_would_be_missing(tmp_path):
    cases = [write_case(tmp_path, name, image=IMAGE, classes=CLASSES) for name in ("Case_001", "Case_002")]
    closed = cases[1].label.parent
    closed.chmod(0)
    try:
        if os.access(closed, os.R_OK):
            pytest.skip("this user may read every folder")
        with pytest.raises(DataError, match=r"Case_002 cannot be read \(Permission denied\); change its permissions"):
            discover(tmp_path)
    finally:
        closed.chmod(0o755)


def test_a_reference_with_an_odd_name_belongs_to_the_one_case_beside_it_only(tmp_path):
    for name in ("BraTS20_Training_355", "BraTS20_Validation_001"):
        case = write_case(tmp_path / name, name, image=IMAGE, classes=CLASSES)
        for path in case.files:
            path.rename(tmp_path / path.name)
    for odd, owner in (("W39_1998.09.19_Segm", "BraTS20_Training_355"), ("other_Segm", None)):
        for path in tmp_path.glob("*_[sS]eg*"):
            path.rename(tmp_path / f"{odd}.nii.gz")
        labels = {case.identifier: case.label for case in discover(tmp_path)}
        assert [name for name, label in labels.items() if label] == ([owner] if owner else [])
    assert "other_Segm.nii.gz belongs to no case by its name" in problems(check_case(discover(tmp_path)[1]))


def test_a_reference_is_what_is_named_so_and_others_are_said(tmp_path):
    case = write_case(tmp_path, image=IMAGE, classes=CLASSES)
    for name, said in (("Case_001_mask", False), ("Case_001_brain_seg", True), ("seg", None)):
        other = case.label.rename(case.label.with_name(f"{name}.nii.gz"))
        (found,) = discover(tmp_path)
        assert found.label == (other if said is None else None)
        assert (f"{name}.nii.gz belongs to no case by its name" in problems(check_case(found))) == bool(said)
        other.rename(case.label)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x_t1.mha", b"ObjectType = Image", "1 .mha; convert it: python -c"),
        ("x.dcm", b"", "1 .dcm; convert the DICOM series: dcm2niix"),
        ("x_t1cee.nii.gz", b"", "the nearest known ending of x_t1cee.nii.gz is t1ce"),
        ("T1_MPR/a.nii.gz", b"", "the nearest known ending of T1_MPR is t1"),
        ("a/b.nii.gz", b"", "1 NIfTI files, such as b.nii.gz"),
        ("x.txt", b"", "no NIfTI file, but 1 .txt; name the files"),
        ("a/MR000000", bytes(128) + b"DICM", "but 1 without an ending; these are DICOM files: .* with predict --raw FOLDER"),
        ("dataset.json", b"", "dataset.json does not describe the channels"),
        ("dataset.json", b"{}", "does not describe the channels of MSD"),
    ],
)
def test_a_folder_without_a_case_says_what_it_holds(tmp_path, name, content, sentence):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        discover(tmp_path)


@pytest.mark.parametrize("format", ["nnunet", "msd"])
def test_the_folder_above_a_dataset_names_it(tmp_path, format):
    write_case(tmp_path / "Dataset501_Gliomas", "Case-001", format)
    with pytest.raises(DataError, match=r"holds no case .*; give one of them, such as .*Dataset501_Gliomas$"):
        discover(tmp_path)


def test_of_two_folders_the_only_complete_set_is_the_case_and_the_rest_is_said(tmp_path):
    case = write_case(tmp_path, image=IMAGE, classes=CLASSES)
    derived = tmp_path / "Case_001" / "atlas"
    derived.mkdir()
    for modality in ("t1ce", "flair"):
        write_volume(derived / f"Case_001_{modality}.nii.gz", IMAGE[0], LPS)
    (found,) = discover(tmp_path)
    check = check_case(found)
    assert found.images == case.images and check.usable
    assert "Case_001_flair.nii.gz were left out beside a complete set" in problems(check)
    write_case(tmp_path / "again", image=IMAGE, classes=CLASSES)
    assert "there are 3 cases of this name" in problems(check_case(discover(tmp_path)[0]))


def test_a_file_in_place_of_the_cohort_and_four_volumes_without_a_description_are_said(tmp_path):
    stacked = tmp_path / "BRATS_001.nii.gz"
    nib.Nifti1Image(np.moveaxis(IMAGE, 0, -1), LPS).to_filename(stacked)
    with pytest.raises(DataError, match="is a file, not a folder"):
        discover(stacked)
    with pytest.raises(DataError, match=r"holds four volumes, and no dataset.json says which is which"):
        discover(tmp_path)


# Patients


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (["UPENN-GBM-00001_11", "UPENN-GBM-00001_21", "UPENN-GBM-00002_11"], 2),
        (["UPENN-GBM-00001_11", "UPENN-GBM-00001_21", "Case_1"], 2),
        (["BraTS-GLI-00005-100", "BraTS-GLI-00005-101"], 1),
        (["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"], 2),
        (["BraTS20_Training_001", "BraTS20_Training_002"], 2),
        (["BraTS2021_00001", "BraTS2021_00002"], 2),
        (["2021_001", "2021_002", "2021_003"], 3),
        (["Case_1", "Case_2"], 2),
        (["Brain_Scan_000", "Brain_Scan_001", "Brain_Scan_002"], 3),
        (["anna_week1", "anna_week2", "berta_week1"], 2),
        (["100001_time1", "100001_time2", "100002_time1", "100002_time2"], 2),  # UCSF-ALPTDG
        (["anna_day0", "anna_day30", "berta_month-3", "berta_month-6"], 2),
        (["anna_ses-1", "anna_ses-2"], 1),
        (["GBM-Fudan1-001", "GBM-Fudan1-002", "GBM-Tiantan2-001"], 3),
        (["center-tp53-001", "center-tp53-002", "center-wt-003"], 3),
        (["p07_scan1", "p07_scan2"], 1),
        (["sub-01_ses-1_run-1", "sub-01_ses-1_run-2", "sub-02_ses-1_run-1"], 2),
        (["Patient-001_week-000-1", "Patient-001_week-044"], 1),
        (["P01_20190312", "P01_20200107", "P02_20190312"], 2),
        (["P01-2019-03-12", "P01-2020-01-07", "P02-2019-03-12"], 2),
        (["S01_baseline", "S01_followup1", "S02_baseline"], 2),
        (["S01_pre", "S01_postop", "S02_pre"], 2),
        (["case 1 visit 1", "case 1 visit 2", "case 2 visit 1"], 2),
        (["Brain Scan 001", "Brain Scan 002"], 2),
        (["scan_20190312", "scan_20190313"], 2),
        (["P_20990000", "P_20990001"], 2),
    ],
)
def test_names_tell_patients_apart(names, patients):
    assert len(set(patients_of(names).values())) == patients


def test_a_table_of_patients_comes_before_names(tmp_path):
    for number in range(3):
        write_case(tmp_path / "cohort", f"Case_{number}", seed=number)
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\nCase_0,Ann\nCase_1,Ann\nCase_2,Bob\n")
    assert [case.patient for case in discover(tmp_path / "cohort", patients=str(table))] == ["Ann", "Ann", "Bob"]
    table.write_text("case,patient\nCase_0,Ann\n")
    with pytest.raises(DataError, match="names no patient for 2 cases such as Case_1"):
        discover(tmp_path / "cohort", patients=table)
    with pytest.raises(DataError, match=r"the table of patients .*missing\.csv does not exist; check its path"):
        discover(tmp_path / "cohort", patients=tmp_path / "missing.csv")
    table.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="give a CSV file with the columns case and patient"):
        discover(tmp_path / "cohort", patients=table)
    table.write_text("case,patient\nCase_0,Ann \nCase_1, Ann\nCase_2 ,Bob\nCase_2,Bob\n")
    assert [case.patient for case in discover(tmp_path / "cohort", patients=table)] == ["Ann", "Ann", "Bob"]
    table.write_text("case,patient\nCase_0,Ann\nCase_1,Ann\nCase_2,Bob\nCase_1,Bob\n")
    with pytest.raises(DataError, match="gives case Case_1 two patients, Ann and Bob"):
        discover(tmp_path / "cohort", patients=table)
    table.write_bytes(b"case,patient\nCase_0,M\xfcller\n")
    with pytest.raises(DataError, match=r"patients\.csv is not a table .*save it as text in UTF-8"):
        discover(tmp_path / "cohort", patients=table)


def test_one_image_under_two_names_is_one_patient_and_stays_in_one_part(tmp_path):
    for number in range(6):
        write_case(tmp_path, f"year{number % 2}-{number}", seed=number // 2)
    report = check_cohort(discover(tmp_path), progress=False)
    assert len({case.patient for case in report.usable}) == 3
    assert "it has an image in common with year1-1, so they count as one patient" in problems(report.checks[0])
    manifest = make_splits(report.usable, report.facts, seed=0)
    parts = [manifest.test, *manifest.folds]
    assert all(("year0-0" in part) == ("year1-1" in part) for part in parts)


def test_one_image_cropped_mirrored_or_scaled_is_found_again(tmp_path):
    write_case(tmp_path, "first", image=IMAGE, classes=CLASSES)
    turned = np.pad(IMAGE, [(0, 0), (2, 0), (0, 3), (1, 1)])[:, ::-1].transpose(0, 2, 1, 3) / np.float32(7)
    write_case(tmp_path, "second", image=turned, classes=CLASSES)
    write_case(tmp_path, "third", image=case_arrays(IMAGE.shape[1:], seed=1)[0], classes=CLASSES)
    patients = [check.case.patient for check in check_cohort(discover(tmp_path), progress=False).checks]
    assert patients == ["first", "first", "third"]


# Labels


def test_paediatric_and_post_treatment_references_are_read_with_their_own_numbers(tmp_path):
    for name, numbers in (("BraTS-PED-00001-000", [0, 2, 4, 1]), ("BraTS-GLI-02060-100", [4, 1, 2, 3])):
        case = write_case(tmp_path, name, "brats2023", image=IMAGE, classes=CLASSES)
        values = np.choose(CLASSES, numbers).astype(np.uint8)
        write_volume(case.label, np.where(BRAIN, values, 0).astype(np.uint8), LPS)
    for case in discover(tmp_path):
        assert np.array_equal(read_classes(case)[0], CLASSES), case.identifier
    notes = " ".join(check_cohort(discover(tmp_path), progress=False).notes)
    assert "BraTS-PEDs 2024 (files of 2023 have the same names and the numbers of brats2023): 1 enhancing tumour" in notes
    assert "4 resection cavity (read as background)" in notes


def test_labels_can_be_named(tmp_path, capsys):
    case = write_case(tmp_path, image=IMAGE, classes=CLASSES)
    write_volume(case.label, np.choose(CLASSES, [0, 2, 1, 3]).astype(np.uint8), LPS)
    assert np.array_equal(read_classes(discover(tmp_path, labels="nnunet")[0])[0], CLASSES)
    assert main(["check", str(tmp_path), "--labels", "nnunet"]) == 0
    assert "numbers of nnU-Net: 1 oedema, 2 non-enhancing core, 3 enhancing tumour" in capsys.readouterr().out
    with pytest.raises(DataError, match="there are no labels called 'mine'; choose auto or one of brats2021"):
        discover(tmp_path, labels="mine")


def test_plain_masks_are_said(tmp_path):
    for number in range(2):
        case = write_case(tmp_path, f"Case_{number}", seed=number)
        write_volume(case.label, (read_classes(case)[0] > 0).astype(np.uint8), LPS)
    notes = check_cohort(discover(tmp_path), progress=False).notes
    assert notes[-1].startswith("2 (oedema) and 4 (enhancing tumour) never occur in them: they look like plain tumour masks")


# Files that are written


def test_nothing_private_travels_into_a_label_map(tmp_path):
    image = nib.Nifti1Image(IMAGE[0], LPS)
    image.header["descrip"], image.header["aux_file"], image.header["cal_max"] = b"Jane Doe", b"hot", 1221
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe, 1950"))
    image.header["intent_name"] = b"Jane"
    image.to_filename(tmp_path / "t1.nii.gz")
    like = nib.load(tmp_path / "t1.nii.gz")
    path = write_volume(tmp_path / "map.nii.gz", CLASSES, LPS, like=like)
    content = gzip.decompress(path.read_bytes())
    assert b"Jane" not in content and b"hot" not in content
    assert nib.load(path).header["cal_max"] == 0
    assert np.allclose(nib.load(path).affine, LPS)


def test_one_image_in_two_scales_is_suspected():
    image = IMAGE.astype(np.int16)
    image[1] = np.where(BRAIN, 2 * IMAGE[0] + 7, 0)
    assert "T1 and T1ce seem to be one image in two scales" in check_session(image, LPS).warnings[0]


def test_one_image_in_every_slot_is_refused(tmp_path):
    case = write_case(tmp_path, image=IMAGE, classes=CLASSES)
    same = replace(case, images=dict.fromkeys(MODALITIES, case.images["t1"]))
    with pytest.raises(DataError, match="T1 and T1ce hold the same image"):
        read_session(same)


def test_images_of_several_shapes_are_no_session():
    with pytest.raises(DataError, match=r"case \(unnamed\): the images have the shapes .*; give T1, T1ce, T2 and FLAIR"):
        check_session([*IMAGE[:3], IMAGE[3, :-1]], LPS)
    with pytest.raises(DataError, match="the images have the shapes"):
        check_session(IMAGE[:3], LPS)


def test_a_warning_of_images_without_a_name_begins_with_what_is_wrong():
    (warning,) = check_session(np.where(IMAGE == 0, np.nan, IMAGE), LPS).warnings
    assert warning.startswith("the background is not 0")


def test_a_home_folder_of_nobody_is_one_sentence(capsys):
    assert main(["check", "~nobody-of-this-name/cohort"]) == 1
    assert "~nobody-of-this-name/cohort begins with the home folder of nobody here" in capsys.readouterr().err


def test_a_link_to_nowhere_in_place_of_a_result_is_said_before_the_work(tmp_path, capsys):
    (tmp_path / "disk").symlink_to(tmp_path / "unmounted")
    write_case(tmp_path / "cohort", image=IMAGE, classes=CLASSES)
    for out in (tmp_path / "disk", tmp_path / "disk" / "copy"):
        assert main(["convert", str(tmp_path / "cohort"), "--to", "bids", "--out", str(out)]) == 1
        assert "disk is a link to" in capsys.readouterr().err
