"""The sky of a world: which satellites a scenario asks for, where they fly over its window, and who serves when."""

import hashlib
import warnings
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from twin.catalogue import select
from twin.errors import ScenarioError, TleError
from twin.geometry import Site
from twin.handover import longest_stay
from twin.orbit import Ephemeris, ephemeris
from twin.overpass import Pass, Passes, find_passes, passes
from twin.tle import Satellite, TleWarning, read_tle
from twin.worlds.sky_faults import SEGMENT_S

LOOKAHEAD_S = 900.0  # ephemeris beyond the window: to know how long a satellite stays, and to draw its whole pass
MOST_LOOKAHEAD_S = (
    6 * 3600.0
)  # doubled up to here while somebody is still up at its end; who stays longer stays for ever
FIRST_YEAR, LAST_YEAR = 1957, 2056  # what two-digit years of element sets can say
MANY = 1e8  # satellites times seconds: 64 MB of polynomials
LONGEST_S = 240 * 3600.0  # element sets are worth nothing after ten days

Altitude = Annotated[float, Meta(ge=0, le=1e9)]
Inclination = Annotated[float, Meta(ge=0, le=180)]


class Sky(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scenario's table [sky]: which satellites there are, when, and from which elevation on they serve."""

    tle: Annotated[
        str,
        Meta(description="element sets, TLE, 3LE or OMM, plain, .xz or .gz; a path beside the scenario file"),
    ]
    start_utc: Annotated[datetime, Meta(tz=True, description="slot 0, date and time with its zone (Z)")]
    name: Annotated[str, Meta(description="only satellites whose name contains this; empty for all")] = ""
    numbers: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=999_999_999)], ...],
        Meta(description="only satellites of these catalogue numbers; empty for all"),
    ] = ()
    altitude_m: (
        Annotated[tuple[Altitude, Altitude], Meta(description="only a shell: lowest and highest mean altitude, m")]
        | None
    ) = None
    inclination_deg: (
        Annotated[
            tuple[Inclination, Inclination], Meta(description="only a shell: lowest and highest inclination, degrees")
        ]
        | None
    ) = None
    raan_deg: (
        Annotated[
            float,
            Meta(ge=0, le=360, description="only the plane whose node is nearest, at start_utc, to this, degrees"),
        ]
        | None
    ) = None
    mask_deg: Annotated[float, Meta(ge=0, lt=90, description="elevation from which a satellite may serve, degrees")] = (
        30.0
    )

    def sha256(self, folder: str | Path) -> str:
        """Of the file of element sets, for the record."""
        return hashlib.sha256((Path(folder) / self.tle).read_bytes()).hexdigest()

    def satellites(self, folder: str | Path) -> list[Satellite]:
        """The satellites this table asks for, in the order of its file; `folder` is where a relative path starts.

        Raises ScenarioError naming the keys by which they were chosen.
        """
        asked: dict[str, Any] = {
            "numbers": self.numbers,
            "altitude_m": self.altitude_m,
            "inclination_deg": self.inclination_deg,
            "raan_deg": self.raan_deg,
        }
        try:
            found = read_tle(Path(folder) / self.tle, name=self.name)
            return select(found, **asked, at=self.start_utc)
        except (TleError, ValueError) as error:
            given = {"tle": self.tle, "name": self.name} | {k: v for k, v in asked.items() if v not in (None, ())}
            keys = ", ".join(
                f"sky.{key} = {list(value) if isinstance(value, tuple) else repr(value)}"
                for key, value in given.items()
            )
            raise ScenarioError(f"{keys}: {error}") from None


def check_length(seconds: float, keys: str) -> None:
    """Raise ScenarioError naming the keys that make a window longer than element sets are worth anything."""
    if seconds > LONGEST_S:
        raise ScenarioError(f"{keys} make {seconds / 3600.0:.0f} h, more than {LONGEST_S / 3600.0:.0f} h")


def sky_over(sky: Sky, site: Site, folder: str | Path, seconds: float) -> tuple[Ephemeris, Passes]:
    """The sky over the window and so far beyond it that whoever is up in the window sets, and the passes in it.

    Of a constellation over days only those are kept that pass: all of them would not fit in memory.
    """
    if not FIRST_YEAR <= sky.start_utc.year <= LAST_YEAR:
        raise ScenarioError(f"sky.start_utc must be from {FIRST_YEAR} to {LAST_YEAR}, got {sky.start_utc.isoformat()}")
    satellites = sky.satellites(folder)
    beyond_s = LOOKAHEAD_S
    while True:
        passing, where = satellites, {**msgspec.structs.asdict(site), "mask_deg": sky.mask_deg}
        if len(satellites) * seconds > MANY:
            with warnings.catch_warnings(action="ignore", category=TleWarning):  # the ephemeris tells of old elements
                they = find_passes(satellites, sky.start_utc, seconds + beyond_s, **where).satellite_index
            passing = [satellites[i] for i in np.unique(they).tolist() or [0]]
        cache = ephemeris(passing, sky.start_utc, seconds + beyond_s, segment_s=SEGMENT_S)
        above = passes(cache, **where)
        stays = [p for p in above if p.rise_s < seconds and p.set_s >= seconds + beyond_s]
        if not stays or beyond_s >= MOST_LOOKAHEAD_S:
            return cache, above
        beyond_s *= 2.0


def turns(above: Passes, cycle_s: float, n_cycles: int) -> list[tuple[Pass, int, int]]:
    """Who serves when: (pass, first cycle, cycle after the last) in order of time, beginning before cycle `n_cycles`.

    A satellite serves while it is above the mask for the whole cycle; then takes over, among those above it for the
    whole next cycle, the one that stays longest. Where there is none nobody serves.
    """
    begin, end = np.ceil(above.rise_s / cycle_s), np.floor(above.set_s / cycle_s)
    numbers = np.array([satellite.number for satellite in above.satellites])[above.satellite_index]
    rows = longest_stay(begin, end, above.set_s, numbers)
    return [(above[which], int(first), int(last)) for which, first, last in rows if first < n_cycles]
