"""How slow may the on-board computer be? One scenario and its seeds over a grid, and the knee of the reward.

Each point of the grid gives one agent another computer (`compute_scale`) or another deadline (`window`) and leaves all
else as it is: the sky, the channels and the other seats of a seed are the same at every point, so points are compared
seed by seed. A run of the grid is a run like any other, in a folder of its own.
"""

import contextlib
import csv
import gc
import io
import itertools
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hil import latency, launch
from hil.stats import Estimate, estimate, plain
from twin.errors import RecordError, RunBroken, ScenarioError
from twin.record import Record
from twin.runner import describe
from twin.scenario import Scenario, build
from twin.types import Agent, World
from twin.units import NS_PER_US

SHORT = {"compute_scale": "scale", "window": "window"}  # what a grid may vary, and how its folders call it
LARGEST = {"compute_scale": 1e6, "window": 1.0}  # as twin.scenario has them
RATES = ("rate_bps", "served_bps")  # measures judged beside the reward, where a world has them
COLD_CYCLES = 3  # flown before the first run, so that no point of the grid pays for what is cold
ALIKE = ("clock", "seats", "seed", "resolved", "inputs")  # what of a run found must be as it would be flown now


@dataclass(frozen=True)
class Flight:
    """One run of the grid, as its record tells it.

    value                   the compute scale, or the window
    reward                  of the agent per cycle; this, and the rates, NaN where the run broke a limit of its own
    on_time                 share of its cycles answered by the deadline
    cpu_p50_us, cpu_p95_us  processor time of an answer on this computer, first cycle apart; NaN where nobody said
    allowed_us              from release to deadline, median
    budget_us               what an answer may take on this computer: allowed_us, by the compute scale
    over_budget             cycles over its `budget_s`; None without one
    rates                   means over the run, bit/s
    """

    value: float
    seed: int
    ended: str
    cycles: int
    misses: int
    on_time: float
    reward: float
    cpu_p50_us: float
    cpu_p95_us: float
    allowed_us: float
    budget_us: float
    over_budget: int | None
    twin_overruns: int | None
    trajectory_hash: str | None
    rates: dict[str, float] = field(default_factory=dict)

    def judged(self) -> dict[str, float]:
        """What is compared between points."""
        return {"reward": self.reward, "on_time": self.on_time, **self.rates}


@dataclass(frozen=True)
class Point:
    """The runs of one value.

    budget_us   what an answer may take on this computer
    means       over the seeds, of what Flight.judged has
    losses      the reference's minus this one's, seed by seed
    """

    value: float
    seeds: int
    allowed_us: float
    budget_us: float
    cpu_p95_us: float
    means: dict[str, Estimate]
    losses: dict[str, Estimate]


@dataclass(frozen=True)
class Knee:
    """Where a mean falls further below the reference's than is tolerated: between two neighbours of the grid.

    within         the last value, away from the reference, up to which no point loses more than is tolerated
    beyond         the next one, which does; None: none within the grid
    surely_within  as `within`, judged by the upper ends of the losses' confidence intervals; None with one seed
    surely_beyond  the first value that loses more even by the lower end; None with one seed, or none within the grid
    """

    within: float
    beyond: float | None
    surely_within: float | None
    surely_beyond: float | None


@dataclass(frozen=True)
class Curve:
    """Reward and rates of one agent against its compute budget; points[0], the most generous, is the reference."""

    scenario: str
    agent: str
    key: str
    clock: str
    tolerance: float
    confidence: float
    points: list[Point]
    knees: dict[str, Knee]

    def to_dict(self) -> dict[str, Any]:
        """One JSON object; what is not known is null."""
        return plain(asdict(self))


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


# ---- the curve


def curve_of(
    scenario: str, agent: str, key: str, clock: str, flights: Sequence[Flight], tolerance: float, confidence: float
) -> Curve:
    """What the runs say together. The most generous value is the reference; only seeds flown at both are compared."""
    values = sorted({f.value for f in flights}, reverse=key == "window")
    by = {(f.value, f.seed): f.judged() for f in flights}
    points, metrics = [], list(flights[0].judged())
    for value in values:
        of = [f for f in flights if f.value == value]
        pairs = [(by[values[0], f.seed], f.judged()) for f in of if (values[0], f.seed) in by]
        points.append(
            Point(
                value=value,
                seeds=len(of),
                allowed_us=float(np.median([f.allowed_us for f in of])),
                budget_us=float(np.median([f.budget_us for f in of])),
                cpu_p95_us=float(np.median([f.cpu_p95_us for f in of])),
                means={m: estimate([f.judged()[m] for f in of], confidence) for m in metrics},
                losses={m: estimate([ours[m] - its[m] for ours, its in pairs], confidence) for m in metrics},
            )
        )
    knees = {m: knee(points, m, tolerance) for m in metrics if m != "on_time"}
    return Curve(scenario, agent, key, clock, tolerance, confidence, points, knees)


def knee(points: Sequence[Point], metric: str, tolerance: float) -> Knee:
    """Where the mean loss passes `tolerance` of the reference's mean. A run that broke off has lost too much."""
    allowed = tolerance * abs(points[0].means[metric].mean)
    losses = [p.losses[metric] for p in points]

    def passed(excess: list[float]) -> int:
        return next((i for i, more in enumerate(excess) if i and not more <= 0.0), len(points))

    at = passed([loss.mean - allowed for loss in losses])
    beyond = points[at].value if at < len(points) else None
    if any(loss.half is None for loss in losses):
        return Knee(points[at - 1].value, beyond, None, None)
    sure = passed([loss.mean + (loss.half or 0.0) - allowed for loss in losses])
    lost = passed([loss.mean - (loss.half or 0.0) - allowed for loss in losses])
    return Knee(
        points[at - 1].value, beyond, points[sure - 1].value, points[lost].value if lost < len(points) else None
    )


# ---- what is written, said and drawn


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


def table(curve: Curve) -> tuple[list[str], list[list[str]]]:
    """Headings and rows for a person: means +- half of their confidence intervals."""
    rate = next((name for name in reversed(RATES) if name in curve.knees), None)
    head = ["scale" if curve.key == "compute_scale" else curve.key, "budget, ms", "on time, %", "reward", "lost, %"]
    reference, rows = abs(curve.points[0].means["reward"].mean), []
    for p in curve.points:
        row = [f"{p.value:g}", f"{p.budget_us / 1e3:.3g}", f"{100.0 * p.means['on_time'].mean:.1f}"]
        row += [_pm(p.means["reward"], 1.0, 2), _pm(p.losses["reward"], 100.0 / reference, 1) if reference else "-"]
        rows.append(row + ([_pm(p.means[rate], 1e-6, 1)] if rate else []))
    return head + ([f"{rate.removesuffix('_bps')}, Mbit/s"] if rate else []), rows


def _pm(estimate: Estimate, scale: float, digits: int) -> str:
    if math.isnan(estimate.mean):
        return "broke off"
    mean = f"{estimate.mean * scale + 0.0:.{digits}f}"
    return mean if estimate.half is None else f"{mean} ± {estimate.half * scale:.{digits}f}"


def sentences(curve: Curve) -> list[str]:
    """What the curve says, for a person."""
    first, key = curve.points[0], curve.key
    if math.isnan(first.means["reward"].mean):
        return [f"a run at {key} {first.value:g} broke a limit of its own, so there is nothing to compare with"]
    said = []
    if first.means["on_time"].mean < 1.0:
        missed = 100.0 * (1.0 - first.means["on_time"].mean)
        said.append(f"{missed:.2g} % of the cycles are missed at {key} {first.value:g} already")
    else:
        all_kept = list(itertools.takewhile(lambda p: p.means["on_time"].mean == 1.0, curve.points))
        said.append(f"no cycle is missed up to {key} {all_kept[-1].value:g}")
    within = f"within {100 * curve.tolerance:g} % of that at {key} {first.value:g}"
    for metric, found in curve.knees.items():
        name = "the reward" if metric == "reward" else metric
        if found.beyond is None:
            said.append(f"{name} stays {within} up to {found.within:g}: no knee within the grid")
        else:
            said.append(f"{name} stays {within} up to {found.within:g}, and no longer at {found.beyond:g}")
        if found.surely_within is not None:
            lost = "nowhere sure" if found.surely_beyond is None else f"from {found.surely_beyond:g} sure"
            said[-1] += f" ({100 * curve.confidence:g} % sure up to {found.surely_within:g}, {lost} of more loss)"
    knee_ = curve.knees["reward"]
    last = next(p for p in curve.points if p.value == knee_.within)
    more = "" if knee_.beyond else " at least"
    if key == "compute_scale":
        here_ms, share = first.cpu_p95_us / 1e3, 100.0 * last.means["on_time"].mean
        said.append(
            f"so the computer of {curve.agent} may be{more} {last.value:g} times slower than this one: an answer takes "
            f"{here_ms:.3g} ms of processor time here (p95) and {here_ms * last.value:.3g} ms there, "
            f"{last.allowed_us / 1e3:.3g} ms are allowed, {share:.3g} % are on time"
        )
    else:
        less = "" if knee_.beyond else ", or less"
        said.append(f"so {curve.agent} may be given {last.allowed_us / 1e3:.3g} ms to answer in{less}")
    return said


def draw(curve: Curve, path: Path) -> None:
    """The curve as PNG: reward, rates and on-time share, one above the other. Raises ImportError without matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = {"reward": "reward per cycle", "on_time": "answered\non time, %"}
    labels |= {name: f"{name.removesuffix('_bps')},\nMbit/s" for name in RATES}
    units = {"on_time": 100.0} | dict.fromkeys(RATES, 1e-6)
    metrics = ["reward", *(m for m in RATES if m in curve.knees), "on_time"]
    figure = Figure(figsize=(7.0, 1.2 + 1.6 * len(metrics)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(metrics), 1, sharex=True)
    values = [p.value for p in curve.points]
    for panel, metric in zip(panels, metrics):
        unit = units.get(metric, 1.0)
        mean = np.array([p.means[metric].mean for p in curve.points]) * unit
        half = np.array([p.means[metric].half or 0.0 for p in curve.points]) * unit
        panel.errorbar(values, mean, half, marker="o", markersize=4, capsize=3, linewidth=1.2, color="C0")
        panel.set_ylabel(labels[metric])
        panel.grid(alpha=0.3)
        found = curve.knees.get(metric)
        if found is not None:
            panel.axhline(mean[0] - curve.tolerance * abs(mean[0]), linestyle=":", linewidth=1.0, color="C3")
            if found.beyond is not None:
                label = f"knee: {found.within:g}, not {found.beyond:g}"
                panel.axvspan(found.within, found.beyond, color="C3", alpha=0.25, linewidth=0, label=label)
                panel.legend(loc="lower left" if curve.key == "compute_scale" else "lower right", framealpha=0.9)
    bottom, top = panels[-1], panels[0]
    bottom.set_ylim(-5, 105)
    bottom.set_xscale("log", base=2)
    bottom.set_xlabel(
        "computer so many times slower than this one" if curve.key == "compute_scale" else "window, part of the slot"
    )
    bottom.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    allowed_ms = curve.points[0].allowed_us / 1e3 / (1.0 if curve.key == "compute_scale" else curve.points[0].value)
    if curve.key == "compute_scale":
        ways = (lambda x: allowed_ms / np.maximum(x, 1e-9),) * 2
    else:
        ways = (lambda x: x * allowed_ms, lambda x: x / allowed_ms)
    above = top.secondary_xaxis("top", functions=ways)
    above.set_xlabel("compute time per cycle that the deadline leaves, ms of this computer")
    above.xaxis.set_major_formatter(lambda x, _: f"{x:.3g}")
    seeds = max(p.seeds for p in curve.points)
    figure.suptitle(
        f"{curve.scenario}: {curve.agent}, clock {curve.clock}, {seeds} seeds, {100 * curve.confidence:g} % confidence",
        fontsize=10,
    )
    figure.savefig(path)
