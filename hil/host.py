"""Any controller becomes a process: connect, say hello, read the welcome, answer until the last observation.

The control path is one thread: receive, decode, act, encode, send. What the controller learns runs in a second thread
after the answer has left; when the twin is gone the process ends by itself.
"""

import contextlib
import gc
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from hil import wire
from hil.keys import ClientKeys
from hil.offset import CLOCK_ID
from twin.errors import ControllerError, SeatEmpty, WireError
from twin.runner import Learner, check_action
from twin.scenario import controller_class, make_controller
from twin.types import Action, Agent, Controller, Observation
from twin.units import NS_PER_S, NS_PER_US

HELLO_EVERY_S = 0.5
LOOK_NS = NS_PER_S // 5  # how often a busy or waiting controller looks whether the twin is still there
WATCHED = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
)
MOST_HANDSHAKES = 20  # that fail one after another, in about three seconds; a busy twin fails one in five
REMEMBERED = 64  # observations from which a controller by another clock guesses when the twin's deadlines are
KEPT = 32  # as the twin keeps cycles, to tell what comes twice
SWITCH_S = 0.0002  # what is learned in the other thread lets the control path in within this; Python's own is 5 ms


def serve(
    controller: type[Controller] | str,
    agent: str,
    connect: str,
    patience_s: float = 60.0,
    heartbeat_s: float = 0.0,
    options: Mapping[str, Any] | None = None,
    keys: ClientKeys | None = None,
) -> int:
    """Take a seat and answer until the run is over; the number of observations answered.

    controller   a class, built as Class(agent, seed, **options), or the name of one as scenarios give it
    agent        the seat's name, e.g. "ue"
    connect      the twin's address, e.g. "tcp://127.0.0.1:5555"
    patience_s   how long a twin may take to appear and welcome us, s
    heartbeat_s  offer a sign of life this often, s: more than the longest answer takes; 0 offers none (a vanished
                 process is noticed without)
    options      used instead of those the scenario gives with the welcome
    keys         hil.keys.for_client(...), where the twin has keys

    Raises SeatEmpty when no twin welcomed us, ControllerError when it refused us or is gone, WireError.
    """
    out, into = wire.endpoints(connect)
    if isinstance(controller, str):
        controller_class(controller)  # said at once, not after the twin was found
    context = zmq.Context()
    sub, dealer = context.socket(zmq.SUB), context.socket(zmq.DEALER)
    for socket in (sub, dealer):
        socket.setsockopt(zmq.LINGER, 500)  # the last answer, and a refusal to read
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES)
        if keys is not None:
            keys.lock(socket)
    monitor = dealer.get_monitor_socket(WATCHED)
    learning = ThreadPoolExecutor(1, "learn")
    try:
        sub.setsockopt(zmq.SUBSCRIBE, f"{agent}.".encode())
        sub.connect(out)
        dealer.connect(into)
        peer = _Peer(sub, dealer, monitor, agent, connect, keys)
        welcome = peer.welcome(patience_s, heartbeat_s)
        seat = wire.agent_of(welcome)
        chosen = dict(welcome.options if options is None else options)
        if isinstance(controller, str):
            made = make_controller(controller, seat, welcome.seed, chosen)
        else:
            made = controller(seat, welcome.seed, **chosen)  # type: ignore[call-arg]
        learner = Learner(made, welcome.learn_delay, welcome.clock != "realtime", learning) if welcome.learn else None
        sys.setswitchinterval(SWITCH_S)
        gc.collect()
        gc.freeze()  # what was loaded so far is never garbage: a collection in the loop need not look at it
        peer.send(wire.Ready(agent, welcome.run))
        return _answer(peer, welcome, seat, made, learner, heartbeat_s)
    finally:
        learning.shutdown(wait=False, cancel_futures=True)
        dealer.disable_monitor()
        monitor.close(0)
        sub.close()
        dealer.close()
        context.term()


class _Peer:
    """The twin as a controller sees it: one socket to hear it, one to speak, and word of whether it is still there."""

    def __init__(
        self,
        sub: zmq.Socket,
        dealer: zmq.Socket,
        monitor: zmq.Socket,
        agent: str,
        address: str,
        keys: ClientKeys | None,
    ):
        self.sub, self.dealer, self.monitor, self.agent = sub, dealer, monitor, agent
        self.address, self.keys = address, keys
        self.failed_handshakes = 0  # since the last that did not fail
        self._poller = zmq.Poller()
        for socket in (sub, dealer, monitor):
            self._poller.register(socket, zmq.POLLIN)

    def send(self, message: wire.Incoming) -> None:
        self.dealer.send(wire.encode(message))

    def hear(self, wait_s: float) -> list[tuple[int, wire.Outgoing]]:
        """What the twin published meanwhile, each with when we read it, ns; waits for it so long.

        Raises ControllerError when the twin refused us or is gone.
        """
        ready = dict(self._poller.poll(round(wait_s * 1e3)))
        heard = self.read() if self.sub in ready else []
        self.look(connection=not heard)  # what it said before it left is read first
        return heard

    def read(self) -> list[tuple[int, wire.Outgoing]]:
        """What has come, without waiting."""
        heard: list[tuple[int, wire.Outgoing]] = []
        with contextlib.suppress(zmq.Again):
            while True:
                frames = self.sub.recv_multipart(zmq.NOBLOCK)
                received_ns = time.monotonic_ns()
                if (message := _understood(frames)) is not None:
                    heard.append((received_ns, message))
        return heard

    def look(self, connection: bool = True) -> None:
        """Raise ControllerError when the twin refused us, or there is no connection; probes are read and forgotten."""
        with contextlib.suppress(zmq.Again):
            while True:
                message = _understood(self.dealer.recv_multipart(zmq.NOBLOCK))
                if isinstance(message, wire.Refused):
                    raise ControllerError(f"the twin refused seat {self.agent!r}: {message.reason}")
        if connection and self.monitor.poll(0):
            self._connection(recv_monitor_message(self.monitor)["event"])

    def listen(self, wait_s: float) -> Iterator[tuple[int, int, wire.Outgoing | None]]:
        """The messages of a run one by one: since when we waited, when we read it, ns, and it; None: silence, noise.

        The way of every observation: one blocking call on one socket, which wakes sooner than a poll of three. Word of
        the twin's end comes over the others, so they are looked at after each silence, and every LOOK_NS.
        """
        self.sub.setsockopt(zmq.RCVTIMEO, max(1, round(min(wait_s, LOOK_NS / NS_PER_S) * 1e3)))
        looked_ns = 0
        while True:
            waiting_ns, frames = time.monotonic_ns(), None
            with contextlib.suppress(zmq.Again):
                frames = self.sub.recv_multipart()
            received_ns = time.monotonic_ns()
            if frames is None or received_ns - looked_ns > LOOK_NS:
                self.look(connection=frames is None)
                looked_ns = received_ns
            yield waiting_ns, received_ns, None if frames is None else _understood(frames)

    def _connection(self, event: int) -> None:
        """What ZeroMQ tells of our connection. Raises ControllerError when there is none, and waiting does not help."""
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.failed_handshakes = 0
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            name = "" if self.keys is None else f", {self.keys.pair.name!r}"
            raise ControllerError(
                f"the twin at {self.address} did not accept our key{name}: it is not on its --allow list"
            )
        elif event != zmq.EVENT_DISCONNECTED:
            self.failed_handshakes += 1
            hopeless = self.keys is not None and self.failed_handshakes >= MOST_HANDSHAKES
            if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL or hopeless:
                raise ControllerError(self._no_handshake())
        elif not self.failed_handshakes:
            raise ControllerError(f"the twin of seat {self.agent!r} is gone")

    def _no_handshake(self) -> str:
        if self.keys is None:
            return f"no handshake with {self.address}: a twin with keys wants --keys and --server-key, or it is no twin"
        return (
            f"no handshake with {self.address}: it has another key than --server-key says, none at all, or is no twin"
        )

    def welcome(self, patience_s: float, heartbeat_s: float) -> wire.Welcome:
        """Say hello until somebody answers."""
        hello = wire.Hello(
            wire.PROTOCOL,
            self.agent,
            f"ntn-twin python, process {os.getpid()}",
            heartbeat_s=heartbeat_s,
            clock_id=CLOCK_ID,
        )
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            with contextlib.suppress(zmq.Again):  # nobody is there, and enough hellos wait for who comes
                self.dealer.send(wire.encode(hello), zmq.NOBLOCK)
            for _, message in self.hear(HELLO_EVERY_S):
                if isinstance(message, wire.Stop):
                    raise ControllerError(f"the run of seat {self.agent!r} is over: {message.reason}")
                if isinstance(message, wire.Welcome):
                    if message.protocol != wire.PROTOCOL:
                        raise WireError(f"the twin speaks protocol {message.protocol}, this controller {wire.PROTOCOL}")
                    return message
        why = f"; {self._no_handshake()}" if self.failed_handshakes else ""
        raise SeatEmpty(f"no twin welcomed seat {self.agent!r} within {patience_s:g} s{why}")


def _understood(frames: list[bytes]) -> wire.Outgoing | None:
    """A message of the twin; None for noise, and for what a later protocol may say: both are passed over."""
    try:
        return wire.decode_outgoing(frames[1]) if len(frames) == 2 else None
    except WireError:
        return None


def _answer(
    peer: _Peer,
    welcome: wire.Welcome,
    agent: Agent,
    controller: Controller,
    learner: Learner | None,
    heartbeat_s: float,
) -> int:
    answered, realtime, beat = 0, welcome.clock == "realtime", time.monotonic()
    others, finish = tuple(welcome.others), getattr(controller, "finish", lambda _: None)
    ahead_ns: deque[int] = deque(maxlen=REMEMBERED)
    done: deque[int] = deque(maxlen=KEPT)  # slots answered lately: one that comes twice is acted upon once
    for waiting_ns, received_ns, message in peer.listen(heartbeat_s or 1.0):
        if heartbeat_s and time.monotonic() - beat >= heartbeat_s:
            peer.send(wire.Heartbeat(agent.name))
            beat = time.monotonic()
        if message is None:
            continue
        heard = _still_open([(received_ns, message)], ahead_ns, peer.read) if realtime else [(received_ns, message)]
        for received_ns, message in heard:
            if isinstance(message, wire.Stop):
                return answered
            if not isinstance(message, wire.Asked) or message.run != welcome.run:
                continue
            if message.slot in done and not message.last:
                continue
            if learner is not None and not message.last:
                learner.before(message.slot)
            try:
                seen = _seen(agent, message)
            except WireError as error:
                if message.last:
                    return answered
                peer.send(wire.Reply(agent.name, welcome.run, message.slot, {}, reason=f"the observation: {error}"))
                continue
            done.append(message.slot)
            if seen.last:
                finish(seen)
                return answered
            stamps = {"waiting": waiting_ns, "received": received_ns, "decoded": time.monotonic_ns()}
            cpu_ns = time.thread_time_ns()
            action = controller.act(seen)
            stamps["cpu_ns"], stamps["acted"] = time.thread_time_ns() - cpu_ns, time.monotonic_ns()
            peer.send(_reply(agent, others, welcome.run, message.slot, action, stamps, learner))
            answered += 1
            if learner is not None:
                learner.after(message.slot)
            waiting_ns = time.monotonic_ns()
    return answered


def _seen(agent: Agent, message: wire.Asked) -> Observation:
    """An observation as the controller sees it. Raises WireError where its arrays are not those of the welcome."""
    for f in agent.observes:
        packed = message.values.get(f.name)
        if packed is None or packed.shape != f.shape or packed.dtype != f.dtype:
            raise WireError(f"{f.name} is {packed and (packed.shape, packed.dtype)}, expected {(f.shape, f.dtype)}")
    return Observation(
        message.agent,
        message.slot,
        wire.unpack(message.values),
        message.reward,
        message.last,
        {sender: wire.unpack(arrays) for sender, arrays in message.signals.items()},
        message.timing,
    )


def _reply(
    agent: Agent,
    others: tuple[str, ...],
    run: str,
    slot: int,
    action: Action,
    stamps: dict[str, int],
    learner: Learner | None,
) -> wire.Reply:
    """The answer as it travels; one that is wrong travels as its reason, so that here and there are judged alike."""
    reply = wire.Reply(agent.name, run, slot, {}, reason=check_action(agent, action, others))
    if not reply.reason:
        reply.values = wire.pack(action.values)
        reply.signals = {to: wire.pack(arrays) for to, arrays in action.signals.items()}
    reply.stamps = stamps
    if learner is not None:
        learned = learner.stamps()
        reply.weights, reply.learning_misses = learned["weights"], learned["learning_misses"]
        stamps["learn_ns"] = learned["learn_ns"]
    stamps["replied"] = time.monotonic_ns()
    return reply


Heard = list[tuple[int, wire.Outgoing]]


def _still_open(heard: Heard, ahead_ns: deque[int], more: Callable[[], Heard] = list) -> Heard:
    """A controller that fell behind skips the observations whose deadline has passed, and only those; not the newest.

    ahead_ns  how much later than the twin stamped them the newest observations were read, by a clock that is not the
              twin's: the least of these is its offset and the shortest way, so no deadline is taken to be too early
    more      reads what else has come; asked only when it is too late for what was heard
    """
    judged = [(at, m, _is_over(at, m, ahead_ns)) for at, m in heard]
    if judged[-1][2]:
        judged += [(at, m, _is_over(at, m, ahead_ns)) for at, m in more()]
    newest = next((m for _, m, _ in reversed(judged) if isinstance(m, wire.Asked)), None)
    return [(at, m) for at, m, over in judged if m is newest or not over]


def _is_over(received_ns: int, message: wire.Outgoing, ahead_ns: deque[int]) -> bool:
    """Whether this is an observation whose deadline has passed."""
    if not isinstance(message, wire.Asked):
        return False
    if message.clock_id not in ("", CLOCK_ID):
        ahead_ns.append(received_ns - message.t_mono_ns)
    due_ns = message.t_mono_ns + float(message.timing.get("deadline_us") or 0.0) * NS_PER_US
    return due_ns <= time.monotonic_ns() - min(ahead_ns, default=0)
