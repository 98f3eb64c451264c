"""The protocols: what a world, a controller, a seat and a clock are. Everything may import this file.

Four ideas: physics is a library and the world a service; an agent is a seat; the answer to observation n takes
effect at slot n + delay, never earlier, and late means not at all; seats and clocks are the only things that vary.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Field(NamedTuple):
    """One named array, as the wire and the docs describe it. The unit is the suffix of the name."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float64"
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class Agent:
    """A seat's contract: what it observes and acts with, and when.

    every   control cycle in slots
    order   inside a slot the lower order decides first; equal orders decide at once, unseen by each other
    delay   slots from observation to effect; 0 is within the slot
    window  delay 0: the part of the slot, from its start, for answering; None takes the default of docs/hil.md
    facts   constants told once, with the welcome
    """

    name: str
    observes: tuple[Field, ...]
    acts: tuple[Field, ...]
    every: int = 1
    order: int = 0
    delay: int = 0
    window: float | None = None
    facts: Arrays = field(default_factory=dict)

    @property
    def observed_bytes(self) -> int:
        """Size of the arrays of one observation."""
        return sum(math.prod(f.shape) * np.dtype(f.dtype).itemsize for f in self.observes)


@dataclass(frozen=True)
class Observation:
    """What an agent is told at a slot. Time is slot * slot_s, never a running sum.

    reward   earned since this agent's last observation; None in the first
    last     True closes the rewards and wants no answer
    signals  from other agents, by sender: the newest of each since the last observation
    timing   deadline_us, slack_us, status, action_source, age_slots; filled by the seat, not part of the trajectory
    """

    agent: str
    slot: int
    values: Arrays
    reward: float | None = None
    last: bool = False
    signals: Mapping[str, Arrays] = field(default_factory=dict)
    timing: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """What an agent answers: arrays for the world, and signals by receiver, whose bytes are counted."""

    values: Arrays
    signals: Mapping[str, Arrays] = field(default_factory=dict)


class Answer(NamedTuple):
    """How a cycle ended, after the check, on_miss, emulation and faults.

    action   to put in force; None holds the last
    status   "on_time", "missing", "late" or "invalid"
    source   of the action in force: "agent", "hold", "default", or "late": the agent's, but one cycle old
    stamps   ns, monotonic; to the record
    reason   why an answer is invalid or missing, for the record's events
    """

    action: Action | None
    status: str = "on_time"
    source: str = "agent"
    stamps: Mapping[str, int] = {}
    reason: str = ""


class Outcome(NamedTuple):
    """What a slot brought: the reward of each agent, and the measures that go straight to the record."""

    reward: Mapping[str, float]
    measures: Arrays
    done: bool = False


@runtime_checkable
class World(Protocol):
    """A simulated system that agents observe and act on, slot by slot."""

    slot_s: float
    agents: tuple[Agent, ...]

    def reset(self, seed: int) -> None:
        """Begin at slot 0 with all randomness drawn from `seed`."""

    def default(self, agent: str) -> Arrays:
        """The safe action: in force before the first answer, or on a miss."""

    def propagation_delay_s(self, sender: str, receiver: str) -> float:
        """One-way delay of a signal sent now, s; 0: nothing has to fly; infinite where it has no way: it is lost."""

    def observe(self, agent: str) -> Arrays:
        """What this agent sees now: arrays as its fields declare, which must not change afterwards."""

    def apply(self, agent: str, action: Arrays) -> None:
        """Put an action in force. It was checked."""

    def step(self) -> Outcome:
        """Play one slot with the actions in force. The measures handed out must not change afterwards."""


@runtime_checkable
class Controller(Protocol):
    """Anything that answers. Built as Class(agent, seed, **options).

    It may also have learn(), called after the answer has left. What learn() returns, if anything, is a job: a
    callable of no arguments that works on its own copy of the data, off the control path. Its result goes to
    adopt(result), which the controller then must have, exactly `learn_delay` slots later. And it may have
    finish(seen), told the final observation with the rewards it closes.
    """

    def act(self, seen: Observation) -> Action:
        """The action that answers this observation."""


Job = Callable[[], object]


class Seat(Protocol):
    """Where a controller sits: Here in this process, or There behind a socket.

    late  (slot, answer) of valid answers that came after their deadline but before the seat's next; drive empties it
    """

    @property
    def late(self) -> list[tuple[int, Answer]]: ...

    def post(self, seen: Observation, release_ns: int, due_ns: int) -> None:
        """Hand over an observation; times are the clock's, and ignored where the clock has none."""

    def take(self, slot: int) -> Answer:
        """The answer to observation `slot`, judged by when it arrived, not by when we look."""


class Clock(Protocol):
    """LockStep waits for answers, RealTime for time, Virtual for answers whose time it then models."""

    name: str

    def start(self, slot: int) -> None:
        """Return when `slot` is released."""

    def release_ns(self, slot: int, follower: bool, signal_delay_s: float) -> int:
        """When the agents about to be asked are released; a follower waits for the signal that flies to it."""

    def due_ns(self, agent: Agent, slot: int) -> int:
        """The instant by which the answer to observation `slot` is due."""
