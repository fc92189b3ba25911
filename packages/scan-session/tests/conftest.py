"""Small series as a scanner writes them: 16 slices of 40 x 32 voxels of 5 x 5 x 6 mm, an ellipsoid in them."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

TIMING = {"t1": (500, 9, None), "t1ce": (500, 9, None), "t2": (4000, 100, None), "flair": (9000, 120, 2500)}
TILTED = np.array([[1, 0, 0], [0, np.cos(0.2), np.sin(0.2)]])
SLICES, ROWS, COLUMNS = 16, 32, 40


def slices(kind: str, *, number: int, study: str = "1.2.3", patient: str = "A", **changes: object) -> list[FileDataset]:
    """The images of one series; `changes` are attributes that all get, None to take one away."""
    repetition, echo, inversion = TIMING[kind]
    series, frame = generate_uid(), generate_uid()
    z, y, x = np.indices((SLICES, ROWS, COLUMNS))
    inside = ((x - 20) / 16) ** 2 + ((y - 15) / 13) ** 2 + ((z - 8) / 6) ** 2 < 1
    voxels = (inside * (300 + 7 * x + 3 * y + 11 * z)).astype(np.uint16)
    found = []
    for index in range(SLICES):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        header = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        values = {
            "SOPClassUID": MRImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "Modality": "MR",
            "StudyInstanceUID": study, "StudyDate": "19991231", "StudyID": "1", "StudyTime": "120000", "AccessionNumber": "77",
            "SeriesInstanceUID": series, "FrameOfReferenceUID": frame, "PatientName": f"Doe^{patient}", "PatientID": patient,
            "PatientBirthDate": "19500101", "PatientSex": "O", "SeriesNumber": number, "InstanceNumber": index + 1,
            "ImageType": ["ORIGINAL", "PRIMARY", "M"], "RepetitionTime": repetition, "EchoTime": echo,
            "InversionTime": inversion, "ScanningSequence": "SE", "SliceThickness": 6,
            "ContrastBolusAgent": "Gadovist" if kind == "t1ce" else None,
            "Rows": ROWS, "Columns": COLUMNS, "PixelSpacing": [5, 5], "ImageOrientationPatient": TILTED.ravel().tolist(),
            "ImagePositionPatient": (np.array([-100.0, -75, -45]) + 6 * index * np.cross(*TILTED)).tolist(),
            "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16,
            "HighBit": 15, "PixelRepresentation": 0, "PatientPosition": "HFS", "Manufacturer": "SIEMENS",
            "PositionReferenceIndicator": "", "Laterality": "", "ReferringPhysicianName": "", **changes,
        }  # fmt: skip
        for keyword, value in values.items():
            if value is not None:
                setattr(header, keyword, value)
        header.PixelData = voxels[index].tobytes()
        found.append(header)
    return found


def save(headers: list[FileDataset], folder: Path) -> Path:
    """Write images in an order and under names that say nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, header in enumerate(headers):
        header.save_as(folder / f"IM{index * 7 % 97:04}_{header.SeriesNumber}", enforce_file_format=True)
    return folder


@pytest.fixture
def session(tmp_path) -> Path:
    """Four series in two nested folders, and foreign files."""
    for number, kind in enumerate(TIMING, 2):
        save(slices(kind, number=number), tmp_path / "DOE" / ("A" if number < 4 else "B"))
    (tmp_path / "DOE" / "README.TXT").write_text("made by the export")
    (tmp_path / "DOE" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    return tmp_path / "DOE"
