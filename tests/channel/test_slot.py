"""The kernels of a slot, against matrices built and multiplied as the equations print them."""

import numpy as np
import plain
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.runtime import _nrt_python, rtsys

from twin.channel import Link, draw_fading, fading, large_scale, slot, slot_link
from twin.channel.arrays import aperture_factor, direction_cosines
from twin.channel.fading import stacked
from twin.channel.slot import block_response, block_snr, group_rates
from twin.channel.turns import sincos_half_turns

OF_THE_PEAK = 1e-10
sides = st.tuples(st.integers(1, 9), st.integers(1, 9))


def case(seed=0, n=3, n_paths=4, common=False, **settings):
    rng = np.random.default_rng(seed)
    link = Link(**{"tx_antennas": (4, 3), "rx_antennas": (2, 5), "n_rb": 20, "n_groups": 4} | settings)
    fading = plain.random_fading(rng, n, n_paths, common)
    return link, fading, rng.uniform(20.0, 160.0, (n, 2)), rng.uniform(20.0, 160.0, (n, 2))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), tx=sides, rx=sides, n_paths=st.integers(1, 12), n_rb=st.integers(1, 70),
    common=st.booleans(), spacing_hz=st.sampled_from([0.0, 1.0e4, 3.3e6]),
)  # fmt: skip
def test_response_is_that_of_the_full_matrix(seed, tx, rx, n_paths, n_rb, common, spacing_hz):
    given = {"tx_antennas": tx, "rx_antennas": rx, "n_rb": n_rb, "n_groups": 1, "rb_spacing_hz": spacing_hz}
    link, fading, tx_deg, rx_deg = case(seed, 2, n_paths, common, **given)
    ours = block_response(link, fading, tx_deg, rx_deg)
    for row in range(2):
        expected = plain.response(link, fading, row, tx_deg[row], rx_deg[row])
        peak = np.abs(fading.amplitude[row]).sum()  # what aligned beams could make of these paths
        assert np.abs(ours[row] - expected).max() < OF_THE_PEAK * peak


@pytest.mark.parametrize("common", [True, False])
@pytest.mark.parametrize("sides", [("tx",), ("rx",), ("tx", "rx")])
def test_dishes_weigh_each_path_with_their_signed_field(sides, common):
    dishes = {f"{side}_aperture_m": 0.1 for side in sides} | {f"{side}_antennas": (1, 1) for side in sides}
    link, fading, tx_deg, rx_deg = case(5, 2, 6, common, **dishes)

    def factor(ka, antennas, beam_deg, way):
        if ka:
            return aperture_factor(ka, *direction_cosines(beam_deg), *way)
        return np.vdot(plain.beam(beam_deg, antennas), plain.panel(way, antennas))

    ours = block_response(link, fading, tx_deg, rx_deg)
    for row in range(2):
        expected = np.zeros(link.n_rb, complex)
        for path in range(6):
            leaving = fading.departure[row, 0 if common else path]
            sent = np.conj(factor(link.tx_ka, link.tx_antennas, tx_deg[row], leaving))
            heard = factor(link.rx_ka, link.rx_antennas, rx_deg[row], fading.arrival[row, path])
            turn = np.exp(-2j * np.pi * link.rb_step_hz * np.arange(link.n_rb) * fading.delay_s[row, path])
            expected += fading.amplitude[row, path] * sent * heard * turn
        assert np.abs(ours[row] - expected).max() < OF_THE_PEAK * np.abs(fading.amplitude[row]).sum()


def test_snr_is_the_response_squared_times_the_budget():
    link, fading, tx_deg, rx_deg = case()
    gain = np.array([1e-16, 2e-15, 0.0])
    expected = link.snr_per_gain * gain[:, None] * np.abs(block_response(link, fading, tx_deg, rx_deg)) ** 2
    np.testing.assert_allclose(block_snr(link, fading, gain, tx_deg, rx_deg), expected, rtol=1e-12)


@pytest.mark.parametrize("rate", ["shannon"])
def test_groups_are_means_and_sums_over_blocks_and_samples(rate):
    link, fading, tx_deg, rx_deg = case(n=12, rate=rate)
    gain = np.linspace(1e-16, 1e-14, 12)
    per_block = block_snr(link, fading, gain, tx_deg, rx_deg)
    for samples in (1, 3, 4):
        snr, rate_bps = group_rates(link, fading, gain, tx_deg, rx_deg, samples=samples)
        apart = per_block.reshape(12 // samples, samples, link.n_groups, -1)
        np.testing.assert_allclose(snr, apart.mean(axis=(1, 3)), rtol=1e-12)
        expected = link.rb_bandwidth_hz / np.log(2.0) * np.log1p(apart).sum(axis=3).mean(axis=1)
        np.testing.assert_allclose(rate_bps, expected, rtol=1e-12)


def test_one_slot_is_a_row_of_the_whole_pass():
    link, fading, tx_deg, rx_deg = case(n=4)
    snr, rate_bps = group_rates(link, fading, 1e-15, tx_deg, rx_deg)
    for row in range(4):
        ours = slot_link(link, fading, row, 1e-15, tx_deg[row], rx_deg[row], [True, False, True, True])
        np.testing.assert_array_equal(ours[0], snr[row])
        np.testing.assert_array_equal(ours[1], rate_bps[row])
        H = plain.matrices(link, fading, row).reshape(link.n_groups, -1, 10, 12)[[0, 2, 3]].reshape(-1, 10, 12)
        expected = np.abs(H @ plain.beam(tx_deg[row], link.tx_antennas)).mean(axis=0)
        np.testing.assert_allclose(ours[2], expected, rtol=1e-10)


def test_a_common_departure_is_the_general_case_with_equal_ones():
    link, fading, tx_deg, rx_deg = case(n_paths=9, common=True)
    apart = type(fading)(**{**vars(fading), "departure": np.repeat(fading.departure, 9, axis=1)})
    ours, general = (block_response(link, each, tx_deg, rx_deg) for each in (fading, apart))
    assert np.abs(ours - general).max() < 1e-12 * np.abs(general).max()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads):
    link, fading, tx_deg, rx_deg = case(n=300)
    expected = block_snr(link, fading, 1e-15, tx_deg, rx_deg, threads=1)
    np.testing.assert_array_equal(block_snr(link, fading, 1e-15, tx_deg, rx_deg, threads=threads), expected)
    expected = group_rates(link, fading, 1e-15, tx_deg, rx_deg, samples=100, threads=1)
    ours = group_rates(link, fading, 1e-15, tx_deg, rx_deg, samples=100, threads=threads)
    np.testing.assert_array_equal(ours, expected)


def test_one_beam_for_all_rows_is_that_beam_in_every_row():
    link, fading, tx_deg, rx_deg = case()
    ours = block_response(link, fading, tx_deg[0], rx_deg[0])
    expected = block_response(link, fading, np.tile(tx_deg[0], (3, 1)), np.tile(rx_deg[0], (3, 1)))
    np.testing.assert_array_equal(ours, expected)


def test_links_of_many_worlds_are_one_batch():
    links = [
        case(seed, n=5, n_paths=n, common=common) for seed, n, common in ((1, 4, False), (2, 7, True), (3, 1, True))
    ]
    link, worlds = links[0][0], [fading for _, fading, _, _ in links]
    together = stacked(worlds)
    slots = np.array([4, 0, 2])
    tx_deg, rx_deg = links[0][2][:3], links[0][3][:3]
    ours = block_snr(link, together[np.arange(3) * 5 + slots], 1e-15, tx_deg, rx_deg)
    for k, world in enumerate(worlds):
        alone = block_snr(link, world, 1e-15, tx_deg[k], rx_deg[k])[slots[k]]
        np.testing.assert_allclose(ours[k], alone, rtol=1e-12)
    assert stacked(worlds[2:]).departure.shape == (5, 1, 2)
    with pytest.raises(ValueError, match="at least one"):
        stacked([])


def test_results_go_where_they_are_asked_to():
    link, fading, tx_deg, rx_deg = case()
    power, response = np.empty((3, 20)), np.empty((3, 20), complex)
    assert block_snr(link, fading, 1e-15, tx_deg, rx_deg, out=power) is power
    assert block_response(link, fading, tx_deg, rx_deg, out=response) is response
    for wrong in (np.empty((3, 21)), np.empty((3, 20), np.float32), np.empty((20, 3)).T):
        with pytest.raises(ValueError, match=r"out must be a writeable C-contiguous float64 array of shape \(3, 20\)"):
            block_snr(link, fading, 1e-15, tx_deg, rx_deg, out=wrong)


def test_shapes_that_do_not_fit_are_refused():
    link, fading, tx_deg, rx_deg = case()
    with pytest.raises(ValueError, match=r"beams must be of shape \(2,\) or \(3, 2\), theta and phi, got \(2, 2\)"):
        block_response(link, fading, tx_deg[:2], rx_deg)
    with pytest.raises(ValueError, match=r"gain must be of shape \(\) or \(3,\), one for a row, got \(2,\)"):
        block_snr(link, fading, np.ones(2), tx_deg, rx_deg)
    with pytest.raises(ValueError, match="whole number of 2 rows a slot, got 3"):
        group_rates(link, fading, 1e-15, tx_deg, rx_deg, samples=2)


@pytest.mark.parametrize(("row", "gain"), [(6, 1.0), (-1, 1.0), (4, np.ones(3)), (0, np.ones(0)), (0, np.ones((1, 1)))])
def test_rows_that_are_not_there_are_refused(row, gain):
    link, fading, tx_deg, rx_deg = case(n=6)
    with pytest.raises(ValueError, match=rf"rows of the fading, 0 to 5: got row {row} and gain of shape \("):
        slot_link(link, fading, row, gain, tx_deg[0], rx_deg[0], np.ones(4, bool))


@pytest.mark.parametrize("n", [3, 5])
def test_groups_that_are_not_there_are_refused(n):
    link, fading, tx_deg, rx_deg = case()
    with pytest.raises(ValueError, match=rf"used_group must be of shape \(4,\), bool, got \({n},\)"):
        slot_link(link, fading, 0, 1e-15, tx_deg[0], rx_deg[0], np.ones(n, bool))


@pytest.mark.parametrize(
    "wrong", [{"amplitude": (2, 4)}, {"arrival": (3, 2, 2)}, {"departure": (3, 2, 2)}, {"delay_s": (3, 5)}]
)
def test_paths_whose_arrays_do_not_fit_each_other_are_refused(wrong):
    link, fading, tx_deg, rx_deg = case()
    broken = type(fading)(**{**vars(fading), **{name: np.zeros(shape) for name, shape in wrong.items()}})
    with pytest.raises(ValueError, match=r"arrays must fit its 3 rows, got .*'departure': \(3, .*, 2\)"):
        block_snr(link, broken, 1e-15, tx_deg, rx_deg)


def test_paths_of_any_kind_are_taken_by_what_is_compiled():
    link, fading, tx_deg, rx_deg = case(n=6)
    used, kernels = [True] * 4, (slot.snr_kernel, slot.groups_kernel, slot.antenna_strength)

    def played(paths):
        return block_snr(link, paths, 1e-15, tx_deg[0], rx_deg[0]), *slot_link(
            link, paths, 2, 1e-15, tx_deg[0], rx_deg[0], used
        )

    expected = played(fading)
    compiled = [len(kernel.signatures) for kernel in kernels]
    fortran = {name: np.asfortranarray(array) for name, array in vars(fading).items()}
    frozen = {name: array.copy() for name, array in vars(fading).items()}
    for array in frozen.values():
        array.flags.writeable = False
    narrow = {"d": np.float32, "D": np.complex64}
    single = {name: array.astype(narrow.get(array.dtype.char, bool)) for name, array in vars(fading).items()}
    for paths, rtol in ((fortran, 0.0), (frozen, 0.0), (single, 1e-3)):
        for ours, theirs in zip(played(type(fading)(**paths)), expected):
            np.testing.assert_allclose(ours, theirs, rtol=rtol)
    np.testing.assert_array_equal(block_snr(link, fading[::2], 1e-15, tx_deg[0], rx_deg[0]), expected[0][::2])
    assert [len(kernel.signatures) for kernel in kernels] == compiled


@pytest.mark.parametrize("rate", ["shannon", "mcs"])
def test_what_is_not_a_number_has_no_rate(rate):
    link, fading, tx_deg, rx_deg = case(rate=rate)
    snr, rate_bps = group_rates(link, fading, [1e-12, np.nan, 0.0], tx_deg, rx_deg)
    assert np.isfinite(rate_bps[0]).all()
    assert np.isnan(snr[1]).all()
    assert np.isnan(rate_bps[1]).all()
    assert not rate_bps[2].any()


def test_kernels_allocate_nothing():
    link, fading, tx_deg, rx_deg = case(n=50)
    given = *slot.settings_of(link), tx_deg, rx_deg, *slot.paths_of(fading), np.ones(50)
    of_groups = *given[:9], *slot._schemes(link), *given[9:]
    work, out, groups, rates = slot.room(link, fading), np.empty((50, 20)), np.empty((50, 4)), np.empty((50, 4))

    def allocated(function, *arguments):
        function(*arguments)  # compiled
        before = rtsys.get_allocation_stats().alloc
        function(*arguments)
        return rtsys.get_allocation_stats().alloc - before

    _nrt_python.memsys_enable_stats()
    try:  # an array handed in counts as one: so many for no row, and no more for fifty
        of_none, of_all = (allocated(slot.snr_kernel, 0, n, 1, *given, work, out) for n in (0, 50))
        assert of_all == of_none
        of_none, of_all = (allocated(slot.groups_kernel, 0, n, 1, *of_groups, work, groups, rates) for n in (0, 50))
        assert of_all == of_none
        of_none, of_all = (allocated(large_scale.autoregression, np.zeros((n, 1)), np.zeros(n)) for n in (1, 50))
        assert of_all >= 2 + 1  # two arrays handed in, and a result: such things are noticed
    finally:
        _nrt_python.memsys_disable_stats()


def test_kernels_agree_with_their_python_source(monkeypatch):
    link, fading, tx_deg, rx_deg = case(n=2, n_paths=3, n_rb=18, n_groups=3)
    expected = block_response(link, fading, tx_deg, rx_deg, threads=1)
    rates = group_rates(link, fading, 1e-15, tx_deg, rx_deg, threads=1)
    snr = block_snr(link, fading, 1e-15, tx_deg, rx_deg, threads=1)
    strength = slot_link(link, fading, 0, 1e-15, tx_deg[0], rx_deg[0], [True, False, True])[2]
    for name in (
        "path_factors", "side_magnitude", "block_sums", "phases", "add_path", "row_sums",
        "response_kernel", "snr_kernel", "groups_kernel", "summed_efficiency", "antenna_strength", "sincos_half_turns",
    ):  # fmt: skip
        monkeypatch.setattr(slot, name, getattr(slot, name).py_func)
    plain_response = block_response(link, fading, tx_deg, rx_deg, threads=1)
    np.testing.assert_allclose(plain_response, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(block_snr(link, fading, 1e-15, tx_deg, rx_deg, threads=1), snr, rtol=1e-9)
    for ours, theirs in zip(group_rates(link, fading, 1e-15, tx_deg, rx_deg, threads=1), rates):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    ours = slot_link(link, fading, 0, 1e-15, tx_deg[0], rx_deg[0], [True, False, True])[2]
    np.testing.assert_allclose(ours, strength, rtol=1e-9)


def test_sine_and_cosine_of_half_turns_are_exact_at_quarters_and_close_elsewhere():
    x = np.random.default_rng(0).uniform(-40.0, 40.0, 2_000)
    ours = np.array([sincos_half_turns(value) for value in x])
    whole = np.round(x)
    rest = (x - whole) * np.pi  # exact difference: the library is then asked for small angles only
    expected = np.where(whole % 2 == 0, 1.0, -1.0)[:, None] * np.column_stack([np.sin(rest), np.cos(rest)])
    assert np.abs(ours - expected).max() < 5e-16
    assert sincos_half_turns(3.0) == (0.0, -1.0)
    assert sincos_half_turns(-2.0) == (0.0, 1.0)
    assert sincos_half_turns(1e6 + 0.5)[0] == pytest.approx(1.0, abs=1e-15)


def test_finer_samples_meet_the_coarser_ones():
    link = Link(n_rb=10)
    coarse = draw_fading(np.random.default_rng(4), link, plain.still(30), 0.1)
    fine = draw_fading(np.random.default_rng(4), link, plain.still(300), 0.1, samples=10)
    for name in ("los", "shadow_db", "amplitude", "arrival", "departure", "delay_s"):
        np.testing.assert_array_equal(getattr(fine, name)[::10], getattr(coarse, name))


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.95, 1.0])
def test_scattered_amplitudes_between_slots_keep_their_power_and_correlation(correlation):
    link = Link(n_paths=64, scatter_correlation=correlation, redraw_s=1e6)
    n, samples, lag = 400, 8, 3
    fine = draw_fading(np.random.default_rng(5), link, plain.still(n * samples, 90.0), 0.1, samples=samples)
    series = (
        fine.amplitude[:, 1:] / np.where(fine.los, np.sqrt(1.0 / 11.0), 1.0)[:, None] * np.sqrt(63 / link.array_gain)
    )
    of_lag = correlation ** (lag / samples)
    n_independent = 63 * max(1.0, n * (1.0 - correlation))
    power, kept = np.mean(np.abs(series) ** 2), np.mean(series[lag:] * series[:-lag].conj()).real
    assert abs(power - 1.0) < 5.0 * np.sqrt(2.0 / n_independent)
    assert abs(kept - of_lag) < 5.0 * np.sqrt(2.0 / n_independent)


def test_bridge_agrees_with_its_python_source():
    rng = np.random.default_rng(6)
    at_slots, noise = rng.standard_normal((4, 2)), rng.standard_normal((3, 5, 2))
    weights = np.linspace(1.0, 0.2, 5), np.linspace(0.0, 0.8, 5)
    ours, expected = np.zeros((2, 3, 5, 2))
    fading.bridge(0, 3, at_slots, *weights, 0.9, noise, ours)
    fading.bridge.py_func(0, 3, at_slots, *weights, 0.9, noise, expected)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(ours[:, 0], at_slots[:3])
