"""Phantoms as cases, and the endless stream: every patch a pure function of seed and number, in whatever order."""

import pickle
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from brats_cohort.cases import discover, read_classes, read_image
from brats_cohort.files import DataError
from glioma_phantom import PhantomSettings, draw_random_phantom, make_phantom, write_cohort
from helpers.cli import main
from helpers.data.patches import training_transforms
from helpers.data.phantoms import HELD_OUT_SEED, PhantomStream, StreamSettings, held_out_phantoms, prepare_phantom
from helpers.data.prepared import PreparedFile, PreprocessSettings
from helpers.data.preprocess import preprocess_image
from helpers.models.checkpoints import load_checkpoint

PATCH = (16, 16, 16)
COARSE = StreamSettings(spacing=4, patches_per_case=2, pool=2, lanes=2)


def test_a_cohort_of_phantoms_is_one_of_cases(tmp_path, capsys):
    settings = PhantomSettings(spacing=4.0)
    write_cohort(tmp_path, 2, settings, workers=0, progress=False)
    cases = discover(tmp_path, "phantom")
    assert [case.identifier for case in cases] == ["Phantom_00000", "Phantom_00001"]
    phantom, (image, affine) = make_phantom(1, settings), read_image(cases[1])
    assert np.array_equal(image, phantom.image) and np.allclose(affine, phantom.affine)
    assert np.array_equal(read_classes(cases[1])[0], phantom.classes)
    assert main(["phantom", "--out", str(tmp_path), "--spacing", "2"]) == 1
    assert "; choose another folder or remove that one\n" in capsys.readouterr().err


def stream(count: int = 16, settings: StreamSettings = COARSE, **options) -> PhantomStream:
    return PhantomStream(settings, patch=PATCH, count=count, **options)


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(first[key], second[key]) for key in ("image", "regions"))


@pytest.fixture(scope="module")
def in_order():
    patches = stream(transforms=training_transforms(PATCH))
    return [patches[index] for index in range(16)]


def test_a_patch_depends_on_seed_and_number_alone(in_order):
    changed = training_transforms(PATCH)
    backwards = stream(count=99, transforms=changed)
    assert all(same(backwards[index], in_order[index]) for index in (15, 6, 7, 0))
    assert not same(stream(settings=StreamSettings(spacing=4, seed=7), transforms=changed)[0], in_order[0])


def test_workers_give_the_same_patches(in_order):
    loader = DataLoader(stream(transforms=training_transforms(PATCH)), batch_size=2, num_workers=2, shuffle=False)
    for number, batch in enumerate(loader):
        for place in range(2):
            assert same({key: batch[key][place] for key in batch}, in_order[2 * number + place])


def test_patches_have_types_shapes_and_clean_background(in_order):
    for patch in in_order:
        image, regions = patch["image"], patch["regions"]
        assert image.shape == (4, *PATCH) and image.dtype == torch.float32 and torch.isfinite(image).all()
        assert regions.shape == (3, *PATCH) and regions.dtype == torch.bool
        assert not (regions[0] & ~regions[1]).any() and not (regions[2] & ~regions[0]).any()
        assert not regions[:, (image == 0).all(0)].any()


@hypothesis.given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), *[st.sampled_from([1, 2, 4])] * 2)
def test_every_case_is_used_up_and_forgotten(patches_per_case, pool, lanes, batch, workers):
    chosen = StreamSettings(patches_per_case=patches_per_case, pool=pool, lanes=lanes)
    patches = stream(settings=chosen, count=400, batch=batch)
    cases = [patches.case_of(index) for index in range(400)]
    counts = np.bincount(cases)
    whole = counts[lanes * pool : max(len(counts) - lanes * (2 * pool + batch), 0)]
    assert (whole == patches_per_case).all()
    if lanes % workers == 0:  # then no two workers ever need the same case
        users = {(case, index // batch % workers) for index, case in enumerate(cases)}
        assert len(users) == len(set(cases))
    first, last = ({case: index for index, case in order} for order in (list(enumerate(cases))[::-1], list(enumerate(cases))))
    assert all(last[case] - first[case] < 2 * lanes * (pool * patches_per_case + batch) for case in last)


def test_each_case_is_made_once_while_its_patches_are_asked_for_in_order(monkeypatch):
    made = []

    def draw(seed, index, **options):
        made.append(index)
        return draw_random_phantom(seed, index, **options)

    monkeypatch.setattr("helpers.data.phantoms.draw_random_phantom", draw)
    patches = stream(count=8)
    list(patches)
    assert sorted(made) == sorted({patches.case_of(index) for index in range(8)})
    assert len(pickle.dumps(patches)) < 5000  # a worker gets no cases


def test_phantoms_are_prepared_as_files_are(monkeypatch):
    phantom = draw_random_phantom(5, 3, spacing=4)
    monkeypatch.setattr("helpers.data.phantoms.draw_random_phantom", lambda *_, **__: phantom)
    settings = PreprocessSettings(4.0, correct_bias=True)
    wanted = preprocess_image(phantom.image, phantom.affine, settings, classes=phantom.classes)
    found = prepare_phantom(5, 3, settings)
    assert np.allclose(found.image, wanted.image, atol=2e-3) and np.array_equal(found.classes, wanted.classes)
    assert stream().preprocessing["spacing"] == (4.0, 4.0, 4.0)


def test_the_fingerprint_tells_streams_apart():
    assert stream().fingerprint == stream().fingerprint
    others = [stream(settings=StreamSettings(spacing=4)), stream(batch=3)]
    others += [stream(transforms=training_transforms(PATCH, flip_axes=mirrors)) for mirrors in ((), (0,), (1,), (0, 1, 2))]
    assert len({stream().fingerprint, *(other.fingerprint for other in others)}) == 7


def test_held_out_phantoms_are_files_that_no_stream_shows(tmp_path):
    paths = held_out_phantoms(tmp_path, 2, spacing=4)
    first, second = (PreparedFile(path) for path in paths)
    assert first.identifier != second.identifier and first.has_classes
    again = held_out_phantoms(tmp_path / "again", 2, spacing=4)[1]
    assert np.array_equal(PreparedFile(again).load().image, second.load().image)
    with pytest.raises(DataError, match="held out"):
        StreamSettings(seed=HELD_OUT_SEED)


def test_held_out_phantoms_are_made_once_for_each_grid(tmp_path, monkeypatch):
    (path,) = held_out_phantoms(tmp_path, 1, spacing=4)
    kept = path.stat().st_mtime_ns
    made = []

    def watched(seed, index, settings):
        made.append(settings.spacing)
        return PreparedFile(path).load()

    monkeypatch.setattr("helpers.data.phantoms.prepare_phantom", watched)
    assert held_out_phantoms(tmp_path, 1, spacing=4) == [path] and path.stat().st_mtime_ns == kept and not made
    (other,) = held_out_phantoms(tmp_path, 1, spacing=2)
    assert other != path and made == [(2.0,) * 3]
    monkeypatch.setattr("helpers.data.phantoms.RANDOMISED_VERSION", -1)
    assert held_out_phantoms(tmp_path, 1, spacing=4) != [path] and len(made) == 2


@pytest.mark.parametrize("wrong", [{"spacing": 3}, {"pool": 0}, {"lanes": 0}, {"patches_per_case": 0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(DataError, match=next(iter(wrong))):
        StreamSettings(**wrong)


def test_the_command_trains_on_the_stream(tmp_path, capsys):
    words = ["train", "--cohort", "phantom-stream", "--out", str(tmp_path), "--spacing", "4", "--held-out", "1"]
    words += ["--steps", "2", "--validate-every", "2", "--patch", "32", "--device", "cpu"]
    assert main([*words, "--arguments", '{"channels": [4, 8], "num_res_units": 1}']) == 0
    _, card = load_checkpoint(Path(capsys.readouterr().out.rsplit(": ", 1)[-1].strip()))
    assert card.spacing == (4.0, 4.0, 4.0) and len(card.cohort_hash) == 64
    assert len(list((tmp_path / "held_out").glob("*.safetensors"))) == 1
