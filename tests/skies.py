"""Made-up skies for tests: satellites on circles, without element sets behind them."""

from datetime import UTC, datetime

import numpy as np

from twin.fitting import nodes
from twin.orbit import Ephemeris
from twin.tle import Satellite
from twin.units import EARTH_MU_M3_S2


def circular_sky(radius_m, inclination_deg, seconds, turn_rad_s=0.0):
    """One satellite on a circle about a sphere that turns at turn_rad_s, overhead at seconds / 2 where inclined 0."""
    rate_rad_s = np.sqrt(EARTH_MU_M3_S2 / radius_m**3)
    segment_s = 100.0
    n_segments = int(seconds / segment_s)
    t_s = (np.arange(n_segments)[:, None] + 0.5 * (1.0 + nodes(8))) * segment_s
    angle_rad, inclination_rad = rate_rad_s * (t_s - seconds / 2), np.radians(inclination_deg)
    x, y = np.cos(angle_rad), np.sin(angle_rad) * np.cos(inclination_rad)
    turned_rad = turn_rad_s * (t_s - seconds / 2)
    cosine, sine = np.cos(turned_rad), np.sin(turned_rad)
    position_m = radius_m * np.stack(
        [cosine * x + sine * y, cosine * y - sine * x, np.sin(angle_rad) * np.sin(inclination_rad)], axis=1
    )
    coefficients_m = (position_m @ np.linalg.inv(np.vander(nodes(8), increasing=True)).T)[..., None]
    circle = Satellite("CIRCLE", 1, 2_459_632.5, 0.0, 15.0, 0.0, 53.0, 0.0, 0.0, 0.0)
    return Ephemeris(
        (circle,), datetime(2022, 2, 22, tzinfo=UTC), seconds, segment_s, coefficients_m, np.zeros(1, "u1"), np.zeros(1)
    )


def still_sky(position_m):
    """Satellites that stand where they are, (n_satellites, 3) m, ECEF, for a minute; NaN for one that does not fly."""
    position_m = np.asarray(position_m, dtype=float).reshape(-1, 3)
    coefficients_m = np.zeros((1, 3, 8, len(position_m)))
    coefficients_m[0, :, 0] = position_m.T
    satellites = tuple(
        Satellite(f"S{i}", i + 1, 2_459_632.5, 0.0, 15.0, 0.0, 53.0, 0.0, 0.0, 0.0) for i in range(len(position_m))
    )
    lost = np.isnan(position_m).any(axis=1).astype("u1")
    coefficients_m[..., lost > 0] = np.nan
    zero = np.zeros(len(position_m))
    return Ephemeris(satellites, datetime(2022, 2, 22, tzinfo=UTC), 60.0, 60.0, coefficients_m, lost, zero)
