"""Random access: the slot against a plain version and closed forms, the conflict graph, and the sky above it."""

import tracemalloc
from itertools import pairwise
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from scipy import stats

from twin.channel import Link, draw_fading, path_gain
from twin.channel.large_scale import draw_los
from twin.channel.losses import los_probability
from twin.check import check_scenario, check_world
from twin.errors import ScenarioError
from twin.geometry import Pointing, Site, look
from twin.scenario import build, load
from twin.types import World
from twin.units import WGS84_RADIUS_M, from_db
from twin.visibility import site_array
from twin.worlds.access import (
    Access,
    Grid,
    Settings,
    balls,
    degrees,
    neighbours_of,
    on_grid,
    play,
    play_slots,
    sharing,
    within,
)
from twin.worlds.access_sky import Users, moved_los, rice_exceeds, scattered_sites, settle

FOUR_SIGMA = 4.0
SITE = Site(latitude_deg=43.5, longitude_deg=-80.5)


def on_the_grid(slots=200, agents=None, deadline_slots=2, **grid):
    settings = Settings(grid=Grid(**grid), deadline_slots=deadline_slots)
    return Access(settings, slots=slots, slot_s=0.1, folder=".", agents=agents)


def under_the_sky(slots=60, **keys):
    return build(load("access", {"slots": slots, "slot_s": 0.1, **keys}))


@pytest.fixture(scope="module")
def sky_world():
    return under_the_sky(slots=600)


def fly(world, seed, send, slots):
    """Play with send(rng, world) every slot; the measures and observations of each."""
    rng, seen = np.random.default_rng(9), []
    world.reset(seed)
    for _ in range(slots):
        told = world.observe("users")
        world.apply("users", {"send": send(rng, world)})
        seen.append((told, world.step()))
    return seen


def anything(rng, world):
    return rng.integers(0, world.n_places + 1, world.n_users)


def nothing(rng, world):
    return np.zeros(world.n_users, dtype=np.int64)


# The slot


def plain_slot(queue, send, instance, deadline, came, luck):
    """One slot, user by user, with queues as sets of slots left: (queues, delivered, expired, arrived)."""
    target = {}
    for i, left in enumerate(queue):
        if left and send[i] and instance.access_point[i, send[i] - 1] >= 0:
            target[i] = instance.access_point[i, send[i] - 1]
    after, delivered, expired = [], set(), set()
    for i, left in enumerate(queue):
        left = set(left)
        alone = i in target and list(target.values()).count(target[i]) == 1
        if alone and luck[i] < instance.success[i, send[i] - 1]:
            left.remove(min(left))
            delivered.add(i)
        if 1 in left:
            expired.add(i)
        left = {slots - 1 for slots in left if slots > 1}
        if came[i] < instance.arrival[i]:
            left.add(deadline)
        after.append(left)
    return after, delivered, expired


def bits(queues):
    return np.array([sum(1 << (slots - 1) for slots in left) for left in queues])


@pytest.mark.parametrize("kernel", [play, play.py_func], ids=["compiled", "plain"])
@pytest.mark.parametrize(("corners", "deadline"), [("interior", 2), ("all", 2), ("all", 1), ("interior", 3)])
def test_a_slot_is_that_of_the_plain_version(kernel, corners, deadline):
    instance, rng = on_grid(Grid(height=3, width=4, corners=corners)), np.random.default_rng(1)
    n = len(instance.arrival)
    queue, delivered = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.bool_)
    heard, queues = np.zeros(instance.n_access_points, dtype=np.int64), [set() for _ in range(n)]
    for _ in range(150):
        send, came, luck = rng.integers(0, 5, n), rng.random(n), rng.random(n)
        queues, through, _ = plain_slot(queues, send, instance, deadline, came, luck)
        kernel(
            queue, send, instance.access_point, instance.success, instance.arrival, deadline, came, luck, heard,
            delivered,
        )  # fmt: skip
        np.testing.assert_array_equal(queue, bits(queues))
        assert set(np.flatnonzero(delivered)) == through


@pytest.mark.parametrize("kernel", [play_slots, play_slots.py_func], ids=["compiled", "plain"])
def test_a_batch_of_slots_is_the_world_slot_by_slot_to_the_bit(kernel):
    world = on_the_grid()
    instance, n = world.instance, world.n_users
    send = np.random.default_rng(9).integers(0, 5, (60, n))
    queue, heard = np.zeros(n, dtype=np.int64), np.zeros(instance.n_access_points, dtype=np.int64)
    delivered, count = np.zeros(n, dtype=np.bool_), np.zeros((n, 3), dtype=np.int64)
    rng, totals = np.random.default_rng([5, 1]), np.zeros(3)
    world.reset(5)
    for one in send:
        kernel(
            queue, one[None], instance.access_point, instance.success, instance.arrival, 2, rng, heard, delivered, count
        )
        world.apply("users", {"send": one})
        measured = world.step().measures
        totals += [measured[name] for name in ("arrived", "delivered", "expired")]
        seen = world.observe("users")
        np.testing.assert_array_equal(seen["queue"], queue)
        np.testing.assert_array_equal(seen["delivered"], delivered)
    np.testing.assert_array_equal(count.sum(axis=0), totals)
    assert totals[1] > 100


@pytest.mark.parametrize(("corners", "deadline"), [("interior", 2), ("all", 2), ("interior", 1), ("all", 5)])
def test_q6_what_arrived_was_delivered_or_expired_or_is_queued(corners, deadline):
    instance, rng = on_grid(Grid(corners=corners, instance=3)), np.random.default_rng(2)
    n = len(instance.arrival)
    queue, heard = np.zeros(n, dtype=np.int64), np.zeros(instance.n_access_points, dtype=np.int64)
    delivered, count = np.zeros(n, dtype=np.bool_), np.zeros((n, 3), dtype=np.int64)
    for _ in range(50):
        send = rng.integers(0, 5, (200, n))
        play_slots(
            queue, send, instance.access_point, instance.success, instance.arrival, deadline, rng, heard, delivered,
            count,
        )  # fmt: skip
        queued = (queue[:, None] >> np.arange(deadline) & 1).sum(axis=1)
        np.testing.assert_array_equal(count[:, 0], count[:, 1] + count[:, 2] + queued)
    assert (count > 0).all()


def test_q6_an_access_point_lets_one_through_in_a_slot_at_most_and_a_user_earns_0_or_1():
    world = on_the_grid(slots=2_000, success=1.0)
    for told, outcome in fly(world, 1, anything, 500):
        assert told["delivered"].dtype == bool
        assert outcome.reward["users"] == outcome.measures["delivered"] / world.n_users
        delivered, send = world.observe("users")["delivered"], world._send
        where = told["access_point"][np.flatnonzero(delivered), send[delivered] - 1]
        assert len(set(where.tolist())) == len(where)
        assert (where >= 0).all()


def test_q6_one_user_that_always_has_a_packet_and_always_succeeds_earns_1():
    world = on_the_grid(height=1, width=1, corners="all", arrival=1.0, success=1.0)
    rewards = [outcome.reward["users"] for _, outcome in fly(world, 1, lambda rng, w: np.ones(1, dtype=np.int64), 100)]
    assert rewards[0] == 0.0, "the first packet has yet to come"
    assert rewards[1:] == [1.0] * 99


def test_q6_two_users_that_always_send_to_the_same_access_point_earn_nothing():
    world = on_the_grid(height=1, width=2, corners="all", arrival=1.0, success=1.0)
    left_sends_right = np.array([2, 1])  # their two common corners: the left one's right side is the right one's left
    assert world.instance.access_point[0, 1] == world.instance.access_point[1, 0]
    seen = fly(world, 1, lambda rng, w: left_sends_right, 100)
    assert all(outcome.reward["users"] == 0.0 for _, outcome in seen)
    assert all(outcome.measures["collisions"] == 1 for _, outcome in seen[1:])


def test_q6_one_user_delivers_as_often_as_its_chain_of_queues_says():
    p, q, n_slots = 0.3, 0.6, 200_000
    law = np.zeros((4, 4))  # queues as bits; it always sends, which an empty queue makes silence
    for queue in range(4):
        for through, chance in ((1, q), (0, 1.0 - q)) if queue else ((0, 1.0),):
            left = queue & (queue - 1) if through else queue
            law[queue, left >> 1] += chance * (1.0 - p)
            law[queue, left >> 1 | 2] += chance * p
    stationary = np.linalg.matrix_power(law, 200)[0]
    expected = q * (1.0 - stationary[0])
    queue, heard, count = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), np.zeros((1, 3), dtype=np.int64)
    play_slots(
        queue, np.ones((n_slots, 1), dtype=np.int64), np.zeros((1, 1), dtype=np.int64), np.array([[q]]), np.array([p]),
        2, np.random.default_rng(4), heard, np.zeros(1, dtype=np.bool_), count,
    )  # fmt: skip
    assert abs(count[0, 1] / n_slots - expected) < FOUR_SIGMA * np.sqrt(expected / n_slots)


def test_an_empty_queue_and_a_place_without_access_point_are_silence():
    world = on_the_grid(corners="interior", arrival=0.0)
    assert all(o.measures["senders"] == 0 for _, o in fly(world, 1, lambda rng, w: np.full(25, 1), 20))
    world = on_the_grid(corners="interior", arrival=1.0)
    corner = 0  # its only access point stands at its first place
    only = np.zeros(25, dtype=np.int64)
    only[corner] = 2
    assert all(o.measures["senders"] == 0 for _, o in fly(world, 1, lambda rng, w: only, 20))


def test_what_comes_does_not_depend_on_who_sends():
    world = on_the_grid()
    silent, busy = (fly(world, 3, send, 100) for send in (nothing, anything))
    assert [o.measures["arrived"] for _, o in silent] == [o.measures["arrived"] for _, o in busy]
    assert sum(o.measures["delivered"] for _, o in busy) > 0


def test_levels_of_the_uniform_policy_are_those_of_the_specification():
    for corners, level in (("interior", 0.147), ("all", 0.185)):
        instance, rng, n = on_grid(Grid(corners=corners)), np.random.default_rng(8), 25
        send = (rng.random((100_000, n)) * (1 + (instance.access_point >= 0).sum(axis=1))).astype(np.int64)
        heard, count = np.zeros(instance.n_access_points, dtype=np.int64), np.zeros((n, 3), dtype=np.int64)
        play_slots(
            np.zeros(n, dtype=np.int64), send, instance.access_point, instance.success, instance.arrival, 2, rng, heard,
            np.zeros(n, dtype=np.bool_), count,
        )  # fmt: skip
        assert count[:, 1].sum() / send.size == pytest.approx(level, abs=0.001)


# Grid and graph


def test_users_of_the_interior_layout_have_one_two_or_four_access_points_and_their_neighbours_are_a_kings_moves():
    instance = on_grid(Grid())
    assert instance.n_access_points == 16
    n_points = (instance.access_point >= 0).sum(axis=1).reshape(5, 5)
    assert n_points[0].tolist() == [1, 2, 2, 2, 1]
    assert n_points[2].tolist() == [2, 4, 4, 4, 2]
    row, column = np.divmod(np.arange(25), 5)
    near = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column)) <= 1
    for corners in ("interior", "all"):
        neighbours = neighbours_of(on_grid(Grid(corners=corners)).access_point)
        assert neighbours.shape == (25, 9)
        for i in range(25):
            others = [j for j in np.flatnonzero(near[i]).tolist() if j != i]
            assert neighbours[i].tolist() == [i, *others] + [-1] * (8 - len(others))


def test_all_corners_make_36_access_points_four_for_everybody():
    instance = on_grid(Grid(corners="all"))
    assert instance.n_access_points == 36
    assert (instance.access_point >= 0).all()
    assert instance.access_point[7].tolist() == [8, 9, 14, 15]  # row 1, column 2, of six corners a row


def test_an_instance_draws_arrivals_first_and_then_the_access_points():
    rng = np.random.default_rng(2)
    arrival, of_point = rng.random(25), rng.random(16)
    instance = on_grid(Grid(instance=2))
    np.testing.assert_array_equal(instance.arrival, arrival)
    there = instance.access_point >= 0
    np.testing.assert_array_equal(instance.success[there], of_point[instance.access_point[there]])
    assert (instance.success[~there] == 0.0).all()


def plain_neighbours(lists):
    sets = [set(row[row >= 0].tolist()) for row in lists]
    return [[i, *(j for j in range(len(sets)) if j != i and sets[i] & sets[j])] for i in range(len(sets))]


def plain_ball(neighbours, i, hops):
    ball = {i}
    for _ in range(hops):
        ball |= {j for k in ball for j in neighbours[k]}
    return [i, *sorted(ball - {i})]


def rows(padded):
    return [row[row >= 0].tolist() for row in padded]


@pytest.mark.parametrize("compiled", [True, False])
def test_neighbours_and_balls_of_any_graph_are_those_of_the_plain_versions(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr("twin.worlds.access.sharing", sharing.py_func)
        monkeypatch.setattr("twin.worlds.access.within", within.py_func)
    rng = np.random.default_rng(3)
    for _ in range(20):
        lists = rng.integers(-1, 12, (rng.integers(1, 15), 3))
        plain, found = plain_neighbours(lists), neighbours_of(lists)
        assert rows(found) == plain
        assert degrees(lists).tolist() == [len(row) - 1 for row in plain]
        for hops in (0, 1, 2, 5):
            assert rows(balls(found, hops)) == [plain_ball(plain, i, hops) for i in range(len(lists))]


def test_who_has_no_access_point_is_alone_and_hops_below_zero_are_none():
    alone = neighbours_of(np.full((3, 2), -1))
    assert alone.tolist() == [[0], [1], [2]]
    with pytest.raises(ValueError, match="hops must be 0 or more, got -1"):
        balls(alone, -1)


# The contract


@pytest.mark.parametrize("corners", ["interior", "all"])
def test_the_grid_keeps_the_contract_of_a_world(corners):
    assert isinstance(on_the_grid(corners=corners), World)
    check_world(lambda: on_the_grid(corners=corners))


def test_the_sky_keeps_the_contract_of_a_world():
    check_world(under_the_sky)


def test_a_seat_has_the_delay_and_window_of_the_scenario_and_decides_in_every_slot():
    seat = on_the_grid(agents={"users": SimpleNamespace(every=None, delay=2, window=0.5)}).agents[0]
    assert (seat.every, seat.delay, seat.window) == (1, 2, 0.5)
    with pytest.raises(ScenarioError, match=r"agent.users.every must be 1, .* got 3"):
        on_the_grid(agents={"users": SimpleNamespace(every=3)})


def test_facts_tell_users_and_graph_but_not_what_is_to_be_learned():
    facts = on_the_grid().agents[0].facts
    assert int(facts["n_users"]) == 25
    assert int(facts["deadline_slots"]) == 2
    assert facts["neighbours"].shape == (25, 9)
    assert "arrival" not in facts


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"sky.tle": "tle/leo-2022-02-22.tle.xz", "sky.start_utc": "2022-02-22T13:00:00Z"}, "two places for the users"),
        ({"users.n": 9}, "users belongs to a sky: give the table sky too, or take users away"),
        ({"grid.height": 1}, "grid.height and grid.width must be 2 or more, or grid.corners 'all'"),
        ({"grid.size": 3}, "grid.size is not a key"),
        ({"deadline_slots": 0}, "deadline_slots"),
    ],
)
def test_errors_of_a_grid_say_what_to_do(keys, words):
    with pytest.raises(ScenarioError, match=words):
        build(load("access_grid", keys))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"link.los": "pass"}, "link.los: world access plays 'dwell' only, got 'pass'"),
        ({"link.k_factor_db": 40}, "link.k_factor_db: world access plays up to 25 dB, got 40"),
        ({"users.arrival": [0.5, 0.1]}, r"users.arrival is \(lowest, highest\)"),
        ({"slots": 90_000_000}, "h, more than 240 h"),
        ({"slots": 80_000, "slot_s": 10.0, "sky.name": ""}, "are more than fit in memory"),
        ({"sky.name": "NOBODY"}, "sky.name = 'NOBODY'"),
        ({"users.n": 20_000}, "users.n: 20000 users have up to 20000 neighbours each, .* users.radius_m"),
    ],
)
@pytest.mark.filterwarnings("ignore::twin.tle.TleWarning")
def test_errors_of_a_sky_say_what_to_do(keys, words):
    with pytest.raises(ScenarioError, match=words):
        build(load("access", keys))


def test_a_sky_without_a_site_is_an_error():
    settings = msgspec.structs.replace(load("access").settings, site=None)
    with pytest.raises(ScenarioError, match="sky needs the table site"):
        Access(settings, slots=10, slot_s=0.1, folder=".")


# The sky


def test_terminals_are_scattered_evenly_up_to_their_radius():
    users = Users(n=4_000, radius_m=1.5e6, arrival=(0.1, 0.3))
    sites, arrival = scattered_sites(users, SITE)
    middle = site_array(SITE.latitude_deg, SITE.longitude_deg).position_m[:, 0]
    chord = np.linalg.norm(sites.position_m - middle[:, None], axis=0)
    distance_m = 2.0 * WGS84_RADIUS_M * np.arcsin(chord / (2.0 * WGS84_RADIUS_M))
    half_a_percent = 0.005
    assert distance_m.max() < users.radius_m * (1.0 + half_a_percent)
    half_the_area_m = WGS84_RADIUS_M * np.arccos((1.0 + np.cos(users.radius_m / WGS84_RADIUS_M)) / 2.0)
    assert abs((distance_m < half_the_area_m).mean() - 0.5) < FOUR_SIGMA * 0.5 / np.sqrt(users.n) + half_a_percent
    assert 0.1 <= arrival.min() < arrival.max() < 0.3


def test_terminals_stand_where_they_stand_whatever_the_runs_seed(sky_world):
    sky_world.reset(1)
    one = sky_world.observe("users")
    sky_world.reset(2)
    other = sky_world.observe("users")
    np.testing.assert_array_equal(one["access_point"], other["access_point"])
    assert (one["success"] != other["success"]).any()


def test_access_points_are_the_satellites_above_the_mask_the_highest_where_there_are_more_than_places():
    world = under_the_sky(slots=300, **{"users.most": 2, "users.n": 12})
    sky, mask_deg = world._sky, 25.0
    fly(world, 1, nothing, 250)
    now = world.observe("users")["access_point"]
    full = 0
    for i in range(world.n_users):
        up = sky.sites.up[:, i]
        latitude_deg, longitude_deg = np.degrees(np.arcsin(up[2])), np.degrees(np.arctan2(up[1], up[0]))
        seen = look(sky.sky, latitude_deg=latitude_deg, longitude_deg=longitude_deg, altitude_m=330.0, t_s=25.0)
        above = set(np.flatnonzero(seen.elevation_deg >= mask_deg).tolist())
        listed = [point for point in now[i].tolist() if point >= 0]
        assert set(listed) <= above
        assert len(set(listed)) == len(listed) == min(2, len(above))
        np.testing.assert_allclose(sky.elevation_deg[i][now[i] >= 0], seen.elevation_deg[listed], atol=1e-5)
        full += len(above) > 2
    assert full > 0


@pytest.mark.parametrize("kernel", [settle, settle.py_func], ids=["compiled", "plain"])
def test_a_satellite_keeps_its_place_while_it_is_seen(kernel):
    lists, fresh = np.full((1, 2), -1, dtype=np.int64), np.zeros((1, 2), dtype=np.bool_)

    def sees(*pairs):
        index, elevation_deg = (
            (np.array(column) for column in zip(*pairs)) if pairs else (np.zeros(0, int), np.zeros(0))
        )
        kernel(lists, np.array([0, len(pairs)]), index.astype(np.int32), elevation_deg.astype(float), fresh)
        return lists[0].tolist(), fresh[0].tolist()

    assert sees((3, 40.0), (5, 60.0), (7, 30.0)) == ([5, 3], [True, True])
    assert sees((3, 35.0), (5, 50.0), (7, 80.0)) == ([5, 3], [False, False])
    assert sees((3, 30.0), (7, 85.0)) == ([7, 3], [True, False])
    assert sees((7, 80.0)) == ([7, -1], [False, False])
    assert sees() == ([-1, -1], [False, False])


def test_the_graph_changes_when_the_sky_is_looked_at_and_at_no_other_time(sky_world):
    seen = fly(sky_world, 1, anything, 600)
    changed = [
        i
        for i, ((a, _), (b, _)) in enumerate(pairwise(seen), start=1)
        if (a["access_point"] != b["access_point"]).any() or (a["success"] != b["success"]).any()
    ]
    assert changed == list(range(10, 600, 10))
    kept = [(a["access_point"] == b["access_point"]).mean() for (a, _), (b, _) in zip(seen, seen[10:])]
    assert 0.8 < min(kept) < 1.0, "a pass lasts some minutes: from second to second most places stay"
    assert len({outcome.measures["n_access_points"].item() for _, outcome in seen}) > 1


def test_under_the_sky_packets_are_conserved_and_draws_do_not_depend_on_who_sends(sky_world):
    silent, busy = (fly(sky_world, 4, send, 200) for send in (nothing, anything))
    for name in ("access_point", "success"):
        assert all((a[name] == b[name]).all() for (a, _), (b, _) in zip(silent, busy))
    total = {k: sum(o.measures[k] for _, o in busy) for k in ("arrived", "delivered", "expired")}
    assert total["arrived"] == sum(o.measures["arrived"] for _, o in silent)
    assert total["arrived"] == total["delivered"] + total["expired"] + busy[-1][1].measures["queued"]


def test_rice_exceeds_is_the_tail_of_rices_law_as_scipy_has_it():
    k_factor = from_db(np.linspace(-20.0, 25.0, 40))[:, None] * np.ones(50)
    needed = from_db(np.linspace(-30.0, 6.0, 50)) * np.ones((40, 1))
    found = rice_exceeds(needed.ravel(), k_factor.ravel()).reshape(needed.shape)
    expected = stats.ncx2.sf(2.0 * (1.0 + k_factor) * needed, 2, 2.0 * k_factor)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    np.testing.assert_allclose(rice_exceeds(needed[0], np.zeros(50)), np.exp(-needed[0]), rtol=1e-12)
    assert rice_exceeds(np.array([0.0, 1e4]), np.array([10.0, 10.0])).tolist() == pytest.approx([1.0, 0.0])


def test_success_is_how_often_the_channels_own_fading_leaves_the_snr_that_a_packet_needs():
    link = load("access").settings.link
    n = 20_000  # independent draws: a pass each of one row
    course = Pointing(*(np.full((n, *shape), 60.0) for shape in ((), (), (2,), (2,), ())))
    unrelated = msgspec.structs.replace(link, scatter_correlation=0.0)
    fading = draw_fading(np.random.default_rng(1), unrelated, course, 0.1)
    gain = path_gain(link, 7e5, 60.0, fading.los, 0.0)
    snr = gain * link.snr_per_gain * np.abs(fading.amplitude.sum(axis=1)) ** 2
    for los in (True, False):
        rows_of = fading.los == los
        mean = gain[rows_of][0] * link.snr_per_gain
        for needed in mean * from_db(np.array([-10.0, -3.0, 0.0])):
            k_factor = np.array([from_db(link.k_factor_db) if los else 0.0])
            expected = rice_exceeds(np.array([needed / mean]), k_factor)[0]
            found, count = (snr[rows_of] > needed).mean(), rows_of.sum()
            assert abs(found - expected) < FOUR_SIGMA * np.sqrt(0.25 / count)


def test_success_of_the_world_is_that_of_its_links(sky_world):
    fly(sky_world, 6, nothing, 300)
    sky, link = sky_world._sky, sky_world.settings.link
    there = sky.access_point >= 0
    assert (sky.success[~there] == 0.0).all()
    position_m = sky.sky.state(30.0)[0]
    needed = from_db(sky_world.settings.users.needed_snr_db)
    checked = {True: 0, False: 0}
    for i, k in np.argwhere(there):
        range_m = np.linalg.norm(position_m[sky.access_point[i, k]] - sky.sites.position_m[:, i])
        los = bool(sky.los[i, k])
        without_shadow = path_gain(link, range_m, sky.elevation_deg[i, k], los, 0.0) * link.snr_per_gain
        k_factor = np.array([from_db(link.k_factor_db) if los else 0.0])
        one_sided_db = 12.0 if los else 30.0  # three sigmas of suburban shadow fading, and more
        bounds = (rice_exceeds(needed / without_shadow * from_db(side * one_sided_db), k_factor)[0] for side in (1, -1))
        lowest, highest = bounds
        assert lowest <= sky.success[i, k] <= highest
        checked[los] += 1
    assert checked[True] > 10


def test_line_of_sight_moves_as_the_channels_chain_does():
    rng, n = np.random.default_rng(7), 300
    link, step_s = Link(), 1.0
    elevation_deg = np.linspace(25.0, 70.0, n)
    course = Pointing(elevation_deg, *(np.zeros((n, *shape)) for shape in ((), (2,), (2,), ())))
    expected = draw_los(np.random.default_rng(7), link, course, step_s)
    uniform = rng.random(n)
    probability = los_probability(elevation_deg, link.tables)
    los = np.zeros(1, dtype=bool)
    for i in range(n):
        one = slice(i, i + 1)
        los = moved_los(los, np.array([i == 0]), uniform[one], probability[one], step_s / link.nlos_dwell_s)
        assert los[0] == expected[i]
    assert 0 < expected.sum() < n


def test_many_users_take_no_array_of_users_times_users():
    world = under_the_sky(slots=40, **{"users.n": 4_000, "users.radius_m": 1e7, "users.most": 2})
    fly(world, 1, anything, 5)
    tracemalloc.start()
    for _ in range(15):  # with a look at the sky in them
        world.observe("users")
        world.apply("users", {"send": anything(np.random.default_rng(1), world)})
        world.step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    one_bit_each = world.n_users**2 / 8
    assert peak < one_bit_each


@pytest.mark.parametrize("name", ["access", "access_grid", "access_1000"])
def test_scenarios_that_ship_keep_the_contract(name):
    scenario = load(name, {"slots": 50, "agent.users.controller": "random"})
    check_world(lambda: build(scenario))
    check_scenario(scenario)
