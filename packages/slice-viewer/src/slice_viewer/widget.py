"""`SliceViewer`: the viewer as an ipywidgets widget, with its state as traits."""

from __future__ import annotations

import base64
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from nibabel.spatialimages import SpatialImage

from slice_viewer.page import framed_page, make_page, what_to_install
from slice_viewer.panes import Pane, panes_of
from slice_viewer.scene import STATE, Scene, pack_scene
from slice_viewer.slices import PLANES
from slice_viewer.still import draw_still

FOLDER = Path(__file__).parent
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PAGES = "SLICE_VIEWER_PAGES"
"""Environment variable: a folder in which each viewer that a notebook shows leaves its page, numbered from 1."""
PAGE_MEGABYTES = 1.0
"""Largest size of such a page."""

Source = Path | str | SpatialImage | np.ndarray | Pane | Sequence[Pane]

_shown = itertools.count(1)
_sent = itertools.count()


class ArrayTuple(traitlets.Tuple):
    """A tuple that may be given as an array."""

    _cast_types = (list, np.ndarray)


class SliceViewer(anywidget.AnyWidget):
    """MRI slices with labels, scrolled in the browser.

    Panes are linked: they show the same place, also where their grids differ (the steps of preprocessing). Always in
    radiological orientation; oblique volumes are turned to the nearest axes, not resampled. All traits below can be read,
    set, observed and linked; the browser tells Python a quarter of a second after the last change.

    Parameters
    ----------
    source : path, image of nibabel, array, tensor, Pane or sequence of Pane
        A file that nibabel reads or has read (3-D or 4-D), an image (X, Y, Z) or (channels, X, Y, Z), or panes.
    affine : array (4, 4), optional
        From voxel indices to millimetres in RAS+, for arrays and for panes that have none of their own.
    labels : array or tensor (X, Y, Z), optional
        With a file or an image: label map to show on every pane; with a file it may be a file too.
    titles : sequence of str
        With a file or an image: what stands above its volumes or channels.
    names, colours : mappings from label to text and to a colour of matplotlib, optional
        For the panes that have none of their own.
    columns : int, optional
        Panes beside each other where there is room; by default all of them.
    title : str
        What a screen reader calls the viewer.
    **state
        Traits to begin with, such as ``plane="coronal"``.

    Attributes
    ----------
    plane : {"axial", "coronal", "sagittal"}
    cursor : (int, int, int)
        Voxel under the crosshair, in the indices of the first pane's array; clipped to what is shown.
    index : int
        Slice of the plane, counted as in `slice_viewer.slices`: from the patient's left, back or feet.
    opacity : float
        Of the labels' fill, 0 to 1.
    overlay, outline : bool
        Whether labels are shown at all, and with an outline.
    hidden : list of str
        Names of labels that are switched off.
    windows : list of (float, float)
        Values shown black and white, in the units of each distinct volume.
    window : (float, float)
        The same of the volume in the active pane.
    active : int
        Index of the pane that was clicked last.

    Raises
    ------
    ValueError
        If files cannot be read, or shapes, types or affines do not fit; one sentence with the pane and the remedy.
    """

    # As text: anywidget watches a file for changes, and for that keeps every widget, even one that is closed.
    _esm = (FOLDER / "viewer.js").read_text(encoding="utf-8")
    _css = (FOLDER / "viewer.css").read_text(encoding="utf-8")
    _scene = traitlets.Dict().tag(sync=True)
    _volumes = traitlets.List(traitlets.Bytes()).tag(sync=True)
    _labels = traitlets.List(traitlets.Bytes()).tag(sync=True)
    _values = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _seen = traitlets.CInt().tag(sync=True)  # number of the scene that the browser shows, set there

    plane = traitlets.Enum(list(PLANES), "axial").tag(sync=True)
    cursor = ArrayTuple(traitlets.CInt(), traitlets.CInt(), traitlets.CInt()).tag(sync=True)
    opacity = traitlets.CFloat(0.45, min=0, max=1).tag(sync=True)
    outline = traitlets.Bool(True).tag(sync=True)
    overlay = traitlets.Bool(True).tag(sync=True)
    hidden = traitlets.List(traitlets.Unicode()).tag(sync=True)
    windows = traitlets.List(ArrayTuple(traitlets.CFloat(), traitlets.CFloat())).tag(sync=True)
    active = traitlets.CInt(0, min=0).tag(sync=True)
    index = traitlets.CInt()
    window = ArrayTuple(traitlets.CFloat(), traitlets.CFloat())

    def __init__(
        self,
        source: Source,
        affine: np.ndarray | None = None,
        *,
        labels: np.ndarray | Path | str | SpatialImage | None = None,
        titles: Sequence[str] = (),
        names: Mapping[int, str] | None = None,
        colours: Mapping[int, str] | None = None,
        columns: int | None = None,
        title: str = "",
        **state,
    ) -> None:
        options = {"names": names, "colours": colours, "columns": columns, "title": title}
        self.scene = _scene_of(source, affine, labels=labels, titles=titles, state=state, **options)
        contents = _contents(self.scene)
        super().__init__(**contents, _seen=contents["_scene"]["number"])
        self.observe(self._derive, ["cursor", "plane", "windows", "active"])
        self._derive()
        for name, value in sorted(state.items(), key=lambda item: item[0] in ("index", "window")):  # of that plane and pane
            if name not in self.trait_names():
                raise TypeError(f"SliceViewer has no {name!r}; its state is {', '.join((*STATE, 'index', 'window'))}")
            setattr(self, name, value)

    def show(self, source: Source, affine: np.ndarray | None = None, **options: object) -> None:
        """Show something else in the same place, such as the next case; parameters as those of the class, but for its state."""
        self.scene = _scene_of(source, affine, **options)
        with self.hold_sync():
            with self.hold_trait_notifications():
                self.active = 0
                for name, value in _contents(self.scene).items():
                    setattr(self, name, value)
            self._derive()

    def to_html(self, path: Path | str | None = None, *, megabytes: float | None = None) -> Path | str:
        """Write the viewer, with its state of now, as one self-contained HTML file.

        The file needs no network and no server, and everything but the kernel works in it.

        Parameters
        ----------
        path : Path or str, optional
            Target; folders are made. Without it the page is returned as text.
        megabytes : float, optional
            Largest size of the file. If the page is larger, only every second voxel along each axis is kept, or every third.
            The viewer itself takes about 40 kB, however coarse the grid.
        """
        scene, state, step = self.scene, self._state_of_now(), 1
        page = make_page(scene, state)
        while megabytes and len(page) > megabytes * 1e6 and max(scene.grid.full_shape) > 2:
            step += 1
            scene = self._coarser(step)
            page = make_page(scene, state | {"cursor": scene.grid.clip(at // step for at in self.cursor)})
        if path is None:
            return page
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
        return path

    def set_state(self, sync_data: dict[str, object]) -> None:
        """Take over what the browser tells, but for places and windows that it set in the scene before this one."""
        before = sync_data.get("_seen", self._seen) != self._scene["number"]
        gone = {"cursor", "windows", "active"} & set(sync_data) if before else set()
        super().set_state({name: value for name, value in sync_data.items() if name not in gone})
        if gone:
            self.send_state(gone)  # the browser keeps its own where the two scenes have the same

    def _state_of_now(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in STATE}

    def _coarser(self, step: int) -> Scene:
        """The scene with every `step`-th voxel along each axis."""
        part, scale = (slice(None, None, step),) * 3, np.diag([step, step, step, 1])
        panes = [
            replace(
                pane,
                volume=pane.volume[part],
                labels=None if pane.labels is None else pane.labels[part],
                affine=pane.affine @ scale,
            )
            for pane in self.scene.parts.panes
        ]
        options = {name: self.scene.description[name] for name in ("columns", "title")}
        return pack_scene(panes, None, state={"windows": self.scene.windows}, **options)

    def still(self) -> bytes:
        """The viewer's state of now as a PNG, which is what a saved notebook shows."""
        return draw_still(self)

    def __repr__(self) -> str:
        titles = ", ".join(pane.title or "untitled" for pane in self.scene.parts.panes)
        return f"SliceViewer({titles}; {self.plane} slice {self.index})"

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        """The widget, and beside it the still picture for readers that know no widgets, such as GitHub."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        data = {**data, "text/plain": repr(self), "image/png": base64.b64encode(self.still()).decode()}
        if folder := os.environ.get(PAGES):
            self.to_html(Path(folder) / f"{next(_shown)}.html", megabytes=PAGE_MEGABYTES)
        if advice := what_to_install():
            data.pop(WIDGET_VIEW, None)
            data["text/html"] = framed_page(make_page(self.scene, self._state_of_now(), note=advice))
        return data, metadata

    def _derive(self, change: dict | None = None) -> None:
        """Bring what follows from other traits in line with them."""
        self.index = self.scene.grid.slice_of(self.cursor, PLANES[self.plane].axis)
        self.window = self.windows[self._active_volume()]
        self._values = [",".join(map(str, self.cursor)), *map(_as_text, self.values_at(self.cursor))]

    def values_at(self, cursor: Sequence[int]) -> list[float | None]:
        """Value of each distinct volume at a voxel of the first grid, in its own units; None outside."""
        parts = self.scene.parts
        values = []
        for pane, grid in parts.volumes:
            screen = np.array(self.scene.description["grids"][grid]["toScreen"]) @ [*cursor, 1]
            voxel = parts.grids[grid].voxel_at(np.floor(screen + 0.5))  # the browser rounds halves upwards
            inside = all(0 <= at < length for at, length in zip(voxel, pane.volume.shape, strict=True))
            values.append(pane.volume[tuple(voxel)].item() if inside else None)
        return values

    def _active_volume(self) -> int:
        return self.scene.parts.shown[self.active][1]

    @traitlets.observe("index")
    def _index_changed(self, change: dict) -> None:
        self.cursor = self.scene.grid.with_slice(self.cursor, PLANES[self.plane].axis, change["new"])
        self.index = self.scene.grid.slice_of(self.cursor, PLANES[self.plane].axis)

    @traitlets.observe("window")
    def _window_changed(self, change: dict) -> None:
        windows = list(self.windows)
        windows[self._active_volume()] = change["new"]
        self.windows = windows

    @traitlets.validate("cursor")
    def _clip_cursor(self, proposal: dict) -> tuple[int, int, int]:
        return self.scene.grid.clip(proposal["value"])

    @traitlets.validate("active")
    def _check_active(self, proposal: dict) -> int:
        if proposal["value"] >= len(self.scene.parts.panes):
            raise traitlets.TraitError(f"there is no pane {proposal['value']}; the last is {len(self.scene.parts.panes) - 1}")
        return proposal["value"]

    @traitlets.validate("windows")
    def _check_windows(self, proposal: dict) -> list[tuple[float, float]]:
        windows = proposal["value"]
        if len(windows) != len(self.scene.volumes):
            raise traitlets.TraitError(f"{len(self.scene.volumes)} volumes need a window each, {len(windows)} were given")
        return [_rising(pair) for pair in windows]

    @traitlets.validate("window")
    def _check_window(self, proposal: dict) -> tuple[float, float]:
        return _rising(proposal["value"])


def _rising(window: tuple[float, float]) -> tuple[float, float]:
    if not (np.isfinite(window).all() and window[0] < window[1]):
        raise traitlets.TraitError(f"a window runs from a darker to a brighter value, not from {window[0]} to {window[1]}")
    return window


def _scene_of(
    source: Source,
    affine: np.ndarray | None,
    *,
    labels: np.ndarray | Path | str | SpatialImage | None = None,
    titles: Sequence[str] = (),
    title: str = "",
    **options: object,
) -> Scene:
    panes, name = panes_of(source, labels, titles)
    return pack_scene(panes, affine, title=title or name, **options)


def _contents(scene: Scene) -> dict[str, object]:
    """Traits of a scene, and where its viewing begins."""
    # Numbered, because the browser unpacks again when the scene changes, and another label map may have the same description.
    numbered = {**scene.description, "number": next(_sent)}
    sent = {"_scene": numbered, "_volumes": list(scene.volumes), "_labels": list(scene.labels)}
    return {**sent, "cursor": scene.cursor, "windows": list(scene.windows)}


def _as_text(value: float | None) -> str:
    if value is None:
        return "outside"
    return str(value) if isinstance(value, (bool, int)) else f"{value:.6g}".replace("nan", "NaN")
