"""Physical constants with their sources, and the conversions everybody needs."""

from datetime import UTC, datetime

import numpy as np

SPEED_OF_LIGHT_M_S = 299_792_458.0  # SI, exact
BOLTZMANN_J_K = 1.380_649e-23  # SI, exact
EARTH_MU_M3_S2 = 3.986_004_418e14  # WGS84, NIMA TR8350.2
EARTH_ROTATION_RAD_S = 7.292_115_146_706_98e-5  # Earth rotation rate about its axis; IERS Conventions 2010, table 1.1
WGS84_RADIUS_M = 6_378_137.0  # NIMA TR8350.2: equatorial radius
WGS84_FLATTENING = 1.0 / 298.257_223_563  # NIMA TR8350.2
SPHERE_RADIUS_M = 6_371_000.0  # TR 38.811 eq. 6.6-3: for reproducing its tables, never for TLE runs
SECONDS_PER_DAY = 86_400.0
MINUTES_PER_DAY = 1_440.0
SECONDS_PER_MINUTE = 60.0
UNIX_EPOCH_JD = 2_440_587.5  # Julian date of 1970-01-01T00:00Z
SGP4_EPOCH_JD = 2_433_281.5  # of 1949-12-31T00:00Z, from which sgp4's initialisation counts its days
KILO = 1e3
MEGA = 1e6
GIGA = 1e9
US_PER_S = 1e6
NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
NS_PER_US = 1_000


def to_db(linear):
    """Ten times the decimal logarithm of a power ratio, any shape; zero gives minus infinity."""
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(linear)


def from_db(db):
    """The power ratio of a level in dB, any shape."""
    return 10.0 ** (np.asarray(db) / 10.0)


def utc(moment: str | datetime) -> datetime:
    """An instant, given as a datetime or as ISO 8601 text, in UTC; ValueError for one that does not say its offset."""
    stated = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    if stated.tzinfo is None:
        raise ValueError(f"an instant must say its offset from UTC, as in 2022-02-22T13:00:00Z, got {moment}")
    return stated.astimezone(UTC)
