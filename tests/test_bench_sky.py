"""`ntn-twin bench sky` at a toy's size: figures, errors and refusals. What the figures are is for tests/bench."""

import importlib.util
import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from figures import numbers
from terminal import python

import twin
from hil import bench, bench_sky
from hil import bench_sky_peers as peers
from twin.errors import TleError, TwinError
from twin.overpass import Pass

pytestmark = pytest.mark.usefixtures("no_child_left")

TINY = bench_sky.Effort(
    satellites=40, times=12, rounds=2, look_blocks=2, slots=10, error_times=4, sites=120, passes_satellites=12
)
PEAKS = {"as_compiled": {"gflops_1t": 50.0, "gflops_2t": 100.0}, "widest": {"gflops_1t": 80.0, "gflops_2t": 160.0}}


@pytest.fixture(scope="module")
def satellites():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peers.catalogue(peers.SNAPSHOT, 40)[1]


@pytest.fixture(scope="module")
def found():
    """One whole benchmark, tiny, as it is where none of the other packages is installed."""
    there = importlib.util.find_spec
    absent = ("astroz", "heyoka", "satkit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else there(name))
        patch.setattr(peers, "peaks", lambda: PEAKS)
        yield bench_sky.measure(TINY, str(peers.SNAPSHOT))


def test_every_figure_is_there_or_says_why_not(found):
    assert set(found["goals"]) == set(bench_sky.GOALS)
    for key in bench_sky.GOALS:
        assert found[key] is not None or found["why_not"][key], key


def test_every_number_is_finite_and_all_of_it_is_json(found):
    assert [path for path, value in numbers(found) if not math.isfinite(value)] == []
    assert json.loads(json.dumps(found, allow_nan=False))["sgp4"]["ns"] == found["sgp4"]["ns"]


def test_missing_packages_are_named_with_the_remedy(found):
    for key in ("sgp4_1t_vs_astroz", "sgp4_2t_vs_astroz"):
        assert found[key] is None
        assert found["goals"][key]["met"] is None
        assert found["why_not"][key] == "astroz is not installed: pip install 'ntn-twin[bench]'"
    assert "heyoka" in found["why_not"]
    assert "satkit" in found["why_not"]


def test_slot_of_few_satellites_is_not_held_against_the_goal_for_many(found):
    assert found["slot_all_us"] > 0.0
    assert found["goals"]["slot_all_us"]["met"] is None
    assert "40 satellites" in found["why_not"]["slot_all_us"]


def test_ratios_are_medians_of_neighbouring_blocks(found):
    blocks = found["sgp4"]["blocks_ns"]
    several = max(name for name in blocks if name in ("ours_1t", "ours_2t"))
    ratio = float(np.median(np.divide(blocks["sgp4"], blocks[several])))
    assert found["sgp4_2t_vs_sgp4"] == (ratio if several == "ours_2t" else None)


def test_limit_is_the_larger_of_computing_and_writing(found):
    limit = found["sgp4"]["limit"]
    on = limit["on_1t"]
    assert on["compute_ns"] == pytest.approx(limit["operations"]["flops"] / 80.0)
    assert on["limit_ns"] == max(on["compute_ns"], on["write_ns"])
    assert on["reached"] == pytest.approx(on["limit_ns"] / found["sgp4"]["ns"]["ours_1t"])


def test_what_was_timed_is_right(found):
    a_hundredth_of_a_millimetre, a_millimetre = 1e-5, 1e-3
    for name in ("ours_1t", "ours_1t_fresh", "sgp4_in_blocks"):
        assert found["sgp4"]["error"][name]["max_m"] < a_hundredth_of_a_millimetre
    assert found["look_range_error_m"] < a_millimetre
    assert found["culling"]["same_answer"]
    assert found["passes"]["same"]
    assert found["passes"]["agreeing"] > 0
    assert (found["passes"]["satellites"], found["passes"]["drawn_from"]) == (12, 3_343)


def test_table_has_every_figure_and_every_missing_package(found):
    text = bench_sky.table(found)
    for key in (*bench_sky.GOALS, "astroz is not installed", "heyoka is not installed", "satkit is not installed"):
        assert key in text


@pytest.mark.parametrize(
    ("package", "make", "metres"),
    [
        ("astroz", lambda task: peers.astroz_paths(task, 2), 1.0),
        ("heyoka", lambda task: peers.heyoka_paths(task, (1, 2)), 1e-4),
        ("satkit", lambda task: peers.satkit_paths(task), 1.0),
        ("sgp4", lambda task: peers.our_paths(task, (1, 2)), 1e-5),
    ],
)
def test_every_way_of_a_peer_gives_the_states_of_sgp4_within_its_error(satellites, package, make, metres):
    pytest.importorskip(package)
    task = peers.Task.of_a_day(satellites, 6)
    reference = peers.sgp4_paths(task)["sgp4"]
    reference.run()
    for name, way in make(task).items():
        way.run()
        error = peers.error_of(way, reference.states())
        assert error["max_m"] < metres, name
        assert error["max_m_s"] < 0.01 * metres, name


def test_astroz_on_one_thread_is_a_process_that_ends(satellites):
    pytest.importorskip("astroz")
    alone = peers.Alone(peers.Task.of_a_day(satellites, 6), str(peers.SNAPSHOT), 1)
    alone.run("astroz_time_major_1t")
    alone.close()
    assert alone._process.returncode is not None


def test_error_is_the_distance_of_the_states():
    reference = np.zeros((3, 2, 3)), np.ones((3, 2, 3))
    off = reference[0].copy(), reference[1].copy()
    off[0][1, 1] = 3e-3, 0.0, 4e-3
    off[1][2, 0, 2] += 1e-3
    error = peers.error_of(peers.Way(lambda: None, 6, 1, lambda: off), reference)
    assert error == pytest.approx({"max_m": 5.0, "median_m": 0.0, "max_m_s": 1.0})


def test_numpy_look_angles_are_those_of_the_cache(satellites):
    start_utc = peers.middle_utc(satellites)
    cache = twin.ephemeris(satellites, start_utc, 600.0)
    t_s = np.array([0.0, 12.5, 333.3, 599.0])
    careful = peers.NumpyLook(satellites, bench_sky.HERE, start_utc, 20e9)
    elevation_deg, azimuth_deg, slant_range_m, range_rate_m_s, doppler_hz = careful(careful.prepare(t_s))
    seen = twin.look(cache, **bench_sky.PLACE, t_s=t_s, carrier_hz=20e9)
    a_millimetre, sgp4s_own_velocity_m_s = 1e-3, 1.5
    assert np.abs(seen.slant_range_m - slant_range_m).max() < a_millimetre
    assert np.abs(seen.elevation_deg - elevation_deg).max() < 1e-7
    assert np.abs((seen.azimuth_deg - azimuth_deg + 180.0) % 360.0 - 180.0).max() < 1e-6
    assert np.abs(seen.range_rate_m_s - range_rate_m_s).max() < sgp4s_own_velocity_m_s
    assert doppler_hz == pytest.approx(-20e9 / 299_792_458.0 * range_rate_m_s)


def test_both_chains_of_frames_give_the_same_range(satellites):
    start_utc = peers.middle_utc(satellites)
    direct = peers.ranges_m(satellites, bench_sky.HERE, start_utc, np.array([10.0, 50_000.0]))
    a_hundredth_of_a_millimetre = 1e-5
    assert np.abs(direct["gmst82"] - direct["skyfield"]).max() < a_hundredth_of_a_millimetre


def a_pass(rise_s, set_s, satellite_index=0):
    return Pass(
        satellite_index, "a", 1, rise_s, 0.5 * (rise_s + set_s), set_s, 50.0, rise_s <= 0.0 or set_s >= 86_400.0
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([a_pass(10.0, 400.0)], [(10.2, "rise"), (399.7, "set")], (2, 0, 0, 0)),
        ([a_pass(10.0, 400.0)], [(10.6, "rise"), (400.0, "set")], (1, 1, 0, 0)),
        ([a_pass(10.0, 400.0)], [(400.0, "set")], (1, 0, 0, 1)),
        ([a_pass(0.0, 400.0)], [(400.0, "set")], (1, 0, 0, 0)),
        ([a_pass(80_000.0, 86_400.0)], [(80_000.0, "rise")], (1, 0, 0, 0)),
        ([], [(10.0, "rise"), (400.0, "set")], (0, 0, 2, 0)),
        ([a_pass(10.0, 400.0), a_pass(420.0, 700.0)], [(10.0, "rise"), (700.0, "set")], (2, 0, 0, 2)),
        ([a_pass(10.0, 400.0)], [(400.0, "rise"), (10.0, "set")], (0, 0, 2, 2)),
    ],
)
def test_rises_and_sets_agree_are_apart_missing_or_extra(ours, theirs, expected):
    compared = bench_sky.same_passes(ours, [theirs, []], np.array([False, False]))
    assert tuple(compared[key] for key in ("agreeing", "further_apart", "missing", "extra")) == expected
    assert compared["same"] == (expected[1:] == (0, 0, 0))


def test_satellites_that_sgp4_loses_are_not_compared():
    compared = bench_sky.same_passes([a_pass(10.0, 400.0)], [[]], np.array([True]))
    assert compared["same"]
    assert compared["left_out_satellites"] == 1


PARTS = {
    "propagation": {**dict.fromkeys(list(bench_sky.GOALS)[:3], 99.0), "why_not": {}, "ns": {}, "write_ns": {}},
    "limit": {},
    "looks": {"vs_sgp4_numpy": 30.0, "error": {"worst_m": 0.0}, "slot_us": {"p50": 1.0}},
    "culling": {"speedup": 9.0},
}


def test_passes_that_differ_miss_the_goal_however_quick(monkeypatch):
    for part in ("propagation", "limit", "looks", "culling"):
        monkeypatch.setattr(bench_sky, part, lambda *what, part=part: PARTS[part])
    monkeypatch.setattr(bench_sky, "passes", lambda *what: {"vs_skyfield": 1e4, "same": False})
    measured = bench_sky.measure(TINY, str(peers.SNAPSHOT))
    assert measured["goals"]["passes_vs_skyfield"]["met"] is False
    assert measured["goals"]["culling_speedup"]["met"] is True


def test_operations_are_counted_as_they_are_done():
    peers.Counted.tally.clear()
    x = peers.Counted(2.0)
    y = (3.0 * x + 1.0) / x - np.sqrt(x) * np.sin(x) + np.arctan2(x, 2.0) - x**1.5
    assert float(y) == pytest.approx(3.5 - math.sqrt(2.0) * math.sin(2.0) + math.pi / 4.0 - 2.0**1.5)
    assert dict(peers.Counted.tally) == {"add": 4, "multiply": 2, "divide": 1, "root": 2, "sine": 1, "arctan": 1}


def test_operations_of_a_propagation_are_some_hundreds(satellites):
    counted = peers.flops_of(satellites[0], n_times=16)
    assert 300 < counted["flops"] < 1_000
    assert counted["flops"] == sum(counted["weight"][kind] * n for kind, n in counted["each"].items())


def test_multiply_add_kernel_runs_as_python_and_compiled():
    compiled, plain = np.linspace(0.1, 0.2, 4), np.linspace(0.1, 0.2, 4)
    peers.chains(compiled, 2)
    peers.chains.py_func(plain, 2)
    assert compiled == pytest.approx(plain, rel=1e-12)
    assert peers.peak_gflops(1, rounds=20, blocks=2) > 0.0


def test_catalogue_is_near_earth_and_no_longer_than_wanted(satellites):
    assert len(satellites) == 40
    assert all(one.mean_motion_rev_day > peers.DEEP_REV_DAY for one in satellites)
    with pytest.raises(TleError, match=r"there is no TLE file nowhere\.tle"):
        peers.catalogue("nowhere.tle")


@pytest.mark.parametrize(("told", "words"), [('{"error": "no such sky"}', "no such sky"), ("", "ended with code 7")])
def test_failure_of_the_measuring_process_is_told(monkeypatch, told, words):
    monkeypatch.setattr(bench.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=told, returncode=7))
    with pytest.raises(TwinError, match=words):
        bench_sky.sky()


def test_catalogue_of_ones_own_is_for_the_sky_alone(tmp_path):
    code, _, said = python("-m", "hil.cli", "bench", "loop", "--tle", "mine.tle", cwd=tmp_path)
    assert code == 2
    assert "--tle is for bench sky" in said
