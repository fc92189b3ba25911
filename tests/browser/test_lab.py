"""The viewer inside JupyterLab: Python and the browser agree, a reload brings it back, and a busy kernel does not stop it."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import numpy as np

from brats_cohort.regions import CLASS_COLOURS
from tests.browser.conftest import (
    CURRENT,
    Lab,
    close_page,
    errors_in,
    open_notebook,
    open_page,
    run_all,
    run_cell,
    start_lab,
    stop_lab,
    write_notebook,
)
from tests.browser.scenes import value_at
from tests.browser.test_interaction import colour_at, grey_of, place_of, rgb

SLOWLY_UNPACKED = """() => {
  const read = Response.prototype.arrayBuffer;
  const wait = () => new Promise((done) => setTimeout(done, 600));
  Response.prototype.arrayBuffer = async function () { await wait(); return read.call(this); };
}"""


def test_python_and_the_browser_share_the_state(lab_surface):
    surface = lab_surface
    surface.reset()
    run_cell(surface.page, "v.plane = 'coronal'; v.index = 30; v.opacity = 0.25; v.window = (0, 300)")
    surface.settle(200)
    assert (surface.state("plane"), surface.slice(), surface.state("opacity")) == ("coronal", 30, 0.25)
    assert surface.state("windows") == [[0, 300]]
    surface.viewer.get_by_role("button", name="sagittal slices").click()
    surface.over()
    surface.page.mouse.wheel(0, -100)
    surface.settle(400)
    expected = ["sagittal", surface.slice(), *surface.state("cursor")]
    assert run_cell(surface.page, "print(v.plane, v.index, *v.cursor)").split() == [str(part) for part in expected]


def test_other_labels_of_the_same_case_are_drawn(lab_surface):
    surface, place = lab_surface, place_of((8, 22, 10), "axial")
    names = "LPS, WINDOW, CLASS_NAMES, Pane, marked_labels, marked_volume"
    panes = "[Pane(marked_volume(), title='plain', window=WINDOW), Pane(marked_volume(), labels, 'labelled', window=WINDOW)]"
    show = f"v.show({panes}, LPS, names=CLASS_NAMES)"
    surface.page.evaluate(SLOWLY_UNPACKED)
    for change, colour in (("labels[4:12, 20:28, 10] = 0", [grey_of(value_at(10))] * 3), ("", rgb(CLASS_COLOURS[2]))):
        run_cell(surface.page, f"from tests.browser.scenes import {names}\nlabels = marked_labels()\n{change}\n{show}")
        surface.reset()
        np.testing.assert_allclose(colour_at(surface, 1, *place), colour, atol=4)


def test_a_hand_on_the_case_before_does_not_reach_the_next(lab_surface):
    surface = lab_surface
    surface.reset()
    surface.settle(400)
    show = "v.show(marked_panes(), LPS, names=CLASS_NAMES)"
    cell = f"import time\nfrom tests.browser.scenes import CLASS_NAMES, LPS, marked_panes\n{show}\ntime.sleep(3)\n{show}"
    run_cell(surface.page, cell, wait=False)
    surface.settle(1500)  # the first is on the screen, the second on its way
    surface.viewer.evaluate("(root) => root.scrollIntoView({ block: 'center' })")
    surface.over(0, 0.3, 0.3)
    surface.page.mouse.down(button="right")
    surface.over(0, 0.6, 0.5)
    surface.page.mouse.up(button="right")
    surface.page.mouse.wheel(0, -100)
    assert surface.state("windows") != [[0, 500]]
    surface.page.wait_for_function("window.ran")
    surface.settle(1500)
    assert surface.state("windows") == [[0, 500]]
    assert run_cell(surface.page, "print(v.windows, v.cursor == v.scene.cursor)").strip() == "[(0.0, 500.0)] True"


def test_sliders_of_ipywidgets_can_be_linked(lab_surface):
    surface = lab_surface
    surface.reset()
    surface.settle(400)
    run_cell(
        surface.page,
        "import ipywidgets, traitlets\nslider = ipywidgets.IntSlider(max=29, description='axial')\n"
        "traitlets.link((slider, 'value'), (v, 'index'))\nslider",
    )
    surface.reset()
    surface.over()
    surface.page.mouse.wheel(0, -100)
    surface.settle(400)
    assert run_cell(surface.page, "print(slider.value)").strip() == "11"
    run_cell(surface.page, "slider.value = 21")
    surface.settle(200)
    assert surface.slice() == 21


def test_a_busy_kernel_does_not_freeze_the_viewer(lab_surface):
    surface = lab_surface
    surface.reset()
    run_cell(surface.page, "import time; time.sleep(5)", wait=False)
    surface.viewer.evaluate("(root) => root.scrollIntoView({ block: 'center' })")
    surface.over()
    for _ in range(5):
        surface.page.mouse.wheel(0, -100)
    assert surface.slice() == 15
    surface.settle(400)
    assert not surface.page.evaluate("window.ran")
    surface.page.wait_for_function("window.ran")
    surface.settle(300)
    assert surface.slice() == 15
    assert run_cell(surface.page, "print(v.index)").strip() == "15"


def test_the_notebook_is_saved_from_the_viewer(lab_surface):
    surface = lab_surface
    run_cell(surface.page, "1")
    surface.reset()
    surface.page.mouse.click(*surface.over())
    assert surface.page.evaluate(f"{CURRENT}.context.model.dirty")
    surface.page.keyboard.press("Control+s")
    surface.page.wait_for_function(f"!{CURRENT}.context.model.dirty", timeout=5_000)


def test_a_reload_brings_the_viewer_back(lab_surface):
    surface = lab_surface
    surface.reset()
    surface.over()
    surface.page.mouse.wheel(0, -100)
    surface.settle(400)
    surface.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    surface.page.wait_for_timeout(500)
    surface.page.reload(wait_until="domcontentloaded")
    surface.viewer.wait_for(timeout=60_000)
    assert surface.slice() == 11
    surface.reset()
    surface.over()
    surface.page.mouse.wheel(0, -100)
    assert surface.slice() == 11


def test_six_viewers_live_in_one_notebook(browser, lab):
    cells = ["from tests.browser.scenes import marked_viewer", *["marked_viewer()"] * 6]
    write_notebook(lab.folder / "six.ipynb", *cells)
    page = open_page(browser)
    open_notebook(page, lab, "six.ipynb")
    run_all(page)
    page.wait_for_function("document.querySelectorAll('.slice-viewer[data-ready]').length === 6", timeout=60_000)
    for viewer in page.locator(".slice-viewer").all():
        viewer.evaluate("(root) => root.scrollIntoView({ block: 'center' })")
        page.wait_for_timeout(450)
        box = viewer.locator(".slice-viewer-frame").first.bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + 30)
        page.mouse.move(box["x"] + 30, box["y"] + 40)
        page.mouse.wheel(0, -100)
        page.wait_for_timeout(60)
        assert viewer.get_attribute("data-slice") == "11"
    assert page.faults == []
    close_page(page)


def test_a_server_without_the_extension_shows_the_page_and_says_what_to_install(browser, tmp_path):
    """The server runs in an environment of its own that has JupyterLab and ipywidgets, the kernel in the one of the tests."""
    venv.create(tmp_path / "server")
    share, own = Path(sys.prefix) / "share" / "jupyter", tmp_path / "server" / "share" / "jupyter"
    for part in ("lab", "kernels", "labextensions/@jupyter-widgets"):
        (own / part).parent.mkdir(parents=True, exist_ok=True)
        (own / part).symlink_to(share / part)
    python = tmp_path / "server" / "bin" / "python"
    query = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip())
    folders = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(folders))
    folder, home = tmp_path / "notebooks", tmp_path / "home"
    folder.mkdir()
    write_notebook(folder / "elsewhere.ipynb", "from tests.browser.scenes import marked_viewer\nmarked_viewer()")
    process, url = start_lab(folder, home, python=str(python))
    page = open_page(browser)
    try:
        open_notebook(page, Lab(url, folder), "elsewhere.ipynb")
        run_all(page)
        assert errors_in(page) == []
        frame = page.frame_locator("iframe[title='slice viewer']")
        frame.locator(".slice-viewer[data-ready]").wait_for(timeout=20_000)
        assert f"{python} -m pip install anywidget" in frame.locator("p").inner_text()
        frame.locator(".slice-viewer-pane").first.click(position={"x": 50, "y": 50})
        page.keyboard.press("ArrowUp")
        page.wait_for_timeout(100)
        assert frame.locator(".slice-viewer").get_attribute("data-slice") == "11"
    finally:
        close_page(page)
        stop_lab(process)
