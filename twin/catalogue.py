"""Catalogues: which satellites of a list to take, the shells and planes they fly in, and how old their elements are.

A shell is where altitude and inclination are crowded; a plane is where, in a shell, the nodes are. Elements of
different epochs are compared at one common instant, to which node and argument of latitude are brought by their secular
rates under J2 (Hoots and Roehrich, Spacetrack Report 3: the first-order terms of SGP4), in closed form. After three
days that is a few hundredths of a degree from SGP4's own rates, and half a degree near the equator.

Altitudes are those of the mean orbit: SGP4's own semi-major axis, recovered from the mean motion of the element set
(which is Kozai's), less the equatorial radius of WGS72, 6,378.135 km. Kepler's law applied to the element set's own
mean motion comes out 3 km higher at an inclination of 88 degrees, 0.3 km lower at 53 and 6 km lower over the equator.
"""

import math
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from sgp4.earth_gravity import wgs72

from twin.errors import TleError
from twin.tle import Satellite, TleWarning
from twin.units import KILO, MINUTES_PER_DAY, SECONDS_PER_DAY, UNIX_EPOCH_JD, utc

OLD_DAYS = 3.0  # elements further from the instant they are flown at are told of
AGE_DAYS = (0.0, 0.5, 1.0, 3.0, 7.0, 14.0)  # and the median error in position of Starlink's elements at that age, as
AGE_ERROR_M = (1e3, 3e3, 6e3, 14e3, 39e3, 150e3)  # later ones show it; see tests/test_catalogue.py, which measures it
SHELL_GAP_M, SHELL_GAP_DEG = 5e3, 0.05  # OneWeb's planes stand 2 to 4 km apart, Starlink's inclinations 0.17 degrees
PLANE_GAP_DEG = 1.0  # planes of the densest shells stand 5 degrees apart, and spread by half a degree
WIDEST_GAPS = 10  # nodes without a gap over more than so many of them are a crowd in which no plane can be told
SHOWN = 5  # things listed by a message that says what there is

Range = tuple[float, float]


@dataclass(frozen=True)
class Shell:
    """Satellites at one altitude and inclination.

    altitude_m       mean altitude, the median of the satellites; see the module
    lowest_m, highest_m
    inclination_deg  the median
    satellites       in the order they were given
    """

    altitude_m: float
    lowest_m: float
    highest_m: float
    inclination_deg: float
    satellites: tuple[Satellite, ...]


@dataclass(frozen=True)
class Plane:
    """Satellites of one orbital plane at one instant, and the even slots that they hold.

    raan_deg                  right ascension of the node in TEME at that instant, the median of the satellites
    at_utc                    the instant (aware, UTC)
    satellites                by rising argument of latitude
    argument_of_latitude_deg  of each, 0 to 360: from the node along the orbit, argument of perigee plus mean anomaly
    slot_deg                  argument of latitude of each slot's middle, rising from the first above 0
    holders                   of each slot: the satellite that stands nearest to its middle; None where it is empty
    spares                    those that hold no slot: doubles close to a holder, and whoever stands between slots
    evenness                  how well the slots account for the satellites: 1 when all stand in the middles of slots,
                              about sqrt(ln(2 n) / n), 0.4 for 20 satellites, when they stand anywhere
    """

    raan_deg: float
    at_utc: datetime
    satellites: tuple[Satellite, ...]
    argument_of_latitude_deg: tuple[float, ...]
    slot_deg: tuple[float, ...]
    holders: tuple[Satellite | None, ...]
    spares: tuple[Satellite, ...]
    evenness: float

    @property
    def empty_deg(self) -> tuple[float, ...]:
        """Argument of latitude of the slots that nobody holds."""
        return tuple(at for at, holder in zip(self.slot_deg, self.holders) if holder is None)


class _Orbits(NamedTuple):
    """Mean orbits, arrays (n_satellites,), all at one instant; rates are secular, of J2."""

    altitude_m: np.ndarray
    inclination_deg: np.ndarray
    raan_deg: np.ndarray
    argument_of_latitude_deg: np.ndarray


def select(
    satellites: Sequence[Satellite],
    name: str = "",
    numbers: Sequence[int] = (),
    altitude_m: Range | None = None,
    inclination_deg: Range | None = None,
    raan_deg: float | None = None,
    at: str | datetime | None = None,
) -> list[Satellite]:
    """The satellites that meet all that is asked, in their order.

    name             part of the name, in either case; empty takes all
    numbers          catalogue numbers, each of which must be there
    altitude_m       lowest and highest mean altitude, m; see the module for what that is
    inclination_deg  lowest and highest
    raan_deg         the plane whose node is nearest to this, out of those that the other conditions leave
    at               instant of raan_deg, with its offset from UTC; None: the median epoch

    Raises TleError, saying what was asked and what there is, where nothing is left, a number is missing, or no plane is
    within a degree; nodes that follow without a gap over more than 10 degrees are of no plane. ValueError for a range
    that does not rise. Checked by tests/test_catalogue.py.
    """
    found = list(satellites)
    if not found:
        raise TleError("there are no satellites to select from")
    if name:
        by_name = [satellite for satellite in found if name.casefold() in satellite.name.casefold()]
        if not by_name:
            raise TleError(f"no satellite whose name contains {name!r} among {_names(found)}")
        found = by_name
    if wanted := set(numbers):
        missing = sorted(wanted - {satellite.number for satellite in found})
        if missing:
            raise TleError(f"no satellite with catalogue number {_list(map(str, missing))} among {_names(found)}")
        found = [satellite for satellite in found if satellite.number in wanted]
    if altitude_m is not None:
        found = _within(found, _orbits(found).altitude_m, altitude_m, "a mean altitude", "m")
    if inclination_deg is not None:
        each_deg = np.array([satellite.inclination_deg for satellite in found])
        found = _within(found, each_deg, inclination_deg, "an inclination", "deg")
    if raan_deg is not None:
        at_utc = utc(at) if at is not None else median_epoch_utc(found)
        each_deg = _orbits(found, at_utc).raan_deg
        groups = _nodes(each_deg, PLANE_GAP_DEG)
        middles_deg = [_median_deg(each_deg[group]) for group in groups]
        off_deg = [abs(_turned(middle - raan_deg)) for middle in middles_deg]
        if not min(off_deg, default=math.inf) <= PLANE_GAP_DEG:  # nor where it is no number
            there = f", at {_list(f'{middle:.1f}' for middle in sorted(middles_deg))}" if groups else ""
            crowd = len(found) - sum(map(len, groups))
            without = f"; the nodes of {crowd} run into each other: choose a shell of them first" if crowd else ""
            raise TleError(
                f"no plane with its node within {PLANE_GAP_DEG:g} deg of {raan_deg:g} at {at_utc:%Y-%m-%dT%H:%MZ} "
                f"among {len(found)} satellites; there are {len(groups)}{there}{without}"
            )
        found = [found[i] for i in sorted(groups[int(np.argmin(off_deg))])]
    return found


def shells(
    satellites: Sequence[Satellite], gap_m: float = SHELL_GAP_M, gap_deg: float = SHELL_GAP_DEG, least: int = 20
) -> list[Shell]:
    """The shells that a constellation fills, the one with most satellites first.

    gap_m, gap_deg  a shell ends where the next altitude or inclination is further off than this
    least           it has everywhere so many satellites within these gaps; whoever is on the way, and alone, is in none

    Takes one constellation: a list of everything is crowded at some inclinations over hundreds of kilometres.
    Checked by tests/test_catalogue.py.
    """
    if not satellites:
        return []
    orbits = _orbits(satellites)
    groups, found = [np.arange(len(satellites))], []
    while groups:  # split by inclination and altitude in turn until neither splits any further
        group = groups.pop()
        parts = [
            group[by_inclination][by_altitude]
            for by_inclination in _crowds(orbits.inclination_deg[group], gap_deg, least)
            for by_altitude in _crowds(orbits.altitude_m[group][by_inclination], gap_m, least)
        ]
        if [len(part) for part in parts] == [len(group)]:
            found.append(np.sort(group))
        else:
            groups += parts
    made = [
        Shell(
            altitude_m=float(np.median(orbits.altitude_m[group])),
            lowest_m=float(orbits.altitude_m[group].min()),
            highest_m=float(orbits.altitude_m[group].max()),
            inclination_deg=float(np.median(orbits.inclination_deg[group])),
            satellites=tuple(satellites[i] for i in group),
        )
        for group in found
    ]
    return sorted(made, key=lambda shell: (-len(shell.satellites), shell.altitude_m, shell.inclination_deg))


def planes(
    satellites: Sequence[Satellite] | Shell,
    at: str | datetime | None = None,
    gap_deg: float = PLANE_GAP_DEG,
    least: int = 3,
) -> list[Plane]:
    """The orbital planes of a shell, by rising right ascension of the node.

    satellites  a shell, or satellites that share altitude and inclination
    at          the common instant, with its offset from UTC; None: the median epoch
    gap_deg     a plane ends where the next node is further off than this; nodes without such a gap over more than ten
                times as much are a crowd, in which no plane can be told
    least       fewer satellites make no plane

    How many slots a plane has is what its satellites say, and where they are few, what the others of the shell say: see
    `_slot_counts`. Checked by tests/test_catalogue.py.
    """
    everyone = satellites.satellites if isinstance(satellites, Shell) else tuple(satellites)
    if not everyone:
        return []
    at_utc = median_epoch_utc(everyone) if at is None else utc(at)
    orbits = _orbits(everyone, at_utc)
    groups = [group for group in _nodes(orbits.raan_deg, gap_deg) if len(group) >= least]
    where_deg = [orbits.argument_of_latitude_deg[group] for group in groups]
    found = []
    for group, latitude_deg, n_slots in zip(groups, where_deg, _slot_counts(where_deg)):
        order = np.argsort(latitude_deg, kind="stable")
        group, latitude_deg = group[order], latitude_deg[order]
        slot_deg, holders, evenness = _slots(latitude_deg, n_slots)
        held = {i for i in holders if i is not None}
        found.append(
            Plane(
                raan_deg=_median_deg(orbits.raan_deg[group]),
                at_utc=at_utc,
                satellites=tuple(everyone[i] for i in group),
                argument_of_latitude_deg=tuple(latitude_deg.tolist()),
                slot_deg=tuple(slot_deg.tolist()),
                holders=tuple(None if i is None else everyone[group[i]] for i in holders),
                spares=tuple(everyone[j] for i, j in enumerate(group) if i not in held),
                evenness=evenness,
            )
        )
    return sorted(found, key=lambda plane: plane.raan_deg)


def ages(satellites: Sequence[Satellite], at: str | datetime) -> np.ndarray:
    """How long after the epoch of each element set an instant is.

    at  ISO 8601 text or datetime, with its offset from UTC

    Returns (n_satellites,) days, negative where the instant is before the epoch.
    """
    at_utc = utc(at)
    since = at_utc - datetime(1970, 1, 1, tzinfo=UTC)
    fr = (since.seconds + since.microseconds * 1e-6) / SECONDS_PER_DAY
    epoch_jd = np.array([satellite.epoch_jd for satellite in satellites])
    epoch_fr = np.array([satellite.epoch_fr for satellite in satellites])
    return (UNIX_EPOCH_JD + since.days - epoch_jd) + (fr - epoch_fr)


def median_epoch_utc(satellites: Sequence[Satellite]) -> datetime:
    """The median epoch of at least one element set (aware, UTC)."""
    return datetime.fromtimestamp(float(np.median([s.epoch_utc.timestamp() for s in satellites])), UTC)


def expected_error_m(age_days: float | np.ndarray) -> float | np.ndarray:
    """Median error in position of elements of that age, any shape; beyond two weeks that of two weeks, and more.

    Measured on Starlink satellites at 550 km, which manoeuvre: one in ten is three times as far off, the worst more
    than ten times. Before the epoch it is about half.
    """
    return np.interp(np.abs(age_days), AGE_DAYS, AGE_ERROR_M)


def warn_of_age(satellites: Sequence[Satellite], at_utc: str | datetime, stacklevel: int = 2) -> None:
    """Warns (TleWarning) when the median element set is more than 3 days from an instant, or a tenth of them are.

    stacklevel  as in warnings.warn: 2 blames the line that calls this
    """
    days = ages(satellites, at_utc)
    old = np.abs(days) > OLD_DAYS
    median_days = float(np.median(days))
    if abs(median_days) <= OLD_DAYS and old.mean() <= 0.1:
        return
    oldest = int(np.argmax(np.abs(days)))
    error_m = float(np.median(expected_error_m(days)))
    more = "more than " if abs(median_days) > AGE_DAYS[-1] else "about "
    warnings.warn(
        f"the window is {_away(median_days)} the median epoch of its elements "
        f"({median_epoch_utc(satellites):%Y-%m-%dT%H:%MZ}): {int(old.sum())} of {len(days)} sets are more than "
        f"{OLD_DAYS:g} days from it, the furthest, {satellites[oldest].name}, {abs(days[oldest]):.1f} days; expect "
        f"positions wrong by {more}{error_m / KILO:.0f} km at the median, by up to ten times that where one manoeuvres",
        TleWarning,
        stacklevel=stacklevel,
    )


def _away(days: float) -> str:
    return f"{abs(days):.1f} days {'after' if days > 0 else 'before'}"


def _orbits(satellites: Sequence[Satellite], at_utc: datetime | None = None) -> _Orbits:
    """Mean orbits of satellites at an instant, or each at its epoch.

    SGP4's recovery of the mean motion, and the rates of the first order in J2 (Spacetrack Report 3, section 6), in its
    units: earth radii and minutes.
    """
    rows = [
        (
            s.mean_motion_rev_day,
            s.eccentricity,
            s.inclination_deg,
            s.raan_deg,
            s.argument_of_perigee_deg + s.mean_anomaly_deg,
        )
        for s in satellites
    ]
    rev_day, eccentricity, inclination_deg, raan_deg, latitude_deg = np.array(rows).reshape(-1, 5).T
    kozai = rev_day * 2.0 * math.pi / MINUTES_PER_DAY  # rad/min
    cosine = np.cos(np.radians(inclination_deg))
    root = np.sqrt(1.0 - eccentricity**2)
    weight = 0.75 * wgs72.j2 * (3.0 * cosine**2 - 1.0) / root**3
    first = (wgs72.xke / kozai) ** (2.0 / 3.0)
    delta = weight / first**2
    second = first * (1.0 - delta * (1.0 / 3.0 + delta * (1.0 + 134.0 / 81.0 * delta)))
    motion = kozai / (1.0 + weight / second**2)
    axis = (wgs72.xke / motion) ** (2.0 / 3.0)
    if at_utc is not None:
        minutes = ages(satellites, at_utc) * MINUTES_PER_DAY
        j2 = 1.5 * wgs72.j2 * motion / (axis * root**2) ** 2  # rad/min
        node = -j2 * cosine
        along = motion + 0.5 * j2 * (root * (3.0 * cosine**2 - 1.0) + 5.0 * cosine**2 - 1.0)  # mean anomaly and perigee
        raan_deg = raan_deg + np.degrees(node * minutes)
        latitude_deg = latitude_deg + np.degrees(along * minutes)
    altitude_m = (axis - 1.0) * wgs72.radiusearthkm * KILO
    return _Orbits(altitude_m, inclination_deg, raan_deg % 360.0, latitude_deg % 360.0)


def _crowds(values: np.ndarray, gap: float, least: int) -> list[np.ndarray]:
    """Indices of the values in groups: everywhere `least` of them within `gap`, and more than `gap` between groups."""
    order = np.argsort(values, kind="stable")
    crowded = np.zeros(len(values), dtype=bool)
    if len(values) >= least:
        rising = values[order]
        for first in np.flatnonzero(rising[least - 1 :] - rising[: len(values) - least + 1] <= gap):
            crowded[first : first + least] = True
    order = order[crowded]
    return np.split(order, np.flatnonzero(np.diff(values[order]) > gap) + 1) if len(order) else []


def _around(angles_deg: np.ndarray, gap_deg: float) -> list[np.ndarray]:
    """Indices of the angles in groups with more than `gap_deg` between them, around the circle."""
    order = np.argsort(angles_deg, kind="stable")
    rising = angles_deg[order]
    gaps_deg = np.diff(rising, append=rising[0] + 360.0)
    ends = np.flatnonzero(gaps_deg > gap_deg) + 1
    if len(ends) == 0:
        return [order]
    return np.split(np.roll(order, -ends[-1]), (ends[:-1] - ends[-1]) % len(order))


def _nodes(raan_deg: np.ndarray, gap_deg: float) -> list[np.ndarray]:
    """Indices of the nodes in groups, as `_around`, without crowds."""
    widest_deg = WIDEST_GAPS * gap_deg
    groups = _around(raan_deg, gap_deg)
    return [group for group in groups if (raan_deg[group[-1]] - raan_deg[group[0]]) % 360.0 <= widest_deg]


def _slot_counts(planes_deg: list[np.ndarray]) -> list[int]:
    """How many even slots each plane of a shell has, from the arguments of latitude of its satellites.

    For each possible number of slots, n |mean exp(i slots u)|^2 over the n satellites of a plane says how strongly they
    stand in step (Rayleigh's test: about 1 by chance, n when perfect). A plane's own evidence and that of the mean
    plane of the shell are added, which decides for planes of few satellites. Of the numbers that reach half of the best
    the smallest is taken: who is in step with 18 slots is in step with 36, and spares blur the smaller number less.
    More slots than twice the satellites of the fullest plane are not looked for.
    """
    if not planes_deg:
        return []
    counts = np.arange(1, 2 * max(map(len, planes_deg)) + 1)
    evidence = np.array(
        [len(u) * np.abs(np.exp(1j * np.outer(counts, np.radians(u))).mean(axis=1)) ** 2 for u in planes_deg]
    )
    score = evidence + evidence.mean(axis=0)
    return [int(counts[np.argmax(row >= 0.5 * row.max())]) for row in score]


def _slots(latitude_deg: np.ndarray, n_slots: int) -> tuple[np.ndarray, list[int | None], float]:
    """Middles of the slots, who holds each (an index or None), and the evenness of a plane."""
    slot_deg = 360.0 / n_slots
    step = np.exp(1j * n_slots * np.radians(latitude_deg)).mean()
    first_deg = math.degrees(float(np.angle(step))) / n_slots
    # Spares draw the mean to themselves; the median of what is left stays with the many.
    first_deg += float(np.median((latitude_deg - first_deg + 0.5 * slot_deg) % slot_deg - 0.5 * slot_deg))
    middles_deg = first_deg % slot_deg + slot_deg * np.arange(n_slots)
    holders: list[int | None] = []
    for middle_deg in middles_deg:
        off_deg = np.abs(_turned(latitude_deg - middle_deg))
        nearest = int(np.argmin(off_deg))
        holders.append(nearest if off_deg[nearest] < 0.25 * slot_deg else None)
    return middles_deg, holders, float(abs(step))


def _turned(angle_deg):
    """An angle, any shape, from -180 to 180."""
    return (angle_deg + 180.0) % 360.0 - 180.0


def _median_deg(angles_deg: np.ndarray) -> float:
    """The median of angles that lie close together, 0 to 360."""
    return float((angles_deg[0] + np.median(_turned(angles_deg - angles_deg[0]))) % 360.0)


def _within(satellites: list[Satellite], each: np.ndarray, asked: Range, what: str, unit: str) -> list[Satellite]:
    low, high = asked
    if not low <= high:
        raise ValueError(f"{what} from {low:g} to {high:g} {unit}: the first must not be above the second")
    found = [satellite for satellite, value in zip(satellites, each) if low <= value <= high]
    if not found:
        there = f"; they have {each.min():.10g} to {each.max():.10g} {unit}" if len(each) else ""
        raise TleError(
            f"no satellite with {what} of {low:.10g} to {high:.10g} {unit} among {_names(satellites)}{there}"
        )
    return found


def _names(satellites: Sequence[Satellite]) -> str:
    """How many, and of what kind: the first words of their names, the most frequent first."""
    first_words = (re.match(r"[^\d\W]*|", satellite.name) for satellite in satellites)
    counted = Counter(word[0] if word and word[0] else "others" for word in first_words)
    return f"{len(satellites)} ({_list(f'{count} {word}' for word, count in counted.most_common())})"


def _list(words) -> str:
    words = list(words)
    return ", ".join(words[:SHOWN] + ([f"and {len(words) - SHOWN} more"] if len(words) > SHOWN else []))
