"""Planar arrays and dishes: steering vectors, codebooks, and what a beam makes of a wave, in closed form.

Both sides' panels have their antennas half a wavelength apart; angles are (theta, phi) of eq. (2) to (6) of arXiv
2402.04865, drawn in docs/physics.md. A direction matters to a panel only by its two direction cosines, so paths and
the beams of a codebook carry those: `direction_cosines` makes them. A dish is one antenna that is turned: its beam is
where it points.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from twin.channel.turns import fused, sincos_half_turns
from twin.geometry import unit_vector
from twin.units import SPEED_OF_LIGHT_M_S

HALF_POWER_X = 1.616_339_948_310_703  # 2 J1(x) / x is 1 / sqrt(2) here


def direction_cosines(angles_deg: ArrayLike) -> np.ndarray:
    """psi_x and psi_y of eq. (3), (4): the parts of a direction along a panel's two axes.

    angles_deg  (..., 2)  deg  theta, phi

    Returns (..., 2), each from -1 to 1. Raises ValueError for another last axis. Checked by
    tests/channel/test_arrays.py.
    """
    angles_deg = np.asarray(angles_deg, dtype=float)
    if angles_deg.shape[-1:] != (2,):
        raise ValueError(f"angles_deg must end in an axis of 2 (theta, phi), got {angles_deg.shape}")
    theta_deg, phi_deg = np.moveaxis(angles_deg, -1, 0)
    return np.stack(direction_cosine_pair.py_func(theta_deg, phi_deg), axis=-1)


def dft_codebook(antennas: tuple[int, int]) -> np.ndarray:
    """The orthogonal beams of a panel, as many as it has antennas, x index slow.

    Returns (n_x * n_y, 2) direction cosines, steps of 2 / n from -1 along each axis. Whatever the wave, |w^H a|^2 over
    all of them sums to 1. For that the corners must be there too, psi_x^2 + psi_y^2 > 1, which look at no real
    direction: they have no angles, and so a codebook is one of cosines.
    Checked by tests/channel/test_arrays.py::test_orthogonal_beams_share_out_all_power_of_a_wave.
    """
    along_x, along_y = (2.0 * (np.arange(n) - n // 2) / n for n in antennas)
    return np.stack(np.meshgrid(along_x, along_y, indexing="ij"), axis=-1).reshape(-1, 2)


def grid_angles_deg(step_deg: float) -> np.ndarray:
    """Beams on a grid of angles: (n_beams, 2) deg, theta (slow) and phi from 0 to below 180; 324 for 10 deg.

    Raises ValueError for a step that is not between 0 and 180 deg.
    """
    if not 0.0 < step_deg <= 180.0:
        raise ValueError(f"step_deg must be above 0 and at most 180 deg, got {step_deg}")
    steps = step_deg * np.arange(np.ceil(180.0 / step_deg - 1e-9))  # rounding adds no beam at 180
    return np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)


def grid_codebook(step_deg: float = 10.0) -> np.ndarray:
    """`grid_angles_deg` as a codebook: (n_beams, 2) direction cosines. All beams of phi = 0 are one and the same."""
    return direction_cosines(grid_angles_deg(step_deg))


def steering_vector(theta_deg: float, phi_deg: float, antennas: tuple[int, int]) -> np.ndarray:
    """Response of a half-wave planar array to a direction, eq. (2) to (6).

    theta_deg, phi_deg  ()  deg  pointing angles: u = (sin phi cos theta, cos phi, sin phi sin theta)
    antennas            (2,)     along x and y

    Returns (n_x * n_y,) complex, norm 1, x index slow. Checked by tests/channel/test_link.py.
    """
    return steering_matrix(direction_cosines([[theta_deg, phi_deg]]), antennas)[:, 0]


def steering_matrix(cosines: np.ndarray, antennas: tuple[int, int]) -> np.ndarray:
    """Steering vectors of direction cosines (n, 2) or of a codebook, side by side: (n_x * n_y, n) complex."""
    along_x, along_y = (
        np.exp(1j * np.pi * np.arange(n)[:, None] * cosines[:, axis]) / np.sqrt(n) for axis, n in enumerate(antennas)
    )
    return (along_x[:, None] * along_y).reshape(-1, len(cosines))


def beam_factor(beam_deg: ArrayLike, direction_deg: ArrayLike, antennas: tuple[int, int]) -> np.ndarray:
    """w^H a: what a beam makes of a wave from (or to) a direction, in closed form.

    beam_deg       (..., 2)  deg  theta, phi of the beam w
    direction_deg  (..., 2)  deg  theta, phi of the wave a; the leading axes broadcast
    antennas       (2,)           along x and y

    Returns (...) complex, magnitude 1 where both angles agree. Source: eq. (2) to (6), summed (a
    Dirichlet kernel per axis). Checked by tests/channel/test_link.py.
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


@fused
def direction_cosine_pair(theta_deg, phi_deg):
    """psi_x and psi_y of eq. (3), (4): the parts of a direction along the array's two axes."""
    theta_rad, phi_rad = np.deg2rad(theta_deg), np.deg2rad(phi_deg)
    return np.sin(phi_rad) * np.cos(theta_rad), np.cos(phi_rad)


@fused
def axis_magnitude(n, offset):
    """w^H a of a half-wave row of n antennas as magnitude, with its sign, and phase in half turns.

    offset  of the direction cosines, direction minus beam
    """
    offset -= 2.0 * np.floor(0.5 * offset + 0.5)  # period 2: takes the grating at end-fire to the one removable 0/0
    below, above = sincos_half_turns(0.5 * offset)[0], sincos_half_turns(0.5 * n * offset)[0]
    return above / (n * below) if below != 0.0 else 1.0, 0.5 * (n - 1) * offset


@fused
def axis_factor(n, offset):
    """w^H a of a half-wave row of n antennas whose direction cosines differ by `offset` (direction minus beam)."""
    magnitude, half_turns = axis_magnitude(n, offset)
    sine, cosine = sincos_half_turns(half_turns)
    return magnitude * complex(cosine, sine)


@fused
def beam_factors(beam_deg, direction_deg, n_x, n_y, factor):
    """Kernel of `beam_factor`: fills factor (n,) from beam_deg (n, 2) and direction_deg (n, 2)."""
    for i in range(beam_deg.shape[0]):
        beam_x, beam_y = direction_cosine_pair(beam_deg[i, 0], beam_deg[i, 1])
        psi_x, psi_y = direction_cosine_pair(direction_deg[i, 0], direction_deg[i, 1])
        factor[i] = side_factor(n_x, n_y, 0.0, beam_x, beam_y, psi_x, psi_y)


def aperture_ka(aperture_m: float, carrier_hz: float) -> float:
    """Circumference of a dish of this diameter in wavelengths, k a of TR 38.811 6.4.1."""
    return np.pi * aperture_m * carrier_hz / SPEED_OF_LIGHT_M_S


def half_power_beamwidth_deg(aperture_m: float, carrier_hz: float) -> float:
    """Full width of a dish's beam where its pattern has fallen by half.

    Raises ValueError for a dish so small that it radiates more than half everywhere before it.
    Checked by tests/channel/test_arrays.py::test_half_power_beamwidths_are_those_of_the_study_cases.
    """
    ka = aperture_ka(aperture_m, carrier_hz)
    if not ka > HALF_POWER_X:
        least_m = HALF_POWER_X * SPEED_OF_LIGHT_M_S / (np.pi * carrier_hz)
        raise ValueError(f"aperture_m must be above {least_m:.4g} m to have a half-power width, got {aperture_m}")
    return float(np.rad2deg(2.0 * np.arcsin(HALF_POWER_X / ka)))


def pattern_gain(beam_deg: ArrayLike, direction_deg: ArrayLike, aperture_m: float, carrier_hz: float) -> np.ndarray:
    """Pattern of a dish, 4 |J1(ka sin t) / (ka sin t)|^2 at the angle t between beam and direction.

    beam_deg       (..., 2)  deg  theta, phi where it points
    direction_deg  (..., 2)  deg  theta, phi of the wave; the leading axes broadcast
    aperture_m     ()        m    diameter
    carrier_hz     ()        Hz

    Returns (...), 1 in the middle of the beam, 0 more than 90 deg from it. Source: TR 38.811 6.4.1.
    Checked by tests/channel/test_arrays.py::test_a_dish_has_the_pattern_of_the_report.
    """
    angles = [np.asarray(angle, dtype=float) for angle in (beam_deg, direction_deg)]
    if any(angle.shape[-1:] != (2,) for angle in angles):
        raise ValueError(f"beam and direction must end in an axis of 2 (theta, phi), got {[a.shape for a in angles]}")
    beam, direction = (unit_vector(angle[..., 0], angle[..., 1]) for angle in angles)
    chord = direction - beam
    field = np.empty(chord.shape[:-1])
    aperture_fields(aperture_ka(aperture_m, carrier_hz), np.sum(chord * chord, axis=-1).ravel(), field.reshape(-1))
    return field**2


@fused
def aperture_fields(ka, chord2, field):
    """Kernel of `pattern_gain`: fills field (n,) from chord2 (n,)."""
    for i in range(chord2.shape[0]):
        field[i] = aperture_field(ka, chord2[i])


@fused
def aperture_factor(ka, beam_x, beam_y, psi_x, psi_y):
    """Field of a dish, the square root of `pattern_gain` with its sign, from direction cosines of the near half-space.

    The lobes of a dish have alternating signs, which matters where several paths add up. The third cosine follows from
    the two; towards the rim, 90 deg from the axis of the frame, it is known less and less well (1e-16 over itself).
    """
    beam_z = np.sqrt(max(0.0, 1.0 - beam_x * beam_x - beam_y * beam_y))
    psi_z = np.sqrt(max(0.0, 1.0 - psi_x * psi_x - psi_y * psi_y))
    step_x, step_y, step_z = psi_x - beam_x, psi_y - beam_y, psi_z - beam_z
    if beam_z > 0.0 and psi_z > 0.0:  # the difference of two roots, without its cancellation
        step_z = -(step_x * (psi_x + beam_x) + step_y * (psi_y + beam_y)) / (psi_z + beam_z)
    return aperture_field(ka, step_x * step_x + step_y * step_y + step_z * step_z)


@fused
def aperture_field(ka, chord2):
    """Field of a dish where the tips of the unit vectors of beam and direction are sqrt(chord2) apart; 0 behind it.

    From the chord, as the sine of a small angle would not be known from its cosine.
    """
    if chord2 > 2.0:
        return 0.0
    return airy_field(ka * np.sqrt(chord2 * (1.0 - 0.25 * chord2)))


# J1(x) is the mean of sin(t) sin(x sin(t)) over a circle. Its mean over 4 n equally spaced points differs from that by
# J_(4n-1)(x) + J_(4n+1)(x), which is nothing for x well below 4 n; and all four quarters of the circle are alike.
QUARTER = np.sin(0.5 * np.pi * (np.arange(12) + 0.5) / 12)
LARGE_X = 16.0
# Further out, Hankel's expansion in 1 / x (Abramowitz and Stegun 9.2.5 to 9.2.10, of order 1).
HANKEL = np.cumprod([1.0] + [(4.0 - (2 * k - 1) ** 2) / (8.0 * k) for k in range(1, 18)])
HANKEL_EVEN = HANKEL[0::2] * (-1.0) ** np.arange(9)
HANKEL_ODD = HANKEL[1::2] * (-1.0) ** np.arange(9)


@fused
def airy_field(x):
    """2 J1(x) / x, 1 at 0, to 1e-14 of that peak."""
    if x < LARGE_X:
        if x < 1e-150:  # also takes 0 / 0
            return 1.0
        total = 0.0
        for sine in QUARTER:
            total += sine * math.sin(x * sine)
        return 2.0 * total / (QUARTER.size * x)
    inverse2 = 1.0 / (x * x)
    even, odd = 0.0, 0.0
    for k in range(HANKEL_EVEN.size - 1, -1, -1):
        even = even * inverse2 + HANKEL_EVEN[k]
        odd = odd * inverse2 + HANKEL_ODD[k]
    odd /= x
    cosine, sine = math.cos(x), math.sin(x)
    return 2.0 * ((sine - cosine) * even + (sine + cosine) * odd) / (x * math.sqrt(math.pi * x))


@fused
def side_magnitude(n_x, n_y, ka, beam_x, beam_y, psi_x, psi_y):
    """w^H a of one side, a panel (ka = 0) or a dish (1 x 1 antennas), as magnitude, with its sign, and half turns."""
    magnitude_x, turn_x = axis_magnitude(n_x, psi_x - beam_x)
    magnitude_y, turn_y = axis_magnitude(n_y, psi_y - beam_y)
    magnitude = magnitude_x * magnitude_y
    if ka > 0.0:
        magnitude *= aperture_factor(ka, beam_x, beam_y, psi_x, psi_y)
    return magnitude, turn_x + turn_y


@fused
def side_factor(n_x, n_y, ka, beam_x, beam_y, psi_x, psi_y):
    """The same as one complex number."""
    magnitude, half_turns = side_magnitude(n_x, n_y, ka, beam_x, beam_y, psi_x, psi_y)
    sine, cosine = sincos_half_turns(half_turns)
    return magnitude * complex(cosine, sine)
