"""Schemes and what they need: against Shannon, published limits, a plain simulation and their own inversion."""

import math
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pytest

from twin.channel import Link
from twin.channel.mcs import BLOCK_SYMBOLS, SCHEMES, McsTable, bler, information, mcs_table, threshold_snr
from twin.units import from_db, to_db

SNR = from_db(np.linspace(-30.0, 50.0, 81))
EVERY_SCHEME = [scheme for table in SCHEMES.values() for scheme in table]
A_HUNDREDTH_OF_A_DB = 0.01
ROUNDED = 0.5e-4  # TS 38.214 prints four decimals


def test_tables_have_the_published_lengths_and_spectral_efficiencies():
    """First, last and the steps of order of TS 38.214 tables 5.1.3.1-1 to -3, as printed there."""
    assert [len(SCHEMES[n]) for n in (1, 2, 3)] == [29, 28, 29]
    printed = {
        1: {0: 0.2344, 3: 0.4902, 9: 1.3262, 10: 1.3281, 16: 2.5703, 17: 2.5664, 28: 5.5547},
        2: {0: 0.2344, 4: 1.1758, 5: 1.4766, 10: 2.5703, 11: 2.7305, 19: 5.1152, 20: 5.3320, 26: 7.1602, 27: 7.4063},
        3: {0: 0.0586, 5: 0.1934, 14: 1.1758, 15: 1.3281, 20: 2.4063, 21: 2.5664, 28: 4.5234},
    }
    for table, rows in printed.items():
        for index, efficiency in rows.items():
            assert SCHEMES[table][index].efficiency == pytest.approx(efficiency, abs=1.001 * ROUNDED)


def test_orders_of_a_table_grow_and_no_code_rate_reaches_one():
    for table in SCHEMES.values():
        assert list(table) == sorted(table, key=lambda scheme: scheme.order)
        assert all(0 < scheme.rate < 1024 for scheme in table)


@pytest.mark.parametrize("order", [2, 4, 6, 8])
def test_constellations_carry_less_than_shannon_and_at_most_their_order(order):
    mean, variance = information(SNR, order)
    assert (mean <= np.log2(1.0 + SNR) + 1e-12).all()
    assert (mean <= order + 1e-12).all()
    assert mean[-1] == pytest.approx(order)
    assert (np.diff(mean) >= 0.0).all()
    assert variance[0] == pytest.approx(2.0 * SNR[0] * math.log2(math.e) ** 2, rel=0.01)  # faint: as Gaussian ones
    assert variance[-1] == pytest.approx(0.0, abs=1e-9)


def test_capacity_of_qpsk_is_the_published_shannon_limit():
    """Rate 1/2 over binary antipodal signals needs E_b / N_0 = 0.187 dB, a constant of the coding literature."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if information(from_db(middle), 2)[0] < 1.0 else (low, middle)
    assert high == pytest.approx(0.187, abs=0.0005)


def test_moments_of_the_information_density_are_those_of_a_simulation():
    """16QAM at 9 dB, drawn symbol by symbol over the complex channel; within five standard errors."""
    rng, n, snr = np.random.default_rng(5), 200_000, float(from_db(9.0))
    levels = np.array([-3.0, -1.0, 1.0, 3.0]) / np.sqrt(10.0)
    points = (levels[:, None] + 1j * levels).ravel()
    sent = rng.choice(points, n)
    noise = (rng.standard_normal(n) + 1j * rng.standard_normal(n)) * np.sqrt(0.5 / snr)
    likelihood = np.exp(-snr * np.abs((sent + noise)[:, None] - points) ** 2)
    density = np.log2(np.exp(-snr * np.abs(noise) ** 2) / likelihood.mean(axis=1))
    mean, variance = information(snr, 4)
    assert density.mean() == pytest.approx(mean, abs=5.0 * density.std() / math.sqrt(n))
    spread = np.std((density - density.mean()) ** 2) / math.sqrt(n)
    assert density.var() == pytest.approx(variance, abs=5.0 * spread)


def test_gaussian_symbols_have_the_closed_form():
    mean, variance = information(SNR, 0)
    np.testing.assert_allclose(mean, np.log2(1.0 + SNR))
    assert variance[-1] == pytest.approx(math.log2(math.e) ** 2, rel=1e-4)
    # one complex use is two real ones of the same SNR: V = P (P + 2) / (2 (P + 1)^2) log2(e)^2 each
    real = SNR * (SNR + 2.0) / (2.0 * (SNR + 1.0) ** 2) * math.log2(math.e) ** 2
    np.testing.assert_allclose(variance, 2.0 * real, rtol=1e-6, atol=1e-12)


def test_bler_is_the_normal_approximation_turned_around():
    """The rate at which a block of 1,344 symbols fails once in a thousand, put back as a scheme."""
    snr, n, target = 2.0, 1344, 1e-3
    mean, variance = information(snr, 0)
    rate = mean - np.sqrt(variance / n) * NormalDist().inv_cdf(1.0 - target) + math.log2(n) / (2.0 * n)

    assert bler(snr, SimpleNamespace(order=0, efficiency=rate), n) == pytest.approx(target, rel=1e-9)


@pytest.mark.parametrize("symbols", [100, BLOCK_SYMBOLS, 20_000])
@pytest.mark.parametrize("table", sorted(SCHEMES))
def test_bler_falls_from_one_to_zero_as_snr_grows(table, symbols):
    for scheme in SCHEMES[table][::4]:
        failed = bler(SNR, scheme, symbols)
        assert (np.diff(failed) <= 0.0).all()
        assert failed[0] > 0.999
        assert failed[-1] == 0.0


def test_longer_blocks_need_less_snr_and_never_less_than_the_constellation_does():
    scheme = SCHEMES[1][12]
    needed = [threshold_snr(scheme, 0.1, n) for n in (100, 1_000, 10_000, 1_000_000)]
    assert needed == sorted(needed, reverse=True)
    assert information(needed[-1], scheme.order)[0] == pytest.approx(scheme.efficiency, rel=2e-3)


@pytest.mark.parametrize("target", [1e-6, 0.1, 0.5])
def test_thresholds_keep_their_block_error_rate_exactly(target):
    for scheme in EVERY_SCHEME[::5]:
        assert bler(threshold_snr(scheme, target), scheme) == pytest.approx(target, rel=1e-6)


@pytest.mark.parametrize("target", [1e-6, 1e-3, 0.1, 0.5])
@pytest.mark.parametrize("table", sorted(SCHEMES))
def test_thresholds_and_efficiencies_grow_together(table, target):
    found = mcs_table(target, 1.0, table=table)
    assert (np.diff(found.snr) > 0.0).all()
    assert (np.diff(found.efficiency) > 0.0).all()
    assert len(found.snr) >= len(SCHEMES[table]) - 2
    assert found.efficiency[-1] == pytest.approx((1.0 - target) * SCHEMES[table][-1].efficiency)


def test_a_scheme_is_left_out_where_another_delivers_more_for_less():
    """QPSK at 679/1024 and 16QAM at 340/1024 carry the same, and the larger constellation needs 0.3 dB less."""
    qpsk, qam16 = SCHEMES[1][9], SCHEMES[1][10]
    assert to_db(threshold_snr(qpsk, 0.1)) > to_db(threshold_snr(qam16, 0.1)) + 0.2
    kept = mcs_table(0.1, 0.0).efficiency / 0.9
    assert not np.isclose(kept, qpsk.efficiency, rtol=1e-6).any()
    assert np.isclose(kept, qam16.efficiency, rtol=1e-6).any()


def test_a_gap_shifts_every_threshold_by_itself():
    shift_db = to_db(mcs_table(0.1, 2.5).snr) - to_db(mcs_table(0.1, 0.0).snr)
    np.testing.assert_allclose(shift_db, 2.5, atol=A_HUNDREDTH_OF_A_DB)


@pytest.mark.parametrize("target", [1e-6, 0.1, 0.5])
@pytest.mark.parametrize("table", sorted(SCHEMES))
def test_what_is_delivered_never_exceeds_shannon(table, target):
    assert (mcs_table(target, 0.0, table=table).spectral_efficiency(SNR) <= np.log2(1.0 + SNR)).all()


def test_nothing_is_delivered_below_the_first_threshold_and_no_more_above_the_last():
    found = mcs_table(0.1, 1.0)
    np.testing.assert_array_equal(found.spectral_efficiency([0.0, 0.999 * found.snr[0]]), 0.0)
    assert found.spectral_efficiency(found.snr[0]) == found.efficiency[0]
    assert found.spectral_efficiency(1e9) == found.efficiency[-1]
    np.testing.assert_allclose(McsTable.empty().spectral_efficiency([1.0, 3.0]), [1.0, 2.0])


def test_a_link_with_mcs_carries_the_table_to_its_controllers():
    link = Link(rate="mcs", bler_target=0.01, mcs_gap_db=2.0)
    expected = mcs_table(0.01, 2.0)
    facts = link.facts()
    np.testing.assert_array_equal(facts["mcs_snr"], expected.snr)
    np.testing.assert_array_equal(facts["mcs_efficiency"], expected.efficiency)
    assert link.mcs is expected


def test_tables_cannot_be_written_to_and_the_empty_one_is_of_the_same_kind():
    """They are kept for everybody; and one kind of array means one compilation of the kernels that take it."""
    for table in (mcs_table(0.1, 1.0), McsTable.empty()):
        for array in (table.snr, table.efficiency):
            assert array.dtype == np.float64
            assert not array.flags.writeable


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: mcs_table(0.0, 1.0), "bler_target must be between 0 and 1, got 0.0"),
        (lambda: mcs_table(0.1, 1.0, table=4), r"table must be one of \[1, 2, 3\] .* got 4"),
        (lambda: mcs_table(0.1, 1.0, symbols=12), "symbols of a block must be 100 or more, got 12"),
    ],
)
def test_mistakes_are_named(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
