"""Learning from few cases: the network that is given stays, the others learn, and the same seed gives the same scores."""

import pytest
import torch

from helpers.data.preprocess import prepare_cohort
from helpers.models.checkpoints import ModelCard
from helpers.models.networks import build_network
from helpers.training.before.transfer import fine_tune, transfer_scores
from tests.cases import write_case

ARGUMENTS = {"channels": (8, 16), "num_res_units": 1}
CLEAN = {"tumour_ml": 0.0, "enhancing_ml": 0.0}
CARD = ModelCard("unet", ARGUMENTS, {"spacing": (1.0, 1.0, 1.0), "normalise": "zscore"}, (16, 16, 16), postprocessing=CLEAN)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    cases = [write_case(folder, f"Case_{number:03}", seed=number) for number in range(3)]
    return list(prepare_cohort(cases, folder / "prepared", workers=1, progress=False).paths.values())


def test_the_loss_falls(prepared):
    torch.manual_seed(0)
    course = fine_tune(build_network("unet", **ARGUMENTS), prepared[:1], patch=(16, 16, 16), steps=12, rate=0.01)
    assert len(course) == 12 and sum(course[-3:]) < sum(course[:3])


def test_every_start_and_size_is_scored_and_the_given_network_stays(prepared):
    torch.manual_seed(0)
    network = build_network("unet", **ARGUMENTS).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    table = transfer_scores(network, CARD, prepared[:2], prepared[2:], sizes=(1, 2), steps=2)
    assert {(row.start, row.cases) for row in table.itertuples()} == {
        ("released", 0),
        ("released", 1),
        ("scratch", 1),
        ("released", 2),
        ("scratch", 2),
    }
    assert len(table) == 5 * 3 and table["dice"].between(0, 1).all()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert table.equals(transfer_scores(network, CARD, prepared[:2], prepared[2:], sizes=(1, 2), steps=2))
