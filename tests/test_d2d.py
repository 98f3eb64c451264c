"""Direct links in a cell: utilities worked out by hand, gains against their laws, a satellite's against the channel."""

import math
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from levels import SCENARIOS

from controllers.baselines import Random
from twin.channel import draw_fading, path_gain, slot_link
from twin.channel.budget import study_case
from twin.channel.losses import free_space_loss_db, gas_loss_db, scintillation_loss_db
from twin.check import check_world, sample
from twin.errors import ScenarioError
from twin.geometry import pointing
from twin.orbit import Orbit
from twin.record import Record
from twin.runner import run
from twin.scenario import build, load
from twin.types import World
from twin.units import BOLTZMANN_J_K, SPEED_OF_LIGHT_M_S, from_db
from twin.worlds.d2d import (
    D2d,
    Game,
    Settings,
    cellular_sinr,
    follower_utility,
    interference,
    leader_utility,
    payment,
    received,
    sinr,
)

ROUNDING = 1e-12  # relative, of the same formula written in another order
TERRESTRIAL = {"n_channels": 2, "n_pairs": 3}
TURN_ENDS = 757  # slot in which the satellite of scenarios/d2d.toml no longer serves


def make(slots=50, slot_s=1e-3, agents=None, folder=SCENARIOS, **tables) -> D2d:
    return D2d(msgspec.convert(tables, Settings), slots=slots, slot_s=slot_s, folder=folder, agents=agents)


@pytest.fixture(scope="module")
def cell():
    return make(cell=TERRESTRIAL)


@pytest.fixture(scope="module")
def under_sky():
    return build(load("d2d"))


@pytest.fixture
def small():
    """Two channels and three pairs, with numbers a person can follow; pairs 0 and 2 will share channel 0."""
    return Game(
        cellular_snr=np.array([12.0, 3.0]),
        interference_gain=np.array([[1.0, 9.0], [9.0, 0.5], [2.0, 9.0]]),
        direct_gain=np.array([10.0, 14.0, 6.0]),
        cellular_interference=np.array([[1.0, 7.0], [7.0, 6.0], [0.0, 7.0]]),
        cross_gain=np.array([[0.0, 5.0, 2.0], [5.0, 0.0, 5.0], [3.0, 5.0, 0.0]]),
        power_w=np.array([0.1, 4.0]),
        leader_weight=2.0,
        follower_weight=0.5,
    )


CHANNEL, POWER_W = np.array([0, 1, 0]), np.array([2.0, 2.0, 1.0])
PRICE = np.array([[0.25, 8.0], [8.0, 3.0], [0.5, 8.0]])


def fly(world, slots, act=None, seed=1):
    """Observations, games and outcomes of some slots; `act` gives both seats' actions, None: what is in force."""
    world.reset(seed)
    seen, games, outcomes = [], [], []
    for slot in range(slots):
        for agent in world.agents:
            seen.append(world.observe(agent.name))
            if act is not None:
                world.apply(agent.name, act(agent, slot))
        games.append(world.game())
        outcomes.append(world.step())
    return seen, games, outcomes


def at_random(seed):
    rng = np.random.default_rng(seed)
    return lambda agent, slot: sample(agent.acts, rng)


# The stage game


def test_interference_is_of_the_channel_s_user_and_of_other_pairs_on_it(small):
    # pair 0: 1 from the user, 1 W x 3 from pair 2; pair 1: 6 alone; pair 2: 0, and 2 W x 2 from pair 0
    assert interference(small, CHANNEL, POWER_W).tolist() == [4.0, 6.0, 4.0]


def test_sinr_has_the_noise_of_one_beside_the_interference(small):
    assert sinr(small, CHANNEL, POWER_W).tolist() == [20.0 / 5.0, 28.0 / 7.0, 6.0 / 5.0]


def test_the_base_station_hears_its_user_against_all_pairs_on_the_channel(small):
    assert received(small, CHANNEL, POWER_W).tolist() == [2.0, 1.0, 2.0]
    assert cellular_sinr(small, CHANNEL, POWER_W).tolist() == [12.0 / 5.0, 3.0 / 2.0]


def test_a_pair_gets_its_rate_less_its_weighted_payment(small):
    assert payment(small, PRICE, CHANNEL, POWER_W).tolist() == [0.5, 3.0, 1.0]
    expected = [math.log2(5.0) - 0.25, math.log2(5.0) - 1.5, math.log2(2.2) - 0.5]
    assert follower_utility(small, PRICE, CHANNEL, POWER_W) == pytest.approx(expected, rel=ROUNDING)


def test_the_leader_gets_weighted_payments_and_its_users_rates(small):
    expected = 2.0 * 4.5 + math.log2(1.0 + 2.4) + math.log2(2.5)
    assert leader_utility(small, PRICE, CHANNEL, POWER_W) == pytest.approx(expected, rel=ROUNDING)


def test_a_channel_nobody_reuses_and_a_pair_that_is_silent_cost_nothing(small):
    nobody = np.zeros(3)
    assert cellular_sinr(small, CHANNEL, nobody).tolist() == small.cellular_snr.tolist()
    assert not follower_utility(small, PRICE, CHANNEL, nobody).any()


def test_many_choices_side_by_side_are_judged_as_one_by_one(small):
    rng = np.random.default_rng(1)
    channel, power_w = rng.integers(0, 2, (4, 5, 3)), rng.uniform(0.1, 4.0, (4, 5, 3))
    prices = rng.uniform(0.0, 3.0, (4, 5, 3, 2))
    for price in (PRICE, prices):
        followers, leader = (f(small, price, channel, power_w) for f in (follower_utility, leader_utility))
        assert (followers.shape, leader.shape) == ((4, 5, 3), (4, 5))
        for i, j in np.ndindex(4, 5):
            one = (small, price if price is PRICE else price[i, j], channel[i, j], power_w[i, j])
            assert followers[i, j] == pytest.approx(follower_utility(*one), rel=ROUNDING)
            assert leader[i, j] == pytest.approx(leader_utility(*one), rel=ROUNDING)


# The contract


@pytest.mark.parametrize("name", ["d2d", "d2d_cell"])
def test_the_scenarios_that_ship_keep_the_contract_of_a_world(name):
    scenario = load(name)
    check_world(lambda: build(scenario), slots=20)


def test_the_base_station_decides_before_the_pairs_and_both_in_every_slot(cell):
    assert isinstance(cell, World)
    assert [(a.name, a.order, a.every, a.delay) for a in cell.agents] == [("cellular", 0, 1, 0), ("d2d", 1, 1, 0)]


def test_what_a_seat_sees_is_the_slot_s_game_and_what_the_slot_before_brought(cell):
    cell.reset(4)
    act, before = at_random(1), None
    for slot in range(5):
        game, prices = cell.game(), act(cell.agents[0], slot)["price"]
        leader = cell.observe("cellular")
        cell.apply("cellular", {"price": prices})
        follower = cell.observe("d2d")
        for name in ("interference_gain", "direct_gain", "cellular_interference"):
            assert np.array_equal(leader[name], getattr(game, name))
            assert np.array_equal(follower[name], getattr(game, name))
        assert np.array_equal(leader["cellular_snr"], game.cellular_snr)
        assert np.array_equal(leader["cross_gain"], game.cross_gain)
        assert np.array_equal(follower["price"], prices)
        if before is not None:
            old, _, channel, power_w = before
            for seen in (leader, follower):
                assert np.array_equal(seen["channel"], channel)
                assert np.array_equal(seen["used_power_w"], power_w)
                assert seen["sinr"] == pytest.approx(sinr(old, channel, power_w), rel=ROUNDING)
                assert seen["utility"] == pytest.approx(follower_utility(*before), rel=1e-9)  # a difference
            rate = np.log2(1.0 + cellular_sinr(old, channel, power_w))
            assert leader["cellular_rate_bps_hz"] == pytest.approx(rate, rel=ROUNDING)
            assert follower["interference"] == pytest.approx(interference(old, channel, power_w), rel=ROUNDING)
            assert follower["paid"] == pytest.approx(payment(*before), rel=ROUNDING)
        pairs = act(cell.agents[1], slot)
        cell.apply("d2d", pairs)
        before = (game, prices, pairs["channel"], pairs["power_w"])
        outcome = cell.step()
        assert outcome.reward["cellular"] == pytest.approx(leader_utility(*before), rel=1e-9)
        assert outcome.reward["d2d"] == pytest.approx(follower_utility(*before).mean(), rel=1e-9)


def test_measures_add_up_to_the_utilities(cell):
    _, _, outcomes = fly(cell, 20, at_random(2))
    for reward, measures, _ in outcomes:
        assert measures["leader_utility"] == pytest.approx(
            measures["payment"] + measures["cellular_rate_bps_hz"], rel=ROUNDING
        )
        assert 3 * measures["follower_utility"] == pytest.approx(
            measures["d2d_rate_bps_hz"] - measures["payment"], rel=1e-9, abs=1e-9
        )
        assert measures["capacity_bps_hz"] == pytest.approx(
            measures["cellular_rate_bps_hz"] + measures["d2d_rate_bps_hz"], rel=ROUNDING
        )
        assert reward == {"cellular": measures["leader_utility"], "d2d": measures["follower_utility"]}


def test_defaults_are_the_least_power_and_a_price_that_lets_as_much_in_as_there_is_noise(cell):
    price, pairs = cell.default("cellular")["price"], cell.default("d2d")
    assert pairs["channel"].tolist() == [0, 1, 0]
    assert pairs["power_w"] == pytest.approx(1e-4, rel=ROUNDING)  # -10 dBm
    grid = np.geomspace(1e-6, 10.0, 20_001)
    game = replace(cell.game(), direct_gain=np.full(3, 1e9), interference_gain=np.ones((3, 2)))
    channel = np.broadcast_to(np.array([0, 1, 0]), (grid.size, 3))
    power_w = np.full((grid.size, 3), 1e-9)
    power_w[:, 1] = grid  # a pair alone on its channel, whose own link is very good
    best = grid[follower_utility(game, price, channel, power_w)[:, 1].argmax()]
    assert best == pytest.approx(1.0, rel=1e-3)  # the grid's step
    for agent in cell.agents:
        for name, value in cell.default(agent.name).items():
            assert np.array_equal(agent.facts[f"default_{name}"], value)


def test_observations_never_change_and_cannot_reach_the_world(cell):
    cell.reset(5)
    handed = {agent.name: cell.observe(agent.name) for agent in cell.agents}
    kept = {name: {key: value.copy() for key, value in seen.items()} for name, seen in handed.items()}
    for seen in (cell.observe(agent.name) for agent in cell.agents):
        for value in seen.values():
            value[...] = 0
    price = np.ones((3, 2))
    cell.apply("cellular", {"price": price})
    price[:] = 7.0
    assert (cell.observe("d2d")["price"] == 1.0).all()
    cell.step()
    for name, seen in handed.items():
        for key, value in seen.items():
            assert np.array_equal(value, kept[name][key]), key


# Draws


def test_gains_do_not_depend_on_what_the_seats_do(cell):
    _, quiet, _ = fly(cell, 30, seed=3)
    _, busy, _ = fly(cell, 30, at_random(1), seed=3)
    for one, other in zip(quiet, busy):
        for name in ("cellular_snr", "interference_gain", "direct_gain", "cellular_interference", "cross_gain"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_another_seed_is_another_cell_unless_the_layout_is_fixed():
    free, fixed = (make(cell=TERRESTRIAL | {"fading": "none"} | more) for more in ({}, {"layout": 9}))
    gains = {}
    for seed in (1, 2):
        for name, world in (("free", free), ("fixed", fixed)):
            world.reset(seed)
            gains[name, seed] = world.game().direct_gain
    assert not np.array_equal(gains["free", 1], gains["free", 2])
    assert np.array_equal(gains["fixed", 1], gains["fixed", 2])
    faded = make(cell=TERRESTRIAL | {"layout": 9})
    first = []
    for seed in (1, 2):
        faded.reset(seed)
        first.append(faded.game().direct_gain)
    assert not np.array_equal(*first)


def test_gains_follow_the_laws_of_path_loss():
    # on a disc of 1 m everybody is within nearest_m of the base station; the pair's two ends are 20 m apart
    near = make(
        cell={"n_channels": 1, "n_pairs": 1, "radius_m": 1.0, "nearest_m": 10.0, "pair_m": [19.99999, 20.00001]}
        | {"shadow_db": 0.0, "fading": "none"}
    ).game()
    noise_db = -114.0 - 30.0
    to_base = 10.0 ** ((-(128.1 + 37.6 * math.log10(0.010)) - noise_db) / 10.0)
    direct = 10.0 ** ((-(148.0 + 40.0 * math.log10(0.020)) - noise_db) / 10.0)
    user_w = 10.0 ** ((24.0 - 30.0) / 10.0)
    assert near.interference_gain[0, 0] == pytest.approx(to_base, rel=1e-9)
    assert near.cellular_snr[0] == pytest.approx(user_w * to_base, rel=1e-9)
    assert near.direct_gain[0] == pytest.approx(direct, rel=1e-5)  # the spread of pair_m
    # the user is within 2 m of the transmitter, so 18 to 22 m from the receiver
    ratio = near.cellular_interference[0, 0] / (user_w * direct)
    assert 1.1**-4 - 1e-3 < ratio < 0.9**-4 + 1e-3
    assert near.power_w == pytest.approx([1e-4, 10.0**-0.6], rel=ROUNDING)


def test_shadowing_has_its_deviation_and_is_the_same_on_all_channels_of_a_way():
    settings = {"n_channels": 4, "n_pairs": 64, "radius_m": 1.0, "nearest_m": 50.0, "fading": "none"}
    game = make(cell=settings).game()  # nobody is 50 m away: all that differs is the shadowing
    cross_db = 10.0 * np.log10(game.cross_gain[~np.eye(64, dtype=bool)])
    assert np.std(cross_db) == pytest.approx(8.0, abs=5 * 8.0 / math.sqrt(2 * cross_db.size))  # five deviations
    assert (game.interference_gain == game.interference_gain[:, :1]).all()
    assert not np.diagonal(game.cross_gain).any()


def test_fading_has_an_exponential_power_of_mean_one_and_differs_by_slot_and_channel():
    settings = {"n_channels": 4, "n_pairs": 8, "layout": 1}
    mean = make(cell=settings | {"fading": "none"}).game()
    _, games, _ = fly(make(cell=settings), 400)
    for name in ("interference_gain", "direct_gain", "cellular_snr", "cellular_interference"):
        power = np.array([getattr(game, name) for game in games]) / getattr(mean, name)
        five = 5.0 / math.sqrt(power.size)  # deviations of the mean of exponentials
        assert power.mean() == pytest.approx(1.0, abs=five), name
        assert np.mean(power > 1.0) == pytest.approx(math.exp(-1.0), abs=five), name
        neighbours = np.corrcoef(power[:-1].ravel(), power[1:].ravel())[0, 1]
        assert abs(neighbours) < five, name


def test_users_and_transmitters_are_spread_evenly_over_the_disc():
    settings = {"n_channels": 1, "n_pairs": 256, "shadow_db": 0.0, "fading": "none", "nearest_m": 0.1}
    gain = make(cell=settings).game().interference_gain[:, 0]
    distance_km = 10.0 ** ((-10.0 * np.log10(gain) + 144.0 - 128.1) / 37.6)
    assert distance_km.max() <= 0.5 * (1 + 1e-9)
    inside = np.mean(distance_km < 0.25)  # a quarter of the area
    assert inside == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 256))  # five deviations


def test_the_dearest_price_leaves_rewards_finite_and_a_dearer_one_is_out_of_bounds():
    world = make(cell=TERRESTRIAL | {"base_loss_db": [0.0, 0.0], "noise_dbm": -200.0})
    declared = world.agents[0].acts[0]
    _, _, outcomes = fly(world, 3, lambda agent, slot: sample(agent.acts, np.random.default_rng(1)) | dear(agent))
    assert all(math.isfinite(reward) for outcome in outcomes for reward in outcome.reward.values())
    assert declared.high < 1e300


def dear(agent):
    return {field.name: np.full(field.shape, field.high) for field in agent.acts if field.name == "price"}


# Under a satellite


def test_gains_to_the_satellite_are_those_of_the_channel_in_a_chosen_slot(under_sky):
    """The world's uplink over a whole turn, against one slot of one user through slot_link and constants."""
    under_sky.reset(6)
    slot, user = 300, 4  # pair 1: after the three cellular users
    for _ in range(slot):
        under_sky.step()
    game, uplink = under_sky.game(), under_sky.uplink
    turn, link = uplink.turns[0], uplink.link
    index = [s.number for s in uplink.sky.satellites].index(turn.number)
    at_s = np.arange(turn.first, turn.end) * 0.1
    course = pointing(*Orbit(uplink.sky, index).state(at_s), under_sky.settings.site)
    row = slot - turn.first
    noise_w = BOLTZMANN_J_K * from_db(-link.g_over_t_db_k) * link.rb_bandwidth_hz  # over the gain that G/T holds
    for u, found in ((user, game.interference_gain[1]), (0, None)):
        fading = draw_fading(np.random.default_rng([6, 3, turn.first, u]), link, course, 0.1)
        gain = path_gain(link, course.slant_range_m, course.elevation_deg, fading.los, fading.shadow_db)[row]
        beams_deg = course.tx_beam_deg[row], course.rx_beam_deg[row]
        snr, _, _ = slot_link(link, fading, row, gain, *beams_deg, np.ones(3, bool))
        response = snr / link.snr_per_gain / gain
        expected = gain * response / noise_w
        if u == 0:  # a cellular user, on its own channel and with its own power
            assert game.cellular_snr[0] == pytest.approx(10.0**-0.6 * expected[0], rel=1e-9)
        else:
            assert found == pytest.approx(expected, rel=1e-9)


def test_the_mean_gain_is_that_of_the_uplink_s_budget():
    """No shadowing, one strong path, elevation and range of the slot: the study case's CNR, by its own formula."""
    scenario = load("d2d", {"link.multipath": "scatter", "link.k_factor_db": 100.0, "link.environment": "rural"})
    world = build(scenario)
    turn, reach = world.uplink.turns[0], world.uplink.draw(1)[0]
    case = study_case("SC9").budget("UL")
    row, user = np.argwhere(reach.los)[0]
    fading = draw_fading(
        np.random.default_rng([1, 3, turn.first, int(user)]), world.uplink.link, turn.course, world.slot_s
    )
    elevation_deg, range_m = float(turn.now.elevation_deg[row]), float(turn.now.slant_range_m[row])
    loss_db = free_space_loss_db(range_m, 2e9) + gas_loss_db(elevation_deg, 2e9)
    loss_db += scintillation_loss_db(elevation_deg, 2e9) + fading.shadow_db[row]
    per_watt_db = case.g_over_t_db_k - loss_db - 10 * math.log10(BOLTZMANN_J_K * 180e3)
    assert 10 * np.log10(reach.gain[row, user]) == pytest.approx(np.full(3, per_watt_db), abs=1e-3)  # the weak paths


def test_more_pairs_leave_the_others_way_to_the_satellite_alone():
    few, many = (build(load("d2d", {"cell.n_pairs": n, "slots": 20})) for n in (2, 5))
    assert np.array_equal(few.game().cellular_snr, many.game().cellular_snr)
    assert np.array_equal(few.game().interference_gain, many.game().interference_gain[:2])


def test_a_longer_window_does_not_change_the_draws_of_a_shorter_one():
    short, long = (build(load("d2d", {"slots": n})) for n in (20, 40))
    (_, some, _), (_, more, _) = fly(short, 20), fly(long, 20)
    for one, other in zip(some, more):
        assert np.array_equal(one.cellular_snr, other.cellular_snr)
        assert np.array_equal(one.interference_gain, other.interference_gain)


def test_several_samples_a_slot_are_averaged():
    world = build(load("d2d", {"slots": 20, "link.samples_per_slot": 2}))
    uplink, user, row = world.uplink, 2, 7
    turn, link = uplink.turns[0], uplink.link
    fading = draw_fading(np.random.default_rng([1, 3, turn.first, user]), link, turn.course, world.slot_s, 2)
    course, rows = turn.course, slice(2 * row, 2 * row + 2)
    gain = path_gain(link, course.slant_range_m, course.elevation_deg, fading.los, fading.shadow_db)
    beams_deg = course.tx_beam_deg[2 * row], course.rx_beam_deg[2 * row]  # one antenna each: no beam to speak of
    snr, _, _ = slot_link(link, fading, 2 * row, gain[rows], *beams_deg, np.ones(3, bool))
    found = uplink.draw(1)[0].gain
    assert found.shape == (21, 7, 3)
    # the world points the beams at each sample, slot_link holds them for the slot: 1e-3 apart
    assert found[row, user] == pytest.approx(snr / float(link.facts()["tx_power_w"]), rel=1e-3)


def test_between_passes_nobody_reaches_the_satellite_and_pairs_talk_on_for_nothing(under_sky):
    seen, games, outcomes = fly(under_sky, 900, at_random(3))
    for slot in (0, TURN_ENDS - 1):
        assert (games[slot].cellular_snr > 0.0).all()
        assert (games[slot].interference_gain > 0.0).all()
        assert outcomes[slot].measures["satellite"] == 44929
        assert outcomes[slot].measures["elevation_deg"] >= 30.0
    for slot in range(TURN_ENDS, 900):
        game, measures = games[slot], outcomes[slot].measures
        assert not game.cellular_snr.any()
        assert not game.interference_gain.any()
        assert not game.cellular_interference.any()
        assert (game.direct_gain > 0.0).all()
        assert (measures["satellite"], measures["elevation_deg"], measures["los"]) == (0, 0.0, False)
        assert measures["payment"] == measures["cellular_rate_bps_hz"] == outcomes[slot].reward["cellular"] == 0.0
        assert outcomes[slot].reward["d2d"] > 0.0
    for values in seen:
        for name, value in values.items():
            assert np.isfinite(value).all(), name
    assert under_sky.observe("cellular")["cellular_snr"].tolist() == [0.0, 0.0, 0.0]  # the one that closes the rewards


def test_signals_fly_to_the_satellite_and_have_no_way_where_none_serves(under_sky):
    under_sky.reset(1)
    range_m = float(under_sky.uplink.turns[0].now.slant_range_m[0])
    assert 550e3 < range_m < 1_100e3
    assert under_sky.propagation_delay_s("cellular", "d2d") == range_m / SPEED_OF_LIGHT_M_S
    for _ in range(TURN_ENDS):
        under_sky.step()
    assert under_sky.propagation_delay_s("d2d", "cellular") == math.inf
    assert make().propagation_delay_s("cellular", "d2d") == 0.0


def test_a_window_without_any_satellite_is_flown_with_a_warning():
    with pytest.warns(UserWarning, match="no satellite serves"):
        world = build(load("d2d", {"sky.numbers": [44920], "slots": 10}))
    _, games, outcomes = fly(world, 10)
    assert not any(game.cellular_snr.any() for game in games)
    assert outcomes[-1].done


def test_a_flight_gives_the_same_trajectory_with_random_agents(tmp_path):
    overrides = {"agent.cellular.controller": "random", "agent.d2d.controller": "random", "slots": 30}
    records = [run(load("d2d", overrides), tmp_path / str(i)) for i in range(2)]
    assert all(isinstance(record, Record) for record in records)
    assert records[0].meta["trajectory_hash"] == records[1].meta["trajectory_hash"]
    assert "tle_sha256" in records[0].meta["inputs"]
    again = build(load("d2d", overrides))
    seats = [Random(agent, 1) for agent in again.agents]
    again.reset(1)
    for slot in range(30):
        for agent, seat in zip(again.agents, seats):
            again.apply(agent.name, seat.act(SimpleNamespace(values=again.observe(agent.name), slot=slot)).values)
        again.step()
    assert again.game().cellular_snr.shape == (3,)


# Errors


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"cell.pair_m": [50.0, 10.0]}, "cell.pair_m is the least and the most"),
        ({"cell.power_dbm": [24.0, 24.0]}, "cell.power_dbm is the least and the most"),
        ({"cell.n_pairs": 0}, "cell.n_pairs"),
        ({"cell.fadings": "none"}, "did you mean fading"),
        ({"agent.d2d.every": 2}, "agent.d2d.every must be 1"),
        ({"agent.ue.controller": "hold"}, "agent.ue is not a seat of d2d"),
        ({"faults": [{"kind": "blockage"}]}, "is of the sky, world d2d plays none"),
    ],
)
def test_settings_that_cannot_be_flown_are_said_clearly(overrides, words):
    with pytest.raises(ScenarioError, match=words):
        build(load("d2d_cell", overrides))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"cell.n_channels": 2}, "link.n_groups must be cell.n_channels = 2, got 3"),
        ({"link.rate": "mcs"}, "link.rate must be `shannon`"),
        ({"slots": 20_000_000}, "more than 240 h"),
        ({"cell.n_pairs": 256, "cell.n_channels": 16, "link.n_rb": 16, "link.n_groups": 16, "slot_s": 1e-3,
          "slots": 70_000}, "take fewer slots, pairs or channels"),
    ],
)  # fmt: skip
def test_a_satellite_that_does_not_fit_the_cell_is_said_clearly(overrides, words):
    with pytest.raises(ScenarioError, match=words):
        build(load("d2d", overrides))


def test_the_tables_of_a_satellite_go_together():
    with pytest.raises(ScenarioError, match="sky and link are missing"):
        make(site={"latitude_deg": 43.5, "longitude_deg": -80.5})


def test_delay_and_window_of_a_seat_are_kept():
    world = make(agents={"d2d": SimpleNamespace(every=None, delay=2, window=0.7)})
    assert (world.agents[1].delay, world.agents[1].window, world.agents[1].every) == (2, 0.7, 1)
