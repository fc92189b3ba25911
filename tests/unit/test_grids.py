"""Resampling is fast because it skips what is empty and follows the memory: none of that may change a result."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from brats_cohort.regions import classes_to_regions, regions_to_classes
from glioma_phantom import PhantomSettings, make_phantom
from helpers.data.preprocess import PreprocessSettings, preprocess_image, to_native
from helpers.data.resample import (
    EXACT,
    ras_grid,
    regrid,
    regrid_classes,
)


def plain_linear(array, affine, *, to_shape, to_affine):
    """One dense matrix of triangle weights for each axis, over everything."""
    transform = np.linalg.inv(affine) @ to_affine
    source = np.abs(transform[:3, :3]).argmax(0)
    result = array.astype(np.float64).transpose(source)
    for axis in range(3):
        step, length = transform[source[axis], axis], result.shape[axis]
        positions = step * np.arange(to_shape[axis]) + transform[source[axis], 3]
        width = max(abs(step), 1.0)
        reach = 0.5 + (width - 1) / 2 + EXACT
        weights = np.clip(1 - np.abs(np.arange(length) - np.clip(positions, 0, length - 1)[:, None]) / width, 0, None)
        weights /= weights.sum(1, keepdims=True)
        weights *= ((positions > -reach) & (positions < length - 1 + reach))[:, None]
        result = np.moveaxis(np.tensordot(weights, result, (1, axis)), 0, axis)
    return result


@st.composite
def grids(draw):
    """A volume's shape, its affine with axes in any order and direction, and the grid that it is to be taken to."""
    shape = [draw(st.integers(3, 14)) for _ in range(3)]
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    affine = np.eye(4)
    affine[:3, :3] = np.diag(generator.choice([-1, 1], 3) * generator.uniform(0.6, 2.5, 3))[:, generator.permutation(3)]
    affine[:3, 3] = generator.normal(size=3) * 20
    to_shape, to_affine = ras_grid(shape, affine, generator.uniform(0.6, 4, 3))
    if draw(st.booleans()):  # a larger grid, as on the way back to the native one
        to_affine[:3, 3] -= to_affine[:3, :3] @ [3, 2, 4]
        to_shape = tuple(length + 7 for length in to_shape)
    return shape, affine, {"to_shape": to_shape, "to_affine": to_affine}, generator


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(grids(), st.booleans())
def test_linear_resampling_equals_the_plain_formula_in_any_memory_order(case, fortran):
    shape, affine, target, generator = case
    volume = generator.normal(size=shape).astype(np.float32)
    found = regrid(np.asfortranarray(volume) if fortran else volume, affine, **target, mode="linear")
    assert found.shape == tuple(target["to_shape"])
    assert np.allclose(found, plain_linear(volume, affine, **target), atol=1e-4)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(grids())
def test_label_maps_are_resampled_as_if_nothing_were_skipped(case):
    shape, affine, target, generator = case
    classes = np.zeros(shape, np.uint8)
    low = [generator.integers(0, length) for length in shape]
    part = tuple(slice(a, generator.integers(a, length) + 1) for a, length in zip(low, shape, strict=True))
    classes[part] = generator.integers(0, 4, classes[part].shape)
    found = regrid_classes(classes, affine, **target)
    if np.abs(np.linalg.inv(affine) @ target["to_affine"])[:3, :3].max() < 1 + EXACT:
        expected = regrid(classes, affine, **target)
    else:
        regions = classes_to_regions(classes).astype(np.float32)
        expected = regions_to_classes(regrid(regions, affine, **target, mode="overlap") >= 0.5 - EXACT)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("spacing", [4.0, 6.0])
def test_a_case_comes_back_where_it_was(spacing):
    phantom = make_phantom(1, PhantomSettings(spacing=4.0))
    prepared = preprocess_image(phantom.image, phantom.affine, PreprocessSettings(spacing), classes=phantom.classes)
    back = to_native(classes_to_regions(prepared.classes).astype(np.float32), prepared, mode="linear")
    assert ((back[1] >= 0.5) == (phantom.classes > 0)).mean() > 0.97
