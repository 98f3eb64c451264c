"""What a run survives: killed and stopped controllers, a killed twin, floods, full disks, watchers that never read.

The fast variants run with every test; the full-size ones are slow. Nothing here hangs, nothing is lost silently.
"""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import rough
import toys
import zmq

import hil
from twin import Record
from twin.errors import RecordError

pytestmark = pytest.mark.usefixtures("no_child_left")


def slow(*values, limit_s=600):
    """A case that only `make test` runs."""
    return pytest.param(*values, marks=[pytest.mark.slow, pytest.mark.timeout(limit_s)])


# a controller that is killed


@pytest.mark.parametrize(
    ("clock", "how", "times"),
    [
        ("lockstep", "plain", 5),
        ("realtime", "past", 5),
        *(slow(clock, how, 200) for clock in ("lockstep", "realtime") for how in ("plain", "past")),
    ],
)
def test_controller_killed_at_random_times_costs_its_own_cycles_only(tmp_path, nothing_left, clock, times, how):
    address, done = f"ipc://{tmp_path}/twin", tmp_path / "done"
    slots = 2000 + 500 * times
    scenario = rough.scenario(slots, slot_s=0.005, until=done, max_lag_s=10.0)
    killer = rough.Restarted(address, "follower", times, done, how)
    tallies = {}

    def slowly(slot, outcome, tally):
        lost, tallies["lost"] = tally["follower"]["missing"] > tallies.get("lost", 0), tally["follower"]["missing"]
        if clock == "lockstep" and lost:
            time.sleep(0.002)  # nobody is waited for: the run would be over before the next one sits

    killer.start()
    with rough.seated(address, "leader"):
        record = hil.run(scenario, clock, tmp_path / "run", bind=address, watch=slowly)
    killer.over.set()
    killer.join(10)
    assert killer.kills == times
    assert record.meta["ended"] == "finished"
    on_time, cycles = rough.check_cycles(record)
    rough.check_cycles(record, "leader", every=2)
    report = hil.report(Record.open(tmp_path / "run"))["follower"]
    assert (report.on_time, report.misses) == (on_time, cycles - on_time)
    counts = record.meta["messages"]["follower"]
    print(f"{clock} {how}: {times} kills, {cycles} cycles, {report.statuses}, {counts}")
    assert counts["seated"] == counts["vacated"] + 1
    assert 1 <= counts["seated"] <= times + 1
    assert on_time > 0


# a controller that is stopped, and goes on


@pytest.mark.parametrize(
    ("clock", "how"),
    [("lockstep", "light"), ("realtime", "python"), slow("lockstep", "python"), slow("realtime", "light")],
)
def test_stopped_controller_misses_while_it_is_stopped_and_recovers(tmp_path, nothing_left, clock, how):
    address, done, stops = f"ipc://{tmp_path}/twin", tmp_path / "done", 3
    scenario = rough.scenario(5000, slot_s=0.02, until=done, patience_s=0.1, max_lag_s=10.0)
    asleep = []  # wall time of each stop, monotonic ns

    def stopping():
        try:
            rough.wait_for(lambda: rough.settled(tmp_path / "run", "follower") > 20)
            for _ in range(stops):
                asleep.append([time.monotonic_ns()])
                process.send_signal(signal.SIGSTOP)
                time.sleep(0.4)
                process.send_signal(signal.SIGCONT)
                asleep[-1].append(time.monotonic_ns())
                time.sleep(0.4)
        finally:
            done.touch()

    command = [sys.executable, "-m", "hil", "toys:Counts", "follower", address]
    with (
        rough.seated(address, "leader"),
        rough.seated(address, "follower", command=command if how == "python" else ()) as process,
    ):
        stopper = threading.Thread(target=stopping)
        stopper.start()
        record = hil.run(scenario, clock, tmp_path / "run", bind=address)
        stopper.join()
    rough.check_cycles(record)
    on_time, leader = rough.check_cycles(record, "leader", every=2)
    columns, sent = record.decisions["follower"], np.asarray(record.decisions["follower"]["sent_ns"])
    status = rough.status_of(record)
    counts = record.meta["messages"]["follower"]
    print(f"{clock} {how}: {hil.report(record)['follower'].statuses}, leader {on_time} of {leader}, {counts}")
    assert (counts["seated"], counts["vacated"]) == (1, 0)  # it is there, if slow
    for begin, end in asleep:
        due = np.asarray(columns["due_ns"])[: len(status)]
        over = due if clock == "realtime" else sent[: len(status)] + 10**8
        within = [s for s, at, by in zip(status, sent, over) if begin + 10**7 < at and by < end]
        assert set(within) <= {"missing", "late"}
        assert len(within) >= (5 if clock == "realtime" else 1)
        after = [s for s, at in zip(status, sent) if end + 10**8 < at < end + 35 * 10**7]
        assert after.count("on_time") > len(after) / 2  # a busy machine may cost it one here and there
    assert status[-1] == "on_time" or clock == "realtime"


# a twin that is killed

TWIN = """
import sys, hil, rough
keys = dict(slots={slots}, slot_s=0.005, controllers={controllers!r}, max_lag_s=10.0)
hil.run(rough.scenario(**keys), {clock!r}, {folder!r}, bind={address!r})
"""


def controllers_at(address):
    """Process ids of controllers of a twin at this address, whoever started them."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if address in line and " -c " not in line]


A_FEW = [
    ("create", "lockstep", "crew", 1),
    ("fly", "realtime", "light", 1),
    ("fly", "lockstep", "served", 1),
    ("close", "realtime", "crew", 1),
]
MANY = [
    slow(when, clock, who, 5)
    for when in ("create", "fly", "close")
    for clock in ("lockstep", "realtime")
    for who in ("crew", "light", "served")
]


@pytest.mark.parametrize(("when", "clock", "who", "times"), A_FEW + MANY)
def test_killed_twin_leaves_a_record_without_gaps_and_no_orphan(tmp_path, when, clock, who, times):
    rng = random.Random(f"{when} {clock} {who}")
    for attempt in range(times):
        folder, address = tmp_path / str(attempt), f"ipc://{tmp_path}/twin{attempt}"
        asked, left_s = killed_twin(folder, address, when, clock, who, rng)
        slots, record = rough.check_killed(folder)
        lost = max(asked) - slots if asked and slots and record.meta["ended"] == "running" else 0
        print(f"{when} {clock} {who}: written {slots}, lost {lost} slots, controllers gone after {left_s:.2f} s")
        assert lost <= 20  # 1 where the twin has time to write; where it has none, rows wait
        if when == "fly":
            assert slots >= 9
            assert record.meta["ended"] == "running"


def killed_twin(folder, address, when, clock, who, rng):
    """Kill a twin; the slots its light controllers were asked about last, and after how many s all had left."""
    slots = {"create": 20_000, "fly": 50_000, "close": 100}[when]
    controllers = ("Counts", "Counts") if who == "crew" else ("external", "external")
    script = TWIN.format(slots=slots, controllers=controllers, clock=clock, folder=str(folder), address=address)
    with contextlib.ExitStack() as seats:
        twin = seats.enter_context(rough.running([sys.executable, "-c", script]))
        outside = []
        for agent in ("leader", "follower") if who != "crew" else ():
            command = (sys.executable, "-m", "hil", "toys:Counts", agent, address) if who == "served" else ()
            how = {"alone_s": 1.0, "command": command, "out": subprocess.PIPE}
            outside.append(seats.enter_context(rough.seated(address, agent, **how)))
        if when == "create":
            rough.wait_for(folder.exists)
            time.sleep(rng.uniform(0.0, 0.1))
        elif when == "fly":
            rough.wait_for(lambda: rough.settled(folder, "follower") > 10)
            time.sleep(rng.uniform(0.0, 0.5))
        else:
            rough.wait_for(lambda: rough.settled(folder, "follower") >= slots - 1)
            time.sleep(rng.uniform(0.0, 0.01))
        twin.kill()
        killed = time.monotonic()
        twin.wait()
        if who == "served" and when == "create":  # nobody they ever heard of: they would wait for a minute
            for each in outside:
                each.kill()
        rough.wait_for(lambda: not controllers_at(address), limit_s=10)
        left_s = time.monotonic() - killed
        return [int(each.communicate()[0]) for each in outside if who == "light"], left_s


# a full disk

FULL = """
import resource, sys, threading, hil, rough
from twin.errors import TwinError
if {limit}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
scenario = rough.scenario({slots}, slot_s=0.005, controllers={controllers!r}, max_lag_s=10.0, until={until!r})
def say(text):
    if text.startswith("starting"):
        print(text, flush=True)
try:
    hil.run(scenario, {clock!r}, {folder!r}, say=say)
except TwinError as error:
    print(type(error).__name__, error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, 600 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def flown_until_full(folder, limit=0, slots=1000, clock="lockstep", controllers=("Counts", "Counts"), until=""):
    """A twin in a process of its own, whose disk is or will be full."""
    script = FULL.format(
        limit=limit, slots=slots, clock=clock, controllers=controllers, folder=str(folder), until=str(until)
    )
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(process):
    """Exit code and error text of a twin that ends by itself; none of its children is left."""
    pid = process.pid
    _, error = process.communicate(timeout=rough.LIMIT_S)
    rough.wait_for(lambda: not rough.children_of(pid), limit_s=10)
    return process.returncode, error


def test_disk_that_is_full_before_the_run_ends_it_with_words(small_disk):
    assert told(flown_until_full(small_disk / "run", slots=20_000)) == (
        2,
        rough.Match(r"RecordError .*no room for decisions/.*No space left"),
    )
    with pytest.raises(RecordError, match=r"meta\.json is missing"):
        Record.open(small_disk / "run")


def test_disk_that_fills_before_the_slots_have_their_columns_ends_the_run_with_words(
    small_disk, monkeypatch, nothing_left
):
    prepare = Record.prepare

    def too_late(record, outcome):
        rough.fill(small_disk)
        prepare(record, outcome)

    monkeypatch.setattr(Record, "prepare", too_late)
    with pytest.raises(RecordError, match=r"no room for slots/written: .*No space left"):
        hil.run(toys.scenario(slots=200), "lockstep", small_disk / "run")
    record = Record.open(small_disk / "run")
    assert record.meta["ended"] == "broken"
    assert hil.report(record).slots == 0


INVALID, SIGNALS = (("Counts", "Wild"), "events.jsonl"), (("Echo", "Counts"), "signals.bin")


@pytest.mark.parametrize(
    ("clock", "controllers", "file"),
    [
        ("lockstep", *SIGNALS),
        ("realtime", *INVALID),
        slow("lockstep", *INVALID),
        slow("realtime", *SIGNALS),
    ],
)
def test_file_that_cannot_grow_in_flight_ends_the_run_in_order(tmp_path, clock, controllers, file):
    folder = tmp_path / "run"
    code, error = told(flown_until_full(folder, 20_000, 1000, clock, controllers))
    assert (code, error) == (2, rough.Match(rf"RecordError .*{file} cannot be written: .*File too large"))
    record = Record.open(folder)
    assert record.meta["ended"] == "broken"
    assert file in record.meta["why"]
    slots = int(record["written"].sum())
    assert slots > 50
    assert record["written"][:slots].all()
    assert hil.report(record).slots == slots
    missing = int((np.asarray(record.decisions["follower"]["status"])[:slots] == 0).sum())
    missing += int((np.asarray(record.decisions["leader"]["status"])[: -(-slots // 2)] == 0).sum())
    assert missing <= record.meta["lost_rows"] <= 20
    print(f"{clock} {file}: {slots} slots written, {record.meta['lost_rows']} rows lost")


def test_disk_that_is_full_at_the_end_keeps_how_the_run_ended(small_disk, tmp_path):
    until = tmp_path / "until"
    process = flown_until_full(small_disk / "run", slots=1000, clock="realtime", until=until)
    rough.wait_for(lambda: rough.settled(small_disk / "run", "follower") > 20)
    rough.fill(small_disk)
    until.touch()
    assert told(process) == (0, "")
    record = Record.open(small_disk / "run")
    assert record.meta["ended"] == "finished"
    assert record.meta["trajectory_hash"]
    assert (small_disk / "run" / "meta.json.new").exists() is False


def test_disk_on_which_even_the_end_cannot_be_told_is_an_error_with_words(small_disk, tmp_path, monkeypatch):
    allocate = os.posix_fallocate
    monkeypatch.setattr("twin.record.LAST_WORDS_BYTES", 1)
    monkeypatch.setattr(os, "posix_fallocate", lambda fd, at, n: allocate(fd, at, n) if n > 1 else None)
    scenario = toys.scenario(slots=50)

    def fill(slot, outcome, tally):
        if slot == 40:
            rough.fill(small_disk)

    with pytest.raises(RecordError, match=r"meta.json cannot be written: .*No space left") as caught:
        hil.run(scenario, "lockstep", small_disk / "run", watch=fill, processes=False)
    assert caught.value.exit_code == 2
    record = Record.open(small_disk / "run")
    assert record.meta["ended"] == "running"
    assert record["written"].all()
    assert hil.report(record).slots == 50


# watchers


def watcher(address, topic="", reads=False):
    """A process that subscribes, and never reads, or reads for ever."""
    script = (
        "import sys, time, zmq\n"
        "sub = zmq.Context().socket(zmq.SUB)\n"
        "sub.setsockopt(zmq.RCVHWM, 1)\n"
        f"sub.subscribe({topic!r})\n"
        f"sub.connect({address + '.out'!r})\n"
        + ("while sub.recv_multipart(): pass\n" if reads else "time.sleep(3600)\n")
    )
    return rough.running([sys.executable, "-c", script])


class Held:
    """What the twin and others hold while a run flies: samples of anonymous memory in kB, descriptors, threads."""

    def __init__(self, every, pids=None):
        self.every, self.pids, self.samples = every, pids or list, {}

    def watch(self, slot, outcome, tally):
        if slot % self.every == 0:
            for pid in (os.getpid(), *self.pids()):
                held = rough.of_status(pid, "RssAnon"), rough.descriptors(pid), rough.of_status(pid, "Threads")
                self.samples.setdefault(pid, []).append(held)

    def growth(self):
        """By process: kB of a straight line through the samples after a quarter of them, and what else there was."""
        grown = {}
        for pid, samples in self.samples.items():
            memory, descriptors, threads = np.array(samples)[len(samples) // 4 :].T
            x = np.arange(memory.size)
            grown[pid] = float(np.polyfit(x, memory, 1)[0] * memory.size), set(descriptors), set(threads)
        return grown


@pytest.mark.parametrize("slots", [400, slow(5000)])
def test_watcher_that_never_reads_costs_a_bounded_memory_and_nobody_a_message(tmp_path, nothing_left, slots):
    address, held = f"ipc://{tmp_path}/twin", Held(20)
    scenario = rough.scenario(slots, picture=500_000)
    with rough.seated(address, "leader"), rough.seated(address, "follower"), watcher(address), watcher(address):
        record = hil.run(scenario, "lockstep", tmp_path / "run", bind=address, watch=held.watch)
    assert rough.check_cycles(record) == (slots, slots)
    assert rough.check_cycles(record, "leader", every=2)[0] == slots // 2
    memory = [kilobytes for kilobytes, _, _ in held.samples[os.getpid()]]
    print(f"{slots} slots of 0.5 MB: {memory[0]} to {max(memory)} kB")
    assert max(memory) - memory[0] < 100_000  # 1,000 messages, the limit without regard to their size, are 500 MB


def test_watchers_that_come_and_go_change_nothing(tmp_path, nothing_left):
    address, done = f"ipc://{tmp_path}/twin", tmp_path / "done"
    scenario = rough.scenario(100_000, until=done)

    def visit():
        context = zmq.Context()
        try:
            rough.wait_for(lambda: rough.settled(tmp_path / "run", "follower") > 20)
            for visit in range(100):
                watcher = context.socket(zmq.SUB)
                watcher.subscribe(["", "twin.", "follower.", "follower.obs"][visit % 4])
                watcher.connect(f"{address}.out")
                watcher.poll(20)
                watcher.close(0)
        finally:
            context.term()
            done.touch()

    visitor = threading.Thread(target=visit)
    visitor.start()
    with rough.seated(address, "leader"), rough.seated(address, "follower"):
        record = hil.run(scenario, "lockstep", tmp_path / "run", bind=address)
    visitor.join()
    on_time, cycles = rough.check_cycles(record)
    assert on_time == cycles
    counts = record.meta["messages"]["follower"]
    assert (counts["seated"], counts["vacated"]) == (1, 0)


@pytest.mark.parametrize("slots", [5_000, slow(1_000_000, limit_s=1800)])
def test_long_run_holds_no_more_at_its_end_than_at_its_beginning(tmp_path, nothing_left, slots):
    address = f"ipc://{tmp_path}/twin"
    scenario = rough.scenario(slots, controllers=("Counts", "external"))
    with (
        rough.seated(address, "follower") as follower,
        watcher(address, "twin.slot", reads=True) as reader,
        watcher(address) as sleeper,
    ):
        crew = []

        def pids():
            crew[:] = crew or [pid for pid in controllers_at(address) if "toys:Counts" in rough.command_of(pid)]
            return (*crew, follower.pid, reader.pid, sleeper.pid)

        held = Held(slots // 100, pids)
        begun = time.monotonic()
        record = hil.run(scenario, "lockstep", tmp_path / "run", bind=address, watch=held.watch)
        took = time.monotonic() - begun
    assert rough.check_cycles(record) == (slots, slots)
    names = dict(
        zip((os.getpid(), *crew, follower.pid, reader.pid, sleeper.pid), ("twin", "host", "light", "reader", "sleeper"))
    )
    for pid, (grown, descriptors, threads) in held.growth().items():
        last = held.samples[pid][-1]
        print(f"{names[pid]}: {grown:+.0f} kB in {slots} slots ({took:.0f} s), {last[0]} kB, {descriptors}, {threads}")
        assert grown < 5000
        assert len(descriptors) == len(threads) == 1
    assert len(held.samples) == 5


# a process that holds much already


def test_run_flies_in_a_process_that_holds_a_thousand_files(tmp_path, nothing_left):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"only {hard} files may be open here")
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
        held = [open(os.devnull) for _ in range(1100)]  # noqa: SIM115
        record = hil.run(toys.scenario(slots=30), "realtime", tmp_path / "run")
    finally:
        for each in held:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert record.meta["ended"] == "finished"
    assert rough.status_of(record).count("on_time") > 0
