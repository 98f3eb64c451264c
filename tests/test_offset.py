"""Clocks of two hosts: the offset found is the true one within the uncertainty stated, whatever the way there was."""

import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import toys
from terminal import ended, free_address, started

import hil
from hil import host, offset, wire
from hil.hub import Hub, There
from hil.offset import CLOCK_ID, clock_id
from twin import Agent, Answer, Field, Outcome, Record

pytestmark = pytest.mark.usefixtures("no_child_left")

US, MS, S = 1_000, 1_000_000, 1_000_000_000
THERE = "another host"


# ---- the estimator


def exchanges(n=500, period_ns=20 * MS, ahead_ns=7 * S, drift=0.0, jitter_us=(50.0, 400.0), seed=1):
    """Four stamps of n exchanges over a way that is slow and unequal at random, and the true offset of each."""
    rng = np.random.default_rng(seed)
    sent = 10**12 + period_ns * np.arange(n, dtype=np.int64)
    out = (US * (40 + rng.exponential(jitter_us[0], n))).astype(np.int64)
    back = (US * (40 + rng.exponential(jitter_us[1], n))).astype(np.int64)
    true = ahead_ns + np.rint(drift * (sent - sent[0])).astype(np.int64)
    received = sent + out + true
    replied = received + 300 * US
    return sent, received, replied, replied - true + back, true


@pytest.mark.parametrize("drift", [0.0, 20e-6, -100e-6, 400e-6])
@pytest.mark.parametrize("ahead_ns", [0, -3 * S, 10**17])
def test_offset_is_the_true_one_within_its_uncertainty(drift, ahead_ns):
    *stamps, true = exchanges(drift=drift, ahead_ns=ahead_ns)
    found, uncertainty = offset.offset(*stamps)
    assert (np.abs(found - true) <= uncertainty + 1).all()
    half_round_trip = (stamps[3] - stamps[0] - (stamps[2] - stamps[1])) / 2
    assert (uncertainty <= half_round_trip + 1).all()
    assert np.median(uncertainty) < np.median(half_round_trip) / 2  # neighbours that were quicker help


def test_clock_that_was_set_is_noticed_and_each_cycle_judged_by_itself():
    *stamps, true = exchanges()
    for i in (1, 2):
        stamps[i][250:] += S
    true[250:] += S
    found, uncertainty = offset.offset(*stamps)
    assert (np.abs(found - true) <= uncertainty + 1).all()


def test_cycles_that_were_not_stamped_get_the_offset_of_their_neighbours():
    *stamps, true = exchanges(drift=20e-6)
    for i in (1, 2, 3):
        stamps[i][100:150] = 0
    found, uncertainty = offset.offset(*stamps)
    assert (np.abs(found - true) <= uncertainty + 1).all()


def test_nothing_stamped_or_nonsense_is_no_offset():
    sent, received, replied, arrived, _ = exchanges(5)
    assert offset.offset(sent, 0 * received, replied, arrived) is None
    assert offset.offset(sent, received, replied + S, arrived) is None  # answered before it was asked


# ---- the report

AGENT = Agent("ue", (), (Field("number", ()),))
TOOK_US = {"wire_out": 100, "decode": 50, "compute": 600, "encode_answer": 70, "wire_back": 200}


def stamps_of(cycle, ahead_ns, extra_us=0):
    """Stamps of a cycle whose controller's clock is ahead; one way out and back is longer in some cycles."""
    at = 5 * S + cycle * 10 * MS
    stamps = {"slot_start": at, "release": at, "due": at + 8 * MS, "begin": at, "observed": at, "sent": at}
    received = at + (TOOK_US["wire_out"] + extra_us) * US + ahead_ns
    stamps |= {"waiting": at - MS + ahead_ns, "received": received, "decoded": received + TOOK_US["decode"] * US}
    stamps["acted"] = stamps["decoded"] + TOOK_US["compute"] * US
    stamps["replied"] = stamps["acted"] + TOOK_US["encode_answer"] * US
    stamps["arrived"] = stamps["replied"] + TOOK_US["wire_back"] * US - ahead_ns
    return stamps


def report_of(folder, cycles, seated):
    """The report of cycles with these stamps, on a seat that was taken like this: (from which cycle on, clock)."""
    meta = {
        "scenario": "synthetic",
        "clock": "realtime",
        "seed": 1,
        "resolved": {"agents": {"ue": {}}},
        "clock_id": CLOCK_ID,
    }
    record = Record.create(folder, (AGENT,), len(cycles), meta)
    for slot, stamps in enumerate(cycles):
        record.decision("ue", slot, Answer(None, "on_time", "agent", stamps), {"number": np.array(0.0)})
        record.slot(slot, Outcome({"ue": 0.0}, {}))
    record.close("finished", overrun_slots=[])
    record = Record.open(folder)
    record.events = [
        {"event": "seated", "agent": "ue", "t_mono_ns": 5 * S + cycle * 10 * MS - MS, "clock_id": clock}
        for cycle, clock in seated
    ]
    return hil.report(record)["ue"]


def test_report_shows_the_times_of_another_host_as_if_its_clock_were_ours(tmp_path):
    cycles = [stamps_of(n, 3 * S, extra_us=1000 * (n % 3 > 0)) for n in range(60)]
    ue = report_of(tmp_path / "run", cycles, [(0, THERE)])
    assert ue.clock_offset_us == pytest.approx(3e6, abs=ue.clock_uncertainty_us)
    assert 0 < ue.clock_uncertainty_us <= 150 + 5 + 1  # half the best round trip, and 10 ms at 500 ppm
    found = {name: ue.components_us[name].p50 for name in TOOK_US}
    assert found["compute"] == pytest.approx(600)
    assert found["decode"] == pytest.approx(50)
    assert found["wire_back"] == pytest.approx(200, abs=ue.clock_uncertainty_us)
    assert ue.wire_us.p50 == pytest.approx(1300)  # both ways together need no clock
    assert ue.unaccounted_us.max == pytest.approx(0, abs=1e-3)
    assert ue.to_dict()["clock_offset_us"] == ue.clock_offset_us


@pytest.mark.parametrize("clock", [CLOCK_ID, ""], ids=["the same", "not said"])
def test_one_clock_is_left_as_it_is(tmp_path, clock):
    ue = report_of(tmp_path / "run", [stamps_of(n, 0) for n in range(10)], [(0, clock)])
    assert ue.clock_offset_us is ue.clock_uncertainty_us is None
    assert {name: ue.components_us[name].p50 for name in TOOK_US} == TOOK_US


def test_seat_that_goes_to_another_host_in_the_run_has_the_clock_of_each(tmp_path):
    cycles = [stamps_of(n, 0) for n in range(20)] + [stamps_of(n, -2 * S) for n in range(20, 40)]
    ue = report_of(tmp_path / "run", cycles, [(0, CLOCK_ID), (20, THERE)])
    assert ue.clock_offset_us == pytest.approx(-2e6, abs=ue.clock_uncertainty_us)
    assert ue.components_us["wire_back"].p50 == pytest.approx(200, abs=ue.clock_uncertainty_us)
    assert ue.components_us["wire_out"].p50 == pytest.approx(100, abs=ue.clock_uncertainty_us)


def test_foreign_stamps_that_cannot_be_placed_are_left_out(tmp_path):
    cycles = [stamps_of(n, 3 * S) for n in range(10)]
    for stamps in cycles:
        del stamps["replied"]
    ue = report_of(tmp_path / "run", cycles, [(0, THERE)])
    assert ue.clock_offset_us is None
    assert ue.components_us["wire_out"].p50 is None
    assert ue.unaccounted_us.p50 == ue.response_us.p50 == pytest.approx(1020)


# ---- who uses whose clock


def test_processes_of_one_host_share_the_name_of_its_clock():
    code = "from hil.offset import clock_id; print(clock_id())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == clock_id()
    assert clock_id() == CLOCK_ID


def test_system_that_does_not_tell_its_clock_shares_it_with_nobody(monkeypatch):
    monkeypatch.setattr(Path, "stat", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)))
    assert clock_id() != clock_id()


def asked(slot, t_mono_ns, clock=THERE, deadline_us=8000.0):
    return wire.Asked("run", "ue", slot, 0, t_mono_ns, clock, {}, None, False, {}, {"deadline_us": deadline_us})


@pytest.mark.parametrize("ahead_ns", [0, 1000 * S, -1000 * S])
def test_controller_by_another_clock_skips_what_is_too_late_and_only_that(ahead_ns):
    clock, known = CLOCK_ID if ahead_ns == 0 else THERE, deque(maxlen=host.REMEMBERED)
    now = time.monotonic_ns()

    def read(slot, ago_ms):  # posted so long ago, and read on arrival half a millisecond later
        return now - (ago_ms * MS - MS // 2), asked(slot, now - ago_ms * MS - ahead_ns, clock)

    assert [m.slot for _, m in host._still_open([read(0, 900)], known)] == [0]
    together = [read(1, 500), read(2, 3), read(3, 1)]
    assert [m.slot for _, m in host._still_open(together, known)] == [2, 3]


def test_stamp_of_another_clock_condemns_no_answer():
    """The twin did not look over a deadline; only a stamp of its own clock may say that the answer left too late."""
    agent = toys.TwoTier().agents[1]
    for clock, status in ((CLOCK_ID, "late"), (THERE, "on_time")):
        hub = Hub("run-1")
        try:
            shapes = wire.specs(agent.observes), wire.specs(agent.acts)
            welcome = wire.Welcome(
                1, "run-1", agent.name, 1, 0.01, 1, 1, 0, *shapes, {}, "realtime", 1.0, False, 10, [], {}
            )
            seat = There(hub, agent, ("leader",), welcome, 5.0, 1.0)
            seat.sit(b"x", wire.Hello(1, agent.name, clock_id=clock))
            now = time.monotonic_ns()
            seat.post(toys.observation(), 0, now - MS)  # its deadline was over before anybody looked
            values = wire.pack({"number": np.array(1.0)})
            seat.answered(wire.Reply(agent.name, "run-1", 0, values, stamps={"replied": now}), now)
            answer = seat._cycles[0].answer
            assert ("overrun" in answer.stamps) == (status == "on_time")
        finally:
            hub.close()


# ---- a whole run

APART_S = 100_000


def can_have_another_clock():
    try:
        code = "import time; print(time.monotonic())"
        words = ["unshare", "--time", "--monotonic", str(APART_S), sys.executable, "-c", code]
        there = subprocess.run(words, capture_output=True, text=True, timeout=30)
        return there.returncode == 0 and float(there.stdout) - time.monotonic() > APART_S / 2
    except OSError:
        return False


@pytest.mark.parametrize("clock", ["lockstep", "realtime"])
def test_controller_in_another_time_namespace_is_found_as_far_ahead_as_it_is(tmp_path, clock):
    if not can_have_another_clock():
        pytest.skip("this needs unshare --time and the rights to use it")
    address = free_address()
    serve = f"import hil, toys; hil.serve(toys.Echo, 'follower', {address!r})"
    words = ["unshare", "--time", "--monotonic", str(APART_S), sys.executable, "-c", serve]
    with started(*words, cwd=tmp_path) as controller:
        scenario = toys.scenario(("Echo", "external"), slots=40, slot_s=0.05)
        record = hil.run(scenario, clock, tmp_path / "run", bind=address)
        assert ended(controller)[0] == 0
    messages = record.meta["messages"]
    assert messages["leader"]["clock_id"] == record.meta["clock_id"] == CLOCK_ID
    assert messages["follower"]["clock_id"] not in ("", CLOCK_ID)
    report = hil.report(Record.open(tmp_path / "run"))
    follower = report["follower"]
    assert abs(follower.clock_offset_us - APART_S * 1e6) <= follower.clock_uncertainty_us
    assert follower.clock_uncertainty_us < 1e6
    assert report["leader"].clock_offset_us is None
    assert all(s.p50 is None or s.p50 < 1e6 for s in follower.components_us.values())
    assert follower.response_us.n > 0
