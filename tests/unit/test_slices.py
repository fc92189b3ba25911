"""Slices in the Kaggle LGG format: found, read, checked, and told apart from the air around the patient."""

import numpy as np
import pytest
from PIL import Image

from brats_cohort.files import DataError
from helpers.data.slices import CHANNELS, check_slices, find_air, find_slices, find_tissue, read_patient
from tests.cases import REAL_CASES

REAL = REAL_CASES / "lgg"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real cases for development are not on this machine")


def write_patient(folder, name, *, tumour=400, copies=(), count=3, images=None):
    """A patient of `images`, else of noise, whose channels differ but for `copies` of FLAIR; slice 2 has a square of tumour."""
    generator = np.random.default_rng(len(name) + tumour)
    (folder / name).mkdir(parents=True)
    for number in range(1, (count if images is None else len(images)) + 1):
        noise = generator.integers(1, 255, (256, 256, 3), dtype=np.uint8)
        image = noise if images is None else np.moveaxis(images[number - 1], 0, -1).copy()
        for channel in copies:
            image[..., CHANNELS.index(channel)] = image[..., 1]
        mask = np.zeros((256, 256), np.uint8)
        edge = round(tumour**0.5) if number == 2 else 0
        mask[10 : 10 + edge, 30 : 30 + edge] = 255
        Image.fromarray(image).save(folder / name / f"{name}_{number}.tif")
        Image.fromarray(mask).save(folder / name / f"{name}_{number}_mask.tif")


def head(*, noise, seed=0):
    """Slices uint8 (2, 3, 256, 256) of a bright disc with a dark core, and where the disc is; air has noise up to a value."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:256, :256] - 128
    radius = np.hypot(rows, columns)
    images = generator.integers(0, noise + 1, (2, 3, 256, 256))
    images[..., (radius < 80) & (radius > 15)] = 0
    disc = generator.integers(110, 150, images.shape) * ((radius < 80) & (radius > 15))
    return (images + disc).astype(np.uint8), radius < 80


def test_slices_are_found_in_the_order_of_the_head_and_read_with_their_masks(tmp_path):
    write_patient(tmp_path / "kaggle_3m", "TCGA_AA_1", count=12)
    slices = find_slices(tmp_path)["TCGA_AA_1"]
    assert [each.number for each in slices] == list(range(1, 13))
    images, masks = read_patient(slices)
    assert (images.shape, images.dtype, masks.shape, masks.dtype) == ((12, 3, 256, 256), np.uint8, (12, 256, 256), bool)
    assert masks.sum((1, 2)).tolist() == [0, 400, *[0] * 10]
    picture = np.asarray(Image.open(slices[1].image))
    assert np.array_equal(np.moveaxis(picture, -1, 0), images[1])


@pytest.mark.parametrize("copies", [(), ("t1",), ("t1ce",), ("t1", "t1ce")])
def test_a_copy_of_flair_is_reported_as_missing(tmp_path, copies):
    write_patient(tmp_path, "TCGA_AA_1", copies=copies)
    facts, faults = check_slices(find_slices(tmp_path))
    fact = facts["TCGA_AA_1"]
    assert not faults
    assert (fact.missing, fact.slices, fact.with_tumour) == (copies, 3, 1)
    assert fact.tumour_share == pytest.approx(400 / (3 * 256 * 256), rel=0.05)


def damage(path):
    path.write_bytes(b"no picture")


def shrink(path):
    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:5000])


def blacken(path):
    for file in path.parent.glob("*.tif"):
        pixels = np.asarray(Image.open(file))
        Image.fromarray(np.zeros_like(pixels)).save(file)


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (damage, "TCGA_AA_2_2.tif", "TCGA_AA_2_2.tif cannot be read"),
        (truncate, "TCGA_AA_2_2.tif", "TCGA_AA_2_2.tif cannot be read"),
        (damage, "TCGA_AA_2_2_mask.tif", "TCGA_AA_2_2_mask.tif cannot be read"),
        (shrink, "TCGA_AA_2_2.tif", "100 x 100 x 3"),
        (shrink, "TCGA_AA_2_2_mask.tif", "100 x 100 x 3"),
        (lambda path: path.unlink(), "TCGA_AA_2_3_mask.tif", "TCGA_AA_2_3_mask.tif does not exist"),
        (blacken, "TCGA_AA_2_2.tif", "anything but background"),
    ],
)
def test_a_bad_file_excludes_its_patient_with_one_sentence_and_keeps_the_others(tmp_path, change, name, said):
    for patient in ("TCGA_AA_1", "TCGA_AA_2", "TCGA_AA_3"):
        write_patient(tmp_path, patient)
    change(tmp_path / "TCGA_AA_2" / name)
    facts, faults = check_slices(find_slices(tmp_path))
    assert list(facts) == ["TCGA_AA_1", "TCGA_AA_3"]
    assert len(faults) == 1
    assert said in faults[0]


def test_a_cohort_of_bad_patients_only_is_one_sentence(tmp_path):
    for patient in ("TCGA_AA_1", "TCGA_AA_2"):
        write_patient(tmp_path, patient)
        damage(tmp_path / patient / f"{patient}_2.tif")
    with pytest.raises(
        DataError, match=r"none of 2 patients can be used, for example TCGA_AA_1: TCGA_AA_1_2\.tif cannot be read"
    ):
        check_slices(find_slices(tmp_path))


@pytest.mark.parametrize(("name", "said"), [("none", "no slice"), ("absent", "does not exist")])
def test_a_folder_without_slices_is_named(tmp_path, name, said):
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=said):
        find_slices(tmp_path / name)


@pytest.mark.parametrize("noise", [0, 9])
def test_noise_in_the_air_is_no_tissue_and_fluid_is(noise):
    images, disc = head(noise=noise)
    images[:, :, 5:200:15, 5] = 90  # single bright pixels
    found = find_tissue(images, find_air(images))
    assert (found != disc).mean() < 0.002
    assert found[:, 128, 128].all()


@needs_real
def test_real_slices_have_air_that_is_not_black_and_heads_that_are_whole():
    for slices in find_slices(REAL).values():
        images, masks = read_patient(slices)
        middle = slice(len(images) // 2 - 1, len(images) // 2 + 1)
        found = find_tissue(images[middle], find_air(images))
        assert 0.25 < found.mean() < 0.6
        assert not found[:, :8, :8].any()
        assert found[masks[middle]].all()


@needs_real
def test_real_patients_who_lack_contrasts_are_found():
    facts, faults = check_slices(find_slices(REAL))
    assert not faults
    missing = {name[:12]: fact.missing for name, fact in facts.items()}
    assert missing["TCGA_HT_7877"] == ("t1", "t1ce")
    assert missing["TCGA_DU_6407"] == ("t1ce",)
    assert missing["TCGA_CS_4942"] == missing["TCGA_CS_4944"] == ()
