"""What a pane of the viewer shows: a volume, perhaps a label map over it, and a title."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.colors import to_hex
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage

from slice_viewer.slices import label_colour

FILE = (str, Path, SpatialImage)
"""A file, or what nibabel has read of it."""


@dataclass(frozen=True, eq=False)
class Pane:
    """One pane of a `SliceViewer`.

    Attributes
    ----------
    volume : array or tensor (X, Y, Z)
        Any integer or floating type and unit; NaN is shown black, and so is zero if it is background.
    labels : array or tensor (X, Y, Z), optional
        Label map of whole numbers, of any type, from 0 (nothing) to 255 on the grid of `volume`.
    title : str
    affine : array (4, 4), optional
        From voxel indices to millimetres in RAS+; without it that of the viewer.
    names, colours : mappings from label to text and to a colour of matplotlib, optional
        Without them those of the viewer. A label that has neither is shown by its number, in one of 24 colours.
    window : (float, float), optional
        Values shown black and white, in the volume's units (`slice_viewer.slices.robust_window`).
    """

    volume: np.ndarray
    labels: np.ndarray | None = None
    title: str = ""
    affine: np.ndarray | None = None
    names: Mapping[int, str] | None = None
    colours: Mapping[int, str] | None = None
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class Entry:
    """A label with its name and colour, as the legend shows it."""

    value: int
    name: str
    colour: str


def panes_of(source: Any, labels: Any = None, titles: Sequence[str] = ()) -> tuple[list[Pane], str]:
    """Panes of whatever `SliceViewer` takes, and a name for them."""
    if isinstance(source, Pane):
        source = [source]
    if isinstance(source, Sequence) and not isinstance(source, str) and all(isinstance(each, Pane) for each in source):
        if labels is not None or titles:
            raise ValueError("panes have labels and titles of their own; give these to each Pane, not to the viewer")
        return list(source), ""
    if isinstance(source, Sequence) and not isinstance(source, str) and isinstance(source[0], FILE):
        raise ValueError("a viewer takes one file; for several, give a Pane with the array and the affine of each")
    if isinstance(source, FILE):
        values, affine, name = _read(source)
        volumes = [values] if values.ndim <= 3 else np.moveaxis(values.reshape(*values.shape[:3], -1), -1, 0)
        standard = [name] if len(volumes) == 1 else [f"volume {number}" for number in range(len(volumes))]
    else:
        volumes, affine, name = _channels(as_array(source)), None, ""
        standard = [""] * len(volumes)
    if titles and len(titles) != len(volumes):
        raise ValueError(f"{len(volumes)} volumes need a title each, {len(titles)} were given; give one for each, or none")
    if labels is not None:
        labels = _read_labels(labels, affine) if isinstance(labels, FILE) else as_array(labels)
    return [Pane(volume, labels, title, affine) for volume, title in zip(volumes, titles or standard, strict=True)], name


def _channels(image: np.ndarray) -> Sequence[np.ndarray]:
    if image.ndim not in (3, 4):
        raise ValueError(f"an image has shape (X, Y, Z) or (channels, X, Y, Z), this one {image.shape}")
    if image.ndim == 4 and image.shape[0] > 16 and image.shape[-1] <= 16:
        problem = f"an image of shape {image.shape} seems to have its channels last"
        raise ValueError(f"{problem}; move the channels to the front, or give a Pane for each if they are there")
    return image if image.ndim == 4 else [image]


def _read(source: Path | str | SpatialImage) -> tuple[np.ndarray, np.ndarray, str]:
    """Values, affine and name of a file that nibabel reads or has read."""
    loaded = isinstance(source, SpatialImage)
    path = Path(source.get_filename() or "") if loaded else Path(source)
    if not loaded and not path.is_file():
        wrong = "is a folder; give a file in it" if path.is_dir() else "does not exist; check the folder and the file's name"
        raise ValueError(f"{path} {wrong}")
    try:
        image = source if loaded else nib.load(path)
        return np.asanyarray(image.dataobj), image.affine, path.name
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({' '.join(str(error).split())}); copy or export it again") from error


def _read_labels(source: Path | str | SpatialImage, affine: np.ndarray | None) -> np.ndarray:
    """Values of a label file, if it lies where the image does."""
    values, own, name = _read(source)
    if affine is None:
        raise ValueError(f"labels {name} are a file, the image is an array; give both as files, or both as arrays")
    if set(values.shape[3:]) == {1}:
        values = values.reshape(values.shape[:3])
    if not np.allclose(own, affine, atol=1e-3):
        raise ValueError(f"labels {name} have another affine than the image; bring both to one grid with nearest neighbour")
    return values


def as_array(values: Any) -> np.ndarray:
    """Turn an array, a list or a tensor on any device into an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values  # NumPy has no bfloat16
    return np.asarray(values)


def complete(pane: Pane, affine: np.ndarray | None, names: Mapping[int, str] | None, colours: Mapping[int, str] | None) -> Pane:
    """The pane with arrays, and with what it lacks taken from the viewer."""
    chosen = affine if pane.affine is None else pane.affine
    return replace(
        pane,
        volume=as_array(pane.volume),
        labels=None if pane.labels is None else as_array(pane.labels),
        affine=None if chosen is None else np.asarray(chosen, dtype=float),
        window=None if pane.window is None else tuple(map(float, pane.window)),
        names=_by_number(names if pane.names is None else pane.names),
        colours=_by_number(colours if pane.colours is None else pane.colours),
    )


def _by_number(mapping: Mapping[int, Any] | None) -> dict[int, Any] | None:
    """The mapping with numbers as keys: JSON, such as an MSD dataset.json, has them as text."""
    try:
        return None if mapping is None else {int(label): value for label, value in mapping.items()}
    except (AttributeError, TypeError, ValueError) as error:  # a list, or the dataset.json of nnU-Net
        problem = f"names and colours are given by the label's number, such as {{1: 'core'}}, and these are {mapping}"
        raise ValueError(f"{problem}; turn them round") from error


def check_panes(panes: Sequence[Pane]) -> None:
    """Raise `ValueError` with one sentence for the first pane that cannot be shown."""
    if not panes:
        raise ValueError("a viewer needs at least one pane; give a file, an array or a list of panes")
    for number, pane in enumerate(panes):
        name = f"pane {pane.title or number}"
        _check_volume(pane.volume, name)
        _check_affine(pane.affine, name)
        if pane.labels is not None:
            _check_labels(pane.labels, pane.volume.shape, name)


def label_map(labels: np.ndarray) -> np.ndarray:
    """Labels of a checked pane as uint8."""
    return labels.astype(np.uint8, copy=False)


def legend_entries(pane: Pane, values: Sequence[int]) -> list[Entry]:
    """Entries of a pane's legend: the named labels, and those of `values` that have no name."""
    names, colours = pane.names or {}, pane.colours or {}
    every = sorted({int(value) for value in (*names, *values)} - {0})
    return [
        Entry(value, names.get(value, f"label {value}"), to_hex(colours.get(value, label_colour(value))).upper())
        for value in every
    ]


def _check_volume(volume: np.ndarray, name: str) -> None:
    if volume.ndim != 3:
        raise ValueError(f"{name}: a volume has shape (X, Y, Z), this one {volume.shape}; give each channel a pane of its own")
    if 0 in volume.shape:
        raise ValueError(f"{name}: the volume has shape {volume.shape} and no voxel; check how it was cropped")
    if volume.dtype.kind not in "biuf":
        raise ValueError(f"{name}: the volume holds {volume.dtype}; convert it to integers or real numbers")


def _check_affine(affine: np.ndarray | None, name: str) -> None:
    if affine is None:
        raise ValueError(f"{name} has no affine, without which left and right are unknown; give the viewer one")
    wrong = affine.shape != (4, 4) or not np.isfinite(affine).all()
    if wrong or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(f"{name}: the affine must be an invertible (4, 4) array, this one is {affine.tolist()}")


def _check_labels(labels: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    if labels.shape != shape:
        raise ValueError(
            f"{name}: labels have shape {labels.shape}, the volume {shape}; bring both to one grid with nearest neighbour"
        )
    if labels.dtype.kind not in "biu" and not (labels.dtype.kind == "f" and np.array_equal(labels, np.rint(labels))):
        raise ValueError(f"{name}: labels are {labels.dtype}, whole numbers were expected; round or threshold them first")
    if labels.min() < 0 or labels.max() > 255:
        raise ValueError(f"{name}: labels run from {labels.min()} to {labels.max()}, 0 to 255 can be shown; renumber them")
