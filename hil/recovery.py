"""What a run's record says about faults: how old the information behind the actions was, and how long recovery took."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from twin.faults import LINK
from twin.record import SOURCES, STATUSES, Record

LINK_KINDS = tuple(str(kind.__struct_config__.tag) for kind in LINK)


@dataclass(frozen=True)
class Age:
    """How long ago the observation was made that the action in force is an answer to, over the slots of a run.

    slots    slots in which there is such an observation; without: those in which a default was in force
    mean, p50, p99, max  slots; None where there is none
    slot_s   s; None where the record does not say
    """

    slots: int
    without: int
    mean: float | None
    p50: float | None
    p99: float | None
    max: float | None
    slot_s: float | None

    @classmethod
    def of(cls, ages: np.ndarray, slot_s: float | None) -> "Age":
        """From the age in each slot, in slots; NaN where there is none."""
        known = ages[np.isfinite(ages)]
        if not known.size:
            return cls(0, ages.size, None, None, None, None, slot_s)
        p50, p99 = (float(x) for x in np.percentile(known, (50, 99)))
        return cls(known.size, ages.size - known.size, float(known.mean()), p50, p99, float(known.max()), slot_s)

    def to_dict(self) -> dict[str, Any]:
        """In slots and in seconds, as `--json` prints it."""
        slots = {"mean": self.mean, "p50": self.p50, "p99": self.p99, "max": self.max}
        slot_s = self.slot_s
        seconds = {name: None if value is None or slot_s is None else value * slot_s for name, value in slots.items()}
        return {"slots": slots, "s": seconds, "slots_without": self.without}


def ages(record: Record, name: str) -> np.ndarray:
    """Age of the information behind an agent's action in force, slots, in each slot flown; NaN for a default.

    An agent's answer is as old as its observation; what is held ages on; a late answer that stands in is a cycle older.
    """
    about, columns = record.meta["agents"][name], record.decisions[name]
    settled = int(np.count_nonzero(columns["status"]))
    source = np.asarray(columns["source"][:settled])
    asked = np.arange(settled, dtype=float) * about["every"]
    seen = np.where(source == SOURCES.index("agent"), asked, np.nan)
    seen = np.where(source == SOURCES.index("late"), asked - about["every"], seen)
    held = source == SOURCES.index("hold")
    row = np.maximum.accumulate(np.where(held, 0, np.arange(settled)))  # the last one that changed what is in force
    based_on = seen[row]
    flown = int(np.count_nonzero(record.slots["written"])) if "written" in record.slots else 0
    slot = np.arange(flown)
    in_force = (slot - about["delay"]) // about["every"]
    known = (in_force >= 0) & (in_force < settled)
    return np.where(known, slot - based_on[np.where(known, in_force, 0)] if settled else np.nan, np.nan)


def age_of_information(record: Record, name: str) -> Age:
    """The ages of a run at a glance."""
    return Age.of(ages(record, name), record.meta.get("slot_s"))


@dataclass(frozen=True)
class Hit:
    """What a fault did to one agent.

    messages            that it hit; None for a fault that hits none
    misses              of the cycles asked while it lasted
    cycles_to_recovery  cycles asked from its end on (a kill has none: from its start) before the first that was
                        answered on time; 0: the first was; None: none was, or the fault lasted to the end
    """

    messages: int | None
    misses: int
    cycles_to_recovery: int | None


@dataclass(frozen=True)
class FaultReport:
    """One fault of the scenario in a run: in which slots, whether it came at all, and what it did to whom."""

    kind: str
    agent: str | None
    first_slot: int
    last_slot: int
    comes: bool
    hits: dict[str, Hit]

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "kind": self.kind,
            "agent": self.agent,
            "first_slot": self.first_slot,
            "last_slot": self.last_slot,
            "comes": self.comes,
            "agents": {name: vars(hit) for name, hit in self.hits.items()},
        }


def faults(record: Record) -> list[FaultReport]:
    """The faults of a run, in the scenario's order. Those of the sky make nobody miss, so they hit no agent here."""
    return [_fault(record, listed) for listed in record.meta.get("faults", [])]


def _fault(record: Record, listed: dict[str, Any]) -> FaultReport:
    kind, first, last = listed["kind"], listed["first_slot"], listed["last_slot"]
    of_link = kind in LINK_KINDS
    concerned = [listed["agent"]] if listed["agent"] is not None else list(record.decisions) if of_link else []
    hits = {}
    for name in concerned if listed["comes"] else []:
        status = np.asarray(record.decisions[name]["status"])
        asked = np.arange(status.size) * record.meta["agents"][name]["every"]
        settled, on_time = status > 0, status == STATUSES.index("on_time")
        during = settled & (asked >= first) & (asked <= last)
        after = np.flatnonzero(settled & (asked >= (first if kind == "kill" else last + 1)))
        again = np.flatnonzero(on_time[after])
        hits[name] = Hit(
            messages=listed["messages"].get(name, 0) if of_link else None,
            misses=int(np.count_nonzero(during & ~on_time)),
            cycles_to_recovery=int(again[0]) if again.size else None,
        )
    return FaultReport(kind, listed["agent"], first, last, listed["comes"], hits)
