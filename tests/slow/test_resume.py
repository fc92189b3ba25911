"""A training that is stopped and started again ends with the same weights: real processes, really killed."""

import random
import signal

import pytest

from helpers.training.interruption import EXIT_STATUS
from helpers.training.state import read_state
from tests.slow.trainings import SignalAfter, assert_same_end, context, prepared_cases, run

RECIPES = {
    "accumulated and averaged": {"accumulate": 2, "averaging": 0.9},
    "with workers": {"workers": 2, "patience": 3},
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return prepared_cases(tmp_path_factory.mktemp("cases"), 6)


@pytest.fixture(scope="module")
def start(paths):
    """Start a training, wait for its end and return how it ended: 0, `EXIT_STATUS`, or minus the signal that killed it."""
    server = context()

    def start(out, changes, trap=None) -> int:
        process = server.Process(target=run, args=(paths, out, changes, trap))
        process.start()
        process.join(60)
        assert process.exitcode is not None, "a training hangs"
        return process.exitcode

    return start


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_again_and_again_it_ends_as_if_never_stopped(recipe, start, tmp_path):
    """At random moments of random steps, 10 times and more each: SIGKILL where nothing can be done, SIGTERM where it can."""
    changes = RECIPES[recipe]
    assert start(tmp_path / "whole", changes) == 0
    generator = random.Random(recipe)
    deaths = []
    for _ in range(10):
        number = generator.choice((signal.SIGKILL, signal.SIGTERM))
        trap = SignalAfter(number, generator.randint(1, 5), generator.uniform(0, 0.08))
        deaths.append(start(tmp_path / "cut", changes, trap))
        state = read_state(tmp_path / "cut" / "checkpoints" / "state.pt")
        if deaths[-1] == 0:
            break
        assert deaths[-1] in (-signal.SIGKILL, EXIT_STATUS)
        assert state is None or not state["finished"]
    assert len(deaths) >= 10
    assert start(tmp_path / "cut", changes) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "cut")
