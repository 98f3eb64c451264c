"""A recorded run flown again: its world, in lock-step, from the actions and misses it recorded, whatever its clock was.

It must reach the trajectory hash of the recording; a run that was killed has none, and is compared row by row. Other
controllers may sit beside the recorded ones (shadow mode): each is told what the recorded one was told, and its answers
are checked, timed and compared, but never put in force.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from hil.recorded import RecordEnds, Replayed, Shadow, ShadowReport
from twin.errors import ControllerError, RecordError, ScenarioError
from twin.record import Record, signals, versions
from twin.runner import Here, LockStep, describe, drive
from twin.scenario import SHIPPED, Scenario, Seating, agent_seed, build, make_controller, scenario_of
from twin.trajectory import Trajectory
from twin.types import Answer, Arrays, Observation, Outcome, Seat, World


class Difference(NamedTuple):
    """The first thing that was recorded otherwise than it is now; values as text, of the first element that differs."""

    slot: int
    measure: str
    recorded: str
    now: str


@dataclass(frozen=True)
class Replay:
    """How a replay went. `same` is the verdict; str() is for people, to_dict() what `--json` prints.

    slots             flown again; `recorded_slots` were recorded
    trajectory_hash   of what was flown now; recorded_hash is None for a run that was killed
    first_difference  None where nothing that is recorded row by row differs
    incomplete        why the record could not be followed to its end, or ""
    differs           what is not as it was when the run was recorded: versions, host
    """

    run: str
    scenario: str
    clock: str
    seed: int
    ended: str
    same: bool
    slots: int
    recorded_slots: int
    trajectory_hash: str
    recorded_hash: str | None
    first_difference: Difference | None
    incomplete: str
    differs: list[str]
    shadows: dict[str, ShadowReport] = field(default_factory=dict)
    out: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """One JSON object."""
        first = self.first_difference and self.first_difference._asdict()
        return asdict(self) | {"first_difference": first, "why": self.why()}

    def why(self) -> str:
        """What is not the same, and what may be the reason; "" where all is."""
        if self.same:
            return ""
        if self.first_difference is not None:
            slot, measure, recorded, now = self.first_difference
            what = f"slot {slot} is the first that differs: {measure} was {recorded}, is {now}"
        elif self.incomplete:
            return f"{self.incomplete}, so it cannot be followed beyond slot {self.slots}; up to there all agrees"
        else:
            what = f"all recorded rows agree, but not what agents observed: the hash was {self.recorded_hash}"
        if self.differs:
            return f"{what}; since it was recorded, these have changed: {', '.join(self.differs)}"
        return f"{what}; versions and files are as they were: look at the code, and for what no seed decides"

    def __str__(self) -> str:
        lines = [f"{self.run}: {self.scenario}, recorded under {self.clock}, seed {self.seed}"]
        state = {"finished": "", "running": ", up to where it was killed"}.get(
            self.ended, f", up to where it was {self.ended}"
        )
        verdict = "the same trajectory" if self.same else "NOT the recorded trajectory"
        compared = "by its hash" if self.recorded_hash else "row by row"
        lines.append(f"{self.slots} of {self.recorded_slots} slots flown again{state}: {verdict}, {compared}")
        if not self.same:
            lines.append(self.why())
        lines.append(f"trajectory {self.trajectory_hash}")
        for agent, shadow in self.shadows.items():
            lines += ["", *shadow.lines(agent)]
        if self.out is not None:
            lines += [f"run folder {self.out}"]
        return "\n".join(lines)


def replay(
    run_folder: str | Path,
    controllers: Mapping[str, str] | None = None,
    folder: str | Path | None = None,
    out: str | Path | None = None,
) -> Replay:
    """Fly a recorded run again from its actions and misses, and compare.

    controllers  by seat, who is to answer beside the recorded controller: a name that ships, or module:Class; the one
                 that was recorded gets its recorded options, another one its own defaults
    folder       where the scenario's files lie, if not where they lay; those that ship are tried too
    out          write a run folder: what was flown, and of a shadowed seat what its shadow decided

    Raises RecordError for a folder that is no run or cannot be flown here, ScenarioError, ControllerError.
    """
    record = Record.open(run_folder)
    meta = record.meta
    if meta.get("shadows"):
        raise RecordError(f"{record.folder} holds decisions that were never flown; replay {meta.get('replay_of')}")
    scenario, world = _world_of(record, folder)
    agents = {a.name: a for a in world.agents}
    for name in controllers or {}:
        if name not in agents:
            raise ScenarioError(f"no seat {name!r} to shadow in {record.folder}; there are {', '.join(agents)}")
    sent = _signals_of(record)
    recorded = {name: Replayed(record, a, sent.get(name, {})) for name, a in agents.items()}
    shadows = {
        name: Shadow(recorded[name], _here(controller, scenario, world, name), world.default(name))
        for name, controller in (controllers or {}).items()
    }
    seats: dict[str, Seat] = {**recorded, **shadows}
    more = {"replay_of": str(record.folder), "shadows": dict(controllers or {}), "faults": meta.get("faults", [])}
    with _written(out, record, world, describe(scenario, world, LockStep.name, "recorded") | more) as written:
        book = Book(record, written, shadows)
        incomplete = _fly(world, seats, scenario, book)
        hash_, wanted = book.hash_(meta.get("trajectory_hash")), meta.get("trajectory_hash")
        same = hash_ == wanted if wanted is not None else book.first is None and book.slots == book.end
        if written is not None:
            ended, why = (meta["ended"], meta.get("why", "")) if meta["ended"] != "running" else ("broken", "killed")
            written.close(ended, why, trajectory_hash=hash_)
    return Replay(
        run=str(record.folder),
        scenario=scenario.name,
        clock=meta["clock"],
        seed=scenario.seed,
        ended=meta["ended"],
        same=same,
        slots=book.slots,
        recorded_slots=book.end,
        trajectory_hash=hash_,
        recorded_hash=wanted,
        first_difference=None if same else book.first,
        incomplete="" if same or book.slots == book.end else incomplete or "the world is done earlier than it was",
        differs=_differs(meta, book.gone),
        shadows={name: shadow.report(controllers[name], scenario.seating(name)) for name, shadow in shadows.items()}
        if controllers
        else {},
        out=None if written is None else str(written.folder),
    )


class Book:
    """What `drive` writes to: the trajectory, compared row by row with the recorded one, and the folder if one is kept.

    end     slots that were recorded
    early   whether the run ended before it was done, so that the trajectory may end inside the slot after the last one
    slots   flown so far
    first   the first difference, or None
    hashes  after the last slot, and where else a run that ended early may have ended
    gone    measures that were recorded and are no more
    """

    def __init__(self, record: Record, written: Record | None, shadows: Mapping[str, Shadow]):
        self.record, self.written, self.shadows = record, written, shadows
        self.trajectory = Trajectory()
        rows = np.flatnonzero(record.slots.get("written", ()))
        self.end = int(rows[-1]) + 1 if rows.size else 0
        self.early = record.meta["ended"] != "finished"
        self.slots = 0
        self.first: Difference | None = None
        self.hashes = [self.trajectory.hexdigest()]
        self.gone: set[str] = set()

    def hash_(self, wanted: str | None) -> str:
        """Of what was flown: of whole slots, unless the recorded run ended inside the next one, or after the last."""
        if not self.early:
            return self.trajectory.hexdigest()
        if wanted is not None and wanted in self.hashes:
            return wanted
        return self.hashes[0] if self.hashes else self.trajectory.hexdigest()

    def observation(self, seen: Observation) -> None:
        """An agent was asked."""
        self.trajectory.observation(seen)
        self._may_have_ended()
        if self.written is not None:
            self.written.observation(seen)

    def decision(self, agent: str, slot: int, answer: Answer, in_force: Arrays) -> None:
        """A cycle was settled."""
        self.trajectory.action(agent, slot, in_force)
        self._may_have_ended()
        columns = self.record.decisions[agent]
        row = slot // self.record.meta["agents"][agent]["every"]
        for name, value in in_force.items():
            self._compare(slot, f"action.{name}", columns[f"action.{name}"][row], value, f"{agent}'s ")
        if self.written is None:
            return
        if agent in self.shadows:
            shadow, in_force = self.shadows[agent].decided()
            answer = shadow._replace(stamps={**answer.stamps, **shadow.stamps})
            if answer.action is None:
                answer = answer._replace(source="hold")
        self.written.decision(agent, slot, answer, in_force)

    def late(self, agent: str, slot: int, answer: Any) -> None:
        """Nothing is late here: a late answer's cycle has its status already."""

    def event(self, kind: str, **what: Any) -> None:
        """Whatever happened is in the recorded run's events."""

    def slot(self, slot: int, outcome: Outcome) -> None:
        """A slot was played. Raises RecordEnds after the last one of a run that ended early."""
        if self.early and slot >= self.end:
            raise RecordEnds("the recorded run ended")
        self.trajectory.outcome(slot, outcome)
        columns = self.record.slots
        if columns["written"][slot]:
            now = {name: np.asarray(value) for name, value in outcome.measures.items()}
            now |= {f"reward.{name}": np.asarray(reward) for name, reward in outcome.reward.items()}
            for name, value in now.items():
                self._compare(slot, name, columns[name][slot] if name in columns else None, value)
            self.gone = set(columns) - set(now) - {"written"}
        self.slots, self.hashes = slot + 1, []
        self._may_have_ended()
        if self.written is not None:
            self.written.slot(slot, outcome)

    def _may_have_ended(self) -> None:
        if self.early and self.slots >= self.end:
            self.hashes.append(self.trajectory.hexdigest())

    def _compare(self, slot: int, name: str, recorded: Any, now: Any, whose: str = "") -> None:
        """Bit by bit: the hash tells 0.0 from -0.0 too."""
        if self.first is not None:
            return
        if recorded is None:
            self.first = Difference(slot, whose + name, "not there", str(now))
            return
        recorded = np.asarray(recorded)
        now = np.asarray(now).astype(recorded.dtype)  # as the record does when it writes a row
        if recorded.shape != now.shape:
            self.first = Difference(slot, whose + name, f"of shape {recorded.shape}", f"of shape {now.shape}")
        elif recorded.tobytes() != now.tobytes():
            pairs = zip(np.ndindex(now.shape), recorded.ravel(), now.ravel())
            index, was, is_ = next(p for p in pairs if p[1].tobytes() != p[2].tobytes())
            where = f"[{', '.join(str(i) for i in index)}]" if index else ""
            self.first = Difference(slot, whose + name + where, repr(was.item()), repr(is_.item()))


def _fly(world: World, seats: Mapping[str, Seat], scenario: Scenario, book: Book) -> str:
    """Drive to where the record ends; why it ends there, or "". No limit is judged again: the record knows its end."""
    default = {name: scenario.seating(name).on_miss == "default" for name in seats}
    seatings = {name: Seating(on_miss="default" if default[name] else "hold") for name in seats}
    try:
        drive(world, seats, LockStep(), scenario.slots, scenario.seed, cast(Record, book), seatings)
    except RecordEnds as end:
        return str(end)
    except ControllerError:
        raise
    except Exception:
        if not book.early or book.slots < book.end:
            raise
        return "the recorded run ended"  # by the same error
    return ""


def _world_of(record: Record, folder: str | Path | None) -> tuple[Scenario, World]:
    """The recorded scenario and its world, from the first folder whose files are those that were flown."""
    meta, wanted = record.meta, record.meta.get("inputs", {})
    looked = []
    for place in dict.fromkeys(str(p) for p in (folder, meta.get("folder"), SHIPPED) if p):
        scenario = scenario_of(meta, place)
        try:
            world = build(scenario)
        except ScenarioError as error:
            looked.append(f"in {place}: {error}")
            continue
        found = dict(getattr(world, "inputs", {}))
        if found == wanted:
            _check_seats(record, world)
            return scenario, world
        looked += [f"in {place}: {name} is {found.get(name)}" for name in wanted if found.get(name) != wanted[name]]
    files = ", ".join(f"{name} {value}" for name, value in wanted.items()) or "no files"
    raise RecordError(
        f"the world of {record.folder} cannot be built from what it was flown with ({files}); say with --folder where "
        f"its files lie. Looked\n" + "\n".join(f"  {line}" for line in looked)
    )


def _check_seats(record: Record, world: World) -> None:
    """Raises RecordError when the world's seats are no longer those of the record."""
    now = {a.name: (a.every, a.order, a.delay, [list(f[:3]) for f in a.acts]) for a in world.agents}
    then = {
        name: (a["every"], a["order"], a["delay"], [[f[0], tuple(f[1]), f[2]] for f in a["acts"]])
        for name, a in record.meta["agents"].items()
    }
    for name in {**then, **now}:
        if now.get(name) != then.get(name):
            raise RecordError(
                f"{record.folder} cannot be flown: seat {name!r} was (every, order, delay, acts) {then.get(name)}, "
                f"is {now.get(name)}"
            )


def _signals_of(record: Record) -> dict[str, dict[int, dict[str, Arrays]]]:
    """By sender, slot of the cycle and receiver: what was sent."""
    sent: dict[str, dict[int, dict[str, Arrays]]] = {}
    for signal in signals(record):
        sent.setdefault(signal["from"], {}).setdefault(signal["slot"], {})[signal["to"]] = signal["arrays"]
    return sent


def _here(controller: str, scenario: Scenario, world: World, name: str) -> Here:
    seating = scenario.seating(name)
    agent = next(a for a in world.agents if a.name == name)
    options = seating.options if controller == seating.controller else {}
    made = make_controller(controller, agent, agent_seed(scenario.seed, name), options)
    return Here(made, agent, tuple(a.name for a in world.agents if a.name != name), seating.learn, seating.learn_delay)


@contextlib.contextmanager
def _written(out: str | Path | None, record: Record, world: World, meta: dict[str, Any]) -> Iterator[Record | None]:
    """A record to write, or None; whatever goes wrong, it is closed."""
    if out is None:
        yield None
        return
    text = record.folder / "scenario.toml"
    written = Record.create(
        Path(out),
        world.agents,
        record.meta["slots"],
        meta,
        text.read_text(encoding="utf-8") if text.exists() else "",
    )
    try:
        yield written
    except BaseException as error:
        written.close("interrupted" if isinstance(error, KeyboardInterrupt) else "broken", repr(error))
        raise


def _differs(meta: Mapping[str, Any], gone: set[str]) -> list[str]:
    """What is not as it was when the run was recorded."""
    here, there = versions(), meta.get("versions", {})
    found = [
        f"{name} {there.get(name, 'absent')} then, {here.get(name, 'absent')} now"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
    return found + [f"{name} is no measure any more" for name in sorted(gone)]
