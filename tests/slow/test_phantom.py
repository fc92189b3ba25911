"""The digital glioma phantom in worker processes."""

import numpy as np

from helpers.data.cases import read_classes, read_image
from helpers.data.phantom import PhantomSettings, make_phantom, write_cohort

COARSE = PhantomSettings(spacing=4.0)


def test_workers_make_the_cases_that_one_process_makes(tmp_path):
    cohort = write_cohort(tmp_path, 4, COARSE, workers=2, progress=False)
    assert [case.identifier for case in cohort] == [f"Phantom_{index:05d}" for index in range(4)]
    for index in (0, 2):
        alone, (image, affine) = make_phantom(index, COARSE), read_image(cohort[index])
        assert np.array_equal(image, alone.image)
        assert np.array_equal(read_classes(cohort[index])[0], alone.classes)
        assert np.allclose(affine, alone.affine)
