"""The pricing game: statements S1 to S6 of docs/papers/d2d.md, closed forms by hand, equilibria, and the player.

The searches are those of controllers/papers/d2d_exact.py, here on some hundreds of games each; marked `slow`, on
10,000.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from controllers import stackelberg
from controllers.papers import d2d_exact as exact
from controllers.stackelberg import (
    NASH_ROUNDS,
    Stackelberg,
    best_assignment,
    best_power,
    best_price,
    equilibrium,
    powers,
    price_case,
    price_range,
    spectral_radius,
    stage_of,
)
from twin import check_controller, load
from twin.check import check_scenario
from twin.errors import ControllerError
from twin.types import Observation
from twin.worlds.d2d import Cell, D2d, Game, Settings, follower_utility, leader_utility

B = 1.0 / math.log(2.0)  # of the paper, at weight 1
ROUNDING = 1e-12  # relative, of some tens of operations
BOUNDS_W = (0.01, 2.0)
MANY = pytest.param(10_000, marks=pytest.mark.slow)


def world(n_pairs=4, n_channels=3, slots=200, **cell) -> D2d:
    settings = Settings(cell=Cell(n_pairs=n_pairs, n_channels=n_channels, **cell))
    return D2d(settings, slots=slots, slot_s=1e-3, folder=".")


def seats(of) -> dict:
    return {agent.name: agent for agent in of.agents}


def crowd(n_pairs, n_channels, seed=0) -> Game:
    return exact.crowd(n_pairs, n_channels, np.random.default_rng(seed))


# S1 to S6


@pytest.mark.parametrize("n", [300, MANY])
def test_s1_best_power_is_the_argmax_of_a_refined_grid(n):
    assert exact.s1_gap(n) <= 1e-9


@pytest.mark.parametrize("n", [300, MANY])
def test_s2_best_price_is_that_of_a_search_over_the_original_game_in_each_case(n):
    gap = exact.s2_gap(n)
    assert sorted(gap) == [1, 2, 3, 4, 5]
    assert max(gap.values()) <= 1e-6


def test_s2_the_printed_rule_fails_in_case_4_and_only_there():
    printed = exact.judge_printed(10_000)
    assert printed.failures[4] > 0.2 * printed.games[4]
    assert sum(printed.failures.values()) == printed.failures[4]
    assert printed.mean_loss > 1.0  # bit/s/Hz


@pytest.mark.parametrize("n", [300, MANY])
def test_s3_nobody_gains_by_leaving_the_equilibrium(n):
    pair, base_station = exact.s3_gains(n)
    assert pair <= 1e-9
    assert base_station <= 1e-6


@pytest.mark.parametrize("n", [1000, MANY])
def test_s4_power_falls_with_price_interference_and_weight_and_payment_with_price(n):
    breaches, identity = exact.s4_breaches(n)
    assert breaches == 0
    assert identity <= ROUNDING


@pytest.mark.parametrize("n", [2000, MANY])
def test_s5_leader_utility_is_continuous_where_d_crosses_zero(n):
    assert exact.s5_jump(n) < 1e-5


@pytest.mark.parametrize("n_games", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_s6_powers_from_two_starts_meet_at_one_nash_equilibrium(n_games):
    nash = exact.s6_nash(n_games)
    assert nash.apart_w <= 1e-9
    assert nash.gain <= 1e-9
    assert nash.clipped > 0


def test_s6_price_loop_reaches_95_percent_of_the_leader_s_optimum_in_the_median_of_50_games():
    loop = exact.s6_loop(50)
    assert np.median(loop.ratio) >= 0.95
    assert loop.ratio.max() <= 1.0 + 1e-9  # the search is one
    assert loop.rounds.max() < stackelberg.MOST_ROUNDS


@pytest.mark.parametrize("n", [500, MANY])
def test_best_responses_equal_grid_search_within_a_step_and_scipy_within_1e_8(n):
    """Roots of the slopes and ends for prices and powers, bounded minimisation for utilities: see `compare`."""
    pytest.importorskip("scipy")
    found = exact.compare(n)
    assert found.twins == 0
    assert max(found.power_steps, found.price_steps) <= 1.0
    assert max(found.power_scipy, found.price_scipy) <= 1e-8
    assert max(found.power_utility, found.price_utility) <= 1e-8
    assert min(found.counts.values()) >= n // 100, found.counts  # of every case and boundary


# by hand


def test_case_1_is_equation_29():
    price = best_price(30.0, 2.0, 2.0, 0.0, 0.0, 1.0, 1.0, BOUNDS_W)  # C = -1, D = 0
    assert price == pytest.approx(B * (1.0 - 1.0 / 30.0), rel=ROUNDING)


def test_case_4_takes_the_smaller_root_where_the_printed_rule_takes_the_minimum():
    game = exact.panels().at([3])
    assert game.case == [4]
    a, b, c, d = (float(np.asarray(x).ravel()[0]) for x in exact._abcd(game))
    delta = a * a * b * b * (1.0 - 4.0 / (3.2 * c) * (d * d / a + d))
    plus, minus = ((-b * (2.0 * d + a) + sign * math.sqrt(delta)) / (2.0 * d * (d + a)) for sign in (1.0, -1.0))
    assert 0.0 < plus < minus
    assert game.best() == pytest.approx([plus], rel=ROUNDING)
    around = np.array([0.99, 1.0, 1.01])
    top, bottom = (
        exact.leader(game, x * around, (b / (x * around) + c) / game.interference_gain) for x in (plus, minus)
    )
    assert top[1] > max(top[0], top[2])
    assert bottom[1] < min(bottom[0], bottom[2])
    best, printed = (exact.leader(game, x, game.answer(x))[0] for x in (game.best(), exact.as_printed(game)))
    assert best > printed + 0.1  # bit/s/Hz


@pytest.mark.parametrize(
    ("cellular_snr", "direct_gain", "received", "case"),
    [
        (5.0, 2.0, 0.0, 1),  # C = -1
        (1.0, 1.0, 0.0, 2),  # C = -2, D = -1
        (5.0, 4.0, 0.0, 3),
        (5.0, 1.0, 0.0, 4),
        (0.5, 1.0, 0.0, 5),
        (5.0, 1.0, 1.0, 1),  # another pair makes up for it
        (5.0, 2.0 * (1.0 + 1e-14), 0.0, 1),  # off by rounding
        (5.0, 2.0 * (1.0 + 1e-10), 0.0, 3),
        (5.0, 0.0, 0.0, 0),  # its own receiver does not hear it
    ],
)
def test_the_case_is_told_by_a_and_d(cellular_snr, direct_gain, received, case):
    assert price_case(cellular_snr, 2.0, direct_gain, 0.0, received) == case


def test_prices_at_the_ends_of_the_range_give_the_powers_at_the_ends():
    lowest, highest = price_range(3.0, 5.0, 0.7, 0.5, BOUNDS_W)
    asked = np.array([0.5 * lowest, lowest, highest, 2.0 * highest])
    assert best_power(asked, 3.0, 5.0, 0.7, 0.5, BOUNDS_W) == pytest.approx([2.0, 2.0, 0.01, 0.01], rel=ROUNDING)


def test_a_pair_that_pays_nothing_sends_with_all_it_has_and_one_without_a_receiver_with_least():
    assert best_power(0.0, 3.0, 5.0, 0.0, 1.0, BOUNDS_W) == 2.0
    assert best_power(1.0, 0.0, 5.0, 0.0, 1.0, BOUNDS_W) == 2.0
    assert best_power(1.0, 3.0, 0.0, 0.0, 1.0, BOUNDS_W) == 0.01


PAIR = {"interference_gain": 3.0, "direct_gain": 5.0, "interference": 0.7, "follower_weight": 1.0, "power_w": BOUNDS_W}
AROUND = {"cellular_snr": 9.0, "received": 0.0, "leader_weight": 1.0}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"interference_gain": np.nan}, "interference_gain must be finite and at least 0, got nan"),
        ({"direct_gain": [1.0, -2.0]}, "direct_gain must be finite and at least 0, got -2"),
        ({"interference": np.inf}, "interference must be finite"),
        ({"follower_weight": -1.0}, "follower_weight must be finite and at least 0, got -1"),
        ({"power_w": (2.0, 0.01)}, "the lowest and the highest"),
        ({"power_w": (-1.0, 1.0)}, "the lowest and the highest"),
        ({"power_w": 2.0}, "the lowest and the highest"),
    ],
)
def test_what_is_no_game_of_one_pair_is_refused_in_words(wrong, words):
    calls = (best_power, {"price": 1.0} | PAIR), (price_range, PAIR), (best_price, AROUND | PAIR)
    for function, arguments in calls:
        with pytest.raises(ValueError, match=words):
            function(**arguments | wrong)


def test_a_price_that_is_no_number_is_refused_and_an_endless_one_gives_the_lowest_power():
    with pytest.raises(ValueError, match="price must be at least 0, got nan"):
        best_power(np.nan, **PAIR)
    with pytest.raises(ValueError, match="cellular_snr must be finite"):
        price_case(np.nan, 1.0, 1.0, 0.0, 0.0)
    assert best_power(np.inf, **PAIR) == BOUNDS_W[0]


@pytest.mark.parametrize(
    ("changes", "channel", "words"),
    [
        ({}, [0, 1, 2], "3 whole numbers from 0 to 1"),
        ({}, [0, -1, 1], "3 whole numbers from 0 to 1"),
        ({}, [0, 1], "3 whole numbers from 0 to 1"),
        ({}, [0.5, 1.0, 1.0], "3 whole numbers from 0 to 1"),
        ({"cross_gain": np.zeros((2, 2))}, [0, 1, 0], r"cross_gain of 3 pairs on 2 channels must be of shape \(3, 3\)"),
        ({"interference_gain": np.ones((2, 3))}, [0, 1, 0], r"must be of shape \(3, 2\), got \(2, 3\)"),
        ({"cross_gain": np.full((3, 3), np.nan)}, [0, 1, 0], "cross_gain must be finite"),
        ({"power_w": np.array([2.0, 1.0])}, [0, 1, 0], "the lowest and the highest"),
    ],
)
def test_channels_and_games_that_do_not_fit_are_refused_in_words(changes, channel, words):
    game = replace(crowd(3, 2), **changes)
    price = np.ones((3, 2))
    for solve in (lambda: equilibrium(game, channel), lambda: powers(game, price, channel)):
        with pytest.raises(ValueError, match=words):
            solve()
    if changes:
        with pytest.raises(ValueError, match=words):
            best_assignment(game)


def test_prices_and_starts_that_do_not_fit_the_game_are_refused_in_words():
    game, price = crowd(3, 2), np.ones((3, 2))
    with pytest.raises(ValueError, match=r"price must be of shape \(3, 2\)"):
        powers(game, price.T, [0, 1, 0])
    with pytest.raises(ValueError, match=r"start_w must be of shape \(3,\)"):
        powers(game, price, [0, 1, 0], [1.0])


@pytest.mark.parametrize("bounds_w", [BOUNDS_W, (0.0, 1.0), (1.0, 1.0)])
def test_prices_and_powers_stay_finite_where_gains_vanish_or_are_out_of_this_world(bounds_w):
    gains = np.array(list(itertools.product([0.0, 1e-308, 1e-60, 1.0, 1e60], repeat=3))).T
    price = best_price(*gains, 1.0, 0.0, 1.0, 1.0, bounds_w)
    power_w = best_power(price, *gains[1:], 1.0, 1.0, bounds_w)
    assert np.isfinite(price).all()
    assert (price >= 0.0).all()
    assert ((power_w >= bounds_w[0]) & (power_w <= bounds_w[1])).all()


def test_a_base_station_without_a_user_takes_the_lowest_price_and_one_that_wants_no_money_the_highest():
    low, high = price_range(3.0, 5.0, 0.7, 1.0, BOUNDS_W)
    assert best_price(0.0, 3.0, 5.0, 0.7, 0.0, 1.0, 1.0, BOUNDS_W) == low
    assert best_price(9.0, 3.0, 5.0, 0.7, 0.0, 0.0, 1.0, BOUNDS_W) == high


def test_best_responses_broadcast_over_leading_axes():
    price = np.linspace(0.1, 1.0, 12).reshape(3, 4)
    bounds_w = np.broadcast_to(BOUNDS_W, (3, 4, 2))
    whole = best_power(price, 3.0, np.arange(1.0, 5.0), 0.5, 1.0, bounds_w)
    assert whole.shape == (3, 4)
    assert whole[2, 1] == best_power(price[2, 1], 3.0, 2.0, 0.5, 1.0, BOUNDS_W)
    assert best_price(price, 3.0, np.ones((2, 1, 1)), 0.5, 0.0, 1.0, 1.0, BOUNDS_W).shape == (2, 3, 4)


def test_kernels_of_one_pair_are_what_they_say_in_plain_python():
    draws = exact.draw(100, 9)
    price, best = exact.mixed_prices(draws, 9), draws.best()
    for k in range(100):
        *gains, leader_weight, follower_weight, bounds_w = (field[k] for field in draws)
        weights = leader_weight, follower_weight, *bounds_w
        assert stackelberg.price_at.py_func(*gains, *weights) == pytest.approx(best[k], rel=ROUNDING)
        plain = stackelberg.power_at.py_func(price[k], *gains[1:4], follower_weight, *bounds_w)
        assert plain == pytest.approx(draws.answer(price)[k], rel=ROUNDING)


# several pairs


def test_jacobi_does_not_settle_where_two_pairs_hear_each_other_better_than_themselves():
    game = crowd(2, 1)
    game.cross_gain[:] = game.direct_gain * 3.0 * (1.0 - np.eye(2))
    channel, price = np.zeros(2, np.int64), np.full((2, 1), 0.05)
    assert spectral_radius(game, channel) == pytest.approx(3.0)
    assert powers(game, price, channel)[1] == NASH_ROUNDS
    assert spectral_radius(game, np.array([0, 1])) == 0.0  # alone, each on its channel


def test_the_spectral_radius_is_that_of_the_matrix_written_out():
    game = crowd(3, 2)
    m = game.cross_gain[0, 2] * game.cross_gain[2, 0] / (game.direct_gain[0] * game.direct_gain[2])
    assert spectral_radius(game, np.array([1, 0, 1])) == pytest.approx(math.sqrt(m))


@pytest.mark.parametrize("seed", range(3))
def test_at_the_equilibrium_no_pair_gains_by_another_channel_or_power(seed):
    game = crowd(4, 3, seed)
    channel = best_assignment(game)
    price, power_w = equilibrium(game, channel)
    assert exact.deviation_gain(game, price, channel, power_w) <= 1e-9
    again, _ = powers(game, price, channel)
    assert again == pytest.approx(power_w, abs=1e-8)  # W; prices settle to 1e-9


def test_alone_on_a_channel_a_pair_gets_the_closed_form():
    game = crowd(3, 3)
    channel = np.array([2, 0, 1])
    price, power_w = equilibrium(game, channel)
    pairs = np.arange(3)
    gains = game.interference_gain[pairs, channel], game.direct_gain, game.cellular_interference[pairs, channel]
    best = best_price(game.cellular_snr[channel], *gains, 0.0, 1.0, 1.0, game.power_w)
    assert price[pairs, channel] == pytest.approx(best, rel=ROUNDING)
    assert power_w == pytest.approx(best_power(best, *gains, 1.0, game.power_w), rel=ROUNDING)


def at(game, channel):
    price, power_w = equilibrium(game, channel)
    return leader_utility(game, price, channel, power_w)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_assignment_is_that_of_trying_all(seed):
    game = crowd(4, 3, seed)
    everything = max(at(game, np.array(channel)) for channel in itertools.product(range(3), repeat=4))
    assert at(game, best_assignment(game)) == pytest.approx(everything, rel=ROUNDING)


def test_the_heuristic_assignment_of_many_pairs_is_near_the_exact_one():
    share = []
    for seed in range(20):
        game = crowd(6, 3, seed)
        stage = stage_of(game)
        exactly, greedily = stackelberg.assign_exactly(stage), stackelberg.assign_greedily(stage)
        share.append(at(game, greedily) / at(game, exactly))
    assert min(share) > 0.85
    assert np.median(share) > 0.97
    assert max(share) <= 1.0 + ROUNDING
    assert set(best_assignment(crowd(30, 3))) <= {0, 1, 2}


def test_kernels_of_several_pairs_are_what_they_say_in_plain_python():
    stage = stage_of(crowd(3, 2))
    for kernel in (stackelberg.assign_exactly, stackelberg.assign_greedily):
        assert (kernel.py_func(stage) == kernel(stage)).all()
    channel = np.array([0, 1, 0])
    for plain, compiled in zip(stackelberg.settle.py_func(stage, channel), stackelberg.settle(stage, channel)):
        assert np.asarray(plain) == pytest.approx(np.asarray(compiled), rel=ROUNDING)
    price, heard = np.full((3, 2), 0.3), np.full((3, 2), 0.1)
    for plain, compiled in zip(
        stackelberg.follow.py_func(stage, price, heard), stackelberg.follow(stage, price, heard)
    ):
        assert plain == pytest.approx(compiled, rel=ROUNDING)


# the player


@pytest.mark.parametrize("seat", ["cellular", "d2d"])
@pytest.mark.parametrize(("n_pairs", "n_channels"), [(4, 3), (1, 1), (12, 2)])
def test_the_player_keeps_the_contract_on_either_seat(seat, n_pairs, n_channels):
    check_controller(Stackelberg, seats(world(n_pairs, n_channels))[seat], ("cellular", "d2d"), cycles=10)


def test_the_player_keeps_the_contract_in_its_world():
    check_scenario(
        load(
            "d2d_cell",
            {"slots": 50, "agent.cellular.controller": "stackelberg", "agent.d2d.controller": "stackelberg"},
        )
    )


def test_another_seat_is_refused():
    leader = seats(world())["cellular"]
    with pytest.raises(ControllerError, match="cellular or d2d"):
        Stackelberg(leader.__class__("leo", leader.observes, leader.acts, facts=leader.facts), 1)


def played(flown, slots):
    """Both seats played for some slots; returns (leader, followers, last prices) with the slot's game still there."""
    flown.reset(3)
    players = [Stackelberg(agent, 1) for agent in flown.agents]
    for slot in range(slots):
        if slot:
            flown.step()
        for agent, player in zip(flown.agents, players):
            action = player.act(Observation(agent.name, slot, flown.observe(agent.name))).values
            flown.apply(agent.name, action)
            if agent.name == "cellular":
                price = action["price"]
    return *players, price


def test_where_gains_stand_still_the_pairs_come_to_the_equilibrium_that_the_base_station_expects():
    flown = world(fading="none")
    leader, followers, price = played(flown, 30)
    assert (leader.channel == followers.channel).all()
    assert followers.power_w == pytest.approx(leader.power_w, rel=1e-6)
    utility = follower_utility(flown.game(), price, followers.channel, followers.power_w)
    assert exact.deviation_gain(flown.game(), price, followers.channel, followers.power_w) <= 1e-6
    assert (utility > 0.0).all()


def test_where_gains_fade_the_pairs_still_take_the_channels_that_the_prices_leave_open():
    flown = world(6, 3)
    for slots in (2, 5, 9, 17):
        leader, followers, _ = played(flown, slots)
        assert (leader.channel == followers.channel).all()


def test_pairs_that_hardly_hear_anything_still_keep_to_the_channels_left_open():
    flown = world(noise_dbm=100.0)  # 1 + SINR rounds to 1
    for slots in (1, 4, 7):
        leader, followers, _ = played(flown, slots)
        assert (leader.channel == followers.channel).all()


def test_where_nobody_serves_all_prices_are_zero_and_pairs_send_with_all_they_have():
    flown = world()
    agents = seats(flown)
    nobody = {
        name: np.zeros_like(value) if name in ("cellular_snr", "interference_gain") else value
        for name, value in flown.observe("cellular").items()
    }
    price = Stackelberg(agents["cellular"], 1).act(Observation("cellular", 0, nobody)).values["price"]
    assert (price == 0.0).all()
    seen = {**flown.observe("d2d"), "price": price, "interference_gain": nobody["interference_gain"]}
    action = Stackelberg(agents["d2d"], 1).act(Observation("d2d", 0, seen)).values
    assert (action["power_w"] == flown.power_w[1]).all()


def test_a_pair_remembers_what_it_heard_of_others_on_a_channel_it_left_and_forgets_it():
    flown = world(2, 2)
    pairs = Stackelberg(seats(flown)["d2d"], 1)
    seen = {**flown.observe("d2d"), "cellular_interference": np.ones((2, 2)), "price": np.zeros((2, 2))}
    first = {**seen, "channel": np.array([0, 0]), "interference": np.array([5.0, 1.0])}
    pairs.act(Observation("d2d", 0, first))
    assert pairs.heard == pytest.approx(np.array([[4.0, 0.0], [0.0, 0.0]]))
    pairs.act(Observation("d2d", 1, {**seen, "channel": np.array([1, 0]), "interference": np.array([1.5, 1.0])}))
    assert pairs.heard == pytest.approx(np.array([[4.0 * stackelberg.FORGET, 0.5], [0.0, 0.0]]))


@pytest.mark.parametrize("slots", [[0, 1, 1], [0, 1, 5], [3, 4, 8]])
def test_a_pair_forgets_by_the_slots_that_passed_not_by_how_often_it_was_asked(slots):
    flown = world(2, 2)
    pairs = Stackelberg(seats(flown)["d2d"], 1)
    seen = {**flown.observe("d2d"), "cellular_interference": np.ones((2, 2)), "price": np.zeros((2, 2))}
    there = {**seen, "channel": np.array([0, 0]), "interference": np.array([5.0, 1.0])}
    left = {**seen, "channel": np.array([1, 0]), "interference": np.ones(2)}
    for slot, values in zip(slots, [there, left, left]):
        pairs.act(Observation("d2d", slot, values))
    assert pairs.heard[0, 0] == pytest.approx(4.0 * stackelberg.FORGET ** (slots[-1] - slots[0]))


# the paper's figure and rows


def test_figure_e1_has_a_panel_for_each_case_with_the_closed_form_on_top(tmp_path):
    pytest.importorskip("matplotlib")
    exact.figure_prices(tmp_path)
    table = np.genfromtxt(tmp_path / "d2d-price.csv", delimiter=",", names=True)
    best = np.genfromtxt(tmp_path / "d2d-price-best.csv", delimiter=",", names=True)
    assert list(best["case"]) == [1, 2, 3, 4, 5]
    for row in best:
        assert row["leader_utility"] >= table["leader_utility"][table["case"] == row["case"]].max() - 1e-12
    assert (tmp_path / "d2d-price.png").stat().st_size > 10_000


@pytest.mark.slow
def test_every_row_of_the_exact_part_is_reached(tmp_path):
    pytest.importorskip("matplotlib")
    missed = [row for row in exact.rows(True, tmp_path, lambda _: None) if not row.reached]
    assert not missed
