"""The experiments of the D2D paper: their ceiling, their flights, and statement S8 (slow)."""

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest

from controllers.papers.d2d import (
    QUICK,
    S8_OF_SEEDS,
    S8_SHARE,
    SEEDS,
    STYLES,
    Curve,
    Flight,
    Result,
    baselines,
    capacity_rows,
    case_of,
    exhaustive,
    fly,
    ratio_row,
    seed_of,
    study,
    train,
)
from twin.stats import estimate
from twin.types import Action
from twin.worlds.d2d import follower_utility


@pytest.fixture(scope="module")
def case():
    """Two pairs on two channels, two episodes of lessons."""
    return case_of(5, 2, 2, 100)


def test_exhaustive_search_equals_a_plain_loop(case):
    slot = case.held_out[0]
    powers_w = np.geomspace(*slot.game.power_w, 5)
    found = [
        follower_utility(slot.game, slot.price, np.array(channel), np.array(power_w)).mean()
        for channel in itertools.product(range(2), repeat=2)
        for power_w in itertools.product(powers_w, repeat=2)
    ]
    assert exhaustive(slot, 5) == pytest.approx(max(found), rel=1e-12)


def test_slots_computed_ahead_are_those_the_world_draws(case):
    world = case.world()
    world.reset(seed_of(5, False))
    for slot in case.lessons[:3]:
        assert np.array_equal(world.game().direct_gain, slot.game.direct_gain)
        world.step()


def test_no_followers_pass_the_ceiling_and_the_closed_form_is_near_it(case):
    flights = baselines(case)
    assert all(flight.utility <= case.best * 1.005 for flight in flights.values())
    assert flights["closed form"].utility > 0.95 * case.best
    assert flights["random"].utility < 0.0


def test_the_same_lessons_teach_the_same(case):
    one, two = (train(case, {"batch": 16}) for _ in range(2))
    assert np.array_equal(one.utility, two.utility)
    assert len(one.utility) == 2


def test_a_curve_that_never_is_at_a_level_takes_one_episode_more_than_there_were():
    curve = Curve(np.array([0.0, 1.0, 2.0]), np.zeros(3), np.zeros(3), np.zeros(1))
    assert [curve.episodes_to(level) for level in (0.0, 1.5, 9.0)] == [1, 3, 4]


@pytest.mark.parametrize("utility", [4.0, 0.0, -4.0])
def test_every_curve_settles_whatever_the_sign_of_its_final_utility(utility):
    curve = Curve(np.full(10, utility), np.ones(10), np.ones(10), np.ones(1))
    assert curve.episodes_to(curve.settled) == 1


def result_with(capacity):
    """A place where the guided learner ends with this capacity, the unguided one with 1."""
    curves = {
        name: Curve(np.ones(1), np.array([end]), np.ones(1), np.ones(1))
        for name, end in (("guided", capacity), ("unguided", 1.0))
    }
    return Result(np.nan, {name: Flight(1.0, 1.0, np.ones(1), 0.0) for name in STYLES}, curves)


def test_capacity_of_a_place_with_more_and_more_pairs_is_one_sample(tmp_path):
    size = replace(QUICK, capacity_layouts=(0, 1), capacity_pairs=(3, 4))
    tasks = [(layout, 3, n_pairs) for n_pairs in (3, 4) for layout in (0, 1)]
    results = [result_with(capacity) for capacity in (1.1, 1.3, 1.1, 1.3)]
    (row,) = capacity_rows(size, results, tasks, tmp_path)
    mean, half = estimate(np.log([1.1, 1.3]).tolist(), 0.95)
    assert row.value == pytest.approx(np.exp(mean))
    assert row.interval == pytest.approx((np.exp(mean - half), np.exp(mean + half)))
    (alone,) = capacity_rows(replace(size, capacity_layouts=(0,)), results[::2], tasks[::2], tmp_path)
    assert alone.interval is None
    assert not alone.reached


class SlowToPrepare:
    """A learner whose job is nothing, but whose rows take 10 ms to gather."""

    def act(self, seen):
        return Action({"channel": np.zeros(2, np.int64), "power_w": np.full(2, 1e-4)})

    def learn(self):
        time.sleep(0.01)


def test_time_of_learning_counts_what_prepares_a_job(case):
    assert fly(case.world(), case.lessons[:3], SlowToPrepare(), True).learn_s >= 0.03


def test_a_ratio_is_reached_only_with_its_whole_interval():
    assert ratio_row("sooner", np.log([0.5, 0.52, 0.48]), "").reached
    assert not ratio_row("sooner", np.log([0.5, 1.5, 0.6]), "").reached


@pytest.fixture(scope="module")
def places():
    """S8's places with both learners: some minutes."""
    return [study(layout, 2, 2, QUICK.slots, ("guided", "unguided")) for layout in SEEDS]


@pytest.mark.slow
def test_s8_guided_utility_is_0_9_of_exhaustive_search_s(places):
    reached = [place.curves["guided"].final >= S8_SHARE * place.best for place in places]
    assert sum(reached) >= S8_OF_SEEDS


@pytest.mark.slow
@pytest.mark.xfail(reason="3 of 5 places: the two learners are not told apart, see docs/papers/d2d.md", strict=False)
def test_s8_guided_settles_no_later_than_unguided(places):
    episodes = [[c.episodes_to(c.settled) for c in place.curves.values()] for place in places]
    assert sum(guided <= unguided for guided, unguided in episodes) >= S8_OF_SEEDS
