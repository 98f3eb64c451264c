"""Delay and Doppler of a link, how a terminal takes them back, and what is left.

A 3GPP terminal of a satellite network knows where it is (GNSS) and where the satellite is (the ephemeris the cell
broadcasts). From both it computes the distance and its rate, sends so much earlier that its signal arrives in time, and
on a carrier shifted so that it arrives on the right one (TS 38.211 4.3.1, TS 38.213 4.2, TR 38.821 6.3). What it
believes is not quite true: elements are old, positions are off, and between two computations it holds or extrapolates.

Everything is first order in v/c and takes both ends at one instant. A shift is then wrong by (range rate^2 - v^2 / 2)
/ c^2 of the carrier, below 0.7 Hz at 2 GHz from low orbits, and by its rate times the time of flight, up to 1.2 Hz at
2 GHz; an advance by twice the range rate times the time of flight over c, below 0.3 us above 10 deg.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from twin.geometry import Site
from twin.units import MEGA, SPEED_OF_LIGHT_M_S

PREFIX_PARTS = 144.0 / 2048.0  # TS 38.211 5.3.1: normal cyclic prefix, of a symbol without it; the long ones aside
SAME = 1e-9  # of an update interval: an instant that only rounding keeps below an update belongs to it


class Way(Protocol):
    """Where a satellite is as somebody knows it; twin.orbit.Orbit is one."""

    def state(self, t_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def acceleration_m_s2(self, t_s: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class RangeMotion:
    """How far a satellite is from a terminal, and how that changes, at n times.

    slant_range_m            (n,)  m
    range_rate_m_s           (n,)  m/s    receding is positive
    range_acceleration_m_s2  (n,)  m/s^2
    """

    slant_range_m: np.ndarray
    range_rate_m_s: np.ndarray
    range_acceleration_m_s2: np.ndarray

    @property
    def propagation_delay_s(self) -> np.ndarray:
        """One way, (n,)."""
        return self.slant_range_m / SPEED_OF_LIGHT_M_S

    def doppler_hz(self, carrier_hz: float) -> np.ndarray:
        """Received minus sent, first order in v/c, (n,): negative when receding."""
        return self.range_rate_m_s * (-carrier_hz / SPEED_OF_LIGHT_M_S)

    def doppler_rate_hz_s(self, carrier_hz: float) -> np.ndarray:
        """The derivative of the Doppler shift, (n,): negative over nearly all of a pass, lowest when it is nearest."""
        return self.range_acceleration_m_s2 * (-carrier_hz / SPEED_OF_LIGHT_M_S)


def range_motion(
    position_m: np.ndarray,
    velocity_m_s: np.ndarray,
    acceleration_m_s2: np.ndarray,
    place_m: ArrayLike,
    own_velocity_m_s: ArrayLike = (0.0, 0.0, 0.0),
) -> RangeMotion:
    """Distance to a place with its first two derivatives, in closed form.

    position_m, velocity_m_s, acceleration_m_s2  (n, 3)  of the satellite, and of one frame, e.g. ECEF
    place_m                                      (3,)    m, or (n, 3)
    own_velocity_m_s                             (3,)    m/s  of what is at the place; it goes straight on

    With line l and relative velocity w: r' = l w / r and r'' = (w w + l a - r'^2) / r.
    Checked by tests/channel/test_doppler.py against the slopes of skyfield's range and TR 38.811's circular orbit.
    """
    line_m = np.asarray(position_m, dtype=float) - np.asarray(place_m, dtype=float)
    relative_m_s = np.asarray(velocity_m_s, dtype=float) - np.asarray(own_velocity_m_s, dtype=float)
    slant_range_m = np.sqrt(_dot(line_m, line_m))
    rate_m_s = _dot(line_m, relative_m_s) / slant_range_m
    bend = _dot(relative_m_s, relative_m_s) + _dot(line_m, np.asarray(acceleration_m_s2, dtype=float)) - rate_m_s**2
    return RangeMotion(slant_range_m, rate_m_s, bend / slant_range_m)


def seen_from(
    orbit: Way,
    site: Site,
    *,
    off_m: Sequence[float] = (0.0, 0.0, 0.0),
    speed_m_s: float = 0.0,
    heading_deg: float = 0.0,
) -> Callable[[np.ndarray], RangeMotion]:
    """The range from a site as a function of time, s on the orbit's scale.

    off_m                   (3,)  m  east, north, up: how far from the site somebody believes to be
    speed_m_s, heading_deg  ()       of a terminal passing the site: its speed counts, its way is not followed
    """
    place_m = site.position_m + np.asarray(off_m, dtype=float) @ site.axes
    own_m_s = ground_velocity_m_s(site, speed_m_s, heading_deg)

    def at(t_s: np.ndarray) -> RangeMotion:
        return range_motion(*orbit.state(t_s), orbit.acceleration_m_s2(t_s), place_m, own_m_s)

    return at


def ground_velocity_m_s(site: Site, speed_m_s: float, heading_deg: float) -> np.ndarray:
    """Velocity (3,) over ground, ECEF: heading from north through east."""
    heading_rad = np.deg2rad(heading_deg)
    return speed_m_s * (np.sin(heading_rad) * site.axes[0] + np.cos(heading_rad) * site.axes[1])


@dataclass(frozen=True, eq=False)
class Compensation:
    """What a terminal does about delay and Doppler at n times, and what it leaves.

    t_s                  (n,)  s
    update_t_s           (n,)  s   when it last computed them
    timing_advance_s     (n,)  s   sent so much before the downlink's frame: twice the delay it believes
    frequency_shift_hz   (n,)  Hz  added to its carrier: minus the Doppler shift it believes
    residual_delay_s     (n,)  s   one way, true minus believed: the downlink comes so much after it is expected
    residual_doppler_hz  (n,)  Hz  of the uplink at the satellite, the oscillator's offset included
    """

    t_s: np.ndarray
    update_t_s: np.ndarray
    timing_advance_s: np.ndarray
    frequency_shift_hz: np.ndarray
    residual_delay_s: np.ndarray
    residual_doppler_hz: np.ndarray

    @property
    def residual_timing_s(self) -> np.ndarray:
        """How late the uplink comes to the satellite, (n,) s: both ways, as the downlink is what it is timed by."""
        return 2.0 * self.residual_delay_s


def residuals(
    t_s: ArrayLike,
    true: Callable[[np.ndarray], RangeMotion],
    believed: Callable[[np.ndarray], RangeMotion],
    carrier_hz: float,
    *,
    update_s: float = 0.0,
    between: Literal["held", "linear"] = "linear",
    oscillator_ppm: float = 0.0,
) -> Compensation:
    """What pre-compensation by a believed orbit and place leaves of the true delay and Doppler shift.

    t_s             (n,)  s   when
    true, believed            range by time, of `seen_from`: the true orbit and site, and those the terminal knows
    carrier_hz      ()    Hz  of the uplink
    update_s        ()    s   it computes anew at whole multiples of this; 0: at every one of t_s
    between                   two updates: `held` as they were, or `linear`, with their rates
    oscillator_ppm  ()        its carrier is so much too high; 0: it follows the downlink, whose Doppler it knows

    Raises ValueError for an interval that is negative or has no end, and for another word.
    Checked by tests/channel/test_doppler.py.
    """
    if not 0.0 <= update_s < np.inf:
        raise ValueError(f"update_s must be 0 or more and finite, got {update_s}")
    if between not in ("held", "linear"):
        raise ValueError(f'between must be "held" or "linear", got {between!r}')
    at_s = np.atleast_1d(np.asarray(t_s, dtype=float))
    update_t_s = np.minimum(np.floor(at_s / update_s + SAME) * update_s, at_s) if update_s else at_s
    known, since_s = believed(update_t_s), at_s - update_t_s
    delay_s, shift_hz = known.propagation_delay_s, known.doppler_hz(carrier_hz)
    if between == "linear":
        delay_s = delay_s + since_s * known.range_rate_m_s / SPEED_OF_LIGHT_M_S
        shift_hz = shift_hz + since_s * known.doppler_rate_hz_s(carrier_hz)
    now = true(at_s)
    return Compensation(
        t_s=at_s,
        update_t_s=update_t_s,
        timing_advance_s=2.0 * delay_s,
        frequency_shift_hz=-shift_hz,
        residual_delay_s=now.propagation_delay_s - delay_s,
        residual_doppler_hz=now.doppler_hz(carrier_hz) - shift_hz + oscillator_ppm / MEGA * carrier_hz,
    )


def intercarrier_snr(snr: ArrayLike, offset_hz: ArrayLike, subcarrier_spacing_hz: float) -> np.ndarray:
    """SNR of an OFDM subcarrier behind a carrier offset, linear; the arguments' common shape.

    snr                    linear  without it
    offset_hz              Hz      constant over a symbol
    subcarrier_spacing_hz  ()  Hz

    With eps = offset / spacing the subcarrier keeps sinc^2(eps) = (sin(pi eps) / (pi eps))^2 of its power, and all
    others, as strong as itself and without end, leak 1 - sinc^2(eps) into it; both are exact, as the sum of
    sinc^2(eps + k) over all whole k is 1. At the rim of a band less leaks in. The phase all subcarriers share is taken
    to be tracked. Source: P. H. Moose, IEEE Transactions on Communications 42(10), 1994; T. Pollet, M. Van Bladel and
    M. Moeneclaey, the same 43(2/3/4), 1995. Checked by tests/channel/test_doppler.py against a transform of many.
    """
    kept = np.sinc(np.asarray(offset_hz, dtype=float) / subcarrier_spacing_hz) ** 2
    snr = np.asarray(snr, dtype=float)
    return snr * kept / (1.0 + snr * (1.0 - kept))


def cyclic_prefix_s(subcarrier_spacing_hz: float) -> float:
    """The normal cyclic prefix, s: 4.69 us at 15 kHz. Source: TS 38.211 5.3.1; the longer one of a half frame aside."""
    return PREFIX_PARTS / subcarrier_spacing_hz


def beyond_prefix_s(
    timing_s: ArrayLike, spread_s: ArrayLike, subcarrier_spacing_hz: float, window: float = 0.5
) -> np.ndarray:
    """How much of a symbol is disturbed by its neighbours, s: 0 while the cyclic prefix takes delay and spread.

    timing_s  s   how late the first path comes, negative for early: Compensation.residual_timing_s
    spread_s  s   from the first path to the last
    window    ()  where in the prefix the receiver begins to look, 0 to 1: 0.5 spares as much for early as for late

    Returns the arguments' common shape. Checked by tests/channel/test_doppler.py.
    """
    prefix_s = cyclic_prefix_s(subcarrier_spacing_hz)
    late_s = np.asarray(timing_s, dtype=float)
    early_s = -late_s - (1.0 - window) * prefix_s
    late_s = late_s + np.asarray(spread_s, dtype=float) - window * prefix_s
    return np.maximum(late_s, 0.0) + np.maximum(early_s, 0.0)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(a * b, axis=-1)
