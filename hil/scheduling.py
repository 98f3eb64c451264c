"""Real-time scheduling of the twin, where it is wanted and permitted; otherwise a plain warning, and the run goes on.

It is in force only while the clock runs. Everything is asked of the kernel by thread, so it reaches what is on the
twin's path and nothing else: the loop, and the threads in which ZeroMQ sends and receives for it. Controllers are
never touched but for one thing: where the twin has processors of its own, they get the others.

ZeroMQ could set its threads itself, by context options before the first socket, but where that is not permitted it
ends the process. So they are found by name once they run.

A real-time thread that never sleeps takes its processor from everybody. So FIFO needs a slot that leaves time to sleep,
and the kernel's own throttling or a processor left to others; and children do not inherit it.
"""

import contextlib
import ctypes
import gc
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hil.clock import SPIN_NS
from twin.scenario import Scheduling
from twin.units import NS_PER_S

THREADS = Path("/proc/self/task")
THROTTLE = Path("/proc/sys/kernel/sched_rt_runtime_us")
OURS = "ZMQbg/"  # how libzmq names its threads
MCL_CURRENT = 1  # not MCL_FUTURE: with a limit, an allocation in the loop would fail where now it only takes longer
MARGIN = 2.0  # a collection needs so much more time than the longest one yet
YOUNG = 1_000  # container objects made since the last collection before one is worth it
MANY = 10_000  # the same while an answer is awaited, which would be stamped later by as much
TOO_MANY = 200_000  # from here on it is done whether there is time or not: memory has an end


@dataclass
class System:
    """The kernel, as far as it is asked; tests hand in another."""

    set_policy: Callable[[int, int, int], None] = field(
        default=lambda thread, policy, priority: os.sched_setscheduler(thread, policy, os.sched_param(priority))
    )
    policy: Callable[[int], tuple[int, int]] = field(
        default=lambda thread: (os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority)
    )
    set_cpus: Callable[[int, Any], None] = os.sched_setaffinity
    cpus: Callable[[int], set[int]] = os.sched_getaffinity
    lock: Callable[[], None] = field(default=lambda: _mlock("mlockall", MCL_CURRENT))
    unlock: Callable[[], None] = field(default=lambda: _mlock("munlockall"))
    wire_threads: Callable[[], list[int]] = field(default=lambda: _wire_threads())
    throttle_us: Callable[[], int] = field(default=lambda: _throttle_us())


@contextlib.contextmanager
def in_force(
    wanted: Scheduling | None, slot_s: float, warn: Callable[[str], None], system: System | None = None
) -> Iterator[dict[str, Any]]:
    """Schedule this thread and ZeroMQ's as wanted, as far as that is permitted; as before at the end.

    slot_s  wall time of a slot, s: FIFO is refused where it leaves no time to sleep
    warn    told one line for each thing that is not permitted: what was asked, why not, what would permit it

    Yields what is in force, for the record's meta: {"fifo": 50, "cpus": [1], "lock_memory": True} or less.
    """
    system, found = system or System(), {}
    with contextlib.ExitStack() as after:
        if wanted is not None:
            threads = [0, *system.wire_threads()]
            asked: dict[str, Any] = {"cpus": wanted.cpus, "fifo": wanted.fifo, "lock_memory": wanted.lock_memory}
            steps: dict[str, Callable[[], None]] = {
                "cpus": lambda: _pin(system, threads, set(wanted.cpus or ()), after),
                "fifo": lambda: _fifo(system, threads, wanted.fifo or 0, slot_s, after),
                "lock_memory": lambda: _lock(system, after),
            }
            for name, step in steps.items():
                if not asked[name]:
                    continue
                try:
                    step()
                    found[name] = list(asked[name]) if name == "cpus" else asked[name]
                except OSError as error:
                    warn(f"scheduling.{name} = {asked[name]!r} is not in force: {_why(name, error)}")
        yield found


def permitted(wanted: Scheduling, system: System | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """What of it this process may have, and why not the rest; tried, and undone at once."""
    refused: list[str] = []
    with in_force(wanted, 1.0, refused.append, system) as found:
        pass
    return found, {line.partition(" ")[0].removeprefix("scheduling."): line.partition(": ")[2] for line in refused}


@contextlib.contextmanager
def elsewhere(wanted: Scheduling | None, system: System | None = None) -> Iterator[None]:
    """What is started meanwhile runs on the processors that the twin leaves to others; on all, where it leaves none."""
    system = system or System()
    cpus = system.cpus(0)
    others = cpus - set(wanted.cpus or () if wanted else ())
    if not others or others == cpus:
        yield
        return
    system.set_cpus(0, others)
    try:
        yield
    finally:
        system.set_cpus(0, cpus)


def _pin(system: System, threads: list[int], cpus: set[int], after: contextlib.ExitStack) -> None:
    have = system.cpus(0)
    if not cpus <= have:
        raise OSError(f"this process may run on {_listed(have)}, not on {_listed(cpus - have)}")
    for thread in threads:
        before = system.cpus(thread)
        system.set_cpus(thread, cpus)
        after.callback(_quietly, system.set_cpus, thread, before)


def _fifo(system: System, threads: list[int], priority: int, slot_s: float, after: contextlib.ExitStack) -> None:
    if slot_s * NS_PER_S < 2 * SPIN_NS:
        raise OSError(f"slots of {slot_s * 1e3:g} ms leave no time to sleep; a loop that never does stops the machine")
    if system.throttle_us() < 0 and len(system.cpus(0)) >= (os.cpu_count() or 1):
        raise OSError("the kernel's throttling of real-time threads is off; leave others a processor: scheduling.cpus")
    for thread in threads:
        policy, before = system.policy(thread)
        # the wire above the loop: on one processor, a spinning loop would wait for the answer it keeps from coming
        system.set_policy(thread, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, priority if thread == 0 else priority + 1)
        after.callback(_release, system, thread, policy, before)


def _release(system: System, thread: int, policy: int, priority: int) -> None:
    """Back to the policy of before; who has no capability may not take the mark off that children do not inherit."""
    for mark in (0, os.SCHED_RESET_ON_FORK):
        with contextlib.suppress(OSError):
            system.set_policy(thread, policy | mark, priority)
            return


def _lock(system: System, after: contextlib.ExitStack) -> None:
    system.lock()
    after.callback(_quietly, system.unlock)


def _quietly(undo: Callable[..., None], *what: Any) -> None:
    """Undo; of a thread that has ended meanwhile there is nothing to undo."""
    with contextlib.suppress(OSError):
        undo(*what)


def _why(name: str, error: OSError) -> str:
    """Why not, and what would permit it."""
    what = error.strerror or str(error)
    if error.errno is None:
        return what
    if name == "fifo":
        limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
        return (
            f"{what}; RLIMIT_RTPRIO is {limit} here. Permitted by CAP_SYS_NICE, or a line `USER - rtprio 60` in "
            f"/etc/security/limits.conf and a new login"
        )
    if name == "lock_memory":
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        return (
            f"{what}; RLIMIT_MEMLOCK is {'unlimited' if limit < 0 else f'{limit} bytes'} here. Permitted by "
            f"CAP_IPC_LOCK, or a line `USER - memlock unlimited` in /etc/security/limits.conf and a new login"
        )
    return f"{what}; the processors a process may use are set by taskset, a container or a cpuset"


def _listed(cpus: set[int]) -> str:
    return "cpu " + ", ".join(map(str, sorted(cpus)))


def _mlock(call: str, *flags: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), call)(*flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _wire_threads() -> list[int]:
    found = []
    for task in THREADS.iterdir():
        with contextlib.suppress(OSError):
            if (task / "comm").read_text().startswith(OURS):
                found.append(int(task.name))
    return found


def _throttle_us() -> int:
    try:
        return int(THROTTLE.read_text())
    except (OSError, ValueError):
        return 0


class Collector:
    """Garbage collection off the path: never by itself, only when the loop has time for it. A context manager.

    longest_ns  what a collection took at most; None before the first
    """

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns, collect: Callable[[], Any] = gc.collect):
        self.longest_ns: int | None = None
        self._now_ns, self._collect = now_ns, collect
        self._before = False

    def __enter__(self) -> "Collector":
        self._before = gc.isenabled()
        gc.collect()
        gc.freeze()  # what was there before is never garbage: a collection in the loop need not look at it
        gc.disable()
        self._timed()
        return self

    def __exit__(self, *error: object) -> None:
        gc.unfreeze()
        if self._before:
            gc.enable()

    def collect_until(self, until_ns: int, worth: int = YOUNG) -> None:
        """Collect if so many new objects make it worth it and it is surely done by then, or when memory runs away."""
        young = gc.get_count()[0]
        if young < worth:
            return
        needed_ns = round(MARGIN * (self.longest_ns or 0))
        if young > TOO_MANY or self._now_ns() + needed_ns < until_ns:
            self._timed()

    def _timed(self) -> None:
        begin_ns = self._now_ns()
        self._collect()
        self.longest_ns = max(self.longest_ns or 0, self._now_ns() - begin_ns)
