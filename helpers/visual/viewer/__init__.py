"""The slice viewer: MRI scrolled in the browser, as a widget, as one HTML file and as a still picture.

The volumes are sent once, turned, cropped and in 8 bits; `viewer.js` composes every slice, so that no scrolling waits for a
kernel. ``SliceViewer(case)`` is the whole of it for a case; `Pane`, `comparison_panes` and arrays serve everything else.
"""

from helpers.visual.viewer.panes import (
    Pane,
    case_panes,
    comparison_panes,
    modality_panes,
)
from helpers.visual.viewer.widget import SliceViewer

__all__ = ["Pane", "SliceViewer", "case_panes", "comparison_panes", "modality_panes"]
