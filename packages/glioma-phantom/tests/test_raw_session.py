"""A raw session: what a scanner exports, and the truth about where the head lay."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from scipy import ndimage

from glioma_phantom import PhantomSettings
from glioma_phantom.contrast import MODALITIES
from glioma_phantom.raw_session import PATIENT_NAME, RawRanges, draw_plans, write_raw_session

COARSE = PhantomSettings(spacing=4.0, seed=5)
PLANS = {name: replace(plan, pixel=4.0, distance=5.0, thickness=4.5) for name, plan in draw_plans(5, 1).items()}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return write_raw_session(tmp_path_factory.mktemp("raw"), 1, settings=COARSE, plans=PLANS)


@pytest.fixture(scope="module")
def series(session):
    """Files of every series by its UID, in the order of their slices."""
    found = defaultdict(list)
    for path in session.folder.rglob("MR*"):
        file = pydicom.dcmread(path)
        found[file.SeriesInstanceUID].append(file)
    return {uid: sorted(files, key=lambda file: file.InstanceNumber) for uid, files in found.items()}


def to_voxels(files):
    """From RAS millimetres to slice, row and column."""
    first, last = files[0], files[-1]
    along, down = np.reshape(first.ImageOrientationPatient, (2, 3)).astype(float)
    step = (np.array(last.ImagePositionPatient) - np.array(first.ImagePositionPatient)) / (len(files) - 1)
    matrix = np.eye(4)
    columns = (step, down * first.PixelSpacing[0], along * first.PixelSpacing[1], first.ImagePositionPatient)
    matrix[:3] = np.stack([np.asarray(column, float) for column in columns], axis=1)
    return np.linalg.inv(np.diag([-1, -1, 1, 1]) @ matrix)


def test_every_file_is_an_mr_slice_of_the_same_invented_patient_with_the_tags_of_its_sequence(session, series):
    assert set(series) == set(session.uids.values()) and len(series) == 6
    files = [file for found in series.values() for file in found]
    assert {str(file.PatientName) for file in files} == {PATIENT_NAME}
    assert len({file.StudyInstanceUID for file in files}) == 1
    assert len({file.SOPInstanceUID for file in files}) == len(files)
    first = {name: series[uid][0] for name, uid in session.uids.items()}
    assert [name for name, file in first.items() if "ContrastBolusAgent" in file] == ["t1ce"]
    assert first["flair"].InversionTime > 2000 and first["t2"].EchoTime > 80 > first["t1"].EchoTime
    assert {file.DiffusionBValue for file in series[session.uids["dwi"]]} == {0, 1000}
    assert len({tuple(file.ImageOrientationPatient) for file in series[session.uids["localiser"]]}) == 3


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_truth_says_where_the_brain_lies_in_each_series(session, series, modality):
    brain = session.phantom.image[0] > 0
    places = np.argwhere(brain)[::40]
    where = session.matrix(modality) @ session.phantom.affine @ np.c_[places, np.ones(len(places))].T
    files = series[session.uids[modality]]
    voxels = to_voxels(files) @ where
    pixels = np.stack([file.pixel_array for file in files]).astype(float)
    assert (voxels[:3] >= 0).all() and (voxels[:3] <= np.array(pixels.shape)[:, None] - 1).all()
    drawn = session.phantom.image[MODALITIES.index(modality)][tuple(places.T)]

    def agreement(shift):
        return np.corrcoef(ndimage.map_coordinates(pixels, voxels[:3] + shift, order=1), drawn)[0, 1]

    off = [agreement(sign * np.eye(3)[:, [axis]]) for axis in range(3) for sign in (-1, 1)]
    assert agreement(0) > 0.7 and agreement(0) > max(off) + 0.03
    turned = session.matrix(modality)[:3, :3]
    assert np.allclose(turned @ turned.T, np.eye(3))


def test_no_two_series_differ_by_more_than_the_limits_and_the_files_repeat_to_the_byte(session, tmp_path):
    ranges = RawRanges(angle=12.0, shift=30.0, distance=(2.0, 4.0), thin=0.0)
    for index in range(20):
        plans = draw_plans(9, index, ranges).values()
        assert all(np.linalg.norm(plan.turn) <= 6.01 and np.linalg.norm(plan.move) <= 15.01 for plan in plans)
        assert all(2 <= plan.distance <= 4 and plan.thickness <= plan.distance for plan in plans)
    again = write_raw_session(tmp_path / "again", 1, settings=COARSE, plans=PLANS)
    for path in session.folder.rglob("MR*"):
        assert (again.folder / path.relative_to(session.folder)).read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="not empty"):
        write_raw_session(again.folder, 2, settings=COARSE)
    with pytest.raises(ValueError, match="plans of FLAIR; a session has t1, t1ce, t2, flair"):
        write_raw_session(tmp_path / "other", 1, settings=COARSE, plans={"FLAIR": PLANS["flair"]})
