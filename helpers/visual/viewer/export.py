"""The viewer as one HTML file: the same script as the widget's, with a model that lives in the page."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader

from helpers.visual.viewer.scene import STATE

if TYPE_CHECKING:
    from helpers.visual.viewer.widget import SliceViewer

FOLDER = Path(__file__).parent
EXPORT = "export default widget;"
FRAME_HEIGHT = 640
"""CSS pixels of the page inside a notebook."""


def write_page(viewer: SliceViewer, path: Path | str | None = None, *, note: str = "") -> Path | str:
    """Write the page to `path`, or return it as text where there is none; `note` is a sentence above the viewer."""
    script = (FOLDER / "viewer.js").read_text(encoding="utf-8")
    template = Environment(loader=FileSystemLoader(FOLDER), autoescape=False).get_template("page.html")
    page = template.render(
        title=html.escape(viewer.scene.description["title"] or "Slices"),
        note=html.escape(note),
        style=(FOLDER / "viewer.css").read_text(encoding="utf-8"),
        script=script.replace(EXPORT, ""),
        state=json.dumps(_state(viewer), allow_nan=False).replace("<", "\\u003c"),
    )
    if path is None:
        return page
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def framed_page(viewer: SliceViewer, note: str) -> str:
    """The page inside a frame, to be shown in a notebook whose server cannot show the widget."""
    page = html.escape(str(write_page(viewer, note=note)), quote=True)
    return f'<iframe srcdoc="{page}" style="width: 100%; height: {FRAME_HEIGHT}px; border: 0" title="slice viewer"></iframe>'


def _state(viewer: SliceViewer) -> dict[str, object]:
    state = {name: getattr(viewer, name) for name in STATE}
    packed = {"_volumes": viewer.scene.volumes, "_labels": viewer.scene.labels}
    texts = {name: [base64.b64encode(data).decode() for data in parts] for name, parts in packed.items()}
    return {**state, "_scene": viewer._scene, "_values": [], **texts}
