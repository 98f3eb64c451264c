"""The world of finite decision processes: its tables against plain loops, its demand, and its runs."""

import math

import numpy as np
import pytest

import hil
from twin import build, check_world, load
from twin.check import check_scenario
from twin.errors import ScenarioError
from twin.types import Agent
from twin.worlds.demand import KINDS, Deployed, at_divergence, differing, divergence, poisson, tilted
from twin.worlds.finite import (
    Finite,
    Inventory,
    Reservation,
    Settings,
    inventory,
    reservation,
    told_and_deployed,
)

EXACTLY = 1e-12  # rounding of sums of a few terms
STORES = [
    Inventory(),
    Inventory(charged="effective"),
    Inventory(
        capacity=3,
        backlog_limit=2,
        largest_order=2,
        price=3.0,
        order_cost=1.0,
        holding_cost=0.1,
        backlog_cost=1.7,
        demand=(0.5, 0.2, 0.0, 0.3),
    ),
    Inventory(capacity=2, backlog_limit=0, largest_order=5, demand=(0.25, 0.75)),
]


@pytest.mark.parametrize("s", STORES, ids=["set 1", "effective", "small", "no backlog"])
def test_inventory_tables_equal_a_plain_loop(s):
    tables = inventory(s, 0.7)
    levels = list(range(-s.backlog_limit, s.capacity + 1))
    transition = np.zeros((len(levels), s.largest_order + 1, len(levels)))
    reward = np.zeros(transition.shape[:2])
    for i, x in enumerate(levels):
        for a in range(s.largest_order + 1):
            effective = min(a, s.capacity - x)
            y = x + effective
            for d, p in enumerate(s.demand):
                transition[i, a, levels.index(max(y - d, -s.backlog_limit))] += p
                reward[i, a] += p * (
                    s.price * min(d, max(y, 0)) - s.holding_cost * max(y - d, 0) - s.backlog_cost * max(d - y, 0)
                )
            reward[i, a] -= s.order_cost * (effective if s.charged == "effective" else a)
    assert tables.level.tolist() == levels
    assert levels[tables.start] == 0
    assert tables.gamma == 0.7
    np.testing.assert_allclose(tables.transition, transition, rtol=0, atol=EXACTLY)
    np.testing.assert_allclose(tables.reward, reward, rtol=0, atol=EXACTLY)


@pytest.mark.parametrize(
    "s",
    [Reservation(), Reservation(n_groups=2, group_units=3, mean_units=0.7, backlog_limit=4, group_cost=0.9)],
    ids=["default", "other"],
)
def test_reservation_tables_equal_a_plain_loop(s):
    tables, law = reservation(s, 0.9), poisson(s.mean_units)
    n_states = s.backlog_limit + len(law)
    transition, reward = np.zeros((n_states, s.n_groups + 1, n_states)), np.zeros((n_states, s.n_groups + 1))
    for b in range(n_states):
        waiting, lost = min(b, s.backlog_limit), max(b - s.backlog_limit, 0)
        for g in range(s.n_groups + 1):
            reward[b, g] = -(s.group_cost * g + s.waiting_cost * waiting + s.overflow_cost * lost)
            for d, p in enumerate(law):
                transition[b, g, max(waiting + d - g * s.group_units, 0)] += p
    np.testing.assert_allclose(tables.transition, transition, rtol=0, atol=EXACTLY)
    np.testing.assert_allclose(tables.reward, reward, rtol=0, atol=EXACTLY)


def test_reward_of_a_reservation_is_the_same_whatever_demand_comes():
    told, deployed = told_and_deployed(
        Settings(reservation=Reservation(), deployed=Deployed(kind="bursts", radius=0.1))
    )
    assert np.array_equal(told.reward, deployed.reward)
    assert np.abs(told.transition - deployed.transition).max() > 0.01


@pytest.mark.parametrize("mean", [0.1, 2.0, 20.0, 100.0])
def test_poisson_law_is_poisson_s_up_to_a_billionth(mean):
    law = poisson(mean)
    expected = [math.exp(-mean + k * math.log(mean) - math.lgamma(k + 1)) for k in range(law.size)]
    assert law.sum() == pytest.approx(1.0, abs=EXACTLY)
    np.testing.assert_allclose(law, expected, rtol=0, atol=1e-9)
    assert law @ np.arange(law.size) == pytest.approx(mean, rel=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [0.0025, 0.02, 0.16])
@pytest.mark.parametrize(
    "nominal", [poisson(2.0), poisson(20.0), np.array(Inventory().demand)], ids=["2", "20", "store"]
)
def test_demand_that_differs_is_a_law_at_the_distance_asked_for(kind, radius, nominal):
    law = differing(nominal, kind, radius)
    assert law.sum() == pytest.approx(1.0, abs=EXACTLY)
    assert (law >= 0.0).all()
    assert divergence(law, nominal) == pytest.approx(0.0 if kind == "nominal" else radius, rel=1e-9, abs=EXACTLY)


def test_each_kind_of_demand_differs_as_its_name_says():
    nominal = poisson(2.0)
    count = np.arange(nominal.size)

    def mean_and_variance(kind):
        law = differing(nominal, kind, 0.05)
        mean = law @ count
        return mean, law @ (count - mean) ** 2

    assert mean_and_variance("more")[0] > 2.1
    assert mean_and_variance("less")[0] < 1.9
    assert mean_and_variance("bursts")[0] > 2.1
    assert mean_and_variance("bursts_and_lulls")[0] == pytest.approx(2.0, abs=1e-3)  # the law's end cuts a little off
    assert mean_and_variance("bursts_and_lulls")[1] > 2.5
    assert mean_and_variance("wider")[1] > 2.5


def test_more_demand_is_a_poisson_law_again():
    """Tilting a Poisson law by its count changes its mean and nothing else."""
    law = tilted(poisson(2.0), 0.3 * np.arange(poisson(2.0).size))
    np.testing.assert_allclose(law[:12], poisson(2.0 * math.exp(0.3))[:12], rtol=1e-4)


def test_divergence_is_infinite_where_the_nominal_law_never_comes():
    assert divergence(np.array([0.5, 0.5]), np.array([1.0, 0.0])) == math.inf
    assert divergence(np.array([0.5, 0.5]), np.array([0.25, 0.75])) == pytest.approx(
        0.5 * math.log(2.0) + 0.5 * math.log(2.0 / 3.0)
    )


def test_way_that_ends_before_the_distance_is_refused():
    nominal = np.array([0.5, 0.5])
    with pytest.raises(ScenarioError, match="take less"):
        at_divergence(nominal, lambda t: np.array([0.5 - 0.1 * t, 0.5 + 0.1 * t]), 0.5, 1.0)


@pytest.mark.parametrize(
    ("nominal", "kind"), [((0.5, 0.3, 0.0, 0.2), "bursts"), ((0.0, 0.3, 0.5, 0.2), "bursts_and_lulls")]
)
def test_demand_that_needs_counts_the_nominal_one_never_has_is_refused(nominal, kind):
    with pytest.raises(ScenarioError, match="never has"):
        differing(np.array(nominal), kind, 0.02)


# ---- the world


def settings(**changes):
    return Settings(**{"reservation": Reservation(), "gamma": 0.9, **changes})


@pytest.mark.parametrize("name", ["inventory", "reservation"])
@pytest.mark.parametrize("kind", ["nominal", "less", "bursts"])
def test_world_keeps_the_contract(name, kind):
    scenario = load(name, {"slots": 100, "deployed.kind": kind})
    check_world(lambda: build(scenario), slots=100)


@pytest.mark.parametrize("controller", ["hold", "random"])
@pytest.mark.parametrize("name", ["inventory", "reservation"])
def test_scenario_is_flown_by_who_fits_any_seat(name, controller):
    check_scenario(load(name, {"slots": 60, "agent.agent.controller": controller, "agent.agent.delay": 1}))


def test_seat_is_told_the_nominal_tables_and_the_world_plays_the_deployed_ones():
    world = Finite(settings(deployed=Deployed(kind="more", radius=0.2)), slots=10, slot_s=0.1)
    (agent,) = world.agents
    assert isinstance(agent, Agent)
    nominal = reservation(gamma=0.9)
    assert np.array_equal(agent.facts["transition"], nominal.transition)
    assert np.array_equal(agent.facts["reward_table"], nominal.reward)
    assert np.array_equal(agent.facts["level"], nominal.level)
    assert agent.facts["gamma"] == 0.9
    assert agent.facts["ambiguity_radius"] == 0.02
    assert agent.facts["default_action"] == 5
    assert world.deployed.demand @ np.arange(world.deployed.demand.size) > 2.5


def test_a_run_s_demand_has_the_deployed_law():
    world = Finite(settings(deployed=Deployed(kind="more", radius=0.1)), slots=40_000, slot_s=0.1)
    world.reset(3)
    found = np.bincount(world._demand[:40_000], minlength=world.deployed.demand.size) / 40_000
    five_standard_errors = 5.0 * np.sqrt(world.deployed.demand / 40_000) + 1e-4
    assert (np.abs(found - world.deployed.demand) < five_standard_errors).all()
    assert (np.abs(found - world.told.demand) > five_standard_errors).any()


def test_demand_of_a_run_does_not_depend_on_what_the_seat_does():
    world, came = Finite(settings(), slots=50, slot_s=0.1), []
    for action in (0, 5):
        world.reset(7)
        world.apply("agent", {"action": np.array(action)})
        came.append([int(world.step().measures["demand_units"]) for _ in range(50)])
    assert came[0] == came[1]


def test_a_slot_moves_the_backlog_and_measures_it():
    s = Reservation(backlog_limit=3)
    world = Finite(settings(reservation=s), slots=200, slot_s=0.5)
    world.reset(1)
    world.apply("agent", {"action": np.array(1)})
    level = 0
    for _ in range(200):
        assert world.observe("agent")["state"] == level
        outcome = world.step()
        measured = outcome.measures
        waiting, units = min(level, 3), int(measured["demand_units"])
        assert outcome.reward["agent"] == pytest.approx(-(0.4 + waiting + 10.0 * (level - waiting)))
        assert (measured["waiting_units"], measured["lost_units"]) == (waiting, level - waiting)
        assert measured["demand_bps"] == pytest.approx(units * 10e6 / 0.5)
        assert measured["served_bps"] == pytest.approx(min(waiting + units, 1) * 10e6 / 0.5)
        level = max(waiting + units - 1, 0)
    assert outcome.done


def test_a_store_sells_what_it_has():
    world = Finite(Settings(inventory=Inventory()), slots=50, slot_s=0.1)
    world.reset(1)
    for _ in range(50):
        measured = world.step().measures  # three are ordered: the mean demand is 2.05
        assert measured["action"] == 3
        assert measured["sold_units"] == min(measured["demand_units"], max(min(measured["level"] + 3, 8), 0))


@pytest.mark.slow
@pytest.mark.usefixtures("no_child_left")
@pytest.mark.parametrize("name", ["inventory", "reservation"])
def test_run_over_sockets_is_the_run_in_this_process_and_it_flies_in_real_time(tmp_path, name):
    scenario = load(name, {"slots": 100, "slot_s": 0.05, "agent.agent.controller": "random"})
    here = hil.run(scenario, "lockstep", tmp_path / "here")
    there = hil.run(scenario, "lockstep", tmp_path / "there", processes=True)
    assert here.meta["trajectory_hash"] == there.meta["trajectory_hash"]
    assert hil.report(hil.run(scenario, "realtime", tmp_path / "real"))["agent"].cycles == 100


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"inventory": {}}, "inventory and reservation"),
        ({"inventory": {"demand": [0.5, 0.4]}, "reservation": None}, "add up to 1"),
        ({"reservation": None}, "neither"),
        ({"deployed.kind": "less", "deployed.radius": 3.0}, "deployed.radius = 3"),
        ({"agent.agent.every": 2}, "every must be 1"),
        ({"reservation.backlog_limit": 1000, "reservation.n_groups": 100}, "transitions"),
    ],
)
def test_scenario_that_cannot_be_flown_says_why(changes, word):
    from twin.scenario import resolve

    keys = {"world": "finite", "slots": 10, "reservation": {}}
    for dotted, value in changes.items():
        table, _, key = dotted.rpartition(".")
        if value is None:
            del keys[dotted]
            continue
        at = keys
        for name in table.split(".") if table else ():
            at = at.setdefault(name, {})
        at[key or dotted] = value
    with pytest.raises(ScenarioError, match=word):
        build(resolve(keys))
