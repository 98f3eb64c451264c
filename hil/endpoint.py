"""The conformance kit for a live process: the kit plays the twin, a controller in any language takes the seat.

    check_endpoint("tcp://127.0.0.1:5555", "ue", command="./mine --connect tcp://127.0.0.1:5555")

The process sits three times, and more often where it leaves in between. First in real time with fixed weights: answers
to the world's own observations, then what a twin or a network may throw at it. Then the same again: the same answers?
Then in lock-step, and in the end noise, at which it may leave. Each clause of docs/wire.md gets one verdict; nothing
here raises for what the process does, and every wait is bounded.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from hil import wire
from hil.hub import CLIENT_STAMPS
from hil.launch import _seat
from hil.sitting import GRACE_NS, Came, Examined, Line, Outsider, Question, Sitting
from twin.check import sample
from twin.errors import ScenarioError, SeatEmpty, WireError
from twin.runner import check_action
from twin.scenario import EXTERNAL, Scenario, build, load, window_of
from twin.types import Action, Agent, World
from twin.units import NS_PER_S

PASS, WARN, FAIL, SKIP = "PASS", "WARN", "FAIL", "SKIP"

OTHER_HALF_S = 5.0  # a hello without its subscription, or the reverse, is awaited no longer
QUIET_S = 0.15  # what nobody asked for is awaited so long
N_RANDOM = 5  # observations drawn inside their bounds instead of out of the world
N_BURST = 12  # observations sent at once, all but the last too old to be answered in time
MOST_SPARE = 80  # cycles that all clauses together need beyond those asked in peace
LONGEST_BEAT_S = 2.0  # heartbeats that come more rarely are looked at only when there is time
OUT_S = 1.0  # from a closed connection to the end of its process
TWIN_GONE_S = 65.0  # the advice of docs/wire.md is to wait a minute
SENSIBLE = {"float64": (1e-100, 1e100), "float32": (1e-30, 1e30), "int64": (1, 2**40), "int32": (1, 2**23)}  # or 0
INSTANTS = ("received", "decoded", "acted", "replied")

HANDSHAKE = "The handshake, in order"
ANSWER = "What a controller sends, `answer`"
WRONG = "What can go wrong"
COMES = "What may come to a controller"
LEAVING = "Probes, heartbeats, leaving"

CLAUSES = {  # in the order they are told: what the kit did, and the section of docs/wire.md to read
    "takes the seat": ("listened for a subscription and a hello", HANDSHAKE),
    "gets ready": ("sent the welcome until it said that it is ready", HANDSHAKE),
    "answers every observation": ("asked as the world goes, cycle after cycle", ANSWER),
    "answers can be read": ("decoded them as MessagePack maps with the fields of an answer", ANSWER),
    "run and slot come back": ("compared them with those of the observation", ANSWER),
    "one answer each": ("counted, and listened a little longer", WRONG),
    "shapes, dtypes, lengths": ("compared every array with the welcome's `acts`", "Arrays"),
    "byte order": ("looked whether numbers make sense only with their bytes reversed", "Arrays"),
    "finite and inside bounds": ("compared every number with the welcome's `acts`", ANSWER),
    "any observation in bounds": ("asked with random arrays inside the bounds of `observes`", ANSWER),
    "signals sent": ("looked to whom they go, and what they are", ANSWER),
    "signals received": ("sent arrays it does not know from every other agent", COMES),
    "stamps": ("held them against when the observation left and the answer came", ANSWER),
    "deadlines": ("held response times against the seat's window at rt_factor 1", "What the twin sends, `observation`"),
    "catches up": (f"sent {N_BURST} observations at once, all but the last past their deadlines", COMES),
    "welcome repeated": ("sent the welcome three times more, then an observation", COMES),
    "unknown fields": ("sent a welcome and an observation with fields of a later protocol", COMES),
    "unknown kinds and topics": ("sent messages of a later protocol on both sockets", COMES),
    "probes": ("sent three probes to the DEALER", LEAVING),
    "another run": ("sent an observation of another run", COMES),
    "an old slot": ("sent an observation that newer ones had overtaken", COMES),
    "a duplicate": ("sent the same observation twice", COMES),
    "skipped slots": ("asked again ten cycles later", COMES),
    "heartbeats": ("said nothing for a while and listened", LEAVING),
    "leaves on last": ("sent the final observation, and then stop", LEAVING),
    "the same again": ("asked the same once more, in a second run", COMES),
    "leaves on stop": ("sent stop, without a final observation before it", LEAVING),
    "lock-step": ("asked the same once more without deadlines, learning allowed", "What the twin sends, `welcome`"),
    "garbled messages": ("sent noise, half a message, and one and three frames", COMES),
    "arrays that do not fit": ("sent arrays of wrong length, shape and dtype, and left one out", COMES),
    "leaves when the twin vanishes": ("closed both sockets without a word", LEAVING),
}


@dataclass(frozen=True)
class Verdict:
    """What became of one clause: PASS, WARN (allowed, but look), FAIL, or SKIP (not applicable, or never reached)."""

    clause: str
    verdict: str
    did: str
    came: str
    read: str


def check_endpoint(
    address: str,
    agent: str,
    scenario: str | Scenario = "quickstart",
    *,
    command: str | None = None,
    wait_s: float = 60.0,
    again_s: float = 15.0,
    answer_s: float = 10.0,
    leave_s: float = 5.0,
    cycles: int = 25,
    slow: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[Verdict]:
    """Play the twin for a controller that runs as a process of its own, and judge what it does.

    address   where it connects to, as in docs/wire.md
    agent     the seat it takes
    scenario  whose world, seats and windows are played
    command   starts the process, as often as needed, and it is killed in the end; None: you start it, again when asked
    wait_s    how long it may take to come and to get ready, s
    again_s   without a command: how long it may take to come again, s
    answer_s  longest wait for one answer, s
    leave_s   how long it may take to leave, s
    cycles    how many observations are asked in peace
    slow      also look whether it leaves when the twin vanishes, which may take a minute
    say       told what the kit waits for, for a person to read

    Returns a verdict for each of CLAUSES. Raises SeatEmpty when nobody came at all, ScenarioError, WireError.
    """
    outsider = Outsider(command) if command else None
    loaded = load(scenario) if isinstance(scenario, str) else scenario
    limits = Limits(wait_s, wait_s if command else again_s, answer_s, leave_s)
    try:
        examination = Examination(address, agent, loaded, limits, cycles, outsider, slow, say)
        try:
            examination.run()
        finally:
            examination.line.close()
    finally:
        if outsider:
            outsider.close()
    return examination.verdicts()


@dataclass(frozen=True)
class Limits:
    """How long is waited, s: for the first arrival, for another, for one answer, for leaving."""

    wait_s: float
    again_s: float
    answer_s: float
    leave_s: float


Finding = tuple[str, str]  # a verdict, and what came


class Examination:
    """All sittings of one process, and what was found so far."""

    def __init__(
        self,
        address: str,
        agent: str,
        scenario: Scenario,
        limits: Limits,
        cycles: int,
        outsider: Outsider | None,
        slow: bool,
        say: Callable[[str], None],
    ):
        self.limits, self.cycles, self.outsider, self.slow, self.say = limits, cycles, outsider, slow, say
        self.scenario, self.agent, self.world = _world(scenario, agent, cycles)
        part = window_of(self.agent, self.world.agents) if self.agent.delay == 0 else self.agent.delay
        self.window_s = part * self.world.slot_s
        self.found: dict[str, Finding] = {}
        self.line = Line(address)
        self._seat: Examined | None = None
        self._never_again = ""  # why no further sitting is awaited
        self._valid = self._echoes = False  # what the first answers were like
        self._first: list[tuple[Question, Came | None]] = []

    def verdicts(self) -> list[Verdict]:
        """One for each clause, in their order."""
        why = self._never_again or "never reached"
        found = {clause: self.found.get(clause, (SKIP, why)) for clause in CLAUSES}
        return [
            Verdict(clause, found[clause][0], did, found[clause][1], read) for clause, (did, read) in CLAUSES.items()
        ]

    def run(self) -> None:
        """Every clause, in at least three sittings."""
        sitting = self._sit("realtime", learn=False, wait_s=self.limits.wait_s)
        if sitting is None:
            return
        self._peace(sitting)
        if not sitting.came:
            self._never_again = "it answered nothing"
            return
        sitting = self._look(
            sitting,
            {
                "signals received": self._signals_received,
                "catches up": self._catches_up,
                "welcome repeated": self._welcome_repeated,
                "unknown fields": self._unknown_fields,
                "unknown kinds and topics": self._unknown_kinds,
                "probes": self._probes,
                "another run": self._another_run,
                "an old slot": self._old_slot,
                "a duplicate": self._duplicate,
                "skipped slots": self._skipped_slots,
                "heartbeats": self._heartbeats,
            },
        )
        if sitting is None:
            return
        self.found["leaves on last"] = self._leaves_on_last(sitting)
        sitting = self._sit("realtime", learn=False, wait_s=self.limits.again_s, what="whether it answers the same")
        if sitting is None:
            return
        self.found["the same again"] = self._same_again(sitting)
        self.found["leaves on stop"] = self._leaves_on_stop(sitting)
        sitting = self._sit("lockstep", learn=True, wait_s=self.limits.again_s, what="lock-step")
        if sitting is None:
            return
        self.found["lock-step"] = self._lock_step(sitting)  # last what it may leave at
        sitting = self._look(sitting, {"garbled messages": self._garbled, "arrays that do not fit": self._misfits})
        if sitting is not None:
            self.found["leaves when the twin vanishes"] = self._vanishes(sitting)

    def _look(self, sitting: Sitting | None, clauses: dict[str, Callable[[Sitting], Finding]]) -> Sitting | None:
        """Look at one clause after another, in a new sitting where one ended the last; the sitting, if there is one."""
        verdict = PASS
        for clause, look in [*clauses.items(), ("", None)]:
            if sitting is not None and (sitting.gone or (verdict == FAIL and not self._answers(sitting))):
                sitting.seat.over = True
                sitting = self._sit("realtime", learn=False, wait_s=self.limits.again_s, what="the rest")
            if sitting is None or look is None:
                break
            verdict, _ = self.found[clause] = look(sitting)
        return sitting

    # sittings

    def _sit(self, clock: str, learn: bool, wait_s: float, what: str = "") -> Sitting | None:
        """Wait for the process to take the seat; None when it does not. The first time that is a finding."""
        first = self._seat is None
        self.line.run = uuid.uuid4().hex
        there = _seat(self.line, self.scenario, self.world, self.agent.name, clock)
        there.welcome.learn, there.welcome.rt_factor = learn, 1.0
        self._seat = Examined(there, self._seat.next_in if self._seat else None)
        if self.outsider:
            self.outsider.start()
        else:
            self.say(
                f"waiting at {self.line.address} for a process on seat {self.agent.name!r}, {wait_s:g} s"
                if first
                else f"start it again within {wait_s:g} s, and {what} is looked at"
            )
        seat, window_s = self._seat, self.window_s
        sitting = Sitting(self.line, seat, self.world, self.scenario.seed, window_s, self.outsider)
        begun = time.monotonic()
        self._arrival(sitting, wait_s, half_s=min(OTHER_HALF_S, wait_s) if first else wait_s)
        if first and not self._arrived(seat):
            return None
        if not first and not self._here(seat):
            self._never_again = self._why_not_again(f"it did not come again within {wait_s:g} s")
            return None
        arrived_s, begun = time.monotonic() - begun, time.monotonic()
        if first:
            self.found["takes the seat"] = (PASS, f"{seat.client or 'no name'!r} after {arrived_s:.1f} s")
        sitting.wait(lambda: seat.ready or sitting.gone, wait_s)
        if not seat.ready:
            how = self._how_it_left() if sitting.gone else f"not ready within {wait_s:g} s"
            self._never_again = f"it did not get ready ({how})"
            if first:
                self.found["gets ready"] = (FAIL, how)
            return None
        if first:
            ready_s = max(0.0, time.monotonic() - begun)
            self.found["gets ready"] = (
                (WARN, "it said ready before it was welcomed; say ready: true in the hello instead")
                if seat.eager
                else (PASS, "with its hello" if seat.said_ready else f"{ready_s:.1f} s after the welcome")
            )
        return sitting

    def _here(self, seat: Examined) -> bool:
        return seat.identity is not None and self.line.subscribed(self.agent.name)

    def _arrival(self, sitting: Sitting, wait_s: float, half_s: float) -> None:
        """Wait for both halves; when one is there, no longer than half_s for the other one."""
        seat, since = sitting.seat, [0.0]

        def settled() -> bool:
            half = seat.identity is not None or self.line.subscribed(self.agent.name) or bool(self.line.refusals)
            if half and not since[0]:
                since[0] = time.monotonic()
            given_up = since[0] and time.monotonic() - since[0] > half_s
            ended = self.outsider is not None and self.outsider.code is not None
            return self._here(seat) or bool(given_up) or ended

        sitting.wait(settled, wait_s)

    def _arrived(self, seat: Examined) -> bool:
        """Whether the seat is taken; if not, that is found out about. Raises SeatEmpty when nobody was there."""
        if self._here(seat):
            return True
        subscribed, name = self.line.subscribed(self.agent.name), self.agent.name
        if self.line.refusals:
            came = f"its hello was refused: {self.line.refusals[0]}"
        elif seat.identity is not None:
            came = f"a hello, but nobody subscribed to {name + '.'!r}"
        elif subscribed:
            came = "a subscription, but no hello"
        else:
            ended = self.outsider is not None and self.outsider.code is not None
            how = f": {self._how_it_left()}" if ended else ""
            raise SeatEmpty(f"nobody took seat {name!r} at {self.line.address}{how}")
        self.found["takes the seat"] = (FAIL, came)
        self._never_again = "it never took the seat"
        return False

    def _answers(self, sitting: Sitting) -> bool:
        """Whether a good observation is answered, with whatever."""
        question = sitting.send(sitting.message())
        sitting.settle(question, self.limits.answer_s)
        sitting.play_on(question)
        return len(sitting.came) > question.before

    def _how_it_left(self) -> str:
        code = self._exit_code()
        if self.outsider is None or code is None:
            return "it left"
        how = f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"
        return f"{how}, last line: {self.outsider.last_line()}"

    def _exit_code(self) -> int | None:
        """Of a process that has left its seat; None without a command, or when it lives on."""
        return self.outsider.ended(OUT_S) if self.outsider else None

    def _why_not_again(self, otherwise: str) -> str:
        ended = self.outsider is not None and self.outsider.code is not None
        return self._how_it_left() if ended else f"{otherwise}; give --command, or start it again while the kit waits"

    # what is asked in peace

    def _ask_in_peace(self, sitting: Sitting) -> list[tuple[Question, Came | None]]:
        """The world's observations, then random ones: each question with what came in answer to it."""
        rng = np.random.default_rng(0)
        questions: list[Question] = []
        silent = 0
        for cycle in range(self.cycles + N_RANDOM):
            values = sample(self.agent.observes, rng) if cycle >= self.cycles else None
            question = sitting.send(sitting.message(values))
            sitting.settle(question, self.limits.answer_s)
            questions.append(question)
            sitting.play_on(question)
            silent = 0 if len(sitting.came) > question.before else silent + 1
            if silent == 2 or sitting.gone:  # asking on would take as long again
                break
        sitting.wait(lambda: sitting.gone, QUIET_S)
        return _paired(questions, sitting.came)

    def _peace(self, sitting: Sitting) -> None:
        pairs = self._first = self._ask_in_peace(sitting)
        world, random = pairs[: self.cycles], pairs[self.cycles :]
        replies = [(q, c.reply) for q, c in world if c and c.reply and not c.reply.reason]
        none = [(q, c) for q, c in world if c is None or (c.reply and c.reply.reason)]
        garbled = [(q, c.reason) for q, c in world if c and c.reply is None]
        moved = [(q, r) for q, r in replies if (r.run, r.slot) != (q.run, q.slot)]
        extra = len(sitting.came) - sum(c is not None for _, c in pairs)
        misshapen = [(q, why) for q, r in replies if (why := _misshapen(self.agent, r))]
        shaped = [(q, r) for q, r in replies if not _misshapen(self.agent, r)]
        reversed_ = _reversed(self.agent, [r for _, r in shaped])
        wild = [(q, why) for q, r in shaped if (why := _out_of_bounds(self.agent, r, but=reversed_))]
        self._echoes = bool(replies) and not moved
        self._valid = bool(replies) and not (none or garbled or misshapen or reversed_ or wild)
        n = f"{len(world)} asked"

        def put(clause: str, broken: list[Any], tell: Callable[[Any], str], well: str) -> None:
            if broken:
                more = f" ({len(broken)} of {len(world)})" if len(broken) > 1 else ""
                self.found[clause] = (FAIL, tell(broken[0]) + more)
            else:
                self.found[clause] = (PASS, well) if replies else (SKIP, "no answer that can be read")

        put("answers can be read", garbled, lambda b: f"slot {b[0].slot}: {b[1]}", "all")
        put("answers every observation", none, lambda b: self._why_none(sitting, *b), n)
        if garbled and not none:
            self.found["answers every observation"] = (PASS, n)
        put("run and slot come back", moved, _where_it_went, "all")
        put("shapes, dtypes, lengths", misshapen, lambda b: f"slot {b[0].slot}: {b[1]}", "all as declared")
        put("byte order", reversed_, lambda name: f"{name} is big-endian", "little-endian")
        put("finite and inside bounds", wild, lambda b: f"slot {b[0].slot}: {b[1]}", "all")
        self.found["one answer each"] = (FAIL, f"{extra} more than asked for") if extra else (PASS, "none but those")
        self.found["any observation in bounds"] = self._random(random)
        self.found["signals sent"] = self._signals_sent(sitting, replies)
        self.found["stamps"] = _stamps([(q, c) for q, c in world if c and c.reply])
        self.found["deadlines"] = self._deadlines([(c.at_ns - q.sent_ns) / NS_PER_S for q, c in world if c])

    def _why_none(self, sitting: Sitting, question: Question, came: Came | None) -> str:
        if came and came.reply:
            return f"slot {question.slot} has a reason instead of values: {came.reply.reason[: wire.MOST_WORDS]}"
        if sitting.gone:
            return f"slot {question.slot} was not: {self._how_it_left()}"
        if self.line.refusals:
            return f"slot {question.slot} was not; something else was refused: {self.line.refusals[0]}"
        return f"slot {question.slot} was not, within {self.limits.answer_s:g} s"

    def _random(self, pairs: list[tuple[Question, Came | None]]) -> Finding:
        if not self._valid:
            return SKIP, "the world's own observations are not answered well either"
        for question, came in pairs:
            if came is None or came.reply is None:
                return FAIL, f"slot {question.slot} was not answered" + (f": {came.reason}" if came else "")
            why = came.reply.reason or _misshapen(self.agent, came.reply) or _out_of_bounds(self.agent, came.reply, [])
            if why:
                return FAIL, f"slot {question.slot}: {why}"
        return PASS, f"{len(pairs)} asked"

    def _signals_sent(self, sitting: Sitting, replies: list[tuple[Question, wire.Reply]]) -> Finding:
        default = self.world.default(self.agent.name)
        for question, reply in replies:
            try:
                signals = {to: wire.unpack(arrays) for to, arrays in reply.signals.items()}
                why = check_action(self.agent, Action(default, signals), sitting.seat.others)
            except WireError as error:
                why = str(error)
            if why:
                return FAIL, f"slot {question.slot}: {why}"
        receivers = sorted({to for _, reply in replies for to in reply.signals})
        return PASS, f"to {', '.join(receivers)}" if receivers else "it sends none"

    def _deadlines(self, response_s: list[float]) -> Finding:
        if not response_s:
            return SKIP, "no answer"
        p50, p99 = np.quantile(response_s, [0.5, 0.99])
        kept = sum(r <= self.window_s for r in response_s)
        came = (
            f"{kept} of {len(response_s)} within {self.window_s * 1e3:g} ms; p50 {p50 * 1e3:.2f}, p99 {p99 * 1e3:.2f}, "
            f"max {max(response_s) * 1e3:.2f}, first {response_s[0] * 1e3:.2f} ms"
        )
        if p50 > self.window_s:
            return FAIL, came
        return (PASS if max(response_s[1:], default=0.0) <= self.window_s else WARN), came

    # what it must take calmly: each returns what was found; whether it goes on is looked at by `_calm`

    def _calm(self, sitting: Sitting, came: str = "the next one was answered", leaving: str = FAIL) -> Finding:
        """After a disturbance: a good observation must be answered as well as before. leaving: the verdict on that."""
        question = sitting.send(sitting.message())
        exact = sitting.settle(question, self.limits.answer_s, nothing_else=self._echoes)
        sitting.play_on(question)
        if exact or (len(sitting.came) > question.before and not self._echoes):
            return PASS, came
        if len(sitting.came) > question.before:
            last = sitting.came[-1]
            return FAIL, "the next answer: " + (_where_it_went((question, last.reply)) if last.reply else last.reason)
        if sitting.gone:
            return (FAIL if (self._exit_code() or 0) < 0 else leaving), self._how_it_left()
        return FAIL, f"the next observation was not answered within {self.limits.answer_s:g} s"

    def _signals_received(self, sitting: Sitting) -> Finding:
        if not sitting.seat.others:
            return SKIP, "there is no other agent"
        hint = wire.pack({"hint": np.arange(3, dtype="float32"), "count": np.array(7)})
        signals = {other: msgspec.msgpack.decode(wire.encode(hint)) for other in sitting.seat.others}
        sitting.send(sitting.message(signals=signals))
        sitting.advance()
        return self._calm(sitting)

    def _catches_up(self, sitting: Sitting) -> Finding:
        sitting.advance()
        questions, begun_ns = [], time.monotonic_ns()
        for i in range(N_BURST):
            behind_ns = round((N_BURST - 1 - i) * self.window_s * NS_PER_S)
            old_ns = round(2 * self.window_s * NS_PER_S) if i < N_BURST - 1 else 0
            message = sitting.message(t_mono_ns=begun_ns - behind_ns - old_ns)
            questions.append(sitting.send(message))
            sitting.advance()
        newest = questions[-1]
        sitting.wait(lambda: bool(sitting.answers(newest)) or sitting.gone, self.limits.answer_s)
        came = next(iter(sitting.answers(newest)), None)
        if came is None:
            return self._calm(sitting) if sitting.gone or not self._echoes else (FAIL, "the newest was not answered")
        others, took_s = sum(bool(sitting.answers(q)) for q in questions[:-1]), (came.at_ns - newest.sent_ns) / NS_PER_S
        text = f"newest answered after {took_s * 1e3:.2f} of {self.window_s * 1e3:g} ms, and {others} of the old ones"
        if took_s <= self.window_s:
            return PASS, text
        return WARN, f"{text}; skip what is past its deadline when something newer is there"

    def _welcome_repeated(self, sitting: Sitting) -> Finding:
        for _ in range(3):
            self.line.publish(sitting.topic("welcome"), wire.encode(sitting.seat.welcome))
        return self._calm(sitting)

    def _unknown_fields(self, sitting: Sitting) -> Finding:
        later = {"later": {"a": [1, None, 2.5]}, "tags": ["x"]}
        welcome = msgspec.msgpack.decode(wire.encode(sitting.seat.welcome)) | later
        for spec in welcome["acts"] + welcome["observes"]:
            spec["meaning"] = "of a later protocol"
        self.line.publish(sitting.topic("welcome"), wire.encode(welcome))
        message = sitting.message() | later
        message["timing"]["later_us"] = 1.0
        for array in message["values"].values():
            array["unit"] = "of a later protocol"
        sitting.send(message)
        sitting.advance()
        return self._calm(sitting)

    def _unknown_kinds(self, sitting: Sitting) -> Finding:
        weather = wire.encode({"kind": "weather", "agent": self.agent.name, "sky": "clear"})
        self.line.publish(sitting.topic("weather"), weather)
        self.line.publish(sitting.topic("observation"), weather)
        self.line.publish(sitting.topic("observation.v2"), weather)
        self.line.whisper(sitting.seat.identity, sitting.topic("weather"), weather)
        return self._calm(sitting)

    def _probes(self, sitting: Sitting) -> Finding:
        for _ in range(3):
            beat = wire.encode(wire.Heartbeat(self.agent.name))
            self.line.whisper(sitting.seat.identity, sitting.topic("probe"), beat)
        return self._calm(sitting)

    def _another_run(self, sitting: Sitting) -> Finding:
        self.line.nap(GRACE_NS / NS_PER_S)  # who names the wrong slots may still be at the last one
        foreign = sitting.send(sitting.message(run=uuid.uuid4().hex))
        sitting.advance()  # its slot is asked by nobody else
        verdict, came = self._calm(sitting)
        sitting.wait(lambda: sitting.gone, QUIET_S)
        if sitting.answers(replace(foreign, run=sitting.run)):
            return FAIL, "it was answered as if it were of this run"
        echoed = verdict == PASS and bool(sitting.answers(foreign))
        return (PASS, "answered to that run: stale, and dropped by a twin") if echoed else (verdict, came)

    def _old_slot(self, sitting: Sitting) -> Finding:
        old = sitting.message()
        sitting.advance()
        verdict, came = self._calm(sitting)
        if verdict == FAIL:
            return verdict, came
        overtaken = sitting.send(old)
        verdict, came = self._calm(sitting)
        how = "it was answered" if sitting.answers(overtaken) else "it was passed over"
        return (PASS, f"{how}, and the next one answered") if verdict == PASS else (verdict, came)

    def _duplicate(self, sitting: Sitting) -> Finding:
        message = sitting.message()
        question = sitting.send(message)
        sitting.settle(question, self.limits.answer_s)
        once = len(sitting.answers(question))
        sitting.send(message)
        sitting.play_on(question)
        verdict, came = self._calm(sitting)
        sitting.wait(lambda: sitting.gone, QUIET_S)
        if verdict == PASS and len(sitting.answers(question)) > once:
            return WARN, "answered again: a duplicate, which a twin drops and counts; the controller acted twice"
        return verdict, came

    def _skipped_slots(self, sitting: Sitting) -> Finding:
        sitting.advance(10)
        return self._calm(sitting)

    def _heartbeats(self, sitting: Sitting) -> Finding:
        promised_s = sitting.seat.heartbeat_s
        if promised_s <= 0:
            return SKIP, "it offered none"
        if promised_s > LONGEST_BEAT_S and not self.slow:
            return SKIP, f"one every {promised_s:g} s was offered: that takes long, ask for it with --slow"
        signs, begun = sitting.seat.signs, time.monotonic_ns()
        before = len(signs)
        sitting.wait(lambda: sitting.gone, 3.2 * promised_s)
        if sitting.gone:
            return (
                FAIL,
                f"none for {3 * promised_s:g} s, though one every {promised_s:g} s was offered: the seat is vacant",
            )
        gap_s = max(np.diff([begun, *signs[before:], time.monotonic_ns()])) / NS_PER_S
        came = f"{len(signs) - before} in {3.2 * promised_s:.1f} s, longest gap {gap_s:.2f} s"
        return (PASS if gap_s <= 1.5 * promised_s + 0.1 else WARN), f"{came}, {promised_s:g} s offered"

    def _garbled(self, sitting: Sitting) -> Finding:
        topic, whole = sitting.topic("observation"), wire.encode(sitting.message())
        for frames in (
            (topic, whole[:-20]),
            (topic, b""),
            (topic, b"\xc1\xff\x00noise"),
            (topic, wire.encode(["a", "list"])),
            (topic, wire.encode({"without": "a kind"})),
            (topic,),
            (topic, whole[: len(whole) // 2], b"and more"),
        ):
            self.line.publish(*frames)
        self.line.whisper(sitting.seat.identity, sitting.topic("probe"), b"\xc1\xff\x00noise")
        sitting.advance()
        return self._calm(sitting, leaving=WARN)

    def _misfits(self, sitting: Sitting) -> Finding:
        names = [f.name for f in self.agent.observes]
        for change in (_cut, _longer, _of_text, _left_out):
            message = sitting.message()
            change(message["values"], names[-1])
            sitting.send(message)
            sitting.advance()
        return self._calm(sitting, leaving=WARN)

    # the end, and the other sittings

    def _leaves(self, sitting: Sitting) -> bool:
        """Wait for it to leave: with a command it ends, without one its connection does or it says hello anew."""

        def left() -> bool:
            if self.outsider:
                return self.outsider.code is not None
            return sitting.seat.identity is None or sitting.seat.next_in is not None

        sitting.seat.over = True
        if sitting.wait(left, self.limits.leave_s):
            return True
        sitting.seat.probe()
        return left()

    def _left(self, came: str) -> Finding:
        code = self._exit_code()
        return (FAIL, self._how_it_left()) if code else (PASS, came + (", exit code 0" if code == 0 else ""))

    def _leaves_on_last(self, sitting: Sitting) -> Finding:
        sitting.send(sitting.message(last=True))
        if self._leaves(sitting):
            sitting.stop()
            return self._left("it left")
        sitting.stop()
        if self._leaves(sitting):
            verdict, came = self._left("it left only on the stop that followed")
            return (WARN if verdict == PASS else verdict), came
        return FAIL, f"still there {2 * self.limits.leave_s:g} s after both"

    def _same_again(self, sitting: Sitting) -> Finding:
        if not any(came and came.reply for _, came in self._first):
            return SKIP, "no answer that can be read"
        other = _first_difference(self._first, self._ask_in_peace(sitting))
        return (FAIL, other) if other else (PASS, f"the same answers to {len(self._first)} observations")

    def _leaves_on_stop(self, sitting: Sitting) -> Finding:
        sitting.stop()
        return (
            self._left("it left") if self._leaves(sitting) else (FAIL, f"still there {self.limits.leave_s:g} s later")
        )

    def _lock_step(self, sitting: Sitting) -> Finding:
        pairs = self._ask_in_peace(sitting)
        for question, came in pairs:
            if self._valid and (came is None or came.reply is None):
                return FAIL, f"slot {question.slot} was not answered" + (f": {came.reason}" if came else "")
            why = came and came.reply and (came.reply.reason or _misshapen(self.agent, came.reply))
            if self._valid and why:
                return FAIL, f"slot {question.slot}: {why}"
        if self.found["the same again"][0] == FAIL:
            return PASS, "answered; not compared, as its answers differ from run to run"
        fixed = [i for i, (_, c) in enumerate(pairs) if c and c.reply and c.reply.weights == 0]
        n = next((i for i, j in enumerate(fixed) if i != j), len(fixed))  # up to the first learned update
        other = _first_difference(self._first[:n], pairs[:n])
        if other:
            return WARN, f"{other}, from real time: such a real-time run never equals the lock-step run"
        return PASS, f"the same answers as in real time to {n} observations" + (
            ", then it had learned" if n < len(pairs) else ""
        )

    def _vanishes(self, sitting: Sitting) -> Finding:
        if not (self.slow and self.outsider):
            sitting.stop()
            return SKIP, "it takes a minute: --slow" if self.outsider else "the kit cannot see it: --command and --slow"
        self.line.close()
        begun = time.monotonic()
        while self.outsider.code is None and time.monotonic() - begun < TWIN_GONE_S:
            time.sleep(0.1)
        if self.outsider.code is None:
            return FAIL, f"still there after {TWIN_GONE_S:g} s"
        return PASS, f"after {time.monotonic() - begun:.1f} s: {self._how_it_left()}"


def _world(scenario: Scenario, name: str, cycles: int) -> tuple[Scenario, Agent, World]:
    """The scenario made long enough, with an external seat; the seat; its world. Raises ScenarioError."""
    agents = {a.name: a for a in build(scenario).agents}
    if name not in agents:
        raise ScenarioError(f"no seat {name!r} in {scenario.world}; there are {', '.join(agents)}")
    seating = msgspec.structs.replace(scenario.seating(name), controller=EXTERNAL, options={})  # who sat there had them
    slots = agents[name].every * (cycles + N_RANDOM + MOST_SPARE)
    long = msgspec.structs.replace(scenario, slots=slots, agents=scenario.agents | {name: seating})
    world = build(long)
    return long, next(a for a in world.agents if a.name == name), world


def _paired(questions: list[Question], came: list[Came]) -> list[tuple[Question, Came | None]]:
    """Each question with the first answer that names it, or else with what came in its place."""
    pairs: dict[int, Came] = {}
    again: list[Came] = []
    odd: list[Came] = []
    for k, c in enumerate(came):
        asked = [i for i, q in enumerate(questions) if q.before <= k]  # an answer to a later slot is a wrong one
        named = [i for i in asked if c.reply and (c.reply.run, c.reply.slot) == (questions[i].run, questions[i].slot)]
        if not named:
            odd.append(c)
        elif named[0] in pairs:
            again.append(c)
        else:
            pairs[named[0]] = c
    left = [i for i in range(len(questions)) if i not in pairs]
    if len(came) <= len(questions):  # nobody answered twice, so these were meant for other slots
        odd = sorted([*odd, *again], key=lambda c: c.at_ns)
    return [(q, pairs.get(i) or dict(zip(left, odd)).get(i)) for i, q in enumerate(questions)]


def _misshapen(agent: Agent, reply: wire.Reply) -> str:
    """What is wrong with names, dtypes, shapes and lengths, or ""."""
    try:
        values = wire.unpack(reply.values)
    except WireError as error:
        return str(error)
    unbounded = tuple(f._replace(low=-np.inf, high=np.inf) for f in agent.acts)
    blank = {name: np.zeros_like(value) for name, value in values.items()}
    return check_action(replace(agent, acts=unbounded), Action(blank), ())


def _out_of_bounds(agent: Agent, reply: wire.Reply, but: list[str]) -> str:
    """What is wrong with the numbers of the arrays, but for those named, or ""."""
    acts = tuple(f for f in agent.acts if f.name not in but)
    values = wire.unpack({f.name: reply.values[f.name] for f in acts})
    return check_action(replace(agent, acts=acts), Action(values), ())


def _reversed(agent: Agent, replies: list[wire.Reply]) -> list[str]:
    """Arrays that make no sense as they are, and do with the bytes of each number reversed."""
    found = []
    for f in agent.acts:
        if f.dtype not in SENSIBLE or not replies:
            continue
        numbers = np.concatenate([wire.unpack({f.name: r.values[f.name]})[f.name].ravel() for r in replies])
        numbers = numbers[numbers != 0]
        least, most = SENSIBLE[f.dtype]

        def sensible(x: np.ndarray, low: float = f.low, high: float = f.high, a: float = least, b: float = most) -> Any:
            with np.errstate(over="ignore"):
                return np.isfinite(x) & (x >= low) & (x <= high) & (np.abs(x) >= a) & (np.abs(x) <= b)

        if numbers.size and sensible(numbers.byteswap()).all() and sensible(numbers).mean() < 0.5:
            found.append(f.name)
    return found


def _where_it_went(pair: tuple[Question, wire.Reply]) -> str:
    question, reply = pair
    if reply.run != question.run:
        return f"slot {question.slot} came back with run {reply.run[:40]!r}, asked was {question.run!r}"
    return f"slot {question.slot} came back as slot {reply.slot}"


def _stamps(pairs: list[tuple[Question, Came]]) -> Finding:
    """Whether they are there, in order, and by the clock they should be."""
    if not pairs:
        return SKIP, "no answer that can be read"
    for question, came in pairs:
        stamps = came.reply.stamps if came.reply else {}
        told = {name: stamps[name] for name in INSTANTS if name in stamps}
        ordered = {"sent": question.sent_ns, **told, "arrived": came.at_ns}
        for (before, t0), (after, t1) in pairwise(ordered.items()):
            if t1 < t0:
                hint = "" if {before, after} <= set(told) else "; stamps are CLOCK_MONOTONIC of the twin's host, ns"
                return FAIL, f"slot {question.slot}: {after} is {(t0 - t1) / 1e6:.3f} ms before {before}{hint}"
    absent = [
        n for n in CLIENT_STAMPS if n != "learn_ns" and any(c.reply and n not in c.reply.stamps for _, c in pairs)
    ]
    if absent:
        costs = "; without cpu_ns no slower computer can be emulated" if "cpu_ns" in absent else ""
        return WARN, f"no {', '.join(absent)}: that time is unaccounted{costs}"
    return PASS, "in order, between sending and arrival"


def _first_difference(one: list[tuple[Question, Came | None]], other: list[tuple[Question, Came | None]]) -> str:
    """Where two series of answers differ first, or ""."""
    for (question, a), (_, b) in zip(one, other):
        if (a is None) != (b is None) or (a and b and (a.reply is None) != (b.reply is None)):
            return f"slot {question.slot} was answered in one of two runs only"
        if a and b and a.reply and b.reply:
            for what, x, y in (
                ("values", a.reply.values, b.reply.values),
                ("signals", a.reply.signals, b.reply.signals),
            ):
                if x != y:
                    names = sorted(n for n in {*x, *y} if x.get(n) != y.get(n))
                    return f"{what} of slot {question.slot} differ: {', '.join(names)}"
    return ""


def _cut(values: dict[str, Any], name: str) -> None:
    values[name]["data"] = values[name]["data"][:-1]


def _longer(values: dict[str, Any], name: str) -> None:
    values[name]["shape"] = [*values[name]["shape"], 2]
    values[name]["data"] *= 2


def _of_text(values: dict[str, Any], name: str) -> None:
    values[name]["dtype"] = "text"


def _left_out(values: dict[str, Any], name: str) -> None:
    del values[name]
