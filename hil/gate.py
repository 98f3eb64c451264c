"""Pause, resume and single-step of a run whose clock waits for the answers: wall time means nothing in it.

gate = Gate(paused=True)
threading.Thread(target=hil.run, args=(scenario, "lockstep"), kwargs={"gate": gate}).start()
gate.step(5)
gate.resume()
"""

import threading
import time
from collections.abc import Callable, Iterable

NAP_S = 0.02


class Gate:
    """Lets slots pass: all of them, none, or so many. May be used from another thread than the run's.

    slot  the slot that was let through last, -1 before the first
    """

    def __init__(self, paused: bool = False):
        self.slot = -1
        self._left: int | None = 0 if paused else None  # None: all
        self._lock = threading.Lock()

    @property
    def paused(self) -> bool:
        """Whether the run stands still, or will as soon as its steps are done."""
        return self._left is not None

    def pause(self) -> None:
        """Hold the run before its next slot."""
        with self._lock:
            self._left = 0

    def resume(self) -> None:
        """Let the run go on by itself."""
        with self._lock:
            self._left = None

    def step(self, slots: int = 1) -> None:
        """Let so many slots through, then hold. Raises ValueError for less than one."""
        if slots < 1:
            raise ValueError(f"a step is at least one slot, got {slots}")
        with self._lock:
            self._left = slots + (self._left or 0)

    def hold(self, slot: int, nap: Callable[[float], object] = time.sleep) -> None:
        """Return when `slot` may begin; `nap` sleeps for some seconds, e.g. while listening to sockets."""
        while True:
            with self._lock:
                if self._left != 0:
                    self._left = None if self._left is None else self._left - 1
                    self.slot = slot
                    return
            nap(NAP_S)


def obey(gate: Gate, lines: Iterable[str], say: Callable[[str], object]) -> None:
    """Step a gate by lines of text: empty for one slot, a number for so many, r to run on, p to pause.

    Where the lines end the run goes on by itself.
    """
    say("paused before slot 0: Enter for one slot, a number for so many, r to run on, p to pause")
    for line in lines:
        word = line.strip()
        if word in ("", "s"):
            gate.step()
        elif word.isdigit() and int(word) > 0:
            gate.step(int(word))
        elif word == "p":
            gate.pause()
        elif word == "r":
            gate.resume()
        else:
            say(f"{word!r} is none of: Enter, a number of slots, r, p")
    gate.resume()
