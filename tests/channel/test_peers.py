"""The channel beside other people's: OpenNTN's path losses, tables and profiles, and itur's loss to gases.

Neither is needed to run the twin: where one is not installed its tests are skipped, and say how to get it.
"""

import importlib
import json
import warnings
from importlib.resources import files

import numpy as np
import pytest

from twin.channel import Link, path_gain
from twin.channel.losses import (
    clutter_loss_db,
    free_space_loss_db,
    gas_loss_db,
    los_probability,
    scintillation_loss_db,
    shadow_sigma_db,
)
from twin.channel.profiles import PROFILES
from twin.channel.tables import REFERENCE_ELEVATION_DEG, environment, small_scale
from twin.units import GIGA, to_db

A_HUNDREDTH_DB = 0.01
HOW_TO_GET = "is not installed: pip install 'ntn-twin[bench]'"
MODELS = {"dense_urban": "DenseUrban", "urban": "Urban", "suburban": "SubUrban"}  # OpenNTN has no rural
CARRIERS_HZ = (2.0 * GIGA, 3.5 * GIGA, 20.0 * GIGA, 30.0 * GIGA)
HEIGHT_M = 600e3
SIGHT = {True: "LOS", False: "NLOS"}


@pytest.fixture(scope="module")
def openntn():
    return pytest.importorskip("openntn", reason=f"openntn {HOW_TO_GET}", exc_type=ImportError)


@pytest.fixture(scope="module")
def gases():
    """ITU-R P.676-10, annex 2, as itur has it: the recommendation that TR 38.811 refers to."""
    pytest.importorskip("itur", reason=f"itur {HOW_TO_GET}", exc_type=ImportError)
    recommendation = importlib.import_module("itur.models.itu676")
    newest = recommendation.get_version()
    recommendation.change_version(10)
    yield recommendation
    recommendation.change_version(newest)


def scenario(openntn, name, carrier_hz, elevation_deg, los):
    """OpenNTN's scenario of one link under a satellite, in double precision, at the magnetic equator."""
    torch = importlib.import_module("torch")
    antennas = [openntn.Antenna("single", "V", "omni", carrier_hz, precision="double") for _ in range(2)]
    model = getattr(openntn, f"{MODELS[name]}Scenario")(
        carrier_hz, *antennas, "downlink", float(elevation_deg), precision="double"
    )
    nothing = torch.zeros(1, 1, 3, dtype=torch.float64)
    terminal, satellite = nothing.clone(), nothing.clone()
    terminal[..., 2], satellite[..., 2] = 1.5, HEIGHT_M
    satellite[..., 0] = -HEIGHT_M / np.tan(np.radians(elevation_deg))
    outdoors = torch.zeros(1, 1, dtype=torch.bool)
    model.set_topology(terminal, satellite, nothing, nothing, nothing, outdoors, los=los, latitude=0.0)
    return model


def table(openntn, name, carrier_hz, los):
    """OpenNTN's parameters of an environment, each (9,) by reference elevation."""
    band = "Ka" if carrier_hz > 6.0 * GIGA else "S"
    stem = {"dense_urban": "Dense_Urban", "urban": "Urban", "suburban": "Sub_Urban"}[name]
    read = parameters(openntn, f"{stem}_{SIGHT[los]}_{band}_band_DL.json")
    names = {key.rpartition("_")[0] for key in read}
    return {key: np.array([read[f"{key}_{angle:.0f}"] for angle in REFERENCE_ELEVATION_DEG]) for key in names}


def parameters(openntn, file):
    return json.loads((files(openntn) / "models" / file).read_text(encoding="utf-8"))


# ---- losses


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("carrier_hz", CARRIERS_HZ)
def test_every_term_of_the_path_loss_is_openntns(openntn, name, carrier_hz):
    tables = environment(name, carrier_hz)
    for elevation_deg in (10.0, 30.0, 50.0, 90.0):
        for los in (True, False):
            theirs = scenario(openntn, name, carrier_hz, elevation_deg, los)
            slant_range_m = theirs.distance_3d.item()
            free_space_db = theirs.free_space_pathloss.item()
            compared = {
                "free space": (free_space_loss_db(slant_range_m, carrier_hz), free_space_db),
                "clutter": (clutter_loss_db(elevation_deg, los, tables), theirs.basic_pathloss.item() - free_space_db),
                "gas": (gas_loss_db(elevation_deg, carrier_hz), theirs.gas_pathloss.item()),
                "scintillation": (
                    scintillation_loss_db(elevation_deg, carrier_hz),
                    theirs.scintillation_pathloss.item(),
                ),
            }
            for term, (ours_db, theirs_db) in compared.items():
                assert ours_db == pytest.approx(theirs_db, abs=A_HUNDREDTH_DB), (term, elevation_deg, los)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("carrier_hz", [2.0 * GIGA, 20.0 * GIGA])
def test_path_gain_is_openntns_path_loss_for_the_same_options(openntn, name, carrier_hz):
    link = Link(carrier_hz=carrier_hz, environment=name, atmosphere="3gpp", element_gain_dbi=0.0)
    for elevation_deg in (20.0, 70.0):
        for los in (True, False):
            theirs = scenario(openntn, name, carrier_hz, elevation_deg, los)
            loss_db = theirs.basic_pathloss + theirs.gas_pathloss + theirs.scintillation_pathloss
            gain = path_gain(link, theirs.distance_3d.item(), elevation_deg, los, 0.0)
            assert -to_db(gain) == pytest.approx(loss_db.item(), abs=A_HUNDREDTH_DB), (elevation_deg, los)


@pytest.mark.parametrize("carrier_ghz", [2, 4, 12, 20, 30, 40])
def test_loss_to_gases_is_iturs_annex_2_of_p_676_10(gases, carrier_ghz):
    temperature_k, vapour_g_m3 = 288.15, 7.5
    vapour_hpa = vapour_g_m3 * temperature_k / 216.7  # itur takes the pressure of dry air and vapour together
    for elevation_deg in (5.0, 10.0, 30.0, 90.0):
        with warnings.catch_warnings(action="ignore"):  # "only recommended for 5 to 90 degrees", inside of them as well
            loss = gases.gaseous_attenuation_slant_path(
                carrier_ghz, elevation_deg, vapour_g_m3, 1013.25 + vapour_hpa, temperature_k, mode="approx"
            )
        ours_db = gas_loss_db(elevation_deg, carrier_ghz * GIGA)
        assert ours_db == pytest.approx(loss.value, abs=A_HUNDREDTH_DB), elevation_deg


# ---- tables


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("carrier_hz", [2.0 * GIGA, 20.0 * GIGA])
def test_line_of_sight_shadow_fading_and_clutter_are_openntns(openntn, name, carrier_hz):
    ours, elevation_deg = environment(name, carrier_hz), REFERENCE_ELEVATION_DEG
    seen, hidden = (table(openntn, name, carrier_hz, los) for los in (True, False))
    np.testing.assert_array_equal(los_probability(elevation_deg, ours), seen["LoS_p"])
    np.testing.assert_array_equal(shadow_sigma_db(elevation_deg, True, ours), seen["sigmaSF"])
    np.testing.assert_array_equal(shadow_sigma_db(elevation_deg, False, ours), hidden["sigmaSF"])
    np.testing.assert_array_equal(clutter_loss_db(elevation_deg, False, ours), hidden["CL"])


SAME = {  # of SmallScale: of OpenNTN's files
    "lg_delay_spread_mu": "muDS",
    "lg_delay_spread_sigma": "sigmaDS",
    "lg_azimuth_spread_mu": "muASA",
    "lg_azimuth_spread_sigma": "sigmaASA",
    "lg_zenith_spread_mu": "muZSA",
    "lg_zenith_spread_sigma": "sigmaZSA",
    "k_factor_mu_db": "muK",
    "k_factor_sigma_db": "sigmaK",
    "delay_scaling": "rTau",
    "cross_polar_mu_db": "muXPR",
    "cross_polar_sigma_db": "sigmaXPR",
    "n_clusters": "numClusters",
    "cluster_azimuth_spread_deg": "cASA",
    "cluster_zenith_spread_deg": "cZSA",
    "cluster_shadow_db": "zeta",
}
CORRELATIONS = {  # by place in tables.CORRELATED: SF, K, DS, ASA, ZSA
    (0, 1): "SFvsK",
    (0, 2): "DSvsSF",
    (0, 3): "ASAvsSF",
    (0, 4): "ZSAvsSF",
    (1, 2): "DSvsK",
    (1, 3): "ASAvsK",
    (1, 4): "ZSAvsK",
    (2, 3): "ASAvsDS",
    (2, 4): "ZSAvsDS",
    (3, 4): "ZSAvsASA",
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("carrier_hz", [2.0 * GIGA, 20.0 * GIGA])
@pytest.mark.parametrize("los", [True, False])
def test_multipath_tables_are_openntns(openntn, name, carrier_hz, los):
    ours, theirs = small_scale(name, carrier_hz, los), table(openntn, name, carrier_hz, los)
    for mine, yours in SAME.items():
        np.testing.assert_array_equal(getattr(ours, mine), theirs[yours], err_msg=mine)
    np.testing.assert_allclose(ours.cluster_delay_spread_s, theirs["cDS"] * 1e-9, rtol=1e-12)
    for (i, j), yours in CORRELATIONS.items():
        np.testing.assert_array_equal(ours.cross_correlation[:, i, j], theirs[f"corr{yours}"], err_msg=yours)
    distances_m = np.array([theirs[f"corrDist{each}"] for each in ("SF", "K", "DS", "ASA", "ZSA")])
    np.testing.assert_array_equal(distances_m, np.repeat(ours.correlation_distance_m[:, None], 9, axis=1))


@pytest.mark.parametrize("los", [True, False])
def test_large_scale_means_and_deviations_are_those_openntn_draws_with(openntn, los):
    at_50_deg = 4
    for name in MODELS:
        ours = small_scale(name, 20.0 * GIGA, los)
        theirs = scenario(openntn, name, 20.0 * GIGA, REFERENCE_ELEVATION_DEG[at_50_deg], los)
        for drawn, kind in ((theirs.lsp_log_mean, "mu"), (theirs.lsp_log_std, "sigma")):
            delay, _, azimuth, _, k_factor, zenith, _ = drawn[0, 0, 0].tolist()
            assert delay == getattr(ours, f"lg_delay_spread_{kind}")[at_50_deg]
            assert azimuth == getattr(ours, f"lg_azimuth_spread_{kind}")[at_50_deg]
            assert zenith == getattr(ours, f"lg_zenith_spread_{kind}")[at_50_deg]
            assert 10.0 * k_factor == pytest.approx(getattr(ours, f"k_factor_{kind}_db")[at_50_deg])


# ---- fixed profiles


@pytest.mark.parametrize("letter", PROFILES)
@pytest.mark.parametrize("kind", ["TDL", "CDL"])
def test_fixed_profiles_are_openntns(openntn, letter, kind):
    ours, theirs = PROFILES[letter], parameters(openntn, f"{kind}-{letter.upper()}.json")
    assert ours.los == bool(theirs["los"])
    direct = [ours.specular_db] if ours.los else []
    assert [*direct, *ours.power_db] == theirs["powers"]
    assert [0.0] * len(direct) + list(ours.delay) == theirs["delays"]
    if kind == "CDL":
        assert list(ours.azimuth_deg) == theirs["aoa"][len(direct) :]
        assert list(ours.zenith_deg) == theirs["zoa"][len(direct) :]
        rays = ours.ray_azimuth_deg, ours.ray_zenith_deg, ours.cross_polar_db
        assert rays == (theirs["cASA"], theirs["cZSA"], theirs["xpr"])
