"""Everything the browser needs to know of a list of panes, packed once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from slice_viewer.pack import Grid, PackedLabels, PackedVolume, pack_labels, pack_volume
from slice_viewer.panes import Pane, check_panes, complete, label_map, legend_entries

STATE = ("plane", "cursor", "opacity", "outline", "overlay", "hidden", "windows", "active")
"""What the browser and Python both know of a viewing, besides the scene."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The distinct grids, volumes and label maps of some panes, and which of them each pane shows (by index).

    Attributes
    ----------
    panes : tuple of Pane
        With their affines.
    grids : tuple of Grid
        Cropped; the cursor counts in the first.
    volumes, maps : tuples of (Pane, int)
        A pane that shows it, and the index of its grid.
    shown : tuple of (int, int, int or None)
        Grid, volume and label map of each pane.
    """

    panes: tuple[Pane, ...]
    grids: tuple[Grid, ...]
    volumes: tuple[tuple[Pane, int], ...]
    maps: tuple[tuple[Pane, int], ...]
    shown: tuple[tuple[int, int, int | None], ...]


@dataclass(frozen=True, eq=False)
class Scene:
    """Panes as they are sent.

    Attributes
    ----------
    parts : Parts
    cursor : (int, int, int)
        Voxel to begin with: in the slice with the largest labelled area, else in the middle.
    windows : tuple of (float, float)
        Values shown black and white, for each of the volumes.
    description : dict
        Geometry, legends and the state to begin with, in the types of JSON.
    volumes, labels : tuples of bytes
        Compressed codes.
    """

    parts: Parts
    cursor: tuple[int, int, int]
    windows: tuple[tuple[float, float], ...]
    description: dict
    volumes: tuple[bytes, ...]
    labels: tuple[bytes, ...]

    @property
    def grid(self) -> Grid:
        """The grid that the cursor counts in."""
        return self.parts.grids[0]


def pack_scene(
    panes: Sequence[Pane],
    affine: np.ndarray | None,
    *,
    names: Mapping[int, str] | None = None,
    colours: Mapping[int, str] | None = None,
    columns: int | None = None,
    title: str = "",
    state: Mapping[str, object] | None = None,
) -> Scene:
    """Pack panes; arrays that several of them share are packed once.

    Parameters
    ----------
    panes : sequence of Pane
    affine, names, colours
        For the panes that have none of their own.
    columns : int, optional
        Panes beside each other where there is room; by default all of them.
    title : str
        What a screen reader calls the viewer.
    state : mapping, optional
        Traits that the viewer begins with; a window among them comes before that of a pane.

    Raises
    ------
    ValueError
        If shapes, types or affines do not fit; names the pane.
    """
    parts = _parts([complete(pane, affine, names, colours) for pane in panes])
    with ThreadPoolExecutor(2) as pool:  # compression lets go of the interpreter
        chosen = zip(parts.volumes, _windows(parts, state or {}), strict=True)
        volume_jobs = [pool.submit(pack_volume, p.volume, parts.grids[g], window=window) for (p, g), window in chosen]
        label_jobs = [pool.submit(pack_labels, label_map(p.labels), parts.grids[g]) for p, g in parts.maps]
        volumes, labels = [job.result() for job in volume_jobs], [job.result() for job in label_jobs]
    marked = min((grid for packed, (_, grid) in zip(labels, parts.maps, strict=True) if packed.values.any()), default=0)
    largest = _largest([packed for packed, (_, grid) in zip(labels, parts.maps, strict=True) if grid == marked])
    cursor, largest = _on_first(parts, marked, _start(parts, marked, largest), largest)
    windows = tuple(tuple(map(float, volume.window)) for volume in volumes)
    start = {"cursor": list(cursor), "windows": windows, "hidden": [], "opacity": 0.45, "overlay": True, "outline": True}
    frame = {"largest": largest, "columns": columns or len(panes), "title": title, "start": start}
    return Scene(
        parts=parts,
        cursor=cursor,
        windows=windows,
        description=_describe(parts, volumes, labels) | frame,
        volumes=tuple(volume.data for volume in volumes),
        labels=tuple(packed.data for packed in labels),
    )


def _parts(panes: list[Pane]) -> Parts:
    """Find what panes share; the arrays themselves are compared by identity, not by content."""
    check_panes(panes)
    geometries, volumes, maps = {}, {}, {}
    shown = []
    for pane in panes:
        grid = _number(geometries, (pane.volume.shape, pane.affine.tobytes()), pane)
        volume = _number(volumes, (_address(pane.volume), grid, pane.window), (pane, grid))
        legend = str((pane.names, pane.colours))
        labels = None if pane.labels is None else _number(maps, (_address(pane.labels), grid, legend), (pane, grid))
        shown.append((grid, volume, labels))
    grids = []
    for number, (pane, _) in enumerate(geometries.values()):
        here = [other for other, (grid, _, _) in zip(panes, shown, strict=True) if grid == number]
        arrays = {_address(array): array for other in here for array in (other.volume, other.labels) if array is not None}
        grids.append(Grid(pane.volume.shape, pane.affine).cropped(arrays.values()))
    distinct = [tuple(item for item, _ in table.values()) for table in (volumes, maps)]
    return Parts(tuple(panes), tuple(grids), *distinct, tuple(shown))


def _windows(parts: Parts, state: Mapping[str, object]) -> list[tuple[float, float] | None]:
    """Window of each volume: of the state, if it fits (the traits say what does not), or of the pane; else None."""
    windows, active = [pane.window for pane, _ in parts.volumes], state.get("active", 0)
    if np.shape(state.get("windows")) == (len(windows), 2):
        windows = [tuple(map(float, window)) for window in state["windows"]]
    if np.shape(state.get("window")) == (2,) and active in range(len(parts.shown)):
        windows[parts.shown[active][1]] = tuple(map(float, state["window"]))
    return windows


def _number(table: dict[Hashable, tuple], key: Hashable, item: object) -> int:
    """Index of `key` in `table`, where it is entered with `item` if it is new."""
    return table.setdefault(key, (item, len(table)))[1]


def _address(array: np.ndarray) -> tuple:
    """Equal for two views of the same voxels, such as image[0] taken twice."""
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str


def _largest(labels: list[PackedLabels]) -> list[int] | None:
    if not any(packed.values.any() for packed in labels):
        return None
    totals = [np.sum([packed.areas[axis] for packed in labels], axis=0) for axis in range(3)]
    return [len(total) - 1 - int(total[::-1].argmax()) for total in totals]  # of equal ones that which the figures take


def _start(parts: Parts, marked: int, largest: list[int] | None) -> tuple[int, int, int]:
    """Voxel of the grid `marked`: in the axial slice with the largest labelled area, the labelled one nearest to its middle."""
    grid = parts.grids[marked]
    if largest is None:
        return grid.voxel_at((np.array(grid.stop) - np.array(grid.start)) // 2)
    places = []
    for pane, number in parts.maps:
        if number == marked:
            rows, columns = np.nonzero(grid.cut(label_map(pane.labels))[largest[2]])
            places.append(np.stack([columns, rows], axis=1))
    labelled = np.concatenate(places)
    nearest = np.square(labelled - labelled.mean(axis=0)).sum(axis=1).argmin()
    return grid.voxel_at((*labelled[nearest], largest[2]))


def _on_first(parts: Parts, number: int, voxel: Sequence[int], slices: list[int] | None) -> tuple[tuple, list[int] | None]:
    """A voxel and slices (of the box, along each axis of the screen) of a grid, on the first grid."""
    if number == 0:
        return voxel, slices
    first, grid = parts.grids[0], parts.grids[number]
    to_first = np.linalg.inv(first.affine) @ grid.affine
    moved = (np.linalg.inv(first.to_voxel) @ to_first @ grid.to_voxel @ [*slices, 1])[:3]
    last = np.array(first.stop) - np.array(first.start) - 1
    return first.clip((to_first @ [*voxel, 1])[:3]), np.clip(np.rint(moved), 0, last).astype(int).tolist()


def _describe(parts: Parts, volumes: list[PackedVolume], labels: list[PackedLabels]) -> dict:
    first = parts.grids[0]
    legends = [legend_entries(pane, packed.values) for (pane, _), packed in zip(parts.maps, labels, strict=True)]
    return {
        "grids": [_describe_grid(grid, first) for grid in parts.grids],
        "toWorld": first.affine[:3].tolist(),
        "last": [whole - 1 - start for whole, start in zip(first.full_shape, first.start, strict=True)],
        "volumes": [
            {"grid": grid, "levels": list(packed.levels), "background": packed.background}
            for (_, grid), packed in zip(parts.volumes, volumes, strict=True)
        ],
        "labels": [
            {"grid": grid, "entries": [asdict(entry) for entry in legend]}
            for (_, grid), legend in zip(parts.maps, legends, strict=True)
        ],
        "panes": [
            {"title": pane.title, "grid": grid, "volume": volume, "labels": labels}
            for pane, (grid, volume, labels) in zip(parts.panes, parts.shown, strict=True)
        ],
    }


def _describe_grid(grid: Grid, first: Grid) -> dict:
    """Geometry of a grid; matrices lead from the cursor, a voxel of the `first` grid, to the box on the screen and back."""
    to_cursor = np.linalg.inv(first.affine) @ grid.affine @ grid.to_voxel
    middle = (np.array(grid.stop) - np.array(grid.start) - 1) / 2
    on_first = np.linalg.inv(first.affine @ first.to_voxel) @ grid.affine @ grid.to_voxel @ [*middle, 1]
    return {
        "shape": [last - start for start, last in zip(grid.start, grid.stop, strict=True)],
        "spacing": list(grid.spacing),
        "centre": (on_first[:3] * np.array(first.spacing)).tolist(),  # mm along the axes of the first grid
        "toScreen": np.linalg.inv(to_cursor)[:3].tolist(),
        "toCursor": to_cursor[:3].tolist(),
    }
