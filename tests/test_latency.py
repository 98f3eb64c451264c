"""What the report makes of a record whose every stamp is known: components, percentiles, misses, and no omission."""

import json
import time

import msgspec
import numpy as np
import pytest
import toys

import hil
from hil.latency import COMPONENTS
from twin import Action, Agent, Answer, Field, Outcome, Record, run
from twin.record import STATUSES

pytestmark = pytest.mark.usefixtures("no_child_left")

US, MS = 1_000, 1_000_000
START_NS = 5 * 10**9
PERIOD_NS = 10 * MS  # a loop of 10 ms
AGENT = Agent("ue", (), (Field("number", ()),))
PLAN_US = {  # how long each part of a cycle takes, in its order
    "release_lateness": 10,
    "observe": 20,
    "encode": 30,
    "wire_out": 40,
    "queue": 0,
    "decode": 50,
    "compute": 600,
    "emulation": 0,
    "encode_answer": 70,
    "wire_back": 80,
}


def stamps_of(cycle, waiting_us=None, **changed_us):
    """Stamps of a cycle that follows the plan, ns; a controller that is not free before `waiting_us` makes it queue."""
    took = {name: US * value for name, value in (PLAN_US | changed_us).items()}
    release = START_NS + cycle * PERIOD_NS
    stamps = {"slot_start": release, "release": release, "due": release + 8 * MS}
    stamps["begin"] = release + took["release_lateness"]
    stamps["observed"] = stamps["begin"] + took["observe"]
    stamps["sent"] = stamps["observed"] + took["encode"]
    stamps["waiting"] = release - MS if waiting_us is None else release + waiting_us * US
    stamps["received"] = max(stamps["sent"], stamps["waiting"]) + took["wire_out"]
    stamps["decoded"] = stamps["received"] + took["decode"]
    stamps["acted"] = stamps["decoded"] + took["compute"]
    stamps["replied"] = stamps["acted"] + took["encode_answer"]
    stamps["arrived"] = stamps["replied"] + took["wire_back"] + took["emulation"]
    return stamps | {"emulation_ns": took["emulation"], "cpu_ns": took["compute"]}


def report_of(folder, answers, clock="realtime", at_least=None, slots=None, rewards=None, overrun_slots=(), grace=0):
    """The report of a record with these answers, one a slot."""
    seating = {"at_least": at_least, "startup_grace_cycles": grace}
    meta = {"scenario": "synthetic", "clock": clock, "seed": 1, "resolved": {"agents": {"ue": seating}}}
    record = Record.create(folder, (AGENT,), slots or len(answers), meta)
    for slot, answer in enumerate(answers):
        record.decision("ue", slot, answer, {"number": np.array(0.0)})
        record.slot(slot, Outcome({"ue": rewards[slot] if rewards else 0.0}, {"rate_bps": np.float64(slot)}))
    record.close("finished", overrun_slots=list(overrun_slots) if clock == "realtime" else None)
    return hil.report(Record.open(folder))


def on_time(cycle, **changed_us):
    return Answer(None, "on_time", "agent", stamps_of(cycle, **changed_us))


def missing(cycle):
    stamps = {name: value for name, value in stamps_of(cycle).items() if name in ("slot_start", "release", "due")}
    return Answer(None, "missing", "hold", stamps)


# ---- components


def test_every_component_is_what_was_stamped(tmp_path):
    ue = report_of(tmp_path / "run", [on_time(n) for n in range(5)])["ue"]
    assert tuple(ue.components_us) == COMPONENTS == tuple(PLAN_US)
    for name, spread in ue.components_us.items():
        assert (spread.p50, spread.max) == (PLAN_US[name], PLAN_US[name]), name
    assert ue.compute_us == ue.components_us["compute"]
    assert ue.release_lateness_us == ue.components_us["release_lateness"]
    assert ue.wire_us.p50 == 40 + 80  # both ways


def test_parts_sum_to_the_response(tmp_path):
    ue = report_of(tmp_path / "run", [on_time(n) for n in range(5)])["ue"]
    assert ue.response_us.p50 == sum(PLAN_US.values()) == 900
    assert (ue.unaccounted_us.p50, ue.unaccounted_us.max) == (0, 0)
    assert ue.accounted_share == 1.0
    assert ue.slack_us.p50 == 8000 - 900


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"emulation": 5000}, {"emulation": 5000, "wire_back": 80, "queue": 0}),
        ({"waiting_us": 2000}, {"queue": 1940, "wire_out": 40, "decode": 50}),  # it was sent 60 us after the release
        ({"waiting_us": 2000, "wire_out": 0}, {"queue": 1940, "wire_out": 0, "decode": 50}),
    ],
    ids=["slower computer", "busy controller", "read in one go"],
)
def test_parts_sum_to_the_response_whatever_held_it_up(tmp_path, changed, expected):
    ue = report_of(tmp_path / "run", [on_time(n, **changed) for n in range(5)])["ue"]
    found = {name: spread.p50 for name, spread in ue.components_us.items()}
    assert {name: found[name] for name in expected} == expected
    assert sum(found.values()) == pytest.approx(ue.response_us.p50)
    assert ue.unaccounted_us.p50 == pytest.approx(0, abs=1e-6)


def test_second_of_two_observations_read_at_once_queues_behind_the_first(tmp_path):
    stamps = stamps_of(1)
    stamps["waiting"] = stamps["received"] + 700 * US  # read from the socket, then left until the first was answered
    stamps["decoded"] = stamps["waiting"] + 50 * US
    stamps["acted"] = stamps["decoded"] + 600 * US
    stamps["replied"], stamps["arrived"] = stamps["acted"] + 70 * US, stamps["acted"] + 150 * US
    ue = report_of(tmp_path / "run", [on_time(0), Answer(None, stamps=stamps)])["ue"]
    assert ue.components_us["queue"].p50 == 40 + 700
    assert ue.components_us["wire_out"].p50 == 0
    assert ue.unaccounted_us.p50 == pytest.approx(0, abs=1e-6)


def test_controller_that_stamps_nothing_leaves_its_part_unaccounted(tmp_path):
    ours = ("slot_start", "release", "due", "begin", "observed", "sent", "arrived")
    answers = [
        Answer(None, stamps={name: value for name, value in stamps_of(n).items() if name in ours}) for n in range(5)
    ]
    ue = report_of(tmp_path / "run", answers)["ue"]
    assert ue.response_us.p50 == 900
    assert ue.unaccounted_us.p50 == 900 - (10 + 20 + 30)
    assert ue.accounted_share == pytest.approx(60 / 900)
    for name in ("wire_out", "queue", "decode", "compute", "encode_answer", "wire_back"):
        assert ue.components_us[name].p50 is None, name


def test_lock_step_has_neither_lateness_nor_slack(tmp_path):
    answers = [Answer(None, stamps=stamps_of(n) | {"due": 0}) for n in range(5)]
    report = report_of(tmp_path / "run", answers, clock="lockstep")
    ue = report["ue"]
    assert ue.release_lateness_us.p50 is ue.slack_us.p50 is report.twin_overruns is None
    assert ue.response_us.p50 == 900 - 10  # from when the twin turned to it
    assert ue.unaccounted_us.p50 == pytest.approx(0, abs=1e-6)
    json.dumps(report.to_dict(), allow_nan=False)


def test_order_wait_is_apart_from_the_response(tmp_path):
    answers = [Answer(None, stamps=stamps_of(n) | {"slot_start": START_NS + n * PERIOD_NS - MS}) for n in range(3)]
    ue = report_of(tmp_path / "run", answers)["ue"]
    assert (ue.order_wait_us.p50, ue.response_us.p50) == (1000, 900)


# ---- percentiles


def test_percentiles_interpolate_between_closest_ranks(tmp_path):
    """Of 101 known values, the first cycle not among them."""
    computes = np.random.default_rng(1).permutation(101)
    cycles = [on_time(0, compute=99_999)] + [on_time(n + 1, compute=int(us)) for n, us in enumerate(computes)]
    spread = report_of(tmp_path / "run", cycles)["ue"].compute_us
    assert (spread.n, spread.mean) == (101, 50)
    assert (spread.p50, spread.p90, spread.p99, spread.max) == (50, 90, 99, 100)
    assert spread.p99_9 == pytest.approx(99.9)


def test_first_cycle_is_kept_apart_and_still_counted(tmp_path):
    ue = report_of(tmp_path / "run", [on_time(0, compute=50_000), on_time(1), on_time(2)])["ue"]
    assert ue.response_us.max == 900
    assert ue.first_response_us == 900 - 600 + 50_000
    assert (ue.cycles, ue.on_time) == (3, 3)


def test_nothing_answered_is_null_and_not_zero(tmp_path):
    report = report_of(tmp_path / "run", [missing(n) for n in range(4)])
    ue = report.to_dict()["agents"]["ue"]
    assert (ue["cycles"], ue["on_time"], ue["misses"]) == (4, 0, 4)
    for name in ("response_us", "compute_us", "wire_us", "unaccounted_us", "slack_us", "release_lateness_us"):
        assert ue[name] == {"n": 0} | dict.fromkeys(("mean", "p50", "p90", "p99", "p99_9", "max")), name
    assert ue["accounted_share"] is ue["first_response_us"] is None
    assert report["ue"].miss_rate == 1.0


# ---- coordinated omission


def test_one_stall_shows_in_every_cycle_it_held_up(tmp_path):
    """The twin stands still for 500 ms in a loop of 10 ms: 50 cycles are late by 500, 490, ..., 10 ms.

    Measured from when each observation really left, all but one would look untouched.
    """
    stalled, n_cycles = 20, 200
    answers = []
    for cycle in range(n_cycles):
        late_us = 500_000 - (cycle - stalled) * 10_000 if cycle >= stalled else 0
        answers.append(on_time(cycle, release_lateness=max(late_us, 10)))
    ue = report_of(tmp_path / "run", answers)["ue"]
    assert ue.response_us.n == n_cycles - 1
    assert ue.response_us.max == 500_000 + 890
    held_up = sum(range(10, 501, 10)) * 1000
    assert ue.release_lateness_us.mean == pytest.approx((held_up + 10 * (n_cycles - 1 - 50)) / (n_cycles - 1))
    assert ue.response_us.p50 == 900
    assert ue.response_us.p90 > 300_000  # a quarter of all cycles were held up
    naive = [answer.stamps["arrived"] - answer.stamps["begin"] for answer in answers]
    assert max(naive) == 890 * US


def test_stall_of_a_controller_shows_in_every_cycle_it_left_unanswered(tmp_path):
    """For 500 ms nothing comes: 50 cycles have no response, and wait 500, 490, ..., 10 ms for the next answer."""
    answers = [missing(n) if 20 <= n < 70 else on_time(n) for n in range(200)]
    report = report_of(tmp_path / "run", answers)
    ue = report["ue"]
    assert (ue.misses, ue.unanswered, ue.longest_miss_run) == (50, 50, 50)
    assert (ue.response_us.n, ue.response_us.max) == (149, 900)  # of those that came, nothing is amiss
    waited_us = [900.0] * 149 + [900.0 + 10_000 * n for n in range(1, 51)]
    spread = ue.until_answered_us
    assert (spread.n, spread.max, spread.mean) == (199, 500_900, pytest.approx(np.mean(waited_us)))
    for quantile, value in (("p50", 50), ("p90", 90), ("p99", 99), ("p99_9", 99.9)):
        assert getattr(spread, quantile) == pytest.approx(np.percentile(waited_us, value)), quantile
    assert report.to_dict()["agents"]["ue"]["until_answered_us"]["max"] == 500_900


def test_controller_that_never_answers_again_has_been_waited_for_to_the_last_deadline(tmp_path):
    ue = report_of(tmp_path / "run", [on_time(n) if n < 5 else missing(n) for n in range(10)])["ue"]
    assert ue.until_answered_us.max == 4 * 10_000 + 8_000  # the deadline is 8 ms after the release
    assert (ue.response_us.n, ue.until_answered_us.n) == (4, 9)


class Stalls(toys.Toy):
    """The toy world, which stands still for half a second in slot 20."""

    def step(self):
        if self.slot == 20:
            time.sleep(0.5)
        return super().step()


def test_stall_of_a_real_run_shows_in_every_cycle_it_held_up(tmp_path):
    """The twin flies slots of 10 ms; its leader is asked every second one, so half of the 50 are its cycles."""
    scenario = msgspec.structs.replace(toys.scenario(slots=100, slot_s=0.01), world="test_latency:Stalls")
    record = hil.run(scenario, "realtime", tmp_path / "run")
    leader = record.decisions["leader"]
    late_ms = (leader["begin_ns"] - leader["release_ns"]) / MS
    held_up = late_ms[11:35]  # slots 22 to 68, due 480 to 20 ms before the stall was over
    assert held_up[0] > 475
    np.testing.assert_array_less(np.diff(held_up), 0)
    assert held_up.min() > 10
    report = hil.report(record)
    assert report["leader"].release_lateness_us.max == pytest.approx(late_ms[1:].max() * 1e3)
    assert report["leader"].release_lateness_us.mean > 100_000  # it is about 6000 ms / 49
    assert report.twin_overruns >= 48


# ---- misses


def statuses_as(letters):
    """Answers by letter: o on time, m missing, l late, i invalid."""
    by_letter = {"m": "missing", "l": "late", "i": "invalid"}
    return [
        on_time(n) if letter == "o" else Answer(None, by_letter[letter], "hold", stamps_of(n))
        for n, letter in enumerate(letters)
    ]


@pytest.mark.parametrize(
    ("letters", "longest"),
    [("oooo", 0), ("mooo", 1), ("ommo", 2), ("ommommmo", 3), ("oomli", 3), ("mmmm", 4), ("omlimo", 4)],
)
def test_longest_run_of_misses_counts_every_kind_of_them(tmp_path, letters, longest):
    ue = report_of(tmp_path / "run", statuses_as(letters))["ue"]
    assert ue.longest_miss_run == longest
    assert ue.misses == len(letters) - letters.count("o")
    assert ue.cycles == ue.on_time + ue.misses
    counted = {status: letters.count(letter) for status, letter in zip(STATUSES[1:], "omli")}
    assert ue.statuses == counted


@pytest.mark.parametrize(
    ("letters", "at_least", "held"),
    [
        ("oooooooooo", (9, 10), True),
        ("ooomoooooo", (9, 10), True),
        ("ooomoooomo", (9, 10), False),
        ("m" + "o" * 9 + "m", (9, 10), True),  # never two in any ten
        ("m" + "o" * 8 + "m", (9, 10), False),
        ("omomom", (1, 2), True),
        ("omomm", (1, 2), False),
        ("mmm", (3, 3), False),
        ("om", (9, 10), True),  # fewer cycles than k: one miss is still within the limit
        ("mm", (9, 10), False),
        ("iiio", (1, 4), True),
    ],
)
def test_at_least_m_of_any_k(tmp_path, letters, at_least, held):
    report = report_of(tmp_path / "run", statuses_as(letters), at_least=at_least)
    assert report["ue"].at_least_held is held
    m, k = at_least
    assert report.to_dict()["agents"]["ue"]["at_least"] == {"m": m, "k": k, "held": held}


def test_no_limit_no_verdict(tmp_path):
    assert report_of(tmp_path / "run", statuses_as("omo")).to_dict()["agents"]["ue"]["at_least"] is None


def test_misses_in_the_grace_of_the_start_are_counted_apart(tmp_path):
    ue = report_of(tmp_path / "run", statuses_as("mmomo"), at_least=(1, 2), grace=2)["ue"]
    assert (ue.misses, ue.grace_misses, ue.longest_miss_run, ue.at_least_held) == (3, 2, 1, True)


def test_late_answer_has_a_response_but_no_slack(tmp_path):
    late = Answer(None, "late", "hold", stamps_of(2, compute=9_000))
    ue = report_of(tmp_path / "run", [on_time(0), on_time(1), late])["ue"]
    assert ue.response_us.max == 9_300
    assert ue.slack_us.n == 1
    assert ue.slack_us.max == 7_100


def test_cycles_whose_answer_never_fell_due_are_not_counted(tmp_path):
    ue = report_of(tmp_path / "run", [on_time(n) for n in range(4)], slots=9)["ue"]
    assert (ue.cycles, ue.misses) == (4, 0)


# ---- the rest of the report


def test_report_counts_bytes_updates_rewards_and_overruns(tmp_path):
    hint = {"leo": {"hint": np.zeros(3, "float32")}}
    answers = [
        Answer(Action({"number": np.array(0.0)}, hint), stamps=stamps_of(n) | {"weights": n // 2, "learning_misses": 1})
        for n in range(6)
    ]
    report = report_of(tmp_path / "run", answers, rewards=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], overrun_slots=[3, 5])
    ue = report["ue"]
    assert (ue.signalling_bytes, ue.weights, ue.learning_misses) == (6 * 12, 2, 1)
    assert ue.reward_mean == 3.5
    assert report.twin_overruns == 2
    assert report.measures == {"rate_bps": 2.5}


def test_report_counts_messages_and_events(tmp_path):
    meta = {"scenario": "synthetic", "clock": "realtime", "seed": 1, "resolved": {"agents": {}}}
    record = Record.create(tmp_path / "run", (AGENT,), 5, meta)
    for kind in ("seated", "stale", "stale", "noise"):
        record.event(kind, agent="ue")
    running = hil.report(Record.open(tmp_path / "run")).to_dict()
    assert running["refused"] is running["agents"]["ue"]["stale"] is running["agents"]["ue"]["duplicates"] is None
    record.close("finished", refused=7, messages={"ue": {"stale": 412, "duplicates": 3, "client": "mine"}})
    report = hil.report(Record.open(tmp_path / "run")).to_dict()
    assert (report["refused"], report["events"]) == (7, {"seated": 1, "stale": 2, "noise": 1})
    assert (report["agents"]["ue"]["stale"], report["agents"]["ue"]["duplicates"]) == (412, 3)


def test_demand_and_resource_blocks_are_told_as_shares(tmp_path):
    """Of all that was asked for, and of the blocks in slots with a satellite."""
    meta = {"scenario": "synthetic", "clock": "lockstep", "seed": 1, "resolved": {"agents": {}}}
    record = Record.create(tmp_path / "run", (AGENT,), 4, meta)
    for slot, (demand, served, used, satellite) in enumerate(
        [(10, 10, 4, 7), (30, 15, 2, 7), (0, 0, 0, 7), (0, 0, 1, 0)]
    ):
        blocks = {"used_rb": np.arange(4) < used, "reserved_rb": np.arange(4) < 3}
        numbers = {"demand_bps": np.float64(demand), "served_bps": np.float64(served), "satellite": np.array(satellite)}
        record.slot(slot, Outcome({"ue": 0.0}, numbers | blocks))
    measures = hil.report(record).measures
    assert measures["satisfied_demand"] == 25 / 40
    assert (measures["used_rb_share"], measures["reserved_rb_share"]) == (0.5, 0.75)


def test_time_spent_learning_is_apart_from_the_response(tmp_path):
    learnt_us = (0, 3000, 0, 5000, 0)
    answers = [Answer(None, stamps=stamps_of(n) | {"learn_ns": us * US}) for n, us in enumerate(learnt_us)]
    ue = report_of(tmp_path / "run", answers)["ue"]
    assert (ue.learn_us.n, ue.learn_us.p50, ue.learn_us.max) == (2, 4000, 5000)
    assert ue.response_us.p50 == 900


def test_reward_is_per_cycle_not_per_slot(tmp_path):
    """A leader of every second slot earns two slots' rewards in a cycle."""
    record = run(toys.scenario(slots=12), tmp_path / "run")
    report = hil.report(record)
    assert report["leader"].reward_mean == pytest.approx(record["reward.leader"].sum() / 6)
    assert report["follower"].reward_mean == pytest.approx(record["reward.follower"].mean())
    assert report["leader"].signalling_bytes == 6 * 4


def test_record_without_a_single_slot_still_reports(tmp_path):
    meta = {"scenario": "synthetic", "clock": "realtime", "seed": 1, "resolved": {"agents": {}}}
    Record.create(tmp_path / "run", (AGENT,), 5, meta)
    report = hil.report(Record.open(tmp_path / "run"))
    assert (report.slots, report["ue"].cycles, report["ue"].reward_mean) == (0, 0, None)
    json.dumps(report.to_dict(), allow_nan=False)


def test_real_run_accounts_for_its_time(tmp_path):
    """Of a run with processes: the parts are positive and make up what the twin measured by itself."""
    record = hil.run(toys.scenario(slots=40), "lockstep", tmp_path / "run")
    for agent in hil.report(record).agents.values():
        assert agent.accounted_share >= 0.95
        measured = record.decisions[agent.name]
        response_us = (measured["arrived_ns"] - measured["begin_ns"])[1:] / US
        assert agent.response_us.max == pytest.approx(response_us.max())
        assert agent.response_us.p50 == pytest.approx(np.median(response_us))
        order = [measured[f"{name}_ns"] for name in ("begin", "observed", "sent", "received", "decoded", "acted")]
        assert (np.diff([*order, measured["replied_ns"], measured["arrived_ns"]], axis=0) >= 0).all()
        assert agent.unaccounted_us.mean == pytest.approx(0, abs=1)  # nothing is counted twice either
        for name in ("observe", "encode", "wire_out", "decode", "compute", "encode_answer", "wire_back"):
            assert 0 < agent.components_us[name].p50 < agent.response_us.p50, name


# ---- what cannot be, and what is no number


@pytest.mark.parametrize(
    "lie",
    [
        {"acted": 2**61},
        {"waiting": 2**60},
        {"received": 1},
        {"replied": START_NS + 10**12},
        dict.fromkeys(("waiting", "received", "decoded", "acted", "replied"), 77),
    ],
    ids=str,
)
def test_stamps_that_cannot_be_leave_the_controllers_part_unaccounted(tmp_path, lie):
    answers = [Answer(None, stamps=stamps_of(n) | lie) for n in range(5)]
    ue = report_of(tmp_path / "run", answers)["ue"]
    assert (ue.response_us.p50, ue.unaccounted_us.p50) == (900, 900 - (10 + 20 + 30))
    assert ue.accounted_share == pytest.approx(60 / 900)
    assert ue.compute_us.n == ue.wire_us.n == ue.components_us["queue"].n == 0


def test_what_is_no_number_is_null_in_json(tmp_path):
    report = report_of(tmp_path / "run", [on_time(n) for n in range(3)], rewards=[1.0, float("nan"), 2.0])
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["agents"]["ue"]["reward_mean"] is None
    record = Record.create(
        tmp_path / "nan", (AGENT,), 2, {"scenario": "s", "clock": "lockstep", "seed": 1, "resolved": {}}
    )
    for slot in range(2):
        record.slot(
            slot, Outcome({"ue": 1.0}, {"rate_bps": np.float64(np.nan if slot else 1.0), "fine": np.float64(2.0)})
        )
    record.close("finished")
    told = hil.report(Record.open(tmp_path / "nan")).to_dict()
    assert json.loads(json.dumps(told, allow_nan=False))["measures"] == {"rate_bps": None, "fine": 2.0}
