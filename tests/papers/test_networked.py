"""Networked MDPs solved exactly: cases by hand, brute force, and the statements Q1 to Q4 of the specification."""

import time

import numpy as np
import pytest

from controllers.networked import (
    Network,
    action_value,
    action_value_table,
    brute_force,
    decay_bound,
    differences,
    distances,
    factor_per_hop,
    gradient,
    gradient_terms,
    grid,
    interaction,
    largest_difference,
    line,
    pair_law,
    random_network,
    solve,
    truncated,
    with_logits,
)
from controllers.papers import access_exact

ROUNDING = 1e-12  # sums of a thousand numbers of about one, each right to 1e-16
TRIANGLE = ((0, 1, 2), (0, 1, 2), (0, 1, 2))


def drawn(neighbours, seed=0, **options):
    return random_network(neighbours, np.random.default_rng(seed), **options)


def mixed_network(seed=3):
    """Three agents on a line with 2, 3 and 2 states and 3, 2 and 1 actions."""
    rng = np.random.default_rng(seed)
    near, n_states, n_actions = line(3), (2, 3, 2), (3, 2, 1)
    law = lambda *shape: (lambda t: t / t.sum(-1, keepdims=True))(rng.random(shape))  # noqa: E731
    return Network(
        near,
        tuple(law(*(n_states[j] for j in near[i]), n_actions[i], n_states[i]) for i in range(3)),
        tuple(law(n_states[i], n_actions[i]) for i in range(3)),
        tuple(rng.random((n_states[i], n_actions[i])) for i in range(3)),
    )


def relay(p=0.3):
    """Agent 0 is 1 with probability p in every slot, each other agent copies the one before it; reward: the state."""
    coin, copy = np.empty((2, 2, 1, 2)), np.zeros((2, 2, 2, 1, 2))
    coin[...] = (1.0 - p, p)
    for before in range(2):
        copy[before, ..., before] = 1.0
    last = copy[:, :, 0]
    return Network(line(3), (coin, copy, last), (np.ones((2, 1)),) * 3, (np.array([[0.0], [1.0]]),) * 3)


# ---- by hand


def test_two_states_have_the_stationary_law_and_the_values_of_the_textbook():
    up, down = 0.3, 0.6
    alone = Network(((0,),), ([[[1 - up, up]], [[down, 1 - down]]],), ([[1.0], [1.0]],), ([[0.0], [1.0]],))
    found = solve(alone)
    assert found.stationary == pytest.approx([2 / 3, 1 / 3], abs=ROUNDING)
    assert found.average_reward == pytest.approx([1 / 3], abs=ROUNDING)
    assert found.values[0, 1] - found.values[0, 0] == pytest.approx(1 / (up + down), abs=ROUNDING)
    assert found.stationary @ found.values[0] == pytest.approx(0.0, abs=ROUNDING)
    assert interaction(alone) == pytest.approx(np.array([[abs(1 - up - down)]]))


def test_in_a_relay_the_far_end_still_feels_the_first_agent_at_full_strength():
    network = relay()
    found = solve(network)
    assert found.average_reward == pytest.approx([0.3] * 3, abs=ROUNDING)
    ones, zeros, only = np.ones(3, int), np.zeros(3, int), np.zeros(3, int)
    assert action_value(network, found, 2, ones, only) == pytest.approx(3 * 0.7, abs=ROUNDING)
    assert differences(network, found, 2, (ones, only), (zeros, only)) == pytest.approx([2.0, 1.0], abs=ROUNDING)
    assert interaction(network) == pytest.approx(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]))
    assert decay_bound(network)[0] == np.inf  # row sums of 1: Theorem 1 says nothing


def test_discounted_values_of_a_relay_are_the_packets_on_the_way():
    network, gamma = relay(), 0.9
    found = solve(network, gamma=gamma)
    later = gamma**3 * 0.3 / (1 - gamma)
    states, only = np.array([1, 0, 1]), np.zeros(3, int)
    assert action_value(network, found, 2, states, only) == pytest.approx(1 + gamma**2 + later, abs=ROUNDING)


def test_hops_and_neighbours_of_grids_are_those_counted_by_hand():
    assert grid(2, 3) == ((0, 1, 3), (0, 1, 2, 4), (1, 2, 5), (0, 3, 4), (1, 3, 4, 5), (2, 4, 5))
    assert line(3) == ((0, 1), (0, 1, 2), (1, 2))
    assert distances(grid(2, 6))[0].tolist() == [0, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6]
    assert distances(((0,), (1,)))[0, 1] == 2  # no way: as many as there are agents


def test_a_factor_per_hop_is_fitted_through_the_points_above_rounding_only():
    assert factor_per_hop(np.array([1e-2, 1e-4, 1e-6, 3e-14])) == pytest.approx(0.01)
    assert np.isnan(factor_per_hop(np.array([1e-2, 0.0])))


# ---- errors


def test_tables_that_do_not_fit_are_refused_with_agent_table_and_shape():
    good = drawn(line(3))
    parts = good.neighbours, good.transition, good.policy, good.reward
    wrong = (good.transition[0], good.transition[0], good.transition[2])
    with pytest.raises(ValueError, match=r"transition of agent 1 has shape \(2, 2, 3, 2\), expected \(2, 2, 2, 3, 2\)"):
        Network(parts[0], wrong, *parts[2:])
    with pytest.raises(ValueError, match="policy of agent 2 is off by"):
        Network(*parts[:2], (*good.policy[:2], good.policy[2] * 1.01), good.reward)
    with pytest.raises(ValueError, match="agent 0 has neighbour 1, which does not have 0"):
        Network(((0, 1), (1, 2), (1, 2)), *parts[1:])
    with pytest.raises(ValueError, match="neighbours of agent 0 are"):
        Network(((1, 0), (0, 1, 2), (1, 2)), *parts[1:])
    with pytest.raises(ValueError, match="2 tables of reward for 3 agents"):
        Network(*parts[:3], good.reward[:2])
    with pytest.raises(ValueError, match="reward of agent 1 is no table of numbers"):
        Network(*parts[:3], (good.reward[0], [[0.0], [0.0, 1.0]], good.reward[2]))
    with pytest.raises(ValueError, match=r"agent 0 has policy \(2, 0\) .* one of each at least"):
        Network(((0,),), (np.zeros((2, 0, 2)),), (np.zeros((2, 0)),), (np.zeros((2, 0)),))
    with pytest.raises(ValueError, match="no agents"):
        Network((), (), (), ())
    with pytest.raises(ValueError, match="agent 1 was not solved for"):
        action_value_table(good, solve(good, [0]), 1)
    with pytest.raises(ValueError, match="gamma must lie in"):
        solve(good, gamma=1.5)
    with pytest.raises(ValueError, match="gamma must lie in"):
        decay_bound(good, gamma=-0.5)
    for agent in (-1, 3):
        with pytest.raises(ValueError, match=f"agents must be numbers from 0 to 2, got {agent}"):
            solve(good, [agent])
    with pytest.raises(ValueError, match="needs gamma = 1"):
        gradient(good, solve(good, gamma=0.9))


@pytest.mark.parametrize(
    ("states", "actions", "words"),
    [
        ([-1, 0, 0], [0, 0, 0], r"states must be at least 0 and below \(2, 2, 2\)"),
        ([0, 0, 0], [0, 3, 0], r"actions must be at least 0 and below \(3, 3, 3\)"),
        ([0, 0, 0, 0], [0, 0, 0], "states must be 3 whole numbers"),
        ([0, 0, 0], [0.0, 0.5, 0.0], "actions must be 3 whole numbers"),
    ],
)
def test_a_state_or_an_action_that_is_not_there_is_refused(states, actions, words):
    network = drawn(line(3))
    with pytest.raises(ValueError, match=words):
        action_value(network, solve(network, [0]), 0, states, actions)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("rewards", [[[0.0], [1.0]], [[1.0], [1.0]]], ids=["unequal", "equal"])
def test_states_that_are_never_left_are_refused_whatever_they_earn(gamma, rewards):
    stuck = Network(((0,),), ([[[1.0, 0.0]], [[0.0, 1.0]]],), ([[1.0], [1.0]],), (rewards,))
    with pytest.raises(ValueError, match="more than one stationary law"):
        solve(stuck, gamma=gamma)


def test_tables_that_lost_digits_are_normalised_and_solved_as_exactly_as_others():
    good = drawn(line(4))
    read = Network(
        good.neighbours, *([t.astype(np.float32) for t in p] for p in (good.transition, good.policy)), good.reward
    )
    found, (average, tables) = solve(read), brute_force(read)
    assert found.residual < 1e-12
    assert found.average_reward == pytest.approx(average, abs=ROUNDING)
    assert np.abs(action_value_table(read, found, 0) - tables[0]).max() < ROUNDING


@pytest.mark.slow
def test_a_cycle_of_300_states_is_solved():
    n = 300
    alone = Network(
        ((0,),), (np.roll(np.eye(n), 1, axis=1)[:, None],), (np.ones((n, 1)),), (np.arange(n)[:, None] / n,)
    )
    found = solve(alone)
    assert found.residual < 1e-10
    assert found.stationary == pytest.approx(1.0 / n, abs=ROUNDING)
    assert found.average_reward == pytest.approx([(n - 1) / (2 * n)], abs=ROUNDING)


# ---- Q1


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("case", ["line of 4", "grid 2 x 2", "triangle", "mixed sizes"])
def test_q1_exact_values_equal_brute_force_over_all_states_and_actions(case, gamma):
    network = {
        "line of 4": lambda: drawn(line(4)),
        "grid 2 x 2": lambda: drawn(grid(2, 2), n_actions=2),
        "triangle": lambda: drawn(TRIANGLE),
        "mixed sizes": mixed_network,
    }[case]()
    average, tables = brute_force(network, gamma)
    found = solve(network, gamma=gamma)
    assert found.average_reward == pytest.approx(average, abs=1e-10)
    assert found.residual < 1e-10
    for i in range(network.n_agents):
        assert np.abs(action_value_table(network, found, i) - tables[i]).max() < 1e-10
    z = tuple(np.array(network.n_states) - 1), tuple(np.array(network.n_actions) - 1)
    assert action_value(network, found, 1, *z) == pytest.approx(tables[1][-1, ...].flat[-1], abs=1e-10)


def test_q1_poisson_residual_and_average_reward_of_the_line_of_ten():
    network = drawn(line(10))
    found = solve(network)
    assert found.residual < 1e-10
    for i in range(10):
        own = found.stationary.sum(tuple(j for j in range(10) if j != i))
        stationary = own @ (network.policy[i] * network.reward[i]).sum(1)
        assert found.average_reward[i] == pytest.approx(stationary, abs=1e-12)
    assert abs((found.stationary * found.values).sum()) < 1e-10  # E Q = 0, as (3) has it


def test_pair_law_is_a_law_whose_mean_of_q_is_zero():
    network = mixed_network()
    found = solve(network)
    law = pair_law(network, found)
    assert law.sum() == pytest.approx(1.0, abs=ROUNDING)
    assert (law * action_value_table(network, found, 2)).sum() == pytest.approx(0.0, abs=ROUNDING)


# ---- Q2


def test_q2_decay_factor_per_hop_on_lines_of_ten():
    lefts, residual, off, _ = access_exact.decays(line(10), 10)
    assert lefts.shape == (10, 9)
    assert residual < 1e-10
    assert off < 1e-12
    assert 0.04 <= np.median([factor_per_hop(left) for left in lefts]) <= 0.15


@pytest.mark.slow
def test_q2_a_hundred_lines_and_thirty_of_them_in_fifteen_seconds():
    access_exact.decays(line(3), 1)
    begun = time.perf_counter()
    thirty = access_exact.decays(line(10), 30)[0]
    assert time.perf_counter() - begun < 15.0
    assert 0.04 <= np.median([factor_per_hop(left) for left in thirty]) <= 0.15
    factors = np.array([factor_per_hop(left) for left in access_exact.decays(line(10), 100)[0]])
    assert 0.04 <= np.median(factors) <= 0.15
    assert (factors < 0.15).mean() >= 0.9


@pytest.mark.slow
def test_decay_on_the_grid_of_two_by_six_reaches_its_diameter():
    lefts, residual, off, _ = access_exact.decays(grid(2, 6), 24)
    assert lefts.shape == (24, 6)
    assert residual < 1e-10
    assert off < 1e-12
    assert np.median([factor_per_hop(left) for left in lefts]) < 0.15


@pytest.mark.slow
def test_a_line_of_eighteen_is_solved_without_its_matrix():
    assert solve(drawn(line(18)), [0]).residual < 1e-10


# ---- Q3


def test_interaction_equals_a_plain_loop_over_all_that_can_change():
    network = mixed_network()
    expected = np.zeros((3, 3))
    for i, near in enumerate(network.neighbours):
        table, n_actions = network.transition[i], network.n_actions[i]
        contexts = list(np.ndindex(*(network.n_states[j] for j in near), n_actions))
        for one in contexts:
            for other in contexts:
                moved = [near[k] for k in range(len(near)) if one[k] != other[k]]
                acted = one[-1] != other[-1]
                apart = 0.5 * np.abs(table[one] - table[other]).sum()
                if moved == [i] or (moved == [] and acted):
                    expected[i, i] = max(expected[i, i], apart)
                elif len(moved) == 1 and not acted:
                    expected[i, moved[0]] = max(expected[i, moved[0]], apart)
    assert interaction(network) == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_q3_the_bound_holds_for_all_pairs_where_interaction_is_weak(gamma):
    for seed in range(10):
        network = drawn(line(4), seed, coupling=0.3)
        assert interaction(network).sum(1).max() < 1.0
        c, rho = decay_bound(network, gamma)
        found = solve(network, gamma=gamma)
        for i in range(4):
            table = action_value_table(network, found, i)
            for kappa in range(3):
                assert largest_difference(network, table, i, kappa) <= c * rho ** (kappa + 1)


@pytest.mark.slow
def test_q3_never_violated_on_fifty_instances_of_either_length():
    rows = {row.name: row for row in access_exact.bound_rows(50)}
    assert rows["Q3_theorem_1_violations"].value == 0
    assert rows["Q3_corollary_1_violations"].value == 0


def test_the_bound_takes_the_range_of_rewards_that_may_be_negative():
    network = drawn(line(3), coupling=0.3)
    shifted = Network(network.neighbours, network.transition, network.policy, [r - 2.0 for r in network.reward])
    c, rho = decay_bound(shifted)
    lowest = min(table.min() for table in shifted.reward)
    assert c == pytest.approx(-lowest / (1.0 - rho))


def test_drawn_lines_of_full_coupling_decay_although_theorem_1_does_not_speak_of_them():
    assert all(interaction(drawn(line(10), seed)).sum(1).max() > 1.0 for seed in range(5))


# ---- Q4


def test_q4_gradient_with_all_hops_equals_finite_differences():
    network = drawn(line(4))
    exact, slope = gradient(network, solve(network), 3), access_exact.difference_gradient(network)
    largest = max(np.abs(part).max() for part in exact)
    for mine, theirs in zip(exact, slope):
        assert np.abs(mine - theirs).max() <= 1e-4 * largest


def test_q4_truncated_gradient_equals_the_sums_over_all_states_and_actions_written_out():
    network = mixed_network()
    found = solve(network)
    law, hops, n = pair_law(network, found), distances(network.neighbours), 3
    short = [truncated(network, action_value_table(network, found, j), j, 1, law) for j in range(n)]
    for i, part in enumerate(gradient(network, found, 1)):
        expected = np.zeros_like(part)
        for z in np.ndindex(law.shape):
            q = sum(np.broadcast_to(short[j], law.shape)[z] for j in range(n) if hops[i, j] <= 1) / n
            score = np.zeros_like(part)
            score[z[i]] = -network.policy[i][z[i]]
            score[z[i], z[n + i]] += 1.0
            expected += law[z] * q * score
        assert part == pytest.approx(expected, abs=ROUNDING)


def test_q4_error_of_the_truncated_gradient_falls_at_least_as_fast_as_the_largest_difference_of_q():
    for seed in range(5):
        network = drawn(line(4), seed)
        found = solve(network)
        tables = [action_value_table(network, found, j) for j in range(4)]
        gaps = np.array([max(largest_difference(network, t, j, k) for j, t in enumerate(tables)) for k in range(3)])
        errors = access_exact.gradient_errors(network)
        assert errors[3] == 0.0
        assert factor_per_hop(errors[:3]) <= factor_per_hop(gaps)
        # Lemma 2 (b) with the largest |grad log zeta| of a softmax row, the square root of 2, for each of 4 agents
        assert (errors[:3] <= 2.0 * np.sqrt(2.0) * gaps).all()


def test_q4_terms_of_agents_beyond_kappa_vanish_whatever_the_weights():
    assert access_exact.leftover_terms(drawn(line(4)), np.random.default_rng(0)) < 1e-12


def test_a_gradient_term_of_an_agent_s_own_reward_counts_the_reward_at_once():
    free = Network(((0,),), (np.full((1, 2, 1), 1.0),), ([[0.25, 0.75]],), ([[1.0, 0.0]],))
    (terms,) = gradient_terms(free, solve(free))
    assert terms[0] == pytest.approx(np.array([[0.25 * 0.75, -0.25 * 0.75]]))


def test_softmax_of_log_policies_gives_the_policies_back():
    network = mixed_network()
    again = with_logits(network, [np.log(policy) + 3.0 for policy in network.policy])
    for mine, theirs in zip(again.policy, network.policy):
        assert mine == pytest.approx(theirs, abs=ROUNDING)


# ---- small access networks, rows


@pytest.mark.slow
def test_rows_of_the_policies_name_what_they_compare(tmp_path):
    rows = access_exact.policy_rows(1, tmp_path, access_exact.SMALL[:2])
    assert [row.reached for row in rows] == [True] * 6
    assert (tmp_path / "access-small.csv").read_text().splitlines()[1].startswith("interior,2,2,0,")


@pytest.mark.slow
def test_all_rows_are_made_with_their_figures(tmp_path):
    rows = access_exact.rows(True, tmp_path, lambda text: None)
    assert all(row.reached for row in rows)
    assert {path.name for path in tmp_path.iterdir()} == {
        "access-small.csv",
        "decay-grid.csv",
        "decay-line.csv",
        "decay.png",
    }
