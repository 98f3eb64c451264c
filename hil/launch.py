"""Fly a scenario with a process on each seat: sockets, clock, controller processes, and no child left behind."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from hil import scheduling, wire
from hil.clock import RealTime, Virtual, sleep_until
from hil.faults import Faults, InThisProcess
from hil.faults import check as check_faults
from hil.gate import Gate
from hil.hub import Hub, There, facts_of
from hil.keys import TwinKeys
from hil.modelled import Modelled, model_of
from hil.offset import CLOCK_ID
from twin.errors import ControllerError, RecordError, ScenarioError
from twin.interrupt import held_back, nap
from twin.record import Record, new_folder
from twin.runner import Here, LockStep, Watch, describe, drive
from twin.runner import run as run_here
from twin.scenario import EXTERNAL, Scenario, Scheduling, agent_seed, build
from twin.types import Agent, Outcome, Seat, World
from twin.units import NS_PER_S

EXTERNAL_ADDRESS = "tcp://127.0.0.1:5555"  # where an external controller finds the twin when nobody says otherwise
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
LEAVE_S = 2.0  # a controller may take this long to leave before it is terminated, and again before it is killed
LAST_LINES = 5
LAST_BYTES = 4096


class Crew:
    """The controller processes of a run, started, watched and stopped; what they print goes to the run folder."""

    def __init__(self, folder: Path, event: Callable[..., None], left: Callable[[str], None]):
        self.folder, self.event, self.left = folder / "controllers", event, left
        self.started = False  # from then on a death is an event of the run, before it is the end of it
        self._processes: dict[str, subprocess.Popen] = {}
        self._sits: dict[str, tuple[str, str, Mapping[str, str] | None]] = {}  # by agent: what it was started with
        self._cpus: dict[str, set[int]] = {}

    def start(self, agent: str, controller: str, address: str, keys: Mapping[str, str] | None = None) -> None:
        """Start a controller on a seat; keys are what its environment needs to be let in (Hub.hire)."""
        command = [sys.executable, "-m", "hil", controller, agent, address]
        self._sits[agent] = controller, address, keys
        try:
            self.folder.mkdir(exist_ok=True)
            log = self._log(agent).open("ab")
        except OSError as error:
            raise RecordError(f"run folder {self.folder.parent}: no log for seat {agent!r}: {error}") from None
        with log, held_back():  # or a Ctrl-C could leave a process that nobody knows
            self._processes[agent] = subprocess.Popen(  # a session of its own: Ctrl-C is the twin's to handle
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **ONE_THREAD, "NTN_TWIN_PID": str(os.getpid()), **(keys or {})},
                start_new_session=True,
            )
        self._cpus[agent] = os.sched_getaffinity(0)

    def signal(self, agent: str, number: int) -> None:
        """Send a signal to a controller and what it started, if it still runs."""
        if agent in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._processes[agent].pid, number)

    def bury(self, agent: str) -> None:
        """Wait for a controller that was killed, and note it."""
        if agent in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._processes[agent].wait(LEAVE_S)
        self.look()

    def start_again(self, agent: str) -> None:
        """Start a fresh process of a controller that has ended, on the processors that the first one had."""
        self.bury(agent)
        cpus = self._cpus[agent]
        self.start(agent, *self._sits[agent])
        self._cpus[agent] = cpus
        os.sched_setaffinity(self._processes[agent].pid, cpus)  # ours may be the twin's alone by now (hil.scheduling)

    def runs(self, agent: str) -> bool:
        """Whether its process was there when we last looked."""
        return agent in self._processes

    def look(self) -> None:
        """Notice who has died. Raises ControllerError before the run has started, notes an event in it."""
        for agent, process in list(self._processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self._processes[agent]
            _end_group(process)  # now: in a long run its number is another's some day
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            if not self.started:
                error = ControllerError(
                    f"controller of seat {agent!r} {how} before it was ready:\n{self._last_lines(agent)}"
                )
                error.exit_code = 2 if code == 2 else 3
                raise error
            if code != 0:
                self.event("died", agent=agent, how=how, last_lines=self._last_lines(agent))
                self.left(agent)  # its connection may live on in a process it forked

    def stop(self) -> None:
        """Wait for those who leave by themselves, noting how they did; terminate, then kill, those who do not."""
        for agent in self._processes:
            self.signal(agent, signal.SIGCONT)  # who was stopped cannot leave
        try:
            if self.started:  # before that they may not even listen yet
                self._wait()
                self.look()
        finally:  # of a full disk, which takes no event: they must go all the same
            self._end()

    def _end(self) -> None:
        for end in (subprocess.Popen.terminate, subprocess.Popen.kill):
            for process in self._processes.values():
                if process.poll() is None:
                    end(process)
            self._wait()
        for process in self._processes.values():
            _end_group(process)

    def _wait(self) -> None:
        until = time.monotonic() + LEAVE_S
        for process in self._processes.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue

    def _log(self, agent: str) -> Path:
        return self.folder / f"{agent}.log"

    def _last_lines(self, agent: str) -> str:
        try:
            with self._log(agent).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_BYTES))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError as error:
            return f"    (its log cannot be read: {error})"
        return "\n".join(f"    {line}" for line in lines[-LAST_LINES:]) or "    (it printed nothing)"


def _end_group(process: subprocess.Popen) -> None:
    """End what a controller started and left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class Processes:
    """Lays hands on the controllers of a crew (hil.faults.Hands); where nobody's time passes, it waits for them.

    A controller that stalls is really stopped in real time only; elsewhere it is not asked, which is all it can notice.
    """

    def __init__(self, crew: Crew, hub: Hub, realtime: bool, wait_s: float):
        self.crew, self.hub, self.realtime, self.wait_s = crew, hub, realtime, wait_s

    def kill(self, agent: str) -> None:
        """End it; what it was asked before that, where nobody's time passes, it has answered."""
        if not self.realtime:
            self.hub.seats[agent].catch_up()
        self.crew.signal(agent, signal.SIGKILL)
        if not self.realtime:
            self.crew.bury(agent)

    def start(self, agent: str) -> None:
        """Start a fresh process, which says hello when it is ready."""
        self.crew.start_again(agent)
        if not self.realtime:
            until_ns = time.monotonic_ns() + round(self.wait_s * NS_PER_S)
            self.hub.listen(until_ns, lambda: self.hub.seats[agent].taken or not self.crew.runs(agent))

    def stop(self, agent: str) -> None:
        """Let it stand still."""
        if self.realtime:
            self.crew.signal(agent, signal.SIGSTOP)

    def go_on(self, agent: str) -> None:
        """Let it go on."""
        self.crew.signal(agent, signal.SIGCONT)


CLOCKS = (LockStep.name, RealTime.name, Virtual.name)


def run(
    scenario: Scenario,
    clock: str | None = None,
    out: str | Path | None = None,
    bind: str | None = None,
    watch: Watch | None = None,
    say: Callable[[str], None] = lambda text: None,
    processes: bool = True,
    gate: Gate | None = None,
    keys: TwinKeys | None = None,
    world: World | None = None,
) -> Record:
    """Fly a scenario with a process on each seat; "external" seats are awaited.

    clock      "lockstep", "realtime" or "virtual"; None takes the scenario's
    out        the run folder; None makes one under runs/
    bind       the address controllers connect to; None: a free port, or tcp://127.0.0.1:5555 when a seat is external
    watch      called after each slot with its outcome and the tally of cycles; must return at once
    say        told what is going on before the clock starts, for a person to read
    processes  False: controllers in this process, not in real time
    gate       pauses and steps the run, not in real time
    keys       hil.keys.for_twin(...): encrypt the wire and let in only who is on the list; a must beyond this machine
    world      the scenario's, where it was built before

    Returns the record. Raises ScenarioError, ControllerError, SeatEmpty before the start, RunBroken after it; whatever
    was recorded by then stays readable.
    """
    clock_name = clock or scenario.clock
    _check(scenario, clock_name, processes, gate)
    world = world or build(scenario)
    if not processes:
        say("in this process: " + ", ".join(f"{a.name} ({scenario.seating(a.name).controller})" for a in world.agents))
        ticking = _clock(clock_name, scenario, world, gate, nap)
        return _run_here(scenario, out, watch, ticking, world)
    outside = [a.name for a in world.agents if scenario.seating(a.name).controller == EXTERNAL]
    run_id = uuid.uuid4().hex
    meta = describe(scenario, world, clock_name, "there")
    meta |= {"run_id": run_id, "clock_id": CLOCK_ID, "encrypted": keys is not None}
    largest = max(a.observed_bytes for a in world.agents)
    hub = Hub(run_id, bind or (EXTERNAL_ADDRESS if outside else None), keys=keys, largest=largest)
    try:
        record = Record.create(new_folder(scenario.name, out), world.agents, scenario.slots, meta, scenario.text)
    except BaseException:
        hub.close()
        raise
    hub.event, record.tell = record.event, hub.tell_event
    crew = Crew(record.folder, record.event, lambda agent: hub.seats[agent].leave("its process ended"))
    hub.alive = crew.look
    ticking = _clock(clock_name, scenario, world, gate, hub.nap, hub.listen)
    hands = Processes(crew, hub, clock_name == RealTime.name, scenario.seat_wait_s)
    faults = Faults(scenario, world.agents, ticking, hands, _passing(ticking, hub.listen))
    faults.open(record)
    ended, why = "broken", ""
    try:
        there = {a.name: _seat(hub, scenario, world, a.name, clock_name) for a in world.agents}
        seats = {a.name: faults.seat(a, _judged(a, there[a.name], scenario, ticking)) for a in world.agents}
        record.prepare(_warm_up(world, scenario.seed))
        for name in seats:
            if name in outside:
                say(f"waiting for seat {name!r}: {hub.how_to_take(name)}")
            else:
                with scheduling.elsewhere(_wanted(scenario, clock_name)):
                    crew.start(name, scenario.seating(name).controller, hub.here, hub.hire(name))
        say("starting " + ", ".join(f"{name} ({scenario.seating(name).controller})" for name in seats))
        hub.gather(scenario.seat_wait_s)
        crew.started = True
        record.defer()
        hub.idle = record.write_until
        seatings = {a.name: scenario.seating(a.name) for a in world.agents}

        def told(slot: int, outcome: Outcome, tally: Mapping[str, Mapping[str, int]]) -> None:
            hub.tell_slot(slot, world.slot_s, outcome, tally)
            if watch is not None:
                watch(slot, outcome, tally)

        with _undistracted(scenario, clock_name, hub, record), held_back() as check_interrupt:

            def alive() -> None:
                check_interrupt()
                crew.look()

            def at(slot: int) -> None:
                check_interrupt()
                faults.at(slot)

            hub.alive = alive
            drive(world, seats, ticking, scenario.slots, scenario.seed, record, seatings, told, at)
        ended = "finished"
    except KeyboardInterrupt:
        ended, why = "interrupted", "stopped by the user"
        raise
    except Exception as error:
        why = str(error)
        raise
    finally:
        with _undisturbed(), contextlib.ExitStack() as leaving:  # last first, and each whatever another one raised
            leaving.callback(_close, record, hub, ticking, ended, why, faults.messages)
            leaving.callback(hub.close)
            leaving.callback(crew.stop)
            leaving.callback(hub.stop, why or ended)
    return record


def _run_here(
    scenario: Scenario, out: str | Path | None, watch: Watch | None, ticking: LockStep | RealTime, world: World
) -> Record:
    hands = InThisProcess(scenario)
    faults = Faults(scenario, world.agents, ticking, hands, _passing(ticking))

    def seat_of(agent: Agent, seat: Here) -> Seat:
        return faults.seat(agent, _judged(agent, hands.holding(seat), scenario, ticking))

    return run_here(scenario, out, watch, ticking, seat_of, world, faults)


def _check(scenario: Scenario, clock: str, processes: bool, gate: Gate | None) -> None:
    """What fits together. Raises ScenarioError."""
    if clock not in CLOCKS:
        raise ScenarioError(f"clock {clock!r} is unknown; there are {', '.join(CLOCKS)}")
    if clock == RealTime.name and not processes:
        raise ScenarioError("in real time every controller is a process of its own: it would hold up the loop")
    if clock == RealTime.name and gate is not None:
        raise ScenarioError("real time cannot be paused; fly with --clock lockstep or virtual")
    check_faults(scenario)
    for name, seating in scenario.agents.items():
        if clock == RealTime.name and seating.compute_scale < 1.0:
            raise ScenarioError(
                f"agent.{name}.compute_scale {seating.compute_scale:g} asks for a faster computer than this one; "
                f"only the virtual clock can model that"
            )


def _clock(
    name: str,
    scenario: Scenario,
    world: World,
    gate: Gate | None,
    nap: Callable[[float], object],
    wait_until: Callable[[int], None] = sleep_until,
) -> LockStep | RealTime:
    hold = (lambda slot: gate.hold(slot, nap)) if gate else (lambda slot: None)
    if name == LockStep.name:
        return LockStep(hold)
    if name == Virtual.name:
        return Virtual(scenario.slot_s, world.agents, scenario.rt_factor, hold)
    return RealTime(scenario.slot_s, world.agents, scenario.rt_factor, scenario.max_lag_s, wait_until)


def _judged(agent: Agent, seat: Seat, scenario: Scenario, clock: LockStep | RealTime) -> Seat:
    """A seat with what stands between it and the loop: under virtual time, the model of its response times."""
    if not isinstance(clock, Virtual):
        return seat
    seating = scenario.seating(agent.name)
    return Modelled(seat, clock, agent, model_of(agent, seating, scenario.seed), seating.compute_scale)


def _passing(clock: LockStep | RealTime, listen: Callable[[int], None] = sleep_until) -> Callable[[int], None]:
    """What waits for an instant of a clock."""
    return clock.pass_until if isinstance(clock, Virtual) else listen


def _close(
    record: Record, hub: Hub, ticking: LockStep | RealTime, ended: str, why: str, hurt: Mapping[str, Mapping[str, int]]
) -> None:
    overruns = ticking.overrun_slots if isinstance(ticking, RealTime) else None
    messages = {name: seat.counts() for name, seat in hub.seats.items()}
    for name, counts in hurt.items():
        for kind, n in counts.items():
            messages[name][kind] += n
    record.close(ended, why, overrun_slots=overruns, messages=messages, refused=hub.refused)


def _seat(hub: Hub, scenario: Scenario, world: World, name: str, clock: str) -> There:
    agent = next(a for a in world.agents if a.name == name)
    others = tuple(a.name for a in world.agents if a.name != name)
    seating = scenario.seating(name)
    options: dict[str, Any] = msgspec.to_builtins(seating.options)
    welcome = wire.Welcome(
        protocol=wire.PROTOCOL,
        run=hub.run,
        agent=name,
        seed=agent_seed(scenario.seed, name),
        slot_s=world.slot_s,
        every=agent.every,
        order=agent.order,
        delay=agent.delay,
        observes=wire.specs(agent.observes),
        acts=wire.specs(agent.acts),
        facts=facts_of(agent),
        clock=clock,
        rt_factor=scenario.rt_factor,
        learn=seating.learn,
        learn_delay=seating.learn_delay,
        others=list(others),
        options=options,
    )
    scale = seating.compute_scale if clock == RealTime.name else 1.0
    return There(hub, agent, others, welcome, scenario.patience_s, scale)


def _wanted(scenario: Scenario, clock: str) -> Scheduling | None:
    return scenario.scheduling if clock == RealTime.name else None


@contextlib.contextmanager
def _undistracted(scenario: Scenario, clock: str, hub: Hub, record: Record) -> Iterator[None]:
    """Garbage is looked for off the path: in real time while the twin waits. It is scheduled as far as permitted."""
    if clock != RealTime.name:
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            gc.unfreeze()
        return

    def warn(line: str) -> None:
        warnings.warn(line, RuntimeWarning, stacklevel=2)

    def idle(until_ns: int) -> None:
        record.write_until(until_ns)
        collector.collect_until(until_ns, scheduling.MANY if hub.awaits else scheduling.YOUNG)

    slot_s = scenario.slot_s / scenario.rt_factor
    with scheduling.Collector() as collector, scheduling.in_force(_wanted(scenario, clock), slot_s, warn) as found:
        record.meta["scheduling"] = found
        hub.idle = idle
        yield


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not leave controllers behind: it waits until they are gone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


def _warm_up(world: World, seed: int) -> Outcome:
    """One slot nobody sees: every kernel is compiled before a clock starts. `drive` begins again at slot 0."""
    world.reset(seed)
    for agent in world.agents:
        world.observe(agent.name)
        world.apply(agent.name, world.default(agent.name))
    return world.step()
