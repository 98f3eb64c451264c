"""Networked MDPs solved exactly: every agent moves by its neighbours' states, and no agent's table is approximated.

The model is that of arXiv 2006.06626 (Qu, Lin, Wierman, Li, NeurIPS 2020): n agents on an undirected graph, agent i's
next state drawn from P_i(. | states of its neighbours and itself, its action), its action from zeta_i(. | its state),
its reward r_i(its state, its action). Here is what a learner on such a network can be held against: average rewards,
Q-functions, how fast they forget what is far away, the bounds on that, and policy gradients whole and truncated.

Nothing of size (states x actions)^n is ever built but in `brute_force`, which the tests compare with, and not even
the matrix of the chain: one step of it is n small contractions, one agent after the other, and GMRES solves the
Poisson equation with that step in some twenty of them. A line of 20 agents with two states each takes seconds.

Axes. A function of all states has one axis per agent, in the order of the agents. Of all states and actions: first the
states' axes, then the actions'. Tables of one agent: see `Network`. Checked by tests/papers/test_networked.py.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse.linalg import LinearOperator, gmres

ROWS_SUM_WITHIN = 1e-6  # what seven digits in a file or single precision leave; rows are normalised after the check
SOLVED_WITHIN = 1e-10  # a residual above this times the largest value: not solved
SAME_LAW = 1e-6  # laws from two starts that differ by more are two laws
REFINEMENTS = 4  # solves of the remaining residual; the second already ends at rounding
BASIS_CELLS = 2**17  # 1 MB: GMRES that restarts after 60 steps stands still on a cycle or a walk of 300 states
ROUNDING = 1e-13  # a difference of Q below this is rounding, and no point of a decay's fit

Neighbours = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Network:
    """A networked MDP with its policy.

    neighbours  per agent: its neighbours and itself, ascending: N_i
    transition  per agent: P_i, one axis per agent of N_i in that order (their states), then its action, then its next
                state, over which it sums to 1. Of agent 1 of a line of binary states and three actions: (2, 2, 2, 3, 2)
    policy      per agent: zeta_i (n_states, n_actions), rows sum to 1, which as those of P_i they do to the last digit
                once they are here: what is off by less than 1e-6 is taken for rounding and normalised
    reward      per agent: r_i (n_states, n_actions)

    Raises ValueError naming the agent and the table that is wrong.
    """

    neighbours: Neighbours
    transition: tuple[np.ndarray, ...]
    policy: tuple[np.ndarray, ...]
    reward: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "neighbours", tuple(tuple(int(j) for j in near) for near in self.neighbours))
        for name in ("transition", "policy", "reward"):
            tables = tuple(_numbers(f"{name} of agent {i}", table) for i, table in enumerate(getattr(self, name)))
            if len(tables) != len(self.neighbours):
                raise ValueError(f"network: {len(tables)} tables of {name} for {len(self.neighbours)} agents")
            object.__setattr__(self, name, tables)
        _check_graph(self.neighbours)
        for i, (policy, reward) in enumerate(zip(self.policy, self.reward)):
            if policy.ndim != 2 or reward.shape != policy.shape or not policy.size:
                raise ValueError(
                    f"network: agent {i} has policy {policy.shape} and reward {reward.shape}, "
                    "expected the same (n_states, n_actions) of both, one of each at least"
                )
        for i, (near, table) in enumerate(zip(self.neighbours, self.transition)):
            expected = tuple(self.n_states[j] for j in near) + (self.policy[i].shape[1], self.n_states[i])
            if table.shape != expected:
                raise ValueError(
                    f"network: transition of agent {i} has shape {table.shape}, expected {expected}: states of agents "
                    f"{near}, its action, its next state"
                )
            _check_law(f"transition of agent {i}", table)
            _check_law(f"policy of agent {i}", self.policy[i])
            if not np.isfinite(self.reward[i]).all():
                raise ValueError(f"network: reward of agent {i} holds values that are no numbers")
        for name in ("transition", "policy"):
            object.__setattr__(self, name, tuple(_normalised(table) for table in getattr(self, name)))
        for table in (*self.transition, *self.policy, *self.reward):
            table.flags.writeable = False

    @property
    def n_agents(self) -> int:
        return len(self.neighbours)

    @property
    def n_states(self) -> tuple[int, ...]:
        """Of each agent; the shape of a function of all states."""
        return tuple(policy.shape[0] for policy in self.policy)

    @property
    def n_actions(self) -> tuple[int, ...]:
        return tuple(policy.shape[1] for policy in self.policy)


def _numbers(what: str, table) -> np.ndarray:
    try:
        return np.array(table, float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"network: {what} is no table of numbers: {error}") from None


def _check_graph(neighbours: Neighbours) -> None:
    if not neighbours:
        raise ValueError("network: no agents, expected one at least")
    for i, near in enumerate(neighbours):
        if list(near) != sorted(set(near)) or i not in near:
            raise ValueError(f"network: neighbours of agent {i} are {near}, expected ascending and with {i} itself")
        for j in near:
            if not 0 <= j < len(neighbours) or i not in neighbours[j]:
                raise ValueError(f"network: agent {i} has neighbour {j}, which does not have {i}: edges go both ways")


def _check_law(what: str, table: np.ndarray) -> None:
    if not (table >= 0.0).all():
        raise ValueError(f"network: {what} holds {table.min()}, expected probabilities")
    worst = np.abs(table.sum(-1) - 1.0).max()
    if not worst <= ROWS_SUM_WITHIN:
        raise ValueError(f"network: {what} is off by {worst:.3g} from summing to 1 over its last axis")


# ---- graphs and instances


def grid(height: int, width: int) -> Neighbours:
    """Neighbours on a grid whose agents are numbered row by row, each joined to those left, right, above and below."""
    edges = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
    return tuple(
        tuple(
            sorted(
                (row + down) * width + column + right
                for down, right in edges
                if 0 <= row + down < height and 0 <= column + right < width
            )
        )
        for row, column in itertools.product(range(height), range(width))
    )


def line(n: int) -> Neighbours:
    """Neighbours on a line."""
    return grid(1, n)


def distances(neighbours: Neighbours) -> np.ndarray:
    """(n, n) int: fewest hops from one agent to another; n where there is no way."""
    n = len(neighbours)
    hops = np.full((n, n), n)
    for i in range(n):
        reached, near = 0, {i}
        while near:
            hops[i, list(near)] = reached
            reached += 1
            near = {k for j in near for k in neighbours[j] if hops[i, k] == n}
    return hops


def random_network(
    neighbours: Neighbours, rng: np.random.Generator, n_states: int = 2, n_actions: int = 3, coupling: float = 1.0
) -> Network:
    """An instance as appendix B.4 draws it: all tables uniform on [0, 1], rows of P and zeta then normalised.

    coupling  weight of the drawn P_i in a mixture with a law of the next state that depends on nothing, drawn alike:
              1 is the paper's instance, small ones satisfy the condition of Theorem 1

    Draws per agent, in order: P_i, zeta_i, r_i, and the law of the mixture where coupling is not 1.
    """
    transition, policy, reward = [], [], []
    for near in neighbours:
        drawn = _normalised(rng.random((n_states,) * len(near) + (n_actions, n_states)))
        policy.append(_normalised(rng.random((n_states, n_actions))))
        reward.append(rng.random((n_states, n_actions)))
        if coupling != 1.0:
            drawn = coupling * drawn + (1.0 - coupling) * _normalised(rng.random(n_states))
        transition.append(drawn)
    return Network(neighbours, tuple(transition), tuple(policy), tuple(reward))


def _normalised(table: np.ndarray) -> np.ndarray:
    return table / table.sum(-1, keepdims=True)


def with_logits(network: Network, logits: Sequence[np.ndarray]) -> Network:
    """The network under the softmax policy of tables theta_i (n_states, n_actions)."""
    scaled = (np.exp(theta - theta.max(1, keepdims=True)) for theta in logits)
    return replace(network, policy=tuple(_normalised(weights) for weights in scaled))


# ---- one step of the chain, agent after agent


class _Chain:
    """Expectations over one step of a network's chain, by contracting one agent's next state at a time.

    After some agents the tensor at hand depends on the states that these look at and on the next states of the others:
    on a graph numbered well that is little more than a function of all states. The order is chosen greedily, the agent
    that brings the fewest new axes first. Labels of axes: i its state, n + i its next state, 2 n + i its action.
    """

    def __init__(self, network: Network, acting: Sequence[int] = ()):
        """acting: agents whose action stays an argument; the others' is averaged over their policy."""
        n = network.n_agents
        self.shape, self.n = network.n_states, n
        self.steps: list[tuple[np.ndarray, list[int], list[int], list[int]]] = []
        waiting, seen = list(range(n)), set[int]()
        order = []
        while waiting:
            i = min(waiting, key=lambda j: (len(set(network.neighbours[j]) - seen), j))
            waiting.remove(i)
            order.append(i)
            seen |= set(network.neighbours[i])
        self.first = labels = [n + i for i in order]
        for i in order:
            near = list(network.neighbours[i])
            if i in acting:
                table, own = network.transition[i], [*near, 2 * n + i, n + i]
            else:
                shape = (1,) * near.index(i) + (self.shape[i],) + (1,) * (len(near) - near.index(i) - 1)
                policy = network.policy[i].reshape(shape + (-1, 1))
                table, own = (network.transition[i] * policy).sum(-2), [*near, n + i]
            after = [k for k in own[:-1] if k not in labels] + [k for k in labels if k != n + i]
            self.steps.append((table, own, labels, after))
            labels = after
        self.last = [*range(n), *(2 * n + i for i in acting)]

    def expect(self, values: np.ndarray) -> np.ndarray:
        """E[values(next states) | states, actions of the acting]: (*n_states) in, (*n_states, *n_actions) out."""
        tensor = values.transpose([label - self.n for label in self.first])
        for table, own, before, after in self.steps:
            tensor = _einsum(tensor, before, table, own, after)
        return tensor.transpose([self.steps[-1][3].index(label) for label in self.last])

    def push(self, law: np.ndarray) -> np.ndarray:
        """The law of the next states when the states (and actions) have the given one: the transpose of `expect`."""
        tensor = law.transpose([self.last.index(label) for label in self.steps[-1][3]])
        for table, own, before, after in reversed(self.steps):
            tensor = _einsum(tensor, after, table, own, before)
        return tensor.transpose([self.first.index(self.n + i) for i in range(self.n)])


def _einsum(a: np.ndarray, a_labels: list[int], b: np.ndarray, b_labels: list[int], out: list[int]) -> np.ndarray:
    """numpy.einsum over labels of any size: it takes those below 52 only, and no call here has so many different."""
    small: dict[int, int] = {}
    renamed = [[small.setdefault(label, len(small)) for label in labels] for labels in (a_labels, b_labels, out)]
    return np.einsum(a, renamed[0], b, renamed[1], renamed[2])


# ---- exact values


@dataclass(frozen=True, eq=False)
class Solution:
    """What holds of a network under its policy.

    agents          whose rewards were solved for
    average_reward  (n_agents,)             J_i: from the Poisson equation, where gamma < 1 from the stationary law
    values          (n_agents, *n_states)   V_i(s) = E sum_t gamma^t (r_i(t) - J_i | s), without J_i where gamma < 1;
                                            where gamma = 1, its stationary mean is 0
    stationary      (*n_states)             law of the states
    gamma           ()                      1: average reward
    residual        ()                      largest |r_i - J_i + gamma E[V_i(s')] - V_i(s)| and |law after a step - law|
    """

    agents: tuple[int, ...]
    average_reward: np.ndarray
    values: np.ndarray
    stationary: np.ndarray
    gamma: float
    residual: float

    def of(self, agent: int) -> int:
        """The row of an agent. Raises ValueError where it was not solved for."""
        if agent not in self.agents:
            raise ValueError(f"agent {agent} was not solved for, only {self.agents}")
        return self.agents.index(agent)


def solve(network: Network, agents: Iterable[int] | None = None, gamma: float = 1.0) -> Solution:
    """Average rewards and values of the given agents, all of them unless told, exactly.

    With A = I - gamma P + 1 e', e' picking the first state, A is regular where the chain has one stationary law pi:
    A' pi = e gives it, and A V = r solves the Poisson equation, its V(first state) being J_i (multiply by pi). Where
    gamma < 1 the second term is not needed. Source: (2), (3) and appendix B.3.

    A' pi = e has solutions where there are several laws too, and GMRES finds the one that is reached from the first
    state. So where a table holds zeros, without which there is one law only, the law from another start is compared.

    Raises ValueError where the chain has no single stationary law, whatever gamma is.
    """
    _check_gamma(gamma)
    chosen = tuple(range(network.n_agents) if agents is None else agents)
    for i in chosen:
        if not 0 <= i < network.n_agents:
            raise ValueError(f"agents must be numbers from 0 to {network.n_agents - 1}, got {i}")
    chain, shape = _Chain(network), network.n_states

    def poisson(x: np.ndarray) -> np.ndarray:
        values = x.reshape(shape)
        return (values - chain.expect(values) + values.flat[0]).ravel()

    def discounted(x: np.ndarray) -> np.ndarray:
        return x - gamma * chain.expect(x.reshape(shape)).ravel()

    def law_from(start: np.ndarray) -> np.ndarray:
        law = _solved(lambda x: (x - chain.push(x.reshape(shape)).ravel()) + x.sum() * start, start)
        law = np.maximum(law, 0.0)
        return (law / law.sum()).reshape(shape)

    first = np.zeros(int(np.prod(shape)))
    first[0] = 1.0
    law = law_from(first)
    if any((table == 0.0).any() for table, *_ in chain.steps):
        anywhere = np.random.default_rng(0).random(first.size)  # drawn, lest symmetry make two laws look like one
        if not np.abs(law_from(anywhere / anywhere.sum()) - law).max() <= SAME_LAW:
            raise ValueError(
                "the chain has more than one stationary law, or comes so close that rounding decides; look for states "
                "that are never left"
            )
    residual = float(np.abs(chain.push(law) - law).max())
    average, values = np.empty(len(chosen)), np.empty((len(chosen), *shape))
    for k, i in enumerate(chosen):
        reward = _along((network.policy[i] * network.reward[i]).sum(1), i, shape)
        values[k] = _solved(poisson if gamma == 1.0 else discounted, reward.ravel()).reshape(shape)
        average[k] = values[k].flat[0] if gamma == 1.0 else (law * reward).sum()
        offset = 0.0
        if gamma == 1.0:
            offset = average[k]
            values[k] -= (law * values[k]).sum()
        left = reward - offset + gamma * chain.expect(values[k]) - values[k]
        residual = max(residual, float(np.abs(left).max()))
    return Solution(chosen, average, values, law, gamma, residual)


def _check_gamma(gamma: float) -> None:
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma}")


def _along(of_one: np.ndarray, agent: int, shape: tuple[int, ...]) -> np.ndarray:
    """A function of one agent's state as a function of all."""
    return np.broadcast_to(of_one.reshape((1,) * agent + (-1,) + (1,) * (len(shape) - agent - 1)), shape)


def _solved(operator, target: np.ndarray) -> np.ndarray:
    """x with operator(x) = target, by GMRES and a refinement or two of what remains."""
    linear = LinearOperator((len(target),) * 2, matvec=operator, dtype=float)
    x, left = np.zeros(len(target)), np.array(target)
    restart = min(len(target), max(60, BASIS_CELLS // len(target)))
    for _ in range(REFINEMENTS):
        step, _ = gmres(linear, left, rtol=1e-12, atol=0.0, restart=restart, maxiter=1 + 1200 // restart)
        remaining = target - operator(x + step)
        if not np.abs(remaining).max() < 0.5 * np.abs(left).max():
            break  # rounding
        x, left = x + step, remaining
        if not left.any():
            break
    if not np.abs(left).max() <= SOLVED_WITHIN * max(1.0, np.abs(x).max()):
        raise ValueError(
            f"the chain could not be solved (residual {np.abs(left).max():.3g}): it has more than one stationary law, "
            "or moves on too slowly for GMRES; look for states that are never left or hardly ever"
        )
    return x


def action_value(network: Network, solution: Solution, agent: int, states, actions) -> float:
    """Q_i(s, a) of one global state and action, (3) or where gamma < 1 (12): states (n,), actions (n,) int.

    Contracts V_i with the n laws of the next states, axis by axis: 2 |S|^n products, whatever the number of actions.
    Raises ValueError for a state or an action that is not there.
    """
    for what, given, sizes in (("states", states, network.n_states), ("actions", actions, network.n_actions)):
        numbers = np.asarray(given)
        if numbers.shape != (network.n_agents,) or numbers.dtype.kind not in "iu":
            raise ValueError(f"{what} must be {network.n_agents} whole numbers, one per agent, got {given}")
        if not ((numbers >= 0) & (numbers < sizes)).all():
            raise ValueError(f"{what} must be at least 0 and below {sizes}, agent by agent, got {given}")
    tensor = solution.values[solution.of(agent)]
    for i, near in enumerate(network.neighbours):
        law = network.transition[i][tuple(states[j] for j in near) + (actions[i],)]
        tensor = law @ tensor.reshape(len(law), -1)
    here = network.reward[agent][states[agent], actions[agent]]
    average = solution.average_reward[solution.of(agent)] if solution.gamma == 1.0 else 0.0
    return float(here - average + solution.gamma * tensor[0])


def action_value_table(network: Network, solution: Solution, agent: int) -> np.ndarray:
    """Q_i of all states and actions, (*n_states, *n_actions): for small networks, as the axes say."""
    n = network.n_agents
    table = solution.gamma * _Chain(network, range(n)).expect(solution.values[solution.of(agent)])
    shape = [1] * (2 * n)
    shape[agent], shape[n + agent] = network.reward[agent].shape
    average = solution.average_reward[solution.of(agent)] if solution.gamma == 1.0 else 0.0
    return table + network.reward[agent].reshape(shape) - average


def pair_law(network: Network, solution: Solution) -> np.ndarray:
    """The stationary law of states and actions, (*n_states, *n_actions): for small networks."""
    n = network.n_agents
    law = solution.stationary.reshape(network.n_states + (1,) * n)
    for i, policy in enumerate(network.policy):
        shape = [1] * (2 * n)
        shape[i], shape[n + i] = policy.shape
        law = law * policy.reshape(shape)
    return law


def brute_force(network: Network, gamma: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """J_i (n,) and Q_i (n, *n_states, *n_actions) from the full chain over states and actions, by one dense solve.

    Shares nothing with `solve` but the tables: what tests hold the rest against. For at most some thousand pairs.
    """
    n, shape = network.n_agents, network.n_states + network.n_actions
    pairs = np.indices(shape).reshape(2 * n, -1)
    chain = np.ones((pairs.shape[1],) * 2)
    for i, near in enumerate(network.neighbours):
        now = tuple(pairs[j][:, None] for j in near) + (pairs[n + i][:, None],)
        chain *= network.transition[i][(*now, pairs[i][None])] * network.policy[i][pairs[i], pairs[n + i]]
    rewards = np.array([network.reward[i][pairs[i], pairs[n + i]] for i in range(n)])
    balance = np.eye(len(chain)) - chain.T
    balance[-1] = 1.0  # the equations of a stationary law add up to 0: one gives way to "the law sums to 1"
    law = np.linalg.solve(balance, np.eye(len(chain))[-1])
    average = rewards @ law
    if gamma == 1.0:
        centred = (rewards - average[:, None]).T
        values = np.linalg.solve(np.eye(len(chain)) - chain + law, centred)  # + 1 pi: its solution has mean 0
    else:
        values = np.linalg.solve(np.eye(len(chain)) - gamma * chain, rewards.T)
    return average, values.T.reshape(n, *shape)


# ---- decay with distance, definition 1


def differences(network: Network, solution: Solution, agent: int, z, other) -> np.ndarray:
    """|Q_i(z) - Q_i(z')|, the left side of (4), for kappa = 0, 1, ..., while an agent is farther than kappa hops away.

    z, other  (states (n,), actions (n,)) each; z' is z within kappa hops of the agent and `other` beyond
    """
    hops = distances(network.neighbours)[agent]
    here = action_value(network, solution, agent, *z)
    found = []
    for kappa in range(int(hops[hops < network.n_agents].max())):
        mixed = (np.where(hops <= kappa, mine, theirs) for mine, theirs in zip(z, other))
        found.append(abs(here - action_value(network, solution, agent, *mixed)))
    return np.array(found)


def largest_difference(network: Network, table: np.ndarray, agent: int, kappa: int) -> float:
    """The largest left side of (4) over all z and z', from Q_i of all states and actions: for small networks."""
    far = np.flatnonzero(distances(network.neighbours)[agent] > kappa)
    axes = (*far, *(far + network.n_agents))
    return float((table.max(axes) - table.min(axes)).max()) if len(far) else 0.0


def factor_per_hop(lefts: np.ndarray) -> float:
    """By how much the left side of (4) falls from one kappa to the next.

    A log-linear fit through the points above rounding; NaN where there are fewer than two.
    """
    kappa = np.flatnonzero(np.asarray(lefts) > ROUNDING)
    if len(kappa) < 2:
        return float("nan")
    return float(np.exp(np.polyfit(kappa, np.log(np.asarray(lefts)[kappa]), 1)[0]))


def interaction(network: Network) -> np.ndarray:
    """C_ij of Theorem 1, (n, n): how far j's state can move the law of i's next state, in total variation.

    On the diagonal state and action of i change together. Total variation is half the L1 norm.
    """
    n = network.n_agents
    found = np.zeros((n, n))
    for i, near in enumerate(network.neighbours):
        table = network.transition[i]
        for place, j in enumerate(near):
            moved = np.moveaxis(table, place, 0)
            if j == i:
                moved = np.moveaxis(moved, -2, 1)
                moved = moved.reshape(-1, *moved.shape[2:])
            pairs = itertools.combinations(moved.reshape(len(moved), -1, table.shape[-1]), 2)
            found[i, j] = max((0.5 * np.abs(a - b).sum(-1).max() for a, b in pairs), default=0.0)
    return found


def decay_bound(network: Network, gamma: float = 1.0) -> tuple[float, float]:
    """(c, rho) such that |Q_i(z) - Q_i(z')| <= c rho^(kappa + 1): Theorem 1, where gamma < 1 Corollary 1.

    With C the largest row sum of C_ij: rho = gamma C, c = r / (1 - gamma C); c is infinite where rho >= 1 and nothing
    is said. (Corollary 1 asks for C < 1, but its proof sums (gamma C)^t alone.) r is the largest range of an agent's
    reward, 0 included: the paper's bound on |r_i| where no reward is negative, and what its proof needs where some are.
    """
    _check_gamma(gamma)
    strength = float(interaction(network).sum(1).max())
    span = max(max(table.max(), 0.0) - min(table.min(), 0.0) for table in network.reward)
    rho = gamma * strength
    return (span / (1.0 - rho) if rho < 1.0 else np.inf), rho


# ---- policy gradients, Lemma 1 and (7)


def gradient_terms(network: Network, solution: Solution) -> tuple[np.ndarray, ...]:
    """Per agent i (n_agents, n_states, n_actions): E[Q_j(s, a) grad log zeta_i(a_i | s_i)] for every j.

    The gradient with respect to the softmax table theta_i. Their mean over j is Lemma 1's gradient of J. What does not
    depend on a_i, as J_j and the reward of j != i, cancels against the policy's mean and is left out.
    Raises ValueError for a solution with discount.
    """
    if solution.gamma != 1.0:
        raise ValueError(f"the gradient of the average reward needs gamma = 1, the solution has {solution.gamma}")
    n, found = network.n_agents, []
    for i, policy in enumerate(network.policy):
        chain = _Chain(network, [i])
        others = tuple(j for j in range(n) if j != i)
        own = solution.stationary.sum(others)[:, None]
        terms = np.empty((len(solution.agents), *policy.shape))
        for k, j in enumerate(solution.agents):
            ahead = (solution.stationary[..., None] * chain.expect(solution.values[k])).sum(others)
            value = ahead + (own * network.reward[i] if j == i else 0.0)
            terms[k] = policy * (value - (policy * value).sum(1, keepdims=True))
        found.append(terms)
    return tuple(found)


def gradient(network: Network, solution: Solution, kappa: int | None = None) -> tuple[np.ndarray, ...]:
    """Per agent (n_states, n_actions): the gradient of J with respect to theta_i, or h_i of (7) for a kappa.

    (7) is taken with Q_j truncated by its own conditional mean given what is within kappa hops of j, the weights of (5)
    that a critic tends to: then E[Qt_j grad log zeta_i] = E[Q_j grad log zeta_i] for all j within kappa hops of i, and
    truncation leaves out nothing but the others. `truncated` makes Qt_j for other weights.
    """
    if solution.agents != tuple(range(network.n_agents)):
        raise ValueError(f"the gradient needs the values of all agents, but only {solution.agents} were solved for")
    hops = distances(network.neighbours)
    reach = network.n_agents if kappa is None else kappa
    return tuple(
        terms[hops[i] <= reach].sum(0) / network.n_agents for i, terms in enumerate(gradient_terms(network, solution))
    )


def truncated(network: Network, table: np.ndarray, agent: int, kappa: int, weights: np.ndarray) -> np.ndarray:
    """Qt_i of (5), broadcastable to Q_i's axes: the mean of Q_i over what is farther than kappa hops.

    table    Q_i of all states and actions
    weights  of the same shape, not negative: w of (6) once normalised; `pair_law` gives the conditional mean
    """
    far = np.flatnonzero(distances(network.neighbours)[agent] > kappa)
    axes = (*far, *(far + network.n_agents))
    return (weights * table).sum(axes, keepdims=True) / weights.sum(axes, keepdims=True)
