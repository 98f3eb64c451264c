"""Virtual time: modelled response times against the deadlines of real time, pause and step, all without waiting."""

import threading
import time

import numpy as np
import pytest
import test_offset
import toys

import hil
from hil.gate import Gate
from hil.modelled import model_of
from hil.offset import CLOCK_ID
from twin import Answer, Record, run
from twin.errors import ScenarioError
from twin.record import SOURCES, STATUSES
from twin.scenario import Latency, Seating

MS = 1_000_000


def flown(folder, follower=None, leader=None, controllers=("Echo", "Echo"), **keys):
    """20 slots of 20 ms: the leader's window is 8 ms, the follower's 16 ms."""
    keys = {"slots": 20, "slot_s": 0.02, **keys}
    scenario = toys.scenario(controllers, leader=leader, follower=follower, **keys)
    return hil.run(scenario, "virtual", folder, processes=False)


def words(record, agent="follower"):
    return [STATUSES[i] for i in record.decisions[agent]["status"]]


def test_virtual_run_without_misses_is_the_lock_step_run(tmp_path):
    scenario = toys.scenario(slots=20)
    expected = run(scenario, tmp_path / "here").meta["trajectory_hash"]
    instant = {"latency": {"fixed_s": 0.001}}
    assert flown(tmp_path / "virtual", instant, instant).meta["trajectory_hash"] == expected


def test_processes_give_the_same_virtual_run(tmp_path):
    slow = {"latency": {"lognormal": {"median_s": 0.006, "sigma": 1.0}}}
    here = flown(tmp_path / "here", slow, slow)
    there = hil.run(toys.scenario(slots=20, slot_s=0.02, leader=slow, follower=slow), "virtual", tmp_path / "there")
    assert set(words(here)) > {"on_time"}
    assert words(here) == words(there)
    assert here.meta["trajectory_hash"] == there.meta["trajectory_hash"]
    for name in ("release_ns", "due_ns", "arrived_ns", "emulation_ns"):
        np.testing.assert_array_equal(here.decisions["follower"][name], there.decisions["follower"][name])


@pytest.mark.parametrize(
    ("response_s", "expected"),
    [(0.015, "on_time"), (0.0161, "late"), (0.035, "late"), (0.0361, "missing")],
)
def test_answer_is_judged_by_its_modelled_time(tmp_path, response_s, expected):
    record = flown(
        tmp_path / "run", {"latency": {"fixed_s": response_s}, "every": 1}, {"latency": {"fixed_s": 0.0}}, slots=1
    )
    assert words(record) == [expected]
    assert record.meta["slots_written"] == 1


def test_busy_controller_begins_the_next_question_after_the_one_it_is_at(tmp_path):
    """25 ms each in slots of 20 ms: turned to at 0, 25, 50 ms."""
    record = flown(tmp_path / "run", {"latency": {"fixed_s": 0.025}}, {"latency": {"fixed_s": 0.0}}, slots=3)
    columns = record.decisions["follower"]
    turned = ((columns["waiting_ns"] - columns["slot_start_ns"]) / MS).tolist()
    assert turned == [0, 5, 10]
    assert ((columns["arrived_ns"] - columns["slot_start_ns"]) / MS).tolist() == [25, 30, 35]
    assert words(record) == ["late", "late", "late"]


def test_question_that_is_past_its_deadline_when_a_newer_one_is_there_is_never_seen(tmp_path):
    record = flown(tmp_path / "run", {"latency": {"fixed_s": 0.03}}, {"latency": {"fixed_s": 0.0}}, slots=6)
    columns = record.decisions["follower"]
    assert words(record) == ["late", "missing", "missing"] * 2  # 0 to 30 ms, 30 to 60; slot 2 was due at 56
    assert columns["waiting_ns"][3] == columns["slot_start_ns"][3]


@pytest.mark.parametrize("clock", ["lockstep", "virtual"])
def test_final_observation_has_no_deadline(tmp_path, clock):
    told = []
    toys.Finishes = type("Finishes", (toys.Echo,), {"finish": lambda self, seen: told.append(seen.timing)})
    try:
        hil.run(toys.scenario(("Echo", "Finishes"), slots=2), clock, tmp_path / "run", processes=False)
    finally:
        del toys.Finishes
    assert told[0]["deadline_us"] is None


def test_delay_gives_whole_slots_to_answer_in(tmp_path):
    slow = {"latency": {"fixed_s": 0.019}}
    assert set(words(flown(tmp_path / "0", slow, {"latency": {"fixed_s": 0.0}}))) == {"late"}
    delayed = flown(tmp_path / "1", {**slow, "delay": 1}, {"latency": {"fixed_s": 0.0}})
    assert words(delayed) == ["on_time"] * 19 + ["unwritten"]


def test_slow_leader_releases_its_follower_later_and_its_deadline_stays(tmp_path):
    record = flown(tmp_path / "run", {"latency": {"fixed_s": 0.009}}, {"latency": {"fixed_s": 0.0075}}, slots=4)
    follower, report = record.decisions["follower"], hil.report(record)
    assert ((follower["release_ns"] - follower["slot_start_ns"]) / MS).tolist() == [7.5, 0, 7.5, 0]
    assert words(record) == ["late", "on_time", "late", "on_time"]
    assert report["follower"].order_wait_us.max == 7500
    assert report["leader"].slack_us.p50 == 500


def test_parts_of_a_virtual_cycle_add_up_to_its_response(tmp_path):
    slow = {"latency": {"fixed_s": 0.003}, "compute_scale": 4.0}
    report = hil.report(flown(tmp_path / "run", slow, {"latency": {"fixed_s": 0.0}}))["follower"]
    assert report.response_us.p50 == 12_000
    assert (report.compute_us.p50, report.components_us["emulation"].p50) == (3000, 9000)
    assert report.unaccounted_us.max == 0


def test_faster_computer_is_a_scale_below_one(tmp_path):
    slow, instant = {"latency": {"fixed_s": 0.02}, "compute_scale": 0.5}, {"latency": {"fixed_s": 0.0}}
    assert set(words(flown(tmp_path / "run", slow, instant))) == {"on_time"}
    with pytest.raises(ScenarioError, match=r"agent\.follower\.compute_scale 0\.5 asks for a faster computer"):
        hil.run(toys.scenario(follower={"compute_scale": 0.5}), "realtime", tmp_path / "not")


def test_measured_time_is_what_the_controller_used_times_the_scale(tmp_path):
    record = flown(
        tmp_path / "run", {"cpu_s": 0.002, "compute_scale": 20.0}, {"latency": {"fixed_s": 0.0}}, ("Echo", "Burns")
    )
    columns = record.decisions["follower"]
    assert "on_time" not in words(record)
    answered = columns["arrived_ns"] > 0
    used = (columns["arrived_ns"] - columns["waiting_ns"])[answered] / columns["cpu_ns"][answered]
    np.testing.assert_allclose(used, 20.0, rtol=1e-6)


def test_recorded_response_times_are_those_of_the_run(tmp_path):
    slow = {"latency": {"lognormal": {"median_s": 0.004, "sigma": 0.5}}}
    first = flown(tmp_path / "first", slow, {"latency": {"fixed_s": 0.001}})
    again = {"latency": {"recorded": str(tmp_path / "first")}}
    second = flown(tmp_path / "second", again, again)
    for name in ("follower", "leader"):
        np.testing.assert_array_equal(first.decisions[name]["arrived_ns"], second.decisions[name]["arrived_ns"])
    with pytest.raises(ScenarioError, match="has 20 cycles, none for slot 20"):
        flown(tmp_path / "third", again, slots=30)


def test_recorded_response_times_of_another_host_are_those_of_our_clock(tmp_path):
    meta = {"scenario": "s", "clock": "realtime", "seed": 1, "resolved": {}, "clock_id": CLOCK_ID}
    record = Record.create(tmp_path / "run", (test_offset.AGENT,), 10, meta)
    record.event("seated", agent="ue", clock_id="another", t_mono_ns=1)
    for slot in range(10):
        stamps = test_offset.stamps_of(slot, 7 * 10**9)
        record.decision("ue", slot, Answer(None, stamps=stamps), {"number": np.array(0.0)})
    record.close("finished", overrun_slots=[])
    columns = Record.open(tmp_path / "run").decisions["ue"]
    response_ns = columns["arrived_ns"] - columns["release_ns"]
    took = model_of(test_offset.AGENT, Seating(latency=Latency(recorded=str(tmp_path / "run"))), 1)
    assert [took(slot, Answer(None)) for slot in range(10)] == pytest.approx(response_ns, rel=0.2)


def test_answer_after_the_next_deadline_is_counted_as_stale(tmp_path):
    """35 ms each, due after 16, and 36 at the latest: the first is late, the second began at 35 and came at 70."""
    record = flown(tmp_path / "run", {"latency": {"fixed_s": 0.035}}, {"latency": {"fixed_s": 0.0}}, slots=2)
    assert words(record) == ["late", "missing"]
    follower = hil.report(record)["follower"]
    assert (follower.stale, follower.duplicates) == (1, 0)


def test_recorded_lock_step_run_is_refused(tmp_path):
    run(toys.scenario(slots=4), tmp_path / "first")
    with pytest.raises(ScenarioError, match="lock-step run, whose times mean nothing"):
        flown(tmp_path / "second", {"latency": {"recorded": str(tmp_path / "first")}})


@pytest.mark.parametrize(
    ("latency", "complaint"),
    [
        ({}, r"agent\.follower\.latency is one of fixed_s, lognormal, recorded, got none"),
        ({"fixed_s": 1.0, "recorded": "x"}, "got fixed_s, recorded"),
        ("guessed", "latency"),
        ({"lognormal": {"median_s": 0.0, "sigma": 1.0}}, "median_s"),
    ],
)
def test_latency_that_is_none_says_what_there_is(latency, complaint):
    with pytest.raises(ScenarioError, match=complaint):
        toys.scenario(follower={"latency": latency})


def test_late_answers_of_virtual_time_can_stand_in(tmp_path):
    late = {"latency": {"fixed_s": 0.018}, "late": "apply_next"}
    record = flown(tmp_path / "run", late, {"latency": {"fixed_s": 0.0}})
    sources = [SOURCES[i] for i in record.decisions["follower"]["source"]]
    assert sources == ["default", *["late"] * 19]


def test_run_can_be_paused_stepped_and_resumed(tmp_path):
    gate, seen = Gate(paused=True), []
    scenario = toys.scenario(slots=10)
    flight = threading.Thread(
        target=hil.run,
        args=(scenario, "lockstep", tmp_path / "run"),
        kwargs={"gate": gate, "processes": False, "watch": lambda slot, *_: seen.append(slot)},
    )
    flight.start()

    def soon(holds):
        until = time.monotonic() + 20
        while not holds() and time.monotonic() < until:
            time.sleep(0.005)
        assert holds()

    gate.step(3)
    soon(lambda: seen == [0, 1, 2])
    assert gate.paused
    gate.step()
    soon(lambda: seen == [0, 1, 2, 3])
    gate.resume()
    flight.join(20)
    assert seen == list(range(10))
    assert Record.open(tmp_path / "run").meta["ended"] == "finished"


def test_real_time_cannot_be_paused():
    with pytest.raises(ScenarioError, match="real time cannot be paused"):
        hil.run(toys.scenario(), "realtime", gate=Gate())


def test_slow_agent_with_slots_to_think_never_holds_up_a_fast_one(tmp_path):
    record = flown(tmp_path / "run", {"latency": {"fixed_s": 0.001}}, {"latency": {"fixed_s": 0.035}, "delay": 2})
    assert words(record, "leader") == ["on_time"] * 9 + ["unwritten"]
    follower = record.decisions["follower"]
    assert set(words(record)) == {"on_time"}
    assert (follower["release_ns"] == follower["slot_start_ns"]).all()
