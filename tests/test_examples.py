"""Every example runs as its first lines say, and prints what stands in the .out beside it."""

import json
import sys

import numpy as np
import pytest
from terminal import COMMAND, EXAMPLES, ended, free_address, python, started, timeless

from twin import Action, Record, load, run

CONTROLLERS = ("controller_in_20_lines.py", "raw_controller.py")
IN_OTHER_LANGUAGES = ("controller.c", "controller.js")  # tests/test_languages.py runs them; they print the same


class FollowsTheSatellite:
    """What raw_controller.py does, as a class: the beam where the satellite is, all groups that are reserved."""

    def __init__(self, agent, seed):
        pass

    def act(self, seen):
        return Action({"rx_beam_deg": seen.values["predicted_beam_deg"], "used_rb": seen.values["reserved_rb"]})


def expected(example):
    return (EXAMPLES / example).with_suffix(".out").read_text()


def test_every_example_has_its_output_beside_it():
    examples = {path for path in EXAMPLES.iterdir() if path.suffix in (".py", ".c", ".js")}
    assert {path.stem for path in examples} == {path.stem for path in EXAMPLES.glob("*.out")}
    assert {path.name for path in examples} == {"lockstep.py", "latency_report.py", *CONTROLLERS, *IN_OTHER_LANGUAGES}


def test_lockstep_prints_what_is_beside_it(tmp_path):
    code, out, err = python(EXAMPLES / "lockstep.py", cwd=tmp_path)
    assert (code, out) == (0, expected("lockstep.py")), err
    assert len(list((tmp_path / "runs").iterdir())) == 3


def test_latency_report_prints_what_is_beside_it_but_for_the_times(tmp_path):
    for _ in range(3):  # a busy machine may miss a deadline, and the example says so
        code, out, err = python(EXAMPLES / "latency_report.py", cwd=tmp_path)
        assert code == 0, err
        if timeless(out) == expected("latency_report.py"):
            break
    assert timeless(out) == expected("latency_report.py")
    (folder, *_) = (tmp_path / "runs").iterdir()
    code, out, _ = python(EXAMPLES / "latency_report.py", folder, cwd=tmp_path)
    assert code == 0
    assert "ue: 40 cycles" in out


@pytest.mark.parametrize("example", CONTROLLERS)
def test_controller_takes_its_seat_and_prints_what_is_beside_it(tmp_path, example):
    """In lock-step, and with the trajectory of the same policy as a class in the twin's own process."""
    address = free_address()
    twin = (*COMMAND, "run", "baseline", "--set", "slots=60", "--seat", "ue=external", "--bind", address, "--json")
    with (
        started(sys.executable, EXAMPLES / example, address, cwd=tmp_path) as controller,
        started(*twin, "--out", "there", cwd=tmp_path) as twin,
    ):
        code, out, err = ended(twin)
        assert code == 0, err
        code, said, err = ended(controller)
        assert (code, said) == (0, expected(example)), err
    there = json.loads(out)
    assert there["agents"]["ue"]["on_time"] == 60
    policy = {
        "raw_controller.py": "test_examples:FollowsTheSatellite",
        "controller_in_20_lines.py": "controller_in_20_lines:Thrifty",
    }[example]
    sys.path.insert(0, str(EXAMPLES))
    try:
        here = run(load("baseline", {"slots": 60, "agent.ue.controller": policy}), tmp_path / "here")
    finally:
        sys.path.remove(str(EXAMPLES))
    assert there["trajectory_hash"] == here.meta["trajectory_hash"]
    np.testing.assert_array_equal(
        Record.open(tmp_path / "there").decisions["ue"]["action.used_rb"], here.decisions["ue"]["action.used_rb"]
    )


def test_thrifty_controller_uses_fewer_groups_than_all_that_are_reserved(tmp_path):
    sys.path.insert(0, str(EXAMPLES))
    try:
        record = run(
            load("baseline", {"slots": 60, "agent.ue.controller": "controller_in_20_lines:Thrifty"}), tmp_path / "run"
        )
    finally:
        sys.path.remove(str(EXAMPLES))
    used = record["used_rb"].sum(axis=1)
    assert used[0] == 5  # nothing was heard yet
    assert 1 <= np.median(used) < 5
    assert record["served_bps"].sum() > 0.8 * record["demand_bps"].sum()


def test_raw_controller_imports_nothing_of_ours():
    imported = [line for line in (EXAMPLES / "raw_controller.py").read_text().splitlines() if line.startswith("import")]
    assert imported == ["import sys", "import msgspec", "import zmq"]
