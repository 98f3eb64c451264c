"""The random-access world solved exactly on small graphs: what a local policy earns, its gradient, the best there is.

The state between two slots is the queues of all users. Seen after a slot and before the arrivals it is smaller: the
packets with one step left less, and arrivals come to each user on his own. So the chain is solved over 2^((d - 1) n)
states "after" (16 for 2 x 2 users and deadline 2), and the 2^(d n) queues only stand between two of them. Joint actions
are enumerated: a collision couples all users of an access point, whatever their number.

Slot, queues, actions and Instance are those of twin.worlds.access, the instance being one that does not change. A
policy is a table (n, 2^d, K + 1) of probabilities: user, its queue, silent or the k-th access point.
Checked by tests/papers/test_access_chain.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit

from twin.worlds.access import Instance, balls, neighbours_of

MOST_CELLS = 2**25  # of the matrix from queues to queues after the slot: 256 MB
MOST_JOINT = 2**33  # joint states times joint actions: minutes
SOLVED_WITHIN = 1e-9  # of the largest value
NATURAL_STEP = 3.0  # rewards lie in [0, 1]: an advantage of 0.1 moves a probability by some 30 %
STILL = 1e-5  # no probability moves by more in a step: ascent has come to rest


# ---- policies


def uniform(access: Instance, deadline: int = 2) -> np.ndarray:
    """The policy that takes silence and each access point alike."""
    there = _choices(access)
    return np.repeat((there / there.sum(1, keepdims=True))[:, None], 2**deadline, 1)


def softmax(access: Instance, logits: np.ndarray) -> np.ndarray:
    """The policy of tables theta (n, 2^d, K + 1), access points that are not there left out."""
    there = _choices(access)[:, None]
    weights = np.where(there, np.exp(logits - np.where(there, logits, -np.inf).max(-1, keepdims=True)), 0.0)
    return weights / weights.sum(-1, keepdims=True)


def _choices(access: Instance) -> np.ndarray:
    """(n, K + 1) bool: silence and the access points that are there."""
    return np.concatenate([np.ones((len(access.arrival), 1), bool), access.access_point >= 0], 1)


# ---- kernels: joint queues and "after" states are numbers, user 0 the leading digit


@njit(cache=True, nogil=True)
def contend(access_point, success, queue, send, heard, chance):
    """Each user's probability of getting through, written into chance (n,); heard (n_access_points,) is room."""
    n = queue.size
    heard[:] = 0
    for i in range(n):
        if send[i] > 0 and queue[i] > 0 and access_point[i, send[i] - 1] >= 0:
            heard[access_point[i, send[i] - 1]] += 1
    for i in range(n):
        chance[i] = 0.0
        if send[i] > 0 and queue[i] > 0:
            point = access_point[i, send[i] - 1]
            if point >= 0 and heard[point] == 1:
                chance[i] = success[i, send[i] - 1]


@njit(cache=True, nogil=True)
def spread_after(queue, chance, base, code, weight):
    """The "after" states that can follow, written into code and weight (2^n,); returns how many.

    A user who gets through loses the earliest packet, then all deadlines move on. base: "after" states of one user.
    """
    code[0], weight[0], count = 0, 1.0, 1
    for i in range(queue.size):
        lost, sent = queue[i] >> 1, (queue[i] & (queue[i] - 1)) >> 1
        branches = chance[i] > 0.0 and lost != sent
        for c in range(count):
            if branches:
                code[count + c] = code[c] * base + sent
                weight[count + c] = weight[c] * chance[i]
                weight[c] *= 1.0 - chance[i]
            code[c] = code[c] * base + lost
        if branches:
            count *= 2
    return count


@njit(cache=True, nogil=True)
def worth(queue, chance, base, ahead, code, weight, value):
    """Of each user's reward, what this slot is expected to bring and what follows it, into value (n,)."""
    for j in range(queue.size):
        value[j] = chance[j]
    for c in range(spread_after(queue, chance, base, code, weight)):
        for j in range(queue.size):
            value[j] += weight[c] * ahead[code[c], j]


@njit(cache=True, nogil=True)
def begin(state, n_queues, policy, queue, send):
    """Unpack a joint queue, and the first joint action that its policy can take; an empty queue is silent for sure."""
    for i in range(queue.size - 1, -1, -1):
        queue[i] = state % n_queues
        state //= n_queues
        send[i] = 0
        if queue[i] > 0:
            while policy[i, queue[i], send[i]] <= 0.0:
                send[i] += 1


@njit(cache=True, nogil=True)
def move_on(policy, queue, send):
    """The next joint action of positive probability; False when there is none."""
    for i in range(queue.size - 1, -1, -1):
        if queue[i] > 0:
            for k in range(send[i] + 1, policy.shape[2]):
                if policy[i, queue[i], k] > 0.0:
                    send[i] = k
                    return True
            send[i] = 0
            while policy[i, queue[i], send[i]] <= 0.0:
                send[i] += 1
    return False


@njit(cache=True, nogil=True)
def probability(policy, queue, send):
    """Of a joint action at a joint queue."""
    product = 1.0
    for i in range(queue.size):
        if queue[i] > 0:
            product *= policy[i, queue[i], send[i]]
    return product


@njit(cache=True, nogil=True)
def fill(access_point, success, policy, n_points, reward, after):
    """Expected deliveries reward (n_states, n) and law of what follows after (n_states, n_after), both zeros before."""
    n, n_queues = policy.shape[0], policy.shape[1]
    queue, send = np.zeros(n, np.int64), np.zeros(n, np.int64)
    heard, chance = np.zeros(n_points, np.int64), np.zeros(n)
    code, weight = np.zeros(2**n, np.int64), np.zeros(2**n)
    for state in range(reward.shape[0]):
        begin(state, n_queues, policy, queue, send)
        going = True
        while going:
            likely = probability(policy, queue, send)
            contend(access_point, success, queue, send, heard, chance)
            for i in range(n):
                reward[state, i] += likely * chance[i]
            for c in range(spread_after(queue, chance, n_queues // 2, code, weight)):
                after[state, code[c]] += likely * weight[c]
            going = move_on(policy, queue, send)


@njit(cache=True, nogil=True)
def weigh(access_point, success, policy, n_points, law, ahead, total):
    """Sums of law x probability x Q_j over joint queues and actions, by a user's own: total (n, n_queues, K + 1, n).

    law (n_states,), ahead (n_after, n): value of what follows, of each user's reward; total[i, queue, send, j].
    """
    n, n_queues = policy.shape[0], policy.shape[1]
    queue, send = np.zeros(n, np.int64), np.zeros(n, np.int64)
    heard, chance, value = np.zeros(n_points, np.int64), np.zeros(n), np.zeros(n)
    code, weight = np.zeros(2**n, np.int64), np.zeros(2**n)
    for state in range(law.size):
        if law[state] <= 0.0:
            continue
        begin(state, n_queues, policy, queue, send)
        going = True
        while going:
            likely = law[state] * probability(policy, queue, send)
            contend(access_point, success, queue, send, heard, chance)
            worth(queue, chance, n_queues // 2, ahead, code, weight, value)
            for i in range(n):
                if queue[i] > 0:
                    for j in range(n):
                        total[i, queue[i], send[i], j] += likely * value[j]
            going = move_on(policy, queue, send)


@njit(cache=True, nogil=True)
def condense(access_point, success, policy, n_points, law, ahead, critic, mass, total):
    """As `weigh`, with Q_j replaced by its mean given j's own queue and action and whether it met another sender.

    critic, mass (n, n_queues, K + 1, 2)  out, zeros before: that mean and the probability of what it is given
    """
    n, n_queues = policy.shape[0], policy.shape[1]
    queue, send = np.zeros(n, np.int64), np.zeros(n, np.int64)
    heard, chance, value = np.zeros(n_points, np.int64), np.zeros(n), np.zeros(n)
    code, weight = np.zeros(2**n, np.int64), np.zeros(2**n)
    for reading in range(2):  # the means first, then the sums with them
        for state in range(law.size):
            if law[state] <= 0.0:
                continue
            begin(state, n_queues, policy, queue, send)
            going = True
            while going:
                likely = law[state] * probability(policy, queue, send)
                contend(access_point, success, queue, send, heard, chance)
                if reading == 0:
                    worth(queue, chance, n_queues // 2, ahead, code, weight, value)
                for j in range(n):
                    point = access_point[j, send[j] - 1] if send[j] > 0 else -1
                    met = 1 if point >= 0 and heard[point] > 1 else 0
                    if reading == 0:
                        critic[j, queue[j], send[j], met] += likely * value[j]
                        mass[j, queue[j], send[j], met] += likely
                    elif mass[j, queue[j], send[j], met] > 0.0:
                        value[j] = critic[j, queue[j], send[j], met] / mass[j, queue[j], send[j], met]
                if reading == 1:
                    for i in range(n):
                        if queue[i] > 0:
                            for j in range(n):
                                total[i, queue[i], send[i], j] += likely * value[j]
                going = move_on(policy, queue, send)


# ---- the chain


@dataclass(frozen=True, eq=False)
class Earned:
    """What a policy earns in the long run.

    average_reward  (n,)          J_i: deliveries per slot of each user; their mean is the world's reward
    law             (2^(d n),)    stationary law of the joint queues when users act
    ahead           (n_after, n)  value of each user's reward from an "after" state on, up to a constant; 0 if never met
    """

    average_reward: np.ndarray
    law: np.ndarray
    ahead: np.ndarray


def earned(access: Instance, policy: np.ndarray) -> Earned:
    """Exact average rewards of a policy table when the queues are empty at first.

    Raises ValueError for a table that is no policy, and where chance decides early which law the queues settle in.
    """
    _check(access, policy)
    n, n_queues, _ = policy.shape
    reward, after = np.zeros((n_queues**n, n)), np.zeros((n_queues**n, (n_queues // 2) ** n))
    fill(access.access_point, access.success, policy, access.n_access_points, reward, after)
    gain, chain = _arrive(access.arrival, reward), _arrive(access.arrival, after)
    met = _reached(chain)
    inner, its_gain = chain[np.ix_(met, met)], gain[met]
    regular = np.eye(len(met)) - inner
    regular[:, 0] += 1.0  # its solution's first entry is the average reward: networked.solve says why
    ahead, law = np.zeros_like(gain), np.zeros(len(chain))
    try:
        ahead[met] = np.linalg.solve(regular, its_gain)
        law[met] = np.linalg.solve(regular.T, np.eye(len(met))[0])
    except np.linalg.LinAlgError:
        law[met] = np.nan
    average = law @ gain
    left = its_gain - average + inner @ ahead[met] - ahead[met]
    if not np.abs(left).max() <= SOLVED_WITHIN * max(1.0, np.abs(ahead).max()):
        raise ValueError("access: from empty queues this policy may end in one of several laws of the queues")
    return Earned(average, _arrived(access.arrival, law), ahead)


def _reached(chain: np.ndarray) -> np.ndarray:
    """The "after" states that can follow upon empty queues, 0 first: where all users always get through, few others."""
    met, new = np.zeros(len(chain), bool), np.zeros(len(chain), bool)
    new[0] = True
    while new.any():
        met |= new
        new = (chain[new] > 0.0).any(0) & ~met
    return np.flatnonzero(met)


def gradient_terms(access: Instance, policy: np.ndarray, found: Earned) -> np.ndarray:
    """E[Q_j grad log zeta_i] with respect to softmax tables: (n, 2^d, K + 1, n) over i, queue, action, j.

    The mean over all j is the gradient of the mean reward; over the j within kappa hops of i, of (7) in the paper.
    """
    total = np.zeros((*policy.shape, len(policy)))
    weigh(access.access_point, access.success, policy, access.n_access_points, found.law, found.ahead, total)
    return total - policy[..., None] * total.sum(2, keepdims=True)


def contention_terms(access: Instance, policy: np.ndarray, found: Earned) -> np.ndarray:
    """`gradient_terms` as critics see them that read their own queue and action and whether they met another sender.

    Q_j becomes its stationary mean given those, so the terms of j = i are the same; those of neighbours need not be.
    """
    total = np.zeros((*policy.shape, len(access.arrival)))
    critic, mass = np.zeros((2, *policy.shape, 2))
    law, ahead = found.law, found.ahead
    condense(access.access_point, access.success, policy, access.n_access_points, law, ahead, critic, mass, total)
    return total - policy[..., None] * total.sum(2, keepdims=True)


def _check(access: Instance, policy: np.ndarray) -> None:
    n, places = access.access_point.shape
    n_queues = policy.shape[1] if policy.ndim == 3 else 0
    if policy.shape != (n, n_queues, places + 1) or n_queues < 2 or n_queues & (n_queues - 1):
        raise ValueError(f"access: expected a policy of shape ({n}, 2^deadline, {places + 1}), got {policy.shape}")
    if not (policy >= 0.0).all() or not np.allclose(policy.sum(-1), 1.0):
        raise ValueError("access: a policy's probabilities must not be negative and sum to 1 over the actions")
    cells, joint = (n_queues**2 // 2) ** n, float(n_queues**n) * float(np.prod(_choices(access).sum(1), dtype=float))
    if cells > MOST_CELLS or joint > MOST_JOINT:
        raise ValueError(
            f"access: {n} users with {n_queues} queues each have {joint:.3g} joint queues and actions, "
            "more than can be enumerated; solve a part of the graph"
        )


def _arrive(arrival: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Mean over the arrivals of a function of the joint queues, by the "after" state; an arrival is the top bit."""
    after = _after(arrival, len(table)) // 2
    for i, p in enumerate(arrival):  # what stands left of user i has had its arrivals
        split = table.reshape(after**i, 2, after, -1)
        table = (1.0 - p) * split[:, 0] + p * split[:, 1]
    return table.reshape(after ** len(arrival), -1)


def _arrived(arrival: np.ndarray, law: np.ndarray) -> np.ndarray:
    """Law of the joint queues when that of the "after" states is given."""
    after = _after(arrival, len(law))
    for i, p in enumerate(arrival):
        split = law.reshape((2 * after) ** i, 1, after, -1)
        law = np.concatenate([(1.0 - p) * split, p * split], 1)
    return law.ravel()


def _after(arrival: np.ndarray, joint: int) -> int:
    """States of one user when there are so many joint ones."""
    return round(joint ** (1.0 / len(arrival)))


# ---- the best local policy, and where learners that see less end


def within(access: Instance, kappa: int) -> np.ndarray:
    """(n, n) bool: at most kappa hops apart in the conflict graph."""
    near = balls(neighbours_of(access.access_point), kappa)
    seen = np.zeros((len(near), len(near) + 1), bool)
    seen[np.arange(len(near))[:, None], near] = True  # padding, -1, goes to the last column
    return seen[:, :-1]


def ascend(
    access: Instance,
    kappa: int | None = None,
    deadline: int = 2,
    logits: np.ndarray | None = None,
    steps: int = 1000,
    terms: Callable[[Instance, np.ndarray, Earned], np.ndarray] = gradient_terms,
) -> tuple[float, np.ndarray, bool]:
    """Where ascent along (7) leads: (mean reward, policy, whether it came to rest there).

    kappa   what a critic that sees so many hops can teach if it makes no errors; not given: the exact gradient. Unless
            kappa covers the graph its field is the gradient of nothing, and the way may lead down
    logits  (n, 2^d, K + 1) where to begin; not given: the uniform policy
    terms   what the critics read: `gradient_terms`, everything within reach, or `contention_terms`

    Moves in the natural form, each logit by its mean advantage: that rests where (7) does, and does not slow down where
    a policy is almost certain.
    """
    seen = within(access, len(access.arrival) if kappa is None else kappa)
    shape = uniform(access, deadline).shape
    logits = np.zeros(shape) if logits is None else np.array(logits, float)
    if logits.shape != shape:
        raise ValueError(f"access: expected logits of shape {shape}, got {logits.shape}")
    policy, still = softmax(access, logits), False
    for _ in range(steps):
        found = earned(access, policy)
        field = (terms(access, policy, found) * seen[:, None, None, :]).sum(-1)
        visits = _own_law(found.law, policy.shape)[..., None] * policy
        logits += NATURAL_STEP * np.divide(field, visits, out=np.zeros_like(field), where=visits > 0.0)
        moved = softmax(access, logits)
        still = bool(np.abs(moved - policy).max() < STILL)
        policy = moved
        if still:
            break
    return float(earned(access, policy).average_reward.mean()), policy, still


def best_local(
    access: Instance, starts: int, rng: np.random.Generator, deadline: int = 2, steps: int = 1000
) -> tuple[float, np.ndarray]:
    """The best policy found among those where a user looks at its own queue alone: (mean reward, policy).

    From the uniform policy and from random ones along the exact gradient. The problem has local optima: what is found
    is a lower bound of the best.
    """
    shape = uniform(access, deadline).shape
    begins = [np.zeros(shape), *(rng.normal(0.0, 2.0, shape) for _ in range(starts - 1))]
    ends = [ascend(access, None, deadline, logits, steps) for logits in begins]
    return max((end[:2] for end in ends), key=lambda found: found[0])


def _own_law(law: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(n, 2^d): the stationary law of each user's queue."""
    n, n_queues, _ = shape
    joint = law.reshape((n_queues,) * n)
    return np.array([joint.sum(tuple(j for j in range(n) if j != i)) for i in range(n)])
