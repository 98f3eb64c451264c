"""The loop: what is asked when, what takes effect when, and what a miss leaves in force."""

import numpy as np
import pytest
import toys

from twin import Action, Answer, Record, TwinError, build, run
from twin.errors import ControllerError, RunBroken, ScenarioError
from twin.record import SOURCES
from twin.runner import Here, Learner, LockStep, Signals, WhenAsked, check_action, drive
from twin.scenario import Seating


class Scripted:
    """A seat that answers as a script says: slot -> Answer; the follower's number is the slot otherwise."""

    def __init__(self, script=None):
        self.script, self.seen, self.late = script or {}, [], []
        self.comes_late = {}  # by the slot in whose take() they come

    def post(self, seen, release_ns, due_ns):
        self.seen.append(seen)

    def take(self, slot):
        self.late += self.comes_late.pop(slot, [])
        return self.script.get(slot, Answer(Action({"number": np.array(float(slot % 10))})))


def fly(tmp_path, world=None, slots=8, rules=None, **seats):
    world = world or toys.TwoTier()
    seats = {"leader": Scripted(), "follower": Scripted(), **seats}
    meta = {"scenario": "toy", "clock": "lockstep", "seed": 1, "resolved": {"agents": {}}}
    record = Record.create(tmp_path / "run", world.agents, slots, meta)
    ended = "broken"
    try:
        drive(world, seats, LockStep(), slots, 1, record, {"follower": Seating(**(rules or {}))})
        ended = "finished"
    finally:
        record.close(ended)
    return Record.open(tmp_path / "run"), seats


def test_agents_are_asked_on_their_own_cycle_and_once_more_at_the_end(tmp_path):
    _, seats = fly(tmp_path)
    assert [s.slot for s in seats["leader"].seen] == [0, 2, 4, 6, 8]
    assert [s.slot for s in seats["follower"].seen] == [*range(8), 8]
    assert [s.last for s in seats["follower"].seen] == [False] * 8 + [True]


def test_follower_sees_the_leader_of_the_same_slot(tmp_path):
    _, seats = fly(tmp_path)
    assert [float(s.values["leader"]) for s in seats["follower"].seen[:4]] == [0, 0, 2, 2]


def test_reward_is_none_once_and_then_the_sum_since_the_last_observation(tmp_path):
    record, seats = fly(tmp_path)
    rewards = [s.reward for s in seats["leader"].seen]
    assert rewards[0] is None
    assert rewards[1:] == pytest.approx(record["reward.leader"].reshape(4, 2).sum(axis=1))


def test_delayed_answer_takes_effect_exactly_delay_slots_later(tmp_path):
    record, _ = fly(tmp_path, toys.TwoTier(delay=3))
    assert list(record["pair"][:, 1]) == [-1, -1, -1, 0, 1, 2, 3, 4]
    assert record.decisions["follower"]["status"].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(("policy", "then"), [("hold", [1.0, "hold"]), ("default", [-1.0, "default"])])
def test_miss_leaves_what_on_miss_says_in_force(tmp_path, policy, then):
    script = {2: Answer(None, "missing"), 3: Answer(None, "invalid", reason="nonsense")}
    record, seats = fly(tmp_path, rules={"on_miss": policy}, follower=Scripted(script))
    assert list(record["pair"][:5, 1]) == [0, 1, then[0], then[0], 4]
    assert seats["follower"].seen[3].timing["action_source"] == then[1]
    assert seats["follower"].seen[3].timing["status"] == "missing"
    assert seats["follower"].seen[5].timing["action_source"] == "agent"
    assert [e["reason"] for e in record.events if e["event"] == "invalid"] == ["nonsense"]


def test_hold_before_the_first_answer_is_the_world_s_default(tmp_path):
    record, seats = fly(tmp_path, follower=Scripted({0: Answer(None, "missing")}))
    assert record["pair"][0, 1] == -1
    assert seats["follower"].seen[1].timing["action_source"] == "default"


def test_age_counts_the_slots_an_action_is_in_force(tmp_path):
    script = {n: Answer(None, "missing") for n in (3, 4)}
    _, seats = fly(tmp_path, follower=Scripted(script))
    assert [s.timing["age_slots"] for s in seats["follower"].seen[1:7]] == [1, 1, 1, 2, 3, 1]


def test_abort_ends_the_run_and_leaves_a_readable_record(tmp_path):
    with pytest.raises(RunBroken, match="slot 3"):
        fly(tmp_path, rules={"on_miss": "abort"}, follower=Scripted({3: Answer(None, "missing")}))
    record = Record.open(tmp_path / "run")
    assert record.meta["ended"] == "broken"
    assert record["written"].sum() == 3
    assert record.decisions["follower"]["status"].tolist()[:5] == [1, 1, 1, 2, 0]


MISS = Answer(None, "missing")


def number(value):
    return Answer(Action({"number": np.array(float(value))}))


@pytest.mark.parametrize(("policy", "then", "source"), [("discard", 2.0, 2), ("apply_next", 9.0, 4)])
def test_late_answer_stands_in_for_the_next_cycle_that_is_a_miss_too(tmp_path, policy, then, source):
    seat = Scripted({3: MISS, 4: MISS, 5: MISS})
    seat.comes_late = {4: [(3, number(9))]}  # the answer to slot 3 comes while the one to slot 4 is awaited
    record, seats = fly(tmp_path, rules={"late": policy}, follower=seat)
    assert list(record["pair"][:7, 1]) == [0, 1, 2, 2, then, then, 6]
    columns = record.decisions["follower"]
    assert columns["status"].tolist() == [1, 1, 1, 3, 2, 2, 1, 1]
    assert columns["source"].tolist()[3:6] == [2, source, 2]
    assert seats["follower"].seen[5].timing["action_source"] == SOURCES[source]


def test_late_answer_of_an_older_cycle_never_stands_in(tmp_path):
    seat = Scripted({3: MISS, 4: MISS, 5: MISS})
    seat.comes_late = {5: [(3, number(9))]}
    record, _ = fly(tmp_path, rules={"late": "apply_next"}, follower=seat)
    assert list(record["pair"][:6, 1]) == [0, 1, 2, 2, 2, 2]


def test_late_answer_is_not_used_where_the_next_cycle_is_answered(tmp_path):
    seat = Scripted({3: MISS})
    seat.comes_late = {4: [(3, number(9))]}
    record, _ = fly(tmp_path, rules={"late": "apply_next"}, follower=seat)
    assert list(record["pair"][:6, 1]) == [0, 1, 2, 2, 4, 5]


@pytest.mark.parametrize(("most", "ends_at"), [(0, 3), (1, 4), (2, None), (None, None)])
def test_more_misses_in_a_row_than_allowed_end_the_run(tmp_path, most, ends_at):
    script = {3: MISS, 4: MISS, 6: MISS}
    if ends_at is None:
        fly(tmp_path, rules={"max_consecutive_misses": most}, follower=Scripted(script))
        return
    with pytest.raises(RunBroken, match=rf"{ends_at - 2} cycles in a row, the last at slot {ends_at} \(missing\)"):
        fly(tmp_path, rules={"max_consecutive_misses": most}, follower=Scripted(script))


@pytest.mark.parametrize("limit", [{"max_consecutive_misses": 0}, {"on_miss": "abort"}])
def test_misses_in_the_grace_of_the_start_break_no_limit(tmp_path, limit):
    script = {0: MISS, 1: MISS, 2: MISS}
    fly(tmp_path, rules={"startup_grace_cycles": 3, **limit}, follower=Scripted(script))
    with pytest.raises(RunBroken, match="slot 2"):
        fly(tmp_path / "again", rules={"startup_grace_cycles": 2, **limit}, follower=Scripted(script))


def test_at_least_is_judged_while_the_run_flies(tmp_path):
    script = dict.fromkeys((1, 3, 4), MISS)
    record, _ = fly(tmp_path, rules={"at_least": (2, 3)}, follower=Scripted(script))
    found = [(e["event"], e["slot"]) for e in record.events if e["event"].startswith("at_least")]
    assert found == [("at_least_broken", 3), ("at_least_held", 6)]


@pytest.mark.parametrize(("flight_s", "arrives"), [(0.0, 0), (0.004, 0), (0.01, 1), (0.025, 2), (0.03, 3)])
def test_signal_travels_whole_slots_of_its_delay(tmp_path, flight_s, arrives):
    hint = {"follower": {"hint": np.array([7.0], dtype="float32")}}
    leader = Scripted({2: Answer(Action({"number": np.array(0.0)}, hint))})
    _, seats = fly(tmp_path, toys.TwoTier(flight_s=flight_s), leader=leader)
    assert [s.slot for s in seats["follower"].seen if s.signals] == [2 + arrives]


def test_of_two_signals_that_arrive_at_once_the_newer_is_seen(tmp_path):
    class Nearing(toys.TwoTier):
        def propagation_delay_s(self, sender, receiver):
            return 0.04 - 0.01 * self.slot  # 0.04 s at slot 0, 0.02 s at slot 2: both arrive at slot 4

    def hint(value):
        return Answer(Action({"number": np.array(0.0)}, {"follower": {"hint": np.array([value, value])}}))

    leader = Scripted({0: hint(1.0), 2: hint(2.0)})
    _, seats = fly(tmp_path, Nearing(), leader=leader)
    told = {s.slot: s.signals["leader"]["hint"].tolist() for s in seats["follower"].seen if s.signals}
    assert told == {4: [2.0, 2.0]}


@pytest.mark.parametrize("delay_slots", [0, 3])
def test_signals_that_nobody_reads_do_not_heap_up(delay_slots):
    signals = Signals()
    for slot in range(1000):
        signals.send("follower", "leader", {"slot": np.array(slot)}, slot, delay_slots)
    assert len(signals) <= delay_slots + 2
    assert signals.read("follower", 999) == {}
    assert int(signals.read("leader", 999)["follower"]["slot"]) == 999 - delay_slots
    assert int(signals.read("leader", 1002)["follower"]["slot"]) == 999 if delay_slots else len(signals) == 0


def test_signal_bytes_are_counted_and_the_signal_kept(tmp_path):
    from twin.record import signals

    hint = {"follower": {"hint": np.arange(5, dtype="float32"), "more": np.array(1.0)}}
    record, _ = fly(tmp_path, leader=Scripted({2: Answer(Action({"number": np.array(0.0)}, hint))}))
    assert record.decisions["leader"]["signal_bytes"].tolist() == [0, 28, 0, 0]
    (kept,) = signals(record)
    assert (kept["slot"], kept["from"], kept["to"]) == (2, "leader", "follower")
    np.testing.assert_array_equal(kept["arrays"]["hint"], np.arange(5))


def test_observations_are_read_only(tmp_path):
    _, seats = fly(tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        seats["follower"].seen[0].values["target"][0] = 1.0


def test_lockstep_run_twice_gives_the_same_hash_and_another_seed_another(tmp_path):
    hashes = [
        run(toys.scenario(seed=seed), tmp_path / str(i)).meta["trajectory_hash"] for i, seed in enumerate((3, 3, 4))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_failing_controller_in_this_process_is_named_with_its_slot(tmp_path):
    with pytest.raises(ControllerError, match=r"'follower' failed at slot 5: ValueError\('no idea what to do'\)"):
        run(toys.scenario(("Echo", "Raises")), tmp_path / "run")
    assert Record.open(tmp_path / "run")["written"].sum() == 5


def test_external_seat_is_refused_by_name_here():
    with pytest.raises(ScenarioError, match=r"agent\.follower is external"):
        run(toys.scenario(("Echo", "external")))


def test_update_acts_learn_delay_slots_after_its_data_never_earlier(tmp_path):
    record = run(toys.scenario(("Echo", "Learning"), slots=12, follower={"learn_delay": 4}), tmp_path / "run")
    assert record.decisions["follower"]["weights"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


def test_learn_false_flies_fixed_weights(tmp_path):
    record = run(toys.scenario(("Echo", "Learning"), follower={"learn": False}), tmp_path / "run")
    assert record.decisions["follower"]["weights"].max() == 0


class Unready:
    """An executor whose jobs are done when the test says so."""

    def __init__(self):
        self.ready = False

    def submit(self, job):
        self.job = job
        return self

    def done(self):
        return self.ready

    def result(self):
        return self.job()


def test_update_that_is_not_ready_is_counted_once_and_adopted_later():
    agent, executor = toys.TwoTier().agents[1], Unready()
    learner = Learner(toys.Learning(agent, 1), 3, wait=False, executor=executor)
    learner.after(0)
    for slot in range(1, 6):
        learner.before(slot)
    assert (learner.weights, learner.misses) == (0, 1)
    executor.ready = True
    learner.before(6)
    assert (learner.weights, learner.misses, learner.controller.scale) == (1, 1, 2.0)


def test_no_new_update_begins_while_one_is_under_way():
    agent = toys.TwoTier().agents[1]
    learner = Learner(toys.Learning(agent, 1), 3, wait=True, executor=WhenAsked())
    for slot in range(6):
        learner.before(slot)
        learner.after(slot)
    assert learner.weights == 1


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"number": np.array(1.0)}, ""),
        ({}, "number is missing"),
        ({"number": 1.0}, "number is a float, expected an array"),
        ({"number": np.zeros(4)}, r"number has shape \(4,\) float64, expected \(\) float64"),
        ({"number": np.array(1)}, r"number has shape \(\) int64"),
        ({"number": np.array(np.nan)}, "number is not finite"),
        ({"number": np.array(11.0)}, r"number leaves \[-10, 10\]"),
        ({"number": np.array(1.0), "more": np.array(1.0)}, "more is no part of the action"),
    ],
)
def test_check_of_an_answer_says_what_is_wrong(values, complaint):
    import re

    found = check_action(toys.TwoTier().agents[1], Action(values), ("leader",))
    assert re.match(complaint + ("$" if not complaint else ""), found)


def test_signal_to_an_unknown_agent_is_refused():
    action = Action({"number": np.array(1.0)}, {"nobody": {"x": np.zeros(1)}})
    assert "'nobody'" in check_action(toys.TwoTier().agents[1], action, ("leader",))


def test_run_folder_is_never_written_over(tmp_path):
    run(toys.scenario(slots=2), tmp_path / "run")
    with pytest.raises(TwinError, match="never written over"):
        run(toys.scenario(slots=2), tmp_path / "run")


def test_here_seat_refuses_what_the_wire_would_refuse(tmp_path):
    record = run(toys.scenario(("Echo", "WrongShape")), tmp_path / "run")
    assert record.decisions["follower"]["status"].tolist().index(4) == 3
    assert isinstance(Here(toys.Echo(build(toys.scenario()).agents[0], 1), build(toys.scenario()).agents[0]), Here)
