"""The errors this package raises, all of them children of one.

    TwinError
    ├── TleError          an element set that cannot be trusted: file, line and what is wrong with it
    ├── FetchError        element sets that cannot be fetched as asked, or not kept
    │   └── NotServed     the server cannot be reached, or gives no element sets
    ├── ScenarioError     a scenario key, value or file that cannot be flown
    ├── ControllerError   a controller that cannot be found, built or spoken to
    │   └── SeatEmpty     nobody took a seat in time
    ├── WireError         a message, address or key that the wire does not take
    ├── RecordError       a run folder that cannot be written or read
    ├── ContractBroken    a world or controller that does not do what its protocol promises
    └── RunBroken         a run that ended because it broke one of its own limits

Inside the loop none of them is raised for a late or malformed answer: that is a miss in the record.
"""


class TwinError(Exception):
    """Whatever this package raises on purpose. Its text says what, where, and what to do."""

    exit_code = 2


class TleError(TwinError):
    """A two-line element set that cannot be trusted."""


class FetchError(TwinError):
    """Element sets that cannot be fetched as asked, or not kept: an address, a cache, a file."""


class NotServed(FetchError):
    """The server cannot be reached, wants to be left alone, or gives something else than element sets."""

    exit_code = 3


class ScenarioError(TwinError):
    """A scenario that cannot be flown as written."""


class ControllerError(TwinError):
    """A controller that cannot be found, built or spoken to."""


class SeatEmpty(ControllerError):
    """Nobody took a seat within the time the scenario grants."""

    exit_code = 3


class WireError(TwinError):
    """A message that does not follow the protocol, or an address or key that cannot be used."""


class RecordError(TwinError):
    """A run folder that cannot be written or read."""


class ContractBroken(TwinError):
    """A world or controller does not do what its protocol promises."""


class RunBroken(TwinError):
    """A run that ended because it broke one of its own limits; what it recorded stays readable."""

    exit_code = 1
