"""Polynomials through SGP4's positions: how long, of which degree, and how near they come.

Interpolation at Chebyshev nodes is within a small factor of the best polynomial there is, and its error shows at known
places: each segment is held against SGP4 at its beginning and its middle, between the nodes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numba import njit

from twin.frames import EarthOrientation, turns
from twin.parallel import spread
from twin.sgp4_kernel import Propagator, minutes_since, near_earth
from twin.tle import Satellite
from twin.units import SECONDS_PER_DAY, WGS84_RADIUS_M

DEGREES = (3, 7, 11)  # with a multiple of four coefficients, as twin.orbit.combine takes them
SEGMENTS_S = (1200.0, 900.0, 720.0, 600.0, 450.0, 360.0, 300.0, 240.0, 180.0, 120.0, 60.0)
SHORTEST_USUAL_S = 360.0  # a bound that asks for shorter segments takes the next degree
CHECKED_AT = (-1.0, 0.0)  # of a segment from -1 to 1: where the error of an even number of nodes peaks
MOST_APART = 0.01  # of the satellites may have segments of their own before all segments are made shorter
PIECE_SEGMENTS = 16  # SGP4 is asked for so many segments at a time, which stay in the processor's cache
MARGIN = 0.1  # of a segment: so far beyond either end of the window the polynomials are used
LANES = 8  # satellites whose coefficients share a cache line
SHORT_PERIOD = 1e-3  # the oblate Earth's short-period terms, of the radius, at up to three times the orbit's rate


@dataclass(frozen=True, eq=False)
class Polynomials:
    """What `fit` found.

    store        (1 or 2, n_segments, 3, n_coefficients, n_satellites)  m, and m/s of SGP4's own velocity if asked for
    error_code   (n_satellites,)     first SGP4 error met, 0 for none; those are NaN
    fit_error_m  (n_satellites,)  m  how far the polynomials are from SGP4 between their nodes, at most
    """

    store: np.ndarray
    error_code: np.ndarray
    fit_error_m: np.ndarray


@dataclass(frozen=True, eq=False)
class Window:
    """From when to when, s after start_utc, and how the Earth is turned meanwhile."""

    start_utc: datetime
    first_s: float
    seconds: float
    orientation: EarthOrientation | None = None


def likely(satellites: Sequence[Satellite], error_m: float) -> tuple[int, float]:
    """The lowest degree with segments of a usual length, and the longest of them (s), that should keep error_m.

    The remainder of interpolating a motion of radius r and angular rate w at n Chebyshev nodes over a time h is at most
    2 r (w h / 4)^n / n!. Rates are those at perigee; short-period terms go round up to three times as fast. The fastest
    satellites, one in a hundred, do not count: they are set apart (twin.apart).
    """
    rate_rad_s = np.array([s.mean_motion_rev_day for s in satellites]) * 2.0 * math.pi / SECONDS_PER_DAY
    eccentricity = np.clip([s.eccentricity for s in satellites], 0.0, 0.99)
    perigee_rad_s = np.sort(rate_rad_s * (1.0 + eccentricity) ** 2 / (1.0 - eccentricity**2) ** 1.5)
    fastest_rad_s = perigee_rad_s[-1 - int(MOST_APART * len(satellites))]
    for degree in DEGREES:
        n = degree + 1
        for length_s in SEGMENTS_S:
            remainder_m = 2.0 * WGS84_RADIUS_M * (fastest_rad_s * length_s / 4.0) ** n / math.factorial(n)
            usual = length_s >= SHORTEST_USUAL_S or degree == DEGREES[-1]
            if usual and remainder_m * (1.0 + SHORT_PERIOD * 3.0**n) <= error_m:
                return degree, length_s
    return DEGREES[-1], SEGMENTS_S[-1]


def fit(
    satellites: Sequence[Satellite],
    propagator: Propagator,
    window: Window,
    degree: int,
    segment_s: float,
    own_velocity: bool = False,
) -> Polynomials:
    """Polynomials of a degree over segments of a length, for all satellites, whose propagator is given."""
    n, n_satellites = degree + 1, len(satellites)
    n_segments = math.ceil((window.seconds - window.first_s) / segment_s)
    u = np.concatenate([nodes(n), CHECKED_AT])
    at_s = window.first_s + (np.arange(n_segments)[:, None] + 0.5 * (1.0 + u)) * segment_s
    jd, fr, turn, rate_rad_s = turns(window.start_utc, at_s.ravel(), window.orientation)
    found = Polynomials(
        np.empty((1 + own_velocity, n_segments, 3, n, n_satellites)),
        np.zeros(n_satellites, dtype=np.uint8),
        np.zeros(n_satellites),
    )
    to_powers = np.linalg.inv(np.vander(u[:n], increasing=True))
    by = turn, rate_rad_s, to_powers, np.vander(u[n:], n, increasing=True)
    kept = found.store, found.error_code, found.fit_error_m
    near, deep = np.flatnonzero(~propagator.deep), np.flatnonzero(propagator.deep)

    def fit_near(first: int, last: int) -> None:
        fit_near_earth(near[first:last], propagator.constants, propagator.epoch, jd, fr, *by, *kept)

    spread(fit_near, len(near), align=LANES)
    for first in range(0, len(deep), LANES):
        some = deep[first : first + LANES]
        error, *states = Propagator([satellites[i] for i in some]).propagate(np.full(len(fr), jd), fr)
        for k, i in enumerate(some):
            position_m, velocity_m_s = (np.ascontiguousarray(state[k].T) for state in states)
            fit_states(i, 0, position_m, velocity_m_s, error[k], *by, *kept)
    found.store[..., found.error_code != 0] = np.nan  # error 6, decayed, still comes with finite positions
    found.fit_error_m[found.error_code != 0] = np.nan
    return found


def nodes(n: int) -> np.ndarray:
    """The n Chebyshev nodes on (-1, 1), rising."""
    return -np.cos(np.pi * (np.arange(n) + 0.5) / n)


@njit(cache=True, nogil=True)
def fit_near_earth(
    which, constants, epochs, jd, fr, turn, rate_rad_s, to_powers, check, store, error_code, fit_error_m
):
    """Kernel: polynomials of near-earth satellites.

    which        (n,)                   their places
    constants    (n_satellites, ...)    of twin.sgp4_kernel
    epochs       (n_satellites, 2)      days  of their elements, split Julian dates
    jd, fr       (), (n_times,)  days   when: the nodes of a segment, then where it is checked, segment after segment
    turn         (n_times, 3, 3)        from TEME to ECEF
    rate_rad_s   ()                     of the Earth's turning
    to_powers    (n, n)                 from values at the nodes to coefficients
    check        (n_checks, n)          from coefficients to values where they are checked
    store, error_code, fit_error_m      as in Ephemeris, the first with an axis more: position, and SGP4's velocity
    """
    step = PIECE_SEGMENTS * (len(to_powers) + len(check))
    position_m, velocity_m_s = np.empty((3, step)), np.empty((3, step))
    minutes, error = np.empty(step), np.empty(step, dtype=np.uint8)
    for i in which:
        for first in range(0, fr.size, step):
            for j in range(step):  # the last ones over again where the piece is not full
                at = min(first + j, fr.size - 1)
                minutes[j] = minutes_since(jd, fr[at], epochs[i])
            near_earth(constants[i], minutes, position_m, velocity_m_s, error)
            fit_states(
                i, first, position_m, velocity_m_s, error, turn, rate_rad_s, to_powers, check, store, error_code,
                fit_error_m,
            )  # fmt: skip


@njit(cache=True, nogil=True)
def fit_states(
    i, first, position_m, velocity_m_s, error, turn, rate_rad_s, to_powers, check, store, error_code, fit_error_m
):
    """Kernel: polynomials of satellite i from its states in TEME, (3, n) from time `first` on; else as above."""
    n, n_checks = len(to_powers), len(check)
    values = np.empty((2, n + n_checks))
    powers = np.empty(n)
    each = n + n_checks
    for start in range(0, min(error.size, len(turn) - first), each):
        segment = (first + start) // each
        for j in range(start, start + each):
            if error_code[i] == 0:
                error_code[i] = error[j]
        miss = np.zeros(n_checks)
        for axis in range(3):
            for which in range(len(store)):
                for j in range(each):
                    values[which, j] = turned(which, axis, start + j, first, position_m, velocity_m_s, turn, rate_rad_s)
                for power in range(n):
                    total = 0.0
                    for j in range(n):
                        total += to_powers[power, j] * values[which, j]
                    powers[power] = store[which, segment, axis, power, i] = total
                for j in range(n_checks):
                    if which == 0:
                        total = -values[which, n + j]
                        for power in range(n):
                            total += check[j, power] * powers[power]
                        miss[j] += total * total
        fit_error_m[i] = max(fit_error_m[i], math.sqrt(miss.max()))


@njit(cache=True, nogil=True)
def turned(which, axis, j, first, position_m, velocity_m_s, turn, rate_rad_s):
    """Kernel: one axis of the Earth-fixed position (which = 0), or of SGP4's velocity over the turning Earth (1)."""
    row = turn[first + j, axis]
    if which == 0:
        return row[0] * position_m[0, j] + row[1] * position_m[1, j] + row[2] * position_m[2, j]
    x = velocity_m_s[0, j] + rate_rad_s * position_m[1, j]  # the Earth turns about TEME's z
    y = velocity_m_s[1, j] - rate_rad_s * position_m[0, j]
    return row[0] * x + row[1] * y + row[2] * velocity_m_s[2, j]
