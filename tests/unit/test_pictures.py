"""Committed pictures are small and look the same."""

import io

import numpy as np
from PIL import Image

from glioma_phantom import PhantomSettings, make_phantom
from helpers.plots.case import show_modalities
from slice_viewer.slices import to_palette


def png_of(figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=80)
    return stream.getvalue()


def test_a_slice_with_labels_gets_smaller_and_keeps_its_colours():
    phantom = make_phantom(2, PhantomSettings(spacing=2.0))
    before = png_of(show_modalities(phantom.image, phantom.affine, classes=phantom.classes))
    after = to_palette(before)
    assert len(after) < 0.7 * len(before)
    first, second = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float) for data in (before, after))
    assert first.shape == second.shape
    assert np.abs(first - second).mean() < 3


def test_what_would_grow_stays_as_it_is():
    small = io.BytesIO()
    Image.new("1", (2, 2)).save(small, format="png", optimize=True)
    assert to_palette(small.getvalue()) == small.getvalue()
