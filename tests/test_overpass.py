"""Passes against skyfield, against dense looks, and against closed forms on a sphere."""

import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from skies import circular_sky, still_sky
from skyfield.api import EarthSatellite, load, wgs84

from twin import overpass
from twin.catalogue import select
from twin.frames import turns
from twin.geometry import Site, look, look_angles
from twin.orbit import ephemeris, pieces
from twin.overpass import Pass, Passes, find_passes, passes
from twin.tle import TleWarning, parse_tle, read_tle
from twin.units import EARTH_MU_M3_S2, WGS84_RADIUS_M, utc

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "tle"
START = "2022-02-22T13:00:00Z"
HOUR_S = 3_600.0
WATERLOO = {"latitude_deg": 43.5, "longitude_deg": -80.5, "altitude_m": 330.0}
HALF_A_SECOND = 0.5
ONE_SECOND = 1.0
ONE_MILLISECOND = 1e-3
TWO_MICROSECONDS = 2e-6
COLUMNS = ("satellite_index", "rise_s", "culmination_s", "set_s", "max_elevation_deg", "cut")


@pytest.fixture(scope="module")
def satellites():
    with warnings.catch_warnings(action="ignore", category=TleWarning):
        return read_tle(ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz")


@pytest.fixture(scope="module")
def timescale():
    return load.timescale(builtin=True)


@pytest.fixture(scope="module")
def sky(satellites):
    return ephemeris(satellites[::7], START, 2 * HOUR_S)


def assert_same(found, expected):
    """The same passes, their times within two microseconds: twice what each is refined to."""
    np.testing.assert_array_equal(found.satellite_index, expected.satellite_index)
    np.testing.assert_array_equal(found.cut, expected.cut)
    for name in ("rise_s", "culmination_s", "set_s"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0.0, atol=TWO_MICROSECONDS)
    np.testing.assert_allclose(found.max_elevation_deg, expected.max_elevation_deg, rtol=0.0, atol=1e-6)


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
        # skyfield finds a culmination to half a second only, and the elevation is flat there
        assert abs(ours[2] - theirs[2]) < (ONE_SECOND if ours[1] == 1 else HALF_A_SECOND)


@pytest.mark.parametrize("mask_deg", [0.0, 10.0])
def test_a_day_of_passes_has_skyfields_rises_and_sets(satellites, timescale, mask_deg):
    some = satellites[::25]
    found = find_passes(some, START, 24 * HOUR_S, **WATERLOO, mask_deg=mask_deg)
    assert len(found) > 500
    t0 = timescale.utc(2022, 2, 22, 13)
    topos = wgs84.latlon(*WATERLOO.values())
    for i, one in enumerate(some):
        model = EarthSatellite(one.line1, one.line2, None, timescale)
        moments, events = model.find_events(topos, t0, t0 + 1.0, altitude_degrees=mask_deg)
        mine = found[found.satellite_index == i]
        edges_s = mine.rise_s[mine.rise_s > 0.0], mine.set_s[mine.set_s < 24 * HOUR_S]
        for ours_s, which in zip(edges_s, (0, 2), strict=True):
            theirs_s = (moments[events == which] - t0) * 86_400.0
            assert len(ours_s) == len(theirs_s), one.name
            np.testing.assert_allclose(ours_s, theirs_s, rtol=0.0, atol=HALF_A_SECOND)


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


def test_a_mask_beyond_the_zenith_is_refused(sky):
    with pytest.raises(ValueError, match="mask_deg must be from -90 to 90, got 91"):
        passes(sky, **WATERLOO, mask_deg=91.0)
    with pytest.raises(ValueError, match="mask_deg must be from -90 to 90, got nan"):
        find_passes(sky.satellites, START, HOUR_S, **WATERLOO, mask_deg=float("nan"))


def test_a_place_off_the_earth_is_refused_by_name(sky):
    for latitude_deg in (91.0, float("nan")):
        with pytest.raises(ValueError, match=r"no such site.*latitude_deg"):
            passes(sky, latitude_deg=latitude_deg, longitude_deg=0.0)


@pytest.mark.parametrize("mask_deg", [-90.0, -5.0, 0.0, 10.0, 60.0])
def test_passes_from_element_sets_are_those_of_the_ephemeris(satellites, sky, mask_deg):
    found = find_passes(satellites[::7], START, 2 * HOUR_S, **WATERLOO, mask_deg=mask_deg)
    assert_same(found, passes(sky, **WATERLOO, mask_deg=mask_deg))
    assert len(found) > (5 if mask_deg > 50.0 else 100)


@pytest.mark.parametrize("mask_deg", [-5.0, 25.0])
def test_a_pass_cut_at_the_edge_of_a_piece_is_one_pass(satellites, sky, mask_deg):
    whole = passes(sky, **WATERLOO, mask_deg=mask_deg)
    for piece_s in (600.0, 1_050.0):
        split = passes(pieces(satellites[::7], START, 2 * HOUR_S, piece_s=piece_s), **WATERLOO, mask_deg=mask_deg)
        assert_same(split, whole)


def test_a_long_window_from_element_sets_is_flown_in_pieces(satellites, monkeypatch):
    arguments = satellites[::20], START, 2 * HOUR_S
    whole = find_passes(*arguments, **WATERLOO)
    monkeypatch.setattr(overpass, "PIECE_S", 1_500.0)
    monkeypatch.setattr(overpass, "BLOCK_BYTES", 1.0)  # a segment at a time
    assert_same(find_passes(*arguments, **WATERLOO), whole)
    assert_same(passes(ephemeris(*arguments), **WATERLOO), whole)


def test_pieces_that_do_not_follow_each_other_are_refused(satellites):
    first, _, third = pieces(satellites[:3], START, 900.0, piece_s=300.0)
    with pytest.raises(ValueError, match=r"must follow each other.*after 300 s with 3 of them came one from 600 s"):
        passes([first, third], **WATERLOO)
    with pytest.raises(ValueError, match="must follow each other"):
        passes([first, ephemeris(satellites[:2], START, 600.0, first_s=300.0)], **WATERLOO)
    with pytest.raises(ValueError, match="no piece"):
        passes([], **WATERLOO)
    with pytest.raises(ValueError, match="need a satellite and seconds > 0"):
        find_passes([], START, 60.0, **WATERLOO)
    with pytest.raises(ValueError, match="need a satellite and seconds > 0, got 3 of them and inf s"):
        find_passes(satellites[:3], START, float("inf"), **WATERLOO)


def test_who_is_lost_in_a_later_piece_has_a_cut_pass_until_then(satellites):
    first, second = pieces(satellites[:30], START, 1_200.0, piece_s=600.0)
    lost = second.coefficients_m.copy()
    lost[..., 4] = np.nan
    found = passes([first, replace(second, coefficients_m=lost)], **WATERLOO, mask_deg=-90.0)
    assert [one.set_s for one in found] == [600.0 if i == 4 else 1_200.0 for i in range(30)]
    assert found.cut.all()


def test_high_and_eccentric_orbits_pass_as_skyfield_says(timescale):
    path = SHARED / "SGP4-VER.TLE"
    if not path.is_file():
        pytest.skip("the verification sets are beside the project, in ../shared/tle, and not here")
    with warnings.catch_warnings(action="ignore", category=TleWarning):
        lines = [line[:69] for line in path.read_text().splitlines() if line[:2] in ("1 ", "2 ")]
        deep = [one for one in parse_tle("\n".join(lines)) if one.number in (8195, 9880, 21897, 26900, 28129)]
    for one in deep:
        start = one.epoch_utc.replace(microsecond=0)
        found = find_passes([one], start, 24 * HOUR_S, **WATERLOO, mask_deg=5.0)
        t0 = timescale.from_datetime(start)
        model = EarthSatellite(one.line1, one.line2, None, timescale)
        topos = wgs84.latlon(*WATERLOO.values())
        moments, events = model.find_events(topos, t0, t0 + 1.0, altitude_degrees=5.0)
        theirs = [[(t - t0) * 86_400.0 for t, e in zip(moments, events) if e == which] for which in (0, 2)]
        ours = [found.rise_s[found.rise_s > 0.0], found.set_s[found.set_s < 24 * HOUR_S]]
        for got, wanted in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0.0, atol=HALF_A_SECOND)
    assert len(deep) >= 4


def test_a_satellite_that_stands_still_is_up_all_the_time_or_never():
    sky = still_sky([[42e6, 0.0, 0.0], [-42e6, 0.0, 0.0], [np.nan] * 3])
    [one] = passes(sky, latitude_deg=0.0, longitude_deg=0.0)
    assert one.cut
    assert (one.satellite_index, one.rise_s, one.set_s) == (0, 0.0, 60.0)
    assert one.max_elevation_deg == pytest.approx(90.0)


def test_above_the_nadir_is_everybody_and_a_zenith_is_at_ninety_degrees():
    rng = np.random.default_rng(1)
    for latitude_deg, longitude_deg in zip(rng.uniform(-90.0, 90.0, 30), rng.uniform(-180.0, 180.0, 30)):
        site = Site(latitude_deg=latitude_deg, longitude_deg=longitude_deg)
        sky = still_sky([site.position_m - 13e6 * site.axes[2], site.position_m + 1e6 * site.axes[2]])
        below, above = passes(sky, latitude_deg=latitude_deg, longitude_deg=longitude_deg, mask_deg=-90.0)
        assert below.max_elevation_deg == pytest.approx(-90.0, abs=1e-5)
        assert above.max_elevation_deg == pytest.approx(90.0, abs=1e-5)


def test_a_setting_where_two_segments_meet_is_no_pass_of_its_own():
    """The polynomials differ there by rounding, and a mask between the two is crossed down, up and down again."""
    sky = circular_sky(WGS84_RADIUS_M + 600e3, 90.0, 2_000.0)
    n_found = 0
    for longitude_deg in np.linspace(0.0, 3.0, 40):
        place = {"latitude_deg": 0.0, "longitude_deg": longitude_deg}
        site = Site(**place)
        for k in range(8, 14):
            before, after = (
                overpass.sine_elevation(sky.coefficients_m[k + i, :, :, 0], u, site.position_m, site.axes[2])
                for i, u in ((0, 1.0), (1, -1.0))
            )
            mask_deg = np.degrees(np.arcsin(0.5 * (before[0] + after[0])))
            sine_mask = overpass.sine_of(mask_deg)
            if min(before[0], after[0]) < sine_mask < max(before[0], after[0]):
                n_found += 1
                assert len(passes(sky, **place, mask_deg=mask_deg)) == 1
    assert n_found > 20


def test_who_stands_at_the_mask_for_an_instant_at_the_windows_edge_has_no_pass():
    sky = circular_sky(WGS84_RADIUS_M + 600e3, 90.0, 2_000.0)
    equator = {"latitude_deg": 0.0, "longitude_deg": 0.0}
    site, last = Site(**equator), len(sky.coefficients_m) - 1
    early = replace(sky, coefficients_m=sky.coefficients_m[:8], seconds=800.0)  # coming up
    late = replace(sky, coefficients_m=sky.coefficients_m[12:], first_s=1_200.0)  # going down
    for part, k, u in ((early, 7, 1.0), (late, 0, -1.0)):
        sine, _ = overpass.sine_elevation(part.coefficients_m[k, :, :, 0], u, site.position_m, site.axes[2])
        masks_deg = np.degrees(np.arcsin(sine)) + np.arange(-20, 20) * 1e-15
        for found in (passes(part, **equator, mask_deg=mask_deg) for mask_deg in masks_deg):
            assert (found.set_s > found.rise_s).all()
    assert last == 19


def test_no_pass_ends_or_culminates_beyond_its_window(satellites):
    for seconds in (1.0, 299.0, 1_000.3):
        found = find_passes(satellites[::40], START, seconds, **WATERLOO, mask_deg=-40.0)
        assert len(found) > 10
        assert (found.rise_s <= found.culmination_s).all()
        assert (found.culmination_s <= found.set_s).all()
        assert found.set_s.max() == seconds


def test_where_sgp4_has_lost_its_hold_nothing_is_ruled_out():
    """Its velocities are not the slopes of its positions there, which still come without an error."""
    [one] = still_sky(np.zeros((1, 3))).satellites
    lost = [
        replace(one, mean_motion_rev_day=rev_day, eccentricity=eccentricity, bstar=bstar, epoch_fr=-days)
        for rev_day, eccentricity, bstar, days in (
            (15.55, 0.006, -0.01, 200.0), (16.33, 0.001, 0.1, 10.0), (5.07, 0.96, 0.1, 3.0), (5.71, 0.969, 0.0, 30.0)
        )
    ]  # fmt: skip
    flight = overpass._Flight(tuple(lost), utc(START), None)
    begin_s = np.arange(24) * overpass.SEGMENT_S
    jd, fr, turn, _ = turns(flight.start_utc, np.arange(0.0, 24 * overpass.SEGMENT_S, 10.0))
    error, position_m, _ = flight.sgp4.propagate(np.full(len(fr), jd), fr)
    position_m = np.einsum("tij,ntj->nti", turn, position_m)
    flown = ~(error != 0).any(axis=1)
    assert flown.sum() > 1
    for latitude_deg in (-90.0, 0.0, 60.0):
        site = Site(latitude_deg=latitude_deg, longitude_deg=0.0)
        for mask_deg in (-60.0, -5.0, 5.0, 60.0):
            elevation_deg = look_angles(position_m.reshape(-1, 3), position_m.reshape(-1, 3), site).elevation_deg
            reached = (elevation_deg.reshape(4, 24, -1) >= mask_deg).any(axis=2)
            near = flight.near(begin_s, overpass._Where(site, overpass.sine_of(mask_deg), None)) > 0
            assert not (reached & ~near)[flown].any()


def test_passes_from_old_element_sets_come_with_a_warning(satellites):
    with pytest.warns(TleWarning, match="days after the median epoch") as caught:
        find_passes(satellites[:5], "2022-03-22T13:00:00Z", 60.0, **WATERLOO)
    assert caught[0].filename == __file__


def test_passes_are_a_sequence_of_pass(sky):
    found = passes(sky, **WATERLOO)
    listed = list(found)
    assert len(listed) == len(found) > 100
    assert all(isinstance(one, Pass) for one in listed)
    assert found[0] == listed[0]
    assert found[-1] == listed[-1]
    assert isinstance(found[::20], Passes)
    assert list(found[::20]) == listed[::20]
    assert list(found[found.cut]) == [one for one in listed if one.cut]
    assert listed[3] in found
    with pytest.raises(IndexError):
        found[len(found)]


def test_the_number_of_threads_does_not_show_in_the_passes(satellites, sky):
    for found in (
        [passes(sky, **WATERLOO, threads=threads) for threads in (1, 2, 5)],
        [find_passes(satellites[::20], START, HOUR_S, **WATERLOO, threads=threads) for threads in (1, 2, 5)],
    ):
        for one, two in pairwise(found):
            for name in COLUMNS:
                np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_the_bounds_say_no_only_where_the_mask_is_not_reached(satellites):
    some = satellites[::60]
    sky = ephemeris(some, START, 2 * HOUR_S, segment_s=overpass.SEGMENT_S)
    t_s = np.arange(0.0, 2 * HOUR_S, 10.0)
    for mask_deg in (-30.0, 0.0, 20.0):
        where = overpass._Where(Site(**WATERLOO), overpass.sine_of(mask_deg), None)
        up = look(sky, **WATERLOO, t_s=t_s).elevation_deg >= mask_deg
        reached = up.reshape(len(some), 24, 30).any(axis=2)
        satellite, segment, _ = overpass._near(sky.coefficients_m, where)
        near = np.zeros_like(reached)
        near[satellite, segment] = True
        flight = overpass._Flight(tuple(some), sky.start_utc, None)
        before = flight.near(np.arange(24) * overpass.SEGMENT_S, where) > 0
        for bound in (near, before):
            assert not (reached & ~bound).any()
            assert bound.mean() < 2.0 * reached.mean() + 0.1  # and not everywhere


def test_the_kernels_give_the_same_uncompiled(satellites):
    sky = circular_sky(WGS84_RADIUS_M + 600e3, 90.0, 2_000.0)
    site = Site(latitude_deg=0.0, longitude_deg=2.0)
    where = overpass._Where(site, 0.5, 1)
    near = np.zeros((1, 20), dtype=np.uint8)
    overpass.may_rise.py_func(sky.coefficients_m, 0, 1, site.position_m, site.axes[2], 0.5, near)
    satellite, segment, rows_m = overpass._near(sky.coefficients_m, where)
    np.testing.assert_array_equal(np.nonzero(near), (satellite, segment))
    taken = np.empty_like(rows_m)
    overpass.gather.py_func(sky.coefficients_m, satellite, segment, 0, len(segment), taken)
    np.testing.assert_array_equal(taken, rows_m)

    def found_by(kernel):
        start = np.array([0, len(segment)])
        rest = site.position_m, site.axes[2], 0.5, np.zeros(1, dtype=np.uint8), np.zeros((1, overpass.N_STATE))
        return kernel(0, 1, start, segment, rows_m, 0.0, 100.0, 2_000.0, 0.0, *rest)

    found = found_by(overpass.passes_of_some)
    assert found.shape == (1, 6)
    np.testing.assert_allclose(found_by(overpass.passes_of_some.py_func), found, rtol=0.0, atol=1e-9)
    for u in (-1.0, 0.3, 1.0):
        sine, rate = overpass.sine_elevation.py_func(rows_m[0], u, site.position_m, site.axes[2])
        assert overpass.sine_elevation(rows_m[0], u, site.position_m, site.axes[2]) == pytest.approx((sine, rate))
        t_s = 100.0 * (segment[0] + 0.5 * (1.0 + u))
        seen = look(sky, latitude_deg=0.0, longitude_deg=2.0, t_s=t_s - (1e-9 if u == 1.0 else 0.0))
        assert sine == pytest.approx(np.sin(np.radians(seen.elevation_deg[0])), abs=1e-11)
        ahead, behind = (
            overpass.sine_elevation(rows_m[0], u + sign * 1e-4, site.position_m, site.axes[2])[0] for sign in (1, -1)
        )
        assert rate == pytest.approx((ahead - behind) / 2e-4, rel=1e-4, abs=1e-9)

    flight = overpass._Flight(tuple(satellites[:3]), ephemeris(satellites[:3], START, 60.0).start_utc, None)
    everywhere = overpass._Where(site, -0.2, 1)
    begin_s = np.arange(6) * overpass.SEGMENT_S
    near = flight.near(begin_s, everywhere)
    rows = flight.polynomials(near, begin_s, 1)
    plain = {name: getattr(overpass, name) for name in ("states_may_rise", "near_earth_may_rise", "fit_rows")}
    with pytest.MonkeyPatch.context() as patch:
        for name, kernel in plain.items():
            patch.setattr(overpass, name, kernel.py_func)
        np.testing.assert_array_equal(flight.near(begin_s, everywhere), near)
        for got, expected in zip(flight.polynomials(near, begin_s, 1), rows):
            np.testing.assert_allclose(got, expected, rtol=0.0, atol=1e-6)
    assert 0 < near.sum() < near.size
