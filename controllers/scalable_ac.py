"""Random access learned by neighbours: the scalable actor-critic of arXiv 2006.06626, and localised ALOHA beside it.

Reads as Algorithm 1. Each user i has a softmax table over its own actions per queue, an estimate mu_i of its average
reward, and a table Q_i over the state-actions z of its kappa-hop ball; its policy follows the Q of that ball. What it
takes from the network is its neighbours' state-actions and Q values, nothing else. The kernels are the same that the
fused training loop of controllers/papers/access.py calls. Deviations and variants: docs/papers/access.md.

All tables Q_i stand in one array. A cell is found directly where Q_i depends on the user's own state-action, else by
hashing: each (user, queue, access point) has a random word of 64 bits, a ball's key is the exclusive or of its
members' words and of the user's own. Two of a million keys coincide with probability 3e-8. As a key names users and
access points, not places in a list, a ball that changes gets cells of its own and finds the old ones when it is back.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from twin.errors import ControllerError
from twin.types import Action, Agent, Observation
from twin.worlds.access import balls, neighbours_of

OWN, BALL, CONTENTION = 0, 1, 2  # what a critic reads: the user's state-action, all of its ball's, or see `locate`
PROBES = 64  # cells looked at for a key before the table counts as full around it
MOST_CELLS = 4_194_304  # 64 MB; 25 users at kappa 1 visit one to three million cells in a million slots
MOST_CELLS_EVER = 1_073_741_824  # 16 GB
MOST_WEIGHT = 1e6  # of steps and entropy: more tells nobody anything, and infinity makes policies of no numbers
MOST_DEADLINE_SLOTS = 8  # a user has 2^d queues; also what a word's bits hold
NETWORK = 25  # users of the paper's network, for which its actor steps are stated
WORKED = {0: (0.1, 1.0), 1: (0.5, 5.0), 2: (0.5, 5.0)}  # critic and actor step by kappa; docs/papers/access.md
CONTENTION_STEPS = 0.1, 0.5  # the same for critics that read the contention
WORKED_EXPONENTS, THEORY = (0.3, 0.3), (0.65, 0.85)  # of critic and actor; assumption 3 wants the latter


class Learner(NamedTuple):
    """What is learned.

    theta     (n, n_states, n_actions)  softmax parameters by queue and action: 0 silent, k the k-th access point
    policy    the same                  zeta, the softmax of theta over what the user has; silent if its queue is empty
    average   (n,)                      mu, estimates of the average rewards
    baseline  (n, n_states)             running mean of what the actor multiplies with; unused where its step is 0
    keys      (n_cells,)                uint64, 0: free; one cell where nothing is hashed
    values    (n_cells + 1,)            Q; the last one stays 0: the dummy state-action, and what found no cell
    counts    (3,)                      updates so far, hashed cells in use, times that a key found no cell
    largest   (1,)                      largest |Q| written so far
    """

    theta: np.ndarray
    policy: np.ndarray
    average: np.ndarray
    baseline: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    counts: np.ndarray
    largest: np.ndarray


class Graph(NamedTuple):
    """Who shares what with whom.

    access_point  (n, most_places)  int64, numbered 0.. among those there are; -1: none
    heard         (n_access_points,)  room for counting
    ball          (n, most)         users of the kappa-hop ball, itself first, padded with -1
    words         (n, n_codes)      uint64 word of each local state-action
    salt          (n,)              uint64 word of the user's own table
    empty         (n,)              key of the dummy state-action: everybody's queue in the ball is empty
    """

    access_point: np.ndarray
    heard: np.ndarray
    ball: np.ndarray
    words: np.ndarray
    salt: np.ndarray
    empty: np.ndarray


class Steps(NamedTuple):
    """Step sizes: critic (1 + t / offset)^-critic_exponent for mu and Q; the actor's alike, over the number of users.

    actor     eta; the gradient has the factor 1/n of the paper
    baseline  of the running mean taken off the actor's sum; 0: the paper's, without
    rescale   Gamma = 1 / (1 + largest |Q|), which the theory wants and the experiments leave out
    exploration, exploration_slots  weight of the policy's entropy, added to the average reward; falls to 0 in so many
              slots, in a straight line; 0: the paper's, without
    """

    critic: float
    actor: float
    critic_exponent: float = 0.3
    actor_exponent: float = 0.3
    offset_slots: float = 1e4
    baseline: float = 0.0
    rescale: bool = False
    exploration: float = 0.0
    exploration_slots: float = 1.0


# ---- policy


@njit(cache=True, nogil=True)
def softmax_row(theta, policy, access_point, i, queue):
    """zeta_i(. | queue) from theta, over silence and the access points the user has."""
    top = theta[i, queue, 0]
    for k in range(access_point.shape[1]):
        if access_point[i, k] >= 0:
            top = max(top, theta[i, queue, k + 1])
    total = 0.0
    for a in range(theta.shape[2]):
        policy[i, queue, a] = 0.0
        if a == 0 or (queue > 0 and access_point[i, a - 1] >= 0):
            policy[i, queue, a] = np.exp(theta[i, queue, a] - top)
            total += policy[i, queue, a]
    for a in range(theta.shape[2]):
        policy[i, queue, a] /= total


@njit(cache=True, nogil=True)
def follow(theta, policy, before, access_point):
    """Policies when users have other access points than before: a new one starts level with the mean of what stays.

    before  (n, most_places)  true numbers of the access points; -2 everywhere at the start, when theta stays as it is
    """
    n, n_states, n_actions = theta.shape
    for i in range(n):
        moved = False
        for k in range(n_actions - 1):
            moved = moved or before[i, k] != access_point[i, k]
        if not moved:
            continue
        for queue in range(n_states):
            total, stay = theta[i, queue, 0], 1
            for k in range(n_actions - 1):
                if before[i, k] == access_point[i, k] and access_point[i, k] >= 0:
                    total += theta[i, queue, k + 1]
                    stay += 1
            for k in range(n_actions - 1):
                if before[i, k] != access_point[i, k] and before[i, k] > -2:
                    theta[i, queue, k + 1] = total / stay
            softmax_row(theta, policy, access_point, i, queue)


@njit(cache=True, nogil=True)
def choose(policy, queue, draw, send):
    """a_i drawn from zeta_i(. | s_i) by one uniform number each; an empty queue is silent."""
    for i in range(queue.shape[0]):
        action, below = 0, policy[i, queue[i], 0]
        for a in range(1, policy.shape[2]):
            if draw[i] < below or queue[i] == 0:
                break
            if policy[i, queue[i], a] > 0.0:  # rounding must not choose what has no probability
                action = a
                below += policy[i, queue[i], a]
        send[i] = action


# ---- critic


@njit(cache=True, nogil=True)
def find(keys, values, counts, key):
    """The cell of a key, taken if it was free; the last cell, which stays 0, where the table is full around it."""
    mask = keys.shape[0] - 1
    cell = np.int64(key & np.uint64(mask))
    for _ in range(PROBES):
        if keys[cell] == key:
            return cell
        if keys[cell] == 0:
            keys[cell] = key
            counts[1] += 1
            return cell
        cell = (cell + 1) & mask
    counts[2] += 1
    return np.int64(values.shape[0] - 1)


@njit(cache=True, nogil=True)
def encode(access_point, queue, send, code):
    """Number of each local state-action z_i, written into code (n,): 0 for an empty queue, then by queue and action."""
    n_actions = access_point.shape[1] + 1
    for i in range(queue.shape[0]):
        action = send[i] if send[i] > 0 and access_point[i, send[i] - 1] >= 0 else 0
        code[i] = 1 + (queue[i] - 1) * n_actions + action if queue[i] > 0 else 0


@njit(cache=True, nogil=True)
def locate(reads, keys, values, counts, graph, code, cell):
    """The cell of each Q_i for these local state-actions code (n,), written into cell (n,).

    reads  OWN: z_i; BALL: z of the kappa-hop ball; CONTENTION: z_i and whether anybody else sent where it did

    The dummy state-action, all queues that are read empty, has the last cell, which stays 0.
    """
    n, n_codes = graph.words.shape
    n_actions = graph.access_point.shape[1] + 1
    dummy = values.shape[0] - 1
    if reads == OWN:
        for i in range(n):
            cell[i] = i * n_codes + code[i] if code[i] > 0 else dummy
    elif reads == BALL:
        for i in range(n):
            key = graph.salt[i]
            for m in range(graph.ball.shape[1]):
                j = graph.ball[i, m]
                if j < 0:
                    break
                key ^= graph.words[j, code[j]]
            cell[i] = find(keys, values, counts, key) if key != graph.empty[i] else dummy
    else:
        for k in range(graph.heard.shape[0]):
            graph.heard[k] = 0
        for i in range(n):
            action = (code[i] - 1) % n_actions if code[i] > 0 else 0
            if action > 0:
                graph.heard[graph.access_point[i, action - 1]] += 1
        for i in range(n):
            action = (code[i] - 1) % n_actions if code[i] > 0 else 0
            met = 1 if action > 0 and graph.heard[graph.access_point[i, action - 1]] > 1 else 0
            cell[i] = (i * n_codes + code[i]) * 2 + met if code[i] > 0 else dummy


@njit(cache=True, nogil=True)
def improve(learner, graph, steps, queue, send, cell, delivered, next_cell, learns, old):
    """One pass of Algorithm 1, lines 5 to 8, for all users: z(t) is in `cell`, z(t+1) in `next_cell`.

    queue, send  (n,)  what user i had chosen on, and what: the gradient's s_i(t), a_i(t)
    delivered    (n,)  r_i(t): whether its packet got through
    learns       (n,)  bool: whose policy may move; others' access points have changed since
    old          (n,)  room for Q_i(z(t)) as it was, which is what the actor sums

    alpha, beta are steps of critic and actor; the target has the old mu, and the actor the table before this write.
    """
    theta, policy = learner.theta, learner.policy
    n = graph.access_point.shape[0]
    at = 1.0 + learner.counts[0] / steps.offset_slots
    alpha = steps.critic * at**-steps.critic_exponent
    beta = steps.actor * at**-steps.actor_exponent / n
    if steps.rescale:
        beta /= 1.0 + learner.largest[0]
    entropy = steps.exploration * max(0.0, 1.0 - learner.counts[0] / steps.exploration_slots)
    dummy = learner.values.shape[0] - 1
    for i in range(n):
        reward = 1.0 * delivered[i]
        target = reward - learner.average[i] + learner.values[next_cell[i]]
        old[i] = learner.values[cell[i]]
        learner.average[i] += alpha * (reward - learner.average[i])
        if cell[i] != dummy:
            value = old[i] + alpha * (target - old[i])
            learner.values[cell[i]] = value
            learner.largest[0] = max(learner.largest[0], abs(value))
    for i in range(n):
        if queue[i] == 0 or not learns[i]:
            continue  # silence is certain: its log probability has no gradient
        total = 0.0
        for m in range(graph.ball.shape[1]):
            j = graph.ball[i, m]
            if j < 0:
                break
            total += old[j]
        if steps.baseline > 0.0:
            total -= learner.baseline[i, queue[i]]
            learner.baseline[i, queue[i]] += steps.baseline * total
        if entropy > 0.0:
            total -= entropy * np.log(max(policy[i, queue[i], send[i]], 1e-12))  # it may have moved to 0 since
        for a in range(theta.shape[2]):
            theta[i, queue[i], a] += beta * total * ((1.0 if a == send[i] else 0.0) - policy[i, queue[i], a])
        softmax_row(theta, policy, graph.access_point, i, queue[i])
    learner.counts[0] += 1


# ---- tables


def mixed(number: np.ndarray) -> np.ndarray:
    """A random-looking uint64 for each uint64, a different one for each: the finaliser of splitmix64 (Steele 2014)."""
    z = number + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def graph_of(access_point: np.ndarray, deadline_slots: int, kappa: int) -> Graph:
    """The graph of users whose access points (n, most_places) have these numbers, -1 for none."""
    n = access_point.shape[0]
    there, dense = np.unique(access_point, return_inverse=True)
    dense = dense.reshape(access_point.shape) - int(there[0] < 0)
    user = np.arange(n, dtype=np.uint64)
    number = np.concatenate([np.zeros((n, 1)), access_point + 1], axis=1).astype(np.uint64)  # 0: silent
    queue = np.arange(1, 2**deadline_slots, dtype=np.uint64)
    packed = user[:, None, None] << np.uint64(40) | queue[:, None] << np.uint64(32) | number[:, None, :]
    empty = user[:, None] << np.uint64(40)
    words = mixed(np.concatenate([empty, packed.reshape(n, -1)], axis=1))
    salt = mixed(user | np.uint64(1 << 63))
    ball = np.ascontiguousarray(balls(neighbours_of(access_point), kappa), dtype=np.int64)
    of_empty = np.where(ball >= 0, words[ball, 0], np.uint64(0))
    heard = np.zeros(max(int(dense.max()) + 1, 1), np.int64)
    return Graph(dense.astype(np.int64), heard, ball, words, salt, salt ^ np.bitwise_xor.reduce(of_empty, axis=1))


def fresh(graph: Graph, deadline_slots: int, reads: int, most_cells: int = MOST_CELLS) -> Learner:
    """A learner that knows nothing: mu = 0, Q = 0, and each user's policy uniform over what it can do."""
    n, n_codes = graph.words.shape
    n_states, n_actions = 2**deadline_slots, graph.access_point.shape[1] + 1
    n_keys, n_cells = 1, n * n_codes * (2 if reads == CONTENTION else 1)
    if reads == BALL:
        sizes = np.minimum((graph.ball >= 0).sum(axis=1), 30)  # 16^300 is no float, and 3^30 enough
        wanted = 2.0 * float((float(n_codes) ** sizes).sum())  # half full when everything has been visited
        n_keys = n_cells = 1 << min(int(np.ceil(np.log2(wanted))), int(most_cells).bit_length() - 1)
    learner = Learner(
        np.zeros((n, n_states, n_actions)),
        np.zeros((n, n_states, n_actions)),
        np.zeros(n),
        np.zeros((n, n_states)),
        np.zeros(n_keys, np.uint64),
        np.zeros(n_cells + 1),
        np.zeros(3, np.int64),
        np.zeros(1),
    )
    follow(learner.theta, learner.policy, np.full_like(graph.access_point, -2), graph.access_point)
    return learner


def aloha_policy(access_point: np.ndarray, success: np.ndarray, p_send: float, n_states: int) -> np.ndarray:
    """Localised ALOHA as a policy (n, n_states, n_actions): send with p_send, where is weighted by q_k / users of k.

    access_point  (n, most_places)  numbers, -1 for none
    success       (n, most_places)  q_k, probability that a lone sender gets through
    """
    there = access_point >= 0
    _, where, users = np.unique(access_point, return_inverse=True, return_counts=True)
    weight = np.where(there, np.maximum(success, 0.0) / users[where.reshape(access_point.shape)], 0.0)
    total = weight.sum(axis=1, keepdims=True)
    policy = np.zeros((len(access_point), n_states, access_point.shape[1] + 1))
    policy[:, :, 0] = 1.0
    sends = np.where(total > 0.0, p_send, 0.0)
    policy[:, 1:, 0] = 1.0 - sends
    policy[:, 1:, 1:] = (sends * weight / np.where(total > 0.0, total, 1.0))[:, None, :]
    return policy


# ---- controllers


class Played(NamedTuple):
    """One slot as the learner needs it: the queue chosen on, the choice, its graph and cells, the access points."""

    slot: int
    queue: np.ndarray
    send: np.ndarray
    cell: np.ndarray
    graph: Graph
    access_point: np.ndarray


class ScalableAc:
    """The scalable actor-critic on the seat `users`, learning while it runs: one pass of Algorithm 1 per slot.

    kappa              hops of the ball that a user listens to
    contention         critics read their own state-action and whether anybody else sent to the same access point, a
                       table that does not grow with the ball (who sent is heard from neighbours, at kappa 0 too);
                       false: all state-actions of the ball, as the paper
    theory             steps fall with the exponents 0.65 (critic) and 0.85 (actor) and are rescaled; else both with 0.3
    critic_step        first step of the critic; not set: 0.1, or 0.5 for balls of kappa 1 and 2
    actor_step         first step of the actor for a network of 25 users, the paper's; it grows with the network, so
                       that what a user makes of its neighbours' values does not depend on how many others there are;
                       not set: 0.5 with contention, else 1 for kappa 0 and 5 for others
    offset_slots       slots after which steps begin to fall
    baseline           step of a running mean of the ball's values that is taken off them; 0 as the paper; not set: 0.01
                       with contention, else 0
    exploration        weight of the policy's entropy, which keeps users from settling before they know their
                       neighbours' ways, falling to 0 in a straight line; 0 as the paper
    exploration_slots  in so many slots
    most_cells         of the table over balls, 16 bytes each; what finds no cell is not learned and counts as 0

    Raises ControllerError for options out of range, seats of other worlds, and deadlines of more than 8 slots.
    """

    def __init__(
        self,
        agent: Agent,
        seed: int,
        *,
        kappa: int = 1,
        contention: bool = True,
        theory: bool = False,
        critic_step: float | None = None,
        actor_step: float | None = None,
        offset_slots: float = 10_000.0,
        baseline: float | None = None,
        exploration: float = 0.0,
        exploration_slots: float = 400_000.0,
        most_cells: int = MOST_CELLS,
    ):
        for name, value, low, high in (
            ("kappa", kappa, 0, 2),
            ("critic_step", 0.0 if critic_step is None else critic_step, 0.0, 1.0),
            ("actor_step", 0.0 if actor_step is None else actor_step, 0.0, MOST_WEIGHT),
            ("offset_slots", offset_slots, 1.0, np.inf),
            ("baseline", 0.0 if baseline is None else baseline, 0.0, 1.0),
            ("exploration", exploration, 0.0, MOST_WEIGHT),
            ("exploration_slots", exploration_slots, 1.0, np.inf),
            ("most_cells", most_cells, 1, MOST_CELLS_EVER),
        ):
            if not low <= value <= high:
                raise ControllerError(f"scalable_ac: {name} must be from {low:g} to {high:g}, got {value!r}")
        self.kappa, self.reads = kappa, reads_of(kappa, contention)
        self.delay, self.deadline_slots = agent.delay, deadline_of("scalable_ac", agent)
        if self.deadline_slots > MOST_DEADLINE_SLOTS:
            raise ControllerError(
                f"scalable_ac: tables over queues are for deadlines of at most {MOST_DEADLINE_SLOTS} slots, the world "
                f"has {self.deadline_slots}"
            )
        shape = next(field.shape for field in agent.observes if field.name == "access_point")
        self.steps = steps_of(
            kappa, self.reads, shape[0], theory, critic_step, actor_step, offset_slots, baseline, exploration,
            exploration_slots,
        )  # fmt: skip
        self.most_cells = most_cells
        self.rng = np.random.default_rng(seed)
        self.access_point = np.full(shape, -1, np.int64)
        self.graph = graph_of(self.access_point, self.deadline_slots, kappa)
        self.learner = fresh(self.graph, self.deadline_slots, self.reads, 1)
        self._sized = False
        self._room = np.zeros(shape[0], np.int64), np.zeros(shape[0])
        self._asked: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._before: Played | None = None
        self._ready: tuple[Played, np.ndarray, np.ndarray] | None = None
        self._start()
        self._warm_up()

    def act(self, seen: Observation) -> Action:
        """Each user's choice for this slot, drawn from its policy; what the slot before brought is kept for learn()."""
        if seen.reward is None:
            self._start()
        if not np.array_equal(seen.values["access_point"], self.access_point):
            self._follow(np.array(seen.values["access_point"], np.int64))
        queue, send = np.array(seen.values["queue"], np.int64), np.zeros(len(self.access_point), np.int64)
        choose(self.learner.policy, queue, self.rng.random(queue.size), send)
        self._asked[seen.slot] = queue, send
        for slot in [slot for slot in self._asked if slot < seen.slot - self.delay]:
            del self._asked[slot]
        now = self._now(seen.slot, queue)
        before, self._before, self._ready = self._before, now, None
        ours = seen.timing.get("action_source", "agent") == "agent"
        if now is not None and before is not None and before.slot == seen.slot - 1 and ours:
            self._ready = before, np.array(seen.values["delivered"], bool), now.cell
        return Action({"send": send})

    def learn(self) -> None:
        """Lines 5 to 8 of Algorithm 1 for the slot before, after the answer has left. Small enough to be no job."""
        if self._ready is None:
            return
        (_, queue, send, cell, graph, access_point), delivered, next_cell = self._ready
        self._ready = None
        learns = (access_point == self.access_point).all(axis=1)
        improve(self.learner, graph, self.steps, queue, send, cell, delivered, next_cell, learns, self._room[1])

    @property
    def cells_in_use(self) -> int:
        """Cells of the table over balls visited so far; all there are where they are not hashed."""
        return int(self.learner.counts[1]) if self.reads == BALL else self.learner.values.size - 1

    @property
    def times_without_cell(self) -> int:
        """How often a state-action found no cell in a full table: its Q counts as 0 and is not learned."""
        return int(self.learner.counts[2])

    def _now(self, slot: int, queue: np.ndarray) -> Played | None:
        """The state-actions of this slot: the queues seen now, and the answer in force, which may be an old one."""
        if slot - self.delay not in self._asked:
            return None
        chosen_on, send = self._asked[slot - self.delay]
        learner, code, cell = self.learner, self._room[0], np.zeros(queue.size, np.int64)
        encode(self.graph.access_point, queue, send, code)
        locate(self.reads, learner.keys, learner.values, learner.counts, self.graph, code, cell)
        return Played(slot, chosen_on, send, cell, self.graph, self.access_point)

    def _follow(self, access_point: np.ndarray) -> None:
        """The users see other access points than before: other balls, other places."""
        self.graph = graph_of(access_point, self.deadline_slots, self.kappa)
        learner = self.learner
        if not self._sized:
            self.learner, self._sized = fresh(self.graph, self.deadline_slots, self.reads, self.most_cells), True
        else:
            follow(learner.theta, learner.policy, self.access_point, access_point)
            if self.reads == BALL and learner.counts[1] > learner.keys.size // 2:  # mostly of balls that are gone
                learner.keys[:], learner.values[:], learner.counts[1] = 0, 0.0, 0  # how often none was found stays
                self._before = self._ready = None
        self.access_point = access_point

    def _start(self) -> None:
        """A new flight: nothing of before follows into it. What was learned stays."""
        self._asked, self._before, self._ready = {}, None, None

    def _warm_up(self) -> None:
        """Compile everything before a clock starts. Leaves no trace: nobody has an access point yet."""
        n = len(self.access_point)
        nobody, learner = np.zeros(n, np.int64), self.learner
        send, cell, no = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, bool)
        choose(learner.policy, nobody, np.zeros(n), send)
        encode(self.graph.access_point, nobody, send, cell)
        locate(self.reads, learner.keys, learner.values, learner.counts, self.graph, nobody, cell)
        improve(learner, self.graph, self.steps, nobody, send, cell, no, cell, no, self._room[1])


def reads_of(kappa: int, contention: bool) -> int:
    """What critics read with these options of ScalableAc."""
    return CONTENTION if contention else BALL if kappa else OWN


def steps_of(
    kappa: int,
    reads: int,
    n_users: int,
    theory: bool = False,
    critic_step: float | None = None,
    actor_step: float | None = None,
    offset_slots: float = 1e4,
    baseline: float | None = None,
    exploration: float = 0.0,
    exploration_slots: float = 1.0,
) -> Steps:
    """The steps that these options of ScalableAc stand for."""
    critic, actor = CONTENTION_STEPS if reads == CONTENTION else WORKED[kappa]
    critic = critic if critic_step is None else critic_step
    actor = (actor if actor_step is None else actor_step) * n_users / NETWORK
    centred = (0.01 if reads == CONTENTION else 0.0) if baseline is None else baseline
    exponents = THEORY if theory else WORKED_EXPONENTS
    explores = float(exploration), float(exploration_slots)
    return Steps(critic, actor, *exponents, float(offset_slots), centred, theory, *explores)


def deadline_of(name: str, agent: Agent) -> int:
    """Slots a packet has, of the seat's facts. Raises ControllerError for a seat of another world."""
    if "deadline_slots" not in agent.facts or not any(field.name == "access_point" for field in agent.observes):
        raise ControllerError(
            f"{name} acts for the users of the world `access`; seat {agent.name!r} lacks the fact deadline_slots or "
            "the observation access_point"
        )
    return int(agent.facts["deadline_slots"])


class Aloha:
    """Localised ALOHA, the paper's benchmark: who has a packet sends it with one probability, to a random access point.

    p_send  probability of sending; the weight of an access point is its success probability over the users it has
    """

    def __init__(self, agent: Agent, seed: int, *, p_send: float = 0.8):
        for name, value, low, high in (("p_send", p_send, 0.0, 1.0),):
            if not low <= value <= high:
                raise ControllerError(f"aloha: {name} must be from {low:g} to {high:g}, got {value!r}")
        deadline_of("aloha", agent)
        self.p_send = p_send
        self.rng = np.random.default_rng(seed)
        choose(np.ones((1, 1, 1)), np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.int64))  # compiles it

    def act(self, seen: Observation) -> Action:
        """Each user's choice for this slot."""
        values = seen.values
        policy = aloha_policy(values["access_point"], values["success"], self.p_send, 2)
        waits = (values["queue"] > 0).astype(np.int64)  # all it asks of a queue, of which deadlines may make 65,536
        send = np.zeros(waits.size, np.int64)
        choose(policy, waits, self.rng.random(waits.size), send)
        return Action({"send": send})
