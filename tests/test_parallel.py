"""Work in several threads: who does what, and what happens when something goes wrong."""

import signal
import threading
import time

import pytest

from twin.parallel import default_threads, spread


@pytest.mark.parametrize("threads", [1, 2, 7, None])
@pytest.mark.parametrize(("align", "step"), [(1, None), (8, None), (1, 1), (1, 6), (1, 100)])
@pytest.mark.parametrize("n", [0, 1, 8, 50])
def test_every_part_is_done_once_and_begins_where_it_may(n, threads, align, step):
    done = []
    spread(lambda first, last: done.append((first, last)), n, threads, align, step)
    done.sort()
    assert [i for first, last in done for i in range(first, last)] == list(range(n))
    assert all(first % align == 0 and first < last for first, last in done)
    if step is None:
        assert len(done) <= (threads or default_threads())
    else:
        assert all(last - first == min(step, n - first) for first, last in done)


def test_less_than_one_thread_is_refused_even_for_nothing():
    with pytest.raises(ValueError, match="threads must be 1 or more, got 0"):
        spread(lambda first, last: None, 0, threads=0)


def test_what_one_raises_is_raised_and_ends_the_work_of_all():
    done = []

    def work(first, last):
        if first == 3:
            raise MemoryError("part 3")
        time.sleep(1e-4)
        done.append(first)

    with pytest.raises(MemoryError, match="part 3"):
        spread(work, 1000, threads=3, step=1)
    assert len(done) < 500


def test_ctrl_c_at_work_leaves_the_other_parts_undone():
    done = []

    def work(first, last):
        done.append(first)
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)
        time.sleep(1e-4)

    with pytest.raises(KeyboardInterrupt):
        spread(work, 10_000, threads=3, step=1)
    assert len(done) < 5_000


def test_ctrl_c_while_waiting_for_another_thread_is_raised_once_that_has_ended():
    begun, ended = threading.Event(), threading.Event()

    def work(first, last):
        if threading.current_thread() is threading.main_thread():
            begun.wait(10.0)
            return
        begun.set()
        time.sleep(0.05)  # the caller has come to wait
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.05)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        spread(work, 2, threads=2, step=1)
    assert ended.is_set()
