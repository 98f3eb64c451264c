"""Rain on the way: what it takes per kilometre, ITU-R P.838-3, and along the slant path, ITU-R P.618-13 2.2.1.1."""

from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import ArrayLike

from twin.units import GIGA, KILO

EFFECTIVE_EARTH_RADIUS_M = 8.5e6  # P.618 step 2
FULL_FORMULA_FROM_LATITUDE_DEG = 36.0  # P.618 steps 7 and 10: nearer to the equator two more terms come in


class Rain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rain on the way: a scenario's [link.rain] table. It rains all pass, as hard as the percentage says."""

    rate_mm_h: Annotated[float, Meta(ge=0, le=400, description="rain rate exceeded for 0.01 % of a year, mm/h")]
    percent: Annotated[
        float, Meta(ge=0.001, le=5, description="the attenuation exceeded for this share of a year, %")
    ] = 0.1
    height_m: Annotated[
        float, Meta(gt=0, le=1e4, description="height of the rain above the terminal (ITU-R P.839 maps it), m")
    ] = 3000.0
    latitude_deg: Annotated[
        float, Meta(ge=-90, le=90, description="the terminal's latitude, deg; matters within 36 deg of the equator")
    ] = 45.0
    tilt_deg: Annotated[
        float,
        Meta(
            ge=-90, le=90, description="polarisation over the horizontal, deg: 0 horizontal, 90 vertical, 45 circular"
        ),
    ] = 45.0


class Curve(NamedTuple):
    """A regression of P.838-3 over x, log10 of the frequency in GHz: bells (height, centre, width) on a line."""

    bells: tuple[tuple[float, float, float], ...]
    slope: float
    offset: float

    def at(self, x: float) -> float:
        return sum(a * np.exp(-(((x - b) / c) ** 2)) for a, b, c in self.bells) + self.slope * x + self.offset


# P.838-3 tables 1 to 4: log10 of k and alpha, for horizontal and vertical polarisation
LG_K_HORIZONTAL = Curve(
    (
        (-5.33980, -0.10008, 1.13098),
        (-0.35351, 1.26970, 0.45400),
        (-0.23789, 0.86036, 0.15354),
        (-0.94158, 0.64552, 0.16817),
    ),
    slope=-0.18961,
    offset=0.71147,
)
LG_K_VERTICAL = Curve(
    (
        (-3.80595, 0.56934, 0.81061),
        (-3.44965, -0.22911, 0.51059),
        (-0.39902, 0.73042, 0.11899),
        (0.50167, 1.07319, 0.27195),
    ),
    slope=-0.16398,
    offset=0.63297,
)
ALPHA_HORIZONTAL = Curve(
    (
        (-0.14318, 1.82442, -0.55187),
        (0.29591, 0.77564, 0.19822),
        (0.32177, 0.63773, 0.13164),
        (-5.37610, -0.96230, 1.47828),
        (16.1721, -3.29980, 3.43990),
    ),
    slope=0.67849,
    offset=-1.95537,
)
ALPHA_VERTICAL = Curve(
    (
        (-0.07771, 2.33840, -0.76284),
        (0.56727, 0.95545, 0.54039),
        (-0.20238, 1.14520, 0.26809),
        (-48.2991, 0.791669, 0.116226),
        (48.5833, 0.791459, 0.116479),
    ),
    slope=-0.053739,
    offset=0.83433,
)


def rain_coefficients(elevation_deg: ArrayLike, carrier_hz: float, tilt_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """k and alpha of the attenuation k R^alpha in dB/km, R in mm/h.

    elevation_deg  any shape  deg
    carrier_hz     ()         Hz   up to 1000 GHz; below 1 GHz, where next to nothing is lost, those of 1 GHz
    tilt_deg       ()         deg  of the polarisation over the horizontal; 45 for a circular one

    Returns two of the shape of elevation_deg. Source: ITU-R P.838-3 eq. (2) to (5).
    Checked by tests/channel/test_rain.py against itur.
    """
    x = np.log10(max(carrier_hz / GIGA, 1.0))
    k_h, k_v = 10.0 ** LG_K_HORIZONTAL.at(x), 10.0 ** LG_K_VERTICAL.at(x)
    alpha_h, alpha_v = ALPHA_HORIZONTAL.at(x), ALPHA_VERTICAL.at(x)
    leaning = np.cos(np.deg2rad(elevation_deg)) ** 2 * np.cos(2.0 * np.deg2rad(tilt_deg))
    k = (k_h + k_v + (k_h - k_v) * leaning) / 2.0
    return k, (k_h * alpha_h + k_v * alpha_v + (k_h * alpha_h - k_v * alpha_v) * leaning) / (2.0 * k)


def rain_loss_db(elevation_deg: ArrayLike, carrier_hz: float, rain: Rain) -> np.ndarray:
    """Attenuation by rain that is exceeded for rain.percent of a year.

    elevation_deg  any shape  deg  below the horizon that of the horizon
    carrier_hz     ()         Hz   P.618 vouches for it up to 55 GHz

    Returns the shape of elevation_deg, dB, positive.
    Source: ITU-R P.618-13 2.2.1.1, steps 2 to 10, lengths in km and frequency in GHz as there.
    Checked by tests/channel/test_rain.py against itur.
    """
    elevations_deg = np.clip(np.asarray(elevation_deg, dtype=float), 0.0, 90.0)
    if rain.rate_mm_h == 0.0:
        return np.zeros_like(elevations_deg)
    sine, cosine = np.sin(np.deg2rad(elevations_deg)), np.cos(np.deg2rad(elevations_deg))
    height_km, frequency_ghz = rain.height_m / KILO, carrier_hz / GIGA
    k, alpha = rain_coefficients(elevations_deg, carrier_hz, rain.tilt_deg)
    specific_db_km = k * rain.rate_mm_h**alpha

    curved = np.sqrt(sine**2 + 2.0 * rain.height_m / EFFECTIVE_EARTH_RADIUS_M)  # low rays follow the round Earth
    slant_km = height_km * np.where(elevations_deg < 5.0, 2.0 / (curved + sine), 1.0 / np.maximum(sine, 1e-9))
    ground_km = slant_km * cosine
    reduction = 1.0 / (
        1.0 + 0.78 * np.sqrt(ground_km * specific_db_km / frequency_ghz) - 0.38 * (1.0 - np.exp(-2.0 * ground_km))
    )
    through_side = np.degrees(np.arctan2(height_km, ground_km * reduction)) > elevations_deg
    through_top_km = height_km / np.maximum(sine, 1e-9)  # the sine is 0 only where the ray leaves the rain sideways
    in_rain_km = np.where(through_side, ground_km * reduction / np.maximum(cosine, 1e-9), through_top_km)
    to_equator_deg = max(FULL_FORMULA_FROM_LATITUDE_DEG - abs(rain.latitude_deg), 0.0)
    adjustment = 31.0 * (1.0 - np.exp(-elevations_deg / (1.0 + to_equator_deg)))
    adjustment = adjustment * np.sqrt(in_rain_km * specific_db_km) / frequency_ghz**2 - 0.45
    rare_db = specific_db_km * in_rain_km / (1.0 + np.sqrt(sine) * adjustment)  # exceeded for 0.01 %
    rare_db = np.maximum(rare_db, np.finfo(float).tiny)  # a drizzle may underflow, and has a logarithm below

    beta = np.zeros_like(elevations_deg)
    if rain.percent < 1.0 and to_equator_deg > 0.0:
        beta = 0.005 * to_equator_deg + np.where(elevations_deg >= 25.0, 0.0, 1.8 - 4.25 * sine)
    exponent = 0.655 + 0.033 * np.log(rain.percent) - 0.045 * np.log(rare_db) - beta * (1.0 - rain.percent) * sine
    return rare_db * (rain.percent / 0.01) ** -exponent
