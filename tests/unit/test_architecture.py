"""The figures of networks and patches say what the networks do: checked against the networks themselves."""

import numpy as np
import pandas as pd
import pytest
import torch
from monai.networks.layers.simplelayers import SkipConnection
from monai.networks.nets.swin_unetr import BasicLayer
from monai.transforms import RandFlipd

from helpers.models.networks import build_network
from helpers.plots.case import apply_style, show_augmentations, show_boxes
from helpers.plots.profiling import (
    reach,
    show_swin_hierarchy,
    show_unet,
    show_windows,
    window_range,
)
from helpers.plots.results import show_race
from tests.cases import case_arrays

RAS = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture(autouse=True)
def _style():
    apply_style()


@pytest.mark.parametrize("channels", [(8, 16, 32), (4, 8, 16, 32)])
def test_the_u_has_the_shapes_of_the_network(channels):
    network, joined = build_network("unet", channels=channels), []
    for module in network.modules():
        if isinstance(module, SkipConnection):
            module.register_forward_hook(lambda _, given, output: joined.append((given[0].shape, output.shape)))
    network(torch.zeros(1, 4, 32, 32, 32))
    written = {text.get_text() for text in show_unet(channels, edge=32).texts}
    for before, after in joined:
        grid = before[-1]
        assert f"{before[1]} × {grid}³" in written
        assert f"({before[1]} + {after[1] - before[1]}) × {grid}³" in written
    assert len(joined) == len(channels) - 1


@pytest.mark.parametrize("place", [(4, 5, 7), (0, 3, 11)])
def test_a_token_is_reached_from_where_the_figure_says(place):
    torch.manual_seed(0)
    layer = BasicLayer(dim=6, depth=2, num_heads=1, window_size=(4, 4, 4), drop_path=[0.0, 0.0]).eval()
    tokens = torch.randn(1, 6, 12, 12, 12, requires_grad=True)
    layer(tokens)[0, :, place[0], place[1], place[2]].sum().backward()
    touched = np.argwhere(tokens.grad[0].abs().sum(0).numpy() > 1e-12)  # the mask of MONAI is -100, not minus infinity
    for axis, token in enumerate(place):
        expected = [t for t in reach(token, 4) if 0 <= t < 12]
        assert (touched[:, axis].min(), touched[:, axis].max()) == (expected[0], expected[-1])


def test_every_token_lies_in_its_window():
    for shifted in (False, True):
        for token in range(20):
            assert token in window_range(token, 4, shifted=shifted)


def test_windows_and_hierarchy_are_drawn_with_and_without_a_tumour():
    image, classes = case_arrays((40, 44, 36))
    for labels in (classes, None, np.zeros_like(classes)):
        assert len(show_windows(image[3], RAS, classes=labels).axes) == 3
    titles = [ax.get_title(loc="left") for ax in show_swin_hierarchy(image[3], RAS, edge=64).axes]
    assert [title.split(": ")[1] for title in titles] == ["32³ tokens", "16³ tokens", "8³ tokens", "4³ tokens"]


def test_boxes_are_outlined_where_they_lie():
    image = case_arrays((40, 44, 36))[0]
    ax = show_boxes(image[3], RAS, [(slice(0, 10), slice(4, 24), slice(0, 36)), (slice(30, 40), slice(0, 44), slice(35, 36))])
    first, second = ax.patches
    assert (first.get_x(), first.get_y(), first.get_width(), first.get_height()) == (60, 40, 20, 40)
    assert (first.get_linestyle(), second.get_linestyle()) == ("-", ":")
    assert second.get_x() == 0


def test_augmentations_are_shown_at_the_slice_where_the_tumour_went():
    image, classes = case_arrays((24, 24, 24))
    classes[:, :, 12:] = 0
    sample = {"image": torch.from_numpy(image).float(), "label": torch.from_numpy(classes[None])}
    flipped = RandFlipd(("image", "label"), prob=1.0, spatial_axis=2)(sample)
    pairs = {name: (np.asarray(s["image"][3]), np.asarray(s["label"][0])) for name, s in (("as is", sample), ("up", flipped))}
    slices = [int(ax.get_title(loc="left").split()[-1]) for ax in show_augmentations(pairs, RAS, columns=2).axes[:2]]
    assert slices[0] + slices[1] == 23


def test_a_race_names_its_steps():
    history = pd.DataFrame({"step": [1, 2], "seconds": [1.0, 2.0], "dice_mean": [np.nan, 0.4]})
    ax = show_race({"first": history, "second": history.iloc[[1]]})
    assert [line.get_label() for line in ax.lines] == ["first, 2 steps", "second, 2 steps"]
    assert ax.lines[0].get_xydata().tolist() == [[2.0, 0.4]]
