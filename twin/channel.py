"""The link of one satellite and one terminal: losses, beams, fading, SNR and rate per group of resource blocks.

The channel of a resource block is a sum of paths, H = sum_l alpha_l exp(-j 2 pi f tau_l) a_r a_t^H, and the beams
have the form of its steering vectors, so w_r^H H w_t is a sum of L closed forms: H itself is never built. The array
gain stands once, in alpha (sum E|alpha|^2 = N_t N_r), because every vector has unit norm. Angles, signs and frames
are drawn in docs/physics.md.

Top to bottom: the link's settings, losses, beams, fading of a pass, the kernels of one slot, and the nominal link
(what a controller may know: the same formulas without randomness).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numba import njit
from numpy.typing import ArrayLike

from twin.environment import (
    IONOSPHERIC_FLUCTUATION_4GHZ_DB,
    KA_BAND_FROM_HZ,
    REFERENCE_ELEVATION_DEG,
    TROPOSPHERIC_SCINTILLATION_DB,
    ZENITH_GAS_DB,
    ZENITH_GAS_GHZ,
    Environment,
    environment,
)
from twin.errors import ScenarioError
from twin.units import BOLTZMANN_J_K, GIGA, SPEED_OF_LIGHT_M_S, from_db

if TYPE_CHECKING:
    from twin.geometry import Pointing

COSECANT_LAW_FROM_DEG = 5.0  # ITU-R P.676 annex 2: slant = zenith / sin(elevation) holds from 5 deg up
CORRELATION_STEP_S = 0.1  # the slot of the default scenario, to which `scatter_correlation` refers

Antennas = Annotated[int, Meta(ge=1, le=64)]


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The radio link: a scenario's [link] table. Raises ScenarioError where two settings do not fit together."""

    carrier_hz: Annotated[float, Meta(ge=0.5e9, le=100e9, description="carrier frequency, Hz")] = 20e9
    rb_bandwidth_hz: Annotated[float, Meta(ge=1e3, le=1e9, description="bandwidth of one resource block, Hz")] = 1.44e6
    n_rb: Annotated[int, Meta(ge=1, le=10_000, description="resource blocks")] = 100
    n_groups: Annotated[int, Meta(ge=1, le=16, description="equal groups of neighbouring blocks; divides n_rb")] = 5
    tx_antennas: Annotated[
        tuple[Antennas, Antennas],
        Meta(description="satellite's panel, antennas along x and y, half a wavelength apart"),
    ] = (16, 16)
    rx_antennas: Annotated[
        tuple[Antennas, Antennas], Meta(description="terminal's panel, antennas along x and y, half a wavelength apart")
    ] = (8, 8)
    tx_power_w: Annotated[float, Meta(gt=0, le=1e6, description="transmitted power per resource block, W")] = 1.0
    element_gain_dbi: Annotated[
        float, Meta(ge=-20, le=30, description="gain of one antenna element, each side, dBi")
    ] = 5.0
    noise_temperature_k: Annotated[float, Meta(ge=0.1, le=1e5, description="noise temperature of the terminal, K")] = (
        290.0
    )
    atmosphere: Annotated[
        Literal["fixed", "3gpp"],
        Meta(description="`fixed`: atmosphere_db at every elevation; `3gpp`: gas and scintillation by elevation"),
    ] = "fixed"
    atmosphere_db: Annotated[float, Meta(ge=0, le=100, description="loss of the fixed atmosphere, dB")] = 1.0
    environment: Annotated[str, Meta(description="what surrounds the terminal: `suburban`")] = "suburban"
    k_factor_db: Annotated[
        float, Meta(ge=-30, le=100, description="power of the direct path over that of all scattered ones, dB")
    ] = 10.0
    n_paths: Annotated[int, Meta(ge=2, le=64, description="paths: one direct, the others scattered")] = 4
    angle_spread_deg: Annotated[
        float, Meta(ge=0, le=60, description="standard deviation of the angles of arrival of scattered paths, deg")
    ] = 5.0
    departure_spread_deg: Annotated[
        float, Meta(ge=0, le=60, description="standard deviation of the angles of departure of scattered paths, deg")
    ] = 0.01
    delay_spread_s: Annotated[
        float, Meta(ge=0, le=1e-3, description="mean excess delay of a scattered path, exponential, s")
    ] = 100e-9
    nlos_dwell_s: Annotated[float, Meta(gt=0, le=1e6, description="mean time without line of sight, s")] = 2.0
    scatter_correlation: Annotated[
        float, Meta(ge=0, le=1, description="correlation of a scattered path's amplitude over 0.1 s")
    ] = 0.95
    redraw_s: Annotated[float, Meta(gt=0, le=1e6, description="time between new scatterers (angles, delays), s")] = 2.0
    shadow_dwell_s: Annotated[float, Meta(gt=0, le=1e6, description="correlation time of the shadow fading, s")] = 5.0

    def __post_init__(self):
        if self.n_rb % self.n_groups:
            raise ScenarioError(
                f"link.n_rb must be a multiple of link.n_groups, got {self.n_rb} in {self.n_groups} groups"
            )
        environment(self.environment, self.carrier_hz)

    @property
    def tables(self) -> Environment:
        """The environment's tables in this link's band."""
        return environment(self.environment, self.carrier_hz)

    @property
    def array_gain(self) -> float:
        """N_t N_r, linear: the power of all paths together."""
        return float(np.prod(self.tx_antennas) * np.prod(self.rx_antennas))

    @property
    def snr_per_gain(self) -> float:
        """P_t / (k_B T_n B): the SNR of a resource block whose total gain is 1, linear."""
        return self.tx_power_w / (BOLTZMANN_J_K * self.noise_temperature_k * self.rb_bandwidth_hz)

    def facts(self) -> dict[str, np.ndarray]:
        """What a controller in any language needs for the nominal link: arrays; see NominalLink for their meaning."""
        fixed_db, zenith_gas_db, scintillation_db = self.atmosphere_db, 0.0, np.zeros_like(REFERENCE_ELEVATION_DEG)
        if self.atmosphere == "3gpp":
            fixed_db, zenith_gas_db = 0.0, _zenith_gas_db(self.carrier_hz)
            scintillation_db = scintillation_loss_db(REFERENCE_ELEVATION_DEG, self.carrier_hz)
        tables = self.tables
        facts: dict[str, Any] = {
            "carrier_hz": self.carrier_hz,
            "rb_bandwidth_hz": self.rb_bandwidth_hz,
            "n_rb": self.n_rb,
            "n_groups": self.n_groups,
            "tx_antennas": self.tx_antennas,
            "rx_antennas": self.rx_antennas,
            "tx_power_w": self.tx_power_w,
            "element_gain_dbi": self.element_gain_dbi,
            "noise_temperature_k": self.noise_temperature_k,
            "atmosphere_db": fixed_db,
            "zenith_gas_loss_db": zenith_gas_db,
            "table_elevation_deg": tables.elevation_deg,
            "scintillation_loss_db": scintillation_db,
            "los_probability": tables.los_probability,
            "clutter_loss_db": tables.clutter_loss_db,
        }
        return {name: np.asarray(value) for name, value in facts.items()}


# Losses


def free_space_loss_db(slant_range_m: ArrayLike, carrier_hz: float) -> np.ndarray:
    """Free-space path loss, 20 log10(4 pi D f / c).

    slant_range_m  any shape  m    satellite to terminal, greater than 0
    carrier_hz     ()         Hz

    Returns the shape of slant_range_m, dB, positive: subtract it from the transmitted power.
    Raises ValueError naming the first range that is not positive.
    Source: arXiv 2402.04865 eq. (8) as read in docs/physics.md; TR 38.811 eq. 6.6-2 rounds its constant to 32.45.
    Checked by tests/test_channel.py::test_free_space_loss_is_that_of_tr_38_811.
    """
    range_m = np.asarray(slant_range_m, dtype=float)
    wrong = ~(range_m > 0)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"slant_range_m must be greater than 0 m, got {range_m[first]} at index {first}")
    return 20.0 * np.log10(4.0 * np.pi * range_m * carrier_hz / SPEED_OF_LIGHT_M_S)


def gas_loss_db(elevation_deg: ArrayLike, carrier_hz: float) -> np.ndarray:
    """Loss to oxygen and water vapour, zenith / sin(elevation); under 5 deg that of 5 deg.

    elevation_deg  any shape  deg
    carrier_hz     ()         Hz   1 to 100 GHz, read linearly between whole GHz, clamped outside

    Returns the shape of elevation_deg, dB, positive.
    Source: TR 38.811 eq. 6.6-8, ITU-R P.676-10 annex 2. Checked by tests/test_channel.py.
    """
    return _slant_gas_db(elevation_deg, _zenith_gas_db(carrier_hz))


def _zenith_gas_db(carrier_hz: float) -> float:
    return float(np.interp(carrier_hz / GIGA, ZENITH_GAS_GHZ, ZENITH_GAS_DB))


def _slant_gas_db(elevation_deg: ArrayLike, zenith_gas_db: float) -> np.ndarray:
    return zenith_gas_db / np.sin(np.deg2rad(np.maximum(elevation_deg, COSECANT_LAW_FROM_DEG)))


def scintillation_loss_db(elevation_deg: ArrayLike, carrier_hz: float) -> np.ndarray:
    """Loss to scintillation: tropospheric, by elevation, from 6 GHz on; ionospheric, the same everywhere, below.

    elevation_deg  any shape  deg
    carrier_hz     ()         Hz

    Returns the shape of elevation_deg, dB, positive.
    Source: TR 38.811 table 6.6.6.2.1-1 (20 GHz values at every carrier) and clause 6.6.6.1.4, eq. 6.6-13.
    Checked by tests/test_channel.py.
    """
    if carrier_hz >= KA_BAND_FROM_HZ:
        return _read(elevation_deg, REFERENCE_ELEVATION_DEG, TROPOSPHERIC_SCINTILLATION_DB)
    fluctuation_db = IONOSPHERIC_FLUCTUATION_4GHZ_DB * (carrier_hz / (4.0 * GIGA)) ** -1.5
    return np.full(np.shape(elevation_deg), fluctuation_db / np.sqrt(2.0))


def _read(elevation_deg: ArrayLike, table_elevation_deg: np.ndarray, table: np.ndarray) -> np.ndarray:
    """A table at each elevation: linear between its rows, so that nothing jumps during a pass; clamped outside."""
    return np.interp(np.asarray(elevation_deg, dtype=float), table_elevation_deg, table)


def los_probability(elevation_deg: ArrayLike, tables: Environment) -> np.ndarray:
    """Probability of line of sight at each elevation, 0 to 1."""
    return _read(elevation_deg, tables.elevation_deg, tables.los_probability)


def shadow_sigma_db(elevation_deg: ArrayLike, los: ArrayLike, tables: Environment) -> np.ndarray:
    """Standard deviation of the shadow fading, dB, at each elevation with (`los` true) or without line of sight."""
    with_los = _read(elevation_deg, tables.elevation_deg, tables.los_sigma_db)
    without = _read(elevation_deg, tables.elevation_deg, tables.nlos_sigma_db)
    return np.where(los, with_los, without)


def clutter_loss_db(elevation_deg: ArrayLike, los: ArrayLike, tables: Environment) -> np.ndarray:
    """Clutter loss, dB, at each elevation: 0 with line of sight (`los` true)."""
    return np.where(los, 0.0, _read(elevation_deg, tables.elevation_deg, tables.clutter_loss_db))


def path_gain(
    link: Link, slant_range_m: ArrayLike, elevation_deg: ArrayLike, los: ArrayLike, shadow_db: ArrayLike
) -> np.ndarray:
    """L_n of eq. (7), (8), a gain: free space, both element gains, atmosphere, shadow fading and clutter.

    slant_range_m, elevation_deg  any shape  m, deg
    los                           same       bool
    shadow_db                     same       dB, positive is loss

    Returns the same shape, linear, without the array gain (which stands in the paths' amplitudes).
    Source: arXiv 2402.04865 eq. (7), (8) as read in docs/physics.md.
    Checked by tests/test_channel.py::test_snr_is_that_of_the_link_budget.
    """
    air_db = np.full(np.shape(elevation_deg), link.atmosphere_db)
    if link.atmosphere == "3gpp":
        air_db = gas_loss_db(elevation_deg, link.carrier_hz) + scintillation_loss_db(elevation_deg, link.carrier_hz)
    loss_db = free_space_loss_db(slant_range_m, link.carrier_hz) + air_db + np.asarray(shadow_db)
    loss_db = loss_db + clutter_loss_db(elevation_deg, los, link.tables)
    return from_db(2.0 * link.element_gain_dbi - loss_db)


# Beams


def steering_vector(theta_deg: float, phi_deg: float, antennas: tuple[int, int]) -> np.ndarray:
    """Response of a half-wave planar array to a direction, eq. (2) to (6).

    theta_deg, phi_deg  ()  deg  pointing angles: u = (sin phi cos theta, cos phi, sin phi sin theta)
    antennas            (2,)     along x and y

    Returns (n_x * n_y,) complex, norm 1, x index slow. Checked by tests/test_channel.py.
    """
    psi_x, psi_y = _direction_cosines(theta_deg, phi_deg)
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
def _direction_cosines(theta_deg, phi_deg):
    """psi_x and psi_y of eq. (3), (4): the parts of a direction along the array's two axes."""
    theta_rad, phi_rad = np.deg2rad(theta_deg), np.deg2rad(phi_deg)
    return np.sin(phi_rad) * np.cos(theta_rad), np.cos(phi_rad)


@njit(cache=True)
def _axis_factor(n, offset):
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
def _panel_factor(beam_theta_deg, beam_phi_deg, theta_deg, phi_deg, n_x, n_y):
    """w^H a of a panel: the product over its two axes."""
    beam_x, beam_y = _direction_cosines(beam_theta_deg, beam_phi_deg)
    psi_x, psi_y = _direction_cosines(theta_deg, phi_deg)
    return _axis_factor(n_x, psi_x - beam_x) * _axis_factor(n_y, psi_y - beam_y)


@njit(cache=True)
def beam_factors(beam_deg, direction_deg, n_x, n_y, factor):
    """Kernel of `beam_factor`: fills factor (n,) from beam_deg (n, 2) and direction_deg (n, 2)."""
    for i in range(beam_deg.shape[0]):
        factor[i] = _panel_factor(beam_deg[i, 0], beam_deg[i, 1], direction_deg[i, 0], direction_deg[i, 1], n_x, n_y)


# Fading


@dataclass(frozen=True, eq=False)
class Fading:
    """The random part of the channel over the n slots of one pass; path 0 is the direct one.

    los            (n,) bool        line of sight
    shadow_db      (n,)             dB, positive is loss
    amplitude      (n, n_paths)     complex, alpha of eq. (1), Doppler included; E|alpha|^2 sums to N_t N_r
    rx_offset_deg  (n, n_paths, 2)  deg, theta and phi of each arrival less those of the direct path
    tx_offset_deg  (n, n_paths, 2)  deg, the same of each departure
    delay_s        (n, n_paths)     s, in excess of the direct path
    """

    los: np.ndarray
    shadow_db: np.ndarray
    amplitude: np.ndarray
    rx_offset_deg: np.ndarray
    tx_offset_deg: np.ndarray
    delay_s: np.ndarray


def draw_fading(rng: np.random.Generator, link: Link, elevation_deg: ArrayLike, slot_s: float) -> Fading:
    """Draw the fading of one pass.

    elevation_deg  (n,)  deg  of the satellite in each slot
    slot_s         ()    s

    Line of sight is a two-state Markov chain with the stationary probability of the slot's elevation and a mean
    time without line of sight of link.nlos_dwell_s; shadow fading is Gaussian with the sigma of the slot's state;
    scattered amplitudes are complex Gaussian and equally strong; both have exponential correlation. Angles and
    delays of the scatterers are drawn anew every link.redraw_s. Without line of sight the scattered paths carry all
    the power N_t N_r, and clutter loss (path_gain) takes it away.
    Source: docs/physics.md, TR 38.811 6.6. Checked by tests/test_channel.py (fading statistics).
    """
    elevations_deg = np.asarray(elevation_deg, dtype=float)
    n, n_scatter = len(elevations_deg), link.n_paths - 1
    tables = link.tables

    # a generator each: a longer pass then begins with the very draws of a shorter one
    of_los, of_shadow, of_scatter, of_arrival, of_departure, of_delay = rng.spawn(6)
    leave_nlos = min(1.0, slot_s / link.nlos_dwell_s)
    los = los_states(of_los.random(n), los_probability(elevations_deg, tables), leave_nlos)

    shadow = autoregression(of_shadow.standard_normal((n, 1)), np.exp(-slot_s / link.shadow_dwell_s))[:, 0]
    shadow_db = shadow * shadow_sigma_db(elevations_deg, los, tables)

    parts = autoregression(
        of_scatter.standard_normal((n, 2 * n_scatter)), link.scatter_correlation ** (slot_s / CORRELATION_STEP_S)
    )
    scatter = (parts[:, :n_scatter] + 1j * parts[:, n_scatter:]) / np.sqrt(2.0)
    k_factor = from_db(link.k_factor_db)
    amplitude = np.empty((n, link.n_paths), dtype=complex)
    amplitude[:, 0] = np.where(los, np.sqrt(link.array_gain * k_factor / (1.0 + k_factor)), 0.0)
    amplitude[:, 1:] = (
        scatter * np.sqrt(link.array_gain / n_scatter * np.where(los, 1.0 / (1.0 + k_factor), 1.0))[:, None]
    )

    block = np.arange(n) // max(1, round(link.redraw_s / slot_s))
    n_blocks = int(block[-1]) + 1 if n else 0
    rx_offset_deg, tx_offset_deg = np.zeros((n, link.n_paths, 2)), np.zeros((n, link.n_paths, 2))
    delay_s = np.zeros((n, link.n_paths))
    laplace = 1.0 / np.sqrt(2.0)  # the scale of a Laplace law with standard deviation 1
    rx_offset_deg[:, 1:] = of_arrival.laplace(0.0, laplace * link.angle_spread_deg, (n_blocks, n_scatter, 2))[block]
    tx_offset_deg[:, 1:] = of_departure.laplace(0.0, laplace * link.departure_spread_deg, (n_blocks, n_scatter, 2))[
        block
    ]
    delay_s[:, 1:] = of_delay.exponential(link.delay_spread_s, (n_blocks, n_scatter))[block]
    return Fading(los, shadow_db, amplitude, rx_offset_deg, tx_offset_deg, delay_s)


@njit(cache=True)
def los_states(uniform, probability, leave_nlos):
    """Kernel: the two-state chain of the line of sight.

    uniform      (n,)  draws from [0, 1)
    probability  (n,)  stationary probability of line of sight in each slot
    leave_nlos   ()    probability per slot of regaining it

    Returns (n,) bool; the first state has the stationary law.
    """
    los = np.empty(uniform.shape[0], dtype=np.bool_)
    for i in range(uniform.shape[0]):
        p = probability[i]
        if i == 0:
            los[i] = uniform[i] < p
        elif los[i - 1]:
            los[i] = uniform[i] * p >= leave_nlos * (1.0 - p)  # balance: p * leave_los = (1 - p) * leave_nlos
        else:
            los[i] = uniform[i] < leave_nlos
    return los


@njit(cache=True)
def autoregression(noise, correlation):
    """Kernel: a unit-variance Gaussian series from white noise (n, k), with this correlation from row to row."""
    series = noise.copy()
    innovation = np.sqrt(1.0 - correlation * correlation)
    for i in range(1, noise.shape[0]):
        for j in range(noise.shape[1]):
            series[i, j] = correlation * series[i - 1, j] + innovation * noise[i, j]
    return series


# One slot


def slot_link(
    link: Link,
    fading: Fading,
    row: int,
    gain: float,
    tx_beam_deg: np.ndarray,
    rx_beam_deg: np.ndarray,
    tx_direction_deg: np.ndarray,
    rx_direction_deg: np.ndarray,
    used_group: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SNR, rate and antenna strength in one slot, eq. (7) to (9) and Gamma of (21).

    fading, row                         the pass's fading, and which of its slots
    gain                                ()    linear, of `path_gain`
    tx_beam_deg, rx_beam_deg            (2,)  deg  theta, phi in force
    tx_direction_deg, rx_direction_deg  (2,)  deg  theta, phi of the direct path, in the same frames
    used_group                          (n_groups,)  bool, the groups Gamma is averaged over

    Returns snr (n_groups,) linear, the mean over each group's blocks; rate_bps (n_groups,), the sum over each
    group's blocks; strength (n_rx,), mean |H w_t| per antenna over the used blocks, 0 where none is used.
    Checked by tests/test_channel.py::test_slot_agrees_with_the_full_matrix.
    """
    return slot_kernel(  # floats and copies: integers or read-only arrays would each be compiled anew, in mid-run
        link.n_rb,
        float(link.rb_bandwidth_hz),
        *link.tx_antennas,
        *link.rx_antennas,
        float(link.snr_per_gain * gain),
        np.array(tx_beam_deg, dtype=np.float64),
        np.array(rx_beam_deg, dtype=np.float64),
        np.array(tx_direction_deg, dtype=np.float64),
        np.array(rx_direction_deg, dtype=np.float64),
        fading.amplitude[row],
        fading.tx_offset_deg[row],
        fading.rx_offset_deg[row],
        fading.delay_s[row],
        np.array(used_group, dtype=np.bool_),
    )


@njit(cache=True)
def slot_kernel(
    n_rb,
    rb_bandwidth_hz,
    n_tx_x,
    n_tx_y,
    n_rx_x,
    n_rx_y,
    snr_scale,
    tx_beam_deg,
    rx_beam_deg,
    tx_direction_deg,
    rx_direction_deg,
    amplitude,
    tx_offset_deg,
    rx_offset_deg,
    delay_s,
    used_group,
):
    """Kernel of `slot_link`: snr_scale () is P_t L_n / (k_B T_n B), the fading's arrays are those of one slot."""
    n_paths, n_groups = amplitude.shape[0], used_group.shape[0]
    sent = np.empty(n_paths, dtype=np.complex128)  # alpha_l a_t^H w_t
    received = np.empty(n_paths, dtype=np.complex128)  # w_r^H a_r of the same
    arrival = np.empty((n_paths, 2))
    step = np.empty(n_paths, dtype=np.complex128)  # turn of the phase from one block to the next
    for path in range(n_paths):
        theta = tx_direction_deg[0] + tx_offset_deg[path, 0]
        phi = tx_direction_deg[1] + tx_offset_deg[path, 1]
        sent[path] = amplitude[path] * np.conj(
            _panel_factor(tx_beam_deg[0], tx_beam_deg[1], theta, phi, n_tx_x, n_tx_y)
        )
        theta = rx_direction_deg[0] + rx_offset_deg[path, 0]
        phi = rx_direction_deg[1] + rx_offset_deg[path, 1]
        received[path] = sent[path] * _panel_factor(rx_beam_deg[0], rx_beam_deg[1], theta, phi, n_rx_x, n_rx_y)
        arrival[path, 0], arrival[path, 1] = _direction_cosines(theta, phi)
        turn_rad = -2.0 * np.pi * rb_bandwidth_hz * delay_s[path]
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


# The nominal link


@dataclass(frozen=True, eq=False)
class NominalLink:
    """The link as a controller may know it: line of sight, exact pointing, mean loss, nothing random.

    Built from `Link.facts()`, by the names below; all arrays.
    carrier_hz, rb_bandwidth_hz, tx_power_w, noise_temperature_k   ()    Hz, Hz, W per block, K
    n_rb, n_groups                                                 ()    resource blocks and their equal groups
    tx_antennas, rx_antennas                                       (2,)  along x and y
    element_gain_dbi                                               ()    dBi, each side
    atmosphere_db, zenith_gas_loss_db                              ()    dB: constant, and scaled by 1/sin(elevation)
    table_elevation_deg                                            (9,)  deg, of the three tables
    scintillation_loss_db, los_probability, clutter_loss_db        (9,)  dB, 0 to 1, dB
    """

    carrier_hz: np.ndarray
    rb_bandwidth_hz: np.ndarray
    n_rb: np.ndarray
    n_groups: np.ndarray
    tx_antennas: np.ndarray
    rx_antennas: np.ndarray
    tx_power_w: np.ndarray
    element_gain_dbi: np.ndarray
    noise_temperature_k: np.ndarray
    atmosphere_db: np.ndarray
    zenith_gas_loss_db: np.ndarray
    table_elevation_deg: np.ndarray
    scintillation_loss_db: np.ndarray
    los_probability: np.ndarray
    clutter_loss_db: np.ndarray

    @classmethod
    def from_facts(cls, facts: Mapping[str, np.ndarray]) -> "NominalLink":
        """Take the link's facts out of an agent's. Raises KeyError naming the first that is not there."""
        return cls(**{field.name: facts[field.name] for field in fields(cls)})

    def matched_snr(self, slant_range_m: ArrayLike, elevation_deg: ArrayLike) -> np.ndarray:
        """SNR with both beams exactly on the direct path, linear; shape of the arguments (m, deg).

        Clutter loss is taken at its expectation, p_LOS + (1 - p_LOS) 10^(-CL / 10).
        """
        loss_db = free_space_loss_db(slant_range_m, float(self.carrier_hz)) + self.atmosphere_db
        loss_db = loss_db + _slant_gas_db(elevation_deg, float(self.zenith_gas_loss_db))
        loss_db = loss_db + _read(elevation_deg, self.table_elevation_deg, self.scintillation_loss_db)
        p_los = _read(elevation_deg, self.table_elevation_deg, self.los_probability)
        clutter_db = _read(elevation_deg, self.table_elevation_deg, self.clutter_loss_db)
        clutter = p_los + (1.0 - p_los) * from_db(-clutter_db)
        noise_w = BOLTZMANN_J_K * self.noise_temperature_k * self.rb_bandwidth_hz
        array_gain = np.prod(self.tx_antennas) * np.prod(self.rx_antennas)
        return self.tx_power_w / noise_w * array_gain * clutter * from_db(2.0 * self.element_gain_dbi - loss_db)

    def group_snr(self, pointing: "Pointing", tx_beam_deg: ArrayLike, rx_beam_deg: ArrayLike) -> np.ndarray:
        """SNR of any group (the nominal channel is flat) with these beams.

        pointing     n slots             elevation, range and true angles, of twin.geometry.pointing
        tx_beam_deg  (..., n, 2)  deg    theta, phi; leading axes broadcast
        rx_beam_deg  (..., n, 2)  deg

        Returns (..., n), linear. Checked by tests/test_channel.py::test_nominal_link_is_the_channel_without_chance.
        """
        tx_gain = beam_gain(tx_beam_deg, pointing.tx_beam_deg, _pair(self.tx_antennas))
        rx_gain = beam_gain(rx_beam_deg, pointing.rx_beam_deg, _pair(self.rx_antennas))
        return self.matched_snr(pointing.slant_range_m, pointing.elevation_deg) * tx_gain * rx_gain

    def group_rate_bps(self, snr: ArrayLike) -> np.ndarray:
        """Rate of one group, eq. (9) over its resource blocks; any shape, linear SNR to bit/s."""
        rb_per_group = int(self.n_rb) // int(self.n_groups)
        return rb_per_group * self.rb_bandwidth_hz * np.log2(1.0 + np.asarray(snr))


def _pair(antennas: np.ndarray) -> tuple[int, int]:
    return int(antennas[0]), int(antennas[1])
