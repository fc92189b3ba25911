"""Decide what is brain, and find out what is wrong with the four images of a session before a network sees them.

`read_session` does it for a case, in preparation, prediction and serving alike; `check_session` for arrays.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from scipy import ndimage

from brats_cohort.case import ERROR, WARNING, Case, Fault
from brats_cohort.cases import raise_first, read_modalities
from brats_cohort.files import DataError
from brats_cohort.grid import spacing_of
from brats_cohort.regions import MODALITIES, MODALITY_NAMES

ONE_VALUE = 0.9  # share of the voxels along the edges of a volume that must have one value for it to be background
MOST_PIECES = 60  # into which two values of background divide the edges: noise changes from voxel to voxel
FILLED = 0.7  # share of its box that a field of view fills, also if it was turned a little; an ellipsoid fills 0.52
MIXED = 2  # voxels between two values of background in which interpolation mixes them
MOST_BRAIN_ML = 2500.0  # no brain is larger: the largest of adults measure about 1,900 ml
APART = 0.9  # share of the brain with signal below which a modality shows it elsewhere: five sessions had at least 0.998
FEW_SPECKS, SPECK = 0.001, 0.05  # share of the signal away from the brain that is said, and of the brain that is no speck
LEAST_BRAIN_MM, FINE_MM = 80.0, 0.5  # a newborn's is 100 mm long; scans of a part of it do not have finer voxels
LARGER = 1.3  # a modality with signal in so many times the voxels of the others has something around the brain
BRIGHT_RIM = 1.5  # brightness of the rim on T1 from which it is scalp: ten brains had at most 1.2, a head 3.3
DARK_SHELL = 0.1  # share of dark voxels 8 to 14 mm below the surface from which they are bone: brains had at most 0.003
NEGATIVE = 0.05  # share of voxels below 0 from which an image was normalised before, or rings after a spline
RINGING = 0.05  # share of the brightest value within which ringing lies
NEARLY_BLANK = 0.01  # a modality with signal in less than this share of the brain is blank but for a few voxels
MOST_SPREAD = 4.0  # of the variance of all others together: a single voxel that has more would flatten them
LARGEST_VALUE = 1e30  # a voxel that exceeds it was not measured
SCALE = 1e-15, 1e15  # of the brightest values: beyond, the squares of 32-bit numbers become 0 or infinite
ALIKE = 1e-4  # mean square of the difference of two normalised images that differ by rounding only
TAIL, TAILS_APART = 3.0, 3.5  # standard deviations from which a tail counts, and standard errors by which two must differ
SAMPLE, FEWEST = 200_000, 10_000  # brain voxels whose contrast is compared, and below which nothing can be said


@dataclass(frozen=True)
class Session:
    """Four images of one session that passed the checks.

    `image` holds four arrays (X, Y, Z) in the order of `MODALITIES`, 0 outside the brain; `affine` leads to millimetres in
    RAS+; `warnings` say what is odd but usable.
    """

    identifier: str
    image: tuple[np.ndarray, ...]
    affine: np.ndarray
    warnings: tuple[str, ...]


def read_session(case: Case, *, threads: int = 1) -> Session:
    """Read the four images of a case, `threads` files at a time, and check them as a set.

    Raises `DataError` if a modality is missing or unreadable, the grids differ, two files hold the same image, values are not
    finite or damaged, or it is not certain what is brain.
    """
    volumes, affine, faults = read_modalities(case, threads=threads)
    raise_first(case.identifier, faults)
    names = {modality: case.images[modality].path.name for modality in MODALITIES}
    return check_session([volumes[m] for m in MODALITIES], affine, case.identifier, names=names, faults=faults)


def check_session(
    image: Sequence[np.ndarray],
    affine: np.ndarray,
    identifier: str = "",
    *,
    names: Mapping[str, str] | None = None,
    faults: Sequence[Fault] = (),
) -> Session:
    """Check four images that are in memory, in the order of `MODALITIES` and in one grid; otherwise as `read_session`."""
    affine, shapes = np.asarray(affine, dtype=np.float64), [np.shape(volume) for volume in image]
    if len(shapes) != len(MODALITIES) or len(set(shapes)) > 1 or len(shapes[0]) != 3:
        problem = f"case {identifier or '(unnamed)'}: the images have the shapes {', '.join(map(str, shapes))}"
        raise DataError(problem, "give T1, T1ce, T2 and FLAIR in one grid (X, Y, Z)")
    volumes, _, found = examine(dict(zip(MODALITIES, image, strict=True)), affine, identifier, names or {})
    raise_first(identifier, found)
    return Session(identifier, tuple(volumes[m] for m in MODALITIES), affine, tuple(map(str, [*faults, *found])))


def examine(
    volumes: Mapping[str, np.ndarray], affine: np.ndarray, identifier: str, names: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], np.ndarray | None, list[Fault]]:
    """Check images (X, Y, Z) in one grid, of as many modalities as there are; `names` are those of their files.

    Returns the volumes by modality, 0 outside the brain, without those that hold no numbers or one value only; a bool array
    (X, Y, Z) of the voxels in which any of them is not 0, if it is certain; and the faults.
    """

    def fault(modality: str, problem: str, remedy: str) -> Fault:
        called = f"{names[modality]} ({MODALITY_NAMES[modality]})" if modality in names else MODALITY_NAMES[modality]
        return Fault(identifier, names.get(modality, ""), f"{called} {problem}", remedy)

    faults, good = [], {}
    for modality, volume in volumes.items():
        if volume.dtype.kind not in "iuf":
            faults.append(fault(modality, f"holds {volume.dtype}, not plain numbers", "export it as one grey value a voxel"))
        elif volume.min() == volume.max():
            faults.append(fault(modality, f"is blank: every voxel is {volume.flat[0]}", "export the image again"))
        elif min(volume.shape) < 2:
            faults.append(fault(modality, f"has shape {volume.shape}, a single slice", "give the whole volume"))
        elif _swapped(volume):
            problem = f"was read in the wrong byte order: its values go from {volume.min()} to {volume.max()} in steps of 256"
            faults.append(fault(modality, problem, "export the image again"))
        else:
            good[modality] = volume
    good, brain, found = settle_background(good, affine, identifier)
    faults += found
    signal = np.count_nonzero(brain) if brain is not None else 0
    for modality, volume in good.items():
        wrong = int(np.count_nonzero(~np.isfinite(volume))) if volume.dtype.kind == "f" else 0
        count = np.count_nonzero(volume)
        if wrong:
            faults.append(fault(modality, f"has {wrong} voxels that are not numbers", "export the image again"))
        elif count < NEARLY_BLANK * signal:
            problem = f"is nearly blank: signal in {100 * count / signal:.2g} % of the brain"
            faults.append(fault(modality, problem, "export the image again"))
        elif len(np.unique(volume[_every(volume.shape)])) <= 2:
            faults.append(fault(modality, "holds two different values, as a mask does", "give the image itself"))
        elif extreme := _extreme(volume, count):
            faults.append(fault(modality, extreme, "correct these voxels, or clip the image"))
        elif not SCALE[0] < max(float(volume.max()), -float(volume.min())) < SCALE[1]:
            problem = f"has values up to {float(volume.max()):.3g}, which 32-bit numbers cannot be computed with"
            faults.append(fault(modality, problem, "scale it to usual grey values"))
    for first, second in itertools.combinations(good, 2):
        if _same(good[first], good[second]):
            problem = f"{MODALITY_NAMES[first]} and {MODALITY_NAMES[second]} hold the same image"
            faults.append(Fault(identifier, names.get(second, ""), problem, "find the right file for one of them"))
    if len(good) == len(MODALITIES) and all(fault.severity != ERROR for fault in faults):
        for sentence in suspicions([good[modality] for modality in MODALITIES]):
            remedy = "look at the four images; rename the files, or say which is which: predict --t1 --t1ce --t2 --flair"
            faults.append(Fault(identifier, "", sentence, remedy, WARNING))
    return good, brain, faults


def settle_background(
    volumes: Mapping[str, np.ndarray], affine: np.ndarray, identifier: str
) -> tuple[dict[str, np.ndarray], np.ndarray | None, list[Fault]]:
    """Decide once what is brain, and set everything else to 0; takes and returns what `examine` does.

    The background of a modality is certain if the edges of its volume have one value. A second value that encloses all the rest
    is background too, as after padding. If the value around the brain is not 0, it is subtracted. An image that was normalised
    within the brain is shifted above 0 again, as the bias field scales intensities, and ringing is removed. A modality with
    noise around the brain, or with signal in a much larger part of the volume than the others, is set to 0 outside the brain of
    the others. The rest is refused: nothing certain, or a head in place of a brain.
    """
    settled, faults = dict(volumes), []

    def note(problem: str, remedy: str, severity: str = WARNING) -> None:
        faults.append(Fault(identifier, "", problem, remedy, severity))

    values = {}
    for modality, volume in volumes.items():
        settled[modality], values[modality] = _without_padding(volume)
    certain = [modality for modality in volumes if values[modality]]
    if not certain and volumes:
        ranges = ", ".join(f"{MODALITY_NAMES[m]} {v.min():.3g} to {v.max():.3g}" for m, v in volumes.items())
        problem = f"what surrounds the brain has no single value, so brain and background cannot be told apart ({ranges})"
        note(problem, _STRIP, ERROR)
        return settled, None, faults
    for modality in certain:
        if any(values[modality][-1]):
            settled[modality] = _subtract(settled[modality], *values[modality][-1])
    odd = [modality for modality in certain if len(values[modality]) > 1 or values[modality][0][0] != 0]
    if odd:
        every = {modality: " and ".join(f"{value:.4g}" for value, _ in values[modality]) for modality in odd}
        named = ", ".join(f"{MODALITY_NAMES[modality]} {text}" for modality, text in every.items())
        problem = f"the background is not 0 ({named}) and was set to 0 by subtracting it"
        note(problem, "make sure that these values fill the air around the brain")
    mended = defaultdict(list)
    for modality in certain:
        settled[modality], kind = _without_negatives(settled[modality])
        mended[kind].append(MODALITY_NAMES[modality])
    for kind, (problem, remedy) in _NEGATIVE_KINDS.items():
        if kind in mended:
            note(f"on {', '.join(mended[kind])}, {problem}", remedy)
    counts = {modality: int(np.count_nonzero(settled[modality])) for modality in certain}
    usual = float(np.median([*counts.values()])) if counts else 0.0
    others = [m for m in certain if not (len(certain) > 2 and counts[m] > LARGER * usual > 0)]
    brain = reduce(np.logical_or, (settled[modality] for modality in others[1:]), settled[others[0]] != 0) if others else None
    unclear = [modality for modality in volumes if modality not in others]
    for modality in unclear:
        settled[modality] = np.where(brain, settled[modality], 0).astype(settled[modality].dtype)
    if unclear:
        named = " and ".join(MODALITY_NAMES[modality] for modality in unclear)
        problem = f"{named} has signal around the brain and was set to 0 where the other modalities are"
        note(problem, "make sure that the others show the whole brain")
    if others and (alone := _without_specks(brain)) is not None:
        note("signal in the air, away from the brain, such as noise or text, was set to 0", "look at the images")
        brain = alone
        for modality in others:
            settled[modality] = np.where(brain, settled[modality], 0).astype(settled[modality].dtype)
            counts[modality] = int(np.count_nonzero(settled[modality]))
    signal = max(1, int(np.count_nonzero(brain))) if others else 1
    shares = {modality: counts[modality] / signal for modality in others}
    if any(NEARLY_BLANK < share < APART for share in shares.values()):
        named = ", ".join(f"{MODALITY_NAMES[modality]} {100 * share:.0f} %" for modality, share in shares.items())
        note(f"the images show the brain in different places (signal in {named} of it)", _REGISTER)
    if brain is not None and (wrong := _head(settled, brain, spacing_of(affine))):
        note(*wrong, ERROR)
    return settled, brain, faults


_STRIP = "remove skull and background from all four, for example with HD-BET or SynthStrip, and set them to 0"
_REGISTER = "make sure that they are of one session, complete and registered"
_NEGATIVE_KINDS = {
    "normalised": (
        "many values in the brain are below 0, as after normalisation, and were shifted above it",
        "give the images as they were scanned, if you have them",
    ),
    "ringing": (
        "values ring around the brain, as after resampling with a spline, and were set to 0 there",
        "resample with linear interpolation, or clip at 0",
    ),
}
_EDGES = [
    tuple(slice(None) if axis == along else ends[axis - (axis > along)] for axis in range(3))
    for along in range(3)
    for ends in itertools.product((0, -1), repeat=2)
]
"""Indices of the twelve edges of a volume."""


def _without_padding(volume: np.ndarray) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """A volume with one value around the brain, and the values that were there as `_edge_value`, from outside; none if unclear.

    Padding and resampling leave a second value around the first, or wedges of it along some edges.
    """
    edges = _edges(volume)
    if np.isinf(edges).any():
        volume = np.where(np.isin(volume, edges[np.isinf(edges)]), np.nan, volume)
    numbers, found = edges[np.isfinite(edges)], []
    if 0 < len(numbers) < len(edges):  # not a number in some corners
        values, counts = np.unique(numbers, return_counts=True)
        found, volume = [(np.nan, 0.0)], _fill(volume, np.nan, 0, values[counts.argmax()])
    if pair := _edge_pair(volume):
        found, volume = [*found, *pair], _fill(volume, *pair[0], pair[1][0])
    elif edge := _edge_value(volume):
        found.append(edge)
    else:
        return volume, []
    while inner := _enclosing_value(volume, found[-1]):
        value, depth = inner
        volume = _fill(volume, *found[-1], value[0], depth)
        found.append(value)
    return volume, found


def _edges(volume: np.ndarray) -> np.ndarray:
    """Voxels along the twelve edges of a volume, one edge after the other."""
    return np.concatenate([volume[index] for index in _EDGES])


def _edge_value(volume: np.ndarray) -> tuple[float, float] | None:
    """The one value that a volume has along its edges, and how far others of the background lie from it; else None."""
    edges = _edges(volume)
    found, counts = np.unique(edges, return_counts=True)
    value = float(found[counts.argmax()])
    if volume.dtype.kind != "f" or np.isnan(value):
        same, apart = (edges == value) | (edges != edges), 0.0
    else:
        highest = float(volume.max())
        tolerance = max(1e-4 * abs(value), 1e-5 * highest if np.isfinite(highest) else 0)
        apart = np.abs(edges.astype(np.float64) - value)
        same = apart <= tolerance
        apart = tolerance if apart[same].any() else 1e-4 * abs(value)
    return (value, apart) if same.mean() >= ONE_VALUE else None


def _edge_pair(volume: np.ndarray) -> list[tuple[float, float]]:
    """Two values that take turns along the edges of a volume in few pieces, that around the brain last; else none."""
    edges = _edges(volume)
    found, counts = np.unique(edges, return_counts=True)
    rarer, common = np.sort(counts)[-2:] / len(edges) if len(found) > 1 else (0, 1)
    pieces = np.count_nonzero(edges[1:] != edges[:-1])
    if rarer < (1 - ONE_VALUE) / 10 or rarer + common < ONE_VALUE or pieces > MOST_PIECES:
        return []
    pair = [(float(value), 0.0) for value in found[counts.argsort()[-2:]]]
    last = _surface(volume, pair)[0]
    return sorted(pair, key=lambda each: np.count_nonzero(last == each[0]))


def _enclosing_value(volume: np.ndarray, background: tuple[float, float]) -> tuple[tuple[float, float], int] | None:
    """The one value that encloses all that is no background, as `_edge_value`, and behind how many voxels; None for a brain.

    What it encloses must be a field of view, that is nearly a box. Interpolation mixes two values in up to `MIXED` voxels
    between them; the surface of a brain has many values in any depth.
    """
    for depth, met in enumerate(_surface(volume, [background])[1:]):
        values, counts = np.unique(met, return_counts=True)
        if not len(met):
            return None
        value = float(values[counts.argmax()])
        found = (value, 1e-4 * abs(value) if volume.dtype.kind == "f" else 0.0)
        if np.mean(_is(met, *found)) >= ONE_VALUE:
            inside = ~_is(volume, *background)
            edges = [np.count_nonzero(inside.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
            field = np.count_nonzero(inside) >= FILLED * np.prod(edges)  # of view; a brain drawn in one value is rounder
            return (found, depth) if field and not _is(volume[inside], *found).all() else None
    return None


def _surface(volume: np.ndarray, background: Sequence[tuple[float, float]]) -> list[np.ndarray]:
    """Voxels on ways into a volume from its six sides: the last of the background, and those 0 to `MIXED` voxels below it."""
    found = [[] for _ in range(MIXED + 2)]
    for axis in range(3):
        coarse = tuple(slice(None) if other == axis else steps for other, steps in enumerate(_every(volume.shape)))
        lines = np.moveaxis(volume[coarse], axis, 0)
        outside = np.logical_or.reduce([_is(lines, *value) for value in background])
        for way, passed in ((lines, outside), (lines[::-1], outside[::-1])):
            start = passed.argmin(0)[None]  # 0 too if all is background
            for depth, voxels in enumerate(found, start=-1):
                here = (start[0] > 0) & (start[0] + depth < len(way))
                voxels.append(np.take_along_axis(way, np.minimum(start + depth, len(way) - 1), 0)[0][here])
    return [np.concatenate(voxels) for voxels in found]


def _is(volume: np.ndarray, value: float, apart: float) -> np.ndarray:
    """Where a volume has a value."""
    return np.isnan(volume) if np.isnan(value) else volume == value if not apart else np.abs(volume - value) <= apart


def _fill(volume: np.ndarray, outer: float, apart: float, inner: float, mixed: int = 0) -> np.ndarray:
    """A volume with another value in place of the one that surrounds it and of `mixed` voxels below it.

    Where the brain has the value that surrounds it, it is kept.
    """
    labelled, _ = ndimage.label(np.pad(_is(volume, outer, apart), 1, constant_values=True))
    padding = labelled == labelled[0, 0, 0]
    if mixed:
        padding = ndimage.binary_dilation(padding, np.ones((3, 3, 3)), iterations=mixed)
    return np.where(padding[1:-1, 1:-1, 1:-1], np.asarray(inner, volume.dtype), volume)


def _without_specks(brain: np.ndarray) -> np.ndarray | None:
    """What is left of `brain` without small parts that do not touch it; None if these are next to nothing."""
    _, sizes = _parts(brain[::2, ::2, ::2])  # tells as much in a tenth of the time
    if sizes.sum() - sizes.max(initial=0) <= FEW_SPECKS * sizes.sum():
        return None
    labelled, sizes = _parts(brain)
    specks = sizes[sizes < SPECK * sizes.max()].sum()
    return (sizes >= SPECK * sizes.max())[labelled] if specks > FEW_SPECKS * sizes.sum() else None


def _parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected parts of a mask by number, and their voxels, 0 for what is outside."""
    labelled, count = ndimage.label(mask)
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)
    sizes[0] = 0
    return labelled, sizes


def _subtract(volume: np.ndarray, background: float, apart: float) -> np.ndarray:
    """A volume whose background is exactly 0, float32; the brain keeps its contrast, as normalisation is free of offsets."""
    if np.isnan(background):
        return np.nan_to_num(volume, nan=0.0, posinf=np.inf, neginf=-np.inf).astype(np.float32)
    shifted = volume.astype(np.float64) - background
    shifted[np.abs(shifted) <= apart] = 0
    return shifted.astype(np.float32)


def _without_negatives(volume: np.ndarray) -> tuple[np.ndarray, str]:
    """A volume without values below 0 if it has many of them, and the key of `_NEGATIVE_KINDS`, else the volume and ""."""
    lowest = volume.min() if volume.dtype.kind in "if" else 0
    if not (np.isfinite(lowest) and lowest < 0):
        return volume, ""
    values = volume[volume != 0].astype(np.float32)
    below = -values[values < 0]
    if len(below) <= NEGATIVE * len(values):
        return volume, ""
    brightest = np.percentile(values, 99)
    if np.median(below) < RINGING / 2 * brightest:
        return np.where(np.abs(volume) <= RINGING * brightest, 0, volume).astype(volume.dtype), "ringing"
    step = 1e-3 * values.std()  # so that the darkest voxel of the brain does not become background
    return np.where(volume != 0, volume.astype(np.float32) - lowest + step, 0).astype(np.float32), "normalised"


def _head(volumes: Mapping[str, np.ndarray], brain: np.ndarray, spacing: np.ndarray) -> tuple[str, str] | None:
    """What shows that `brain` is a head with its skull or has another size than brains, with the remedy; None for a brain.

    Scalp is bright on T1: the outermost 8 mm (90th percentile) are compared with the median of what lies deeper than 20 mm.
    Where fat was suppressed it is not, but bone is dark on T1 and T2 alike, as no layer of a brain is.
    """
    measured = np.count_nonzero(brain) * float(np.prod(spacing)) / 1000
    if measured > MOST_BRAIN_ML:
        return f"{measured:,.0f} ml would be brain, more than any head holds", _STRIP
    if spacing.min() < FINE_MM:
        lengths = [np.ptp(np.flatnonzero(brain.any(tuple({0, 1, 2} - {axis})))) * spacing[axis] for axis in range(3)]
        if max(lengths) < LEAST_BRAIN_MM:
            problem = f"the brain would be {max(lengths):.0f} mm long at voxels of {spacing.min():.2g} mm"
            return problem, "set the spacing in millimetres; it may be in centimetres"
    steps = [max(1, round(4 / edge)) for edge in spacing]
    coarse = tuple(slice(None, None, step) for step in steps)
    inside = np.pad(ndimage.binary_fill_holes(brain[coarse]), 1)
    depth = ndimage.distance_transform_edt(inside, sampling=spacing * steps)[1:-1, 1:-1, 1:-1]
    rim, shell, deep = (depth > 0) & (depth <= 8), (depth > 8) & (depth <= 14), depth > 20
    middle = {m: np.median(volume[coarse][deep]) for m, volume in volumes.items()} if np.count_nonzero(deep) >= 100 else {}
    if not all(middle.get(modality, 0) > 0 for modality in ("t1", "t2")):
        return None
    relative = {modality: volumes[modality][coarse] / value for modality, value in middle.items() if value > 0}
    if (bright := np.percentile(relative["t1"][rim], 90)) > BRIGHT_RIM:
        words = f"the outermost millimetres on T1 are {bright:.1f} times as bright as what lies deep, as the scalp is"
        return f"{words}, or fluid on T2", f"rename T1 and T2 if they are exchanged; otherwise {_STRIP}"
    dark = np.mean(reduce(np.maximum, relative.values())[shell] < 0.5)
    words = f"{100 * dark:.0f} % of what lies about 1 cm deep is dark on all images, as bone is"
    return (words, _STRIP) if dark > DARK_SHELL else None


def _extreme(volume: np.ndarray, count: int) -> str:
    """Words for a value so far from all others that it alone would set the scale of the image; empty if there is none."""
    low, high = float(volume.min()), float(volume.max())
    farthest = max(low, high, key=abs)
    if abs(farthest) < LARGEST_VALUE:
        values = volume.ravel(order="K")[:: max(1, volume.size // SAMPLE)]
        values = values[values != 0].astype(np.float64)
        if len(values) < 100:
            return ""
        bottom, middle, top = np.percentile(values, (0.1, 50, 99.9))
        low = low if low < 0 else bottom  # 0 is background
        farthest = low if middle - low > high - middle else high
        if (farthest - middle) ** 2 <= MOST_SPREAD * np.clip(values, bottom, top).var() * count:
            return ""
    return f"has a voxel of {farthest:.3g}, far beyond all others, which would flatten the image"


def _every(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Indices of some 60 voxels along each axis, which tell as much as all of them."""
    return tuple(slice(None, None, max(1, count // 60)) for count in shape)


def _swapped(volume: np.ndarray) -> bool:
    """Whether the two bytes of each number are exchanged: of grey values up to 4,095 the higher one is below 16."""
    if volume.dtype.kind not in "iu" or volume.dtype.itemsize != 2 or int(volume.max()) - int(volume.min()) <= 4095:
        return False
    return 0 < int((volume & 255).max()) < 16


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two volumes hold equal values; a coarse grid of them tells most pairs apart at once."""
    coarse = (slice(None, None, 8),) * 3
    return np.array_equal(first[coarse], second[coarse]) and np.array_equal(first, second)


def moment(values: np.ndarray, power: int) -> float:
    """Standardised moment: 3 is the skewness. SciPy's takes longer to import than a case to predict."""
    centred = values - values.mean()
    raised = square = centred * centred
    for _ in range(power - 2):
        raised = raised * centred  # NumPy's power takes ten times as long
    return float(np.mean(raised) / np.mean(square) ** (power / 2))


def tail_balance(values: np.ndarray) -> float:
    """How much the upper tail outweighs the lower one, in standard errors of that difference; 0 if there is no tail.

    The tails are what lies more than `TAIL` standard deviations from the median, with the deviation taken from the quartiles.
    """
    low, middle, high = np.percentile(values, (25, 50, 75))
    reach = TAIL * (high - low) / 1.349  # quartiles of a normal distribution lie 1.349 standard deviations apart
    beyond = values - np.clip(values, middle - reach, middle + reach)
    return float(beyond.sum() / max(np.linalg.norm(beyond), 1e-12))


def suspicions(image: Sequence[np.ndarray]) -> list[str]:
    """Say which of four modalities (X, Y, Z), 0 outside the brain, seem exchanged; empty if everything looks right.

    What fluid, white matter and contrast agent do to the four intensities is compared over the brain, in standard deviations:
    T1ce is T1 with brighter vessels and lesions, so T1 resembles T1ce much more than T2; fluid makes T2 more skewed to the
    bright side than T1; enhancement and vessels give T1ce minus T1 a heavy tail on the bright side; where T2 is brightest there
    is fluid, some of which is dark on FLAIR.

    The limits were chosen on five complete BraTS 2021 cases and eight phantoms: no right case fails, and every exchange of T1
    with T1ce, T1 with T2, T2 with T1ce and T2 with FLAIR does. An exchange of T1 with T1ce can go unseen if nothing enhances,
    one of T2 with FLAIR if a tumour is brighter than fluid on T2, and one of FLAIR with T1 or T1ce in most cases. Unusual
    protocols and operated brains can escape or be suspected wrongly; hence a suspicion is only a warning.
    """
    flat = [volume.ravel(order="F") for volume in image]  # files lie in memory in this order, so nothing is copied
    voxels = np.flatnonzero(reduce(np.logical_and, flat[1:], flat[0] != 0))
    if voxels.size < FEWEST:
        return []
    voxels = voxels[:: max(1, voxels.size // SAMPLE)]
    values = np.stack([volume[voxels] for volume in flat]).astype(np.float32)
    spread = values.std(axis=1, keepdims=True)
    if not (spread > 0).all():
        return []
    t1, t1ce, t2, flair = normalised = (values - values.mean(axis=1, keepdims=True)) / spread
    for (first, one), (second, other) in itertools.combinations(zip(MODALITY_NAMES.values(), normalised, strict=True), 2):
        if np.mean((one - other) ** 2) < ALIKE:
            return [f"{first} and {second} seem to be one image in two scales"]
    if np.mean(t1 * t1ce) < np.mean(t1 * t2) - 0.2:
        return ["T1ce and T2 seem exchanged: T1 resembles the file named T2 more than the one named T1ce"]
    if moment(t1, 3) > moment(t2, 3):
        return ["T1 and T2 seem exchanged: fluid is brighter on the file named T1"]
    if tail_balance(t1ce - t1) < -TAILS_APART:
        return ["T1 and T1ce seem exchanged: contrast agent shows on the file named T1"]
    if darkest(flair, where=t2) > -0.5 > darkest(t2, where=flair):  # a tumour that is brightest on both says nothing
        return ["T2 and FLAIR seem exchanged: nothing that is brightest on T2 is dark on FLAIR"]
    return []


def darkest(values: np.ndarray, *, where: np.ndarray) -> float:
    """Return how dark one image gets where another is brightest: the 10th percentile there."""
    return float(np.percentile(values[where >= np.percentile(where, 98)], 10))
