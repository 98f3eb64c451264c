"""Real-time scheduling of the twin: what is asked of the kernel, what is undone, what is said when it says no."""

import errno
import os
import time

import pytest
import toys
import zmq

import hil
from hil import scheduling
from hil.clock import SPIN_NS
from hil.scheduling import Collector, System, elsewhere, in_force, permitted
from twin.errors import ScenarioError
from twin.scenario import Scheduling

pytestmark = pytest.mark.usefixtures("no_child_left")

ALL = Scheduling(fifo=50, cpus=(1,), lock_memory=True)
FIFO = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
MS, S = 1_000_000, 1_000_000_000


class Kernel:
    """Remembers what it was asked; threads 0 (the loop), 71 and 72 (the wire); refuses what it is told to refuse."""

    def __init__(self, refuses=(), cpus=(0, 1), throttle_us=950_000, keeps_mark=False):
        self.policies = dict.fromkeys((0, 71, 72), (os.SCHED_OTHER, 0))
        self.affinity = {thread: set(cpus) for thread in (0, 71, 72)}
        self.locked, self.refuses, self.keeps_mark = False, refuses, keeps_mark
        self.system = System(
            set_policy=self.set_policy,
            policy=self.policies.__getitem__,
            set_cpus=self.set_cpus,
            cpus=lambda thread: set(self.affinity[thread]),
            lock=lambda: self.lock(True),
            unlock=lambda: self.lock(False),
            wire_threads=lambda: [71, 72],
            throttle_us=lambda: throttle_us,
        )
        self.before = self.state()

    def state(self):
        return dict(self.policies), {thread: set(cpus) for thread, cpus in self.affinity.items()}, self.locked

    def set_policy(self, thread, policy, priority):
        if "fifo" in self.refuses:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        if (
            self.keeps_mark
            and self.policies[thread][0] & os.SCHED_RESET_ON_FORK
            and not policy & os.SCHED_RESET_ON_FORK
        ):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        self.policies[thread] = (policy, priority)

    def set_cpus(self, thread, cpus):
        if "cpus" in self.refuses:
            raise OSError(errno.EINVAL, "Invalid argument")
        self.affinity[thread] = set(cpus)

    def lock(self, locked):
        if "lock_memory" in self.refuses:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        self.locked = locked


def entered(kernel, wanted=ALL, slot_s=0.001):
    """What is in force, what was said, and the kernel's state meanwhile."""
    said = []
    with in_force(wanted, slot_s, said.append, kernel.system) as found:
        return found, said, kernel.state()


def test_loop_and_wire_are_scheduled_and_all_of_it_is_undone():
    kernel = Kernel()
    found, said, (policies, affinity, locked) = entered(kernel)
    assert found == {"cpus": [1], "fifo": 50, "lock_memory": True}
    assert said == []
    assert policies == {0: (FIFO, 50), 71: (FIFO, 51), 72: (FIFO, 51)}
    assert affinity == {0: {1}, 71: {1}, 72: {1}}
    assert locked
    assert kernel.state() == kernel.before


def test_everything_is_undone_when_the_run_breaks():
    kernel = Kernel()
    with pytest.raises(ZeroDivisionError), in_force(ALL, 0.001, print, kernel.system):
        raise ZeroDivisionError
    assert kernel.state() == kernel.before


def test_nothing_is_asked_where_nothing_is_wanted():
    kernel = Kernel(refuses=("fifo", "cpus", "lock_memory"))
    assert entered(kernel, None)[:2] == ({}, [])
    assert entered(kernel, Scheduling())[:2] == ({}, [])


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        ("fifo", ("scheduling.fifo = 50 is not in force", "not permitted", "RLIMIT_RTPRIO", "CAP_SYS_NICE", "rtprio")),
        ("cpus", ("scheduling.cpus = (1,) is not in force", "Invalid argument", "taskset")),
        ("lock_memory", ("scheduling.lock_memory = True is not in force", "RLIMIT_MEMLOCK", "CAP_IPC_LOCK", "memlock")),
    ],
)
def test_what_is_not_permitted_is_one_plain_line_and_the_rest_is_in_force(refused, words):
    kernel = Kernel(refuses=(refused,))
    found, said, _ = entered(kernel)
    assert set(found) == {"fifo", "cpus", "lock_memory"} - {refused}
    assert len(said) == 1
    assert "\n" not in said[0]
    for word in words:
        assert word in said[0]
    assert kernel.state() == kernel.before


def test_processors_that_are_not_there_are_named():
    _, said, _ = entered(Kernel(cpus=(0,)), Scheduling(cpus=(1,)))
    assert said == ["scheduling.cpus = (1,) is not in force: this process may run on cpu 0, not on cpu 1"]


def test_no_fifo_where_a_slot_leaves_no_time_to_sleep():
    shortest_s = 2 * SPIN_NS / S
    assert entered(Kernel(), Scheduling(fifo=50), shortest_s)[0] == {"fifo": 50}
    found, said, _ = entered(Kernel(), Scheduling(fifo=50), 0.9 * shortest_s)
    assert found == {}
    assert "leave no time to sleep" in said[0]


def test_no_fifo_on_all_processors_of_a_kernel_that_does_not_throttle(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    found, said, _ = entered(Kernel(throttle_us=-1), Scheduling(fifo=50))
    assert found == {}
    assert "throttling of real-time threads is off" in said[0]
    assert entered(Kernel(throttle_us=-1), Scheduling(fifo=50, cpus=(1,)))[0] == {"cpus": [1], "fifo": 50}


def test_who_may_not_take_the_mark_off_still_leaves_real_time():
    kernel = Kernel(keeps_mark=True)
    entered(kernel, Scheduling(fifo=50))
    assert kernel.policies == dict.fromkeys((0, 71, 72), (os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, 0))


def test_permitted_is_tried_and_undone():
    kernel = Kernel(refuses=("fifo",))
    found, refused = permitted(ALL, kernel.system)
    assert found == {"cpus": [1], "lock_memory": True}
    assert list(refused) == ["fifo"]
    assert "CAP_SYS_NICE" in refused["fifo"]
    assert kernel.state() == kernel.before


@pytest.mark.parametrize(
    ("wanted", "cpus", "others"),
    [(ALL, (0, 1), {0}), (ALL, (1,), {1}), (Scheduling(fifo=5), (0, 1), {0, 1}), (None, (0, 1), {0, 1})],
    ids=["the others", "none is left", "none is kept", "nothing wanted"],
)
def test_controllers_get_the_other_processors(wanted, cpus, others):
    kernel = Kernel(cpus=cpus)
    with elsewhere(wanted, kernel.system):
        assert kernel.affinity[0] == others
    assert kernel.state() == kernel.before


# garbage


class Ticking:
    """A clock that a collection moves by 2 ms."""

    def __init__(self):
        self.ns = self.collections = 0

    def collect(self):
        self.ns += 2 * MS
        self.collections += 1


def collector(monkeypatch, young):
    clock = Ticking()
    monkeypatch.setattr(scheduling.gc, "get_count", lambda: (young, 0, 0))
    return clock, Collector(lambda: clock.ns, clock.collect)


def test_garbage_is_collected_only_where_there_is_time_for_it(monkeypatch):
    clock, garbage = collector(monkeypatch, young=5_000)
    with garbage:  # the first collection tells how long one takes
        assert clock.collections == 1
        garbage.collect_until(clock.ns + 3 * MS)
        assert clock.collections == 1
        garbage.collect_until(clock.ns + 5 * MS)
        assert clock.collections == 2


def test_garbage_waits_for_a_wait_that_is_for_the_time_alone_unless_there_is_much(monkeypatch):
    clock, garbage = collector(monkeypatch, young=5_000)
    with garbage:
        garbage.collect_until(clock.ns + S, scheduling.MANY)
        assert clock.collections == 1
        monkeypatch.setattr(scheduling.gc, "get_count", lambda: (scheduling.MANY, 0, 0))
        garbage.collect_until(clock.ns + S, scheduling.MANY)
        assert clock.collections == 2


def test_garbage_is_left_where_there_is_little_and_not_where_memory_runs_away(monkeypatch):
    clock, garbage = collector(monkeypatch, young=10)
    with garbage:
        garbage.collect_until(clock.ns + S)
        assert clock.collections == 1
        monkeypatch.setattr(scheduling.gc, "get_count", lambda: (scheduling.TOO_MANY + 1, 0, 0))
        garbage.collect_until(clock.ns)
        assert clock.collections == 2


def test_garbage_is_python_s_own_business_before_and_after():
    assert scheduling.gc.isenabled()
    with Collector():
        assert not scheduling.gc.isenabled()
    assert scheduling.gc.isenabled()
    assert scheduling.gc.get_freeze_count() == 0


# scenario and run


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"fifo": 99}, r"scheduling\.fifo.*<= 90"),
        ({"cpus": []}, r"scheduling\.cpus"),
        ({"nice": 3}, r"scheduling\.nice is not a key"),
    ],
)
def test_scenario_names_a_wrong_key_of_scheduling(table, words):
    with pytest.raises(ScenarioError, match=words):
        toys.scenario(scheduling=table)


def test_run_goes_on_with_a_warning_and_the_record_says_what_was_in_force(tmp_path):
    nowhere = max(os.sched_getaffinity(0)) + 999
    scenario = toys.scenario(clock="realtime", scheduling={"cpus": [nowhere]})
    with pytest.warns(
        RuntimeWarning, match=rf"scheduling\.cpus = \({nowhere},\) is not in force: this process may run"
    ):
        record = hil.run(scenario, out=tmp_path / "run")
    assert record.meta["ended"] == "finished"
    assert record.meta["scheduling"] == {}


def test_lock_step_asks_for_nothing(tmp_path, recwarn):
    record = hil.run(toys.scenario(scheduling={"cpus": [10_000]}), clock="lockstep", out=tmp_path / "run")
    assert "scheduling" not in record.meta
    assert not [w for w in recwarn if "scheduling" in str(w.message)]


def test_threads_are_really_scheduled_where_that_is_permitted():
    wanted = Scheduling(fifo=1, cpus=(max(os.sched_getaffinity(0)),))
    if "fifo" not in permitted(wanted)[0]:
        pytest.skip("SCHED_FIFO is not permitted here")
    before = os.sched_getscheduler(0), os.sched_getaffinity(0)
    with in_force(wanted, 0.01, print):
        assert os.sched_getscheduler(0) == FIFO
        assert os.sched_getaffinity(0) == set(wanted.cpus)
        child = os.fork()
        if child == 0:
            os._exit(os.sched_getscheduler(0))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == os.SCHED_OTHER
    assert (os.sched_getscheduler(0), os.sched_getaffinity(0)) == before


def test_threads_of_the_wire_are_found_by_name():
    context = zmq.Context()
    with context.socket(zmq.DEALER) as socket:
        socket.connect("tcp://127.0.0.1:9")  # nobody; the threads are there with the first socket
        until = time.monotonic() + 5.0
        while not scheduling._wire_threads():  # each gives itself its name
            assert time.monotonic() < until
    context.destroy(linger=0)
