"""Seats of a recorded run: one hands out what was answered, the other asks another controller beside it.

A shadow is told what the recorded controller was told: observations, rewards and signals come of the recorded actions,
never of its own. So it is judged cycle by cycle, open loop; how it would have flown, only a run can say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hil.latency import Spread
from twin.record import SOURCES, STATUSES, Record
from twin.runner import Here
from twin.scenario import Seating
from twin.types import Action, Agent, Answer, Arrays, Observation
from twin.units import NS_PER_US

FROM_THE_AGENT = ("agent", "late")  # sources of an action that the agent decided; any other on_miss finds again


class RecordEnds(Exception):
    """Nothing more is recorded."""


class Replayed:
    """A seat whose answers were recorded: `post` remembers nothing, `take` hands out what the agent had in force.

    Where that was none of the agent's, no action is handed out: `on_miss` finds the same one again.
    """

    def __init__(self, record: Record, agent: Agent, sent: Mapping[int, Mapping[str, Arrays]]):
        self.agent, self.columns = agent, record.decisions[agent.name]
        self.late: list[Any] = []
        self._sent = sent
        self._reasons = {
            e["slot"]: e.get("reason", "")
            for e in record.events
            if e["event"] == "invalid" and e.get("agent") == agent.name and "slot" in e
        }

    def post(self, seen: Observation, release_ns: int, due_ns: int) -> None:
        """What was answered is known."""

    def take(self, slot: int) -> Answer:
        """How the cycle was recorded. Raises RecordEnds where it was not."""
        row, agent = slot // self.agent.every, self.agent
        status, source = STATUSES[self.columns["status"][row]], SOURCES[self.columns["source"][row]]
        if status == "unwritten":
            raise RecordEnds(f"nothing is recorded of what {agent.name} did at slot {slot}")
        if source not in FROM_THE_AGENT:
            return Answer(None, status, source, reason=self._reasons.get(slot, ""))
        values = {f.name: np.array(self.columns[f"action.{f.name}"][row]) for f in agent.acts}
        sent = self._sent.get(slot, {})
        if (
            sum(value.nbytes for arrays in sent.values() for value in arrays.values())
            != self.columns["signal_bytes"][row]
        ):
            raise RecordEnds(f"signals.bin lacks what {agent.name} sent at slot {slot}")
        return Answer(Action(values, sent), status, source)

    def window_us(self, slot: int) -> float | None:
        """From the release of a cycle to its deadline, as recorded; None where the clock knew none."""
        row = slot // self.agent.every
        due, release = int(self.columns["due_ns"][row]), int(self.columns["release_ns"][row])
        return (due - release) / NS_PER_US if due else None

    def slack_us(self, slot: int) -> float | None:
        """What was left before the deadline when the answer came, as it was told; None for a miss."""
        row = slot // self.agent.every
        due, arrived = int(self.columns["due_ns"][row]), int(self.columns["arrived_ns"][row])
        on_time = STATUSES[self.columns["status"][row]] == "on_time"
        return (due - arrived) / NS_PER_US if due and arrived and on_time else None


@dataclass(frozen=True)
class Agreement:
    """How far two controllers agree on one field of the action, over all elements of the cycles that both answered.

    equal_share        of the elements that are the same
    mean_abs, max_abs  of the difference, in the field's unit; None for booleans, or where no cycle was answered by both
    """

    equal_share: float | None
    mean_abs: float | None = None
    max_abs: float | None = None

    @classmethod
    def of(cls, recorded: np.ndarray, shadow: np.ndarray) -> "Agreement":
        """Of two arrays of one shape, one row per cycle."""
        if recorded.size == 0:
            return cls(None)
        share = float(np.mean(recorded == shadow))
        if recorded.dtype.kind == "b":
            return cls(share)
        apart = np.abs(recorded.astype(float) - shadow.astype(float))
        return cls(share, float(apart.mean()), float(apart.max()))


@dataclass(frozen=True)
class ShadowReport:
    """What a controller would have answered on a seat, beside what was answered there.

    answers      cycles it was asked in and that the recorded run settled; of these `invalid`, the first with its reason
    compared     of these, how many the recorded controller also answered
    compute_us   wall time of its act(), stretched by the seat's compute_scale; the first is apart
    deadline_us  from release to deadline, as recorded
    in_time      answers whose compute time alone fits; `judged` had a deadline; None where the clock knew none
    """

    controller: str
    recorded_controller: str
    answers: int
    invalid: int
    first_invalid: str
    compared: int
    agreement: dict[str, Agreement]
    compute_us: Spread
    first_compute_us: float | None
    deadline_us: Spread
    in_time: int | None
    judged: int

    def lines(self, agent: str) -> list[str]:
        """What a person wants to know of it."""
        rows = [("invalid", self.first_invalid)] if self.invalid else []
        for name, part in self.agreement.items():
            said = "nothing to compare" if part.equal_share is None else f"equal {part.equal_share:.1%}"
            if part.mean_abs is not None:
                said += f", apart by {part.mean_abs:.4g} in the mean, {part.max_abs:.4g} at most"
            rows.append((name, said))
        if self.first_compute_us is not None:
            spread = {q: getattr(self.compute_us, q) for q in ("p50", "p99", "max")}
            known = [f"{q} {value:,.0f}" for q, value in spread.items() if value is not None]
            rows.append(("compute", ", ".join([*known, f"the first {self.first_compute_us:,.0f} us"])))
        if self.in_time is not None:
            fits = f"compute alone fits in {self.in_time} of {self.judged}"
            rows.append(("deadline", f"p50 {self.deadline_us.p50:,.0f} us: {fits}"))
        head = f"{agent}: {self.controller} beside {self.recorded_controller}"
        counts = f"{self.answers} answers, {self.invalid} invalid, {self.compared} compared"
        width = max((len(name) for name, _ in rows), default=0)
        return [f"{head}: {counts}", *(f"  {name:<{width}}  {said}" for name, said in rows)]


class Shadow:
    """A recorded seat with another controller beside it, which is told the same and whose answers go nowhere."""

    def __init__(self, seat: Replayed, here: Here, default: Arrays):
        self.seat, self.here = seat, here
        self.late: list[Any] = []
        self.in_force: Arrays = default
        self.answers: list[tuple[int, Answer, Answer]] = []  # slot, the recorded one, the shadow's
        self._slack_us: float | None = None

    def post(self, seen: Observation, release_ns: int, due_ns: int) -> None:
        """Ask the controller, with the times that were recorded."""
        told = dict(seen.timing)
        if not seen.last:
            told |= {"deadline_us": self.seat.window_us(seen.slot), "slack_us": self._slack_us}
        if told.get("status") == "late":
            told["status"] = "missing"  # that it came after all was found out later
        self.here.post(replace(seen, timing=told), release_ns, due_ns)

    def take(self, slot: int) -> Answer:
        """The recorded answer; the shadow's is kept."""
        recorded = self.seat.take(slot)
        shadow = self.here.take(slot)
        self._slack_us = self.seat.slack_us(slot)
        self.answers.append((slot, recorded, shadow))
        return recorded

    def decided(self) -> tuple[Answer, Arrays]:
        """The last answer, and the action that would hold now."""
        _, _, answer = self.answers[-1]
        if answer.action is not None:
            self.in_force = answer.action.values
        return answer, self.in_force

    def report(self, controller: str, seating: Seating) -> ShadowReport:
        """Compare all its answers with the recorded ones."""
        both = [(r.action.values, s.action.values) for _, r, s in self.answers if r.action and s.action]
        agreement = {
            f.name: Agreement.of(np.array([r[f.name] for r, _ in both]), np.array([s[f.name] for _, s in both]))
            for f in self.seat.agent.acts
        }
        invalid = [(slot, shadow.reason) for slot, _, shadow in self.answers if shadow.status == "invalid"]
        took_us = np.array([_compute_us(shadow, seating.compute_scale) for _, _, shadow in self.answers])
        window_us = np.array([self.seat.window_us(slot) or np.nan for slot, _, _ in self.answers])
        judged = np.isfinite(window_us)
        return ShadowReport(
            controller=controller,
            recorded_controller=seating.controller,
            answers=len(self.answers),
            invalid=len(invalid),
            first_invalid="slot {}: {}".format(*invalid[0]) if invalid else "",
            compared=len(both),
            agreement=agreement,
            compute_us=Spread.of(took_us[1:]),
            first_compute_us=float(took_us[0]) if took_us.size else None,
            deadline_us=Spread.of(window_us),
            in_time=int(np.sum(took_us[judged] <= window_us[judged])) if judged.any() else None,
            judged=int(judged.sum()),
        )


def _compute_us(answer: Answer, scale: float) -> float:
    """What act() took, on a computer `scale` times slower."""
    stamps = answer.stamps
    return (stamps["acted"] - stamps["decoded"] + (scale - 1.0) * stamps["cpu_ns"]) / NS_PER_US
