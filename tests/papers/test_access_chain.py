"""The random-access chain: closed forms, the world's own kernel played for long, finite differences, enumeration."""

import itertools

import numpy as np
import pytest

from controllers import access_chain
from controllers.access_chain import (
    ascend,
    best_local,
    contention_terms,
    earned,
    gradient_terms,
    softmax,
    uniform,
    within,
)
from controllers.scalable_ac import aloha_policy
from twin.worlds.access import Grid, Instance, on_grid, play

ROUNDING = 1e-12


def one_point(n_users, arrival, success):
    """n users of a single access point."""
    point = np.zeros((n_users, 1), np.int64)
    return Instance(point, np.full((n_users, 1), success), np.full(n_users, arrival), 1)


def small(corners="interior", height=2, width=2, instance=0):
    return on_grid(Grid(height=height, width=width, corners=corners, instance=instance))


def aloha(access, send, deadline=2):
    return aloha_policy(access.access_point, access.success, send, 2**deadline)


def rewards(access, policy):
    return earned(access, policy).average_reward


# ---- closed forms


def test_q6_a_lone_user_with_certain_packets_and_success_always_delivers():
    access = one_point(1, 1.0, 1.0)
    assert rewards(access, aloha(access, 1.0)) == pytest.approx([1.0])


def test_q6_two_users_of_one_access_point_who_always_send_deliver_nothing():
    access = one_point(2, 1.0, 1.0)
    assert rewards(access, aloha(access, 1.0)) == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize("deadline", [1, 2, 3])
def test_users_who_always_have_a_packet_are_slotted_aloha(deadline):
    access, send = one_point(3, 1.0, 0.8), 0.3
    found = rewards(access, aloha(access, send, deadline))
    assert found == pytest.approx([0.8 * send * (1 - send) ** 2] * 3, abs=ROUNDING)


@pytest.mark.parametrize(("p", "q"), [(0.3, 0.6), (0.9, 0.2), (0.5, 1.0)])
def test_a_lone_user_with_two_slots_is_the_chain_of_two_states_solved_by_hand(p, q):
    access = one_point(1, p, q)
    waiting = p * (1 - q) / (p * (1 - q) + 1 - p)  # a packet with one slot left is there before the arrivals
    assert rewards(access, aloha(access, 1.0)) == pytest.approx([q * (1 - (1 - waiting) * (1 - p))], abs=ROUNDING)


def test_queues_that_settle_in_one_of_two_laws_are_refused():
    access, policy = one_point(2, 1.0, 1.0), np.zeros((2, 8, 2))
    policy[:, :, 0] = 1.0
    policy[:, 0b100] = 0.5  # one packet: drawn; two: sent; three: silent. A queue never gets shorter, and one of
    policy[:, 0b110] = 0.0, 1.0  # two packets whose neighbour has come to three stays where it is
    with pytest.raises(ValueError, match="one of several laws"):
        earned(access, policy)


def test_aloha_and_uniform_are_the_tables_written_out():
    access = Instance(np.array([[0, 1], [1, -1]]), np.array([[0.6, 0.4], [0.4, 0.0]]), np.ones(2), 2)
    assert aloha(access, 0.5)[:, 3] == pytest.approx(np.array([[0.5, 0.375, 0.125], [0.5, 0.5, 0.0]]))
    assert uniform(access)[:, 3] == pytest.approx(np.array([[1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]]))
    assert softmax(access, np.zeros((2, 4, 3))) == pytest.approx(uniform(access))


# ---- against the world


@pytest.mark.parametrize(("corners", "height", "width"), [("interior", 2, 2), ("all", 1, 3), ("interior", 2, 3)])
def test_average_rewards_are_those_of_the_world_s_kernel_played_for_long(corners, height, width):
    access = small(corners, height, width, instance=3)
    rng = np.random.default_rng(5)
    policy = softmax(access, rng.normal(size=uniform(access).shape))
    n, n_copies, n_slots, warm = len(access.arrival), 500, 400, 20
    shift = np.arange(n_copies).repeat(n)[:, None] * access.n_access_points
    point = np.tile(access.access_point, (n_copies, 1))
    point = np.where(point >= 0, point + shift, -1)
    success, arrival = np.tile(access.success, (n_copies, 1)), np.tile(access.arrival, n_copies)
    queue, delivered = np.zeros(n * n_copies, np.int64), np.zeros(n * n_copies, bool)
    heard, got = np.zeros(access.n_access_points * n_copies, np.int64), np.zeros(n * n_copies)
    steps = np.tile(policy.cumsum(-1), (n_copies, 1, 1))
    for slot in range(n_slots + warm):
        drawn = rng.random(n * n_copies)[:, None] >= steps[np.arange(n * n_copies), queue]
        send = np.minimum(drawn.sum(1), policy.shape[2] - 1)
        came, luck = rng.random(n * n_copies), rng.random(n * n_copies)
        play(queue, send, point, success, arrival, 2, came, luck, heard, delivered)
        if slot >= warm:
            got += delivered
    of_copies = got.reshape(n_copies, n) / n_slots
    error = of_copies.std(0, ddof=1) / np.sqrt(n_copies)
    assert np.abs(of_copies.mean(0) - rewards(access, policy)).max() < 4.0 * error.max()


def test_stationary_law_of_the_queues_sums_to_one_and_arrivals_come_as_they_should():
    access = small(instance=2)
    law = earned(access, uniform(access)).law.reshape((4,) * 4)
    assert law.sum() == pytest.approx(1.0, abs=ROUNDING)
    for i in range(4):
        own = law.sum(tuple(j for j in range(4) if j != i))
        assert own[2] + own[3] == pytest.approx(access.arrival[i], abs=ROUNDING)


# ---- gradients and policies


def test_gradient_equals_finite_differences():
    access = small("all", 1, 3)
    logits = np.random.default_rng(1).normal(size=uniform(access).shape)
    policy = softmax(access, logits)
    exact = gradient_terms(access, policy, earned(access, policy)).mean(-1)
    for entry in [(0, 2, 1), (1, 3, 0), (2, 1, 4), (1, 0, 1)]:
        step = np.zeros_like(logits)
        step[entry] = 1e-5
        up, down = (rewards(access, softmax(access, logits + sign * step)).mean() for sign in (1, -1))
        assert exact[entry] == pytest.approx((up - down) / 2e-5, abs=1e-9)


def test_the_best_local_policy_is_no_worse_than_any_that_draws_nothing():
    access = small("all", 1, 2)
    access = Instance(access.access_point[:, :2], access.success[:, :2], access.arrival, access.n_access_points)
    best, policy = best_local(access, 3, np.random.default_rng(0), steps=200)
    assert rewards(access, policy).mean() == pytest.approx(best, abs=ROUNDING)
    eye, tables = np.eye(3), list(itertools.product(range(3), repeat=3))
    for one, other in itertools.product(tables, repeat=2):
        fixed = np.array([eye[[0, *one]], eye[[0, *other]]])
        assert rewards(access, fixed).mean() <= best + 1e-6


def test_whole_numbers_are_logits_too():
    access = one_point(1, 0.5, 0.5)
    assert ascend(access, steps=5, logits=np.zeros((1, 4, 2), int))[0] == ascend(access, steps=5)[0]


def test_learners_who_see_only_themselves_crowd_a_shared_access_point_and_neighbours_cure_it():
    access = small("interior", 2, 2, instance=1)
    alone, together = ascend(access, 0, steps=100)[0], ascend(access, 1, steps=100)[0]
    assert alone < rewards(access, uniform(access)).mean() < together


def test_a_critic_that_reads_the_contention_sees_its_own_reward_whole_and_ends_where_the_ball_ends():
    access = small("interior", 2, 2, instance=1)
    policy = softmax(access, np.random.default_rng(4).normal(size=uniform(access).shape))
    found = earned(access, policy)
    ball, read = gradient_terms(access, policy, found), contention_terms(access, policy, found)
    for i in range(4):
        assert read[i, ..., i] == pytest.approx(ball[i, ..., i], abs=ROUNDING)
    assert np.abs(read - ball).max() > 1e-6  # neighbours' terms are not the same
    ends = [ascend(access, 1, steps=100, terms=terms)[0] for terms in (gradient_terms, contention_terms)]
    assert ends[1] == pytest.approx(ends[0], abs=1e-4)


def test_hops_are_counted_in_the_conflict_graph():
    access = small("interior", 2, 3)
    assert within(access, 0).tolist() == np.eye(6, dtype=bool).tolist()
    assert not within(access, 1)[0, 2]
    assert within(access, 1)[0, 4]
    assert within(access, 2).all()


# ---- errors, kernels


def test_policies_that_do_not_fit_and_graphs_too_large_are_refused():
    access = small()
    with pytest.raises(ValueError, match=r"expected a policy of shape \(4, 2\^deadline, 5\)"):
        earned(access, np.ones((4, 3, 5)))
    with pytest.raises(ValueError, match="sum to 1"):
        earned(access, np.ones((4, 4, 5)))
    with pytest.raises(ValueError, match=r"expected logits of shape \(4, 4, 5\), got \(4, 8, 5\)"):
        ascend(access, 1, logits=np.zeros((4, 8, 5)))
    large = small(height=3, width=3)
    with pytest.raises(ValueError, match="more than can be enumerated"):
        earned(large, uniform(large))


def test_kernels_give_the_same_compiled_and_plain():
    access = small("all", 1, 2)
    policy = softmax(access, np.random.default_rng(2).normal(size=uniform(access).shape))
    found = earned(access, policy)
    results = []
    compiled = access_chain.fill, access_chain.weigh, access_chain.condense
    for kernels in (compiled, tuple(kernel.py_func for kernel in compiled)):
        reward, after = np.zeros((16, 2)), np.zeros((16, 4))
        kernels[0](access.access_point, access.success, policy, access.n_access_points, reward, after)
        total = np.zeros((*policy.shape, 2))
        kernels[1](access.access_point, access.success, policy, access.n_access_points, found.law, found.ahead, total)
        critic, mass, read = np.zeros((*policy.shape, 2)), np.zeros((*policy.shape, 2)), np.zeros_like(total)
        with_ahead = found.law, found.ahead, critic, mass, read
        kernels[2](access.access_point, access.success, policy, access.n_access_points, *with_ahead)
        results.append((reward, after, total, critic, mass, read))
    for fast, plain in zip(*results):
        assert fast == pytest.approx(plain, abs=ROUNDING)
