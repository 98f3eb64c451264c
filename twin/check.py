"""The conformance kit: does a world, or a controller, keep the contract of twin/types.py? Outsiders run it on theirs.

    check_world(lambda: MyWorld(...))
    check_controller(MyController, agent)
    check_scenario(load("mine.toml"))

A controller that is a process of its own is checked by hil.endpoint. Each returns the list of what it looked at, in
words; each raises ContractBroken naming the first clause that does not hold, with the offending value.
"""

import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from twin.errors import ContractBroken
from twin.record import STATUSES
from twin.runner import check_action, run
from twin.scenario import EXTERNAL, Scenario, build, window_of
from twin.types import Action, Agent, Arrays, Controller, Field, Observation, Outcome, World


def check_world(make: Callable[[], World], slots: int = 50, seed: int = 1) -> list[str]:
    """Fly a world with random actions inside their bounds.

    make   builds a fresh world; called twice
    slots  how long to fly
    """
    world = make()
    _demand(world.slot_s > 0, f"slot_s must be positive, is {world.slot_s!r}")
    _demand(len(world.agents) > 0, "a world has at least one agent")
    names = [a.name for a in world.agents]
    _demand(len(set(names)) == len(names), f"agents share a name: {names}")
    for agent in world.agents:
        _demand(agent.every >= 1 and agent.delay >= 0, f"agent {agent.name}: every {agent.every}, delay {agent.delay}")
        for name, fact in agent.facts.items():
            _demand(isinstance(fact, np.ndarray | np.generic), f"agent {agent.name}: fact {name} is no array")
    looked = ["slot, agents, facts"]
    first, second, other = (_fly(world if i == 0 else make(), slots, seed + (i == 2)) for i in range(3))
    looked += [
        "observations, rewards and measures as declared",
        "nothing given is changed, nothing handed out changes later",
    ]
    _demand(_same(first, second), "the same seed and actions gave two different trajectories")
    looked.append("same seed, same trajectory")
    _demand(not _same(first, other), "two seeds gave the same trajectory")
    return [*looked, "another seed, another trajectory"]


def check_controller(
    make: Callable[..., Controller],
    agent: Agent,
    others: tuple[str, ...] = (),
    cycles: int = 25,
    world: Callable[[], World] | None = None,
    slots: int = 100,
    **options: Any,
) -> list[str]:
    """Let a controller answer observations drawn inside the bounds of its fields, and those of a world.

    make    Class(agent, seed, **options)
    agent   the seat's contract, e.g. from world.agents
    others  names of the other agents, to whom it may signal
    cycles  how many observations are drawn
    world   builds a fresh world, whose own observations it answers too, and whose windows its times are held against
    slots   how long that world is flown

    Warns where its answers take longer than the window at rt_factor 1: wall time is this machine's, not the contract's.
    """
    controller = make(agent, 1, **options)
    _demand(isinstance(controller, Controller), f"{type(controller).__name__} has no act(seen)")
    looked = ["built as Class(agent, seed, **options), with act()"]
    first = _answers(controller, agent, others, cycles)
    looked += [
        "every answer complete, of the declared shapes and dtypes, finite, inside its bounds",
        "nothing given is changed",
    ]
    second = _answers(make(agent, 1, **options), agent, others, cycles)
    _demand(_same(first, second), "the same seed and observations gave different answers")
    looked.append("same seed and observations, same answers")
    _out_of_turn(controller, agent, others, cycles)
    looked.append("a slot asked twice, slots it was not asked in, signals it does not know")
    flown = None if world is None else _flown(make(agent, 1, **options), agent, others, world(), slots)
    if flown is not None and world is not None:
        again = _flown(make(agent, 1, **options), agent, others, world(), slots)
        _demand(_same(flown.answers, again.answers), "the same seed and world gave different answers")
        looked += [f"{len(flown.answers)} observations of the world, with gaps between them", _in_time(flown)]
    learn = getattr(controller, "learn", None)
    if learn is not None:
        job = learn()
        _demand(job is None or callable(job), f"learn() returned {job!r}, expected None or a callable")
        if job is not None:
            _demand(hasattr(controller, "adopt"), "learn() returned a job, but there is no adopt(result)")
            controller.adopt(job())  # type: ignore[attr-defined]
        looked.append("learn() and adopt()")
    if hasattr(controller, "finish"):
        values = sample(agent.observes, np.random.default_rng(1))
        _called("finish", controller.finish, Observation(agent.name, 2 * cycles * agent.every, values, 0.0, last=True))
        looked.append("finish()")
    return looked


def check_scenario(scenario: Scenario) -> list[str]:
    """Build a scenario's world and every seat's controller, and fly them in lock-step, in this process, twice.

    On an external seat sits `Anybody` meanwhile. Raises ContractBroken, and what building and flying it raises.
    """
    world = build(scenario)
    outside = [a.name for a in world.agents if scenario.seating(a.name).controller == EXTERNAL]
    seated = {
        name: msgspec.structs.replace(scenario.seating(name), controller="twin.check:Anybody", options={})
        for name in outside
    }
    scenario = msgspec.structs.replace(scenario, agents={**scenario.agents, **seated})
    looked = []
    for a in world.agents:
        name = scenario.seating(a.name).controller
        due = f"{a.delay} slots later" if a.delay else f"by {window_of(a, world.agents):g} of the slot"
        who = "whoever comes (random answers meanwhile)" if a.name in outside else name
        looked.append(f"{a.name}: {who}, asked every {a.every} slots, due {due}")
    with tempfile.TemporaryDirectory() as folder:
        records = [run(scenario, Path(folder) / str(i)) for i in range(2)]
        for name, decisions in records[0].decisions.items():
            odd = np.flatnonzero((decisions["status"] != STATUSES.index("on_time")) & (decisions["status"] != 0))
            _demand(not odd.size, f"{name} answered its cycle {odd[0] if odd.size else ''} wrongly, flown in lock-step")
        one, other = (record.meta["trajectory_hash"] for record in records)
    _demand(one == other, f"flown twice in lock-step, it gave two trajectories: {one[:12]} and {other[:12]}")
    return [*looked, f"flown twice in lock-step, {scenario.slots} slots, one trajectory: {one[:12]}"]


class Anybody:
    """Sits on an external seat of a scenario that is checked: random answers inside their bounds."""

    def __init__(self, agent: Agent, seed: int):
        self._acts, self._rng = agent.acts, np.random.default_rng(seed)

    def act(self, seen: Observation) -> Action:
        """Whatever is allowed."""
        return Action(sample(self._acts, self._rng))


def sample(fields: tuple[Field, ...], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random arrays as the fields declare them, inside their bounds (unbounded ones near zero)."""
    arrays: dict[str, np.ndarray] = {}
    for f in fields:
        low, high = max(f.low, -1e3), min(f.high, 1e3)
        low, high = (min(low, f.high), max(high, f.low))
        if f.dtype == "bool":
            arrays[f.name] = np.asarray(rng.random(f.shape) < 0.5)
        elif f.dtype.startswith(("int", "uint")):
            arrays[f.name] = np.asarray(rng.integers(int(low), int(high), f.shape, endpoint=True), dtype=f.dtype)
        else:
            arrays[f.name] = np.asarray(rng.uniform(low, high, f.shape), dtype=f.dtype)
    return arrays


def check_arrays(where: str, arrays: Arrays, fields: tuple[Field, ...]) -> None:
    """Raise ContractBroken unless the arrays are exactly those declared."""
    _demand(
        set(arrays) == {f.name for f in fields},
        f"{where} has {sorted(arrays)}, declared {sorted(f.name for f in fields)}",
    )
    for f in fields:
        value = arrays[f.name]
        _demand(isinstance(value, np.ndarray), f"{where}: {f.name} is a {type(value).__name__}, expected an array")
        _demand(
            value.shape == f.shape and value.dtype.name == f.dtype,
            f"{where}: {f.name} is {value.shape} {value.dtype}, declared {f.shape} {f.dtype}",
        )
        if value.dtype.kind == "f":
            _demand(bool(np.isfinite(value).all()), f"{where}: {f.name} is not finite")
        if value.dtype.kind in "fiu":
            inside = bool((value >= f.low).all() and (value <= f.high).all())
            _demand(inside, f"{where}: {f.name} leaves [{f.low:g}, {f.high:g}]: {value.min()} to {value.max()}")


def _fly(world: World, slots: int, seed: int) -> list[Arrays]:
    rng = np.random.default_rng(0)
    world.reset(seed)
    for agent in world.agents:
        check_arrays(f"default of {agent.name}", world.default(agent.name), agent.acts)
        world.apply(agent.name, world.default(agent.name))
    trajectory: list[Arrays] = []
    first: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}  # names and kinds of the measures
    measured: tuple[Arrays, Arrays] = {}, {}  # of the slot before: as handed out, and as it was then
    for slot in range(slots):
        kept = []
        for agent in sorted(world.agents, key=lambda a: a.order):
            if slot % agent.every:
                continue
            seen = world.observe(agent.name)
            check_arrays(f"observation of {agent.name} at slot {slot}", seen, agent.observes)
            trajectory.append(copy.deepcopy(dict(seen)))
            kept.append((agent.name, seen, trajectory[-1]))
            action = sample(agent.acts, rng)
            given = copy.deepcopy(action)
            world.apply(agent.name, action)
            _demand(_equal(action, given), f"apply changed the action of {agent.name} at slot {slot}")
        outcome = world.step()
        _demand(_equal(*measured), f"the measures of slot {slot - 1} changed after they were handed out")
        _demand(isinstance(outcome, Outcome), f"step returned a {type(outcome).__name__}, expected an Outcome")
        _demand(set(outcome.reward) == {a.name for a in world.agents}, f"rewards for {sorted(outcome.reward)}")
        _demand(
            all(np.isfinite(list(outcome.reward.values()))), f"a reward is not finite at slot {slot}: {outcome.reward}"
        )
        for name, seen, copied in kept:
            _demand(_equal(seen, copied), f"the observation of {name} changed after it was handed out, at slot {slot}")
        kinds = {name: (np.asarray(value).dtype, np.shape(value)) for name, value in outcome.measures.items()}
        first = first or kinds
        _demand(kinds == first, f"measures are {kinds} at slot {slot}, were {first}: names, dtypes, shapes must stay")
        measured = outcome.measures, copy.deepcopy(dict(outcome.measures))
        trajectory.append({**measured[1], **{f"reward.{k}": np.asarray(v) for k, v in outcome.reward.items()}})
        if outcome.done:
            break
    return trajectory


def _answers(controller: Controller, agent: Agent, others: tuple[str, ...], cycles: int) -> list[Arrays]:
    rng = np.random.default_rng(0)
    answers: list[Arrays] = []
    for cycle in range(cycles):
        reward = None if cycle == 0 else float(rng.normal())
        seen = Observation(agent.name, cycle * agent.every, sample(agent.observes, rng), reward)
        answers.append(_answer(controller, agent, others, seen))
    return answers


def _answer(controller: Controller, agent: Agent, others: tuple[str, ...], seen: Observation) -> Arrays:
    """A valid answer, copied. Raises ContractBroken."""
    given = copy.deepcopy(dict(seen.values))
    action: Action = _called("act", controller.act, seen)
    reason = check_action(agent, action, others) if others else check_action(agent, Action(action.values), ())
    _demand(not reason, f"answer to slot {seen.slot}: {reason}")
    _demand(_equal(seen.values, given), f"act changed the observation of slot {seen.slot}")
    return {k: np.array(v) for k, v in action.values.items()}


def _called(name: str, method: Callable[[Observation], Any], seen: Observation) -> Any:
    try:
        return method(seen)
    except Exception as error:
        raise ContractBroken(f"{name} failed at slot {seen.slot}: {error!r}") from error


def _out_of_turn(controller: Controller, agent: Agent, others: tuple[str, ...], cycles: int) -> None:
    """What a lossy link makes of a run: an observation twice, cycles that never come; and what others may send."""
    hint = {"hint": np.arange(3, dtype="float32"), "count": np.array(7)}
    timing = {"deadline_us": 8e4, "slack_us": None, "status": "missing", "action_source": "hold", "age_slots": 7}
    for cycle, senders in ((cycles, ()), (cycles, ()), (cycles + 10, others), (cycles + 11, ())):
        values = sample(agent.observes, np.random.default_rng(cycle))
        signals = {sender: dict(hint) for sender in senders}
        seen = Observation(agent.name, cycle * agent.every, values, 0.0, signals=signals, timing=timing)
        _answer(controller, agent, others, seen)


class Flown(NamedTuple):
    """A controller's answers to a world, how long each took, and until when each was due, s."""

    answers: list[Arrays]
    act_s: list[float]
    window_s: float


def _flown(controller: Controller, agent: Agent, others: tuple[str, ...], world: World, slots: int) -> Flown:
    """Fly a world with a controller on one seat, default actions on the others; from half-way on it is seldom asked."""
    world.reset(1)
    for a in world.agents:
        world.apply(a.name, world.default(a.name))
    window = agent.delay or window_of(agent, world.agents)
    flown, reward, done, slot = Flown([], [], window * world.slot_s), None, False, 0
    while slot < slots and not done:
        cycle = slot // agent.every
        if slot % agent.every == 0 and (slot < slots / 2 or cycle % 3 == 0):
            seen = Observation(agent.name, slot, world.observe(agent.name), reward)
            begun = time.perf_counter()
            flown.answers.append(_answer(controller, agent, others, seen))
            flown.act_s.append(time.perf_counter() - begun)
            world.apply(agent.name, flown.answers[-1])
            reward = 0.0
        outcome = world.step()
        reward = (reward or 0.0) + float(outcome.reward[agent.name])
        done, slot = outcome.done, slot + 1
    last = Observation(agent.name, slot, world.observe(agent.name), reward, last=True) if not done else None
    if last is not None and hasattr(controller, "finish"):
        _called("finish", controller.finish, last)
    return flown


def _in_time(flown: Flown) -> str:
    """How long answers took, in words; a warning where they take too long."""
    p50_s, p99_s = np.quantile(flown.act_s, [0.5, 0.99])
    words = f"act() took {p50_s * 1e3:.2f} ms (p50), {p99_s * 1e3:.2f} ms (p99); due after {flown.window_s * 1e3:g} ms"
    if p99_s > flown.window_s:
        warnings.warn(f"{words}: in real time this controller misses deadlines on this machine", stacklevel=3)
    return words


def _same(a: list[Arrays], b: list[Arrays]) -> bool:
    return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b))


def _equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[k], b[k], equal_nan=np.asarray(a[k]).dtype.kind == "f") for k in a)


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ContractBroken(otherwise)
