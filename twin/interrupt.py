"""Ctrl-C at a moment when nothing is half done: a row written and not hashed, a slot stepped and not recorded."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


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
    try:
        yield check
    finally:
        for number in handled:
            signal.signal(number, before[number])
    check()  # it came in the last moment
