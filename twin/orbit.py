"""Where the satellites are: a polynomial cache over SGP4, so that nothing asks SGP4 once a run has begun.

SGP4 (sgp4 package, gravity model WGS72 as the elements were fitted with) gives TEME positions in kilometres. They are
turned into Earth-fixed metres here and nowhere else, sampled at eight Chebyshev nodes per segment, and kept as one
polynomial per segment and axis. Velocity is the derivative of that polynomial, which is what a receiver would see:
SGP4's own velocity is not the derivative of its position (over the snapshot 0.02 m/s apart at the median, up to 0.2 m/s
where the eccentricity is below 0.02 and 1.4 m/s where it is not), so it is not used, and neither is Hermite
interpolation, which would mix both and be wrong by a metre.

Against SGP4 the polynomials are off by 0.01 mm on round orbits and 0.1 mm on the snapshot's worst. The exception is a
corner of SGP4's own: it keeps the eccentricity from falling below 1e-6, and where drag brings it there the path has a
kink, up to 0.2 m wide for one decaying satellite of 7,996.

The turn from TEME is the sidereal angle GMST82 of UT1. UT1-UTC comes from skyfield's built-in table (offline; 29 m at
the equator if ignored). Polar motion is not in that table and is left out: about 10 m, the same for every satellite.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from statistics import median

import numpy as np
from numba import njit
from sgp4.api import SatrecArray, jday
from skyfield.api import load
from skyfield.sgp4lib import theta_GMST1982

from twin.tle import Satellite, TleWarning
from twin.units import KILO, SECONDS_PER_DAY

N_COEFFICIENTS = 8
# Chebyshev nodes on (-1, 1), rising, and the matrix from values there to ascending powers of u.
NODES = -np.cos(np.pi * (np.arange(N_COEFFICIENTS) + 0.5) / N_COEFFICIENTS)
TO_POWERS = np.linalg.inv(np.vander(NODES, increasing=True))
MARGIN = 0.1  # of a segment: this far beyond either end the polynomial still holds to 1 cm
MAX_AGE_DAYS = 3.0  # median error of elements that old: 14 km


@dataclass(frozen=True, eq=False)
class Ephemeris:
    """Satellite positions over a window of time, Earth-fixed (ECEF), as polynomials.

    satellites      n_satellites   in the order of every array's first axis
    start_utc                      t_s = 0 of every method (aware, UTC)
    seconds         s              length of the window asked for
    segment_s       s              length of one polynomial; segment k begins at k * segment_s
    coefficients_m  (n_satellites, n_segments, 3, 8) m  ascending powers of u, which runs from -1 to 1 over the segment
    error_code      (n_satellites,)  first SGP4 error met in the window, 0 for none; rows with one are NaN
    """

    satellites: tuple[Satellite, ...]
    start_utc: datetime
    seconds: float
    segment_s: float
    coefficients_m: np.ndarray
    error_code: np.ndarray

    def state(self, t_s: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions and their derivatives, ECEF.

        t_s  () or (n_times,)  s  after start_utc

        Returns m and m/s, both (n_satellites, 3) for one time and (n_satellites, n_times, 3) for an array of them.
        Raises ValueError for times more than a tenth of a segment outside the window.
        Checked by tests/test_orbit.py against sgp4 (1 mm) and skyfield (1 m).
        """
        times_s = np.array(t_s, dtype=float)
        self._check(times_s)
        position_m, velocity_m_s = evaluate(
            self.coefficients_m, self.segment_s / 2.0, self.segment_s / 2.0, np.atleast_1d(times_s)
        )
        if times_s.ndim == 0:
            return position_m[:, 0], velocity_m_s[:, 0]
        return position_m, velocity_m_s

    def position_m(self, t_s: float | np.ndarray) -> np.ndarray:
        """Positions alone; see `state`."""
        return self.state(t_s)[0]

    def velocity_m_s(self, t_s: float | np.ndarray) -> np.ndarray:
        """Velocities alone; see `state`."""
        return self.state(t_s)[1]

    def segment(self, satellite_index: int, t_s: float) -> tuple[np.ndarray, np.ndarray]:
        """What `track` needs to know one satellite around t_s.

        Returns coefficients_m (3, 8) m and span_s (2,): middle and half length of the segment, seconds after start_utc.
        """
        self._check(np.array(t_s, dtype=float))
        k = min(max(int(t_s // self.segment_s), 0), self.coefficients_m.shape[1] - 1)
        span_s = np.array([(k + 0.5) * self.segment_s, 0.5 * self.segment_s])
        return self.coefficients_m[satellite_index, k].copy(), span_s

    def utc(self, t_s: float) -> datetime:
        """The instant t_s seconds after the start (aware, UTC)."""
        return self.start_utc + timedelta(seconds=float(t_s))

    def _check(self, times_s: np.ndarray) -> None:
        margin_s = MARGIN * self.segment_s
        last_s = self.coefficients_m.shape[1] * self.segment_s
        if times_s.ndim > 1:
            raise ValueError(f"t_s must be one time or a one-dimensional array of them, got shape {times_s.shape}")
        if times_s.size and not (times_s.min() >= -margin_s and times_s.max() <= last_s + margin_s):
            raise ValueError(
                f"the ephemeris holds for t_s from 0 to {self.seconds:g} s after {self.start_utc.isoformat()}, "
                f"got {times_s.min():g} to {times_s.max():g}; build it with more seconds"
            )


def ephemeris(
    satellites: Sequence[Satellite], start: str | datetime, seconds: float, segment_s: float = 300.0
) -> Ephemeris:
    """Ephemeris of the satellites from `start` on.

    satellites  n_satellites  from twin.tle
    start                     ISO 8601 text or datetime, with its offset from UTC ("2022-02-22T13:00:00Z")
    seconds     ()  s         length of the window, greater than 0
    segment_s   ()  s         length of one polynomial: at 300 s a low orbit is met within 0.01 mm, at 600 s within 1 cm

    Returns an Ephemeris; a satellite that SGP4 cannot propagate through the whole window is a row of NaN with its code.
    Raises ValueError when nothing is asked for or `start` has no offset. Warns (TleWarning) when the window is more
    than 3 days from the median epoch. Checked by tests/test_orbit.py.
    """
    if not satellites:
        raise ValueError("an ephemeris needs at least one satellite, got none")
    if not seconds > 0.0 or not segment_s > 0.0:
        raise ValueError(f"seconds and segment_s must be greater than 0, got {seconds:g} and {segment_s:g}")
    start_utc = _utc(start)
    _warn_of_age(satellites, start_utc + timedelta(seconds=seconds / 2.0))

    n_segments = int(np.ceil(seconds / segment_s))
    node_s = (np.arange(n_segments)[:, None] + 0.5 * (1.0 + NODES)) * segment_s
    jd, fr, sidereal_rad = _clocks(start_utc, node_s)
    cosine, sine = np.cos(sidereal_rad), np.sin(sidereal_rad)
    propagator = SatrecArray([satellite.satrec() for satellite in satellites])
    coefficients_m = np.empty((len(satellites), n_segments, 3, N_COEFFICIENTS))
    error_code = np.zeros(len(satellites), dtype=np.uint8)
    for k in range(n_segments):  # one at a time: a day of a large constellation would not fit in memory as states
        error, teme_km, _ = propagator.sgp4(np.full(N_COEFFICIENTS, jd), fr[k])
        x_m, y_m, z_m = np.moveaxis(teme_km * KILO, -1, 0)
        ecef_m = np.stack([cosine[k] * x_m + sine[k] * y_m, cosine[k] * y_m - sine[k] * x_m, z_m], axis=1)
        coefficients_m[:, k] = ecef_m @ TO_POWERS.T
        first = np.take_along_axis(error, (error != 0).argmax(axis=1)[:, None], axis=1)[:, 0]
        error_code = np.where(error_code == 0, first, error_code)
    coefficients_m[error_code != 0] = np.nan  # error 6, decayed, still comes with finite positions
    return Ephemeris(tuple(satellites), start_utc, float(seconds), float(segment_s), coefficients_m, error_code)


def track(coefficients_m: np.ndarray, span_s: np.ndarray, t_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position and velocity of one satellite from one segment of its ephemeris, as an observation carries it.

    coefficients_m  (3, 8)  m  ascending powers of u = (t_s - middle) / half
    span_s          (2,)    s  middle and half length of the segment
    t_s             (n,)    s  on the same scale as span_s; a tenth of the segment beyond its ends still holds to 1 cm

    Returns position_m (n, 3) and velocity_m_s (n, 3), ECEF. Checked by tests/test_orbit.py.
    """
    # Copies, because arrays off the wire are read-only, a type of their own for which numba would compile again.
    rows = np.array(coefficients_m, dtype=float).reshape(1, 1, 3, -1)
    position_m, velocity_m_s = evaluate(rows, float(span_s[0]), float(span_s[1]), np.array(t_s, dtype=float))
    return position_m[0], velocity_m_s[0]


@njit(cache=True)
def evaluate(coefficients_m, first_middle_s, half_s, t_s):
    """Kernel: polynomials and their derivatives at many times.

    coefficients_m  (n_satellites, n_segments, 3, n_coefficients)  m
    first_middle_s  ()         s  middle of the first segment
    half_s          ()         s  half the length of a segment
    t_s             (n_times,) s

    Returns position_m and velocity_m_s, both (n_satellites, n_times, 3). Outside all segments the nearest one is used.
    """
    n_satellites, n_segments, _, n_coefficients = coefficients_m.shape
    position_m = np.empty((n_satellites, t_s.size, 3))
    velocity_m_s = np.empty((n_satellites, t_s.size, 3))
    for i in range(n_satellites):
        for j in range(t_s.size):
            since_middle = (t_s[j] - first_middle_s) / (2.0 * half_s)
            k = min(max(int(np.floor(since_middle + 0.5)), 0), n_segments - 1)
            u = 2.0 * (since_middle - k)
            for axis in range(3):
                value, slope = 0.0, 0.0
                for power in range(n_coefficients - 1, -1, -1):
                    slope = slope * u + value
                    value = value * u + coefficients_m[i, k, axis, power]
                position_m[i, j, axis] = value
                velocity_m_s[i, j, axis] = slope / half_s
    return position_m, velocity_m_s


def _utc(start: str | datetime) -> datetime:
    moment = datetime.fromisoformat(start) if isinstance(start, str) else start
    if moment.tzinfo is None:
        raise ValueError(f"start must say its offset from UTC, as in 2022-02-22T13:00:00Z, got {start}")
    return moment.astimezone(UTC)


def _warn_of_age(satellites: Sequence[Satellite], middle_utc: datetime) -> None:
    epoch_s = median(satellite.epoch_utc.timestamp() for satellite in satellites)
    age_days = (middle_utc.timestamp() - epoch_s) / SECONDS_PER_DAY
    if abs(age_days) > MAX_AGE_DAYS:
        warnings.warn(
            f"the window is {abs(age_days):.1f} days {'after' if age_days > 0 else 'before'} the median epoch of its "
            f"elements ({datetime.fromtimestamp(epoch_s, UTC):%Y-%m-%dT%H:%MZ}); expect errors of tens of kilometres",
            TleWarning,
            stacklevel=3,
        )


@cache
def _timescale():
    return load.timescale(builtin=True)


def _clocks(start_utc: datetime, t_s: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Julian date of the first midnight, days since then (UTC), and the sidereal angle in radians, shaped like t_s."""
    day = (start_utc.year, start_utc.month, start_utc.day, start_utc.hour, start_utc.minute)
    second = start_utc.second + start_utc.microsecond * 1e-6
    jd, fr = jday(*day, second)
    ut1_minus_utc_s = _timescale().utc(*day, second + t_s.ravel()).dut1.reshape(t_s.shape)
    fr = fr + t_s / SECONDS_PER_DAY
    sidereal_rad, _ = theta_GMST1982(jd, fr + ut1_minus_utc_s / SECONDS_PER_DAY)
    return jd, fr, sidereal_rad
