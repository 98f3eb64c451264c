"""The channel the long way: vectors and matrices as the equations print them, for tests to compare with."""

import numpy as np

from twin.channel.fading import Fading
from twin.geometry import Pointing, unit_vector


def panel(cosines, antennas):
    """A unit-norm steering vector of direction cosines, element by element, x index slow."""
    n_x, n_y = antennas
    turns = [x * cosines[0] + y * cosines[1] for x in range(n_x) for y in range(n_y)]
    return np.exp(1j * np.pi * np.array(turns)) / np.sqrt(n_x * n_y)


def beam(angles_deg, antennas):
    return panel(unit_vector(*angles_deg), antennas)


def matrices(link, fading, row):
    """H of every block, (n_rb, n_rx, n_tx)."""
    n_tx, n_rx = np.prod(link.tx_antennas), np.prod(link.rx_antennas)
    H = np.zeros((link.n_rb, n_rx, n_tx), dtype=complex)
    frequency_hz = np.arange(link.n_rb) * link.rb_step_hz
    for path in range(fading.amplitude.shape[1]):
        departure = fading.departure[row, min(path, fading.departure.shape[1] - 1)]
        a_t, a_r = panel(departure, link.tx_antennas), panel(fading.arrival[row, path], link.rx_antennas)
        turn = np.exp(-2j * np.pi * frequency_hz * fading.delay_s[row, path])
        H += fading.amplitude[row, path] * turn[:, None, None] * np.outer(a_r, a_t.conj())
    return H


def response(link, fading, row, tx_beam_deg, rx_beam_deg):
    """w_r^H H w_t of every block, (n_rb,)."""
    w_t, w_r = beam(tx_beam_deg, link.tx_antennas), beam(rx_beam_deg, link.rx_antennas)
    return np.array([w_r.conj() @ H @ w_t for H in matrices(link, fading, row)])


def random_fading(rng, n, n_paths, common=False):
    """Paths from anywhere before both panels."""

    def directions(*shape):
        return unit_vector(*rng.uniform(5.0, 175.0, (2, *shape)))[..., :2]

    amplitude = rng.normal(size=(n, n_paths)) + 1j * rng.normal(size=(n, n_paths))
    departure = directions(n, 1 if common else n_paths)
    delay_s = rng.exponential(300e-9, (n, n_paths))
    return Fading(np.ones(n, bool), np.zeros(n), amplitude, directions(n, n_paths), departure, delay_s)


def still(n, elevation_deg=50.0, beam_deg=(90.0, 90.0), range_m=700e3):
    """A satellite that stands at one place for n rows."""
    angles = np.tile(np.asarray(beam_deg, dtype=float), (n, 1))
    return Pointing(np.full(n, elevation_deg), np.full(n, range_m), angles, angles, np.zeros(n))
