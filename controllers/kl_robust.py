"""Robust values of finite decision processes whose transitions may be off: exactly, and to first order.

Of arXiv 2605.08417. For each state and action the true law q of the next state lies in the ball KL(q || p) <= radius
around the nominal p, and nature takes the worst. Three operators on Q (nS, nA), with v(s') = max_a Q(s', a):

    nominal      r + gamma * E_p v
    robust       r + gamma * min over the ball of E_q v                       (2.2)
    approximate  r + gamma * (m - kappa * sqrt(s - m^2 + epsilon^2)),         Definitions 1 and 2
                 m = E_p v, s = E_p v^2, kappa = sqrt(2 * radius)

The worst law tilts the nominal one, q ~ p * exp(-theta * v), as far as the ball reaches, so that the minimum is one
equation in one number, theta = 1 / lambda of the dual. Everything takes arrays: no state is looped over in Python.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit

Operator = Callable[[np.ndarray], np.ndarray]

RESIDUAL = 1e-10  # sup norm of T(Q) - Q where fixed_point stops; the fixed point is within 1 / (1 - gamma) of that
MOST_ITERATIONS = 100_000
MOST_ROUNDS = 1_000  # of policy iteration, the agent's or nature's
MOST_SEARCH = 200  # steps of the search for theta; Newton takes about six


def nominal_operator(q: np.ndarray, transition: np.ndarray, reward: np.ndarray, gamma: float) -> np.ndarray:
    """Bellman's: the next state as the tables say.

    q           (nS, nA)      values of actions
    transition  (nS, nA, nS)  probability of the next state
    reward      (nS, nA)      expected
    gamma       ()            discount, below 1

    Returns (nS, nA).
    """
    return reward + gamma * (transition @ q.max(axis=-1))


def robust_operator(
    q: np.ndarray, transition: np.ndarray, reward: np.ndarray, gamma: float, radius: float
) -> np.ndarray:
    """Exactly robust, (2.2): the worst next-state law within KL divergence `radius`, for each state and action.

    Arguments as nominal_operator's. A contraction by gamma, whatever the radius.
    """
    return reward + gamma * kl_worst_mean(transition, q.max(axis=-1), radius)


def approximate_operator(
    q: np.ndarray, transition: np.ndarray, reward: np.ndarray, gamma: float, radius: float, epsilon: float = 0.0
) -> np.ndarray:
    """Robust to first order in sqrt(radius): the mean less sqrt(2 * radius) standard deviations.

    epsilon  ()  keeps the standard deviation off zero: sqrt(variance + epsilon^2); 0 is the operator of Definition 1

    Arguments as nominal_operator's. A contraction by gamma * (1 + sqrt(2 * radius)) where that is below 1.
    """
    if not (radius >= 0.0 and epsilon >= 0.0):
        raise ValueError(f"need radius >= 0 and epsilon >= 0, got {radius} and {epsilon}")
    mean, deviation = moments(transition, q.max(axis=-1), epsilon)
    return reward + gamma * (mean - math.sqrt(2.0 * radius) * deviation)


def moments(probability: np.ndarray, value: np.ndarray, epsilon: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, sqrt(variance + epsilon^2), of value (n,) under each law (..., n)."""
    shape = np.shape(probability)[:-1]
    p, v = (np.require(x, float, ["C", "W"]) for x in (probability, value))  # one signature: told tables are read-only
    rows = p.reshape(-1, len(v))
    mean, variance = np.empty(len(rows)), np.empty(len(rows))
    moment_rows(rows, v, mean, variance)
    return mean.reshape(shape), np.sqrt(variance + epsilon**2).reshape(shape)


@njit(cache=True, nogil=True)
def moment_rows(probability, value, mean, variance):
    """Kernel of moments: probability (n_rows, n), value (n,); mean and variance (n_rows,) are written.

    The variance about the mean: the paper's s - m^2 would lose that of large values that hardly differ.
    """
    n_rows, n = probability.shape
    for i in range(n_rows):
        m = 0.0
        for j in range(n):
            m += probability[i, j] * value[j]
        square = 0.0
        for j in range(n):
            square += probability[i, j] * (value[j] - m) ** 2
        mean[i], variance[i] = m, square


class Worst(NamedTuple):
    """What nature does: the mean of the value under its law, the law, and how hard it tilts.

    mean   (...)     worst mean
    law    (..., n)  the law that attains it
    theta  (...)     law ~ probability * exp(-theta * value); infinite where only the smallest value is left
    """

    mean: np.ndarray
    law: np.ndarray
    theta: np.ndarray


def kl_worst_mean(probability: np.ndarray, value: np.ndarray, radius: float) -> np.ndarray:
    """The least mean of value over all laws within KL divergence `radius` of each given law.

    probability  (..., n)       laws; what has probability 0 keeps it
    value        (n,) or (..., n)
    radius       ()             nats, >= 0; 0 gives the mean

    Returns (...). Equals sup over lambda > 0 of -lambda log E exp(-value / lambda) - lambda radius; the limit
    lambda -> 0 is the smallest value that can come. Raises ValueError for a negative radius, for what is no law, and
    for values that are not finite.
    Checked by tests/papers/test_kl_robust.py::test_m2_...
    """
    return kl_worst(probability, value, radius).mean


def kl_worst(probability: np.ndarray, value: np.ndarray, radius: float) -> Worst:
    """The least mean and the law that has it; arguments as kl_worst_mean's.

    Where the ball reaches as far as the smallest value alone, the law is the nominal one given that value.
    """
    if not radius >= 0.0:
        raise ValueError(f"radius must be a KL divergence, 0 or more, got {radius!r}")
    shape = np.broadcast_shapes(np.shape(probability), np.shape(value))
    p, v = (np.array(np.broadcast_to(x, shape), dtype=float, order="C") for x in (probability, value))
    if not ((p >= 0.0).all() and (np.abs(p.sum(axis=-1) - 1.0) < 1e-9).all()):
        raise ValueError("probability must hold laws along its last axis: not negative, adding up to 1")
    if not np.isfinite(v[p > 0.0]).all():
        raise ValueError("value must be finite wherever the probability is not 0")
    rows = (math.prod(shape[:-1]), shape[-1])
    theta, mean, law = np.empty(rows[0]), np.empty(rows[0]), np.empty(rows)
    worst_rows(p.reshape(rows), v.reshape(rows), float(radius), theta, mean, law)
    return Worst(mean.reshape(shape[:-1]), law.reshape(shape), theta.reshape(shape[:-1]))


@njit(cache=True, nogil=True)
def worst_rows(probability, value, radius, theta, mean, law):
    """Kernel of kl_worst: probability, value, law (n_rows, n); theta, mean (n_rows,); the last three are written.

    The divergence of the tilted law, k(theta) = -theta E_q v - log E_p exp(-theta v), grows from 0 to -log of the
    probability of the smallest value, with dk / dlog(theta) = theta^2 Var_q v. So: Newton in log(theta) from
    theta = sqrt(2 radius) / sigma, which is exact for a normal value, kept inside a bracket that bisection narrows.
    Values are counted from the smallest in units of their range, so that squares neither overflow nor vanish.
    """
    n_rows, n = probability.shape
    for i in range(n_rows):
        low, high, m = math.inf, -math.inf, 0.0
        for j in range(n):
            if probability[i, j] > 0.0:
                low, high = min(low, value[i, j]), max(high, value[i, j])
                m += probability[i, j] * value[i, j]
        variance, at_low, span = 0.0, 0.0, high - low
        for j in range(n):
            law[i, j] = probability[i, j]
            if probability[i, j] > 0.0 and span > 0.0:
                variance += probability[i, j] * ((value[i, j] - m) / span) ** 2
                if value[i, j] == low:
                    at_low += probability[i, j]
        theta[i], mean[i] = 0.0, min(max(m, low), high)
        if radius == 0.0 or variance == 0.0:
            continue
        if radius >= -math.log(at_low):
            theta[i], mean[i] = math.inf, low
            for j in range(n):
                law[i, j] = probability[i, j] / at_low if value[i, j] == low else 0.0
            continue
        below, above = -math.inf, math.inf  # of log(theta)
        at = 0.5 * math.log(2.0 * radius / variance)
        for _ in range(MOST_SEARCH):
            t = math.exp(at)
            z = tilted_mean = square = 0.0
            for j in range(n):
                if probability[i, j] > 0.0:
                    above_low = (value[i, j] - low) / span
                    weight = probability[i, j] * math.exp(-t * above_low)
                    z += weight
                    tilted_mean += weight * above_low
                    square += weight * above_low**2
            tilted_mean /= z
            slope = t * t * max(square / z - tilted_mean**2, 0.0)
            excess = -t * tilted_mean - math.log(z) - radius
            if excess < 0.0:
                below = at
            else:
                above = at
            step = -excess / slope if slope > 0.0 else math.copysign(2.0, -excess)
            to = at + min(max(step, -2.0), 2.0)
            if not (below < to < above) and below > -math.inf and above < math.inf:
                to = 0.5 * (below + above)
            if abs(to - at) <= 1e-15 * max(1.0, abs(at)):
                break
            at = to
        t = math.exp(at)
        theta[i] = t / span
        z = tilted_mean = 0.0
        for j in range(n):
            law[i, j] = 0.0
            if probability[i, j] > 0.0:
                above_low = (value[i, j] - low) / span
                law[i, j] = probability[i, j] * math.exp(-t * above_low)
                z += law[i, j]
                tilted_mean += law[i, j] * above_low
        mean[i] = low + span * (tilted_mean / z)
        for j in range(n):
            law[i, j] /= z


def fixed_point(operator: Operator, q: np.ndarray, residual: float = RESIDUAL) -> np.ndarray:
    """Q with |operator(Q) - Q| at most `residual` everywhere, by applying the operator again and again.

    q         (nS, nA)  where to begin
    residual  ()        of values beyond 1e4 at most 1e-14 of the largest can be had, and is what is taken

    Raises ValueError where 100,000 rounds do not get there: the operator does not contract.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(MOST_ITERATIONS):
            after = operator(q)
            if np.abs(after - q).max() <= within(q, residual):
                return after
            q = after
            if not np.isfinite(q).all():
                break
    raise ValueError("the operator has no fixed point that its iteration reaches: take a smaller radius or gamma")


def within(q: np.ndarray, tolerance: float) -> float:
    """The tolerance, or what rounding leaves of values as large as these."""
    return max(tolerance, 1e-14 * float(np.abs(q).max()))


def solve(
    transition: np.ndarray, reward: np.ndarray, gamma: float, radius: float = 0.0, *, epsilon: float | None = None
) -> np.ndarray:
    """The fixed point of an operator: nominal for radius 0, exactly robust for others, approximate with an epsilon.

    epsilon  ()  None: exact; a number: approximate_operator with it

    Returns Q (nS, nA), residual at most 1e-10. Raises ValueError for what checked_tables refuses, and where the
    approximate operator does not contract.
    """
    transition, reward = checked_tables(transition, reward, gamma, radius, 0.0 if epsilon is None else epsilon)
    if epsilon is not None:
        nothing = np.zeros_like(reward, dtype=float)
        return fixed_point(lambda q: approximate_operator(q, transition, reward, gamma, radius, epsilon), nothing)
    every, policy = np.arange(len(reward)), greedy(reward)
    for _ in range(MOST_ROUNDS):  # policy iteration takes a handful; fixed_point then judges what it left
        value = robust_policy_value(transition, reward, gamma, policy, radius)
        q = robust_operator(value[:, None], transition, reward, gamma, radius)
        better = q.max(axis=1) - q[every, policy] > within(q, RESIDUAL)
        if not better.any():
            break
        policy = np.where(better, greedy(q), policy)
    return fixed_point(lambda q: robust_operator(q, transition, reward, gamma, radius), q)


def checked_tables(
    transition: np.ndarray, reward: np.ndarray, gamma: float, radius: float, epsilon: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Transition (nS, nA, nS) and reward (nS, nA) as float64. Raises ValueError for what is no such problem."""
    laws, earned = np.asarray(transition, dtype=float), np.asarray(reward, dtype=float)
    if earned.ndim != 2 or not earned.size or laws.shape != (*earned.shape, len(earned)):
        raise ValueError(
            f"need reward (nS, nA) and transition (nS, nA, nS), each at least 1; got {earned.shape} and {laws.shape}"
        )
    if not ((laws >= 0.0).all() and (np.abs(laws.sum(axis=-1) - 1.0) < 1e-9).all()):
        raise ValueError("transition must hold laws along its last axis: not negative, adding up to 1")
    if not np.isfinite(earned).all():
        raise ValueError("reward must be finite")
    if not (0.0 <= gamma < 1.0 and radius >= 0.0 and 0.0 <= epsilon < np.inf):
        raise ValueError(f"need 0 <= gamma < 1, radius >= 0, epsilon >= 0; got {gamma}, {radius}, {epsilon}")
    return laws, earned


def robust_policy_value(
    transition: np.ndarray, reward: np.ndarray, gamma: float, policy: np.ndarray, radius: float
) -> np.ndarray:
    """Discounted value (nS,) of a policy, actions (nS,), under the worst laws of the ball, one for each state.

    Nature improves its laws as policy iteration improves actions: the worst ones for the value, the value under those.
    """
    chain, earned = policy_tables(transition, reward, policy)
    value = np.linalg.solve(np.eye(len(chain)) - gamma * chain, earned)
    for _ in range(MOST_ROUNDS):
        law = kl_worst(chain, value, radius).law
        after = np.linalg.solve(np.eye(len(chain)) - gamma * law, earned)
        if np.abs(after - value).max() <= within(after, 1e-12):
            break
        value = after
    return after


def worst_kernel(
    transition: np.ndarray, reward: np.ndarray, gamma: float, policy: np.ndarray, radius: float
) -> np.ndarray:
    """The transitions (nS, nA, nS) within the ball that are worst for a policy, actions (nS,), in the long run."""
    return kl_worst(transition, robust_policy_value(transition, reward, gamma, policy, radius), radius).law


def contraction_factor(gamma: float, radius: float) -> float:
    """alpha = gamma (1 + sqrt(2 radius)) of Theorem 1; Assumption 1 wants it below 1."""
    return gamma * (1.0 + math.sqrt(2.0 * radius))


def value_bound(reward: np.ndarray, gamma: float, radius: float, epsilon: float = 0.0) -> float:
    """What no fixed point of the approximate operator exceeds: (max |r| + gamma kappa epsilon) / (1 - alpha).

    Infinite where alpha is 1 or more.
    """
    alpha = contraction_factor(gamma, radius)
    if alpha >= 1.0:
        return math.inf
    return float((np.abs(reward).max() + gamma * math.sqrt(2.0 * radius) * epsilon) / (1.0 - alpha))


def first_order_bounds(probability: np.ndarray, value: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Between what the exact worst mean less its first-order expansion m - kappa sigma lies, for each law.

    With M the largest |value - m| that can come: -radius M / 3 (Bernstein's inequality in Donsker-Varadhan's
    formula) and radius M (the law p (1 - t (v - m)), t chosen to stay within the ball).
    """
    mean = probability @ value
    spread = np.where(probability > 0.0, np.abs(value - mean[..., None]), 0.0).max(axis=-1)
    return -radius * spread / 3.0, radius * spread


def approximation_bound(q: np.ndarray, transition: np.ndarray, gamma: float, radius: float) -> float:
    """Theorem 2: how far the approximate fixed point q (epsilon 0) may lie from the exact one, in the sup norm.

    gamma radius M / (1 - gamma), M the largest distance of v = max_a q from its mean, over all states and actions.
    """
    return float(gamma * first_order_bounds(transition, q.max(axis=-1), radius)[1].max() / (1.0 - gamma))


def stabilisation_bound(gamma: float, radius: float, epsilon: float) -> float:
    """How far epsilon may move the approximate fixed point: gamma kappa epsilon / (1 - alpha); needs alpha < 1."""
    alpha = contraction_factor(gamma, radius)
    return gamma * math.sqrt(2.0 * radius) * epsilon / (1.0 - alpha) if alpha < 1.0 else math.inf


def greedy(q: np.ndarray) -> np.ndarray:
    """The best action of each state, (nS,) int64; of equal ones the smallest."""
    return np.argmax(q, axis=-1)


def policy_tables(transition: np.ndarray, reward: np.ndarray, policy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The chain (nS, nS) and its reward (nS,) under a policy: actions (nS,), or probabilities of actions (nS, nA)."""
    policy = np.asarray(policy)
    if policy.ndim == 1:
        every = np.arange(len(policy))
        return transition[every, policy], reward[every, policy]
    return np.einsum("sa,sat->st", policy, transition), (policy * reward).sum(axis=1)


def policy_value(transition: np.ndarray, reward: np.ndarray, gamma: float, policy: np.ndarray) -> np.ndarray:
    """Discounted value (nS,) of a policy, exactly: (I - gamma P) v = r. Arguments as policy_tables's."""
    chain, earned = policy_tables(transition, reward, policy)
    return np.linalg.solve(np.eye(len(chain)) - gamma * chain, earned)


def average_reward(transition: np.ndarray, reward: np.ndarray, policy: np.ndarray) -> float:
    """Reward per slot of a policy in the long run, exactly; the chain must have one recurrent class."""
    chain, earned = policy_tables(transition, reward, policy)
    return float(stationary(chain) @ earned)


def stationary(chain: np.ndarray) -> np.ndarray:
    """The law (n,) that a chain (n, n) with one recurrent class keeps: x P = x, x adds up to 1.

    Raises ValueError where it has more than one.
    """
    n = len(chain)
    equations = np.eye(n) - chain.T
    equations[-1] = 1.0  # one balance follows from the others
    try:
        law = np.linalg.solve(equations, np.eye(n)[-1])
    except np.linalg.LinAlgError:
        raise ValueError("the chain has more than one recurrent class: its average depends on the start") from None
    return law
