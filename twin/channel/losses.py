"""What the way takes from a signal, dB, positive: free space, gases, scintillation, clutter, shadow fading."""

import numpy as np
from numpy.typing import ArrayLike

from twin.channel.tables import (
    IONOSPHERIC_FLUCTUATION_4GHZ_DB,
    KA_BAND_FROM_HZ,
    REFERENCE_ELEVATION_DEG,
    TROPOSPHERIC_SCINTILLATION_DB,
    ZENITH_GAS_DB,
    ZENITH_GAS_GHZ,
    Environment,
)
from twin.units import GIGA, SPEED_OF_LIGHT_M_S

COSECANT_LAW_FROM_DEG = 5.0  # ITU-R P.676 annex 2: slant = zenith / sin(elevation) holds from 5 deg up
SCINTILLATING_LATITUDE_DEG = 20.0  # TR 38.811 6.6.6.1: the ionosphere scintillates this near to the magnetic equator
DIPOLE_NT = np.array([-1450.9, 4652.5, -29404.8])  # IGRF-13 (doi 10.1186/s40623-020-01288-x), 2020: g11, h11, g10


def free_space_loss_db(slant_range_m: ArrayLike, carrier_hz: float) -> np.ndarray:
    """Free-space path loss, 20 log10(4 pi D f / c).

    slant_range_m  any shape  m    satellite to terminal, greater than 0
    carrier_hz     ()         Hz

    Returns the shape of slant_range_m, dB, positive: subtract it from the transmitted power.
    Raises ValueError naming the first range that is not positive.
    Source: arXiv 2402.04865 eq. (8) as read in docs/physics.md; TR 38.811 eq. 6.6-2 rounds its constant to 32.45.
    Checked by tests/channel/test_losses.py::test_free_space_loss_is_that_of_tr_38_811.
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
    carrier_hz     ()         Hz   up to 100 GHz, read linearly between whole GHz; below 1 GHz that of 1 GHz

    Returns the shape of elevation_deg, dB, positive. Raises ValueError for a carrier the table does not reach.
    Source: TR 38.811 eq. 6.6-8, ITU-R P.676-10 annex 2. Checked by tests/channel/test_losses.py.
    """
    return slant_gas_db(elevation_deg, zenith_gas_db(carrier_hz))


def zenith_gas_db(carrier_hz: float) -> float:
    """Loss to the gases straight up, dB; carrier_hz as for `gas_loss_db`."""
    if not 0.0 < carrier_hz <= ZENITH_GAS_GHZ[-1] * GIGA:
        raise ValueError(f"carrier_hz must be above 0 and at most 100 GHz for the loss to gases, got {carrier_hz} Hz")
    return float(np.interp(carrier_hz / GIGA, ZENITH_GAS_GHZ, ZENITH_GAS_DB))


def slant_gas_db(elevation_deg: ArrayLike, zenith_gas_db: float) -> np.ndarray:
    return zenith_gas_db / np.sin(np.deg2rad(np.maximum(elevation_deg, COSECANT_LAW_FROM_DEG)))


def scintillation_loss_db(
    elevation_deg: ArrayLike, carrier_hz: float, magnetic_latitude_deg: float | None = None
) -> np.ndarray:
    """Loss to scintillation: tropospheric, by elevation, from 6 GHz on; ionospheric, the same at all elevations, below.

    elevation_deg          any shape  deg
    carrier_hz             ()         Hz
    magnetic_latitude_deg  ()         deg  of the terminal, of `dipole_latitude_deg`: beyond 20 deg the ionosphere
                                           takes nothing; not given: it does everywhere, as in 3GPP's link budgets

    Returns the shape of elevation_deg, dB, positive.
    Source: TR 38.811 table 6.6.6.2.1-1 (20 GHz values at every carrier) and clause 6.6.6.1, eq. 6.6-13.
    Checked by tests/channel/test_losses.py.
    """
    if carrier_hz >= KA_BAND_FROM_HZ:
        return at_elevation(elevation_deg, REFERENCE_ELEVATION_DEG, TROPOSPHERIC_SCINTILLATION_DB)
    fluctuation_db = IONOSPHERIC_FLUCTUATION_4GHZ_DB * (carrier_hz / (4.0 * GIGA)) ** -1.5
    if magnetic_latitude_deg is not None and abs(magnetic_latitude_deg) > SCINTILLATING_LATITUDE_DEG:
        fluctuation_db = 0.0
    return np.full(np.shape(elevation_deg), fluctuation_db / np.sqrt(2.0))


def dipole_latitude_deg(latitude_deg: float, longitude_deg: float) -> float:
    """Latitude of a place against the Earth's centred magnetic dipole of 2020, north positive.

    latitude_deg   ()  deg  geodetic; taken as geocentric, which is off by 0.2 deg at most
    longitude_deg  ()  deg  east positive

    The true magnetic equator, where the field lies level, strays up to some 10 deg from the dipole's.
    Source: sin(latitude) = r . m, m against the first-degree coefficients of IGRF-13.
    Checked by tests/channel/test_losses.py.
    """
    latitude_rad, longitude_rad = np.radians(latitude_deg), np.radians(longitude_deg)
    outward = np.array(
        [
            np.cos(latitude_rad) * np.cos(longitude_rad),
            np.cos(latitude_rad) * np.sin(longitude_rad),
            np.sin(latitude_rad),
        ]
    )
    return float(np.degrees(np.arcsin(-outward @ DIPOLE_NT / np.linalg.norm(DIPOLE_NT))))


def at_elevation(elevation_deg: ArrayLike, table_elevation_deg: np.ndarray, table: np.ndarray) -> np.ndarray:
    """A table at each elevation: linear between its rows, so that nothing jumps during a pass; clamped outside."""
    return np.interp(np.asarray(elevation_deg, dtype=float), table_elevation_deg, table)


def los_probability(elevation_deg: ArrayLike, tables: Environment) -> np.ndarray:
    """Probability of line of sight at each elevation, 0 to 1."""
    return at_elevation(elevation_deg, tables.elevation_deg, tables.los_probability)


def shadow_sigma_db(elevation_deg: ArrayLike, los: ArrayLike, tables: Environment) -> np.ndarray:
    """Standard deviation of the shadow fading, dB, at each elevation with (`los` true) or without line of sight."""
    with_los = at_elevation(elevation_deg, tables.elevation_deg, tables.los_sigma_db)
    without = at_elevation(elevation_deg, tables.elevation_deg, tables.nlos_sigma_db)
    return np.where(los, with_los, without)


def clutter_loss_db(elevation_deg: ArrayLike, los: ArrayLike, tables: Environment) -> np.ndarray:
    """Clutter loss, dB, at each elevation: 0 with line of sight (`los` true)."""
    return np.where(los, 0.0, at_elevation(elevation_deg, tables.elevation_deg, tables.clutter_loss_db))
