"""The page of a session, and the picture of a registration that failed: checkerboards, the outline of the brain, decisions."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.figure import Figure

from scan_session.grid import array_of
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
    name = html.escape(session.folder.name)
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
    figure = Figure(figsize=(10, 5.4), layout="constrained", facecolor="black")
    axes = figure.subplots(2, 3)
    for row, (moving, title) in zip(axes, ((before, "before"), (after, "after")), strict=True):
        for axis, one, other, step in zip(row, _planes(fixed, mask), _planes(moving, mask), _steps(fixed), strict=True):
            down, across = np.indices(one.shape)
            odd = (down * step[0] // SQUARE_MM + across * step[1] // SQUARE_MM) % 2 == 1
            axis.imshow(np.where(odd, other, one), cmap="gray", vmin=0, vmax=1, aspect=step[0] / step[1])
            axis.set_title(title, color="white", fontsize=9)
            axis.axis("off")
    return figure


def _outline(images: Mapping[str, sitk.Image], mask: sitk.Image) -> Figure:
    figure = Figure(figsize=(10, 3.1 * len(images)), layout="constrained", facecolor="black")
    axes = figure.subplots(len(images), 3, squeeze=False)
    for row, (modality, image) in zip(axes, images.items(), strict=True):
        for axis, plane, inside, step in zip(row, _planes(image, mask), _planes(mask, mask), _steps(mask), strict=True):
            axis.imshow(plane, cmap="gray", vmin=0, vmax=1, aspect=step[0] / step[1])
            axis.contour(inside > 0.5, levels=[0.5], colors="#ffb000", linewidths=1)
            axis.set_title(NAMES[modality], color="white", fontsize=9)
            axis.axis("off")
    return figure


def _planes(image: sitk.Image, mask: sitk.Image) -> list[np.ndarray]:
    """Axial, coronal and sagittal slices through the middle of the brain, 0 to 1, head up, patient's right on the left."""
    volume, inside = (array_of(sitk.DICOMOrient(each, "LPS")) for each in (image, mask))
    middle = np.argwhere(inside).mean(0).round().astype(int) if inside.any() else np.array(volume.shape) // 2
    values = volume[inside > 0] if inside.any() else volume
    low, high = np.percentile(values, (0, 99.5))
    volume = np.clip((volume - min(low, 0)) / max(high - min(low, 0), 1e-6), 0, 1)
    x, y, z = middle
    return [volume[:, :, z].T, volume[:, y, ::-1].T, volume[x, :, ::-1].T]


def _steps(image: sitk.Image) -> list[tuple[float, float]]:
    x, y, z = sitk.DICOMOrient(image, "LPS").GetSpacing()
    return [(y, x), (z, x), (z, y)]


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
