"""The polynomial cache against sgp4 itself (1 mm) and against skyfield's full chain of frames (1 mm)."""

import warnings
from dataclasses import replace
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
from twin.frames import turns
from twin.geometry import Site, look
from twin.orbit import Rolling, combine, ephemeris, evaluate, pieces, states_at, track
from twin.sgp4_kernel import Propagator
from twin.tle import TleWarning, parse_tle, read_tle

ROOT = Path(__file__).resolve().parents[1]
START = "2022-02-22T13:00:00Z"
HOUR_S = 3_600.0
KINK = "2025-07-27T21:00:00Z"  # drag brings this satellite's mean eccentricity to SGP4's least within the next hour
KINKED = """\
1 52285U 22041AA  25208.03188884  .01481710  00000+0  72541-2 0  9990
2 52285  53.2204  34.6434 0000130 188.4613 303.5997 15.78854627181637
"""

ONE_MILLIMETRE = 1e-3
ONE_CENTIMETRE = 1e-2


@pytest.fixture(scope="module")
def satellites():
    with warnings.catch_warnings(action="ignore", category=TleWarning):
        return read_tle(ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz")


@pytest.fixture(scope="module")
def sky(satellites):
    return ephemeris(satellites, START, 2 * HOUR_S, segment_s=300.0)


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


def test_positions_equal_skyfields_full_chain_within_a_millimetre(some):
    sky = ephemeris(some, START, HOUR_S)
    timescale = load.timescale(builtin=True)
    t_s = np.linspace(0.0, HOUR_S, 37)
    moments = timescale.utc(2022, 2, 22, 13, 0, t_s)
    for i in np.flatnonzero(sky.error_code == 0):
        there = EarthSatellite(some[i].line1, some[i].line2, some[i].name, timescale).at(moments)
        miss_m = np.linalg.norm(sky.position_m(t_s)[i] - there.frame_xyz(itrs).m.T, axis=-1)
        assert miss_m.max() < ONE_MILLIMETRE, some[i].name


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


def test_the_kernels_equal_numpys_polynomials_compiled_and_plain():
    rng = np.random.default_rng(3)
    coefficients_m = rng.normal(size=(3, 3, 8, 5))  # segments, axes, powers, satellites
    t_s = np.array([0.0, 9.0, 10.0, 25.0, 31.0])
    expected = np.empty((2, 5, 3, 5))
    for j, axis, i in np.ndindex(expected.shape[1:]):
        k = min(int(t_s[j] // 10.0), 2)
        polynomial = np.polynomial.Polynomial(coefficients_m[k, axis, :, i], domain=[10.0 * k, 10.0 * (k + 1)])
        expected[:, j, axis, i] = polynomial(t_s[j]), polynomial.deriv()(t_s[j])
    for kernel in (evaluate, evaluate.py_func):
        got = kernel(coefficients_m[..., 2].copy(), 10.0 * np.arange(4), t_s)
        np.testing.assert_allclose(got, expected[..., 2], rtol=1e-12)
    for kernel in (states_at, states_at.py_func):
        got = np.empty((2, 5, 3, 5))
        kernel(coefficients_m, 0.0, 10.0, t_s, got)
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-12)
    rows, weights = coefficients_m[:1], rng.normal(size=8)
    for kernel in (combine, combine.py_func):
        got = np.empty(3)
        kernel(rows, 0, 1, 2, 5, weights, got)
        np.testing.assert_allclose(got, weights @ rows[0, 1, :, 2:5], rtol=1e-12)


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
        ({"seconds": 0.0}, "expected 0 <= first_s < seconds"),
        ({"seconds": float("nan")}, "expected 0 <= first_s < seconds"),
        ({"segment_s": -1.0}, "segment_s -1.0"),
        ({"error_m": 1e-6}, "error_m must be 2e-05 or more"),
        ({"first_s": 60.0}, "first_s 60, seconds 60"),
        ({"start": "2022-02-22T13:00:00"}, "must say its offset from UTC"),
        ({"start": "yesterday"}, "yesterday"),
    ],
)
def test_a_window_that_cannot_be_built_is_refused(some, change, reason):
    with pytest.raises(ValueError, match=reason):
        ephemeris(**{"satellites": some, "start": START, "seconds": 60.0, **change})


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


MIXED = """\
EGYPTSAT 1
1 31117U 07012A   08020.34612120  .00000134  00000+0  30041-4 0  9996
2 31117 098.0526 093.9121 0007060 062.5327 010.6720 14.69443713 40823
MOLNIYA 2-14
1 08195U 75081A   06176.33215444  .00000099  00000-0  11873-3 0   813
2 08195  64.1586 279.0717 6877146 264.7651  20.2257  2.00491383225656
SHORT AND ECCENTRIC
1 16925U 86065D   06151.67415771  .02550794 -30915-6  18784-3 0  4486
2 16925  62.0906 295.0239 5596327 245.1593  47.9690  4.88511875148616
"""  # the last two from sgp4's own verification sets


@pytest.mark.parametrize(
    ("error_m", "degree", "shortest_s", "longest_s"),
    [(100.0, 3, 360, 450), (1.0, 7, 600, 1200), (1e-3, 7, 360, 450), (2e-5, 11, 450, 900)],
)
def test_degree_and_segments_follow_from_the_error_and_keep_it(some, error_m, degree, shortest_s, longest_s):
    sky = ephemeris(some, START, HOUR_S, error_m=error_m)
    assert sky.coefficients_m.shape[2] == degree + 1
    assert shortest_s <= sky.segment_s <= longest_s
    flown = np.flatnonzero(sky.error_code == 0)
    assert (sky.fit_error_m[flown] <= error_m).all()
    t_s = np.random.default_rng(5).uniform(0.0, HOUR_S, 9).round(6)
    got = sky.position_m(t_s)
    for i in flown[::6]:
        assert np.linalg.norm(got[i] - by_sgp4(some[i], sky.start_utc, t_s), axis=-1).max() < error_m


def test_the_bound_holds_where_eccentric_orbits_are_lowest():
    for_rows = parse_tle(with_checksums(MIXED), broken="refuse")
    for satellite in for_rows[1:]:
        perigee_s = (360.0 - satellite.mean_anomaly_deg) / 360.0 / satellite.mean_motion_rev_day * 86_400.0
        start = satellite.epoch_utc + timedelta(seconds=perigee_s - 600.0)
        sky = ephemeris([satellite], start, 1_200.0)
        assert sky.error_code[0] == 0
        assert sky.fit_error_m[0] <= ONE_MILLIMETRE
        t_s = np.linspace(0.0, 1_200.0, 41).round(3)
        miss_m = np.linalg.norm(sky.position_m(t_s)[0] - by_sgp4(satellite, sky.start_utc, t_s), axis=-1)
        assert miss_m.max() < ONE_CENTIMETRE  # by_sgp4 counts in microseconds: 1e-6 s of 10 km/s are a centimetre
    finer = ephemeris(for_rows[2:], start, 1_200.0, error_m=1e-4)
    assert finer.coefficients_m.shape[2] == 12
    assert finer.fit_error_m[0] <= 1e-4


def test_an_eccentric_satellite_among_round_ones_gets_segments_of_its_own(satellites):
    round_ones = satellites[::30]
    molniya = replace(
        parse_tle(with_checksums(MIXED), broken="refuse")[1], epoch_jd=2_459_632.5, epoch_fr=0.5, line1="", line2=""
    )
    perigee_s = (360.0 - molniya.mean_anomaly_deg) / 360.0 / molniya.mean_motion_rev_day * 86_400.0
    start = molniya.epoch_utc + timedelta(seconds=perigee_s - HOUR_S / 2)
    plain, sky = ephemeris(round_ones, start, HOUR_S), ephemeris([*round_ones, molniya], start, HOUR_S)
    assert sky.segment_s == plain.segment_s
    assert len(round_ones) in sky.apart.index
    assert (np.diff(sky.apart.of(len(round_ones))[1])[1:-1] < sky.segment_s).all()
    t_s = np.linspace(0.0, HOUR_S, 200)
    expected_m = by_propagator(molniya, sky.start_utc, t_s)
    assert np.linalg.norm(sky.position_m(t_s)[-1] - expected_m, axis=-1).max() < ONE_MILLIMETRE
    assert sky.fit_error_m[-1] <= ONE_MILLIMETRE


def test_the_common_segments_miss_nobody_by_far(satellites):
    high = replace(satellites[0], mean_motion_rev_day=1.0027, eccentricity=0.0, line1="", line2="")
    sky = ephemeris([*[high] * 200, satellites[100]], START, HOUR_S, error_m=1.0)
    assert sky.apart.index.tolist() == [200]
    assert sky.fit_error_m.max() <= 1.0
    t_s = np.linspace(0.0, HOUR_S, 50)
    coarse_m = replace(sky, apart=None).state_of(200, t_s)[0]
    assert np.linalg.norm(coarse_m - sky.state_of(200, t_s)[0], axis=-1).max() < 10.0


def with_checksums(text):
    lines = text.splitlines()
    sums = {line: str(sum(int(c) if c.isdigit() else c == "-" for c in line[:68]) % 10) for line in lines}
    return "\n".join(line[:68].ljust(68) + sums[line] if line[:2] in ("1 ", "2 ") else line for line in lines)


def test_given_segments_are_taken_as_they_are(some):
    sky = ephemeris(some, START, HOUR_S, segment_s=900.0)
    assert sky.coefficients_m.shape[:3] == (4, 3, 8)
    assert np.nanmax(sky.fit_error_m) > ONE_MILLIMETRE  # and it says so


def test_a_path_with_kinks_is_met_too_and_costs_the_others_nothing(satellites):
    others = satellites[::68]
    [satellite] = parse_tle(f"STARLINK-3775\n{KINKED}", broken="refuse")
    with warnings.catch_warnings(action="ignore", category=TleWarning):  # the others are old here
        plain, sky = ephemeris(others, KINK, HOUR_S), ephemeris([*others, satellite], KINK, HOUR_S)
    assert sky.segment_s == plain.segment_s
    assert sky.apart.index.tolist() == [len(others)]
    kinks_s = np.setdiff1d(sky.apart.edges_s, sky.segment_s * np.arange(20))[1:-1]  # the outermost are the margins
    assert 1 <= len(kinks_s) <= 4
    assert sky.fit_error_m[-1] < ONE_MILLIMETRE
    assert np.linalg.norm(kink_m_s(sky, kinks_s[0])) > 10 * ONE_MILLIMETRE  # a second: that is what a kink is
    around_s = np.concatenate([kink_s + np.array([-100.0, -1.0, -1e-3, 1e-3, 1.0, 100.0]) for kink_s in kinks_s])
    t_s = np.concatenate([around_s, np.random.default_rng(6).uniform(0.0, HOUR_S, 200)])
    expected_m = by_propagator(satellite, sky.start_utc, t_s)
    assert np.linalg.norm(sky.state(t_s)[0][-1] - expected_m, axis=-1).max() < ONE_MILLIMETRE
    assert np.linalg.norm(sky.state_of(len(others), t_s)[0] - expected_m, axis=-1).max() < ONE_MILLIMETRE
    coarse_m = replace(sky, apart=None).state(t_s)[0][-1]
    assert np.linalg.norm(coarse_m - expected_m, axis=-1).max() > 100 * ONE_MILLIMETRE
    coefficients_m, span_s = sky.segment(len(others), kinks_s[0] + 1.0)
    np.testing.assert_allclose(
        track(coefficients_m, span_s, kinks_s[:1] + 1.0)[0],
        by_propagator(satellite, sky.start_utc, kinks_s[:1] + 1.0),
        atol=ONE_MILLIMETRE,
    )
    site = Site(latitude_deg=43.5, longitude_deg=-80.5)
    seen = look(sky, latitude_deg=43.5, longitude_deg=-80.5, t_s=t_s).slant_range_m[-1]
    np.testing.assert_allclose(seen, np.linalg.norm(expected_m - site.position_m, axis=1), atol=ONE_MILLIMETRE)


def kink_m_s(sky, at_s):
    """By how much the last satellite's velocity changes from one side of an instant to the other."""
    before, after = (sky.velocity_m_s(at_s + sign * 1e-6)[-1] for sign in (-1, 1))
    return after - before


def by_propagator(satellite, start_utc, t_s):
    """ECEF positions (n, 3) in metres from the batch propagator, which keeps time to the nanosecond."""
    jd, fr, turn, _ = turns(start_utc, t_s)
    _, teme_m, _ = Propagator([satellite]).propagate(np.full(len(fr), jd), fr)
    return np.einsum("tij,tj->ti", turn, teme_m[0])


def test_pieces_are_the_window_cut_up(some):
    whole = ephemeris(some, START, 2 * HOUR_S, segment_s=300.0)
    parts = list(pieces(some, START, 2 * HOUR_S, piece_s=HOUR_S / 2, segment_s=300.0))
    assert [(part.first_s, part.seconds) for part in parts] == [(0, 1800), (1800, 3600), (3600, 5400), (5400, 7200)]
    t_s = np.array([1_810.0, 2_000.0, 3_599.0])
    np.testing.assert_allclose(parts[1].position_m(t_s), whole.position_m(t_s), rtol=0.0, atol=1e-6)
    np.testing.assert_array_equal(parts[1].segment(3, 2_000.0)[1], [1_950.0, 150.0])
    np.testing.assert_allclose(parts[1].segment(3, 2_000.0)[0], whole.segment(3, 2_000.0)[0], rtol=0.0, atol=1e-5)
    with pytest.raises(ValueError, match="from 1800 to 3600 s"):
        parts[1].state(0.0)


def test_a_rolling_ephemeris_gives_the_same_bits_whenever_it_is_asked_and_keeps_three_pieces(some):
    forward, back = Rolling(some, START, piece_s=600.0), Rolling(some, START, piece_s=600.0)
    times_s = [0.0, 100.0, 599.9, 600.0, 1_300.0, 2_900.0, 100_000.0]
    seen = {t_s: forward.state(t_s)[0].tobytes() for t_s in times_s}
    for t_s in reversed(times_s):
        assert back.state(t_s)[0].tobytes() == seen[t_s]
        assert len(back._pieces) <= 3
    assert forward.at(700.0).first_s == 600.0
    with pytest.raises(ValueError, match="0 or more"):
        forward.at(-1.0)
    forward.close()
    back.close()
    with pytest.raises(ValueError, match="piece_s must be greater than 0, got -1"):
        Rolling(some, START, piece_s=-1.0)
    with pytest.raises(ValueError, match="piece_s must be greater than 0, got 0"):
        next(pieces(some, START, HOUR_S, piece_s=0.0))


def test_the_next_piece_is_made_ahead_of_time(some):
    rolling = Rolling(some[:3], START, piece_s=600.0)
    rolling.at(299.0)
    assert list(rolling._pieces) == [0]
    rolling.at(301.0)
    assert list(rolling._pieces) == [0, 1]
    rolling._pieces[1].result(timeout=60)
    rolling.close()


def test_sgp4s_own_velocity_is_skyfields_and_is_not_the_derivative(some):
    sky = ephemeris(some, START, HOUR_S, own_velocity=True)
    timescale = load.timescale(builtin=True)
    t_s = np.linspace(0.0, HOUR_S, 13)
    moments = timescale.utc(2022, 2, 22, 13, 0, t_s)
    own_m_s, slope_m_s = sky.sgp4_velocity_m_s(t_s), sky.velocity_m_s(t_s)
    apart_m_s = []
    for i in np.flatnonzero(sky.error_code == 0)[::5]:
        there = EarthSatellite(some[i].line1, some[i].line2, some[i].name, timescale).at(moments)
        expected_m_s = there.frame_xyz_and_velocity(itrs)[1].km_per_s.T * 1e3
        assert np.linalg.norm(own_m_s[i] - expected_m_s, axis=-1).max() < ONE_MILLIMETRE  # per second
        apart_m_s.append(np.linalg.norm(own_m_s[i] - slope_m_s[i], axis=-1).max())
    assert max(apart_m_s) > 10 * ONE_MILLIMETRE
    with pytest.raises(ValueError, match="own_velocity=True"):
        ephemeris(some[:1], START, 60.0).sgp4_velocity_m_s(0.0)


def test_one_satellite_at_many_times_is_its_row_of_all(sky):
    t_s = np.linspace(0.0, 2 * HOUR_S, 11)
    for one, all_of_them in zip(sky.state_of(17, t_s), sky.state(t_s)):
        np.testing.assert_allclose(one, all_of_them[17], rtol=0.0, atol=1e-6)
