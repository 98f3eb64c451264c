"""The twin's two sockets, and the seats behind them.

Observations leave on XPUB, answers come in on ROUTER. One thread does everything: whenever the twin waits, for the
next release or for an answer, it waits in `listen`, which stamps each message as it arrives. A controller that
vanishes is noticed by its unsubscribe byte (XPUB) and confirmed by a probe the ROUTER cannot deliver.
"""

import os
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import zmq

from hil import wire
from hil.clock import SPIN_NS
from hil.crowd import Strangers, Turns
from hil.keys import LOOK_EVERY_NS, Door, TwinKeys
from hil.offset import CLOCK_ID
from twin.errors import SeatEmpty, TwinError, WireError
from twin.runner import check_action
from twin.types import Action, Agent, Answer, Observation, Outcome
from twin.units import NS_PER_MS, NS_PER_S

WELCOME_EVERY_NS = NS_PER_S // 10
DOUBT_NS = NS_PER_S  # after somebody unsubscribed, seats are probed for so long
PROBE_EVERY_NS = NS_PER_S // 500
LIVENESS_NS = NS_PER_S // 5  # how often somebody else's death is looked for while we wait
CLIENT_STAMPS = ("waiting", "received", "decoded", "acted", "replied", "cpu_ns", "learn_ns")
EAGER_NS = SPIN_NS if (os.cpu_count() or 1) > 1 else 0  # an answer is awaited so long without sleeping
LAST_NS = 30_000  # before a release nothing else is done
FOR_EVER_NS = 2**60
KEPT = 32  # cycles remembered, to tell a duplicate and a late answer from a stale one
LOOPBACK = ("tcp://127.", "tcp://localhost:", "ipc://")
EVERYWHERE = ("//0.0.0.0:", "//127.0.0.1:")  # bound to all addresses: one of them
NOTED = 100  # events of one kind that get a line each; the counts say the rest
BEATS_S = (0.001, 3600.0)  # heartbeats that may be promised, s
WATCHERS = "twin"  # topics that belong to no seat
KINDS = tuple(str(kind.__struct_config__.tag) for kind in get_args(wire.Outgoing))
MOST_SELECTED = 1024  # FD_SETSIZE of select(2)
READ_AT_ONCE = 64  # messages read after the time is there, so that a flood cannot hold the loop up
MOST_FRAMES = 64  # of one message that are read at a time; of ours each has one
MOST_UNREAD = 64  # messages of one peer that wait in memory; the rest waits at the peer
MOST_UNREAD_BYTES = 32 << 20  # of what leaves, for one peer that does not read
LEAST_UNREAD = 32
Event = Callable[..., None]


class Hub:
    """Binds the two sockets, knows who is subscribed and who said hello, and hands messages to their seats.

    address   where observations leave (hil.wire.endpoints); None lets the system choose a port on loopback
    event     called with a kind and details for everything worth a line in the record
    keys      our key pair and who may come in; without them everybody may, so the address must be on this machine
    largest   bytes of the largest observation: so many wait for who does not read; 0 if not known
    alive     called while waiting; raises what should end the wait (a dead child before the start)
    idle      called while waiting, with the time by which it must return, ns
    awaits    whether that wait is for an answer, not for the time alone
    """

    def __init__(
        self,
        run: str,
        address: str | None = None,
        event: Event = lambda kind, **what: None,
        keys: TwinKeys | None = None,
        largest: int = 0,
    ):
        self.run, self.event, self.keys = run, event, keys
        self.alive: Callable[[], None] = lambda: None
        self.idle: Callable[[int], None] = lambda until_ns: None
        self.awaits = False
        self.seats: dict[str, There] = {}
        self.refused = 0
        self.looked_ns = 0  # whatever had come by then has been read
        self._noted: Counter[str] = Counter()
        self._strangers, self._turns = Strangers(), Turns()
        self._amid = False  # a message of far too many frames
        self._tended_ns = self._idled_ns = 0
        self._doubt_until_ns = self._tend_ns = 0
        self._topics: Counter[bytes] = Counter()
        self._context = zmq.Context()
        self._out, self._in = self._context.socket(zmq.XPUB), self._context.socket(zmq.ROUTER)
        for each in (self._out, self._in):
            each.setsockopt(zmq.LINGER, 0)
            each.setsockopt(zmq.SNDHWM, max(LEAST_UNREAD, min(1000, MOST_UNREAD_BYTES // max(largest, 1))))
            each.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
        self._out.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._in.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._in.setsockopt(zmq.RCVHWM, MOST_UNREAD)
        self.door: Door | None = None
        self._sender = ""  # public key of whoever sent the message we are reading; without keys, nobody's
        try:
            if keys is not None:
                self.door = Door(self._context, keys, self._stranger, self.note)
                keys.lock(self._out)
                keys.lock(self._in)
            self.address = self._bind(address)
        except BaseException:
            self.close()
            raise
        self._both = [(self._in, zmq.POLLIN), (self._out, zmq.POLLIN)]
        self._calm_ns = LIVENESS_NS if self.door is None else LOOK_EVERY_NS
        self._receive = self._in.recv if self.door is None else self._receive_and_know
        self._fds = [int(each.getsockopt(zmq.FD)) for each in (self._out, self._in)]
        self._selected = max(self._fds) < MOST_SELECTED

    def _bind(self, address: str | None) -> str:
        if address is not None:
            out, into = wire.endpoints(address)
            if not out.startswith(LOOPBACK) and self.keys is None:
                raise WireError(
                    f"cannot listen on {out} without keys, or anybody could take a seat: make them with ntn-twin "
                    "keygen and give --keys and --allow, or stay on 127.0.0.1 or ipc://"
                )
            for each, place in ((self._out, out), (self._in, into)):
                if place.startswith("ipc://") and _answers(place.removeprefix("ipc://")):
                    raise WireError(f"cannot listen on {place}: somebody else does; choose another address with --bind")
                try:
                    each.bind(place)
                except zmq.ZMQError as error:
                    raise WireError(f"cannot listen on {place}: {error}; choose another address with --bind") from None
            return address
        for _ in range(100):  # two free ports side by side
            port = self._out.bind_to_random_port("tcp://127.0.0.1", max_tries=100)
            try:
                self._in.bind(f"tcp://127.0.0.1:{port + 1}")
            except zmq.ZMQError:
                self._out.unbind(f"tcp://127.0.0.1:{port}")
                continue
            return f"tcp://127.0.0.1:{port}"
        raise WireError("no two free ports side by side on 127.0.0.1; choose an address with --bind")

    def close(self) -> None:
        """Close both sockets; what was not sent is dropped."""
        self._out.close(0)
        self._in.close(0)
        if self.door is not None:
            self.door.close()
        self._context.term()

    @property
    def here(self) -> str:
        """The address for who is on this machine, whatever name it was bound by."""
        if not self.address.startswith("tcp://"):
            return self.address
        return self._out.get_string(zmq.LAST_ENDPOINT).replace(*EVERYWHERE)

    def hire(self, agent: str) -> Mapping[str, str]:
        """What a controller that we start needs in its environment to be let in."""
        return {} if self.door is None else self.door.hire(agent)

    def how_to_take(self, agent: str) -> str:
        """What to type where the controller is."""
        everywhere = EVERYWHERE[1] in self.here and not self.address.startswith(LOOPBACK)
        address = self.here.replace("127.0.0.1", socket.gethostname()) if everywhere else self.here
        keys = "" if self.keys is None else f" --keys NAME.secret --server-key {self.keys.pair.name}.public"
        return f"ntn-twin control MODULE:CLASS --agent {agent} --connect {address}{keys}"

    # waiting

    def listen(self, until_ns: int, enough: Callable[[], bool] | None = None) -> None:
        """Read what comes, stamped as it comes, until the time is there or it is enough.

        While it has time, it does what can be done at any time (`idle`). Who waits for an answer (`enough`) is told of
        one that came before the time: it is looked for once more after it. Who waits for the time alone has the end of
        the wait to itself: a read in it would make the release late by as much.
        """
        looked = overdue = 0  # messages read after the time: a flood must not hold the loop up
        begin_ns = time.monotonic_ns()
        unhurried = enough is not None and until_ns - begin_ns > LIVENESS_NS
        eager_ns = begin_ns + EAGER_NS if unhurried else 0  # with a deadline near, who waits awake is in others' way
        self.awaits = enough is not None
        while True:
            now = time.monotonic_ns()
            if now >= self._tend_ns:
                self._tend(now)
            if enough is None:
                if until_ns - now <= LAST_NS:
                    while time.monotonic_ns() < until_ns:
                        pass
                    return
            elif enough():
                if not looked:  # a vacant seat is not waited for, but who says hello to it must be heard
                    self._read(now, now, 0)
                return
            over = now >= until_ns
            read = self._read(now, now if over else until_ns, eager_ns)
            looked, overdue = 1, overdue + (read if over else 0)
            if over and (not read or self.looked_ns >= until_ns or overdue >= READ_AT_ONCE):
                return

    def look_soon(self) -> None:
        """Something changed: look after the seats before anything else."""
        self._tend_ns = min(self._tend_ns, self._tended_ns + PROBE_EVERY_NS)

    def _tend(self, now: int) -> None:
        """Look after the seats: who has died, who fell silent, who was not welcomed yet."""
        self._tended_ns = now
        self.alive()
        in_doubt = now < self._doubt_until_ns
        for seat in self.seats.values():
            if in_doubt:
                seat.probe()  # its other connection may close a little later
            seat.tend(now)
        if self.door is not None and self.door.look(now):
            self._who_may_stay(self.door)
        restless = in_doubt or not all(seat.ready for seat in self.seats.values())
        beats = [round(seat.heartbeat_s / 10 * NS_PER_S) for seat in self.seats.values() if seat.heartbeat_s > 0]
        self._tend_ns = now + (PROBE_EVERY_NS if restless else min(self._calm_ns, *beats, LIVENESS_NS))

    def nap(self, wait_s: float) -> None:
        """Listen for some seconds."""
        self.listen(time.monotonic_ns() + round(wait_s * NS_PER_S))

    def note(self, kind: str, **what: Any) -> None:
        """Note what a peer did, unless it did it a hundred times already: a flood must not fill the disk."""
        self._noted[kind] += 1
        if self._noted[kind] <= NOTED:
            self.event(kind, **what)

    def _read(self, now: int, until_ns: int, eager_ns: int) -> int:
        """Wait for a message, at most until shortly before a time, and read one of each socket; how many there were.

        Until eager_ns it waits awake: on an idle processor, to be woken costs more than most answers take.
        """
        rest, nap_ns = until_ns - now, min(until_ns - SPIN_NS, self._tend_ns) - now
        looked = rest <= LIVENESS_NS  # or else there is time to do what else is to be done first
        ready = zmq.zmq_poll(self._both, 0) if looked else []
        if not ready:
            if looked:
                self.looked_ns = now
                self._turns.forget()
            if rest > SPIN_NS:
                self.idle(until_ns - SPIN_NS)
                self._idled_ns = now
            while not ready and nap_ns > 0 and (not looked or time.monotonic_ns() < min(eager_ns, until_ns)):
                ready, looked = zmq.zmq_poll(self._both, 0), True
            if ready:
                nap_ns = 0
            elif nap_ns >= NS_PER_MS:
                ready = zmq.zmq_poll(self._both, nap_ns // NS_PER_MS)
            elif nap_ns > 0:  # finer than ZeroMQ's own wait; its descriptors tell of what comes from now on
                if not self._selected:  # a process that holds a thousand files
                    time.sleep(min(nap_ns, SPIN_NS // 4) / NS_PER_S)
                    return 0
                select.select(self._fds, [], [], nap_ns / NS_PER_S)
            if nap_ns > 0:
                self.looked_ns = min(time.monotonic_ns(), now + nap_ns)  # whatever had come would have woken us
        elif rest > SPIN_NS and now - self._idled_ns > NS_PER_MS:  # nor does a flood keep it from that
            self.idle(min(until_ns - SPIN_NS, now + SPIN_NS))
            self._idled_ns = now
        for each, _ in ready:
            if each is self._in:
                while self._hear(now) and now < until_ns and int(self._in.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                    now = time.monotonic_ns()  # strangers are what nobody waits for: on to the next
            else:
                self._subscription(self._out.recv(zmq.NOBLOCK))
        return len(ready)

    def _hear(self, now: int) -> bool:
        """Read one message; whether nothing came of it, because we do not hear out who sent it."""
        frames: list[bytes] = []
        for _ in range(MOST_FRAMES):
            frames.append(self._receive(zmq.NOBLOCK))
            more = self._in.getsockopt(zmq.RCVMORE)
            if not more:
                break
        amid, self._amid = self._amid, bool(more)
        if amid:  # its first frames were judged
            return True
        self.looked_ns = max(self.looked_ns, self._turns.next(frames[0], now))
        for seat in self.seats.values():
            if seat.identity == frames[0]:
                break
        else:
            if not self._strangers.heard_out(frames[0], now):
                self.refused += 1
                return True
        self._incoming(frames)
        return False

    def _subscription(self, message: bytes) -> None:
        topic = message[1:]
        if not any(each.startswith(topic) for each in self._sends()):
            return  # it will never match, so nobody need remember it
        if message[:1] == b"\x01":
            self._topics[topic] += 1
        elif message[:1] == b"\x00":
            self._topics[topic] -= 1
            if self._topics[topic] <= 0:
                del self._topics[topic]
            self._doubt_until_ns = time.monotonic_ns() + DOUBT_NS  # a watcher left, or a controller
        self.look_soon()

    def _sends(self) -> Iterator[bytes]:
        """Every topic there is."""
        return (f"{name}.{kind}".encode() for name in (*self.seats, WATCHERS) for kind in KINDS)

    def subscribed(self, agent: str, kind: str = "observation") -> bool:
        """Whether anybody listens to what this agent is told."""
        topic = f"{agent}.{kind}".encode()
        return any(topic.startswith(prefix) for prefix in self._topics)

    def _receive_and_know(self, flags: int) -> bytes:
        frame = self._in.recv(flags, copy=False)  # only such a frame knows whose it is
        self._sender = str(frame.get("User-Id"))
        return frame.bytes

    def _stranger(self, reason: str) -> None:
        self.refused += 1
        self.note("refused", agent="", reason=reason)

    def _who_may_stay(self, door: Door) -> None:
        """The allow-list has changed: a seat is vacant when its key may not have it any more."""
        for name, seat in self.seats.items():
            if seat.identity is not None and (reason := door.why_not(seat.key, name)):
                identity = seat.identity
                seat.leave(reason)
                self._refuse(identity, name, reason)

    def _incoming(self, frames: list[bytes]) -> None:
        now = time.monotonic_ns()
        identity, body = frames[0], frames[-1]
        seat = next((s for s in self.seats.values() if s.identity == identity), None)
        if seat is not None and seat.key != self._sender:  # it has gone, and another client calls its connection so
            seat.leave("its connection closed")
            seat = None
        try:
            if len(frames) != 2:
                raise WireError(f"a message of {len(frames) - 1} frames, expected one")
            message = wire.decode_incoming(body)
        except WireError as error:
            if seat is not None:
                seat.garbled(str(error), now)
            else:
                self._refuse(identity, "", str(error))
            return
        if isinstance(message, wire.Hello):
            self._hello(identity, message)
        elif seat is None or seat.agent.name != message.agent:
            self._refuse(identity, message.agent, f"you have no seat as {message.agent[:40]!r}; say hello first")
        elif isinstance(message, wire.Reply):
            seat.answered(message, now)
        else:
            seat.heard(message, now)

    def _hello(self, identity: bytes, hello: wire.Hello) -> None:
        seat = self.seats.get(hello.agent)
        if seat is None:
            self._refuse(identity, hello.agent, f"no seat {hello.agent[:40]!r}; there are {', '.join(self.seats)}")
            return
        if any(other.identity == identity for name, other in self.seats.items() if name != hello.agent):
            self._refuse(identity, hello.agent, "one connection holds one seat; open another for this one")
            return
        if hello.protocol != wire.PROTOCOL:
            self._refuse(identity, hello.agent, f"protocol {hello.protocol}, this twin speaks {wire.PROTOCOL}")
            return
        least_s, most_s = BEATS_S
        if hello.heartbeat_s != 0 and not least_s <= hello.heartbeat_s <= most_s:  # not a number is neither
            reason = f"heartbeat_s {hello.heartbeat_s:g} is neither 0 nor {least_s:g} to {most_s:g} s"
            self._refuse(identity, hello.agent, reason)
            return
        if self.door is not None and (reason := self.door.why_not(self._sender, hello.agent)):
            self._refuse(identity, hello.agent, reason)
            return
        if seat.identity is not None and seat.identity != identity and seat.probe():
            self._refuse(identity, hello.agent, f"seat {hello.agent!r} is taken by {seat.client or 'somebody'}")
            return
        if seat.identity is None:
            client = None if self.door is None else self.door.client(self._sender)
            seat.sit(identity, hello, self._sender, "" if client is None else client.name)

    def _refuse(self, identity: bytes, agent: str, reason: str) -> None:
        self.refused += 1
        agent = agent[:40]  # as much of somebody else's words as we repeat
        self.note("refused", agent=agent, reason=reason)
        try:
            self._in.send_multipart(
                [identity, f"{agent}.refused".encode(), wire.encode(wire.Refused(agent, reason))], zmq.NOBLOCK
            )
        except zmq.ZMQError:
            pass  # it has gone, or does not read

    def reaches(self, identity: bytes, agent: str) -> bool:
        """Whether a peer is still there: the ROUTER refuses what it cannot deliver."""
        try:
            self._in.send_multipart(
                [identity, f"{agent}.probe".encode(), wire.encode(wire.Heartbeat(agent))], zmq.NOBLOCK
            )
        except zmq.ZMQError as error:
            return error.errno == zmq.EAGAIN  # full: there, but it does not read what we send it
        return True

    # sending

    def send(self, agent: str, kind: str, message: wire.Outgoing) -> int:
        """Publish a message as <agent>.<kind>; a subscriber that does not keep up loses it, nobody waits.

        Returns when it was handed to the socket, ns: before the call, for the peer may have it before the call returns.
        """
        frames = [f"{agent}.{kind}".encode(), wire.encode(message)]
        sent_ns = time.monotonic_ns()
        self._out.send_multipart(frames, zmq.NOBLOCK)
        return sent_ns

    def tell_slot(self, slot: int, slot_s: float, outcome: Outcome, tally: Mapping[str, Mapping[str, int]]) -> None:
        """Publish what a slot brought, if anybody watches."""
        if not self.subscribed(WATCHERS, "slot"):
            return
        rewards = {name: float(reward) for name, reward in outcome.reward.items()}
        counts = {name: dict(counts) for name, counts in tally.items()}
        t_sim_ns, measures = round(slot * slot_s * NS_PER_S), wire.pack(outcome.measures)
        self.send(
            WATCHERS,
            "slot",
            wire.Slot(self.run, slot, t_sim_ns, time.monotonic_ns(), CLOCK_ID, rewards, measures, counts),
        )

    def tell_event(self, event: Mapping[str, Any]) -> None:
        """Publish an event of the record, if anybody watches."""
        if self.subscribed(WATCHERS, "event"):
            what = {key: value for key, value in event.items() if key not in ("event", "t_mono_ns")}
            self.send(WATCHERS, "event", wire.Event(self.run, event["event"], event["t_mono_ns"], what))

    def gather(self, wait_s: float) -> None:
        """Wait until every seat is taken and ready. Raises SeatEmpty naming one that is not, and how to take it."""
        until = time.monotonic_ns() + round(wait_s * NS_PER_S)
        self.listen(until, lambda: all(seat.taken for seat in self.seats.values()))
        for name, seat in self.seats.items():
            if not seat.taken:
                state = "is not ready" if seat.identity is not None else "was not taken"
                raise SeatEmpty(f"seat {name!r} {state} within {wait_s:g} s; take it with: {self.how_to_take(name)}")

    def stop(self, reason: str) -> None:
        """Tell every controller that the run is over."""
        for name in self.seats:
            self.send(name, "stop", wire.Stop(self.run, reason))


def _answers(path: str) -> bool:
    """Whether somebody listens on a Unix socket: ZeroMQ would take the path over without a word."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


@dataclass
class Cycle:
    """One question and what became of it.

    due_ns, sent_ns  the deadline (0: none) and when the observation left
    asked            who sat there then; None: nobody
    answer           the first that came, arrived when the emulated computer would have sent it
    settled          judged: from then on an answer is late or stale
    """

    due_ns: int
    sent_ns: int
    asked: bytes | None
    answer: Answer | None = None
    settled: bool = False


class There:
    """A seat behind the sockets: whoever subscribed and said hello. Judges each answer by when it arrived.

    patience_s     with no deadline (lock-step): how long an answer is awaited
    compute_scale  emulate a computer this many times slower: the compute time the client reports is stretched, and a
                   computer still busy with one answer begins the next one later
    """

    def __init__(
        self,
        hub: Hub,
        agent: Agent,
        others: tuple[str, ...],
        welcome: wire.Welcome,
        patience_s: float,
        compute_scale: float,
    ):
        self.hub, self.agent, self.others, self.welcome = hub, agent, others, welcome
        self.patience_s, self.compute_scale = patience_s, compute_scale
        self.identity: bytes | None = None
        self.client = self.clock_id = ""
        self.key = self.key_name = ""  # public, of who sits here, and its name on the allow-list; empty without keys
        self.ready = False
        self.heard_ns = 0
        self.heartbeat_s = 0.0
        self.late: list[tuple[int, Answer]] = []
        self.stale = self.duplicates = self.noise = self.seated = self.vacated = 0
        self._cycle_ns = round(welcome.every * welcome.slot_s / welcome.rt_factor * NS_PER_S)
        self._welcomed_ns = self._probed_ns = 0
        self._cycles: dict[int, Cycle] = {}  # by slot, oldest first
        self._busy_until_ns = 0
        hub.seats[agent.name] = self

    @property
    def taken(self) -> bool:
        """Somebody sits here, listens, and is ready to answer."""
        return self.identity is not None and self.ready and self.hub.subscribed(self.agent.name)

    def sit(self, identity: bytes, hello: wire.Hello, key: str = "", key_name: str = "") -> None:
        """Somebody said hello to an empty seat."""
        self.key, self.key_name, self.clock_id = key, key_name, hello.clock_id[:100]
        self.identity, self.client, self.ready = identity, hello.client[:100], hello.ready
        self.heartbeat_s, self.heard_ns = hello.heartbeat_s, time.monotonic_ns()
        self._welcomed_ns = self._busy_until_ns = 0
        self.hub.look_soon()
        self.seated += 1
        known = {"key": key_name} if key else {}
        self.hub.note("seated", agent=self.agent.name, client=self.client, clock_id=self.clock_id, **known)

    def leave(self, why: str) -> None:
        """The seat is vacant from now on: whoever waits for it need not."""
        if self.identity is not None:
            self.vacated += 1
            self.hub.note("vacant", agent=self.agent.name, client=self.client, reason=why)
        self.identity, self.ready, self.heartbeat_s = None, False, 0.0

    def probe(self) -> bool:
        """Whether somebody still sits here; who cannot be reached has left. Not asked more often than it may change."""
        now = time.monotonic_ns()
        if self.identity is not None and now >= self._probed_ns + PROBE_EVERY_NS:
            self._probed_ns = now
            if not self.hub.reaches(self.identity, self.agent.name):
                self.leave("its connection closed")
        return self.identity is not None

    def tend(self, now: int) -> None:
        """Welcome who has not yet heard it; give up on who promised heartbeats and fell silent."""
        if self.identity is None:
            return
        if self.ready and self.heartbeat_s > 0 and now - self.heard_ns > 3 * self.heartbeat_s * NS_PER_S:
            self.leave(f"no heartbeat for {3 * self.heartbeat_s:g} s")
            return
        again = self._welcomed_ns == 0 or (not self.ready and now - self._welcomed_ns > WELCOME_EVERY_NS)
        if again and self.hub.subscribed(self.agent.name):
            self.hub.send(self.agent.name, "welcome", self.welcome)
            self._welcomed_ns = now

    def counts(self) -> dict[str, Any]:
        """What the seat's messages came to beside its cycles, and how often it was taken and left."""
        names = ("seated", "vacated", "stale", "duplicates", "noise")
        known = {"key": self.key_name} if self.hub.keys else {}
        counts = {name: getattr(self, name) for name in names}
        return {"client": self.client, "clock_id": self.clock_id, **known, **counts}

    # the protocol of a seat

    def post(self, seen: Observation, release_ns: int, due_ns: int) -> None:
        """Publish an observation."""
        now = time.monotonic_ns()
        message = wire.Asked(
            run=self.hub.run,
            agent=seen.agent,
            slot=seen.slot,
            t_sim_ns=round(seen.slot * self.welcome.slot_s * NS_PER_S),
            t_mono_ns=now,
            clock_id=CLOCK_ID,
            values=wire.pack(seen.values),
            reward=seen.reward,
            last=seen.last,
            signals={sender: wire.pack(arrays) for sender, arrays in seen.signals.items()},
            timing=dict(seen.timing),
        )
        sent_ns = self.hub.send(self.agent.name, "observation", message)
        if not seen.last:
            self._cycles[seen.slot] = Cycle(due_ns, sent_ns, self.identity if self.taken else None)

    def take(self, slot: int) -> Answer:
        """The answer to observation `slot`, awaited until its deadline; in lock-step until it comes or cannot come."""
        cycle = self._cycles[slot]
        until_ns = cycle.due_ns or cycle.sent_ns + round(self.patience_s * NS_PER_S)

        def enough() -> bool:
            gone = cycle.due_ns == 0 and (cycle.asked is None or cycle.asked != self.identity)
            return cycle.answer is not None or gone

        self.hub.listen(until_ns, enough)
        answer, cycle.settled = cycle.answer, True
        while len(self._cycles) > KEPT and next(iter(self._cycles.values())).settled:
            del self._cycles[next(iter(self._cycles))]
        if answer is not None and cycle.due_ns:
            self.hub.listen(min(answer.stamps["arrived"], cycle.due_ns))  # an emulated computer is not done before
            if answer.stamps["arrived"] > cycle.due_ns:
                self._too_late(slot, cycle)
                answer = None
        if answer is None:
            reason = "no answer by the deadline" if self.probe() else "the seat is vacant"
            return Answer(None, "missing", reason=reason, stamps={"sent": cycle.sent_ns})
        return answer

    def catch_up(self) -> None:
        """Wait until everything asked so far has its answer, at most as long as for one answer."""
        open_ = [cycle for cycle in self._cycles.values() if not cycle.settled]
        until_ns = time.monotonic_ns() + round(self.patience_s * NS_PER_S)
        self.hub.listen(until_ns, lambda: all(c.answer is not None or c.asked != self.identity for c in open_))

    def _too_late(self, slot: int, cycle: Cycle) -> None:
        """A settled cycle's answer: late if valid and before the seat's next deadline, else stale."""
        answer = cycle.answer
        if answer and answer.status == "on_time" and answer.stamps["arrived"] <= cycle.due_ns + self._cycle_ns:
            self.late.append((slot, answer))
        else:
            self._stale(slot, "it came after the seat's next deadline")

    def _stale(self, slot: int, reason: str) -> None:
        self.stale += 1
        self.hub.note("stale", agent=self.agent.name, slot=slot, reason=reason)

    # what comes in

    def heard(self, message: wire.Ready | wire.Heartbeat, now: int) -> None:
        """A sign of life."""
        self.heard_ns = now
        self.ready |= isinstance(message, wire.Ready)

    def garbled(self, reason: str, now: int) -> None:
        """Noise from the one who sits here: it stands as the answer to the oldest open cycle."""
        for cycle in self._cycles.values():
            if not cycle.settled and cycle.answer is None:
                stamps = {"sent": cycle.sent_ns, "arrived": now}
                cycle.answer = Answer(None, "invalid", reason=reason, stamps=stamps)
                return
        self.noise += 1
        self.hub.note("noise", agent=self.agent.name, reason=reason)

    def answered(self, reply: wire.Reply, now: int) -> None:
        """An answer arrived: check it, and keep it for its cycle if that is still open."""
        self.heard_ns = now
        slot, cycle = reply.slot, self._cycles.get(reply.slot)
        if reply.run != self.hub.run:
            self._stale(slot, f"it answers run {reply.run[:40]!r}")
        elif cycle is None:
            self._stale(slot, "the cycle was never asked, or long ago")
        elif cycle.answer is not None:
            self.duplicates += 1
            self.hub.note("duplicate", agent=self.agent.name, slot=slot)
        elif cycle.settled and now > cycle.due_ns + self._cycle_ns:
            self._stale(slot, "it came after the seat's next deadline")
        else:
            cycle.answer = self._judged(reply, now, cycle)
            if cycle.settled:
                self._too_late(slot, cycle)

    def _judged(self, reply: wire.Reply, now: int, cycle: Cycle) -> Answer:
        stamps: dict[str, int] = {name: reply.stamps[name] for name in CLIENT_STAMPS if name in reply.stamps}
        stamps |= {"weights": reply.weights, "learning_misses": reply.learning_misses, "sent": cycle.sent_ns}
        emulation_ns = self._emulated(stamps.get("cpu_ns", 0), now, cycle.due_ns)
        stamps |= {"arrived": now + emulation_ns, "emulation_ns": emulation_ns}
        in_doubt = self.hub.looked_ns + emulation_ns < cycle.due_ns < now + emulation_ns
        replied = stamps.get("replied", 0) if self.clock_id in ("", CLOCK_ID) else 0  # another clock says nothing here
        if in_doubt and not cycle.settled and replied + emulation_ns <= cycle.due_ns:
            stamps |= {"overrun": 1, "arrived": cycle.due_ns}  # we did not look in time: it counts for the controller
        action, reason = None, reply.reason
        if not reason:
            try:
                signals = {to: wire.unpack(arrays) for to, arrays in reply.signals.items()}
                action = Action(wire.unpack(reply.values), signals)
                reason = check_action(self.agent, action, self.others)
            except WireError as error:
                reason = str(error)
        if reason:
            return Answer(None, "invalid", reason=reason, stamps=stamps)
        return Answer(action, stamps=stamps)

    def _emulated(self, compute_ns: int, now: int, due_ns: int) -> int:
        """How much later a slower computer would have answered, ns.

        It skips what is past its deadline when it gets to it, so it never falls behind for ever.
        """
        if self.compute_scale == 1.0 or compute_ns == 0:
            return 0
        waited = max(0, self._busy_until_ns - (now - compute_ns))
        extra = min(waited + round((self.compute_scale - 1.0) * compute_ns), FOR_EVER_NS)
        if now - compute_ns + waited < due_ns:
            self._busy_until_ns = now + extra
        return extra


def facts_of(agent: Agent) -> dict[str, Any]:
    """An agent's facts as they travel. Raises TwinError naming one that cannot."""
    for name, value in agent.facts.items():
        if getattr(getattr(value, "dtype", None), "name", None) not in wire.DTYPES:
            raise TwinError(f"fact {name!r} of agent {agent.name!r} is not an array of {', '.join(wire.DTYPES)}")
    return wire.pack(agent.facts)
