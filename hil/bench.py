"""`ntn-twin bench loop`: what the loop costs and how time-realistic this machine is.

Absolute times say more of a machine and its mood than of this program. So each figure is a ratio to something simple
measured in the same run: blocks of a few hundred round trips in turn with a bare ZeroMQ echo of the same bytes, slices
of a few seconds in turn with a bare timer loop. A ratio to an echo is taken between neighbouring blocks; then come the
median of the blocks and the median of the rounds. Encrypted runs and gRPC are whole runs, one after the other in each
round; their ratio is that of medians.
"""

import contextlib
import importlib
import importlib.util
import inspect
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq

from hil import latency, launch, scheduling, wire
from hil.bench_peers import N_VALUES, Nothing, Same, Settings
from hil.clock import RealTime, sleep_until
from hil.hub import CLIENT_STAMPS
from hil.offset import CLOCK_ID
from twin.errors import TwinError
from twin.record import Record
from twin.runner import Here, LockStep, drive
from twin.scenario import Scenario, Scheduling, resolve
from twin.types import Action, Answer, Observation, Outcome
from twin.units import NS_PER_S, NS_PER_US

GOALS = {  # key: (sign, limit)
    "lockstep_vs_bare_echo": ("<=", 1.5),
    "lockstep_vs_grpc": (">=", 8.0),
    "curve_vs_plain": ("<=", 1.6),
    "lateness_p99_vs_bare": ("<=", 2.0),
    "record_us_per_slot": ("<=", 10.0),
    "stall_p99_error": ("<=", 0.0),
}
SLOT_S = 0.001  # of the lateness figures: 1 kHz
LADDER_S = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)  # slots tried, longest first
PARTS = {"p50": Fraction(1, 2), "p99": Fraction(99, 100), "p99_9": Fraction(999, 1000), "max": Fraction(1)}
EDGES_US = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
THREADS = 2  # of those figures of kernels that take several
PATIENCE_S = 20.0  # for a peer to appear or to answer
WORLD, CONTROLLER = "hil.bench_peers:Nothing", "hil.bench_peers:Same"
ASKS_FOR = Scheduling(fifo=50, cpus=(max(os.sched_getaffinity(0)),), lock_memory=True)


@dataclass(frozen=True)
class Effort:
    """How much is measured; `pairs` are blocks with and without the record, a slice is one run at 1 kHz."""

    rounds: int = 5
    pairs: int = 12
    per_block: int = 250
    slices: int = 6
    slice_s: float = 10.0
    rung_s: float = 3.0


FULL, QUICK = Effort(), Effort(rounds=3, pairs=6, slices=2, slice_s=5.0, rung_s=1.0)
Say = Callable[[str], None]


def usable() -> int:
    """The most threads that a figure of kernels takes here: two, or one where that is all there is."""
    return min(THREADS, len(os.sched_getaffinity(0)))


def of_a_process(module: str, asked: dict[str, Any], **environment: str) -> dict[str, Any]:
    """What another process measures, in which nothing has more threads than is stated; progress to standard error.

    module  run as a program, which ends in `hand_over`
    asked   to its command line, as JSON

    Raises TwinError for what the process says is wrong, and when it fails.
    """
    held = {**launch.ONE_THREAD, "NUMBA_NUM_THREADS": str(usable())}
    command = [sys.executable, "-m", module, json.dumps(asked)]
    ran = subprocess.run(command, env={**os.environ, **held, **environment}, stdout=subprocess.PIPE, check=False)
    try:
        found: dict[str, Any] = json.loads(ran.stdout)
    except ValueError:
        raise TwinError(f"the measuring process ended with code {ran.returncode}; what it said is above") from None
    if "error" in found:
        raise TwinError(found["error"])
    return found


def hand_over(measure: Callable[[dict[str, Any], Say], dict[str, Any]]) -> None:
    """The other end of `of_a_process`: measure what is asked for, JSON to standard output."""
    try:
        found = measure(json.loads(sys.argv[1]), lambda text: print(text, file=sys.stderr, flush=True))
    except TwinError as error:
        found = {"error": str(error)}
    sys.stdout.write(json.dumps(found, allow_nan=False))


def loop(effort: Effort = FULL, say: Say = lambda text: None) -> dict[str, Any]:
    """Measure everything; one JSON object. The keys of GOALS, what they were made of, and the machine.

    say  told what is going on, for a person to read

    A figure that cannot be had here is None, and `why_not` says why. Raises TwinError when a peer does not answer.
    """
    about = machine("ntn-twin", "pyzmq", "msgspec", "numpy", "grpcio", "dm_env_rpc")
    with _quick_folder() as folder:
        say("an injected stall, with the clock held still")
        stall = stalled(folder / "stall")
        rounds: list[dict[str, Any]] = []
        for number in range(effort.rounds):
            say(f"lock-step beside bare echoes, round {number + 1} of {effort.rounds}")
            rounds.append(_round(folder / f"round{number}", effort))
        say("the record, in one process")
        recording = record_here(folder / "here", effort)
        lateness = _lateness(folder, effort, say)
        ladder = _ladder(folder, effort, say)
    middle = _middle(rounds)
    figures = {
        "lockstep_vs_bare_echo": middle["tcp"]["vs_bare_echo"],
        "lockstep_slots_per_s": _per_s(middle["tcp"]["us"]),
        "bare_echo_per_s": _per_s(middle["tcp"]["bare_echo_us"]),
        "lockstep_vs_grpc": middle["grpc"] and middle["grpc"]["vs_lockstep"],
        "curve_vs_plain": middle["curve"]["vs_plain"],
        "lateness_p99_vs_bare": lateness["as_it_is"]["p99_vs_bare"],
        "record_us_per_slot": middle["tcp"]["record_us"],
        "stall_p99_error": stall["error_us"],
    }
    why_not = {"lockstep_vs_grpc": _why_no_grpc(), "curve_vs_plain": middle["curve"].pop("why_not")}
    return {
        **figures,
        "goals": judged(figures, GOALS),
        "why_not": {key: why for key, why in why_not.items() if figures[key] is None},
        "lockstep": {key: middle[key] for key in ("tcp", "ipc", "curve", "grpc")},
        "record_us_per_slot_in_process": recording,
        "stall": stall,
        "lateness": lateness,
        "time_realistic": ladder,
        "machine": about,
    }


def judged(figures: dict[str, Any], goals: dict[str, tuple[str, float]]) -> dict[str, dict[str, Any]]:
    """Each goal, and whether its figure reaches it; None where there is no figure."""
    return {
        key: {"goal": f"{sign} {limit:g}", "met": met(key, figures[key], goals)} for key, (sign, limit) in goals.items()
    }


def met(key: str, figure: float | None, goals: dict[str, tuple[str, float]] = GOALS) -> bool | None:
    """Whether a figure reaches its goal; None where there is no figure."""
    sign, limit = goals[key]
    return None if figure is None else bool(figure <= limit if sign == "<=" else figure >= limit)


# ---- lock-step over sockets, beside bare echoes


class Halting(Record):
    """A record that can be switched off for a while, to see what it costs."""

    on = True

    def observation(self, *what: Any) -> None:
        """Only when on."""
        if self.on:
            super().observation(*what)

    def decision(self, *what: Any) -> None:
        """Only when on."""
        if self.on:
            super().decision(*what)

    def slot(self, *what: Any) -> None:
        """Only when on."""
        if self.on:
            super().slot(*what)


class Echo:
    """Two bare sockets and a process that sends back what it gets: the round trip without a twin around it."""

    def __init__(self, transport: str, folder: Path, curve: bool = False):
        self._asked, answer = _messages()
        self._context = zmq.Context()
        self._out, self._in = self._context.socket(zmq.XPUB), self._context.socket(zmq.ROUTER)
        key = b""
        if curve:
            key, secret = zmq.curve_keypair()
        places = []
        for name, each in (("out", self._out), ("in", self._in)):
            each.setsockopt(zmq.LINGER, 0)
            each.setsockopt(zmq.RCVTIMEO, round(PATIENCE_S * 1e3))
            if curve:
                each.curve_server, each.curve_secretkey = True, secret
            each.bind("tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{folder}.{name}")
            places.append(each.get_string(zmq.LAST_ENDPOINT))
        self._process = _peer("echo", *places, key.decode())
        try:
            self._out.recv()  # the subscription: what is sent before it is lost
            self._in.recv_multipart()
            self._topic = b"first.observation"
            self._out.send_multipart([self._topic, answer])
            self._in.recv_multipart()
        except zmq.Again:
            self.close()
            raise TwinError(f"the echo process did not answer within {PATIENCE_S:g} s") from None

    def block(self, n: int) -> float:
        """Time of one of n round trips, us."""
        begin_ns = time.monotonic_ns()
        for _ in range(n):
            self._out.send_multipart([self._topic, self._asked])
            self._in.recv_multipart()
        return (time.monotonic_ns() - begin_ns) / n / NS_PER_US

    def close(self) -> None:
        """End the process; whatever state it is in."""
        self._out.send_multipart([b"", b""], zmq.NOBLOCK)
        _end(self._process)
        self._context.destroy(linger=0)


def _messages() -> tuple[bytes, bytes]:
    """An observation and its answer as they travel in a lock-step run of the world of nothing."""
    now, values = time.monotonic_ns(), np.random.default_rng(1).normal(size=N_VALUES)
    timing = {"deadline_us": None, "slack_us": None, "status": "on_time", "action_source": "agent", "age_slots": 1}
    asked = wire.Asked(
        "0" * 32, "first", 1234, now, now, CLOCK_ID, wire.pack({"values": values}), 0.0, False, {}, timing
    )
    reply = wire.Reply("first", "0" * 32, 1234, wire.pack(Same(None, 0).act(None).values))  # type: ignore[arg-type]
    reply.stamps = dict.fromkeys(CLIENT_STAMPS, now) | {"cpu_ns": 5000, "learn_ns": 0}
    return wire.encode(asked), wire.encode(reply)


@dataclass
class Turns:
    """Called after each slot: after a block of slots with the record on, a block of each echo, then one with it off."""

    echoes: dict[str, Echo]
    per_block: int
    on_us: list[float] = field(default_factory=list)
    off_us: list[float] = field(default_factory=list)
    echo_us: dict[str, list[float]] = field(default_factory=dict)
    begin_ns: int = 0

    def __call__(self, slot: int, outcome: Outcome, tally: Any) -> None:
        if (slot + 1) % self.per_block:
            return
        took_us = (time.monotonic_ns() - self.begin_ns) / self.per_block / NS_PER_US
        (self.on_us if Halting.on else self.off_us).append(took_us)
        if Halting.on:
            for name, echo in self.echoes.items():
                self.echo_us.setdefault(name, []).append(echo.block(self.per_block))
        Halting.on = not Halting.on
        self.begin_ns = time.monotonic_ns()

    def result(self, echo: str) -> dict[str, float]:
        """Medians of the blocks, the first of each kind apart: it warms up."""
        on, off, bare = (np.array(x[1:]) for x in (self.on_us, self.off_us, self.echo_us[echo]))
        return {
            "us": float(np.median(on)),
            "bare_echo_us": float(np.median(bare)),
            "vs_bare_echo": float(np.median(on / bare)),
            "record_us": float(np.median(on - off)),
        }


def lockstep(folder: Path, effort: Effort, echoes: dict[str, Echo], ipc: bool = False, keys: Any = None) -> Turns:
    """One run as `hil.run` does it, process and record and all, with echoes in between."""
    turns = Turns(echoes, effort.per_block)
    options: dict[str, Any] = {"bind": f"ipc://{folder}.wire"} if ipc else {}
    if keys is not None:
        options["keys"] = keys
    Halting.on = True
    with _replaced(launch, "Record", Halting):
        launch.run(
            _scenario(2 * (effort.pairs + 1) * effort.per_block, 1, SLOT_S), "lockstep", folder, watch=turns, **options
        )
    return turns


def _round(folder: Path, effort: Effort) -> dict[str, Any]:
    """Every kind of round trip once, one after the other."""
    folder.mkdir()
    with contextlib.ExitStack() as leaving:
        plain, ipc, curve = (
            Echo(*kind) for kind in (("tcp", folder / "e1"), ("ipc", folder / "e2"), ("tcp", folder / "e3", True))
        )
        for echo in (plain, ipc, curve):
            leaving.callback(echo.close)
        turns = lockstep(folder / "tcp", effort, {"tcp": plain, "curve": curve})
        found: dict[str, Any] = {"tcp": turns.result("tcp")}
        keys, why_not = curve_keys(folder)
        encrypted = {"bare_echo_vs_plain": float(np.median(np.divide(turns.echo_us["curve"], turns.echo_us["tcp"])))}
        encrypted |= {"bare_echo_us": turns.result("curve")["bare_echo_us"]}
        if keys is not None:
            us = lockstep(folder / "curve", effort, {"curve": curve}, keys=keys).result("curve")["us"]
            encrypted |= {"us": us, "vs_plain": us / found["tcp"]["us"]}
        found["curve"] = encrypted | {"why_not": why_not}
        found["ipc"] = lockstep(folder / "ipc", effort, {"ipc": ipc}, ipc=True).result("ipc")
    found["grpc"] = None
    if not _why_no_grpc():
        us = float(np.median(grpc_us(effort)))
        found["grpc"] = {"us": us, "vs_lockstep": us / found["tcp"]["us"]}
    return found


def curve_keys(folder: Path) -> tuple[Any, str]:
    """Keys for a run of one's own controllers, and why there are none."""
    if "keys" not in inspect.signature(launch.run).parameters:
        return None, "this version cannot encrypt a run; the bare echo alone is compared (lockstep.curve)"
    keys = importlib.import_module("hil.keys")
    secret, _ = keys.keygen("bench", folder)
    (folder / "allowed").write_text("", encoding="utf-8")  # whom the twin starts itself, it lets in
    return keys.for_twin(secret, folder / "allowed"), ""


def grpc_us(effort: Effort) -> list[float]:
    """Step of a dm_env_rpc environment of the same size, server and client a process each: us in each block."""
    server = _peer("grpc")
    try:
        assert server.stdout is not None
        port = server.stdout.readline().decode().strip()
        client = _peer("grpc-client", port, str(effort.pairs), str(effort.per_block))
        try:
            told, _ = client.communicate(timeout=PATIENCE_S + 0.02 * (effort.pairs + 1) * effort.per_block)
            return [float(us) for us in json.loads(told)]
        except (subprocess.TimeoutExpired, ValueError):
            raise TwinError("the gRPC client did not finish; try: python -m hil.bench_peers grpc") from None
        finally:
            _end(client)
    finally:
        _end(server)


def _why_no_grpc() -> str:
    there = all(importlib.util.find_spec(name) for name in ("grpc", "dm_env_rpc"))
    return "" if there else "dm_env_rpc is not installed: pip install 'ntn-twin[bench]'"


def record_here(folder: Path, effort: Effort) -> float:
    """What the record adds to a slot of a run in this process, us: nothing runs beside it that could hide it."""
    slots = 4 * effort.per_block
    world = Nothing(Settings(), slots=slots, slot_s=SLOT_S, folder=None, agents={})
    agent = world.agents[0]
    differences = []
    for number in range(2 * effort.rounds):
        took_us = {}
        for on in (True, False):
            record = Halting.create(folder / f"{number}-{on}", world.agents, slots, _meta("lockstep"))
            record.prepare(world.step())
            Halting.on = on
            begin_ns = time.monotonic_ns()
            drive(world, {"first": Here(Same(agent, 1), agent)}, LockStep(), slots, 1, record)
            took_us[on] = (time.monotonic_ns() - begin_ns) / slots / NS_PER_US
            record.close("finished")
        differences.append(took_us[True] - took_us[False])
    return float(np.median(differences))


# ---- real time, beside a bare timer loop


def timer(slots: int, slot_s: float) -> np.ndarray:
    """A bare loop on the same grid, sleeping and spinning as the twin does: how late each slot is, us."""
    late_ns = np.zeros(slots, dtype=np.int64)
    start_ns = time.monotonic_ns() + NS_PER_S // 100
    for slot in range(slots):
        release_ns = start_ns + round(slot * slot_s * NS_PER_S)
        sleep_until(release_ns)
        late_ns[slot] = time.monotonic_ns() - release_ns
    return late_ns[1:] / NS_PER_US


@dataclass
class Flown:
    """Real-time runs with two controllers: lateness of releases that stand on the grid, us, and how cycles ended."""

    late_us: np.ndarray
    slots: int
    overruns: int
    on_time: list[int]
    misses: list[int]
    accounted: bool

    def __add__(self, other: "Flown") -> "Flown":
        return Flown(
            np.concatenate((self.late_us, other.late_us)),
            self.slots + other.slots,
            self.overruns + other.overruns,
            [a + b for a, b in zip(self.on_time, other.on_time)],
            [a + b for a, b in zip(self.misses, other.misses)],
            self.accounted and other.accounted,
        )


def flown(folder: Path, slots: int, slot_s: float, wanted: Scheduling | None = None) -> Flown:
    """A real-time run as `hil.run` does it: a leader and a follower, both in every slot."""
    record = launch.run(_scenario(slots, 2, slot_s, wanted), "realtime", folder)
    report = latency.report(Record.open(folder))
    agents = [report[name] for name in ("first", "second")]
    columns = record.decisions["first"]
    late_ns = columns["begin_ns"] - columns["release_ns"]
    return Flown(
        np.asarray(late_ns[1:], dtype=float) / NS_PER_US,
        report.slots,
        report.twin_overruns or 0,
        [a.on_time for a in agents],
        [a.misses for a in agents],
        report.slots == slots and all(a.on_time + a.misses == slots for a in agents),
    )


def _lateness(folder: Path, effort: Effort, say: Say) -> dict[str, Any]:
    """Our releases beside a bare loop's, in turn; again with real-time scheduling of both where that is permitted."""
    permitted, refused = scheduling.permitted(ASKS_FOR)
    kinds: dict[str, Scheduling | None] = {"as_it_is": None}
    if any(permitted.values()):
        kinds["scheduled"] = ASKS_FOR
    slots, bare_slots = round(effort.slice_s / SLOT_S), round(effort.slice_s / SLOT_S / 2)
    bare: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    ours: dict[str, list[Flown]] = {kind: [] for kind in kinds}
    for number in range(effort.slices):
        say(f"real time at 1 kHz beside a bare timer loop, slice {number + 1} of {effort.slices}")
        for kind, wanted in kinds.items():
            for half in range(2):
                with scheduling.in_force(wanted, SLOT_S, lambda text: None):
                    bare[kind].append(timer(bare_slots // 2, SLOT_S))
                if half == 0:
                    ours[kind].append(flown(folder / f"{kind}{number}", slots, SLOT_S, wanted))
    found: dict[str, Any] = {}
    for kind in kinds:
        whole, beside = sum(ours[kind][1:], ours[kind][0]), np.concatenate(bare[kind])
        spread, bare_spread = latency.Spread.of(whole.late_us), latency.Spread.of(beside)
        assert spread.p99 is not None
        assert bare_spread.p99 is not None
        found[kind] = {
            "p99_vs_bare": spread.p99 / bare_spread.p99,
            "slots": whole.slots,
            "ours_us": msgspec.to_builtins(spread),
            "bare_us": msgspec.to_builtins(bare_spread),
            "overruns": whole.overruns,
            "on_time": whole.on_time,
            "misses": whole.misses,
            "every_cycle_accounted_for": whole.accounted,
            "histogram": {"below_us": [*EDGES_US, None], "ours": _counts(whole.late_us), "bare": _counts(beside)},
        }
    return found | {
        "scheduling": {"asked": json.loads(msgspec.json.encode(ASKS_FOR)), "permitted": permitted, "refused": refused}
    }


def _ladder(folder: Path, effort: Effort, say: Say) -> dict[str, Any]:
    """Shorter and shorter slots, until one fails: releases late by a tenth of the slot at p99, or an overrun."""
    rungs: list[dict[str, Any]] = []
    for slot_s in LADDER_S:
        say(f"real time with slots of {slot_s * 1e3:g} ms")
        run = flown(folder / f"rung{slot_s}", max(50, round(effort.rung_s / slot_s)), slot_s)
        p99_us = float(np.percentile(run.late_us, 99))
        rung = {"slot_ms": slot_s * 1e3, "lateness_p99_us": p99_us, "overruns": run.overruns, "misses": run.misses}
        rungs.append(rung | {"holds": run.overruns == 0 and p99_us < 0.1 * slot_s * 1e6})
        if not rungs[-1]["holds"]:
            break
    held = [rung["slot_ms"] for rung in rungs if rung["holds"]]
    return {"shortest_slot_ms": min(held, default=None), "tried": rungs}


def _counts(late_us: np.ndarray) -> list[int]:
    return [int(n) for n in np.histogram(late_us, (-np.inf, *EDGES_US, np.inf))[0]]


# ---- a stall, with the clock held still


class Held:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.ns = 7 * NS_PER_S

    def now_ns(self) -> int:
        """What time.monotonic_ns says meanwhile."""
        return self.ns

    def wait_until(self, until_ns: int) -> None:
        """Be there at once; time never runs back."""
        self.ns = max(self.ns, until_ns)


class Prompt:
    """A seat that answers a fixed time after it was asked, on a clock held still."""

    def __init__(self, clock: Held, response_ns: int):
        self.late: list[tuple[int, Answer]] = []
        self._clock, self._response_ns = clock, response_ns
        self._sent: dict[int, tuple[int, int]] = {}

    def post(self, seen: Observation, release_ns: int, due_ns: int) -> None:
        """Remember when it was asked."""
        self._sent[seen.slot] = (self._clock.ns, due_ns)

    def take(self, slot: int) -> Answer:
        """Wait for the answer; after its deadline it is nobody's."""
        sent_ns, due_ns = self._sent.pop(slot)
        self._clock.wait_until(sent_ns + self._response_ns)
        stamps = {"sent": sent_ns, "received": sent_ns, "arrived": self._clock.ns}
        if self._clock.ns > due_ns:
            return Answer(None, "missing", stamps=stamps, reason="no answer by the deadline")
        return Answer(Action({"number": np.array(1.0)}), stamps=stamps)


class Stalling(Nothing):
    """The world of nothing, but one of its slots takes a long time."""

    def __init__(self, clock: Held, slots: int, slot_s: float, stall_slot: int, stall_ns: int):
        super().__init__(Settings(), slots=slots, slot_s=slot_s, folder=None, agents={})
        self._clock, self._left, self._stall_ns = clock, stall_slot + 1, stall_ns

    def step(self) -> Outcome:
        """Time stands still, but in the slot that stalls."""
        self._left -= 1
        if self._left == 0:
            self._clock.ns += self._stall_ns
        return super().step()


def stalled(
    folder: Path, slots: int = 1200, slot_ms: int = 10, stall_ms: int = 500, at: int = 300, response_ms: int = 1
) -> dict[str, Any]:
    """Play a loop with one stall through drive, record and report, and compare with what must come out.

    After the stall each release is late by what is left of it; every slot makes up what the slot has to spare. Nothing
    here sleeps. Stamps are whole nanoseconds, so differences are rounded to them, and must be 0.
    """
    clock, ms, slot_s = Held(), NS_PER_S // 1000, slot_ms / 1e3
    world = Stalling(clock, slots, slot_s, at, stall_ms * ms)
    ticking = RealTime(slot_s, world.agents, 1.0, 10.0, clock.wait_until, clock.now_ns)
    record = Record.create(folder, world.agents, slots, _meta("realtime"))
    with _replaced(time, "monotonic_ns", clock.now_ns):
        drive(world, {"first": Prompt(clock, response_ms * ms)}, ticking, slots, 1, record)
        record.close("finished", overrun_slots=ticking.overrun_slots)
    reported = latency.report(Record.open(folder))
    spreads = {"release_lateness": reported["first"].release_lateness_us, "response": reported["first"].response_us}

    lag_ms, late_ms = 0, []
    for slot in range(slots):
        late_ms.append(lag_ms)
        busy_ms = response_ms + (stall_ms if slot == at else 0)
        lag_ms = max(0, lag_ms + busy_ms - slot_ms)
    response = [late + response_ms for late in late_ms]
    expected = {"release_lateness": late_ms[1:], "response": response[1:]}  # the first cycle is kept apart
    misses = sum(5 * took_ms > 4 * slot_ms for took_ms in response)  # due after 0.8 of the slot; all in one row
    counts = {
        "overruns": (reported.twin_overruns, sum(late > 0 for late in late_ms)),
        "misses": (reported["first"].misses, misses),
        "longest_miss_run": (reported["first"].longest_miss_run, misses),
    }
    off_us = [abs(float(got or 0) - float(must or 0)) for got, must in counts.values()]
    told: dict[str, Any] = {name: {"reported": got, "analytic": must} for name, (got, must) in counts.items()}
    for name, values_ms in expected.items():
        for key, part in PARTS.items():
            must_us = float(1000 * percentile(values_ms, part))
            got_us = getattr(spreads[name], key)
            told[f"{name}_{key}_us"] = {"reported": got_us, "analytic": must_us}
            off_us.append(round(abs(got_us - must_us), 3))
    return {"error_us": max(off_us), **told}


def percentile(values: list[int], part: Fraction) -> Fraction:
    """Linear interpolation between the closest ranks, in fractions: rank part * (n - 1) of the sorted values."""
    ordered = sorted(values)
    rank = part * (len(ordered) - 1)
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])


# ---- for a person


def table(found: dict[str, Any]) -> str:
    """What `ntn-twin bench loop` prints without --json."""
    tcp = found["lockstep"]["tcp"]
    lines = [machine_line(found["machine"]), "", *figure_lines(found)]
    lines += ["", f"{'round trip':<24}{'us':>10}{'a second':>12}{'bare echo us':>14}{'ratio':>8}"]
    for name in ("tcp", "ipc"):
        row = found["lockstep"][name]
        lines.append(
            f"  lock-step over {name:<7}{row['us']:>10.1f}{_per_s(row['us']):>12,.0f}"
            f"{row['bare_echo_us']:>14.1f}{row['vs_bare_echo']:>8.2f}"
        )
    curve = found["lockstep"]["curve"]
    us = f"{curve['us']:>10.1f}{_per_s(curve['us']):>12,.0f}" if curve.get("us") else f"{'-':>10}{'-':>12}"
    lines.append(f"  {'the same, CURVE':<22}{us}{curve['bare_echo_us']:>14.1f}")
    if found["lockstep"]["grpc"]:
        us = found["lockstep"]["grpc"]["us"]
        lines.append(f"  {'gRPC, dm_env_rpc':<22}{us:>10.1f}{_per_s(us):>12,.0f}")
    here_us = found["record_us_per_slot_in_process"]
    lines.append(f"  the record: {tcp['record_us']:.1f} us a slot over sockets, {here_us:.1f} in one process")
    for kind in ("as_it_is", "scheduled"):
        if kind in found["lateness"]:
            lines += ["", *_histogram(kind.replace("_", " "), found["lateness"][kind])]
    for what, why in found["lateness"]["scheduling"]["refused"].items():
        lines.append(f"  scheduling.{what} is not in force: {why}")
    return "\n".join([*lines, "", verdict_of(found["time_realistic"])])


def machine_line(about: dict[str, Any]) -> str:
    """What it was measured on, in a line."""
    return (
        f"{about['cpu']}, {about['usable_cores']} of {about['cores']} cores, kernel {about['kernel']}, "
        f"load {about['load_average'][0]:.2f} before"
    )


def figure_lines(found: dict[str, Any]) -> list[str]:
    """Each figure with its goal, and whether it is met or why there is none."""
    lines = [f"{'figure':<24}{'here':>10}  {'goal':<10}"]
    for key, goal in found["goals"].items():
        figure = found[key]
        shown = "-" if figure is None else f"{figure:.2f}" if figure == 0.0 or abs(figure) >= 0.01 else f"{figure:.1e}"
        verdict = {True: "met", False: "MISSED", None: found["why_not"].get(key, "")}[goal["met"]]
        lines.append(f"{key:<24}{shown:>10}  {goal['goal']:<10}{verdict}")
    return lines


def verdict_of(ladder: dict[str, Any]) -> str:
    """How time-realistic this machine is, in words."""
    tried = ladder["tried"][-1]
    why = f"{tried['overruns']} overruns, lateness p99 {tried['lateness_p99_us']:,.0f} us"
    if ladder["shortest_slot_ms"] is None:
        return f"This machine, as loaded now, keeps not even slots of {tried['slot_ms']:g} ms ({why})."
    held = f"This machine, as loaded now, is time-realistic down to slots of {ladder['shortest_slot_ms']:g} ms"
    rule = "every slot began before the next was due, 99 % of them within a tenth of a slot"
    broken = "" if tried["holds"] else f" Slots of {tried['slot_ms']:g} ms it did not keep ({why})."
    return f"{held}: {rule}.{broken}"


def _histogram(name: str, lateness: dict[str, Any]) -> list[str]:
    ours, bare, counts = lateness["ours_us"], lateness["bare_us"], lateness["histogram"]
    first, second = lateness["misses"]
    lines = [
        f"release lateness at 1 kHz, two controllers, {name}: {lateness['slots']:,} slots, "
        f"{lateness['overruns']} overruns, {first} and {second} misses",
        f"  p50 {ours['p50']:.1f}, p99 {ours['p99']:.1f}, max {ours['max']:.0f} us; bare timer loop {bare['p50']:.1f}, "
        f"{bare['p99']:.1f}, {bare['max']:.0f} us; p99 ratio {lateness['p99_vs_bare']:.2f}",
    ]
    most = max(counts["ours"])
    for edge, n, m in zip(counts["below_us"], counts["ours"], counts["bare"]):
        where = f"< {edge:,} us" if edge else f">= {EDGES_US[-1]:,} us"
        lines.append(f"  {where:>12}{n:>9,}  bare {m:>8,}  {'#' * round(40 * n / most)}")
    return lines


# ---- the rest


def _scenario(slots: int, n_agents: int, slot_s: float, wanted: Scheduling | None = None) -> Scenario:
    keys: dict[str, Any] = {"world": WORLD, "n_agents": n_agents, "slots": slots, "slot_s": slot_s, "max_lag_s": 10.0}
    if wanted is not None:
        keys["scheduling"] = msgspec.to_builtins(wanted)
    keys["agent"] = {name: {"controller": CONTROLLER} for name in ("first", "second")[:n_agents]}
    return resolve(keys, "bench")


def _meta(clock: str) -> dict[str, Any]:
    return {"scenario": "bench", "clock": clock, "seed": 1, "slot_s": SLOT_S, "resolved": {"agents": {}}}


def _middle(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median over the rounds of every number; None where no round has one."""
    middle: dict[str, Any] = {}
    for kind in ("tcp", "ipc", "curve", "grpc"):
        first = rounds[0][kind]
        middle[kind] = first and {
            key: float(np.median([r[kind][key] for r in rounds])) if isinstance(first[key], float) else first[key]
            for key in first
        }
    middle["curve"].setdefault("vs_plain", None)
    return middle


def _per_s(us: float) -> float:
    return round(1e6 / us, 1)


def _peer(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hil.bench_peers", *arguments]
    environment = {**os.environ, **launch.ONE_THREAD}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a peer that may already have ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextlib.contextmanager
def _replaced(thing: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(thing, name)
    setattr(thing, name, value)
    try:
        yield
    finally:
        setattr(thing, name, before)


@contextlib.contextmanager
def _quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: the disk is not what is measured."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="ntn-twin-bench-", dir=memory) as folder:
        yield Path(folder)


def machine(*packages: str) -> dict[str, Any]:
    """What it is measured on: processor, load, and the versions of these packages where they are installed."""
    cpu = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    versions = {"python": platform.python_version(), "zeromq": zmq.zmq_version()}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "cpu": cpu or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "load_average": list(os.getloadavg()),
        "versions": versions,
    }
