"""Random access with deadlines: users send packets to access points that they share, and who sends at once collides.

One seat, `users`, acts for all of them: the leading axis of every array is the user. A packet has `deadline_slots` to
get through. Users stand on a grid, with access points where their cells meet, or are terminals under the real sky
(twin/worlds/access_sky.py), whose access points are the satellites they see. Who shares an access point with whom is
the conflict graph; under the sky it changes with the passes.

A slot, in this order: every user stays silent or sends its earliest packet to one of its access points; an access point
that hears exactly one sender gets the packet with the probability of that link, and one that hears two or more gets
none; a packet that got through leaves its queue and earns 1; all deadlines come one slot nearer, and what had one slot
left is lost; a new packet comes with the user's probability of arrival, and has the whole deadline.

Model: arXiv 2006.06626, section 5 and appendix; what is ours is listed in docs/papers/access.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numba import njit

from twin.channel import Link
from twin.errors import ScenarioError
from twin.geometry import Site
from twin.types import Agent, Arrays, Field, Outcome
from twin.worlds.access_sky import SkyGraph, Users
from twin.worlds.seats import each_slot
from twin.worlds.sky import Sky

SEAT = "users"
MOST_NEIGHBOURS = 2**25  # users times the largest neighbourhood: 256 MB of facts


class Grid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scenario's table [grid]: users in the cells of a grid, access points on the corners of the cells."""

    height: Annotated[int, Meta(ge=1, le=1_000, description="rows of users")] = 5
    width: Annotated[int, Meta(ge=1, le=1_000, description="users in a row")] = 5
    corners: Annotated[
        Literal["interior", "all"],
        Meta(description="`interior`: an access point only where four cells meet; `all`: on the rim too"),
    ] = "interior"
    instance: Annotated[
        int, Meta(ge=0, description="seed of the probabilities of arrival and, after them, of success, uniform in 0..1")
    ] = 0
    arrival: (
        Annotated[float, Meta(ge=0, le=1, description="probability of arrival of every user; not set: as drawn")] | None
    ) = None
    success: (
        Annotated[
            float, Meta(ge=0, le=1, description="probability of success of every access point; not set: as drawn")
        ]
        | None
    ) = None


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tables and keys of a scenario that belong to this world: a grid, or a sky and what is under it."""

    grid: Grid | None = None
    sky: Sky | None = None
    site: Site | None = None
    link: Link | None = None
    users: Users | None = None
    deadline_slots: Annotated[int, Meta(ge=1, le=16, description="slots a packet has to get through")] = 2


@dataclass(frozen=True, eq=False)
class Instance:
    """What holds for n users in a slot.

    access_point     (n, K)  int64    number of the user's k-th access point; -1: none
    success          (n, K)  float64  probability that a lone sender gets through to it; 0 where none
    arrival          (n,)    float64  probability that a packet comes in a slot
    n_access_points  ()
    """

    access_point: np.ndarray
    success: np.ndarray
    arrival: np.ndarray
    n_access_points: int


def on_grid(grid: Grid) -> Instance:
    """Users in the cells of a grid, row by row, access points numbered row by row; see Grid.

    The probabilities are the first draws of numpy.random.default_rng(grid.instance): n of arrival, then of each access
    point. A user's access points stand in rising order in its first places.
    Raises ScenarioError where no access point is left. Checked by tests/test_access.py.
    """
    rim = 1 if grid.corners == "all" else 0
    rows, columns = grid.height - 1 + 2 * rim, grid.width - 1 + 2 * rim
    if rows < 1 or columns < 1:
        raise ScenarioError(
            f"grid.corners = 'interior' has an access point where four cells meet, and {grid.height} x {grid.width} "
            "cells have no such place: grid.height and grid.width must be 2 or more, or grid.corners 'all'"
        )
    n, n_access_points = grid.height * grid.width, rows * columns
    row, column = np.divmod(np.arange(n), grid.width)
    access_point = np.full((n, 4), -1, dtype=np.int64)
    for k, (down, right) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        r, c = row + down - 1 + rim, column + right - 1 + rim
        there = (r >= 0) & (r < rows) & (c >= 0) & (c < columns)
        access_point[:, k] = np.where(there, r * columns + c, -1)
    access_point = np.take_along_axis(access_point, np.argsort(access_point < 0, axis=1, kind="stable"), axis=1)
    rng = np.random.default_rng(grid.instance)
    arrival, of_point = rng.random(n), rng.random(n_access_points)
    if grid.arrival is not None:
        arrival[:] = grid.arrival
    if grid.success is not None:
        of_point[:] = grid.success
    success = np.where(access_point >= 0, of_point[access_point], 0.0)
    return Instance(access_point, success, arrival, n_access_points)


def neighbours_of(access_point: np.ndarray) -> np.ndarray:
    """Who shares an access point with whom: the conflict graph.

    access_point  (n, K)  number of the user's k-th access point; -1: none

    Returns (n, most) int64: the user itself, then its neighbours ascending, then -1. Memory and time go with the number
    of neighbours, not with n squared. Checked by tests/test_access.py.
    """
    return _rows_of(sharing, len(access_point), *_points(access_point))


def degrees(access_point: np.ndarray) -> np.ndarray:
    """How many others each user shares an access point with, (n,); access_point as in `neighbours_of`."""
    return _sizes(sharing, len(access_point), *_points(access_point)) - 1


def balls(neighbours: np.ndarray, hops: int) -> np.ndarray:
    """Who is at most so many hops away.

    neighbours  (n, most)  of `neighbours_of`
    hops        ()         0 or more; 1 gives the neighbours back

    Returns (n, most) int64: the user itself, then the others ascending, then -1. Raises ValueError for hops below 0.
    Checked by tests/test_access.py.
    """
    if hops < 0:
        raise ValueError(f"hops must be 0 or more, got {hops}")
    return _rows_of(within, len(neighbours), np.ascontiguousarray(neighbours, dtype=np.int64), hops)


def _points(access_point: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `sharing` takes: the lists, and the users of each access point, one point after the other."""
    points = np.ascontiguousarray(access_point, dtype=np.int64)
    user, place = np.nonzero(points >= 0)
    point = points[user, place]
    start = np.searchsorted(np.sort(point), np.arange(int(points.max(initial=-1)) + 2))
    return points, user[np.argsort(point, kind="stable")], start


def _sizes(kernel: Callable[..., None], n: int, *graph: Any) -> np.ndarray:
    size = np.zeros(n, dtype=np.int64)
    kernel(*graph, size, np.empty((n, 0), dtype=np.int64))
    return size


def _rows_of(kernel: Callable[..., None], n: int, *graph: Any) -> np.ndarray:
    """Sets of users as an array (n, most) padded with -1: counted first, so that nothing larger is ever held."""
    size = _sizes(kernel, n, *graph)
    rows = np.full((n, int(size.max(initial=1))), n, dtype=np.int64)
    kernel(*graph, size, rows)
    rows[:, 1:].sort(axis=1)
    rows[rows == n] = -1
    return rows


class Access:
    """The world; see the module. Satisfies twin.types.World.

    settings  the scenario's tables
    slots     length of the run
    slot_s    length of a slot, s
    folder    where a relative path starts
    agents    timing of the seat "users": an object with every (None or 1), delay, window

    Random draws of a run: each slot n uniforms for arrivals, then n for success, of default_rng([seed, 1]), whatever
    the users do. Raises ScenarioError for settings that cannot be played.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        slots: int,
        slot_s: float,
        folder: str | Path,
        agents: Mapping[str, Any] | None = None,
    ):
        self.settings, self.slots, self.slot_s = settings, slots, slot_s
        self.deadline = settings.deadline_slots
        timing = each_slot(agents, SEAT)
        self._sky = self._sky_of(folder)
        self.instance = on_grid(settings.grid or Grid()) if self._sky is None else self._under(self._sky)
        self.inputs = {} if self._sky is None else self._sky.inputs
        self.n_users, self.n_places = self.instance.access_point.shape
        self._check_crowd()
        facts = {
            "n_users": np.array(self.n_users),
            "deadline_slots": np.array(self.deadline),
            "neighbours": neighbours_of(self.instance.access_point),
            "default_send": np.zeros(self.n_users, dtype=np.int64),
        }
        if self._sky is not None:
            facts["satellite"] = self._sky.satellite
        self.agents = (
            Agent(
                name=SEAT,
                observes=self._observes(),
                acts=(Field("send", (self.n_users,), "int64", 0, self.n_places),),
                facts=facts,
                **timing,
            ),
        )
        self.reset(0)
        self.step()  # compiles the slot's kernel, or loads it: not when a clock is running
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin at slot 0 with empty queues."""
        self.slot, self._rng = 0, np.random.default_rng([seed, 1])
        if self._sky is not None:
            self._sky.reset(seed)
            self.instance = self._under(self._sky)
        self._measured = self._graph_measures()
        self._send = np.zeros(self.n_users, dtype=np.int64)
        self._queue = np.zeros(self.n_users, dtype=np.int64)
        self._delivered = np.zeros(self.n_users, dtype=np.bool_)
        self._heard = np.zeros(self.instance.n_access_points, dtype=np.int64)

    def default(self, agent: str) -> Arrays:
        """Everybody is silent."""
        return {"send": np.zeros(self.n_users, dtype=np.int64)}

    def propagation_delay_s(self, sender: str, receiver: str) -> float:
        """There is one seat: nothing flies."""
        return 0.0

    def observe(self, agent: str) -> Arrays:
        """The queues at the start of the slot, who got through in the last one, and the access points of this one."""
        return {
            "queue": self._queue.copy(),
            "delivered": self._delivered.copy(),
            "access_point": self.instance.access_point.copy(),
            "success": self.instance.success.copy(),
        }

    def apply(self, agent: str, action: Arrays) -> None:
        """Put into force to which access point each user sends."""
        self._send = np.array(action["send"], dtype=np.int64)

    def step(self) -> Outcome:
        """Play one slot."""
        now, before = self.instance, self._queue.copy()
        came, luck = self._rng.random(self.n_users), self._rng.random(self.n_users)
        play(
            self._queue, self._send, now.access_point, now.success, now.arrival, self.deadline, came, luck,
            self._heard, self._delivered,
        )  # fmt: skip
        measures = self._slot_measures(before)
        self.slot += 1
        if self._sky is not None and self.slot % self._sky.refresh_slots == 0:
            self._sky.look(self.slot)
            self.instance = self._under(self._sky)
            self._measured = self._graph_measures()
        return Outcome({SEAT: float(np.mean(self._delivered))}, measures, done=self.slot >= self.slots)

    def _slot_measures(self, before: np.ndarray) -> dict[str, np.ndarray]:
        """Packets and access points of the slot just played, as numbers with a point, of which a report takes means.

        before  (n,)  the queues at its start
        """
        counts = {
            "arrived": np.count_nonzero(self._queue >> (self.deadline - 1)),
            "delivered": np.count_nonzero(self._delivered),
            "expired": np.count_nonzero((before & 1 == 1) & ~self._delivered),
            "queued": (self._queue[:, None] >> np.arange(self.deadline) & 1).sum(),
            "senders": self._heard.sum(),
            "collisions": np.count_nonzero(self._heard > 1),
        }
        return {name: np.array(float(count)) for name, count in counts.items()} | self._measured

    def _graph_measures(self) -> dict[str, np.ndarray]:
        """What stands still while the graph does: access points that somebody has, neighbours and success."""
        now = self.instance
        there = now.access_point >= 0
        return {
            "n_access_points": np.array(float(len(np.unique(now.access_point[there])))),
            "mean_neighbours": np.array(float(np.mean(degrees(now.access_point)))),
            "mean_success": np.array(float(now.success[there].mean()) if there.any() else 0.0),
            "without_access": np.array(float(np.count_nonzero(~there.any(axis=1)))),
        }

    def _sky_of(self, folder: str | Path) -> SkyGraph | None:
        given = self.settings
        if given.sky is None:
            under = [key for key in ("site", "link", "users") if getattr(given, key) is not None]
            if under:
                raise ScenarioError(f"{under[0]} belongs to a sky: give the table sky too, or take {under[0]} away")
            return None
        if given.grid is not None:
            raise ScenarioError("grid and sky are two places for the users: give one of the two tables")
        if given.site is None:
            raise ScenarioError("sky needs the table site: the middle of where the users are")
        return SkyGraph(
            given.sky,
            given.site,
            given.link or Link(),
            given.users or Users(),
            slots=self.slots,
            slot_s=self.slot_s,
            folder=folder,
        )

    def _check_crowd(self) -> None:
        points = self.instance.access_point
        there = points >= 0
        users = np.bincount(points[there], minlength=1)
        most = min(self.n_users, int(np.where(there, users[points], 0).sum(axis=1).max()))  # who is met twice, twice
        if self.n_users * most > MOST_NEIGHBOURS:
            raise ScenarioError(
                f"users.n: {self.n_users} users have up to {most} neighbours each, users times neighbours must stay "
                f"below {MOST_NEIGHBOURS:.3g}: take fewer users, or scatter them wider with users.radius_m"
            )

    @staticmethod
    def _under(sky: SkyGraph) -> Instance:
        return Instance(sky.access_point.copy(), sky.success, sky.arrival, len(sky.satellite))

    def _observes(self) -> tuple[Field, ...]:
        of_places = (self.n_users, self.n_places)
        return (
            Field("queue", (self.n_users,), "int64", 0, 2**self.deadline - 1),
            Field("delivered", (self.n_users,), "bool"),
            Field("access_point", of_places, "int64", -1, self.instance.n_access_points - 1),
            Field("success", of_places, "float64", 0.0, 1.0),
        )


@njit(cache=True, nogil=True)
def play(queue, send, access_point, success, arrival, deadline, came, luck, heard, delivered):
    """Kernel: one slot, in place; see the module for its order.

    queue         (n,)    int64    bit m - 1: a packet with m slots left; changed
    send          (n,)    int64    0: silent; k: the earliest packet to the user's k-th access point
    access_point  (n, K)  int64    -1: none, and sending there is silence
    success       (n, K)  float64  probability that a lone sender gets through
    arrival       (n,)    float64  probability of a new packet
    deadline      ()      int      slots a new packet has
    came, luck    (n,)    float64  uniform in [0, 1): a packet comes, a lone sender gets through, if below
    heard         (n_access_points,)  int64  out: how many sent to each; one access point at least
    delivered     (n,)    bool     out: whose packet got through
    """
    for point in range(heard.shape[0]):
        heard[point] = 0
    # Who sends is as good as random, and a branch on it would be guessed wrongly half the time: so there is none.
    for i in range(queue.shape[0]):
        point = access_point[i, max(send[i] - 1, 0)]
        heard[max(point, 0)] += (send[i] > 0) & (queue[i] != 0) & (point >= 0)
    newest = 1 << (deadline - 1)
    for i in range(queue.shape[0]):
        place = max(send[i] - 1, 0)
        point = access_point[i, place]
        through = (send[i] > 0) & (queue[i] != 0) & (point >= 0) & (luck[i] < success[i, place])
        through &= heard[max(point, 0)] == 1
        delivered[i] = through
        left = queue[i] & (queue[i] - through)  # without the earliest packet, the lowest bit that is set, or as it was
        queue[i] = (left >> 1) | (newest if came[i] < arrival[i] else 0)


@njit(cache=True, nogil=True)
def play_slots(queue, send, access_point, success, arrival, deadline, rng, heard, delivered, count):
    """Kernel: a batch of slots with given actions.

    send   (n_slots, n)  int64
    rng    a numpy.random.Generator; each slot takes n uniforms for arrivals, then n for success, as the world does
    count  (n, 3)  int64  added to: packets that came, got through, and were lost

    The others as in `play`.
    """
    n = queue.shape[0]
    came, luck, due = np.empty(n), np.empty(n), np.empty(n, dtype=np.int64)
    for t in range(send.shape[0]):
        for i in range(n):
            came[i] = rng.random()
        for i in range(n):
            luck[i] = rng.random()
            due[i] = queue[i] & 1
        play(queue, send[t], access_point, success, arrival, deadline, came, luck, heard, delivered)
        for i in range(n):
            count[i, 0] += queue[i] >> (deadline - 1)
            count[i, 1] += delivered[i]
            count[i, 2] += due[i] & (1 - delivered[i])  # what is due is sent first: if anything got through, it did


@njit(cache=True, nogil=True)
def sharing(access_point, user, start, size, rows):
    """Kernel of `neighbours_of`: how many each user's are, size (n,), and where rows (n, .) has columns, who they are.

    user, start  the users of each access point, one access point after the other, and where each begins
    """
    n = access_point.shape[0]
    mark = np.full(n, -1)
    for i in range(n):
        mark[i], size[i] = i, 1
        if rows.shape[1]:
            rows[i, 0] = i
        for k in range(access_point.shape[1]):
            point = access_point[i, k]
            if point < 0:
                continue
            for q in range(start[point], start[point + 1]):
                if mark[user[q]] != i:
                    mark[user[q]] = i
                    if rows.shape[1]:
                        rows[i, size[i]] = user[q]
                    size[i] += 1


@njit(cache=True, nogil=True)
def within(neighbours, hops, size, rows):
    """Kernel of `balls`: as `sharing`."""
    n = neighbours.shape[0]
    mark, members = np.full(n, -1), np.empty(n, dtype=np.int64)
    for i in range(n):
        mark[i], members[0] = i, i
        first, found = 0, 1
        for _ in range(hops):
            last = found
            for q in range(first, last):
                for k in range(neighbours.shape[1]):
                    j = neighbours[members[q], k]
                    if j >= 0 and mark[j] != i:
                        mark[j], members[found] = i, j
                        found += 1
            first = last
        size[i] = found
        for q in range(min(found, rows.shape[1])):
            rows[i, q] = members[q]
