"""A recorded run flown again: the same trajectory whatever happened to it, and plain words where it is not the same.

Runs in real time are made to miss; how often they do is the machine's business, that the replay agrees is the claim.
"""

import json
import lzma
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import msgspec
import numpy as np
import pytest
import toys
from terminal import ROOT, settled, started, wait_for
from test_cli import ntn_twin  # noqa: F401  a fixture

import hil
from hil.replay import replay
from twin import Action, Record, TwinError, load, run
from twin.errors import ControllerError, RecordError, RunBroken, ScenarioError
from twin.record import SOURCES, STATUSES, signals
from twin.scenario import scenario_of

pytestmark = pytest.mark.usefixtures("no_child_left")

HERE = "test_replay"  # this module, as a scenario names it


class Settings(toys.Settings):
    """What the worlds of this page are told."""


class Unlucky(toys.Echo):
    """Late every fifth slot, invalid every seventh, silent for long at slot 11; signals the other agent meanwhile."""

    def act(self, seen):
        action = super().act(seen)
        other = {"leader": "follower", "follower": "leader"}[self.agent.name]
        hint = np.array([seen.slot / 100, float(self.rng.normal())], dtype="float32")
        if seen.slot % 5 == 3:
            time.sleep(0.03)
        if seen.slot == 11:
            time.sleep(0.1)
        value = np.array(np.nan) if seen.slot % 7 == 2 else action.values["number"]
        return Action({"number": value}, {other: {"hint": hint}})


class Punctual(toys.Echo):
    """Answers what it was told of time, so that being told anything else shows."""

    def act(self, seen):
        told = seen.timing
        number = (told["deadline_us"] or 0.0) / 1e3 + (told["slack_us"] or 0.0) / 1e4 + told["age_slots"]
        number += len(told["status"]) + 10 * len(told["action_source"])
        if seen.slot % 5 == 3:
            time.sleep(0.03)
        return Action({"number": np.array(number % 10)})


class Stops(toys.Echo):
    """Is interrupted at slot 5, as by Ctrl-C."""

    def act(self, seen):
        if seen.slot == 5:
            raise KeyboardInterrupt
        return super().act(seen)


class Gone(toys.Toy):
    """The toy world, which breaks down in slot 6."""

    def step(self):
        if self.slot == 6:
            raise ValueError("the sky fell down")
        return super().step()


class Stalls(toys.Toy):
    """The toy world, which stands still in slot 6."""

    def step(self):
        if self.slot == 6:
            time.sleep(0.3)
        return super().step()


class Moody(toys.Toy):
    """The toy world, which from slot 5 on does as it likes."""

    moods = 0

    def step(self):
        outcome = super().step()
        if self.slot > 5:
            type(self).moods += 1
            outcome.measures["pair"][1] += 1e-9 * type(self).moods
        return outcome


def statuses(record, agent="follower"):
    return [STATUSES[i] for i in record.decisions[agent]["status"]]


def sources(record, agent="follower"):
    return {SOURCES[i] for i in record.decisions[agent]["source"]}


def invalid(record):
    return [(e["agent"], e["slot"], e["reason"]) for e in record.events if e["event"] == "invalid"]


def rows_of(record, slots):
    """Every row of the slots that were flown, as bytes."""
    return {name: column[:slots].tobytes() for name, column in record.slots.items()}


# ---- the same trajectory


@pytest.mark.parametrize(
    "timing",
    [{}, {"leader": {"delay": 2}}, {"follower": {"delay": 3}}, {"flight_s": 0.045}, {"seed": 9}],
    ids=["plain", "leader ahead", "follower ahead", "signals that fly", "another seed"],
)
def test_lock_step_run_is_flown_again(tmp_path, timing):
    record = run(toys.scenario(slots=25, **timing), tmp_path / "run")
    again = hil.replay(tmp_path / "run")
    assert again.same
    assert again.trajectory_hash == again.recorded_hash == record.meta["trajectory_hash"]
    assert (again.slots, again.recorded_slots, again.first_difference, again.why()) == (25, 25, None, "")


@pytest.mark.parametrize("controller", ["Learning", "WrongShape", "NotANumber", "Dies", "Noisy"])
@pytest.mark.parametrize("on_miss", ["hold", "default"])
def test_run_with_processes_and_misses_is_flown_again(tmp_path, controller, on_miss):
    scenario = toys.scenario(("Echo", controller), slots=20, follower={"on_miss": on_miss})
    record = hil.run(scenario, "lockstep", tmp_path / "run")
    assert (set(statuses(record)) == {"on_time"}) == (controller == "Learning")
    again = replay(tmp_path / "run")
    assert again.same, again.why()
    assert again.recorded_hash == record.meta["trajectory_hash"]


def test_world_with_a_sky_is_flown_again(tmp_path):
    record = run(load("baseline", {"slots": 60, "agent.leo.delay": 10}), tmp_path / "run")
    again = replay(tmp_path / "run", out=tmp_path / "again")
    assert again.same, again.why()
    assert rows_of(Record.open(tmp_path / "again"), 60) == rows_of(record, 60)


@pytest.mark.parametrize(
    ("on_miss", "delay", "flight_s"),
    [("hold", 0, 0.0), ("default", 0, 0.01), ("hold", 1, 0.05), ("default", 3, 0.0)],
)
def test_jittery_real_time_run_is_flown_again(tmp_path, on_miss, delay, flight_s):
    """Late, invalid and missing answers of both agents, who signal each other."""
    seat = {"controller": f"{HERE}:Unlucky", "on_miss": on_miss}
    scenario = toys.scenario(slots=40, slot_s=0.02, leader=seat, follower=seat | {"delay": delay}, flight_s=flight_s)
    record = hil.run(scenario, "realtime", tmp_path / "run")
    assert {"on_time", "invalid"} <= set(statuses(record))
    assert sources(record) >= {"agent", "hold" if on_miss == "hold" else "default"}
    assert {signal["from"] for signal in signals(record)} == {"leader", "follower"}
    again = replay(tmp_path / "run", out=tmp_path / "again")
    assert again.same, again.why()
    written = Record.open(tmp_path / "again")
    assert written.meta["trajectory_hash"] == record.meta["trajectory_hash"]
    for agent in ("leader", "follower"):
        for name in ("status", "source", "action.number", "signal_bytes"):
            np.testing.assert_array_equal(written.decisions[agent][name], record.decisions[agent][name])
    assert invalid(written) == invalid(Record.open(tmp_path / "run")) != []
    assert replay(tmp_path / "again").same  # what was written is a run like any other


@pytest.mark.parametrize("late", ["discard", "apply_next"])
@pytest.mark.parametrize("on_miss", ["hold", "default"])
def test_late_answers_are_flown_again_whether_they_stood_in_or_not(tmp_path, late, on_miss):
    latency = {"lognormal": {"median_s": 0.016, "sigma": 0.6}}
    seat = {"controller": f"{HERE}:Chatters", "late": late, "on_miss": on_miss, "latency": latency}
    scenario = toys.scenario(
        slots=80, slot_s=0.02, leader=seat | {"every": 1, "delay": 1}, follower=seat, flight_s=0.03
    )
    record = hil.run(scenario, "virtual", tmp_path / "run", processes=False)
    assert {"on_time", "missing", "late"} <= set(statuses(record))
    assert ("late" in sources(record)) == (late == "apply_next")
    again = replay(tmp_path / "run", {"follower": f"{HERE}:Chatters"}, out=tmp_path / "again")
    assert again.same, again.why()
    assert again.shadows["follower"].judged == 80
    assert replay(tmp_path / "run", out=tmp_path / "copy").same
    np.testing.assert_array_equal(
        Record.open(tmp_path / "copy").decisions["follower"]["source"], record.decisions["follower"]["source"]
    )


class Chatters(toys.Echo):
    """Echo that signals the other agent."""

    def act(self, seen):
        other = {"leader": "follower", "follower": "leader"}[self.agent.name]
        return Action(super().act(seen).values, {other: {"hint": self.rng.normal(size=3)}})


def test_vacant_seat_is_flown_again(tmp_path):
    """Its process has died; under real time nobody waits for it."""
    record = hil.run(toys.scenario(("Echo", "Dies"), slots=30), "realtime", tmp_path / "run")
    assert statuses(record)[-20:] == ["missing"] * 20
    assert replay(tmp_path / "run").same


# ---- runs that ended early


@pytest.mark.parametrize("asks", ["lockstep", "realtime"])
def test_aborted_run_is_flown_again_and_does_not_break(tmp_path, asks):
    scenario = toys.scenario(("Echo", "WrongShape"), slots=20, slot_s=0.05, follower={"on_miss": "abort"})
    with pytest.raises(RunBroken):
        hil.run(scenario, asks, tmp_path / "run")
    again = replay(tmp_path / "run", out=tmp_path / "again")
    recorded = Record.open(tmp_path / "run")
    assert again.same, again.why()
    assert (again.ended, again.slots) == ("broken", int(recorded["written"].sum()))
    assert again.trajectory_hash == recorded.meta["trajectory_hash"]  # to the very cycle that broke it
    assert Record.open(tmp_path / "again").meta["trajectory_hash"] == again.trajectory_hash
    assert "up to where it was broken: the same trajectory" in str(again)


def test_run_that_broke_another_limit_is_flown_again(tmp_path):
    slow = {"latency": {"fixed_s": 0.1}, "max_consecutive_misses": 4, "startup_grace_cycles": 3, "delay": 2}
    with pytest.raises(RunBroken, match="max_consecutive_misses"):
        hil.run(toys.scenario(slots=20, follower=slow), "virtual", tmp_path / "run", processes=False)
    again = replay(tmp_path / "run")
    assert (again.same, again.slots) == (True, 9)


@pytest.mark.parametrize(
    ("changes", "error", "slots"),
    [
        ({"follower": {"controller": f"{HERE}:Stops"}}, KeyboardInterrupt, 5),
        ({"leader": {"controller": f"{HERE}:Stops", "every": 5}}, KeyboardInterrupt, 5),
        ({"follower": {"controller": "toys:Raises", "delay": 2}}, ControllerError, 5),
        ({"world": f"{HERE}:Gone"}, ValueError, 6),
        ({"leader": {"controller": "toys:Raises", "every": 50}, "world": f"{HERE}:Gone"}, ValueError, 6),
    ],
    ids=["interrupted", "before the follower", "controller raised", "world broke", "world broke unasked"],
)
def test_run_that_ended_inside_a_slot_is_flown_again_up_to_there(tmp_path, changes, error, slots):
    with pytest.raises(error):
        run(toys.scenario(slots=20, **changes), tmp_path / "run")
    again = replay(tmp_path / "run")
    assert again.same, again.why()
    assert again.recorded_hash is not None
    assert (again.slots, again.recorded_slots) == (slots, slots)


def test_run_that_fell_behind_is_flown_again(tmp_path):
    with pytest.raises(RunBroken, match="behind real time"):
        hil.run(toys.scenario(slots=20, world=f"{HERE}:Stalls", max_lag_s=0.1), "realtime", tmp_path / "run")
    assert replay(tmp_path / "run").same


def test_run_that_never_began_is_flown_again(tmp_path):
    with pytest.raises(TwinError):
        hil.run(toys.scenario(("external", "Echo"), seat_wait_s=0.1), "lockstep", tmp_path / "run")
    again = replay(tmp_path / "run")
    assert (again.same, again.slots) == (True, 0)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that was killed at slot 30."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    script = (
        "import os, signal, toys, twin\n"
        "def watch(slot, *_):\n"
        "    if slot == 30:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"twin.run(toys.scenario(slots=1000, follower={{'delay': 2}}), {str(folder)!r}, watch=watch)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return folder


@pytest.mark.parametrize("clock", ["lockstep", "realtime"])
def test_killed_twin_with_processes_is_flown_again_as_far_as_it_wrote(tmp_path, clock):
    seat = "{'controller': 'test_replay:Unlucky', 'delay': 1}"
    scenario = f"toys.scenario(slots=5000, slot_s=0.02, leader={seat}, follower={seat})"
    script = f"import toys, hil; hil.run({scenario}, {clock!r}, {str(tmp_path / 'run')!r})"
    with started(sys.executable, "-c", script, cwd=tmp_path) as process:
        wait_for(lambda: (settled(tmp_path / "run", "follower") > 0).sum() > 20, process)
        process.kill()
        process.wait()
    again = replay(tmp_path / "run")
    assert again.same, again.why()
    assert again.slots == again.recorded_slots >= 20


def copied(folder, place):
    """A copy that may be spoiled."""
    subprocess.run(["cp", "-r", str(folder), str(place)], check=True)
    return place


def test_killed_run_opens_reports_and_is_flown_again(tmp_path, killed):
    record = Record.open(killed)
    written = int(record["written"].sum())
    assert (record.meta["ended"], written) == ("running", 31)
    assert hil.report(record).slots == written
    again = replay(killed, out=tmp_path / "again")
    assert again.same, again.why()
    assert again.recorded_hash is None
    assert again.slots == written
    assert "up to where it was killed: the same trajectory, row by row" in str(again)
    assert Record.open(tmp_path / "again").meta["trajectory_hash"] == again.trajectory_hash
    assert replay(tmp_path / "again").same


def test_killed_run_that_is_another_now_is_told_by_its_rows(tmp_path, killed):
    spoilt = copied(killed, tmp_path / "run")
    np.load(spoilt / "slots" / "pair.npy", mmap_mode="r+")[12, 1] += 1e-12
    again = replay(spoilt)
    assert not again.same
    assert (again.first_difference.slot, again.first_difference.measure) == (12, "pair[1]")


# ---- where it is not the same


def test_first_slot_and_measure_that_differ_are_named(tmp_path):
    run(toys.scenario(slots=12, world=f"{HERE}:Moody"), tmp_path / "run")
    again = replay(tmp_path / "run")
    assert not again.same
    slot, measure, recorded, now = again.first_difference
    assert (slot, measure) == (5, "pair[1]")
    assert 0 < float(now) - float(recorded) < 1e-6
    assert again.why().startswith(f"slot 5 is the first that differs: pair[1] was {recorded}, is {now}")
    assert "versions and files are as they were" in again.why()


def test_versions_that_have_changed_are_named_where_it_differs(tmp_path):
    run(toys.scenario(slots=12, world=f"{HERE}:Moody"), tmp_path / "run")
    path = tmp_path / "run" / "meta.json"
    meta = json.loads(path.read_text())
    meta["versions"] |= {"numpy": "1.0.0", "abacus": "2.0"}
    path.write_text(json.dumps(meta))
    why = replay(tmp_path / "run").why()
    assert f"numpy 1.0.0 then, {np.__version__} now" in why
    assert "abacus 2.0 then, absent now" in why


def test_action_that_was_never_decided_is_told(tmp_path):
    """A recorded action was changed: the world goes another way, and the hash says that the action did too."""
    run(toys.scenario(slots=12), tmp_path / "run")
    np.load(tmp_path / "run" / "decisions" / "follower" / "action.number.npy", mmap_mode="r+")[4] = 3.5
    again = replay(tmp_path / "run")
    assert not again.same
    assert (again.first_difference.slot, again.first_difference.measure) == (4, "sum")


def test_observation_that_was_another_is_told_though_no_row_differs(tmp_path):
    run(toys.scenario(slots=12), tmp_path / "run")
    path = tmp_path / "run" / "meta.json"
    path.write_text(path.read_text().replace('"trajectory_hash": "', '"trajectory_hash": "0'))
    again = replay(tmp_path / "run")
    assert not again.same
    assert again.first_difference is None
    assert "all recorded rows agree, but not what agents observed" in again.why()


def test_signal_that_was_lost_is_where_the_record_ends(tmp_path):
    run(toys.scenario(slots=12), tmp_path / "run")
    path = tmp_path / "run" / "signals.bin"
    path.write_bytes(path.read_bytes()[:-10])
    again = replay(tmp_path / "run")
    assert (again.same, again.slots) == (False, 10)
    assert again.why().startswith("signals.bin lacks what leader sent at slot 10, so it cannot be followed")


def test_decision_that_was_lost_is_where_the_record_ends(tmp_path):
    run(toys.scenario(slots=12), tmp_path / "run")
    np.load(tmp_path / "run" / "decisions" / "follower" / "status.npy", mmap_mode="r+")[7] = 0
    again = replay(tmp_path / "run")
    assert (again.same, again.slots) == (False, 7)
    assert "nothing is recorded of what follower did at slot 7" in again.why()


# ---- the scenario and its files


def test_scenario_of_a_record_is_the_one_that_was_flown(tmp_path):
    scenario = load("quickstart", {"slots": 5, "agent.leo.every": 5, "agent.ue.at_least": [2, 3]})
    record = run(load("baseline", {"slots": 5}), tmp_path / "run")
    assert scenario_of(json.loads((tmp_path / "run" / "meta.json").read_text())) == msgspec.structs.replace(
        load("baseline", {"slots": 5}), text=""
    )
    meta = json.loads(json.dumps(record.meta | {"resolved": msgspec.to_builtins(scenario)}, default=str))
    assert scenario_of(meta, scenario.folder) == msgspec.structs.replace(scenario, text="")


@pytest.fixture(scope="module")
def sky_of_one(tmp_path_factory):
    """A scenario whose element sets lie beside it, and a run of it."""
    folder = tmp_path_factory.mktemp("sky")
    lines = lzma.decompress((ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz").read_bytes()).decode().splitlines()
    (folder / "own.tle").write_text("\n".join(lines) + "\n")
    text = (ROOT / "scenarios" / "baseline.toml").read_text().replace("tle/leo-2022-02-22.tle.xz", "own.tle")
    (folder / "own.toml").write_text(text)
    run(load(folder / "own.toml", {"slots": 10}), folder / "run")
    return folder


def test_files_are_found_where_they_lay_or_where_they_are_said_to_lie(tmp_path, sky_of_one):
    assert replay(sky_of_one / "run").same
    (tmp_path / "elsewhere").mkdir()
    (sky_of_one / "own.tle").rename(tmp_path / "elsewhere" / "own.tle")
    try:
        with pytest.raises(RecordError, match=r"with --folder where its files lie.*\n.*own\.tle"):
            replay(sky_of_one / "run")
        assert replay(sky_of_one / "run", folder=tmp_path / "elsewhere").same
    finally:
        (tmp_path / "elsewhere" / "own.tle").rename(sky_of_one / "own.tle")


def test_files_that_are_others_now_are_told_with_their_hashes(tmp_path, sky_of_one):
    copied(sky_of_one, tmp_path / "copy")
    own = tmp_path / "copy" / "own.tle"
    own.write_text(own.read_text().rstrip("\n"))
    path = tmp_path / "copy" / "run" / "meta.json"
    meta = json.loads(path.read_text()) | {"folder": str(tmp_path / "copy")}
    path.write_text(json.dumps(meta))
    recorded = meta["inputs"]["tle_sha256"]
    with pytest.raises(RecordError, match=rf"tle_sha256 {recorded}.*\n.*copy: tle_sha256 is [0-9a-f]{{64}}"):
        replay(tmp_path / "copy" / "run")


def test_shipped_files_are_found_wherever_the_run_was_recorded(tmp_path):
    run(load("baseline", {"slots": 5}), tmp_path / "run")
    path = tmp_path / "run" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"folder": "/nowhere"}))
    assert replay(tmp_path / "run").same


def test_world_whose_seats_have_changed_is_refused(tmp_path):
    run(toys.scenario(slots=5), tmp_path / "run")
    path = tmp_path / "run" / "meta.json"
    meta = json.loads(path.read_text())
    meta["agents"]["follower"]["acts"][0][0] = "numeral"
    path.write_text(json.dumps(meta))
    (tmp_path / "run" / "decisions" / "follower" / "action.number.npy").rename(
        tmp_path / "run" / "decisions" / "follower" / "action.numeral.npy"
    )
    with pytest.raises(RecordError, match=r"seat 'follower' was .*numeral.*, is .*number"):
        replay(tmp_path / "run")


def test_record_that_does_not_say_its_scenario_is_refused(tmp_path):
    meta = {"scenario": "toy", "clock": "lockstep", "seed": 1, "resolved": {"agents": {}}}
    Record.create(tmp_path / "run", toys.TwoTier().agents, 5, meta)
    with pytest.raises(ScenarioError, match="the recorded scenario has no name, world, settings"):
        replay(tmp_path / "run")


# ---- shadow mode


@pytest.mark.parametrize("controller", ["Echo", "Learning"])
def test_shadow_that_is_the_same_controller_agrees_in_everything(tmp_path, controller):
    scale = {"scale": 2.0}
    scenario = toys.scenario((controller, controller), slots=30, leader=scale, follower={**scale, "delay": 1})
    run(scenario, tmp_path / "run")
    again = replay(tmp_path / "run", {"leader": f"toys:{controller}", "follower": f"toys:{controller}"})
    assert again.same
    for shadow in again.shadows.values():
        assert asdict(shadow.agreement["number"]) == {"equal_share": 1.0, "mean_abs": 0.0, "max_abs": 0.0}
        assert shadow.compared == shadow.answers > 10
        assert (shadow.in_time, shadow.judged, shadow.deadline_us.n) == (None, 0, 0)  # lock-step knows no deadline


def test_shadow_is_never_put_in_force(tmp_path):
    record = run(toys.scenario(slots=20), tmp_path / "run")
    again = replay(tmp_path / "run", {"follower": "toys:WrongShape", "leader": "toys:Odd"}, out=tmp_path / "again")
    assert again.same
    assert again.trajectory_hash == record.meta["trajectory_hash"]
    shadow = again.shadows["follower"]
    assert (shadow.answers, shadow.invalid, shadow.compared) == (20, 1, 19)
    assert shadow.first_invalid == "slot 3: number has shape (4,) float64, expected () float64"
    assert 0 < shadow.agreement["number"].equal_share < 1  # it drew other noise after that slot
    assert again.shadows["leader"].invalid == 3  # of slots 2, 4 and 6; that of slot 8 is only of another byte order


def test_differences_are_those_of_the_answers(tmp_path):
    run(toys.scenario(slots=10, follower={"scale": 0.0}), tmp_path / "run")
    shadow = replay(tmp_path / "run", {"follower": f"{HERE}:Doubles"}).shadows["follower"]
    assert shadow.agreement["number"].mean_abs == pytest.approx(np.mean(np.arange(10) % 4))
    assert shadow.agreement["number"].max_abs == 3.0
    assert shadow.agreement["number"].equal_share == pytest.approx(0.3)


class Doubles(toys.Echo):
    """Echo of scale 0, off by 0, 1, 2, 3, 0, 1, ..."""

    def __init__(self, agent, seed):
        super().__init__(agent, seed, scale=0.0)

    def act(self, seen):
        return Action({"number": super().act(seen).values["number"] + seen.slot % 4})


def test_shadow_of_a_real_time_run_is_told_the_recorded_times(tmp_path):
    """A controller that answers what it is told of time agrees with itself: deadline, slack, status, source, age."""
    seat = {"controller": f"{HERE}:Punctual"}
    scenario = toys.scenario(slots=30, slot_s=0.02, leader=seat, follower=seat | {"delay": 2})
    record = hil.run(scenario, "realtime", tmp_path / "run")
    again = replay(tmp_path / "run", {"leader": f"{HERE}:Punctual", "follower": f"{HERE}:Punctual"})
    assert again.same
    for name, shadow in again.shadows.items():
        answered = statuses(record, name).count("on_time")
        assert shadow.compared == answered > 5
        assert shadow.agreement["number"].max_abs == 0.0, name


def test_compute_time_is_held_against_the_recorded_deadlines(tmp_path):
    scenario = toys.scenario(slots=20, slot_s=0.02)
    hil.run(scenario, "realtime", tmp_path / "run")
    slow = replay(tmp_path / "run", {"follower": f"{HERE}:Sleepy"}).shadows["follower"]
    assert (slow.judged, slow.in_time) == (20, 10)
    assert slow.deadline_us.max == pytest.approx(16_000)
    assert slow.compute_us.n == 19
    assert slow.compute_us.max > 40_000


class Sleepy(toys.Echo):
    """Takes longer than its deadline in every second slot."""

    def act(self, seen):
        if seen.slot % 2:
            time.sleep(0.04)
        return super().act(seen)


def test_compute_time_is_stretched_by_the_seats_compute_scale(tmp_path):
    run(toys.scenario(slots=8, follower={"compute_scale": 5.0}), tmp_path / "run")
    shadow = replay(tmp_path / "run", {"follower": "toys:Burns"}).shadows["follower"]
    assert shadow.compute_us.p50 > 5 * 2_000


def test_what_a_shadow_decided_is_kept_as_a_record(tmp_path):
    recorded = run(toys.scenario(slots=20), tmp_path / "run")
    replay(tmp_path / "run", {"follower": "toys:WrongShape"}, out=tmp_path / "again")
    written = Record.open(tmp_path / "again")
    assert rows_of(written, 20) == rows_of(recorded, 20)
    assert written.meta["shadows"] == {"follower": "toys:WrongShape"}
    assert written.meta["replay_of"] == str(tmp_path / "run")
    assert written.meta["trajectory_hash"] == recorded.meta["trajectory_hash"]  # of what was flown
    assert statuses(written) == ["on_time"] * 3 + ["invalid"] + ["on_time"] * 16
    numbers = written.decisions["follower"]["action.number"]
    assert numbers[3] == numbers[2]  # it would have held
    np.testing.assert_array_equal(numbers[:3], recorded.decisions["follower"]["action.number"][:3])
    report = hil.report(written)["follower"]
    assert (report.on_time, report.statuses["invalid"]) == (19, 1)
    assert report.compute_us.n == 19
    with pytest.raises(RecordError, match=r"holds decisions that were never flown; replay .*run"):
        replay(tmp_path / "again")


def test_shadow_that_raises_ends_the_replay_and_its_folder_is_closed(tmp_path):
    run(toys.scenario(slots=20), tmp_path / "run")
    with pytest.raises(ControllerError, match=r"seat 'follower' failed at slot 5.*no idea"):
        replay(tmp_path / "run", {"follower": "toys:Raises"}, out=tmp_path / "again")
    assert Record.open(tmp_path / "again").meta["ended"] == "broken"


def test_learning_controller_shadows_the_terminal_of_the_cell(tmp_path):
    pytest.importorskip("torch", reason="trpo needs the extra `learn`")
    run(load("baseline", {"slots": 40}), tmp_path / "run")
    again = replay(tmp_path / "run", {"ue": "trpo"})
    assert again.same
    shadow = again.shadows["ue"]
    assert (shadow.answers, shadow.invalid) == (40, 0)
    assert set(shadow.agreement) == {"rx_beam_deg", "used_rb"}
    assert shadow.agreement["used_rb"].mean_abs is None
    assert 0 <= shadow.agreement["used_rb"].equal_share <= 1


# ---- on the command line


def test_replay_in_a_terminal(tmp_path, ntn_twin):  # noqa: F811
    run(load("baseline", {"slots": 10}), tmp_path / "run")
    code, out, err = ntn_twin("replay", "run")
    assert (code, err) == (0, "")
    assert "10 of 10 slots flown again: the same trajectory, by its hash" in out
    shadows = ("--controller", "ue=random", "--controller", "leo=hold")
    code, out, _ = ntn_twin("replay", "run", *shadows, "--out", "again", "--json")
    told = json.loads(out)
    assert (code, told["same"], told["slots"], told["first_difference"]) == (0, True, 10, None)
    assert set(told["shadows"]) == {"ue", "leo"}
    assert set(told["shadows"]["ue"]["agreement"]["rx_beam_deg"]) == {"equal_share", "mean_abs", "max_abs"}
    assert told["shadows"]["ue"]["compute_us"]["n"] == 9
    assert Record.open(tmp_path / "again").meta["ended"] == "finished"


def test_replay_that_differs_ends_with_1_and_says_where(tmp_path, ntn_twin):  # noqa: F811
    run(load("baseline", {"slots": 10}), tmp_path / "run")
    np.load(tmp_path / "run" / "decisions" / "ue" / "action.rx_beam_deg.npy", mmap_mode="r+")[4, 0] -= 5.0
    code, out, _ = ntn_twin("replay", "run")
    assert code == 1
    assert "NOT the recorded trajectory" in out
    assert "\nslot 4 is the first that differs: rx_error_deg was 0.0, is " in out
    code, out, _ = ntn_twin("replay", "run", "--json")
    assert code == 1
    assert json.loads(out)["first_difference"]["slot"] == 4
    assert json.loads(out)["why"].startswith("slot 4 is the first that differs")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("nowhere",), "nowhere is not a run folder: meta.json is missing"),
        (("run", "--controller", "ue"), "--controller takes AGENT=CONTROLLER, got 'ue'"),
        (("run", "--controller", "cell=hold"), "no seat 'cell' to shadow in run; there are leader, follower"),
        (("run", "--controller", "follower=nobody"), "controller 'nobody' is unknown"),
        (("run", "--out", "run"), "run folder run exists"),
    ],
)
def test_bad_input_is_told_with_exit_code_2(tmp_path, ntn_twin, words, complaint):  # noqa: F811
    run(toys.scenario(slots=3), tmp_path / "run")
    code, out, err = ntn_twin("replay", *words)
    assert (code, out) == (2, "")
    assert complaint in " ".join(err.split())
    assert os.path.exists(tmp_path / "run" / "meta.json")
