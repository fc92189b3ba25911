"""The site as ``make site`` builds it: no warning, broken link or script error; viewers scroll; a phone will do."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe

from helpers.workspace import REPOSITORY

PAGES = (
    "README",
    "notebooks/01_explore_data",
    "docs/data",
    "docs/glossary",
    "docs/reference/helpers/helpers.data",
)
"""One of each kind: the front, a notebook, wide tables, a text, a reference."""
LARGEST = 1_000_000
"""Bytes of a viewer's page."""


class Links(HTMLParser):
    """What a page links to, and the places in it that can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets, self.places = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"href", "src"} and value and not (tag == "link" and ("rel", "preload") in attrs):
                self.targets.append(value)
            elif name == "id":
                self.places.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the site; a warning of Sphinx is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-j", "2", "-c", "docs", ".", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    """Where the site is served; from files, a browser lets no script read the style sheets, which axe does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def page(browser, address):
    """A page as wide as a phone's that remembers what its scripts complain about."""
    page = browser.new_context(viewport={"width": 390, "height": 800}).new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
    own = (address, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else page.faults.append(request.url))
    yield page
    page.context.close()


def test_no_link_inside_the_site_is_broken(site):
    pages = {path: Links(path) for path in site.rglob("*.html") if "_static" not in path.parts}  # the theme's templates
    assert len(pages) > 30
    broken = set()
    for path, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            missing = parts.fragment and file in pages and unquote(parts.fragment) not in pages[file].places
            if not file.exists() or missing:
                broken.add(f"{path.relative_to(site)}: {target}")
    assert sorted(broken) == []


@pytest.mark.parametrize("name", ["README", "notebooks/03_train_unet", "docs/own_scan"])
def test_terms_are_linked_to_the_glossary(site, name):
    targets = Links(site / f"{name}.html").targets
    assert [target for target in targets if "glossary.html#" in target]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_readable_on_a_phone_and_accessible(address, page, name):
    page.goto(f"{address}/{name}.html")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    # With preload, axe asks for imported style sheets where they are not, which would be faults of its own.
    found = Axe().run(page, options={"resultTypes": ["violations"], "preload": False}).response["violations"]
    serious = [(rule["id"], rule["nodes"][0]["html"]) for rule in found if rule["impact"] in {"serious", "critical"}]
    assert serious == []
    assert page.faults == []


@pytest.mark.parametrize("viewers", sorted(REPOSITORY.glob("notebooks/**/viewers/*/")), ids=lambda folder: folder.name)
def test_every_viewer_of_a_notebook_is_live_and_small(site, viewers):
    cells = json.loads((viewers.parents[1] / f"{viewers.name}.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = ["".join(output.get("data", {}).get("text/plain", "")) for cell in cells for output in cell.get("outputs", [])]
    page = site / viewers.parents[1].relative_to(REPOSITORY) / f"{viewers.name}.html"
    frames = [target for target in Links(page).targets if target.startswith("viewers/")]
    assert len(frames) == sum(text.startswith("SliceViewer(") for text in texts) > 0
    assert all(path.stat().st_size <= LARGEST for path in viewers.iterdir())


def test_a_viewer_is_loaded_when_it_is_scrolled_to_and_scrolls(address, page):
    page.goto(f"{address}/notebooks/01_explore_data.html")
    assert not any(frame.url.endswith("1.html") for frame in page.frames), "no viewer is loaded at the top of the page"
    page.locator("iframe.slice-viewer-page").first.evaluate("(frame) => frame.scrollIntoView({ block: 'center' })")
    viewer = page.frame_locator("iframe.slice-viewer-page").first.locator(".slice-viewer[data-ready]")
    viewer.wait_for(timeout=30_000)
    before = int(viewer.get_attribute("data-slice"))
    viewer.locator(".slice-viewer-frame").first.hover()
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(300)
    assert int(viewer.get_attribute("data-slice")) == before + 1
    viewer.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(300)
    assert int(viewer.get_attribute("data-slice")) == before
    assert page.faults == []


def test_search_finds_a_term(address, page):
    page.goto(f"{address}/search.html?q=oedema")
    page.locator("#search-results li a").first.wait_for(timeout=30_000)
    assert page.faults == []
