"""The slice viewer beside the figures: the same colours, and what an executed notebook keeps."""

import nbformat

from brats_cohort.regions import CLASS_COLOURS
from helpers.running import execute_notebook
from slice_viewer.slices import PALETTE


def test_figures_and_viewer_use_the_colours_of_the_classes():
    assert dict(enumerate(PALETTE[:3], start=1)) == CLASS_COLOURS


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
