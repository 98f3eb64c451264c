"""Everything that ships keeps the contract: every scenario's world, and every controller on the seats it is for."""

import pytest

from twin import build, check_controller, check_world, load
from twin.scenario import CONTROLLERS, agent_seed, make_controller, shipped

LEARNING = {"rollout": ("leo",), "trpo": ("ue",)}  # made for one seat of ntn_cell; the others fit both
HOMES = {  # the scenario that a controller of another world is made for, and its seats
    "stackelberg": ("d2d_cell", ("cellular", "d2d")),
    "st_q": ("d2d_cell", ("cellular", "d2d")),
    "aloha": ("access_grid", ("users",)),
    "scalable_ac": ("access_grid", ("users",)),
    "mvsa": ("reservation", ("agent",)),
}
SEATS = [
    (name, seat) for name in sorted(CONTROLLERS) if name not in HOMES for seat in LEARNING.get(name, ("leo", "ue"))
]
ELSEWHERE = [
    *((name, home, seat) for name, (home, seats) in HOMES.items() for seat in seats),
    *((name, home, seat) for name in ("hold", "random") for home, seats in set(HOMES.values()) for seat in seats),
]


def make(name):
    return lambda agent, seed, **options: make_controller(name, agent, agent_seed(seed, agent.name), options)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_world_of_every_scenario(name):
    scenario = load(name, {"slots": 50})
    check_world(lambda: build(scenario))


@pytest.mark.parametrize(
    "changes",
    [
        {"sky.start_utc": "2022-02-22T13:08:45Z"},  # half of it without anybody above the mask
        {"agent.leo.delay": 10, "agent.ue.delay": 2},
        {"agent.leo.every": 7},
        {"paper_literal": True},
        {"link.n_groups": 1, "link.tx_antennas": [2, 3], "link.rx_antennas": [1, 1]},
    ],
    ids=["gap", "delays", "odd cycle", "literal", "small"],
)
def test_world_as_a_scenario_may_change_it(changes):
    scenario = load("handover", {"slots": 150, **changes})
    if "sky.start_utc" in changes:
        assert 50 < build(scenario).services[0].first < 100
    check_world(lambda: build(scenario), slots=150)


@pytest.mark.parametrize(("name", "seat"), SEATS)
def test_controller_on_every_seat_it_is_for(name, seat):
    if name in LEARNING:
        pytest.importorskip("torch", reason="the learning controllers need the extra `learn`")
    agents = {agent.name: agent for agent in build(load("baseline", {"slots": 20})).agents}
    others = tuple(other for other in agents if other != seat)
    check_controller(make(name), agents[seat], others)


@pytest.mark.filterwarnings("ignore:act.. took")  # wall time is this machine's, not the contract's
@pytest.mark.parametrize(("name", "home", "seat"), sorted(ELSEWHERE))
def test_controller_of_another_world(name, home, seat):
    if name in ("st_q", "mvsa"):
        pytest.importorskip("torch", reason="the learning controllers need the extra `learn`")
    scenario = load(home, {"slots": 20})
    agents = {agent.name: agent for agent in build(scenario).agents}
    others = tuple(other for other in agents if other != seat)
    check_controller(make(name), agents[seat], others, world=lambda: build(scenario), slots=20)


@pytest.mark.parametrize(("name", "seat"), SEATS)
def test_controller_where_the_world_is_changed(name, seat):
    if name in LEARNING:
        pytest.importorskip("torch", reason="the learning controllers need the extra `learn`")
    changes = {"agent.leo.every": 5, "agent.leo.delay": 5, "agent.ue.delay": 1, "link.n_groups": 4}
    agents = {agent.name: agent for agent in build(load("baseline", {"slots": 20, **changes})).agents}
    check_controller(make(name), agents[seat], tuple(other for other in agents if other != seat))
