"""Colon, small bowel and the vessels between them: no label, but what a network must not take for an organ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from helpers.extras.ct.phantom.canvas import GAS, Canvas
from helpers.extras.ct.phantom.space import tube, waves
from helpers.extras.ct.phantom.torso import Torso

LOOPS, VESSELS = 34, 60


def draw_bowel(canvas: Canvas, torso: Torso) -> None:
    """Paint vessels, loops of small bowel and the colon, in this order."""
    generator = canvas.generator
    for _ in range(VESSELS):
        root = generator.uniform((-25, -5, -80), (35, 25, 10))
        tip = root + generator.normal(size=3) * (45, 25, 25)
        bent = (root + tip) / 2 + generator.normal(size=3) * 8
        canvas.paint(np.minimum(tube(canvas.space, [root, bent, tip], [2.4, 1.8, 1.3]), torso.cavity), canvas.vary(125, 20))
    for _ in range(LOOPS):
        start = (
            generator.uniform((-85, -5, -110), (60, 62, -15))
            if generator.random() < 0.65
            else generator.uniform((-85, 0, -60), (-45, 50, 15))
        )
        points = start + np.cumsum(np.vstack([np.zeros(3), generator.normal(size=(4, 3)) * (22, 14, 14)]), axis=0)
        _draw_gut(canvas, torso, points, generator.uniform(9, 13), wall=2.6, content=_content(generator), air=9.0)
    _draw_colon(canvas, torso)


def draw_duodenum(canvas: Canvas, torso: Torso) -> None:
    """The loop around the head of the pancreas."""
    points = [(30, 36, 14), (48, 22, 0), (47, 4, -24), (30, -4, -40), (4, -4, -42), (-20, 4, -30)]
    _draw_gut(canvas, torso, [canvas.shift(point, 2) for point in points], 11, wall=2.8, content=35.0, air=9.5)


def _content(generator: np.random.Generator) -> float:
    """Hounsfield units of what a loop holds: mostly fluid, in some contrast agent that was drunk."""
    return float(generator.uniform(180, 320)) if generator.random() < 0.18 else float(generator.uniform(15, 50))


def _draw_colon(canvas: Canvas, torso: Torso) -> None:
    low = -30 + canvas.vary(0, 8)
    up = [(94, 4, -120), (98, 4, -70), (98, 14, -38)]
    across = [(104, 36, -34), (60, 66, low - 8), (0, 74, low - 14), (-55, 68, low), (-92, 40, 4), (-100, 10, 20)]
    down = [(-103, -16, 4), (-107, -26, -50), (-104, -22, -120)]
    for part, radius, air in ((up, 23.0, 14.0), (across, 20.0, -2.0), (down, 15.0, 10.0)):
        points = [canvas.shift(point, 3) for point in part]
        stool = 25 + waves(canvas.space.axes, canvas.generator, length=(6, 12), size=60.0, count=14)
        _draw_gut(canvas, torso, points, radius, wall=3.0, content=np.minimum(stool, 75), air=air, folds=0.16)


def _draw_gut(
    canvas: Canvas,
    torso: Torso,
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
    level = np.minimum(tube(canvas.space, middle, radii) + 0.6 * canvas.space.ripple, torso.cavity - 1.5)
    canvas.paint(level, canvas.vary(85, 12), halo=2.0)
    canvas.paint(level - wall, content)
    surface = canvas.space.axes[1][None, :, None] - (middle[:, 1].max() + air)
    canvas.paint(np.minimum(level - wall, np.broadcast_to(surface, level.shape)).astype(np.float32), GAS)
