"""What a hand does to the viewer, in JupyterLab and in the page opened from disk: the same tests on both."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from brats_cohort.regions import CLASS_COLOURS, CLASS_NAMES
from tests.browser.conftest import CURRENT, SCROLLER
from tests.browser.scenes import MARK, SHAPE, WINDOW, value_at


def grey_of(value: float) -> float:
    low, high = WINDOW
    return 255 * (value - low) / (high - low)


def colour_at(surface, pane: int, x: float, y: float) -> np.ndarray:
    """Colour on the screen, at shares of the width and height of a pane's picture."""
    surface.settle()
    shot = Image.open(io.BytesIO(surface.viewer.locator(".slice-viewer-frame").nth(pane).screenshot())).convert("RGB")
    return np.array(shot.getpixel((int(x * shot.width), int(y * shot.height))), float)


def place_of(voxel: tuple[int, int, int], plane: str) -> tuple[float, float]:
    """Where a voxel of the marked volume (LPS) lies on the screen, in shares of width and height."""
    x, y, z = ((at + 0.5) / length for at, length in zip(voxel, SHAPE, strict=True))
    return {"axial": (x, y), "coronal": (x, 1 - z), "sagittal": (y, 1 - z)}[plane]


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)], float)


def test_one_notch_is_one_slice_and_the_page_stays(surface):
    surface.over()
    top, first = surface.scroll_top(), surface.slice()
    surface.page.mouse.wheel(0, -100)
    assert surface.slice() == first + 1
    for _ in range(4):
        surface.page.mouse.wheel(0, 100)
    assert surface.slice() == first - 3
    for _ in range(SHAPE[2] + 5):
        surface.page.mouse.wheel(0, 100)
    assert surface.slice() == 0
    assert surface.scroll_top() == top


def test_shift_takes_five_slices(surface):
    surface.over()
    first = surface.slice()
    surface.page.keyboard.down("Shift")
    surface.page.mouse.wheel(0, -100)
    surface.page.keyboard.up("Shift")
    assert surface.slice() == first + 5


def test_small_movements_of_a_trackpad_add_up(surface):
    surface.over()
    first = surface.slice()
    for _ in range(12):
        surface.page.mouse.wheel(0, -6)
    surface.settle(100)
    assert surface.slice() == first + 3


def test_a_page_scroll_that_passes_over_is_not_caught(surface):
    surface.page.evaluate(f"() => {{ {SCROLLER[surface.kind]}.scrollTop -= 600 }}")
    surface.settle(500)
    box = surface.viewer.bounding_box()
    assert box["y"] > 200
    top, first = surface.scroll_top(), surface.slice()
    surface.page.mouse.move(box["x"] + 200, 120)
    for _ in range(12):
        surface.page.mouse.wheel(0, 70)
        surface.page.wait_for_timeout(30)
    surface.settle(100)
    assert surface.scroll_top() - top > 500
    assert surface.slice() == first


def test_scrolling_says_nothing_to_the_kernel(surface):
    if surface.kind == "file":
        pytest.skip("a page from disk has no kernel")
    surface.over()
    surface.settle(400)
    before = len(surface.sent)
    for _ in range(10):
        surface.page.mouse.wheel(0, -100)
    surface.settle()
    assert len(surface.sent) == before
    surface.settle(500)
    assert len(surface.sent) > before


def test_keys_move_turn_and_fade(surface):
    surface.over()
    surface.page.mouse.click(*surface.over())
    keyboard, first = surface.page.keyboard, surface.slice()
    for key, change in {"ArrowUp": 1, "ArrowRight": 1, "ArrowDown": -1, "ArrowLeft": -1, "PageUp": 10, "PageDown": -10}.items():
        before = surface.slice()
        keyboard.press(key)
        assert surface.slice() == before + change
    assert surface.slice() == first
    keyboard.press("Shift+ArrowUp")
    assert surface.slice() == first + 5
    keyboard.press("End")
    assert surface.slice() == SHAPE[2] - 1
    keyboard.press("Home")
    assert surface.slice() == 0
    for plane in ("coronal", "sagittal", "axial"):
        keyboard.press(plane[0])
        assert surface.state("plane") == plane
    keyboard.press("o")
    assert surface.state("overlay") is False
    keyboard.press("b")
    assert surface.state("outline") is True
    keyboard.press("[")
    assert surface.state("opacity") == 0.9
    keyboard.press("t")
    assert surface.slice() == 5, "of slices with as much, the lowest, as in figures"
    keyboard.press("r")
    surface.settle()
    assert surface.state("overlay") is True
    assert surface.state("windows") == [list(WINDOW)]


def test_the_list_of_keys_is_shown_on_demand(surface):
    keys = surface.viewer.locator(".slice-viewer-help")
    assert not keys.is_visible()
    surface.viewer.get_by_role("button", name="keys and mouse").click()
    assert keys.is_visible()
    term, meaning = (keys.locator(part).nth(1).bounding_box() for part in ("dt", "dd"))
    assert abs(term["y"] - meaning["y"]) < 3, "a key and what it does stand on one line"
    surface.page.keyboard.press("?")
    assert not keys.is_visible()


def test_keys_do_not_leak_into_the_notebook(surface):
    surface.page.mouse.click(*surface.over())
    count = f"{CURRENT}.content.widgets.length" if surface.kind == "lab" else "0"
    before, top = surface.page.evaluate(count), surface.scroll_top()
    for key in ("d", "d", "a", "b", "x", "m", " ", " ", "Enter", "PageDown", "End"):
        surface.page.keyboard.press(key)
    surface.settle(100)
    assert surface.page.evaluate(count) == before
    assert surface.scroll_top() == top


def test_drag_moves_the_crosshair_of_every_pane(surface):
    surface.page.mouse.move(*surface.over(0, 0.5, 0.5))
    surface.page.mouse.down()
    surface.over(0, 0.8, 0.25)
    surface.page.mouse.up()
    x, y = int(0.8 * SHAPE[0]), int(0.25 * SHAPE[1])
    assert surface.state("cursor") == [x, y, 10]
    surface.settle()
    lines = surface.viewer.evaluate("(root) => root.viewer.panes.map((pane) => pane.frame.style.getPropertyValue('--x'))")
    assert lines == [f"{100 * (x + 0.5) / SHAPE[0]:g}%"] * 2
    surface.page.keyboard.press("c")
    surface.settle()
    assert surface.slice() == SHAPE[1] - 1 - y  # counted from the back


@pytest.mark.parametrize("way", ["right", "shift"])
def test_dragging_otherwise_sets_window_and_level(surface, way):
    cursor = surface.state("cursor")
    surface.over(0, 0.3, 0.3)
    if way == "shift":
        surface.page.keyboard.down("Shift")
    surface.page.mouse.down(button="left" if way == "shift" else "right")
    x, y = surface.over(0, 0.6, 0.3)
    surface.page.mouse.move(x, y + 40)
    surface.page.mouse.up(button="left" if way == "shift" else "right")
    surface.page.keyboard.up("Shift")
    surface.settle()
    ((low, high),) = surface.state("windows")
    assert high - low > WINDOW[1] - WINDOW[0]
    assert (low + high) / 2 == pytest.approx(sum(WINDOW) / 2 + 80, abs=4)
    assert surface.state("cursor") == cursor


def test_the_right_slice_is_drawn_the_right_way_round(surface):
    surface.over()
    for _ in range(14):
        surface.page.mouse.wheel(0, -100)
    assert surface.slice() == 24
    left, right = place_of((33, 8, 24), "axial"), place_of((6, 8, 24), "axial")
    assert left[0] > 0.5 > right[0]
    assert colour_at(surface, 0, *left) == pytest.approx(grey_of(MARK), abs=4)
    assert colour_at(surface, 0, *right) == pytest.approx(grey_of(value_at(24)), abs=4)


@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
def test_other_planes_have_the_head_on_top(surface, plane):
    surface.viewer.evaluate("(root, plane) => root.viewer.set({ plane, cursor: [33, 8, 15] })", plane)
    surface.settle(100)
    marked, low = place_of((33, 8, 24), plane), place_of((33, 8, 4), plane)
    assert marked[1] < 0.5 < low[1]
    aside = -0.06  # the crosshair goes through the middle of the mark
    assert colour_at(surface, 0, marked[0] + aside, marked[1]) == pytest.approx(grey_of(MARK), abs=4)
    assert colour_at(surface, 0, low[0] + aside, low[1]) == pytest.approx(grey_of(value_at(4)), abs=6)
    marks = surface.viewer.locator(".slice-viewer-pane").first.locator("i").all_inner_texts()
    assert marks == {"coronal": ["R", "L", "S", "I"], "sagittal": ["A", "P", "S", "I"]}[plane]


def test_labels_have_their_colours_and_the_legend_switches_them(surface):
    oedema, enhancing = place_of((8, 22, 10), "axial"), place_of((19, 40, 10), "axial")
    np.testing.assert_allclose(colour_at(surface, 1, *oedema), rgb(CLASS_COLOURS[2]), atol=4)
    np.testing.assert_allclose(colour_at(surface, 1, *enhancing), rgb(CLASS_COLOURS[3]), atol=4)
    np.testing.assert_allclose(colour_at(surface, 0, *oedema), grey_of(value_at(10)), atol=4)
    surface.viewer.get_by_role("button", name=CLASS_NAMES[2]).click()
    assert surface.state("hidden") == [CLASS_NAMES[2]]
    np.testing.assert_allclose(colour_at(surface, 1, *oedema), grey_of(value_at(10)), atol=4)
    np.testing.assert_allclose(colour_at(surface, 1, *enhancing), rgb(CLASS_COLOURS[3]), atol=4)
    surface.viewer.get_by_role("slider", name="opacity of the overlay").fill("0.5")
    mixed = (rgb(CLASS_COLOURS[3]) + grey_of(value_at(10))) / 2
    np.testing.assert_allclose(colour_at(surface, 1, *enhancing), mixed, atol=4)


def test_an_outline_has_the_colour_and_a_dark_halo(surface):
    surface.viewer.evaluate("(root) => root.viewer.set({ outline: true, opacity: 0 })")
    shot = surface.viewer.locator(".slice-viewer-frame").nth(1)
    surface.settle()
    pixels = np.asarray(Image.open(io.BytesIO(shot.screenshot())).convert("RGB")).astype(float)
    row = pixels[int(place_of((8, 22, 10), "axial")[1] * len(pixels))]
    edge = int(4 / SHAPE[0] * len(row))
    near = row[edge - 6 : edge + 7]
    assert np.abs(near - rgb(CLASS_COLOURS[2])).sum(axis=1).min() < 60
    assert near[:7].mean(axis=1).min() < 0.75 * grey_of(value_at(10))
    inside = row[int(8 / SHAPE[0] * len(row))]
    np.testing.assert_allclose(inside, grey_of(value_at(10)), atol=4)


def test_the_readout_tells_place_values_and_label(surface):
    surface.viewer.evaluate("(root) => root.viewer.set({ cursor: [8, 22, 10] })")
    surface.settle(50)
    text = surface.viewer.locator(".slice-viewer-readout").inner_text()
    assert f"axial 10 of {SHAPE[2] - 1}" in text
    assert "voxel (8, 22, 10)" in text
    assert "mm (-8.0, -22.0, 10.0)" in text
    assert f"≈ {value_at(10)}" in text
    assert f"[{CLASS_NAMES[2]}]" in text
    if surface.kind == "lab":  # the kernel answers with the exact value
        exact = "(root) => !root.querySelector('.slice-viewer-readout').innerText.includes('≈')"
        surface.page.wait_for_function(exact, arg=surface.viewer.element_handle(), timeout=5_000)


def test_playing_runs_through_the_slices_and_stops(surface):
    surface.page.mouse.click(*surface.over())
    first = surface.slice()
    surface.page.keyboard.press(" ")
    surface.settle(500)
    assert surface.slice() > first
    surface.page.keyboard.press(" ")
    stopped = surface.slice()
    surface.settle(300)
    assert surface.slice() == stopped


def test_every_control_has_a_name_and_a_state(surface):
    controls = surface.viewer.locator("button, input")
    names = controls.evaluate_all("(all) => all.map((one) => one.getAttribute('aria-label'))")
    assert len(names) > 10
    assert all(names)
    slider = surface.viewer.get_by_role("slider", name="slice")
    assert slider.get_attribute("aria-valuetext") == f"axial slice 10 of {SHAPE[2] - 1}"
    assert surface.viewer.get_by_role("button", name="coronal slices").get_attribute("aria-pressed") == "false"
    assert surface.viewer.get_by_role("img", name="labelled").count() == 1
    slider.focus()
    surface.page.keyboard.press("ArrowRight")
    assert surface.slice() == 11


def test_two_fingers_scroll_and_one_moves_the_crosshair(surface):
    surface.viewer.locator(".slice-viewer-pane").first.evaluate(
        """(pane) => {
            pane.setPointerCapture = () => {};
            const box = pane.getBoundingClientRect();
            const touch = (type, id, y) => pane.dispatchEvent(new PointerEvent(type, {
                pointerId: id, pointerType: 'touch', bubbles: true, cancelable: true, buttons: 1, button: 0,
                clientX: box.left + box.width / 2, clientY: box.top + y }));
            touch('pointerdown', 1, 200); touch('pointerdown', 2, 220); touch('pointermove', 2, 180);
            touch('pointerup', 1, 200); touch('pointerup', 2, 180);
        }"""
    )
    assert surface.slice() == 15
    surface.viewer.locator(".slice-viewer-frame").first.evaluate(
        """(frame) => {
            const box = frame.getBoundingClientRect();
            for (const type of ['pointerdown', 'pointermove', 'pointerup']) frame.dispatchEvent(new PointerEvent(type, {
                pointerId: 3, pointerType: 'touch', bubbles: true, cancelable: true, buttons: 1, button: 0,
                clientX: box.left + 0.81 * box.width, clientY: box.top + 0.26 * box.height }));
        }"""
    )
    assert surface.state("cursor")[:2] == [32, 12]
