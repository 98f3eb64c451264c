"""Line of sight, shadow fading and spreads over a pass: their laws at every elevation, and what makes them change.

Statistical tolerances are SIGMAS standard errors of the estimate: a right law fails one of them once in two million.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.special import gammainc, ndtr

from twin.channel import large_scale
from twin.channel.large_scale import draw_los, draw_shadow, draw_spreads, ray_way_m
from twin.channel.link import Link
from twin.channel.losses import los_probability, shadow_sigma_db
from twin.channel.tables import CORRELATED, ENVIRONMENTS, environment, small_scale
from twin.geometry import Pointing, Site, beam_angles_deg, look_angles, pointing
from twin.orbit import ephemeris
from twin.tle import read_tle

SIGMAS = 5.0
SITE = Site(latitude_deg=43.5, longitude_deg=-80.5, altitude_m=330.0)
SCENARIOS = Path(__file__).resolve().parents[2] / "scenarios"
both_sights = pytest.mark.parametrize("sight", [True, False])


def course(elevation_deg, azimuth_deg=0.0, heading_deg=0.0):
    """A Pointing of directions in the sky, the terminal's frame turned by heading_deg."""
    elevation_deg, azimuth_deg, heading_deg = np.broadcast_arrays(
        np.asarray(elevation_deg, dtype=float),
        np.asarray(azimuth_deg, dtype=float),
        np.asarray(heading_deg, dtype=float),
    )
    ahead_rad, up_rad = np.radians(azimuth_deg - heading_deg), np.radians(elevation_deg)
    in_frame = np.stack(
        [np.cos(up_rad) * np.cos(ahead_rad), -np.cos(up_rad) * np.sin(ahead_rad), np.sin(up_rad)], axis=-1
    )
    straight_deg = np.full((len(elevation_deg), 2), 90.0)
    return Pointing(
        elevation_deg, np.full(len(elevation_deg), 1e6), straight_deg, beam_angles_deg(in_frame), heading_deg % 360.0
    )


def around(n, elevation_deg, step_deg):
    """A course of constant elevation whose direction turns by step_deg a row."""
    turn_deg = 2.0 * np.degrees(np.arcsin(np.sin(np.radians(step_deg) / 2.0) / np.cos(np.radians(elevation_deg))))
    return course(np.full(n, elevation_deg), np.arange(n) * turn_deg)


@cache
def real_states(n, slot_s=0.1):
    """STARLINK-1102 over the quickstart's terminal: up from 30.6 deg, to 81.8 deg, and down again."""
    satellites = read_tle(SCENARIOS / "tle" / "leo-2022-02-22.tle.xz", name="STARLINK-1102")
    return ephemeris(satellites, start="2022-02-22T13:08:55Z", seconds=n * slot_s + 1.0).state_of(
        0, np.arange(n) * slot_s
    )


def real_pass(n=2300):
    return pointing(*real_states(n), SITE)


def lagged(series, lag):
    """Mean product of a standardised series with itself lag rows on."""
    return np.mean(series[lag:] * series[:-lag])


def lagged_error(correlation, lag, n):
    """Standard error of that mean for a process whose correlation at each lag is given (Bartlett), variance known."""
    reach = np.arange(1, len(correlation) - lag)
    terms = correlation[reach] ** 2 + correlation[reach + lag] * correlation[np.abs(reach - lag)]
    return np.sqrt((1.0 + correlation[lag] ** 2 + 2.0 * terms.sum()) / n)


# The way of the ray


def test_way_is_the_turn_of_the_satellite_times_the_distance_of_obstacles():
    way_m = ray_way_m(Link(obstacle_m=50.0), around(100, 40.0, 0.5), 0.1)
    assert way_m[0] == 0.0
    np.testing.assert_allclose(way_m[1:], 2 * 50.0 * np.sin(np.radians(0.25)), rtol=1e-9)


def test_turning_frame_under_a_satellite_at_rest_is_no_way():
    turning = course(np.full(50, 40.0), 70.0, np.linspace(0.0, 350.0, 50))
    assert ray_way_m(Link(), turning, 0.1).max() < 1e-10


def test_way_of_the_terminal_adds_as_a_vector():
    """East at 60 deg, sinking by a degree a slot: 50 m of that are 0.87 m, of which the rise is 0.44 m."""
    sinking = course([60.0, 59.0], 90.0)
    shift_m = 50.0 * np.array(
        [np.cos(np.radians(59)) - np.cos(np.radians(60)), np.sin(np.radians(59)) - np.sin(np.radians(60))]
    )
    for heading_deg, sign in ((90.0, 1.0), (270.0, -1.0)):
        link = Link(obstacle_m=50.0, speed_m_s=2.0, heading_deg=heading_deg)
        expected_m = np.hypot(shift_m[0] + sign * 2.0 * 0.1, shift_m[1])
        assert ray_way_m(link, sinking, 0.1)[1] == pytest.approx(expected_m, rel=1e-12)
    north = Link(obstacle_m=50.0, speed_m_s=2.0)
    assert ray_way_m(north, sinking, 0.1)[1] == pytest.approx(np.sqrt(shift_m @ shift_m + 0.2**2), rel=1e-12)


def test_way_over_a_real_pass_is_that_of_elevation_and_azimuth():
    seen = look_angles(*real_states(2300), SITE)
    up_rad, azimuth_rad = np.radians(seen.elevation_deg), np.radians(seen.azimuth_deg)
    cosine = np.sin(up_rad[1:]) * np.sin(up_rad[:-1])
    cosine += np.cos(up_rad[1:]) * np.cos(up_rad[:-1]) * np.cos(np.diff(azimuth_rad))
    way_m = ray_way_m(Link(obstacle_m=50.0), real_pass(), 0.1)
    np.testing.assert_allclose(way_m[1:], 50.0 * np.arccos(cosine), rtol=1e-6)


# Line of sight


def test_default_draws_are_those_of_the_chain_and_the_process_written_out():
    rows = real_pass(n=600)
    uniform, noise = np.random.default_rng(3).random(600), np.random.default_rng(4).standard_normal(600)
    p = los_probability(rows.elevation_deg, Link().tables)
    los, shadow, rho = [bool(uniform[0] < p[0])], [noise[0]], np.exp(-0.1 / 5.0)
    for i in range(1, 600):
        los.append(bool(uniform[i] * p[i] >= 0.05 * (1.0 - p[i])) if los[-1] else bool(uniform[i] < 0.05))
        shadow.append(rho * shadow[-1] + np.sqrt(1.0 - rho * rho) * noise[i])
    drawn = draw_los(np.random.default_rng(3), Link(), rows, 0.1)
    assert drawn.tolist() == los
    shadow_db = draw_shadow(np.random.default_rng(4), Link(), rows, drawn, 0.1)
    np.testing.assert_array_equal(shadow_db, shadow * shadow_sigma_db(rows.elevation_deg, drawn, Link().tables))


def test_dwell_keeps_its_law_where_sight_is_rare_and_slots_are_long():
    """Urban at 10 deg has 0.246; a slot as long as the dwell would ask to leave sight with a chance of 3.07."""
    n, p = 200_000, 0.246
    los = draw_los(np.random.default_rng(5), Link(environment="urban"), course(np.full(n, 10.0)), 2.0)
    assert abs(los.mean() - p) < SIGMAS * np.sqrt(p * (1 - p) / n)  # it alternates, so this is more than it errs


@pytest.mark.parametrize("step_deg", [0.02, 0.5, 4.0])
@pytest.mark.parametrize(("name", "elevation_deg"), [("suburban", 30.0), ("urban", 10.0)])
def test_sojourn_is_an_exponential_chain_over_the_way_at_any_step(name, elevation_deg, step_deg):
    """Correlation of sight over a way d: exp(-d / (s p)), of the two-state chain with rates 1/s and (1 - p) / (s p)."""
    n, sojourn_deg = 400_000, 5.0
    link = Link(environment=name, los="sojourn", nlos_sojourn_deg=sojourn_deg)
    rows = around(n, elevation_deg, step_deg)
    p = los_probability(elevation_deg, link.tables)
    los = draw_los(np.random.default_rng(6), link, rows, 0.1)
    kept = np.exp(-step_deg / (sojourn_deg * p))
    standard_error = np.sqrt(p * (1 - p) / n * (1 + kept) / (1 - kept))
    assert abs(los.mean() - p) < SIGMAS * standard_error
    regained = los[1:][~los[:-1]]
    chance = p * (1.0 - kept)
    assert abs(regained.mean() - chance) < SIGMAS * np.sqrt(chance * (1 - chance) / len(regained))


def test_mean_way_without_sight_is_the_sojourn():
    n, step_deg = 1_000_000, 0.05
    link = Link(environment="urban", los="sojourn", nlos_sojourn_deg=3.0)
    los = draw_los(np.random.default_rng(7), link, around(n, 40.0, step_deg), 0.1)
    changes = np.flatnonzero(los[1:] != los[:-1])
    lengths_deg = (np.diff(changes) * step_deg)[~los[changes[:-1] + 1]]
    seen_once_a_step = 2.0 * step_deg  # visits shorter than a step are missed, which makes others longer
    assert abs(lengths_deg.mean() - 3.0) < seen_once_a_step + SIGMAS * 3.0 / np.sqrt(len(lengths_deg))


@pytest.mark.parametrize("sojourn_deg", [2.0, 40.0])
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_sojourn_has_the_probability_of_the_elevation_in_every_slot(name, sojourn_deg):
    """20,000 passes, one after the other; each begins far from where the last one ended. With sojourns of 40 deg the
    probability rises faster than they let it."""
    n_passes, link = 20_000, Link(environment=name, los="sojourn", nlos_sojourn_deg=sojourn_deg)
    one_deg = np.concatenate([np.linspace(10.0, 90.0, 21), np.linspace(88.0, 10.0, 20)])
    one = course(one_deg, np.where(np.arange(41) < 21, 0.0, 180.0))
    passes = Pointing(*(np.concatenate([values] * n_passes) for values in vars(one).values()))
    los = draw_los(np.random.default_rng(8), link, passes, 0.1).reshape(n_passes, 41)
    p = los_probability(one_deg, link.tables)
    assert np.all(np.abs(los.mean(axis=0) - p) < SIGMAS * np.sqrt(p * (1 - p) / n_passes))


def test_moving_terminal_shortens_the_time_without_sight():
    """10 m/s under a satellite at rest, obstacles at 50 m: 5 deg are 4.4 m, 0.44 s."""
    link = Link(environment="urban", los="sojourn", nlos_sojourn_deg=5.0, obstacle_m=50.0, speed_m_s=10.0)
    los = draw_los(np.random.default_rng(9), link, course(np.full(400_000, 40.0)), 0.01)
    changes = np.flatnonzero(los[1:] != los[:-1])
    lengths_s = (np.diff(changes) * 0.01)[~los[changes[:-1] + 1]]
    mean_s = 50.0 * np.radians(5.0) / 10.0
    assert abs(lengths_s.mean() - mean_s) < 0.02 + SIGMAS * mean_s / np.sqrt(len(lengths_s))


@pytest.mark.parametrize("los", ["sojourn", "pass"])
def test_sight_stays_while_nothing_moves(los):
    link = Link(environment="urban", los=los)
    for seed in range(20):
        drawn = draw_los(np.random.default_rng(seed), link, course(np.full(300, 30.0)), 0.1)
        assert drawn.all() or not drawn.any()


@pytest.mark.parametrize("name", ["urban", "rural"])
def test_one_draw_a_pass_has_the_probability_of_each_elevation_and_never_flickers(name):
    n_passes, link = 5_000, Link(environment=name, los="pass")
    elevation_deg = np.concatenate([np.arange(10.0, 81.0, 5.0), np.arange(75.0, 9.0, -5.0)])
    rows, rng = course(elevation_deg), np.random.default_rng(10)
    los = np.array([draw_los(rng, link, rows, 1.0) for _ in range(n_passes)])
    p = los_probability(elevation_deg, link.tables)
    assert np.all(np.abs(los.mean(axis=0) - p) < SIGMAS * np.sqrt(p * (1 - p) / n_passes))
    assert (los[:, 1:] != los[:, :-1]).sum(axis=1).max() <= 2


# Shadow fading


def smooth_law(ways):
    """(1 + s) exp(-s), 1/e at a way of 1."""
    s = large_scale.STEPS_TO_1_E * ways
    return (1.0 + s) * np.exp(-s)


@both_sights
@pytest.mark.parametrize("moved_by", ["satellite", "terminal"])
def test_shadow_is_correlated_over_the_tables_distance(sight, moved_by):
    """Half a metre a row, by the satellite's way or the terminal's: 1/e after 37 m in line of sight, 50 m without."""
    n, lag = 400_000, 60
    link = Link(environment="dense_urban", carrier_hz=2e9, shadow="distance", obstacle_m=100.0)
    rows = around(n, 50.0, np.degrees(0.5 / 100.0))
    if moved_by == "terminal":
        link, rows = Link(**{**vars_of(link), "speed_m_s": 5.0}), course(np.full(n, 50.0))
    los = np.full(n, sight)
    shadow_db = draw_shadow(np.random.default_rng(11), link, rows, los, 0.1)
    standard = shadow_db / shadow_sigma_db(rows.elevation_deg, los, link.tables)
    expected = smooth_law(0.5 * np.arange(4000) / (37.0 if sight else 50.0))
    assert abs(np.mean(standard**2) - 1.0) < SIGMAS * np.sqrt(2.0) * lagged_error(expected, 0, n)
    assert abs(lagged(standard, lag) - expected[lag]) < SIGMAS * lagged_error(expected, lag, n)


def vars_of(link):
    return {name: getattr(link, name) for name in link.__struct_fields__}


# Spreads

FAR_M_S = 1000.0  # so fast that a slot of a second leaves no correlation with the one before


def independent_rows(name, carrier_hz, elevation_deg, sight, n, seed=12):
    link = Link(environment=name, carrier_hz=carrier_hz, shadow="distance", speed_m_s=FAR_M_S)
    rows, los = course(np.full(n, elevation_deg)), np.full(n, sight)
    of_shadow, of_spreads = np.random.default_rng(seed).spawn(2)
    shadow_db = draw_shadow(of_shadow, link, rows, los, 1.0)
    drawn = draw_spreads(of_spreads, link, rows, los, shadow_db, 1.0)
    sigma_db = shadow_sigma_db(elevation_deg, sight, environment(name, carrier_hz))
    return drawn, -shadow_db / sigma_db  # a gain, as in the tables


def by_elevation(values, elevation_deg):
    """A table's values, or matrices, linearly between its rows."""
    low = min(int(elevation_deg // 10) - 1, 7)
    share = elevation_deg / 10 - 1 - low
    return (1 - share) * values[low] + share * values[low + 1]


@both_sights
@pytest.mark.parametrize("carrier_hz", [2e9, 20e9])
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_spreads_have_the_tables_means_deviations_and_cross_correlations(name, carrier_hz, sight, monkeypatch):
    """At rows of the tables and between them, of 40,000 independent draws, uncapped."""
    monkeypatch.setattr(large_scale, "MAX_AZIMUTH_SPREAD_DEG", np.inf)
    monkeypatch.setattr(large_scale, "MAX_ZENITH_SPREAD_DEG", np.inf)
    n, tables = 40_000, small_scale(name, carrier_hz, sight)
    for elevation_deg in (10.0, 34.0, 90.0):
        drawn, shadow = independent_rows(name, carrier_hz, elevation_deg, sight, n)
        standard = {"SF": shadow}
        for one, values, column in (
            ("K", drawn.k_factor_db, "k_factor_{}_db"),
            ("DS", np.log10(drawn.delay_spread_s), "lg_delay_spread_{}"),
            ("ASA", np.log10(drawn.azimuth_spread_deg), "lg_azimuth_spread_{}"),
            ("ZSA", np.log10(drawn.zenith_spread_deg), "lg_zenith_spread_{}"),
        ):
            mu = by_elevation(getattr(tables, column.format("mu")), elevation_deg)
            sigma = by_elevation(getattr(tables, column.format("sigma")), elevation_deg)
            if sigma == 0.0:
                np.testing.assert_array_equal(values, mu)
                continue
            assert abs(values.mean() - mu) < SIGMAS * sigma / np.sqrt(n), (one, elevation_deg)
            assert abs(values.std() - sigma) < SIGMAS * sigma / np.sqrt(2 * n), (one, elevation_deg)
            standard[one] = (values - mu) / sigma
        expected = by_elevation(tables.cross_correlation, elevation_deg)
        for one in standard:
            for other in standard:
                if one < other:
                    r = np.mean(standard[one] * standard[other])
                    both = one in CORRELATED and other in CORRELATED
                    asked = expected[CORRELATED.index(one), CORRELATED.index(other)] if both else 0.0
                    error = np.sqrt((1 + asked**2) / n)  # of a mean product, variances known
                    assert abs(r - asked) < SIGMAS * error, (one, other, elevation_deg)


def test_where_more_is_lost_delays_spread_wider():
    """TR 38.901 7.5 step 4: positive shadow fading is more power; dense urban, r = -0.4 with the delay spread."""
    link = Link(environment="dense_urban", carrier_hz=2e9, shadow="distance", speed_m_s=FAR_M_S)
    rows, los = course(np.full(4_000, 30.0)), np.ones(4_000, bool)
    of_shadow, of_spreads = np.random.default_rng(18).spawn(2)
    shadow_db = draw_shadow(of_shadow, link, rows, los, 1.0)
    drawn = draw_spreads(of_spreads, link, rows, los, shadow_db, 1.0)
    assert np.corrcoef(shadow_db, np.log10(drawn.delay_spread_s))[0, 1] == pytest.approx(0.4, abs=0.06)


def test_angular_spreads_end_at_the_caps_of_tr_38_901():
    """Rural without sight at 10 deg, lg azimuth -3.33 +- 6.22: one spread in five would be wider than 104 deg."""
    n = 40_000
    drawn, _ = independent_rows("rural", 2e9, 10.0, False, n)
    tables = small_scale("rural", 2e9, False)
    for spread_deg, most_deg, which in (
        (drawn.azimuth_spread_deg, 104.0, "azimuth"),
        (drawn.zenith_spread_deg, 52.0, "zenith"),
    ):
        mu = getattr(tables, f"lg_{which}_spread_mu")[0]
        sigma = getattr(tables, f"lg_{which}_spread_sigma")[0]
        share = 1.0 - ndtr((np.log10(most_deg) - mu) / sigma)
        assert spread_deg.max() == most_deg
        assert abs(np.mean(spread_deg == most_deg) - share) < SIGMAS * np.sqrt(share * (1 - share) / n)


@both_sights
def test_spreads_are_correlated_over_the_way_as_their_mixture_says(sight):
    """Mixtures of processes with the tables' distances, weighed by the squared Cholesky factor."""
    n, step_m = 100_000, 1.0
    tables = small_scale("suburban", 20e9, sight)
    link = Link(shadow="distance", speed_m_s=10.0)
    rows, los = course(np.full(n, 20.0)), np.full(n, sight)
    of_shadow, of_spreads = np.random.default_rng(13).spawn(2)
    shadow_db = draw_shadow(of_shadow, link, rows, los, step_m / 10.0)
    drawn = draw_spreads(of_spreads, link, rows, los, shadow_db, step_m / 10.0)
    weights = np.linalg.cholesky(tables.cross_correlation[1]) ** 2
    alone = smooth_law(step_m * np.arange(2000)[:, None] / tables.correlation_distance_m)
    for values, column, mixture in (
        (drawn.k_factor_db, "k_factor_{}_db", weights[1]),
        (np.log10(drawn.delay_spread_s), "lg_delay_spread_{}", weights[2]),
    ):
        mu, sigma = (getattr(tables, column.format(part))[1] for part in ("mu", "sigma"))
        if sigma == 0.0:
            continue
        expected = alone @ mixture
        for lag in (3, 15, 40):
            measured = lagged((values - mu) / sigma, lag)
            assert abs(measured - expected[lag]) < SIGMAS * lagged_error(expected, lag, n), (column, lag)


def test_smooth_series_has_its_law_whatever_the_steps():
    """Over 200,000 series: steps of a quarter and one of two and a half have the law of their sum."""
    noise = np.random.default_rng(16).standard_normal((200_000, 4, 2))
    series = np.array([large_scale.smooth_series(each, np.array([9.0, 0.25, 0.25, 2.5])) for each in noise])
    ways = np.cumsum([0.0, 0.25, 0.25, 2.5])
    expected = (1.0 + abs(ways[:, None] - ways)) * np.exp(-abs(ways[:, None] - ways))
    error = np.sqrt((1.0 + expected**2) / len(noise))
    assert np.all(np.abs(series.T @ series / len(noise) - expected) < SIGMAS * error)


def test_smooth_series_takes_as_much_chance_into_a_step_as_its_length_asks_for():
    """1 - (1 + 2 s + 2 s^2) exp(-2 s), an incomplete gamma function; of short steps, the difference of two numbers near
    1, whose rounding had the variance grow to 1.9 over some hundred thousand steps of 6e-6."""
    for s in np.geomspace(1e-30, 1e3, 331):
        value = large_scale.smooth_series(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0.0, s]))[1]
        assert value**2 == pytest.approx(gammainc(3.0, 2.0 * s), rel=1e-8, abs=0.0)


def test_shadow_that_goes_by_time_makes_no_spread_rough():
    link, rows = Link(environment="urban", carrier_hz=2e9, shadow="dwell", los="pass"), real_pass()
    drawn = drawn_pass(link, rows, 0.1)
    by_way = drawn_pass(Link(environment="urban", carrier_hz=2e9, shadow="distance", los="pass"), rows, 0.1)
    stays = drawn.los[1:] == drawn.los[:-1]
    steps = [np.abs(np.diff(np.log10(each.delay_spread_s)))[stays] for each in (drawn, by_way)]
    assert steps[0].max() < 2.0 * steps[1].max()


# A whole pass


def drawn_pass(link, rows, slot_s, seed=14):
    of_los, of_shadow, of_spreads = np.random.default_rng(seed).spawn(3)
    los = draw_los(of_los, link, rows, slot_s)
    return draw_spreads(of_spreads, link, rows, los, draw_shadow(of_shadow, link, rows, los, slot_s), slot_s)


every_process = pytest.mark.parametrize(
    ("los", "shadow"), [("dwell", "dwell"), ("sojourn", "distance"), ("pass", "distance")]
)


@every_process
def test_longer_pass_begins_with_the_draws_of_a_shorter_one(los, shadow):
    link, rows = Link(environment="urban", carrier_hz=2e9, los=los, shadow=shadow, speed_m_s=3.0), real_pass(n=900)
    long, again, short = (drawn_pass(link, rows[:n], 0.1) for n in (900, 900, 400))
    for name, values in vars(long).items():
        assert len(values) == 900
        np.testing.assert_array_equal(values, getattr(again, name), err_msg=name)
        np.testing.assert_array_equal(values[:400], getattr(short, name), err_msg=name)


@every_process
def test_nothing_jumps_over_a_real_pass_but_with_the_line_of_sight(los, shadow):
    """A standard process of the smooth law moves by its step in the mean square, an exponential one by sqrt(2 (1 - r));
    six times that is the bound, plus what the tables themselves change from slot to slot."""
    link = Link(environment="urban", carrier_hz=2e9, los=los, shadow=shadow, nlos_sojourn_deg=3.0)
    rows = real_pass()
    drawn = drawn_pass(link, rows, 0.1)
    stays = drawn.los[1:] == drawn.los[:-1]
    assert stays.sum() > 2200
    way_m = ray_way_m(link, rows, 0.1)[1:]
    assert way_m.max() < 0.07  # at 50 m; 0.075 deg a slot
    smooth_step = 6.0 * large_scale.STEPS_TO_1_E * way_m / 12.0 + 0.05  # 12 m: the shortest distance of the tables
    shadow_step = smooth_step if shadow == "distance" else np.full(len(way_m), 6.0 * np.sqrt(2.0 * 0.1 / 5.0) + 0.05)
    sight = {state: small_scale("urban", 2e9, state) for state in (True, False)}
    widest = {name: max(getattr(t, name).max() for t in sight.values()) for name in vars(sight[True])}
    for values, sigma, step in (
        (drawn.shadow_db, 6.0, shadow_step),
        (np.where(drawn.los, drawn.k_factor_db, 0.0), widest["k_factor_sigma_db"], smooth_step),
        (np.log10(drawn.delay_spread_s), widest["lg_delay_spread_sigma"], smooth_step),
        (np.log10(drawn.azimuth_spread_deg), widest["lg_azimuth_spread_sigma"], smooth_step),
        (np.log10(drawn.zenith_spread_deg), widest["lg_zenith_spread_sigma"], smooth_step),
    ):
        assert np.all(np.abs(np.diff(values))[stays] < (sigma * step)[stays])


def test_shadow_is_the_same_with_and_without_spreads():
    link, rows = Link(), real_pass(n=300)
    drawn = drawn_pass(link, rows, 0.1)
    of_los, of_shadow = np.random.default_rng(14).spawn(2)
    los = draw_los(of_los, link, rows, 0.1)
    np.testing.assert_array_equal(drawn.los, los)
    np.testing.assert_array_equal(drawn.shadow_db, draw_shadow(of_shadow, link, rows, los, 0.1))


@every_process
def test_a_pass_may_have_one_slot_or_none(los, shadow):
    link = Link(los=los, shadow=shadow)
    for n in (0, 1):
        assert all(len(values) == n for values in vars(drawn_pass(link, course(np.full(n, 30.0)), 0.1)).values())


@pytest.mark.parametrize(
    ("kernel", "arguments"),
    [
        (large_scale.los_states, lambda rng: (rng.random(300), rng.uniform(0.1, 1.0, 300), rng.uniform(0.0, 0.1, 300))),
        (large_scale.smooth_series, lambda rng: (rng.standard_normal((300, 2)), rng.uniform(0.0, 2.0, 300))),
        (large_scale.autoregression, lambda rng: (rng.standard_normal((300, 1)), rng.uniform(0.0, 1.0, 300))),
    ],
)
def test_kernel_agrees_with_its_python_source(kernel, arguments):
    np.testing.assert_allclose(
        kernel(*arguments(np.random.default_rng(15))),
        kernel.py_func(*arguments(np.random.default_rng(15))),
        rtol=0,
        atol=1e-9,  # variances of short steps are what is left of 1
    )
