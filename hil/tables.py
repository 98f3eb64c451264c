"""What a person reads of a run: the tables of `ntn-twin report`, printed so that no number is cut."""

from rich.console import Console
from rich.table import Table

from hil.latency import AgentLatency, LatencyReport

QUANTILES = {"p50": "p50", "p90": "p90", "p99": "p99", "p99.9": "p99_9", "max": "max"}
MOST_COLUMNS = 1000  # of characters
QUIET = ("tx_error_deg", "rx_error_deg")  # measures that only `--json` tells


def show(result: LatencyReport) -> None:
    """Print a report for a person."""
    console = Console(highlight=False)
    for title, table in tables(result):
        console.print(title, style="bold", soft_wrap=True)
        print_table(console, table)
        console.print()
    if result.events or result.refused:
        kinds = [f"{kind} {n}" for kind, n in result.events.items()]
        console.print(", ".join(["events: " + (", ".join(kinds) or "none"), f"messages refused {result.refused or 0}"]))
    hash_ = result.trajectory_hash or "none: the run did not end"
    console.print(f"trajectory {hash_}")
    if result.ended != "finished":
        how = "was killed, or still flies" if result.ended == "running" else f"was {result.ended}"
        console.print(f"the run {how}: {result.why or 'no reason recorded'}", soft_wrap=True)
    console.print(f"run folder {result.run}", soft_wrap=True)


def print_table(console: Console, table: Table) -> None:
    """Print a table, wider than the terminal where it must be: a number is never cut."""
    needs = console.measure(table, options=console.options.update(max_width=MOST_COLUMNS)).maximum
    console.width = max(console.width, needs)
    console.print(table)


def tables(result: LatencyReport) -> list[tuple[str, Table]]:
    """What a person wants to know of a run: how the link did, and who kept the deadlines."""
    wanted = {
        "served_slots": ("a satellite serves", 100.0, "% of slots"),
        "elevation_deg": ("its elevation", 1.0, "deg"),
        "los": ("in sight", 100.0, "% of its slots"),
        "demand_bps": ("demand", 1e-6, "Mbit/s"),
        "rate_bps": ("rate", 1e-6, "Mbit/s"),
        "served_bps": ("served", 1e-6, "Mbit/s"),
        "satisfied_demand": ("satisfied demand", 100.0, "%"),
        "reserved_rb_share": ("resource blocks reserved", 100.0, "%"),
        "used_rb_share": ("  and used", 100.0, "%"),
    }
    head = table_of("", "", "")
    for name, (label, scale, unit) in wanted.items():
        if name in result.measures:
            head.add_row(label, f"{result.measures[name] * scale:.1f}", unit)
    for name, value in result.measures.items():
        if name not in (*wanted, *QUIET):  # what only this world measures, as it calls it
            head.add_row(name, f"{value:.4g}", "")
    agents = result.agents.values()
    overruns = "" if result.twin_overruns is None else f"; {result.twin_overruns} twin overruns"
    cycles = table_of("", *result.agents)
    for label, values in {
        "one every ... slots": [str(a.every) for a in agents],
        "cycles": [str(a.cycles) for a in agents],
        "  answered on time": [str(a.on_time) for a in agents],
        "  missing, late, invalid": [
            ", ".join(str(a.statuses[s]) for s in ("missing", "late", "invalid")) for a in agents
        ],
        "  without any answer": [str(a.unanswered) for a in agents],
        "  misses in the grace of the start": [str(a.grace_misses) for a in agents],
        "longest run of misses": [str(a.longest_miss_run) for a in agents],
        "stale, duplicate messages": ["-" if a.stale is None else f"{a.stale}, {a.duplicates}" for a in agents],
        "at least m in any k": [_verdict(a) for a in agents],
        "over budget": [_over_budget(a) for a in agents],
        "reward per cycle": [_reward(a) for a in agents],
        "signals sent, kB": [f"{a.signalling_bytes / 1e3:.1f}" for a in agents],
        "age of information, s: mean, max": [_age(a) for a in agents],
        "updates learned, not ready": [f"{a.weights}, {a.learning_misses}" for a in agents],
    }.items():
        cycles.add_row(label, *values)
    if any(a.clock_offset_us is not None for a in agents):
        cycles.add_row("its clock is ahead, s", *(_ahead(a) for a in agents))
    about = f"{result.scenario}: {result.slots} slots, clock {result.clock}, seed {result.seed}; means of the run"
    shown = [(about, head), (f"control cycles{overruns}", cycles)]
    if result.faults:
        shown.append(("faults", _faults(result)))
    return shown + [(f"{a.name}: microseconds from the scheduled release{_first(a)}", _times(a)) for a in agents]


def _times(agent: AgentLatency) -> Table:
    """Where an agent's time went, one line per part."""
    table = table_of("", "n", *QUANTILES)
    rows = {"response": agent.response_us}
    if agent.unanswered:
        rows["until the next answer"] = agent.until_answered_us
    rows |= {"slack before the deadline": agent.slack_us, "order wait": agent.order_wait_us}
    rows |= {f"  {part.replace('_', ' ')}": spread for part, spread in agent.components_us.items()}
    rows |= {"  unaccounted": agent.unaccounted_us, "processor time, scaled": agent.cpu_us}
    rows["learning, beside the path"] = agent.learn_us
    for label, spread in rows.items():
        values = [
            "-" if value is None else f"{value:,.0f}" for value in (getattr(spread, q) for q in QUANTILES.values())
        ]
        table.add_row(label, str(spread.n), *values)
    return table


def _first(agent: AgentLatency) -> str:
    return "" if agent.first_response_us is None else f"; the first, {agent.first_response_us:,.0f}, is apart"


def _faults(result: LatencyReport) -> Table:
    """One row per fault and agent it was for; recovery is in cycles that were missed after its end."""
    table = table_of("", "slots", "agent", "messages hit", "missed", "recovery")
    for fault in result.faults:
        when = f"{fault.first_slot} to {fault.last_slot}" if fault.comes else "did not come"
        for name, hit in fault.hits.items() or [(fault.agent or "-", None)]:
            cells = (hit.messages, hit.misses, hit.cycles_to_recovery) if hit else (None, None, None)
            table.add_row(fault.kind, when, name, *("-" if cell is None else str(cell) for cell in cells))
    return table


def _age(agent: AgentLatency) -> str:
    age = agent.age_of_information
    mean_s, max_s = (age.to_dict()["s"][name] for name in ("mean", "max"))
    return "-" if mean_s is None else f"{mean_s:.3g}, {max_s:.3g}"


def table_of(*columns: str) -> Table:
    """A table of words on the left and numbers on the right."""
    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _verdict(agent: AgentLatency) -> str:
    if agent.at_least is None:
        return "-"
    return f"{agent.at_least[0]} in {agent.at_least[1]} {'held' if agent.at_least_held else 'BROKEN'}"


def _reward(agent: AgentLatency) -> str:
    if agent.reward_mean is None:
        return "-"
    return f"{agent.reward_mean:.2f}" if abs(agent.reward_mean) >= 1.0 else f"{agent.reward_mean:.3g}"


def _ahead(agent: AgentLatency) -> str:
    if agent.clock_offset_us is None or agent.clock_uncertainty_us is None:
        return "-"
    return f"{agent.clock_offset_us / 1e6:.6f} +- {agent.clock_uncertainty_us / 1e6:.6f}"


def _over_budget(agent: AgentLatency) -> str:
    if agent.over_budget is None:
        return "-"
    return f"{agent.over_budget.cycles} of {agent.over_budget.of}"
