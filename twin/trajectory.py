"""The trajectory hash: SHA-256 of what the world and the agents did, slot by slot, and nothing of when or where.

Whoever takes the same observations, actions in force and outcomes in the same order gets the same hash: a run that is
recorded, and its replay.
"""

import hashlib
import struct

import numpy as np

from twin.types import Arrays, Observation, Outcome


class Trajectory:
    """Observation values and signals, rewards, actions in force and measures, taken as they happen."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._headers: dict[tuple[str, np.dtype, tuple[int, ...]], bytes] = {}

    def observation(self, seen: Observation) -> None:
        """What an agent was told, but for `timing`."""
        self._take("observation", seen.agent, seen.slot, seen.values)
        for sender in sorted(seen.signals):
            self._take("signal", sender, seen.slot, seen.signals[sender])
        if seen.reward is not None:
            self._sha256.update(struct.pack("<d", seen.reward))

    def action(self, agent: str, slot: int, in_force: Arrays) -> None:
        """The action in force once the cycle of `slot` was settled, whoever it came from."""
        self._take("action", agent, slot, in_force)

    def outcome(self, slot: int, outcome: Outcome) -> None:
        """What a slot brought."""
        rewards = {f"reward.{name}": np.asarray(reward) for name, reward in outcome.reward.items()}
        self._take("outcome", "", slot, {**outcome.measures, **rewards})

    def hexdigest(self) -> str:
        """The hash so far; more may follow."""
        return self._sha256.hexdigest()

    def _take(self, kind: str, agent: str, slot: int, arrays: Arrays) -> None:
        said = [f"{kind} {agent} {slot}".encode()]
        for name in sorted(arrays):
            value = np.asarray(arrays[name])
            what = (name, value.dtype, value.shape)
            header = self._headers.get(what)
            if header is None:  # its words cost more than a slot's bytes
                header = self._headers[what] = f"{name} {value.dtype.str} {value.shape}".encode()
            said += (header, value.tobytes())
        self._sha256.update(b"".join(said))
