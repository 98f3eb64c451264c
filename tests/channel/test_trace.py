"""A trace of a link: what the world plays, and every part of it against the others."""

from dataclasses import fields

import msgspec
import numpy as np
import pytest

import twin
from twin.channel import trace as traces
from twin.channel.trace import link_trace
from twin.geometry import look_angles
from twin.orbit import Orbit
from twin.units import from_db, to_db

SLOTS = 60
BLOCKED = {"kind": "blockage", "start_s": 1.0, "duration_s": 2.0, "loss_db": 12.0}


def world_of(seed=7, **overrides):
    scenario = twin.load("baseline", {"slots": SLOTS, "faults": [BLOCKED], **overrides})
    world = twin.build(scenario)
    world.reset(seed)
    return world


@pytest.fixture(scope="module")
def world():
    return world_of()


@pytest.fixture(scope="module")
def trace(world):
    return world.link_trace(0)


def orbit_trace(world, seed=7, **options):
    service = world.services[0]
    keys = {"first": service.first, "end": service.end, "slot_s": world.slot_s}
    rng = np.random.default_rng([seed, 1, service.first])
    return link_trace(world.link, world.site, service.orbit, **(keys | {"rng": rng} | options))


def arrays_of(trace):
    found = {f.name: getattr(trace, f.name) for f in fields(trace)}
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)} | trace.loss_db


def test_trace_is_what_the_world_plays_slot_by_slot():
    world = world_of(seed=11)
    rng = np.random.default_rng(1)
    service = world.services[0]
    n = service.end - service.first
    tx_deg, rx_deg = (90.0 + rng.normal(0.0, 20.0, (n, 2)) for _ in range(2))
    trace = world.link_trace(0, tx_beam_deg=tx_deg, rx_beam_deg=rx_deg)
    every = np.ones(world.link.n_groups, bool)
    assert service.first == 0
    for slot in range(SLOTS):
        truth = world.truth()
        for name in ("los", "shadow_db", "amplitude", "arrival", "delay_s"):
            ours = trace.loss_db["shadow"] if name == "shadow_db" else getattr(trace, name)
            np.testing.assert_array_equal(ours[slot], getattr(truth.fading, name)[slot])
        assert trace.path_gain[slot] == truth.gain
        world.apply("leo", {"tx_beam_deg": tx_deg[slot], "reserved_rb": every})
        world.apply("ue", {"rx_beam_deg": rx_deg[slot], "used_rb": every})
        played = world.step().measures
        assert trace.rate_bps[slot] == pytest.approx(played["rate_bps"], rel=1e-12)
        of_groups = to_db(from_db(trace.snr_db[slot]).reshape(world.link.n_groups, -1).mean(axis=1))
        np.testing.assert_allclose(np.maximum(of_groups, -30.0), played["snr_db"], rtol=0.0, atol=1e-9)
        assert trace.elevation_deg[slot] == played["elevation_deg"]


def test_trace_has_the_samples_of_a_slot_that_the_world_plays():
    world = world_of(seed=11, **{"link.samples_per_slot": 3})
    trace = world.link_trace(0)
    world.slot = 15
    truth = world.truth()
    rows = slice(45, 48)
    np.testing.assert_array_equal(trace.amplitude[rows], truth.fading.amplitude[rows])
    np.testing.assert_array_equal(trace.arrival[rows], truth.fading.arrival[rows])
    np.testing.assert_array_equal(trace.path_gain[rows], truth.gain)


def test_same_seed_same_trace_another_seed_another_channel_over_the_same_way(world, trace):
    again, other = world.link_trace(0), orbit_trace(world, seed=8)
    for name, values in arrays_of(trace).items():
        np.testing.assert_array_equal(values, arrays_of(again)[name])
    assert not np.array_equal(other.snr_db, trace.snr_db)
    np.testing.assert_array_equal(other.doppler_hz, trace.doppler_hz)


def test_threads_change_nothing(world, trace):
    one, two = world.link_trace(0, threads=1), world.link_trace(0, threads=2)
    for name, values in arrays_of(one).items():
        np.testing.assert_array_equal(values, arrays_of(two)[name])


def test_losses_add_up_to_the_path_gain(trace):
    _, _, element_gain_dbi = trace.link._budget
    np.testing.assert_allclose(-to_db(trace.path_gain), trace.total_loss_db - 2.0 * element_gain_dbi, atol=1e-9)
    assert list(trace.loss_db) == ["free_space", "fixed", "rain", "clutter", "shadow", "fault"]
    blocked = (trace.t_s >= 1.0) & (trace.t_s < 3.0)
    np.testing.assert_allclose(trace.loss_db["fault"], np.where(blocked, 12.0, 0.0), atol=1e-12)
    assert ((trace.loss_db["clutter"] > 0.0) == ~trace.los).all()


def test_paths_add_up_to_the_blocks_and_these_to_the_snr(trace):
    link = trace.link
    turn = np.exp(-2j * np.pi * trace.frequency_hz * trace.delay_s[:, :, None])
    expected = np.einsum("np,npm->nm", trace.path_response, turn)
    scale = np.sqrt(link.array_gain)
    np.testing.assert_allclose(trace.block_response, expected, rtol=0.0, atol=1e-10 * scale)
    snr = link.snr_per_gain * trace.path_gain[:, None] * np.abs(trace.block_response) ** 2
    np.testing.assert_allclose(trace.snr_db, to_db(snr), rtol=0.0, atol=1e-6)
    rate_bps = link.rb_bandwidth_hz * np.log2(1.0 + snr).sum(axis=1)
    np.testing.assert_allclose(trace.rate_bps, rate_bps, rtol=1e-10)
    assert trace.block_response.shape == trace.snr_db.shape == (len(trace.t_s), link.n_rb)


def test_matched_beams_pass_the_direct_path_whole(trace):
    np.testing.assert_array_equal(trace.tx_beam_deg, trace.tx_direction_deg)
    np.testing.assert_allclose(trace.path_response[:, 0], trace.amplitude[:, 0], atol=1e-9 * 128.0)


def test_geometry_is_that_of_look(world, trace):
    orbit = world.services[0].orbit
    seen = look_angles(*orbit.state(trace.t_s), world.site, world.link.carrier_hz)
    for name in ("elevation_deg", "azimuth_deg", "slant_range_m", "propagation_delay_s", "doppler_hz"):
        np.testing.assert_allclose(getattr(trace, name), getattr(seen, name), rtol=1e-12, atol=1e-6)
    slope_hz_s = np.gradient(trace.doppler_hz, trace.t_s)[1:-1]
    np.testing.assert_allclose(trace.doppler_rate_hz_s[1:-1], slope_hz_s, rtol=0.0, atol=0.2)
    assert trace.utc[3] - trace.utc[0] == np.timedelta64(300, "ms")
    assert str(trace.utc[0]).startswith("2022-02-22T13:10:30.000")
    assert (trace.satellite, trace.number) == ("STARLINK-1102", 44920)


def test_finer_times_agree_with_the_slots_and_a_part_with_the_whole(world, trace):
    fine = world.link_trace(0, samples=4)
    part = world.link_trace(0, samples=4, part=(20, 30))
    for name, values in arrays_of(trace).items():
        np.testing.assert_allclose(arrays_of(fine)[name][::4], values, rtol=1e-12, atol=1e-9, err_msg=name)
        np.testing.assert_array_equal(arrays_of(part)[name], arrays_of(fine)[name][80:120], err_msg=name)
    assert fine.t_s[5] == pytest.approx(0.125)
    np.testing.assert_array_equal(part.loss_db["fault"] > 6.0, (part.t_s >= 1.0) & (part.t_s < 3.0))


def test_own_motion_is_in_the_doppler_shift(world, trace):
    moving = msgspec.structs.replace(world.link, speed_m_s=100.0, heading_deg=45.0)
    service = world.services[0]
    rng = np.random.default_rng(1)
    keys = {"first": service.first, "end": service.end, "slot_s": world.slot_s, "rng": rng}
    found = link_trace(moving, world.site, service.orbit, **keys)
    towards = np.cos(np.radians(trace.elevation_deg)) * np.cos(np.radians(trace.azimuth_deg - 45.0))
    expected_hz = 100.0 * towards * world.link.carrier_hz / 299_792_458.0
    np.testing.assert_allclose(found.doppler_hz - trace.doppler_hz, expected_hz, rtol=0.0, atol=1e-6)


def test_common_departure_is_written_out_for_every_path():
    world = world_of(**{"link.departure_spread_deg": 0.0})
    trace = world.link_trace(0)
    assert trace.departure.shape == trace.arrival.shape == (*trace.delay_s.shape, 2)
    np.testing.assert_array_equal(trace.departure[:, 0], trace.departure[:, -1])
    turn = np.exp(-2j * np.pi * trace.frequency_hz[-1] * trace.delay_s)
    last = (trace.path_response * turn).sum(axis=1)
    np.testing.assert_allclose(trace.block_response[:, -1], last, rtol=0.0, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"part": (10, 10)}, "expected slots within 0 to .* got 10 to 10"),
        ({"part": (0, 10**6)}, "expected slots within 0 to "),
        ({"samples": 0}, "samples 1 or more"),
        ({"slot_s": 0.0}, "slot_s must be more than 0, got 0"),
        ({"tx_beam_deg": [90.0, 90.0, 90.0]}, r"a beam must be of shape \(2,\) or"),
        ({"passed": [1.0, 2.0]}, "passed must be of shape"),
        ({"passed": 0.0}, "passed must be more than 0 and at most 1, got 0.0"),
        ({"passed": np.nan}, "passed must be more than 0 and at most 1, got nan"),
    ],
)
def test_what_cannot_be_traced_is_refused_by_name(world, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        orbit_trace(world, **options)


def test_a_satellite_behind_the_earth_has_no_link(world):
    far = twin.Site(latitude_deg=-43.5, longitude_deg=99.5)
    with pytest.raises(ValueError, match=r"above the horizon, got an elevation of -\d+\.\d deg"):
        link_trace(world.link, far, world.services[0].orbit, first=0, end=9, slot_s=0.1, rng=np.random.default_rng(1))


@pytest.mark.filterwarnings("error")
def test_more_than_memory_should_hold_is_refused_before_it_is_drawn(world, monkeypatch):
    monkeypatch.setattr(traces, "draw_fading", lambda rng, link, course, *rest: drawn(len(course.elevation_deg)))

    def drawn(n):
        assert n == 2  # to learn how many paths there are
        return type("Drawn", (), {"amplitude": np.zeros((n, 4))})

    with pytest.raises(ValueError, match=r"take 3.8 GiB, more than 2; take fewer samples, or a part of the pass$"):
        orbit_trace(world, samples=1000)
    with pytest.raises(ValueError, match=r"more than 2; take fewer samples$"):  # a part is drawn with the pass
        orbit_trace(world, samples=100_000, part=(0, 1))


def test_without_a_world_a_link_is_traced_over_any_orbit(world):
    sky = twin.ephemeris(world.sky.satellites[world.services[0].index : world.services[0].index + 1],
                         "2022-02-22T13:10:30Z", 60.0)  # fmt: skip
    rng = np.random.default_rng(5)
    found = link_trace(world.link, world.site, Orbit(sky, 0), first=0, end=30, slot_s=1.0, rng=rng)
    assert found.snr_db.shape == (30, 100)
    assert found.elevation_deg.min() > 30.0
