"""`ntn-twin bench channel` at a toy's size: figures, errors and refusals. What the figures are is for tests/bench."""

import importlib.util
import json
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from figures import numbers

from hil import bench, bench_channel, cli
from hil import bench_channel_peers as peers
from twin.channel import Link
from twin.channel.slot import block_snr
from twin.errors import TwinError
from twin.parallel import default_threads

pytestmark = pytest.mark.usefixtures("no_child_left")

LINK = Link(n_rb=10, tx_antennas=(4, 3), rx_antennas=(3, 2))
TINY = bench_channel.Effort(
    rounds=2,
    rows=6,
    calls=2,
    full_slots=2,
    grid=3,
    sweep_rounds=2,
    pass_s=2.0,
    pass_rounds=1,
    links=5,
    memory=False,
)
PEAKS = {"as_compiled": {"gflops_1t": 50.0}, "widest": {"gflops_1t": 80.0}}


@pytest.fixture(scope="module")
def found():
    """One whole benchmark, tiny, as it is where OpenNTN is not installed."""
    there = importlib.util.find_spec
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "openntn" else there(name))
        patch.setattr(bench_channel, "peaks", lambda: PEAKS)
        return bench_channel.measure(TINY, link=LINK)


def test_every_figure_is_there_or_says_why_not(found):
    assert set(found["goals"]) == set(bench_channel.GOALS)
    for key in bench_channel.GOALS:
        assert found[key] is not None or found["why_not"][key], key


def test_every_number_is_finite_and_all_of_it_is_json(found):
    assert [path for path, value in numbers(found) if not math.isfinite(value)] == []
    assert json.loads(json.dumps(found, allow_nan=False))["slot"]["L20"]["us"] == found["slot"]["L20"]["us"]


def test_missing_openntn_is_named_with_the_remedy(found):
    assert found["slot_L7_vs_openntn"] is None
    assert found["goals"]["slot_L7_vs_openntn"]["met"] is None
    assert found["why_not"]["slot_L7_vs_openntn"] == "openntn is not installed: pip install 'ntn-twin[bench]'"


def test_ratios_are_medians_of_neighbouring_blocks(found):
    blocks = found["slot"]["L20"]["blocks_us"]
    assert found["slot_L20_vs_blas"] == pytest.approx(float(np.median(np.divide(blocks["blas"], blocks["ours"]))))


def test_what_was_timed_is_right(found):
    for one in found["slot"].values():
        assert one["error"]["ours"]["max_relative"] < 1e-10
        assert one["error"]["blas_complex64"]["max_of_peak"] < 1e-4
    for one in found["sweep"].values():
        assert one["error"]["ours"]["max_of_peak"] < 1e-10
        assert one["pairs"] == TINY.grid**4
    assert found["pass"]["same_on_each_number_of_threads"]
    assert (found["pass"]["slots"], found["pass"]["samples_a_slot"]) == (20, 100)
    assert found["batch"]["same_answer"]


def test_slots_have_as_many_paths_as_their_names_say(found):
    assert {name: one["n_paths"] for name, one in found["slot"].items()} == {"L20": 20, "L61": 61, "L7": 7}
    assert [one["departures"] for one in found["slot"].values()] == ["each its own", "each its own", "common"]


def test_table_has_every_figure_and_says_what_is_not_like_for_like(found):
    text = bench_channel.table(found | {"memory_bytes": {"ours_slot": 0, "openntn_slot": None}})
    for words in (*bench_channel.GOALS, "openntn is not installed", "not like for like", "ours slot 0.0"):
        assert words in text


@pytest.mark.parametrize("most", ["1t", "2t"])
def test_parts_of_a_pass_have_names_on_one_thread_and_on_two(found, most):
    parts = {"geometry_1t": 0.2, "gain_and_beams_1t": 0.3, f"geometry_{most}": 0.125, f"gain_and_beams_{most}": 0.25}
    passed = found["pass"] | {"seconds": dict.fromkeys(sorted({"1t", most}), 0.5), "parts_s": parts}
    assert "of which, s: geometry 0.125, gain and beams 0.250\n" in bench_channel.table(found | {"pass": passed})


@pytest.mark.parametrize("as_json", [True, False])
def test_command_prints_the_table_or_everything(found, monkeypatch, capsys, as_json):
    asked = []
    monkeypatch.setattr(bench_channel, "channel", lambda quick: asked.append(quick) or found)
    cli.bench("channel", quick=True, tle=None, as_json=as_json)
    said = capsys.readouterr().out
    assert asked == [True]
    assert ("slot_L20_vs_blas" in json.loads(said)) if as_json else said == bench_channel.table(found) + "\n"


@pytest.fixture(scope="module", params=[True, False], ids=["common departure", "own departures"])
def case(request):
    return peers.draw_case(LINK, 4, 5, request.param, seed=7)


def plain_vector(cosines, antennas):
    """A steering vector, antenna by antenna."""
    n_x, n_y = antennas
    turns = [np.exp(1j * np.pi * (x * cosines[0] + y * cosines[1])) for x in range(n_x) for y in range(n_y)]
    return np.array(turns) / np.sqrt(n_x * n_y)


def plain_matrix(case, row, m):
    """H of one block, path by path."""
    matrix = np.zeros((6, 12), dtype=complex)
    fading = case.fading
    for path in range(case.n_paths):
        leaving = fading.departure[row, min(path, fading.departure.shape[1] - 1)]
        turn = np.exp(-2j * np.pi * LINK.rb_bandwidth_hz * m * fading.delay_s[row, path])
        arriving = plain_vector(fading.arrival[row, path], LINK.rx_antennas)
        matrix += fading.amplitude[row, path] * turn * np.outer(arriving, plain_vector(leaving, (4, 3)).conj())
    return matrix


@pytest.mark.parametrize("at_once", [10, 4, 1])
def test_full_matrix_is_that_of_its_paths_however_many_blocks_at_once(case, at_once):
    full = peers.FullMatrix(LINK, case.n_paths, at_once=at_once)
    made = [matrix.copy() for _, matrices in full.matrices(case, 2) for matrix in matrices]
    np.testing.assert_allclose(made, [plain_matrix(case, 2, m) for m in range(10)], atol=1e-12)


def test_every_way_of_the_full_matrix_gives_the_closed_form(case):
    ours = block_snr(LINK, case.fading, case.gain, case.tx_beam_deg, case.rx_beam_deg, threads=1)
    full, single = (peers.quickest_matrix(case, dtype, tries=1) for dtype in (np.complex128, np.complex64))
    for row in range(case.n):
        np.testing.assert_allclose(full.snr(case, row), ours[row], rtol=1e-10)
        np.testing.assert_allclose(peers.einsum_snr(case, row), ours[row], rtol=1e-10)
        np.testing.assert_allclose(peers.beams_first_snr(case, row), ours[row], rtol=1e-10)
        np.testing.assert_allclose(single.snr(case, row), ours[row], atol=1e-4 * ours[row].max())


@pytest.mark.parametrize("tx_first", [True, False])
def test_both_orders_of_the_sweep_give_the_power_of_every_pair(case, tx_first):
    rng = np.random.default_rng(8)
    tx_codebook, rx_codebook = rng.uniform(-0.9, 0.9, (5, 2)), rng.uniform(-0.9, 0.9, (4, 2))
    found = peers.MatrixSweep(peers.FullMatrix(LINK, case.n_paths), tx_codebook, rx_codebook, tx_first).power(case, 1)
    expected = np.zeros((5, 4))
    for m in range(10):
        matrix = plain_matrix(case, 1, m)
        for i, sent in enumerate(tx_codebook):
            for j, heard in enumerate(rx_codebook):
                response = plain_vector(heard, (3, 2)).conj() @ matrix @ plain_vector(sent, (4, 3))
                expected[i, j] += abs(response) ** 2 / 10
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_operations_of_a_slot_are_counted_as_the_kernel_does_them(case):
    counted = peers.flops_of(case)
    least = 8 * case.n_paths * LINK.n_rb  # a complex multiply-add for each path and block
    assert least < counted["flops"] < 2_000 * case.n_paths
    assert counted["flops"] == sum(counted["weight"][kind] * n for kind, n in counted["each"].items())


@pytest.fixture(scope="module")
def openntn():
    missing = peers.why_no_openntn()
    if missing:
        pytest.skip(missing)


def test_openntn_gives_seven_paths_and_as_many_slots_as_asked(openntn):
    theirs = peers.OpenNtn(LINK, "double", slots=3)
    coefficients, delay_s = theirs.impulses()
    assert tuple(coefficients.shape) == (6, 12, 7, 3)
    assert tuple(delay_s.shape) == (7,)
    assert tuple(theirs.snr().shape) == (3, 10)


def test_both_ways_through_openntn_give_the_same_snr(openntn, monkeypatch):
    theirs = peers.OpenNtn(LINK, "double", slots=2)
    drawn = theirs.channel(2, 10.0)
    theirs.channel = lambda slots, rate_hz: drawn
    np.testing.assert_allclose(theirs.snr().numpy(), theirs.snr_by_response().numpy(), rtol=1e-9)


def test_openntn_is_judged_by_processor_time_in_our_precision(openntn, case):
    ways, missing = bench_channel.openntn_ways(LINK)
    assert missing is None
    measured = bench_channel.slot(case, ways, TINY, 80.0)
    assert measured["openntn_best"].startswith("openntn_double")
    assert measured["vs_openntn_cpu"] == measured["openntn_cpu_ratios"][measured["openntn_best"]]


def test_memory_of_the_full_matrix_is_that_of_its_blocks():
    size = peers.memory_of("blas_slot")
    if size is None:
        pytest.skip("this system does not tell the peak of a process's memory")
    matrices = 100 * 256 * 64 * 16
    assert matrices <= size <= 2 * matrices


def test_way_is_run_once_before_the_clock_and_once_a_round():
    runs = []
    took = bench_channel.Took.in_turn(
        {name: bench_channel.Way(partial(runs.append, name), n=4) for name in ("a", "b")}, rounds=3
    )
    assert runs == ["a", "b"] * 4
    assert [len(blocks) for blocks in (*took.wall_s.values(), *took.cpu_s.values())] == [3] * 4


def test_ratio_is_the_median_of_neighbours():
    took = bench_channel.Took({"slow": [2.0, 30.0, 8.0], "fast": [1.0, 3.0, 2.0]}, {"slow": [9.0], "fast": [3.0]})
    assert took.ratio("slow", "fast") == 4.0
    assert took.ratio("slow", "fast", cpu=True) == 3.0
    assert took.us()["slow"] == 8e6


def test_threads_are_held_to_a_number_for_a_while():
    before = default_threads()
    with bench_channel.held_to(1):
        assert default_threads() == 1
    assert default_threads() == before


def test_openntn_that_cannot_be_imported_is_a_reason(monkeypatch):
    def broken(*what):
        raise ImportError("no module named 'sionna.phy'")

    monkeypatch.setattr(peers, "why_no_openntn", lambda: None)
    monkeypatch.setattr(bench_channel, "OpenNtn", broken)
    assert bench_channel.openntn_ways(LINK) == ({}, "openntn cannot be imported: no module named 'sionna.phy'")


def test_two_threads_are_not_judged_on_one_processor(monkeypatch):
    monkeypatch.setattr(bench_channel, "usable", lambda: 1)
    for name, value in PARTS.items():
        monkeypatch.setattr(bench_channel, name, lambda *what, value=value: value)
    measured = bench_channel.measure(TINY, link=LINK)
    for key in ("pass_vs_real_time", "batch_2t_vs_single"):
        assert measured["goals"][key]["met"] is None
        assert measured["why_not"][key] == "one processor is all there is"
    assert measured["goals"]["sweep_general_vs_blas"]["met"] is True


PARTS = {
    "peaks": PEAKS,
    "openntn_ways": ({}, "openntn is not installed"),
    "slot": {"vs_blas": 1e3, "vs_openntn_cpu": None},
    "sweep": {"vs_blas": 1e3},
    "a_pass": {"vs_real_time": 1e3},
    "batch": {"2t_vs_single": 1e3},
}


@pytest.mark.parametrize(
    ("told", "words"), [('{"error": "no such channel"}', "no such channel"), ("", "ended with code 7")]
)
def test_failure_of_the_measuring_process_is_told(monkeypatch, told, words):
    monkeypatch.setattr(bench.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=told, returncode=7))
    with pytest.raises(TwinError, match=words):
        bench_channel.channel()
