"""The command line: what each verb prints and where, its exit codes, and what bad input is told.

Most tests call `hil.cli.main` in this process, as the installed command does; those about exit codes, Ctrl-C and seats
taken from another terminal start real processes.
"""

import json
import os
import signal
import sys
import warnings
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import pytest
import zmq
from skyfield.api import EarthSatellite, load, wgs84
from terminal import (
    COMMAND,
    EXAMPLES,
    ROOT,
    controllers_of,
    ended,
    free_address,
    python,
    settled,
    started,
    wait_for,
)

from hil import cli, latency
from twin import Record, read_tle
from twin.scenario import CONTROLLERS, WORLDS, shipped

pytestmark = pytest.mark.usefixtures("no_child_left")

VERBS = ("list", "passes", "link", "run", "control", "report", "replay", "budget", "check", "bench", "reproduce")
SNAPSHOT = ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz"
TOY = """
world = "toys:Toy"
slots = 12
slot_s = 0.02
seed = 3
agent.leader = { controller = "toys:Echo" }
agent.follower = { controller = "toys:Echo" }
"""
RUN_KEYS = {"run", "scenario", "clock", "seed", "slots", "trajectory_hash", "twin_overruns", "agents"}
COUNT_KEYS = {"cycles", "on_time", "misses", "invalid", "reward_mean", "signalling_bytes", "learning_misses"}
SPREAD_KEYS = {"release_lateness_us", "response_us", "compute_us", "wire_us", "unaccounted_us", "slack_us"}


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self):
        """Everything on stdout is one object."""
        return json.loads(self.out)


@pytest.fixture
def ntn_twin(monkeypatch, capsys, tmp_path):
    """The command, called as the shell would from an empty folder with one scenario file in it, toy.toml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(sys, "path", list(sys.path))
    handler = signal.getsignal(signal.SIGTERM)
    (tmp_path / "toy.toml").write_text(TOY)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["ntn-twin", *(str(word) for word in words)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code or 0
        return Said(code, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, handler)


# ---- help and lists


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(ntn_twin, verb):
    said = ntn_twin(verb, "--help")
    assert said.code == 0
    assert said.out.startswith("Usage: ")
    assert f"ntn-twin {verb} [OPTIONS]" in said.out
    assert ("--json" in said.out) == (verb != "control")
    assert said.err == ""


def test_help_names_every_verb_and_every_exit_code(ntn_twin):
    said = ntn_twin("--help")
    assert all(f"\n  {verb} " in said.out for verb in VERBS)
    assert all(f"{code} " in said.out for code in (0, 1, 2, 3, 130))


def test_list_names_what_ships(ntn_twin):
    listed = ntn_twin("list", "--json").json
    assert set(listed["scenarios"]) == set(shipped())
    assert all(listed["scenarios"].values())  # a line that says what it is
    assert listed["worlds"] == sorted(WORLDS)
    assert listed["controllers"] == sorted(CONTROLLERS)
    text = ntn_twin("list").out
    assert all(name in text for name in (*shipped(), *CONTROLLERS, "external"))


# ---- passes


@pytest.mark.parametrize("window", [(), ("--hours", 1), ("--hours", 1, "--mask-deg", 60)], ids=["run", "hour", "high"])
def test_passes_agree_with_skyfield_within_a_second(ntn_twin, window):
    """Rise and set of every pass listed, and no pass of a sample of those that are not."""
    found = ntn_twin("passes", "quickstart", *window, "--json").json
    timescale, site = load.timescale(builtin=True), wgs84.latlon(43.5, -80.5, 330.0)
    begin, end = (datetime.fromisoformat(found[key]) for key in ("from_utc", "to_utc"))
    assert end - begin == timedelta(seconds=3600 if window else 30)
    around = [timescale.from_datetime(t) for t in (begin - timedelta(minutes=20), end + timedelta(minutes=20))]
    starlinks = {s.number: s for s in read_tle(SNAPSHOT, name="STARLINK")}
    assert len(found["passes"]) >= 2

    def events(number):
        satellite = EarthSatellite(starlinks[number].line1, starlinks[number].line2, ts=timescale)
        times, kinds = satellite.find_events(site, *around, altitude_degrees=found["mask_deg"])
        return [[t.utc_datetime() for t, kind in zip(times, kinds) if kind == wanted] for wanted in (0, 2)]

    a_second = timedelta(seconds=1)
    for pass_ in found["passes"]:
        rises, sets = events(pass_["number"])
        assert any(abs(datetime.fromisoformat(pass_["rise_utc"]) - rise) < a_second for rise in rises), pass_
        assert any(abs(datetime.fromisoformat(pass_["set_utc"]) - set_) < a_second for set_ in sets), pass_
        assert not pass_["cut"]
    silent = sorted(set(starlinks) - {p["number"] for p in found["passes"]})
    for number in np.random.default_rng(1).choice(silent, 40, replace=False):
        rises, sets = events(int(number))
        assert not any(rise < end and set_ > begin for rise, set_ in zip(rises, sets)), number


def test_passes_as_a_table_names_who_when_and_how_high(ntn_twin):
    said = ntn_twin("passes", "quickstart")
    assert said.code == 0
    assert "STARLINK-1102   44920  13:08:52.7  13:10:50.7  13:12:48.3  81.8  236" in said.out
    assert "2 passes" in said.out


def test_window_without_a_pass_says_so(ntn_twin):
    said = ntn_twin("passes", "quickstart", "--mask-deg", 89.9)
    assert said.code == 0
    assert "nobody" in said.out
    assert ntn_twin("passes", "quickstart", "--mask-deg", 89.9, "--json").json["passes"] == []


@pytest.mark.parametrize(("scenario", "world"), [("toy.toml", "toys:Toy"), ("d2d_cell", "d2d")])
def test_world_without_a_sky_has_no_passes(ntn_twin, scenario, world):
    said = ntn_twin("passes", scenario)
    assert (said.code, said.out) == (2, "")
    assert f"{world} has no sky" in said.err


# ---- run and report


def check_shape(result, slots):
    """The keys that machines rely on, and that every number in them is one, or null."""
    assert set(result) >= RUN_KEYS
    assert result["slots"] == slots
    assert len(bytes.fromhex(result["trajectory_hash"])) == 32
    for name, agent in result["agents"].items():
        assert set(agent) >= COUNT_KEYS | SPREAD_KEYS, name
        assert agent["cycles"] == agent["on_time"] + agent["misses"]
        assert agent["misses"] >= agent["invalid"]
        for key in COUNT_KEYS - {"reward_mean"}:
            assert isinstance(agent[key], int), key
        for key in SPREAD_KEYS:
            assert set(agent[key]) == {"n", "mean", "p50", "p90", "p99", "p99_9", "max"}, key
            values = [agent[key][q] for q in ("p50", "p90", "p99", "p99_9", "max")]
            assert values == [None] * 5 or values == sorted(values), key


def test_lock_step_run_as_json(ntn_twin, tmp_path):
    said = ntn_twin("run", "baseline", "--set", "slots=40", "--out", "run", "--json")
    assert said.code == 0
    result = said.json
    check_shape(result, 40)
    assert (result["run"], result["scenario"], result["clock"], result["seed"]) == ("run", "baseline", "lockstep", 1)
    assert {name: agent["cycles"] for name, agent in result["agents"].items()} == {"leo": 4, "ue": 40}
    assert result["twin_overruns"] is None  # nothing is scheduled
    for agent in result["agents"].values():
        assert agent["misses"] == 0
        assert agent["release_lateness_us"]["n"] == agent["slack_us"]["n"] == 0
        assert agent["response_us"]["p50"] > agent["compute_us"]["p50"] > 0
    assert ntn_twin("report", "run", "--json").json == result
    assert result["agents"]["ue"]["reward_mean"] == pytest.approx(Record.open("run")["reward.ue"].mean())


def test_real_time_run_as_json(ntn_twin):
    said = ntn_twin("run", "toy.toml", "--clock", "realtime", "--set", "slot_s=0.05", "--out", "run", "--json")
    assert said.code == 0
    result = said.json
    check_shape(result, 12)
    assert result["clock"] == "realtime"
    assert result["twin_overruns"] >= 0
    for agent in result["agents"].values():
        assert agent["on_time"] > 0
        assert all(agent[key]["p50"] is not None for key in SPREAD_KEYS)
    assert result["agents"]["leader"]["signalling_bytes"] == 4 * result["agents"]["leader"]["on_time"]
    assert ntn_twin("report", "run", "--json").json == result


def test_run_as_a_table_says_what_happened_and_where_it_is_kept(ntn_twin, tmp_path):
    said = ntn_twin("run", "toy.toml")
    assert said.code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("toy-")
    words = ("toy: 12 slots", "leader", "follower", "response", str(Record.open(folder).meta["trajectory_hash"]))
    assert all(word in said.out for word in (*words, f"run folder runs/{folder.name}"))
    report = ntn_twin("report", folder)
    assert (report.code, report.err) == (0, "")
    assert report.out.replace(str(folder), f"runs/{folder.name}") == said.out


def test_same_seed_same_hash_another_seed_another(ntn_twin):
    hashes = [
        ntn_twin("run", "toy.toml", "--out", f"run{i}", "--json", *more).json["trajectory_hash"]
        for i, more in enumerate([(), (), ("--processes",), ("--seed", 4)])
    ]
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]


def test_options_replace_what_the_file_says(ntn_twin):
    said = ntn_twin(
        *("run", "baseline", "--out", "run", "--json", "--seed", 7, "--seat", "ue=random", "--clock", "lockstep"),
        *("--set", "slots=20", "--set", "link.n_paths=6", "--set", "agent.leo.every=5", "--set", "sky.mask_deg=25"),
    )
    assert said.json["agents"]["leo"]["cycles"] == 4
    resolved = Record.open("run").meta["resolved"]
    assert (resolved["seed"], resolved["settings"]["link"]["n_paths"], resolved["settings"]["sky"]["mask_deg"]) == (
        *(7, 6, 25.0),
    )
    assert resolved["agents"]["ue"]["controller"] == "random"


@pytest.mark.parametrize(
    ("controller", "reason"), [("WrongShape", "shape (4,)"), ("NotANumber", "not finite"), ("Noisy", "more than the")]
)
def test_answer_that_is_wrong_is_counted_and_the_run_goes_on(ntn_twin, controller, reason):
    processes = ["--processes"] if controller == "Noisy" else []
    said = ntn_twin("run", "toy.toml", "--seat", f"follower=toys:{controller}", "--out", "run", "--json", *processes)
    assert said.code == 0
    counted = {key: said.json["agents"]["follower"][key] for key in ("cycles", "on_time", "misses", "invalid")}
    assert counted == {"cycles": 12, "on_time": 11, "misses": 1, "invalid": 1}
    assert reason in next(e["reason"] for e in Record.open("run").events if e["event"] == "invalid")


def test_report_of_a_killed_run_says_what_is_there(ntn_twin, tmp_path):
    ntn_twin("run", "toy.toml", "--out", "run")
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    for key in ("trajectory_hash", "why", "slots_written"):
        del meta[key]
    (tmp_path / "run" / "meta.json").write_text(json.dumps(meta | {"ended": "running"}))
    said = ntn_twin("report", "run", "--json")
    assert said.code == 0
    assert (said.json["trajectory_hash"], said.json["slots"]) == (None, 12)
    assert "was killed" in ntn_twin("report", "run").out


# ---- check


def test_check_of_a_scenario_looks_at_world_and_controllers(ntn_twin):
    said = ntn_twin("check", "baseline", "--json")
    assert said.code == 0
    assert said.json["holds"] is True
    assert set(said.json["looked_at"]) == {"world ntn_cell", "scenario baseline", "greedy as leo", "greedy as ue"}
    assert ntn_twin("check", "baseline").out.count("holds") == 4


@pytest.mark.parametrize(
    ("words", "looked_at"),
    [
        (("random",), {"random as leo", "random as ue"}),
        (("random", "--agent", "ue"), {"random as ue"}),
        (("toys:Echo", "--scenario", "toy.toml"), {"toys:Echo as leader", "toys:Echo as follower"}),
    ],
)
def test_check_of_a_controller_tries_the_seats_it_is_for(ntn_twin, words, looked_at):
    said = ntn_twin("check", *words, "--json")
    assert said.code == 0
    assert set(said.json["looked_at"]) == looked_at


def test_check_of_a_controller_that_breaks_its_contract_names_the_clause(ntn_twin):
    said = ntn_twin("check", "toys:WrongShape", "--scenario", "toy.toml")
    assert (said.code, said.out) == (2, "")
    assert "answer to slot 3: number has shape (4,) float64, expected () float64" in said.err


# ---- bad input: one message, where to look, exit code 2


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("run", "quikstart"), "no scenario 'quikstart'; there are access"),
        (("run", "nowhere.toml"), "scenario file nowhere.toml does not exist"),
        (("run", "."), "no scenario '.'"),
        (("run", "baseline", "--set", "slts=3"), "slts is not a key; did you mean slots"),
        (("run", "baseline", "--set", "link.carrier_ghz=20"), "link.carrier_ghz is not a key; did you mean carrier_hz"),
        (("run", "baseline", "--set", "slots=many"), "slots: expected `int`, got `str`, got 'many'"),
        (("run", "baseline", "--set", "slots.x=1"), "cannot set slots.x: slots is not a table"),
        (("run", "baseline", "--set", "slots"), "--set takes KEY=VALUE, got 'slots'"),
        (("run", "baseline", "--set", "site.latitude_deg=99"), "site.latitude_deg: expected `float` <= 90.0, got 99"),
        (("run", "baseline", "--set", "slot_s=nan"), "slot_s"),
        (("run", "baseline", "--set", "slot_s=inf"), "slot_s"),
        (("run", "baseline", "--seat", "ue"), "--seat takes AGENT=CONTROLLER, got 'ue'"),
        (("run", "baseline", "--seat", "eu=hold"), "agent.eu is not a seat of ntn_cell; did you mean ue"),
        (("run", "baseline", "--seat", "ue=grady"), "'grady' is unknown; did you mean greedy"),
        (("run", "baseline", "--seat", "ue=nowhere:Class"), "'nowhere:Class' cannot be imported"),
        (
            ("run", "baseline", "--set", "agent.ue.foo=3"),
            "agent.ue.foo is neither a seat's key nor an option of greedy",
        ),
        (("run", "baseline", "--clock", "sundial"), "clock: invalid enum value 'sundial'"),
        (("run", "baseline", "--rt-factor", "0"), "rt_factor: expected `float` > 0"),
        (("run", "baseline", "--seed", "-1"), "seed: expected `int` >= 0"),
        (("run", "baseline", "--seed", "one"), "Invalid value for '--seed'"),
        (("run", "baseline", "--set", "sky.tle=none.tle"), "no TLE file"),
        (("run", "baseline", "--set", "sky.name=GALILEO"), "GALILEO"),
        (("run", "baseline", "--processes", "--bind", "here"), "address 'here' is neither tcp://HOST:PORT"),
        (("run", "baseline", "--processes", "--bind", "tcp://0.0.0.0:5555"), "cannot listen on tcp://0.0.0.0:5555"),
        (("run", "toy.toml", "--processes", "--seat", "leader=toys:Nobody"), "module toys has no Nobody"),
        (("run", "toy.toml", "--seat", "leader=hold"), "agent.leader.controller 'hold' cannot be built: ValueError"),
        (("run", "toy.toml", "--out", "toy.toml/run"), "run folder toy.toml/run cannot be made"),
        (("passes", "baseline", "--hours", "-1"), "-1"),
        (("passes", "baseline", "--mask-deg", "100"), "100"),
        (("report", "nowhere"), "nowhere is not a run folder: meta.json is missing"),
        (("check", "grady"), "no scenario 'grady'"),
        (("check", "greedy", "--agent", "eu"), "no seat 'eu' in ntn_cell; there are leo, ue"),
        (("control", "greedy", "--agent", "ue", "--connect", "here"), "address 'here' is neither tcp://HOST:PORT"),
        (("control", "grady", "--agent", "ue", "--patience-s", "0.1"), "'grady' is unknown; did you mean greedy"),
        (("fly",), "No such command 'fly'"),
    ],
    ids=lambda value: "-".join(value[:5]) if isinstance(value, tuple) else "",
)
def test_bad_input_is_told_on_stderr_with_exit_code_2(ntn_twin, words, complaint):
    said = ntn_twin(*words)
    assert (said.code, said.out) == (2, "")
    assert complaint in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (TOY + "colour = 'red'", "scenario toy: colour is not a key"),
        (TOY.replace("slots = 12", "slots = = 12"), "scenario toy.toml is not TOML"),
        (TOY.replace("world =", "planet ="), "the key world is missing"),
        ("\x80", "scenario toy.toml is not TOML"),
    ],
    ids=["key", "syntax", "world", "binary"],
)
def test_scenario_file_with_a_mistake_is_told(ntn_twin, tmp_path, text, complaint):
    (tmp_path / "toy.toml").write_text(text, encoding="utf-8")
    said = ntn_twin("run", "toy.toml")
    assert (said.code, said.out) == (2, "")
    assert complaint in said.err
    assert not (tmp_path / "runs").exists()


def a_scenario_with(tle, tmp_path):
    text = (ROOT / "scenarios" / "baseline.toml").read_text().replace("tle/leo-2022-02-22.tle.xz", tle)
    (tmp_path / "mine.toml").write_text(text.replace("slots = 300", "slots = 20"))


def test_compressed_snapshot_cut_short_is_told(ntn_twin, tmp_path):
    (tmp_path / "cut.tle.xz").write_bytes(SNAPSHOT.read_bytes()[:10_000])
    a_scenario_with("cut.tle.xz", tmp_path)
    said = ntn_twin("run", "mine.toml")
    assert (said.code, said.out) == (2, "")
    assert "cut.tle.xz cannot be read: Compressed file ended" in said.err


def test_line_cut_short_is_named_and_the_others_fly(ntn_twin, tmp_path):
    serving = [s for s in read_tle(SNAPSHOT, name="STARLINK") if s.number in (44920, 45188)]
    lines = [line for s in serving for line in (f"0 {s.name}", s.line1, s.line2)]
    (tmp_path / "two.tle").write_text("\n".join([*lines[:5], lines[5][:40]]))
    a_scenario_with("two.tle", tmp_path)
    said = ntn_twin("run", "mine.toml", "--json")
    assert said.code == 0
    assert said.json["slots"] == 20
    assert "line 6" in said.err
    assert "has 40 characters, expected 69" in said.err
    (tmp_path / "two.tle").write_text("\n".join([*lines[:2], lines[2][:40]]))
    said = ntn_twin("run", "mine.toml", "--json", "--out", "other")
    assert (said.code, said.out) == (2, "")
    assert "line 3" in said.err
    assert not (tmp_path / "other").exists()


def test_run_folder_that_exists_is_left_as_it_is(ntn_twin, tmp_path):
    before = ntn_twin("run", "toy.toml", "--out", "run", "--json")
    said = ntn_twin("run", "toy.toml", "--out", "run", "--seed", 9)
    assert (said.code, said.out) == (2, "")
    assert "run folder run exists; a run is never written over" in said.err
    assert "recorded" not in said.err  # nothing was: what is there is another run's
    assert ntn_twin("report", "run", "--json").json == before.json


def test_port_in_use_is_told_and_nothing_is_left(ntn_twin, tmp_path):
    context = zmq.Context()
    taken = context.socket(zmq.REP)
    port = taken.bind_to_random_port("tcp://127.0.0.1")
    try:
        said = ntn_twin("run", "toy.toml", "--seat", "leader=external", "--bind", f"tcp://127.0.0.1:{port}")
    finally:
        taken.close(0)
        context.term()
    assert (said.code, said.out) == (2, "")
    assert f"cannot listen on tcp://127.0.0.1:{port}: Address already in use" in said.err
    assert "--bind" in said.err
    assert not (tmp_path / "runs").exists()


def test_seat_nobody_takes_is_told_with_exit_code_3(ntn_twin):
    seats = ("--seat", "leader=external", "--seat", "follower=external")
    address = free_address()
    said = ntn_twin(
        *("run", "toy.toml", *seats, "--set", "seat_wait_s=0.2", "--bind", address, "--out", "run", "--json")
    )
    assert (said.code, said.out) == (3, "")
    assert "seat 'leader' was not taken within 0.2 s" in said.err
    assert f"--agent leader --connect {address}" in said.err
    assert Record.open("run").meta["ended"] == "broken"


def test_controller_that_finds_no_twin_ends_with_exit_code_3(ntn_twin):
    said = ntn_twin("control", "toys:Echo", "--agent", "leader", "--connect", free_address(), "--patience-s", 0.1)
    assert (said.code, said.out) == (3, "")
    assert "no twin welcomed seat 'leader' within 0.1 s" in said.err


def test_run_that_breaks_its_own_limit_ends_with_exit_code_1(ntn_twin):
    abort = ("--seat", "follower=toys:WrongShape", "--set", "agent.follower.on_miss=abort")
    said = ntn_twin("run", "toy.toml", *abort, "--out", "run", "--json")
    assert (said.code, said.out) == (1, "")
    assert "agent 'follower' missed slot 3 (invalid) and its on_miss is abort" in said.err
    assert "what was recorded is in run" in said.err
    assert Record.open("run")["written"].sum() == 3


# ---- real processes


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("run", "toy.toml", "--json"), 0),
        (("run", "toy.toml", "--seat", "follower=toys:NotANumber", "--set", "agent.follower.on_miss=abort"), 1),
        (("run", "toy.toml", "--set", "colour=red"), 2),
        (("control", "toys:Echo", "--agent", "x", "--connect", "tcp://127.0.0.1:9", "--patience-s", "0.1"), 3),
    ],
    ids=["fine", "broken", "bad input", "nobody there"],
)
def test_exit_code_of_the_process(tmp_path, words, code):
    (tmp_path / "toy.toml").write_text(TOY)
    found, out, err = python(*COMMAND[1:], *words, cwd=tmp_path)
    assert found == code, err
    if code == 0:
        assert json.loads(out)["slots"] == 12
    else:
        assert out == ""
        assert "ntn-twin: " in err.splitlines()[-1]  # a message, and no traceback


@pytest.mark.parametrize(
    ("sign", "more"),
    [(signal.SIGINT, ("--clock", "realtime")), (signal.SIGTERM, ())],
    ids=["Ctrl-C in real time", "SIGTERM in lock-step"],
)
def test_run_that_is_stopped_leaves_a_complete_record_and_no_child(tmp_path, sign, more):
    (tmp_path / "toy.toml").write_text(TOY)
    address, out = free_address(), tmp_path / "run"
    command = (*COMMAND, "run", "toy.toml", "--set", "slots=200000", "--bind", address, "--out", "run", "--json", *more)
    with started(*command, cwd=tmp_path) as twin:
        wait_for(lambda: settled(out, "follower").size > 20, twin)
        if more:
            assert len(controllers_of(address)) == 2
        os.kill(twin.pid, sign)
        code, said, err = ended(twin)
    assert code == 130, err
    record, result = Record.open(out), json.loads(said)
    check_shape(result, int(record["written"].sum()))
    assert record.meta["ended"] == result["ended"] == "interrupted"
    assert result["slots"] > 20
    assert record["written"][: result["slots"]].all()
    assert np.isfinite(record["sum"][: result["slots"]]).all()
    assert controllers_of(address) == []


def test_control_takes_a_seat_from_another_terminal(ntn_twin, tmp_path):
    address = free_address()
    seat = ("--agent", "follower", "--connect", address, "--heartbeat-s", "0.5")
    with started(*COMMAND, "control", "toys:Echo", *seat, cwd=tmp_path) as controller:
        said = ntn_twin("run", "toy.toml", "--seat", "follower=external", "--bind", address, "--out", "run", "--json")
        code, out, err = ended(controller)
    assert (said.code, code, out) == (0, 0, ""), err
    assert "seat 'follower': 12 observations answered" in err
    assert (
        said.json["trajectory_hash"] == ntn_twin("run", "toy.toml", "--out", "here", "--json").json["trajectory_hash"]
    )


@pytest.mark.parametrize(
    "example", ["controller_in_20_lines.py", pytest.param("raw_controller.py", marks=pytest.mark.slow)]
)
def test_quickstart_with_a_controller_from_another_terminal(tmp_path, example):
    pytest.importorskip("torch", reason="the quickstart's other controller needs the extra `learn`")
    address = free_address()
    command = (*COMMAND, "run", "quickstart", "--seat", "ue=external", "--set", "slots=40", "--rt-factor", "2")
    with (
        started(sys.executable, EXAMPLES / example, address, cwd=tmp_path) as controller,
        started(*command, "--bind", address, "--out", "run", "--json", cwd=tmp_path) as twin,
    ):
        code, out, err = ended(twin)
        assert code == 0, err
        code, said, _ = ended(controller)
    assert code == 0
    assert said.endswith("observations answered\n")
    result = json.loads(out)
    check_shape(result, 40)
    assert result["agents"]["ue"]["cycles"] == 40
    assert result["agents"]["ue"]["on_time"] >= 20  # all of them on an idle machine
    assert Record.open(tmp_path / "run").meta["ended"] == "finished"


def test_controller_killed_in_mid_run_leaves_a_complete_record_with_its_misses(tmp_path):
    address, out = free_address(), tmp_path / "run"
    command = (*COMMAND, "run", "quickstart", "--seat", "leo=greedy", "--seat", "ue=external", "--set", "slots=100")
    with (
        started(sys.executable, EXAMPLES / "raw_controller.py", address, cwd=tmp_path) as controller,
        started(*command, "--rt-factor", "5", "--bind", address, "--out", out, "--json", cwd=tmp_path) as twin,
    ):
        wait_for(lambda: np.count_nonzero(settled(out, "ue") == 1) >= 20, twin)
        controller.kill()
        controller.wait()
        answered = settled(out, "ue").size
        code, said, err = ended(twin)
    assert code == 0, err
    result, record = json.loads(said), Record.open(out)
    check_shape(result, 100)
    assert record.meta["ended"] == "finished"
    assert record["written"].all()
    assert np.isfinite(record["rate_bps"]).all()
    status, source = (record.decisions["ue"][name] for name in ("status", "source"))
    assert status.all()
    assert (status[answered + 1 :] == 2).all()  # missing; the cycle in which it died may have gone either way
    assert (source[answered + 1 :] == 2).all()  # the last answer held
    assert 0 < result["agents"]["ue"]["misses"] == np.count_nonzero(status != 1)
    assert "vacant" in [e["event"] for e in record.events]
    assert latency.report(record)["ue"].longest_miss_run >= 100 - answered - 1
    assert result["agents"]["leo"]["on_time"] > 0
