"""Exhaustive sweeps against building the matrix and trying every pair; and ceilings that nothing passes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.channel import Fading, Link, slot_link
from twin.channel import sweep as sweeps
from twin.channel.arrays import (
    aperture_factor,
    dft_codebook,
    direction_cosines,
    grid_angles_deg,
    grid_codebook,
    steering_matrix,
)
from twin.channel.sweep import best_by_rate, ceiling_power, matched_power, sweep, sweep_pass

OF_THE_PEAK = 1e-10
PANELS = Link(tx_antennas=(4, 3), rx_antennas=(2, 5), n_rb=12, n_groups=3)


def made_up(seed, link, n_paths, common, n_rows=1, delay_s=2e-7):
    """A fading of paths from and to anywhere."""
    rng = np.random.default_rng(seed)
    alpha = rng.normal(size=(n_rows, n_paths)) + 1j * rng.normal(size=(n_rows, n_paths))
    departure = direction_cosines(rng.uniform(20.0, 160.0, (n_rows, 1 if common else n_paths, 2)))
    arrival = direction_cosines(rng.uniform(20.0, 160.0, (n_rows, n_paths, 2)))
    delays_s = rng.exponential(delay_s, (n_rows, n_paths))
    scale = np.sqrt(link.array_gain / (2 * n_paths))
    return Fading(np.ones(n_rows, bool), np.zeros(n_rows), scale * alpha, arrival, departure, delays_s)


def each_path(fading):
    """The same, with a departure for each path."""
    departure = np.array(np.broadcast_to(fading.departure, fading.arrival.shape))
    return Fading(fading.los, fading.shadow_db, fading.amplitude, fading.arrival, departure, fading.delay_s)


def matrices(link, fading, row):
    """H of every block, (n_rb, n_r, n_t), eq. (1)."""
    H = np.zeros((link.n_rb, np.prod(link.rx_antennas), np.prod(link.tx_antennas)), dtype=complex)
    for path, alpha in enumerate(fading.amplitude[row]):
        leaving = fading.departure[row, min(path, fading.departure.shape[1] - 1)]
        a_t = steering_matrix(leaving[None], link.tx_antennas)[:, 0]
        a_r = steering_matrix(fading.arrival[row, path][None], link.rx_antennas)[:, 0]
        for m in range(link.n_rb):
            turn = np.exp(-2j * np.pi * m * link.rb_step_hz * fading.delay_s[row, path])
            H[m] += alpha * turn * np.outer(a_r, a_t.conj())
    return H


def block_powers(link, fading, row, tx_codebook, rx_codebook):
    """|w_r^H H w_t|^2 of every block and pair, (n_rb, n_tx, n_rx), from full matrices."""
    w_t, w_r = steering_matrix(tx_codebook, link.tx_antennas), steering_matrix(rx_codebook, link.rx_antennas)
    return np.abs(np.swapaxes(w_r.conj().T @ (matrices(link, fading, row) @ w_t), 1, 2)) ** 2


CASES = st.tuples(
    st.integers(0, 10_000),
    st.builds(
        lambda tx, rx, n_rb, spacing_hz: Link(
            tx_antennas=tx, rx_antennas=rx, n_rb=n_rb, n_groups=1, rb_spacing_hz=spacing_hz
        ),
        st.tuples(st.integers(1, 6), st.integers(1, 6)),
        st.tuples(st.integers(1, 6), st.integers(1, 6)),
        st.integers(1, 9),
        st.sampled_from([0.0, 180e3, 5e6]),
    ),
    st.integers(1, 9),
    st.booleans(),
)


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_every_pair_passes_what_the_full_matrix_says(case):
    seed, link, n_paths, common = case
    fading = made_up(seed, link, n_paths, common)
    tx_codebook, rx_codebook = dft_codebook(link.tx_antennas), grid_codebook(45.0)
    expected = block_powers(link, fading, 0, tx_codebook, rx_codebook).mean(axis=0)
    found = sweep(link, fading, 0, tx_codebook, rx_codebook)
    assert found.power.shape == (len(tx_codebook), len(rx_codebook))
    assert np.abs(found.power - expected).max() < OF_THE_PEAK * expected.max()
    assert expected[found.best] >= expected.max() * (1.0 - OF_THE_PEAK)


def test_the_paper_s_sweep_of_104_976_pairs_is_that_of_full_matrices():
    link = Link(n_rb=4, n_groups=1)
    fading = made_up(1, link, 20, common=False)
    expected = block_powers(link, fading, 0, dft_codebook((16, 16)), grid_codebook(10.0)).mean(axis=0)
    ours = sweep(link, fading, 0, dft_codebook((16, 16)), grid_codebook(10.0)).power
    assert np.abs(ours - expected).max() < OF_THE_PEAK * expected.max()
    assert sweep(link, fading, 0, grid_codebook(10.0), grid_codebook(10.0)).power.size == 18**4


@pytest.mark.parametrize("n_paths", [1, 4, 7, 20])
def test_one_common_departure_gives_the_table_of_the_general_form(n_paths):
    link = Link(n_rb=100)
    fading = made_up(n_paths, link, n_paths, common=True)
    codebook = grid_codebook(10.0)
    fast, general = (sweep(link, f, 0, codebook, codebook) for f in (fading, each_path(fading)))
    assert np.abs(fast.power - general.power).max() < 1e-12 * general.power.max()
    i, j = fast.best
    rank_one = np.outer(fast.power[:, j], fast.power[i]) / fast.power[i, j]
    assert np.abs(fast.power - rank_one).max() < 1e-12 * fast.power.max()


@pytest.mark.parametrize("antennas", [(64, 64), (2, 64), (1, 64)])
@pytest.mark.parametrize("codebook", [grid_codebook(10.0), dft_codebook((8, 8))])
def test_factors_without_phase_hold_for_the_largest_panels_and_at_end_fire(antennas, codebook):
    waves = np.concatenate([codebook[::40], codebook[::50] + 1e-9, [[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]]])
    ours = sweeps.real_factors(codebook, waves, *antennas, 0.0)[: len(waves)]
    expected = np.abs(steering_matrix(waves, antennas).conj().T @ steering_matrix(codebook, antennas))
    np.testing.assert_allclose(np.abs(ours), expected, rtol=0, atol=2e-12)


def test_dishes_weigh_each_path_with_their_signed_field():
    link = Link(tx_antennas=(1, 1), tx_aperture_m=0.1, rx_antennas=(1, 1), rx_aperture_m=0.05)
    fading = made_up(3, link, 6, common=False)
    codebook = grid_codebook(20.0)[9:]  # not the beams along +y, at the rim
    of_tx, of_rx = (
        np.array([[aperture_factor(ka, *beam, *way) for way in ways] for beam in codebook])
        for ka, ways in ((link.tx_ka, fading.departure[0]), (link.rx_ka, fading.arrival[0]))
    )
    turn = np.exp(-2j * np.pi * link.rb_step_hz * np.arange(link.n_rb)[:, None] * fading.delay_s[0])
    h = np.einsum("ml,il,jl->mij", turn * fading.amplitude[0], of_tx, of_rx)
    expected = np.mean(np.abs(h) ** 2, axis=0)
    assert (of_rx < 0.0).any()
    ours = sweep(link, fading, 0, codebook, codebook).power
    assert np.abs(ours - expected).max() < OF_THE_PEAK * expected.max()


@given(CASES, st.floats(-20.0, 50.0))
@settings(max_examples=60, deadline=None)
def test_best_pair_by_rate_is_that_of_trying_every_pair(case, snr_db):
    seed, link, n_paths, common = case
    fading = made_up(seed, link, n_paths, common, delay_s=1e-6)
    codebooks = dft_codebook(link.tx_antennas), grid_codebook(30.0)
    powers = block_powers(link, fading, 0, *codebooks)
    gain = 10 ** (snr_db / 10) / (link.snr_per_gain * powers.max())
    rates = link.rb_bandwidth_hz * np.log2(1.0 + link.snr_per_gain * gain * powers).sum(axis=0)
    best, rate_bps = best_by_rate(link, fading, 0, gain, *codebooks)
    assert rate_bps == pytest.approx(rates.max(), rel=1e-9)
    assert rates[best] == pytest.approx(rates.max(), rel=1e-9)


def test_the_pair_of_the_best_rate_may_be_another_than_that_of_most_power():
    link = Link(tx_antennas=(1, 1), rx_antennas=(1, 4))
    one_turn_s = 1.0 / (link.n_rb * link.rb_step_hz)  # over the band: two paths of power 1 then have 2 on average
    arrival, amplitude = np.zeros((1, 3, 2)), np.array([[1.0, 1.0, np.sqrt(1.5)]], dtype=complex)
    arrival[0, 2, 1] = 0.5  # where the last beam looks, and the third has a zero
    departure, delay_s = np.zeros((1, 1, 2)), np.array([[0.0, one_turn_s, 0.0]])
    fading = Fading(np.ones(1, bool), np.zeros(1), amplitude, arrival, departure, delay_s)
    codebooks = dft_codebook((1, 1)), dft_codebook((1, 4))
    by_power = sweep(link, fading, 0, *codebooks)
    np.testing.assert_allclose(by_power.power, [[0.0, 0.0, 2.0, 1.5]], rtol=0, atol=1e-12)
    assert by_power.best == (0, 2)
    best, rate_bps = best_by_rate(link, fading, 0, 1e3 / link.snr_per_gain, *codebooks)
    assert best == (0, 3)  # half of the power of two equal paths is lost to their fades: 1 on average in the logarithm
    assert rate_bps == pytest.approx(144e6 * np.log2(1.0 + 1500.0), rel=1e-9)


def test_without_any_power_the_first_pair_is_as_good_as_any():
    fading, grid = made_up(1, PANELS, 3, common=False), grid_codebook(60.0)
    silent = made_up(1, PANELS, 3, common=False)
    silent.amplitude[:] = 0.0
    assert sweep(PANELS, silent, 0, grid, grid).best == (0, 0)
    assert best_by_rate(PANELS, silent, 0, 1e-15, grid, grid) == ((0, 0), 0.0)
    assert best_by_rate(PANELS, fading, 0, 0.0, grid, grid) == ((0, 0), 0.0)
    assert best_by_rate(PANELS, made_up(1, PANELS, 3, common=True), 0, 0.0, grid, grid) == ((0, 0), 0.0)


@pytest.mark.parametrize("common", [True, False])
def test_the_best_pair_is_found_however_weak_the_link(common):
    fading, grid = made_up(2, PANELS, 3, common), grid_codebook(30.0)
    power = sweep(PANELS, fading, 0, grid, grid).power
    for snr in (1e-14, 1e-20):  # where log2(1 + SNR) counts in steps of rounding, and SNR / ln 2 is the rate
        gain = snr / (PANELS.snr_per_gain * power.max())
        best, rate_bps = best_by_rate(PANELS, fading, 0, gain, grid, grid)
        assert power[best] == pytest.approx(power.max(), rel=1e-12)
        assert rate_bps == pytest.approx(PANELS.n_rb * PANELS.rb_bandwidth_hz * snr / np.log(2.0), rel=1e-9)


def test_paths_that_cancel_leave_no_power_below_zero():
    grid = grid_codebook(20.0)
    for seed in range(10):
        fading = made_up(seed, PANELS, 3, common=True)
        fading.arrival[:], fading.delay_s[:] = fading.arrival[:, :1], 0.0
        fading.amplitude[0, 2] = -fading.amplitude[0, :2].sum()
        assert sweep(PANELS, fading, 0, grid, grid).power.min() >= 0.0


def test_paths_of_any_kind_are_taken_by_what_is_compiled():
    fading, grid = made_up(3, PANELS, 4, common=False, n_rows=6), grid_codebook(60.0)
    expected = sweep_pass(PANELS, fading, grid, grid), sweep(PANELS, fading, -2, grid, grid).power
    compiled = len(sweeps.sweep_kernel.signatures)
    frozen = {name: np.asfortranarray(array) for name, array in vars(fading).items()}
    for array in frozen.values():
        array.flags.writeable = False
    paths = Fading(**frozen)
    ours = sweep_pass(PANELS, paths, grid, grid), sweep(PANELS, paths, -2, grid, grid).power
    np.testing.assert_array_equal(ours[0][1], expected[0][1])
    np.testing.assert_array_equal(ours[1], expected[1])
    assert len(sweeps.sweep_kernel.signatures) == compiled


@pytest.mark.parametrize("common", [True, False])
def test_a_slot_with_the_beams_of_a_pair_has_its_power_and_rate(common):
    fading, gain = made_up(4, PANELS, 5, common), 1e-15
    angles_deg = grid_angles_deg(30.0)
    (i, j), rate_bps = best_by_rate(PANELS, fading, 0, gain, grid_codebook(30.0), grid_codebook(30.0))
    power = sweep(PANELS, fading, 0, grid_codebook(30.0), grid_codebook(30.0)).power[i, j]
    snr, group_rate_bps, _ = slot_link(PANELS, fading, 0, gain, angles_deg[i], angles_deg[j], np.ones(3, bool))
    assert PANELS.snr_per_gain * gain * power == pytest.approx(snr.mean(), rel=1e-10)
    assert rate_bps == pytest.approx(group_rate_bps.sum(), rel=1e-10)


# Ceilings


@given(CASES)
@settings(max_examples=40, deadline=None)
def test_no_beams_pass_more_than_the_ceiling(case):
    seed, link, n_paths, common = case
    fading = made_up(seed, link, n_paths, common)
    H = matrices(link, fading, 0)
    ceiling = ceiling_power(link, fading, 0)
    assert ceiling == pytest.approx(np.mean(np.linalg.norm(H, ord=2, axis=(1, 2)) ** 2), rel=1e-10)
    assert ceiling == pytest.approx(ceiling_power(link, each_path(fading), 0), rel=1e-10)
    rng = np.random.default_rng(seed)
    w_t, w_r = (rng.normal(size=(n, 50)) + 1j * rng.normal(size=(n, 50)) for n in (H.shape[2], H.shape[1]))
    w_t, w_r = (w / np.linalg.norm(w, axis=0) for w in (w_t, w_r))
    passed = np.mean(np.abs(np.einsum("rk,mrt,tk->mk", w_r.conj(), H, w_t)) ** 2, axis=0)
    rounding = 1.0 + 1e-12
    assert passed.max() <= ceiling * rounding
    codebook = grid_codebook(30.0)
    assert sweep(link, fading, 0, codebook, codebook).power.max() <= ceiling * rounding
    assert matched_power(link, fading, 0) <= ceiling * rounding


@pytest.mark.parametrize("common", [True, False])
def test_with_one_path_perfect_pointing_is_the_ceiling(common):
    fading = made_up(5, PANELS, 1, common)
    power = np.abs(fading.amplitude[0, 0]) ** 2
    assert matched_power(PANELS, fading, 0) == pytest.approx(power, rel=1e-12)
    assert ceiling_power(PANELS, fading, 0) == pytest.approx(power, rel=1e-12)
    assert sweep(PANELS, fading, 0, grid_codebook(), grid_codebook()).power.max() < power


@pytest.mark.parametrize("common", [True, False])
def test_perfect_pointing_is_at_the_strongest_path(common):
    fading = made_up(6, PANELS, 5, common)
    fading.amplitude[0, 3] *= 10.0
    powers = block_powers(PANELS, fading, 0, fading.departure[0], fading.arrival[0]).mean(axis=0)
    assert matched_power(PANELS, fading, 0) == pytest.approx(powers[0 if common else 3, 3], rel=1e-10)


def test_a_grid_of_ten_degrees_loses_ten_decibels_between_its_beams():
    link, grid = Link(), grid_codebook(10.0)
    fading = made_up(7, link, 1, common=True)
    halfway = direction_cosines([[[85.0, 90.0]]])
    between = Fading(fading.los, fading.shadow_db, fading.amplitude, halfway, halfway, fading.delay_s)
    lost_db = 10.0 * np.log10(matched_power(link, between, 0) / sweep(link, between, 0, grid, grid).power.max())
    half_rad = 0.5 * np.pi * (np.cos(np.radians(80.0)) - np.cos(np.radians(85.0)))  # to the nearer beam, at 80 deg
    rows = [np.sin(n * half_rad) / (n * np.sin(half_rad)) for n in (16, 8)]
    assert lost_db == pytest.approx(-20.0 * np.log10(np.prod(rows)), abs=1e-9)
    assert lost_db > 10.0


def test_a_dish_has_no_ceiling_of_weights():
    link = Link(rx_antennas=(1, 1), rx_aperture_m=0.6)
    with pytest.raises(ValueError, match="ceiling_power is that of two panels"):
        ceiling_power(link, made_up(1, link, 3, common=False), 0)


# Passes and edges


@pytest.mark.parametrize("common", [True, False])
def test_a_pass_is_its_rows_whatever_the_number_of_threads(common):
    fading = made_up(8, PANELS, 6, common, n_rows=11)
    codebooks = dft_codebook(PANELS.tx_antennas), grid_codebook(20.0)
    best, power = sweep_pass(PANELS, fading, *codebooks, threads=1)
    for threads in (2, 3, None):
        again = sweep_pass(PANELS, fading, *codebooks, threads=threads)
        np.testing.assert_array_equal(again[0], best)
        np.testing.assert_array_equal(again[1], power)
    for row in range(11):
        alone = sweep(PANELS, fading, row, *codebooks)
        assert tuple(best[row]) == alone.best
        assert power[row] == alone.power[alone.best]


@pytest.mark.parametrize("wrong", [np.zeros(2), np.zeros((3, 3)), np.zeros((0, 2))])
def test_what_is_no_codebook_is_refused(wrong):
    fading = made_up(1, PANELS, 3, common=False)
    with pytest.raises(ValueError, match=r"tx_codebook must be \(n_beams, 2\) direction cosines, got"):
        sweep(PANELS, fading, 0, wrong, grid_codebook())
    with pytest.raises(ValueError, match=r"rx_codebook must be \(n_beams, 2\) direction cosines, got"):
        best_by_rate(PANELS, fading, 0, 1.0, grid_codebook(), wrong)


def kernel_cases():
    rng = np.random.default_rng(9)
    codebook = np.ascontiguousarray(rng.uniform(-0.6, 0.6, (5, 2)))
    arrival, departure = rng.uniform(-0.6, 0.6, (2, 3, 2))
    amplitude, delay_s = rng.normal(size=3) + 1j * rng.normal(size=3), rng.exponential(1e-7, 3)
    setting, dish = (7, 1.44e6, 4, 3, 0.0, 2, 5, 0.0), (7, 1.44e6, 1, 1, 9.0, 2, 5, 0.0)
    paths, common = (amplitude, departure, arrival, delay_s), (amplitude, departure[:1].copy(), arrival, delay_s)
    gram, factor = np.tril(rng.normal(size=(4, 4))), rng.normal(size=(4, 6))
    return [
        (sweeps.sweep_kernel, (*setting, codebook, codebook[:4].copy(), *paths, np.empty((5, 4)))),
        (sweeps.sweep_kernel, (*dish, codebook, codebook[:4].copy(), *paths, np.empty((5, 4)))),
        (sweeps.sweep_kernel, (*setting, codebook, codebook[:4].copy(), *common, np.empty((5, 4)))),
        (sweeps.whole_fours, (5,)),
        (sweeps.real_factors, (codebook, arrival, 6, 1, 0.0)),
        (sweeps.real_factors, (codebook, arrival, 1, 1, 8.0)),
        (sweeps.path_gram, (7, 1.44e6, 4, 3, 2, 5, *paths)),
        (sweeps.quadratic_form, (gram, factor, np.empty(6))),
        (sweeps.pair_efficiency, (*setting, codebook[0], codebook[1], *paths, 5.0)),
        (sweeps.pair_efficiency, (*setting, codebook[0], codebook[1], *common, 5.0)),
    ]


@pytest.mark.parametrize("case", range(len(kernel_cases())))
def test_kernel_agrees_with_its_python_source(case):
    kernel, arguments = kernel_cases()[case]
    _, again = kernel_cases()[case]
    returned = kernel(*arguments), kernel.py_func(*again)
    if returned[0] is None:
        returned = arguments[-1], again[-1]
    np.testing.assert_allclose(*returned, rtol=1e-12, atol=1e-12)
