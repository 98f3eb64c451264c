"""Two stocks that random demand runs down, as finite decision processes, and a world that plays either.

`inventory` is a store with back orders. `reservation` is a cell's radio: groups of resource blocks are reserved for a
slot before its demand is known, a reserved group that is not needed is lost, and demand that finds no group waits.
Both are known through tables; the one seat, `agent`, is told those of the nominal demand, and the world plays a demand
that may differ (`deployed`). What an action costs in `reservation` depends on state and action alone, so that demand
enters by the transitions and by nothing else: there the difference is exactly what an ambiguity ball is about.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from twin.errors import ScenarioError
from twin.types import Agent, Arrays, Field, Outcome
from twin.worlds.demand import Deployed, differing, poisson
from twin.worlds.seats import each_slot

MOST_ENTRIES = 10_000_000  # of the transition table, 80 MB: it goes to the seat with the welcome


class Inventory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scenario's table [inventory]: a store that orders each slot, with back orders."""

    capacity: Annotated[int, Meta(ge=0, le=1000, description="most units in store")] = 8
    backlog_limit: Annotated[int, Meta(ge=0, le=1000, description="most units on back order; more are lost")] = 4
    largest_order: Annotated[int, Meta(ge=0, le=1000, description="most units ordered in a slot")] = 4
    price: Annotated[float, Meta(ge=0, le=1e9, description="earned with each unit sold from store")] = 4.0
    order_cost: Annotated[float, Meta(ge=0, le=1e9, description="of each unit ordered")] = 1.5
    holding_cost: Annotated[float, Meta(ge=0, le=1e9, description="of each unit left in store after demand")] = 0.3
    backlog_cost: Annotated[float, Meta(ge=0, le=1e9, description="of each unit that demand finds missing")] = 2.0
    charged: Annotated[
        Literal["requested", "effective"],
        Meta(description="what is paid: the order, or what of it the store has room for (actions then tie)"),
    ] = "requested"
    demand: Annotated[
        tuple[Annotated[float, Meta(ge=0, le=1)], ...],
        Meta(min_length=1, description="probabilities of 0, 1, 2, ... units in a slot; they add up to 1"),
    ] = (0.10, 0.25, 0.30, 0.20, 0.15)


class Reservation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scenario's table [reservation]: groups of resource blocks reserved ahead of Poisson demand that may wait."""

    n_groups: Annotated[int, Meta(ge=1, le=100, description="groups there are to reserve")] = 5
    group_units: Annotated[int, Meta(ge=1, le=100, description="units of demand a group carries in a slot")] = 1
    unit_bit: Annotated[float, Meta(gt=0, le=1e12, description="one unit of demand, bit per slot")] = 10e6
    mean_units: Annotated[float, Meta(gt=0, le=100, description="mean of the Poisson demand, units per slot")] = 2.0
    backlog_limit: Annotated[int, Meta(ge=0, le=1000, description="most units that may wait; more are lost")] = 10
    group_cost: Annotated[
        float, Meta(ge=0, le=1e9, description="of a reserved group, in units it could have carried for others")
    ] = 0.4
    waiting_cost: Annotated[float, Meta(ge=0, le=1e9, description="of each unit that waits, per slot")] = 1.0
    overflow_cost: Annotated[float, Meta(ge=0, le=1e9, description="of each unit that is lost")] = 10.0


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tables and keys of a scenario that belong to this world: `inventory` or `reservation`, one of them."""

    inventory: Inventory | None = None
    reservation: Reservation | None = None
    deployed: Deployed = Deployed()
    gamma: Annotated[float, Meta(ge=0, lt=1, description="discount of the next slot, told to the seat")] = 0.6
    ambiguity_radius: Annotated[
        float, Meta(ge=0, le=10, description="KL radius within which the seat is told to believe demand, nats")
    ] = 0.02


@dataclass(frozen=True, eq=False)
class Tables:
    """A finite decision process driven by one random count a slot, the demand.

    transition  (nS, nA, nS)        probability of the next state
    reward      (nS, nA)            expected over the demand
    gamma       ()                  discount
    level       (nS,)               int64; what a state stands for: units in store (negative: on back order) or waiting
    start       ()                  the state a run begins in
    demand      (n_counts,)         probability of 0, 1, ... units
    next_state  (nS, nA, n_counts)  int64; where a demand leads
    """

    transition: np.ndarray
    reward: np.ndarray
    gamma: float
    level: np.ndarray
    start: int
    demand: np.ndarray
    next_state: np.ndarray


def inventory(settings: Inventory = Inventory(), gamma: float = 0.6, demand: Any = None) -> Tables:  # noqa: B008
    """The store of (6.1), (6.2) of arXiv 2605.08417: state x, order a, y = x + min(a, room), x' = max(y - d, -limit).

    demand  (n_counts,)  in place of the settings' own

    Checked by tests/test_finite.py::test_inventory_tables_equal_a_plain_loop.
    """
    s = settings
    law = _law(s.demand if demand is None else demand)
    level = np.arange(-s.backlog_limit, s.capacity + 1)
    order, count = np.arange(s.largest_order + 1), np.arange(law.size)
    effective = np.minimum(order, (s.capacity - level)[:, None])
    ready = (level[:, None] + effective)[..., None]
    earned = s.price * np.minimum(count, np.maximum(ready, 0))
    lost = s.holding_cost * np.maximum(ready - count, 0) + s.backlog_cost * np.maximum(count - ready, 0)
    paid = s.order_cost * (effective if s.charged == "effective" else np.broadcast_to(order, effective.shape))
    next_level = np.maximum(ready - count, -s.backlog_limit)
    return _tables((earned - lost) @ law - paid, gamma, level, s.backlog_limit, law, next_level + s.backlog_limit)


def reservation(settings: Reservation = Reservation(), gamma: float = 0.6, demand: Any = None) -> Tables:  # noqa: B008
    """Groups reserved ahead: with b units waiting and g groups reserved, d come, b' = max(b + d - g * group_units, 0).

    A state is what waits at the start of a slot. What is over the limit is lost there and then, so states reach beyond
    it by the largest demand, and the loss is a cost of the state. The reward is minus the cost of the groups, of the
    units that wait, and of those that are lost, in units of demand: it does not depend on the slot's own demand.

    demand  (n_counts,)  in place of the settings' Poisson law

    Checked by tests/test_finite.py::test_reservation_tables_equal_a_plain_loop.
    """
    s = settings
    law = _law(poisson(s.mean_units) if demand is None else demand)
    level = np.arange(s.backlog_limit + law.size)
    groups, count = np.arange(s.n_groups + 1), np.arange(law.size)
    waiting = np.minimum(level, s.backlog_limit)
    state_cost = s.waiting_cost * waiting + s.overflow_cost * (level - waiting)
    reward = -(state_cost[:, None] + s.group_cost * groups)
    after = np.maximum(waiting[:, None, None] + count - (s.group_units * groups)[:, None], 0)
    return _tables(reward, gamma, level, 0, law, after)


class Finite:
    """The world; see the module. Satisfies twin.types.World.

    settings  the scenario's tables
    slots     length of the run
    slot_s    length of a slot, s
    folder    not used: nothing is read
    agents    timing of the seat `agent`: an object with every (None or 1), delay, window

    told, deployed  Tables of the nominal demand and of the demand that is played

    Raises ScenarioError unless there is one table, and for demand that is no law or cannot differ that much.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        slots: int,
        slot_s: float,
        folder: str | Path = ".",
        agents: Mapping[str, Any] | None = None,
    ):
        self.settings, self.slots, self.slot_s = settings, slots, slot_s
        self.told, self.deployed = told_and_deployed(settings)
        self._cumulative = np.cumsum(self.deployed.demand)
        n_states, n_actions = self.told.reward.shape
        facts = {
            "transition": self.told.transition,
            "reward_table": self.told.reward,
            "gamma": np.array(settings.gamma),
            "ambiguity_radius": np.array(settings.ambiguity_radius),
            "level": self.told.level,
            "default_action": self.default("agent")["action"],
        }
        self.agents = (
            Agent(
                name="agent",
                observes=(Field("state", (), "int64", 0, n_states - 1),),
                acts=(Field("action", (), "int64", 0, n_actions - 1),),
                facts=facts,
                **each_slot(agents, "agent"),
            ),
        )
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin at slot 0 in the start state. The demand of a run follows from the seed alone."""
        luck = np.random.default_rng([seed, 2]).random(self.slots + 1)
        last = self._cumulative.size - 1  # rounding may leave the sum of a law a little below 1
        self._demand = np.minimum(np.searchsorted(self._cumulative, luck, side="right"), last)
        self.slot, self.state = 0, self.told.start
        self._action = int(self.default("agent")["action"])

    def default(self, agent: str) -> Arrays:
        """All groups; of a store, the smallest order that makes up for the mean demand."""
        n_actions = self.told.reward.shape[1]
        mean_units = float(self.told.demand @ np.arange(self.told.demand.size))
        safe = min(math.ceil(mean_units), n_actions - 1) if self.settings.inventory else n_actions - 1
        return {"action": np.array(safe, dtype=np.int64)}

    def propagation_delay_s(self, sender: str, receiver: str) -> float:
        """Nothing has to fly: there is one seat."""
        return 0.0

    def observe(self, agent: str) -> Arrays:
        """The state at the start of this slot."""
        return {"state": np.array(self.state, dtype=np.int64)}

    def apply(self, agent: str, action: Arrays) -> None:
        """Put an order, or a number of reserved groups, in force."""
        self._action = int(action["action"])

    def step(self) -> Outcome:
        """Play one slot: its demand comes, and the action in force earns the deployed table's reward."""
        state, action, units = self.state, self._action, int(self._demand[self.slot])
        self.state = int(self.deployed.next_state[state, action, units])
        measures = {
            "state": np.array(state, dtype=np.int64),
            "action": np.array(action, dtype=np.int64),
            "level": np.array(self.told.level[state]),
            "demand_units": np.array(units, dtype=np.int64),
            **self._measures(int(self.told.level[state]), action, units),
        }
        self.slot += 1
        return Outcome({"agent": float(self.deployed.reward[state, action])}, measures, done=self.slot >= self.slots)

    def _measures(self, level: int, action: int, units: int) -> dict[str, np.ndarray]:
        s = self.settings
        if s.inventory is not None:
            ready = level + min(action, s.inventory.capacity - level)
            return {"sold_units": np.array(min(units, max(ready, 0)), dtype=np.int64)}
        assert s.reservation is not None
        r, waiting = s.reservation, min(level, s.reservation.backlog_limit)
        served = min(waiting + units, r.group_units * action)
        return {
            "waiting_units": np.array(waiting, dtype=np.int64),
            "lost_units": np.array(level - waiting, dtype=np.int64),
            "demand_bps": np.array(units * r.unit_bit / self.slot_s),
            "served_bps": np.array(served * r.unit_bit / self.slot_s),
        }


def told_and_deployed(settings: Settings) -> tuple[Tables, Tables]:
    """The Tables of the nominal demand, and those of the demand in deployment. Raises ScenarioError."""
    given = [name for name in ("inventory", "reservation") if getattr(settings, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "neither"
        raise ScenarioError(f"a finite world is either of inventory = {{ }} and reservation = {{ }}; there is {found}")
    make: Any = inventory if settings.inventory is not None else reservation
    table, differs = getattr(settings, given[0]), settings.deployed
    told = make(table, settings.gamma)
    try:
        demand = differing(told.demand, differs.kind, differs.radius)
    except ScenarioError as error:
        raise ScenarioError(f"deployed.radius = {differs.radius:g} with kind {differs.kind!r}: {error}") from None
    return told, make(table, settings.gamma, demand)


def _law(demand: Any) -> np.ndarray:
    law = np.asarray(demand, dtype=float)
    if law.ndim != 1 or not law.size or not (law >= 0.0).all() or abs(law.sum() - 1.0) > 1e-9:
        raise ScenarioError(f"demand must be probabilities of 0, 1, 2, ... units that add up to 1, got {law.tolist()}")
    return law


def _tables(reward, gamma, level, start, law, next_state) -> Tables:
    n_states, n_actions = reward.shape
    if n_states * n_actions * n_states > MOST_ENTRIES:
        raise ScenarioError(
            f"{n_states} states and {n_actions} actions make {n_states * n_actions * n_states:.1e} transitions, more "
            f"than {MOST_ENTRIES:.0e}: take a smaller store or buffer, or fewer actions"
        )
    next_state = np.ascontiguousarray(np.broadcast_to(next_state, (n_states, n_actions, law.size)), dtype=np.int64)
    transition = np.zeros((n_states, n_actions, n_states))
    state, action, _ = np.indices(next_state.shape)
    np.add.at(transition, (state, action, next_state), law)
    return Tables(transition, reward, gamma, level.astype(np.int64), start, law, next_state)
