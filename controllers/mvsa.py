"""Robust values learned from single samples: mean-variance stochastic approximation, its limit law, its controller.

Reads as arXiv 2605.08417, sections 4 and 5. A mean is estimated without bias from one sample, a standard deviation is
not. So mean and mean square of the value that comes next are tracked by a fast recursion, and the values move slowly
after what these say. `Runs` makes many runs at once in a kernel, `limit_law` says how far off the learned values are,
`Mvsa` learns for the seat of the world `finite`.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from controllers.kl_robust import checked_tables
from twin.errors import ControllerError
from twin.parallel import spread
from twin.simd import wide_vectors
from twin.types import Action, Agent, Observation

EPSILON = 1e-3  # keeps the standard deviation off zero; the specification's value
LEAST_STEP = 1e-6  # of a0 and b0
LANES = 32  # runs beside each other: four of the longest vectors; with 16 the compiler leaves the choice to scalars
FEW = LANES // 3  # so many runs, or fewer, are made one by one: a block of LANES costs as much as some 13 do
CHOICES = 4  # next states beyond the first, chosen among in one pass
RESOLUTION = 2**32  # 32 bits choose a next state: its probability is off by 2^-33, while 1e6 samples err by 5e-4


# ---- many runs of Algorithm 1


@dataclass(frozen=True)
class Steps:
    """How far the iterates move at step n = 1, 2, ...; Assumption 2 in its general form, clipped to 1.

    slow, of Q          a_n = min(1, a0 / (n + n0))
    fast, of m and s    b_n = min(1, b0 / (n + n0)^b), 1/2 < b < 1

    The limit law wants a0 > 1 / (2 L), L = `LimitLaw.decay` at most 1 - gamma. The start is forgotten as n^(-a0 L):
    take a0 L >= 2. The law holds once a_n / b_n is small: a large b0 brings that sooner, at the price of a noisier m.
    """

    a0: float = 6.0
    n0: float = 100.0
    b0: float = 2.0
    b: float = 0.7

    def __post_init__(self):
        if not (self.a0 > 0.0 and self.n0 >= 0.0 and self.b0 > 0.0 and 0.5 < self.b < 1.0):
            raise ValueError(f"steps must have a0 > 0, n0 >= 0, b0 > 0 and b between 1/2 and 1, got {self}")

    def slow(self, n: float) -> float:
        """a_n."""
        return min(1.0, self.a0 / (n + self.n0))

    def fast(self, n: float) -> float:
        """b_n."""
        return min(1.0, self.b0 / (n + self.n0) ** self.b)


class Sampler(NamedTuple):
    """The next states of each pair of state and action: the last one whose threshold 32 random bits reach.

    next_state  (n_pairs, 1 + n_thresholds)  uint32
    threshold   (n_pairs, n_thresholds)      uint64; of the second next state and those after it, 2^32: never
    """

    next_state: np.ndarray
    threshold: np.ndarray


def sampler(transition: np.ndarray) -> Sampler:
    """What draws from laws (nS, nA, nS). A next state without probability is never drawn."""
    laws = transition.reshape(-1, transition.shape[-1])
    n_most = int((laws > 0.0).sum(axis=1).max())
    n_thresholds = CHOICES * max(1, math.ceil((n_most - 1) / CHOICES))
    next_state = np.zeros((len(laws), 1 + n_thresholds), np.uint32)
    threshold = np.full((len(laws), n_thresholds), RESOLUTION, np.uint64)
    for pair, law in enumerate(laws):
        support = np.flatnonzero(law)
        next_state[pair, : support.size] = support
        reached = np.cumsum(law[support])[:-1] / law.sum()
        threshold[pair, : support.size - 1] = np.rint(reached * RESOLUTION)
    return Sampler(next_state, threshold)


@njit(cache=True, nogil=True)
def next_word(one, two):
    """64 random bits and the generator's next state: xoroshiro128++ of Blackman and Vigna (2021), all uint64."""
    total = one + two
    word = ((total << np.uint64(17)) | (total >> np.uint64(47))) + one
    two ^= one
    one = ((one << np.uint64(49)) | (one >> np.uint64(15))) ^ two ^ (two << np.uint64(21))
    return word, one, (two << np.uint64(28)) | (two >> np.uint64(36))


@njit(cache=True, nogil=True)
def chosen(bits, v, v1, v2, v3, v4, t1, t2, t3, t4):
    """Of v and four others the last whose threshold the bits reach; without a branch, for vectors."""
    v = v1 if bits >= t1 else v
    v = v2 if bits >= t2 else v
    v = v3 if bits >= t3 else v
    return v4 if bits >= t4 else v


@njit(cache=True, nogil=True)
def advance(
    iterates, generators, reward, next_state, threshold, n_actions, gamma, kappa, epsilon, a0, n0, b0, b, first, last
):
    """Kernel: steps first to last - 1 of Algorithm 1, in place, for blocks of LANES runs each.

    iterates    (n_blocks, n_pairs * 3 * LANES)  of each pair Q, m and s, each of LANES runs
    generators  (n_blocks, 2, LANES)             uint64, of each run
    reward      (n_pairs,)                       pairs count actions fastest

    One word of a generator draws for two pairs: its upper half for the even one. Every loop over lanes is one that the
    compiler turns into vectors: what it writes lies in one array, what it reads in few (it checks that these do not
    overlap, and gives up at nine). Checked by tests/papers/test_mvsa.py against NumPy, to the bit.
    """
    wide_vectors()
    n_pairs, n_thresholds = threshold.shape
    n_states = n_pairs // n_actions
    value, bits = np.empty((n_states + 1, LANES)), np.empty((2, LANES), np.uint64)
    spare = np.uint32(n_states)  # row of value where a choice among many next states stands meanwhile
    floor = epsilon * epsilon
    for block in range(iterates.shape[0]):
        iterate, generator = iterates[block], generators[block]
        for n in range(first, last):
            slow, fast = min(1.0, a0 / (n + n0)), min(1.0, b0 / (n + n0) ** b)
            for state in range(n_states):  # V(x) = max_a Q(x, a)
                best = value[state]
                for action in range(n_actions):
                    at = 3 * LANES * (n_actions * state + action)
                    q = iterate[at : at + LANES]
                    for i in range(LANES):
                        best[i] = q[i] if action == 0 else max(best[i], q[i])
            for pair in range(n_pairs):
                if pair % 2 == 0:
                    for i in range(LANES):
                        word, generator[0, i], generator[1, i] = next_word(generator[0, i], generator[1, i])
                        bits[0, i], bits[1, i] = word >> np.uint64(32), word & np.uint64(0xFFFFFFFF)
                drawn, x = bits[pair % 2], next_state[pair, 0]
                for k in range(0, n_thresholds - CHOICES, CHOICES):
                    x1, x2, x3, x4 = next_four(next_state, pair, k + 1)
                    t1, t2, t3, t4 = next_four(threshold, pair, k)
                    for i in range(LANES):
                        v, v1, v2, v3, v4 = value[x, i], value[x1, i], value[x2, i], value[x3, i], value[x4, i]
                        value[spare, i] = chosen(drawn[i], v, v1, v2, v3, v4, t1, t2, t3, t4)
                    x = spare
                x1, x2, x3, x4 = next_four(next_state, pair, n_thresholds - CHOICES + 1)
                t1, t2, t3, t4 = next_four(threshold, pair, n_thresholds - CHOICES)
                of_pair, earned = iterate[3 * LANES * pair : 3 * LANES * (pair + 1)], reward[pair]
                for i in range(LANES):
                    v, v1, v2, v3, v4 = value[x, i], value[x1, i], value[x2, i], value[x3, i], value[x4, i]
                    v = chosen(drawn[i], v, v1, v2, v3, v4, t1, t2, t3, t4)  # (4.2): V(S'), with the old Q
                    q, m, s = of_pair[i], of_pair[LANES + i], of_pair[2 * LANES + i]
                    sigma = np.sqrt(max(s - m * m, 0.0) + floor)  # below 0 by rounding alone
                    of_pair[i] = q + slow * (earned + gamma * (m - kappa * sigma) - q)  # (4.1)
                    of_pair[LANES + i] = m + fast * (v - m)  # (4.3)
                    of_pair[2 * LANES + i] = s + fast * (v * v - s)


@njit(cache=True, nogil=True)
def next_four(table, row, at):
    """Four entries of a table's row."""
    return table[row, at], table[row, at + 1], table[row, at + 2], table[row, at + 3]


@njit(cache=True, nogil=True)
def advance_singly(
    iterates, generators, reward, next_state, threshold, n_actions, gamma, kappa, epsilon, a0, n0, b0, b, first, last
):
    """Kernel: what `advance` does, for one run after the other: its vectors go over the pairs of a run.

    iterates    (n_runs, 3, n_pairs)               Q, m and s of each pair
    generators  (n_runs, 2)                        uint64
    next_state  ((1 + n_thresholds) * n_pairs,)    uint64; pairs fastest
    threshold   (n_thresholds, n_pairs)            uint64

    Gives to the bit what `advance` gives.
    """
    wide_vectors()
    n_thresholds, n_pairs = threshold.shape
    value, v = np.empty(n_pairs // n_actions), np.empty(n_pairs)
    bits, at = np.empty(n_pairs + 1, np.uint64), np.empty(n_pairs, np.uint64)
    row, none, floor = np.uint64(n_pairs), np.uint64(0), epsilon * epsilon
    for run in range(iterates.shape[0]):
        q, m, s = iterates[run, 0], iterates[run, 1], iterates[run, 2]
        one, two = generators[run, 0], generators[run, 1]
        for n in range(first, last):
            slow, fast = min(1.0, a0 / (n + n0)), min(1.0, b0 / (n + n0) ** b)
            for state in range(value.size):  # V(x) = max_a Q(x, a)
                best = q[n_actions * state]
                for action in range(1, n_actions):
                    best = max(best, q[n_actions * state + action])
                value[state] = best
            for pair in range(0, n_pairs, 2):
                word, one, two = next_word(one, two)
                bits[pair], bits[pair + 1] = word >> np.uint64(32), word & np.uint64(0xFFFFFFFF)
            for pair in range(n_pairs):
                at[pair] = pair
            for k in range(n_thresholds):
                reached = threshold[k]
                for pair in range(n_pairs):
                    at[pair] += row if bits[pair] >= reached[pair] else none
            for pair in range(n_pairs):
                v[pair] = value[next_state[at[pair]]]  # (4.2): V(S'), with the old Q
            for pair in range(n_pairs):
                sigma = np.sqrt(max(s[pair] - m[pair] * m[pair], 0.0) + floor)
                q[pair] += slow * (reward[pair] + gamma * (m[pair] - kappa * sigma) - q[pair])  # (4.1)
                m[pair] += fast * (v[pair] - m[pair])  # (4.3)
                s[pair] += fast * (v[pair] * v[pair] - s[pair])
        generators[run, 0], generators[run, 1] = one, two


@njit(cache=True, nogil=True)
def count(one, two, threshold, n_steps, counts):
    """Kernel: how often a run's generator chooses each next state in its first n_steps; counts as `Sampler`'s."""
    n_pairs, n_thresholds = threshold.shape
    word = np.uint64(0)
    for _ in range(n_steps):
        for pair in range(n_pairs):
            if pair % 2 == 0:
                word, one, two = next_word(one, two)
            bits = word >> np.uint64(32) if pair % 2 == 0 else word & np.uint64(0xFFFFFFFF)
            choice = 0
            for k in range(n_thresholds):
                choice += bits >= threshold[pair, k]
            counts[pair, choice] += 1


class Runs:
    """Independent runs of Algorithm 1 on the same tables, from Q = 0, m = 0, s = 1. Run k draws from [seed, k].

    transition  (nS, nA, nS)  what is sampled from
    reward      (nS, nA)      expected
    gamma       ()            discount, below 1
    radius      ()            KL radius; kappa = sqrt(2 radius)

    n        steps made
    q, m, s  (n_runs, nS, nA) each: values, and mean and mean square of the value that comes next

    What a run gives depends on the tables, the steps, the seed and its number: not on threads, nor on other runs.
    Raises ValueError for tables that are none and numbers out of range.
    """

    def __init__(
        self,
        transition: np.ndarray,
        reward: np.ndarray,
        gamma: float,
        radius: float,
        *,
        steps: Steps = Steps(),
        epsilon: float = EPSILON,
        n_runs: int = 1,
        seed: int = 0,
    ):
        transition, reward = checked_tables(transition, reward, gamma, radius, epsilon)
        if n_runs < 1 or math.isinf(radius):
            raise ValueError(f"need at least 1 run and a finite radius, got {n_runs} and {radius}")
        self.shape, self.n_runs, self.seed, self.n = reward.shape, n_runs, seed, 0
        self.transition, self.reward = transition, np.ascontiguousarray(reward).ravel()
        self.gamma, self.kappa, self.epsilon, self.steps = gamma, math.sqrt(2.0 * radius), epsilon, steps
        self._sampler = sampler(transition)
        self.iterates: np.ndarray
        self.lanes = 1 if n_runs <= FEW else LANES
        n_blocks = math.ceil(n_runs / self.lanes)
        self.generators = np.array([_generator(seed, run) for run in range(n_blocks * self.lanes)])
        if self.lanes == 1:
            self.iterates = np.zeros((n_runs, 3, reward.size))
            self.iterates[:, 2] = 1.0
            self._turned = self._sampler.next_state.T.ravel().astype(np.uint64), self._sampler.threshold.T.copy()
        else:
            self.iterates = np.zeros((n_blocks, reward.size, 3, LANES))
            self.iterates[:, :, 2] = 1.0
            self.iterates = self.iterates.reshape(n_blocks, -1)
            self.generators = self.generators.reshape(n_blocks, LANES, 2).transpose(0, 2, 1).copy()

    def advance(self, n: int, threads: int | None = None) -> None:
        """Make steps until there are n, in several threads."""
        kernel: Callable[..., None] = advance_singly if self.lanes == 1 else advance
        drawing = self._turned if self.lanes == 1 else self._sampler

        def work(first: int, last: int) -> None:
            kernel(
                self.iterates[first:last], self.generators[first:last], self.reward, *drawing,
                self.shape[1], float(self.gamma), self.kappa, float(self.epsilon), float(self.steps.a0),
                float(self.steps.n0), float(self.steps.b0), float(self.steps.b), self.n + 1, n + 1,
            )  # fmt: skip

        spread(work, len(self.iterates), threads, step=1)
        self.n = max(self.n, n)

    @property
    def q(self) -> np.ndarray:
        return self._of(0)

    @property
    def m(self) -> np.ndarray:
        return self._of(1)

    @property
    def s(self) -> np.ndarray:
        return self._of(2)

    def _of(self, which: int) -> np.ndarray:
        if self.lanes == 1:
            return self.iterates[:, which].reshape(-1, *self.shape).copy()
        of_pairs = self.iterates.reshape(-1, self.reward.size, 3, LANES)[:, :, which]
        return of_pairs.transpose(0, 2, 1).reshape(-1, *self.shape)[: self.n_runs].copy()

    def sampled(self, run: int) -> np.ndarray:
        """The laws (nS, nA, nS) as a run has seen them: how often each next state came in its n samples of each pair.

        The kernel keeps no count; the samples are drawn again.
        """
        if not self.n:
            raise ValueError("a run that has made no step has no samples: advance it first")
        next_state, threshold = self._sampler
        counts = np.zeros(next_state.shape, np.int64)
        one, two = _generator(self.seed, run)
        count(one, two, threshold, self.n, counts)
        laws = np.zeros((self.reward.size, self.shape[0]))
        np.add.at(laws, (np.arange(self.reward.size)[:, None], next_state), counts / self.n)
        return laws.reshape(self.transition.shape)

    def copy(self) -> "Runs":
        """The same runs, to be led on apart from these."""
        other = copy.copy(self)
        other.iterates, other.generators = self.iterates.copy(), self.generators.copy()
        return other


def _generator(seed: int, run: int) -> np.ndarray:
    return np.random.SeedSequence([seed, run]).generate_state(2, np.uint64)


# ---- limit law, Theorem 3 (ii)


@dataclass(frozen=True, eq=False)
class LimitLaw:
    """How the iterates are distributed about their limits after many steps; n_pairs = nS nA, actions fastest.

    jacobian    (n_pairs, n_pairs)  of the stabilised operator at its fixed point; Delta = jacobian - I
    noise       (n_pairs,)          diagonal of Gamma, (5.6): variance of one sample's influence on the operator
    fast        (nS, nA, 2, 2)      G: b_n^(-1/2) (m_n - m, s_n - s) tends to N(0, G / 2), pairs independent
    decay       ()                  L = -(largest real part of the eigenvalues of Delta)
    covariance  (n_pairs, n_pairs)  Sigma, (5.5): a_n^(-1/2) (Q_n - Q) tends to N(0, Sigma)
    """

    jacobian: np.ndarray
    noise: np.ndarray
    fast: np.ndarray
    decay: float
    covariance: np.ndarray

    def standard_error(self, a_n: float) -> np.ndarray:
        """Of each learned value (n_pairs,), with the slow step a_n at which the run has arrived."""
        return np.sqrt(a_n * np.diag(self.covariance))


def limit_law(
    transition: np.ndarray, q: np.ndarray, gamma: float, radius: float, a0: float, epsilon: float = EPSILON
) -> LimitLaw:
    """The limit law of MVSA where its values are q: the fixed point for theory, learned values for an estimate.

    transition  (nS, nA, nS)  probability of the next state; or what a run has sampled, see Runs.sampled
    q           (nS, nA)      with one best action in each state
    a0          ()            of the slow steps

    Raises ValueError where a0 is too small for a limit law, and where epsilon does not keep a deviation off zero.
    Needs scipy. Checked by test_mvsa.py::test_m5_...
    """
    from scipy.linalg import solve_continuous_lyapunov

    (n_states, n_actions), kappa = q.shape, math.sqrt(2.0 * radius)
    best, value = q.argmax(axis=1), q.max(axis=1)
    off = value - transition @ value[:, None]  # (nS, nA, nS): v(s') - m
    variance = (transition * off**2).sum(axis=-1)
    sigma = np.sqrt(variance + epsilon**2)[..., None]
    certain = (transition > 0.0).sum(axis=-1, keepdims=True) == 1
    sigma = np.where(certain, 1.0, sigma)  # one next state: off is 0, and so is its quotient
    if (sigma <= 1e-12 * np.abs(value).max()).any():
        raise ValueError("a pair has equal values ahead and so no deviation to differentiate: take a larger epsilon")

    pull = gamma * transition * (1.0 - kappa * off / sigma)  # of v(s') on the operator, (5.4)
    jacobian = np.zeros((q.size, q.size))
    jacobian[:, n_actions * np.arange(n_states) + best] = pull.reshape(q.size, n_states)
    influence = gamma * (off - kappa * (off**2 - variance[..., None]) / (2.0 * sigma))
    noise = (transition * influence**2).sum(axis=-1).ravel()

    moments = np.stack(np.broadcast_arrays(off, value**2 - transition @ value[:, None] ** 2), axis=-1)
    fast = np.einsum("sat,sati,satj->saij", transition, moments, moments)

    delta = jacobian - np.eye(q.size)
    decay = -float(np.linalg.eigvals(delta).real.max())
    if 2.0 * a0 * decay <= 1.0:
        raise ValueError(f"a0 must be above {0.5 / decay:.3g} for a limit law, got {a0}")
    covariance = solve_continuous_lyapunov(delta + np.eye(q.size) / (2.0 * a0), -np.diag(noise))
    return LimitLaw(jacobian, noise, fast, decay, (covariance + covariance.T) / 2.0)


def interval(
    runs: Runs, run: int, radius: float, z: float = 1.96, q: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest plausible value of each pair, (nS, nA) each, from what one run has learned and sampled.

    run  its number
    z    quantile of the normal law; 1.96: 95 %
    q    (nS, nA)  its values, where the caller has them at hand

    The limit law with the run's own values for the fixed point and its own frequencies for the laws. (Its m and s
    estimate the moments too, though from the last 1 / b_n samples alone, and say nothing of the Jacobian.)
    """
    q = runs.q[run] if q is None else q
    law = limit_law(runs.sampled(run), q, runs.gamma, radius, runs.steps.a0, runs.epsilon)
    half = z * law.standard_error(runs.steps.slow(runs.n)).reshape(q.shape)
    return q - half, q + half


# ---- controller


class Mvsa:
    """Learns robust values of the seat `agent` of the world `finite`, from samples of the laws it is told.

    agent             the seat's contract; its facts hold the tables, gamma and the ambiguity radius

    ambiguity_radius  KL radius to be robust against, nats; not set: the one the seat is told; 0: nominal values
    a0                slow step a0 / (n + n0); not set: 2.4 / (1 - gamma), which forgets the start as n^-2.4
    n0                both steps count from here
    b0                fast step b0 / (n + n0)^b
    b                 its exponent, between 1/2 and 1
    epsilon           keeps the standard deviation off zero
    steps_per_job     samples of every state and action in one job
    most_steps        learning ends there

    Acts by the action of most value; until the first job is done by the seat's default action.
    Raises ControllerError for a seat without the tables or options out of range.
    """

    def __init__(
        self,
        agent: Agent,
        seed: int,
        *,
        ambiguity_radius: float | None = None,
        a0: float | None = None,
        n0: float = 100.0,
        b0: float = 2.0,
        b: float = 0.7,
        epsilon: float = EPSILON,
        steps_per_job: int = 10_000,
        most_steps: int = 1_000_000,
    ):
        facts = agent.facts
        needs = ("transition", "reward_table", "gamma", "ambiguity_radius", "default_action")
        lacking = [name for name in needs if name not in facts]
        if lacking:
            raise ControllerError(f"mvsa needs the facts of the world `finite`; seat {agent.name!r} lacks {lacking}")
        gamma = float(facts["gamma"])
        self.radius = float(facts["ambiguity_radius"]) if ambiguity_radius is None else ambiguity_radius
        for name, value, low, high in (
            ("ambiguity_radius", self.radius, 0.0, np.inf),
            ("a0", 2.4 / (1.0 - gamma) if a0 is None else a0, LEAST_STEP, np.inf),
            ("n0", n0, 0.0, np.inf),
            ("b0", b0, LEAST_STEP, np.inf),
            ("b", b, 0.51, 0.99),
            ("epsilon", epsilon, 0.0, np.inf),
            ("steps_per_job", steps_per_job, 1, np.inf),
            ("most_steps", most_steps, 0, np.inf),
        ):
            if not low <= value <= high:
                raise ControllerError(f"mvsa: {name} must be from {low:g} to {high:g}, got {value!r}")
        self.steps_per_job, self.most_steps = steps_per_job, most_steps
        steps = Steps(2.4 / (1.0 - gamma) if a0 is None else a0, n0, b0, b)
        tables = np.array(facts["transition"]), np.array(facts["reward_table"])
        self.run = Runs(*tables, gamma, self.radius, steps=steps, epsilon=epsilon, seed=seed)
        self.run.copy().advance(1, threads=1)  # compiles before a clock starts
        self.order = np.full(len(tables[1]), int(facts["default_action"]))

    def act(self, seen: Observation) -> Action:
        """The best action known for this state."""
        return Action({"action": np.array(self.order[int(seen.values["state"])], dtype=np.int64)})

    def learn(self) -> Callable[[], Runs] | None:
        """A job of so many steps on a copy of the run; None once it has made them all."""
        until = min(self.run.n + self.steps_per_job, self.most_steps)
        if until <= self.run.n:
            return None
        ahead = self.run.copy()

        def job() -> Runs:
            ahead.advance(until, threads=1)
            return ahead

        return job

    def adopt(self, result: Runs) -> None:
        """Act by what a job has learned."""
        self.run, self.order = result, result.q[0].argmax(axis=1)
