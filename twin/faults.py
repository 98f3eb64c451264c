"""The faults of a scenario: what its [[faults]] tables may say, in which slots each lasts, and whether it comes at all.

A fault lasts for every slot that its interval touches. What is left to chance is drawn from the scenario's seed by the
fault's place in the list, the agent and the slot, so it does not depend on who asks first, or where anybody runs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from twin.record import Record

OF_FAULTS = 3  # second word of the seeds drawn here; 1 and 2 are the worlds'
END = 2**62  # a slot that never comes

Start = Annotated[float, Meta(ge=0, le=1e9, description="when it begins, simulated s")]
Duration = Annotated[float, Meta(gt=0, le=1e9, description="how long it lasts, simulated s; not set: to the end")]
Chance = Annotated[float, Meta(ge=0, le=1, description="probability that it comes at all")]
PerMessage = Annotated[float, Meta(ge=0, le=1, description="probability that a message is hit, each by itself")]


class LinkFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """A fault of the link between the twin and a controller."""

    agent: Annotated[str, Meta(description="whose link; not set: every agent's")] | None = None
    start_s: Start = 0.0
    duration_s: Duration | None = None
    probability: PerMessage = 1.0


class Delay(LinkFault, tag="delay", frozen=True, kw_only=True):
    """Answers arrive later, each by the same time."""

    delay_s: Annotated[float, Meta(gt=0, le=1e6, description="added to every answer's arrival, simulated s")]


class Jitter(LinkFault, tag="jitter", frozen=True, kw_only=True):
    """Answers arrive later, each by a time of its own, uniform from 0 to the largest."""

    jitter_s: Annotated[float, Meta(gt=0, le=1e6, description="the largest time added, simulated s")]


class Drop(LinkFault, tag="drop", frozen=True, kw_only=True):
    """Messages are lost."""

    direction: Annotated[
        Literal["answer", "observation"],
        Meta(description="what is lost; of an observation that is lost the controller never knows"),
    ] = "answer"


class Duplicate(LinkFault, tag="duplicate", frozen=True, kw_only=True):
    """Answers arrive twice; the copy is counted and changes nothing."""


class Reorder(LinkFault, tag="reorder", frozen=True, kw_only=True):
    """Answers are overtaken by the next one: they arrive one control cycle later."""


class Corrupt(LinkFault, tag="corrupt", frozen=True, kw_only=True):
    """One byte of an answer's arrays is changed; what still passes the check is put in force, wrong as it is."""


class Kill(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="kill"):
    """The controller's process is killed; the seat is vacant from then on."""

    agent: Annotated[str, Meta(description="whose controller")]
    start_s: Start = 0.0
    probability: Chance = 1.0

    @property
    def duration_s(self) -> None:
        """For ever."""
        return None


class Stall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="stall"):
    """The controller's process stands still, and then goes on."""

    agent: Annotated[str, Meta(description="whose controller")]
    start_s: Start = 0.0
    duration_s: Duration | None = None
    probability: Chance = 1.0


class Restart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="restart"):
    """The controller's process is killed; a fresh one, with nothing learned, takes the seat afterwards."""

    agent: Annotated[str, Meta(description="whose controller")]
    start_s: Start = 0.0
    duration_s: Annotated[float, Meta(gt=0, le=1e9, description="until the fresh one is started, simulated s")]
    probability: Chance = 1.0


class SkyFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """A fault of the world, not of its controllers."""

    start_s: Start = 0.0
    duration_s: Duration | None = None
    probability: Chance = 1.0


class Blockage(SkyFault, tag="blockage", frozen=True, kw_only=True):
    """Something stands in the way of the serving link: a loss that comes and goes at once."""

    loss_db: Annotated[float, Meta(ge=0, le=200, description="loss of the serving link, dB")] = 30.0


class Rain(SkyFault, tag="rain", frozen=True, kw_only=True):
    """A shower: a loss of the serving link that rises and falls as one period of a raised cosine."""

    loss_db: Annotated[float, Meta(ge=0, le=200, description="loss at the peak, in the middle, dB")] = 10.0


class StaleTle(SkyFault, tag="stale_tle", frozen=True, kw_only=True):
    """Controllers are told old orbits, while the world flies the true ones."""

    tle: (
        Annotated[
            str,
            Meta(description="element sets they are told, a path beside the scenario file; not set: along_track_km"),
        ]
        | None
    ) = None
    along_track_km: Annotated[
        float,
        Meta(ge=0, le=20, description="standard deviation of each satellite's error along its orbit, km"),
    ] = 2.0


class ClockSkew(SkyFault, tag="clock_skew", frozen=True, kw_only=True):
    """Controllers are told the geometry of another time."""

    skew_s: Annotated[float, Meta(ge=-10, le=10, description="they are told what holds so much later, s")]


ControllerFault = Kill | Stall | Restart
LINK = (Delay, Jitter, Drop, Duplicate, Reorder, Corrupt)
CONTROLLER = (Kill, Stall, Restart)
SKY = (Blockage, Rain, StaleTle, ClockSkew)
Fault = (
    Delay
    | Jitter
    | Drop
    | Duplicate
    | Reorder
    | Corrupt
    | Kill
    | Stall
    | Restart
    | Blockage
    | Rain
    | StaleTle
    | ClockSkew
)
KINDS: dict[str, type] = {str(kind.__struct_config__.tag): kind for kind in (*LINK, *CONTROLLER, *SKY)}


@dataclass(frozen=True)
class Span:
    """A fault in a run: its place in the scenario's list, and the slots it lasts.

    end    the first slot after it, END where it lasts to the end
    comes  whether it comes at all; a link's faults do, and are drawn per message
    """

    index: int
    fault: Fault
    first: int
    end: int
    comes: bool

    @property
    def kind(self) -> str:
        """What the scenario calls it."""
        return str(self.fault.__struct_config__.tag)

    @property
    def agent(self) -> str | None:
        """Whom it is for; None: every agent, or the sky."""
        return getattr(self.fault, "agent", None)

    def holds(self, slot: int) -> bool:
        """Whether it lasts in this slot."""
        return self.comes and self.first <= slot < self.end


def spans(faults: Sequence[Fault], slot_s: float, seed: int) -> list[Span]:
    """The slots of each fault; it lasts for every slot that its interval touches."""
    found = []
    for index, fault in enumerate(faults):
        first = math.floor(fault.start_s / slot_s + 1e-9)  # a whole number of slots, whatever its last bit says
        end = END
        if fault.duration_s is not None:
            end = max(first + 1, math.ceil((fault.start_s + fault.duration_s) / slot_s - 1e-9))
        comes = isinstance(fault, LINK) or draws(seed, index).random() < fault.probability
        found.append(Span(index, fault, first, end, bool(comes)))
    return found


def draws(seed: int, index: int, *more: int) -> np.random.Generator:
    """What is left to chance in a fault, and in one message or satellite of it."""
    return np.random.default_rng([seed, OF_FAULTS, index, *more])


def summary(faults: Sequence[Fault], slots: int, slot_s: float, seed: int) -> list[dict[str, Any]]:
    """The faults of a run as its meta.json lists them; `messages` are those hit so far, by agent."""
    return [
        {
            "kind": span.kind,
            "agent": span.agent,
            "first_slot": span.first,
            "last_slot": min(span.end, slots) - 1,
            "comes": span.comes and span.first < slots,
            "messages": {},
        }
        for span in spans(faults, slot_s, seed)
    ]


class Timeline:
    """The faults of a run, noted in its record as they begin and end."""

    def __init__(self, faults: Sequence[Fault], slot_s: float, seed: int):
        self.spans = spans(faults, slot_s, seed)
        self.event: Callable[..., None] = lambda kind, **what: None
        self.listed: list[dict[str, Any]] = []

    def open(self, record: Record) -> None:
        """Note in this record from now on."""
        self.event, self.listed = record.event, record.meta["faults"]

    def at(self, slot: int) -> None:
        """A slot starts."""
        for span in self.spans:
            if slot == span.end and span.comes:
                self.event("fault_ends", **self._what(span), slot=slot)
                self.ends(span)
        for span in self.spans:
            if slot == span.first and span.comes:
                self.event("fault_begins", **self._what(span), slot=slot)
                self.begins(span)

    def begins(self, span: Span) -> None:
        """What else happens when it begins."""

    def ends(self, span: Span) -> None:
        """What else happens when it ends."""

    def _what(self, span: Span) -> dict[str, Any]:
        return {"fault": span.kind, "index": span.index, "agent": span.agent}
