"""One series of a session: its files, what its headers say, and its voxels.

Only headers are read before `Series.read` brings it into a `SimpleITK` image, by dcm2niix if it is DICOM.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from scan_session.errors import SessionError
from scan_session.grid import array_of, read_nifti

MODALITIES = ("t1", "t1ce", "t2", "flair")


@contextmanager
def without_remarks() -> Iterator[None]:
    """Keep pydicom from warning of values that it finds odd, early or late: it quotes them, and one may be a name."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


@dataclass(frozen=True)
class Series:
    """One series of a session.

    Attributes
    ----------
    number : str
        The scanner's number of it, or its place among the NIfTI files; made unique.
    label : str
        What it is called on a page: number and description, without names, dates and identifiers.
    files : tuple of Path
        Its DICOM files from the first slice to the last, or one NIfTI file.
    shape, spacing : tuple
        Columns, rows, slices and their distances in mm.
    facts : mapping
        Those of `scan_session.find.FACTS` that its header has, and Description.
    modality : str or None
        One of `MODALITIES`, or None for a series that is left out.
    reason : str
        Why it is taken for that modality, or left out.
    warnings : tuple of str
        What is odd about it but does not prevent its use.
    fault : str
        What makes it unusable; empty for a good one.
    """

    number: str
    label: str
    files: tuple[Path, ...] = field(repr=False)
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    modality: str | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()
    fault: str = ""

    @property
    def is_dicom(self) -> bool:
        """Whether it came as DICOM files."""
        return not self.files[0].name.lower().endswith((".nii", ".nii.gz"))

    @property
    def title(self) -> str:
        """What it is called on the screen: its label, and a NIfTI file's name, which may hold the patient's."""
        return self.label if self.is_dicom else f"{self.label} ({self.files[0].name})"

    @property
    @without_remarks()
    def fingerprint(self) -> str:
        """A hash by which the series is found again; its identifiers cannot be read from it."""
        if self.is_dicom:
            header = pydicom.dcmread(self.files[0], specific_tags=["SeriesInstanceUID"], stop_before_pixels=True, force=True)
            content = str(header.SeriesInstanceUID).encode()
        else:
            content = self.files[0].read_bytes()
        return hashlib.sha256(content).hexdigest()[:16]

    def read(self) -> sitk.Image:
        """Read the voxels as float32 in the series' own grid; raises `SessionError` if they cannot be read or are all alike."""
        image = _convert(self) if self.is_dicom else read_nifti(self.files[0])
        if not np.ptp(array_of(image)):
            raise SessionError(f"{self.title} has the same value in every voxel", "export the series again")
        return image


def fact(header: pydicom.Dataset, keyword: str) -> object:
    """A value of a header; of an enhanced multi-frame object, from the groups that hold it for all frames or for the first."""
    if keyword in header:
        return header[keyword].value
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for element in header[groups].value[0] if header.get(groups) else ():
            if element.VR == "SQ" and element.value and keyword in element.value[0]:
                return element.value[0][keyword].value
    return None


def numbers_of(header: pydicom.Dataset, keyword: str) -> tuple[float, ...]:
    """A value of a header as numbers; empty if it is absent or no finite number."""
    value = fact(header, keyword)
    try:
        found = np.array([] if value in (None, "") else value, dtype=float).ravel()
    except (TypeError, ValueError):
        return ()
    return tuple(found.tolist()) if np.isfinite(found).all() else ()


def positions(header: pydicom.Dataset) -> list[np.ndarray]:
    """Positions (LPS mm) of the slices in one object: one, or as many as it has frames; without those that are unknown."""
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if frames:
        frames = [frame.PlanePositionSequence[0] for frame in frames if frame.get("PlanePositionSequence")]
    found = [numbers_of(each, "ImagePositionPatient") for each in frames or [header]]
    return [np.array(position) for position in found if len(position) == 3]


def _convert(series: Series) -> sitk.Image:
    """Run dcm2niix on copies of a series' files and read what it writes."""
    import dcm2niix

    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "dicom", Path(name) / "nifti"
        source.mkdir()
        target.mkdir()
        for index, path in enumerate(series.files):
            shutil.copyfile(path, source / f"{index:05}.dcm")
        words = [dcm2niix.bin, "-b", "n", "-z", "n", "-m", "y", "-g", "i", "-f", "out", "-o", str(target), str(source)]
        subprocess.run(words, capture_output=True, check=False)
        written = sorted(target.glob("*.nii"), key=lambda path: len(path.name))  # "out_Eq_1" is only there for some voxel types
        if not written:
            raise SessionError(f"{series.label} cannot be converted by dcm2niix", "export the series again, uncompressed")
        image = read_nifti(written[0])
    if np.prod(image.GetSize()) != np.prod(series.shape):  # a 3D acquisition may have its axes in another order
        problem = f"{series.label} was read as {image.GetSize()} voxels, and has {series.shape}"
        remedy = "its slices differ in study date, time or image type, at which dcm2niix divides them; export it again"
        raise SessionError(problem, remedy)
    return _evenly_spaced(image, series)


def equal(steps: np.ndarray) -> bool:
    """Whether the distances between slices are equal, but for rounding."""
    return np.allclose(steps, np.median(steps), rtol=0.02, atol=0.02)


def _evenly_spaced(image: sitk.Image, series: Series) -> sitk.Image:
    """Bring slices to equal distances by linear interpolation: dcm2niix stacks unequal ones as if they were equal."""
    headers = (pydicom.dcmread(file, stop_before_pixels=True, force=True) for file in series.files)
    places = np.array([place for header in headers for place in positions(header)])
    if len(places) < 3:
        return image
    along = np.ptp(places @ np.reshape(image.GetDirection(), (3, 3)), axis=0)
    order = np.argsort(along, kind="stable")  # slices last: dcm2niix turns 3D acquisitions
    turned = image if along.argmax() == 2 else sitk.PermuteAxes(image, order.tolist())
    normal = np.reshape(turned.GetDirection(), (3, 3))[:, 2]
    heights = np.sort(places @ normal)
    steps = np.diff(heights)
    if equal(steps):
        return image
    image = turned
    wanted = np.linspace(heights[0], heights[-1], 1 + int(np.ceil((heights[-1] - heights[0]) / steps.min() - 1e-3)))
    place = np.interp(wanted, heights, np.arange(len(heights)))
    lower = np.minimum(place.astype(int), len(heights) - 2)
    share = (place - lower).astype(np.float32)
    values = array_of(image)
    even = sitk.GetImageFromArray(np.ascontiguousarray((values[..., lower] * (1 - share) + values[..., lower + 1] * share).T))
    origin = np.array(image.GetOrigin())
    even.SetOrigin((origin + (heights[0] - origin @ normal) * normal).tolist())
    even.SetSpacing((*image.GetSpacing()[:2], float(wanted[1] - wanted[0])))
    even.SetDirection(image.GetDirection())
    return even
