"""A real JupyterLab and a real browser: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from helpers.workspace import REPOSITORY
from tests.browser.scenes import marked_viewer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
CURRENT = "window.jupyterapp.shell.currentWidget"
SCROLLER = {"lab": "document.querySelector('.jp-WindowedPanel-outer')", "file": "document.scrollingElement"}
FILLER = "\n\n".join(["text"] * 40)


@dataclass
class Surface:
    """A page with the viewer of `marked_viewer` in the middle of a long page, in JupyterLab or opened from disk."""

    kind: str
    page: Page
    viewer: Locator
    sent: list[str] = field(default_factory=list)

    def settle(self, milliseconds: int = 0) -> None:
        """Wait until what was asked for is drawn."""
        self.page.wait_for_timeout(milliseconds)
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def slice(self) -> int:
        self.settle()
        return int(self.viewer.get_attribute("data-slice"))

    def state(self, name: str) -> object:
        return self.viewer.evaluate("(root, name) => root.viewer.model.get(name)", name)

    def scroll_top(self) -> float:
        return self.page.evaluate(f"{SCROLLER[self.kind]}.scrollTop")

    def reset(self) -> None:
        """State as at the beginning, viewer in the middle of the window, pointer outside, no page scroll going on."""
        start = {"plane": "axial", "cursor": [20, 24, 10], "opacity": 1, "outline": False}
        change = "(root, start) => { root.viewer.pause(); root.viewer.set({ ...root.viewer.scene.start, ...start }) }"
        self.viewer.evaluate(change, start)
        self.viewer.evaluate("(root) => root.scrollIntoView({ block: 'center' })")
        self.page.mouse.move(2, 2)
        self.settle(450)

    def over(self, pane: int = 0, x: float = 0.25, y: float = 0.4) -> tuple[float, float]:
        """Move the pointer to a place in a pane, in shares of its width and height; returns it in pixels of the window."""
        box = self.viewer.locator(".slice-viewer-frame").nth(pane).bounding_box()
        place = (box["x"] + x * box["width"], box["y"] + y * box["height"])
        self.page.mouse.move(place[0] - 5, place[1])
        self.page.mouse.move(*place)
        return place


@pytest.fixture(scope="session")
def browser() -> Browser:
    if CHROMIUM is None:
        message = "there is no chromium here; on Debian and Ubuntu: apt-get install chromium"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        running.close()


@dataclass(frozen=True)
class Lab:
    url: str
    folder: Path


def start_lab(folder: Path, home: Path, *, python: str = sys.executable) -> tuple[subprocess.Popen, str]:
    """Start JupyterLab on `folder` with settings of its own below `home`; returns the process and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = home / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    own = {name: str(home / name.lower()) for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **own, "JUPYTER_CONFIG_DIR": str(home / "config"), "PYTHONPATH": paths}
    command = [python, "-m", "jupyterlab", "--allow-root", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
    with (home / "lab.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            with urllib.request.urlopen(f"{url}/api/status"):
                return process, url
        except OSError:
            time.sleep(0.25)
    process.kill()
    raise RuntimeError((home / "lab.log").read_text())


def stop_lab(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    process, url = start_lab(folder, tmp_path_factory.mktemp("home"))
    yield Lab(url, folder)
    stop_lab(process)


def write_notebook(path: Path, *cells: str) -> Path:
    """Write a notebook of code cells between two long cells of text."""
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]
    text = [nbformat.v4.new_markdown_cell(FILLER) for _ in range(2)]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[text[0], *code, text[1]], metadata=kernel), path)
    return path


def open_page(browser: Browser) -> Page:
    """A page of its own that remembers errors of its scripts in ``page.faults``."""
    page = browser.new_context(viewport={"width": 1300, "height": 800}).new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    return page


def open_notebook(page: Page, lab: Lab, name: str) -> None:
    """Open a notebook of the lab's folder in a workspace of its own and wait for its kernel."""
    page.goto(f"{lab.url}/lab/workspaces/t{time.time_ns()}/tree/{name}?reset", wait_until="domcontentloaded")
    idle = f"{CURRENT}.sessionContext?.session?.kernel?.status === 'idle'"
    page.wait_for_function(f"window.jupyterapp?.shell.currentWidget?.context?.isReady && {idle}", timeout=90_000)


def run_all(page: Page, *, timeout: int = 300_000) -> None:
    """Run all cells of the open notebook and wait until the last has ended."""
    run = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
    page.evaluate(f"() => {{ window.ran = false; {run}.finally(() => (window.ran = true)) }}")
    page.wait_for_function("window.ran", timeout=timeout)


def errors_in(page: Page) -> list[str]:
    """The errors that cells ended in."""
    cells = page.evaluate(f"{CURRENT}.content.model.sharedModel.toJSON().cells")
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [f"{output['ename']}: {output['evalue']}" for output in outputs if output["output_type"] == "error"]


def run_cell(page: Page, source: str, *, wait: bool = True) -> str:
    """Run one more cell; returns what it printed. Without `wait`, ``window.ran`` tells when it has ended."""
    page.evaluate(
        f"""async (source) => {{
            const notebook = {CURRENT};
            window.jupyterapp.commands.execute('notebook:insert-cell-below');
            notebook.content.activeCell.model.sharedModel.setSource(source);
            window.ran = false;
            const run = window.jupyterapp.commands.execute('notebook:run-cell').finally(() => (window.ran = true));
            if ({str(wait).lower()}) await run;
        }}""",
        source,
    )
    outputs = page.evaluate(f"{CURRENT}.content.activeCell.model.sharedModel.toJSON().outputs")
    return "".join("".join(output.get("text", [])) for output in outputs)


def close_page(page: Page) -> None:
    page.context.close()


@pytest.fixture(scope="session")
def lab_surface(browser, lab) -> Surface:
    write_notebook(lab.folder / "viewer.ipynb", "from tests.browser.scenes import marked_viewer\nv = marked_viewer()", "v")
    page = open_page(browser)
    sent = []

    def listen(socket) -> None:
        if "/channels" in socket.url:
            socket.on("framesent", lambda frame: sent.append(frame))

    page.on("websocket", listen)
    open_notebook(page, lab, "viewer.ipynb")
    run_all(page)
    assert errors_in(page) == []
    viewer = page.locator(".slice-viewer[data-ready]").first
    viewer.wait_for(timeout=30_000)
    yield Surface("lab", page, viewer, sent)
    close_page(page)


@pytest.fixture(scope="session")
def file_surface(browser, tmp_path_factory) -> Surface:
    path = marked_viewer().to_html(tmp_path_factory.mktemp("page") / "viewer.html")
    page = open_page(browser)
    page.goto(path.as_uri())
    viewer = page.locator(".slice-viewer[data-ready]")
    viewer.wait_for()
    page.evaluate("() => { document.body.style.padding = '1500px 0' }")
    yield Surface("file", page, viewer)
    close_page(page)


@pytest.fixture(params=["file", "lab"])
def surface(request) -> Surface:
    """The viewer on both surfaces, as at the beginning; no script error may be left behind."""
    found = request.getfixturevalue(f"{request.param}_surface")
    found.reset()
    yield found
    assert found.page.faults == []
