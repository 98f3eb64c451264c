"""The channel's figures against their goals, as `ntn-twin bench channel` measures them; for an idle machine."""

import pytest

from hil import bench_channel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found():
    """One full measurement, a minute or two long."""
    measured = bench_channel.channel()
    print(bench_channel.table(measured))
    return measured


@pytest.mark.parametrize("key", bench_channel.GOALS)
def test_figure_reaches_its_goal(found, key):
    goal = found["goals"][key]
    if goal["met"] is None:
        pytest.skip(found["why_not"][key])
    assert goal["met"], f"{key} is {found[key]:.3g}, the goal {goal['goal']}; the JSON says what it was made of"


def test_what_was_timed_is_the_full_matrix_s_answer(found):
    for one in found["slot"].values():
        assert one["error"]["ours"]["max_relative"] <= 1e-10
    for one in found["sweep"].values():
        assert one["error"]["ours"]["max_of_peak"] <= 1e-10


def test_threads_and_batches_change_nothing(found):
    assert found["pass"]["same_on_each_number_of_threads"]
    assert found["batch"]["same_answer"]
