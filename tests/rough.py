"""What the tests of survival need: a world that ends when told, light controllers, and what a process holds."""

import contextlib
import os
import random
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import light
import msgspec
import numpy as np
import toys

from hil import report
from twin import Field, Record
from twin.errors import RecordError
from twin.record import SOURCES, STATUSES
from twin.scenario import resolve

HERE = Path(__file__).resolve().parent
LIMIT_S = 60.0


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """until: a file; the run is over when it is there. picture: bytes of each observation beside its numbers."""

    until: str = ""
    picture: int = 0


class World(toys.TwoTier):
    """The toy world, as long as it is wanted and as heavy."""

    def __init__(self, settings, *, slots, slot_s, folder, agents):
        leader, follower = (getattr(agents.get(name), "delay", None) or 0 for name in ("leader", "follower"))
        super().__init__(2, follower, leader, slot_s)
        self.until, self.picture = settings.until, np.zeros(settings.picture, "uint8")
        if settings.picture:
            seen = (Field("picture", (settings.picture,), "uint8"),)
            self.agents = tuple(replace(a, observes=a.observes + seen) for a in self.agents)

    def observe(self, agent):
        seen = super().observe(agent)
        return {**seen, "picture": self.picture.copy()} if self.picture.size else seen

    def step(self):
        outcome = super().step()
        done = bool(self.until) and self.slot % 10 == 0 and os.path.exists(self.until)
        return outcome._replace(done=done)


def scenario(slots=1000, slot_s=0.02, until="", picture=0, controllers=("external", "external"), **keys):
    """The rough world with whoever comes on its seats."""
    names = [c if c == "external" else f"toys:{c}" for c in controllers]
    agents = {name: {"controller": c, **keys.pop(name, {})} for name, c in zip(("leader", "follower"), names)}
    world = {"world": "rough:World", "slots": slots, "slot_s": slot_s, "seed": 3, "until": str(until)}
    return resolve({**world, "picture": picture, "agent": agents, **keys}, name="rough")


@contextmanager
def seated(address, agent, how="plain", alone_s=light.ALONE_S, command=(), out=subprocess.DEVNULL):
    """A light controller on a seat, or another command; ended when the test is done with it."""
    command = command or (sys.executable, str(HERE / "light.py"), address, agent, how, str(alone_s))
    with running(command, out) as process:
        yield process


@contextmanager
def running(command, out=subprocess.DEVNULL):
    """A process, ended when the test is done with it."""
    process = subprocess.Popen([*command], stdout=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


class Restarted(threading.Thread):
    """Kills the controller of a seat at random times and starts it again, `times` times; then makes a file."""

    def __init__(self, address, agent, times, done, how="plain", seed=1, most_s=0.25):
        super().__init__(daemon=True)
        self.address, self.agent, self.times, self.done, self.how = address, agent, times, Path(done), how
        self.most_s, self.random, self.kills, self.over = most_s, random.Random(seed), 0, threading.Event()

    def run(self):
        try:
            while self.kills < self.times and not self.over.is_set():
                with seated(self.address, self.agent, self.how):
                    self.over.wait(self.random.uniform(0.0, self.most_s))
                self.kills += 1
            with seated(self.address, self.agent, self.how) as process:
                self.over.wait(0.5)
                self.done.touch()
                process.wait(LIMIT_S)
        finally:
            self.done.touch()


def status_of(record, agent="follower"):
    """The words of the cycles that were settled."""
    return [STATUSES[i] for i in record.decisions[agent]["status"] if i]


def settled(folder, agent):
    """How many cycles of a run, which may be going on, were settled so far."""
    try:
        return int(np.count_nonzero(np.load(Path(folder) / "decisions" / agent / "status.npy", mmap_mode="r")))
    except (OSError, ValueError, EOFError):  # it is being made
        return 0


def check_cycles(record, agent="follower", every=1, expected=light.number):
    """Each cycle is told as it was: a right answer is the only one that is on time, what is missed holds the last."""
    columns, slots = record.decisions[agent], int(np.count_nonzero(record["written"]))
    assert record["written"][:slots].all()
    cycles = -(-slots // every)
    status, source, number = (np.asarray(columns[key]) for key in ("status", "source", "action.number"))
    assert (status[:cycles] > 0).all()
    assert not status[cycles + 1 :].any()
    on_time = status[:cycles] == STATUSES.index("on_time")
    np.testing.assert_array_equal(source[:cycles] == SOURCES.index("agent"), on_time)
    right = np.array([expected(slot) for slot in range(0, cycles * every, every)])
    in_force = -1.0  # the world's default
    for row in range(cycles):
        in_force = right[row] if on_time[row] else in_force
        assert number[row] == in_force, (row, status[row], number[row], in_force)
    return int(on_time.sum()), cycles


def of_status(pid, key):
    """A number of /proc/PID/status: kB of memory (RssAnon), Threads."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise KeyError(key)


def descriptors(pid="self"):
    """How many descriptors a process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def command_of(pid):
    """The words a process was started with."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def sockets(pid="self"):
    """How many descriptors of it are sockets or belong to them."""
    held = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            held += os.readlink(f"/proc/{pid}/fd/{fd}").startswith(("socket:", "anon_inode:[event"))
        except OSError:
            continue
    return held


def wait_for(condition, limit_s=LIMIT_S):
    """Until the condition holds; fails when it does not in time."""
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def children_of(pid):
    """Process ids of what a process started and did not clear away."""
    listed = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if not line.split()[1].startswith("ps")]


@contextmanager
def urgent():
    """Runs at real-time priority what is within, and the processes it starts; says whether that is permitted here."""
    before = os.sched_getscheduler(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
    except (OSError, AttributeError):
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, before, os.sched_param(0))


def check_killed(folder, every=2):
    """What a killed twin left can be read, has no gaps, and tells one story; the slots it wrote, and the record.

    None when it was killed before there was a run.
    """
    try:
        record = Record.open(folder)
    except RecordError:
        assert not (Path(folder) / "meta.json").exists()
        return None, None
    told = report(record)
    written = np.asarray(record.slots["written"]) if "written" in record.slots else np.zeros(0, bool)
    slots = int(written.sum())
    assert told.slots == slots
    assert written[:slots].all()
    for name, cycle in (("leader", every), ("follower", 1)):
        columns = record.decisions[name]
        status = np.asarray(columns["status"])
        settled, asked = int(np.count_nonzero(status)), -(-slots // cycle)
        assert (status[:settled] > 0).all()
        assert settled in (asked, asked + 1)  # rows are written in the order of the loop, each at once
        assert told[name].cycles == settled
        right = [light.number(row * cycle) for row in range(settled)]
        on_time = status[:settled] == STATUSES.index("on_time")
        np.testing.assert_array_equal(columns["action.number"][:settled][on_time], np.array(right)[on_time])
        assert (np.asarray(columns["sent_ns"])[:settled] > 0).all()
    if slots:
        assert np.isfinite(record["sum"][:slots]).all()
        np.testing.assert_array_equal(record["pair"][:slots].sum(axis=1), record["sum"][:slots])
    return slots, record


def fill(place):
    """Leave no room on a disk."""
    with contextlib.suppress(OSError), open(Path(place) / "rubbish", "wb", buffering=0) as rubbish:
        while True:
            rubbish.write(bytes(1024))
    with contextlib.suppress(OSError), open(Path(place) / "rubbish", "ab", buffering=0) as rubbish:
        while True:
            rubbish.write(b"0")


class Match:
    """Equals every text in which a pattern is found."""

    def __init__(self, pattern):
        self.pattern = pattern

    def __eq__(self, text):
        return re.search(self.pattern, text) is not None

    def __repr__(self):
        return f"Match({self.pattern!r})"
