"""How the slice viewer scrolls in JupyterLab and a headless chromium: ``python -m benchmarks.viewer``.

Four panes of 240x240x155 with labels (a phantom at 1 mm, or a case of yours), local and through a proxy that delays every
byte on its way to and from the server. Wheel events come at the rate of the display; a drawn slice is a frame in which the
viewer composed new pictures. Messages are those on the kernel's websocket while the wheel turns. The first picture counts
from the start of the cell that makes the viewer to the frame in which it is drawn, packing in Python included.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, sync_playwright

from brats_cohort.cases import discover
from glioma_phantom import write_phantom
from tests.browser.conftest import (
    CHROMIUM,
    FLAGS,
    Lab,
    close_page,
    open_notebook,
    open_page,
    run_cell,
    start_lab,
    stop_lab,
    write_notebook,
)
from tests.browser.scenes import view_case

SCROLL = """(root, events) => new Promise((done) => {
    const pane = root.querySelector('.slice-viewer-pane');
    const [first, start] = [root.viewer.frames, performance.now()];
    let sent = 0;
    const turn = () => {
        if (sent === events) return done((root.viewer.frames - first) / (performance.now() - start) * 1000);
        const deltaY = sent++ % 100 < 50 ? 100 : -100;
        pane.dispatchEvent(new WheelEvent('wheel', { deltaY, bubbles: true, cancelable: true }));
        requestAnimationFrame(turn);
    };
    requestAnimationFrame(turn);
})"""
REDRAW = """(root, count) => {
    const { viewer } = root;
    const slices = viewer.scene.grids[0].shape[2];
    const start = performance.now();
    for (let number = 0; number < count; number++) {
        viewer.model.set('cursor', viewer.cursorAt([0, 0, number % slices]));
        viewer.draw();
    }
    viewer.panes.at(-1).onPicture.getImageData(0, 0, 1, 1);
    return count / (performance.now() - start) * 1000;
}"""


@contextmanager
def delayed(port: int, seconds: float) -> Iterator[int]:
    """A proxy to a local `port` that hands on every byte `seconds` late, half of it each way; yields its own port."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue = asyncio.Queue()

        async def write() -> None:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                writer.write(data)
                await writer.drain()
                if not data:
                    writer.close()
                    return

        writing = asyncio.create_task(write())
        try:
            while data := await reader.read(1 << 16):
                queue.put_nowait((time.monotonic() + seconds / 2, data))
        except ConnectionError:
            pass
        queue.put_nowait((time.monotonic(), b""))
        await writing

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer), return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            writer.close()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(connect, "127.0.0.1", 0), loop).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def measure(page: Page, lab: Lab, case: Path, *, events: int) -> dict[str, float]:
    """Open a notebook, make a viewer of the case in it, and scroll."""
    messages = []

    def listen(socket) -> None:
        if "/channels" in socket.url:
            socket.on("framesent", lambda frame: messages.append("sent"))
            socket.on("framereceived", lambda frame: messages.append("received"))

    page.on("websocket", listen)
    load = (
        "from brats_cohort.cases import discover\nfrom brats_cohort.cases import read_classes, read_image\n"
        "from slice_viewer import SliceViewer\n"
        f"case = discover({str(case)!r})[0]\n(image, affine), (labels, _) = read_image(case), read_classes(case)"
    )
    write_notebook(lab.folder / "bench.ipynb", "pass")
    open_notebook(page, lab, "bench.ipynb")
    run_cell(page, load)
    start = time.perf_counter()
    run_cell(page, "SliceViewer(image, affine, labels=labels)", wait=False)
    viewer = page.locator(".slice-viewer[data-ready]").first
    viewer.wait_for(timeout=60_000)
    figures = {"first picture, s": time.perf_counter() - start}
    viewer.evaluate("(root) => root.scrollIntoView({ block: 'center' })")
    page.wait_for_timeout(3_000)
    messages.clear()
    figures["slices a second"] = viewer.evaluate(SCROLL, events)
    figures["kernel messages"] = len(messages)
    figures["redraws a second"] = viewer.evaluate(REDRAW, 500)
    return figures


def six_viewers(page: Page, lab: Lab, case: Path, *, events: int) -> tuple[int, float]:
    """Viewers alive among six of the case in one notebook, and the slowest of them in slices a second."""
    imports = "from brats_cohort.cases import discover\nfrom tests.browser.scenes import view_case"
    load = f"{imports}\ncase = discover({str(case)!r})[0]"
    write_notebook(lab.folder / "six.ipynb", "pass")
    open_notebook(page, lab, "six.ipynb")
    run_cell(page, load)
    for _ in range(6):
        run_cell(page, "view_case(case)")
    page.wait_for_timeout(3_000)
    rates = []
    for viewer in page.locator(".slice-viewer[data-ready]").all():
        viewer.evaluate("(root) => root.scrollIntoView({ block: 'center' })")
        page.wait_for_timeout(500)
        rates.append(viewer.evaluate(SCROLL, events))
    return len(rates), min(rates)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Path, help="folder of a case; by default a phantom at 1 mm is made")
    parser.add_argument("--delay", type=float, default=0.1, help="seconds added to every round trip")
    parser.add_argument("--events", type=int, default=200, help="wheel events")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        case = (arguments.case or write_phantom(Path(folder) / "cohort", 2)).resolve()
        viewer = view_case(discover(case)[0])
        megabytes = sum(map(len, [*viewer._volumes, *viewer._labels])) / 1e6
        page_size = viewer.to_html(Path(folder) / "page.html").stat().st_size / 1e6
        home, notebooks = Path(folder) / "home", Path(folder) / "notebooks"
        notebooks.mkdir()
        process, url = start_lab(notebooks, home)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, "--no-sandbox"])
        try:
            columns = {}
            with delayed(int(url.rpartition(":")[2]), arguments.delay) as port:
                for name, address in (("local", url), (f"{1000 * arguments.delay:.0f} ms", f"http://127.0.0.1:{port}")):
                    page = open_page(browser)
                    columns[name] = measure(page, Lab(address, notebooks), case, events=arguments.events)
                    close_page(page)
            page = open_page(browser)
            alive, slowest = six_viewers(page, Lab(url, notebooks), case, events=arguments.events)
            close_page(page)
        finally:
            browser.close()
            stop_lab(process)
    print(f"{case.name}: {megabytes:.1f} MB sent once, {page_size:.1f} MB as a page")
    print(f"{'':<20}" + "".join(f"{name:>10}" for name in columns))
    for row in next(iter(columns.values())):
        print(f"{row:<20}" + "".join(f"{figures[row]:>10.2f}" for figures in columns.values()))
    print(f"six viewers in one notebook: {alive} alive, the slowest draws {slowest:.0f} slices a second")


if __name__ == "__main__":
    main()
