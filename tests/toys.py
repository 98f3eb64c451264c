"""Small worlds and controllers for tests of the loop: every number can be followed by hand."""

import os
import time

import light
import msgspec
import numpy as np

from twin import Action, Agent, Field, Observation, Outcome
from twin.scenario import resolve


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """A scenario's tables for `Toy`: none but how far apart the agents are."""

    flight_s: float = 0.0


class TwoTier:
    """A leader every 2 slots and a follower every slot; each adds its number to a sum.

    Reward of a slot: minus the distance of the sum of both actions to a target drawn from the seed.
    """

    def __init__(
        self, every: int = 2, delay: int = 0, leader_delay: int = 0, slot_s: float = 0.01, flight_s: float = 0.0
    ):
        self.slot_s, self.flight_s = slot_s, flight_s
        number = (Field("number", (), "float64", -10.0, 10.0),)
        told = (
            Field("target", (2,), "float64", -1e3, 1e3),
            Field("leader", (), "float64", -10.0, 10.0),
            Field("count", (), "int64"),
        )
        facts = {"gain": np.array(2.0)}
        self.agents = (
            Agent("leader", told, number, every=every, order=0, delay=leader_delay, facts=facts),
            Agent("follower", told, number, every=1, order=1, delay=delay, facts=facts),
        )
        self.reset(0)

    def reset(self, seed):
        self._rng = np.random.default_rng(seed)
        self.slot = 0
        self.now = {"leader": 0.0, "follower": 0.0}
        self.target = self._rng.normal(size=2)

    def default(self, agent):
        return {"number": np.array(-1.0)}

    def propagation_delay_s(self, sender, receiver):
        return self.flight_s

    def observe(self, agent):
        return {"target": self.target.copy(), "leader": np.array(self.now["leader"]), "count": np.array(self.slot)}

    def apply(self, agent, action):
        self.now[agent] = float(action["number"])

    def step(self):
        both = self.now["leader"] + self.now["follower"]
        reward = -abs(both - self.target.sum())
        self.target = self._rng.normal(size=2)
        self.slot += 1
        measures = {"sum": np.float64(both), "pair": np.array([self.now["leader"], self.now["follower"]])}
        return Outcome({"leader": reward, "follower": 2 * reward}, measures)


class Toy(TwoTier):
    """TwoTier as a scenario builds it."""

    def __init__(self, settings, *, slots, slot_s, folder, agents):
        def of(name, key, otherwise):
            value = getattr(agents.get(name), key, None)
            return otherwise if value is None else value

        leader, follower = of("leader", "delay", 0), of("follower", "delay", 0)
        super().__init__(of("leader", "every", 2), follower, leader, slot_s, settings.flight_s)


def scenario(controllers=("Echo", "Echo"), slots=12, slot_s=0.02, seed=3, leader=None, follower=None, **keys):
    """A scenario of the toy world, checked as a file would be."""
    names = [c if c == "external" else f"toys:{c}" for c in controllers]
    agents = {
        "leader": {"controller": names[0], **(leader or {})},
        "follower": {"controller": names[1], **(follower or {})},
    }
    return resolve(
        {"world": "toys:Toy", "slots": slots, "slot_s": slot_s, "seed": seed, "agent": agents, **keys}, name="toy"
    )


class Echo:
    """Answers the slot number over ten; the leader signals it to the follower, who adds what it was told."""

    def __init__(self, agent, seed, *, scale: float = 1.0):
        self.agent, self.scale, self.rng = agent, scale, np.random.default_rng(seed)
        self.heard = 0.0

    def act(self, seen):
        if "leader" in seen.signals:
            self.heard = float(seen.signals["leader"]["hint"][0])
        value = np.clip(self.scale * (seen.slot % 10) / 10 + self.heard + 0.1 * self.rng.normal(), -10, 10)
        signals = (
            {"follower": {"hint": np.array([seen.slot / 100], dtype="float32")}} if self.agent.name == "leader" else {}
        )
        return Action({"number": np.array(value)}, signals)


class Counts(Echo):
    """Answers the same number to the same slot, however often it was started: that of tests/light.py."""

    def act(self, seen):
        return Action({"number": np.array(light.number(seen.slot))})


class Wild(Counts):
    """From slot 50 on its numbers are no answers."""

    def act(self, seen):
        return super().act(seen) if seen.slot < 50 else Action({"number": np.array(np.inf)})


class Learning(Echo):
    """Echo whose scale grows by one with every update it learns."""

    def learn(self):
        scale = self.scale
        return lambda: scale + 1.0

    def adopt(self, scale):
        self.scale = scale


class SlowLearning(Learning):
    """An update takes 0.25 s."""

    def learn(self):
        scale = self.scale

        def job():
            time.sleep(0.25)
            return scale + 1.0

        return job


class Dies(Echo):
    """Ends its process at slot 7, after it said why."""

    def act(self, seen):
        if seen.slot >= 7:
            print("my last words", flush=True)
            os._exit(9)
        return super().act(seen)


class Raises(Echo):
    """Raises at slot 5."""

    def act(self, seen):
        if seen.slot >= 5:
            raise ValueError("no idea what to do")
        return super().act(seen)


class WrongShape(Echo):
    def act(self, seen):
        return Action({"number": np.zeros(4)}) if seen.slot == 3 else super().act(seen)


class NotANumber(Echo):
    def act(self, seen):
        return Action({"number": np.array(np.nan)}) if seen.slot == 3 else super().act(seen)


class Noisy(Echo):
    """Megabytes of noise at slot 3: more than is read, less than disconnects."""

    def act(self, seen):
        if seen.slot == 3:
            return Action({"number": np.array(1.0)}, {"leader": {"noise": np.zeros(300_000)}})
        return super().act(seen)


class Burns(Echo):
    """Uses a known amount of processor time for each answer."""

    def __init__(self, agent, seed, *, cpu_s: float = 0.002):
        super().__init__(agent, seed)
        self.cpu_s = cpu_s

    def act(self, seen):
        until = time.thread_time() + self.cpu_s
        while time.thread_time() < until:
            pass
        return super().act(seen)


class Odd(Echo):
    """Answers what it should not: a plain float at slot 2, a dict at slot 4, int16 at slot 6, big-endian at slot 8."""

    def act(self, seen):
        value = super().act(seen).values["number"]
        match seen.slot:
            case 2:
                return Action({"number": float(value)})
            case 4:
                return {"number": value}
            case 6:
                return Action({"number": np.array(1, dtype="int16")})
            case 8:
                return Action({"number": value.astype(">f8")})
        return Action({"number": value})


class Meddles(Echo):
    """Does to what it was given whatever can be done to it."""

    def act(self, seen):
        action = super().act(seen)
        seen.values["target"] = seen.values["target"] / 10
        for arrays in seen.signals.values():
            arrays.clear()
        return action


class Forks(Echo):
    """Leaves a child that inherits its sockets, and dies at slot 7."""

    def __init__(self, agent, seed):
        super().__init__(agent, seed)
        pid = os.fork()
        if pid == 0:
            time.sleep(300)
            os._exit(0)
        print(pid, flush=True)

    def act(self, seen):
        if seen.slot >= 7:
            os._exit(9)
        return super().act(seen)


def observation(agent="follower", slot=0):
    """An observation of the toy world."""
    world = TwoTier()
    return Observation(agent, slot, world.observe(agent))
