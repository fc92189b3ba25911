"""The table of networks: their published settings and counted operations."""

import inspect

import pytest

from helpers.cli import main
from helpers.cli.networks import PUBLISHED, describe_network
from helpers.models.networks import NETWORKS, build_network


def test_each_network_of_the_package_has_a_published_setting_that_its_builder_takes():
    assert set(PUBLISHED) == {"unet", "segresnet", "dynunet", "swin_unetr"} <= set(NETWORKS)
    for name, arguments in PUBLISHED.items():
        assert set(arguments) <= set(inspect.signature(NETWORKS[name].build).parameters)


@pytest.mark.parametrize(("name", "gflop"), [("unet", 97), ("dynunet", 966)])
def test_operations_agree_with_an_independent_count(name, gflop):
    network = build_network(name, **PUBLISHED[name])
    assert describe_network(network, size=(128,) * 3)[1] == pytest.approx(gflop, rel=0.005)


def test_the_table_lists_each_network_and_setting(capsys):
    assert main(["networks", "--spatial-dims", "2", "--network", "unet", "swin_unetr", "--edge", "64"]) == 0
    table = capsys.readouterr().out
    assert [line.split()[:2] for line in table.splitlines()[1:5]] == [
        [name, setting] for name in ("unet", "swin_unetr") for setting in ("laptop", "published")
    ]
    assert "GFLOP 64²" in table


def test_a_network_of_your_own_is_listed_with_its_defaults(monkeypatch, capsys):
    monkeypatch.setitem(NETWORKS, "own", NETWORKS["unet"])
    assert main(["networks", "--spatial-dims", "2", "--network", "own", "--edge", "64"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:2]] == [["own", "laptop"]]


@pytest.mark.parametrize("edge", [100, 8, -16])
def test_an_edge_that_a_network_cannot_take_is_a_sentence(edge, capsys):
    assert main(["networks", "--network", "unet", "--edge", str(edge)]) == 1
    assert f"--edge is {edge}; unet (laptop) takes multiples of 8 from 16 on" in capsys.readouterr().err
