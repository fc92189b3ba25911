"""A training that is stopped and started again ends with the same weights: real processes, really killed."""

import random
import signal

import pytest

from helpers.training import EXIT_STATUS
from tests.slow.trainings import (
    KillAt,
    SignalAfter,
    assert_same_end,
    context,
    finished,
    prepared_cases,
    read_checkpoint,
    run,
)

RECIPES = {
    "accumulated and averaged": {"accumulate": 2, "ema": 0.9},
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


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """Where a training of each recipe lies that nobody stopped."""
    folders = {recipe: tmp_path_factory.mktemp("whole") for recipe in RECIPES}
    assert [start(folders[recipe], changes) for recipe, changes in RECIPES.items()] == [0] * len(RECIPES)
    return folders


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_again_and_again_it_ends_as_if_never_stopped(recipe, start, whole, tmp_path):
    """At random moments of random steps, 6 times each: SIGKILL where nothing can be done, SIGTERM where it can.

    A training that reaches its end before that is compared, and another one begun.
    """
    changes = RECIPES[recipe]
    generator = random.Random(recipe)
    deaths, begun = 0, 1
    while deaths < 6:
        out = tmp_path / f"cut{begun}"
        number = generator.choice((signal.SIGKILL, signal.SIGTERM))
        status = start(out, changes, SignalAfter(number, generator.randint(1, 4), generator.uniform(0, 0.08)))
        if finished(read_checkpoint(out)):
            assert start(out, changes) == 0
            assert_same_end(whole[recipe], out)
            begun += 1
        else:
            assert status in (-signal.SIGKILL, EXIT_STATUS)
            deaths += 1
    assert start(tmp_path / f"cut{begun}", changes) == 0
    assert_same_end(whole[recipe], tmp_path / f"cut{begun}")


@pytest.mark.parametrize(("place", "counts"), [("write", (2, 9)), ("best", (3, 6)), ("validation", (2, 5, 8))])
def test_killed_in_the_middle_of_writing_or_validating(place, counts, start, whole, tmp_path):
    """Half a file on the disk, best weights that no checkpoint holds yet, some cases scored and others not."""
    recipe = "accumulated and averaged"
    changes = RECIPES[recipe]
    for count in counts:
        assert start(tmp_path / "cut", changes, KillAt(place, count)) == -signal.SIGKILL
    assert start(tmp_path / "cut", changes) == 0
    assert_same_end(whole[recipe], tmp_path / "cut")


def test_told_to_stop_while_it_validates_it_loses_one_step(start, whole, tmp_path):
    recipe = "accumulated and averaged"
    changes = RECIPES[recipe]
    for step in (6, 24):
        assert start(tmp_path / "cut", changes, KillAt("validation", step // 6 * 3 - 1, signal.SIGTERM)) == EXIT_STATUS
        state = read_checkpoint(tmp_path / "cut")
        assert state["global_step"] == step - 1 and not finished(state)
    assert start(tmp_path / "cut", changes) == 0
    assert_same_end(whole[recipe], tmp_path / "cut")
