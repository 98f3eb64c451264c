"""Faults: the same seed hurts the same messages under every clock, and each does what its name says and no more."""

import json
import math

import msgspec
import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

import hil
import twin
from hil.faults import flip
from hil.recovery import Age, ages
from twin import Action, Agent, Answer, Field, Outcome, Record
from twin.errors import ScenarioError
from twin.faults import CONTROLLER, KINDS, LINK, SKY, spans
from twin.orbit import track
from twin.record import SOURCES, STATUSES
from twin.units import EARTH_ROTATION_RAD_S

INSTANT = {"latency": {"fixed_s": 0.0}}
EVERY_LINK_FAULT = {
    "delay": {"kind": "delay", "delay_s": 0.02, "start_s": 0.06, "duration_s": 0.1},
    "jitter": {"kind": "jitter", "jitter_s": 0.05},
    "drop": {"kind": "drop", "probability": 0.4},
    "lost observation": {"kind": "drop", "direction": "observation", "probability": 0.4},
    "duplicate": {"kind": "duplicate", "probability": 0.5},
    "reorder": {"kind": "reorder", "probability": 0.4},
    "corrupt": {"kind": "corrupt", "probability": 0.6},
}
EVERY_CONTROLLER_FAULT = {
    "kill": {"kind": "kill", "start_s": 0.1},
    "stall": {"kind": "stall", "start_s": 0.1, "duration_s": 0.06},
    "restart": {"kind": "restart", "start_s": 0.1, "duration_s": 0.06},
}


def flown(folder, *faults, clock="lockstep", processes=False, slots=20, controllers=("Echo", "Echo"), **keys):
    """The toy world in slots of 20 ms; faults are the follower's where they do not say whose."""
    whose = [
        {"agent": "follower", **fault} if fault.get("agent", "") is not None else _of_all(fault) for fault in faults
    ]
    scenario = toys.scenario(controllers, slots=slots, faults=whose, **keys)
    return hil.run(scenario, clock, folder, processes=processes or clock == "realtime")


def _of_all(fault):
    return {key: value for key, value in fault.items() if key != "agent"}


def words(record, agent="follower", column="status", names=STATUSES):
    return [names[i] for i in record.decisions[agent][column]]


def sources(record, agent="follower"):
    return words(record, agent, "source", SOURCES)


def same(*records):
    """Whether the runs went the same way, to the last status."""
    first = records[0]
    for other in records[1:]:
        assert other.meta["trajectory_hash"] == first.meta["trajectory_hash"]
        assert other.meta["faults"] == first.meta["faults"]
        for agent in first.decisions:
            assert words(other, agent) == words(first, agent)
            assert sources(other, agent) == sources(first, agent)
    return True


# ---- what a scenario may say


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ({"kind": "drp"}, r"faults\[0\]\.kind 'drp' is unknown; did you mean drop\? there are blockage"),
        ({}, r"faults\[0\]\.kind is missing; there are blockage"),
        ({"kind": ["drop"]}, r"faults\[0\]\.kind \['drop'\] is unknown"),
        (
            {"kind": "drop", "agent": "lead"},
            r"faults\[0\]\.agent 'lead' is not a seat of toys:Toy; did you mean leader",
        ),
        ({"kind": "drop", "directn": "answer"}, r"faults\[0\]\.directn is not a key; did you mean direction"),
        ({"kind": "drop", "direction": "up"}, r"faults\[0\]\.direction: invalid enum value 'up'"),
        ({"kind": "drop", "probability": 1.5}, r"faults\[0\]\.probability: expected `float` <= 1"),
        ({"kind": "delay"}, r"faults\[0\]: object missing required field `delay_s`"),
        ({"kind": "delay", "delay_s": 0.0}, r"faults\[0\]\.delay_s: expected `float` > 0"),
        ({"kind": "drop", "duration_s": 0.0}, r"faults\[0\]\.duration_s: expected `float` > 0"),
        ({"kind": "kill"}, r"faults\[0\]: object missing required field `agent`"),
        ({"kind": "kill", "agent": "leader", "duration_s": 1.0}, r"faults\[0\]\.duration_s is not a key"),
        ({"kind": "restart", "agent": "leader"}, "missing required field `duration_s`"),
        ({"kind": "rain"}, r"faults\[0\] \(rain\) is of the sky, world toys:Toy plays none"),
    ],
)
def test_mistake_in_a_fault_is_named_with_its_key(fault, complaint):
    with pytest.raises(ScenarioError, match=complaint):
        twin.build(toys.scenario(faults=[fault]))


def test_faults_that_are_no_tables_and_controllers_that_are_hit_twice_at_once_are_refused():
    with pytest.raises(ScenarioError, match=r"faults must be tables, \[\[faults\]\], got 'drop'"):
        toys.scenario(faults="drop")
    kill, stall = {"kind": "kill", "agent": "leader"}, {"kind": "stall", "agent": "leader", "start_s": 0.1}
    with pytest.raises(ScenarioError, match=r"faults\[0\] \(stall\) begins while faults\[1\] \(kill\) of the same"):
        toys.scenario(faults=[stall, kill])
    toys.scenario(faults=[{**stall, "agent": "follower"}, kill])


def test_process_that_is_not_ours_is_not_killed(tmp_path):
    for clock in ("lockstep", "virtual", "realtime"):
        with pytest.raises(
            ScenarioError, match=r"faults\[0\] \(kill\) .*'follower', which is external: its process is"
        ):
            hil.run(toys.scenario(("Echo", "external"), faults=[{"kind": "kill", "agent": "follower"}]), clock)


def test_run_that_has_no_links_says_where_there_are_some(tmp_path):
    with pytest.raises(
        ScenarioError, match=r"faults\[0\] \(drop\) is of a link .* hil\.run\(scenario, processes=False\)"
    ):
        twin.run(toys.scenario(faults=[{"kind": "drop"}]), tmp_path / "run")


@pytest.mark.parametrize(
    ("start_s", "duration_s", "slots"),
    [(0.0, 0.1, (0, 1)), (0.3, 0.1, (3, 4)), (0.35, 0.1, (3, 5)), (0.35, 0.01, (3, 4)), (0.7, 0.2, (7, 9))],
)
def test_fault_lasts_for_every_slot_its_interval_touches(start_s, duration_s, slots):
    (span,) = spans([KINDS["drop"](start_s=start_s, duration_s=duration_s)], 0.1, 1)
    assert (span.first, span.end) == slots


def test_chance_whether_a_fault_comes_is_that_of_its_probability():
    stall = KINDS["stall"](agent="ue", probability=0.3)
    came = [spans([stall, stall], 0.1, seed) for seed in range(1000)]
    assert 0.26 < np.mean([pair[0].comes for pair in came]) < 0.34
    assert any(one.comes != other.comes for one, other in came)  # each by itself


def test_every_kind_belongs_to_one_group_and_is_in_the_record_as_it_was_written(tmp_path):
    assert len(KINDS) == len(LINK) + len(CONTROLLER) + len(SKY) == 13
    record = flown(tmp_path / "run", {"kind": "drop", "probability": 0.5}, slots=3)
    again = toys.scenario(faults=record.meta["resolved"]["faults"])
    assert msgspec.to_builtins(again.faults) == record.meta["resolved"]["faults"]


# ---- links


@pytest.mark.parametrize("fault", EVERY_LINK_FAULT.values(), ids=EVERY_LINK_FAULT)
def test_virtual_time_with_instant_answers_is_lock_step_with_the_same_faults(tmp_path, fault):
    lockstep = flown(tmp_path / "lockstep", fault)
    virtual = flown(tmp_path / "virtual", fault, clock="virtual", follower=INSTANT, leader=INSTANT)
    clean = flown(tmp_path / "clean")
    assert same(lockstep, virtual)
    assert (lockstep.meta["trajectory_hash"] == clean.meta["trajectory_hash"]) == (fault["kind"] == "duplicate")


@pytest.mark.usefixtures("no_child_left")
def test_processes_see_the_faults_of_this_process(tmp_path):
    """All faults of links at once, on both agents, whose signals are lost with their answers."""
    faults = [{**fault, "agent": None, "probability": 0.2} for fault in EVERY_LINK_FAULT.values()]
    keys = {
        "slots": 60,
        "leader": {"delay": 2},
        "follower": {"late": "apply_next"},
        "controllers": ("Echo", "Learning"),
    }
    here, there = (flown(tmp_path / str(p), *faults, processes=p, **keys) for p in (False, True))
    assert same(here, there)
    assert set(words(here)) >= {"on_time", "missing", "late"}
    for agent, counts in here.meta["messages"].items():
        assert {key: there.meta["messages"][agent][key] for key in counts} == counts
        assert counts["duplicates"] > 0


@pytest.mark.parametrize(
    ("delay_s", "status", "sources_"),
    [
        (0.0159, "on_time", ["agent"] * 3),
        (0.016, "on_time", ["agent"] * 3),  # the follower's window is 16 ms
        (0.0161, "late", ["default"] * 3),
        (0.036, "late", ["default"] * 3),
        (0.0361, "missing", ["default"] * 3),  # after the next deadline
    ],
)
def test_delay_is_held_against_the_nominal_deadline(tmp_path, delay_s, status, sources_):
    record = flown(tmp_path / "run", {"kind": "delay", "delay_s": delay_s}, slots=3)
    assert words(record) == [status] * 3
    assert sources(record) == sources_
    assert record.meta["messages"]["follower"]["stale"] == (3 if status == "missing" else 0)


def test_delay_is_simulated_time_also_where_time_runs_faster(tmp_path):
    for rt_factor in (0.1, 1.0, 50.0):
        keys = {"clock": "virtual", "rt_factor": rt_factor, "follower": INSTANT, "leader": INSTANT}
        record = flown(tmp_path / f"on time {rt_factor}", {"kind": "delay", "delay_s": 0.015}, **keys)
        assert set(words(record)) == {"on_time"}
        record = flown(tmp_path / f"late {rt_factor}", {"kind": "delay", "delay_s": 0.017}, **keys)
        assert set(words(record)) == {"late"}


def test_delay_adds_to_what_the_controller_takes_and_shows_on_the_way_back(tmp_path):
    keys = {"clock": "virtual", "leader": INSTANT}
    record = flown(
        tmp_path / "run", {"kind": "delay", "delay_s": 0.006}, follower={"latency": {"fixed_s": 0.009}}, **keys
    )
    follower = hil.report(record)["follower"]
    assert set(words(record)) == {"on_time"}
    assert (follower.response_us.max, follower.components_us["wire_back"].max) == (15_000, 6_000)
    assert follower.unaccounted_us.max == 0
    assert follower.slack_us.max == 1_000
    record = flown(
        tmp_path / "late", {"kind": "delay", "delay_s": 0.008}, follower={"latency": {"fixed_s": 0.009}}, **keys
    )
    assert set(words(record)) == {"late"}


def test_answer_that_is_late_already_is_still_hurt_on_its_way(tmp_path):
    keys = {"clock": "virtual", "leader": INSTANT, "follower": {"latency": {"fixed_s": 0.018}}}
    assert set(words(flown(tmp_path / "late", **keys))) == {"late"}
    assert set(words(flown(tmp_path / "lost", {"kind": "drop"}, **keys))) == {"missing"}
    stale = flown(tmp_path / "stale", {"kind": "delay", "delay_s": 0.019}, **keys)
    assert set(words(stale)) == {"missing"}
    assert stale.meta["messages"]["follower"]["stale"] == 20


def test_late_answer_of_a_slow_link_can_stand_in(tmp_path):
    fault = {"kind": "reorder", "start_s": 0.04, "duration_s": 0.06}
    record = flown(tmp_path / "run", fault, slots=8, follower={"late": "apply_next"})
    assert words(record) == ["on_time"] * 2 + ["late"] * 3 + ["on_time"] * 3
    assert sources(record) == ["agent", "agent", "hold", "late", "late", "agent", "agent", "agent"]
    assert ages(record, "follower").tolist() == [0, 0, 1, 1, 1, 0, 0, 0]


def test_overtaken_answer_that_has_a_cycle_to_spare_is_still_on_time(tmp_path):
    fault = {"kind": "reorder", "probability": 0.5}
    spared = flown(tmp_path / "spared", fault, follower={"delay": 1})
    clean = flown(tmp_path / "clean", follower={"delay": 1})
    assert spared.meta["trajectory_hash"] == clean.meta["trajectory_hash"]
    assert spared.meta["faults"][0]["messages"]["follower"] > 3


def test_jitter_is_never_more_than_its_bound(tmp_path):
    assert set(words(flown(tmp_path / "within", {"kind": "jitter", "jitter_s": 0.016}, slots=100))) == {"on_time"}
    beyond = words(flown(tmp_path / "beyond", {"kind": "jitter", "jitter_s": 0.032}, slots=400))
    assert beyond.count("late") / 400 == pytest.approx(0.5, abs=0.08)


def test_messages_are_hit_as_often_as_the_probability_says(tmp_path):
    record = flown(tmp_path / "run", {"kind": "drop", "probability": 0.3}, slots=1000)
    assert words(record).count("missing") / 1000 == pytest.approx(0.3, abs=0.05)
    assert record.meta["faults"][0]["messages"] == {"follower": words(record).count("missing")}


class Counts(toys.Echo):
    """Answers how many observations it has seen."""

    def __init__(self, agent, seed):
        super().__init__(agent, seed)
        self.seen = 0

    def act(self, seen):
        self.seen += 1
        return Action({"number": np.array(self.seen / 10)})


def counted(record):
    return (10 * record.decisions["follower"]["action.number"]).round().astype(int).tolist()


def test_lost_observation_is_never_seen_and_a_lost_answer_was_given(tmp_path):
    window = {"kind": "drop", "start_s": 0.04, "duration_s": 0.04}
    keys = {"slots": 6, "follower": {"controller": "test_faults:Counts"}}
    assert counted(flown(tmp_path / "answer", window, **keys)) == [1, 2, 2, 2, 5, 6]
    assert counted(flown(tmp_path / "observation", {**window, "direction": "observation"}, **keys)) == [
        1,
        2,
        2,
        2,
        3,
        4,
    ]


def test_copy_is_counted_and_changes_nothing(tmp_path):
    doubled, clean = flown(tmp_path / "doubled", {"kind": "duplicate"}), flown(tmp_path / "clean")
    assert doubled.meta["trajectory_hash"] == clean.meta["trajectory_hash"]
    assert doubled.meta["messages"]["follower"]["duplicates"] == 20


def test_corrupted_answer_is_invalid_or_really_in_force(tmp_path):
    hurt, clean = flown(tmp_path / "hurt", {"kind": "corrupt"}, slots=200), flown(tmp_path / "clean", slots=200)
    status = np.array(words(hurt))
    assert set(status) == {"on_time", "invalid"}
    number, true = (r.decisions["follower"]["action.number"] for r in (hurt, clean))
    passed = status == "on_time"
    assert (number[passed] != true[passed]).all()
    assert (np.abs(number) <= 10).all()
    changed = number[passed][:, None].view(np.uint8) != true[passed][:, None].view(np.uint8)
    assert (changed.sum(axis=1) == 1).all()
    reasons = [e["reason"] for e in hurt.events if e["event"] == "invalid"]
    assert len(reasons) == (status == "invalid").sum()
    assert all(reason.startswith("changed on the link: number") for reason in reasons)


def test_one_byte_of_all_arrays_is_changed_wherever_it_lies():
    values = {"flag": np.array([True, False]), "beam": np.arange(4.0), "one": np.float32(2.0)}
    action = Action(values, {"leo": {"hint": np.arange(3, dtype="int32").astype(">i4")}})
    before = {name: np.array(value).tobytes() for name, value in values.items()}
    hit, refused = set(), set()
    for seed in range(300):
        try:
            changed = flip(action, np.random.default_rng(seed))
        except ValueError as error:
            refused.add(str(error))
            continue
        now = {name: (np.asarray(v), np.asarray(values[name])) for name, v in changed.values.items()}
        now["hint"] = (changed.signals["leo"]["hint"], np.arange(3, dtype="int32"))
        different = {
            name
            for name, (after, was) in now.items()
            if after.astype("<" + was.dtype.str[1:]).tobytes() != was.tobytes()
        }
        assert len(different) == 1
        assert all(after.shape == was.shape and after.dtype.name == was.dtype.name for after, was in now.values())
        hit |= different
    assert hit - {"flag"} == {"beam", "one", "hint"}  # a bool that is changed is hardly ever a bool still
    assert refused == {"flag is bool, but has bytes other than 0 and 1"}
    assert before == {name: np.array(value).tobytes() for name, value in values.items()}


def test_action_without_a_byte_is_left_alone():
    nothing = Action({"none": np.zeros((0, 3))})
    assert flip(nothing, np.random.default_rng(1)) is nothing


@settings(max_examples=25, deadline=None)
@given(
    chosen=st.lists(st.sampled_from(sorted(EVERY_LINK_FAULT | EVERY_CONTROLLER_FAULT)), max_size=4, unique=True),
    seed=st.integers(0, 2**31),
    delay=st.integers(0, 3),
    clock=st.sampled_from(["lockstep", "virtual"]),
)
def test_faults_of_probability_zero_are_no_faults(tmp_path_factory, chosen, seed, delay, clock):
    folder = tmp_path_factory.mktemp("runs")
    every = EVERY_LINK_FAULT | EVERY_CONTROLLER_FAULT
    faults = [{**every[name], "probability": 0.0} for name in chosen]
    of_controllers = [fault for fault in faults if fault["kind"] in EVERY_CONTROLLER_FAULT]
    faults = [fault for fault in faults if fault not in of_controllers[1:]]
    keys = {"seed": seed, "follower": {"delay": delay, **INSTANT}, "leader": INSTANT, "slots": 8, "clock": clock}
    assert same_but_faults(flown(folder / "with", *faults, **keys), flown(folder / "without", **keys))


def same_but_faults(hurt, clean):
    assert hurt.meta["trajectory_hash"] == clean.meta["trajectory_hash"]
    assert not any(listed["messages"] for listed in hurt.meta["faults"])
    return words(hurt) == words(clean)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), probability=st.floats(0.05, 0.95), delay=st.integers(0, 2))
def test_draws_do_not_depend_on_other_faults_nor_on_the_clock(tmp_path_factory, seed, probability, delay):
    """A fault before it in the list that hits nothing changes its place, so the list keeps its length."""
    folder = tmp_path_factory.mktemp("runs")
    drop, idle = {"kind": "drop", "probability": probability}, {"kind": "duplicate", "agent": "leader"}
    quiet = {**idle, "probability": 0.0}
    keys = {"seed": seed, "slots": 10, "follower": {"delay": delay, **INSTANT}, "leader": INSTANT}
    runs = [
        flown(folder / "1", quiet, drop, **keys),
        flown(folder / "2", idle, drop, **keys),
        flown(folder / "3", idle, drop, clock="virtual", **keys),
    ]
    assert len({tuple(words(record)) for record in runs}) == 1
    assert len({record.meta["trajectory_hash"] for record in runs}) == 1


# ---- controllers


def test_controller_that_is_away_is_not_asked_and_comes_back_as_it_was_or_fresh(tmp_path):
    keys = {"slots": 10, "follower": {"controller": "test_faults:Counts"}}
    expected = {
        "kill": ([1, 2, 3, 4, 5, 5, 5, 5, 5, 5], ["on_time"] * 5 + ["missing"] * 5),
        "stall": ([1, 2, 3, 4, 5, 5, 5, 5, 6, 7], ["on_time"] * 5 + ["missing"] * 3 + ["on_time"] * 2),
        "restart": ([1, 2, 3, 4, 5, 5, 5, 5, 1, 2], ["on_time"] * 5 + ["missing"] * 3 + ["on_time"] * 2),
    }
    for name, (number, status) in expected.items():
        record = flown(tmp_path / name, EVERY_CONTROLLER_FAULT[name], **keys)
        assert (counted(record), words(record)) == (number, status), name
        begins, *ends = [(e["event"], e["slot"]) for e in record.events if e["event"].startswith("fault_")]
        assert begins == ("fault_begins", 5)
        assert ends == ([] if name == "kill" else [("fault_ends", 8)])


@pytest.mark.usefixtures("no_child_left")
@pytest.mark.parametrize("kind", EVERY_CONTROLLER_FAULT)
def test_processes_that_are_killed_stopped_and_restarted_give_the_trajectory_of_this_process(tmp_path, kind):
    fault, keys = EVERY_CONTROLLER_FAULT[kind], {"controllers": ("Echo", "Learning"), "follower": {"delay": 2}}
    here, there = (flown(tmp_path / str(p), fault, processes=p, **keys) for p in (False, True))
    assert same(here, there)
    np.testing.assert_array_equal(here.decisions["follower"]["weights"], there.decisions["follower"]["weights"])
    died = [e["how"] for e in there.events if e["event"] == "died"]
    assert died == ([] if kind == "stall" else ["was ended by signal 9"])


def test_fresh_controller_has_learned_nothing(tmp_path):
    record = flown(
        tmp_path / "run",
        EVERY_CONTROLLER_FAULT["restart"],
        controllers=("Echo", "Learning"),
        follower={"learn_delay": 2},
    )
    weights = record.decisions["follower"]["weights"]
    assert weights[4] == 2
    assert weights[8] == 0
    assert weights[-1] > 0


@pytest.mark.parametrize(("kind", "expected"), [("kill", "oommm"), ("restart", "oommo"), ("stall", "oolmo")])
def test_what_a_controller_was_at_in_virtual_time_is_lost_or_takes_so_much_longer(tmp_path, kind, expected):
    """Asked every 40 ms, due 40 ms later, it takes 30: what it began at 80 ms is in the works at 100.

    Stopped until 140 ms, it is ready at 150, before its next deadline at 160.
    """
    fault = {**EVERY_CONTROLLER_FAULT[kind], "agent": "leader"} | ({} if kind == "kill" else {"duration_s": 0.04})
    slow = {"latency": {"fixed_s": 0.03}, "delay": 2}
    record = flown(tmp_path / "run", fault, clock="virtual", slots=12, leader=slow, follower=INSTANT)
    assert "".join(word[0] for word in words(record, "leader")) == expected + "u"
    if kind == "stall":
        columns = record.decisions["leader"]
        assert columns["arrived_ns"][2] - columns["release_ns"][2] == 70_000_000


@pytest.mark.usefixtures("no_child_left")
def test_real_time_does_not_wait_for_a_controller_that_is_killed_and_started_again(tmp_path):
    """The fresh process takes its seat when it is ready, by hello; until then its cycles are missing."""
    fault = {"kind": "restart", "start_s": 0.2, "duration_s": 0.1}
    record = flown(tmp_path / "run", fault, clock="realtime", slots=300)
    assert record.meta["ended"] == "finished"
    assert set(words(record)[10:15]) == {"missing"}
    story = ["seated", "fault_begins", "died", "vacant", "fault_ends", "seated"]
    of_it = [e["event"] for e in record.events if e.get("agent") == "follower"]
    told = [event for event in of_it if event in story]  # a busy machine brings stale answers too
    assert sorted(told) == sorted(story)  # its death is noticed by its process or by its connection, whichever is first
    assert (told[:2], told[-1]) == (story[:2], "seated")
    (fault,) = hil.report(record).faults
    assert fault.hits["follower"].cycles_to_recovery > 0


@pytest.mark.usefixtures("no_child_left")
def test_stopped_process_misses_in_real_time_and_goes_on_after(tmp_path):
    record = flown(tmp_path / "run", {"kind": "stall", "start_s": 0.2, "duration_s": 0.2}, clock="realtime", slots=60)
    status = words(record)
    assert "on_time" not in status[10:19]
    assert "on_time" in status[30:]
    assert not [e for e in record.events if e["event"] in ("died", "vacant")]


@pytest.mark.usefixtures("no_child_left")
def test_process_that_is_stopped_for_ever_does_not_hold_up_the_end(tmp_path):
    record = flown(tmp_path / "run", {"kind": "stall", "start_s": 0.2}, clock="realtime", slots=15)
    assert record.meta["ended"] == "finished"
    assert set(words(record)[10:]) == {"missing"}


@pytest.mark.usefixtures("no_child_left")
def test_link_of_a_real_time_run_holds_answers_back_and_loses_them(tmp_path):
    delay = {"kind": "delay", "delay_s": 0.05, "start_s": 0.5, "duration_s": 0.5}
    drop = {"kind": "drop", "start_s": 1.5, "duration_s": 0.5}
    record = flown(tmp_path / "run", delay, drop, clock="realtime", slots=25, slot_s=0.1)
    columns, status = record.decisions["follower"], words(record)
    held = [slot for slot in range(5, 10) if status[slot] == "on_time"]
    assert held
    wire_back_ns = columns["arrived_ns"] - columns["replied_ns"]
    assert (wire_back_ns[held] >= 50_000_000).all()
    assert set(status[15:20]) == {"missing"}
    assert (columns["arrived_ns"][15:20] == 0).all()
    assert status[10:15].count("on_time") + status[20:].count("on_time") > 5


# ---- the sky


START = {"start_s": 1.0, "duration_s": 1.0}


def sky_pair(fault, slots=40, name="baseline", **changes):
    """A scenario's world without the fault and with it, over the same seed."""
    changes = {"slots": slots, **changes}
    worlds = [twin.build(twin.load(name, {**changes, "faults": faults})) for faults in ([], [fault])]
    for world in worlds:
        world.reset(1)
    return worlds


def outcomes(world, slots, beams=None):
    """Plays a world with the beams of another's geometry, so that only the sky differs."""
    found = []
    for _ in range(slots):
        for agent in ("leo", "ue"):
            world.apply(agent, (beams or world).default(agent))
        if beams is not None:
            beams.step()
        found.append(world.step().measures)
    return found


@pytest.mark.parametrize("loss_db", [3.0, 20.0])
def test_blockage_takes_exactly_its_loss_from_the_snr_and_nothing_else(loss_db):
    slots = 40
    clear, blocked = (outcomes(w, slots) for w in sky_pair({"kind": "blockage", "loss_db": loss_db, **START}, slots))
    for slot, (was, now) in enumerate(zip(clear, blocked)):
        lost_db = loss_db if 10 <= slot < 20 else 0.0
        np.testing.assert_allclose(was["snr_db"] - now["snr_db"], lost_db, atol=1e-9)
        for name in ("satellite", "elevation_deg", "los", "tx_error_deg", "rx_error_deg", "demand_bps"):
            np.testing.assert_array_equal(was[name], now[name])
        if not lost_db:
            assert all(np.array_equal(was[name], now[name]) for name in was)


def test_blockage_takes_the_rate_that_shannon_says():
    clear, blocked = sky_pair({"kind": "blockage", "loss_db": 10.0})
    beams = clear.default("leo")["tx_beam_deg"], clear.default("ue")["rx_beam_deg"]
    assert blocked.truth().gain == pytest.approx(clear.truth().gain / 10.0)
    assert (blocked.group_rates(*beams) < clear.group_rates(*beams)).all()


def test_rain_rises_and_falls_as_a_raised_cosine():
    rain = {"kind": "rain", "loss_db": 8.0, "start_s": 1.0, "duration_s": 2.1}
    clear, wet = (outcomes(w, 40) for w in sky_pair(rain))
    loss_db = np.array([np.mean(was["snr_db"] - now["snr_db"]) for was, now in zip(clear, wet)])
    assert np.abs(loss_db[:10]).max() == np.abs(loss_db[31:]).max() == 0.0
    phase = (np.arange(21) + 0.5) / 21
    np.testing.assert_allclose(loss_db[10:31], 4.0 * (1 - np.cos(2 * np.pi * phase)), atol=1e-9)
    assert loss_db[20] == pytest.approx(8.0)  # the middle of the slot in the middle


def told_position(seen, t_s):
    return track(seen["ephemeris_m"], seen["ephemeris_s"], np.array([t_s]))[0][0]


def test_clock_skew_tells_the_geometry_of_another_time_and_the_true_link_stays():
    skew_s, slots = 2.0, 40
    true, told = sky_pair({"kind": "clock_skew", "skew_s": skew_s, **START}, slots)
    later = []
    for slot in range(slots):
        leo, ue = told.observe("leo"), told.observe("ue")
        later.append((true.observe("leo"), true.observe("ue")))
        if not 10 <= slot < 20:
            np.testing.assert_array_equal(leo["position_m"], later[slot][0]["position_m"])
        for agent in ("leo", "ue"):
            action = true.default(agent)
            true.apply(agent, action), told.apply(agent, action)
        was, now = true.step().measures, told.step().measures
        assert all(np.array_equal(was[name], now[name]) for name in was)
        if slot == 12:
            skewed = leo, ue
    at = 12 + round(skew_s / 0.1)
    np.testing.assert_allclose(skewed[0]["position_m"], later[at][0]["position_m"], atol=1e-6)
    np.testing.assert_allclose(skewed[1]["predicted_beam_deg"], later[at][1]["predicted_beam_deg"], atol=1e-9)
    np.testing.assert_allclose(told_position(skewed[0], 1.2), told_position(later[at][0], 1.2 + skew_s), atol=1e-6)


def test_stale_elements_put_the_satellite_elsewhere_on_the_same_orbit():
    true, told = sky_pair({"kind": "stale_tle", "along_track_km": 10.0})
    was, now = true.observe("leo"), told.observe("leo")
    error_m = now["position_m"] - was["position_m"]
    velocity_m_s = track(was["ephemeris_m"], was["ephemeris_s"], np.array([0.0]))[1][0]
    velocity_m_s = velocity_m_s + np.cross([0.0, 0.0, EARTH_ROTATION_RAD_S], was["position_m"])
    along = velocity_m_s / np.linalg.norm(velocity_m_s)
    size_m = np.linalg.norm(error_m)
    assert 10.0 < size_m < 40_000.0
    assert abs(error_m @ along) == pytest.approx(size_m, rel=1e-4)  # nothing across it
    np.testing.assert_allclose(told_position(now, 0.0), now["position_m"], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(now["position_m"]), np.linalg.norm(was["position_m"]), rtol=1e-5)


def test_beam_to_a_misplaced_satellite_is_off_by_the_angle_that_geometry_says():
    true, told = sky_pair({"kind": "stale_tle", "along_track_km": 10.0})
    was, now = true.observe("leo")["position_m"], told.observe("leo")["position_m"]
    site_m = true.site.position_m
    a, b = was - site_m, now - site_m
    angle_deg = math.degrees(math.atan2(np.linalg.norm(np.cross(a, b)), a @ b))
    true.apply("ue", true.default("ue"))
    told.apply("ue", told.default("ue"))
    for world in (true, told):
        world.apply("leo", true.default("leo"))
    aimed, off = true.step().measures["rx_error_deg"], told.step().measures["rx_error_deg"]
    assert aimed == pytest.approx(0.0, abs=1e-6)
    assert off == pytest.approx(angle_deg, rel=0.02)  # the terminal's frame turns with the ground track, a little
    assert angle_deg > 0.1


def test_error_of_stale_elements_is_the_seed_s():
    true, told = sky_pair({"kind": "stale_tle", "along_track_km": 5.0}, slots=1)

    def error_m(seed):
        told.reset(seed)
        return np.linalg.norm(told.observe("leo")["position_m"] - true.observe("leo")["position_m"])

    errors_m = [error_m(seed) for seed in range(60)]
    assert 3_500 < np.sqrt(np.mean(np.square(errors_m))) < 6_500
    assert error_m(3) == errors_m[3]


def test_older_file_is_what_seats_are_told(tmp_path):
    """A file of the same elements tells the truth; one whose satellite is 0.01 deg further along its orbit does not."""
    scenario = twin.load("baseline", {"slots": 20})
    world = twin.build(scenario)
    number = world.services[0].number
    satellite = next(s for s in world.sky.satellites if s.number == number)
    (tmp_path / "same.tle").write_text(f"{satellite.name}\n{satellite.line1}\n{satellite.line2}\n")
    advanced = f"{float(satellite.line2[43:51]) + 0.01:8.4f}"
    line2 = satellite.line2[:43] + advanced + satellite.line2[51:68]
    total = sum(int(c) if c.isdigit() else c == "-" for c in line2) % 10
    (tmp_path / "older.tle").write_text(f"{satellite.name}\n{satellite.line1}\n{line2}{total}\n")
    world.reset(1)
    for name, error_m in (
        ("same", 0.0),
        ("older", math.radians(0.01) * np.linalg.norm(world.services[0].position_m[0])),
    ):
        fault = {"kind": "stale_tle", "tle": str(tmp_path / f"{name}.tle")}
        told = twin.build(twin.load("baseline", {"slots": 20, "faults": [fault]}))
        told.reset(1)
        apart_m = np.linalg.norm(told.observe("leo")["position_m"] - world.observe("leo")["position_m"])
        assert apart_m == pytest.approx(error_m, rel=0.01, abs=1e-6)
        assert "faults[0].tle_sha256" in told.inputs


def test_older_file_that_lacks_a_satellite_is_refused(tmp_path):
    (tmp_path / "none.tle").write_text("")
    for tle, complaint in ((tmp_path / "none.tle", "is empty"), (tmp_path / "nowhere.tle", "there is no TLE file")):
        with pytest.raises(ScenarioError, match=rf"faults\[0\]\.tle.*{complaint}"):
            twin.build(twin.load("baseline", {"slots": 9, "faults": [{"kind": "stale_tle", "tle": str(tle)}]}))
    others = twin.load("baseline", {"slots": 9}).folder
    satellites = twin.read_tle(f"{others}/tle/leo-2022-02-22.tle.xz", name="IRIDIUM")[:1]
    (tmp_path / "other.tle").write_text("".join(f"{s.name}\n{s.line1}\n{s.line2}\n" for s in satellites))
    with pytest.raises(ScenarioError, match=r"faults\[0\]\.tle .* has no elements of satellite \d+"):
        twin.build(
            twin.load("baseline", {"slots": 9, "faults": [{"kind": "stale_tle", "tle": str(tmp_path / "other.tle")}]})
        )


def test_faults_of_the_sky_that_do_not_come_change_nothing(tmp_path):
    faults = [
        {"kind": "blockage", "probability": 0.0},
        {"kind": "rain", "probability": 0.0},
        {"kind": "stale_tle", "probability": 0.0},
        {"kind": "clock_skew", "skew_s": 5.0, "probability": 0.0},
    ]
    runs = [twin.run(twin.load("baseline", {"slots": 60, "faults": f}), tmp_path / str(len(f))) for f in ([], faults)]
    assert runs[0].meta["trajectory_hash"] == runs[1].meta["trajectory_hash"]
    assert not runs[1].events


def test_told_geometry_of_a_window_with_gaps_and_a_handover_is_within_its_bounds():
    fault = [{"kind": "stale_tle", "along_track_km": 20.0}, {"kind": "clock_skew", "skew_s": -10.0, "start_s": 100.0}]
    world = twin.build(twin.load("handover", {"slots": 6000, "faults": fault}))
    for seed in (1, 2):
        world.reset(seed)
        for slot in range(0, 6000, 50):
            world.slot = slot
            for agent in world.agents:
                seen = world.observe(agent.name)
                for f in agent.observes:
                    assert np.isfinite(seen[f.name]).all()
                    assert (seen[f.name] >= f.low).all()
                    assert (seen[f.name] <= f.high).all()


# ---- record and report


def test_each_fault_is_an_event_and_hits_are_noted_a_hundred_times(tmp_path):
    drop = {"kind": "drop", "start_s": 0.1, "duration_s": 3.0}
    record = Record.open(flown(tmp_path / "run", drop, slots=200).folder)
    kinds = [e["event"] for e in record.events]
    assert kinds == ["fault_begins", *["fault_hits"] * 100, "fault_ends"]
    first, last = record.events[0], record.events[-1]
    assert [first[k] for k in ("fault", "index", "agent", "slot")] == ["drop", 0, "follower", 5]
    assert last["slot"] == 155
    assert record.meta["faults"][0]["messages"] == {"follower": 150}
    assert [e["slot"] for e in record.events[1:4]] == [5, 6, 7]


def test_sky_fault_is_an_event_whoever_flies_it(tmp_path):
    faults = [{"kind": "blockage", "start_s": 0.5, "duration_s": 0.5}]
    scenario = twin.load("baseline", {"slots": 20, "faults": faults})
    runs = [twin.run(scenario, tmp_path / "twin"), hil.run(scenario, None, tmp_path / "hil", processes=False)]
    for record in runs:
        assert [(e["event"], e["slot"]) for e in record.events] == [("fault_begins", 5), ("fault_ends", 10)]
        (fault,) = hil.report(record).faults
        assert (fault.kind, fault.first_slot, fault.last_slot, fault.hits) == ("blockage", 5, 9, {})
    assert runs[0].meta["trajectory_hash"] == runs[1].meta["trajectory_hash"]


def test_run_with_faults_of_every_sort_is_replayed_to_the_same_hash(tmp_path):
    faults = [
        {"kind": "stale_tle", "start_s": 1.0},
        {"kind": "rain"},
        {"kind": "drop", "probability": 0.3},
        {"kind": "corrupt", "agent": "ue", "probability": 0.5},
        {"kind": "stall", "agent": "leo", "start_s": 2.0, "duration_s": 2.0},
    ]
    record = hil.run(twin.load("baseline", {"slots": 60, "faults": faults}), None, tmp_path / "run", processes=False)
    again = hil.replay(tmp_path / "run", out=tmp_path / "again")
    assert (again.same, again.trajectory_hash) == (True, record.meta["trajectory_hash"])
    assert hil.report(Record.open(tmp_path / "again")).faults == hil.report(record).faults


def recorded(folder, sources_, every=1, delay=0, slots=None):
    """A record whose actions in force came from where the letters say: a agent, h hold, d default, l late."""
    agent = Agent("ue", (), (Field("number", ()),), every=every, delay=delay)
    meta = {"scenario": "synthetic", "clock": "lockstep", "seed": 1, "slot_s": 0.1, "resolved": {"agents": {}}}
    slots = slots or len(sources_) * every
    record = Record.create(folder, (agent,), slots, meta)
    names = {"a": "agent", "h": "hold", "d": "default", "l": "late"}
    for cycle, letter in enumerate(sources_):
        status = "on_time" if letter == "a" else "missing"
        record.decision("ue", cycle * every, Answer(None, status, names[letter]), {"number": np.array(0.0)})
    for slot in range(slots):
        record.slot(slot, Outcome({"ue": 0.0}, {}))
    record.close("finished")
    return Record.open(folder)


NONE = None


@pytest.mark.parametrize(
    ("letters", "every", "delay", "expected"),
    [
        ("aaaa", 1, 0, [0, 0, 0, 0]),
        ("ahha", 1, 0, [0, 1, 2, 0]),
        ("ahla", 1, 0, [0, 1, 1, 0]),
        ("ahlh", 1, 0, [0, 1, 1, 2]),
        ("dada", 1, 0, [NONE, 0, NONE, 0]),
        ("adha", 1, 0, [0, NONE, NONE, 0]),
        ("aa", 3, 0, [0, 1, 2, 0, 1, 2]),
        ("ah", 3, 0, [0, 1, 2, 3, 4, 5]),
        ("al", 3, 0, [0, 1, 2, 3, 4, 5]),  # what stands in is the answer before, which would have been held as well
        ("aaaa", 1, 2, [NONE, NONE, 2, 2]),
        ("ahaa", 1, 2, [NONE, NONE, 2, 3]),
        ("aa", 3, 2, [NONE, NONE, 2, 3, 4, 2]),
    ],
)
def test_age_of_information_by_hand(tmp_path, letters, every, delay, expected):
    record = recorded(tmp_path / "run", letters, every, delay)
    found = [None if np.isnan(age) else age for age in ages(record, "ue")]
    assert found == expected
    age = hil.report(record)["ue"].age_of_information
    known = [x for x in expected if x is not None]
    assert (age.slots, age.without) == (len(known), len(expected) - len(known))
    assert (age.mean, age.max) == (pytest.approx(np.mean(known)), max(known))
    assert age.to_dict()["s"]["max"] == pytest.approx(0.1 * max(known))


def test_age_of_a_run_without_an_answer_is_null(tmp_path):
    report = hil.report(recorded(tmp_path / "run", "dd")).to_dict()
    age = report["agents"]["ue"]["age_of_information"]
    assert age == {"slots": dict.fromkeys(("mean", "p50", "p99", "max")), "s": age["slots"], "slots_without": 2}
    assert Age.of(np.zeros(0), None).to_dict()["slots_without"] == 0
    json.dumps(report, allow_nan=False)


def test_report_says_what_a_fault_hit_and_how_many_cycles_recovery_took(tmp_path):
    """The leader is asked in every second slot; the second fault ends where the third begins."""
    faults = [
        {"kind": "drop", "start_s": 0.04, "duration_s": 0.06, "agent": None},
        {"kind": "stall", "start_s": 0.1, "duration_s": 0.04},
        {"kind": "drop", "start_s": 0.14, "duration_s": 0.04},
        {"kind": "kill", "start_s": 0.3},
    ]
    report = hil.report(flown(tmp_path / "run", *faults))
    first, stall, second, kill = report.faults
    assert vars(first.hits["leader"]) == {"messages": 2, "misses": 2, "cycles_to_recovery": 0}
    assert vars(first.hits["follower"]) == {"messages": 3, "misses": 3, "cycles_to_recovery": 4}
    assert vars(stall.hits["follower"]) == {"messages": None, "misses": 2, "cycles_to_recovery": 2}
    assert vars(second.hits["follower"]) == {"messages": 2, "misses": 2, "cycles_to_recovery": 0}
    assert (kill.first_slot, kill.last_slot) == (15, 19)
    assert vars(kill.hits["follower"]) == {"messages": None, "misses": 5, "cycles_to_recovery": None}
    assert report.to_dict()["faults"][0]["agents"]["leader"]["misses"] == 2
    json.dumps(report.to_dict(), allow_nan=False)


def test_report_of_a_fault_that_never_came_says_so(tmp_path):
    record = flown(tmp_path / "run", {"kind": "stall", "start_s": 0.1, "probability": 0.0})
    (fault,) = hil.report(record).to_dict()["faults"]
    assert (fault["comes"], fault["agents"]) == (False, {})


def test_scenario_that_ships_shows_its_faults_in_a_terminal(tmp_path, capsys):
    from hil import cli

    record = hil.run(twin.load("faults"), None, tmp_path / "run", processes=False)
    assert set(words(record, "leo")) == {"on_time", "missing"}
    cli.report(tmp_path / "run")
    shown = capsys.readouterr().out
    assert "faults" in shown
    lines = [line.split() for line in shown.splitlines()]
    drop, stall, blockage = ([line for line in lines if line[:1] == [kind]] for kind in ("drop", "stall", "blockage"))
    missed = words(record, "ue").count("missing")
    assert drop == [["drop", "50", "to", "99", "ue", str(missed), str(missed), "0"]]
    assert stall == [["stall", "120", "to", "169", "leo", "-", "5", "0"]]
    assert blockage == [["blockage", "200", "to", "229", "-", "-", "-", "-"]]
    assert ["age", "of", "information,", "s:"] in [line[:4] for line in lines]


def test_fault_that_begins_after_the_run_did_not_come(tmp_path):
    scenario = toys.scenario(faults=[{"kind": "drop", "agent": "follower", "start_s": 99.0}])
    (fault,) = hil.report(hil.run(scenario, out=tmp_path / "run", processes=False)).faults
    assert not fault.comes
    assert fault.hits == {}
