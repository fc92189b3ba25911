"""The digital glioma phantom: the same case however it is made, and anatomy that a reader of BraTS expects."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from glioma_phantom import PhantomSettings, draw_random_phantom, make_phantom, write_cohort, write_phantom
from glioma_phantom.abdomen import CtPhantomSettings
from glioma_phantom.contrast import MODALITIES
from glioma_phantom.files import claim_folder
from glioma_phantom.measure import measure, reference_statistics
from glioma_phantom.tumour import ET

COARSE = PhantomSettings(spacing=4.0)
MEDIUM = PhantomSettings(spacing=2.0)


@pytest.fixture(scope="module")
def phantoms():
    return [make_phantom(index, COARSE) for index in range(8)]


@pytest.fixture(scope="module")
def finer_phantoms():
    return [make_phantom(index, MEDIUM) for index in range(10)]


@pytest.fixture(scope="module")
def facts(finer_phantoms):
    return [measure(phantom.image, phantom.classes, (2.0, 2.0, 2.0)) for phantom in finer_phantoms]


def same(folder, phantom):
    """Whether the files of a case hold a phantom, in BraTS's numbers."""
    files = [nib.load(folder / f"{folder.name}_{name}.nii.gz") for name in (*MODALITIES, "seg")]
    volumes = [np.asarray(file.dataobj) for file in files]
    labels = np.where(phantom.classes == ET, 4, phantom.classes)
    assert all(np.allclose(file.affine, phantom.affine) for file in files)
    return np.array_equal(volumes[:4], phantom.image) and np.array_equal(volumes[4], labels)


def test_the_same_case_alone_and_in_a_cohort(tmp_path, phantoms):
    folder = write_cohort(tmp_path, 3, COARSE, workers=0, progress=False)[2]
    assert same(folder, phantoms[2])


def test_the_number_of_threads_changes_nothing(phantoms):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        image = make_phantom(5, COARSE).image
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(image, phantoms[5].image)


def test_other_indices_and_seeds_give_other_cases(phantoms):
    cases = [*phantoms[:2], make_phantom(0, PhantomSettings(spacing=4.0, seed=7))]
    for first, second in ((0, 1), (0, 2)):
        assert not np.array_equal(cases[first].classes, cases[second].classes)


def test_anatomy_and_tumour_are_the_same_at_every_spacing(phantoms, finer_phantoms):
    fine, coarse = finer_phantoms[3], phantoms[3]
    centres = []
    for phantom in (fine, coarse):
        centre = ndimage.center_of_mass(phantom.classes > 0)
        centres.append(phantom.affine @ [*centre, 1])
    assert np.linalg.norm(centres[0] - centres[1]) < 4.0
    volumes = [(p.classes > 0).sum() * s**3 for p, s in ((fine, 2), (coarse, 4))]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.2)


def test_full_size_grid_type_and_orientation_are_those_of_brats():
    phantom = make_phantom(0)
    assert phantom.image.shape == (4, 240, 240, 155)
    assert phantom.image.dtype == np.int16
    assert nib.aff2axcodes(phantom.affine) == ("L", "P", "S")
    assert phantom.affine.tolist() == [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_tumours_lie_inside_the_brain_and_backgrounds_are_zero(phantoms):
    for phantom in phantoms:
        brain = (phantom.image > 0).all(axis=0)
        assert np.array_equal(brain, (phantom.image > 0).any(axis=0))
        assert not (phantom.classes[~brain] > 0).any()
        assert ndimage.label(brain)[0].max() == 1 or (ndimage.label(brain)[0] > 1).sum() < 0.002 * brain.sum()


def test_brain_and_tumour_volumes_are_those_of_adults_with_gliomas(phantoms):
    brains = [(p.image[0] > 0).sum() * 64 / 1000 for p in phantoms]
    tumours = [(p.classes > 0).sum() * 64 / 1000 for p in phantoms]
    assert min(brains) > 1000
    assert max(brains) < 1800
    assert min(tumours) > 0.5
    assert max(tumours) < 400


def test_tumours_with_and_without_enhancement_occur(phantoms):
    enhancing = [bool((phantom.classes == ET).any()) for phantom in phantoms]
    assert any(enhancing)
    assert not all(enhancing)


def test_contrasts_agree_with_the_real_examinations(facts):
    real = reference_statistics()
    for name in ("t1_GM", "t1_ED", "t1ce_ET", "t2_GM", "t2_ED", "t2_CSF", "flair_GM", "flair_ED", "flair_NCR"):
        values = [fact[name] for fact in facts if np.isfinite(fact[name])]
        assert min(values) <= real[name].median() <= max(values), name


def test_tissues_vary_as_in_the_real_examinations(facts):
    real = reference_statistics()
    for name in ("t1_WM_sd", "t1ce_ET_sd", "t2_CSF_sd", "t2_ED_sd", "flair_WM_sd", "flair_GM_sd", "flair_ED_sd"):
        values = [fact[name] for fact in facts if np.isfinite(fact[name])]
        assert min(values) <= real[name].median() <= max(values), name


def test_contrast_agent_brightens_enhancing_tumour_and_fluid_is_dark_on_t1_and_bright_on_t2(facts):
    for fact in facts:
        if fact["ET_ml"] > 1:
            assert fact["t1ce_ET"] > 1.05
            assert fact["t1ce_ET"] > 1.1 * fact["t1_ET"]
        assert fact["t1_CSF"] < 1 < fact["t2_CSF"]


def test_a_cohort_is_continued_and_other_settings_are_refused(tmp_path):
    folders = write_cohort(tmp_path, 2, COARSE, workers=0, progress=False)
    times = [path.stat().st_mtime_ns for folder in folders for path in sorted(folder.iterdir())]
    more = write_cohort(tmp_path, 3, COARSE, workers=0, progress=False)
    assert [folder.name for folder in more] == ["Phantom_00000", "Phantom_00001", "Phantom_00002"]
    assert times == [path.stat().st_mtime_ns for folder in more[:2] for path in sorted(folder.iterdir())]
    assert not list(tmp_path.glob(".unfinished*"))
    with pytest.raises(ValueError, match="holds phantoms made with"):
        write_cohort(tmp_path, 2, PhantomSettings(spacing=4.0, seed=1), workers=0, progress=False)


def test_a_phantom_is_not_taken_for_one_of_other_settings(tmp_path):
    written = write_phantom(tmp_path, 0, settings=COARSE)
    before = {path.name: path.stat().st_mtime_ns for path in written.iterdir()}
    with pytest.raises(ValueError, match="holds phantoms made with"):
        write_phantom(tmp_path, 0, settings=PhantomSettings(spacing=4.0, seed=1))
    assert write_cohort(tmp_path, 1, COARSE, workers=0, progress=False) == [written]
    assert {path.name: path.stat().st_mtime_ns for path in written.iterdir()} == before


def test_a_cohort_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="a cohort cannot have -3 cases"):
        write_cohort(tmp_path / "cohort", -3, COARSE)
    assert not (tmp_path / "cohort").exists()
    manifest = tmp_path / "phantom.json"
    manifest.write_text("not json")
    with pytest.raises(ValueError, match=r"phantom\.json is damaged \(.*\); choose another folder or remove that one"):
        write_cohort(tmp_path, 1, COARSE)
    with pytest.raises(ValueError, match=r"phantom\.json is a file; give the name of a folder"):
        write_cohort(manifest, 1, COARSE)


def test_threads_can_claim_a_folder_together(tmp_path, monkeypatch):
    both, write = threading.Barrier(2), Path.write_text

    def write_together(path, *arguments, **options):
        both.wait(10)
        written = write(path, *arguments, **options)
        both.wait(10)  # now the one moves what the other wrote, if they share it
        return written

    monkeypatch.setattr(Path, "write_text", write_together)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(partial(claim_folder, tmp_path / "phantom.json"), [{"seed": 1}] * 2))
    assert [path.name for path in tmp_path.iterdir()] == ["phantom.json"]


def test_the_command_says_in_a_sentence_that_it_cannot_write(tmp_path):
    (tmp_path / "file").touch()
    words = [sys.executable, "-m", "glioma_phantom", str(tmp_path / "file" / "cohort"), "--count", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Not a directory" in done.stderr and "Traceback" not in done.stderr


def test_a_seed_is_checked_before_a_folder_is_claimed():
    settings = PhantomSettings(spacing=np.float32(2), seed=np.int64(3))
    assert (type(settings.spacing), type(settings.seed)) == (float, int)  # as JSON takes them
    for settings in (PhantomSettings, CtPhantomSettings):
        with pytest.raises(ValueError, match="seed must be 0 or more, not -1"):
            settings(seed=-1)


def test_workers_make_the_cases_that_one_process_makes(tmp_path, phantoms):
    folders = write_cohort(tmp_path, 2, COARSE, workers=2, progress=False)
    assert all(same(folder, phantom) for folder, phantom in zip(folders, phantoms, strict=False))


def test_an_impossible_spacing_is_refused():
    for make in (PhantomSettings, partial(draw_random_phantom, 0, 0)):
        with pytest.raises(ValueError, match="1, 2 or 4 mm, not 3"):
            make(spacing=3.0)
