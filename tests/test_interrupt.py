"""Ctrl-C never leaves anything half done, and always ends what it should."""

import os
import signal
import subprocess
import threading

import pytest
import toys

import hil
from hil.gate import Gate
from twin import Record, run
from twin.interrupt import held_back


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def _as_at_a_terminal():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_first_one_waits_until_it_is_asked_for_and_the_second_does_not():
    with pytest.raises(KeyboardInterrupt), held_back() as check:  # noqa: PT012, where it is raised is the point
        check()
        ctrl_c()
        check()
    reached = []
    with pytest.raises(KeyboardInterrupt), held_back():  # noqa: PT012
        ctrl_c()
        reached.append(1)
        ctrl_c()
        reached.append(2)
    assert reached == [1]


def test_one_that_came_in_the_last_moment_is_not_lost_and_the_handler_is_put_back():
    with pytest.raises(KeyboardInterrupt), held_back():
        ctrl_c()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_nothing_is_held_back():
    told = []
    thread = threading.Thread(target=lambda: told.append(held_back().__enter__()))
    thread.start()
    thread.join()
    assert told[0]() is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("processes", [False, True])
def test_interrupted_run_is_whole_up_to_its_last_slot_and_replays(tmp_path, processes):
    def watch(slot, outcome, tally):
        if slot == 6:
            ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        hil.run(toys.scenario(slots=1000), "lockstep", tmp_path / "run", watch=watch, processes=processes)
    record = Record.open(tmp_path / "run")
    assert record.meta["ended"] == "interrupted"
    assert record["written"].sum() == 7
    assert hil.replay(tmp_path / "run").same


@pytest.mark.parametrize("processes", [False, True])
def test_paused_run_ends_with_the_first_one(tmp_path, processes):
    gate = Gate(paused=True)
    pause, release = threading.Timer(1.5, ctrl_c), threading.Timer(20.0, gate.resume)
    pause.start()
    release.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            hil.run(toys.scenario(slots=1000), "lockstep", tmp_path / "run", processes=processes, gate=gate)
    finally:
        release.cancel()
    assert gate.paused
    assert Record.open(tmp_path / "run").meta["ended"] == "interrupted"


def test_process_that_is_just_being_started_is_not_left_behind(tmp_path, monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *what, **how):
            super().__init__(*what, **how)
            started.append(self)
            ctrl_c()

    monkeypatch.setattr("hil.launch.subprocess.Popen", Interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            hil.run(toys.scenario(), "lockstep", tmp_path / "run")
        assert len(started) == 1
        assert started[0].poll() is not None
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_controller_that_never_comes_back_is_stopped_by_the_second_one(tmp_path):
    class Endless:
        def __init__(self, agent, seed):
            pass

        def act(self, seen):
            ctrl_c()
            ctrl_c()
            raise AssertionError("unreachable")

    toys.Endless = Endless
    try:
        with pytest.raises(KeyboardInterrupt):
            run(toys.scenario(("Echo", "Endless")), tmp_path / "run")
    finally:
        del toys.Endless
    assert Record.open(tmp_path / "run").meta["ended"] == "interrupted"
