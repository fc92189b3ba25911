"""Find, check, read and convert cohorts of brain tumours: BraTS of every year, UCSF-PDGM, UPENN-GBM, MSD, nnU-Net and BIDS.

`discover` finds the cases of a folder, `check_cohort` says what is wrong with their files, `read_image` and `read_classes` lead
from a case to arrays, and `convert_cohort` writes a cohort in the format of another tool. `brats_cohort.regions` knows whose
numbers a label map has. `brats_cohort.splits` divides a cohort by patient, `brats_cohort.download` fetches public ones.
"""

from brats_cohort.case import Case, Fault
from brats_cohort.cases import case_of_files, discover, read_classes, read_image
from brats_cohort.checks import check_case, check_cohort
from brats_cohort.convert import convert_cohort
from brats_cohort.files import DataError
from brats_cohort.session import check_session, read_session

__all__ = [
    "Case",
    "DataError",
    "Fault",
    "case_of_files",
    "check_case",
    "check_cohort",
    "check_session",
    "convert_cohort",
    "discover",
    "read_classes",
    "read_image",
    "read_session",
]
