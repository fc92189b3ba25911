"""The viewer as one HTML file: the same script as the widget's, with a model that lives in the page.

It also stands in for the widget in a JupyterLab that lacks the extensions which the widget needs; `what_to_install` finds out.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import psutil
from jupyter_core.paths import SYSTEM_JUPYTER_PATH, jupyter_data_dir

from slice_viewer.scene import Scene

FOLDER = Path(__file__).parent
EXTENSIONS = {"anywidget": "anywidget", "@jupyter-widgets/jupyterlab-manager": "ipywidgets"}
"""Extensions of JupyterLab that the widget needs, and the packages that bring them."""

SERVERS = {"jupyter-lab", "jupyterlab", "jupyter-notebook", "jupyter-server", "jupyterhub-singleuser"}
"""How the command of a server names its script or module."""

EXPORT = "export default widget;"
FRAME_HEIGHT = 640
"""CSS pixels of the page inside a notebook."""


def make_page(scene: Scene, state: Mapping[str, object], *, note: str = "") -> str:
    """Make the page of a scene in a `state` (traits of `STATE`), as text; `note` is a sentence above the viewer."""
    packed = {"_volumes": scene.volumes, "_labels": scene.labels}
    texts = {name: [base64.b64encode(data).decode() for data in parts] for name, parts in packed.items()}
    model = {**state, "_scene": scene.description, "_values": [], **texts}
    script = (FOLDER / "viewer.js").read_text(encoding="utf-8")
    parts = {
        "title": html.escape(scene.description["title"] or "Slices"),
        "note": f"<p>{html.escape(note)}</p>" if note else "",
        "style": (FOLDER / "viewer.css").read_text(encoding="utf-8"),
        "script": script.replace(EXPORT, ""),
        "state": json.dumps(model, allow_nan=False).replace("<", "\\u003c"),
    }
    template = (FOLDER / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{ (\w+) \}\}", lambda match: parts[match[1]], template)


def framed_page(page: str) -> str:
    """Put a page inside a frame, to be shown in a notebook whose server cannot show the widget."""
    source = html.escape(page, quote=True)
    return f'<iframe srcdoc="{source}" style="width: 100%; height: {FRAME_HEIGHT}px; border: 0" title="slice viewer"></iframe>'


def what_to_install() -> str:
    """One sentence where the server that started this kernel lacks an extension, otherwise empty.

    Extensions are looked for in the environment of the server's own Python and where JupyterLab looks besides. Nothing is
    said where there is no such server (papermill, VS Code) or it cannot be looked at (another machine).
    """
    prefix = _server_prefix(os.environ.get("JPY_PARENT_PID", ""))
    if prefix is None:
        return ""
    shared = [prefix / "share" / "jupyter", Path(jupyter_data_dir()), *map(Path, SYSTEM_JUPYTER_PATH)]
    shared += [Path(folder) for folder in os.environ.get("JUPYTER_PATH", "").split(os.pathsep) if folder]
    return advice(prefix, shared)


def advice(prefix: Path, shared: list[Path]) -> str:
    """The sentence for a server in the environment `prefix` that looks for extensions below the folders `shared`."""
    lacking = [
        package
        for extension, package in EXTENSIONS.items()
        if not any((folder / "labextensions" / extension).is_dir() for folder in shared)
    ]
    if not lacking:
        return ""
    command = f"{prefix / 'bin' / 'python'} -m pip install {' '.join(lacking)}"
    return (
        f"This is a copy of the viewer without a kernel, because JupyterLab runs in another environment, which lacks "
        f"{' and '.join(lacking)}: run `{command}` and reload the page."
    )


def _server_prefix(parent: str) -> Path | None:
    """Environment of the Jupyter server with process number `parent`; None where that is no such server."""
    try:
        command = psutil.Process(int(parent)).cmdline()
    except (ValueError, psutil.Error):
        return None
    python = Path(command[0]) if command else Path()
    is_server = any(Path(part).name in SERVERS for part in command[1:4])
    return python.parent.parent if is_server and python.is_absolute() else None
