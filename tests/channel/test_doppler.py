"""Delay and Doppler, their rates, and what pre-compensation leaves: against skyfield, a circle and plain sums."""

import csv
from pathlib import Path

import numpy as np
import pytest
from skyfield.api import EarthSatellite, load, wgs84

from twin.channel.doppler import (
    RangeMotion,
    beyond_prefix_s,
    cyclic_prefix_s,
    ground_velocity_m_s,
    intercarrier_snr,
    range_motion,
    residuals,
    seen_from,
)
from twin.faults import ClockSkew, StaleTle
from twin.geometry import Site, look_angles
from twin.orbit import Orbit, ephemeris
from twin.tle import read_tle
from twin.units import EARTH_MU_M3_S2, EARTH_ROTATION_RAD_S, SPEED_OF_LIGHT_M_S, SPHERE_RADIUS_M
from twin.worlds.sky_faults import told_orbit

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT.parent / "shared" / "reference" / "3gpp" / "doppler_delay_computed.csv"
SNAPSHOT = ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz"
SITE = Site(latitude_deg=43.5, longitude_deg=-80.5, altitude_m=330.0)
PASS_S = np.arange(540.0, 760.0, 10.0)  # of STARLINK-1102 above 30 deg, after 13:00
CARRIER_HZ = 2e9
ONE_MILLIMETRE_A_SECOND = 1e-3
A_HUNDREDTH_OF_A_HERTZ = 1e-2
ONE_NANOSECOND, ONE_PICOSECOND = 1e-9, 1e-12


@pytest.fixture(scope="module")
def satellite():
    return next(s for s in read_tle(SNAPSHOT, name="STARLINK-1102") if s.number == 44920)


@pytest.fixture(scope="module")
def orbit(satellite):
    return Orbit(ephemeris([satellite], "2022-02-22T13:00:00Z", 1200.0), 0)


def circle(altitude_m, elevation_deg):
    """Position, velocity, acceleration of a satellite that rises in the plane of PLACE_M, on a sphere that stands."""
    radius_m = SPHERE_RADIUS_M + altitude_m
    elevation_rad = np.radians(elevation_deg)
    ahead_rad = np.arccos(SPHERE_RADIUS_M / radius_m * np.cos(elevation_rad)) - elevation_rad  # from the zenith
    rate_rad_s = np.sqrt(EARTH_MU_M3_S2 / radius_m**3)
    zero = np.zeros_like(ahead_rad)
    out = np.stack([np.cos(ahead_rad), -np.sin(ahead_rad), zero], axis=-1)
    along = np.stack([np.sin(ahead_rad), np.cos(ahead_rad), zero], axis=-1)
    return radius_m * out, radius_m * rate_rad_s * along, -radius_m * rate_rad_s**2 * out


PLACE_M = np.array([SPHERE_RADIUS_M, 0.0, 0.0])


# shift and rate


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the reference numbers (../shared) are not beside this checkout")
def test_delay_shift_and_rate_are_those_of_3gpps_circular_orbit():
    lines = REFERENCE.read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert len(rows) == 21
    for row in rows:
        motion = range_motion(*circle(float(row["altitude_km"]) * 1e3, float(row["elevation_deg"])), PLACE_M)
        assert motion.slant_range_m == pytest.approx(float(row["slant_km"]) * 1e3, abs=1.0)
        assert motion.propagation_delay_s == pytest.approx(float(row["one_way_delay_ms"]) / 1e3, abs=1e-7)
        assert motion.doppler_hz(2e9) == pytest.approx(float(row["doppler_khz_2ghz"]) * 1e3, abs=0.6)
        assert motion.doppler_hz(20e9) == pytest.approx(float(row["doppler_khz_20ghz"]) * 1e3, abs=0.6)
        assert motion.doppler_rate_hz_s(2e9) == pytest.approx(-float(row["doppler_rate_hz_s_2ghz"]), abs=0.02)


def test_shift_and_rate_are_the_slopes_of_skyfields_range(satellite, orbit):
    timescale = load.timescale(builtin=True)
    model = EarthSatellite(satellite.line1, satellite.line2, satellite.name, timescale)
    place = model - wgs84.latlon(SITE.latitude_deg, SITE.longitude_deg, SITE.altitude_m)
    around_s = np.linspace(-6.0, 6.0, 25)
    at_s = (PASS_S[:, None] + around_s).ravel()
    range_m = place.at(timescale.utc(2022, 2, 22, 13, 0, at_s)).distance().m.reshape(len(PASS_S), -1)
    # the least squares polynomial of degree 8 about each time; its noise and its remainder are below the tolerances
    powers = np.linalg.pinv(np.vander(around_s, 9, increasing=True)) @ range_m.T
    motion = seen_from(orbit, SITE)(PASS_S)
    per_m_s = CARRIER_HZ / SPEED_OF_LIGHT_M_S
    assert np.abs(motion.range_rate_m_s - powers[1]).max() < ONE_MILLIMETRE_A_SECOND
    assert np.abs(motion.doppler_hz(CARRIER_HZ) + per_m_s * powers[1]).max() < A_HUNDREDTH_OF_A_HERTZ
    assert np.abs(motion.doppler_rate_hz_s(CARRIER_HZ) + per_m_s * 2.0 * powers[2]).max() < A_HUNDREDTH_OF_A_HERTZ
    assert np.abs(motion.doppler_rate_hz_s(CARRIER_HZ)).max() > 500.0


def test_range_and_shift_are_those_of_look(orbit):
    position_m, velocity_m_s = orbit.state(PASS_S)
    seen, motion = look_angles(position_m, velocity_m_s, SITE, CARRIER_HZ), seen_from(orbit, SITE)(PASS_S)
    np.testing.assert_allclose(motion.slant_range_m, seen.slant_range_m, rtol=1e-14)
    np.testing.assert_allclose(motion.doppler_hz(CARRIER_HZ), seen.doppler_hz, rtol=0.0, atol=1e-6)
    np.testing.assert_allclose(motion.propagation_delay_s, seen.propagation_delay_s, rtol=1e-14)


@pytest.mark.parametrize(("ahead_s", "turn_rad"), [(0.0, 0.0), (0.4, 3e-5)])
def test_acceleration_is_the_slope_of_the_velocity(orbit, ahead_s, turn_rad):
    told, step_s = Orbit(orbit.sky, 0, ahead_s, turn_rad), 0.01
    ahead_m_s, behind_m_s = (told.state(PASS_S + sign * step_s)[1] for sign in (1, -1))
    found = told.acceleration_m_s2(PASS_S)
    np.testing.assert_allclose(found, (ahead_m_s - behind_m_s) / (2 * step_s), rtol=0.0, atol=1e-6)
    position_m, velocity_m_s = told.state(PASS_S)
    spin = np.array([0.0, 0.0, EARTH_ROTATION_RAD_S])
    inertial = found + 2.0 * np.cross(spin, velocity_m_s) + np.cross(spin, np.cross(spin, position_m))
    pull = -EARTH_MU_M3_S2 * position_m / np.linalg.norm(position_m, axis=1)[:, None] ** 3
    assert np.abs(inertial - pull).max() < 0.03  # m/s^2: the Earth is not round


def test_own_motion_counts_as_a_place_that_moves(orbit):
    moving = seen_from(orbit, SITE, speed_m_s=250.0, heading_deg=120.0)(PASS_S)
    own_m_s = ground_velocity_m_s(SITE, 250.0, 120.0)
    np.testing.assert_allclose(SITE.axes @ own_m_s, [250.0 * np.sin(2.0944), 250.0 * np.cos(2.0944), 0.0], atol=1e-2)
    step_s = 0.5
    range_m = [
        np.linalg.norm(orbit.state(PASS_S + i * step_s)[0] - SITE.position_m - i * step_s * own_m_s, axis=1)
        for i in (-2, -1, 0, 1, 2)
    ]
    slope_m_s = (range_m[0] - 8 * range_m[1] + 8 * range_m[3] - range_m[4]) / (12 * step_s)
    bend = (-range_m[0] + 16 * range_m[1] - 30 * range_m[2] + 16 * range_m[3] - range_m[4]) / (12 * step_s**2)
    np.testing.assert_allclose(moving.range_rate_m_s, slope_m_s, rtol=0.0, atol=ONE_MILLIMETRE_A_SECOND)
    np.testing.assert_allclose(moving.range_acceleration_m_s2, bend, rtol=0.0, atol=1e-3)


def test_first_order_shift_is_wrong_by_what_the_page_says():
    elevation_deg = np.arange(10.0, 91.0)
    position_m, velocity_m_s, acceleration_m_s2 = circle(600e3, elevation_deg)
    motion = range_motion(position_m, velocity_m_s, acceleration_m_s2, PLACE_M)
    rate, speed = (what / SPEED_OF_LIGHT_M_S for what in (motion.range_rate_m_s, np.linalg.norm(velocity_m_s, axis=-1)))
    relativistic_hz = CARRIER_HZ * (np.sqrt(1.0 - speed**2) / (1.0 + rate) - 1.0)
    error_hz = relativistic_hz - motion.doppler_hz(CARRIER_HZ)
    np.testing.assert_allclose(error_hz, CARRIER_HZ * (rate**2 - speed**2 / 2), rtol=0.0, atol=1e-3)
    assert 0.5 < np.abs(error_hz).max() < 0.7
    flight_hz = motion.propagation_delay_s * np.abs(motion.doppler_rate_hz_s(CARRIER_HZ))
    assert 1.0 < flight_hz.max() < 1.2
    assert 0.25e-6 < (2.0 * np.abs(rate) * motion.propagation_delay_s).max() < 0.3e-6


# pre-compensation


def test_who_knows_the_truth_leaves_nothing(orbit):
    true = seen_from(orbit, SITE)
    done = residuals(PASS_S, true, true, CARRIER_HZ)
    assert np.abs(done.residual_delay_s).max() == 0.0
    assert np.abs(done.residual_doppler_hz).max() == 0.0
    np.testing.assert_array_equal(done.timing_advance_s, 2.0 * true(PASS_S).propagation_delay_s)
    np.testing.assert_array_equal(done.frequency_shift_hz, -true(PASS_S).doppler_hz(CARRIER_HZ))
    np.testing.assert_array_equal(done.update_t_s, PASS_S)


def test_between_updates_a_terminal_holds_or_extrapolates():
    """A range whose third derivative is nought: what is left is exactly the term that was left out."""
    rate_m_s, bend = -3000.0, 80.0

    def true(t_s):
        t_s = np.asarray(t_s)
        return RangeMotion(6e5 + rate_m_s * t_s + 0.5 * bend * t_s**2, rate_m_s + bend * t_s, np.full(t_s.shape, bend))

    t_s = np.arange(0, 50) * 0.1
    held = residuals(t_s, true, true, CARRIER_HZ, update_s=1.0, between="held")
    linear = residuals(t_s, true, true, CARRIER_HZ, update_s=1.0)
    np.testing.assert_allclose(held.update_t_s, np.arange(50) // 10, rtol=0.0, atol=1e-12)
    since_s, at = t_s - held.update_t_s, true(held.update_t_s)
    grown_m = at.range_rate_m_s * since_s + 0.5 * bend * since_s**2
    np.testing.assert_allclose(held.residual_delay_s, grown_m / SPEED_OF_LIGHT_M_S, rtol=0.0, atol=ONE_PICOSECOND)
    expected_s = 0.5 * bend * since_s**2 / SPEED_OF_LIGHT_M_S
    np.testing.assert_allclose(linear.residual_delay_s, expected_s, rtol=0.0, atol=ONE_PICOSECOND)
    np.testing.assert_array_equal(linear.residual_timing_s, 2.0 * linear.residual_delay_s)
    drift_hz = -CARRIER_HZ * bend * since_s / SPEED_OF_LIGHT_M_S
    np.testing.assert_allclose(held.residual_doppler_hz, drift_hz, rtol=0.0, atol=1e-6)
    np.testing.assert_allclose(linear.residual_doppler_hz, 0.0, rtol=0.0, atol=1e-6)


def test_a_wrong_place_shows_along_the_line_of_sight(orbit):
    off_m = np.array([30.0, -40.0, 10.0])
    done = residuals(PASS_S, seen_from(orbit, SITE), seen_from(orbit, SITE, off_m=off_m), CARRIER_HZ)
    position_m, _ = orbit.state(PASS_S)
    line_m = position_m - SITE.position_m
    along_m = (line_m / np.linalg.norm(line_m, axis=1)[:, None]) @ (off_m @ SITE.axes)
    np.testing.assert_allclose(done.residual_delay_s, along_m / SPEED_OF_LIGHT_M_S, rtol=0.0, atol=ONE_NANOSECOND / 10)
    assert 0.05 < np.abs(done.residual_doppler_hz).max() < 5.0


def test_oscillator_offset_stays_as_it_is(orbit):
    true = seen_from(orbit, SITE)
    done = residuals(PASS_S, true, true, CARRIER_HZ, oscillator_ppm=0.1)
    np.testing.assert_allclose(done.residual_doppler_hz, 200.0, rtol=1e-12)


def test_orbits_that_faults_tell_feed_it(orbit):
    true = seen_from(orbit, SITE)
    stale = told_orbit(orbit, 44920, PASS_S[0], StaleTle(along_track_km=2.0), 0, None, seed=1)
    skewed = told_orbit(orbit, 44920, PASS_S[0], None, 0, ClockSkew(skew_s=0.01), seed=1)
    of_stale, of_skewed = (residuals(PASS_S, true, seen_from(told, SITE), CARRIER_HZ) for told in (stale, skewed))
    along_m = abs(stale.ahead_s) * 7600.0
    assert 100.0 < along_m < 8000.0
    assert 0.5 * along_m < np.abs(of_stale.residual_delay_s).max() * SPEED_OF_LIGHT_M_S < along_m
    now = true(PASS_S)
    early = -0.01 * now.range_rate_m_s / SPEED_OF_LIGHT_M_S  # believed: what holds 10 ms later
    np.testing.assert_allclose(of_skewed.residual_delay_s, early, rtol=0.0, atol=0.05 * ONE_NANOSECOND)
    expected_hz = -0.01 * now.doppler_rate_hz_s(CARRIER_HZ)
    np.testing.assert_allclose(of_skewed.residual_doppler_hz, expected_hz, rtol=0.0, atol=A_HUNDREDTH_OF_A_HERTZ)


def test_what_cannot_be_computed_is_refused(orbit):
    true = seen_from(orbit, SITE)
    for update_s in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=f"update_s must be 0 or more and finite, got {update_s}"):
            residuals(PASS_S, true, true, CARRIER_HZ, update_s=update_s)
    with pytest.raises(ValueError, match='"held" or "linear", got \'cubic\''):
        residuals(PASS_S, true, true, CARRIER_HZ, between="cubic")


# what a residual does to a symbol


@pytest.mark.parametrize("eps", [-0.3, -0.02, 0.0, 0.1, 0.25, 0.5])
def test_offset_leaks_between_subcarriers_as_a_transform_of_them_says(eps):
    n, snr = 4096, 100.0
    leaked = np.abs(np.fft.fft(np.exp(2j * np.pi * eps * np.arange(n) / n)) / n) ** 2
    expected = leaked[0] / (1.0 / snr + leaked[1:].sum())
    assert intercarrier_snr(snr, eps * 15e3, 15e3) == pytest.approx(expected, rel=1e-5)


def test_without_an_offset_nothing_is_lost_and_with_much_snr_the_offset_decides():
    np.testing.assert_array_equal(intercarrier_snr([0.1, 1e3], 0.0, 15e3), [0.1, 1e3])
    kept = np.sinc(0.1) ** 2
    assert intercarrier_snr(1e12, 1500.0, 15e3) == pytest.approx(kept / (1.0 - kept), rel=1e-6)
    assert intercarrier_snr(np.ones((3, 1)), np.ones(4), 30e3).shape == (3, 4)


def test_the_prefix_takes_delays_within_it():
    assert cyclic_prefix_s(15e3) == pytest.approx(4.6875e-6)
    assert cyclic_prefix_s(120e3) == pytest.approx(0.5859e-6, abs=1e-10)
    timing_s = np.array([0.0, 1e-6, 2e-6, 3e-6, -2e-6, -3e-6])
    half_s = 0.5 * 4.6875e-6
    expected_s = [0.0, 0.0, 2.5e-6 - half_s, 3.5e-6 - half_s, 0.0, 3e-6 - half_s]
    np.testing.assert_allclose(beyond_prefix_s(timing_s, 0.5e-6, 15e3), expected_s, rtol=0.0, atol=ONE_PICOSECOND)
    late_s = beyond_prefix_s([4e-6, 5e-6, -1e-7], 0.1e-6, 15e3, window=1.0)
    np.testing.assert_allclose(late_s, [0.0, 0.4125e-6, 0.1e-6], rtol=0.0, atol=ONE_PICOSECOND)


@pytest.mark.parametrize(("timing", "clean"), [(-20, True), (-60, False), (20, True), (60, False)])
def test_a_symbol_is_disturbed_just_where_the_prefix_does_not_reach(timing, clean):
    """Two OFDM symbols over two paths, received by a window that opens in the middle of the prefix."""
    rng, n, prefix, spread = np.random.default_rng(1), 512, 36 * 2, 10
    sent = np.exp(2j * np.pi * rng.integers(0, 4, (3, n)) / 4)
    stream = np.concatenate([np.r_[s[-prefix:], s] for s in np.fft.ifft(sent, axis=1)])
    channel = np.zeros(spread + 1, complex)
    channel[[0, -1]] = 1.0, 0.5j
    received = np.convolve(stream, channel)
    opens = (n + prefix) + prefix // 2 - timing  # so much late is to look so much too early
    seen = np.fft.fft(received[opens : opens + n])
    turn = np.exp(2j * np.pi * np.arange(n) * (opens - (n + prefix) - prefix) / n)
    error = np.abs(seen - sent[1] * np.fft.fft(channel, n) * turn).max()
    spacing_hz = 144.0 / 2048.0 / prefix  # so that a prefix of `prefix` samples is the prefix, in samples
    beyond = beyond_prefix_s(timing, spread, spacing_hz)
    assert (error < 1e-9) == clean == (beyond == 0.0)
