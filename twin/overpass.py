"""Who passes over a site, and when: from an ephemeris, or straight from element sets.

For each segment of the ephemeris an upper bound of what the elevation can reach in it comes from the size of the
polynomial's coefficients, without evaluating it. Only segments that may reach the mask are looked into: there the
elevation is divided at its extremes, between which it only rises or only falls, and the mask's crossings are found as
zeros of it. From element sets (`find_passes`) the same is done before there are polynomials: SGP4 is asked once per
segment, and for a polynomial only where the satellite may come up, which over a day is one segment in fifteen.

Elevation is geometric, against the WGS84 normal: no refraction. Results do not depend on the number of threads.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import overload

import numpy as np
from numba import njit

from twin.catalogue import warn_of_age
from twin.fitting import nodes
from twin.frames import EarthOrientation, turns
from twin.geometry import Site, site_at
from twin.orbit import Ephemeris
from twin.parallel import spread
from twin.sgp4_kernel import Propagator, minutes_since, near_earth
from twin.tle import Satellite
from twin.units import EARTH_MU_M3_S2, WGS84_RADIUS_M, utc

SCAN_S = 60.0  # far less than the time between two extremes of a satellite's elevation, so each step has one at most
EVENT_S = 1e-6  # to this the times of rise, culmination and set are found
SEGMENT_S = 300.0  # of the polynomials from element sets:
N_COEFFICIENTS = 8  # so many meet a low orbit within 0.01 mm
PIECE_S = 86_400.0  # element sets are flown through a long window by so much at a time,
BLOCK_BYTES = 64e6  # and of polynomials no more are looked into at a time than this
N_STATE = 4  # numbers of a pass that goes on
WIDE = 512  # satellites bounded at a time
SLACK_M = 2_000.0  # on bounds from states: SGP4's velocity is not quite the slope of its position
HEAVY = 1.05  # likewise, on the acceleration of a body that only the Earth's mass pulls
JOINT = 1e-6  # sine of an elevation: two segments' polynomials differ by less where they meet


@dataclass(frozen=True)
class Pass:
    """One visibility interval above a mask; times in seconds after the ephemeris' start.

    satellite_index     in the ephemeris
    name, number        of the satellite
    rise_s, set_s       where it crosses the mask, or the window's edge
    culmination_s       when it stands highest within them
    max_elevation_deg   how high that is
    cut                 whether the window's edge, not the mask, begins or ends it
    """

    satellite_index: int
    name: str
    number: int
    rise_s: float
    culmination_s: float
    set_s: float
    max_elevation_deg: float
    cut: bool


@dataclass(frozen=True, eq=False)
class Passes(Sequence[Pass]):
    """Passes by time of rise: a sequence of Pass, kept as arrays so that tens of thousands cost no objects.

    satellites                             of the ephemeris, n_satellites
    satellite_index ... cut   (n_passes,)  as in Pass
    """

    satellites: tuple[Satellite, ...]
    satellite_index: np.ndarray
    rise_s: np.ndarray
    culmination_s: np.ndarray
    set_s: np.ndarray
    max_elevation_deg: np.ndarray
    cut: np.ndarray

    def __len__(self) -> int:
        return len(self.satellite_index)

    @overload
    def __getitem__(self, at: int) -> Pass: ...
    @overload
    def __getitem__(self, at: slice | np.ndarray) -> "Passes": ...
    def __getitem__(self, at):
        """One Pass; or Passes, those of a slice or of an array of indices or booleans."""
        columns = [column[at] for column in self._columns]
        if np.ndim(columns[0]):
            return Passes(self.satellites, *columns)
        return next(iter(Passes(self.satellites, *(column[None] for column in columns))))

    def __iter__(self) -> Iterator[Pass]:
        for i, rise_s, culmination_s, set_s, highest_deg, cut in zip(*(column.tolist() for column in self._columns)):
            one = self.satellites[i]
            yield Pass(i, one.name, one.number, rise_s, culmination_s, set_s, highest_deg, cut)

    @property
    def _columns(self) -> tuple[np.ndarray, ...]:
        times = self.rise_s, self.culmination_s, self.set_s, self.max_elevation_deg
        return self.satellite_index, *times, self.cut


def passes(
    sky: Ephemeris | Iterable[Ephemeris],
    *,
    latitude_deg: float,
    longitude_deg: float,
    altitude_m: float = 0.0,
    mask_deg: float = 10.0,
    threads: int | None = None,
) -> Passes:
    """Who stands above the mask, and when, in the ephemeris' window.

    sky       an Ephemeris, or the consecutive pieces of a long one (twin.orbit.pieces): then only one is in memory at
              a time, and a pass that goes on from one to the next is one pass
    mask_deg  ()  deg  elevation from which a satellite counts, -90 to 90

    Returns the passes by time of rise, then by satellite, their times refined far below a millisecond. Raises
    ValueError for a site that is none, a mask out of range, and pieces that do not follow each other. Satellites that
    SGP4 could not propagate have no passes; who is lost in a later piece has a cut pass until then. Those that the
    ephemeris keeps apart are flown by the common polynomials, up to 10 m and so a few milliseconds off. Checked by
    tests/test_overpass.py against skyfield's find_events.
    """
    where = _Where(site_at(latitude_deg, longitude_deg, altitude_m), sine_of(mask_deg), threads)
    return _followed(_blocks_of((sky,) if isinstance(sky, Ephemeris) else sky, where), where)


def find_passes(
    satellites: Sequence[Satellite],
    start: str | datetime,
    seconds: float,
    *,
    latitude_deg: float,
    longitude_deg: float,
    altitude_m: float = 0.0,
    mask_deg: float = 10.0,
    orientation: EarthOrientation | None = None,
    threads: int | None = None,
) -> Passes:
    """`passes` straight from element sets: the same, but SGP4 is flown in detail only where a satellite may come up.

    satellites           n_satellites  from twin.tle
    start, orientation                 as twin.ephemeris takes them
    seconds              ()  s         length of the window; memory is bounded, however long

    Returns and raises as `passes`, and ValueError for a window that is none; of the age of elements it warns as
    twin.ephemeris does. Whom SGP4 loses on some day of the window has passes on the days before.
    Checked by tests/test_overpass.py.
    """
    where = _Where(site_at(latitude_deg, longitude_deg, altitude_m), sine_of(mask_deg), threads)
    if not satellites or not 0.0 < seconds < math.inf:
        raise ValueError(f"passes need a satellite and seconds > 0, got {len(satellites)} of them and {seconds:g} s")
    flight = _Flight(tuple(satellites), utc(start), orientation)
    found = _followed(_blocks_from_elements(flight, seconds, where), where)
    warn_of_age(satellites, flight.start_utc + timedelta(seconds=seconds / 2.0), stacklevel=3)
    return found


def sine_of(mask_deg: float) -> float:
    """Sine of an elevation mask; ValueError for one that is none."""
    if not -90.0 <= mask_deg <= 90.0:
        raise ValueError(f"mask_deg must be from -90 to 90, got {mask_deg:g}")
    return float(np.sin(np.radians(mask_deg)))


@dataclass(frozen=True, eq=False)
class _Where:
    """Above which mask of which site is looked for passes, and in how many threads."""

    site: Site
    sine_mask: float
    threads: int | None


@dataclass(frozen=True, eq=False)
class _Block:
    """Some consecutive segments, and the polynomials of those in which a satellite may reach the mask.

    satellite, segment  (n,)                     by satellite, then by segment
    coefficients_m      (n, 3, n_coefficients)
    """

    satellites: tuple[Satellite, ...]
    first_s: float
    segment_s: float
    end_s: float
    satellite: np.ndarray
    segment: np.ndarray
    coefficients_m: np.ndarray


def _blocks_of(pieces: Iterable[Ephemeris], where: _Where) -> Iterator[_Block]:
    for sky in pieces:
        n_segments, _, n_coefficients, n_satellites = sky.coefficients_m.shape
        step = max(1, int(BLOCK_BYTES / (24 * n_coefficients * n_satellites)))
        for first in range(0, n_segments, step):
            store = sky.coefficients_m[first : first + step]
            first_s = sky.first_s + first * sky.segment_s
            end_s = min(first_s + len(store) * sky.segment_s, sky.seconds)
            yield _Block(sky.satellites, first_s, sky.segment_s, end_s, *_near(store, where))


def _near(store: np.ndarray, where: _Where) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """satellite, segment and coefficients_m of a _Block, out of an ephemeris' (n_segments, 3, n_coefficients, n)."""
    near = np.zeros((store.shape[3], len(store)), dtype=np.uint8)

    def look(first: int, last: int) -> None:
        may_rise(store, first, last, where.site.position_m, where.site.axes[2], where.sine_mask, near)

    spread(look, len(near), where.threads, align=8)
    satellite, segment = np.nonzero(near.view(bool))
    coefficients_m = np.empty((len(satellite), 3, store.shape[2]))

    def take(first: int, last: int) -> None:
        gather(store, satellite, segment, first, last, coefficients_m)

    spread(take, len(satellite), where.threads)
    return satellite, segment, coefficients_m


def _blocks_from_elements(flight: "_Flight", seconds: float, where: _Where) -> Iterator[_Block]:
    step = max(1, int(BLOCK_BYTES / (24 * N_COEFFICIENTS * len(flight.satellites))))
    for piece in range(math.ceil(seconds / PIECE_S)):
        first_s, end_s = piece * PIECE_S, min((piece + 1) * PIECE_S, seconds)
        begin_s = first_s + np.arange(math.ceil((end_s - first_s) / SEGMENT_S)) * SEGMENT_S
        near = flight.near(begin_s, where)
        for first in range(0, len(begin_s), step):
            some_s = begin_s[first : first + step]
            rows = flight.polynomials(near[:, first : first + step], some_s, where.threads)
            yield _Block(flight.satellites, some_s[0], SEGMENT_S, min(some_s[-1] + SEGMENT_S, end_s), *rows)


class _Flight:
    """Satellites that SGP4 flies where it is asked to."""

    def __init__(self, satellites: tuple[Satellite, ...], start_utc: datetime, orientation: EarthOrientation | None):
        self.satellites, self.start_utc, self.orientation = satellites, start_utc, orientation
        self.sgp4 = Propagator(satellites)
        self.low, self.deep = np.flatnonzero(~self.sgp4.deep), np.flatnonzero(self.sgp4.deep)

    def near(self, begin_s: np.ndarray, where: _Where) -> np.ndarray:
        """In which segments each satellite may reach the mask, (n_satellites, n_segments), 1 or 0."""
        near = np.zeros((len(self.satellites), len(begin_s)), dtype=np.uint8)
        jd, fr, turn, rate_rad_s = turns(self.start_utc, begin_s + 0.5 * SEGMENT_S, self.orientation)
        # The site in SGP4's frame: turned back, once for all satellites.
        site_m, up = (np.einsum("kji,j->ki", turn, row) for row in (where.site.position_m, where.site.axes[2]))

        def look(first: int, last: int) -> None:
            near_earth_may_rise(
                self.low[first:last], self.sgp4.constants, self.sgp4.epoch, jd, fr,
                site_m, up, rate_rad_s, 0.5 * SEGMENT_S, where.sine_mask, near,
            )  # fmt: skip

        spread(look, len(self.low), where.threads)
        for i in self.deep:  # one at a time: their states over a long window are many
            error, position_m, velocity_m_s = Propagator([self.satellites[i]]).propagate(np.full(len(fr), jd), fr)
            states = position_m[0].T.copy(), velocity_m_s[0].T.copy(), error[0]
            states_may_rise(*states, site_m, up, rate_rad_s, 0.5 * SEGMENT_S, where.sine_mask, near[i])
        return near

    def polynomials(
        self, near: np.ndarray, begin_s: np.ndarray, threads: int | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """satellite, segment and coefficients_m of a _Block."""
        u = nodes(N_COEFFICIENTS)
        to_powers = np.linalg.inv(np.vander(u, increasing=True))
        node_s = (begin_s[:, None] + 0.5 * (1.0 + u) * SEGMENT_S).ravel()
        jd, fr, turn, _ = turns(self.start_utc, node_s, self.orientation)
        satellite, segment = np.nonzero(near.view(bool))
        start = np.searchsorted(satellite, np.arange(len(self.satellites) + 1))
        coefficients_m = np.empty((len(satellite), 3, N_COEFFICIENTS))

        def fly(first: int, last: int) -> None:
            fit_rows(
                self.low[first:last], self.sgp4.constants, self.sgp4.epoch, jd, fr, turn, to_powers, start, segment,
                coefficients_m,
            )  # fmt: skip

        spread(fly, len(self.low), threads)
        for i in self.deep[start[self.deep] < start[self.deep + 1]]:
            rows = slice(start[i], start[i + 1])
            at = (segment[rows][:, None] * N_COEFFICIENTS + np.arange(N_COEFFICIENTS)).ravel()
            error, position_m, _ = Propagator([self.satellites[i]]).propagate(np.full(len(at), jd), fr[at])
            ecef_m = np.einsum("nij,nj->ni", turn[at], np.where(error[0][:, None] == 0, position_m[0], np.nan))
            coefficients_m[rows] = np.einsum("pj,sja->sap", to_powers, ecef_m.reshape(-1, N_COEFFICIENTS, 3))
        return satellite, segment, coefficients_m


def _followed(blocks: Iterator[_Block], where: _Where) -> Passes:
    """The passes in consecutive blocks. Who is up at the end of one goes on in the next."""
    first = next(blocks, None)
    if first is None:
        raise ValueError("passes need an ephemeris, got no piece of one")
    satellites, n = first.satellites, len(first.satellites)
    first_s = end_s = first.first_s
    going, state = np.zeros(n, dtype=np.uint8), np.zeros((n, N_STATE))
    found: list[np.ndarray] = []
    for block in chain([first], blocks):
        if len(block.satellites) != n or abs(block.first_s - end_s) > EVENT_S:
            raise ValueError(
                f"pieces of an ephemeris must follow each other and have the same satellites: after {end_s:g} s with "
                f"{n} of them came one from {block.first_s:g} s with {len(block.satellites)}"
            )
        end_s = block.end_s
        start = np.searchsorted(block.satellite, np.arange(n + 1))
        parts: dict[int, np.ndarray] = {}

        def follow(low: int, high: int, block=block, start=start, parts=parts) -> None:
            parts[low] = passes_of_some(
                low, high, start, block.segment, block.coefficients_m, block.first_s, block.segment_s, block.end_s,
                first_s, where.site.position_m, where.site.axes[2], where.sine_mask, going, state,
            )  # fmt: skip

        spread(follow, n, where.threads)
        found += parts.values()
    up = np.flatnonzero(going)
    rise_s, culmination_s, sine, _ = state[up].T
    last = np.stack([up, rise_s, culmination_s, np.full(len(up), end_s), sine, np.ones(len(up))], axis=1)
    rows = np.concatenate([*found, last])
    rows = rows[rows[:, 3] > rows[:, 1]]  # who only touches the window's edge, or the mask, has no pass
    rows = rows[np.lexsort((rows[:, 0], rows[:, 1]))]
    index, rise_s, culmination_s, set_s, sine, cut = np.ascontiguousarray(rows.T)
    highest_deg = np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0)))
    return Passes(satellites, index.astype(np.int32), rise_s, culmination_s, set_s, highest_deg, cut > 0.0)


@njit(cache=True, nogil=True, error_model="numpy")
def may_rise(coefficients_m, first, last, site_m, zenith, sine_mask, near):
    """Kernel: in which segments satellites first to last may come up to the mask: near (n_satellites, n_segments).

    coefficients_m  (n_segments, 3, n_coefficients, n_satellites)
    site_m, zenith  (3,)  ECEF

    Above the mask is up - sine(mask) * range >= 0. Over a segment `up` is at most its polynomial at the middle plus the
    sizes of the other coefficients, less those of even ones below zero; and the range differs from that at the
    middle by no more than those sizes added up.
    """
    n_coefficients = coefficients_m.shape[2]
    x, y, z = site_m
    up_x, up_y, up_z = zenith
    most, range_m = np.empty(WIDE), np.empty(WIDE)
    move_x, move_y, move_z = np.empty(WIDE), np.empty(WIDE), np.empty(WIDE)
    for k in range(len(coefficients_m)):
        for low in range(first, last, WIDE):
            size = min(WIDE, last - low)
            one_x, one_y, one_z = (
                coefficients_m[k, 0, 0, low:last], coefficients_m[k, 1, 0, low:last], coefficients_m[k, 2, 0, low:last]
            )  # fmt: skip
            for i in range(size):
                dx, dy, dz = one_x[i] - x, one_y[i] - y, one_z[i] - z
                most[i] = up_x * dx + up_y * dy + up_z * dz
                range_m[i] = np.sqrt(dx * dx + dy * dy + dz * dz)
                move_x[i] = move_y[i] = move_z[i] = 0.0
            for power in range(1, n_coefficients):
                least = 0.0 if power % 2 == 0 else -np.inf
                one_x, one_y, one_z = (
                    coefficients_m[k, 0, power, low:last],
                    coefficients_m[k, 1, power, low:last],
                    coefficients_m[k, 2, power, low:last],
                )
                for i in range(size):
                    up = up_x * one_x[i] + up_y * one_y[i] + up_z * one_z[i]
                    most[i] += abs(max(up, least))
                    move_x[i] += abs(one_x[i])
                    move_y[i] += abs(one_y[i])
                    move_z[i] += abs(one_z[i])
            for i in range(size):
                move_m = np.sqrt(move_x[i] * move_x[i] + move_y[i] * move_y[i] + move_z[i] * move_z[i])
                far_m = max(range_m[i] - move_m, 0.0) if sine_mask >= 0.0 else range_m[i] + move_m
                near[low + i, k] = most[i] + 1.0 >= sine_mask * far_m  # a metre for rounding; NaN: no


@njit(cache=True, nogil=True)
def gather(coefficients_m, satellite, segment, first, last, out):
    """Kernel: the polynomials of some satellites and segments, (n, 3, n_coefficients), its rows first to last."""
    for row in range(first, last):
        for axis in range(3):
            for power in range(coefficients_m.shape[2]):
                out[row, axis, power] = coefficients_m[segment[row], axis, power, satellite[row]]


@njit(cache=True, nogil=True, error_model="numpy")
def states_may_rise(position_m, velocity_m_s, error, site_m, zenith, rate_rad_s, half_s, sine_mask, near):
    """Kernel: within half_s of which times one satellite may reach the mask, to near (n_times,), 1 or 0.

    position_m, velocity_m_s  (3, n_times)  TEME
    error                     (n_times,)    of SGP4; where there is any the satellite does not fly
    site_m, zenith            (n_times, 3)  TEME
    rate_rad_s                ()            of the Earth's turning

    As `may_rise`, with the speed and the greatest acceleration over the turning Earth in the coefficients' place:
    gravity where the satellite comes nearest to the Earth, and what comes of the turning. Where the velocities do not
    lead from one position to the next, as with elements that SGP4 has long lost its hold of, they bound nothing: yes.
    """
    for k in range(len(error)):
        if error[k] != 0:
            near[:] = 0
            return
        x, y, z = position_m[0, k], position_m[1, k], position_m[2, k]
        vx, vy, vz = velocity_m_s[0, k] + rate_rad_s * y, velocity_m_s[1, k] - rate_rad_s * x, velocity_m_s[2, k]
        radius_m, speed_m_s = np.sqrt(x * x + y * y + z * z), np.sqrt(vx * vx + vy * vy + vz * vz)
        dx, dy, dz = x - site_m[k, 0], y - site_m[k, 1], z - site_m[k, 2]
        up_m = zenith[k, 0] * dx + zenith[k, 1] * dy + zenith[k, 2] * dz
        up_m_s = zenith[k, 0] * vx + zenith[k, 1] * vy + zenith[k, 2] * vz
        range_m = np.sqrt(dx * dx + dy * dy + dz * dz)
        lowest_m = max(radius_m - 1.1 * speed_m_s * half_s, WGS84_RADIUS_M)  # below it SGP4 says decayed
        pull_m_s2 = EARTH_MU_M3_S2 / (lowest_m * lowest_m) + rate_rad_s * (2.0 * speed_m_s + rate_rad_s * radius_m)
        bend_m = 0.5 * HEAVY * pull_m_s2 * half_s * half_s + SLACK_M
        move_m = speed_m_s * half_s + bend_m
        far_m = max(range_m - move_m, 0.0) if sine_mask >= 0.0 else range_m + move_m
        near[k] = up_m + abs(up_m_s) * half_s + bend_m >= sine_mask * far_m
        if k > 0:
            square = 0.0
            for axis in range(3):
                step_m = (velocity_m_s[axis, k] + velocity_m_s[axis, k - 1]) * half_s
                square += (position_m[axis, k] - position_m[axis, k - 1] - step_m) ** 2
            if square > 0.25 * bend_m * bend_m:
                near[k - 1 : k + 1] = 1


@njit(cache=True, nogil=True, error_model="numpy")
def near_earth_may_rise(which, constants, epochs, jd, fr, site_m, zenith, rate_rad_s, half_s, sine_mask, near):
    """Kernel: `states_may_rise` of near-earth satellites, which (n,), at all times jd (), fr (n_times,)."""
    position_m, velocity_m_s = np.empty((3, fr.size)), np.empty((3, fr.size))
    minutes, error = np.empty(fr.size), np.empty(fr.size, dtype=np.uint8)
    for i in which:
        for k in range(fr.size):
            minutes[k] = minutes_since(jd, fr[k], epochs[i])
        near_earth(constants[i], minutes, position_m, velocity_m_s, error)
        states_may_rise(position_m, velocity_m_s, error, site_m, zenith, rate_rad_s, half_s, sine_mask, near[i])


@njit(cache=True, nogil=True, error_model="numpy")
def fit_rows(which, constants, epochs, jd, fr, turn, to_powers, start, segment, out):
    """Kernel: polynomials of near-earth satellites, which (n,), over some of the segments, to out (n_rows, 3, n).

    jd, fr      (), (n_times,)    days: the nodes of segment after segment
    turn        (n_times, 3, 3)   from TEME to ECEF
    to_powers   (n, n)            from values at the nodes to coefficients
    start       (n_satellites + 1,)  the rows of satellite i are start[i] to start[i + 1]
    segment     (n_rows,)
    """
    n = len(to_powers)
    fixed_m = np.empty((3, n))
    none = np.empty((3, 0))
    for i in which:
        size = (start[i + 1] - start[i]) * n
        position_m, minutes, error = np.empty((3, size)), np.empty(size), np.empty(size, dtype=np.uint8)
        for j in range(size):
            at = segment[start[i] + j // n] * n + j % n
            minutes[j] = minutes_since(jd, fr[at], epochs[i])
        near_earth(constants[i], minutes, position_m, none, error)
        for row in range(start[i], start[i + 1]):
            for j in range(n):
                here, at = (row - start[i]) * n + j, segment[row] * n + j
                x, y, z = position_m[0, here], position_m[1, here], position_m[2, here]
                for axis in range(3):
                    fixed_m[axis, j] = turn[at, axis, 0] * x + turn[at, axis, 1] * y + turn[at, axis, 2] * z
                if error[here] != 0:
                    fixed_m[:, j] = np.nan
            for axis in range(3):
                for power in range(n):
                    total = 0.0
                    for j in range(n):
                        total += to_powers[power, j] * fixed_m[axis, j]
                    out[row, axis, power] = total


@njit(cache=True, nogil=True, error_model="numpy")
def passes_of_some(
    first, last, start, segment, coefficients_m, first_s, segment_s, end_s, window_s, site_m, zenith, sine_mask,
    going, state,
):  # fmt: skip
    """Kernel: the passes of satellites first to last that end in some segments.

    start           (n_satellites + 1,)  the rows of satellite i are start[i] to start[i + 1]
    segment         (n_rows,)            rising; in segments that are not named the satellite stays below the mask
    coefficients_m  (n_rows, 3, n_coefficients)
    first_s, end_s  ()  s                from where to where segments are named
    window_s        ()  s                beginning of the whole window: who is up there has a cut pass
    site_m, zenith  (3,)                 ECEF
    going           (n_satellites,)      whether a pass goes on from before first_s, then: beyond end_s
    state           (n_satellites, 4)    of that pass: rise, culmination so far (s), sine of the elevation there, cut

    Returns (n_passes, 6): satellite, rise, culmination, set (s), sine of the highest elevation, cut.

    Each segment is divided at its steps and at every extreme of the elevation, found as a zero of its rate. From one
    division to the next the elevation only rises or only falls, so no crossing of the mask is missed, however short the
    pass.
    """
    sine_mask = sine_mask if sine_mask > -1.0 else -2.0  # nothing is below -90 deg, rounding or not
    n_steps = int(np.ceil(segment_s / SCAN_S))
    sine, rate = np.empty(n_steps + 1), np.empty(n_steps + 1)
    found = np.empty((2 * (last - first) + 16, 6))
    n = 0
    for i in range(first, last):
        above, known_s = going[i] > 0, first_s
        rise_s, culmination_s, highest, cut = state[i, 0], state[i, 1], state[i, 2], state[i, 3]
        for row in range(start[i], start[i + 1] + 1):
            begin_s = first_s + segment[row] * segment_s if row < start[i + 1] else end_s
            if (above and begin_s > known_s + 0.5 * segment_s) or row == start[i + 1]:
                if above and known_s < begin_s:  # nothing is known of it any more: lost
                    n, found = put_pass(found, n, i, rise_s, culmination_s, known_s, highest, 1.0)
                    above = False
                if row == start[i + 1]:
                    break
            one = coefficients_m[row]
            known_s = min(begin_s + segment_s, end_s)
            step_u = 2.0 * (known_s - begin_s) / segment_s / n_steps
            for j in range(n_steps + 1):
                sine[j], rate[j] = sine_elevation(one, -1.0 + j * step_u, site_m, zenith)
            # Where two segments meet, who has just set may be up again by less than they differ, or the other way round
            again = begin_s > window_s and (rate[0] < 0.0) != above and abs(sine[0] - sine_mask) < JOINT
            if (sine[0] >= sine_mask) != above and not again:
                if above:
                    n, found = put_pass(found, n, i, rise_s, culmination_s, begin_s, highest, cut)
                else:
                    rise_s, culmination_s, highest = begin_s, begin_s, sine[0]
                    cut = 1.0 if begin_s <= window_s else 0.0
                above = not above
            for j in range(n_steps):
                low_u, low, high_u, high = -1.0 + j * step_u, sine[j], -1.0 + (j + 1) * step_u, sine[j + 1]
                extreme_u, extreme = high_u, high
                top = rate[j] >= 0.0 > rate[j + 1]
                bottom = rate[j] < 0.0 <= rate[j + 1] and low >= sine_mask and high >= sine_mask
                if top or bottom:
                    extreme_u = extreme_between(one, low_u, high_u, rate[j], rate[j + 1], segment_s, site_m, zenith)
                    extreme = sine_elevation(one, extreme_u, site_m, zenith)[0]
                for to_u, to in ((extreme_u, extreme), (high_u, high)):
                    if (to >= sine_mask) != above:
                        edge_u = crossing(one, low_u, to_u, low, to, sine_mask, segment_s, site_m, zenith)
                        edge_s = min(begin_s + 0.5 * (1.0 + edge_u) * segment_s, known_s)
                        if above:
                            n, found = put_pass(found, n, i, rise_s, culmination_s, edge_s, highest, cut)
                        else:
                            rise_s, highest, cut = edge_s, -2.0, 0.0
                        above = not above
                    if above and to > highest:
                        culmination_s, highest = min(begin_s + 0.5 * (1.0 + to_u) * segment_s, known_s), to
                    low_u, low = to_u, to
        going[i] = above
        state[i, 0], state[i, 1], state[i, 2], state[i, 3] = rise_s, culmination_s, highest, cut
    return found[:n]


@njit(cache=True, nogil=True)
def put_pass(found, n, i, rise_s, culmination_s, set_s, sine, cut):
    """Kernel: one row more; how many there are then, and where."""
    if n == len(found):
        longer = np.empty((2 * n, 6))
        for row in range(n):  # element by element: numba takes a second to compile the assignment of a slice
            for column in range(6):
                longer[row, column] = found[row, column]
        found = longer
    found[n, 0], found[n, 1], found[n, 2], found[n, 3], found[n, 4], found[n, 5] = (
        i, rise_s, culmination_s, set_s, sine, cut
    )  # fmt: skip
    return n + 1, found


@njit(cache=True, nogil=True, error_model="numpy")
def crossing(coefficients_m, low_u, high_u, low, high, level, segment_s, site_m, zenith):
    """Kernel: where from low_u to high_u the sine of the elevation, low and high there, crosses `level`.

    Newton's steps from the secant's zero; one that leaves the bracket is replaced by halving it.
    """
    rises = high > low
    u = low_u + (level - low) / (high - low) * (high_u - low_u)
    tolerance = EVENT_S / segment_s  # half of EVENT_S, in u
    while high_u - low_u > tolerance:
        if not low_u < u < high_u:
            u = 0.5 * (low_u + high_u)
            if not low_u < u < high_u:
                break
        value, slope = sine_elevation(coefficients_m, u, site_m, zenith)
        step = (level - value) / slope
        if abs(step) < tolerance and low_u <= u + step <= high_u:
            return u + step
        if (value >= level) == rises:
            high_u = u
        else:
            low_u = u
        u += step
    return 0.5 * (low_u + high_u)


@njit(cache=True, nogil=True, error_model="numpy")
def extreme_between(coefficients_m, low_u, high_u, low, high, segment_s, site_m, zenith):
    """Kernel: where from low_u to high_u the rate of the sine of the elevation, low and high there, crosses zero.

    False position: the secant's zero replaces the end on its side, and an end that stays twice counts half (the
    Illinois method); every fourth step halves the bracket, so that it ends in any case.
    """
    stayed, n = 0, 0
    before = low >= 0.0
    while (high_u - low_u) * segment_s > 2.0 * EVENT_S:
        n += 1
        u = (low_u * high - high_u * low) / (high - low)
        if n % 4 == 0 or not low_u < u < high_u:
            u = 0.5 * (low_u + high_u)
            if not low_u < u < high_u:
                break
        value = sine_elevation(coefficients_m, u, site_m, zenith)[1]
        if (value >= 0.0) == before:
            low_u, low = u, value
            high *= 0.5 if stayed == 1 else 1.0
            stayed = 1
        else:
            high_u, high = u, value
            low *= 0.5 if stayed == -1 else 1.0
            stayed = -1
    return 0.5 * (low_u + high_u)


@njit(cache=True, nogil=True, error_model="numpy")
def sine_elevation(coefficients_m, u, site_m, zenith):
    """Kernel: sine of the elevation of one satellite at u of one segment, and its derivative by u.

    coefficients_m  (3, n_coefficients)
    """
    upward, upward_rate, square, along = 0.0, 0.0, 0.0, 0.0
    for axis in range(3):
        value, slope = 0.0, 0.0
        for power in range(coefficients_m.shape[1] - 1, -1, -1):
            slope = slope * u + value
            value = value * u + coefficients_m[axis, power]
        value -= site_m[axis]
        upward += zenith[axis] * value
        upward_rate += zenith[axis] * slope
        square += value * value
        along += value * slope
    range_m = np.sqrt(square)
    return upward / range_m, (upward_rate - upward * along / square) / range_m
