"""Clusters and rays: against the standard's steps written out, exact geometry, and what they promise over a pass."""

import itertools

import numpy as np
import pytest

from twin.channel import clusters as module
from twin.channel.clusters import (
    DIRECT,
    FIELDS,
    RAY_OFFSETS,
    Clusters,
    clustered,
    clusters_at,
    draw_clusters,
    draw_rays,
    lay_out,
    polarisation_factor,
    trace,
)
from twin.channel.fading import draw_fading
from twin.channel.large_scale import LargeScale
from twin.channel.link import Link
from twin.channel.tables import ENVIRONMENTS, REFERENCE_ELEVATION_DEG, small_scale
from twin.geometry import Pointing, Site, pointing, terminal_axes
from twin.units import SPEED_OF_LIGHT_M_S, from_db, to_db

SIGMAS = 5.0  # statistical tolerances, in standard errors of the estimate
SLOT_S = 0.1
SITE = Site(latitude_deg=43.5, longitude_deg=-80.5, altitude_m=330.0)
ORBIT_M, ORBIT_RAD_S = 6_978e3, 1.083e-3  # 600 km up
to_last_digits = {"rtol": 1e-9, "atol": 1e-12}


def states(times_s, aside_deg=6.0):
    """Position and velocity of a satellite on a circle that passes `aside_deg` (geocentric) off the site at t = 0."""
    east, north, up = SITE.axes
    aside_rad, angle = np.radians(aside_deg), ORBIT_RAD_S * np.asarray(times_s)[:, None]
    top = np.cos(aside_rad) * up + np.sin(aside_rad) * north
    along = (east + 0.3 * np.cross(top, east)) / np.sqrt(1.09)  # square to `top`, some degrees off east
    position_m = ORBIT_M * (np.cos(angle) * top + np.sin(angle) * along)
    return position_m, ORBIT_M * ORBIT_RAD_S * (np.cos(angle) * along - np.sin(angle) * top)


def overpass(n=2400, samples=1, slot_s=SLOT_S, start_s=-120.0):
    times_s = start_s + np.repeat(np.arange(n) * slot_s, samples) + np.tile(np.arange(samples) * slot_s / samples, n)
    return pointing(*states(times_s), SITE)


def standing(n, start_s=-60.0):
    """A satellite that does not move."""
    one = overpass(1, start_s=start_s)
    return one[np.zeros(n, dtype=int)]


def spreads(n, los=True, k_factor_db=8.0, delay_spread_s=60e-9, azimuth_spread_deg=20.0, zenith_spread_deg=8.0):
    values = (0.0, k_factor_db, delay_spread_s, azimuth_spread_deg, zenith_spread_deg)
    return LargeScale(np.broadcast_to(los, n).copy(), *(np.broadcast_to(value, n).copy() for value in values))


def link_of(multipath="clusters", **settings):
    return Link(**({"carrier_hz": 2e9, "environment": "urban", "multipath": multipath} | settings))


def powers(paths):
    return (paths.amplitude.real**2 + paths.amplitude.imag**2).mean(axis=0)


# Clusters: laws


def plain_clusters(rng, n_draws, n_clusters, row, los):
    """Steps 5 to 7 of TR 38.901 7.5 as they are written, for one elevation: delays, powers, angles, (n_draws, N)."""
    delay = -row["r_tau"] * row["DS"] * np.log(rng.random((n_draws, n_clusters)))
    delay = np.sort(delay - delay.min(axis=1, keepdims=True), axis=1)
    power = np.exp(-delay * (row["r_tau"] - 1.0) / (row["r_tau"] * row["DS"]))
    power *= 10.0 ** (-row["zeta"] * rng.standard_normal(power.shape) / 10.0)
    power /= power.sum(axis=1, keepdims=True)
    azimuth_scaling, zenith_scaling = {2: (0.501, 0.430), 3: (0.680, 0.594), 4: (0.779, 0.697)}[n_clusters]
    if los:
        k_db, k = row["K_db"], 10.0 ** (row["K_db"] / 10.0)
        delay /= 0.7705 - 0.0433 * k_db + 0.0002 * k_db**2 + 0.000017 * k_db**3
        azimuth_scaling *= 1.1035 - 0.028 * k_db - 0.002 * k_db**2 + 0.0001 * k_db**3
        zenith_scaling *= 1.3086 + 0.0339 * k_db - 0.0077 * k_db**2 + 0.0002 * k_db**3
        power /= k + 1.0
        power[:, 0] += k / (k + 1.0)
    log_ratio = np.log(power / power.max(axis=1, keepdims=True))
    sign = 2.0 * rng.integers(0, 2, (2, *power.shape)) - 1.0
    azimuth = sign[0] * 2.0 * (row["ASA"] / 1.4) * np.sqrt(-log_ratio) / azimuth_scaling
    azimuth += rng.normal(0.0, row["ASA"] / 7.0, power.shape)
    zenith = sign[1] * -row["ZSA"] * log_ratio / zenith_scaling + rng.normal(0.0, row["ZSA"] / 7.0, power.shape)
    if los:
        azimuth, zenith = azimuth - azimuth[:, :1], zenith - zenith[:, :1]
    return delay, power, azimuth, zenith


def our_clusters(environment, los, n_draws, elevation_deg, row):
    """The same of ours: delays, powers with the direct path, angles, (n_draws, n_elevations, N)."""
    tables = small_scale(environment, 2e9, los)
    n = len(elevation_deg)
    large = spreads(n, los, row["K_db"], row["DS"], row["ASA"], row["ZSA"])
    drawn = []
    for rng in np.random.default_rng(11).spawn(n_draws):
        chance = draw_clusters(rng, tables, int(tables.n_clusters.max()))
        found = clusters_at(tables, chance, elevation_deg, large, np.arange(n), los)
        power = found.power + (chance.number == 0) * found.specular[:, None]
        drawn.append((found.delay_s, power, found.azimuth_deg, found.zenith_deg))
    return np.moveaxis(np.array(drawn), 1, 0)


def weighted_spread(values, power):
    """Root mean square about the mean."""
    mean = (power * values).sum(axis=-1, keepdims=True)
    return np.sqrt((power * (values - mean) ** 2).sum(axis=-1))


def summaries(delay, power, azimuth, zenith):
    """What the two must agree in: a series over draws for each."""
    return {
        "log10 of the delay spread": np.log10(weighted_spread(delay, power)),
        "log10 of the azimuth spread": np.log10(weighted_spread(azimuth, power)),
        "log10 of the zenith spread": np.log10(weighted_spread(zenith, power)),
        "strongest power": power.max(axis=-1),
        "weakest power": np.where(power > 0.0, power, 1.0).min(axis=-1),
        "largest delay": np.where(power > 0.0, delay, 0.0).max(axis=-1),
        "mean zenith": (power * zenith).sum(axis=-1),
    }


@pytest.mark.parametrize(
    ("environment", "los"), [("urban", True), ("urban", False), ("rural", True), ("suburban", False)]
)
def test_clusters_have_the_law_of_the_steps_written_out_at_every_reference_elevation(environment, los):
    """Means and standard deviations of spreads, powers and delays, 2,000 draws against 20,000."""
    row = {"DS": 60e-9, "K_db": 8.0, "ASA": 20.0, "ZSA": 8.0}
    tables = small_scale(environment, 2e9, los)
    ours = our_clusters(environment, los, 2000, REFERENCE_ELEVATION_DEG, row)
    rng = np.random.default_rng(12)
    for i, n_clusters in enumerate(tables.n_clusters):
        row |= {"r_tau": tables.delay_scaling[i], "zeta": tables.cluster_shadow_db[i]}
        expected = summaries(*plain_clusters(rng, 20_000, n_clusters, row, los))
        for name, values in summaries(*(part[:, i] for part in ours)).items():
            theirs = expected[name]
            error = np.sqrt(values.var() / values.size + theirs.var() / theirs.size)
            assert abs(values.mean() - theirs.mean()) < SIGMAS * error, f"mean {name} at {10 * (i + 1)} deg"
            # the variance's own standard error, from the fourth moment of the longer series
            fourth = ((theirs - theirs.mean()) ** 4).mean()
            error = np.sqrt((fourth - theirs.var() ** 2) * (1.0 / values.size + 1.0 / theirs.size))
            assert abs(values.var() - theirs.var()) < SIGMAS * error, f"variance of {name} at {10 * (i + 1)} deg"


def test_delay_spread_is_the_tables_where_clusters_are_many():
    """Exponential delays of mean r DS under powers falling as exp(-tau (r - 1) / (r DS)) have a spread of DS."""
    tables = small_scale("urban", 2e9, False)
    many = 200_000
    drawn = draw_clusters(np.random.default_rng(13), tables, many)
    drawn = drawn._replace(number=np.zeros(many, dtype=int), shadow=np.zeros(many))
    found = clusters_at(tables, drawn, np.array([30.0]), spreads(1, False), np.zeros(1, dtype=int), False)
    effective = 1.0 / (found.power**2).sum()  # clusters; the spread's relative standard error is near 1 / root of it
    error = 2.0 / np.sqrt(effective)
    assert weighted_spread(found.delay_s, found.power)[0] == pytest.approx(60e-9, rel=SIGMAS * error)


def test_delay_spread_of_two_clusters_falls_short_of_the_tables_as_computed_by_quadrature():
    """The standard's own bias of few clusters, in the mean of the logarithm; nothing here makes up for it.

    Two clusters of equal shadowing, r DS E apart, E exponential: r DS E sqrt(p (1 - p)), p = 1 / (1 + e^-(r-1)E).
    """
    tables, n_draws = small_scale("urban", 2e9, False), 2000
    spread_s = np.empty(n_draws)
    rows, elevation_deg = np.zeros(1, dtype=int), np.array([90.0])
    for i, rng in enumerate(np.random.default_rng(14).spawn(n_draws)):
        drawn = draw_clusters(rng, tables, 3)._replace(shadow=np.zeros(3))
        found = clusters_at(tables, drawn, elevation_deg, spreads(1, False), rows, False)
        spread_s[i] = weighted_spread(found.delay_s, found.power)[0]
    bias = np.log10(spread_s / 60e-9)
    excess = -np.log((np.arange(100_000) + 0.5) / 100_000)  # quantiles
    r = tables.delay_scaling[8]
    share = 1.0 / (1.0 + np.exp(-(r - 1.0) * excess))
    expected = np.log10(r * excess * np.sqrt(share * (1.0 - share))).mean()
    assert abs(bias.mean() - expected) < SIGMAS * bias.std() / np.sqrt(n_draws)
    assert expected < -0.2


def test_powers_add_up_to_one_and_the_direct_path_has_its_k_factor():
    tables = small_scale("urban", 2e9, True)
    elevation_deg = np.linspace(5.0, 95.0, 181)
    large = spreads(181, True, np.linspace(-20.0, 60.0, 181))
    drawn = draw_clusters(np.random.default_rng(1), tables, 4)
    found = clusters_at(tables, drawn, elevation_deg, large, np.arange(181), True)
    np.testing.assert_allclose(found.specular + found.power.sum(axis=1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(to_db(found.specular / found.power.sum(axis=1)), large.k_factor_db, atol=1e-9)
    without = clusters_at(small_scale("urban", 2e9, False), drawn, elevation_deg, large, np.arange(181), False)
    np.testing.assert_allclose(without.power.sum(axis=1), 1.0, rtol=1e-14)
    assert not without.specular.any()


def test_first_cluster_stands_in_the_direct_direction_with_line_of_sight_and_has_no_delay():
    tables = small_scale("urban", 20e9, True)
    drawn = draw_clusters(np.random.default_rng(2), tables, 4)
    found = clusters_at(tables, drawn, np.full(3, 40.0), spreads(3), np.arange(3), True)
    first = int(np.flatnonzero(drawn.number == 0)[0])
    assert not found.azimuth_deg[:, first].any()
    assert not found.zenith_deg[:, first].any()
    assert not found.delay_s[:, first].any()
    assert np.delete(found.delay_s, first, axis=1).all()


@pytest.mark.parametrize("los", [True, False])
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_clusters_come_and_go_without_a_jump_and_are_as_many_as_the_tables_say(environment, los):
    """The widest step of a fine grid, cut in a thousand, falls to less than a tenth: a jump would stay as it is."""
    tables = small_scale(environment, 2e9, los)
    n_clusters = int(tables.n_clusters.max())

    def found_at(drawn, elevation_deg):
        n = elevation_deg.size
        return clusters_at(tables, drawn, elevation_deg, spreads(n, los), np.arange(n), los)

    elevation_deg = np.arange(10.0, 90.001, 0.02)
    for seed in range(10):
        drawn = draw_clusters(np.random.default_rng(seed), tables, n_clusters)
        assert ((found_at(drawn, REFERENCE_ELEVATION_DEG).power > 0.0).sum(axis=1) == tables.n_clusters).all()
        coarse = found_at(drawn, elevation_deg)
        for name in ("power", "delay_s", "azimuth_deg", "zenith_deg"):
            steps = np.abs(np.diff(getattr(coarse, name), axis=0)).max(axis=1)
            widest = int(steps.argmax())
            fine = found_at(drawn, np.linspace(*elevation_deg[widest : widest + 2], 1001))
            assert np.abs(np.diff(getattr(fine, name), axis=0)).max() <= 0.1 * steps[widest], name


def test_the_two_strongest_of_those_always_there_come_first():
    tables = small_scale("urban", 2e9, False)  # 3 clusters, 2 from 70 deg on
    for seed in range(50):
        drawn = draw_clusters(np.random.default_rng(seed), tables, 4)
        assert sorted(drawn.number[:2]) == [0, 1]
        assert list(drawn.number[2:]) == [2, 3]
        strength = module.cluster_strength(drawn.excess, drawn.shadow, 2.3, 3.0)
        assert strength[0] > strength[1]


@pytest.mark.parametrize("k_factor_db", [-60.0, -20.5, -10.0, -9.0, 20.0, 80.0])
def test_angles_and_delays_stay_finite_at_any_k_factor(k_factor_db):
    """The scaling with K passes zero at -10 and -20 dB: it is taken at -5 dB there, where it is near 1."""
    tables = small_scale("urban", 2e9, True)
    drawn = draw_clusters(np.random.default_rng(3), tables, 4)
    found = clusters_at(tables, drawn, np.array([60.0]), spreads(1, True, k_factor_db), np.zeros(1, dtype=int), True)
    assert np.abs(found.azimuth_deg).max() < 500.0
    assert np.abs(found.zenith_deg).max() < 1000.0
    assert (found.delay_s >= 0.0).all()
    assert found.delay_s.max() < 10e-6


# Rays


def test_ray_offsets_are_twenty_in_pairs_with_a_spread_of_one():
    """TR 38.901 table 7.5-3; what is printed has four digits."""
    assert RAY_OFFSETS.size == 20
    assert RAY_OFFSETS.sum() == 0.0
    assert RAY_OFFSETS[0] == 0.0447
    assert RAY_OFFSETS[1] == -0.0447
    assert RAY_OFFSETS[19] == -2.1551
    assert np.sqrt((RAY_OFFSETS**2).mean()) == pytest.approx(1.0, abs=1e-3)


def test_strong_clusters_are_split_into_rays_and_delays_of_the_table():
    """TR 38.901 table 7.5-5, rays counted from 1."""
    rows = ([1, 2, 3, 4, 5, 6, 7, 8, 19, 20], [9, 10, 11, 12, 17, 18], [13, 14, 15, 16])
    layout = lay_out(3, 2, each_ray=False)
    assert list(layout.cluster) == [0, 0, 0, 1, 1, 1, 2]
    assert list(layout.split) == [0.0, 1.28, 2.56, 0.0, 1.28, 2.56, 0.0]
    for path, rays in enumerate(rows):
        first, end = layout.first_ray[path : path + 2]
        np.testing.assert_array_equal(layout.offset[first:end], RAY_OFFSETS[np.array(rays) - 1])
    assert list(layout.first_ray[-2:]) == [40, 60]
    each = lay_out(3, 2, each_ray=True)
    assert each.cluster.size == 60
    assert list(each.split[[0, 9, 10, 15, 16, 19, 20, 40]]) == [
        0.0,
        0.0,
        1.28,
        1.28,
        2.56,
        2.56,
        0.0,
        0.0,
    ]


@pytest.mark.parametrize(("multipath", "n_paths"), [("clusters", 9), ("rays", 81)])
def test_paths_are_the_direct_one_and_clusters_or_rays(multipath, n_paths):
    """Urban has up to 4 clusters: 1 + 6 + 2 paths, or 1 + 80."""
    course = overpass(40)
    paths = clustered(np.random.default_rng(1), link_of(multipath), course, spreads(40), SLOT_S, 1)
    assert paths.amplitude.shape == paths.delay_s.shape == (40, n_paths)
    assert paths.arrival.shape == (40, n_paths, 2)
    assert paths.departure.shape == (40, 1, 2)
    for values in paths:
        assert np.isfinite(values).all()
    assert (paths.delay_s >= 0.0).all()
    assert not paths.delay_s[:, 0].any()
    assert (np.hypot(*np.moveaxis(paths.arrival, -1, 0)) <= 1.0 + 1e-12).all()


@pytest.mark.parametrize("los", [True, False])
def test_powers_of_rays_add_up_to_one_in_every_slot(los):
    course = overpass(200)
    paths = clustered(np.random.default_rng(2), link_of("rays"), course, spreads(200, los), SLOT_S, 1)
    np.testing.assert_allclose((np.abs(paths.amplitude) ** 2).sum(axis=1), 1.0, rtol=1e-9)
    specular = from_db(8.0) / (1.0 + from_db(8.0)) if los else 0.0
    np.testing.assert_allclose(np.abs(paths.amplitude[:, 0]) ** 2, specular, rtol=1e-12)


def test_clusters_are_the_sums_of_the_rays_that_make_them():
    """The same draw in both modes for the same seed: amplitudes add up, delays agree, directions are the rays' mean."""
    course, large = overpass(50), spreads(50, azimuth_spread_deg=3.0, zenith_spread_deg=2.0)
    summed = clustered(np.random.default_rng(3), link_of("clusters"), course, large, SLOT_S, 1)
    rays = clustered(np.random.default_rng(3), link_of("rays"), course, large, SLOT_S, 1)
    ends = 1 + np.array([0, 10, 16, 20, 30, 36, 40, 60, 80])
    for path, (first, end) in enumerate(itertools.pairwise(ends), start=1):
        np.testing.assert_allclose(
            summed.amplitude[:, path], rays.amplitude[:, first:end].sum(axis=1), rtol=0, atol=1e-14
        )
        np.testing.assert_array_equal(summed.delay_s[:, [path] * (end - first)], rays.delay_s[:, first:end])
        # symmetric in angle, so only nearly so in cosines: the second order of 30 degrees
        assert np.abs(summed.arrival[:, path] - rays.arrival[:, first:end].mean(axis=1)).max() < 0.1


def test_states_of_sight_share_the_paths_and_the_direct_one_is_silent_without_sight():
    los = np.arange(60) % 20 < 10
    paths = clustered(np.random.default_rng(4), link_of("rays"), overpass(60), spreads(60, los), SLOT_S, 1)
    assert not paths.amplitude[~los, 0].any()
    assert paths.amplitude[los, 0].all()
    np.testing.assert_allclose((np.abs(paths.amplitude) ** 2).sum(axis=1), 1.0, rtol=1e-9)
    with_sight = clustered(np.random.default_rng(4), link_of("rays"), overpass(60), spreads(60), SLOT_S, 1)
    np.testing.assert_array_equal(paths.delay_s[los], with_sight.delay_s[los])
    np.testing.assert_array_equal(paths.arrival[los], with_sight.arrival[los])


def test_mean_power_of_summed_clusters_is_that_of_their_rays():
    """Phases are uniform: the mean over 1,500 of them is the power of the (sub-)cluster, its share of 20 rays."""
    layout, course, link = lay_out(3, 2, False), standing(1), link_of()
    clusters = Clusters.empty(1, 3)
    clusters.power[:] = (0.5, 0.3, 0.2)
    paths = [
        trace(link, course, clusters, layout, draw_rays(rng, layout, None)[None], np.zeros(1, int), SLOT_S, 1)
        for rng in np.random.default_rng(5).spawn(1500)
    ]
    power = np.array([np.abs(path.amplitude[0, 1:]) ** 2 for path in paths])
    expected = np.repeat([0.5, 0.3], 3) * np.tile([0.5, 0.3, 0.2], 2)
    expected = np.append(expected, 0.2)
    assert (np.abs(power.mean(axis=0) - expected) < SIGMAS * power.std(axis=0) / np.sqrt(1500)).all()


# Directions


def test_angles_are_kept_from_the_direct_direction_in_the_terminals_frame():
    course, link, layout = overpass(300, start_s=-30.0), link_of("rays"), lay_out(2, 0, True)
    clusters = Clusters.empty(300, 2)
    clusters.power[:] = 0.5
    clusters.azimuth_deg[:], clusters.zenith_deg[:] = (25.0, -140.0), (-12.0, 70.0)
    clusters.ray_azimuth_deg[:], clusters.ray_zenith_deg[:] = 5.0, 3.0
    rays = draw_rays(np.random.default_rng(6), layout, None)
    paths = trace(link, course, clusters, layout, rays[None], np.zeros(300, int), SLOT_S, 1)
    theta, phi = np.radians(course.rx_beam_deg).T
    x, y, z = np.sin(phi) * np.cos(theta), np.cos(phi), np.sin(phi) * np.sin(theta)
    for k in range(40):
        azimuth = np.arctan2(y, x) + np.radians((25.0, -140.0)[k // 20] + 5.0 * RAY_OFFSETS[k % 20])
        zenith = np.arccos(z) + np.radians((-12.0, 70.0)[k // 20] + 3.0 * rays[1, k])
        expected = np.stack([np.abs(np.sin(zenith)) * np.cos(azimuth), np.abs(np.sin(zenith)) * np.sin(azimuth)], 1)
        np.testing.assert_allclose(paths.arrival[:, k + 1], expected, rtol=0, atol=1e-9)
    assert sorted(rays[1, :20]) == sorted(RAY_OFFSETS)
    assert list(rays[1, :20]) != list(RAY_OFFSETS)


def test_earth_fixed_direction_is_that_of_the_geometry():
    position_m, velocity_m_s = states(np.linspace(-200.0, 200.0, 41))
    course = pointing(position_m, velocity_m_s, SITE)
    line_m = position_m - SITE.position_m
    expected = line_m @ SITE.axes.T / np.linalg.norm(line_m, axis=1, keepdims=True)
    np.testing.assert_allclose(course.east_north_up, expected, rtol=0, atol=1e-12)
    assert np.ptp(course.heading_deg) > 1.0  # the frame does turn


def test_velocity_is_along_the_heading():
    np.testing.assert_allclose(link_of(speed_m_s=3.0, heading_deg=90.0).velocity_m_s, [3.0, 0.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(link_of(speed_m_s=3.0, heading_deg=360.0).velocity_m_s, [0.0, 3.0, 0.0], atol=1e-14)


# Phases


def lengths_m(times_s, scatterer_m, at_terminal_m):
    """Exact ways from the moving satellite to the moving terminal: by a scatterer, less the direct one."""
    position_m, _ = states(times_s)
    satellite_m = (position_m - SITE.position_m) @ SITE.axes.T
    by_scatterer = np.linalg.norm(satellite_m - scatterer_m, axis=1) + np.linalg.norm(
        scatterer_m - at_terminal_m, axis=1
    )
    return by_scatterer - np.linalg.norm(satellite_m - at_terminal_m, axis=1)


@pytest.mark.parametrize("speed_m_s", [0.0, 3.0])
def test_phases_in_a_slot_are_those_of_exact_geometry(speed_m_s):
    """Spherical waves from a satellite 600 to 1,000 km away by scatterers within 50 m, in a tenth of a second."""
    link = link_of("rays", speed_m_s=speed_m_s, heading_deg=70.0)
    course, layout = overpass(1, 50, start_s=-60.0), lay_out(4, 0, True)
    clusters = Clusters.empty(1, 4)
    clusters.power[:] = 0.25
    clusters.azimuth_deg[:], clusters.zenith_deg[:] = (60.0, -150.0, 170.0, 15.0), (20.0, -25.0, 30.0, 60.0)
    clusters.delay_s[:] = (20e-9, 45e-9, 60e-9, 5e-9)
    clusters.ray_azimuth_deg[:], clusters.ray_zenith_deg[:] = 4.0, 2.0
    rays = draw_rays(np.random.default_rng(7), layout, None)
    paths = trace(link, course, clusters, layout, rays[None], np.zeros(1, int), SLOT_S, 50)
    wavelength_m = SPEED_OF_LIGHT_M_S / link.carrier_hz
    times_s = -60.0 + np.arange(50) * SLOT_S / 50
    direct = course.east_north_up[0]
    panel = terminal_axes(states(times_s[:1])[1], SITE)[0] @ SITE.axes.T
    moved_m = link.velocity_m_s * (times_s - times_s[0])[:, None]
    turns = np.empty((80, 50))
    for k in range(1, 81):
        psi_x, psi_y = paths.arrival[0, k]
        zenith = np.degrees(np.arccos(direct[2])) + clusters.zenith_deg[0, (k - 1) // 20] + 2.0 * rays[1, k - 1]
        ray = psi_x * panel[0] + psi_y * panel[1] + np.cos(np.radians(zenith)) * panel[2]
        distance_m = SPEED_OF_LIGHT_M_S * paths.delay_s[0, k] / (1.0 - ray @ direct)
        assert distance_m < 50.0
        length_m = lengths_m(times_s, distance_m * ray, moved_m)
        assert length_m[0] == pytest.approx(SPEED_OF_LIGHT_M_S * paths.delay_s[0, k], abs=3e-3)  # a millimetre or so
        expected = np.exp(-2j * np.pi * (length_m - length_m[0]) / wavelength_m)
        turned = paths.amplitude[:, k] / paths.amplitude[0, k]
        turns[k - 1] = np.angle(turned) / (2.0 * np.pi)
        # left out: the front of the scatterer's wave is curved, not plane, over the terminal's way
        curved_m = (moved_m**2).sum(axis=1) / (2.0 * distance_m)
        error_m = np.abs(np.angle(turned / expected)) / (2.0 * np.pi) * wavelength_m
        assert (error_m < 1e-6 + 1.1 * curved_m).all()
    assert np.abs(turns).max() > 0.01


def test_phases_of_scatterers_that_stay_for_a_minute_are_those_of_exact_geometry():
    """Angles and delays set, slot by slot, to those of four points on the ground: 600 slots add up to their ways."""
    link, layout, n = link_of("rays"), lay_out(4, 0, True), 600
    course = overpass(n, start_s=-90.0)
    direct, wavelength_m = course.east_north_up, SPEED_OF_LIGHT_M_S / link.carrier_hz
    scatterer_m = np.array([[30.0, 5.0, 2.0], [-20.0, 35.0, 12.0], [8.0, -25.0, -1.0], [-4.0, -3.0, 30.0]])
    distance_m = np.linalg.norm(scatterer_m, axis=1)
    rays_to = scatterer_m / distance_m[:, None]
    clusters = Clusters.empty(n, 4)
    clusters.power[:] = 0.25
    clusters.delay_s[:] = distance_m * (1.0 - direct @ rays_to.T) / SPEED_OF_LIGHT_M_S
    azimuth_deg, zenith_deg = (
        [np.degrees(np.arctan2(u[:, 1], u[:, 0])) for u in (rays_to, direct)],
        [np.degrees(np.arccos(u[:, 2])) for u in (rays_to, direct)],
    )
    clusters.azimuth_deg[:] = azimuth_deg[0] - azimuth_deg[1][:, None]
    clusters.zenith_deg[:] = zenith_deg[0] - zenith_deg[1][:, None]
    rays = draw_rays(np.random.default_rng(7), layout, None)
    paths = trace(link, course, clusters, layout, rays[None], np.zeros(n, int), SLOT_S, 1)
    for c in range(4):
        length_m = lengths_m(-90.0 + SLOT_S * np.arange(n), scatterer_m[c], np.zeros((n, 3)))
        assert np.ptp(length_m) > 2.0 * wavelength_m  # it does turn; the first by 88
        turned = paths.amplitude[:, 1 + 20 * c] / paths.amplitude[0, 1 + 20 * c]
        expected = np.exp(-2j * np.pi * (length_m - length_m[0]) / wavelength_m)
        # a wave from a satellite 600 km away is curved by 40^2 / (2 * 600e3) m at most; 1.3 mm of 15 cm
        assert np.abs(np.angle(turned / expected)).max() < 2.0 * np.pi * 0.0014 / wavelength_m


def test_distances_end_at_the_obstacles():
    """A wave from nearly the satellite's direction, late by 100 ns, would need a scatterer kilometres away."""
    layout, course = lay_out(1, 0, True), overpass(2, start_s=-60.0)
    clusters = Clusters.empty(2, 1)
    clusters.power[:], clusters.azimuth_deg[:], clusters.delay_s[:] = 1.0, 8.0, 100e-9
    rays = draw_rays(np.random.default_rng(8), layout, None)
    turns = {}
    for obstacle_m in (0.0, 50.0, 100.0):
        link = link_of("rays", obstacle_m=obstacle_m)
        paths = trace(link, course, clusters, layout, rays[None], np.zeros(2, int), SLOT_S, 1)
        turns[obstacle_m] = np.angle(paths.amplitude[1, 1:] / paths.amplitude[0, 1:]) / (2.0 * np.pi)
    np.testing.assert_allclose(turns[0.0], 0.0, atol=1e-12)
    assert np.abs(turns[50.0]).max() > 0.01
    np.testing.assert_allclose(turns[100.0], 2.0 * turns[50.0], atol=1e-9)
    u = course.east_north_up
    assert np.abs(turns[50.0]).max() <= 50.0 * np.linalg.norm(u[1] - u[0]) / (SPEED_OF_LIGHT_M_S / 2e9)


def test_rays_turn_against_the_direct_path_as_it_turns_with_the_satellite():
    """Waves from straight above have no shift, so theirs is minus the direct path's, whose direction changes."""
    link, n, samples = link_of("rays", speed_m_s=30.0, heading_deg=70.0), 400, 5
    course = overpass(n, samples, start_s=-20.0)
    direct = course.east_north_up
    clusters = Clusters.empty(n, 1)
    clusters.power[:] = 1.0
    clusters.zenith_deg[:, 0] = -np.degrees(np.arccos(direct[::samples, 2]))
    rays = draw_rays(np.random.default_rng(15), lay_out(1, 0, True), None)[None]
    paths = trace(link, course, clusters, lay_out(1, 0, True), rays, np.zeros(n, int), SLOT_S, samples)
    shift_hz = direct @ link.velocity_m_s / (SPEED_OF_LIGHT_M_S / link.carrier_hz)
    turns = np.append(0.0, np.cumsum(0.5 * (shift_hz[1:] + shift_hz[:-1]) * SLOT_S / samples))
    assert np.ptp(shift_hz) > 50.0
    found = paths.amplitude[:, 1:] / paths.amplitude[0, 1:]
    np.testing.assert_allclose(found, np.exp(-2j * np.pi * turns)[:, None].repeat(20, axis=1), rtol=0, atol=0.03)


@pytest.mark.parametrize("each_ray", [False, True])
@pytest.mark.parametrize(("zenith_deg", "mirrored_deg"), [(-25.0, 25.0), (70.0, 70.0), (160.0, 160.0), (215.0, 145.0)])
def test_zenith_angles_beyond_straight_up_and_down_are_mirrored_there(each_ray, zenith_deg, mirrored_deg):
    """TR 38.901 eq. 7.5-18: 360 deg less the angle from 180 deg on (-25 deg is 335); azimuth stays."""
    course, layout, clusters = standing(1), lay_out(1, 0, each_ray), Clusters.empty(1, 1)
    direct = course.east_north_up[0]
    azimuth = np.arctan2(direct[1], direct[0]) + np.radians(40.0)
    clusters.power[:], clusters.azimuth_deg[:] = 1.0, 40.0
    clusters.zenith_deg[:] = zenith_deg - np.degrees(np.arccos(direct[2]))
    rays = draw_rays(np.random.default_rng(16), layout, None)[None]
    paths = trace(link_of("rays"), course, clusters, layout, rays, np.zeros(1, int), SLOT_S, 1)
    level = np.sin(np.radians(mirrored_deg))
    east, north, heading = level * np.cos(azimuth), level * np.sin(azimuth), np.radians(course.heading_deg[0])
    expected = [east * np.sin(heading) + north * np.cos(heading), north * np.sin(heading) - east * np.cos(heading)]
    np.testing.assert_allclose(paths.arrival[0, 1:], [expected] * (len(paths.arrival[0]) - 1), atol=1e-12)


def test_nothing_that_moves_leaves_the_channel_constant():
    for los in (True, False):
        paths = clustered(np.random.default_rng(9), link_of("clusters"), standing(400), spreads(400, los), SLOT_S, 1)
        for values in paths:
            np.testing.assert_array_equal(values, np.broadcast_to(values[:1], values.shape))


@pytest.mark.parametrize("multipath", ["clusters", "rays"])
def test_nothing_that_moves_leaves_the_fading_constant(multipath):
    link = link_of(multipath, los="pass", shadow="distance")
    fading = draw_fading(np.random.default_rng(9), link, standing(200), SLOT_S)
    for values in (fading.los, fading.shadow_db, fading.amplitude, fading.arrival, fading.delay_s):
        np.testing.assert_array_equal(values, np.broadcast_to(values[:1], values.shape))


def test_rays_have_the_doppler_shift_of_their_direction_under_a_moving_terminal():
    """Satellite held still: ray k turns at (a_k - u).v / lambda over 40 s, to a millionth of a turn."""
    link, n = link_of("rays", speed_m_s=20.0, heading_deg=30.0), 400
    course = standing(n)
    paths = clustered(np.random.default_rng(10), link, course, spreads(n), SLOT_S, 1)
    along = link.velocity_m_s / (SPEED_OF_LIGHT_M_S / link.carrier_hz)
    heading = np.radians(course.heading_deg[0])
    psi_x, psi_y = paths.arrival[0].T
    east = psi_x * np.sin(heading) - psi_y * np.cos(heading)
    north = psi_x * np.cos(heading) + psi_y * np.sin(heading)
    shift_hz = (east - east[0]) * along[0] + (north - north[0]) * along[1]
    assert np.ptp(shift_hz) > 50.0
    expected = np.exp(2j * np.pi * np.outer(np.arange(n) * SLOT_S, shift_hz))
    active = np.abs(paths.amplitude[0]) > 0.0
    turned = paths.amplitude[:, active] / paths.amplitude[0, active]
    np.testing.assert_allclose(turned, expected[:, active], atol=1e-6)


def test_autocorrelation_of_a_cluster_is_the_sum_over_its_rays():
    """E alpha(t) alpha*(0) = P / M sum_m exp(j 2 pi t (a_m - u).v / lambda), over 2,000 draws of the phases."""
    link, n, n_draws = link_of("clusters", speed_m_s=5.0, heading_deg=30.0), 12, 2000
    course, layout = standing(n), lay_out(2, 2, False)
    clusters = Clusters.empty(n, 2)
    clusters.power[:], clusters.azimuth_deg[:], clusters.zenith_deg[:] = (0.7, 0.3), (30.0, -80.0), (5.0, 25.0)
    clusters.ray_azimuth_deg[:], clusters.ray_zenith_deg[:] = 15.0, 7.0
    fixed = draw_rays(np.random.default_rng(20), layout, None)
    slot_s, zeros = 0.01, np.zeros(n, int)
    product = np.empty((n_draws, n, 6), dtype=complex)
    for i, rng in enumerate(np.random.default_rng(21).spawn(n_draws)):
        rays = draw_rays(rng, layout, None)
        rays[:2] = fixed[:2]  # the same directions, other phases
        alpha = trace(link, course, clusters, layout, rays[None], zeros, slot_s, 1).amplitude[:, 1:]
        product[i] = alpha * np.conj(alpha[0])
    by_ray = link_of("rays", speed_m_s=5.0, heading_deg=30.0)
    each = trace(by_ray, course, clusters, lay_out(2, 2, True), fixed[None], zeros, slot_s, 1).amplitude[:, 1:]
    product_of_rays = each * np.conj(each[0])  # the Doppler shift of each was tested above
    for path in range(6):
        first, end = layout.first_ray[path : path + 2]
        expected = product_of_rays[:, first:end].sum(axis=1)
        error = product[:, :, path].std(axis=0) / np.sqrt(n_draws)
        assert (np.abs(product[:, :, path].mean(axis=0) - expected) < SIGMAS * error).all()
    assert np.abs(product_of_rays[-1, :10].sum()) < 0.8 * np.abs(product_of_rays[0, :10].sum())  # it does fade


@pytest.mark.parametrize("multipath", ["clusters", "rays"])
def test_a_pass_sampled_finer_has_the_same_values_at_its_slots(multipath):
    """To the last bit: 0.1 s cut in 3 or 6 is what does not add up, by rounding."""
    link, n = link_of(multipath, speed_m_s=30.0, carrier_hz=20e9), 300
    los = np.arange(n) % 100 < 70
    coarse = clustered(np.random.default_rng(1), link, overpass(n), spreads(n, los), SLOT_S, 1)
    for samples in (3, 6, 10):
        course = overpass(n, samples)
        fine = clustered(np.random.default_rng(1), link, course, spreads(n, los), SLOT_S, samples)
        for ours, finer in zip(coarse, fine):
            np.testing.assert_array_equal(finer[::samples], ours)


def test_phases_run_on_from_slot_to_slot():
    """No jump at the beginning of a slot: the last step of a slot turns a ray as much as the one before."""
    link, n, samples = link_of("rays", speed_m_s=1.0), 30, 20
    paths = clustered(np.random.default_rng(2), link, overpass(n, samples), spreads(n), SLOT_S, samples)
    active = np.abs(paths.amplitude[0]) > 1e-6
    step = np.angle(paths.amplitude[1:, active] * np.conj(paths.amplitude[:-1, active]))
    assert np.abs(np.diff(step, axis=0)).max() < 0.01  # rad; a step itself is up to 0.3
    assert np.abs(step).max() > 0.05


@pytest.mark.parametrize("multipath", ["clusters", "rays"])
def test_waves_come_from_where_they_did_all_through_a_slot_while_the_panel_turns(multipath):
    n, samples = 3, 10
    course = overpass(n, samples, start_s=-1.0)
    paths = clustered(np.random.default_rng(5), link_of(multipath), course, spreads(n), SLOT_S, samples)
    heading = np.radians(course.heading_deg)[:, None]
    x, y = np.moveaxis(paths.arrival[:, 1:], -1, 0)
    fixed = (x + 1j * y) * np.exp(-1j * heading)  # turned back to where north is x
    fixed, seen = (values.reshape(n, samples, -1) for values in (fixed, x + 1j * y))
    np.testing.assert_allclose(fixed, np.broadcast_to(fixed[:, :1], fixed.shape), rtol=0, atol=1e-12)
    assert np.abs(seen - seen[:, :1]).max() > 1e-6


def test_a_longer_pass_begins_as_a_shorter_one():
    link = link_of("rays", speed_m_s=2.0, polarisation=("rhcp", "vertical"))
    los = np.arange(90) % 30 < 20
    longer = clustered(np.random.default_rng(3), link, overpass(90, 4), spreads(90, los), SLOT_S, 4)
    shorter = clustered(np.random.default_rng(3), link, overpass(90, 4)[:120], spreads(30, los[:30]), SLOT_S, 4)
    for long, short in zip(longer, shorter):
        np.testing.assert_array_equal(long[:120], short)


def test_same_seed_same_paths_and_another_seed_others():
    course, link = overpass(20), link_of("clusters")
    one, same, other = (
        clustered(np.random.default_rng(seed), link, course, spreads(20), SLOT_S, 1) for seed in (4, 4, 5)
    )
    for a, b in zip(one, same):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(one.amplitude[:, 1:], other.amplitude[:, 1:])


def test_polarisation_does_not_change_what_else_is_drawn():
    course, large = overpass(20), spreads(20)
    plain = clustered(np.random.default_rng(6), link_of("rays"), course, large, SLOT_S, 1)
    told = clustered(
        np.random.default_rng(6), link_of("rays", polarisation=("slant", "rhcp")), course, large, SLOT_S, 1
    )
    np.testing.assert_array_equal(plain.delay_s, told.delay_s)
    np.testing.assert_array_equal(plain.arrival, told.arrival)


# Polarisation


@pytest.mark.parametrize(
    ("satellite", "terminal", "power"),
    [
        ("vertical", "vertical", 1.0), ("horizontal", "horizontal", 1.0), ("slant", "slant", 1.0),
        ("rhcp", "rhcp", 1.0), ("lhcp", "lhcp", 1.0), ("rhcp", "lhcp", 0.0), ("lhcp", "rhcp", 0.0),
        ("vertical", "horizontal", 0.0), ("rhcp", "vertical", 0.5), ("rhcp", "horizontal", 0.5),
        ("slant", "lhcp", 0.5), ("slant", "vertical", 0.5),
    ],
)  # fmt: skip
def test_direct_path_is_taken_by_its_own_polarisation_only(satellite, terminal, power):
    factor = polarisation_factor((satellite, terminal), DIRECT)
    assert abs(factor) ** 2 == pytest.approx(power, abs=1e-15)
    if satellite == terminal:
        assert factor == pytest.approx(1.0, abs=1e-15)


def test_without_polarisation_every_factor_is_one():
    assert polarisation_factor(None, DIRECT) == 1.0
    rays = draw_rays(np.random.default_rng(1), lay_out(3, 2, True), None)
    np.testing.assert_allclose(np.hypot(rays[2], rays[3]), 1.0, rtol=1e-14)
    assert not rays[4].any()
    assert not rays[5].any()


@pytest.mark.parametrize(("satellite", "terminal"), [("vertical", "vertical"), ("vertical", "horizontal"),
                                                 ("slant", "slant"), ("rhcp", "rhcp"), ("rhcp", "lhcp")])  # fmt: skip
def test_mean_power_of_scattered_waves_is_that_of_equal_and_crossed_polarisation(satellite, terminal):
    """Random phases: E|f|^2 = sum |r_i|^2 |s_j|^2 (1 where i = j, 1 / kappa elsewhere); kappa is 10 dB in NTN-CDL-A."""
    link, course = link_of("rays", polarisation=(satellite, terminal)), standing(1)
    layout, clusters = lay_out(50, 0, True), Clusters.empty(1, 50)
    clusters.power[:], clusters.cross_mu_db[:] = 1.0 / 50.0, 10.0
    found = []
    for rng in np.random.default_rng(8).spawn(40):
        rays = draw_rays(rng, layout, link.polarisation)[None]
        paths = trace(link, course, clusters, layout, rays, np.zeros(1, int), SLOT_S, 1)
        found.append(np.abs(paths.amplitude[0, 1:]) ** 2)
    power = np.array(found).ravel() * 1000.0
    shares = np.outer(np.abs(FIELDS[terminal]) ** 2, np.abs(FIELDS[satellite]) ** 2)
    expected = (shares * np.where(np.eye(2, dtype=bool), 1.0, 0.1)).sum()
    assert abs(power.mean() - expected) < SIGMAS * power.std() / np.sqrt(power.size) + 1e-12


def test_cross_polarisation_ratio_of_rays_is_normal_in_db():
    link, course = link_of("rays", polarisation=("vertical", "horizontal")), standing(1)
    layout, clusters = lay_out(200, 0, True), Clusters.empty(1, 200)
    clusters.power[:], clusters.cross_mu_db[:], clusters.cross_sigma_db[:] = 1.0 / 200.0, 8.0, 4.0
    rays = draw_rays(np.random.default_rng(9), layout, link.polarisation)[None]
    paths = trace(link, course, clusters, layout, rays, np.zeros(1, int), SLOT_S, 1)
    ratio_db = -to_db(np.abs(paths.amplitude[0, 1:]) ** 2 * 4000.0)
    assert abs(ratio_db.mean() - 8.0) < SIGMAS * 4.0 / np.sqrt(4000.0)
    assert abs(ratio_db.std() - 4.0) < SIGMAS * 4.0 / np.sqrt(8000.0)


# As fading


@pytest.mark.parametrize("multipath", ["clusters", "rays"])
def test_fading_of_a_real_pass_agrees_with_itself_sampled_finer_and_cut_short(multipath):
    link = link_of(multipath, speed_m_s=1.0, environment="suburban", los="sojourn", shadow="distance")
    whole, fine, short = (
        draw_fading(np.random.default_rng(7), link, course, SLOT_S, samples)
        for course, samples in ((overpass(800), 1), (overpass(800, 3), 3), (overpass(100), 1))
    )
    assert 0 < np.count_nonzero(whole.los) < 800
    for name in ("los", "shadow_db", "amplitude", "arrival", "delay_s"):
        np.testing.assert_allclose(getattr(fine, name)[::3], getattr(whole, name), rtol=0, atol=1e-9)
        np.testing.assert_array_equal(getattr(short, name), getattr(whole, name)[:100])
    np.testing.assert_array_equal(whole.amplitude[:, 0] != 0.0, whole.los)


def test_shadow_fading_runs_on_within_a_slot_and_waits_where_the_sight_changes_or_the_pass_ends():
    samples, link = 4, link_of("scatter", environment="dense_urban")
    fading = draw_fading(np.random.default_rng(7), link, overpass(800, samples), SLOT_S, samples)
    los, shadow_db = fading.los.reshape(-1, samples), fading.shadow_db.reshape(-1, samples)
    assert (los == los[:, :1]).all()
    goes_on = los[1:, 0] == los[:-1, 0]
    assert not goes_on.all()
    part = np.arange(samples) / samples
    between_db = shadow_db[:-1, :1] * (1.0 - part) + shadow_db[1:, :1] * part
    np.testing.assert_allclose(shadow_db[:-1][goes_on], between_db[goes_on], rtol=0, atol=1e-12)
    for waits in (*shadow_db[:-1][~goes_on], shadow_db[-1]):
        np.testing.assert_array_equal(waits, waits[0])


@pytest.mark.parametrize("samples", [0, -1, 7])
def test_a_course_that_is_no_whole_number_of_slots_is_refused(samples):
    complaint = "whole number of slots of 7 rows each, got 40 rows" if samples > 0 else f"1 or more, got {samples}"
    with pytest.raises(ValueError, match=complaint):
        draw_fading(np.random.default_rng(1), link_of(), overpass(40), SLOT_S, samples)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("carrier_hz", [2e9, 20e9])
def test_fading_has_the_array_gain_in_all_environments(environment, carrier_hz):
    link = link_of("rays", environment=environment, carrier_hz=carrier_hz)
    fading = draw_fading(np.random.default_rng(8), link, overpass(300), SLOT_S)
    np.testing.assert_allclose((np.abs(fading.amplitude) ** 2).sum(axis=1), link.array_gain, rtol=1e-9)
    for values in (fading.amplitude, fading.arrival, fading.delay_s):
        assert np.isfinite(values).all()


# Kernel


def test_kernel_agrees_with_its_python_source(monkeypatch):
    link = link_of("clusters", speed_m_s=4.0, polarisation=("rhcp", "vertical"))
    los = np.array([True, True, False])
    arguments = np.random.default_rng(1), link, overpass(3, 2), spreads(3, los), SLOT_S, 2
    compiled = clustered(*arguments)
    for name in ("trace_rays", "advance", "sines_and_cosines"):
        monkeypatch.setattr(module, name, getattr(module, name).py_func)
    plain = clustered(np.random.default_rng(1), *arguments[1:])
    for ours, expected in zip(compiled, plain):
        np.testing.assert_allclose(ours, expected, **to_last_digits)


def test_pointing_takes_rows_in_any_order():
    """What `standing` relies on."""
    course = overpass(3)
    assert isinstance(course[::2], Pointing)
    assert len(course[np.zeros(5, int)].elevation_deg) == 5
