"""The scalable actor-critic: kernels against Algorithm 1 in plain Python, locality, and the controllers' manners."""

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from controllers.papers.access import critic_error, history, learn_from, replayed
from controllers.scalable_ac import (
    BALL,
    CONTENTION,
    OWN,
    Aloha,
    ScalableAc,
    Steps,
    aloha_policy,
    choose,
    encode,
    find,
    follow,
    fresh,
    graph_of,
    improve,
    locate,
    softmax_row,
)
from twin.check import check_controller
from twin.errors import ControllerError
from twin.types import Agent, Observation
from twin.worlds.access import Access, Grid, Settings, balls, neighbours_of, on_grid

ROUNDING = 1e-12  # the plain twin adds in another order
DEADLINE = 2


def world_of(slots: int = 200, **agents: object) -> Access:
    settings = Settings(grid=Grid(instance=3))
    return Access(settings, slots=slots, slot_s=0.1, folder=Path(), agents=agents or None)


# ---- Algorithm 1


class Plain:
    """Algorithm 1 in plain Python, tables in dictionaries keyed by the state-actions of the ball themselves."""

    def __init__(self, access_point, kappa, contention):
        self.points, self.n = access_point, len(access_point)
        self.balls = [[j for j in row if j >= 0] for row in balls(neighbours_of(access_point), kappa).tolist()]
        self.contention = contention
        self.theta = np.zeros((self.n, 4, 5))
        self.average, self.tables = np.zeros(self.n), [{} for _ in range(self.n)]
        self.baseline, self.t = np.zeros((self.n, 4)), 0

    def zeta(self, i, queue):
        can = [a for a in range(5) if a == 0 or (queue and self.points[i, a - 1] >= 0)]
        weights = {a: np.exp(self.theta[i, queue, a]) for a in can}
        return {a: w / sum(weights.values()) for a, w in weights.items()}

    def read(self, i, queue, send):
        """What Q_i is asked about; None is the dummy."""
        z = [(int(q), int(a) if q else 0) for q, a in zip(queue, send)]
        if self.contention:
            where = [self.points[j, a - 1] if a else -1 for j, (_, a) in enumerate(z)]
            return (*z[i], where[i] >= 0 and where.count(where[i]) > 1) if z[i][0] else None
        seen = tuple(z[j] for j in self.balls[i])
        return seen if any(q for q, _ in seen) else None

    def value(self, i, key):
        return 0.0 if key is None else self.tables[i].get(key, 0.0)

    def improve(self, steps, before, delivered, now):
        alpha = steps.critic * (1 + self.t / steps.offset_slots) ** -steps.critic_exponent
        beta = steps.actor * (1 + self.t / steps.offset_slots) ** -steps.actor_exponent
        keys = [self.read(i, *before) for i in range(self.n)]
        old = [self.value(i, keys[i]) for i in range(self.n)]
        following = [self.value(i, self.read(i, *now)) for i in range(self.n)]
        queue, send = before
        for i in range(self.n):
            if keys[i] is not None:
                target = delivered[i] - self.average[i] + following[i]
                self.tables[i][keys[i]] = (1 - alpha) * old[i] + alpha * target
            self.average[i] = (1 - alpha) * self.average[i] + alpha * delivered[i]
            if queue[i]:
                total = sum(old[j] for j in self.balls[i])
                if steps.baseline:
                    total -= self.baseline[i, queue[i]]
                    self.baseline[i, queue[i]] += steps.baseline * total
                zeta = self.zeta(i, queue[i])
                weight = steps.exploration * max(0.0, 1.0 - self.t / steps.exploration_slots)
                total -= weight * np.log(zeta[send[i]])
                for a, probability in zeta.items():
                    self.theta[i, queue[i], a] += beta * ((a == send[i]) - probability) * total / self.n
        self.t += 1


@pytest.mark.parametrize(
    ("kappa", "reads", "baseline"),
    [(0, OWN, 0.0), (1, BALL, 0.0), (2, BALL, 0.0), (1, BALL, 0.1), (1, CONTENTION, 0.01), (0, CONTENTION, 0.0)],
)
def test_kernels_equal_algorithm_1_in_plain_python(kappa, reads, baseline):
    rows, columns = (1, 3) if kappa == 2 else (3, 4)  # a large ball is in the same state-action too seldom
    instance = on_grid(Grid(height=rows, width=columns, corners="all", instance=1))
    steps = Steps(0.3, 4.0, 0.65, 0.85, 50.0, baseline, False, exploration=baseline, exploration_slots=200.0)
    graph = graph_of(instance.access_point, DEADLINE, kappa)
    learner = fresh(graph, DEADLINE, reads)
    slots = history(instance, 300)
    learn_from(slots, learner, graph, reads, steps)
    plain = Plain(instance.access_point, kappa, reads == CONTENTION)
    for (queue, send, delivered), (next_queue, next_send, _) in itertools.pairwise(slots):
        plain.improve(steps, (queue, send), delivered, (next_queue, next_send))
    np.testing.assert_allclose(learner.average, plain.average, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(learner.theta, plain.theta, rtol=0, atol=ROUNDING)
    assert np.abs(plain.theta).max() > 0.01  # it has learned something
    values = np.sort(learner.values[learner.values != 0])
    tables = np.sort([q for table in plain.tables for q in table.values() if q])
    np.testing.assert_allclose(values, tables, rtol=0, atol=ROUNDING)
    for i in range(plain.n):
        for queue in range(1, 4):
            zeta = plain.zeta(i, queue)
            expected = [zeta.get(a, 0.0) for a in range(5)]
            np.testing.assert_allclose(learner.policy[i, queue], expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("kappa", "reads"), [(0, OWN), (1, BALL), (1, CONTENTION)])
def test_compiled_kernels_equal_themselves_in_python(kappa, reads):
    instance = on_grid(Grid(height=3, width=3, instance=1))
    graph = graph_of(instance.access_point, DEADLINE, kappa)
    made = []
    for compiled in (True, False):
        learner = fresh(graph, DEADLINE, reads, 1 << 12)
        kernels = [k if compiled else k.py_func for k in (encode, locate, improve)]
        learn_from(history(instance, 60), learner, graph, reads, Steps(0.3, 4.0, rescale=True), kernels)
        made.append(learner)
    for one, other in zip(*made):
        np.testing.assert_allclose(one, other, rtol=0, atol=ROUNDING)
    draw, queue, send = np.array([0.1, 0.5, 0.999]), np.array([1, 2, 3]), np.zeros((2, 3), np.int64)
    choose(made[0].policy[3:6], queue, draw, send[0])
    choose.py_func(made[0].policy[3:6], queue, draw, send[1])
    assert (send[0] == send[1]).all()


def test_the_target_has_the_old_average_and_the_actor_the_table_before_the_write():
    graph = graph_of(np.array([[0]]), 1, 0)  # one user, one access point, one packet: codes 0 empty, 1 silent, 2 sends
    learner = fresh(graph, 1, OWN)
    learner.average[:], learner.values[:3] = 0.25, (0.0, 0.5, -1.0)
    one, steps = np.ones(1, np.int64), Steps(0.5, 2.0)
    improve(learner, graph, steps, one, one, 2 * one, np.ones(1, bool), one, np.ones(1, bool), np.zeros(1))
    assert learner.average[0] == 0.5 * 0.25 + 0.5 * 1.0
    assert learner.values[2] == 0.5 * -1.0 + 0.5 * (1.0 - 0.25 + 0.5)  # mu before its own update
    np.testing.assert_allclose(learner.theta[0, 1], [2.0 * -1.0 * -0.5, 2.0 * -1.0 * 0.5], rtol=1e-15)  # Q = -1: old


def test_the_dummy_state_action_stays_0_and_an_empty_queue_moves_no_policy():
    graph = graph_of(on_grid(Grid(height=2, width=2, instance=0)).access_point, DEADLINE, 1)
    learner = fresh(graph, DEADLINE, BALL)
    nobody = np.zeros(4, np.int64)
    learn_from([(nobody, nobody, np.ones(4, bool))] * 5, learner, graph, BALL, Steps(0.5, 5.0))
    assert not learner.values.any()
    assert not learner.theta.any()
    assert learner.counts[1] == 0
    assert (learner.average > 0.9).all()


def test_the_first_policy_is_uniform_over_silence_and_the_access_points_a_user_has():
    instance = on_grid(Grid(instance=0))
    learner = fresh(graph_of(instance.access_point, DEADLINE, 0), DEADLINE, OWN)
    for i, points in enumerate(instance.access_point):
        expected = np.append(True, points >= 0) / ((points >= 0).sum() + 1)
        np.testing.assert_allclose(learner.policy[i, 1:], np.tile(expected, (3, 1)), rtol=1e-15)
        assert learner.policy[i, 0].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_choices_come_as_often_as_the_policy_says_and_an_empty_queue_is_silent():
    policy = np.zeros((1, 2, 4))
    policy[0] = (1.0, 0.0, 0.0, 0.0), (0.2, 0.3, 0.0, 0.5)
    send, count, packet, none = np.zeros(1, np.int64), np.zeros(4), np.ones(1, np.int64), np.zeros(1, np.int64)
    for draw in (np.arange(1000) + 0.5) / 1000:
        choose(policy, packet, np.array([draw]), send)
        count[send[0]] += 1
        choose(policy, none, np.array([draw]), send)
        assert send[0] == 0
    assert count.tolist() == [200, 300, 0, 500]
    policy[0, 1] = 0.0, 0.5, 0.5 - 1e-12, 0.0  # a sum below 1
    choose(policy, packet, np.array([1.0 - 1e-15]), send)
    assert send[0] == 2


def test_every_ball_s_state_action_has_a_cell_of_its_own_and_finds_it_again():
    instance = on_grid(Grid(height=3, width=3, instance=0))
    graph = graph_of(instance.access_point, DEADLINE, 1)
    learner = fresh(graph, DEADLINE, BALL, 1 << 16)
    owner: dict[int, tuple] = {}
    code, cell = np.zeros(9, np.int64), np.zeros(9, np.int64)
    for queue, send, _ in history(instance, 1000):
        encode(graph.access_point, queue, send, code)
        locate(BALL, learner.keys, learner.values, learner.counts, graph, code, cell)
        for i in range(9):
            z = i, tuple((j, code[j]) for j in graph.ball[i] if j >= 0)
            if cell[i] < learner.keys.size:
                assert owner.setdefault(int(cell[i]), z) == z
    assert len(owner) == learner.counts[1] == np.count_nonzero(learner.keys) == len(set(owner.values())) > 1000


def test_a_full_table_stays_within_its_cells_and_what_finds_none_counts_as_0():
    for kernel in (find, find.py_func):
        keys, values, counts = np.zeros(64, np.uint64), np.zeros(65), np.zeros(3, np.int64)
        found = [kernel(keys, values, counts, np.uint64(k)) for k in range(1, 100)]
        assert sorted(found[:64]) == list(range(64))
        assert set(found[64:]) == {64}
        assert counts.tolist() == [0, 64, 99 - 64]


def test_a_table_has_at_most_the_cells_it_may_have_however_large_the_balls():
    few, many = graph_of(np.array([[0]]), 1, 0), graph_of(np.zeros((300, 4), np.int64), DEADLINE, 1)  # 16^300: no float
    for most in (1, 3, 1000, 1024, 3000):
        assert fresh(many, DEADLINE, BALL, most).keys.size == 2 ** int(np.log2(most))
    assert fresh(few, 1, BALL, 1000).keys.size == 8  # 3 state-actions, half full


# ---- Q5: the critic against the exact Q; Q8: locality


@pytest.mark.slow
def test_q5_the_critic_of_a_frozen_policy_comes_within_5_percent_of_the_exact_q():
    assert max(critic_error(seed) for seed in range(2)) <= 0.05


def test_q5_in_a_tenth_of_the_time_it_comes_within_10_percent():
    assert critic_error(0, 200_000) <= 0.1


@pytest.mark.parametrize(("kappa", "reads"), [(0, OWN), (1, BALL), (2, BALL), (1, CONTENTION)])
def test_q8_a_user_s_update_has_the_same_bits_whatever_happens_outside_twice_its_ball(kappa, reads):
    one, two, ball = replayed(kappa, reads)
    for field in ("theta", "policy", "average", "baseline"):
        assert getattr(one, field)[0].tobytes() == getattr(two, field)[0].tobytes(), field
    assert one.average[ball].tobytes() == two.average[ball].tobytes()
    assert one.theta[0].any()
    assert one.theta[-1].tobytes() != two.theta[-1].tobytes()


# ---- what the sky does: other access points


def test_a_new_access_point_starts_level_with_the_mean_of_what_stays():
    points = np.array([[3, 7, -1], [3, 7, 9]])
    after = np.array([[3, 8, -1], [3, 7, 9]])
    theta, policy = np.random.default_rng(0).normal(size=(2, 2, 4)), np.zeros((2, 2, 4))
    follow(theta, policy, np.full_like(points, -2), points)
    before, kept = theta.copy(), policy.copy()
    follow(theta, policy, points, after)
    assert theta[1].tobytes() == before[1].tobytes()
    assert policy[1].tobytes() == kept[1].tobytes()
    assert theta[0, 1, :2].tobytes() == before[0, 1, :2].tobytes()
    assert theta[0, 1, 2] == pytest.approx(before[0, 1, :2].mean(), rel=1e-15)
    assert policy[0, 1, 3] == 0.0
    assert policy[0].sum(axis=1) == pytest.approx([1.0, 1.0])
    follow.py_func(before, kept, points, after)
    softmax_row.py_func(before, kept, after, 0, 1)
    np.testing.assert_allclose(before, theta, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(kept, policy, rtol=0, atol=ROUNDING)


def test_a_ball_that_changes_gets_cells_of_its_own_and_finds_the_old_ones_when_it_is_back():
    learner = fresh(graph_of(np.array([[0], [0]]), 1, 1), 1, BALL, 64)
    code, cells = np.array([2, 1]), []
    for points in ([[0], [0]], [[0], [1]], [[0], [5]], [[0], [0]]):
        graph, cell = graph_of(np.array(points), 1, 1), np.zeros(2, np.int64)
        locate(BALL, learner.keys, learner.values, learner.counts, graph, code, cell)
        cells.append(cell.tolist())
    assert cells[0] == cells[3]
    assert cells[0] != cells[1]  # user 0 is alone
    assert cells[1] == cells[2]  # user 1 is silent and alone: which access point it has makes no difference


# ---- ALOHA


def test_aloha_weighs_an_access_point_by_its_success_over_the_users_it_has():
    points = np.array([[0, 1], [0, -1], [0, -1]])
    success = np.array([[0.6, 0.5], [0.6, 0.0], [0.6, 0.0]])
    policy = aloha_policy(points, success, 0.8, 4)
    np.testing.assert_allclose(policy[0, 3], [0.2, 0.8 * 0.2 / 0.7, 0.8 * 0.5 / 0.7])
    np.testing.assert_allclose(policy[1, 1], [0.2, 0.8, 0.0])
    assert policy[:, 0, 0].tolist() == [1.0, 1.0, 1.0]
    nowhere = aloha_policy(np.array([[-1, -1]]), np.zeros((1, 2)), 1.0, 4)
    assert nowhere[0, :, 0].tolist() == [1.0, 1.0, 1.0, 1.0]


def test_aloha_holds_no_table_over_queues():
    long = Access(Settings(grid=Grid(), deadline_slots=16), slots=1, slot_s=0.1, folder=Path())
    seen = {**long.observe("users"), "queue": np.arange(25) * 2621}  # of 65,536
    tracemalloc.start()
    send = Aloha(long.agents[0], 1, p_send=1.0).act(Observation("users", 0, seen)).values["send"]
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    assert (send > 0).tolist() == (seen["queue"] > 0).tolist()


# ---- the controllers


OPTIONS = [
    {"kappa": 0, "contention": False},
    {"kappa": 1, "contention": False, "theory": True, "most_cells": 4096},
    {"kappa": 1, "exploration": 0.5},
    {"kappa": 2, "contention": False, "most_cells": 4096},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("delay", [0, 2])
def test_the_controller_keeps_the_contract(options, delay):
    seating = type("Seating", (), {"every": None, "delay": delay, "window": None})()
    check_controller(
        ScalableAc, world_of(users=seating).agents[0], world=lambda: world_of(users=seating), slots=40, **options
    )


def test_aloha_keeps_the_contract():
    check_controller(Aloha, world_of().agents[0], world=world_of, slots=40, p_send=0.9)


def flight(controller, slots, sources=None, skip=()):
    """The world flown with a controller; sources[slot]: where the action in force before that slot came from."""
    world = world_of(slots)
    world.reset(1)
    reward = None
    for slot in range(slots):
        if slot not in skip:
            timing = {"action_source": (sources or {}).get(slot, "agent")}
            seen = Observation("users", slot, world.observe("users"), reward, timing=timing)
            world.apply("users", controller.act(seen).values)
            controller.learn()
        reward = world.step().reward["users"]


def test_what_was_not_the_controller_s_action_is_not_learned_from():
    agent = world_of().agents[0]
    every, missed, skipped, never = (ScalableAc(agent, 1) for _ in range(4))
    flight(every, 50)
    flight(missed, 50, {10: "hold", 20: "default"})
    flight(skipped, 50, skip=(30,))
    flight(never, 50, dict.fromkeys(range(50), "hold"))
    assert [c.learner.counts[0] for c in (every, missed, skipped, never)] == [49, 47, 47, 0]
    assert not never.learner.theta.any()


def test_a_controller_tells_how_often_its_table_had_no_cell():
    small, large = (ScalableAc(world_of().agents[0], 1, contention=False, most_cells=cells) for cells in (64, 1 << 16))
    flight(small, 20)
    flight(large, 20)
    assert small.cells_in_use == 64
    assert small.times_without_cell > 100
    assert large.times_without_cell == 0


def test_learning_twice_for_one_slot_is_learning_once():
    agent = world_of().agents[0]
    one, two = ScalableAc(agent, 1), ScalableAc(agent, 1)
    learn = two.learn
    two.learn = lambda: (learn(), learn())[0]  # type: ignore[method-assign]
    flight(one, 50)
    flight(two, 50)
    assert one.learner.theta.any()
    assert one.learner.theta.tobytes() == two.learner.theta.tobytes()


def test_a_controller_bears_a_sky_on_which_everything_changes_and_its_table_stays_bounded():
    controller = ScalableAc(world_of().agents[0], 1, kappa=1, contention=False, most_cells=2048)
    rng, points = np.random.default_rng(0), np.zeros((25, 4), np.int64)
    for slot in range(300):
        points = rng.integers(-1, 16, (25, 4)) if slot % 7 == 0 else points
        seen = {
            "queue": rng.integers(0, 4, 25),
            "delivered": rng.random(25) < 0.3,
            "access_point": points,
            "success": np.full((25, 4), 0.5),
        }
        send = controller.act(Observation("users", slot, seen, None if slot == 0 else 0.1)).values["send"]
        controller.learn()
        rows = np.flatnonzero(send > 0)
        assert (seen["queue"][rows] > 0).all()
        assert (points[rows, send[rows] - 1] >= 0).all()
    assert 0 < controller.cells_in_use <= 2048 == controller.learner.keys.size
    assert np.isfinite(controller.learner.theta).all()
    assert controller.learner.counts[0] > 250


@pytest.mark.parametrize(("kappa", "reads"), [(0, OWN), (1, CONTENTION)])
def test_memory_of_a_user_goes_with_its_neighbourhood_not_with_the_network(kappa, reads):
    bytes_per_user = []
    for side in (5, 20):
        graph = graph_of(on_grid(Grid(height=side, width=side, instance=0)).access_point, DEADLINE, kappa)
        tables = *fresh(graph, DEADLINE, reads), *graph
        bytes_per_user.append(sum(array.nbytes for array in tables) / side**2)
    assert bytes_per_user[1] <= 1.01 * bytes_per_user[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kappa": 3}, "kappa"),
        ({"actor_step": -1.0}, "actor_step"),
        ({"actor_step": float("inf")}, "actor_step"),
        ({"critic_step": float("nan")}, "critic_step"),
        ({"offset_slots": 0.0}, "offset_slots"),
        ({"exploration": -0.1}, "exploration"),
        ({"exploration": float("inf")}, "exploration"),
        ({"exploration_slots": 0.0}, "exploration_slots"),
        ({"most_cells": 0}, "most_cells"),
    ],
)
def test_wrong_options_are_named(options, named):
    with pytest.raises(ControllerError, match=named):
        ScalableAc(world_of().agents[0], 1, **options)


@pytest.mark.parametrize("controller", [ScalableAc, Aloha])
def test_a_seat_of_another_world_is_refused_in_words(controller):
    with pytest.raises(ControllerError, match="world `access`; seat 'ue' lacks"):
        controller(Agent("ue", (), ()), 1)


def test_long_deadlines_and_probabilities_out_of_range_are_refused():
    agent = world_of().agents[0]
    facts = {**agent.facts, "deadline_slots": np.array(9)}
    with pytest.raises(ControllerError, match="8 slots"):
        ScalableAc(Agent(agent.name, agent.observes, agent.acts, facts=facts), 1)
    with pytest.raises(ControllerError, match="p_send"):
        Aloha(agent, 1, p_send=1.5)
