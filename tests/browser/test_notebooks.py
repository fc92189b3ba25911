"""A notebook opened in JupyterLab: all cells run on the tiny cohort, and every viewer in it scrolls."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from playwright.sync_api import Locator, Page

from helpers.workspace import REPOSITORY
from tests.browser.conftest import Lab, close_page, errors_in, open_notebook, open_page, run_all
from tests.notebooks.test_notebooks import tiny_parameters

NAME = "01_explore_data"
"""It has most viewers and needs no other; tests/notebooks executes all, and looks at what their viewers leave."""


@pytest.fixture(scope="module")
def copy(lab: Lab, tmp_path_factory) -> Path:
    """The notebook with the tiny parameters, in the folder of the lab."""
    path = REPOSITORY / "notebooks" / f"{NAME}.ipynb"
    parameters = tiny_parameters(tmp_path_factory.mktemp("workspace"))[path]
    notebook = parameterize_notebook(load_notebook_node(str(path)), parameters, engine_name=None)
    notebook.metadata.pop("papermill", None)
    nbformat.write(notebook, lab.folder / path.name)
    return lab.folder / path.name


def bring_into_view(page: Page, viewer: Locator) -> None:
    """Scroll until the viewer rests in the window: JupyterLab lays out a cell, and moves the others, only as it nears."""
    for _ in range(20):
        viewer.evaluate("(root) => root.scrollIntoView({ block: 'center' })")
        page.wait_for_timeout(450)
        top = viewer.bounding_box()["y"]
        if 0 <= top < page.viewport_size["height"] / 2:
            return
    raise AssertionError(f"A viewer stays out of the window, its top at {top:.0f} px.")


def test_a_notebook_runs_in_the_browser_and_its_viewers_scroll(browser, lab, copy):
    page = open_page(browser)
    open_notebook(page, lab, copy.name)
    run_all(page, timeout=600_000)
    assert errors_in(page) == []
    page.locator(".slice-viewer[data-ready]").first.wait_for(timeout=30_000)
    for viewer in page.locator(".slice-viewer[data-ready]").all():
        bring_into_view(page, viewer)
        before = int(viewer.get_attribute("data-slice"))
        box = viewer.locator(".slice-viewer-frame").first.bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + 30)
        page.mouse.move(box["x"] + 30, box["y"] + 40)
        page.mouse.wheel(0, -100)
        page.wait_for_timeout(100)
        assert int(viewer.get_attribute("data-slice")) == before + 1
    assert page.faults == []
    close_page(page)
