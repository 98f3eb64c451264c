"""From SGP4's frame to the Earth's: against skyfield's frames, with its UT1 and with a table of the IERS' format."""

from datetime import UTC, datetime

import numpy as np
import pytest
from skyfield.api import EarthSatellite, load
from skyfield.constants import AU_M
from skyfield.data import iers
from skyfield.framelib import itrs

from twin.errors import TwinError
from twin.frames import EarthOrientation, read_earth_orientation, turns
from twin.orbit import ephemeris
from twin.tle import parse_tle
from twin.units import EARTH_ROTATION_RAD_S

ONE_MILLIMETRE = 1e-3
TWO_METRES = 2.0
MJD = 59_632.0  # 2022-02-22
POLE = ((0.12, 0.34), (-0.05, 0.41), (0.30, -0.20), (0.10, 0.10))  # arcseconds, made up, so that each shows
ISS = """\
1 25544U 98067A   22053.49998843  .00005611  00000+0  10750-3 0  9995
2 25544  51.6414 186.9586 0005658 182.9586 242.8846 15.49605837327285
"""


@pytest.fixture(scope="module")
def satellite():
    line_1, line_2 = (line[:68] for line in ISS.splitlines())
    sums = [sum(int(c) if c.isdigit() else c == "-" for c in line) % 10 for line in (line_1, line_2)]
    return parse_tle(f"{line_1}{sums[0]}\n{line_2}{sums[1]}\n", broken="refuse")[0]


def finals(rows):
    """Lines as in IERS' finals2000A.all (readme.finals2000A): date, MJD, pole x and y with errors, UT1-UTC."""
    return "".join(
        f"{220221 + i} {mjd:8.2f} I {x:9.6f}{0.00009:9.6f} {y:9.6f}{0.00009:9.6f}  I{dut1:10.7f}{0.00001:10.7f}\n"
        for i, (mjd, x, y, dut1) in enumerate(rows)
    )


@pytest.fixture
def table(tmp_path):
    """A table of four days with skyfield's own UT1 and a pole that is far from where it was."""
    timescale = load.timescale(builtin=True)
    rows = [(MJD - 1 + i, *POLE[i], float(timescale.utc(2022, 2, 21 + i).dut1)) for i in range(4)]
    path = tmp_path / "finals2000A.all"
    path.write_text(finals(rows))
    return path


def test_an_iers_table_is_read_as_skyfield_reads_it(table):
    got = read_earth_orientation(table)
    np.testing.assert_array_equal(got.mjd, MJD - 1 + np.arange(4))
    np.testing.assert_allclose(np.degrees(got.pole_x_rad) * 3600.0, [x for x, _ in POLE], atol=1e-9)
    np.testing.assert_allclose(np.degrees(got.pole_y_rad) * 3600.0, [y for _, y in POLE], atol=1e-9)


def test_positions_with_polar_motion_are_skyfields_within_a_millimetre(table, satellite):
    timescale = load.timescale(builtin=True)
    with open(table, "rb") as file:
        iers.install_polar_motion_table(timescale, iers.parse_x_y_dut1_from_finals_all(file))
    t_s = np.linspace(0.0, 3_600.0, 13)
    moments = timescale.utc(2022, 2, 22, 20, 0, t_s)
    expected_m = EarthSatellite(satellite.line1, satellite.line2, None, timescale).at(moments).frame_xyz(itrs).m.T
    given, plain = (
        ephemeris([satellite], "2022-02-22T20:00:00Z", 3_600.0, error_m=2e-5, orientation=orientation)
        for orientation in (read_earth_orientation(table), None)
    )
    assert np.linalg.norm(given.position_m(t_s)[0] - expected_m, axis=1).max() < ONE_MILLIMETRE
    left_out_m = np.linalg.norm(plain.position_m(t_s)[0] - expected_m, axis=1).max()
    assert 1.0 < left_out_m < 20.0  # 0.4 arcseconds of 6,800 km are 13 m


def test_ut1_of_the_table_turns_the_earth_with_it(table, satellite):
    orientation = read_earth_orientation(table)
    late = EarthOrientation(orientation.mjd, orientation.ut1_minus_utc_s + 0.1, *orientation._columns[1:])
    now, then = (
        ephemeris([satellite], "2022-02-22T20:00:00Z", 60.0, orientation=one).position_m(0.0)[0]
        for one in (orientation, late)
    )
    angle_rad = np.arctan2(now[1], now[0]) - np.arctan2(then[1], then[0])
    assert angle_rad == pytest.approx(0.1 * EARTH_ROTATION_RAD_S, rel=1e-4)  # the pole's own part is 4e-7 rad


def test_the_example_of_aiaa_2006_6753_appendix_c_comes_out_to_its_digits():
    """TEME to ITRF with UT1 and polar motion; numbers of revision 2, km and km/s there."""
    start = datetime(2004, 4, 6, 7, 51, 28, 386_000, tzinfo=UTC)
    pole_rad = np.radians(np.array([-0.140682, 0.333309]) / 3600.0)
    days = np.array([53_101.0, 53_102.0])  # modified Julian dates around it
    orientation = EarthOrientation(days, np.full(2, -0.439961), *(np.full(2, angle) for angle in pole_rad))
    _, _, turn, rate_rad_s = turns(start, np.zeros(1), orientation)
    teme_m = np.array([5_094_180.16210, 6_127_644.65950, 6_380_344.53270])
    teme_m_s = np.array([-4_746.131487, 785.818041, 5_531.931288])
    np.testing.assert_allclose(turn[0] @ teme_m, [-1_033_479.38300, 7_901_295.27540, 6_380_356.59580], atol=5e-5)
    over_ground_m_s = teme_m_s - np.cross([0.0, 0.0, rate_rad_s], teme_m)
    np.testing.assert_allclose(turn[0] @ over_ground_m_s, [-3_225.636520, -2_872.451450, 5_531.924446], atol=1e-3)


def test_the_station_is_where_horizons_had_it():
    """JPL Horizons, ISS from the geocentre, ICRF, au; as skyfield's own tests cite it for these elements."""
    [station] = parse_tle(
        "1 25544U 98067A   18184.80969102  .00001614  00000-0  31745-4 0  9993\n"
        "2 25544  51.6414 295.8524 0003435 262.6267 204.2868 15.54005638121106\n",
        broken="refuse",
    )
    expected_au = {
        4: [2.633404251158200e-5, 1.015087620439817e-5, 3.544778677556393e-5],
        5: [-2.136440257814821e-5, -2.084170814514480e-5, -3.415494123796893e-5],
    }
    timescale = load.timescale(builtin=True)
    for day, there_au in expected_au.items():
        moment = timescale.tdb(2018, 7, day)
        sky = ephemeris([station], moment.utc_datetime(), 60.0)
        inertial_m = itrs.rotation_at(moment).T @ sky.position_m(0.0)[0]
        assert np.abs(inertial_m - np.array(there_au) * AU_M).max() < TWO_METRES


def test_leaving_out_ut1_would_displace_a_satellite_by_the_earths_turn():
    start = datetime(2022, 2, 22, 13, tzinfo=UTC)
    _, _, with_ut1, _ = turns(start, np.zeros(1))
    none = EarthOrientation(np.array([MJD, MJD + 1]), np.zeros(2), np.zeros(2), np.zeros(2))
    _, _, without, _ = turns(start, np.zeros(1), none)
    over_the_equator_m = np.array([6_928_137.0, 0.0, 0.0])
    apart_m = np.linalg.norm(with_ut1[0] @ over_the_equator_m - without[0] @ over_the_equator_m)
    ut1_minus_utc_s = float(load.timescale(builtin=True).from_datetime(start).dut1)
    assert apart_m == pytest.approx(abs(ut1_minus_utc_s) * EARTH_ROTATION_RAD_S * 6_928_137.0, rel=1e-3)
    assert 30.0 < apart_m < 70.0


def test_turning_matrices_are_rotations_and_turn_once_in_a_sidereal_day():
    start = datetime(2022, 2, 22, tzinfo=UTC)
    t_s = np.array([0.0, 86_164.0905])
    _, fr, turn, rate_rad_s = turns(start, t_s)
    np.testing.assert_allclose(turn @ turn.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-15)
    np.testing.assert_allclose(turn[0], turn[1], atol=1e-6)
    np.testing.assert_allclose(fr, t_s / 86_400.0)
    assert rate_rad_s == pytest.approx(EARTH_ROTATION_RAD_S, rel=2e-7)  # the equinox, from which it counts, moves too


@pytest.mark.parametrize(
    ("rows", "start", "reason"),
    [
        ([(MJD, 0.1, 0.1, 0.0), (MJD + 1, 0.1, 0.1, 0.0)], "2022-02-23T23:30:00Z", "2022-02-22 to 2022-02-23"),
        ([(MJD, 0.1, 0.1, 0.0), (MJD + 1, 0.1, 0.1, 0.0)], "2022-02-21T23:30:00Z", "newer finals2000A file"),
        ([(MJD + i, 0.1, 0.1, i - 0.5) for i in (0, 1)], "2022-02-22T23:30:00Z", "newer finals2000A file"),
        ([(MJD + i, 0.1, 0.1, (-0.5, 0.5, 0.5)[i]) for i in range(3)], "2022-02-22T23:30:00Z", "leap second"),
    ],
)
def test_a_table_that_does_not_hold_is_refused(tmp_path, satellite, rows, start, reason):
    path = tmp_path / "finals.data"
    path.write_text(finals(rows))
    with pytest.raises(TwinError, match=reason):
        ephemeris([satellite], start, 3_600.0, orientation=read_earth_orientation(path))


def test_a_leap_second_lets_its_own_day_and_the_next_be_read_but_not_both():
    leap = EarthOrientation(MJD + np.arange(4), np.array([-0.3, -0.35, 0.6, 0.55]), np.zeros(4), np.zeros(4))
    for days, expected_s in (([0.5, 1.0], [-0.325, -0.35]), ([1.0, 1.5], [-0.35, -0.375]), ([2.0, 2.5], [0.6, 0.575])):
        np.testing.assert_allclose(leap.at(MJD + np.array(days))[0], expected_s, atol=1e-9)
    with pytest.raises(TwinError, match="leap second between 2022-02-23 and 2022-02-24"):
        leap.at(MJD + np.array([1.5, 2.0]))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_ends_where_its_values_do(tmp_path, end):
    """IERS' files go on for some days with dates alone, or with a pole and no UT1."""
    rows = finals([(MJD + i, 0.1, 0.2, -0.3) for i in range(3)]).splitlines()
    rows[2:] = [rows[2][:58].ljust(187), f"220224 {MJD + 3:8.2f}".ljust(187), f"220225 {MJD + 4:8.2f}"]
    path = tmp_path / "finals2000A.all"
    path.write_bytes((end.join(rows) + end).encode())
    np.testing.assert_array_equal(read_earth_orientation(path).mjd, [MJD, MJD + 1])


@pytest.mark.parametrize("content", [b"", b"<html>no such file</html>\n", b"\xff\xfe" * 100])
def test_what_is_no_table_is_refused(tmp_path, content):
    path = tmp_path / "finals.data"
    path.write_bytes(content)
    with pytest.raises(TwinError, match=r"finals\.data"):
        read_earth_orientation(path)
    with pytest.raises(TwinError, match="cannot be read"):
        read_earth_orientation(tmp_path / "nothing")
