"""MRI and CT slices scrolled in the browser: as a Jupyter widget, as one HTML file and as a still picture.

The volumes are sent once, turned, cropped and in 8 bits; `viewer.js` composes every slice, so that no scrolling waits for a
kernel. ``SliceViewer("image.nii.gz")`` is the whole of it for a file; arrays, tensors and `Pane` serve everything else.
`slice_viewer.slices` draws a single slice with matplotlib.
"""

from typing import Any

from slice_viewer.panes import Pane

__all__ = ["Pane", "SliceViewer"]


def __getattr__(name: str) -> Any:
    """Import the widget when it is asked for: a program that only draws slices needs no ipywidgets."""
    if name == "SliceViewer":
        from slice_viewer.widget import SliceViewer

        return SliceViewer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
