"""Everything that holds the organs: skin and fat, muscles, ribs, spine, diaphragm, lungs, and the table below."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from helpers.extras.ct.phantom.canvas import (
    AIR,
    FAT,
    MUSCLE,
    Canvas,
)
from helpers.extras.ct.phantom.space import (
    ellipsoid,
    tube,
    union,
    waves,
)

WIDE, DEEP, ROUND = 157.0, 106.0, 2.45
"""Half width and half depth of the trunk in mm, and the exponent of its outline: 2 is an ellipse, more is squarer."""

VERTEBRA, DISC = 34.0, 8.0
"""Height of a vertebra with its disc, and of the disc, in mm."""

RIB_PITCH = 27.0


@dataclass(frozen=True, eq=False)
class Torso:
    """Levels that the organs are fitted into: the `cavity` of the abdomen, below the diaphragm, and the `lungs`."""

    cavity: np.ndarray
    lungs: np.ndarray


def draw_torso(canvas: Canvas) -> Torso:
    """Paint trunk, spine and chest, and return where there is room for organs."""
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
    return Torso(cavity, lungs)


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
