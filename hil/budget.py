"""How slow may the on-board computer be? One scenario and its seeds over a grid, and the knee of the reward.

Each point of the grid gives one agent another computer (`compute_scale`) or another deadline (`window`) and leaves all
else as it is: the sky, the channels and the other seats of a seed are the same at every point, so points are compared
seed by seed. A run of the grid is a run like any other, in a folder of its own.
"""

import contextlib
import csv
import gc
import io
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hil import latency, launch
from hil.curve import RATES, Curve, Flight, Point, curve_of, draw
from twin.errors import RecordError, RunBroken, ScenarioError
from twin.record import Record
from twin.runner import describe
from twin.scenario import Scenario, build
from twin.stats import plain
from twin.types import Agent, World
from twin.units import NS_PER_US

SHORT = {"compute_scale": "scale", "window": "window"}  # what a grid may vary, and how its folders call it
LARGEST = {"compute_scale": 1e6, "window": 1.0}  # as twin.scenario has them
COLD_CYCLES = 3  # flown before the first run, so that no point of the grid pays for what is cold
ALIKE = ("clock", "seats", "seed", "resolved", "inputs")  # what of a run found must be as it would be flown now


# ---- the grid


def scales(first: float, last: float, points: int) -> list[float]:
    """Equal ratios from first to last, three digits each."""
    return [float(f"{x:.3g}") for x in np.geomspace(first, last, points)]


def fly(
    scenario: Scenario,
    agent: str,
    values: Sequence[float],
    out: str | Path,
    key: str = "compute_scale",
    n_seeds: int = 5,
    clock: str = "virtual",
    tolerance: float = 0.05,
    confidence: float = 0.95,
    refine: int = 0,
    processes: bool = False,
    keep: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Curve:
    """Fly the grid, one run after the other, and write what comes of it into the folder `out`.

    values     of the agent's `key`: "compute_scale" or "window"; in any order
    n_seeds    seeds from the scenario's own on
    clock      "virtual" or "realtime"
    tolerance  part of the reference's mean that may be lost; the knee is where more is
    refine     so often another point is put between the two neighbours of the knee of the reward
    processes  virtual: a process per seat, as in real time
    keep       False: the folders of the runs are removed once they are read
    say        told of each run

    `out` gets runs.csv (a row per run), curve.csv (a row per value), budget.json (the curve), curve.png where
    matplotlib is installed, and runs/. A run that is there and finished is not flown again: an interrupted grid goes
    on where it was, and further values or seeds add to it. Raises ScenarioError and RecordError, and whatever a run
    raises but for breaking a limit of its agents, which is a result.
    """
    scenario = msgspec.structs.replace(scenario, clock=clock)
    values = _checked(scenario, agent, values, key, n_seeds, tolerance, confidence)
    out = _claimed(Path(out))
    hangar = Hangar(scenario, agent, key, out, processes or clock == "realtime", keep)
    flights: list[Flight] = []

    def curve() -> Curve:
        return curve_of(scenario.name, agent, key, clock, flights, tolerance, confidence)

    def fly_all(some: list[float]) -> None:
        """Seed by seed: an interrupted grid is a whole curve of fewer seeds, and a slow hour slows all points."""
        total = len(flights) + n_seeds * len(some)
        for seed in range(scenario.seed, scenario.seed + n_seeds):
            for value in some:
                flights.append(hangar.fly(value, seed))
                _write(out / "runs.csv", [_row(f, key) for f in flights])
                say(f"{len(flights)} of {total}: {_said(flights[-1], key)}")

    try:
        fly_all(values)
        for _ in range(refine):
            found = curve().knees["reward"]
            between = float(f"{math.sqrt(found.within * (found.beyond or found.within)):.3g}")
            if between in (found.within, found.beyond):
                break
            fly_all([between])
    finally:
        if flights:  # of an interrupted grid, as far as it came
            _finish(curve(), out, say)
    return curve()


def _finish(curve: Curve, out: Path, say: Callable[[str], None]) -> None:
    _write(out / "curve.csv", [_summary(p, curve.key) for p in curve.points])
    _put(out / "budget.json", json.dumps(curve.to_dict(), indent=1) + "\n")
    try:
        draw(curve, out / "curve.png")
    except ImportError:
        say("no curve.png: matplotlib is missing; install it with: pip install 'ntn-twin[report]'")


def _checked(
    scenario: Scenario, agent: str, values: Sequence[float], key: str, n_seeds: int, tolerance: float, confidence: float
) -> list[float]:
    """The values, the most generous first. Raises ScenarioError."""
    if scenario.clock == launch.LockStep.name:
        raise ScenarioError("lock-step has no deadlines: a budget curve needs the virtual clock, or real time")
    for name, value in {f"{key} {v:g}": v / LARGEST[key] for v in values}.items():
        if not 0.0 < value <= 1.0:
            raise ScenarioError(f"{name} of agent {agent!r} must be more than 0 and at most {LARGEST[key]:g}")
    if len({f"{v:g}" for v in values}) != len(values) or len(values) < 2:
        raise ScenarioError(f"a grid has two values of {key} or more, all different, got {[f'{v:g}' for v in values]}")
    if n_seeds < 1 or not 0.0 <= tolerance < 1.0 or not 0.0 < confidence < 1.0:
        raise ScenarioError(
            f"seeds must be 1 or more, tolerance from 0 to 1, confidence between 0 and 1, got {n_seeds}, "
            f"{tolerance:g}, {confidence:g}"
        )
    return sorted((float(v) for v in values), reverse=key == "window")


def _claimed(out: Path) -> Path:
    """The folder of the grid, new or one of ours. Raises RecordError for anybody else's."""
    mark = out / "budget.json"
    try:
        if out.exists() and not mark.exists() and any(out.iterdir()):
            raise RecordError(f"folder {out} holds something else than a budget curve; give another with --out")
        out.mkdir(parents=True, exist_ok=True)
        if not mark.exists():
            mark.write_text("{}\n", encoding="utf-8")
    except OSError as error:
        raise RecordError(f"folder {out} cannot be written: {error}") from None
    return out


class Hangar:
    """Flies single runs of a grid, or finds them flown. A world is built once, for all runs that it is the same for."""

    def __init__(self, scenario: Scenario, agent: str, key: str, out: Path, processes: bool, keep: bool):
        self.scenario, self.agent, self.key, self.out = scenario, agent, key, out
        self.processes, self.keep = processes, keep
        self._worlds: dict[float, World] = {}
        self._cold = not processes

    def fly(self, value: float, seed: int) -> Flight:
        """One run, read."""
        seating = msgspec.structs.replace(self.scenario.seating(self.agent), **{self.key: value})
        agents = {**self.scenario.agents, self.agent: seating}
        scenario = msgspec.structs.replace(self.scenario, agents=agents, seed=seed)
        world, folder = self._world(scenario, value), self.out / "runs" / _name(self.key, value, seed)
        record = _found(folder, describe(scenario, world, scenario.clock, "there" if self.processes else "here"))
        if record is None:
            if self._cold:
                _warm_up(scenario, self.agent, world)
                self._cold = False
            record = _flown(scenario, folder, world, self.processes)
        flight = _read(record, self.agent, value, seating.compute_scale)
        if not self.keep:
            shutil.rmtree(folder)
        return flight

    def _world(self, scenario: Scenario, value: float) -> World:
        of = value if self.key == "window" else 0.0  # a world knows the windows of its seats, not their computers
        if of not in self._worlds:
            world = build(scenario)
            seat = _seat(world, self.agent)
            if self.key == "window" and (seat.delay or seat.window != value):
                why = "it has a delay, whole slots to answer in" if seat.delay else "its world does not take windows"
                raise ScenarioError(f"agent.{self.agent} has no window to vary: {why}")
            self._worlds[of] = world
        return self._worlds[of]


def _said(flight: Flight, key: str) -> str:
    on_time = f"{flight.cycles - flight.misses} of {flight.cycles} on time"
    return f"{key} {flight.value:g}, seed {flight.seed}: reward {flight.reward:.4g}, {on_time}"


def _name(key: str, value: float, seed: int) -> str:
    return f"{SHORT[key]}-{value:g}-seed-{seed}"


def _seat(world: World, name: str) -> Agent:
    return next(agent for agent in world.agents if agent.name == name)


def _found(folder: Path, expected: dict[str, Any]) -> Record | None:
    """A finished run that is there; one that did not finish makes room. Raises ScenarioError for another run."""
    if not folder.exists():
        return None
    try:
        record = Record.open(folder)
    except RecordError:  # ended while it was being made
        record = None
    if record is None or record.meta["ended"] != "finished":
        shutil.rmtree(folder)
        return None
    expected = json.loads(json.dumps(expected, default=str))
    found = json.loads(json.dumps({name: record.meta.get(name) for name in ALIKE}, default=str))
    for where, was, now in _differences(found, {name: expected[name] for name in ALIKE}):
        raise ScenarioError(
            f"run {folder} was flown otherwise: {where} was {was!r}, now {now!r}; give another folder with --out"
        )
    return record


def _differences(was: Any, now: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in sorted({*was, *now}):
            yield from _differences(was.get(name), now.get(name), f"{where}.{name}".lstrip("."))
    elif was != now:
        yield where.removeprefix("resolved."), was, now


def _flown(scenario: Scenario, folder: Path, world: World, processes: bool) -> Record:
    """Fly one run. One that breaks a limit of its agents is a result; anything else is raised."""
    limits = any(s.on_miss == "abort" or s.max_consecutive_misses is not None for s in scenario.agents.values())
    gc.collect()  # what the run before left behind is not this one's to clear
    try:
        launch.run(scenario, out=folder, processes=processes, world=world)
    except RunBroken:
        if not limits:
            raise
    return Record.open(folder)


def _warm_up(scenario: Scenario, agent: str, world: World) -> None:
    """A short flight nobody counts."""
    slots = min(scenario.slots, COLD_CYCLES * _seat(world, agent).every)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(RunBroken):
        launch.run(
            msgspec.structs.replace(scenario, slots=slots), out=Path(folder) / "run", processes=False, world=world
        )


def _read(record: Record, agent: str, value: float, scale: float) -> Flight:
    report = latency.report(record)
    seen, columns = report[agent], record.decisions[agent]
    release, due = np.asarray(columns["release_ns"]), np.asarray(columns["due_ns"])
    cpu_us = np.asarray(columns["cpu_ns"])[1:] / NS_PER_US
    cpu_us = cpu_us[cpu_us > 0]
    p50, p95 = (float(x) for x in np.percentile(cpu_us, (50, 95))) if cpu_us.size else (math.nan, math.nan)
    allowed_us = float(np.median((due - release)[due > 0])) / NS_PER_US
    whole = report.ended == "finished"  # what a run that broke off earned by then cannot be compared
    return Flight(
        value=value,
        seed=report.seed,
        ended=report.ended,
        cycles=seen.cycles,
        misses=seen.misses,
        on_time=1.0 - seen.miss_rate,
        reward=seen.reward_mean if whole and seen.reward_mean is not None else math.nan,
        cpu_p50_us=p50,
        cpu_p95_us=p95,
        allowed_us=allowed_us,
        budget_us=allowed_us / scale,
        over_budget=seen.over_budget.cycles if seen.over_budget else None,
        twin_overruns=report.twin_overruns,
        trajectory_hash=report.trajectory_hash,
        rates={name: report.measures[name] if whole else math.nan for name in RATES if name in report.measures},
    )


# ---- what is written


def _row(flight: Flight, key: str) -> dict[str, Any]:
    row = asdict(flight)
    rates = row.pop("rates")
    return {key: row.pop("value"), **row, **rates, "run": f"runs/{_name(key, flight.value, flight.seed)}"}


def _summary(point: Point, key: str) -> dict[str, Any]:
    row: dict[str, float | None] = {
        key: point.value,
        "seeds": point.seeds,
        "allowed_us": point.allowed_us,
        "budget_us": point.budget_us,
    }
    row["cpu_p95_us"] = point.cpu_p95_us
    for name, mean in point.means.items():
        loss = point.losses[name]
        row |= {name: mean.mean, f"{name}_half": mean.half, f"{name}_loss": loss.mean, f"{name}_loss_half": loss.half}
    return row


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(plain(rows))
    _put(path, text.getvalue())


def _put(path: Path, text: str) -> None:
    """In one step, so that a kill leaves the file as it was before or as it is after."""
    passing = path.with_name(path.name + ".new")
    try:
        passing.write_text(text, encoding="utf-8")
        passing.replace(path)
    except OSError as error:
        raise RecordError(f"{path} cannot be written: {error}") from None
