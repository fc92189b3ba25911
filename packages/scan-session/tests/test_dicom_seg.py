"""A label map goes back into the series that it came from, and both readers of DICOM SEG find it there."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from scan_session import Session, SessionError, find_series, to_native, volumes, write_dicom_seg
from scan_session.grid import affine_of, array_of, image_of, matrix_of


@pytest.fixture
def native(session, tmp_path):
    """The T1ce of the session, and a label map on its grid that a turned case of 3 mm gave."""
    series = next(one for one in find_series(session) if one.modality == "t1ce")
    image = series.read()
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.1, -0.2, 0.15)
    turn.SetTranslation([10.0, -5.0, 7.0])
    prepared = Session(tmp_path / "case", "t1", {"t1ce": matrix_of(turn)}, {"t1ce": (image.GetSize(), affine_of(image))}, {})
    middle = matrix_of(turn.GetInverse()) @ affine_of(image) @ [20, 15, 8, 1]
    x, y, z = np.indices((50, 50, 50)) * 3.0 + np.reshape(middle[:3] - 75, (3, 1, 1, 1))
    distance = np.sqrt(sum((axis - at) ** 2 for axis, at in zip((x, y, z), middle[:3], strict=True)))
    classes = np.select([distance < 10, distance < 20, distance < 35], [1, 4, 2], 0).astype(np.uint8)
    grid = np.diag([3.0, 3, 3, 1])
    grid[:3, 3] = middle[:3] - 75
    label_map = image_of(classes, grid)
    return series, to_native(label_map, prepared, "t1ce"), label_map


def test_the_label_map_returns_to_the_series(native):
    series, found, label_map = native
    assert found.GetSize() == series.read().GetSize()
    classes = array_of(found)
    assert classes[20, 15, 8] == 1 and set(np.unique(classes)) == {0, 1, 2, 4}
    before, after = volumes(label_map), volumes(found)
    assert before["WT"] == pytest.approx(4 / 3 * np.pi * 3.5**3, rel=0.03)
    assert after["WT"] == pytest.approx(before["WT"], rel=0.05) and after["TC"] == pytest.approx(before["TC"], rel=0.1)


def test_a_dicom_seg_is_the_label_map_for_both_readers(native, tmp_path):
    series, found, _ = native
    path = write_dicom_seg(tmp_path / "seg.dcm", found, series, algorithm="phantom U-Net", version="1.2")
    segmentation = hd.seg.segread(path)
    assert segmentation.SeriesDescription == "For research, not for diagnosis"
    assert segmentation.PatientID == "A" and segmentation.StudyInstanceUID == "1.2.3"
    first = segmentation.get_segment_description(3)
    assert first.segmented_property_type.value == "C113842" and first.algorithm_identification[0].AlgorithmVersion == "1.2"
    expected = array_of(found)
    expected = np.where(expected == 4, 3, expected)
    volume = segmentation.get_volume(combine_segments=True)
    again = sitk.GetImageFromArray(volume.array.astype(np.uint8))
    again.SetOrigin(volume.affine[:3, 3].tolist())
    steps = volume.affine[:3, [2, 1, 0]]
    spacing = np.linalg.norm(steps, axis=0)
    again.SetSpacing(spacing.tolist())
    again.SetDirection((steps / spacing).ravel().tolist())
    placed = sitk.Resample(again, found, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    assert np.array_equal(array_of(placed), expected)

    if not shutil.which("segimage2itkimage"):
        pytest.skip("dcmqi is not installed")
    words = ["segimage2itkimage", "--inputDICOM", path, "--outputDirectory", tmp_path, "--outputType", "nii", "--mergeSegments"]
    subprocess.run(words, check=True, capture_output=True)
    (written,) = tmp_path.glob("*.nii*")
    from_dcmqi = sitk.ReadImage(str(written), sitk.sitkUInt8)
    placed = sitk.Resample(from_dcmqi, found, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    assert np.array_equal(array_of(placed), expected)
    described = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert "Enhancing Lesion" in str(described)


def test_headers_without_names_or_with_impossible_dates_are_taken(native, tmp_path):
    series, found, _ = native
    files = []
    for file in series.files:
        header = pydicom.dcmread(file)
        header.PatientBirthDate, header.PatientSex = "19630229", "X"
        del header.StudyID, header.SliceThickness
        files.append(tmp_path / file.name)
        header.save_as(files[-1])
    path = write_dicom_seg(tmp_path / "seg.dcm", found, replace(series, files=tuple(files)), algorithm="x", version="1")
    segmentation = hd.seg.segread(path)
    assert (segmentation.PatientBirthDate or "", segmentation.PatientSex or "", segmentation.StudyID or "") == ("", "", "")
    stored = segmentation.get_volume(combine_segments=True).array
    assert np.count_nonzero(stored) == np.count_nonzero(array_of(found))


def test_a_series_from_japan_is_taken(native, tmp_path):
    series, found, _ = native
    files, name = [], "Yamada^Tarou=山田^太郎"
    for index, file in enumerate(series.files):
        header = pydicom.dcmread(file)
        header.SpecificCharacterSet, header.PatientName = ["", "ISO 2022 IR 87"], name
        header.ImageOrientationPatient = [edge + 1e-5 * (index % 2) for edge in header.ImageOrientationPatient]
        files.append(tmp_path / file.name)
        header.save_as(files[-1])
    path = write_dicom_seg(tmp_path / "seg.dcm", found, replace(series, files=tuple(files)), algorithm="x", version="1")
    segmentation = hd.seg.segread(path)
    assert segmentation.PatientName == name
    stored = segmentation.get_volume(combine_segments=True).array
    assert np.count_nonzero(stored) == np.count_nonzero(array_of(found))


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SOPClassUID"])
def test_a_series_to_which_no_dicom_seg_can_refer_is_one_sentence(native, tmp_path, keyword):
    series, found, _ = native
    files = []
    for file in series.files:
        header = pydicom.dcmread(file)
        delattr(header, keyword)
        files.append(tmp_path / file.name)
        header.save_as(files[-1])
    with pytest.raises(SessionError, match="to which no DICOM SEG can refer; leave out --dicom-seg"):
        write_dicom_seg(tmp_path / "seg.dcm", found, replace(series, files=tuple(files)), algorithm="x", version="1")


def test_no_warning_quotes_an_identifier(native, tmp_path, recwarn):
    whole, found, _ = native
    (tmp_path / "odd").mkdir()
    for path in whole.files:
        header = pydicom.dcmread(path)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
            header[keyword] = pydicom.DataElement(keyword, "UI", "1.2.DOE", validation_mode=pydicom.config.IGNORE)
        header.save_as(tmp_path / "odd" / path.name)
    recwarn.clear()
    (series,) = find_series(tmp_path / "odd")
    assert len(series.fingerprint) == 16
    write_dicom_seg(tmp_path / "seg.dcm", found, series, algorithm="x", version="1")
    assert not [str(warning.message) for warning in recwarn if "DOE" in str(warning.message)]


def test_a_series_without_a_frame_of_reference_has_no_dicom_seg(native, tmp_path):
    series, found, _ = native
    header = pydicom.dcmread(series.files[0])
    del header.FrameOfReferenceUID
    header.save_as(tmp_path / "IM0")
    with pytest.raises(SessionError, match="no frame of reference"):
        write_dicom_seg(tmp_path / "seg.dcm", found, replace(series, files=(tmp_path / "IM0",)), algorithm="x", version="1")


def test_nifti_has_no_dicom_seg(native, tmp_path):
    series, found, _ = native
    with pytest.raises(SessionError, match="refers to a DICOM series"):
        write_dicom_seg(
            tmp_path / "seg.dcm", found, replace(series, files=(tmp_path / "a.nii.gz",)), algorithm="x", version="1"
        )


def label_map(*numbers: float):
    return image_of(np.resize(np.array(numbers, np.float32), (10, 10, 10)), np.diag([4.0, 4, 4, 1]))


def test_labels_that_floating_point_made_uneven_are_rounded_not_lost():
    grids = {"t1": ((10, 10, 10), np.diag([4.0, 4, 4, 1]))}
    session = Session(Path("case"), "t1", {"t1": np.eye(4)}, grids, {})
    uneven = label_map(0.99999994, 2.0000002)
    assert volumes(uneven) == volumes(label_map(1, 2)) and volumes(uneven)["TC"] == 32
    assert np.array_equal(array_of(to_native(uneven, session, "t1")), array_of(label_map(1, 2)))


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ((0, 255), "holds 255, and labels of BraTS are 0 to 4"),
        ((0, 257), "holds 257,"),
        ((0, -1), "holds -1,"),
        ((0, 0.4), "holds 0.4,"),
        ((1, 2, 3, 4), "holds both 3 and 4"),
    ],
)
def test_numbers_that_would_be_lost_or_mistaken_are_refused(native, tmp_path, numbers, sentence):
    series, _, _ = native
    session = Session(tmp_path, "t1", {"t1": np.eye(4)}, {"t1": ((10, 10, 10), np.diag([4.0, 4, 4, 1]))}, {})
    for use in (
        volumes,
        lambda labels: to_native(labels, session, "t1"),
        lambda labels: write_dicom_seg(tmp_path / "seg.dcm", labels, series, algorithm="x", version="1"),
    ):
        with pytest.raises(SessionError, match=sentence):
            use(label_map(*numbers))
