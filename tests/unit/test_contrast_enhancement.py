"""Enhancing tumour grows from where the network is sure over what is brighter than white matter, whatever the image's units."""

import numpy as np
import pytest
from scipy import ndimage

from brats_cohort.regions import ET, NCR
from helpers.evaluation.postprocess import PostProcessing, label_map, outline_enhancement

SHAPE = (60, 60, 60)


def ball(centre, radius):
    return np.linalg.norm(np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1)), axis=0) < radius


HEAD, ENHANCING, TUMOUR = ball((30, 30, 30), 27), ball((30, 30, 40), 6), ball((30, 30, 40), 11)
VESSEL, BLOOD = ball((30, 21, 40), 1.6), ball((30, 30, 42), 2)


def head():
    """Images of a head with an enhancing ball in oedema, a vessel beside the ball and blood inside it."""
    grey = np.sin(np.indices(SHAPE)[0] / 3.0) > 0.3
    image = np.zeros((4, *SHAPE), np.float32)
    image[:2] = np.where(grey, 0.8, 1.0)
    image[:2, ball((30, 20, 19), 11)] = 0.4  # a ventricle
    image[:2, TUMOUR] = 0.85
    image[1, ENHANCING | VESSEL] = 1.5
    image[:2, BLOOD] = 1.5
    noise = np.random.default_rng(7).normal(0, 0.02, image.shape).astype(np.float32)
    return (image + noise) * HEAD


def blurred():
    """Probabilities of a network that is sure of the tumour and of the middle of what enhances, and wide of its outline."""
    enhancing = ndimage.gaussian_filter(ball((30, 30, 40), 4.5).astype(np.float32), 2.5)
    whole = ndimage.gaussian_filter(TUMOUR.astype(np.float32), 1.0)
    return np.stack([enhancing, whole, enhancing])


def outline(probabilities, image, spacing=(1, 1, 1)):
    return outline_enhancement(probabilities, image, spacing, likely=0.05, brighter=0.25)


def overlap(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_the_outline_is_where_the_image_changes():
    probabilities = blurred()
    assert overlap(probabilities[2] >= 0.5, ENHANCING) < 0.5, "the network alone is too tight"
    grown = outline(probabilities, head())
    assert overlap(grown, ENHANCING & ~BLOOD) > 0.93
    assert not (grown & VESSEL).any(), "bright and likely, but not connected"
    assert not grown[30, 30, 42], "blood is bright before contrast agent already"


def test_what_is_sure_but_not_bright_does_not_enhance():
    image = head()
    image[1, ENHANCING & (np.indices(SHAPE)[2] > 41)] = 0.85
    grown = outline(blurred(), image)
    assert grown[:, :, 39].any() and not grown[:, :, 43:].any()


@pytest.mark.parametrize("units", ["counts", "z-scores", "one gain a modality", "no number outside the brain"])
def test_units_and_normalisation_do_not_matter(units):
    image = head()
    changed = {
        "counts": (image * 700).astype(np.int16),
        "z-scores": np.where(HEAD, (image - 0.7) / 0.2, 0),
        "one gain a modality": image * np.reshape([3, 50, 1, 1], (4, 1, 1, 1)),
        "no number outside the brain": np.where(HEAD, image, np.nan),
    }[units]
    grown = [outline(blurred(), each) for each in (image, changed)]
    assert overlap(*grown) > 0.99


def test_a_bias_field_hardly_matters():
    image = head()
    field = np.exp(0.25 * np.sin(np.indices(SHAPE)[2] / 25)).astype(np.float32)
    assert field.max() / field.min() > 1.25
    assert overlap(outline(blurred(), image * field), ENHANCING) > 0.9


def test_voxels_count_by_their_millimetres():
    every = (slice(None),) + (slice(None, None, 2),) * 3
    probabilities, image = blurred()[every], head()[every]
    grown = outline(probabilities, image, (2, 2, 2))
    assert overlap(grown, ENHANCING[every[1:]]) > 0.9


def test_growth_is_that_of_a_plain_flood(seed=11):
    random = np.random.default_rng(seed)
    image, probabilities = head(), blurred()
    speckled = 0.8 + ndimage.gaussian_filter(random.normal(0, 3, SHAPE), 1.2)
    image[1] = np.where(TUMOUR, speckled, image[1])
    likely = outline(np.where(probabilities >= 0.05, 1, 0), image)  # everything likely is sure
    certain = likely & (probabilities[2] >= 0.5)
    reached, front = set(), [tuple(voxel) for voxel in np.argwhere(certain)]
    while front:
        voxel = front.pop()
        if voxel not in reached:
            reached.add(voxel)
            around = np.argwhere(likely[tuple(slice(place - 1, place + 2) for place in voxel)]) + np.array(voxel) - 1
            front += map(tuple, around)
    grown = outline(probabilities, image)
    assert 0 < len(reached) < likely.sum(), "some pieces hold no sure voxel"
    assert set(map(tuple, np.argwhere(grown))) == reached


def test_without_white_matter_to_compare_with_the_network_decides():
    probabilities = blurred()
    for image in (np.zeros((4, *SHAPE), np.float32), np.broadcast_to(HEAD, (4, *SHAPE)).astype(np.float32)):
        grown = outline(probabilities, image)
        assert np.array_equal(grown, probabilities[2] >= 0.5)
    assert not outline(probabilities * 0.4, head()).any()


def test_the_label_map_follows_and_what_enhances_is_core():
    rule = PostProcessing(0.0, 0.0, contrast_enhancement=0.25)
    found, plain = (label_map(blurred(), head(), (1, 1, 1), each) for each in (rule, PostProcessing(0.0, 0.0)))
    assert overlap(found == ET, ENHANCING) > 0.93 > 0.5 > overlap(plain == ET, ENHANCING)
    assert np.array_equal(found > 0, plain > 0), "the whole tumour stays as it is"
    dim = head()
    dim[1] = dim[0]
    assert not (label_map(blurred(), dim, (1, 1, 1), rule) == ET).any()
    assert np.array_equal(label_map(blurred(), dim, (1, 1, 1), rule) == NCR, blurred()[0] >= 0.5)
