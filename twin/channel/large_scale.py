"""The slow part of a pass's channel: line of sight, shadow fading, and how wide the multipath spreads.

Line of sight and shadow fading follow the tables of TR 38.811 by elevation, whatever makes them change: time, the
satellite's way across the sky, or the terminal's way over ground.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from twin.channel.link import Link
from twin.channel.losses import los_probability, shadow_sigma_db
from twin.geometry import Pointing


@dataclass(frozen=True, eq=False)
class LargeScale:
    """What changes slowly over the n slots of a pass.

    los                (n,) bool  line of sight
    shadow_db          (n,)       dB, positive is loss
    k_factor_db        (n,)       dB, direct path over all others; meaningless without line of sight
    delay_spread_s     (n,)       s, root mean square
    azimuth_spread_deg (n,)       deg, of arrival, root mean square
    zenith_spread_deg  (n,)       deg
    cross_polar_db     (n,)       dB, cross-polarisation power ratio
    """

    los: np.ndarray
    shadow_db: np.ndarray
    k_factor_db: np.ndarray
    delay_spread_s: np.ndarray
    azimuth_spread_deg: np.ndarray
    zenith_spread_deg: np.ndarray
    cross_polar_db: np.ndarray


def draw_los(rng: np.random.Generator, link: Link, course: Pointing, slot_s: float) -> np.ndarray:
    """Line of sight in each of the n slots of a pass, (n,) bool.

    Raises NotImplementedError.
    """
    leave_nlos = min(1.0, slot_s / link.nlos_dwell_s)
    n = len(course.elevation_deg)
    return los_states(rng.random(n), los_probability(course.elevation_deg, link.tables), np.full(n, leave_nlos))


def draw_shadow(rng: np.random.Generator, link: Link, course: Pointing, los: np.ndarray, slot_s: float) -> np.ndarray:
    """Shadow fading of a pass, (n,) dB: one Gaussian process times the sigma of the slot's elevation and state."""
    n = len(course.elevation_deg)
    shadow = autoregression(rng.standard_normal((n, 1)), np.full(n, np.exp(-slot_s / link.shadow_dwell_s)))[:, 0]
    return shadow * shadow_sigma_db(course.elevation_deg, los, link.tables)


def draw_spreads(rng: np.random.Generator, link: Link, course: Pointing, los: np.ndarray, slot_s: float) -> LargeScale:
    raise NotImplementedError


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
    """Kernel: unit-variance Gaussian series (n, k) from white noise (n, k); correlation (n,) is that with the row before."""
    series = noise.copy()
    for i in range(1, noise.shape[0]):
        innovation = np.sqrt(1.0 - correlation[i] * correlation[i])
        for j in range(noise.shape[1]):
            series[i, j] = correlation[i] * series[i - 1, j] + innovation * noise[i, j]
    return series
