"""The abdomen: organs where and as bright as they are in patients, and files as BTCV has them."""

import json

import nibabel as nib
import numpy as np
import pytest

from glioma_phantom.abdomen import ORGANS, CtPhantomSettings, make_ct_phantom, write_ct_phantoms

COARSE = CtPhantomSettings(spacing=(5, 5, 6), seed=7)
NUMBERS = {name: number for number, name in enumerate(ORGANS, start=1)}


@pytest.fixture(scope="module")
def phantom():
    return make_ct_phantom(1, COARSE)


def test_phantom_has_all_organs_with_plausible_attenuation_and_size(phantom):
    voxel = np.prod(COARSE.spacing) / 1000
    ml = {organ: np.count_nonzero(phantom.labels == number) * voxel for organ, number in NUMBERS.items()}
    assert min(ml.values()) > 0
    assert 700 < ml["liver"] < 2200
    assert 60 < ml["spleen"] < 400
    assert ml["left adrenal gland"] < ml["pancreas"] < ml["liver"]
    median = {organ: np.median(phantom.image[phantom.labels == number]) for organ, number in NUMBERS.items()}
    assert 70 < median["liver"] < 150
    assert median["gallbladder"] < 60 < median["aorta"]
    assert phantom.image.min() < -900
    assert phantom.image.max() > 250


def test_phantom_lies_as_a_patient_does(phantom):
    def centre(organ):
        voxels = np.argwhere(phantom.labels == NUMBERS[organ]).mean(0)
        return nib.affines.apply_affine(phantom.affine, voxels)

    assert nib.aff2axcodes(phantom.affine) == ("R", "A", "S")
    assert centre("liver")[0] > 0 > centre("spleen")[0]  # RAS: x grows to the patient's right side
    assert centre("right kidney")[0] > centre("inferior vena cava")[0] > centre("aorta")[0] > centre("left kidney")[0]
    assert centre("stomach")[1] > centre("left kidney")[1]
    assert centre("right adrenal gland")[2] > centre("right kidney")[2]


def test_phantoms_repeat_themselves_and_differ_from_each_other(phantom):
    again, other = make_ct_phantom(1, COARSE), make_ct_phantom(2, COARSE)
    assert np.array_equal(phantom.image, again.image)
    assert np.mean(phantom.labels != other.labels) > 0.02


def test_scans_are_files_of_btcv_and_are_kept(tmp_path, phantom):
    assert write_ct_phantoms(tmp_path, 2, COARSE, workers=0) == tmp_path
    listed = json.loads((tmp_path / "dataset.json").read_text())
    assert list(listed["labels"].values()) == ["background", *ORGANS] and len(listed["training"]) == 2
    image, label = (nib.load(tmp_path / listed["training"][0][name]) for name in ("image", "label"))
    assert np.array_equal(image.dataobj, phantom.image) and np.array_equal(label.dataobj, phantom.labels)
    assert np.allclose(image.affine, phantom.affine)
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.nii.gz"))]
    write_ct_phantoms(tmp_path, 2, COARSE, workers=0)
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.nii.gz"))] == times
    with pytest.raises(ValueError, match="holds phantoms made with"):
        write_ct_phantoms(tmp_path, 2, CtPhantomSettings(spacing=(6, 6, 6)), workers=0)


@pytest.mark.parametrize("spacing", [2.0, (1.0, 1.0), (0.2, 1, 1), (1, 1, 20)])
def test_impossible_voxels_are_refused(spacing):
    with pytest.raises(ValueError, match="three voxel edges"):
        CtPhantomSettings(spacing=spacing)
