"""Networks, values and small solvers that the learning controllers share, each against a plain version."""

import numpy as np
import pytest
import torch

from controllers.nets import (
    Adam,
    Critic,
    Mlp,
    Replay,
    advantages,
    conjugate_gradient,
    dense_row,
    discounted_returns,
    standardised,
    to_tensor,
)

ROUNDING = 1e-5  # of a few hundred float32 products


def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("kernel", [dense_row, dense_row.py_func], ids=["compiled", "plain"])
def test_one_row_kernel_equals_the_torch_network(kernel):
    net = Mlp((6, 9, 4))
    theta, x = net.initial(rng()), rng().standard_normal(6).astype(np.float32)
    hidden, out = np.zeros(9, np.float32), np.zeros(4, np.float32)
    at = kernel(theta, 0, x, hidden, True)
    end = kernel(theta, at, hidden, out, False)
    assert end == net.n_parameters == (6 + 1) * 9 + (9 + 1) * 4
    np.testing.assert_allclose(out, net(to_tensor(theta), to_tensor(x[None]))[0], rtol=ROUNDING, atol=ROUNDING)


def test_network_equals_matrix_products_written_out():
    net = Mlp((3, 4, 2), relu_outputs=True)
    theta, x = net.initial(rng()), rng().standard_normal((5, 3)).astype(np.float32)
    theta[12:16] = 0.1
    w1, b1, w2, b2 = theta[:12].reshape(3, 4), theta[12:16], theta[16:24].reshape(4, 2), theta[24:]
    plain = np.maximum(np.maximum(x @ w1 + b1, 0.0) @ w2 + b2, 0.0)
    np.testing.assert_allclose(net(to_tensor(theta), to_tensor(x)), plain, rtol=ROUNDING, atol=ROUNDING)


def test_a_scaled_last_layer_starts_near_zero():
    net = Mlp((20, 30, 10))
    x = to_tensor(rng().standard_normal((50, 20)))
    usual, small = (net(to_tensor(net.initial(rng(), scale)), x).std() for scale in (1.0, 0.01))
    assert small / usual == pytest.approx(0.01, rel=1e-3)


def test_adam_takes_the_steps_of_torch():
    start = torch.linspace(-1.0, 1.0, 5)
    leaf = start.clone().requires_grad_()
    torchs = torch.optim.Adam([leaf], lr=0.05)
    theta, adam = start, Adam.fresh(start)
    for _ in range(20):
        torchs.zero_grad()
        (leaf**4).sum().backward()
        torchs.step()
        theta, adam = adam.step(theta, 4.0 * theta**3, 0.05)
    torch.testing.assert_close(theta, leaf.detach())


def test_a_critic_is_fitted_by_a_copy_and_comes_nearer_to_its_targets():
    critic = Critic.fresh((3, 16, 1), rng())
    states = to_tensor(rng().standard_normal((64, 3)))
    targets = states.sum(1)
    before = critic.theta.clone()
    fitted = critic.fitted(states, targets, 200, 1e-2)
    assert torch.equal(critic.theta, before)
    assert (fitted.value(states) - targets).square().mean() < 0.05 * targets.square().mean()
    assert fitted.adam.n_steps == 200


def test_a_critic_does_not_take_a_step_that_is_not_finite():
    critic = Critic.fresh((3, 16, 1), rng())
    fitted = critic.fitted(torch.ones(4, 3), torch.tensor([1.0, 2.0, torch.nan, 1.0]), 5, 1e-2)
    assert torch.equal(fitted.theta, critic.theta)


def test_conjugate_gradient_solves_a_system():
    a = rng().standard_normal((12, 12))
    a = a @ a.T + np.eye(12)
    b = rng().standard_normal(12)
    x = conjugate_gradient(lambda v: torch.from_numpy(a) @ v, torch.from_numpy(b), 40, 1e-24)
    np.testing.assert_allclose(x, np.linalg.solve(a, b), rtol=1e-8)


@pytest.mark.parametrize("image", [torch.nan, 0.0, -1.0])
def test_conjugate_gradient_stops_where_the_matrix_is_not_positive(image):
    x = conjugate_gradient(lambda v: v * image, torch.ones(3))
    assert torch.equal(x, torch.zeros(3))


@pytest.mark.parametrize("compiled", [True, False])
def test_returns_and_advantages_equal_the_sums_written_out(compiled):
    n, gamma, decay = 9, 0.8, 0.7
    draw = rng()
    reward, value, next_value = draw.standard_normal((3, n))
    ends, terminal = np.zeros(n, bool), np.zeros(n, bool)
    ends[[2, 8]] = terminal[5] = True  # rows 0-2 broken off, 3-5 an episode, 6-8 still going on
    chains = [range(3), range(3, 6), range(6, 9)]
    wanted_return, wanted_advantage = np.zeros(n), np.zeros(n)
    for chain in chains:
        ahead = 0.0 if terminal[chain[-1]] else next_value[chain[-1]]
        for i in chain:
            left = [j for j in chain if j >= i]
            wanted_return[i] = sum(gamma ** (j - i) * reward[j] for j in left) + gamma ** len(left) * ahead
            for j in left:
                v_next = 0.0 if terminal[j] else next_value[j]
                wanted_advantage[i] += (gamma * decay) ** (j - i) * (reward[j] + gamma * v_next - value[j])
    functions = (discounted_returns, advantages) if compiled else (discounted_returns.py_func, advantages.py_func)
    np.testing.assert_allclose(functions[0](reward, next_value, ends, terminal, gamma), wanted_return)
    np.testing.assert_allclose(functions[1](reward, value, next_value, ends, terminal, gamma, decay), wanted_advantage)


def test_advantages_with_exact_values_of_a_certain_world_are_zero():
    reward = np.arange(5.0)
    terminal = np.array([False] * 4 + [True])
    value = discounted_returns(reward, np.zeros(5), np.zeros(5, bool), terminal, 0.9)
    after = np.append(value[1:], 0.0)
    np.testing.assert_allclose(
        advantages(reward, value, after, np.zeros(5, bool), terminal, 0.9, 0.95), 0.0, atol=1e-12
    )


def test_replay_keeps_the_newest_in_order_and_hands_out_copies():
    replay = Replay(3, number=((), "int64"), pair=((2,), "float32"))
    for i in range(5):
        replay.append(number=i, pair=[i, -i])
    rows = replay.copy()
    assert rows["number"].tolist() == [2, 3, 4]
    assert rows["pair"].tolist() == [[2, -2], [3, -3], [4, -4]]
    replay.append(number=9, pair=[0, 0])
    assert rows["number"].tolist() == [2, 3, 4]
    assert replay.copy()["number"].tolist() == [3, 4, 9]


def test_standardised_values_have_mean_0_and_deviation_1_or_are_all_zero():
    x = standardised(torch.tensor([1.0, 2.0, 6.0]))
    assert float(x.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(x.square().mean()) == pytest.approx(1.0, rel=1e-4)
    assert torch.equal(standardised(torch.full((4,), 3.0)), torch.zeros(4))
