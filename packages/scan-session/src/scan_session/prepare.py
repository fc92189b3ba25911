"""From a folder to a case: recognise, register, extract the brain, resample once, and write down what was decided."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from scan_session import brain, page
from scan_session.errors import SessionError
from scan_session.find import find_series
from scan_session.grid import affine_of, array_of, matrix_of, write_nifti
from scan_session.recognise import (
    NAMES,
    aligned,
    assign_by_contrast,
    choose,
    is_partial,
    one_session,
    says_without,
    which_enhances,
)
from scan_session.registration import Registration, information, register
from scan_session.series import MODALITIES, Series
from scan_session.session import Session

EDGE = 1.0
"""Voxel edge of the case in mm, as in BraTS."""
DOUBTFUL = "the files may be of two sessions by their names or folders: check that all four show one head"
MARGIN_MM = 8.0
"""Room around the brain."""
DERIVED = ("registration_of_*.png", "label_map.nii.gz", "label_map_on_*_grid.nii.gz", "segmentation_on_*_grid.dcm")
"""Files that are wrong beside the images of another session."""
LEAST_OVERLAP, LEAST_COVERAGE, LEAST_SHOWN, STILL_MM = 0.85, 0.93, 0.85, 1.0
"""A registration has failed if the two brains overlap (Dice) less; a series is too short if it shows less of the brain, and the
reference if it shows less of another's; images on one grid that would move less are registered already."""


def prepare_session(
    folder: Path,
    out: Path,
    *,
    t1: str | None = None,
    t1ce: str | None = None,
    t2: str | None = None,
    flair: str | None = None,
    mask: Path | None = None,
    study: int | None = None,
    require: Sequence[str] = MODALITIES,
    say: Callable[[str], None] = print,
) -> Session:
    """Bring a folder of raw series into a case that a BraTS model reads.

    Parameters
    ----------
    folder : Path
        DICOM files of one session, nested and mixed as they may be, or NIfTI files.
    out : Path
        Folder of the case, outside `folder`; its name becomes the case's.
    t1, t1ce, t2, flair : str, optional
        Number of a series, or name of a NIfTI file, to take in place of what is recognised.
    mask : Path, optional
        Brain mask of one's own, drawn on the reference series.
    study : int, optional
        Which of several sessions, from the oldest, 1.
    require : str or sequence of str
        Modalities without which there is no case. One of T1 and T1ce is always needed.
    say : callable
        Gets each decision as a sentence.

    Raises
    ------
    SessionError
        If the folder cannot become a case; after a failed registration with a picture of it.
    """
    folder, out = Path(folder), Path(out)
    require = (require,) if isinstance(require, str) else require
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise SessionError("the case would be written into the folder that is read", "give --out another folder")
    if not _can_be_made(out):
        raise SessionError(f"the folder {out} cannot be made or written", "give --out another folder")
    if unknown := [modality for modality in require if modality not in MODALITIES]:
        raise SessionError(f"there is no modality {unknown[0]} to require", f"choose from {', '.join(MODALITIES)}")
    overrides = dict(zip(MODALITIES, (t1, t1ce, t2, flair), strict=True))
    found = find_series(folder, study=study)
    # With every series named, nothing is recognised, and so nothing can be of another session unseen.
    named = any(overrides.values()) and all(overrides[modality] for modality in choose(found, overrides)[0])
    doubtful = not named and not one_session([series for series in found if not series.is_dicom], folder)
    found = _resolve(found, overrides, say)
    taken, left, notes = choose(found, overrides)
    _require(taken, left, require)
    if doubtful:  # said before another head's registration can fail
        say(DOUBTFUL)
    for series in taken.values():
        say(f"{series.title} is {series.reason}")
        notes += [f"{series.label}: {warning}" for warning in series.warnings]
    images = {modality: series.read() for modality, series in taken.items()}
    reference = min((key for key in ("t1ce", "t1") if key in images), key=lambda key: _coarseness(images[key]))
    fixed = images[reference]
    inside, how = _brain(fixed, taken[reference].label, mask)
    notes.append(f"brain: {how}")
    transforms, measures = {reference: sitk.Euler3DTransform()}, {reference: {"role": "reference"}}
    for modality, image in images.items():
        if modality != reference:
            result = register(fixed, image, inside)
            result, measures[modality] = _judge(modality, result, fixed, image, inside, out)
            transforms[modality] = result.transform
            say(f"{NAMES[modality]}: {_in_words(measures[modality])}")
    for note in notes:
        say(note)
    notes += [DOUBTFUL] if doubtful else []
    session = Session(
        out, reference, {key: matrix_of(one) for key, one in transforms.items()},
        {key: (image.GetSize(), _affine(taken[key], image)) for key, image in images.items()},
        measures, taken, tuple(left), tuple(notes),
    )  # fmt: skip
    _write(session, images, transforms, inside)
    return session


def _coarseness(image: sitk.Image) -> tuple[bool, float]:
    """By which the reference is chosen: one that shows the whole head, then the one with the smaller voxels."""
    return is_partial(image.GetSize(), image.GetSpacing()), max(image.GetSpacing())


def _affine(series: Series, image: sitk.Image) -> np.ndarray:
    """A series' own affine: that of its image has perpendicular axes, and a NIfTI file's may not."""
    return affine_of(image) if series.is_dicom else nib.load(series.files[0]).affine


def choose_series(found: Sequence[Series], *, say: Callable[[str], None] = print) -> dict[str, Series]:
    """Take, of what `find_series` found, the series that `prepare_session` takes, by modality.

    Raises `SessionError` if one of the four is missing.
    """
    taken, left, _ = choose(_resolve(list(found), {}, say), {})
    _require(taken, left, MODALITIES)
    return taken


def _can_be_made(folder: Path) -> bool:
    """Whether a folder can be made and written, before minutes of work."""
    nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK)


def _resolve(found: list[Series], overrides: Mapping[str, str | None], say: Callable[[str], None]) -> list[Series]:
    """Let the images say what headers and names do not: four files without telling names, or two T1 of which one is T1ce."""
    good = [one for one in found if not one.fault]
    unknown = [one for one in good if one.modality is None]
    plain = [one for one in good if one.modality == "t1"]
    if any(overrides.values()):
        return found
    asked = unknown if len(unknown) == len(good) == 4 else plain
    if asked is plain and (len(plain) != 2 or any(one.modality == "t1ce" for one in good) or all(map(says_without, plain))):
        return found
    images = [one.read() for one in asked]
    voxels = aligned(images, brain.rough_brain(images[0]))
    if asked is plain:
        enhanced = plain[which_enhances(*voxels)]
        if says_without(enhanced):
            return found
        kinds = {enhanced.number: "t1ce"}
    else:
        kinds = dict(zip((one.number for one in unknown), assign_by_contrast(voxels), strict=True))
    say("the images' contrast decided what the headers or names do not say; check the page")
    by_contrast = {number: f"{NAMES[kind]} by the contrast of its image" for number, kind in kinds.items()}
    return [replace(one, modality=kinds[one.number], reason=by_contrast[one.number]) if one.number in kinds and not one.fault
            else one for one in found]  # fmt: skip


def _require(taken: Mapping[str, Series], left: Sequence[Series], require: Sequence[str]) -> None:
    missing = [modality for modality in MODALITIES if modality in require and modality not in taken]
    if not {"t1", "t1ce"} & set(taken):
        missing = missing or ["t1"]
    if missing:
        *others, last = (NAMES[modality] for modality in missing)
        wanted, them = (f"{', '.join(others)} and {last} are", "them") if others else (f"{last} is", "it")
        there = ", ".join(f"{NAMES[modality]} is {series.title}" for modality, series in taken.items()) or "none of the four"
        rest = "; ".join(f"{one.title} {one.fault or one.reason}" for one in left) or "nothing"
        say = ", or say " + " ".join(f"--{modality} NUMBER" for modality in missing)
        nameable = any(one.shape for one in left)  # a single slice or a CT is refused under any name
        raise SessionError(
            f"{wanted} missing (found: {there}; left out: {rest})", f"add {them} to the folder{say if nameable else ''}"
        )


def _brain(fixed: sitk.Image, label: str, mask: Path | None) -> tuple[sitk.Image, str]:
    if mask:
        return brain.read_mask(Path(mask), fixed), "the mask that you gave"
    stripped = brain.stripped_mask(fixed, brain.rough_brain(fixed))
    if stripped is not None:
        return stripped, "the reference is skull-stripped already and was left so"
    try:
        return brain.extract_brain(fixed), "found by deepbet"
    except SessionError as error:
        raise SessionError(f"{label}: {error.problem}", error.remedy) from error


def _judge(
    modality: str, result: Registration, fixed: sitk.Image, moving: sitk.Image, inside: sitk.Image, out: Path
) -> tuple[Registration, dict[str, float | str]]:
    """Measure a registration; raise an error with a picture if it has failed, leave alone what was registered already."""
    other = brain.rough_brain(moving)
    same = fixed.GetSize() == moving.GetSize() and np.allclose(affine_of(fixed), affine_of(moving), atol=1e-3)
    role = "registered"
    if same and result.shift_mm < STILL_MM:
        still = sitk.Euler3DTransform()
        same_again = information(fixed, moving, still, inside)
        result, role = Registration(still, same_again, same_again, 0.0, 0.0), "registered already"
    whole = sitk.Resample(moving * 0 + 1, fixed, result.transform, sitk.sitkNearestNeighbor, 0.0)
    where = array_of(inside) > 0
    seen = array_of(sitk.Resample(fixed * 0 + 1, other, result.transform.GetInverse(), sitk.sitkNearestNeighbor, 0.0))
    measures: dict[str, float | str] = {
        "role": role,
        "information_before": round(result.information_before, 4),
        "information_after": round(result.information_after, 4),
        "brain_overlap_before": round(brain.overlap(inside, other, sitk.Transform()), 4),
        "brain_overlap_after": round(brain.overlap(inside, other, result.transform), 4),
        "brain_covered": round(float((array_of(whole)[where] > 0).mean()), 4),
        "shift_mm": round(result.shift_mm, 2),
        "rotation_degrees": round(result.rotation_degrees, 2),
    }
    wrong, remedy = "", f"check that it is the same head, or take another --{modality}"
    if measures["brain_covered"] < LEAST_COVERAGE:
        wrong = f"shows only {measures['brain_covered']:.0%} of the brain of the reference"
    elif measures["brain_overlap_after"] < LEAST_OVERLAP:
        wrong = f"could not be registered: the brains overlap by {measures['brain_overlap_after']:.2f} (Dice)"
    elif (shown := seen[array_of(other) > 0].mean() if array_of(other).any() else 1) < LEAST_SHOWN:
        wrong = f"shows more of the brain than the reference, a series of T1, which has only {shown:.0%} of it"
        remedy = "take another --t1ce or --t1"
    elif result.information_after < result.information_before - 0.01:
        wrong = "could not be registered: the images fit each other worse than before"
    if wrong:
        picture = page.failure(out / f"registration_of_{modality}.png", fixed, moving, result.transform, inside)
        raise SessionError(f"the {NAMES[modality]} {wrong}", remedy, picture)
    return result, measures


def _in_words(measures: Mapping[str, float | str]) -> str:
    if measures["role"] == "registered already":
        return "registered already, left alone"
    return (
        f"moved by {measures['shift_mm']:.1f} mm and {measures['rotation_degrees']:.1f} degrees; mutual information "
        f"{measures['information_before']:.2f} -> {measures['information_after']:.2f}, brain overlap "
        f"{measures['brain_overlap_before']:.2f} -> {measures['brain_overlap_after']:.2f}"
    )


def case_grid(fixed: sitk.Image, inside: sitk.Image) -> sitk.Image:
    """The grid of the case: that of the reference turned to LPS, 1 mm wide, cut to the brain; as it is if that is 1 mm."""
    if np.allclose(fixed.GetSpacing(), EDGE, atol=0.05):
        return fixed
    turned = sitk.DICOMOrient(inside, "LPS")
    voxels = np.argwhere(sitk.GetArrayFromImage(turned))[:, ::-1]
    spacing = np.array(turned.GetSpacing())
    low = voxels.min(0) - 0.5 - MARGIN_MM / spacing
    high = voxels.max(0) + 0.5 + MARGIN_MM / spacing
    size = np.ceil((high - low) * spacing / EDGE).astype(int)
    origin = turned.TransformContinuousIndexToPhysicalPoint((low + EDGE / 2 / spacing).tolist())
    grid = sitk.Image(size.tolist(), sitk.sitkUInt8)
    grid.SetSpacing([EDGE] * 3)
    grid.SetOrigin(origin)
    grid.SetDirection(turned.GetDirection())
    return grid


def _depth(mask: sitk.Image) -> sitk.Image:
    return sitk.SignedMaurerDistanceMap(mask, insideIsPositive=True, squaredDistance=False, useImageSpacing=True)


def _write(
    session: Session, images: Mapping[str, sitk.Image], transforms: Mapping[str, sitk.Transform], inside: sitk.Image
) -> None:
    """Resample every series once, from the original, and write the case, its record and its page."""
    session.folder.mkdir(parents=True, exist_ok=True)
    for pattern in DERIVED:
        for old in session.folder.glob(pattern):
            old.unlink()
    path = session.folder / "session.json"
    if path.exists():  # of an earlier preparation, finished or not, whose images may show another head
        for modality in set(MODALITIES) - set(images):
            session.image(modality).unlink(missing_ok=True)
            session.native(modality).unlink(missing_ok=True)
    path.write_text("{}\n", encoding="utf-8")  # as long as the case is not complete, it is no prepared session
    grid = case_grid(images[session.reference], inside)
    mask = sitk.Resample(_depth(inside) - _depth(1 - inside), grid, sitk.Transform(), sitk.sitkLinear, -1.0) > 0
    moved = {}
    for modality, image in images.items():
        moved[modality] = sitk.Resample(image, grid, transforms[modality], sitk.sitkLinear, 0.0)
        write_nifti(session.images[modality], sitk.Mask(moved[modality], mask))
        write_nifti(session.native(modality), image, session.grids[modality][1])
    write_nifti(session.mask, mask)
    record = {
        "made_by": "scan_session",
        "contains": page.CONTENTS,
        "reference": session.reference,
        "series": {
            modality: {
                "label": series.label, "reason": series.reason, "fingerprint": series.fingerprint,
                "matrix": np.round(session.matrices[modality], 8).tolist(), "shape": session.grids[modality][0],
                "affine": session.grids[modality][1].tolist(), "measures": session.measures[modality],
            }
            for modality, series in session.series.items()
        },
        "left_out": [{"label": one.label, "reason": one.fault or one.reason} for one in session.left_out],
        "notes": session.notes,
    }  # fmt: skip
    text = json.dumps(record, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", lambda match: "[" + " ".join(match[1].split()) + "]", text)
    before = {key: sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, 0.0) for key, image in images.items()}
    page.write(session, before, moved, mask)
    path.write_text(text + "\n", encoding="utf-8")  # last, as it marks a complete case
