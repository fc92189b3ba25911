"""The thirteen organs with their BTCV labels, in the portal venous phase of contrast agent."""

from __future__ import annotations

import itertools

import numpy as np

from helpers.extras.ct.phantom.canvas import (
    FAT,
    GAS,
    MUSCLE,
    Canvas,
)
from helpers.extras.ct.phantom.space import (
    Space,
    ellipsoid,
    tube,
    union,
    waves,
)
from helpers.extras.ct.phantom.torso import Torso


def draw_viscera(canvas: Canvas, torso: Torso) -> None:
    """Paint every organ; what comes later lies in front of or within what came before."""
    _draw_liver(canvas, torso)
    _draw_spleen(canvas, torso)
    _draw_stomach(canvas, torso)
    for side in (1, -1):
        _draw_kidney(canvas, side)
    _draw_great_vessels(canvas)
    _draw_gallbladder(canvas, torso)
    _draw_pancreas(canvas)
    for side in (1, -1):
        _draw_adrenal(canvas, side)


def _draw_liver(canvas: Canvas, torso: Torso) -> None:
    space, size = canvas.space, canvas.vary(1, 0.05)
    right = ellipsoid(space, canvas.shift((84, 6, 30)), (68 * size, 84 * size, 78 * size))
    left = ellipsoid(space, canvas.shift((4, 50, 52)), (84 * size, 36 * size, 36 * size), turn=-8)
    level = union(right, left, blend=25)
    for hollow, depth in (((28, 0, 0), (36, 34, 44)), ((58, -52, -30), (36, 38, 58)), ((-28, -30, 70), (42, 56, 70))):
        level = np.minimum(level, -ellipsoid(space, hollow, depth))
    fissure = np.abs(space.x + 4 - 0.25 * (space.y - 50)) - 2.5 + np.clip(space.z - 44, 0, None)
    level = np.minimum(level, np.maximum(fissure, 44 - space.y))
    level = np.minimum(level + 1.2 * space.ripple, torso.cavity - 1.0).astype(np.float32)
    value = canvas.vary(108, 8)
    canvas.paint(level, value + waves(space.axes, canvas.generator, length=(7, 15), size=2.5), organ="liver", halo=1.5)
    inside = level - 5
    for tree in _liver_vessels(canvas):
        touched = np.minimum(tree, inside)
        canvas.hounsfield[...] = np.where(touched > 0, value + 46, canvas.hounsfield)


def _liver_vessels(canvas: Canvas) -> list[np.ndarray]:
    """Three hepatic veins towards the vena cava above, and branches of the portal vein in the middle."""
    top, gate = np.array((32, 4, 84)), np.array((52, 14, 38))
    ends = [(130, 0, 46), (92, 62, 38), (18, 70, 52)]
    veins = [(top, end, 4.6) for end in ends]
    portal = [
        (gate, end, 4.8) for end in ((122, 30, 30), (118, -30, 44), (92, -34, 8), (30, 60, 46), (-30, 62, 56), (98, 48, 62))
    ]
    trees = []
    for start, end, radius in veins + portal:
        end = np.array(canvas.shift(end, 9))
        middle = (start + end) / 2 + canvas.generator.normal(size=3) * 5
        trees.append(tube(canvas.space, [start, middle, end], [radius, radius * 0.75, radius * 0.4]))
        twig = middle + canvas.generator.normal(size=3) * 24
        trees.append(tube(canvas.space, [middle, twig], [radius * 0.6, radius * 0.35]))
    return trees


def _draw_spleen(canvas: Canvas, torso: Torso) -> None:
    space, centre, size = canvas.space, canvas.shift((-98, -34, 40)), canvas.vary(1, 0.08)
    level = ellipsoid(space, centre, (38 * size, 60 * size, 57 * size), turn=-20)
    level = np.minimum(level, -ellipsoid(space, (centre[0] + 58, centre[1] + 30, 36), (44, 60, 64)))
    level = np.minimum(level + space.ripple, torso.cavity - 1.0)
    texture = waves(space.axes, canvas.generator, length=(7, 14), size=2.5)
    canvas.paint(level, canvas.vary(122, 8) + texture, organ="spleen", halo=1.5)


def _draw_stomach(canvas: Canvas, torso: Torso) -> None:
    space, fill = canvas.space, canvas.vary(1, 0.1)
    gullet = [(-4, -14, 130), (-7, -10, 100), (-13, -4, 82), (-24, 2, 72)]
    path = [
        canvas.shift(p, 3) for p in ((-58, -14, 72), (-70, 12, 56), (-66, 40, 28), (-42, 58, 2), (-8, 58, -4), (22, 46, 10))
    ]
    level = tube(space, [gullet[-1], *path], np.array((12, 31, 33, 30, 24, 17, 12)) * fill) + 1.5 * space.ripple
    level = np.minimum(level, torso.cavity - 2)
    folds = 2.2 * np.abs(waves(space.axes, canvas.generator, length=(9, 16), size=1.0))
    canvas.paint(level, canvas.vary(82, 6), organ="stomach", halo=2.0)
    lumen = level - 3.5 - folds
    content = canvas.vary(25, 10) + waves(space.axes, canvas.generator, length=(6, 12), size=9.0)
    canvas.paint(lumen, content, organ="stomach")
    surface = np.broadcast_to(space.axes[1][None, :, None] - canvas.vary(48, 5), space.shape)
    canvas.paint(np.minimum(lumen, surface).astype(np.float32), GAS, organ="stomach")
    oesophagus = tube(space, gullet, [9.5, 9, 8.5, 9]) + 0.4 * space.ripple
    oesophagus = np.minimum(oesophagus, np.minimum(space.z - 66, -np.minimum(level, 0) - 0.5))
    canvas.paint(oesophagus, canvas.vary(52, 5), organ="oesophagus", halo=1.5)
    canvas.paint(oesophagus - 6.5, -300.0, organ="oesophagus")


def _draw_kidney(canvas: Canvas, side: int) -> None:
    space, size = canvas.space, canvas.vary(1, 0.06)
    low = -24 if side > 0 else -10
    centre = canvas.shift((side * 68, -42, low), 2.5)
    lean = centre[0] + side * -0.16 * (space.z - centre[2])  # upper poles lie nearer to each other
    tilted = Space(space.x - (lean - centre[0]), space.y, space.z, space.axes, space.ripple)
    level = ellipsoid(tilted, centre, (26 * size, 29 * size, 54 * size), turn=side * 35) + 0.8 * space.ripple
    organ = "right kidney" if side > 0 else "left kidney"
    hilum = (centre[0] - side * 20, centre[1] + 10, centre[2])
    sinus = ellipsoid(tilted, hilum, (19, 9, 24), turn=side * -35)
    canvas.paint(level, canvas.vary(185, 10), organ=organ, halo=9.0)
    canvas.paint(np.minimum(level - 1.8, -sinus), _cortex(canvas, level), organ=organ)
    canvas.paint(sinus, FAT + 20)
    pelvis = ellipsoid(tilted, (hilum[0] - side * 4, hilum[1], hilum[2] - 4), (15, 5, 10), turn=side * -35)
    canvas.paint(pelvis, 12.0)
    middle = [(side * 8, -20, centre[2] + 6), (side * 30, -22, centre[2] + 5), hilum]
    canvas.paint(tube(space, [(p[0], p[1] - 8, p[2] - 5) for p in middle], 3.2), 165.0)
    canvas.paint(tube(space, middle, 4.6), 150.0)


def _cortex(canvas: Canvas, level: np.ndarray) -> np.ndarray:
    """Hounsfield units of a kidney: a bright cortex that reaches inwards between darker pyramids."""
    columns = 3.5 * waves(canvas.space.axes, canvas.generator, length=(14, 20), size=1.0)
    return 148 + 38 / (1 + np.exp((level + columns - 8) / 1.5))


def _draw_great_vessels(canvas: Canvas) -> None:
    space, arterial, venous = canvas.space, canvas.vary(172, 12), canvas.vary(145, 10)
    aorta = [(-12, -26, 140), (-8, -24, 70), (-4, -22, 20), (-3, -22, -30), (-1, -22, -125)]
    cava = [(30, 6, 125), (30, 2, 85), (28, -8, 50), (23, -15, 10), (19, -18, -40), (16, -19, -125)]
    for name, points, radii, value in (
        ("aorta", aorta, [12, 11.5, 10.5, 9.5, 8.5], arterial),
        ("inferior vena cava", cava, [13, 13, 12, 11, 10.5, 10], venous),
    ):
        level = tube(space, [canvas.shift(p, 1.5) for p in points], np.array(radii) * canvas.vary(1, 0.06)) + 0.3 * space.ripple
        canvas.paint(level, value, organ=name, halo=2.0 if name == "aorta" else 1.0)
    artery = [(-4, -14, 2), (-3, -2, -6), (-2, 4, -26), (2, 8, -80)]
    canvas.paint(tube(space, artery, 3.6), arterial, halo=3.0)
    canvas.paint(tube(space, [(8, 12, 8), (10, 10, -26), (14, 12, -80)], 5.0), venous, halo=1.5)
    coeliac = [(-5, -14, 16), (-5, 4, 19), (20, 10, 26), (40, 14, 34)]
    canvas.paint(tube(space, coeliac, 2.8), arterial)


def _draw_gallbladder(canvas: Canvas, torso: Torso) -> None:
    size = canvas.vary(1, 0.12)
    points = [canvas.shift(point, 3) for point in ((52, 30, 20), (60, 44, 4), (66, 54, -16))]
    level = tube(canvas.space, points, np.array((6, 11, 15)) * size) + 0.4 * canvas.space.ripple
    level = np.minimum(level, torso.cavity - 3)
    canvas.paint(level, 55.0, organ="gallbladder", halo=1.0)
    canvas.paint(level - 1.6, canvas.vary(9, 4), organ="gallbladder")


def _draw_pancreas(canvas: Canvas) -> None:
    """The gland along its vein, which runs behind it and joins the portal vein at its neck."""
    space = canvas.space
    line = [
        canvas.shift(p, 2.5) for p in ((-84, -18, 34), (-56, -2, 26), (-26, 14, 18), (4, 20, 8), (27, 10, -6), (24, 2, -26))
    ]
    lobules = waves(space.axes, canvas.generator, length=(7, 12), size=1.1)
    gland = tube(space, line, [9, 10, 10, 9, 14, 11]) + lobules
    streaks = waves(space.axes, canvas.generator, length=(5, 9), size=14.0)
    canvas.paint(gland, canvas.vary(92, 7) + streaks, organ="pancreas", halo=1.5)
    canvas.paint(tube(space, line[:-1], 1.1), 20.0, organ="pancreas")
    behind = [(x + 2, y - 9, z + 3) for x, y, z in line[:3]]
    joint = (line[3][0] + 4, line[3][1] - 9, line[3][2] + 3)
    veins = union(
        tube(space, [*behind, joint], [4.2, 4.4, 4.8, 6.5]),
        tube(space, [joint, (24, 6, 24), (42, 12, 34), (60, 12, 40)], [7, 7.5, 7, 5.5]),
        blend=3,
    )
    canvas.paint(veins, canvas.vary(168, 8), organ="portal and splenic veins", halo=0.8)


def _draw_adrenal(canvas: Canvas, side: int) -> None:
    """A thin gland like an inverted Y above the kidney: a body, and two limbs that reach back."""
    space = canvas.space
    x, y, z = canvas.shift((36, -16, 38) if side > 0 else (-36, -12, 30), 2)
    limbs = [
        [(x, y + 6, 0), (x + side * 1, y - 5, 0), (x - side * 3, y - 18, 0)],
        [(x, y + 6, 0), (x + side * 3, y - 5, 0), (x + side * 11, y - 15, 0)],
    ]
    flat = Space(space.x, space.y, np.zeros_like(space.z), (*space.axes[:2], space.axes[2] * 0), space.ripple)
    height = 13 - np.abs(space.z - z)
    organ = "right adrenal gland" if side > 0 else "left adrenal gland"
    level = np.maximum(*(_sheet(flat, limb, canvas.vary(2.4, 0.2)) for limb in limbs))
    canvas.paint(np.minimum(level, height), MUSCLE + 22, organ=organ, halo=3.0)


def _sheet(flat: Space, points: list[tuple[float, float, float]], radius: float) -> np.ndarray:
    """Level of a curve in the axial plane that is the same at every height."""
    level = flat.nothing()
    for x, y, _ in _dense(points):
        across, ahead = (slice(*np.searchsorted(axis, (v - 20, v + 20))) for axis, v in zip(flat.axes, (x, y), strict=False))
        distance = np.hypot(flat.x[across, ahead] - x, flat.y[across, ahead] - y)
        np.maximum(level[across, ahead], radius - distance, out=level[across, ahead])
    return level


def _dense(points: list[tuple[float, float, float]]) -> np.ndarray:
    """Points every millimetre along straight lines."""
    points = np.asarray(points)
    parts = [np.linspace(a, b, 14) for a, b in itertools.pairwise(points)]
    return np.concatenate(parts)
