"""The conformance kit for live processes: it lets a good one pass, and names the one clause that a bad one breaks.

The controllers here speak the protocol over bare sockets, as one in another language would: in a thread each, that
comes again whenever a run is over, or in a process that the kit starts.
"""

import json
import signal
import sys
import threading
import time

import numpy as np
import pytest
import toys
from outsider import Good, array, numbers
from terminal import COMMAND, EXAMPLES, ROOT, free_address, python

from hil.endpoint import CLAUSES, FAIL, PASS, SKIP, WARN, check_endpoint
from twin.errors import ControllerError, ScenarioError, SeatEmpty

QUICK = {"wait_s": 1.0, "again_s": 0.6, "answer_s": 0.6, "leave_s": 0.4, "cycles": 6}
SCENARIO = toys.scenario(("Echo", "external"), slot_s=0.1)  # the follower has 80 ms


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """What nobody asked for is awaited no longer than a process on this machine needs."""
    monkeypatch.setattr("hil.endpoint.QUIET_S", 0.05)
    monkeypatch.setattr("hil.sitting.GRACE_NS", 15_000_000)


@pytest.fixture
def comes():
    """Lets a controller come, again and again until the test is over; returns the address it connects to."""
    over, threads = threading.Event(), []

    def come(controller):
        address = free_address()

        def live():
            while not over.is_set():
                controller().sit(address, over)
                over.wait(0.01)

        threads.append(threading.Thread(target=live))
        threads[-1].start()
        return address

    yield come
    over.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def examined(address, scenario=SCENARIO, **limits):
    """Verdicts by clause."""
    return {v.clause: v for v in check_endpoint(address, "follower", scenario, **QUICK | limits)}


def clauses(verdicts, verdict):
    return [clause for clause, v in verdicts.items() if v.verdict == verdict]


def test_good_controller_passes_every_clause_that_applies(comes):
    verdicts = examined(comes(Good))
    assert list(verdicts) == list(CLAUSES)
    assert clauses(verdicts, FAIL) == clauses(verdicts, WARN) == []
    assert clauses(verdicts, SKIP) == ["heartbeats", "leaves when the twin vanishes"]


# ---- controllers that break one clause


class WrongShape(Good):
    def values(self, seen):
        return {"number": array(np.zeros(4))}


class WrongName(Good):
    def values(self, seen):
        return {"figure": array(0.0)}


class WrongLength(Good):
    def values(self, seen):
        return {"number": array(0.0) | {"data": b"\0" * 7}}


class NotANumber(Good):
    def values(self, seen):
        return {"number": array(np.nan)}


class OutOfBounds(Good):
    def values(self, seen):
        return {"number": array(10.5)}


class OnlyUsedToTheWorld(Good):
    def values(self, seen):
        value = numbers(seen, "target").sum()
        return {"number": array(value if abs(value) > 20 else 1.0)}


class BigEndian(Good):
    def values(self, seen):
        return {"number": array(np.clip(numbers(seen, "target").sum(), -10, 10).round(2) or 1.0, ">f8")}


class TextInsteadOfBinary(Good):
    def values(self, seen):
        return {"number": array(0.0) | {"data": "\0" * 8}}


class WrongRun(Good):
    def reply(self, seen, values, stamps):
        return super().reply(seen, values, stamps) | {"run": "mine"}


class WrongSlot(Good):
    def reply(self, seen, values, stamps):
        return super().reply(seen, values, stamps) | {"slot": seen["slot"] + 1}


class AlwaysSlotZero(Good):
    def reply(self, seen, values, stamps):
        return super().reply(seen, values, stamps) | {"slot": 0}


class AnswersTwice(Good):
    def answer(self, seen):
        super().answer(seen)
        super().answer(seen)


class PassesOneOver(Good):
    def answer(self, seen):
        if seen["slot"] != 3:
            super().answer(seen)


class AnswersForSomebodyElse(Good):
    def reply(self, seen, values, stamps):
        return super().reply(seen, values, stamps) | {"agent": "leader"}


class Late(Good):
    limits = {"scenario": toys.scenario(("Echo", "external"), slot_s=0.02), "answer_s": 2.0}  # noqa: RUF012

    def values(self, seen):
        time.sleep(0.03)
        return super().values(seen)


class WallClock(Good):
    def reply(self, seen, values, stamps):
        return super().reply(seen, values, {name: time.time_ns() for name in stamps})


class SignalsToNobody(Good):
    def reply(self, seen, values, stamps):
        return super().reply(seen, values, stamps) | {"signals": {"nobody": {"hint": array(1.0)}}}


class Unseeded(Good):
    def values(self, seen):
        return {"number": array(np.random.default_rng().uniform())}


class DiesOfUnknownKinds(Good):
    def unknown(self, message):
        self.left |= isinstance(message, dict) and message.get("kind") == "weather"


class DiesOfUnknownFields(Good):
    def answer(self, seen):
        if "later" in seen:
            self.left = True
        else:
            super().answer(seen)


class AnswersOtherRuns(Good):
    def observed(self, seen):
        super().observed(seen | {"run": self.welcome["run"]})


class HangsOnGarbage(Good):
    def garbage(self):
        self.over.wait()


class NeverReady(Good):
    def welcomed(self, message):
        pass


class StaysOnStop(Good):
    def stopped(self):
        pass


class Stays(StaysOnStop):
    def lasted(self):
        pass


class PromisesHeartbeats(Good):
    hello = Good.hello | {"heartbeat_s": 0.2}


class NeedsADeadline(Good):
    def values(self, seen):
        if seen["timing"]["deadline_us"] is None:
            raise ValueError("no deadline")
        return super().values(seen)


class AnotherProtocol(Good):
    hello = Good.hello | {"protocol": 2}


class Deaf(Good):
    topic = "somebody."


@pytest.mark.parametrize(
    ("controller", "clause", "came"),
    [
        (WrongShape, "shapes, dtypes, lengths", "slot 0: number has shape (4,) float64, expected () float64 (6 of 6)"),
        pytest.param(WrongName, "shapes, dtypes, lengths", "number is missing", marks=pytest.mark.slow),
        pytest.param(
            WrongLength, "shapes, dtypes, lengths", "number has 7 bytes, which is not shape ()", marks=pytest.mark.slow
        ),
        (NotANumber, "finite and inside bounds", "slot 0: number is not finite: nan"),
        pytest.param(OutOfBounds, "finite and inside bounds", "number leaves [-10, 10]: 10.5", marks=pytest.mark.slow),
        pytest.param(
            OnlyUsedToTheWorld, "any observation in bounds", "slot 6: number leaves [-10, 10]", marks=pytest.mark.slow
        ),
        (BigEndian, "byte order", "number is big-endian"),
        pytest.param(
            TextInsteadOfBinary,
            "answers can be read",
            "slot 0: not a message of protocol 1: Expected `bytes`",
            marks=pytest.mark.slow,
        ),
        pytest.param(WrongRun, "run and slot come back", "slot 0 came back with run 'mine'", marks=pytest.mark.slow),
        (WrongSlot, "run and slot come back", "slot 0 came back as slot 1"),
        pytest.param(AlwaysSlotZero, "run and slot come back", "slot 1 came back as slot 0", marks=pytest.mark.slow),
        (AnswersTwice, "one answer each", "11 more than asked for"),
        pytest.param(
            PassesOneOver, "answers every observation", "slot 3 was not, within 0.6 s", marks=pytest.mark.slow
        ),
        pytest.param(
            AnswersForSomebodyElse, "answers every observation", "you have no seat as 'leader'", marks=pytest.mark.slow
        ),
        (Late, "deadlines", "0 of 6 within 16 ms"),
        pytest.param(WallClock, "stamps", "stamps are CLOCK_MONOTONIC", marks=pytest.mark.slow),
        pytest.param(SignalsToNobody, "signals sent", "a signal goes to 'nobody'", marks=pytest.mark.slow),
        (Unseeded, "the same again", "values of slot 0 differ: number"),
        (DiesOfUnknownKinds, "unknown kinds and topics", "it left"),
        pytest.param(DiesOfUnknownFields, "unknown fields", "it left", marks=pytest.mark.slow),
        pytest.param(AnswersOtherRuns, "another run", "as if it were of this run", marks=pytest.mark.slow),
        (HangsOnGarbage, "garbled messages", "the next observation was not answered within 0.6 s"),
        (NeverReady, "gets ready", "not ready within 1 s"),
        (Stays, "leaves on last", "still there"),
        pytest.param(StaysOnStop, "leaves on stop", "still there", marks=pytest.mark.slow),
        (PromisesHeartbeats, "heartbeats", "none for 0.6 s"),
        pytest.param(NeedsADeadline, "lock-step", "slot 0: no deadline", marks=pytest.mark.slow),
        pytest.param(AnotherProtocol, "takes the seat", "protocol 2, this twin speaks 1", marks=pytest.mark.slow),
        pytest.param(Deaf, "takes the seat", "a hello, but nobody subscribed to 'follower.'", marks=pytest.mark.slow),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_controller_that_breaks_one_clause_is_told_which(comes, controller, clause, came):
    verdicts = examined(comes(controller), **controller.limits)
    assert clauses(verdicts, FAIL) == [clause]
    assert came in verdicts[clause].came


class DiesEarly(Good):
    def answer(self, seen):
        super().answer(seen)
        self.left = seen["slot"] == 3


def test_one_who_dies_while_all_is_calm_is_awaited_again_before_anything_else_is_tried(comes):
    verdicts = examined(comes(DiesEarly))
    assert verdicts["answers every observation"].came == "slot 4 was not: it left"
    assert verdicts["signals received"].verdict == PASS


class Careless(Good):
    """All that is allowed, though unwise."""

    def observed(self, seen):
        self.done.clear()
        super().observed(seen)

    def values(self, seen):
        return {"number": array(1.0 if seen["timing"]["deadline_us"] else 2.0)}

    def reply(self, seen, values, stamps):
        return super().reply(seen, values, {})

    def lasted(self):
        pass

    def garbage(self):
        self.left = True


def test_what_is_allowed_though_unwise_is_a_warning(comes):
    verdicts = examined(comes(Careless))
    assert clauses(verdicts, FAIL) == []
    warned = ["stamps", "a duplicate", "leaves on last", "lock-step", "garbled messages"]
    assert clauses(verdicts, WARN) == warned
    assert "without cpu_ns" in verdicts["stamps"].came
    assert verdicts["leaves on last"].came == "it left only on the stop that followed"
    assert "never equals the lock-step run" in verdicts["lock-step"].came


def test_one_who_comes_once_is_told_what_was_not_reached():
    once, address = Good(), free_address()
    thread = threading.Thread(target=once.sit, args=(address, threading.Event()))
    said = []
    thread.start()
    verdicts = examined(address, say=said.append)
    thread.join(10)
    assert clauses(verdicts, FAIL) == []
    assert verdicts["leaves on last"].verdict == PASS
    assert clauses(verdicts, SKIP) == ["heartbeats", *list(CLAUSES)[-6:]]
    assert "start it again while the kit waits" in verdicts["the same again"].came
    assert said[0] == f"waiting at {address} for a process on seat 'follower', 1 s"
    assert said[1] == "start it again within 0.6 s, and whether it answers the same is looked at"


def test_nobody_and_nothing_to_start_are_told():
    with pytest.raises(SeatEmpty, match="nobody took seat 'follower'"):
        examined(free_address(), wait_s=0.2)
    with pytest.raises(SeatEmpty, match="it ended with exit code 4, last line: no idea"):
        examined(free_address(), command=f"{sys.executable} -c \"print('no idea'); raise SystemExit(4)\"", wait_s=10.0)
    with pytest.raises(ControllerError, match="cannot start 'no-such-program'"):
        examined(free_address(), command="no-such-program")
    with pytest.raises(ScenarioError, match="no seat 'ue' in toys:Toy; there are leader, follower"):
        check_endpoint(free_address(), "ue", SCENARIO)


# ---- processes that the kit starts

AS_PROCESS = """
import os, signal, threading
from outsider import Good

class Mine(Good):
    {body}

controller = Mine()
controller.sit({address!r}, threading.Event())
"""


def as_process(tmp_path, body):
    """A command that starts a controller with something of its own, and the address it connects to."""
    address = free_address()
    script = tmp_path / "mine.py"
    script.write_text(AS_PROCESS.format(body=body, address=address))
    return address, f"{sys.executable} {script}"


def test_process_that_ends_with_an_exit_code_has_not_left_in_order(tmp_path):
    address, command = as_process(tmp_path, "def stopped(self): raise SystemExit('cannot write my log')")
    verdicts = examined(address, command=command, wait_s=20.0, leave_s=10.0)
    assert clauses(verdicts, FAIL) == ["leaves on stop"]
    assert verdicts["leaves on stop"].came == "it ended with exit code 1, last line: cannot write my log"
    assert verdicts["leaves on last"].came == "it left, exit code 0"


def test_process_that_crashes_is_started_again_for_the_next_clause(tmp_path):
    address, command = as_process(tmp_path, "def garbage(self): os.kill(os.getpid(), signal.SIGSEGV)")
    verdicts = examined(address, command=command, wait_s=20.0, leave_s=10.0)
    assert clauses(verdicts, FAIL) == ["garbled messages"]
    assert f"it was ended by signal {int(signal.SIGSEGV)}" in verdicts["garbled messages"].came
    assert verdicts["arrays that do not fit"].verdict == PASS


@pytest.mark.parametrize(("patience_s", "verdict"), [(60.0, FAIL), (1.0, PASS)])
@pytest.mark.slow
def test_process_left_alone_by_its_twin_must_leave_by_itself(tmp_path, monkeypatch, patience_s, verdict):
    monkeypatch.setattr("hil.endpoint.TWIN_GONE_S", 4.0)
    address, command = as_process(tmp_path, f"patience_s = {patience_s}")
    verdicts = examined(address, command=command, wait_s=20.0, leave_s=10.0, slow=True)
    assert verdicts["leaves when the twin vanishes"].verdict == verdict


@pytest.mark.parametrize(
    ("controller", "warned"),
    [
        ("python -m hil toys:Echo follower", []),
        ("python -m hil.cli control toys:Learning --agent follower --heartbeat-s 0.3 --connect", []),
    ],
)
def test_our_own_host_passes(controller, warned):
    address = free_address()
    command = controller.replace("python", sys.executable, 1) + f" {address}"
    verdicts = examined(address, command=command, wait_s=20.0, answer_s=5.0, leave_s=10.0, cycles=25)
    assert clauses(verdicts, FAIL) == []
    assert clauses(verdicts, WARN) == warned
    assert (verdicts["heartbeats"].verdict == PASS) == ("heartbeat" in controller)


# ---- the command


def test_command_checks_the_example_and_prints_one_object(tmp_path):
    address = free_address()
    example = f"{sys.executable} {EXAMPLES / 'raw_controller.py'} {address}"
    words = ("-m", "hil.cli", "check", address, "--agent", "ue", "--command", example)
    code, out, err = python(*words, "--json", cwd=tmp_path)
    said = json.loads(out)
    assert (code, said["holds"], said["counts"].get("FAIL")) == (0, True, None), err
    assert [c["clause"] for c in said["clauses"]] == list(CLAUSES)
    assert set(said["clauses"][0]) == {"clause", "verdict", "did", "came", "read"}
    assert {c["clause"] for c in said["clauses"] if c["verdict"] == WARN} <= {
        "stamps",
        "a duplicate",
        "garbled messages",
    }


def test_command_says_what_to_read_and_ends_with_1_when_a_clause_fails(tmp_path):
    address, command = as_process(tmp_path, "hello = {**Good.hello, 'agent': 'somebody'}")
    words = (*COMMAND[1:], "check", address, "--agent", "leo", "--wait-s", "2", "--command", command)
    code, out, _ = python(*words, cwd=tmp_path)
    assert code == 1
    assert out.startswith("FAIL  takes the seat")
    assert "no seat 'somebody'; there are leo" in out
    assert "read docs/wire.md, The handshake, in order" in out
    assert f"SKIP  gets ready and {len(CLAUSES) - 2} more" in out


def test_command_ends_with_3_when_nobody_comes(tmp_path):
    words = (*COMMAND[1:], "check", free_address(), "--agent", "ue", "--wait-s", "0.2")
    code, out, err = python(*words, cwd=tmp_path)
    assert (code, out) == (3, "")
    assert "nobody took seat 'ue'" in err


def test_every_clause_points_to_a_section_of_the_wire_page_that_exists():
    page = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")
    headings = {line.lstrip("# ") for line in page.splitlines() if line.startswith("#")}
    for clause, (_, read) in CLAUSES.items():
        assert {part.strip() for part in read.split(", `")[0].split("|")} <= headings, clause
