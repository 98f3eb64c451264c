"""What surrounds a terminal, and the air above it: the tables of TR 38.811 by elevation and band.

The numbers lie in twin/channel/data/, one CSV file a group of tables, whose comment lines name the clause and the rows
that were found in one source only; a file is read when a number of it is first asked for. Tables are kept at their
reference elevations (10 to 90 deg); twin/channel/losses.py reads between them. Checked by tests/channel/test_tables.py.
"""

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from twin.errors import ScenarioError
from twin.units import GIGA

DATA = Path(__file__).parent / "data"
KA_BAND_FROM_HZ = 6.0 * GIGA  # TR 38.811 gives S and Ka only; the 3GPP limit of "below 6 GHz" divides them
ENVIRONMENTS = ("dense_urban", "urban", "suburban", "rural")
REFERENCE_ELEVATION_DEG = np.arange(10.0, 91.0, 10.0)  # TR 38.811 clause 6.6.1
N_RAYS = 20  # of a cluster, in every table of TR 38.811 clause 6.7.2

CORRELATED = ("SF", "K", "DS", "ASA", "ZSA")  # shadow fading, K factor, delay spread, spreads of arrival: in this order

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
    """One environment in one band; every table is (9,), by `elevation_deg`, and read-only.

    name, band        one of ENVIRONMENTS; "S" or "Ka"
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


@dataclass(frozen=True, eq=False)
class SmallScale:
    """Multipath of one environment in one band, with or without line of sight: (9,) by `elevation_deg`, read-only.

    Angles are of arrival: those of departure have no spread (TR 38.811 6.7.2, note 8). mu and sigma are the mean and
    standard deviation of a normal law; lg_ is the decimal logarithm of s or deg. Every cluster has N_RAYS rays.

    elevation_deg                        deg, 10 to 90
    lg_delay_spread_mu, _sigma           log10 s
    lg_azimuth_spread_mu, _sigma         log10 deg
    lg_zenith_spread_mu, _sigma          log10 deg
    k_factor_mu_db, _sigma_db            dB; 0 without line of sight, where there is none
    delay_scaling                        r_tau
    cross_polar_mu_db, _sigma_db         dB, cross-polarisation power ratio
    n_clusters                           int
    cluster_delay_spread_s               s, c_DS
    cluster_azimuth_spread_deg           deg, c_ASA
    cluster_zenith_spread_deg            deg, c_ZSA
    cluster_shadow_db                    dB, standard deviation of each cluster's power
    correlation_distance_m       (5,)    m, of CORRELATED; K's without line of sight (1 m) stands for nothing
    cross_correlation       (9, 5, 5)    of CORRELATED; shadow fading counts as a gain here (TR 38.901 7.5, step 4)
    """

    elevation_deg: np.ndarray
    lg_delay_spread_mu: np.ndarray
    lg_delay_spread_sigma: np.ndarray
    lg_azimuth_spread_mu: np.ndarray
    lg_azimuth_spread_sigma: np.ndarray
    lg_zenith_spread_mu: np.ndarray
    lg_zenith_spread_sigma: np.ndarray
    k_factor_mu_db: np.ndarray
    k_factor_sigma_db: np.ndarray
    delay_scaling: np.ndarray
    cross_polar_mu_db: np.ndarray
    cross_polar_sigma_db: np.ndarray
    n_clusters: np.ndarray
    cluster_delay_spread_s: np.ndarray
    cluster_azimuth_spread_deg: np.ndarray
    cluster_zenith_spread_deg: np.ndarray
    cluster_shadow_db: np.ndarray
    correlation_distance_m: np.ndarray
    cross_correlation: np.ndarray


def environment(name: str, carrier_hz: float) -> Environment:
    """The tables of an environment for a carrier: Ka band from 6 GHz on, S band below.

    name         one of ENVIRONMENTS
    carrier_hz   ()  Hz   carrier frequency

    Raises ScenarioError for a name it does not have, naming those it has.
    Source: TR 38.811 tables 6.6.1-1 and 6.6.2-1 to -3. Checked by tests/channel/test_tables.py.
    """
    return _environment(_known(name), _band(carrier_hz))


def small_scale(name: str, carrier_hz: float, los: bool) -> SmallScale:
    """The multipath of an environment for a carrier, with (`los` true) or without line of sight.

    name         one of ENVIRONMENTS
    carrier_hz   ()  Hz   carrier frequency

    Correlation distances and cross-correlations of rural are those of suburban: the sources had none of its own.
    Raises ScenarioError for a name it does not have, naming those it has.
    Source: TR 38.811 tables 6.7.2-1a to -8b. Checked by tests/channel/test_tables.py.
    """
    return _small_scale(_known(name), _band(carrier_hz), "LOS" if los else "NLOS")


def _known(name: str) -> str:
    if name not in ENVIRONMENTS:
        raise ScenarioError(f"link.environment {name!r} is not known; there is: {', '.join(ENVIRONMENTS)}")
    return name


def _band(carrier_hz: float) -> str:
    return "Ka" if carrier_hz >= KA_BAND_FROM_HZ else "S"


@lru_cache
def _environment(name: str, band: str) -> Environment:
    columns = _columns("shadow_clutter.csv", (name, band))
    probability = _columns("los_probability.csv", ())
    return Environment(
        name=name,
        band=band,
        elevation_deg=columns["elevation_deg"],
        los_probability=probability[name],
        los_sigma_db=columns["los_sigma_db"],
        nlos_sigma_db=columns["nlos_sigma_db"],
        clutter_loss_db=columns["clutter_loss_db"],
    )


@lru_cache
def _small_scale(name: str, band: str, sight: str) -> SmallScale:
    columns = _columns("small_scale.csv", (name, sight, band))
    related = _columns("correlations.csv", ("suburban" if name == "rural" else name, sight, band))
    cross_correlation = np.ones((REFERENCE_ELEVATION_DEG.size, len(CORRELATED), len(CORRELATED)))
    for i, one in enumerate(CORRELATED):
        for j in range(i + 1, len(CORRELATED)):
            cross_correlation[:, i, j] = cross_correlation[:, j, i] = related[f"{one}_{CORRELATED[j]}"]
    columns |= {
        "n_clusters": _fixed(columns["n_clusters"].astype(np.int64)),
        "correlation_distance_m": _fixed(np.array([related[f"d_{one}"][0] for one in CORRELATED])),
        "cross_correlation": _fixed(cross_correlation),
    }
    return SmallScale(**columns)


def _columns(name: str, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns of the rows of a data file that begin with these keys, by their names, read-only."""
    header, *rows = _rows(name)
    chosen = np.array([row[len(keys) :] for row in rows if row[: len(keys)] == keys], dtype=float)
    return {column: _fixed(values) for column, values in zip(header[len(keys) :], chosen.T.copy())}


@lru_cache
def _rows(name: str) -> tuple[tuple[str, ...], ...]:
    """Lines of a data file, the first being its header."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return tuple(tuple(row) for row in csv.reader(line for line in file if not line.startswith("#")))


def _fixed(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values
