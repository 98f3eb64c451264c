"""`ntn-twin bench loop` at a toy's size: every figure is there and finite. What the figures are is for tests/bench."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from figures import numbers
from terminal import python

from hil import bench, launch, wire
from hil.bench_peers import Nothing, Same, Settings
from twin import check_controller, check_world

pytestmark = pytest.mark.usefixtures("no_child_left")

TINY = bench.Effort(rounds=1, pairs=1, per_block=20, slices=1, slice_s=0.2, rung_s=0.05)


@pytest.fixture(scope="module")
def found():
    """One whole benchmark, tiny, on a short ladder."""
    whole = bench.LADDER_S
    bench.LADDER_S = (0.05, 0.02)
    try:
        yield bench.loop(TINY)
    finally:
        bench.LADDER_S = whole


def test_every_figure_is_there_or_says_why_not(found):
    for key in (*bench.GOALS, "lockstep_slots_per_s", "bare_echo_per_s"):
        assert found[key] is not None or found["why_not"][key], key
    assert set(found["goals"]) == set(bench.GOALS)


def test_every_number_is_finite_and_all_of_it_is_json(found):
    assert [path for path, value in numbers(found) if not math.isfinite(value)] == []
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_every_cycle_and_every_release_is_accounted_for(found):
    lateness = found["lateness"]["as_it_is"]
    assert lateness["every_cycle_accounted_for"]
    assert lateness["slots"] == 200
    assert [a + b for a, b in zip(lateness["on_time"], lateness["misses"])] == [200, 200]
    assert sum(lateness["histogram"]["ours"]) == 199  # the first cycle is kept apart


def test_rates_are_those_of_the_times(found):
    tcp = found["lockstep"]["tcp"]
    assert found["lockstep_slots_per_s"] == pytest.approx(1e6 / tcp["us"], rel=1e-3)
    assert found["bare_echo_per_s"] == pytest.approx(1e6 / tcp["bare_echo_us"], rel=1e-3)


def test_table_has_every_figure_and_a_sentence_on_the_machine(found):
    text = bench.table(found)
    for key in bench.GOALS:
        assert key in text
    assert text.splitlines()[-1].startswith("This machine, as loaded now, ")


@pytest.mark.parametrize(
    ("slots", "stall_ms", "at"), [(1200, 500, 300), (1000, 500, 0), (400, 90, 399), (777, 1000, 20)]
)
def test_stall_is_reported_to_the_nanosecond(tmp_path, slots, stall_ms, at):
    found = bench.stalled(tmp_path / "run", slots=slots, stall_ms=stall_ms, at=at)
    assert found["error_us"] == 0.0


def test_stall_of_half_a_second_is_what_paper_and_pencil_say(tmp_path):
    found = bench.stalled(tmp_path / "run")
    # slot 301 begins 501 - 10 ms late; each slot answers within 1 ms and makes up 9: 500 - 9 j > 0 for j = 1 ... 55
    assert found["overruns"] == {"reported": 55, "analytic": 55}
    assert found["misses"] == {"reported": 54, "analytic": 54}  # 501 - 9 j > 8 ms
    assert found["release_lateness_max_us"]["reported"] == 491_000.0
    # the 1187th of 1199 values, and 2 hundredths of the way to the next: 383 + 0.02 * 9 ms
    assert found["release_lateness_p99_us"]["reported"] == pytest.approx(383_180.0, abs=1e-3)


def test_percentile_is_the_one_of_numpy():
    values = [int(x) for x in np.random.default_rng(3).integers(0, 1000, 137)]
    for part in (Fraction(1, 2), Fraction(99, 100), Fraction(1)):
        assert float(bench.percentile(values, part)) == pytest.approx(np.percentile(values, float(100 * part)))


@pytest.mark.parametrize(
    ("tried", "words"),
    [
        ([(10, True), (5, True), (2, False)], ("down to slots of 5 ms", "Slots of 2 ms it did not keep (3 overruns")),
        ([(10, True), (5, True)], ("down to slots of 5 ms",)),
        ([(10, False)], ("keeps not even slots of 10 ms (3 overruns, lateness p99 99 us)",)),
    ],
)
def test_verdict_says_how_time_realistic_the_machine_is(tried, words):
    rungs = [{"slot_ms": ms, "lateness_p99_us": 99.0, "overruns": 0 if ok else 3, "holds": ok} for ms, ok in tried]
    held = [ms for ms, ok in tried if ok]
    said = bench.verdict_of({"shortest_slot_ms": min(held, default=None), "tried": rungs})
    for word in words:
        assert word in said


def test_worlds_and_controllers_of_the_benchmark_keep_the_contract():
    for n_agents in (1, 2):
        world = Nothing(Settings(n_agents), slots=50, slot_s=0.01, folder=None, agents={})
        check_world(lambda world=world: world)
        check_controller(lambda agent, seed: Same(agent, seed), world.agents[0])


def test_unknown_subject_says_what_there_is(tmp_path):
    code, _, said = python("-m", "hil.cli", "bench", "sea", cwd=tmp_path)
    assert code == 2
    assert "no benchmark 'sea'; there is: loop, sky, channel" in said


def test_echo_sends_the_bytes_of_a_run(tmp_path, monkeypatch):
    sent, answered, encode, decode = [], [], wire.encode, wire.decode_incoming

    def counted(body):
        answered.append(len(body))
        return decode(body)

    monkeypatch.setattr(wire, "encode", lambda message: sent.append((message, encode(message))) or sent[-1][1])
    monkeypatch.setattr(wire, "decode_incoming", counted)
    launch.run(bench._scenario(300, 1, 0.001), "lockstep", tmp_path / "run")
    asked, answer = bench._messages()
    asked_in_run = [len(body) for message, body in sent if isinstance(message, wire.Asked)][290]
    assert len(asked) == pytest.approx(asked_in_run, abs=4)  # numbers that are a byte longer or shorter
    assert len(answer) == pytest.approx(answered[290], abs=4)
