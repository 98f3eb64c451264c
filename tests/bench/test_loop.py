"""The loop's figures against their goals, as `ntn-twin bench loop` measures them; for an idle machine."""

import pytest

from hil import bench

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found():
    """One full measurement, some minutes long."""
    measured = bench.loop(bench.FULL, print)
    print(bench.table(measured))
    return measured


@pytest.mark.parametrize("key", bench.GOALS)
def test_figure_reaches_its_goal(found, key):
    if found[key] is None:
        pytest.skip(found["why_not"][key])
    assert bench.met(key, found[key]), f"{key} is {found[key]:.3g}, the goal {found['goals'][key]['goal']}"


def test_every_cycle_is_accounted_for(found):
    assert found["lateness"]["as_it_is"]["every_cycle_accounted_for"]
    assert found["lateness"]["as_it_is"]["slots"] >= 60_000
