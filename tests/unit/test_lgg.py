"""Slices in the Kaggle LGG layout: found, checked, divided; and phantoms of them."""

import numpy as np
import pytest
from PIL import Image

from glioma_phantom import PhantomSettings
from glioma_phantom.slices import write_phantom_slices
from helpers.extras.lgg.cohort import (
    CHANNELS,
    check_patient,
    check_slices,
    find_slices,
    read_slice,
    split_patients,
)
from helpers.workspace import DataError
from tests.cases import REAL_CASES

REAL = REAL_CASES / "lgg"


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


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slices")
    write_phantom_slices(folder, 4, PhantomSettings(spacing=4.0, seed=3), every=24.0)
    return folder


def test_slices_are_found_in_the_order_of_the_head(tmp_path):
    write_patient(tmp_path / "kaggle_3m", "TCGA_AA_1", count=12)
    assert [each.number for each in find_slices(tmp_path)["TCGA_AA_1"]] == list(range(1, 13))


@pytest.mark.parametrize("copies", [(), ("t1",), ("t1ce",), ("t1", "t1ce")])
def test_a_copy_of_flair_is_reported_as_missing(tmp_path, copies):
    write_patient(tmp_path, "TCGA_AA_1", copies=copies)
    facts = check_patient(find_slices(tmp_path)["TCGA_AA_1"])
    assert facts.missing == copies
    assert (facts.slices, facts.with_tumour) == (3, 1)
    assert facts.tumour_share == pytest.approx(400 / (3 * 256 * 256), rel=0.05)


def test_a_damaged_slice_is_one_sentence_and_the_others_go_on(tmp_path):
    for name in ("TCGA_AA_1", "TCGA_AA_2"):
        write_patient(tmp_path, name)
    (tmp_path / "TCGA_AA_1" / "TCGA_AA_1_2.tif").write_bytes(b"no picture")
    facts, faults = check_slices(find_slices(tmp_path))
    assert list(facts) == ["TCGA_AA_2"]
    assert len(faults) == 1
    assert "TCGA_AA_1_2.tif" in faults[0]


def test_a_slice_without_mask_and_an_empty_folder_are_refused(tmp_path):
    write_patient(tmp_path / "one", "TCGA_AA_1")
    (tmp_path / "one" / "TCGA_AA_1" / "TCGA_AA_1_3_mask.tif").unlink()
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="TCGA_AA_1_3_mask"):
        find_slices(tmp_path / "one")
    with pytest.raises(DataError, match="no slice"):
        find_slices(tmp_path / "none")


def test_every_part_has_its_share_of_large_tumours(tmp_path):
    for number in range(15):
        write_patient(tmp_path, f"TCGA_AA_{number:02d}", tumour=(number + 1) ** 2, count=2)
    facts, _ = check_slices(find_slices(tmp_path))
    manifest = split_patients(facts, seed=1)
    parts = [manifest.test, *manifest.folds]
    assert sorted(sum(parts, ())) == sorted(facts)
    assert all(any(facts[name].tumour_share > 80 / 131072 for name in part) for part in parts)


def test_phantoms_come_in_the_layout_with_a_patient_who_lacks_a_contrast(phantom):
    facts, faults = check_slices(find_slices(phantom))
    assert not faults
    assert [fact.missing for fact in facts.values()] == [(), (), (), ("t1ce",)]
    assert sum(fact.with_tumour for fact in facts.values()) > 0
    image, mask = read_slice(next(iter(find_slices(phantom).values()))[2])
    assert image.shape == (3, 256, 256)
    assert mask.shape == (256, 256)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real cases for development are not on this machine")
def test_real_patients_who_lack_contrasts_are_found():
    facts, faults = check_slices(find_slices(REAL))
    assert not faults
    missing = {name[:12]: fact.missing for name, fact in facts.items()}
    assert missing["TCGA_HT_7877"] == ("t1", "t1ce")
    assert missing["TCGA_DU_6407"] == ("t1ce",)
    assert missing["TCGA_CS_4942"] == missing["TCGA_CS_4944"] == ()
