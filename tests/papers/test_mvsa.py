"""The learner of robust values: its kernel against NumPy, its limit law, its seat; M5 to M9 of the specification."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from controllers import mvsa
from controllers.kl_robust import solve, value_bound
from controllers.mvsa import EPSILON, LANES, RESOLUTION, Mvsa, Runs, Steps, interval, limit_law, sampler
from controllers.papers import robust
from controllers.papers.robust import GAMMA, QUICK, RADIUS
from twin.check import check_controller
from twin.errors import ControllerError
from twin.runner import run
from twin.scenario import load
from twin.types import Agent, Observation
from twin.worlds.finite import Finite, Inventory, Reservation, Settings, inventory, reservation

MASK = 0xFFFFFFFFFFFFFFFF


@pytest.fixture(scope="module")
def tables():
    return inventory(gamma=GAMMA)


@pytest.fixture(scope="module")
def quick(tables):
    """200 runs of 30,000 steps: a second."""
    return robust.experiment(tables, *QUICK)


def random_tables(rng, n_states, n_actions):
    """Laws with supports of every size from 1 to all states, and rewards."""
    transition = rng.random((n_states, n_actions, n_states))
    size = rng.integers(1, n_states + 1, (n_states, n_actions, 1))
    transition *= rng.random(transition.shape).argsort(axis=-1) < size
    transition[..., 0] += transition.sum(axis=-1) == 0.0
    return transition / transition.sum(axis=-1, keepdims=True), rng.normal(size=(n_states, n_actions))


# ---- the generator and what it draws


def next_word(one, two):
    """The generator once more, as its authors write it, with Python's whole numbers."""

    def turned(x, k):
        return ((x << k) | (x >> (64 - k))) & MASK

    word = (turned((one + two) & MASK, 17) + one) & MASK
    two ^= one
    return word, turned(one, 49) ^ two ^ ((two << 21) & MASK), turned(two, 28)


def test_generator_gives_the_published_first_words_of_xoroshiro128pp():
    known = [393217, 669327710093319, 1732421326133921491, 11394790081659126983]  # state 1, 2
    assert words_of(np.uint64(1), np.uint64(2), 4).tolist() == known


@pytest.mark.parametrize("half", ["upper", "lower"])
def test_halves_of_words_are_uniform_and_independent_of_each_other(half):
    words = words_of(*np.random.SeedSequence(3).generate_state(2, np.uint64), 200_000)
    bits = words >> np.uint64(32) if half == "upper" else words & np.uint64(0xFFFFFFFF)
    other = words & np.uint64(0xFFFFFFFF) if half == "upper" else words >> np.uint64(32)
    u, v = bits / RESOLUTION, other / RESOLUTION
    n = u.size
    four_errors = 4.0 / np.sqrt(n)
    assert abs(u.mean() - 1 / 2) < four_errors * np.sqrt(1 / 12)
    assert abs((u**2).mean() - 1 / 3) < four_errors * np.sqrt(4 / 45)
    for x, y in ((u, v), (u[:-1], u[1:]), (u[:-33], u[33:])):  # beside, next word, next step of 65 pairs
        assert abs(np.corrcoef(x, y)[0, 1]) < four_errors
    counts = np.histogram(u, 256, (0.0, 1.0))[0]
    square = ((counts - n / 256) ** 2 / (n / 256)).sum()
    assert abs(square - 255) < 4.0 * np.sqrt(2 * 255)
    pairs = np.histogram2d(u[:-1], u[1:], 16, ((0, 1), (0, 1)))[0]
    assert abs(((pairs - (n - 1) / 256) ** 2 / ((n - 1) / 256)).sum() - 255) < 4.0 * np.sqrt(2 * 255)


@njit
def words_of(one, two, n):
    words = np.empty(n, np.uint64)
    for k in range(n):
        words[k], one, two = mvsa.next_word(one, two)
    return words


def test_next_states_come_as_often_as_the_laws_say(tables):
    runs = Runs(tables.transition, tables.reward, GAMMA, RADIUS, n_runs=1, seed=8)
    runs.n = 100_000  # only the drawing is looked at
    seen = runs.sampled(0)
    assert not seen[tables.transition == 0.0].any()
    error = np.sqrt(tables.transition * (1.0 - tables.transition) / runs.n)
    assert (np.abs(seen - tables.transition) <= 4.5 * error + 1e-12).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 3))
def test_thresholds_are_the_cumulated_laws_to_32_bits(seed, n_states, n_actions):
    transition, _ = random_tables(np.random.default_rng(seed), n_states, n_actions)
    next_state, threshold = sampler(transition)
    for pair, law in enumerate(transition.reshape(-1, n_states)):
        edges = np.concatenate([[0], threshold[pair], [RESOLUTION]]).astype(float)
        chance = np.zeros(n_states)
        np.add.at(chance, next_state[pair], np.diff(np.minimum(edges, RESOLUTION))[: next_state.shape[1]] / RESOLUTION)
        np.testing.assert_allclose(chance, law, atol=2.0**-31)


# ---- the kernel


def plain(transition, reward, gamma, kappa, epsilon, steps, state, n_steps):
    """Algorithm 1 for one run, one pair after the other, with the kernel's draws."""
    n_states, n_actions = reward.shape
    next_state, threshold = sampler(transition)
    q, m, s = np.zeros(reward.size), np.zeros(reward.size), np.ones(reward.size)
    one, two = (int(x) for x in state)
    for n in range(1, n_steps + 1):
        a, b = steps.slow(n), steps.fast(n)
        value = q.reshape(n_states, n_actions).max(axis=1)
        for pair in range(reward.size):
            if pair % 2 == 0:
                word, one, two = next_word(one, two)
            bits = word >> 32 if pair % 2 == 0 else word & 0xFFFFFFFF
            v = value[next_state[pair, sum(bits >= int(t) for t in threshold[pair])]]
            sigma = np.sqrt(s[pair] - m[pair] * m[pair] + epsilon * epsilon)
            q[pair] += a * (reward.ravel()[pair] + gamma * (m[pair] - kappa * sigma) - q[pair])
            m[pair] += b * (v - m[pair])
            s[pair] += b * (v * v - s[pair])
    return q.reshape(reward.shape), m.reshape(reward.shape), s.reshape(reward.shape), (one, two)


@pytest.mark.parametrize(("n_states", "n_actions"), [(1, 1), (3, 1), (4, 3), (13, 2)])
def test_kernel_equals_the_plain_loop_and_draws_once_per_pair_and_step(n_states, n_actions):
    transition, reward = random_tables(np.random.default_rng(n_states), n_states, n_actions)
    runs = Runs(transition, reward, 0.7, 0.05, n_runs=LANES + 1, seed=5)
    begun = runs.generators.copy()
    runs.advance(60, threads=1)
    few = Runs(transition, reward, 0.7, 0.05, n_runs=2, seed=5)
    few.advance(60, threads=1)
    for alone, beside in ((few.q, runs.q), (few.m, runs.m), (few.s, runs.s)):
        assert (alone == beside[:2]).all()
    assert (few.generators == runs.generators[0, :, :2].T).all()
    for k in (0, 7, LANES):
        state = begun[k // LANES, :, k % LANES]
        q, m, s, left = plain(transition, reward, 0.7, runs.kappa, EPSILON, Steps(), state, 60)
        for ours, theirs in ((runs.q, q), (runs.m, m), (runs.s, s)):  # the compiler's power may differ in its last bit
            np.testing.assert_allclose(ours[k], theirs, rtol=1e-13, atol=1e-14)
        assert tuple(int(x) for x in runs.generators[k // LANES, :, k % LANES]) == left


@pytest.mark.parametrize("n_runs", [1, LANES])
def test_compiled_kernel_equals_the_same_in_plain_python(n_runs, monkeypatch):
    transition, reward = random_tables(np.random.default_rng(2), 7, 1)  # seven next states: two passes of choices
    one, other = (Runs(transition, reward, 0.6, 0.02, n_runs=n_runs, seed=4) for _ in range(2))
    one.advance(2)
    kernel, drawing = (mvsa.advance_singly, other._turned) if n_runs == 1 else (mvsa.advance, other._sampler)
    monkeypatch.setattr(mvsa, "next_word", mvsa.next_word.py_func)
    with np.errstate(over="ignore"):
        kernel.py_func(
            other.iterates, other.generators, other.reward, *drawing, 1, 0.6, other.kappa, EPSILON,
            6.0, 100.0, 2.0, 0.7, 1, 3,
        )  # fmt: skip
    np.testing.assert_allclose(one.iterates, other.iterates, rtol=1e-14, atol=1e-15)
    assert (one.generators == other.generators).all()


def test_counting_kernel_equals_the_same_in_plain_python(monkeypatch):
    threshold = sampler(random_tables(np.random.default_rng(2), 7, 3)[0]).threshold
    counts = [np.zeros((21, threshold.shape[1] + 1), np.int64) for _ in range(2)]
    mvsa.count(np.uint64(5), np.uint64(6), threshold, 4, counts[0])
    monkeypatch.setattr(mvsa, "next_word", mvsa.next_word.py_func)
    with np.errstate(over="ignore"):
        mvsa.count.py_func(np.uint64(5), np.uint64(6), threshold, 4, counts[1])
    assert (counts[0] == counts[1]).all()
    assert counts[0].sum() == 4 * 21


def test_a_run_does_not_depend_on_threads_nor_on_other_runs_nor_on_stops(tables):
    def made(n_runs, threads, stops):
        runs = Runs(tables.transition, tables.reward, GAMMA, RADIUS, n_runs=n_runs, seed=6)
        for n in stops:
            runs.advance(n, threads)
        return runs.q

    whole = made(3 * LANES, 2, [50])
    assert (whole == made(3 * LANES, 1, [50])).all()
    assert (whole == made(3 * LANES, 3, [1, 20, 50])).all()
    assert (whole[:40] == made(40, 2, [50])).all()
    assert len(np.unique(whole[:, 3, 2])) == 3 * LANES  # and no two are alike


def test_a_copy_goes_on_as_its_original_would(tables):
    runs = Runs(tables.transition, tables.reward, GAMMA, RADIUS, seed=6)
    runs.advance(30)
    apart = runs.copy()
    apart.advance(60)
    before = runs.q
    assert (before != apart.q).any()
    runs.advance(60)
    assert (runs.q == apart.q).all()


def test_out_of_range_arguments_are_refused(tables):
    for bad in (Steps, {"a0": 0.0}), (Steps, {"b": 1.0}), (Steps, {"b": 0.5}), (Steps, {"b0": -1.0}):
        with pytest.raises(ValueError, match="a0 > 0"):
            bad[0](**bad[1])
    with pytest.raises(ValueError, match="gamma"):
        Runs(tables.transition, tables.reward, 1.0, RADIUS)
    q = solve(tables.transition, tables.reward, GAMMA, RADIUS, epsilon=EPSILON)
    with pytest.raises(ValueError, match=r"a0 must be above 1\.25"):
        limit_law(tables.transition, q, GAMMA, RADIUS, 1.25)


def test_tables_that_are_none_are_refused_before_a_kernel_trusts_them(tables):
    laws, reward = tables.transition, tables.reward
    for transition, earned, word in (
        (laws, reward[:2], "need reward"),
        (0.5 * laws, reward, "laws"),
        (-laws, reward, "laws"),
        (np.nan * laws, reward, "laws"),
        (laws, np.inf * reward, "finite"),
    ):
        with pytest.raises(ValueError, match=word):
            Runs(transition, earned, GAMMA, RADIUS)
    for n_runs, radius in ((0, RADIUS), (1, np.inf)):
        with pytest.raises(ValueError, match="at least 1 run"):
            Runs(laws, reward, GAMMA, radius, n_runs=n_runs)
    with pytest.raises(ValueError, match="advance it first"):
        interval(Runs(laws, reward, GAMMA, RADIUS), 0, RADIUS)


@pytest.mark.parametrize("n_runs", [1, LANES])
@pytest.mark.parametrize(("epsilon", "scale"), [(0.0, 1.0), (EPSILON, 1e8)])
def test_rounding_of_s_less_m_squared_leaves_no_iterate_without_a_number(n_runs, epsilon, scale):
    rng = np.random.default_rng(0)
    for _ in range(20):
        transition = np.eye(4)[rng.integers(4, size=(4, 2))]
        reward = scale * rng.normal(size=(4, 2))
        runs = Runs(transition, reward, 0.6, 0.02, steps=Steps(b0=1e9), epsilon=epsilon, n_runs=n_runs)
        runs.advance(300, threads=1)
        assert np.isfinite(runs.q).all()


# ---- M5: the limit law


def test_limit_law_without_epsilon_takes_certain_pairs_and_refuses_equal_values():
    transition = np.array([[[0.2, 0.3, 0.5]], [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]]])
    q = solve(transition, np.array([[1.0], [2.0], [4.0]]), 0.6, 0.02, epsilon=0.0)
    law = limit_law(transition, q, 0.6, 0.02, 6.0, epsilon=0.0)
    near = limit_law(transition, q, 0.6, 0.02, 6.0, epsilon=1e-9)
    np.testing.assert_allclose(law.covariance, near.covariance, atol=1e-9)
    with pytest.raises(ValueError, match="larger epsilon"):
        limit_law(transition, np.ones((3, 1)), 0.6, 0.02, 6.0, epsilon=0.0)


def test_m5_jacobian_lyapunov_equation_and_gamma(tables):
    rows = {row.name: row for row in robust.law_rows(tables)}
    assert len(rows) == 5
    assert all(row.reached for row in rows.values()), rows


def test_m5_identity_holds_for_random_tables():
    rng = np.random.default_rng(5)
    for _ in range(5):
        transition, reward = random_tables(rng, 6, 3)
        q = solve(transition, reward, 0.7, 0.01, epsilon=EPSILON)
        law = limit_law(transition, q, 0.7, 0.01, 8.0)
        np.testing.assert_allclose(law.jacobian.sum(axis=1), 0.7, atol=1e-12)
        assert 1.0 - 0.7 * (1.0 + np.sqrt(0.02)) <= law.decay <= 0.3 + 1e-12
        assert np.linalg.eigvalsh(law.covariance).min() > -1e-9


def test_m5_gamma_is_n_times_the_variance_of_the_plug_in_of_n_samples(tables):
    q = solve(tables.transition, tables.reward, GAMMA, RADIUS, epsilon=EPSILON)
    noise = limit_law(tables.transition, q, GAMMA, RADIUS, 6.0).noise
    value, rng, n, times = q.max(axis=1), np.random.default_rng(1), 4_000, 4_000
    for pair in (7, 24, 42):
        seen = rng.multinomial(n, tables.transition.reshape(q.size, -1)[pair], times) / n
        mean = seen @ value
        plugged = GAMMA * (mean - np.sqrt(2 * RADIUS) * np.sqrt(seen @ value**2 - mean**2 + EPSILON**2))
        assert n * plugged.var() == pytest.approx(noise[pair], rel=0.1)  # standard error 2.2 %


def test_m5_with_radius_0_only_the_mean_is_noisy(tables):
    q = solve(tables.transition, tables.reward, GAMMA)
    law, value = limit_law(tables.transition, q, GAMMA, 0.0, 6.0), q.max(axis=1)
    variance = tables.transition @ value**2 - (tables.transition @ value) ** 2
    np.testing.assert_allclose(law.noise, GAMMA**2 * variance.ravel(), atol=1e-12)


def test_m5_fast_iterates_spread_as_their_law_says(quick):
    (n_runs, _), steps, last = QUICK, quick.runs.steps, quick.runs.n
    value = quick.runs.q.max(axis=-1)
    off = quick.runs.m - np.einsum("sat,rt->rsa", quick.runs.transition, value)  # about where Q's own error has put it
    ratio = off.reshape(n_runs, -1).var(axis=0) / (steps.fast(last) * quick.law.fast[..., 0, 0].ravel() / 2.0 + 1e-12)
    assert ratio[quick.law.noise > 1e-12].mean() == pytest.approx(1.0, abs=0.05)


# ---- M6 to M9


def test_m6_invariants_hold_of_every_iterate(tables):
    assert all(row.reached for row in robust.invariant_rows(tables, 400))


def test_m6_invariants_hold_with_steps_of_one(tables):
    runs = Runs(tables.transition, tables.reward, GAMMA, RADIUS, steps=Steps(a0=1e3, n0=0.0, b0=1e3), n_runs=LANES)
    bound = max(1.0, value_bound(tables.reward, GAMMA, RADIUS, EPSILON))
    for n in range(1, 100):
        runs.advance(n, threads=1)
        assert (runs.s - runs.m**2).min() >= -1e-12 * bound**2
        assert max(np.abs(runs.q).max(), np.abs(runs.m).max(), np.sqrt(runs.s.max())) <= bound


def test_m7_error_falls_as_one_over_the_root_of_n(quick):
    assert -0.56 <= robust.slope(quick.n, quick.error) <= -0.44


def test_m8_limit_law_holds_and_wrong_ones_are_found_out(quick, tables):
    rows = {row.name: row for row in robust.clt_rows(quick, "M7", "M8", (-0.56, -0.44), (0.85, 1.08), (0.93, 0.99))}
    assert all(row.reached for row in rows.values()), rows
    doubled, mean_only = robust.control_rows(quick, "M8", (0.85, 1.08), (0.93, 0.99))
    assert doubled.reached
    assert doubled.value == pytest.approx(0.5, abs=0.1)
    # the specification wants this one out too; it moves variances by 9 %, the range spans 23 %: not reached
    assert not mean_only.reached
    assert mean_only.value > 1.05 * robust.variance_ratio(quick.scaled(), quick.law.covariance).mean()


def test_m8_without_kappa_in_gamma_the_law_fails_at_a_larger_radius(tables):
    wide = robust.experiment(tables, *QUICK, radius=robust.WIDE_RADIUS)
    wrong = robust.without_kappa_in_noise(wide)
    assert not 0.85 <= robust.variance_ratio(wide.scaled(), wrong).mean() <= 1.08
    assert 0.85 <= robust.variance_ratio(wide.scaled(), wide.law.covariance).mean() <= 1.08


def test_m9_the_naive_plug_in_learns_the_nominal_values(tables, quick):
    gap, left = robust.naive_rows(tables, quick)
    assert gap.value >= 0.5
    assert left.value <= 0.05


def test_intervals_of_a_run_s_own_samples_hold_the_fixed_point(quick):
    covered, q = [], quick.runs.q
    for k in range(0, 200, 5):
        low, high = interval(quick.runs, k, RADIUS, q=q[k])
        covered.append(((low <= quick.fixed) & (quick.fixed <= high)).mean())
    assert 0.90 <= np.mean(covered) <= 0.99


# ---- the NumPy loops that the speed is held against make the same


@pytest.mark.parametrize("make", ["one", "all"])
def test_numpy_loops_find_the_same_values(make, tables, quick):
    rng = np.random.default_rng(7)
    if make == "one":
        q = np.stack([robust.numpy_one_run(tables, 2_000, rng) for _ in range(4)])
    else:
        q = robust.numpy_all_runs(tables, 2_000, 64, rng)
    assert np.abs(q.mean(axis=0) - quick.fixed).max() < 0.25  # an error of one run is 0.3 at n = 2,000


# ---- the seat


def seat(radius=0.02, gamma=0.6):
    return Finite(Settings(inventory=Inventory(), gamma=gamma, ambiguity_radius=radius), slots=60, slot_s=1.0)


def test_controller_keeps_the_contract():
    looked = check_controller(Mvsa, seat().agents[0], world=seat, steps_per_job=50)
    assert "learn() and adopt()" in looked


def test_controller_learns_by_jobs_and_then_orders_as_the_robust_values_say():
    world = seat()
    one = Mvsa(world.agents[0], 3, steps_per_job=15_000, most_steps=30_000)
    default = int(world.agents[0].facts["default_action"])
    asked = [Observation("agent", 0, {"state": np.array(x)}) for x in range(13)]
    assert all(int(one.act(seen).values["action"]) == default for seen in asked)
    while (job := one.learn()) is not None:
        before = one.order.copy()
        result = job()
        assert (one.order == before).all()  # nothing changes before it is adopted
        one.adopt(result)
    assert one.run.n == 30_000
    tables = inventory(gamma=0.6)
    best = solve(tables.transition, tables.reward, 0.6, 0.02, epsilon=EPSILON)
    chosen = np.array([int(one.act(seen).values["action"]) for seen in asked])
    assert (best.max(axis=1) - best[np.arange(13), chosen]).max() < 0.06  # the least gap between actions is 0.051


def test_controller_takes_another_radius_and_refuses_what_does_not_fit():
    agent = seat().agents[0]
    assert Mvsa(agent, 1, ambiguity_radius=0.0).run.kappa == 0.0
    assert Mvsa(agent, 1).run.kappa == pytest.approx(0.2)
    assert Mvsa(seat(gamma=0.9).agents[0], 1).run.steps.a0 == pytest.approx(24.0)
    for options in ({"ambiguity_radius": -1.0}, {"b": 2.0}, {"steps_per_job": 0}):
        with pytest.raises(ControllerError):
            Mvsa(agent, 1, **options)
    with pytest.raises(ControllerError, match="lacks"):
        Mvsa(Agent("ue", agent.observes, agent.acts), 1)


def test_shipped_reservation_is_flown_and_learned(tmp_path):
    record = run(load("reservation", {"slots": 200, "agent.agent.steps_per_job": 500}), tmp_path / "run")
    assert record.decisions["agent"]["weights"].max() > 10


def test_reservation_s_laws_of_many_next_states_are_learned():
    tables = reservation(Reservation(), gamma=0.6)
    runs = Runs(tables.transition, tables.reward, 0.6, 0.02, n_runs=8, seed=2)
    runs.advance(5_000)
    fixed = solve(tables.transition, tables.reward, 0.6, 0.02, epsilon=EPSILON)
    assert np.abs(runs.q.mean(axis=0) - fixed).max() < 0.02 * np.abs(fixed).max()
