"""The tables of TR 38.811, against numbers typed independently of ours."""

import csv
import tomllib
from pathlib import Path

import numpy as np
import pytest

from twin.channel.tables import (
    IONOSPHERIC_FLUCTUATION_4GHZ_DB,
    REFERENCE_ELEVATION_DEG,
    TROPOSPHERIC_SCINTILLATION_DB,
    ZENITH_GAS_DB,
    ZENITH_GAS_GHZ,
    environment,
)
from twin.errors import ScenarioError

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "3gpp"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the reference numbers (../shared/reference/3gpp) are not beside this checkout"
)
CARRIER_HZ = {"S": 2e9, "Ka": 20e9}


def rows(name: str) -> list[dict[str, str]]:
    lines = (REFERENCE / name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


@needs_reference
@pytest.mark.parametrize("band", ["S", "Ka"])
def test_suburban_los_probability_equals_the_reference(band):
    tables = environment("suburban", CARRIER_HZ[band])
    expected = [(float(row["elevation_deg"]), float(row["suburban"])) for row in rows("los_probability.csv")]
    assert list(zip(tables.elevation_deg, tables.los_probability)) == expected


@needs_reference
@pytest.mark.parametrize("band", ["S", "Ka"])
def test_suburban_shadow_fading_and_clutter_equal_the_reference(band):
    tables = environment("suburban", CARRIER_HZ[band])
    expected = [
        tuple(float(row[name]) for name in ("elevation_deg", "los_sigma_db", "nlos_sigma_db", "nlos_clutter_db"))
        for row in rows("shadow_clutter.csv")
        if row["scenario"] == "suburban" and row["band"] == band
    ]
    ours = zip(tables.elevation_deg, tables.los_sigma_db, tables.nlos_sigma_db, tables.clutter_loss_db)
    assert list(ours) == expected


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


def test_unknown_environment_names_those_there_are():
    with pytest.raises(ScenarioError, match=r"'lunar' is not known; there is: suburban"):
        environment("lunar", 20e9)


def test_tables_handed_out_are_copies():
    environment("suburban", 20e9).los_probability[:] = 0.0
    environment("suburban", 20e9).elevation_deg[:] = 0.0
    assert environment("suburban", 20e9).los_probability[0] == 0.782
    assert environment("suburban", 20e9).elevation_deg[0] == 10.0
