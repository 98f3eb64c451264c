"""The experiments of the D2D paper: their ceiling, their flights, and statement S8 (slow)."""

import itertools

import numpy as np
import pytest

from controllers.papers.d2d import (
    QUICK,
    S8_OF_SEEDS,
    S8_SHARE,
    SEEDS,
    SETTLED,
    Curve,
    baselines,
    case_of,
    exhaustive,
    ratio_row,
    seed_of,
    study,
    train,
)
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
    episodes = [[c.episodes_to(SETTLED * c.final) for c in place.curves.values()] for place in places]
    assert sum(guided <= unguided for guided, unguided in episodes) >= S8_OF_SEEDS
