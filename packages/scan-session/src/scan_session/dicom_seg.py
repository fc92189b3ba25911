"""Write a label map as DICOM SEG that refers to the original series."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk
from highdicom.enum import PatientSexValues
from pydicom.sr.codedict import codes
from pydicom.valuerep import DA, TM

from scan_session.errors import SessionError
from scan_session.grid import array_of, whole_file
from scan_session.native import whole_numbers
from scan_session.series import Series, fact, positions, without_remarks

SEGMENTS = {
    (1,): ("Necrotic and non-enhancing tumour core", codes.SCT.Necrosis),
    (2,): ("Peritumoral oedema", codes.SCT.Edema),
    (3, 4): ("Enhancing tumour", codes.NCIt.EnhancingLesion),
}
"""Labels of BraTS, with the name and the standard code of their segment; segments are counted from 1."""
STATEMENT = "For research, not for diagnosis"
EXPECTED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)
"""Attributes that DICOM lets be empty but not absent, and that programs that remove names often leave out or falsify."""


@without_remarks()
def write_dicom_seg(path: Path, native: sitk.Image, series: Series, *, algorithm: str, version: str) -> Path:
    """Write a label map as DICOM SEG.

    The file belongs to the patient of the original series and carries the name as that does.

    Parameters
    ----------
    path : Path
        The file to write.
    native : Image
        Label map on the grid of the series, as `to_native` returns it.
    series : Series
        The DICOM series to which it refers.
    algorithm, version : str
        What made the label map.
    """
    native = whole_numbers(native)
    if not series.files or not series.is_dicom:
        raise SessionError("a DICOM SEG refers to a DICOM series, and this one is NIfTI", "give the folder of DICOM files")
    sources = [_read_header(file) for file in series.files]
    if not all(source.get("FrameOfReferenceUID") for source in sources):
        raise SessionError(f"{series.label} has no frame of reference, which a DICOM SEG repeats", "leave out --dicom-seg")
    for source in sources:
        if "ImageOrientationPatient" in source:  # highdicom takes none that differ, and rounding makes the last digits differ
            source.ImageOrientationPatient = sources[0].ImageOrientationPatient
        if fact(source, "SliceThickness") is None:
            source.SliceThickness = series.spacing[2]
    labels = np.stack([_slice(native, source, place) for source in sources for place in positions(source)])
    numbers = np.zeros(256, np.uint8)
    for number, group in enumerate(SEGMENTS, 1):
        numbers[list(group)] = number
    identification = hd.AlgorithmIdentificationSequence(algorithm, codes.DCM.ArtificialIntelligence, version)
    segments = [
        hd.seg.SegmentDescription(
            number, name, codes.SCT.MorphologicallyAbnormalStructure, code, "AUTOMATIC", identification,
            anatomic_regions=[codes.SCT.Brain],
        )
        for number, (name, code) in enumerate(SEGMENTS.values(), 1)
    ]  # fmt: skip
    try:
        segmentation = hd.seg.Segmentation(
            sources,
            numbers[labels],
            "BINARY",
            segments,
            series_instance_uid=hd.UID(),
            series_number=900,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="scan-session",
            manufacturer_model_name=algorithm[:64],
            software_versions=version[:64],
            device_serial_number="none",
            content_label="GLIOMA",
            content_description=STATEMENT,
            series_description=STATEMENT,
        )
    except (ValueError, AttributeError, KeyError) as error:  # a wrong or absent identifier; its words may quote the header
        raise SessionError(f"{series.label} has headers to which no DICOM SEG can refer", "leave out --dicom-seg") from error
    with whole_file(Path(path)) as temporary:
        segmentation.save_as(temporary)
    return Path(path)


def _read_header(file: Path) -> pydicom.Dataset:
    """The header of a slice in UTF-8, with an expected attribute empty if it is absent or has a value that cannot be."""
    header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
    header.decode()
    header.SpecificCharacterSet = "ISO_IR 192"  # highdicom takes no code extensions, which Japanese and Korean names need
    kinds = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM, "PatientSex": PatientSexValues}
    for name in EXPECTED:
        value = header.get(name) or ""
        try:
            kinds.get(name, str)(str(value)) if value else None
        except ValueError:
            value = ""
        setattr(header, name, value)
    return header


def _slice(native: sitk.Image, source: pydicom.Dataset, place: np.ndarray) -> np.ndarray:
    """The label map in one slice (rows, columns) of the series, at its own voxels: nothing is interpolated."""
    across, down = np.reshape(np.array(fact(source, "ImageOrientationPatient"), dtype=float), (2, 3))
    between_rows, between_columns = (float(edge) for edge in fact(source, "PixelSpacing"))
    grid = sitk.Image([int(source.Columns), int(source.Rows), 1], sitk.sitkUInt8)
    grid.SetOrigin(place.tolist())
    grid.SetSpacing([between_columns, between_rows, 1.0])
    grid.SetDirection(np.stack([across, down, np.cross(across, down)], axis=1).ravel().tolist())
    return array_of(sitk.Resample(native, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0))[:, :, 0].T
