"""One slot of a link: SNR and rate per group of resource blocks, and the strength at each antenna.

The channel of a resource block is a sum of paths, H = sum_l alpha_l exp(-j 2 pi f tau_l) a_r a_t^H, and the beams
have the form of its steering vectors, so w_r^H H w_t is a sum of L closed forms: H itself is never built.
"""

import numpy as np
from numba import njit

from twin.channel.arrays import axis_factor, direction_cosine_pair
from twin.channel.fading import Fading
from twin.channel.link import Link


def slot_link(
    link: Link,
    fading: Fading,
    row: int,
    gain: float,
    tx_beam_deg: np.ndarray,
    rx_beam_deg: np.ndarray,
    used_group: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SNR, rate and antenna strength in one slot, eq. (7) to (9) and Gamma of (21).

    fading, row               the pass's fading, and which of its rows
    gain                      ()    linear, of `path_gain`
    tx_beam_deg, rx_beam_deg  (2,)  deg  theta, phi in force
    used_group                (n_groups,)  bool, the groups Gamma is averaged over

    Returns snr (n_groups,) linear, the mean over each group's blocks; rate_bps (n_groups,), the sum over each
    group's blocks; strength (n_rx,), mean |H w_t| per antenna over the used blocks, 0 where none is used.
    Checked by tests/test_channel.py::test_slot_agrees_with_the_full_matrix.
    """
    return slot_kernel(  # floats and copies: integers or read-only arrays would each be compiled anew, in mid-run
        link.n_rb,
        float(link.rb_bandwidth_hz),
        float(link.rb_step_hz),
        *link.tx_antennas,
        *link.rx_antennas,
        float(link.snr_per_gain * gain),
        np.array(tx_beam_deg, dtype=np.float64),
        np.array(rx_beam_deg, dtype=np.float64),
        fading.amplitude[row],
        fading.departure[row],
        fading.arrival[row],
        fading.delay_s[row],
        np.array(used_group, dtype=np.bool_),
    )


@njit(cache=True)
def slot_kernel(
    n_rb,
    rb_bandwidth_hz,
    rb_step_hz,
    n_tx_x,
    n_tx_y,
    n_rx_x,
    n_rx_y,
    snr_scale,
    tx_beam_deg,
    rx_beam_deg,
    amplitude,
    departure,
    arrival,
    delay_s,
    used_group,
):
    """Kernel of `slot_link`: snr_scale () is P_t L_n / (k_B T_n B), the fading's arrays are those of one row."""
    n_paths, n_groups = amplitude.shape[0], used_group.shape[0]
    sent = np.empty(n_paths, dtype=np.complex128)  # alpha_l a_t^H w_t
    received = np.empty(n_paths, dtype=np.complex128)  # w_r^H a_r of the same
    step = np.empty(n_paths, dtype=np.complex128)  # turn of the phase from one block to the next
    tx_x, tx_y = direction_cosine_pair(tx_beam_deg[0], tx_beam_deg[1])
    rx_x, rx_y = direction_cosine_pair(rx_beam_deg[0], rx_beam_deg[1])
    factor = 0.0j
    for path in range(n_paths):
        if path < departure.shape[0]:
            factor = axis_factor(n_tx_x, departure[path, 0] - tx_x) * axis_factor(n_tx_y, departure[path, 1] - tx_y)
        sent[path] = amplitude[path] * np.conj(factor)
        factor_rx = axis_factor(n_rx_x, arrival[path, 0] - rx_x) * axis_factor(n_rx_y, arrival[path, 1] - rx_y)
        received[path] = sent[path] * factor_rx
        turn_rad = -2.0 * np.pi * rb_step_hz * delay_s[path]
        step[path] = complex(np.cos(turn_rad), np.sin(turn_rad))

    rb_per_group = n_rb // n_groups
    snr_rb = rb_snr(received, step, n_rb, snr_scale)
    snr, rate_bps = np.zeros(n_groups), np.zeros(n_groups)
    for m in range(n_rb):
        snr[m // rb_per_group] += snr_rb[m]
        rate_bps[m // rb_per_group] += np.log2(1.0 + snr_rb[m])
    snr /= rb_per_group
    rate_bps *= rb_bandwidth_hz
    return snr, rate_bps, antenna_strength(sent, step, arrival, n_rx_x, n_rx_y, n_rb, used_group)


@njit(cache=True)
def rb_snr(received, step, n_rb, snr_scale):
    """Kernel: SNR of each resource block, eq. (8), block m at frequency m B above the first.

    received   (n_paths,) complex  alpha_l (w_r^H a_r,l) (a_t,l^H w_t)
    step       (n_paths,) complex  exp(-j 2 pi B tau_l)
    snr_scale  ()                  P_t L_n / (k_B T_n B)

    Returns (n_rb,), linear.
    """
    turning = received.copy()
    snr = np.empty(n_rb)
    for m in range(n_rb):
        total = 0.0j
        for path in range(turning.shape[0]):
            total += turning[path]
            turning[path] *= step[path]
        snr[m] = snr_scale * (total.real * total.real + total.imag * total.imag)
    return snr


@njit(cache=True)
def antenna_strength(sent, step, arrival, n_x, n_y, n_rb, used_group):
    """Kernel: Gamma of eq. (21), the mean of |H w_t| over the used blocks, antenna by antenna.

    sent        (n_paths,) complex  alpha_l (a_t,l^H w_t)
    step        (n_paths,) complex  exp(-j 2 pi B tau_l)
    arrival     (n_paths, 2)        direction cosines psi_x, psi_y of each arrival
    n_x, n_y    ()                  antennas along x and y
    used_group  (n_groups,)         bool

    Returns (n_x * n_y,), x index slow; zeros where no group is used.
    """
    n_paths, n_rx, n_groups = sent.shape[0], n_x * n_y, used_group.shape[0]
    strength = np.zeros(n_rx)
    n_used = np.count_nonzero(used_group) * (n_rb // n_groups)
    if n_used == 0:
        return strength
    real, imag = np.empty((n_paths, n_rx)), np.empty((n_paths, n_rx))  # apart, so that the loops below vectorise
    for path in range(n_paths):
        psi_x, psi_y = arrival[path]
        for x in range(n_x):
            for y in range(n_y):
                turn_rad = np.pi * (x * psi_x + y * psi_y)
                real[path, x * n_y + y], imag[path, x * n_y + y] = np.cos(turn_rad), np.sin(turn_rad)
    turning = sent / np.sqrt(n_rx)
    total_real, total_imag = np.empty(n_rx), np.empty(n_rx)
    for m in range(n_rb):
        if used_group[m // (n_rb // n_groups)]:
            total_real[:] = 0.0
            total_imag[:] = 0.0
            for path in range(n_paths):
                a, b = turning[path].real, turning[path].imag
                for i in range(n_rx):
                    total_real[i] += a * real[path, i] - b * imag[path, i]
                    total_imag[i] += a * imag[path, i] + b * real[path, i]
            for i in range(n_rx):
                strength[i] += np.sqrt(total_real[i] * total_real[i] + total_imag[i] * total_imag[i])
        for path in range(n_paths):
            turning[path] *= step[path]
    return strength / n_used
