"""Random access learned by neighbours: the experiments of arXiv 2006.06626 on the 5 x 5 network.

The slot loop is one kernel, which plays the world's own kernel and the controller's: a million slots take seconds,
and give the bits that a run of the scenario gives (tests/papers/test_reproduce_access.py).
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from numba import njit

from controllers.papers import Row, access_exact, write_csv
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
    reads_of,
    steps_of,
)
from twin.parallel import spread
from twin.stats import estimate
from twin.worlds.access import Grid, Instance, balls, neighbours_of, on_grid, play, play_slots

Seed = int | list[int]
Corners = Literal["interior", "all"]
DEADLINE_SLOTS = 2
TABLE_CELLS = 1 << 24  # the specification's; two million slots fill a fifth, where a controller's own table gets full
EXPLORING = 0.7
JUDGED_SLOTS = 100_000  # with the policy as it is
JUDGED_ERROR = 2e-4  # standard error of their mean: of 30 judgements of a policy; 2 seeds often agree better, by luck
CRITIC_ALONE = Steps(0.5, 0.0, 0.65, 0.0, 1e3)  # Q5
SEEDS = range(10, 15)
P_SEND = np.arange(1, 21) / 20
INSTANCES: list[tuple[Corners, int]] = [(corners, seed) for corners in get_args(Corners) for seed in range(5)]
LEVELS = {  # specification, section 4: ALOHA, best column of kappa 0, best column of kappa 1
    ("interior", 0): (0.156, 0.286, 0.270),
    ("interior", 1): (0.128, 0.208, 0.240),
    ("interior", 2): (0.149, 0.226, 0.246),
    ("interior", 3): (0.130, 0.223, 0.241),
    ("interior", 4): (0.148, 0.273, 0.305),
    ("all", 0): (0.244, 0.384, 0.354),
    ("all", 1): (0.281, 0.423, 0.365),
    ("all", 2): (0.262, 0.393, 0.353),
    ("all", 3): (0.260, 0.381, 0.355),
    ("all", 4): (0.297, 0.486, 0.431),
}


@njit(cache=True, nogil=True)
def fly(
    slots, reads, learning, learner, graph, steps, access_point, success, arrival, heard, deadline, world, own, curve
):
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
    theory: bool = False
    exploration: float = 0.0  # falls to 0 in the first EXPLORING of the slots

    @property
    def reads(self) -> int:
        """What the critics read."""
        return reads_of(self.kappa, self.contention)

    def steps(self, n_users: int) -> Steps:
        """Of the critic and the actor."""
        return steps_of(
            self.kappa, self.reads, n_users, self.theory, self.critic_step, self.actor_step, baseline=self.baseline,
            exploration=self.exploration, exploration_slots=EXPLORING * self.slots,
        )  # fmt: skip


METHODS = {  # steps chosen on training seeds 0, 1, 100 and 101, judged on others; docs/papers/access.md
    "kappa 0": Method(0, 1_000_000, actor_step=0.5),
    "kappa 1": Method(1, 2_000_000, critic_step=0.5, actor_step=1.0),
    "kappa 0, contention": Method(0, 1_000_000, contention=True),
    "kappa 1, contention": Method(1, 1_000_000, contention=True),
    "kappa 0, contention, exploring": Method(0, 2_000_000, contention=True, actor_step=1.0, exploration=0.5),
    "kappa 1, contention, exploring": Method(1, 2_000_000, contention=True, actor_step=1.0, exploration=0.5),
}
PAIRS = (  # alike but for kappa: what the critics read, baseline, and exploration too move the level
    ("kappa 1", "kappa 0"),
    ("kappa 1, contention", "kappa 0, contention"),
    ("kappa 1, contention, exploring", "kappa 0, contention, exploring"),
)


class Trained(NamedTuple):
    """A run of training: the learner, its mean reward per user and slot over time, and with its last policy judged."""

    learner: Learner
    curve: np.ndarray
    level: float


def flown(
    instance: Instance,
    learner: Learner,
    graph: Graph,
    reads: int,
    steps: Steps,
    learning: bool,
    slots: int,
    seeds: tuple[Seed, Seed],
    n_blocks: int = 1,
) -> np.ndarray:
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


def train(instance: Instance, method: Method, seed: int, n_blocks: int = 50) -> Trained:
    """Train on an instance from nothing, and judge the policy that came out."""
    graph = graph_of(instance.access_point, DEADLINE_SLOTS, method.kappa)
    learner = fresh(graph, DEADLINE_SLOTS, method.reads, TABLE_CELLS)
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
    learner = fresh(graph, 1, BALL)
    follow_chain(
        slots, chance.cumsum(axis=1), n_codes, reward, learner, graph, CRITIC_ALONE, np.random.default_rng(seed)
    )
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


# ---- Q6, Q8, Q9: invariants of the world, locality, cost


def packets_lost_count(slots: int = 100_000) -> int:
    """Q6: users whose packets do not add up (delivered + expired + queued = arrived), plus closed forms that fail."""
    instance, rng = on_grid(Grid(instance=1)), np.random.default_rng(0)
    wrong = 0
    queue, count = np.zeros(25, np.int64), np.zeros((25, 3), np.int64)
    heard, delivered = np.zeros(16, np.int64), np.zeros(25, bool)
    send = rng.integers(0, 5, (slots, 25))
    play_slots(queue, send, instance.access_point, instance.success, instance.arrival, DEADLINE_SLOTS,
               np.random.default_rng(1), heard, delivered, count)  # fmt: skip
    queued = (queue & 1) + (queue >> 1)
    wrong += int(np.count_nonzero(count[:, 0] != count[:, 1] + count[:, 2] + queued))
    for n, expected in ((1, 99), (2, 0)):  # p = q = 1: alone, each slot after the first; together, never
        count = np.zeros((n, 3), np.int64)
        play_slots(np.zeros(n, np.int64), np.ones((100, n), np.int64), np.zeros((n, 1), np.int64), np.ones((n, 1)),
                   np.ones(n), DEADLINE_SLOTS, np.random.default_rng(1), np.zeros(1, np.int64), np.zeros(n, bool),
                   count)  # fmt: skip
        wrong += int((count[:, 1] != expected).sum())
    return wrong


History = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def history(instance: Instance, slots: int, seed: int = 0) -> History:
    """Queues, choices and deliveries of users that send at random."""
    rng, n = np.random.default_rng(seed), len(instance.arrival)
    queue, heard, delivered = np.zeros(n, np.int64), np.zeros(instance.n_access_points, np.int64), np.zeros(n, bool)
    there = (instance.access_point >= 0).sum(axis=1)
    found: History = []
    for _ in range(slots):
        before, send = queue.copy(), rng.integers(0, there + 1)
        play(queue, send, instance.access_point, instance.success, instance.arrival, DEADLINE_SLOTS, rng.random(n),
             rng.random(n), heard, delivered)  # fmt: skip
        found.append((before, np.where(before > 0, send, 0), delivered.copy()))
    return found


def learn_from(
    slots: History,
    learner: Learner,
    graph: Graph,
    reads: int,
    steps: Steps,
    kernels: Sequence[Callable[..., None]] = (encode, locate, improve),
) -> None:
    """One pass of Algorithm 1 for each pair of slots that follow each other, whoever chose in them."""
    encoded, located, improved = kernels
    n = len(graph.salt)
    code, old, everybody, last = np.zeros(n, np.int64), np.zeros(n), np.ones(n, bool), None
    for queue, send, delivered in slots:
        cell = np.zeros(n, np.int64)
        encoded(graph.access_point, queue, send, code)
        located(reads, learner.keys, learner.values, learner.counts, graph, code, cell)
        if last is not None:
            improved(learner, graph, steps, last[0], last[1], last[3], last[2], cell, everybody, old)
        last = queue, send, delivered, cell


def replayed(kappa: int, reads: int) -> tuple[Learner, Learner, np.ndarray]:
    """Q8: two learners whose histories agree on user 0's 2 kappa-hop ball and nowhere else, and its kappa-hop ball."""
    instance = on_grid(Grid(height=7, width=7, arrival=0.1, success=0.9))  # quiet: state-actions come again
    graph = graph_of(instance.access_point, DEADLINE_SLOTS, kappa)
    near = balls(neighbours_of(instance.access_point), 2 * kappa)[0]
    inside = np.isin(np.arange(49), near[near >= 0])
    one, other = history(instance, 500, seed=1), history(instance, 500, seed=2)
    mixture: History = []
    for a, b in zip(one, other):
        queue, send, delivered = (np.where(inside, of_one, of_other) for of_one, of_other in zip(a, b))
        mixture.append((queue, send, delivered))
    learners = []
    for slots in (one, mixture):
        learners.append(fresh(graph, DEADLINE_SLOTS, reads, 1 << 18))
        learn_from(slots, learners[-1], graph, reads, Steps(0.5, 5.0, baseline=0.01))
    return learners[0], learners[1], graph.ball[0][graph.ball[0] >= 0]


def differing_bytes(kappa: int, reads: int) -> int:
    """Q8: bytes of user 0's policy, average and baseline that what happens outside has changed."""
    one, other, _ = replayed(kappa, reads)
    pairs = [(getattr(one, name)[0], getattr(other, name)[0]) for name in ("theta", "policy", "average", "baseline")]
    return sum(int(np.sum(np.frombuffer(a.tobytes(), "u1") != np.frombuffer(b.tobytes(), "u1"))) for a, b in pairs)


def slot_seconds(sides: Sequence[tuple[int, int]], methods: Sequence[Method], slots: int, blocks: int) -> np.ndarray:
    """Seconds per slot of learning on grids (height, width), (n_grids,): the least of some blocks, taken in turns."""
    made = []
    for (height, width), method in zip(sides, methods):
        instance = on_grid(Grid(height=height, width=width))
        graph = graph_of(instance.access_point, DEADLINE_SLOTS, method.kappa)
        made.append((instance, fresh(graph, DEADLINE_SLOTS, method.reads), graph, method))
    best = np.full(len(made), np.inf)
    for block in range(blocks + 1):  # the first one compiles
        for i, (instance, learner, graph, method) in enumerate(made):
            n_slots = max(1, slots * 25 // len(instance.arrival))
            steps, seeds = method.steps(len(instance.arrival)), ([block, 1], [block, 2])
            begun = time.perf_counter()
            flown(instance, learner, graph, method.reads, steps, True, n_slots, seeds)
            if block:
                best[i] = min(best[i], (time.perf_counter() - begun) / n_slots)
    return best


def kernel_slots_per_s(slots: int = 100_000, blocks: int = 7) -> float:
    """Slots of the world's kernel per second, 25 users that send at random, one core: the best of so many blocks."""
    instance, queue = on_grid(Grid()), np.zeros(25, np.int64)
    send = np.random.default_rng(0).integers(0, 5, (slots, 25))
    best = np.inf
    for _ in range(blocks):
        begun = time.perf_counter()
        play_slots(queue, send, instance.access_point, instance.success, instance.arrival, DEADLINE_SLOTS,
                   np.random.default_rng(1), np.zeros(16, np.int64), np.zeros(25, bool),
                   np.zeros((25, 3), np.int64))  # fmt: skip
        best = min(best, time.perf_counter() - begun)
    return slots / best


# ---- section 5 and appendix E: the levels


class Found(NamedTuple):
    """What one training came to."""

    corners: Corners
    instance: int
    method: str
    seed: int
    slots: int
    level: float
    peak: float
    cells: int
    times_without_cell: int


def compare(
    methods: dict[str, Method],
    seeds: Sequence[int],
    say: Callable[[str], None],
    instances: Sequence[tuple[Corners, int]] = tuple(INSTANCES),
) -> tuple[list[Found], dict[tuple, np.ndarray]]:
    """Every method on every instance with every training seed, the same seeds for all; and the learning curves."""
    todo = [(*which, name, seed) for name in methods for which in instances for seed in seeds]
    found: list[Found | None] = [None] * len(todo)
    curves: dict[tuple, np.ndarray] = {}

    def work(first: int, last: int) -> None:
        for i in range(first, last):
            corners, instance, name, seed = todo[i]
            method = methods[name]
            made = train(on_grid(Grid(corners=corners, instance=instance)), method, seed)
            found[i] = Found(corners, instance, name, seed, method.slots, made.level, float(made.curve.max()),
                             int(made.learner.counts[1]), int(made.learner.counts[2]))  # fmt: skip
            curves[todo[i]] = made.curve
            if (i + 1) % max(1, len(instances) * len(seeds)) == 0:
                say(f"{name}: trained on {len(instances)} instances, {len(seeds)} seeds each")

    spread(work, len(todo), step=1)
    return [one for one in found if one is not None], curves


def uniform_and_aloha(instances: Sequence[tuple[Corners, int]], slots: int) -> dict[tuple[str, int], tuple[float, ...]]:
    """Levels of the first policy and of ALOHA with its best p_send, and that p_send, of each instance."""
    found: dict[tuple[str, int], tuple[float, ...]] = {}

    def work(first: int, last: int) -> None:
        for corners, seed in instances[first:last]:
            instance = on_grid(Grid(corners=corners, instance=seed))
            first_policy = fresh(graph_of(instance.access_point, DEADLINE_SLOTS, 0), DEADLINE_SLOTS, OWN).policy
            policies = [aloha_policy(instance.access_point, instance.success, p, 4) for p in P_SEND]
            tried = [judged(instance, policy, 1, slots) for policy in policies]
            best = int(np.argmax(tried))
            found[corners, seed] = (
                judged(instance, first_policy, 0),
                judged(instance, policies[best], 0),  # in other slots than it was tuned on
                float(P_SEND[best]),
            )

    spread(work, len(instances), step=1)
    return found


def advantage(found: Sequence[Found], one: str, other: str, which: tuple[Corners, int]) -> list[float]:
    """Differences of the levels of two methods on an instance, paired by training seed."""
    levels = {(f.method, f.seed): f.level for f in found if (f.corners, f.instance) == which}
    return [levels[one, seed] - levels[other, seed] for m, seed in sorted(levels) if m == one]


def column_rows(found: Sequence[Found], methods: dict[str, Method]) -> list[Row]:
    """How many of the ten instances reach the best column of the specification: mean plus its standard error.

    Entries of the specification are single trainings, the better of two steps: so what single trainings reach is told.
    """
    rows = []
    for name, method in methods.items():
        column = 1 if method.kappa == 0 else 2
        short, of_method = [], [f for f in found if f.method == name]
        for which in INSTANCES:
            mean, error = summary(of_method, which)
            if mean + error < LEVELS[which][column]:
                single = [f.level >= LEVELS[which][column] for f in of_method if (f.corners, f.instance) == which]
                reach = f"which {sum(single)} of {len(single)} trainings reach"
                short.append(f"{which[0]} {which[1]}: {mean:.4f} +- {error:.4f} < {LEVELS[which][column]}, {reach}")
        form, steps = "a variant of Algorithm 1" if method.contention else "Algorithm 1 to the letter", method.steps(25)
        rows.append(
            Row(
                f"best_column_{named(name)}",
                10.0 - len(short),
                None,
                "10 of 10",
                not short,
                f"specification section 4, kappa {method.kappa}; {form}, steps {steps.critic:g} and {steps.actor:g}, "
                f"{method.slots:,} slots, {len({f.seed for f in of_method})} training seeds an instance, judged on "
                f"{JUDGED_SLOTS:,} other slots; short: {'; '.join(short) or 'none'}",
            )
        )
    return rows


def neighbourhood_rows(found: Sequence[Found]) -> list[Row]:
    """More neighbourhood less none: means over instances and training seeds of the paired differences, per layout."""
    rows = []
    for one, other in PAIRS:
        for corners in get_args(Corners):
            of_instances = [advantage(found, one, other, which) for which in INSTANCES if which[0] == corners]
            estimates = [estimate(differences, 0.95) for differences in of_instances]
            better = sum(e.half is not None and e.mean > e.half for e in estimates)
            worse = sum(e.half is not None and e.mean < -e.half for e in estimates)
            by_seed = np.mean(of_instances, axis=0)  # the mean over the five instances, once per training seed
            mean, half = estimate(by_seed.tolist(), 0.95)
            rows.append(
                Row(
                    f"{named(one)}_less_{named(other)}_{corners}",
                    mean,
                    None if half is None else (mean - half, mean + half),
                    "> 0, interval included",
                    half is not None and mean > half,
                    f"reward per user and slot, paired by training seed ({by_seed.size}); by instance the 95 % "
                    f"interval is above 0 in {better} of 5, below 0 in {worse}",
                )
            )
    return rows


WHAT = ("mean", "standard error")


def summary(found: Sequence[Found], which: tuple[Corners, int]) -> list[float]:
    """Of each method on an instance, the mean level over training seeds and its standard error, of judging at least."""
    numbers: list[float] = []
    for name in dict.fromkeys(f.method for f in found):
        levels = np.array([f.level for f in found if (f.corners, f.instance) == which and f.method == name])
        deviation = float(levels.std(ddof=1)) if levels.size > 1 else 0.0
        numbers += [float(levels.mean()), max(deviation, JUDGED_ERROR) / float(np.sqrt(levels.size))]
    return numbers


def named(method: str) -> str:
    """As a word of a row's name."""
    return method.replace(", ", "_").replace(" ", "_")


def exact_rows(quick: bool) -> list[Row]:
    """Q5, Q6, Q8, Q9, speeds, and 1,000 users: what needs no table."""
    error = critic_error(0) if quick else max(critic_error(seed) for seed in range(5))
    wrong = packets_lost_count()
    differing = sum(differing_bytes(*which) for which in ((0, OWN), (1, BALL), (2, BALL), (1, CONTENTION)))
    blocks, slots = (5, 20_000) if quick else (15, 50_000)
    own, contention = Method(0, slots), Method(1, slots, contention=True)
    small, large, few, many = slot_seconds(
        [(5, 5), (10, 10), (5, 5), (25, 40)], [own, own, contention, contention], slots, blocks
    )
    thousand = on_grid(Grid(height=25, width=40))
    tables = [
        sum(array.nbytes for array in (*fresh(graph, DEADLINE_SLOTS, CONTENTION), *graph)) / len(instance.arrival)
        for instance in (on_grid(Grid()), thousand)
        for graph in [graph_of(instance.access_point, DEADLINE_SLOTS, 1)]
    ]
    speed = kernel_slots_per_s()
    at_once = "seconds per slot, least of blocks taken in turns, one core"
    return [
        Row("kernel_slots_per_s", speed, None, ">= 1e6", speed >= 1e6, "25 users, 100,000 slots a call, 1 core"),
        Row("Q5_critic_error", error, None, "<= 0.05", error <= 0.05,
            "specification Q5: 4 nodes, kappa 3, 2e6 slots, weighted error over range, worst agent"),
        Row("Q6_what_does_not_add_up", wrong, None, "0", wrong == 0,
            "specification Q6: packets per user over 100,000 slots, closed forms of one and two users"),
        Row("Q8_bytes_that_differ", differing, None, "0", differing == 0,
            "specification Q8: 7 x 7 users, all outside twice the ball replaced; kappa 0, 1, 2 and contention"),
        Row("Q9_cost_from_25_to_100_users", large / small / 4.0, None, "<= 1.3", large / small <= 4.0 * 1.3,
            f"specification Q9: kappa 0, over the ratio of users; {at_once}"),
        Row("cost_from_25_to_1000_users", many / few / 40.0, None, "<= 1.3", many / few <= 40.0 * 1.3,
            f"kappa 1, contention, over the ratio of users; {at_once}; 1,000 users: {many * 1e6:.0f} us"),
        Row("bytes_per_user_from_25_to_1000", tables[1] / tables[0], None, "<= 1.1", tables[1] / tables[0] <= 1.1,
            f"policy, critic and graph, kappa 1, contention; {tables[1]:.0f} bytes per user with 1,000 users"),
    ]  # fmt: skip


def q7_rows(tuned: dict[tuple[str, int], tuple[float, ...]]) -> list[Row]:
    """Q7: how many of the five interior instances end at 1.3 times ALOHA or more, at the specification's budget."""
    rows = []
    methods = {"kappa 0": Method(0, 500_000), "kappa 1": Method(1, 1_000_000)}
    found, _ = compare(methods, (11,), lambda what: None, INSTANCES[:5])
    for name in methods:
        ratios = [f.level / tuned[f.corners, f.instance][1] for f in found if f.method == name]
        enough = sum(ratio >= 1.3 for ratio in ratios)
        rows.append(
            Row(
                f"Q7_{named(name)}_beats_aloha",
                enough,
                (min(ratios), max(ratios)),
                "1.3 times in >= 4 of 5",
                enough >= 4,
                "specification Q7, interior; the interval: lowest and highest ratio to ALOHA with its best p_send",
            )
        )
    return rows


def reproduce(quick: bool, out: Path, say: Callable[[str], None]) -> list[Row]:
    """The table of section 4 of the specification with intervals, learning curves, and what is checked exactly.

    quick  two training seeds an instance, and half the slots

    Writes levels.csv (every training), summary.csv (the table of the page) and two figures. Three minutes of two idle
    cores where quick, else fifteen.
    """
    rows = exact_rows(quick)
    say("exact checks and times done")
    tuned = uniform_and_aloha(INSTANCES, 20_000 if quick else JUDGED_SLOTS)
    off = {which: tuned[which][1] / LEVELS[which][0] - 1.0 for which in INSTANCES}
    furthest = max(off.values(), key=abs)
    rows.append(
        Row("Q7_aloha_off_its_level", abs(furthest), (min(off.values()), max(off.values())), "<= 0.03",
            abs(furthest) <= 0.03, "specification section 4: relative, largest of ten; interval: lowest and highest")
    )  # fmt: skip
    say("ALOHA tuned")
    rows += q7_rows(tuned)
    say("Q7 trained")
    methods = {name: m._replace(slots=m.slots // 2) if quick else m for name, m in METHODS.items()}
    found, curves = compare(methods, SEEDS[:2] if quick else SEEDS, say)
    rows += column_rows(found, methods)
    rows += neighbourhood_rows(found)
    write_csv(out / "levels.csv", Found._fields, found)
    names = ("corners", "instance", "uniform", "aloha", "p_send", *(f"{m} {what}" for m in methods for what in WHAT))
    write_csv(out / "summary.csv", names, [(*which, *tuned[which], *summary(found, which)) for which in INSTANCES])
    draw_curves(out / "access_curves.png", curves, methods, tuned)
    draw_advantage(out / "access_neighbourhood.png", found)
    rows += access_exact.rows(quick, out, say)
    return [row._replace(value=float(row.value), reached=bool(row.reached)) for row in rows]


def draw_curves(
    path: Path,
    curves: dict[tuple, np.ndarray],
    methods: dict[str, Method],
    tuned: dict[tuple[str, int], tuple[float, ...]],
) -> None:
    """Mean reward while training, over training seeds, of every instance; ALOHA and the first policy as levels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(2, 5, sharex=True)
    for axes, (corners, instance) in zip(panels.ravel(), INSTANCES):
        for name, method in methods.items():
            of_seeds = [c for (a, b, m, _), c in curves.items() if (a, b, m) == (corners, instance, name)]
            mean = np.mean(of_seeds, axis=0)
            axes.plot((np.arange(mean.size) + 0.5) / mean.size * method.slots / 1e6, mean, label=name, lw=1.2)
        uniform, aloha, _ = tuned[corners, instance]
        axes.axhline(aloha, color="k", lw=0.8, ls="--", label="ALOHA, tuned")
        axes.axhline(uniform, color="k", lw=0.8, ls=":", label="uniform")
        axes.set_title(f"{corners} {instance}", fontsize=9)
        axes.tick_params(labelsize=7)
    figure.supxlabel("slots, million", fontsize=9)
    figure.supylabel("reward per user and slot", fontsize=9)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=56)


def draw_advantage(path: Path, found: Sequence[Found]) -> None:
    """PAIRS' differences with 95 % intervals over training seeds, by instance; layouts apart, their scales differ."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, corners in zip(figure.subplots(1, 2), get_args(Corners)):
        instances = [which for which in INSTANCES if which[0] == corners]
        for at, (one, other) in enumerate(PAIRS):
            estimates = [estimate(advantage(found, one, other, which), 0.95) for which in instances]
            x = np.arange(len(instances)) + 0.2 * (at - 0.5 * (len(PAIRS) - 1))
            half = [e.half or 0.0 for e in estimates]
            axes.errorbar(x, [e.mean for e in estimates], half, fmt="o", ms=4, capsize=3, label=f"{one} less {other}")
        axes.axhline(0.0, color="k", lw=0.8)
        axes.set_yscale("symlog", linthresh=0.01)  # on `all` differences of 0.002 stand beside some of 0.05
        axes.set_xticks(range(len(instances)), [f"{corners} {seed}" for _, seed in instances], fontsize=8)
        axes.tick_params(axis="y", labelsize=8)
    figure.supylabel("difference of the levels", fontsize=9)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    figure.savefig(path, dpi=80)
