"""What a run's record says about time: percentiles per component and agent, misses, slack.

Latency is counted from the scheduled release, never from when an observation really left, so a stall shows as it was
for every cycle it held up. The named components of a cycle add up to its response time; what they leave is shown as
`unaccounted`.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hil.offset import to_the_twins_clock
from hil.recovery import Age, FaultReport, age_of_information, faults
from twin.record import SOURCES, STATUSES, Record
from twin.stats import plain
from twin.units import NS_PER_S, NS_PER_US, US_PER_S

OF_A_SATELLITE = ("elevation_deg", "los", "tx_error_deg", "rx_error_deg")
LABELS = ("satellite", "state", "action")  # whole numbers of which a mean says nothing
BLOCKS = ("used_rb", "reserved_rb")  # masks, one element per group of resource blocks
COMPONENTS = (
    "release_lateness",
    "observe",
    "encode",
    "wire_out",
    "queue",
    "decode",
    "compute",
    "emulation",
    "encode_answer",
    "wire_back",
)


@dataclass(frozen=True)
class Spread:
    """The distribution of a duration over the cycles it is defined for, microseconds; all None where there are none."""

    n: int
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    p99_9: float | None
    max: float | None

    @classmethod
    def of(cls, values_us: np.ndarray) -> "Spread":
        """Percentiles by linear interpolation between the closest ranks; NaN stands for "not defined"."""
        values = values_us[np.isfinite(values_us)]
        if values.size == 0:
            return cls(0, None, None, None, None, None, None)
        p50, p90, p99, p999 = (float(x) for x in np.percentile(values, (50, 90, 99, 99.9)))
        return cls(values.size, float(values.mean()), p50, p90, p99, p999, float(values.max()))

    def to_dict(self) -> dict[str, float | None]:
        """As `--json` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class OverBudget:
    """How an agent kept its `budget_s`: the processor time it may use per cycle, apart from any deadline.

    budget_us  allowed per cycle, microseconds
    cycles     used more; a missed cycle counts too where its processor time is known
    of         cycles whose processor time is known
    in_grace   used more within `startup_grace_cycles`, which neither of the two counts
    """

    budget_us: float
    cycles: int
    of: int
    in_grace: int


@dataclass(frozen=True)
class AgentLatency:
    """One agent's cycles: how many ended how, and how long everything took (first cycle apart)."""

    name: str
    every: int
    cycles: int
    statuses: dict[str, int]
    sources: dict[str, int]
    grace_misses: int
    longest_miss_run: int
    at_least: tuple[int, int] | None
    at_least_held: bool | None
    reward_mean: float | None
    signalling_bytes: int
    learning_misses: int
    weights: int
    response_us: Spread
    compute_us: Spread
    wire_us: Spread
    release_lateness_us: Spread
    unaccounted_us: Spread
    slack_us: Spread
    order_wait_us: Spread
    learn_us: Spread
    cpu_us: Spread
    over_budget: OverBudget | None
    components_us: dict[str, Spread]
    accounted_share: float | None
    first_response_us: float | None
    clock_offset_us: float | None
    clock_uncertainty_us: float | None
    until_answered_us: Spread
    unanswered: int
    stale: int | None
    duplicates: int | None
    age_of_information: Age

    @property
    def on_time(self) -> int:
        """Cycles answered in time."""
        return self.statuses["on_time"]

    @property
    def misses(self) -> int:
        """Cycles without a valid answer by the deadline: missing, late and invalid ones."""
        return self.cycles - self.on_time

    @property
    def miss_rate(self) -> float:
        """Misses over cycles; 0 where no answer fell due."""
        return self.misses / self.cycles if self.cycles else 0.0

    @property
    def p99_us(self) -> float | None:
        """The 99th percentile of the response time, microseconds."""
        return self.response_us.p99

    def to_dict(self) -> dict[str, Any]:
        """The agent's part of `--json`; later keys may be added, none changes meaning."""
        spreads = ("release_lateness_us", "response_us", "compute_us", "wire_us", "unaccounted_us", "slack_us")
        return {
            "cycles": self.cycles,
            "on_time": self.on_time,
            "misses": self.misses,
            "missing": self.statuses["missing"],
            "late": self.statuses["late"],
            "invalid": self.statuses["invalid"],
            "unanswered": self.unanswered,
            "stale": self.stale,
            "duplicates": self.duplicates,
            "grace_misses": self.grace_misses,
            "longest_miss_run": self.longest_miss_run,
            "at_least": self.at_least and {"m": self.at_least[0], "k": self.at_least[1], "held": self.at_least_held},
            "reward_mean": self.reward_mean,
            "signalling_bytes": self.signalling_bytes,
            "learning_misses": self.learning_misses,
            "weights": self.weights,
            "accounted_share": self.accounted_share,
            "first_response_us": self.first_response_us,
            "clock_offset_us": self.clock_offset_us,
            "clock_uncertainty_us": self.clock_uncertainty_us,
            **{name: getattr(self, name).to_dict() for name in spreads},
            "until_answered_us": self.until_answered_us.to_dict(),
            "order_wait_us": self.order_wait_us.to_dict(),
            "learn_us": self.learn_us.to_dict(),
            "cpu_us": self.cpu_us.to_dict(),
            "over_budget": self.over_budget and asdict(self.over_budget),
            "components_us": {name: spread.to_dict() for name, spread in self.components_us.items()},
            "age_of_information": self.age_of_information.to_dict(),
        }


@dataclass(frozen=True)
class LatencyReport:
    """A run at a glance: report["ue"].p99_us, .miss_rate; to_dict() is what `--json` prints."""

    run: str
    scenario: str
    clock: str
    seed: int
    slots: int
    ended: str
    why: str
    trajectory_hash: str | None
    twin_overruns: int | None
    agents: dict[str, AgentLatency]
    measures: dict[str, float] = field(default_factory=dict)
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)  # by agent: seated, vacated, stale, ...
    refused: int | None = None  # messages of who had no seat
    events: dict[str, int] = field(default_factory=dict)
    faults: list[FaultReport] = field(default_factory=list)

    def __getitem__(self, agent: str) -> AgentLatency:
        return self.agents[agent]

    def to_dict(self) -> dict[str, Any]:
        """One JSON object; what the clock does not define, or is no number, is null."""
        told = {
            "run": self.run,
            "scenario": self.scenario,
            "clock": self.clock,
            "seed": self.seed,
            "slots": self.slots,
            "ended": self.ended,
            "why": self.why,
            "trajectory_hash": self.trajectory_hash,
            "twin_overruns": self.twin_overruns,
            "refused": self.refused,
            "events": self.events,
            "measures": self.measures,
            "messages": self.messages,
            "agents": {name: agent.to_dict() for name, agent in self.agents.items()},
            "faults": [fault.to_dict() for fault in self.faults],
        }
        return dict(plain(told))


def report(record: Record) -> LatencyReport:
    """Read a run's record, finished or not."""
    meta = record.meta
    written = np.asarray(record.slots["written"]) if "written" in record.slots else np.zeros(0, dtype=bool)
    overruns = meta.get("overrun_slots")
    return LatencyReport(
        run=str(record.folder),
        scenario=meta["scenario"],
        clock=meta["clock"],
        seed=meta["seed"],
        slots=int(written.sum()),
        ended=meta["ended"],
        why=meta.get("why", ""),
        trajectory_hash=meta.get("trajectory_hash"),
        twin_overruns=None if overruns is None else len(overruns),
        agents={name: _agent(record, name, written) for name in meta["agents"]},
        measures=_measures(record, written),
        messages=meta.get("messages") or {},
        refused=meta.get("refused"),
        events=dict(Counter(event["event"] for event in record.events)),
        faults=faults(record),
    )


def _measures(record: Record, written: np.ndarray) -> dict[str, float]:
    """Means over the run of what is one number per slot; of what only a serving satellite has, over its slots.

    Of a mask of resource blocks, the share of them; `satisfied_demand` is what was served of all that was asked for.
    """
    if not written.any():
        return {}
    number = record.slots.get("satellite")
    served = written if number is None else written & (np.asarray(number) != 0)
    means = {} if number is None else {"served_slots": float(served.sum() / written.sum())}
    for name, column in record.slots.items():
        slots = served if name in (*OF_A_SATELLITE, *BLOCKS) else written
        if name in BLOCKS and column.dtype.kind == "b" and slots.any():
            means[f"{name}_share"] = float(np.mean(column[slots]))
        measured = name not in ("written", *LABELS) and not name.startswith("reward.")
        if measured and column.ndim == 1 and column.dtype.kind in "fbiu" and slots.any():
            means[name] = float(np.mean(column[slots], dtype=np.float64))
    if means.get("demand_bps", 0.0) > 0.0 and "served_bps" in means:
        means["satisfied_demand"] = means["served_bps"] / means["demand_bps"]
    return means


def _agent(record: Record, name: str, written: np.ndarray) -> AgentLatency:
    columns = record.decisions[name]
    settled = np.flatnonzero(columns["status"])
    column = {key: np.asarray(value[settled]) for key, value in columns.items() if not key.startswith("action.")}
    scheduled = record.meta["clock"] != "lockstep"
    column, offset_us, uncertainty_us = to_the_twins_clock(record, name, column)
    parts = _parts_us(column, scheduled)
    response = parts.pop("response")
    unaccounted = np.round(response - np.nansum(list(parts.values()), axis=0), 3) + 0.0  # stamps are whole ns; no -0
    on_time = column["status"] == STATUSES.index("on_time")
    later = settled > 0  # the first cycle pays for what is cold, and is kept apart
    due = column["due_ns"].astype(float)
    slack = np.where(on_time & (due > 0), (due - column["arrived_ns"]) / NS_PER_US, np.nan)
    order_wait = np.where(
        column["slot_start_ns"] > 0, (column["release_ns"] - column["slot_start_ns"]) / NS_PER_US, np.nan
    )
    seating = record.meta["resolved"].get("agents", {}).get(name, {})
    m_k, grace = seating.get("at_least"), settled < seating.get("startup_grace_cycles", 0)
    cpu_us = np.where(column["cpu_ns"] > 0, column["cpu_ns"] * seating.get("compute_scale", 1.0) / NS_PER_US, np.nan)
    rewards = np.asarray(record.slots[f"reward.{name}"])[written] if f"reward.{name}" in record.slots else np.zeros(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = 1.0 - unaccounted / response
    answered = np.isfinite(response) & later
    components = {key: Spread.of(value[later]) for key, value in parts.items()}
    until_answered = np.where(np.isfinite(response), response, _next_answer_us(column, scheduled))
    messages = (record.meta.get("messages") or {}).get(name, {})
    return AgentLatency(
        name=name,
        every=record.meta["agents"][name]["every"],
        cycles=settled.size,
        statuses={status: int(np.sum(column["status"] == i)) for i, status in enumerate(STATUSES) if i},
        sources={source: int(np.sum(column["source"] == i)) for i, source in enumerate(SOURCES) if i},
        grace_misses=int(np.sum(grace & ~on_time)),
        longest_miss_run=_longest_run(~on_time[~grace]),
        at_least=tuple(m_k) if m_k else None,
        at_least_held=_at_least(on_time[~grace], *m_k) if m_k else None,
        reward_mean=float(rewards.sum() / settled.size) if settled.size else None,
        signalling_bytes=int(column["signal_bytes"].sum()),
        learning_misses=int(column["learning_misses"].max(initial=0)),
        weights=int(column["weights"].max(initial=0)),
        response_us=Spread.of(response[later]),
        compute_us=components["compute"],
        wire_us=Spread.of((parts["wire_out"] + parts["wire_back"])[later]),
        release_lateness_us=components["release_lateness"],
        unaccounted_us=Spread.of(unaccounted[later]),
        slack_us=Spread.of(slack[later]),
        order_wait_us=Spread.of(order_wait[later]),
        learn_us=Spread.of(np.where(column["learn_ns"] > 0, column["learn_ns"] / NS_PER_US, np.nan)),
        cpu_us=Spread.of(cpu_us[later]),
        over_budget=_over_budget(cpu_us, grace, seating.get("budget_s")),
        components_us=components,
        accounted_share=float(np.median(share[answered])) if answered.any() else None,
        first_response_us=_number(response[~later]),
        clock_offset_us=offset_us,
        clock_uncertainty_us=uncertainty_us,
        until_answered_us=Spread.of(until_answered[later]),
        unanswered=int(np.sum(~np.isfinite(response))),
        stale=messages.get("stale"),
        duplicates=messages.get("duplicates"),
        age_of_information=age_of_information(record, name),
    )


def _parts_us(column: dict[str, np.ndarray], scheduled: bool) -> dict[str, np.ndarray]:
    """The response time of each cycle and its parts, microseconds; NaN where somebody did not stamp.

    A controller's stamps that cannot be, out of order among themselves or between ours, are as good as none.
    """
    at = {
        key.removesuffix("_ns"): np.where(value > 0, value, np.nan)
        for key, value in column.items()
        if key.endswith("_ns")
    }
    emulation = column["emulation_ns"].astype(float)
    there = ("received", "decoded", "acted", "replied")  # and waiting, which received may precede
    chain = np.array([at["sent"], *(at[name] for name in there), at["arrived"] - emulation])
    impossible = (chain < np.fmax.accumulate(chain) - NS_PER_US).any(axis=0) | (at["waiting"] > at["decoded"])
    for name in ("waiting", *there):
        at[name] = np.where(impossible, np.nan, at[name])
    waiting = np.where(np.isnan(at["waiting"]), -np.inf, at["waiting"])
    picked = np.maximum(at["received"], waiting)  # when the controller turned to it
    sent = np.where(np.isnan(at["sent"]), at["received"], at["sent"])  # in this process nothing is sent
    zero = np.where(np.isnan(at["arrived"]), np.nan, 0.0)
    replied = np.where(np.isnan(at["replied"]), at["acted"], at["replied"])
    parts = {
        "response": at["arrived"] - at["release"],
        "release_lateness": at["begin"] - at["release"],
        "observe": at["observed"] - at["begin"],
        "encode": sent - at["observed"],
        "wire_out": np.maximum(at["received"] - np.maximum(sent, waiting), 0.0),
        "queue": np.where(np.isnan(at["received"]), np.nan, np.maximum(waiting - sent, 0.0)),
        "decode": at["decoded"] - picked,
        "compute": at["acted"] - at["decoded"],
        "emulation": emulation + zero,
        "encode_answer": replied - at["acted"],
        "wire_back": at["arrived"] - emulation - replied,
    }
    if not scheduled:  # nothing is scheduled in lock-step, so nothing can be late
        parts["release_lateness"] = np.full_like(parts["response"], np.nan)
        parts["response"] = at["arrived"] - at["begin"]
    return {name: value / NS_PER_US for name, value in parts.items()}


def _over_budget(cpu_us: np.ndarray, grace: np.ndarray, budget_s: float | None) -> OverBudget | None:
    """Cycles over budget; both sides in whole ns, so that what is used up exactly is not over."""
    if budget_s is None:
        return None
    known, over = np.isfinite(cpu_us), np.round(cpu_us * NS_PER_US) > round(budget_s * NS_PER_S)
    return OverBudget(
        budget_s * US_PER_S, *(int(np.sum(flags)) for flags in (over & ~grace, known & ~grace, over & grace))
    )


def _next_answer_us(column: dict[str, np.ndarray], scheduled: bool) -> np.ndarray:
    """From each cycle's release to the seat's next answer, microseconds; where none came, to the last deadline."""
    arrived = np.where(column["arrived_ns"] > 0, column["arrived_ns"], np.nan)
    next_ns = np.fmin.accumulate(arrived[::-1])[::-1]
    last_ns = float(column["due_ns"].max(initial=0)) or np.nan
    since_ns = column["release_ns" if scheduled else "begin_ns"]
    return (np.where(np.isnan(next_ns), last_ns, next_ns) - since_ns) / NS_PER_US


def _longest_run(flags: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(int), [0]))))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _at_least(on_time: np.ndarray, m: int, k: int) -> bool:
    """Whether every k consecutive cycles had at least m on-time answers; fewer than k cycles are judged as they are."""
    if on_time.size < k:
        return bool((~on_time).sum() <= k - m)
    return bool(np.convolve(on_time.astype(int), np.ones(k, dtype=int), "valid").min() >= m)


def _number(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite[0]) if finite.size else None
