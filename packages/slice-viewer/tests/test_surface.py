"""Surfaces of masks: the right size, the right way out, and a page that needs nothing but a browser."""

import base64
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from slice_viewer.surface import draw_surfaces, surface_of, write_surfaces

X, Y, Z = np.ogrid[:40, :40, :20]
BALL = (X - 20) ** 2 + (Y - 20) ** 2 + (2 * (Z - 10)) ** 2 <= 15**2
RIGHT = np.array([[1, 0, 0, -80], [0, 1, 0, 30], [0, 0, 2, 5], [0, 0, 0, 1]], float)
LEFT = RIGHT * np.array([[-1], [1], [1], [1]])


@pytest.mark.parametrize("affine", [RIGHT, LEFT], ids=["right-handed", "left-handed"])
def test_a_ball_keeps_its_place_and_radius_and_faces_outwards(affine):
    surface = surface_of(BALL, affine, "ball", "red")
    middle = affine @ (20, 20, 10, 1)
    apart = surface.vertices - middle[:3]
    assert np.linalg.norm(apart, axis=1).mean() == pytest.approx(15, abs=0.6)
    outwards = surface.vertices[surface.faces].mean(axis=1) - middle[:3]
    assert (np.einsum("ij,ij->i", surface.normals, outwards) > 0).mean() > 0.97


def test_without_smoothing_a_cube_keeps_its_size():
    cube = np.zeros((16, 16, 16), bool)
    cube[3:13, 3:13, 3:13] = True
    vertices = surface_of(cube, np.eye(4).tolist(), "cube", "red", smooth=0).vertices
    assert np.ptp(vertices, axis=0) == pytest.approx([10, 10, 10], abs=0.01)


def test_a_speck_is_not_smoothed_away_and_nothing_at_all_has_no_surface():
    speck = np.zeros_like(BALL)
    speck[3, 4, 5] = True
    assert len(surface_of(speck, RIGHT, "speck", "red", smooth=2.0).faces) >= 8
    with pytest.raises(ValueError, match="no voxel of ET"):
        surface_of(BALL & False, RIGHT, "ET", "red")


def test_the_page_holds_every_surface_and_asks_no_server(tmp_path):
    surfaces = [surface_of(BALL, RIGHT, "<brain>", "grey", opacity=0.2), surface_of(BALL & (X > 20), RIGHT, "WT", "green")]
    page = write_surfaces(tmp_path / "new" / "page.html", surfaces, title="A & B").read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=|import ", page)
    assert "A &amp; B" in page
    scene = json.loads(re.search(r'id="scene">(.*?)</script>', page)[1])
    assert [part["name"] for part in scene] == ["WT", "<brain>"]  # what is see-through comes last
    for part, surface in zip(scene, reversed(surfaces), strict=True):
        faces = np.frombuffer(base64.b64decode(part["faces"]), np.uint32).reshape(-1, 3)
        assert np.array_equal(faces, surface.faces)
        vertices = np.frombuffer(base64.b64decode(part["vertices"]), np.int16)
        assert vertices.size == surface.vertices.size and np.abs(vertices).max() <= 32767


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_in_front_hides_what_is_behind_in_any_order(order):
    front = (X - 20) ** 2 + (Y - 32) ** 2 + (2 * Z - 20) ** 2 <= 25
    behind = (X - 20) ** 2 + (Y - 8) ** 2 + (2 * Z - 20) ** 2 <= 49
    surfaces = [surface_of(front, RIGHT, "front", "red"), surface_of(behind, RIGHT, "behind", "blue")]
    figure = plt.figure(figsize=(3, 3))
    draw_surfaces(figure.add_subplot(projection="3d"), surfaces[::order], azimuth=90, elevation=0)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())
    red, _, blue, _ = pixels[len(pixels) // 2, len(pixels) // 2]
    assert red > 150 and blue < 50
    plt.close(figure)


def test_the_still_shows_letters_only_at_its_sides():
    ax = plt.figure().add_subplot(projection="3d")
    draw_surfaces(ax, [surface_of(BALL, RIGHT, "ball", "red")], azimuth=90, elevation=0)
    assert {text.get_text() for text in ax.texts} == {"R", "L", "S", "I"}
    plt.close()
