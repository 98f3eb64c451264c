"""Real time: slot n is released at start + n * slot_s / rt_factor on the monotonic clock, an absolute grid.

Virtual time is the same grid on a clock that stands still until it is moved.
The clock sleeps by a function it is given (`wait_until`), so that a twin listens to its sockets while it waits, and a
test can hold time still.
"""

import math
import time
from collections.abc import Callable

from twin.errors import RunBroken
from twin.scenario import window_of
from twin.types import Agent
from twin.units import NS_PER_S

SPIN_NS = 200_000  # a sleep of a millisecond ends about 60 us late; the last stretch is polled away


def sleep_until(until_ns: int, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
    """Sleep coarsely, spin the rest."""
    while (rest := until_ns - now_ns()) > 0:
        if rest > SPIN_NS:
            time.sleep((rest - SPIN_NS) / NS_PER_S)


class RealTime:
    """The clock that waits for nobody.

    slot_s         simulated length of a slot, s
    rt_factor      simulated seconds per wall second
    max_lag_s      a twin further behind its grid than this ends the run (RunBroken), wall s
    overrun_slots  those that the twin itself could not keep, so far
    """

    name = "realtime"

    def __init__(
        self,
        slot_s: float,
        agents: tuple[Agent, ...],
        rt_factor: float = 1.0,
        max_lag_s: float = 1.0,
        wait_until: Callable[[int], None] = sleep_until,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ):
        self.slot_s, self.rt_factor, self.max_lag_s = slot_s, rt_factor, max_lag_s
        self.overrun_slots: list[int] = []
        self._windows = {a.name: window_of(a, agents) for a in agents}
        self._last_window = max(self._windows.values())
        self._wait_until, self._now_ns = wait_until, now_ns
        self._start_ns: int | None = None

    @property
    def overruns(self) -> int:
        """How many slots that were so far."""
        return len(self.overrun_slots)

    def slot_start_ns(self, slot: int) -> int:
        """The scheduled start of a slot; the first call sets the grid, a little ahead of now."""
        if self._start_ns is None:
            self._start_ns = self._now_ns() + NS_PER_S // 100
        return self._start_ns + round(slot * self.slot_s / self.rt_factor * NS_PER_S)

    def start(self, slot: int) -> None:
        """Return when the slot is due; one that was due before we came is an overrun: counted, nothing skipped."""
        start_ns = self.slot_start_ns(slot)
        lag_ns = self._now_ns() - start_ns
        if lag_ns > 0:
            self.overrun_slots.append(slot)
            if lag_ns > self.max_lag_s * NS_PER_S:
                raise RunBroken(
                    f"the twin is {lag_ns / NS_PER_S:.2f} s behind real time at slot {slot}, more than max_lag_s = "
                    f"{self.max_lag_s:g}; lower rt_factor ({self.rt_factor:g}) or make the slots longer"
                )
        self._wait_until(start_ns)

    def release_ns(self, slot: int, follower: bool, signal_delay_s: float) -> int:
        """The slot's start; for a follower now, or when the signal it waits for has flown, whichever is later.

        No signal is waited for beyond the last window: what is left of the slot is the engine's.
        """
        if not follower:
            return self.slot_start_ns(slot)
        now = self._now_ns()
        if signal_delay_s > 0.0:
            until = now + round(signal_delay_s / self.rt_factor * NS_PER_S)
            until = max(now, min(until, self._window_end_ns(slot, self._last_window)))
            self._wait_until(until)
            return until
        return now

    def due_ns(self, agent: Agent, slot: int) -> int:
        """delay 0: the end of the agent's window in this slot; otherwise the start of slot + delay."""
        if agent.delay:
            return self.slot_start_ns(slot + agent.delay)
        return self._window_end_ns(slot, self._windows[agent.name])

    def _window_end_ns(self, slot: int, window: float) -> int:
        return self.slot_start_ns(slot) + round(window * self.slot_s / self.rt_factor * NS_PER_S)


class Virtual(RealTime):
    """The clock whose time stands still but where somebody says that it passes: the same grid and the same deadlines.

    The twin waits for every due answer; what it took is modelled (hil.modelled), and moves the clock.
    """

    name = "virtual"

    def __init__(
        self,
        slot_s: float,
        agents: tuple[Agent, ...],
        rt_factor: float = 1.0,
        hold: Callable[[int], None] = lambda slot: None,
    ):
        self._ns, self._hold = 0, hold
        super().__init__(slot_s, agents, rt_factor, math.inf, self.pass_until, lambda: self._ns)

    def start(self, slot: int) -> None:
        """Let time pass until the slot is due, unless somebody holds it."""
        self._hold(slot)
        super().start(slot)

    def pass_until(self, until_ns: int) -> None:
        """Let time pass; it never runs back."""
        self._ns = max(self._ns, until_ns)
