"""How long the controllers of the earth-fixed cell take, one thread, full size, against the stated limits."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from levels import make_world

from controllers.rollout import Rollout
from controllers.trpo import Trpo
from twin.types import Observation

ROLLOUT_LIMIT_S = 2e-3  # rollout with V_H, p95
ACT_LIMIT_S = 0.5e-3  # act of the terminal, p95, in slots that owe no reference
UPDATE_LIMIT_S = 0.25  # update at batch 256, p95, off the action path
REFERENCE_LIMIT_S = 6e-3  # ours: act with a reference of 80 steps, p95
SLOTS = 900


@pytest.fixture(scope="module")
def timed():
    """Seconds of every act and job over a flight of 90 s with learning."""
    world = make_world(slots=SLOTS)
    leo, ue = Rollout(world.agents[0], 1), Trpo(world.agents[1], 2)
    world.reset(1)
    took = {"rollout": [], "act": [], "reference": [], "update": [], "fit": []}

    def clocked(what, function, *arguments):
        begin = time.perf_counter()
        result = function(*arguments)
        took[what].append(time.perf_counter() - begin)
        return result

    earned, inbox = {"leo": None, "ue": None}, {"leo": {}, "ue": {}}
    for slot in range(SLOTS):
        for name, controller, every in (("leo", leo, 10), ("ue", ue, 1)):
            if slot % every:
                continue
            seen = Observation(name, slot, world.observe(name), earned[name], False, inbox[name])
            earned[name], inbox[name] = 0.0, {}
            what = "rollout" if name == "leo" else "reference" if slot % 10 == 9 else "act"
            action = clocked(what, controller.act, seen)
            world.apply(name, action.values)
            for to, arrays in action.signals.items():
                inbox[to][name] = arrays
            job = controller.learn()
            if job is not None:
                controller.adopt(clocked("update" if name == "ue" else "fit", job))
        for name, reward in world.step().reward.items():
            earned[name] = (earned[name] or 0.0) + reward
    for what, seconds in took.items():
        p50, p95, worst = np.percentile(seconds, [50, 95, 100]) * 1e3
        print(f"{what}: n {len(seconds)}, p50 {p50:.3f} ms, p95 {p95:.3f} ms, max {worst:.3f} ms")
    return took


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "limit_s"),
    [
        ("rollout", ROLLOUT_LIMIT_S),
        ("act", ACT_LIMIT_S),
        ("reference", REFERENCE_LIMIT_S),
        ("update", UPDATE_LIMIT_S),
    ],
)
def test_controllers_keep_their_time(timed, what, limit_s):
    assert np.percentile(timed[what], 95) <= limit_s
