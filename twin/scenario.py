"""Scenario files: read, checked to the last key, and turned into worlds and controllers.

A scenario is one TOML file. Its common keys are `Scenario`'s fields, its `agent.NAME` tables are `Seating`, its
`[[faults]]` are those of twin.faults, and every other table belongs to the world it names, whose module says which
there are (`Settings`). What is not known is an error that lists what is.
"""

import difflib
import importlib
import inspect
import re
import tomllib
import zlib
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
from msgspec import Meta

from twin.errors import ControllerError, ScenarioError, TwinError
from twin.faults import CONTROLLER, KINDS, SKY, Fault, spans
from twin.types import Agent, Controller, World

SHIPPED = Path(__file__).resolve().parent.parent / "scenarios"
WORLDS = {
    "ntn_cell": "twin.worlds.ntn_cell:NtnCell",
    "access": "twin.worlds.access:Access",
    "d2d": "twin.worlds.d2d:D2d",
    "finite": "twin.worlds.finite:Finite",
}
CONTROLLERS = {  # strings, because imports point down: the engine never imports a controller by itself
    "rollout": "controllers.rollout:Rollout",
    "trpo": "controllers.trpo:Trpo",
    "st_q": "controllers.st_q:StQ",
    "mvsa": "controllers.mvsa:Mvsa",
    "hold": "controllers.baselines:Hold",
    "random": "controllers.baselines:Random",
    "greedy": "controllers.baselines:Greedy",
    "aloha": "controllers.scalable_ac:Aloha",
    "scalable_ac": "controllers.scalable_ac:ScalableAc",
    "stackelberg": "controllers.stackelberg:Stackelberg",
}
EXTERNAL = "external"

Count = Annotated[int, Meta(ge=1)]


class Lognormal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Response times whose logarithm is normal, one draw per cycle, from the scenario's seed."""

    median_s: Annotated[float, Meta(gt=0, le=1e6, description="half of the answers take less, s")]
    sigma: Annotated[float, Meta(ge=0, le=10, description="standard deviation of the natural logarithm")]


class Latency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where modelled response times come from; exactly one of these."""

    fixed_s: Annotated[float, Meta(ge=0, le=1e6, description="every answer takes this long, s")] | None = None
    lognormal: Lognormal | None = None
    recorded: Annotated[str, Meta(description="a run folder; cycle n takes as long as it did there")] | None = None


class Seating(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table agent.NAME: who sits on a seat and when it must answer. Further keys are the controller's options."""

    controller: Annotated[
        str,
        Meta(
            description="a controller that ships (`ntn-twin list`), `module:Class`, or `external`: awaited on a socket"
        ),
    ] = "hold"
    every: (
        Annotated[int, Meta(ge=1, le=1_000_000, description="control cycle, slots; the world's own where not given")]
        | None
    ) = None
    delay: Annotated[
        int, Meta(ge=0, le=1_000_000, description="slots from observation to effect; 0: within the slot")
    ] = 0
    window: (
        Annotated[float, Meta(gt=0, le=1, description="delay 0: part of the slot, from its start, for answering")]
        | None
    ) = None
    on_miss: Annotated[
        Literal["hold", "default", "abort"],
        Meta(description="what is in force after a miss: the last action, the world's safe one, or the run ends"),
    ] = "hold"
    late: Annotated[
        Literal["discard", "apply_next"],
        Meta(description="a late answer: never used, or standing in where the next cycle is a miss too"),
    ] = "discard"
    max_consecutive_misses: (
        Annotated[int, Meta(ge=0, description="more misses in a row than this end the run")] | None
    ) = None
    startup_grace_cycles: Annotated[
        int, Meta(ge=0, description="misses in so many first cycles are counted apart and break no limit")
    ] = 0
    at_least: (
        Annotated[
            tuple[Count, Count], Meta(description="(m, k): at least m on-time answers in any k cycles; a verdict")
        ]
        | None
    ) = None
    compute_scale: Annotated[
        float, Meta(gt=0, le=1e6, description="emulate a computer this many times slower than this one")
    ] = 1.0
    latency: Annotated[
        Literal["measured"] | Latency,
        Meta(description="virtual: what answers take, before compute_scale; or a table, see below"),
    ] = "measured"
    budget_s: (
        Annotated[float, Meta(gt=0, le=1e6, description="compute time it may use per cycle, s; more is over budget")]
        | None
    ) = None
    learn: Annotated[bool, Meta(description="false flies fixed weights")] = True
    learn_delay: Annotated[
        int, Meta(ge=1, description="slots from the data of an update to its first use; one that is late is counted")
    ] = 10
    options: Annotated[
        dict[str, Any], Meta(description="the controller's own options; written beside the other keys")
    ] = msgspec.field(default_factory=dict)


class Scheduling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table scheduling: real-time scheduling of the twin, under the real-time clock, as far as it is permitted."""

    fifo: (
        Annotated[int, Meta(ge=1, le=90, description="SCHED_FIFO priority of the loop; its sockets' threads: one more")]
        | None
    ) = None
    cpus: (
        Annotated[
            tuple[Annotated[int, Meta(ge=0)], ...],
            Meta(min_length=1, description="processors of the twin alone; the controllers it starts get the others"),
        ]
        | None
    ) = None
    lock_memory: Annotated[bool, Meta(description="what is in memory when the clock starts stays there (mlockall)")] = (
        False
    )


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario as resolved: defaults filled in, everything checked but what only the world can know.

    settings  the world's own tables, an instance of its module's Settings
    agents    by seat name; seats not named keep the defaults
    faults    what goes wrong, and when
    text      the file as it was read, before overrides
    """

    name: str
    folder: str
    world: Annotated[str, Meta(description="a world that ships (`ntn-twin list`) or `module:Class`")]
    slots: Annotated[int, Meta(ge=1, le=100_000_000, description="length of the run, slots")]
    slot_s: Annotated[float, Meta(ge=1e-6, le=3600, description="length of a slot, s")] = 0.1
    seed: Annotated[int, Meta(ge=0, description="of the world and, with their names, of the controllers")] = 1
    clock: Annotated[
        Literal["lockstep", "realtime", "virtual"],
        Meta(description="whom the twin waits for: the answers, nobody, or the answers, whose time it then models"),
    ] = "lockstep"
    rt_factor: Annotated[
        float, Meta(gt=0, le=1e6, description="realtime, virtual: simulated seconds per wall second")
    ] = 1.0
    patience_s: Annotated[
        float,
        Meta(gt=0, le=1e6, description="lockstep: how long an answer is awaited before the cycle counts as missing, s"),
    ] = 30.0
    seat_wait_s: Annotated[
        float, Meta(gt=0, le=1e6, description="how long a seat may stay empty before the run starts, s")
    ] = 60.0
    max_lag_s: Annotated[
        float, Meta(gt=0, le=1e6, description="realtime: a twin further behind than this ends the run, s")
    ] = 1.0
    scheduling: Annotated[Scheduling, Meta(description="realtime: of the twin itself, where permitted")] | None = None
    agents: dict[str, Seating] = msgspec.field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    settings: Any = None
    text: str = ""

    def seating(self, agent: str) -> Seating:
        """Who sits there; the defaults where the scenario does not say."""
        return self.agents.get(agent, Seating())


OWN = ("name", "folder", "agents", "faults", "settings", "text")  # fields that are not keys of the file


def shipped() -> dict[str, Path]:
    """The scenarios that ship, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Scenario:
    """Read and check a scenario.

    path       a file, or the name of a scenario that ships
    overrides  values by dotted key ("agent.ue.controller", "link.n_paths") that replace the file's

    Raises ScenarioError naming the key, what it was and what was expected.
    """
    file = Path(path)
    if file.suffix != ".toml":
        if str(path) not in shipped():
            raise ScenarioError(f"no scenario {str(path)!r}; there are {', '.join(shipped())}, or give a .toml file")
        file = shipped()[str(path)]
    try:
        text = file.read_text(encoding="utf-8")
        keys = tomllib.loads(text)
    except FileNotFoundError:
        raise ScenarioError(f"scenario file {file} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"scenario file {file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"scenario {file.name} is not TOML: {error}") from None
    for dotted, value in sorted((overrides or {}).items(), key=lambda item: not item[0].endswith(".controller")):
        _put(keys, dotted, value)
    return msgspec.structs.replace(resolve(keys, name=file.stem, folder=file.resolve().parent), text=text)


def resolve(keys: dict[str, Any], name: str = "scenario", folder: str | Path = ".") -> Scenario:
    """Check the keys of a scenario, as TOML gives them, and fill in the defaults. Raises ScenarioError."""
    keys = dict(keys)
    if "world" not in keys:
        raise ScenarioError(f"scenario {name}: the key world is missing; there are {', '.join(WORLDS)}")
    module = _import(WORLDS.get(keys["world"], keys["world"]), f"scenario {name}: world", WORLDS)[0]
    tables = msgspec.structs.fields(module.Settings)
    own = {field.name for field in msgspec.structs.fields(Scenario)} - set(OWN)
    known = own | {field.name for field in tables} | {"agent", "faults"}
    for key in keys:
        if key not in known:
            raise ScenarioError(f"scenario {name}: {key} is not a key; {_known(key, known)}")
    agents = keys.pop("agent", {})
    if not isinstance(agents, dict):
        raise ScenarioError(f"scenario {name}: agent must be tables, agent.NAME = {{ ... }}, got {agents!r}")
    faults = keys.pop("faults", [])
    scenario = Scenario(
        **_struct(Scenario, {k: v for k, v in keys.items() if k in own} | {"name": name, "folder": str(folder)}, name),
        settings=_convert(module.Settings, {k: v for k, v in keys.items() if k not in own}, name, ""),
        agents={agent: _seating(table, name, agent) for agent, table in agents.items()},
    )
    return msgspec.structs.replace(scenario, faults=_faults(faults, scenario))


def scenario_of(meta: Mapping[str, Any], folder: str | Path | None = None) -> Scenario:
    """The scenario of a recorded run, from its meta.json; what it did not know yet has the default of today.

    folder  where the files it names lie now; None: where they lay when it was recorded

    Raises ScenarioError when it cannot be flown here any more.
    """
    keys: dict[str, Any] = dict(meta["resolved"])
    if missing := [key for key in ("name", "world", "settings", "agents") if key not in keys]:
        raise ScenarioError(f"the recorded scenario has no {', '.join(missing)}")
    name, world = keys["name"], keys["world"]
    module = _import(WORLDS.get(world, world), f"scenario {name}: world", WORLDS)[0]
    if not hasattr(module, "Settings"):
        raise ScenarioError(
            f"scenario {name}: module {module.__name__} has no Settings to read the world's tables with"
        )
    lay = str(meta.get("folder", ".") if folder is None else folder)
    scenario = Scenario(
        **_struct(Scenario, {k: v for k, v in keys.items() if k not in OWN} | {"name": name, "folder": lay}, name),
        settings=_convert(module.Settings, keys["settings"], name, ""),
        agents={seat: _convert(Seating, table, name, f"agent.{seat}") for seat, table in keys["agents"].items()},
    )
    return msgspec.structs.replace(scenario, faults=_faults(keys.get("faults", []), scenario))


def build(scenario: Scenario) -> World:
    """The world a scenario names. Raises ScenarioError, also for an agent.NAME the world does not have."""
    place = WORLDS.get(scenario.world, scenario.world)
    world_class = _import(place, f"scenario {scenario.name}: world", WORLDS)[1]
    try:
        world = world_class(
            scenario.settings,
            slots=scenario.slots,
            slot_s=scenario.slot_s,
            folder=Path(scenario.folder),
            agents=scenario.agents,
            **_sky(scenario, world_class),
        )
    except ScenarioError as error:
        raise ScenarioError(f"scenario {scenario.name}: {error}") from None
    names = [agent.name for agent in world.agents]
    for name in scenario.agents:
        if name not in names:
            raise ScenarioError(
                f"scenario {scenario.name}: agent.{name} is not a seat of {scenario.world}; {_known(name, names)}"
            )
    for i, fault in enumerate(scenario.faults):
        whose = getattr(fault, "agent", None)
        if whose is not None and whose not in names:
            raise ScenarioError(
                f"scenario {scenario.name}: faults[{i}].agent {whose!r} is not a seat of {scenario.world}; "
                f"{_known(whose, names)}"
            )
    _check_windows(scenario, world)
    for agent in world.agents:
        for fact in agent.facts.values():
            fact.setflags(write=False)  # told to everybody, changed by nobody
    return world


def controller_class(name: str, where: str = "controller") -> Callable[..., Controller]:
    """The class behind a controller's name or "module:Class". Raises ControllerError."""
    try:
        return _import(CONTROLLERS.get(name, name), where, CONTROLLERS)[1]
    except ScenarioError as error:
        raise ControllerError(str(error)) from None


def make_controller(name: str, agent: Agent, seed: int, options: Mapping[str, Any]) -> Controller:
    """Build a controller from the scenario's options, which its signature must know. Raises ControllerError."""
    made = controller_class(name, f"agent.{agent.name}.controller")
    known, hints = {}, get_type_hints(made.__init__)
    parameters = list(inspect.signature(made.__init__).parameters.values())[3:]  # after self, agent, seed
    for p in parameters:
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD):
            known[p.name] = hints.get(p.name, Any)
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key, value in options.items():
        if key not in known and not anything:
            raise ControllerError(
                f"agent.{agent.name}.{key} is neither a seat's key nor an option of {name}; {_known(key, known)}"
            )
        try:
            msgspec.convert(value, known.get(key, Any))
        except msgspec.ValidationError as error:
            raise ControllerError(f"agent.{agent.name}.{key} of {name}: {error}, got {value!r}") from None
    try:
        return made(agent, seed, **options)
    except TwinError:
        raise
    except Exception as error:
        raise ControllerError(f"agent.{agent.name}.controller {name!r} cannot be built: {error!r}") from error


def agent_seed(seed: int, agent: str) -> int:
    """The seed of a seat's controller: the scenario's, mixed with the seat's name; 63 bits."""
    return int(
        np.random.SeedSequence([seed, zlib.crc32(agent.encode())]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )


def window_of(agent: Agent, agents: tuple[Agent, ...]) -> float:
    """The part of a slot, from its start, by which this agent's answer is due: its own, or equal steps up to 0.8."""
    if agent.window is not None:
        return agent.window
    orders = sorted({a.order for a in agents if a.delay == 0})
    return 0.8 * (orders.index(agent.order) + 1) / len(orders) if agent.order in orders else 0.8


def _check_windows(scenario: Scenario, world: World) -> None:
    """Each order's windows must end before any of the next one's. Raises ScenarioError."""
    within = [a for a in world.agents if a.delay == 0]
    for order, after in pairwise(sorted({a.order for a in within})):
        first = max((a for a in within if a.order == order), key=lambda a: window_of(a, world.agents))
        second = min((a for a in within if a.order == after), key=lambda a: window_of(a, world.agents))
        if window_of(first, world.agents) >= window_of(second, world.agents):
            raise ScenarioError(
                f"scenario {scenario.name}: agent.{second.name} answers after agent.{first.name}, so its window "
                f"{window_of(second, world.agents)} must be larger than {window_of(first, world.agents)}"
            )


def _seating(table: Any, name: str, agent: str) -> Seating:
    if not isinstance(table, dict):
        raise ScenarioError(f"scenario {name}: agent.{agent} must be a table, got {table!r}")
    own = {field.name for field in msgspec.structs.fields(Seating)}
    options = {key: value for key, value in table.items() if key not in own}
    seating = _convert(Seating, {k: v for k, v in table.items() if k in own}, name, f"agent.{agent}")
    if seating.at_least is not None and seating.at_least[0] > seating.at_least[1]:
        raise ScenarioError(
            f"scenario {name}: agent.{agent}.at_least is (m, k) with m <= k, got {list(seating.at_least)}"
        )
    if isinstance(seating.latency, Latency):
        given = [field for field in seating.latency.__struct_fields__ if getattr(seating.latency, field) is not None]
        if len(given) != 1:
            raise ScenarioError(
                f"scenario {name}: agent.{agent}.latency is one of {', '.join(seating.latency.__struct_fields__)}, "
                f"got {', '.join(given) or 'none'}"
            )
    if options and seating.controller == EXTERNAL:
        key = next(iter(options))
        raise ScenarioError(f"scenario {name}: agent.{agent}.{key} is not a seat's key; {_known(key, own)}")
    return msgspec.structs.replace(seating, options={**seating.options, **options})


def _faults(tables: Any, scenario: Scenario) -> tuple[Fault, ...]:
    name = scenario.name
    if not isinstance(tables, list | tuple) or not all(isinstance(table, dict) for table in tables):
        raise ScenarioError(f"scenario {name}: faults must be tables, [[faults]], got {tables!r}")
    found: list[Fault] = []
    for i, table in enumerate(tables):
        kind = str(table.get("kind", ""))
        if kind not in KINDS:
            what = f"kind {table['kind']!r} is unknown" if "kind" in table else "kind is missing"
            raise ScenarioError(f"scenario {name}: faults[{i}].{what}; {_known(kind, KINDS)}")
        found.append(_convert(KINDS[kind], table, name, f"faults[{i}]"))
    hit = [s for s in spans(found, scenario.slot_s, scenario.seed) if isinstance(s.fault, CONTROLLER)]
    for first, second in pairwise(sorted(hit, key=lambda s: (s.agent, s.first))):
        if first.agent == second.agent and second.first < first.end:
            raise ScenarioError(
                f"scenario {name}: faults[{second.index}] ({second.kind}) begins while faults[{first.index}] "
                f"({first.kind}) of the same controller lasts"
            )
    return tuple(found)


def _sky(scenario: Scenario, world_class: Callable[..., World]) -> dict[str, Any]:
    """The faults as a world with a sky takes them; raises ScenarioError for a world that has none."""
    found = [(i, fault) for i, fault in enumerate(scenario.faults) if isinstance(fault, SKY)]
    if not found:
        return {}
    if "faults" not in inspect.signature(world_class).parameters:
        index, fault = found[0]
        raise ScenarioError(
            f"faults[{index}] ({fault.__struct_config__.tag}) is of the sky, world {scenario.world} plays none"
        )
    return {"faults": scenario.faults}


def _struct(kind: type, keys: dict[str, Any], name: str) -> dict[str, Any]:
    made = _convert(kind, keys, name, "")
    return {
        field: getattr(made, field)
        for field in made.__struct_fields__
        if field not in ("agents", "faults", "settings", "text")
    }


def _convert(kind: type, keys: dict[str, Any], name: str, prefix: str) -> Any:
    """msgspec's conversion with its error put into the words of the scenario."""
    try:
        return msgspec.convert(keys, kind)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`").lstrip(".")
        dotted = ".".join(part for part in (prefix, path) if part)
        value: Any = keys
        for part in re.findall(r"[^.\[\]]+", path):
            if isinstance(value, dict):
                value = value.get(part, "nothing")
            elif isinstance(value, list | tuple) and part.isdigit():
                value = value[int(part)]
        if "unknown field" in what:
            key = what.split("`")[1]
            fields = _fields_at(kind, path)
            raise ScenarioError(
                f"scenario {name}: {'.'.join(p for p in (dotted, key) if p)} is not a key; {_known(key, fields)}"
            ) from None
        choices = _choices(kind, path) if what.startswith("Invalid enum value") else ()
        rest = f"there is: {', '.join(choices)}" if choices else f"got {value!r}"
        raise ScenarioError(
            f"scenario {name}: {dotted + ': ' if dotted else ''}{what[0].lower() + what[1:]}, {rest}"
        ) from None


def _fields_at(kind: Any, path: str) -> list[str]:
    for part in [p for p in path.split(".") if p]:
        kind = table_of(next(field.type for field in msgspec.structs.fields(kind) if field.name == part))
    return [field.name for field in msgspec.structs.fields(kind)]


def _choices(kind: Any, path: str) -> tuple[str, ...]:
    """What the Literal at a path may be."""
    for part in path.partition("[")[0].split("."):
        table = table_of(kind)
        types = {field.name: field.type for field in msgspec.structs.fields(table)} if table else {}
        kind = types.get(part)
    return _literals(kind)


def _literals(kind: Any) -> tuple[str, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    return next((found for found in map(_literals, get_args(kind)) if found), ())


def table_of(kind: Any) -> Any:
    """The struct in a field's type, where the table may be left out or something else may stand for it; else None."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return next((found for found in map(table_of, get_args(kind)) if found is not None), None)


def _known(key: str, known: Any) -> str:
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    listed = f"there are {', '.join(sorted(known))}" if known else "it knows none"
    return f"did you mean {close[0]}? {listed}" if close else listed


def _import(place: str, where: str, known: Mapping[str, str]) -> tuple[Any, Any]:
    module_name, colon, class_name = str(place).partition(":")
    if not colon:
        raise ScenarioError(f"{where} {place!r} is unknown; {_known(str(place), known)}, or give module:Class")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        hint = "; install it with: pip install 'ntn-twin[learn]'" if error.name == "torch" else ""
        raise ScenarioError(f"{where} {place!r} cannot be imported: {error}{hint}") from None
    try:
        return module, getattr(module, class_name)
    except AttributeError:
        raise ScenarioError(f"{where} {place!r}: module {module_name} has no {class_name}") from None


def _put(keys: dict[str, Any], dotted: str, value: Any) -> None:
    *tables, last = dotted.split(".")
    for table in tables:
        keys = keys.setdefault(table, {})
        if not isinstance(keys, dict):
            raise ScenarioError(f"cannot set {dotted}: {table} is not a table")
    if tables[:1] == ["agent"] and last == "controller":  # the options were for whoever sat there before
        own = {field.name for field in msgspec.structs.fields(Seating)}
        for option in set(keys) - own | ({"options"} & set(keys)):
            del keys[option]
    keys[last] = value
