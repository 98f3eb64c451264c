"""ST-Q: tables against exact values, networks against plain sums, the controller against the contract."""

import itertools
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from controllers.papers.d2d import S7_GAMES, S7_LIMIT, S7_UPDATES, tabular, world_of
from controllers.st_q import (
    Learned,
    Rates,
    Scale,
    Shape,
    StQ,
    actor_rows,
    bounded,
    improve,
    random_game,
    relative_error,
    st_q_steps,
    stage_equilibrium,
)
from twin.check import check_controller
from twin.errors import ControllerError
from twin.runner import run
from twin.scenario import load
from twin.types import Observation

ROUNDING = 1e-5  # of float32 sums over some hundred terms


def plain_equilibrium(q, sizes):
    """The rule of `stage_equilibrium`, written with joint actions as tuples."""
    value = dict(zip(itertools.product(*map(range, sizes)), q.T))
    answers = []
    for lead in range(sizes[0]):
        scored = []
        for reply in itertools.product(*map(range, sizes[1:])):
            joint = (lead, *reply)
            gains = [0.0]
            for k in range(1, len(sizes)):
                for own in range(sizes[k]):
                    gains.append(value[(*joint[:k], own, *joint[k + 1 :])][k] - value[joint][k])
            scored.append((max(gains), -value[joint][0], joint))
        answers.append(min(scored)[2])
    best = max(answers, key=lambda joint: value[joint][0])
    return int(np.ravel_multi_index(best, sizes))


# ---- tables


@pytest.mark.parametrize("sizes", [(2, 2), (3, 4), (2, 2, 2), (3, 2, 4), (2, 2, 3, 2)])
def test_stage_equilibrium_equals_enumeration_in_plain_python(sizes):
    rng = np.random.default_rng(3)
    for _ in range(50):
        q = rng.standard_normal((len(sizes), int(np.prod(sizes))))
        expected = plain_equilibrium(q, sizes)
        assert stage_equilibrium(q, np.array(sizes)) == expected
        assert stage_equilibrium.py_func(q, np.array(sizes)) == expected


def test_followers_with_two_equilibria_choose_the_leader_s_favourite():
    follower = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0])  # both alike, or both different: for either action
    leader = np.array([0.0, 9.0, 9.0, 1.0, 0.5, 9.0, 9.0, 0.0])
    assert stage_equilibrium(np.array([leader, follower, follower]), np.array([2, 2, 2])) == 3


def test_without_an_equilibrium_in_pure_actions_followers_play_where_deviating_gains_least():
    matching = np.array([1.0, -1.0, -1.5, 1.0])
    q = np.array([np.zeros(4), matching, -matching])
    regrets = [2.0, 2.5, 2.0, 2.5]
    first = stage_equilibrium(q, np.array([1, 2, 2]))
    assert first == plain_equilibrium(q, (1, 2, 2))
    assert regrets[first] <= min(regrets) + 0.5


def test_tabular_kernel_equals_its_plain_function():
    game = random_game(np.random.default_rng(1))
    tables = []
    for steps in (st_q_steps, st_q_steps.py_func):
        q, visits = np.zeros_like(game.reward), np.zeros((3, 8), np.int64)
        end = steps(q, visits, game.reward, game.transition, game.sizes, 0.9, 0, 200, np.random.default_rng(2))
        tables.append((q, visits, end))
    assert np.array_equal(tables[0][0], tables[1][0])
    assert np.array_equal(tables[0][1], tables[1][1])
    assert tables[0][2] == tables[1][2]


def test_exact_values_satisfy_the_equation_of_lemma_2():
    game = random_game(np.random.default_rng(5))
    q, settled = game.exact()
    assert settled
    for state, joint in itertools.product(range(3), range(8)):
        after = [q[s][:, plain_equilibrium(q[s], (2, 2, 2))] for s in range(3)]
        expected = game.reward[state, :, joint] + 0.9 * game.transition[state, joint] @ np.array(after)
        assert np.allclose(q[state, :, joint], expected, rtol=1e-10)


def test_values_of_whole_number_rewards_are_not_cut_to_whole_numbers():
    game = random_game(np.random.default_rng(1))
    whole = replace(game, reward=np.rint(10.0 * game.reward).astype(int), sizes=(2, 2, 2))
    exact, _ = whole.exact()
    assert np.array_equal(whole.learned([500], 1), replace(whole, reward=whole.reward.astype(float)).learned([500], 1))
    assert relative_error(whole.learned([20_000], 1), exact) < 0.1


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"gamma": 1.0}, "gamma"),
        ({"sizes": (2, 2, 3)}, "reward"),
        ({"sizes": (2, 0, 2)}, "sizes"),
        ({"transition": np.full((3, 8, 3), 0.5)}, "transition"),
        ({"transition": np.full((2, 8, 3), 1 / 3)}, "reward"),
        ({"reward": np.full((3, 3, 8), np.nan)}, "reward"),
    ],
)
def test_what_is_no_game_is_refused_in_words(changed, named):
    with pytest.raises(ValueError, match=named):
        replace(random_game(np.random.default_rng(1)), **changed)


def test_counts_of_updates_that_do_not_ascend_are_refused():
    with pytest.raises(ValueError, match="ascending"):
        random_game(np.random.default_rng(1)).learned([100, 10], 1)


def test_in_games_with_dominance_every_agent_likes_the_equilibrium_best():
    """Assumption 3, first part: the stage games of exact values have a global optimum."""
    for seed in range(20):
        game = random_game(np.random.default_rng(seed))
        q, _ = game.exact()
        for table in q:
            assert (table.argmax(1) == stage_equilibrium(table, game.sizes)).all()


def test_s7_tabular_st_q_reaches_the_exact_values_where_every_action_that_should_dominates():
    errors, settled = tabular(S7_GAMES, [S7_UPDATES], 1.1)
    assert settled.all()
    assert errors.max() <= S7_LIMIT


# ---- networks


def shape_of(central):
    """Three pairs on two channels."""
    return Shape(n_pairs=3, n_channels=2, n_seen=10, n_told=11, central=central)


def test_actor_kernel_equals_the_torch_networks():
    shape, rng = shape_of(True), np.random.default_rng(1)
    theta = shape.actors.initial(rng, 1.0)
    x = rng.standard_normal((3, 10)).astype(np.float32)
    out = np.zeros((3, 3), np.float32)
    rows = actor_rows, actor_rows.py_func
    for kernel in rows:
        kernel(theta.numpy(), x, np.zeros(128, np.float32), np.zeros(64, np.float32), out)
        expected = shape.actors(theta, torch.tensor(x)[:, None])[:, 0].numpy()
        assert np.allclose(out, expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("central", [True, False])
def test_a_critic_is_asked_about_its_own_pair_s_choices_with_the_others_as_they_were(central):
    shape = shape_of(central)
    channel, power = torch.tensor([[0, 1, 1], [1, 0, 1]]), torch.rand(2, 3)
    own = torch.rand(3, 2)
    asked = shape.own_choices(channel, power, own).view(3, 2, 2, -1)
    for j, m, row in itertools.product(range(3), range(2), range(2)):
        changed_channel, changed_power = channel[row : row + 1].clone(), power[row : row + 1].clone()
        changed_channel[0, j], changed_power[0, j] = m, own[j, row]
        assert torch.equal(asked[j, m, row], shape.action(changed_channel, changed_power)[j, 0])


def test_a_bounded_power_s_gradient_does_not_die_outside():
    out = torch.tensor([-3.0, 0.0, 3.0], requires_grad=True)
    power = bounded(out)
    assert power.tolist() == [0.0, 0.5, 1.0]
    power.sum().backward()
    assert out.grad.tolist() == [1.0, 1.0, 1.0]


def batch_of(shape, rng, n_rows=32):
    """Experience in which the pair that sends on channel 1 at power 0.8 earns most."""
    channel, power = rng.integers(2, size=(n_rows, 3)), rng.random((n_rows, 3))
    seen, told = rng.standard_normal((n_rows, 3, 10)), rng.standard_normal((n_rows, 11))
    return {
        "seen": seen,
        "told": told,
        "channel": channel,
        "power": power,
        "reward": 2.0 * channel - 8.0 * (power - 0.8) ** 2,
        "next_seen": seen,
        "next_told": told,
        "next_channel": channel,
        "next_power": power,
    }


@pytest.mark.parametrize(
    ("guided", "central"),
    [(True, True), *(pytest.param(False, central, marks=pytest.mark.slow) for central in (True, False))],
)
def test_actors_learn_the_best_channel_and_power_of_a_game_without_a_state(guided, central):
    shape, rng = shape_of(central), np.random.default_rng(1)
    now = Learned.fresh(shape, rng)
    rates = Rates(gamma=0.0, actor_rate=2e-3, critic_rate=2e-3, target_rate=0.01, temperature=0.1)
    now = improve(shape, now, [batch_of(shape, rng) for _ in range(300)], rates, guided)
    out = shape.actors(now.actor, torch.randn(3, 50, 10, generator=torch.Generator().manual_seed(1)))
    assert (out[..., :2].argmax(-1) == 1).float().mean() > 0.95
    assert abs(float(bounded(out[..., 2]).mean()) - 0.8) < 0.1


def test_guided_targets_follow_the_leader_s_equilibrium_and_unguided_ones_do_not():
    shape, rng = shape_of(True), np.random.default_rng(1)
    now, batch = Learned.fresh(shape, rng), batch_of(shape, rng)
    now = replace(now, critic_target=shape.critics.initial(rng, 1.0))
    other = batch | {"next_channel": 1 - batch["next_channel"]}
    rates = Rates(0.9, 1e-3, 1e-3, 0.01, 0.1)
    for guided in (True, False):
        one, two = (improve(shape, now, [rows], rates, guided).critic for rows in (batch, other))
        assert torch.equal(one, two) != guided


def test_scale_is_the_mean_and_spread_of_all_rows():
    rows = np.random.default_rng(1).normal(3.0, 2.0, (100, 4))
    scale = Scale.fresh((4,))
    for row in rows:
        scale = scale.and_of(row)
    assert np.allclose(scale(rows), (rows - rows.mean(0)) / (rows.std(0) + 0.01), rtol=1e-6, atol=1e-6)


# ---- the controller


@pytest.mark.parametrize("options", [{}, {"guided": False}, {"guided": False, "central": False}, {"imitate": 1.0}])
def test_st_q_keeps_the_contract_on_both_seats(options):
    def make():
        world = world_of(0, 3, 4)
        world.slot_s = 10.0  # this machine's speed is not the contract's
        return world

    leader, followers = make().agents
    check_controller(StQ, leader, ("d2d",), world=make, slots=60, **options)
    check_controller(StQ, followers, ("cellular",), world=make, slots=60, new_rows=1, batch=8, updates=1, **options)


def flown(options, slots=40, **timing):
    """A learner's memory after some slots under the closed-form leader."""
    world = world_of(0, 2, 2)
    leader, learner = StQ(world.agents[0], 0), StQ(world.agents[1], 0, **options)
    earned, answers = None, []
    for slot in range(slots):
        posted = leader.act(Observation("cellular", slot, world.observe("cellular"), earned))
        world.apply("cellular", posted.values)
        signals = {"cellular": posted.signals["d2d"]}
        action = learner.act(Observation("d2d", slot, world.observe("d2d"), earned, signals=signals, timing=timing))
        answers.append(action.values)
        world.apply("d2d", action.values)
        earned = world.step().reward["d2d"]
    return learner, answers


def test_what_is_remembered_is_what_was_played_and_what_it_earned():
    learner, answers = flown({})
    rows = learner.memory.copy()
    assert learner.memory.n_rows == 39
    assert np.array_equal(rows["channel"], [a["channel"] for a in answers[:-1]])
    assert np.allclose(rows["power"], [learner.level(a["power_w"]) for a in answers[:-1]], atol=1e-6)
    assert np.array_equal(rows["seen"][1:], rows["next_seen"][:-1])
    assert np.isfinite(rows["reward"]).all()


def test_a_slot_that_another_s_action_governed_is_not_learned_from():
    assert flown({}, action_source="hold")[0].memory.n_rows == 0


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_an_answer_in_force_later_is_learned_beside_what_it_answered(delay):
    world = world_of(0, 2, 2)
    leader, learner = StQ(world.agents[0], 0), StQ(replace(world.agents[1], delay=delay), 0)
    answers, states = [], []
    for slot in range(12):
        posted = leader.act(Observation("cellular", slot, world.observe("cellular")))
        world.apply("cellular", posted.values)
        source = "agent" if slot >= delay else "default"  # as the runner tells it: of the answer in force when asked
        if delay and slot >= delay:
            world.apply("d2d", answers[slot - delay])
        seen = Observation("d2d", slot, world.observe("d2d"), 0.0, False, {"cellular": posted.signals["d2d"]})
        answers.append(learner.act(replace(seen, timing={"action_source": source})).values)
        states.append(learner.state(seen.values))
        if not delay:
            world.apply("d2d", answers[slot])
        world.step()
    rows, n = learner.memory.copy(), 11 - delay
    assert learner.memory.n_rows == n
    assert np.array_equal(rows["seen"], states[:n])
    assert np.array_equal(rows["next_seen"], states[1 : n + 1])
    assert np.array_equal(rows["channel"], [a["channel"] for a in answers[:n]])
    assert np.allclose(rows["power"], [learner.level(a["power_w"]) for a in answers[:n]], atol=1e-6)


def test_a_guided_learner_leaves_out_slots_on_either_side_of_a_lost_message():
    world = world_of(0, 2, 2)
    leader, learner = StQ(world.agents[0], 0), StQ(world.agents[1], 0)
    for slot in range(10):
        posted = leader.act(Observation("cellular", slot, world.observe("cellular")))
        signals = {} if slot == 5 else {"cellular": posted.signals["d2d"]}
        world.apply("d2d", learner.act(Observation("d2d", slot, world.observe("d2d"), 0.0, False, signals)).values)
        world.step()
    assert learner.memory.n_rows == 9 - 2
    assert learner.memory.copy()["told"].any(axis=1).all()


def test_without_the_leader_s_message_a_guided_learner_remembers_nothing_and_an_unguided_one_does():
    agent = world_of(0, 2, 2).agents[1]
    for guided, expected in ((True, 0), (False, 9)):
        world, learner = world_of(0, 2, 2), StQ(agent, 0, guided=guided)
        for slot in range(10):
            world.apply("d2d", learner.act(Observation("d2d", slot, world.observe("d2d"), 0.0)).values)
            world.step()
        assert learner.memory.n_rows == expected


def test_an_answer_that_imitates_is_the_leader_s_equilibrium():
    world = world_of(0, 2, 2)
    leader = StQ(world.agents[0], 0)
    learner = StQ(world.agents[1], 0, imitate=1.0, explore=1.0, explore_last=1.0)
    posted = leader.act(Observation("cellular", 0, world.observe("cellular")))
    signals = {"cellular": posted.signals["d2d"]}
    answer = learner.act(Observation("d2d", 0, world.observe("d2d"), signals=signals)).values
    assert np.array_equal(answer["channel"], posted.signals["d2d"]["channel"])
    assert np.allclose(answer["power_w"], posted.signals["d2d"]["power_w"], rtol=1e-5)


def test_the_leader_s_message_has_the_bytes_that_the_docstring_says():
    leader = StQ(world_of(0, 3, 4).agents[0], 0)
    seen = Observation("cellular", 0, world_of(0, 3, 4).observe("cellular"))
    assert sum(array.nbytes for array in leader.act(seen).signals["d2d"].values()) == 8 * 4 + 4 * 4**2 + 4 * 3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"gamma": 1.0}, "gamma"),
        ({"batch": 0}, "batch"),
        ({"updates": 2.5}, "updates must be a whole number"),
        ({"memory": 100.5}, "memory must be a whole number"),
        ({"memory": 63}, "memory"),
        ({"central": False}, "guided"),
    ],
)
def test_options_out_of_range_are_named(options, named):
    with pytest.raises(ControllerError, match=named):
        StQ(world_of(0, 2, 2).agents[1], 0, **options)


def test_the_learning_scenario_flies_and_learns(tmp_path):
    scenario = msgspec.structs.replace(load("d2d_learning"), slots=120)
    decisions = run(scenario, tmp_path / "run").decisions["d2d"]
    assert decisions["weights"][-1] > 0
