"""The names that outsiders rely on: one more or one less is a decision, not an accident."""

import hil
import twin
from twin import errors

TWIN = [
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
HIL = ["LatencyReport", "keys", "latency", "replay", "report", "run", "serve"]
ERRORS = {
    "ContractBroken",
    "TwinError",
    "TleError",
    "FetchError",
    "NotServed",
    "ScenarioError",
    "ControllerError",
    "SeatEmpty",
    "WireError",
    "RecordError",
    "RunBroken",
}


def test_names_of_twin():
    assert twin.__all__ == TWIN
    assert all(hasattr(twin, name) for name in TWIN)


def test_names_of_hil():
    assert hil.__all__ == HIL
    assert all(hasattr(hil, name) for name in HIL)


def test_names_that_a_person_calls_explain_themselves():
    for name in TWIN:
        assert (getattr(twin, name).__doc__ or "").strip(), f"twin.{name}"
    for name in HIL:
        assert (getattr(hil, name).__doc__ or "").strip(), f"hil.{name}"


def test_errors_are_one_family_and_the_drawing_is_of_them():
    found = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    assert set(found) == ERRORS
    assert all(issubclass(error, errors.TwinError) for error in found.values())
    drawn = {word for line in errors.__doc__.splitlines() for word in line.split() if word in found}
    assert drawn == ERRORS
    assert {error.exit_code for error in found.values()} == {1, 2, 3}
