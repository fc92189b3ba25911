"""Notebooks with a viewer, opened in JupyterLab: all cells run on the tiny cohort, and every viewer in it scrolls."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from playwright.sync_api import Locator, Page

from helpers.workspace import REPOSITORY
from tests.browser.conftest import Lab, close_page, errors_in, open_notebook, open_page, run_all
from tests.notebooks.test_notebooks import NOTEBOOKS, tiny_parameters

WITH_VIEWERS = ("01", "02", "03")
"""Notebooks that are opened here; all are executed by tests/notebooks."""


@pytest.fixture(scope="module")
def copies(lab: Lab, tmp_path_factory) -> dict[str, Path]:
    """The notebooks with the tiny parameters, in the folder of the lab, by name; they share one workspace, in order."""
    parameters = tiny_parameters(tmp_path_factory.mktemp("workspace"))
    made = {}
    for path in NOTEBOOKS:
        notebook = parameterize_notebook(load_notebook_node(str(path)), parameters[path], engine_name=None)
        notebook.metadata.pop("papermill", None)
        made[path.stem] = lab.folder / path.name
        nbformat.write(notebook, made[path.stem])
    return made


def bring_into_view(page: Page, viewer: Locator) -> None:
    """Scroll until the viewer rests in the window: JupyterLab lays out a cell, and moves the others, only as it nears."""
    for _ in range(20):
        viewer.evaluate("(root) => root.scrollIntoView({ block: 'center' })")
        page.wait_for_timeout(450)
        top = viewer.bounding_box()["y"]
        if 0 <= top < page.viewport_size["height"] / 2:
            return
    raise AssertionError(f"A viewer stays out of the window, its top at {top:.0f} px.")


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS if path.stem[:2] in WITH_VIEWERS])
def test_a_notebook_runs_in_the_browser_and_its_viewers_scroll(browser, lab, copies, name):
    page = open_page(browser)
    open_notebook(page, lab, copies[name].name)
    run_all(page, timeout=600_000)
    assert errors_in(page) == []
    source = (REPOSITORY / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    uses_viewer = "SliceViewer(" in source or "view_case(" in source
    if uses_viewer:
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
