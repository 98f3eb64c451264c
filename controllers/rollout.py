"""The higher tier of the earth-fixed cell: the satellite's finite-step rollout on the terminal's reference trajectory.

Reads as arXiv 2402.04865, section IV: state (18), action (19), the model h of the next state, the rollout (31), (32)
with its base policy, the tail value V_H (30), Algorithm 1. Everything it plans with is in its observation, its facts
and the reference: it never sees the channel's draws. Built to the letter the scheme does not learn; the repairs that
are on by default are marked "repair" and listed in docs/papers/ntn_cell.md. A world whose facts say `paper_literal` is
played by the letter.
"""

from collections.abc import Callable

import numpy as np
import torch
from numba import njit

from controllers.nets import Critic, Replay, discounted_returns, to_tensor
from twin.channel import NominalLink
from twin.errors import ControllerError
from twin.geometry import Pointing, Site, pointing
from twin.orbit import track
from twin.types import Action, Agent, Arrays, Observation
from twin.units import MEGA, SPEED_OF_LIGHT_M_S, to_db

CRITIC_SIZES = (300, 200)  # section V-A: hidden layers of the value network
REACH = 1  # (19): increments of the beam in {-D, 0, D} per angle, 9 beams
POSITION_SCALE_M = 7e6  # inputs of about one
SNR_SCALE_DB = 20.0  # the same
HIGHEST_ANGLE_DEG = 180.0  # (13)
NOTHING_MBIT = 1e-6  # a plan that earns less than this serves nobody
TIE = 1e-6  # scores closer than this part of the best are equal: V_H is float32, whose rounding differs by row
MEMORY_CYCLES = 64  # as many as the terminal's memory holds: docs/papers/ntn_cell.md
VALUE_STEPS = 10  # Adam steps of V_H per cycle
FOLLOWER = "ue"  # the seat that sends the reference


# ---- (32): n_steps rewards and a tail


def finite_step_values(rewards: np.ndarray, tail: np.ndarray, gamma: float) -> np.ndarray:
    """(32): sum over p of gamma^p R^{k+p}, plus gamma^n V(s^{k+n}).

    rewards  (..., n_steps)  of each cycle under a candidate's first action and the base policy after it
    tail     (...)           value of the state it ends in

    Returns (...). Checked by tests/test_rollout.py on a small decision process solved exactly.
    """
    n_steps = rewards.shape[-1]
    return rewards @ gamma ** np.arange(n_steps) + gamma**n_steps * tail


def best_action(values: np.ndarray, n_reserved: np.ndarray, size: np.ndarray) -> tuple[int, int]:
    """(31): the beam and the set with the largest value; of equal ones the smaller set, then the smaller increment.

    values      (n_beams, n_sets)
    n_reserved  (n_sets,)   groups in each set
    size        (n_beams,)  of each increment
    """
    best = values.max()
    equal = values >= best - TIE * max(abs(best), 1.0)
    order = np.where(equal, n_reserved[None, :] * (1.0 + size.max()) + size[:, None], np.inf)
    beam, chosen = np.unravel_index(np.argmin(order), values.shape)
    return int(beam), int(chosen)


# ---- the reward (20) of a plan on the nominal link: R_H of every candidate in every cycle


@njit(cache=True, nogil=True)
def plan_rewards(rate_mbit, reference_rb, sets, law, unit_mbit, cycle_slots, literal):
    """R_H, (20), of each first beam and each reserved set in each cycle, demand being known by its law alone.

    rate_mbit     (n_beams, n_slots)   of one group in each slot, Mbit per slot
    reference_rb  (n_slots, n_groups)  bool, groups that the reference would use
    sets          (n_sets, n_groups)   bool, candidates for the reserved set
    law           (n_units,)           probability that a slot's demand is at most 0, 1, ... units
    unit_mbit     ()                   one unit of demand
    literal       ()                   demand is its mean, law[-1] units, met or not; else the probability of meeting it

    Returns (n_beams, n_sets, n_steps) Mbit per slot. A slot in which no reserved group is used earns 0.
    Checked by tests/test_rollout.py::test_plan_rewards_equal_a_plain_loop.
    """
    n_beams, n_slots = rate_mbit.shape
    n_sets, n_groups = sets.shape
    rewards = np.zeros((n_beams, n_sets, n_slots // cycle_slots))
    met = np.empty(n_groups + 1)
    used = np.empty((n_sets, n_slots), np.int64)
    for s in range(n_sets):
        for t in range(n_slots):
            used[s, t] = 0
            for m in range(n_groups):
                used[s, t] += sets[s, m] and reference_rb[t, m]
    for b in range(n_beams):
        for t in range(n_slots):
            rate = rate_mbit[b, t]
            met[0] = 0.0
            for n in range(1, n_groups + 1):
                units = n * rate / unit_mbit + 1e-9  # a demand met exactly is met
                if literal:
                    met[n] = 1.0 if units >= law[-1] else 0.0
                else:
                    met[n] = law[min(int(units), law.size - 1)]
            for s in range(n_sets):
                rewards[b, s, t // cycle_slots] += met[used[s, t]] * rate / cycle_slots
    return rewards


def poisson_law(mean: float) -> np.ndarray:
    """Probability that a Poisson count of this mean is at most 0, 1, ..., until the rest is nothing, (n,)."""
    at_most, probability = [np.exp(-mean)], np.exp(-mean)
    while at_most[-1] < 1.0 - 1e-12 and len(at_most) < 10.0 * mean + 50.0:
        probability *= mean / len(at_most)
        at_most.append(at_most[-1] + probability)
    return np.array(at_most)


# ---- the controller, Algorithm 1 at the higher tier


class Rollout:
    """The satellite's seat of `ntn_cell`: plans each cycle by rollout, and fits the value of what lies beyond.

    n_steps        cycles ahead that a plan covers; the terminal's must be the same
    step_deg       D of (19): beams move by -D, 0 or D per angle
    relative       increments are added to the predicted direction (repair 1); else to the last beam
    gamma          discount per cycle
    learning_rate  of the value network

    In a world that is `paper_literal` increments are cumulative and a plan is scored with the mean demand, whatever the
    options say. Raises ControllerError for options out of range. `weights_version` counts updates in force.
    """

    _held: tuple[int, np.ndarray] | None  # the newest reference, and the slot it begins with
    _last: tuple[int, np.ndarray, int] | None  # slot, state and satellite of the last decision
    _satellite: int

    def __init__(
        self,
        agent: Agent,
        seed: int,
        *,
        n_steps: int = 8,
        step_deg: float = 5.0,
        relative: bool = True,
        gamma: float = 0.9,
        learning_rate: float = 1e-3,
    ):
        for name, value, low, high in (
            ("n_steps", n_steps, 1, np.inf),
            ("step_deg", step_deg, 0.0, HIGHEST_ANGLE_DEG / REACH),
            ("gamma", gamma, 0.0, 1.0),
            ("learning_rate", learning_rate, 0.0, np.inf),
        ):
            if not low <= value <= high:
                raise ControllerError(f"rollout: {name} must be from {low:g} to {high:g}, got {value!r}")
        torch.set_num_threads(1)
        facts = agent.facts
        self.literal = bool(facts["paper_literal"])
        self.n_groups, self.cycle_slots, self.delay = int(facts["n_groups"]), agent.every, agent.delay
        self.slot_s, self.floor_db = float(facts["slot_s"]), float(facts["snr_floor_db"])
        self.n_steps, self.step_deg, self.relative = n_steps, step_deg, relative and not self.literal
        self.gamma, self.learning_rate = gamma, learning_rate
        self.site = Site.from_facts(facts)
        self.nominal = NominalLink.from_facts(facts)
        mean_units = float(facts["demand_mean_units"])
        self.unit_mbit = float(facts["demand_unit_bit"]) / MEGA
        self.usual_mbit = self.unit_mbit * max(mean_units, 1.0)  # scales rewards to about one
        self.law = np.array([mean_units]) if self.literal else poisson_law(mean_units)

        # (19): 9 increments of the beam, and every nonempty set of groups
        steps = np.arange(-REACH, REACH + 1) * step_deg
        self.increments_deg = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
        self.sets = (np.arange(1, 2**self.n_groups)[:, None] >> np.arange(self.n_groups) & 1).astype(bool)

        n_inputs = 3 + self.cycle_slots
        self.critic = Critic.fresh((n_inputs, *CRITIC_SIZES, 1), np.random.default_rng(seed))
        self.weights_version = 0
        vector = (n_inputs,), "float32"
        self.memory = Replay(
            MEMORY_CYCLES,
            time=((), "int64"),  # consecutive within a flight
            state=vector,
            next_state=vector,
            reward=((), "float64"),
            terminal=((), "bool"),
        )
        self._flight = 0
        self._has_news = False
        self._start()
        self._warm_up()

    def act(self, seen: Observation) -> Action:
        """The beam and the reserved set of the cycle this answer governs; the terminal is told what led to them."""
        if seen.reward is None:
            self._start()
        values = seen.values
        state = self.state(values["position_m"], values["slot_snr_db"])
        self._settle(seen, state)
        self._take_reference(seen)
        beam_deg, reserved = np.array(values["predicted_beam_deg"]), np.ones(self.n_groups, bool)
        if values["serving"] and values["ephemeris_m"].any() and not seen.last:
            beam_deg, reserved = self.plan(seen)
            self._last = seen.slot, state, int(values["satellite"])
        message = {  # Algorithm 1, line 7: 6 + T + M elements
            "state": state,
            "action": np.concatenate([beam_deg, reserved]).astype(np.float32),
            "reward": np.array(seen.reward or 0.0, np.float32),
        }
        return Action({"tx_beam_deg": beam_deg, "reserved_rb": reserved}, {FOLLOWER: message})

    def learn(self) -> Callable[[], Critic] | None:
        """A job that fits V_H to the memory, (30), after each cycle that was stored."""
        if not self._has_news:
            return None
        self._has_news = False
        critic, cycles, gamma, rate = self.critic, self.memory.copy(), self.gamma, self.learning_rate
        return lambda: fit(critic, cycles, gamma, rate)

    def adopt(self, result: Critic) -> None:
        """Put what a job brought back in force."""
        self.critic = result
        self.weights_version += 1

    def state(self, position_m: np.ndarray, slot_snr_db: np.ndarray) -> np.ndarray:
        """(18) scaled to about one: position (..., 3) and the SNR of each slot of the last cycle (..., T), float32."""
        return np.concatenate([position_m / POSITION_SCALE_M, slot_snr_db / SNR_SCALE_DB], axis=-1).astype(np.float32)

    def plan(self, seen: Observation) -> tuple[np.ndarray, np.ndarray]:
        """(31), (32): the best of 279 first actions. Returns the beam (2,) deg and the reserved set (n_groups,)."""
        values = seen.values
        where, middle_deg = self._geometry(seen)
        rx_beam_deg, reference_rb = self._reference(seen.slot, where.rx_beam_deg)
        beams_deg = self._beams(values, middle_deg)  # (9, n_steps, 2)
        tx_beam_deg = np.repeat(beams_deg, self.cycle_slots, axis=1)
        snr = self.nominal.group_snr(where, tx_beam_deg, rx_beam_deg)
        rate_mbit = self.nominal.group_rate_bps(snr) * self.slot_s / MEGA
        rewards = plan_rewards(
            rate_mbit, reference_rb, self.sets, self.law, self.unit_mbit, self.cycle_slots, self.literal
        )
        scores = finite_step_values(rewards, self._tail(seen, snr, reference_rb), self.gamma)
        if not self.literal and rewards.max() < NOTHING_MBIT:
            # Repair 3: all candidates tie at nothing, and the smallest set with any beam would win.
            return beams_deg[len(beams_deg) // 2, 0], np.ones(self.n_groups, bool)
        beam, chosen = best_action(scores, self.sets.sum(axis=1), np.abs(self.increments_deg).sum(axis=1))
        return beams_deg[beam, 0], self.sets[chosen].copy()

    def _geometry(self, seen: Observation) -> tuple[Pointing, np.ndarray]:
        """Where both ends see each other in each slot of the plan, and the terminal's direction at mid-cycle."""
        first, n_slots = seen.slot + self.delay, self.n_steps * self.cycle_slots
        slot = np.arange(n_slots)
        middle = np.arange(self.n_steps) * self.cycle_slots + self.cycle_slots / 2
        at_s = (first + np.concatenate([slot, middle])) * self.slot_s
        whole = pointing(*track(seen.values["ephemeris_m"], seen.values["ephemeris_s"], at_s), self.site)
        where = whole[:n_slots]
        return where, whole.tx_beam_deg[n_slots:]

    def _beams(self, values: Arrays, middle_deg: np.ndarray) -> np.ndarray:
        """Beams of each first increment in each cycle, (9, n_steps, 2) deg: after the first the base policy steers.

        It takes the increment that comes nearest to the predicted direction, middle_deg (n_steps, 2).
        """
        base_deg = values["predicted_beam_deg"] if self.relative or values["new_pass"] else values["tx_beam_deg"]
        beams_deg = np.empty((len(self.increments_deg), self.n_steps, 2))
        beams_deg[:, 0] = np.clip(base_deg + self.increments_deg, 0.0, HIGHEST_ANGLE_DEG)
        for p in range(1, self.n_steps):
            beams_deg[:, p] = middle_deg[p]
            if not self.relative:
                wanted = (middle_deg[p] - beams_deg[:, p - 1]) / max(self.step_deg, 1e-9)
                moves_deg = self.step_deg * np.clip(np.round(wanted), -REACH, REACH)
                beams_deg[:, p] = np.clip(beams_deg[:, p - 1] + moves_deg, 0.0, HIGHEST_ANGLE_DEG)
        return beams_deg

    def _tail(self, seen: Observation, snr: np.ndarray, reference_rb: np.ndarray) -> np.ndarray:
        """V_H of the state each plan ends in, (n_beams, n_sets) Mbit per slot: h gives position and last cycle's SNR.

        Where no reserved group is in the reference the plan uses nothing and has no SNR. It then gets that of any
        group: the terminal always uses one, so V_H has never met a slot without and would score noise (repair 10).
        """
        at_s = np.array([(seen.slot + self.n_steps * self.cycle_slots) * self.slot_s])
        position_m = track(seen.values["ephemeris_m"], seen.values["ephemeris_s"], at_s)[0][0]
        last = slice(-self.cycle_slots, None)
        snr_db = np.maximum(to_db(snr[:, last]), self.floor_db)  # (n_beams, T), of any group that is used
        heard = np.ones((1, self.cycle_slots), bool)  # whatever the set
        if self.literal:
            heard = (self.sets[:, None, :] & reference_rb[None, last]).any(axis=2)  # (n_sets, T)
        slot_snr_db = np.where(heard[None], snr_db[:, None], self.floor_db)
        shape = slot_snr_db.shape[:2]
        states = self.state(np.broadcast_to(position_m, (*shape, 3)), slot_snr_db)
        tail = self.critic.value(to_tensor(states.reshape(-1, states.shape[-1]))).numpy().reshape(shape)
        return np.broadcast_to(tail, (len(snr), len(self.sets))) * self.usual_mbit

    def _take_reference(self, seen: Observation) -> None:
        """Keep the newest reference and the slot it begins with; a handover voids whatever was said before it."""
        satellite = int(seen.values["satellite"])
        rows = np.asarray(seen.signals.get(FOLLOWER, {}).get("reference", ()), dtype=float)
        if seen.values["new_pass"] or satellite != self._satellite:
            self._held = None
        elif rows.ndim == 2 and len(rows) and rows.shape[1] == 2 + self.n_groups:  # ours, not another controller's
            flight_s = np.linalg.norm(seen.values["position_m"] - self.site.position_m) / SPEED_OF_LIGHT_M_S
            sent_by = seen.slot - int(flight_s / self.slot_s)  # it left in the last slot of a cycle and arrived by now
            self._held = (sent_by + 1) // self.cycle_slots * self.cycle_slots, rows
        self._satellite = satellite

    def _reference(self, slot: int, rx_direction_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The terminal's beams (n, 2) deg and groups (n, n_groups) in the slots of the plan.

        Of an old reference, where the terminal missed the slot that owed a new one, what is left, and its last row for
        the rest. Without any: beams as predicted, all groups.
        """
        n = len(rx_direction_deg)
        if self._held is None:
            return rx_direction_deg, np.ones((n, self.n_groups), bool)
        first, rows = self._held
        rows = rows[np.minimum(slot + self.delay - first + np.arange(n), len(rows) - 1)]
        return rows[:, :2], rows[:, 2:] > 0.5

    def _start(self) -> None:
        """A new flight: the slots count anew and nothing of before follows into it. What was learned stays."""
        self._flight += 1
        self._held, self._last, self._satellite = None, None, 0

    def _settle(self, seen: Observation, state: np.ndarray) -> None:
        """Store the cycle whose reward this observation brings, if our answer governed it."""
        if self._last is None:
            return
        slot, last_state, satellite = self._last
        self._last = None
        ours = seen.timing.get("action_source", "agent") == "agent"
        if seen.reward is None or not ours or seen.slot != slot + self.cycle_slots:
            return
        self.memory.append(
            time=(self._flight << 32) + slot // self.cycle_slots,
            state=last_state,
            next_state=state,
            reward=seen.reward / self.usual_mbit,
            terminal=int(seen.values["satellite"]) != satellite,  # a pass is an episode
        )
        self._has_news = True

    def _warm_up(self) -> None:
        """Run everything once, so that no compilation falls into a cycle. Leaves no trace."""
        coefficients_m = np.zeros((3, 8))
        coefficients_m[:, 0], coefficients_m[:, 1] = 1.1 * self.site.position_m, (1e3, 2e3, 3e3)
        values = {
            "ephemeris_m": coefficients_m,
            "ephemeris_s": np.array([0.0, 1.0]),
            "predicted_beam_deg": np.full(2, 90.0),
            "tx_beam_deg": np.full(2, 90.0),
            "new_pass": np.array(True),
        }
        self.plan(Observation("", 0, values))
        empty = {name: np.zeros((2, *array.shape[1:]), array.dtype) for name, array in self.memory.copy().items()}
        fit(self.critic, empty, self.gamma, self.learning_rate)


def fit(critic: Critic, cycles: Arrays, gamma: float, learning_rate: float) -> Critic:
    """V_H after one update, (30): towards the discounted returns of the cycles in memory, oldest first."""
    torch.set_num_threads(1)  # per thread: a job runs in another one than the controller
    next_value = critic.value(to_tensor(cycles["next_state"])).double().numpy()
    ends = np.ones(len(next_value), bool)
    ends[:-1] = np.diff(cycles["time"]) != 1
    returns = discounted_returns(cycles["reward"], next_value, ends, cycles["terminal"], gamma)
    return critic.fitted(to_tensor(cycles["state"]), to_tensor(returns), VALUE_STEPS, learning_rate)
