"""The slow part of a pass's channel: line of sight, shadow fading, and how wide the multipath spreads.

All of it follows the tables of TR 38.811 by elevation; what makes it change is time, or the way of the ray through what
stands around the terminal. The tables' correlation distances are those of a terminal that walks under a satellite at
rest: its ray to the satellite is shifted by as much. A satellite that moves turns the ray instead, and shifts it by the
angle times the distance to what stands there, link.obstacle_m. `ray_way_m` adds both as vectors.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from twin.channel.link import Link
from twin.channel.losses import at_elevation, los_probability, shadow_sigma_db
from twin.channel.tables import CORRELATED, REFERENCE_ELEVATION_DEG, SmallScale, small_scale
from twin.geometry import Pointing

NEAREST_OBSTACLE_M = 1e-3  # a turn of the ray is the shift here over the distance, so there must be one
STEPS_TO_1_E = 2.146_193_220_620_582_6  # (1 + s) exp(-s) = 1 / e here
FORGOTTEN = 745.0  # exp(-s) is 0 here: nothing is left of what was before
MAX_AZIMUTH_SPREAD_DEG = 104.0  # TR 38.901 7.5, step 4
MAX_ZENITH_SPREAD_DEG = 52.0


@dataclass(frozen=True, eq=False)
class LargeScale:
    """What changes slowly over the n slots of a pass.

    los                (n,) bool  line of sight
    shadow_db          (n,)       dB, positive is loss
    k_factor_db        (n,)       dB, direct path over all others; 0 and meaningless without line of sight
    delay_spread_s     (n,)       s, root mean square
    azimuth_spread_deg (n,)       deg, of arrival, root mean square
    zenith_spread_deg  (n,)       deg
    """

    los: np.ndarray
    shadow_db: np.ndarray
    k_factor_db: np.ndarray
    delay_spread_s: np.ndarray
    azimuth_spread_deg: np.ndarray
    zenith_spread_deg: np.ndarray


def draw_los(rng: np.random.Generator, link: Link, course: Pointing, slot_s: float) -> np.ndarray:
    """Line of sight in each of the n slots of a pass, (n,) bool.

    `dwell`    without line of sight for link.nlos_dwell_s on average, whatever moves, and in it for as long as the
               probability at the elevation then asks
    `sojourn`  without line of sight over link.nlos_sojourn_deg of the ray's turn on average: the satellite's way across
               the sky, with the terminal's way over link.obstacle_m if it moves; for less where the probability rises
               so fast that it has to be. In every slot the probability is exactly that of the elevation
    `pass`     one uniform draw a pass: line of sight wherever the probability at the elevation exceeds it

    Source: TR 38.811 table 6.6.1-1; the processes are ours. Checked by tests/channel/test_large_scale.py.
    """
    probability = los_probability(course.elevation_deg, link.tables)
    if link.los == "pass":
        return rng.random() < probability
    uniform = rng.random(len(probability))
    if link.los == "dwell":
        most = probability / (1.0 - probability)  # leaving line of sight must not become more likely than 1
        return los_states(uniform, probability, np.minimum(most, min(1.0, slot_s / link.nlos_dwell_s)))
    obstacle_m = max(link.obstacle_m, NEAREST_OBSTACLE_M)
    turn_deg = np.degrees(ray_way_m(link, course, slot_s) / obstacle_m)
    before = np.concatenate([probability[:1], probability[:-1]])
    # Two exponential sojourns: back in sight after this turn, as the chain in continuous time has it ...
    leave_nlos = -probability * np.expm1(-turn_deg / (link.nlos_sojourn_deg * probability))
    # ... or sooner: probability = before (1 - leave_los) + (1 - before) leave_nlos must hold from slot to slot
    leave_nlos = np.maximum(leave_nlos, (probability - before) / (1.0 - before))
    leave_los = np.maximum((before - probability + (1.0 - before) * leave_nlos) / before, 0.0)
    leave = leave_los + leave_nlos
    stationary = np.divide(leave_nlos, leave, out=probability.copy(), where=leave > 0.0)
    return los_states(uniform, stationary, leave_nlos)


def draw_shadow(rng: np.random.Generator, link: Link, course: Pointing, los: np.ndarray, slot_s: float) -> np.ndarray:
    """Shadow fading of a pass, (n,) dB: one Gaussian process times the sigma of the slot's elevation and state.

    Its correlation falls exponentially over link.shadow_dwell_s (`dwell`), or smoothly over the way of the ray with the
    correlation distance of the slot's state (`distance`, see smooth_series).
    Source: TR 38.811 tables 6.6.2-1 to -3 and 6.7.2. Checked by tests/channel/test_large_scale.py.
    """
    n = len(course.elevation_deg)
    if link.shadow == "distance":
        steps = _steps(link, course, los, slot_s)[CORRELATED.index("SF")]
        shadow = smooth_series(rng.standard_normal((n, 2)), steps)
    else:
        shadow = autoregression(rng.standard_normal((n, 1)), np.full(n, np.exp(-slot_s / link.shadow_dwell_s)))[:, 0]
    return shadow * shadow_sigma_db(course.elevation_deg, los, link.tables)


def draw_spreads(
    rng: np.random.Generator, link: Link, course: Pointing, los: np.ndarray, shadow_db: np.ndarray, slot_s: float
) -> LargeScale:
    """K factor and spreads of a pass, with its line of sight and shadow fading.

    los        (n,)  bool  of draw_los
    shadow_db  (n,)  dB    of draw_shadow

    At every elevation and state they have the means, deviations and cross-correlations of the tables, linearly between
    the reference elevations. Independent Gaussian processes, shadow fading the first, are each correlated over the way
    of the ray with the table's distance, and then mixed by the Cholesky factor of the cross-correlations (all tables
    have one). So shadow fading stays as it is, and each of the others keeps something of those before it over the way.
    In the tables shadow fading is a gain, here a loss: where more is lost, delays and angles spread wider.
    Shadow fading that goes by time (`dwell`) is as rough as its law, and delays must not be: spreads are then
    independent of it.
    Source: TR 38.811 tables 6.7.2-1a to -8b, TR 38.901 7.5 step 4. Checked by tests/channel/test_large_scale.py.
    """
    noise = rng.standard_normal((len(los), len(CORRELATED), 2))
    steps = _steps(link, course, los, slot_s)
    alone = np.stack([smooth_series(noise[:, j].copy(), steps[j]) for j in range(len(CORRELATED))], axis=1)
    if link.shadow == "distance":
        # the tables' shadow fading is a gain: "positive SF means more received power", TR 38.901 7.5, step 4
        alone[:, CORRELATED.index("SF")] = -shadow_db / shadow_sigma_db(course.elevation_deg, los, link.tables)
    k_factor, delay, azimuth, zenith = _mixed(link, course, los, alone)[:, 1:].T

    seen, hidden = (small_scale(link.environment, link.carrier_hz, state) for state in (True, False))

    def at_state(column: str) -> np.ndarray:
        of_states = (at_elevation(course.elevation_deg, t.elevation_deg, getattr(t, column)) for t in (seen, hidden))
        return np.where(los, *of_states)

    def drawn(mu: str, sigma: str, standard: np.ndarray) -> np.ndarray:
        return at_state(mu) + at_state(sigma) * standard

    lg_delay = drawn("lg_delay_spread_mu", "lg_delay_spread_sigma", delay)
    lg_azimuth = drawn("lg_azimuth_spread_mu", "lg_azimuth_spread_sigma", azimuth)
    lg_zenith = drawn("lg_zenith_spread_mu", "lg_zenith_spread_sigma", zenith)
    return LargeScale(
        los=los,
        shadow_db=shadow_db,
        k_factor_db=drawn("k_factor_mu_db", "k_factor_sigma_db", k_factor),
        delay_spread_s=10.0**lg_delay,
        azimuth_spread_deg=np.minimum(10.0**lg_azimuth, MAX_AZIMUTH_SPREAD_DEG),
        zenith_spread_deg=np.minimum(10.0**lg_zenith, MAX_ZENITH_SPREAD_DEG),
    )


def ray_way_m(link: Link, course: Pointing, slot_s: float) -> np.ndarray:
    """How far the ray to the satellite has moved, where obstacles stand, since the slot before; (n,) m, the first 0.

    That is the terminal's step over ground plus link.obstacle_m times the change of the satellite's direction, as
    vectors: they add up where the terminal goes the satellite's way; where it goes the other way, an obstacle at that
    distance stays in the ray for longer.
    Checked by tests/channel/test_large_scale.py.
    """
    direction = course.east_north_up  # not the panel's frame, which turns with the satellite's track
    shift_m = max(link.obstacle_m, NEAREST_OBSTACLE_M) * np.diff(direction, axis=0) + slot_s * link.velocity_m_s
    return np.concatenate([np.zeros(min(1, len(direction))), np.linalg.norm(shift_m, axis=1)])


def _steps(link: Link, course: Pointing, los: np.ndarray, slot_s: float) -> np.ndarray:
    """Way of the ray since the slot before over the length of each of CORRELATED in the row's state, (5, n)."""
    seen, hidden = (
        small_scale(link.environment, link.carrier_hz, state).correlation_distance_m[:, None] for state in (True, False)
    )
    return ray_way_m(link, course, slot_s) * STEPS_TO_1_E / np.where(los, seen, hidden)


def _mixed(link: Link, course: Pointing, los: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """Independent standard normals (n, 5) with the cross-correlations of each row's elevation and state."""
    place = np.interp(course.elevation_deg, REFERENCE_ELEVATION_DEG, np.arange(REFERENCE_ELEVATION_DEG.size))
    low = np.minimum(place.astype(np.int64), REFERENCE_ELEVATION_DEG.size - 2)
    share = (place - low)[:, None, None]

    def between(tables: SmallScale) -> np.ndarray:  # a mean of two correlation matrices is one again
        return (1.0 - share) * tables.cross_correlation[low] + share * tables.cross_correlation[low + 1]

    seen, hidden = (between(small_scale(link.environment, link.carrier_hz, state)) for state in (True, False))
    return np.einsum("nij,nj->ni", np.linalg.cholesky(np.where(los[:, None, None], seen, hidden)), alone)


@njit(cache=True)
def los_states(uniform, probability, leave_nlos):
    """Kernel: the two-state chain of the line of sight.

    uniform      (n,)  draws from [0, 1)
    probability  (n,)  stationary probability of line of sight in each slot
    leave_nlos   (n,)  probability of having regained it since the slot before

    Returns (n,) bool; the first state has the stationary law.
    """
    los = np.empty(uniform.shape[0], dtype=np.bool_)
    for i in range(uniform.shape[0]):
        p = probability[i]
        if i == 0:
            los[i] = uniform[i] < p
        elif los[i - 1]:
            los[i] = uniform[i] * p >= leave_nlos[i] * (1.0 - p)  # balance: p * leave_los = (1 - p) * leave_nlos
        else:
            los[i] = uniform[i] < leave_nlos[i]
    return los


@njit(cache=True)
def autoregression(noise, correlation):
    """Kernel: unit-variance Gaussian series (n, k) from white noise (n, k), with correlation (n,) to the row before."""
    series = noise.copy()
    for i in range(1, noise.shape[0]):
        innovation = np.sqrt(1.0 - correlation[i] * correlation[i])
        for j in range(noise.shape[1]):
            series[i, j] = correlation[i] * series[i - 1, j] + innovation * noise[i, j]
    return series


@njit(cache=True)
def smooth_series(noise, step):
    """Kernel: a unit-variance Gaussian series (n,) with correlation (1 + s) exp(-s) over steps that add up to s.

    noise (n, 2)  white; step (n,)  from the row before, the first is not used

    A critically damped oscillator driven by white noise (Matern's law of order 3/2), here with its exact transition
    over any step. Its slope is finite: a process with an exponential law, which has none, moves by the root of a step.
    """
    series = np.empty(noise.shape[0])
    value, slope = 0.0, 0.0  # independent of each other at any one time, both of variance 1
    for i in range(noise.shape[0]):
        s = step[i] if i else FORGOTTEN
        fade = np.exp(-s)
        keep, gain, loss, stay = fade * (1.0 + s), fade * s, -fade * s, fade * (1.0 - s)
        # 1 - keep^2 - gain^2; of a short step by its series, for there the difference is nothing but rounding
        short = fade * fade * s * s * s * (4.0 / 3.0 + s * (2.0 / 3.0 + s * (4.0 / 15.0 + s * 4.0 / 45.0)))
        of_value = np.sqrt(short if s < 0.01 else max(0.0, 1.0 - keep * keep - gain * gain))
        shared = -(keep * loss + gain * stay) / of_value if of_value > 0.0 else 0.0
        of_slope = np.sqrt(max(0.0, 1.0 - loss * loss - stay * stay - shared * shared))
        value, slope = (
            keep * value + gain * slope + of_value * noise[i, 0],
            loss * value + stay * slope + shared * noise[i, 0] + of_slope * noise[i, 1],
        )
        series[i] = value
    return series
