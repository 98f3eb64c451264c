"""Work in several threads, for kernels that let go of the interpreter (`nogil=True`).

Not numba's own parallel loops: their threads belong to the process, do not survive a fork, may be entered from one
thread only where OpenMP is missing, and a kernel for them takes twice as long to compile. Each part of the work here
writes rows of its own, so the number of threads changes nothing in the result.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba


def default_threads() -> int:
    """As many as this process may use processors, or as NUMBA_NUM_THREADS says where that is fewer."""
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    return max(1, min(len(os.sched_getaffinity(0)), most))


def spread(work: Callable[[int, int], object], n: int, threads: int | None = None, align: int = 1) -> None:
    """Call work(first, last) on consecutive parts of range(n), each in a thread of its own.

    threads  how many; None: `default_threads`
    align    parts begin at multiples of this

    Returns when all have. What one of them raises is raised here. Raises ValueError for less than one thread.
    """
    threads = default_threads() if threads is None else threads
    if threads < 1:
        raise ValueError(f"threads must be 1 or more, got {threads}")
    blocks = -(-n // align)
    edges = [min(blocks * i // threads * align, n) for i in range(threads + 1)]
    parts = [part for part in pairwise(edges) if part[0] < part[1]]
    with ThreadPoolExecutor(max_workers=max(1, len(parts) - 1)) as others:
        started = [others.submit(work, *part) for part in parts[1:]]
        for part in parts[:1]:
            work(*part)
        for one in started:
            one.result()
