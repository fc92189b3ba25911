"""The bias field: what a coil adds is found and taken out, what tissue and tumour show is left."""

from __future__ import annotations

import numpy as np
import pytest

from brats_cohort.regions import ED, MODALITIES
from glioma_phantom import PhantomSettings, make_phantom
from helpers.data.preprocess import PreprocessSettings, correct_bias, preprocess_image

SPACING = 4.0


@pytest.fixture(scope="module")
def phantoms():
    return [make_phantom(index, PhantomSettings(spacing=SPACING)) for index in range(8)]


@pytest.fixture(scope="module")
def phantom(phantoms):
    return phantoms[3]


def coil(shape, strength):
    """A field that is brighter by `strength` (of the logarithm) towards one corner, in a curve."""
    axes = np.meshgrid(*[np.linspace(-1, 1, length) for length in shape], indexing="ij")
    distance = sum((axis - corner) ** 2 for axis, corner in zip(axes, (0.9, 0.6, -0.4), strict=True))
    return np.exp(strength * np.exp(-distance / 3)).astype(np.float32)


def corrected(volume, spacing=SPACING):
    result = volume.astype(np.float32)
    field = correct_bias(result, (spacing,) * 3)
    return result, field


def spread(ratio):
    """Relative standard deviation of what should be the same everywhere."""
    return float(ratio.std() / ratio.mean())


@pytest.mark.parametrize(("modality", "left"), [("t1", 0.35), ("t1ce", 0.25), ("t2", 0.7), ("flair", 0.25)])
def test_most_of_a_field_that_is_laid_over_an_image_is_taken_out_again(phantoms, modality, left):
    """The median of eight, since uneven tissue can hide a field; from T2 least of it, whose histogram has no narrow peaks."""
    remaining = []
    for phantom in phantoms:
        volume = phantom.image[MODALITIES.index(modality)].astype(np.float32)
        brain, added = volume > 0, coil(volume.shape, 0.8)
        assert spread(added[brain]) > 0.1
        plain, _ = corrected(volume)
        shaded, _ = corrected(volume * added)
        remaining.append(spread((shaded / np.where(brain, plain, 1))[brain]) / spread(added[brain]))
    assert np.median(remaining) < left


def test_oedema_keeps_its_contrast(phantom):
    volume = phantom.image[MODALITIES.index("flair")].astype(np.float32)
    after, _ = corrected(volume)

    def contrast(image):
        healthy = image[(image > 0) & (phantom.classes == 0)]
        return (image[phantom.classes == ED].mean() - healthy.mean()) / healthy.std()

    assert contrast(after) > 0.9 * contrast(volume)


def test_the_field_times_the_result_is_the_image_and_air_stays_zero(phantom):
    volume = phantom.image[0].astype(np.float32)
    after, field = corrected(volume)
    assert (field > 0).all()
    assert (after[volume == 0] == 0).all()
    np.testing.assert_allclose(after * field, volume, rtol=1e-5)


def test_the_unit_of_intensity_does_not_matter(phantom):
    volume = phantom.image[1].astype(np.float32)
    (once, _), (thousandfold, _) = corrected(volume), corrected(volume * 1000)
    brain = volume > 0
    assert spread(thousandfold[brain] / once[brain]) < 1e-3


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (9, 5, 7)])
@pytest.mark.parametrize("value", [0.0, 5.0, -1.0])
def test_an_image_without_contrast_is_left_as_it_is(shape, value):
    volume = np.full(shape, value, dtype=np.float32)
    after, field = corrected(volume, 1.0)
    np.testing.assert_array_equal(after, volume)
    np.testing.assert_array_equal(field, np.ones(shape))


def test_preparation_gives_nearly_the_same_image_under_any_field_where_it_is_asked_to(phantom):
    shaded = phantom.image * coil(phantom.classes.shape, 0.8)
    brain = phantom.image[0] > 0
    moved = {}
    for wanted in (False, True):
        settings = PreprocessSettings((SPACING,) * 3, correct_bias=wanted)
        plain, other = (
            preprocess_image(each, phantom.affine, settings).image.astype(np.float32) for each in (phantom.image, shaded)
        )
        moved[wanted] = np.abs(plain - other).sum() / brain.sum()
    assert moved[True] < 0.25 * moved[False]
