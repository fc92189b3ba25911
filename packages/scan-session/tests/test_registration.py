"""A known movement is found again, from far away and with another contrast."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from scan_session import register
from scan_session.grid import affine_of, array_of, image_of, matrix_of, transform_of


@pytest.fixture(scope="module")
def head() -> sitk.Image:
    """A lopsided head of 5 mm: a bright rim, grey and dark lumps inside."""
    generator = np.random.default_rng(1)
    lumps = ndimage.gaussian_filter(generator.normal(size=(38, 44, 36)), 2.4)
    x, y, z = np.indices(lumps.shape) - np.reshape([18.5, 21.5, 17.5], (3, 1, 1, 1))
    radius = np.sqrt((x / 15) ** 2 + (y / 18) ** 2 + ((z + 0.15 * y) / 14) ** 2)
    values = np.where(radius < 0.85, 300 + 4000 * lumps, np.where(radius < 1, 800, 0)).clip(0, 2000)
    return image_of(values.astype(np.float32), np.diag([5.0, 5.0, 5.0, 1.0]))


def test_a_movement_is_found_again_from_far_away(head):
    moved = sitk.Euler3DTransform()
    moved.SetRotation(*np.deg2rad((12, -8, 20)).tolist())
    moved.SetTranslation([30.0, -25.0, 40.0])
    other = image_of(1000 - array_of(head) * (array_of(head) > 0), matrix_of(moved) @ affine_of(head))
    found = register(head, other)
    points = np.argwhere(array_of(head) > 0)[::100] * [5.0, 5.0, 5.0] * [-1, -1, 1]
    errors = [np.linalg.norm(np.subtract(found.transform.TransformPoint(p), moved.TransformPoint(p))) for p in points.tolist()]
    assert np.mean(errors) < 1.5
    assert found.information_after > 0.5


def test_a_matrix_in_ras_is_the_transform_in_lps():
    transform = sitk.Euler3DTransform()
    transform.SetRotation(0.1, 0.2, -0.3)
    transform.SetTranslation([4.0, 5.0, 6.0])
    again = transform_of(matrix_of(transform))
    assert np.allclose(again.TransformPoint((10.0, 20.0, 30.0)), transform.TransformPoint((10.0, 20.0, 30.0)))
