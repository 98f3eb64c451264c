"""What the runs of a grid say together: the budget curve, its knee, and how both are told and drawn.

Points are compared seed by seed: the sky, the channels and the other seats of a seed are the same at every point.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from twin.stats import Estimate, estimate, plain

RATES = ("rate_bps", "served_bps")  # measures judged beside the reward, where a world has them


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


# ---- for a person


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
