"""Find the series in a folder from a scanner: DICOM of any nesting and order, or NIfTI files of any names.

Only headers are read here.
"""

from __future__ import annotations

import os
import re
import struct
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import nibabel as nib
import numpy as np
import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError

from scan_session.errors import SessionError
from scan_session.grid import DAMAGED_NIFTI
from scan_session.recognise import flat, is_keyword, recognise
from scan_session.series import Series, equal, fact, numbers_of, positions, without_remarks

LEAST_SLICES, LEAST_MM = 10, 80.0
"""A series of a head has at least this many slices and covers at least this much along every axis."""
FACTS = ("ScanningSequence", "EchoPulseSequence", "EchoPlanarPulseSequence", "EchoTime", "EffectiveEchoTime",
         "RepetitionTime", "InversionTime", "InversionTimes", "ContrastBolusAgent", "ImageType", "Modality",
         "BodyPartExamined", "DiffusionBValue", "AngioFlag", "SamplesPerPixel", "BurnedInAnnotation", "PixelSpacing",
         "ImageOrientationPatient")  # fmt: skip
"""What recognition looks at; nothing of it says who the patient is."""
PERSONAL = ("PatientName", "PatientID", "OtherPatientIDs", "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName",
            "RequestingPhysician", "PhysiciansOfRecord", "PerformingPhysicianName", "OperatorsName", "StudyDate",
            "InstitutionName")  # fmt: skip
"""Whose words no description may repeat."""
_DAMAGED = (InvalidDicomError, BytesLengthException, EOFError, OSError, ValueError, TypeError, AttributeError, LookupError,
            struct.error, zlib.error)  # fmt: skip
"""What pydicom raises for a file that was cut off or changed."""
_DATE = r"(?<!\d)(?<![tT](?=[12][-._/]))(\d{4}([-./_])\d{1,2}\2\d{1,2}|\d{1,2}([-./_])\d{1,2}\3(\d{4}|\d{2}))(?!\d)"
_MONTH = (r"(?:jan(?:uary?|vier)?|feb(?:ruary?)?|mar(?:ch)?|m[aä]rz|apr(?:il)?|ma[iy]|jun[ei]?|jul[iy]?|aug(?:ust)?|"
          r"sept?(?:ember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?)")  # fmt: skip
_DATE += rf"|(?i:(?<![^\W_])(?:\d{{1,2}}[-._/, ]{{0,2}}{_MONTH}[-._/, ]{{0,2}}(?:\d{{4}}|\d{{2}})|"
_DATE += rf"{_MONTH}[-._/ ]{{0,2}}\d{{1,2}}[-._/, ]{{1,2}}\d{{4}}|\d{{4}}[-._/ ]?{_MONTH}[-._/ ]?\d{{1,2}})(?![^\W_]))"


@without_remarks()
def find_series(folder: Path, *, study: int | None = None) -> list[Series]:
    """Find every series in a folder, good ones and those with a fault, and say what each is.

    `study` chooses one of several sessions, counted from the oldest, 1. Raises `SessionError` if there is no image, or there
    are DICOM images of several patients or sessions.
    """
    folder = Path(folder)
    advice = "give the folder that the scanner's files are in; unpack an archive first"
    if not folder.is_dir():
        raise SessionError(f"{folder} is not a folder", advice)
    paths = sorted(path for path in _files(folder) if not path.name.startswith(".") and path.name.upper() != "DICOMDIR")
    niftis = [path for path in paths if path.name.lower().endswith((".nii", ".nii.gz"))]
    headers, odd = _headers(path for path in paths if path not in niftis)
    if not headers and not niftis:
        if odd:
            problem = f"{folder.resolve().name} has no image in it ({odd[0].files[0].name} {odd[0].fault})"
            raise SessionError(problem, "export the series again")
        raise SessionError(f"{folder.resolve().name} has no DICOM or NIfTI file in it", advice)
    found = _nifti_series(niftis, folder)
    if headers:
        beside = "is NIfTI beside DICOM files, which are taken; give it a folder of its own"
        odd += [replace(one, number="", fault=beside) for one in found]
        found = _dicom_series(_one_session(headers, study))
    elif study is not None:
        raise SessionError("--study chooses among sessions of DICOM files, and these are NIfTI", "leave it out")
    return recognise([*found, *odd])


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder, links followed, each folder once, no hidden one; one that cannot be listed is an error."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        if (real := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".") and name != "lost+found"]
        yield from (Path(root) / name for name in names)


def _refuse(error: OSError) -> NoReturn:
    problem = f"the folder {error.filename} cannot be read ({error.strerror})"
    raise SessionError(problem, "change its permissions, or move it elsewhere if no series of the session is in it") from error


def printable(text: str, header: pydicom.Dataset | None = None, keep: Callable[[str], bool] = lambda word: False) -> str:
    """A description without control characters, long numbers, dates, and words of the patient's name and identifiers.

    `keep` says which words stay even so.
    """
    values = [] if header is None else [str(header.get(keyword, "")).lower() for keyword in PERSONAL]
    text, *known = (unicodedata.normalize("NFC", value) for value in (text, *values))
    words = set(re.findall(r"\w{3,}", " ".join(known)))
    name = known[0] if known else ""
    words |= set(re.findall(r"[^\W\d_]{2,}", name))
    joined = (re.sub(r"\W", "", writing) for writing in name.split("="))  # 王^小东 is written 王小东
    words |= {word for word in joined if len(word) > 1}
    words = {spelling for word in words for spelling in _spellings(word)}
    text = re.sub(_DATE, "...", "".join(sign for sign in text if sign.isprintable()))
    for value in (value for value in known if len(value) > 2 and not keep(value)):
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "...", text, flags=re.IGNORECASE)
    parts = re.split(r"(\W+|_)", text)
    hidden = (re.search(r"\d{5,}", part) or (_spellings(part) & words and not keep(part)) for part in parts)
    return "".join("..." if hide else part for hide, part in zip(hidden, parts, strict=True)).strip()[:60]


def _spellings(word: str) -> set[str]:
    """A word without accents, and with ae, oe, ue and ss as they are written where a keyboard has no umlauts."""
    return {flat(word), flat(word.lower().translate(str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})))}


def _headers(paths: Iterable[Path]) -> tuple[list[tuple[Path, pydicom.Dataset]], list[Series]]:
    """Headers of the images among files, each object once, and what else is DICOM but of no use."""
    images, others, seen = [], [], set()
    for path in paths:
        header = _header(path)
        if isinstance(header, str):
            others.append(Series("", "a file", (path,), fault=header))
        elif header is not None and (identifier := header.get("SOPInstanceUID") or path) not in seen:
            seen.add(identifier)
            if "Rows" in header and "SeriesInstanceUID" in header:
                images.append((path, header))
                continue
            name = pydicom.uid.UID(str(header.get("SOPClassUID", ""))).name
            fault = "does not say to which series it belongs" if "Rows" in header else "is no image" + f" ({name})" * bool(name)
            others.append(Series("", "a file", (path,), fault=fault))
    return images, others


def _header(path: Path) -> pydicom.Dataset | str | None:
    """A DICOM file's header; half a sentence if the file is damaged, None if it is no DICOM."""
    try:
        with path.open("rb") as stream:
            marked = stream.read(132)[128:] == b"DICM"
        bare = not marked and path.suffix.lower() in ("", ".dcm", ".ima")
        if not marked and not bare:
            return None
        with path.open("rb") as stream:
            header = pydicom.dcmread(stream, stop_before_pixels=True, force=bare)
            rest = path.stat().st_size - stream.tell()
        if bare and "SOPClassUID" not in header:
            return "is damaged: it has no DICOM header" if path.suffix.lower() in (".dcm", ".ima") else None
        syntax = header.file_meta.get("TransferSyntaxUID", pydicom.uid.ImplicitVRLittleEndian)
        grey = "Rows" in header and header.get("SamplesPerPixel", 1) == 1
        if grey and not syntax.is_compressed and not syntax.is_deflated:
            bits = int(header.get("BitsAllocated", 16))
            size = header.Rows * header.Columns * int(header.get("NumberOfFrames", 1)) * bits // 8
            if rest < size:
                return f"is damaged: it ends before the last of its image's {size} bytes"
    except _DAMAGED as error:
        return f"is damaged ({type(error).__name__})"
    return header


def _one_session(headers: list[tuple[Path, pydicom.Dataset]], study: int | None) -> list[tuple[Path, pydicom.Dataset]]:
    """The images of the one patient and session, or of the study that was asked for."""
    who = {(str(header.get("PatientID") or ""), str(header.get("PatientName") or "")) for _, header in headers}
    known = {name for number, name in who if number}
    patients = {number or name for number, name in who if number or name not in known}
    patients.discard("")  # a screen capture or report may say nothing, or the name alone
    if len(patients) > 1:
        problem = f"the folder holds images of {len(patients)} patients"
        raise SessionError(problem, "give a folder with one patient's images")
    studies: dict[str, list] = defaultdict(list)
    for path, header in headers:
        studies[str(header.get("StudyInstanceUID", ""))].append((path, header))
    ordered = sorted(
        studies.values(),
        key=lambda files: min(str(header.get("StudyDate", "")) + str(header.get("StudyTime", "")) for _, header in files),
    )
    if study is None and len(ordered) > 1:
        counts = ", ".join(str(len({header.SeriesInstanceUID for _, header in files})) for files in ordered)
        problem = f"the folder holds {len(ordered)} sessions of one patient (with {counts} series, the oldest first)"
        raise SessionError(problem, "choose one with --study 1, 2 ...")
    number = 1 if study is None else study
    if not 1 <= number <= len(ordered):
        raise SessionError(f"there is no session {study}", f"choose --study 1 to {len(ordered)}")
    return ordered[number - 1]


def _dicom_series(headers: list[tuple[Path, pydicom.Dataset]]) -> list[Series]:
    groups: dict[tuple, list] = defaultdict(list)
    known: dict[tuple, list] = defaultdict(list)
    for path, header in headers:
        echo, *_ = (*numbers_of(header, "EchoTime"), *numbers_of(header, "EffectiveEchoTime"), 0)
        kind = (*numbers_of(header, "ImageOrientationPatient"), echo / 10)  # differs by 0.05, or by 0.5 ms; rounded values jump
        key = (header.SeriesInstanceUID, header.Rows, header.Columns, len(kind))
        same = next((one for one in known[key] if np.allclose(one, kind, rtol=0, atol=0.05)), kind)
        if same is kind:
            known[key].append(kind)
        groups[*key, same].append((path, header))
    protocols = {str(header.get("ProtocolName") or "") for _, header in headers}
    of_one = len(protocols) > 1 or len(groups) == 1  # GE has one protocol for all series of an examination
    numbers: dict[str, int] = defaultdict(int)
    found = []
    for files in sorted(groups.values(), key=lambda files: _series_number(files[0][1])):
        number = str(_series_number(files[0][1]) or len(found) + 1)
        numbers[number] += 1
        number += f".{numbers[number]}" if numbers[number] > 1 else ""
        protocol = str(files[0][1].get("ProtocolName") or "") if of_one else ""
        found.append(_series_of(files, number, protocol))
    return found


def _series_number(header: pydicom.Dataset) -> int:
    """The number of an image's series, 0 if it has none or an odd one."""
    try:
        return int(header.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        return 0


def _series_of(files: list[tuple[Path, pydicom.Dataset]], number: str, protocol: str) -> Series:
    """Put the slices of one series in order and look for what is wrong with them; `protocol` describes it if nothing else."""
    header = files[0][1]
    facts = {keyword: value for keyword in FACTS if (value := fact(header, keyword)) not in (None, "")}
    text = str(header.get("SeriesDescription") or protocol)
    description, facts["Description"] = printable(text, header), printable(text, header, is_keyword)
    if header.get("ContrastBolusAgentSequence") and "ContrastBolusAgent" not in facts:  # of an enhanced multi-frame object
        facts["ContrastBolusAgent"] = "given"
    label = f"series {number}" + (f" ({description})" if description else "")
    warnings = []
    if str(facts.get("BurnedInAnnotation", "")).upper() == "YES":
        warnings.append("its images carry burnt-in text, which may be the patient's name")

    def series(fault: str = "", ordered: Iterable = files, shape: tuple = (), spacing: tuple = ()) -> Series:
        paths = tuple(dict.fromkeys(path for path, _ in ordered))
        return Series(number, label, paths, shape, spacing, facts, warnings=tuple(warnings), fault=fault)

    orientation, pixel = numbers_of(header, "ImageOrientationPatient"), numbers_of(header, "PixelSpacing")
    if int(facts.get("SamplesPerPixel", 1)) != 1:
        return series("is a colour image, such as a derived map or a screen capture")
    if facts.get("Modality") != "MR":
        return series(f"is {facts.get('Modality', 'of no modality')}, not MR")
    places = [(place, item) for item in files for place in positions(item[1])]
    if len(files) == 1 and len(places) <= 1:
        return series("has one slice")
    if len(pixel) != 2:
        return series("has no pixel spacing")
    if len(orientation) != 6 or len(places) < len(files):
        return series("does not say where its slices lie")
    across, down = np.reshape(orientation, (2, 3))
    normal = np.cross(across, down)
    places.sort(key=lambda each: float(each[0] @ normal))
    heights = np.array([place @ normal for place, _ in places])
    steps = np.diff(heights)
    if (steps < 1e-3).any():
        count = 1 + int((steps >= 1e-3).sum())
        return series(f"has {len(places)} images at {count} places, as perfusion, diffusion and series exported twice have")
    slope = (places[-1][0] - places[0][0]) / (heights[-1] - heights[0])
    tilt = float(np.rad2deg(np.arccos(np.clip(slope @ normal / np.linalg.norm(slope), -1, 1))))
    if tilt > 1:
        return series(f"is tilted by {tilt:.0f} degrees against its stack (gantry tilt)")
    usual = float(np.median(steps))
    gaps = round(float((steps / usual - 1)[steps > 1.5 * usual].sum()))
    if gaps and np.allclose(steps / usual, np.round(steps / usual), atol=0.1):
        return series(f"lacks {gaps} of its {len(places) + gaps} slices")
    if not equal(steps):
        if steps.max() > 3 * steps.min():
            return series(f"has slices {steps.min():.1f} to {steps.max():.1f} mm apart")
        warnings.append(f"its slices are {steps.min():.1f} to {steps.max():.1f} mm apart and were brought to equal distances")
    shape = (int(header.Columns), int(header.Rows), len(places))
    spacing = (pixel[1], pixel[0], usual)
    return series(_too_small(shape, spacing), [item for _, item in places], shape, spacing)


def _too_small(shape: Iterable[int], spacing: Iterable[float]) -> str:
    extent = np.multiply(shape, spacing)
    if min(shape) < LEAST_SLICES:
        return f"has {min(shape)} slice{'s' * (min(shape) > 1)}"
    return f"covers {extent.min():.0f} mm, less than a brain" if extent.min() < LEAST_MM else ""


def _nifti_series(paths: list[Path], folder: Path) -> list[Series]:
    """Series of NIfTI files; the deeper folders are for later, since what others computed lies there."""
    found = []
    for number, path in enumerate(sorted(paths, key=lambda path: (len(path.parts), path)), 1):
        series = Series(str(number), f"file {number}", (path,))
        try:
            header = nib.load(path)
            shape = header.shape[:3] if set(header.shape[3:]) <= {1} else header.shape
            spacing = tuple(float(edge) for edge in header.header.get_zooms()[:3])
            depth = len(path.relative_to(folder).parts)
            name = re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
            fault = _too_small(shape, spacing) if len(shape) == 3 else f"has shape {header.shape}, not three dimensions"
            series = replace(series, shape=shape, spacing=spacing, facts={"Name": name, "Depth": depth}, fault=fault)
        except DAMAGED_NIFTI:
            series = replace(series, fault="is damaged or no NIfTI")
        found.append(series)
    return found
