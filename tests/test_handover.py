"""Who serves: schedules against walks in small steps, against each other, and against closed forms."""

import math
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from skies import circular_sky, still_sky

from twin import handover
from twin.geometry import Site, look
from twin.handover import dwell_times_s, handovers, longest_stay
from twin.orbit import ephemeris
from twin.overpass import passes
from twin.tle import TleWarning, read_tle
from twin.units import WGS84_RADIUS_M

ROOT = Path(__file__).resolve().parents[1]
START = "2022-02-22T13:00:00Z"
HOUR_S = 3_600.0
WATERLOO = {"latitude_deg": 43.5, "longitude_deg": -80.5, "altitude_m": 330.0}
TWO_MICROSECONDS = 2e-6
STEP_S = 0.5  # of the walks


@pytest.fixture(scope="module")
def satellites():
    with warnings.catch_warnings(action="ignore", category=TleWarning):
        return read_tle(ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz")


@pytest.fixture(scope="module")
def dense(satellites):
    return ephemeris(satellites[::5], START, HOUR_S)


@pytest.fixture(scope="module")
def thin(satellites):
    return ephemeris(satellites[::150], START, HOUR_S)


def elevations_deg(sky, mask_deg):
    """Times, and elevations (n_satellites, n_times) of those above the mask, -inf of all others."""
    t_s = np.arange(0.0, HOUR_S, STEP_S)
    elevation_deg = look(sky, **WATERLOO, t_s=t_s).elevation_deg
    return t_s, np.where(elevation_deg >= mask_deg, elevation_deg, -np.inf)


def serving(schedule, t_s):
    """Who serves at each of the times, -1 where nobody does."""
    at = np.searchsorted(schedule.from_s, t_s, side="right") - 1
    served = (at >= 0) & (t_s < np.append(schedule.to_s, 0.0)[at])
    return np.where(served, np.append(schedule.satellite_index, -1)[at], -1)


def away_from_edges(schedule, t_s):
    """Times that are not within two steps of a change."""
    edges_s = np.concatenate([schedule.from_s, schedule.to_s, [-9.0, 9e9]])
    edges_s.sort()
    at = np.searchsorted(edges_s, t_s)
    return np.minimum(t_s - edges_s[at - 1], edges_s[at] - t_s) > 2 * STEP_S


@pytest.mark.parametrize(("mask_deg", "which"), [(10.0, "dense"), (25.0, "dense"), (10.0, "thin")])
def test_the_highest_serves_at_every_instant(mask_deg, which, request):
    sky = request.getfixturevalue(which)
    schedule = handovers(sky, **WATERLOO, mask_deg=mask_deg, rule="highest")
    t_s, elevation_deg = elevations_deg(sky, mask_deg)
    highest = np.where(np.isinf(elevation_deg.max(axis=0)), -1, elevation_deg.argmax(axis=0))
    # Also beside the changes: where two are equally high either may serve, and a mask is crossed within a microsecond
    got = serving(schedule, t_s)
    np.testing.assert_array_equal(got, highest)
    assert len(schedule) > (20 if which == "dense" else 3)
    assert len(schedule.gaps_s) > (3 if which == "thin" else -1)


def test_handovers_to_the_highest_are_where_the_two_are_equally_high(dense):
    schedule = handovers(dense, **WATERLOO, rule="highest")
    direct = np.flatnonzero(schedule.from_s[1:] == schedule.to_s[:-1])
    assert schedule.n_handovers == len(direct) > 20
    assert np.abs(schedule.to_elevation_deg[direct] - schedule.from_elevation_deg[direct + 1]).max() < 1e-5
    assert (schedule.from_elevation_deg >= 10.0 - 1e-5).all()


def test_with_a_margin_and_a_least_stay_it_is_what_a_walk_finds(dense):
    mask_deg, margin_deg, least_s = 10.0, 4.0, 40.0
    schedule = handovers(
        dense, **WATERLOO, mask_deg=mask_deg, rule="highest", margin_deg=margin_deg, minimum_stay_s=least_s
    )
    t_s, elevation_deg = elevations_deg(dense, mask_deg)
    # Walk from each of the schedule's own beginnings, so that half a step here does not grow into another story there
    for k, (who, from_s, to_s) in enumerate(zip(schedule.satellite_index, schedule.from_s, schedule.to_s)):
        while_ = (t_s > from_s + least_s) & (t_s < to_s)
        assert (elevation_deg[:, while_].max(axis=0) <= elevation_deg[who, while_] + margin_deg + 1e-6).all()
        sets = np.isinf(elevation_deg[who, np.searchsorted(t_s, to_s + 1e-5)]) if to_s < t_s[-1] else True
        assert sets or to_s - from_s >= least_s
        if not sets:
            ahead_deg = schedule.from_elevation_deg[k + 1] - schedule.to_elevation_deg[k]
            assert ahead_deg > margin_deg - 1e-6
            if to_s > from_s + least_s + 1e-3:
                assert ahead_deg == pytest.approx(margin_deg, abs=1e-5)
    plain = handovers(dense, **WATERLOO, mask_deg=mask_deg, rule="highest")
    assert len(schedule) < len(plain)


@pytest.mark.parametrize("which", ["dense", "thin"])
def test_the_longest_stay_serves_until_it_sets_and_none_of_those_up_stays_longer(which, request):
    sky = request.getfixturevalue(which)
    schedule = handovers(sky, **WATERLOO, mask_deg=25.0)
    above = passes(sky, **WATERLOO, mask_deg=25.0)
    for who, from_s, to_s in zip(schedule.satellite_index, schedule.from_s, schedule.to_s):
        up = above[(above.rise_s <= from_s) & (above.set_s > from_s)]
        assert to_s == up.set_s.max()
        assert who in up.satellite_index[up.set_s == to_s]
    t_s, elevation_deg = elevations_deg(sky, 25.0)
    calm = away_from_edges(schedule, t_s)
    np.testing.assert_array_equal((serving(schedule, t_s) < 0)[calm], np.isinf(elevation_deg.max(axis=0))[calm])
    assert schedule.n_handovers < len(schedule)


@pytest.mark.parametrize("rule", ["longest", "highest"])
def test_services_and_gaps_fill_the_window(dense, thin, rule):
    for sky in (dense, thin, still_sky([[7e6, 0.0, 0.0]])):
        schedule = handovers(sky, **WATERLOO, mask_deg=30.0, rule=rule)
        pieces = sorted([*zip(schedule.from_s, schedule.to_s), *map(tuple, schedule.gaps_s)])
        assert pieces[0][0] == 0.0
        assert pieces[-1][1] == sky.seconds
        assert all(one[1] == two[0] for one, two in pairwise(pieces))
        assert all(begin < end for begin, end in pieces)
        for times_s, angles_deg in (
            (schedule.from_s, schedule.from_elevation_deg),
            (schedule.to_s, schedule.to_elevation_deg),
        ):
            for who, at_s, angle_deg in zip(schedule.satellite_index, times_s, angles_deg):
                seen_deg = look(sky, **WATERLOO, t_s=at_s).elevation_deg[who]
                assert angle_deg == pytest.approx(seen_deg, abs=1e-6)


def test_two_that_follow_each_other_hand_over_half_way_between_their_culminations():
    one = circular_sky(WGS84_RADIUS_M + 600e3, 90.0, 2_000.0)  # overhead at 1,000 s, on a sphere that does not turn
    behind_s = 200.0
    two = np.roll(one.coefficients_m, int(behind_s / one.segment_s), axis=0)  # the same, two segments later
    two[:2] = np.nan_to_num(two[:2]) * 0.0 - np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])[:, None] * 7e6
    both = still_sky([[7e6, 0.0, 0.0]] * 2)
    sky = type(one)(
        both.satellites, one.start_utc, one.seconds, one.segment_s,
        np.concatenate([one.coefficients_m, two], axis=3), both.error_code, both.fit_error_m,
    )  # fmt: skip
    equator = {"latitude_deg": 0.0, "longitude_deg": 0.0}
    schedule = handovers(sky, **equator, rule="highest")
    assert schedule.satellite_index.tolist() == [0, 1]
    assert schedule.to_s[0] == pytest.approx(1_100.0, abs=1e-4)
    stay = handovers(sky, **equator, rule="highest", minimum_stay_s=10_000.0)
    first, second = passes(sky, **equator)
    assert stay.to_s.tolist() == [first.set_s, second.set_s]
    assert handovers(sky, **equator).to_s.tolist() == [first.set_s, second.set_s]


def test_a_lead_within_rounding_of_the_margin_does_not_stop_time():
    both = still_sky([[42.164e6, 0.0, 0.0]] * 2)
    coefficients_m = both.coefficients_m.copy()
    coefficients_m[0, 1, 0, 1], coefficients_m[0, 1, 1, 1] = 0.0, -0.3  # the second comes nearer, 1 cm/s
    sky = replace(both, coefficients_m=coefficients_m)
    for margin_deg in 1.75e-9 * np.linspace(1.0, 1.4, 20):
        schedule = handovers(sky, latitude_deg=0.0, longitude_deg=-40.0, rule="highest", margin_deg=margin_deg)
        assert schedule.satellite_index.tolist() == [0, 1]
        assert schedule.to_s[0] == pytest.approx(30.0, abs=0.5)
    assert len(handovers(sky, latitude_deg=0.0, longitude_deg=-40.0, rule="highest", margin_deg=math.inf)) == 1


def test_the_longest_stay_over_whole_cycles_is_what_a_walk_from_cycle_to_cycle_finds():
    rng = np.random.default_rng(9)
    for cycle_s in (0.1, 1.0, 7.0):
        rise_s = np.sort(rng.uniform(0.0, 500.0, 40).round(1))
        set_s = rise_s + rng.uniform(0.5, 60.0, 40).round(1)
        begin, end = np.ceil(rise_s / cycle_s), np.floor(set_s / cycle_s)
        expected, cycle = [], 0
        while cycle <= end.max():
            whole = np.flatnonzero((begin <= cycle) & (cycle < end))
            if len(whole):
                which = max(whole, key=lambda i: (set_s[i], i))
                expected.append((which, cycle, end[which]))
            cycle = end[which] if len(whole) else cycle + 1
        assert longest_stay(begin, end, set_s, 90 - np.arange(40)) == expected


def test_ties_go_to_the_smaller_number():
    assert longest_stay([0.0, 0.0, 1.0], [5.0, 5.0, 4.0], [5.0, 5.0, 4.0], [8, 3, 1]) == [(1, 0.0, 5.0)]
    sky = still_sky([[7e6, 0.0, 0.0], [7e6, 0.0, 0.0]])
    for rule in ("longest", "highest"):
        assert handovers(sky, latitude_deg=0.0, longitude_deg=0.0, rule=rule).satellite_index.tolist() == [0]


def test_dwell_times_are_those_of_passes_that_the_window_does_not_cut(dense):
    found = passes(dense, **WATERLOO, mask_deg=25.0)
    assert dwell_times_s(found).tolist() == [one.set_s - one.rise_s for one in found if not one.cut]
    assert len(dwell_times_s(passes(still_sky([[7e6, 0.0, 0.0]]), **WATERLOO))) == 0


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"rule": "nearest"}, 'rule must be "longest" or "highest", got \'nearest\''),
        ({"rule": "highest", "margin_deg": -1.0}, "0 or more"),
        ({"rule": "highest", "minimum_stay_s": float("nan")}, "0 or more"),
        ({"rule": "highest", "step_s": 0.0}, "step_s 1e-06 or more"),
        ({"rule": "highest", "step_s": 1e-15}, "step_s 1e-06 or more"),  # time would stand still
        ({"margin_deg": 2.0}, 'are for rule "highest"'),
        ({"mask_deg": 91.0}, "mask_deg"),
    ],
)
def test_a_rule_that_is_none_is_refused(wrong, reason):
    with pytest.raises(ValueError, match=reason):
        handovers(still_sky([[7e6, 0.0, 0.0]]), **WATERLOO, **wrong)


def test_the_kernels_give_the_same_uncompiled(satellites, monkeypatch):
    sky = ephemeris(satellites[::12], START, 1_800.0)
    site = Site(**WATERLOO)
    above = passes(sky, **WATERLOO)
    where = sky.coefficients_m, sky.first_s, sky.segment_s, site.position_m, site.axes[2]
    numbers = above.satellite_index.astype(np.int64)
    rest = sky.seconds, above.satellite_index, numbers, above.rise_s, above.set_s, 0.0, 0.0, 60.0
    compiled = handover.serve_highest(*where, *rest)
    for name in ("overtaken_s", "ahead", "elevation"):
        monkeypatch.setattr(handover, name, getattr(handover, name).py_func)
    plain = handover.serve_highest.py_func(*where, *rest)
    assert len(compiled) > 2
    np.testing.assert_allclose(plain, compiled, rtol=0.0, atol=TWO_MICROSECONDS)
