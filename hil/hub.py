"""The twin's two sockets, and the seats behind them.

Observations leave on XPUB, answers come in on ROUTER. One thread does everything: whenever the twin waits, for the
next release or for an answer, it waits in `listen`, which stamps each message as it arrives. A controller that
vanishes is noticed by its unsubscribe byte (XPUB) and confirmed by a probe the ROUTER cannot deliver.
"""

import select
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from hil import wire
from hil.clock import SPIN_NS
from twin.errors import SeatEmpty, TwinError, WireError
from twin.runner import check_action
from twin.types import Action, Agent, Answer, Observation
from twin.units import NS_PER_S

CLOCK_ID = "monotonic"
READ_AT_ONCE = 64  # messages read before the time is looked at again, so that a flood cannot hold the loop up
WELCOME_EVERY_NS = NS_PER_S // 10
DOUBT_NS = NS_PER_S  # after somebody unsubscribed, seats are probed for so long
PROBE_EVERY_NS = NS_PER_S // 500
LIVENESS_NS = NS_PER_S // 5  # how often somebody else's death is looked for while we wait
CLIENT_STAMPS = ("waiting", "received", "decoded", "acted", "replied", "cpu_ns", "learn_ns")
FOR_EVER_NS = 2**60
LOOPBACK = ("tcp://127.", "tcp://localhost:", "ipc://")
NOTED = 100  # events of one kind that get a line each; the counts say the rest
Event = Callable[..., None]


class Hub:
    """Binds the two sockets, knows who is subscribed and who said hello, and hands messages to their seats.

    address   where observations leave (hil.wire.endpoints); None lets the system choose a port on loopback
    event     called with a kind and details for everything worth a line in the record
    alive     called while waiting; raises what should end the wait (a dead child before the start)
    """

    def __init__(self, run: str, address: str | None = None, event: Event = lambda kind, **what: None):
        self.run, self.event = run, event
        self.alive: Callable[[], None] = lambda: None
        self.seats: dict[str, There] = {}
        self.refused = 0
        self.looked_ns = 0  # when the sockets were last found empty
        self._noted: Counter[str] = Counter()
        self._doubt_until_ns = self._probe_ns = 0
        self._topics: Counter[bytes] = Counter()
        self._context = zmq.Context()
        self._out, self._in = self._context.socket(zmq.XPUB), self._context.socket(zmq.ROUTER)
        for socket in (self._out, self._in):
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, 1000)
            socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
        self._out.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._in.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._in.setsockopt(zmq.RCVHWM, 1000)
        try:
            self.address = self._bind(address)
        except BaseException:
            self.close()
            raise
        self._fds = [int(socket.getsockopt(zmq.FD)) for socket in (self._out, self._in)]

    def _bind(self, address: str | None) -> str:
        if address is not None:
            out, into = wire.endpoints(address)
            if not out.startswith(LOOPBACK):
                raise WireError(
                    f"cannot listen on {out}: nothing is encrypted yet, so only 127.0.0.1 or ipc:// are allowed"
                )
            for socket, place in ((self._out, out), (self._in, into)):
                try:
                    socket.bind(place)
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
        self._context.term()

    # waiting

    def listen(self, until_ns: int, enough: Callable[[], bool] = lambda: False) -> None:
        """Read what comes, stamped as it comes, until the time is there or it is enough."""
        while True:
            self._read()
            if enough():
                return
            rest = until_ns - time.monotonic_ns()
            if rest <= 0:
                return
            if rest > SPIN_NS:  # the descriptors tell of edges, so everything was read before we sleep on them
                nap_ns = PROBE_EVERY_NS if time.monotonic_ns() < self._doubt_until_ns else LIVENESS_NS
                select.select(self._fds, [], [], min(rest - SPIN_NS, nap_ns) / NS_PER_S)
                self.alive()

    def note(self, kind: str, **what: Any) -> None:
        """Note what a peer did, unless it did it a hundred times already: a flood must not fill the disk."""
        self._noted[kind] += 1
        if self._noted[kind] <= NOTED:
            self.event(kind, **what)

    def _read(self) -> None:
        now = time.monotonic_ns()
        while True:
            try:
                message = self._out.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._subscription(message)
        for _ in range(READ_AT_ONCE):
            try:
                frames = self._in.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._incoming(frames, time.monotonic_ns())
        self.looked_ns = now
        if now < self._doubt_until_ns and now >= self._probe_ns:
            self._probe_ns = now + PROBE_EVERY_NS  # its other connection may close a little later
            for seat in self.seats.values():
                seat.probe()
        for seat in self.seats.values():
            seat.tend(now)

    def _subscription(self, message: bytes) -> None:
        topic = message[1:]
        if message[:1] == b"\x01":
            self._topics[topic] += 1
        else:
            self._topics[topic] -= 1
            self._doubt_until_ns = time.monotonic_ns() + DOUBT_NS  # a watcher left, or a controller

    def subscribed(self, agent: str) -> bool:
        """Whether anybody listens to what this agent is told."""
        topic = f"{agent}.observation".encode()
        return any(n > 0 and topic.startswith(prefix) for prefix, n in self._topics.items())

    def _incoming(self, frames: list[bytes], now: int) -> None:
        identity, body = frames[0], frames[-1]
        seat = next((s for s in self.seats.values() if s.identity == identity), None)
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
            seat.heard_ns = now
            seat.ready |= isinstance(message, wire.Ready)

    def _hello(self, identity: bytes, hello: wire.Hello) -> None:
        seat = self.seats.get(hello.agent)
        if seat is None:
            self._refuse(identity, hello.agent, f"no seat {hello.agent[:40]!r}; there are {', '.join(self.seats)}")
            return
        if hello.protocol != wire.PROTOCOL:
            self._refuse(identity, hello.agent, f"protocol {hello.protocol}, this twin speaks {wire.PROTOCOL}")
            return
        if seat.identity is not None and seat.identity != identity and seat.probe():
            self._refuse(identity, hello.agent, f"seat {hello.agent!r} is taken by {seat.client or 'somebody'}")
            return
        if seat.identity is None:
            seat.sit(identity, hello)

    def _refuse(self, identity: bytes, agent: str, reason: str) -> None:
        self.refused += 1
        self.note("refused", agent=agent[:40], reason=reason)
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

    def gather(self, wait_s: float) -> None:
        """Wait until every seat is taken and ready. Raises SeatEmpty naming one that is not, and how to take it."""
        until = time.monotonic_ns() + round(wait_s * NS_PER_S)
        self.listen(until, lambda: all(seat.taken for seat in self.seats.values()))
        for name, seat in self.seats.items():
            if not seat.taken:
                state = "is not ready" if seat.identity is not None else "was not taken"
                raise SeatEmpty(
                    f"seat {name!r} {state} within {wait_s:g} s; take it with: "
                    f"ntn-twin control MODULE:CLASS --agent {name} --connect {self.address}"
                )

    def stop(self, reason: str) -> None:
        """Tell every controller that the run is over."""
        for name in self.seats:
            self.send(name, "stop", wire.Stop(self.run, reason))


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
        self.client = ""
        self.ready = False
        self.heard_ns = 0
        self.heartbeat_s = 0.0
        self.late: list[tuple[int, Mapping[str, int]]] = []
        self.stale = self.duplicates = 0
        self._cycle_ns = round(welcome.every * welcome.slot_s / welcome.rt_factor * NS_PER_S)
        self._welcomed_ns = 0
        self._due: dict[int, tuple[int, int]] = {}  # open cycles: deadline, sent
        self._answers: dict[int, Answer] = {}  # came, not yet taken
        self._missed: tuple[int, int, int] | None = (
            None  # the last cycle judged, its deadline and when it was sent, if nothing had come
        )
        self._answered: deque[int] = deque(maxlen=16)  # the last cycles judged for which something had come
        self._busy_until_ns = 0
        hub.seats[agent.name] = self

    @property
    def taken(self) -> bool:
        """Somebody sits here, listens, and is ready to answer."""
        return self.identity is not None and self.ready and self.hub.subscribed(self.agent.name)

    def sit(self, identity: bytes, hello: wire.Hello) -> None:
        """Somebody said hello to an empty seat."""
        self.identity, self.client, self.ready = identity, hello.client[:100], hello.ready
        self.heartbeat_s, self.heard_ns = hello.heartbeat_s, time.monotonic_ns()
        self._welcomed_ns = 0
        self.hub.note("seated", agent=self.agent.name, client=self.client)

    def leave(self, why: str) -> None:
        """The seat is vacant from now on: whoever waits for it need not."""
        self.hub.note("vacant", agent=self.agent.name, client=self.client, reason=why)
        self.identity, self.ready = None, False

    def probe(self) -> bool:
        """Whether somebody still sits here; who cannot be reached has left."""
        if self.identity is not None and not self.hub.reaches(self.identity, self.agent.name):
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
            self._due[seen.slot] = (due_ns, sent_ns)

    def take(self, slot: int) -> Answer:
        """The answer to observation `slot`, awaited until its deadline; in lock-step until it comes or cannot come."""
        due_ns, sent_ns = self._due[slot]
        until = due_ns or sent_ns + round(self.patience_s * NS_PER_S)
        self.hub.listen(until, lambda: slot in self._answers or (due_ns == 0 and self.identity is None))
        answer = self._answers.pop(slot, None)
        del self._due[slot]
        self._missed = None
        if answer is not None:
            self._answered.append(slot)
        if answer is not None and due_ns:
            self.hub.listen(min(answer.stamps["arrived"], due_ns))  # an emulated computer is not done before
            if answer.stamps["arrived"] > due_ns:
                if answer.status == "on_time" and answer.stamps["arrived"] <= due_ns + self._cycle_ns:
                    self.late.append((slot, answer.stamps))
                answer = None
        elif answer is None:
            self._missed = (slot, due_ns, sent_ns)
        if answer is None:
            reason = "no answer by the deadline" if self.probe() else "the seat is vacant"
            return Answer(None, "missing", reason=reason, stamps={"sent": sent_ns})
        return answer

    def _emulated(self, stamps: dict[str, int], due_ns: int) -> int:
        """How much later a slower computer would have answered, ns.

        It skips what is past its deadline when it gets to it, so it never falls behind for ever.
        """
        compute_ns = stamps.get("cpu_ns", 0)
        if self.compute_scale == 1.0 or compute_ns == 0:
            return 0
        waited = max(0, self._busy_until_ns - (stamps["arrived"] - compute_ns))
        extra = min(waited + round((self.compute_scale - 1.0) * compute_ns), FOR_EVER_NS)
        if stamps["arrived"] - compute_ns + waited < due_ns:
            self._busy_until_ns = stamps["arrived"] + extra
        return extra

    # what comes in

    def garbled(self, reason: str, now: int) -> None:
        """Noise from the one who sits here: it stands as the answer to the oldest open cycle."""
        for slot in self._due:
            if slot not in self._answers:
                self._answers[slot] = Answer(
                    None, "invalid", reason=reason, stamps={"sent": self._due[slot][1], "arrived": now}
                )
                return
        self.hub.note("noise", agent=self.agent.name, reason=reason)

    def answered(self, reply: wire.Reply, now: int) -> None:
        """An answer arrived: check it, and keep it for its cycle if that is still open."""
        self.heard_ns = now
        slot = reply.slot
        if reply.run != self.hub.run:
            self.stale += 1
            self.hub.note("stale", agent=self.agent.name, slot=slot, reason=f"an answer to run {reply.run[:40]!r}")
            return
        if slot in self._answers or slot in self._answered:
            self.duplicates += 1
            self.hub.note("duplicate", agent=self.agent.name, slot=slot)
            return
        missed = self._missed if self._missed is not None and self._missed[0] == slot else None
        answer = self._judged(reply, now, missed[1:] if missed else self._due.get(slot, (0, 0)))
        if slot in self._due:
            self._answers[slot] = answer
        elif missed is not None and answer.status == "on_time":
            self.late.append((slot, answer.stamps))
            self._missed = None
            self._answered.append(slot)
        else:
            self.stale += 1
            self.hub.note("stale", agent=self.agent.name, slot=slot, reason="the cycle is no longer open")

    def _judged(self, reply: wire.Reply, now: int, open_: tuple[int, int]) -> Answer:
        stamps: dict[str, int] = {name: reply.stamps[name] for name in CLIENT_STAMPS if name in reply.stamps}
        stamps |= {"weights": reply.weights, "learning_misses": reply.learning_misses, "arrived": now, "sent": open_[1]}
        emulation = self._emulated(stamps, open_[0])
        stamps["arrived"] += emulation
        stamps["emulation_ns"] = emulation
        due_ns = open_[0]
        if reply.slot in self._due and emulation == 0 and self.hub.looked_ns < due_ns < now:
            stamps["overrun"] = 1  # the twin was busy over the deadline and cannot know: it counts for the controller
            stamps["arrived"] = due_ns
        action: Action | None = None
        try:
            action = Action(
                wire.unpack(reply.values), {to: wire.unpack(arrays) for to, arrays in reply.signals.items()}
            )
            reason = check_action(self.agent, action, self.others)
        except WireError as error:
            reason = str(error)
        if reason:
            return Answer(None, "invalid", reason=reason, stamps=stamps)
        return Answer(action, stamps=stamps)


def facts_of(agent: Agent) -> dict[str, Any]:
    """An agent's facts as they travel. Raises TwinError naming one that cannot."""
    for name, value in agent.facts.items():
        if getattr(getattr(value, "dtype", None), "name", None) not in wire.DTYPES:
            raise TwinError(f"fact {name!r} of agent {agent.name!r} is not an array of {', '.join(wire.DTYPES)}")
    return wire.pack(agent.facts)
