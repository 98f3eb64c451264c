"""Scenario files: what ships loads, and every mistake is named with its key and what would be right."""

from pathlib import Path

import msgspec
import pytest
import toys

from twin.errors import ControllerError, ScenarioError
from twin.scenario import CONTROLLERS, agent_seed, build, load, make_controller, resolve, shipped

GOOD = {
    "world": "ntn_cell",
    "slots": 10,
    "sky": {"tle": "tle/leo-2022-02-22.tle.xz", "name": "STARLINK", "start_utc": "2022-02-22T13:10:30Z"},
    "site": {"latitude_deg": 43.5, "longitude_deg": -80.5},
}


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_scenario_that_ships_loads_and_builds(name):
    scenario = load(name, {"slots": 20})
    assert scenario.name == name
    assert set(scenario.agents) == {a.name for a in build(scenario).agents}


def changed(dotted, value):
    keys = msgspec.to_builtins(GOOD)
    *tables, last = dotted.split(".")
    place = keys
    for table in tables:
        place = place.setdefault(table, {})
    place[last] = value
    return keys


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("slts", 10, "slts is not a key; did you mean slots"),
        ("slots", "many", "slots: expected `int`, got `str`, got 'many'"),
        ("slots", 0, "slots: expected `int` >= 1, got 0"),
        ("slot_s", -0.1, "slot_s: expected `float` >= 1e-06, got -0.1"),
        ("seed", 1.5, "seed: expected `int`"),
        ("clock", "sundial", "clock: invalid enum value 'sundial', there is: lockstep, realtime, virtual$"),
        ("link.los", "never", "link.los: invalid enum value 'never', there is: dwell, sojourn, pass$"),
        (
            "link.polarisation",
            ["rhcp", "left"],
            r"polarisation\[1\]: .* 'left', there is: vertical, hor.*, lhcp$",
        ),
        ("link.tx_antennas", [16, 99], r"link.tx_antennas\[1\]: expected `int` <= 64, got 99$"),
        ("world", "ntn_sell", "world 'ntn_sell' is unknown; did you mean ntn_cell"),
        ("world", "nowhere:World", "world 'nowhere:World' cannot be imported"),
        ("site.latitude_deg", 91.0, "site.latitude_deg: expected `float` <= 90"),
        ("site.lattitude_deg", 1.0, "site.lattitude_deg is not a key; did you mean latitude_deg"),
        ("link.carrier_ghz", 20, "link.carrier_ghz is not a key; did you mean carrier_hz"),
        ("link.n_rb", -1, "link.n_rb: expected `int` >= 1"),
        ("link.tx_antennas", [16], "link.tx_antennas: expected `array` of length 2"),
        ("sky.start_utc", "yesterday", "sky.start_utc: invalid RFC3339"),
        ("agent.ue.every", 2.5, r"agent.ue.every: expected `int \| null`, got `float`, got 2.5"),
        ("agent.ue.on_miss", "panic", "agent.ue.on_miss: invalid enum value 'panic'"),
        ("agent.ue.at_least", [10, 9], "agent.ue.at_least is"),
        ("agent.ue", "trpo", "agent.ue must be a table"),
        ("agent", "trpo", "agent must be tables"),
    ],
)
def test_mistake_is_named_with_its_key(key, value, complaint):
    with pytest.raises(ScenarioError, match=complaint):
        resolve(changed(key, value), "test")


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("agent.eu.controller", "hold", r"agent\.eu is not a seat of ntn_cell; did you mean ue"),
        ("agent.ue.every", 2, "agent.ue.every must be 1"),
        ("sky.tle", "tle/nothing.tle", "no TLE file .*nothing.tle"),
        ("sky.name", "GALILEO", "GALILEO"),
        ("link.n_rb", 99, "n_groups"),
        ("link.environment", "moon", "moon"),
    ],
)
def test_mistake_only_the_world_can_see_is_named_too(key, value, complaint):
    from twin import TwinError

    with pytest.raises(TwinError, match=complaint):
        build(resolve(changed(key, value), "test", Path(__file__).resolve().parents[1] / "scenarios"))


def test_missing_file_and_broken_toml_are_said(tmp_path):
    with pytest.raises(ScenarioError, match="does not exist"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("slots = = 3")
    with pytest.raises(ScenarioError, match=r"is not TOML.*line 1"):
        load(tmp_path / "bad.toml")
    with pytest.raises(ScenarioError, match="no scenario 'quikstart'; there are baseline"):
        load("quikstart")


def test_overrides_replace_and_a_new_controller_drops_the_old_one_s_options():
    scenario = load("quickstart", {"agent.ue.controller": "greedy", "link.n_paths": 6, "slots": 7})
    assert (scenario.seating("ue").controller, scenario.seating("ue").options) == ("greedy", {})
    assert scenario.seating("leo").options == {"n_steps": 8}
    assert (scenario.settings.link.n_paths, scenario.slots) == (6, 7)


def test_option_the_controller_does_not_know_is_named():
    agent = toys.TwoTier().agents[0]
    with pytest.raises(ControllerError, match=r"agent\.leader\.scael is neither .* did you mean scale"):
        make_controller("toys:Echo", agent, 1, {"scael": 2.0})
    with pytest.raises(
        ControllerError, match=r"agent\.leader\.scale of toys:Echo: Expected `float`, got `str`, got 'big'"
    ):
        make_controller("toys:Echo", agent, 1, {"scale": "big"})


def test_controller_that_does_not_exist_is_named():
    agent = toys.TwoTier().agents[0]
    with pytest.raises(ControllerError, match="'rolout' is unknown; did you mean rollout"):
        make_controller("rolout", agent, 1, {})
    with pytest.raises(ControllerError, match="module toys has no Nobody"):
        make_controller("toys:Nobody", agent, 1, {})


def test_every_name_of_a_controller_resolves():
    from twin.scenario import controller_class

    pytest.importorskip("torch", reason="the learning controllers need the extra `learn`")
    assert all(isinstance(controller_class(name), type) for name in CONTROLLERS)


def test_seats_have_different_seeds_that_follow_the_scenario_s():
    assert len({agent_seed(seed, name) for seed in (1, 2) for name in ("leo", "ue")}) == 4
    assert agent_seed(1, "leo") == agent_seed(1, "leo") < 2**63
