"""Random access learned by neighbours: the experiments of arXiv 2006.06626 on the 5 x 5 network.

The slot loop is one kernel, which plays the world's own kernel and the controller's: a million slots take seconds,
and give the bits that a run of the scenario gives (tests/papers/test_reproduce_access.py).
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from controllers.scalable_ac import (
    BALL,
    CONTENTION,
    OWN,
    Graph,
    Learner,
    Steps,
    aloha_policy,
    choose,
    encode,
    fresh,
    graph_of,
    improve,
    locate,
    mixed,
    steps_of,
)
from twin.worlds.access import Grid, Instance, on_grid, play

DEADLINE_SLOTS = 2
CRITIC_ALONE = Steps(0.5, 0.0, 0.65, 0.0, 1e3)  # Q5
JUDGED_SLOTS = 100_000  # with the policy as it is; the standard error of their mean is 3e-4


@njit(cache=True, nogil=True)
def fly(slots, reads, learning, learner, graph, steps, access_point, success, arrival, heard, deadline, world, own, curve):
    """Kernel: so many slots from empty queues; with learning, one pass of Algorithm 1 in each but the first.

    access_point, success, arrival, heard, deadline  as twin.worlds.access.play
    world, own  generators of the world and of the users, each n uniforms at a time as there
    curve       (n_blocks,)  out: mean reward of each of the blocks that the slots are cut into
    """
    n = access_point.shape[0]
    queue, send = np.zeros(n, np.int64), np.zeros(n, np.int64)
    chosen_on, chosen = np.zeros(n, np.int64), np.zeros(n, np.int64)
    cell, next_cell, code = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    draw, came, luck, old = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    delivered, everybody = np.zeros(n, np.bool_), np.ones(n, np.bool_)
    for b in range(curve.shape[0]):
        first, last = b * slots // curve.shape[0], (b + 1) * slots // curve.shape[0]
        total = 0
        for t in range(first, last):
            for i in range(n):
                draw[i] = own.random()
            choose(learner.policy, queue, draw, send)
            if learning:
                encode(access_point, queue, send, code)
                locate(reads, learner.keys, learner.values, learner.counts, graph, code, next_cell)
                if t > 0:
                    improve(learner, graph, steps, chosen_on, chosen, cell, delivered, next_cell, everybody, old)
                for i in range(n):
                    chosen_on[i], chosen[i], cell[i] = queue[i], send[i], next_cell[i]
            for i in range(n):
                came[i] = world.random()
            for i in range(n):
                luck[i] = world.random()
            play(queue, send, access_point, success, arrival, deadline, came, luck, heard, delivered)
            for i in range(n):
                total += delivered[i]
        curve[b] = total / (n * max(last - first, 1))


class Method(NamedTuple):
    """How users learn, for how long; the options of ScalableAc."""

    kappa: int
    slots: int
    contention: bool = False
    critic_step: float | None = None
    actor_step: float | None = None
    baseline: float | None = None
    schedule: str = "worked"

    @property
    def reads(self) -> int:
        """What the critics read."""
        return CONTENTION if self.contention else BALL if self.kappa else OWN

    def steps(self, n_users: int) -> Steps:
        """Of the critic and the actor."""
        return steps_of(
            self.kappa,
            self.reads,
            n_users,
            self.schedule,
            self.critic_step,
            self.actor_step,
            baseline=self.baseline,
        )


class Trained(NamedTuple):
    """A run of training: the learner, its mean reward per user and slot over time, and with its last policy judged."""

    learner: Learner
    curve: np.ndarray
    level: float


def flown(instance: Instance, learner: Learner, graph: Graph, reads: int, steps: Steps, learning: bool, slots: int,
          seeds: tuple[object, object], n_blocks: int = 1) -> np.ndarray:
    """Mean rewards of n_blocks blocks of slots; seeds of the world's generator and of the users'."""
    curve = np.zeros(n_blocks)
    world, own = (np.random.default_rng(seed) for seed in seeds)
    heard = np.zeros(instance.n_access_points, np.int64)
    fly(slots, reads, learning, learner, graph, steps, instance.access_point, instance.success, instance.arrival,
        heard, DEADLINE_SLOTS, world, own, curve)  # fmt: skip
    return curve


def judged(instance: Instance, policy: np.ndarray, seed: int, slots: int = JUDGED_SLOTS) -> float:
    """Mean reward per user and slot of a policy that stays, in slots nobody has trained on."""
    graph = graph_of(instance.access_point, DEADLINE_SLOTS, 0)
    learner = fresh(graph, DEADLINE_SLOTS, OWN)._replace(policy=policy)
    return float(flown(instance, learner, graph, OWN, Steps(0.0, 0.0), False, slots, ([seed, 3], [seed, 4]))[0])


def train(instance: Instance, method: Method, seed: int, n_blocks: int = 50, most_cells: int = 1 << 22) -> Trained:
    """Train on an instance from nothing, and judge the policy that came out."""
    graph = graph_of(instance.access_point, DEADLINE_SLOTS, method.kappa)
    learner = fresh(graph, DEADLINE_SLOTS, method.reads, most_cells)
    steps = method.steps(len(instance.arrival))
    curve = flown(instance, learner, graph, method.reads, steps, True, method.slots, ([seed, 1], [seed, 2]), n_blocks)
    return Trained(learner, curve, judged(instance, learner.policy, seed))


# ---- Q5: the critic alone, on networked agents small enough to be solved exactly


@njit(cache=True, nogil=True)
def follow_chain(slots, of_pair, n_codes, reward, learner, graph, steps, draws):
    """Kernel: the critic over a chain of global state-actions z; actions are in z, so the chain is that of one policy.

    of_pair  (n_z, n_z)  cumulated probabilities of the next z;  n_codes  local state-actions of an agent
    reward   (n, n_codes);  draws  a generator
    """
    n = graph.salt.shape[0]
    code, cell, next_cell = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    old, earned, nobody, silent = np.zeros(n), np.zeros(n), np.zeros(n, np.bool_), np.zeros(n, np.int64)
    z = 0
    for t in range(slots):
        rest = z
        for i in range(n):
            code[n - 1 - i] = rest % n_codes
            rest //= n_codes
        locate(BALL, learner.keys, learner.values, learner.counts, graph, code, next_cell)
        if t > 0:
            improve(learner, graph, steps, silent, silent, cell, earned, next_cell, nobody, old)
        for i in range(n):
            earned[i], cell[i] = reward[i, code[i]], next_cell[i]
        z = min(np.searchsorted(of_pair[z], draws.random(), side="right"), of_pair.shape[0] - 1)


def critic_error(seed: int, slots: int = 2_000_000) -> float:
    """Q5: error of the critic's Q with kappa = n - 1 after so many slots, over its range; the worst of 4 agents.

    A line of 4 agents with 2 states and 3 actions, kernels, rewards and policy uniform random and normalised, all 1,296
    state-actions solved exactly: Q = r_i - J_i + P Q. The error is weighted by the stationary probabilities, least over
    the constant that Q is free of.
    """
    rng = np.random.default_rng(seed)
    n, n_codes = 4, 6
    zeta = rng.random((n, 2, 3))
    zeta /= zeta.sum(axis=2, keepdims=True)
    reward = rng.random((n, n_codes))
    kernels = [rng.random((*[2] * (1 + (i > 0) + (i < n - 1)), 3)) for i in range(n)]  # of state 1, normalised below
    kernels = [k / (k + rng.random(k.shape)) for k in kernels]
    codes = np.stack(np.unravel_index(np.arange(n_codes**n), (n_codes,) * n), axis=1)
    state, action = codes // 3, codes % 3
    chance = np.ones((n_codes**n, n_codes**n))
    for i in range(n):
        near = [state[:, j] for j in range(max(i - 1, 0), min(i + 2, n))]
        up = kernels[i][(*near, action[:, i])]
        to = np.where(state[:, i], up[:, None], 1.0 - up[:, None])  # [from z, to z]
        chance *= to * zeta[i][state[:, i], action[:, i]]
    stationary = np.linalg.solve(
        np.vstack([(chance.T - np.eye(len(chance)))[:-1], np.ones(len(chance))]), np.eye(len(chance))[-1]
    )
    graph = graph_of(np.zeros((n, 1), np.int64), 1, 1)  # everybody shares one access point: the ball is the network
    words = mixed(np.arange(n * n_codes, dtype=np.uint64).reshape(n, n_codes))
    empty = graph.salt ^ np.bitwise_xor.reduce(words[:, 0])
    graph = graph._replace(words=words, empty=empty)
    learner = fresh(graph, 1, BALL, 1 << 15)._replace(keys=np.zeros(1 << 15, np.uint64), values=np.zeros((1 << 15) + 1))
    follow_chain(slots, chance.cumsum(axis=1), n_codes, reward, learner, graph, CRITIC_ALONE, np.random.default_rng(seed))
    errors = []
    for i in range(n):
        of_i = reward[i, codes[:, i]]
        exact = np.linalg.solve(np.eye(len(chance)) - chance + stationary, of_i - stationary @ of_i)
        cell, learned = np.zeros(n, np.int64), np.zeros(len(chance))
        for z, code in enumerate(codes):
            locate(BALL, learner.keys, learner.values, learner.counts, graph, code, cell)
            learned[z] = learner.values[cell[i]]
        off = learned - exact
        off -= stationary @ off
        errors.append(float(np.sqrt(stationary @ off**2) / np.ptp(exact)))
    return max(errors)
