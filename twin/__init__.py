"""ntn-twin's engine: real orbits, a radio channel, worlds of agents, and the loop that plays them.

satellites = twin.read_tle("scenarios/tle/leo-2022-02-22.tle.xz")  # from the checkout
sky = twin.ephemeris(satellites, start="2022-02-22T13:00:00Z", seconds=600)
look = twin.look(sky, latitude_deg=43.5, longitude_deg=-80.5)

record = twin.run(twin.load("baseline"))
record["snr_db"]
"""

from twin.check import check_controller, check_world
from twin.errors import TwinError
from twin.geometry import Site, look, passes
from twin.orbit import Ephemeris, ephemeris
from twin.record import Record
from twin.runner import run
from twin.scenario import Scenario, build, load
from twin.tle import Satellite, parse_tle, read_tle, select
from twin.types import Action, Agent, Answer, Controller, Field, Observation, Outcome, World

__all__ = [
    "Action",
    "Agent",
    "Answer",
    "Controller",
    "Ephemeris",
    "Field",
    "Observation",
    "Outcome",
    "Record",
    "Satellite",
    "Scenario",
    "Site",
    "TwinError",
    "World",
    "build",
    "check_controller",
    "check_world",
    "ephemeris",
    "load",
    "look",
    "parse_tle",
    "passes",
    "read_tle",
    "run",
    "select",
]
