"""What surrounds a terminal, and the air above it: the tables of TR 38.811 by elevation and band.

Tables are kept at their reference elevations (10 to 90 deg); `twin/channel.py` reads between them. One environment
so far, suburban in both bands; another is one more entry in `_TABLES`. Checked by tests/test_environment.py.
"""

from dataclasses import dataclass

import numpy as np

from twin.errors import ScenarioError
from twin.units import GIGA

KA_BAND_FROM_HZ = 6.0 * GIGA  # TR 38.811 gives S and Ka only; the 3GPP limit of "below 6 GHz" divides them

REFERENCE_ELEVATION_DEG = np.arange(10.0, 91.0, 10.0)  # TR 38.811 clause 6.6.1

_LOS_PROBABILITY = {  # TR 38.811 table 6.6.1-1
    "suburban": (0.782, 0.869, 0.919, 0.929, 0.935, 0.940, 0.949, 0.952, 0.998),
}
_TABLES = {  # TR 38.811 table 6.6.2-3: sigma LOS, sigma NLOS, clutter loss (NLOS only), all dB
    ("suburban", "S"): (
        (1.79, 1.14, 1.14, 0.92, 1.42, 1.56, 0.85, 0.72, 0.72),
        (8.93, 9.08, 8.78, 10.25, 10.56, 10.74, 10.17, 11.52, 11.52),
        (19.52, 18.17, 18.42, 18.28, 18.63, 17.68, 16.50, 16.30, 16.30),
    ),
    ("suburban", "Ka"): (
        (1.9, 1.6, 1.9, 2.3, 2.7, 3.1, 3.0, 3.6, 0.4),
        (10.7, 10.0, 11.2, 11.6, 11.8, 10.8, 10.8, 10.8, 10.8),
        (29.5, 24.6, 21.9, 20.0, 18.7, 17.8, 17.2, 16.9, 16.8),
    ),
}

TROPOSPHERIC_SCINTILLATION_DB = np.array(  # TR 38.811 table 6.6.6.2.1-1: 20 GHz, by reference elevation
    [1.08, 0.48, 0.30, 0.22, 0.17, 0.13, 0.12, 0.12, 0.12]
)
IONOSPHERIC_FLUCTUATION_4GHZ_DB = 1.1  # TR 38.811 clause 6.6.6.1.4: peak to peak at 4 GHz

ZENITH_GAS_GHZ = np.arange(1.0, 101.0)
# fmt: off
ZENITH_GAS_DB = np.array([  # ITU-R P.676-10 annex 2 (TR 38.811 clause 6.6.4): 288.15 K, 1013.25 hPa dry, 7.5 g/m3
    0.0286, 0.0358, 0.0381, 0.0396, 0.0411, 0.0428, 0.0448, 0.0472, 0.05, 0.0533,  # from 1 GHz
    0.0573, 0.0621, 0.0681, 0.0755, 0.0852, 0.0982, 0.1166, 0.144, 0.1871, 0.2578,  # from 11 GHz
    0.3728, 0.5058, 0.5017, 0.4101, 0.3385, 0.2936, 0.2673, 0.2531, 0.247, 0.2467,  # from 21 GHz
    0.2505, 0.2578, 0.2679, 0.2807, 0.2961, 0.3142, 0.3353, 0.3595, 0.3874, 0.4197,  # from 31 GHz
    0.4573, 0.5014, 0.5535, 0.6163, 0.6929, 0.7885, 0.911, 1.0732, 1.2974, 1.626,  # from 41 GHz
    2.1493, 3.0997, 5.2771, 12.4507, 27.3536, 63.1806, 105.1663, 136.5424, 157.9134, 162.6656,  # from 51 GHz
    158.7371, 154.8087, 114.6128, 51.5011, 22.788, 10.3568, 5.6257, 3.3288, 2.3063, 1.7699,  # from 61 GHz
    1.4534, 1.2509, 1.114, 1.0177, 0.9479, 0.8966, 0.8583, 0.8297, 0.8084, 0.7929,  # from 71 GHz
    0.7819, 0.7746, 0.7704, 0.7687, 0.7692, 0.7716, 0.7756, 0.7811, 0.788, 0.7961,  # from 81 GHz
    0.8053, 0.8156, 0.8269, 0.8392, 0.8525, 0.8668, 0.882, 0.8983, 0.9156, 0.9342,  # from 91 GHz
])
# fmt: on


@dataclass(frozen=True, eq=False)
class Environment:
    """One environment in one band; every table is (9,), by `elevation_deg`.

    name, band        "suburban"; "S" or "Ka"
    elevation_deg     deg, 10 to 90
    los_probability   0 to 1
    los_sigma_db      dB, standard deviation of the shadow fading in line of sight
    nlos_sigma_db     dB, the same without line of sight
    clutter_loss_db   dB, added without line of sight only; positive is loss
    """

    name: str
    band: str
    elevation_deg: np.ndarray
    los_probability: np.ndarray
    los_sigma_db: np.ndarray
    nlos_sigma_db: np.ndarray
    clutter_loss_db: np.ndarray


ENVIRONMENTS = tuple(sorted(_LOS_PROBABILITY))


def environment(name: str, carrier_hz: float) -> Environment:
    """The tables of an environment for a carrier: Ka band from 6 GHz on, S band below.

    name         of the environment; "suburban"
    carrier_hz   ()  Hz   carrier frequency

    Raises ScenarioError for a name it does not have, naming those it has.
    Source: TR 38.811 tables 6.6.1-1 and 6.6.2-3. Checked by tests/test_environment.py.
    """
    if name not in _LOS_PROBABILITY:
        known = ", ".join(sorted(_LOS_PROBABILITY))
        raise ScenarioError(f"link.environment {name!r} is not known; there is: {known}")
    band = "Ka" if carrier_hz >= KA_BAND_FROM_HZ else "S"
    los_sigma, nlos_sigma, clutter = (np.array(row) for row in _TABLES[name, band])
    return Environment(
        name=name,
        band=band,
        elevation_deg=REFERENCE_ELEVATION_DEG.copy(),
        los_probability=np.array(_LOS_PROBABILITY[name]),
        los_sigma_db=los_sigma,
        nlos_sigma_db=nlos_sigma,
        clutter_loss_db=clutter,
    )
