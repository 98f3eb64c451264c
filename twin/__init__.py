"""ntn-twin's engine: real orbits, a radio channel, worlds of agents, and the loop that plays them.

satellites = twin.read_tle("scenarios/tle/leo-2022-02-22.tle.xz")  # from the checkout
sky = twin.ephemeris(satellites, start="2022-02-22T13:00:00Z", seconds=600)
look = twin.look(sky, latitude_deg=43.5, longitude_deg=-80.5)

record = twin.run(twin.load("baseline"))
record["snr_db"]
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twin.catalogue import Plane, Shell, ages, planes, select, shells
    from twin.channel.link import Link
    from twin.channel.trace import link_trace
    from twin.check import check_controller, check_world
    from twin.errors import TwinError
    from twin.geometry import Site, look
    from twin.orbit import Ephemeris, Orbit, ephemeris
    from twin.overpass import find_passes, passes
    from twin.record import Record
    from twin.runner import run
    from twin.scenario import Scenario, build, load
    from twin.tle import Satellite, parse_tle, read_tle
    from twin.types import Action, Agent, Answer, Controller, Field, Observation, Outcome, World

__all__ = [
    "Action",
    "Agent",
    "Answer",
    "Controller",
    "Ephemeris",
    "Field",
    "Link",
    "Observation",
    "Orbit",
    "Outcome",
    "Plane",
    "Record",
    "Satellite",
    "Scenario",
    "Shell",
    "Site",
    "TwinError",
    "World",
    "ages",
    "build",
    "check_controller",
    "check_world",
    "ephemeris",
    "find_passes",
    "link_trace",
    "load",
    "look",
    "parse_tle",
    "passes",
    "planes",
    "read_tle",
    "run",
    "select",
    "shells",
]

_PLACES = {  # module: names
    "catalogue": ("Plane", "Shell", "ages", "planes", "select", "shells"),
    "channel.link": ("Link",),
    "channel.trace": ("link_trace",),
    "check": ("check_controller", "check_world"),
    "errors": ("TwinError",),
    "geometry": ("Site", "look"),
    "orbit": ("Ephemeris", "Orbit", "ephemeris"),
    "overpass": ("find_passes", "passes"),
    "record": ("Record",),
    "runner": ("run",),
    "scenario": ("Scenario", "build", "load"),
    "tle": ("Satellite", "parse_tle", "read_tle"),
    "types": ("Action", "Agent", "Answer", "Controller", "Field", "Observation", "Outcome", "World"),
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name is loaded when it is asked for: a controller needs few of them, and numba takes long to import."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'twin' has no attribute {name!r}")
    globals()[name] = found = getattr(importlib.import_module(f"twin.{_MODULE_OF[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
