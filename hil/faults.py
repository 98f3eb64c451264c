"""Faults of links and controllers: a seat whose messages are hurt on their way, or whose controller is away.

A fault of a link works on answers as they would arrive at the twin, and what is left of them is judged as the seat
itself would: by their arrival against the deadline. In lock-step, which has no deadlines, a delay is held against the
nominal one, in simulated time, as if everybody else took none; what is lost is a miss at once.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

import numpy as np

from hil.clock import RealTime, Virtual
from hil.modelled import Modelled
from twin.errors import ScenarioError
from twin.faults import (
    CONTROLLER,
    LINK,
    Corrupt,
    Delay,
    Drop,
    Duplicate,
    Jitter,
    Reorder,
    Restart,
    Span,
    Stall,
    Timeline,
    draws,
)
from twin.record import MOST_WORDS, Record
from twin.runner import Here, LockStep, check_action
from twin.scenario import EXTERNAL, Scenario, agent_seed, make_controller, window_of
from twin.types import Action, Agent, Answer, Observation, Seat
from twin.units import NS_PER_S

NOTED = 100  # messages of one kind of fault that get a line each; the counts say the rest
Hit = Callable[[Span, str, int], None]


class Hands(Protocol):
    """What is done to a controller itself."""

    def kill(self, agent: str) -> None:
        """End it."""

    def start(self, agent: str) -> None:
        """Give its seat to a fresh one."""

    def stop(self, agent: str) -> None:
        """Let it stand still."""

    def go_on(self, agent: str) -> None:
        """Let it go on."""


def check(scenario: Scenario) -> None:
    """Raises ScenarioError for a fault of a controller that is not ours."""
    for i, fault in enumerate(scenario.faults):
        if isinstance(fault, CONTROLLER) and scenario.seating(fault.agent).controller == EXTERNAL:
            raise ScenarioError(
                f"faults[{i}] ({fault.__struct_config__.tag}) is of the controller of {fault.agent!r}, which is "
                f"external: its process is not ours"
            )


class InThisProcess:
    """Lays hands on controllers of this process: who is away is not asked, and a fresh one is another object."""

    def __init__(self, scenario: Scenario):
        self.scenario = scenario
        self._seats: dict[str, Here] = {}

    def holding(self, seat: Here) -> Here:
        """The seat itself, which it knows from now on."""
        self._seats[seat.agent.name] = seat
        return seat

    def kill(self, agent: str) -> None:
        """Nothing: it is not asked any more."""

    def start(self, agent: str) -> None:
        """Give its seat to a fresh one."""
        seat, seating = self._seats[agent], self.scenario.seating(agent)
        seed = agent_seed(self.scenario.seed, agent)
        seat.sit(make_controller(seating.controller, seat.agent, seed, seating.options))

    def stop(self, agent: str) -> None:
        """Nothing: it is not asked."""

    def go_on(self, agent: str) -> None:
        """Nothing: it is asked again."""


class Faults(Timeline):
    """The faults of a run: wraps the seats they hit, and lays hands on the controllers at their time.

    hands       what ends, starts, stops controllers
    wait_until  returns when the clock's time is there, ns: where an answer is held back on its way
    messages    by agent: answers that came too late for anything (`stale`), and copies (`duplicates`)
    """

    def __init__(
        self,
        scenario: Scenario,
        agents: tuple[Agent, ...],
        clock: LockStep | RealTime,
        hands: Hands,
        wait_until: Callable[[int], None],
    ):
        super().__init__(scenario.faults, scenario.slot_s, scenario.seed)
        self.scenario, self.agents, self.clock = scenario, agents, clock
        self.hands, self.wait_until = hands, wait_until
        self.messages: dict[str, dict[str, int]] = {}
        self._models: dict[str, Modelled] = {}
        self._noted: Counter[str] = Counter()

    def seat(self, agent: Agent, seat: Seat) -> Seat:
        """The seat with its faults around it; the seat itself where it has none."""
        link = [s for s in self.spans if isinstance(s.fault, LINK) and s.agent in (None, agent.name)]
        away = [s for s in self.spans if isinstance(s.fault, CONTROLLER) and s.agent == agent.name]
        if isinstance(seat, Modelled):
            self._models[agent.name] = seat
            self.messages[agent.name] = seat.counts
        if type(self.clock) is RealTime:
            away = []  # there the controller's process is really away
        if not link and not away:
            return seat
        counts = self.messages.setdefault(agent.name, {"stale": 0, "duplicates": 0})
        return Faulty(
            seat, agent, self.agents, self.clock, self.wait_until, link, away, self.scenario, self.hit, counts
        )

    def open(self, record: Record) -> None:
        """Note in this record from now on, and count messages there."""
        super().open(record)
        record.meta["messages"] = self.messages

    def begins(self, span: Span) -> None:
        """Lay hands on the controller whose fault begins."""
        fault = span.fault
        if not isinstance(fault, CONTROLLER):
            return
        if isinstance(self.clock, Virtual) and fault.agent in self._models:
            from_ns, until_ns = self.clock.slot_start_ns(span.first), self.clock.slot_start_ns(span.end)
            self._models[fault.agent].interrupt(from_ns, until_ns, lost=not isinstance(fault, Stall))
        if isinstance(fault, Stall):
            self.hands.stop(fault.agent)
        else:
            self.hands.kill(fault.agent)

    def ends(self, span: Span) -> None:
        """Lay hands on the controller whose fault ends."""
        if isinstance(span.fault, Stall):
            self.hands.go_on(span.fault.agent)
        elif isinstance(span.fault, Restart):
            self.hands.start(span.fault.agent)

    def hit(self, span: Span, agent: str, slot: int) -> None:
        """A message was hit: count it, and note it unless a hundred of the kind were."""
        messages = self.listed[span.index]["messages"]
        messages[agent] = messages.get(agent, 0) + 1
        self._noted[span.kind] += 1
        if self._noted[span.kind] <= NOTED:
            self.event("fault_hits", fault=span.kind, index=span.index, agent=agent, slot=slot)


@dataclass
class Question:
    """One observation: when it was released and its answer is due, ns, and why it never reached the controller."""

    release_ns: int
    due_ns: int
    lost: str


class Faulty:
    """A seat behind a bad link, or whose controller is away.

    seat              the seat itself
    wait_until        returns when the clock's time is there, ns
    link, away        faults of its link; of its controller, in which it is not asked
    hit               told of every message that a fault hits
    counts            where answers that came too late for anything, and copies, are counted
    """

    def __init__(
        self,
        seat: Seat,
        agent: Agent,
        agents: tuple[Agent, ...],
        clock: LockStep | RealTime,
        wait_until: Callable[[int], None],
        link: Iterable[Span],
        away: Iterable[Span],
        scenario: Scenario,
        hit: Hit,
        counts: dict[str, int],
    ):
        self.seat, self.agent, self.clock, self.wait_until, self.hit = seat, agent, clock, wait_until, hit
        self.counts = counts
        self._others = tuple(a.name for a in agents if a.name != agent.name)
        self._link, self._away, self._seed = tuple(link), tuple(away), scenario.seed
        self._timed = isinstance(clock, RealTime)
        self._rt_factor = scenario.rt_factor if self._timed else 1.0
        self._cycle_ns = self._wall_ns(agent.every * scenario.slot_s)
        slots = agent.delay or window_of(agent, agents)
        self._nominal_ns = self._wall_ns(slots * scenario.slot_s)  # from release to deadline
        self._asked: dict[int, Question] = {}
        self._late: list[tuple[int, Answer]] = []

    def post(self, seen: Observation, release_ns: int, due_ns: int) -> None:
        """Hand it over, unless it is lost or nobody is there."""
        lost = ""
        for span in self._away:
            if span.holds(seen.slot):
                lost = f"its controller is away ({span.kind})"
        if seen.last:  # the end of a run is not told over a bad link
            if not lost:
                self.seat.post(seen, release_ns, due_ns)
            return
        for span in self._link:
            drops = isinstance(span.fault, Drop) and span.fault.direction == "observation"
            if drops and not lost and self._drawn(span, seen.slot) is not None:
                lost = "the observation was lost on the link"
        self._asked[seen.slot] = Question(release_ns, due_ns, lost)
        if not lost:
            self.seat.post(seen, release_ns, due_ns)

    def take(self, slot: int) -> Answer:
        """The answer as it stands at its deadline; time has passed until it came, or until then."""
        asked = self._asked.pop(slot)
        if asked.lost:
            return self._missing(asked, asked.lost)
        answer = self.seat.take(slot)
        if answer.status == "missing":
            return answer
        passed, held_ns = self._pass(slot, answer)
        if passed is None:
            return self._missing(asked, "the answer was lost on the link", answer)
        arrived_ns = passed.stamps.get("arrived", 0)
        late_ns = arrived_ns - asked.due_ns if self._timed else held_ns - self._nominal_ns
        if late_ns > 0:
            self._came_late(slot, passed, late_ns)
            return self._missing(asked, "no answer by the deadline", answer)
        if self._timed and held_ns:
            self.wait_until(arrived_ns)
        return passed

    @property
    def late(self) -> list[tuple[int, Answer]]:
        """Late answers, those of the seat itself among them; they came over the same link."""
        came, self.seat.late[:] = self.seat.late[:], []
        for slot, answer in came:
            passed, _ = self._pass(slot, answer)
            if passed is not None:
                self._came_late(slot, passed, passed.stamps["arrived"] - self.clock.due_ns(self.agent, slot))
        return self._late

    def _came_late(self, slot: int, answer: Answer, late_ns: int) -> None:
        """Late if valid and before the seat's next deadline, else stale."""
        if answer.status == "on_time" and late_ns <= self._cycle_ns:
            self._late.append((slot, answer))
        else:
            self.counts["stale"] += 1

    def _missing(self, asked: Question, reason: str, answer: Answer | None = None) -> Answer:
        """A cycle without an answer, which a twin that has deadlines knows only then."""
        if self._timed:
            self.wait_until(asked.due_ns)
        stamps = (
            {name: answer.stamps[name] for name in ("begin", "observed", "sent") if name in answer.stamps}
            if answer
            else {}
        )
        if answer is None and isinstance(self.clock, Virtual):
            stamps = dict.fromkeys(("begin", "observed"), asked.release_ns)
        return Answer(None, "missing", reason=reason, stamps=stamps)

    def _pass(self, slot: int, answer: Answer) -> tuple[Answer | None, int]:
        """What the link leaves of an answer (None: nothing), and how long it holds it back, ns."""
        held_ns = 0
        for span in self._link:
            fault = span.fault
            if isinstance(fault, Drop) and fault.direction == "observation":
                continue
            rng = self._drawn(span, slot)
            if rng is None:
                continue
            if isinstance(fault, Drop):
                return None, held_ns
            if isinstance(fault, Delay):
                held_ns += self._wall_ns(fault.delay_s)
            elif isinstance(fault, Jitter):
                held_ns += self._wall_ns(rng.uniform(0.0, fault.jitter_s))
            elif isinstance(fault, Reorder):
                held_ns += self._cycle_ns
            elif isinstance(fault, Duplicate):
                self.counts["duplicates"] += 1
            elif isinstance(fault, Corrupt) and answer.action is not None:
                answer = self._corrupted(answer, answer.action, rng)
        if held_ns and self._timed:
            answer = answer._replace(stamps={**answer.stamps, "arrived": answer.stamps.get("arrived", 0) + held_ns})
        return answer, held_ns

    def _drawn(self, span: Span, slot: int) -> np.random.Generator | None:
        """What else is drawn for this message, if the fault hits it."""
        if not span.holds(slot):
            return None
        rng = draws(self._seed, span.index, crc32(self.agent.name.encode()), slot)
        if rng.random() >= span.fault.probability:
            return None
        self.hit(span, self.agent.name, slot)
        return rng

    def _corrupted(self, answer: Answer, action: Action, rng: np.random.Generator) -> Answer:
        try:
            action = flip(action, rng)
            reason = check_action(self.agent, action, self._others)
        except ValueError as error:
            reason = str(error)
        if reason:
            return Answer(None, "invalid", reason=f"changed on the link: {reason}"[:MOST_WORDS], stamps=answer.stamps)
        return answer._replace(action=action)

    def _wall_ns(self, simulated_s: float) -> int:
        return round(simulated_s / self._rt_factor * NS_PER_S)


def flip(action: Action, rng: np.random.Generator) -> Action:
    """The action with one byte of its arrays changed. Raises ValueError where that makes a bool that is none."""
    bundles: dict[str, Mapping[str, np.ndarray]] = {"": action.values}
    bundles |= {to: action.signals[to] for to in sorted(action.signals)}
    places = [(to, name) for to, arrays in bundles.items() for name in sorted(arrays)]
    sizes = [np.asarray(bundles[to][name]).nbytes for to, name in places]
    if not sum(sizes):
        return action
    at, change = int(rng.integers(sum(sizes))), int(rng.integers(1, 256))
    ends = np.cumsum(sizes)
    which = int(np.searchsorted(ends, at, side="right"))
    to, name = places[which]
    value = np.asarray(bundles[to][name])
    value = value.astype(value.dtype.newbyteorder("<"))  # as it travels
    data = bytearray(value.tobytes())
    data[at - int(ends[which]) + sizes[which]] ^= change
    if value.dtype.kind == "b" and max(data) > 1:
        raise ValueError(f"{name} is bool, but has bytes other than 0 and 1")
    changed = {**bundles[to], name: np.frombuffer(bytes(data), value.dtype).reshape(value.shape)}
    if to == "":
        return Action(changed, action.signals)
    return Action(action.values, {**action.signals, to: changed})
