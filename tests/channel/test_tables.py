"""The tables of TR 38.811, against numbers typed independently of ours."""

import csv
import tomllib
from pathlib import Path

import numpy as np
import pytest

from twin.channel.tables import (
    CORRELATED,
    ENVIRONMENTS,
    IONOSPHERIC_FLUCTUATION_4GHZ_DB,
    N_RAYS,
    REFERENCE_ELEVATION_DEG,
    TROPOSPHERIC_SCINTILLATION_DB,
    ZENITH_GAS_DB,
    ZENITH_GAS_GHZ,
    environment,
    small_scale,
)
from twin.errors import ScenarioError

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "3gpp"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the reference numbers (../shared/reference/3gpp) are not beside this checkout"
)
CARRIER_HZ = {"S": 2e9, "Ka": 20e9}
MULTIPATH = {  # our name: the reference's
    "lg_delay_spread_mu": "lgDS_mu",
    "lg_delay_spread_sigma": "lgDS_sigma",
    "lg_azimuth_spread_mu": "lgASA_mu",
    "lg_azimuth_spread_sigma": "lgASA_sigma",
    "lg_zenith_spread_mu": "lgZSA_mu",
    "lg_zenith_spread_sigma": "lgZSA_sigma",
    "k_factor_mu_db": "K_mu_db",
    "k_factor_sigma_db": "K_sigma_db",
    "delay_scaling": "r_tau",
    "cross_polar_mu_db": "XPR_mu_db",
    "cross_polar_sigma_db": "XPR_sigma_db",
    "n_clusters": "n_clusters",
    "cluster_azimuth_spread_deg": "c_ASA_deg",
    "cluster_zenith_spread_deg": "c_ZSA_deg",
    "cluster_shadow_db": "per_cluster_shadow_db",
}


def rows(name: str) -> list[dict[str, str]]:
    lines = (REFERENCE / name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


every_environment = pytest.mark.parametrize("name", ENVIRONMENTS)
every_band = pytest.mark.parametrize("band", ["S", "Ka"])
both_sights = pytest.mark.parametrize("sight", ["LOS", "NLOS"])


@needs_reference
@every_band
@every_environment
def test_los_probability_equals_the_reference(name, band):
    tables = environment(name, CARRIER_HZ[band])
    expected = [(float(row["elevation_deg"]), float(row[name])) for row in rows("los_probability.csv")]
    assert list(zip(tables.elevation_deg, tables.los_probability)) == expected


@needs_reference
@every_band
@every_environment
def test_shadow_fading_and_clutter_equal_the_reference(name, band):
    tables = environment(name, CARRIER_HZ[band])
    expected = [
        tuple(float(row[column]) for column in ("elevation_deg", "los_sigma_db", "nlos_sigma_db", "nlos_clutter_db"))
        for row in rows("shadow_clutter.csv")
        if row["scenario"] == name and row["band"] == band
    ]
    ours = zip(tables.elevation_deg, tables.los_sigma_db, tables.nlos_sigma_db, tables.clutter_loss_db)
    assert list(ours) == expected


@needs_reference
@both_sights
@every_band
@every_environment
def test_multipath_tables_equal_the_reference(name, band, sight):
    """Every value of the tables of clause 6.7.2 but those of departure, which a satellite takes as zero."""
    tables = small_scale(name, CARRIER_HZ[band], los=sight == "LOS")
    found = [
        row
        for row in rows("large_scale_parameters.csv")
        if (row["scenario"], row["band"], row["los"]) == (name, band, sight)
    ]
    assert [float(row["elevation_deg"]) for row in found] == list(tables.elevation_deg)
    for ours, theirs in MULTIPATH.items():
        expected = [float(row[theirs]) for row in found]
        np.testing.assert_array_equal(getattr(tables, ours), expected, err_msg=ours)
    expected_s = [float(row["c_DS_ns"]) * 1e-9 for row in found]
    np.testing.assert_allclose(tables.cluster_delay_spread_s, expected_s, rtol=1e-15)
    assert {float(row["n_rays"]) for row in found} == {N_RAYS}


@needs_reference
@both_sights
@every_band
@every_environment
def test_correlations_equal_the_reference_and_rural_has_those_of_suburban(name, band, sight):
    tables = small_scale(name, CARRIER_HZ[band], los=sight == "LOS")
    known = "suburban" if name == "rural" else name
    found = [
        row for row in rows("correlations.csv") if (row["scenario"], row["band"], row["los"]) == (known, band, sight)
    ]
    assert len(found) == 9
    for i, row in enumerate(sorted(found, key=lambda row: float(row["elevation_deg"]))):
        assert [float(row[f"corrDist{one}"]) for one in CORRELATED] == list(tables.correlation_distance_m)
        for j, one in enumerate(CORRELATED):
            assert tables.cross_correlation[i, j, j] == 1.0
            for k in range(j):
                names = (f"corr{one}vs{CORRELATED[k]}", f"corr{CORRELATED[k]}vs{one}")
                expected = next(float(row[column]) for column in names if column in row)
                assert tables.cross_correlation[i, j, k] == tables.cross_correlation[i, k, j] == expected


@both_sights
@every_band
@every_environment
def test_cross_correlations_are_positive_definite(name, band, sight):
    eigenvalues = np.linalg.eigvalsh(small_scale(name, CARRIER_HZ[band], los=sight == "LOS").cross_correlation)
    assert eigenvalues.min() > 0.004  # line of sight comes near: 0.0049


@needs_reference
def test_zenith_gas_equals_the_reference():
    expected = [(float(row["freq_ghz"]), float(row["p676_10_db"])) for row in rows("zenith_gas_attenuation.csv")]
    assert list(zip(ZENITH_GAS_GHZ, ZENITH_GAS_DB)) == expected


@needs_reference
def test_scintillation_equals_the_reference():
    model = tomllib.loads((REFERENCE / "path_loss_model.toml").read_text(encoding="utf-8"))
    troposphere = model["tropospheric_scintillation"]
    np.testing.assert_array_equal(REFERENCE_ELEVATION_DEG, troposphere["elevation_deg"])
    np.testing.assert_array_equal(TROPOSPHERIC_SCINTILLATION_DB, troposphere["loss_db"])
    assert model["ionospheric_scintillation"]["p_fluc_4ghz_db"] == IONOSPHERIC_FLUCTUATION_4GHZ_DB


@pytest.mark.parametrize(("carrier_hz", "band"), [(2e9, "S"), (5.999e9, "S"), (6e9, "Ka"), (20e9, "Ka")])
def test_band_changes_at_6_ghz(carrier_hz, band):
    assert environment("suburban", carrier_hz).band == band


@pytest.mark.parametrize("tables_of", [environment, lambda name, carrier_hz: small_scale(name, carrier_hz, True)])
def test_unknown_environment_names_those_there_are(tables_of):
    with pytest.raises(ScenarioError, match="'lunar' is not known; there is: dense_urban, urban, suburban, rural"):
        tables_of("lunar", 20e9)


def test_tables_handed_out_cannot_be_changed():
    for tables in (environment("suburban", 20e9), small_scale("urban", 2e9, los=False)):
        for values in vars(tables).values():
            if isinstance(values, np.ndarray):
                with pytest.raises(ValueError, match="read-only"):
                    values[:] = 0


def test_tables_are_read_once():
    assert environment("urban", 20e9) is environment("urban", 30e9)
    assert small_scale("rural", 2e9, los=True) is small_scale("rural", 2.1e9, los=True)
    assert small_scale("rural", 2e9, los=True) is not small_scale("rural", 2e9, los=False)
