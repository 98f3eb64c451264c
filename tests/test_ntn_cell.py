"""The earth-fixed cell: its contract over a window with everything in it, and its numbers against plain versions."""

import math
from dataclasses import replace
from types import SimpleNamespace

import levels
import msgspec
import numpy as np
import pytest
from levels import BUSY_SLOTS, BUSY_WINDOW, HIGH_PASS, angles_deg, greedy_pair, make_world, timing
from skies import still_sky

from controllers.baselines import Random
from twin.channel import NominalLink, steering_vector
from twin.errors import ScenarioError
from twin.geometry import look, unit_vector
from twin.overpass import Passes
from twin.types import World
from twin.units import BOLTZMANN_J_K, MEGA, SPEED_OF_LIGHT_M_S
from twin.worlds import sky
from twin.worlds.ntn_cell import SNR_FLOOR_DB, turns

TOO_SMALL_MBIT = 1e-9


@pytest.fixture(scope="module")
def busy():
    return make_world(BUSY_WINDOW, BUSY_SLOTS)


@pytest.fixture(scope="module")
def high():
    return make_world(HIGH_PASS, 2_300)


def random_pair(world, seed=3):
    return Random(world.agents[0], seed), Random(world.agents[1], seed + 1)


def put(world, used=None, reserved=None, tx_beam_deg=None, rx_beam_deg=None):
    """Put an action in force; the default where nothing is said."""
    leo, ue = dict(world.default("leo")), dict(world.default("ue"))
    if reserved is not None:
        leo["reserved_rb"] = np.array(reserved, bool)
    if used is not None:
        ue["used_rb"] = np.array(used, bool)
    if tx_beam_deg is not None:
        leo["tx_beam_deg"] = np.array(tx_beam_deg)
    if rx_beam_deg is not None:
        ue["rx_beam_deg"] = np.array(rx_beam_deg)
    world.apply("leo", leo)
    world.apply("ue", ue)


# The contract


def test_it_is_a_world_with_a_leader_every_cycle_and_a_follower_every_slot(busy):
    assert isinstance(busy, World)
    leo, ue = busy.agents
    assert (leo.name, leo.every, leo.order, leo.delay) == ("leo", 10, 0, 0)
    assert (ue.name, ue.every, ue.order, ue.delay) == ("ue", 1, 1, 0)


def test_observations_are_as_declared_in_every_slot_of_a_window_with_gaps_and_a_handover(busy):
    busy.reset(5)
    leo_does, ue_does = random_pair(busy)
    satellites = []
    for slot in range(busy.slots + 1):  # the observation after the last slot closes the rewards
        for agent, does in zip(busy.agents, (leo_does, ue_does)):
            values = busy.observe(agent.name)
            assert set(values) == {f.name for f in agent.observes}
            for f in agent.observes:
                value = values[f.name]
                assert isinstance(value, np.ndarray)
                assert (value.shape, value.dtype.name) == (f.shape, f.dtype), f.name
                assert np.isfinite(value).all(), (slot, f.name)
                assert (value == np.clip(value, f.low, f.high)).all(), (slot, f.name)
            if slot < busy.slots and slot % agent.every == 0:
                busy.apply(agent.name, does.act(SimpleNamespace(values=values, slot=slot)).values)
        satellites.append(int(values["satellite"]))
        if slot < busy.slots:
            outcome = busy.step()
            assert outcome.done == (slot == busy.slots - 1)
            assert all(math.isfinite(reward) for reward in outcome.reward.values())
            for name, measure in outcome.measures.items():
                assert np.isfinite(measure).all(), name
    changes = [i for i in range(1, len(satellites)) if satellites[i] != satellites[i - 1]]
    direct = [i for i in changes if satellites[i] and satellites[i - 1]]
    assert satellites[0] == 0
    assert direct == [1_720]
    assert len(changes) == 4


def test_an_observation_never_changes_after_it_was_handed_out_and_cannot_reach_the_world(busy):
    busy.reset(5)
    for _ in range(60):
        put(busy)
        busy.step()
    for agent in busy.agents:
        values = busy.observe(agent.name)
        kept = {name: value.copy() for name, value in values.items()}
        busy.step()
        put(busy, used=[1, 0, 0, 0, 0], reserved=[1, 1, 0, 0, 0], tx_beam_deg=[10.0, 20.0], rx_beam_deg=[30.0, 40.0])
        for name in values:
            assert np.array_equal(values[name], kept[name]), name
        before = busy.observe(agent.name)
        for value in busy.observe(agent.name).values():
            value[...] = 0
        after = busy.observe(agent.name)
        assert all(np.array_equal(before[name], after[name]) for name in before)


def test_an_action_is_copied_when_it_is_put_in_force(high):
    high.reset(1)
    beam_deg, groups = np.array([80.0, 90.0]), np.ones(5, bool)
    high.apply("leo", {"tx_beam_deg": beam_deg, "reserved_rb": groups})
    beam_deg[:], groups[:] = 0.0, False
    seen = high.observe("leo")
    assert seen["tx_beam_deg"].tolist() == [80.0, 90.0]
    assert seen["reserved_rb"].all()


def test_outcomes_have_the_same_measures_whether_somebody_serves_or_not(busy):
    measures = levels.fly(busy, *greedy_pair(busy), seed=2).measures
    assert set(measures) == {
        "satellite", "elevation_deg", "los", "tx_error_deg", "rx_error_deg", "snr_db", "rate_bps", "served_bps",
        "demand_bps", "used_rb", "reserved_rb",
    }  # fmt: skip
    idle = measures["satellite"] == 0
    assert idle.any()
    assert not idle.all()
    for name in ("elevation_deg", "los", "tx_error_deg", "rx_error_deg", "rate_bps", "served_bps"):
        assert not measures[name][idle].any(), name
    assert (measures["snr_db"][idle] == SNR_FLOOR_DB).all()


# Seeds


def test_the_same_seed_gives_the_same_trajectory_and_another_only_another_channel(busy):
    first, again, other = (levels.fly(busy, *random_pair(busy), seed=seed) for seed in (7, 7, 8))
    for name in first.measures:
        assert np.array_equal(first.measures[name], again.measures[name]), name
    for name in ("satellite", "elevation_deg", "tx_error_deg", "rx_error_deg"):
        assert np.array_equal(first.measures[name], other.measures[name]), name
    for name in ("los", "snr_db", "rate_bps", "demand_bps"):
        assert not np.array_equal(first.measures[name], other.measures[name]), name


def test_fading_and_demand_do_not_depend_on_what_anybody_does(busy):
    probes = []
    for seats in (greedy_pair(busy), random_pair(busy)):
        busy.reset(4)
        probes.append([])
        while busy.slot < 600:
            for agent, seat in zip(busy.agents, seats):
                seen = SimpleNamespace(values=busy.observe(agent.name), slot=busy.slot)
                busy.apply(agent.name, seat.act(seen).values)
            probes[-1].append((busy.group_rates([90.0, 90.0], [80.0, 95.0]), busy.observe("ue")["demand_bps"]))
            busy.step()
    for (rates, demand), (rates_too, demand_too) in zip(*probes):
        assert np.array_equal(rates, rates_too)
        assert demand == demand_too


def test_a_longer_window_begins_as_the_shorter_one():
    short, long = make_world(slots=200), make_world(slots=2_600)
    one, other = (levels.fly(world, *random_pair(world), seed=6).measures for world in (short, long))
    for name in one:
        assert np.array_equal(one[name], other[name][:200]), name


def test_a_terminal_that_measures_nothing_sees_nothing_of_the_channel(busy):
    seen = []
    for seed in (1, 2):
        busy.reset(seed)
        seen.append([])
        for _ in range(300):
            put(busy, used=[0] * 5)
            values = busy.observe("leo") | busy.observe("ue")
            seen[-1].append({name: value for name, value in values.items() if name != "demand_bps"})
            busy.step()
    for one, other in zip(*seen):
        assert all(np.array_equal(one[name], other[name]) for name in one)


# Who serves


def above(*passes):
    """Passes by rise, each (number, rise_s, set_s)."""
    numbers, rise_s, set_s = np.array(passes).reshape(-1, 3).T
    sky = still_sky(np.zeros((len(passes), 3)))
    satellites = tuple(replace(one, number=int(number)) for one, number in zip(sky.satellites, numbers))
    nothing = np.zeros(len(passes))
    return Passes(satellites, np.arange(len(passes)), rise_s, rise_s, set_s, nothing, nothing > 0.0)


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        ([], []),
        ([(1, 0.0, 10.0)], [(1, 0, 10)]),
        ([(1, 0.5, 9.5)], [(1, 1, 9)]),  # only whole cycles
        ([(1, 0.0, 10.0), (2, 3.0, 20.0)], [(1, 0, 10), (2, 10, 20)]),  # who serves stays, though 2 would stay longer
        ([(1, 0.0, 10.0), (2, 0.0, 20.0)], [(2, 0, 20)]),  # who stays longest takes over
        ([(1, 0.0, 10.2), (2, 9.5, 12.0), (3, 10.5, 30.0)], [(1, 0, 10), (2, 10, 12), (3, 12, 30)]),
        ([(1, 0.0, 4.0), (2, 6.5, 9.0)], [(1, 0, 4), (2, 7, 9)]),  # between them nobody
        ([(1, 2.3, 2.9), (2, 5.2, 6.1)], []),  # never a whole cycle
        ([(1, 45.0, 70.0)], [(1, 45, 70)]),  # begun inside the window, served to its end
        ([(1, 50.0, 70.0)], []),  # after the window
    ],
)
def test_a_satellite_serves_whole_cycles_and_stays_until_it_must_go(passes, expected):
    chosen = turns(above(*passes), cycle_s=1.0, n_cycles=50)
    assert [(p.number, first, end) for p, first, end in chosen] == expected


def test_the_serving_satellite_is_the_one_that_a_walk_through_the_cycles_finds(busy):
    elevation_deg = look(
        busy.sky, latitude_deg=43.5, longitude_deg=-80.5, altitude_m=330.0, t_s=np.arange(BUSY_SLOTS + 3_000) * 0.1
    ).elevation_deg
    up = elevation_deg >= 30.0
    serving = -1
    for cycle in range(BUSY_SLOTS // 10):
        whole = up[:, cycle * 10 : cycle * 10 + 11].all(axis=1)
        if serving < 0 or not whole[serving]:
            stays = [np.argmin(np.append(row[cycle * 10 :], False)) if ok else 0 for row, ok in zip(up, whole)]
            serving = int(np.argmax(stays)) if whole.any() else -1
        for slot in range(cycle * 10, cycle * 10 + 10):
            service = busy._serving(slot)
            assert (service.index if service else -1) == serving, slot


def test_a_sky_too_large_for_memory_is_cut_to_those_that_pass_and_nothing_changes(busy, monkeypatch):
    monkeypatch.setattr(sky, "MANY", 0.0)
    cut = make_world(BUSY_WINDOW, BUSY_SLOTS)
    assert len(cut.sky.satellites) < len(busy.sky.satellites)
    assert [(s.number, s.first, s.end) for s in cut.services] == [(s.number, s.first, s.end) for s in busy.services]
    for one, other in zip(cut.services, busy.services):
        np.testing.assert_array_equal(one.position_m, other.position_m)


def test_nothing_serves_below_the_mask():
    world = make_world(slots=2_600, sky={"mask_deg": 45.0})
    measures = levels.fly(world, *greedy_pair(world), seed=1).measures
    elevation_deg = measures["elevation_deg"][measures["satellite"] != 0]
    assert elevation_deg.min() >= 45.0
    assert elevation_deg.max() > 80.0
    assert elevation_deg.size < 2_000


def test_the_new_pass_flag_stands_in_the_first_cycle_and_in_the_first_slot(busy):
    busy.reset(1)
    flags = {"leo": [], "ue": []}
    for slot in range(busy.slots):
        for agent in busy.agents:
            if slot % agent.every == 0 and busy.observe(agent.name)["new_pass"]:
                flags[agent.name].append(slot)
        busy.step()
    begins = [service.first for service in busy.services if service.first < busy.slots]
    assert flags == {"leo": begins, "ue": begins}
    assert len(begins) == 3


# Geometry in the observations


@pytest.mark.parametrize("delay", [0, 3])
def test_the_ue_s_predicted_beam_is_exact_where_the_answer_takes_effect_also_over_a_handover(delay):
    world = make_world(BUSY_WINDOW, 2_000, agents={"ue": timing(delay=delay)})
    measures = levels.fly(world, *greedy_pair(world), seed=1).measures
    assert measures["rx_error_deg"][delay:].max() < 1e-9


@pytest.mark.parametrize("delay", [0, 10])
def test_the_leo_s_predicted_beam_is_that_of_the_middle_of_the_cycle_it_will_govern(delay):
    world = make_world(BUSY_WINDOW, 2_000, agents={"leo": timing(delay=delay)})
    measures = levels.fly(world, *greedy_pair(world), seed=1).measures
    error_deg = measures["tx_error_deg"][10:].reshape(-1, 10)
    serving = measures["satellite"][10:].reshape(-1, 10).all(axis=1)
    assert error_deg[serving][:, 5].max() < 1e-9
    assert error_deg.max() < 0.5  # half a cycle of 1 s; the terminal crosses the satellite's sky at under 0.8 deg/s


def test_the_ephemeris_of_an_observation_leads_to_the_position_and_to_zeros_where_nobody_serves(busy):
    busy.reset(1)
    for slot in range(BUSY_SLOTS):
        if slot % 100 == 0:
            seen = busy.observe("leo")
            middle_s, half_s = seen["ephemeris_s"]
            powers = ((slot * 0.1 - middle_s) / half_s) ** np.arange(8)
            assert np.allclose(seen["ephemeris_m"] @ powers, seen["position_m"], rtol=0, atol=1e-6)
            assert bool(seen["serving"]) == (seen["satellite"] != 0) == bool(seen["position_m"].any())
            if not seen["serving"]:
                assert seen["ephemeris_s"].tolist() == [0.0, 1.0]
                assert seen["predicted_beam_deg"].tolist() == [90.0, 90.0]
        busy.step()


def test_a_signal_travels_the_slant_range_at_the_speed_of_light(busy):
    busy.reset(1)
    assert busy.propagation_delay_s("leo", "ue") == math.inf  # nobody is there to send it
    while busy.truth() is None:
        busy.step()
    distance_m = np.linalg.norm(busy.observe("leo")["position_m"] - busy.site.position_m)
    assert busy.propagation_delay_s("leo", "ue") == pytest.approx(distance_m / SPEED_OF_LIGHT_M_S, rel=1e-12)
    assert 1.8e-3 < busy.propagation_delay_s("ue", "leo") < 7e-3  # 550 km overhead to 2,000 km low


def test_the_error_measured_is_the_angle_between_beam_and_direction(high):
    high.reset(1)
    put(high, tx_beam_deg=[70.0, 110.0], rx_beam_deg=[95.0, 40.0])
    now = high.truth().service.now
    measures = high.step().measures
    for beam, towards, measured in (
        ([70.0, 110.0], now.tx_beam_deg[0], measures["tx_error_deg"]),
        ([95.0, 40.0], now.rx_beam_deg[0], measures["rx_error_deg"]),
    ):
        assert measured == pytest.approx(np.degrees(np.arccos(unit_vector(*beam) @ unit_vector(*towards))), abs=1e-9)


# The link and the rewards


def test_the_rate_of_a_slot_is_that_of_the_full_matrix(high):
    high.reset(3)
    for _ in range(700):
        high.step()
    link, truth = high.link, high.truth()
    now, fading, row = truth.service.now, truth.fading, truth.row
    tx_deg, rx_deg = now.tx_beam_deg[row] + [2.0, -1.0], now.rx_beam_deg[row] + [-3.0, 2.0]
    w_t, w_r = steering_vector(*tx_deg, link.tx_antennas), steering_vector(*rx_deg, link.rx_antennas)
    noise_w = BOLTZMANN_J_K * link.noise_temperature_k * link.rb_bandwidth_hz
    rate_bps = np.zeros(5)
    for m in range(link.n_rb):
        h = np.zeros((64, 256), complex)
        for path in range(link.n_paths):
            a_r = steering_vector(*angles_deg(fading.arrival[row, path]), link.rx_antennas)
            a_t = steering_vector(*angles_deg(fading.departure[row, path]), link.tx_antennas)
            turn = np.exp(-2j * np.pi * m * link.rb_bandwidth_hz * fading.delay_s[row, path])
            h += fading.amplitude[row, path] * turn * np.outer(a_r, a_t.conj())
        snr = link.tx_power_w * truth.gain[0] * abs(w_r.conj() @ h @ w_t) ** 2 / noise_w
        rate_bps[m // 20] += link.rb_bandwidth_hz * np.log2(1 + snr)
    assert high.group_rates(tx_deg, rx_deg) == pytest.approx(rate_bps, rel=1e-9)


def test_samples_within_a_slot_begin_with_the_slot_and_are_averaged():
    runs = []
    for samples in (1, 4):
        world = make_world(HIGH_PASS, 60, link={"samples_per_slot": samples, "scatter_correlation": 0.1})
        world.reset(3)
        truth = world.truth()
        assert truth.gain.shape == (samples,)
        assert len(truth.fading.los) == samples * len(truth.service.position_m)
        np.testing.assert_array_equal(
            truth.fading.delay_s[::samples][:60], truth.fading.delay_s[: 60 * samples : samples]
        )
        runs.append([world.step().measures["rate_bps"] for _ in range(60)])
    one, four = np.array(runs)
    assert np.all(one > 0.0)
    assert np.corrcoef(one, four)[0, 1] > 0.3  # the first of four is the one
    assert four.std() < one.std()


@pytest.mark.parametrize("literal", [False, True])
def test_rewards_and_reports_are_those_of_a_plain_computation(literal):
    world = make_world(BUSY_WINDOW, 2_400, paper_literal=literal, eta=0.7)
    world.reset(9)
    rng = np.random.default_rng(0)
    buffer, cycle_snr, ones = [], [], np.ones(5, bool)
    for slot in range(world.slots):
        if slot % 10 == 0:
            reserved, tx_deg = rng.random(5) < 0.7, world.observe("leo")["predicted_beam_deg"]
            expected = cycle_snr[-10:] if slot else [SNR_FLOOR_DB] * 10
            assert world.observe("leo")["slot_snr_db"] == pytest.approx(expected, abs=1e-9)
            world.apply("leo", {"tx_beam_deg": tx_deg, "reserved_rb": reserved})
        used, rx_deg = rng.random(5) < 0.7, world.observe("ue")["predicted_beam_deg"] + rng.uniform(-8, 8, 2)
        world.apply("ue", {"rx_beam_deg": rx_deg, "used_rb": used})
        rate_mbit = world.group_rates(tx_deg, rx_deg) * 0.1 / MEGA
        demand_mbit = world.observe("ue")["demand_bps"] * 0.1 / MEGA
        serves, everything = world.truth() is not None, world._play(world.truth(), tx_deg, rx_deg, ones)[0]
        outcome = world.step()

        counted = [m for m in range(5) if used[m] and reserved[m]]
        total = sum(rate_mbit[m] for m in counted)
        mean = total / len(counted) if counted else 0.0
        leo = mean / 10 if serves and total >= demand_mbit else 0.0  # (20)
        buffer = [*buffer, mean + 0.7 * min(total - demand_mbit, 0.0)][-(10 if literal else 1) :] if serves else []
        ue = sum(buffer) / len(buffer) if serves else 0.0  # (23)
        assert outcome.reward == pytest.approx({"leo": leo, "ue": ue}, abs=TOO_SMALL_MBIT), slot
        assert outcome.measures["served_bps"] * 0.1 / MEGA == pytest.approx(min(total, demand_mbit), abs=TOO_SMALL_MBIT)
        assert outcome.measures["used_rb"].tolist() == [m in counted for m in range(5)]

        mean_snr = sum(everything[m] for m in counted) / len(counted) if counted else 0.0
        cycle_snr.append(max(10 * np.log10(mean_snr), SNR_FLOOR_DB) if mean_snr > 0 else SNR_FLOOR_DB)
        shown_db = np.maximum(10 * np.log10(np.maximum(everything, 1e-9)), SNR_FLOOR_DB)
        shown_db[[m for m in range(5) if m not in counted]] = SNR_FLOOR_DB
        assert world.observe("ue")["snr_db"] == pytest.approx(shown_db, abs=1e-9)


def test_the_literal_reward_is_a_mean_over_ten_slots_and_the_buffer_can_be_set():
    assert make_world(slots=10).buffer == 1
    assert make_world(slots=10, paper_literal=True).buffer == 10
    assert make_world(slots=10, paper_literal=True, reward_buffer=3).buffer == 3


@pytest.mark.parametrize(
    ("used", "reserved"),
    [([0] * 5, [1] * 5), ([1] * 5, [0] * 5), ([1, 1, 0, 0, 0], [0, 0, 1, 1, 1])],
    ids=["none used", "none reserved", "disjoint"],
)
def test_an_empty_set_carries_nothing_and_is_not_a_number_nowhere(high, used, reserved):
    high.reset(1)
    for _ in range(30):
        put(high, used=used, reserved=reserved)
        demand_mbit = high.observe("ue")["demand_bps"] * 0.1 / MEGA
        outcome = high.step()
        assert outcome.reward == {"leo": 0.0, "ue": pytest.approx(-demand_mbit)}
        assert outcome.measures["rate_bps"] == 0.0
        assert not outcome.measures["used_rb"].any()
        seen = high.observe("ue")
        assert (seen["snr_db"] == SNR_FLOOR_DB).all()
        assert not seen["antenna_strength"].any()


def test_only_reserved_groups_count(high):
    high.reset(1)
    put(high, used=[1] * 5, reserved=[0, 1, 0, 1, 0])
    rates_bps = high.group_rates(*(high._beam_deg[name] for name in ("leo", "ue")))
    outcome = high.step()
    assert outcome.measures["used_rb"].tolist() == [False, True, False, True, False]
    assert outcome.measures["rate_bps"] == pytest.approx(rates_bps[1] + rates_bps[3], rel=1e-12)
    assert (high.observe("ue")["snr_db"] > SNR_FLOOR_DB).tolist() == [False, True, False, True, False]


def test_no_demand_counts_as_met(high):
    world = make_world(slots=50, demand={"mean_units": 0.0})
    world.reset(1)
    outcome = world.step()
    mean_mbit = outcome.measures["rate_bps"] / 5 * 0.1 / MEGA
    assert outcome.reward == {"leo": pytest.approx(mean_mbit / 10), "ue": pytest.approx(mean_mbit)}


def test_demand_is_poisson_in_units():
    world = make_world(slots=20_000, demand={"unit_bit": 5e6, "mean_units": 3.0})
    world.reset(1)
    units = world._demand_bps * 0.1 / 5e6
    assert np.allclose(units, np.round(units))
    assert units.mean() == pytest.approx(3.0, abs=4 * np.sqrt(3.0 / 20_000))
    assert units.var() == pytest.approx(3.0, rel=0.05)


# Facts and sizes


@pytest.mark.parametrize("every", [1, 4, 10])
@pytest.mark.parametrize("n_groups", [1, 4, 5])
def test_the_observations_have_the_paper_s_sizes(every, n_groups):
    world = make_world(slots=20, agents={"leo": timing(every=every)}, link={"n_groups": n_groups})
    leo, ue = ({f.name: math.prod(f.shape) for f in agent.observes} for agent in world.agents)
    assert leo["position_m"] + leo["slot_snr_db"] == 3 + every
    assert ue["snr_db"] + ue["antenna_strength"] + ue["demand_bps"] == n_groups + 64 + 1
    assert [sum(math.prod(f.shape) for f in agent.acts) for agent in world.agents] == [2 + n_groups] * 2
    assert world.agents[0].facts["cycle_slots"] == world.agents[0].every == every


def test_facts_are_arrays_that_rebuild_the_nominal_link_and_the_first_beam(high):
    high.reset(1)
    for agent in high.agents:
        assert all(isinstance(fact, np.ndarray) for fact in agent.facts.values())
        beam = agent.acts[0].name
        assert np.array_equal(agent.facts["start_beam_deg"], high.default(agent.name)[beam])
        now = high.services[0].now
        nominal = NominalLink.from_facts(agent.facts)
        matched = nominal.group_rate_bps(nominal.group_snr(now, now.tx_beam_deg, now.rx_beam_deg))
        assert 10.0 < (matched * 0.1 / MEGA).mean() < 25.0  # one group carries about 16 Mbit a slot


# What cannot be flown


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"agents": {"ue": timing(every=2)}}, ScenarioError, "agent.ue.every must be 1"),
        ({"agents": {"leo": timing(every=0)}}, ScenarioError, "agent.leo.every must be a positive whole number"),
        ({"sky": {"name": "SPUTNIK"}}, ScenarioError, "sky.name = 'SPUTNIK'"),
        ({"sky": {"tle": "tle/nowhere.tle"}}, ScenarioError, "nowhere.tle"),
        ({"sky": {"numbers": [5]}}, ScenarioError, r"sky.numbers = \[5\]: no satellite with catalogue number 5"),
        (
            {"sky": {"altitude_m": [1.0, 2.0]}},
            ScenarioError,
            r"sky.altitude_m = \[1.0, 2.0\]: no satellite with a mean",
        ),
        ({"sky": {"altitude_m": [2.0, 1.0]}}, ScenarioError, "first must not be above the second"),
        ({"sky": {"altitude_m": [2.0]}}, msgspec.ValidationError, "altitude_m"),
        ({"sky": {"inclination_deg": [0.0, 1.0]}}, ScenarioError, r"sky.inclination_deg = \[0.0, 1.0\]: no satellite"),
        (
            {"sky": {"altitude_m": [546e3, 548e3], "raan_deg": 43.0}},
            ScenarioError,
            "sky.raan_deg = 43.0: no plane with its node within 1 deg of 43",
        ),
        ({"sky": {"start_utc": "2022-02-22T13:00:00"}}, msgspec.ValidationError, "timezone"),
        ({"sky": {"mask_deg": 95.0}}, msgspec.ValidationError, "mask_deg"),
        (
            {"link": {"samples_per_slot": 1000, "multipath": "rays"}},
            ScenarioError,
            r"link.samples_per_slot = 1000, with the 81 paths .* GiB .* more than 4: take fewer samples",
        ),
        ({"reward_buffer": 0}, msgspec.ValidationError, "reward_buffer"),
        ({"unknown": 1}, msgspec.ValidationError, "unknown"),
    ],
)
def test_what_cannot_be_flown_is_refused_in_words(change, error, words):
    with pytest.raises(error, match=words):
        make_world(**change)


@pytest.mark.parametrize(
    ("sky", "site"),
    [
        ({"name": "", "mask_deg": 10.0}, {"latitude_deg": 0.0, "longitude_deg": 0.0}),
        ({"mask_deg": 30.0}, {"latitude_deg": -52.0, "longitude_deg": 20.0}),
    ],
    ids=["everybody over the equator", "Starlink in the south"],
)
def test_a_short_run_is_the_beginning_of_a_long_one(sky, site):
    short, long = (make_world(slots=slots, sky=sky, site=site) for slots in (60, 4000))
    for world in (short, long):
        world.reset(1)
    for _ in range(60):
        a, b = short.step().measures, long.step().measures
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("delay", [0, 1, 5, 25])
def test_with_any_delay_a_pass_after_a_gap_begins_with_a_beam_on_the_terminal(delay):
    world = make_world(BUSY_WINDOW, BUSY_SLOTS, agents={"leo": timing(delay=delay)})
    world.reset(1)
    first = world.services[-1].first
    assert first > world.services[-2].end  # after a gap: at a handover the held beam is for the other satellite
    answers = {}
    for slot in range(first + 20):
        if slot % 10 == 0:
            answers[slot + delay] = world.observe("leo")["predicted_beam_deg"]
        if slot in answers:
            world.apply("leo", {"tx_beam_deg": answers[slot], "reserved_rb": np.ones(5, bool)})
        error_deg = float(world.step().measures["tx_error_deg"])
        if slot >= first:
            assert error_deg < 8.0, slot


def test_a_window_nobody_passes_in_says_so():
    with pytest.warns(UserWarning, match="no satellite serves in this window"):
        make_world(slots=10, site={"latitude_deg": 89.0, "longitude_deg": 0.0})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"slots": 100_000_000}, "more than 240 h"),
        ({"sky": {"start_utc": "2999-01-01T00:00:00Z"}}, "sky.start_utc must be from 1957 to 2056"),
    ],
)
def test_windows_that_end_nowhere_are_refused(change, complaint):
    with pytest.raises(ScenarioError, match=complaint):
        make_world(**change)
