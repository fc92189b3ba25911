"""From files to a label map in the input's own grid, with a network whose answer is known."""

import re
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
import torch

import scan_session
from brats_cohort.cases import case_of_files, read_classes
from brats_cohort.files import DataError
from brats_cohort.nifti import write_volume
from brats_cohort.regions import MODALITIES, REGIONS, classes_to_regions
from brats_cohort.testing import LPS, case_arrays, write_case
from helpers.cli import main
from helpers.data.patches import pad_patch
from helpers.data.preprocess import PreprocessSettings
from helpers.evaluation.metrics import dice
from helpers.evaluation.postprocess import PostProcessing
from helpers.evaluation.predict import predict_case, predict_cases, predict_prepared, window_size, write_prediction
from helpers.models.checkpoints import ModelCard, save_checkpoint
from helpers.models.networks import NETWORKS, NetworkKind

OBLIQUE = np.array([[0.9659, -0.2588, 0, -30], [0.2588, 0.9659, 0, 12], [0, 0, 1, 5], [0, 0, 0, 1.0]])
LAS = np.diag([-1.0, 1.0, 1.0, 1.0])


class Oracle(torch.nn.Module):
    """Says yes to TC, WT and ET where the second, third and fourth contrast are above the mean of the brain."""

    def __init__(self, grid=None):
        super().__init__()
        self.certainty = torch.nn.Parameter(torch.tensor(20.0))

    def forward(self, image):
        return torch.where(image[:, 1:] > 0, self.certainty, -self.certainty)


@pytest.fixture(autouse=True)
def oracle(monkeypatch):
    monkeypatch.setitem(NETWORKS, "oracle", NetworkKind(Oracle, lambda: 8))
    return Oracle().eval()


def make_card(spacing=(1.0, 1.0, 1.0), patch=(32, 32, 32)) -> ModelCard:
    return ModelCard(network="oracle", arguments={}, preprocessing=asdict(PreprocessSettings(spacing=spacing)), patch=patch)


def known_case(folder, identifier="Case_001", *, shape=(24, 28, 20), affine=LPS, format="brats2021"):
    """A case of which the second to fourth contrast show the regions outright."""
    image, classes = case_arrays(shape)
    shown = np.where(image[:1] != 0, 100 + 900 * classes_to_regions(classes).astype(np.int16), 0)
    return write_case(
        folder, identifier, format, image=np.concatenate([image[:1], shown]).astype(np.int16), classes=classes, affine=affine
    )


def region_dice(prediction, case):
    reference = classes_to_regions(read_classes(case)[0])
    return {name: dice(p, r) for name, p, r in zip(REGIONS, classes_to_regions(prediction), reference, strict=True)}


@pytest.mark.parametrize(
    ("affine", "spacing"),
    [(LPS, (1, 1, 1)), (LAS, (1, 1, 1)), (OBLIQUE, (1, 1, 1)), (LAS @ np.diag([1, 1, 3, 1.0]), (1, 1, 3))],
    ids=["LPS", "LAS", "oblique", "LAS 1x1x3 mm"],
)
def test_the_answer_arrives_in_the_input_grid_exactly(tmp_path, oracle, affine, spacing):
    case = known_case(tmp_path, affine=affine)
    prediction = predict_case(oracle, make_card(spacing), case)
    np.testing.assert_array_equal(prediction.classes, read_classes(case)[0])
    path = write_prediction(tmp_path / "seg.nii.gz", prediction)
    written, first = nib.load(path), nib.load(case.images["t1"].path)
    assert written.shape == first.shape and written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(written.affine, first.affine)
    for code in ("qform_code", "sform_code"):
        assert written.header[code] == first.header[code]
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(nib.load(case.label).dataobj))


@pytest.mark.parametrize(
    ("affine", "shape"),
    [
        (LAS, (96, 112, 80)),
        (LAS @ np.diag([1, 1, 2.5, 1.0]), (96, 112, 40)),
        (OBLIQUE @ np.diag([0.8, 1, 1.4, 1.0]), (120, 112, 60)),
    ],
    ids=["1 mm", "1x1x2.5 mm", "oblique 0.8x1x1.4 mm"],
)
def test_a_network_of_2_mm_serves_other_grids(tmp_path, oracle, affine, shape):
    case = known_case(tmp_path, shape=shape, affine=affine)
    prediction = predict_case(oracle, make_card((2.0, 2.0, 2.0), patch=(64, 64, 64)), case)
    assert prediction.classes.shape == shape
    scores = region_dice(prediction.classes, case)
    assert scores["WT"] > 0.9 and scores["TC"] > 0.85 and scores["ET"] > 0.75, scores


class Blind(Oracle):
    """Sees where tumour is, but no core in it."""

    def forward(self, image):
        seen = super().forward(image)
        return torch.cat([-self.certainty.expand_as(seen[:, :1]), seen[:, 1:2], -self.certainty.expand_as(seen[:, 2:])], dim=1)


def test_a_core_that_no_network_saw_is_placed_and_said(tmp_path, oracle):
    case = known_case(tmp_path)
    card = replace(make_card(), postprocessing=asdict(PostProcessing(0.0, 0.0, core_depth=0.5)))
    prediction = predict_case(Blind().eval(), card, case)
    assert "no tumour core is visible" in prediction.warnings[-1]
    core, whole, _ = classes_to_regions(prediction.classes)
    assert core.any() and core.sum() < whole.sum() and region_dice(prediction.classes, case)["WT"] == 1
    assert not predict_case(oracle, card, case).warnings, "this network sees it"


def test_msd_files_with_four_channels_give_a_3d_label_map(tmp_path, oracle):
    case = known_case(tmp_path, format="msd")
    path = write_prediction(tmp_path / "seg.nii.gz", predict_case(oracle, make_card(), case))
    assert nib.load(path).shape == (24, 28, 20)
    np.testing.assert_array_equal(np.unique(np.asarray(nib.load(path).dataobj)), [0, 1, 2, 3])


def test_a_case_too_large_for_the_memory_is_no_bad_file_and_the_others_go_on(tmp_path):
    class Large(Oracle):
        def forward(self, image):
            return super().forward(image if image.shape[-1] <= 32 else torch.empty(2**55))

    cases = [known_case(tmp_path, "Case_001", shape=(24, 28, 40)), known_case(tmp_path, "Case_002")]
    first, second = (outcome for _, outcome in predict_cases(Large().eval(), make_card(), cases, folder=tmp_path / "out"))
    assert (first.file, first.problem) == ("", "there is not enough memory for it")
    np.testing.assert_array_equal(second.classes, read_classes(cases[1])[0])


def test_windows_cover_what_fits():
    assert window_size((70, 88, 70), (64, 64, 64), 8) == (72, 88, 72)
    assert window_size((140, 175, 140), (128, 128, 128), 16) == (144, 176, 144)
    assert window_size((140, 175, 140), (64, 64, 64), 16) == (64, 64, 64)
    assert window_size((20, 200, 33), (64, 64, 64), 32) == (64, 64, 64)


def test_a_volume_smaller_than_the_patch_is_seen_as_in_training():
    image, seen = np.random.default_rng(0).normal(size=(4, 19, 24, 40)).astype(np.float32), []

    class Watcher(torch.nn.Module):
        def forward(self, window):
            seen.append(window.numpy().copy())
            return window[:, 1:]

    predict_prepared(Watcher(), make_card(), image)
    np.testing.assert_array_equal(seen[0][0], pad_patch(image, (32, 32, 40)))


@pytest.mark.parametrize("shape", [(20, 24, 18), (70, 50, 41)], ids=["one window", "several windows"])
@pytest.mark.parametrize("axes", [(), (0,), (0, 1, 2)])
def test_windows_and_flips_do_not_change_what_a_network_without_surroundings_says(oracle, shape, axes):
    image = torch.randn(4, *shape).numpy()
    probabilities = predict_prepared(oracle, replace(make_card(), tta_axes=axes), image, tta=True)
    np.testing.assert_allclose(probabilities, image[1:] > 0, atol=1e-4)


def test_flips_average_a_network_that_prefers_a_side_along_the_axes_of_its_card():
    class Sided(torch.nn.Module):
        def forward(self, image):
            ramp = torch.linspace(-3, 3, image.shape[2]).reshape(1, 1, -1, 1, 1)
            return ramp.expand(1, 3, *image.shape[2:]).clone()

    card, image = make_card((1.0, 1.0, 1.0)), np.zeros((4, 32, 32, 32))
    for axes, level in (((0, 1, 2), True), ((0,), True), ((1, 2), False), ((), False)):
        plain, mean = (predict_prepared(Sided(), replace(card, tta_axes=axes), image, tta=tta) for tta in (False, True))
        assert plain[0, 0, 0, 0] < 0.1
        assert np.allclose(mean, 0.5) == level


def checkpoint(folder, spacing=(1.0, 1.0, 1.0)):
    path = folder / "model" / "best.safetensors"
    save_checkpoint(path, Oracle(), make_card(spacing))
    return str(path)


def test_command_with_a_folder_and_with_four_files(tmp_path, capsys):
    case = known_case(tmp_path / "cohort", affine=LAS)
    weights, folder = checkpoint(tmp_path), str(case.label.parent)
    files = [word for modality in MODALITIES for word in (f"--{modality}", str(case.images[modality].path))]
    for words, name in (([folder], "a.nii.gz"), (files, "b.nii")):
        assert main(["predict", *words, "--checkpoint", weights, "--out", str(tmp_path / name)]) == 0
        assert name in capsys.readouterr().out
        np.testing.assert_array_equal(nib.load(tmp_path / name).get_fdata(), nib.load(case.label).get_fdata())


def test_command_with_a_raw_session_takes_the_label_map_back_to_its_series(tmp_path, capsys, monkeypatch):
    case = known_case(tmp_path / "cohort", affine=LAS)
    reference, out = nib.load(case.label), tmp_path / "out"

    def prepare(folder, target, **numbers):
        """What scan_session does, in its own tests: here the four images are a case already."""
        assert folder == tmp_path and numbers == {"t1": "3", "t1ce": None, "t2": None, "flair": None, "mask": None, "study": 2}
        grids = dict.fromkeys(MODALITIES, (reference.shape, reference.affine))
        session = scan_session.Session(target, "t1ce", dict.fromkeys(MODALITIES, np.eye(4)), grids, {})
        for modality, path in session.images.items():
            write_volume(path, nib.load(case.images[modality].path).get_fdata().astype(np.int16), reference.affine)
        return session

    monkeypatch.setattr(scan_session, "prepare_session", prepare)
    words = ["predict", "--raw", str(tmp_path), "--t1", "3", "--study", "2", "--to", "flair"]
    words += ["--checkpoint", checkpoint(tmp_path), "--out"]
    assert main([*words, str(out)]) == 0
    np.testing.assert_array_equal(nib.load(out / "label_map_on_flair_grid.nii.gz").get_fdata(), reference.get_fdata())
    assert re.search(r"TC [\d.]+ ml, WT .* ET .*for research, not for diagnosis", capsys.readouterr().out)
    assert main([*words, str(tmp_path / "one.nii.gz")]) == 1
    assert "give a folder to --out" in capsys.readouterr().err


def test_a_raw_session_is_refused_before_it_is_prepared(tmp_path, capsys, monkeypatch):
    known_case(tmp_path / "cohort")
    monkeypatch.setattr(scan_session, "prepare_session", lambda *_, **__: pytest.fail("minutes went by"))
    words = ["predict", "--raw", str(tmp_path / "cohort"), "--out", str(tmp_path / "out"), "--checkpoint"]
    assert main([*words, str(tmp_path / "none.safetensors")]) == 1
    assert "none.safetensors does not exist" in capsys.readouterr().err
    assert main([*words, checkpoint(tmp_path), "--dicom-seg"]) == 1
    assert "leave out --dicom-seg" in capsys.readouterr().err


def test_command_with_a_cohort_goes_on_after_a_bad_case(tmp_path, capsys):
    for number in (1, 2, 3):
        known_case(tmp_path / "cohort", f"Case_{number:03}")
    (tmp_path / "cohort" / "Case_002" / "Case_002_t2.nii.gz").unlink()
    words = ["predict", str(tmp_path / "cohort"), "--checkpoint", checkpoint(tmp_path), "--out"]
    assert main([*words, str(tmp_path / "out")]) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Case_001.nii.gz", "Case_003.nii.gz"]
    assert "Case_002: T2 is missing" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "one.nii.gz")]) == 1
    assert "3 cases" in capsys.readouterr().err


def test_a_label_map_of_an_earlier_run_is_told_from_those_of_this_one(tmp_path, capsys):
    case = known_case(tmp_path / "cohort")
    words = ["predict", str(tmp_path / "cohort"), "--checkpoint", checkpoint(tmp_path), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    case.images["t2"].path.write_bytes(b"")
    assert main(words) == 1
    assert "Case_001.nii.gz is of an earlier run" in capsys.readouterr().out


def test_cases_that_the_model_learnt_from_are_named(tmp_path, capsys):
    known_case(tmp_path / "cohort")
    path = tmp_path / "learnt.safetensors"
    save_checkpoint(path, Oracle(), replace(make_card(), training_cases=("Case_000", "Case_001")))
    words = ["predict", str(tmp_path / "cohort"), "--out", str(tmp_path / "out"), "--checkpoint"]
    assert main([*words, str(path)]) == 0
    assert "learnt from 1 cases of these names, such as Case_001" in capsys.readouterr().err
    assert main([*words, checkpoint(tmp_path)]) == 0
    assert "learnt" not in capsys.readouterr().err


def test_tta_that_changes_nothing_is_said(tmp_path, capsys):
    folder = known_case(tmp_path / "cohort").label.parent
    plain = tmp_path / "plain.safetensors"
    save_checkpoint(plain, Oracle(), replace(make_card(), tta_axes=()))
    for path, words, said in ((plain, ["--tta"], True), (plain, [], False), (checkpoint(tmp_path), ["--tta"], False)):
        assert main(["predict", str(folder), "--out", str(tmp_path / "a.nii.gz"), "--checkpoint", str(path), *words]) == 0
        assert ("--tta changes nothing" in capsys.readouterr().err) == said


def test_command_refuses_what_does_not_fit_together(tmp_path, capsys):
    case = known_case(tmp_path / "cohort")
    options = ["--checkpoint", checkpoint(tmp_path), "--out", str(tmp_path / "seg.nii.gz")]
    paths = {modality: case.images[modality].path for modality in MODALITIES}
    other = tmp_path / "other_grid.nii.gz"
    write_volume(other, np.ones((24, 28, 21), np.int16), LPS)
    moved = tmp_path / "moved.nii.gz"
    write_volume(moved, np.ones((24, 28, 20), np.int16), LPS + _shift(5))
    for changed, words in (
        ({"flair": other}, "shape"),
        ({"t2": moved}, "affine"),
        ({"t1ce": tmp_path / "none.nii.gz"}, "none.nii.gz does not exist"),
        ({"t1": None}, "no file was given for t1"),
    ):
        files = [word for name, path in {**paths, **changed}.items() if path for word in (f"--{name}", str(path))]
        assert main(["predict", *files, *options]) == 1
        assert words in capsys.readouterr().err
    assert main(["predict", *options]) == 1
    assert "give CASE, or --t1" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "cohort"), "--study", "2", *options]) == 1
    assert "--study belong to --raw" in capsys.readouterr().err
    assert main(["predict", "--raw", str(tmp_path), "--labels", "brats2023", "--out", str(tmp_path / "out")]) == 1
    assert "--raw writes the numbers of BraTS 2021" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "cohort"), "--raw", str(tmp_path), *options]) == 1
    assert "one of CASE, files and a raw session" in capsys.readouterr().err
    assert not (tmp_path / "seg.nii.gz").exists()


def _shift(millimetres):
    shift = np.zeros((4, 4))
    shift[0, 3] = millimetres
    return shift


def test_files_are_all_needed():
    with pytest.raises(DataError, match="no file was given for t1ce, t2 and flair; all of t1, t1ce, t2 and flair are needed"):
        case_of_files({"t1": "a.nii"})
