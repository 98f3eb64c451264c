"""Virtual time: what an answer took is modelled, and judged against the deadline that real time would have held.

The answer itself is awaited, however long it takes on this computer. A controller still busy with one observation
begins the next one after it; what is past its deadline by then, with a newer one there, it never sees, as a process
skips it in real time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hil.clock import Virtual
from hil.offset import to_the_twins_clock
from twin.errors import ScenarioError
from twin.record import STATUSES, Record
from twin.scenario import Latency, Seating, agent_seed
from twin.types import Agent, Answer, Observation, Seat
from twin.units import NS_PER_S

Took = Callable[[int, Answer], float]  # slot and answer -> ns of this computer; infinite: it never came
NEVER_NS = 2**60


@dataclass
class Cycle:
    """One question in virtual time, ns: when it was released, is due, and the controller turned to it."""

    release_ns: int
    due_ns: int
    begun_ns: int
    skipped: bool
    answer: Answer | None = None


class Modelled:
    """A seat whose answers arrive when a model says, on a clock that stands still.

    seat   where the answers come from; it is told of no deadline
    took   the model of a response time on this computer
    scale  a computer this many times slower
    counts answers that came after the seat's next deadline (`stale`); others add what they count
    """

    def __init__(self, seat: Seat, clock: Virtual, agent: Agent, took: Took, scale: float):
        self.seat, self.clock, self.agent, self.took, self.scale = seat, clock, agent, took, scale
        self.late: list[tuple[int, Answer]] = []
        self.counts = {"stale": 0, "duplicates": 0}
        self._cycles: dict[int, Cycle] = {}
        self._busy_until_ns = 0

    def post(self, seen: Observation, release_ns: int, due_ns: int) -> None:
        """Hand it over, unless the controller would not have looked at it."""
        if seen.last:
            self.seat.post(seen, 0, 0)
            return
        for slot in self._cycles:
            self._answer(slot)  # what is still on its way says until when the controller is busy
        begun_ns = max(release_ns, self._busy_until_ns)
        newer_ns = self.clock.slot_start_ns(seen.slot + self.agent.every)
        cycle = Cycle(release_ns, due_ns, begun_ns, skipped=begun_ns >= max(due_ns, newer_ns))
        self._cycles[seen.slot] = cycle
        if not cycle.skipped:
            self.seat.post(seen, 0, 0)

    def take(self, slot: int) -> Answer:
        """The answer as it would have stood at its deadline; time has passed until it came, or until then."""
        self._answer(slot)
        cycle = self._cycles.pop(slot)
        answer = cycle.answer
        assert answer is not None
        arrived_ns = answer.stamps.get("arrived", NEVER_NS)
        self.clock.pass_until(min(arrived_ns, cycle.due_ns))
        if arrived_ns <= cycle.due_ns:
            return answer
        reason = "no answer by the deadline" if arrived_ns < NEVER_NS else answer.reason
        if answer.status == "on_time" and arrived_ns <= cycle.due_ns + self._cycle_ns(slot):
            self.late.append((slot, answer))
        elif arrived_ns < NEVER_NS:
            self.counts["stale"] += 1
        stamps = {"begin": cycle.release_ns, "observed": cycle.release_ns, "sent": cycle.release_ns}
        stamps["cpu_ns"] = answer.stamps.get("cpu_ns", 0)  # used, though in vain
        return Answer(None, "missing", reason=reason, stamps=stamps)

    def interrupt(self, from_ns: int, until_ns: int, lost: bool) -> None:
        """The controller stands still for a while, and whatever it is at takes so much longer, or is lost."""
        for slot, cycle in self._cycles.items():
            self._answer(slot)
            answer = cycle.answer
            assert answer is not None
            if answer.stamps.get("arrived", 0) <= from_ns:
                continue
            if lost:
                cycle.answer = Answer(None, "missing", reason="the controller was killed meanwhile")
                continue
            later = {name: answer.stamps[name] for name in ("acted", "replied", "arrived") if name in answer.stamps}
            later = {name: min(at + until_ns - from_ns, NEVER_NS) for name, at in later.items()}
            cycle.answer = answer._replace(stamps={**answer.stamps, **later})
        rest_ns = 0 if lost else max(0, self._busy_until_ns - from_ns)
        self._busy_until_ns = until_ns + rest_ns

    def _answer(self, slot: int) -> None:
        """Await the answer to a question, and put it where it would have been in time."""
        cycle = self._cycles[slot]
        if cycle.answer is not None:
            return
        if cycle.skipped:
            cycle.answer = Answer(None, "missing", reason="the controller was still busy")
            return
        answer = self.seat.take(slot)
        took_ns = self.took(slot, answer) if answer.status != "missing" else math.inf
        if not math.isfinite(took_ns):
            cycle.answer = Answer(None, "missing", reason=answer.reason or "the model has no answer")
            return
        compute_ns = round(took_ns)
        acted_ns = cycle.begun_ns + compute_ns
        arrived_ns = cycle.begun_ns + min(round(took_ns * self.scale), NEVER_NS // 2)
        self._busy_until_ns = arrived_ns
        at = {"begin": cycle.release_ns, "observed": cycle.release_ns, "sent": cycle.release_ns}
        at |= dict.fromkeys(("waiting", "received", "decoded"), cycle.begun_ns)
        at |= {"acted": acted_ns, "replied": acted_ns, "arrived": arrived_ns, "emulation_ns": arrived_ns - acted_ns}
        cycle.answer = answer._replace(stamps={**answer.stamps, "cpu_ns": compute_ns, **at})

    def _cycle_ns(self, slot: int) -> int:
        return self.clock.slot_start_ns(slot + self.agent.every) - self.clock.slot_start_ns(slot)


def model_of(agent: Agent, seating: Seating, seed: int) -> Took:
    """The model a seat's `latency` names. Raises ScenarioError or RecordError for a recorded run that does not fit."""
    latency = seating.latency
    if not isinstance(latency, Latency):
        return _measured
    if latency.fixed_s is not None:
        fixed_ns = latency.fixed_s * NS_PER_S
        return lambda slot, answer: fixed_ns
    if latency.lognormal is not None:
        median_s, sigma = latency.lognormal.median_s, latency.lognormal.sigma
        rng = np.random.default_rng([agent_seed(seed, agent.name), 1])
        return lambda slot, answer: median_s * math.exp(sigma * rng.standard_normal()) * NS_PER_S
    assert latency.recorded is not None
    return _recorded(agent, latency.recorded)


def _measured(slot: int, answer: Answer) -> float:
    """What the controller says it used; where it does not say, from our question to its answer."""
    stamps = answer.stamps
    return stamps.get("cpu_ns") or stamps.get("arrived", 0) - stamps.get("sent", 0)


def _recorded(agent: Agent, folder: str) -> Took:
    """Cycle n takes as long as in a recorded run, from its release, without what it waited in the queue."""
    record = Record.open(folder)
    if agent.name not in record.decisions:
        raise ScenarioError(f"agent.{agent.name}.latency: run {folder} has no seat {agent.name!r}")
    if record.meta["clock"] == "lockstep":
        raise ScenarioError(f"agent.{agent.name}.latency: run {folder} is a lock-step run, whose times mean nothing")
    columns, _, _ = to_the_twins_clock(record, agent.name, dict(record.decisions[agent.name]))
    status, arrived = np.asarray(columns["status"]), np.asarray(columns["arrived_ns"]).astype(float)
    sent, waiting = np.asarray(columns["sent_ns"]), np.asarray(columns["waiting_ns"])
    queue = np.where(waiting > 0, np.clip(waiting - sent, 0, np.maximum(arrived - sent, 0)), 0)
    took_ns = np.where(arrived > 0, arrived - columns["release_ns"] - queue, np.inf)
    settled = int(np.count_nonzero(status != STATUSES.index("unwritten")))

    def took(slot: int, answer: Answer) -> float:
        row = slot // agent.every
        if row >= settled:
            raise ScenarioError(
                f"agent.{agent.name}.latency: run {folder} has {settled} cycles, none for slot {slot}; fly fewer slots"
            )
        return float(took_ns[row])

    return took
