"""Exhaustive sweeps: every pair of a transmit and a receive beam of two codebooks, and what no beams can pass.

With h_m = w_r^H H_m w_t = sum over paths of beta_l d_l(t) e_l(r) exp(-j 2 pi m B tau_l), three things make the sweep
cheap. The factors d and e of a path are real: the phase of a panel's w^H a is one of the wave, which goes into beta,
less one of the beam, which |h|^2 does not see. The mean of |h_m|^2 over the blocks is a quadratic form of the products
d_l e_l, whose matrix, Re(beta_l beta_l'^* C_ll'), needs no blocks any more: C_ll' is the mean of
exp(-j 2 pi m B (tau_l - tau_l')), a geometric sum. And where all paths leave in one direction d has no l: the table is
a column times a row.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from twin.channel.arrays import axis_factor, side_factor, steering_matrix
from twin.channel.fading import Fading
from twin.channel.link import Link
from twin.channel.slot import LOG2_E, paths_of
from twin.parallel import spread
from twin.simd import wide_vectors

ROUNDING = 1e-12  # of a rate: where all blocks are alike a pair's rate equals its bound


@dataclass(frozen=True, eq=False)
class Sweep:
    """What every pair of beams passes in one row of a fading.

    power  (n_tx, n_rx)  mean over the blocks of |w_r^H H w_t|^2, linear; times link.snr_per_gain and gain the mean SNR
    best   (2,)          which transmit and which receive beam pass most; of equal ones the first
    """

    power: np.ndarray
    best: tuple[int, int]


def sweep(link: Link, fading: Fading, row: int, tx_codebook: np.ndarray, rx_codebook: np.ndarray) -> Sweep:
    """Power passed by every pair of a transmit and a receive beam.

    fading, row                a pass's fading, and which of its rows
    tx_codebook                (n_tx, 2)  direction cosines of the satellite's beams, as of `grid_codebook`
    rx_codebook                (n_rx, 2)  the same of the terminal's

    Raises ValueError for codebooks of another shape. Source: eq. (1), (7) of arXiv 2402.04865, summed over the blocks.
    Checked by tests/channel/test_sweep.py::test_every_pair_passes_what_the_full_matrix_says.
    """
    tx_codebook, rx_codebook = _codebook("tx", tx_codebook), _codebook("rx", rx_codebook)
    power = np.empty((len(tx_codebook), len(rx_codebook)))
    sweep_kernel(*_setting(link), tx_codebook, rx_codebook, *_paths(fading, row), power)
    return Sweep(power, _first_largest(power))


def sweep_pass(
    link: Link, fading: Fading, tx_codebook: np.ndarray, rx_codebook: np.ndarray, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The best pair of every row of a fading, and what it passes: `sweep` row by row, in several threads.

    Returns best (n, 2) int, transmit and receive beam; power (n,).
    """
    tx_codebook, rx_codebook = _codebook("tx", tx_codebook), _codebook("rx", rx_codebook)
    n_rows = len(fading.amplitude)
    best, most = np.empty((n_rows, 2), dtype=int), np.empty(n_rows)

    def work(first: int, last: int) -> None:
        power = np.empty((len(tx_codebook), len(rx_codebook)))
        for row in range(first, last):
            sweep_kernel(*_setting(link), tx_codebook, rx_codebook, *_paths(fading, row), power)
            best[row] = _first_largest(power)
            most[row] = power[tuple(best[row])]

    spread(work, n_rows, threads)
    return best, most


def best_by_rate(
    link: Link, fading: Fading, row: int, gain: float, tx_codebook: np.ndarray, rx_codebook: np.ndarray
) -> tuple[tuple[int, int], float]:
    """The pair of beams with the highest Shannon rate over all blocks, and that rate in bit/s.

    Arguments as of `sweep` and `slot_link`. The rate is concave in the power of the blocks, so a pair has at most the
    rate of its mean power in every block: only pairs for which that exceeds the best rate found are looked at, and the
    answer is that of trying all; of equal ones the first. (No such bound holds for rates that go in steps.) Where all
    paths leave in one direction every receive beam is served best by the transmit beam of the highest gain, and only
    its row is looked at.
    Checked by tests/channel/test_sweep.py::test_best_pair_by_rate_is_that_of_trying_every_pair.
    """
    tx_codebook, rx_codebook = _codebook("tx", tx_codebook), _codebook("rx", rx_codebook)
    found = sweep(link, fading, row, tx_codebook, rx_codebook)
    setting, paths, snr_scale = _setting(link), _paths(fading, row), float(link.snr_per_gain * gain)

    def efficiency(i: int, j: int) -> float:
        """Sum over the blocks of log2(1 + SNR)."""
        return pair_efficiency(*setting, tx_codebook[i], rx_codebook[j], *paths, snr_scale)

    rows = [found.best[0]] if fading.departure.shape[1] == 1 else range(len(tx_codebook))
    bound = link.n_rb * LOG2_E * np.log1p(snr_scale * found.power[rows]) * (1.0 + ROUNDING)
    if not bound.any():
        return (0, 0), 0.0
    best, highest = found.best, efficiency(*found.best)
    may_pass = np.argwhere(bound >= highest)
    for k in np.argsort(-bound[tuple(may_pass.T)], kind="stable"):
        i, j = int(rows[may_pass[k, 0]]), int(may_pass[k, 1])
        if bound[tuple(may_pass[k])] < highest:
            break
        value = efficiency(i, j)
        if value > highest or (value == highest and (i, j) < best):
            best, highest = (i, j), value
    return best, highest * link.rb_bandwidth_hz


def matched_power(link: Link, fading: Fading, row: int) -> float:
    """What both beams pass when they point exactly at the strongest path: mean over the blocks of |w_r^H H w_t|^2.

    The level of perfect pointing, which a codebook's beams stay below as long as one path stands out. It is no strict
    bound: a beam between two paths of similar power can pass more. `ceiling_power` is the bound.
    Checked by tests/channel/test_sweep.py::test_with_one_path_perfect_pointing_is_the_ceiling.
    """
    strongest = int(np.argmax(np.abs(fading.amplitude[row])))
    departure, arrival = fading.departure[row], fading.arrival[row]
    towards = departure[strongest if len(departure) > 1 else 0]
    return float(sweep(link, fading, row, towards[None], arrival[strongest][None]).power[0, 0])


def ceiling_power(link: Link, fading: Fading, row: int) -> float:
    """What no unit-norm weights of two panels pass: the mean over the blocks of H's largest singular value, squared.

    Reached by beams that are chosen anew for each block, so any fixed pair, of a codebook or not, stays below it in
    mean SNR. Where all paths leave in one direction H has rank one, and the mean is a closed form of the products of
    the arrivals' steering vectors. Raises ValueError for a link with a dish, whose beam is not a choice of weights.
    Checked by tests/channel/test_sweep.py::test_no_beams_pass_more_than_the_ceiling.
    """
    if link.tx_aperture_m or link.rx_aperture_m:
        raise ValueError("ceiling_power is that of two panels: set link.tx_aperture_m and link.rx_aperture_m to 0")
    amplitude, departure, arrival, delay_s = _paths(fading, row)
    if len(departure) == 1:
        antennas = (*link.tx_antennas, *link.rx_antennas)
        gram = path_gram(link.n_rb, float(link.rb_step_hz), *antennas, amplitude, departure, arrival, delay_s)
        products = real_factors(arrival, arrival, *link.rx_antennas, 0.0)
        return float(np.sum(gram[:, : len(arrival)] * products))
    turn = np.exp(-2j * np.pi * link.rb_step_hz * np.arange(link.n_rb)[:, None] * delay_s)
    # what is orthogonal in both sides' steering vectors changes no singular value: matrices of paths, not of antennas
    of_rx = np.linalg.qr(steering_matrix(arrival, link.rx_antennas), mode="r")
    of_tx = np.linalg.qr(steering_matrix(departure, link.tx_antennas), mode="r")
    small = (of_rx * (turn * amplitude)[:, None, :]) @ np.conj(of_tx).T
    return float(np.mean(np.linalg.svd(small, compute_uv=False)[:, 0] ** 2))


def _codebook(side: str, beams: np.ndarray) -> np.ndarray:
    # a copy: a read-only or strided array would be a signature of its own, compiled in mid-run
    cosines = np.array(beams, dtype=float, order="C")
    if cosines.ndim != 2 or cosines.shape[1] != 2 or not len(cosines):
        raise ValueError(f"{side}_codebook must be (n_beams, 2) direction cosines, got {cosines.shape}")
    return cosines


def _setting(link: Link) -> tuple[int, float, int, int, float, int, int, float]:
    tx, rx = (*link.tx_antennas, float(link.tx_ka)), (*link.rx_antennas, float(link.rx_ka))
    return link.n_rb, float(link.rb_step_hz), *tx, *rx


def _paths(fading: Fading, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    amplitude, departure, arrival, delay_s = paths_of(fading, [row])
    return amplitude[0], departure[0], arrival[0], delay_s[0]


def _first_largest(power: np.ndarray) -> tuple[int, int]:
    i, j = divmod(int(power.argmax()), power.shape[1])
    return i, j


@njit(cache=True, nogil=True)
def sweep_kernel(
    n_rb,
    rb_step_hz,
    n_tx_x,
    n_tx_y,
    tx_ka,
    n_rx_x,
    n_rx_y,
    rx_ka,
    tx_codebook,
    rx_codebook,
    amplitude,
    departure,
    arrival,
    delay_s,
    power,
):
    """Kernel of `sweep`: fills power (n_tx, n_rx)."""
    n_paths, common = amplitude.shape[0], departure.shape[0] == 1
    tx_factor = real_factors(tx_codebook, departure, n_tx_x, n_tx_y, tx_ka)
    rx_factor = real_factors(rx_codebook, arrival, n_rx_x, n_rx_y, rx_ka)
    gram = path_gram(n_rb, rb_step_hz, n_tx_x, n_tx_y, n_rx_x, n_rx_y, amplitude, departure, arrival, delay_s)
    if common:
        of_rx = np.empty(power.shape[1])
        quadratic_form(gram, rx_factor, of_rx)
        for i in range(power.shape[0]):
            gain = tx_factor[0, i] * tx_factor[0, i]
            for j in range(power.shape[1]):
                power[i, j] = gain * of_rx[j]
        return
    seen = np.zeros_like(gram)
    for i in range(power.shape[0]):
        for a in range(n_paths):
            for b in range(a + 1):
                seen[a, b] = gram[a, b] * tx_factor[a, i] * tx_factor[b, i]
        quadratic_form(seen, rx_factor, power[i])


@njit(cache=True, nogil=True)
def whole_fours(n_paths):
    """The next multiple of 4: further paths have factor 0."""
    return (n_paths + 3) // 4 * 4


@njit(cache=True, nogil=True)
def real_factors(codebook, directions, n_x, n_y, ka):
    """Kernel: w^H a of every beam and wave without its phase (kept in `path_gram`); a dish has none.

    codebook (n_beams, 2), directions (n_paths, 2) direction cosines. Returns (n_paths, n_beams), real.
    """
    wide_vectors()
    n_beams = codebook.shape[0]
    factor = np.zeros((whole_fours(directions.shape[0]), n_beams))
    for path in range(directions.shape[0]):
        for j in range(n_beams):
            factor[path, j] = 1.0
    cosine, sine, twice = np.empty(n_beams), np.empty(n_beams), np.empty(n_beams)
    before, now = np.empty(n_beams), np.empty(n_beams)
    for axis in range(2):
        n = n_x if axis == 0 else n_y
        if n == 1:
            continue
        for j in range(n_beams):
            half_rad = 0.5 * np.pi * codebook[j, axis]
            cosine[j], sine[j] = np.cos(half_rad), np.sin(half_rad)
        for path in range(directions.shape[0]):
            # sin(n h) / sin(h) is Chebyshev's polynomial U_(n-1) of cos(h), h half the phase between two antennas
            half_rad = 0.5 * np.pi * directions[path, axis]
            a, b = 2.0 * np.cos(half_rad), 2.0 * np.sin(half_rad)
            for j in range(n_beams):
                now[j] = a * cosine[j] + b * sine[j]
            for j in range(n_beams):
                before[j], twice[j] = 1.0, now[j]
            for _ in range(n - 2):
                for j in range(n_beams):
                    before[j] = twice[j] * now[j] - before[j]
                before, now = now, before
            line = factor[path]
            for j in range(n_beams):
                line[j] *= now[j] / n
    if ka > 0.0:
        for path in range(directions.shape[0]):
            for j in range(n_beams):
                factor[path, j] *= side_factor(
                    1, 1, ka, codebook[j, 0], codebook[j, 1], directions[path, 0], directions[path, 1]
                ).real
    return factor


@njit(cache=True, nogil=True)
def path_gram(n_rb, rb_step_hz, n_tx_x, n_tx_y, n_rx_x, n_rx_y, amplitude, departure, arrival, delay_s):
    """Kernel: matrix of the quadratic form, (n_paths, n_paths), lower half only; what stands there stands for both."""
    n_paths = amplitude.shape[0]
    turned = np.empty(n_paths, dtype=np.complex128)
    for path in range(n_paths):
        turn_rad = (n_rx_x - 1) * arrival[path, 0] + (n_rx_y - 1) * arrival[path, 1]
        if departure.shape[0] > 1:
            turn_rad -= (n_tx_x - 1) * departure[path, 0] + (n_tx_y - 1) * departure[path, 1]
        turn_rad *= 0.5 * np.pi
        turned[path] = amplitude[path] * complex(np.cos(turn_rad), np.sin(turn_rad))
    gram = np.zeros((whole_fours(n_paths), whole_fours(n_paths)))
    for a in range(n_paths):
        for b in range(a):
            over_blocks = axis_factor(n_rb, -2.0 * rb_step_hz * (delay_s[a] - delay_s[b]))
            gram[a, b] = 2.0 * (turned[a] * np.conj(turned[b]) * over_blocks).real
        gram[a, a] = turned[a].real * turned[a].real + turned[a].imag * turned[a].imag
    return gram


@njit(cache=True, nogil=True)
def quadratic_form(gram, factor, value):
    """Kernel: value[j] = sum over a >= b of gram[a, b] factor[a, j] factor[b, j]; gram (n, n), factor (n, n_beams).

    n is a multiple of 4, for eight products at a time: a sum that is kept in memory is then stored less often. The sum
    is a power, and 0 where paths that cancel leave less than 0 by rounding.
    """
    wide_vectors()
    n_beams = factor.shape[1]
    for j in range(n_beams):
        value[j] = 0.0
    for a in range(0, factor.shape[0], 2):
        for b in range(0, a + 1, 4):
            g0, g1, g2, g3 = gram[a, b], gram[a, b + 1], gram[a, b + 2], gram[a, b + 3]
            h0, h1, h2, h3 = gram[a + 1, b], gram[a + 1, b + 1], gram[a + 1, b + 2], gram[a + 1, b + 3]
            f0, f1, f2, f3 = factor[b], factor[b + 1], factor[b + 2], factor[b + 3]
            of_a, of_next = factor[a], factor[a + 1]
            for j in range(n_beams):
                value[j] += of_a[j] * ((g0 * f0[j] + g1 * f1[j]) + (g2 * f2[j] + g3 * f3[j])) + of_next[j] * (
                    (h0 * f0[j] + h1 * f1[j]) + (h2 * f2[j] + h3 * f3[j])
                )
    for j in range(n_beams):
        if value[j] < 0.0:  # and not max(), which would take NaN for 0
            value[j] = 0.0


@njit(cache=True, nogil=True)
def pair_efficiency(
    n_rb,
    rb_step_hz,
    n_tx_x,
    n_tx_y,
    tx_ka,
    n_rx_x,
    n_rx_y,
    rx_ka,
    tx_beam,
    rx_beam,
    amplitude,
    departure,
    arrival,
    delay_s,
    snr_scale,
):
    """Kernel: the sum over the blocks of log2(1 + SNR), beams and paths by direction cosines."""
    n_paths = amplitude.shape[0]
    received, step = np.empty(n_paths, dtype=np.complex128), np.empty(n_paths, dtype=np.complex128)
    sent = 0.0j
    for path in range(n_paths):
        if path < departure.shape[0]:
            x, y = departure[path]
            sent = np.conj(side_factor(n_tx_x, n_tx_y, tx_ka, tx_beam[0], tx_beam[1], x, y))
        x, y = arrival[path]
        taken = side_factor(n_rx_x, n_rx_y, rx_ka, rx_beam[0], rx_beam[1], x, y)
        received[path] = amplitude[path] * sent * taken
        turn_rad = -2.0 * np.pi * rb_step_hz * delay_s[path]
        step[path] = complex(np.cos(turn_rad), np.sin(turn_rad))
    efficiency = 0.0
    for _ in range(n_rb):
        total = 0.0j
        for path in range(n_paths):
            total += received[path]
            received[path] *= step[path]
        efficiency += np.log1p(snr_scale * (total.real * total.real + total.imag * total.imag))
    return efficiency * LOG2_E
