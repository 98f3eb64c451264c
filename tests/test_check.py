"""The conformance kit: it accepts what keeps the contract, and names the clause that something breaks."""

from dataclasses import replace

import numpy as np
import pytest
import toys

from twin import Action, Agent, Field, Outcome, TwinError, check_controller, check_world
from twin.check import ContractBroken, check_arrays, check_scenario, sample

LEADER, FOLLOWER = toys.TwoTier().agents


def test_world_that_keeps_the_contract_passes_and_is_told_what_was_looked_at():
    looked = check_world(toys.TwoTier, slots=20)
    assert "same seed, same trajectory" in looked
    assert "another seed, another trajectory" in looked
    assert len(looked) == 5


# ---- worlds that break it


class Lists(toys.TwoTier):
    def observe(self, agent):
        return super().observe(agent) | {"target": [0.0, 0.0]}


class WrongDtype(toys.TwoTier):
    def observe(self, agent):
        return super().observe(agent) | {"target": np.zeros(2, "float32")}


class WrongShape(toys.TwoTier):
    def observe(self, agent):
        return super().observe(agent) | {"target": np.zeros(3)}


class OneTooMany(toys.TwoTier):
    def observe(self, agent):
        return super().observe(agent) | {"more": np.zeros(1)}


class NotANumberLater(toys.TwoTier):
    def observe(self, agent):
        return super().observe(agent) | {"target": np.full(2, np.nan if self.slot == 3 else 0.0)}


class OutOfBounds(toys.TwoTier):
    def observe(self, agent):
        return super().observe(agent) | {"leader": np.array(11.0)}


class LiveMeasures(toys.TwoTier):
    """Measures into the same array in every slot."""

    def reset(self, seed):
        super().reset(seed)
        self.pair = np.zeros(2)

    def step(self):
        outcome = super().step()
        self.pair[:] = outcome.measures["pair"]
        return outcome._replace(measures={"pair": self.pair})


class LiveBuffer(toys.TwoTier):
    """Hands out the array it writes into."""

    def reset(self, seed):
        super().reset(seed)
        self.buffer = np.zeros(2)

    def observe(self, agent):
        return super().observe(agent) | {"target": self.buffer}

    def step(self):
        self.buffer += self._rng.normal()
        return super().step()


class ChangesTheAction(toys.TwoTier):
    def apply(self, agent, action):
        super().apply(agent, action)
        action["number"] = np.array(0.0)


class DefaultOutOfBounds(toys.TwoTier):
    def default(self, agent):
        return {"number": np.array(99.0)}


class NoOutcome(toys.TwoTier):
    def step(self):
        return tuple(super().step())


class RewardForSome(toys.TwoTier):
    def step(self):
        return Outcome({"leader": 0.0}, super().step().measures)


class RewardIsNotANumber(toys.TwoTier):
    def step(self):
        return Outcome({"leader": np.nan, "follower": 0.0}, super().step().measures)


class ForgetsTheSeed(toys.TwoTier):
    """Draws from where it is instead of beginning anew."""

    generator = np.random.default_rng(1)

    def reset(self, seed):
        super().reset(seed)
        self._rng = self.generator
        self.target = self._rng.normal(size=2)


class IgnoresTheSeed(toys.TwoTier):
    def reset(self, seed):
        super().reset(1)


class KeepsSomethingFromBefore(toys.TwoTier):
    def reset(self, seed):
        super().reset(seed)
        self.flown = getattr(self, "flown", -1) + 1

    def observe(self, agent):
        return super().observe(agent) | {"count": np.array(self.slot + self.flown)}


class NoTime(toys.TwoTier):
    def __init__(self):
        super().__init__(slot_s=0.0)


class NobodyThere(toys.TwoTier):
    def __init__(self):
        super().__init__()
        self.agents = ()


class Namesakes(toys.TwoTier):
    def __init__(self):
        super().__init__()
        self.agents = (LEADER, replace(FOLLOWER, name="leader"))


class FactIsAList(toys.TwoTier):
    def __init__(self):
        super().__init__()
        self.agents = (replace(LEADER, facts={"gain": [1.0, 2.0]}), FOLLOWER)


class NeverAsks(toys.TwoTier):
    def __init__(self):
        super().__init__()
        self.agents = (replace(LEADER, every=0), FOLLOWER)


@pytest.mark.parametrize(
    ("world", "clause"),
    [
        (Lists, "target is a list, expected an array"),
        (WrongDtype, r"target is \(2,\) float32, declared \(2,\) float64"),
        (WrongShape, r"target is \(3,\) float64, declared \(2,\) float64"),
        (OneTooMany, r"has \['count', 'leader', 'more', 'target'\], declared \['count', 'leader', 'target'\]"),
        (NotANumberLater, "observation of follower at slot 3: target is not finite"),
        (OutOfBounds, r"leader leaves \[-10, 10\]: 11.0 to 11.0"),
        (LiveBuffer, "the observation of leader changed after it was handed out, at slot 0"),
        (LiveMeasures, "the measures of slot 0 changed after they were handed out"),
        (ChangesTheAction, "apply changed the action of leader at slot 0"),
        (DefaultOutOfBounds, r"default of leader: number leaves \[-10, 10\]"),
        (NoOutcome, "step returned a tuple, expected an Outcome"),
        (RewardForSome, r"rewards for \['leader'\]"),
        (RewardIsNotANumber, "a reward is not finite at slot 0"),
        (ForgetsTheSeed, "the same seed and actions gave two different trajectories"),
        (IgnoresTheSeed, "two seeds gave the same trajectory"),
        (NoTime, "slot_s must be positive, is 0.0"),
        (NobodyThere, "a world has at least one agent"),
        (Namesakes, "agents share a name"),
        (FactIsAList, "agent leader: fact gain is no array"),
        (NeverAsks, "agent leader: every 0"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_world_that_breaks_the_contract_is_told_which_clause(world, clause):
    with pytest.raises(ContractBroken, match=clause) as caught:
        check_world(world, slots=10)
    assert isinstance(caught.value, TwinError)


def test_world_that_does_not_begin_anew_is_found_out():
    """`reset` must forget: the runner flies a slot before the clock starts and begins again."""
    world = KeepsSomethingFromBefore()
    with pytest.raises(ContractBroken, match="the same seed and actions gave two different trajectories"):
        check_world(lambda: world, slots=10)


def test_measures_must_stay_what_they_were():
    class Rounds(toys.TwoTier):
        def step(self):
            outcome = super().step()
            return outcome._replace(measures={"sum": np.array(0 if self.slot < 3 else 0.7)})

    with pytest.raises(ContractBroken, match="names, dtypes, shapes must stay"):
        check_world(Rounds, slots=10)


def test_world_that_ends_early_is_flown_to_its_end():
    class Short(toys.TwoTier):
        def step(self):
            return super().step()._replace(done=self.slot >= 4)

        def observe(self, agent):
            assert self.slot < 4, "asked beyond its end"
            return super().observe(agent)

    check_world(Short, slots=10)


# ---- controllers


def test_controller_that_keeps_the_contract_passes_and_is_told_what_was_looked_at():
    assert len(check_controller(toys.Echo, LEADER, ("follower",))) == 5
    assert "learn() and adopt()" in check_controller(toys.Learning, FOLLOWER)


def test_options_reach_the_controller():
    with pytest.raises(ContractBroken, match=r"number leaves \[-10, 10\]|not finite"):
        check_controller(toys.Echo, FOLLOWER, scale=float("nan"))


class Deaf:
    def __init__(self, agent, seed):
        pass


class Talks(toys.Echo):
    def act(self, seen):
        return {"number": np.array(0.0)}


class Unseeded(toys.Echo):
    generator = np.random.default_rng(1)

    def act(self, seen):
        return Action({"number": np.array(self.generator.uniform())})


class ChangesWhatItSees(toys.Echo):
    def act(self, seen):
        seen.values["target"][:] = 0.0
        return super().act(seen)


class WhispersToNobody(toys.Echo):
    def act(self, seen):
        return Action({"number": np.array(0.0)}, {"nobody": {"hint": np.zeros(1)}})


class CountsCycles(toys.Echo):
    """Takes it for granted that it is asked in every cycle, once."""

    n = 0

    def act(self, seen):
        self.n += 1
        return Action({"number": np.array([0.0] * 5)[seen.slot - self.n + 1]})


class TakesHints(toys.Echo):
    def act(self, seen):
        for arrays in seen.signals.values():
            arrays["plan"]
        return super().act(seen)


class CannotFinish(toys.Echo):
    def finish(self, seen):
        raise ValueError("no reward to close")


class LearnsNonsense(toys.Echo):
    def learn(self):
        return 3


class CannotAdopt(toys.Echo):
    def learn(self):
        return lambda: 1.0


@pytest.mark.parametrize(
    ("controller", "clause"),
    [
        (Deaf, r"Deaf has no act\(seen\)"),
        (Talks, "answered a dict, expected a twin.Action"),
        (toys.WrongShape, r"answer to slot 3: number has shape \(4,\) float64, expected \(\) float64"),
        (toys.NotANumber, "answer to slot 3: number is not finite"),
        (Unseeded, "the same seed and observations gave different answers"),
        (ChangesWhatItSees, "act changed the observation of slot 0"),
        (WhispersToNobody, "a signal goes to 'nobody'"),
        (CountsCycles, "act failed at slot 35: IndexError"),
        (TakesHints, "act failed at slot 35: KeyError"),
        (CannotFinish, "finish failed at slot 50: ValueError"),
        (LearnsNonsense, r"learn\(\) returned 3"),
        (CannotAdopt, r"no adopt\(result\)"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_controller_that_breaks_the_contract_is_told_which_clause(controller, clause):
    with pytest.raises(ContractBroken, match=clause):
        check_controller(controller, FOLLOWER, ("leader",))


def test_controller_is_tried_on_a_world_too_with_cycles_it_is_not_asked_in():
    asked, finished = [], []

    class Counts(toys.Echo):
        def act(self, seen):
            asked.append((seen.slot, seen.reward is None, seen.values["count"].item()))
            return super().act(seen)

        def finish(self, seen):
            finished.append((seen.slot, seen.last))

    looked = check_controller(Counts, FOLLOWER, ("leader",), cycles=1, world=toys.TwoTier, slots=12)
    assert "8 observations of the world, with gaps between them" in looked
    assert "finish()" in looked
    flown = [(slot, slot == 0, slot) for slot in (0, 1, 2, 3, 4, 5, 6, 9)]
    assert asked[-8:] == flown
    assert asked[-16:-8] == flown
    assert finished == [(12, True), (12, True), (2, True)]


def test_controller_that_takes_longer_than_its_window_is_warned_of_not_failed():
    with pytest.warns(UserWarning, match="due after 0.008 ms: in real time this controller misses deadlines"):
        check_controller(toys.Echo, FOLLOWER, ("leader",), world=lambda: toys.TwoTier(slot_s=1e-5))


def test_controller_that_only_a_world_drives_mad_is_found_out():
    class NotInTheMiddle(toys.Echo):
        def act(self, seen):
            assert seen.slot != seen.values["count"] or seen.slot < 7  # the counts drawn at random are others
            return super().act(seen)

    with pytest.raises(ContractBroken, match="act failed at slot 7: AssertionError"):
        check_controller(NotInTheMiddle, FOLLOWER, ("leader",), world=toys.TwoTier)


# ---- scenarios


def test_scenario_is_flown_twice_and_its_seats_are_told():
    looked = check_scenario(toys.scenario(("Echo", "external"), slots=12))
    assert looked[:2] == [
        "leader: toys:Echo, asked every 2 slots, due by 0.4 of the slot",
        "follower: whoever comes (random answers meanwhile), asked every 1 slots, due by 0.8 of the slot",
    ]
    assert looked[2].startswith("flown twice in lock-step, 12 slots, one trajectory: ")


@pytest.mark.parametrize(
    ("controllers", "clause"),
    [
        (("Echo", "NotANumber"), "follower answered its cycle 3 wrongly"),
        (("Unseeded", "Echo"), "it gave two trajectories"),
    ],
)
def test_scenario_that_cannot_be_repeated_is_found_out(controllers, clause, monkeypatch):
    monkeypatch.setattr(toys, "Unseeded", Unseeded, raising=False)
    with pytest.raises(ContractBroken, match=clause):
        check_scenario(toys.scenario(controllers, slots=12))


# ---- what it tries them with


FIELDS = (
    Field("angle_deg", (100,), "float64", 0.0, 180.0),
    Field("free_m", (100,)),
    Field("loss_db", (100,), "float32", 0.0),
    Field("far_m", (100,), "float64", 5e6, 7e6),
    Field("count", (100,), "int64", 2, 4),
    Field("byte", (), "uint8", 0, 255),
    Field("flag", (100,), "bool"),
)


def test_samples_are_as_the_fields_declare_them_and_fill_their_bounds():
    arrays = sample(FIELDS, np.random.default_rng(1))
    check_arrays("sample", arrays, FIELDS)
    assert arrays["angle_deg"].max() - arrays["angle_deg"].min() > 150
    assert set(arrays["count"].tolist()) == {2, 3, 4}
    assert set(arrays["flag"].tolist()) == {False, True}


def test_samples_follow_the_generator():
    first, again = (sample(FIELDS, np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_kit_asks_on_the_agent_s_own_cycle():
    asked = []

    class Counts(toys.Echo):
        def act(self, seen):
            asked.append((seen.slot, seen.reward is None))
            return super().act(seen)

    check_controller(Counts, Agent("follower", FOLLOWER.observes, FOLLOWER.acts, every=5), cycles=3)
    in_turn = [(0, True), (5, False), (10, False)]
    twice_and_skipping = [(15, False), (15, False), (65, False), (70, False)]
    assert asked == [*in_turn, *in_turn, *twice_and_skipping]
