"""Real time on a clock that tests hold still: the absolute grid, overruns, deadlines, windows."""

import pytest
import toys

from hil.clock import RealTime
from twin.errors import RunBroken, ScenarioError
from twin.scenario import build, window_of
from twin.units import NS_PER_S

MS = NS_PER_S // 1000


class Held:
    """A monotonic clock that moves when told, or when somebody sleeps on it."""

    def __init__(self):
        self.ns = 5 * NS_PER_S
        self.sleeps = []

    def now(self):
        return self.ns

    def wait(self, until_ns):
        self.sleeps.append(until_ns)
        self.ns = max(self.ns, until_ns)


def ticking(rt_factor=1.0, max_lag_s=1.0, **delays):
    held = Held()
    agents = toys.TwoTier(slot_s=0.01, **delays).agents
    return RealTime(0.01, agents, rt_factor, max_lag_s, held.wait, held.now), held, agents


def test_slots_stand_on_an_absolute_grid_whatever_the_twin_needs():
    clock, held, _ = ticking()
    start = clock.slot_start_ns(0)
    for slot in range(5):
        clock.start(slot)
        assert held.ns == start + slot * 10 * MS
        held.ns += 3 * MS
    assert clock.overruns == 0


@pytest.mark.parametrize(("rt_factor", "period_ms"), [(1.0, 10), (5.0, 2), (0.5, 20)])
def test_rt_factor_scales_the_grid_and_the_deadlines(rt_factor, period_ms):
    clock, _, (leader, follower) = ticking(rt_factor)
    start = clock.slot_start_ns(0)
    assert clock.slot_start_ns(7) - start == 7 * period_ms * MS
    assert clock.due_ns(leader, 0) - start == pytest.approx(0.4 * period_ms * MS)
    assert clock.due_ns(follower, 0) - start == pytest.approx(0.8 * period_ms * MS)


def test_deadline_with_delay_is_the_start_of_the_slot_it_governs():
    clock, _, (_, follower) = ticking(delay=3)
    assert clock.due_ns(follower, 2) == clock.slot_start_ns(5)


def test_slot_the_twin_could_not_keep_is_counted_and_the_grid_stays():
    clock, held, _ = ticking()
    clock.start(0)
    held.ns += 25 * MS
    clock.start(1)
    clock.start(2)
    clock.start(3)
    assert clock.overrun_slots == [1, 2]
    assert held.ns == clock.slot_start_ns(3)


def test_lag_beyond_the_limit_ends_the_run_and_says_what_to_do():
    clock, held, _ = ticking(max_lag_s=0.05)
    clock.start(0)
    held.ns += 100 * MS
    with pytest.raises(RunBroken, match=r"0\.09 s behind real time at slot 1.*lower rt_factor"):
        clock.start(1)


def test_follower_is_released_when_the_signal_to_it_has_flown():
    clock, held, _ = ticking(rt_factor=2.0)
    clock.start(0)
    assert clock.release_ns(0, follower=False, signal_delay_s=0.0) == clock.slot_start_ns(0)
    held.ns += MS
    assert clock.release_ns(0, follower=True, signal_delay_s=0.004) == clock.slot_start_ns(0) + MS + 2 * MS
    assert held.ns == clock.slot_start_ns(0) + 3 * MS


def test_signal_that_flies_longer_than_the_last_window_is_no_overrun_of_the_twin():
    clock, held, (_, follower) = ticking()
    clock.start(0)
    assert clock.release_ns(0, follower=True, signal_delay_s=0.0099) == clock.due_ns(follower, 0) == held.ns
    held.ns += MS
    assert clock.release_ns(0, follower=True, signal_delay_s=0.0099) == held.ns  # nor is it released before now
    clock.start(1)
    assert clock.overruns == 0


def test_windows_share_the_first_four_fifths_of_the_slot():
    leader, follower = toys.TwoTier().agents
    assert (window_of(leader, (leader, follower)), window_of(follower, (leader, follower))) == (0.4, 0.8)


def test_windows_must_grow_with_order():
    scenario = toys.scenario()
    world = build(scenario)
    object.__setattr__(world.agents[0], "window", 0.9)
    from twin.scenario import _check_windows

    with pytest.raises(
        ScenarioError, match=r"agent\.follower answers after agent\.leader, so its window 0\.8 must be larger than 0\.9"
    ):
        _check_windows(scenario, world)
