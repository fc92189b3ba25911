"""Preparation: nothing is lost on the way to the prepared grid and back, and a prepared file holds what was prepared."""

from __future__ import annotations

import itertools
import multiprocessing
import operator
import pickle

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import NormalizeIntensity, Orientation
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import ndimage

from brats_cohort.cases import discover
from brats_cohort.files import DataError
from brats_cohort.regions import classes_to_regions, regions_to_classes
from brats_cohort.testing import LPS, case_arrays, write_case
from helpers.cli import main
from helpers.data.prepared import PreparedFile, prepared_path, save_prepared
from helpers.data.preprocess import (
    PreprocessSettings,
    prepare_cohort,
    preprocess_case,
    preprocess_image,
    to_native,
)
from helpers.data.resample import ras_grid, regrid, regrid_classes
from tests.cases import REAL_CASES

ORIENTATIONS = [
    (*permutation, *flips) for permutation in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)
]
"""All 48 ways in which the axes of a file can run."""


def affine_of(orientation, spacing=(1, 1, 1), angle=0.0, origin=(-90, 120, 30)):
    """Affine of a file whose axes run as `orientation` says, turned by `angle` about an oblique axis."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis in range(3):
        affine[orientation[axis], axis] = orientation[3 + axis] * spacing[axis]
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = origin
    return affine


def millimetres(mask, affine):
    """Centre of mass of a mask in the patient's space."""
    return nib.affines.apply_affine(affine, np.argwhere(mask).mean(0))


@settings(max_examples=60, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    spacing=st.tuples(*[st.sampled_from([0.5, 0.9375, 1.0, 3.0])] * 3),
    angle=st.sampled_from([0.0, 0.1, 0.5]),
    margin=st.integers(0, 30),
    borders=st.tuples(*[st.integers(0, 6)] * 6),
)
def test_native_spacing_loses_nothing(orientation, spacing, angle, margin, borders):
    """At native spacing, every voxel comes back bit for bit, whatever the orientation, spacing, angle and crop."""
    image, classes = case_arrays((14, 11, 9))
    pad = np.array(borders).reshape(3, 2)
    image, classes = np.pad(image, [(0, 0), *pad]), np.pad(classes, pad)
    affine = affine_of(orientation, spacing, angle)
    wanted = np.abs(affine_of(orientation, spacing)[:3, :3]).max(1)
    prepared = preprocess_image(image, affine, PreprocessSettings(wanted, margin=margin), classes=classes)
    assert nib.aff2axcodes(prepared.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(to_native(prepared.classes, prepared), classes)
    np.testing.assert_array_equal(to_native(prepared.image, prepared, mode="linear") != 0, image != 0)
    for mode in ("nearest", "linear"):
        np.testing.assert_array_equal(to_native(prepared.classes == 3, prepared, mode=mode), classes == 3)
    np.testing.assert_allclose(
        millimetres(prepared.classes == 3, prepared.affine), millimetres(classes == 3, affine), atol=1e-3
    )


@settings(max_examples=25, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    spacing=st.tuples(*[st.sampled_from([1.0, 1.2, 3.0, 5.0])] * 3),
    angle=st.sampled_from([0.0, 0.3]),
)
def test_finer_grid_and_back_loses_nothing(orientation, spacing, angle):
    """Labels taken to smaller voxels by nearest neighbour come back unchanged, thick slices and oblique volumes included."""
    image, classes = case_arrays((12, 10, 8))
    prepared = preprocess_image(image, affine_of(orientation, spacing, angle), classes=classes)
    np.testing.assert_allclose(nib.affines.voxel_sizes(prepared.affine), 1)
    np.testing.assert_array_equal(to_native(prepared.classes, prepared), classes)


@pytest.mark.parametrize("spacing", [2.0, 1.5, 3.0, 2.7])
@pytest.mark.parametrize("orientation", [(0, 1, 2, -1, -1, 1), (2, 0, 1, 1, -1, 1)])
@pytest.mark.parametrize("shape", [(60, 64, 56), (61, 63, 57)])
def test_coarser_grid_keeps_shape_and_place(spacing, orientation, shape):
    """A blob survives 1 mm -> coarser -> 1 mm with a high Dice and stays where it was."""
    image, classes = case_arrays(shape)
    affine = affine_of(orientation)
    prepared = preprocess_image(image, affine, PreprocessSettings(spacing), classes=classes)
    assert set(np.unique(prepared.classes)) == {0, 1, 2, 3}
    whole = classes > 0
    probabilities = to_native((prepared.classes > 0).astype(np.float32), prepared, mode="linear")
    # At 1.5 mm every third native voxel lies halfway between two others, and "nearest" must take one of them.
    for back, tolerance in ((to_native(prepared.classes, prepared) > 0, 0.4), (probabilities >= 0.5, 0.25)):
        assert back.shape == classes.shape
        assert 2 * (back & whole).sum() / (back.sum() + whole.sum()) > (0.94 if spacing <= 2 else 0.9)
        np.testing.assert_allclose(millimetres(back, affine), millimetres(whole, affine), atol=tolerance)
    np.testing.assert_allclose(millimetres(prepared.classes > 0, prepared.affine), millimetres(whole, affine), atol=0.25)


@pytest.mark.parametrize(("spacing", "finer", "block"), [(2.0, 1, 2), (1.5, 2, 3), (2.5, 2, 5)])
def test_a_larger_voxel_belongs_to_a_region_that_fills_half_of_it(spacing, finer, block):
    """Counted by hand, in voxels so small that they divide both grids."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(30, 30, 30)), 1.0)
    classes = np.digitize(noise, np.quantile(noise, (0.7, 0.8, 0.9))).astype(np.uint8)
    shape, affine = ras_grid(classes.shape, np.eye(4), (spacing,) * 3)
    small = classes_to_regions(classes).repeat(finer, 1).repeat(finer, 2).repeat(finer, 3)
    shares = small.reshape(3, shape[0], block, shape[1], block, shape[2], block).mean((2, 4, 6))
    found = regrid_classes(classes, np.eye(4), to_shape=shape, to_affine=affine)
    np.testing.assert_array_equal(found, regions_to_classes(shares >= 0.5 - 1e-3))


def test_a_small_lesion_keeps_its_volume_on_a_coarser_grid():
    kept = []
    for shift in np.random.default_rng(1).uniform(-1, 1, (8, 3)):
        ball = np.linalg.norm(np.indices((20, 20, 20)) - np.reshape(10 + shift, (3, 1, 1, 1)), axis=0) < 3
        shape, affine = ras_grid(ball.shape, np.eye(4), (2.0,) * 3)
        found = regrid_classes(ball * np.uint8(3), np.eye(4), to_shape=shape, to_affine=affine)
        kept.append(8 * (found > 0).sum() / ball.sum())
    assert np.mean(kept) == pytest.approx(1, abs=0.1), "of 113 cubic millimetres"


def test_regrid_agrees_with_scipy():
    """Linear and nearest resampling towards smaller voxels against scipy.ndimage, inside the volume."""
    volume = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    matrix = np.diag([0.6, 0.8, 1.0, 1.0])
    matrix[:3, 3] = (0.31, 0.72, 1.0)
    shape = (12, 8, 6)
    for mode, order in (("linear", 1), ("nearest", 0)):
        found = regrid(volume, LPS, to_shape=shape, to_affine=LPS @ matrix, mode=mode)
        wanted = ndimage.affine_transform(volume, matrix[:3, :3], matrix[:3, 3], output_shape=shape, order=order)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_averaging_removes_what_a_coarse_grid_cannot_show():
    """A chequerboard finer than the new voxels becomes its mean, not a false pattern; a ramp stays a ramp."""
    x = np.arange(40)
    pattern = np.broadcast_to(((x[:, None, None] + x[None, :, None]) % 2).astype(np.float32), (40, 40, 40))
    grid = {"to_shape": (16, 16, 16), "to_affine": np.array([[2.0, 0, 0, 4.5], [0, 2, 0, 4.5], [0, 0, 2, 4.5], [0, 0, 0, 1]])}
    np.testing.assert_allclose(regrid(pattern, np.eye(4), **grid, mode="linear"), 0.5, atol=1e-6)
    ramp = np.broadcast_to(x[:, None, None].astype(np.float32), (40, 40, 40))
    np.testing.assert_allclose(regrid(ramp, np.eye(4), **grid, mode="linear")[:, 0, 0], 4.5 + 2 * np.arange(16), atol=1e-4)


def test_grids_that_are_not_parallel_are_refused():
    turned = affine_of((0, 1, 2, 1, 1, 1), angle=0.2)
    with pytest.raises(ValueError, match="not parallel"):
        regrid(np.zeros((8, 8, 8)), np.eye(4), to_shape=(8, 8, 8), to_affine=turned)


def test_zscore_agrees_with_monai():
    image, _ = case_arrays()
    prepared = preprocess_image(image, LPS, PreprocessSettings(margin=100))
    reference = NormalizeIntensity(nonzero=True, channel_wise=True)(
        Orientation("RAS", labels=None)(MetaTensor(image.astype(np.float32), affine=LPS))
    )
    np.testing.assert_allclose(prepared.image, np.asarray(reference), atol=3e-3)


@pytest.mark.parametrize("spacing", [1.0, 2.0])
@pytest.mark.parametrize("normalise", ["zscore", "minmax"])
def test_background_stays_zero_and_nothing_is_nan(spacing, normalise):
    """NaN and infinity count as background; a constant or blank modality does not divide by 0."""
    image = case_arrays()[0].astype(np.float32)
    outside = (image == 0).all(0)
    image[0][outside] = np.nan
    image[1, 10, 10, 10] = np.inf
    image[2] = np.where(outside, 0, 7)
    image[3] = 0
    prepared = preprocess_image(image, LPS, PreprocessSettings(spacing, normalise=normalise))
    assert np.isfinite(prepared.image).all()
    assert not prepared.image[3].any()
    assert not to_native(prepared.image, prepared)[:, outside].any() or spacing != 1
    values = prepared.image[0][prepared.image[0] != 0].astype(np.float64)
    if normalise == "zscore":
        assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.02
    else:
        assert prepared.image.min() == 0 and prepared.image.max() <= 1 and 0.3 < values.mean() < 0.7


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 5.0), (2.0, 2.0, 5.0)])
def test_a_single_slice_whose_third_axis_points_down_is_prepared(tmp_path, spacing):
    image = np.arange(1, 4 * 24 * 24 + 1, dtype=np.float32).reshape(4, 24, 24, 1)
    classes = np.ones((24, 24, 1), np.uint8)
    settings = PreprocessSettings(spacing=spacing)
    down, up = (preprocess_image(image, np.diag([1.0, 1.0, z, 1.0]), settings, classes=classes) for z in (-5, 5))
    np.testing.assert_array_equal(down.image, up.image)
    assert PreparedFile(save_prepared(tmp_path / "a.safetensors", down)).load().classes.all()


@pytest.mark.parametrize("value", [7, 0.1, 3.3, 1234.567])
@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_one_value_in_the_brain_is_no_contrast(value, spacing):
    image = case_arrays()[0].astype(np.float32)
    image[2] = np.where((image == 0).all(0), 0, value)
    assert not preprocess_image(image, LPS, PreprocessSettings(spacing)).image[2].any()


def test_empty_image_is_an_error():
    with pytest.raises(DataError, match="Case_9 has no voxel"):
        preprocess_image(np.zeros((4, 5, 5, 5), np.int16), LPS, identifier="Case_9")


def test_settings_survive_json_and_reject_nonsense():
    assert PreprocessSettings([2, 2, 2]) == PreprocessSettings(2.0)
    for wrong in ({"spacing": 0}, {"spacing": (1, 1)}, {"normalise": "max"}, {"margin": -1}, {"percentiles": (99, 1)}):
        with pytest.raises(DataError):
            PreprocessSettings(**wrong)


def test_file_holds_what_was_prepared(tmp_path):
    case = write_case(tmp_path / "cohort")
    prepared = preprocess_case(case)
    file = pickle.loads(pickle.dumps(PreparedFile(save_prepared(tmp_path / "a.safetensors", prepared))))
    loaded = file.load()
    np.testing.assert_array_equal(loaded.image, prepared.image)
    np.testing.assert_array_equal(loaded.classes, prepared.classes)
    np.testing.assert_array_equal(file.native_affine, prepared.native_affine)
    np.testing.assert_array_equal(file.affine, prepared.affine)
    assert (file.identifier, file.shape, file.native_shape) == ("Case_001", prepared.shape, prepared.native_shape)
    assert file.settings == prepared.settings
    part = (slice(2, 9), slice(0, 7), slice(5, 6))
    np.testing.assert_array_equal(file.image_patch(part), prepared.image[(slice(None), *part)])
    np.testing.assert_array_equal(file.classes_patch(part), prepared.classes[part])
    np.testing.assert_array_equal(to_native(loaded.classes, file), to_native(prepared.classes, prepared))
    for array in (loaded.image, file.image_patch(part), file.classes_patch(part)):
        array[:] = 1  # arrays are the caller's own: the file and later reads stay as they are
    np.testing.assert_array_equal(file.load().image, prepared.image)
    np.testing.assert_array_equal(file.classes_patch(part), prepared.classes[part])


def test_listed_voxels_lie_in_their_region(tmp_path):
    prepared = preprocess_case(write_case(tmp_path / "cohort"))
    file = PreparedFile(save_prepared(tmp_path / "a.safetensors", prepared))
    members = {"TC": {1, 3}, "WT": {1, 2, 3}, "ET": {3}}
    for region, classes in members.items():
        voxels = file.voxels_of(region)
        listed = set(map(tuple, voxels.tolist()))
        assert len(listed) == len(voxels) == min(np.isin(prepared.classes, list(classes)).sum(), 4096)
        assert {int(prepared.classes[voxel]) for voxel in listed} <= classes
    assert prepared.image[(slice(None), *file.voxels_of("brain").T)].any(0).all()


def test_case_without_reference(tmp_path):
    image, _ = case_arrays()
    file = PreparedFile(save_prepared(tmp_path / "a.safetensors", preprocess_image(image, LPS, identifier="x")))
    assert not file.has_classes and file.load().classes is None and len(file.voxels_of("brain")) > 0
    with pytest.raises(DataError, match="no reference"):
        file.classes_patch((slice(1),) * 3)


def test_file_travels_to_worker_processes(tmp_path):
    file = PreparedFile(save_prepared(tmp_path / "a.safetensors", preprocess_case(write_case(tmp_path / "cohort"))))
    read_patch = operator.methodcaller("image_patch", (slice(4, 8),) * 3)  # of no module that is slow to import
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(read_patch, (file,)), read_patch(file))


@pytest.mark.parametrize("layout", ["brats2021", "brats2023", "msd"])
def test_second_run_redoes_nothing(tmp_path, layout):
    write_case(tmp_path / "cohort", "A", layout)
    if layout != "msd":
        write_case(tmp_path / "cohort", "B", layout, seed=1)
    cases = discover(tmp_path / "cohort")
    first = prepare_cohort(cases, tmp_path / "out", progress=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = prepare_cohort(cases, tmp_path / "out", progress=False)
    assert first.made == tuple(case.identifier for case in cases) and again.made == ()
    assert first.paths == again.paths and set(before) == set(first.paths.values())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_other_settings_or_contents_make_other_files(tmp_path):
    write_case(tmp_path / "cohort", "A")
    write_case(tmp_path / "cohort", "A-001", seed=1)
    cases, out = discover(tmp_path / "cohort"), tmp_path / "out"
    prepare_cohort(cases, out, progress=False)
    write_case(tmp_path / "cohort", "A", seed=2)
    changed = prepare_cohort(cases, out, progress=False)
    assert changed.made == ("A",) and len(list(out.iterdir())) == 3
    other = prepare_cohort(cases[:1], out, PreprocessSettings(2), progress=False)
    assert other.made == ("A",) and len(list(out.iterdir())) == 4
    assert prepared_path(cases[0], out, PreprocessSettings(2)) == other.paths["A"]


def test_bad_cases_are_reported_and_the_others_go_on(tmp_path, capsys):
    cohort, out = tmp_path / "cohort", tmp_path / "out"
    for name in ("A", "B", "C", "D"):
        write_case(cohort, name)
    (cohort / "A" / "A_t2.nii.gz").unlink()
    damaged = cohort / "B" / "B_flair.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    image, classes = case_arrays((8, 8, 8))
    write_case(tmp_path / "other", "C", image=image, classes=classes)
    (tmp_path / "other" / "C" / "C_seg.nii.gz").replace(cohort / "C" / "C_seg.nii.gz")
    result = prepare_cohort(discover(cohort), out, progress=False)
    assert list(result.paths) == ["D"] and list(result.faults) == ["A", "B", "C"]
    for name, wanted in {"A": "T2 is missing", "B": "B_flair.nii.gz is truncated", "C": "C_seg.nii.gz has shape"}.items():
        assert wanted in result.faults[name]
    assert [path for path in out.iterdir() if path.name.startswith(".")] == []
    assert main(["preprocess", str(cohort), "--out", str(out), "--workers", "1"]) == 1
    printed = capsys.readouterr().out
    assert "1 of 4 cases" in printed and printed.count("left out:") == 3


def test_the_command_corrects_the_bias_field_where_it_is_asked_to(tmp_path):
    write_case(tmp_path / "cohort", "A")
    for words, wanted in ([], False), (["--correct-bias"], True):
        out = tmp_path / str(wanted)
        assert main(["preprocess", str(tmp_path / "cohort"), "--out", str(out), "--workers", "1", *words]) == 0
        (path,) = out.iterdir()
        assert PreparedFile(path).settings.correct_bias == wanted


def test_file_that_is_no_prepared_case(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(DataError, match="does not exist"):
        PreparedFile(path)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged"):
        PreparedFile(path)
    for metadata in (None, {"version": "v1"}, {"version": "1"}):
        save_file({"image": torch.zeros(4, 2, 2, 2)}, path, metadata=metadata)
        with pytest.raises(DataError, match="not a prepared case of this version"):
            PreparedFile(path)


@pytest.mark.skipif(not REAL_CASES.is_dir(), reason="no real cases beside this checkout")
def test_real_case_round_trip(tmp_path):
    from brats_cohort.cases import read_classes

    case = next(case for case in discover(REAL_CASES / "brats2021", "brats2021") if not case.missing)
    path = save_prepared(tmp_path / "a.safetensors", preprocess_case(case))
    classes, _ = read_classes(case)
    file = PreparedFile(path)
    np.testing.assert_array_equal(to_native(file.load().classes, file), classes)
    with safe_open(path, framework="np") as handle:
        assert str(handle.get_tensor("image").dtype) == "float16"


def test_preparation_does_not_depend_on_the_number_of_threads():
    image, _ = case_arrays((64, 72, 60))
    noisy = image * np.random.default_rng(0).normal(1, 0.1, image.shape)
    before, found = torch.get_num_threads(), {}
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found[threads] = preprocess_image(noisy, LPS, PreprocessSettings(1.4)).image
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found[1], found[2]) and np.array_equal(found[1], found[3])
