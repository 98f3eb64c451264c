"""The picture of a run: the sky as on a map, the state in words."""

import io

import numpy as np
import pytest

from hil.cli import _passes
from hil.picture import Picture, sky_plot
from twin import build, load, planes, read_tle, select
from twin.geometry import Look
from twin.types import Outcome


def looks(azimuth_deg, elevation_deg):
    n = np.zeros(len(azimuth_deg))
    return Look(
        elevation_deg=np.array(elevation_deg, float),
        azimuth_deg=np.array(azimuth_deg, float),
        slant_range_m=n,
        range_rate_m_s=n,
        doppler_hz=n,
        propagation_delay_s=n,
    )


def test_zenith_is_in_the_middle_north_is_up_and_east_is_right():
    lines = sky_plot(looks([0, 90, 200, 0], [90, 45, 10, -5]), serving=0, mask_deg=30.0, radius=8)
    assert len(lines) == 17
    assert {len(line) for line in lines} == {33}
    assert lines[8][16] == "@"
    assert lines[8][24] == "o"
    assert (lines[0][16], lines[16][16], lines[8][0], lines[8][32]) == ("N", "S", "W", "E")
    assert "".join(lines).count(".") == 1


def outcome(number):
    measures = {
        "satellite": np.int64(number),
        "elevation_deg": np.float64(81.2),
        "los": np.bool_(True),
        "rate_bps": np.float64(2.5e8),
        "demand_bps": np.float64(2e8),
    }
    return Outcome({"leo": 0.0, "ue": 0.0}, measures)


def test_line_of_a_log_says_where_the_run_is_and_who_kept_up():
    stream = io.StringIO()
    picture = Picture(load("baseline"), stream)
    with picture:
        picture.watch(149, outcome(44920), {"leo": {"on_time": 15}, "ue": {"on_time": 148, "late": 2}})
    assert stream.getvalue() == (
        "slot 150/300  15.0 s  @ STARLINK-1102  81.2 deg high, in sight  250 Mbit/s, 200 asked  "
        "leo: 15 of 15 on time  ue: 148 of 150 on time\n"
    )


def test_picture_shows_the_serving_satellite_near_the_zenith_of_its_pass():
    picture = Picture(load("baseline"), io.StringIO())
    picture.live = True
    picture._read_sky()
    picture.watch(200, outcome(44920), {"leo": {"on_time": 21}})
    lines = picture.lines()
    assert any("@" in line[10:24] for line in lines[6:11])
    assert any("2022-02-22 13:10:50 UTC, lockstep" in line for line in lines)
    picture.watch(201, outcome(0), {})
    assert "nobody serves" in "\n".join(picture.lines())


@pytest.mark.filterwarnings("ignore:no satellite serves")
def test_world_picture_and_passes_fly_the_satellites_that_the_scenario_selects():
    one_plane = {"altitude_m": [546e3, 548e3], "raan_deg": 93.4}
    scenario = load("baseline", {f"sky.{key}": value for key, value in one_plane.items()} | {"slots": 600})
    sky = scenario.settings.sky
    shell = select(read_tle(f"{scenario.folder}/{sky.tle}", name=sky.name), altitude_m=sky.altitude_m)
    [plane] = [plane for plane in planes(shell, at=sky.start_utc) if abs(plane.raan_deg - 93.4) < 1.0]
    expected = {satellite.number for satellite in plane.satellites}
    assert len(expected) == 14
    with Picture(scenario, io.StringIO()) as picture:
        assert {satellite.number for satellite in picture._satellites} == expected
    assert {satellite.number for satellite in build(scenario).sky.satellites} == expected
    passing = {found["number"] for found in _passes(scenario, 24.0, 10.0)["passes"]}
    assert passing
    assert passing <= expected


def test_other_worlds_say_what_they_measure():
    picture = Picture(load("baseline"), io.StringIO())
    measures = {"capacity_bps_hz": np.float64(12.345678), "price": np.ones((2, 3)), "collisions": np.int64(3)}
    picture.watch(4, Outcome({"users": 0.5}, measures), {"users": {"on_time": 5}})
    assert picture.line().split("  ")[2:] == ["capacity_bps_hz 12.35", "collisions 3", "users: 5 of 5 on time"]
