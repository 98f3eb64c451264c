"""The only loop: post what is due, settle what is owed, step the world, write it down.

The answer to observation n takes effect at slot n + delay: never earlier, and late means not at all. Who answers
(`Here` or a process) and who waits for whom (`LockStep` or real time) are objects handed in; nothing here asks which.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from twin.errors import ControllerError, RunBroken, ScenarioError
from twin.faults import SKY, Timeline, summary
from twin.interrupt import held_back
from twin.record import Record, new_folder
from twin.scenario import EXTERNAL, Scenario, Seating, agent_seed, build, make_controller
from twin.types import Action, Agent, Answer, Arrays, Clock, Controller, Job, Observation, Outcome, Seat, World

Watch = Callable[[int, Outcome, Mapping[str, Mapping[str, int]]], None]
MOST_ARRAYS = 64  # that one agent may signal in one answer
MOST_SIGNAL_BYTES = 1 << 19  # the same, all arrays together
ANY_DTYPE = ("float64", "float32", "int64", "int32", "uint8", "bool")


class LockStep:
    """The clock that waits for every due answer: deterministic, and wall time means nothing.

    hold  called before each slot; returns when it may begin (hil.gate pauses a run with it)
    """

    name = "lockstep"

    def __init__(self, hold: Callable[[int], None] = lambda slot: None):
        self._hold = hold

    def start(self, slot: int) -> None:
        """Every slot is released at once, unless somebody holds it."""
        self._hold(slot)

    def release_ns(self, slot: int, follower: bool, signal_delay_s: float) -> int:
        """Now: nothing is scheduled."""
        return time.monotonic_ns()

    def due_ns(self, agent: Agent, slot: int) -> int:
        """0: there is no deadline."""
        return 0


class Executor(Protocol):
    """Runs a job somewhere: a thread, or later in this one."""

    def submit(self, job: Job, /) -> Any:
        """A future of the job's result."""


class WhenAsked:
    """An executor that runs the job when its result is asked for, in the asking thread."""

    def submit(self, job: Job, /) -> Any:
        """A future that is done at once, because whoever asks waits anyway."""
        future: Future = Future()
        future.result = lambda timeout=None: job()  # type: ignore[method-assign]
        return future


class Learner:
    """Runs what a controller learns off the control path, and lets it act `delay` slots later, never earlier.

    wait     True: an update that is not ready is waited for; False: the old weights stay, and it is counted
    weights  how many updates are in force; misses: updates that were not ready in time
    spent_ns processor time of the update adopted last, 0 once it was told
    """

    def __init__(self, controller: Controller, delay: int, wait: bool, executor: Executor):
        self.controller, self.delay, self.wait, self.executor = controller, delay, wait, executor
        self.weights = self.misses = self.spent_ns = 0
        self._future: Any = None
        self._due = 0
        self._late = False

    def before(self, slot: int) -> None:
        """Adopt the update that is due at this slot."""
        if self._future is None or slot < self._due:
            return
        if not self.wait and not self._future.done():
            self.misses += not self._late
            self._late = True
            return
        (result, self.spent_ns), self._future, self._late = self._future.result(), None, False
        self.controller.adopt(result)  # type: ignore[attr-defined]
        self.weights += 1

    def after(self, slot: int) -> None:
        """The answer to this slot has left: let the controller learn, unless it is still at it."""
        learn = getattr(self.controller, "learn", None)
        if learn is None or self._future is not None:
            return
        job = learn()
        if callable(job):
            self._due, self._future = slot + self.delay, self.executor.submit(lambda: timed(job))

    def stamps(self) -> dict[str, int]:
        """What an answer tells of learning."""
        spent_ns, self.spent_ns = self.spent_ns, 0
        return {"weights": self.weights, "learning_misses": self.misses, "learn_ns": spent_ns}


def timed(job: Job) -> tuple[object, int]:
    """A job's result, and the processor time it took in its thread, ns."""
    begun_ns = time.thread_time_ns()
    result = job()
    return result, time.thread_time_ns() - begun_ns


class Here:
    """A seat in this process. An error of its controller ends the run with the agent and the slot named."""

    def __init__(
        self,
        controller: Controller,
        agent: Agent,
        others: tuple[str, ...] = (),
        learn: bool = True,
        learn_delay: int = 10,
    ):
        self.agent, self.others, self.learn, self.learn_delay = agent, others, learn, learn_delay
        self.sit(controller)
        self.late: list[tuple[int, Answer]] = []  # nobody is late in lock-step
        self._answers: dict[int, Answer] = {}

    def sit(self, controller: Controller) -> None:
        """Give the seat to a controller that has learned nothing here yet."""
        self.controller = controller
        self._learner = Learner(controller, self.learn_delay, wait=True, executor=WhenAsked()) if self.learn else None

    def post(self, seen: Observation, release_ns: int, due_ns: int) -> None:
        """Let the controller answer at once."""
        now = time.monotonic_ns()
        stamps = {"sent": now, "waiting": now, "received": now}
        # its own dicts, as a process has: what it puts in or takes out must not reach the record
        seen = replace(seen, values=dict(seen.values), signals={name: dict(v) for name, v in seen.signals.items()})
        try:
            if seen.last:
                getattr(self.controller, "finish", _ignore)(seen)
                return
            if self._learner:
                self._learner.before(seen.slot)
            stamps["decoded"] = time.monotonic_ns()
            cpu_ns = time.thread_time_ns()
            action = self.controller.act(seen)
            stamps["cpu_ns"] = time.thread_time_ns() - cpu_ns
            stamps["acted"] = stamps["arrived"] = time.monotonic_ns()
            reason = check_action(self.agent, action, self.others)
            if self._learner:
                stamps |= self._learner.stamps()
                self._learner.after(seen.slot)
        except Exception as error:
            raise ControllerError(
                f"controller of seat {self.agent.name!r} failed at slot {seen.slot}: {error!r}"
            ) from error
        self._answers[seen.slot] = (
            Answer(None, "invalid", reason=reason, stamps=stamps) if reason else Answer(action, stamps=stamps)
        )

    def take(self, slot: int) -> Answer:
        """The answer given when it was asked."""
        return self._answers.pop(slot)


@dataclass
class Standing:
    """What holds on a seat: the action, where it came from, since when, and how the last cycle went."""

    action: Arrays
    source: str = "default"
    since: int = 0
    status: str = ""
    slack_us: float | None = None

    def timing(self, slot: int, release_ns: int, due_ns: int) -> dict[str, object]:
        """What an observation tells its agent about time."""
        return {
            "deadline_us": (due_ns - release_ns) / 1e3 if due_ns else None,
            "slack_us": self.slack_us,
            "status": self.status,
            "action_source": self.source,
            "age_slots": slot - self.since,
        }


class Signals:
    """Signals on their way between agents. Each agent is told the newest of each sender that has arrived."""

    def __init__(self) -> None:
        self._flying: list[tuple[int, str, str, Arrays]] = []  # slot of arrival, receiver, sender, arrays; as sent

    def __len__(self) -> int:
        return len(self._flying)

    def send(self, sender: str, to: str, arrays: Arrays, slot: int, delay_slots: int) -> None:
        """A signal leaves; of those before it that have arrived unread, all but the newest will never be."""
        arrived = [i for i, s in enumerate(self._flying) if s[0] <= slot and s[1:3] == (to, sender)]
        for i in reversed(arrived[:-1]):
            del self._flying[i]
        self._flying.append((slot + delay_slots, to, sender, arrays))

    def read(self, agent: str, slot: int) -> dict[str, Arrays]:
        """What has arrived, by sender; it is told once."""
        if not self._flying:
            return {}
        inbox = {sender: arrays for arrives, to, sender, arrays in self._flying if to == agent and arrives <= slot}
        self._flying = [s for s in self._flying if s[0] > slot or s[1] != agent]
        return inbox


class Watchdog:
    """Judges the cycles of one agent as they end: its limits, and at least m on-time answers in any k."""

    def __init__(self, agent: Agent, seating: Seating, event: Callable[..., None]):
        self.agent, self.seating, self.event = agent, seating, event
        self._cycles = self._misses = 0
        self._recent: deque[bool] = deque(maxlen=seating.at_least[1] if seating.at_least else 1)
        self._held = True

    def judge(self, slot: int, status: str) -> None:
        """A cycle has ended. Raises RunBroken when that breaks a limit; cycles of grace break none."""
        self._cycles += 1
        if self._cycles <= self.seating.startup_grace_cycles:
            return
        on_time = status == "on_time"
        self._misses = 0 if on_time else self._misses + 1
        name, most = self.agent.name, self.seating.max_consecutive_misses
        if self.seating.at_least is not None:
            m, k = self.seating.at_least
            self._recent.append(on_time)
            held = self._recent.count(False) <= k - m
            if held != self._held:
                self.event("at_least_held" if held else "at_least_broken", agent=name, slot=slot, m=m, k=k)
            self._held = held
        if self.seating.on_miss == "abort" and not on_time:
            raise RunBroken(f"agent {name!r} missed slot {slot} ({status}) and its on_miss is abort")
        if most is not None and self._misses > most:
            raise RunBroken(
                f"agent {name!r} missed {self._misses} cycles in a row, the last at slot {slot} ({status}); its "
                f"max_consecutive_misses is {most}"
            )


def drive(
    world: World,
    seats: Mapping[str, Seat],
    clock: Clock,
    slots: int,
    seed: int,
    record: Record,
    seatings: Mapping[str, Seating] | None = None,
    watch: Watch | None = None,
    at: Callable[[int], None] = lambda slot: None,
) -> None:
    """Play `slots` slots of a world with somebody on each seat.

    seatings  by agent: what becomes of misses, and its limits; the defaults where there is none
    watch     called after each slot with its outcome and how many cycles of each agent ended how; must return at once
    at        called as each slot starts: what befalls the run at its time (twin.faults)

    Raises RunBroken when an agent breaks one of its limits, or the clock its own.
    """
    world.reset(seed)
    agents = sorted(world.agents, key=lambda a: a.order)
    rules = {a.name: (seatings or {}).get(a.name, Seating()) for a in agents}
    watchdogs = {a.name: Watchdog(a, rules[a.name], record.event) for a in agents}
    earned: dict[str, float | None] = {a.name: None for a in agents}
    in_force = {a.name: Standing(_copy(world.default(a.name))) for a in agents}
    signals = Signals()
    stamps: dict[tuple[str, int], dict[str, int]] = {}
    too_late: dict[str, list[tuple[int, Answer]]] = {a.name: [] for a in agents}  # the answers that came late last
    tally: dict[str, Counter[str]] = {a.name: Counter() for a in agents}
    for a in agents:
        world.apply(a.name, in_force[a.name].action)

    def post(a: Agent, slot: int, release_ns: int, start_ns: int, last: bool = False) -> None:
        begin_ns = time.monotonic_ns()
        inbox = signals.read(a.name, slot)
        due_ns = 0 if last else clock.due_ns(a, slot)
        timing = in_force[a.name].timing(slot, release_ns, due_ns)
        values = world.observe(a.name)
        for value in values.values():
            value.setflags(write=False)  # as the arrays are that a process receives
        seen = Observation(a.name, slot, values, earned[a.name], last, inbox, timing)
        stamps[a.name, slot] = {
            "slot_start": start_ns,
            "release": release_ns,
            "due": due_ns,
            "begin": begin_ns,
            "observed": time.monotonic_ns(),
        }
        seats[a.name].post(seen, release_ns, due_ns)
        record.observation(seen)
        earned[a.name] = 0.0

    def settle(a: Agent, slot: int, now: int) -> dict[str, float]:
        """Put the answer to observation `slot` in force; by receiver, how long its signals fly, s, within a slot."""
        answer, holds, flight_s = seats[a.name].take(slot), in_force[a.name], {}
        if answer.action is None and rules[a.name].late == "apply_next":
            for late_slot, late in (*too_late[a.name], *seats[a.name].late):
                if late_slot == slot - a.every:
                    answer = answer._replace(action=late.action, source="late")
        if answer.action is not None:
            holds.action, holds.source, holds.since = _copy(answer.action.values), answer.source, now
            ways = {to: world.propagation_delay_s(a.name, to) for to in answer.action.signals}
            sent = {to: _copy(arrays) for to, arrays in answer.action.signals.items() if np.isfinite(ways[to])}
            answer = answer._replace(action=Action(holds.action, sent))  # what has no way is not sent, nor counted
            for to, arrays in sent.items():
                delay_s = ways[to]
                delay_slots = int(delay_s / world.slot_s + 1e-9)  # a whole number of slots, whatever its last bit says
                signals.send(a.name, to, arrays, now, delay_slots)
                if delay_slots == 0:
                    flight_s[to] = delay_s
        elif rules[a.name].on_miss == "default":
            holds.action, holds.source, holds.since = _copy(world.default(a.name)), "default", now
        elif holds.source in ("agent", "late"):
            holds.source = "hold"
        arrived, due = answer.stamps.get("arrived", 0), stamps[a.name, slot]["due"]
        holds.status = answer.status
        tally[a.name][answer.status] += 1
        holds.slack_us = (due - arrived) / 1e3 if due and arrived and answer.status == "on_time" else None
        answer = answer._replace(source=holds.source, stamps={**stamps.pop((a.name, slot)), **answer.stamps})
        record.decision(a.name, slot, answer, holds.action)
        note_late(a)
        world.apply(a.name, holds.action)
        watchdogs[a.name].judge(slot, answer.status)
        return flight_s

    def note_late(a: Agent) -> None:
        if seats[a.name].late:
            too_late[a.name], seats[a.name].late[:] = seats[a.name].late[:], []
            for slot, answer in too_late[a.name]:
                record.late(a.name, slot, answer.stamps)

    ranks = [list(rank) for _, rank in groupby(agents, key=lambda a: a.order)]
    delayed = [a for a in agents if a.delay]
    slot, done = 0, False
    try:
        while slot < slots and not done:
            clock.start(slot)
            at(slot)
            for a in delayed:  # due at this release: before anybody is waited for
                asked = slot - a.delay
                if asked >= 0 and asked % a.every == 0:
                    settle(a, asked, slot)
            start_ns, follower = 0, False
            flight_s: dict[str, float] = {}
            for rank in ranks:
                due_now = [a for a in rank if slot % a.every == 0]
                if not due_now:
                    continue
                flies_s = max(flight_s.get(a.name, 0.0) for a in due_now) if flight_s else 0.0
                release_ns = clock.release_ns(slot, follower, flies_s)
                start_ns = start_ns or release_ns
                for a in due_now:
                    post(a, slot, release_ns, start_ns)
                for a in due_now:
                    if a.delay == 0:
                        follower = True
                        for to, flies_s in settle(a, slot, slot).items():
                            flight_s[to] = max(flight_s.get(to, 0.0), flies_s)
            outcome = world.step()
            for name, reward in outcome.reward.items():
                earned[name] = (earned[name] or 0.0) + float(reward)
            record.slot(slot, outcome)
            done = outcome.done
            if watch is not None:
                watch(slot, outcome, tally)
            slot += 1
    finally:  # however it ends, no late answer is forgotten
        for a in agents:
            note_late(a)
    for a in agents:
        post(a, slot, time.monotonic_ns(), 0, last=True)


def run(
    scenario: Scenario,
    out: str | Path | None = None,
    watch: Watch | None = None,
    clock: Clock | None = None,
    seat_of: Callable[[Agent, "Here"], Seat] = lambda agent, seat: seat,
    world: World | None = None,
    timeline: Timeline | None = None,
) -> Record:
    """Fly a scenario in this process, in lock-step whatever its `clock` says, and return its record.

    clock    another one that needs no processes (hil.clock.Virtual)
    seat_of  wraps each seat: what models its response times, or its faults
    world    the scenario's, where it was built before
    timeline the faults of links and controllers (hil.faults)

    Raises ScenarioError for what needs hil.run: external seats, faults of links and controllers.
    """
    for name, seating in scenario.agents.items():
        if seating.controller == EXTERNAL:
            raise ScenarioError(f"agent.{name} is external: a process on a socket needs hil.run, or `ntn-twin run`")
    for i, fault in enumerate(scenario.faults):
        if timeline is None and not isinstance(fault, SKY):
            raise ScenarioError(
                f"faults[{i}] ({fault.__struct_config__.tag}) is of a link or a controller, which twin.run does not "
                f"play; fly it with hil.run(scenario, processes=False), or `ntn-twin run`"
            )
    timeline = timeline or Timeline(scenario.faults, scenario.slot_s, scenario.seed)
    clock = clock or LockStep()
    world = world or build(scenario)
    names = [a.name for a in world.agents]
    seats: dict[str, Seat] = {}
    for a in world.agents:
        seating = scenario.seating(a.name)
        controller = make_controller(seating.controller, a, agent_seed(scenario.seed, a.name), seating.options)
        others = tuple(n for n in names if n != a.name)
        seats[a.name] = seat_of(a, Here(controller, a, others, seating.learn, seating.learn_delay))
    record = Record.create(
        new_folder(scenario.name, out),
        world.agents,
        scenario.slots,
        describe(scenario, world, clock.name, "here"),
        scenario.text,
    )
    ended, why = "broken", ""
    try:
        seatings = {name: scenario.seating(name) for name in names}
        timeline.open(record)
        with held_back() as check_interrupt:

            def at(slot: int) -> None:
                check_interrupt()
                timeline.at(slot)

            drive(world, seats, clock, scenario.slots, scenario.seed, record, seatings, watch, at)
        ended = "finished"
    except KeyboardInterrupt:
        ended, why = "interrupted", "stopped by the user"
        raise
    except Exception as error:
        why = str(error)
        raise
    finally:
        more = {"overrun_slots": clock.overrun_slots} if hasattr(clock, "overrun_slots") else {}
        record.close(ended, why, **more)
    return record


def describe(scenario: Scenario, world: World, clock: str, seats: str) -> dict[str, Any]:
    """What a record's meta.json says of the run, beside what Record adds; `inputs` are the hashes of files it read."""
    resolved = msgspec.to_builtins(scenario)
    resolved.pop("text")  # it is kept as scenario.toml
    folder = resolved.pop("folder")  # says nothing of the run, but where its files may be found again
    return {
        "scenario": scenario.name,
        "clock": clock,
        "seed": scenario.seed,
        "slot_s": scenario.slot_s,
        "seats": seats,
        "resolved": resolved,
        "folder": folder,
        "faults": summary(scenario.faults, scenario.slots, scenario.slot_s, scenario.seed),
        "inputs": dict(getattr(world, "inputs", {})),
    }


def check_action(agent: Agent, action: Action, others: tuple[str, ...]) -> str:
    """What is wrong with an answer, or "": names, shapes, dtypes, finiteness, bounds, receivers of signals."""
    if not isinstance(action, Action):
        return f"agent {agent.name!r} answered a {type(action).__name__}, expected a twin.Action"
    for field in agent.acts:
        value = action.values.get(field.name)
        if value is None:
            return f"{field.name} is missing; expected {', '.join(f.name for f in agent.acts)}"
        if not isinstance(value, np.ndarray | np.generic):
            return f"{field.name} is a {type(value).__name__}, expected an array of shape {field.shape} {field.dtype}"
        if value.shape != field.shape or (value.dtype != field.dtype and value.dtype.name != field.dtype):
            return f"{field.name} has shape {value.shape} {value.dtype.name}, expected {field.shape} {field.dtype}"
        if value.dtype.kind == "b" or not value.size:
            continue
        least, most = (value.min(), value.max()) if field.shape else (value[()],) * 2  # not a number spreads to both
        if not (math.isfinite(least) and math.isfinite(most)):
            return f"{field.name} is not finite: {value.ravel()[~np.isfinite(value.ravel())][0]}"
        if not field.low <= least <= most <= field.high:
            shown = f"{least:g} to {most:g}" if value.dtype.kind == "f" else f"{least} to {most}"
            return f"{field.name} leaves [{field.low:g}, {field.high:g}]: {shown}"
    if len(action.values) > len(agent.acts):
        unknown = set(action.values) - {field.name for field in agent.acts}
        return (
            f"{', '.join(sorted(unknown))} is no part of the action; expected {', '.join(f.name for f in agent.acts)}"
        )
    if not action.signals:
        return ""
    sizes = [value.nbytes for arrays in action.signals.values() for value in map(np.asarray, arrays.values())]
    if len(sizes) > MOST_ARRAYS or sum(sizes) > MOST_SIGNAL_BYTES:
        limits = f"{MOST_ARRAYS} and {MOST_SIGNAL_BYTES}"
        return f"signals of {len(sizes)} arrays and {sum(sizes)} bytes, more than the {limits} that may be sent"
    for to, arrays in action.signals.items():
        if to not in others:
            return f"a signal goes to {to!r}, which is no other agent; there are {', '.join(others) or 'none'}"
        for name, value in arrays.items():
            if not isinstance(value, np.ndarray | np.generic) or value.dtype.name not in ANY_DTYPE:
                return f"signal {name} to {to!r} is not an array of {', '.join(ANY_DTYPE)}"
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                return f"signal {name} to {to!r} is not finite"
    return ""


def _ignore(seen: Observation) -> None:
    """What a controller without finish() does with the final observation."""


def _copy(arrays: Arrays) -> dict[str, np.ndarray]:
    """Our own arrays, read-only and of native byte order: whatever anybody does to his must not reach into the run."""
    copies = {}
    for name, value in arrays.items():
        copies[name] = np.array(value, dtype=value.dtype if value.dtype.isnative else value.dtype.newbyteorder("="))
    for value in copies.values():
        value.setflags(write=False)
    return copies
