"""The satellite's rollout: on a small decision process solved exactly, and on the link it plans with."""

import numpy as np
import pytest
import torch
from levels import BUSY_WINDOW, make_world, timing
from test_trpo import fly, seat

from controllers.rollout import Rollout, best_action, finite_step_values, plan_rewards, poisson_law
from controllers.trpo import Trpo
from twin.errors import ControllerError
from twin.types import Observation

GAMMA = 0.9
EXACT = 1e-9


@pytest.fixture(scope="module")
def world():
    return make_world(slots=120)


@pytest.fixture(scope="module")
def literal():
    return make_world(slots=40, paper_literal=True)


# a deterministic process of two tiers, small enough to solve


class Toy:
    """Four high states, three actions, a cycle of two slots; the lower tier follows its reference action in each.

    reward and successor (n_states, n_actions) are those of a whole cycle, base (n_states,) is the base policy.
    """

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        n_states, n_actions, n_low, cycle = 4, 3, 2, 2
        slot_reward = rng.random((n_states, n_actions, n_low))
        slot_successor = rng.integers(n_states, size=(n_states, n_actions, n_low))
        reference = rng.integers(n_low, size=(n_states, cycle))  # the lower tier's action in each slot, by high state
        self.reward, self.successor = np.zeros((n_states, n_actions)), np.zeros((n_states, n_actions), int)
        for s in range(n_states):
            for a in range(n_actions):
                at = s
                for t in range(cycle):
                    low = reference[s, t]
                    self.reward[s, a] += slot_reward[at, a, low] / cycle
                    at = slot_successor[at, a, low]
                self.successor[s, a] = at
        self.base = rng.integers(n_actions, size=n_states)
        self.value = self.evaluate(self.base)

    def evaluate(self, policy):
        """Exact value of a policy: the linear system V = R + gamma P V."""
        states = np.arange(len(policy))
        moves = np.eye(len(policy))[self.successor[states, policy]]
        return np.linalg.solve(np.eye(len(policy)) - GAMMA * moves, self.reward[states, policy])

    def plans(self, state, n_steps):
        """Rewards (n_actions, n_steps) and last states (n_actions,) of each first action and the base after it."""
        rewards, ends = np.zeros((3, n_steps)), np.zeros(3, int)
        for first in range(3):
            at, action = state, first
            for p in range(n_steps):
                rewards[first, p] = self.reward[at, action]
                at = self.successor[at, action]
                action = self.base[at]
            ends[first] = at
        return rewards, ends


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("n_steps", [1, 2, 8])
def test_rollout_is_nowhere_worse_than_its_base_policy(seed, n_steps):
    toy = Toy(seed)
    chosen = np.zeros(4, int)
    for s in range(4):
        rewards, ends = toy.plans(s, n_steps)
        values = finite_step_values(rewards, toy.value[ends], GAMMA)
        assert values[toy.base[s]] == pytest.approx(toy.value[s], abs=EXACT)  # the base action keeps the base's value
        chosen[s], _ = best_action(values[:, None], np.ones(1), np.zeros(3))
        assert values[chosen[s]] >= toy.value[s] - EXACT
    assert (toy.evaluate(chosen) >= toy.value - EXACT).all()


@pytest.mark.parametrize("seed", range(5))
def test_many_steps_without_a_tail_equal_exhaustive_policy_evaluation(seed):
    toy = Toy(seed)
    for s in range(4):
        rewards, _ = toy.plans(s, 300)
        exact = toy.reward[s] + GAMMA * toy.value[toy.successor[s]]
        np.testing.assert_allclose(finite_step_values(rewards, np.zeros(3), GAMMA), exact, atol=EXACT)


@pytest.mark.parametrize("n_steps", [1, 3, 8])
def test_the_tail_has_the_weight_gamma_to_the_number_of_steps(n_steps):
    rewards = np.random.default_rng(1).random((3, n_steps))
    tail = np.array([1.0, -2.0, 0.5])
    moved = finite_step_values(rewards, tail + 0.25, GAMMA) - finite_step_values(rewards, tail, GAMMA)
    np.testing.assert_allclose(moved, GAMMA**n_steps * 0.25)


def test_of_equal_plans_the_smaller_set_wins_and_then_the_smaller_increment():
    values = np.array([[1.0, 2.0, 2.0], [0.0, 2.0, 2.0], [2.0, 2.0, 2.0 - 1e-9]])
    assert best_action(values, np.array([3, 2, 1]), np.array([5.0, 0.0, 5.0])) == (1, 2)
    assert best_action(values, np.array([1, 2, 3]), np.array([5.0, 0.0, 5.0])) == (2, 0)


# The reward of a plan


def test_demand_law_is_poisson():
    law = poisson_law(2.0)
    factorial = np.cumprod(np.r_[1.0, np.arange(1.0, len(law))])
    np.testing.assert_allclose(law, np.cumsum(np.exp(-2.0) * 2.0 ** np.arange(len(law)) / factorial))
    assert law[-1] == pytest.approx(1.0, abs=1e-11)
    assert poisson_law(0.0).tolist() == [1.0]


@pytest.mark.parametrize("kernel", [plan_rewards, plan_rewards.py_func], ids=["compiled", "plain"])
@pytest.mark.parametrize("literal", [False, True])
def test_plan_rewards_equal_a_plain_loop(kernel, literal):
    rng = np.random.default_rng(2)
    rate_mbit, reference = rng.uniform(0.0, 20.0, (3, 6)), rng.random((6, 3)) < 0.5
    rate_mbit[0, 0] = 10.0  # two groups of it meet the mean demand exactly
    sets = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1]], bool)
    law = np.array([2.0]) if literal else poisson_law(2.0)
    rewards = kernel(rate_mbit, reference, sets, law, 10.0, 2, literal)
    wanted = np.zeros((3, 3, 3))
    for b in range(3):
        for s in range(3):
            for t in range(6):
                n = (sets[s] & reference[t]).sum()
                if n == 0:
                    continue
                total = n * rate_mbit[b, t]
                met = (
                    float(total >= 20.0)
                    if literal
                    else sum(law[k] - (law[k - 1] if k else 0.0) for k in range(len(law)) if 10.0 * k <= total)
                )
                wanted[b, s, t // 2] += met * rate_mbit[b, t] / 2
    np.testing.assert_allclose(rewards, wanted)


# Planning on the link


def told(leo, world, slot=10, reference=None, signalled=True, reward=1.0, **values):
    """Ask a satellite, with what the terminal sent."""
    signals = {"ue": {"reference": reference}} if reference is not None and signalled else {}
    seen = Observation(
        "leo", slot, {**world.observe("leo"), "new_pass": np.array(False), **values}, reward, signals=signals
    )
    return leo.act(seen)


def along(leo, world, slot, groups):
    """A reference whose beams follow the satellite, with these groups (n_groups,) or (n, n_groups) throughout."""
    n = leo.n_steps * leo.cycle_slots
    where, _ = leo._geometry(Observation("leo", slot, world.observe("leo")))
    return np.concatenate([where.rx_beam_deg, np.broadcast_to(groups, (n, 5))], axis=1).astype(np.float32)


def settled(agent, world, **options):
    """A satellite that has met the serving satellite already, so that references count."""
    world.reset(1)
    leo = Rollout(agent, 1, **options)
    told(leo, world, slot=0, reward=None)
    return leo


@pytest.mark.parametrize("n_steps", [1, 8])
def test_a_reserved_set_of_one_group_grows_when_the_reference_uses_three(world, n_steps):
    leo = settled(seat(world, "leo"), world, n_steps=n_steps)
    reference = along(leo, world, 10, np.array([1, 1, 1, 0, 0]))
    only_one = np.array([True] + [False] * 4)
    action = told(leo, world, reference=reference, reserved_rb=only_one)
    assert action.values["reserved_rb"].tolist() == [True, True, True, False, False]
    assert np.array_equal(action.values["tx_beam_deg"], world.observe("leo")["predicted_beam_deg"])


def test_with_nothing_served_the_base_beam_and_all_groups_are_taken(world):
    leo = settled(seat(world, "leo"), world)
    action = told(leo, world, reference=along(leo, world, 10, np.zeros(5)))
    assert action.values["reserved_rb"].all()
    assert np.array_equal(action.values["tx_beam_deg"], world.observe("leo")["predicted_beam_deg"])


def test_by_the_letter_nothing_served_shrinks_the_set_to_one_group(literal):
    leo = settled(seat(literal, "leo"), literal)
    action = told(leo, literal, reference=along(leo, literal, 10, np.zeros(5)))
    assert action.values["reserved_rb"].sum() == 1


def test_by_the_letter_a_plan_is_scored_with_the_mean_demand(world, literal):
    letter, repaired = settled(seat(literal, "leo"), literal), settled(seat(world, "leo"), world)
    # Some 16 Mbit per slot and group: two meet the mean of 20 Mbit for certain, five meet what the law may bring.
    reserved = [
        told(leo, w, reference=along(leo, w, 10, np.ones(5))).values["reserved_rb"].sum()
        for leo, w in ((letter, literal), (repaired, world))
    ]
    assert reserved == [2, 5]


def test_one_step_without_a_tail_is_the_myopic_choice(world):
    leo = settled(seat(world, "leo"), world, n_steps=1)
    leo.critic = leo.critic.__class__(leo.critic.net, torch.zeros_like(leo.critic.theta), leo.critic.adam)
    groups = np.random.default_rng(3).random((10, 5)) < 0.4
    reference = along(leo, world, 10, groups)
    action = told(leo, world, reference=reference)
    where, _ = leo._geometry(Observation("leo", 10, world.observe("leo")))
    best, wanted = -1.0, None
    for chosen in leo.sets[np.argsort(leo.sets.sum(axis=1), kind="stable")]:
        for move in leo.increments_deg:
            beam = world.observe("leo")["predicted_beam_deg"] + move
            rate = (
                leo.nominal.group_rate_bps(leo.nominal.group_snr(where, np.tile(beam, (10, 1)), reference[:, :2])) / 1e7
            )
            n = (chosen & groups).sum(axis=1)
            met = [poisson_law(2.0)[min(int(n[t] * rate[t] / 10.0), 24)] * (n[t] > 0) for t in range(10)]
            score = float(np.mean(met * rate))
            if score > best + EXACT:
                best, wanted = score, (beam, chosen)
    assert np.array_equal(action.values["tx_beam_deg"], wanted[0])
    assert np.array_equal(action.values["reserved_rb"], wanted[1])


def test_a_constant_v_h_moves_every_score_alike(world):
    leo = settled(seat(world, "leo"), world)
    theta = torch.zeros_like(leo.critic.theta)
    theta[-1] = 3.0  # the bias of the output
    leo.critic = leo.critic.__class__(leo.critic.net, theta, leo.critic.adam)
    seen = Observation("leo", 10, world.observe("leo"))
    tail = leo._tail(seen, np.ones((9, 80)), np.ones((80, 5), bool))
    assert tail.shape == (9, 31)
    np.testing.assert_allclose(tail, 3.0 * leo.usual_mbit)


def test_the_tail_s_state_is_the_position_then_and_the_snr_of_the_last_cycle(world):
    leo = settled(seat(world, "leo"), world)
    seen = Observation("leo", 10, world.observe("leo"))
    states = []

    class Recording:
        def value(self, given):
            states.append(given.numpy())
            return torch.zeros(len(given))

    leo.critic = Recording()
    snr = np.random.default_rng(1).uniform(1.0, 60.0, (9, 80))
    leo._tail(seen, snr, np.ones((80, 5), bool))
    (given,) = states
    later = make_world(slots=120)
    later.slot = 90
    np.testing.assert_allclose(given[:, :3], np.tile(later.observe("leo")["position_m"] / 7e6, (9, 1)), rtol=1e-6)
    np.testing.assert_allclose(given[:, 3:], 10.0 * np.log10(snr[:, -10:]) / 20.0, rtol=1e-5)


def test_by_the_letter_a_slot_without_a_group_has_no_snr_in_the_tail_s_state(literal):
    leo = settled(seat(literal, "leo"), literal)
    states = []

    class Recording:
        def value(self, given):
            states.append(given.numpy())
            return torch.zeros(len(given))

    leo.critic = Recording()
    reference = np.zeros((80, 5), bool)
    reference[:, 0] = True
    leo._tail(Observation("leo", 10, literal.observe("leo")), np.full((9, 80), 10.0), reference)
    slot_snr_db = states[0].reshape(9, 31, 13)[:, :, 3:] * 20.0
    with_first = leo.sets[:, 0]
    np.testing.assert_allclose(slot_snr_db[:, with_first], 10.0, rtol=1e-6)
    np.testing.assert_allclose(slot_snr_db[:, ~with_first], -30.0, rtol=1e-6)


def test_cumulative_beams_close_in_on_the_prediction_step_by_step(literal):
    leo = settled(seat(literal, "leo"), literal)
    middle_deg = np.tile([90.0, 60.0], (8, 1))
    values = {"new_pass": False, "tx_beam_deg": np.array([101.0, 60.0]), "predicted_beam_deg": np.array([90.0, 60.0])}
    beams = leo._beams(values, middle_deg)
    np.testing.assert_allclose(beams[4, :, 0], [101.0, 96.0, 91.0, 91.0, 91.0, 91.0, 91.0, 91.0])
    np.testing.assert_allclose(beams[0, :3], [[96.0, 55.0], [91.0, 60.0], [91.0, 60.0]])


def test_the_first_cycle_of_a_pass_starts_from_the_prediction_also_with_cumulative_increments(literal):
    leo = Rollout(seat(literal, "leo"), 1)
    literal.reset(1)
    action = told(leo, literal, slot=0, reward=None, new_pass=np.array(True), tx_beam_deg=np.array([10.0, 10.0]))
    moved = action.values["tx_beam_deg"] - literal.observe("leo")["predicted_beam_deg"]
    assert np.abs(moved).max() <= 5.0 + EXACT


# References that are missed, void or foreign


def counting(leo, world):
    """A reference whose row i says theta = i, with all groups."""
    n = leo.n_steps * leo.cycle_slots
    rows = np.ones((n, 7), np.float32)
    rows[:, 0], rows[:, 1] = np.arange(n), 90.0
    return rows


def test_a_missed_reference_makes_the_old_one_shift_by_a_cycle_and_pad_with_its_last_row(world):
    leo = settled(seat(world, "leo"), world)
    told(leo, world, slot=10, reference=counting(leo, world))
    direction = np.zeros((80, 2))
    assert leo._reference(10, direction)[0][:, 0].tolist() == list(range(80))
    told(leo, world, slot=20)
    assert leo._reference(20, direction)[0][:, 0].tolist() == [*range(10, 80), *[79] * 10]
    told(leo, world, slot=30)
    assert leo._reference(30, direction)[0][:, 0].tolist() == [*range(20, 80), *[79] * 20]
    assert leo._reference(2_000, direction)[0][:, 0].tolist() == [79] * 80
    told(leo, world, slot=40, reference=counting(leo, world))
    assert leo._reference(40, direction)[0][:, 0].tolist() == list(range(80))


def test_with_a_delay_the_reference_is_read_from_the_slot_the_answer_governs():
    delayed = make_world(slots=60, agents={"leo": timing(delay=10)})
    leo = settled(seat(delayed, "leo"), delayed)
    told(leo, delayed, slot=10, reference=counting(leo, delayed))
    assert leo._reference(10, np.zeros((80, 2)))[0][:2, 0].tolist() == [10.0, 11.0]


def test_a_reference_that_flies_for_whole_slots_begins_where_the_terminal_meant(world):
    leo = settled(seat(world, "leo"), world)
    leo.slot_s = 1e-3  # some 700 km of slant range: two whole slots of flight, so what is seen at 20 left in slot 9
    told(leo, world, slot=20, reference=counting(leo, world), position_m=leo.site.position_m * (1.0 + 700e3 / 6.37e6))
    assert leo._held[0] == 10


@pytest.mark.parametrize("change", [{"new_pass": np.array(True)}, {"satellite": np.array(77)}])
def test_a_handover_voids_the_reference_and_whatever_comes_with_it(world, change):
    leo = settled(seat(world, "leo"), world)
    told(leo, world, slot=10, reference=counting(leo, world))
    told(leo, world, slot=20, reference=counting(leo, world), **change)
    direction = np.full((80, 2), 42.0)
    beams, groups = leo._reference(20, direction)
    assert np.array_equal(beams, direction)
    assert groups.all()


def test_a_reference_of_another_controller_is_not_read(world):
    leo = settled(seat(world, "leo"), world)
    for foreign in (np.zeros(3), np.zeros((0, 7)), np.zeros((80, 4)), np.float64(1.0)):
        told(leo, world, reference=foreign)
        assert leo._held is None
    told(leo, world, reference=counting(leo, world)[:5])
    assert leo._reference(10, np.zeros((80, 2)))[0][-1, 0] == 4.0


# Experience, and what a satellite may know


def test_cycles_are_stored_with_the_reward_that_followed_and_passes_end(world):
    busy = make_world(BUSY_WINDOW, 2_400)
    leo = Rollout(seat(busy, "leo"), 1)
    observed = []

    class Noting:
        def act(self, seen):
            observed.append(seen)
            return leo.act(seen)

    fly(busy, Trpo(seat(busy), 2), Noting())
    rows = leo.memory.copy()
    satellite = np.array([int(one.values["satellite"]) for one in observed])
    cycle = rows["time"] & 0xFFFFFFFF
    assert len(cycle) == 64
    assert satellite[cycle].all()
    assert (np.diff(cycle) == 1).all()
    np.testing.assert_allclose(rows["reward"] * leo.usual_mbit, [observed[k + 1].reward for k in cycle])
    assert rows["terminal"].tolist() == [satellite[k] != satellite[k + 1] for k in cycle]
    assert rows["terminal"].any()
    for one in observed:
        if not one.values["serving"]:
            quiet = leo.act(one).values
            assert quiet["reserved_rb"].all()
            assert np.array_equal(quiet["tx_beam_deg"], one.values["predicted_beam_deg"])


def test_a_cycle_whose_answer_was_missed_is_not_learned_from(world):
    world.reset(1)
    leo = Rollout(seat(world, "leo"), 1)
    for slot, source in ((0, "default"), (10, "agent"), (20, "hold"), (30, "agent")):
        seen = Observation("leo", slot, world.observe("leo"), 1.0 if slot else None, timing={"action_source": source})
        leo.act(seen)
    assert (leo.memory.copy()["time"] & 0xFFFFFFFF).tolist() == [0, 2]


def test_decisions_are_the_same_when_the_fading_differs_but_the_observations_do_not(world):
    observed, answers = [], []

    class Noting:
        def __init__(self, leo):
            self.leo = leo

        def act(self, seen):
            observed.append(seen)
            answers.append(self.leo.act(seen))
            return answers[-1]

    fly(world, Trpo(seat(world), 2), Noting(Rollout(seat(world, "leo"), 1)))
    other = make_world(slots=120)
    other.reset(4_321)
    leo = Rollout(seat(other, "leo"), 1)
    for seen, answer in zip(observed, answers):
        again = leo.act(seen)
        for name, value in {**answer.values, **answer.signals["ue"]}.items():
            assert np.array_equal({**again.values, **again.signals["ue"]}[name], value)


def test_v_h_is_fitted_by_a_job_after_each_stored_cycle(world):
    world.reset(1)
    leo = Rollout(seat(world, "leo"), 1)
    told(leo, world, slot=0, reward=None)
    assert leo.learn() is None
    told(leo, world, slot=10, reward=14.0)
    job = leo.learn()
    assert leo.learn() is None
    before = leo.critic
    fitted = job()
    assert leo.critic is before
    leo.adopt(fitted)
    assert leo.weights_version == 1
    assert not torch.equal(leo.critic.theta, before.theta)


def test_a_new_flight_keeps_v_h_and_forgets_the_reference(world):
    leo = settled(seat(world, "leo"), world)
    told(leo, world, slot=10, reference=counting(leo, world))
    leo.adopt(leo.learn()())
    theta = leo.critic.theta
    told(leo, world, slot=0, reward=None)
    assert leo._held is None
    assert leo.critic.theta is theta
    told(leo, world, slot=10)
    assert (leo.memory.copy()["time"] >> 32).tolist() == [2, 3]


@pytest.mark.parametrize("options", [{"gamma": -0.1}, {"n_steps": 0}, {"step_deg": 200.0}])
def test_an_option_out_of_range_is_refused_by_name(world, options):
    with pytest.raises(ControllerError, match=next(iter(options))):
        Rollout(seat(world, "leo"), 1, **options)
