"""Fly a scenario with a process on each seat: sockets, clock, controller processes, and no child left behind."""

import contextlib
import gc
import math
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hil import wire
from hil.clock import RealTime, Virtual, sleep_until
from hil.gate import Gate
from hil.hub import Hub, There, facts_of
from hil.modelled import Modelled, model_of
from twin.errors import ControllerError, RecordError, ScenarioError
from twin.record import Record, new_folder
from twin.runner import LockStep, Watch, describe, drive
from twin.runner import run as run_here
from twin.scenario import EXTERNAL, Scenario, agent_seed, build
from twin.types import Agent, Outcome, Seat, World

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
        self._groups: list[int] = []

    def start(self, agent: str, controller: str, address: str) -> None:
        """Start a controller on a seat."""
        command = [sys.executable, "-m", "hil", controller, agent, address]
        try:
            self.folder.mkdir(exist_ok=True)
            log = self._log(agent).open("wb")
        except OSError as error:
            raise RecordError(f"run folder {self.folder.parent}: no log for seat {agent!r}: {error}") from None
        with log:
            self._processes[agent] = subprocess.Popen(  # a session of its own: Ctrl-C is the twin's to handle
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **ONE_THREAD, "NTN_TWIN_PID": str(os.getpid())},
                start_new_session=True,
            )
        self._groups.append(self._processes[agent].pid)

    def look(self) -> None:
        """Notice who has died. Raises ControllerError before the run has started, notes an event in it."""
        for agent, process in list(self._processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self._processes[agent]
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
        for group in self._groups:  # what a controller started and left behind
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

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
) -> Record:
    """Fly a scenario with a process on each seat; "external" seats are awaited.

    clock      "lockstep", "realtime" or "virtual"; None takes the scenario's
    out        the run folder; None makes one under runs/
    bind       the address controllers connect to; None: a free port, or tcp://127.0.0.1:5555 when a seat is external
    watch      called after each slot with its outcome and the tally of cycles; must return at once
    say        told what is going on before the clock starts, for a person to read
    processes  False: controllers in this process, not in real time
    gate       pauses and steps the run, not in real time

    Returns the record. Raises ScenarioError, ControllerError, SeatEmpty before the start, RunBroken after it; whatever
    was recorded by then stays readable.
    """
    clock_name = clock or scenario.clock
    _check(scenario, clock_name, processes, gate)
    world = build(scenario)
    if not processes:
        say("in this process: " + ", ".join(f"{a.name} ({scenario.seating(a.name).controller})" for a in world.agents))
        ticking = _clock(clock_name, scenario, world, gate, time.sleep)
        return run_here(scenario, out, watch, ticking, lambda a, seat: _judged(a, seat, scenario, ticking), world)
    outside = [a.name for a in world.agents if scenario.seating(a.name).controller == EXTERNAL]
    run_id = uuid.uuid4().hex
    meta = describe(scenario, world, clock_name, "there") | {"run_id": run_id}
    largest = max(sum(math.prod(f.shape) * np.dtype(f.dtype).itemsize for f in a.observes) for a in world.agents)
    hub = Hub(run_id, bind or (EXTERNAL_ADDRESS if outside else None), largest=largest)
    try:
        record = Record.create(new_folder(scenario.name, out), world.agents, scenario.slots, meta, scenario.text)
    except BaseException:
        hub.close()
        raise
    hub.event, record.tell = record.event, hub.tell_event
    crew = Crew(record.folder, record.event, lambda agent: hub.seats[agent].leave("its process ended"))
    hub.alive = crew.look
    ticking = _clock(clock_name, scenario, world, gate, hub.nap, hub.listen)
    ended, why = "broken", ""
    try:
        there = {a.name: _seat(hub, scenario, world, a.name, clock_name) for a in world.agents}
        seats = {a.name: _judged(a, there[a.name], scenario, ticking) for a in world.agents}
        record.prepare(_warm_up(world, scenario.seed))
        for name in seats:
            if name in outside:
                say(f"waiting for seat {name!r}: ntn-twin control MODULE:CLASS --agent {name} --connect {hub.address}")
            else:
                crew.start(name, scenario.seating(name).controller, hub.address)
        say("starting " + ", ".join(f"{name} ({scenario.seating(name).controller})" for name in seats))
        hub.gather(scenario.seat_wait_s)
        crew.started = True
        record.defer()
        hub.idle = record.write_until
        gc.collect()
        gc.freeze()
        seatings = {a.name: scenario.seating(a.name) for a in world.agents}

        def told(slot: int, outcome: Outcome, tally: Mapping[str, Mapping[str, int]]) -> None:
            hub.tell_slot(slot, world.slot_s, outcome, tally)
            if watch is not None:
                watch(slot, outcome, tally)

        drive(world, seats, ticking, scenario.slots, scenario.seed, record, seatings, told)
        ended = "finished"
    except KeyboardInterrupt:
        ended, why = "interrupted", "stopped by the user"
        raise
    except Exception as error:
        why = str(error)
        raise
    finally:
        gc.unfreeze()
        with _undisturbed(), contextlib.ExitStack() as leaving:  # last first, and each whatever another one raised
            leaving.callback(_close, record, hub, ticking, ended, why)
            leaving.callback(hub.close)
            leaving.callback(crew.stop)
            leaving.callback(hub.stop, why or ended)
    return record


def _check(scenario: Scenario, clock: str, processes: bool, gate: Gate | None) -> None:
    """What fits together. Raises ScenarioError."""
    if clock not in CLOCKS:
        raise ScenarioError(f"clock {clock!r} is unknown; there are {', '.join(CLOCKS)}")
    if clock == RealTime.name and not processes:
        raise ScenarioError("in real time every controller is a process of its own: it would hold up the loop")
    if clock == RealTime.name and gate is not None:
        raise ScenarioError("real time cannot be paused; fly with --clock lockstep or virtual")
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


def _close(record: Record, hub: Hub, ticking: LockStep | RealTime, ended: str, why: str) -> None:
    overruns = ticking.overrun_slots if isinstance(ticking, RealTime) else None
    messages = {name: seat.counts() for name, seat in hub.seats.items()}
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
