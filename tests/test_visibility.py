"""Visible sets with culling against all pairs, against look, and against the cap of a sphere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skies import still_sky

from twin import visibility
from twin.geometry import Site, look
from twin.overpass import sine_of
from twin.units import WGS84_RADIUS_M
from twin.visibility import site_array, visible, visible_from

HUNDREDTH_OF_A_MILLIDEGREE = 1e-5
LOWEST_M, HIGHEST_M = 6_500e3, 42_200e3


def on_a_ball(rng, n):
    directions = rng.normal(size=(n, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def places(rng, n):
    """Sites anywhere, the poles, the date line and two at one place among them."""
    latitude_deg = np.degrees(np.arcsin(rng.uniform(-1.0, 1.0, n)))
    longitude_deg, altitude_m = rng.uniform(-180.0, 180.0, n), rng.choice([-400.0, 0.0, 8_000.0, 50_000.0], n)
    latitude_deg[:4], longitude_deg[4:8] = [90.0, -90.0, 0.0, 0.0][: len(latitude_deg[:4])], 180.0
    longitude_deg[6:7], altitude_m[2:4], longitude_deg[2:4] = -180.0, 0.0, 0.0
    return latitude_deg, longitude_deg, altitude_m


def equal(one, two):
    for name in ("offsets", "satellite_index", "elevation_deg", "best_index", "best_elevation_deg"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_sites=st.integers(1, 700),
    n_satellites=st.integers(1, 60),
    mask_deg=st.one_of(st.floats(-90.0, 89.0), st.sampled_from([-90.0, -89.9, 0.0, 10.0])),
    low_only=st.booleans(),
)
def test_culling_changes_nothing(seed, n_sites, n_satellites, mask_deg, low_only):
    rng = np.random.default_rng(seed)
    radius_m = rng.uniform(LOWEST_M, 7_500e3 if low_only else HIGHEST_M, (n_satellites, 1))
    position_m, sites = on_a_ball(rng, n_satellites) * radius_m, site_array(*places(rng, n_sites))
    position_m[rng.random(n_satellites) < 0.05] = np.nan
    culled = visible_from(position_m, sites, sine_of(mask_deg))
    everything = visible_from(position_m, sites, sine_of(mask_deg), all_pairs=True)
    equal(culled, everything)
    assert culled.pairs_touched <= everything.pairs_touched <= 1.0
    assert len(culled.satellite_index) <= culled.pairs_touched * n_sites * n_satellites + 1e-6


@pytest.mark.parametrize("mask_deg", [-90.0, -20.0, 0.0, 10.0, 45.0])
def test_the_visible_sets_are_those_of_look(mask_deg):
    rng = np.random.default_rng(3)
    sky = still_sky(on_a_ball(rng, 200) * rng.uniform(LOWEST_M, HIGHEST_M, (200, 1)))
    where = places(rng, 30)
    found = visible(sky, site_array(*where), 30.0, mask_deg)
    assert len(found.offsets) == 31
    for j, (latitude_deg, longitude_deg, altitude_m) in enumerate(zip(*where)):
        seen_deg = look(
            sky, latitude_deg=latitude_deg, longitude_deg=longitude_deg, altitude_m=altitude_m, t_s=30.0
        ).elevation_deg
        index, elevation_deg = found.of(j)
        np.testing.assert_array_equal(index, np.flatnonzero(seen_deg >= mask_deg))
        np.testing.assert_allclose(elevation_deg, seen_deg[index], rtol=0.0, atol=HUNDREDTH_OF_A_MILLIDEGREE)
        assert found.count[j] == len(index)
        if len(index):
            assert found.best_index[j] == index[elevation_deg.argmax()]
            assert found.best_elevation_deg[j] == elevation_deg.max()
        else:
            assert found.best_index[j] == -1
            assert np.isnan(found.best_elevation_deg[j])


def test_the_share_seen_from_above_is_that_of_a_cap(monkeypatch):
    """On a sphere, a satellite at h sees the cap of cos(mask + angle) = cos(mask) R / (R + h) around it."""
    monkeypatch.setattr(visibility, "WGS84_FLATTENING", 0.0)
    n = 40_000
    turn = np.arange(n) + 0.5  # a spiral that covers the sphere evenly
    sites = site_array(np.degrees(np.arcsin(1.0 - 2.0 * turn / n)), (turn * 222.492_236) % 360.0 - 180.0)
    for altitude_m, mask_deg in ((550e3, 10.0), (550e3, 40.0), (1_200e3, 0.0), (35_786e3, 5.0)):
        radius_m, mask_rad = WGS84_RADIUS_M + altitude_m, np.radians(mask_deg)
        position_m = np.array([[radius_m, 0.0, 0.0], [0.0, 0.0, -radius_m], [0.6 * radius_m, 0.0, 0.8 * radius_m]])
        found = visible_from(position_m, sites, np.sin(mask_rad))
        angle_rad = np.arccos(np.cos(mask_rad) * WGS84_RADIUS_M / radius_m) - mask_rad
        seen = np.bincount(found.satellite_index, minlength=3) / n
        np.testing.assert_allclose(seen, 0.5 * (1.0 - np.cos(angle_rad)), rtol=0.03)


def test_low_orbits_are_culled_though_high_ones_are_among_them():
    rng = np.random.default_rng(5)
    latitude_deg, longitude_deg, _ = places(rng, 3_000)
    sites = site_array(latitude_deg, longitude_deg)
    radius_m = np.where(np.arange(500) < 5, 42_164e3, 6_928e3)[:, None]
    found = visible_from(on_a_ball(rng, 500) * radius_m, sites, sine_of(25.0))
    share = len(found.satellite_index) / (500 * 3_000)
    assert share < 0.01
    assert found.pairs_touched < 4.0 * share


def test_a_satellite_below_a_mountain_is_still_seen_where_it_stands_high():
    sites = site_array([0.0, 0.0, 0.0], [0.0, 0.2, 90.0], [0.0, 50e3, 0.0])
    position_m = np.array([[WGS84_RADIUS_M + 30e3, 0.0, 0.0]])  # 30 km over the first, below the second
    for mask_deg, expected in ((0.0, [1, 0, 0]), (-60.0, [1, 1, 1]), (-90.0, [1, 1, 1])):
        for all_pairs in (False, True):
            found = visible_from(position_m, sites, sine_of(mask_deg), all_pairs=all_pairs)
            assert found.count.tolist() == expected


def test_a_site_array_is_many_sites():
    rng = np.random.default_rng(6)
    where = places(rng, 100)
    sites = site_array(*where)
    assert len(sites) == 100
    for j, (latitude_deg, longitude_deg, altitude_m) in enumerate(zip(*where)):
        one = Site(latitude_deg=latitude_deg, longitude_deg=longitude_deg, altitude_m=altitude_m)
        np.testing.assert_allclose(sites.position_m[:, j], one.position_m, rtol=0.0, atol=1e-8)
        np.testing.assert_allclose(sites.up[:, j], one.axes[2], rtol=0.0, atol=1e-15)
    assert sorted(sites.order.tolist()) == list(range(100))
    assert np.diff(sites.group_start).max() <= visibility.GROUP
    direction = (sites.position_m / np.linalg.norm(sites.position_m, axis=0)).T[sites.order]
    for cap, first, last in zip(sites.group_cap, sites.group_start, sites.group_start[1:]):
        assert (direction[first:last] @ cap[:3] >= np.cos(cap[3] + 1e-9)).all()
    assert len(site_array(10.0, 20.0)) == 1


def test_site_objects_will_do_too():
    sky = still_sky([[7e6, 0.0, 0.0]])
    listed = [Site(latitude_deg=0.0, longitude_deg=0.0), Site(latitude_deg=0.0, longitude_deg=180.0)]
    found = visible(sky, listed, 0.0)
    assert found.count.tolist() == [1, 0]
    assert found.best_elevation_deg[0] == pytest.approx(90.0, abs=HUNDREDTH_OF_A_MILLIDEGREE)


def test_no_sites_no_satellites_and_none_that_fly_are_empty_answers():
    nobody = np.zeros((0, 3))
    for position_m, sites in (
        (nobody, site_array(*np.zeros((2, 3)))),
        (np.full((4, 3), np.nan), site_array(*np.zeros((2, 3)))),
        (np.full((4, 3), 7e6), site_array(*np.zeros((2, 0)))),
        (nobody, site_array(*np.zeros((2, 0)))),
    ):
        for all_pairs in (False, True):
            found = visible_from(position_m, sites, sine_of(-90.0), all_pairs=all_pairs)
            assert found.offsets.tolist() == [0] * (len(sites) + 1)
            assert len(found.satellite_index) == len(found.elevation_deg) == 0
            assert (found.best_index == -1).all()
    assert len(visible(still_sky([[7e6, 0.0, 0.0]]), [], 0.0).count) == 0


def test_the_number_of_threads_does_not_show():
    rng = np.random.default_rng(7)
    position_m, sites = on_a_ball(rng, 300) * 7e6, site_array(*places(rng, 2_000))
    found = [visible_from(position_m, sites, sine_of(5.0), threads=threads) for threads in (1, 2, 7)]
    for other in found[1:]:
        equal(found[0], other)
        assert found[0].pairs_touched == other.pairs_touched


def test_the_kernels_give_the_same_uncompiled(monkeypatch):
    rng = np.random.default_rng(8)
    position_m, sites = on_a_ball(rng, 12) * rng.uniform(7e6, 9e6, (12, 1)), site_array(*places(rng, 25))
    compiled = visible_from(position_m, sites, sine_of(-10.0))
    for name in ("rows_of_region", "row_of_site", "keep", "arcsine_deg", "put_rows"):
        monkeypatch.setattr(visibility, name, getattr(visibility, name).py_func)
    plain = visible_from(position_m, sites, sine_of(-10.0), threads=1)
    np.testing.assert_array_equal(plain.offsets, compiled.offsets)
    np.testing.assert_array_equal(plain.satellite_index, compiled.satellite_index)
    np.testing.assert_array_equal(plain.best_index, compiled.best_index)
    np.testing.assert_allclose(plain.elevation_deg, compiled.elevation_deg, rtol=0.0, atol=1e-12)
    assert plain.pairs_touched == compiled.pairs_touched


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (([0.0, 91.0], [0.0, 0.0]), "number 1 is at latitude_deg 91"),
        (([0.0, 0.0], [181.0, 0.0]), "number 0 is at .* longitude_deg 181"),
        ((0.0, 0.0, -600.0), "altitude_m -600"),
        (([np.nan], [0.0]), "latitude_deg nan"),
        (([[0.0]], [[0.0]]), "one-dimensional"),
    ],
)
def test_places_off_the_earth_are_refused_by_number(place, reason):
    with pytest.raises(ValueError, match=reason):
        site_array(*place)


def test_a_mask_or_time_out_of_range_is_refused():
    sky, sites = still_sky([[7e6, 0.0, 0.0]]), site_array(0.0, 0.0)
    with pytest.raises(ValueError, match="mask_deg must be from -90 to 90, got 91"):
        visible(sky, sites, 0.0, 91.0)
    with pytest.raises(ValueError, match="the ephemeris holds"):
        visible(sky, sites, 1e6)
