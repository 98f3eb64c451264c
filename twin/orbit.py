"""Where the satellites are: a polynomial cache over SGP4, so that nothing asks SGP4 once a run has begun.

SGP4's positions (twin.sgp4_kernel) are turned into Earth-fixed metres (twin.frames), sampled at Chebyshev nodes of
equal segments of time, and kept as one polynomial per satellite, segment and axis. Between the nodes the polynomial is
held against SGP4 again: `fit_error_m` says how far apart they are, and the segments are short enough for `error_m`.

Velocity is the derivative of that polynomial, which is what a receiver would see: SGP4's own velocity is not the
derivative of its position (over the snapshot 0.02 m/s apart at the median, up to 0.2 m/s where the eccentricity is
below 0.02 and 1.4 m/s where it is not), so it is not used, and neither is Hermite interpolation, which would mix both
and be wrong by a metre. Who needs SGP4's own velocity asks for a second set of polynomials, `own_velocity`.

The satellites are the last axis of the store: at one instant they all share the polynomials' argument, so the kernels
run along them, several at a time.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from numba import njit

from twin.apart import Apart, set_apart
from twin.catalogue import warn_of_age
from twin.fitting import MARGIN, MOST_APART, SEGMENTS_S, Window, fit, likely
from twin.frames import EarthOrientation
from twin.sgp4_kernel import Propagator
from twin.simd import wide_vectors
from twin.tle import Satellite, TleWarning
from twin.units import utc

PLAIN_DEGREE = 7  # where the length of the segments is given
COARSE_M, COARSE = 10.0, 10.0  # so far, or so many times error_m, the common segments may miss who is set apart
FINEST_M = 2e-5  # SGP4 itself solves Kepler's equation to 7e-6 m: nothing finer can be told from it
TILE = 1024  # satellites evaluated at a time, which stay in the processor's cache
NAMED = 5  # satellites in one warning

# a * b + c in one step where the machine has it: a quarter quicker. Nothing is reordered.
fused = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})


@dataclass(frozen=True, eq=False)
class Ephemeris:
    """Satellite positions over a window of time, Earth-fixed (ECEF), as polynomials.

    satellites      n_satellites   in the order of every array's last (here) or first axis (in what the methods return)
    start_utc                      t_s = 0 of every method (aware, UTC)
    seconds         s              end of the window
    segment_s       s              length of one polynomial; segment k begins at first_s + k * segment_s
    coefficients_m  (n_segments, 3, n_coefficients, n_satellites) m  ascending powers of u, which runs from -1 to 1
                                   over the segment
    error_code      (n_satellites,)  first SGP4 error met in the window, 0 for none; satellites with one are NaN
    fit_error_m     (n_satellites,)  m  how far the polynomials are from SGP4 between their nodes, at most
    first_s         s              beginning of the window: 0 but for a piece of a longer one
    own_velocity_m_s  as coefficients_m, m/s  SGP4's own velocity, Earth-fixed; None unless asked for
    apart             satellites with segments of their own, which all methods and `look` use; `coefficients_m` misses
                      these by more than error_m, though by less than 10 m or ten times error_m; None: no such satellite
    """

    satellites: tuple[Satellite, ...]
    start_utc: datetime
    seconds: float
    segment_s: float
    coefficients_m: np.ndarray
    error_code: np.ndarray
    fit_error_m: np.ndarray
    first_s: float = 0.0
    own_velocity_m_s: np.ndarray | None = None
    apart: Apart | None = None

    def state(self, t_s: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions and their derivatives, ECEF.

        t_s  () or (n_times,)  s  after start_utc

        Returns m and m/s, both (n_satellites, 3) for one time and (n_satellites, n_times, 3) for an array of them, as
        views of arrays in which the satellites are side by side. A tenth of a segment beyond the window's ends the
        default segments still hold to a centimetre. Raises ValueError for times further outside.
        Checked by tests/test_orbit.py against sgp4 and skyfield (1 mm each).
        """
        times_s = self.checked(t_s)
        states = np.empty((2, times_s.size, 3, len(self.satellites)))
        states_at(self.coefficients_m, self.first_s, self.segment_s, np.atleast_1d(times_s), states)
        if self.apart is not None:
            states[..., self.apart.index] = self.states_apart(np.atleast_1d(times_s))
        if times_s.ndim == 0:
            return states[0, 0].T, states[1, 0].T
        return states[0].transpose(2, 0, 1), states[1].transpose(2, 0, 1)

    def position_m(self, t_s: float | np.ndarray) -> np.ndarray:
        """Positions alone; see `state`."""
        return self.state(t_s)[0]

    def velocity_m_s(self, t_s: float | np.ndarray) -> np.ndarray:
        """Velocities alone, the derivatives of the positions; see `state`."""
        return self.state(t_s)[1]

    def sgp4_velocity_m_s(self, t_s: float | np.ndarray) -> np.ndarray:
        """The velocities SGP4 itself gives, over the turning Earth; shapes as `state`.

        Raises ValueError where the ephemeris was built without them.
        """
        if self.own_velocity_m_s is None:
            raise ValueError("this ephemeris has no velocities of SGP4's own; build it with own_velocity=True")
        apart = self.apart and replace(self.apart, store=self.apart.store[1:])
        return replace(self, coefficients_m=self.own_velocity_m_s, apart=apart).state(t_s)[0]

    def states_apart(self, times_s: np.ndarray) -> np.ndarray:
        """Positions and velocities of the satellites set apart, (2, n_times, 3, n_apart), m and m/s."""
        assert self.apart is not None
        states = np.empty((2, times_s.size, 3, len(self.apart.index)))
        evaluate_apart(self.apart.store[0], self.apart.offsets, self.apart.edges_s, times_s, states)
        return states

    def state_of(self, satellite_index: int, t_s: np.ndarray) -> np.ndarray:
        """Position and velocity of one satellite at many times, (2, n_times, 3), m and m/s; see `state`."""
        return evaluate(*self._segments(satellite_index), np.atleast_1d(self.checked(t_s)))

    def acceleration_of(self, satellite_index: int, t_s: np.ndarray) -> np.ndarray:
        """The second derivative of one satellite's positions at many times, (n_times, 3), m/s^2, ECEF.

        Checked by tests/channel/test_doppler.py against the slope of the velocity.
        """
        coefficients_m, edges_s = self._segments(satellite_index)
        power = np.arange(1.0, coefficients_m.shape[-1])
        slopes = coefficients_m[..., 1:] * power * (2.0 / np.diff(edges_s))[:, None, None]
        return evaluate(slopes, edges_s, np.atleast_1d(self.checked(t_s)))[1]

    def segment(self, satellite_index: int, t_s: float) -> tuple[np.ndarray, np.ndarray]:
        """What `track` needs to know one satellite around t_s.

        Returns coefficients_m (3, n_coefficients) m and span_s (2,): middle and half length of the segment, seconds
        after start_utc.
        """
        self.checked(t_s)
        coefficients_m, edges_s = self._segments(satellite_index)
        k = min(max(int(np.searchsorted(edges_s, t_s, side="right")) - 1, 0), len(coefficients_m) - 1)
        span_s = 0.5 * np.array([edges_s[k + 1] + edges_s[k], edges_s[k + 1] - edges_s[k]])
        return coefficients_m[k].copy(), span_s

    def _segments(self, satellite_index: int) -> tuple[np.ndarray, np.ndarray]:
        """One satellite's coefficients, (n_segments, 3, n_coefficients), and the edges of its segments, s."""
        own = self.apart and self.apart.of(satellite_index)
        if own:
            return own
        edges_s = self.first_s + np.arange(len(self.coefficients_m) + 1) * self.segment_s
        return np.ascontiguousarray(self.coefficients_m[..., satellite_index]), edges_s

    def utc(self, t_s: float) -> datetime:
        """The instant t_s seconds after the start (aware, UTC)."""
        return self.start_utc + timedelta(seconds=float(t_s))

    def checked(self, t_s: float | np.ndarray) -> np.ndarray:
        """Times as an array, () or (n_times,); ValueError for those it does not hold for."""
        times_s = np.array(t_s, dtype=float)
        margin_s = MARGIN * self.segment_s
        last_s = self.first_s + len(self.coefficients_m) * self.segment_s
        if times_s.ndim > 1:
            raise ValueError(f"t_s must be one time or a one-dimensional array of them, got shape {times_s.shape}")
        if times_s.size and not (times_s.min() >= self.first_s - margin_s and times_s.max() <= last_s + margin_s):
            raise ValueError(
                f"the ephemeris holds for t_s from {self.first_s:g} to {self.seconds:g} s after "
                f"{self.start_utc.isoformat()}, got {times_s.min():g} to {times_s.max():g}; build it with more seconds"
            )
        return times_s


@dataclass(frozen=True, eq=False)
class Orbit:
    """One satellite's way as somebody knows it: an ephemeris's, `ahead_s` later, turned eastward by `turn_rad`.

    sky, index  of the ephemeris, and its satellite
    """

    sky: Ephemeris
    index: int
    ahead_s: float = 0.0
    turn_rad: float = 0.0

    def state(self, t_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities, ECEF, both (n_times, 3), m and m/s."""
        position_m, velocity_m_s = self.sky.state_of(self.index, t_s + self.ahead_s)
        if self.turn_rad:
            position_m, velocity_m_s = position_m @ self._turn.T, velocity_m_s @ self._turn.T
        return position_m, velocity_m_s

    def segment(self, t_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Its polynomial around t_s as twin.orbit.track takes it: coefficients (3, 8), m, and span (2,), s."""
        coefficients_m, span_s = self.sky.segment(self.index, t_s + self.ahead_s)
        if self.turn_rad:
            coefficients_m = self._turn @ coefficients_m
        return coefficients_m, span_s - np.array([self.ahead_s, 0.0])

    def acceleration_m_s2(self, t_s: np.ndarray) -> np.ndarray:
        """The derivative of the velocities, ECEF, (n_times, 3), m/s^2."""
        found = self.sky.acceleration_of(self.index, t_s + self.ahead_s)
        return found @ self._turn.T if self.turn_rad else found

    @property
    def _turn(self) -> np.ndarray:
        cosine, sine = math.cos(self.turn_rad), math.sin(self.turn_rad)
        return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def ephemeris(
    satellites: Sequence[Satellite],
    start: str | datetime,
    seconds: float,
    *,
    error_m: float = 1e-3,
    segment_s: float | None = None,
    first_s: float = 0.0,
    own_velocity: bool = False,
    orientation: EarthOrientation | None = None,
) -> Ephemeris:
    """Ephemeris of the satellites from `start` on.

    satellites    n_satellites  from twin.tle
    start                       ISO 8601 text or datetime, with its offset from UTC ("2022-02-22T13:00:00Z")
    seconds       ()  s         end of the window, greater than first_s
    error_m       ()  m         how far from SGP4 the polynomials may be, 2e-5 or more: their degree, 3, 7 or 11, and
                                the length of their segments follow from it
    segment_s     ()  s         length of the segments, instead: of degree 7 then, and as near as they get
    first_s       ()  s         beginning of the window, after `start`
    own_velocity                keep SGP4's own velocities too
    orientation                 of the Earth, from read_earth_orientation: its UT1, and polar motion; without one UT1 is
                                skyfield's, and polar motion, some 10 m, is left out

    Returns an Ephemeris; a satellite that SGP4 cannot propagate through the whole window is a row of NaN with its code.
    Raises ValueError when nothing is asked for or `start` has no offset. Warns (TleWarning) when the window is more
    than 3 days from the median epoch, and where error_m is not met, which no low orbit has been seen to need.
    Checked by tests/test_orbit.py.
    """
    start_utc = utc(start)
    made = _made(satellites, Window(start_utc, first_s, seconds, orientation), error_m, segment_s, own_velocity)
    warn_of_age(satellites, start_utc + timedelta(seconds=(first_s + seconds) / 2.0), stacklevel=3)
    return made


def pieces(
    satellites: Sequence[Satellite],
    start: str | datetime,
    seconds: float,
    *,
    piece_s: float = 3600.0,
    error_m: float = 1e-3,
    segment_s: float | None = None,
    own_velocity: bool = False,
    orientation: EarthOrientation | None = None,
) -> Iterator[Ephemeris]:
    """A long window as one Ephemeris after the other, each of piece_s seconds, so that memory stays bounded.

    All have the same t_s = 0, and a satellite that SGP4 loses is NaN from its piece on. Else as `ephemeris`; of the
    age of elements it warns once, for the whole window.
    """
    start_utc = utc(start)
    _check_piece(piece_s)
    for k in range(max(1, math.ceil(seconds / piece_s))):
        window = Window(start_utc, k * piece_s, min((k + 1) * piece_s, seconds), orientation)
        yield _made(satellites, window, error_m, segment_s, own_velocity)
        if k == 0:
            warn_of_age(satellites, start_utc + timedelta(seconds=seconds / 2.0), stacklevel=2)


class Rolling:
    """An ephemeris without an end: pieces made as time moves on, the next one in a thread before it is needed.

    piece_s  s  length of a piece. Three are in memory at most: the last, the one in use, the next.

    The same instant gives the same bits whenever and in whatever order it is asked for. Other arguments, errors and
    warnings as `ephemeris`; of the age of elements it warns once, for its start. `close` it, or use it as a context.
    """

    def __init__(
        self,
        satellites: Sequence[Satellite],
        start: str | datetime,
        *,
        piece_s: float = 3600.0,
        error_m: float = 1e-3,
        segment_s: float | None = None,
        own_velocity: bool = False,
        orientation: EarthOrientation | None = None,
    ):
        self.satellites, self.start_utc, self.piece_s = tuple(satellites), utc(start), float(piece_s)
        _check_piece(self.piece_s)
        self._orientation, self._options = orientation, (error_m, segment_s, own_velocity)
        self._pieces: dict[int, Future[Ephemeris]] = {}
        self._maker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ephemeris")
        if satellites:
            warn_of_age(satellites, self.start_utc, stacklevel=3)

    def __enter__(self) -> "Rolling":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def at(self, t_s: float) -> Ephemeris:
        """The piece that holds t_s, s after the start; from half of a piece on the next one is in the making.

        Raises ValueError for a time before the start, or when nothing could be made of what was asked for.
        """
        if not 0.0 <= t_s < math.inf:
            raise ValueError(f"t_s must be 0 or more, got {t_s:g}")
        k = int(t_s // self.piece_s)
        for number in (k, k + 1) if t_s >= (k + 0.5) * self.piece_s else (k,):
            if number not in self._pieces:
                self._pieces[number] = self._maker.submit(self._make, number)
        for number in [number for number in self._pieces if abs(number - k) > 1]:
            self._pieces.pop(number).cancel()
        return self._pieces[k].result()

    def state(self, t_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities at one time; see Ephemeris.state."""
        return self.at(t_s).state(t_s)

    def close(self) -> None:
        """Let go of the pieces and of the thread."""
        self._maker.shutdown(cancel_futures=True)
        self._pieces.clear()

    def _make(self, number: int) -> Ephemeris:
        window = Window(self.start_utc, number * self.piece_s, (number + 1) * self.piece_s, self._orientation)
        return _made(self.satellites, window, *self._options)


def _check_piece(piece_s: float) -> None:
    if not 0.0 < piece_s < math.inf:
        raise ValueError(f"piece_s must be greater than 0, got {piece_s:g}")


def _made(
    satellites: Sequence[Satellite], window: Window, error_m: float, segment_s: float | None, own_velocity: bool
) -> Ephemeris:
    """What `ephemeris` returns, and its errors; of its warnings that of the bound."""
    if not satellites:
        raise ValueError("an ephemeris needs at least one satellite, got none")
    if not (window.seconds > window.first_s >= 0.0 and (segment_s is None or segment_s > 0.0)):
        raise ValueError(
            f"expected 0 <= first_s < seconds, and segment_s greater than 0, got first_s {window.first_s:g}, "
            f"seconds {window.seconds:g} and segment_s {segment_s}"
        )
    if not error_m >= FINEST_M:
        raise ValueError(f"error_m must be {FINEST_M:g} or more, SGP4 itself keeps no less, got {error_m:g}")
    degree, length_s = (PLAIN_DEGREE, float(segment_s)) if segment_s is not None else likely(satellites, error_m)
    propagator = Propagator(satellites)
    found = fit(satellites, propagator, window, degree, length_s, own_velocity)
    while segment_s is None and length_s > SEGMENTS_S[-1]:
        rough = found.fit_error_m > error_m
        if np.mean(rough) <= MOST_APART and not (found.fit_error_m > max(COARSE_M, COARSE * error_m)).any():
            break
        shorter_s = next(one for one in SEGMENTS_S if one < length_s)
        again = fit(satellites, propagator, window, degree, shorter_s, own_velocity)
        if not (again.fit_error_m[rough] < 0.5 * found.fit_error_m[rough]).any():
            break  # SGP4's path is not smooth enough for any
        length_s, found = shorter_s, again
    rough = (found.fit_error_m > error_m) & (segment_s is None)
    apart = set_apart(satellites, propagator, window, degree, length_s, error_m, found.error_code, rough, own_velocity)
    if apart is not None:
        found.fit_error_m[apart.index] = apart.fit_error_m
    if segment_s is None:
        _warn_of_rough(satellites, found.fit_error_m, error_m)
    return Ephemeris(
        tuple(satellites),
        window.start_utc,
        float(window.seconds),
        length_s,
        found.store[0],
        found.error_code,
        found.fit_error_m,
        float(window.first_s),
        found.store[1] if own_velocity else None,
        apart,
    )


def track(coefficients_m: np.ndarray, span_s: np.ndarray, t_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position and velocity of one satellite from one segment of its ephemeris, as an observation carries it.

    coefficients_m  (3, n_coefficients)  m  ascending powers of u = (t_s - middle) / half
    span_s          (2,)    s  middle and half length of the segment
    t_s             (n,)    s  on the same scale as span_s; a tenth of the segment beyond its ends still holds to 1 cm

    Returns position_m (n, 3) and velocity_m_s (n, 3), ECEF. Checked by tests/test_orbit.py.
    """
    # Copies, because arrays off the wire are read-only, a type of their own for which numba would compile again.
    rows = np.array(coefficients_m, dtype=float)[None]
    edges_s = np.array([span_s[0] - span_s[1], span_s[0] + span_s[1]])
    position_m, velocity_m_s = evaluate(rows, edges_s, np.array(t_s, dtype=float))
    return position_m, velocity_m_s


@njit(cache=True, nogil=True)
def evaluate(coefficients_m, edges_s, t_s):
    """Kernel: one satellite's polynomials and their derivatives at many times.

    coefficients_m  (n_segments, 3, n_coefficients)  m
    edges_s         (n_segments + 1,)  s  where the segments begin and end
    t_s             (n_times,)         s

    Returns position_m and velocity_m_s, (2, n_times, 3). Outside all segments the nearest one is used.
    """
    n_segments, _, n_coefficients = coefficients_m.shape
    states = np.empty((2, t_s.size, 3))
    for j in range(t_s.size):
        k = min(max(np.searchsorted(edges_s, t_s[j], side="right") - 1, 0), n_segments - 1)
        half_s = 0.5 * (edges_s[k + 1] - edges_s[k])
        u = (t_s[j] - edges_s[k]) / half_s - 1.0
        for axis in range(3):
            value, slope = 0.0, 0.0
            for power in range(n_coefficients - 1, -1, -1):
                slope = slope * u + value
                value = value * u + coefficients_m[k, axis, power]
            states[0, j, axis] = value
            states[1, j, axis] = slope / half_s
    return states


@njit(cache=True, nogil=True)
def evaluate_apart(coefficients_m, offsets, edges_s, t_s, states):
    """Kernel: `evaluate` for each of some satellites, into states (2, n_times, 3, n). Arguments as in Apart."""
    for i in range(offsets.size - 1):
        first, last = offsets[i], offsets[i + 1]
        found = evaluate(coefficients_m[first:last], edges_s[first + i : last + i + 1], t_s)
        for which in range(2):
            for j in range(t_s.size):
                for axis in range(3):
                    states[which, j, axis, i] = found[which, j, axis]


@fused
def states_at(coefficients_m, first_s, segment_s, t_s, states):
    """Kernel: positions and velocities of all satellites at t_s (n_times,), to states (2, n_times, 3, n_satellites)."""
    wide_vectors()
    n_satellites = coefficients_m.shape[3]
    for j in range(t_s.size):
        k, weights = weights_at(coefficients_m.shape, first_s, segment_s, t_s[j])
        for which in range(2):
            for axis in range(3):
                for low in range(0, n_satellites, TILE):
                    high = min(low + TILE, n_satellites)
                    combine(coefficients_m, k, axis, low, high, weights[which], states[which, j, axis, low:high])


@fused
def weights_at(shape, first_s, segment_s, t_s):
    """Kernel: the segment that holds t_s, and what its coefficients are multiplied with to give position and velocity.

    shape  of coefficients_m

    Returns the segment's number and weights (2, n_coefficients): powers of u, and their derivatives by time, 1/s.
    """
    since = (t_s - first_s) / segment_s
    k = min(max(int(np.floor(since)), 0), shape[0] - 1)
    u = 2.0 * (since - k) - 1.0
    weights = np.empty((2, shape[2]))
    weights[0, 0], weights[1, 0] = 1.0, 0.0
    for power in range(1, shape[2]):
        weights[0, power] = weights[0, power - 1] * u
        weights[1, power] = power * weights[0, power - 1] * 2.0 / segment_s
    return k, weights


@fused
def combine(coefficients_m, k, axis, low, high, weights, out):
    """Kernel: the weighted sum of one segment's coefficients for satellites low to high, along one axis.

    coefficients_m  (n_segments, 3, n_coefficients, n_satellites)  n_coefficients a multiple of four
    weights         (n_coefficients,)
    out             (high - low,)  contiguous
    """
    wide_vectors()
    rows = coefficients_m[k, axis]
    for p in range(0, weights.size, 4):
        a, b, c, d = rows[p, low:high], rows[p + 1, low:high], rows[p + 2, low:high], rows[p + 3, low:high]
        add_four(a, b, c, d, weights[p], weights[p + 1], weights[p + 2], weights[p + 3], p == 0, out)


@fused
def add_four(a, b, c, d, weight_a, weight_b, weight_c, weight_d, anew, out):
    """Kernel: out = or += weight_a a + ... + weight_d d, all (n,). Four, because with more arrays LLVM gives up on
    proving that none overlaps another, and the loop no longer runs several satellites at a time."""
    wide_vectors()
    if anew:
        for i in range(out.size):
            out[i] = (weight_a * a[i] + weight_b * b[i]) + (weight_c * c[i] + weight_d * d[i])
    else:
        for i in range(out.size):
            out[i] += (weight_a * a[i] + weight_b * b[i]) + (weight_c * c[i] + weight_d * d[i])


def _warn_of_rough(satellites: Sequence[Satellite], fit_error_m: np.ndarray, error_m: float) -> None:
    rough = sorted(np.flatnonzero(fit_error_m > error_m).tolist(), key=lambda i: -fit_error_m[i])
    if rough:
        named = ", ".join(f"{satellites[i].name} {fit_error_m[i]:.2g} m" for i in rough[:NAMED])
        warnings.warn(
            f"{len(rough)} of {len(satellites)} satellites are not met within {error_m:g} m: in this window SGP4's own "
            f"path is not smooth enough for {named}{', ...' if len(rough) > NAMED else ''}",
            TleWarning,
            stacklevel=3,
        )
