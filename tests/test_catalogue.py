"""Who is selected, the shells and planes of real constellations, and how wrong old elements are.

The planes are checked against what the operators filed: Starlink's first shell 72 planes 5 degrees apart, in 2020 with
20 slots and since with 18 (FCC SAT-MOD-20181108-00083, SAT-MOD-20190830-00087), Iridium NEXT 6 planes of 11, OneWeb 12.
"""

import math
import warnings
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from twin import catalogue
from twin.catalogue import ages, expected_error_m, median_epoch_utc, planes, select, shells, warn_of_age
from twin.errors import TleError
from twin.tle import Satellite, TleWarning, parse_tle, read_tle

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = ROOT / "scenarios" / "tle" / "leo-2022-02-22.tle.xz"
LINE_1 = "1 44714U 19074B   25208.98798532  .00002307  00000+0  17380-3 0  9992"
LINE_2 = "2 44714  53.0548 115.3449 0001134  85.9190 274.1928 15.06383560315059"
OTHER_1 = "1 44057U 19010A   25208.74615185  .00000011  00000+0 -53537-5 0  9995"
OTHER_2 = "2 44057  87.9048 293.4723 0002469 106.3879 253.7523 13.16593281308875"
TWO = parse_tle(f"STARLINK-1008\n{LINE_1}\n{LINE_2}\nONEWEB-0012\n{OTHER_1}\n{OTHER_2}\n")

TENTH_OF_A_DEGREE = 0.1
ONE_METRE = 1.0


@pytest.fixture(scope="module")
def snapshot():
    with warnings.catch_warnings(action="ignore", category=TleWarning):
        return read_tle(SNAPSHOT)


def walker(n_planes, n_slots, jitter_deg=0.0, epochs_days=0.0, inclination_deg=53.0):
    """A made constellation, each satellite at an epoch of its own, found there by SGP4's secular rates alone."""
    rng = np.random.default_rng(1)
    start = Satellite("W", 1, 2_460_000.5, 0.0, 15.05, 0.0001, inclination_deg, 0.0, 90.0, 0.0)
    made = []
    for p in range(n_planes):
        for s in range(n_slots):
            raan_deg = 360.0 * p / n_planes + rng.normal(0.0, jitter_deg)
            u_deg = 360.0 * s / n_slots + 360.0 * p / (n_planes * n_slots) + rng.normal(0.0, jitter_deg)
            days = rng.uniform(-epochs_days, epochs_days)
            model = replace(start, raan_deg=raan_deg % 360.0, mean_anomaly_deg=(u_deg - 90.0) % 360.0).satrec()
            minutes = days * 1440.0
            made.append(
                replace(
                    start,
                    name=f"W-{p}-{s}",
                    number=1000 * p + s,
                    epoch_fr=0.5 + days,
                    raan_deg=math.degrees(model.nodeo + model.nodedot * minutes) % 360.0,
                    argument_of_perigee_deg=math.degrees(model.argpo + model.argpdot * minutes) % 360.0,
                    mean_anomaly_deg=math.degrees(model.mo + model.mdot * minutes) % 360.0,
                )
            )
    return made


# Selecting


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({}, ["STARLINK-1008", "ONEWEB-0012"]),
        ({"name": "starlink"}, ["STARLINK-1008"]),
        ({"numbers": [44057]}, ["ONEWEB-0012"]),
        ({"numbers": (44057, 44714)}, ["STARLINK-1008", "ONEWEB-0012"]),
        ({"altitude_m": (500e3, 600e3)}, ["STARLINK-1008"]),
        ({"inclination_deg": (87.9048, 87.9048)}, ["ONEWEB-0012"]),
        ({"altitude_m": (0.0, 2e6), "inclination_deg": (50.0, 60.0)}, ["STARLINK-1008"]),
        ({"raan_deg": 115.3, "at": "2025-07-27T23:42:42Z"}, ["STARLINK-1008"]),
        ({"raan_deg": 293.5}, ["ONEWEB-0012"]),
    ],
)
def test_satellites_are_selected_by_everything_asked_in_their_order(asked, names):
    assert [satellite.name for satellite in select(TWO, **asked)] == names


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"name": "GALILEO"}, "no satellite whose name contains 'GALILEO' among 2 (1 STARLINK, 1 ONEWEB)"),
        ({"numbers": [44714, 5]}, "no satellite with catalogue number 5 among 2 (1 STARLINK, 1 ONEWEB)"),
        (
            {"altitude_m": (0.0, 1e5)},
            "a mean altitude of 0 to 100000 m among 2 (1 STARLINK, 1 ONEWEB); they have 547532",
        ),
        (
            {"name": "ONE", "inclination_deg": (50, 60)},
            "an inclination of 50 to 60 deg among 1 (1 ONEWEB); they have 87.9",
        ),
        (
            {"raan_deg": 10.0},
            "no plane with its node within 1 deg of 10 at 2025-07-27T20:48Z among 2 satellites; there",
        ),
    ],
)
def test_selecting_nothing_says_what_was_asked_and_what_there_is(asked, reason):
    with pytest.raises(TleError) as refused:
        select(TWO, **asked)
    assert reason in str(refused.value)


def test_nothing_to_select_from_is_told():
    with pytest.raises(TleError, match="no satellites to select from"):
        select([], "STARLINK")


def test_a_range_that_falls_and_an_instant_without_zone_are_refused():
    with pytest.raises(ValueError, match="the first must not be above the second"):
        select(TWO, altitude_m=(2e6, 1e6))
    with pytest.raises(ValueError, match="must say its offset from UTC"):
        planes(TWO, at="2025-07-27T00:00:00")


def test_a_plane_of_the_snapshot_is_one_of_those_that_planes_finds(snapshot):
    in_shell = {"name": "STARLINK", "altitude_m": (546e3, 548e3)}
    [shell] = shells(select(snapshot, "STARLINK"))
    found = select(snapshot, **in_shell, raan_deg=93.0)
    [plane] = [plane for plane in planes(shell) if abs(plane.raan_deg - 93.4) < TENTH_OF_A_DEGREE]
    assert {satellite.number for satellite in found} == {satellite.number for satellite in plane.satellites}
    with pytest.raises(TleError, match=r"within 1 deg of 63 at .* there are 16, at 13\.4, 33\.4, .* and 11 more"):
        select(snapshot, **in_shell, raan_deg=63.0)


@pytest.mark.parametrize("raan_deg", [173.0, 30.0, math.nan])
def test_a_crowd_of_nodes_is_no_plane(snapshot, raan_deg):
    """Of everything that flies nodes follow on each other over most of the circle; 173.1 is but their median."""
    with pytest.raises(TleError, match=r"among 3343 satellites; there are \d.*run into each other: choose a shell of"):
        select(snapshot, raan_deg=raan_deg)
    assert planes(walker(400, 1), least=1) == []
    with pytest.raises(TleError, match=r"among 400 satellites; there are 0; the nodes of 400 run into each other"):
        select(walker(400, 1), raan_deg=raan_deg)


def test_a_thousand_numbers_are_looked_up_at_once(snapshot):
    """Not once for each satellite of a large list; and they may come as an array."""

    class Counted(list):
        walks = 0

        def __iter__(self):
            self.walks += 1
            return super().__iter__()

    numbers = Counted(satellite.number for satellite in snapshot[:1000])
    assert select(snapshot, numbers=numbers) == snapshot[:1000]
    assert numbers.walks == 1
    assert select(snapshot, numbers=np.array(numbers)) == snapshot[:1000]


# Shells


def test_altitude_is_sgp4s_axis_less_the_equatorial_radius_of_wgs72():
    for satellite in TWO:
        model = satellite.satrec()
        [altitude_m] = catalogue._orbits([satellite]).altitude_m
        assert abs(altitude_m - (model.a - 1.0) * 6_378_135.0) < 1e-3 * ONE_METRE


@pytest.mark.parametrize(
    ("file", "found"),  # satellites, altitude km, inclination deg
    [
        ("starlink-2020-10-16.tle", [(492, 550, 53.0), (96, 380, 53.0), (57, 312, 53.0)]),  # the last two on their way
        ("oneweb-2025-07-27.tle", [(646, 1199, 87.9)]),
        ("iridium-next-2025-01-23.tle", [(67, 775, 86.4)]),
        (
            "starlink-2025-07-27.tle",
            [
                (1408, 540, 53.2),
                (1362, 485, 43.0),
                (1292, 561, 43.0),
                (984, 475, 53.2),
                (761, 547, 53.1),
                (452, 570, 70.0),
            ],
        ),
    ],
)
def test_shells_of_real_constellations(shared, file, found):
    got = shells(read_tle(shared / "tle" / file))
    assert [(len(s.satellites), s.altitude_m / 1e3, s.inclination_deg) for s in got[: len(found)]] == [
        (count, pytest.approx(altitude_km, abs=0.6), pytest.approx(inclination_deg, abs=0.051))
        for count, altitude_km, inclination_deg in found
    ]
    for shell in got:
        assert shell.lowest_m <= shell.altitude_m <= shell.highest_m


def test_altitudes_by_keplers_law_alone_differ_and_count_otherwise(shared):
    """596 OneWeb satellites stand within 1,180 to 1,230 km by Kepler's law applied to Kozai's mean motion."""
    satellites = read_tle(shared / "tle" / "oneweb-2025-07-27.tle")
    rad_s = np.array([s.mean_motion_rev_day for s in satellites]) * 2.0 * math.pi / 86_400.0
    kepler_km = (398_600.8 / rad_s**2) ** (1 / 3) - 6_378.135
    assert ((kepler_km >= 1_180.0) & (kepler_km <= 1_230.0)).sum() == 596
    assert len(select(satellites, altitude_m=(1_180e3, 1_230e3))) == 544
    assert len(select(satellites, altitude_m=(1_177e3, 1_227e3))) == 596


def test_few_satellites_and_none_make_no_shell(snapshot):
    assert shells(snapshot[:5]) == []
    assert shells([]) == []
    assert planes([]) == []


# Planes and slots


def test_planes_and_slots_of_a_made_constellation_come_out_whatever_the_epochs():
    satellites = walker(12, 15, jitter_deg=0.05, epochs_days=3.0)
    at_utc = datetime(2023, 2, 25, 12, tzinfo=UTC)  # all epochs lie within three days
    found = planes(satellites, at=at_utc)
    assert [len(plane.slot_deg) for plane in found] == 12 * [15]
    assert all(None not in plane.holders and not plane.spares for plane in found)
    made = {int(plane.satellites[0].name.split("-")[1]): plane for plane in found}
    assert sorted(made) == list(range(12))
    for p, plane in made.items():
        assert plane.at_utc == at_utc
        assert abs(catalogue._turned(plane.raan_deg - 30.0 * p)) < TENTH_OF_A_DEGREE
        assert list(plane.argument_of_latitude_deg) == sorted(plane.argument_of_latitude_deg)
        assert {satellite.name.split("-")[1] for satellite in plane.satellites} == {str(p)}
        assert np.ptp(np.diff(plane.slot_deg)) < 1e-9
        for holder, slot_deg in zip(plane.holders, plane.slot_deg):
            made_deg = 24.0 * int(holder.name.split("-")[2]) + 2.0 * p
            assert abs(catalogue._turned(slot_deg - made_deg)) < 2 * TENTH_OF_A_DEGREE


def test_a_plane_on_both_sides_of_the_zero_of_the_circle_is_one():
    plane = [s for s in walker(6, 9) if s.name.startswith("W-0-")]
    satellites = [replace(s, raan_deg=(s.raan_deg + 0.2 * (-1) ** i) % 360.0) for i, s in enumerate(plane)]
    [found] = planes(satellites)
    assert min(found.raan_deg, 360.0 - found.raan_deg) < 0.3
    assert len(found.slot_deg) == 9


def test_spares_and_empty_slots_are_told_from_holders():
    full = [replace(s, mean_anomaly_deg=s.mean_anomaly_deg + 2.0) for s in walker(1, 18)]
    lacking = [s for s in full if s.name not in ("W-0-3", "W-0-11")]
    spare = replace(full[5], name="SPARE", mean_anomaly_deg=full[5].mean_anomaly_deg + 6.7)
    [plane] = planes([*lacking, spare])
    assert plane.spares == (spare,)
    assert [round(at) for at in plane.empty_deg] == [62, 222]
    assert [holder.name for holder in plane.holders if holder] == [s.name for s in lacking]


def test_satellites_that_stand_anywhere_show_little_evenness():
    rng = np.random.default_rng(1)
    found = [catalogue._slots(u, *catalogue._slot_counts([u]))[2] for u in rng.uniform(0.0, 360.0, (100, 20))]
    assert 0.3 < np.median(found) < 0.5
    assert max(found) < 0.7


def test_nearly_full_planes_of_the_snapshot_have_eighteen_slots(snapshot):
    """15 planes of 14 to 19, 242 satellites; one more is alone in its plane."""
    [shell] = shells(select(snapshot, "STARLINK"))
    found = planes(shell)
    assert {len(plane.slot_deg) for plane in found} == {18}
    assert Counter(len(plane.satellites) for plane in found) == {14: 3, 15: 2, 16: 4, 17: 3, 18: 2, 19: 1}
    [best] = [plane for plane in found if len(plane.satellites) == 19]
    assert None not in best.holders
    assert len(best.spares) == 1
    assert all(len(plane.empty_deg) <= 5 for plane in found)
    steps_deg = np.diff([plane.raan_deg for plane in found])
    np.testing.assert_allclose(steps_deg / 10.0, np.round(steps_deg / 10.0), atol=0.1 * TENTH_OF_A_DEGREE)


def test_iridium_next_has_six_planes_of_eleven_and_spares_in_the_snapshot(snapshot):
    [shell] = shells(select(snapshot, "IRIDIUM"))
    found = planes(shell)
    assert [len(plane.slot_deg) for plane in found] == 6 * [11]
    assert all(None not in plane.holders for plane in found)
    assert sum(len(plane.spares) for plane in found) == 8


def test_oneweb_has_two_planes_of_twenty_seven_and_twenty_nine_in_the_snapshot(snapshot):
    """49 slots in one; in the other 29 satellites are in step with 34 slots, and a thirtieth is on its way."""
    [shell] = shells(select(snapshot, "ONEWEB"))
    found = planes(shell)
    assert [len(plane.holders) - len(plane.empty_deg) for plane in found] == [29, 27]
    assert [len(plane.slot_deg) for plane in found] == [34, 49]


@pytest.mark.parametrize(
    ("file", "n_planes", "n_slots", "satellites", "full"),
    [
        ("starlink-2020-10-16.tle", 26, {20: 26}, (18, 20), 5),
        ("starlink-shell1-plane-2023-08-22.tle", 1, {18: 1}, (21, 21), 1),
        ("iridium-next-2025-01-23.tle", 6, {11: 6}, (11, 12), 6),
        ("oneweb-2025-07-27.tle", 12, {48: 6, 45: 2, 46: 2, 47: 1, 90: 1}, (50, 61), 11),
        ("starlink-2025-07-27.tle", 72, {18: 72}, (15, 28), None),
    ],
)
def test_planes_of_real_constellations(shared, file, n_planes, n_slots, satellites, full):
    """`satellites`: fewest and most of a plane of the largest shell; `full`: planes without an empty slot."""
    largest = shells(read_tle(shared / "tle" / file))[0]
    found = planes(largest)
    assert len(found) == n_planes
    assert Counter(len(plane.slot_deg) for plane in found) == n_slots
    assert (min(len(p.satellites) for p in found), max(len(p.satellites) for p in found)) == satellites
    assert full in (None, sum(not plane.empty_deg for plane in found))
    assert sum(len(plane.satellites) for plane in found) >= len(largest.satellites) - 1, "one may be alone"


def test_starlinks_first_shell_has_seventy_two_planes_five_degrees_apart(shared):
    first = next(
        s for s in shells(read_tle(shared / "tle" / "starlink-2025-07-27.tle")) if 545e3 < s.altitude_m < 550e3
    )
    found = planes(first)
    steps_deg = np.diff([plane.raan_deg for plane in found])
    assert len(found) == 72
    np.testing.assert_allclose(steps_deg, 5.0, atol=TENTH_OF_A_DEGREE)
    assert {len(plane.slot_deg) for plane in found} == {18}, "planes of three satellites too, by what the others say"


def test_a_full_plane_has_its_slots_twenty_degrees_apart_and_three_spares(shared):
    [plane] = planes(read_tle(shared / "tle" / "starlink-shell1-plane-2023-08-22.tle"))
    assert None not in plane.holders
    assert len(plane.spares) == 3
    held_deg = [plane.argument_of_latitude_deg[plane.satellites.index(holder)] for holder in plane.holders]
    off_deg = [catalogue._turned(b - a) for a, b in zip(held_deg, plane.slot_deg)]
    assert max(map(abs, off_deg)) < 3 * TENTH_OF_A_DEGREE
    nearest_deg = [
        min(abs(catalogue._turned(plane.argument_of_latitude_deg[i] - at)) for at in held_deg)
        for i, satellite in enumerate(plane.satellites)
        if satellite in plane.spares
    ]
    assert max(nearest_deg) < 7.0, "a third of a slot from a holder"


def test_the_closed_form_keeps_nodes_where_sgp4_turns_them(snapshot):
    """Three days on, against SGP4's secular rates, which add J2 squared and J4: most near the equator."""
    some = [*snapshot[::25], *select(snapshot, inclination_deg=(0.0, 30.0))]
    later = [s.epoch_utc + timedelta(days=3) for s in some]
    for satellite, at_utc in zip(some, later):
        model = satellite.satrec()
        got = catalogue._orbits([satellite], at_utc)
        minutes = float(ages([satellite], at_utc)[0]) * 1440.0
        node_deg = math.degrees(model.nodeo + model.nodedot * minutes)
        along_deg = math.degrees(model.argpo + model.mo + (model.argpdot + model.mdot) * minutes)
        allowed_deg = TENTH_OF_A_DEGREE if 45.0 < satellite.inclination_deg < 135.0 else 5 * TENTH_OF_A_DEGREE
        assert abs(catalogue._turned(got.raan_deg[0] - node_deg)) < allowed_deg
        assert abs(catalogue._turned(got.argument_of_latitude_deg[0] - along_deg)) < allowed_deg


# Age


def test_ages_are_days_after_each_epoch():
    at = "2025-07-28T23:42:41.931648Z"
    np.testing.assert_allclose(ages(TWO, at), [1.0, 1.24183347], rtol=0, atol=1e-12)
    np.testing.assert_allclose(ages(TWO, TWO[0].epoch_utc), [0.0, 0.24183347], rtol=0, atol=1e-12)
    assert (ages(TWO, "2025-07-01T00:00:00Z") < 0.0).all()


def test_flying_old_elements_warns_with_how_many_how_old_and_how_wrong(snapshot):
    middle_utc = median_epoch_utc(snapshot)
    with warnings.catch_warnings(action="error"):
        warn_of_age(snapshot, middle_utc + timedelta(days=2))
        warn_of_age(snapshot, middle_utc - timedelta(days=2))
    with pytest.warns(TleWarning, match=r"4\.0 days after the median epoch") as caught:
        warn_of_age(snapshot, middle_utc + timedelta(days=4))
    message = str(caught[0].message)
    assert (
        f"{(np.abs(ages(snapshot, middle_utc + timedelta(days=4))) > 3).sum()} of 3343 sets are more than 3" in message
    )
    assert "wrong by about 20 km at the median" in message
    assert caught[0].filename == __file__
    with pytest.warns(TleWarning, match=r"days before the median epoch.*more than 150 km"):
        warn_of_age(snapshot, "2022-01-01T00:00:00Z")


def test_a_tenth_of_old_sets_warns_though_the_others_are_new():
    new = [replace(TWO[0], number=i) for i in range(8)]
    old = replace(TWO[0], name="LEFT BEHIND", epoch_jd=TWO[0].epoch_jd - 20)
    at_utc = TWO[0].epoch_utc
    with warnings.catch_warnings(action="error"):
        warn_of_age([*new, *new, old], at_utc)
    with pytest.warns(
        TleWarning, match=r"1 of 9 sets are more than 3 days from it, the furthest, LEFT BEHIND, 20\.0 days"
    ):
        warn_of_age([*new, old], at_utc)


def test_expected_errors_are_those_measured_on_starlinks_history(shared):
    """Median distance between where an old set puts a satellite at the epoch of a newer one, and where that does."""
    history = defaultdict(list)
    for satellite in read_tle(shared / "tle" / "starlink-shell1-plane-history-2025-07-27_2025-09-23.tle"):
        history[satellite.number].append(satellite)
    age_days, error_m = [], []
    for sets in history.values():
        sets.sort(key=lambda s: s.epoch_jd + s.epoch_fr)
        assert all(a.epoch_utc < b.epoch_utc for a, b in pairwise(sets))
        jd, fr = np.array([s.epoch_jd for s in sets]), np.array([s.epoch_fr for s in sets])
        there_km = [s.satrec().sgp4(s.epoch_jd, s.epoch_fr)[1] for s in sets]
        for i, old in enumerate(sets):
            error, at_km, _ = old.satrec().sgp4_array(jd[i + 1 :].copy(), fr[i + 1 :].copy())
            assert not error.any()
            age_days += ((jd[i + 1 :] - jd[i]) + (fr[i + 1 :] - fr[i])).tolist()
            error_m += (1e3 * np.linalg.norm(at_km - np.array(there_km[i + 1 :]).reshape(-1, 3), axis=1)).tolist()
    age, error = np.array(age_days), np.array(error_m)
    for days in catalogue.AGE_DAYS[1:]:
        near = (age > 0.9 * days) & (age < 1.1 * days) if days > 1 else (age > 0.5 * days) & (age < 1.5 * days)
        assert near.sum() > 150
        assert 0.8 < np.median(error[near]) / expected_error_m(days) < 1.25, days
        assert np.percentile(error[near], 75) > 1.5 * expected_error_m(days), "the tail of those that manoeuvre"


def test_elements_two_years_old_are_worth_nothing(shared):
    """Satellites in both lists of 2023 and 2025: the older elements put them anywhere on their orbits, or refuse."""
    old = {s.number: s for s in read_tle(shared / "tle" / "active-2023-08-22.tle", name="ONEWEB")}
    errors_km = []
    for new in read_tle(shared / "tle" / "oneweb-2025-07-27.tle")[::20]:
        if new.number in old:
            error, at_km, _ = old[new.number].satrec().sgp4(new.epoch_jd, new.epoch_fr)
            _, there_km, _ = new.satrec().sgp4(new.epoch_jd, new.epoch_fr)
            errors_km.append(math.dist(at_km, there_km) if error == 0 else math.inf)
    assert np.median(errors_km) > 1_000.0
