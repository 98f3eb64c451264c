"""Look angles, passes and pointing against skyfield, against closed forms on a sphere, and against plain NumPy."""

import warnings
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from skyfield.api import EarthSatellite, load, wgs84

from twin import geometry
from twin.catalogue import select
from twin.fitting import nodes
from twin.geometry import (
    Site,
    beam_angles_deg,
    look,
    look_angles,
    passes,
    pointing,
    satellite_axes,
    terminal_axes,
    unit_vector,
)
from twin.orbit import Ephemeris, ephemeris
from twin.tle import Satellite, TleWarning, read_tle
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
ONE_SECOND = 1.0
ONE_MILLISECOND = 1e-3
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
    np.testing.assert_array_equal(now.propagation_delay_s, now.slant_range_m / SPEED_OF_LIGHT_M_S)
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


def test_every_starlink_pass_rises_and_sets_when_skyfields_event_finder_says(satellites, timescale):
    starlinks = select(satellites, "STARLINK")
    sky = ephemeris(starlinks, START, HOUR_S)
    found = passes(sky, **WATERLOO, mask_deg=30.0)
    assert len(found) > 20
    topos = wgs84.latlon(*WATERLOO.values())
    t0, t1 = timescale.from_datetime(sky.start_utc), timescale.from_datetime(sky.utc(HOUR_S))
    expected = []
    for i in np.flatnonzero(sky.error_code == 0):
        model = EarthSatellite(starlinks[i].line1, starlinks[i].line2, None, timescale)
        moments, events = model.find_events(topos, t0, t1, altitude_degrees=30.0)
        expected += [(i, event, (moment - t0) * 86_400.0) for moment, event in zip(moments, events, strict=True)]
    got = []
    for one in found:
        got += [(one.satellite_index, 0, one.rise_s)] if one.rise_s > 0.0 else []
        # skyfield takes no culmination from the edge of the window
        got += [(one.satellite_index, 1, one.culmination_s)] if 0.0 < one.culmination_s < HOUR_S else []
        got += [(one.satellite_index, 2, one.set_s)] if one.set_s < HOUR_S else []
    assert [event[:2] for event in sorted(got)] == [event[:2] for event in sorted(expected)]
    for ours, theirs in zip(sorted(got), sorted(expected), strict=True):
        assert abs(ours[2] - theirs[2]) < ONE_SECOND


def test_rise_and_set_are_where_the_elevation_crosses_the_mask_to_a_millisecond(satellites):
    sky = ephemeris(satellites, START, HOUR_S)
    found = [one for one in passes(sky, **WATERLOO, mask_deg=10.0) if not one.cut]
    assert len(found) > 300
    for one in found[::20]:
        edges_s = np.array([one.rise_s, one.culmination_s, one.set_s])
        before, at, after = (
            look(sky, **WATERLOO, t_s=edges_s + shift).elevation_deg[one.satellite_index]
            for shift in (-ONE_MILLISECOND, 0.0, ONE_MILLISECOND)
        )
        assert before[0] < 10.0 < after[0]
        assert before[2] > 10.0 > after[2]
        assert at[1] >= max(before[1], after[1]) - 1e-9
        assert at[1] == pytest.approx(one.max_elevation_deg, abs=1e-9)


def test_passes_equal_a_dense_look_at_the_whole_window(satellites):
    sky = ephemeris(satellites[::7], START, HOUR_S)
    t_s = np.arange(0.0, HOUR_S + 1.0, 5.0)
    elevation_deg = look(sky, **WATERLOO, t_s=t_s).elevation_deg
    found = passes(sky, **WATERLOO, mask_deg=25.0)
    inside = np.zeros(elevation_deg.shape, dtype=bool)
    for one in found:
        inside[one.satellite_index] |= (t_s >= one.rise_s) & (t_s <= one.set_s)
        during = elevation_deg[one.satellite_index][(t_s >= one.rise_s) & (t_s <= one.set_s)]
        assert during.max(initial=25.0) <= one.max_elevation_deg + 1e-9
        assert one.rise_s <= one.culmination_s <= one.set_s
        assert one.cut == (one.rise_s == 0.0 or one.set_s == HOUR_S)
        assert sky.satellites[one.satellite_index].name == one.name
        assert sky.satellites[one.satellite_index].number == one.number
    np.testing.assert_array_equal(inside, elevation_deg >= 25.0)
    assert [one.rise_s for one in found] == sorted(one.rise_s for one in found)


def test_a_satellite_that_sgp4_refuses_has_no_pass(satellites):
    sky = ephemeris([*select(satellites, "FLOCK 2K 22"), *satellites[:30]], START, HOUR_S)
    found = passes(sky, **WATERLOO, mask_deg=-90.0)
    assert {one.satellite_index for one in found} == set(range(1, 31))
    assert all(one.cut and one.rise_s == 0.0 and one.set_s == HOUR_S for one in found)


def circular_sky(radius_m, inclination_deg, seconds, turn_rad_s=0.0):
    """One satellite on a circle about a sphere that turns at turn_rad_s, overhead at seconds / 2 where inclined 0."""
    rate_rad_s = np.sqrt(EARTH_MU_M3_S2 / radius_m**3)
    segment_s = 100.0
    n_segments = int(seconds / segment_s)
    t_s = (np.arange(n_segments)[:, None] + 0.5 * (1.0 + nodes(8))) * segment_s
    angle_rad, inclination_rad = rate_rad_s * (t_s - seconds / 2), np.radians(inclination_deg)
    x, y = np.cos(angle_rad), np.sin(angle_rad) * np.cos(inclination_rad)
    turned_rad = turn_rad_s * (t_s - seconds / 2)
    cosine, sine = np.cos(turned_rad), np.sin(turned_rad)
    position_m = radius_m * np.stack(
        [cosine * x + sine * y, cosine * y - sine * x, np.sin(angle_rad) * np.sin(inclination_rad)], axis=1
    )
    coefficients_m = (position_m @ np.linalg.inv(np.vander(nodes(8), increasing=True)).T)[..., None]
    circle = Satellite("CIRCLE", 1, 2_459_632.5, 0.0, 15.0, 0.0, 53.0, 0.0, 0.0, 0.0)
    return Ephemeris(
        (circle,), datetime(2022, 2, 22, tzinfo=UTC), seconds, segment_s, coefficients_m, np.zeros(1, "u1"), np.zeros(1)
    )


def spherical_pass_s(altitude_m, mask_deg, max_elevation_deg, rate_rad_s, radius_m=WGS84_RADIUS_M):
    """Length of a pass over a sphere: the satellite moves on a great circle at rate_rad_s around the geocentre."""

    def central_rad(elevation_deg):  # between site and satellite as seen from the geocentre
        elevation_rad = np.radians(elevation_deg)
        return np.arccos(radius_m * np.cos(elevation_rad) / (radius_m + altitude_m)) - elevation_rad

    return 2.0 / rate_rad_s * np.arccos(np.cos(central_rad(mask_deg)) / np.cos(central_rad(max_elevation_deg)))


@pytest.mark.parametrize("altitude_m", [300e3, 600e3, 1_200e3])
@pytest.mark.parametrize("cross_track_deg", [0.0, 1.5, 3.0])
@pytest.mark.parametrize("mask_deg", [10.0, 30.0])
def test_pass_length_equals_the_spherical_formula(altitude_m, cross_track_deg, mask_deg):
    radius_m = WGS84_RADIUS_M + altitude_m
    sky = circular_sky(radius_m, 90.0, 2_000.0)
    site = {"latitude_deg": 0.0, "longitude_deg": cross_track_deg}  # on the equator the normal meets the geocentre
    [one] = passes(sky, **site, mask_deg=mask_deg)
    rate_rad_s = np.sqrt(EARTH_MU_M3_S2 / radius_m**3)
    expected_s = spherical_pass_s(altitude_m, mask_deg, one.max_elevation_deg, rate_rad_s)
    assert one.set_s - one.rise_s == pytest.approx(expected_s, abs=ONE_MILLISECOND)
    assert one.culmination_s == pytest.approx(1_000.0, abs=ONE_MILLISECOND)


def test_the_length_of_real_passes_equals_the_spherical_formula_within_one_percent(satellites):
    """With the altitude above the site and the rate about the geocentre, Earth-fixed, of the culmination."""
    sky = ephemeris(select(satellites, "STARLINK"), START, 2 * HOUR_S)
    site = Site(**WATERLOO)
    found = [one for one in passes(sky, **WATERLOO, mask_deg=30.0) if not one.cut and one.max_elevation_deg > 32.0]
    assert len(found) > 30
    for one in found:
        position_m, velocity_m_s = (state[one.satellite_index] for state in sky.state(one.culmination_s))
        radius_m, site_radius_m = np.linalg.norm(position_m), np.linalg.norm(site.position_m)
        rate_rad_s = np.linalg.norm(np.cross(position_m, velocity_m_s)) / radius_m**2
        expected_s = spherical_pass_s(radius_m - site_radius_m, 30.0, one.max_elevation_deg, rate_rad_s, site_radius_m)
        assert one.set_s - one.rise_s == pytest.approx(expected_s, rel=0.01)


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
    with pytest.raises(ValueError, match=f"no such site.*{reason}"):
        passes(sky, **place)


def test_a_mask_beyond_the_zenith_is_refused(sky):
    with pytest.raises(ValueError, match="mask_deg must be from -90 to 90, got 91"):
        passes(sky, **WATERLOO, mask_deg=91.0)


def test_a_site_is_read_from_a_table_whose_unknown_keys_are_errors():
    assert msgspec.convert(WATERLOO, Site) == Site(**WATERLOO)
    with pytest.raises(msgspec.ValidationError, match="heading_deg"):
        msgspec.convert({**WATERLOO, "heading_deg": 3.0}, Site)


def test_the_pass_kernels_give_the_same_uncompiled():
    sky = circular_sky(WGS84_RADIUS_M + 600e3, 90.0, 2_000.0)
    site = Site(latitude_deg=0.0, longitude_deg=2.0)
    where = site.position_m, site.axes[2]
    arguments = sky.coefficients_m[..., 0].copy(), 100.0, 2_000.0, 30.0, *where, 0.5
    np.testing.assert_allclose(
        geometry.passes_of_one.py_func(*arguments), geometry.passes_of_one(*arguments), rtol=0.0, atol=1e-9
    )
    for t_s in (0.0, 950.0, 2_000.0):
        sine, rate = geometry.sine_elevation.py_func(sky.coefficients_m[..., 0].copy(), 100.0, t_s, *where)
        assert geometry.sine_elevation(sky.coefficients_m[..., 0].copy(), 100.0, t_s, *where) == pytest.approx(
            (sine, rate)
        )
        seen = look(sky, latitude_deg=0.0, longitude_deg=2.0, t_s=t_s)
        assert sine == pytest.approx(np.sin(np.radians(seen.elevation_deg[0])), abs=1e-12)
        step_s = 0.01
        ahead, behind = (
            geometry.sine_elevation(sky.coefficients_m[..., 0].copy(), 100.0, t_s + sign * step_s, *where)[0]
            for sign in (1, -1)
        )
        assert rate == pytest.approx((ahead - behind) / (2 * step_s), rel=1e-4, abs=1e-9)
    crossing = sky.coefficients_m[..., 0].copy(), 100.0, 500.0, 1_000.0, *where, 0, 0.5
    assert geometry.crossing_s.py_func(*crossing) == pytest.approx(geometry.crossing_s(*crossing), abs=1e-9)
