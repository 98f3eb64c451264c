"""ST-Q: Q-learning whose next action is the Stackelberg equilibrium of the stage game; on tables, and with networks.

Reads as seed 001, appendix C: the update (33) to (38) with the corrections of docs/papers/d2d.md, first on tables,
where it is checked against exact values, then for the D2D pairs of world `d2d` with an actor and a central critic per
pair. What guides the pairs' learning, the equilibrium a_ST of each slot's game, the leader computes by the closed forms
of controllers/stackelberg.py and sends along with its prices: training is central, execution is not, as an actor sees
its own pair's observation alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from controllers.nets import Adam, Mlp, Replay, dense_row, to_tensor
from controllers.stackelberg import Stackelberg
from twin.errors import ControllerError
from twin.types import Action, Agent, Arrays, Observation

HIDDEN = (128, 64)  # hidden layers of actors and critics
LEVELS = 9  # of power, even in dB, between which critics interpolate: 4.25 dB apart in the default cell
FOLLOWERS = "d2d"  # the seat that hears the guide


# ---- on tables: any finite game of a leader, agent 0, and followers


@njit(cache=True, nogil=True)
def stage_equilibrium(q, sizes):
    """The Stackelberg equilibrium of a stage game: the index of a joint action.

    q      (n_agents, n_joint)  float64  each agent's value of each joint action; agent 0 leads
    sizes  (n_agents,)          int64    actions of each agent; the leader's vary slowest in the joint index

    The followers answer an action of the leader with a Nash equilibrium in pure actions among themselves, of several
    with the leader's favourite. Where there is none they play the joint reply whose largest gain by one follower's
    deviation is least: a rule of ours, the paper has none. The leader takes what then is best for him; ties go to the
    lowest index. Checked by tests/papers/test_st_q.py::test_stage_equilibrium_equals_enumeration_in_plain_python.
    """
    n_agents, n_joint = q.shape
    n_replies = n_joint // sizes[0]
    best = 0
    for first in range(0, n_joint, n_replies):
        reply, least = first, np.inf
        for joint in range(first, first + n_replies):
            regret, stride = 0.0, n_replies
            for k in range(1, n_agents):
                stride //= sizes[k]
                own = joint // stride % sizes[k]
                for other in range(sizes[k]):
                    regret = max(regret, q[k, joint + (other - own) * stride] - q[k, joint])
            if regret < least or (regret == least and q[0, joint] > q[0, reply]):
                reply, least = joint, regret
        if first == 0 or q[0, reply] > q[0, best]:
            best = reply
    return best


@njit(cache=True, nogil=True)
def st_q_steps(q, visits, reward, transition, sizes, gamma, state, n_steps, rng):
    """Tabular ST-Q: n updates (38) along one trajectory of uniformly random joint actions; returns where it ends.

    q           (n_states, n_agents, n_joint)   float64, learned in place
    visits      (n_states, n_joint)             int64, counted in place
    reward      (n_states, n_agents, n_joint)   r^j(s, a)
    transition  (n_states, n_joint, n_states)   p(s' | s, a)
    state       ()                              where it begins

    The rate of the n-th visit is 1 / (1 + (1 - gamma) n): 1 / n slowed by the horizon, which keeps assumption 2 and
    does not remember the first values for 1 / (1 - gamma) times as long. Checked by tests/papers/test_st_q.py::
    test_s7_tabular_st_q_reaches_the_exact_values_where_every_action_that_should_dominates.
    """
    n_states, n_agents, n_joint = q.shape
    for _ in range(n_steps):
        joint = int(rng.random() * n_joint)
        luck, after = rng.random(), 0
        while after < n_states - 1 and luck >= transition[state, joint, after]:
            luck -= transition[state, joint, after]
            after += 1
        at_equilibrium = stage_equilibrium(q[after], sizes)
        visits[state, joint] += 1
        rate = 1.0 / (1.0 + (1.0 - gamma) * visits[state, joint])
        for k in range(n_agents):
            target = reward[state, k, joint] + gamma * q[after, k, at_equilibrium]
            q[state, k, joint] += rate * (target - q[state, k, joint])
        state = after
    return state


@dataclass(frozen=True, eq=False)
class StochasticGame:
    """A finite game of a leader and followers: shapes as in `st_q_steps`. Raises ValueError for what is no game."""

    reward: np.ndarray
    transition: np.ndarray
    sizes: np.ndarray
    gamma: float

    def __post_init__(self) -> None:
        reward, transition = np.array(self.reward, float), np.array(self.transition, float)
        sizes = np.array(self.sizes, np.int64)
        if sizes.ndim != 1 or not sizes.size or (sizes < 1).any() or (sizes != self.sizes).any():
            raise ValueError(f"sizes must be the whole number of actions of each agent, got {self.sizes}")
        n_states, n_joint = len(transition) if transition.ndim else 0, int(sizes.prod())
        for name, table, shape in (
            ("reward", reward, (n_states, sizes.size, n_joint)),
            ("transition", transition, (n_states, n_joint, n_states)),
        ):
            if table.shape != shape or not np.isfinite(table).all():
                raise ValueError(
                    f"{name} of {n_states} states and {n_joint} joint actions must be of shape {shape} and finite, "
                    f"got shape {table.shape}"
                )
        if (transition < 0.0).any() or not np.allclose(transition.sum(-1), 1.0, rtol=0.0, atol=1e-9):
            raise ValueError("transition must hold probabilities of the next state that add up to 1")
        if not 0.0 <= self.gamma < 1.0:
            raise ValueError(f"gamma must be at least 0 and below 1, got {self.gamma}")
        for name, table in (("reward", reward), ("transition", transition), ("sizes", sizes)):
            object.__setattr__(self, name, table)

    def exact(self, tolerance: float = 1e-12, most: int = 10_000) -> tuple[np.ndarray, bool]:
        """ST-Q values (35) by value iteration under the same rule, and whether it settled.

        It need not: where the stage games have several equilibria, or none in pure actions, (35) is no contraction.
        """
        q = np.zeros_like(self.reward)
        for _ in range(most):
            value = np.array([table[:, stage_equilibrium(table, self.sizes)] for table in q])
            after = self.reward + self.gamma * np.einsum("sax,xk->ska", self.transition, value)
            change = np.abs(after - q).max()
            q = after
            if change <= tolerance * (1.0 + np.abs(q).max()):
                return q, True
        return q, False

    def learned(self, updates: list[int], seed: int) -> np.ndarray:
        """Tables of tabular ST-Q after each of so many updates (ascending), (n, n_states, n_agents, n_joint)."""
        if list(updates) != sorted(updates) or min(updates, default=0) < 0:
            raise ValueError(f"updates must be counts in ascending order, got {updates}")
        rng = np.random.default_rng(seed)
        q, state, done, tables = np.zeros_like(self.reward), 0, 0, []
        visits = np.zeros((q.shape[0], q.shape[2]), np.int64)
        for count in updates:
            shared = self.reward, self.transition, self.sizes, self.gamma
            state = st_q_steps(q, visits, *shared, state, count - done, rng)
            done = count
            tables.append(q.copy())
        return np.array(tables)


def random_game(
    rng: np.random.Generator,
    sizes: tuple[int, ...] = (2, 2, 2),
    n_states: int = 3,
    gamma: float = 0.9,
    dominance: float = 1.1,
) -> StochasticGame:
    """A game with rewards and transitions at random; in every state one action of each agent dominates strictly.

    An agent's reward is uniform in [0, 1] less dominance / (1 - gamma) for each agent that does not play its dominant
    action. Values of the equilibrium differ between states by at most 1 / (1 - gamma), so with dominance > 1 the same
    actions dominate in the stage games of exact values, whose equilibrium is then the best point of everyone: the
    paper's assumption 3. With dominance 0 it is any game.
    """
    if not 0.0 <= gamma < 1.0:
        raise ValueError(f"gamma must be at least 0 and below 1, got {gamma}")
    n_joint = int(np.prod(sizes))
    acts = np.array(np.unravel_index(np.arange(n_joint), sizes))
    dominant = np.array([rng.integers(0, size, n_states) for size in sizes])
    strays = (acts[:, None, :] != dominant[:, :, None]).sum(0)  # (n_states, n_joint)
    reward = rng.random((n_states, len(sizes), n_joint)) - dominance / (1.0 - gamma) * strays[:, None, :]
    transition = rng.dirichlet(np.ones(n_states), (n_states, n_joint))
    return StochasticGame(reward, transition, np.array(sizes), gamma)


def relative_error(q: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """max |Q - Q_exact| / (1 + |Q_exact|) over the last three axes: the measure of statement S7."""
    return (np.abs(q - exact) / (1.0 + np.abs(exact))).max(axis=(-3, -2, -1))


# ---- with networks: an actor and a critic for each pair, the pairs' computed together


@dataclass(frozen=True)
class Stack:
    """As many networks of one shape as there are pairs; the parameters of each are a row of one matrix."""

    n: int
    net: Mlp

    def initial(self, rng: np.random.Generator, last_scale: float) -> torch.Tensor:
        """Parameters (n, n_parameters)."""
        return to_tensor(np.stack([self.net.initial(rng, last_scale) for _ in range(self.n)]))

    def __call__(self, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Outputs (n, n_rows, n_out) for inputs (n, n_rows, n_in)."""
        shapes = list(zip(self.net.sizes, self.net.sizes[1:]))
        parts = theta.split([size for n_in, n_out in shapes for size in (n_in * n_out, n_out)], 1)
        for layer, (weight, bias) in enumerate(zip(parts[::2], parts[1::2])):
            x = torch.baddbmm(bias[:, None, :], x, weight.view(self.n, *shapes[layer]))
            if layer < len(shapes) - 1:
                x = torch.relu(x)
        return x


@njit(cache=True, nogil=True)
def actor_rows(theta, x, h1, h2, out):
    """Each pair's actor for its own observation: theta (n, n_parameters), x (n, n_in), out (n, n_out), all float32.

    Equals `Stack.__call__` to rounding: tests/papers/test_st_q.py::test_actor_kernel_equals_the_torch_networks.
    """
    for k in range(x.shape[0]):
        at = dense_row(theta[k], 0, x[k], h1, True)
        at = dense_row(theta[k], at, h1, h2, True)
        dense_row(theta[k], at, h2, out[k], False)


@dataclass(frozen=True)
class Shape:
    """Who learns what: sizes of the networks, and how their inputs are put together.

    n_pairs, n_channels, n_seen  pairs, channels, elements of a pair's observation
    n_told                       elements of what the leader tells the critics besides
    central                      critics see all pairs' observations and actions, and what is told; else their own
    """

    n_pairs: int
    n_channels: int
    n_seen: int
    n_told: int
    central: bool

    @property
    def actors(self) -> Stack:
        """Observation -> channel logits, and power less one half, before it is bounded."""
        return Stack(self.n_pairs, Mlp((self.n_seen, *HIDDEN, self.n_channels + 1)))

    @property
    def critics(self) -> Stack:
        """State and action of everyone, or of the pair itself -> its value."""
        one = self.n_seen + self.n_channels * LEVELS
        return Stack(self.n_pairs, Mlp((self.n_pairs * one + self.n_told if self.central else one, *HIDDEN, 1)))

    def state(self, seen: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """(n_pairs, n_rows, n) of seen (n_rows, n_pairs, n_seen) and told (n_rows, n_told): the critics' states."""
        if not self.central:
            return seen.transpose(0, 1)
        return torch.cat([seen.flatten(1), told], 1).expand(self.n_pairs, -1, -1)

    def action(self, channel: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
        """(n_pairs, n_rows, n): the critics' actions, of channel and power (n_rows, n_pairs), power from 0 to 1."""
        each = self.encoded(channel, power)
        return each.flatten(1).expand(self.n_pairs, -1, -1) if self.central else each.transpose(0, 1)

    def own_choices(self, channel: torch.Tensor, power: torch.Tensor, own_power: torch.Tensor) -> torch.Tensor:
        """(n_pairs, n_channels * n_rows, n): critic j's action when pair j takes each channel with its own power.

        channel, power (n_rows, n_pairs) of the others, as remembered; own_power (n_pairs, n_rows), with gradient.
        """
        shape = self.n_pairs, self.n_channels, len(channel)
        ones = torch.arange(self.n_channels)[None, :, None].expand(shape)
        own = self.encoded(ones, own_power[:, None].expand(shape))
        if self.central:
            others = self.encoded(channel, power).expand(*shape, -1, -1)
            mine = torch.eye(self.n_pairs, dtype=torch.bool)[:, None, None, :, None]
            own = torch.where(mine, own[:, :, :, None, :], others).flatten(3)
        return own.flatten(1, 2)

    def encoded(self, channel: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
        """(..., n_channels * LEVELS) of (...): weights of the levels next to the power, where the channel's stand.

        As one number the power takes a critic thousands of updates to see a best power inside the range.
        """
        levels = torch.arange(LEVELS, dtype=torch.float32)
        weights = torch.relu(1.0 - (power[..., None] * (LEVELS - 1) - levels).abs())
        taken = torch.nn.functional.one_hot(channel, self.n_channels)
        return (taken[..., None] * weights[..., None, :]).flatten(-2)


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and spread of every input seen so far. Fading moves an input little beside what the places set it to."""

    n: int
    mean: np.ndarray
    squares: np.ndarray  # sum of squared distances from the mean

    @staticmethod
    def fresh(shape: tuple[int, ...]) -> "Scale":
        """Of nothing seen: it leaves inputs as they are."""
        return Scale(0, np.zeros(shape), np.zeros(shape))

    def and_of(self, x: np.ndarray) -> "Scale":
        """With one more row."""
        mean = self.mean + (x - self.mean) / (self.n + 1)
        return Scale(self.n + 1, mean, self.squares + (x - self.mean) * (x - mean))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """x (..., *shape) standardised, float32, within +-5."""
        spread = np.sqrt(self.squares / self.n) + 0.01 if self.n > 1 else 1.0
        return np.clip((x - self.mean) / spread, -5.0, 5.0).astype(np.float32)


@dataclass(frozen=True)
class Rates:
    """Constants of an update: discount, rates of actors, critics and targets (tau), softness of the choice."""

    gamma: float
    actor_rate: float
    critic_rate: float
    target_rate: float
    temperature: float


@dataclass(frozen=True)
class Learned:
    """All that learning changes; replaced as a whole by each job, never changed in place."""

    actor: torch.Tensor
    critic: torch.Tensor
    actor_target: torch.Tensor
    critic_target: torch.Tensor
    actor_adam: Adam
    critic_adam: Adam

    @staticmethod
    def fresh(shape: Shape, rng: np.random.Generator) -> "Learned":
        """Actors that are nearly indifferent, critics near zero."""
        actor, critic = shape.actors.initial(rng, 0.01), shape.critics.initial(rng, 0.01)
        return Learned(actor, critic, actor, critic, Adam.fresh(actor), Adam.fresh(critic))


def bounded(out: torch.Tensor) -> torch.Tensor:
    """Power from 0 to 1 of the actors' last output; its gradient passes as if there were no bounds.

    A logistic function in its place dies: the first lesson is that much power costs hundreds, and what it has once
    driven to the lowest power no gradient brings back.
    """
    free = out + 0.5
    return free + (free.clamp(0.0, 1.0) - free).detach()


def improve(shape: Shape, now: Learned, batches: Sequence[Arrays], rates: Rates, guided: bool) -> Learned:
    """An update for each batch of experience: critics towards (38), then actors up their critics, then the targets.

    A batch holds rows of `StQ`'s memory with its rewards standardised. The next action is the leader's equilibrium
    where `guided`, what the target actors would do otherwise, which is MADDPG (Lowe et al. 2017, algorithm 1). The
    channel being one of a few, an actor climbs the expectation of its critic over its own channels, no estimate of it.
    """
    torch.set_num_threads(1)  # per thread: a job runs in another one than the controller
    actors, critics = shape.actors, shape.critics
    actor, critic, actor_adam, critic_adam = now.actor, now.critic, now.actor_adam, now.critic_adam
    actor_target, critic_target = now.actor_target, now.critic_target
    for batch in batches:
        rows = {name: to_tensor(array) for name, array in batch.items()}
        state, action = shape.state(rows["seen"], rows["told"]), shape.action(rows["channel"], rows["power"])
        with torch.no_grad():
            if guided:
                after = rows["next_channel"], rows["next_power"]
            else:
                out = actors(actor_target, rows["next_seen"].transpose(0, 1))
                after = out[..., :-1].argmax(-1).T, bounded(out[..., -1]).T
            next_input = torch.cat([shape.state(rows["next_seen"], rows["next_told"]), shape.action(*after)], -1)
            target = rows["reward"].T + rates.gamma * critics(critic_target, next_input)[..., 0]

        leaf = critic.detach().requires_grad_()
        value = critics(leaf, torch.cat([state, action], -1))[..., 0]
        (gradient,) = torch.autograd.grad((value - target).square().mean(1).sum(), leaf)
        critic, critic_adam = critic_adam.step(critic, gradient, rates.critic_rate)

        leaf = actor.detach().requires_grad_()
        out = actors(leaf, rows["seen"].transpose(0, 1))
        log_channel, power = torch.log_softmax(out[..., :-1], -1), bounded(out[..., -1])
        choices = shape.own_choices(rows["channel"], rows["power"], power)
        states = state[:, None].expand(-1, shape.n_channels, -1, -1).flatten(1, 2)
        values = critics(critic, torch.cat([states, choices], -1)).view(shape.n_pairs, shape.n_channels, -1)
        by_value = values.detach().transpose(1, 2).div(rates.temperature).softmax(-1)
        gain = (by_value * log_channel + by_value * values.transpose(1, 2)).sum(-1).mean(1).sum()
        outside = (out[..., -1] + 0.5 - power.detach()).square().mean(1).sum()
        (gradient,) = torch.autograd.grad(outside - gain, leaf)
        actor, actor_adam = actor_adam.step(actor, gradient, rates.actor_rate)

        actor_target = torch.lerp(actor_target, actor, rates.target_rate)
        critic_target = torch.lerp(critic_target, critic, rates.target_rate)
    learned = Learned(actor, critic, actor_target, critic_target, actor_adam, critic_adam)
    finite = torch.isfinite(actor).all() and torch.isfinite(critic).all()
    return learned if finite else now


# ---- the controller, for either seat


class Asked(NamedTuple):
    """What an answer was given to: the actors' inputs, what the leader told, its equilibrium; was an answer ours."""

    seen: np.ndarray
    told: np.ndarray
    guide: tuple[np.ndarray, np.ndarray] | None
    ours: bool


class StQ:
    """Both seats of `d2d`: the leader posts its closed-form prices and guides, the followers learn.

    On seat `cellular` it plays controllers.stackelberg and sends what the critics may know beyond the pairs' own
    observations: this slot's equilibrium, the gains between pairs, the users' SNR. On seat `d2d` it acts with the
    pairs' actors and learns from what came of it. The leader's message, 8 N + 4 N^2 + 4 M bytes a slot, is needed in
    training only.

    guided           next actions of the targets are the leader's equilibrium; False: the target actors' (MADDPG)
    central          critics see everyone; False and not guided: independent learners
    explore          part of first answers that are drawn evenly, per pair; falls to explore_last
    explore_slots    slots in which it falls
    explore_last     part that stays
    noise            standard deviation of the powers of the other answers, of the range from lowest to highest in dB
    imitate          part of the drawn answers that are the equilibrium, where the leader told it, instead
    gamma            discount per slot; the next fading is not the answer's doing, so a larger one brings noise alone
    actor_rate       of the actors' steps
    critic_rate      of the critics' steps
    target_rate      of the targets behind both (tau); the actors in force are the targets, which average
    temperature      of the channels' choice, in standard deviations of the reward
    worst_loss       larger losses count as this while learning, bit/s/Hz: a power far too high costs hundreds
    batch            rows per update
    memory           rows kept
    updates          updates in one job
    new_rows         remembered before the next job

    A seat whose learning is switched off (`learn = false`) still explores: set explore, explore_last and noise to 0.
    With `delay` an answer is judged by what it earned once in force, and next to what was seen when it was given.
    Raises ControllerError for options out of range. `weights_version` counts jobs in force.
    """

    def __init__(
        self,
        agent: Agent,
        seed: int,
        *,
        guided: bool = True,
        central: bool = True,
        explore: float = 1.0,
        explore_slots: int = 1000,
        explore_last: float = 0.05,
        noise: float = 0.1,
        imitate: float = 0.0,
        gamma: float = 0.5,
        actor_rate: float = 1e-3,
        critic_rate: float = 1e-3,
        target_rate: float = 0.01,
        temperature: float = 0.1,
        worst_loss: float = 1.0,
        batch: int = 64,
        memory: int = 100_000,
        updates: int = 10,
        new_rows: int = 10,
    ):
        for name, value, low, high in (
            ("explore", explore, 0.0, 1.0),
            ("explore_slots", explore_slots, 1, np.inf),
            ("explore_last", explore_last, 0.0, 1.0),
            ("noise", noise, 0.0, 1.0),
            ("imitate", imitate, 0.0, 1.0),
            ("gamma", gamma, 0.0, 0.999),
            ("actor_rate", actor_rate, 0.0, 1.0),
            ("critic_rate", critic_rate, 0.0, 1.0),
            ("target_rate", target_rate, 0.0, 1.0),
            ("temperature", temperature, 1e-3, np.inf),
            ("worst_loss", worst_loss, 0.0, np.inf),
            ("batch", batch, 1, np.inf),
            ("memory", memory, 1, np.inf),
            ("updates", updates, 1, np.inf),
            ("new_rows", new_rows, 1, np.inf),
        ):
            if not low <= value <= high:
                raise ControllerError(f"st_q: {name} must be from {low:g} to {high:g}, got {value!r}")
        for name, value in (("batch", batch), ("memory", memory), ("updates", updates), ("new_rows", new_rows)):
            if not isinstance(value, int | np.integer):
                raise ControllerError(f"st_q: {name} must be a whole number, got {value!r}")
        if memory < batch:
            raise ControllerError(f"st_q: memory must hold a batch, {batch} rows, got {memory}")
        if guided and not central:
            raise ControllerError("st_q: guided critics are central, independent ones are not guided; got both")
        self.leader = Stackelberg(agent, seed) if agent.name != FOLLOWERS else None
        if self.leader is not None:
            return
        torch.set_num_threads(1)
        facts = agent.facts
        self.delay = agent.delay
        self.n_pairs, self.n_channels = int(facts["n_pairs"]), int(facts["n_channels"])
        self.low_w, self.high_w = float(facts["power_min_w"]), float(facts["power_max_w"])
        self.weight = float(facts["follower_weight"])
        self.guided, self.imitate, self.noise = guided, imitate, noise
        self.batch, self.updates, self.new_rows = batch, updates, new_rows
        self.explore, self.explore_slots, self.explore_last = explore, explore_slots, explore_last
        self.worst_loss = worst_loss
        self.rates = Rates(gamma, actor_rate, critic_rate, target_rate, temperature)
        n, m = self.n_pairs, self.n_channels
        self.shape = Shape(n, m, 3 * m + 4, n * n + m, central)
        self.rng, self.learn_rng, start_rng = np.random.default_rng(seed).spawn(3)
        self.now = Learned.fresh(self.shape, start_rng)
        self.inputs, self.tellings = Scale.fresh((n, self.shape.n_seen)), Scale.fresh((self.shape.n_told,))
        self.scale = self.inputs
        self.weights = self.now.actor_target.numpy()  # the same memory, for the kernel
        self.weights_version = 0
        seen, told = ((n, self.shape.n_seen), "float32"), ((self.shape.n_told,), "float32")
        channels, powers = ((n,), "int64"), ((n,), "float32")
        self.memory = Replay(
            memory,
            seen=seen,
            told=told,
            channel=channels,
            power=powers,
            reward=((n,), "float64"),
            next_seen=seen,
            next_told=told,
            next_channel=channels,
            next_power=powers,
        )
        self._buffers = tuple(np.zeros(size, np.float32) for size in (*HIDDEN, (n, m + 1)))
        self._n_new = self._n_slots = 0
        self._asked: dict[int, Asked] = {}
        self._warm_up()

    def act(self, seen: Observation) -> Action:
        """Prices and what guides, or channels and powers."""
        return self._follow(seen) if self.leader is None else self._lead(seen)

    def learn(self) -> Callable[[], tuple[Learned, Scale]] | None:
        """A job once there are `new_rows` more rows, on copies of the rows that it samples."""
        if self.leader is not None or self._n_new < self.new_rows or self.memory.n_rows < self.batch:
            return None
        self._n_new = 0
        sampled = self.learn_rng.integers(self.memory.n_rows, size=(self.updates, self.batch))
        batches = [self.memory.rows(which) for which in sampled]
        for batch in batches:
            batch["reward"] = np.maximum(batch["reward"], -self.worst_loss)
            for name, scale in (("seen", self.inputs), ("told", self.tellings)):
                batch[name], batch[f"next_{name}"] = scale(batch[name]), scale(batch[f"next_{name}"])
        rewards = np.concatenate([batch["reward"] for batch in batches])
        centre, spread = rewards.mean(0), rewards.std(0) + 1e-6
        for batch in batches:
            batch["reward"] = (batch["reward"] - centre) / spread
        shape, now, rates, guided = self.shape, self.now, self.rates, self.guided
        scale = self.inputs
        return lambda: (improve(shape, now, batches, rates, guided), scale)

    def adopt(self, result: tuple[Learned, Scale]) -> None:
        """Put what a job brought back in force."""
        self.now, self.scale = result
        self.weights = self.now.actor_target.numpy()
        self.weights_version += 1

    def _lead(self, seen: Observation) -> Action:
        """The closed form's prices; to the critics the equilibrium behind them, and the gains no pair measures."""
        assert self.leader is not None
        posted = self.leader.act(seen)
        gains = {
            name: np.minimum(seen.values[name], 1e30).astype(np.float32) for name in ("cross_gain", "cellular_snr")
        }
        answer = {"channel": self.leader.channel.astype(np.int32), "power_w": self.leader.power_w.astype(np.float32)}
        return Action(posted.values, {FOLLOWERS: answer | gains})

    def _follow(self, seen: Observation) -> Action:
        n, m = self.n_pairs, self.n_channels
        if seen.reward is None:
            self._asked = {}  # a new flight; what was learned stays
        values = seen.values
        state = self.state(values)
        told, guide = self._hear(seen.signals)
        self._remember(seen, Asked(state, told, guide, seen.timing.get("action_source", "agent") == "agent"))
        self.inputs = self.inputs.and_of(state)
        if guide is not None:
            self.tellings = self.tellings.and_of(told)
        actor_rows(self.weights, self.scale(state), *self._buffers)
        out = self._buffers[2]
        channel = out[:, :m].argmax(1)
        power = np.clip(out[:, m].astype(float) + 0.5, 0.0, 1.0)
        power = np.clip(power + self.noise * self.rng.standard_normal(n), 0.0, 1.0)
        drawn = self.rng.random(n) < self._exploring()
        like_leader = (self.rng.random(n) < self.imitate) & (guide is not None)
        any_channel, any_power = self.rng.integers(m, size=n), self.rng.random(n)
        if guide is not None:
            any_channel = np.where(like_leader, guide[0], any_channel)
            any_power = np.where(like_leader, guide[1], any_power)
        channel, power = np.where(drawn, any_channel, channel), np.where(drawn, any_power, power)
        self._n_slots += 1
        power_w = np.clip(self.low_w * (self.high_w / self.low_w) ** power, self.low_w, self.high_w)
        return Action({"channel": channel.astype(np.int64), "power_w": power_w})

    def state(self, values: Arrays) -> np.ndarray:
        """What each pair's actor sees, (n_pairs, 3 M + 4) float32 of about one: decades over noise, or over one.

        Per channel the cellular user's interference, the pair's own at the base station and what that would cost it in
        this slot, both at the highest power; then its SNR at the highest power, and of the last slot SINR, payment
        and interference.
        """
        reach = self.high_w * values["interference_gain"]
        parts = [values["cellular_interference"], reach, self.weight * values["price"] * reach]
        last = [self.high_w * values["direct_gain"], *(values[name] for name in ("sinr", "paid", "interference"))]
        both = np.concatenate([*parts, np.stack(last, 1)], 1)
        return np.log10(1.0 + np.maximum(both, 0.0)).astype(np.float32)

    def level(self, power_w: np.ndarray) -> np.ndarray:
        """Powers as the networks have them: 0 the lowest, 1 the highest, even in dB between."""
        decades = np.log10(np.maximum(power_w, self.low_w) / self.low_w)
        return np.minimum(decades / np.log10(self.high_w / self.low_w), 1.0)

    def _exploring(self) -> float:
        """Part of the answers that are drawn, now."""
        left = max(0.0, 1.0 - self._n_slots / self.explore_slots)
        return self.explore_last + (self.explore - self.explore_last) * left

    def _hear(self, signals: Mapping[str, Arrays]) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
        """What the leader told the critics, and its equilibrium: channels, powers from 0 to 1. Zeros, None: nothing."""
        n, m = self.n_pairs, self.n_channels
        shapes = {"channel": (n,), "power_w": (n,), "cross_gain": (n, n), "cellular_snr": (m,)}
        for message in signals.values():
            if all(name in message and np.shape(message[name]) == shape for name, shape in shapes.items()):
                gains = np.concatenate([self.high_w * message["cross_gain"].ravel(), message["cellular_snr"]])
                told = np.log10(1.0 + np.maximum(gains, 0.0)).astype(np.float32)
                channel = np.clip(message["channel"].astype(np.int64), 0, m - 1)
                power = self.level(message["power_w"])
                if np.isfinite(told).all() and np.isfinite(power).all():
                    return told, (channel, power)
        return np.zeros(self.shape.n_told, np.float32), None

    def _remember(self, seen: Observation, asked: Asked) -> None:
        """Store what was in force in the last slot, and what came of it, if it was ours and is known.

        It answered what was seen `delay` slots before that, and the answer next in force what was seen a slot later.
        """
        first = seen.slot - 1 - self.delay
        self._asked = {slot: row for slot, row in self._asked.items() if first <= slot < seen.slot}
        self._asked[seen.slot] = asked
        before, after = self._asked.pop(first, None), self._asked.get(first + 1)
        # with a delay an observation is told of the answer that has just come into force, without of the one before
        played = self._asked.get(seen.slot - (self.delay > 0))
        if before is None or after is None or played is None or not played.ours:
            return  # observations were skipped, or it was another's
        if self.guided and (before.guide is None or after.guide is None):
            return
        values = seen.values
        next_channel, next_power = after.guide or (np.zeros(self.n_pairs, np.int64), np.zeros(self.n_pairs))
        self.memory.append(
            seen=before.seen,
            told=before.told,
            channel=values["channel"],
            power=self.level(values["used_power_w"]),
            reward=values["utility"],
            next_seen=after.seen,
            next_told=after.told,
            next_channel=next_channel,
            next_power=next_power,
        )
        self._n_new += 1

    def _warm_up(self) -> None:
        """Run everything once, so that no compilation falls into a slot. Leaves no trace."""
        actor_rows(self.weights, np.zeros((self.n_pairs, self.shape.n_seen), np.float32), *self._buffers)
        improve(self.shape, self.now, [self.memory.rows(np.zeros(2, np.int64))], self.rates, self.guided)
