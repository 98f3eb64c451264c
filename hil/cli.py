"""The command `ntn-twin`: verbs, tables, picture.

Exit codes: 0 fine; 1 the run broke one of its own limits; 2 bad input; 3 a controller never came; 130 Ctrl-C.
Tables and progress are for people; `--json` puts exactly one object on stdout for machines.
"""

import json
import signal
import sys
import tomllib
import warnings
from collections import Counter
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hil import latency
from hil.picture import Picture
from twin.errors import ScenarioError, TwinError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)
err = Console(stderr=True, highlight=False)

INTERRUPTED = 130
MOST_HOURS = 240  # element sets are worth nothing after ten days
Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout, nothing else")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="replace a key of the scenario, e.g. link.n_paths=6; repeatable"),
]
ScenarioName = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="one that ships (`ntn-twin list`), or a .toml file")
]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Scenarios, worlds and controllers that ship."""
    from twin.scenario import CONTROLLERS, WORLDS, shipped

    scenarios = {name: _headline(path) for name, path in shipped().items()}
    if as_json:
        _print_json({"scenarios": scenarios, "worlds": sorted(WORLDS), "controllers": sorted(CONTROLLERS)})
        return
    for name, line in scenarios.items():
        typer.echo(f"scenario    {name:<12} {line}")
    for name in sorted(WORLDS):
        typer.echo(f"world       {name}")
    for name in sorted(CONTROLLERS):
        typer.echo(f"controller  {name:<12} {CONTROLLERS[name]}")
    typer.echo("controller  external     awaited on a socket; or module:Class of your own")


@app.command()
def passes(
    scenario: ScenarioName = "quickstart",
    hours: Annotated[
        float | None,
        typer.Option(help="length of the window from the scenario's start; default: the run's own length"),
    ] = None,
    mask_deg: Annotated[float | None, typer.Option(help="elevation mask, degrees; default: the scenario's")] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Who is above the mask, when, how high: every pass that touches the window, with its true rise and set."""
    import numpy as np

    from twin.scenario import load

    loaded = load(scenario, _overrides(set_))
    if not hasattr(loaded.settings, "sky"):
        raise ScenarioError(f"scenario {loaded.name}: world {loaded.world} has no sky")
    if hours is not None and not 0 < hours <= MOST_HOURS:
        raise ScenarioError(f"--hours must be more than 0 and at most {MOST_HOURS}, got {hours:g}")
    if mask_deg is not None and not 0 <= mask_deg < 90:
        raise ScenarioError(f"--mask-deg must be at least 0 and less than 90, got {mask_deg:g}")
    found = _passes(loaded, hours, mask_deg)
    if as_json:
        _print_json({"scenario": loaded.name, **found})
        return
    title = f"above {found['mask_deg']:g} deg at {found['site']}\n{found['from_utc']} to {found['to_utc']}"
    first = 11 if found["from_utc"][:10] == found["to_utc"][:10] else 5  # with the day where there are several
    table = _table("satellite", "number", "rise", "highest", "set (UTC)", "deg", "s")
    for p in found["passes"]:
        times = (p[name][first:21].replace("T", " ") for name in ("rise_utc", "culmination_utc", "set_utc"))
        table.add_row(p["name"], str(p["number"]), *times, f"{p['max_elevation_deg']:.1f}", f"{p['duration_s']:.0f}")
    console = Console(highlight=False)
    console.print(title, style="bold", soft_wrap=True)
    console.print(table)
    if not found["passes"]:
        console.print("nobody; look further ahead with --hours 2, or lower with --mask-deg 10")
    else:
        durations = np.array([p["duration_s"] for p in found["passes"]])
        console.print(f"{durations.size} passes, median {np.median(durations):.0f} s")


def _passes(loaded: Any, hours: float | None, mask_deg: float | None) -> dict[str, Any]:
    from datetime import timedelta

    from twin.geometry import passes as passes_of
    from twin.orbit import ephemeris
    from twin.tle import read_tle

    sky, site = loaded.settings.sky, loaded.settings.site
    seconds = loaded.slots * loaded.slot_s if hours is None else hours * 3600.0
    margin_s = 1800.0  # a low-orbit pass is shorter, so whoever touches the window has its whole pass inside
    start = sky.start_utc - timedelta(seconds=margin_s)
    satellites = read_tle(Path(loaded.folder) / sky.tle, name=sky.name)
    cache = ephemeris(satellites, start, seconds + 2 * margin_s)
    mask = sky.mask_deg if mask_deg is None else mask_deg
    all_ = passes_of(
        cache,
        latitude_deg=site.latitude_deg,
        longitude_deg=site.longitude_deg,
        altitude_m=site.altitude_m,
        mask_deg=mask,
    )

    def iso(t_s: float) -> str:
        return cache.utc(t_s).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    return {
        "site": f"{site.latitude_deg:g} N {site.longitude_deg:g} E {site.altitude_m:g} m",
        "mask_deg": mask,
        "from_utc": iso(margin_s),
        "to_utc": iso(margin_s + seconds),
        "passes": [
            {
                "name": p.name,
                "number": p.number,
                "rise_utc": iso(p.rise_s),
                "culmination_utc": iso(p.culmination_s),
                "set_utc": iso(p.set_s),
                "max_elevation_deg": p.max_elevation_deg,
                "duration_s": p.set_s - p.rise_s,
                "cut": p.cut,
            }
            for p in all_
            if p.set_s > margin_s and p.rise_s < margin_s + seconds
        ],
    }


@app.command()
def run(
    scenario: ScenarioName = "quickstart",
    clock: Annotated[str | None, typer.Option(help="lockstep or realtime; default: the scenario's")] = None,
    rt_factor: Annotated[float | None, typer.Option(help="realtime: simulated seconds per wall second")] = None,
    seat: Annotated[
        list[str] | None, typer.Option(metavar="AGENT=CONTROLLER", help="who sits there, e.g. ue=external; repeatable")
    ] = None,
    set_: Set = None,
    seed: Annotated[int | None, typer.Option(help="replaces the scenario's seed")] = None,
    out: Annotated[
        Path | None, typer.Option(help="run folder; default: runs/SCENARIO-TIME; never written over")
    ] = None,
    bind: Annotated[
        str | None,
        typer.Option(help="address controllers connect to; default: tcp://127.0.0.1:5555 when a seat is external"),
    ] = None,
    processes: Annotated[
        bool, typer.Option("--processes", help="lockstep: a process per seat; realtime always has them")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fly a scenario: in lock-step, or in real time with a process on each seat; then a table, and the run folder."""
    from hil import launch
    from twin.record import Record, new_folder
    from twin.runner import run as run_here
    from twin.scenario import EXTERNAL, load

    loaded = load(
        scenario, {**_overrides(set_), **_direct(clock=clock, rt_factor=rt_factor, seed=seed), **_seats(seat)}
    )
    folder = new_folder(loaded.name, out)
    there = processes or loaded.clock == "realtime" or any(s.controller == EXTERNAL for s in loaded.agents.values())
    fresh = not folder.exists()
    signal.signal(signal.SIGTERM, _interrupt)
    picture = Picture(loaded)
    try:
        with picture:
            if there:
                record = launch.run(loaded, out=folder, bind=bind, watch=picture.watch, say=picture.say)
            else:
                picture.say("compiling and building the world")
                record = run_here(loaded, out=folder, watch=picture.watch)
    except KeyboardInterrupt:
        err.print("stopped")
        if fresh and (folder / "meta.json").exists():
            _show(Record.open(folder), as_json)
        raise typer.Exit(INTERRUPTED) from None
    except TwinError:
        if fresh and (folder / "meta.json").exists() and latency.report(Record.open(folder)).slots:
            err.print(f"what was recorded is in {folder}")
        raise
    _show(Record.open(record.folder), as_json)


@app.command()
def control(
    controller: Annotated[str, typer.Argument(help="module:Class, or the name of one that ships")],
    agent: Annotated[str, typer.Option(help="the seat to take, e.g. ue")],
    connect: Annotated[str, typer.Option(help="the twin's address")] = "tcp://127.0.0.1:5555",
    patience_s: Annotated[float, typer.Option(help="how long a twin may take to appear, s")] = 60.0,
    heartbeat_s: Annotated[float, typer.Option(help="offer a sign of life this often, s; 0: none")] = 0.0,
) -> None:
    """Take a seat of a running twin with a controller, and answer until the run is over."""
    from hil.host import serve

    try:
        answered = serve(controller, agent, connect, patience_s, heartbeat_s)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    err.print(f"seat {agent!r}: {answered} observations answered")


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    as_json: Json = False,
) -> None:
    """Rewards, rates, latency, misses of a recorded run, finished or not."""
    from twin.record import Record

    _show(Record.open(run_folder), as_json)


@app.command()
def check(
    subject: Annotated[
        str,
        typer.Argument(help="a scenario; module:Class of a controller; or tcp://HOST:PORT, where a process connects"),
    ],
    agent: Annotated[
        str | None, typer.Option(help="the seat it is for; default: every seat a class fits; a process needs it")
    ] = None,
    scenario: Annotated[str, typer.Option(help="controller: the scenario whose seats it is tried on")] = "quickstart",
    command: Annotated[
        str | None, typer.Option(help="process: what starts it, as often as needed; default: you start it")
    ] = None,
    wait_s: Annotated[float, typer.Option(help="process: how long it may take to come and to get ready, s")] = 60.0,
    slow: Annotated[bool, typer.Option("--slow", help="process: also look at what takes a minute")] = False,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """The conformance kit: does a scenario with its controllers, a controller, or a live process keep the contract?"""
    if subject.startswith(("tcp://", "ipc://")):
        _check_endpoint(subject, agent, scenario, command, wait_s, slow, set_, as_json)
        return
    from twin.check import check_controller, check_scenario, check_world
    from twin.scenario import CONTROLLERS, EXTERNAL, agent_seed, build, load, make_controller

    is_controller = ":" in subject or subject in CONTROLLERS
    loaded = load(scenario if is_controller else subject, {"slots": 100, **_overrides(set_)})
    world = build(loaded)
    names = tuple(a.name for a in world.agents)
    if agent is not None and agent not in names:
        raise ScenarioError(f"no seat {agent!r} in {loaded.world}; there are {', '.join(names)}")
    looked: dict[str, list[str]] = {}
    if not is_controller:
        looked[f"world {loaded.world}"] = check_world(lambda: build(loaded))
        looked[f"scenario {loaded.name}"] = check_scenario(loaded)
    for seat in world.agents:
        seating = loaded.seating(seat.name)
        name, options = (subject, {}) if is_controller else (seating.controller, seating.options)
        if (
            name == EXTERNAL
            or (agent or seat.name) != seat.name
            or (is_controller and agent is None and not _fits(subject, seat.name))
        ):
            continue

        def make(a: Any, seed: int, name: str = name, options: Any = options) -> Any:
            return make_controller(name, a, agent_seed(seed, a.name), options)

        others = tuple(n for n in names if n != seat.name)
        looked[f"{name} as {seat.name}"] = check_controller(make, seat, others, world=lambda: build(loaded))
    if as_json:
        _print_json({"subject": subject, "holds": True, "looked_at": looked})
        return
    console = Console(highlight=False)
    for what, clauses in looked.items():
        console.print(f"{what}: holds", soft_wrap=True)
        for clause in clauses:
            console.print(f"  - {clause}", soft_wrap=True, markup=False)


def _check_endpoint(
    address: str,
    agent: str | None,
    scenario: str,
    command: str | None,
    wait_s: float,
    slow: bool,
    set_: list[str] | None,
    as_json: bool,
) -> None:
    from hil.endpoint import FAIL, check_endpoint
    from twin.scenario import build, load

    loaded = load(scenario, _overrides(set_))
    if agent is None:
        raise ScenarioError(f"--agent: which seat does it take? {', '.join(a.name for a in build(loaded).agents)}")
    verdicts = check_endpoint(
        address,
        agent,
        loaded,
        command=command,
        wait_s=wait_s,
        slow=slow,
        say=lambda text: err.print(text, soft_wrap=True, markup=False),
    )
    counts = Counter(v.verdict for v in verdicts)
    if as_json:
        about = {"subject": address, "agent": agent, "scenario": loaded.name, "holds": not counts[FAIL]}
        _print_json({**about, "counts": dict(counts), "clauses": [asdict(v) for v in verdicts]})
    else:
        _print_verdicts(verdicts)
    if counts[FAIL]:
        raise typer.Exit(1)


def _print_verdicts(verdicts: list[Any]) -> None:
    """A line for each clause; one for all that were skipped for the same reason; what to read where one is not kept."""
    console = Console(highlight=False)
    width = max(len(v.clause) for v in verdicts)
    for (verdict, _), same in groupby(verdicts, lambda v: (v.verdict, v.came if v.verdict == "SKIP" else v.clause)):
        first, *others = same
        clause = f"{first.clause} and {len(others)} more" if others else first.clause
        style = {"WARN": "yellow", "FAIL": "red", "SKIP": "dim"}.get(verdict, "")
        console.print(f"{verdict}  {clause:<{width}}  {first.came}", style=style, soft_wrap=True, markup=False)
        if verdict in ("FAIL", "WARN"):
            hint = f"the kit {first.did}; read docs/wire.md, {first.read}"
            console.print(f"{'':<{width + 6}}  {hint}", soft_wrap=True, markup=False)
    counts = Counter(v.verdict for v in verdicts)
    console.print(", ".join(f"{counts[verdict]} {verdict}" for verdict in ("PASS", "WARN", "FAIL", "SKIP")))


def _fits(controller: str, agent: str) -> bool:
    """The two learning controllers are made for one seat each; anything else is tried on all."""
    return {"rollout": "leo", "trpo": "ue"}.get(controller, agent) == agent


def _show(record: Any, as_json: bool) -> None:
    result = latency.report(record)
    if as_json:
        _print_json(result.to_dict())
        return
    console = Console(highlight=False)
    for title, table in tables(result):
        console.print(title, style="bold", soft_wrap=True)
        console.print(table)
        console.print()
    hash_ = result.trajectory_hash or "none: the run did not end"
    console.print(f"trajectory {hash_}")
    if result.ended != "finished":
        ended = "killed" if result.ended == "running" else result.ended
        console.print(f"the run was {ended}: {result.why or 'no reason recorded'}", soft_wrap=True)
    console.print(f"run folder {result.run}", soft_wrap=True)


def tables(result: latency.LatencyReport) -> list[tuple[str, Table]]:
    """What a person wants to know of a run: how the link did, and who kept the deadlines."""
    wanted = {
        "served_slots": ("a satellite serves", 100.0, "% of slots"),
        "elevation_deg": ("its elevation", 1.0, "deg"),
        "los": ("in sight", 100.0, "% of its slots"),
        "demand_bps": ("demand", 1e-6, "Mbit/s"),
        "rate_bps": ("rate", 1e-6, "Mbit/s"),
        "served_bps": ("served", 1e-6, "Mbit/s"),
    }
    head = _table("", "", "")
    for name, (label, scale, unit) in wanted.items():
        if name in result.measures:
            head.add_row(label, f"{result.measures[name] * scale:.1f}", unit)
    agents = result.agents.values()
    overruns = "" if result.twin_overruns is None else f"; {result.twin_overruns} twin overruns"
    cycles = _table("", *result.agents)
    for label, values in {
        "one every ... slots": [str(a.every) for a in agents],
        "cycles": [str(a.cycles) for a in agents],
        "  answered on time": [str(a.on_time) for a in agents],
        "  missing, late, invalid": [
            ", ".join(str(a.statuses[s]) for s in ("missing", "late", "invalid")) for a in agents
        ],
        "longest run of misses": [str(a.longest_miss_run) for a in agents],
        "at least m in any k": [_verdict(a) for a in agents],
        "reward per cycle": ["-" if a.reward_mean is None else f"{a.reward_mean:.2f}" for a in agents],
        "signals sent, kB": [f"{a.signalling_bytes / 1e3:.1f}" for a in agents],
        "updates learned, not ready": [f"{a.weights}, {a.learning_misses}" for a in agents],
    }.items():
        cycles.add_row(label, *values)
    times = _table("", *(f"{name} {q}" for name in result.agents for q in ("p50", "p99", "max")))
    rows = {"response": "response_us", "slack before the deadline": "slack_us", "order wait": "order_wait_us"}
    for label, field in rows.items():
        times.add_row(label, *(cell for a in agents for cell in _cells(getattr(a, field))))
    for part in latency.COMPONENTS:
        times.add_row(f"  {part.replace('_', ' ')}", *(cell for a in agents for cell in _cells(a.components_us[part])))
    times.add_row("  unaccounted", *(cell for a in agents for cell in _cells(a.unaccounted_us)))
    times.add_row("learning, beside the path", *(cell for a in agents for cell in _cells(a.learn_us)))
    about = f"{result.scenario}: {result.slots} slots, clock {result.clock}, seed {result.seed}; means of the run"
    return [(about, head), (f"control cycles{overruns}", cycles), ("microseconds from the scheduled release", times)]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _verdict(agent: latency.AgentLatency) -> str:
    if agent.at_least is None:
        return "-"
    return f"{agent.at_least[0]} in {agent.at_least[1]} {'held' if agent.at_least_held else 'BROKEN'}"


def _cells(spread: latency.Spread) -> list[str]:
    return ["-" if value is None else f"{value:,.0f}" for value in (spread.p50, spread.p99, spread.max)]


def _print_json(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what, indent=1, allow_nan=False) + "\n")


def _headline(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def _overrides(pairs: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ScenarioError(f"--set takes KEY=VALUE, got {pair!r}")
        try:
            found[key.strip()] = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = value.strip()  # a bare word is a string, so that nobody has to quote twice
    return found


def _direct(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _seats(pairs: list[str] | None) -> dict[str, Any]:
    found = {}
    for pair in pairs or []:
        agent, equals, name = pair.partition("=")
        if not equals or not agent or not name:
            raise ScenarioError(f"--seat takes AGENT=CONTROLLER, got {pair!r}")
        found[f"agent.{agent}.controller"] = name
    return found


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command; what went wrong is one message on stderr and an exit code."""
    sys.path.insert(0, "")  # module:Class of a file in the folder we stand in, as `python -m` would find it
    warnings.showwarning = lambda message, *_, **__: err.print(f"warning: {message}", soft_wrap=True)
    try:
        app(standalone_mode=True)
    except TwinError as error:
        err.print(f"ntn-twin: {error}", soft_wrap=True, markup=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
