"""The lower tier of the earth-fixed cell: the terminal's trust-region policy, and the reference that it sends up.

Reads as arXiv 2402.04865, section IV: state (21), action (22), the summed advantages of both tiers (29) under a limit
on the mean KL divergence, values (30), Algorithm 1. Built to the letter the scheme does not learn; the repairs that are
on by default are marked "repair" where they stand and listed with their reasons in docs/papers/ntn_cell.md. A world
whose facts say `paper_literal` is played by the letter.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit

from controllers.nets import (
    Critic,
    Mlp,
    Replay,
    advantages,
    conjugate_gradient,
    dense_row,
    discounted_returns,
    standardised,
    to_tensor,
)
from twin.channel import NominalLink, beam_factors, beam_gain
from twin.errors import ControllerError
from twin.geometry import Site, pointing
from twin.orbit import track
from twin.types import Action, Agent, Arrays, Observation
from twin.units import MEGA

ACTOR_SIZES = (400, 300, 200)  # section V-A: hidden layers of the actor
HEAD_SIZE = 200  # section V-A: "two separate layers (both with 200 neurons)" for beam and RB distributions
CRITIC_SIZES = (300, 200)  # section V-A: hidden layers of either value network
REACH = 3  # (22): increments of the beam in {-3 D, ..., 3 D} per angle, 49 beams
SNR_SCALE_DB = 20.0  # inputs of about one
ERROR_SCALE_DEG = 15.0  # the same: the largest increment
LITERAL_GAMMA = 0.95  # our choice, the paper names none; the repaired scheme learns on unaveraged rewards with 0.6
CG_ITERATIONS = 10  # Schulman et al. 2015, appendix C
DAMPING = 0.1  # added to the Fisher matrix: keeps directions without information from taking the whole step
FISHER_SHARE = 4  # the Fisher matrix from every 4th row, which is cheap (the same, appendix C); the KL limit from all
RATIO_CLIP = 0.25  # repair 9; measured in docs/papers/ntn_cell.md
BACKTRACKS, BACKTRACK = 10, 0.8  # line search: at most so many trials, each so much shorter
VALUE_STEPS = 10  # Adam steps of each critic per update
HIGHEST_ANGLE_DEG = 180.0  # (13)
FIRST_CYCLES = 4  # learn from so many cycles on: fewer slots say nothing about 80 choices
LEADER = "leo"  # the seat that hears the reference


# ---- networks, section V-A


@dataclass(frozen=True)
class Actor:
    """The policy: a trunk, and a head each for the beam's increment and the set of groups; parameters in one vector."""

    n_inputs: int
    n_beams: int
    n_sets: int
    hidden: tuple[int, ...] = ACTOR_SIZES
    head: int = HEAD_SIZE

    @property
    def parts(self) -> tuple[Mlp, Mlp, Mlp]:
        """Trunk, beam head, set head, in the order in which their parameters stand."""
        trunk = Mlp((self.n_inputs, *self.hidden), relu_outputs=True)
        return trunk, Mlp((self.hidden[-1], self.head, self.n_beams)), Mlp((self.hidden[-1], self.head, self.n_sets))

    @property
    def n_parameters(self) -> int:
        """304,980 at the paper's sizes with the state as printed, 5 groups and 64 antennas."""
        return sum(part.n_parameters for part in self.parts)

    def initial(self, rng: np.random.Generator) -> torch.Tensor:
        """Parameters of a nearly uniform policy."""
        trunk, beam, sets = self.parts
        return to_tensor(np.concatenate([trunk.initial(rng), beam.initial(rng, 0.01), sets.initial(rng, 0.01)]))

    def __call__(self, theta: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (n_rows, n_beams) and (n_rows, n_sets), not masked, for states (n_rows, n_inputs)."""
        trunk, beam, sets = self.parts
        of_trunk, of_beam, of_sets = theta.split([part.n_parameters for part in self.parts])
        features = trunk(of_trunk, states)
        return beam(of_beam, features), sets(of_sets, features)

    def buffers(self) -> tuple[np.ndarray, ...]:
        """Room for one row through the kernel: the trunk's layers, then hidden and logits of each head."""
        sizes = (*self.hidden, self.head, self.n_beams, self.head, self.n_sets)
        return tuple(np.zeros(size, np.float32) for size in sizes)


@njit(cache=True, nogil=True)
def actor_row(theta, x, h1, h2, h3, beam_hidden, beam_logits, set_hidden, set_logits):
    """The actor for one row, written into the buffers; all float32. Equals `Actor.__call__` to rounding."""
    at = dense_row(theta, 0, x, h1, True)
    at = dense_row(theta, at, h1, h2, True)
    at = dense_row(theta, at, h2, h3, True)
    at = dense_row(theta, at, h3, beam_hidden, True)
    at = dense_row(theta, at, beam_hidden, beam_logits, False)
    at = dense_row(theta, at, h3, set_hidden, True)
    dense_row(theta, at, set_hidden, set_logits, False)


# ---- the policy update, (29): maximise the mean of ratio * (A_L + A_H) within mean KL <= kl_limit


@dataclass(frozen=True)
class Batch:
    """Sampled experience.

    states     (n_rows, n_inputs)
    beam       (n_rows,)           increment taken, index
    chosen     (n_rows,)           set of groups taken, index
    allowed    (n_rows, n_sets)    bool: subsets of what was reserved then
    log_prob   (n_rows,)           of the action under the policy that took it
    advantage  (n_rows,)           A_L + A_H
    """

    states: torch.Tensor
    beam: torch.Tensor
    chosen: torch.Tensor
    allowed: torch.Tensor
    log_prob: torch.Tensor
    advantage: torch.Tensor

    def every(self, k: int) -> "Batch":
        """Every k-th row."""
        return Batch(*(getattr(self, field)[::k] for field in self.__dataclass_fields__))


@dataclass(frozen=True)
class Step:
    """What an update did to the policy: gain of the surrogate and mean KL on its batch, trials of the line search."""

    gain: float
    kl: float
    tried: int
    taken: bool


def log_policy(actor: Actor, theta: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """log pi of every beam (n_rows, n_beams) and every set (n_rows, n_sets); a set not allowed has -1e9."""
    beam_logits, set_logits = actor(theta, batch.states)
    set_logits = torch.where(batch.allowed, set_logits, torch.full_like(set_logits, -1e9))
    return torch.log_softmax(beam_logits, 1), torch.log_softmax(set_logits, 1)


def surrogate(log_beam: torch.Tensor, log_set: torch.Tensor, batch: Batch, clip: float) -> torch.Tensor:
    """(29): the mean of the ratio pi(a|s) / pi'(a|s) times the summed advantage.

    Repair 9, clip finite: a ratio that has left [1 - clip, 1 + clip] to the better earns nothing more. A slot is
    sampled some 26 times before the memory forgets it; without this the policy ends up on whatever fared well in it.
    Source: Schulman et al. 2017, equation (7).
    """
    log_prob = log_beam.gather(1, batch.beam[:, None])[:, 0] + log_set.gather(1, batch.chosen[:, None])[:, 0]
    ratio = torch.exp(log_prob - batch.log_prob)
    return torch.minimum(ratio * batch.advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * batch.advantage).mean()


def mean_kl(old: tuple[torch.Tensor, torch.Tensor], new: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Mean KL(old || new) of the joint policy: beam and set are drawn independently, so their divergences add."""
    return sum(((log_p.exp() * (log_p - log_q)).sum(1).mean() for log_p, log_q in zip(old, new)), torch.zeros(()))


def fisher_product(actor: Actor, theta: torch.Tensor, batch: Batch, damping: float = DAMPING) -> Callable:
    """The function v -> (F + damping) v, F the Fisher matrix of the policy at theta, averaged over the batch's states.

    F = J^T M J with J the Jacobian of the logits and M = diag(p) - p p^T per state: forward mode, a diagonal, reverse
    mode. Checked by tests/test_trpo.py::test_natural_gradient_matches_a_dense_fisher_solve.
    """
    with torch.no_grad():
        probabilities = [log_p.exp() for log_p in log_policy(actor, theta, batch)]
    transposed = torch.func.vjp(lambda t: actor(t, batch.states), theta)[1]

    def apply(v: torch.Tensor) -> torch.Tensor:
        tangents = torch.func.jvp(lambda t: actor(t, batch.states), (theta,), (v,))[1]
        weighted = tuple(p * (u - (p * u).sum(1, keepdim=True)) / len(u) for p, u in zip(probabilities, tangents))
        return transposed(weighted)[0] + damping * v

    return apply


def trust_region_step(
    actor: Actor, theta: torch.Tensor, batch: Batch, kl_limit: float, clip: float
) -> tuple[torch.Tensor, Step]:
    """The policy after one natural-gradient step with line search; the old one where none is acceptable.

    Accepts the longest trial whose surrogate does not fall and whose mean KL stays within the limit; both must be
    numbers, so NaN is refused (repair 8). Where the Fisher term vanishes, as for a constant policy, the damping alone
    bounds the step.
    """
    theta = theta.detach()
    leaf = theta.clone().requires_grad_()
    value = surrogate(*log_policy(actor, leaf, batch), batch, clip)
    (gradient,) = torch.autograd.grad(value, leaf)
    if not torch.isfinite(gradient).all() or not gradient.any():
        return theta, Step(0.0, 0.0, 0, False)
    product = fisher_product(actor, theta, batch.every(FISHER_SHARE))
    direction = conjugate_gradient(product, gradient, CG_ITERATIONS)
    curvature = float(direction @ product(direction))
    if not curvature > 0.0:
        return theta, Step(0.0, 0.0, 0, False)
    full = (2.0 * kl_limit / curvature) ** 0.5 * direction
    with torch.no_grad():
        old = log_policy(actor, theta, batch)
        before = float(surrogate(*old, batch, clip))
    for trial in range(BACKTRACKS):
        candidate = theta + BACKTRACK**trial * full
        with torch.no_grad():
            new = log_policy(actor, candidate, batch)
            gain = float(surrogate(*new, batch, clip)) - before
            kl = float(mean_kl(old, new))
        if gain >= 0.0 and kl <= kl_limit:  # false for NaN
            return candidate, Step(gain, kl, trial + 1, True)
    return theta, Step(0.0, 0.0, BACKTRACKS, False)


def summed_advantage(a_low: torch.Tensor, a_high: torch.Tensor) -> torch.Tensor:
    """A_L + A_H of (29), each standardised over the batch first: otherwise the tier with the larger rewards wins."""
    return standardised(a_low) + standardised(a_high)


@dataclass(frozen=True)
class Rates:
    """The constants of an update: discounts of both tiers, lambda, limits of the policy's step, the critics' rate."""

    gamma: float
    gamma_leo: float
    gae_lambda: float
    kl_limit: float
    clip: float
    learning_rate: float


@dataclass(frozen=True)
class Learned:
    """What a job brings back: the policy and both value networks to go on with, and what the policy's step did."""

    theta: torch.Tensor
    low: Critic
    high: Critic
    step: Step


def improve(
    actor: Actor,
    theta: torch.Tensor,
    low: Critic,
    high: Critic,
    slots: Arrays,
    cycles: Arrays,
    rows: np.ndarray,
    rates: Rates,
) -> Learned:
    """Algorithm 1, lines 12 and 13, on copies of everything: one update of the policy (29) and of both values (30).

    slots   columns of the terminal's memory, oldest first: see `Trpo`
    cycles  columns of the satellite's experience, oldest first
    rows    (n_batch,) which of the slots are sampled
    """
    torch.set_num_threads(1)  # per thread: a job runs in another one than the controller
    value, next_value = (low.value(to_tensor(slots[name])).double().numpy() for name in ("state", "next_state"))
    ends = ends_of(slots["time"])
    chain = slots["reward"], next_value, ends, slots["terminal"]
    a_low = advantages(slots["reward"], value, *chain[1:], rates.gamma, rates.gae_lambda)
    returns = discounted_returns(*chain, rates.gamma)
    a_high = np.zeros(len(a_low))
    if len(cycles["cycle"]):
        value, next_value = (high.value(to_tensor(cycles[name])).double().numpy() for name in ("state", "next_state"))
        a_cycle = cycles["reward"] + rates.gamma_leo * np.where(cycles["terminal"], 0.0, next_value) - value
        a_high = broadcast(slots["cycle"], cycles["cycle"], a_cycle)
        chain = cycles["reward"], next_value, ends_of(cycles["cycle"]), cycles["terminal"]
        high = high.fitted(
            to_tensor(cycles["state"]),
            to_tensor(discounted_returns(*chain, rates.gamma_leo)),
            VALUE_STEPS,
            rates.learning_rate,
        )
    batch = Batch(
        states=to_tensor(slots["state"][rows]),
        beam=to_tensor(slots["beam"][rows]),
        chosen=to_tensor(slots["chosen"][rows]),
        allowed=to_tensor(slots["allowed"][rows]),
        log_prob=to_tensor(slots["log_prob"][rows]),
        advantage=summed_advantage(to_tensor(a_low[rows]), to_tensor(a_high[rows])),
    )
    theta, step = trust_region_step(actor, theta, batch, rates.kl_limit, rates.clip)
    low = low.fitted(batch.states, to_tensor(returns[rows]), VALUE_STEPS, rates.learning_rate)
    return Learned(theta, low, high, step)


def ends_of(times: np.ndarray) -> np.ndarray:
    """Where a series of consecutive numbers is broken: True in the row after which the next one is not one more."""
    ends = np.ones(len(times), bool)
    ends[:-1] = np.diff(times) != 1
    return ends


def broadcast(slot_cycle: np.ndarray, cycle: np.ndarray, a_cycle: np.ndarray) -> np.ndarray:
    """A_H of each slot: that of its cycle, "one number per cycle"; the mean where its cycle is not known.

    slot_cycle (n_slots,), cycle (n_cycles,) ascending, a_cycle (n_cycles,). Returns (n_slots,).
    """
    at = np.minimum(np.searchsorted(cycle, slot_cycle), len(cycle) - 1)
    return np.where(cycle[at] == slot_cycle, a_cycle[at], a_cycle.mean())


# ---- the reference trajectory tau_L, Algorithm 1, line 15: the policy, played forward on the nominal link


@njit(cache=True, nogil=True)
def play_forward(
    theta,
    buffers,
    state,
    rx_beam_deg,
    used,
    matched_snr,
    strength,
    rx_direction_deg,
    demand,
    noise,
    allowed,
    increments_deg,
    sets,
    rx_antennas,
    snr_floor_db,
    relative,
    own_error,
):
    """The next n actions of the policy on nominal states, each following from the one before.

    theta, buffers    parameters of the actor, room for its layers; float32
    state             (n_inputs,)      float32, room for the state
    rx_beam_deg       (2,)             beam in force in the slot before the first
    used              (n_groups,)      bool, groups used in that slot
    matched_snr       (n + 1,)         linear SNR with the receive beam exact, from that slot on
    strength          (n + 1,)         |H w_t| of an antenna, as the state has it
    rx_direction_deg  (n + 1, 2)       where the satellite is
    demand            (n + 1,)         as the state has it; not read where the state holds none
    noise             (n, n_sets)      Gumbel noise: set drawn from the policy; zeros: the likeliest
    allowed           (n_sets,)        bool: sets that may be chosen
    increments_deg    (n_beams, 2), sets (n_sets, n_groups)  what the action indices stand for
    relative          ()               increments are added to the satellite's direction, not to the last beam
    own_error         ()               the state ends with the beam's own pointing error

    Returns (n, 2 + n_groups) float32: receive angles (deg) and groups used (0 or 1).
    Checked by tests/test_trpo.py::test_reference_is_the_policy_played_on_the_nominal_link.
    """
    n, n_groups = noise.shape[0], sets.shape[1]
    n_rx = rx_antennas[0] * rx_antennas[1]
    beam_logits, set_logits = buffers[4], buffers[6]
    rows = np.empty((n, 2 + n_groups), np.float32)
    beam, gain = np.empty((1, 2)), np.empty(1, np.complex128)
    beam[0, 0], beam[0, 1] = rx_beam_deg[0], rx_beam_deg[1]
    for t in range(n):
        beam_factors(beam, rx_direction_deg[t : t + 1], rx_antennas[0], rx_antennas[1], gain)
        snr = matched_snr[t] * (gain[0].real ** 2 + gain[0].imag ** 2)
        snr_db = max(10.0 * np.log10(snr), snr_floor_db) if snr > 0.0 else snr_floor_db
        any_used = False
        for m in range(n_groups):
            any_used |= used[m]
            state[m] = (snr_db if used[m] else snr_floor_db) / SNR_SCALE_DB
        at = n_groups
        for _ in range(n_rx):
            state[at] = strength[t] if any_used else 0.0
            at += 1
        if own_error:
            for angle in range(2):
                state[state.size - 2 + angle] = (beam[0, angle] - rx_direction_deg[t + 1, angle]) / ERROR_SCALE_DEG
            if at < state.size - 2:
                state[at] = demand[t + 1]
        elif at < state.size:
            state[at] = demand[t + 1]
        actor_row(theta, state, *buffers)
        move = increments_deg[np.argmax(beam_logits)]
        best, chosen = -np.inf, 0
        for k in range(sets.shape[0]):
            if allowed[k] and set_logits[k] + noise[t, k] > best:
                best, chosen = set_logits[k] + noise[t, k], k
        for angle in range(2):
            base = rx_direction_deg[t + 1, angle] if relative else beam[0, angle]
            beam[0, angle] = min(max(base + move[angle], 0.0), HIGHEST_ANGLE_DEG)
            rows[t, angle] = beam[0, angle]
        for m in range(n_groups):
            used[m] = sets[chosen, m]
            rows[t, 2 + m] = 1.0 if used[m] else 0.0
    return rows


# ---- the controller, Algorithm 1 at the lower tier


class Trpo:
    """The terminal's seat of `ntn_cell`: acts with its policy, learns from what came of it, sends references up.

    n_steps        cycles ahead that a reference covers
    step_deg       D of (22): beams move by -3 D to 3 D per angle
    relative       increments are added to the predicted direction (repair 1); else to the last beam, and the state
                   holds the beam's own pointing error
    gamma          discount per slot, on the instantaneous reward (repair 6)
    gamma_leo      discount of the satellite per cycle
    gae_lambda     of the advantages
    kl_limit       of the policy's step, on the mean over the batch
    batch          slots sampled per update
    memory_cycles  cycles of the satellite that the memory keeps
    learning_rate  of both value networks
    explore        False: the likeliest action, never a drawn one
    group_cost     Mbit per slot taken off the reward for each group used (repair 7)

    In a world that is `paper_literal` the increments are cumulative, gamma is 0.95, and state and reference are the
    paper's, whatever the options say. Raises ControllerError for options out of range.
    `weights_version` counts updates in force, `last_step` is what the last one did to the policy.
    """

    _pending: dict[int, dict]  # actions by slot, until their reward has come
    _satellite_of: dict[int, int]  # who served, by slot
    _told: tuple[int, np.ndarray] | None  # the satellite's last cycle and state
    _leader_beam_deg: np.ndarray | None

    def __init__(
        self,
        agent: Agent,
        seed: int,
        *,
        n_steps: int = 8,
        step_deg: float = 5.0,
        relative: bool = True,
        gamma: float = 0.6,
        gamma_leo: float = 0.9,
        gae_lambda: float = 0.95,
        kl_limit: float = 0.01,
        batch: int = 256,
        memory_cycles: int = 64,
        learning_rate: float = 1e-3,
        explore: bool = True,
        group_cost: float = 0.0,
    ):
        for name, value, low, high in (
            ("n_steps", n_steps, 1, np.inf),
            ("step_deg", step_deg, 0.0, HIGHEST_ANGLE_DEG / REACH),
            ("gamma", gamma, 0.0, 1.0),
            ("gamma_leo", gamma_leo, 0.0, 1.0),
            ("gae_lambda", gae_lambda, 0.0, 1.0),
            ("kl_limit", kl_limit, 0.0, np.inf),
            ("batch", batch, 1, np.inf),
            ("memory_cycles", memory_cycles, 1, np.inf),
            ("learning_rate", learning_rate, 0.0, np.inf),
            ("group_cost", group_cost, 0.0, np.inf),
        ):
            if not low <= value <= high:
                raise ControllerError(f"trpo: {name} must be from {low:g} to {high:g}, got {value!r}")
        torch.set_num_threads(1)
        facts = agent.facts
        self.literal = bool(facts["paper_literal"])
        self.n_groups, self.cycle_slots = int(facts["n_groups"]), int(facts["cycle_slots"])
        self.delay, self.leo_delay = agent.delay, int(facts["leo_delay"])
        self.slot_s, self.floor_db = float(facts["slot_s"]), float(facts["snr_floor_db"])
        self.n_steps, self.relative, self.explore = n_steps, relative and not self.literal, explore
        self.own_error = not self.relative and not self.literal
        self.batch, self.group_cost = batch, group_cost
        self.rates = Rates(
            gamma=LITERAL_GAMMA if self.literal else gamma,
            gamma_leo=gamma_leo,
            gae_lambda=gae_lambda,
            kl_limit=kl_limit,
            clip=np.inf if self.literal else RATIO_CLIP,
            learning_rate=learning_rate,
        )
        self.site = Site.from_facts(facts)
        self.nominal = NominalLink.from_facts(facts)
        self.tx_antennas = int(facts["tx_antennas"][0]), int(facts["tx_antennas"][1])
        self.rx_antennas = int(facts["rx_antennas"][0]), int(facts["rx_antennas"][1])
        self.n_rx = self.rx_antennas[0] * self.rx_antennas[1]
        self.strength_scale = np.sqrt(self.tx_antennas[0] * self.tx_antennas[1]) * self.n_rx
        self.mean_units = float(facts["demand_mean_units"])
        self.unit_mbit = float(facts["demand_unit_bit"]) / MEGA
        self.usual_mbit = self.unit_mbit * max(self.mean_units, 1.0)  # scales demand and rewards to about one

        # (22): 49 increments of the beam, and every nonempty set of groups
        steps = np.arange(-REACH, REACH + 1) * step_deg
        self.increments_deg = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
        self.sets = subsets(self.n_groups)

        rngs = np.random.default_rng(seed).spawn(4)
        self.rng, self.learn_rng, self.reference_rng = rngs[:3]
        n_inputs = self.n_groups + self.n_rx + (not self.literal) + 2 * self.own_error
        self.actor = Actor(n_inputs, len(self.increments_deg), len(self.sets))
        self.theta = self.actor.initial(rngs[3])
        self.weights = self.theta.numpy()  # the same memory, for the kernel
        self.low = Critic.fresh((n_inputs, *CRITIC_SIZES, 1), rngs[3])
        self.high = Critic.fresh((3 + self.cycle_slots, *CRITIC_SIZES, 1), rngs[3])  # the terminal's own copy of V_H
        self.weights_version = 0
        self.last_step: Step | None = None

        vector = (n_inputs,), "float32"
        self.memory = Replay(
            memory_cycles * self.cycle_slots,
            time=((), "int64"),  # consecutive within a flight
            cycle=((), "int64"),  # of the satellite
            state=vector,
            next_state=vector,
            beam=((), "int64"),
            chosen=((), "int64"),
            allowed=((len(self.sets),), "bool"),
            log_prob=((), "float64"),
            reward=((), "float64"),
            terminal=((), "bool"),
        )
        told = (3 + self.cycle_slots,), "float32"
        self.cycles = Replay(
            memory_cycles,
            cycle=((), "int64"),
            state=told,
            next_state=told,
            reward=((), "float64"),
            terminal=((), "bool"),
        )
        self._buffers = self.actor.buffers()
        self._n_new = 0
        self._flight = 0
        self._start()
        self._warm_up()

    def act(self, seen: Observation) -> Action:
        """The action for this slot, and at the end of the satellite's cycle a reference for the next n_steps."""
        if seen.reward is None:
            self._start()
        values = seen.values
        if values["new_pass"]:
            self._leader_beam_deg = None  # it pointed from another satellite
        satellite = int(values["satellite"])
        self._satellite_of[seen.slot] = satellite
        if len(self._satellite_of) > self._remembered:
            del self._satellite_of[next(iter(self._satellite_of))]
        state = self.state(values) if satellite else np.zeros(self.actor.n_inputs, np.float32)
        self._settle(seen, state)
        self._hear(seen)
        reserved = values["reserved_rb"]
        if not satellite or seen.last:
            return Action({"rx_beam_deg": np.array(values["predicted_beam_deg"]), "used_rb": np.array(reserved)})

        allowed = self.allowed(reserved)
        beam, chosen, log_prob = self._choose(state, allowed)
        predicted_deg = values["predicted_beam_deg"]
        base_deg = predicted_deg if self.relative or values["new_pass"] else values["rx_beam_deg"]
        beam_deg = np.clip(base_deg + self.increments_deg[beam], 0.0, HIGHEST_ANGLE_DEG)
        used = self.sets[chosen] & reserved
        self._pending[seen.slot] = {
            "time": self._time(seen.slot),
            "cycle": self._time((seen.slot + self.delay) // self.cycle_slots),
            "state": state,
            "next_state": state,  # until the next observation
            "beam": beam,
            "chosen": chosen,
            "allowed": allowed,
            "log_prob": log_prob,
            "cost": self.group_cost * used.sum(),
        }
        signals = {}
        if seen.slot % self.cycle_slots == self.cycle_slots - 1:
            signals = {LEADER: {"reference": self.reference(seen, beam_deg, used)}}
        return Action({"rx_beam_deg": beam_deg, "used_rb": used}, signals)

    def learn(self) -> Callable[[], Learned] | None:
        """A job for each new cycle's worth of slots, on copies of the memory; None while there is too little."""
        if self._n_new < self.cycle_slots or self.memory.n_rows < FIRST_CYCLES * self.cycle_slots:
            return None
        self._n_new = 0
        n_rows = self.memory.n_rows
        rows = np.sort(self.learn_rng.choice(n_rows, min(self.batch, n_rows), replace=False))
        networks = self.actor, self.theta, self.low, self.high  # replaced by updates, never changed in place
        experience, rates = (self.memory.copy(), self.cycles.copy(), rows), self.rates
        return lambda: improve(*networks, *experience, rates)

    def adopt(self, result: Learned) -> None:
        """Put what a job brought back in force."""
        self.theta, self.low, self.high, self.last_step = result.theta, result.low, result.high, result.step
        self.weights = self.theta.numpy()
        self.weights_version += 1

    def state(self, values: Arrays) -> np.ndarray:
        """(21) scaled to about one, (n_inputs,) float32; beside it the demand (repair 5) and pointing error."""
        parts = [values["snr_db"] / SNR_SCALE_DB, values["antenna_strength"] / self.strength_scale]
        if not self.literal:
            parts.append([values["demand_bps"] * self.slot_s / MEGA / self.usual_mbit])
        if self.own_error:
            parts.append((values["rx_beam_deg"] - values["predicted_beam_deg"]) / ERROR_SCALE_DEG)
        return np.concatenate(parts).astype(np.float32)

    def allowed(self, reserved: np.ndarray) -> np.ndarray:
        """(n_sets,) bool: the subsets of the reserved groups; all where nothing is reserved, as none can be used."""
        within = ~(self.sets & ~reserved).any(axis=1)
        return within if within.any() else np.ones(len(self.sets), bool)

    def reference(self, seen: Observation, beam_deg: np.ndarray, used: np.ndarray) -> np.ndarray:
        """tau_L: what the policy would do in the next n_steps cycles, (n_steps T, 2 + M) float32, degrees and groups.

        The satellite's last action is held, f(pi_L) = pi_H: its increment where increments are relative, else its
        beam. The groups are drawn and not masked by the reserved set (repair 2): a masked reference could only shrink
        the set that the satellite reserves. The demand is drawn too; by the letter it is no part of the state.
        """
        n = self.n_steps * self.cycle_slots
        values = seen.values
        middle = seen.slot - seen.slot % self.cycle_slots + self.cycle_slots / 2  # of the cycle that now ends
        at_s = np.concatenate([[middle], seen.slot + np.arange(n + 1)]) * self.slot_s
        where = pointing(*track(values["ephemeris_m"], values["ephemeris_s"], at_s), self.site)
        tx_direction_deg = where.tx_beam_deg[1:]
        tx_beam_deg = tx_direction_deg
        if self._leader_beam_deg is not None:
            tx_beam_deg = self._leader_beam_deg + (tx_direction_deg - where.tx_beam_deg[0] if self.relative else 0.0)
        tx_gain = beam_gain(np.broadcast_to(tx_beam_deg, (n + 1, 2)), tx_direction_deg, self.tx_antennas)
        noise, units = np.zeros((n, len(self.sets))), np.zeros(n + 1, np.int64)
        allowed = self.allowed(values["reserved_rb"])
        if not self.literal:
            noise = self.reference_rng.gumbel(size=noise.shape)
            units = self.reference_rng.poisson(self.mean_units, n + 1)
            allowed = np.ones(len(self.sets), bool)
        return play_forward(
            self.weights,
            self._buffers,
            np.zeros(self.actor.n_inputs, np.float32),
            beam_deg,
            used.copy(),
            self.nominal.matched_snr(where.slant_range_m[1:], where.elevation_deg[1:]) * tx_gain,
            np.sqrt(tx_gain) / self.n_rx,
            where.rx_beam_deg[1:],
            units * (self.unit_mbit / self.usual_mbit),
            noise,
            allowed,
            self.increments_deg,
            self.sets,
            self.rx_antennas,
            self.floor_db,
            self.relative,
            self.own_error,
        )

    def _choose(self, state: np.ndarray, allowed: np.ndarray) -> tuple[int, int, float]:
        """Indices of the increment and of the set, drawn from the policy or its mode, and their log probability."""
        actor_row(self.weights, state, *self._buffers)
        beam_logits, set_logits = self._buffers[4].astype(float), self._buffers[6].astype(float)
        set_logits[~allowed] = -np.inf
        log_beam, log_set = log_softmax(beam_logits), log_softmax(set_logits)
        if self.explore:
            log_beam_drawn = log_beam + self.rng.gumbel(size=log_beam.size)
            log_set_drawn = log_set + self.rng.gumbel(size=log_set.size)
            beam, chosen = int(np.argmax(log_beam_drawn)), int(np.argmax(log_set_drawn))
        else:
            beam, chosen = int(np.argmax(log_beam)), int(np.argmax(log_set))
        return beam, chosen, float(log_beam[beam] + log_set[chosen])

    def _start(self) -> None:
        """A new flight: the slots count anew and nothing of before follows into it. What was learned stays."""
        self._flight += 1
        self._pending, self._satellite_of = {}, {}
        self._remembered = 3 * self.cycle_slots + self.delay + self.leo_delay
        self._told = self._leader_beam_deg = None

    def _time(self, count: int) -> int:
        """A count within this flight that continues no other flight's."""
        return (self._flight << 32) + count

    def _settle(self, seen: Observation, state: np.ndarray) -> None:
        """Store the action whose effect this observation's reward is, if it was ours and a satellite served."""
        answered = self._pending.get(seen.slot - max(self.delay, 1))
        if answered is not None:
            answered["ours"] = seen.timing.get("action_source", "agent") == "agent"
        before = self._pending.get(seen.slot - 1)
        if before is not None:
            before["next_state"] = state
        row = self._pending.pop(seen.slot - 1 - self.delay, None)
        for slot in [slot for slot in self._pending if slot < seen.slot - 1 - self.delay]:
            del self._pending[slot]  # observations were skipped: this reward is not theirs alone
        served = self._satellite_of.get(seen.slot - 1, 0)
        began = self._satellite_of.get(seen.slot - 1 - self.delay, 0)
        if row is None or seen.reward is None or not row.pop("ours", False) or not served or served != began:
            return
        row["terminal"] = self._satellite_of[seen.slot] != served  # a pass is an episode
        row["reward"] = (seen.reward - row.pop("cost")) / self.usual_mbit
        self.memory.append(**row)
        self._n_new += 1

    def _hear(self, seen: Observation) -> None:
        """Store the satellite's experience, line 7: its state and action of this cycle, and the reward of the last."""
        message = seen.signals.get(LEADER, {})
        shapes = {"state": (3 + self.cycle_slots,), "action": (2 + self.n_groups,), "reward": ()}
        if any(name not in message or np.shape(message[name]) != shape for name, shape in shapes.items()):
            return  # nothing, or what another controller than ours has to say
        cycle = (seen.slot - self.leo_delay) // self.cycle_slots
        self._leader_beam_deg = message["action"][:2].astype(float)
        state, told = message["state"], self._told
        self._told = cycle, state
        if told is None or told[0] != cycle - 1:
            return
        before, now = (self._satellite_of.get(c * self.cycle_slots, 0) for c in (cycle - 1, cycle))
        if before:
            self.cycles.append(
                cycle=self._time(cycle - 1),
                state=told[1],
                next_state=state,
                reward=float(message["reward"]) / self.usual_mbit,
                terminal=now != before,
            )

    def _warm_up(self) -> None:
        """Run everything once, so that no compilation falls into a slot. Leaves no trace."""
        rngs = self.rng, self.learn_rng, self.reference_rng
        states = [rng.bit_generator.state for rng in rngs]
        n_sets, n_rows = len(self.sets), 4
        self._choose(np.zeros(self.actor.n_inputs, np.float32), np.ones(n_sets, bool))
        coefficients_m = np.zeros((3, 8))
        coefficients_m[:, 0], coefficients_m[:, 1] = 1.1 * self.site.position_m, (1e3, 2e3, 3e3)
        values = {
            "ephemeris_m": coefficients_m,
            "ephemeris_s": np.array([0.0, 1.0]),
            "reserved_rb": np.ones(self.n_groups, bool),
        }
        self.reference(Observation("", 0, values), np.full(2, 90.0), np.ones(self.n_groups, bool))
        slots = {name: np.zeros((n_rows, *array.shape[1:]), array.dtype) for name, array in self.memory.copy().items()}
        slots["allowed"][:] = True
        slots["reward"] += np.arange(n_rows)
        slots["beam"] += np.arange(n_rows)
        cycles = {name: np.zeros((n_rows, *array.shape[1:]), array.dtype) for name, array in self.cycles.copy().items()}
        held = self.actor, self.theta, self.low, self.high, slots, cycles, np.arange(n_rows)
        improve(*held, self.rates)
        for rng, state in zip(rngs, states):
            rng.bit_generator.state = state


def subsets(n_groups: int) -> np.ndarray:
    """Every nonempty set of groups, (2^n_groups - 1, n_groups) bool; bit m of the index plus one says group m."""
    return (np.arange(1, 2**n_groups)[:, None] >> np.arange(n_groups) & 1).astype(bool)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log probabilities (n,) of logits (n,), of which some may be minus infinity."""
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())
