"""The fixed profiles NTN-TDL and NTN-CDL: tables, power-delay profiles, Doppler spectrum and angles."""

import csv
from pathlib import Path

import numpy as np
import pytest

from twin.channel import profiles as module
from twin.channel.fading import draw_fading
from twin.channel.link import Link
from twin.channel.profiles import N_WAVES, PROFILES, direct_turns, profiled
from twin.errors import ScenarioError
from twin.geometry import Pointing, beam_angles_deg
from twin.units import SPEED_OF_LIGHT_M_S, from_db, to_db

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "3gpp"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the reference numbers (../shared/reference/3gpp) are not beside this checkout"
)
SIGMAS = 5.0
LETTERS = ("a", "b", "c", "d")
# TR 38.811 tables 6.9.2-1 to -4, typed again: normalised delay, power in dB; of C and D the specular part first
PRINTED = {
    "a": ([0.0, 1.0811, 2.8416], [0.0, -4.675, -6.482]),
    "b": ([0.0, 0.7249, 0.7410, 5.7392], [0.0, -1.973, -4.332, -11.914]),
    "c": ([0.0, 0.0, 14.8124], [-0.394, -10.618, -23.373]),
    "d": ([0.0, 0.0, 0.5596, 7.3340], [-0.284, -11.991, -9.887, -16.771]),
}


def rows(name):
    lines = (REFERENCE / name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def course(n=1, elevation_deg=50.0, azimuth_deg=0.0, heading_deg=0.0, last_elevation_deg=None):
    """A satellite at an azimuth (from the panel's x towards its y) and an elevation, which may change by the row."""
    last = elevation_deg if last_elevation_deg is None else last_elevation_deg
    elevations_deg = np.linspace(elevation_deg, last, n)
    elevation, azimuth = np.radians(elevations_deg), np.radians(azimuth_deg)
    level = np.cos(elevation)
    direction = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)], axis=1)
    straight = np.full((n, 2), 90.0)
    return Pointing(elevations_deg, np.full(n, 1e6), straight, beam_angles_deg(direction), np.full(n, heading_deg))


def link_of(multipath, **settings):
    return Link(**({"carrier_hz": 2e9, "multipath": multipath, "delay_spread_s": 30e-9} | settings))


def draw(seed, link, where, slot_s=0.1, samples=1):
    return profiled(np.random.default_rng(seed), link, where, slot_s, samples)


# Tables


@needs_reference
@pytest.mark.parametrize("letter", LETTERS)
def test_tables_equal_the_reference(letter):
    ours = PROFILES[letter]
    for name, of_taps in (("ntn_tdl.csv", True), ("ntn_cdl.csv", False)):
        found = [row for row in rows(name) if row["profile"] == letter.upper()]
        diffuse = [row for row in found if row["component"] == "diffuse"]
        assert [float(row["normalised_delay"]) for row in diffuse] == list(ours.delay)
        assert [float(row["power_db"]) for row in diffuse] == list(ours.power_db)
        specular = [float(row["power_db"]) for row in found if row["component"] == "specular"]
        assert specular == ([] if ours.specular_db is None else [ours.specular_db])
        if not of_taps:
            assert [float(row["aoa_deg"]) for row in diffuse] == list(ours.azimuth_deg)
            assert [float(row["zoa_deg"]) for row in diffuse] == list(ours.zenith_deg)
    (row,) = (row for row in rows("ntn_cdl_cluster.csv") if row["profile"] == letter.upper())
    assert (float(row["c_asa_deg"]), float(row["c_zsa_deg"])) == (ours.ray_azimuth_deg, ours.ray_zenith_deg)
    assert float(row["xpr_db"]) == ours.cross_polar_db


@pytest.mark.parametrize("letter", LETTERS)
def test_power_delay_profile_is_the_printed_one_made_to_add_up_to_one(letter):
    """Taps: from their mean over a long time, exactly, since waves of different frequencies do not correlate."""
    delay, power_db = PRINTED[letter]
    expected = from_db(power_db) / from_db(power_db).sum()
    if letter in "ab":
        delay, expected = [0.0, *delay], np.append(0.0, expected)  # the silent direct path
    n_draws = 1500
    still = [np.abs(draw(seed, link_of(f"ntn-tdl-{letter}"), course()).amplitude[0]) ** 2 for seed in range(n_draws)]
    error = np.std(still, axis=0) / np.sqrt(n_draws)
    assert (np.abs(np.mean(still, axis=0) - expected) <= SIGMAS * error + 1e-12).all()
    paths = draw(1, link_of(f"ntn-tdl-{letter}"), course())
    np.testing.assert_allclose(paths.delay_s[0], 30e-9 * np.array(delay), rtol=1e-15)
    rays = draw(1, link_of(f"ntn-cdl-{letter}"), course())
    power = np.abs(rays.amplitude[0]) ** 2
    np.testing.assert_allclose(np.append(power[0], power[1:].reshape(-1, 20).sum(axis=1)), expected, rtol=1e-9)
    np.testing.assert_allclose(rays.delay_s[0, 1::20], 30e-9 * np.array(delay)[1:], rtol=1e-15)


@pytest.mark.parametrize(("letter", "k_factor_db"), [("c", 10.224), ("d", 11.707)])
def test_first_tap_has_the_k_factor_of_the_standard(letter, k_factor_db):
    specular, powers = PROFILES[letter].powers
    assert to_db(specular / powers[0]) == pytest.approx(k_factor_db, abs=1e-9)


# Taps over time


def test_taps_have_jakes_autocorrelation():
    """E g(t) g*(0) = P J0(2 pi f_D t), 2,000 draws; the direct direction is square to the motion, without a shift."""
    link = link_of("ntn-tdl-b", speed_m_s=10.0, heading_deg=0.0)
    n, slot_s, n_draws = 25, 0.0005, 2000
    where = course(n, azimuth_deg=0.0, heading_deg=90.0)
    taps = np.array([draw(seed, link, where, slot_s).amplitude[:, 1:] for seed in range(n_draws)])
    product = taps * np.conj(taps[:, :1])
    doppler_hz = 10.0 * 2e9 / SPEED_OF_LIGHT_M_S
    around = 2.0 * np.pi * (np.arange(4000) + 0.5) / 4000
    bessel = np.cos(2.0 * np.pi * doppler_hz * slot_s * np.outer(np.arange(n), np.cos(around))).mean(axis=1)
    assert bessel.min() < -0.35  # beyond its first minimum
    expected = bessel[:, None] * PROFILES["b"].powers[1]
    error = product.std(axis=0) / np.sqrt(n_draws)
    assert (np.abs(product.mean(axis=0) - expected) < SIGMAS * error).all()
    fourth = (np.abs(taps[:, 0]) ** 4).mean(axis=0) / (np.abs(taps[:, 0]) ** 2).mean(axis=0) ** 2
    np.testing.assert_allclose(fourth, 2.0 - 1.0 / N_WAVES, atol=SIGMAS * 4.5 / np.sqrt(n_draws))  # Gaussian: 2
    across = (taps[:, 0, :, None] * np.conj(taps[:, 0, None, :])).mean(axis=0)
    assert np.abs(across[~np.eye(4, dtype=bool)]).max() < SIGMAS * 0.5 / np.sqrt(n_draws)


def test_taps_are_seen_against_the_direct_paths_own_shift():
    """Towards the satellite at 50 deg: the direct path has f_D cos 50 deg, the taps are that much lower."""
    link = link_of("ntn-tdl-d", speed_m_s=10.0, heading_deg=40.0)
    where = course(40, azimuth_deg=50.0, heading_deg=90.0)  # azimuth 50 deg left of east is 40 deg from north
    np.testing.assert_allclose(where.east_north_up[0] @ link.velocity_m_s, 10.0 * np.cos(np.radians(50.0)), rtol=1e-12)
    aside = link_of("ntn-tdl-d", speed_m_s=10.0, heading_deg=130.0)
    shifted, plain = (draw(3, one, where, 0.01).amplitude for one in (link, aside))
    shift_hz = 10.0 * 2e9 / SPEED_OF_LIGHT_M_S * np.cos(np.radians(50.0))
    turn = np.exp(-2j * np.pi * shift_hz * 0.01 * np.arange(40))
    np.testing.assert_allclose(shifted[:, 1:], plain[:, 1:] * turn[:, None], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(shifted[:, 0], plain[:, 0])


def test_the_direct_paths_turns_are_the_integral_of_its_shift_and_agree_when_sampled_finer():
    link = link_of("ntn-tdl-c", speed_m_s=10.0, heading_deg=0.0)
    rising = course(401, 20.0, 90.0, 90.0, 60.0)  # due north, from 20 to 60 deg in 40 s
    turns = direct_turns(link, rising, 0.1, 1)
    elevation = np.radians(rising.elevation_deg)
    rate = np.radians(40.0) / 40.0
    expected = 10.0 * 2e9 / SPEED_OF_LIGHT_M_S * (np.sin(elevation) - np.sin(elevation[0])) / rate
    np.testing.assert_allclose(turns, expected, rtol=0, atol=0.001)  # turns, of 1,400
    coarse = direct_turns(link, rising[:400][::4], 0.4, 1)
    fine = direct_turns(link, rising[:400], 0.4, 4)
    np.testing.assert_array_equal(fine[::4], coarse)
    np.testing.assert_allclose(fine, expected[:400], rtol=0, atol=0.01)


# Clusters


@pytest.mark.parametrize("letter", LETTERS)
def test_cluster_angles_are_the_printed_ones_for_the_satellite_they_were_printed_for(letter):
    """A satellite 50 deg high at azimuth 180 deg: the first two rays stand 0.0447 c_ASA beside their cluster."""
    paths = draw(2, link_of(f"ntn-cdl-{letter}"), course(azimuth_deg=180.0))
    for cluster in range(len(PROFILES[letter].delay)):
        pair = paths.arrival[0, 1 + 20 * cluster : 3 + 20 * cluster]
        azimuth_deg = np.degrees(np.arctan2(pair[:, 1], pair[:, 0]))
        middle_deg = PROFILES[letter].azimuth_deg[cluster]
        apart_deg = (azimuth_deg - middle_deg + 180.0) % 360.0 - 180.0
        np.testing.assert_allclose(
            np.sort(apart_deg), 0.0447 * PROFILES[letter].ray_azimuth_deg * np.array([-1, 1]), atol=1e-9
        )
        whole = paths.arrival[0, 1 + 20 * cluster : 21 + 20 * cluster]
        found_deg = np.degrees(np.arcsin(np.minimum(np.hypot(*whole.T), 1.0)))  # zenith, or its mirror image below
        offsets = module.draw_rays(np.random.default_rng(0), module.lay_out(1, 0, True), None)[1]
        angles_deg = PROFILES[letter].zenith_deg[cluster] + PROFILES[letter].ray_zenith_deg * offsets
        folded_deg = np.degrees(np.arcsin(np.abs(np.sin(np.radians(angles_deg)))))
        np.testing.assert_allclose(np.sort(found_deg), np.sort(folded_deg), atol=1e-6)
    if PROFILES[letter].los:
        np.testing.assert_allclose(paths.arrival[0, 0], [-np.cos(np.radians(50.0)), 0.0], atol=1e-12)


def test_clusters_follow_the_direct_direction():
    """Turning satellite and frame turns all arrivals; phases at the beginning stay."""
    one = draw(4, link_of("ntn-cdl-d"), course(azimuth_deg=180.0))
    other = draw(4, link_of("ntn-cdl-d"), course(azimuth_deg=-90.0))
    np.testing.assert_allclose(other.arrival[..., 0], -one.arrival[..., 1], atol=1e-9)
    np.testing.assert_allclose(other.arrival[..., 1], one.arrival[..., 0], atol=1e-9)
    np.testing.assert_array_equal(other.amplitude, one.amplitude)


def test_polarised_clusters_have_the_cross_polarisation_of_the_table():
    """Vertical to horizontal: every ray of NTN-CDL-C is 16 dB below its power, the direct path is gone."""
    plain = draw(5, link_of("ntn-cdl-c"), course())
    crossed = draw(5, link_of("ntn-cdl-c", polarisation=("vertical", "horizontal")), course())
    assert not crossed.amplitude[:, 0].any()
    ratio = np.abs(crossed.amplitude[0, 1:]) ** 2 / np.abs(plain.amplitude[0, 1:]) ** 2
    np.testing.assert_allclose(to_db(ratio), -16.0, atol=1e-9)


# As fading


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("kind", ["tdl", "cdl"])
def test_sight_is_the_profiles_own_at_every_row(kind, letter):
    link = link_of(f"ntn-{kind}-{letter}", speed_m_s=3.0)
    fading = draw_fading(np.random.default_rng(1), link, course(40), 0.1, 4)
    assert (fading.los == (letter in "cd")).all()
    assert fading.los.shape == (40,)
    assert (np.abs(fading.amplitude[:, 0]) > 0.0).all() == (letter in "cd")
    assert fading.departure.shape == (40, 1, 2)
    direct = np.abs(fading.amplitude[:, 0]) ** 2 / link.array_gain
    np.testing.assert_allclose(direct, PROFILES[letter].powers[0], rtol=1e-12)


@pytest.mark.parametrize("multipath", ["ntn-tdl-a", "ntn-tdl-d", "ntn-cdl-b", "ntn-cdl-c"])
def test_nothing_that_moves_leaves_the_channel_constant(multipath):
    fading = draw_fading(np.random.default_rng(2), link_of(multipath), course(50), 0.1)
    for values in (fading.amplitude, fading.arrival, fading.delay_s):
        np.testing.assert_array_equal(values, np.broadcast_to(values[:1], values.shape))


@pytest.mark.parametrize("multipath", ["ntn-tdl-b", "ntn-cdl-d"])
def test_finer_sampling_and_longer_passes_agree_where_they_meet(multipath):
    link = link_of(multipath, speed_m_s=15.0)
    fine = draw(6, link, course(80, 20.0, 30.0, 60.0, 70.0), 0.1, 4)
    coarse = draw(6, link, course(80, 20.0, 30.0, 60.0, 70.0)[::4], 0.1)
    shorter = draw(6, link, course(80, 20.0, 30.0, 60.0, 70.0)[:40], 0.1, 4)
    again = draw(6, link, course(80, 20.0, 30.0, 60.0, 70.0), 0.1, 4)
    for ours, at_slots, short, same in zip(fine, coarse, shorter, again):
        np.testing.assert_allclose(ours[::4], at_slots, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(ours[:40], short)
        np.testing.assert_array_equal(ours, same)
    assert not np.allclose(fine.amplitude, draw(7, link, course(80, 20.0, 30.0, 60.0, 70.0), 0.1, 4).amplitude)


def test_taps_know_no_polarisation():
    with pytest.raises(ScenarioError, match=r"link.polarisation.*ntn-cdl-a.*got `ntn-tdl-a`"):
        link_of("ntn-tdl-a", polarisation=("rhcp", "rhcp"))


def test_kernel_agrees_with_its_python_source(monkeypatch):
    link = link_of("ntn-tdl-d", speed_m_s=15.0)
    compiled = draw(8, link, course(6, 20.0, 30.0, 60.0, 70.0), 0.1, 2)
    monkeypatch.setattr(module, "sum_waves", module.sum_waves.py_func)
    plain = draw(8, link, course(6, 20.0, 30.0, 60.0, 70.0), 0.1, 2)
    np.testing.assert_allclose(compiled.amplitude, plain.amplitude, rtol=1e-12, atol=1e-13)
