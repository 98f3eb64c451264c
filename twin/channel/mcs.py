"""Modulation and coding: what a receiver gets through at an SNR, and the schemes of TS 38.214."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, eq=False)
class McsTable:
    """The schemes a rate is chosen from, weakest first; none at all stands for Shannon's rate.

    snr         (k,)  linear, from which on the scheme keeps its block error rate
    efficiency  (k,)  bit/s/Hz delivered by it, what is lost in wrong blocks taken off
    """

    snr: np.ndarray
    efficiency: np.ndarray

    @classmethod
    def empty(cls) -> "McsTable":
        return cls(np.zeros(0), np.zeros(0))

    def spectral_efficiency(self, snr: ArrayLike) -> np.ndarray:
        """bit/s/Hz at a linear SNR, any shape: of the best scheme within reach, 0 below the first."""
        snr = np.asarray(snr, dtype=float)
        if not len(self.snr):
            return np.log2(1.0 + snr)
        return np.concatenate([[0.0], self.efficiency])[np.searchsorted(self.snr, snr, side="right")]


def mcs_table(bler_target: float, gap_db: float) -> McsTable:
    raise NotImplementedError
