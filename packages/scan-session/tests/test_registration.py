"""A known movement is found again, from far away and with another contrast."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from scan_session import register
from scan_session.grid import affine_of, array_of, image_of, matrix_of, transform_of
from scan_session.registration import information


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


def test_a_small_overlap_does_not_look_like_a_better_fit():
    generator = np.random.default_rng(2)
    values = ndimage.gaussian_filter(generator.normal(size=(70, 80, 70)), 4.0) * 4000 + 600
    noisy = 1000 - values + generator.normal(0, 200, values.shape)
    affine, far = np.diag([2.5, 2.5, 2.5, 1.0]), np.diag([2.5, 2.5, 2.5, 1.0])
    far[2, 3] = 160
    fixed, moving = image_of(values.astype(np.float32), affine), image_of(noisy.astype(np.float32), far)
    mask = np.zeros(values.shape, np.uint8)
    mask[20:50, 20:60, 15:65] = 1
    mask = image_of(mask, affine)
    right = sitk.Euler3DTransform()
    right.SetTranslation([0.0, 0.0, 160.0])
    assert information(fixed, moving, sitk.Euler3DTransform(), mask) < information(fixed, moving, right, mask)


def test_a_matrix_in_ras_is_the_transform_in_lps():
    transform = sitk.Euler3DTransform()
    transform.SetRotation(0.1, 0.2, -0.3)
    transform.SetTranslation([4.0, 5.0, 6.0])
    again = transform_of(matrix_of(transform))
    assert np.allclose(again.TransformPoint((10.0, 20.0, 30.0)), transform.TransformPoint((10.0, 20.0, 30.0)))
