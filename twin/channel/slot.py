"""SNR and rate of a link from its paths and beams, never building the matrix.

The channel of a resource block is a sum of paths, H = sum_l alpha_l exp(-j 2 pi f tau_l) a_r a_t^H, and the beams
have the form of its steering vectors, so w_r^H H w_t is a sum of L closed forms: per path a few numbers, and then one
multiply-add per block with a table of its phases, which is kept while the path's delay stays.

Rows of a Fading are times of a pass, samples within a slot, or links of a batch: the kernels do not mind.
"""

import numpy as np
from numpy.typing import ArrayLike

from twin.channel.arrays import direction_cosine_pair, side_magnitude
from twin.channel.fading import Fading
from twin.channel.link import Link
from twin.channel.turns import fused, sincos_half_turns
from twin.parallel import spread
from twin.simd import wide_vectors

LOG2_E = 1.0 / np.log(2.0)
COMPLEX, FLOAT = np.dtype(np.complex128), np.dtype(np.float64)
ROWS_AT_A_TIME = 256  # handed to a thread; starting one costs as much as some fifty rows


def slot_link(
    link: Link,
    fading: Fading,
    row: int,
    gain: ArrayLike,
    tx_beam_deg: np.ndarray,
    rx_beam_deg: np.ndarray,
    used_group: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SNR, rate and antenna strength in one slot, eq. (7) to (9) and Gamma of (21).

    fading, row               the pass's fading, and the first of the slot's rows in it
    gain                      () or (samples,)  linear, of `path_gain`; as many rows as numbers are the slot's samples
    tx_beam_deg, rx_beam_deg  (2,)  deg  theta, phi in force
    used_group                (n_groups,)  bool, the groups Gamma is averaged over

    Returns snr (n_groups,) linear, the mean over each group's blocks; rate_bps (n_groups,), the sum over each
    group's blocks; both means over the samples. And strength (n_rx,), mean |H w_t| per antenna over the used blocks at
    the slot's start, 0 where none is used; a terminal's dish is one antenna there, without its pattern. Raises
    ValueError for rows that are not there and shapes that do not fit.
    Checked by tests/channel/test_link.py::test_slot_agrees_with_the_full_matrix.
    """
    n_groups, n_rx = link.n_groups, link.rx_antennas[0] * link.rx_antennas[1]
    snr, rate_bps, strength = np.zeros((1, n_groups)), np.zeros((1, n_groups)), np.zeros(n_rx)
    scale = np.array(link.snr_per_gain * np.asarray(gain, dtype=float), ndmin=1)
    used = np.array(used_group, dtype=np.bool_)
    if scale.ndim != 1 or not 0 <= row <= row + scale.size - 1 < len(fading.los):
        raise ValueError(
            f"row and gain must name rows of the fading, 0 to {len(fading.los) - 1}: got row {row} and gain of shape "
            f"{np.shape(gain)}"
        )
    if used.shape != (n_groups,):
        raise ValueError(f"used_group must be of shape ({n_groups},), bool, got {used.shape}")
    settings, work = settings_of(link), room(link, fading)
    slot = paths_of(fading, slice(row, row + len(scale)))
    beams = _beams(tx_beam_deg, 1), _beams(rx_beam_deg, 1)
    arguments = 0, 1, len(scale), *settings, *_schemes(link), *beams, *slot, scale, work, snr, rate_bps
    groups_kernel(*arguments)
    if used.any():
        waves, totals = np.empty((2, fading.amplitude.shape[1] * n_rx)), np.empty((2, n_rx))
        paths = (array[0] for array in slot)
        arguments = *settings, beams[0][0], *paths, used, work[0], *waves, *totals, strength
        antenna_strength(*arguments)
    return snr[0], rate_bps[0], strength


def block_response(
    link: Link,
    fading: Fading,
    tx_beam_deg: ArrayLike,
    rx_beam_deg: ArrayLike,
    *,
    threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """w_r^H H w_t of every row and resource block, without the path gain: the frequency response through the beams.

    fading                    n rows
    tx_beam_deg, rx_beam_deg  (2,) or (n, 2)  deg  theta, phi
    out                       (n, n_rb) complex, filled and returned; None: a new one

    Returns (n, n_rb) complex. Raises ValueError for beams or `out` of another shape.
    Checked by tests/channel/test_slot.py against the full matrix.
    """
    out = _checked_out(out, (len(fading.los), link.n_rb), complex)
    halves = out.view(float).reshape(*out.shape, 2)
    _spread_rows(link, fading, response_kernel, tx_beam_deg, rx_beam_deg, (), (halves,), threads)
    return out


def block_snr(
    link: Link,
    fading: Fading,
    gain: ArrayLike,
    tx_beam_deg: ArrayLike,
    rx_beam_deg: ArrayLike,
    *,
    threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """SNR of every row and resource block, eq. (8).

    fading                    n rows
    gain                      () or (n,)      linear, of `path_gain`
    tx_beam_deg, rx_beam_deg  (2,) or (n, 2)  deg  theta, phi
    out                       (n, n_rb), filled and returned; None: a new one

    Returns (n, n_rb), linear. Raises ValueError for a gain, beams or `out` of another shape.
    Checked by tests/channel/test_slot.py against the full matrix.
    """
    out = _checked_out(out, (len(fading.los), link.n_rb), float)
    _spread_rows(link, fading, snr_kernel, tx_beam_deg, rx_beam_deg, (_scale(link, fading, gain),), (out,), threads)
    return out


def group_rates(
    link: Link,
    fading: Fading,
    gain: ArrayLike,
    tx_beam_deg: ArrayLike,
    rx_beam_deg: ArrayLike,
    *,
    samples: int = 1,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """SNR and rate of every slot and group of blocks, eq. (8), (9); the means over the samples of a slot.

    fading                    n * samples rows
    gain                      () or (n * samples,)      linear, of `path_gain`
    tx_beam_deg, rx_beam_deg  (2,) or (n * samples, 2)  deg  theta, phi
    samples                   rows of a slot

    Returns snr (n, n_groups), linear, and rate_bps (n, n_groups), bit/s. Raises ValueError for shapes that do not fit.
    Checked by tests/channel/test_slot.py against the full matrix.
    """
    n_rows = len(fading.los)
    if samples < 1 or n_rows % samples:
        raise ValueError(f"fading must have a whole number of {samples} rows a slot, got {n_rows}")
    snr, rate_bps = np.zeros((2, n_rows // samples, link.n_groups))
    given = (_scale(link, fading, gain),)
    _spread_rows(
        link, fading, groups_kernel, tx_beam_deg, rx_beam_deg, given, (snr, rate_bps), threads, samples, _schemes(link)
    )
    return snr, rate_bps


def _spread_rows(link, fading, kernel, tx_beam_deg, rx_beam_deg, given, filled, threads, samples=1, schemes=()):
    n_rows = len(fading.los)
    settings, beams = settings_of(link), (_beams(tx_beam_deg, n_rows), _beams(rx_beam_deg, n_rows))
    paths = paths_of(fading)

    def some(first: int, last: int) -> None:
        kernel(first, last, samples, *settings, *schemes, *beams, *paths, *given, room(link, fading), *filled)

    spread(some, n_rows // samples, threads, step=max(1, ROWS_AT_A_TIME // samples))


def settings_of(link: Link) -> tuple[int, int, float, int, int, int, int, float, float]:
    """What the kernels ask of a link; floats are floats, for an integer would be compiled anew in mid-run."""
    return (
        link.n_rb,
        link.n_groups,
        float(link.rb_step_hz),
        *link.tx_antennas,
        *link.rx_antennas,
        float(link.tx_ka),
        float(link.rx_ka),
    )


def _schemes(link: Link) -> tuple[float, np.ndarray, np.ndarray]:
    mcs = link.mcs
    return float(link.rb_bandwidth_hz), mcs.snr, mcs.efficiency


def paths_of(fading: Fading, rows: slice | list[int] = slice(None)) -> tuple[np.ndarray, ...]:
    """Amplitude, departure, arrival and delay of some rows, as kernels take them. ValueError where they do not fit."""
    amplitude, delay_s = _plain(fading.amplitude[rows], COMPLEX), _plain(fading.delay_s[rows], FLOAT)
    departure, arrival = _plain(fading.departure[rows], FLOAT), _plain(fading.arrival[rows], FLOAT)
    n, n_paths = len(fading.los[rows]), amplitude.shape[-1]
    if (
        amplitude.shape != (n, n_paths)
        or delay_s.shape != (n, n_paths)
        or arrival.shape != (n, n_paths, 2)
        or departure.shape not in ((n, n_paths, 2), (n, 1, 2))
    ):
        shapes = {"amplitude": amplitude, "departure": departure, "arrival": arrival, "delay_s": delay_s}
        raise ValueError(f"fading's arrays must fit its {n} rows, got { ({k: a.shape for k, a in shapes.items()}) }")
    return amplitude, departure, arrival, delay_s


def _plain(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    # what is read-only, strided or of another kind would be a signature of its own, compiled in mid-run
    return array if array.flags.carray and array.dtype == dtype else np.array(array, dtype=dtype, order="C")


def room(link: Link, fading: Fading) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Room for a kernel; arrays apart, so that LLVM sees that the sums do not overlap what is summed.

    of_paths  (4 n_paths,)       real parts of the paths' amplitudes through both beams, imaginary parts; half turns of
                                 their phases from block to block; half turns for which the tables hold
    tables    (2 n_rb n_paths,)  of each path cosine and sine in every block
    total     (n_rb,) twice      sums over paths in every block, real and imaginary
    """
    n_paths = fading.amplitude.shape[1]
    nothing = np.full(4 * n_paths, np.nan)
    return nothing, np.empty(2 * link.n_rb * n_paths), np.empty(link.n_rb), np.empty(link.n_rb)


def _beams(beam_deg: ArrayLike, n_rows: int) -> np.ndarray:
    # plain copies: a read-only or strided array would be a signature of its own, compiled in mid-run
    beams = np.array(beam_deg, dtype=np.float64, order="C")
    if beams.shape not in ((2,), (n_rows, 2)):
        raise ValueError(f"beams must be of shape (2,) or ({n_rows}, 2), theta and phi, got {beams.shape}")
    return beams.reshape(-1, 2)


def _scale(link: Link, fading: Fading, gain: ArrayLike) -> np.ndarray:
    gain = np.asarray(gain, dtype=float)
    if gain.shape not in ((), (len(fading.los),)):
        raise ValueError(f"gain must be of shape () or ({len(fading.los)},), one for a row, got {gain.shape}")
    return np.full(len(fading.los), link.snr_per_gain) * gain


def _checked_out(out: np.ndarray | None, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(f"out must be a writeable C-contiguous {np.dtype(dtype)} array of shape {shape}")
    return out


@fused
def path_factors(
    n_paths, rb_step_hz, n_tx_x, n_tx_y, n_rx_x, n_rx_y, tx_ka, rx_ka,
    tx_theta_deg, tx_phi_deg, rx_theta_deg, rx_phi_deg, amplitude, departure, arrival, delay_s, of_paths,
):  # fmt: skip
    """Kernel: of each path of one row alpha (w_r^H a_r) (a_t^H w_t), and its turn from block to block.

    Into of_paths (see `room`): real parts of the products, imaginary parts, half turns of the phase from one block to
    the next.
    """
    wide_vectors()
    tx_x, tx_y = direction_cosine_pair(tx_theta_deg, tx_phi_deg)
    rx_x, rx_y = direction_cosine_pair(rx_theta_deg, rx_phi_deg)
    sent, phase = 1.0, 0.0
    for i in range(n_paths):  # magnitude and phase of both beams, then one sine and cosine for all of it
        if i < departure.shape[0]:
            sent, phase = side_magnitude(n_tx_x, n_tx_y, tx_ka, tx_x, tx_y, departure[i, 0], departure[i, 1])
        received, turn = side_magnitude(n_rx_x, n_rx_y, rx_ka, rx_x, rx_y, arrival[i, 0], arrival[i, 1])
        sine, cosine = sincos_half_turns(turn - phase)
        real, imag = amplitude[i].real, amplitude[i].imag
        of_paths[i] = sent * received * (real * cosine - imag * sine)
        of_paths[n_paths + i] = sent * received * (real * sine + imag * cosine)
        of_paths[2 * n_paths + i] = -2.0 * rb_step_hz * delay_s[i]


@fused
def block_sums(n_paths, n_rb, work):
    """Kernel: the sum over paths in every block; work is a `room` that path_factors has filled."""
    of_paths, tables, total_re, total_im = work
    for m in range(n_rb):
        total_re[m] = total_im[m] = 0.0
    for i in range(n_paths):
        half_turns, at = of_paths[2 * n_paths + i], 2 * n_rb * i
        cosine, sine = tables[at : at + n_rb], tables[at + n_rb : at + 2 * n_rb]
        if of_paths[3 * n_paths + i] != half_turns:  # delays stay for many rows; the table of before is kept
            of_paths[3 * n_paths + i] = half_turns
            phases(half_turns, cosine, sine)
        add_path(of_paths[i], of_paths[n_paths + i], cosine, sine, total_re, total_im)


@fused
def phases(half_turns, cosine, sine):
    """Kernel: of every block; all (n_rb,)."""
    wide_vectors()
    for m in range(cosine.shape[0]):
        sine[m], cosine[m] = sincos_half_turns(m * half_turns)


@fused
def add_path(real, imag, cosine, sine, total_re, total_im):
    """Kernel: one path's part in every block; arrays (n_rb,)."""
    wide_vectors()
    for m in range(total_re.shape[0]):
        total_re[m] += real * cosine[m] - imag * sine[m]
    for m in range(total_im.shape[0]):
        total_im[m] += real * sine[m] + imag * cosine[m]


@fused
def row_sums(
    row, beam, n_rb, rb_step_hz, n_tx_x, n_tx_y, n_rx_x, n_rx_y, tx_ka, rx_ka,
    tx_beam_deg, rx_beam_deg, amplitude, departure, arrival, delay_s, work,
):  # fmt: skip
    """Kernel: block_sums of one row with these beams, into the totals of work.

    beam  which of tx_beam_deg and rx_beam_deg (., 2); the last where there are fewer
    """
    n_paths = amplitude.shape[1]
    tx, rx = min(beam, tx_beam_deg.shape[0] - 1), min(beam, rx_beam_deg.shape[0] - 1)
    path_factors(
        n_paths, rb_step_hz, n_tx_x, n_tx_y, n_rx_x, n_rx_y, tx_ka, rx_ka,
        tx_beam_deg[tx, 0], tx_beam_deg[tx, 1], rx_beam_deg[rx, 0], rx_beam_deg[rx, 1],
        amplitude[row], departure[row], arrival[row], delay_s[row], work[0],
    )  # fmt: skip
    block_sums(n_paths, n_rb, work)


@fused
def response_kernel(
    first, last, samples, n_rb, n_groups, rb_step_hz, n_tx_x, n_tx_y, n_rx_x, n_rx_y, tx_ka, rx_ka,
    tx_beam_deg, rx_beam_deg, amplitude, departure, arrival, delay_s, work, out,
):  # fmt: skip
    """Kernel of `block_response`: rows first to last into out (n, n_rb, 2), real and imaginary."""
    total_re, total_im = work[2], work[3]
    for row in range(first, last):
        row_sums(
            row, row, n_rb, rb_step_hz, n_tx_x, n_tx_y, n_rx_x, n_rx_y, tx_ka, rx_ka,
            tx_beam_deg, rx_beam_deg, amplitude, departure, arrival, delay_s, work,
        )  # fmt: skip
        for m in range(n_rb):
            out[row, m, 0], out[row, m, 1] = total_re[m], total_im[m]


@fused
def snr_kernel(
    first, last, samples, n_rb, n_groups, rb_step_hz, n_tx_x, n_tx_y, n_rx_x, n_rx_y, tx_ka, rx_ka,
    tx_beam_deg, rx_beam_deg, amplitude, departure, arrival, delay_s, scale, work, out,
):  # fmt: skip
    """Kernel of `block_snr`: rows first to last into out (n, n_rb); scale (n,) is P_t L_n / (k_B T_n B)."""
    wide_vectors()
    total_re, total_im = work[2], work[3]
    for row in range(first, last):
        row_sums(
            row, row, n_rb, rb_step_hz, n_tx_x, n_tx_y, n_rx_x, n_rx_y, tx_ka, rx_ka,
            tx_beam_deg, rx_beam_deg, amplitude, departure, arrival, delay_s, work,
        )  # fmt: skip
        for m in range(n_rb):
            real, imag = total_re[m], total_im[m]
            out[row, m] = scale[row] * (real * real + imag * imag)


@fused
def groups_kernel(
    first, last, samples, n_rb, n_groups, rb_step_hz, n_tx_x, n_tx_y, n_rx_x, n_rx_y, tx_ka, rx_ka,
    rb_bandwidth_hz, scheme_snr, scheme_efficiency,
    tx_beam_deg, rx_beam_deg, amplitude, departure, arrival, delay_s, scale, work, snr, rate_bps,
):  # fmt: skip
    """Kernel of `group_rates`: slots first to last, `samples` rows each, into snr and rate_bps (n, n_groups).

    scheme_snr, scheme_efficiency  (k,)  of McsTable; none: Shannon's rate
    """
    wide_vectors()
    rb_per_group, total_re, total_im = n_rb // n_groups, work[2], work[3]
    for slot in range(first, last):
        for g in range(n_groups):
            snr[slot, g] = rate_bps[slot, g] = 0.0
        for row in range(slot * samples, (slot + 1) * samples):
            row_sums(
                row, row, n_rb, rb_step_hz, n_tx_x, n_tx_y, n_rx_x, n_rx_y, tx_ka, rx_ka,
                tx_beam_deg, rx_beam_deg, amplitude, departure, arrival, delay_s, work,
            )  # fmt: skip
            for m in range(n_rb):
                real, imag = total_re[m], total_im[m]
                total_re[m] = scale[row] * (real * real + imag * imag)
            for g in range(n_groups):
                total = 0.0
                for m in range(g * rb_per_group, (g + 1) * rb_per_group):
                    total += total_re[m]
                snr[slot, g] += total
                of_group = total_re[g * rb_per_group : (g + 1) * rb_per_group]
                rate_bps[slot, g] += summed_efficiency(of_group, scheme_snr, scheme_efficiency)
        for g in range(n_groups):
            snr[slot, g] /= rb_per_group * samples
            rate_bps[slot, g] *= rb_bandwidth_hz / samples


@fused
def summed_efficiency(snr, scheme_snr, scheme_efficiency):
    """Kernel: bit/s/Hz summed over blocks; snr (n,) linear. NaN where one of them is."""
    n, total = snr.shape[0], 0.0
    if scheme_snr.shape[0]:
        for m in range(n):
            if np.isnan(snr[m]):  # sorts behind everything, and would have the highest rate
                return snr[m]
            reached = np.searchsorted(scheme_snr, snr[m], side="right")
            total += scheme_efficiency[reached - 1] if reached else 0.0
        return total
    for low in range(0, n, 8):  # a sum of logarithms is the logarithm of a product: one in eight is taken
        beyond = 0.0  # the product less 1, so that small ratios keep their digits
        for m in range(low, min(low + 8, n)):
            beyond += snr[m] * (1.0 + beyond)
        total += np.log1p(beyond)
    return total * LOG2_E


@fused
def antenna_strength(
    n_rb, n_groups, rb_step_hz, n_tx_x, n_tx_y, n_rx_x, n_rx_y, tx_ka, rx_ka,
    tx_beam_deg, amplitude, departure, arrival, delay_s, used_group, of_paths,
    wave_re, wave_im, total_re, total_im, strength,
):  # fmt: skip
    """Kernel: Gamma of eq. (21), the mean of |H w_t| over the used blocks, antenna by antenna, of one row.

    tx_beam_deg  (2,); the paths' arrays are those of one row
    used_group   (n_groups,)  bool, at least one of them
    wave_re, wave_im, total_re, total_im  room: (n_paths n_rx,) twice, (n_rx,) twice; apart, so that loops vectorise
    strength     (n_rx,)      x index slow; filled
    """
    wide_vectors()
    n_paths, n_rx, rb_per_group = amplitude.shape[0], n_rx_x * n_rx_y, n_rb // n_groups
    path_factors(
        n_paths, rb_step_hz, n_tx_x, n_tx_y, 1, 1, tx_ka, 0.0,
        tx_beam_deg[0], tx_beam_deg[1], 90.0, 90.0, amplitude, departure, arrival, delay_s, of_paths,
    )  # fmt: skip
    for i in range(n_paths):
        psi_x, psi_y, at = arrival[i, 0], arrival[i, 1], i * n_rx
        for x in range(n_rx_x):
            for y in range(n_rx_y):
                sine, cosine = sincos_half_turns(x * psi_x + y * psi_y)
                wave_re[at + x * n_rx_y + y], wave_im[at + x * n_rx_y + y] = cosine, sine
    for k in range(n_rx):
        strength[k] = 0.0
    n_used = 0
    for m in range(n_rb):
        if used_group[m // rb_per_group]:
            n_used += 1
            for k in range(n_rx):
                total_re[k] = total_im[k] = 0.0
            for i in range(n_paths):
                real, imag, at = of_paths[i], of_paths[n_paths + i], i * n_rx
                for k in range(n_rx):
                    total_re[k] += real * wave_re[at + k] - imag * wave_im[at + k]
                for k in range(n_rx):
                    total_im[k] += real * wave_im[at + k] + imag * wave_re[at + k]
            for k in range(n_rx):
                strength[k] += np.sqrt(total_re[k] * total_re[k] + total_im[k] * total_im[k])
        for i in range(n_paths):
            real, imag = of_paths[i], of_paths[n_paths + i]
            sine, cosine = sincos_half_turns(of_paths[2 * n_paths + i])
            of_paths[i], of_paths[n_paths + i] = real * cosine - imag * sine, real * sine + imag * cosine
    for k in range(n_rx):
        strength[k] /= n_used * np.sqrt(n_rx)
