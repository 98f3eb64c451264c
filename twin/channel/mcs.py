"""Modulation and coding: what a receiver gets through at an SNR, and the schemes of TS 38.214.

A scheme is a constellation and a code rate. How often a block of it fails follows from how much a received symbol tells
about the sent one, on average (the constellation's capacity) and in its scatter (its dispersion): the normal
approximation of finite-length codes. What a real decoder loses against such a code is `gap_db`.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from twin.units import from_db

SYMBOLS_PER_RB = 12 * 14  # subcarriers of a resource block, symbols of a slot; TS 38.211 4.3.2, 4.4.4.1
BLOCK_SYMBOLS = 8 * SYMBOLS_PER_RB  # a code block fills one group of 8 blocks: TS 38.214 table 5.1.2.2.1-1, 73 to 144
FEWEST_SYMBOLS = 100  # from where on the normal approximation is close, as its authors found
SEARCH_DB = (-30.0, 50.0)  # holds the threshold of every scheme at every block error rate a link may ask for


class Scheme(NamedTuple):
    """One row of a table: order bits in a symbol of a square constellation, `rate` of 1024 of them information."""

    order: int
    rate: float

    @property
    def efficiency(self) -> float:
        """Bits of information in a symbol, and so bit/s/Hz without overhead."""
        return self.order * self.rate / 1024.0


def _schemes(**rates: tuple[float, ...]) -> tuple[Scheme, ...]:
    order = {"qpsk": 2, "qam16": 4, "qam64": 6, "qam256": 8}
    return tuple(Scheme(order[name], rate) for name, row in rates.items() for rate in row)


SCHEMES = {  # TS 38.214 tables 5.1.3.1-1 to -3: up to 64QAM, up to 256QAM, and low spectral efficiency
    1: _schemes(
        qpsk=(120, 157, 193, 251, 308, 379, 449, 526, 602, 679),
        qam16=(340, 378, 434, 490, 553, 616, 658),
        qam64=(438, 466, 517, 567, 616, 666, 719, 772, 822, 873, 910, 948),
    ),
    2: _schemes(
        qpsk=(120, 193, 308, 449, 602),
        qam16=(378, 434, 490, 553, 616, 658),
        qam64=(466, 517, 567, 616, 666, 719, 772, 822, 873),
        qam256=(682.5, 711, 754, 797, 841, 885, 916.5, 948),
    ),
    3: _schemes(
        qpsk=(30, 40, 50, 64, 78, 99, 120, 157, 193, 251, 308, 379, 449, 526, 602),
        qam16=(340, 378, 434, 490, 553, 616),
        qam64=(438, 466, 517, 567, 616, 666, 719, 772),
    ),
}


@dataclass(frozen=True, eq=False)
class McsTable:
    """The schemes a rate is chosen from, weakest first; none at all stands for Shannon's rate.

    snr         (k,)  linear, from which on the scheme keeps its block error rate
    efficiency  (k,)  bit/s/Hz delivered by it, what is lost in wrong blocks taken off
    """

    snr: np.ndarray
    efficiency: np.ndarray

    @classmethod
    @lru_cache(maxsize=1)  # asked for in every slot
    def empty(cls) -> "McsTable":
        return cls(_kept([]), _kept([]))

    def spectral_efficiency(self, snr: ArrayLike) -> np.ndarray:
        """bit/s/Hz at a linear SNR, any shape: of the best scheme within reach, 0 below the first."""
        snr = np.asarray(snr, dtype=float)
        if not len(self.snr):
            return np.log2(1.0 + snr)
        return np.concatenate([[0.0], self.efficiency])[np.searchsorted(self.snr, snr, side="right")]


def information(snr: ArrayLike, order: int) -> tuple[np.ndarray, np.ndarray]:
    """What one received symbol tells about the sent one: mean (capacity) and variance (dispersion).

    snr    any shape  linear, at least 0
    order  ()         bits in a symbol of a square constellation whose points are equally likely: 2, 4, 6, 8;
                      0: the best symbols there are, log2(1 + snr) and (1 - (1 + snr)^-2) log2(e)^2

    Returns mean, bit, and variance, bit^2, both of the shape of snr.
    Source: Polyanskiy, Poor, Verdu, "Channel Coding Rate in the Finite Blocklength Regime", IEEE Trans. IT 56(5), 2010:
    their values of the Gaussian channel for two real dimensions; for a constellation the two moments of what they call
    information density. Checked by tests/channel/test_mcs.py::test_capacity_of_qpsk_is_the_published_shannon_limit.
    """
    snr = np.asarray(snr, dtype=float)
    if order == 0:
        return np.log2(1.0 + snr), (1.0 - (1.0 + snr) ** -2) * math.log2(math.e) ** 2
    # A square constellation is the same row of M points along two dimensions with independent noise. With noise z of
    # variance 1 beside the point x, two to the density is M over the sum of exp((z^2 - (z + s (x - x'))^2) / 2) for all
    # points x'. Those left of zero mirror those right of it.
    points = np.arange(1.0 - 2 ** (order // 2), 2 ** (order // 2), 2.0)
    points /= np.sqrt(np.mean(points**2))
    noise = np.linspace(-9.0, 9.0, 181)  # trapezoids converge geometrically on a function this smooth
    weight = np.exp(-(noise**2) / 2.0)
    weight /= weight.sum()
    apart = np.sqrt(snr)[..., None, None, None] * (points[len(points) // 2 :, None, None] - points)  # (..., x, 1, x')
    told = math.log2(len(points)) - np.log2(np.exp(-apart * (noise[:, None] + apart / 2.0)).sum(axis=-1))
    mean = (told @ weight).mean(axis=-1)
    return 2.0 * mean, 2.0 * np.maximum(((told - mean[..., None, None]) ** 2 @ weight).mean(axis=-1), 0.0)


def bler(snr: ArrayLike, scheme: Scheme, symbols: int = BLOCK_SYMBOLS) -> np.ndarray:
    """How often a block fails with the best code of its length: Q((n (C - R) + log2(n) / 2) / sqrt(n V)).

    snr      any shape  linear, at least 0
    scheme   R = scheme.efficiency bit a symbol; C and V are those of its constellation, so never above its order
    symbols  ()  n, at least 100: below, the approximation is not close

    Returns the shape of snr, 0 to 1. Raises ValueError for too few symbols.
    Source: as `information`; the log2(n) / 2 is their refinement. Checked by tests/channel/test_mcs.py.
    """
    if symbols < FEWEST_SYMBOLS:
        raise ValueError(f"symbols of a block must be {FEWEST_SYMBOLS} or more, got {symbols}")
    mean, variance = information(snr, scheme.order)
    surplus = symbols * (mean - scheme.efficiency) + math.log2(symbols) / 2.0
    with np.errstate(divide="ignore"):  # no scatter at all: certain to pass, or certain to fail
        return _tail(surplus / np.sqrt(symbols * variance))


def _tail(x: np.ndarray) -> np.ndarray:
    """Q(x): the probability that a standard Gaussian exceeds x."""
    return np.vectorize(lambda value: 0.5 * math.erfc(value / math.sqrt(2.0)), otypes=[float])(x)


@lru_cache(maxsize=4096)
def threshold_snr(scheme: Scheme, bler_target: float, symbols: int = BLOCK_SYMBOLS) -> float:
    """The SNR, linear, at which `bler` of a scheme is bler_target, to the last bits: found by halving."""
    low_db, high_db = SEARCH_DB
    for _ in range(60):
        middle_db = (low_db + high_db) / 2.0
        if bler(from_db(middle_db), scheme, symbols) > bler_target:
            low_db = middle_db
        else:
            high_db = middle_db
    return float(from_db(high_db))


@lru_cache(maxsize=64)
def mcs_table(bler_target: float, gap_db: float, symbols: int = BLOCK_SYMBOLS, table: int = 1) -> McsTable:
    """The schemes of TS 38.214 from which a rate is chosen, with the SNR each of them needs.

    bler_target  ()  0 to 1  the block error rate a scheme may have
    gap_db       ()  dB      what a receiver loses against the best code of that length: shifts every threshold
    symbols      ()          of a block
    table        ()          1: up to 64QAM; 2: up to 256QAM; 3: low spectral efficiency

    Returns thresholds and efficiencies, both growing: a scheme that needs more SNR than another and delivers no more is
    left out. Efficiency is (1 - bler_target) of the scheme's, what is delivered just at the threshold; above it fewer
    blocks fail, so it is a lower bound. Pilots and control are not taken off.
    Raises ValueError for a target outside 0 to 1 or a table that is not there.
    Source: TS 38.214 tables 5.1.3.1-1 to -3. Checked by tests/channel/test_mcs.py.
    """
    if not 0.0 < bler_target < 1.0:
        raise ValueError(f"bler_target must be between 0 and 1, got {bler_target}")
    if table not in SCHEMES:
        raise ValueError(f"table must be one of {sorted(SCHEMES)} (TS 38.214 table 5.1.3.1-N), got {table}")
    snr: list[float] = []
    efficiency: list[float] = []
    for needed, delivered in sorted((threshold_snr(s, bler_target, symbols), s.efficiency) for s in SCHEMES[table]):
        if not efficiency or delivered > efficiency[-1]:
            snr.append(needed)
            efficiency.append(delivered)
    return McsTable(_kept(snr, from_db(gap_db)), _kept(efficiency, 1.0 - bler_target))


def _kept(values: list[float], scale: ArrayLike = 1.0) -> np.ndarray:
    """Read-only, since tables are kept and given to everybody; the empty one too, or kernels would compile for both."""
    array = np.array(values, dtype=float) * scale
    array.flags.writeable = False
    return array
