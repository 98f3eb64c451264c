"""Look angles and pointing against skyfield, against closed forms on a sphere, and against plain NumPy."""

import warnings
from pathlib import Path

import msgspec
import numpy as np
import pytest
from skies import circular_sky
from skyfield.api import EarthSatellite, load, wgs84

from twin import geometry
from twin.geometry import (
    Site,
    beam_angles_deg,
    look,
    look_angles,
    pointing,
    satellite_axes,
    terminal_axes,
    unit_vector,
)
from twin.orbit import ephemeris
from twin.tle import TleWarning, read_tle
from twin.units import EARTH_MU_M3_S2, SPEED_OF_LIGHT_M_S, WGS84_RADIUS_M

ROOT = Path(__file__).resolve().parents[1]
START = "2022-02-22T13:00:00Z"
HOUR_S = 3_600.0
WATERLOO = {"latitude_deg": 43.5, "longitude_deg": -80.5, "altitude_m": 330.0}
PLACES = [
    WATERLOO,
    {"latitude_deg": -33.9, "longitude_deg": 151.2},
    {"latitude_deg": 0.0, "longitude_deg": 180.0, "altitude_m": 12_000.0},
    {"latitude_deg": 90.0, "longitude_deg": 0.0, "altitude_m": 2_800.0},
]

ONE_MILLIMETRE = 1e-3
TENTH_OF_A_MILLIDEGREE = 1e-4
ONE_MILLIMETRE_A_SECOND = 1e-3
# skyfield's range rate is made of SGP4's velocity, ours is the derivative of SGP4's position. They are this far apart
# for orbits of eccentricity below 0.02, and up to 1.4 m/s for the most eccentric of the snapshot.
SGP4_VELOCITY_MISMATCH_M_S = 0.2


@pytest.fixture(scope="module")
def satellites():
    with warnings.catch_warnings(action="ignore", category=TleWarning):
        return read_tle(ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz")


@pytest.fixture(scope="module")
def sky(satellites):
    return ephemeris(satellites[::68], START, HOUR_S)


@pytest.fixture(scope="module")
def timescale():
    return load.timescale(builtin=True)


def seen_by_skyfield(satellite, place, moments, timescale):
    """skyfield's elevation (deg), azimuth (deg), range (m) and range rate (m/s)."""
    model = EarthSatellite(satellite.line1, satellite.line2, satellite.name, timescale)
    topos = wgs84.latlon(place["latitude_deg"], place["longitude_deg"], place.get("altitude_m", 0.0))
    difference = (model - topos).at(moments)
    elevation, azimuth, distance, _, _, rate = difference.frame_latlon_and_rates(topos)
    return elevation.degrees, azimuth.degrees, distance.m, rate.m_per_s


@pytest.mark.parametrize("place", PLACES, ids=["Waterloo", "Sydney", "aircraft", "pole"])
def test_look_angles_equal_skyfields(sky, timescale, place):
    t_s = np.linspace(0.0, HOUR_S, 25)
    moments = timescale.utc(2022, 2, 22, 13, 0, t_s)
    seen = look(sky, **place, t_s=t_s)
    for i in np.flatnonzero(sky.error_code == 0):
        elevation_deg, azimuth_deg, slant_range_m, range_rate_m_s = seen_by_skyfield(
            sky.satellites[i], place, moments, timescale
        )
        assert np.abs(seen.elevation_deg[i] - elevation_deg).max() < TENTH_OF_A_MILLIDEGREE
        turn_deg = (seen.azimuth_deg[i] - azimuth_deg + 180.0) % 360.0 - 180.0
        assert np.abs(turn_deg * np.cos(np.radians(elevation_deg))).max() < TENTH_OF_A_MILLIDEGREE
        assert np.abs(seen.slant_range_m[i] - slant_range_m).max() < ONE_MILLIMETRE
        if float("0." + sky.satellites[i].line2[26:33]) < 0.02:
            assert np.abs(seen.range_rate_m_s[i] - range_rate_m_s).max() < SGP4_VELOCITY_MISMATCH_M_S


def test_range_rate_is_the_slope_of_skyfields_range_for_every_orbit(sky, timescale):
    step_s = 0.05
    t_s = np.linspace(10.0, HOUR_S - 10.0, 13)
    seen = look(sky, **WATERLOO, t_s=t_s)
    for i in np.flatnonzero(sky.error_code == 0):
        ahead_m, behind_m = (
            seen_by_skyfield(
                sky.satellites[i], WATERLOO, timescale.utc(2022, 2, 22, 13, 0, t_s + sign * step_s), timescale
            )[2]
            for sign in (1, -1)
        )
        slope_m_s = (ahead_m - behind_m) / (2 * step_s)
        assert np.abs(seen.range_rate_m_s[i] - slope_m_s).max() < ONE_MILLIMETRE_A_SECOND


@pytest.mark.parametrize("place", PLACES, ids=["Waterloo", "Sydney", "aircraft", "pole"])
def test_a_site_stands_where_skyfield_puts_it(place):
    topos = wgs84.latlon(place["latitude_deg"], place["longitude_deg"], place.get("altitude_m", 0.0))
    site = Site(**place)
    np.testing.assert_allclose(site.position_m, topos.itrs_xyz.m, rtol=0.0, atol=1e-6)
    np.testing.assert_allclose(site.axes @ site.axes.T, np.eye(3), atol=1e-15)
    np.testing.assert_allclose(np.cross(site.axes[0], site.axes[1]), site.axes[2], atol=1e-15)


def test_range_rate_is_the_derivative_of_the_range_and_doppler_and_delay_follow(sky):
    step_s = 0.05
    t_s = np.arange(100.0, 3_500.0, 170.0)
    now = look(sky, **WATERLOO, t_s=t_s, carrier_hz=2e9)
    ahead, behind = (look(sky, **WATERLOO, t_s=t_s + sign * step_s).slant_range_m for sign in (1, -1))
    np.testing.assert_allclose(now.range_rate_m_s, (ahead - behind) / (2 * step_s), rtol=0.0, atol=1e-3)
    np.testing.assert_allclose(now.propagation_delay_s, now.slant_range_m / SPEED_OF_LIGHT_M_S, rtol=1e-15)
    np.testing.assert_allclose(now.doppler_hz, -2e9 * now.range_rate_m_s / SPEED_OF_LIGHT_M_S, rtol=1e-14)
    rising = now.range_rate_m_s < 0
    assert (now.doppler_hz[rising] > 0).all()


def test_one_time_gives_one_number_for_each_satellite(sky):
    many = look(sky, **WATERLOO, t_s=np.array([0.0, 60.0]))
    one = look(sky, **WATERLOO, t_s=60.0)
    for name in geometry.Look.__dataclass_fields__:
        assert getattr(one, name).shape == (len(sky.satellites),)
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name)[:, 1])


def test_the_look_kernel_equals_plain_numpy_compiled_and_plain():
    rng = np.random.default_rng(1)
    position_m, velocity_m_s = rng.normal(size=(50, 3)) * 7e6, rng.normal(size=(50, 3)) * 7e3
    site = Site(**WATERLOO)
    line_m = position_m - site.position_m
    east_m, north_m, up_m = site.axes @ line_m.T
    distance_m = np.linalg.norm(line_m, axis=1)
    rate_m_s = (line_m * velocity_m_s).sum(axis=1) / distance_m
    expected = (
        np.degrees(np.arcsin(up_m / distance_m)),
        np.degrees(np.arctan2(east_m, north_m)) % 360.0,
        distance_m,
        rate_m_s,
        -2e9 * rate_m_s / SPEED_OF_LIGHT_M_S,
        distance_m / SPEED_OF_LIGHT_M_S,
    )
    states = np.concatenate([position_m.T, velocity_m_s.T])
    for kernel in (geometry.topocentric, geometry.topocentric.py_func):
        got = np.empty((6, 50))
        kernel(*states, site.position_m, site.axes, 2e9, *got)
        for one, other in zip(got, expected):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-10)


def test_the_angle_kernel_is_arctan2_to_the_last_digits():
    rng = np.random.default_rng(2)
    y, x = rng.normal(size=(2, 10_000))
    y[:10], x[10:20] = 0.0, 0.0
    got = np.array([geometry.arctan2(*pair) for pair in zip(y, x)])
    np.testing.assert_allclose(got, np.arctan2(y, x), rtol=0.0, atol=5e-16)
    assert geometry.arctan2(0.0, 0.0) == geometry.arctan2.py_func(0.0, 1.0) == 0.0
    assert np.isnan(geometry.arctan2(np.nan, 1.0))
    assert np.isnan(geometry.arctan2(1.0, np.nan))
    assert geometry.arctan2.py_func(-1.0, -1.0) == pytest.approx(-0.75 * np.pi, abs=5e-16)


def test_states_off_the_wire_are_looked_at_as_they_are():
    position_m = np.frombuffer(np.array([[7e6, 0.0, 0.0]]).tobytes()).reshape(1, 3)  # read-only
    seen = look_angles(position_m, position_m, Site(latitude_deg=0.0, longitude_deg=0.0))
    assert seen.elevation_deg[0] == pytest.approx(90.0)
    assert seen.slant_range_m[0] == pytest.approx(7e6 - WGS84_RADIUS_M)


def test_a_satellite_600_km_overhead_moves_at_072_degrees_a_second():
    sky = circular_sky(WGS84_RADIUS_M + 600e3, 90.0, 2_000.0)
    t_s = np.array([999.5, 1_000.5])
    position_m, velocity_m_s = (state[0] for state in sky.state(t_s))
    seen = pointing(position_m, velocity_m_s, Site(latitude_deg=0.0, longitude_deg=0.0))
    # Approaching it stands behind the terminal's x axis (theta above 90), leaving before it: theta falls.
    assert seen.rx_beam_deg[0, 0] - seen.rx_beam_deg[1, 0] == pytest.approx(0.72, abs=0.005)
    # The satellite's own frame turns with the orbit, which takes its 0.06 deg/s off.
    orbit_deg_s = np.degrees(np.sqrt(EARTH_MU_M3_S2 / (WGS84_RADIUS_M + 600e3) ** 3))
    assert seen.tx_beam_deg[1, 0] - seen.tx_beam_deg[0, 0] == pytest.approx(0.72 - orbit_deg_s, abs=0.005)
    np.testing.assert_allclose(seen.rx_beam_deg[:, 1], 90.0, atol=1e-9)
    np.testing.assert_allclose(seen.tx_beam_deg[:, 1], 90.0, atol=1e-9)


def test_frames_are_right_handed_with_z_and_x_where_they_should_be(sky):
    site = Site(**WATERLOO)
    position_m, velocity_m_s = (state[sky.error_code == 0] for state in sky.state(1_000.0))
    down = -position_m / np.linalg.norm(position_m, axis=1, keepdims=True)
    for axes, normal in (
        (satellite_axes(position_m, velocity_m_s), down),
        (terminal_axes(velocity_m_s, site), np.broadcast_to(site.axes[2], down.shape)),
    ):
        np.testing.assert_allclose(axes @ axes.transpose(0, 2, 1), np.broadcast_to(np.eye(3), axes.shape), atol=1e-14)
        np.testing.assert_allclose(np.linalg.det(axes), 1.0, rtol=1e-14)
        np.testing.assert_allclose(axes[:, 2], normal, atol=1e-15)
        forward = np.einsum("nij,nj->ni", axes, velocity_m_s)
        assert (forward[:, 0] > 0.0).all()
        np.testing.assert_allclose(forward[:, 1], 0.0, atol=1e-9)


@pytest.mark.parametrize(("position", "velocity"), [((4, 3), (5, 3)), ((3,), (3,)), ((3, 4), (3, 4)), ((), ())])
def test_pointing_refuses_states_of_other_shapes(position, velocity):
    with pytest.raises(ValueError, match=r"must both be \(n, 3\), got \("):
        pointing(np.ones(position), np.ones(velocity), Site(latitude_deg=0.0, longitude_deg=0.0))


def test_pointing_leads_from_one_end_to_the_other(sky):
    site = Site(**WATERLOO)
    position_m, velocity_m_s = (state[sky.error_code == 0] for state in sky.state(1_000.0))
    seen = pointing(position_m, velocity_m_s, site)
    from_satellite = np.einsum("nji,nj->ni", satellite_axes(position_m, velocity_m_s), unit_vector(*seen.tx_beam_deg.T))
    np.testing.assert_allclose(
        position_m + seen.slant_range_m[:, None] * from_satellite,
        np.broadcast_to(site.position_m, position_m.shape),
        atol=1e-6,
    )
    from_terminal = np.einsum("nji,nj->ni", terminal_axes(velocity_m_s, site), unit_vector(*seen.rx_beam_deg.T))
    np.testing.assert_allclose(from_terminal, -from_satellite, atol=1e-13)
    same = look_angles(position_m, velocity_m_s, site)
    np.testing.assert_allclose(seen.elevation_deg, same.elevation_deg, atol=1e-12)
    np.testing.assert_allclose(seen.slant_range_m, same.slant_range_m, rtol=1e-15)


def test_visible_satellites_and_the_site_lie_before_each_others_panels(sky):
    states = sky.state(np.arange(0.0, HOUR_S, 60.0))
    position_m, velocity_m_s = (state[sky.error_code == 0].reshape(-1, 3) for state in states)
    seen = pointing(position_m, velocity_m_s, Site(**WATERLOO))
    visible = seen.elevation_deg > 0.0
    assert visible.sum() > 100
    for beam_deg in (seen.tx_beam_deg[visible], seen.rx_beam_deg[visible]):
        assert ((beam_deg >= 0.0) & (beam_deg <= 180.0)).all()


def test_angles_and_directions_map_onto_each_other():
    rng = np.random.default_rng(4)
    angles_deg = rng.uniform([0.0, 0.0], [180.0, 180.0], (1_000, 2))
    directions = unit_vector(angles_deg[:, 0], angles_deg[:, 1])
    np.testing.assert_allclose(beam_angles_deg(directions), angles_deg, rtol=0.0, atol=1e-12 * 180.0)
    directions = rng.normal(size=(1_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    np.testing.assert_allclose(unit_vector(*beam_angles_deg(directions).T), directions, rtol=0.0, atol=1e-12)


def test_angles_are_those_of_the_written_formula():
    directions = np.random.default_rng(5).normal(size=(100, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    theta_deg, phi_deg = beam_angles_deg(directions).T
    np.testing.assert_allclose(np.cos(np.radians(phi_deg)), directions[:, 1], atol=1e-14)
    np.testing.assert_allclose(theta_deg, np.degrees(np.arctan2(directions[:, 2], directions[:, 0])), atol=1e-12)


@pytest.mark.parametrize(
    ("theta_deg", "phi_deg", "direction"),
    [(90, 90, [0, 0, 1]), (0, 90, [1, 0, 0]), (180, 90, [-1, 0, 0]), (90, 0, [0, 1, 0]), (90, 180, [0, -1, 0])],
)
def test_boresight_and_the_rims_of_the_half_space_are_the_axes(theta_deg, phi_deg, direction):
    np.testing.assert_allclose(unit_vector(theta_deg, phi_deg), direction, atol=1e-15)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ({"latitude_deg": 91.0, "longitude_deg": 0.0}, "latitude_deg"),
        ({"latitude_deg": 0.0, "longitude_deg": 181.0}, "longitude_deg"),
        ({"latitude_deg": 0.0, "longitude_deg": 0.0, "altitude_m": -600.0}, "altitude_m"),
        ({"latitude_deg": float("nan"), "longitude_deg": 0.0}, "latitude_deg"),
    ],
)
def test_a_place_off_the_earth_is_refused_by_name(sky, place, reason):
    with pytest.raises(ValueError, match=f"no such site.*{reason}"):
        look(sky, **place)


def test_a_site_is_read_from_a_table_whose_unknown_keys_are_errors():
    assert msgspec.convert(WATERLOO, Site) == Site(**WATERLOO)
    with pytest.raises(msgspec.ValidationError, match="heading_deg"):
        msgspec.convert({**WATERLOO, "heading_deg": 3.0}, Site)
