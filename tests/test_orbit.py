"""The polynomial cache against sgp4 itself (1 mm) and against skyfield's full chain of frames (1 m)."""

import warnings
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from sgp4.api import Satrec
from sgp4.conveniences import jday_datetime
from skyfield.api import EarthSatellite, load
from skyfield.framelib import itrs
from skyfield.sgp4lib import theta_GMST1982

from twin.catalogue import select
from twin.orbit import ephemeris, evaluate, track
from twin.tle import TleWarning, parse_tle, read_tle

ROOT = Path(__file__).resolve().parents[1]
START = "2022-02-22T13:00:00Z"
HOUR_S = 3_600.0

ONE_MILLIMETRE = 1e-3
ONE_CENTIMETRE = 1e-2
ONE_METRE = 1.0


@pytest.fixture(scope="module")
def satellites():
    with warnings.catch_warnings(action="ignore", category=TleWarning):
        return read_tle(ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz")


@pytest.fixture(scope="module")
def sky(satellites):
    return ephemeris(satellites, START, 2 * HOUR_S)


@pytest.fixture(scope="module")
def some(satellites):
    """Fifty satellites from all over the list: round and eccentric, old and new, one that SGP4 refuses."""
    decayed = select(satellites, "FLOCK 2K 22")
    return [*satellites[::68], *decayed]


def by_sgp4(satellite, start_utc, t_s):
    """ECEF positions (n, 3) in metres, from sgp4 and GMST82, one at a time and without any of our arithmetic."""
    model = Satrec.twoline2rv(satellite.line1, satellite.line2)
    timescale = load.timescale(builtin=True)
    rows = []
    for t in t_s:
        utc = start_utc + timedelta(seconds=float(t))
        error, teme_km, _ = model.sgp4(*jday_datetime(utc))
        moment = timescale.from_datetime(utc)
        angle = -theta_GMST1982(moment.whole, moment.ut1_fraction)[0]
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        rows.append(turn @ np.array(teme_km) * 1e3 if error == 0 else np.full(3, np.nan))
    return np.array(rows)


def test_positions_equal_sgp4_at_arbitrary_times_within_a_millimetre(some):
    sky = ephemeris(some, START, HOUR_S)
    t_s = np.concatenate([np.random.default_rng(1).uniform(0.0, HOUR_S, 20).round(6), [0.0, 300.0, HOUR_S]])
    got = sky.position_m(t_s)
    for i, satellite in enumerate(some):
        if sky.error_code[i] == 0:
            miss_m = np.linalg.norm(got[i] - by_sgp4(satellite, sky.start_utc, t_s), axis=-1)
            assert miss_m.max() < ONE_MILLIMETRE, satellite.name


def test_a_tenth_of_a_segment_outside_the_window_still_holds_to_a_centimetre(some):
    sky = ephemeris(some, START, HOUR_S)
    t_s = np.array([-30.0, HOUR_S + 30.0])
    got = sky.position_m(t_s)
    for i in np.flatnonzero(sky.error_code == 0):
        assert np.linalg.norm(got[i] - by_sgp4(some[i], sky.start_utc, t_s), axis=-1).max() < ONE_CENTIMETRE


def test_positions_equal_skyfields_full_chain_within_a_metre(some):
    sky = ephemeris(some, START, HOUR_S)
    timescale = load.timescale(builtin=True)
    t_s = np.linspace(0.0, HOUR_S, 37)
    moments = timescale.utc(2022, 2, 22, 13, 0, t_s)
    for i in np.flatnonzero(sky.error_code == 0):
        there = EarthSatellite(some[i].line1, some[i].line2, some[i].name, timescale).at(moments)
        miss_m = np.linalg.norm(sky.position_m(t_s)[i] - there.frame_xyz(itrs).m.T, axis=-1)
        assert miss_m.max() < ONE_METRE, some[i].name


def test_velocity_is_the_derivative_of_the_position(sky):
    step_s = 0.1
    t_s = np.random.default_rng(2).uniform(step_s, 2 * HOUR_S - step_s, 50)
    slope_m_s = (sky.position_m(t_s + step_s) - sky.position_m(t_s - step_s)) / (2 * step_s)
    assert np.nanmax(np.abs(sky.velocity_m_s(t_s) - slope_m_s)) < ONE_MILLIMETRE  # per second


def test_positions_run_on_smoothly_from_one_segment_to_the_next(sky):
    for boundary_s in (300.0, 3_600.0, 6_900.0):
        before, after = sky.position_m(boundary_s - 1e-9), sky.position_m(boundary_s + 1e-9)
        assert np.nanmax(np.abs(after - before)) < ONE_MILLIMETRE


def test_scalar_and_array_times_give_the_same_states_in_the_stated_shapes(sky):
    n = len(sky.satellites)
    position_m, velocity_m_s = sky.state(np.array([10.0, 20.0]))
    assert position_m.shape == velocity_m_s.shape == (n, 2, 3)
    assert sky.position_m(20.0).shape == sky.velocity_m_s(20).shape == (n, 3)
    np.testing.assert_array_equal(sky.position_m(20.0), position_m[:, 1])
    np.testing.assert_array_equal(sky.velocity_m_s(20), velocity_m_s[:, 1])


def test_track_gives_what_the_ephemeris_gives_from_one_segment_alone(sky):
    t_s = np.linspace(610.0, 890.0, 7)
    coefficients_m, span_s = sky.segment(17, 700.0)
    assert coefficients_m.shape == (3, 8)
    np.testing.assert_array_equal(span_s, [750.0, 150.0])
    coefficients_m.flags.writeable = False  # as it comes off the wire
    position_m, velocity_m_s = track(coefficients_m, span_s, t_s)
    expected_m, expected_m_s = sky.state(t_s)
    np.testing.assert_allclose(position_m, expected_m[17], rtol=0.0, atol=1e-6)
    np.testing.assert_allclose(velocity_m_s, expected_m_s[17], rtol=0.0, atol=1e-9)


@pytest.mark.parametrize(("t_s", "middle_s"), [(0.0, 150.0), (299.9, 150.0), (300.0, 450.0), (7_200.0, 7_050.0)])
def test_segment_covers_the_time_it_was_asked_for(sky, t_s, middle_s):
    np.testing.assert_array_equal(sky.segment(0, t_s)[1], [middle_s, 150.0])


def test_the_kernel_equals_numpys_polynomials_compiled_and_plain():
    rng = np.random.default_rng(3)
    coefficients_m = rng.normal(size=(2, 3, 3, 8))
    t_s = np.array([0.0, 9.0, 10.0, 25.0, 31.0])
    expected, slope = np.empty((2, 5, 3)), np.empty((2, 5, 3))
    for i, j, axis in np.ndindex(expected.shape):
        k = min(int(t_s[j] // 10.0), 2)
        polynomial = np.polynomial.Polynomial(coefficients_m[i, k, axis], domain=[10.0 * k, 10.0 * (k + 1)])
        expected[i, j, axis], slope[i, j, axis] = polynomial(t_s[j]), polynomial.deriv()(t_s[j])
    for kernel in (evaluate, evaluate.py_func):
        position, velocity = kernel(coefficients_m, 5.0, 5.0, t_s)
        np.testing.assert_allclose(position, expected, rtol=1e-12)
        np.testing.assert_allclose(velocity, slope, rtol=1e-12)


def test_a_satellite_that_sgp4_cannot_propagate_is_a_row_of_nan_with_its_code(satellites):
    decayed = select(satellites, "FLOCK 2K 22")
    sky = ephemeris([satellites[0], *decayed, satellites[1]], START, 600.0)
    assert sky.error_code.dtype == np.uint8
    np.testing.assert_array_equal(sky.error_code, [0, 6, 0])
    assert np.isfinite(sky.position_m(10.0)[0]).all()
    assert np.isnan(sky.position_m(10.0)[1]).all()


def test_utc_counts_from_the_start_whatever_the_offset_it_was_given_in(some):
    eastern = timezone(timedelta(hours=-5))
    for start in (START, "2022-02-22T08:00:00-05:00", datetime(2022, 2, 22, 8, tzinfo=eastern)):
        sky = ephemeris(some[:1], start, 60.0)
        assert sky.start_utc == datetime(2022, 2, 22, 13, tzinfo=UTC)
        assert sky.utc(1.5) == datetime(2022, 2, 22, 13, 0, 1, 500_000, tzinfo=UTC)
        assert sky.utc(0.0).utcoffset() == timedelta(0)


def test_the_fraction_of_a_starting_second_counts(some):
    whole, late = ephemeris(some[:1], START, 60.0), ephemeris(some[:1], "2022-02-22T13:00:00.250000Z", 60.0)
    np.testing.assert_allclose(late.position_m(0.75), whole.position_m(1.0), rtol=0.0, atol=ONE_MILLIMETRE)


def test_a_window_far_from_the_elements_warns_and_a_near_one_does_not(some):
    with pytest.warns(TleWarning, match=r"4\.0 days after the median epoch"):
        ephemeris(some[:5], "2022-02-26T13:00:00Z", 60.0)
    with pytest.warns(TleWarning, match="days before the median epoch"):
        ephemeris(some[:5], "2022-02-10T13:00:00Z", 60.0)
    with warnings.catch_warnings(action="error"):
        ephemeris(some, START, 60.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"satellites": []}, "at least one satellite"),
        ({"seconds": 0.0}, "must be greater than 0, got 0 and 300"),
        ({"seconds": float("nan")}, "must be greater than 0"),
        ({"segment_s": -1.0}, "must be greater than 0"),
        ({"start": "2022-02-22T13:00:00"}, "must say its offset from UTC"),
        ({"start": "yesterday"}, "yesterday"),
    ],
)
def test_a_window_that_cannot_be_built_is_refused(some, change, reason):
    with pytest.raises(ValueError, match=reason):
        ephemeris(**{"satellites": some, "start": START, "seconds": 60.0, "segment_s": 300.0, **change})


@pytest.mark.parametrize("t_s", [-31.0, 7_231.0, float("nan")])
def test_times_outside_the_window_are_refused(sky, t_s):
    for ask in (sky.position_m, lambda t_s: sky.position_m([0.0, t_s]), lambda t_s: sky.segment(0, t_s)):
        with pytest.raises(ValueError, match="the ephemeris holds for t_s from 0 to 7200 s"):
            ask(t_s)


def test_a_table_of_times_is_refused(sky):
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        sky.position_m(np.zeros((2, 2)))


def test_deep_space_satellites_fly_too():
    [satellite] = parse_tle(  # a navigation satellite of 2023 with a period of twelve hours
        "NAVSTAR 43 (USA 132)\n"
        "1 24876U 97035A   23232.14055359  .00000015  00000+0  00000+0 0  9999\n"
        "2 24876  55.5843 138.9388 0071866  51.9814 308.7127  2.00564009191055\n",
        broken="refuse",
    )
    sky = ephemeris([satellite], satellite.epoch_utc, HOUR_S)
    t_s = np.array([1.0, 1_000.0, 3_599.0])
    expected_m = by_sgp4(satellite, sky.start_utc, t_s)
    assert np.linalg.norm(sky.position_m(t_s)[0] - expected_m, axis=-1).max() < ONE_MILLIMETRE
