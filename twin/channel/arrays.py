"""Planar arrays: steering vectors and what a beam makes of a wave, in closed form.

Both sides' panels have their antennas half a wavelength apart; angles are (theta, phi) of eq. (2) to (6) of arXiv
2402.04865, drawn in docs/physics.md. A direction matters to a panel only by its two direction cosines, so paths carry
those: `direction_cosines` makes them.
"""

import numpy as np
from numba import njit
from numpy.typing import ArrayLike


def direction_cosines(angles_deg: ArrayLike) -> np.ndarray:
    """psi_x and psi_y of eq. (3), (4): the parts of a direction along a panel's two axes.

    angles_deg  (..., 2)  deg  theta, phi

    Returns (..., 2), each from -1 to 1. Checked by tests/channel/test_arrays.py.
    """
    theta_rad, phi_rad = np.moveaxis(np.deg2rad(np.asarray(angles_deg, dtype=float)), -1, 0)
    return np.stack([np.sin(phi_rad) * np.cos(theta_rad), np.cos(phi_rad)], axis=-1)


def steering_vector(theta_deg: float, phi_deg: float, antennas: tuple[int, int]) -> np.ndarray:
    """Response of a half-wave planar array to a direction, eq. (2) to (6).

    theta_deg, phi_deg  ()  deg  pointing angles: u = (sin phi cos theta, cos phi, sin phi sin theta)
    antennas            (2,)     along x and y

    Returns (n_x * n_y,) complex, norm 1, x index slow. Checked by tests/test_channel.py.
    """
    psi_x, psi_y = direction_cosine_pair(theta_deg, phi_deg)
    n_x, n_y = antennas
    along_x = np.exp(1j * np.pi * np.arange(n_x) * psi_x) / np.sqrt(n_x)
    along_y = np.exp(1j * np.pi * np.arange(n_y) * psi_y) / np.sqrt(n_y)
    return np.kron(along_x, along_y)


def beam_factor(beam_deg: ArrayLike, direction_deg: ArrayLike, antennas: tuple[int, int]) -> np.ndarray:
    """w^H a: what a beam makes of a wave from (or to) a direction, in closed form.

    beam_deg       (..., 2)  deg  theta, phi of the beam w
    direction_deg  (..., 2)  deg  theta, phi of the wave a; the leading axes broadcast
    antennas       (2,)           along x and y

    Returns (...) complex, magnitude 1 where both angles agree. Source: eq. (2) to (6), summed (a
    Dirichlet kernel per axis). Checked by tests/test_channel.py::test_beam_factor_is_the_product_of_steering_vectors.
    """
    both = np.broadcast_arrays(np.asarray(beam_deg, dtype=float), np.asarray(direction_deg, dtype=float))
    if both[0].shape[-1:] != (2,):
        raise ValueError(f"beam and direction must end in an axis of 2 (theta, phi), got {both[0].shape}")
    # plain copies: a read-only or strided array would be a signature of its own, compiled in mid-run
    beam, direction = (np.array(array, order="C").reshape(-1, 2) for array in both)
    factor = np.empty(len(beam), dtype=complex)
    beam_factors(beam, direction, *antennas, factor)
    return factor.reshape(both[0].shape[:-1])


def beam_gain(beam_deg: ArrayLike, direction_deg: ArrayLike, antennas: tuple[int, int]) -> np.ndarray:
    """|w^H a|^2 of `beam_factor`, the same arguments: 0 to 1."""
    factor = beam_factor(beam_deg, direction_deg, antennas)
    return factor.real**2 + factor.imag**2


@njit(cache=True)
def direction_cosine_pair(theta_deg, phi_deg):
    """psi_x and psi_y of eq. (3), (4): the parts of a direction along the array's two axes."""
    theta_rad, phi_rad = np.deg2rad(theta_deg), np.deg2rad(phi_deg)
    return np.sin(phi_rad) * np.cos(theta_rad), np.cos(phi_rad)


@njit(cache=True)
def axis_factor(n, offset):
    """w^H a of a half-wave row of n antennas whose direction cosines differ by `offset` (direction minus beam)."""
    offset -= 2.0 * np.floor(
        0.5 * offset + 0.5
    )  # period 2: also takes the grating at end-fire to the one removable 0/0
    if offset == 0.0:
        return 1.0 + 0.0j
    half_rad = 0.5 * np.pi * offset
    magnitude = np.sin(n * half_rad) / (n * np.sin(half_rad))
    turn_rad = (n - 1) * half_rad
    return complex(magnitude * np.cos(turn_rad), magnitude * np.sin(turn_rad))


@njit(cache=True)
def panel_factor(beam_theta_deg, beam_phi_deg, theta_deg, phi_deg, n_x, n_y):
    """w^H a of a panel: the product over its two axes."""
    beam_x, beam_y = direction_cosine_pair(beam_theta_deg, beam_phi_deg)
    psi_x, psi_y = direction_cosine_pair(theta_deg, phi_deg)
    return axis_factor(n_x, psi_x - beam_x) * axis_factor(n_y, psi_y - beam_y)


@njit(cache=True)
def beam_factors(beam_deg, direction_deg, n_x, n_y, factor):
    """Kernel of `beam_factor`: fills factor (n,) from beam_deg (n, 2) and direction_deg (n, 2)."""
    for i in range(beam_deg.shape[0]):
        factor[i] = panel_factor(beam_deg[i, 0], beam_deg[i, 1], direction_deg[i, 0], direction_deg[i, 1], n_x, n_y)


def pattern_gain(beam_deg: ArrayLike, direction_deg: ArrayLike, aperture_m: float, carrier_hz: float) -> np.ndarray:
    raise NotImplementedError


@njit(cache=True, nogil=True)
def aperture_factor(ka, beam_x, beam_y, psi_x, psi_y):
    """Kernel: placeholder."""
    return 1.0
