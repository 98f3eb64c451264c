"""Ctrl-C at a moment when nothing is half done: a row written and not hashed, a slot stepped and not recorded."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

_checks: list[Callable[[], None]] = []  # of the main thread, the innermost last


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C (and SIGTERM, where somebody handles it) back until the function yielded is called, which raises it.

    A second one is not held back: whoever never comes to that moment must be stopped too. In another thread than the
    main one nothing is held back, for there no signal is handled.
    """
    came: list[int] = []

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    def handler(number: int, frame: object) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handled = [number for number, its in before.items() if callable(its)]
    for number in handled:
        signal.signal(number, handler)
    _checks.append(check)
    try:
        yield check
    finally:
        _checks.remove(check)
        for number in handled:
            signal.signal(number, before[number])
    check()  # it came in the last moment


def nap(wait_s: float) -> None:
    """Sleep where nothing is half done: a Ctrl-C that is held back is raised afterwards."""
    time.sleep(wait_s)
    if _checks and threading.current_thread() is threading.main_thread():
        _checks[-1]()
