"""Where a satellite stands in the sky of a site, and how the two antennas see each other.

Everything is Earth-fixed (ECEF), so a site stands still and the derivative of the slant range is the range rate that a
receiver sees. Elevation is geometric, against the WGS84 normal: no refraction.

Two frames carry the beam angles (drawn in docs/physics.md). The satellite's has z to the geocentre and x along its
Earth-fixed velocity; the terminal's has z to the zenith and x along the horizontal part of that same velocity; y is
z cross x in both. The panel lies in x and y, its normal is z. A direction u is written as two angles, the polar axis
being y: phi = arccos(u_y), theta = atan2(u_z, u_x). Both from 0 to 180 deg is the half-space before the panel, and
(90, 90) is straight ahead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from twin.orbit import TILE, Ephemeris, combine, fused, weights_at
from twin.parallel import spread
from twin.simd import wide_vectors
from twin.units import SPEED_OF_LIGHT_M_S, WGS84_FLATTENING, WGS84_RADIUS_M

N_LOOK = 6  # arrays of a Look
TIMES_AT_A_TIME = 4096  # handed to a thread by `pointing`
DEGREES = 180.0 / np.pi
PI, PI_2, PI_4, TAN_PI_8 = np.pi, np.pi / 2.0, np.pi / 4.0, 0.414_213_562_373_095_03
# The polynomial through arctan(sqrt(s)) / sqrt(s) at twelve Chebyshev nodes of s from 0 to tan^2(pi/8).
C0, C1, C2, C3 = 1.0, -0.3333333333333312, 0.19999999999940893, -0.14285714279250245
C4, C5, C6, C7 = 0.11111110744919658, -0.09090896809064027, 0.07692045330902225, -0.06662951813629191
C8, C9, C10, C11 = 0.05846878297330872, -0.05035102456601552, 0.03796525745386593, -0.017805397205419446


class Site(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place on the Earth, geodetic on WGS84.

    position_m  (3,)    m  ECEF
    axes        (3, 3)     rows east, north, up, in ECEF
    """

    latitude_deg: Annotated[float, Meta(ge=-90.0, le=90.0, description="geodetic latitude, north positive")]
    longitude_deg: Annotated[float, Meta(ge=-180.0, le=180.0, description="longitude, east positive")]
    altitude_m: Annotated[float, Meta(ge=-500.0, le=50_000.0, description="height above the WGS84 ellipsoid")] = 0.0

    @classmethod
    def from_facts(cls, facts: Mapping[str, np.ndarray]) -> "Site":
        """The terminal's site out of an agent's facts, as NominalLink.from_facts takes the link."""
        return cls(**{name: float(facts[name]) for name in cls.__struct_fields__})

    @property
    def position_m(self) -> np.ndarray:
        up = self.axes[2]
        flat = (1.0 - WGS84_FLATTENING) ** 2
        normal_m = WGS84_RADIUS_M / np.sqrt(up[0] ** 2 + up[1] ** 2 + flat * up[2] ** 2)
        return (np.array([normal_m, normal_m, flat * normal_m]) + self.altitude_m) * up

    @property
    def axes(self) -> np.ndarray:
        latitude_rad, longitude_rad = np.radians(self.latitude_deg), np.radians(self.longitude_deg)
        sin_lat, cos_lat = np.sin(latitude_rad), np.cos(latitude_rad)
        sin_lon, cos_lon = np.sin(longitude_rad), np.cos(longitude_rad)
        return np.array(
            [
                [-sin_lon, cos_lon, 0.0],
                [-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat],
                [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat],
            ]
        )


@dataclass(frozen=True, eq=False)
class Look:
    """Satellites as a site sees them; every array has the shape of the states without their last axis.

    elevation_deg        above the horizon
    azimuth_deg          from north through east, 0 to 360
    slant_range_m        distance
    range_rate_m_s       its derivative, receding is positive
    doppler_hz           received minus sent, first order in v/c: negative when receding
    propagation_delay_s  one way
    """

    elevation_deg: np.ndarray
    azimuth_deg: np.ndarray
    slant_range_m: np.ndarray
    range_rate_m_s: np.ndarray
    doppler_hz: np.ndarray
    propagation_delay_s: np.ndarray


@dataclass(frozen=True, eq=False)
class Pointing:
    """How a satellite and a terminal see each other at n times.

    elevation_deg  (n,)    deg  of the satellite over the terminal's horizon
    slant_range_m  (n,)    m
    tx_beam_deg    (n, 2)  deg  theta, phi of the terminal in the satellite's frame
    rx_beam_deg    (n, 2)  deg  theta, phi of the satellite in the terminal's frame
    heading_deg    (n,)    deg  azimuth of the x axis of the terminal's frame: where the satellite's track leads
    """

    elevation_deg: np.ndarray
    slant_range_m: np.ndarray
    tx_beam_deg: np.ndarray
    rx_beam_deg: np.ndarray
    heading_deg: np.ndarray

    def __getitem__(self, rows: slice) -> "Pointing":
        """Some of the times."""
        return Pointing(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def east_north_up(self) -> np.ndarray:
        """The unit vector from terminal to satellite over the terminal's horizon, (n, 3)."""
        x, y, up = unit_vector(self.rx_beam_deg[:, 0], self.rx_beam_deg[:, 1]).T
        heading_rad = np.radians(self.heading_deg)
        sine, cosine = np.sin(heading_rad), np.cos(heading_rad)  # the panel's y is left of its x
        return np.stack([x * sine - y * cosine, x * cosine + y * sine, up], axis=1)


def look(
    sky: Ephemeris,
    *,
    latitude_deg: float,
    longitude_deg: float,
    altitude_m: float = 0.0,
    t_s: float | np.ndarray = 0.0,
    carrier_hz: float = 20e9,
) -> Look:
    """All satellites of an ephemeris as a site sees them.

    t_s         () or (n_times,)  s   after the ephemeris' start
    carrier_hz  ()                Hz  for the Doppler shift

    Returns a Look of (n_satellites,) or (n_satellites, n_times). Raises ValueError for a site that is none or a time
    outside the ephemeris. Checked by tests/test_geometry.py against skyfield.
    """
    times_s = sky.checked(t_s)
    at_s, where = np.atleast_1d(times_s), (*_stand(latitude_deg, longitude_deg, altitude_m), carrier_hz)
    out = np.empty((N_LOOK, at_s.size, len(sky.satellites)))
    look_at(sky.coefficients_m, sky.first_s, sky.segment_s, at_s, *where, out)
    if sky.apart is not None:
        states = sky.states_apart(at_s).transpose(0, 2, 1, 3).reshape(6, -1)
        rows = np.empty((N_LOOK, states.shape[1]))
        arguments = *states, *where, *rows
        topocentric(*arguments)
        out[:, :, sky.apart.index] = rows.reshape(N_LOOK, at_s.size, -1)
    return Look(*(out[:, 0] if times_s.ndim == 0 else out.transpose(0, 2, 1)))


def look_angles(position_m: np.ndarray, velocity_m_s: np.ndarray, site: Site, carrier_hz: float = 20e9) -> Look:
    """Given satellite states as a site sees them.

    position_m, velocity_m_s  (n, 3)  m, m/s  ECEF

    Returns a Look of (n,). Checked by tests/test_geometry.py against skyfield.
    """
    states = np.array([np.transpose(position_m), np.transpose(velocity_m_s)], dtype=float, order="C")
    out = np.empty((N_LOOK, states.shape[2]))
    arguments = *states[0], *states[1], site.position_m, site.axes, carrier_hz, *out
    topocentric(*arguments)
    return Look(*out)


@fused
def look_at(coefficients_m, first_s, segment_s, t_s, site_position_m, axes, carrier_hz, out):
    """Kernel: what Look holds, of all satellites at each of t_s (n_times,), into out (6, n_times, n_satellites).

    coefficients_m, first_s, segment_s  of an Ephemeris
    """
    wide_vectors()
    n_satellites = coefficients_m.shape[3]
    states = np.empty((6, TILE))
    for j in range(t_s.size):
        k, weights = weights_at(coefficients_m.shape, first_s, segment_s, t_s[j])
        for low in range(0, n_satellites, TILE):
            high = min(low + TILE, n_satellites)
            n = high - low
            for row in range(6):
                combine(coefficients_m, k, row % 3, low, high, weights[row // 3], states[row, :n])
            topocentric(
                states[0, :n], states[1, :n], states[2, :n], states[3, :n], states[4, :n], states[5, :n],
                site_position_m, axes, carrier_hz,
                out[0, j, low:high], out[1, j, low:high], out[2, j, low:high],
                out[3, j, low:high], out[4, j, low:high], out[5, j, low:high],
            )  # fmt: skip


@fused
def topocentric(
    x_m, y_m, z_m, x_m_s, y_m_s, z_m_s, site_position_m, axes, carrier_hz,
    elevation_deg, azimuth_deg, slant_range_m, range_rate_m_s, doppler_hz, propagation_delay_s,
):  # fmt: skip
    """Kernel: what Look holds, of n satellites, into the last six; all (n,).

    x_m ... z_m_s    (n,)    ECEF
    site_position_m  (3,)    ECEF
    axes             (3, 3)  rows east, north, up

    One result a loop: with more of them LLVM gives up on proving that no array overlaps another, and the loop no longer
    runs several satellites at a time.
    """
    wide_vectors()
    site_x, site_y, site_z = site_position_m[0], site_position_m[1], site_position_m[2]
    east_x, east_y, east_z = axes[0, 0], axes[0, 1], axes[0, 2]
    north_x, north_y, north_z = axes[1, 0], axes[1, 1], axes[1, 2]
    up_x, up_y, up_z = axes[2, 0], axes[2, 1], axes[2, 2]
    for i in range(x_m.size):
        x, y, z = x_m[i] - site_x, y_m[i] - site_y, z_m[i] - site_z
        slant_range_m[i] = np.sqrt(x * x + y * y + z * z)
    for i in range(x_m.size):
        x, y, z = x_m[i] - site_x, y_m[i] - site_y, z_m[i] - site_z
        range_rate_m_s[i] = (x * x_m_s[i] + y * y_m_s[i] + z * z_m_s[i]) / slant_range_m[i]
    for i in range(x_m.size):
        x, y, z = x_m[i] - site_x, y_m[i] - site_y, z_m[i] - site_z
        east = east_x * x + east_y * y + east_z * z
        north = north_x * x + north_y * y + north_z * z
        up = up_x * x + up_y * y + up_z * z
        elevation_deg[i] = arctan2(up, np.sqrt(east * east + north * north)) * DEGREES
    for i in range(x_m.size):
        x, y, z = x_m[i] - site_x, y_m[i] - site_y, z_m[i] - site_z
        east = east_x * x + east_y * y + east_z * z
        north = north_x * x + north_y * y + north_z * z
        turn_deg = arctan2(east, north) * DEGREES
        azimuth_deg[i] = turn_deg + 360.0 if turn_deg < 0.0 else turn_deg
    for i in range(x_m.size):
        doppler_hz[i] = range_rate_m_s[i] * (-carrier_hz / SPEED_OF_LIGHT_M_S)
    for i in range(x_m.size):
        propagation_delay_s[i] = slant_range_m[i] * (1.0 / SPEED_OF_LIGHT_M_S)


@fused
def arctan2(y, x):
    """Kernel: the angle of (x, y) in radians, -pi to pi, within 5e-16; 0 where both are 0, and no sign for zeros.

    Written out because the C library's runs one number at a time. The angle of the smaller over the larger coordinate
    is brought below pi/8, where a polynomial of its square is met to the last digit.
    """
    steep = abs(y) > abs(x)
    larger, smaller = (abs(y), abs(x)) if steep else (abs(x), abs(y))
    beyond = smaller > TAN_PI_8 * larger
    ratio = ((smaller - larger) if beyond else smaller) / ((smaller + larger) if beyond else larger)
    ratio = ratio if larger > 0.0 else larger  # which is 0, or NaN
    square = ratio * ratio
    series = C10 + square * C11
    series = C8 + square * (C9 + square * series)
    series = C6 + square * (C7 + square * series)
    series = C4 + square * (C5 + square * series)
    series = C2 + square * (C3 + square * series)
    series = C0 + square * (C1 + square * series)
    angle = ratio * series + (PI_4 if beyond else 0.0)
    angle = PI_2 - angle if steep else angle
    angle = PI - angle if x < 0.0 else angle
    return -angle if y < 0.0 else angle


def satellite_axes(position_m: np.ndarray, velocity_m_s: np.ndarray) -> np.ndarray:
    """The satellite's frame, (n, 3, 3), rows x, y, z in ECEF: z to the geocentre, x along the Earth-fixed velocity.

    position_m, velocity_m_s  (n, 3)  m, m/s  ECEF
    """
    return _axes(-_unit(position_m), velocity_m_s)


def terminal_axes(velocity_m_s: np.ndarray, site: Site) -> np.ndarray:
    """The terminal's frame, (n, 3, 3), rows x, y, z in ECEF: z to the zenith, x along the satellite's ground track.

    velocity_m_s  (n, 3)  m/s  of the satellite, ECEF
    """
    return _axes(np.broadcast_to(site.axes[2], np.shape(velocity_m_s)), velocity_m_s)


def beam_angles_deg(direction: np.ndarray) -> np.ndarray:
    """Theta and phi, (..., 2) deg, of directions given in a panel's frame.

    direction  (..., 3)  unit vectors; the half-space before the panel gives angles from 0 to 180
    """
    x, y, z = np.moveaxis(np.asarray(direction, dtype=float), -1, 0)
    # atan2, not arccos: the latter loses half its digits where phi nears 0 or 180.
    return np.degrees(np.stack([np.arctan2(z, x), np.arctan2(np.hypot(x, z), y)], axis=-1))


def unit_vector(theta_deg: float | np.ndarray, phi_deg: float | np.ndarray) -> np.ndarray:
    """The direction (..., 3) in a panel's frame of two beam angles; the inverse of `beam_angles_deg`."""
    theta_rad, phi_rad = np.radians(theta_deg), np.radians(phi_deg)
    sine = np.sin(phi_rad)
    return np.stack(np.broadcast_arrays(sine * np.cos(theta_rad), np.cos(phi_rad), sine * np.sin(theta_rad)), axis=-1)


def pointing(position_m: np.ndarray, velocity_m_s: np.ndarray, site: Site) -> Pointing:
    """Where satellite and terminal see each other, each in its own frame.

    position_m, velocity_m_s  (n, 3)  m, m/s  of the satellite, ECEF

    Returns a Pointing of n times. Raises ValueError for states of other shapes. Checked by tests/test_geometry.py.
    """
    position_m, velocity_m_s = np.asarray(position_m, dtype=float), np.asarray(velocity_m_s, dtype=float)
    n = len(position_m) if position_m.ndim else 1
    if not position_m.shape == velocity_m_s.shape == (n, 3):
        raise ValueError(
            f"position_m and velocity_m_s must both be (n, 3), got {position_m.shape} and {velocity_m_s.shape}"
        )
    seen = Pointing(np.empty(n), np.empty(n), np.empty((n, 2)), np.empty((n, 2)), np.empty(n))

    def some(first: int, last: int) -> None:
        rows = slice(first, last)
        line_m = position_m[rows] - site.position_m
        slant_range_m = np.sqrt(np.einsum("ni,ni->n", line_m, line_m))
        to_satellite = line_m / slant_range_m[:, None]
        axes = terminal_axes(velocity_m_s[rows], site)
        in_satellite = np.einsum("nij,nj->ni", satellite_axes(position_m[rows], velocity_m_s[rows]), -to_satellite)
        in_terminal = np.einsum("nij,nj->ni", axes, to_satellite)
        east, north = (np.einsum("ni,i->n", axes[:, 0], axis) for axis in site.axes[:2])
        seen.elevation_deg[rows] = np.degrees(
            np.arctan2(in_terminal[:, 2], np.hypot(in_terminal[:, 0], in_terminal[:, 1]))
        )
        seen.slant_range_m[rows] = slant_range_m
        seen.tx_beam_deg[rows] = beam_angles_deg(in_satellite)
        seen.rx_beam_deg[rows] = beam_angles_deg(in_terminal)
        seen.heading_deg[rows] = np.degrees(np.arctan2(east, north)) % 360.0

    spread(some, n, step=TIMES_AT_A_TIME)
    return seen


@lru_cache(maxsize=256)  # a site stands for a whole run, and is asked for in every slot
def _stand(latitude_deg: float, longitude_deg: float, altitude_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Position and axes of a site."""
    site = site_at(latitude_deg, longitude_deg, altitude_m)
    return site.position_m, site.axes


def site_at(latitude_deg: float, longitude_deg: float, altitude_m: float) -> Site:
    """A site by its place; ValueError naming what is off the Earth."""
    keys = {"latitude_deg": latitude_deg, "longitude_deg": longitude_deg, "altitude_m": altitude_m}
    try:
        return msgspec.convert({key: float(value) for key, value in keys.items()}, Site)
    except msgspec.ValidationError as error:
        raise ValueError(f"no such site: {error}, got {keys}") from None


def _unit(vector: np.ndarray) -> np.ndarray:
    vector = np.asarray(vector, dtype=float)
    return vector / np.sqrt(np.einsum("...i,...i", vector, vector))[..., None]


def _axes(z: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Right-handed frames of unit normals z (n, 3) with x along the part of `along` (n, 3) that is square to z."""
    x = _unit(along - np.einsum("...i,...i", along, z)[..., None] * z)
    return np.stack([x, np.cross(z, x), z], axis=-2)
