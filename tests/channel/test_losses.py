"""Losses between the tables' rows, in every band and environment, and the package itur where it is installed."""

import numpy as np
import pytest

from twin.channel.losses import (
    clutter_loss_db,
    dipole_latitude_deg,
    free_space_loss_db,
    gas_loss_db,
    los_probability,
    scintillation_loss_db,
    shadow_sigma_db,
    zenith_gas_db,
)
from twin.channel.tables import ENVIRONMENTS, environment

HUNDREDTH_OF_A_DB = 0.01
DRY_HPA, VAPOUR_G_M3, TEMPERATURE_K = 1013.25, 7.5, 288.15  # TR 38.811 clause 6.6.4
beyond_the_zenith = pytest.mark.filterwarnings("ignore:The approximated method:RuntimeWarning")  # itur's, at 90 deg
VAPOUR_HPA = VAPOUR_G_M3 * TEMPERATURE_K / 216.7  # ITU-R P.676 annex 2


@pytest.mark.parametrize("carrier_hz", [2e9, 20e9])
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_is_read_at_between_and_beyond_its_rows(name, carrier_hz):
    tables = environment(name, carrier_hz)
    elevation_deg = np.concatenate([[-90.0, 0.0], tables.elevation_deg, [35.0]])
    for read, of_row in (
        (los_probability(elevation_deg, tables), tables.los_probability),
        (shadow_sigma_db(elevation_deg, True, tables), tables.los_sigma_db),
        (shadow_sigma_db(elevation_deg, False, tables), tables.nlos_sigma_db),
        (clutter_loss_db(elevation_deg, False, tables), tables.clutter_loss_db),
    ):
        np.testing.assert_array_equal(read[:2], of_row[0])
        np.testing.assert_array_equal(read[2:-1], of_row)
        assert read[-1] == pytest.approx((of_row[2] + of_row[3]) / 2)
    np.testing.assert_array_equal(clutter_loss_db(elevation_deg, True, tables), 0.0)


def test_gas_is_refused_where_its_table_ends():
    assert zenith_gas_db(0.5e9) == zenith_gas_db(1e9)
    for carrier_hz in (0.0, -1e9, 101e9, np.nan):
        with pytest.raises(ValueError, match="carrier_hz must be above 0 and at most 100 GHz"):
            gas_loss_db(30.0, carrier_hz)


def test_free_space_names_the_range_that_cannot_be():
    with pytest.raises(ValueError, match=r"slant_range_m must be greater than 0 m, got -1.0 at index \(1,\)"):
        free_space_loss_db([1e6, -1.0], 2e9)


def test_ionosphere_scintillates_everywhere_unless_told_the_magnetic_latitude():
    everywhere_db = scintillation_loss_db([10.0, 90.0], 2e9)
    assert everywhere_db.min() > 2.1
    np.testing.assert_array_equal(scintillation_loss_db([10.0, 90.0], 2e9, magnetic_latitude_deg=-20.0), everywhere_db)
    np.testing.assert_array_equal(scintillation_loss_db([10.0, 90.0], 2e9, magnetic_latitude_deg=20.1), 0.0)
    np.testing.assert_array_equal(
        scintillation_loss_db([10.0, 90.0], 20e9, magnetic_latitude_deg=60.0), scintillation_loss_db([10.0, 90.0], 20e9)
    )


def test_dipole_latitude_has_the_published_pole():
    """IGRF-13: the geomagnetic pole of 2020 stands at 80.65 N geodetic, 80.59 N geocentric, 72.68 W."""
    assert dipole_latitude_deg(80.59, -72.68) > 89.99
    assert dipole_latitude_deg(-80.59, 107.32) < -89.99
    assert dipole_latitude_deg(0.0, -72.68) == pytest.approx(90.0 - 80.59, abs=0.01)
    assert dipole_latitude_deg(0.0, 17.32) == pytest.approx(0.0, abs=0.01)


def itur_zenith_gas_db(carriers_ghz, version, pressure_hpa):
    itu676 = pytest.importorskip("itur.models.itu676", reason="the package itur is not installed")
    before = itu676.get_version()
    itu676.change_version(version)
    try:
        return np.array(
            [
                itu676.gaseous_attenuation_slant_path(f, 90.0, VAPOUR_G_M3, pressure_hpa, TEMPERATURE_K).value
                for f in carriers_ghz
            ]
        ).ravel()
    finally:
        itu676.change_version(before)


@beyond_the_zenith
def test_zenith_gas_equals_that_of_itur_for_the_same_air():
    """P.676-10 at 1013.25 hPa of dry air plus 9.97 hPa of vapour: TR 38.811's air. In the lines, where a link loses
    50 dB and more, agreement is relative: itur adds the vapour once more for the equivalent height."""
    carriers_ghz = np.arange(1.0, 101.0)
    ours = np.array([zenith_gas_db(f * 1e9) for f in carriers_ghz])
    theirs = itur_zenith_gas_db(carriers_ghz, 10, DRY_HPA + VAPOUR_HPA)
    outside_the_oxygen_lines = ours < 2.0
    assert outside_the_oxygen_lines[carriers_ghz <= 50.0].all()
    np.testing.assert_allclose(
        ours[outside_the_oxygen_lines], theirs[outside_the_oxygen_lines], rtol=0, atol=HUNDREDTH_OF_A_DB
    )
    np.testing.assert_allclose(ours, theirs, rtol=0.005)


@beyond_the_zenith
@pytest.mark.parametrize(("version", "most_db"), [(10, 0.012), (11, 0.025), (12, 0.035)])
def test_zenith_gas_of_other_versions_and_total_pressure_stays_near(version, most_db):
    """What a change of P.676, or reading 1013.25 hPa as the total pressure, would change at the carriers in use."""
    carriers_ghz = np.array([2.0, 4.0, 12.0, 18.0, 20.0, 22.0, 28.0, 30.0, 40.0])
    ours = np.array([zenith_gas_db(f * 1e9) for f in carriers_ghz])
    assert np.abs(ours - itur_zenith_gas_db(carriers_ghz, version, DRY_HPA)).max() < most_db
