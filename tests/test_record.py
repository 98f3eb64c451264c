"""The run folder: what is in it, what stays of it after a kill, what its hash covers, and a disk that is full."""

import errno
import json
import os
import resource
import subprocess
import sys
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
import toys

import hil
from twin import Action, Agent, Answer, Field, Observation, Outcome, Record, TwinError, run
from twin.errors import RecordError
from twin.record import COUNTS, SOURCES, STAMPS, STATUSES, new_folder, signals

AGENTS = toys.TwoTier().agents  # a leader every 2 slots, a follower every slot
META = {"scenario": "toy", "clock": "lockstep", "seed": 1, "resolved": {"agents": {}}}
NUMBER = {"number": np.array(1.0)}


def created(folder, slots=6, agents=AGENTS, **more):
    return Record.create(folder, agents, slots, META, **more)


def outcome(reward=0.5, measure=2.0):
    measures = {"snr_db": np.full(3, measure), "used_rb": np.array([True, False]), "satellite": np.array(7)}
    return Outcome({"leader": reward, "follower": 2 * reward}, measures)


def observation(slot=0, value=1.0, reward=None, signals_=None):
    values = {"target": np.full(2, value), "leader": np.array(0.0), "count": np.array(slot)}
    return Observation("follower", slot, values, reward, signals=signals_ or {})


# ---- columns


def test_folder_holds_what_its_description_says(tmp_path):
    text = "world = 'toys:Toy'\n"
    record = created(tmp_path / "run", slots=5, scenario_text=text, start_utc=datetime(2022, 2, 22, tzinfo=UTC))
    record.slot(0, outcome())
    record.close("finished")
    found = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    columns = {"status", "source", *(f"{name}_ns" for name in STAMPS), *COUNTS, "action.number"}
    assert found == {"meta.json", "scenario.toml", "events.jsonl", "signals.bin"} | {
        f"decisions/{agent}/{name}.npy" for agent in ("leader", "follower") for name in columns
    } | {
        f"slots/{name}.npy"
        for name in ("snr_db", "used_rb", "satellite", "reward.leader", "reward.follower", "written")
    }
    assert (tmp_path / "run" / "scenario.toml").read_text() == text
    assert record.meta["started_utc"] == "2022-02-22T00:00:00.000+00:00"


def test_rows_are_slots_of_the_world_and_cycles_of_the_agents(tmp_path):
    record = created(tmp_path / "run", slots=5)
    record.slot(0, outcome())
    assert record["snr_db"].shape == (5, 3)
    assert record.decisions["leader"]["status"].shape == (3,)  # slots 0, 2, 4
    assert record.decisions["follower"]["action.number"].shape == (5,)
    dtypes = {name: record[name].dtype.name for name in ("snr_db", "used_rb", "satellite", "reward.leader", "written")}
    assert dtypes == {
        "snr_db": "float64",
        "used_rb": "bool",
        "satellite": "int64",
        "reward.leader": "float64",
        "written": "bool",
    }


def test_decision_is_written_in_the_row_of_its_cycle(tmp_path):
    record = created(tmp_path / "run")
    stamps = {"release": 10, "arrived": 30, "cpu_ns": 4, "weights": 2}
    record.decision("leader", 4, Answer(Action(NUMBER), "on_time", "agent", stamps), NUMBER)
    record.decision("leader", 2, Answer(None, "missing", "hold", {"release": 5}), {"number": np.array(-1.0)})
    record.close("finished")
    columns = Record.open(tmp_path / "run").decisions["leader"]
    assert [STATUSES[i] for i in columns["status"]] == ["unwritten", "missing", "on_time"]
    assert [SOURCES[i] for i in columns["source"]] == ["none", "hold", "agent"]
    assert columns["release_ns"].tolist() == [0, 5, 10]
    assert columns["arrived_ns"].tolist() == [0, 0, 30]
    assert columns["cpu_ns"].tolist() == [0, 0, 4]
    assert columns["weights"].tolist() == [0, 0, 2]
    np.testing.assert_array_equal(columns["action.number"], [np.nan, -1.0, 1.0])


def test_late_answer_changes_the_status_of_its_cycle_and_nothing_in_force(tmp_path):
    record = created(tmp_path / "run")
    record.decision("follower", 3, Answer(None, "missing", "hold", {"release": 5}), NUMBER)
    record.late("follower", 3, {"arrived": 99})
    columns = record.decisions["follower"]
    assert STATUSES[columns["status"][3]] == "late"
    assert SOURCES[columns["source"][3]] == "hold"
    assert (columns["release_ns"][3], columns["arrived_ns"][3]) == (5, 99)


def test_invalid_cycle_leaves_its_reason_as_an_event(tmp_path):
    record = created(tmp_path / "run")
    record.decision("follower", 3, Answer(None, "invalid", "hold", reason="number is not finite"), NUMBER)
    record.close("finished")
    (event,) = Record.open(tmp_path / "run").events
    assert event.pop("t_mono_ns") > 0
    assert event == {"event": "invalid", "agent": "follower", "slot": 3, "reason": "number is not finite"}


def test_unknown_measure_is_told_with_those_there_are(tmp_path):
    record = created(tmp_path / "run")
    record.slot(0, outcome())
    with pytest.raises(
        KeyError, match=r"no measure 'snr'.*there are reward\.follower, reward\.leader, satellite, snr_db"
    ):
        record["snr"]


def test_columns_read_back_are_read_only(tmp_path):
    created(tmp_path / "run").close("finished")
    with pytest.raises(ValueError, match="read-only"):
        Record.open(tmp_path / "run").decisions["leader"]["status"][0] = 1


def test_description_says_where_and_of_what_and_no_path_but_where_its_files_lay(tmp_path):
    run(msgspec.structs.replace(toys.scenario(slots=2), text="# as written\n"), tmp_path / "run")
    text = (tmp_path / "run" / "meta.json").read_text()
    meta = json.loads(text)
    assert {"scenario", "clock", "seed", "slot_s", "slots", "ended", "trajectory_hash", "versions", "host"} <= set(meta)
    assert meta["versions"]["python"] == ".".join(str(n) for n in sys.version_info[:3])
    assert meta["versions"]["numpy"] == np.__version__
    assert (meta["host"]["cores"], meta["host"]["kernel"]) == (os.cpu_count(), os.uname().release)
    assert meta["resolved"]["agents"]["leader"]["controller"] == "toys:Echo"
    assert meta.pop("folder") == "."  # as the scenario says it: a file's own folder, absolute
    assert str(tmp_path) not in text
    assert os.getcwd() not in text
    assert not list((tmp_path / "run").glob("*.new"))


# ---- what was not reached


def test_rows_not_reached_are_marked(tmp_path):
    record = created(tmp_path / "run", slots=4)
    for slot in range(2):
        record.slot(slot, outcome())
    record.close("broken", "for a reason")
    record = Record.open(tmp_path / "run")
    assert record["written"].tolist() == [True, True, False, False]
    assert np.isnan(record["snr_db"][2:]).all()
    assert np.isnan(record["reward.leader"][2:]).all()
    assert not record["used_rb"][2:].any()
    assert (record.meta["ended"], record.meta["why"], record.meta["slots_written"]) == ("broken", "for a reason", 2)
    assert not record.decisions["follower"]["status"].any()
    assert np.isnan(record.decisions["follower"]["action.number"]).all()


def test_killed_process_leaves_every_row_it_wrote(tmp_path):
    script = (
        "import os, signal, toys, twin\n"
        "def watch(slot, *_):\n"
        "    if slot == 30:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"twin.run(toys.scenario(slots=1000), {str(tmp_path / 'run')!r}, watch=watch)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    record = Record.open(tmp_path / "run")
    assert record.meta["ended"] == "running"
    assert "trajectory_hash" not in record.meta
    whole = run(toys.scenario(slots=31), tmp_path / "whole")
    assert np.flatnonzero(record["written"]).tolist() == list(range(31))
    for name in ("sum", "pair", "reward.follower"):
        np.testing.assert_array_equal(record[name][:31], whole[name])
    for name in ("status", "source", "action.number"):
        np.testing.assert_array_equal(record.decisions["follower"][name][:31], whole.decisions["follower"][name])
    assert len(list(signals(record))) == 16
    assert (hil.report(record)["follower"].cycles, hil.report(record).slots) == (31, 31)


@pytest.mark.parametrize("left", [None, 0, 128], ids=["absent", "empty", "header alone"])
@pytest.mark.parametrize("column", ["written", "snr_db"])
def test_killed_while_its_columns_were_made_is_still_a_record(tmp_path, column, left):
    created(tmp_path / "run").prepare(outcome())
    path = tmp_path / "run" / "slots" / f"{column}.npy"
    whole = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(whole[:left])
    record = Record.open(tmp_path / "run")
    assert record.meta["ended"] == "running"
    assert hil.report(record)["leader"].cycles == 0


def test_event_cut_in_the_middle_is_marked_and_the_others_are_read(tmp_path):
    record = created(tmp_path / "run")
    record.event("seated", agent="leader")
    record.event("vacant", agent="leader")
    lines = (tmp_path / "run" / "events.jsonl").read_text()
    (tmp_path / "run" / "events.jsonl").write_text(lines[:-10])
    assert [event["event"] for event in Record.open(tmp_path / "run").events] == ["seated", "unreadable"]


def test_signal_cut_in_the_middle_ends_them(tmp_path):
    record = created(tmp_path / "run")
    for slot in (0, 2):
        record.decision("leader", slot, Answer(Action(NUMBER, {"follower": {"hint": np.zeros(2)}})), NUMBER)
    path = tmp_path / "run" / "signals.bin"
    whole = path.read_bytes()
    for length, n in ((len(whole), 2), (len(whole) - 1, 1), (len(whole) // 2 + 2, 1), (3, 0), (0, 0)):
        path.write_bytes(whole[:length])
        assert len(list(signals(Record.open(tmp_path / "run")))) == n


# ---- signals


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_signals_come_back_as_they_were_sent(tmp_path, dtype, shape):
    sent = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    record = created(tmp_path / "run")
    record.decision("leader", 2, Answer(Action(NUMBER, {"follower": {"a": sent, "b": np.ones(1)}})), NUMBER)
    record.close("finished")
    (message,) = signals(Record.open(tmp_path / "run"))
    assert (message["slot"], message["from"], message["to"]) == (2, "leader", "follower")
    assert message["arrays"]["a"].dtype == sent.dtype
    np.testing.assert_array_equal(message["arrays"]["a"], sent)
    assert record.decisions["leader"]["signal_bytes"].tolist() == [0, sent.nbytes + 8, 0]


# ---- the trajectory hash


def hash_of(folder, **changes):
    """The hash of a short record in which one thing is changed."""
    what = {
        "value": 1.0,
        "reward_told": 0.25,
        "signal": 3.0,
        "sender": "leader",
        "in_force": 1.0,
        "reward": 0.5,
        "measure": 2.0,
        "slot": 1,
        "stamps": {},
        "status": "on_time",
        "source": "agent",
        "reason": "",
        "start_utc": datetime(2022, 1, 1, tzinfo=UTC),
        "scenario_text": "",
        "event": False,
        "meta": {},
    } | changes
    started = {"start_utc": what["start_utc"], "scenario_text": what["scenario_text"]}
    record = Record.create(folder, AGENTS, 4, META | what["meta"], **started)
    told = {what["sender"]: {"hint": np.array([what["signal"]])}}
    record.observation(observation(what["slot"], what["value"], what["reward_told"], told))
    answer = Answer(None, what["status"], what["source"], what["stamps"], what["reason"])
    record.decision("follower", what["slot"], answer, {"number": np.array(what["in_force"])})
    record.slot(what["slot"], outcome(what["reward"], what["measure"]))
    if what["event"]:
        record.event("noise", agent="follower")
    record.close("finished", "why", refused=3)
    return record.meta["trajectory_hash"]


@pytest.mark.parametrize(
    "change",
    [
        {"value": 1.0000001},
        {"reward_told": 0.26},
        {"reward_told": None},
        {"signal": 4.0},
        {"sender": "somebody"},
        {"in_force": 2.0},
        {"reward": 0.6},
        {"measure": 2.0 + 1e-15},
        {"slot": 2},
    ],
    ids=lambda change: "-".join(change),
)
def test_hash_covers_what_the_world_and_the_agents_did(tmp_path, change):
    assert hash_of(tmp_path / "a") != hash_of(tmp_path / "b", **change)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"stamps": dict.fromkeys(STAMPS, 12345)},
        {"stamps": dict.fromkeys(COUNTS, 3)},
        {"status": "missing"},
        {"source": "hold"},
        {"status": "invalid", "reason": "nonsense"},
        {"start_utc": datetime(2023, 1, 1, tzinfo=UTC)},
        {"scenario_text": "# a comment"},
        {"event": True},
        {"meta": {"clock": "realtime", "run_id": "another", "seats": "there"}},
    ],
    ids=lambda change: "-".join(change) or "nothing",
)
def test_hash_leaves_out_when_where_and_by_whom(tmp_path, change):
    assert hash_of(tmp_path / "a") == hash_of(tmp_path / "b", **change)


def test_hash_tells_shapes_and_types_apart(tmp_path):
    hashes = set()
    for i, value in enumerate([np.zeros(4), np.zeros((2, 2)), np.zeros(4, "int64"), np.zeros(8, "float32")]):
        record = created(tmp_path / str(i))
        record.observation(Observation("follower", 0, {"x": value}))
        record.close("finished")
        hashes.add(record.meta["trajectory_hash"])
    assert len(hashes) == 4


# ---- where it cannot be written, or read


def test_folder_that_exists_is_never_written_over(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("mine")
    with pytest.raises(RecordError, match=r"run folder .*run exists; .* never written over, give another with --out"):
        created(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]


def test_place_where_no_folder_can_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match=r"run folder .*file/run cannot be made: .*Not a directory"):
        created(tmp_path / "file" / "run")


def test_disk_without_room_is_told_before_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RecordError, match=r"no room for decisions/leader/status: .*No space left on device") as caught:
        run(toys.scenario(), tmp_path / "run")
    assert caught.value.exit_code == 2


def test_file_that_may_not_grow_is_told_before_the_run(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(RecordError, match=r"run folder .*action\.picture.*File too large"):
            created(tmp_path / "run", agents=(Agent("leader", (), (Field("picture", (1000,)),)),))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda run_: (run_ / "meta.json").unlink(), "is not a run folder: meta.json is missing"),
        (lambda run_: (run_ / "meta.json").write_text("{"), "cannot be read"),
        (lambda run_: (run_ / "meta.json").write_text("{}"), "cannot be read"),
        (lambda run_: (run_ / "events.jsonl").unlink(), "is not a run folder: events.jsonl is missing"),
        (lambda run_: (run_ / "decisions" / "leader" / "status.npy").write_bytes(b"noise"), "cannot be read"),
    ],
    ids=["no meta", "half a meta", "empty meta", "no events", "noise"],
)
def test_folder_that_is_no_record_is_told(tmp_path, spoil, complaint):
    created(tmp_path / "run").close("finished")
    spoil(tmp_path / "run")
    with pytest.raises(TwinError, match=complaint):
        Record.open(tmp_path / "run")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda run_: (run_ / "meta.json").write_text("[1, 2]"), "meta.json: Expected `object`, got `array`"),
        (lambda run_: cut(run_ / "meta.json"), "cannot be read: JSONDecodeError"),
        (lambda run_: meta(run_, agents={"leader": {"every": 0, "acts": []}}), r"Expected `int` >= 1 - at `\$.agents"),
        (lambda run_: meta(run_, faults=[1]), r"meta.json: Expected `object`, got `int` - at `\$.faults"),
        (lambda run_: meta(run_, faults=[FAULT | {"agent": "nobody"}]), "a fault of 'nobody', which is no agent"),
        (lambda run_: meta(run_, messages={"leader": 3}), r"at `\$.messages"),
        (lambda run_: cut(run_ / "slots" / "snr_db.npy"), "slots/snr_db.npy is damaged"),
        (lambda run_: cut(run_ / "decisions" / "leader" / "due_ns.npy"), "leader/due_ns.npy is damaged"),
        (
            lambda run_: (run_ / "decisions" / "leader" / "source.npy").unlink(),
            "decisions/leader/source.npy is missing",
        ),
        (lambda run_: (run_ / "decisions" / "leader" / "action.number.npy").unlink(), "action.number.npy is missing"),
        (lambda run_: np.save(run_ / "slots" / "foreign.npy", np.zeros(3)), r"slots/foreign.npy has shape \(3,\)"),
        (lambda run_: np.save(run_ / "slots" / "foreign.npy", np.array([{}] * 6)), "slots/foreign.npy is damaged"),
        (
            lambda run_: np.save(run_ / "decisions" / "leader" / "status.npy", np.full(3, 9, "uint8")),
            "beyond unwritten",
        ),
        (
            lambda run_: np.save(run_ / "decisions" / "leader" / "status.npy", np.ones(3, "float32")),
            "status.npy is of float32, expected uint8",
        ),
        (lambda run_: meta(run_, resolved={"agents": {"leader": {"compute_scale": []}}}), "got `array`"),
        (lambda run_: (run_ / "events.jsonl").write_bytes(b"\xff\xfe"), "cannot be read: UnicodeDecodeError"),
    ],
    ids=lambda value: None if callable(value) else value.split(":")[-1].strip(),
)
def test_damaged_record_is_told_with_the_file(tmp_path, spoil, complaint):
    record = created(tmp_path / "run")
    record.slot(0, outcome())
    record.close("finished")
    spoil(tmp_path / "run")
    with pytest.raises(RecordError, match=complaint):
        Record.open(tmp_path / "run")


FAULT = {"kind": "drop", "agent": "leader", "first_slot": 0, "last_slot": 3, "comes": True, "messages": {}}


def meta(folder, **changed):
    file = folder / "meta.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def test_files_that_are_no_columns_are_left_alone_and_columns_newer_than_the_run_are_zero(tmp_path):
    record = created(tmp_path / "run")
    record.slot(0, outcome())
    record.close("finished")
    for place in ("slots/readme.txt", "notes.md", "decisions/leader/.hidden"):
        (tmp_path / "run" / place).write_text("a person's own")
    (tmp_path / "run" / "decisions" / "leader" / f"{COUNTS[-1]}.npy").unlink()
    (tmp_path / "run" / "events.jsonl").write_text('{"event": "seated"}\n3\n')
    record = Record.open(tmp_path / "run")
    assert not record.decisions["leader"][COUNTS[-1]].any()
    assert [event["event"] for event in record.events] == ["seated", "unreadable"]
    assert hil.report(record).slots == 1


def test_signals_that_are_none_are_told(tmp_path):
    record = created(tmp_path / "run")
    record.decision("leader", 0, Answer(Action(NUMBER, {"follower": {"hint": np.zeros(2)}})), NUMBER)
    path = tmp_path / "run" / "signals.bin"
    whole = path.read_bytes()
    for noise in (b"\x01\x00\x00\x00\xc1", b"\x01\x00\x00\x00\x03", whole.replace(b"float64", b"flaot64")):
        path.write_bytes(whole + noise)
        with pytest.raises(RecordError, match=f"no signal at byte {len(whole)} of signals.bin"):
            list(signals(record))
    path.unlink()
    with pytest.raises(RecordError, match=r"signals\.bin cannot be read"):
        list(signals(record))


def test_folders_of_one_second_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Still(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr("twin.record.datetime", Still)
    names = []
    for _ in range(3):
        folder = new_folder("toy")
        folder.mkdir(parents=True)
        names.append(str(folder))
    assert names == [f"runs/toy-20260102T030405Z{end}" for end in ("", "-2", "-3")]
    assert new_folder("toy", "there") == new_folder("toy", new_folder("toy", "there"))


@pytest.mark.parametrize(
    ("measures", "complaint"),
    [
        ({"count": np.float64(0.7)}, "measure 'count' is float64 of shape \\(\\) in slot 1, at first int64"),
        ({"count": np.zeros(2, int)}, "measure 'count' is int64 of shape \\(2,\\) in slot 1, at first int64 of shape"),
        ({}, "slot 1 measures nothing; at first count"),
        ({"count": np.array(1), "more": np.array(1.0)}, "slot 1 measures count, more; at first count"),
    ],
    ids=str,
)
def test_measure_that_becomes_another_is_an_error_and_never_rounded(tmp_path, measures, complaint):
    record = created(tmp_path / "run")
    rewards = {"leader": 0.0, "follower": 0.0}
    record.slot(0, Outcome(rewards, {"count": np.array(0)}))
    with pytest.raises(RecordError, match=complaint):
        record.slot(1, Outcome(rewards, measures))
    record.close("broken")
    assert (record.meta["slots_written"], record.meta["lost_rows"]) == (1, 1)


@pytest.mark.parametrize("name", ["written", "reward.leader", "a/b"])
def test_measure_by_a_name_of_the_records_own_is_refused(tmp_path, name):
    record = created(tmp_path / "run")
    with pytest.raises(RecordError, match="a measure cannot be called"):
        record.slot(0, Outcome({"leader": 0.0, "follower": 0.0}, {name: np.float64(1.0)}))
    record.close("broken")


def test_last_row_that_cannot_be_written_breaks_the_run_and_meta_says_so(tmp_path):
    """It waits in memory until the run is over."""

    class Changes(toys.Toy):
        def step(self):
            outcome = super().step()
            return outcome if self.slot < 5 else outcome._replace(measures={**outcome.measures, "pair": np.zeros(3)})

    world = Changes(toys.Settings(), slots=5, slot_s=0.02, folder=tmp_path, agents={})
    with pytest.raises(RecordError, match="measure 'pair' is"):
        hil.run(toys.scenario(slots=5), "lockstep", tmp_path / "run", world=world)
    meta = Record.open(tmp_path / "run").meta
    assert (meta["ended"], meta["slots_written"], meta["lost_rows"]) == ("broken", 4, 1)
    assert "measure 'pair' is" in meta["why"]
