"""The viewer packs what the figures show, keeps its traits in line, and can be saved as a page and as a picture."""

import base64
import gc
import gzip
import io
import itertools
import json
import re
import subprocess
import sys
import weakref
from pathlib import Path

import ipywidgets
import nibabel as nib
import numpy as np
import pytest
import traitlets
from ipywidgets.widgets.widget import _instances
from matplotlib.figure import Figure
from PIL import Image

import slice_viewer
from slice_viewer import Pane, SliceViewer
from slice_viewer.pack import BACKGROUND, MISSING
from slice_viewer.page import advice, what_to_install
from slice_viewer.slices import PALETTE, PLANES, best_slice, cut

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
NAMES = {1: "core", 2: "oedema", 3: "rim"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def case_arrays(shape=(24, 28, 20)):
    """An ellipsoid of four contrasts (int16, zero outside), and labels 2, 3 and 1 inside each other."""
    generator = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    brain = (grid**2).sum(0) < 0.85
    distance = np.sqrt(((grid - np.array([0.25, 0.1, 0.0]).reshape(3, 1, 1, 1)) ** 2).sum(0))
    labels = np.select([distance < 0.2, distance < 0.35, distance < 0.5], [1, 3, 2], 0).astype(np.uint8) * brain
    image = 200 + 100 * labels + 40 * np.arange(4).reshape(4, 1, 1, 1) + generator.normal(0, 20, (4, *shape))
    return np.where(brain, image, 0).astype(np.int16), labels


def affine_of(order, signs, spacing=(1.0, 1.5, 3.0), tilt=0.0) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * signs * spacing
    affine[:3, 3] = (-20, 35, 7)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    return turn @ affine


def unpacked(viewer: SliceViewer, name: str, number: int = 0) -> np.ndarray:
    """Codes of a volume or label map as the browser has them: (x, y, z) in screen order."""
    entry = viewer._scene["volumes" if name == "_volumes" else "labels"][number]
    shape = viewer._scene["grids"][entry["grid"]]["shape"]
    return np.frombuffer(gzip.decompress(getattr(viewer, name)[number]), np.uint8).reshape(shape, order="F")


def values_of(viewer: SliceViewer, number: int = 0) -> np.ndarray:
    return np.array(viewer._scene["volumes"][number]["levels"])[unpacked(viewer, "_volumes", number)]


def on_screen(box: np.ndarray, viewer: SliceViewer, plane: str) -> np.ndarray:
    """Rows and columns of the slice at the cursor, composed as the browser composes it."""
    axis = PLANES[plane].axis
    matrix = np.array(viewer._scene["grids"][0]["toScreen"])
    point = np.rint(matrix @ [*viewer.cursor, 1]).astype(int)
    return box.take(point[axis], axis=axis).T


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_slices_are_those_of_the_figures_in_every_orientation(order, signs, plane):
    volume = np.arange(1, 5 * 6 * 7 + 1, dtype=np.uint8).reshape(5, 6, 7)
    affine = affine_of(order, signs, tilt=0.2)
    viewer = SliceViewer(volume, affine, plane=plane)
    for index in (0, 3):
        viewer.index = index
        expected, _ = cut(volume, affine, plane=plane, index=index)
        np.testing.assert_array_equal(on_screen(values_of(viewer), viewer, plane), expected)
        assert viewer.index == index
        assert values_of(viewer).max() == volume.max()


def test_cropping_keeps_all_content_and_the_way_back():
    volume = np.zeros((40, 50, 30), np.int16)
    volume[12:20, 5:9, 21] = 700
    labels = np.zeros(volume.shape, np.uint8)
    labels[25, 30, 20] = 3
    viewer = SliceViewer(volume, LPS, labels=labels)
    assert unpacked(viewer, "_volumes").size < volume.size / 2
    assert np.count_nonzero(values_of(viewer) == 700) == np.count_nonzero(volume)
    assert viewer.cursor == (25, 30, 20)
    for plane in PLANES:
        viewer.plane = plane
        assert 3 in on_screen(unpacked(viewer, "_labels"), viewer, plane)


def test_whole_numbers_of_a_narrow_range_are_exact():
    volume = np.random.default_rng(0).integers(-120, 130, (9, 8, 7)).astype(np.int16)
    viewer = SliceViewer(volume, np.eye(4))
    np.testing.assert_array_equal(values_of(viewer), volume[::-1, ::-1, ::-1])


def test_whole_numbers_of_a_narrow_range_are_exact_far_from_zero():
    volume = 10_000_000 + np.arange(200, dtype=np.int32).reshape(5, 8, 5)
    np.testing.assert_array_equal(values_of(SliceViewer(volume, np.eye(4))), volume[::-1, ::-1, ::-1])


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int16])
def test_what_is_in_a_mask_is_white(kind):
    mask = np.zeros((6, 7, 8), kind)
    mask[2:4, 2:5, 2:6] = 1
    assert SliceViewer(mask, np.eye(4)).window == (0, 1)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_a_wide_range_is_finest_within_the_window(dtype):
    generator = np.random.default_rng(1)
    volume = np.where(generator.random((30, 30, 30)) < 0.01, 30_000, generator.normal(600, 90, (30, 30, 30)).clip(1)).astype(
        dtype
    )
    viewer = SliceViewer([Pane(volume, window=(300, 900))], np.eye(4))
    error = np.abs(values_of(viewer) - volume[::-1, ::-1, ::-1].astype(float))
    inside = (volume[::-1, ::-1, ::-1] >= 300) & (volume[::-1, ::-1, ::-1] <= 900)
    assert error[inside].max() <= 600 / 150 / 2 + 0.5
    assert viewer.window == (300, 900)


def test_negative_values_background_and_missing_ones():
    image, _ = case_arrays()
    brain = image[0] != 0
    volume = np.where(brain, (image[0] - 300.0) / 30, 0).astype(np.float32)
    volume[5, 5, 5], volume[12, 14, 10] = np.nan, np.inf
    viewer = SliceViewer(volume, np.eye(4))
    codes = unpacked(viewer, "_volumes")
    grid = viewer.scene.grid
    original = grid.cut(volume).T
    assert np.all(codes[original == 0] == BACKGROUND)
    assert np.all(codes[~np.isfinite(original)] == MISSING)
    assert np.all(codes[np.isfinite(original) & (original != 0)] > BACKGROUND)
    viewer.cursor = (12, 14, 10)
    assert viewer._values == ["12,14,10", "inf"]
    assert SliceViewer(np.full((3, 4, 5), 23456.7), np.eye(4))._values[1] == "23456.7"


def test_the_codes_are_spent_on_the_window_that_the_viewer_begins_with():
    volume = np.random.default_rng(2).integers(-1000, 1500, (20, 20, 20)).astype(np.int16)
    wanted = SliceViewer([Pane(volume, window=(0, 80))], np.eye(4))
    for state in ({"window": (0, 80)}, {"windows": [(0, 80)]}):
        viewer = SliceViewer(volume, np.eye(4), **state)
        assert viewer._volumes == wanted._volumes and viewer._scene["start"] == wanted._scene["start"]
    page = json.loads(re.search(r'id="state">(.*?)</script>', viewer.to_html(megabytes=0.05), re.DOTALL)[1])
    assert np.count_nonzero(np.abs(np.array(page["_scene"]["volumes"][0]["levels"]) - 40) < 40) > 150


def test_water_in_a_ct_scan_is_not_background():
    volume = np.random.default_rng(2).integers(-1000, 1500, (20, 20, 20)).astype(np.int16)
    volume[:, :, 3] = 0
    viewer = SliceViewer([Pane(volume, window=(-160, 240))], np.eye(4))
    assert not np.any(unpacked(viewer, "_volumes") <= BACKGROUND)


@pytest.mark.parametrize("volume", [np.zeros((4, 5, 6)), np.full((4, 5, 6), np.nan), np.full((3, 4, 1), 7), np.ones((1, 1, 1))])
def test_volumes_with_hardly_anything_in_them_can_be_shown(volume):
    viewer = SliceViewer(volume, np.eye(4))
    for plane in PLANES:
        viewer.plane = plane
        assert Image.open(io.BytesIO(viewer.still())).size[0] > 50
    assert "viewer" in viewer.to_html()


def test_a_case_without_labels_begins_in_the_middle(tmp_path):
    image, _ = case_arrays()
    viewer = SliceViewer(image, LPS)
    assert viewer._labels == []
    assert image[0][viewer.cursor]


def test_a_four_dimensional_file_gets_a_pane_a_volume(tmp_path):
    image, _ = case_arrays()
    nib.Nifti1Image(np.moveaxis(image, 0, -1), LPS).to_filename(tmp_path / "four.nii.gz")
    nib.Nifti1Image(image[1], LPS).to_filename(tmp_path / "one.nii")
    assert [pane["title"] for pane in SliceViewer(tmp_path / "four.nii.gz")._scene["panes"]] == [
        f"volume {n}" for n in range(4)
    ]
    assert [pane["title"] for pane in SliceViewer(str(tmp_path / "one.nii"))._scene["panes"]] == ["one.nii"]
    with pytest.raises(ValueError, match="does not exist"):
        SliceViewer(tmp_path / "none.nii")
    (tmp_path / "text.nii.gz").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.nii\.gz cannot be read \(.*\); copy or export it again"):
        SliceViewer(tmp_path / "text.nii.gz")


def test_what_nibabel_has_read_and_a_single_pane_are_shown_as_the_file_is(tmp_path):
    image, labels = case_arrays()
    path, marked = tmp_path / "four.nii.gz", tmp_path / "labels.nii.gz"
    nib.Nifti1Image(np.moveaxis(image, 0, -1), LPS).to_filename(path)
    nib.Nifti1Image(labels.astype(np.float32), LPS).to_filename(marked)
    titles = ("T1", "T1ce", "T2", "FLAIR")
    wanted = SliceViewer(image, LPS, labels=labels, titles=titles)
    for source, drawn in ((path, marked), (nib.load(path), nib.load(marked)), (str(path), labels.astype(float))):
        found = SliceViewer(source, labels=drawn, titles=titles)
        assert found._volumes == wanted._volumes and found._labels == wanted._labels
        assert found._scene["panes"] == wanted._scene["panes"]
    assert SliceViewer(Pane(image[0]), LPS)._volumes == wanted._volumes[:1]


def test_a_label_file_of_another_grid_is_refused(tmp_path):
    image, labels = case_arrays()
    path, marked = tmp_path / "image.nii", tmp_path / "labels.nii"
    nib.Nifti1Image(image[0], LPS).to_filename(path)
    nib.Nifti1Image(labels, np.eye(4)).to_filename(marked)
    with pytest.raises(ValueError, match=r"labels labels\.nii have another affine than the image"):
        SliceViewer(path, labels=marked)
    with pytest.raises(ValueError, match="give both as files, or both as arrays"):
        SliceViewer(image, LPS, labels=marked)
    broken = bytearray(path.read_bytes())
    broken[70:72] = (9999).to_bytes(2, "little")  # the data type
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r"image\.nii cannot be read"):
        SliceViewer(path)


def test_a_label_file_may_have_an_axis_of_one(tmp_path):
    image, labels = case_arrays()
    nib.Nifti1Image(image[0], LPS).to_filename(tmp_path / "image.nii")
    nib.Nifti1Image(labels[..., None], LPS).to_filename(tmp_path / "labels.nii")
    found = SliceViewer(tmp_path / "image.nii", labels=tmp_path / "labels.nii")
    assert found._labels == SliceViewer(image[0], LPS, labels=labels)._labels


def test_labels_and_titles_are_not_ignored():
    image, labels = case_arrays()
    for options in ({"labels": labels}, {"titles": ["T1"]}):
        with pytest.raises(ValueError, match="give these to each Pane"):
            SliceViewer([Pane(image[0])], LPS, **options)
    with pytest.raises(ValueError, match="4 volumes need a title each, 2 were given"):
        SliceViewer(image, LPS, titles=["T1", "T2"])


def test_labels_on_the_second_grid_tell_where_to_begin():
    image, _ = case_arrays()
    coarse = image[1][::2, ::2, ::2]
    marks = np.zeros(coarse.shape, np.uint8)
    marks[3:6, 4:9, 7:9] = 1
    viewer = SliceViewer([Pane(image[0]), Pane(coarse, marks, affine=LPS @ np.diag([2.0, 2, 2, 1]))], LPS)
    assert marks[tuple(np.array(viewer.cursor) // 2)] and viewer.index == 14
    assert viewer._scene["last"][2] - viewer._scene["largest"][2] == 14


def test_panes_on_different_grids_show_the_same_place():
    image, classes = case_arrays((24, 28, 20))
    coarse = np.diag([-2.0, -2.0, 2.0, 1.0])
    coarse[:3, 3] = LPS[:3, :3] @ [0.5, 0.5, 0.5]
    panes = [Pane(image[0], classes, "1 mm"), Pane(image[0][::2, ::2, ::2], classes[::2, ::2, ::2], "2 mm", affine=coarse)]
    viewer = SliceViewer(panes, LPS)
    fine_grid, coarse_grid = viewer.scene.parts.grids
    to_coarse = np.array(viewer._scene["grids"][1]["toScreen"])
    for cursor in [(12, 14, 10), (4, 20, 6)]:
        viewer.cursor = cursor
        world = fine_grid.affine @ [*cursor, 1]
        there = coarse_grid.affine @ coarse_grid.to_voxel @ [*(to_coarse @ [*cursor, 1]), 1]
        np.testing.assert_allclose(there, world, atol=1e-6)
    assert Image.open(io.BytesIO(viewer.still())).size[0] > 100


def test_the_exact_value_is_that_of_the_voxel_that_is_drawn():
    """Between two voxels of a coarser grid both the browser and the readout take the later one on the screen."""
    volume = np.random.default_rng(4).integers(0, 200, (24, 28, 20)).astype(np.int16)
    volume[[0, -1]] = 200  # nothing is cropped
    coarse = Pane(volume[::2, ::2, ::2], affine=LPS @ np.diag([2.0, 2.0, 2.0, 1.0]))
    viewer = SliceViewer([Pane(volume), coarse], LPS)
    grid, to_coarse = viewer.scene.parts.grids[1], np.array(viewer._scene["grids"][1]["toScreen"])
    for cursor in [(13, 15, 11), (12, 14, 10), (7, 15, 12), (9, 9, 9)]:
        drawn = grid.voxel_at([int(np.floor(at + 0.5)) for at in to_coarse @ [*cursor, 1]])
        assert viewer.values_at(cursor)[1] == coarse.volume[drawn]


def test_state_is_taken_in_any_order_and_windows_of_any_sequence():
    image, _ = case_arrays()
    for state in ({"index": 5, "plane": "coronal"}, {"plane": "coronal", "index": 5}):
        assert SliceViewer(image, LPS, **state).index == 5
    viewer = SliceViewer(image, LPS, window=(1, 2), active=1)
    assert viewer.windows[1] == (1, 2) and viewer.windows[0] != (1, 2)
    assert SliceViewer([Pane(image[0], window=[0, 100])], LPS).window == (0, 100)


def test_plane_index_and_cursor_stay_in_line():
    image, classes = case_arrays()
    viewer = SliceViewer(image, LPS, labels=classes)
    viewer.cursor = np.array([10, 12, 8])
    assert viewer.cursor == (10, 12, 8)
    assert viewer.index == 8
    viewer.plane = "sagittal"
    assert viewer.index == image.shape[1] - 1 - 10  # LPS: the first voxel is the patient's rightmost
    viewer.index = 4
    assert viewer.cursor == (image.shape[1] - 1 - 4, 12, 8)
    viewer.cursor = (-50, 12, 10_000)
    assert viewer.cursor == viewer.scene.grid.clip(viewer.cursor)
    with pytest.raises(traitlets.TraitError):
        viewer.plane = "oblique"
    with pytest.raises(traitlets.TraitError):
        viewer.opacity = 1.5


def test_window_is_that_of_the_active_pane():
    image, _ = case_arrays()
    viewer = SliceViewer(image, LPS)
    others = viewer.windows[1:]
    viewer.window = (0, 1000)
    assert viewer.windows == [(0, 1000), *others]
    viewer.active = 2
    assert viewer.window == others[1]
    viewer.window = (10, np.float64(20))
    assert viewer.windows[2] == (10, 20)
    viewer.window = np.array([10, 20])
    assert viewer.windows[2] == SliceViewer(image, LPS, active=2, window=np.array([10, 20])).window == (10, 20)
    for wrong in ((5, 5), (7, 2), (0, float("nan"))):
        with pytest.raises(traitlets.TraitError, match="darker to a brighter"):
            viewer.window = wrong
    with pytest.raises(traitlets.TraitError, match="no pane 4"):
        viewer.active = 4
    with pytest.raises(traitlets.TraitError, match="4 volumes need a window each"):
        viewer.windows = [(0, 1)]


def test_traits_can_be_linked_and_observed():
    image, classes = case_arrays()
    viewer = SliceViewer(image, LPS, labels=classes, opacity=0.2)
    slider, fade = ipywidgets.IntSlider(max=19), ipywidgets.FloatSlider(max=1)
    traitlets.link((viewer, "index"), (slider, "value"))
    traitlets.link((viewer, "opacity"), (fade, "value"))
    assert (slider.value, fade.value) == (viewer.index, 0.2)
    seen = []
    viewer.observe(lambda change: seen.append(change["new"]), "cursor")
    slider.value = 6
    assert seen == [viewer.cursor]
    assert viewer.cursor[2] == 6
    with pytest.raises(TypeError, match="no 'opaque'"):
        SliceViewer(image, LPS, opaque=1)


def test_another_case_can_be_shown_in_the_same_place():
    image, classes = case_arrays()
    viewer = SliceViewer(image, LPS, labels=classes)
    viewer.active = 3
    viewer.show(image[1, :10, :12, :8], np.eye(4))
    assert (len(viewer._volumes), len(viewer._labels), len(viewer.windows), viewer.active) == (1, 0, 1, 0)
    assert viewer.cursor == viewer.scene.cursor


def test_what_the_browser_still_says_of_the_scene_before_does_not_undo_its_other_changes():
    image = case_arrays()[0]
    viewer = SliceViewer(image, LPS)
    viewer.show(image[1], LPS)
    windows = viewer.windows
    viewer.set_state({"plane": "sagittal", "windows": [[0, 1]] * 4, "active": 3, "opacity": 0.2})
    assert (viewer.plane, viewer.windows, viewer.active, viewer.opacity) == ("sagittal", windows, 0, 0.2)
    viewer.set_state({"windows": [[0, 1]], "cursor": [5, 6, 7]})  # these fit, but are of the scene before too
    assert (viewer.windows, viewer.cursor) == (windows, viewer.scene.cursor)
    viewer.set_state({"_seen": viewer._scene["number"], "windows": [[0, 1]]})
    viewer.set_state({"cursor": [5, 6, 7]})
    assert (viewer.windows, viewer.cursor) == ([(0, 1)], (5, 6, 7))


def test_the_browser_hears_of_other_labels_of_the_same_description():
    image, labels = case_arrays()
    fewer = labels.copy()
    fewer[tuple(np.argwhere((labels == 2) & (np.arange(20) != best_slice(labels, LPS)))[0])] = 0
    viewer, seen = SliceViewer(image, LPS, labels=labels), []
    viewer.observe(lambda change: seen.append(change["name"]), ["_scene", "_labels"])
    viewer.show(image, LPS, labels=fewer)
    assert sorted(seen) == ["_labels", "_scene"]  # viewer.js unpacks again when _scene changes


def test_a_closed_viewer_gives_its_volumes_back():
    viewer = SliceViewer(case_arrays()[0], LPS)
    scene = weakref.ref(viewer.scene)
    viewer.close()
    del viewer
    gc.collect()
    assert scene() is None


def wrong_sources():
    image, classes = case_arrays()
    return {
        "channels last": (np.moveaxis(image, 0, -1), LPS, None, "move the channels to the front"),
        "many channels": (np.zeros((30, 9, 9, 12)), LPS, None, "or give a Pane for each if they are there"),
        "files": (["a.nii.gz", "b.nii.gz"], LPS, None, "takes one file; for several, give a Pane"),
        "folder": (Path(slice_viewer.__file__).parent, None, None, "slice_viewer is a folder; give a file in it"),
        "two-dimensional": (image[0, 0], LPS, None, r"has shape \(X, Y, Z\)"),
        "other grid": (image, LPS, classes[:-1], "labels have shape"),
        "fractions": (image, LPS, classes / 2, "whole numbers were expected"),
        "large labels": (image, LPS, classes.astype(int) * 100, "renumber them"),
        "negative labels": (image, LPS, classes.astype(int) - 1, "renumber them"),
        "no affine": (image, None, None, "no affine"),
        "small affine": (image, np.eye(3), None, "invertible"),
        "flat affine": (image, np.diag([1, 1, 0, 1]), None, "invertible"),
        "empty": (image[0, :0], LPS, None, "no voxel"),
        "complex": (image[0] * 1j, LPS, None, "real numbers"),
        "no pane": ([], LPS, None, "at least one pane"),
    }


@pytest.mark.parametrize("name", wrong_sources())
def test_what_cannot_be_shown_gives_one_clear_sentence(name):
    source, affine, labels, sentence = wrong_sources()[name]
    with pytest.raises(ValueError, match=sentence) as error:
        SliceViewer(source, affine, labels=labels)
    assert "\n" not in str(error.value)


def test_a_saved_notebook_has_a_picture_with_the_patients_left_on_the_right():
    volume = np.full((40, 50, 30), 100, np.int16)
    labels = np.zeros(volume.shape, np.uint8)
    labels[30:36, 20:30, :] = 3  # LPS: high x is the patient's left
    viewer = SliceViewer(volume, LPS, labels=labels, opacity=1.0)
    data, _ = viewer._repr_mimebundle_()
    assert set(data) == {WIDGET_VIEW, "image/png", "text/plain"}
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")).astype(int)
    colour = np.array([int(PALETTE[2][start : start + 2], 16) for start in (1, 3, 5)])
    near = np.argwhere(np.abs(pixels - colour).sum(axis=2) < 40)
    in_pane = near[near[:, 0] < pixels.shape[0] * 0.8]
    assert len(in_pane) > 200
    assert np.median(in_pane[:, 1]) > pixels.shape[1] * 0.6
    viewer.hidden = ["label 3"]
    assert len(viewer.still()) < len(base64.b64decode(data["image/png"]))


def still_size(viewer: SliceViewer) -> tuple[int, int]:
    return Image.open(io.BytesIO(viewer.still())).size


def test_a_still_has_room_for_the_names_of_many_labels(recwarn):
    labels = np.arange(20 * 24 * 10).reshape(20, 24, 10) % 118
    names = {number: f"structure number {number}" for number in range(1, 118)}
    width, height = still_size(SliceViewer(np.ones(labels.shape), np.eye(4), labels=labels))
    longer = still_size(SliceViewer(np.ones(labels.shape), np.eye(4), labels=labels, names=names))
    assert longer[0] == width and longer[1] > height > 2 * width
    assert not [str(warning.message) for warning in recwarn if "constrained_layout" in str(warning.message)]


def test_long_titles_stay_over_their_panes(monkeypatch):
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: figures.append(figure) or save(figure, *a, **k))
    names = ["sub-01_ses-preop_acq-mprage_run-01_T1w_brain.nii.gz", "T2"]
    SliceViewer(np.ones((2, 20, 24, 10)), LPS, titles=names).still()
    first, second = figures[0].axes
    assert first._left_title.get_window_extent().x1 < second.get_window_extent().x0


def test_a_page_holds_everything_and_escapes_its_texts(tmp_path):
    image, classes = case_arrays()
    panes = [Pane(image[0], classes, "</script><b>", names={1: "a<b", 2: "ö", 3: "c"})]
    viewer = SliceViewer(panes, LPS, title="A & B", cursor=np.array([5, 6, 7]))
    path = viewer.to_html(tmp_path / "new" / "page.html")
    page = path.read_text(encoding="utf-8")
    assert page == viewer.to_html()
    assert not re.search(r"https?://|src=|href=|import ", page)
    assert page.count("</script>") == 2
    assert "<title>A &amp; B</title>" in page
    state = json.loads(re.search(r'id="state">(.*?)</script>', page, re.DOTALL)[1])
    assert state["cursor"] == [5, 6, 7]
    assert state["_scene"]["panes"][0]["title"] == "</script><b>"
    assert gzip.decompress(base64.b64decode(state["_volumes"][0])) == gzip.decompress(viewer._volumes[0])


def test_a_page_is_made_coarser_until_it_fits_and_shows_the_same_place():
    image = np.random.default_rng(0).normal(100, 20, (48, 40, 32)).astype(np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[20:30, 10:20, 8:12] = 1
    viewer = SliceViewer(image, np.diag([1.0, 1, 2, 1]), labels=labels, opacity=0.3)
    widgets = set(_instances)
    page = viewer.to_html(megabytes=0.05)
    assert set(_instances) == widgets  # every widget is sent to the notebook, and kept until it is closed
    state = json.loads(re.search(r'id="state">(.*?)</script>', page, re.DOTALL)[1])
    assert len(page) <= 50_000 < len(viewer.to_html())
    assert state["_scene"]["grids"][0]["spacing"] == [2, 2, 4]
    assert np.abs(np.multiply(state["cursor"], 2) - viewer.cursor).max() < 2
    assert (state["opacity"], state["windows"]) == (0.3, [list(viewer.windows[0])])


def test_a_shown_viewer_leaves_its_page_where_it_is_asked_to(tmp_path, monkeypatch):
    viewer = SliceViewer(np.ones((4, 5, 6)), np.eye(4), title="Phantom_1")
    monkeypatch.setenv("SLICE_VIEWER_PAGES", str(tmp_path))
    viewer._repr_mimebundle_()
    assert ["<title>Phantom_1</title>" in page.read_text() for page in tmp_path.glob("*.html")] == [True]


def test_advice_names_what_the_server_lacks(tmp_path, monkeypatch):
    extensions = tmp_path / "share" / "jupyter" / "labextensions"
    (extensions / "@jupyter-widgets" / "jupyterlab-manager").mkdir(parents=True)
    assert f"{tmp_path}/bin/python -m pip install anywidget`" in advice(tmp_path, [tmp_path / "share" / "jupyter"])
    (extensions / "anywidget").mkdir()
    assert advice(tmp_path, [tmp_path / "share" / "jupyter"]) == ""
    for parent in ("", "no number", "999999999"):
        monkeypatch.setenv("JPY_PARENT_PID", parent)
        assert what_to_install() == ""


def test_a_server_without_the_widget_gets_a_page_that_works(monkeypatch):
    image, _ = case_arrays()
    monkeypatch.setattr("slice_viewer.widget.what_to_install", lambda: "run `pip install anywidget`")
    data, _ = SliceViewer(image, LPS)._repr_mimebundle_()
    assert WIDGET_VIEW not in data
    assert "run `pip install anywidget`" in data["text/html"]
    assert data["text/html"].startswith("<iframe srcdoc=")


def test_script_and_style_are_part_of_the_package():
    folder = Path(slice_viewer.__file__).parent
    assert {"viewer.js", "viewer.css", "page.html"} <= {path.name for path in folder.iterdir()}


def test_labels_get_the_viewers_names_and_colours_where_the_pane_has_none():
    image, labels = case_arrays()
    own = Pane(image[1], labels, names={1: "one"})
    viewer = SliceViewer([Pane(image[0], labels), own], LPS, names=NAMES, colours={3: "#123456"})
    entries = [
        {entry["value"]: (entry["name"], entry["colour"]) for entry in legend["entries"]} for legend in viewer._scene["labels"]
    ]
    assert entries[0] == {1: ("core", PALETTE[0]), 2: ("oedema", PALETTE[1]), 3: ("rim", "#123456")}
    assert [name for name, _ in entries[1].values()] == ["one", "label 2", "label 3"]


def test_24_labels_have_colours_of_their_own_and_the_first_are_those_of_the_palette():
    image, labels = case_arrays()
    viewer = SliceViewer(image[0], LPS, labels=labels, names={value: f"organ {value}" for value in range(1, 25)})
    colours = [entry["colour"] for entry in viewer._scene["labels"][0]["entries"]]
    assert tuple(colours[:8]) == PALETTE and len(set(colours)) == 24


def test_names_and_colours_may_have_text_keys_as_in_json():
    image, labels = case_arrays()
    for names in ({"background": 0, "core": 1}, ["background", "core"]):  # the first is nnU-Net's
        with pytest.raises(ValueError, match="turn them round"):
            SliceViewer(image[0], LPS, labels=labels, names=names)
    viewer = SliceViewer(image[0], LPS, labels=labels, names={"1": "core"}, colours={"1": "red"})
    assert viewer._scene["labels"][0]["entries"][0] == {"value": 1, "name": "core", "colour": "#FF0000"}


def test_colours_are_those_of_matplotlib_in_the_browser_too():
    image, labels = case_arrays()
    viewer = SliceViewer(image[0], LPS, labels=labels, colours={1: "red", 2: "#0f0", 3: (0, 0, 1)})
    assert [entry["colour"] for entry in viewer._scene["labels"][0]["entries"]] == ["#FF0000", "#00FF00", "#0000FF"]


def test_the_viewer_begins_at_the_largest_labelled_slice():
    image, labels = case_arrays()
    viewer = SliceViewer(image, LPS, labels=labels, titles=("T1", "T1ce", "T2", "FLAIR"))
    assert viewer.index == best_slice(labels, LPS) and labels[viewer.cursor]
    assert viewer._values[1:] == [str(volume[viewer.cursor]) for volume in image]
    assert repr(viewer) == f"SliceViewer(T1, T1ce, T2, FLAIR; axial slice {viewer.index})"


def test_tensors_and_lists_are_shown_as_arrays_are():
    torch = pytest.importorskip("torch")
    image, labels = case_arrays()
    wanted = SliceViewer(image, LPS, labels=labels)
    tensor, marks = torch.from_numpy(image), torch.from_numpy(labels)
    for source, marked in ((tensor, marks), (tensor, marks.bfloat16()), (image.tolist(), labels.tolist())):
        found = SliceViewer(source, LPS, labels=marked)
        assert found._volumes == wanted._volumes and found._labels == wanted._labels


def test_slices_are_drawn_without_the_widget():
    code = "import sys, slice_viewer.slices; sys.exit('ipywidgets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
