"""Write a phantom as a scanner would: a folder of DICOM series, each with its own grid, the skull on, nothing registered.

Between two series the patient moves, slices have their own direction, distance and thickness, and a localiser and a
diffusion series lie among them. What a tool has to find out is known exactly: `RawSession.matrix` says where the head lay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

from glioma_phantom.contrast import MODALITIES
from glioma_phantom.draws import Box, Draws, Range
from glioma_phantom.generator import CALIBRATED, Phantom, PhantomSettings, make_phantom
from glioma_phantom.head import Head, draw_head

PATIENT_NAME = "Mustermann^Erika Phantasia"
PATIENT_ID = "PHANTOM-4711"
BIRTH_DATE = "19630228"
"""An invented patient, who was born on a day that never was: privacy tests look for them in outputs."""
SERIES = 2
"""Keeps the random numbers of plans, and with 1 more of heads and scans, apart from those of the phantom (`Draws`)."""
PLANES = {
    "axial": (((1, 0, 0), (0, 1, 0)), 190),
    "coronal": (((1, 0, 0), (0, 0, -1)), 206),
    "sagittal": (((0, 1, 0), (0, 0, -1)), 186),
}
"""Directions of a row and of a column in LPS, and how many millimetres of head the slices cover."""
MPRAGE = {"ScanningSequence": ["GR", "IR"], "SequenceVariant": ["SP", "MP"], "FlipAngle": 9}
MPRAGE |= {"EchoTime": 2.98, "RepetitionTime": 2300, "InversionTime": 900}
TURBO = {"ScanningSequence": "SE", "SequenceVariant": ["SK", "SP"], "FlipAngle": 150, "EchoTrainLength": 15}
DARK_FLUID = {"ScanningSequence": ["SE", "IR"], "EchoTime": 92, "RepetitionTime": 9000, "InversionTime": 2500}
AGENT = {"ContrastBolusAgent": "Gadobutrol", "ContrastBolusVolume": 7.5}
SCOUT = {"ScanningSequence": "GR", "SequenceVariant": "SP", "FlipAngle": 20, "EchoTime": 3.5, "RepetitionTime": 8.6}
PLANAR = {"ScanningSequence": "EP", "SequenceVariant": "SK", "FlipAngle": 90, "EchoTime": 86, "RepetitionTime": 4300}
SEQUENCES: dict[str, dict[str, object]] = {
    "t1": {"SeriesDescription": "t1_mprage", **MPRAGE},
    "t1ce": {"SeriesDescription": "t1_mprage_KM", **MPRAGE, **AGENT},
    "t2": {"SeriesDescription": "t2_tse", **TURBO, "EchoTime": 100, "RepetitionTime": 5200},
    "flair": {"SeriesDescription": "t2_flair_dark-fluid", **TURBO, **DARK_FLUID},
    "localiser": {"SeriesDescription": "localizer", **SCOUT},
    "dwi": {"SeriesDescription": "ep2d_diff_b1000", **PLANAR},
}
"""What the header of each series says about how it was made."""

SCANNER = {
    "PatientSex": "O",
    "PatientPosition": "HFS",
    "StudyID": "1",
    "StudyDate": "20240229",
    "StudyTime": "101500",
    "StudyDescription": "MR brain",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
    "InstitutionName": "Phantom General Hospital",
    "Manufacturer": "glioma-phantom",
    "MagneticFieldStrength": 3.0,
    "BodyPartExamined": "HEAD",
    "PositionReferenceIndicator": "",
    "ScanOptions": "",
    "Modality": "MR",
    "SOPClassUID": MRImageStorage,
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
    "WindowCenter": 500,
    "WindowWidth": 1000,
}
"""What the headers of all files share."""


@dataclass(frozen=True)
class SeriesPlan:
    """How one series was taken; lengths in mm, rotation vectors in degrees, axes in LPS.

    Attributes
    ----------
    plane : str
        "axial", "coronal" or "sagittal".
    turn, move : three floats
        Rotation of the head around the middle of its brain, and where that middle lay in the scanner.
    tilt, offset : three floats
        Rotation of the slices out of their plane, and where their middle lay relative to the middle of the brain.
    pixel, distance, thickness : float
        Edge of a pixel, from one slice to the next, and of a slice.
    covers : two floats
        Which part of the extent along the slices' normal was taken; (0, 1) is the whole brain.
    size : float
        Size of the head; not 1 makes it another patient's.
    """

    plane: str
    turn: tuple[float, float, float]
    move: tuple[float, float, float]
    tilt: tuple[float, float, float]
    offset: tuple[float, float, float]
    pixel: float
    distance: float
    thickness: float
    covers: Range = (0.0, 1.0)
    size: float = 1.0


@dataclass(frozen=True)
class RawRanges:
    """How much the series of a session differ.

    Attributes
    ----------
    angle : float
        Largest rotation of the head between two series in degrees.
    shift : float
        Largest movement of the head between two series in mm.
    distance : range
        From one slice to the next in mm.
    thin : float
        Probability of a volume with slices 1 mm apart.
    axial : float
        Share of thick slices that are axial.
    tilt, offset : float
        Largest tilt of the slices in degrees, and largest offset of their middle along each axis in mm.
    pixel : range
        Edge of a pixel in mm.
    """

    angle: float = 20.0
    shift: float = 40.0
    distance: Range = (1.0, 6.0)
    thin: float = 0.25
    axial: float = 0.75
    tilt: float = 8.0
    offset: float = 6.0
    pixel: Range = (0.86, 1.0)


WIDE = RawRanges()


@dataclass(frozen=True)
class RawSession:
    """A session on disk, and the truth about it.

    Attributes
    ----------
    folder : Path
        Where the DICOM files are, in subfolders without telling names.
    phantom : Phantom
        Brain and tumour as they are.
    plans : dict
        Plan of each modality's series.
    uids : dict
        SeriesInstanceUID of each series, "localiser" and "dwi" included.
    middle : float64 array (3,)
        Middle of the brain in the phantom's millimetres, RAS+.
    """

    folder: Path
    phantom: Phantom
    plans: dict[str, SeriesPlan]
    uids: dict[str, str]
    middle: np.ndarray = field(repr=False)

    def matrix(self, modality: str) -> np.ndarray:
        """Where the head lay: 4x4, from millimetres of the phantom to millimetres of a series, both RAS+."""
        return _motion(self.plans[modality], self.middle)


def draw_plans(seed: int, index: int, ranges: RawRanges = WIDE) -> dict[str, SeriesPlan]:
    """Draw how the four series of a session were taken; the same arguments give the same plans."""
    draws = Draws(seed, index, series=SERIES)
    return {modality: _draw_plan(draws, ranges) for modality in MODALITIES}


def _draw_plan(draws: Draws, ranges: RawRanges) -> SeriesPlan:
    def vector(longest: float) -> tuple[float, float, float]:
        direction = np.array([draws.normal(0, 1) for _ in range(3)])
        return tuple((direction / np.linalg.norm(direction) * draws.uniform(0.3, 1) * longest).round(2).tolist())

    # Half the largest difference each, so that no two series differ by more than that.
    turn, move, tilt = vector(ranges.angle / 2), vector(ranges.shift / 2), vector(ranges.tilt)
    offset = tuple(round(draws.uniform(-ranges.offset, ranges.offset), 2) for _ in range(3))
    distance = max(ranges.distance[0], 1.0) if draws.chance(ranges.thin) else round(draws.within(ranges.distance), 2)
    thick = distance > 1.5
    axial = draws.chance(ranges.axial if thick else 0.5)
    plane = "axial" if axial else ("coronal", "sagittal")[draws.integer(2) if thick else 1]
    thickness = round(distance / draws.uniform(1.0, 1.2), 2) if thick else distance
    return SeriesPlan(plane, turn, move, tilt, offset, round(draws.within(ranges.pixel), 4), distance, thickness)


def write_raw_session(
    folder: Path,
    index: int = 0,
    *,
    settings: PhantomSettings = CALIBRATED,
    plans: Mapping[str, SeriesPlan] | None = None,
) -> RawSession:
    """Write one phantom as a scanner's export: nested folders of DICOM files with names that say nothing.

    A localiser and a diffusion series are among them.

    Parameters
    ----------
    folder : Path
        Made if needed; must be empty.
    index : int
        Number of the phantom, as in `make_phantom`.
    settings : PhantomSettings
        Spacing and seed of the phantom.
    plans : mapping, optional
        How each modality's series was taken; one that is absent is not written. By default `draw_plans` draws them.

    Raises
    ------
    ValueError
        If the folder holds anything, or a plan is of no modality.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: a raw session needs a folder of its own")
    plans = dict(plans if plans is not None else draw_plans(settings.seed, index))
    if unknown := sorted(plans.keys() - set(MODALITIES)):
        raise ValueError(f"there are plans of {', '.join(unknown)}; a session has {', '.join(MODALITIES)}")
    draws = Draws(settings.seed, index, series=SERIES + 1)
    phantom = make_phantom(index, settings)
    head = draw_head(phantom, draws)
    numbered = [("localiser", None), *plans.items(), ("dwi", None)]
    session = f"{settings.seed}/{settings.spacing:g}/{index}/{sorted(plans.items())}"
    uids = {}
    for number, (name, plan) in enumerate(numbered, start=1):
        uids[name] = generate_uid(entropy_srcs=[session, name])
        header = {**_study(session, index), **SEQUENCES[name], "SeriesNumber": number, "SeriesInstanceUID": uids[name]}
        parts = _foreign_slices(head, draws, name) if plan is None else [_slices(head, draws, name, plan)]
        _write_series(folder / f"DIR{settings.seed % 1000:03d}" / f"SE{number:06d}", header, parts, draws)
    return RawSession(folder, phantom, plans, uids, head.middle)


@dataclass(frozen=True)
class _Slices:
    """Pixels (slice, row, column) of a series, and where they lie in LPS."""

    pixels: np.ndarray
    first: np.ndarray  # centre of the first pixel of the first slice
    directions: np.ndarray  # (3, 3): along a row, along a column, from slice to slice
    plan: SeriesPlan
    tags: Mapping[str, object] = field(default_factory=dict)


def _motion(plan: SeriesPlan, middle: np.ndarray) -> np.ndarray:
    flip = np.diag([-1.0, -1.0, 1.0])  # LPS to RAS
    turn = flip @ Rotation.from_rotvec(plan.turn, degrees=True).as_matrix() @ flip
    matrix = np.eye(4)
    matrix[:3, :3] = turn * plan.size
    matrix[:3, 3] = flip @ np.array(plan.move) - matrix[:3, :3] @ middle
    return matrix


def _slices(head: Head, draws: Draws, modality: str, plan: SeriesPlan) -> _Slices:
    """Sample a head on the slices of a plan: average over their thickness, receive field, noise, 12 bits."""
    rows, extent = PLANES[plan.plane]
    tilt = Rotation.from_rotvec(plan.tilt, degrees=True).as_matrix()
    along, down = (tilt @ np.array(axis, float) for axis in rows)
    normal = np.cross(along, down)
    start, end = (extent * (share - 0.5) for share in plan.covers)
    count, edge = max(2, round((end - start) / plan.distance)), 2 * round(120 / plan.pixel)
    centre = np.array(plan.move) + np.array(plan.offset)
    first = centre + normal * (start + plan.distance / 2) - (along + down) * plan.pixel * (edge - 1) / 2
    steps = np.stack([along * plan.pixel, down * plan.pixel, normal * plan.distance], axis=1)
    to_head = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ _motion(plan, head.middle) @ head.affine)
    volume = torch.from_numpy(_receive(head.volume(modality), draws, head))
    passes = max(1, round(plan.thickness / 1.5))
    image = sum(
        _sample(volume, to_head, first + normal * part * plan.thickness, steps, (edge, edge, count))
        for part in (np.arange(passes) + 0.5) / passes - 0.5
    )
    image = _noisy(image / passes, draws, {"t2": 0.05, "flair": 0.04}.get(modality, 0.02) / math.sqrt(plan.thickness))
    gain = draws.uniform(250, 700)
    return _Slices(np.clip(image * gain, 0, 4095).astype(np.uint16), first, np.stack([along, down, normal]), plan)


def _receive(volume: np.ndarray, draws: Draws, head: Head) -> np.ndarray:
    """Brighten and darken a volume smoothly, as coils near the skin do."""
    box = Box((0, 0, 0), volume.shape, float(head.affine[2, 2]))
    return volume * draws.field(box, 90.0, strength=draws.uniform(0.05, 0.12), exponential=True)[0].numpy()


def _sample(
    volume: torch.Tensor, to_voxel: np.ndarray, first: np.ndarray, steps: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    """Interpolate a volume at column, row and slice of a series (LPS): float32 (slice, row, column)."""
    matrix = to_voxel[:3, :3] @ steps
    offset = to_voxel[:3, :3] @ first + to_voxel[:3, 3]
    # grid_sample counts from -1 to 1, its last axis first: fold both into the affine.
    scale = 2 / (np.array(volume.shape) - 1)
    columns, rows, slices = shape
    axes = np.diag([(columns - 1) / 2, (rows - 1) / 2, (slices - 1) / 2])
    theta = np.empty((3, 4))
    theta[:, :3] = scale[:, None] * (matrix @ axes)
    theta[:, 3] = scale * (offset + matrix @ axes.sum(axis=1)) - 1
    theta = torch.from_numpy(theta[::-1].copy()).float()[None]
    grid = F.affine_grid(theta, (1, 1, slices, rows, columns), align_corners=True)
    return F.grid_sample(volume[None, None], grid, align_corners=True)[0, 0].numpy()


def _noisy(image: np.ndarray, draws: Draws, deviation: float) -> np.ndarray:
    real, imaginary = (draws.noise(image.shape).numpy() * deviation for _ in range(2))
    return np.hypot(image + real, imaginary)


def _foreign_slices(head: Head, draws: Draws, name: str) -> list[_Slices]:
    """A localiser of three planes, or diffusion at b = 0 and 1000."""
    straight = SeriesPlan("axial", (0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), 1.2, 6.0, 5.0)
    if name == "localiser":
        plans = [replace(straight, plane=plane, distance=20.0, thickness=8.0, covers=(0.35, 0.65)) for plane in PLANES]
        return [_slices(head, draws, "t1", plan) for plan in plans]
    base = _slices(head, draws, "t2", replace(straight, pixel=1.8))
    weighted = replace(base, pixels=(base.pixels * 0.35).astype(np.uint16))
    return [
        replace(part, tags={"DiffusionBValue": b, "ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]})
        for part, b in ((base, 0.0), (weighted, 1000.0))
    ]


def _study(session: str, index: int) -> dict[str, object]:
    """What all files of a session share."""
    patient = {"PatientName": PATIENT_NAME, "PatientID": f"{PATIENT_ID}-{index:04d}", "PatientBirthDate": BIRTH_DATE}
    study = {name: generate_uid(entropy_srcs=[session, name]) for name in ("StudyInstanceUID", "FrameOfReferenceUID")}
    return {**patient, **study, **SCANNER}


def _write_series(folder: Path, header: Mapping[str, object], parts: Sequence[_Slices], draws: Draws) -> None:
    """Write a series as one file a slice, named in an order that has nothing to do with where the slices lie."""
    folder.mkdir(parents=True)
    names = np.argsort(draws.uniform(0, 1, sum(len(part.pixels) for part in parts)))
    number = 0
    for part in parts:
        plan, (along, down, normal) = part.plan, part.directions
        dataset = Dataset()
        for name, value in {**header, **part.tags}.items():
            setattr(dataset, name, value)
        dataset.MRAcquisitionType = "2D" if plan.distance > 1.5 else "3D"
        dataset.Rows, dataset.Columns = part.pixels.shape[1:]
        dataset.PixelSpacing, dataset.SliceThickness = [plan.pixel] * 2, plan.thickness
        dataset.SpacingBetweenSlices = plan.distance
        dataset.ImageOrientationPatient = [round(float(value), 8) for value in (*along, *down)]
        for position, pixels in enumerate(part.pixels):
            where = part.first + normal * plan.distance * position
            dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(header["SeriesInstanceUID"]), str(number)])
            dataset.ImagePositionPatient = [round(float(value), 6) for value in where]
            dataset.SliceLocation, dataset.InstanceNumber = round(float(where @ normal), 4), number + 1
            dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.save_as(folder / f"MR{names[number]:06d}", enforce_file_format=True)
            number += 1
