"""From a scanner's folder to four registered, skull-stripped images of a glioma session, and back to where they came from."""

from scan_session.brain import extract_brain
from scan_session.dicom_seg import write_dicom_seg
from scan_session.errors import SessionError
from scan_session.find import find_series
from scan_session.native import to_native, volumes, write_native
from scan_session.prepare import choose_series, prepare_session
from scan_session.registration import Registration, register
from scan_session.series import MODALITIES, Series
from scan_session.session import Session, load_session

__all__ = [
    "MODALITIES",
    "Registration",
    "Series",
    "Session",
    "SessionError",
    "choose_series",
    "extract_brain",
    "find_series",
    "load_session",
    "prepare_session",
    "register",
    "to_native",
    "volumes",
    "write_dicom_seg",
    "write_native",
]
