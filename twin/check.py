"""The conformance kit: does a world, or a controller, keep the contract of twin/types.py? Outsiders run it on theirs.

    check_world(lambda: MyWorld(...))
    check_controller(MyController, agent)

Each returns the list of what it looked at, in words; each raises ContractBroken naming the first clause that does not
hold, with the offending value.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from twin.errors import ContractBroken
from twin.runner import check_action
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
    make: Callable[..., Controller], agent: Agent, others: tuple[str, ...] = (), cycles: int = 25, **options: Any
) -> list[str]:
    """Let a controller answer observations drawn inside the bounds of its fields.

    make    Class(agent, seed, **options)
    agent   the seat's contract, e.g. from world.agents
    others  names of the other agents, to whom it may signal
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
    learn = getattr(controller, "learn", None)
    if learn is not None:
        job = learn()
        _demand(job is None or callable(job), f"learn() returned {job!r}, expected None or a callable")
        if job is not None:
            _demand(hasattr(controller, "adopt"), "learn() returned a job, but there is no adopt(result)")
            controller.adopt(job())  # type: ignore[attr-defined]
        looked.append("learn() and adopt()")
    return looked


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
        _demand(isinstance(outcome, Outcome), f"step returned a {type(outcome).__name__}, expected an Outcome")
        _demand(set(outcome.reward) == {a.name for a in world.agents}, f"rewards for {sorted(outcome.reward)}")
        _demand(
            all(np.isfinite(list(outcome.reward.values()))), f"a reward is not finite at slot {slot}: {outcome.reward}"
        )
        for name, seen, copied in kept:
            _demand(_equal(seen, copied), f"the observation of {name} changed after it was handed out, at slot {slot}")
        trajectory.append({**outcome.measures, **{f"reward.{k}": np.asarray(v) for k, v in outcome.reward.items()}})
        if outcome.done:
            break
    return trajectory


def _answers(controller: Controller, agent: Agent, others: tuple[str, ...], cycles: int) -> list[Arrays]:
    rng = np.random.default_rng(0)
    answers: list[Arrays] = []
    for cycle in range(cycles):
        values = sample(agent.observes, rng)
        given = copy.deepcopy(values)
        reward = None if cycle == 0 else float(rng.normal())
        action: Action = controller.act(Observation(agent.name, cycle * agent.every, values, reward))
        reason = check_action(agent, action, others) if others else check_action(agent, Action(action.values), ())
        _demand(not reason, f"answer to slot {cycle * agent.every}: {reason}")
        _demand(_equal(values, given), f"act changed the observation of slot {cycle * agent.every}")
        answers.append({k: np.array(v) for k, v in action.values.items()})
    return answers


def _same(a: list[Arrays], b: list[Arrays]) -> bool:
    return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b))


def _equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[k], b[k], equal_nan=np.asarray(a[k]).dtype.kind == "f") for k in a)


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ContractBroken(otherwise)
