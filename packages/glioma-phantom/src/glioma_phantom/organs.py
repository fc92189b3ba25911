"""The parts of the abdomen: trunk, spine, chest, bowel, and the thirteen organs of BTCV in the portal venous phase."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from glioma_phantom.solids import AIR, FAT, GAS, MUSCLE, Canvas, Space, ellipsoid, tube, union, waves

WIDE, DEEP, ROUND = 157.0, 106.0, 2.45
"""Half width and half depth of the trunk in mm, and the exponent of its outline: 2 is an ellipse, more is squarer."""

VERTEBRA, DISC = 34.0, 8.0
"""Height of a vertebra with its disc, and of the disc, in mm."""

RIB_PITCH = 27.0


def draw_torso(canvas: Canvas) -> np.ndarray:
    """Paint trunk, spine and chest; return the level of the abdomen's cavity, below the diaphragm, which holds the organs."""
    space = canvas.space
    radius = (np.abs(space.x / WIDE) ** ROUND + np.abs(space.y / DEEP) ** ROUND) ** (1 / ROUND)
    body = (1 - radius) * (WIDE * DEEP / np.hypot(DEEP * space.x, WIDE * space.y).clip(1) * np.hypot(space.x, space.y)).clip(
        DEEP
    )
    body = body.astype(np.float32)
    _draw_table(canvas)
    canvas.paint(body, 15.0)
    canvas.paint(body - 2, FAT - 8)
    fat = canvas.vary(19, 5) + 7 * np.tanh((np.abs(space.x) - 60) / 40) + space.ripple
    trunk = body - fat.astype(np.float32)
    muscle = MUSCLE + waves(space.axes, canvas.generator, length=(6, 14), size=7.0)
    canvas.paint(trunk, muscle)
    wall = trunk - (11 + space.ripple)
    for depth in (4.0, 8.0):  # thin fat planes part the three muscles of the flank
        flank = np.minimum(np.abs(space.x) - 75, 35 - space.z)
        canvas.paint(np.minimum(0.9 - np.abs(trunk - depth), flank), FAT + 40)
    # Behind, the cavity ends at the spine in the middle and reaches further back beside it, where the kidneys lie.
    back = space.y + 58 + 24 / (1 + np.exp(-(np.abs(space.x) - 62) / 8)) + 0.7 * space.ripple
    inside = np.minimum(wall, back).astype(np.float32)
    dome = _dome(canvas)
    cavity = np.minimum(inside, dome - 2)
    lungs = np.minimum(np.minimum(trunk - 9, back + 7), -dome - 1.5)
    canvas.paint(cavity, FAT + waves(space.axes, canvas.generator, length=(12, 40), size=6.0))
    _draw_lungs(canvas, lungs)
    _draw_muscles(canvas, muscle)
    _draw_ribs(canvas, trunk)
    _draw_spine(canvas)
    return cavity


def _dome(canvas: Canvas) -> np.ndarray:
    """Millimetres below the diaphragm, whose right half stands higher; negative above it."""
    space = canvas.space
    right = canvas.vary(96, 4) - 48 * (((space.x - 68) / 86) ** 2 + ((space.y - 8) / 92) ** 2)
    left = canvas.vary(86, 4) - 48 * (((space.x + 72) / 78) ** 2 + ((space.y - 2) / 92) ** 2)
    middle = canvas.vary(74, 4) - 40 * ((space.x / 70) ** 2 + ((space.y - 60) / 60) ** 2)
    return (np.maximum(union(union(right, left, blend=20), middle, blend=20), -20) - space.z).astype(np.float32)


def _draw_table(canvas: Canvas) -> None:
    space = canvas.space
    x, y = space.axes[0][:, None, None], space.axes[1][None, :, None]
    depth = np.abs(y + DEEP + 16 - (x / 150) ** 2 * 9)
    sheet = np.broadcast_to(np.minimum(1.8 - depth, 175 - np.abs(x)), space.shape)
    canvas.paint(sheet.astype(np.float32), AIR + 700)


def _draw_lungs(canvas: Canvas, lungs: np.ndarray) -> None:
    space = canvas.space
    middle = ellipsoid(space, (-18, 42, 128), (62, 52, 48))
    heart = union(middle, ellipsoid(space, (0, -30, 120), (26, 34, 90)), blend=20)
    air = -860 + waves(space.axes, canvas.generator, length=(10, 25), size=18.0)
    canvas.paint(np.minimum(lungs, -heart - 1), air)
    inside = np.minimum(heart, np.minimum(lungs, space.z - 60))
    canvas.paint(inside, 45.0)
    canvas.paint(inside - 4, FAT)
    canvas.paint(np.minimum(middle - 9, inside - 9), 135 + 4 * space.ripple)
    for _ in range(45):
        centre = canvas.generator.uniform((-130, -85, 40), (130, 70, 120))
        end = centre + canvas.generator.normal(size=3) * (9, 9, 16)
        canvas.paint(np.minimum(tube(space, [centre, end], canvas.generator.uniform(1, 2.2)), np.minimum(lungs, -heart)), 30.0)


def _draw_muscles(canvas: Canvas, muscle: np.ndarray) -> None:
    """Psoas, quadratus lumborum and the crura of the diaphragm; the erectors of the spine are what lies behind the cavity."""
    space = canvas.space
    for side in (-1, 1):
        psoas = tube(space, [(side * 30, -50, 5), (side * 40, -48, -40), (side * 52, -40, -110)], [7, 17, 24])
        quadratus = tube(space, [(side * 60, -66, 20), (side * 66, -66, -40), (side * 74, -64, -110)], [8, 12, 14])
        crus = tube(space, [(side * 10, -32, -20), (side * 15, -30, 30), (side * 24, -24, 70)], [5, 6, 6])
        for level in (psoas, quadratus, crus):
            canvas.paint(level + 0.5 * space.ripple, muscle)
        gap = np.abs(np.hypot(space.x - side * 34, (space.y + 84) * 1.3) - 27)
        canvas.paint(np.minimum(0.8 - gap, -74 - space.y), FAT + 45)


def _draw_ribs(canvas: Canvas, trunk: np.ndarray) -> None:
    """Ribs run downwards to the front within the wall; in front and low down there are none, and before that cartilage."""
    space = canvas.space
    angle = np.arctan2(np.abs(space.x), -space.y)  # 0 at the spine, pi in front
    height = space.z + 75 * angle + canvas.generator.uniform(0, RIB_PITCH)
    across = np.abs(np.mod(height, RIB_PITCH) - RIB_PITCH / 2)
    outline = 1 - np.hypot(across / 5.8, (trunk - 5.5) / 3.6)
    reach = np.minimum(space.z - (angle - 2.0) * 55 + 18, (angle - 0.35) * 100)
    level = np.minimum(3.6 * outline, reach).astype(np.float32)
    bone = np.clip(2.75 - angle, 0, 1) * 4 > 1
    canvas.paint(level, np.where(bone, 620.0, 115.0))
    canvas.paint(np.where(bone, level - 1.4, -9), 190.0)


def _draw_spine(canvas: Canvas) -> None:
    space, phase = canvas.space, canvas.generator.uniform(0, VERTEBRA)
    height = np.abs(np.mod(space.z + phase, VERTEBRA) - VERTEBRA / 2)  # 0 in the middle of a vertebra
    waist = 2.5 * (height / (VERTEBRA / 2)) ** 2
    column = ellipsoid(space, (0, -53, 0), (22, 16.5, 600)) + waist - 1.5
    canvas.paint(column - 0.5, 88.0)
    body = np.minimum(column, VERTEBRA / 2 - DISC / 2 - height)
    canvas.paint(body, 340.0)
    texture = waves(space.axes, canvas.generator, length=(5, 9), size=18.0, count=10)
    canvas.paint(body - 1.4, canvas.vary(150, 25) + texture)
    arch = np.minimum(ellipsoid(space, (0, -79, 0), (20, 15, 600)), 12 - height)
    canvas.paint(arch, 520.0)
    canvas.paint(arch - 3, 230.0)
    spinous = np.minimum(3.8 - np.abs(space.x), np.minimum(9 - height, np.minimum(-86 - space.y, space.y + 101)))
    canvas.paint(spinous, 520.0)
    canvas.paint(spinous - 1.6, 260.0)
    beam = 4.5 - np.hypot(space.y + 74 + 0.12 * np.abs(space.x), height * 0.8)
    canvas.paint(np.minimum(beam, np.minimum(np.abs(space.x) - 14, 44 - np.abs(space.x))), 430.0)
    canal = ellipsoid(space, (0, -78, 0), (10.5, 8, 600))
    canvas.paint(canal, FAT + 50)
    canvas.paint(canal - 1.8, 38.0)


def draw_viscera(canvas: Canvas, cavity: np.ndarray) -> None:
    """Paint every organ; what comes later lies in front of or within what came before."""
    _draw_liver(canvas, cavity)
    _draw_spleen(canvas, cavity)
    _draw_stomach(canvas, cavity)
    for side in (1, -1):
        _draw_kidney(canvas, side)
    _draw_great_vessels(canvas)
    _draw_gallbladder(canvas, cavity)
    _draw_pancreas(canvas)
    for side in (1, -1):
        _draw_adrenal(canvas, side)


def _draw_liver(canvas: Canvas, cavity: np.ndarray) -> None:
    space, size = canvas.space, canvas.vary(1, 0.05)
    right = ellipsoid(space, canvas.shift((84, 6, 30)), (68 * size, 84 * size, 78 * size))
    left = ellipsoid(space, canvas.shift((4, 50, 52)), (84 * size, 36 * size, 36 * size), turn=-8)
    level = union(right, left, blend=25)
    for hollow, depth in (((28, 0, 0), (36, 34, 44)), ((58, -52, -30), (36, 38, 58)), ((-28, -30, 70), (42, 56, 70))):
        level = np.minimum(level, -ellipsoid(space, hollow, depth))
    fissure = np.abs(space.x + 4 - 0.25 * (space.y - 50)) - 2.5 + np.clip(space.z - 44, 0, None)
    level = np.minimum(level, np.maximum(fissure, 44 - space.y))
    level = np.minimum(level + 1.2 * space.ripple, cavity - 1.0).astype(np.float32)
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


def _draw_spleen(canvas: Canvas, cavity: np.ndarray) -> None:
    space, centre, size = canvas.space, canvas.shift((-98, -34, 40)), canvas.vary(1, 0.08)
    level = ellipsoid(space, centre, (38 * size, 60 * size, 57 * size), turn=-20)
    level = np.minimum(level, -ellipsoid(space, (centre[0] + 58, centre[1] + 30, 36), (44, 60, 64)))
    level = np.minimum(level + space.ripple, cavity - 1.0)
    texture = waves(space.axes, canvas.generator, length=(7, 14), size=2.5)
    canvas.paint(level, canvas.vary(122, 8) + texture, organ="spleen", halo=1.5)


def _draw_stomach(canvas: Canvas, cavity: np.ndarray) -> None:
    space, fill = canvas.space, canvas.vary(1, 0.1)
    gullet = [(-4, -14, 130), (-7, -10, 100), (-13, -4, 82), (-24, 2, 72)]
    path = [
        canvas.shift(p, 3) for p in ((-58, -14, 72), (-70, 12, 56), (-66, 40, 28), (-42, 58, 2), (-8, 58, -4), (22, 46, 10))
    ]
    level = tube(space, [gullet[-1], *path], np.array((12, 31, 33, 30, 24, 17, 12)) * fill) + 1.5 * space.ripple
    level = np.minimum(level, cavity - 2)
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


def _draw_gallbladder(canvas: Canvas, cavity: np.ndarray) -> None:
    size = canvas.vary(1, 0.12)
    points = [canvas.shift(point, 3) for point in ((52, 30, 20), (60, 44, 4), (66, 54, -16))]
    level = tube(canvas.space, points, np.array((6, 11, 15)) * size) + 0.4 * canvas.space.ripple
    level = np.minimum(level, cavity - 3)
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


LOOPS, VESSELS = 34, 60


def draw_bowel(canvas: Canvas, cavity: np.ndarray) -> None:
    """Paint vessels, loops of small bowel and the colon, in this order."""
    generator = canvas.generator
    for _ in range(VESSELS):
        root = generator.uniform((-25, -5, -80), (35, 25, 10))
        tip = root + generator.normal(size=3) * (45, 25, 25)
        bent = (root + tip) / 2 + generator.normal(size=3) * 8
        canvas.paint(np.minimum(tube(canvas.space, [root, bent, tip], [2.4, 1.8, 1.3]), cavity), canvas.vary(125, 20))
    for _ in range(LOOPS):
        start = (
            generator.uniform((-85, -5, -110), (60, 62, -15))
            if generator.random() < 0.65
            else generator.uniform((-85, 0, -60), (-45, 50, 15))
        )
        points = start + np.cumsum(np.vstack([np.zeros(3), generator.normal(size=(4, 3)) * (22, 14, 14)]), axis=0)
        _draw_gut(canvas, cavity, points, generator.uniform(9, 13), wall=2.6, content=_content(generator), air=9.0)
    _draw_colon(canvas, cavity)


def draw_duodenum(canvas: Canvas, cavity: np.ndarray) -> None:
    """The loop around the head of the pancreas."""
    points = [(30, 36, 14), (48, 22, 0), (47, 4, -24), (30, -4, -40), (4, -4, -42), (-20, 4, -30)]
    _draw_gut(canvas, cavity, [canvas.shift(point, 2) for point in points], 11, wall=2.8, content=35.0, air=9.5)


def _content(generator: np.random.Generator) -> float:
    """Hounsfield units of what a loop holds: mostly fluid, in some contrast agent that was drunk."""
    return float(generator.uniform(180, 320)) if generator.random() < 0.18 else float(generator.uniform(15, 50))


def _draw_colon(canvas: Canvas, cavity: np.ndarray) -> None:
    low = -30 + canvas.vary(0, 8)
    up = [(94, 4, -120), (98, 4, -70), (98, 14, -38)]
    across = [(104, 36, -34), (60, 66, low - 8), (0, 74, low - 14), (-55, 68, low), (-92, 40, 4), (-100, 10, 20)]
    down = [(-103, -16, 4), (-107, -26, -50), (-104, -22, -120)]
    for part, radius, air in ((up, 23.0, 14.0), (across, 20.0, -2.0), (down, 15.0, 10.0)):
        points = [canvas.shift(point, 3) for point in part]
        stool = 25 + waves(canvas.space.axes, canvas.generator, length=(6, 12), size=60.0, count=14)
        _draw_gut(canvas, cavity, points, radius, wall=3.0, content=np.minimum(stool, 75), air=air, folds=0.16)


def _draw_gut(
    canvas: Canvas,
    cavity: np.ndarray,
    points: Sequence[Sequence[float]],
    radius: float,
    *,
    wall: float,
    content: float | np.ndarray,
    air: float,
    folds: float = 0.08,
) -> None:
    """One stretch: wall, content, and above that gas, from `air` mm over its foremost point on, for a patient on the back."""
    points = np.asarray(points)
    count = 3 * len(points)
    places = np.linspace(0, len(points) - 1, count)
    middle = np.stack([np.interp(places, range(len(points)), points[:, axis]) for axis in range(3)], axis=1)
    radii = radius * (1 + folds * np.sin(np.arange(count) * 2.1 + canvas.generator.uniform(0, 6)))
    level = np.minimum(tube(canvas.space, middle, radii) + 0.6 * canvas.space.ripple, cavity - 1.5)
    canvas.paint(level, canvas.vary(85, 12), halo=2.0)
    canvas.paint(level - wall, content)
    surface = canvas.space.axes[1][None, :, None] - (middle[:, 1].max() + air)
    canvas.paint(np.minimum(level - wall, np.broadcast_to(surface, level.shape)).astype(np.float32), GAS)
