"""Slices of phantoms in the files of the Kaggle LGG data set."""

import numpy as np
from PIL import Image

from glioma_phantom import PhantomSettings
from glioma_phantom.slices import CHANNELS, EDGE, write_phantom_slices


def test_slices_lie_as_far_apart_as_asked(tmp_path):
    counts = {}
    for every in (4.0, 6.0, 8.0):  # 6 mm is one voxel and a half
        (patient,) = write_phantom_slices(tmp_path, 1, PhantomSettings(spacing=4.0, seed=3), every=every)
        counts[every] = len(list(patient.glob("*_mask.tif")))
    assert abs(counts[6.0] - counts[4.0] * 4 / 6) <= 1 and abs(counts[8.0] - counts[4.0] / 2) <= 1


def test_patients_are_folders_of_slices_with_masks_and_some_lack_a_contrast(tmp_path):
    settings = PhantomSettings(spacing=4.0, seed=3)
    patients = write_phantom_slices(tmp_path, 4, settings, every=24.0)
    for number, patient in enumerate(patients):
        images = [np.asarray(Image.open(path)) for path in sorted(patient.glob("*[0-9].tif"))]
        masks = [np.asarray(Image.open(path)) for path in sorted(patient.glob("*_mask.tif"))]
        assert patient.parent == tmp_path / "kaggle_3m" and len(images) == len(masks) >= 4
        assert {(image.shape, image.dtype.name) for image in images} == {((EDGE, EDGE, len(CHANNELS)), "uint8")}
        assert set(np.unique(masks)) == {0, 255}
        assert all(np.array_equal(image[..., 1], image[..., 2]) for image in images) == (number == 3)
    written = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.tif"))]
    assert write_phantom_slices(tmp_path, 4, settings, every=24.0) == patients
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.tif"))] == written
