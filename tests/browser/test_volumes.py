"""Volumes of every kind, opened from disk: what is drawn is what is in them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from brats_cohort.regions import CLASS_NAMES
from brats_cohort.testing import LPS, case_arrays, write_case
from slice_viewer import Pane, SliceViewer
from slice_viewer.slices import PLANES, cut
from slice_viewer.surface import surface_of, write_surfaces
from tests.browser.conftest import close_page, open_page
from tests.browser.scenes import view_case

PICTURE = """(root, number) => {
    const { picture, onPicture } = root.viewer.panes[number];
    const { data, width, height } = onPicture.getImageData(0, 0, picture.width, picture.height);
    return [width, height, [...data.filter((_, index) => index % 4 === 0)]];
}"""


@pytest.fixture(scope="module")
def page(browser):
    page = open_page(browser)
    yield page
    close_page(page)


@pytest.fixture
def show(page, tmp_path):
    """Open a viewer's page; no error of the script may be left behind."""

    def opened(viewer: SliceViewer):
        page.goto(viewer.to_html(tmp_path / "page.html").as_uri())
        root = page.locator(".slice-viewer[data-ready]")
        root.wait_for()
        return root

    yield opened
    assert page.faults == []


def oblique() -> np.ndarray:
    turned = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, 0.1, -0.2) @ np.diag([-1.0, 1.5, 2.5]), (10, -20, 30))
    return turned[:, [2, 0, 1, 3]]


def volumes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Cases by name: a volume without background (nothing is cropped) and its affine."""
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 1, (20, 24, 16))
    with_missing = noise.astype(np.float32)
    with_missing[3:9, 4:12, 5:9] = np.nan
    return {
        "oblique": ((noise * 100 + 500).astype(np.int16), oblique()),
        "anisotropic": ((noise * 100 + 500).astype(np.int16), np.diag([-0.9, -0.9, 5.0, 1.0])),
        "int16 with negative values": ((noise * 400 - 300).astype(np.int16), LPS),
        "float with negative values": (noise, LPS),
        "NaN": (with_missing, LPS),
        "single slice": (noise[:, :, :1].astype(np.float32), LPS),
    }


def test_two_fingers_zoom_a_surface_and_do_not_turn_it(page, tmp_path):
    ball = sum((axis - 10) ** 2 for axis in np.ogrid[:20, :20, :20]) < 50
    page.goto(write_surfaces(tmp_path / "page.html", [surface_of(ball, LPS, "ball", "red")]).as_uri())
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")  # stops it
    look = """() => {
        const gl = document.querySelector('canvas').getContext('webgl2');
        const pixels = new Uint8Array(4 * gl.drawingBufferWidth * gl.drawingBufferHeight);
        gl.readPixels(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
        const left = [...document.querySelectorAll('.letter')].map((letter) => letter.style.left);
        return [left.join(), pixels.filter((value, index) => index % 4 === 0 && value > 40).length];
    }"""
    page.wait_for_timeout(300)
    place, size = page.evaluate(look)
    page.locator("canvas").evaluate(
        """(canvas) => {
            canvas.setPointerCapture = () => {};
            const touch = (type, pointerId, clientX) => canvas.dispatchEvent(new PointerEvent(type, {
                pointerId, pointerType: 'touch', bubbles: true, clientX, clientY: 200 }));
            touch('pointerdown', 1, 200); touch('pointerdown', 2, 300);
            touch('pointermove', 1, 150); touch('pointermove', 2, 350);
            touch('pointerup', 1, 150); touch('pointerup', 2, 350);
        }"""
    )
    page.wait_for_timeout(300)
    assert page.evaluate(look)[0] == place
    assert page.evaluate(look)[1] > 2 * size > 0


@pytest.mark.parametrize("name", volumes())
def test_every_plane_is_drawn_as_the_figures_draw_it(show, name):
    volume, affine = volumes()[name]
    low, high = np.nanpercentile(volume, [2, 98])
    viewer = SliceViewer([Pane(volume, window=(low, high))], affine)
    root = show(viewer)
    for plane in PLANES:
        root.evaluate("(root, plane) => { root.viewer.set({ plane }); root.viewer.draw() }", plane)
        viewer.plane = plane
        width, height, greys = root.evaluate(PICTURE, 0)
        expected, size = cut(volume, affine, plane=plane, index=viewer.index)
        expected = np.nan_to_num(np.clip((expected - low) / (high - low), 0, 1) * 255)
        assert np.abs(np.array(greys).reshape(height, width) - expected).max() <= 2
        box = root.locator(".slice-viewer-frame").bounding_box()
        assert box["width"] / box["height"] == pytest.approx(width * size[1] / (height * size[0]), rel=0.05)


def test_a_case_a_four_dimensional_file_and_one_without_labels(show, tmp_path):
    image, classes = case_arrays()
    case = write_case(tmp_path / "cohort", "BRATS_001", "msd", image=image, classes=classes)
    root = show(view_case(case))
    assert root.locator(".slice-viewer-pane b").all_inner_texts() == ["T1", "T1ce", "T2", "FLAIR"]
    assert root.locator(".slice-viewer-legend button").all_inner_texts() == list(CLASS_NAMES.values())
    assert root.get_by_role("button", name="overlay").count() == 1
    root = show(SliceViewer(case.images["t1"].path))
    assert root.locator(".slice-viewer-pane").count() == 4
    root = show(SliceViewer(image, LPS))
    assert root.locator(".slice-viewer-legend").count() == 0
    assert [root.get_by_role("img", name=f"pane {number}").count() for number in (1, 2, 3, 4)] == [1] * 4
    assert root.get_by_role("button", name="outline of the labels").count() == 0


def test_errors_have_a_legend_of_their_own(show):
    image, classes = case_arrays()
    errors = np.where(classes > np.roll(classes, 2, axis=1), 1, 0) + np.where(classes < np.roll(classes, 2, axis=1), 2, 0)
    names = {1: "missed", 2: "falsely marked"}
    panes = [Pane(image[3], classes, "reference"), Pane(image[3], errors.astype(np.uint8), "errors", names=names)]
    root = show(SliceViewer(panes, LPS, names=CLASS_NAMES))
    assert root.locator(".slice-viewer-legend button").all_inner_texts() == [*CLASS_NAMES.values(), "missed", "falsely marked"]


def test_panes_of_different_grids_scroll_together(show):
    image, classes = case_arrays((40, 48, 30))
    coarse = LPS @ np.diag([2.0, 2.0, 2.0, 1.0])
    panes = [Pane(image[3], classes, "fine"), Pane(image[3][::2, ::2, ::2], None, "coarse", affine=coarse)]
    root = show(SliceViewer(panes, LPS, cursor=(20, 24, 14)))
    inside = "(root) => root.viewer.panes.map((pane) => pane.inside)"
    before = root.evaluate(PICTURE, 1)
    root.evaluate("(root) => { root.viewer.go(18); root.viewer.draw() }")
    assert root.evaluate(PICTURE, 1) != before
    assert root.evaluate(inside) == [True, True]
    widths = [box.bounding_box()["width"] for box in root.locator(".slice-viewer-frame").all()]
    assert widths[0] == pytest.approx(widths[1], rel=0.15)


def test_a_click_in_a_pane_of_a_tilted_grid_stays_where_it_was(show):
    """The pane that was clicked shows the same slice afterwards, with its crosshair on the voxel under the pointer."""
    image, _ = case_arrays((40, 48, 30))
    cosine, sine = np.cos(np.radians(20)), np.sin(np.radians(20))
    tilted = LPS.copy()
    tilted[1:3, 1:3] = [[-cosine, sine], [sine, cosine]]
    part = tilted.copy()
    part[:3, 3] = tilted[:3, :3] @ [6, 20, 8]
    panes = [Pane(image[0] + 1, None, "whole"), Pane(image[0][6:34, 20:44, 8:26] + 1, None, "part", affine=part)]
    root = show(SliceViewer(panes, tilted, cursor=(20, 30, 14)))
    box = root.locator(".slice-viewer-frame").nth(1).bounding_box()
    root.page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.25 * box["height"])
    x, y, z = root.evaluate("(root) => root.viewer.model.get('cursor')")
    assert z == 14
    assert ((x - 6 + 0.5) / 28, (y - 20 + 0.5) / 24) == (pytest.approx(0.3, abs=0.02), pytest.approx(0.25, abs=0.025))
