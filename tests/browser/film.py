"""Rebuild the README's moving picture of the viewer: ``python -m tests.browser.film [FOLDER]``.

It is filmed in a real browser (Debian's chromium, through Playwright), from the page that `SliceViewer.to_html` writes.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from brats_cohort.files import DataError
from brats_cohort.regions import CLASS_COLOURS, CLASS_NAMES, MODALITY_NAMES
from glioma_phantom import PhantomSettings, make_phantom
from slice_viewer import SliceViewer
from tests.browser.conftest import CHROMIUM, FLAGS

SIZE = (760, 342)
"""Width and height of the window in CSS pixels."""

CASE = 2
"""The phantom of the README: one focus with core, rim and oedema."""

MILLISECONDS = 90
"""For which a frame is shown."""


def film_viewer(path: Path, *, case: int = CASE, settings: PhantomSettings | None = None, steps: int = 12) -> Path:
    """Write a short animated GIF of the viewer to `path`: scrolling, another plane, labels fading.

    Raises
    ------
    DataError
        If there is no chromium here.
    """
    phantom = make_phantom(case, settings or PhantomSettings())
    options = {"titles": list(MODALITY_NAMES.values()), "names": CLASS_NAMES, "colours": CLASS_COLOURS}
    viewer = SliceViewer(phantom.image, phantom.affine, labels=phantom.classes, **options)
    with tempfile.TemporaryDirectory() as folder:
        page = viewer.to_html(Path(folder) / "viewer.html")
        frames = [_in_palette(frame) for frame in _frames(page, steps)]
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=MILLISECONDS, loop=0, optimize=True)
    return path


def _frames(page: Path, steps: int) -> Iterator[Image.Image]:
    if CHROMIUM is None:
        raise DataError("there is no chromium to film the viewer with", "on Debian and Ubuntu: apt-get install chromium")
    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        window = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        window.goto(page.as_uri())
        root = window.locator(".slice-viewer[data-ready]")
        root.wait_for()
        root.focus()
        keys = ["ArrowUp"] * steps + ["ArrowDown"] * steps + ["c"] + ["ArrowUp"] * (steps // 2) + ["ArrowDown"] * (steps // 2)
        keys += ["a"] + ["["] * 4 + ["]"] * 4
        for key in keys:
            window.keyboard.press(key)
            if key.startswith("Arrow"):
                window.keyboard.press(key)
            window.wait_for_timeout(40)
            yield Image.open(io.BytesIO(window.screenshot())).convert("RGB")
        browser.close()


def _in_palette(frame: Image.Image) -> Image.Image:
    return frame.quantize(64, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)


if __name__ == "__main__":
    film_viewer((Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "images") / "viewer.gif")
