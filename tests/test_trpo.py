"""The terminal's policy: its update against dense algebra, what it stores as experience, and the reference it sends."""

import hashlib
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import levels
import numpy as np
import pytest
import torch
from levels import BUSY_WINDOW, make_world, timing

from controllers.baselines import Greedy
from controllers.nets import to_tensor
from controllers.rollout import Rollout
from controllers.trpo import (
    DAMPING,
    Actor,
    Batch,
    Trpo,
    actor_row,
    broadcast,
    conjugate_gradient,
    ends_of,
    fisher_product,
    log_policy,
    mean_kl,
    play_forward,
    summed_advantage,
    surrogate,
    trust_region_step,
)
from twin.errors import ControllerError
from twin.geometry import pointing
from twin.orbit import track
from twin.types import Observation
from twin.units import to_db

ROUNDING = 1e-4  # of a few hundred float32 products
KL_LIMIT = 0.01
NO_CLIP = np.inf
TINY = Actor(n_inputs=2, n_beams=4, n_sets=4, hidden=(3,), head=2)  # 49 parameters


@pytest.fixture(scope="module")
def world():
    return make_world(slots=120)


@pytest.fixture(scope="module")
def literal():
    return make_world(slots=60, paper_literal=True)


def seat(world, name="ue"):
    return next(agent for agent in world.agents if agent.name == name)


def some_batch(actor, n_rows=40, seed=3, dtype=torch.float32, scale=1.0):
    """Rows whose actions were drawn by the policy `theta`, half of them from fewer sets."""
    generator = torch.Generator().manual_seed(seed)
    theta = (scale * torch.randn(actor.n_parameters, generator=generator)).to(dtype)
    states = torch.randn(n_rows, actor.n_inputs, generator=generator).to(dtype)
    allowed = torch.ones(n_rows, actor.n_sets, dtype=torch.bool)
    allowed[::2, 1::2] = False
    advantage = torch.randn(n_rows, generator=generator).to(dtype)
    blank = torch.zeros(n_rows, dtype=torch.int64)
    batch = Batch(states, blank, blank, allowed, torch.zeros(n_rows), advantage)
    log_beam, log_set = log_policy(actor, theta, batch)
    beam = torch.multinomial(log_beam.exp(), 1, generator=generator)
    chosen = torch.multinomial(log_set.exp(), 1, generator=generator)
    log_prob = (log_beam.gather(1, beam) + log_set.gather(1, chosen))[:, 0]
    return theta, replace(batch, beam=beam[:, 0], chosen=chosen[:, 0], log_prob=log_prob)


def fly(world, ue, leo=None, slots=None, timing_of=None):
    """Let a terminal fly with a satellite (greedy if none is given); returns its observations and its answers."""
    world.reset(1)
    leo = leo or Greedy(seat(world, "leo"), 1)
    seen, answers, earned, inbox = [], [], {"leo": None, "ue": None}, {"leo": {}, "ue": {}}
    for slot in range(slots or world.slots):
        for name, controller in (("leo", leo), ("ue", ue)):
            if slot % seat(world, name).every == 0:
                timed = (timing_of or {}).get(slot, {}) if name == "ue" else {}
                one = Observation(name, slot, world.observe(name), earned[name], False, inbox[name], timed)
                inbox[name], earned[name] = {}, 0.0
                action = controller.act(one)
                world.apply(name, action.values)
                for to, arrays in action.signals.items():
                    inbox[to][name] = arrays
                if name == "ue":
                    seen.append(one)
                    answers.append(action)
        for name, reward in world.step().reward.items():
            earned[name] = (earned[name] or 0.0) + reward
    return seen, answers


# Networks


def test_the_paper_s_actor_has_304_980_parameters():
    assert Actor(n_inputs=5 + 64, n_beams=49, n_sets=31).n_parameters == 304_980


@pytest.mark.parametrize("kernel", [actor_row, actor_row.py_func], ids=["compiled", "plain"])
def test_one_row_of_the_kernel_equals_the_actor_in_torch(kernel):
    actor = Actor(n_inputs=7, n_beams=5, n_sets=3, hidden=(6, 5, 4), head=3)
    theta, buffers = actor.initial(np.random.default_rng(1)), actor.buffers()
    state = np.linspace(-1.0, 1.0, 7, dtype=np.float32)
    kernel(theta.numpy(), state, *buffers)
    beam, sets = actor(theta, to_tensor(state[None]))
    np.testing.assert_allclose(buffers[4], beam[0], rtol=ROUNDING, atol=1e-7)
    np.testing.assert_allclose(buffers[6], sets[0], rtol=ROUNDING, atol=1e-7)


def test_an_untrained_policy_is_nearly_uniform_over_what_is_allowed():
    actor = Actor(n_inputs=70, n_beams=49, n_sets=31)
    theta = actor.initial(np.random.default_rng(1))
    _, batch = some_batch(actor)
    log_beam, log_set = log_policy(actor, theta, batch)
    np.testing.assert_allclose(log_beam.exp(), 1 / 49, rtol=0.2)
    np.testing.assert_allclose(
        log_set.exp()[batch.allowed], 1 / batch.allowed.sum(1).repeat_interleave(batch.allowed.sum(1)), rtol=0.2
    )
    assert not log_set.exp()[~batch.allowed].any()


# The update


def dense_fisher(actor, theta, batch):
    """Mean over states of sum over actions of p * grad log p grad log p^T, gradient by gradient."""
    fisher = torch.zeros(theta.numel(), theta.numel(), dtype=theta.dtype)
    for row in range(len(batch.states)):
        one = Batch(*(getattr(batch, name)[row : row + 1] for name in Batch.__dataclass_fields__))
        for head in range(2):
            for action in range(4):
                leaf = theta.clone().requires_grad_()
                log_p = log_policy(actor, leaf, one)[head][0, action]
                if log_p < -1e8:  # a set that was not allowed
                    continue
                (gradient,) = torch.autograd.grad(log_p, leaf)
                fisher += log_p.detach().exp() * torch.outer(gradient, gradient) / len(batch.states)
    return fisher


def test_natural_gradient_matches_a_dense_fisher_solve():
    theta, batch = some_batch(TINY, dtype=torch.float64)
    gradient = torch.linspace(-1.0, 1.0, TINY.n_parameters, dtype=torch.float64)
    dense = dense_fisher(TINY, theta, batch) + DAMPING * torch.eye(TINY.n_parameters, dtype=torch.float64)
    wanted = torch.linalg.solve(dense, gradient)
    direction = conjugate_gradient(fisher_product(TINY, theta, batch), gradient, 60, 1e-20)
    assert (direction - wanted).norm() < 1e-4 * wanted.norm()


def test_fisher_matrix_is_the_curvature_of_the_mean_kl():
    theta, batch = some_batch(TINY, dtype=torch.float64)
    old = log_policy(TINY, theta, batch)
    curvature = torch.autograd.functional.hessian(lambda t: mean_kl(old, log_policy(TINY, t, batch)), theta)
    torch.testing.assert_close(dense_fisher(TINY, theta, batch), curvature, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("clip", [0.5, NO_CLIP])
def test_every_update_stays_within_the_kl_limit_and_never_lowers_the_surrogate(clip):
    theta, _ = some_batch(TINY, scale=0.3)
    taken = 0
    for seed in range(25):
        _, batch = some_batch(TINY, seed=seed, scale=0.3)
        new, step = trust_region_step(TINY, theta, batch, KL_LIMIT, clip)
        with torch.no_grad():
            before, after = (log_policy(TINY, t, batch) for t in (theta, new))
            assert float(mean_kl(before, after)) <= KL_LIMIT
            assert float(surrogate(*after, batch, clip)) >= float(surrogate(*before, batch, clip))
        taken += step.taken
        theta = new
    assert taken > 20


def test_gradient_without_the_satellite_s_advantage_is_that_of_single_estimation():
    theta, batch = some_batch(TINY)

    def gradient(advantage):
        leaf = theta.clone().requires_grad_()
        rows = replace(batch, advantage=advantage)
        return torch.autograd.grad(surrogate(*log_policy(TINY, leaf, rows), rows, NO_CLIP), leaf)[0]

    a_low = batch.advantage
    centred = (a_low - a_low.mean()) / (a_low.std(correction=0) + 1e-6)
    torch.testing.assert_close(gradient(summed_advantage(a_low, torch.zeros_like(a_low))), gradient(centred))


def test_both_tiers_weigh_the_same_whatever_the_scale_of_their_rewards():
    a_low, a_high = torch.randn(2, 30, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(summed_advantage(a_low, a_high), summed_advantage(1e3 * a_low + 5.0, a_high))


def test_a_ratio_beyond_the_clip_earns_nothing_more():
    theta, batch = some_batch(TINY)
    batch = replace(batch, log_prob=batch.log_prob - 1.0, advantage=batch.advantage.abs() + 0.1)  # all ratios are e
    leaf = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(surrogate(*log_policy(TINY, leaf, batch), batch, 0.5), leaf)
    assert not gradient.any()
    (gradient,) = torch.autograd.grad(surrogate(*log_policy(TINY, leaf, batch), batch, NO_CLIP), leaf)
    assert gradient.any()


def test_a_step_that_is_no_number_is_refused():
    theta, batch = some_batch(TINY)
    for bad in (replace(batch, advantage=batch.advantage * torch.nan), replace(batch, log_prob=batch.log_prob - 200.0)):
        new, step = trust_region_step(TINY, theta, bad, KL_LIMIT, NO_CLIP)
        assert torch.equal(new, theta)
        assert not step.taken
    new, step = trust_region_step(TINY, theta, batch, 1e36, NO_CLIP)  # the whole step makes every logit infinite
    assert torch.equal(new, theta)
    assert step.tried == 10
    assert not step.taken


def test_a_constant_policy_is_left_finite_although_its_fisher_matrix_vanishes():
    theta, batch = some_batch(TINY)
    beams_end = TINY.parts[0].n_parameters + TINY.parts[1].n_parameters
    theta = torch.zeros_like(theta)
    theta[beams_end - 1] = theta[-1] = 200.0  # the last beam and the last set, for ever
    product = fisher_product(TINY, theta, batch)
    v = torch.ones(TINY.n_parameters)
    torch.testing.assert_close(product(v), DAMPING * v)
    batch = replace(batch, allowed=torch.ones_like(batch.allowed))
    new, _ = trust_region_step(TINY, theta, batch, KL_LIMIT, NO_CLIP)
    assert torch.isfinite(new).all()
    with torch.no_grad():
        assert float(mean_kl(log_policy(TINY, theta, batch), log_policy(TINY, new, batch))) <= KL_LIMIT


# Experience


def test_a_h_of_a_slot_is_that_of_its_cycle_and_the_mean_where_that_is_unknown():
    got = broadcast(np.array([1, 1, 2, 3, 4]), np.array([1, 3]), np.array([10.0, 20.0]))
    assert got.tolist() == [10.0, 10.0, 15.0, 20.0, 15.0]


def test_a_series_ends_where_its_numbers_do_not_follow_each_other():
    assert ends_of(np.array([4, 5, 6, 9, 10])).tolist() == [False, False, True, False, True]


def test_each_action_is_stored_with_the_reward_that_came_with_the_next_observation(world):
    ue = Trpo(seat(world), 1)
    seen, _ = fly(world, ue, slots=40)
    rows = ue.memory.copy()
    assert len(rows["reward"]) == 39
    wanted = [one.reward / ue.usual_mbit for one in seen[1:]]
    np.testing.assert_allclose(rows["reward"], wanted)
    np.testing.assert_array_equal(rows["next_state"][:-1], rows["state"][1:])
    np.testing.assert_array_equal(rows["state"], [ue.state(one.values) for one in seen[:-1]])
    assert not rows["terminal"].any()
    assert not ends_of(rows["time"])[:-1].any()


def test_the_cost_of_groups_is_taken_off_the_reward(world):
    free, dear = Trpo(seat(world), 1), Trpo(seat(world), 1, group_cost=2.0)
    for ue in (free, dear):
        _, answers = fly(world, ue, slots=20)
    n_used = np.array([answer.values["used_rb"].sum() for answer in answers[:-1]])
    difference = free.memory.copy()["reward"] - dear.memory.copy()["reward"]
    np.testing.assert_allclose(difference * free.usual_mbit, 2.0 * n_used)


def test_an_action_that_was_not_in_force_is_not_learned_from(world):
    ue = Trpo(seat(world), 1)
    fly(world, ue, slots=30, timing_of={7: {"action_source": "hold"}, 8: {"action_source": "default"}, 9: {}})
    times = ue.memory.copy()["time"] & 0xFFFFFFFF
    assert sorted(set(range(29)) - set(times.tolist())) == [6, 7]  # what observations 7 and 8 say of 6 and 7
    assert ends_of(ue.memory.copy()["time"]).nonzero()[0].tolist() == [5, 26]


def test_skipped_observations_are_not_learned_from(world):
    ue = Trpo(seat(world), 1)
    seen, _ = fly(world, Trpo(seat(world), 1), slots=20)
    for one in seen:
        if one.slot not in (8, 9, 10):
            ue.act(one)
    assert (ue.memory.copy()["time"] & 0xFFFFFFFF).tolist() == [*range(7), *range(11, 19)]


def test_with_a_delay_an_action_earns_the_reward_of_the_slot_it_governed():
    world = make_world(slots=30, agents={"ue": timing(delay=2)})
    ue = Trpo(seat(world), 1)
    world.reset(1)
    rewards, owed = [], {}
    for slot in range(30):
        if slot in owed:
            world.apply("ue", owed.pop(slot))
        one = Observation("ue", slot, world.observe("ue"), rewards[-1] if rewards else None)
        owed[slot + 2] = ue.act(one).values
        rewards.append(world.step().reward["ue"])
    rows = ue.memory.copy()
    assert (rows["time"] & 0xFFFFFFFF).tolist() == list(range(27))
    np.testing.assert_allclose(rows["reward"] * ue.usual_mbit, rewards[2:-1])


@pytest.fixture(scope="module")
def busy():
    return make_world(BUSY_WINDOW, 2_400)


def test_a_pass_is_an_episode_and_nothing_is_stored_between_passes(busy):
    ue = Trpo(seat(busy), 1, memory_cycles=240)
    seen, answers = fly(busy, ue, Rollout(seat(busy, "leo"), 2))
    rows = ue.memory.copy()
    satellite = np.array([int(one.values["satellite"]) for one in seen])
    slots = rows["time"] & 0xFFFFFFFF
    assert satellite[slots].all()
    assert len(slots) == np.count_nonzero(satellite[:-1])
    ended = [s for s in range(len(seen) - 1) if satellite[s] and satellite[s + 1] != satellite[s]]
    assert len(ended) == 2  # a handover, and the end of a pass
    assert slots[rows["terminal"]].tolist() == ended
    cycles = ue.cycles.copy()
    assert ((cycles["cycle"][cycles["terminal"]] & 0xFFFFFFFF) + 1).tolist() == [(s + 1) // 10 for s in ended]
    assert satellite[(cycles["cycle"] & 0xFFFFFFFF) * 10].all()
    for one, answer in zip(seen, answers):
        if not one.values["serving"]:
            assert np.array_equal(answer.values["rx_beam_deg"], one.values["predicted_beam_deg"])
            assert not answer.signals


def test_the_satellite_s_experience_is_its_state_and_the_reward_of_that_cycle(world):
    told = []

    class Listening(Rollout):
        def act(self, seen):
            told.append((seen.reward, super().act(seen)))
            return told[-1][1]

    ue = Trpo(seat(world), 1)
    fly(world, ue, Listening(seat(world, "leo"), 2))
    cycles = ue.cycles.copy()
    assert (cycles["cycle"] & 0xFFFFFFFF).tolist() == list(range(11))
    np.testing.assert_allclose(cycles["reward"] * ue.usual_mbit, [reward for reward, _ in told[1:]], rtol=1e-6)
    np.testing.assert_array_equal(cycles["state"], [action.signals["ue"]["state"] for _, action in told[:-1]])
    np.testing.assert_array_equal(cycles["next_state"][:-1], cycles["state"][1:])


def test_what_another_controller_signals_is_not_taken_for_experience(world):
    ue = Trpo(seat(world), 1)
    for slot, signal in enumerate(({"state": np.zeros(2)}, {"reference": np.zeros(3)}, {})):
        ue.act(Observation("ue", slot, world.observe("ue"), slot or None, signals={"leo": signal}))
    assert ue.cycles.n_rows == 0


def test_a_new_flight_keeps_the_weights_and_joins_nothing_to_the_last(world):
    ue = Trpo(seat(world), 1)
    for _ in range(2):
        fly(world, ue, slots=60)
        ue.adopt(ue.learn()())
    weights = ue.theta.clone()
    fly(world, ue, slots=20)
    assert torch.equal(ue.theta, weights)
    assert ue.weights_version == 2
    assert ends_of(ue.memory.copy()["time"]).nonzero()[0].tolist() == [58, 117, 136]


# Acting


def test_beams_stand_around_the_prediction_and_groups_within_the_reserved(world):
    ue = Trpo(seat(world), 1)
    seen, answers = fly(world, ue, Rollout(seat(world, "leo"), 2))
    offsets = np.array([a.values["rx_beam_deg"] - s.values["predicted_beam_deg"] for s, a in zip(seen, answers)])
    np.testing.assert_allclose(offsets / 5.0, np.round(offsets / 5.0), atol=1e-9)
    assert np.abs(offsets).max() == pytest.approx(15.0)
    for one, answer in zip(seen, answers):
        assert answer.values["used_rb"].any()
        assert not (answer.values["used_rb"] & ~one.values["reserved_rb"]).any()


def test_by_the_letter_increments_add_up_and_the_state_knows_neither_demand_nor_beam(literal):
    ue = Trpo(seat(literal), 1)
    assert ue.actor.n_inputs == 5 + 64
    assert ue.rates.gamma == 0.95
    assert ue.rates.clip == np.inf
    seen, answers = fly(literal, ue)
    for one, answer in zip(seen[1:], answers[1:]):
        steps = (answer.values["rx_beam_deg"] - one.values["rx_beam_deg"]) / 5.0
        inside = (answer.values["rx_beam_deg"] > 0) & (answer.values["rx_beam_deg"] < 180)
        np.testing.assert_allclose(steps[inside], np.round(steps[inside]), atol=1e-9)


def test_cumulative_increments_come_with_the_pointing_error_in_the_state(world):
    ue = Trpo(seat(world), 1, relative=False)
    seen, _ = fly(world, ue, slots=30)
    assert ue.actor.n_inputs == 5 + 64 + 1 + 2
    values = seen[20].values
    error_deg = values["rx_beam_deg"] - values["predicted_beam_deg"]
    np.testing.assert_allclose(ue.state(values)[-2:], error_deg / 15.0, rtol=1e-5)


def test_without_exploration_the_same_observation_gets_the_same_answer(world):
    world.reset(1)
    one = Observation("ue", 0, world.observe("ue"))
    ue = Trpo(seat(world), 1, explore=False)
    first, *others = [ue.act(one).values for _ in range(10)]
    assert all(np.array_equal(first[name], other[name]) for other in others for name in first)
    exploring = Trpo(seat(world), 1)
    assert len({exploring.act(one).values["rx_beam_deg"].tobytes() for _ in range(10)}) > 3


@pytest.mark.parametrize(
    "options", [{"gamma": 1.5}, {"n_steps": 0}, {"batch": 0}, {"kl_limit": -1.0}, {"step_deg": np.nan}]
)
def test_an_option_out_of_range_is_refused_by_name(world, options):
    with pytest.raises(ControllerError, match=next(iter(options))):
        Trpo(seat(world), 1, **options)


# The reference


def test_reference_is_the_policy_played_on_the_nominal_link(world):
    """Step by step with the actor in torch, the link of twin.channel and the draws the controller makes."""
    ue = Trpo(seat(world), 4)
    ue.theta = ue.theta * 3.0
    ue.weights = ue.theta.numpy()
    fly(world, ue, Rollout(seat(world, "leo"), 2), slots=40)
    one = Observation("ue", 39, world.observe("ue"))
    beam_deg, used = np.array([80.0, 95.0]), np.array([True, False, True, False, False])
    draws = np.random.Generator(np.random.PCG64())
    draws.bit_generator.state = ue.reference_rng.bit_generator.state
    rows = ue.reference(one, beam_deg, used)

    noise = draws.gumbel(size=(80, 31))
    demand = draws.poisson(2.0, 81) / 2.0
    middle = pointing(*track(one.values["ephemeris_m"], one.values["ephemeris_s"], np.array([3.5])), ue.site)
    held_deg = ue._leader_beam_deg - middle.tx_beam_deg[0]
    for i in range(80):
        at_s = np.array([3.9, 4.0]) + 0.1 * i
        where = pointing(*track(one.values["ephemeris_m"], one.values["ephemeris_s"], at_s), ue.site)
        tx_beam_deg = where.tx_beam_deg + held_deg
        snr = ue.nominal.group_snr(where, tx_beam_deg, np.broadcast_to(beam_deg, (2, 2)))[0]
        tx_only = ue.nominal.group_snr(where, tx_beam_deg, where.rx_beam_deg)[0]
        full = ue.nominal.group_snr(where, where.tx_beam_deg, where.rx_beam_deg)[0]
        strength = 16.0 * np.sqrt(tx_only / full)  # |H w_t| = sqrt(N_t) |a_t^H w_t| in line of sight
        values = {
            "snr_db": np.where(used, np.maximum(to_db(snr), -30.0), -30.0),
            "antenna_strength": np.full(64, strength),
            "demand_bps": demand[i + 1] * 200e6,
        }
        beam_logits, set_logits = ue.actor(ue.theta, to_tensor(ue.state(values)[None]))
        increment = ue.increments_deg[int(beam_logits.argmax())]
        beam_deg = np.clip(where.rx_beam_deg[1] + increment, 0.0, 180.0)
        used = ue.sets[np.argmax(set_logits[0].numpy() + noise[i])]
        np.testing.assert_allclose(rows[i, :2], beam_deg, atol=1e-4)
        assert (rows[i, 2:] > 0.5).tolist() == used.tolist()


def test_the_compiled_reference_equals_the_plain_one(world):
    ue = Trpo(seat(world), 4, n_steps=1)
    n, draw = 10, np.random.default_rng(1)
    moving = np.cumsum(draw.uniform(0.0, 1.0, (n + 1, 2)), axis=0) + 80.0
    for relative in (True, False):
        given = (
            ue.weights,
            ue._buffers,
            np.zeros(ue.actor.n_inputs, np.float32),
            np.array([85.0, 88.0]),
            np.array([True] * 5),
            draw.uniform(1.0, 50.0, n + 1),
            draw.uniform(0.0, 0.1, n + 1),
            moving,
            draw.poisson(2.0, n + 1) / 2.0,
            draw.gumbel(size=(n, 31)),
            np.ones(31, bool),
            ue.increments_deg,
            ue.sets,
            ue.rx_antennas,
            -30.0,
            relative,
            False,
        )
        used = given[4].copy()
        plain = play_forward.py_func(*given[:4], used, *given[5:])
        assert np.array_equal(play_forward(*given), plain)


def test_reference_groups_are_not_masked_by_the_reserved_set(world):
    ue = Trpo(seat(world), 1)
    values = world.observe("ue") | {"reserved_rb": np.array([True] + [False] * 4)}
    rows = ue.reference(Observation("ue", 9, values), values["predicted_beam_deg"], values["reserved_rb"])
    assert (rows[:, 2:].mean(axis=0) > 0.2).all()


def test_by_the_letter_the_reference_stays_within_the_reserved_set(literal):
    ue = Trpo(seat(literal), 1)
    values = literal.observe("ue") | {"reserved_rb": np.array([True, False, True, False, False])}
    rows = ue.reference(Observation("ue", 9, values), values["predicted_beam_deg"], values["reserved_rb"])
    assert not rows[:, [3, 5, 6]].any()


@pytest.mark.parametrize("cycle", [1, 4, 10])
@pytest.mark.parametrize("n_groups", [1, 4, 5])
@pytest.mark.parametrize("n_steps", [1, 8])
def test_messages_have_the_sizes_of_the_paper(cycle, n_groups, n_steps):
    """6 + T + M elements down and (2 + M) n T up, per cycle of the satellite."""
    world = make_world(slots=2 * cycle + 1, agents={"leo": timing(every=cycle)}, link={"n_groups": n_groups})
    sent = {"leo": [], "ue": []}

    def noting(controller, name):
        act = controller.act

        def noted(seen):
            action = act(seen)
            sent[name] += [sum(array.size for array in arrays.values()) for arrays in action.signals.values()]
            assert all(array.dtype == np.float32 for arrays in action.signals.values() for array in arrays.values())
            return action

        controller.act = noted
        return controller

    ue = noting(Trpo(seat(world), 1, n_steps=n_steps), "ue")
    fly(world, ue, noting(Rollout(seat(world, "leo"), 2, n_steps=n_steps), "leo"))
    assert sent["leo"] == [6 + cycle + n_groups] * 3
    assert sent["ue"] == [(2 + n_groups) * n_steps * cycle] * len(sent["ue"])
    assert len(sent["ue"]) == (2 * cycle + 1) // cycle


# Learning as a job


def test_a_job_works_on_its_own_copy_and_gives_the_same_bits_in_another_thread(world):
    ue = Trpo(seat(world), 1)
    fly(world, ue, Rollout(seat(world, "leo"), 2), slots=60)
    job = ue.learn()
    first = job()
    fly(world, ue, slots=60)
    results = []
    thread = threading.Thread(target=lambda: results.append(job()))
    thread.start()
    thread.join()
    assert torch.equal(first.theta, results[0].theta)
    assert torch.equal(first.low.theta, results[0].low.theta)
    assert torch.equal(first.high.theta, results[0].high.theta)
    assert not torch.equal(first.theta, ue.theta)
    ue.adopt(first)
    assert torch.equal(first.theta, ue.theta)
    assert np.shares_memory(ue.weights, ue.theta.numpy())


def test_there_is_one_update_for_each_cycle_of_new_experience(world):
    ue = Trpo(seat(world), 1)
    jobs = []

    class Noting:
        def act(self, seen):
            action = ue.act(seen)
            if ue.learn() is not None:
                jobs.append(seen.slot)
            return action

    fly(world, Noting(), slots=81)
    assert jobs == [40, 50, 60, 70, 80]


def test_the_terminal_acts_the_same_when_the_fading_differs_but_the_observations_do_not(world):
    seen, answers = fly(world, Trpo(seat(world), 3), Rollout(seat(world, "leo"), 2))
    world.reset(99)
    ue = Trpo(seat(world), 3)
    for one, answer in zip(seen, answers):
        again = ue.act(one)
        assert all(np.array_equal(again.values[name], value) for name, value in answer.values.items())


def fingerprint(slots=70) -> str:
    """Hash of a flight on which both tiers learn."""
    world = make_world(slots=slots)
    leo, ue = Rollout(seat(world, "leo"), 5), Trpo(seat(world), 6)
    flown = levels.fly(world, leo, ue, seed=7)
    hashed = hashlib.sha256(ue.weights.tobytes() + leo.critic.theta.numpy().tobytes())
    for name in sorted(flown.measures):
        hashed.update(flown.measures[name].tobytes())
    assert ue.weights_version >= 2
    return hashed.hexdigest()


def test_learning_gives_the_same_bits_again():
    assert fingerprint() == fingerprint()


@pytest.mark.slow
def test_learning_gives_the_same_bits_in_another_process():
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parent)]
    code = f"import sys; sys.path[:0] = {paths!r}; import test_trpo; print(test_trpo.fingerprint())"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout.split() == [fingerprint()], done.stderr
