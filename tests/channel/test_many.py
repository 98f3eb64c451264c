"""Interference, against the full matrices of every beam and terminal."""

from pathlib import Path

import numpy as np
import plain
import pytest

import twin
from twin.channel import Link, arrays, many
from twin.channel.many import hear, snapshot
from twin.geometry import Site

LINK = Link(tx_antennas=(4, 3), rx_antennas=(2, 5), n_rb=12, n_groups=3)
N_TERMINALS, N_SATELLITES, N_BEAMS = 5, 3, 7


def case(seed=0, link=LINK):
    rng = np.random.default_rng(seed)
    fading = plain.random_fading(rng, N_TERMINALS * N_SATELLITES, 4, common=True)
    gain = rng.uniform(0.5, 2.0, (N_TERMINALS, N_SATELLITES)) * 1e-14
    gain[1, 2] = gain[3] = 0.0  # out of sight
    given = {
        "beam_deg": rng.uniform(40.0, 140.0, (N_BEAMS, 2)),
        "satellite": rng.integers(0, N_SATELLITES, N_BEAMS),
        "used": rng.random((N_BEAMS, link.n_rb)) < 0.6,
        "serving": np.array([0, 3, -1, 6, 2]),
        "rx_beam_deg": rng.uniform(40.0, 140.0, (N_TERMINALS, 2)),
        "power": rng.uniform(0.5, 2.0, N_BEAMS),
    }
    return fading, gain, given


def test_signal_and_interference_are_those_of_the_full_matrices():
    fading, gain, given = case()
    heard = hear(LINK, fading, gain, **given)
    signal, interference = np.zeros((2, N_TERMINALS, LINK.n_rb))
    for u in range(N_TERMINALS):
        for b in range(N_BEAMS):
            s = given["satellite"][b]
            response = plain.response(LINK, fading, u * N_SATELLITES + s, given["beam_deg"][b], given["rx_beam_deg"][u])
            power = LINK.snr_per_gain * gain[u, s] * given["power"][b] * np.abs(response) ** 2 * given["used"][b]
            (signal if given["serving"][u] == b else interference)[u] += power
    np.testing.assert_allclose(heard.signal, signal, rtol=1e-9)
    np.testing.assert_allclose(heard.interference, interference, rtol=1e-9)
    np.testing.assert_allclose(heard.sinr, signal / (1.0 + interference), rtol=1e-9)
    assert not heard.signal[2].any()
    assert heard.interference[2].any()
    assert not heard.interference[3].any()


@pytest.mark.parametrize(
    "link", [LINK, Link(tx_antennas=(1, 1), tx_aperture_m=0.1, rx_antennas=(1, 1), rx_aperture_m=0.05, n_rb=10)]
)
def test_without_other_beams_the_ratio_is_the_snr_of_the_link(link):
    from twin.channel.slot import block_snr

    fading, gain, given = case(1, link)
    alone = given | {"used": np.ones((N_BEAMS, link.n_rb)), "power": 1.0, "satellite": np.zeros(N_BEAMS, int)}
    for b in range(N_BEAMS):
        silent = np.zeros((N_BEAMS, link.n_rb), bool)
        silent[b] = True
        heard = hear(link, fading, gain, **alone | {"used": silent, "serving": np.full(N_TERMINALS, b)})
        rows = np.arange(N_TERMINALS) * N_SATELLITES
        beam_deg = np.tile(given["beam_deg"][b], (N_TERMINALS, 1))
        expected = block_snr(link, fading[rows], gain[:, 0], beam_deg, given["rx_beam_deg"])
        np.testing.assert_allclose(heard.sinr, expected, rtol=1e-9)


def test_threads_change_nothing():
    fading, gain, given = case(2)
    one, three = (hear(LINK, fading, gain, **given, threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(one.signal, three.signal)
    np.testing.assert_array_equal(one.interference, three.interference)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"satellite": np.zeros(3, int)}, r"satellite must be of shape \(7,\), got \(3,\)"),
        ({"satellite": np.full(7, 3)}, "satellite must be 0 to 2, got 3 to 3"),
        ({"serving": np.full(5, 7)}, r"serving must be -1 \(none\) to 6, got 7 to 7"),
        ({"used": np.ones((7, 3))}, r"used must be of shape \(7, 12\), got \(7, 3\)"),
        ({"rx_beam_deg": np.ones(2)}, r"rx_beam_deg must be of shape \(5, 2\), got \(2,\)"),
        ({"beam_deg": np.ones((2, 7))}, r"beam_deg must be of shape \(2, 2\), got \(2, 7\)"),
        ({"beam_deg": np.ones(14)}, r"beam_deg must be of shape \(14, 2\), got \(14,\)"),
        ({"beam_deg": 90.0}, r"beam_deg must be of shape \(1, 2\), got \(\)"),
        ({"power": np.ones(3)}, r"power must be of shape \(7,\), got \(3,\)"),
        ({"satellite": np.full(7, 0.9)}, "satellite must be whole numbers, got float64"),
        ({"serving": np.ones(5, bool)}, "serving must be whole numbers, got bool"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    fading, gain, given = case()
    with pytest.raises(ValueError, match=words):
        hear(LINK, fading, gain, **given | change)


def test_without_any_beam_nothing_is_heard():
    fading, gain, given = case()
    none = {"beam_deg": np.empty((0, 2)), "satellite": [], "used": np.empty((0, LINK.n_rb)), "power": 1.0}
    heard = hear(LINK, fading, gain, **given | none | {"serving": np.full(N_TERMINALS, -1)})
    assert not heard.signal.any()
    assert not heard.interference.any()


def test_a_beam_that_points_nowhere_spoils_nothing_but_its_blocks():
    fading, gain, given = case(4)
    expected = hear(LINK, fading, gain, **given)
    beam_deg = given["beam_deg"].copy()
    b = np.argsort(given["satellite"], kind="stable")[0]
    beam_deg[b] = np.nan
    heard = hear(LINK, fading, gain, **given | {"beam_deg": beam_deg})
    unused = ~given["used"][b]
    np.testing.assert_array_equal(heard.signal[:, unused], expected.signal[:, unused])
    np.testing.assert_array_equal(heard.interference[:, unused], expected.interference[:, unused])


def test_departures_of_several_directions_are_refused():
    fading = plain.random_fading(np.random.default_rng(0), N_TERMINALS * N_SATELLITES, 4)
    _, gain, given = case()
    with pytest.raises(ValueError, match=r"one departure for all paths: set link.departure_spread_deg = 0"):
        hear(LINK, fading, gain, **given)
    with pytest.raises(ValueError, match=r"gain must be \(n_terminals, n_satellites\), 15 in all"):
        hear(LINK, fading, gain[:4], **given)


def test_kernel_agrees_with_its_python_source(monkeypatch):
    fading, gain, given = case(3)
    expected = hear(LINK, fading, gain, **given, threads=1)
    monkeypatch.setattr(many, "heard_kernel", many.heard_kernel.py_func)
    monkeypatch.setattr(many, "side_magnitude", many.side_magnitude.py_func)
    monkeypatch.setattr(many, "direction_cosine_pair", arrays.direction_cosine_pair.py_func)
    ours = hear(LINK, fading, gain, **given, threads=1)
    np.testing.assert_allclose(ours.signal, expected.signal, rtol=1e-9)
    np.testing.assert_allclose(ours.interference, expected.interference, rtol=1e-9)


# A snapshot of the sky

SITES = [Site(latitude_deg=latitude_deg, longitude_deg=-80.5) for latitude_deg in (43.5, 44.0, 30.0)]


@pytest.fixture(scope="module")
def sky():
    folder = Path(__file__).resolve().parents[2] / "scenarios" / "tle"
    satellites = twin.read_tle(folder / "leo-2022-02-22.tle.xz", name="STARLINK")
    return twin.ephemeris(satellites, "2022-02-22T13:10:00Z", 60)


@pytest.fixture(scope="module")
def seen(sky):
    return snapshot(Link(departure_spread_deg=0.0), sky, SITES, 30.0, seed=3, mask_deg=20.0)


def test_a_snapshot_has_every_satellite_that_somebody_sees(sky, seen):
    looks = [twin.look(sky, latitude_deg=site.latitude_deg, longitude_deg=-80.5, t_s=30.0) for site in SITES]
    elevation_deg = np.array([look.elevation_deg for look in looks])
    np.testing.assert_array_equal(seen.satellite_index, np.flatnonzero((elevation_deg >= 20.0).any(axis=0)))
    np.testing.assert_allclose(seen.elevation_deg, elevation_deg[:, seen.satellite_index], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(seen.gain > 0.0, seen.elevation_deg >= 20.0)
    assert len(seen.fading.los) == seen.gain.size
    assert not np.abs(seen.fading.amplitude[seen.gain.ravel() == 0.0]).any()


def test_a_link_of_a_snapshot_does_not_depend_on_who_else_is_there(sky, seen):
    alone = snapshot(Link(departure_spread_deg=0.0), sky, SITES[:1], 30.0, seed=3, mask_deg=20.0)
    columns = np.searchsorted(seen.satellite_index, alone.satellite_index)
    np.testing.assert_array_equal(seen.gain[0, columns], alone.gain[0])
    np.testing.assert_array_equal(seen.fading.amplitude[columns], alone.fading.amplitude)


def test_interference_of_a_snapshot_is_below_its_signal_where_beams_point_apart(seen):
    """Every site hears the satellite it sees best; each satellite points one beam at one site, on all blocks."""
    link = Link(departure_spread_deg=0.0)
    best = np.argmax(seen.gain, axis=1)
    n = len(SITES)
    given = {
        "beam_deg": seen.tx_direction_deg[np.arange(n), best],
        "rx_beam_deg": seen.rx_direction_deg[np.arange(n), best],
    }
    heard = hear(
        link, seen.fading, seen.gain, satellite=best, used=np.ones((n, link.n_rb)), serving=np.arange(n), **given
    )
    assert np.all(heard.signal > 1.0)
    assert np.all(heard.interference[2] < heard.signal[2])  # 1,500 km away from the other two
    assert np.all(heard.sinr <= heard.signal)


def test_a_snapshot_of_nothing_says_so(sky):
    with pytest.raises(ValueError, match="at least one, got none"):
        snapshot(Link(), sky, [], 0.0, seed=1)
    with pytest.raises(ValueError, match=r"no satellite is above 89.9 deg for any site at t_s = 0"):
        snapshot(Link(), sky, SITES, 0.0, seed=1, mask_deg=89.9)
