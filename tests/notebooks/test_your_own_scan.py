"""The extra notebook on a scan of one's own: from the DICOM files of a raw phantom session to a label map on its FLAIR."""

import nbformat
import nibabel as nib
import numpy as np
import pydicom
import pytest
from highdicom.legacy import LegacyConvertedEnhancedMRImage
from pydicom.uid import generate_uid

from glioma_phantom import PhantomSettings
from glioma_phantom.raw_session import BIRTH_DATE, PATIENT_NAME, write_raw_session
from helpers.running import assign, execute_notebooks
from helpers.workspace import REPOSITORY, load_metrics, open_workspace
from scan_session import find_series

NOTEBOOK = REPOSITORY / "notebooks" / "extras" / "your_own_scan.ipynb"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    out = tmp_path_factory.mktemp("own") / "out"
    workspace = open_workspace("phantom", out=out)
    parameters = {"OUT": str(out), "PHANTOM_SPACING": "4.0"}
    (run,) = execute_notebooks([NOTEBOOK], workspace.root / "run", parameters=assign([NOTEBOOK], parameters))
    assert run.status == "ok", run.error
    return workspace


def test_it_registers_every_series_and_leaves_label_maps_where_a_viewer_finds_them(workspace):
    numbers = load_metrics(workspace, "your_own_scan")["numbers"]
    errors = [value for name, value in numbers.items() if "registration error" in name]
    assert len(errors) == 4 and max(errors) < 1.5
    (case,) = (workspace.root / "your_own_scan").glob("Phantom*")
    scanned, labels = (nib.load(case / name) for name in ("series/flair_native.nii.gz", "label_map_on_flair.nii.gz"))
    assert scanned.shape == labels.shape and (case / "segmentation.dcm").is_file()
    assert (case / "surfaces.html").is_file()


def test_its_cells_take_a_series_of_which_one_file_holds_all_slices(tmp_path, monkeypatch):
    """Enhanced MR has the places of its slices elsewhere; not every way of compressing pixels is known to pydicom."""
    write_raw_session(tmp_path / "raw", 0, settings=PhantomSettings(spacing=4.0))
    headers = [pydicom.dcmread(path) for path in (tmp_path / "raw").rglob("*") if path.is_file()]
    flair = [header for header in headers if "flair" in header.SeriesDescription]
    made = {"series_instance_uid": generate_uid(), "sop_instance_uid": generate_uid(), "instance_number": 1}
    (tmp_path / "enhanced").mkdir()
    LegacyConvertedEnhancedMRImage(flair, series_number=7, **made).save_as(tmp_path / "enhanced" / "IM1")
    monkeypatch.setattr(pydicom.FileDataset, "pixel_array", property(lambda self: 1 / 0))
    cells = {cell.id: cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells}
    for files in ("enhanced", "raw"):
        dicom = [path for path in (tmp_path / files).rglob("*") if path.is_file()]
        known = {"np": np, "pydicom": pydicom, "dicom": dicom, "raw": None}
        known["chosen"] = {series.modality: series for series in find_series(tmp_path / files) if series.modality}
        for name in ("ae3f28e9", "b2e40700", "eb828ee1", "a1bf172a", "check-affine"):
            exec(cells[name], known)
    assert "to_mm" in known


def test_no_output_or_page_names_the_patient(workspace):
    (notebook,) = (workspace.root / "run").rglob("your_own_scan.ipynb")
    shown = str([cell.get("outputs") for cell in nbformat.read(notebook, as_version=4).cells])
    pages = [path.read_text(encoding="utf-8") for path in (workspace.root / "your_own_scan").rglob("*.html")]
    assert pages
    for secret in (*PATIENT_NAME.replace("^", " ").split(), BIRTH_DATE):
        assert not [text for text in (shown, *pages) if secret in text]
