"""Messages of every kind, from who sits on a seat and from who does not: more than anybody can read, and worse."""

import json
import os
import random
import subprocess
import sys
import threading
import time

import light
import msgspec
import pytest
import rough
import toys
import zmq

import hil
from hil import wire
from hil.crowd import Strangers, Turns
from hil.hub import Hub, There
from twin import Record

pytestmark = pytest.mark.usefixtures("no_child_left")


# messages of any kind


def a_seat(event=lambda kind, **what: None, agent=None, patience_s=5.0):
    """A hub and the follower's seat behind it."""
    hub, agent = Hub("run-1", event=event), agent or toys.TwoTier().agents[1]
    facts = (wire.specs(agent.observes), wire.specs(agent.acts), {}, "lockstep", 1.0, False, 10, [], {})
    welcome = wire.Welcome(1, "run-1", agent.name, 1, 0.01, 1, 1, 0, *facts)
    return hub, There(hub, agent, ("leader",), welcome, patience_s, compute_scale=3.0)


def real_messages(slot):
    """One of each kind that a controller sends, as maps."""
    asked = {"agent": "follower", "run": "run-1"}
    array = {"dtype": "int32", "shape": [2, 3], "data": bytes(24)}
    stamps = {"waiting": 1, "received": 2, "decoded": 3, "acted": 4, "replied": 5, "cpu_ns": 6, "learn_ns": 7}
    return [
        {"kind": "hello", "protocol": 1, "agent": "follower", "client": "a", "ready": True, "heartbeat_s": 1.0},
        {"kind": "ready", "agent": "follower", "run": "run-1"},
        {"kind": "heartbeat", "agent": "follower"},
        light.answer(asked, slot, signals={"leader": {"hint": array}}, stamps=stamps, weights=3, reason=""),
    ]


ODD = [None, True, -1, 0, 2**63, 2**64 - 1, -(2**63), 1e308, float("nan"), float("inf"), "", "é" * 300, b"", b"\xff"]
ODD += [[], [[]] * 99, {}, {"x": {}}, {1: 2}, "follower", "leader", "run-1", [2**62], [0], [-1, -1], "float64", "bool"]
ODD += [{"leader": {"hint": {"dtype": "bool", "shape": [], "data": b"\x02"}}}]


def changed(value, rng):
    """A message with one thing in it replaced, left out or added, at any depth."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key, other = rng.choice(list(value)), dict(value)
        match rng.randrange(6):
            case 0:
                del other[key]
            case 1:
                other[rng.choice(["kind", "more", "", "slot"])] = rng.choice(ODD)
            case _:
                other[key] = changed(value[key], rng)
        return other
    return rng.choice(ODD)


def cut(body, rng):
    """Bytes with some of them lost, flipped or doubled."""
    body, at = bytearray(body), rng.randrange(len(body) + 1)
    match rng.randrange(4):
        case 0:
            del body[at:]
        case 1:
            body[at:at] = rng.randbytes(rng.randrange(1, 9))
        case 2:
            body += body[at:]
        case _:
            for _ in range(rng.randrange(1, 4)):
                body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    return bytes(body)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_message_whatever_it_holds_raises_in_the_hub(seed):
    rng, events = random.Random(seed), []
    hub, seat = a_seat(lambda kind, **what: events.append(msgspec.json.encode({"event": kind, **what})))
    hub.reaches = lambda identity, agent: True
    judged = 0
    try:
        for slot in range(5000):
            seat.identity, seat.ready = b"\0seat", True
            seat.post(toys.observation(slot=slot), 0, rng.choice([0, 1, time.monotonic_ns() + 10**9]))
            message = rng.choice(real_messages(slot))
            for _ in range(rng.randrange(3)):
                message = changed(message, rng) if isinstance(message, dict) else message
            body = msgspec.msgpack.encode(message)
            body = cut(body, rng) if rng.random() < 0.4 else body
            frames = [rng.choice([b"\0seat", b"\0seat", b"\0else", b"", rng.randbytes(255)]), body]
            hub._incoming(frames + [rng.randbytes(3)] * (rng.random() < 0.05))
            answer = seat._cycles[slot].answer
            seat._cycles[slot].settled = True
            while len(seat._cycles) > 40:
                del seat._cycles[next(iter(seat._cycles))]
            judged += answer is not None
            assert answer is None or answer.status == "invalid" or -10 <= float(answer.action.values["number"]) <= 10
        assert judged > 500
        assert hub.refused > 500
        kinds = [msgspec.json.decode(e)["event"] for e in events]
        assert all(kinds.count(kind) <= 100 for kind in set(kinds))
        assert max(map(len, events)) < 2000
    finally:
        hub.close()


# a flood


def plainly_connected(command):
    """How a stranger connects: without keys, as there are none on loopback."""
    return command


@pytest.mark.parametrize("connect", [plainly_connected])
@pytest.mark.parametrize("seconds", [1.5, pytest.param(10.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("connections", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_flood_from_strangers_costs_no_deadline_and_each_message_is_counted(
    tmp_path, nothing_left, seconds, connections, connect
):
    address, done = f"ipc://{tmp_path}/twin", tmp_path / "done"
    scenario = rough.scenario(slots=5000, slot_s=0.02, until=done, max_lag_s=10.0)
    command = [sys.executable, str(rough.HERE / "flood.py"), address, str(seconds), str(connections), "120000"]
    with rough.urgent() as urgent:
        flood = subprocess.Popen(connect(command), stdout=subprocess.PIPE, text=True)
        ended = threading.Thread(target=lambda: (flood.wait(rough.LIMIT_S), done.touch()), daemon=True)
        ended.start()
        before = rough.of_status(os.getpid(), "RssAnon")
        with rough.seated(address, "leader"), rough.seated(address, "follower"):
            record = hil.run(scenario, "realtime", tmp_path / "run", bind=address)
    ended.join(5)
    grown = rough.of_status(os.getpid(), "RssAnon") - before
    told = json.loads(flood.communicate()[0])
    report = hil.report(Record.open(tmp_path / "run"))
    misses, cycles = {n: a.misses for n, a in report.agents.items()}, {n: a.cycles for n, a in report.agents.items()}
    print(
        f"{connections} connections: {told['a_second']} a second, {told['all']} messages, refused {report.refused}, "
        f"misses {misses} of {cycles}, {report.twin_overruns} overruns, +{grown} kB, urgent {urgent}, "
        f"response p99 {report['follower'].p99_us:.0f} us, sent {told['sent']}"
    )
    assert record.meta["refused"] == report.refused == told["all"] > 5000 * seconds
    for name, every in (("leader", 2), ("follower", 1)):
        rough.check_cycles(record, name, every)
        counts = record.meta["messages"][name]
        assert (counts["seated"], counts["vacated"], counts["duplicates"]) == (1, 0, 0)
    if urgent:  # then nobody takes the processor from the loop, and the hub alone is tested
        assert misses == {"leader": 0, "follower": 0}
    assert grown < 64_000
    assert (tmp_path / "run" / "events.jsonl").stat().st_size < 100_000


HELLO = msgspec.msgpack.encode({"kind": "hello", "protocol": 1, "agent": "follower", "ready": True})


class Stranger:
    """A connection without a seat."""

    def __init__(self, hub, kind=zmq.DEALER):
        self.context = zmq.Context()
        self.socket = self.context.socket(kind)
        out, into = wire.endpoints(hub.address)
        self.socket.connect(into if kind == zmq.DEALER else out)

    def close(self):
        self.socket.close(0)
        self.context.term()


def listening(hub, enough, limit_s=20):
    """Let the hub listen until something holds."""
    hub.listen(time.monotonic_ns() + limit_s * 10**9, enough)
    assert enough()


@pytest.fixture
def hub_and_seat():
    hub, seat = a_seat()
    yield hub, seat
    hub.close()


def test_stranger_is_told_why_a_few_times_a_second_and_then_only_counted(hub_and_seat):
    hub, _ = hub_and_seat
    stranger = Stranger(hub)
    try:
        for _ in range(500):
            stranger.socket.send(msgspec.msgpack.encode({"kind": "heartbeat", "agent": "x" * 100_000}))
        listening(hub, lambda: hub.refused >= 500)
        told = []
        while stranger.socket.poll(200):
            told.append(stranger.socket.recv_multipart()[1])
        assert 20 <= len(told) <= 40  # a new second may have begun
        assert max(map(len, told)) < 500  # nobody makes us repeat his own words at length
    finally:
        stranger.close()


def test_newcomer_gets_a_seat_amid_a_crowd_that_floods(hub_and_seat):
    hub, seat = hub_and_seat
    crowd, newcomer, listener = [Stranger(hub) for _ in range(60)], Stranger(hub), Stranger(hub, zmq.SUB)
    listener.socket.subscribe("follower.")
    over = threading.Event()

    def flood():
        while not over.is_set():
            for each in crowd:
                for _ in range(10):
                    try:
                        each.socket.send(b"noise", zmq.NOBLOCK)
                    except zmq.Again:
                        break
            over.wait(0.001)

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        hub.nap(1.5)
        for _ in range(30):  # as a controller says hello again while nobody answers
            newcomer.socket.send(HELLO)
            hub.listen(time.monotonic_ns() + 2 * 10**8, lambda: seat.taken)
            if seat.taken:
                break
        assert seat.taken
        assert hub.refused > 1000
    finally:
        over.set()
        flooding.join()
        for each in (*crowd, newcomer, listener):
            each.close()


def test_hellos_to_a_taken_seat_do_not_flood_who_sits_there(hub_and_seat):
    hub, seat = hub_and_seat
    sitting, stranger = Stranger(hub), Stranger(hub)
    try:
        sitting.socket.send(HELLO)
        listening(hub, lambda: seat.identity is not None)
        for _ in range(900):
            stranger.socket.send(HELLO)
        listening(hub, lambda: hub.refused >= 900)
        probes = 0
        while sitting.socket.poll(200):
            sitting.socket.recv_multipart()
            probes += 1
        assert 1 <= probes <= 40
    finally:
        sitting.close()
        stranger.close()


def test_message_of_a_million_frames_is_one_refusal_and_holds_nobody_up(hub_and_seat):
    hub, _ = hub_and_seat
    stranger = Stranger(hub)
    try:
        sending = threading.Thread(target=lambda: stranger.socket.send_multipart([b""] * 300_000))
        sending.start()
        longest = 0.0
        until = time.monotonic() + 20
        while time.monotonic() < until and (hub.refused == 0 or hub._amid):
            begun = time.monotonic()
            hub.listen(time.monotonic_ns() + 10**7)
            longest = max(longest, time.monotonic() - begun)
        sending.join()
        assert hub.refused == 1
        assert longest < 1.0  # 300,000 frames take longer; the machine may be busy
    finally:
        stranger.close()


@pytest.mark.parametrize("sits", [True, False])
def test_message_beyond_all_limits_is_disconnected_and_may_come_again(hub_and_seat, sits):
    hub, seat = hub_and_seat
    peer, listener = Stranger(hub), Stranger(hub, zmq.SUB)
    listener.socket.subscribe("follower.")
    try:
        if sits:
            peer.socket.send(HELLO)
            listening(hub, lambda: seat.taken)
        peer.socket.send(bytes(wire.MAX_MESSAGE_BYTES + 1))
        hub.nap(0.3)
        hub.look_soon()
        assert not seat.probe()
        assert hub.refused == 0  # ZeroMQ itself closed the connection
        peer.socket.send(HELLO)
        listening(hub, lambda: seat.taken)
        assert (seat.seated, seat.vacated) == ((2, 1) if sits else (1, 0))
    finally:
        peer.close()
        listener.close()


def test_watcher_that_subscribes_and_leaves_without_end_brings_no_flood_of_probes(hub_and_seat):
    hub, seat = hub_and_seat
    sitting, watcher, over, probes = Stranger(hub), Stranger(hub, zmq.SUB), threading.Event(), []
    reaches, hub.reaches = hub.reaches, lambda *who: probes.append(who) or reaches(*who)

    def restless():
        while not over.is_set():
            watcher.socket.subscribe("follower.")
            watcher.socket.unsubscribe("follower.")
            over.wait(0.0001)

    going = threading.Thread(target=restless)
    going.start()
    try:
        sitting.socket.send(HELLO)
        listening(hub, lambda: seat.identity is not None)
        begun = time.monotonic()
        hub.nap(1.0)
        assert 10 < len(probes) < 600 * (time.monotonic() - begun)
        assert (seat.seated, seat.vacated) == (1, 0)
    finally:
        over.set()
        going.join()
        sitting.close()
        watcher.close()


def test_subscriptions_that_match_nothing_are_not_remembered(hub_and_seat):
    hub, _ = hub_and_seat
    watcher = Stranger(hub, zmq.SUB)
    try:
        for i in range(900):  # a SUB socket loses more at once
            watcher.socket.subscribe(f"follower.{i}")
        watcher.socket.subscribe("follower.")
        listening(hub, lambda: hub.subscribed("follower"))
        assert len(hub._topics) == 1
    finally:
        watcher.close()


def test_stranger_is_heard_out_until_it_says_too_much_and_again_when_it_is_calm():
    strangers, second = Strangers(), 10**9
    assert [strangers.heard_out(b"loud", 1) for _ in range(100)] == [True] * 20 + [False] * 80
    assert strangers.heard_out(b"calm", 1)
    assert not any(strangers.heard_out(b"loud", second + 2) for _ in range(100))  # nothing left of this second either
    assert strangers.heard_out(b"calm", second + 2)
    assert not strangers.heard_out(b"loud", 2 * second + 3)  # calm from now on
    assert strangers.heard_out(b"loud", 3 * second + 4)


def test_all_strangers_together_are_heard_out_so_often_and_are_not_remembered_beyond():
    strangers = Strangers()
    heard = sum(strangers.heard_out(i.to_bytes(4, "big"), 1) for i in range(50_000))
    assert heard == 1000
    assert len(strangers._said) == 1000


def test_peer_whose_turn_comes_again_says_by_when_all_was_read():
    turns = Turns()
    assert [turns.next(who, at) for who, at in ((b"a", 1), (b"b", 2), (b"c", 3))] == [0, 0, 0]
    assert turns.next(b"a", 4) == 1
    assert [turns.next(who, at) for who, at in ((b"b", 5), (b"a", 6))] == [0, 4]
    turns.forget()
    assert turns.next(b"a", 7) == 0
    assert [turns.next(str(i).encode(), 8 + i) for i in range(1001)] == [0] * 1001  # a has gone: another is waited for
    assert turns.next(b"1000", 2000) == 1008


# a controller that says too much


SAYS_TOO_MUCH = {"bursts": "realtime", "future": "", "past": "realtime", "noise": "lockstep", "repeats": "lockstep"}


@pytest.mark.parametrize(
    ("how", "clock"),
    [
        pytest.param(how, clock, marks=[] if clock == fast else pytest.mark.slow)
        for how, fast in SAYS_TOO_MUCH.items()
        for clock in ("lockstep", "realtime")
    ],
)
def test_controller_that_says_too_much_is_judged_right_and_costs_the_other_nothing(tmp_path, nothing_left, clock, how):
    address, slots = f"ipc://{tmp_path}/twin", 100
    scenario = rough.scenario(slots, slot_s=0.02, patience_s=0.05, max_lag_s=10.0)
    with (
        rough.urgent() as urgent,
        rough.seated(address, "leader"),
        rough.seated(address, "follower", how),
    ):
        record = hil.run(scenario, clock, tmp_path / "run", bind=address)
    others, _ = rough.check_cycles(record, "leader", every=2)
    status, counts = rough.status_of(record), record.meta["messages"]["follower"]
    print(
        f"{clock} {how}: {hil.report(record)['follower'].statuses}, leader {others} of {slots // 2}, {counts}, {urgent}"
    )
    if urgent or clock == "lockstep":
        assert others == slots // 2
    rough.check_cycles(record)
    expected = ["on_time"] * slots
    if how == "bursts":  # in real time one more comes before the seat's next deadline
        before = "late" if clock == "realtime" else "missing"
        expected = [*["missing"] * 8, before, "on_time"] * (slots // 10)
    if how == "noise" and clock == "lockstep":  # what comes before the answer stands for it
        assert set(status) == {"on_time", "invalid"}
    elif clock == "lockstep" or urgent:
        assert status == expected
    least = {"bursts": ("stale", 70), "future": ("stale", 4900), "past": ("stale", 1000), "repeats": ("duplicates", 1)}
    if how in least:
        key, most = least[how]
        assert counts[key] >= most
