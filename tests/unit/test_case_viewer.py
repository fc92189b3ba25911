"""The slice viewer of a case: names and colours of the tumour's classes, errors, and what an executed notebook keeps."""

import gzip

import nbformat
import numpy as np

from brats_cohort.regions import CLASS_COLOURS, CLASS_NAMES, classes_to_regions
from brats_cohort.testing import LPS, case_arrays, write_case
from helpers.plots.viewer import view_case
from helpers.running import execute_notebook
from slice_viewer import SliceViewer
from slice_viewer.slices import PALETTE


def unpacked(viewer: SliceViewer, number: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(viewer._labels[number]), np.uint8)


def test_a_case_is_shown_with_its_names_and_its_reference(tmp_path):
    image, classes = case_arrays()
    viewer = view_case(write_case(tmp_path, image=image, classes=classes))
    assert [pane["title"] for pane in viewer._scene["panes"]] == ["T1", "T1ce", "T2", "FLAIR"]
    assert len(viewer._labels) == 1 and classes[viewer.cursor]
    names = {entry["value"]: (entry["name"], entry["colour"]) for entry in viewer._scene["labels"][0]["entries"]}
    assert names == {value: (CLASS_NAMES[value], CLASS_COLOURS[value]) for value in CLASS_NAMES}
    assert viewer._values[1:] == [str(volume[viewer.cursor]) for volume in image]


def test_figures_and_viewer_use_the_colours_of_the_classes():
    assert dict(enumerate(PALETTE[:3], start=1)) == CLASS_COLOURS


def test_region_maps_are_shown_as_classes():
    image, classes = case_arrays()
    first, second = (view_case(image, LPS, labels=labels) for labels in (classes, classes_to_regions(classes)))
    np.testing.assert_array_equal(unpacked(first, 0), unpacked(second, 0))


def test_executed_notebooks_keep_the_picture_and_not_the_volumes(tmp_path):
    source = (
        "import numpy as np\nfrom slice_viewer import SliceViewer\n"
        "SliceViewer(np.random.default_rng(0).integers(1, 900, (60, 60, 40)), np.eye(4))"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbformat.write(notebook, tmp_path / "one.ipynb")
    run = execute_notebook(tmp_path / "one.ipynb", tmp_path / "out.ipynb", parameters={})
    assert run.status == "ok", run.error
    result = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert "image/png" in result.cells[0].outputs[-1].data
    assert (tmp_path / "out.ipynb").stat().st_size < 100_000
