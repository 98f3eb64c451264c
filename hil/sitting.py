"""One sitting of the conformance kit: somebody's process on a seat, asked whatever the kit likes, judged by nobody.

The sockets and the handshake are the twin's own (hil.hub). What differs: everything that comes is kept in order with
its time of arrival instead of being judged, and anything may be sent, also what a twin never would.
"""

import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import zmq

from hil import wire
from hil.hub import CLOCK_ID, Hub, There
from twin.errors import ControllerError, WireError
from twin.runner import check_action
from twin.types import Action, Arrays, World
from twin.units import NS_PER_S

STEP_NS = NS_PER_S // 100  # how often, while waiting, it is looked whether somebody is still there
GRACE_NS = NS_PER_S // 20  # what came is not the answer: so long it is waited whether the answer comes after all
KILL_S = 2.0


@dataclass(frozen=True)
class Came:
    """What came in answer to something: a reply, or the reason why it cannot be read."""

    at_ns: int
    reply: wire.Reply | None
    reason: str = ""


@dataclass(frozen=True)
class Question:
    """An observation that was sent; `before`: how much had come until then."""

    run: str
    slot: int
    sent_ns: int
    before: int


class Line(Hub):
    """The twin's two sockets, on which the kit may also send what a twin never would."""

    def __init__(self, address: str):
        super().__init__("", address)
        self.hellos = 0
        self.refusals: list[str] = []
        self.event = self._event

    def publish(self, *frames: bytes) -> int:
        """Send frames to every subscriber; returns when."""
        sent_ns = time.monotonic_ns()
        self._out.send_multipart(frames, zmq.NOBLOCK)
        return sent_ns

    def whisper(self, identity: bytes | None, *frames: bytes) -> None:
        """Send frames to one DEALER, if it is there."""
        if identity is not None:
            with suppress(zmq.ZMQError):  # it has gone, which is noticed elsewhere, or does not read
                self._in.send_multipart([identity, *frames], zmq.NOBLOCK)

    def _event(self, kind: str, **what: Any) -> None:
        if kind == "refused":
            self.refusals.append(what["reason"])

    def _hello(self, identity: bytes, hello: wire.Hello) -> None:
        self.hellos += 1
        super()._hello(identity, hello)


class Examined(There):
    """A seat that keeps what comes and judges nothing. Once it is over, who says hello waits for the next sitting."""

    def __init__(self, like: There, next_in: tuple[bytes, wire.Hello] | None = None):
        super().__init__(like.hub, like.agent, like.others, like.welcome, like.patience_s, 1.0)
        self.came: list[Came] = []
        self.signs: list[int] = []  # when a heartbeat came, ns
        self.said_ready = self.eager = False  # ready with its hello; ready before it could have been welcomed
        self.over = False
        self.next_in: tuple[bytes, wire.Hello] | None = None
        if next_in is not None:
            self.sit(*next_in)

    def sit(self, identity: bytes, hello: wire.Hello, key: str = "", key_name: str = "") -> None:
        """Somebody said hello; when this sitting is over, he is the first of the next one."""
        if self.over:
            self.next_in = (identity, hello)
            return
        super().sit(identity, hello, key, key_name)
        self.said_ready = hello.ready

    def heard(self, message: wire.Ready | wire.Heartbeat, now: int) -> None:
        """Keep when."""
        super().heard(message, now)
        if isinstance(message, wire.Heartbeat):
            self.signs.append(now)
        else:
            self.eager |= self._welcomed_ns == 0

    def answered(self, reply: wire.Reply, now: int) -> None:
        """Keep it."""
        self.heard_ns = now
        self.came.append(Came(now, reply))

    def garbled(self, reason: str, now: int) -> None:
        """Keep why it cannot be read."""
        self.came.append(Came(now, None, reason))


class Outsider:
    """A process that the kit starts by a command, as often as it needs it."""

    def __init__(self, command: str):
        self.words = shlex.split(command)
        self._process: subprocess.Popen | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the kit

    def start(self) -> None:
        """Start it; a former one is killed. Raises ControllerError when it cannot be started."""
        self.kill()
        self._log.seek(0)
        self._log.truncate()
        try:
            self._process = subprocess.Popen(
                self.words, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True
            )
        except (OSError, IndexError) as error:
            raise ControllerError(f"cannot start {shlex.join(self.words)!r}: {error}") from None

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll() if self._process else None

    def ended(self, wait_s: float) -> int | None:
        """Its exit code, waited for; None while it runs on."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(wait_s) if self._process else None
        return None

    def last_line(self) -> str:
        """The last line it printed, for a person to read."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "(it printed nothing)"

    def kill(self) -> None:
        """End it, and what it started."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_S)
        self._process = None

    def close(self) -> None:
        """Kill it and forget what it printed."""
        self.kill()
        self._log.close()


class Sitting:
    """A run that the kit plays for one seat: real observations of the world, or others, sent when the kit likes.

    The other seats hold their default actions; this one's valid answers are put in force, as in a run.
    """

    def __init__(self, line: Line, seat: Examined, world: World, seed: int, window_s: float, outsider: Outsider | None):
        self.line, self.seat, self.world, self.window_s, self.outsider = line, seat, world, window_s, outsider
        self.agent, self.run = seat.agent, line.run
        self.realtime = seat.welcome.clock == "realtime"
        self.slot = 0
        self._earned: float | None = None
        self._seed = seed
        self._begin()

    def _begin(self) -> None:
        self.world.reset(self._seed)
        for agent in self.world.agents:
            self.world.apply(agent.name, self.world.default(agent.name))

    @property
    def came(self) -> list[Came]:
        """All that came so far, oldest first."""
        return self.seat.came

    @property
    def gone(self) -> bool:
        """Whether who sat here has left: its process ended, or its connection cannot be reached."""
        return (self.outsider is not None and self.outsider.code is not None) or self.seat.identity is None

    def wait(self, enough: Callable[[], bool], wait_s: float) -> bool:
        """Listen until it is enough, or the time is over; whether it is enough."""
        until_ns = time.monotonic_ns() + round(wait_s * NS_PER_S)
        while not enough():
            now = time.monotonic_ns()
            if now >= until_ns:
                return False
            self.line.listen(min(until_ns, now + STEP_NS), enough)
        return True

    def message(self, values: Arrays | None = None, slot: int | None = None, **changes: Any) -> dict[str, Any]:
        """An observation as a plain map: of the world at this slot, unless told otherwise."""
        window_us = self.window_s * 1e6
        timing: dict[str, Any] = {
            "deadline_us": window_us if self.realtime else None,
            "slack_us": window_us / 2 if self.realtime and self.slot else None,  # the same whenever it is sent
            "status": "on_time" if self.slot else "",
            "action_source": "agent" if self.slot else "default",
            "age_slots": self.agent.every if self.slot else 0,
        }
        slot = self.slot if slot is None else slot
        asked = wire.Asked(
            run=self.run,
            agent=self.agent.name,
            slot=slot,
            t_sim_ns=round(slot * self.world.slot_s * NS_PER_S),
            t_mono_ns=time.monotonic_ns(),
            clock_id=CLOCK_ID,
            values=wire.pack(self.world.observe(self.agent.name) if values is None else values),
            reward=self._earned,
            last=False,
            signals={},
            timing=timing,
        )
        return msgspec.msgpack.decode(wire.encode(asked)) | changes

    def send(self, message: dict[str, Any]) -> Question:
        """Publish an observation."""
        before = len(self.came)
        sent_ns = self.line.publish(self.topic("observation"), wire.encode(message))
        return Question(message["run"], message["slot"], sent_ns, before)

    def topic(self, kind: str) -> bytes:
        """The topic of a kind of message for this seat."""
        return f"{self.agent.name}.{kind}".encode()

    def advance(self, cycles: int = 1) -> None:
        """Let the world play on to the seat's next cycle, or a later one."""
        earned = 0.0
        for _ in range(cycles * self.agent.every):
            outcome = self.world.step()
            earned += float(outcome.reward[self.agent.name])
            if outcome.done:
                self._begin()
        self.slot, self._earned = self.slot + cycles * self.agent.every, earned

    def answers(self, question: Question) -> list[Came]:
        """What came since that names its run and slot."""
        since = self.came[question.before :]
        return [c for c in since if c.reply and (c.reply.run, c.reply.slot) == (question.run, question.slot)]

    def settle(self, question: Question, wait_s: float, nothing_else: bool = False) -> bool:
        """Wait for its answer, or until nobody is there; whether its answer came.

        Something else that came instead is enough too, unless nothing else will do.
        """

        def enough() -> bool:
            other = not nothing_else and len(self.came) > question.before
            other = other and time.monotonic_ns() - self.came[-1].at_ns > GRACE_NS
            return bool(self.answers(question)) or other or self.gone

        self.wait(enough, wait_s)
        return bool(self.answers(question))

    def play_on(self, question: Question) -> None:
        """Put its answer in force if it is valid, and let the world play on."""
        for came in self.answers(question)[:1]:
            assert came.reply is not None
            with suppress(WireError):
                action = Action(wire.unpack(came.reply.values))
                if not came.reply.reason and not check_action(self.agent, action, ()):
                    self.world.apply(self.agent.name, action.values)
        self.advance()

    def stop(self) -> None:
        """Say that the run is over."""
        self.line.publish(self.topic("stop"), wire.encode(wire.Stop(self.run, "finished")))
