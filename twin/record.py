"""A run is a folder: meta.json, scenario.toml, slots/*.npy, decisions/<agent>/*.npy, signals.bin, events.jsonl.

Every column is preallocated and memory-mapped, so a row costs a few stores, and a killed run keeps all it wrote;
the column `written` (and status 0 in decisions) marks the rows that were never reached. The trajectory hash covers
what the world and the agents did, slot by slot, and nothing of when or where: observation values and signals, actions
in force, rewards, measures.
"""

import contextlib
import json
import os
import platform
import struct
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from twin.errors import RecordError
from twin.trajectory import Trajectory
from twin.types import Agent, Answer, Arrays, Observation, Outcome

STATUSES = ("unwritten", "on_time", "missing", "late", "invalid")
SOURCES = ("none", "agent", "hold", "default", "late")
STAMPS = (  # ns, monotonic; 0 where nobody stamped
    "slot_start",  # scheduled start of the slot
    "release",  # the agent's own: the slot's start, or for a follower the moment its leaders were settled
    "due",  # the deadline
    "begin",  # the twin really began with this observation
    "observed",  # the world's observation was ready
    "sent",  # it was handed to the socket
    "waiting",  # the controller was free and waited for it
    "received",
    "decoded",
    "acted",
    "replied",  # the answer was handed to the socket
    "arrived",  # it reached the twin
)
NEVER_NS = 2**63
MOST_WAITING = 4096  # rows in memory; a run that is killed loses those
MOST_WAITING_BYTES = 32 << 20  # of observations in them
MOST_EVENTS = 10_000  # kept in memory while the run flies; the file has all
LAST_WORDS_BYTES = 1 << 14  # kept free on the disk, so that a full one does not hide how the run ended
MOST_WORDS = 300  # of a reason that are kept
COUNTS = ("cpu_ns", "emulation_ns", "learn_ns", "weights", "learning_misses", "signal_bytes", "overrun")


class Cycles(msgspec.Struct):
    """What meta.json must say of a seat to read its cycles."""

    every: Annotated[int, Meta(ge=1)]
    acts: list[Any]
    delay: Annotated[int, Meta(ge=0, le=10**9)] = 0


class Seat(msgspec.Struct):
    """What the scenario as resolved must say of who sat there, where it says it."""

    startup_grace_cycles: Annotated[int, Meta(ge=0, le=10**9)] = 0
    at_least: tuple[int, int] | None = None
    compute_scale: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    budget_s: Annotated[float, Meta(gt=0, le=1e6)] | None = None


class Resolved(msgspec.Struct):
    """The scenario as resolved, as far as a report needs it."""

    agents: dict[str, Seat] = {}


class Listed(msgspec.Struct):
    """The same of a fault."""

    kind: str
    agent: str | None
    first_slot: int
    last_slot: int
    comes: bool
    messages: dict[str, int]


class About(msgspec.Struct):
    """The same of a run: what every one has, and of what only some have, its type."""

    scenario: str
    clock: str
    seed: int
    slots: Annotated[int, Meta(ge=1, le=10**9)]
    ended: str
    agents: dict[str, Cycles]
    resolved: Resolved
    slot_s: float | None = None
    faults: list[Listed] = []
    messages: dict[str, dict[str, Any]] | None = None
    overrun_slots: list[int] | None = None


class Record:
    """A run's folder, open for writing while it runs; reading it needs only the path (`Record.open`).

    record["snr_db"]            a measure of every slot, (n_slots, ...) memory-mapped; also "reward.NAME", "written"
    record.decisions["ue"]      columns of every cycle: status, source, stamps in ns, action.NAME, ...
    record.meta                 scenario, seed, versions, host, clock, how it ended, trajectory_hash
    """

    def __init__(self, folder: Path, meta: dict[str, Any], writing: bool = False):
        self.folder = folder
        self.meta = meta
        self.slots: dict[str, np.ndarray] = {}
        self.decisions: dict[str, dict[str, np.ndarray]] = {name: {} for name in meta["agents"]}
        self.events: list[dict[str, Any]] = []
        self.tell: Callable[[Mapping[str, Any]], None] = lambda event: None  # whoever else wants to hear of events
        if writing:
            self._trajectory = Trajectory()
            self._events = (folder / "events.jsonl").open("a", encoding="utf-8")
            self._signals = (folder / "signals.bin").open("ab")
            self._waiting: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
            self._deferring = False
            self._most_waiting = MOST_WAITING
            self._last_words: IO[bytes] | None = None
            self.lost = 0  # rows that could not be written
            self._every = {name: agent["every"] for name, agent in meta["agents"].items()}
            self._measures: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}  # of the first slot: what all others keep
            self._cells: dict[str, dict[str, memoryview]] = {name: {} for name in meta["agents"]}

    # writing

    @classmethod
    def create(
        cls,
        folder: Path,
        agents: tuple[Agent, ...],
        slots: int,
        meta: Mapping[str, Any],
        scenario_text: str = "",
        start_utc: datetime | None = None,
    ) -> "Record":
        """Make the folder, which must not exist, and the columns of decisions; those of slots come with `prepare`.

        Raises RecordError when the folder exists or cannot be written.
        """
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise RecordError(
                f"run folder {folder} exists; a run is never written over, give another with --out"
            ) from None
        except OSError as error:
            raise RecordError(f"run folder {folder} cannot be made: {error}") from None
        whole = dict(meta) | {
            "slots": slots,
            "ended": "running",
            "started_utc": (start_utc or datetime.now(UTC)).isoformat(timespec="milliseconds"),
            "versions": versions(),
            "host": {
                "node": platform.node(),
                "kernel": platform.release(),
                "machine": platform.machine(),
                "cores": os.cpu_count(),
            },
            "agents": {
                a.name: {"every": a.every, "order": a.order, "delay": a.delay, "acts": [list(f) for f in a.acts]}
                for a in agents
            },
        }
        try:
            record = cls(folder, whole, writing=True)
            (folder / "scenario.toml").write_text(scenario_text, encoding="utf-8")
        except OSError as error:
            raise RecordError(f"run folder {folder} cannot be written: {error}") from None
        for agent in agents:
            rows, place = -(-slots // agent.every), f"decisions/{agent.name}"
            columns = record.decisions[agent.name]
            columns["status"] = record._column(place, "status", (rows,), "uint8")
            columns["source"] = record._column(place, "source", (rows,), "uint8")
            for name in STAMPS:
                columns[f"{name}_ns"] = record._column(place, f"{name}_ns", (rows,), "int64")
            for name in COUNTS:
                columns[name] = record._column(place, name, (rows,), "int64")
            for field in agent.acts:
                columns[f"action.{field.name}"] = record._column(
                    place, f"action.{field.name}", (rows, *field.shape), field.dtype
                )
            cells = record._cells[agent.name]  # a store through a memoryview costs half of one through the array
            cells.update({name: columns[f"{name}_ns"].data for name in STAMPS})
            cells.update({name: columns[name].data for name in ("status", "source", *COUNTS)})
        largest = max((a.observed_bytes for a in agents), default=0)
        record._most_waiting = min(MOST_WAITING, max(16, MOST_WAITING_BYTES // max(largest, 1)))
        record._save_meta()
        try:
            record._last_words = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - for as long as the run flies
            os.posix_fallocate(record._last_words.fileno(), 0, LAST_WORDS_BYTES)
        except OSError as error:
            raise RecordError(f"run folder {folder}: no room for how the run ends: {error}") from None
        return record

    def observation(self, seen: Observation) -> None:
        """Take an observation into the trajectory."""
        self._do(self._trajectory.observation, seen)

    def decision(self, agent: str, slot: int, answer: Answer, in_force: Arrays) -> None:
        """Write how a cycle ended, and the action that is in force from now on."""
        self._do(self._write_decision, agent, slot, answer, in_force)

    def late(self, agent: str, slot: int, stamps: Mapping[str, int]) -> None:
        """A valid answer to a cycle already settled as missing came before the seat's next deadline."""
        self._do(self._write_late, agent, slot, stamps)

    def slot(self, slot: int, outcome: Outcome) -> None:
        """Write what a slot brought."""
        self._do(self._write_slot, slot, outcome)

    def defer(self, writing: bool = True) -> None:
        """From now on rows wait in memory until `write_until` finds time for them; at most MOST_WAITING of them."""
        self._deferring = writing

    def write_until(self, until_ns: int) -> None:
        """Write rows that wait, oldest first, until a time of the monotonic clock."""
        while self._waiting and time.monotonic_ns() < until_ns:
            self._write(*self._waiting.popleft())

    def _do(self, write: Callable[..., None], *what: Any) -> None:
        if not self._deferring:
            self._write(write, what)
            return
        self._waiting.append((write, what))
        if len(self._waiting) > self._most_waiting:  # nobody finds the time: then it is taken, a row for a row
            self._write(*self._waiting.popleft())

    def _write(self, write: Callable[..., None], what: tuple[Any, ...]) -> None:
        try:
            write(*what)
        except Exception:
            self.lost += 1
            raise

    def _write_decision(self, agent: str, slot: int, answer: Answer, in_force: Arrays) -> None:
        columns, cells, row = self.decisions[agent], self._cells[agent], slot // self._every[agent]
        cells["source"][row] = SOURCES.index(answer.source)
        for name, count in answer.stamps.items():
            cells[name][row] = count
        for name, value in in_force.items():
            columns[f"action.{name}"][row] = value
        self._trajectory.action(agent, slot, in_force)
        if answer.action is not None and answer.action.signals:
            size = 0
            for to, arrays in answer.action.signals.items():
                size += sum(value.nbytes for value in arrays.values())
                self._write_signal(agent, to, slot, arrays)
            cells["signal_bytes"][row] = size
        cells["status"][row] = STATUSES.index(answer.status)  # last: it says that the row is whole
        if answer.status == "invalid":
            self.event("invalid", agent=agent, slot=slot, reason=answer.reason[:MOST_WORDS])

    def _write_late(self, agent: str, slot: int, stamps: Mapping[str, int]) -> None:
        cells, row = self._cells[agent], slot // self._every[agent]
        cells["status"][row] = STATUSES.index("late")
        for name, value in stamps.items():
            cells[name][row] = value

    def _write_slot(self, slot: int, outcome: Outcome) -> None:
        if not self.slots:
            self.prepare(outcome)
        for name, reward in outcome.reward.items():
            self.slots[f"reward.{name}"][slot] = reward
        if outcome.measures.keys() != self._measures.keys():
            now, then = (", ".join(names) or "nothing" for names in (outcome.measures, self._measures))
            raise RecordError(f"slot {slot} measures {now}; at first {then}")
        for name, value in outcome.measures.items():
            value, (dtype, shape) = np.asarray(value), self._measures[name]
            if value.shape != shape or (value.dtype != dtype and not np.can_cast(value.dtype, dtype)):
                now = f"{value.dtype} of shape {value.shape} in slot {slot}"
                raise RecordError(f"measure {name!r} is {now}, at first {dtype} of shape {shape}: nothing is rounded")
            self.slots[name][slot] = value
        self.slots["written"][slot] = True
        self._trajectory.outcome(slot, outcome)

    def prepare(self, outcome: Outcome) -> None:
        """Make the columns of the slots, as an outcome shows them; before a clock starts, where there is one."""
        rows = self.meta["slots"]
        self.slots["written"] = self._column("slots", "written", (rows,), "bool")  # first: it says what the others hold
        for name in outcome.reward:
            self.slots[f"reward.{name}"] = self._column("slots", f"reward.{name}", (rows,), "float64")
        for name, value in outcome.measures.items():
            value = np.asarray(value)
            if name in self.slots or "/" in name:
                raise RecordError(f"a measure cannot be called {name!r}: the record has that name for itself")
            self.slots[name] = self._column("slots", name, (rows, *value.shape), value.dtype.name)
            self._measures[name] = self.slots[name].dtype, value.shape

    def event(self, kind: str, **what: Any) -> None:
        """Note an event, with the monotonic time it was noticed."""
        event = {"event": kind, "t_mono_ns": time.monotonic_ns(), **what}
        if len(self.events) < MOST_EVENTS:
            self.events.append(event)
        self.tell(event)
        try:
            self._events.write(json.dumps(event) + "\n")
            self._events.flush()
        except OSError as error:
            raise RecordError(f"run folder {self.folder}: events.jsonl cannot be written: {error}") from None

    def close(self, ended: str, why: str = "", **more: Any) -> None:
        """Write how it ended ("finished", "interrupted" or "broken") and the trajectory hash; `more` goes beside."""
        failed: Exception | None = None
        while self._waiting:
            try:
                self.write_until(NEVER_NS)
            except Exception as error:  # of a full disk: the next row may be one that has room
                failed = failed or error
        if failed is not None and ended == "finished":  # not whole, then
            ended, why = "broken", str(failed)
        self._close(ended, why, more)
        if failed is not None:
            raise failed

    def _close(self, ended: str, why: str, more: Mapping[str, Any]) -> None:
        written = int(np.count_nonzero(self.slots["written"])) if self.slots else 0
        hash_ = self._trajectory.hexdigest()
        self.meta |= {"ended": ended, "why": why, "slots_written": written, "lost_rows": self.lost}
        self.meta |= {"trajectory_hash": hash_, **more}
        if self._last_words is not None:
            self._last_words.close()
        for file in (self._events, self._signals):
            with contextlib.suppress(OSError):  # of a full disk: how the run ended matters more than its last event
                file.close()
        self._save_meta()

    def _column(self, place: str, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        path = self.folder / place / f"{name}.npy"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            column = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
            with path.open("rb+") as file:  # a full disk must be found out now, not in the middle of the run
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise RecordError(f"run folder {self.folder}: no room for {place}/{name}: {error}") from None
        nothing = np.nan if np.issubdtype(column.dtype, np.floating) else 0
        column[...] = nothing  # touches every page, so that no slot pays for it
        return column

    def _write_signal(self, sender: str, receiver: str, slot: int, arrays: Arrays) -> None:
        packed = {name: {"dtype": v.dtype.name, "shape": v.shape, "data": v.tobytes()} for name, v in arrays.items()}
        body = msgspec.msgpack.encode({"slot": slot, "from": sender, "to": receiver, "arrays": packed})
        try:
            self._signals.write(struct.pack("<I", len(body)) + body)
            self._signals.flush()
        except OSError as error:
            raise RecordError(f"run folder {self.folder}: signals.bin cannot be written: {error}") from None

    def _save_meta(self) -> None:
        text = json.dumps(self.meta, indent=1, default=_plain) + "\n"
        passing = self.folder / "meta.json.new"
        try:
            passing.write_text(text, encoding="utf-8")
            passing.replace(self.folder / "meta.json")
        except OSError as error:
            raise RecordError(f"run folder {self.folder}: meta.json cannot be written: {error}") from None

    # reading

    @classmethod
    def open(cls, folder: str | Path) -> "Record":
        """A run's record, read-only; also of a run that was killed. Raises RecordError."""
        folder = Path(folder)
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            _check_meta(meta)
            record = cls(folder, meta)
            record.slots = _slots(folder / "slots", meta["slots"])
            record.decisions = {
                name: _decisions(folder / "decisions" / name, -(-meta["slots"] // agent["every"]), agent["acts"])
                for name, agent in meta["agents"].items()
            }
            lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError as error:
            raise RecordError(f"{folder} is not a run folder: {Path(str(error.filename)).name} is missing") from None
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"run folder {folder} cannot be read: {error!r}") from None
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                event = None  # cut by a kill in mid-write
            known = isinstance(event, dict) and "event" in event
            record.events.append(event if known else {"event": "unreadable", "line": line})
        return record

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self.slots[name]
        except KeyError:
            raise KeyError(f"no measure {name!r} in {self.folder}; there are {', '.join(sorted(self.slots))}") from None


def new_folder(scenario_name: str, out: str | Path | None = None) -> Path:
    """Where a run goes: `out` as it is, or runs/<scenario>-<UTC time>, numbered when two begin in one second."""
    if out is not None:
        return Path(out)
    stem = Path("runs") / f"{scenario_name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    folder, n = stem, 1
    while folder.exists():
        n += 1
        folder = stem.with_name(f"{stem.name}-{n}")
    return folder


def signals(record: Record) -> Iterator[dict[str, Any]]:
    """The signals agents sent each other: slot, from, to and arrays, in order; one cut by a kill ends them.

    Raises RecordError for what is no signal.
    """
    path, at = record.folder / "signals.bin", 0
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"run folder {record.folder}: signals.bin cannot be read: {error}") from None
    while at + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        if at + 4 + size > len(data):
            return
        try:
            message = msgspec.msgpack.decode(data[at + 4 : at + 4 + size])
            message["arrays"] = {
                name: np.frombuffer(a["data"], dtype=a["dtype"]).reshape(a["shape"])
                for name, a in message["arrays"].items()
            }
            yield {key: message[key] for key in ("slot", "from", "to", "arrays")}
        except (msgspec.MsgspecError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"run folder {record.folder}: no signal at byte {at} of signals.bin: {error!r}") from None
        at += 4 + size


def _check_meta(meta: Any) -> None:
    """Raises ValueError saying what of a run's meta.json is not what whoever reads it needs."""
    try:
        about = msgspec.convert(meta, About)
    except msgspec.ValidationError as error:
        raise ValueError(f"meta.json: {error}") from None
    for fault in about.faults:
        if fault.agent is not None and fault.agent not in about.agents:
            raise ValueError(f"meta.json: a fault of {fault.agent!r}, which is no agent")


def _slots(folder: Path, rows: int) -> dict[str, np.ndarray]:
    """Columns of the slots. One that a kill cut while it was made held nothing yet: it is left out."""
    columns, cut = {}, []
    for path in sorted(folder.glob("*.npy")):
        try:
            columns[path.name.removesuffix(".npy")] = _column(path, rows)
        except ValueError as error:
            if path.read_bytes()[:6] not in (b"", b"\x93NUMPY"):
                raise
            cut.append(error)
    if cut and "written" in columns and columns["written"].any():
        raise cut[0]
    return columns


def _decisions(folder: Path, rows: int, acts: list[Any]) -> dict[str, np.ndarray]:
    """Columns of an agent's cycles; a stamp or count that nobody recorded, because it is newer than the run, is 0."""
    columns = {path.name.removesuffix(".npy"): _column(path, rows) for path in sorted(folder.glob("*.npy"))}
    for name in ("status", "source", *(f"action.{field[0]}" for field in acts)):
        if name not in columns:
            raise ValueError(f"decisions/{folder.name}/{name}.npy is missing")
    for name, values in (("status", STATUSES), ("source", SOURCES)):
        if columns[name].max(initial=0) >= len(values):
            raise ValueError(f"{folder.name}/{name}.npy holds a number beyond {', '.join(values)}")
        if columns[name].dtype != np.uint8:
            raise ValueError(f"{folder.name}/{name}.npy is of {columns[name].dtype}, expected uint8")
    for name in (*(f"{stamp}_ns" for stamp in STAMPS), *COUNTS):
        if columns.setdefault(name, np.zeros(rows, "int64")).dtype != np.int64:
            raise ValueError(f"{folder.name}/{name}.npy is of {columns[name].dtype}, expected int64")
    return columns


def _column(path: Path, rows: int) -> np.ndarray:
    try:
        column = np.load(path, mmap_mode="r")
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path.parent.name}/{path.name} is damaged: {error}") from None
    if column.shape[:1] != (rows,):
        raise TypeError(f"{path.parent.name}/{path.name} has shape {column.shape}, expected {rows} rows")
    return column


def versions() -> dict[str, str]:
    """Of Python and of the packages a trajectory depends on, as installed here."""
    found = {"python": platform.python_version()}
    for name in ("ntn-twin", "numpy", "numba", "sgp4", "skyfield", "pyzmq", "msgspec", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else msgspec.to_builtins(value)
