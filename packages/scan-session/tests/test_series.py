"""What is in a folder from the scanner: each good series, and a sentence for each bad one."""

import gzip
import io
import os
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conftest import SLICES, TIMING, save, slices
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless, generate_uid

from scan_session import SessionError, find_series
from scan_session.find import _header
from scan_session.grid import array_of, read_nifti


def only(folder):
    (series,) = find_series(folder)
    return series


def test_four_series_are_recognised_by_their_timing(session):
    found = find_series(session)
    assert {one.modality: one.number for one in found} == {kind: str(number) for number, kind in enumerate(TIMING, 2)}
    assert all(one.shape == (40, 32, SLICES) and one.spacing == pytest.approx((5, 5, 6)) for one in found)
    flair = next(one for one in found if one.modality == "flair")
    assert flair.reason == "FLAIR: TR 9000 ms, TE 120 ms, TI 2500 ms"


def test_voxels_lie_where_the_header_says(session):
    series = find_series(session)[0]
    image = series.read()
    corners = [image.TransformIndexToPhysicalPoint((x, y, z)) for x in (0, 39) for y in (0, 31) for z in (0, SLICES - 1)]
    for header in (pydicom.dcmread(series.files[0]), pydicom.dcmread(series.files[-1])):
        assert min(np.linalg.norm(np.subtract(corner, header.ImagePositionPatient)) for corner in corners) < 0.01
        row, column = (
            np.argwhere(header.pixel_array).mean(0).round().astype(int).tolist() if header.pixel_array.any() else (3, 4)
        )
        across, down = np.reshape(header.ImageOrientationPatient, (2, 3)) * 5
        point = np.array(header.ImagePositionPatient) + column * across + row * down
        assert image[image.TransformPhysicalPointToIndex(point.tolist())] == header.pixel_array[row, column]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "is a colour image"),
        ({"PixelSpacing": None}, "has no pixel spacing"),
        ({"ImagePositionPatient": None}, "does not say where its slices lie"),
        ({"Modality": "CT"}, "is CT, not MR"),
        ({"BodyPartExamined": "KNEE"}, "shows the knee, not the head"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "is a localiser by its header"),
        ({"ImageType": ["DERIVED", "PRIMARY", "ADC"]}, "is diffusion by its header"),
        ({"DiffusionBValue": 1000.0}, "is diffusion by its header"),
        ({"ImageType": ["DERIVED", "PRIMARY", "SUBTRACTION"]}, "is a subtraction by its header"),
        ({"ScanningSequence": ["SE", "EP"], "DiffusionBValue": 0.0}, "is echo-planar by its header"),
        ({"EchoPlanarPulseSequence": "YES"}, "is echo-planar by its header"),
        ({"SeriesDescription": "ep2d_diff_b1000"}, "is diffusion by its description"),
        ({"SeriesDescription": "isoDWI"}, "is diffusion by its description"),
        ({"SeriesDescription": "T1 difference"}, "is a subtraction by its description"),
        ({"SeriesDescription": "3DTOF 3SLABS"}, "is angiography by its description"),
        ({"SeriesDescription": "DIR 3D SPACE"}, "is double inversion recovery by its description"),
        ({"SeriesDescription": "CISS"}, "is a balanced gradient echo by its description"),
        ({"SeriesDescription": "T1 Map"}, "is a parameter map by its description"),
        ({"SeriesDescription": "SWI_Images"}, "is susceptibility by its description"),
        ({"ScanningSequence": "GR", "EchoTime": 20}, "T2*"),
        ({"EchoTime": 15, "RepetitionTime": 3000}, "proton density"),
        ({"PixelSpacing": [1, 1]}, "covers 32 mm, less than a brain"),
    ],
)
def test_a_series_of_no_use_says_why(tmp_path, changes, sentence):
    headers = slices("t1", number=5, **changes)
    for header in headers:
        header.PixelData = header.PixelData * int(header.get("SamplesPerPixel", 1))
    series = only(save(headers, tmp_path))
    assert series.modality is None and sentence in series.fault


def faulty(kind: str):
    headers = slices("t2", number=5)
    normal = np.subtract(headers[1].ImagePositionPatient, headers[0].ImagePositionPatient) / 6
    if kind == "missing":
        del headers[5:7]
    if kind == "one":
        del headers[1:]
    for index, header in enumerate(headers):
        place = np.array(header.ImagePositionPatient)
        if kind == "unequal":
            header.ImagePositionPatient = (place + normal * (22 if index > 7 else 0)).tolist()
        if kind == "tilt":
            header.ImagePositionPatient = (place + np.array([2.0, 0, 0]) * index).tolist()
        if kind == "twice":
            header.ImagePositionPatient = list(headers[index % 4].ImagePositionPatient)
    return headers


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing", "lacks 2 of its 16 slices"),
        ("one", "has one slice"),
        ("unequal", "has slices 6.0 to 28.0 mm apart"),
        ("tilt", "is tilted by 18 degrees against its stack (gantry tilt)"),
        ("twice", "has 16 images at 4 places, as perfusion, diffusion and series exported twice have"),
    ],
)
def test_slices_that_make_no_volume(tmp_path, kind, sentence):
    assert sentence in only(save(faulty(kind), tmp_path)).fault


def test_slightly_unequal_slices_are_brought_to_equal_distances_and_said(tmp_path):
    headers = slices("t2", number=5)
    step = np.cross([1, 0, 0], [0, np.cos(0.2), np.sin(0.2)])
    for header in headers[8:]:
        header.ImagePositionPatient = (np.array(header.ImagePositionPatient) + 2.0 * step).tolist()
    series = only(save(headers, tmp_path))
    assert "6.0 to 8.0 mm apart" in series.warnings[0] and series.modality == "t2"
    assert series.read().GetSize()[2] >= SLICES


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize(
    "heights", [lambda index: 6 * index + 0.05 * index**2, lambda index: 6 * index + 0.15 * max(0, index - 8)]
)
@pytest.mark.parametrize("descending", [False, True])
def test_unequal_slices_lie_where_the_headers_say(tmp_path, bits, heights, descending):
    headers = slices("t2", number=5, BitsStored=bits, HighBit=bits - 1)
    first, normal = np.array([-100.0, -75, -45]), np.cross(*np.reshape(headers[0].ImageOrientationPatient, (2, 3)))
    for index, header in enumerate(headers):
        header.ImagePositionPatient = (first + heights(index) * normal).tolist()
        header.PixelData = np.full((32, 40), round(1000 + 20 * heights(index)), np.uint16).tobytes()
        header.InstanceNumber = SLICES - index if descending else index
    image = only(save(headers, tmp_path)).read()
    for index in range(image.GetSize()[2]):
        height = (np.array(image.TransformIndexToPhysicalPoint((20, 15, index))) - first) @ normal
        assert (image[20, 15, index] - 1000) / 20 == pytest.approx(height, abs=0.15)


@pytest.mark.parametrize("step", [0.0, 0.05])
def test_a_sagittal_3d_acquisition_lies_where_the_headers_say(tmp_path, step):
    """dcm2niix turns it: its slices are another axis of the image."""
    headers = slices("t1", number=5, MRAcquisitionType="3D", SpacingBetweenSlices=None)
    for index, header in enumerate(headers):
        place = -40 + 4 * index + step * index**2
        header.ImageOrientationPatient, header.ImagePositionPatient = [0, 1, 0, 0, 0, -1], [place, -75, 60]
        header.PixelData = np.full((32, 40), round(1000 + 20 * place), np.uint16).tobytes()
    image = only(save(headers, tmp_path)).read()
    values = sitk.GetArrayFromImage(image)
    for index in np.ndindex(*image.GetSize()):
        if all(0 < at < length - 1 for at, length in zip(index, image.GetSize(), strict=True)):
            place = image.TransformIndexToPhysicalPoint([int(at) for at in index])[0]
            assert (values[index[::-1]] - 1000) / 20 == pytest.approx(place, abs=0.15)


def test_patients_and_sessions_are_not_mixed(tmp_path):
    save(slices("t1", number=1), tmp_path / "a")
    save(slices("t2", number=2, study="1.2.4", StudyDate="20011231"), tmp_path / "b")
    with pytest.raises(SessionError, match=r"2 sessions of one patient.*choose one with --study"):
        find_series(tmp_path)
    assert [one.modality for one in find_series(tmp_path, study=2)] == ["t2"]
    for study in (0, 3):
        with pytest.raises(SessionError, match=f"there is no session {study}; choose --study 1 to 2"):
            find_series(tmp_path, study=study)
    save(slices("t2", number=3, patient="B"), tmp_path / "c")
    with pytest.raises(SessionError, match="images of 2 patients"):
        find_series(tmp_path)


def test_a_screen_capture_that_names_no_patient_is_of_the_same(tmp_path):
    save(slices("t1", number=1), tmp_path / "a")
    save(slices("t1", number=2, Modality="OT", PatientID=None, PatientName=None), tmp_path / "b")
    assert [one.modality or one.fault for one in find_series(tmp_path)] == ["t1", "is OT, not MR"]
    save(slices("t1", number=3, Modality="OT", PatientID=None), tmp_path / "c")  # of Doe^A, as the others
    assert len(find_series(tmp_path)) == 3


def test_slices_of_slightly_different_echo_time_or_orientation_are_one_series(tmp_path):
    headers = slices("t2", number=1)
    normal = np.cross([1, 0, 0], [0, 0.75**0.5 * 1.25**0.5, 0.25])
    for index, header in enumerate(headers):
        header.EchoTime = 88.46 if index % 2 else 88.54
        header.ImageOrientationPatient = [1, 0, 0, 0, 0.9682458, 0.2499999 if index % 2 else 0.2500001]
        header.ImagePositionPatient = (np.array([-100.0, -75, -45]) + 6 * index * normal).tolist()
    assert only(save(headers, tmp_path)).shape == (40, 32, SLICES)


def test_slices_without_identifiers_are_all_kept(tmp_path):
    headers = slices("t1", number=1)
    for index, header in enumerate(headers):
        del header.SOPInstanceUID
        header.save_as(tmp_path / f"IM{index}")
    assert only(tmp_path).shape == (40, 32, SLICES)


@pytest.mark.parametrize(
    ("protocols", "labels"),
    [
        (["BRAIN PERFUSION W CONTRAST"] * 2, ["series 1", "series 2"]),
        (["T1 MPRAGE", "T2 TSE"], ["series 1 (T1 MPRAGE)", "series 2 (T2 TSE)"]),
    ],
)
def test_the_protocol_describes_a_series_unless_all_share_it(tmp_path, protocols, labels):
    for number, (kind, protocol) in enumerate(zip(("t1", "t2"), protocols, strict=True), 1):
        save(slices(kind, number=number, ProtocolName=protocol), tmp_path / kind)
    found = find_series(tmp_path)
    assert [one.modality for one in found] == ["t1", "t2"] and [one.label for one in found] == labels


def test_folders_without_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SessionError, match=f"^{tmp_path.name} has no DICOM"):
        find_series(".")
    with pytest.raises(SessionError, match="is not a folder"):
        find_series(tmp_path / "absent")
    with pytest.raises(SessionError, match="no DICOM or NIfTI file"):
        find_series(tmp_path)


def document(kind: str) -> pydicom.Dataset:
    """A DICOM file that holds no image: a structured report, or a PDF in a DICOM envelope."""
    header = slices("t1", number=9)[0]
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(header, keyword)
    header.Modality = "SR" if kind == "SR" else "DOC"
    header.SOPClassUID = pydicom.uid.BasicTextSRStorage if kind == "SR" else pydicom.uid.EncapsulatedPDFStorage
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    if kind == "PDF":
        header.MIMETypeOfEncapsulatedDocument, header.EncapsulatedDocument = "application/pdf", b"%PDF-1.7 for Doe "
    return header


@pytest.mark.parametrize(("kind", "name"), [("SR", "Basic Text SR Storage"), ("PDF", "Encapsulated PDF Storage")])
def test_a_document_is_no_image_alone_or_among_series(tmp_path, session, kind, name):
    save([document(kind)], tmp_path / "alone")
    with pytest.raises(SessionError, match=rf"no image in it .*_9 is no image \({name}\)"):
        find_series(tmp_path / "alone")
    save([document(kind)], session / "documents")
    found = find_series(session)
    assert [one.fault for one in found if one.fault] == [f"is no image ({name})"]
    assert len([one for one in found if one.modality]) == 4


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("MR_small_RLE.dcm", "has one slice"),
        ("MR_small_bigendian.dcm", "has one slice"),
        ("MR_truncated.dcm", "ends before the last of its image's 8192 bytes"),
        ("badVR.dcm", "is damaged"),
        ("image_dfl.dcm", "is OT, not MR"),
        ("SC_ybr_full_422_uncompressed.dcm", "is a colour image"),
        ("SC_rgb_rle_2frame.dcm", "is a colour image"),
        ("rtdose.dcm", "is RTDOSE, not MR"),
        ("JPEGLSNearLossless_16.dcm", "does not say to which series it belongs"),
        ("test-SR.dcm", "is no image (Comprehensive SR Storage)"),
        ("waveform_ecg.dcm", "is no image (12-lead ECG Waveform Storage)"),
        ("nested_priv_SQ.dcm", "nested_priv_SQ.dcm is no image)"),
    ],
)
def test_files_of_other_makers(tmp_path, name, sentence):
    source = get_testdata_file(name, download=False)
    (tmp_path / name).write_bytes(Path(source).read_bytes())
    try:
        found = only(tmp_path).fault
    except SessionError as error:
        found = str(error)
    assert sentence in found


def test_damaged_files_are_left_out_by_name(session):
    whole = next((session / "A").iterdir())
    (session / "A" / "cut.dcm").write_bytes(whole.read_bytes()[:-500])
    (session / "A" / "noise.dcm").write_bytes(b"no DICOM at all")
    odd = {one.files[0].name: one.fault for one in find_series(session) if one.fault}
    assert "ends before the last" in odd["cut.dcm"] and "is damaged" in odd["noise.dcm"]


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit], ids=lambda uid: uid.name)
def test_compressed_series_are_read(tmp_path, syntax):
    headers = slices("t1", number=1)
    whole = np.stack([header.pixel_array for header in headers])
    for header in headers:
        pixels = header.pixel_array
        if syntax in (RLELossless, JPEGLSLossless):
            header.compress(syntax, generate_instance_uid=False)
            continue
        if syntax == JPEGBaseline8Bit:
            pixels = (pixels // 8).astype(np.uint8)
            header.BitsAllocated = header.BitsStored = 8
            header.HighBit = 7
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="JPEG" if syntax == JPEGBaseline8Bit else "JPEG2000", **(
            {"quality": 95} if syntax == JPEGBaseline8Bit else {"irreversible": False, "no_jp2": True}))  # fmt: skip
        header.PixelData = encapsulate([stream.getvalue()])
        header["PixelData"].is_undefined_length = True
        header.file_meta.TransferSyntaxUID = syntax
    found = array_of(only(save(headers, tmp_path)).read())
    expected = whole // 8 if syntax == JPEGBaseline8Bit else whole
    assert np.sort(found.ravel()) == pytest.approx(np.sort(expected.ravel()), abs=12 if syntax == JPEGBaseline8Bit else 0)


def test_a_series_that_dcm2niix_divides_is_not_taken_for_whole(tmp_path):
    headers = slices("t1", number=5)
    for header in headers[8:]:
        header.StudyTime = "130000"
    series = only(save(headers, tmp_path))
    with pytest.raises(SessionError, match=r"was read as \(40, 32, 8\) voxels, and has \(40, 32, 16\)"):
        series.read()


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_no_length_at_which_a_file_was_cut_off_stops_the_search(tmp_path):
    save(slices("t1", number=5), tmp_path / "whole")
    content = next((tmp_path / "whole").iterdir()).read_bytes()
    path = tmp_path / "IM1"
    for length in range(132, len(content) - 40 * 32 * 2, 2):
        path.write_bytes(content[:length])
        found = _header(path)
        assert isinstance(found, str) or "Rows" not in found, length


@pytest.mark.filterwarnings("ignore:Invalid value for VR IS")
@pytest.mark.parametrize("odd", ["1a", "1\\2"])
def test_an_odd_series_number_and_no_preamble_are_no_obstacle(tmp_path, odd):
    headers = slices("t1", number=5)
    for index, header in enumerate(headers):
        header.add(pydicom.DataElement("SeriesNumber", "LO", odd))
        header.preamble, header.file_meta = None, pydicom.dataset.FileMetaDataset()
        header.save_as(tmp_path / f"IM{index}", implicit_vr=True, little_endian=True)
    series = only(tmp_path)
    assert (series.modality, series.number) == ("t1", "1") and len(series.fingerprint) == 16


def test_a_contrast_agent_that_an_enhanced_object_lists_is_seen(tmp_path):
    agent = pydicom.Dataset()
    agent.CodeMeaning = "Gadobutrol"
    headers = slices("t1", number=5, ContrastBolusAgentSequence=pydicom.Sequence([agent]))
    assert only(save(headers, tmp_path)).modality == "t1ce"


def test_a_series_that_no_program_decodes_is_named(tmp_path):
    headers = slices("t1", number=1)
    for header in headers:
        header.PixelData = encapsulate([b"no picture at all "])
        header["PixelData"].is_undefined_length = True
        header.file_meta.TransferSyntaxUID = JPEG2000Lossless
    with pytest.raises(SessionError, match=r"series 1 .*export the series again"):
        only(save(headers, tmp_path)).read()


def test_an_enhanced_multi_frame_series_is_read(tmp_path):
    headers = slices("t1", number=1)
    frames = hd.legacy.LegacyConvertedEnhancedMRImage(
        headers, series_instance_uid=generate_uid(), series_number=7, sop_instance_uid=generate_uid(), instance_number=1
    )
    tmp_path.joinpath("enhanced").mkdir()
    frames.save_as(tmp_path / "enhanced" / "IM1")
    series = only(tmp_path)
    assert series.shape == (40, 32, SLICES) and series.modality == "t1"
    assert array_of(series.read()).max() == max(header.pixel_array.max() for header in headers)


def test_nifti_files_beside_dicom_are_left_out_and_said(session):
    nib.save(nib.Nifti1Image(np.ones((40, 40, 30), np.float32), np.diag([4.0, 4, 4, 1])), session / "t1.nii.gz")
    found = find_series(session)
    assert [one.fault for one in found if one.fault] == [
        "is NIfTI beside DICOM files, which are taken; give it a folder of its own"
    ]
    assert len([one for one in found if one.modality]) == 4


def test_names_dates_and_numbers_do_not_reach_a_label(tmp_path):
    headers = slices(
        "t1", number=3, SeriesDescription="t1_tse Doe 19991231 A77", BurnedInAnnotation="YES", OtherPatientIDs="A77"
    )
    series = only(save(headers, tmp_path))
    assert series.label == "series 3 (t1_tse ... ... ...)"
    assert "burnt-in text" in series.warnings[0]
    assert "Doe" not in str(series.facts) and "1999" not in str(series.facts)


@pytest.mark.parametrize("text", ["05-Nov-2026", "5NOV26", "Nov 5, 2026", "5. november 2026", "2026-MAI-05", "12_Dez_2026"])
def test_dates_with_the_month_as_a_word_do_not_reach_a_label(tmp_path, text):
    series = only(save(slices("t1", number=3, SeriesDescription=f"T1 MPRAGE {text} 1.0 mm"), tmp_path))
    assert series.label == "series 3 (T1 MPRAGE ... 1.0 mm)"


@pytest.mark.parametrize("text", ["2026-11-05", "05.11.2026", "5/11/26", "1999_12_31", "Li", "A-17", "li bo"])
def test_dates_with_separators_short_names_and_short_numbers_do_not_reach_a_label(tmp_path, text):
    headers = slices("t1", number=3, SeriesDescription=f"T1 MPRAGE {text} 1.0 mm", PatientName="Li^Bo", PatientID="A-17")
    label = only(save(headers, tmp_path)).label
    assert "T1 MPRAGE ..." in label and label.endswith("1.0 mm)")
    assert text.lower() not in label.lower()


@pytest.mark.parametrize(
    ("patient", "text"),
    [
        ("Müller^Jörg", "MULLER"),
        ("Müller^Jörg", "Mueller"),
        ("Mueller^Joerg", "Müller"),
        ("Müller^Jörg", "Mu\u0308ller"),
        ("Wang^XiaoDong=王^小东", "王小东"),
    ],
)
def test_a_name_that_is_written_otherwise_does_not_reach_a_label(tmp_path, patient, text):
    headers = slices("t1", number=3, SeriesDescription=f"{text} T1", PatientName=patient, SpecificCharacterSet="ISO_IR 192")
    assert only(save(headers, tmp_path)).label == "series 3 (... T1)"


@pytest.mark.parametrize(
    "changes", [{"PatientName": "Post^Anna"}, {"PatientName": "Post"}, {"InstitutionName": "Post Road MRI"}]
)
def test_a_name_that_is_a_keyword_is_read_and_not_shown(tmp_path, changes):
    series = only(save(slices("t1", number=3, SeriesDescription="T1 post", **changes), tmp_path))
    assert series.modality == "t1ce" and series.label == "series 3 (T1 ...)"


def test_numbers_after_the_weighting_are_no_date(tmp_path):
    assert "AX_T2_5_10 TSE" in only(save(slices("t2", number=3, SeriesDescription="AX_T2_5_10 TSE"), tmp_path)).label


def test_a_study_is_not_asked_of_nifti_files_in_vain(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((40, 40, 30), np.float32), np.diag([4.0, 4, 4, 1])), tmp_path / "t1.nii.gz")
    with pytest.raises(SessionError, match="these are NIfTI; leave it out"):
        find_series(tmp_path, study=2)


def test_nifti_files_of_any_name(tmp_path):
    image = nib.Nifti1Image(np.ones((40, 40, 30), np.float32), np.diag([4.0, 4, 4, 1]))
    for name in ("p7_t1w", "p7_T1_post", "p7-flair", "p7_t2_tse", "deep/p7_t1c", "p7_seg", "p7_x", "deep/p7_mask"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nib.save(image, tmp_path / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((40, 40, 30, 5), np.float32), np.eye(4)), tmp_path / "p7_four.nii.gz")
    (tmp_path / "p7_cut_t2.nii.gz").write_bytes((tmp_path / "p7_t2_tse.nii.gz").read_bytes()[:80])
    found = {one.files[0].name.removesuffix(".nii.gz"): one for one in find_series(tmp_path)}
    kinds = {name: one.modality for name, one in found.items() if one.modality}
    assert kinds == {"p7_t1w": "t1", "p7_T1_post": "t1ce", "p7-flair": "flair", "p7_t2_tse": "t2", "p7_t1c": "t1ce"}
    assert found["p7_x"].reason == "has a name that does not say what it is"
    assert "has shape (40, 40, 30, 5)" in found["p7_four"].fault and "mask" in found["p7_seg"].fault
    assert "is damaged" in found["p7_cut_t2"].fault


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"EchoTime": ["100", "10"]}, ""),
        ({"EchoTime": "abc"}, "fits none of the four by its timing"),
        ({"PixelSpacing": ["5,0", "5,0"]}, "has no pixel spacing"),
        ({"ImageOrientationPatient": ["1", "0", "0"]}, "does not say where its slices lie"),
        ({"ImageOrientationPatient": ["a"] * 6}, "does not say where its slices lie"),
        ({"ImagePositionPatient": ["1", "0"]}, "does not say where its slices lie"),
        ({"ImagePositionPatient": ["a", "b", "c"]}, "does not say where its slices lie"),
    ],
)
def test_odd_numbers_in_a_header_spoil_one_series_alone(session, changes, sentence):
    headers = slices("t2", number=9)
    for header in headers:
        for keyword, value in changes.items():
            header.add(pydicom.DataElement(keyword, "LO", value))
    save(headers, session / "odd")
    found = find_series(session)
    assert len([one for one in found if one.modality]) >= 4
    assert sentence in next(one.fault for one in found if one.number == "9")


def test_links_in_a_circle_are_followed_once(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((40, 40, 30), np.float32), np.diag([4.0, 4, 4, 1])), tmp_path / "t1.nii.gz")
    (tmp_path / "again").symlink_to(tmp_path)
    assert only(tmp_path).modality == "t1"


def test_a_folder_that_cannot_be_read_is_said_unless_it_is_hidden(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((40, 40, 30), np.float32), np.diag([4.0, 4, 4, 1])), tmp_path / "t1.nii.gz")
    closed = tmp_path / ".Trashes"
    closed.mkdir(mode=0)
    try:
        if os.access(closed, os.R_OK):
            pytest.skip("this user may read every folder")
        assert only(tmp_path).modality == "t1"
        closed = closed.rename(tmp_path / "SE000002")
        with pytest.raises(SessionError, match=r"SE000002 cannot be read \(Permission denied\); change its permissions"):
            find_series(tmp_path)
    finally:
        closed.chmod(0o755)


def damaged(kind: str) -> bytes:
    """A compressed NIfTI file of noise that was changed in its header or its voxels, or holds no plain numbers."""
    voxels = np.random.default_rng(0).integers(0, 255, (40, 40, 30), np.uint8)
    if kind == "colours":
        voxels = np.zeros(voxels.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    content = bytearray(nib.Nifti1Image(voxels.astype(np.complex64) if kind == "complex" else voxels, np.eye(4) * 4).to_bytes())
    if kind == "type":
        content[70:72] = (9999).to_bytes(2, "little")
    packed = bytearray(gzip.compress(bytes(content), 0 if kind == "checksum" else 6))
    if kind == "checksum":
        packed[5000] ^= 1
    if kind == "deflate":
        packed[10:40] = b"\xff" * 30
    return bytes(packed)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("type", "cannot be read"),
        ("deflate", "cannot be read"),
        ("checksum", "cannot be read .*CRC"),
        ("colours", "holds .*not plain numbers"),
        ("complex", "holds complex64, not plain numbers"),
    ],
)
def test_nifti_files_that_hold_no_right_image_are_one_sentence(tmp_path, kind, sentence):
    path = tmp_path / "t1.nii.gz"
    path.write_bytes(damaged(kind))
    assert len(find_series(tmp_path)) == 1
    with pytest.raises(SessionError, match=rf"t1\.nii\.gz {sentence}"):
        read_nifti(path)


def test_voxels_that_are_no_finite_number_are_0(tmp_path):
    values = np.ones((10, 10, 10), np.float32)
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    nib.save(nib.Nifti1Image(values, np.diag([4.0, 4, 4, 1])), tmp_path / "t1.nii.gz")
    assert np.unique(array_of(read_nifti(tmp_path / "t1.nii.gz"))).tolist() == [0, 1]


def test_an_image_of_one_value_is_named(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((40, 40, 30), np.float32), np.diag([4.0, 4, 4, 1])), tmp_path / "flair.nii.gz")
    with pytest.raises(SessionError, match=r"file 1 \(flair\.nii\.gz\) has the same value in every voxel"):
        only(tmp_path).read()


def test_an_archive_is_to_be_unpacked(tmp_path):
    (tmp_path / "scan.zip").write_bytes(b"PK")
    for folder in (tmp_path, tmp_path / "scan.zip"):
        with pytest.raises(SessionError, match="unpack an archive first"):
            find_series(folder)
