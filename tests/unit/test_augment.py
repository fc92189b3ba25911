"""Random changes to patches: what moves, what stays, and that the background stays exactly 0."""

import pytest
import torch
from monai.transforms import Compose

from helpers.data.patches import InsideBrain, training_transforms

EDGE = 12


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(4, EDGE, EDGE, EDGE, generator=generator)
    image[:, :4] = 0
    image[2, :, :, 5] = 0  # a contrast may be 0 where the others are not
    return {"image": image, "label": torch.randint(0, 4, (1, EDGE, EDGE, EDGE), generator=generator, dtype=torch.uint8)}


def test_image_and_label_move_together_and_keep_their_values(sample):
    sample["image"] = torch.cat([sample["label"]] * 4).float()
    movements = Compose(training_transforms((EDGE,) * 3).transforms[:-1])
    for seed in range(8):
        changed = movements.set_random_state(seed=seed)(dict(sample))
        assert torch.equal(changed["image"][0].to(torch.uint8), changed["label"][0])
        assert torch.equal(changed["label"].flatten().sort().values, sample["label"].flatten().sort().values)
        assert changed["label"].dtype == torch.uint8


def test_intensity_changes_stay_inside_the_brain_and_off_the_label(sample):
    before = sample["image"].clone()
    changes = training_transforms((EDGE,) * 3).transforms[-1]
    assert len(changes.transforms) == 4
    for change in changes.transforms:
        change.prob = 1.0
        changed = InsideBrain([change]).set_random_state(seed=1)(dict(sample))
        background = before == 0
        assert (changed["image"][background] == 0).all()
        assert (changed["image"][~background] != before[~background]).float().mean() > 0.9
        assert torch.equal(changed["label"], sample["label"])
        assert torch.equal(sample["image"], before), "the caller's image was changed"


def test_same_seed_same_patch(sample):
    transforms = training_transforms((EDGE,) * 3)
    results = [transforms.set_random_state(seed=seed)(dict(sample))["image"] for seed in (5, 6, 5)]
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])


def test_each_axis_is_flipped_about_half_of_the_time(sample):
    transforms = training_transforms((EDGE, EDGE + 4, EDGE))  # without rotation
    image = torch.zeros(4, EDGE, EDGE + 4, EDGE)
    image[:, 0, 0, 0] = 1
    corner = {"image": image, "label": torch.zeros(1, EDGE, EDGE + 4, EDGE, dtype=torch.uint8)}
    flipped = torch.zeros(3)
    for seed in range(200):
        place = transforms.set_random_state(seed=seed)(dict(corner))["image"][0].nonzero()[0]
        flipped += place > 0
    assert ((flipped > 70) & (flipped < 130)).all()


def test_rotation_is_left_out_where_it_would_change_the_shape():
    sample = {"image": torch.ones(4, 8, 12, 16), "label": torch.zeros(1, 8, 12, 16, dtype=torch.uint8)}
    transforms = training_transforms((8, 12, 16))
    shapes = {tuple(transforms.set_random_state(seed=seed)(dict(sample))["image"].shape) for seed in range(20)}
    assert shapes == {(4, 8, 12, 16)}


@pytest.mark.parametrize("mirrors", [(), (0,), (2,), (0, 1)])
def test_patches_are_mirrored_along_the_named_axes_only(mirrors):
    change = training_transforms((EDGE,) * 3, flip_axes=mirrors)
    coordinates = torch.stack(torch.meshgrid(*[torch.arange(EDGE)] * 3, indexing="ij")).to(torch.uint8)
    turned = set()
    for seed in range(40):
        for axis in range(3):
            label = coordinates[axis : axis + 1]
            moved = change.set_random_state(seed=seed)({"image": torch.ones(4, EDGE, EDGE, EDGE), "label": label})["label"]
            if not torch.equal(torch.as_tensor(moved), label):
                turned.add(axis)
    assert turned == set(mirrors)
