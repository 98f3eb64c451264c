"""Fly radio control over satellites with the controllers in the loop. Begin with: ntn-twin run quickstart

Tables and progress are for people; `--json` puts exactly one object on stdout for machines.

Exit codes: 0 fine; 1 a run broke a limit of its own, a replay differs, or a process fails its check; 2 bad input; 3 a
controller never came, or a server gave nothing; 130 Ctrl-C. The pages are in docs/: quickstart.md first, hil.md for
what time means.
"""

import json
import signal
import sys
import threading
import tomllib
import warnings
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hil import latency
from hil.picture import Picture
from hil.tables import print_table, show, table_of
from twin.errors import ScenarioError, TleError, TwinError, WireError
from twin.stats import plain

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)
tle = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(tle, name="tle", help="Element sets: what is in a file, and newer ones from a server.")
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
    """Name the scenarios, worlds and controllers that ship."""
    from twin.scenario import CONTROLLERS, WORLDS, shipped

    scenarios = {name: _headline(path) for name, path in shipped().items()}
    if as_json:
        _print_json({"scenarios": scenarios, "worlds": sorted(WORLDS), "controllers": sorted(CONTROLLERS)})
        return
    for name, line in scenarios.items():
        typer.echo(f"scenario    {name:<17} {line}")
    for name in sorted(WORLDS):
        typer.echo(f"world       {name}")
    for name in sorted(CONTROLLERS):
        typer.echo(f"controller  {name:<17} {CONTROLLERS[name]}")
    typer.echo("controller  external          awaited on a socket; or module:Class of your own")


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
    """Who is above the mask, when, how high.

    Every pass that touches the window is listed, with its true rise and set.
    """
    import numpy as np

    from twin.scenario import load

    loaded = load(scenario, _overrides(set_))
    if getattr(loaded.settings, "sky", None) is None:
        raise ScenarioError(f"scenario {loaded.name}: world {loaded.world} has no sky here")
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
    table = table_of("satellite", "number", "rise", "highest", "set (UTC)", "deg", "s")
    for p in found["passes"]:
        times = (p[name][first:21].replace("T", " ") for name in ("rise_utc", "culmination_utc", "set_utc"))
        table.add_row(p["name"], str(p["number"]), *times, f"{p['max_elevation_deg']:.1f}", f"{p['duration_s']:.0f}")
    console = Console(highlight=False)
    console.print(title, style="bold", soft_wrap=True)
    print_table(console, table)
    if not found["passes"]:
        console.print("nobody; look further ahead with --hours 2, or lower with --mask-deg 10")
    else:
        durations = np.array([p["duration_s"] for p in found["passes"]])
        console.print(f"{durations.size} passes, median {np.median(durations):.0f} s")


def _passes(loaded: Any, hours: float | None, mask_deg: float | None) -> dict[str, Any]:
    from datetime import timedelta

    from twin.overpass import find_passes
    from twin.units import utc

    sky, site = loaded.settings.sky, loaded.settings.site
    seconds = loaded.slots * loaded.slot_s if hours is None else hours * 3600.0
    margin_s = 1800.0  # a low-orbit pass is shorter, so whoever touches the window has its whole pass inside
    start = sky.start_utc - timedelta(seconds=margin_s)
    mask = sky.mask_deg if mask_deg is None else mask_deg
    all_ = find_passes(
        sky.satellites(loaded.folder),
        start,
        seconds + 2 * margin_s,
        latitude_deg=site.latitude_deg,
        longitude_deg=site.longitude_deg,
        altitude_m=site.altitude_m,
        mask_deg=mask,
    )

    def iso(t_s: float) -> str:
        return utc(start + timedelta(seconds=t_s)).isoformat(timespec="milliseconds").replace("+00:00", "Z")

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
def link(
    scenario: ScenarioName = "quickstart",
    pass_: Annotated[
        int | None, typer.Option("--pass", metavar="N", help="which pass the files are of; default: the highest")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="files: times per slot; default: the scenario's samples_per_slot")
    ] = None,
    netcdf: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write everything the link did over the pass (extra `export`)")
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="draw the pass (extra `report`)")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace files that are there")] = False,
    seed: Annotated[int | None, typer.Option(help="replaces the scenario's seed")] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """What the radio link does over the passes of a scenario.

    Geometry, Doppler, losses, SNR and rate with both beams always on each other, of every satellite that serves, over
    its whole turn, with the draws of the seed: as the world plays it. Nobody is asked and nothing is flown.
    """
    from hil import link_files
    from twin.scenario import load

    loaded = load(scenario, {**_overrides(set_), **_direct(seed=seed)})
    if samples is not None and not (netcdf or png):
        raise ScenarioError("--samples is of the files: give --netcdf or --png with it")
    link_files.check_extras(netcdf, png, overwrite)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        world = link_files.traced(loaded)
        found = [link_files.summary(world.link_trace(i)) for i in range(len(world.services))]
        chosen = _chosen(found, pass_)
        if (netcdf or png) and chosen is None:
            raise ScenarioError(f"scenario {loaded.name}: nobody serves, so there is no pass to write a file of")
        if netcdf or png:
            trace = world.link_trace(chosen, samples=samples)
            if netcdf:
                link_files.write_netcdf(trace, netcdf, link_files.facts_of(loaded, world), overwrite)
            if png:
                link_files.draw(trace, png, f"seed {loaded.seed}", overwrite)
    except ValueError as error:  # more samples than memory holds
        raise ScenarioError(f"scenario {loaded.name}: {error}") from None
    except KeyboardInterrupt:
        err.print("stopped")
        raise typer.Exit(INTERRUPTED) from None
    files = {name: str(path) for name, path in (("netcdf", netcdf), ("png", png)) if path}
    if as_json:
        number = None if chosen is None else chosen + 1
        _print_json({"scenario": loaded.name, "seed": loaded.seed, "passes": found, "pass": number, **files})
        return
    console = Console(highlight=False)
    if not found:
        console.print("nobody serves in this window; `ntn-twin passes` says who passes when")
        return
    where = f"{world.link.carrier_hz / 1e9:g} GHz, {world.link.environment}"
    about = f"{loaded.name}: seed {loaded.seed}, {where}, beams matched"
    console.print(about, style="bold", soft_wrap=True)
    print_table(console, link_files.table(found))
    for path in files.values():
        console.print(f"pass {(chosen or 0) + 1} is in {path}", soft_wrap=True, markup=False)


def _chosen(found: list[dict[str, Any]], number: int | None) -> int | None:
    """Which pass is asked for, from 0; by default the highest."""
    if number is None:
        return max(range(len(found)), key=lambda i: found[i]["max_elevation_deg"], default=None)
    if not found:
        raise ScenarioError(f"--pass {number}: nobody serves in this window, so there is no pass")
    if not 1 <= number <= len(found):
        raise ScenarioError(f"--pass must be from 1 to {len(found)}, the passes of this scenario, got {number}")
    return number - 1


@app.command()
def run(
    scenario: ScenarioName = "quickstart",
    clock: Annotated[str | None, typer.Option(help="lockstep, realtime or virtual; default: the scenario's")] = None,
    rt_factor: Annotated[
        float | None, typer.Option(help="realtime, virtual: simulated seconds per wall second")
    ] = None,
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
        typer.Option(help="address controllers connect to; default: a free port, or tcp://127.0.0.1:5555 for external"),
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="the twin's .secret file; see `ntn-twin keygen`")] = None,
    allow: Annotated[Path | None, typer.Option(help="with --keys: the file of public keys that may connect")] = None,
    processes: Annotated[
        bool, typer.Option("--processes", help="lockstep, virtual: a process per seat, as realtime always has")
    ] = False,
    paused: Annotated[
        bool,
        typer.Option("--paused", help="lockstep, virtual: hold before slot 0 and read commands from standard input"),
    ] = False,
    as_json: Json = False,
) -> None:
    """Fly a scenario, print the report, leave a run folder.

    In lock-step the twin waits for answers, in real time for nobody, in virtual time for answers whose time it models.

    With --paused a line of standard input steps the run: empty for one slot, a number for so many, r to run on, p to
    pause.
    """
    from hil import gate as gates
    from hil import launch
    from hil.keys import for_twin
    from twin.record import Record, new_folder
    from twin.scenario import EXTERNAL, load

    loaded = load(
        scenario, {**_overrides(set_), **_direct(clock=clock, rt_factor=rt_factor, seed=seed), **_seats(seat)}
    )
    if (keys is None) != (allow is None):
        raise WireError("--keys and --allow go together: the twin's own .secret file, and who may connect")
    twin_keys = None if keys is None or allow is None else for_twin(keys, allow)
    folder = new_folder(loaded.name, out)
    outside = any(s.controller == EXTERNAL for s in loaded.agents.values())
    there = processes or outside or loaded.clock == "realtime" or twin_keys is not None
    fresh = not folder.exists()
    signal.signal(signal.SIGTERM, _interrupt)
    picture, gate = Picture(loaded), gates.Gate(paused=True) if paused else None
    try:
        with picture:
            if gate is not None:
                threading.Thread(target=gates.obey, args=(gate, sys.stdin, picture.say), daemon=True).start()
            record = launch.run(
                loaded,
                out=folder,
                bind=bind,
                watch=picture.watch,
                say=picture.say,
                processes=there,
                gate=gate,
                keys=twin_keys,
            )
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
    controller: Annotated[str, typer.Argument(metavar="CONTROLLER", help="module:Class, or one that ships")],
    agent: Annotated[str, typer.Option(help="the seat to take, e.g. ue")],
    connect: Annotated[str, typer.Option(help="the twin's address")] = "tcp://127.0.0.1:5555",
    patience_s: Annotated[float, typer.Option(help="how long a twin may take to appear, s")] = 60.0,
    heartbeat_s: Annotated[float, typer.Option(help="offer a sign of life this often, s; 0: none")] = 0.0,
    keys: Annotated[Path | None, typer.Option(help="our .secret file; see `ntn-twin keygen`")] = None,
    server_key: Annotated[Path | None, typer.Option(help="with --keys: the twin's .public file")] = None,
) -> None:
    """Take a seat of a running twin with a controller.

    It answers until the run is over.
    """
    from hil.host import serve
    from hil.keys import for_client

    if (keys is None) != (server_key is None):
        raise WireError("--keys and --server-key go together: our own .secret file, and the twin's .public file")
    client_keys = None if keys is None or server_key is None else for_client(keys, server_key)
    try:
        answered = serve(controller, agent, connect, patience_s, heartbeat_s, keys=client_keys)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    err.print(f"seat {agent!r}: {answered} observations answered")


@app.command()
def keygen(
    name: Annotated[str, typer.Argument(metavar="NAME", help="whose key it is, e.g. twin or ue-board")],
    folder: Annotated[Path, typer.Option(help="where the two files go")] = Path("."),
) -> None:
    """Make a key pair for a twin or a controller.

    NAME.secret stays on this machine; NAME.public is what others have to know.
    """
    from hil import keys

    secret, public = keys.keygen(name, folder)
    typer.echo(f"{secret}  stays here; for --keys")
    typer.echo(f"{public}  is handed out: a line of the twin's --allow file, or a controller's --server-key")


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    as_json: Json = False,
) -> None:
    """Report on a recorded run: rates, misses, latency.

    It may be finished, interrupted, killed or still flying.
    """
    from twin.record import Record

    _show(Record.open(run_folder), as_json)


@app.command()
def replay(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    controller: Annotated[
        list[str] | None,
        typer.Option(metavar="AGENT=CONTROLLER", help="asked beside the recorded one, never put in force; repeatable"),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="where the scenario's files lie, if not where they lay when it was recorded")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="write a run folder; of a shadowed seat it holds what the shadow decided")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fly a recorded run again; ask others beside it.

    From its recorded actions and misses it must reach the same trajectory (exit code 0) or does not (1). With
    --controller another controller is asked beside the recorded one (shadow mode).
    """
    from hil.replay import replay as fly_again

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        result = fly_again(run_folder, _pairs(controller, "--controller"), folder, out)
    except KeyboardInterrupt:
        err.print("stopped")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        _print_json(result.to_dict())
    else:
        typer.echo(str(result))
    if not result.same:
        raise typer.Exit(1)


@app.command()
def check(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT",
            help="a scenario; module:Class of a controller; or tcp://HOST:PORT, ipc://PATH, where a process connects",
        ),
    ],
    agent: Annotated[
        str | None, typer.Option(help="class, process: the seat it is for; default: every seat a class fits")
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            help="class, process: the scenario whose seats it is tried on; default: one that names it, or quickstart"
        ),
    ] = None,
    command: Annotated[
        str | None, typer.Option(help="process: what starts it, as often as needed; default: you start it")
    ] = None,
    wait_s: Annotated[float, typer.Option(help="process: how long it may take to come and to get ready, s")] = 60.0,
    slow: Annotated[bool, typer.Option("--slow", help="process: also look at what takes a minute")] = False,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Check a scenario, a class or a live process.

    The conformance kit: does a scenario with its controllers, a controller, or a process on sockets keep the contract?
    """
    if subject.startswith(("tcp://", "ipc://")):
        _check_endpoint(subject, agent, scenario or "quickstart", command, wait_s, slow, set_, as_json)
        return
    from twin.check import check_controller, check_scenario, check_world
    from twin.scenario import CONTROLLERS, EXTERNAL, agent_seed, build, load, make_controller

    is_controller = ":" in subject or subject in CONTROLLERS
    home, seats = _home(subject)
    loaded = load((scenario or home) if is_controller else subject, {"slots": 100, **_overrides(set_)})
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
            or (is_controller and agent is None and scenario is None and seat.name not in (seats or names))
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


@app.command()
def budget(
    scenario: ScenarioName = "quickstart",
    agent: Annotated[
        str | None,
        typer.Option(help="the seat whose computer, or deadline, is varied; default: the first the scenario names"),
    ] = None,
    scales: Annotated[
        str | None, typer.Option(metavar="1,2,4,...", help="computers so many times slower than this one")
    ] = None,
    scale_from: Annotated[float, typer.Option(help="without --scales: the first scale")] = 1.0,
    scale_to: Annotated[float, typer.Option(help="without --scales: the last")] = 128.0,
    points: Annotated[int, typer.Option(min=2, help="without --scales: how many, in equal ratios")] = 8,
    windows: Annotated[
        str | None, typer.Option(metavar="0.1,0.2,...", help="instead of the computer: parts of a slot to answer in")
    ] = None,
    refine: Annotated[int, typer.Option(min=0, help="further points between the knee's neighbours")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="runs per point, with seeds from the scenario's own on")] = 5,
    clock: Annotated[str, typer.Option(help="virtual or realtime")] = "virtual",
    tolerance: Annotated[float, typer.Option(help="part of the reward that may be lost before the knee")] = 0.05,
    confidence: Annotated[float, typer.Option(help="of the intervals")] = 0.95,
    set_: Set = None,
    out: Annotated[
        Path | None, typer.Option(help="folder; default: runs/budget-SCENARIO-TIME; what is there is not flown again")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="whether the folders of single runs stay")] = True,
    processes: Annotated[bool, typer.Option("--processes", help="virtual: a process per seat")] = False,
    as_json: Json = False,
) -> None:
    """How slow may a controller's computer be?

    Reward and rate against the compute budget over seeds, the knee, CSV files and a plot.
    """
    from hil import budget as grid
    from hil import curve as curves
    from twin.record import new_folder
    from twin.scenario import load

    loaded = load(scenario, _overrides(set_))
    agent = agent or next(iter(loaded.agents), "")
    folder = new_folder(f"budget-{loaded.name}", out)
    if windows is not None and scales is not None:
        raise ScenarioError("--scales and --windows: one of the two is varied")
    key, listed = ("window", windows) if windows is not None else ("compute_scale", scales)
    if listed is None and not 0 < scale_from < scale_to:
        raise ScenarioError(f"--scale-from must be more than 0 and less than --scale-to, got {scale_from:g}")
    values = grid.scales(scale_from, scale_to, points) if listed is None else _numbers(listed)
    signal.signal(signal.SIGTERM, _interrupt)

    def say(text: str) -> None:
        err.print(text, soft_wrap=True, markup=False)

    try:
        curve = grid.fly(
            loaded, agent, values, folder, key, seeds, clock, tolerance, confidence, refine, processes, keep, say
        )
    except KeyboardInterrupt:
        err.print(f"stopped; the same command with --out {folder} goes on where it was", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        _print_json({**curve.to_dict(), "folder": str(folder)})
        return
    head, rows = curves.table(curve)
    shown = table_of(*head)
    for row in rows:
        shown.add_row(*row)
    console = Console(highlight=False)
    about = f"{curve.scenario}: {agent} on clock {clock}, {seeds} seeds, {100 * confidence:g} % confidence"
    console.print(about, style="bold", soft_wrap=True)
    print_table(console, shown)
    for sentence in curves.sentences(curve):
        console.print(sentence, soft_wrap=True)
    console.print(f"runs.csv, curve.csv and more are in {folder}", soft_wrap=True)


def _numbers(listed: str) -> list[float]:
    try:
        return [float(word) for word in listed.split(",")]
    except ValueError:
        raise ScenarioError(f"a list of numbers is written 1,2,4, got {listed!r}") from None


@app.command()
def bench(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="what to measure: loop, sky or channel")] = "loop",
    quick: Annotated[bool, typer.Option("--quick", help="about a minute instead of some, and rougher")] = False,
    tle: Annotated[str | None, typer.Option("--tle", metavar="FILE", help="sky: a catalogue of your own")] = None,
    as_json: Json = False,
) -> None:
    """How quick is this machine, and how time-realistic?

    loop: lateness of releases and cost of the loop, each beside the simplest thing that could do it. sky: SGP4, look
    angles, visible sets and passes of thousands of satellites, each beside what one would take instead. channel: slots,
    sweeps and passes of a link, beside the full matrix and OpenNTN.
    """
    if subject not in ("loop", "sky", "channel"):
        raise ScenarioError(f"no benchmark {subject!r}; there is: loop, sky, channel")
    if tle and subject != "sky":
        raise ScenarioError(f"--tle is for bench sky, bench {subject} looks at no catalogue")
    if subject == "sky":
        from hil import bench_sky

        found, table = bench_sky.sky(quick, tle), bench_sky.table
    elif subject == "channel":
        from hil import bench_channel

        found, table = bench_channel.channel(quick), bench_channel.table
    else:
        from hil import bench as bench_loop

        effort = bench_loop.QUICK if quick else bench_loop.FULL
        found, table = bench_loop.loop(effort, lambda text: err.print(text, style="dim")), bench_loop.table
    if as_json:
        _print_json(found)
    else:
        typer.echo(table(found))


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="which paper: d2d, access or robust")],
    quick: Annotated[bool, typer.Option("--quick", help="in minutes: fewer seeds and shorter runs")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="a new folder; default: runs/reproduce-NAME-TIME")
    ] = None,
    as_json: Json = False,
) -> None:
    """A paper's experiments: figures, tables, and each claim with what was measured.

    A claim that is not reached stays in the list and says so. The papers have their pages under docs/papers/.
    """
    from hil import reproduce as papers
    from twin.record import new_folder

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        folder = new_folder(f"reproduce-{name}", out)
        found = papers.reproduce(name, quick, folder, lambda text: err.print(text, style="dim", markup=False))
    except KeyboardInterrupt:
        err.print("stopped")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        _print_json(found)
    else:
        papers.show(found)


@tle.command("info")
def tle_info(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="TLE, 3LE or OMM (JSON, CSV, XML, KVN), also as .xz or .gz")
    ],
    at: Annotated[str | None, typer.Option(metavar="ISO", help="the instant to judge them at; default: now")] = None,
    as_json: Json = False,
) -> None:
    """What is in a file of element sets, and how old it is.

    How many, of whom, on which orbits, how old, and what error to expect of positions.
    """
    from hil import catalogue_table

    found = catalogue_table.info(file, _instant(at))
    if as_json:
        _print_json(found.to_dict())
    else:
        catalogue_table.show(found)


@tle.command("fetch")
def tle_fetch(
    group: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="one of CelesTrak's groups: starlink, oneweb, iridium-NEXT, active ..."),
    ] = None,
    url: Annotated[str | None, typer.Option(metavar="URL", help="instead: any address that gives element sets")] = None,
    form: Annotated[
        str,
        typer.Option("--format", help="of a group: json, csv, xml, kvn, or tle, which leaves out numbers from 100000"),
    ] = "json",
    out: Annotated[
        Path | None,
        typer.Option(help="file or folder; default: NAME-DATE.FORMAT here, with the day of the median epoch"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace that file if it has other element sets")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="ask although the copy is young, or the last answer an error; never after a 403"),
    ] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="longest silence of the server, s")] = 30.0,
    cache: Annotated[
        Path | None, typer.Option(help="where copies are kept; default: ntn-twin/tle in XDG_CACHE_HOME or ~/.cache")
    ] = None,
    base: Annotated[str | None, typer.Option(help="with --group: a mirror of CelesTrak's gp.php")] = None,
    as_json: Json = False,
) -> None:
    """Fetch element sets, at most every two hours.

    A copy is kept, and nobody is asked while it is young. What comes is read before it is kept. An error is reported,
    not tried again.
    """
    from hil import fetch as fetching
    from twin.errors import FetchError

    if (group is None) == (url is None):
        raise FetchError("fetch takes --group NAME, or --url URL, and not both")
    if url is not None and (base is not None or form != "json"):
        raise FetchError("--base and --format go with --group; an address given with --url is asked as it is")
    address = url if url is not None else fetching.group_url(group or "", form, base or fetching.CELESTRAK)
    signal.signal(signal.SIGTERM, _interrupt)

    def say(text: str) -> None:
        err.print(text, style="dim", soft_wrap=True, markup=False)

    try:
        came = fetching.fetch(address, cache, force, timeout_s, say=say)
        path = fetching.save(came, out or Path(), overwrite)
    except KeyboardInterrupt:
        err.print("stopped")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        _print_json({"file": str(path), **came.to_dict()})
        return
    epoch = f"median epoch {came.copy.median_epoch_utc:%Y-%m-%d %H:%M} UTC"
    typer.echo(f"{path}  {came.copy.sets:,} element sets, {epoch}; look into it with: ntn-twin tle info {path}")


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = datetime.min
    if at.tzinfo is None:
        raise TleError(f"--at takes an instant with its offset from UTC, as in 2022-02-22T13:00:00Z, got {text!r}")
    return at


def _home(controller: str) -> tuple[str, set[str]]:
    """A scenario that ships and names a controller, and on which seats; quickstart, and none, where no one does."""
    from twin.scenario import shipped

    for name, path in sorted(shipped().items(), key=lambda item: (item[0] != "quickstart", item[0])):
        seats = tomllib.loads(path.read_text(encoding="utf-8")).get("agent", {})
        found = {seat for seat, table in seats.items() if table.get("controller") == controller}
        if found:
            return name, found
    return "quickstart", set()


def _show(record: Any, as_json: bool) -> None:
    result = latency.report(record)
    if as_json:
        _print_json(result.to_dict())
    else:
        show(result)


def _print_json(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(plain(what), indent=1, allow_nan=False) + "\n")


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
    return {f"agent.{agent}.controller": name for agent, name in _pairs(pairs, "--seat").items()}


def _pairs(pairs: list[str] | None, option: str) -> dict[str, str]:
    found = {}
    for pair in pairs or []:
        agent, equals, name = pair.partition("=")
        if not equals or not agent or not name:
            raise ScenarioError(f"{option} takes AGENT=CONTROLLER, got {pair!r}")
        found[agent] = name
    return found


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command; what went wrong is one message on stderr and an exit code."""
    sys.path.insert(0, "")  # module:Class of a file in the folder we stand in, as `python -m` would find it
    warnings.showwarning = lambda message, *_, **__: err.print(f"warning: {message}", soft_wrap=True, markup=False)
    try:
        app(standalone_mode=True)
    except TwinError as error:
        err.print(f"ntn-twin: {error}", soft_wrap=True, markup=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
