"""One program on three clocks: the quickstart gives the same trajectory in this process, in processes, in real time.

Real time is wall-clock time on a machine that others use too: a run with misses rightly differs, so the claim is made
of the first of up to five runs whose record shows none.
"""

import numpy as np
import pytest

import hil
from twin import load, run

pytest.importorskip("torch", reason="the quickstart's controllers need the extra `learn`")

pytestmark = pytest.mark.usefixtures("no_child_left")

LEARN = {"agent.leo.learn": True, "agent.ue.learn": True}
FIXED = {"agent.leo.learn": False, "agent.ue.learn": False}
RUNS = 5


def the_same(one, other):
    """Equal hashes; where they are not, the first measure and slot that tell them apart are in the message."""
    for name, column in one.slots.items():
        differs = np.flatnonzero([not np.array_equal(a, b, equal_nan=True) for a, b in zip(column, other[name])])
        assert differs.size == 0, f"{name} differs from slot {differs[0]} on: {column[differs[0]]}"
    assert one.meta["trajectory_hash"] == other.meta["trajectory_hash"]


def without_misses(scenario, folder):
    """The first real-time run in which every answer and every update came in time."""
    misses = []
    for attempt in range(RUNS):
        record = hil.run(scenario, "realtime", folder / str(attempt))
        agents = hil.report(record).agents.values()
        misses.append(sum(agent.misses + agent.learning_misses for agent in agents))
        if misses[-1] == 0:
            return record
    pytest.skip(f"{RUNS} runs in real time had {misses} misses: this machine is too busy to claim anything")


def test_processes_give_the_trajectory_of_this_process_while_learning(tmp_path):
    scenario = load("quickstart", {"slots": 60, **LEARN})
    here, there = run(scenario, tmp_path / "here"), hil.run(scenario, "lockstep", tmp_path / "there")
    the_same(here, there)
    for agent in ("leo", "ue"):
        np.testing.assert_array_equal(here.decisions[agent]["weights"], there.decisions[agent]["weights"])
        assert here.decisions[agent]["weights"].max() > 0  # something was learned


def test_real_time_without_misses_is_the_lock_step_run(tmp_path):
    scenario = load("quickstart", {"slots": 60, "rt_factor": 5.0, **FIXED})
    the_same(run(scenario, tmp_path / "lockstep"), without_misses(scenario, tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_real_time_without_misses_is_the_lock_step_run_while_learning(tmp_path):
    scenario = load("quickstart", {"slots": 100, **LEARN})
    lockstep = run(scenario, tmp_path / "lockstep")
    assert lockstep.decisions["ue"]["weights"].max() > 0
    the_same(lockstep, without_misses(scenario, tmp_path))
