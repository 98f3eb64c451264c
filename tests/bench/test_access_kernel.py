"""Slots per second of the random access, and how a slot's time grows with the users; for an idle machine."""

import time

import numpy as np
import pytest

from twin.scenario import build, load
from twin.worlds.access import Grid, on_grid, play_slots

pytestmark = pytest.mark.slow

SLOTS_PER_S = 1_000_000  # 25 users, one core
TIMES_NUMPY = 10.0
MORE_PER_USER = 1.3  # from 25 users to 100
BLOCKS = 101  # short ones, in turn: what disturbs one disturbs its neighbour


def numpy_slots(queue, send, access_point, success, arrival, deadline, rng, n_points):
    """A batch of slots, the users of each at once; the number of packets that got through."""
    n, total = len(queue), 0
    user = np.arange(n)
    for one in send:
        came, luck = rng.random(n), rng.random(n)
        place = np.maximum(one - 1, 0)
        point = np.where((one > 0) & (queue != 0), access_point[user, place], -1)
        heard = np.bincount(point[point >= 0], minlength=n_points)
        through = (point >= 0) & (heard[point] == 1) & (luck < success[user, place])
        queue[:] = np.where(through, queue & (queue - 1), queue) >> 1 | (came < arrival) << (deadline - 1)
        total += np.count_nonzero(through)
    return total


def ready(corners, side=5, n_slots=4_000):
    """What the kernel takes for a square of users, and actions."""
    instance, n = on_grid(Grid(height=side, width=side, corners=corners)), side * side
    given = instance.access_point, instance.success, instance.arrival, 2
    room = np.zeros(instance.n_access_points, dtype=np.int64), np.zeros(n, dtype=np.bool_)
    count, queue = np.zeros((n, 3), dtype=np.int64), np.zeros(n, dtype=np.int64)
    places = 1 + (instance.access_point >= 0).sum(axis=1)
    send = (np.random.default_rng(1).random((n_slots, n)) * places).astype(np.int64)
    return given, room, count, queue, send


@pytest.mark.parametrize("corners", ["interior", "all"])
def test_a_batch_of_slots_of_25_users_is_played_at_a_million_a_second_and_much_faster_than_numpy(corners):
    given, room, count, queue, send = ready(corners)
    play_slots(queue, send[:10], *given, np.random.default_rng(1), *room, count)
    rng, few, found = np.random.default_rng(1), send[:200], []
    plain_queue = np.zeros(25, dtype=np.int64)
    for _ in range(BLOCKS):
        begun = time.perf_counter()
        play_slots(queue, send, *given, rng, *room, count)
        middle = time.perf_counter()
        numpy_slots(plain_queue, few, *given, rng, len(room[0]))
        found.append((len(send) / (middle - begun), len(few) / (time.perf_counter() - middle)))
    kernel, plain = np.array(found).T
    ratio = kernel.max() / plain.max()  # of the quickest blocks: a median of NumPy's longer ones shows who else works
    print(
        f"{corners}: {np.median(kernel):,.0f} slots/s ({kernel.min():,.0f} to {kernel.max():,.0f}), NumPy "
        f"{np.median(plain):,.0f} ({plain.min():,.0f} to {plain.max():,.0f}), quickest blocks' ratio {ratio:.0f}"
    )
    assert np.median(kernel) >= SLOTS_PER_S
    assert ratio >= TIMES_NUMPY


def test_the_plain_version_plays_the_same_slots():
    given, room, count, queue, send = ready("interior")
    other = queue.copy()
    play_slots(queue, send[:2_000], *given, np.random.default_rng(3), *room, count)
    total = numpy_slots(other, send[:2_000], *given, np.random.default_rng(3), len(room[0]))
    np.testing.assert_array_equal(queue, other)
    assert total == count[:, 1].sum()


def test_q9_a_slot_of_the_kernel_takes_the_same_for_each_user_of_25_and_of_100():
    sides, took = (5, 10), []
    prepared = [ready("interior", side, 100_000 // side**2) for side in sides]
    for _ in range(BLOCKS):
        for given, room, count, queue, send in prepared:
            begun = time.perf_counter()
            play_slots(queue, send, *given, np.random.default_rng(1), *room, count)
            took.append((time.perf_counter() - begun) / send.size)
    few, many = np.min(np.reshape(took, (BLOCKS, 2)), axis=0)
    print(f"per user and slot: {1e9 * few:.1f} ns with {sides[0] ** 2} users, {1e9 * many:.1f} ns with {sides[1] ** 2}")
    assert many / few <= MORE_PER_USER


def test_a_slot_of_the_world_grows_at_most_linearly_with_its_users():
    sizes = (25, 100, 1_000)
    worlds = [build(load("access_1000", {"users.n": n})) for n in sizes]
    rng = np.random.default_rng(2)
    for world in worlds:
        world.reset(1)
    took = np.empty((15, len(worlds)))
    for block in range(len(took)):
        for j, world in enumerate(worlds):
            begun = time.perf_counter()
            for _ in range(100):  # with two looks at the sky in them
                world.observe("users")
                world.apply("users", {"send": rng.integers(0, world.n_places + 1, world.n_users)})
                world.step()
            took[block, j] = (time.perf_counter() - begun) / 100
    per_slot = np.median(took, axis=0)
    print(", ".join(f"{n} users: {1e6 * t:.0f} us a slot" for n, t in zip(sizes, per_slot)))
    assert per_slot[2] / per_slot[0] <= sizes[2] / sizes[0]
    assert per_slot[2] / per_slot[1] <= 1.3 * sizes[2] / sizes[1]
