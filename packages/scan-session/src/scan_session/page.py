"""The page of a session, and the picture of a registration that failed: checkerboards, the outline of the brain, decisions."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from matplotlib.figure import Figure

from scan_session.grid import affine_of
from scan_session.recognise import NAMES
from scan_session.session import Session

CONTENTS = (
    "Slices of the head, the numbers and descriptions of its series, and what was decided. No names, dates or identifiers "
    "of the patient, and no paths. The files in the folder series/ show the face; the four images of the case do not."
)
SQUARE_MM = 24
"""Edge of a checkerboard's squares."""
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
img{max-width:100%}table{border-collapse:collapse}td,th{text-align:left;padding:.3rem .8rem .3rem 0;vertical-align:top}
.note{background:#f4f1e6;padding:.6rem 1rem}"""


def write(session: Session, before: Mapping[str, sitk.Image], moved: Mapping[str, sitk.Image], mask: sitk.Image) -> Path:
    """Write ``session.html``: one file, pictures included. All images are on the grid of the case, skull on."""
    reference = session.reference
    rows, pictures = [], []
    for modality, series in session.series.items():
        measures = session.measures[modality]
        rows.append((NAMES[modality], series.label, series.reason, _numbers(measures)))
        if modality != reference:
            figure = _checkerboards(moved[reference], before[modality], moved[modality], mask)
            title = f"{NAMES[modality]} in squares of {NAMES[reference]}: as the scanner placed them, and registered"
            pictures.append(f"<h3>{html.escape(title)}</h3>{_embedded(figure)}")
    left = list(dict.fromkeys((one.label, one.fault or one.reason) for one in session.left_out))
    left_out = _table(("Series", "Why"), left) if left else "<p>Nothing.</p>"
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in session.notes)
    name = html.escape(session.name)
    body = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style>
<h1>{name}: what was made of the session</h1>
<p class="note">For research, not for diagnosis. This page contains: {html.escape(CONTENTS)}</p>
<h2>Series</h2>{_table(("Is", "Series", "Because", "Registration to " + NAMES[reference]), rows)}
<h2>To know</h2><ul>{notes}</ul>
<h2>Registration</h2><p>Edges have to run on across the borders of the squares.</p>{"".join(pictures)}
<h2>Brain</h2><p>Everything outside the line was set to 0. The patient's right is on the left.</p>
{_embedded(_outline(moved, mask))}
<h2>Left out</h2>{left_out}</html>
"""
    session.page.write_text(body, encoding="utf-8")
    return session.page


def failure(path: Path, fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform, mask: sitk.Image) -> Path:
    """Draw what a failed registration gave, beside where the scanner had placed the images."""
    size = [int(np.ceil(length * edge / 2)) for length, edge in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)]
    grid = sitk.Resample(
        fixed, size, sitk.Transform(), sitk.sitkLinear, fixed.GetOrigin(), (2.0, 2.0, 2.0), fixed.GetDirection(), 0.0
    )
    grid = sitk.DICOMOrient(grid, "LPS")
    before, after = (sitk.Resample(moving, grid, each, sitk.sitkLinear, 0.0) for each in (sitk.Transform(), transform))
    inside = sitk.Resample(mask, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    _checkerboards(grid, before, after, inside).savefig(path, dpi=90)
    return path


def _checkerboards(fixed: sitk.Image, before: sitk.Image, after: sitk.Image, mask: sitk.Image) -> Figure:
    figure, axes = _canvas(2)
    view = _View(mask)
    for row, (moving, title) in zip(axes, ((before, "before"), (after, "after")), strict=True):
        for axis, one, other, step in zip(row, view.planes(fixed), view.planes(moving), view.steps, strict=True):
            down, across = np.indices(one.shape)
            odd = (down * step[0] // SQUARE_MM + across * step[1] // SQUARE_MM) % 2 == 1
            axis.imshow(np.where(odd, other, one), cmap="gray", vmin=0, vmax=1, aspect=step[0] / step[1])
            axis.set_title(title, color="white", fontsize=9)
    return figure


def _outline(images: Mapping[str, sitk.Image], mask: sitk.Image) -> Figure:
    figure, axes = _canvas(len(images))
    view = _View(mask)
    for row, (modality, image) in zip(axes, images.items(), strict=True):
        for axis, plane, inside, step in zip(row, view.planes(image), view.cut(mask), view.steps, strict=True):
            axis.imshow(plane, cmap="gray", vmin=0, vmax=1, aspect=step[0] / step[1])
            axis.contour(inside > 0.5, levels=[0.5], colors="#ffb000", linewidths=1)
            axis.set_title(NAMES[modality], color="white", fontsize=9)
    return figure


def _canvas(rows: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(10, 3.1 * rows), facecolor="black", layout="none")
    axes = figure.subplots(rows, 3, squeeze=False)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.25 / (3.1 * rows), wspace=0.03, hspace=0.1)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


class _View:
    """Axial, coronal and sagittal slices through the middle of a brain, head up, patient's right on the left.

    All images lie on the grid of the brain's mask.
    """

    def __init__(self, mask: sitk.Image) -> None:
        to_lps = nib.orientations.axcodes2ornt(("L", "P", "S"))
        self.turn = nib.orientations.ornt_transform(nib.io_orientation(affine_of(mask)), to_lps)
        self.inside = self._turned(mask) > 0
        x, y, z = np.take(mask.GetSpacing(), np.argsort(self.turn[:, 0]))
        self.steps = [(y, x), (z, x), (z, y)]
        shape = self.inside.shape
        sums = [self.inside.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
        self.middle = [
            round(float(np.average(range(length), weights=each))) if each.any() else length // 2
            for length, each in zip(shape, sums, strict=True)
        ]

    def _turned(self, image: sitk.Image) -> np.ndarray:
        return nib.apply_orientation(sitk.GetArrayViewFromImage(image).T, self.turn)

    def cut(self, image: sitk.Image) -> list[np.ndarray]:
        """The three slices of an image."""
        volume, (x, y, z) = self._turned(image), self.middle
        return [volume[:, :, z].T, volume[:, y, ::-1].T, volume[x, :, ::-1].T]

    def planes(self, image: sitk.Image) -> list[np.ndarray]:
        """The three slices, 0 to 1 between percentiles of the brain."""
        volume = self._turned(image)
        low, high = np.percentile(volume[self.inside] if self.inside.any() else volume, (0, 99.5))
        low = min(low, 0)
        return [np.clip((plane - low) / max(high - low, 1e-6), 0, 1) for plane in self.cut(image)]


def _numbers(measures: Mapping[str, float | str]) -> str:
    if measures["role"] != "registered":
        return str(measures["role"])
    return (
        f"moved {measures['shift_mm']:.1f} mm, {measures['rotation_degrees']:.1f}°; mutual information "
        f"{measures['information_before']:.2f} → {measures['information_after']:.2f}; brain overlap (Dice) "
        f"{measures['brain_overlap_before']:.2f} → {measures['brain_overlap_after']:.2f}"
    )


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table><tr>{''.join(f'<th>{html.escape(head)}</th>' for head in heads)}</tr>{''.join(cells)}</table>"


def _embedded(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=90, metadata={"Software": None})
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'
