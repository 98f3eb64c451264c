"""Link budgets: against the published ones, the reference tables, and the links made from them."""

import csv
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from twin.channel import Fading, Link, NominalLink, direction_cosines, path_gain, slot_link
from twin.channel.budget import ALTITUDE_M, HANDHELD, TERMINALS, VSAT, slant_range_m, study_case, study_cases
from twin.channel.losses import clutter_loss_db, los_probability
from twin.units import BOLTZMANN_J_K, GIGA, KILO, MEGA, SPHERE_RADIUS_M, from_db, to_db

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "3gpp"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the reference numbers (../shared/reference/3gpp) are not beside this checkout"
)
SCENARIOS = Path(__file__).resolve().parents[2] / "scenarios"
ROUNDED = 0.05  # published budgets have one decimal
A_TWENTIETH_OF_A_DB = 0.05
ONE_METRE = 1.0
BORESIGHT_DEG = np.array([90.0, 90.0])

# TR 38.821 table 6.1.3.3-1, rows that public programs quote: EIRP dBW, G/T dB/K, free space, gas, shadow margin,
# scintillation, CNR, all dB. Other rows were not found.
PUBLISHED = {
    ("SC6", "DL"): (30.0, 15.9, 179.1, 0.5, 0.0, 0.3, 8.5),
    ("SC6", "UL"): (46.2, 13.0, 182.6, 0.5, 0.0, 0.3, 18.4),
    ("SC9", "DL"): (48.8, -31.6, 159.1, 0.1, 3.0, 2.2, 6.6),
    ("SC9", "UL"): (-7.0, 1.1, 159.1, 0.1, 3.0, 2.2, 2.8),
}
# The same table's free-space loss of other cases, as public tests of another channel model have them
PUBLISHED_FREE_SPACE = {"SC1": 210.6, "SC4": 190.6, "SC11": 184.5, "SC14": 164.5}
WITH_UPLINK = ("SC6", "SC7", "SC8", "SC9", "SC10")  # LEO600 Set-1, whose G/T is known
EVERY_LINK = [(name, "DL") for name in study_cases()] + [(name, "UL") for name in WITH_UPLINK]


def rows(name: str) -> list[dict[str, str]]:
    lines = (REFERENCE / name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def aligned(link: Link) -> Fading:
    """The direct path alone, at boresight of both sides, in line of sight."""
    direction = direction_cosines(BORESIGHT_DEG)[None, None]
    amplitude = np.full((1, 1), np.sqrt(link.array_gain), dtype=complex)
    return Fading(np.ones(1, bool), np.zeros(1), amplitude, direction, direction.copy(), np.zeros((1, 1)))


@pytest.mark.parametrize(("terminal", "published"), [(HANDHELD, -31.6), (VSAT, 15.9)])
def test_g_over_t_of_terminals_is_the_published_one(terminal, published):
    assert terminal.g_over_t_db_k == pytest.approx(published, abs=ROUNDED)


def test_a_terminal_as_warm_as_its_surroundings_has_its_noise_figure_times_290_k():
    assert HANDHELD.g_over_t_db_k == pytest.approx(-7.0 - 10.0 * np.log10(290.0))


@pytest.mark.parametrize(("name", "direction"), sorted(PUBLISHED))
def test_budgets_are_the_published_ones(name, direction):
    budget = study_case(name).budget(direction)
    ours = (
        budget.eirp_dbw,
        budget.g_over_t_db_k,
        budget.free_space_loss_db,
        budget.gas_loss_db,
        budget.shadow_margin_db,
        budget.scintillation_loss_db,
        budget.cnr_db,
    )
    np.testing.assert_allclose(ours, PUBLISHED[name, direction], rtol=0.0, atol=ROUNDED)


@pytest.mark.parametrize(("name", "published"), sorted(PUBLISHED_FREE_SPACE.items()))
def test_free_space_loss_of_other_orbits_is_the_published_one(name, published):
    assert study_case(name).budget().free_space_loss_db == pytest.approx(published, abs=ROUNDED)


def test_slant_range_is_the_altitude_overhead_and_closes_the_triangle_elsewhere():
    for altitude_m in ALTITUDE_M.values():
        assert slant_range_m(90.0, altitude_m) == pytest.approx(altitude_m, abs=ONE_METRE)
        for elevation_deg in (10.0, 30.0, 60.0):
            range_m = slant_range_m(elevation_deg, altitude_m)
            up_m = SPHERE_RADIUS_M + range_m * np.sin(np.radians(elevation_deg))
            across_m = range_m * np.cos(np.radians(elevation_deg))
            assert np.hypot(up_m, across_m) == pytest.approx(SPHERE_RADIUS_M + altitude_m, abs=ONE_METRE)


def test_reuse_does_not_change_the_downlink_of_a_beam_since_its_eirp_is_a_density():
    cnr_db = [study_case(name).budget("DL").cnr_db for name in ("SC6", "SC7", "SC8")]
    np.testing.assert_allclose(cnr_db, cnr_db[0])


def test_a_narrower_uplink_has_its_power_in_less_noise():
    wide, third = (study_case(name).budget("UL").cnr_db for name in ("SC6", "SC7"))
    assert third - wide == pytest.approx(to_db(400.0 / 133.3))


@pytest.mark.parametrize(("name", "direction"), EVERY_LINK)
def test_an_aligned_link_has_the_cnr_of_the_budget(name, direction):
    """Through the package's own path gain and slot: line of sight, both beams on it, the margin as shadow fading."""
    case = study_case(name)
    budget, link = case.budget(direction), case.link(direction, environment="suburban")
    shadow_db = budget.shadow_margin_db
    gain = path_gain(link, budget.slant_range_m, budget.elevation_deg, True, shadow_db)
    used = np.ones(link.n_groups, bool)
    snr, rate_bps, _ = slot_link(link, aligned(link), 0, float(gain), BORESIGHT_DEG, BORESIGHT_DEG, used)
    np.testing.assert_allclose(to_db(snr), budget.cnr_db, rtol=0.0, atol=A_TWENTIETH_OF_A_DB)
    assert rate_bps.sum() == pytest.approx(link.n_rb * link.rb_bandwidth_hz * np.log2(1.0 + from_db(budget.cnr_db)))


@pytest.mark.parametrize(("name", "direction"), EVERY_LINK)
def test_the_nominal_link_has_it_too_but_for_margin_and_expected_clutter(name, direction):
    case = study_case(name)
    budget, link = case.budget(direction), case.link(direction, environment="suburban")
    nominal = NominalLink.from_facts(link.facts())
    snr_db = to_db(nominal.matched_snr(budget.slant_range_m, budget.elevation_deg))
    seen = los_probability(budget.elevation_deg, link.tables)
    clutter = from_db(-clutter_loss_db(budget.elevation_deg, False, link.tables))
    expected_db = budget.cnr_db + budget.shadow_margin_db + to_db(seen + (1.0 - seen) * clutter)
    assert snr_db == pytest.approx(expected_db, abs=A_TWENTIETH_OF_A_DB)


@pytest.mark.parametrize(
    ("name", "direction", "rb_bandwidth_hz", "n_rb", "n_groups", "apertures_m"),
    [
        ("SC9", "DL", 180e3, 165, 5, (2.0, 0.0)),  # 166 blocks of 15 kHz fit into 30 MHz
        ("SC9", "UL", 180e3, 2, 2, (2.0, 0.0)),
        ("SC6", "DL", 1.44e6, 275, 5, (0.5, 0.6)),  # no carrier has more blocks
        ("SC6", "UL", 1.44e6, 275, 5, (0.334, 0.6)),
        ("SC8", "DL", 1.44e6, 135, 5, (0.5, 0.6)),
    ],
)
def test_a_bandwidth_is_divided_into_whole_blocks_in_equal_groups(
    name, direction, rb_bandwidth_hz, n_rb, n_groups, apertures_m
):
    link = study_case(name).link(direction, "suburban")
    assert (link.rb_bandwidth_hz, link.n_rb, link.n_groups) == (rb_bandwidth_hz, n_rb, n_groups)
    assert (link.tx_aperture_m, link.rx_aperture_m) == apertures_m
    assert link.n_rb * link.rb_bandwidth_hz <= study_case(name).budget(direction).bandwidth_hz


def test_numerology_changes_the_blocks_and_not_their_snr():
    case = study_case("SC9")
    snr = [case.link("DL", "suburban", numerology=n).snr_per_gain for n in (0, 1, 2)]
    np.testing.assert_allclose(snr, snr[0])
    assert [case.link("DL", "suburban", numerology=n).rb_bandwidth_hz for n in (0, 1, 2)] == [180e3, 360e3, 720e3]


def test_a_g_over_t_of_ones_own_closes_an_uplink_without_one():
    ours = study_case("SC14", g_over_t_db_k=1.1).budget("UL")
    near = study_case("SC9").budget("UL")  # the same dish in half the height
    assert ours.cnr_db - near.cnr_db == pytest.approx(near.free_space_loss_db - ours.free_space_loss_db)
    assert study_case("SC14").payload.g_over_t_db_k is None


def test_higher_satellites_are_heard_better_where_other_inputs_are_replaced():
    overhead = replace(study_case("SC9"), elevation_deg=90.0).budget()
    assert overhead.slant_range_m == pytest.approx(600 * KILO)
    assert overhead.cnr_db > study_case("SC9").budget().cnr_db + 5.0


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: study_case("SC31"), "study case 'SC31' is unknown; there are SC1, SC2"),
        (lambda: study_case("SC9").budget("down"), "direction must be 'DL' or 'UL', got 'down'"),
        (
            lambda: study_case("SC1").budget("UL"),
            r"SC1 UL needs the G/T of the GEO Set-1 Ka-band satellite.*study_case\('SC1', g_over_t_db_k=...\)",
        ),
        (lambda: study_case("SC16").link("UL", "suburban"), "SC16 UL needs the G/T"),
        (lambda: study_case("SC9").link("UL", "suburban", numerology=3), "SC9 UL has 0.36 MHz, less than a resource"),
        (lambda: study_case("SC9").link("DL", "suburban", numerology=5), "numerology must be 0 to 4"),
        (lambda: study_case("SC9").link("DL", n_groups=0), "n_groups must be 1 to 16, got 0"),
    ],
)
def test_mistakes_and_missing_values_are_named(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


def test_a_printed_budget_names_every_term_and_adds_up():
    lines = str(study_case("SC9").budget("DL")).splitlines()
    assert lines[0] == "SC9 DL: 2 GHz, 30 MHz, 30 deg, 1075.1 km"
    number = {line[2:26].strip(): float(line[26:34]) for line in lines[1:]}
    losses = [name for name in number if "loss" in name or "margin" in name]
    assert len(losses) == 6
    rest = number["EIRP"] + number["G/T"] - number["Boltzmann's constant k"] - number["bandwidth"]
    assert rest - sum(number[name] for name in losses) == pytest.approx(number["CNR"], abs=0.05)


@needs_reference
def test_payloads_equal_the_reference():
    ours = {(c.payload.orbit, c.payload.parameter_set, c.payload.band): c.payload for c in study_cases().values()}
    found = rows("satellite_parameters.csv")
    assert len(found) == 2 * len(ours)
    for row in found:
        payload = ours[row["orbit"], int(row["set"]), row["band"]]
        down = row["link"] == "DL"
        assert (payload.dl_aperture_m if down else payload.ul_aperture_m) == float(row["aperture_m"])
        assert payload.max_gain_dbi == float(row["max_gain_dbi"])
        if down:
            assert payload.eirp_density_dbw_mhz == float(row["eirp_density_dbw_mhz"])
        else:
            given = row["g_over_t_db_k"]
            assert payload.g_over_t_db_k == (float(given) if given else None)


@needs_reference
def test_study_cases_equal_the_reference():
    found = rows("study_cases.csv")
    assert [row["case"] for row in found] == list(study_cases())
    for row in found:
        case = study_case(row["case"])
        assert (case.payload.orbit, str(case.payload.parameter_set), case.payload.band) == (
            row["orbit"],
            row["set"],
            row["band"],
        )
        assert (case.terminal.name, case.reuse) == (row["ue"], row["reuse"])
        assert case.elevation_deg == float(row["target_elevation_deg"])
        assert case.dl_carrier_hz == float(row["dl_ghz"]) * GIGA
        assert case.ul_carrier_hz == float(row["ul_ghz"]) * GIGA
        assert case.dl_bandwidth_hz == float(row["dl_bandwidth_mhz"]) * MEGA
        assert case.ul_bandwidth_hz == float(row["ul_bandwidth_mhz"]) * MEGA


@needs_reference
def test_terminals_and_assumptions_equal_the_reference():
    for row in rows("ue_parameters.csv"):
        terminal = TERMINALS[row["ue"]]
        assert terminal.aperture_m == float(row["aperture_m"] or 0.0)
        assert terminal.rx_gain_dbi == float(row["rx_gain_dbi"])
        assert terminal.tx_gain_dbi == float(row["tx_gain_dbi"])
        assert terminal.noise_figure_db == float(row["noise_figure_db"])
        assert terminal.antenna_temperature_k == float(row["antenna_temp_k"])
        assert terminal.tx_power_dbw == float(row["tx_power_dbm"]) - 30.0
    inputs = tomllib.loads((REFERENCE / "link_budget_inputs.toml").read_text(encoding="utf-8"))
    assert to_db(BOLTZMANN_J_K) == pytest.approx(inputs["boltzmann_dbw_k_hz"], abs=0.001)
    assert {orbit: m / KILO for orbit, m in ALTITUDE_M.items()} == inputs["satellite_altitude_km"]
    assert HANDHELD.shadow_margin_db == inputs["shadow_margin_db"]["S_handheld"]
    assert VSAT.shadow_margin_db == inputs["shadow_margin_db"]["Ka_vsat"]
    budget = study_case("SC9").budget()
    assert budget.polarisation_loss_db == inputs["polarisation_loss_db"]
    assert budget.additional_loss_db == inputs["additional_loss_db"]


@pytest.mark.parametrize(("scenario", "name"), [("leo600_s_handheld", "SC9"), ("leo600_ka_vsat", "SC6")])
def test_shipped_presets_have_the_link_of_their_study_case(scenario, name):
    """Every key of the file's link but its choice of rate; G/T to the two decimals written there."""
    written = tomllib.loads((SCENARIOS / f"{scenario}.toml").read_text(encoding="utf-8"))["link"]
    for key in ("rate", "bler_target", "mcs_gap_db"):
        written.pop(key, None)
    assert written.pop("environment") == "urban"
    expected = study_case(name).link("DL", environment="suburban")
    assert written.pop("g_over_t_db_k") == pytest.approx(expected.g_over_t_db_k, abs=0.005)
    for key, value in written.items():
        theirs = getattr(expected, key)
        assert value == (list(theirs) if isinstance(theirs, tuple) else theirs), key
    unset = [f for f in ("tx_aperture_m", "rx_aperture_m") if f not in written]
    assert all(getattr(expected, f) == 0.0 for f in unset)
