"""Work in several threads, for kernels that let go of the interpreter (`nogil=True`).

Not numba's own parallel loops: their threads belong to the process, do not survive a fork, may be entered from one
thread only where OpenMP is missing, and a kernel for them takes twice as long to compile. Each part of the work here
writes rows of its own, so the number of threads changes nothing in the result.
"""

import os
import threading
from collections.abc import Callable

import numba


def default_threads() -> int:
    """As many as this process may use processors, or as NUMBA_NUM_THREADS says where that is fewer."""
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    return max(1, min(len(os.sched_getaffinity(0)), most))


def spread(
    work: Callable[[int, int], object], n: int, threads: int | None = None, align: int = 1, step: int | None = None
) -> None:
    """Call work(first, last) on consecutive parts of range(n), in several threads, of which the caller's is one.

    threads  how many; None: `default_threads`
    align    parts begin at multiples of this
    step     parts are as long as this, and whoever is free takes the next; None: one part for each thread

    Returns when nobody works any more. What one of them raises, and a Ctrl-C, is raised here as soon as all have ended
    the part they are at; parts not begun by then are left undone. Raises ValueError for less than one thread.
    """
    if threads is None:  # asking the system takes a microsecond: not for a single part
        threads = default_threads() if step is None or n > step else 1
    if threads < 1:
        raise ValueError(f"threads must be 1 or more, got {threads}")
    if step is None:
        step = max(1, -(-n // (align * threads))) * align
    parts = range(0, n, step)
    if min(threads, len(parts)) <= 1:
        for first in parts:
            work(first, min(first + step, n))
        return
    starts = iter(parts)  # shared by all
    failed: list[BaseException] = []

    def serve(ended: threading.Event) -> None:
        try:
            for first in starts:
                work(first, min(first + step, n))
                if failed:
                    break
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    others: list[threading.Event] = []  # waited for by these: a join that Ctrl-C ends takes the thread for dead
    try:
        for _ in range(min(threads, len(parts)) - 1):
            ended = threading.Event()
            threading.Thread(target=serve, args=(ended,)).start()
            others.append(ended)
        serve(threading.Event())
        for other in others:
            other.wait()
    except BaseException as error:  # Ctrl-C while waiting for the others, or no more threads to be had
        failed.append(error)
        for other in others:
            other.wait()
    if failed:
        raise failed.pop(0)  # popped, so that no list in the traceback holds on to it and to the arrays of the work
